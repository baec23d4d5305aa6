//! Who can prove what is on the record, to somebody who trusts neither the disk nor the server?
//!
//! The chain of the log shows each changed byte, and no more: entries could be missing from its end, or the whole chain be
//! made anew. So all lines are leaves of one Merkle tree, and the server signs its root now and then. From a signed root
//! follows that a log is the one that was signed ([`verify`]), that one entry is in it ([`Proof`]), and that a part of it is
//! a part of it ([`export`]). `docs/audit.md` has the formats; `verify_audit.py` checks them without a line of this crate.

mod checkpoint;
mod export;
mod key;
mod proof;
mod sealer;
mod tree;

use std::path::Path;

pub use checkpoint::Checkpoint;
pub use export::{Exported, Part, export, verify_export};
pub use key::{PublicKey, Signer};
pub use proof::{Consistency, Proof};
pub use sealer::{ENTRIES, INTERVAL_MS, Sealer};
use serde::Serialize;
use tiltyard_types::Digest;
pub use tree::{Frontier, is_beginning, leaf, root_by_inclusion};

use crate::{Entries, Head, Result};
use checkpoint::Checkpoints;

/// A log that is what was signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Audited {
    /// The end of its chain.
    pub head: Head,
    /// The root of the tree over all its entries, as hexadecimal digits.
    #[serde(serialize_with = "crate::entry::as_text")]
    pub root: Digest,
    /// Bytes after the log's last line's end: its writer died, or is at it.
    pub unfinished_bytes: u64,
    /// How many checkpoints there are.
    pub checkpoints: u64,
    /// The entries under the last of them. Those behind it are in the chain, and not signed yet.
    pub signed: u64,
    /// Bytes after the last whole checkpoint.
    pub unfinished_checkpoint_bytes: u64,
}

/// Reads a whole log with its checkpoints, and says where anything is not as it was written or signed. `kept` are checkpoints
/// that somebody put by elsewhere: the log must be of those too.
pub fn verify(mut entries: Entries, checkpoints: &Path, key: &PublicKey, kept: &[Checkpoint]) -> Result<Audited> {
    let mut found = Checkpoints::new(sealer::open_checkpoints(checkpoints)?, checkpoints, key);
    let mut kept: Vec<&Checkpoint> = kept.iter().collect();
    kept.sort_by_key(|kept| std::cmp::Reverse(kept.size));
    let place = Path::new("the checkpoint that was kept");
    let walked = sealer::walk(entries.by_ref(), &mut found, checkpoints, |tree| {
        while let Some(next) = kept.pop_if(|next| next.size <= tree.size()) {
            sealer::check(next, tree, place)?;
        }
        Ok(())
    })?;
    if let Some(ahead) = kept.pop() {
        return Err(sealer::missing(place, ahead, walked.tree.size()));
    }
    Ok(Audited {
        head: walked.head,
        root: walked.tree.root(),
        unfinished_bytes: entries.unfinished(),
        checkpoints: walked.checkpoints,
        signed: walked.last.map_or(0, |last| last.size),
        unfinished_checkpoint_bytes: found.unfinished(),
    })
}

/// All checkpoints of a file that are whole.
pub fn checkpoints(path: &Path, key: &PublicKey) -> Result<Vec<Checkpoint>> {
    Checkpoints::new(sealer::open_checkpoints(path)?, path, key).collect()
}

#[cfg(test)]
mod tests;
