//! Is it known who made a version's files, and may they be served?
//!
//! What counts as a proof is not known here: whoever makes the loader hands in who asks. It is asked when all files were read, before
//! an engine sees any of them.

use std::collections::BTreeMap;

use tiltyard_types::Digest;

/// The file in a version's folder in which its maker signs the others. It is one of the version's files as they are.
pub const SIGNATURE_FILE: &str = "model.sig";

/// A larger one is not read.
pub(crate) const SIGNATURE_BYTES_MAX: u64 = 8 << 20;

/// A version's files, as they were read.
#[derive(Clone, Copy, Debug)]
pub struct Read<'a> {
    /// Bytes and SHA-256 of each, by its name. Those that lie beside the version's folder begin with `../`.
    pub files: &'a BTreeMap<String, (u64, Digest)>,
    /// What stands in [`SIGNATURE_FILE`], where that is there.
    pub signature: Option<&'a [u8]>,
}

/// What is known of who made a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Made {
    /// By whom, in words.
    By(String),
    /// Why nobody knows.
    Unknown(String),
}

/// Says who made a version, or why it must not be served.
pub type Ask = dyn Fn(Read<'_>) -> Result<Made, String> + Send + Sync;
