//! Do forecasts follow what is known, and what was seen?

use proptest::prelude::*;

use super::*;

/// A row takes 1 ms, a run 10 ms more.
const FIT: Fit = Fit { row_ns: 1e6, run_ns: 1e7 };

fn ahead(jobs: usize, rows: usize, rows_max: usize, runs_max: usize) -> Ahead {
    Ahead { jobs, rows, rows_max, runs_max, line: Some(FIT), ..Ahead::default() }
}

fn at(ms: u64) -> Moment {
    Moment::from_nanos(ms * 1_000_000)
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[test]
fn waits_by_the_cost_of_runs() {
    let check = |jobs, rows, rows_max, runs_max, expected_ms: u64| {
        let wait = ahead(jobs, rows, rows_max, runs_max).wait(at(0));
        assert_eq!(wait, Some(ms(expected_ms)), "{jobs} {rows} {rows_max} {runs_max}");
    };
    check(0, 0, 64, 2, 0);
    // They fit into the next batch, and so does who comes now.
    check(5, 5, 64, 1, 0);
    check(63, 63, 64, 1, 0);
    check(64, 64, 64, 1, 74);
    check(100, 130, 64, 1, 148);
    check(100, 130, 64, 2, 74);
    // Each request is a run of its own, of 4 rows.
    check(3, 12, 4, 1, 42);
    check(4, 4, 1, 2, 22);
    assert_eq!(Ahead { line: None, ..ahead(64, 64, 64, 1) }.wait(at(0)), None);
    // What runs now must end first.
    let busy = Ahead { free_at: at(30), ..ahead(5, 5, 64, 1) };
    assert_eq!(busy.wait(at(10)), Some(ms(20)));
    assert_eq!(busy.wait(at(31)), Some(ms(0)));
}

#[test]
fn what_is_not_sure_is_no_reason_to_refuse() {
    let sure = |ahead: Ahead| ahead.sure_wait(Duration::from_secs(9), at(0));
    // A full run before it, and at least its own row's.
    assert_eq!(sure(ahead(64, 64, 64, 1)), Duration::from_millis(85).div_f64(DOUBT));
    assert_eq!(sure(ahead(63, 63, 64, 1)), Duration::from_micros(8_800));
    assert_eq!(sure(ahead(0, 0, 64, 1)), ms(0));
    assert_eq!(sure(Ahead { line: None, ..ahead(64, 64, 64, 1) }), ms(0));
}

#[test]
fn a_run_is_no_larger_than_leaves_time_to_wait() {
    let rows = |time_ms| ahead(9, 9, 64, 1).rows_for(ms(time_ms));
    // Three quarters of it, and doubt: 0.6 of 50 ms are 30, of which 10 go whatever the rows.
    assert_eq!(rows(50), 20);
    assert_eq!(rows(10), 1, "one row at least, late or not");
    assert_eq!(rows(1_000), 64);
    assert_eq!(Ahead { line: None, ..ahead(9, 9, 64, 1) }.rows_for(ms(1)), 64);
}

#[test]
fn rows_that_were_seen_to_leave_say_more_than_what_runs_cost() {
    let mut pace = Pace::default();
    for take in 0..=8 {
        assert_eq!(pace.batch(), None);
        assert_eq!(Ahead::line_of(Some(FIT), &pace, 2), Some(FIT));
        pace.took(10, at(take * 200), true);
    }
    let seen = |pace: &Pace| pace.batch().map(|(rows, apart_ns)| (rows.round(), apart_ns.round()));
    assert_eq!(seen(&pace), Some((10.0, 2e8)));
    // Ten rows should take 20 ms. In two sessions they leave each 200 ms: a run takes 400, twenty times as long.
    let rounded = |line: Option<Fit>| line.map(|line| Fit { row_ns: line.row_ns.round(), run_ns: line.run_ns.round() });
    let line = rounded(Ahead::line_of(Some(FIT), &pace, 2));
    assert_eq!(line, Some(Fit { row_ns: 2e7, run_ns: 2e8 }));
    assert_eq!(rounded(Ahead::line_of(None, &pace, 2)), Some(Fit { row_ns: 4e7, run_ns: 0.0 }));
    let ahead = Ahead { line, is_paced: true, ..ahead(64, 64, 10, 2) };
    assert_eq!(ahead.wait(at(0)), Some(ms(1_200)), "six runs of ten rows, two at once");
    assert_eq!(ahead.sure_wait(ms(9_000), at(0)), ms(1_700), "its own run is part of it, and doubted");
    assert_eq!(Ahead { jobs: 0, rows: 0, ..ahead }.sure_wait(ms(1), at(0)), ms(0));
    // Twice as slow from now on: soon it shows.
    (1..=20).for_each(|take| pace.took(10, at(1600 + take * 400), true));
    assert!(pace.batch().is_some_and(|(_, apart_ns)| apart_ns > 3.7e8));
}

#[test]
fn time_in_which_a_session_was_free_says_nothing_of_runs() {
    let mut pace = Pace::default();
    (0..=8).for_each(|take| pace.took(10, at(take * 200), true));
    let seen = |pace: &Pace| pace.batch().map(|(rows, apart_ns)| (rows.round(), apart_ns.round()));
    let before = seen(&pace);
    // The last one is done, and there is no next one for a while; nor does it fill all sessions.
    pace.rest(at(1_800));
    pace.rest(at(1_900));
    pace.took(10, at(2_300), false);
    pace.took(10, at(2_900), true);
    assert_eq!(seen(&pace), before);
    assert_eq!(pace.last(), Some((at(2_900), 10)));
    pace.rest(at(3_100));
    assert_eq!(seen(&pace), before);
    // After a longer one what was seen is of another time.
    pace.took(10, at(60_000), true);
    assert_eq!(pace.batch(), None);
}

proptest! {
    #[test]
    fn more_ahead_never_means_a_shorter_wait(
        jobs in 0usize..5_000, rows in 0usize..100_000, more in 0usize..1_000,
        rows_max in 1usize..200, runs_max in 1usize..64, is_paced: bool, left_ms in 0u64..5_000,
    ) {
        let ahead = Ahead { is_paced, ..ahead(jobs, rows, rows_max, runs_max) };
        let longer = Ahead { jobs: jobs + more, rows: rows + more, ..ahead };
        let wait = |ahead: Ahead| ahead.wait(at(0)).unwrap();
        let sure_wait = |ahead: Ahead| ahead.sure_wait(ms(left_ms), at(0));
        prop_assert!(wait(longer) >= wait(ahead));
        prop_assert!(sure_wait(longer) >= sure_wait(ahead));
        let helped = Ahead { runs_max: runs_max + 1, ..ahead };
        prop_assert!(wait(helped) <= wait(ahead) && sure_wait(helped) <= sure_wait(ahead));
        let busy = Ahead { free_at: at(9), ..ahead };
        prop_assert!(sure_wait(busy) >= sure_wait(ahead));
        // Waiting is never predicted to be longer than running everything alone, one after the other.
        let alone = FIT.row_ns * rows as f64 + FIT.run_ns * jobs.max(rows) as f64;
        prop_assert!(wait(ahead).as_nanos() as f64 <= alone + 1.0);
    }
}
