//! What must be true before a version may be in an environment?
//!
//! A policy is what an environment asks. Everything left out asks nothing: an environment without a policy takes what
//! whoever may promote promotes. People write it in TOML, and it is on the record as JSON of the same form, whose
//! SHA-256 is the policy's digest: approvals are bound to it.

use serde::{Deserialize, Serialize};
use tiltyard_types::Digest;

use super::forms::digest_of;
use super::model::MetricKey;
use super::moments::{Instant, Span, TimeOfDay, Weekday, day_begins_ms, day_ms};

/// What an environment asks of a version.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// Who must have approved. Each group on its own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub approvals: Vec<Approvers>,
    /// Whether who pushed the version, or asks for the promotion, may approve it too.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub author_may_approve: bool,
    /// How long an approval holds; for ever where nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approval_holds: Option<Span>,
    /// What must have been measured, and how well.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub metrics: Vec<RequiredMetric>,
    /// Golden examples in the artifact, at least.
    #[serde(skip_serializing_if = "is_zero")]
    pub golden_min: u64,
    /// Whether a baseline for drift must be there that is not provisional.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub baseline: bool,
    /// Whether the artifact must bear a signature that was verified.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub signed: bool,
    /// Whether the environment lock must be there: engine, its build and provider.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub lock: bool,
    /// Characters of the model card's text, at least.
    #[serde(skip_serializing_if = "is_zero")]
    pub card_chars_min: u64,
    /// For how long the version must be in the environment below, at least.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub below: Option<Span>,
    /// When nothing is promoted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub freeze: Vec<Freeze>,
    /// By which kind of rollout it must come.
    #[serde(skip_serializing_if = "Way::is_direct")]
    pub rollout: Way,
}

impl Policy {
    /// SHA-256 of its JSON.
    pub fn digest(&self) -> Digest {
        digest_of(self)
    }
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A group of people of whom some must approve: `required` of those with one of the roles or of the names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Approvers {
    /// How many of them. One person counts once.
    pub required: u64,
    /// Any of these roles. Without roles and persons: `approver` and `admin`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
    /// Any of these names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub persons: Vec<String>,
}

impl Approvers {
    /// Whether somebody is of the group.
    pub fn has(&self, name: &str, roles: &[String]) -> bool {
        let of = |role: &str| match self.roles.is_empty() && self.persons.is_empty() {
            true => role == "approver" || role == "admin",
            false => self.roles.iter().any(|of| of == role),
        };
        self.persons.iter().any(|person| person == name) || roles.iter().any(|role| of(role))
    }

    /// Who that is, in words.
    pub fn words(&self) -> String {
        if self.roles.is_empty() && self.persons.is_empty() {
            return "anybody with the role approver or admin".into();
        }
        let roles = self.roles.iter().map(|role| format!("anybody with the role {role}"));
        roles.chain(self.persons.iter().cloned()).collect::<Vec<_>>().join(", ")
    }
}

/// Which direction of a metric is good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Better {
    /// More is better.
    #[default]
    Higher,
    /// Less is better.
    Lower,
}

/// A measurement that must be there, and how good it must be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequiredMetric {
    /// The metric.
    pub metric: String,
    /// The dataset's digest or name, as the measurement has it.
    pub dataset: String,
    /// The slice; all of the dataset where nothing is said.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub slice: String,
    /// Which direction is good.
    #[serde(default)]
    pub better: Better,
    /// The least good value that passes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound: Option<f64>,
    /// By how much it may be worse than what is in the environment now, measured on the same data. Below 0: by how much
    /// it must be better. The first version in an environment has nothing to be compared with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worse_by_max: Option<f64>,
    /// Whether the bound holds for the worse end of the interval, which must then be there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_interval: bool,
}

impl RequiredMetric {
    /// Which measurement it is.
    pub fn key(&self) -> MetricKey {
        MetricKey { dataset: self.dataset.clone(), slice: self.slice.clone(), metric: self.metric.clone() }
    }
}

/// A time in which nothing is promoted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Freeze {
    /// Each week, on these days.
    Weekly {
        /// The days on which it begins.
        days: Vec<Weekday>,
        /// When it begins on each, UTC.
        from: TimeOfDay,
        /// When it ends. Not after `from`: on the next day.
        to: TimeOfDay,
        /// Why, for whoever is refused.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        reason: String,
    },
    /// Once.
    Once {
        /// When it begins.
        from: Instant,
        /// When it ends.
        to: Instant,
        /// Why, for whoever is refused.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        reason: String,
    },
}

impl Freeze {
    /// When the window that `now_ms` lies in ends; none where it lies in none.
    pub fn ends(&self, now_ms: u64) -> Option<Instant> {
        match self {
            Freeze::Once { from, to, .. } => (from.0 <= now_ms && now_ms < to.0).then_some(*to),
            Freeze::Weekly { days, from, to, .. } => {
                let (today, time) = (day_begins_ms(now_ms), now_ms - day_begins_ms(now_ms));
                let (from, to) = (from.into_day_ms(), to.into_day_ms());
                let day = Weekday::of(now_ms);
                let wraps = to <= from;
                if days.contains(&day) && time >= from && (wraps || time < to) {
                    let end = if wraps { day_ms() + to } else { to };
                    return Some(Instant(today.saturating_add(end)));
                }
                (wraps && days.contains(&day.before()) && time < to).then(|| Instant(today.saturating_add(to)))
            }
        }
    }

    /// Why it is frozen.
    pub fn reason(&self) -> &str {
        let (Freeze::Weekly { reason, .. } | Freeze::Once { reason, .. }) = self;
        reason
    }
}

/// How a version comes into an environment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// At once.
    #[default]
    Direct,
    /// By a rollout that has at least compared it as a shadow.
    Shadow,
    /// By a rollout in which it answered a share of the traffic.
    Canary,
}

impl Way {
    fn is_direct(&self) -> bool {
        *self == Way::Direct
    }

    /// The name in facts and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Way::Direct => "direct",
            Way::Shadow => "shadow",
            Way::Canary => "canary",
        }
    }
}
