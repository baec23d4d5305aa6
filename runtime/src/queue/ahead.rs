//! How much is ahead of a job that would join the queue now, and how large may batches be?

use tiltyard_types::Moment;

use super::{Queue, Waiting};
use crate::cost::Fit;
use crate::forecast::Ahead;

impl<J: Waiting> Queue<J> {
    /// Takes in what runs are known to cost, and whether several jobs may share one.
    pub fn expect(&mut self, fit: Option<Fit>, shares: bool) {
        (self.fit, self.shares) = (fit, shares);
    }

    /// What waits now, and what runs take.
    pub fn ahead(&self) -> Ahead {
        let runs_max = self.policy.runs_max.max(1);
        let line = Ahead::line_of(self.fit, &self.pace, runs_max);
        let rows_of_jobs = if self.shares { self.policy.rows_limit() } else { (self.rows / self.jobs.max(1)).max(1) };
        let free_at = match (self.pace.last(), line) {
            (Some((taken, rows)), Some(line)) if self.running >= runs_max => {
                taken + line.at(rows) / u32::try_from(runs_max).unwrap_or(u32::MAX)
            }
            _ => Moment::default(),
        };
        Ahead {
            jobs: self.jobs,
            rows: self.rows,
            // Those who wait may be of kinds that do not join. More than twice what did is not to be expected.
            rows_max: self
                .pace
                .batch()
                .map_or(rows_of_jobs, |(rows, _)| rows_of_jobs.min((rows * 2.0) as usize))
                .max(1),
            runs_max,
            line,
            is_paced: self.pace.batch().is_some(),
            free_at,
        }
    }

    /// Changes the rows that one batch may have, from the next one on.
    pub fn limit_rows(&mut self, rows_max: usize) {
        self.policy.rows_max = rows_max.max(1);
    }

    /// When the next batch is taken says nothing of runs where there is room for one that nobody fills.
    pub(super) fn rest_pace(&mut self, now: Moment) {
        if self.jobs == 0 && self.running < self.policy.runs_max {
            self.pace.rest(now);
        }
    }
}
