//! May this be asked for, approved, promoted, or ended, and by whom?

use super::Book;
use super::decide::{admin, known, roles};
use super::facts::{Answered, Approved, Begun, Ended, Principal, Requested, Revoked, Rollout, Says};
use super::orders::{Approve, Ask, End, Promote, Revoke};
use super::policy::{Approvers, Policy, Way};
use super::refusal::Refusal;
use super::requests::{Bound, Ending, Overridden, Request};
use super::rules::{Candidate, Need, is_firm};

impl Book {
    pub(crate) fn request_order(&self, ask: Ask) -> Result<Says, Refusal> {
        let Ask { id: request, model, version, environment, reason } = ask;
        let bound = self.bound_known(&model, version, &environment)?;
        Ok(Says::Requested(Requested { request, model, version, environment, reason, bound }))
    }

    /// What an approval would be bound to, or which of the names is not known.
    fn bound_known(&self, model: &str, version: u64, environment: &str) -> Result<Bound, Refusal> {
        self.known_version(model, version)?;
        self.known_environment(environment)?;
        let unknown = || Refusal::unknown("version", format!("{model}@{version} is not on record"));
        self.bound(model, version, environment).ok_or_else(unknown)
    }

    pub(crate) fn approve_order(&self, approve: Approve, by: &Principal, now_ms: u64) -> Result<Says, Refusal> {
        let Approve { request: id, seen, comment } = approve;
        known(by, "an approval")?;
        let request = self.known_open(&id)?;
        let policy = &self.known_environment(&request.environment)?.policy;
        self.may_answer(request, policy, by)?;
        if !policy.author_may_approve {
            self.other_eyes(request, by)?;
        }
        let bound = self.bound_known(&request.model, request.version, &request.environment)?;
        let digest = bound.digest();
        if seen.is_some_and(|seen| seen != digest) {
            let message = format!(
                "{}@{} or the policy of {} is not what you saw: it is {} now; look again, and approve what is there",
                request.model,
                request.version,
                request.environment,
                digest.short()
            );
            return Err(Refusal::invalid("seen", message));
        }
        let given = request.approvals.iter().find(|given| given.by.name == by.name && given.holds(now_ms));
        if given.is_some_and(|given| given.bound == bound) {
            let message = format!("{} has approved this in request {id} already: one person counts once", by.name);
            return Err(Refusal::invalid("repeated", message));
        }
        let expires_ms = policy.approval_holds.map(|span| now_ms.saturating_add(span.0));
        Ok(Says::Approved(Approved { request: id, bound, comment, expires_ms, seal: None }))
    }

    /// Fails where somebody is in no group whose word counts.
    fn may_answer(&self, request: &Request, policy: &Policy, by: &Principal) -> Result<(), Refusal> {
        let anybody = Approvers { required: 1, roles: Vec::new(), persons: Vec::new() };
        let groups = if policy.approvals.is_empty() { std::slice::from_ref(&anybody) } else { &policy.approvals };
        if groups.iter().any(|group| group.has(&by.name, &by.roles)) {
            return Ok(());
        }
        let words: Vec<_> = groups.iter().map(Approvers::words).collect();
        let message = format!(
            "{} has {}, and does not answer for {}: expected {}",
            by.name,
            roles(by),
            request.environment,
            words.join("; or ")
        );
        Err(Refusal::forbidden("approver", message))
    }

    /// Fails where somebody would say yes to their own work.
    fn other_eyes(&self, request: &Request, by: &Principal) -> Result<(), Refusal> {
        let Request { model, version, environment, .. } = request;
        let pushed = self.known_version(model, *version)?.pushed.by == by.name;
        if !pushed && request.asked.by != by.name {
            return Ok(());
        }
        let what = if pushed { format!("pushed {model}@{version}") } else { "asks for it".into() };
        let message = format!("{} {what}: the policy of {environment} wants the approval of somebody else", by.name);
        Err(Refusal::forbidden("author", message))
    }

    pub(crate) fn reject_order(&self, answered: Answered, by: &Principal) -> Result<Says, Refusal> {
        known(by, "a rejection")?;
        let request = self.known_open(&answered.request)?;
        let policy = &self.known_environment(&request.environment)?.policy;
        if !by.is_admin() {
            self.may_answer(request, policy, by)?;
        }
        reason(&answered.reason, "a rejection")?;
        Ok(Says::Rejected(answered))
    }

    pub(crate) fn withdraw_order(&self, answered: Answered, by: &Principal) -> Result<Says, Refusal> {
        let request = self.known_open(&answered.request)?;
        if request.asked.by != by.name && !by.is_admin() {
            let message =
                format!("{} did not make request {}: expected {} or an admin", by.name, request.id, request.asked.by);
            return Err(Refusal::forbidden("author", message));
        }
        Ok(Says::Withdrawn(answered))
    }

    pub(crate) fn revoke_order(&self, revoke: Revoke, by: &Principal) -> Result<Says, Refusal> {
        let Revoke { request, approver, reason: why } = revoke;
        known(by, "to take an approval back")?;
        let approver = approver.unwrap_or_else(|| by.name.clone());
        if approver != by.name {
            admin(by, "to take somebody else's approval back")?;
        }
        reason(&why, "to take an approval back")?;
        Ok(Says::Revoked(Revoked { request, approver, reason: why }))
    }

    pub(crate) fn promote_order(&self, promote: Promote, by: &Principal, now_ms: u64) -> Result<Says, Refusal> {
        let Promote { id: promotion, model, version, environment, rollout, overriding } = promote;
        let bound = self.bound_known(&model, version, &environment)?;
        let way = rollout.as_ref().map_or(Way::Direct, |rollout| rollout.way);
        let place = self.known_environment(&environment)?;
        let candidate =
            Candidate { version: self.known_version(&model, version)?, environment: place, bound: &bound, way };
        let unmet = self.unmet(&candidate, now_ms);
        let overridden = set_aside(unmet, overriding, by, &format!("{model}@{version} in {environment}"))?;
        let request = self.open_request(&model, version, &environment);
        let evidence = place.policy.metrics.iter().filter_map(|rule| candidate.version.metric(&rule.key()).cloned());
        let held = request.into_iter().flat_map(|request| &request.approvals);
        let held = held.filter(|given| given.holds(now_ms) && given.bound == bound);
        let begun = Begun {
            promotion,
            from: place.current(&model).map(|position| position.version),
            request: request.map(|request| request.id.clone()),
            approvers: held.map(|given| given.by.name.clone()).collect(),
            evidence: evidence.collect(),
            rollout: rollout.clone(),
            model,
            version,
            environment,
            bound,
            overridden,
        };
        Ok(match rollout {
            Some(Rollout { way: Way::Direct, .. }) => {
                let message = "a rollout is a way of its own: expected shadow or canary, or no rollout";
                return Err(Refusal::invalid("rollout", message));
            }
            Some(_) => Says::Begun(begun),
            None => Says::Promoted(begun),
        })
    }

    pub(crate) fn end_order(&self, end: End, by: &Principal, now_ms: u64) -> Result<Says, Refusal> {
        let End { promotion: id, outcome, verdict, reason, overriding } = end;
        let promotion = self.known_under_way(&id)?;
        let overridden = match outcome {
            Ending::Promoted => {
                let what = format!("the end of promotion {id}");
                set_aside(self.unmet_at_end(promotion, now_ms)?, overriding, by, &what)?
            }
            Ending::RolledBack | Ending::Aborted => None,
        };
        Ok(Says::Ended(Ended { promotion: id, outcome, verdict, reason, overridden }))
    }

    /// What has come in the way of a promotion since it began: an approval that was taken back or voided, a quarantine.
    /// What was set aside at its begin stays so, and a freeze does not hold up what is under way.
    pub fn unmet_at_end(&self, promotion: &super::Promotion, now_ms: u64) -> Result<Vec<Need>, Refusal> {
        let super::Promotion { model, version, environment, .. } = promotion;
        let bound = self.bound_known(model, *version, environment)?;
        let way = promotion.rollout.as_ref().map_or(Way::Direct, |rollout| rollout.way);
        let place = self.known_environment(environment)?;
        let candidate =
            Candidate { version: self.known_version(model, *version)?, environment: place, bound: &bound, way };
        let before = promotion.overridden.iter().flat_map(|overridden| &overridden.needed);
        let aside: Vec<_> = before.map(|need| need.rule.as_str()).chain(["freeze"]).collect();
        let unmet = self.unmet(&candidate, now_ms);
        Ok(unmet.into_iter().filter(|need| !aside.contains(&need.rule.as_str())).collect())
    }
}

/// Refuses what is not met, unless an admin sets it aside for a reason.
fn set_aside(
    unmet: Vec<Need>,
    overriding: Option<String>,
    by: &Principal,
    what: &str,
) -> Result<Option<Overridden>, Refusal> {
    if unmet.is_empty() {
        return Ok(None);
    }
    let Some(why) = overriding else { return Err(Refusal::needs(what.to_owned(), unmet)) };
    admin(by, "to set rules aside")?;
    reason(&why, "to set rules aside")?;
    let firm: Vec<Need> = unmet.iter().filter(|need| is_firm(&need.rule)).cloned().collect();
    if firm.is_empty() {
        Ok(Some(Overridden { reason: why, needed: unmet }))
    } else {
        Err(Refusal::needs(what.to_owned(), firm))
    }
}

fn reason(reason: &str, what: &str) -> Result<(), Refusal> {
    if !reason.trim().is_empty() {
        return Ok(());
    }
    Err(Refusal::invalid("reason", format!("{what} needs a reason: expected one, for whoever reads the record")))
}
