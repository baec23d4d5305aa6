//! What is written into the log of models, environments and approvals?
//!
//! A fact is who says it, and what: `{"by":{"name":"ann","roles":["approver"],"how":"key"},"says":{"model":"risk"}}`.
//! Its kind is the entry's. `docs/registry.md` has the list. What a fact says is never changed: a later one says
//! something else.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use tiltyard_types::Digest;

use super::endpoints::Planned;
use super::forms::hex;
use super::model::{Baseline, FileEntry, Lineage, Lock, Metric, Signed, Source, VersionState};
use super::moments::Span;
use super::policy::{Policy, Way};
use super::requests::{Bound, Ending, Overridden};

/// Who says something, as the server knows them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Principal {
    /// The name.
    pub name: String,
    /// What they may do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
    /// How the server found out who it is.
    #[serde(default)]
    pub how: How,
}

impl Principal {
    /// Whether they may do everything.
    pub fn is_admin(&self) -> bool {
        self.roles.iter().any(|role| role == "admin")
    }
}

/// How somebody proved who they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// Not at all: nobody can be held to it.
    #[default]
    Nothing,
    /// By being the user of this machine that runs the server or its command line.
    Local,
    /// By a key of the access file.
    Key,
    /// By a certificate.
    Certificate,
    /// By a token of an identity provider.
    Token,
    /// They are this program.
    Program,
}

/// Which order a fact answers: the same key again gets the same outcome.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrderKey {
    /// The key that the caller chose.
    pub key: String,
    /// The digest of what was ordered.
    #[serde(with = "hex")]
    pub order: Digest,
}

/// A fact.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Fact {
    /// Who says it.
    pub by: Principal,
    /// Which order it answers, where that had a key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order: Option<OrderKey>,
    /// What it says.
    pub says: Says,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    by: Principal,
    #[serde(default)]
    order: Option<OrderKey>,
    says: Box<RawValue>,
}

macro_rules! facts {
    ($($(#[$doc:meta])* $name:ident($says:ty) = $kind:literal,)*) => {
        /// What a fact says.
        #[derive(Clone, Debug, PartialEq, Serialize)]
        #[serde(untagged)]
        pub enum Says {
            $($(#[$doc])* $name($says),)*
        }

        impl Says {
            /// All kinds.
            pub const KINDS: &[&str] = &[$($kind),*];

            /// The kind of its entry.
            pub const fn kind(&self) -> &'static str {
                match self {
                    $(Says::$name(_) => $kind,)*
                }
            }

            fn read(kind: &str, text: &str) -> Option<serde_json::Result<Says>> {
                match kind {
                    $($kind => Some(serde_json::from_str(text).map(Says::$name)),)*
                    _ => None,
                }
            }
        }
    };
}

facts! {
    /// A model was made or described.
    Model(ModelSet) = "model.set",
    /// A version was pushed.
    Version(Pushed) = "model.version",
    /// Tags were set or unset.
    Tags(Tagged) = "model.tags",
    /// A version was described.
    Described(Described) = "model.described",
    /// Something was measured.
    Metrics(MetricsTold) = "model.metrics",
    /// An alias was moved or removed.
    Alias(Aliased) = "model.alias",
    /// A version was archived, quarantined or released.
    State(StateSet) = "model.state",
    /// A version got an environment lock.
    Lock(Locked) = "model.lock",
    /// A version got a baseline.
    Baseline(BaselineSet) = "model.baseline",
    /// A signature of the artifact was verified.
    Signed(SignedBy) = "model.signed",
    /// It was told what a version was made of.
    Lineage(LineageTold) = "model.lineage",
    /// An environment was declared.
    Environment(EnvironmentSet) = "environment.set",
    /// An environment went back to what was there before.
    WentBack(WentBack) = "environment.rolled_back",
    /// Somebody asked for a version to be in an environment.
    Requested(Requested) = "approval.requested",
    /// Somebody said yes.
    Approved(Approved) = "approval.approved",
    /// Somebody said no.
    Rejected(Answered) = "approval.rejected",
    /// Whoever asked does not ask any more.
    Withdrawn(Answered) = "approval.withdrawn",
    /// Somebody took an approval back.
    Revoked(Revoked) = "approval.revoked",
    /// A promotion was made, at once.
    Promoted(Begun) = "promotion.made",
    /// A promotion began, by a rollout.
    Begun(Begun) = "promotion.begun",
    /// It ended.
    Ended(Ended) = "promotion.ended",
    /// An endpoint has this plan from now on.
    Plan(Planned) = "endpoint.plan",
    /// Another system told of a run, as OpenLineage has it.
    Event(EventTold) = "lineage.event",
}

/// The beginnings of kinds that are this module's. Unknown ones among them are errors: they could change what others
/// mean.
const PREFIXES: [&str; 6] = ["model.", "environment.", "approval.", "promotion.", "endpoint.", "lineage."];

impl Fact {
    /// The kind of its entry.
    pub const fn kind(&self) -> &'static str {
        self.says.kind()
    }

    /// Reads an entry's data. `None` where its kind is not one of this module's.
    pub fn read(kind: &str, data: &str) -> Option<Result<Fact, String>> {
        if !PREFIXES.iter().any(|prefix| kind.starts_with(prefix)) {
            return None;
        }
        Some(Fact::read_known(kind, data))
    }

    fn read_known(kind: &str, data: &str) -> Result<Fact, String> {
        if !Says::KINDS.contains(&kind) {
            return Err(format!("{kind} is not known: expected a program as new as its writer"));
        }
        let wrong = |error: serde_json::Error| format!("its data is not that of {kind}: {error}");
        let Written { by, order, says } = serde_json::from_str(data).map_err(wrong)?;
        let says = Says::read(kind, says.get()).ok_or_else(|| format!("{kind} is not known"))?.map_err(wrong)?;
        Ok(Fact { by, order, says })
    }

    /// What the server's key signs of an approval: its JSON without a seal. `None` for all else.
    pub fn to_seal(&self) -> Option<String> {
        let mut bare = self.clone();
        let Says::Approved(approved) = &mut bare.says else { return None };
        approved.seal = None;
        serde_json::to_string(&bare).ok()
    }

    /// Puts the server's signature on an approval.
    pub fn seal(&mut self, seal: Seal) {
        if let Says::Approved(approved) = &mut self.says {
            approved.seal = Some(seal);
        }
    }
}

/// A signature of the server's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seal {
    /// The key's id.
    pub key: String,
    /// The signature, in base64.
    pub signature: String,
}

/// A model, or what is to be changed of it: what is left out stays.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSet {
    /// The model.
    pub model: String,
    /// Who answers for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Its kind of task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// The tier of its risk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub risk: Option<String>,
    /// How long records of its predictions are to be kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Span>,
}

/// A version that was pushed. Where its model is not there yet, that is made too.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pushed {
    /// The model.
    pub model: String,
    /// The version's number.
    pub version: u64,
    /// What was pushed.
    pub content: Box<Content>,
}

/// What is pushed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Content {
    /// The artifact's digest.
    #[serde(with = "hex")]
    pub artifact: Digest,
    /// Its files, sorted by path.
    pub files: Vec<FileEntry>,
    /// What it takes and gives.
    #[serde(default)]
    pub signature: Value,
    /// One or two sentences.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// The model card's text, in Markdown.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub text: String,
    /// Tags.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// Measurements.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub metrics: Vec<Metric>,
    /// What it must run on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<Lock>,
    /// What its traffic is compared with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<Baseline>,
    /// Whose signature was verified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed: Option<Signed>,
    /// What it was made of.
    #[serde(default)]
    pub lineage: Lineage,
    /// How it came here.
    #[serde(default)]
    pub source: Source,
}

/// Tags of a version, or of a model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tagged {
    /// The model.
    pub model: String,
    /// The version; none for the model itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// What is set.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub set: BTreeMap<String, String>,
    /// What is unset.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unset: Vec<String>,
}

/// What is to be changed of a version's words: what is left out stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Described {
    /// The model.
    pub model: String,
    /// The version.
    pub version: u64,
    /// One or two sentences.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The model card's text, in Markdown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// When somebody is to look at it again, in milliseconds since 1970; 0 for never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub review_ms: Option<u64>,
}

/// Measurements of a version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricsTold {
    /// The model.
    pub model: String,
    /// The version.
    pub version: u64,
    /// The measurements.
    pub metrics: Vec<Metric>,
}

/// An alias that moves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Aliased {
    /// The model.
    pub model: String,
    /// The alias.
    pub alias: String,
    /// The version that it points to from now on; none where it is removed.
    pub version: Option<u64>,
}

/// A version's new state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateSet {
    /// The model.
    pub model: String,
    /// The version.
    pub version: u64,
    /// `archived`, `quarantined`, or `ready` for a release from quarantine.
    pub state: VersionState,
    /// Why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// A version's environment lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Locked {
    /// The model.
    pub model: String,
    /// The version.
    pub version: u64,
    /// What it must run on.
    pub lock: Lock,
}

/// A version's baseline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaselineSet {
    /// The model.
    pub model: String,
    /// The version.
    pub version: u64,
    /// What its traffic is compared with.
    pub baseline: Baseline,
}

/// A signature of a version's artifact that the server verified.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedBy {
    /// The model.
    pub model: String,
    /// The version.
    pub version: u64,
    /// Whose it is.
    pub signed: Signed,
}

/// What a version was made of: parts that are there replace what was told before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LineageTold {
    /// The model.
    pub model: String,
    /// The version.
    pub version: u64,
    /// What it was made of.
    pub lineage: Lineage,
}

/// An environment as it is from now on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnvironmentSet {
    /// The environment.
    pub environment: String,
    /// Its place in the order.
    pub rank: u64,
    /// What it asks.
    #[serde(default)]
    pub policy: Policy,
}

/// An environment that went back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WentBack {
    /// The environment.
    pub environment: String,
    /// The model.
    pub model: String,
    /// The version that was there.
    pub from: u64,
    /// The one that is there again.
    pub to: u64,
    /// Why.
    pub reason: String,
}

/// A request for a version to be in an environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Requested {
    /// The request's id.
    pub request: String,
    /// The model.
    pub model: String,
    /// The version.
    pub version: u64,
    /// The environment.
    pub environment: String,
    /// Why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// What was there.
    pub bound: Bound,
}

/// A yes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Approved {
    /// The request.
    pub request: String,
    /// To what exactly.
    pub bound: Bound,
    /// What the approver says.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// Until when it holds, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<u64>,
    /// The server's signature.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seal: Option<Seal>,
}

/// A request's end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answered {
    /// The request.
    pub request: String,
    /// Why.
    pub reason: String,
}

/// An approval that is taken back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revoked {
    /// The request.
    pub request: String,
    /// Whose approval.
    pub approver: String,
    /// Why.
    pub reason: String,
}

/// A rollout by which a version comes into an environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rollout {
    /// Its id.
    pub id: String,
    /// How far it goes.
    pub way: Way,
}

/// A promotion that began, or that was made at once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Begun {
    /// The promotion's id.
    pub promotion: String,
    /// The model.
    pub model: String,
    /// The version.
    pub version: u64,
    /// The environment.
    pub environment: String,
    /// The version that is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<u64>,
    /// The request that it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// The rollout by which it comes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,
    /// What it holds for.
    pub bound: Bound,
    /// Whose approvals counted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approvers: Vec<String>,
    /// The measurements that the policy asks for, as they are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<Metric>,
    /// What an admin set aside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overridden: Option<Overridden>,
}

/// A promotion's end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ended {
    /// The promotion.
    pub promotion: String,
    /// In which way.
    pub outcome: Ending,
    /// The sequence of the entry that holds the rollout's last verdict.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<u64>,
    /// Why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// What an admin set aside at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overridden: Option<Overridden>,
}

impl Ended {
    /// The end of a promotion that is made at once.
    pub(crate) fn well(promotion: &str) -> Ended {
        let (promotion, outcome) = (promotion.to_owned(), Ending::Promoted);
        Ended { promotion, outcome, verdict: None, reason: String::new(), overridden: None }
    }
}

/// A run that another system told of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventTold {
    /// The RunEvent of OpenLineage.
    pub event: Value,
}
