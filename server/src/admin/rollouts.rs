//! How are rollouts begun, looked at and told what to do over the admin port?

use std::collections::BTreeSet;

use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use tiltyard_rollout::judge::Command;
use tiltyard_rollout::plan::Plan;
use tiltyard_types::{Error, ErrorKind, Result};

use super::endpoints::{form, may_deploy, text_of};
use crate::endpoints::{differences, file};
use crate::locks::calls::{Call, Caller};
use crate::rollouts::declared::{Begun, begun};
use crate::rollouts::record::Change;
use crate::rollouts::written::{Declared, Written};
use crate::rollouts::{aim, begin, hold};
use crate::service::Service;
use crate::writer::{How, Report};

/// What a person can say to a rollout that goes on.
const COMMANDS: [(&str, Command); 5] = [
    ("pause", Command::Pause),
    ("resume", Command::Resume),
    ("step", Command::Step),
    ("promote", Command::Promote),
    ("abort", Command::Abort),
];

/// What a gate's answer rests on goes into the log, within bounds.
const EVIDENCE_BYTES_MAX: usize = 1 << 16;

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
            let held = service.writer.plans.load().endpoints.plan(endpoint).cloned();
            let told = service.rollouts.tell(endpoint, command, named(caller)).await?;
            if let Some(held) = held.filter(|held| command == Command::Abort && !held.steps.is_empty()) {
                // The rollout's thread sees to it: whoever is answered once it is done may go on at once.
                drop(service.writer.apply(aim::before(&held), How::Decided).await);
            }
            Ok(told)
        }
        (&Method::POST, "gate", _) => {
            let answer = GateAnswer::read(text_of(body)?)?;
            let evidence = answer.check(service, endpoint)?;
            service.rollouts.gate(endpoint, (answer.gate, answer.passed), evidence, named(caller)).await
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
    let written: Written = file::parse(text_of(body)?)?;
    written.names(Some(endpoint))?;
    begin_for(service, caller, endpoint, &written).await
}

/// Begins what is declared, where that has not begun yet, or tells what became of it.
pub(super) async fn apply(
    service: &Service,
    caller: Option<&Caller>,
    declared: Declared,
    dry_run: bool,
) -> Result<Value> {
    let Declared { endpoint, written, digest, .. } = declared;
    service.rollouts.wait_for_log().await?;
    if let Some(form) = service.rollouts.declared(&endpoint, &digest) {
        let held = service.writer.plans.load().endpoints.plan(&endpoint).cloned();
        let (found, why) = begun(&form, held.as_deref().map(aim::champion));
        let outcome = match found {
            Begun::GoesOn => "goes_on",
            Begun::Promoted => "promoted",
            Begun::RolledBack => "rolled_back",
            Begun::Ended => "ended",
        };
        return Ok(applied(&endpoint, form["rollout"].clone(), (outcome, &why), &Report::default(), dry_run));
    }
    let prepared = Prepared::of(service, caller, &endpoint, &written).await?;
    let report = prepared.report.clone();
    let (id, why) = match dry_run {
        true => (Value::Null, "a rollout would begin"),
        false => (prepared.begin(service, Some(digest), named(caller)).await?["rollout"].take(), "the rollout begins"),
    };
    Ok(applied(&endpoint, id, ("begins", why), &report, dry_run))
}

fn applied(endpoint: &str, id: Value, (outcome, why): (&str, &str), report: &Report, dry_run: bool) -> Value {
    let Report { changes, loads, .. } = report;
    json!({
        "endpoint": endpoint, "rollout": id, "outcome": outcome, "why": why, "changes": changes, "loads": loads,
        "dry_run": dry_run,
    })
}

/// Begins a rollout for somebody, as far as they may. Answers how it stands.
pub(crate) async fn begin_for(
    service: &Service,
    caller: Option<&Caller>,
    endpoint: &str,
    written: &Written,
) -> Result<Value> {
    let prepared = Prepared::of(service, caller, endpoint, written).await?;
    prepared.begin(service, None, named(caller)).await
}

/// A rollout that could begin.
struct Prepared {
    plan: Plan,
    /// Whether no plan holds yet.
    is_first: bool,
    /// What would change, and what would be loaded first.
    report: Report,
}

impl Prepared {
    /// Fails with what is in the way of it, and begins nothing.
    async fn of(service: &Service, caller: Option<&Caller>, endpoint: &str, written: &Written) -> Result<Prepared> {
        service.rollouts.may_change(endpoint).await?;
        let held = service.writer.plans.load().endpoints.plan(endpoint).cloned();
        let answering = begin::answering(&service.inference.catalog.load().models, endpoint);
        let plan = begin::plan(endpoint, written, held.as_deref(), &answering)?;
        may_deploy(caller, &plan)?;
        let tried = service.writer.apply(begin::salted(&plan), How::DryRun).await?;
        // What a new salt does to keys is nothing to be told of a rollout, which has one of its own.
        let changes = differences::of_rollout(held.as_deref(), &plan);
        Ok(Prepared { plan, is_first: held.is_none(), report: Report { changes, ..tried } })
    }

    async fn begin(self, service: &Service, declared: Option<String>, by: String) -> Result<Value> {
        if self.is_first {
            // What answers now is what a rollback leads to, also where newer versions come.
            service.writer.apply(aim::before(&self.plan), How::Decided).await?;
        }
        service.rollouts.begin(self.plan, declared, by).await
    }
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
    let ended = service.writer.apply(aim::before(&held), How::Decided).await?;
    let report = match to {
        Some(to) => {
            let back = service.writer.roll_back(endpoint, Some(to)).await?;
            super::endpoints::tell_others(service, caller, endpoint, Change::WentBack).await?;
            back
        }
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
    let is_past = matches!(command, Command::Step | Command::Promote);
    match caller.filter(|_| is_past) {
        Some(caller) => {
            let form = service.rollouts.of(endpoint)?;
            // That of drift stands in nobody's way while it holds nobody.
            let is_shut = |gate: &&str| **gate != *hold::GATE || !form["held"].is_null();
            if gates(&form).iter().any(is_shut) { caller.may(Call::Approve(endpoint)) } else { Ok(()) }
        }
        None => Ok(()),
    }
}

/// All gates of a rollout.
fn gates(form: &Value) -> BTreeSet<&str> {
    let steps = form["steps"].as_array().into_iter().flatten().map(|step| &step["gates"]);
    let all = [&form["policy"]["gates"], &form["policy"]["entry_gates"]].into_iter().chain(steps);
    all.filter_map(Value::as_array).flatten().filter_map(Value::as_str).collect()
}

fn named(caller: Option<&Caller>) -> String {
    caller.map_or_else(|| "somebody".to_owned(), |caller| caller.name.clone())
}

/// What somebody answers for a gate.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GateAnswer {
    gate: String,
    passed: bool,
    /// What that rests on.
    evidence: Option<Value>,
    /// The artifacts that it is about, if it is about any: what competes must be the same.
    champion: Option<String>,
    challenger: Option<String>,
}

impl GateAnswer {
    fn read(text: &str) -> Result<GateAnswer> {
        serde_json::from_str(text).map_err(|error| {
            let why = file::explain(&error.to_string());
            Error::invalid(format!(
                "the body cannot be read: {why}; expected {{\"gate\": NAME, \"passed\": true or false}}"
            ))
        })
    }

    /// What it rests on as text. Fails where the rollout has no such gate, or what was looked at is not what competes.
    fn check(&self, service: &Service, endpoint: &str) -> Result<Option<String>> {
        let form = service.rollouts.of(endpoint)?;
        let known = gates(&form);
        if !known.contains(self.gate.as_str()) {
            let known = known.into_iter().collect::<Vec<_>>();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            let id = form["rollout"].as_str().unwrap_or_default();
            return Err(Error::invalid(format!("rollout {id} has no gate {:?}: it has {known}", self.gate)));
        }
        let catalog = service.inference.catalog.load();
        for (part, artifact) in [("champion", &self.champion), ("challenger", &self.challenger)] {
            let Some(artifact) = artifact else { continue };
            let arm = &form[part];
            let model = catalog.models.get(arm["model"].as_str().unwrap_or_default());
            let version = model.and_then(|model| model.versions.get(&arm["version"].as_u64().unwrap_or(0)));
            let deployment = version.and_then(|version| version.deployment.as_ref());
            let competes = deployment.map(|deployment| deployment.identity.artifact.to_string());
            if competes.as_ref() != Some(artifact) {
                return Err(Error::invalid(format!(
                    "the {part} that was looked at has the artifact {artifact}, and {} version {}, which competes, {}: look at \
                     the same files",
                    arm["model"].as_str().unwrap_or_default(),
                    arm["version"],
                    competes.map_or_else(|| "is not there".to_owned(), |competes| format!("has {competes}")),
                )));
            }
        }
        let text = self.evidence.as_ref().map(Value::to_string);
        match &text {
            Some(text) if text.len() > EVIDENCE_BYTES_MAX => Err(Error::new(
                ErrorKind::TooLarge,
                format!("the gate's evidence has {} bytes: expected {EVIDENCE_BYTES_MAX} at most", text.len()),
            )),
            _ => Ok(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_are_those_of_steps_and_of_both_ends() {
        let form = json!({ "policy": { "gates": ["ada"], "entry_gates": ["backtest"] },
                           "steps": [{ "share": 1 }, { "share": 2, "gates": ["webhook:10", "ada"] }] });
        assert_eq!(gates(&form), BTreeSet::from(["ada", "backtest", "webhook:10"]));
        assert!(gates(&json!({ "policy": {}, "steps": [{}] })).is_empty());
    }

    #[test]
    fn answers_for_gates() {
        let read = |text: &str| GateAnswer::read(text).map(|answer| (answer.gate, answer.passed));
        assert_eq!(read(r#"{"gate": "ada", "passed": true, "evidence": {"n": 1}}"#), Ok(("ada".to_owned(), true)));
        for wrong in [r#"{"gate": "ada"}"#, r#"{"gate": "ada", "pased": true}"#, "7"] {
            let message = GateAnswer::read(wrong).unwrap_err().message().to_owned();
            assert!(message.contains("expected {\"gate\": NAME"), "{message}");
        }
    }
}
