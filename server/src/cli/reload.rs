//! How is a running server told to read its settings anew?

use clap::{ArgMatches, Command};
use serde_json::Value;

use super::credentials::Credentials;
use super::exit::Failure;
use super::output::{self, Form};
use super::target::{Http, Named, admin_flag, ask, server_flags};

pub(crate) fn command() -> Command {
    Command::new("reload")
        .about("Have a running server read its file of settings anew")
        .long_about(
            "Have a running server read its file of settings anew, as SIGHUP does. What may change while it runs holds from \
             then on; what may not is told by name and waits for a restart. A file with a mistake changes nothing: the \
             mistake is told, and the exit code is 1.",
        )
        .args(server_flags())
        .arg(admin_flag())
        .after_help(
            "Examples:\n  tiltyard reload\n  tiltyard reload --ports-file ports.json\n  \
             tiltyard reload --admin http://127.0.0.1:8002 --output json",
        )
}

pub(crate) fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let named = Named::of(matches)?;
    let Some(admin) = named.admin() else {
        return Err(Failure::usage("settings are reloaded over the admin port: name it with --admin URL"));
    };
    let answer = ask(&Http::new(admin, &Credentials::of(matches)?)?, "POST", "/admin/reload", Vec::new())?;
    let report: Value = serde_json::from_slice(&answer)
        .map_err(|_| Failure::failed(format!("{admin} does not answer as a Tiltyard server does")))?;
    match Form::of(matches) {
        Form::Json => output::print_json(&report),
        Form::Table => output::print(&told(&report)),
    }
}

/// The report for people.
fn told(report: &Value) -> String {
    let lines = |list: &str, end: &str| {
        let changes = report[list].as_array().map(Vec::as_slice).unwrap_or_default();
        let text = |change: &Value, key: &str| match change[key].as_str().unwrap_or_default() {
            "" => "none".to_owned(),
            text => text.to_owned(),
        };
        let line = |change: &Value| {
            format!("{}: {} -> {}{end}\n", text(change, "key"), text(change, "from"), text(change, "to"))
        };
        changes.iter().map(line).collect::<String>()
    };
    let reread = report["reread"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let reread: String = reread.map(|key| format!("{key}: the file was read anew\n")).collect();
    match lines("changed", "") + &reread + &lines("needs_restart", "  needs a restart") {
        nothing if nothing.is_empty() => "The settings are as they were.\n".to_owned(),
        told => told,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn people_are_told_what_changed_and_what_did_not() {
        let report = json!({
            "changed": [{"key": "drain_timeout", "from": "30s", "to": "1m"}],
            "needs_restart": [{"key": "ports_file", "from": "", "to": "ports.json"}],
            "reread": ["capture_rules"],
        });
        assert_eq!(
            told(&report),
            "drain_timeout: 30s -> 1m\ncapture_rules: the file was read anew\nports_file: none -> ports.json  needs a restart\n"
        );
        assert_eq!(told(&json!({"changed": [], "needs_restart": []})), "The settings are as they were.\n");
    }
}
