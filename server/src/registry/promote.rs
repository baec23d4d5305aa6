//! How does a version come to answer in an environment?
//!
//! The rules of the environment are asked first. A version that comes at once is on the record as there, and the keeper has the
//! endpoint's plan be so; one that comes by a rollout is on the record as on its way, and is there once its rollout has promoted it.
//! Where the environment is not this server's, its own servers see it on the record.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tiltyard_registry::book::{
    Book, Decided, End, Ending, Environment, GoBack, Order, Outcome, Position, Principal, Promote, Promotion, Refusal,
    Rollout, VersionState, Wants, Way,
};
use tiltyard_rollout::plan::Plan;
use tiltyard_types::{Error, ErrorKind, Moment, Result};

use super::keeper::{Keeper, Proposed};
use super::{Registry, principal, program, versions_of};
use crate::admin::endpoints;
use crate::admin::rollouts::begin_for;
use crate::locks::calls::{Call, Caller};
use crate::rollouts::written::{Written, WrittenArm};
use crate::rollouts::{Told, begin};
use crate::service::Service;
use crate::writer::How;
use crate::{clock, deadlines};

/// How long whoever promotes waits for the plan to hold; it goes on to be tried.
const HOLDS_MAX: Duration = Duration::from_secs(60);

/// How long the same must be in the way until nobody waits any more: here, and where the log says what is to hold, which is tried again
/// and again, since what it needs may be on its way.
const STANDS: Duration = Duration::from_secs(3);
const STANDS_SHARED: Duration = Duration::from_secs(15);

/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// How long until a plan that does not hold is tried again.
const RETRY: Duration = Duration::from_secs(10);

/// What somebody says who has a version answer.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Promoting {
    /// The version, such as `risk@3`.
    pub version: String,
    /// The environment.
    pub to: String,
    /// The rollout by which it comes, as `tiltyard rollout start --plan` has it; at once where there is none.
    #[serde(default)]
    pub rollout: Option<Value>,
    /// Why rules are set aside.
    #[serde(default)]
    pub overriding: Option<String>,
}

/// Has a version answer in an environment.
pub async fn promote(service: &Service, caller: Option<&Caller>, promoting: Promoting) -> Result<Value> {
    let registry = &service.registry;
    let Promoting { version, to, rollout, overriding } = promoting;
    let (model, number, is_first) = {
        let book = registry.book();
        let found = book.resolve(&version)?;
        let environment = book.environment(&to).ok_or_else(|| unknown_environment(&book, &to))?;
        (found.model.clone(), found.number, environment.current(&found.model).is_none())
    };
    if let Some(caller) = caller {
        caller.may(Call::Deploy(&model))?;
        caller.may(Call::Plan(&model))?;
    }
    let by = principal(caller, Some(&model));
    let mut wants = Promote {
        id: String::new(),
        model: model.clone(),
        version: number,
        environment: to.clone(),
        rollout: None,
        overriding,
    };
    let is_here = to == registry.environment;
    if rollout.is_some() && !is_here {
        return Err(Error::invalid(format!(
            "a rollout runs where its environment is served, and this server is in {}: ask a server of {to} (--admin URL), or leave \
             the rollout out",
            registry.environment
        )));
    }
    if let Some(written) = rollout {
        let mut written: Written = serde_json::from_value(written)
            .map_err(|error| Error::invalid(format!("the rollout cannot be read: {error}")))?;
        // Every rollout has steps, in which its challenger answers.
        let way = Way::Canary;
        wants.rollout = Some(Rollout { id: "rehearsal".to_owned(), way });
        rehearse(registry, &wants, &by)?;
        written.challenger = Some(WrittenArm { name: None, model: Some(model.clone()), version: number, digest: None });
        let begun = begin_for(service, caller, &model, &written).await?;
        let id = begun["rollout"].as_str().unwrap_or_default().to_owned();
        wants.rollout = Some(Rollout { id: id.clone(), way });
        let decided = match registry.order(Wants::Promote(wants).into(), by.clone()).await {
            Ok(decided) => decided,
            Err(error) => {
                // What is not on the record does not go on.
                let command = tiltyard_rollout::judge::Command::Abort;
                drop(service.rollouts.tell(&model, command, by.name).await);
                return Err(error);
            }
        };
        return Ok(json!({ "model": model, "version": number, "to": to, "rollout": id, "outcome": decided.outcome }));
    }
    let is_again = is_here && wants.overriding.is_none() && is_there_already(service, &model, number);
    let outcome = match is_again {
        true => {
            answer_again(service, caller, &model, number).await?;
            None
        }
        false => Some(registry.order(Wants::Promote(wants).into(), by).await?.outcome),
    };
    let answers = match is_here {
        true => Some(wait_until_it_answers(service, &model, number).await),
        false => None,
    };
    Ok(json!({
        "model": model, "version": number, "to": to, "outcome": outcome, "is_first": is_first,
        "answers": answers.as_ref().map(std::result::Result::is_ok), "why": answers.and_then(std::result::Result::err),
    }))
}

/// Whether a version is in this server's environment and may be, and another answers: somebody applied another plan, or rolled the
/// endpoint back to what never was in the environment.
fn is_there_already(service: &Service, model: &str, number: u64) -> bool {
    let (book, plans) = (service.registry.book(), service.writer.plans.load());
    let environment = book.environment(&service.registry.environment);
    let is_there =
        environment.and_then(|environment| environment.current(model)).is_some_and(|at| at.version == number);
    let is_ready = book.version(model, number).is_some_and(|version| version.state == VersionState::Ready);
    let champion = plans.endpoints.plan(model).map(|plan| &plan.arms[plan.champion()]);
    is_there && is_ready && champion.is_none_or(|arm| arm.model != model || arm.version != number)
}

/// Has a version answer again that is in this server's environment, where what let it in holds still. One that never answered is tried
/// at once.
async fn answer_again(service: &Service, caller: Option<&Caller>, model: &str, number: u64) -> Result<()> {
    let (registry, environment) = (&service.registry, &service.registry.environment);
    let (did_before, mut in_the_way, rollout) = {
        let book = registry.book();
        let at = book.environment(environment).and_then(|environment| environment.current(model));
        let at = at.filter(|at| at.version == number);
        let promotion = at.and_then(|at| book.promotion(&at.promotion));
        let rollout = promotion.and_then(|promotion| Some(promotion.rollout.as_ref()?.id.clone()));
        let in_the_way = promotion.map_or_else(Vec::new, |promotion| unmet_now(&book, promotion));
        (at.is_some_and(|at| has_answered(&book, model, at)), in_the_way, rollout)
    };
    if !did_before {
        registry.retry(model).await;
        return Ok(());
    }
    let told = service.rollouts.told();
    if let Some(id) =
        rollout.filter(|id| told.rollouts.get(id).is_some_and(|form| form["went_back_after_promotion"] == true))
    {
        in_the_way.push(format!("rollout {id} took it back, since it became worse"));
    }
    if !in_the_way.is_empty() {
        let why = format!(
            "{model}@{number} is in {environment}, and another version answers; it does not come back: {}. Promote another, or have it \
             compete again: tiltyard rollout start",
            in_the_way.join("; ")
        );
        return Err(Error::new(ErrorKind::Forbidden, why));
    }
    let held = service.writer.plans.load().endpoints.plan(model).cloned();
    let plan = begin::alone(model, &champion(model, number), held.as_ref().map(|held| &held.key));
    endpoints::apply(service, caller, plan, How::Promoted).await.map(drop)
}

/// What would be in the way of a promotion now that was made: its approvals count as long as it is all they were given for.
fn unmet_now(book: &Book, promotion: &Promotion) -> Vec<String> {
    let Promotion { model, version, environment, .. } = promotion;
    let is_bound = book.bound(model, *version, environment).as_ref() == Some(&promotion.bound);
    let unmet = book.unmet_at_end(promotion, clock::unix_ms()).unwrap_or_default();
    unmet.iter().filter(|need| !is_bound || need.rule != "approvals").map(ToString::to_string).collect()
}

fn champion(model: &str, version: u64) -> WrittenArm {
    WrittenArm { name: None, model: Some(model.to_owned()), version, digest: None }
}

/// Has an environment go back to what was there before.
pub async fn go_back(service: &Service, caller: Option<&Caller>, wants: GoBack) -> Result<Value> {
    let (registry, model) = (&service.registry, wants.model.clone());
    if let Some(caller) = caller {
        caller.may(Call::Deploy(&model))?;
        caller.may(Call::Plan(&model))?;
    }
    let is_here = wants.environment == registry.environment;
    let by = principal(caller, Some(&model));
    let decided = registry.order(Wants::GoBack(wants).into(), by).await?;
    let answers = match &decided.outcome {
        Outcome::Position { version, .. } if is_here => Some(wait_until_it_answers(service, &model, *version).await),
        _ => None,
    };
    Ok(json!({
        "model": model, "outcome": decided.outcome,
        "answers": answers.as_ref().map(std::result::Result::is_ok), "why": answers.and_then(std::result::Result::err),
    }))
}

/// Notes that somebody went back by the endpoint's plan: where what answers again was in this server's environment before, it is there
/// again. What came from a folder never was.
pub async fn note_rollback(service: &Service, caller: Option<&Caller>, endpoint: &str) {
    let registry = &service.registry;
    let held = service.writer.plans.load().endpoints.plan(endpoint).cloned();
    let Some(arm) = held.as_ref().map(|held| &held.arms[held.champion()]).filter(|arm| arm.model == endpoint) else {
        return;
    };
    let is_back = {
        let book = registry.book();
        book.environment(&registry.environment).is_some_and(|environment| {
            environment.current(endpoint).is_some_and(|at| at.version != arm.version)
                && environment.earlier(endpoint).any(|at| at.version == arm.version)
        })
    };
    if is_back {
        let back = GoBack {
            environment: registry.environment.clone(),
            model: endpoint.to_owned(),
            to: Some(arm.version),
            reason: "the endpoint's plan was rolled back".to_owned(),
        };
        if let Err(error) = registry.order(Wants::GoBack(back).into(), principal(caller, Some(endpoint))).await {
            tracing::warn!(endpoint, %error, "the environment does not follow the endpoint's rollback");
        }
    }
}

/// Comes back when the endpoint's champion is this version, or else with what is in the way.
async fn wait_until_it_answers(service: &Service, model: &str, number: u64) -> std::result::Result<(), String> {
    let until = clock::now() + HOLDS_MAX;
    let mut in_the_way: Option<(String, Moment)> = None;
    loop {
        let speaker = service.inference.catalog.load().speaker(model, None);
        if speaker.is_ok_and(|arm| arm.deployment.identity.model == model && arm.deployment.identity.version == number)
        {
            service.registry.settle().await;
            return Ok(());
        }
        let now = clock::now();
        let (why, stands) = why_not(service, model, number);
        if why.as_ref() != in_the_way.as_ref().map(|(why, _)| why) {
            in_the_way = why.map(|why| (why, now));
        }
        match in_the_way {
            Some((why, since)) if now >= until || now >= since + stands => return Err(why),
            None if now >= until => return Err(format!("it is not ready after {} s", HOLDS_MAX.as_secs())),
            still => in_the_way = still,
        }
        deadlines::within(clock::now() + LOOK, std::future::pending::<()>()).await;
    }
}

/// What is in the way of a version, as far as it is known, and for how long it must be.
fn why_not(service: &Service, model: &str, number: u64) -> (Option<String>, Duration) {
    if let Some(why) = service.registry.why_not(model, number) {
        return (Some(why), STANDS);
    }
    if let Some(id) = service.rollouts.governs(model) {
        return (Some(format!("rollout {id} has the endpoint until it ends: promote or abort it")), STANDS);
    }
    let unheld = service.rollouts.told().unheld.get(model).cloned();
    let its = unheld.filter(|(of, version, _)| of == model && *version == number);
    (its.map(|(_, _, why)| why), STANDS_SHARED)
}

/// Fails where the rules refuse it, and changes nothing.
fn rehearse(registry: &Registry, wants: &Promote, by: &Principal) -> Result<()> {
    let mut wants = wants.clone();
    wants.id = "rehearsal".to_owned();
    let order = Order::from(Wants::Promote(wants));
    registry.book().decide(order, by, clock::unix_ms()).map(drop).map_err(Refusal::into)
}

/// Whether a version has answered its endpoint since it came into its environment.
pub(super) fn has_answered(book: &Book, model: &str, at: &Position) -> bool {
    let since: Vec<_> = book.history(model, ..).filter(|plan| plan.since.sequence > at.since.sequence).collect();
    let mut arms = since.iter().flat_map(|plan| &plan.planned.arms);
    arms.any(|arm| arm.role == "champion" && arm.model == model && arm.version == at.version)
}

fn unknown_environment(book: &Book, name: &str) -> Error {
    let known: Vec<&str> = book.environments().map(|environment| environment.name.as_str()).collect();
    Error::not_found(format!("no environment is called {name:?}: there is {}", known.join(", ")))
}

impl Keeper {
    /// Ends promotions whose rollout has ended.
    pub(super) fn end_promotions(&mut self) {
        if !self.rollouts.speaks() {
            return;
        }
        let told = self.rollouts.told();
        let ended: Vec<End> = {
            let book = self.shared.book.read().unwrap_or_else(PoisonError::into_inner);
            let under_way = book
                .promotions()
                .filter(|promotion| promotion.end.is_none() && promotion.environment == self.environment);
            under_way
                .filter_map(|promotion| {
                    let form = told.rollouts.get(&promotion.rollout.as_ref()?.id)?;
                    let outcome = match form["state"].as_str()? {
                        "promoted" => Ending::Promoted,
                        "rolled_back" => Ending::RolledBack,
                        "futile" | "aborted" => Ending::Aborted,
                        _ => return None,
                    };
                    let reason = form["verdict"]["reasons"].as_array().map_or_else(String::new, |reasons| {
                        reasons
                            .iter()
                            .filter_map(|reason| serde_json::to_string(reason).ok())
                            .collect::<Vec<_>>()
                            .join("; ")
                    });
                    let reason = reason.chars().take(500).collect();
                    Some(End { promotion: promotion.id.clone(), outcome, verdict: None, reason, overriding: None })
                })
                .collect()
        };
        self.stop_unapproved(&told);
        for end in ended {
            let of = end.promotion.clone();
            if self.see_to(&of, Wants::End(end.clone())).is_some() {
                tracing::info!(promotion = of, outcome = end.outcome.name(), "the promotion has ended");
            }
        }
        self.follow_harm();
    }

    /// Has rollouts end whose version has no approval any more: traffic must not go where nobody may promote.
    fn stop_unapproved(&mut self, told: &Told) {
        let unapproved: Vec<(String, String)> = {
            let book = self.shared.book.read().unwrap_or_else(PoisonError::into_inner);
            let under_way = book.promotions().filter(|promotion| {
                let id = promotion.rollout.as_ref().map(|rollout| &rollout.id);
                promotion.end.is_none()
                    && promotion.environment == self.environment
                    && id.is_some_and(|id| told.governed.get(&promotion.model) == Some(id))
            });
            under_way
                .filter_map(|promotion| {
                    let unmet = book.unmet_at_end(promotion, clock::unix_ms()).ok()?;
                    let approvals = unmet.iter().find(|need| need.rule == "approvals")?;
                    Some((promotion.model.clone(), approvals.to_string()))
                })
                .collect()
        };
        for (model, why) in unapproved {
            self.tell_once(model.clone(), format!("its rollout is aborted: {why}"));
            self.rollouts.abort(&model, "tiltyard");
        }
    }

    /// A version that became worse after its promotion, and was taken back, is not in the environment any more.
    fn follow_harm(&mut self) {
        let told = self.rollouts.told();
        let harmed: Vec<GoBack> = {
            let book = self.shared.book.read().unwrap_or_else(PoisonError::into_inner);
            let Some(environment) = book.environment(&self.environment) else { return };
            let promoted = book.promotions().filter(|promotion| {
                promotion.environment == self.environment
                    && environment
                        .current(&promotion.model)
                        .is_some_and(|at| at.promotion == promotion.id && !at.is_rollback)
            });
            promoted
                .filter_map(|promotion| {
                    let form = told.rollouts.get(&promotion.rollout.as_ref()?.id)?;
                    (form["went_back_after_promotion"] == true).then(|| GoBack {
                        environment: self.environment.clone(),
                        model: promotion.model.clone(),
                        to: None,
                        reason: "it became worse than what it replaced, after its promotion".to_owned(),
                    })
                })
                .collect()
        };
        for back in harmed {
            let of = format!("{} in {}", back.model, back.environment);
            drop(self.see_to(&of, Wants::GoBack(back)));
        }
    }

    /// Has the environment's versions answer: where one has come there and has not answered since, the endpoint's plan follows.
    /// Who applies another plan by hand comes after that, and stays.
    pub(super) fn reconcile(&mut self) {
        if !self.rollouts.speaks() {
            return;
        }
        let now = clock::now();
        let wanted: BTreeMap<String, u64> = {
            let book = self.shared.book.read().unwrap_or_else(PoisonError::into_inner);
            let Some(environment) = book.environment(&self.environment) else { return };
            let plans = self.writer.plans.load();
            let positions = environment.positions.keys().filter_map(|model| Some((model, environment.current(model)?)));
            positions
                .filter(|(model, at)| {
                    let champion = plans.endpoints.plan(model).map(|plan| &plan.arms[plan.champion()]);
                    let is_so = champion.is_some_and(|arm| arm.model == **model && arm.version == at.version);
                    !is_so && !has_answered(&book, model, at) && self.rollouts.governs(model).is_none()
                })
                .map(|(model, at)| (model.clone(), at.version))
                .collect()
        };
        let is_wanted = |model: &str, version: u64| wanted.get(model) == Some(&version);
        self.proposed.retain(|model, proposed| is_wanted(model, proposed.version));
        let mut troubles = self.shared.troubles.write().unwrap_or_else(PoisonError::into_inner);
        troubles.retain(|model, (version, _)| is_wanted(model, *version));
        drop(troubles);
        for (model, version) in wanted {
            let proposed =
                self.proposed.entry(model.clone()).or_insert(Proposed { version, pending: None, retry: now });
            if let Some(pending) = &mut proposed.pending {
                let error = match pending.try_recv() {
                    Err(tokio::sync::oneshot::error::TryRecvError::Empty) => continue,
                    Ok(Ok(_)) => None,
                    Ok(Err(error)) => Some(error.message().to_owned()),
                    Err(tokio::sync::oneshot::error::TryRecvError::Closed) => None,
                };
                proposed.pending = None;
                if let Some(error) = error {
                    proposed.retry = now + RETRY;
                    let mut troubles = self.shared.troubles.write().unwrap_or_else(PoisonError::into_inner);
                    troubles.insert(model.clone(), (version, error.clone()));
                    drop(troubles);
                    self.tell_once(
                        format!("{model}@{version}"),
                        format!("it does not answer in {}: {error}", self.environment),
                    );
                }
                continue;
            }
            if now < proposed.retry || self.is_quarantined(&model, version) {
                continue;
            }
            let Some(proposed) = self.proposed.get_mut(&model) else { continue };
            let held = self.writer.plans.load().endpoints.plan(&model).cloned();
            // What is tried anew is in nobody's way yet.
            self.shared.troubles.write().unwrap_or_else(PoisonError::into_inner).remove(&model);
            let plan = begin::alone(&model, &champion(&model, version), held.as_ref().map(|held| &held.key));
            // Where replicas share the log, all of them find there that it is to hold.
            let before = begin::as_it_is(&self.inference.catalog.load(), &model, version);
            match self.rollouts.have_hold(plan.clone(), before, "tiltyard") {
                Some(()) => proposed.retry = now + RETRY,
                None => {
                    (proposed.pending, proposed.retry) = (Some(self.writer.propose(plan, How::Promoted)), now);
                }
            }
        }
    }
}

/// Has no endpoint be answered by a version that must not answer any more: rollouts of it end, and what answered before answers again.
/// Where nothing did, the newest version that may answer does. Gives the endpoints where none can: somebody must decide who answers.
pub async fn take_out(service: &Service, model: &str) -> Vec<String> {
    let quarantined: Vec<u64> = {
        let book = service.registry.book();
        let versions = book.model(model).into_iter().flat_map(versions_of);
        versions.filter(|version| version.state == VersionState::Quarantined).map(|version| version.number).collect()
    };
    let lost: Vec<GoBack> = {
        let book = service.registry.book();
        let is_ready =
            |at: &Position| book.version(model, at.version).is_some_and(|known| known.state == VersionState::Ready);
        let holding = book.environments().filter(|environment| {
            environment.current(model).is_some_and(|at| quarantined.contains(&at.version))
                && environment.earlier(model).any(is_ready)
        });
        let back = |environment: &Environment| GoBack {
            environment: environment.name.clone(),
            model: model.to_owned(),
            to: None,
            reason: "what was there is in quarantine".to_owned(),
        };
        holding.map(back).collect()
    };
    for back in lost {
        let environment = back.environment.clone();
        match service.registry.order(Wants::GoBack(back).into(), program()).await {
            Err(error) => tracing::error!(environment, model, %error, "a quarantined version is still there"),
            Ok(Decided { outcome: Outcome::Position { version, .. }, .. })
                if environment == service.registry.environment =>
            {
                drop(wait_until_it_answers(service, model, version).await);
            }
            Ok(_) => {}
        }
    }
    let mut still = Vec::new();
    let plans = service.writer.plans.load().endpoints.current();
    for (endpoint, plan) in plans {
        let out: Vec<(String, u64)> = quarantined.iter().map(|version| (model.to_owned(), *version)).collect();
        if !plan.has_any(&out) {
            continue;
        }
        if service.rollouts.governs(&endpoint).is_some() {
            let command = tiltyard_rollout::judge::Command::Abort;
            drop(service.rollouts.tell(&endpoint, command, "tiltyard".to_owned()).await);
        }
        let held = service.writer.plans.load().endpoints.plan(&endpoint).cloned();
        if !held.is_some_and(|held| held.has_any(&out)) {
            continue;
        }
        let by_log = service.rollouts.before(&endpoint, out.clone()).await.ok().flatten();
        let back = by_log
            .or_else(|| service.writer.plans.load().endpoints.without(&endpoint, &out).map(|plan| Plan::clone(plan)));
        let back = back.or_else(|| {
            let answering = begin::answering(&service.inference.catalog.load().models, &endpoint);
            let version = answering.into_iter().find(|version| !out.contains(&(endpoint.clone(), *version)))?;
            Some(begin::alone(&endpoint, &champion(&endpoint, version), Some(&plan.key)))
        });
        let gone_back = match back {
            Some(plan) => endpoints::go_back(service, None, plan).await.map(drop),
            None => Err(Error::not_found("no plan without it held before, and no other version answers")),
        };
        if let Err(error) = gone_back {
            tracing::error!(endpoint, %error, "a quarantined version still answers, and nothing without it can answer instead: apply another plan");
            still.push(endpoint);
        }
    }
    still
}
