//! Which waiting jobs are not worth a run any more, though their time is not over yet?
//!
//! A run whose answer comes too late is work for nothing, and it makes all behind it later. So where more waits than one
//! run takes, jobs that could not be done in time make room for those that can.

use std::time::Duration;

use tiltyard_types::Moment;

use super::plan::is_dead;
use super::{Entry, Queue, Waiting};
use crate::cost::Fit;
use crate::forecast::{DOUBT, Pace};

/// Between two looks at all that waits: each costs time in proportion to what waits, and a flood asks for many.
const SWEEPS_APART: Duration = Duration::from_millis(1);

impl<J: Waiting> Queue<J> {
    /// Takes in what runs are known to cost, and whether several jobs may share one.
    pub fn expect(&mut self, fit: Option<Fit>, shares: bool) {
        (self.fit, self.shares) = (fit, shares);
    }

    /// Rows of a full run: as many as it may have, or those of one job where none shares it.
    pub(super) fn run_rows(&self) -> usize {
        if self.shares { self.policy.rows_limit() } else { (self.rows / self.jobs.max(1)).max(1) }
    }

    /// How long a full run takes from its start, so that a job that starts with less left is done too late; nothing where
    /// nobody knows.
    pub(super) fn run_expected(&self) -> Duration {
        let rows = self.pace.batch_rows().map_or_else(|| self.run_rows(), |seen| self.run_rows().min(seen));
        let nanos = match (self.pace.row_ns(), self.fit) {
            (Some(row_ns), _) => row_ns * (rows * self.policy.runs_max) as f64,
            (None, Some(fit)) => fit.row_ns * rows as f64 + fit.run_ns,
            (None, None) => 0.0,
        };
        Duration::from_nanos((nanos * DOUBT) as u64)
    }

    /// How fast rows leave says nothing any more where none wait.
    pub(super) fn forget_pace(&mut self) {
        if self.jobs == 0 {
            self.pace = Pace::default();
        }
    }

    /// Whether as many jobs wait as may, whatever their level.
    pub fn is_full(&self) -> bool {
        let level_max = self.policy.levels.iter().map(|level| level.jobs_max).fold(0, usize::saturating_add);
        self.jobs >= self.policy.jobs_max.min(level_max)
    }

    /// The moment from which on a sweep may find something.
    pub fn sweeps_from(&self) -> Moment {
        self.sweeps_from
    }

    /// Moves those to `dead` whom nobody waits for any more, and those whose answer would come too late by the pace at
    /// which rows leave. Says whether there were any. Looks no more often than each millisecond.
    pub fn sweep(&mut self, now: Moment, dead: &mut Vec<J>) -> bool {
        if now < self.sweeps_from {
            return false;
        }
        self.sweeps_from = now + SWEEPS_APART;
        let before = self.jobs;
        let run = self.run_expected();
        // Where there are levels, nobody knows how many are before one.
        let pace = self.pace.row_ns().filter(|_| self.lanes.len() == 1);
        let mut ahead = 0usize;
        for lane in 0..self.lanes.len() {
            for entry in std::mem::take(&mut self.lanes[lane]) {
                let wait = pace.map(|row_ns| Duration::from_nanos((row_ns * ahead as f64) as u64) + run);
                if is_dead(&entry, now) || wait.is_some_and(|wait| ahead > 0 && is_late(&entry, now + wait)) {
                    dead.push(self.leaves(entry));
                } else {
                    ahead = ahead.saturating_add(entry.job.rows());
                    self.lanes[lane].push_back(entry);
                }
            }
        }
        self.forget_pace();
        self.jobs < before
    }
}

/// Whether nobody waits any more for a job that is done at this moment.
pub(super) fn is_late<J: Waiting>(entry: &Entry<J>, done: Moment) -> bool {
    entry.job.deadline().is_some_and(|deadline| deadline < done)
}
