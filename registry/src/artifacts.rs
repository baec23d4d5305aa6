//! Where do the bytes of versions lie, so that the same bytes are there once and no others under their name?
//!
//! A blob is named after the SHA-256 of its bytes, and is checked whenever it is read. A version is a [`Manifest`], the list of
//! its files; the digest of that list is the artifact digest, by which the whole record knows a version. [`Store`] keeps blobs in
//! a folder; whatever else can do what [`Blobs`] asks may take its place.

mod manifest;
mod materialise;
mod store;

use std::io::{self, Read};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use sha2::{Digest as _, Sha256};
use tiltyard_types::Digest;

pub(crate) use manifest::digest;
pub use manifest::{FILES_MAX, Listed, Manifest, check_name};
pub use materialise::materialise;
pub use store::Store;

use crate::{Error, Result};

/// Bytes of one piece that is read and digested at a time.
const CHUNK_BYTES: usize = 64 << 10;

/// Bytes under the digest of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blob {
    /// SHA-256 of the bytes.
    pub digest: Digest,
    /// How many there are.
    pub size: u64,
}

/// What a sweep took away, and what it left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Blobs, and beginnings of some, that are gone.
    pub removed: u64,
    /// The bytes of those.
    pub removed_bytes: u64,
    /// Blobs that somebody refers to.
    pub wanted: u64,
    /// Blobs that nobody refers to, and that are too young to go.
    pub young: u64,
}

/// A place that keeps blobs.
pub trait Blobs: Send + Sync {
    /// Keeps what `from` gives, which may be this many bytes. The same bytes are kept once. When it comes back, they are safe.
    fn put(&self, from: &mut dyn Read, bytes_max: u64) -> Result<Blob>;

    /// How many bytes a blob has; none where it is not there.
    fn size(&self, digest: Digest) -> Result<Option<u64>>;

    /// Opens a blob. Reading fails at its end where the bytes are not those of the digest.
    fn open(&self, digest: Digest) -> Result<Checked>;

    /// Takes away what nobody refers to, and who kept it last did so before `now` less `grace`: a version that is just being
    /// pushed is not on the record yet.
    fn sweep(&self, is_wanted: &dyn Fn(Digest) -> bool, now: SystemTime, grace: Duration) -> Result<Swept>;

    /// The file in which a blob lies, where it lies in one of this machine.
    fn file(&self, _digest: Digest) -> Option<PathBuf> {
        None
    }
}

/// The bytes of a blob, which are digested while they are read.
pub struct Checked {
    from: Box<dyn Read + Send>,
    expected: Digest,
    hash: Sha256,
    is_over: bool,
}

impl std::fmt::Debug for Checked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Checked").field("expected", &self.expected).finish_non_exhaustive()
    }
}

impl Checked {
    /// These bytes, which must be those of the digest.
    pub fn new(from: Box<dyn Read + Send>, expected: Digest) -> Checked {
        Checked { from, expected, hash: Sha256::new(), is_over: false }
    }
}

impl Read for Checked {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.is_over || buffer.is_empty() {
            return Ok(0);
        }
        let read = self.from.read(buffer)?;
        self.hash.update(&buffer[..read]);
        if read == 0 {
            let found = Digest::new(std::mem::take(&mut self.hash).finalize().into());
            if found != self.expected {
                let what = format!("the blob {} is damaged: its bytes have the digest {found}", self.expected);
                return Err(io::Error::new(io::ErrorKind::InvalidData, what));
            }
            self.is_over = true;
        }
        Ok(read)
    }
}

/// A blob's file as it should be named in errors.
fn lost(digest: Digest) -> Error {
    Error::Lost(format!("the blob {digest} is not there: push the version again, or restore it from a backup"))
}

#[cfg(test)]
mod tests;
