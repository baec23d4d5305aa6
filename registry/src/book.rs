//! What does the log say of models, versions, environments and approvals, and what follows from it?
//!
//! The book is a fold over the log's entries and nothing else: [`Book::take`] reads the next one. [`Book::decide`] says
//! which facts an order comes to, or who refuses it and why; whoever asks appends them to the log, and the book has
//! them when it has taken them from there. It knows no IO, clock, thread or chance: ids and times are handed in.
//!
//! ```text
//! let decided = book.decide(order, &by, now_ms)?;  // or a refusal, with every rule that is not met
//! for fact in &decided.facts {
//!     log.append(now_ms, fact.kind(), fact)?;      // one group, on the disk before anybody hears of it
//! }
//! book.take(&entry)?;                              // each entry, as it stands in the log
//! ```
//!
//! `docs/registry.md` has the entities, their states, and the kinds of facts with their data.

mod again;
mod card;
mod check;
mod check_requests;
mod commit;
mod commit_requests;
mod decide;
mod decide_requests;
mod diff;
mod endpoints;
mod environments;
mod facts;
mod forms;
pub mod limits;
pub mod lineage;
mod model;
mod moments;
mod names;
mod orders;
mod policy;
mod refusal;
mod remembered;
mod requests;
mod rules;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeBounds;

use tiltyard_types::Digest;

use crate::Entry;
use lineage::Runs;
use remembered::Remembered;

pub use card::{Card, card};
pub use diff::{Change, Diff, GraphDiff, MetricDiff, diff};
pub use endpoints::{Arm, Cause, Plan, Planned, Served, ServedArm};
pub use environments::{Environment, Position};
pub use facts::*;
pub use model::*;
pub use moments::{Instant, Span, TimeOfDay, Weekday};
pub use names::{Search, Term};
pub use orders::*;
pub use policy::{Approvers, Better, Freeze, Policy, RequiredMetric, Way};
pub use refusal::{Fault, Refusal};
pub use requests::*;
pub use rules::Need;

/// Everything that the log says of models, environments and approvals, up to one of its entries.
#[derive(Clone, Debug, PartialEq)]
pub struct Book {
    sequence: u64,
    models: BTreeMap<String, Model>,
    /// Which version of a model has which bytes.
    artifacts: BTreeMap<(String, Digest), u64>,
    environments: BTreeMap<String, Environment>,
    requests: BTreeMap<String, Request>,
    /// The ids of open requests, by model.
    open: BTreeMap<String, BTreeSet<String>>,
    promotions: BTreeMap<String, Promotion>,
    /// The promotion that has begun and not ended, by environment and model.
    under_way: BTreeMap<(String, String), String>,
    endpoints: BTreeMap<String, Vec<Plan>>,
    runs: Runs,
    remembered: Remembered,
}

impl Default for Book {
    /// An empty log's: nothing but the environments that everybody has.
    fn default() -> Book {
        let environments = [("dev", 10), ("staging", 20), ("prod", 30)];
        let environments = environments.map(|(name, rank)| (name.to_owned(), Environment::bare(name, rank)));
        Book {
            sequence: 0,
            models: BTreeMap::new(),
            artifacts: BTreeMap::new(),
            environments: environments.into(),
            requests: BTreeMap::new(),
            open: BTreeMap::new(),
            promotions: BTreeMap::new(),
            under_way: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            runs: Runs::default(),
            remembered: Remembered::default(),
        }
    }
}

impl Book {
    /// Takes in the next entry of the log. Those of other kinds, such as rollouts', say nothing here. The error names
    /// an entry that is not known or makes no sense after those before it; the book is then as it was.
    pub fn take(&mut self, entry: &Entry) -> Result<(), Fault> {
        let fault = |why: String| Fault { sequence: entry.sequence, why };
        match Fact::read(&entry.kind, entry.data.get()) {
            Some(fact) => self.apply(entry.sequence, entry.time_ms, &fact.map_err(fault)?),
            None => self.pass(entry.sequence),
        }
    }

    /// Takes in a fact that stands, or is about to stand, in the log with this sequence and time.
    pub fn apply(&mut self, sequence: u64, time_ms: u64, fact: &Fact) -> Result<(), Fault> {
        self.follows(sequence)?;
        self.check(fact).map_err(|refusal| Fault { sequence, why: refusal.to_string() })?;
        self.sequence = sequence;
        let at = Stamp { sequence, time_ms, by: fact.by.name.clone() };
        self.commit(&at, fact);
        if let Some(order) = &fact.order {
            let outcome = self.outcome(fact);
            self.remembered.note(&fact.by, order, outcome);
        }
        Ok(())
    }

    /// Passes over an entry that says nothing here.
    fn pass(&mut self, sequence: u64) -> Result<(), Fault> {
        self.follows(sequence)?;
        self.sequence = sequence;
        Ok(())
    }

    fn follows(&self, sequence: u64) -> Result<(), Fault> {
        if sequence > self.sequence {
            return Ok(());
        }
        let why = format!("it comes after entry {}: expected entries in their order, each once", self.sequence);
        Err(Fault { sequence, why })
    }

    /// The last entry that was taken in; 0 where there was none.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// All models, by name.
    pub fn models(&self) -> impl Iterator<Item = &Model> {
        self.models.values()
    }

    /// The model of this name.
    pub fn model(&self, name: &str) -> Option<&Model> {
        self.models.get(name)
    }

    /// A version by its number.
    pub fn version(&self, model: &str, number: u64) -> Option<&Version> {
        self.models.get(model)?.version(number)
    }

    /// The version of a model that has these bytes.
    pub fn with_artifact(&self, model: &str, artifact: Digest) -> Option<&Version> {
        self.version(model, *self.artifacts.get(&(model.to_owned(), artifact))?)
    }

    /// All environments, by name.
    pub fn environments(&self) -> impl Iterator<Item = &Environment> {
        self.environments.values()
    }

    /// The environment of this name.
    pub fn environment(&self, name: &str) -> Option<&Environment> {
        self.environments.get(name)
    }

    /// The environments in which a version is now, lowest first.
    pub fn environments_of(&self, model: &str, number: u64) -> Vec<&Environment> {
        let holds = |environment: &&Environment| environment.current(model).is_some_and(|at| at.version == number);
        let mut found: Vec<_> = self.environments.values().filter(holds).collect();
        found.sort_by_key(|environment| environment.rank);
        found
    }

    /// All requests, by id.
    pub fn requests(&self) -> impl Iterator<Item = &Request> {
        self.requests.values()
    }

    /// The request of this id.
    pub fn request(&self, id: &str) -> Option<&Request> {
        self.requests.get(id)
    }

    /// The one open request for a version in an environment.
    pub fn open_request(&self, model: &str, number: u64, environment: &str) -> Option<&Request> {
        let open = self.open.get(model)?.iter().filter_map(|id| self.requests.get(id));
        open.into_iter().find(|request| request.version == number && request.environment == environment)
    }

    /// All promotions, by id.
    pub fn promotions(&self) -> impl Iterator<Item = &Promotion> {
        self.promotions.values()
    }

    /// The promotion of this id.
    pub fn promotion(&self, id: &str) -> Option<&Promotion> {
        self.promotions.get(id)
    }

    /// The promotion of a model that has begun in an environment and not ended.
    pub fn under_way(&self, environment: &str, model: &str) -> Option<&Promotion> {
        self.promotions.get(self.under_way.get(&(environment.to_owned(), model.to_owned()))?)
    }

    /// What an approval of a version in an environment would be bound to.
    pub fn bound(&self, model: &str, number: u64, environment: &str) -> Option<Bound> {
        let (version, environment) = (self.version(model, number)?, self.environment(environment)?);
        let lock = version.lock.as_ref().map(Lock::digest);
        let baseline = version.baseline.as_ref().map(|baseline| baseline.digest);
        let card = card(self, version).digest();
        Some(Bound { artifact: version.artifact, card, baseline, policy: environment.policy_digest, lock })
    }

    /// Everything that keeps a version out of an environment at a moment; nothing where it may be promoted in this way.
    pub fn needs(&self, model: &str, number: u64, environment: &str, way: Way, now_ms: u64) -> Option<Vec<Need>> {
        let bound = self.bound(model, number, environment)?;
        let (version, environment) = (self.version(model, number)?, self.environment(environment)?);
        Some(self.unmet(&rules::Candidate { version, environment, bound: &bound, way }, now_ms))
    }

    /// The endpoints that have, or had, a plan on the record.
    pub fn endpoints(&self) -> impl Iterator<Item = &str> {
        self.endpoints.keys().map(String::as_str)
    }

    /// The plans of an endpoint that began within `range`, in milliseconds since 1970, in the order of the log.
    pub fn history(&self, endpoint: &str, range: impl RangeBounds<u64>) -> impl Iterator<Item = &Plan> {
        endpoints::within(self.endpoints.get(endpoint).map_or(&[], Vec::as_slice), range)
    }

    /// Who answered an endpoint's callers at a time, in milliseconds since 1970, and what the record had of it by then.
    pub fn served_at(&self, endpoint: &str, time_ms: u64) -> Option<Served<'_>> {
        let plans = self.endpoints.get(endpoint)?;
        let at = plans.iter().rposition(|plan| plan.since.time_ms <= time_ms)?;
        let plan = &plans[at];
        let arms = plan.planned.arms.iter().map(|arm| self.served(arm, time_ms)).collect();
        Some(Served { plan, until_ms: plans.get(at + 1).map(|next| next.since.time_ms), arms })
    }

    fn served<'a>(&'a self, arm: &'a Arm, time_ms: u64) -> ServedArm<'a> {
        let version = self.version(&arm.model, arm.version);
        let version = version.filter(|version| arm.artifact.is_none_or(|artifact| artifact == version.artifact));
        let is_of = |model: &str, number: u64| version.is_some() && model == arm.model && number == arm.version;
        let promotions = self.promotions.values().filter(|promotion| is_of(&promotion.model, promotion.version));
        let mut promotions: Vec<_> = promotions.filter(|promotion| promotion.begun.time_ms <= time_ms).collect();
        promotions.sort_by_key(|promotion| promotion.begun.sequence);
        let requests = promotions.iter().filter_map(|promotion| self.request(promotion.request.as_deref()?)).collect();
        let metrics = version.into_iter().flat_map(|version| &version.metrics);
        ServedArm {
            arm,
            is_recorded: version.is_some(),
            pushed: version.map(|version| &version.pushed),
            metrics: metrics.filter(|measured| measured.at.time_ms <= time_ms).collect(),
            promotions,
            requests,
        }
    }

    /// The versions in an environment whose review is due, with the environment, by name.
    pub fn reviews_due(&self, now_ms: u64) -> impl Iterator<Item = (&Environment, &Version)> {
        let places = self.environments.values().flat_map(|environment| {
            let models = environment.positions.keys();
            models.filter_map(move |model| Some((environment, environment.current(model)?.version, model)))
        });
        let held = places.filter_map(|(environment, number, model)| Some((environment, self.version(model, number)?)));
        held.filter(move |(_, version)| version.review_ms.is_some_and(|review| review <= now_ms))
    }

    /// Runs that other systems told of.
    pub fn runs(&self) -> &Runs {
        &self.runs
    }
}

#[cfg(test)]
mod tests;
