//! How does this process keep the registry: versions, environments, approvals and who answered when?
//!
//! What stands there and what may follow is decided in `tiltyard-registry`, which is pure; the log is its truth. One thread, the
//! keeper, follows the log and appends to it. `push.rs` takes versions in, `promote.rs` has them answer, `served.rs` notes who did.
//! Nothing of a request waits for any of it: where the log cannot be read or written, everybody is answered as before.

mod beside;
mod files;
mod keeper;
mod lineage;
pub mod promote;
pub mod push;
mod served;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::thread;

use arc_swap::ArcSwapOption;
use crossbeam_channel::{Sender, unbounded};
use serde::{Deserialize, Serialize};
use tiltyard_registry::artifacts::{Blobs, Listed, Manifest};
use tiltyard_registry::audit::{Checkpoint, Exported, Part, Proof};
use tiltyard_registry::backup::Backup;
use tiltyard_registry::book::{Book, Decided, FileEntry, How, Model, Order, Principal, Version, VersionState};
use tiltyard_registry::{Head, Log};
use tiltyard_runtime::lock::{Lock, Locks};
use tiltyard_types::{Digest, Error, ErrorKind, Result};
use tokio::sync::oneshot;

use self::files::Files;
use self::lineage::Lineage;
use crate::alerts::Outside;
use crate::alerts::conditions::Review;
use crate::chain::Chain;
use crate::config::Config;
use crate::infer::Inference;
use crate::locks::calls::Caller;
use crate::rollouts::Rollouts;
use crate::writer::Writer;

/// What is told where there can be none.
const WITHOUT: &str = "the registry needs a data folder that can be written";

/// What is told until the log has been read.
const UNREAD: &str = "the registry's log is still being read: ask again in a moment";

/// What all who use the registry see of it.
#[derive(Debug, Default)]
struct Shared {
    book: RwLock<Book>,
    /// Why nothing can be changed, where that is so.
    closed: ArcSwapOption<String>,
    head: RwLock<Option<Head>>,
    /// Why what came into the environment does not answer, by model, and which version that is.
    troubles: RwLock<BTreeMap<String, (u64, String)>>,
}

/// What the keeper is asked for.
enum Job {
    /// To have something done.
    Order(Box<Order>, Principal, oneshot::Sender<Result<Decided>>),
    /// To have everything signed that is on the record.
    Checkpoint(oneshot::Sender<Result<Option<Checkpoint>>>),
    /// To see to everything once, and say when that is done.
    Look(oneshot::Sender<()>),
    /// To try at once what did not hold for a model.
    Retry(String, oneshot::Sender<()>),
}

/// The registry.
pub struct Registry {
    jobs: Option<Sender<Job>>,
    shared: Arc<Shared>,
    /// The log, and the folder beside which it lies.
    chain: Option<(Arc<Chain>, PathBuf)>,
    /// The files of versions; none where the data folder cannot be written.
    pub artifacts: Option<Arc<dyn Blobs>>,
    /// Where versions lie as folders, for those who load them.
    pub pushed: PathBuf,
    /// The folder that is served beside them.
    pub repository: PathBuf,
    /// The environment whose versions this server has answer.
    pub environment: String,
}

/// What the registry is made of before anything is served.
pub struct Shelf {
    shared: Arc<Shared>,
    data_dir: PathBuf,
    artifacts: Option<Arc<dyn Blobs>>,
    /// Where versions lie as folders.
    pub pushed: PathBuf,
}

impl Shelf {
    /// Opens the store of files in the data folder, and where replicas share them. Where that cannot be, it is said once, and there is no registry.
    pub fn open(data_dir: &Path, shared: Option<&Path>) -> Shelf {
        let folder = data_dir.join("registry");
        let artifacts = Files::open(&folder.join("artifacts"), shared);
        if let Err(error) = &artifacts {
            tracing::warn!(folder = %folder.display(), %error, "versions cannot be taken into the registry");
        }
        Shelf {
            shared: Arc::default(),
            data_dir: data_dir.to_owned(),
            artifacts: artifacts.ok().map(|files| Arc::new(files) as Arc<dyn Blobs>),
            pushed: folder.join("models"),
        }
    }

    /// Who knows what versions must run with. It stands beside their folders, so that a restart needs no log to load them.
    pub fn locks(&self) -> Arc<Locks> {
        let pushed = self.pushed.clone();
        Arc::new(move |model, version, artifact| {
            let written = fs::read_to_string(lock_file(&pushed, model, version)).ok()?;
            let Written { artifact: of, lock } = serde_json::from_str(&written).ok()?;
            (of == artifact.to_string()).then_some(lock)
        })
    }
}

/// A lock as it stands beside a version's folder.
#[derive(Serialize, Deserialize)]
struct Written {
    artifact: String,
    lock: Lock,
}

/// The lock of a version, in the form in which it stands beside its folder; none where it has none.
fn written_lock(version: &Version) -> Option<String> {
    let known = version.lock.as_ref()?;
    let number = |number: Option<u64>| number.and_then(|number| usize::try_from(number).ok()).unwrap_or(1);
    let lock = Lock {
        engine: known.engine.clone(),
        build: known.build.clone(),
        provider: known.provider.clone(),
        threads: number(known.threads),
        rows_max: number(known.batch_rows_max),
        opset: known.opset.and_then(|opset| i64::try_from(opset).ok()),
    };
    serde_json::to_string(&Written { artifact: version.artifact.to_string(), lock }).ok()
}

/// Where a version's lock stands.
fn lock_file(pushed: &Path, model: &str, version: u64) -> PathBuf {
    pushed.join(model).join(format!("{version}.lock"))
}

impl Registry {
    /// Starts the keeper, which reads the log in its own time.
    pub fn start(
        Shelf { shared, artifacts, pushed, data_dir }: Shelf,
        chain: Option<(Arc<Chain>, PathBuf)>,
        (repository, config): (PathBuf, &Config),
        writer: &Writer,
        inference: &Arc<Inference>,
        rollouts: &Rollouts,
    ) -> Result<Registry, String> {
        let (environment, lineage) = (config.environment.clone(), Lineage::start(config)?);
        let Some(chain) = chain else {
            shared.closed.store(Some(Arc::new(WITHOUT.to_owned())));
            return Ok(Registry { jobs: None, shared, chain: None, artifacts, pushed, repository, environment });
        };
        shared.closed.store(Some(Arc::new(UNREAD.to_owned())));
        let (jobs, incoming) = unbounded();
        let keeper = keeper::Keeper::new(
            chain.clone(),
            Arc::clone(&shared),
            (artifacts.clone(), pushed.clone(), data_dir),
            (environment.clone(), lineage),
            (writer.clone(), Arc::clone(inference), rollouts.clone()),
        );
        let started = thread::Builder::new().name("tiltyard-registry".into()).spawn(move || keeper.run(&incoming));
        started.map_err(|error| format!("a thread cannot be started: {error}"))?;
        Ok(Registry { jobs: Some(jobs), shared, chain: Some(chain), artifacts, pushed, repository, environment })
    }

    /// What stands on the record, as far as this process has read it.
    pub fn book(&self) -> RwLockReadGuard<'_, Book> {
        self.shared.book.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Up to where the log is read.
    pub fn head(&self) -> Option<Head> {
        *self.shared.head.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why nothing can be changed now; `None` where all is well.
    pub fn trouble(&self) -> Option<Arc<String>> {
        self.shared.closed.load_full()
    }

    /// Why a version that came into the environment does not answer, as it was tried last; `None` where it does, or that is not
    /// known yet.
    fn why_not(&self, model: &str, version: u64) -> Option<String> {
        let troubles = self.shared.troubles.read().unwrap_or_else(PoisonError::into_inner);
        troubles.get(model).filter(|(of, _)| *of == version).map(|(_, why)| why.clone())
    }

    /// Has something done that the rules allow, once the log has it.
    pub async fn order(&self, order: Order, by: Principal) -> Result<Decided> {
        let Some(jobs) = &self.jobs else { return Err(Error::unsupported(WITHOUT)) };
        let (answer, answered) = oneshot::channel();
        drop(jobs.send(Job::Order(Box::new(order), by, answer)));
        answered.await.unwrap_or_else(|_| Err(Error::new(ErrorKind::Draining, "the server is shutting down")))
    }

    /// Comes back when the keeper has seen to everything once more: what holds by now is on the record.
    pub async fn settle(&self) {
        let Some(jobs) = &self.jobs else { return };
        let (answer, answered) = oneshot::channel();
        drop(jobs.send(Job::Look(answer)));
        drop(answered.await);
    }

    /// Has the plan of a model's version tried at once that came into the environment and does not answer.
    async fn retry(&self, model: &str) {
        let Some(jobs) = &self.jobs else { return };
        let (answer, answered) = oneshot::channel();
        drop(jobs.send(Job::Retry(model.to_owned(), answer)));
        drop(answered.await);
    }

    /// Has everything signed that is on the record.
    pub async fn checkpoint(&self) -> Result<Option<Checkpoint>> {
        let Some(jobs) = &self.jobs else { return Err(Error::unsupported(WITHOUT)) };
        let (answer, answered) = oneshot::channel();
        drop(jobs.send(Job::Checkpoint(answer)));
        answered.await.unwrap_or_else(|_| Err(Error::new(ErrorKind::Draining, "the server is shutting down")))
    }

    /// Proves that an entry is on the record.
    pub async fn prove(&self, sequence: u64) -> Result<Proof> {
        self.checkpoint().await?;
        self.with_log(move |log, folder| beside::prove(log, folder, sequence)).await
    }

    /// Writes a part of the log to a folder of this machine, with what proves it.
    pub async fn export(&self, part: Part, to: PathBuf) -> Result<Exported> {
        self.checkpoint().await?;
        self.with_log(move |log, folder| beside::write_part(log, folder, part, &to)).await
    }

    /// Puts the registry by in a folder of this machine: the key that signs, and the files of versions, only where that is wanted.
    pub async fn back_up(&self, secret: bool, files: bool, to: PathBuf) -> Result<Backup> {
        self.checkpoint().await?;
        let wanted: BTreeSet<Digest> = {
            let book = self.book();
            let versions = book.models().flat_map(versions_of);
            versions
                .flat_map(|version| {
                    let baseline = version.baseline.as_ref().map(|baseline| baseline.digest);
                    version.files.iter().map(|file| file.sha256).chain(baseline)
                })
                .collect()
        };
        let (wanted, artifacts): (Vec<Digest>, _) = (wanted.into_iter().collect(), self.artifacts.clone());
        self.with_log(move |log, folder| {
            let blobs = artifacts.as_deref().filter(|_| files).map(|artifacts| (artifacts, wanted.as_slice()));
            beside::put_by(log, folder, secret, blobs, &to)
        })
        .await
    }

    /// Does something with the log, on a thread that may wait.
    async fn with_log<T: Send + 'static>(
        &self,
        what: impl FnOnce(&Log, &Path) -> tiltyard_registry::Result<T> + Send + 'static,
    ) -> Result<T> {
        let Some((chain, folder)) = self.chain.clone() else { return Err(Error::unsupported(WITHOUT)) };
        let done = tokio::task::spawn_blocking(move || what(&*chain.open()?, &folder)).await;
        let done = done.map_err(|_| Error::new(ErrorKind::Engine, "the thread that reads the log panicked"))?;
        Ok(done?)
    }

    /// The files of versions.
    pub fn artifacts(&self) -> Result<&Arc<dyn Blobs>> {
        self.artifacts.as_ref().ok_or_else(|| Error::unsupported(WITHOUT))
    }
}

impl Outside for Arc<Registry> {
    fn registry_trouble(&self) -> Option<String> {
        self.trouble().map(|why| String::clone(&why)).filter(|why| why != UNREAD && why != WITHOUT)
    }

    /// Of what is in this server's environment.
    fn reviews(&self) -> Vec<Review> {
        let book = self.book();
        let Some(environment) = book.environment(&self.environment) else { return Vec::new() };
        let here = environment.positions.keys().filter_map(|model| {
            let at = environment.current(model)?;
            let due_ms = book.version(model, at.version)?.review_ms.filter(|due_ms| *due_ms > 0)?;
            Some(Review { model: model.clone(), version: at.version.to_string(), due_ms })
        });
        here.collect()
    }
}

/// Somebody as the record names them. Where there are no locks, whoever reached the admin port is nobody in particular.
pub fn principal(caller: Option<&Caller>, model: Option<&str>) -> Principal {
    let Some(caller) = caller else {
        return Principal { name: "somebody".to_owned(), roles: vec!["admin".to_owned()], how: How::Nothing };
    };
    let roles = caller.roles_for(model).into_iter().map(str::to_owned).collect();
    Principal { name: caller.name.clone(), roles, how: caller.how }
}

/// This program, where it says something of itself.
fn program() -> Principal {
    Principal { name: "tiltyard".to_owned(), roles: Vec::new(), how: How::Program }
}

/// A model's versions, by number.
pub fn versions_of(model: &Model) -> impl Iterator<Item = &Version> {
    model.versions.iter()
}

/// The folder of a version, for those who load it.
fn folder_of(pushed: &Path, model: &str, version: u64) -> PathBuf {
    pushed.join(model).join(version.to_string())
}

/// Whether a version may be loaded.
fn may_load(state: VersionState) -> bool {
    state != VersionState::Quarantined
}

/// The files of a version as the store of files knows them.
fn manifest(files: &[FileEntry]) -> Result<Manifest> {
    let listed = |file: &FileEntry| Listed { path: file.path.clone(), size: file.size, sha256: file.sha256 };
    Ok(Manifest::new(files.iter().map(listed).collect())?)
}

/// A digest in the form that people know.
fn text_of(digest: &Digest) -> String {
    digest.to_string()
}
