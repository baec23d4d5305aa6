//! When is a checkpoint made, and how does it get to the disk?
//!
//! A sealer follows the log with its tree, and writes a checkpoint when 1,000 entries or a minute have passed since the last,
//! with anything new in them. It reads no clock and has no thread: who has both asks it now and then. It takes nothing that
//! the log has not promised, so that no loss of power can leave a checkpoint that is ahead of its log.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::checkpoint::{Checkpoint, Checkpoints};
use super::key::Signer;
use super::tree::Frontier;
use crate::entry::{Entry, Head};
use crate::log::Log;
use crate::{Break, Error, Result};

/// So many new entries make a checkpoint.
pub const ENTRIES: u64 = 1_000;

/// After so long, in milliseconds, one new entry does.
pub const INTERVAL_MS: u64 = 60_000;

/// Follows a log and signs what it sees.
#[derive(Debug)]
pub struct Sealer {
    path: PathBuf,
    file: File,
    /// Bytes of the file that are safe.
    length: u64,
    signer: Signer,
    tree: Frontier,
    head: Head,
    last: Option<Checkpoint>,
    unfinished: u64,
}

impl Sealer {
    /// Opens the file `path`, or begins it, and goes over the log: each checkpoint that is there must be of it. The end of one
    /// whose writer died is cut off; anything else is an error, and nothing is changed.
    pub fn open(path: &Path, signer: Signer, log: &Log) -> Result<Sealer> {
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let file = open.map_err(|error| Error::io("open", path, error))?;
        let reader = BufReader::new(file.try_clone().map_err(|error| Error::io("open", path, error))?);
        let mut found = Checkpoints::new(reader, path, signer.public());
        let promised = log.head().sequence;
        let entries = log.entries(1)?.take(usize::try_from(promised).unwrap_or(usize::MAX));
        let Walked { tree, head, last, .. } = walk(entries, &mut found, path, |_| Ok(()))?;
        let (length, unfinished) = (found.whole(), found.unfinished());
        let path = path.to_owned();
        let sealer = Sealer { path, file, length, signer, tree, head, last, unfinished };
        sealer.cut()?;
        let folder = sealer.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| Error::io("sync", folder, error))?;
        Ok(sealer)
    }

    /// Bytes that had to be cut off when it was opened.
    pub fn unfinished(&self) -> u64 {
        self.unfinished
    }

    /// The last checkpoint.
    pub fn last(&self) -> Option<&Checkpoint> {
        self.last.as_ref()
    }

    /// The key with which it signs.
    pub fn signer(&self) -> &Signer {
        &self.signer
    }

    /// Makes a checkpoint if one is due. The log must be the one that it was opened with. What is new is read only then: to
    /// ask often costs nothing.
    pub fn follow(&mut self, log: &Log, now_ms: u64) -> Result<Option<&Checkpoint>> {
        let (size, since) = self.last.as_ref().map_or((0, 0), |last| (last.size, last.time_ms));
        let new = log.head().sequence.saturating_sub(size);
        // A clock that was set back must not keep it from signing for long.
        let is_late = now_ms.abs_diff(since) >= INTERVAL_MS;
        if new >= ENTRIES || (new > 0 && is_late) { self.seal(log, now_ms) } else { Ok(None) }
    }

    /// The same, with a checkpoint now if there is anything new: before an export, and when the server ends.
    pub fn seal(&mut self, log: &Log, now_ms: u64) -> Result<Option<&Checkpoint>> {
        self.take(log)?;
        let is_new = self.last.as_ref().map_or(0, |last| last.size) < self.tree.size();
        if is_new { self.write(now_ms).map(Some) } else { Ok(self.last.as_ref()) }
    }

    fn take(&mut self, log: &Log) -> Result<()> {
        let promised = log.head().sequence;
        if promised <= self.head.sequence {
            return Ok(());
        }
        for entry in log.entries(self.head.sequence + 1)? {
            let entry = entry?;
            if entry.sequence > promised {
                break;
            }
            if let Some(what) = entry.gap(self.head) {
                let segment = format!("entry {}", entry.sequence);
                return Err(Error::Broken(Break { segment, line: 1, byte: 0, what }));
            }
            self.tree.push(entry.leaf());
            self.head = entry.head();
        }
        Ok(())
    }

    fn write(&mut self, now_ms: u64) -> Result<&Checkpoint> {
        let checkpoint = Checkpoint::sign(&self.signer, self.tree.size(), self.tree.root(), now_ms);
        let record = checkpoint.record();
        let written = self.file.write_all_at(record.as_bytes(), self.length).and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            // What is there of it is written over by the next, or cut when it is opened.
            drop(self.cut());
            return Err(Error::io("write", &self.path, error));
        }
        self.length += record.len() as u64;
        Ok(self.last.insert(checkpoint))
    }

    fn cut(&self) -> Result<()> {
        let cut = || -> io::Result<()> {
            if self.file.metadata()?.len() != self.length {
                self.file.set_len(self.length)?;
            }
            self.file.sync_all()
        };
        cut().map_err(|error| Error::io("cut", &self.path, error))
    }
}

/// What a walk over a log and its checkpoints comes to.
pub(super) struct Walked {
    pub(super) tree: Frontier,
    pub(super) head: Head,
    pub(super) last: Option<Checkpoint>,
    pub(super) checkpoints: u64,
}

/// Goes over a log from its first entry, and over its checkpoints beside it. `each` sees the tree after every entry.
pub(super) fn walk(
    entries: impl Iterator<Item = Result<Entry>>,
    checkpoints: &mut Checkpoints<impl io::BufRead>,
    path: &Path,
    mut each: impl FnMut(&Frontier) -> Result<()>,
) -> Result<Walked> {
    let mut walked = Walked { tree: Frontier::default(), head: Head::START, last: None, checkpoints: 0 };
    let mut next = checkpoints.next().transpose()?;
    for entry in entries {
        let entry = entry?;
        walked.tree.push(entry.leaf());
        walked.head = entry.head();
        each(&walked.tree)?;
        while let Some(found) = next.take_if(|next| next.size <= walked.tree.size()) {
            check(&found, &walked.tree, path)?;
            (walked.last, walked.checkpoints) = (Some(found), walked.checkpoints + 1);
            next = checkpoints.next().transpose()?;
        }
    }
    match next {
        Some(ahead) => Err(missing(path, &ahead, walked.tree.size())),
        None => Ok(walked),
    }
}

pub(super) fn missing(path: &Path, ahead: &Checkpoint, size: u64) -> Error {
    let what =
        format!("a checkpoint has {} entries, and the log has {size}: entries are missing from its end", ahead.size);
    off(path, what)
}

/// Whether a checkpoint is of this tree, which has as many entries.
pub(super) fn check(found: &Checkpoint, tree: &Frontier, path: &Path) -> Result<()> {
    if (found.size, found.root) == (tree.size(), tree.root()) {
        return Ok(());
    }
    let what = format!(
        "a checkpoint of {} entries has the root {}, and the log's first {} have {}: the log was made anew",
        found.size,
        found.root,
        tree.size(),
        tree.root()
    );
    Err(off(path, what))
}

pub(super) fn off(path: &Path, what: String) -> Error {
    Error::Unproved { place: path.to_owned(), what }
}

/// Whether there is a file; one that is not there has no checkpoints.
pub(super) fn open_checkpoints(path: &Path) -> Result<Box<dyn io::BufRead>> {
    match fs::File::open(path) {
        Ok(file) => Ok(Box::new(BufReader::new(file))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Box::new(io::empty())),
        Err(error) => Err(Error::io("open", path, error)),
    }
}
