//! Does the cost of runs come out right whatever the machine does between them?

use proptest::prelude::*;

use super::*;

const MICROSECOND: f64 = 1_000.0;

/// Observes `runs` runs of each of `sizes` with the line's time, some spread, and one in a hundred interrupted for 4 ms.
fn observe_line(cost: &Cost, sizes: &[usize], row_us: f64, run_us: f64, runs: usize) {
    for &rows in sizes {
        for number in 0..runs {
            let spread = 0.95 + 0.1 * (number % 7) as f64 / 6.0;
            let interrupted = if number % 100 == 50 { 4e6 } else { 0.0 };
            let nanos = (row_us * rows as f64 + run_us) * MICROSECOND * spread + interrupted;
            cost.observe(rows, Duration::from_nanos(nanos as u64));
        }
    }
    cost.settle();
}

#[track_caller]
fn close(actual: Option<Duration>, expected_us: f64) {
    let actual = actual.expect("known").as_nanos() as f64 / MICROSECOND;
    assert!((actual / expected_us - 1.0).abs() < 0.1, "{actual} µs, expected about {expected_us} µs");
}

#[test]
fn nothing_is_known_at_first() {
    let cost = Cost::default();
    assert_eq!((cost.predict(1), cost.p99(1), cost.fit()), (None, None, None));
    assert_eq!((cost.rows_quick(), cost.best_rows(64), cost.rows_known_max()), (0, 64, None));
    cost.observe(1, Duration::from_micros(5));
    assert_eq!((cost.predict(1), cost.rows_quick()), (None, 0), "one run may be any run");
}

#[test]
fn a_small_model_is_known_through_the_noise() {
    let cost = Cost::default();
    observe_line(&cost, &[1, 2, 4, 8, 16, 32, 64], 0.1, 4.0, 500);
    let fit = cost.fit().unwrap();
    assert!((0.09..0.11).contains(&(fit.row_ns / MICROSECOND)), "{fit:?}");
    close(cost.predict(1), 4.1);
    close(cost.predict(64), 10.4);
    close(cost.predict(300), 34.0);
    close(cost.p99(8), 4.8 * 1.05);
    assert_eq!(cost.rows_quick(), 128, "twice of 64, which take less than half of the bound");
    assert_eq!(cost.best_rows(64), 64, "its rows are nearly free");
    assert_eq!(cost.rows_known_max(), Some(64));
}

#[test]
fn quick_is_what_stays_quick_in_bad_moments() {
    #[track_caller]
    fn check(p99s_us: &[u64], before: usize, expected: usize) {
        let p99s: Vec<Option<Duration>> =
            p99s_us.iter().map(|&us| Some(Duration::from_micros(us)).filter(|_| us > 0)).collect();
        assert_eq!(rows_quick(&p99s, before), expected, "{p99s_us:?}, {before} before");
    }
    check(&[], 64, 0);
    check(&[5, 6, 8, 11, 17, 30, 60], 0, 32);
    check(&[5, 6, 8, 11, 17, 30, 60], 64, 64);
    check(&[5, 6, 8, 11, 17, 30, 110], 64, 32);
    // Not known, or too fast for the largest size: what is known counts, twice it where that is sure.
    check(&[5, 0, 0, 24, 0], 0, 16);
    check(&[5, 0, 0, 26, 0], 0, 8);
    // A size seen in a bad moment does not rule out those above it, one that is slow does.
    check(&[5, 6, 70, 11, 30], 0, 16);
    check(&[5, 6, 300, 11, 30], 16, 2);
    check(&[300, 6, 7], 4, 0);
}

#[test]
fn a_large_model_gains_nothing_from_batches() {
    let cost = Cost::default();
    observe_line(&cost, &[1, 2, 4, 8], 35_000.0, 400.0, 20);
    assert_eq!(cost.rows_quick(), 0);
    assert_eq!(cost.best_rows(8), 1);
}

#[test]
fn what_was_not_tried_is_not_ruled_out() {
    let cost = Cost::default();
    observe_line(&cost, &[1, 2], 1.0, 20.0, 40);
    assert_eq!(cost.best_rows(64), 64, "the largest batch so far is the best: larger ones may be better");
    assert_eq!(cost.best_rows(2), 2);
}

#[test]
fn sizes_between_powers_of_two_keep_their_size() {
    let cost = Cost::default();
    observe_line(&cost, &[1, 3, 12, 48], 10.0, 50.0, 200);
    let rows: Vec<f64> = cost.points().iter().map(|point| point.rows).collect();
    assert_eq!(rows, [1.0, 3.0, 12.0, 48.0]);
    close(cost.predict(3), 80.0);
    close(cost.predict(48), 530.0);
}

#[test]
fn old_runs_fade() {
    let cost = Cost::default();
    observe_line(&cost, &[1], 0.0, 10.0, 5_000);
    close(cost.predict(1), 10.0);
    observe_line(&cost, &[1], 0.0, 30.0, 20_000);
    close(cost.predict(1), 30.0);
    let runs = cost.points()[0].runs;
    assert!(runs < 10_000, "{runs} runs still count");
}

#[test]
fn what_was_known_is_recalled() {
    let (before, after) = (Cost::default(), Cost::default());
    observe_line(&before, &[1, 4, 64], 2.0, 30.0, 300);
    after.recall(&before.points());
    for (old, new) in before.points().into_iter().zip(after.points()) {
        assert_eq!((old.rows, 32), (new.rows, new.runs));
        close(Some(new.typical), old.typical.as_nanos() as f64 / MICROSECOND);
        close(new.p99, old.p99.unwrap().as_nanos() as f64 / MICROSECOND);
    }
    assert_eq!(before.points().len(), after.points().len());
}

#[test]
fn threads_observe_together() {
    let cost = Cost::default();
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| observe_line(&cost, &[1, 16], 1.0, 10.0, 3_000));
        }
    });
    cost.settle();
    close(cost.predict(1), 11.0);
    close(cost.predict(16), 26.0);
}

proptest! {
    #[test]
    fn answers_hold_for_any_history(
        runs in prop::collection::vec((0usize..10_000, 0u64..100_000_000_000), 0..400),
        limit in 1usize..5_000,
    ) {
        let cost = Cost::default();
        runs.iter().for_each(|&(rows, nanos)| cost.observe(rows, Duration::from_nanos(nanos)));
        cost.settle();
        let quick = cost.rows_quick();
        prop_assert!(quick == 0 || [quick, quick / 2].iter().any(|&rows| cost.p99(rows).is_some_and(|p99| p99 <= 2 * QUICK)));
        prop_assert!((1..=limit).contains(&cost.best_rows(limit)));
        if let Some(fit) = cost.fit() {
            prop_assert!(fit.row_ns >= 0.0 && fit.run_ns >= 0.0 && fit.row_ns.is_finite() && fit.run_ns.is_finite());
        }
    }
}
