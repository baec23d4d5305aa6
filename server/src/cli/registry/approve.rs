//! How does somebody ask for a version to be in an environment, and how do others agree?

use clap::{Arg, ArgMatches, Command};
use serde_json::{Value, json};

use super::{Asked, join, reference, text};
use crate::cli::exit::Failure;
use crate::cli::output::{self, Form, NOTHING, Table};
use crate::cli::target::{admin_flag, path_part, server_flags};

pub(crate) fn commands() -> [Command; 6] {
    let with_server = |command: Command| command.args(server_flags()).arg(admin_flag());
    let to = || Arg::new("to").long("to").value_name("ENVIRONMENT").default_value("prod").help("The environment");
    let reason = |help: &'static str| Arg::new("reason").long("reason").value_name("TEXT").help(help);
    [
        Command::new("request")
            .about("Ask for a version to be in an environment, where others must agree")
            .arg(reference("version"))
            .arg(to())
            .arg(reason("Why"))
            .after_help("Example:\n  tiltyard request risk@4 --to prod --reason \"half a point of AUC\""),
        Command::new("approve")
            .about("Agree to a version being in an environment: to these bytes, this card, this policy, and no others")
            .arg(reference("version"))
            .arg(to())
            .arg(reason("What you say to it"))
            .after_help("Example:\n  tiltyard approve risk@4 --to prod --token-file ada.token"),
        Command::new("reject")
            .about("Refuse what was asked for")
            .arg(reference("version"))
            .arg(to())
            .arg(reason("Why").required(true)),
        Command::new("withdraw")
            .about("Ask no more for what was asked for")
            .arg(reference("version"))
            .arg(to())
            .arg(reason("Why")),
        Command::new("revoke")
            .about("Take back an approval")
            .arg(reference("version"))
            .arg(to())
            .arg(Arg::new("approver").long("approver").value_name("NAME").help("Whose; your own where it is left out"))
            .arg(reason("Why").required(true)),
        Command::new("requests").about("Tell what was asked for, and where that stands"),
    ]
    .map(with_server)
}

pub(crate) fn run(name: &str, matches: &ArgMatches) -> Result<(), Failure> {
    let asked = Asked::of(matches)?;
    if name == "requests" {
        return list(matches, &asked.get("/admin/registry/requests")?);
    }
    let of = |name: &str| matches.get_one::<String>(name).cloned().unwrap_or_default();
    let (version, to, reason) = (of("version"), of("to"), of("reason"));
    let standing = asked.get(&format!("/admin/registry/needs/{}/{}", path_part(&version), path_part(&to)))?;
    let (model, number) = (text(&standing, "model"), standing["version"].clone());
    let request = standing["request"]["id"].as_str();
    let open = || {
        request.ok_or_else(|| {
            Failure::failed(format!(
                "nobody has asked for {version} to be in {to}: tiltyard request {version} --to {to}"
            ))
        })
    };
    let wants = match name {
        "request" => json!({ "request": { "model": model, "version": number, "environment": to, "reason": reason } }),
        "approve" => {
            json!({ "approve": { "request": open()?, "seen": standing["request"]["seen"], "comment": reason } })
        }
        "reject" => json!({ "reject": { "request": open()?, "reason": reason } }),
        "withdraw" => json!({ "withdraw": { "request": open()?, "reason": reason } }),
        _ => {
            let approver = matches.try_get_one::<String>("approver").ok().flatten();
            json!({ "revoke": { "request": open()?, "approver": approver, "reason": reason } })
        }
    };
    let answer = asked.order(&wants)?;
    let after = asked.get(&format!("/admin/registry/needs/{}/{}", path_part(&version), path_part(&to)))?;
    match Form::of(matches) {
        Form::Json => output::print_json(&json!({ "order": answer, "standing": after })),
        Form::Table => output::print(&told(&format!("{model}@{number}"), &to, &after)),
    }
}

/// What is still in the way, for people.
fn told(version: &str, to: &str, standing: &Value) -> String {
    let request = &standing["request"];
    let head = match request["id"].as_str() {
        Some(id) => format!("{version} to {to}: request {id}, {}.\n", text(request, "state")),
        None => format!("{version} to {to}: nothing is asked for.\n"),
    };
    let needs: Vec<&Value> = standing["needs"].as_array().into_iter().flatten().collect();
    let lines: String = needs
        .iter()
        .map(|need| format!("  {}: {}; needed: {}\n", text(need, "rule"), text(need, "is"), text(need, "needed")))
        .collect();
    match needs.is_empty() {
        true => {
            let rollout = if comes_by_rollout(standing) { " --rollout" } else { "" };
            format!("{head}Nothing is in the way: tiltyard promote {version} --to {to}{rollout}\n")
        }
        false => format!("{head}In the way:\n{lines}"),
    }
}

/// Whether the environment takes versions by a rollout only.
pub(super) fn comes_by_rollout(standing: &Value) -> bool {
    standing["rollout"].as_str().is_some_and(|way| way != "direct")
}

fn list(matches: &ArgMatches, form: &Value) -> Result<(), Failure> {
    if Form::of(matches) == Form::Json {
        return output::print_json(form);
    }
    let mut table = Table::new(["request", "version", "to", "state", "asked by", "approved by", "reason"]);
    let requests = form.as_array().map(Vec::as_slice).unwrap_or_default();
    for request in requests {
        let approvals = request["approvals"].as_array().into_iter().flatten();
        let held =
            approvals.filter(|approval| approval["void"].is_null()).map(|approval| approval["by"]["name"].clone());
        let held = join(&Value::Array(held.collect()));
        table.add([
            text(request, "id"),
            format!("{}@{}", text(request, "model"), request["version"]),
            text(request, "environment"),
            text(request, "state"),
            text(&request["asked"], "by"),
            if held.is_empty() { NOTHING.to_owned() } else { held },
            text(request, "reason"),
        ]);
    }
    match requests.is_empty() {
        true => output::print("Nothing was asked for yet.\n"),
        false => output::print(&table.to_string()),
    }
}
