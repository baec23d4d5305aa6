//! What changes with a fact about a request or a promotion, and which approvals does a change void?

use super::Book;
use super::facts::{Approved, Begun, Ended, Principal, Says};
use super::model::Stamp;
use super::requests::{Approval, Ending, Promotion, PromotionEnd, Request, RequestEnd, RequestState, Void};

impl Book {
    /// Takes in a fact about a request or a promotion.
    pub(crate) fn commit_request(&mut self, at: &Stamp, by: &Principal, says: &Says) {
        match says {
            Says::Requested(asked) => {
                let asked = asked.clone();
                self.open.entry(asked.model.clone()).or_default().insert(asked.request.clone());
                let request = Request {
                    id: asked.request.clone(),
                    model: asked.model,
                    version: asked.version,
                    environment: asked.environment,
                    reason: asked.reason,
                    bound: asked.bound,
                    asked: at.clone(),
                    approvals: Vec::new(),
                    end: None,
                };
                self.requests.insert(asked.request, request);
            }
            Says::Approved(approved) => self.commit_approved(at, by, approved),
            Says::Rejected(answered) => {
                self.end_request(at, &answered.request, RequestState::Rejected, &answered.reason);
            }
            Says::Withdrawn(answered) => {
                self.end_request(at, &answered.request, RequestState::Withdrawn, &answered.reason);
            }
            Says::Revoked(revoked) => {
                let Some(request) = self.requests.get_mut(&revoked.request) else { return };
                let of = request.approvals.iter_mut().filter(|given| given.by.name == revoked.approver);
                let why = if revoked.reason.is_empty() { "it was taken back" } else { &revoked.reason };
                of.for_each(|given| void(given, at, "revoked", why));
            }
            Says::Promoted(begun) => {
                self.commit_begun(at, begun);
                self.end_promotion(at, &Ended::well(&begun.promotion));
            }
            Says::Begun(begun) => self.commit_begun(at, begun),
            Says::Ended(ended) => self.end_promotion(at, ended),
            _ => {}
        }
    }

    fn commit_approved(&mut self, at: &Stamp, by: &Principal, approved: &Approved) {
        let Some(request) = self.requests.get_mut(&approved.request) else { return };
        // A person's later approval takes the place of an earlier one: nobody counts twice.
        let earlier = request.approvals.iter_mut().filter(|given| given.by.name == by.name);
        earlier.for_each(|given| void(given, at, "repeated", "it was given again"));
        request.approvals.push(Approval {
            by: by.clone(),
            bound: approved.bound.clone(),
            comment: approved.comment.clone(),
            at: at.clone(),
            expires_ms: approved.expires_ms,
            seal: approved.seal.clone(),
            void: None,
        });
    }

    fn commit_begun(&mut self, at: &Stamp, begun: &Begun) {
        let begun = begun.clone();
        self.under_way.insert((begun.environment.clone(), begun.model.clone()), begun.promotion.clone());
        let promotion = Promotion {
            id: begun.promotion.clone(),
            model: begun.model,
            version: begun.version,
            environment: begun.environment,
            from: begun.from,
            request: begun.request,
            rollout: begun.rollout,
            bound: begun.bound,
            approvers: begun.approvers,
            evidence: begun.evidence,
            overridden: begun.overridden,
            begun: at.clone(),
            end: None,
        };
        self.promotions.insert(begun.promotion, promotion);
    }

    fn end_promotion(&mut self, at: &Stamp, ended: &Ended) {
        let Ended { promotion: id, outcome, verdict, .. } = ended;
        let Some(promotion) = self.promotions.get_mut(id) else { return };
        let (reason, overridden) = (ended.reason.clone(), ended.overridden.clone());
        promotion.end = Some(PromotionEnd { outcome: *outcome, verdict: *verdict, reason, overridden, at: at.clone() });
        let Promotion { model, version, environment, .. } = promotion.clone();
        self.under_way.remove(&(environment.clone(), model.clone()));
        match outcome {
            Ending::Promoted => {
                self.place(at, &environment, &model, version, id);
                let open = self.open_of(&model, Some(version), Some(&environment));
                let reason = format!("promotion {id}");
                open.iter().for_each(|request| self.end_request(at, request, RequestState::Promoted, &reason));
            }
            // Who said yes did not know of the harm.
            Ending::RolledBack => {
                self.void(at, &model, Some(version), "rolled_back", &format!("promotion {id} was rolled back"));
            }
            Ending::Aborted => {}
        }
    }

    /// Ends a request.
    pub(crate) fn end_request(&mut self, at: &Stamp, id: &str, state: RequestState, reason: &str) {
        let Some(request) = self.requests.get_mut(id) else { return };
        request.end = Some(RequestEnd { state, reason: reason.into(), at: at.clone() });
        if let Some(open) = self.open.get_mut(&request.model) {
            open.remove(id);
        }
    }

    /// The ids of open requests of a model; of one version or environment, where that is said.
    pub(crate) fn open_of(&self, model: &str, number: Option<u64>, environment: Option<&str>) -> Vec<String> {
        let open = self.open.get(model).into_iter().flatten().filter_map(|id| self.requests.get(id));
        let open = open.filter(|request| number.is_none_or(|number| number == request.version));
        let open = open.filter(|request| environment.is_none_or(|environment| environment == request.environment));
        open.map(|request| request.id.clone()).collect()
    }

    /// Voids all approvals of a version, or of all versions of a model.
    pub(crate) fn void(&mut self, at: &Stamp, model: &str, number: Option<u64>, what: &str, why: &str) {
        for id in self.open_of(model, number, None) {
            self.void_request(at, &id, what, why);
        }
    }

    /// Voids all approvals for an environment, whose policy has changed.
    pub(crate) fn void_in(&mut self, at: &Stamp, environment: &str) {
        let open: Vec<String> = self.open.values().flatten().cloned().collect();
        for id in open {
            if self.requests.get(&id).is_some_and(|request| request.environment == environment) {
                self.void_request(at, &id, "policy", &format!("the policy of {environment} changed"));
            }
        }
    }

    fn void_request(&mut self, at: &Stamp, id: &str, what: &str, why: &str) {
        let Some(request) = self.requests.get_mut(id) else { return };
        request.approvals.iter_mut().for_each(|given| void(given, at, what, why));
    }
}

/// What is void stays so, for the first reason that there was.
fn void(given: &mut Approval, at: &Stamp, what: &str, why: &str) {
    given.void.get_or_insert_with(|| Void { what: what.into(), why: format!("{why}, by {}", at.by), at: at.clone() });
}
