//! Was what stands on the record allowed when it was written?
//!
//! To take an entry in asks whether it makes sense. This asks more: each fact is decided once more, by the same person,
//! at the same time, on the record as it was then. Whoever wrote into the log by another way is found, unless they kept
//! to the rules.

use super::Book;
use super::facts::{Fact, Says};
use super::orders::{Approve, Ask, End, GoBack, Order, Promote, Push, Revoke, Wants};
use super::requests::Overridden;
use crate::Entry;

impl Book {
    /// Why the next entry should not be on the record, before it is taken in: nobody may have said it, or it says
    /// something else than the rules come to. `None` where all is well, and for entries of other kinds.
    pub fn doubt(&self, entry: &Entry) -> Option<String> {
        let fact = match Fact::read(&entry.kind, entry.data.get())? {
            Ok(fact) => fact,
            Err(why) => return Some(format!("entry {}: {why}", entry.sequence)),
        };
        self.doubt_fact(entry.time_ms, &fact).map(|why| format!("entry {}: {why}", entry.sequence))
    }

    fn doubt_fact(&self, time_ms: u64, fact: &Fact) -> Option<String> {
        let order = Order::from(wants(fact.says.clone()));
        let decided = match self.decide(order, &fact.by, time_ms) {
            Ok(decided) => decided,
            Err(refusal) => return Some(format!("{} by {} was not allowed: {refusal}", fact.kind(), fact.by.name)),
        };
        let again = decided.facts.into_iter().next().map(|again| plain(again.says));
        if again.as_ref() == Some(&plain(fact.says.clone())) {
            return None;
        }
        Some(format!("{} by {} is not what the rules come to", fact.kind(), fact.by.name))
    }
}

/// What somebody must have wanted.
fn wants(says: Says) -> Wants {
    let why = |overridden: Option<Overridden>| overridden.map(|overridden| overridden.reason);
    match says {
        Says::Model(set) => Wants::Model(set),
        Says::Version(pushed) => {
            Wants::Push(Push { model: pushed.model, content: pushed.content, number_min: pushed.version })
        }
        Says::Tags(tagged) => Wants::Tags(tagged),
        Says::Described(said) => Wants::Describe(said),
        Says::Metrics(told) => Wants::Measure(told),
        Says::Alias(aliased) => Wants::Alias(aliased),
        Says::State(set) => Wants::State(set),
        Says::Lock(locked) => Wants::Lock(locked),
        Says::Baseline(set) => Wants::Baseline(set),
        Says::Signed(by) => Wants::Signed(by),
        Says::Lineage(told) => Wants::Lineage(told),
        Says::Environment(set) => Wants::Environment(set),
        Says::WentBack(back) => Wants::GoBack(GoBack {
            environment: back.environment,
            model: back.model,
            to: Some(back.to),
            reason: back.reason,
        }),
        Says::Requested(asked) => Wants::Request(Ask {
            id: asked.request,
            model: asked.model,
            version: asked.version,
            environment: asked.environment,
            reason: asked.reason,
        }),
        Says::Approved(approved) => {
            Wants::Approve(Approve { request: approved.request, seen: None, comment: approved.comment })
        }
        Says::Rejected(answered) => Wants::Reject(answered),
        Says::Withdrawn(answered) => Wants::Withdraw(answered),
        Says::Revoked(revoked) => {
            Wants::Revoke(Revoke { request: revoked.request, approver: Some(revoked.approver), reason: revoked.reason })
        }
        Says::Promoted(begun) | Says::Begun(begun) => Wants::Promote(Promote {
            id: begun.promotion,
            model: begun.model,
            version: begun.version,
            environment: begun.environment,
            rollout: begun.rollout,
            overriding: why(begun.overridden),
        }),
        Says::Ended(ended) => Wants::End(End {
            promotion: ended.promotion,
            outcome: ended.outcome,
            verdict: ended.verdict,
            reason: ended.reason,
            overriding: why(ended.overridden),
        }),
        Says::Plan(planned) => Wants::Plan(planned),
        Says::Event(told) => Wants::Event(told.event),
    }
}

/// Without what another release may say in other words, and without the seal, which is made after the decision.
fn plain(mut says: Says) -> Says {
    let overridden = match &mut says {
        Says::Approved(approved) => {
            approved.seal = None;
            return says;
        }
        Says::Promoted(begun) | Says::Begun(begun) => &mut begun.overridden,
        Says::Ended(ended) => &mut ended.overridden,
        _ => return says,
    };
    for need in overridden.iter_mut().flat_map(|overridden| &mut overridden.needed) {
        need.is.clear();
        need.needed.clear();
    }
    says
}
