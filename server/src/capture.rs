//! How do answered requests come on record?
//!
//! `tiltyard_capture` has the ring and the segments; here is what the server gives it: which columns a deployment's rows have,
//! what an endpoint's rules leave of them, and a record for each request that reached an arm, offered before its answer goes
//! out. Nothing is awaited for it but the disk in `audit` mode, where an answer that cannot be put on record is none.

mod book;
mod columns;
mod events;
mod sent;
mod store;
mod subject;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::HeaderMap;
use http::header::HeaderName;
use ring::rand::{SecureRandom, SystemRandom};
use tiltyard_capture::{
    Capture, Counters, Key, Limits, Outcome, Reason, Record, Selection, State, Threads, Ticket, Unfit, Value,
};
use tiltyard_runtime::job::Answer;
use tiltyard_types::{Error, ErrorKind, NamedTensor, Result};

pub use self::book::Book as Rules;
use self::book::Book;
pub use self::sent::Figures;
use self::sent::{Follower, Receiver};
use self::subject::Source;
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
    /// What may be captured, and how often that was read.
    book: ArcSwap<(u64, Book)>,
    /// Endpoints of which it was said that a table was probably meant for them.
    misspelt: Mutex<BTreeSet<String>>,
    folder: PathBuf,
    /// There is a master key.
    can_seal: bool,
    /// Answers wait for the disk.
    audits: bool,
    /// Until the end.
    threads: Mutex<Option<Threads>>,
    /// Those who bring segments elsewhere, until the end.
    followers: Mutex<Vec<Follower>>,
    /// How that goes, by their names.
    figures: Vec<(&'static str, Arc<Figures>)>,
}

/// What is captured of an arm's requests: found when the catalog with it is made, and when the rules are read again.
#[derive(Debug)]
pub struct Captured {
    /// Which reading of the rules it follows.
    reading: u64,
    /// `None` where the rules cannot be followed, which was told.
    kept: Option<Kept>,
}

#[derive(Debug)]
struct Kept {
    selection: Selection,
    /// The rules leave all as it is.
    keeps_all: bool,
    layout: u64,
    headers: Vec<HeaderName>,
    /// Where it stands whose data a row is.
    subject: Option<Source>,
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
        let master = config.capture_key_file.as_deref().map(master_key).transpose()?;
        let capture = Arc::new(Capture::open_with(&folder, &limits, master.as_ref()).map_err(text)?);
        let can_seal = master.is_some();
        let book = Book::open(config.capture_rules.as_deref(), can_seal, || hash_key(&folder))?;
        let now_us = || clock::unix_ns() / 1_000;
        let threads = Threads::start(&capture, now_us, tiltyard_runtime::priority::give_way)
            .map_err(|error| format!("a thread cannot be started: {error}"))?;
        let audits = config.capture == CaptureMode::Audit;
        tracing::info!(folder = %folder.display(), audits, "requests and answers are captured");
        let followers = followers(config, &capture, &folder)?;
        let figures = followers.iter().map(|follower| (follower.name, Arc::clone(&follower.figures))).collect();
        let (book, threads) = (ArcSwap::from_pointee((0, book)), Mutex::new(Some(threads)));
        let followers = Mutex::new(followers);
        Ok(Some(Arc::new(Captures {
            capture,
            book,
            misspelt: Mutex::default(),
            folder,
            can_seal,
            audits,
            threads,
            followers,
            figures,
        })))
    }

    /// Reads the rules again. Fails on a mistake in them.
    pub fn read(&self, config: &Config) -> Result<Rules, String> {
        Book::open(config.capture_rules.as_deref(), self.can_seal, || hash_key(&self.folder))
    }

    /// Has requests follow these rules from now on, whichever version they reach. False where they are as they were.
    pub fn take(&self, rules: Rules, catalog: &Catalog) -> bool {
        let before = self.book.load();
        let is_news = !before.1.says_what(&rules);
        self.book.store(Arc::new((before.0 + 1, rules)));
        if is_news {
            self.misspelt.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
        self.prepare(catalog);
        is_news
    }

    /// Finds out what is captured of each arm's requests, before one reaches it. It may write to the disk.
    pub fn prepare(&self, catalog: &Catalog) {
        let arms: Vec<_> = catalog.arms().collect();
        arms.iter().for_each(|arm| drop(self.of(arm)));
        // Those that are still to come among them.
        let known = catalog.models.keys().chain(catalog.endpoints.keys()).map(String::as_str).collect();
        let book = self.book.load();
        for endpoint in arms.iter().map(|arm| arm.endpoint.as_str()).collect::<BTreeSet<&str>>() {
            let Some(meant) = book.1.meant_for(endpoint, &known) else { continue };
            if self.misspelt.lock().unwrap_or_else(PoisonError::into_inner).insert(endpoint.to_owned()) {
                tracing::warn!(
                    endpoint,
                    "everything is captured of it, as it is: capture_rules have no [{endpoint}], but [{meant}], which is no endpoint here"
                );
            }
        }
    }

    /// What is captured of an arm's requests, by the rules as they are now.
    fn of(&self, arm: &Arm) -> Arc<Captured> {
        let book = self.book.load();
        if let Some(captured) = arm.captured.load_full().filter(|captured| captured.reading == book.0) {
            return captured;
        }
        let (endpoint, version) = (&arm.endpoint, &arm.version);
        let told = |why: &Unfit| {
            let why = why.to_string();
            tracing::error!(endpoint, version, why, "nothing is captured here: the rules cannot be followed");
        };
        let kept = self.find(arm, &book.1).inspect_err(told).ok();
        let captured = Arc::new(Captured { reading: book.0, kept });
        arm.captured.store(Some(Arc::clone(&captured)));
        captured
    }

    fn find(&self, arm: &Arm, book: &Book) -> Result<Kept, Unfit> {
        let said = book.of(&arm.endpoint);
        let mut layout = columns::of(&arm.deployment);
        layout.headers = said.headers.iter().map(|name| name.as_str().to_owned()).collect();
        let subject = said.subject.as_ref().map(|subject| Source::find(subject, &layout)).transpose()?;
        let selection = said.rules.select(&layout)?;
        // Without it, records say themselves what their columns are: a full disk is no reason to capture nothing.
        let layout = self.capture.note(selection.layout().clone()).unwrap_or_else(|error| {
            let (endpoint, version) = (&arm.endpoint, &arm.version);
            tracing::warn!(endpoint, version, %error, "columns are not named as they might be");
            0
        });
        let (keeps_all, headers) = (book::keeps_all(&said.rules), said.headers.clone());
        Ok(Kept { selection, keeps_all, layout, headers, subject })
    }

    /// Begins the record of a request that goes to an arm; `None` where it is not captured, which is counted. In `audit` mode only
    /// those are not captured that the rules do not draw.
    pub fn begin(
        self: &Arc<Self>,
        arm: &Arc<Arm>,
        accepted: Accepted,
        key: Option<u64>,
        inputs: &[NamedTensor],
        headers: &HeaderMap,
    ) -> Option<Begun> {
        let captured = self.of(arm);
        let reason = match &captured.kept {
            None => Some(Reason::Unfit),
            Some(kept) => (!kept.selection.draws(accepted.id)).then_some(Reason::NotSampled),
        };
        if let Some(reason) = reason {
            self.capture.drop_counted(reason);
            // Whom no rules fit must not be answered where every answer is to be on record.
            if captured.kept.is_some() || !self.audits {
                return None;
            }
        }
        let kept = captured.kept.as_ref();
        let chosen = kept
            .map_or_else(Vec::new, |kept| kept.headers.iter().map(|name| subject::text_of(headers, name)).collect());
        let subjects =
            kept.and_then(|kept| kept.subject.as_ref()).map_or_else(Vec::new, |source| source.of(inputs, headers));
        let mut inputs = inputs.to_vec();
        // A row's hash is over its inputs in the model's order, whatever order a client has.
        let specs = &arm.deployment.signature.inputs;
        inputs.sort_by_key(|input| specs.iter().position(|spec| spec.name == input.name));
        let (captures, arm) = (Arc::clone(self), Arc::clone(arm));
        Some(Begun { captures, arm, captured, accepted, key, inputs, headers: chosen, subjects, is_open: true })
    }

    /// Makes segments of what is there, at the end of the process.
    pub fn end(&self) {
        // What has not arrived yet is sent after the next start.
        self.followers.lock().unwrap_or_else(PoisonError::into_inner).clear();
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

    /// How segments arrive elsewhere, by whom they are sent to.
    pub fn sent(&self) -> &[(&'static str, Arc<Figures>)] {
        &self.figures
    }
}

/// Starts those who bring segments where the settings say. Fails, in words, where that is no place.
fn followers(config: &Config, capture: &Arc<Capture>, folder: &Path) -> Result<Vec<Follower>, String> {
    let mut receivers: Vec<Box<dyn Receiver>> = Vec::new();
    if let Some(url) = &config.capture_sink {
        receivers.push(Box::new(events::Sink::open(url)?));
    }
    if let Some(place) = &config.capture_store {
        receivers.push(Box::new(store::Store::open(place, config.store_token_file.as_deref())?));
    }
    let start = |receiver| Follower::start(capture, folder, receiver);
    let started = receivers.into_iter().map(start).collect::<std::io::Result<_>>();
    started.map_err(|error| format!("a thread cannot be started: {error}"))
}

/// Where the record is kept.
pub fn folder(config: &Config) -> PathBuf {
    config.capture_dir.clone().unwrap_or_else(|| config.data_dir.join("capture"))
}

/// The master key of encrypted rows. Fails where the file holds none.
pub(crate) fn master_key(path: &Path) -> Result<Key, String> {
    let of_file = |what: String| format!("capture_key_file: {}: {what}", path.display());
    let content = fs::read(path).map_err(|error| of_file(error.to_string()))?;
    if let Ok(key) = content.as_slice().try_into() {
        return Ok(key);
    }
    let digest = std::str::from_utf8(&content).ok().and_then(|text| text.trim().parse::<tiltyard_types::Digest>().ok());
    let expected = "expected 32 bytes, or 64 hexadecimal digits, as `openssl rand -hex 32` makes them";
    digest.map(|digest| *digest.as_bytes()).ok_or_else(|| of_file(expected.to_owned()))
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
    captured: Arc<Captured>,
    accepted: Accepted,
    key: Option<u64>,
    inputs: Vec<NamedTensor>,
    /// The chosen headers, where they came.
    headers: Vec<Option<String>>,
    subjects: Vec<String>,
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
            Err(Reason::Unfit) => return Err(refused(&"its rules cannot be followed, and the log says why")),
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
        let Some(kept) = &self.captured.kept else { return Err(Reason::Unfit) };
        let identity = &self.arm.deployment.identity;
        let specs = &self.arm.deployment.signature.outputs;
        let inputs: Vec<Value<'_>> = self.inputs.iter().map(|input| Value::of(&input.name, &input.tensor)).collect();
        let (rows, outcome, outputs) = match answer {
            Ok((answer, wanted)) => {
                let mut outputs: Vec<_> = wanted.iter().zip(&answer.outputs).collect();
                outputs.sort_by_key(|(position, _)| **position);
                let value = |(&position, tensor): (&usize, _)| Value::of(&specs[position].name, tensor);
                (answer.rows, Outcome::Answered, outputs.into_iter().map(value).collect())
            }
            Err(error) => {
                (columns::rows(&self.inputs), Outcome::Failed(error.kind(), error.message().into()), Vec::new())
            }
        };
        let (inputs, outputs) = match kept.keeps_all {
            true => (inputs, outputs),
            false => (kept.selection.inputs(&inputs), kept.selection.outputs(&outputs)),
        };
        let headers = kept.headers.iter().zip(&self.headers);
        let headers = headers.map(|(name, value)| (name.as_str().into(), value.as_deref().map(Into::into)));
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
            layout: kept.layout,
            outcome,
            headers: headers.collect(),
            inputs,
            outputs,
            subjects: self.subjects.iter().map(|subject| subject.as_str().into()).collect(),
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
