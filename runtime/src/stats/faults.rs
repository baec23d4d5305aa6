//! How often was the engine at fault?

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What a deployment's health counts. Its statistics have it too: they outlive it.
#[derive(Debug, Default)]
pub struct Faults {
    given_up: AtomicU64,
    times_out: AtomicU64,
}

impl Faults {
    /// Counts runs that were given up as stuck.
    pub(crate) fn gave_up(&self, runs: u64) {
        self.given_up.fetch_add(runs, Relaxed);
    }

    /// Counts that the deployment was taken out.
    pub(crate) fn went_out(&self) {
        self.times_out.fetch_add(1, Relaxed);
    }

    /// Runs that were given up so far.
    pub fn given_up(&self) -> u64 {
        self.given_up.load(Relaxed)
    }

    /// How often the deployment was taken out.
    pub fn times_out(&self) -> u64 {
        self.times_out.load(Relaxed)
    }
}
