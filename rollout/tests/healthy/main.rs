//! Are challengers left alone that are as good as their champions, whatever the world does meanwhile, and are bad ones caught?
//!
//! ```sh
//! cargo test --release -p tiltyard-rollout --test healthy                      # some thousand rollouts, as everywhere
//! cargo test --release -p tiltyard-rollout --test healthy -- --runs 100000     # the long form: docs/statistics.md
//! ```
//!
//! Whole rollouts go through the real judge, each from a seed. Traffic is drawn in bulk, a minute at a time, and told as the
//! server tells it: by request or first by key, by cause, and slow runs by kind. `traffic.rs` has the worlds, `play.rs` the
//! judge's way through them, `rules.rs` what Argo Rollouts and Flagger would have done. Where evidence is kept from the judge,
//! it must fail: otherwise these worlds would prove nothing. Unfinished: the worlds of whole-batch faults and outages are too mild for
//! that, and nobody has played 100,000 of them; so it is no part of the tests.
#![allow(clippy::print_stdout, reason = "it reports as a test does")]
#![allow(clippy::disallowed_methods, reason = "it tells how long it took")]
#![allow(clippy::needless_range_loop, reason = "arms are numbers here")]

mod chance;
mod crowd;
mod play;
mod rules;
mod runs;
mod traffic;

use std::process::ExitCode;
use std::time::Instant;

use play::{End, Outcome, play};
use rules::{Ruled, Threshold, argo, flagger};
use traffic::{SCENES, Scene, Strip};

/// Healthy rollouts of the short form.
const RUNS: u64 = 3_000;

const RATES: [f64; 3] = [10.0, 100.0, 1_000.0];

/// What the command line asks for: `--runs N`. What else test harnesses take is not for us; a name that does not fit leaves
/// nothing to do.
fn wanted() -> Result<Option<u64>, String> {
    let (mut runs, mut is_meant) = (RUNS, true);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--runs" => {
                let value = arguments.next().unwrap_or_default();
                runs = value.parse().map_err(|_| format!("--runs: expected a whole number, got {value:?}"))?;
            }
            "--list" | "--ignored" => is_meant = false,
            name if !name.starts_with('-') => is_meant &= "healthy".contains(name),
            _ => {}
        }
    }
    Ok(Some(runs).filter(|_| is_meant))
}

/// What was promised and did not hold.
type Faults = Vec<String>;

fn main() -> ExitCode {
    let runs = match wanted() {
        Ok(Some(runs)) => runs,
        Ok(None) => return ExitCode::SUCCESS,
        Err(error) => {
            println!("{error}");
            return ExitCode::from(2);
        }
    };
    let started = Instant::now();
    let mut faults = Faults::new();
    healthy(runs, &mut faults);
    harmful((runs / 50).max(100), &mut faults);
    stripped(100, &mut faults);
    println!("\n{:.0} s", started.elapsed().as_secs_f64());
    if faults.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("healthy: {} promises are broken\n  {}", faults.len(), faults.join("\n  "));
    ExitCode::FAILURE
}

/// A share in percent, as it is written in the tables.
fn percent(count: u64, of: u64) -> String {
    match count {
        0 => "0 %".into(),
        _ => {
            let share = 100.0 * count as f64 / of as f64;
            if share < 1.0 { format!("{share:.2} %") } else { format!("{share:.1} %") }
        }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The seeds of one cell of a table: no two cells share any.
fn seeds(cell: u64, runs: u64) -> impl Iterator<Item = u64> {
    (0..runs).map(move |run| (cell << 32) + run)
}

fn ended(outcomes: &[Outcome], end: End) -> u64 {
    outcomes.iter().filter(|outcome| outcome.end == end).count() as u64
}

fn aborted(ruled: &[Ruled]) -> u64 {
    ruled.iter().filter(|ruled| ruled.aborted).count() as u64
}

fn healthy(runs: u64, faults: &mut Faults) {
    let each = runs.div_ceil((SCENES.len() * RATES.len()) as u64).max(10);
    println!(
        "| world | requests/s | promoted | inconclusive | halted by the split | rolled back | Argo, 1 % | Argo, 1.2x | Flagger |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    let mut sums = [0; 3];
    for (at, scene) in SCENES.into_iter().enumerate() {
        for (which, rps) in RATES.into_iter().enumerate() {
            let cell = (at * RATES.len() + which) as u64;
            let outcomes: Vec<Outcome> =
                seeds(cell, each).map(|seed| play(scene, rps, 1.0, seed, Strip::Nothing)).collect();
            let counts =
                [End::Promoted, End::Inconclusive, End::Halted, End::RolledBack].map(|end| ended(&outcomes, end));
            for why in outcomes.iter().filter_map(|outcome| outcome.why.as_ref()).take(3) {
                println!("  rolled back: {why}");
            }
            // Thresholds are crossed often enough that fewer runs tell.
            let few = each.min(1_000);
            let rules = [
                aborted(
                    &seeds(cell, few)
                        .map(|seed| argo(scene, rps, 1.0, seed, Threshold::OnePercent))
                        .collect::<Vec<_>>(),
                ),
                aborted(
                    &seeds(cell, few).map(|seed| argo(scene, rps, 1.0, seed, Threshold::Baseline)).collect::<Vec<_>>(),
                ),
                aborted(&seeds(cell, few).map(|seed| flagger(scene, rps, 1.0, seed)).collect::<Vec<_>>()),
            ];
            let told: Vec<String> = counts
                .iter()
                .map(|count| percent(*count, each))
                .chain(rules.iter().map(|count| percent(*count, few)))
                .collect();
            println!("| {} | {rps} | {} |", scene.name, told.join(" | "));
            judged_well(scene, rps, each, counts, faults);
            let [_, _, halted, rolled_back] = counts;
            sums = [sums[0] + each, sums[1] + halted, sums[2] + rolled_back];
        }
    }
    let [all, halted, rolled_back] = sums;
    println!("{all} healthy rollouts: {rolled_back} rolled back, {halted} halted by the split");
    if rolled_back > 1 + all / 1_000 || halted > 2 + all / 1_000 {
        faults.push(format!(
            "of {all} healthy rollouts {rolled_back} are rolled back and {halted} halted: more than 0.1 %"
        ));
    }
}

/// What a cell of the table must be like.
fn judged_well(scene: Scene, rps: f64, runs: u64, [promoted, _, halted, rolled_back]: [u64; 4], faults: &mut Faults) {
    // The mean may be 0.1 %; of few runs, one or two more are chance.
    let most = 1 + runs / 500;
    if rolled_back > most || halted > most {
        faults.push(format!("{} at {rps}/s: of {runs}, {rolled_back} are rolled back, {halted} halted", scene.name));
    }
    let least = if rps < 50.0 { 0.7 } else { 0.95 };
    if (promoted as f64) < least * runs as f64 {
        faults.push(format!("{} at {rps}/s: only {promoted} of {runs} are promoted", scene.name));
    }
}

fn harmful(runs: u64, faults: &mut Faults) {
    println!("\n| true ratio, requests/s | judge: caught, minutes, failures | Argo, 1 % | Argo, 1.2x | Flagger |");
    println!("|---|---|---|---|---|");
    let scene = SCENES[0];
    for (at, (rps, ratio)) in RATES.into_iter().flat_map(|rps| [1.5, 2.0, 3.0].map(|ratio| (rps, ratio))).enumerate() {
        let cell = 100 + at as u64;
        let outcomes: Vec<Outcome> =
            seeds(cell, runs).map(|seed| play(scene, rps, ratio, seed, Strip::Nothing)).collect();
        let caught: Vec<f64> = outcomes
            .iter()
            .filter(|outcome| outcome.end == End::RolledBack)
            .map(|outcome| outcome.minutes as f64)
            .collect();
        let excess = median(outcomes.iter().map(|outcome| outcome.excess).collect());
        let share = caught.len() as f64 / runs as f64;
        let told = |ruled: Vec<Ruled>| {
            let minutes =
                median(ruled.iter().filter(|ruled| ruled.aborted).map(|ruled| ruled.minutes as f64).collect());
            let excess = median(ruled.iter().map(|ruled| ruled.excess).collect());
            format!("{}, {minutes:.0}, {excess:.0}", percent(aborted(&ruled), runs))
        };
        println!(
            "| {ratio}x at {rps} | {}, {:.0}, {excess:.0} | {} | {} | {} |",
            percent(caught.len() as u64, runs),
            median(caught),
            told(seeds(cell, runs).map(|seed| argo(scene, rps, ratio, seed, Threshold::OnePercent)).collect()),
            told(seeds(cell, runs).map(|seed| argo(scene, rps, ratio, seed, Threshold::Baseline)).collect()),
            told(seeds(cell, runs).map(|seed| flagger(scene, rps, ratio, seed)).collect()),
        );
        if rps >= 100.0 && ratio >= 2.0 && (share < 0.99 || excess > 100.0) {
            faults.push(format!("{ratio}x at {rps}/s: {share} caught, with {excess} failures too many in the median"));
        }
    }
}

/// What is kept from the judge is needed: without it, healthy rollouts do not go well in the world that it is for.
fn stripped(runs: u64, faults: &mut Faults) {
    println!("\n| world | requests/s | kept from the judge | promoted | halted by the split | rolled back |");
    println!("|---|---|---|---|---|---|");
    let cases = [
        (4, 100.0, Strip::Causes, "failures by cause"),
        (2, 100.0, Strip::Requests, "failures by request"),
        (6, 100.0, Strip::Kinds, "kinds of runs"),
        (3, 100.0, Strip::Keys, "keys"),
    ];
    for (at, rps, strip, what) in cases {
        let scene = SCENES[at];
        let outcomes: Vec<Outcome> =
            seeds(200 + at as u64, runs).map(|seed| play(scene, rps, 1.0, seed, strip)).collect();
        let counts = [End::Promoted, End::Halted, End::RolledBack].map(|end| ended(&outcomes, end));
        let told = counts.map(|count| percent(count, runs)).join(" | ");
        println!("| {} | {rps} | {what} | {told} |", scene.name);
        if (counts[2] as f64) < 0.05 * runs as f64 {
            faults.push(format!("{} without {what}: only {} of {runs} are rolled back", scene.name, counts[2]));
        }
    }
}
