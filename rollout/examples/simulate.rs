//! Which figures do the simulations of `docs/statistics.md` reach at full counts?
//!
//! `cargo run --release -p tiltyard-rollout --example simulate` prints the tables; `-- 0.1` plays a tenth of the runs.
#![allow(clippy::print_stdout, missing_docs)]

#[path = "../tests/simulation/mod.rs"]
mod simulation;

use simulation::splits::Unit;
use simulation::{Found, errors, judged, outcomes, splits};
use tiltyard_rollout::preview;

fn line(what: &str, found: Found) {
    println!("| {what} | {:.2} % | {:.0} |", found.share * 100.0, found.median);
}

fn main() {
    let scale: f64 = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(1.0);
    let runs = move |full: u64| ((full as f64 * scale) as u64).max(10);
    harm(runs);
    quality(runs);
    splits_and_bounds(runs);
}

fn harm(runs: impl Fn(u64) -> u64) {
    println!("SIM-1 (alarms, median minutes)");
    for (rps, ratio) in [(10.0, 1.0), (100.0, 1.0), (1_000.0, 1.0), (100.0, 1.25)] {
        line(&format!("{ratio}x at {rps} rps"), errors::constant(runs(4_000), rps, ratio, 60, 0.0));
    }
    for (rps, ratio) in [(100.0, 2.0), (100.0, 3.0), (10.0, 5.0), (10.0, 20.0)] {
        line(&format!("{ratio}x at {rps} rps"), errors::constant(runs(2_000), rps, ratio, 60, 0.0));
    }
    line("1x at 100 rps, 24 h, ±80 %", errors::constant(runs(2_000), 100.0, 1.0, 1_440, 0.8));

    println!("SIM-2 (stopped, median minutes, median excess failures)");
    for (rps, ratio) in [
        (10.0, 1.0),
        (10.0, 2.0),
        (10.0, 3.0),
        (100.0, 1.0),
        (100.0, 2.0),
        (100.0, 3.0),
        (1_000.0, 1.0),
        (1_000.0, 2.0),
        (1_000.0, 5.0),
    ] {
        let found = errors::ramp(runs(2_000), rps, ratio);
        let (share, median) = (found.found.share * 100.0, found.found.median);
        println!("| {ratio}x at {rps} rps | {share:.2} % | {median:.0} | {:.0} |", found.excess);
    }

    println!("Whole rollouts (promoted, rolled back, others, median excess failures)");
    for (rps, ratio, full) in
        [(10.0, 1.0, 2_000), (100.0, 1.0, 2_000), (1_000.0, 1.0, 2_000), (100.0, 2.0, 2_000), (1_000.0, 2.0, 2_000)]
    {
        let judged::Ends { promoted, rolled_back, others, excess } = judged::rollouts(runs(full), rps, ratio);
        println!("| {ratio}x at {rps} rps | {promoted} | {rolled_back} | {others} | {excess:.0} |");
    }
}

fn quality(runs: impl Fn(u64) -> u64) {
    println!("SIM-3 (won, median labels)");
    for (gain, disagreement) in [(0.01, 0.04), (0.005, 0.03), (0.003, 0.02), (0.01, 0.06)] {
        let found = outcomes::paired(runs(2_000), gain, disagreement, 200_000);
        line(&format!("paired, +{gain}, disagreement {disagreement}"), found);
        println!("  told beforehand: {:?}", preview::paired_labels(gain, disagreement, 0.01, 200));
    }
    for accuracies in [[0.9, 0.91], [0.9, 0.905], [0.95, 0.953], [0.8, 0.81]] {
        line(&format!("split, {accuracies:?}"), outcomes::split(runs(500), accuracies, 1_000_000));
        let [champion, challenger] = accuracies;
        let middle: f64 = (champion + challenger) / 2.0;
        let sd = (middle * (1.0 - middle)).sqrt();
        println!("  told beforehand: {:?}", preview::split_labels(challenger - champion, sd, 0.5, 0.01, 50_000, 2_000));
    }
    line("paired, no gain, 100,000 labels", outcomes::paired(runs(4_000), 0.0, 0.04, 100_000));
    line("split, no gain, 200,000 labels", outcomes::split(runs(4_000), [0.9, 0.9], 200_000));
    line("split, shown to be worse, [0.9, 0.89]", outcomes::harm(runs(500), [0.9, 0.89], 1_000_000));
    line("split, shown to be worse, no loss, 200,000 labels", outcomes::harm(runs(4_000), [0.9, 0.9], 200_000));
}

fn splits_and_bounds(runs: impl Fn(u64) -> u64) {
    println!("SIM-4 (false alarms)");
    for unit in [Unit::Request, Unit::StickyRequest, Unit::Key] {
        line(&format!("{unit:?}"), splits::sticky(runs(400), unit));
    }

    println!("SIM-5 (false differences)");
    line("on arrival", outcomes::delayed(runs(1_000), false));
    line("matured", outcomes::delayed(runs(1_000), true));

    println!("SIM-7 (alarms, median units)");
    for (what, configured, share, full) in
        [("50 %", 500_000, 0.5, 20_000), ("5 → 4.75 %", 50_000, 0.0475, 500), ("50 → 49.5 %", 500_000, 0.495, 500)]
    {
        line(what, splits::sample_ratio(runs(full), configured, share));
    }

    println!("SIM-8 (alarms, median requests)");
    for factor in [2.0, 1.5, 1.2, 1.1, 1.05, 1.0] {
        line(&format!("x{factor}"), errors::latency(runs(300), factor));
    }

    println!("SIM-9 (missed, half width at 1,000 and at 20,000)");
    for block in [1, 10, 100, 1_000] {
        let found = outcomes::bounded(runs(500), block);
        println!(
            "| blocks of {block} | {:.2} % | {:.4} | {:.4} |",
            found.missed * 100.0,
            found.at_1_000,
            found.at_20_000
        );
    }
}
