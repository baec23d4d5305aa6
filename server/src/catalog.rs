//! What can answer, right now?
//!
//! A catalog never changes. The writer makes a new one for each load, unload or plan and publishes it with one
//! atomic store; a request loads it once and keeps it to its end, so that all it sees agrees.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use tiltyard_runtime::deployment::Deployment;
use tiltyard_runtime::stats::Way;
use tiltyard_types::{Error, ErrorKind, RequestId, Result};

use crate::config::OnFailure;

/// Everything that can answer, at one moment.
#[derive(Clone, Default)]
pub struct Catalog {
    /// Counts up with each new catalog.
    pub revision: u64,
    /// Models by name, with all their versions and what became of them.
    pub models: BTreeMap<String, Model>,
}

/// A model's versions.
#[derive(Clone, Default)]
pub struct Model {
    /// By number.
    pub versions: BTreeMap<u64, Version>,
    /// The arms of the endpoint of the same name, resolved: whom a request without a version may reach.
    pub arms: Vec<Arc<Arm>>,
}

/// A version and its state.
#[derive(Clone)]
pub struct Version {
    /// Where it stands.
    pub state: VersionState,
    /// What answers, if it is ready. A version that is being replaced still answers with its old bytes.
    pub deployment: Option<Arc<Deployment>>,
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

/// One deployment in an endpoint's plan: whom a request reaches.
pub struct Arm {
    /// Its part in the plan.
    pub role: Role,
    /// What answers.
    pub deployment: Arc<Deployment>,
    /// Its version as the protocols write it.
    pub version: String,
    headers: HeaderMap,
    grpc_headers: HeaderMap,
}

static PREDICTION_ID: HeaderName = HeaderName::from_static("tiltyard-prediction-id");

/// An arm's part in a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Answers all that no challenger takes.
    Champion,
    /// Not part of a plan: the client named the version.
    Pinned,
}

impl Role {
    /// The name in metrics and headers.
    pub const fn name(self) -> &'static str {
        match self {
            Role::Champion => "champion",
            Role::Pinned => "pinned",
        }
    }

    /// Under which way its requests are counted.
    pub const fn way(self) -> Way {
        match self {
            Role::Champion => Way::Routed,
            Role::Pinned => Way::Pinned,
        }
    }
}

impl Arm {
    /// The arm of `endpoint` that is `deployment` in this part.
    pub fn new(endpoint: &str, role: Role, deployment: &Arc<Deployment>) -> Arc<Arm> {
        let identity = &deployment.identity;
        let pairs = [
            ("tiltyard-endpoint", endpoint.to_owned()),
            ("tiltyard-model", identity.model.clone()),
            ("tiltyard-version", identity.version.to_string()),
            ("tiltyard-digest", identity.digest.to_string()),
            ("tiltyard-arm", role.name().to_owned()),
        ];
        // A model's name may hold characters that a header cannot.
        let pairs = pairs
            .into_iter()
            .filter_map(|(name, value)| Some((HeaderName::from_static(name), HeaderValue::from_str(&value).ok()?)));
        let mut headers = HeaderMap::with_capacity(10);
        // The first, where a copy finds it at once.
        headers.insert(&PREDICTION_ID, HeaderValue::from_static(""));
        headers.extend(pairs);
        let mut grpc_headers = headers.clone();
        grpc_headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        let version = identity.version.to_string();
        Arc::new(Arm { role, deployment: Arc::clone(deployment), version, headers, grpc_headers })
    }

    /// What every answer tells about who gave it, as headers.
    pub fn headers(&self, id: RequestId) -> HeaderMap {
        answer_of(&self.headers, id)
    }

    /// The headers of an answer over gRPC: the same, and the content type.
    pub fn grpc_headers(&self, id: RequestId) -> HeaderMap {
        answer_of(&self.grpc_headers, id)
    }
}

/// Headers that were made once, for the answer to this request. To copy them is much less work than to insert them.
fn answer_of(made: &HeaderMap, id: RequestId) -> HeaderMap {
    let mut headers = made.clone();
    if let (Some(value), Ok(mut id)) = (headers.values_mut().next(), HeaderValue::from_bytes(&id.first_prediction())) {
        // No other answer has it, so that it is not worth a place in a connection's table of headers.
        id.set_sensitive(true);
        *value = id;
    }
    headers
}

impl Catalog {
    /// Resolves what a client named: with a version that version, else the endpoint's arm. Fails with what there is
    /// instead.
    pub fn route(&self, name: &str, version: Option<u64>) -> Result<Arc<Arm>> {
        let model = self.models.get(name).ok_or_else(|| self.unknown_model(name))?;
        let Some(number) = version else {
            return match model.arms.first() {
                Some(arm) => Ok(Arc::clone(arm)),
                None => Err(model.not_ready(name)),
            };
        };
        let version = model.versions.get(&number).ok_or_else(|| {
            let known = model.versions.keys().map(u64::to_string).collect::<Vec<_>>().join(", ");
            Error::not_found(format!("unknown version {number} of model {name:?}: there is {known}"))
        })?;
        match version.answering() {
            Some(deployment) => Ok(Arm::new(name, Role::Pinned, deployment)),
            None => Err(version.not_ready(name, number)),
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

    /// The failure for a name that is not there.
    pub fn unknown_model(&self, name: &str) -> Error {
        const SHOWN_MAX: usize = 12;
        let shown: String = name.chars().take(200).collect();
        let mut known: Vec<String> = self.models.keys().take(SHOWN_MAX).map(|name| format!("{name:?}")).collect();
        if self.models.len() > SHOWN_MAX {
            known.push(format!("… ({} in all)", self.models.len()));
        }
        let known = if known.is_empty() { "no models".to_owned() } else { known.join(", ") };
        Error::not_found(format!("unknown model {shown:?}: this server has {known}"))
    }
}

impl Model {
    /// Puts the newest version that answers into the endpoint of the model's name; none where the newest of all is out of
    /// service and shall be answered for by nobody.
    pub fn resolve_arms(&mut self, name: &str, on_failure: OnFailure) {
        let mut loaded = self.versions.values().rev().filter(|version| version.deployment.is_some());
        let newest = match on_failure {
            OnFailure::Previous => loaded.find_map(Version::answering),
            OnFailure::Refuse => loaded.next().and_then(Version::answering),
        };
        let is_newest = |arm: &&Arc<Arm>| newest.is_some_and(|newest| Arc::ptr_eq(newest, &arm.deployment));
        if self.arms.first().filter(is_newest).is_none() {
            self.arms = newest.map(|deployment| Arm::new(name, Role::Champion, deployment)).into_iter().collect();
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
    /// What answers requests to it, if anything does.
    pub fn answering(&self) -> Option<&Arc<Deployment>> {
        self.deployment.as_ref().filter(|_| !matches!(self.state, VersionState::Out(_)))
    }

    fn not_ready(&self, name: &str, number: u64) -> Error {
        let why = match &self.state {
            VersionState::Loading => "is still loading".to_owned(),
            VersionState::Out(reason) => (*reason).to_owned(),
            VersionState::Failed(reason) => format!("failed to load: {reason}"),
            VersionState::Unloaded => "is unloaded".to_owned(),
            VersionState::Ready => "is not ready".to_owned(),
        };
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
