//! What does a run take of the machine, and how much of it is there?

use std::time::Duration;

use super::Deployment;
use crate::pool::Pool;
use crate::stats::Used;

/// To ask for a thread's time takes part of a microsecond, twice for a run: what is expected to be shorter than this is taken to
/// have had the processor all the time.
const METERED_MIN: Duration = Duration::from_micros(100);

/// How many runs there can be at a time, and are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Instances {
    /// Sessions that are open.
    pub open: usize,
    /// Those of them that run something.
    pub running: usize,
}

impl Deployment {
    /// Sessions that requests are run with; those that are lost to runs that hang count as running.
    pub fn instances(&self) -> Instances {
        self.leases.instances()
    }

    /// Whether runs have a device to themselves, one at a time.
    fn is_on_device(&self) -> bool {
        self.compiled.sessions_max().is_some()
    }

    /// The processor's time of this thread before a run of so many rows, where that is worth asking for.
    pub(super) fn meter(&self, rows: usize, pool: &Pool) -> Option<Duration> {
        let is_long = self.is_on_device() || self.cost.predict(rows).is_none_or(|time| time >= METERED_MIN);
        if is_long { pool.taken() } else { None }
    }

    /// What a run took that was so long. Where a run has several threads, they are its own all the time.
    pub(super) fn used(&self, before: Option<Duration>, run: Duration, pool: &Pool) -> Used {
        let on_device = self.is_on_device();
        let measured = before.zip(pool.taken()).map(|(before, now)| now.saturating_sub(before));
        let cpu = match self.settings.threads {
            Some(threads @ 2..) if !on_device => run * u32::try_from(threads).unwrap_or(u32::MAX),
            _ => measured.unwrap_or(run),
        };
        Used { cpu, device: if on_device { run } else { Duration::ZERO } }
    }
}
