//! How do answered requests come on record?
//!
//! `tiltyard_capture` has the ring and the segments; here is what the server gives it: which columns a deployment's rows have,
//! what an endpoint's rules leave of them, and a record for each request that reached an arm, offered before its answer goes
//! out. Nothing is awaited for it but the disk in `audit` mode, where an answer that cannot be put on record is none.

mod book;
mod columns;

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};
use tiltyard_capture::{
    Capture, Counters, Limits, Outcome, Reason, Record, Selection, State, Threads, Ticket, Unfit, Value,
};
use tiltyard_runtime::job::Answer;
use tiltyard_types::{Error, ErrorKind, NamedTensor, Result};

use self::book::Book;
use crate::arm::Arm;
use crate::catalog::Catalog;
use crate::config::{Amount, CaptureMode, Config};
use crate::infer::Accepted;
use crate::{clock, cores};

/// The key of hashes, made for the folder when it is first asked for.
const KEY_FILE: &str = "hash.key";

/// Puts answered requests on record.
pub struct Captures {
    capture: Arc<Capture>,
    book: Book,
    /// Answers wait for the disk.
    audits: bool,
    /// Until the end.
    threads: Mutex<Option<Threads>>,
}

/// What is captured of an arm's requests: found once, when the catalog with it is made.
#[derive(Debug)]
pub struct Captured {
    selection: Selection,
    /// The rules leave all as it is.
    keeps_all: bool,
    layout: u64,
}

impl Captures {
    /// Opens the capture that the settings ask for, and starts its threads; `None` where they ask for none.
    pub fn start(config: &Config) -> Result<Option<Arc<Captures>>, String> {
        if config.capture == CaptureMode::Off {
            return Ok(None);
        }
        let folder = folder(config);
        let some = |duration: Duration| (!duration.is_zero()).then_some(duration);
        let limits = Limits {
            shards: cores::granted().max(config.frontend_threads.or(0)),
            ring_bytes: config.capture_ring_bytes as u64,
            segment_time: config.capture_segment_time,
            age_max: some(config.capture_age_max),
            bytes_max: match config.capture_bytes_max {
                Amount::Auto => None,
                Amount::Exactly(bytes) => Some(bytes.get() as u64),
            },
            ..Limits::default()
        };
        let text = |error: tiltyard_capture::Error| format!("requests cannot be captured: {error}");
        // What people asked is nobody else's to read. A folder that is there keeps the mode that somebody gave it.
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)
            .map_err(|error| format!("requests cannot be captured: {}: {error}", folder.display()))?;
        let capture = Arc::new(Capture::open(&folder, &limits).map_err(text)?);
        let book = Book::open(config.capture_rules.as_deref(), || hash_key(&folder))?;
        let now_us = || clock::unix_ns() / 1_000;
        let threads = Threads::start(&capture, now_us, tiltyard_runtime::priority::give_way)
            .map_err(|error| format!("a thread cannot be started: {error}"))?;
        let audits = config.capture == CaptureMode::Audit;
        tracing::info!(folder = %folder.display(), audits, "requests and answers are captured");
        Ok(Some(Arc::new(Captures { capture, book, audits, threads: Mutex::new(Some(threads)) })))
    }

    /// Finds out what is captured of each arm's requests, before one reaches it. It may write to the disk.
    pub fn prepare(&self, catalog: &Catalog) {
        for arm in catalog.arms() {
            let _ = self.of(&arm);
        }
    }

    /// What is captured of an arm's requests; `None` where its rules cannot be followed, which was told.
    fn of<'a>(&self, arm: &'a Arm) -> Option<&'a Captured> {
        let find = || {
            let layout = columns::of(&arm.deployment);
            let rules = self.book.of(&arm.endpoint);
            let (endpoint, version) = (&arm.endpoint, &arm.version);
            let found = rules.select(&layout).map(|selection| {
                // Without it, records say themselves what their columns are: a full disk is no reason to capture nothing.
                let layout = self.capture.note(selection.layout().clone()).unwrap_or_else(|error| {
                    tracing::warn!(endpoint, version, %error, "columns are not named as they might be");
                    0
                });
                Captured { selection, keeps_all: book::keeps_all(rules), layout }
            });
            let told = |why: &Unfit| {
                let why = why.to_string();
                tracing::error!(endpoint, version, why, "nothing is captured here: the rules cannot be followed");
            };
            found.inspect_err(told).ok()
        };
        arm.captured.get_or_init(find).as_ref()
    }

    /// Begins the record of a request that goes to an arm; `None` where it is not captured, which is counted. In `audit` mode only
    /// those are not captured that the rules do not draw.
    pub fn begin(
        self: &Arc<Self>,
        arm: &Arc<Arm>,
        accepted: Accepted,
        key: Option<u64>,
        inputs: &[NamedTensor],
    ) -> Option<Begun> {
        let captured = self.of(arm);
        if !captured.is_some_and(|captured| captured.selection.draws(accepted.id)) {
            self.capture.drop_counted(Reason::NotSampled);
            // Whom no rules fit must not be answered where every answer is to be on record.
            if captured.is_some() || !self.audits {
                return None;
            }
        }
        let (captures, arm) = (Arc::clone(self), Arc::clone(arm));
        Some(Begun { captures, arm, accepted, key, inputs: inputs.to_vec(), is_open: true })
    }

    /// Makes segments of what is there, at the end of the process.
    pub fn end(&self) {
        drop(self.threads.lock().unwrap_or_else(PoisonError::into_inner).take());
        match self.capture.flush(clock::unix_ns() / 1_000) {
            Ok(drained) => {
                tracing::info!(rows = drained.rows, segments = drained.segments.len(), "captured to the end")
            }
            Err(error) => {
                tracing::error!(%error, "the last rows stay in the ring: the next start makes a segment of them")
            }
        }
    }

    /// What became of all that was offered since the ring was made.
    pub fn counters(&self) -> Counters {
        self.capture.counters()
    }

    /// How the capture does.
    pub fn state(&self) -> State {
        self.capture.state()
    }
}

/// Where the record is kept.
pub fn folder(config: &Config) -> PathBuf {
    config.capture_dir.clone().unwrap_or_else(|| config.data_dir.join("capture"))
}

/// The key of hashes of a capture's folder.
fn hash_key(folder: &Path) -> Result<[u8; 32], String> {
    let path = folder.join(KEY_FILE);
    let text = |error: std::io::Error| format!("{}: {error}", path.display());
    match fs::read(&path) {
        Ok(bytes) => bytes.try_into().map_err(|_| format!("{}: expected 32 bytes", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let mut key = [0; 32];
            SystemRandom::new().fill(&mut key).map_err(|_| "the system gives no random bytes".to_owned())?;
            let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(text)?;
            file.write_all(&key).and_then(|()| file.sync_all()).map_err(text)?;
            Ok(key)
        }
        Err(error) => Err(text(error)),
    }
}

/// The record of a request under way. Whoever drops it unfinished has it end as one whose client went away.
pub struct Begun {
    captures: Arc<Captures>,
    arm: Arc<Arm>,
    accepted: Accepted,
    key: Option<u64>,
    inputs: Vec<NamedTensor>,
    is_open: bool,
}

impl Begun {
    /// Puts on record how it ended: with outputs at these positions of the signature, or with an error. In `audit` mode it returns
    /// once that is on the disk, and fails where it cannot be: then the answer must not go out.
    pub async fn end(mut self, answer: Result<(&Answer, &[usize]), &Error>) -> Result<()> {
        self.is_open = false;
        let offered = self.offer(answer);
        if !self.captures.audits {
            return Ok(());
        }
        let refused = |why: &dyn std::fmt::Display| {
            let what =
                format!("the answer cannot be put on record, and is not given for that (capture = audit): {why}");
            Error::new(ErrorKind::NotReady, what)
        };
        let ticket = match offered {
            Ok(ticket) => ticket,
            Err(Reason::NotSampled) => return Err(refused(&"its rules cannot be followed, and the log says why")),
            Err(reason) => return Err(refused(&reason.name())),
        };
        let capture = Arc::clone(&self.captures.capture);
        let committed = tokio::task::spawn_blocking(move || capture.commit_durable(ticket)).await;
        match committed {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(refused(&error)),
            Err(error) => Err(refused(&error)),
        }
    }

    fn offer(&self, answer: Result<(&Answer, &[usize]), &Error>) -> Result<Ticket, Reason> {
        let Some(captured) = self.captures.of(&self.arm) else { return Err(Reason::NotSampled) };
        let identity = &self.arm.deployment.identity;
        let specs = &self.arm.deployment.signature.outputs;
        let inputs: Vec<Value<'_>> = self.inputs.iter().map(|input| Value::of(&input.name, &input.tensor)).collect();
        let (rows, outcome, outputs) = match answer {
            Ok((answer, wanted)) => {
                let outputs = wanted.iter().zip(&answer.outputs);
                let outputs = outputs.map(|(&position, tensor)| Value::of(&specs[position].name, tensor)).collect();
                (answer.rows, Outcome::Answered, outputs)
            }
            Err(error) => {
                (columns::rows(&self.inputs), Outcome::Failed(error.kind(), error.message().into()), Vec::new())
            }
        };
        let (inputs, outputs) = match captured.keeps_all {
            true => (inputs, outputs),
            false => (captured.selection.inputs(&inputs), captured.selection.outputs(&outputs)),
        };
        let latency = clock::now() - self.accepted.at;
        self.captures.capture.offer(&Record {
            request: self.accepted.id,
            rows: u32::try_from(rows).unwrap_or(u32::MAX),
            first_row: 0,
            unix_us: self.accepted.unix_ms * 1_000,
            latency_ns: u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX),
            endpoint: self.arm.endpoint.as_str().into(),
            model: identity.model.as_str().into(),
            version: identity.version,
            digest: identity.digest,
            arm: self.arm.name.as_str().into(),
            key: self.key,
            layout: captured.layout,
            outcome,
            headers: Vec::new(),
            inputs,
            outputs,
        })
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        if self.is_open {
            let gone = Error::new(ErrorKind::Cancelled, "the client went away");
            // Counted, whatever becomes of it; nobody waits for it.
            let _ = self.offer(Err(&gone));
        }
    }
}
