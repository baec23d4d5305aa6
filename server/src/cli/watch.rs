//! What changes on a running server, as it happens?

use std::time::Duration;

use clap::{ArgMatches, Command};
use serde_json::Value;

use super::credentials::Credentials;
use super::exit::Failure;
use super::models::text;
use super::output::{self, Form};
use super::status::{address, fetch, versions};
use super::target::{Http, Named, admin_flag, ask, server_flags};

pub(crate) fn command() -> Command {
    Command::new("watch")
        .about("Print each change of a version's state on a running server, as it happens, until the server ends")
        .args(server_flags())
        .arg(admin_flag())
        .after_help(
            "First each version's state as it is, then one line for each change: time, model, version, state, reason.\n\n\
             Examples:\n  tiltyard watch\n  tiltyard watch --output json | jq 'select(.state == \"failed\")'",
        )
}

pub(crate) fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let named = Named::of(matches)?;
    let http = Http::new(address(&named)?, &Credentials::of(matches)?)?;
    let form = Form::of(matches);
    let status = fetch(&http)?;
    print(versions(&status, "versions"), form)?;
    let mut sequence = status["sequence"].as_u64().unwrap_or(0);
    loop {
        let answer = ask(&http, "GET", &format!("/admin/changes?after={sequence}"), Vec::new())?;
        let answer: Value = serde_json::from_slice(&answer)
            .map_err(|_| Failure::failed("the admin port does not answer as a Tiltyard server does"))?;
        print(versions(&answer, "changes"), form)?;
        // A server that is about to end answers at once, over and over.
        let latest = answer["sequence"].as_u64().unwrap_or(sequence);
        if latest == sequence {
            std::thread::sleep(Duration::from_millis(100));
        }
        sequence = latest;
    }
}

fn print(changes: &[Value], form: Form) -> Result<(), Failure> {
    for change in changes {
        output::print(&match form {
            Form::Json => format!("{change}\n"),
            Form::Table => line(change),
        })?;
    }
    Ok(())
}

fn line(change: &Value) -> String {
    let since = Duration::from_millis(change["since_ms"].as_u64().unwrap_or(0));
    let time = httpdate::fmt_http_date(std::time::UNIX_EPOCH + since);
    let reason = change["reason"].as_str().filter(|reason| !reason.is_empty());
    let reason = reason.map_or_else(String::new, |reason| format!(": {reason}"));
    let (name, version) = (text(change, "name"), text(change, "version"));
    format!("{time}  {name} {version} {}{reason}\n", text(change, "state"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_change_is_a_line() {
        let change = json!({"name": "m", "version": "3", "state": "failed", "reason": "no", "since_ms": 0});
        assert_eq!(line(&change), "Thu, 01 Jan 1970 00:00:00 GMT  m 3 failed: no\n");
    }
}
