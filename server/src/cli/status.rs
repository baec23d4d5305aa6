//! Where does every version of a running server stand, and since when?

use std::time::Duration;

use clap::{Arg, ArgMatches, Command};
use serde_json::Value;

use super::credentials::Credentials;
use super::exit::Failure;
use super::models::text;
use super::output::{self, Form, Table, short_digest};
use super::rollout;
use super::target::{Http, Named, admin_flag, ask, server_flags};
use super::traffic;
use crate::clock;

/// The flag's name among the matches.
const WATCH: &str = "watch";

/// The shortest time between two looks.
const INTERVAL_MIN: Duration = Duration::from_millis(100);

pub(crate) fn command() -> Command {
    Command::new("status")
        .about("Tell where each version of a running server stands, and which of them answer an endpoint with a plan")
        .args(server_flags())
        .arg(admin_flag())
        .arg(
            Arg::new(WATCH)
                .long(WATCH)
                .value_name("INTERVAL")
                .value_parser(interval)
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("2s")
                .help("Show how each version does, anew every INTERVAL, until stopped [INTERVAL: 2s]"),
        )
        .after_help(
            "loading    waits for its files to rest, is read or compiled\n\
             verifying  answers its golden examples, and proves what may share a run\n\
             warming    runs what requests would else have to wait for\n\
             ready      answers\n\
             failed     does not answer, for the reason that is told\n\
             out        is loaded, and does not answer while its runs fail or hang\n\
             draining   was replaced or taken out, and finishes what it has\n\
             retired    is freed\n\n\
             With --watch: requests and rows per second, the share that failed, the time that half and 99 in 100 took at most,\n\
             requests that wait, rows of a run, and processors (or devices) that runs keep busy.\n\n\
             Examples:\n  tiltyard status\n  tiltyard status --watch\n  tiltyard status --admin http://models:8002 --output json",
        )
}

pub(crate) fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let http = Http::new(address(&Named::of(matches)?)?, &Credentials::of(matches)?)?;
    if let Some(interval) = matches.get_one::<Duration>(WATCH) {
        return traffic::watch(&http, Form::of(matches), *interval);
    }
    let status = fetch(&http)?;
    match Form::of(matches) {
        Form::Json => output::print_json(&status),
        Form::Table => output::print(&listing(&status, clock::unix_ms())),
    }
}

/// How often to look.
fn interval(text: &str) -> Result<Duration, String> {
    let interval = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    match interval >= INTERVAL_MIN {
        true => Ok(interval),
        false => Err(format!("expected {INTERVAL_MIN:?} or more, such as 2s")),
    }
}

/// The admin port, which alone knows.
pub(super) fn address(named: &Named) -> Result<&str, Failure> {
    named.admin().ok_or_else(|| Failure::usage("the admin port knows that: name it with --admin URL or TILTYARD_ADMIN"))
}

pub(super) fn fetch(http: &Http) -> Result<Value, Failure> {
    let answer = ask(http, "GET", "/admin/status", Vec::new())?;
    match serde_json::from_slice(&answer) {
        Ok(Value::Object(status)) if status.contains_key("versions") => Ok(Value::Object(status)),
        _ => Err(Failure::failed("the admin port does not answer as a Tiltyard server does")),
    }
}

/// How the replicas do that share a registry.
fn fleet(fleet: &Value) -> String {
    if fleet.is_null() {
        return String::new();
    }
    let replicas = rollout::status::replicas(versions(fleet, "replicas"));
    match fleet["trouble"].as_str() {
        Some(trouble) => format!("It is replica {}. {trouble}.\n", text(fleet, "replica")),
        None => format!("It is replica {} of {}: {replicas}.\n", text(fleet, "replica"), text(fleet, "registry")),
    }
}

/// The versions that a status or a list of changes holds.
pub(super) fn versions<'a>(form: &'a Value, key: &str) -> &'a [Value] {
    form[key].as_array().map_or(&[], Vec::as_slice)
}

fn listing(status: &Value, now_ms: u64) -> String {
    let word = match (&status["ready"], &status["draining"]) {
        (_, Value::Bool(true)) => "is draining",
        (Value::Bool(true), _) => "is ready",
        _ => "is starting",
    };
    let (all, endpoints) = (versions(status, "versions"), versions(status, "endpoints"));
    let mut listing = format!("The server {word}.\n{}{}", store(&status["store"], now_ms), fleet(&status["fleet"]));
    if all.is_empty() {
        return listing + "It has no models.\n";
    }
    let mut table = Table::new(["name", "version", "state", "for", "digest"]);
    for version in all {
        let since = version["since_ms"].as_u64().unwrap_or(now_ms);
        table.add([
            text(version, "name"),
            text(version, "version"),
            text(version, "state"),
            age(now_ms.saturating_sub(since) / 1000),
            short_digest(&text(version, "digest")),
        ]);
    }
    listing += &table.to_string();
    for version in all {
        let reason = version["reason"].as_str().unwrap_or_default();
        if !reason.is_empty() {
            listing += &format!("{} version {}: {reason}\n", text(version, "name"), text(version, "version"));
        }
    }
    if !endpoints.is_empty() {
        listing += &format!("\n{}", super::endpoints::listing(endpoints));
    }
    listing
}

/// How it goes with the store that models come from; nothing where there is none.
fn store(form: &Value, now_ms: u64) -> String {
    let Some(url) = form["url"].as_str() else { return String::new() };
    let number = |key: &str| form[key].as_u64().unwrap_or(0);
    let mut told = format!("Models come from {url}: {} objects", number("objects"));
    match number("pending_objects") {
        0 => {}
        pending => told += &format!(", {pending} more on their way ({} bytes)", number("pending_bytes")),
    }
    match form["synced_ms"].as_u64() {
        Some(at) => told += &format!(", as it had them {} ago", age(now_ms.saturating_sub(at) / 1000)),
        None => told += ", and it has not answered yet",
    }
    match form["trouble"].as_str() {
        Some(trouble) => told + "\n" + trouble + "\n",
        None => told + "\n",
    }
}

/// A time as people say it: the two largest units.
pub(crate) fn age(seconds: u64) -> String {
    let units = [(86_400, 'd'), (3_600, 'h'), (60, 'm'), (1, 's')];
    let largest = units.iter().position(|(unit, _)| seconds >= *unit).unwrap_or(units.len() - 1);
    let mut rest = seconds;
    let mut shown = String::new();
    for (unit, name) in &units[largest..units.len().min(largest + 2)] {
        shown += &format!("{}{name}", rest / unit);
        rest %= unit;
    }
    shown
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_status_as_a_table() {
        let status = json!({"ready": true, "draining": false, "sequence": 9, "versions": [
            {"name": "risk", "version": "2", "state": "ready", "reason": "", "digest": "0123456789abcdef", "since_ms": 1_000},
            {"name": "risk", "version": "3", "state": "failed", "reason": "input \"x\" is gone", "digest": "", "since_ms": 90_000},
        ]});
        assert_eq!(
            listing(&status, 100_000),
            "The server is ready.\n\
             NAME  VERSION  STATE   FOR    DIGEST\n\
             risk  2        ready   1m39s  0123456789ab\n\
             risk  3        failed  10s    -\n\
             risk version 3: input \"x\" is gone\n"
        );
        assert_eq!(listing(&json!({"draining": true}), 0), "The server is draining.\nIt has no models.\n");
        let mut store = json!({"url": "s3://b/m", "objects": 3, "pending_objects": 0, "synced_ms": 40_000});
        let told = |store: &Value| listing(&json!({"ready": true, "store": store, "versions": []}), 100_000);
        assert_eq!(
            told(&store),
            "The server is ready.\nModels come from s3://b/m: 3 objects, as it had them 1m0s ago\nIt has no models.\n"
        );
        store =
            json!({"url": "s3://b/m", "objects": 0, "pending_objects": 2, "pending_bytes": 9, "trouble": "no route"});
        assert_eq!(
            told(&store),
            "The server is ready.\n\
             Models come from s3://b/m: 0 objects, 2 more on their way (9 bytes), and it has not answered yet\n\
             no route\n\
             It has no models.\n"
        );
    }

    #[test]
    fn times_as_people_say_them() {
        let check = |seconds, expected: &str| assert_eq!(age(seconds), expected);
        check(0, "0s");
        check(61, "1m1s");
        check(7_200, "2h0m");
        check(100_000, "1d3h");
    }
}
