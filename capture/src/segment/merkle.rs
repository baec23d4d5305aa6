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
        let leaf = Sha256::new().chain_update([0]).chain_update(row);
        let (mut size, mut hash) = (0, leaf.finalize().into());
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
}
