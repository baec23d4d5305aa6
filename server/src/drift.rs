//! Is what models are asked, and what they answer, still what they were made for?
//!
//! `tiltyard_drift` counts and judges; here is the way to it. Each thread that serves counts into a shard of its own. One thread
//! that gives way empties the shards once a second, closes windows, tells what changed, and keeps all of it in the data folder:
//!
//! ```text
//! <data dir>/drift/<model>-<first 16 hexadecimal digits of the artifact>/
//!   baseline.json    what is expected: of a file (`tiltyard drift baseline`), or of first traffic
//!   windows, watch   what was counted, and how it stands
//! ```
//!
//! A baseline belongs to an artifact: whoever answers with these bytes is watched by it, and new bytes want a new one.

mod features;
pub(crate) mod told;
mod watched;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tiltyard_drift::baseline::Baseline;
use tiltyard_runtime::deployment::Deployment;
use tiltyard_types::{Digest, NamedTensor, Tensor};

pub(crate) use self::told::Levels;
pub(crate) use self::watched::Watched;
use crate::alerts::conditions::Drifting;
use crate::arm::{Arm, PINNED};
use crate::catalog::Catalog;
use crate::config::{Config, DriftMode};
use crate::{clock, cores};

/// How often shards are emptied.
const INTERVAL: Duration = Duration::from_secs(1);

/// Requests that a recorder holds at most.
const RECORDED_MAX: usize = 1 << 20;

/// Watches what models are asked.
pub struct Drifts {
    mode: DriftMode,
    folder: PathBuf,
    shards: usize,
    /// By model and artifact.
    watched: Mutex<BTreeMap<(String, String), Arc<Watched>>>,
    /// What is asked and answered, for whoever makes a baseline of it.
    recorder: OnceLock<Mutex<Vec<Seen>>>,
    is_over: AtomicBool,
}

/// A request that a recorder saw.
pub struct Seen {
    /// What was asked.
    pub inputs: Vec<NamedTensor>,
    /// What was answered, by the outputs' names.
    pub outputs: Vec<(String, Tensor)>,
    /// Of whose.
    pub arm: Arc<Arm>,
}

/// A request that is counted once it is answered: one that is not says nothing of a model's traffic.
pub struct Asked {
    arm: Arc<Arm>,
    watched: Option<Arc<Watched>>,
    key: Option<u64>,
    inputs: Vec<NamedTensor>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drifts {
    /// Watches as the settings say.
    pub fn new(config: &Config) -> Drifts {
        Drifts {
            mode: config.drift,
            folder: config.data_dir.join("drift"),
            shards: cores::granted().max(config.frontend_threads.or(0)),
            watched: Mutex::default(),
            recorder: OnceLock::new(),
            is_over: AtomicBool::new(false),
        }
    }

    /// Starts the thread that keeps what is counted, where anything is.
    pub fn start(self: &Arc<Self>) -> std::io::Result<()> {
        if self.mode == DriftMode::Off {
            return Ok(());
        }
        let drifts = Arc::downgrade(self);
        thread::Builder::new().name("tiltyard-drift".into()).spawn(move || {
            tiltyard_runtime::priority::give_way();
            while let Some(drifts) = drifts.upgrade() {
                if drifts.is_over.load(Relaxed) {
                    return;
                }
                drifts.keep(false);
                drop(drifts);
                thread::sleep(INTERVAL);
            }
        })?;
        Ok(())
    }

    /// Records whole requests from now on.
    pub fn record(&self) {
        self.recorder.get_or_init(Mutex::default);
    }

    /// What was recorded.
    pub fn recorded(&self) -> Vec<Seen> {
        self.recorder.get().map(|seen| std::mem::take(&mut *lock(seen))).unwrap_or_default()
    }

    /// Opens what is known of each arm, before a request reaches one. It reads the disk.
    pub fn prepare(&self, catalog: &Catalog) {
        if self.mode != DriftMode::Off {
            for arm in catalog.arms() {
                let _ = self.of(&arm);
            }
        }
    }

    /// What watches an arm; `None` for one that is asked by its version's number, which is nobody's traffic.
    fn of<'a>(&self, arm: &'a Arm) -> Option<&'a Arc<Watched>> {
        let open = || {
            let identity = &arm.deployment.identity;
            let key = (identity.model.clone(), identity.artifact.to_string());
            let mut all = lock(&self.watched);
            let watched = all.entry(key).or_insert_with(|| {
                Arc::new(Watched::open(&self.folder, &arm.deployment, self.shards, self.mode, clock::unix_ms()))
            });
            Some(Arc::clone(watched))
        };
        arm.watched.get_or_init(|| if arm.name == PINNED { None } else { open() }).as_ref()
    }

    /// Remembers what an arm is asked, where that is counted. `key` is a hash of whose request it is, where that is known.
    pub fn asked(&self, arm: &Arc<Arm>, key: Option<u64>, inputs: &[NamedTensor]) -> Option<Asked> {
        let watched = if self.mode == DriftMode::Off { None } else { self.of(arm) };
        let watched = watched.filter(|watched| watched.wants()).map(Arc::clone);
        let wanted = watched.is_some() || self.recorder.get().is_some();
        wanted.then(|| Asked { arm: Arc::clone(arm), watched, key, inputs: inputs.to_vec() })
    }

    /// Counts it with what was answered: outputs by their place in the signature.
    pub fn answered(&self, asked: Asked, outputs: &[Tensor], wanted: &[usize]) {
        let Asked { arm, watched, key, inputs } = asked;
        if let Some(watched) = watched {
            watched.count(key, &inputs, (outputs, wanted), clock::unix_ms());
        }
        if let Some(recorder) = self.recorder.get() {
            let specs = &arm.deployment.signature.outputs;
            let named = |(&position, tensor): (&usize, &Tensor)| (specs[position].name.clone(), tensor.clone());
            let outputs = wanted.iter().zip(outputs).map(named).collect();
            let mut seen = lock(recorder);
            if seen.len() < RECORDED_MAX {
                seen.push(Seen { inputs, outputs, arm });
            }
        }
    }

    fn all(&self) -> Vec<Arc<Watched>> {
        lock(&self.watched).values().cloned().collect()
    }

    /// Empties shards, closes windows, tells what changed. `is_end`: keeps all of it now.
    fn keep(&self, is_end: bool) {
        let now_ms = clock::unix_ms();
        self.all().iter().for_each(|watched| watched.keep(now_ms, is_end));
        // Whom no arm has any more is written down and let go.
        lock(&self.watched).retain(|_, watched| {
            let is_there = Arc::strong_count(watched) > 1;
            if !is_there {
                watched.keep(now_ms, true);
            }
            is_there
        });
    }

    /// Keeps all that was counted, at the end of the process.
    pub fn end(&self) {
        self.is_over.store(true, Relaxed);
        if self.mode != DriftMode::Off {
            self.keep(true);
        }
    }

    /// How everything stands, for programs.
    /// `query` may say windows=raw, and model=NAME.
    pub fn form(&self, query: &str) -> Value {
        if self.mode != DriftMode::Off {
            self.keep(false);
        }
        let said = |name: &str| query.split('&').find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
        let (is_raw, model) = (said("windows") == Some("raw"), said("model"));
        let all = self.all();
        let wanted = all.iter().filter(|watched| model.is_none_or(|model| watched.is_of(model)));
        Value::Array(wanted.map(|watched| watched.form(is_raw)).collect())
    }

    /// Whether there is a baseline for what a deployment is. It reads the disk.
    pub(crate) fn has_baseline(&self, deployment: &Deployment) -> bool {
        self.mode != DriftMode::Off
            && watched::folder_of(&self.folder, deployment).join(watched::BASELINE_FILE).exists()
    }

    /// Who drifts, and by which columns.
    pub(crate) fn drifting(&self) -> Vec<Drifting> {
        self.all().iter().filter_map(|watched| watched.drifting()).collect()
    }

    /// How everything stands, in figures.
    pub(crate) fn levels(&self) -> Vec<Levels> {
        self.all().iter().filter_map(|watched| watched.levels()).collect()
    }
}

/// A baseline of what a recorder saw of one deployment, in which some input columns matter so much beside others. Fails where nothing can
/// be made of it.
pub fn baseline_of(seen: &[Seen], importance: &BTreeMap<String, f64>) -> Result<Baseline, String> {
    let first = seen.first().ok_or("no row was answered: there is nothing to make a baseline of")?;
    features::Features::of(&first.arm.deployment).baseline(seen, importance)
}

/// Where an artifact's baseline is kept.
pub fn baseline_place(data_dir: &Path, model: &str, artifact: &Digest) -> PathBuf {
    watched::folder_for(&data_dir.join("drift"), model, artifact).join(watched::BASELINE_FILE)
}

/// Where the baseline of an arm's artifact is kept.
pub fn baseline_file(config: &Config, arm: &Arm) -> PathBuf {
    watched::folder_of(&config.data_dir.join("drift"), &arm.deployment).join(watched::BASELINE_FILE)
}

#[cfg(test)]
mod tests;
