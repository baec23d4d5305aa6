//! What does an auditor get, who may see a part of the record and must not take our word for it?
//!
//! A folder: the lines as they stand in the log, the checkpoints, the public key, and `export.json` with the hashes of what
//! is left and right of the part, from which the root that was signed follows. Nothing of the rest is told.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::checkpoint::{Checkpoint, Checkpoints};
use super::key::PublicKey;
use super::proof::{Consistency, hashes, signed, texts, unproved};
use super::sealer::{check, off, open_checkpoints};
use super::tree::{Frontier, Roots, root_by_rest};
use crate::copy::{Segments, write_new};
use crate::{Entries, Error, Log, Result};

/// What `export.json` calls itself.
const FORMAT: &str = "tiltyard-export-v1";

/// Which entries: both ends are in it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Part {
    /// The first; 1 if it is not said.
    pub from: Option<u64>,
    /// The last; the last that is signed if it is not said.
    pub to: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    format: String,
    from: u64,
    to: u64,
    /// Roots of the perfect subtrees over the entries before.
    left: Vec<String>,
    /// Roots of the subtrees over the entries behind, up to the checkpoint.
    right: Vec<String>,
    checkpoint: String,
    key: String,
    /// That what the auditor had before is the beginning of this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    since: Option<Consistency>,
}

/// What an export holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// The first entry in it.
    pub from: u64,
    /// The last.
    pub to: u64,
    /// How many checkpoints are of ends within it.
    pub checkpoints: u64,
    /// The checkpoint from which all follows.
    pub checkpoint: Checkpoint,
    /// Where it was said what the auditor has already: how many entries that were.
    pub since: Option<u64>,
}

/// Writes a part of the log into a folder that is empty, or not there. `checkpoints` is the log's file of them; `since` is a
/// checkpoint that the auditor has.
pub fn export(
    log: &Log,
    checkpoints: &Path,
    key: &PublicKey,
    part: Part,
    since: Option<&Checkpoint>,
    folder: &Path,
) -> Result<Exported> {
    let all: Vec<Checkpoint> =
        Checkpoints::new(open_checkpoints(checkpoints)?, checkpoints, key).collect::<Result<_>>()?;
    let signed = all.last().map_or(0, |last| last.size);
    let (from, to) = (part.from.unwrap_or(1), part.to.unwrap_or(signed));
    let Some(checkpoint) = all.iter().find(|checkpoint| checkpoint.size >= to.max(1)) else {
        return Err(Error::Unfit(format!(
            "entries 1 to {signed} are signed, and {to} is wanted: make a checkpoint first"
        )));
    };
    if from == 0 || from > to {
        return Err(Error::Unfit(format!("there is nothing from entry {from} to {to}: expected 1 to {signed}")));
    }
    let mut segments = Segments::new(folder)?;
    let mut roots = Roots::beside(&(from - 1..to), checkpoint.size);
    for entry in log.entries(1)?.take(usize::try_from(checkpoint.size).unwrap_or(usize::MAX)) {
        let entry = entry?;
        roots.see(entry.sequence - 1, entry.leaf());
        if (from..=to).contains(&entry.sequence) {
            segments.write(&entry)?;
        }
    }
    segments.finish()?;
    let around = roots.finish();
    let (left, right) = around.split_at((from - 1).count_ones() as usize);
    let within: String = all.iter().filter(|found| (from..=to).contains(&found.size)).map(Checkpoint::record).collect();
    let manifest = Manifest {
        format: FORMAT.to_owned(),
        from,
        to,
        left: texts(left),
        right: texts(right),
        checkpoint: checkpoint.to_string(),
        key: key.to_string(),
        since: since.map(|since| Consistency::of(log, since, checkpoint, key)).transpose()?,
    };
    let manifest = serde_json::to_string_pretty(&manifest).map_err(|error| Error::Unfit(error.to_string()))?;
    write_new(&folder.join("checkpoints"), &within)?;
    write_new(&folder.join("audit.pub"), &format!("{key}\n"))?;
    write_new(&folder.join("export.json"), &format!("{manifest}\n"))?;
    verify_export(folder, Some(key))
}

/// Checks an exported folder by itself. Without a `trusted` key it is shown that the folder is of one piece and by one key,
/// and whose that is must be seen elsewhere.
pub fn verify_export(folder: &Path, trusted: Option<&PublicKey>) -> Result<Exported> {
    let path = folder.join("export.json");
    let text = fs::read(&path).map_err(|error| Error::io("read", &path, error))?;
    let manifest: Manifest = serde_json::from_slice(&text).map_err(|error| off(&path, error.to_string()))?;
    if manifest.format != FORMAT {
        return Err(off(&path, format!("its format is not {FORMAT}")));
    }
    let (key, checkpoint) = signed(&manifest.key, &manifest.checkpoint, trusted)?;
    if PublicKey::read(&folder.join("audit.pub"))? != key {
        return Err(off(&path, "audit.pub is another key".to_owned()));
    }
    let (from, to) = (manifest.from, manifest.to);
    let (Some(left), Some(right)) = (hashes(&manifest.left), hashes(&manifest.right)) else {
        return Err(off(&path, "left and right are no lists of hashes".to_owned()));
    };
    let begun = from.checked_sub(1).and_then(|before| Frontier::of(before, left));
    let Some(begun) = begun.filter(|_| from <= to && to <= checkpoint.size) else {
        return Err(off(&path, format!("entries {from} to {to} are no part of {}", checkpoint.size)));
    };
    let (tree, checkpoints) = follow(folder, begun, from, to, &key)?;
    if root_by_rest(&tree, checkpoint.size, &right) != Some(checkpoint.root) {
        return Err(off(&path, "these entries do not lead to the root that was signed".to_owned()));
    }
    let since = manifest.since.as_ref().map(|since| since.verify(Some(&key))).transpose()?;
    if since.as_ref().is_some_and(|(_, to)| to != &checkpoint) {
        return unproved("what it follows from is shown for another checkpoint");
    }
    let since = since.map(|(since, _)| since.size);
    Ok(Exported { from, to, checkpoints, checkpoint, since })
}

/// Goes over the lines and the checkpoints among them.
fn follow(folder: &Path, begun: Frontier, from: u64, to: u64, key: &PublicKey) -> Result<(Frontier, u64)> {
    let path = folder.join("checkpoints");
    let mut found = Checkpoints::new(open_checkpoints(&path)?, &path, key);
    let mut next = found.next().transpose()?;
    let (mut tree, mut checkpoints) = (begun, 0);
    let mut entries = Entries::part(folder)?;
    for entry in entries.by_ref() {
        let entry = entry?;
        if entry.sequence != tree.size() + 1 || entry.sequence > to {
            return Err(off(folder, format!("entry {} is there, and {from} to {to} are expected", entry.sequence)));
        }
        tree.push(entry.leaf());
        while let Some(checkpoint) = next.take_if(|next| next.size <= tree.size()) {
            check(&checkpoint, &tree, &path)?;
            checkpoints += 1;
            next = found.next().transpose()?;
        }
    }
    if tree.size() != to || entries.unfinished() > 0 || found.unfinished() > 0 || next.is_some() {
        return Err(off(folder, format!("it ends after entry {}, and goes to {to}", tree.size())));
    }
    Ok((tree, checkpoints))
}
