//! How do people with the keys get rows as they were: as Parquet, or as lines of JSON?

use std::path::{Path, PathBuf};

use clap::{Arg, ArgMatches, Command};
use serde_json::json;
use tiltyard_capture::{Outcome, Record, Segment, Value, write_plain};
use tiltyard_types::json::{NonFinite, write_data, write_string};

use super::source::{Request, Source, filter_flags, from_flag};
use crate::cli::exit::Failure;
use crate::cli::output::{self, Form};
use crate::cli::{progress, settings};

pub(super) fn export_command() -> Command {
    flags(Command::new("export").about("Write captured rows as plain Parquet, those that are encrypted too"))
        .arg(Arg::new("to").long("to").value_name("DIR").required(true).help("A folder that is made, or is empty"))
        .after_help(
            "Segments keep their places below the folder, and their columns: pandas, DuckDB and others read them as they read a \
             capture's. Rows whose subject was erased have facts and no values.\n\nExamples:\n  \
             tiltyard capture export --to plain --capture-key-file master.key\n  \
             tiltyard capture export --from segments --to plain --endpoint risk --since 2026-03-01",
        )
}

pub(super) fn read_command() -> Command {
    flags(Command::new("read").about("Print captured rows as lines of JSON")).after_help(
        "Examples:\n  tiltyard capture read --endpoint risk --since 2026-03-01\n  \
         tiltyard capture read --capture-key-file master.key | jq -r .prediction_id",
    )
}

fn flags(command: Command) -> Command {
    command.arg(from_flag()).args(filter_flags()).args(settings::flags(&[
        "data_dir",
        "capture_dir",
        "capture_key_file",
        "config",
    ]))
}

fn source(matches: &ArgMatches) -> Result<Source, Failure> {
    let loaded = settings::load(matches)?;
    settings::warn(&loaded);
    Source::open(matches, &loaded.config)
}

pub(super) fn export(matches: &ArgMatches) -> Result<(), Failure> {
    let source = source(matches)?;
    let to = PathBuf::from(matches.get_one::<String>("to").map(String::as_str).unwrap_or_default());
    let of_folder = |error: std::io::Error| Failure::failed(format!("{}: {error}", to.display()));
    std::fs::create_dir_all(&to).map_err(of_folder)?;
    if std::fs::read_dir(&to).map_err(of_folder)?.next().is_some() {
        return Err(Failure::usage(format!("{} is not empty: expected a folder for the export alone", to.display())));
    }
    let (mut rows, mut erased, mut segments) = (0u64, 0u64, 0u64);
    let bar = progress::bar("segments", Some(source.candidates().count() as u64));
    for file in source.candidates() {
        bar.inc(1);
        let Some(segment) = source.read(file)? else { continue };
        let (mut plain, mut gone) = (Vec::new(), 0);
        source.requests(&segment, |request| {
            gone += (request.rows.len() - request.records.len()) as u64;
            plain.extend(as_they_were(request));
            Ok(true)
        })?;
        if plain.is_empty() {
            continue;
        }
        let place = file.listed.as_ref().map_or_else(
            || {
                file.path
                    .strip_prefix(&source.from)
                    .ok()
                    .filter(|rest| !rest.as_os_str().is_empty())
                    .map(Path::to_owned)
            },
            |listed| Some(PathBuf::from(&listed.facts.file)),
        );
        let place = place.or_else(|| file.path.file_name().map(PathBuf::from)).unwrap_or_default();
        write(&to.join(place), &segment, &plain)?;
        (rows, erased, segments) = (rows + plain.len() as u64, erased + gone, segments + 1);
    }
    bar.finish_and_clear();
    match Form::of(matches) {
        Form::Json => output::print_json(&json!({ "segments": segments, "rows": rows, "erased": erased })),
        Form::Table => output::print(&format!(
            "{segments} segments with {rows} rows, of which {erased} are erased: {}\n",
            to.display()
        )),
    }
}

fn write(path: &Path, segment: &Segment, rows: &[(u64, Record<'static>)]) -> Result<(), Failure> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|error| Failure::failed(format!("{}: {error}", folder.display())))?;
    }
    write_plain(path, segment.layout(), rows).map(drop).map_err(|error| Failure::failed(error.to_string()))
}

/// A request's rows with their sequence: what is left of an erased one is what everybody may know.
fn as_they_were(Request { rows, records }: Request) -> Vec<(u64, Record<'static>)> {
    let mut records = records.into_iter().peekable();
    let mut row = |row: tiltyard_capture::Row| {
        let is_its = |record: &Record<'static>| record.first_row == row.record.first_row;
        let record = records.next_if(is_its);
        (row.sequence, record.unwrap_or_else(|| Record { inputs: Vec::new(), ..row.record }))
    };
    rows.into_iter().map(&mut row).collect()
}

pub(super) fn read(matches: &ArgMatches) -> Result<(), Failure> {
    let source = source(matches)?;
    for file in source.candidates() {
        let Some(segment) = source.read(file)? else { continue };
        source.requests(&segment, |request| {
            let is_erased = request.records.len() < request.rows.len();
            let mut text = Vec::new();
            for (_, record) in as_they_were(request) {
                line(&record, is_erased, &mut text);
            }
            output::print(&String::from_utf8_lossy(&text))?;
            Ok(true)
        })?;
    }
    Ok(())
}

fn line(record: &Record<'_>, is_erased: bool, out: &mut Vec<u8>) {
    let (outcome, error) = match &record.outcome {
        Outcome::Answered => ("ok", None),
        Outcome::Failed(kind, why) => (kind.name(), Some(why.as_ref())),
    };
    let headers: serde_json::Map<String, serde_json::Value> =
        record.headers.iter().map(|(name, value)| (name.to_string(), json!(value))).collect();
    let facts = json!({
        "prediction_id": record.request.prediction(record.first_row as usize),
        "time": humantime::format_rfc3339_micros(std::time::UNIX_EPOCH + std::time::Duration::from_micros(record.unix_us.min(253_402_300_799_000_000))).to_string(),
        "endpoint": record.endpoint, "model": record.model, "version": record.version, "digest": record.digest.to_string(),
        "arm": record.arm, "latency_ns": record.latency_ns, "outcome": outcome, "error": error,
        "key_hash": record.key.map(|key| format!("{key:016x}")), "headers": headers, "erased": is_erased,
    });
    let facts = facts.to_string();
    out.extend_from_slice(facts.strip_suffix('}').unwrap_or(&facts).as_bytes());
    for (side, values) in [("inputs", &record.inputs), ("outputs", &record.outputs)] {
        out.extend_from_slice(format!(",\"{side}\":{{").as_bytes());
        for (at, value) in values.iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            tensor(value, out);
        }
        out.push(b'}');
    }
    out.extend_from_slice(b"}\n");
}

fn tensor(value: &Value<'_>, out: &mut Vec<u8>) {
    write_string(&value.name, out);
    out.push(b':');
    // JSON has no words for NaN, nor for bytes that are no text: both are null, and Parquet has them.
    if write_data(&value.tensor, out, NonFinite::Null).is_err() {
        out.extend_from_slice(b"null");
    }
}
