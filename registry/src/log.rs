//! How does a fact get on the record for good?
//!
//! [`Log::append`] puts an entry in line and gives a ticket; [`Log::wait`] comes back when the disk has it. Who waits first
//! writes for all that are in line, with one sync for the whole group; the others find it done. A group is on the disk as
//! a whole or not at all.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use serde::Serialize;

use crate::Result;
use crate::disk::{Disk, Lock, make_folder};
use crate::entry::{Head, line};
use crate::reader::{Entries, segments};

/// Bytes in line from which on an append waits for the disk itself.
const GROUP_BYTES_MAX: usize = 4 << 20;

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

/// An append-only log in a folder, of which this is the only writer.
#[derive(Debug)]
pub struct Log {
    folder: PathBuf,
    cut: Option<Cut>,
    queue: Mutex<Queue>,
    disk: Mutex<Disk>,
    _lock: Lock,
}

/// What waits for the disk. Taken after `disk` where both are.
#[derive(Debug)]
struct Queue {
    head: Head,
    group: Group,
}

/// Entries that one sync will make safe.
#[derive(Debug, Default)]
struct Group {
    lines: Vec<u8>,
    outcome: Outcome,
}

type Outcome = Arc<OnceLock<Result<()>>>;

/// An entry that is in line. [`Log::wait`] says what became of it.
#[derive(Clone, Debug)]
#[must_use = "an entry is on the record only when Log::wait says so"]
pub struct Ticket {
    sequence: u64,
    outcome: Outcome,
}

impl Ticket {
    /// The entry's sequence, if it gets on the record; otherwise another will have it.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }
}

fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Log {
    /// Opens the log in `folder`, or begins one there, and reads all of it. A last line without an end is cut off, which
    /// [`Log::cut`] tells; anything else that is not as it was written is an error, and nothing is changed.
    pub fn open(folder: &Path, limits: Limits) -> Result<Log> {
        make_folder(folder)?;
        let lock = Lock::take(folder)?;
        let last = segments(folder)?.pop().map(|(_, path)| path);
        let mut entries = Entries::open(folder, 1)?;
        entries.by_ref().try_for_each(|entry| entry.map(drop))?;
        let head = entries.head().unwrap_or(Head::START);
        let bytes = entries.unfinished();
        let cut = last.clone().filter(|_| bytes > 0).map(|segment| Cut { segment, bytes, after: head.sequence });
        let last = last.map(|path| (path, entries.whole()));
        let disk = Mutex::new(Disk::resume(folder, limits.segment_bytes, last, head)?);
        let queue = Mutex::new(Queue { head, group: Group::default() });
        Ok(Log { folder: folder.to_owned(), cut, queue, disk, _lock: lock })
    }

    /// What had to be cut off when it was opened.
    pub fn cut(&self) -> Option<&Cut> {
        self.cut.as_ref()
    }

    /// The last entry that is on the disk.
    pub fn head(&self) -> Head {
        hold(&self.disk).head()
    }

    /// The entries on the disk, from this sequence on.
    pub fn entries(&self, from: u64) -> Result<Entries> {
        Entries::open(&self.folder, from)
    }

    /// Puts an entry in line. Where the group before it cannot be written, this one cannot either: it follows it.
    pub fn append(&self, time_ms: u64, kind: &str, data: &impl Serialize) -> Result<Ticket> {
        let (ticket, is_much) = {
            let mut queue = hold(&self.queue);
            let (line, head) = line(queue.head, time_ms, kind, data)?;
            queue.head = head;
            queue.group.lines.extend_from_slice(line.as_bytes());
            let ticket = Ticket { sequence: head.sequence, outcome: queue.group.outcome.clone() };
            (ticket, queue.group.lines.len() >= GROUP_BYTES_MAX)
        };
        if is_much {
            self.wait(&ticket)?;
        }
        Ok(ticket)
    }

    /// Comes back when the disk has the entry, or cannot have it: then nothing of its group is on the record, and where
    /// room was missing it may be appended again later.
    pub fn wait(&self, ticket: &Ticket) -> Result<()> {
        let mut disk = hold(&self.disk);
        if let Some(outcome) = ticket.outcome.get() {
            return outcome.clone();
        }
        let (group, head) = {
            let mut queue = hold(&self.queue);
            (std::mem::take(&mut queue.group), queue.head)
        };
        let outcome = disk.write(&group.lines, head);
        if let Err(error) = &outcome {
            // Those who came meanwhile follow what is not there.
            let mut queue = hold(&self.queue);
            settle(&std::mem::take(&mut queue.group), Err(error.clone()));
            queue.head = disk.head();
        }
        settle(&group, outcome.clone());
        outcome
    }

    /// Appends an entry and waits for it. Returns its sequence.
    pub fn record(&self, time_ms: u64, kind: &str, data: &impl Serialize) -> Result<u64> {
        let ticket = self.append(time_ms, kind, data)?;
        self.wait(&ticket).map(|()| ticket.sequence())
    }
}

/// Tells all who wait for the group. Nobody else does: a group is taken once.
fn settle(group: &Group, outcome: Result<()>) {
    let is_first = group.outcome.set(outcome).is_ok();
    debug_assert!(is_first, "a group has one outcome");
}
