//! Which batch size is to be timed next, and what did those timed so far take?
//!
//! Sizes are powers of two up to the limit, from small to large, each until it ran often or long enough. Pure: told what
//! took how long, it says what to run next.

use std::time::Duration;

use crate::cost::best_rows;

/// Runs of one size at least, whatever they take.
const RUNS_MIN: u32 = 3;

/// Runs of one size at most.
const RUNS_MAX: u32 = 24;

/// Time spent on one size, once it ran as often as it must.
const SIZE_SPENT_MAX: Duration = Duration::from_millis(30);

/// A run that would take longer is not tried: what arrives meanwhile would share the processor with it for as long.
const RUN_MAX: Duration = Duration::from_millis(250);

/// A first run of a size that is shorter is dominated by cold caches and does not count.
const COLD_BELOW: Duration = Duration::from_millis(1);

/// What the runs of one size took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured {
    /// Rows in each run.
    pub rows: usize,
    /// Runs that counted.
    pub runs: u32,
    /// The fastest of them: others only had to share the machine.
    pub fastest: Duration,
    spent: Duration,
    is_warm: bool,
}

impl Measured {
    fn is_done(&self) -> bool {
        self.runs >= RUNS_MAX || (self.runs >= RUNS_MIN && self.spent >= SIZE_SPENT_MAX)
    }
}

/// A cost curve under measurement.
#[derive(Clone, Debug)]
pub struct Curve {
    sizes: Vec<Measured>,
    spent: Duration,
    budget: Duration,
}

impl Curve {
    /// A curve from 1 row to `limit` rows, for which at most `budget` is spent, but for the last run.
    pub fn new(limit: usize, budget: Duration) -> Curve {
        let powers = std::iter::successors(Some(1usize), |rows| rows.checked_mul(2)).take_while(|rows| *rows < limit);
        let of = |rows| Measured { rows, runs: 0, fastest: Duration::MAX, spent: Duration::ZERO, is_warm: false };
        let sizes = powers.chain([limit.max(1)]).map(of).collect();
        Curve { sizes, spent: Duration::ZERO, budget }
    }

    /// A curve of which nothing can be measured.
    pub(crate) fn nothing() -> Curve {
        Curve { sizes: Vec::new(), spent: Duration::ZERO, budget: Duration::ZERO }
    }

    /// The rows to run next; `None` when all that is worth its time is measured.
    pub fn next(&self) -> Option<usize> {
        let position = self.sizes.iter().position(|size| !size.is_done())?;
        let left = self.budget.saturating_sub(self.spent);
        let size = &self.sizes[position];
        if left.is_zero() {
            return None;
        }
        if size.runs == 0 && position > 0 {
            let smaller = &self.sizes[position - 1];
            let predicted = smaller.fastest.mul_f64(size.rows as f64 / smaller.rows as f64);
            // Whether two rows are better than one is worth knowing even then.
            if (predicted > RUN_MAX && position > 1) || predicted * RUNS_MIN > left {
                return None;
            }
        }
        Some(size.rows)
    }

    /// Takes in how long a run of `rows` rows took. Says whether it counts.
    pub fn note(&mut self, rows: usize, run: Duration) -> bool {
        self.spent += run;
        let Some(size) = self.sizes.iter_mut().find(|size| size.rows == rows) else { return false };
        if !std::mem::replace(&mut size.is_warm, true) && run < COLD_BELOW {
            return false;
        }
        size.runs += 1;
        size.spent += run;
        size.fastest = size.fastest.min(run);
        true
    }

    /// What was measured, from few rows to many.
    pub fn measured(&self) -> impl Iterator<Item = &Measured> {
        self.sizes.iter().filter(|size| size.runs > 0)
    }

    /// Sizes that are wanted, and of these the ones that are measured.
    pub fn progress(&self) -> (usize, usize) {
        (self.sizes.iter().filter(|size| size.is_done()).count(), self.sizes.len())
    }

    /// Time spent so far.
    pub fn spent(&self) -> Duration {
        self.spent
    }

    /// The smallest batch that is as good as the best of those tried; `None` before anything ran. Asked at the end: what
    /// was not tried by then would run too long.
    pub fn best_rows(&self) -> Option<usize> {
        let points: Vec<(f64, f64)> =
            self.measured().map(|size| (size.rows as f64, size.fastest.as_nanos() as f64)).collect();
        let largest = self.measured().last()?.rows;
        Some(best_rows(&points, largest))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Measures a model with the line's cost to the end. Gives the curve and the runs it took.
    fn measured(limit: usize, row: Duration, run: Duration) -> (Curve, usize) {
        let mut curve = Curve::new(limit, Duration::from_secs(2));
        let mut runs = 0;
        while let Some(rows) = curve.next() {
            curve.note(rows, run + row.mul_f64(rows as f64));
            runs += 1;
        }
        (curve, runs)
    }

    #[track_caller]
    fn check(limit: usize, row_us: u64, run_us: u64, sizes: &[usize], best: usize) {
        let (curve, _) = measured(limit, Duration::from_micros(row_us), Duration::from_micros(run_us));
        let found: Vec<usize> = curve.measured().map(|size| size.rows).collect();
        assert_eq!((found.as_slice(), curve.best_rows()), (sizes, Some(best)));
    }

    #[test]
    fn models_of_all_sizes() {
        // A perceptron: rows cost next to nothing.
        check(64, 0, 5, &[1, 2, 4, 8, 16, 32, 64], 64);
        // A vision model: nothing to gain, and large batches are not even tried.
        check(64, 35_000, 200, &[1, 2, 4], 1);
        // Something between, where sixteen rows are as good as more.
        check(48, 100, 30, &[1, 2, 4, 8, 16, 32, 48], 16);
        check(1, 50, 5, &[1], 1);
        check(3, 1, 5, &[1, 2, 3], 3);
        // Longer runs than are tried elsewhere, to know the least.
        check(64, 200_000, 0, &[1, 2], 1);
        check(64, 120_000, 40_000, &[1, 2], 2);
        // One that takes three seconds a row runs once, and alone.
        check(64, 3_000_000, 0, &[1], 1);
    }

    #[test]
    fn a_cold_first_run_does_not_count() {
        let mut curve = Curve::new(2, Duration::from_secs(1));
        assert!(!curve.note(1, Duration::from_micros(900)));
        assert!(curve.note(1, Duration::from_micros(5)));
        assert_eq!(curve.measured().next().unwrap().fastest, Duration::from_micros(5));
        assert!(Curve::new(2, Duration::from_secs(1)).note(1, Duration::from_millis(40)), "long runs are too dear");
        assert_eq!((Curve::nothing().next(), Curve::nothing().best_rows()), (None, None));
    }

    proptest! {
        #[test]
        fn measuring_ends_and_stays_within_its_budget(
            limit in 1usize..5_000,
            row_us in 0u64..500_000,
            run_us in 0u64..500_000,
        ) {
            let (row, run) = (Duration::from_micros(row_us), Duration::from_micros(run_us));
            let (curve, runs) = measured(limit, row, run);
            prop_assert!(runs <= 14 * 50);
            let last = curve.measured().map(|size| size.fastest).max().unwrap_or_default();
            prop_assert!(curve.spent() <= Duration::from_secs(2) + last, "{:?}", curve.spent());
            prop_assert!(curve.best_rows().is_none_or(|rows| (1..=limit).contains(&rows)));
        }
    }
}
