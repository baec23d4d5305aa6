//! How does a rollout look as JSON?

use serde_json::{Value, json};
use tiltyard_rollout::judge::State;

use super::aim;
use super::record::Rollout;

/// What is told of a rollout beside what its judge knows.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Beside<'a> {
    /// What keeps it from going on.
    pub(super) trouble: Option<&'a str>,
    /// Requests that were not seen.
    pub(super) unseen: u64,
    /// The share of the keys that count.
    pub(super) sampling: f64,
}

/// All that is known.
pub(super) fn of(id: &str, rollout: &Rollout, beside: Beside<'_>) -> Value {
    let Rollout { judge, declared, events, last, went_back, .. } = rollout;
    let plan = judge.plan();
    let arm =
        |arm: &tiltyard_rollout::plan::Arm| json!({ "name": arm.name, "model": arm.model, "version": arm.version });
    let state = judge.state();
    let Beside { trouble, unseen, sampling } = beside;
    json!({
        "rollout": id,
        "endpoint": plan.endpoint,
        "state": name(state),
        "stage": state.stage().map(|stage| stage.to_string()),
        "stands": state.to_string(),
        "ended": state.is_terminal(),
        "went_back_after_promotion": went_back,
        "share": judge.share(),
        "champion": arm(aim::champion(plan)),
        "challenger": arm(aim::challenger(plan)),
        "key": plan.key,
        "steps": plan.steps,
        "policy": plan.policy,
        "salt": plan.salt,
        "declared": declared,
        "units": judge.units(),
        "guardrails": judge.readings(),
        "comparisons": judge.comparisons(),
        "output": judge.shift(),
        "quality": judge.quality(),
        "labelled": judge.labelled(),
        "events": events,
        "blocks": judge.blocks(),
        "verdict": last,
        "trouble": trouble,
        "requests_unseen": unseen,
        "keys_sampled": sampling,
    })
}

/// The state without its stage, as scripts compare it.
fn name(state: State) -> &'static str {
    match state {
        State::Running(_) => "running",
        State::Paused(_) => "paused",
        State::Halted(_) => "halted",
        State::Inconclusive(_) => "inconclusive",
        State::Promoted => "promoted",
        State::RolledBack => "rolled_back",
        State::Futile => "futile",
        State::Aborted => "aborted",
    }
}
