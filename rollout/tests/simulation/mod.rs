//! What happens to the tests of the judge when traffic is drawn by lot, thousands of times?
//!
//! The set-ups are those of the simulations SIM-1 to SIM-9 that concern rollouts. The generator is our own, so that a seed
//! plays the same traffic for ever. `tests/simulations.rs` plays some seconds of it, `examples/simulate.rs` all.

pub(crate) mod errors;
pub(crate) mod judged;
pub(crate) mod lot;
pub(crate) mod outcomes;
pub(crate) mod splits;

/// The median, and NaN of none.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// What became of many runs: how many were found, and what it took in the median of those.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    /// The share of runs with an alarm, 0 to 1.
    pub(crate) share: f64,
    /// The median of what the alarms took.
    pub(crate) median: f64,
}

/// Plays `runs` and sums up what each alarm took.
pub(crate) fn play(runs: u64, run: impl Fn(&mut lot::Lot) -> Option<f64>) -> Found {
    let took: Vec<f64> = (0..runs).filter_map(|seed| run(&mut lot::Lot::new(seed))).collect();
    Found { share: took.len() as f64 / runs as f64, median: median(took) }
}
