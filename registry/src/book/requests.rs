//! Who asked for what, who said yes to which bytes, and what came of it?
//!
//! | a request is | while |
//! |---|---|
//! | `requested` | approvals are missing |
//! | `approved` | everybody that the policy names has approved what is there now |
//! | `rejected`, `withdrawn`, `promoted` | for ever: these are ends |
//!
//! An approval is bound to the digests of what was approved. Any change of that voids it, for good: the request is open
//! still, and asks for approval again.

use serde::{Deserialize, Serialize};
use tiltyard_types::Digest;

use super::facts::{Principal, Rollout, Seal};
use super::forms::{digest_of, hex, maybe_hex};
use super::model::{Metric, Stamp};
use super::policy::Policy;
use super::rules::Need;

/// What an approval holds for, exactly.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bound {
    /// The artifact.
    #[serde(with = "hex")]
    pub artifact: Digest,
    /// The model card, with everything that is said of the version.
    #[serde(with = "hex")]
    pub card: Digest,
    /// What drift is measured from.
    #[serde(default, with = "maybe_hex", skip_serializing_if = "Option::is_none")]
    pub baseline: Option<Digest>,
    /// The environment's policy.
    #[serde(with = "hex")]
    pub policy: Digest,
    /// The environment lock.
    #[serde(default, with = "maybe_hex", skip_serializing_if = "Option::is_none")]
    pub lock: Option<Digest>,
}

impl Bound {
    /// One digest of them all: what an approver says to have seen.
    pub fn digest(&self) -> Digest {
        digest_of(self)
    }

    /// The names of those that differ.
    pub fn differences(&self, other: &Bound) -> Vec<&'static str> {
        let all = [
            ("artifact", self.artifact == other.artifact),
            ("card", self.card == other.card),
            ("baseline", self.baseline == other.baseline),
            ("policy", self.policy == other.policy),
            ("lock", self.lock == other.lock),
        ];
        all.into_iter().filter(|(_, is_same)| !is_same).map(|(name, _)| name).collect()
    }
}

/// A request for a version to be in an environment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Request {
    /// Its id.
    pub id: String,
    /// The model.
    pub model: String,
    /// The version.
    pub version: u64,
    /// The environment.
    pub environment: String,
    /// Why, in the words of who asks.
    pub reason: String,
    /// What was there when it was asked for.
    pub bound: Bound,
    /// When, and by whom.
    pub asked: Stamp,
    /// What was said to it, in order.
    pub approvals: Vec<Approval>,
    /// How it ended.
    pub end: Option<RequestEnd>,
}

/// Where a request stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RequestState {
    /// Approvals are missing.
    Requested,
    /// They are all there.
    Approved,
    /// Somebody said no.
    Rejected,
    /// Whoever asked does not ask any more.
    Withdrawn,
    /// The version is, or was, in the environment.
    Promoted,
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RequestEnd {
    /// In which way.
    pub state: RequestState,
    /// Why, or by which promotion.
    pub reason: String,
    /// When, and by whom.
    pub at: Stamp,
}

/// Somebody's yes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Approval {
    /// Who, as the server knew them.
    pub by: Principal,
    /// To what.
    pub bound: Bound,
    /// What they said.
    pub comment: String,
    /// When.
    pub at: Stamp,
    /// Until when it holds, in milliseconds since 1970.
    pub expires_ms: Option<u64>,
    /// The server's signature of it.
    pub seal: Option<Seal>,
    /// Why it does not count any more.
    pub void: Option<Void>,
}

/// Why an approval does not count any more. It never does again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Void {
    /// What changed: `card`, `policy`, `lock`, `baseline`, `state`; or `revoked`.
    pub what: String,
    /// In words.
    pub why: String,
    /// When, and by whom.
    pub at: Stamp,
}

impl Approval {
    /// Whether it counts at a moment.
    pub fn holds(&self, now_ms: u64) -> bool {
        self.void.is_none() && self.expires_ms.is_none_or(|expires| now_ms < expires)
    }
}

impl Request {
    /// Whether it has not ended.
    pub fn is_open(&self) -> bool {
        self.end.is_none()
    }

    /// Where it stands at a moment under its environment's policy.
    pub fn state(&self, policy: &Policy, now_ms: u64) -> RequestState {
        if let Some(end) = &self.end {
            return end.state;
        }
        let is_enough = policy.approvals.iter().all(|group| {
            let of = self.approvals.iter().filter(|approval| approval.holds(now_ms));
            let of = of.filter(|approval| group.has(&approval.by.name, &approval.by.roles));
            of.count() as u64 >= group.required
        });
        if is_enough { RequestState::Approved } else { RequestState::Requested }
    }
}

/// The way of a version into an environment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Promotion {
    /// Its id.
    pub id: String,
    /// The model.
    pub model: String,
    /// The version.
    pub version: u64,
    /// The environment.
    pub environment: String,
    /// The version that was there.
    pub from: Option<u64>,
    /// The request that it answers.
    pub request: Option<String>,
    /// The rollout by which it comes.
    pub rollout: Option<Rollout>,
    /// What it holds for.
    pub bound: Bound,
    /// Who had approved, when it began.
    pub approvers: Vec<String>,
    /// The measurements that the policy asked for, as they were when it began.
    pub evidence: Vec<Metric>,
    /// The rules that an admin set aside, and why.
    pub overridden: Option<Overridden>,
    /// When it began, and by whom.
    pub begun: Stamp,
    /// How it ended.
    pub end: Option<PromotionEnd>,
}

/// Rules that were set aside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Overridden {
    /// Why, in the words of the admin.
    pub reason: String,
    /// What was not as it should have been.
    pub needed: Vec<Need>,
}

/// How a promotion ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PromotionEnd {
    /// In which way.
    pub outcome: Ending,
    /// The sequence of the entry that holds the rollout's last verdict.
    pub verdict: Option<u64>,
    /// Why, in words.
    pub reason: String,
    /// The rules that an admin set aside for this end, and why.
    pub overridden: Option<Overridden>,
    /// When, and by whom.
    pub at: Stamp,
}

/// In which ways a promotion ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// The version is in the environment.
    Promoted,
    /// It did harm, and what was there before still is.
    RolledBack,
    /// It came to nothing else: futile, or ended by a person.
    Aborted,
}

impl Ending {
    /// The name in facts and tables.
    pub const fn name(self) -> &'static str {
        match self {
            Ending::Promoted => "promoted",
            Ending::RolledBack => "rolled_back",
            Ending::Aborted => "aborted",
        }
    }
}

impl RequestState {
    /// The name in facts and tables.
    pub const fn name(self) -> &'static str {
        match self {
            RequestState::Requested => "requested",
            RequestState::Approved => "approved",
            RequestState::Rejected => "rejected",
            RequestState::Withdrawn => "withdrawn",
            RequestState::Promoted => "promoted",
        }
    }
}
