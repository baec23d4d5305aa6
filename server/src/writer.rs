//! Who changes the catalog?
//!
//! One thread, this one. It looks at the repository, has versions loaded by loader threads beside it, and publishes a
//! new catalog after each change. All wishes to change something arrive here as commands, one after the other.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use tiltyard_runtime::artifact::Fingerprint;
use tiltyard_runtime::deployment::{Deployment, Padding};
use tiltyard_runtime::load::{LoadError, Loader};
use tiltyard_runtime::repository::policy::VersionPolicy;
use tiltyard_runtime::repository::settings::Settings;
use tiltyard_runtime::repository::{self, FoundModel, FoundVersion, Problem, Scan};
use tiltyard_types::{Error, ErrorKind, Result};
use tokio::sync::{oneshot, watch};

use crate::catalog::{Catalog, Model, Version, VersionState};
use crate::config::{ModelControl, OnFailure};
use crate::infer::Inference;
use crate::reaper::Reaper;

/// Files older than this are taken to be whole; younger ones must look the same twice.
const SETTLED_AFTER: Duration = Duration::from_secs(2);

/// How soon a file that may still be written is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Stands for every model among names.
const ALL: &str = "*";

/// How the repository is served.
pub struct Plan {
    /// The folder or file with the models.
    pub root: PathBuf,
    /// Who decides what is loaded.
    pub control: ModelControl,
    /// Under explicit control: what to load at the start; `*` for all.
    pub load_models: Vec<String>,
    /// Which versions, where the model does not say.
    pub policy: VersionPolicy,
    /// Who answers for a version that is out of service.
    pub on_failure: OnFailure,
    /// Whether new bytes under an old number are refused.
    pub strict: bool,
    /// How often the folder is looked at.
    pub poll_interval: Duration,
    /// Threads that load.
    pub loader_threads: usize,
}

/// The way to ask for changes.
#[derive(Clone)]
pub struct Writer {
    commands: Sender<Command>,
    control: ModelControl,
    /// True once the first look has made every version ready or failed.
    pub first_look_done: watch::Receiver<bool>,
}

type Answer = oneshot::Sender<Result<()>>;

enum Command {
    Load(String, Answer),
    Unload(String, Answer),
    Loaded(Box<LoadedVersion>),
    /// Versions went out of service, or came back.
    Judge,
}

struct LoadedVersion {
    model: String,
    number: u64,
    fingerprint: Fingerprint,
    result: Result<Arc<Deployment>, LoadError>,
}

struct LoadJob {
    model: String,
    number: u64,
    found: FoundVersion,
}

impl Writer {
    /// Starts the writer and its loader threads. The first look begins at once.
    pub fn start(plan: Plan, loader: Loader, inference: Arc<Inference>, reaper: Reaper) -> std::io::Result<Writer> {
        let (commands, incoming) = unbounded();
        let (jobs, job_queue) = unbounded::<LoadJob>();
        let loader = Arc::new(loader);
        for number in 0..plan.loader_threads.max(1) {
            let (job_queue, loader, results) = (job_queue.clone(), Arc::clone(&loader), commands.clone());
            thread::Builder::new()
                .name(format!("tiltyard-load-{number}"))
                .spawn(move || load_versions(&job_queue, &loader, &results))?;
        }
        let (done, first_look_done) = watch::channel(false);
        let control = plan.control;
        let explicit: BTreeSet<String> = plan.load_models.iter().cloned().collect();
        let armed =
            if plan.control == ModelControl::Explicit { explicit.clone() } else { BTreeSet::from([ALL.to_owned()]) };
        let state = State {
            plan,
            inference,
            reaper,
            jobs,
            done,
            explicit,
            armed,
            tracked: BTreeMap::new(),
            wanted: BTreeMap::new(),
            told: HashSet::new(),
            waiting: Vec::new(),
            changed: false,
        };
        thread::Builder::new().name("tiltyard-writer".into()).spawn(move || state.write(&incoming))?;
        Ok(Writer { commands, control, first_look_done })
    }

    /// Loads a model's versions, or loads them again where their files changed. Ends when they are ready or failed.
    pub async fn load(&self, model: &str) -> Result<()> {
        self.ask(|answer| Command::Load(model.to_owned(), answer)).await
    }

    /// Takes a model out. Requests that reached it are still answered.
    pub async fn unload(&self, model: &str) -> Result<()> {
        self.ask(|answer| Command::Unload(model.to_owned(), answer)).await
    }

    /// Says that versions went out of service, or came back.
    pub(crate) fn judge(&self) {
        drop(self.commands.send(Command::Judge));
    }

    async fn ask(&self, command: impl FnOnce(Answer) -> Command) -> Result<()> {
        if self.control != ModelControl::Explicit {
            return Err(Error::new(
                ErrorKind::Forbidden,
                "loading and unloading by clients is off: start the server with --model-control explicit",
            ));
        }
        let (answer, answered) = oneshot::channel();
        drop(self.commands.send(command(answer)));
        answered.await.unwrap_or_else(|_| Err(Error::new(ErrorKind::Draining, "the server is shutting down")))
    }
}

fn load_versions(jobs: &Receiver<LoadJob>, loader: &Loader, results: &Sender<Command>) {
    while let Ok(LoadJob { model, number, found }) = jobs.recv() {
        let fingerprint = found.fingerprint.clone();
        let result = catch_unwind(AssertUnwindSafe(|| loader.load(&model, number, &found))).unwrap_or_else(|_| {
            Err(LoadError { reason: "the engine panicked while it loaded".into(), incomplete: false })
        });
        if results.send(Command::Loaded(Box::new(LoadedVersion { model, number, fingerprint, result }))).is_err() {
            return;
        }
    }
}

/// What is known of a version beyond the catalog.
#[derive(Default)]
struct Tracked {
    /// The files as they were at the last look.
    seen: Fingerprint,
    /// The files as they were when it was last loaded or failed.
    tried: Option<Fingerprint>,
    /// Whether a loader has it.
    loading: bool,
    /// What became of new bytes that were refused while the old ones go on serving.
    trouble: Option<String>,
    /// Whether its files may still be written, so that it will be looked at again.
    unsettled: bool,
}

struct State {
    plan: Plan,
    inference: Arc<Inference>,
    reaper: Reaper,
    jobs: Sender<LoadJob>,
    done: watch::Sender<bool>,
    /// Under explicit control: the models to hold.
    explicit: BTreeSet<String>,
    /// Models whose files are looked at: under watch all, always; else those that a start or a client asked for, until
    /// they are ready or failed.
    armed: BTreeSet<String>,
    tracked: BTreeMap<(String, u64), Tracked>,
    /// The versions that each model's policy chose at the last look.
    wanted: BTreeMap<String, BTreeSet<u64>>,
    /// Problems that were logged already.
    told: HashSet<String>,
    /// Clients that wait for a model to be ready or failed.
    waiting: Vec<(String, Answer)>,
    /// Whether the look that is going on changed anything worth a new catalog.
    changed: bool,
}

impl State {
    /// The thread's life: look, then follow commands until nobody can send any.
    fn write(mut self, incoming: &Receiver<Command>) {
        let mut look_in = self.look();
        self.note_first_look();
        loop {
            let received = match look_in {
                Some(wait) => incoming.recv_timeout(wait),
                None => incoming.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match received {
                Ok(Command::Load(model, answer)) => {
                    self.begin_load(&model, answer);
                    look_in = self.look();
                }
                Ok(Command::Unload(model, answer)) => drop(answer.send(self.unload(&model))),
                Ok(Command::Loaded(loaded)) => {
                    if self.finish_load(*loaded) {
                        look_in = Some(LOOK_AGAIN);
                    }
                }
                Ok(Command::Judge) => self.judge(),
                Err(RecvTimeoutError::Timeout) => look_in = self.look(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.tell_waiting();
            self.note_first_look();
            self.disarm();
        }
    }

    /// Looks at the repository and starts what is to be loaded. Says when to look again.
    fn look(&mut self) -> Option<Duration> {
        let scan = match repository::scan(&self.plan.root) {
            Ok(scan) => scan,
            Err(error) => {
                let message = format!("the model repository {} cannot be read: {error}", self.plan.root.display());
                self.tell_once(message);
                // What serves goes on serving: a repository out of reach is no reason to forget its models.
                return self.next_look(false);
            }
        };
        for Problem { path, message } in &scan.problems {
            self.tell_once(format!("{}: {message}", path.display()));
        }
        let mut unsettled = false;
        let mut catalog = self.catalog();
        // A model of which something cannot be read goes on with what it has.
        for (name, model) in scan.models.iter().filter(|(name, _)| !scan.unreadable.contains(*name)) {
            unsettled |= self.look_at_model(name, model, &mut catalog);
        }
        self.take_out_missing(&scan, &mut catalog);
        if std::mem::take(&mut self.changed) {
            self.publish(catalog);
        }
        self.next_look(unsettled)
    }

    fn next_look(&self, unsettled: bool) -> Option<Duration> {
        match self.plan.control {
            _ if unsettled => Some(LOOK_AGAIN),
            ModelControl::Watch => Some(self.plan.poll_interval),
            ModelControl::None | ModelControl::Explicit => None,
        }
    }

    /// Starts the loads one model needs. True if a file may still be written.
    fn look_at_model(&mut self, name: &str, model: &FoundModel, catalog: &mut Catalog) -> bool {
        let held = |model: &Model| model.versions.values().any(|version| version.state != VersionState::Unloaded);
        let frozen = self.plan.control == ModelControl::None || catalog.models.get(name).is_some_and(held);
        if !self.is_armed(name) && frozen {
            return false;
        }
        let entry = catalog.models.entry(name.to_owned()).or_default();
        if !self.holds(name) || !self.is_armed(name) {
            for number in model.versions.keys() {
                self.changed |= note_state(entry, *number, VersionState::Unloaded);
            }
            return false;
        }
        let wanted = self.wanted_versions(model);
        self.wanted.insert(name.to_owned(), wanted.clone());
        let mut unsettled = false;
        for number in &wanted {
            let found = &model.versions[number];
            let tracked = self.tracked.entry((name.to_owned(), *number)).or_default();
            let same_as_before = tracked.seen == found.fingerprint;
            tracked.seen = found.fingerprint.clone();
            tracked.unsettled = false;
            if tracked.loading || tracked.tried.as_ref() == Some(&found.fingerprint) {
                continue;
            }
            self.changed |= note_state(entry, *number, VersionState::Loading);
            if !same_as_before && found.fingerprint.age(SystemTime::now()) < SETTLED_AFTER {
                tracked.unsettled = true;
                unsettled = true;
                continue;
            }
            tracked.loading = true;
            tracked.trouble = None;
            let job = LoadJob { model: name.to_owned(), number: *number, found: found.clone() };
            drop(self.jobs.send(job));
        }
        self.take_out_superseded(name, &wanted, entry);
        unsettled
    }

    /// Whether a model is to be held at all.
    fn holds(&self, name: &str) -> bool {
        self.plan.control != ModelControl::Explicit || self.explicit.contains(name) || self.explicit.contains(ALL)
    }

    /// Whether a model's files are to be followed now.
    fn is_armed(&self, name: &str) -> bool {
        self.armed.contains(name) || self.armed.contains(ALL)
    }

    /// Stops following what was asked for once, when it is ready or failed.
    fn disarm(&mut self) {
        if self.plan.control == ModelControl::Watch || !*self.done.borrow() {
            return;
        }
        let catalog = self.inference.catalog.load();
        let settled = |name: &str| {
            let versions = catalog.models.get(name).map(|model| &model.versions);
            let loading =
                versions.is_some_and(|all| all.values().any(|version| version.state == VersionState::Loading));
            !loading && self.is_settled(name)
        };
        let kept = self.armed.iter().filter(|name| *name != ALL && !settled(name)).cloned().collect();
        self.armed = kept;
    }

    fn wanted_versions(&self, model: &FoundModel) -> BTreeSet<u64> {
        let existing = model.versions.keys().copied().collect();
        // Unreadable settings fail each version's load, with the reason.
        let own = Settings::read(&model.settings_files).ok().and_then(|settings| settings.version_policy);
        own.as_ref().unwrap_or(&self.plan.policy).choose(&existing)
    }

    /// Versions outside the policy leave once all those inside it are ready: a version that fails to load must not
    /// cost the one that served before it.
    fn take_out_superseded(&mut self, name: &str, wanted: &BTreeSet<u64>, model: &mut Model) {
        let ready =
            |number: &u64| model.versions.get(number).is_some_and(|version| version.state == VersionState::Ready);
        if !wanted.iter().all(ready) {
            return;
        }
        let superseded: Vec<u64> = model.versions.keys().filter(|number| !wanted.contains(number)).copied().collect();
        for number in superseded {
            self.take_out(name, number, model);
        }
    }

    /// Models and versions whose files are gone leave the catalog.
    fn take_out_missing(&mut self, scan: &Scan, catalog: &mut Catalog) {
        for (name, model) in &mut catalog.models {
            if !self.is_armed(name) || scan.unreadable.contains(name) {
                continue;
            }
            let found = scan.models.get(name);
            let missing: Vec<u64> = model
                .versions
                .keys()
                .filter(|number| found.is_none_or(|found| !found.versions.contains_key(number)))
                .copied()
                .collect();
            for number in missing {
                self.take_out(name, number, model);
            }
        }
        catalog.models.retain(|name, model| {
            scan.models.contains_key(name) || scan.unreadable.contains(name) || !model.versions.is_empty()
        });
    }

    fn take_out(&mut self, name: &str, number: u64, model: &mut Model) {
        self.changed = true;
        self.tracked.remove(&(name.to_owned(), number));
        if let Some(deployment) = model.versions.remove(&number).and_then(|version| version.deployment) {
            tracing::info!(model = name, version = number, "retired");
            self.reaper.retire(deployment);
        }
    }

    fn begin_load(&mut self, model: &str, answer: Answer) {
        match repository::scan(&self.plan.root) {
            Ok(scan) if scan.models.contains_key(model) => {
                self.explicit.insert(model.to_owned());
                self.armed.insert(model.to_owned());
                // A load asked for is tried, even where the same files failed before.
                for ((name, number), tracked) in &mut self.tracked {
                    let failed = self.inference.catalog.load().models.get(name).is_some_and(|model| {
                        model.versions.get(number).is_some_and(|version| version.state != VersionState::Ready)
                    });
                    if name == model && (failed || tracked.trouble.is_some()) {
                        tracked.tried = None;
                    }
                }
                self.waiting.push((model.to_owned(), answer));
            }
            Ok(_) => {
                let message = format!("model {model:?} is not in the repository {}", self.plan.root.display());
                drop(answer.send(Err(Error::not_found(message))));
            }
            Err(error) => {
                let message = format!("the repository {} cannot be read: {error}", self.plan.root.display());
                drop(answer.send(Err(Error::new(ErrorKind::NotReady, message))));
            }
        }
    }

    fn unload(&mut self, name: &str) -> Result<()> {
        let mut catalog = self.catalog();
        let Some(model) = catalog.models.get_mut(name) else { return Err(catalog.unknown_model(name)) };
        if self.explicit.remove(ALL) {
            self.explicit.extend(self.inference.catalog.load().models.keys().cloned());
        }
        self.explicit.remove(name);
        self.armed.remove(name);
        let mut retired = Vec::new();
        for (number, version) in &mut model.versions {
            self.tracked.remove(&(name.to_owned(), *number));
            version.state = VersionState::Unloaded;
            retired.extend(version.deployment.take());
        }
        self.publish(catalog);
        tracing::info!(model = name, "unloaded");
        retired.into_iter().for_each(|deployment| self.reaper.retire(deployment));
        Ok(())
    }

    /// Takes a loader's result in. True if the files were still being written, so that another look is due.
    fn finish_load(&mut self, loaded: LoadedVersion) -> bool {
        let LoadedVersion { model: name, number, fingerprint, result } = loaded;
        // A version that was taken out while it loaded is not wanted any more.
        let Some(tracked) = self.tracked.get_mut(&(name.clone(), number)) else { return false };
        tracked.loading = false;
        let incomplete = result.as_ref().is_err_and(|error| error.incomplete);
        tracked.tried = (!incomplete).then_some(fingerprint);
        let mut catalog = self.catalog();
        let model = catalog.models.entry(name.clone()).or_default();
        let version =
            model.versions.entry(number).or_insert(Version { state: VersionState::Loading, deployment: None });
        let (mut retired, mut trouble) = (None, None);
        match result {
            Err(error) if error.incomplete => return true,
            Err(error) => {
                tracing::error!(model = name, version = number, reason = error.reason, "cannot be served");
                match &version.deployment {
                    Some(_) => {
                        tracing::warn!(model = name, version = number, "the bytes loaded before go on serving");
                        trouble = Some(error.reason);
                    }
                    None => version.state = VersionState::Failed(error.reason),
                }
            }
            Ok(new) => match &version.deployment {
                // One that is out of service is worth a fresh start, with the same bytes too.
                Some(old) if old.identity.digest == new.identity.digest && old.health.out().is_none() => return false,
                Some(old) if self.plan.strict => {
                    let (old, new) = (old.identity.artifact.short(), new.identity.artifact.short());
                    tracing::error!(
                        model = name,
                        version = number,
                        old,
                        new,
                        "new bytes under an old version are refused (--strict)"
                    );
                    trouble = Some("new bytes under an old version are refused (--strict)".to_owned());
                }
                old => {
                    announce(&name, number, old.as_deref(), &new);
                    retired = version.deployment.replace(new);
                    version.state = VersionState::Ready;
                }
            },
        }
        if let Some(tracked) = self.tracked.get_mut(&(name.clone(), number)) {
            tracked.trouble = trouble;
        }
        // Versions outside the policy can leave now, if this was the last one missing.
        if let Some(wanted) = self.wanted.get(&name).cloned().filter(|_| self.is_settled(&name)) {
            self.take_out_superseded(&name, &wanted, model);
        }
        self.publish(catalog);
        retired.into_iter().for_each(|deployment| self.reaper.retire(deployment));
        false
    }

    /// Publishes who is out of service now, and who is not any more.
    fn judge(&mut self) {
        let mut catalog = self.catalog();
        if catalog.judge() {
            self.publish(catalog);
        }
    }

    /// Whether none of a model's versions is with a loader, or waits for its files to rest.
    fn is_settled(&self, name: &str) -> bool {
        let mut of_model = self.tracked.iter().filter(|((model, _), _)| model == name);
        of_model.all(|(_, tracked)| !tracked.loading && !tracked.unsettled)
    }

    fn tell_waiting(&mut self) {
        let catalog = self.inference.catalog.load();
        for (name, answer) in std::mem::take(&mut self.waiting) {
            let versions = catalog.models.get(&name).map(|model| &model.versions);
            let pending = versions
                .is_some_and(|versions| versions.values().any(|version| version.state == VersionState::Loading))
                || !self.is_settled(&name);
            if pending {
                self.waiting.push((name, answer));
                continue;
            }
            let refused = self.tracked.iter().filter(|((model, _), _)| *model == name);
            let refused = refused.filter_map(|((_, number), tracked)| Some((number, tracked.trouble.as_ref()?)));
            let refused = refused.map(|(number, trouble)| format!("version {number}: {trouble}"));
            let loaded = versions.is_some_and(|all| all.values().any(|version| version.deployment.is_some()));
            let failures: Vec<String> = versions
                .into_iter()
                .flatten()
                .filter_map(|(number, version)| match &version.state {
                    VersionState::Failed(reason) => Some(format!("version {number}: {reason}")),
                    _ => None,
                })
                .chain(refused)
                .collect();
            let result = match failures.is_empty() {
                true if loaded => Ok(()),
                true => Err(Error::new(
                    ErrorKind::NotReady,
                    format!("no version of {name:?} was loaded: its version policy chooses none, or it was taken out"),
                )),
                false => Err(Error::invalid(format!("failed to load {name:?}: {}", failures.join("; ")))),
            };
            drop(answer.send(result));
        }
    }

    fn note_first_look(&mut self) {
        if *self.done.borrow() {
            return;
        }
        let catalog = self.inference.catalog.load();
        let loading =
            catalog.models.values().flat_map(|model| model.versions.values()).any(|v| v.state == VersionState::Loading);
        if !loading {
            self.done.send_replace(true);
        }
    }

    fn tell_once(&mut self, message: String) {
        if self.told.insert(message.clone()) {
            tracing::warn!("{message}");
        }
    }

    /// A copy of the catalog, to be changed and published.
    fn catalog(&self) -> Catalog {
        Catalog::clone(&self.inference.catalog.load())
    }

    fn publish(&self, mut catalog: Catalog) {
        catalog.revision += 1;
        catalog.models.iter_mut().for_each(|(name, model)| model.resolve_arms(name, self.plan.on_failure));
        self.inference.catalog.store(Arc::new(catalog));
    }
}

/// Notes the state of a version that does not answer. True if that is news.
fn note_state(model: &mut Model, number: u64, state: VersionState) -> bool {
    match model.versions.get_mut(&number) {
        Some(version) if version.deployment.is_some() || version.state == state => false,
        Some(version) => {
            version.state = state;
            true
        }
        None => {
            model.versions.insert(number, Version { state, deployment: None });
            true
        }
    }
}

fn announce(name: &str, number: u64, old: Option<&Deployment>, new: &Deployment) {
    let identity = &new.identity;
    tracing::info!(
        model = name,
        version = number,
        engine = identity.engine,
        digest = identity.digest.short(),
        load_time = format!("{:.0?}", identity.load_time),
        "ready"
    );
    if let Some(old) = old {
        let (old, new) = (old.identity.artifact.short(), identity.artifact.short());
        tracing::warn!(model = name, version = number, old, new, "new bytes under an old version number");
    }
    if let Padding::Unproved(reason) = &new.padding {
        tracing::warn!(model = name, version = number, reason, "requests of different lengths are not batched");
    }
    for field in &new.settings.ignored {
        tracing::warn!(model = name, field, "config.pbtxt has a field that is not acted on");
    }
}
