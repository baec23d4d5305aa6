//! How are many labels sent that have come in the meantime? From a file, as CSV or a JSON object a line.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use clap::{Arg, ArgMatches, Command};
use serde_json::{Map, Value, json};

use super::credentials::Credentials;
use super::exit::Failure;
use super::output::{self, Form, Table};
use super::progress;
use super::target::{Http, Named, ask_as, server_flags};
use crate::protocol::rest::feedback::NDJSON;

/// Lines in one request.
const CHUNK_LINES: usize = 5_000;

/// Errors that are told.
const ERRORS_MAX: usize = 20;

const PATH: &str = "/v1/feedback";

const EXAMPLES: &str = "\
Columns of a CSV file, or keys of a line of JSON:
  prediction_id          as the answer has it in tiltyard-prediction-id
  row_key, row           or the name that the request declared (tiltyard-row-key), and which of its rows, from 0
  label                  what was true: a class or a number
  outcome                or the outcome itself
  withdrawn              or true: what was said before holds no more
  time                   when it was observed: 2026-11-28T14:00:00Z, or milliseconds since 1970 [default: now]
  endpoint               the name that was called [default: --endpoint]

Examples:
  tiltyard feedback labels.csv --endpoint risk
  tiltyard feedback labels.ndjson --output json
  export_labels | tiltyard feedback - --endpoint risk --server http://models:8000";

pub(super) fn command() -> Command {
    Command::new("feedback")
        .about("Say what became of rows that were answered, so that rollouts can be decided by it")
        .arg(
            Arg::new("file")
                .value_name("FILE")
                .required(true)
                .help("A .csv file with a header, or a JSON object on each line; - for standard input"),
        )
        .arg(
            Arg::new("endpoint")
                .long("endpoint")
                .value_name("NAME")
                .help("The name that was called, where the file does not say"),
        )
        .args(server_flags())
        .after_help(EXAMPLES)
}

pub(super) fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let text = |name: &str| matches.get_one::<String>(name).map(String::as_str);
    let lines = lines(text("file").unwrap_or_default())?;
    let http = Http::new(Named::of(matches)?.server(), &Credentials::of(matches)?)?;
    let send = |body: Vec<u8>| {
        let headers = [("content-type", Some(NDJSON)), ("tiltyard-endpoint", text("endpoint"))];
        ask_as(&http, PATH, &headers, body)
    };
    let summary = send_all(lines, send)?;
    match Form::of(matches) {
        Form::Json => output::print_json(&summary.form())?,
        Form::Table => output::print(&summary.told())?,
    }
    match summary.failed() {
        0 => Ok(()),
        failed => Err(Failure::failed(format!("{failed} lines were not taken"))),
    }
}

type Lines = Box<dyn Iterator<Item = Result<(u64, String), Failure>>>;

/// The lines of a file with their numbers, each a JSON object. CSV by its name, or by how it begins.
fn lines(path: &str) -> Result<Lines, Failure> {
    let unreadable = |error: io::Error| Failure::failed(format!("cannot read {path}: {error}"));
    let source: Box<dyn Read> = match path {
        "-" => Box::new(io::stdin()),
        path => Box::new(File::open(path).map_err(unreadable)?),
    };
    let mut source = BufReader::new(source);
    let begins = source.fill_buf().map_err(unreadable)?.iter().find(|byte| !byte.is_ascii_whitespace()).copied();
    let is_csv = Path::new(path).extension().is_some_and(|extension| extension.eq_ignore_ascii_case("csv"));
    match begins {
        None => Err(Failure::failed(format!("{path} is empty: expected a line for each label"))),
        Some(b'{') if !is_csv => {
            let path = path.to_owned();
            let read = move |(line, number): (io::Result<String>, u64)| {
                let line = line.map_err(|error| Failure::failed(format!("cannot read {path}: {error}")))?;
                Ok((number, line))
            };
            Ok(Box::new(source.lines().zip(1..).map(read)))
        }
        Some(_) => csv_lines(source),
    }
}

fn csv_lines(source: impl Read + 'static) -> Result<Lines, Failure> {
    let wrong = |error: csv::Error| Failure::failed(format!("the input is not CSV: {error}"));
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(source);
    let names: Vec<String> = reader.headers().map_err(wrong)?.iter().map(str::to_owned).collect();
    if !names.iter().any(|name| name == "prediction_id" || name == "row_key") {
        return Err(Failure::failed(format!(
            "the first line names the columns {}: expected prediction_id or row_key among them, and label or outcome",
            names.join(", ")
        )));
    }
    Ok(Box::new(reader.into_records().map(move |record| {
        let record = record.map_err(wrong)?;
        let number = record.position().map_or(0, csv::Position::line);
        let cells = names.iter().zip(&record).filter(|(_, cell)| !cell.is_empty());
        let object: Map<String, Value> = cells.map(|(name, cell)| (name.clone(), cell_value(name, cell))).collect();
        Ok((number, Value::Object(object).to_string()))
    })))
}

/// A cell as its column is meant; what is no such thing the server says.
fn cell_value(name: &str, cell: &str) -> Value {
    let number = || cell.parse::<f64>().ok().filter(|number| number.is_finite()).map(Value::from);
    match name {
        "row" => cell.parse::<u64>().map_or_else(|_| cell.into(), Value::from),
        // As text a label may be a class or a number.
        "outcome" => number().unwrap_or_else(|| cell.into()),
        "withdrawn" => match cell.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" => true.into(),
            "false" | "0" | "no" => false.into(),
            _ => cell.into(),
        },
        _ => cell.into(),
    }
}

/// What became of all lines.
#[derive(Default)]
struct Summary {
    /// In the order of the server's answer.
    counts: Vec<(String, u64)>,
    errors: Vec<(u64, String)>,
}

impl Summary {
    fn add(&mut self, answer: &[u8], numbers: &[u64]) -> Result<(), Failure> {
        let form: Value = serde_json::from_slice(answer).unwrap_or_default();
        let Some(counts) = form.as_object().filter(|form| form.contains_key("received")) else {
            return Err(Failure::failed("the server does not answer as a Tiltyard server does"));
        };
        for (name, count) in counts.iter().filter_map(|(name, count)| Some((name, count.as_u64()?))) {
            match self.counts.iter_mut().find(|(held, _)| held == name) {
                Some((_, held)) => *held += count,
                None => self.counts.push((name.clone(), count)),
            }
        }
        for error in form["errors"].as_array().map(Vec::as_slice).unwrap_or_default() {
            let line = error["line"].as_u64().and_then(|line| numbers.get(usize::try_from(line).ok()?.checked_sub(1)?));
            if self.errors.len() < ERRORS_MAX {
                self.errors.push((line.copied().unwrap_or(0), error["error"].as_str().unwrap_or_default().to_owned()));
            }
        }
        Ok(())
    }

    fn failed(&self) -> u64 {
        self.counts.iter().find(|(name, _)| name == "failed").map_or(0, |(_, count)| *count)
    }

    fn form(&self) -> Value {
        let counts = self.counts.iter().map(|(name, count)| (name.clone(), json!(count)));
        let mut form: Map<String, Value> = counts.collect();
        let errors = self.errors.iter().map(|(line, error)| json!({ "line": line, "error": error }));
        form.insert("errors".into(), errors.collect());
        Value::Object(form)
    }

    fn told(&self) -> String {
        let mut table = Table::new(["labels", "lines"]);
        let is_told = |name: &str, count: u64| count > 0 || matches!(name, "received" | "joined" | "unknown");
        for (name, count) in self.counts.iter().filter(|(name, count)| is_told(name, *count)) {
            table.add([name.clone(), count.to_string()]);
        }
        let errors = self.errors.iter().map(|(line, error)| format!("line {line}: {error}\n"));
        table.to_string() + &errors.collect::<String>()
    }
}

fn send_all(
    lines: impl Iterator<Item = Result<(u64, String), Failure>>,
    send: impl Fn(Vec<u8>) -> Result<Vec<u8>, Failure>,
) -> Result<Summary, Failure> {
    let bar = progress::bar("labels", None);
    let mut summary = Summary::default();
    let mut lines =
        lines.filter(|line| line.as_ref().is_ok_and(|(_, text)| !text.trim().is_empty()) || line.is_err()).peekable();
    let mut sent = 0u64;
    while lines.peek().is_some() {
        let (mut numbers, mut body) = (Vec::new(), Vec::new());
        for line in lines.by_ref().take(CHUNK_LINES) {
            let (number, text) = line?;
            numbers.push(number);
            body.extend_from_slice(text.trim().as_bytes());
            body.push(b'\n');
        }
        let answer = send(body).map_err(|failure| match sent {
            0 => failure,
            sent => failure.at(&format!("after {sent} lines that were taken")),
        })?;
        summary.add(&answer, &numbers)?;
        sent += numbers.len() as u64;
        bar.inc(numbers.len() as u64);
    }
    bar.finish_and_clear();
    Ok(summary)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    fn of_csv(text: &'static str) -> Result<Vec<(u64, String)>, Failure> {
        csv_lines(text.as_bytes())?.collect()
    }

    #[test]
    fn csv_becomes_lines() {
        let lines =
            of_csv("row_key,row,label,outcome,withdrawn,time\na,2,late,,,\nb,,,1.5,no,2026-11-28T14:00:00Z\n").unwrap();
        assert_eq!(lines[0], (2, r#"{"label":"late","row":2,"row_key":"a"}"#.to_owned()));
        let expected = r#"{"outcome":1.5,"row_key":"b","time":"2026-11-28T14:00:00Z","withdrawn":false}"#;
        assert_eq!(lines[1], (3, expected.to_owned()));
        assert!(of_csv("id,label\n1,2\n").unwrap_err().to_string().contains("expected prediction_id or row_key"));
        assert!(of_csv("row_key,label\n1\n").is_err());
    }

    #[test]
    fn lines_travel_in_chunks_and_errors_keep_their_numbers() {
        let sizes = RefCell::new(Vec::new());
        let send = |body: Vec<u8>| {
            let count = body.iter().filter(|&&byte| byte == b'\n').count();
            sizes.borrow_mut().push(count);
            let form =
                json!({ "received": count, "joined": count - 1, "failed": 1, "errors": [{"line": 2, "error": "no"}] });
            Ok(form.to_string().into_bytes())
        };
        let lines =
            (1..=CHUNK_LINES as u64 + 3).map(|number| Ok((number, if number == 1 { " " } else { "{}" }.to_owned())));
        let summary = send_all(lines, send).unwrap();
        assert_eq!(sizes.into_inner(), [CHUNK_LINES, 2]);
        assert_eq!(summary.failed(), 2);
        let expected = [(3, "no".to_owned()), (CHUNK_LINES as u64 + 3, "no".to_owned())];
        assert_eq!(summary.errors, expected);
        let form = summary.form();
        assert_eq!((&form["received"], &form["joined"]), (&json!(CHUNK_LINES + 2), &json!(CHUNK_LINES)));
        assert!(summary.told().contains("line 3: no\n"), "{}", summary.told());
    }
}
