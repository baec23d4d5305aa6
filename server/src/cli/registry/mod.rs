//! How does somebody work with the registry of a running server?
//!
//! Each command here is one question or one order over the admin port. What may be done, and by whom, is decided there.

mod approve;
mod environments;
mod history;
mod import;
mod keep;
mod promote;
mod pull;
mod push;
mod say;
mod show;

use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Arg, ArgMatches, Command};
use serde_json::{Value, json};

use super::credentials::Credentials;
use super::exit::Failure;
use super::output::NOTHING;
use super::status::address;
use super::target::{Http, Named, ask, path_part};

/// Text that travels with an order, at most.
const TEXT_BYTES_MAX: u64 = 1 << 20;

/// All commands of the registry.
pub(crate) fn commands() -> Vec<Command> {
    let mut commands = vec![
        push::command(),
        import::command(),
        pull::command(),
        show::command(),
        show::diff_command(),
        environments::command(),
        promote::command(),
        history::command(),
        keep::command(),
    ];
    commands.extend(say::commands());
    commands.extend(approve::commands());
    commands
}

/// Runs a command, if it is one of the registry's.
pub(crate) fn run(name: &str, matches: &ArgMatches) -> Option<Result<(), Failure>> {
    Some(match name {
        "push" => push::run(matches),
        "import" => import::run(matches),
        "pull" => pull::run(matches),
        "show" => show::run(matches),
        "diff" => show::run_diff(matches),
        "environments" => environments::run(matches),
        "promote" => promote::run(matches),
        "history" => history::run(matches),
        "registry" => keep::run(matches),
        "note" | "alias" | "archive" | "quarantine" | "release" => say::run(name, matches),
        "request" | "approve" | "reject" | "withdraw" | "revoke" | "requests" => approve::run(name, matches),
        _ => return None,
    })
}

/// The admin port of the server that is meant.
struct Asked {
    http: Http,
}

impl Asked {
    fn of(matches: &ArgMatches) -> Result<Asked, Failure> {
        Ok(Asked { http: Http::new(address(&Named::of(matches)?)?, &Credentials::of(matches)?)? })
    }

    fn get(&self, path: &str) -> Result<Value, Failure> {
        form(&ask(&self.http, "GET", path, Vec::new())?)
    }

    fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        form(&ask(&self.http, "POST", path, body.to_string().into_bytes())?)
    }

    fn order(&self, wants: &Value) -> Result<Value, Failure> {
        self.post("/admin/registry/orders", &json!({ "wants": wants }))
    }

    fn put(&self, path: &str, body: String) -> Result<Value, Failure> {
        form(&ask(&self.http, "PUT", path, body.into_bytes())?)
    }

    fn bytes(&self, path: &str) -> Result<Vec<u8>, Failure> {
        ask(&self.http, "GET", path, Vec::new())
    }

    fn put_file(&self, path: &str, from: impl std::io::Read, size: u64) -> Result<(), Failure> {
        self.http.put_file(path, from, size).map(drop)
    }

    /// The model and number of the version that an argument names.
    fn version(&self, matches: &ArgMatches, argument: &str) -> Result<(String, u64), Failure> {
        let reference = matches.get_one::<String>(argument).map(String::as_str).unwrap_or_default();
        let version = self.get(&format!("/admin/registry/versions/{}", path_part(reference)))?;
        let number = version["version"].as_u64();
        let number =
            number.ok_or_else(|| Failure::failed("the admin port does not answer as a Tiltyard server does"))?;
        Ok((text(&version, "model"), number))
    }
}

/// The argument that names a version.
fn reference(name: &'static str) -> Arg {
    Arg::new(name)
        .value_name("MODEL@VERSION")
        .required(true)
        .help("The version: risk@3, what is in an environment, risk@prod, or an alias, risk@champion")
}

fn form(answer: &[u8]) -> Result<Value, Failure> {
    serde_json::from_slice(answer)
        .map_err(|_| Failure::failed("the admin port does not answer as a Tiltyard server does"))
}

/// What a form says under a key, or that it says nothing.
fn text(form: &Value, key: &str) -> String {
    form[key].as_str().filter(|text| !text.is_empty()).unwrap_or(NOTHING).to_owned()
}

/// Names in a line.
fn join(names: &Value) -> String {
    names.as_array().into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
}

/// A file of text, within bounds.
fn read_text(path: &str) -> Result<String, Failure> {
    let failed = |error: std::io::Error| Failure::failed(format!("cannot read {path}: {error}"));
    if fs::metadata(path).map_err(failed)?.len() > TEXT_BYTES_MAX {
        return Err(Failure::failed(format!("{path} has more than {TEXT_BYTES_MAX} bytes: expected text")));
    }
    fs::read_to_string(path).map_err(failed)
}

/// A time as people write it, in milliseconds since 1970: a day, a time in UTC, or the number itself.
fn time_ms(text: &str) -> Result<u64, Failure> {
    let wrong =
        || Failure::usage(format!("{text:?}: expected 2026-03-01, 2026-03-01T12:00:00Z, or milliseconds since 1970"));
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    let whole = if text.len() == "2026-03-01".len() { format!("{text}T00:00:00Z") } else { text.to_owned() };
    let time = humantime::parse_rfc3339_weak(&whole).map_err(|_| wrong())?;
    let since = time.duration_since(UNIX_EPOCH).map_err(|_| wrong())?;
    u64::try_from(since.as_millis()).map_err(|_| wrong())
}

/// A time for people, in UTC.
fn shown_time(time_ms: u64) -> String {
    let time: SystemTime = UNIX_EPOCH + Duration::from_millis(time_ms);
    humantime::format_rfc3339_seconds(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_as_people_write_them() {
        let ms = |text: &str| time_ms(text).map_err(|failure| failure.exit());
        assert_eq!(ms("1772323200000"), Ok(1_772_323_200_000));
        assert_eq!(ms("2026-03-01"), Ok(1_772_323_200_000));
        assert_eq!(ms("2026-03-01T12:00:00Z"), Ok(1_772_366_400_000));
        assert_eq!(ms("yesterday"), Err(crate::cli::exit::Exit::Usage));
        assert_eq!(shown_time(1_772_366_400_000), "2026-03-01T12:00:00Z");
    }
}
