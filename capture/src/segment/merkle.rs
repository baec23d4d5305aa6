//! Which one hash stands for all rows of a segment?
//!
//! The root of the Merkle tree of RFC 6962: a leaf is SHA-256 of a zero byte and the row, a node that of a one byte and the
//! two below it, and where the leaves are no power of two, the left side is the largest power that is smaller than all.

use sha2::{Digest as _, Sha256};

/// A tree that grows by its leaves; it keeps one hash for each complete part of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tree {
    /// Roots of complete trees, the largest first, with the logarithm of their sizes.
    peaks: Vec<(u32, [u8; 32])>,
}

impl Tree {
    /// Adds the next row.
    pub(crate) fn push(&mut self, row: &[u8]) {
        let (mut size, mut hash) = (0, leaf(row));
        while let Some((_, left)) = self.peaks.pop_if(|(peak, _)| *peak == size) {
            hash = node(&left, &hash);
            size += 1;
        }
        self.peaks.push((size, hash));
    }

    /// The root; of no rows it is the hash of nothing.
    pub(crate) fn root(&self) -> [u8; 32] {
        let mut peaks = self.peaks.iter().rev().map(|(_, hash)| *hash);
        let Some(last) = peaks.next() else { return Sha256::digest([]).into() };
        peaks.fold(last, |right, left| node(&left, &right))
    }
}

/// What stands for a row at the bottom of the tree.
pub(crate) fn leaf(row: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update([0]).chain_update(row).finalize().into()
}

/// The hashes beside the way from leaf `at` up to the root, the lowest first: the audit path of RFC 6962.
pub(crate) fn path(leaves: &[[u8; 32]], at: usize) -> Vec<[u8; 32]> {
    if leaves.len() < 2 {
        return Vec::new();
    }
    let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
    let (mut path, beside) = match at.checked_sub(left.len()) {
        None => (path(left, at), right),
        Some(at) => (path(right, at), left),
    };
    path.push(root(beside));
    path
}

fn root(leaves: &[[u8; 32]]) -> [u8; 32] {
    match leaves {
        [] => Sha256::digest([]).into(),
        [one] => *one,
        _ => {
            let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
            node(&root(left), &root(right))
        }
    }
}

/// The root that a leaf, its number, the number of all, and the hashes beside its way lead to; `None` where they do not fit.
pub(crate) fn climb(leaf: [u8; 32], at: u64, count: u64, path: &[[u8; 32]]) -> Option<[u8; 32]> {
    // As the verification of RFC 9162, 2.1.3.2.
    let (mut at, mut last, mut hash) = (at, count.checked_sub(1).filter(|last| at <= *last)?, leaf);
    for beside in path {
        if last == 0 {
            return None;
        }
        if at % 2 == 1 || at == last {
            hash = node(beside, &hash);
            while at.is_multiple_of(2) && at > 0 {
                (at, last) = (at / 2, last / 2);
            }
        } else {
            hash = node(&hash, beside);
        }
        (at, last) = (at / 2, last / 2);
    }
    (last == 0).then_some(hash)
}

fn node(left: &[u8; 32], right: &[u8; 32]) -> [u8; 32] {
    Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by_definition(rows: &[Vec<u8>]) -> [u8; 32] {
        match rows {
            [] => Sha256::digest([]).into(),
            [row] => Sha256::new().chain_update([0]).chain_update(row).finalize().into(),
            _ => {
                let (left, right) = rows.split_at(rows.len().next_power_of_two() / 2);
                node(&by_definition(left), &by_definition(right))
            }
        }
    }

    #[test]
    fn the_root_is_that_of_the_rfc() {
        let rows: Vec<Vec<u8>> = (0..70u8).map(|row| vec![row; usize::from(row % 5)]).collect();
        let mut tree = Tree::default();
        for count in 0..rows.len() {
            assert_eq!(tree.root(), by_definition(&rows[..count]), "{count} rows");
            tree.push(&rows[count]);
        }
    }

    #[test]
    fn each_row_has_a_way_to_the_root_and_no_other_row_has_it() {
        let leaves: Vec<[u8; 32]> = (0..70u8).map(|row| leaf(&[row; 3])).collect();
        for count in 1..=leaves.len() {
            let all = &leaves[..count];
            for at in 0..count {
                let path = path(all, at);
                let climbed = |leaf, at| climb(leaf, at as u64, count as u64, &path);
                assert_eq!(climbed(all[at], at), Some(root(all)), "row {at} of {count}");
                assert_ne!(climbed(leaf(b"other"), at), Some(root(all)), "another row at {at} of {count}");
                assert!(count == 1 || climbed(all[at], (at + 1) % count) != Some(root(all)), "row {at} elsewhere");
            }
        }
    }
}
