//! What is not as it should be, and who need not be told of it for a while?

use std::time::{Duration, UNIX_EPOCH};

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use serde_json::{Value, json};

use super::credentials::Credentials;
use super::exit::{Exit, Failure};
use super::models::text;
use super::output::{self, Form, NOTHING, Table};
use super::status::address;
use super::target::{Http, Named, admin_flag, ask, server_flags};
use crate::alerts::rules::Rules;

const EXAMPLES: &str = "\
Rules are in the file that serve is given as --alerts; without one, drift, errors, the capture and the log are watched. See \
docs/alerts.md.

Examples:
  tiltyard alerts
  tiltyard alerts --all --output json
  tiltyard alerts silence drift --label model=risk --for 24h --why 'a new market, see the ticket'
  tiltyard alerts unsilence 1
  tiltyard alerts check alerts.toml

The exit code of alerts is 1 where anything fires that is not silenced.";

pub(crate) fn command() -> Command {
    let silence = Command::new("silence")
        .about("Have nobody be told of some alerts for a while")
        .arg(Arg::new("rule").value_name("RULE").help("Of this rule; of all with the labels where it is left out"))
        .arg(
            Arg::new("label")
                .long("label")
                .value_name("NAME=VALUE")
                .action(ArgAction::Append)
                .value_parser(label)
                .help("With this label, such as model=risk; may be given several times"),
        )
        .arg(Arg::new("for").long("for").value_name("TIME").required(true).help("How long, such as 2h, up to 720h"))
        .arg(Arg::new("why").long("why").value_name("TEXT").default_value("").help("What for"))
        .args(server_flags())
        .arg(admin_flag());
    let unsilence = Command::new("unsilence")
        .about("End a silence")
        .arg(Arg::new("id").value_name("ID").required(true).value_parser(value_parser!(u64)).help("Its number"))
        .args(server_flags())
        .arg(admin_flag());
    let check =
        Command::new("check").about("Tell whether a file of rules can be used, and which rules hold with it").arg(
            Arg::new("file")
                .value_name("FILE")
                .required(true)
                .value_parser(value_parser!(std::path::PathBuf))
                .help("The file"),
        );
    Command::new("alerts")
        .about("Tell what is not as it should be: alerts that fire, or are about to")
        .args_conflicts_with_subcommands(true)
        .arg(Arg::new("all").long("all").action(ArgAction::SetTrue).help("Also those that are over, for a day"))
        .args(server_flags())
        .arg(admin_flag())
        .subcommand(silence)
        .subcommand(unsilence)
        .subcommand(check)
        .after_help(EXAMPLES)
}

fn label(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(name, _)| !name.is_empty());
    pair.map(|(name, value)| (name.to_owned(), value.to_owned())).ok_or_else(|| "expected NAME=VALUE".to_owned())
}

pub(crate) fn run(matches: &ArgMatches) -> Result<Exit, Failure> {
    match matches.subcommand() {
        Some(("silence", matches)) => silence(matches).map(|()| Exit::Done),
        Some(("unsilence", matches)) => unsilence(matches).map(|()| Exit::Done),
        Some(("check", matches)) => check(matches).map(|()| Exit::Done),
        _ => list(matches),
    }
}

fn server(matches: &ArgMatches) -> Result<Http, Failure> {
    Http::new(address(&Named::of(matches)?)?, &Credentials::of(matches)?)
}

fn form(answer: &[u8]) -> Result<Value, Failure> {
    serde_json::from_slice(answer)
        .map_err(|error| Failure::failed(format!("the answer is not that of a Tiltyard server: {error}")))
}

fn list(matches: &ArgMatches) -> Result<Exit, Failure> {
    let mut told = form(&ask(&server(matches)?, "GET", "/admin/alerts", Vec::new())?)?;
    if let Some(alerts) = told["alerts"].as_array_mut().filter(|_| !matches.get_flag("all")) {
        alerts.retain(|alert| alert["state"] != "resolved");
    }
    let alerts = told["alerts"].as_array();
    let fires = alerts.is_some_and(|all| all.iter().any(|one| one["state"] == "firing" && one["silence"].is_null()));
    match Form::of(matches) {
        Form::Json => output::print_json(&told)?,
        Form::Table => output::print(&listing(&told))?,
    }
    Ok(if fires { Exit::Failed } else { Exit::Done })
}

fn listing(told: &Value) -> String {
    let alerts = told["alerts"].as_array().map(Vec::as_slice).unwrap_or_default();
    if alerts.is_empty() {
        let rules = told["rules"].as_array().map_or(0, Vec::len);
        return format!("All is as it should be, by {rules} rules.\n");
    }
    let mut table = Table::new(["rule", "severity", "state", "since", "of", "silence", "why"]);
    for alert in alerts {
        let labels = alert["labels"].as_object().into_iter().flatten();
        let labels = labels.map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default()));
        let since = UNIX_EPOCH + Duration::from_millis(alert["since_ms"].as_u64().unwrap_or(0));
        table.add([
            text(alert, "rule"),
            text(alert, "severity"),
            text(alert, "state"),
            humantime::format_rfc3339_seconds(since).to_string(),
            labels.collect::<Vec<_>>().join(" "),
            alert["silence"].as_u64().map_or_else(|| NOTHING.to_owned(), |id| id.to_string()),
            text(alert, "why"),
        ]);
    }
    table.to_string()
}

fn silence(matches: &ArgMatches) -> Result<(), Failure> {
    let text = |name: &str| matches.get_one::<String>(name);
    let labels = matches.get_many::<(String, String)>("label").into_iter().flatten();
    let labels: serde_json::Map<String, Value> = labels.map(|(name, value)| (name.clone(), json!(value))).collect();
    let body = json!({ "rule": text("rule"), "labels": labels, "for": text("for"), "why": text("why") });
    let told = form(&ask(&server(matches)?, "POST", "/admin/alerts/silences", body.to_string().into_bytes())?)?;
    match Form::of(matches) {
        Form::Json => output::print_json(&told),
        Form::Table => output::print(&format!("silence {}\n", told["silence"])),
    }
}

fn unsilence(matches: &ArgMatches) -> Result<(), Failure> {
    let id = matches.get_one::<u64>("id").copied().unwrap_or_default();
    let told = form(&ask(&server(matches)?, "DELETE", &format!("/admin/alerts/silences/{id}"), Vec::new())?)?;
    match Form::of(matches) {
        Form::Json => output::print_json(&told),
        Form::Table => output::print(&format!("silence {id} has ended\n")),
    }
}

fn check(matches: &ArgMatches) -> Result<(), Failure> {
    let rules = Rules::open(matches.get_one::<std::path::PathBuf>("file").map(std::path::PathBuf::as_path));
    let rules = rules.map_err(Failure::usage)?;
    let names: Vec<&str> = rules.all.iter().map(|rule| rule.name.as_str()).collect();
    match Form::of(matches) {
        Form::Json => output::print_json(&json!({ "rules": names })),
        Form::Table => output::print(&format!("{} rules hold: {}\n", names.len(), names.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines() {
        let check = |line: &str, right: bool| {
            let parsed = command().try_get_matches_from(line.split_whitespace());
            assert_eq!(parsed.is_ok(), right, "{line}");
        };
        check("alerts", true);
        check("alerts --all", true);
        check("alerts silence drift --label model=risk --label version=2 --for 2h --why known", true);
        check("alerts silence --label model=risk --for 2h", true);
        check("alerts silence drift", false);
        check("alerts silence drift --label model --for 2h", false);
        check("alerts unsilence one", false);
        check("alerts check alerts.toml", true);
    }

    #[test]
    fn people_see_what_fires_and_why() {
        let told = json!({"rules": ["drift"], "alerts": [
            {"rule": "drift", "severity": "warning", "state": "firing", "since_ms": 0, "labels": {"model": "risk", "version": "2"},
             "silence": 3, "why": "input age: moved"}]});
        let shown = listing(&told);
        for expected in ["drift", "firing", "1970-01-01T00:00:00Z", "model=risk version=2", "3", "input age: moved"] {
            assert!(shown.contains(expected), "{shown}");
        }
        assert_eq!(listing(&json!({"rules": ["a", "b"], "alerts": []})), "All is as it should be, by 2 rules.\n");
    }
}
