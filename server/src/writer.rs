//! Who changes the catalog?
//!
//! One thread, this one. It looks at the repository, has versions loaded by loader threads beside it, and publishes a
//! new catalog after each change. All wishes to change something arrive here as commands, one after the other.

mod choice;
mod endpoints;
mod held;
mod loading;
mod plan;
mod release;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use tiltyard_runtime::load::{LoadError, Loader};
use tiltyard_runtime::repository::rest::{Now, WallClock};
use tiltyard_runtime::repository::settings::Settings;
use tiltyard_runtime::repository::{self, FoundModel, Problem, Scan};
use tiltyard_types::{Error, ErrorKind, Moment, Result};
use tokio::sync::{oneshot, watch};

use crate::catalog::{Catalog, Model, Version, VersionState};
use crate::clock;
use crate::config::ModelControl;
use crate::infer::Inference;
use crate::reaper::Reaper;
use crate::states::States;

pub use self::endpoints::{How, PlanSources, Report, Told};
pub use self::plan::{Following, Plan};

use self::choice::{Wanted, incompatible};
use self::endpoints::{Order, OrderAnswer, Plans};
use self::loading::{LoadJob, LoadedVersion, Tracked, announce, load_versions};

/// Stands for every model among names.
const ALL: &str = "*";

/// The way to ask for changes.
#[derive(Clone)]
pub struct Writer {
    commands: Sender<Command>,
    control: ModelControl,
    /// The plans of endpoints, as they are known now.
    pub plans: Arc<ArcSwap<Told>>,
    /// True once the first look has made every version ready or failed.
    pub first_look_done: watch::Receiver<bool>,
}

type Answer = oneshot::Sender<Result<()>>;

enum Command {
    Load {
        model: String,
        accept_incompatible: bool,
        answer: Answer,
    },
    Unload(String, Answer),
    Order(Order, OrderAnswer),
    Follow(Box<Following>),
    Loaded(Box<LoadedVersion>),
    /// Versions went out of service, or came back.
    Judge,
}

impl Writer {
    /// Starts the writer and its loader threads. The first look begins at once.
    pub fn start(
        plan: Plan,
        sources: PlanSources,
        loader: Arc<Loader>,
        inference: Arc<Inference>,
        reaper: Reaper,
        states: Arc<States>,
    ) -> std::io::Result<Writer> {
        let (commands, incoming) = unbounded();
        let (jobs, job_queue) = unbounded::<LoadJob>();
        for number in 0..plan.loader_threads.max(1) {
            let (job_queue, loader, results) = (job_queue.clone(), Arc::clone(&loader), commands.clone());
            let states = Arc::clone(&states);
            thread::Builder::new()
                .name(format!("tiltyard-load-{number}"))
                .spawn(move || load_versions(&job_queue, &loader, &states, &results))?;
        }
        let (done, first_look_done) = watch::channel(false);
        let control = plan.control;
        let explicit: BTreeSet<String> = plan.load_models.iter().cloned().collect();
        let told = Arc::<ArcSwap<Told>>::default();
        let plans = Plans::new(sources, Arc::clone(&told));
        let mut armed =
            if plan.control == ModelControl::Explicit { explicit.clone() } else { BTreeSet::from([ALL.to_owned()]) };
        armed.extend(plans.models());
        let state = State {
            plan,
            plans,
            inference,
            reaper,
            states,
            jobs,
            done,
            explicit,
            armed,
            tracked: BTreeMap::new(),
            wanted: BTreeMap::new(),
            unreadable: BTreeMap::new(),
            told: HashSet::new(),
            waiting: Vec::new(),
            held: Vec::new(),
            accepting: BTreeSet::new(),
            changed: false,
            missing: BTreeMap::new(),
            wall: WallClock::default(),
            looked_before: false,
        };
        thread::Builder::new().name("tiltyard-writer".into()).spawn(move || state.write(&incoming))?;
        Ok(Writer { commands, control, plans: told, first_look_done })
    }

    /// Loads a model's versions, or loads them again where their files changed. Ends when they are ready or failed. One whose
    /// signature breaks clients fails, unless that is to be accepted.
    pub async fn load(&self, model: &str, accept_incompatible: bool) -> Result<()> {
        self.ask(|answer| Command::Load { model: model.to_owned(), accept_incompatible, answer }).await
    }

    /// Takes a model out. Requests that reached it are still answered.
    pub async fn unload(&self, model: &str) -> Result<()> {
        self.ask(|answer| Command::Unload(model.to_owned(), answer)).await
    }

    /// Goes on with other settings, and looks at the repository with them where files are followed.
    pub fn follow(&self, following: Following) {
        drop(self.commands.send(Command::Follow(Box::new(following))));
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

struct State {
    plan: Plan,
    plans: Plans,
    inference: Arc<Inference>,
    reaper: Reaper,
    states: Arc<States>,
    jobs: Sender<LoadJob>,
    done: watch::Sender<bool>,
    /// Under explicit control: the models to hold.
    explicit: BTreeSet<String>,
    /// Models whose files are looked at: under watch all, always; else those that a start or a client asked for, until
    /// they are ready or failed.
    armed: BTreeSet<String>,
    tracked: BTreeMap<(String, u64), Tracked>,
    /// The versions that each model's policy chose at the last look.
    wanted: BTreeMap<String, Wanted>,
    /// Versions that are loaded, while lower ones of their model still are: which comes first must not depend on luck.
    held: Vec<LoadedVersion>,
    /// Models of which a client wants incompatible versions.
    accepting: BTreeSet<String>,
    /// Models of which something could not be read at the last look, and why.
    unreadable: BTreeMap<String, String>,
    /// Problems that were logged already.
    told: HashSet<String>,
    /// Clients that wait for a model to be ready or failed.
    waiting: Vec<(String, Answer)>,
    /// Whether the look that is going on changed anything worth a new catalog.
    changed: bool,
    /// Versions whose files are gone, and since when: they come back where somebody replaces a folder in two steps.
    missing: BTreeMap<(String, u64), Moment>,
    wall: WallClock,
    /// Whether an earlier look could have seen what is there now.
    looked_before: bool,
}

impl State {
    /// The thread's life: look, then follow commands until nobody can send any.
    fn write(mut self, incoming: &Receiver<Command>) {
        if let Some(begin) = self.plan.begin.take() {
            // Where nobody can tell any more, a look will say what is wrong.
            let _ = begin.recv();
        }
        let mut look_at = self.look();
        self.settle_proposals();
        self.note_first_look();
        loop {
            let received = match look_at {
                Some(at) => incoming.recv_timeout(at - clock::now()),
                None => incoming.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match received {
                Ok(Command::Load { model, accept_incompatible, answer }) => {
                    if self.begin_load(&model, answer) && accept_incompatible {
                        self.accepting.insert(model);
                    }
                    look_at = self.look();
                }
                Ok(Command::Unload(model, answer)) => drop(answer.send(self.unload(&model))),
                Ok(Command::Order(order, answer)) => {
                    if self.order(order, answer) {
                        look_at = self.look();
                    }
                }
                Ok(Command::Follow(following)) => {
                    let before = std::mem::replace(&mut self.plan.following, *following);
                    if before.strict && !self.plan.following.strict {
                        self.retry_refused();
                    }
                    look_at = self.look();
                }
                Ok(Command::Loaded(loaded)) => {
                    if self.finish_load(*loaded) {
                        look_at = self.look();
                    }
                }
                Ok(Command::Judge) => self.judge(),
                Err(RecvTimeoutError::Timeout) => look_at = self.look(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.settle_proposals();
            self.release();
            self.tell_waiting();
            self.note_first_look();
            self.disarm();
        }
    }

    /// Looks at the repository and starts what is to be loaded. Says when to look again.
    fn look(&mut self) -> Option<Moment> {
        let rests = self.look_at_plans();
        let rests = rests.into_iter().chain(self.plans.forget_removed(clock::now())).min();
        let scan = match repository::scan_with(&self.plan.root, self.plan.pushed.as_deref()) {
            Ok(scan) => scan,
            Err(error) => {
                let message = format!("the model repository {} cannot be read: {error}", self.plan.root.display());
                // What serves goes on serving: a repository out of reach is no reason to forget its models.
                self.note_looked_for(Some(&message));
                self.tell_once(message);
                // What waits to be loaded waits for another look, whoever decides what is.
                let again = (!self.armed.is_empty()).then_some(self.plan.following.poll_interval);
                return self.next_look(rests.into_iter().chain(again).min());
            }
        };
        let now = Now { steady: clock::now(), wall: SystemTime::now() };
        let at_least = self.wall.at_least(now);
        let at_least = (!std::mem::replace(&mut self.looked_before, true)).then_some(at_least);
        for Problem { path, message } in &scan.problems {
            self.tell_once(format!("{}: {message}", path.display()));
        }
        let mut catalog = self.catalog();
        let mut wait = rests.into_iter().chain(self.note_missing(&scan, &catalog, now.steady)).min();
        // A model of which something cannot be read goes on with what it has, and its versions tell why.
        self.changed |= self.unreadable != scan.unreadable;
        self.unreadable.clone_from(&scan.unreadable);
        for (name, model) in scan.models.iter().filter(|(name, _)| !scan.unreadable.contains_key(*name)) {
            let of_model = self.look_at_model(name, model, &mut catalog, now.steady, at_least);
            wait = wait.into_iter().chain(of_model).min();
        }
        self.take_out_missing(&scan, &mut catalog, now.steady);
        self.note_looked_for(None);
        if std::mem::take(&mut self.changed) {
            self.publish(catalog);
        }
        // Who waited for a version that has left just now need not wait for its load.
        let look_again = self.take_in_held().then_some(Duration::ZERO);
        self.next_look(wait.into_iter().chain(look_again).min())
    }

    /// When to look again, where something is waited for that will take this long if nothing happens.
    fn next_look(&self, wait: Option<Duration>) -> Option<Moment> {
        let poll = (self.plan.control == ModelControl::Watch).then_some(self.plan.following.poll_interval);
        wait.into_iter().chain(poll).min().map(|wait| clock::now() + wait)
    }

    /// Starts the loads one model needs. Says how long files must still rest that could not be read yet.
    fn look_at_model(
        &mut self,
        name: &str,
        model: &FoundModel,
        catalog: &mut Catalog,
        now: Moment,
        at_least: Option<SystemTime>,
    ) -> Option<Duration> {
        let held = |model: &Model| model.versions.values().any(|version| version.state != VersionState::Unloaded);
        let frozen = self.plan.control == ModelControl::None || catalog.models.get(name).is_some_and(held);
        if !self.is_armed(name) && frozen {
            return None;
        }
        let entry = catalog.models.entry(name.to_owned()).or_default();
        if self.plan.pushed_waits && entry.pushed != model.pushed {
            entry.pushed.clone_from(&model.pushed);
            self.changed = true;
        }
        let mut planned = self.plans.versions(name);
        planned.retain(|number| model.versions.contains_key(number));
        if (!self.holds(name) && planned.is_empty()) || !self.is_armed(name) {
            for number in model.versions.keys() {
                self.changed |= note_state(entry, *number, VersionState::Unloaded);
            }
            return None;
        }
        let mut wanted = if self.holds(name) { self.wanted_versions(name, model, entry) } else { Wanted::default() };
        wanted.hold(planned);
        self.wanted.insert(name.to_owned(), wanted.clone());
        let mut wait: Option<Duration> = None;
        for number in &wanted.all {
            let found = &model.versions[number];
            let tracked = self.tracked.entry((name.to_owned(), *number)).or_default();
            let unrest = tracked.rest.look(&found.fingerprint, now, at_least, self.plan.following.settle_time);
            if tracked.loading || tracked.tried.as_ref() == Some(&found.fingerprint) {
                tracked.unsettled = None;
                continue;
            }
            self.changed |= note_state(entry, *number, VersionState::Loading);
            if let Some(unrest) = unrest {
                tracked.note_unrest(name, *number, now);
                wait = wait.into_iter().chain([unrest]).min();
                continue;
            }
            tracked.unsettled = None;
            tracked.changing_told = false;
            tracked.loading = true;
            tracked.trouble = None;
            let served = entry.versions.get(number).and_then(|version| version.deployment.as_ref());
            // One that is out of service is worth a fresh start, with the same bytes too.
            let served = served.filter(|deployment| deployment.health.out().is_none());
            let served = served.map(|deployment| deployment.identity.artifact);
            let traffic = *self.done.borrow();
            let job = LoadJob { model: name.to_owned(), number: *number, found: found.clone(), served, traffic };
            drop(self.jobs.send(job));
        }
        self.take_out_superseded(name, &wanted, entry);
        wait
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

    fn wanted_versions(&self, name: &str, model: &FoundModel, known: &Model) -> Wanted {
        // What was pushed waits for a plan.
        let waits = |number: &u64| self.plan.pushed_waits && model.pushed.contains(number);
        let existing = model.versions.keys().filter(|number| !waits(number)).copied().collect();
        let fails = |number: u64| {
            let tried = self.tracked.get(&(name.to_owned(), number)).and_then(|tracked| tracked.tried.as_ref());
            let state = known.versions.get(&number).map(|version| &version.state);
            matches!(state, Some(VersionState::Failed(_))) && tried == Some(&model.versions[&number].fingerprint)
        };
        // Unreadable settings fail each version's load, with the reason.
        let own = Settings::read(&model.settings_files).ok().and_then(|settings| settings.version_policy);
        Wanted::choose(own.as_ref().unwrap_or(&self.plan.following.policy), &existing, fails)
    }

    /// Versions outside the policy leave once all those inside it are ready: a version that fails to load must not
    /// cost the one that served before it.
    fn take_out_superseded(&mut self, name: &str, wanted: &Wanted, model: &mut Model) {
        let planned = self.plans.versions(name);
        for number in wanted.superseded(model) {
            // What is missing has a time of its own.
            if self.missing.contains_key(&(name.to_owned(), number)) || planned.contains(&number) {
                continue;
            }
            self.take_out(name, number, model);
        }
    }

    /// Notes which versions have no files any more, and since when. Says how soon the first of them is to leave.
    fn note_missing(&mut self, scan: &Scan, catalog: &Catalog, now: Moment) -> Option<Duration> {
        let mut missing = BTreeMap::new();
        for (name, model) in &catalog.models {
            if !self.is_armed(name) || scan.unreadable.contains_key(name) {
                continue;
            }
            let (found, planned) = (scan.models.get(name), self.plans.versions(name));
            for (number, version) in &model.versions {
                // Once loaded it needs no files, and a plan needs it.
                let is_kept = planned.contains(number) && version.deployment.is_some();
                if !is_kept && found.is_none_or(|found| !found.versions.contains_key(number)) {
                    let version = (name.clone(), *number);
                    let since = self.missing.get(&version).copied().unwrap_or(now);
                    missing.insert(version, since);
                }
            }
        }
        self.missing = missing;
        let settle_time = self.plan.following.settle_time;
        self.missing.values().map(|since| settle_time.saturating_sub(now - *since)).min()
    }

    /// Models and versions whose files have been gone for long enough leave the catalog.
    fn take_out_missing(&mut self, scan: &Scan, catalog: &mut Catalog, now: Moment) {
        let settle_time = self.plan.following.settle_time;
        let gone = self.missing.extract_if(.., |_, since| now - *since >= settle_time);
        for ((name, number), _) in gone.collect::<Vec<_>>() {
            if let Some(model) = catalog.models.get_mut(&name) {
                self.take_out(&name, number, model);
            }
        }
        catalog.models.retain(|name, model| {
            scan.models.contains_key(name) || scan.unreadable.contains_key(name) || !model.versions.is_empty()
        });
    }

    fn take_out(&mut self, name: &str, number: u64, model: &mut Model) {
        self.changed = true;
        self.tracked.remove(&(name.to_owned(), number));
        self.held.retain(|held| held.model != name || held.number != number);
        // Who was refused for the sake of its clients may now come.
        let of_model = self.tracked.iter_mut().filter(|((model, _), tracked)| model == name && tracked.incompatible);
        of_model.for_each(|(_, tracked)| tracked.tried = None);
        if let Some(deployment) = model.versions.remove(&number).and_then(|version| version.deployment) {
            tracing::info!(model = name, version = number, "retired");
            self.reaper.retire(deployment);
        }
    }

    /// Has a model's versions looked at for a client. False where there is no such model, which is answered at once.
    fn begin_load(&mut self, model: &str, answer: Answer) -> bool {
        match repository::scan_with(&self.plan.root, self.plan.pushed.as_deref()) {
            Ok(scan) if scan.unreadable.contains_key(model) => {
                let message = format!("model {model:?} cannot be looked at: {}", scan.unreadable[model]);
                drop(answer.send(Err(Error::new(ErrorKind::NotReady, message))));
                false
            }
            Ok(scan) if scan.models.contains_key(model) => {
                self.explicit.insert(model.to_owned());
                self.armed.insert(model.to_owned());
                self.looked_before = false;
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
                true
            }
            Ok(_) => {
                let message = format!("model {model:?} is not in the repository {}", self.plan.root.display());
                drop(answer.send(Err(Error::not_found(message))));
                false
            }
            Err(error) => {
                let message = format!("the repository {} cannot be read: {error}", self.plan.root.display());
                drop(answer.send(Err(Error::new(ErrorKind::NotReady, message))));
                false
            }
        }
    }

    fn unload(&mut self, name: &str) -> Result<()> {
        let mut catalog = self.catalog();
        self.plans.may_leave(name)?;
        let Some(model) = catalog.models.get_mut(name) else { return Err(catalog.unknown_model(name)) };
        if self.explicit.remove(ALL) {
            self.explicit.extend(self.inference.catalog.load().models.keys().cloned());
        }
        self.explicit.remove(name);
        self.armed.remove(name);
        self.held.retain(|held| held.model != name);
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

    /// Takes a loader's result in. True if the files were still being written, or if a version fails and others are to be
    /// held in its stead, so that another look is due.
    fn take_in(&mut self, loaded: LoadedVersion) -> bool {
        let LoadedVersion { model: name, number, fingerprint, result } = loaded;
        // A version that was taken out while it loaded is not wanted any more.
        let Some(tracked) = self.tracked.get_mut(&(name.clone(), number)) else { return false };
        tracked.loading = false;
        if let Err(LoadError { reason, incomplete: true }) = &result {
            tracing::warn!(model = name, version = number, reason, "changed while it was loaded, which begins again");
            tracked.tried = None;
            tracked.rest.disturb(clock::now());
            return true;
        }
        tracked.rest.note_read();
        tracked.tried = Some(fingerprint);
        let mut catalog = self.catalog();
        let model = catalog.models.entry(name.clone()).or_default();
        let (mut retired, mut trouble) = (None, None);
        // At the start nobody has clients yet, and where the name has a plan nobody but it decides whom they meet.
        let speaks_for_itself = *self.done.borrow() && !self.plans.has(&name);
        let (planned, wanted) = (self.plans.versions(&name), self.wanted.get(&name));
        let is_for_plans = |other: u64| {
            !speaks_for_itself && planned.contains(&other) && !wanted.is_some_and(|wanted| wanted.chooses(other))
        };
        let breaks = match &result {
            Ok(Some(new)) if !self.accepting.contains(&name) => incompatible(model, new, is_for_plans),
            _ => None,
        };
        let incompatible = breaks.is_some();
        let failed = breaks.is_some() || result.is_err();
        let result = breaks.map_or(result, |reason| Err(LoadError { reason, incomplete: false }));
        let version = model.versions.entry(number).or_insert(Version::new(VersionState::Loading, None));
        match result {
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
            Ok(None) if version.deployment.is_some() => {}
            // What was served has left since.
            Ok(None) => {
                self.tracked.remove(&(name, number));
                return true;
            }
            Ok(Some(new)) => match &version.deployment {
                Some(old) if old.identity.digest == new.identity.digest && old.health.out().is_none() => return false,
                old => match old.as_ref().and_then(|old| self.refuse_other_bytes(old, &new)) {
                    Some(reason) => trouble = Some(reason),
                    None => {
                        announce(&name, number, old.as_deref(), &new);
                        retired = version.deployment.replace(new);
                        version.state = VersionState::Ready;
                    }
                },
            },
        }
        if let Some(tracked) = self.tracked.get_mut(&(name.clone(), number)) {
            tracked.trouble = trouble;
            tracked.incompatible = incompatible;
        }
        // Versions outside the policy can leave now, if this was the last one missing.
        if let Some(wanted) = self.wanted.get(&name).cloned().filter(|_| self.is_settled(&name)) {
            self.take_out_superseded(&name, &wanted, model);
        }
        self.publish(catalog);
        retired.into_iter().for_each(|deployment| self.reaper.retire(deployment));
        failed
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
        // Nobody waits for files to rest that no policy asks for any more.
        let is_wanted = |number| self.wanted.get(name).is_some_and(|wanted| wanted.all.contains(number));
        of_model.all(|((_, number), tracked)| !tracked.loading && (tracked.unsettled.is_none() || !is_wanted(number)))
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
            self.accepting.remove(&name);
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
            self.tell_missing_arms(&catalog);
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
        let on_failure = self.plan.on_failure;
        catalog.resolve(&self.plans.current(), on_failure);
        let catalog = Arc::new(catalog);
        self.inference.captures.iter().for_each(|captures| captures.prepare(&catalog));
        self.inference.drifts.prepare(&catalog);
        self.inference.catalog.store(Arc::clone(&catalog));
        let trouble = |name: &str, number| {
            let tracked = self.tracked.get(&(name.to_owned(), number));
            tracked.and_then(|tracked| tracked.trouble.clone()).or_else(|| self.unreadable.get(name).cloned())
        };
        self.states.note_catalog(&catalog, trouble);
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
            model.versions.insert(number, Version::new(state, None));
            true
        }
    }
}
