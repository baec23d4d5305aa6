//! Which arm does a key belong to? Computed here, as every server computes it.

use clap::{Arg, ArgMatches, Command};
use serde_json::{Value, json};
use tiltyard_rollout::assign::{Assignment, place};
use tiltyard_rollout::plan::Plan;

use super::super::apply::read;
use super::super::credentials::Credentials;
use super::super::exit::Failure;
use super::super::output::{self, Form};
use super::super::status::address;
use super::super::target::{Http, Named, admin_flag, ask, path_part, server_flags};

pub(crate) fn command() -> Command {
    Command::new("assign")
        .about("Tell which arm of an endpoint's plan a key belongs to")
        .long_about(
            "Tell which arm of an endpoint's plan a key belongs to. With --file it is computed from that plan, and no server is \
             asked. A plan by request deals by the request's id: the prediction id without its colon and row.",
        )
        .arg(Arg::new("endpoint").value_name("ENDPOINT").required(true).help("The name that clients call"))
        .arg(Arg::new("key").long("key").value_name("KEY").required(true).help("The sticky key"))
        .arg(
            Arg::new("file")
                .long("file")
                .value_name("PATH")
                .conflicts_with_all(["server", "admin", "ports_file"])
                .help("The plan, as for apply [default: the one that holds on the server]"),
        )
        .args(server_flags())
        .arg(admin_flag())
        .after_help(
            "Examples:\n  tiltyard rollout assign risk --key customer-17\n  \
             tiltyard rollout assign risk --key customer-17 --file risk.toml --output json",
        )
}

pub(crate) fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let text = |name: &str| matches.get_one::<String>(name).map(String::as_str);
    let (endpoint, key) = (text("endpoint").unwrap_or_default(), text("key").unwrap_or_default());
    if key.is_empty() {
        return Err(Failure::usage("--key is empty, and an empty key is none: the champion answers"));
    }
    let plan = match text("file") {
        Some(path) => of_file(path, endpoint)?,
        None => {
            let http = Http::new(address(&Named::of(matches)?)?, &Credentials::of(matches)?)?;
            held(&ask(&http, "GET", &format!("/admin/endpoints/{}", path_part(endpoint)), Vec::new())?, endpoint)?
        }
    };
    let assigned = assign(&plan, key);
    match Form::of(matches) {
        Form::Json => output::print_json(&assigned),
        Form::Table => output::print(&told(&assigned)),
    }
}

fn of_file(path: &str, endpoint: &str) -> Result<Plan, Failure> {
    let plan = read(path)?.plan().map_err(|error| Failure::failed(format!("{path}: {}", error.message())))?;
    // The revision does not matter to who gets what; a plan must have one.
    let first = Plan { revision: 1, ..plan };
    first.validate().map_err(|error| Failure::failed(format!("{path}: {}", error.message())))?;
    match first.endpoint == endpoint {
        true => Ok(first),
        false => {
            Err(Failure::usage(format!("{path} is the plan of endpoint {:?}, not of {endpoint:?}", first.endpoint)))
        }
    }
}

/// The plan that holds among the revisions that a server told.
fn held(answer: &[u8], endpoint: &str) -> Result<Plan, Failure> {
    let form: Value = serde_json::from_slice(answer).unwrap_or_default();
    let revisions = form["revisions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let plans = revisions.iter().map(|revision| &revision["plan"]);
    let current = plans.into_iter().find(|plan| plan["revision"] == form["current"]);
    let plan = current.ok_or_else(|| Failure::failed(format!("endpoint {endpoint:?} has no plan now")))?;
    let plan: Result<Plan, _> = serde_json::from_value(plan.clone());
    plan.map_err(|error| Failure::failed(format!("the server's plan cannot be read: {error}")))
}

fn assign(plan: &Plan, key: &str) -> Value {
    let assigned = Assignment::new(plan).assign(Some(key.as_bytes()));
    let (arm, place) = (&plan.arms[assigned.arm], place(plan.salt.as_bytes(), key.as_bytes()));
    json!({
        "endpoint": plan.endpoint, "revision": plan.revision, "key": key, "bucket": place.bucket, "arm": arm.name,
        "model": arm.model, "version": arm.version.to_string(), "hash": format!("{:016x}", place.hash),
    })
}

fn told(assigned: &Value) -> String {
    let text = |key: &str| assigned[key].as_str().unwrap_or_default().to_owned();
    format!(
        "{}: {} version {}, bucket {} of 1000000\n",
        text("arm"),
        text("model"),
        text("version"),
        assigned["bucket"]
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoints::file;

    const PLAN: &str = r#"
        endpoint = "risk"
        key = { header = "x-user" }
        salt = "7f0c1d"
        arms = [{ name = "a", version = 1, role = "champion" },
                { name = "b", version = 2, role = "challenger", weight = "50%" }]
    "#;

    #[test]
    fn a_key_has_an_arm_with_its_reasons() {
        let plan = Plan { revision: 1, ..file::read(PLAN, None).unwrap().plan().unwrap() };
        let assigned = assign(&plan, "customer-17");
        let bucket = place(b"7f0c1d", b"customer-17").bucket;
        assert_eq!(
            (assigned["bucket"].as_u64(), &assigned["arm"]),
            (Some(bucket.into()), &json!(if bucket < 500_000 { "b" } else { "a" }))
        );
        assert!(told(&assigned).ends_with(&format!("bucket {bucket} of 1000000\n")));
        let form = json!({ "current": 1, "revisions": [{ "plan": serde_json::to_value(&plan).unwrap() }] });
        assert_eq!(held(form.to_string().as_bytes(), "risk"), Ok(plan));
        assert!(held(br#"{"current": null, "revisions": []}"#, "risk").is_err());
    }
}
