//! How does a fact get on the record for good where one process writes the log to a folder?
//!
//! [`FolderLog::append`] puts an entry in line and gives a ticket; [`FolderLog::wait`] comes back when the disk has it. Who waits
//! first writes for all that are in line, with one sync for the whole group; the others find it done. A group is on the disk as
//! a whole or not at all.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use crate::disk::{Disk, Lock, make_folder};
use crate::entry::{Head, line};
use crate::log::{Cut, Draft, Limits, Outcome, Ticket};
use crate::reader::{Entries, segments};
use crate::recent::Recent;
use crate::{Error, Result};

/// Bytes in line from which on an append waits for the disk itself.
const GROUP_BYTES_MAX: usize = 4 << 20;

/// An append-only log in a folder, of which this is the only writer.
#[derive(Debug)]
pub(crate) struct FolderLog {
    folder: PathBuf,
    cut: Option<Cut>,
    queue: Mutex<Queue>,
    disk: Mutex<Disk>,
    recent: Mutex<Recent>,
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

fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FolderLog {
    /// Opens the log in `folder`, or begins one there, and reads all of it. A last line without an end is cut off, which
    /// [`FolderLog::cut`] tells; anything else that is not as it was written is an error, and nothing is changed.
    pub(crate) fn open(folder: &Path, limits: Limits) -> Result<FolderLog> {
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
        let recent = Mutex::new(Recent::after(head.sequence));
        Ok(FolderLog { folder: folder.to_owned(), cut, queue, disk, recent, _lock: lock })
    }

    /// What had to be cut off when it was opened.
    pub(crate) fn cut(&self) -> Option<&Cut> {
        self.cut.as_ref()
    }

    /// The last entry that is on the disk.
    pub(crate) fn head(&self) -> Head {
        hold(&self.disk).head()
    }

    /// The entries on the disk, from this sequence on.
    pub(crate) fn entries(&self, from: u64) -> Result<Entries> {
        match hold(&self.recent).from(from) {
            Some(known) => Ok(Entries::known(known)),
            None => Entries::open(&self.folder, from),
        }
    }

    /// Puts an entry in line. Where the group before it cannot be written, this one cannot either: it follows it.
    pub(crate) fn append(&self, time_ms: u64, kind: &str, data: &impl Serialize) -> Result<Ticket> {
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

    /// Appends entries right after `head`, all or none, and waits for them.
    pub(crate) fn record_after(&self, head: Head, drafts: &[Draft]) -> Result<Head> {
        let (ticket, head) = {
            let mut queue = hold(&self.queue);
            if queue.head != head {
                // Who reads on now shall find what the others said: it may be on its way to the disk still.
                let others = Ticket { sequence: queue.head.sequence, outcome: queue.group.outcome.clone() };
                drop(queue);
                drop(self.wait(&others));
                return Err(Error::Moved { after: head.sequence });
            }
            let (mut lines, mut last) = (String::new(), head);
            for Draft { time_ms, kind, data } in drafts {
                let (line, next) = line(last, *time_ms, kind, data)?;
                lines += &line;
                last = next;
            }
            queue.head = last;
            queue.group.lines.extend_from_slice(lines.as_bytes());
            (Ticket { sequence: last.sequence, outcome: queue.group.outcome.clone() }, last)
        };
        self.wait(&ticket).map(|()| head)
    }

    /// Comes back when the disk has the entry, or cannot have it: then nothing of its group is on the record, and where
    /// room was missing it may be appended again later.
    pub(crate) fn wait(&self, ticket: &Ticket) -> Result<()> {
        let mut disk = hold(&self.disk);
        if let Some(outcome) = ticket.outcome.get() {
            return outcome.clone();
        }
        let (group, head) = {
            let mut queue = hold(&self.queue);
            (std::mem::take(&mut queue.group), queue.head)
        };
        let outcome = if group.lines.is_empty() { Ok(()) } else { disk.write(&group.lines, head) };
        if outcome.is_ok() {
            hold(&self.recent).add(&group.lines, head.sequence);
        }
        if let Err(error) = &outcome {
            // Those who came meanwhile follow what is not there.
            let mut queue = hold(&self.queue);
            settle(&std::mem::take(&mut queue.group), Err(error.clone()));
            queue.head = disk.head();
        }
        settle(&group, outcome.clone());
        outcome
    }
}

/// Tells all who wait for the group. Nobody else does: a group is taken once.
fn settle(group: &Group, outcome: Result<()>) {
    let is_first = group.outcome.set(outcome).is_ok();
    debug_assert!(is_first, "a group has one outcome");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two who decide by what stands in the log, and read on whenever the other was first, both get everything said.
    #[test]
    fn who_comes_second_finds_what_the_first_one_said() {
        const EACH: u64 = 200;
        let folder = tempfile::tempdir().expect("a folder");
        let log = FolderLog::open(folder.path(), Limits::default()).expect("a log");
        let say = |who: u64| {
            let (mut head, mut moved) = (log.head(), 0_u64);
            for count in 0..EACH {
                let draft = || Draft::new(0, "a", &[who, count]).expect("JSON");
                head = loop {
                    match log.record_after(head, &[draft()]) {
                        Ok(head) => break head,
                        Err(Error::Moved { .. }) => moved += 1,
                        Err(error) => panic!("{error}"),
                    }
                    let entries = log.entries(head.sequence + 1).expect("entries").collect::<Result<Vec<_>>>();
                    let last = entries.expect("whole entries").last().map(crate::Entry::head);
                    head = last.expect("what came first can be read");
                };
            }
            moved
        };
        let moved = std::thread::scope(|scope| {
            let other = scope.spawn(|| say(1));
            say(0) + other.join().expect("no panic")
        });
        let said = log.entries(1).expect("entries").count() as u64;
        assert_eq!((said, log.head().sequence), (2 * EACH, 2 * EACH), "{moved} were second");
    }
}
