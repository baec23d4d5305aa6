//! How does somebody have a version compete with the one that answers?

use std::fs;

use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::{Map, Value, json};

use super::status::{self, show};
use crate::cli::credentials::Credentials;
use crate::cli::exit::Failure;
use crate::cli::status::address;
use crate::cli::target::{Http, Named, admin_flag, ask, path_part, server_flags};
use crate::rollouts::written;

const EXAMPLES: &str = "\
Without a file: 1 %, 5 %, 25 % and 50 % of the traffic for 10 minutes each, then a day until the promotion. What is watched:
failures, and runs slower than nine in ten, and ninety-nine in a hundred, of the champion's. Who does harm is rolled back.

rollout.toml, as far as it differs from that; with champion and challenger in it, `tiltyard apply` takes it too:

  key = { header = \"x-customer\" }
  steps = [ { share = \"5%\", min_time = \"1h\" }, { share = \"50%\", min_time = \"4h\", gates = [\"ada\"] } ]
  policy = { min_time = \"48h\", min_units = 5000 }

Examples:
  tiltyard rollout start risk --challenger 2
  tiltyard rollout start risk --challenger 2 --plan rollout.toml --wait
  tiltyard rollout start risk --challenger risk-b@7 --steps 10%/30s,50%/30s --min-time 2m";

pub(super) fn command() -> Command {
    let text = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).help(help)
    };
    Command::new("start")
        .about("Have a version compete with the one that answers, and be promoted or rolled back by the evidence")
        .arg(Arg::new("endpoint").value_name("ENDPOINT").required(true).help("The name that clients call"))
        .arg(text("challenger", "VERSION", "The version, or MODEL@VERSION where it is of another model [default: the file's]"))
        .arg(text("plan", "FILE", "What differs from the defaults, as TOML or JSON: a file as for apply, or a part of one"))
        .arg(text("key", "KEY", "What makes clients stick to a version: header:NAME, metadata:NAME, json:PATH, column:NAME, client or request"))
        .arg(text("steps", "STEPS", "Shares of the traffic, each with its least time, such as 1%/10m,10%/1h"))
        .arg(text("min-time", "TIME", "The least time with a share before the promotion [default: 24h]"))
        .arg(text("max-time", "TIME", "The time after which a person decides [default: 14d]"))
        .arg(text("min-units", "N", "Requests, or new keys, that each version must have had [default: 1000]"))
        .arg(text("shadow", "SHARE", "Also show the challenger so much of the traffic without returning its answers, such as 10%"))
        .arg(Arg::new("wait").long("wait").action(ArgAction::SetTrue).help(status::WAIT))
        .args(server_flags())
        .arg(admin_flag())
        .after_help(EXAMPLES)
}

pub(super) fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let endpoint = matches.get_one::<String>("endpoint").map(String::as_str).unwrap_or_default();
    let wanted = wanted(matches)?;
    let http = Http::new(address(&Named::of(matches)?)?, &Credentials::of(matches)?)?;
    let path = format!("/admin/endpoints/{}/rollout", path_part(endpoint));
    let answer = ask(&http, "POST", &path, Value::Object(wanted).to_string().into_bytes())?;
    match matches.get_flag("wait") {
        true => status::wait(&http, endpoint, matches),
        false => show(matches, &answer),
    }
}

/// What the file says, and what the flags say in its place.
fn wanted(matches: &ArgMatches) -> Result<Map<String, Value>, Failure> {
    let flag = |name: &str| matches.get_one::<String>(name).map(String::as_str);
    let mut wanted = flag("plan").map_or_else(|| Ok(Map::new()), read)?;
    if let Some(challenger) = flag("challenger") {
        wanted.insert("challenger".into(), read_challenger(challenger)?);
    }
    if let Some(key) = flag("key") {
        wanted.insert("key".into(), read_key(key)?);
    }
    if let Some(steps) = flag("steps") {
        wanted.insert("steps".into(), read_steps(steps));
    }
    if let Some(share) = flag("shadow") {
        wanted.insert("shadow".into(), share.into());
    }
    let policy = wanted.entry("policy").or_insert_with(|| json!({}));
    for (name, key) in [("min-time", "min_time"), ("max-time", "max_time")] {
        if let Some(time) = flag(name) {
            policy[key] = time.into();
        }
    }
    if let Some(units) = flag("min-units") {
        let units: u64 =
            units.parse().map_err(|_| Failure::usage(format!("--min-units {units}: expected a number")))?;
        policy["min_units"] = units.into();
    }
    Ok(wanted)
}

fn read(path: &str) -> Result<Map<String, Value>, Failure> {
    let text = fs::read_to_string(path).map_err(|error| Failure::failed(format!("cannot read {path}: {error}")))?;
    let (_, says) = written::read(&text).map_err(|error| Failure::failed(format!("{path}: {}", error.message())))?;
    // What was read has fields.
    Ok(if let Value::Object(says) = says { says } else { Map::new() })
}

/// `2`, or `risk-b@2`.
fn read_challenger(text: &str) -> Result<Value, Failure> {
    let (model, version) = text.rsplit_once('@').map_or((None, text), |(model, version)| (Some(model), version));
    let version: u64 = version
        .parse()
        .map_err(|_| Failure::usage(format!("--challenger {text}: expected a version such as 2, or MODEL@VERSION")))?;
    Ok(match model {
        Some(model) => json!({ "model": model, "version": version }),
        None => json!({ "version": version }),
    })
}

/// `header:x-customer`, `client`.
fn read_key(text: &str) -> Result<Value, Failure> {
    let named = text.split_once(':').filter(|(_, name)| !name.is_empty());
    match (text, named) {
        ("client", _) => Ok("client_identity".into()),
        ("request", _) => Ok("per_request".into()),
        (_, Some(("header", name))) => Ok(json!({ "header": name })),
        (_, Some(("metadata", name))) => Ok(json!({ "metadata": name })),
        (_, Some(("json", path))) => Ok(json!({ "json_path": path })),
        (_, Some(("column", name))) => Ok(json!({ "tensor_column": name })),
        _ => Err(Failure::usage(format!(
            "--key {text}: expected header:NAME, metadata:NAME, json:PATH, column:NAME, client or request"
        ))),
    }
}

/// `1%/10m,5%/1h`; what is wrong with it the server says.
pub(in crate::cli) fn read_steps(text: &str) -> Value {
    let step = |text: &str| match text.trim().split_once('/') {
        Some((share, time)) => json!({ "share": share.trim(), "min_time": time.trim() }),
        None => json!({ "share": text.trim() }),
    };
    text.split(',').map(step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_say_what_a_file_would() {
        let matches = command().get_matches_from([
            "start",
            "risk",
            "--challenger",
            "b@7",
            "--steps",
            "1%/10m, 50%",
            "--key",
            "header:x-customer",
            "--min-time",
            "2m",
            "--min-units",
            "50",
            "--shadow",
            "10%",
        ]);
        let expected = json!({
            "challenger": { "model": "b", "version": 7 },
            "key": { "header": "x-customer" },
            "steps": [{ "share": "1%", "min_time": "10m" }, { "share": "50%" }],
            "shadow": "10%",
            "policy": { "min_time": "2m", "min_units": 50 },
        });
        assert_eq!(Value::Object(wanted(&matches).unwrap()), expected);
        for wrong in ["x", "header:", "column"] {
            assert!(read_key(wrong).is_err(), "{wrong}");
        }
        assert_eq!(read_key("client").unwrap(), json!("client_identity"));
    }
}
