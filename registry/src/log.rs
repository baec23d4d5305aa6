//! How does a fact get on the record for good, in a folder or in a database that several replicas share?
//!
//! [`Log::append`] puts an entry in line and gives a ticket; [`Log::wait`] comes back when it is safe, and [`Log::record`] does
//! both. Who decides by what stands in the log says up to where it has read it: [`Log::record_after`] is refused where others have
//! appended since. Both keep the same lines with the same hashes: `docs/log.md` has them.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use serde::Serialize;
use serde_json::value::RawValue;

use crate::entry::Head;
use crate::folder::FolderLog;
use crate::reader::Entries;
use crate::remote::{Address, Remote};
use crate::{Error, Result};

/// The sizes of a log.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// A segment with so many bytes is followed by a new one.
    pub segment_bytes: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { segment_bytes: 64 << 20 }
    }
}

/// A line without an end that was found when the log was opened, and cut off. Nobody had been promised it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The segment.
    pub segment: PathBuf,
    /// How many bytes were cut.
    pub bytes: u64,
    /// The entry that is the last one now.
    pub after: u64,
}

pub(crate) type Outcome = Arc<OnceLock<Result<()>>>;

/// An entry that is in line. [`Log::wait`] says what became of it.
#[derive(Clone, Debug)]
#[must_use = "an entry is on the record only when Log::wait says so"]
pub struct Ticket {
    pub(crate) sequence: u64,
    pub(crate) outcome: Outcome,
}

impl Ticket {
    /// The entry's sequence, if it gets on the record; otherwise another will have it.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }
}

/// What shall be appended.
#[derive(Clone, Debug)]
pub struct Draft {
    /// When, in milliseconds since 1970.
    pub time_ms: u64,
    /// What it is about, such as `rollout.event`.
    pub kind: String,
    /// What it says.
    pub data: Box<RawValue>,
}

impl Draft {
    /// Writes `data` down. Fails where that is no JSON.
    pub fn new(time_ms: u64, kind: &str, data: &impl Serialize) -> Result<Draft> {
        let written = serde_json::value::to_raw_value(data);
        let data = written.map_err(|error| Error::Unfit(format!("an entry of kind {kind:?}: {error}")))?;
        Ok(Draft { time_ms, kind: kind.to_owned(), data })
    }
}

/// An append-only log: in a folder, of which this is the only writer, or in a database, which has any number of them.
#[derive(Debug)]
pub struct Log(Place);

#[derive(Debug)]
enum Place {
    Folder(Box<FolderLog>),
    Remote(Remote),
}

impl Log {
    /// Opens the log in `folder`, or begins one there, and reads all of it. A last line without an end is cut off, which
    /// [`Log::cut`] tells; anything else that is not as it was written is an error, and nothing is changed.
    pub fn open(folder: &Path, limits: Limits) -> Result<Log> {
        FolderLog::open(folder, limits).map(|log| Log(Place::Folder(Box::new(log))))
    }

    /// Connects to the log in a database, or begins one there. Reads nothing yet: [`Log::entries`] checks what it gives.
    pub fn connect(address: &Address) -> Result<Log> {
        Remote::connect(address).map(|log| Log(Place::Remote(log)))
    }

    /// The database; none where it is a folder.
    pub fn remote(&self) -> Option<&Remote> {
        match &self.0 {
            Place::Folder(_) => None,
            Place::Remote(remote) => Some(remote),
        }
    }

    /// What had to be cut off when it was opened.
    pub fn cut(&self) -> Option<&Cut> {
        match &self.0 {
            Place::Folder(log) => log.cut(),
            Place::Remote(_) => None,
        }
    }

    /// The last entry that is safe; of a database, as far as this process knows.
    pub fn head(&self) -> Head {
        match &self.0 {
            Place::Folder(log) => log.head(),
            Place::Remote(log) => log.head(),
        }
    }

    /// The entries that are safe, from this sequence on.
    pub fn entries(&self, from: u64) -> Result<Entries> {
        match &self.0 {
            Place::Folder(log) => log.entries(from),
            Place::Remote(log) => log.entries(from),
        }
    }

    /// Puts an entry in line. Where the group before it cannot be written, this one cannot either: it follows it. A database has
    /// it when this comes back.
    pub fn append(&self, time_ms: u64, kind: &str, data: &impl Serialize) -> Result<Ticket> {
        match &self.0 {
            Place::Folder(log) => log.append(time_ms, kind, data),
            Place::Remote(log) => {
                let head = log.record(&[Draft::new(time_ms, kind, data)?])?;
                let outcome = Outcome::from(OnceLock::from(Ok(())));
                Ok(Ticket { sequence: head.sequence, outcome })
            }
        }
    }

    /// Comes back when the entry is safe, or cannot be: then nothing of its group is on the record, and where room was missing
    /// it may be appended again later.
    pub fn wait(&self, ticket: &Ticket) -> Result<()> {
        match &self.0 {
            Place::Folder(log) => log.wait(ticket),
            Place::Remote(_) => ticket.outcome.get().cloned().unwrap_or(Ok(())),
        }
    }

    /// Appends an entry and waits for it. Returns its sequence.
    pub fn record(&self, time_ms: u64, kind: &str, data: &impl Serialize) -> Result<u64> {
        let ticket = self.append(time_ms, kind, data)?;
        self.wait(&ticket).map(|()| ticket.sequence())
    }

    /// Appends entries right after `head`, all or none, and waits for them. Returns the new head. Fails with [`Error::Moved`] where
    /// others have appended since: what they said may change what is to be said. After [`Error::Unreachable`] they may be there:
    /// who reads on finds out.
    pub fn record_after(&self, head: Head, drafts: &[Draft]) -> Result<Head> {
        match &self.0 {
            Place::Folder(log) => log.record_after(head, drafts),
            Place::Remote(log) => log.record_after(head, drafts, None),
        }
    }
}
