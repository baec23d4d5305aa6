//! Does each row come into one segment, after whichever step of a cycle the process ends?

use std::collections::BTreeMap;

use proptest::prelude::*;
use tiltyard_types::RequestId;

use super::*;
use crate::tests::{segments, table};
use crate::{Capture, Limits};

const NOW_US: u64 = 1_764_374_400_000_000;

fn limits() -> Limits {
    Limits { shards: 2, ring_bytes: 1 << 17, ..Limits::default() }
}

fn offer(capture: &Capture, number: u128) {
    // Three segments in each cycle.
    let record = Record {
        request: RequestId::from_bits(number),
        version: (number % 3) as u64,
        unix_us: NOW_US,
        ..Record::empty()
    };
    capture.offer(&record).expect("captured");
}

/// How often each request's row is there.
fn rows(folder: &Path) -> BTreeMap<String, u32> {
    let mut rows = BTreeMap::new();
    for row in segments(folder).iter().flat_map(|path| table(path)) {
        *rows.entry(row["request_id"].clone()).or_default() += 1;
    }
    rows
}

fn check_whole(folder: &Path, requests: usize) {
    let found = rows(folder);
    assert!(found.len() == requests && found.values().all(|count| *count == 1), "{found:?}");
    let verified = crate::verify(folder).expect("the manifest is whole");
    assert_eq!((verified.rows, verified.faults), (requests as u64, vec![]));
    assert!(
        !folder.join("commit.json").exists() && fs::read_dir(folder.join("making")).expect("it is there").count() == 0
    );
}

/// Ends a cycle after `steps`; `None` for before it has happened.
fn broken_off(capture: &Capture, steps: Option<usize>) {
    let mut drain = crate::lock(&capture.drain);
    let taken = take(&capture.ring, &capture.layouts, usize::MAX, None).expect("nobody's rows");
    let commit = drain.prepare(&capture.ring, &taken, NOW_US).expect("it is written");
    match steps {
        None => fs::remove_file(drain.commit_path()).expect("it was there"),
        Some(steps) => drain.finish(&capture.ring, &commit, steps, false).expect("so far it goes"),
    }
}

#[test]
fn a_cycle_happens_wholly_or_not_at_all() {
    for steps in [None].into_iter().chain((0..9).map(Some)) {
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path();
        let capture = Capture::open(folder, &limits()).expect("it opens");
        (0..20).for_each(|number| offer(&capture, number));
        broken_off(&capture, steps);
        let verified = crate::verify(folder).expect("the manifest is whole");
        assert_eq!(verified.faults, Vec::<String>::new(), "what is on its way is no fault, after {steps:?}");
        drop(capture);
        let capture = Capture::open(folder, &limits()).expect("it opens");
        if steps.is_some() {
            check_whole(folder, 20);
        }
        (20..25).for_each(|number| offer(&capture, number));
        capture.flush(NOW_US).expect("it drains");
        check_whole(folder, 25);
        assert_eq!(capture.counters().captured, 25);
    }
}

/// Where a step fails, such as with a full disk, the same process goes on from there.
#[test]
fn a_cycle_that_failed_is_finished_by_the_next() {
    for steps in 0..6 {
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path();
        let capture = Capture::open(folder, &limits()).expect("it opens");
        (0..20).for_each(|number| offer(&capture, number));
        broken_off(&capture, Some(steps));
        (20..25).for_each(|number| offer(&capture, number));
        assert_eq!(capture.flush(NOW_US).expect("it drains").rows, 5);
        check_whole(folder, 25);
    }
}

#[test]
fn where_nothing_can_be_written_nothing_is_lost() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let capture = Capture::open(folder, &limits()).expect("it opens");
    (0..20).for_each(|number| offer(&capture, number));
    // A folder that is a file takes nothing, whoever writes.
    fs::rename(folder.join("making"), folder.join("away")).expect("it was there");
    fs::write(folder.join("making"), b"").expect("it can be written");
    for _ in 0..3 {
        assert!(capture.flush(NOW_US).is_err(), "there is no room");
    }
    let state = capture.state();
    assert!(state.failures == 3 && state.failing.is_some_and(|why| why.contains("making")), "{:?}", capture.state());
    fs::remove_file(folder.join("making")).expect("it was there");
    fs::rename(folder.join("away"), folder.join("making")).expect("it was there");
    assert_eq!(capture.flush(NOW_US).expect("there is room").rows, 20);
    assert_eq!(capture.state().failing, None);
    check_whole(folder, 20);
}

#[test]
fn a_ring_that_was_taken_away_does_not_stop_the_next_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let capture = Capture::open(folder, &limits()).expect("it opens");
    (0..20).for_each(|number| offer(&capture, number));
    broken_off(&capture, Some(0));
    drop(capture);
    fs::remove_file(folder.join("ring")).expect("it was there");
    let capture = Capture::open(folder, &limits()).expect("it opens");
    (20..22).for_each(|number| offer(&capture, number));
    assert_eq!(capture.flush(NOW_US).expect("it drains").rows, 2);
    check_whole(folder, 22);
}

#[test]
fn a_little_memory_makes_more_cycles() {
    let folder = tempfile::tempdir().expect("a folder");
    let capture = Capture::open(folder.path(), &Limits { segment_bytes: 1000, ..limits() }).expect("it opens");
    (0..20).for_each(|number| offer(&capture, number));
    let drained = capture.drain(NOW_US).expect("it drains");
    assert!(drained.has_more && drained.rows < 20, "{drained:?}");
    assert_eq!(capture.flush(NOW_US).expect("it drains").rows + drained.rows, 20);
    check_whole(folder.path(), 20);
}

proptest! {
    #[test]
    fn an_escaped_name_is_one_part_of_a_path(name in ".{0,12}", other in ".{0,12}") {
        let escaped = escaped(&name);
        prop_assert!(escaped.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_%".contains(&byte)), "{}", escaped);
        prop_assert_eq!(escaped == super::escaped(&other), name == other);
    }
}

#[test]
fn days_have_dates() {
    for (day, expected) in [(0, "1970-01-01"), (20_421, "2025-11-29"), (11_016, "2000-02-29"), (u64::MAX, "9999-12-31")]
    {
        assert_eq!(date(day), expected);
    }
}
