//! What can go wrong while answers are captured? Never anything that a client hears of.

use std::io;
use std::path::{Path, PathBuf};

/// Why something of the capture cannot be done now.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system refused.
    #[error("cannot {what} {}: {error}", path.display())]
    Io {
        /// What was to be done, such as `open`.
        what: &'static str,
        /// With which file or folder.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// Another process captures into the same folder.
    #[error("{} is held by another process: each server needs a capture folder of its own", .0.display())]
    Held(PathBuf),
    /// The file is no ring, or one of another form.
    #[error("{} is not a capture ring of this form: move it away, and a new one is made", .0.display())]
    NotARing(PathBuf),
    /// A file of ours does not say what it should.
    #[error("{}: {why}", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Rows that were declared to be somebody's, and no keys.
    #[error("rows that are to be encrypted wait in the ring, and there are no keys: give the master key's file again")]
    NoKeys,
    /// A segment whose rows are encrypted, and no keys.
    #[error("{} holds encrypted rows: expected the master key's file, and the file of keys beside the segments", .0.display())]
    Sealed(PathBuf),
    /// A segment cannot be written or read as Parquet.
    #[error("cannot {what} {}: {error}", path.display())]
    Parquet {
        /// What was to be done, such as `write`.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the encoder says.
        error: parquet::errors::ParquetError,
    },
}

impl Error {
    pub(crate) fn io(what: &'static str, path: &Path, error: io::Error) -> Error {
        Error::Io { what, path: path.to_owned(), error }
    }

    pub(crate) fn broken(path: &Path, why: impl Into<String>) -> Error {
        Error::Broken { path: path.to_owned(), why: why.into() }
    }

    /// Whether it is not the disk's: to try again would be of no use.
    pub(crate) fn is_for_ever(&self) -> bool {
        matches!(self, Error::Parquet { error, .. } if !matches!(error, parquet::errors::ParquetError::External(_)))
    }

    pub(crate) fn parquet(what: &'static str, path: &Path, error: parquet::errors::ParquetError) -> Error {
        Error::Parquet { what, path: path.to_owned(), error }
    }
}

/// What comes of it, or why not.
pub type Result<T, E = Error> = std::result::Result<T, E>;
