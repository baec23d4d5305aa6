//! What did an endpoint's plan go back to, by what the log says?
//!
//! Replicas that share a log number their revisions each for itself, and one that was away has fewer of them. What all know
//! is the log: who rolls back is answered the same by any of them. As with a process's own revisions, a plan that was gone back
//! from is forgotten, so that a second rollback goes further back; what a rollout made on its way is nothing to go back to.

use tiltyard_rollout::plan::Plan;

use super::aim;

/// Plans of one endpoint that are remembered.
const PLANS_MAX: usize = 16;

/// What held for an endpoint, as far as one may go back.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Past {
    /// The oldest first; the last one holds, or held until it was removed.
    plans: Vec<Plan>,
    is_removed: bool,
}

impl Past {
    /// From now on this holds.
    pub fn holds(&mut self, plan: &Plan) {
        self.is_removed = false;
        let plan = settled(plan);
        if self.plans.last() != Some(&plan) {
            self.plans.push(plan);
            let spare = self.plans.len().saturating_sub(PLANS_MAX);
            self.plans.drain(..spare);
        }
    }

    /// From now on this holds again, and what came after it is forgotten.
    pub fn went_back(&mut self, plan: &Plan) {
        let plan = settled(plan);
        // Two may have asked for the same at once.
        if std::mem::take(&mut self.is_removed) || self.plans.last() != Some(&plan) {
            match self.plans.iter().rposition(|known| *known == plan) {
                Some(place) => self.plans.truncate(place + 1),
                None => self.holds(&plan),
            }
        }
    }

    /// Whether nothing is known of it.
    pub fn is_empty(&self) -> bool {
        self.plans.is_empty()
    }

    /// The latest plan that may hold, what holds now among them.
    pub fn latest(&self, may_hold: impl Fn(&Plan) -> bool) -> Option<&Plan> {
        self.plans.iter().rev().find(|plan| may_hold(plan))
    }

    /// None holds any more.
    pub fn removed(&mut self) {
        self.is_removed = true;
    }

    /// What a rollback leads to.
    pub fn before(&self) -> Option<&Plan> {
        let after = if self.is_removed { 1 } else { 2 };
        self.plans.get(self.plans.len().checked_sub(after)?)
    }

    /// Whether this is what holds by the log.
    pub fn is_now(&self, plan: Option<&Plan>) -> bool {
        match plan {
            Some(plan) => !self.is_removed && self.plans.last() == Some(&settled(plan)),
            None => self.is_removed,
        }
    }
}

/// What a plan says to whoever asks, whatever its number is and whether it is watched still.
fn settled(plan: &Plan) -> Plan {
    Plan { watched: false, ..aim::draft(plan.clone()) }
}

#[cfg(test)]
mod tests {
    use tiltyard_rollout::plan::{Arm, KeySource, Policy, Role};

    use super::*;

    fn plan(version: u64) -> Plan {
        let arm = Arm { name: "champion".into(), model: "risk".into(), version, digest: None, role: Role::Champion };
        Plan {
            endpoint: "risk".into(),
            revision: version,
            arms: vec![arm],
            key: KeySource::PerRequest,
            salt: "risk".into(),
            headers: Vec::new(),
            steps: Vec::new(),
            policy: Policy::default(),
            watched: false,
        }
    }

    fn version(plan: Option<&Plan>) -> Option<u64> {
        plan.map(|plan| plan.arms[0].version)
    }

    #[test]
    fn each_rollback_goes_further_back() {
        let mut past = Past::default();
        assert_eq!(past.before(), None);
        (1..=3).for_each(|version| past.holds(&plan(version)));
        for expected in [2, 1] {
            assert_eq!(version(past.before()), Some(expected));
            past.went_back(&plan(expected));
        }
        assert_eq!(past.before(), None);
        assert!(past.is_now(Some(&plan(1))) && !past.is_now(Some(&plan(2))) && !past.is_now(None));
        // Who applies an older plan by hand does not go back.
        past.holds(&plan(2));
        past.holds(&plan(1));
        assert_eq!(version(past.before()), Some(2));
    }

    #[test]
    fn what_holds_already_or_is_watched_is_no_news() {
        let mut past = Past::default();
        past.holds(&plan(1));
        past.holds(&Plan { watched: true, revision: 9, ..plan(1) });
        assert_eq!(past.before(), None);
    }

    #[test]
    fn what_was_removed_comes_back() {
        let mut past = Past::default();
        past.holds(&plan(1));
        past.holds(&plan(2));
        past.removed();
        assert!(past.is_now(None));
        assert_eq!(version(past.before()), Some(2));
        past.went_back(&plan(2));
        assert_eq!(version(past.before()), Some(1));
    }

    #[test]
    fn a_named_plan_may_be_further_back_or_unknown() {
        let mut past = Past::default();
        (1..=4).for_each(|version| past.holds(&plan(version)));
        past.went_back(&plan(2));
        assert_eq!(version(past.before()), Some(1));
        past.went_back(&plan(7));
        assert!(past.is_now(Some(&plan(7))));
        assert_eq!(version(past.before()), Some(2));
    }

    #[test]
    fn the_same_rollback_twice_is_one() {
        let mut past = Past::default();
        (1..=3).for_each(|version| past.holds(&plan(version)));
        past.went_back(&plan(2));
        past.went_back(&plan(2));
        assert_eq!(version(past.before()), Some(1));
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let mut past = Past::default();
        (1..=100).for_each(|version| past.holds(&plan(version)));
        assert_eq!((past.plans.len(), version(past.before())), (PLANS_MAX, Some(99)));
    }
}
