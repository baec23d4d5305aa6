//! When would a request that joins the queue now be run?
//!
//! Where rows were seen to leave while others waited, by that pace: it has in it all that slows them down, other models
//! and busy processors included. Before that by what runs are known to cost, which is a lower bound: refusing a request
//! that could have been answered is worse than letting one expire.

use std::time::Duration;

use tiltyard_types::Moment;

use crate::cost::Fit;

/// Predictions are off, and those in front may hang up: by so much. A wait that only the cost of runs tells must go beyond
/// the time that a request has left by this much before it is refused.
pub(crate) const DOUBT: f64 = 1.25;

/// Batches that were taken while others went on waiting, before they say at which pace rows leave.
const TAKES_MIN: u32 = 8;

/// What each batch leaves of the weight of those before it.
const FADE: f64 = 0.9;

/// How fast rows leave a queue in which some always wait, whatever they wait for: their own runs, other models, busy
/// processors. Forgotten when nothing waits any more.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pace {
    last: Option<Moment>,
    nanos: f64,
    rows: f64,
    /// The batches, faded as their rows are.
    weight: f64,
    takes: u32,
}

impl Pace {
    /// Takes in that a batch of `rows` rows was taken at `now`, and whether some were left.
    pub fn took(&mut self, rows: usize, now: Moment, some_left: bool) {
        if !some_left {
            *self = Pace::default();
            return;
        }
        if let Some(last) = self.last {
            self.nanos = self.nanos * FADE + (now - last).as_nanos() as f64;
            self.rows = self.rows * FADE + rows as f64;
            self.weight = self.weight * FADE + 1.0;
            self.takes = self.takes.saturating_add(1);
        }
        self.last = Some(now);
    }

    /// Nanoseconds from one row to the next; `None` while too few batches told.
    pub fn row_ns(&self) -> Option<f64> {
        (self.takes >= TAKES_MIN && self.rows > 0.0).then(|| self.nanos / self.rows)
    }

    /// Rows of a batch, rounded up; `None` while too few told. Fewer than it may have where requests do not join.
    pub fn batch_rows(&self) -> Option<usize> {
        (self.takes >= TAKES_MIN && self.weight > 0.0).then(|| (self.rows / self.weight).ceil() as usize)
    }
}

/// What is ahead of a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ahead {
    /// Requests that wait.
    pub jobs: usize,
    /// Their rows.
    pub rows: usize,
    /// Rows that one run takes at most; 0 where each request is a run of its own.
    pub rows_max: usize,
    /// Runs that go on at once.
    pub runs_max: usize,
    /// Nanoseconds from one row to the next, where rows were seen to leave.
    pub row_ns: Option<f64>,
}

impl Ahead {
    /// How long until what waits now has been run: by the pace at which rows leave, or else by the line that fits the cost
    /// of runs. `None` where nobody knows either. What runs already is not counted, nor, by the line, a last batch that is
    /// not full: it would take the request along.
    pub fn wait(&self, fit: Option<Fit>) -> Option<Duration> {
        let nanos = match (self.row_ns, fit) {
            (Some(row_ns), _) => row_ns * self.rows as f64,
            (None, Some(fit)) => self.runs_ns(fit),
            (None, None) => return None,
        };
        Some(Duration::from_nanos(nanos as u64))
    }

    /// How long a request that came now would surely have to wait for its answer: what it must be refused for where it has
    /// less left. By the pace of rows that is the wait and a run, and some more: a queue that goes up to the last moment of
    /// its requests answers no more of them than a shorter one, and later. By the cost of runs alone it is less than the
    /// wait, for doubt. Nothing where nothing waits: then only running tells.
    pub fn sure_wait(&self, fit: Option<Fit>) -> Duration {
        let nanos = match (self.row_ns, fit) {
            _ if self.jobs == 0 => 0.0,
            (Some(row_ns), _) => row_ns * (self.rows + self.rows_max.max(1) * self.runs_max) as f64 * DOUBT,
            (None, Some(fit)) => self.runs_ns(fit) / DOUBT,
            (None, None) => 0.0,
        };
        Duration::from_nanos(nanos as u64)
    }

    fn runs_ns(&self, fit: Fit) -> f64 {
        let (rows, runs) = match self.rows_max {
            0 => (self.rows, self.jobs),
            rows_max => (self.rows / rows_max * rows_max, self.rows / rows_max),
        };
        (fit.row_ns * rows as f64 + fit.run_ns * runs as f64) / self.runs_max.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A row takes 1 ms, a run 10 ms more.
    const FIT: Fit = Fit { row_ns: 1e6, run_ns: 1e7 };

    fn ahead(jobs: usize, rows: usize, rows_max: usize, runs_max: usize) -> Ahead {
        Ahead { jobs, rows, rows_max, runs_max, row_ns: None }
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn waits_by_the_cost_of_runs() {
        let check = |jobs, rows, rows_max, runs_max, expected_ms: u64| {
            let wait = ahead(jobs, rows, rows_max, runs_max).wait(Some(FIT));
            assert_eq!(wait, Some(ms(expected_ms)), "{jobs} {rows} {rows_max} {runs_max}");
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
        assert_eq!(ahead(64, 64, 64, 1).wait(None), None);
    }

    #[test]
    fn what_is_not_sure_is_no_reason_to_refuse() {
        let sure = |ahead: Ahead| ahead.sure_wait(Some(FIT));
        assert_eq!(sure(ahead(64, 64, 64, 1)), Duration::from_micros(59_200));
        assert_eq!(sure(ahead(63, 63, 64, 1)), ms(0));
        assert_eq!(sure(ahead(0, 0, 64, 1)), ms(0));
        assert_eq!(ahead(64, 64, 64, 1).sure_wait(None), ms(0));
    }

    #[test]
    fn rows_that_were_seen_to_leave_say_more_than_what_runs_cost() {
        let mut pace = Pace::default();
        let at = |ms: u64| Moment::from_nanos(ms * 1_000_000);
        for take in 0..=8 {
            assert_eq!(pace.row_ns(), None);
            pace.took(10, at(take * 200), true);
        }
        assert_eq!((pace.row_ns(), pace.batch_rows()), (Some(2e7), Some(10)));
        let ahead = Ahead { row_ns: pace.row_ns(), ..ahead(64, 64, 10, 2) };
        assert_eq!(ahead.wait(Some(FIT)), Some(ms(1280)));
        assert_eq!(ahead.sure_wait(Some(FIT)), ms(2100), "its own run is part of it");
        assert_eq!(Ahead { jobs: 0, rows: 0, ..ahead }.sure_wait(None), ms(0));
        // Twice as slow from now on: soon it shows.
        (1..=20).for_each(|take| pace.took(10, at(1600 + take * 400), true));
        assert!(pace.row_ns().is_some_and(|row_ns| row_ns > 3.7e7));
        pace.took(3, at(99_999), false);
        assert_eq!(pace, Pace::default());
    }

    proptest! {
        #[test]
        fn more_ahead_never_means_a_shorter_wait(
            jobs in 0usize..5_000, rows in 0usize..100_000, more in 0usize..1_000,
            rows_max in 0usize..200, runs_max in 1usize..64, row_ns in prop::option::of(1f64..1e9),
        ) {
            let ahead = Ahead { row_ns, ..ahead(jobs, rows, rows_max, runs_max) };
            let longer = Ahead { jobs: jobs + more, rows: rows + more, ..ahead };
            let wait = |ahead: Ahead| ahead.wait(Some(FIT)).unwrap();
            prop_assert!(wait(longer) >= wait(ahead));
            prop_assert!(longer.sure_wait(Some(FIT)) >= ahead.sure_wait(Some(FIT)));
            if row_ns.is_none() {
                prop_assert!(ahead.sure_wait(Some(FIT)) <= wait(ahead));
                let helped = Ahead { runs_max: runs_max + 1, ..ahead };
                prop_assert!(wait(helped) <= wait(ahead));
                // Waiting is never predicted to be longer than running everything alone, one after the other.
                let alone = FIT.row_ns * rows as f64 + FIT.run_ns * jobs.max(rows) as f64;
                prop_assert!(wait(ahead).as_nanos() as f64 <= alone + 1.0);
            }
        }
    }
}
