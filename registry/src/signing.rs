//! Did somebody who is trusted here sign a version's files, and are they still what was signed?
//!
//! What is read is a detached signature as [OpenSSF Model Signing](https://github.com/ossf/model-signing-spec) has it and the package
//! `model-signing` writes it: a Sigstore bundle (`model.sig`) around a DSSE envelope around an in-toto statement that names each file
//! with its digest. Signed with a key (ECDSA on P-256 or P-384) or with a certificate that a trusted authority vouches for. Signatures
//! without a key of one's own (Sigstore's Fulcio and Rekor) are refused: to check them takes a service's roots.

use std::fmt;

use tiltyard_types::Digest;

mod bundle;
mod keys;
mod statement;

pub use keys::Keys;

/// The name that a signature has beside the files that it signs.
pub const SIGNATURE_FILE: &str = "model.sig";

/// Bytes of a signature, at most: 10,000 files with long names have less.
pub const SIGNATURE_BYTES_MAX: usize = 8 << 20;

/// One file as it is on the disk. Hidden files are none of a version's, and are not looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File<'a> {
    /// Its path within the version's folder, with `/`.
    pub path: &'a str,
    /// Its bytes.
    pub size: u64,
    /// SHA-256 of them.
    pub digest: Digest,
}

/// A signature that holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// Who signed.
    pub by: Signer,
    /// What the signer called the model: a folder's name, which nobody checks.
    pub name: String,
    /// How many files are signed and as they were.
    pub files: usize,
    /// SHA-256 over the digests of all files: what the signer's other documents may refer to.
    pub root: Digest,
}

/// Who signed, in the words of whoever trusts them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signer {
    /// A key, by the name that it was given here.
    Key(String),
    /// A certificate, by its subject.
    Certificate(String),
}

impl fmt::Display for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Signer::Key(name) => write!(f, "the key {name}"),
            Signer::Certificate(subject) => write!(f, "the certificate of {subject:?}"),
        }
    }
}

/// Why a signature does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It is not in a form that is read here.
    #[error("{SIGNATURE_FILE} cannot be read: {0}")]
    Malformed(String),
    /// It is a signature, but of a kind that is not checked here.
    #[error("{SIGNATURE_FILE} {0}")]
    Unsupported(String),
    /// Who signed is not among those that are trusted.
    #[error("{SIGNATURE_FILE} was made with {with}, which is not trusted here: {trusted}")]
    Untrusted {
        /// What it was made with.
        with: String,
        /// Who is trusted, or why a certificate is not.
        trusted: String,
    },
    /// The signature is another one's, or what it signs was changed.
    #[error("{SIGNATURE_FILE} was not made with {0}, or was changed since: get it anew from whoever signed")]
    Forged(Signer),
    /// The signature holds, but not for these files.
    #[error("the files are not what {by} signed: {}", shown(differences))]
    Files {
        /// Who signed.
        by: Signer,
        /// What is different, one clause each, in the order of their paths.
        differences: Vec<String>,
    },
}

fn shown(differences: &[String]) -> String {
    const SHOWN_MAX: usize = 4;
    let mut text = differences[..differences.len().min(SHOWN_MAX)].join(", ");
    if differences.len() > SHOWN_MAX {
        text.push_str(&format!(", and {} more", differences.len() - SHOWN_MAX));
    }
    text
}

/// Checks that `bundle`, the bytes of a `model.sig`, was signed by somebody in `trusted` for exactly these files.
///
/// Every file must be signed: paths that the signer left out (`ignore_paths`) are refused like other unsigned files, since an
/// answer may depend on them.
pub fn verify<'a>(bundle: &[u8], files: impl IntoIterator<Item = File<'a>>, trusted: &Keys) -> Result<Signed, Error> {
    let bundle = bundle::Bundle::read(bundle)?;
    let by = trusted.signer(&bundle)?;
    let statement = statement::Statement::read(&bundle.payload)?;
    let differences = statement.differences(files)?;
    if !differences.is_empty() {
        return Err(Error::Files { by, differences });
    }
    Ok(Signed { by, name: statement.name, files: statement.resources.len(), root: statement.root })
}

#[cfg(test)]
mod tests;
