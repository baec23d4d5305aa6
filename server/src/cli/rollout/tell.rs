//! How does somebody tell a rollout what to do?

use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::json;

use super::status::show;
use crate::cli::credentials::Credentials;
use crate::cli::exit::Failure;
use crate::cli::status::address;
use crate::cli::target::{Http, Named, admin_flag, ask, path_part, server_flags};

/// Commands with what they do.
const COMMANDS: [(&str, &str); 5] = [
    ("pause", "Keep the challenger at its share; guardrails still watch it"),
    ("resume", "Go on from where the rollout was stopped"),
    ("step", "Go on to the next share, whatever is waited for"),
    ("promote", "Make the challenger the champion, whatever is waited for"),
    ("abort", "End the rollout: the champion answers everybody"),
];

pub(super) fn commands() -> impl Iterator<Item = Command> {
    let each = COMMANDS
        .iter()
        .map(|(name, about)| Command::new(*name).about(*about).arg(endpoint()).args(server_flags()).arg(admin_flag()));
    each.chain([gate()])
}

fn endpoint() -> Arg {
    Arg::new("endpoint").value_name("ENDPOINT").required(true).help("The name that clients call")
}

fn gate() -> Command {
    Command::new("gate")
        .about("Answer for a gate that a step waits for")
        .arg(endpoint())
        .arg(Arg::new("gate").value_name("GATE").required(true).help("The gate's name"))
        .arg(Arg::new("refuse").long("refuse").action(ArgAction::SetTrue).help("Let nobody through"))
        .args(server_flags())
        .arg(admin_flag())
}

pub(super) fn run(command: &str, matches: &ArgMatches) -> Result<(), Failure> {
    let text = |name: &str| matches.get_one::<String>(name).map(String::as_str).unwrap_or_default();
    let http = Http::new(address(&Named::of(matches)?)?, &Credentials::of(matches)?)?;
    let body = match command {
        "gate" => json!({ "gate": text("gate"), "passed": !matches.get_flag("refuse") }).to_string().into_bytes(),
        _ => Vec::new(),
    };
    let path = format!("/admin/endpoints/{}/rollout/{command}", path_part(text("endpoint")));
    show(matches, &ask(&http, "POST", &path, body)?)
}
