//! When would a request that joins the queue now be run?
//!
//! A lower bound by what is known: refusing a request that could have been answered is worse than letting one expire. But
//! for one thing: requests whose client has gone, or whose time is over, count until a take comes to them, for the queue
//! does not hear of either. Where a fifth or less of those that wait are such, the doubt allowed for covers them; where more are, a live
//! request may be refused that could have been answered.

use std::time::Duration;

use crate::cost::Fit;

/// The predicted wait must go beyond the time that a request has left by this much before it is refused: predictions are
/// off, and those in front may hang up.
const DOUBT: f64 = 1.25;

/// What is ahead of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ahead {
    /// Requests that wait.
    pub jobs: usize,
    /// Their rows.
    pub rows: usize,
    /// Rows that one run takes at most; 0 where each request is a run of its own.
    pub rows_max: usize,
    /// Runs that go on at once.
    pub runs_max: usize,
}

impl Ahead {
    /// How long until what waits now has been run, by the line that fits the cost of runs. What runs already is not
    /// counted, nor a last batch that is not full: it would take the request along.
    pub fn wait(&self, fit: Fit) -> Duration {
        let (rows, runs) = match self.rows_max {
            0 => (self.rows, self.jobs),
            rows_max => (self.rows / rows_max * rows_max, self.rows / rows_max),
        };
        let nanos = fit.row_ns * rows as f64 + fit.run_ns * runs as f64;
        Duration::from_nanos((nanos / self.runs_max.max(1) as f64) as u64)
    }

    /// The wait, if it is sure to outlast the `left` time. Never where nothing waits: then only running tells.
    pub fn outlasts(&self, fit: Fit, left: Duration) -> Option<Duration> {
        let wait = self.wait(fit);
        (self.jobs > 0 && wait > left.mul_f64(DOUBT).max(Duration::from_millis(1))).then_some(wait)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A row takes 1 ms, a run 10 ms more.
    const FIT: Fit = Fit { row_ns: 1e6, run_ns: 1e7 };

    #[test]
    fn waits() {
        let check = |jobs, rows, rows_max, runs_max, expected_ms: u64| {
            let wait = Ahead { jobs, rows, rows_max, runs_max }.wait(FIT);
            assert_eq!(wait, Duration::from_millis(expected_ms), "{jobs} {rows} {rows_max} {runs_max}");
        };
        check(0, 0, 64, 2, 0);
        // They fit into the next batch, and so does who comes now.
        check(5, 5, 64, 1, 0);
        check(63, 63, 64, 1, 0);
        check(64, 64, 64, 1, 74);
        check(100, 130, 64, 1, 148);
        check(100, 130, 64, 2, 74);
        // Each request is a run of its own.
        check(3, 3, 0, 1, 33);
        check(3, 12, 0, 1, 42);
        check(4, 4, 1, 2, 22);
    }

    #[test]
    fn refusals() {
        let ahead = Ahead { jobs: 64, rows: 64, rows_max: 64, runs_max: 1 };
        let check = |ahead: Ahead, left_ms, refused| {
            assert_eq!(ahead.outlasts(FIT, Duration::from_millis(left_ms)).is_some(), refused, "{left_ms} ms");
        };
        check(ahead, 1_000, false);
        check(ahead, 74, false);
        // Close is not sure.
        check(ahead, 60, false);
        check(ahead, 59, true);
        check(ahead, 0, true);
        check(Ahead { jobs: 0, rows: 0, ..ahead }, 0, false);
        check(Ahead { jobs: 63, rows: 63, ..ahead }, 0, false);
    }

    proptest! {
        #[test]
        fn more_ahead_never_means_a_shorter_wait(
            jobs in 0usize..5_000, rows in 0usize..100_000, more in 0usize..1_000,
            rows_max in 0usize..200, runs_max in 1usize..64,
        ) {
            let ahead = Ahead { jobs, rows, rows_max, runs_max };
            let longer = Ahead { jobs: jobs + more, rows: rows + more, ..ahead };
            prop_assert!(longer.wait(FIT) >= ahead.wait(FIT));
            let helped = Ahead { runs_max: runs_max + 1, ..ahead };
            prop_assert!(helped.wait(FIT) <= ahead.wait(FIT));
            // Waiting is never predicted to be longer than running everything alone, one after the other.
            let alone = FIT.row_ns * rows as f64 + FIT.run_ns * jobs.max(rows) as f64;
            prop_assert!(ahead.wait(FIT).as_nanos() as f64 <= alone + 1.0);
        }
    }
}
