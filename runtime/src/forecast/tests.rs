//! Do forecasts follow what is known, and what was seen?

use proptest::prelude::*;

use super::*;

/// A row takes 1 ms, a run 10 ms more.
const FIT: Fit = Fit { row_ns: 1e6, run_ns: 1e7 };

fn ahead(jobs: usize, rows: usize, rows_max: usize, runs_max: usize) -> Ahead {
    let (line, apart) = (Some(FIT), 1.0 / runs_max as f64);
    Ahead {
        jobs,
        rows,
        rows_max,
        rows_lately: 1.0,
        line,
        apart,
        is_seen: false,
        free_at: Moment::default(),
        flood: None,
    }
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
    assert_eq!(rows(10), 3, "as many as take little more than one, late or not");
    assert_eq!(rows(1_000), 64);
    assert_eq!(Ahead { line: None, ..ahead(9, 9, 64, 1) }.rows_for(ms(1)), 64);
}

#[test]
fn what_runs_were_seen_to_take_is_the_wait_and_a_run_of_ones_own() {
    let seen = |rows_lately, free_at| Ahead { rows_lately, is_seen: true, free_at, ..ahead(70, 70, 64, 1) };
    let sure = |ahead: Ahead, left_ms| ahead.sure_wait(ms(left_ms), at(0));
    // A full run of 74 ms, then one of its own and the six that are left over, of 17 ms, doubted.
    assert_eq!(sure(seen(1.0, at(0)), 9_000), Duration::from_micros(95_250));
    // As many as lately will share it.
    assert_eq!(sure(seen(30.0, at(0)), 9_000), ms(124));
    // What runs must end first.
    assert_eq!(sure(seen(1.0, at(20)), 9_000), Duration::from_micros(115_250));
    // With little time it is for runs of 20 rows: three of 30 ms are before it, and 11 rows in its own.
    assert_eq!(sure(seen(1.0, at(0)), 50), Duration::from_micros(116_250));
    // Alone it waits for who runs, and doubts nothing; nor is it refused where nothing was seen, or there is room.
    let alone = |ahead: Ahead| Ahead { jobs: 0, rows: 0, ..ahead };
    assert_eq!(sure(alone(seen(1.0, at(20))), 9_000), ms(31));
    assert_eq!(sure(alone(seen(1.0, at(0))), 9_000), ms(0));
    assert_eq!(sure(alone(Ahead { free_at: at(20), ..ahead(1, 1, 64, 1) }), 9_000), ms(0));
}

#[test]
fn what_was_seen_lately_counts_most_and_one_hang_for_little() {
    let mut lately = Lately::default();
    (0..8).for_each(|_| {
        assert_eq!(lately.mean(), None);
        lately.see(2.0);
    });
    assert_eq!(lately.mean(), Some(2.0));
    (0..20).for_each(|_| lately.see(4.0));
    assert!(lately.mean().is_some_and(|mean| mean > 3.7));
    lately.see(6_000.0);
    assert!(lately.mean().is_some_and(|mean| mean < 6.0));
}

#[test]
fn a_pace_is_of_batches_that_wait_for_runs() {
    let mut pace = Pace::default();
    // A run takes as many milliseconds as it has rows. Every 20 ms one of 10 leaves, and others wait.
    let run_ns = |rows: usize| rows as f64 * 1e6;
    (0..=8).for_each(|take| pace.took(10, at(take * 20), true, true, run_ns));
    let rounded = |what: f64| (what * 1e6).round() / 1e6;
    assert_eq!((rounded(pace.apart(4)), pace.joined().map(rounded)), (2.0, Some(10.0)));
    // There is room then, and nobody to fill it, for a while.
    pace.pause();
    pace.took(1, at(900), false, false, run_ns);
    pace.took(1, at(1_000), false, false, run_ns);
    assert_eq!((rounded(pace.apart(4)), pace.joined().map(rounded)), (2.0, Some(10.0)));
    assert!(pace.rows() < 10.0);
    assert_eq!(pace.last(), Some((at(1_000), 1)));
    assert_eq!(Pace::default().apart(4), 0.25);
    // Runs tell for themselves, whoever waits.
    (0..8).for_each(|run| pace.finished(Some(3.0), at(1_000 + run)));
    assert_eq!(pace.slower().map(rounded), Some(3.0));
    assert!(!pace.is_old(at(2_000)) && pace.is_old(at(2_008)));
}

proptest! {
    #[test]
    fn more_ahead_never_means_a_shorter_wait(
        jobs in 0usize..5_000, rows in 0usize..100_000, more in 0usize..1_000,
        rows_max in 1usize..200, runs_max in 1usize..64, left_ms in 0u64..5_000,
    ) {
        let ahead = ahead(jobs, rows, rows_max, runs_max);
        let longer = Ahead { jobs: jobs + more, rows: rows + more, ..ahead };
        let wait = |ahead: Ahead| ahead.wait(at(0)).unwrap();
        let sure_wait = |ahead: Ahead| ahead.sure_wait(ms(left_ms), at(0));
        prop_assert!(wait(longer) >= wait(ahead));
        prop_assert!(sure_wait(longer) >= sure_wait(ahead));
        let helped = Ahead { apart: ahead.apart / 2.0, ..ahead };
        prop_assert!(wait(helped) <= wait(ahead) && sure_wait(helped) <= sure_wait(ahead));
        let busy = Ahead { free_at: at(9), ..ahead };
        prop_assert!(sure_wait(busy) >= sure_wait(ahead));
        // Waiting is never predicted to be longer than running everything alone, one after the other.
        let alone = FIT.row_ns * rows as f64 + FIT.run_ns * jobs.max(rows) as f64;
        prop_assert!(wait(ahead).as_nanos() as f64 <= alone + 1.0);
    }
}

#[test]
fn in_a_flood_the_door_opens_when_what_comes_still_fills_the_run() {
    // A run of 64 rows takes 74 ms and ends at 100; 64 rows come in 8 ms.
    let flood = Some(Flood { rows: 8e-6, door: 1.0 });
    let ahead = |rows| Ahead { is_seen: true, free_at: at(100), flood, ..ahead(rows, rows, 64, 1) };
    let early = |ahead: Ahead, left_ms, now_ms| ahead.too_early(ms(left_ms), at(now_ms));
    // A quarter of the run before, which is more than twice the time that it takes to fill it.
    assert_eq!(early(ahead(0), 150, 0), Some(Duration::from_micros(81_500)));
    assert_eq!(early(ahead(0), 150, 82), None);
    // Who has time for more runs may wait for longer, and who has time for many as long as there is room.
    assert_eq!(early(ahead(0), 300, 0), Some(ms(24)));
    assert_eq!(early(ahead(0), 592, 0), None);
    // The next run is full already.
    assert_eq!(early(ahead(64), 150, 95), Some(Duration::from_micros(60_500)));
    // It found too few the last time.
    let wide = Ahead { flood: Some(Flood { rows: 8e-6, door: 4.0 }), ..ahead(0) };
    assert_eq!(early(wide, 150, 0), Some(ms(26)));
    assert_eq!(early(Ahead { flood: None, ..ahead(0) }, 150, 0), None);
    assert_eq!(early(Ahead { is_seen: false, ..ahead(0) }, 150, 0), None);
}

#[test]
fn a_flood_is_what_comes_twice_in_a_row() {
    let mut pace = Pace::default();
    let mut take = |came: usize, left_some, was_early, at_ms| {
        pace.came(came);
        if was_early {
            pace.was_early();
        }
        pace.gauge(8, 16, left_some, at(at_ms));
        pace.took(16, at(at_ms), left_some, true, |_| 1e6);
        pace.flood()
    };
    assert_eq!(take(100, false, false, 10), None, "nobody knows since when they came");
    assert_eq!(take(16, false, false, 20), None);
    // Forty requests of two rows in 10 ms.
    assert_eq!(take(40, false, false, 30), Some(Flood { rows: 8e-6, door: 1.0 }));
    // Others could have filled it: the door opens wider, and closes again where some are left.
    assert_eq!(take(40, false, true, 40).map(|flood| flood.door), Some(2.0));
    assert_eq!(take(40, true, true, 50).map(|flood| flood.door), Some(1.8));
    assert_eq!(take(15, false, true, 60), None, "it is over");
}
