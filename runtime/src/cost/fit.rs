//! Which line goes through what runs of several sizes cost?

use std::time::Duration;

/// The cost of a run as a line: `row` for each row and `run` whatever their number.
///
/// The model of prior art: BentoML fits the same line to recent batches by least squares, Clipper inverts a regression of
/// batch size on time. It is a first-order truth: engines pay once for a run and then for each row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fit {
    /// Nanoseconds for each row (a in a·n + b); never negative.
    pub row_ns: f64,
    /// Nanoseconds for each run (b in a·n + b); never negative.
    pub run_ns: f64,
}

impl Fit {
    /// The line through points of (rows, nanoseconds, runs) with the least squares of relative errors: a tenth too much is
    /// as wrong for one row as for a thousand. Sizes that run often count for more than those that were only measured. One
    /// point gives a line through nothing at no rows. Points at zero are ignored.
    pub fn of(points: &[(f64, f64, f64)]) -> Option<Fit> {
        let [mut weight, mut rows, mut time, mut rows_rows, mut rows_time] = [0.0; 5];
        let mut count = 0;
        for &(n, t, runs) in points.iter().filter(|(n, t, runs)| *n > 0.0 && *t > 0.0 && *runs > 0.0) {
            let w = runs / (t * t);
            count += 1;
            weight += w;
            rows += w * n;
            time += w * t;
            rows_rows += w * n * n;
            rows_time += w * n * t;
        }
        if count == 0 {
            return None;
        }
        let through_zero = Fit { row_ns: rows_time / rows_rows, run_ns: 0.0 };
        let spread = weight * rows_rows - rows * rows;
        if count == 1 || spread <= f64::EPSILON * weight * rows_rows {
            return Some(through_zero);
        }
        let row_ns = (weight * rows_time - rows * time) / spread;
        let run_ns = (time - row_ns * rows) / weight;
        // With one of them held at its bound, the best other one is that of a line with only it.
        Some(match (row_ns < 0.0, run_ns < 0.0) {
            (true, _) => Fit { row_ns: 0.0, run_ns: time / weight },
            (false, true) => through_zero,
            (false, false) => Fit { row_ns, run_ns },
        })
    }

    /// What a run of `rows` rows costs.
    pub fn at(&self, rows: usize) -> Duration {
        Duration::from_nanos(self.ns(rows) as u64)
    }

    /// The same in nanoseconds.
    pub(crate) fn ns(&self, rows: usize) -> f64 {
        self.row_ns * rows as f64 + self.run_ns
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(points: &[(f64, f64)], expected: Option<(f64, f64)>) {
        let points: Vec<(f64, f64, f64)> = points.iter().map(|(rows, nanos)| (*rows, *nanos, 1.0)).collect();
        let fit = Fit::of(&points).map(|fit| ((fit.row_ns * 1e3).round() / 1e3, (fit.run_ns * 1e3).round() / 1e3));
        assert_eq!(fit, expected, "{points:?}");
    }

    #[test]
    fn lines_through_few_points() {
        check(&[], None);
        check(&[(0.0, 5.0), (3.0, 0.0)], None);
        check(&[(4.0, 800.0)], Some((200.0, 0.0)));
        check(&[(1.0, 500.0), (2.0, 600.0), (64.0, 6_800.0)], Some((100.0, 400.0)));
        // Twice the same size says nothing about a slope.
        check(&[(2.0, 400.0), (2.0, 400.0)], Some((200.0, 0.0)));
    }

    #[test]
    fn neither_part_is_negative() {
        // Larger batches cost more than their rows: the line starts at nothing.
        let fit = Fit::of(&[(1.0, 100.0, 1.0), (2.0, 300.0, 1.0), (4.0, 900.0, 1.0)]).unwrap();
        assert!(fit.run_ns == 0.0 && fit.row_ns > 100.0, "{fit:?}");
        // Larger batches cost less: rows are free.
        let fit = Fit::of(&[(1.0, 300.0, 1.0), (2.0, 200.0, 1.0)]).unwrap();
        assert!(fit.row_ns == 0.0 && (200.0..300.0).contains(&fit.run_ns), "{fit:?}");
    }

    #[test]
    fn what_runs_often_counts_for_more() {
        // Clients send texts a fifth as long as the one that was measured.
        let fit = Fit::of(&[(1.0, 200.0, 2_000.0), (4.0, 800.0, 2_000.0), (64.0, 64_000.0, 24.0)]).unwrap();
        let off = fit.at(4).as_nanos() as f64 / 800.0;
        assert!((0.9..1.2).contains(&off), "{off}");
    }

    proptest! {
        #[test]
        fn a_noisy_line_is_found_again(
            row in 10.0f64..1e6,
            run in 0.0f64..1e7,
            noise in prop::collection::vec(0.97f64..1.03, 13),
        ) {
            let line = |n: f64| row * n + run;
            let points: Vec<(f64, f64, f64)> =
                (0..13).map(|k| f64::from(1 << k)).zip(&noise).map(|(n, off)| (n, line(n) * off, 30.0)).collect();
            let fit = Fit::of(&points).unwrap();
            prop_assert!(fit.row_ns >= 0.0 && fit.run_ns >= 0.0);
            for (n, _, _) in points {
                let off = fit.at(n as usize).as_nanos() as f64 / line(n);
                prop_assert!((0.9..1.1).contains(&off) || line(n) < 100.0, "{n} rows: {off}");
            }
        }
    }
}
