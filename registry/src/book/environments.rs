//! Which version of each model is in an environment, and which were?

use std::collections::BTreeMap;

use serde::Serialize;
use tiltyard_types::Digest;

use super::forms::hex;
use super::model::Stamp;
use super::policy::Policy;

/// A place that versions are promoted to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Environment {
    /// Its name.
    pub name: String,
    /// Its place in the order: what is below has a lower rank.
    pub rank: u64,
    /// What it asks.
    pub policy: Policy,
    /// The policy's digest.
    #[serde(with = "hex")]
    pub policy_digest: Digest,
    /// When it was declared; of the first three, never.
    pub set: Stamp,
    /// By model, which versions were here, the last of them now.
    pub positions: BTreeMap<String, Vec<Position>>,
}

/// A version that came into an environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Position {
    /// The version.
    pub version: u64,
    /// Since when, and by whom.
    pub since: Stamp,
    /// The promotion by which it came; where it came back, the one by which it had come.
    pub promotion: String,
    /// Whether a rollback brought it back.
    pub is_rollback: bool,
    /// Which of the positions a rollback from here leads to.
    pub before: Option<usize>,
}

impl Environment {
    pub(crate) fn bare(name: &str, rank: u64) -> Environment {
        let policy = Policy::default();
        let policy_digest = policy.digest();
        let (set, positions) = (Stamp::default(), BTreeMap::new());
        Environment { name: name.into(), rank, policy, policy_digest, set, positions }
    }

    /// Which version of a model is here now.
    pub fn current(&self, model: &str) -> Option<&Position> {
        self.positions.get(model)?.last()
    }

    /// Where rollbacks lead to, one after the other: what was here when the current version came, what was here when that
    /// came, and so on. So no rollback brings back what another one took away.
    pub fn earlier(&self, model: &str) -> impl Iterator<Item = &Position> {
        let positions = self.positions.get(model).map_or(&[][..], Vec::as_slice);
        // Each is before the last in the list, too: this ends.
        std::iter::successors(positions.last(), move |position| positions.get(position.before?)).skip(1)
    }

    /// What was here when the current version came.
    pub fn previous(&self, model: &str) -> Option<&Position> {
        self.earlier(model).next()
    }

    /// Which version of a model was here at a time, in milliseconds since 1970.
    pub fn at(&self, model: &str, time_ms: u64) -> Option<&Position> {
        self.positions.get(model)?.iter().rfind(|position| position.since.time_ms <= time_ms)
    }
}
