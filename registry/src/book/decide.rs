//! Which facts does an order come to, or who refuses it and why?
//!
//! Who may call at all is the server's to say, by its access file. What is decided here is what the record and its
//! policies ask beyond that.

use super::Book;
use super::environments::Position;
use super::facts::{EventTold, Fact, How, OrderKey, Principal, Pushed, Says, WentBack};
use super::model::{Model, VersionState};
use super::orders::{Decided, GoBack, Order, Outcome, Push, Wants};
use super::refusal::Refusal;
use super::remembered;

impl Book {
    /// Which facts are to be appended, as one group, for an order to be done. A refusal says which rules are in the
    /// way, all of them, and what would satisfy each. Nothing changes here: the book has a fact once it has taken it
    /// from the log.
    pub fn decide(&self, order: Order, by: &Principal, now_ms: u64) -> Result<Decided, Refusal> {
        let Order { key, wants } = order;
        let digest = remembered::digest(&wants);
        if let Some(key) = &key
            && let Some(outcome) = self.remembered.find(key, by, digest)?
        {
            return Ok(Decided { facts: Vec::new(), outcome: outcome.clone(), is_repeat: true });
        }
        if let Wants::Push(push) = &wants
            && let Some(outcome) = self.pushed_before(push)
        {
            return Ok(Decided { facts: Vec::new(), outcome, is_repeat: false });
        }
        let says = self.says(wants, by, now_ms)?;
        let order = key.map(|key| OrderKey { key, order: digest });
        let fact = Fact { by: by.clone(), order, says };
        self.check(&fact)?;
        let outcome = self.outcome(&fact);
        Ok(Decided { facts: vec![fact], outcome, is_repeat: false })
    }

    /// The same bytes are the same version.
    fn pushed_before(&self, push: &Push) -> Option<Outcome> {
        let version = self.with_artifact(&push.model, push.content.artifact)?;
        Some(Outcome::Version { model: push.model.clone(), version: version.number, is_new: false })
    }

    fn says(&self, wants: Wants, by: &Principal, now_ms: u64) -> Result<Says, Refusal> {
        Ok(match wants {
            Wants::Model(set) => Says::Model(set),
            Wants::Push(Push { model, mut content, number_min }) => {
                content.files.sort();
                let version = number_min.max(self.model(&model).map_or(0, Model::last) + 1);
                Says::Version(Pushed { model, version, content })
            }
            Wants::Tags(tagged) => Says::Tags(tagged),
            Wants::Describe(said) => Says::Described(said),
            Wants::Measure(told) => Says::Metrics(told),
            Wants::Alias(aliased) => Says::Alias(aliased),
            Wants::State(set) => {
                if set.state == VersionState::Ready {
                    admin(by, "a release from quarantine")?;
                }
                Says::State(set)
            }
            Wants::Lock(locked) => Says::Lock(locked),
            Wants::Baseline(set) => Says::Baseline(set),
            Wants::Signed(signed) => Says::Signed(signed),
            Wants::Lineage(told) => Says::Lineage(told),
            Wants::Environment(set) => {
                admin(by, "the declaration of an environment")?;
                Says::Environment(set)
            }
            Wants::GoBack(back) => Says::WentBack(self.go_back(back)?),
            Wants::Request(ask) => self.request_order(ask)?,
            Wants::Approve(approve) => self.approve_order(approve, by, now_ms)?,
            Wants::Reject(answered) => self.reject_order(answered, by)?,
            Wants::Withdraw(answered) => self.withdraw_order(answered, by)?,
            Wants::Revoke(revoke) => self.revoke_order(revoke, by)?,
            Wants::Promote(promote) => self.promote_order(promote, by, now_ms)?,
            Wants::End(end) => self.end_order(end, by, now_ms)?,
            Wants::Plan(planned) => Says::Plan(planned),
            Wants::Event(event) => Says::Event(EventTold { event }),
        })
    }

    fn go_back(&self, back: GoBack) -> Result<WentBack, Refusal> {
        let GoBack { environment, model, to, reason } = back;
        let known = self.known_environment(&environment)?;
        self.known_model(&model)?;
        let nothing = |what: &str| {
            let message = format!("{environment} cannot go back: {what}; promote another version");
            Refusal::invalid("position", message)
        };
        let from = known.current(&model).ok_or_else(|| nothing(&format!("it has no version of {model}")))?.version;
        let ready = |position: &&Position| self.is_ready(&model, position.version) && position.version != from;
        let before = || known.earlier(&model).find(ready).map(|position| position.version);
        let to = to
            .or_else(before)
            .ok_or_else(|| nothing(&format!("nothing that is ready was there before {model}@{from}")))?;
        let version = self.known_version(&model, to)?;
        if version.state != VersionState::Ready {
            let earlier = known.positions.get(&model).into_iter().flatten().map(|position| position.version);
            let earlier = earlier.filter(|number| *number != from && self.is_ready(&model, *number));
            let mut earlier: Vec<_> = earlier.map(|number| format!("{model}@{number}")).collect();
            earlier.sort();
            earlier.dedup();
            let of =
                if earlier.is_empty() { "none of those that were there is ready".into() } else { earlier.join(", ") };
            let message = format!("{model}@{to} is {}: expected a version that is ready; {of}", version.state.name());
            return Err(Refusal::forbidden("state", message));
        }
        Ok(WentBack { environment, model, from, to, reason })
    }

    fn is_ready(&self, model: &str, number: u64) -> bool {
        self.version(model, number).is_some_and(|version| version.state == VersionState::Ready)
    }
}

/// Fails where somebody is no admin.
pub(crate) fn admin(by: &Principal, what: &str) -> Result<(), Refusal> {
    known(by, what)?;
    if by.is_admin() {
        return Ok(());
    }
    let message = format!("{what} is for an admin, and {} has {}", by.name, roles(by));
    Err(Refusal::forbidden("role", message))
}

/// Fails where nobody knows who somebody is.
pub(crate) fn known(by: &Principal, what: &str) -> Result<(), Refusal> {
    if by.how != How::Nothing {
        return Ok(());
    }
    let message = format!("{what} needs to know who it is by: expected a caller with a key, a certificate or a token");
    Err(Refusal::forbidden("identity", message))
}

/// What somebody may do, in words.
pub(crate) fn roles(by: &Principal) -> String {
    if by.roles.is_empty() { "no role".into() } else { format!("the role {}", by.roles.join(", ")) }
}
