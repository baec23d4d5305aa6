//! What may be asked of the book?

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tiltyard_types::Digest;

use super::endpoints::Planned;
use super::facts::{
    Aliased, Answered, BaselineSet, Content, Described, EnvironmentSet, Fact, LineageTold, Locked, MetricsTold,
    ModelSet, Rollout, SignedBy, StateSet, Tagged,
};
use super::forms::{hex, maybe_hex};
use super::requests::Ending;

/// Something that somebody wants done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// Chosen by the caller, so that the same order twice is done once: the second gets the first one's outcome.
    #[serde(default)]
    pub key: Option<String>,
    /// What.
    pub wants: Wants,
}

impl From<Wants> for Order {
    fn from(wants: Wants) -> Order {
        Order { key: None, wants }
    }
}

/// What somebody wants.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Wants {
    /// A model, or another description of it.
    Model(ModelSet),
    /// A version.
    Push(Push),
    /// Tags set or unset.
    Tags(Tagged),
    /// Other words for a version.
    Describe(Described),
    /// Measurements on the record.
    Measure(MetricsTold),
    /// An alias moved or removed.
    Alias(Aliased),
    /// A version archived, quarantined or released.
    State(StateSet),
    /// An environment lock for a version.
    Lock(Locked),
    /// A baseline for a version.
    Baseline(BaselineSet),
    /// A verified signature of a version's artifact.
    Signed(SignedBy),
    /// What a version was made of.
    Lineage(LineageTold),
    /// An environment declared, with its policy.
    Environment(EnvironmentSet),
    /// What was in an environment before.
    GoBack(GoBack),
    /// A version in an environment, once others agree.
    Request(Ask),
    /// To say yes.
    Approve(Approve),
    /// To say no.
    Reject(Answered),
    /// To ask no more.
    Withdraw(Answered),
    /// To take an approval back.
    Revoke(Revoke),
    /// A version in an environment, now or by a rollout.
    Promote(Promote),
    /// The end of a promotion that came by a rollout.
    End(End),
    /// It to be known that an endpoint has this plan from now on.
    Plan(Planned),
    /// It to be known what another system's run did: a RunEvent of OpenLineage.
    Event(Value),
}

/// A version to be pushed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Push {
    /// The model.
    pub model: String,
    /// What it is.
    pub content: Box<Content>,
    /// The least number that nobody else has, such as a folder that is served too.
    #[serde(default, skip_serializing)]
    pub number_min: u64,
}

/// An environment to go back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GoBack {
    /// The environment.
    pub environment: String,
    /// The model.
    pub model: String,
    /// To which version; where nothing is said, to what was there before.
    #[serde(default)]
    pub to: Option<u64>,
    /// Why.
    pub reason: String,
}

/// A request to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ask {
    /// A new id, which the server makes.
    #[serde(default, skip_serializing)]
    pub id: String,
    /// The model.
    pub model: String,
    /// The version.
    pub version: u64,
    /// The environment.
    pub environment: String,
    /// Why.
    #[serde(default)]
    pub reason: String,
}

/// A yes to be said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Approve {
    /// The request.
    pub request: String,
    /// What the approver saw: [`Bound::digest`](super::requests::Bound::digest). Where something has changed since,
    /// nothing is approved.
    #[serde(default, with = "maybe_hex")]
    pub seen: Option<Digest>,
    /// What the approver says.
    #[serde(default)]
    pub comment: String,
}

/// An approval to be taken back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revoke {
    /// The request.
    pub request: String,
    /// Whose approval; one's own where nothing is said.
    #[serde(default)]
    pub approver: Option<String>,
    /// Why.
    pub reason: String,
}

/// A promotion to be made or begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Promote {
    /// A new id, which the server makes.
    #[serde(default, skip_serializing)]
    pub id: String,
    /// The model.
    pub model: String,
    /// The version.
    pub version: u64,
    /// The environment.
    pub environment: String,
    /// The rollout by which it comes; at once where there is none. The server makes it, too.
    #[serde(default, skip_serializing)]
    pub rollout: Option<Rollout>,
    /// Why rules are to be set aside, in an emergency. Only an admin may.
    #[serde(default)]
    pub overriding: Option<String>,
}

/// A promotion to be ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct End {
    /// The promotion.
    pub promotion: String,
    /// In which way.
    pub outcome: Ending,
    /// The sequence of the entry that holds the rollout's last verdict.
    #[serde(default)]
    pub verdict: Option<u64>,
    /// Why.
    #[serde(default)]
    pub reason: String,
    /// Why rules are to be set aside, in an emergency. Only an admin may.
    #[serde(default)]
    pub overriding: Option<String>,
}

/// What an order comes to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Decided {
    /// To be appended to the log, as one group; nothing where all is as it was wanted.
    #[serde(skip)]
    pub facts: Vec<Fact>,
    /// What it is about.
    pub outcome: Outcome,
    /// Whether the same order, with the same key, was decided before.
    pub is_repeat: bool,
}

/// What a decided order is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// A model.
    Model {
        /// Its name.
        model: String,
    },
    /// A version.
    Version {
        /// The model.
        model: String,
        /// Its number.
        version: u64,
        /// Whether it was made by this; not where the same bytes had been pushed before.
        is_new: bool,
    },
    /// An environment.
    Environment {
        /// Its name.
        environment: String,
        /// The digest of its policy.
        #[serde(with = "hex")]
        policy: Digest,
    },
    /// A model in an environment.
    Position {
        /// The environment.
        environment: String,
        /// The model.
        model: String,
        /// The version that is there now.
        version: u64,
    },
    /// A request.
    Request {
        /// Its id.
        request: String,
    },
    /// A promotion.
    Promotion {
        /// Its id.
        promotion: String,
        /// How it ended; none where its rollout is still to come.
        ended: Option<Ending>,
    },
    /// An endpoint's plan.
    Plan {
        /// The endpoint.
        endpoint: String,
        /// The revision.
        revision: u64,
    },
    /// A run of another system.
    Event {
        /// Its id.
        run: String,
    },
}
