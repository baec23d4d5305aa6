//! How does an answered request become a row that anybody can ask about, without a wait in its path?
//!
//! Whoever answers offers a [`Record`] before the reply goes out: a bounded copy into a ring that is a mapped file, and so
//! survives the process. Two threads see to the rest: one syncs the ring, the other makes Parquet segments of it. Where
//! there is no room, or the disk is full, the record is dropped and counted; `served = captured + dropped`, always. This
//! crate knows no network and reads no clock. `docs/capture.md` has what a reader of segments wants to know.
//!
//! - [`Capture::open`] brings to its end what a kill interrupted; [`Capture::note`] says once how a deployment's rows
//!   become columns; [`Capture::offer`] and [`Capture::drop_counted`] are the request's path, a microsecond or less.
//! - [`Capture::commit_durable`] is for those who want to answer only when the record is on the disk (`audit`).
//! - [`Threads::start`] runs [`Capture::keep`] and [`Capture::drain`]; [`Capture::flush`] is for the end.
//! - [`Rules`] say what may be captured: a pure function from tensors to tensors, before the ring, so that nothing else
//!   ever touches the disk.
//! - [`Capture::counters`] and [`Capture::state`] are for metrics; [`verify`] checks all segments' bytes.
//!
//! ```
//! use std::path::Path;
//! use tiltyard_capture::{Capture, Field, Form, Layout, Limits, Outcome, Record, Value};
//! use tiltyard_types::{DataType, Digest, RequestId, Tensor};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let folder = folder.path();
//! let capture = Capture::open(folder, &Limits { ring_bytes: 1 << 20, ..Limits::default() })?;
//! let columns = Form::Columns(vec!["age".into(), "income".into()]);
//! let layout = capture.note(Layout {
//!     inputs: vec![Field { name: "features".into(), dtype: DataType::Fp32, axes: 2, form: columns }],
//!     outputs: vec![Field { name: "score".into(), dtype: DataType::Fp32, axes: 1, form: Form::One }],
//!     ..Layout::default()
//! })?;
//!
//! let features = Tensor::from_slice([1, 2], &[41f32, 52_000.0])?;
//! let score = Tensor::from_slice([1], &[0.25f32])?;
//! let offered = capture.offer(&Record {
//!     request: RequestId::from_bits(7),
//!     rows: 1,
//!     first_row: 0,
//!     unix_us: 1_764_374_400_000_000,
//!     latency_ns: 85_000,
//!     endpoint: "risk".into(),
//!     model: "risk".into(),
//!     version: 3,
//!     digest: Digest::new([0; 32]),
//!     arm: "champion".into(),
//!     key: None,
//!     layout,
//!     outcome: Outcome::Answered,
//!     headers: vec![],
//!     inputs: vec![Value::of("features", &features)],
//!     outputs: vec![Value::of("score", &score)],
//!     subjects: vec![],
//! });
//! assert!(offered.is_ok(), "dropped: {offered:?}");
//!
//! // The columns are … input_age, input_income, output_score, in segments/endpoint=risk/date=2025-11-29/<node>-<id>.parquet.
//! let drained = capture.flush(1_764_374_401_000_000)?;
//! assert_eq!((drained.rows, drained.segments.len()), (1, 1));
//! assert!(tiltyard_capture::verify(folder)?.faults.is_empty());
//! # Ok(())
//! # }
//! ```

mod disk;
mod drain;
mod error;
mod keys;
mod layout;
mod manifest;
pub mod record;
mod retention;
mod ring;
mod rules;
mod seal;
mod segment;
mod threads;
mod verify;

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use drain::Drain;
pub use drain::Drained;
pub use error::{Error, Result};
pub use keys::{Erasure, Key, Keys};
use layout::Layouts;
pub use layout::{Field, Form, Layout};
pub use record::{Outcome, Record, Value};
use retention::Kept;
pub use retention::Removed;
use ring::Ring;
pub use ring::{Counters, Reason, Ticket};
pub use rules::{Action, Rules, Selection, Unfit};
pub use seal::Opened;
pub use segment::read::{Proof, Row, Rows, Segment, joined};
pub use segment::{Facts, write_plain};
pub use threads::Threads;
pub use verify::{Listed, Verified, listing, verify};

/// How much of everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Shards of a new ring: at least as many as there are threads that answer.
    pub shards: usize,
    /// Bytes of a new ring, all shards together. It holds what comes in while a segment is written.
    pub ring_bytes: u64,
    /// Bytes of one record; a larger one is dropped. At most a quarter of a shard.
    pub record_bytes_max: usize,
    /// A segment is written when so many bytes of the ring wait for it,
    pub segment_bytes: u64,
    /// or the first of them has waited for so long.
    pub segment_time: Duration,
    /// What is committed is on the disk after that at the latest, and as long as a sync takes.
    pub sync_interval: Duration,
    /// Older segments are removed.
    pub age_max: Option<Duration>,
    /// The oldest segments are removed where all take more.
    pub bytes_max: Option<u64>,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            shards: 4,
            ring_bytes: 256 << 20,
            record_bytes_max: 1 << 20,
            segment_bytes: 64 << 20,
            segment_time: Duration::from_secs(60),
            sync_interval: Duration::from_secs(1),
            age_max: None,
            bytes_max: None,
        }
    }
}

/// How the capture does.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct State {
    /// Bytes of the ring that are not in a segment yet.
    pub pending_bytes: u64,
    /// Segments that are there.
    pub segments: u64,
    /// Their bytes.
    pub segment_bytes: u64,
    /// What was taken away.
    pub removed: Removed,
    /// Syncs and drains that failed since the process began.
    pub failures: u64,
    /// Why the last drain failed, or the last sync, if none was good since. Without drains the ring will be full.
    pub failing: Option<String>,
}

/// Answers on their way into segments.
#[derive(Debug)]
pub struct Capture {
    folder: PathBuf,
    ring: Ring,
    layouts: Layouts,
    limits: Limits,
    /// Whoever drains has it for as long as that takes.
    drain: Mutex<Drain>,
    kept: Mutex<Kept>,
    watch: Mutex<Watch>,
}

/// What the keeper knows of the time.
#[derive(Debug, Default)]
struct Watch {
    /// When what waits was first seen to wait.
    pending_since_us: Option<u64>,
    synced_us: u64,
    /// When segments were last looked at for their age.
    aged_us: u64,
    failures: u64,
    /// Why the last sync failed, and the last drain.
    failing: [Option<String>; 2],
}

/// Places in [`Watch::failing`].
const SYNC: usize = 0;
const DRAIN: usize = 1;

/// What is to be done next, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Next {
    /// A segment is due.
    pub is_due: bool,
    /// When to look again; `None` when nothing waits: the next record wakes the keeper.
    pub wait: Option<Duration>,
}

/// Segments without successors get too old, too.
const AGE_INTERVAL: Duration = Duration::from_secs(600);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Capture {
    /// Opens the capture in `folder`, or begins one. What a kill interrupted is brought to its end first. Fails where another
    /// process has the folder, or the system does not give what is asked.
    pub fn open(folder: &Path, limits: &Limits) -> Result<Capture> {
        Capture::open_with(folder, limits, None)
    }

    /// The same where rows may be somebody's ([`Record::subjects`]): they are encrypted under keys that `master` wraps, in the
    /// file `keys` of the folder, and what is drained of the ring is written over with zeros.
    pub fn open_with(folder: &Path, limits: &Limits, master: Option<&Key>) -> Result<Capture> {
        disk::make_folder(folder).map_err(|error| Error::io("make the folder", folder, error))?;
        let shards = limits.shards.max(1);
        let area_bytes = limits.ring_bytes / shards as u64;
        let ring = Ring::open(&folder.join("ring"), shards, area_bytes, limits.record_bytes_max)?;
        let node = node(folder)?;
        let keys = master.map(|master| Keys::open(folder, master)).transpose()?;
        let drain = Drain::open(folder, node, &ring, keys)?;
        let layouts = Layouts::open(folder.join("layouts"))?;
        let kept = Mutex::new(Kept::find(&folder.join("segments")));
        let watch = Mutex::default();
        let (folder, limits) = (folder.to_owned(), limits.clone());
        Ok(Capture { folder, ring, layouts, limits, drain: Mutex::new(drain), kept, watch })
    }

    /// Notes a layout on the disk and gives the number that records name it by. Not for the request's path.
    pub fn note(&self, layout: Layout) -> Result<u64> {
        self.layouts.note(layout)
    }

    /// Captures an answer, or counts why not. Whatever happens to the process afterwards, it is counted once.
    pub fn offer(&self, record: &Record<'_>) -> Result<Ticket, Reason> {
        thread_local! {
            static BYTES: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        BYTES.with_borrow_mut(|bytes| {
            bytes.clear();
            record.write(bytes);
            let offered = self.ring.offer(bytes);
            // A large record leaves no large buffer with each thread.
            bytes.shrink_to(1 << 16);
            offered
        })
    }

    /// Counts an answer of which no record is made: `served` and the reason.
    pub fn drop_counted(&self, reason: Reason) {
        self.ring.drop_counted(reason);
    }

    /// Returns when the record is on the disk. All who wait at the same time share one sync.
    pub fn commit_durable(&self, ticket: Ticket) -> Result<()> {
        self.ring.wait_durable(ticket).map_err(|error| Error::io("sync", &self.folder.join("ring"), error))
    }

    /// What became of all that was offered since the ring was made.
    pub fn counters(&self) -> Counters {
        self.ring.counters()
    }

    /// How the capture does.
    pub fn state(&self) -> State {
        let (segments, segment_bytes, removed) = {
            let kept = lock(&self.kept);
            let (segments, bytes) = kept.size();
            (segments, bytes, kept.removed)
        };
        let watch = lock(&self.watch);
        State {
            pending_bytes: self.ring.pending_bytes(),
            segments,
            segment_bytes,
            removed,
            failures: watch.failures,
            failing: watch.failing.iter().flatten().next_back().cloned(),
        }
    }

    /// Has pages ready for the next records, and syncs when it is time. Says what is to be done next.
    pub fn keep(&self, now_us: u64) -> Next {
        self.ring.make_ready();
        let interval = self.limits.sync_interval;
        let since_sync = since(lock(&self.watch).synced_us, now_us);
        if since_sync >= interval {
            let synced = self.ring.sync();
            lock(&self.watch).synced_us = now_us;
            self.note_failure(SYNC, synced.err().map(|error| format!("cannot sync the ring: {error}")));
        }
        let pending = self.ring.pending_bytes();
        let mut watch = lock(&self.watch);
        let waited = match watch.pending_since_us.filter(|_| pending > 0) {
            Some(begun) => since(begun, now_us),
            None => {
                watch.pending_since_us = (pending > 0).then_some(now_us);
                Duration::ZERO
            }
        };
        // A small ring is emptied while there is room for what comes meanwhile.
        let is_full =
            pending >= self.limits.segment_bytes.min(self.ring.bytes() / 2) || waited >= self.limits.segment_time;
        let to_age = self.limits.age_max.map(|_| AGE_INTERVAL.saturating_sub(since(watch.aged_us, now_us)));
        let is_due = (pending > 0 && is_full) || to_age == Some(Duration::ZERO);
        let to_drain = (pending > 0).then(|| self.limits.segment_time.saturating_sub(waited));
        let to_sync = (!self.ring.wake_at_next()).then(|| interval.saturating_sub(since(watch.synced_us, now_us)));
        // A drain that is due is the drainer's: there is nothing to wait for here but the next sync.
        let to_drain = to_drain.filter(|_| !is_due);
        let wait = [to_drain, to_sync, to_age.filter(|_| !is_due)].into_iter().flatten().min();
        Next { is_due, wait: wait.or(is_due.then_some(interval)) }
    }

    /// Makes segments of what is committed; one cycle, a second or so for 64 MiB. Where it fails nothing is lost: the ring
    /// keeps it, and the next call tries again.
    pub fn drain(&self, now_us: u64) -> Result<Drained> {
        let mut drain = lock(&self.drain);
        // Columns take more room than what they are made of.
        let bytes_max = usize::try_from(self.limits.segment_bytes * 2).unwrap_or(usize::MAX);
        let drained = drain.cycle(&self.ring, &self.layouts, now_us, bytes_max).and_then(|drained| {
            let mut kept = lock(&self.kept);
            drained.segments.iter().for_each(|facts| kept.wrote(facts));
            let (age_max, bytes_max) = (self.limits.age_max, self.limits.bytes_max);
            let folder = self.folder.join("segments");
            kept.shrink(&folder, &mut drain.manifest, now_us / 1000, age_max, bytes_max)?;
            Ok(drained)
        });
        if drained.as_ref().is_ok_and(|drained| !drained.has_more) {
            let mut watch = lock(&self.watch);
            watch.pending_since_us = None;
            watch.aged_us = now_us;
        }
        self.note_failure(DRAIN, drained.as_ref().err().map(Error::to_string));
        drained
    }

    /// How many lines the manifest has. Waits for a cycle that is on its way.
    pub fn lines(&self) -> u64 {
        lock(&self.drain).manifest.head().sequence
    }

    /// Has on the record that a copy of a segment lies elsewhere. Fails where that cannot be written now.
    pub fn note_stored(&self, file: &str, at: &str, now_ms: u64) -> Result<()> {
        lock(&self.drain).note_stored(file, at, now_ms)
    }

    /// Makes segments of all that is committed now.
    pub fn flush(&self, now_us: u64) -> Result<Drained> {
        let mut all = self.drain(now_us)?;
        while all.has_more {
            let more = self.drain(now_us)?;
            all.rows += more.rows;
            all.segments.extend(more.segments);
            all.has_more = more.has_more;
        }
        Ok(all)
    }

    fn note_failure(&self, what: usize, failing: Option<String>) {
        let mut watch = lock(&self.watch);
        watch.failures += u64::from(failing.is_some());
        watch.failing[what] = failing;
    }
}

fn since(earlier_us: u64, now_us: u64) -> Duration {
    Duration::from_micros(now_us.saturating_sub(earlier_us))
}

/// The node's name, made once for the folder: segments of two nodes never have the same name.
fn node(folder: &Path) -> Result<String> {
    let path = folder.join("node");
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            let name = text.trim();
            let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
            if (1..=64).contains(&name.len()) && name.chars().all(is_plain) {
                return Ok(name.to_owned());
            }
            Err(Error::broken(&path, "expected the node's name: 1 to 64 of a-z, A-Z, 0-9 and _"))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let id = uuid::Uuid::now_v7().simple().to_string();
            let name = format!("n{}", &id[20..]);
            disk::write_whole(&path, name.as_bytes()).map_err(|error| Error::io("write", &path, error))?;
            Ok(name)
        }
        Err(error) => Err(Error::io("read", &path, error)),
    }
}

#[cfg(test)]
mod tests;
