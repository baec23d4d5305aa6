//! What can go wrong with a log, and what is to be done about it?

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tiltyard_types::ErrorKind;

/// A result of the log.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why something could not be written or read. All entries of one group share theirs.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The system refused. Where the disk is full, the log is as it was, and the same may be tried again later.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// What was tried, as in "cannot … the file".
        doing: &'static str,
        /// With which file or folder.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// The log is not what was written.
    #[error(transparent)]
    Broken(Break),
    /// Another process writes it.
    #[error(
        "the log {} is written by {holder}: expected to be the only one; end that process, or use another folder",
        folder.display()
    )]
    Held {
        /// The log's folder.
        folder: PathBuf,
        /// Who, such as `process 4711`.
        holder: String,
    },
    /// Something that no entry can hold.
    #[error("{0}")]
    Unfit(String),
    /// An earlier write failed in a way that leaves unknown what is on the disk.
    #[error("the log takes no more entries since a write failed and could not be taken back: {0}; open it anew")]
    Stopped(Arc<Error>),
    /// What was signed, and what is there, are not the same.
    #[error("{} does not prove the log: {what}", place.display())]
    Unproved {
        /// The file that says otherwise.
        place: PathBuf,
        /// What does not agree.
        what: String,
    },
    /// Bytes that were kept are not there any more, or are others.
    #[error("{0}")]
    Lost(String),
    /// The database is not there, or does not answer. The same may be tried again later.
    #[error("the registry's database {database} cannot be reached: {what}")]
    Unreachable {
        /// Where it is, without a password.
        database: String,
        /// What was seen.
        what: String,
    },
    /// The database answers, and says no.
    #[error("the registry's database {database} refuses to {doing}: {what} ({code})")]
    Refused {
        /// Where it is, without a password.
        database: String,
        /// What was asked of it.
        doing: &'static str,
        /// What it says.
        what: String,
        /// The five characters of SQLSTATE.
        code: String,
    },
    /// Others have appended since that head: look at what they said, and decide again.
    #[error("others have appended to the log since entry {after}: read on from there, and decide again")]
    Moved {
        /// The entry that was the last one when it was decided.
        after: u64,
    },
    /// Only who leads may append this, and this process does not.
    #[error("another replica leads: it alone appends what was gathered")]
    NotLeading,
}

impl Error {
    pub(crate) fn io(doing: &'static str, path: &Path, source: io::Error) -> Error {
        Error::Io { doing, path: path.to_owned(), source: Arc::new(source) }
    }

    /// Whether room is what is missing: on the disk, in a quota, or under a limit of the file's size.
    pub fn is_full(&self) -> bool {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        matches!(self, Error::Io { source, .. } if matches!(source.kind(), StorageFull | QuotaExceeded | FileTooLarge))
    }
}

impl From<Error> for tiltyard_types::Error {
    fn from(error: Error) -> tiltyard_types::Error {
        let kind = if matches!(error, Error::Unfit(_)) { ErrorKind::Invalid } else { ErrorKind::NotReady };
        tiltyard_types::Error::new(kind, error.to_string())
    }
}

/// The first place at which a log is not what was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the log is broken in {segment}, line {line}, byte {byte}: {what}")]
pub struct Break {
    /// The segment's file name.
    pub segment: String,
    /// The line, from 1.
    pub line: u64,
    /// Where that line begins, in bytes from the segment's start.
    pub byte: u64,
    /// What is wrong there.
    pub what: String,
}
