//! Are cells those that CSV would have, whatever way they were written, and does no file break the reader?

use std::io::Write;
use std::sync::Arc;

use parquet::basic::Encoding;
use parquet::data_type::{ByteArray, ByteArrayType, DoubleType, Int32Type, Int64Type};
use parquet::file::properties::{WriterProperties, WriterVersion};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use proptest::prelude::*;

use super::super::History;
use super::*;

const SCHEMA: &str = "message m {
    optional double a;
    required int32 day (DATE);
    optional binary name (STRING);
    optional group many (LIST) { repeated group list { required int64 element; } }
    required int64 n;
}";

/// How a file is written.
fn ways() -> Vec<WriterProperties> {
    let of = |version, has_dictionary| {
        WriterProperties::builder()
            .set_writer_version(version)
            .set_dictionary_enabled(has_dictionary)
            .set_data_page_row_count_limit(100)
            .set_write_batch_size(50)
    };
    let of_n = |encoding| of(WriterVersion::PARQUET_2_0, false).set_column_encoding("n".into(), encoding);
    let split = |builder: parquet::file::properties::WriterPropertiesBuilder| {
        builder
            .set_column_encoding("a".into(), Encoding::BYTE_STREAM_SPLIT)
            .set_column_encoding("name".into(), Encoding::PLAIN)
            .build()
    };
    vec![
        of(WriterVersion::PARQUET_1_0, true).build(),
        of(WriterVersion::PARQUET_2_0, true).build(),
        split(of(WriterVersion::PARQUET_1_0, false)),
        split(of_n(Encoding::DELTA_BINARY_PACKED)),
    ]
}

/// A file of row groups of so many rows each, and the cells that `a`, `day`, `name` and `n` of it have.
fn written(groups: &[usize], way: WriterProperties) -> (Vec<u8>, Vec<String>) {
    let schema = Arc::new(parse_message_type(SCHEMA).unwrap());
    let mut bytes = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut bytes, schema, Arc::new(way)).unwrap();
    let (mut cells, mut first) = (Vec::new(), 0);
    for &count in groups {
        let rows = first..first + count as i64;
        first += count as i64;
        let has_number = |row: &i64| row % 7 != 3;
        let has_name = |row: &i64| row % 5 != 0;
        let name = |row: i64| format!("é {}", row % 11);
        let levels = |has: &dyn Fn(&i64) -> bool| rows.clone().map(|row| i16::from(has(&row))).collect::<Vec<_>>();
        let mut group = writer.next_row_group().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let numbers: Vec<f64> = rows.clone().filter(has_number).map(|row| row as f64 / 10.0).collect();
        column.typed::<DoubleType>().write_batch(&numbers, Some(&levels(&has_number)), None).unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let days: Vec<i32> = rows.clone().map(|row| row as i32 - 1).collect();
        column.typed::<Int32Type>().write_batch(&days, None, None).unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let names: Vec<ByteArray> = rows.clone().filter(has_name).map(|row| name(row).as_str().into()).collect();
        column.typed::<ByteArrayType>().write_batch(&names, Some(&levels(&has_name)), None).unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let nothing = vec![0; count];
        column.typed::<Int64Type>().write_batch(&[], Some(&nothing), Some(&nothing)).unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        column
            .typed::<Int64Type>()
            .write_batch(&rows.clone().map(|row| row * row).collect::<Vec<_>>(), None, None)
            .unwrap();
        column.close().unwrap();
        group.close().unwrap();
        for row in rows.clone() {
            let mut date = Vec::new();
            (row - 1).tell(Form::Date, &mut date).unwrap();
            let number = if has_number(&row) { format!("{:?}", row as f64 / 10.0) } else { String::new() };
            let name = if has_name(&row) { name(row) } else { String::new() };
            let date = String::from_utf8(date).unwrap();
            cells.push(format!("{}|{number}|{date}|{name}|{}|(none)", row + 1, row * row));
        }
    }
    writer.close().unwrap();
    (bytes, cells)
}

/// The rows of `names` in a file; faults as `row: message`.
fn rows(bytes: &[u8], names: &[&str]) -> Result<Vec<String>, String> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    let failed = |failure: crate::cli::exit::Failure| failure.to_string();
    let mut history = History::of_table(file, "h").map_err(failed)?;
    assert!(!history.is_json() && history.place() == "row");
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    history.want(&names);
    let mut batch = Batch::new(names.len(), false);
    let mut found = Vec::new();
    loop {
        match history.next(&mut batch).map_err(failed)? {
            Next::End => return Ok(found),
            Next::Fault(fault) => found.push(format!("{}: {}", fault.line, fault.message)),
            Next::Row => {
                let row = batch.rows() - 1;
                let text = |cell: Option<&[u8]>| cell.map_or("(none)".into(), String::from_utf8_lossy).into_owned();
                let cells: Vec<String> = (0..names.len()).map(|column| text(batch.cell(row, column))).collect();
                found.push(format!("{}|{}", batch.line(row), cells.join("|")));
                batch.pop();
            }
        }
    }
}

const NAMES: [&str; 5] = ["a", "day", "name", "n", "not there"];

#[test]
fn rows_are_those_that_were_written() {
    for way in ways() {
        let shown = format!("{:?} {}", way.writer_version(), way.dictionary_enabled(&"n".into()));
        let (bytes, expected) = written(&[1_300, 1, 512], way);
        assert_eq!(rows(&bytes, &NAMES).unwrap(), expected, "{shown}");
    }
    assert_eq!(rows(&written(&[], ways().remove(0)).0, &NAMES).unwrap(), [""; 0]);
}

#[test]
fn columns_that_are_no_cells_are_told_where_they_are_wanted() {
    let (bytes, _) = written(&[3], ways().remove(0));
    let error = rows(&bytes, &["a", "many"]).unwrap_err();
    assert_eq!(error, "h: column \"many\": it holds lists or structures, expected one value in each row");
    let strings = WriterProperties::builder().set_dictionary_enabled(false);
    let (bytes, _) = written(&[3], strings.set_column_encoding("name".into(), Encoding::DELTA_BYTE_ARRAY).build());
    let error = rows(&bytes, &["name"]).unwrap_err();
    assert!(error.contains("written as DELTA_BYTE_ARRAY, which is not read here"), "{error}");
    assert_eq!(rows(&bytes, &["n"]).unwrap().len(), 3, "nobody asked for that one");
}

#[test]
fn rows_that_cannot_be_cells_are_told_and_passed_over() {
    let schema = Arc::new(parse_message_type("message m { required binary x; required binary y; }").unwrap());
    let mut bytes = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut bytes, schema, Arc::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let long = vec![b'x'; 600 << 10];
    for values in [[&b"1"[..], b"\xff", b"3", &long], [b"a", b"b", b" c ", &long]] {
        let mut column = group.next_column().unwrap().unwrap();
        let values: Vec<ByteArray> = values.into_iter().map(|value| value.to_vec().into()).collect();
        column.typed::<ByteArrayType>().write_batch(&values, None, None).unwrap();
        column.close().unwrap();
    }
    group.close().unwrap();
    writer.close().unwrap();
    let found = rows(&bytes, &["x", "y"]).unwrap();
    let fault = "2: column \"x\": it is not UTF-8";
    assert_eq!(found, ["1|1|a", fault, "3|3|c", "4: it is longer than a row may be, 1 MiB"]);
}

#[test]
fn files_that_are_something_else_say_so() {
    let (good, _) = written(&[3], ways().remove(0));
    let check = |bytes: &[u8], words: &str| {
        let error = rows(bytes, &NAMES).unwrap_err();
        assert!(error.contains(words), "{error}");
    };
    check(b"PAR1", "it was cut off");
    check(&good[..good.len() - 1], "it was cut off");
    check(&[&good[..good.len() - 1], b"E"].concat(), "it is encrypted");
    let mut large = good.clone();
    let at = good.len() - 8;
    large[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    check(&large, "its directory is larger than the file");
    check(&[&b"PAR1"[..], &[0; 50], &50u32.to_le_bytes(), b"PAR1"].concat(), "its directory");
}

/// A directory of columns that hold so many others each.
fn directory(children: &[u8]) -> Vec<u8> {
    // Field 2, a list of structures; of each the name, field 4, and the count, field 5.
    let mut bytes = vec![0x29, 0xfc, children.len() as u8 | 0x80, (children.len() >> 7) as u8];
    for count in children {
        bytes.extend([0x48, 1, b'c', 0x15, count * 2, 0]);
    }
    bytes.push(0);
    bytes
}

#[test]
fn columns_lie_within_each_other_as_far_as_can_be_followed() {
    assert_eq!(look_through(&directory(&[2, 1, 0, 0])), Ok(()));
    assert_eq!(look_through(&directory(&[1; 64])), Ok(()));
    assert!(look_through(&directory(&[1; 5_000])).unwrap_err().contains("within each other"));
    // As many columns as it takes, one after the other, are no depth.
    assert_eq!(look_through(&directory(&[0; 5_000])), Ok(()));
    let lies = [0x29, 0x1c, 0x55, 0xfe, 0xff, 0xff, 0xff, 0x0f, 0, 0];
    assert!(look_through(&lies).unwrap_err().contains("holds 2147483647 others"), "{:?}", look_through(&lies));
}

#[test]
fn no_single_byte_breaks_it() {
    for way in ways() {
        let (bytes, _) = written(&[6], way);
        for at in 0..bytes.len() {
            for wrong in [0, 1, 0x7f, 0x80, 0xff, bytes[at] ^ 1, bytes[at] ^ 0x40] {
                let mut bytes = bytes.clone();
                bytes[at] = wrong;
                drop(rows(&bytes, &NAMES));
            }
        }
        for end in 0..bytes.len() {
            assert!(rows(&bytes[..end], &NAMES).is_err(), "cut off at {end}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_bytes_break_it(
        way in 0..4usize, changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
    ) {
        let (mut bytes, _) = written(&[40, 9], ways().remove(way));
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        drop(rows(&bytes, &NAMES));
    }
}
