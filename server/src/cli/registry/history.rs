//! Which version answered an endpoint's callers, and when, and on what grounds?

use clap::{Arg, ArgMatches, Command};
use serde_json::Value;

use super::{Asked, shown_time, text, time_ms};
use crate::cli::exit::Failure;
use crate::cli::output::{self, Form, NOTHING, Table, short_digest};
use crate::cli::target::{admin_flag, path_part, server_flags};
use crate::endpoints::differences::share;

pub(crate) fn command() -> Command {
    Command::new("history")
        .about("Tell which versions answered an endpoint, since when, and who approved them")
        .arg(Arg::new("endpoint").value_name("ENDPOINT").required(true).help("The name that clients call"))
        .arg(Arg::new("at").long("at").value_name("TIME").help(
            "Only what held then, with its grounds: 2026-03-01, 2026-03-01T12:00:00Z, or milliseconds since 1970",
        ))
        .args(server_flags())
        .arg(admin_flag())
        .after_help("Examples:\n  tiltyard history risk\n  tiltyard history risk --at 2026-03-01T12:00:00Z")
}

pub(crate) fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let endpoint = matches.get_one::<String>("endpoint").cloned().unwrap_or_default();
    let path = format!("/admin/registry/history/{}", path_part(&endpoint));
    let asked = Asked::of(matches)?;
    let at = matches.get_one::<String>("at").map(|at| time_ms(at)).transpose()?;
    let form = match at {
        Some(at) => asked.get(&format!("{path}?at={at}"))?,
        None => asked.get(&path)?,
    };
    match (Form::of(matches), at) {
        (Form::Json, _) => output::print_json(&form),
        (Form::Table, None) => output::print(&listing(form.as_array().map(Vec::as_slice).unwrap_or_default())),
        (Form::Table, Some(_)) => output::print(&moment(&form)),
    }
}

/// A line for each arm of each plan.
fn listing(plans: &[Value]) -> String {
    let mut table = Table::new(["since", "revision", "because", "arm", "version", "share", "artifact", "by"]);
    for plan in plans {
        let since = shown_time(plan["since"]["time_ms"].as_u64().unwrap_or(0));
        let arms = plan["arms"].as_array().map(Vec::as_slice).unwrap_or_default();
        if arms.is_empty() {
            table.add([
                since.as_str(),
                &plan["revision"].to_string(),
                "removed",
                NOTHING,
                NOTHING,
                NOTHING,
                NOTHING,
                &text(&plan["since"], "by"),
            ]);
        }
        for arm in arms {
            let weight = arm["weight"].as_u64().and_then(|weight| u32::try_from(weight).ok()).unwrap_or(0);
            table.add([
                since.clone(),
                plan["revision"].to_string(),
                text(plan, "cause"),
                format!("{} ({})", text(arm, "name"), text(arm, "role")),
                format!("{}@{}", text(arm, "model"), arm["version"]),
                share(weight),
                short_digest(&text(arm, "artifact")),
                text(&plan["since"], "by"),
            ]);
        }
    }
    table.to_string()
}

/// What held at a time, with its grounds.
fn moment(served: &Value) -> String {
    let plan = &served["plan"];
    let since = shown_time(plan["since"]["time_ms"].as_u64().unwrap_or(0));
    let until = served["until_ms"].as_u64().map_or_else(|| "now".to_owned(), shown_time);
    let mut told = format!(
        "{}, revision {}, from {since} to {until}, entry {}\n",
        text(plan, "endpoint"),
        plan["revision"],
        plan["since"]["sequence"]
    );
    for served in served["arms"].as_array().into_iter().flatten() {
        let arm = &served["arm"];
        let weight = arm["weight"].as_u64().and_then(|weight| u32::try_from(weight).ok()).unwrap_or(0);
        told += &format!(
            "{} {}@{}, {} of the traffic\n",
            text(arm, "role"),
            text(arm, "model"),
            arm["version"],
            share(weight)
        );
        told += &format!("  artifact   {}\n", text(arm, "artifact"));
        told += &format!("  deployment {}\n", text(arm, "deployment"));
        match served["pushed"].as_object() {
            None => told += "  it came from a folder: nothing else is on the record of it\n",
            Some(_) => {
                told += &format!(
                    "  pushed by {} on {}\n",
                    text(&served["pushed"], "by"),
                    shown_time(served["pushed"]["time_ms"].as_u64().unwrap_or(0))
                )
            }
        }
        for promotion in served["promotions"].as_array().into_iter().flatten() {
            let approvers = super::join(&promotion["approvers"]);
            let by = if approvers.is_empty() {
                "nobody had to approve".to_owned()
            } else {
                format!("approved by {approvers}")
            };
            let rollout =
                promotion["rollout"]["id"].as_str().map_or_else(String::new, |id| format!(", by rollout {id}"));
            let ended = promotion["end"]["outcome"].as_str().unwrap_or("under way");
            told += &format!(
                "  promotion {} to {}: {ended}, {by}{rollout}\n",
                text(promotion, "id"),
                text(promotion, "environment")
            );
            if let Some(reason) = promotion["overridden"]["reason"].as_str() {
                told += &format!("    rules were set aside: {reason}\n");
            }
        }
        for metric in served["metrics"].as_array().into_iter().flatten() {
            let key = &metric["key"];
            told += &format!("  {} = {} on {}\n", text(key, "metric"), metric["value"], text(key, "dataset"));
        }
    }
    told
}
