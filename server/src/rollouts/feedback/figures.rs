//! What is counted of feedback, for Prometheus?
//!
//! Rollouts come and go, and counters must not fall: what was counted of versions long gone is kept as one sum.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Heard;

/// Arms that are told apart; of more, the oldest are summed up.
const ARMS_MAX: usize = 128;

/// An arm of a rollout.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Who {
    /// The name that clients call.
    pub endpoint: String,
    /// Its model.
    pub model: String,
    /// Its version.
    pub version: String,
    /// Its name.
    pub arm: String,
}

/// What was counted of one arm.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tally {
    /// Labels that were joined to its rows.
    pub labels: u64,
    /// Units that counted with an outcome.
    pub units: u64,
    /// The sum of their outcomes.
    pub outcomes: f64,
}

/// The counts of the process.
#[derive(Debug, Default)]
pub struct Figures {
    heard: Mutex<BTreeMap<String, [u64; Heard::ALL.len()]>>,
    /// In the order in which they came.
    arms: Mutex<Vec<(Who, Tally)>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Figures {
    /// Counts something that was said; of an endpoint that nobody knows, the name is empty.
    pub fn heard(&self, endpoint: &str, heard: Heard) {
        let mut held = lock(&self.heard);
        if !held.contains_key(endpoint) {
            held.insert(endpoint.to_owned(), Default::default());
        }
        if let Some(counts) = held.get_mut(endpoint) {
            counts[heard as usize] += 1;
        }
    }

    /// Counts a label that was joined.
    pub fn joined(&self, who: &Who) {
        self.add(who, Tally { labels: 1, ..Tally::default() });
    }

    /// Counts units that were old enough.
    pub fn matured(&self, who: &Who, units: u64, outcomes: f64) {
        if units > 0 {
            self.add(who, Tally { units, outcomes, ..Tally::default() });
        }
    }

    fn add(&self, who: &Who, more: Tally) {
        let mut arms = lock(&self.arms);
        if !arms.iter().any(|(held, _)| held == who) {
            arms.push((who.clone(), Tally::default()));
            if arms.len() > ARMS_MAX {
                let retired = Who { version: "retired".into(), ..Who::default() };
                let at = usize::from(arms[0].0 == retired);
                let (_, gone) = arms.remove(at);
                match at {
                    0 => arms.insert(0, (retired, gone)),
                    _ => sum(&mut arms[0].1, gone),
                }
            }
        }
        if let Some((_, tally)) = arms.iter_mut().rev().find(|(held, _)| held == who) {
            sum(tally, more);
        }
    }

    /// What became of all that was said, by endpoint.
    pub fn all_heard(&self) -> BTreeMap<String, [u64; Heard::ALL.len()]> {
        lock(&self.heard).clone()
    }

    /// What was counted of each arm.
    pub fn arms(&self) -> Vec<(Who, Tally)> {
        lock(&self.arms).clone()
    }
}

fn sum(tally: &mut Tally, more: Tally) {
    tally.labels += more.labels;
    tally.units += more.units;
    tally.outcomes += more.outcomes;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_come_and_go_and_no_sum_falls() {
        let figures = Figures::default();
        for version in 1..=1_000u64 {
            let who = Who { version: version.to_string(), ..Who::default() };
            figures.joined(&who);
            figures.matured(&who, 2, 1.0);
            figures.matured(&who, 0, 0.0);
            let arms = figures.arms();
            let labels: u64 = arms.iter().map(|(_, tally)| tally.labels).sum();
            let units: u64 = arms.iter().map(|(_, tally)| tally.units).sum();
            assert_eq!((labels, units), (version, 2 * version));
            assert!(arms.len() <= ARMS_MAX + 1 && arms.last().unwrap().0 == who);
        }
        assert_eq!(figures.arms()[0].0.version, "retired");
    }

    #[test]
    fn what_was_said_is_counted_by_what_became_of_it() {
        let figures = Figures::default();
        for (at, (_, heard)) in Heard::ALL.into_iter().enumerate() {
            assert_eq!(heard as usize, at);
            figures.heard("risk", heard);
        }
        assert_eq!(figures.all_heard()["risk"], [1; Heard::ALL.len()]);
    }
}
