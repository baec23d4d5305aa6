//! What is counted of one artifact, and how does it outlive a restart?

use std::borrow::Cow;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use tiltyard_drift::alarm::{Change, Level, Rule, Watch};
use tiltyard_drift::baseline::gather::Gathering;
use tiltyard_drift::baseline::{Baseline, Role};
use tiltyard_drift::shard::Shard;
use tiltyard_drift::values::Values;
use tiltyard_drift::windows::Windows;
use tiltyard_runtime::deployment::Deployment;
use tiltyard_types::{Digest, NamedTensor, Tensor};

use super::features::{Features, Side, find, rows_of};
use super::lock;
use crate::config::DriftMode;

/// The baseline's name in its folder.
pub(super) const BASELINE_FILE: &str = "baseline.json";

/// Bytes of first traffic that are held until it is a baseline.
const GATHERED_BYTES_MAX: usize = 16 << 20;

/// First traffic, until it is a baseline.
const GATHERED_FILE: &str = "first";

/// How often that is written down: it is some megabytes.
const KEEP_GATHERED_MS: u64 = 60_000;

/// Bytes of one artifact's windows and counts.
const BYTES_MAX: usize = 64 << 20;

/// A larger baseline is not read.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// How often what was counted is written down: what a kill may lose.
const KEEP_MS: u64 = 10_000;

/// One artifact under watch.
pub(crate) struct Watched {
    pub(super) model: String,
    pub(super) version: u64,
    pub(super) artifact: String,
    folder: PathBuf,
    features: Features,
    shards: usize,
    mode: DriftMode,
    stage: ArcSwap<Stage>,
    kept: Mutex<Kept>,
}

/// How far it is.
pub(super) enum Stage {
    /// There is no baseline.
    Idle,
    /// First traffic becomes one.
    Gathering(Mutex<Gathering>),
    /// Values are counted by it.
    Counting(Counting),
}

/// What threads that serve count into.
pub(super) struct Counting {
    pub(super) baseline: Baseline,
    /// The position in the baseline of each column, by tensor in the order of the signature.
    inputs: Vec<(Side, Vec<Option<usize>>)>,
    outputs: Vec<(Side, Vec<Option<usize>>)>,
    shards: Vec<Mutex<Shard>>,
}

/// What only the keeper changes.
pub(super) struct Kept {
    /// The file of the baseline, as it was when it was read.
    read: Option<(SystemTime, u64)>,
    pub(super) standing: Option<(Windows, Watch)>,
    written_ms: u64,
    /// Held by the server that keeps its counts in this folder.
    lock: Option<File>,
    /// What could not be done is told once.
    told: Option<String>,
}

/// Where things of a deployment's artifact are kept.
pub(super) fn folder_of(folder: &Path, deployment: &Deployment) -> PathBuf {
    folder_for(folder, &deployment.identity.model, &deployment.identity.artifact)
}

/// The same by an artifact's name.
pub(super) fn folder_for(folder: &Path, model: &str, artifact: &Digest) -> PathBuf {
    // A model's name may hold what a folder's cannot, and the artifact tells them apart.
    let name: String =
        model.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' }).collect();
    let artifact = artifact.to_string();
    folder.join(format!("{}-{}", name.trim_start_matches('.'), artifact.get(..16).unwrap_or(&artifact)))
}

impl Watched {
    /// Of a deployment that was just loaded, with what is known of its artifact.
    pub(super) fn open(folder: &Path, deployment: &Deployment, shards: usize, mode: DriftMode, now_ms: u64) -> Watched {
        let identity = &deployment.identity;
        let whose = (identity.model.clone(), identity.version, identity.artifact.to_string());
        Watched::of(whose, folder_of(folder, deployment), Features::of(deployment), shards, mode, now_ms)
    }

    /// Of the model, version and artifact `whose`.
    pub(super) fn of(
        whose: (String, u64, String),
        folder: PathBuf,
        features: Features,
        shards: usize,
        mode: DriftMode,
        now_ms: u64,
    ) -> Watched {
        let (model, version, artifact) = whose;
        let watched = Watched {
            model,
            version,
            artifact,
            folder,
            features,
            shards: shards.max(1),
            mode,
            stage: ArcSwap::from_pointee(Stage::Idle),
            kept: Mutex::new(Kept { read: None, standing: None, written_ms: now_ms, lock: None, told: None }),
        };
        let mut kept = lock(&watched.kept);
        watched.look_for_baseline(&mut kept);
        if watched.mode == DriftMode::Traffic && !watched.wants() {
            watched.stage.store(Arc::new(Stage::Gathering(Mutex::new(watched.gathered(&mut kept)))));
        }
        drop(kept);
        watched
    }

    pub(super) fn stage(&self) -> Arc<Stage> {
        self.stage.load_full()
    }

    pub(super) fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        lock(&self.kept)
    }

    /// What a process before this one gathered of first traffic, where it kept that; else nothing yet.
    fn gathered(&self, kept: &mut Kept) -> Gathering {
        // The folder is made when there is something to be kept.
        let made = fs::create_dir_all(&self.folder);
        kept.lock = made.ok().and_then(|()| take_lock(&self.folder));
        let bytes = kept.lock.as_ref().and_then(|_| fs::read(self.folder.join(GATHERED_FILE)).ok());
        let read = |bytes: Vec<u8>| {
            let read = Gathering::read(self.features.specs(), GATHERED_BYTES_MAX, &bytes);
            read.inspect_err(|error| tracing::warn!(model = self.model, %error, "first traffic is gathered anew")).ok()
        };
        bytes.and_then(read).unwrap_or_else(|| Gathering::new(self.features.specs(), GATHERED_BYTES_MAX))
    }

    /// Takes the baseline that lies in the folder, if it is another than before.
    fn look_for_baseline(&self, kept: &mut Kept) {
        let path = self.folder.join(BASELINE_FILE);
        let Ok(found) = fs::metadata(&path) else { return };
        let mark = (found.modified().unwrap_or(SystemTime::UNIX_EPOCH), found.len());
        if kept.read == Some(mark) {
            return;
        }
        kept.read = Some(mark);
        let read = || {
            if found.len() > FILE_BYTES_MAX {
                return Err(format!("{} bytes, of which at most {FILE_BYTES_MAX} are read", found.len()));
            }
            let text = fs::read_to_string(&path).map_err(|error| error.to_string())?;
            Baseline::from_json(&text)?.within(BYTES_MAX)
        };
        match read() {
            Ok(baseline) => self.count_by(baseline, kept),
            Err(why) => tracing::error!(file = %path.display(), why, "the baseline cannot be used"),
        }
    }

    /// Counts by this baseline from now on, and goes on where a process before this one ended.
    fn count_by(&self, baseline: Baseline, kept: &mut Kept) {
        let rule = Rule::default();
        kept.lock = kept.lock.take().or_else(|| take_lock(&self.folder));
        if kept.lock.is_none() {
            let folder = self.folder.display();
            tracing::warn!(%folder, "what is counted of drift is not kept: the folder cannot be written, or another server keeps its own there");
        }
        // Counts of another server would count twice.
        let file = |name: &str| kept.lock.as_ref().and_then(|_| fs::read(self.folder.join(name)).ok());
        let windows = file("windows").and_then(|bytes| Windows::read(&baseline, &bytes).ok());
        let watch = file("watch").and_then(|bytes| Watch::read(&baseline, rule.clone(), &bytes).ok());
        let windows = windows.unwrap_or_else(|| Windows::new(&baseline));
        let mut watch = watch.unwrap_or_else(|| Watch::new(&baseline, rule));
        watch.recall(&windows);
        let facts = baseline.facts();
        let (model, version) = (&self.model, self.version);
        let (rows, features, left_out) = (facts.rows, facts.features.len(), facts.left_out.len());
        tracing::info!(model, version, rows, features, left_out, provisional = facts.provisional, "drift is watched");
        kept.standing = Some((windows, watch));
        let places = |role: Role, side: &Side| -> (Side, Vec<Option<usize>>) {
            let places: Vec<_> = side.columns.iter().map(|name| baseline.position(role, name)).collect();
            // What is not watched is not projected either.
            let is_watched = places.iter().any(Option::is_some);
            let projections = side.projections.clone().filter(|_| is_watched);
            (Side { projections, ..side.clone() }, places)
        };
        let inputs = self.features.inputs.iter();
        let counting = Counting {
            inputs: inputs.map(|side| places(Role::Input, side)).collect(),
            outputs: self.features.outputs.iter().map(|side| places(Role::Output, side)).collect(),
            shards: (0..self.shards).map(|_| Mutex::new(Shard::new(&baseline))).collect(),
            baseline,
        };
        self.stage.store(Arc::new(Stage::Counting(counting)));
    }

    /// Whether anything is done with what is asked.
    pub(super) fn wants(&self) -> bool {
        !matches!(&**self.stage.load(), Stage::Idle)
    }

    /// Counts a request that was answered: its inputs, and its outputs by their places in the signature. `key` is a hash of whose it
    /// is, where that is known.
    pub(super) fn count(
        &self,
        key: Option<u64>,
        inputs: &[NamedTensor],
        (outputs, wanted): (&[Tensor], &[usize]),
        now_ms: u64,
    ) {
        match &*self.stage.load_full() {
            Stage::Idle => {}
            Stage::Gathering(gathering) => self.gather(gathering, key, inputs, (outputs, wanted), now_ms),
            Stage::Counting(counting) => counting.with_shard(|shard| {
                shard.rows(rows_of(inputs));
                if let Some(key) = key {
                    shard.key(key);
                }
                for (side, places) in &counting.inputs {
                    match find(inputs, &side.tensor).and_then(|tensor| side.seen(tensor)) {
                        Some(tensor) => shard.tensor(places, &tensor),
                        // One that may be left out.
                        None => {
                            let missing = Values::missing(rows_of(inputs));
                            places.iter().flatten().for_each(|&place| shard.count(place, &missing));
                        }
                    }
                }
                for (tensor, &position) in outputs.iter().zip(wanted) {
                    let (side, places) = &counting.outputs[position];
                    if let Some(tensor) = side.seen(tensor) {
                        shard.tensor(places, &tensor);
                    }
                }
            }),
        }
    }

    /// Adds a request to first traffic: rows are whole, with what is missing where an output was not asked for.
    fn gather(
        &self,
        gathering: &Mutex<Gathering>,
        key: Option<u64>,
        inputs: &[NamedTensor],
        (outputs, wanted): (&[Tensor], &[usize]),
        now_ms: u64,
    ) {
        let rows = rows_of(inputs);
        let seen =
            |tensor: Option<&'_ Tensor>, side: &Side| tensor.and_then(|tensor| side.seen(tensor).map(Cow::into_owned));
        let of_inputs = self.features.inputs.iter().map(|side| (seen(find(inputs, &side.tensor), side), side));
        let of_outputs = self.features.outputs.iter().enumerate().map(|(position, side)| {
            let place = wanted.iter().position(|&wanted| wanted == position);
            (seen(place.map(|place| &outputs[place]), side), side)
        });
        let both: Vec<(Option<Tensor>, &Side)> = of_inputs.chain(of_outputs).collect();
        let values = both.iter().flat_map(|(tensor, side)| columns(tensor.as_ref(), side, rows));
        let values: Vec<Values<'_>> = values.collect();
        let keys = key.map(|key| vec![key; rows]);
        let mut gathering = lock(gathering);
        // Features without room were left out when it began, those that are least important: as many are given as it has.
        let of_specs = pick(&gathering, &self.features, &values);
        // It was replaced where this fails: its baseline is there already.
        let _ = gathering.add(now_ms, rows, keys.as_deref(), &of_specs);
    }

    /// Empties the shards, closes windows and tells what changed; writes it down now and then, or now.
    pub(super) fn keep(&self, now_ms: u64, is_end: bool) {
        let mut kept = lock(&self.kept);
        self.look_for_baseline(&mut kept);
        if self.see_to_gathered() {
            self.look_for_baseline(&mut kept);
        }
        let stage = self.stage.load_full();
        if let Stage::Gathering(gathering) = &*stage
            && (is_end || now_ms.saturating_sub(kept.written_ms) >= KEEP_GATHERED_MS)
        {
            kept.written_ms = now_ms;
            let bytes = lock(gathering).write();
            self.write_files(&mut kept, &[(GATHERED_FILE, bytes)]);
        }
        let Stage::Counting(counting) = &*stage else { return };
        let Some((windows, watch)) = &mut kept.standing else { return };
        let mut changes = Vec::new();
        for shard in &counting.shards {
            for window in windows.absorb(&mut lock(shard), now_ms) {
                changes.extend(watch.take(&window));
            }
        }
        changes.iter().for_each(|change| self.tell(change));
        if is_end || !changes.is_empty() || now_ms.saturating_sub(kept.written_ms) >= KEEP_MS {
            kept.written_ms = now_ms;
            self.write_down(&mut kept);
        }
    }

    fn tell(&self, change: &Change) {
        let (model, version, why) = (&self.model, self.version, &change.why);
        let (from, to) = (change.from.name(), change.to.name());
        match change.to {
            Level::Ok => tracing::info!(model, version, from, to, why, "drift"),
            Level::Warn => tracing::warn!(model, version, from, to, why, "drift"),
            Level::Alert => tracing::error!(model, version, from, to, why, "drift"),
        }
    }

    /// Makes a baseline of first traffic, once there is enough of it. True where there is one now.
    fn see_to_gathered(&self) -> bool {
        let stage = self.stage.load_full();
        let Stage::Gathering(gathering) = &*stage else { return false };
        if lock(gathering).wanted() != (0, 0) {
            return false;
        }
        let gathered = std::mem::replace(&mut *lock(gathering), Gathering::new(Vec::new(), GATHERED_BYTES_MAX));
        let made = gathered.finish().and_then(|baseline| {
            let written = write(&self.folder, BASELINE_FILE, baseline.to_json().as_bytes());
            written.map_err(|error| format!("{}: {error}", self.folder.display()))
        });
        // What it was made of is not needed any more, and need not be there.
        drop(fs::remove_file(self.folder.join(GATHERED_FILE)));
        if let Err(why) = &made {
            tracing::error!(model = self.model, version = self.version, why, "first traffic becomes no baseline");
            self.stage.store(Arc::new(Stage::Idle));
        }
        made.is_ok()
    }

    fn write_down(&self, kept: &mut Kept) {
        let Some((windows, watch)) = &kept.standing else { return };
        let files = [("windows", windows.write()), ("watch", watch.write())];
        self.write_files(kept, &files);
    }

    /// Writes files where this process may; that it cannot is told once.
    fn write_files(&self, kept: &mut Kept, files: &[(&str, Vec<u8>)]) {
        if kept.lock.is_none() {
            return;
        }
        let written = files.iter().try_for_each(|(name, bytes)| write(&self.folder, name, bytes));
        let told = written.err().map(|error| error.to_string());
        if let Some(why) = told.as_ref().filter(|why| kept.told.as_ref() != Some(why)) {
            let folder = self.folder.display();
            tracing::warn!(%folder, why, "what was counted of drift is not kept: a restart begins anew");
        }
        kept.told = told;
    }

    /// How far it is, in a word, and what is still wanted of first traffic: rows and milliseconds.
    pub(super) fn progress(&self) -> (&'static str, Option<(u64, u64)>) {
        match &*self.stage.load_full() {
            Stage::Idle => ("no baseline", None),
            Stage::Gathering(gathering) => ("gathering", Some(lock(gathering).wanted())),
            Stage::Counting(_) => ("watched", None),
        }
    }

    /// Whether it is of this model, whose name is written as a part of a URL.
    pub(super) fn is_of(&self, model: &str) -> bool {
        crate::protocol::rest::decode_percent(model).is_ok_and(|model| model == self.model)
    }

    /// Whether anything at all is done for it.
    pub(super) fn is_gathered(&self) -> bool {
        self.mode == DriftMode::Traffic
    }
}

impl Counting {
    /// This thread's shard, which nobody else is in but now and then whoever empties it.
    fn with_shard(&self, count: impl FnOnce(&mut Shard)) {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static NUMBER: usize = THREADS.fetch_add(1, Relaxed);
        }
        let number = NUMBER.with(|number| *number);
        count(&mut lock(&self.shards[number % self.shards.len()]));
    }
}

/// All columns of a tensor, or as many that are missing.
fn columns<'a>(tensor: Option<&'a Tensor>, side: &Side, rows: usize) -> impl Iterator<Item = Values<'a>> + use<'a> {
    (0..side.columns.len()).map(move |column| {
        let found = tensor.and_then(|tensor| Values::of(tensor, column));
        found.filter(|values| values.rows() == rows).unwrap_or_else(|| Values::missing(rows))
    })
}

/// The values of what is gathered, in its order.
fn pick<'a>(gathering: &Gathering, features: &Features, values: &[Values<'a>]) -> Vec<Values<'a>> {
    let all = features.specs();
    let of = |spec: &tiltyard_drift::baseline::Spec| {
        let place = all.iter().position(|each| each.role == spec.role && each.name == spec.name);
        place.map(|place| values[place])
    };
    if gathering.specs().len() == all.len() {
        return values.to_vec();
    }
    gathering.specs().iter().filter_map(of).collect()
}

/// The lock of a folder, unless another process has it.
fn take_lock(folder: &Path) -> Option<File> {
    let file = File::options().create(true).append(true).open(folder.join("lock")).ok()?;
    file.try_lock().ok().map(|()| file)
}

/// Whole or not at all.
fn write(folder: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let temporary = folder.join(format!("{name}.tmp"));
    fs::write(&temporary, bytes)?;
    fs::rename(temporary, folder.join(name))
}
