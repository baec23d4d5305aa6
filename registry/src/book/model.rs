//! What stands in the record of a model and its versions?

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tiltyard_types::Digest;

use super::forms::{digest_of, exact, exact_pair, hex, maybe_hex};
use super::moments::Span;

/// Which entry of the log made something, when and by whom.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stamp {
    /// The entry's sequence.
    pub sequence: u64,
    /// The entry's time, in milliseconds since 1970.
    pub time_ms: u64,
    /// The name of the person or program.
    pub by: String,
}

/// A name under which versions are pushed.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Model {
    /// Its name.
    pub name: String,
    /// Who answers for it; at first whoever made it.
    pub owner: String,
    /// What it is for.
    pub description: String,
    /// Its kind of task, such as `classification`.
    pub task: String,
    /// The tier of its risk, in the words of its organisation, such as `high`.
    pub risk: String,
    /// How long records of its predictions are to be kept.
    pub retention: Option<Span>,
    /// Tags of the model as a whole.
    pub tags: BTreeMap<String, String>,
    /// Names that point to one version each, and move.
    pub aliases: BTreeMap<String, Alias>,
    /// Its versions, by number. Numbers may have gaps: others may have been taken by a folder that is served too.
    #[serde(skip)]
    pub versions: Vec<Version>,
    /// When it was made.
    pub created: Stamp,
    /// When anything of it, or of a version, was said last.
    pub changed: Stamp,
}

impl Model {
    /// The version of this number.
    pub fn version(&self, number: u64) -> Option<&Version> {
        let at = self.versions.binary_search_by_key(&number, |version| version.number).ok()?;
        self.versions.get(at)
    }

    pub(crate) fn version_mut(&mut self, number: u64) -> Option<&mut Version> {
        let at = self.versions.binary_search_by_key(&number, |version| version.number).ok()?;
        self.versions.get_mut(at)
    }

    /// The highest number; 0 where there is none.
    pub fn last(&self) -> u64 {
        self.versions.last().map_or(0, |version| version.number)
    }

    /// The aliases that point to a version.
    pub fn aliases_of(&self, number: u64) -> impl Iterator<Item = &str> {
        self.aliases.iter().filter(move |(_, alias)| alias.version == number).map(|(name, _)| name.as_str())
    }
}

/// Where an alias points.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Alias {
    /// The version.
    pub version: u64,
    /// Since when.
    pub since: Stamp,
}

/// What may be done with a version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VersionState {
    /// It may be asked for, approved and promoted.
    #[default]
    Ready,
    /// It is kept, and goes nowhere any more.
    Archived,
    /// It must not answer. Only an admin takes it back.
    Quarantined,
}

impl VersionState {
    /// The name in facts and tables.
    pub const fn name(self) -> &'static str {
        match self {
            VersionState::Ready => "ready",
            VersionState::Archived => "archived",
            VersionState::Quarantined => "quarantined",
        }
    }
}

/// An artifact under a number. What shapes its answers never changes; what is said of it may.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Version {
    /// The model's name.
    pub model: String,
    /// From 1; each is higher than the one before it.
    pub number: u64,
    /// The artifact's digest: SHA-256 over the sorted list of its files.
    #[serde(with = "hex")]
    pub artifact: Digest,
    /// Its files, sorted by path.
    pub files: Vec<FileEntry>,
    /// What it takes and gives, as the server reads it from the graph.
    pub signature: Value,
    /// What may be done with it.
    pub state: VersionState,
    /// Why it is in that state, where somebody said so.
    pub reason: String,
    /// The state that a release from quarantine leads back to.
    #[serde(skip)]
    pub(crate) state_before: VersionState,
    /// One or two sentences.
    pub description: String,
    /// The part of its model card that people write, in Markdown.
    pub text: String,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// What was measured, sorted by dataset, slice and metric. A measurement that is made again replaces the one
    /// before.
    pub metrics: Vec<Measured>,
    /// What it must run on to answer the same everywhere.
    pub lock: Option<Lock>,
    /// What its traffic is compared with.
    pub baseline: Option<Baseline>,
    /// Whose signature of the artifact was verified.
    pub signed: Option<Signed>,
    /// What it was made of.
    pub lineage: Lineage,
    /// How it came here.
    pub source: Source,
    /// When somebody is to look at it again, in milliseconds since 1970.
    pub review_ms: Option<u64>,
    /// When it was pushed, and by whom.
    pub pushed: Stamp,
    /// When anything was said of it last.
    pub changed: Stamp,
}

impl Version {
    /// Golden examples among its files.
    pub fn golden_examples(&self) -> usize {
        self.files.iter().filter(|file| file.path.starts_with("golden/") && file.path.ends_with(".json")).count()
    }

    /// Bytes of all of its files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().fold(0, |sum, file| sum.saturating_add(file.size))
    }

    /// What was measured under this key.
    pub fn metric(&self, key: &MetricKey) -> Option<&Metric> {
        let at = self.metrics.binary_search_by(|measured| measured.metric.key.cmp(key)).ok()?;
        Some(&self.metrics[at].metric)
    }
}

/// One file of an artifact.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Relative, with `/` between its parts.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// SHA-256 of its bytes.
    #[serde(with = "hex")]
    pub sha256: Digest,
}

/// What a number says: which metric, on which data, on which part of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricKey {
    /// The dataset's digest, or its name.
    pub dataset: String,
    /// The part of the dataset; empty for all of it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub slice: String,
    /// The metric, such as `auc`.
    pub metric: String,
}

impl std::fmt::Display for MetricKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} on {}", self.metric, self.dataset)?;
        if self.slice.is_empty() { Ok(()) } else { write!(f, ", slice {}", self.slice) }
    }
}

/// One measurement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metric {
    /// What it is of.
    pub key: MetricKey,
    /// The figure.
    #[serde(with = "exact")]
    pub value: f64,
    /// Where the true figure lies with confidence, low and high.
    #[serde(default, deserialize_with = "exact_pair", skip_serializing_if = "Option::is_none")]
    pub interval: Option<[f64; 2]>,
    /// What measured it, such as `tiltyard backtest` or a digest of a program.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub evaluator: String,
}

/// A measurement on the record.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// The measurement.
    #[serde(flatten)]
    pub metric: Metric,
    /// When it was told, and by whom.
    pub at: Stamp,
}

/// What a version must run on, so that every replica gives the same answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Lock {
    /// The engine, such as `onnxruntime`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub engine: String,
    /// Its build, such as `1.23.0`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub build: String,
    /// Where it runs, such as `cpu`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub provider: String,
    /// The operator set of the graph.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub opset: Option<u64>,
    /// Threads of one run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<u64>,
    /// Rows of one batch, at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_rows_max: Option<u64>,
    /// Whatever else must be the same, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub others: BTreeMap<String, String>,
}

impl Lock {
    /// SHA-256 of its JSON.
    pub fn digest(&self) -> Digest {
        digest_of(self)
    }
}

/// What drift is measured from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Baseline {
    /// SHA-256 of its bytes.
    #[serde(with = "hex")]
    pub digest: Digest,
    /// Rows that it counts.
    pub rows: u64,
    /// Whether it was made of first traffic, which nobody has vouched for.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_provisional: bool,
}

/// A signature of the artifact, as the server verified it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signed {
    /// The key's id, such as the digest of the public key.
    pub key: String,
    /// Whose key it is, where that is known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub identity: String,
}

/// What a version was made of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Lineage {
    /// What it was trained from.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub datasets: Vec<Dataset>,
    /// The code that made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<Code>,
    /// The run that made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<Run>,
    /// The version that it was made from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<Parent>,
}

/// Data that something was trained or measured on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dataset {
    /// Its name.
    pub name: String,
    /// The place of that name, such as `s3://data`; OpenLineage calls it the namespace.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Its version, in the words of where it lies.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// SHA-256 of its bytes or of its manifest.
    #[serde(default, with = "maybe_hex", skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// Where it lies.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uri: String,
}

/// A state of a repository.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Code {
    /// Where the repository lies.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub repository: String,
    /// The commit.
    pub commit: String,
    /// Whether files differed from the commit.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_dirty: bool,
}

/// A run of some system for training.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// Its id there.
    pub id: String,
    /// The system, such as `mlflow`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub system: String,
    /// Where it is shown.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uri: String,
}

/// A version that another was made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parent {
    /// The model.
    pub model: String,
    /// The version.
    pub version: u64,
}

/// How a version came here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Source {
    /// Somebody pushed it.
    #[default]
    Pushed,
    /// It was taken from another system.
    Imported {
        /// Which, such as `mlflow`.
        system: String,
        /// From where, such as `models:/risk/3`.
        uri: String,
    },
}
