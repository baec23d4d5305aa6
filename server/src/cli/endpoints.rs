//! Which versions answer which endpoints on a running server?

mod shadows;

use clap::{Arg, ArgMatches, Command};
use serde_json::Value;

use super::apply::show;
use super::credentials::Credentials;
use super::exit::Failure;
use super::models::text;
use super::output::{self, Form, NOTHING, Table, short_digest};
use super::status::address;
use super::target::{Http, Named, admin_flag, ask, path_part, server_flags};
use crate::endpoints::differences::share;

pub(crate) fn command() -> Command {
    let remove = Command::new("remove")
        .about("Take an endpoint's plan away: the newest version of its model answers again")
        .arg(Arg::new("endpoint").value_name("ENDPOINT").required(true).help("The name that clients call"))
        .args(server_flags())
        .arg(admin_flag());
    Command::new("endpoints")
        .about("List the endpoints of a running server that have a plan, with their arms and shares")
        .subcommand(remove)
        .subcommand(shadows::command())
        .args(server_flags())
        .arg(admin_flag())
        .after_help(
            "Names without a plan answer with the newest version of their model that is ready.\n\n\
             Examples:\n  tiltyard endpoints\n  tiltyard endpoints --output json\n  tiltyard endpoints shadows risk\n  tiltyard endpoints remove risk",
        )
}

pub(crate) fn run(matches: &ArgMatches) -> Result<(), Failure> {
    if let Some(("shadows", matches)) = matches.subcommand() {
        return shadows::run(matches);
    }
    if let Some(("remove", matches)) = matches.subcommand() {
        let endpoint = matches.get_one::<String>("endpoint").map(String::as_str).unwrap_or_default();
        let http = Http::new(address(&Named::of(matches)?)?, &Credentials::of(matches)?)?;
        let answer = ask(&http, "DELETE", &format!("/admin/endpoints/{}", path_part(endpoint)), Vec::new())?;
        return show(matches, &answer);
    }
    let http = Http::new(address(&Named::of(matches)?)?, &Credentials::of(matches)?)?;
    let answer = ask(&http, "GET", "/admin/endpoints", Vec::new())?;
    let Ok(Value::Array(endpoints)) = serde_json::from_slice(&answer) else {
        return Err(Failure::failed("the admin port does not answer as a Tiltyard server does"));
    };
    match Form::of(matches) {
        Form::Json => output::print_json(&Value::Array(endpoints)),
        Form::Table if endpoints.is_empty() => output::print("No endpoint has a plan.\n"),
        Form::Table => output::print(&listing(&endpoints)),
    }
}

/// A line for each arm, and what is wrong.
pub(super) fn listing(endpoints: &[Value]) -> String {
    let mut table = Table::new(["endpoint", "revision", "arm", "model", "version", "share", "state", "digest"]);
    let mut troubles = String::new();
    for endpoint in endpoints {
        let name = text(endpoint, "endpoint");
        let revision = endpoint["revision"].as_u64().map_or_else(|| NOTHING.to_owned(), |number| number.to_string());
        for arm in endpoint["arms"].as_array().map(Vec::as_slice).unwrap_or_default() {
            let millionths = arm["share"].as_u64().and_then(|millionths| u32::try_from(millionths).ok());
            table.add([
                name.clone(),
                revision.clone(),
                text(arm, "name"),
                text(arm, "model"),
                text(arm, "version"),
                millionths.map_or_else(|| NOTHING.to_owned(), share),
                text(arm, "state"),
                short_digest(&text(arm, "digest")),
            ]);
            if let Some(reason) = arm["reason"].as_str().filter(|reason| !reason.is_empty()) {
                troubles += &format!("{name}, arm {}: {reason}\n", text(arm, "name"));
            }
        }
        if let Some(trouble) = endpoint["trouble"].as_str() {
            troubles += &format!("{name}: {trouble}\n");
        }
    }
    table.to_string() + &troubles
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn arms_as_a_table() {
        let arm = |name: &str, version: &str, share: u32, state: &str, reason: &str| {
            json!({"name": name, "model": "risk", "version": version, "share": share, "state": state, "reason": reason,
                   "digest": "0123456789abcdef"})
        };
        let endpoints = [
            json!({"endpoint": "risk", "revision": 3, "trouble": null, "arms": [
                arm("champion", "1", 875_000, "ready", ""), arm("new", "2", 125_000, "missing", "it hangs")]}),
            json!({"endpoint": "x", "revision": null, "trouble": "salt is empty", "arms": []}),
        ];
        assert_eq!(
            listing(&endpoints),
            "ENDPOINT  REVISION  ARM       MODEL  VERSION  SHARE  STATE    DIGEST\n\
             risk      3         champion  risk   1        87.5%  ready    0123456789ab\n\
             risk      3         new       risk   2        12.5%  missing  0123456789ab\n\
             risk, arm new: it hangs\n\
             x: salt is empty\n"
        );
    }
}
