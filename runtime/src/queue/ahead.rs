//! How much is ahead of a job that would join the queue now, and how large may batches be?

use super::{Queue, Waiting};
use crate::forecast::Ahead;

impl<J: Waiting> Queue<J> {
    /// What waits now.
    pub fn ahead(&self, shares: bool) -> Ahead {
        let rows_max = if shares { self.policy.rows_limit() } else { 0 };
        let rows_max = self.pace.batch_rows().map_or(rows_max, |seen| rows_max.min(seen));
        let (runs_max, row_ns) = (self.policy.runs_max, self.pace.row_ns());
        Ahead { jobs: self.len(), rows: self.rows, rows_max, runs_max, row_ns }
    }

    /// Changes the rows that one batch may have, from the next one on.
    pub fn limit_rows(&mut self, rows_max: usize) {
        self.policy.rows_max = rows_max.max(1);
    }
}
