//! Are keys destroyed, and only those, and is nothing of a person's readable afterwards?

use std::path::Path;

use proptest::prelude::*;
use tiltyard_types::{RequestId, Tensor};

use super::*;
use crate::seal::Sealer;
use crate::tests::segments;
use crate::{Capture, Limits, Opened, Record, Segment, Value, verify};

const NOW_US: u64 = 1_764_374_400_000_000;
const MASTER: Key = [9; 32];
const MARKER: f64 = 1_234_567.898_765_432;

fn limits() -> Limits {
    Limits { shards: 1, ring_bytes: 1 << 18, ..Limits::default() }
}

fn open(folder: &Path) -> Capture {
    Capture::open_with(folder, &limits(), Some(&MASTER)).expect("it opens")
}

/// A request of somebody, with a value that is found in whatever holds it.
fn offer(capture: &Capture, number: u128, subject: &'static str, at_us: u64) {
    let x = Tensor::from_slice([1, 1], &[MARKER + number as f64]).expect("one");
    let text = Tensor::strings([1].as_slice().into(), vec![format!("marker of {subject}").into()]).expect("one");
    let record = Record {
        request: RequestId::from_bits(number),
        unix_us: at_us,
        endpoint: "risk".into(),
        model: "risk".into(),
        key: Some(7),
        headers: vec![("x-customer".into(), Some(subject.into()))],
        inputs: vec![Value::of("x", &x), Value::of("text", &text)],
        subjects: vec![subject.into()],
        ..Record::empty()
    };
    capture.offer(&record).expect("captured");
}

/// What can be read of each request: the marker's number, or nothing.
fn readable(folder: &Path) -> Vec<Option<f64>> {
    let keys = Keys::open(folder, &MASTER).expect("keys");
    let mut found = Vec::new();
    for path in segments(folder) {
        let segment = Segment::open(&path).expect("a segment");
        assert!(segment.is_sealed());
        for row in segment.opened(Some(&keys)).expect("there are keys") {
            found.push(match row.expect("what was sealed").1 {
                Opened::Row(row) => row.inputs[0].tensor.to_vec::<f64>().map(|x| x[0] - MARKER),
                Opened::Erased => None,
            });
        }
    }
    found
}

/// Whether bytes are in any file of the folder.
fn holds(folder: &Path, bytes: &[u8]) -> bool {
    fs::read_dir(folder).expect("a folder").flatten().any(|entry| match entry.path() {
        path if path.is_dir() => holds(&path, bytes),
        path => fs::read(&path).expect("a file").windows(bytes.len()).any(|window| window == bytes),
    })
}

#[test]
fn an_erased_person_is_nowhere_and_all_others_are_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let capture = open(folder);
    for (number, subject) in ["ann", "bob", "ann", ""].into_iter().enumerate() {
        offer(&capture, number as u128, subject, NOW_US);
    }
    assert!(holds(folder, b"marker of ann"), "the ring has it, until a segment is made");
    capture.flush(NOW_US).expect("it drains");
    for plain in [&b"marker of ann"[..], b"marker of bob", &(MARKER + 1.0).to_le_bytes(), b"ann"] {
        assert!(!holds(folder, plain), "{plain:?} is on the disk");
    }
    assert_eq!(readable(folder), [Some(0.0), Some(1.0), Some(2.0), Some(3.0)]);
    let held = fs::read(folder.join("keys")).expect("keys");

    let erased = Keys::open(folder, &MASTER).expect("keys").erase("ann", None, NOW_US / 1000 + 5).expect("erased");
    assert_eq!(erased.keys, 1);
    assert_eq!(readable(folder), [None, Some(1.0), None, Some(3.0)]);
    let wrapped = &held[place(0) as usize + WRAPPED..][..48];
    assert!(!holds(folder, wrapped), "the key is written over");
    // A request from before is still in the ring; a later one is of a person who came back.
    offer(&capture, 4, "ann", NOW_US + 1000);
    offer(&capture, 5, "ann", NOW_US + 6000);
    offer(&capture, 6, "bob", NOW_US + 1000);
    capture.flush(NOW_US + 9000).expect("it drains");
    assert_eq!(readable(folder), [None, Some(1.0), None, Some(3.0), None, Some(5.0), Some(6.0)]);

    let verified = verify(folder).expect("the manifest is whole");
    assert_eq!((verified.rows, verified.faults), (7, vec![]));
    let manifest = fs::read_to_string(folder.join("segments.jsonl")).expect("the manifest");
    let lines: Vec<&str> = manifest.lines().filter(|line| line.contains("capture.erased")).collect();
    assert!(lines.len() == 1 && lines[0].contains(&erased.commitment) && !manifest.contains("ann"), "{manifest}");
    drop(capture);
    drop(open(folder));
    let again = fs::read_to_string(folder.join("segments.jsonl")).expect("the manifest");
    assert_eq!(again, manifest, "it is on the record once");
}

#[test]
fn an_erasure_is_of_one_endpoint_where_that_is_asked() {
    let folder = tempfile::tempdir().expect("a folder");
    let capture = open(folder.path());
    offer(&capture, 0, "ann", NOW_US);
    capture.flush(NOW_US).expect("it drains");
    let mut keys = Keys::open(folder.path(), &MASTER).expect("keys");
    assert_eq!(keys.erase("ann", Some("other"), NOW_US).expect("erased").keys, 0);
    assert_eq!(readable(folder.path()), [Some(0.0)]);
    assert_eq!(keys.erase("ann", Some("risk"), NOW_US).expect("erased").keys, 1);
    assert_eq!(readable(folder.path()), [None]);
}

#[test]
fn another_master_key_opens_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    drop(open(folder.path()));
    let told = Capture::open_with(folder.path(), &limits(), Some(&[1; 32])).expect_err("another key").to_string();
    assert!(told.contains("another master key"), "{told}");
    assert!(Keys::open(folder.path(), &[1; 32]).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A sealed row that is changed anywhere, or stands in another place, opens as nothing.
    #[test]
    fn a_changed_row_is_not_opened(at in any::<prop::sample::Index>(), byte in 1u8.., number in 1u64..) {
        let folder = tempfile::tempdir().expect("a folder");
        let mut keys = Keys::open(folder.path(), &MASTER).expect("keys");
        let x = Tensor::from_slice([1, 1], &[MARKER]).expect("one");
        let record = Record { inputs: vec![Value::of("x", &x)], subjects: vec!["ann".into()], ..Record::empty() };
        let sealer = Sealer::new(&keys).expect("a salt");
        let row = sealer.seal(&mut keys, &record, 0, 0).expect("sealed");
        let whole = sealer.open(&keys, &row, 0).expect("it opens");
        prop_assert_eq!(whole, Opened::Row(Box::new(record.row(0))));
        prop_assert!(sealer.open(&keys, &row, number).is_err(), "another place");
        let mut sealed = row.inputs[0].tensor.as_strings().expect("texts")[0].to_vec();
        let at = at.index(sealed.len());
        sealed[at] ^= byte;
        let tensor = Tensor::strings([1].as_slice().into(), vec![sealed.into()]).expect("one");
        let changed = Record { inputs: vec![Value::of("sealed", &tensor)], ..row.clone() };
        prop_assert!(sealer.open(&keys, &changed, 0).is_err(), "byte {}", at);
        let elsewhere = Record { latency_ns: row.latency_ns + 1, ..row };
        prop_assert!(sealer.open(&keys, &elsewhere, 0).is_err(), "other facts");
    }
}

/// Rows that are somebody's are never written as they are, whoever drains them.
#[test]
fn without_keys_private_rows_wait() {
    let folder = tempfile::tempdir().expect("a folder");
    let capture = Capture::open(folder.path(), &limits()).expect("it opens");
    offer(&capture, 0, "ann", NOW_US);
    let told = capture.flush(NOW_US).expect_err("there are no keys").to_string();
    assert!(told.contains("master key"), "{told}");
    assert!(segments(folder.path()).is_empty() && capture.state().failing.is_some());
    drop(capture);
    open(folder.path()).flush(NOW_US).expect("it drains");
    assert_eq!(readable(folder.path()), [Some(0.0)]);
}

/// What a process left that was killed between the mark and the zeros is written over at the next start.
#[test]
fn what_was_drained_is_wiped_at_the_next_start() {
    let folder = tempfile::tempdir().expect("a folder");
    let capture = open(folder.path());
    offer(&capture, 0, "ann", NOW_US);
    let ring = fs::read(folder.path().join("ring")).expect("the ring");
    capture.flush(NOW_US).expect("it drains");
    drop(capture);
    let drained = fs::read(folder.path().join("ring")).expect("the ring");
    // The control pages as they are now, the area as it was.
    let mut left = ring;
    left[..8192].copy_from_slice(&drained[..8192]);
    fs::write(folder.path().join("ring"), &left).expect("it can be written");
    assert!(holds(folder.path(), b"marker of ann"));
    drop(open(folder.path()));
    assert!(!holds(folder.path(), b"marker of ann"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// A file of keys that is cut or changed anywhere never gives a wrong key, and never panics.
    #[test]
    fn a_damaged_file_gives_no_wrong_key(at in any::<prop::sample::Index>(), byte in 1u8..) {
        let folder = tempfile::tempdir().expect("a folder");
        let mut keys = Keys::open(folder.path(), &MASTER).expect("keys");
        let made = keys.locked(|keys| {
            let made: Vec<_> = ["ann", "bob", "eve"].iter().map(|name| keys.sealing_key("risk", name, 1).expect("a key")).collect();
            keys.save()?;
            Ok(made)
        }).expect("saved");
        let path = folder.path().join("keys");
        let mut content = fs::read(&path).expect("keys");
        let at = at.index(content.len());
        content[at] ^= byte;
        fs::write(&path, &content).expect("it can be written");
        if let Ok(keys) = Keys::open(folder.path(), &MASTER) {
            for (name, key) in &made {
                let found = keys.opening_key(name).expect("it can be read");
                prop_assert!(found.is_none_or(|found| found == *key));
            }
        }
        content.truncate(at);
        fs::write(&path, &content).expect("it can be written");
        if let Ok(mut keys) = Keys::open(folder.path(), &MASTER) {
            let again = keys.locked(|keys| { let key = keys.sealing_key("risk", "ann", 1); keys.save()?; key });
            let (name, key) = again.expect("a key");
            prop_assert_eq!(keys.opening_key(&name).expect("it can be read"), Some(key));
        }
    }
}
