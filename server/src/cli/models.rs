//! What does a running server serve?

use clap::{ArgMatches, Command};
use serde_json::Value;

use super::credentials::Credentials;
use super::exit::{Exit, Failure};
use super::output::{self, Form, NOTHING, Table, short_digest, size};
use super::target::{Http, Named, admin_flag, ask, server_flags};

pub(crate) fn command() -> Command {
    Command::new("models")
        .about("List the models of a running server with their versions, states and engines")
        .args(server_flags())
        .arg(admin_flag())
        .after_help(
            "Engine, batch, digest and size come from the server's admin port; without it, names and states are shown.\n\n\
             Examples:\n  tiltyard models\n  tiltyard models --ports-file ports.json\n  \
             tiltyard models --server http://models:8000 --admin http://models:8002\n  tiltyard models --output json",
        )
}

pub(crate) fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let versions = fetch(&Named::of(matches)?, &Credentials::of(matches)?)?;
    match Form::of(matches) {
        Form::Json => output::print_json(&Value::Array(versions)),
        Form::Table => output::print(&listing(&versions)),
    }
}

/// Every version with what is known of it: from the admin port, or where that is out of reach, from the data port.
fn fetch(named: &Named, credentials: &Credentials) -> Result<Vec<Value>, Failure> {
    if let Some(admin) = named.admin() {
        match ask(&Http::new(admin, credentials)?, "GET", "/admin/models", Vec::new()) {
            Err(failure) if failure.exit() == Exit::Unreachable && !named.has_admin() => {}
            answer => return versions_of(admin, &answer?),
        }
    }
    let server = named.server();
    let index = ask(&Http::new(server, credentials)?, "POST", "/v2/repository/index", b"{}".to_vec())?;
    let versions = versions_of(server, &index)?;
    output::note("note: engine, batch, digest and size come from the admin port; name it with --admin URL");
    Ok(versions)
}

fn versions_of(address: &str, answer: &[u8]) -> Result<Vec<Value>, Failure> {
    match serde_json::from_slice(answer) {
        Ok(Value::Array(versions)) => Ok(versions),
        _ => Err(Failure::failed(format!("{address} does not answer as a Tiltyard server does"))),
    }
}

fn listing(versions: &[Value]) -> String {
    if versions.is_empty() {
        return "The server has no models.\n".to_owned();
    }
    let mut table = Table::new(["name", "version", "state", "engine", "batch", "digest", "size"]);
    for version in versions {
        table.add([
            text(version, "name"),
            text(version, "version"),
            text(version, "state"),
            text(version, "engine"),
            batch(version),
            short_digest(&text(version, "digest")),
            version["size_bytes"].as_u64().map_or_else(|| NOTHING.to_owned(), size),
        ]);
    }
    let mut listing = table.to_string();
    for version in versions {
        let reason = version["reason"].as_str().unwrap_or_default();
        if !reason.is_empty() {
            listing += &format!("{} version {}: {reason}\n", text(version, "name"), text(version, "version"));
        }
    }
    listing
}

/// A field for a cell.
pub(super) fn text(version: &Value, key: &str) -> String {
    version[key].as_str().filter(|text| !text.is_empty()).unwrap_or(NOTHING).to_owned()
}

/// How many rows share a run.
pub(super) fn batch(version: &Value) -> String {
    match version["batch_rows_max"].as_u64() {
        Some(rows) if rows > 1 => format!("{rows} rows"),
        Some(_) => "no".to_owned(),
        None => NOTHING.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn versions_as_a_table() {
        let versions = [
            json!({"name": "risk", "version": "2", "state": "READY", "reason": "", "engine": "tract", "batch_rows_max": 64,
                   "digest": "0123456789abcdef", "size_bytes": 12_400}),
            json!({"name": "ocr", "version": "1", "state": "READY", "engine": "onnxruntime", "batch_rows_max": 1}),
            json!({"name": "old", "version": "1", "state": "UNAVAILABLE", "reason": "model.onnx: truncated"}),
        ];
        assert_eq!(
            listing(&versions),
            "NAME  VERSION  STATE        ENGINE       BATCH    DIGEST        SIZE\n\
             risk  2        READY        tract        64 rows  0123456789ab  12 kB\n\
             ocr   1        READY        onnxruntime  no       -             -\n\
             old   1        UNAVAILABLE  -            -        -             -\n\
             old version 1: model.onnx: truncated\n"
        );
        assert_eq!(listing(&[]), "The server has no models.\n");
    }

    #[test]
    fn answers_of_something_else() {
        let check = |answer: &str, right: bool| assert_eq!(versions_of("http://h:1", answer.as_bytes()).is_ok(), right);
        check("[]", true);
        check("{}", false);
        check("<html>", false);
    }
}
