//! Does the capture keep its promises, as a server meets them?

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use bytes::Bytes;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field as Cell;
use tiltyard_types::{DataType, Digest, ErrorKind, RequestId, Shape, Tensor};

use super::*;

const NOW_US: u64 = 1_764_374_400_000_000;

fn limits() -> Limits {
    Limits { shards: 1, ring_bytes: 1 << 18, ..Limits::default() }
}

fn tensor(rows: usize, width: usize) -> Tensor {
    let values: Vec<f32> = (0..rows * width).map(|at| at as f32).collect();
    Tensor::from_slice([rows, width], &values).expect("as many as the shape says")
}

/// A request of endpoint `risk` with this number.
fn record(number: u128, features: &Tensor) -> Record<'_> {
    Record {
        request: RequestId::from_bits(number),
        rows: features.shape().rows().expect("rows") as u32,
        unix_us: NOW_US,
        endpoint: "risk".into(),
        model: "risk".into(),
        digest: Digest::new([7; 32]),
        inputs: vec![Value::of("features", features)],
        ..Record::empty()
    }
}

/// All files of segments, in order of their names.
pub(crate) fn segments(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = Kept::find(&folder.join("segments")).into_files().collect();
    found.sort();
    found.into_iter().map(|file| folder.join("segments").join(file)).collect()
}

/// The rows of a segment by column, as the Parquet crate prints them.
pub(crate) fn table(path: &Path) -> Vec<BTreeMap<String, String>> {
    let file = SerializedFileReader::new(fs::File::open(path).expect("it opens")).expect("a segment");
    let cells = |row: parquet::record::Row| {
        let text = |cell: &Cell| match cell {
            Cell::Bytes(bytes) => format!("{:?}", bytes.data()),
            other => other.to_string(),
        };
        row.get_column_iter().map(|(name, cell)| (name.clone(), text(cell))).collect()
    };
    file.get_row_iter(None).expect("rows").map(|row| cells(row.expect("a row"))).collect()
}

#[test]
fn rows_have_typed_columns_and_nulls() {
    let folder = tempfile::tempdir().expect("a folder");
    let capture = Capture::open(folder.path(), &limits()).expect("it opens");
    let field = |name: &str, dtype, axes, form| Field { name: name.into(), dtype, axes, form };
    let layout = capture
        .note(Layout {
            inputs: vec![
                field("features", DataType::Fp32, 2, Form::Columns(vec!["age".into(), "income".into()])),
                field("country", DataType::Bytes, 1, Form::One),
                field("tokens", DataType::Int64, 2, Form::List),
            ],
            outputs: vec![
                field("score", DataType::Fp64, 1, Form::One),
                field("age", DataType::Bool, 1, Form::One),
                field("image", DataType::Uint8, 3, Form::List),
            ],
            headers: vec!["tenant".into()],
            is_sealed: false,
        })
        .expect("it is noted");
    let features = Tensor::from_slice([2, 2], &[41f32, f32::NAN, -0.0, 1.5]).expect("four");
    let country = Tensor::strings(Shape::from([2]), vec!["GB".into(), "Zürich".into()]).expect("two");
    let tokens = Tensor::from_slice([2, 0], &[0i64; 0]).expect("none");
    let score = Tensor::from_slice([2], &[0.25f64, f64::INFINITY]).expect("two");
    let flags = Tensor::fixed(DataType::Bool, Shape::from([2]), Bytes::from_static(&[1, 0])).expect("two");
    let image = Tensor::from_slice([2, 1, 2], &[1u8, 2, 255, 4]).expect("four");
    let answered = Record {
        request: RequestId::from_bits(0x0192_0000_0000_7000_8000_0000_0000_00ab),
        layout,
        key: Some(0xbeef),
        version: 3,
        latency_ns: 85_000,
        arm: "champion".into(),
        headers: vec![("tenant".into(), Some("blue".into()))],
        inputs: vec![Value::of("country", &country), Value::of("features", &features), Value::of("tokens", &tokens)],
        outputs: vec![Value::of("score", &score), Value::of("age", &flags), Value::of("image", &image)],
        ..record(0, &features)
    };
    let failed = Record {
        outcome: Outcome::Failed(ErrorKind::Engine, "it broke".into()),
        headers: vec![("tenant".into(), None)],
        outputs: vec![],
        key: None,
        ..answered.clone()
    };
    capture.offer(&answered).expect("captured");
    capture.offer(&failed).expect("captured");
    let drained = capture.flush(NOW_US).expect("it drains");
    assert_eq!((drained.rows, drained.segments.len()), (4, 1));
    let rows = table(&segments(folder.path())[0]);
    let column = |name: &str| rows.iter().map(|row| row[name].as_str()).collect::<Vec<_>>();
    assert_eq!(column("prediction_id")[1], "\"01920000-0000-7000-8000-0000000000ab:1\"");
    assert_eq!(column("time")[0], "2025-11-29 00:00:00.000000 +00:00");
    assert_eq!(column("version"), ["3"; 4]);
    assert_eq!(column("row"), ["0", "1", "0", "1"]);
    assert_eq!(column("sequence"), ["0", "0", "1", "1"]);
    assert_eq!(column("latency_ns"), ["85000"; 4]);
    assert_eq!(column("outcome"), ["\"ok\"", "\"ok\"", "\"engine\"", "\"engine\""]);
    assert_eq!(column("error"), ["null", "null", "\"it broke\"", "\"it broke\""]);
    assert_eq!(column("key_hash"), ["\"000000000000beef\"", "\"000000000000beef\"", "null", "null"]);
    assert_eq!(column("header_tenant"), ["\"blue\"", "\"blue\"", "null", "null"]);
    assert_eq!(column("input_age"), ["41.0", "-0E0", "41.0", "-0E0"]);
    assert_eq!(column("input_income"), ["NaN", "1.5", "NaN", "1.5"]);
    assert_eq!(column("input_country"), ["\"GB\"", "\"Zürich\"", "\"GB\"", "\"Zürich\""]);
    assert_eq!(column("input_tokens"), ["[]"; 4]);
    assert_eq!(column("output_score"), ["0.25", "inf", "null", "null"]);
    assert_eq!(column("output_age"), ["true", "false", "null", "null"]);
    assert_eq!(column("output_image"), ["[1, 2]", "[255, 4]", "null", "null"]);
    assert_eq!(column("output_image_shape"), ["[1, 2]", "[1, 2]", "null", "null"]);
}

/// What nobody noted still has columns, and values that are not text are kept as they are.
#[test]
fn nothing_is_left_out_for_want_of_a_layout() {
    let folder = tempfile::tempdir().expect("a folder");
    let capture = Capture::open(folder.path(), &limits()).expect("it opens");
    let wide = tensor(2, 3);
    let raw = Tensor::strings(Shape::from([2, 1]), vec![Bytes::from_static(b"\xff"), "a".into()]).expect("two");
    let whole = tensor(5, 2);
    let inputs = vec![Value::of("x", &wide), Value::of("raw", &raw), Value::of("whole", &whole), Value::of("x", &raw)];
    capture.offer(&Record { inputs, layout: 4711, ..record(1, &wide) }).expect("captured");
    capture.flush(NOW_US).expect("it drains");
    let rows = table(&segments(folder.path())[0]);
    let column = |name: &str| rows.iter().map(|row| row[name].as_str()).collect::<Vec<_>>();
    assert_eq!(column("input_x"), ["[0E0, 1.0, 2.0]", "[3.0, 4.0, 5.0]"]);
    assert_eq!(column("input_raw"), ["[255]", "[97]"]);
    assert_eq!(column("input_whole"), ["[0E0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]", "null"]);
    assert_eq!(column("input_whole_shape"), ["[5, 2]", "null"]);
    assert!(!rows[0].contains_key("input_x_2"), "{:?}", rows[0].keys());
}

#[test]
fn segments_are_by_deployment_layout_and_day() {
    let folder = tempfile::tempdir().expect("a folder");
    let capture = Capture::open(folder.path(), &limits()).expect("it opens");
    let (one, other) = (tensor(1, 2), Tensor::from_slice([1], &[1i32]).expect("one"));
    let first = record(1, &one);
    for record in [
        first.clone(),
        Record { unix_us: NOW_US - 1, ..first.clone() },
        Record { version: 2, ..first.clone() },
        Record { endpoint: "a/../b c".into(), ..first.clone() },
        record(2, &other),
        first.clone(),
    ] {
        capture.offer(&record).expect("captured");
    }
    let drained = capture.flush(NOW_US).expect("it drains");
    let rows: Vec<u64> = drained.segments.iter().map(|facts| facts.rows).collect();
    assert_eq!(rows, [2, 1, 1, 1, 1]);
    let folders: Vec<&str> =
        drained.segments.iter().map(|facts| facts.file.rsplit_once('/').expect("a folder").0).collect();
    let today = "endpoint=risk/date=2025-11-29";
    let escaped = "endpoint=a%2F%2E%2E%2Fb%20c/date=2025-11-29";
    assert_eq!(folders, [today, "endpoint=risk/date=2025-11-28", today, escaped, today]);
    let facts = &drained.segments[0];
    assert_eq!((facts.first_sequence, facts.last_sequence, facts.from_us, facts.to_us), (0, 5, NOW_US, NOW_US));
    let file =
        SerializedFileReader::new(fs::File::open(folder.path().join("segments").join(&facts.file)).expect("it opens"));
    let footer = file.expect("a segment").metadata().file_metadata().key_value_metadata().cloned().expect("a footer");
    let said = |key: &str| footer.iter().find(|pair| pair.key == key).and_then(|pair| pair.value.clone()).expect(key);
    assert_eq!((said("tiltyard.rows"), said("tiltyard.last_sequence")), ("2".into(), "5".into()));
    assert_eq!((said("tiltyard.merkle_root"), said("tiltyard.node")), (facts.merkle_root.clone(), facts.node.clone()));
    // The root is over the rows as records of one row each.
    let mut tree = segment::merkle::Tree::default();
    for _ in 0..2 {
        let mut bytes = Vec::new();
        first.write(&mut bytes);
        tree.push(&bytes);
    }
    assert_eq!(facts.merkle_root, Digest::new(tree.root()).to_string());
}

#[test]
fn old_segments_make_room() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut limits = Limits { age_max: Some(Duration::from_secs(100)), ..limits() };
    let capture = Capture::open(folder.path(), &limits).expect("it opens");
    let features = tensor(1, 2);
    let write = |capture: &Capture, second: u64| {
        capture.offer(&record(second.into(), &features)).expect("captured");
        let now_us = NOW_US + second * 1_000_000;
        capture.flush(now_us).expect("it drains").segments[0].bytes
    };
    let bytes = write(&capture, 0);
    write(&capture, 50);
    write(&capture, 101);
    let state = capture.state();
    assert_eq!((state.segments, state.removed), (2, Removed { aged: 1, over_budget: 0 }));
    assert!(!capture.keep(NOW_US + 102_000_000).is_due);
    assert!(capture.keep(NOW_US + 800_000_000).is_due, "segments get old without new ones, too");
    drop(capture);
    limits = Limits { age_max: None, bytes_max: Some(bytes * 2), ..limits };
    let capture = Capture::open(folder.path(), &limits).expect("it opens");
    assert_eq!(capture.state().segments, 2);
    write(&capture, 200);
    let state = capture.state();
    assert_eq!((state.segments, state.removed), (2, Removed { aged: 0, over_budget: 1 }));
    assert!(state.segment_bytes <= bytes * 2);
    let verified = verify(folder.path()).expect("the manifest is whole");
    assert_eq!((verified.whole, verified.removed, verified.faults), (2, 2, vec![]));
}

#[test]
fn what_few_use_does_not_fail() {
    let folder = tempfile::tempdir().expect("a folder");
    let capture = Capture::open(folder.path(), &limits()).expect("it opens");
    for second in 0..3 {
        capture.keep(NOW_US + second * 2_000_000);
        assert_eq!((capture.state().failing, capture.state().failures), (None, 0), "after {second} records");
        // By one thread, and so into one part of the ring.
        capture.offer(&record(u128::from(second), &tensor(1, 2))).expect("captured");
    }
}

#[test]
fn a_small_ring_is_emptied_before_it_is_full() {
    let folder = tempfile::tempdir().expect("a folder");
    let limits = Limits { ring_bytes: 256 << 10, segment_time: Duration::from_secs(3600), ..limits() };
    let capture = Capture::open(folder.path(), &limits).expect("it opens");
    let features = tensor(1, 2);
    let mut drained = 0;
    for number in 0..20_000_u128 {
        capture.offer(&record(number, &features)).expect("there is room");
        if capture.keep(NOW_US).is_due {
            drained += capture.drain(NOW_US).expect("it drains").rows;
        }
    }
    assert!(drained > 10_000, "{drained}");
}

#[test]
fn a_table_that_nobody_wrote_is_found_whatever_its_name() {
    let folder = tempfile::tempdir().expect("a folder");
    assert!(verify(&folder.path().join("elsewhere")).is_err(), "no capture is no whole one");
    let capture = Capture::open(folder.path(), &limits()).expect("it opens");
    capture.offer(&record(1, &tensor(1, 2))).expect("captured");
    capture.drain(NOW_US).expect("it drains");
    let written = folder.path().join("segments").join(&segments(folder.path())[0]);
    std::fs::copy(&written, written.with_file_name("forged.parquet")).expect("a copy");
    let faults = verify(folder.path()).expect("the manifest is whole").faults;
    assert!(faults.len() == 1 && faults[0].contains("forged.parquet: not in the manifest"), "{faults:?}");
}

#[test]
fn what_is_due_is_said() {
    let folder = tempfile::tempdir().expect("a folder");
    let limits = Limits { segment_bytes: 2000, segment_time: Duration::from_secs(60), ..limits() };
    let capture = Capture::open(folder.path(), &limits).expect("it opens");
    let features = tensor(1, 2);
    let second = 1_000_000;
    assert_eq!(capture.keep(NOW_US), Next { is_due: false, wait: None });
    capture.offer(&record(1, &features)).expect("captured");
    assert_eq!(capture.keep(NOW_US + second / 2), Next { is_due: false, wait: Some(Duration::from_millis(500)) });
    assert_eq!(capture.keep(NOW_US + second), Next { is_due: false, wait: Some(Duration::from_millis(59_500)) });
    assert!(capture.keep(NOW_US + 61 * second).is_due, "it has waited for long enough");
    assert_eq!(capture.drain(NOW_US + 61 * second).expect("it drains").rows, 1);
    assert_eq!(capture.keep(NOW_US + 61 * second), Next { is_due: false, wait: None });
    while capture.state().pending_bytes < 2000 {
        capture.offer(&record(2, &features)).expect("captured");
    }
    assert!(capture.keep(NOW_US + 62 * second).is_due, "it is large enough");
}

/// As many cases as `TILTYARD_TAMPER` says.
#[test]
fn every_changed_byte_is_found() {
    let cases = std::env::var("TILTYARD_TAMPER").map_or(1000, |cases| cases.parse().expect("a number of cases"));
    let folder = tempfile::tempdir().expect("a folder");
    let capture = Capture::open(folder.path(), &limits()).expect("it opens");
    let features = tensor(1, 2);
    for number in 0..3 {
        capture.offer(&record(number, &features)).expect("captured");
        capture.flush(NOW_US).expect("it drains");
    }
    let mut files = segments(folder.path());
    files.push(folder.path().join("segments.jsonl"));
    assert_eq!(verify(folder.path()).expect("whole").faults, Vec::<String>::new());
    let mut random = 0x7461_6d70_6572_u64;
    for _ in 0..cases {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let path = &files[(random % files.len() as u64) as usize];
        let whole = fs::read(path).expect("it can be read");
        let mut changed = whole.clone();
        let at = (random >> 8) as usize % whole.len();
        changed[at] ^= ((random >> 32) as u8).max(1);
        fs::write(path, &changed).expect("it can be written");
        let is_found = verify(folder.path()).map_or(true, |verified| !verified.faults.is_empty());
        assert!(is_found, "byte {at} of {} was changed", path.display());
        fs::write(path, &whole).expect("it can be written");
    }
    fs::remove_file(&files[0]).expect("it can be removed");
    fs::write(files[1].with_file_name(format!("x-{}.parquet", "0".repeat(32))), b"").expect("it can be written");
    assert_eq!(verify(folder.path()).expect("whole").faults.len(), 2, "one is missing, one is nobody's");
}

#[test]
fn the_manifest_is_a_log_as_the_registry_reads_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let capture = Capture::open(folder.path(), &limits()).expect("it opens");
    let features = tensor(1, 2);
    for number in 0..3 {
        capture.offer(&record(number, &features)).expect("captured");
        capture.flush(NOW_US).expect("it drains");
    }
    let text = fs::read(folder.path().join("segments.jsonl")).expect("it can be read");
    let entries: Vec<_> =
        text.trim_ascii_end().split(|byte| *byte == b'\n').map(tiltyard_registry::Entry::read).collect();
    let sequences: Vec<u64> = entries.iter().map(|entry| entry.as_ref().expect("an entry").sequence).collect();
    assert_eq!(sequences, [1, 2, 3]);
}

#[test]
fn a_folder_has_one_process() {
    let folder = tempfile::tempdir().expect("a folder");
    let capture = Capture::open(folder.path(), &limits()).expect("it opens");
    let again = Capture::open(folder.path(), &limits()).expect_err("it is held").to_string();
    assert!(again.ends_with("each server needs a capture folder of its own"), "{again}");
    drop(capture);
    fs::write(folder.path().join("node"), "a b").expect("it can be written");
    assert!(Capture::open(folder.path(), &limits()).is_err(), "no name of a node");
}

#[test]
fn who_waits_for_the_disk_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let capture = Capture::open(folder.path(), &limits()).expect("it opens");
    let features = tensor(1, 2);
    let ticket = capture.offer(&record(1, &features)).expect("captured");
    capture.commit_durable(ticket).expect("it is on the disk");
    capture.drop_counted(Reason::NotSampled);
    let counters = capture.counters();
    assert_eq!((counters.served, counters.captured, counters.dropped(Reason::NotSampled)), (2, 1, 1));
}
