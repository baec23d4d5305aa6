//! How are rollouts begun, looked at and told what to do over the admin port?

use http::Method;
use serde_json::{Value, json};
use tiltyard_rollout::judge::Command;
use tiltyard_rollout::plan::Plan;
use tiltyard_types::{Error, Result};

use super::endpoints::{form, may_deploy};
use crate::locks::calls::{Call, Caller};
use crate::rollouts::{aim, begin};
use crate::service::Service;
use crate::writer::Report;

/// What a person can say to a rollout that goes on.
const COMMANDS: [(&str, Command); 5] = [
    ("pause", Command::Pause),
    ("resume", Command::Resume),
    ("step", Command::Step),
    ("promote", Command::Promote),
    ("abort", Command::Abort),
];

/// Answers a request to `/admin/endpoints/<endpoint>/rollout`, whose caller may ask for it.
pub(super) async fn answer(
    service: &Service,
    caller: Option<&Caller>,
    method: &Method,
    (endpoint, verb): (&str, &str),
    body: &[u8],
) -> Result<Value> {
    let command = COMMANDS.iter().find(|(name, _)| *name == verb).map(|(_, command)| *command);
    match (method, verb, command) {
        (&Method::GET | &Method::HEAD, "", _) => service.rollouts.of(endpoint),
        (&Method::POST, "", _) => start(service, caller, endpoint, body).await,
        (&Method::POST, _, Some(command)) => {
            may_change(service, caller, endpoint)?;
            may_pass_gates(service, caller, endpoint, command)?;
            service.rollouts.tell(endpoint, command, named(caller)).await
        }
        (&Method::POST, "gate", _) => {
            let (gate, passed) = gate(body)?;
            service.rollouts.gate(endpoint, gate, passed, named(caller)).await
        }
        _ => Err(Error::not_found(format!(
            "nothing is at {method} /admin/endpoints/{endpoint}/rollout/{verb}: expected GET, or POST, also to …/pause, resume, \
             step, promote, abort or gate"
        ))),
    }
}

/// Every rollout, the oldest first.
pub(super) fn list(service: &Service) -> Value {
    let told = service.rollouts.told();
    let mut list: Vec<&Value> = told.rollouts.values().map(|form| &**form).collect();
    let number = |form: &Value| form["rollout"].as_str()?.rsplit_once('-')?.1.parse::<u64>().ok();
    list.sort_by_key(|form| (form["endpoint"].as_str().unwrap_or_default().to_owned(), number(form)));
    json!({ "rollouts": list, "trouble": told.closed })
}

async fn start(service: &Service, caller: Option<&Caller>, endpoint: &str, body: &[u8]) -> Result<Value> {
    service.rollouts.may_change(endpoint)?;
    let held = service.writer.plans.load().endpoints.plan(endpoint).cloned();
    let catalog = service.inference.catalog.load();
    let versions = catalog.models.get(endpoint).into_iter().flat_map(|model| model.versions.iter().rev());
    let answering: Vec<u64> =
        versions.filter(|(_, version)| version.answering().is_some()).map(|(at, _)| *at).collect();
    let plan = begin::plan(endpoint, body, held.as_deref(), &answering)?;
    may_deploy(caller, &plan)?;
    let salt = if plan.salt.is_empty() { "-".to_owned() } else { plan.salt.clone() };
    // What cannot hold is told to whoever wants it, and begins nothing.
    service.writer.apply(Plan { salt, ..plan.clone() }, true).await?;
    if held.is_none() {
        // What answers now is what a rollback leads to, also where newer versions come.
        service.writer.apply(aim::before(&plan), false).await?;
    }
    service.rollouts.begin(plan, named(caller)).await
}

/// A person goes back while a rollout goes on: that ends it.
pub(super) async fn roll_back(
    service: &Service,
    caller: Option<&Caller>,
    endpoint: &str,
    to: Option<u64>,
) -> Result<Value> {
    may_change(service, caller, endpoint)?;
    let held = service.writer.plans.load().endpoints.plan(endpoint).cloned();
    let Some(held) = held else { return Err(Error::not_found(format!("endpoint {endpoint:?} has no plan"))) };
    if let Some(to) = to {
        let back = service.writer.plans.load().endpoints.back(endpoint, Some(to))?;
        may_deploy(caller, &back)?;
    }
    service.rollouts.tell(endpoint, Command::Abort, named(caller)).await?;
    // The rollout's thread asks for the same: whoever comes second finds it so.
    let ended = service.writer.apply(aim::before(&held), false).await?;
    let report = match to {
        Some(to) => service.writer.roll_back(endpoint, Some(to)).await?,
        None => ended,
    };
    Ok(form(&Report { before: Some(held.revision), ..report }, false))
}

/// Fails where a caller may not change what answers for the models that compete.
fn may_change(service: &Service, caller: Option<&Caller>, endpoint: &str) -> Result<()> {
    let Some(caller) = caller else { return Ok(()) };
    caller.may(Call::Plan(endpoint))?;
    let held = service.writer.plans.load().endpoints.plan(endpoint).cloned();
    held.map_or(Ok(()), |held| may_deploy(Some(caller), &held))
}

/// Fails where a command goes past gates of the rollout that the caller may not answer for.
fn may_pass_gates(service: &Service, caller: Option<&Caller>, endpoint: &str, command: Command) -> Result<()> {
    let has_some = |form: &Value| form["gates"].as_array().is_some_and(|gates| !gates.is_empty());
    let has_gates =
        |form: &Value| has_some(&form["policy"]) || form["steps"].as_array().into_iter().flatten().any(has_some);
    let is_past = matches!(command, Command::Step | Command::Promote);
    match caller.filter(|_| is_past) {
        Some(caller) if has_gates(&service.rollouts.of(endpoint)?) => caller.may(Call::Approve(endpoint)),
        _ => Ok(()),
    }
}

fn named(caller: Option<&Caller>) -> String {
    caller.map_or_else(|| "somebody".to_owned(), |caller| caller.name.clone())
}

fn gate(body: &[u8]) -> Result<(String, bool)> {
    let form: Value = serde_json::from_slice(body).unwrap_or_default();
    match (form["gate"].as_str(), form["passed"].as_bool()) {
        (Some(gate), Some(passed)) => Ok((gate.to_owned(), passed)),
        _ => Err(Error::invalid("the body cannot be read: expected {\"gate\": NAME, \"passed\": true or false}")),
    }
}
