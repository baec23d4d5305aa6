//! Who answers which endpoint since when?
//!
//! Whenever that changes, the log is told: which versions take part in which part and with which share, and the digests of what
//! answers. So `tiltyard history` knows what served at any time, for endpoints with a plan and for those without.

use std::sync::PoisonError;

use tiltyard_registry::book::{Arm, Book, Cause, Planned, Wants};
use tiltyard_rollout::plan::{MILLION, Plan, Role};

use super::keeper::Keeper;
use super::promote::has_answered;
use crate::arm;
use crate::catalog::Endpoint;

impl Keeper {
    /// Notes who answers, where that is news. Nothing is noted before the first look at the repository is done: what is loading
    /// then has answered before.
    pub(super) fn note_served(&mut self) {
        if !*self.writer.first_look_done.borrow() {
            return;
        }
        // Of replicas, one speaks for all: between two looks they may differ.
        if !self.rollouts.speaks() {
            return;
        }
        let catalog = self.inference.catalog.load_full();
        let news: Vec<Planned> = {
            let book = self.shared.book.read().unwrap_or_else(PoisonError::into_inner);
            let last = |endpoint: &str| book.history(endpoint, ..).last().map(|plan| plan.planned.clone());
            let back = |mut planned: Planned| {
                // What had been there before has the lower number.
                let is_back = last(&planned.endpoint)
                    .is_some_and(|last| last.revision > planned.revision && planned.revision > 0);
                if is_back && planned.cause == Cause::Applied {
                    planned.cause = Cause::RolledBack;
                }
                planned
            };
            let standing = catalog.endpoints.iter().map(|(name, endpoint)| back(self.planned(name, endpoint)));
            let standing: Vec<Planned> = standing.collect();
            let gone = book.endpoints().filter(|name| !catalog.endpoints.contains_key(*name));
            let gone = gone.map(|name| Planned { arms: Vec::new(), cause: Cause::Removed, ..nobody(name) });
            let news = |planned: &Planned| {
                is_news(last(&planned.endpoint).as_ref(), planned) || self.is_first_since(&book, planned)
            };
            standing.into_iter().chain(gone).filter(news).collect()
        };
        for planned in news {
            let of = format!("plan of {}", planned.endpoint);
            drop(self.see_to(&of, Wants::Plan(planned)));
        }
    }

    /// Whether the version that came into this server's environment answers, and that is not on the record yet.
    fn is_first_since(&self, book: &Book, planned: &Planned) -> bool {
        let at = book.environment(&self.environment).and_then(|environment| environment.current(&planned.endpoint));
        at.is_some_and(|at| {
            let champion = planned.arms.iter().find(|arm| arm.role == "champion");
            champion.is_some_and(|arm| arm.model == planned.endpoint && arm.version == at.version)
                && !has_answered(book, &planned.endpoint, at)
        })
    }

    fn planned(&self, name: &str, endpoint: &Endpoint) -> Planned {
        match endpoint {
            Endpoint::Newest(newest) => {
                let (version, model) = (newest.deployment.identity.version, newest.deployment.identity.model.clone());
                let identity = &newest.deployment.identity;
                let (artifact, deployment) = (Some(identity.artifact), Some(identity.digest));
                let role = "champion".to_owned();
                let only =
                    Arm { name: arm::CHAMPION.to_owned(), model, version, artifact, deployment, role, weight: MILLION };
                Planned { arms: vec![only], cause: Cause::Newest, ..nobody(name) }
            }
            Endpoint::Planned(route) => {
                let arms = route.plan.arms.iter().zip(route.seats()).map(|(arm, seat)| {
                    let identity = seat.ok().map(|seat| &seat.deployment.identity);
                    let (role, weight) = part(&route.plan, arm);
                    Arm {
                        name: arm.name.clone(),
                        model: arm.model.clone(),
                        version: arm.version,
                        artifact: identity.map(|identity| identity.artifact),
                        deployment: identity.map(|identity| identity.digest),
                        role: role.to_owned(),
                        weight,
                    }
                });
                let rollout = self.rollouts.governs(name).unwrap_or_default();
                let cause = if rollout.is_empty() { Cause::Applied } else { Cause::Rollout };
                Planned { revision: route.plan.revision, arms: arms.collect(), cause, rollout, ..nobody(name) }
            }
        }
    }
}

fn nobody(endpoint: &str) -> Planned {
    let (endpoint, rollout) = (endpoint.to_owned(), String::new());
    Planned { endpoint, revision: 0, arms: Vec::new(), cause: Cause::Newest, rollout, plan: None }
}

/// An arm's part, and its share of the traffic in millionths.
fn part(plan: &Plan, arm: &tiltyard_rollout::plan::Arm) -> (&'static str, u32) {
    match arm.role {
        Role::Challenger { weight, .. } => ("challenger", weight),
        Role::Shadow { sampling } => ("shadow", sampling),
        Role::Champion => {
            let taken: u32 = plan
                .arms
                .iter()
                .map(|arm| if let Role::Challenger { weight, .. } = arm.role { weight } else { 0 })
                .sum();
            ("champion", MILLION.saturating_sub(taken))
        }
    }
}

/// Whether others take part, or with other shares. That a version is out of service for a moment is not: its digest is left
/// out then.
fn is_news(last: Option<&Planned>, now: &Planned) -> bool {
    let Some(last) = last else { return !now.arms.is_empty() };
    let same = |(a, b): (&Arm, &Arm)| {
        let is_same_or_unknown = b.deployment.is_none() || a.deployment == b.deployment;
        (&a.name, &a.model, a.version, &a.role, a.weight) == (&b.name, &b.model, b.version, &b.role, b.weight)
            && is_same_or_unknown
    };
    last.arms.len() != now.arms.len() || !last.arms.iter().zip(&now.arms).all(same)
}
