//! Does a challenger wait while its endpoint is asked what its models were not made for?
//!
//! A rollout of an endpoint whose inputs have a baseline gets the gate `drift` before its promotion, as part of its plan. The rollouts'
//! thread answers for it: no while inputs of the champion or of the challenger are in ALERT, and yes else. Each change is an event on the
//! record, with why. What a person answers holds to the rollout's end: so somebody can promote all the same, and that is on the record too.

use serde_json::{Value, json};
use tiltyard_drift::alarm::Level;
use tiltyard_rollout::judge::Event;
use tiltyard_rollout::plan::{Arm, Plan};

use super::driver::Driver;
use super::record::{Answer, Rollout};
use crate::catalog::Catalog;
use crate::clock;
use crate::infer::Inference;

/// The gate's name.
pub(crate) const GATE: &str = "drift";

/// Who answers where no person did.
const NOBODY: &str = "tiltyard";

/// Characters of why that go on the record.
const WHY_MAX: usize = 500;

/// Has a rollout wait for the drift of its endpoint's inputs, where these have a baseline.
pub(super) fn guard(plan: &mut Plan, inference: &Inference) {
    let catalog = inference.catalog.load();
    let deployment = |arm: &Arm| catalog.models.get(&arm.model)?.versions.get(&arm.version)?.deployment.as_ref();
    let is_watched =
        plan.arms.iter().filter_map(deployment).any(|deployment| inference.drifts.has_baseline(deployment));
    let is_there = plan.policy.gates.iter().any(|gate| gate == GATE);
    if !plan.steps.is_empty() && !is_there && is_watched {
        plan.policy.gates.push(GATE.to_owned());
    }
}

/// Why an endpoint's inputs are in ALERT; `Some(None)` where they are not, and `None` where nothing watches them.
fn stands(catalog: &Catalog, endpoint: &str) -> Option<Option<String>> {
    let arms = catalog.arms().filter(|arm| arm.endpoint == endpoint);
    let inputs = arms.filter_map(|arm| Some((arm.version.clone(), arm.watched.get()?.as_ref()?.inputs()?)));
    let mut found = None;
    for (version, (level, why)) in inputs {
        let held = (level == Level::Alert).then(|| format!("inputs of version {version} are in ALERT: {why}"));
        found = Some(found.flatten().or(held));
    }
    found
}

/// What a person answered, with who that was.
pub(super) fn signed(gate: &str, by: &str, evidence: Option<String>) -> Option<String> {
    evidence.or_else(|| (gate == GATE).then(|| json!({ "by": by }).to_string()))
}

/// What is to be answered for the gate: whether it lets through, and on what that rests. `None` where that was said already, or a person
/// has spoken.
fn answer(said: Option<&Answer>, held: Option<&str>) -> Option<(bool, String)> {
    let passed = held.is_none();
    if let Some((said, evidence)) = said {
        let evidence: Value = evidence.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        if *said == passed || evidence["by"] != NOBODY {
            return None;
        }
    }
    let why: String = held.unwrap_or("inputs are not in ALERT").chars().take(WHY_MAX).collect();
    Some((passed, json!({ "by": NOBODY, "why": why }).to_string()))
}

fn waits(rollout: &Rollout) -> bool {
    let judge = &rollout.judge;
    !judge.state().is_terminal() && judge.plan().policy.gates.iter().any(|gate| gate == GATE)
}

/// Why a rollout is held; none where it is not.
pub(super) fn why(rollout: &Rollout) -> Option<String> {
    let (passed, evidence) = rollout.said(GATE).filter(|_| waits(rollout))?;
    let evidence: Value = serde_json::from_str(evidence.as_deref()?).ok()?;
    (!passed).then(|| evidence["why"].as_str().unwrap_or("a person refused the gate drift").to_owned())
}

impl Driver {
    /// Answers for the gate, where that changes anything.
    pub(super) fn hold(&mut self, endpoint: &str) {
        let Some(rollout) = self.rollout(endpoint).filter(|rollout| waits(rollout)) else { return };
        let held = stands(&self.inference.catalog.load(), endpoint).flatten();
        let Some((passed, evidence)) = answer(rollout.said(GATE), held.as_deref()) else { return };
        if let Some(why) = held {
            tracing::warn!(endpoint, why, "the rollout waits before its promotion");
        }
        let (time_ms, gate) = (clock::unix_ms(), GATE.to_owned());
        // Where the log cannot take it, nobody is promoted either.
        drop(self.feed(endpoint, Event::Gate { time_ms, gate, passed, evidence: Some(evidence) }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_is_answered_when_that_changes_until_a_person_speaks() {
        let (passed, evidence) = answer(None, None).expect("an answer");
        assert!(passed);
        let ours = (passed, Some(evidence));
        assert_eq!(answer(Some(&ours), None), None, "it was said");
        let (passed, evidence) = answer(Some(&ours), Some("age moved")).expect("a change");
        assert!(!passed && evidence.contains("age moved"));
        let ours = (passed, Some(evidence));
        assert!(answer(Some(&ours), None).expect("it is over").0);
        let persons = (true, signed(GATE, "ada", None));
        assert!(persons.1.as_ref().is_some_and(|evidence| evidence.contains("ada")));
        assert_eq!(answer(Some(&persons), Some("age moved")), None, "a person said so");
        assert_eq!(signed("other", "ada", None), None);
        assert_eq!(signed(GATE, "ada", Some("a report".into())), Some("a report".into()));
        assert_eq!(answer(Some(&(true, Some("a report".into()))), Some("age moved")), None);
    }
}
