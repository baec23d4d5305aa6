//! Who is told when something is not as it should be?
//!
//! Every two seconds one thread that gives way looks at the server's counters and at what stands (`alerts/counters.rs`), has the rules
//! (`alerts/rules.rs`) say whose conditions are met (`alerts/conditions.rs`, a pure function of windows in `alerts/history.rs`), and has
//! the book (`alerts/book.rs`, a state machine without a clock) say what is due. Another thread tells it (`alerts/receiver.rs`), in the
//! form that its reader knows (`alerts/forms.rs`). What is known is kept in the repository's state folder, so that a restart tells nothing
//! twice.

pub mod book;
pub mod conditions;
mod counters;
mod forms;
pub mod history;
pub mod receiver;
pub mod rules;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use std::{fs, io, thread};

use crossbeam_channel::{Receiver as Messages, Sender, bounded};
use serde_json::{Value, json};

use self::book::{Book, Kept, Message, Silence};
use self::conditions::{Review, View};
use self::history::History;
use self::receiver::Receiver;
use self::rules::Rules;
use crate::clock;
use crate::config::Config;
use crate::service::Service;

/// How often everything is looked at.
const INTERVAL: Duration = Duration::from_secs(2);

/// Messages that wait for the thread that tells them: of each rule one at most, so that this is never reached.
const WAITING_MAX: usize = 256;

/// The file's name in the state folder.
const FILE: &str = "alerts.json";

/// A larger file is not read.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// What others may have to say: whoever has a registry, or dates of reviews.
pub trait Outside: Send + Sync {
    /// Why the registry cannot be reached; none where it can be.
    fn registry_trouble(&self) -> Option<String>;

    /// Versions in production that have a date of review.
    fn reviews(&self) -> Vec<Review>;
}

/// All alerts of the process.
pub struct Alerts {
    rules: Rules,
    receiver: Option<Receiver>,
    book: Mutex<Book>,
    outside: OnceLock<Box<dyn Outside>>,
    /// Where what is known is kept, where it can be.
    file: OnceLock<PathBuf>,
    is_unkept: AtomicBool,
    delivered: AtomicU64,
    failed: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Alerts {
    /// Of the rules and the receiver that the settings name. Fails, in words, where they cannot be used.
    pub fn new(config: &Config) -> Result<Alerts, String> {
        let rules = Rules::open(config.alerts.as_deref())?;
        let book = Book::open(rules.terms(), rules.pace, Kept::default(), clock::unix_ms());
        Ok(Alerts {
            receiver: Receiver::of(config)?,
            book: Mutex::new(book),
            rules,
            outside: OnceLock::new(),
            file: OnceLock::new(),
            is_unkept: AtomicBool::new(false),
            delivered: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        })
    }

    /// Has somebody else say how the registry stands, and which reviews are due. The first one is heard.
    pub fn hear(&self, outside: Box<dyn Outside>) {
        drop(self.outside.set(outside));
    }

    /// Starts looking at a server, and telling.
    pub fn start(self: &Arc<Self>, service: &Arc<Service>) -> io::Result<()> {
        if let Some(state) = service.state.as_ref().filter(|state| state.hold().is_ok()) {
            let path = state.path.join(FILE);
            if let Some(kept) = read(&path) {
                *lock(&self.book) = Book::open(self.rules.terms(), self.rules.pace, kept, clock::unix_ms());
            }
            drop(self.file.set(path));
        }
        let (sender, messages) = bounded(WAITING_MAX);
        if self.receiver.is_some() {
            let alerts = Arc::clone(self);
            thread::Builder::new().name("tiltyard-alerts".into()).spawn(move || alerts.deliver(&messages))?;
        }
        let (alerts, service) = (Arc::clone(self), Arc::downgrade(service));
        thread::Builder::new().name("tiltyard-rules".into()).spawn(move || {
            tiltyard_runtime::priority::give_way();
            let mut history = History::new(alerts.rules.lengths());
            while let Some(service) = service.upgrade() {
                if service.is_leaving() {
                    return;
                }
                let view = counters::view(&service, history, alerts.outside.get().map(AsRef::as_ref));
                drop(service);
                alerts.look(&view, &sender);
                history = view.history;
                thread::sleep(INTERVAL);
            }
        })?;
        Ok(())
    }

    fn look(&self, view: &View, sender: &Sender<Message>) {
        let findings = conditions::look(&self.rules.all, view);
        let mut book = lock(&self.book);
        let before = book.firing().values().sum::<u64>();
        book.look(&findings, view.now_ms);
        let firing = book.firing().values().sum::<u64>();
        if firing != before {
            tracing::warn!(firing, before, "alerts");
        }
        if self.receiver.is_some() {
            for message in book.due(view.now_ms) {
                if let Err(error) = sender.try_send(message) {
                    self.failed.fetch_add(1, Relaxed);
                    book.settle(&error.into_inner(), false, view.now_ms);
                }
            }
        }
        self.keep(&mut book);
    }

    /// The life of the thread that tells.
    fn deliver(&self, messages: &Messages<Message>) {
        let Some(receiver) = &self.receiver else { return };
        for message in messages {
            let told = receiver.tell(&message);
            let counter = if told.is_ok() { &self.delivered } else { &self.failed };
            counter.fetch_add(1, Relaxed);
            if let Err(why) = &told {
                tracing::warn!(rule = message.rule, why, "whoever is told of alerts cannot be: it is tried again");
            }
            let mut book = lock(&self.book);
            book.settle(&message, told.is_ok(), clock::unix_ms());
            self.keep(&mut book);
        }
    }

    /// Writes down what the next process must know, where that changed.
    fn keep(&self, book: &mut Book) {
        let Some(path) = self.file.get().filter(|_| book.take_change()) else { return };
        let temporary = path.with_extension("tmp");
        let text = serde_json::to_vec(&book.keep()).map_err(io::Error::other);
        let written = text.and_then(|text| fs::write(&temporary, text)).and_then(|()| fs::rename(&temporary, path));
        let is_unkept = written.is_err();
        if let Err(error) = written
            && !self.is_unkept.load(Relaxed)
        {
            tracing::warn!(file = %path.display(), %error, "alerts are not kept: a restart may tell them again");
        }
        self.is_unkept.store(is_unkept, Relaxed);
    }

    /// All of them, for programs.
    pub(crate) fn form(&self) -> Value {
        let mut form = lock(&self.book).form();
        form["rules"] = self.rules.all.iter().map(|rule| json!(rule.name)).collect();
        form["webhook"] = match &self.receiver {
            Some(_) => json!({ "delivered": self.delivered.load(Relaxed), "failed": self.failed.load(Relaxed) }),
            None => Value::Null,
        };
        form
    }

    /// Has nobody be told of some alerts for a while. Answers the silence's number.
    pub(crate) fn silence(&self, silence: Silence) -> Result<u64, String> {
        let mut book = lock(&self.book);
        let id = book.silence(silence)?;
        self.keep(&mut book);
        Ok(id)
    }

    /// Ends a silence; whether there was one of this number.
    pub(crate) fn unsilence(&self, id: u64) -> bool {
        let mut book = lock(&self.book);
        let was_there = book.unsilence(id);
        self.keep(&mut book);
        was_there
    }

    /// Alerts that fire, by rule.
    pub(crate) fn firing(&self) -> Vec<(String, u64)> {
        lock(&self.book).firing().into_iter().map(|(rule, count)| (rule.to_owned(), count)).collect()
    }

    /// Messages that were delivered, and tries that failed; none where nobody is told.
    pub(crate) fn told(&self) -> Option<[u64; 2]> {
        self.receiver.as_ref().map(|_| [self.delivered.load(Relaxed), self.failed.load(Relaxed)])
    }
}

/// What a process before this one left; nothing where it cannot be read.
fn read(path: &std::path::Path) -> Option<Kept> {
    let found = fs::metadata(path).ok()?;
    if found.len() > FILE_BYTES_MAX {
        return None;
    }
    let kept = fs::read(path).map_err(|error| error.to_string());
    let kept = kept.and_then(|bytes| serde_json::from_slice(&bytes).map_err(|error| error.to_string()));
    kept.inspect_err(
        |error| tracing::warn!(file = %path.display(), error, "alerts begin anew: the file cannot be read"),
    )
    .ok()
}
