//! Which artifacts answered an endpoint's callers, and since when?

use std::ops::RangeBounds;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tiltyard_types::Digest;

use super::forms::maybe_hex;
use super::model::Stamp;
use super::requests::{Promotion, Request};

/// The plan that an endpoint has from now on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Planned {
    /// The endpoint.
    pub endpoint: String,
    /// The revision that holds. A rollback leads to an earlier one.
    pub revision: u64,
    /// Who takes part; nobody where the plan was removed.
    pub arms: Vec<Arm>,
    /// What led to it.
    pub cause: Cause,
    /// The rollout whose step this is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub rollout: String,
    /// The whole plan, for replicas that follow the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<Value>,
}

/// What led to a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Somebody applied it.
    Applied,
    /// Somebody went back to it.
    RolledBack,
    /// A rollout took a step, or ended.
    Rollout,
    /// Its file or somebody took the plan away.
    Removed,
    /// A model without a plan got another newest version.
    Newest,
}

/// A deployment in a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arm {
    /// Its name.
    pub name: String,
    /// The model.
    pub model: String,
    /// The version.
    pub version: u64,
    /// The artifact that answers.
    #[serde(default, with = "maybe_hex", skip_serializing_if = "Option::is_none")]
    pub artifact: Option<Digest>,
    /// The deployment: artifact, configuration and engine.
    #[serde(default, with = "maybe_hex", skip_serializing_if = "Option::is_none")]
    pub deployment: Option<Digest>,
    /// `champion`, `challenger` or `shadow`.
    pub role: String,
    /// Its share of the traffic, in millionths; of a shadow, how much of it it sees.
    pub weight: u32,
}

/// A plan on the record.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// What was planned.
    #[serde(flatten)]
    pub planned: Planned,
    /// Since when it holds, and by whom.
    pub since: Stamp,
}

/// Who answered at a time, and on what grounds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Served<'a> {
    /// The plan that held.
    pub plan: &'a Plan,
    /// When another one followed, in milliseconds since 1970.
    pub until_ms: Option<u64>,
    /// Its arms.
    pub arms: Vec<ServedArm<'a>>,
}

/// An arm with what the record has of its version at that time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ServedArm<'a> {
    /// The arm.
    pub arm: &'a Arm,
    /// Whether the record has this version with this artifact.
    pub is_recorded: bool,
    /// When the version was pushed, and by whom.
    pub pushed: Option<&'a Stamp>,
    /// What had been measured by then.
    pub metrics: Vec<&'a super::model::Measured>,
    /// The promotions that had begun by then, in order.
    pub promotions: Vec<&'a Promotion>,
    /// The requests behind them, with their approvals.
    pub requests: Vec<&'a Request>,
}

/// Those plans of an endpoint whose time lies in `range`, in the order of the log.
pub(crate) fn within(plans: &[Plan], range: impl RangeBounds<u64>) -> impl Iterator<Item = &Plan> {
    plans.iter().filter(move |plan| range.contains(&plan.since.time_ms))
}
