//! What did a shadow see, and what was kept from it?

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::{Durations, Total, merge_durations};

/// Why a request that was sampled for a shadow was never compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// As many as may wait for the shadow already.
    QueueFull,
    /// What all shadows hold takes as much memory as it may.
    Memory,
    /// It takes more memory than any sample may.
    TooLarge,
    /// The shadow is left alone for a while, since its runs kept failing or hang.
    Breaker,
    /// It waited for the shadow for too long.
    Late,
    /// Its run hung and was given up.
    Hung,
}

impl Dropped {
    /// All reasons, in the order of their declaration.
    pub const ALL: [Dropped; 6] =
        [Dropped::QueueFull, Dropped::Memory, Dropped::TooLarge, Dropped::Breaker, Dropped::Late, Dropped::Hung];

    /// The name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Dropped::QueueFull => "queue_full",
            Dropped::Memory => "memory",
            Dropped::TooLarge => "too_large",
            Dropped::Breaker => "breaker",
            Dropped::Late => "late",
            Dropped::Hung => "hung",
        }
    }
}

/// A shadow's counters.
#[derive(Default)]
pub struct ShadowCounts {
    offered: AtomicU64,
    sampled: AtomicU64,
    dropped: [AtomicU64; Dropped::ALL.len()],
    compared: AtomicU64,
    errors: AtomicU64,
    run: Total,
}

/// The same, read at about one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShadowSums {
    /// Requests that it could have seen: the champion answered them as part of the test.
    pub offered: u64,
    /// Those of them that were sampled for it.
    pub sampled: u64,
    /// Those of these that it did not see to the end, by the position of the reason in [`Dropped::ALL`].
    pub dropped: [u64; Dropped::ALL.len()],
    /// Those that both answered.
    pub compared: u64,
    /// Those that it alone failed.
    pub errors: u64,
    /// Time in the engine, per request that it answered: that of the batch it was in.
    pub run: Durations,
}

impl ShadowCounts {
    /// Counts a request that it could have seen.
    pub fn offered(&self) {
        self.offered.fetch_add(1, Relaxed);
    }

    /// Counts one that was sampled for it.
    pub fn sampled(&self) {
        self.sampled.fetch_add(1, Relaxed);
    }

    /// Counts one that it did not see to the end.
    pub fn dropped(&self, why: Dropped) {
        self.dropped[why as usize].fetch_add(1, Relaxed);
    }

    /// Counts one that it answered, in a run that took so long.
    pub fn compared(&self, run: Duration) {
        self.compared.fetch_add(1, Relaxed);
        self.run.add(run);
    }

    /// Counts one that it failed.
    pub fn failed(&self) {
        self.errors.fetch_add(1, Relaxed);
    }

    /// What was counted so far.
    pub fn read(&self) -> ShadowSums {
        ShadowSums {
            offered: self.offered.load(Relaxed),
            sampled: self.sampled.load(Relaxed),
            dropped: std::array::from_fn(|why| self.dropped[why].load(Relaxed)),
            compared: self.compared.load(Relaxed),
            errors: self.errors.load(Relaxed),
            run: self.run.read(),
        }
    }
}

impl ShadowSums {
    /// Adds what another one counted.
    pub(super) fn merge(&mut self, other: &ShadowSums) {
        self.offered += other.offered;
        self.sampled += other.sampled;
        self.dropped.iter_mut().zip(other.dropped).for_each(|(sum, more)| *sum += more);
        self.compared += other.compared;
        self.errors += other.errors;
        merge_durations(&mut self.run, other.run);
    }

    /// What was counted since it was `before`.
    #[must_use]
    pub fn since(&self, before: &ShadowSums) -> ShadowSums {
        let nanos = self.run.nanos - before.run.nanos;
        ShadowSums {
            offered: self.offered - before.offered,
            sampled: self.sampled - before.sampled,
            dropped: std::array::from_fn(|why| self.dropped[why] - before.dropped[why]),
            compared: self.compared - before.compared,
            errors: self.errors - before.errors,
            run: Durations { count: self.run.count - before.run.count, nanos },
        }
    }

    /// Dropped for any reason.
    pub fn dropped(&self) -> u64 {
        self.dropped.iter().sum()
    }
}
