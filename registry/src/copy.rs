//! How do lines come into a new folder as they stand in another log, and from one log into another?

use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::path::Path;

use serde::Serialize;
use tiltyard_types::Digest;

use crate::audit::Frontier;
use crate::entry::{Entry, Head};
use crate::log::{Draft, Log};
use crate::reader::segment_name;
use crate::{Error, Result};

/// Bytes from which on the next line begins a new segment.
const SEGMENT_BYTES: u64 = 64 << 20;

/// Entries that are appended at once, and bytes beyond which no further one is.
const GROUP: usize = 500;
const GROUP_BYTES: usize = 4 << 20;

/// Segments in a folder that nobody else writes.
pub(crate) struct Segments<'a> {
    folder: &'a Path,
    file: Option<BufWriter<File>>,
    bytes: u64,
}

impl<'a> Segments<'a> {
    /// Makes the folder, which must not be there yet, or be empty.
    pub(crate) fn new(folder: &'a Path) -> Result<Segments<'a>> {
        make_empty(folder)?;
        Ok(Segments { folder, file: None, bytes: 0 })
    }

    /// Writes the next entry as it stands in its log.
    pub(crate) fn write(&mut self, entry: &Entry) -> Result<()> {
        let fail = |error| Error::io("write into", self.folder, error);
        if self.bytes >= SEGMENT_BYTES {
            self.bytes = 0;
            finish(self.file.take()).map_err(fail)?;
        }
        let file = match &mut self.file {
            Some(file) => file,
            None => {
                let path = self.folder.join(segment_name(entry.sequence));
                let file = File::create_new(&path).map_err(|error| Error::io("make", &path, error))?;
                self.file.insert(BufWriter::new(file))
            }
        };
        let line = entry.line();
        self.bytes += line.len() as u64 + 1;
        writeln!(file, "{line}").map_err(fail)
    }

    /// Has all of it on the disk.
    pub(crate) fn finish(self) -> Result<()> {
        let done = finish(self.file).and_then(|()| File::open(self.folder)?.sync_all());
        done.map_err(|error| Error::io("write into", self.folder, error))
    }
}

fn finish(file: Option<BufWriter<File>>) -> io::Result<()> {
    match file {
        Some(file) => file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all(),
        None => Ok(()),
    }
}

/// Makes a folder. Fails where there is one that has anything in it.
pub(crate) fn make_empty(folder: &Path) -> Result<()> {
    let made = fs::create_dir_all(folder).and_then(|()| fs::read_dir(folder));
    let mut found = made.map_err(|error| Error::io("make the folder", folder, error))?;
    if found.next().is_some() {
        return Err(Error::Unfit(format!("{} is not empty: expected a new folder", folder.display())));
    }
    Ok(())
}

/// Writes a file that is not there yet, and has it on the disk.
pub(crate) fn write_new(path: &Path, text: &str) -> Result<()> {
    let written = File::create_new(path).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    written.map_err(|error| Error::io("write", path, error))
}

/// What a migration comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Migrated {
    /// The end of both logs.
    pub head: Head,
    /// Entries that were there already.
    pub there: u64,
    /// Entries that were copied.
    pub copied: u64,
    /// The root of the tree over the lines of both, as hexadecimal digits.
    #[serde(serialize_with = "crate::entry::as_text")]
    pub root: Digest,
}

/// Copies a log into another, of whatever kind the two are, so that both have the same bytes. What the other one has already
/// must be the beginning of the first: one that was interrupted goes on, and one that was done does nothing. In the end all is
/// read from the other, and must have the same root. Nothing may write the first meanwhile: what comes later is not copied.
pub fn migrate(from: &Log, to: &Log) -> Result<Migrated> {
    let end = newest(from)?;
    let (there, mut tree) = beginning(from, to, end)?;
    let mut head = there;
    let (mut group, mut bytes) = (Vec::new(), 0);
    let mut next = there;
    if there.sequence < end.sequence {
        for entry in from.entries(there.sequence + 1)? {
            let entry = entry?;
            tree.push(entry.leaf());
            next = entry.head();
            bytes += entry.data.get().len();
            group.push(Draft { time_ms: entry.time_ms, kind: entry.kind, data: entry.data });
            let is_last = next.sequence >= end.sequence;
            if is_last || group.len() >= GROUP || bytes >= GROUP_BYTES {
                head = to.record_after(head, &group)?;
                if head != next {
                    return Err(differs(next, head));
                }
                group.clear();
                bytes = 0;
            }
            if is_last {
                break;
            }
        }
    }
    if next != end {
        return Err(differs(end, next));
    }
    let mut copied = Frontier::default();
    for entry in to.entries(1)? {
        let entry = entry?;
        copied.push(entry.leaf());
        if entry.sequence == end.sequence {
            break;
        }
    }
    if (copied.size(), copied.root()) != (end.sequence, tree.root()) {
        return Err(Error::Lost(format!(
            "what was copied has {} entries and the root {}, and the log has {} and {}",
            copied.size(),
            copied.root(),
            end.sequence,
            tree.root()
        )));
    }
    Ok(Migrated { head: end, there: there.sequence, copied: end.sequence - there.sequence, root: tree.root() })
}

/// The last entry; of a database, what it says now.
fn newest(log: &Log) -> Result<Head> {
    match log.remote() {
        None => Ok(log.head()),
        Some(remote) => {
            let mut head = log.head();
            loop {
                match remote.entries_after(head)?.last() {
                    Some(last) => head = last.head(),
                    None => return Ok(head),
                }
            }
        }
    }
}

/// Where the second log ends, and the tree up to there. All that it has must be in the first.
fn beginning(from: &Log, to: &Log, end: Head) -> Result<(Head, Frontier)> {
    let there = newest(to)?;
    let other = |at: u64| {
        Error::Unfit(format!(
            "the log that is copied into holds another one: its entry {at} is not that of the first; expected an empty one, or \
             a beginning of the first"
        ))
    };
    if there.sequence > end.sequence {
        return Err(other(end.sequence + 1));
    }
    let mut tree = Frontier::default();
    if there.sequence > 0 {
        let (ours, theirs) = (from.entries(1)?, to.entries(1)?);
        for (own, their) in ours.zip(theirs) {
            let (own, their) = (own?, their?);
            if own.hash != their.hash {
                return Err(other(own.sequence));
            }
            tree.push(own.leaf());
            if own.sequence == there.sequence {
                break;
            }
        }
    }
    if tree.size() != there.sequence {
        return Err(other(tree.size() + 1));
    }
    Ok((there, tree))
}

fn differs(expected: Head, found: Head) -> Error {
    Error::Lost(format!(
        "entry {} should follow with the hash {}, and entry {} has {}: does another process write one of the logs?",
        expected.sequence, expected.hash, found.sequence, found.hash
    ))
}
