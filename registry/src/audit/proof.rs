//! How is one entry proved to somebody who has nothing but a file, and that a log has only grown?

use std::path::Path;

use serde::{Deserialize, Serialize};
use tiltyard_types::Digest;

use super::checkpoint::Checkpoint;
use super::key::PublicKey;
use super::tree::{Roots, is_beginning, root_by_inclusion};
use crate::{Entry, Error, Log, Result};

/// What a proof of an entry calls itself.
const ENTRY_FORMAT: &str = "tiltyard-entry-proof-v1";

/// What a proof that a log has grown calls itself.
const GROWTH_FORMAT: &str = "tiltyard-consistency-proof-v1";

/// Steps of a proof, at most: twice the depth of a tree of 2⁶⁴ leaves.
const STEPS_MAX: usize = 128;

/// Proof that one entry is on the record: the entry, its way to the root, and the root as it was signed. A file of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proof {
    format: String,
    /// The entry's line in the log, without its end.
    pub line: String,
    /// Hashes beside the way from the leaf to the root, from below, as hexadecimal digits.
    pub path: Vec<String>,
    /// The checkpoint whose root it is.
    pub checkpoint: String,
    /// The key that signed. Who wants to trust it compares it with one from elsewhere.
    pub key: String,
}

pub(super) fn texts(hashes: &[Digest]) -> Vec<String> {
    hashes.iter().map(Digest::to_string).collect()
}

pub(super) fn hashes(texts: &[String]) -> Option<Vec<Digest>> {
    (texts.len() <= STEPS_MAX).then(|| texts.iter().map(|text| text.parse().ok()).collect())?
}

pub(super) fn unproved<T>(what: impl Into<String>) -> Result<T> {
    Err(Error::Unproved { place: "the proof".into(), what: what.into() })
}

/// The key and the checkpoint of a file. `trusted`, where somebody has one, must be the key.
pub(super) fn signed(key: &str, checkpoint: &str, trusted: Option<&PublicKey>) -> Result<(PublicKey, Checkpoint)> {
    let own: PublicKey = key.parse()?;
    if trusted.is_some_and(|trusted| *trusted != own) {
        return unproved(format!("it is signed with {own}, which is not the key that is trusted"));
    }
    match Checkpoint::read(checkpoint, &own) {
        Ok(checkpoint) => Ok((own, checkpoint)),
        Err(what) => unproved(format!("its checkpoint: {what}")),
    }
}

/// Sees the leaves that a proof needs.
pub(super) fn see(roots: &mut Roots, log: &Log) -> Result<()> {
    let size = roots.size();
    let mut seen = 0;
    for entry in log.entries(1)?.take(usize::try_from(size).unwrap_or(usize::MAX)) {
        let entry = entry?;
        roots.see(entry.sequence - 1, entry.leaf());
        seen = entry.sequence;
    }
    if seen < size { unproved(format!("its checkpoint has {size} entries, and the log has {seen}")) } else { Ok(()) }
}

impl Proof {
    /// Proves an entry under this checkpoint, which must be of the log. Reads the log up to there.
    pub fn of(log: &Log, sequence: u64, checkpoint: &Checkpoint, key: &PublicKey) -> Result<Proof> {
        let size = checkpoint.size;
        if sequence == 0 || sequence > size {
            return Err(Error::Unfit(format!(
                "entry {sequence} is not under the checkpoint, which has entries 1 to {size}: make another first"
            )));
        }
        let mut roots = Roots::inclusion(sequence - 1, size);
        see(&mut roots, log)?;
        let Some(entry) = log.entries(sequence)?.next().transpose()? else {
            return unproved(format!("entry {sequence} is not in the log"));
        };
        let proof = Proof {
            format: ENTRY_FORMAT.to_owned(),
            line: entry.line(),
            path: texts(&roots.finish()),
            checkpoint: checkpoint.to_string(),
            key: key.to_string(),
        };
        proof.verify(Some(key)).map(|_| proof)
    }

    /// Reads a file.
    pub fn read(path: &Path) -> Result<Proof> {
        let text = std::fs::read(path).map_err(|error| Error::io("read", path, error))?;
        serde_json::from_slice(&text).or_else(|error| unproved(format!("{}: {error}", path.display())))
    }

    /// What it proves: this entry is on the record under that checkpoint, signed with that key.
    pub fn verify(&self, trusted: Option<&PublicKey>) -> Result<(Entry, Checkpoint, PublicKey)> {
        if self.format != ENTRY_FORMAT {
            return unproved(format!("its format is {}, and {ENTRY_FORMAT} is known", self.format.escape_debug()));
        }
        let (key, checkpoint) = signed(&self.key, &self.checkpoint, trusted)?;
        let entry = Entry::read(self.line.as_bytes()).or_else(|what| unproved(format!("its line: {what}")))?;
        let Some(path) = hashes(&self.path) else { return unproved("its path is no list of hashes") };
        let index = entry.sequence.checked_sub(1);
        let root = index.and_then(|index| root_by_inclusion(entry.leaf(), index, checkpoint.size, &path));
        if root != Some(checkpoint.root) {
            return unproved(format!("entry {} does not lead to the root that was signed", entry.sequence));
        }
        Ok((entry, checkpoint, key))
    }
}

/// Proof that a log under one checkpoint is the beginning of the log under a later one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Consistency {
    format: String,
    /// The earlier checkpoint.
    pub from: String,
    /// The later one.
    pub to: String,
    /// Hashes as RFC 9162, 2.1.4, has them, as hexadecimal digits.
    pub path: Vec<String>,
    /// The key that signed both.
    pub key: String,
}

impl Consistency {
    /// Proves that the log has only grown from one checkpoint to the other.
    pub fn of(log: &Log, from: &Checkpoint, to: &Checkpoint, key: &PublicKey) -> Result<Consistency> {
        if from.size > to.size {
            return Err(Error::Unfit(format!("a log of {} entries is not the beginning of {}", from.size, to.size)));
        }
        let mut path = Vec::new();
        if from.size > 0 && from.size < to.size {
            let mut roots = Roots::consistency(from.size, to.size);
            see(&mut roots, log)?;
            path = texts(&roots.finish());
        }
        let (from, to, key) = (from.to_string(), to.to_string(), key.to_string());
        let proof = Consistency { format: GROWTH_FORMAT.to_owned(), from, to, path, key };
        proof.verify(None).map(|_| proof)
    }

    /// The two checkpoints, of which the first is shown to be the beginning of the second.
    pub fn verify(&self, trusted: Option<&PublicKey>) -> Result<(Checkpoint, Checkpoint)> {
        if self.format != GROWTH_FORMAT {
            return unproved(format!("its format is {}, and {GROWTH_FORMAT} is known", self.format.escape_debug()));
        }
        let (_, from) = signed(&self.key, &self.from, trusted)?;
        let (_, to) = signed(&self.key, &self.to, trusted)?;
        let Some(path) = hashes(&self.path) else { return unproved("its path is no list of hashes") };
        if !is_beginning((from.size, from.root), (to.size, to.root), &path) {
            return unproved(format!("the log of {} entries is not the beginning of that of {}", from.size, to.size));
        }
        Ok((from, to))
    }
}
