//! How does somebody say which versions answer which share of an endpoint's requests, or are to compete for them?

use std::fs;

use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::Value;

use super::credentials::Credentials;
use super::exit::Failure;
use super::output::{self, Form};
use super::status::address;
use super::target::{Http, Named, admin_flag, ask, path_part, server_flags};
use crate::endpoints::file::{self, Said};
use crate::rollouts::begin;

pub(crate) fn command() -> Command {
    Command::new("apply")
        .about("Let a plan hold, or a rollout begin: which versions answer which share of an endpoint's requests")
        .long_about(
            "Let the plan in a file hold on a running server, as the next revision of its endpoint. Its versions are loaded \
             first where they are not; where one of them cannot be ready, nothing changes and the exit code is 1. To apply \
             what holds already changes nothing.\n\nA file with champion and challenger in place of arms declares a rollout, which \
             begins once: to apply it again while it goes on, or after the promotion, changes nothing. After it was rolled back, \
             that is told, and nothing begins until the file changes. Exit codes then: 0 it begins, goes on or was promoted; 5 it was \
             rolled back; 1 it was ended, or failed.",
        )
        .arg(
            Arg::new("file")
                .short('f')
                .long("file")
                .value_name("PATH")
                .required(true)
                .help("A file such as risk.toml, whose name is the endpoint's unless it says endpoint = …"),
        )
        .arg(
            Arg::new("dry_run")
                .long("dry-run")
                .action(ArgAction::SetTrue)
                .help("Only say what would change"),
        )
        .args(server_flags())
        .arg(admin_flag())
        .after_help(
            "risk.toml, one in ten customers on version 2:\n\n  \
             key = { header = \"x-customer\" }\n\n  [[arms]]\n  name = \"champion\"\n  version = 1\n  role = \"champion\"\n\n  \
             [[arms]]\n  name = \"challenger\"\n  version = 2\n  role = \"challenger\"\n  weight = \"10%\"\n\n\
             risk.toml, version 2 competes for a share that grows:\n\n  \
             key = { header = \"x-customer\" }\n  champion = { version = 1 }\n  challenger = { version = 2 }\n  \
             steps = [ { share = \"5%\", min_time = \"1h\" }, { share = \"50%\", min_time = \"4h\" } ]\n\n\
             Examples:\n  tiltyard apply -f risk.toml --dry-run\n  tiltyard apply -f risk.toml",
        )
}

pub(crate) fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let said = read(matches.get_one::<String>("file").map(String::as_str).unwrap_or_default())?;
    let http = Http::new(address(&Named::of(matches)?)?, &Credentials::of(matches)?)?;
    let query = if matches.get_flag("dry_run") { "?dry_run=true" } else { "" };
    let path = format!("/admin/endpoints/{}{query}", path_part(said.endpoint()));
    match said {
        Said::Plan(draft) => show(matches, &ask(&http, "PUT", &path, file::write(&draft).to_string().into_bytes())?),
        Said::Rollout(declared) => {
            show_rollout(matches, &ask(&http, "PUT", &path, declared.says.to_string().into_bytes())?)
        }
    }
}

/// What a file says; its name is the endpoint's where the file does not say. Fails with the file and the place.
pub(super) fn read(path: &str) -> Result<Said, Failure> {
    let text = fs::read_to_string(path).map_err(|error| Failure::failed(format!("cannot read {path}: {error}")))?;
    let stem = std::path::Path::new(path).file_stem().and_then(|name| name.to_str());
    // What the file says counts, and the file's name only where it says nothing.
    let read = match file::read(&text, None) {
        Err(error) if error.message().starts_with("endpoint is missing") => file::read(&text, stem),
        read => read,
    };
    let said = read.map_err(|error| Failure::failed(format!("{path}: {}", error.message())))?;
    if let Said::Rollout(declared) = &said {
        let good = begin::rehearse(&declared.endpoint, &declared.written);
        good.map_err(|error| Failure::failed(format!("{path}: {}", error.message())))?;
    }
    Ok(said)
}

/// Shows what became of a rollout that was declared.
fn show_rollout(matches: &ArgMatches, answer: &[u8]) -> Result<(), Failure> {
    let report: Value = serde_json::from_slice(answer)
        .map_err(|_| Failure::failed("the admin port does not answer as a Tiltyard server does"))?;
    if Form::of(matches) == Form::Json {
        output::print_json(&report)?;
    }
    let why = report["why"].as_str().unwrap_or_default();
    match report["outcome"].as_str() {
        Some("rolled_back") => return Err(Failure::rolled_back(why)),
        Some("ended") => return Err(Failure::failed(why)),
        _ => {}
    }
    match Form::of(matches) {
        Form::Json => Ok(()),
        Form::Table => output::print(&told_rollout(&report)),
    }
}

/// The report of a rollout for people.
fn told_rollout(report: &Value) -> String {
    let text = |key: &str| report[key].as_str().unwrap_or_default();
    let (endpoint, why) = (text("endpoint"), text("why"));
    let head = match (report["outcome"].as_str(), report["rollout"].as_str()) {
        (Some("begins"), Some(id)) => format!("{endpoint}: rollout {id} begins:\n"),
        (Some("begins"), None) => format!("{endpoint}: {why}:\n"),
        _ => format!("{endpoint} is as it was: {why}.\n"),
    };
    head + &listed(report, "changes", "") + &listed(report, "loads", "to be loaded first: ")
}

/// Lines of a report, each with a sign before it.
fn listed(report: &Value, key: &str, sign: &str) -> String {
    let list = report[key].as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter().filter_map(Value::as_str).map(|line| format!("  {sign}{line}\n")).collect()
}

/// Shows what became of a change of a plan.
pub(super) fn show(matches: &ArgMatches, answer: &[u8]) -> Result<(), Failure> {
    let report: Value = serde_json::from_slice(answer)
        .map_err(|_| Failure::failed("the admin port does not answer as a Tiltyard server does"))?;
    match Form::of(matches) {
        Form::Json => output::print_json(&report)?,
        Form::Table => output::print(&told(&report))?,
    }
    if report["kept"] == false {
        output::note("warning: the server cannot keep this change, and its log says why: a restart forgets it");
    }
    Ok(())
}

/// The report for people.
fn told(report: &Value) -> String {
    let endpoint = report["endpoint"].as_str().unwrap_or_default();
    let (before, revision) = (report["before"].as_u64(), report["revision"].as_u64());
    let would = report["dry_run"] == true;
    let head = match (before, revision) {
        (_, None) if before.is_none() => format!("{endpoint} has no plan.\n"),
        (_, None) => format!("{endpoint} has no plan any more.\n"),
        (before, Some(revision)) if before == Some(revision) => {
            format!("{endpoint} is as it was: revision {revision} holds.\n")
        }
        (None, Some(revision)) if would => format!("{endpoint} would have its first plan, revision {revision}:\n"),
        (None, Some(revision)) => format!("{endpoint} has a plan, revision {revision}:\n"),
        (Some(before), Some(revision)) if would => {
            format!("{endpoint} would go from revision {before} to {revision}:\n")
        }
        (Some(before), Some(revision)) => format!("{endpoint} went from revision {before} to {revision}:\n"),
    };
    let sign = if would { "to be loaded first: " } else { "does not answer yet: " };
    head + &listed(report, "changes", "") + &listed(report, "loads", sign)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn people_are_told_what_changed() {
        let check = |before: Option<u64>, revision: Option<u64>, dry_run: bool, expected: &str| {
            let report = json!({
                "endpoint": "risk", "before": before, "revision": revision, "dry_run": dry_run,
                "changes": if before == revision { json!([]) } else { json!(["+ a"]) }, "loads": [],
            });
            assert_eq!(told(&report), expected);
        };
        check(None, Some(1), false, "risk has a plan, revision 1:\n  + a\n");
        check(Some(1), Some(2), true, "risk would go from revision 1 to 2:\n  + a\n");
        check(Some(3), Some(2), false, "risk went from revision 3 to 2:\n  + a\n");
        check(Some(2), Some(2), false, "risk is as it was: revision 2 holds.\n");
        check(Some(2), None, false, "risk has no plan any more.\n  + a\n");
    }

    #[test]
    fn people_are_told_what_becomes_of_a_rollout() {
        let told = |outcome: &str, id: Value, why: &str| {
            told_rollout(&json!({"endpoint": "risk", "rollout": id, "outcome": outcome, "why": why, "changes": ["+ a"],
                                 "loads": ["risk version 2"]}))
        };
        let changes = "  + a\n  to be loaded first: risk version 2\n";
        assert_eq!(told("begins", json!("risk-1"), "x"), format!("risk: rollout risk-1 begins:\n{changes}"));
        let would = told("begins", Value::Null, "a rollout would begin");
        assert_eq!(would, format!("risk: a rollout would begin:\n{changes}"));
        assert_eq!(
            told("goes_on", json!("r"), "rollout r goes on"),
            format!("risk is as it was: rollout r goes on.\n{changes}")
        );
    }
}
