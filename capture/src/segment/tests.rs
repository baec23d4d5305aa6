//! Do numbers of every type come back from a segment as they were?

use proptest::collection::vec;
use proptest::prelude::*;
use tiltyard_types::{DataType, Shape, Tensor};

use super::*;
use crate::layout::Layouts;
use crate::record::Value;
use crate::record::tests::records;
use crate::tests::table;

fn group(records: &[Record<'_>]) -> Vec<Group> {
    let folder = tempfile::tempdir().expect("a folder");
    let layouts = Layouts::open(folder.path().to_owned()).expect("it opens");
    let mut groups: Vec<Group> = Vec::new();
    for (sequence, record) in records.iter().enumerate() {
        let layout = layouts.of(record);
        let at = groups.iter().position(|group| group.layout == layout).unwrap_or_else(|| {
            groups.push(Group::like(record, layout, None));
            groups.len() - 1
        });
        let mut written = Vec::new();
        record.write(&mut written);
        groups[at].push(sequence as u64, record, &written, None).expect("nobody's rows");
    }
    groups
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever a record holds, a segment of it is written and has its rows.
    #[test]
    fn any_record_makes_rows(records in vec(records(), 1..6)) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.parquet");
        let records: Vec<Record<'_>> = records.into_iter().map(|record| {
            let (rows, unix_us) = (record.rows.max(1), record.unix_us % 4_000_000_000_000_000);
            Record { rows, unix_us, subjects: vec![], ..record }
        }).collect();
        let groups = group(&records);
        let mut rows = 0;
        for group in &groups {
            let facts = group.write(&path, "a.parquet".into(), "n").expect("a segment");
            let written = table(&path);
            prop_assert_eq!(written.len() as u64, facts.rows);
            let bytes = std::fs::read(&path).expect("it can be read");
            prop_assert_eq!((facts.bytes, facts.sha256), (bytes.len() as u64, hex(&Sha256::digest(&bytes).into())));
            rows += facts.rows;
        }
        prop_assert_eq!(rows, records.iter().map(|record| u64::from(record.rows)).sum::<u64>());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Rows are read as they were, and their hashes make the root that the footer says.
    #[test]
    fn what_is_in_a_segment_is_read(records in vec(records(), 1..6)) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.parquet");
        let named = |values: Vec<Value<'static>>| -> Vec<Value<'static>> {
            // Of two tensors of one name the first is kept.
            let value = |(at, value): (usize, Value<'static>)| Value { name: format!("{at}{}", value.name).into(), ..value };
            values.into_iter().enumerate().map(value).collect()
        };
        let headers = |headers: Vec<crate::record::Header<'static>>| {
            let header = |(at, (name, value)): (usize, crate::record::Header<'static>)| (format!("{at}{name}").into(), value);
            headers.into_iter().enumerate().map(header).collect()
        };
        let mut record = records[0].clone();
        record = Record {
            rows: record.rows.max(1),
            first_row: 0,
            subjects: vec![],
            inputs: named(record.inputs),
            outputs: named(record.outputs),
            headers: headers(record.headers),
            ..record
        };
        let facts = group(&[record.clone()])[0].write(&path, "a.parquet".into(), "n").expect("a segment");
        let segment = read::Segment::open(&path).expect("it can be read");
        let rows: Vec<read::Row> = segment.rows().collect::<Result<_>>().expect("rows");
        prop_assert_eq!(rows.len() as u32, record.rows);
        let mut bytes = Vec::new();
        for (number, row) in rows.iter().enumerate() {
            let mut expected = Vec::new();
            record.row(number as u32).write(&mut expected);
            bytes.clear();
            row.record.write(&mut bytes);
            prop_assert_eq!(&bytes, &expected, "row {} of {:?} is {:?}", number, &record, &row.record);
        }
        let proof = segment.prove(rows.len() as u64 - 1).expect("there is that row");
        prop_assert_eq!(proof.root.to_string(), facts.merkle_root);
        prop_assert!(segment.prove(rows.len() as u64).is_err());
        let all: Vec<Record<'static>> = rows.into_iter().map(|row| row.record).collect();
        let joined = read::joined(&all).expect("they fit");
        prop_assert_eq!((joined.rows, joined.inputs.len()), (record.rows, record.inputs.len()));
        for (mine, theirs) in joined.inputs.iter().zip(&record.inputs) {
            prop_assert_eq!(mine.tensor.shape(), theirs.tensor.shape());
            prop_assert_eq!(mine.tensor.data(), theirs.tensor.data());
        }
    }
}

#[test]
fn what_is_no_segment_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.parquet");
    std::fs::write(&path, b"PAR1 and nothing else").expect("it can be written");
    assert!(read::Segment::open(&path).is_err());
    assert!(read::Segment::open(&folder.path().join("b.parquet")).expect_err("none").to_string().contains("b.parquet"));
}

#[test]
fn each_data_type_keeps_its_values() {
    #[track_caller]
    fn check(dtype: DataType, bytes: &[u8], expected: &[&str]) {
        let count = bytes.len() / dtype.width().expect("a width");
        let tensor = Tensor::fixed(dtype, Shape::from([count]), bytes.to_vec()).expect("as many as the shape says");
        let record = Record { rows: count as u32, inputs: vec![Value::of("x", &tensor)], ..Record::empty() };
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.parquet");
        group(&[record])[0].write(&path, String::new(), "n").expect("a segment");
        let found: Vec<String> = table(&path).into_iter().map(|row| row["input_x"].clone()).collect();
        assert_eq!(found, expected, "{dtype}");
    }
    check(DataType::Bool, &[0, 1], &["false", "true"]);
    check(DataType::Uint8, &[0, 255], &["0", "255"]);
    check(DataType::Int8, &[127, 128], &["127", "-128"]);
    check(DataType::Uint16, &[255, 255], &["65535"]);
    check(DataType::Int16, &[0, 128], &["-32768"]);
    check(DataType::Uint32, &[255; 4], &["4294967295"]);
    check(DataType::Int32, &[0, 0, 0, 128], &["-2147483648"]);
    check(DataType::Uint64, &[255; 8], &["18446744073709551615"]);
    check(DataType::Int64, &i64::MIN.to_le_bytes(), &["-9223372036854775808"]);
    // One third, as near as a half comes to it, the largest one, and the smallest.
    check(DataType::Fp16, &[0x55, 0x35, 0xff, 0x7b, 1, 0], &["0.33325195", "65504.0", "0.000000059604645"]);
    check(DataType::Bf16, &[0x80, 0x3f], &["1.0"]);
    check(DataType::Fp32, &f32::MAX.to_le_bytes(), &["3.4028235E38"]);
    check(DataType::Fp64, &f64::NEG_INFINITY.to_le_bytes(), &["-inf"]);
}
