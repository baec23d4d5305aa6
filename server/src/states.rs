//! Where does every version stand, since when, and what changed last?
//!
//! The catalog says who answers; this says the rest, for people: what a version goes through before it is ready, and after
//! it has left. Everybody who changes a version's state tells it here, and whoever watches is woken.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tiltyard_runtime::deployment::Deployment;
use tiltyard_runtime::load::Stage;
use tokio::sync::watch;

use crate::catalog::{Catalog, VersionState};
use crate::clock;

/// Changes that are kept for those who ask late.
const CHANGES_MAX: usize = 1024;

/// Versions that are told of after they have left.
const RETIRED_MAX: usize = 32;

/// Watchers that may wait at a time.
const WATCHERS_MAX: usize = 32;

/// Where a version stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Waits for its files to rest, is read, or is compiled.
    Loading,
    /// Answers golden examples, and proves what may share a run.
    Verifying,
    /// Runs what requests would else have to wait for.
    Warming,
    /// Answers.
    Ready,
    /// Answers only requests that it had before it was replaced or left.
    Draining,
    /// Is freed.
    Retired,
    /// Does not answer.
    Failed,
    /// Is loaded, and out of service since its runs keep failing or hang.
    Out,
    /// Was taken out on request.
    Unloaded,
}

impl State {
    /// The word in the admin API and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            State::Loading => "loading",
            State::Verifying => "verifying",
            State::Warming => "warming",
            State::Ready => "ready",
            State::Draining => "draining",
            State::Retired => "retired",
            State::Failed => "failed",
            State::Out => "out",
            State::Unloaded => "unloaded",
        }
    }

    /// Whether it is on the way to being ready.
    const fn is_coming(self) -> bool {
        matches!(self, State::Loading | State::Verifying | State::Warming)
    }
}

impl From<Stage> for State {
    fn from(stage: Stage) -> State {
        match stage {
            Stage::Loading => State::Loading,
            Stage::Verifying => State::Verifying,
            Stage::Warming => State::Warming,
        }
    }
}

/// One version's state, or one change of it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Standing {
    model: String,
    version: u64,
    state: State,
    /// Why it failed, or why new bytes were refused while the old ones serve; else empty.
    reason: String,
    /// The deployment's digest, where there is one.
    digest: String,
    /// Milliseconds since 1970.
    since: u64,
}

impl Standing {
    fn form(&self) -> Value {
        json!({
            "name": self.model,
            "version": self.version.to_string(),
            "state": self.state.name(),
            "reason": self.reason,
            "digest": self.digest,
            "since_ms": self.since,
        })
    }

    fn says_the_same(&self, other: &Standing) -> bool {
        Standing { since: 0, ..self.clone() } == Standing { since: 0, ..other.clone() }
    }
}

#[derive(Default)]
struct Inner {
    /// How many changes there were.
    sequence: u64,
    /// Versions that have a place in the catalog.
    here: BTreeMap<(String, u64), Standing>,
    /// Deployments that have left, the latest last.
    left: VecDeque<Standing>,
    /// The last changes, the latest last.
    changes: VecDeque<Standing>,
}

impl Inner {
    fn change(&mut self, standing: Standing) {
        self.sequence += 1;
        self.changes.push_back(standing);
        if self.changes.len() > CHANGES_MAX {
            self.changes.pop_front();
        }
    }
}

/// The states of all versions.
pub struct States {
    inner: Mutex<Inner>,
    sequence: watch::Sender<u64>,
    watchers: AtomicUsize,
}

impl Default for States {
    fn default() -> States {
        States { inner: Mutex::default(), sequence: watch::Sender::new(0), watchers: AtomicUsize::new(0) }
    }
}

impl States {
    /// Tells which stage of its load a version has come to. Nothing is told of new bytes for a version that serves: it stays
    /// ready.
    pub fn note_stage(&self, model: &str, version: u64, stage: Stage) {
        let mut inner = self.lock();
        let Some(standing) = inner.here.get_mut(&(model.to_owned(), version)) else { return };
        let state = State::from(stage);
        if standing.state.is_coming() && standing.state != state {
            (standing.state, standing.since) = (state, clock::unix_ms());
            let standing = standing.clone();
            inner.change(standing);
            self.wake(inner);
        }
    }

    /// Takes in a catalog that is published. `trouble` tells why new bytes of a version were refused.
    pub fn note_catalog(&self, catalog: &Catalog, trouble: impl Fn(&str, u64) -> Option<String>) {
        let now = clock::unix_ms();
        let mut inner = self.lock();
        let before = inner.sequence;
        for (name, model) in &catalog.models {
            for (number, version) in &model.versions {
                let (state, reason) = match (&version.deployment, &version.state) {
                    (Some(_), VersionState::Out(reason)) => (State::Out, (*reason).to_string()),
                    (Some(_), _) => (State::Ready, trouble(name, *number).unwrap_or_default()),
                    (None, VersionState::Failed(reason)) => (State::Failed, reason.clone()),
                    (None, VersionState::Unloaded) => (State::Unloaded, String::new()),
                    (None, _) => (State::Loading, String::new()),
                };
                let digest = version.deployment.as_ref().map(|deployment| deployment.identity.digest.to_string());
                let digest = digest.unwrap_or_default();
                let new = Standing { model: name.clone(), version: *number, state, reason, digest, since: now };
                let key = (name.clone(), *number);
                let same = inner.here.get(&key).is_some_and(|old| {
                    // The loader knows better how far it is.
                    old.says_the_same(&new) || (new.state == State::Loading && old.state.is_coming())
                });
                if !same {
                    inner.here.insert(key, new.clone());
                    inner.change(new);
                }
            }
        }
        inner.here.retain(|(name, number), _| {
            catalog.models.get(name).is_some_and(|model| model.versions.contains_key(number))
        });
        if inner.sequence > before {
            self.wake(inner);
        }
    }

    /// A deployment answers no new requests any more.
    pub(crate) fn note_draining(&self, deployment: &Deployment) {
        let identity = &deployment.identity;
        let standing = Standing {
            model: identity.model.clone(),
            version: identity.version,
            state: State::Draining,
            reason: String::new(),
            digest: identity.digest.to_string(),
            since: clock::unix_ms(),
        };
        let mut inner = self.lock();
        inner.left.push_back(standing.clone());
        inner.change(standing);
        self.wake(inner);
    }

    /// A deployment is freed.
    pub(crate) fn note_retired(&self, model: &str, version: u64, digest: &str) {
        let mut inner = self.lock();
        let found = inner.left.iter_mut().find(|left| {
            left.model == model && left.version == version && left.digest == digest && left.state == State::Draining
        });
        let Some(left) = found else { return };
        (left.state, left.since) = (State::Retired, clock::unix_ms());
        let standing = left.clone();
        inner.change(standing);
        // Those that drain are as many as there are; of those that are gone only the last are told.
        while inner.left.iter().filter(|left| left.state == State::Retired).count() > RETIRED_MAX {
            let oldest = inner.left.iter().position(|left| left.state == State::Retired);
            oldest.map(|position| inner.left.remove(position));
        }
        self.wake(inner);
    }

    /// Every version's state, those that left lately included, and how many changes there were until now.
    pub(crate) fn form(&self) -> (Vec<Value>, u64) {
        let inner = self.lock();
        (inner.here.values().chain(&inner.left).map(Standing::form).collect(), inner.sequence)
    }

    /// Waits until there are more than `after` changes, or until `wait` is over, and gives those that came since, as far as
    /// they are kept. `None` where too many wait already.
    pub(crate) async fn changes(&self, after: u64, wait: Duration) -> Option<Value> {
        let _place = Place::take(&self.watchers)?;
        let mut sequence = self.sequence.subscribe();
        // Who is late, or waits for what does not come, gets an answer without changes.
        drop(tokio::time::timeout(wait, sequence.wait_for(|sequence| *sequence > after)).await);
        let inner = self.lock();
        let fresh = usize::try_from(inner.sequence.saturating_sub(after)).unwrap_or(usize::MAX);
        let skipped = inner.changes.len().saturating_sub(fresh);
        let changes: Vec<Value> = inner.changes.iter().skip(skipped).map(Standing::form).collect();
        Some(json!({ "sequence": inner.sequence, "changes": changes }))
    }

    /// Lets nobody wait any more: the process is about to end.
    pub(crate) fn close(&self) {
        self.sequence.send_replace(u64::MAX);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self, inner: MutexGuard<'_, Inner>) {
        let sequence = inner.sequence;
        drop(inner);
        // Once closed, it stays closed.
        self.sequence.send_modify(|told| *told = sequence.max(*told));
    }
}

/// A watcher's place among those that may wait.
struct Place<'a>(&'a AtomicUsize);

impl Place<'_> {
    fn take(watchers: &AtomicUsize) -> Option<Place<'_>> {
        let taken = watchers.fetch_add(1, Relaxed);
        let place = Place(watchers);
        (taken < WATCHERS_MAX).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{Model, Version};

    fn catalog(states: &[(u64, VersionState)]) -> Catalog {
        let mut model = Model::default();
        for (number, state) in states {
            model.versions.insert(*number, Version::new(state.clone(), None));
        }
        Catalog { revision: 1, models: BTreeMap::from([("m".to_owned(), model)]), ..Catalog::default() }
    }

    fn told(states: &States, after: u64) -> Vec<String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let answer = runtime.block_on(states.changes(after, Duration::ZERO)).unwrap();
        let text = |change: &Value, key: &str| change[key].as_str().unwrap().to_owned();
        let line = |change| format!("{} {} {}", text(change, "version"), text(change, "state"), text(change, "reason"));
        answer["changes"].as_array().unwrap().iter().map(line).map(|line| line.trim_end().to_owned()).collect()
    }

    #[test]
    fn each_change_is_told_once_and_stages_are_kept() {
        let states = States::default();
        let note = |versions: &[(u64, VersionState)]| states.note_catalog(&catalog(versions), |_, _| None);
        note(&[(1, VersionState::Loading)]);
        states.note_stage("m", 1, Stage::Loading);
        states.note_stage("m", 1, Stage::Verifying);
        note(&[(1, VersionState::Loading), (2, VersionState::Loading)]);
        states.note_stage("m", 9, Stage::Verifying);
        note(&[(1, VersionState::Failed("no".to_owned())), (2, VersionState::Loading)]);
        states.note_stage("m", 1, Stage::Warming);
        assert_eq!(told(&states, 0), ["1 loading", "1 verifying", "2 loading", "1 failed no"]);
        assert_eq!(told(&states, 3), ["1 failed no"]);
        assert_eq!(told(&states, 4), [""; 0]);
        note(&[(2, VersionState::Loading)]);
        let (forms, sequence) = states.form();
        assert_eq!((forms.len(), sequence), (1, 4));
    }

    #[test]
    fn what_is_kept_and_who_waits_is_bounded() {
        let states = States::default();
        for round in 0..CHANGES_MAX as u64 + 10 {
            let state = if round % 2 == 0 { VersionState::Loading } else { VersionState::Unloaded };
            states.note_catalog(&catalog(&[(1, state)]), |_, _| None);
        }
        assert_eq!(told(&states, 0).len(), CHANGES_MAX);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let places: Vec<_> = std::iter::from_fn(|| Place::take(&states.watchers)).collect();
            assert_eq!(places.len(), WATCHERS_MAX);
            assert_eq!(states.changes(0, Duration::ZERO).await, None);
            drop(places);
            let waits = states.changes(u64::MAX - 1, Duration::from_secs(3600));
            states.close();
            assert!(waits.await.is_some(), "nobody waits once it is closed");
        });
    }
}
