//! Are rows read as they stand in the file, whatever its form, and does no file break the reader?

use std::io::{Cursor, Write};

use proptest::prelude::*;

use super::*;

fn open(bytes: impl Into<Vec<u8>>) -> Result<History, String> {
    History::read_from(Box::new(Cursor::new(bytes.into())), "h").map_err(|failure| failure.to_string())
}

/// The rows of `names` in plain text, faults as `line: message`.
fn rows(bytes: impl Into<Vec<u8>>, names: &[&str]) -> Result<Vec<String>, String> {
    let mut history = open(bytes)?;
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    history.want(&names);
    let mut batch = Batch::new(names.len(), history.is_json());
    let mut found = Vec::new();
    loop {
        match history.next(&mut batch).map_err(|failure| failure.to_string())? {
            Next::End => return Ok(found),
            Next::Fault(fault) => found.push(format!("line {}: {}", fault.line, fault.message)),
            Next::Row => {
                let row = batch.rows() - 1;
                let cells = (0..names.len()).map(|column| match batch.cell(row, column) {
                    Some(_) => batch.plain(row, column).unwrap_or_else(|fault| fault.into()).into_owned(),
                    None => "(none)".to_owned(),
                });
                found.push(format!("{}|{}", batch.line(row), cells.collect::<Vec<_>>().join("|")));
            }
        }
    }
}

fn zipped(text: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn both_forms_and_their_compressed_ones_give_the_same_rows() {
    let expected = ["2|x, \"y\"|1.5", "3||2"];
    let csv = "\u{feff}b,a , unused\n 1.5,\"x, \"\"y\"\"\",0\n2,,0\n";
    let json = "{\"a\": \"x, \\\"y\\\"\", \"b\": 1.5}\n\n{\"b\": 2, \"a\": null, \"more\": [1]}\n";
    assert_eq!(rows(csv, &["a", "b"]).unwrap(), expected);
    assert_eq!(rows(zipped(csv), &["a", "b"]).unwrap(), expected);
    let expected = ["1|x, \"y\"|1.5", "3||2"];
    assert_eq!(rows(json, &["a", "b"]).unwrap(), expected);
    let mut parts = zipped(&json[..20]);
    parts.extend(zipped(&json[20..]));
    assert_eq!(rows(parts, &["a", "b"]).unwrap(), expected, "a file may be several that were put together");
}

#[test]
fn rows_that_cannot_be_read_are_told_and_passed_over() {
    let found = rows(b"a,b\n1,2\n3\n4,5,6\n\"x\ny\",7\n8,\xff\n9,9\n".to_vec(), &["a", "b"]).unwrap();
    let cells = |line, len| format!("line {line}: it has {len} cells, and the header has 2");
    assert_eq!(
        found,
        ["2|1|2".into(), cells(3, 1), cells(4, 3), "5|x\ny|7".into(), "line 7: it is not UTF-8".into(), "8|9|9".into()]
    );
    let windows = b"a,b\r\n1,2\r\n3\r\n4,5\r\n".to_vec();
    assert_eq!(rows(windows, &["a", "b"]).unwrap(), ["2|1|2".into(), cells(3, 1), "4|4|5".into()]);
    let long = format!(
        "{{\"a\": 1}}\n{{\"a\": \"{}\"}}\n{{\"a\": 2, \"a\": 3}}\n[4]\n{{\"a\": 5}} x\n{{\"b\": 6}}",
        "x".repeat(1 << 21)
    );
    let found = rows(long, &["a"]).unwrap();
    assert_eq!(found[..3], ["1|1", "line 2: it is longer than a row may be, 1 MiB", "line 3: \"a\" is given twice"]);
    assert!(
        found[3].starts_with("line 4: it is not an object of JSON") && found[4].starts_with("line 5:"),
        "{found:?}"
    );
    assert_eq!(found[5..], ["6|(none)"]);
}

#[test]
fn files_that_are_something_else_say_so() {
    let check = |bytes: &[u8], expected: &str| {
        let found = rows(bytes.to_vec(), &["a"]).expect_err("it is no history");
        assert!(found.contains(expected), "{found}");
    };
    let parquet = if cfg!(feature = "record") { "expected the file itself" } else { "pandas.read_parquet" };
    check(b"PAR1\x15\x04\x15", parquet);
    check(&zipped("PAR1"), parquet);
    check(b"[{\"a\": 1}]", "jq -c");
    check(b"", "it is empty");
    check(b" \n\n", "it is empty");
    check(b"{\"a\": 1", "line 1: expected an object on each line");
    let mut cut = zipped(&"a\n1\n".repeat(100));
    cut.truncate(cut.len() - 9);
    check(&cut, "cannot be read after line");
    // A quote that is never closed does not take in the rest of a large file.
    let open = format!("a,b\n1,\"2\n{}", "3,4\n".repeat(1 << 20));
    check(open.as_bytes(), "is there a quote that is never closed?");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever cells hold comes back from either form, and lines are those of the file.
    #[test]
    fn cells_survive(cells in prop::collection::vec(("[^\\s\\x00-\\x1f]{0,8}( [^\\s\\x00-\\x1f]{1,4})?", any::<i32>()), 1..40)) {
        // CSV is read without the white space around cells.
        let cells: Vec<(String, i32)> = cells.into_iter().map(|(text, number)| (text.trim().to_owned(), number)).collect();
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.write_record(["a", "b"]).unwrap();
        let mut json = Vec::new();
        for (text, number) in &cells {
            writer.write_record([text.as_str(), &number.to_string()]).unwrap();
            json.extend(serde_json::to_vec(&serde_json::json!({"b": number, "a": text})).unwrap());
            json.push(b'\n');
        }
        let expected = |from: usize| -> Vec<String> {
            cells.iter().enumerate().map(|(at, (text, number))| format!("{}|{text}|{number}", at + from)).collect()
        };
        prop_assert_eq!(rows(writer.into_inner().unwrap(), &["a", "b"]).unwrap(), expected(2));
        prop_assert_eq!(rows(json, &["a", "b"]).unwrap(), expected(1));
    }

    /// No file breaks it, and each row is a row, a fault, or the end of all reading.
    #[test]
    fn no_bytes_break_it(
        head in prop::sample::select(vec!["", "a,b\n", "{\"a\": 1}\n", "\u{1f}\u{8b}"]), bytes in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut all = head.as_bytes().to_vec();
        all.extend(bytes);
        drop(rows(all, &["a", "b"]));
    }
}
