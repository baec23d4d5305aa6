//! Does the runtime keep its promises whatever happens, and in whatever order? Thousands of small histories, each from a
//! seed.
//!
//! ```sh
//! cargo test --release -p tiltyard-runtime --test simulation                      # some thousand, as everywhere
//! cargo test --release -p tiltyard-runtime --test simulation -- --runs 100000     # the long form
//! cargo test --release -p tiltyard-runtime --test simulation -- --seed 7          # one again, step by step
//! ```
//!
//! Queue, pool, timer, turns, joins, sessions, replies and the freeing of what is retired are the real ones, each driven by
//! a step at a time. A history is made of arrivals, cancellations, swaps, drains and shutdown among workers, event loops,
//! a clock and an engine that do what the seed says. `world.rs` watches what is promised.
#![allow(clippy::print_stdout, reason = "it reports as a test does")]

mod actors;
mod engine;
mod random;
mod scene;
mod world;

use std::process::ExitCode;
use std::time::Instant;

use crate::scene::Cast;
use crate::world::Figures;

/// Histories of the short form.
const RUNS: u64 = 3_000;

/// What the command line asks for.
struct Wanted {
    first: u64,
    runs: u64,
    tells: bool,
}

/// Reads the command line: `--seed N`, `--runs N`, `--from N`. What else test harnesses take is not for us; a name that
/// does not fit leaves nothing to do.
fn wanted(arguments: impl Iterator<Item = String>) -> Result<Option<Wanted>, String> {
    let mut wanted = Wanted { first: 0, runs: RUNS, tells: false };
    let mut arguments = arguments;
    let mut is_meant = true;
    while let Some(argument) = arguments.next() {
        let mut number = || {
            let value = arguments.next().unwrap_or_default();
            value.parse::<u64>().map_err(|_| format!("{argument}: expected a whole number, got {value:?}"))
        };
        match argument.as_str() {
            "--seed" => wanted = Wanted { first: number()?, runs: 1, tells: true },
            "--runs" => wanted.runs = number()?,
            "--from" => wanted.first = number()?,
            "--list" | "--ignored" => is_meant = false,
            name if !name.starts_with('-') => is_meant &= "simulation".contains(name),
            _ => {}
        }
    }
    Ok(Some(wanted).filter(|_| is_meant))
}

fn main() -> ExitCode {
    let Wanted { first, runs, tells } = match wanted(std::env::args().skip(1)) {
        Ok(Some(wanted)) => wanted,
        Ok(None) => return ExitCode::SUCCESS,
        Err(error) => {
            println!("{error}");
            return ExitCode::from(2);
        }
    };
    let started = Instant::now();
    let mut cast = Cast::start();
    let mut sum = Figures::default();
    for seed in first..first.saturating_add(runs) {
        match cast.play(seed, tells) {
            Ok(figures) => sum.add(&figures),
            Err(faults) => {
                println!("simulation: seed {seed} broke a promise\n  {}", faults.join("\n  "));
                println!(
                    "again, step by step: cargo test --release -p tiltyard-runtime --test simulation -- --seed {seed}"
                );
                return ExitCode::FAILURE;
            }
        }
    }
    println!("simulation: {runs} histories from seed {first} kept every promise, in {:.1?}\n{sum}", started.elapsed());
    ExitCode::SUCCESS
}
