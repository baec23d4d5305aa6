//! Can this fact about a request or a promotion follow those that are on the record?

use super::Book;
use super::facts::{Approved, Begun, Ended, Principal, Requested, Revoked, Says};
use super::limits::{self, at_most, line, name};
use super::model::VersionState;
use super::refusal::Refusal;
use super::requests::{Overridden, Promotion, Request};

type Checked = Result<(), Refusal>;

impl Book {
    /// Fails, saying why, where a fact about a request or a promotion cannot follow.
    pub(crate) fn check_request_facts(&self, by: &Principal, says: &Says) -> Checked {
        match says {
            Says::Requested(asked) => self.check_requested(asked),
            Says::Approved(approved) => self.check_approved(by, approved),
            Says::Rejected(answered) | Says::Withdrawn(answered) => {
                self.known_open(&answered.request)?;
                line("reason", &answered.reason)
            }
            Says::Revoked(revoked) => self.check_revoked(revoked),
            Says::Promoted(begun) | Says::Begun(begun) => {
                if matches!(says, Says::Begun(_)) != begun.rollout.is_some() {
                    let message =
                        "a promotion by a rollout begins, and one without is made: the entry has neither form";
                    return Err(Refusal::invalid("rollout", message));
                }
                self.check_begun(begun)
            }
            Says::Ended(ended) => self.check_ended(ended),
            // All else was looked at before.
            _ => Ok(()),
        }
    }

    /// The request, or who has not heard of it.
    pub(crate) fn known_request(&self, id: &str) -> Result<&Request, Refusal> {
        self.request(id).ok_or_else(|| Refusal::unknown("request", format!("no request {id:?} is on record")))
    }

    /// The request, if it has not ended.
    pub(crate) fn known_open(&self, id: &str) -> Result<&Request, Refusal> {
        let request = self.known_request(id)?;
        let Some(end) = &request.end else { return Ok(request) };
        let Request { model, version, environment, .. } = request;
        let message = format!(
            "the request {id} is {} since entry {}: ask anew for {model}@{version} in {environment}",
            end.state.name(),
            end.at.sequence
        );
        Err(Refusal::invalid("ended", message))
    }

    /// The promotion, if it has not ended.
    pub(crate) fn known_under_way(&self, id: &str) -> Result<&Promotion, Refusal> {
        let unknown = || Refusal::unknown("promotion", format!("no promotion {id:?} is on record"));
        let promotion = self.promotion(id).ok_or_else(unknown)?;
        let Some(end) = &promotion.end else { return Ok(promotion) };
        let message =
            format!("the promotion {id} is {} since entry {}: it has ended", end.outcome.name(), end.at.sequence);
        Err(Refusal::invalid("ended", message))
    }

    fn check_requested(&self, asked: &Requested) -> Checked {
        let Requested { request: id, model, version, environment, reason, .. } = asked;
        name("request", id)?;
        line("reason", reason)?;
        if self.requests.contains_key(id) {
            return Err(Refusal::invalid("request", format!("the id {id} is another request's: expected a new one")));
        }
        self.check_ready(model, *version)?;
        self.known_environment(environment)?;
        self.check_elsewhere(model, *version, environment)?;
        if let Some(open) = self.open_request(model, *version, environment) {
            let message = format!(
                "{model}@{version} is asked for in {environment} already, by {}: approve, reject or withdraw {}",
                open.asked.by, open.id
            );
            return Err(Refusal::invalid("request", message));
        }
        at_most("open requests", self.open.get(model).map_or(0, |open| open.len()) + 1, limits::OPEN_MAX)
    }

    /// Fails where a version is not ready to go anywhere.
    fn check_ready(&self, model: &str, number: u64) -> Checked {
        let version = self.known_version(model, number)?;
        if version.state == VersionState::Ready {
            return Ok(());
        }
        let why = if version.reason.is_empty() { String::new() } else { format!(" ({})", version.reason) };
        let message = format!("{model}@{number} is {}{why}: expected a version that is ready", version.state.name());
        Err(Refusal::invalid("state", message))
    }

    /// Fails where a version is in an environment already.
    fn check_elsewhere(&self, model: &str, number: u64, environment: &str) -> Checked {
        let here = self.environment(environment).and_then(|environment| environment.current(model));
        match here.filter(|position| position.version == number) {
            None => Ok(()),
            Some(position) => {
                let message = format!("{model}@{number} is in {environment} since entry {}", position.since.sequence);
                Err(Refusal::invalid("position", message))
            }
        }
    }

    fn check_approved(&self, by: &Principal, approved: &Approved) -> Checked {
        let request = self.known_open(&approved.request)?;
        self.check_ready(&request.model, request.version)?;
        line("comment", &approved.comment)?;
        if let Some(seal) = &approved.seal {
            line("seal", &seal.key)?;
            line("seal", &seal.signature)?;
        }
        // One that has expired may be given again; the fold knows no time, and lets the later one stand beside it.
        at_most("approvals", request.approvals.len() + 1, limits::APPROVALS_MAX)?;
        line("person", &by.name)
    }

    fn check_revoked(&self, revoked: &Revoked) -> Checked {
        let request = self.known_open(&revoked.request)?;
        line("reason", &revoked.reason)?;
        if request.approvals.iter().any(|given| given.void.is_none() && given.by.name == revoked.approver) {
            return Ok(());
        }
        let message =
            format!("{} has no approval in request {} that could be taken back", revoked.approver, request.id);
        Err(Refusal::unknown("approval", message))
    }

    fn check_begun(&self, begun: &Begun) -> Checked {
        let Begun { promotion: id, model, version, environment, from, request, .. } = begun;
        name("promotion", id)?;
        if self.promotions.contains_key(id) {
            return Err(Refusal::invalid(
                "promotion",
                format!("the id {id} is another promotion's: expected a new one"),
            ));
        }
        self.check_ready(model, *version)?;
        let known = self.known_environment(environment)?;
        self.check_elsewhere(model, *version, environment)?;
        if known.current(model).map(|position| position.version) != *from {
            let message = format!("{environment} does not have {} of {model}, as the promotion says", words(*from));
            return Err(Refusal::invalid("position", message));
        }
        if let Some(other) = self.under_way(environment, model) {
            let message = format!(
                "{model}@{} is on its way to {environment} since entry {}, by promotion {}: end that one first",
                other.version, other.begun.sequence, other.id
            );
            return Err(Refusal::invalid("under_way", message));
        }
        if let Some(id) = request {
            let open = self.known_open(id)?;
            if (&open.model, open.version, &open.environment) != (model, *version, environment) {
                return Err(Refusal::invalid("request", format!("the request {id} is for something else")));
            }
        }
        if let Some(rollout) = &begun.rollout {
            name("rollout", &rollout.id)?;
        }
        at_most("approvers", begun.approvers.len(), limits::APPROVALS_MAX)?;
        at_most("evidence", begun.evidence.len(), limits::RULES_MAX)?;
        check_overridden(begun.overridden.as_ref())
    }

    fn check_ended(&self, ended: &Ended) -> Checked {
        let promotion = self.known_under_way(&ended.promotion)?;
        line("reason", &ended.reason)?;
        if ended.outcome == super::requests::Ending::Promoted {
            self.check_ready(&promotion.model, promotion.version)?;
        }
        check_overridden(ended.overridden.as_ref())
    }
}

fn check_overridden(overridden: Option<&Overridden>) -> Checked {
    let Some(overridden) = overridden else { return Ok(()) };
    line("reason", &overridden.reason)?;
    at_most("rules", overridden.needed.len(), limits::RULES_MAX * 4)
}

fn words(version: Option<u64>) -> String {
    version.map_or("no version".into(), |version| format!("version {version}"))
}
