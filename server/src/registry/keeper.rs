//! What does the registry's thread do, all day long?
//!
//! It follows the log, decides what it is asked for by what stands there, and appends what follows. Four times a second it sees
//! whether what is on the record is so: versions lie where they are loaded from, the environment's versions answer, promotions
//! whose rollout has ended have ended, and who answers is noted. It keeps nothing that the log does not have.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};
use tiltyard_registry::artifacts::{Blobs, materialise};
use tiltyard_registry::audit::Checkpoint;
use tiltyard_registry::book::{Decided, Order, Outcome, Principal, VersionState, Wants, lineage};
use tiltyard_registry::{Draft, Head, Log};
use tiltyard_types::{Digest, Error, ErrorKind, Moment, Result};
use tokio::sync::oneshot;

use super::beside::Beside;
use super::lineage::Lineage;
use super::{Job, Shared, folder_of, lock_file, manifest, may_load, program, versions_of, written_lock};
use crate::chain::Chain;
use crate::clock;
use crate::drift;
use crate::infer::Inference;
use crate::rollouts::Rollouts;
use crate::writer::{Report, Writer};

/// How long nothing is looked at.
const TICK: Duration = Duration::from_millis(250);

/// How long until what failed is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// How often others may come first until somebody is told to ask again.
const TRIES: usize = 16;

/// The thread's state.
pub(super) struct Keeper {
    chain: Arc<Chain>,
    beside: Beside,
    lineage: Lineage,
    pub(super) shared: Arc<Shared>,
    artifacts: Option<Arc<dyn Blobs>>,
    pushed: PathBuf,
    pub(super) environment: String,
    pub(super) writer: Writer,
    pub(super) inference: Arc<Inference>,
    pub(super) rollouts: Rollouts,
    /// The log, and up to where it is in the book.
    open: Option<(Arc<Log>, Head)>,
    retry: Moment,
    /// Plans on their way, by endpoint, and when what failed is tried again.
    pub(super) proposed: BTreeMap<String, Proposed>,
    /// The baselines that lie where they are looked for, by version.
    laid: BTreeMap<(String, u64), Digest>,
    /// The locks that stand beside the versions' folders.
    locked: BTreeMap<(String, u64), String>,
    data_dir: PathBuf,
    /// What was said once of what cannot be done.
    told: BTreeMap<String, String>,
}

/// A plan that the environment wants.
pub(super) struct Proposed {
    pub(super) version: u64,
    pub(super) pending: Option<oneshot::Receiver<Result<Report>>>,
    pub(super) retry: Moment,
}

impl Keeper {
    pub(super) fn new(
        (chain, folder): (Arc<Chain>, PathBuf),
        shared: Arc<Shared>,
        (artifacts, pushed, data_dir): (Option<Arc<dyn Blobs>>, PathBuf, PathBuf),
        (environment, lineage): (String, Lineage),
        (writer, inference, rollouts): (Writer, Arc<Inference>, Rollouts),
    ) -> Keeper {
        Keeper {
            chain,
            beside: Beside::new(folder),
            lineage,
            shared,
            artifacts,
            pushed,
            environment,
            writer,
            inference,
            rollouts,
            open: None,
            retry: Moment::default(),
            proposed: BTreeMap::new(),
            laid: BTreeMap::new(),
            locked: BTreeMap::new(),
            data_dir,
            told: BTreeMap::new(),
        }
    }

    /// The thread's life.
    pub(super) fn run(mut self, jobs: &Receiver<Job>) {
        let mut next = clock::now();
        loop {
            match jobs.recv_timeout(next - clock::now()) {
                Ok(Job::Order(order, by, answer)) => drop(answer.send(self.order(&order, &by))),
                Ok(Job::Checkpoint(answer)) => drop(answer.send(self.checkpoint())),
                Ok(Job::Look(answer)) => {
                    self.tick();
                    let _ = answer.send(());
                }
                Ok(Job::Retry(model, answer)) => {
                    self.proposed.remove(&model);
                    self.tick();
                    let _ = answer.send(());
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.tick();
                    next = clock::now() + TICK;
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn tick(&mut self) {
        if self.open.is_none() && clock::now() < self.retry {
            return;
        }
        if let Err(error) = self.follow() {
            self.close(&error);
            return;
        }
        self.lay_out();
        self.end_promotions();
        self.reconcile();
        self.note_served();
        if let Some((log, _)) = &self.open {
            self.beside.follow(log);
        }
    }

    /// Has everything signed that is on the record.
    fn checkpoint(&mut self) -> Result<Option<Checkpoint>> {
        self.follow()?;
        match &self.open {
            Some((log, _)) => Ok(self.beside.checkpoint(log)?),
            None => Ok(None),
        }
    }

    /// Takes in what the log has that the book has not.
    fn follow(&mut self) -> Result<()> {
        let (log, mut head) = match self.open.take() {
            Some(open) => open,
            None => {
                // What is read again is read from the start.
                *self.shared.book.write().unwrap_or_else(PoisonError::into_inner) = Default::default();
                (self.chain.open()?, Head::START)
            }
        };
        if log.remote().is_none() && log.head() == head && head != Head::START {
            self.open = Some((log, head));
            return Ok(());
        }
        for entry in log.entries(head.sequence + 1)? {
            let entry = entry?;
            self.shared.book.write().unwrap_or_else(PoisonError::into_inner).take(&entry)?;
            head = entry.head();
        }
        *self.shared.head.write().unwrap_or_else(PoisonError::into_inner) = Some(head);
        if self.shared.closed.swap(None).is_some() {
            tracing::info!(entries = head.sequence, "the registry is open");
        }
        self.open = Some((log, head));
        Ok(())
    }

    fn close(&mut self, error: &Error) {
        let why = format!("the registry's log cannot be used: {}", error.message());
        if self.shared.closed.load().as_deref().map(String::as_str) != Some(why.as_str()) {
            tracing::error!(log = self.chain.place(), why, "nothing of the registry changes; what serves goes on");
        }
        self.shared.closed.store(Some(Arc::new(why)));
        (self.open, self.retry) = (None, clock::now() + RETRY);
    }

    /// Decides what somebody wants by what stands on the record, and has the log take what follows.
    pub(super) fn order(&mut self, order: &Order, by: &Principal) -> Result<Decided> {
        let decided = self.try_order(order, by);
        if let Err(error) = &decided
            && error.kind() == ErrorKind::NotReady
        {
            self.close(error);
        }
        decided
    }

    fn try_order(&mut self, order: &Order, by: &Principal) -> Result<Decided> {
        for _ in 0..TRIES {
            self.follow()?;
            let Some((log, head)) = &self.open else { break };
            let now_ms = clock::unix_ms();
            let mut decided = {
                let book = self.shared.book.read().unwrap_or_else(PoisonError::into_inner);
                book.decide(self.named(order.clone(), &book), by, now_ms)?
            };
            decided.facts.iter_mut().try_for_each(|fact| self.beside.sign(fact))?;
            let drafts = decided.facts.iter().map(|fact| Draft::new(now_ms, fact.kind(), fact));
            let drafts = drafts.collect::<tiltyard_registry::Result<Vec<_>>>()?;
            if drafts.is_empty() {
                return Ok(decided);
            }
            match log.record_after(*head, &drafts) {
                Ok(_) => {
                    self.follow()?;
                    self.tell_others(&decided, now_ms);
                    return Ok(decided);
                }
                Err(tiltyard_registry::Error::Moved { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::new(ErrorKind::Overloaded, "others change the registry all the time: ask again in a moment"))
    }

    /// Has other systems hear what is on the record now.
    fn tell_others(&self, decided: &Decided, now_ms: u64) {
        if self.lineage.is_on() {
            let book = self.shared.book.read().unwrap_or_else(PoisonError::into_inner);
            let events = decided.facts.iter().flat_map(|fact| lineage::events(&book, fact, now_ms));
            events.for_each(|event| self.lineage.tell(event));
        }
    }

    /// Gives what is to be made a name of its own.
    fn named(&self, mut order: Order, book: &tiltyard_registry::book::Book) -> Order {
        match &mut order.wants {
            Wants::Request(ask) if ask.id.is_empty() => {
                ask.id = format!("{}-{}-r{}", ask.model, ask.environment, book.requests().count() + 1);
            }
            Wants::Promote(promote) if promote.id.is_empty() => {
                promote.id = format!("{}-{}-p{}", promote.model, promote.environment, book.promotions().count() + 1);
            }
            _ => {}
        }
        order
    }

    /// Has each version lie where it is loaded from, and none that must not be loaded.
    fn lay_out(&mut self) {
        let Some(artifacts) = self.artifacts.clone() else { return };
        let (mut wanted, mut locks) = (Vec::new(), Vec::new());
        {
            let book = self.shared.book.read().unwrap_or_else(PoisonError::into_inner);
            for version in book.models().flat_map(versions_of) {
                let folder = folder_of(&self.pushed, &version.model, version.number);
                let of = (version.model.clone(), version.number);
                if let Some(lock) = written_lock(version).filter(|lock| self.locked.get(&of) != Some(lock)) {
                    locks.push((of, lock));
                }
                match (may_load(version.state), folder.exists()) {
                    (true, false) => {
                        wanted.push((folder, version.files.clone(), version.model.clone(), version.number))
                    }
                    (false, true) => drop(fs::remove_dir_all(&folder)),
                    _ => {}
                }
            }
        }
        // Whoever loads a version finds its lock before its folder.
        for (of, lock) in locks {
            let place = lock_file(&self.pushed, &of.0, of.1);
            let part = place.with_extension("tmp");
            let made = place.parent().map_or(Ok(()), fs::create_dir_all);
            match made.and_then(|()| fs::write(&part, &lock)).and_then(|()| fs::rename(&part, &place)) {
                Ok(()) => drop(self.locked.insert(of, lock)),
                Err(error) => {
                    let (of, what) = (format!("{}@{}", of.0, of.1), format!("its lock is not here: {error}"));
                    wanted.retain(|(_, _, model, number)| format!("{model}@{number}") != of);
                    self.tell_once(of, what);
                }
            }
        }
        self.lay_baselines(&*artifacts);
        for (folder, files, model, number) in wanted {
            // Another replica may have them; they come where this one is told of them too.
            let laid = manifest(&files).and_then(|files| Ok(materialise(&*artifacts, &files, &folder)?));
            if let Err(error) = laid {
                self.tell_once(format!("{model}@{number}"), format!("its files are not here: {error}"));
            }
        }
    }

    /// Has the baseline of each version lie where its traffic is watched by it.
    fn lay_baselines(&mut self, artifacts: &dyn Blobs) {
        let mut wanted = Vec::new();
        {
            let book = self.shared.book.read().unwrap_or_else(PoisonError::into_inner);
            for version in book.models().flat_map(versions_of) {
                let Some(baseline) = &version.baseline else { continue };
                let of = (version.model.clone(), version.number);
                if self.laid.get(&of) != Some(&baseline.digest) {
                    wanted.push((
                        of,
                        drift::baseline_place(&self.data_dir, &version.model, &version.artifact),
                        baseline.digest,
                    ));
                }
            }
        }
        for (of, place, digest) in wanted {
            let written = artifacts.open(digest).map_err(Error::from).and_then(|mut blob| {
                let failed =
                    |error: io::Error| Error::new(ErrorKind::NotReady, format!("{}: {error}", place.display()));
                let part = place.with_extension("tmp");
                place.parent().map_or(Ok(()), fs::create_dir_all).map_err(failed)?;
                let copied = fs::File::create(&part).and_then(|mut file| io::copy(&mut blob, &mut file));
                copied.and_then(|_| fs::rename(&part, &place)).map_err(failed)
            });
            match written {
                Ok(()) => drop(self.laid.insert(of, digest)),
                Err(error) => {
                    self.tell_once(format!("{}@{}", of.0, of.1), format!("its baseline is not here: {error}"))
                }
            }
        }
    }

    pub(super) fn tell_once(&mut self, of: String, what: String) {
        if self.told.get(&of) != Some(&what) {
            tracing::warn!(of, "{what}");
            self.told.insert(of, what);
        }
    }

    /// Does what this program itself sees to. What the rules refuse is said once.
    pub(super) fn see_to(&mut self, of: &str, wants: Wants) -> Option<Outcome> {
        match self.order(&Order::from(wants), &program()) {
            Ok(decided) => Some(decided.outcome),
            Err(error) => {
                self.tell_once(of.to_owned(), error.message().to_owned());
                None
            }
        }
    }

    /// Whether a version may still be loaded.
    pub(super) fn is_quarantined(&self, model: &str, version: u64) -> bool {
        let book = self.shared.book.read().unwrap_or_else(PoisonError::into_inner);
        book.version(model, version).is_some_and(|version| version.state == VersionState::Quarantined)
    }
}
