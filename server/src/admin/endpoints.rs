//! How are endpoints' plans looked at and changed over the admin port?

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http_body::Body;
use http_body_util::{BodyExt, Limited};
use serde_json::{Value, json};
use tiltyard_rollout::plan::Plan;
use tiltyard_types::{Error, ErrorKind, Result};

use crate::catalog::Endpoint;
use crate::endpoints::file::{self, Said};
use crate::locks::calls::{Call, Caller};
use crate::registry::promote;
use crate::rollouts::record::Change;
use crate::service::Service;
use crate::writer::{How, Report};
use crate::{clock, deadlines, shadow};

/// The largest plan that is read.
const BODY_BYTES_MAX: usize = 1 << 20;

/// How long it may take to arrive.
const BODY_TIME_MAX: Duration = Duration::from_secs(10);

/// The endpoint that a path names, and what is asked of it; `None` for other paths.
pub(super) fn parts(path: &str) -> Option<Result<(String, &str)>> {
    let rest = path.strip_prefix("/admin/endpoints/").filter(|rest| !rest.is_empty())?;
    let (name, verb) = rest.split_once('/').unwrap_or((rest, ""));
    Some(crate::protocol::rest::decode_percent(name).map(|name| (name, verb)))
}

/// What a request to such a path asks for, as far as permission goes.
pub(super) fn call<'a>(method: &Method, endpoint: &'a str, verb: &str) -> Call<'a> {
    match *method {
        Method::GET | Method::HEAD => Call::See(endpoint),
        _ if verb == "rollout/gate" => Call::Approve(endpoint),
        _ => Call::Plan(endpoint),
    }
}

/// Answers a request to `/admin/endpoints/<endpoint>`, whose caller may ask for it.
pub(super) async fn answer<B>(
    service: &Service,
    caller: Option<&Caller>,
    method: &Method,
    (endpoint, verb): (&str, &str),
    query: &str,
    body: B,
) -> Result<Value>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display + Into<Box<dyn std::error::Error + Send + Sync>>,
{
    if let Some(verb) =
        verb.strip_prefix("rollout").and_then(|verb| verb.strip_prefix('/').or(verb.is_empty().then_some("")))
    {
        let body = if *method == Method::POST { read(body).await? } else { Bytes::new() };
        return super::rollouts::answer(service, caller, method, (endpoint, verb), &body).await;
    }
    match (method, verb) {
        (&Method::GET | &Method::HEAD, "") => service.writer.plans.load().endpoints.form_of(endpoint),
        (&Method::GET | &Method::HEAD, "shadows") => {
            service.writer.plans.load().endpoints.form_of(endpoint)?;
            let inference = &service.inference;
            Ok(shadow::form::of_endpoint(&inference.shadows, &inference.catalog.load(), endpoint))
        }
        (&Method::PUT, "") => {
            let said = file::read(text_of(&read(body).await?)?, Some(endpoint))?;
            let dry_run = match query {
                "" | "dry_run=false" => false,
                "dry_run=true" => true,
                other => return Err(Error::invalid(format!("{other:?}: expected dry_run=true, or nothing"))),
            };
            let draft = match said {
                Said::Plan(draft) => *draft,
                Said::Rollout(declared) => return super::rollouts::apply(service, caller, *declared, dry_run).await,
            };
            let how = if dry_run { How::DryRun } else { How::Decided };
            Ok(form(&apply(service, caller, draft, how).await?, dry_run))
        }
        (&Method::DELETE, "") => {
            let held = service.writer.plans.load().endpoints.plan(endpoint).cloned();
            held.map_or(Ok(()), |held| may_deploy(caller, &held))?;
            service.rollouts.may_change(endpoint).await?;
            let report = service.writer.remove_plan(endpoint).await?;
            tell_others(service, caller, endpoint, Change::Applied).await?;
            Ok(form(&report, false))
        }
        (&Method::POST, "rollback") => {
            let to = revision(&read(body).await?)?;
            if service.writer.plans.load().endpoints.plan(endpoint).is_some_and(|held| !held.steps.is_empty()) {
                service.rollouts.wait_for_log().await?;
            }
            if service.rollouts.governs(endpoint).is_some() {
                return super::rollouts::roll_back(service, caller, endpoint, to).await;
            }
            let report = roll_back(service, caller, endpoint, to).await?;
            promote::note_rollback(service, caller, endpoint).await;
            Ok(form(&report, false))
        }
        _ => Err(Error::not_found(format!(
            "nothing is at {method} /admin/endpoints/{endpoint}/{verb}: expected GET, PUT or DELETE, GET of …/shadows, or POST to …/rollback or …/rollout"
        ))),
    }
}

/// Has a plan hold, on all replicas.
pub(crate) async fn apply(service: &Service, caller: Option<&Caller>, draft: Plan, how: How) -> Result<Report> {
    may_deploy(caller, &draft)?;
    let endpoint = draft.endpoint.clone();
    service.rollouts.may_change(&endpoint).await?;
    let report = service.writer.apply(draft, how).await?;
    if how != How::DryRun {
        tell_others(service, caller, &endpoint, Change::Applied).await?;
    }
    Ok(report)
}

/// Has a plan hold again that held before: the one of this revision, or else the one before.
async fn roll_back(service: &Service, caller: Option<&Caller>, endpoint: &str, to: Option<u64>) -> Result<Report> {
    service.rollouts.may_share()?;
    // Numbers are each replica's own; what was before is on the log that all of them share.
    if to.is_none()
        && let Some(plan) = service.rollouts.before(endpoint, Vec::new()).await?
    {
        return go_back(service, caller, plan).await;
    }
    let back = service.writer.plans.load().endpoints.back(endpoint, to)?;
    may_deploy(caller, &back)?;
    // By its number, so that it is the one that was asked about.
    let report = service.writer.roll_back(endpoint, Some(back.revision)).await?;
    tell_others(service, caller, endpoint, Change::WentBack).await?;
    Ok(report)
}

/// Has a plan hold that did before. All hear of it at once, so that nobody waits for versions that another replica has to load.
pub(crate) async fn go_back(service: &Service, caller: Option<&Caller>, plan: Plan) -> Result<Report> {
    may_deploy(caller, &plan)?;
    service.rollouts.share(&plan.endpoint, Change::WentBack(Box::new(plan.clone())), named(caller)).await?;
    service.writer.apply(plan, How::Back).await
}

/// Tells the other replicas which plan somebody has made hold, and how.
pub(super) async fn tell_others(
    service: &Service,
    caller: Option<&Caller>,
    endpoint: &str,
    how: fn(Box<Plan>) -> Change,
) -> Result<()> {
    let plan = service.writer.plans.load().endpoints.plan(endpoint).cloned();
    let change = plan.map_or(Change::Removed, |plan| how(Box::new(Plan::clone(&plan))));
    let told = service.rollouts.share(endpoint, change, named(caller)).await;
    told.map_err(|error| Error::new(error.kind(), format!("it is so on this replica, but {}", error.message())))
}

fn named(caller: Option<&Caller>) -> String {
    caller.map_or_else(|| "somebody".to_owned(), |caller| caller.name.clone())
}

/// Fails where a caller may not change what answers for the models of a plan.
pub(super) fn may_deploy(caller: Option<&Caller>, plan: &Plan) -> Result<()> {
    let Some(caller) = caller else { return Ok(()) };
    plan.arms.iter().try_for_each(|arm| caller.may(Call::Deploy(&arm.model)))
}

/// What was sent, as text.
pub(super) fn text_of(body: &[u8]) -> Result<&str> {
    std::str::from_utf8(body)
        .map_err(|error| Error::invalid(format!("the body cannot be read: expected UTF-8: {error}")))
}

/// The revision to go back to, where the body names one: `{"to": 3}`.
fn revision(body: &[u8]) -> Result<Option<u64>> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    let wrong = || Error::invalid("the body cannot be read: expected {\"to\": REVISION}, or nothing");
    match serde_json::from_slice(body) {
        Ok(Value::Object(form)) if form.keys().all(|key| key == "to") => match form.get("to") {
            None | Some(Value::Null) => Ok(None),
            Some(to) => to.as_u64().map(Some).ok_or_else(wrong),
        },
        _ => Err(wrong()),
    }
}

/// What was sent, within bounds of size and time.
pub(super) async fn read<B>(body: B) -> Result<Bytes>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display + Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let read = deadlines::within(clock::now() + BODY_TIME_MAX, Limited::new(body, BODY_BYTES_MAX).collect());
    match read.await {
        Some(Ok(body)) => Ok(body.to_bytes()),
        Some(Err(error)) => Err(Error::invalid(format!("the body cannot be read: {error}"))),
        None => Err(Error::new(ErrorKind::Deadline, format!("the body did not arrive within {BODY_TIME_MAX:?}"))),
    }
}

pub(super) fn form(report: &Report, dry_run: bool) -> Value {
    let Report { endpoint, before, revision, changes, loads, is_kept } = report;
    json!({
        "endpoint": endpoint, "before": before, "revision": revision, "changed": before != revision,
        "changes": changes, "loads": loads, "kept": is_kept, "dry_run": dry_run,
    })
}

/// Every endpoint that has a plan, with who answers in which part.
pub(crate) fn list(service: &Service) -> Vec<Value> {
    let (catalog, told) = (service.inference.catalog.load(), service.writer.plans.load());
    let waits = |name: &str| told.declared.contains_key(name).then(|| service.rollouts.waits(name)).flatten();
    let trouble_of = |name: &str| {
        let of_plan = told.troubles.get(name).map(|why| format!("the plan in its file does not hold: {why}"));
        of_plan.or_else(|| waits(name).map(|why| format!("what its file declares does not begin: {why}")))
    };
    let planned = catalog.endpoints.iter().filter_map(|(name, endpoint)| match endpoint {
        Endpoint::Planned(route) => Some((name, route)),
        Endpoint::Newest(_) => None,
    });
    let mut list: Vec<Value> = planned
        .map(|(name, route)| {
            let arms = route.plan.arms.iter().zip(route.seats()).map(|(arm, seat)| {
                let (state, reason) = match seat {
                    Ok(_) => ("ready", ""),
                    Err(missing) => (if missing.is_coming { "loading" } else { "missing" }, missing.reason.as_str()),
                };
                let digest = seat.map_or_else(|_| String::new(), |arm| arm.deployment.identity.digest.to_string());
                json!({
                    "name": arm.name, "model": arm.model, "version": arm.version.to_string(), "role": arm.role,
                    "share": share(&route.plan, &arm.name), "state": state, "reason": reason, "digest": digest,
                })
            });
            let (arms, plan) = (arms.collect::<Vec<_>>(), file::write(&route.plan));
            let trouble = trouble_of(name).or_else(|| route.trouble.clone());
            json!({ "endpoint": name, "revision": route.plan.revision, "arms": arms, "plan": plan, "trouble": trouble })
        })
        .collect();
    let names: BTreeSet<&String> = told.troubles.keys().chain(told.declared.keys()).collect();
    let without = names.into_iter().filter(|name| !list.iter().any(|form| form["endpoint"] == **name));
    let without = without.filter_map(|name| {
        Some(json!({ "endpoint": name, "revision": null, "arms": [], "trouble": trouble_of(name)? }))
    });
    let without = without.collect::<Vec<_>>();
    list.extend(without);
    list
}

/// The share of keys that an arm answers, in millionths; none of a shadow.
fn share(plan: &Plan, name: &str) -> Option<u32> {
    use tiltyard_rollout::plan::{MILLION, Role};
    let weight = |role: Role| match role {
        Role::Challenger { weight, .. } => weight,
        Role::Champion | Role::Shadow { .. } => 0,
    };
    match plan.arms.iter().find(|arm| arm.name == name)?.role {
        Role::Champion => Some(MILLION - plan.arms.iter().map(|arm| weight(arm.role)).sum::<u32>()),
        Role::Challenger { weight, .. } => Some(weight),
        Role::Shadow { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_endpoints() {
        let named =
            |path| parts(path).map(|parts| parts.map(|(name, verb)| format!("{name} {verb}")).unwrap_or_default());
        assert_eq!(named("/admin/endpoints/risk"), Some("risk ".into()));
        assert_eq!(named("/admin/endpoints/a%20b/rollback"), Some("a b rollback".into()));
        assert_eq!(named("/admin/endpoints/%zz"), Some(String::new()));
        assert_eq!((named("/admin/endpoints"), named("/admin/endpoints/"), named("/admin/models")), (None, None, None));
    }

    #[test]
    fn bodies_of_rollbacks() {
        assert_eq!((revision(b""), revision(b"{}"), revision(b"{\"to\": 3}")), (Ok(None), Ok(None), Ok(Some(3))));
        for wrong in ["{\"too\": 3}", "{\"to\": \"3\"}", "3", "{"] {
            assert!(revision(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
