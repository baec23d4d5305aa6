//! What did the person hand us: a request, rows, columns or CSV?

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Cursor, Read};
use std::path::Path;

use serde_json::Value;
use tiltyard_types::json::{JsonError, Kind, Reader, write_string};

use crate::cli::cells::write_cell;
use crate::cli::exit::Failure;

/// The input, by the way it is sent.
pub(in crate::cli) enum Question {
    /// A request of the protocol, sent as it is.
    Infer(Vec<u8>),
    /// A request for scores, sent as it is.
    Score(Vec<u8>),
    /// Rows, each a JSON object.
    Rows(Vec<String>),
    /// Rows as lines of text.
    Csv(Csv),
}

/// CSV whose first line names the columns.
pub(in crate::cli) struct Csv {
    reader: csv::Reader<Box<dyn Read>>,
}

/// What the model says of its inputs, as far as it decides how a cell of CSV is meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::cli) struct Columns {
    datatypes: BTreeMap<String, String>,
}

/// Reads a file: CSV by its name, else by how it begins.
pub(in crate::cli) fn read_file(path: &Path) -> Result<Question, Failure> {
    let shown = path.display().to_string();
    let unreadable = |error: io::Error| Failure::failed(format!("cannot read {shown}: {error}"));
    let mut file = File::open(path).map_err(unreadable)?;
    // A large table is read row by row.
    if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("csv")) {
        return Ok(Question::Csv(Csv::new(Box::new(io::BufReader::new(file)))));
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(unreadable)?;
    read(&bytes).map_err(|failure| failure.at(&shown))
}

/// Reads what may be JSON or CSV.
pub(in crate::cli) fn read(bytes: &[u8]) -> Result<Question, Failure> {
    match bytes.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'{' | b'[') => read_json(bytes),
        Some(_) => Ok(Question::Csv(Csv::new(Box::new(Cursor::new(bytes.to_vec()))))),
        None => Err(Failure::failed("it is empty")),
    }
}

/// Reads JSON: a request, rows, columns, or one row.
pub(in crate::cli) fn read_json(text: &[u8]) -> Result<Question, Failure> {
    let wrong = |error: JsonError| Failure::failed(format!("the input is not JSON: {error}"));
    let mut reader = Reader::new(text);
    let kind = reader.peek_kind().map_err(wrong)?;
    let question = match kind {
        Kind::Array => {
            let mut rows = Vec::new();
            reader
                .read_array(|reader| {
                    let is_row = reader.peek_kind()? == Kind::Object;
                    let row = String::from_utf8_lossy(reader.skip_value()?).into_owned();
                    rows.push(is_row.then_some(row));
                    Ok::<(), JsonError>(())
                })
                .map_err(wrong)?;
            let position = rows.iter().position(Option::is_none);
            match position {
                None => Question::Rows(rows.into_iter().flatten().collect()),
                Some(position) => {
                    return Err(Failure::failed(format!(
                        "row {position} of the list is not an object: expected rows such as {{\"age\": 41}}"
                    )));
                }
            }
        }
        Kind::Object => {
            let mut asks = None;
            reader
                .read_object(|key, reader| {
                    // A row may well have a column of such a name, but its value is no list.
                    match (key, reader.peek_kind()?) {
                        ("inputs", Kind::Array) => asks = Some(Question::Infer(text.to_vec())),
                        ("rows", Kind::Array) | ("columns", Kind::Object) => {
                            asks = Some(Question::Score(text.to_vec()))
                        }
                        _ => {}
                    }
                    reader.skip_value().map(|_| ())
                })
                .map_err(wrong)?;
            asks.unwrap_or_else(|| Question::Rows(vec![String::from_utf8_lossy(text).trim().to_owned()]))
        }
        _ => return Err(Failure::failed("the input is neither an object nor a list of rows")),
    };
    reader.finish().map_err(wrong)?;
    Ok(question)
}

impl Columns {
    /// Reads a model's metadata. What is not there is not known.
    pub(in crate::cli) fn of(metadata: &[u8]) -> Columns {
        let form: Value = serde_json::from_slice(metadata).unwrap_or_default();
        let inputs = form["inputs"].as_array().map_or(&[][..], Vec::as_slice);
        let entry = |input: &Value| Some((input["name"].as_str()?.to_owned(), input["datatype"].as_str()?.to_owned()));
        Columns { datatypes: inputs.iter().filter_map(entry).collect() }
    }

    /// The type of a column: of the input of its name, or of the only kind of input that there is.
    fn datatype(&self, column: &str) -> Option<&str> {
        let mut kinds = self.datatypes.values();
        let first = kinds.next();
        let only = first.filter(|first| kinds.all(|kind| kind == *first));
        self.datatypes.get(column).or(only).map(String::as_str)
    }
}

impl Csv {
    fn new(source: Box<dyn Read>) -> Csv {
        Csv { reader: csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(source) }
    }

    /// The rows as JSON objects. Fails on a head that does not name each column once; a row fails that has more or
    /// fewer cells than the head.
    pub(in crate::cli) fn rows(
        mut self,
        columns: &Columns,
    ) -> Result<impl Iterator<Item = Result<String, Failure>> + use<>, Failure> {
        let wrong = |error: csv::Error| Failure::failed(format!("the input is not CSV: {error}"));
        let names: Vec<String> = self.reader.headers().map_err(wrong)?.iter().map(str::to_owned).collect();
        check_names(&names)?;
        let kinds: Vec<Option<String>> = names.iter().map(|name| columns.datatype(name).map(str::to_owned)).collect();
        Ok(self.reader.into_records().map(move |record| {
            let record = record.map_err(wrong)?;
            let mut row = Vec::with_capacity(record.as_slice().len() * 3);
            for (position, ((name, kind), cell)) in names.iter().zip(&kinds).zip(&record).enumerate() {
                row.extend_from_slice(if position == 0 { b"{" } else { b", " });
                write_string(name, &mut row);
                row.extend_from_slice(b": ");
                write_cell(cell, kind.as_deref(), &mut row);
            }
            row.push(b'}');
            Ok(String::from_utf8_lossy(&row).into_owned())
        }))
    }
}

fn check_names(names: &[String]) -> Result<(), Failure> {
    let mut seen = BTreeSet::new();
    for (position, name) in names.iter().enumerate() {
        if name.is_empty() {
            return Err(Failure::failed(format!(
                "column {} of the CSV has no name in the first line; pandas writes its index so, unless told \
                 to_csv(…, index=False)",
                position + 1
            )));
        }
        if !seen.insert(name) {
            return Err(Failure::failed(format!("column {name:?} comes twice in the first line of the CSV")));
        }
    }
    match names {
        [] => Err(Failure::failed("the CSV is empty: expected a first line with the names of the columns")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(question: Result<Question, Failure>) -> String {
        match question {
            Ok(Question::Infer(_)) => "infer".into(),
            Ok(Question::Score(_)) => "score".into(),
            Ok(Question::Rows(rows)) => format!("rows {}", rows.join(" | ")),
            Ok(Question::Csv(_)) => "csv".into(),
            Err(failure) => failure.to_string(),
        }
    }

    #[test]
    fn forms_of_input() {
        let check = |text: &str, expected: &str| assert_eq!(described(read(text.as_bytes())), expected, "{text}");
        check(r#"{"inputs": [{"name": "x"}]}"#, "infer");
        check(r#"{"id": "7", "inputs": []}"#, "infer");
        check(r#"{"rows": [{"age": 41}]}"#, "score");
        check(r#"{"columns": {"age": [41]}}"#, "score");
        check(
            r#"[{"age": 41}, {"age": 12345678901234567890123}]"#,
            r#"rows {"age": 41} | {"age": 12345678901234567890123}"#,
        );
        check(" {\"age\": 41}\n", r#"rows {"age": 41}"#);
        check(r#"{"rows": 3, "columns": 4}"#, r#"rows {"rows": 3, "columns": 4}"#);
        check("[]", "rows ");
        check("age\n41\n", "csv");
        check(" \n", "it is empty");
        check("[1, 2]", "row 0 of the list is not an object: expected rows such as {\"age\": 41}");
        assert!(described(read(b"{\"a\": 1} x")).starts_with("the input is not JSON: "));
        assert!(described(read(b"{\"a\": ")).starts_with("the input is not JSON: "));
        assert_eq!(described(read_json(b"41")), "the input is neither an object nor a list of rows");
    }

    fn rows(text: &str, metadata: &str) -> Result<Vec<String>, String> {
        let csv = Csv::new(Box::new(Cursor::new(text.as_bytes().to_vec())));
        let rows = csv.rows(&Columns::of(metadata.as_bytes())).map_err(|failure| failure.to_string())?;
        rows.map(|row| row.map_err(|failure| failure.to_string())).collect()
    }

    #[test]
    fn csv_becomes_rows() {
        let check = |text: &str, expected: &[&str]| assert_eq!(rows(text, "").unwrap(), expected, "{text}");
        check(
            "age,name\n41,Ann\n,\"Bo, \"\"B\"\"\"\n",
            &[r#"{"age": 41, "name": "Ann"}"#, r#"{"age": null, "name": "Bo, \"B\""}"#],
        );
        check("\u{feff}a , b\r\n 1 , x \r\n", &[r#"{"a": 1, "b": "x"}"#]);
        check("a\n", &[]);
    }

    #[test]
    fn csv_that_is_none() {
        let check = |text: &str, expected: &str| {
            let error = rows(text, "").unwrap_err();
            assert!(error.contains(expected), "{error}");
        };
        check(",age\n0,41\n", "column 1 of the CSV has no name");
        check("age,age\n1,2\n", "\"age\" comes twice");
        check("a,b\n1,2\n1\n", "line: 3");
        check("", "the CSV is empty");
    }

    #[test]
    fn cells_by_what_the_model_takes() {
        let metadata = r#"{"inputs": [{"name": "zip", "datatype": "BYTES"}, {"name": "member", "datatype": "BOOL"},
                           {"name": "age", "datatype": "INT64"}]}"#;
        let found = rows("zip,member,age\n10115,True,41\nnan,0,nan\n", metadata).unwrap();
        assert_eq!(
            found,
            [r#"{"zip": "10115", "member": true, "age": 41}"#, r#"{"zip": "nan", "member": 0, "age": null}"#,]
        );
        let wide = r#"{"inputs": [{"name": "words", "datatype": "BYTES"}]}"#;
        assert_eq!(rows("first,second\n1,2\n", wide).unwrap(), [r#"{"first": "1", "second": "2"}"#]);
    }
}
