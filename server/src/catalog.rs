//! What can answer, right now?
//!
//! A catalog never changes. The writer makes a new one for each load, unload or plan and publishes it with one
//! atomic store; a request loads it once and keeps it to its end, so that all it sees agrees.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use tiltyard_rollout::plan::Plan;
use tiltyard_runtime::deployment::Deployment;
use tiltyard_types::{Error, ErrorKind, Result};

use crate::arm::{Arm, CHAMPION, PINNED};
use crate::config::OnFailure;
use crate::route::{Asking, Choice, Route};

/// Everything that can answer, at one moment.
#[derive(Clone, Default)]
pub struct Catalog {
    /// Counts up with each new catalog.
    pub revision: u64,
    /// Models by name, with all their versions and what became of them.
    pub models: BTreeMap<String, Model>,
    /// The names that answer without a version, resolved: see [`Catalog::resolve`].
    pub endpoints: BTreeMap<String, Endpoint>,
}

/// A model's versions.
#[derive(Clone, Default)]
pub struct Model {
    /// By number.
    pub versions: BTreeMap<u64, Version>,
    /// Those that came into the registry: they answer only where a plan says so, or who asks names them.
    pub pushed: BTreeSet<u64>,
}

/// Whom a request without a version reaches under one name.
#[derive(Clone)]
pub enum Endpoint {
    /// There is no plan: the newest version that answers of the model of this name.
    Newest(Arc<Arm>),
    /// Whom its plan says.
    Planned(Arc<Route>),
}

/// A version and its state.
#[derive(Clone)]
pub struct Version {
    /// Where it stands.
    pub state: VersionState,
    /// What answers, if it is ready. A version that is being replaced still answers with its old bytes.
    pub deployment: Option<Arc<Deployment>>,
    /// The same as an arm, once somebody has asked for this very version.
    pinned: OnceLock<Arc<Arm>>,
}

/// Where a version stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VersionState {
    /// Being made ready.
    Loading,
    /// Answers.
    Ready,
    /// Is loaded and does not answer, since its runs fail or hang: for this reason.
    Out(&'static str),
    /// Does not answer, for this reason.
    Failed(String),
    /// Was taken out on request.
    Unloaded,
}

impl Catalog {
    /// Whom a request reaches: with a version that version, else an arm of the endpoint. Fails with what there is instead.
    pub fn route(&self, name: &str, version: Option<u64>, asking: &Asking<'_>) -> Result<Choice> {
        match (version, self.endpoints.get(name)) {
            (Some(number), _) => self.pinned(name, number).map(Choice::of),
            (None, Some(Endpoint::Newest(arm))) => Ok(Choice::of(Arc::clone(arm))),
            (None, Some(Endpoint::Planned(route))) => route.choose(asking),
            (None, None) => Err(self.nobody(name)),
        }
    }

    /// Who speaks for a name: with a version that version, else the endpoint's champion. Fails like [`Catalog::route`].
    pub fn speaker(&self, name: &str, version: Option<u64>) -> Result<Arc<Arm>> {
        match (version, self.endpoints.get(name)) {
            (Some(number), _) => self.pinned(name, number),
            (None, Some(Endpoint::Newest(arm))) => Ok(Arc::clone(arm)),
            (None, Some(Endpoint::Planned(route))) => route.champion(),
            (None, None) => Err(self.nobody(name)),
        }
    }

    /// Every name that answers without a version, with who speaks for it.
    pub fn speakers(&self) -> impl Iterator<Item = (&str, Arc<Arm>)> {
        self.endpoints.keys().filter_map(|name| Some((name.as_str(), self.speaker(name, None).ok()?)))
    }

    /// Every arm that answers a name without a version.
    pub fn arms(&self) -> impl Iterator<Item = Arc<Arm>> {
        self.endpoints.values().flat_map(|endpoint| match endpoint {
            Endpoint::Newest(arm) => vec![Arc::clone(arm)],
            Endpoint::Planned(route) => route.seats().filter_map(Result::ok).cloned().collect(),
        })
    }

    fn pinned(&self, name: &str, number: u64) -> Result<Arc<Arm>> {
        let model = self.models.get(name).ok_or_else(|| match self.endpoints.contains_key(name) {
            true => Error::not_found(format!("endpoint {name:?} has no versions of its own: leave the version out")),
            false => self.unknown_model(name),
        })?;
        let version = model.versions.get(&number).ok_or_else(|| {
            let known = model.versions.keys().map(u64::to_string).collect::<Vec<_>>().join(", ");
            Error::not_found(format!("unknown version {number} of model {name:?}: there is {known}"))
        })?;
        let deployment = version.answering().ok_or_else(|| version.not_ready(name, number))?;
        Ok(Arc::clone(version.pinned.get_or_init(|| Arm::new(name, PINNED, deployment))))
    }

    /// Says of each name who answers it without a version: whom its plan says, or else the newest version of its model that
    /// answers; nobody where the newest of all is out of service and shall be answered for by nobody. To be called once
    /// models or plans are as they shall be published.
    pub fn resolve(&mut self, plans: &BTreeMap<String, Arc<Plan>>, on_failure: OnFailure) {
        let before = std::mem::take(&mut self.endpoints);
        for (name, model) in &mut self.models {
            model.versions.values_mut().for_each(Version::forget_pinned);
            // Under a plan nobody is champion for being the newest.
            let Some(newest) = model.newest(on_failure).filter(|_| !plans.contains_key(name)) else { continue };
            let arm = match before.get(name) {
                Some(Endpoint::Newest(arm)) if Arc::ptr_eq(newest, &arm.deployment) => Arc::clone(arm),
                _ => Arm::new(name, CHAMPION, newest),
            };
            self.endpoints.insert(name.clone(), Endpoint::Newest(arm));
        }
        for (name, plan) in plans {
            let before = match before.get(name) {
                Some(Endpoint::Planned(route)) => Some(route),
                _ => None,
            };
            let route = Route::resolve(plan, &self.models, on_failure, before);
            self.endpoints.insert(name.clone(), Endpoint::Planned(route));
        }
    }

    /// All deployments that answer, in the order of model and version.
    pub fn deployments(&self) -> impl Iterator<Item = &Arc<Deployment>> {
        self.models.values().flat_map(|model| model.versions.values()).filter_map(|version| version.deployment.as_ref())
    }

    /// Notes who is out of service now, and who is not any more. True if that is news.
    pub fn judge(&mut self) -> bool {
        let mut changed = false;
        for version in self.models.values_mut().flat_map(|model| model.versions.values_mut()) {
            let Some(deployment) = &version.deployment else { continue };
            let state = match (&version.state, deployment.health.out()) {
                (VersionState::Ready | VersionState::Out(_), Some(reason)) => VersionState::Out(reason),
                (VersionState::Out(_), None) => VersionState::Ready,
                _ => continue,
            };
            changed |= state != version.state;
            version.state = state;
        }
        changed
    }

    /// Whether every version that is loaded is out of service: nobody can be answered. Where nothing is loaded, that is not
    /// so.
    pub fn is_out(&self) -> bool {
        let versions = self.models.values().flat_map(|model| model.versions.values());
        let mut loaded = versions.filter(|version| version.deployment.is_some()).peekable();
        loaded.peek().is_some() && loaded.all(|version| version.answering().is_none())
    }

    /// Why nobody answers to a name.
    fn nobody(&self, name: &str) -> Error {
        self.models.get(name).map_or_else(|| self.unknown_model(name), |model| model.not_ready(name))
    }

    /// The failure for a name that is not there.
    pub fn unknown_model(&self, name: &str) -> Error {
        const SHOWN_MAX: usize = 12;
        let shown: String = name.chars().take(200).collect();
        let names: BTreeSet<&String> = self.models.keys().chain(self.endpoints.keys()).collect();
        let mut known: Vec<String> = names.iter().take(SHOWN_MAX).map(|name| format!("{name:?}")).collect();
        if names.len() > SHOWN_MAX {
            known.push(format!("… ({} in all)", names.len()));
        }
        let known = if known.is_empty() { "no models".to_owned() } else { known.join(", ") };
        Error::not_found(format!("unknown model {shown:?}: this server has {known}"))
    }
}

impl Model {
    /// The newest version that answers; none where the newest of all is out of service and shall be answered for by nobody.
    fn newest(&self, on_failure: OnFailure) -> Option<&Arc<Deployment>> {
        let own =
            self.versions.iter().rev().filter(|(number, _)| !self.pushed.contains(number)).map(|(_, version)| version);
        let mut loaded = own.filter(|version| version.deployment.is_some());
        match on_failure {
            OnFailure::Previous => loaded.find_map(Version::answering),
            OnFailure::Refuse => loaded.next().and_then(Version::answering),
        }
    }

    fn not_ready(&self, name: &str) -> Error {
        // One that is out of service answers again sooner than one that failed to load.
        let out = self.versions.iter().rev().find(|(_, version)| matches!(version.state, VersionState::Out(_)));
        match out.or_else(|| self.versions.iter().next_back()) {
            Some((number, version)) => version.not_ready(name, *number),
            None => Error::new(ErrorKind::NotReady, format!("model {name:?} has no version that is ready")),
        }
    }
}

impl Version {
    /// A version in this state.
    pub fn new(state: VersionState, deployment: Option<Arc<Deployment>>) -> Version {
        Version { state, deployment, pinned: OnceLock::new() }
    }

    /// Nothing but the deployment itself may keep what has been replaced or taken out.
    fn forget_pinned(&mut self) {
        let is_its_own = |arm: &Arc<Arm>| self.deployment.as_ref().is_some_and(|now| Arc::ptr_eq(now, &arm.deployment));
        if !self.pinned.get().is_none_or(is_its_own) {
            self.pinned.take();
        }
    }

    /// Why it does not answer, in words that go on after its name.
    pub fn why_not(&self) -> String {
        match &self.state {
            VersionState::Loading => "is still loading".to_owned(),
            VersionState::Out(reason) => (*reason).to_owned(),
            VersionState::Failed(reason) => format!("failed to load: {reason}"),
            VersionState::Unloaded => "is unloaded".to_owned(),
            VersionState::Ready => "is not ready".to_owned(),
        }
    }

    /// What answers requests to it, if anything does.
    pub fn answering(&self) -> Option<&Arc<Deployment>> {
        self.deployment.as_ref().filter(|_| !matches!(self.state, VersionState::Out(_)))
    }

    fn not_ready(&self, name: &str, number: u64) -> Error {
        let why = self.why_not();
        Error::new(ErrorKind::NotReady, format!("model {name:?} version {number} {why}"))
    }
}

impl VersionState {
    /// The state and reason as the repository index has them.
    pub fn index(&self) -> (&'static str, &str) {
        match self {
            VersionState::Loading => ("LOADING", ""),
            VersionState::Ready => ("READY", ""),
            VersionState::Out(reason) => ("UNAVAILABLE", reason),
            VersionState::Failed(reason) => ("UNAVAILABLE", reason),
            VersionState::Unloaded => ("UNAVAILABLE", "unloaded"),
        }
    }
}
