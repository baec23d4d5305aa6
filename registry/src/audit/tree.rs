//! Which one hash stands for all entries, and how is it shown that an entry, or an earlier log, is in it?
//!
//! The Merkle tree of RFC 9162, section 2.1 (as RFC 6962 has it), with SHA-256. A leaf is an entry's line without its end. A
//! tree that only grows needs no more than its frontier, one hash for each bit of its size; proofs are made by going over the
//! leaves again. Verifying follows the RFC's loops, making its recursion, so that a mistake in one shows in the other.

use std::ops::Range;

use sha2::{Digest as _, Sha256};
use tiltyard_types::Digest;

use crate::Entry;

/// The hash of the leaf that a line makes: SHA-256 of a zero byte and the line, without its end.
pub fn leaf(line: &[u8]) -> Digest {
    hash(0, [line])
}

impl Entry {
    /// The entry's leaf in the tree.
    pub fn leaf(&self) -> Digest {
        leaf(self.line().as_bytes())
    }
}

fn node(left: Digest, right: Digest) -> Digest {
    hash(1, [&left.as_bytes()[..], &right.as_bytes()[..]])
}

fn hash<const N: usize>(prefix: u8, parts: [&[u8]; N]) -> Digest {
    let mut hash = Sha256::new_with_prefix([prefix]);
    parts.iter().for_each(|part| hash.update(part));
    Digest::new(hash.finalize().into())
}

/// A tree that grows: the roots of its perfect subtrees, the largest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    roots: Vec<Digest>,
}

impl Frontier {
    /// The tree of this many leaves that has these perfect subtrees; `None` where their number is another one.
    pub fn of(size: u64, roots: Vec<Digest>) -> Option<Frontier> {
        (roots.len() == size.count_ones() as usize).then_some(Frontier { size, roots })
    }

    /// Leaves.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The roots of its perfect subtrees, the largest first.
    pub fn roots(&self) -> &[Digest] {
        &self.roots
    }

    /// Adds a leaf.
    pub fn push(&mut self, leaf: Digest) {
        let mut root = leaf;
        for _ in 0..self.size.trailing_ones() {
            let left = self.roots.pop().expect("a subtree for each bit of the size");
            root = node(left, root);
        }
        self.roots.push(root);
        self.size += 1;
    }

    /// The root of the whole tree; SHA-256 of nothing where it is empty.
    pub fn root(&self) -> Digest {
        let folded = self.roots.iter().rev().copied().reduce(|right, left| node(left, right));
        folded.unwrap_or_else(|| Digest::new(Sha256::digest([]).into()))
    }
}

/// The largest power of two below `size`, which is at least 2: where a tree is split.
fn split(size: u64) -> u64 {
    1 << (u64::BITS - 1 - (size - 1).leading_zeros())
}

/// The subtrees whose roots prove that the leaf at `index` is in the tree of `size`, in the order of RFC 9162, 2.1.3.1.
fn inclusion(index: u64, size: u64) -> Vec<Range<u64>> {
    let (mut path, mut tree) = (Vec::new(), 0..size);
    while tree.end - tree.start > 1 {
        let middle = tree.start + split(tree.end - tree.start);
        let (to, beside) = if index < middle {
            (tree.start..middle, middle..tree.end)
        } else {
            (middle..tree.end, tree.start..middle)
        };
        path.push(beside);
        tree = to;
    }
    path.reverse();
    path
}

/// The subtrees whose roots prove that the tree of `old` leaves is the beginning of the one of `new`: RFC 9162, 2.1.4.1.
fn consistency(old: u64, new: u64) -> Vec<Range<u64>> {
    let (mut path, mut tree, mut is_left) = (Vec::new(), 0..new, true);
    while old < tree.end {
        let middle = tree.start + split(tree.end - tree.start);
        let (to, beside) = if old <= middle {
            (tree.start..middle, middle..tree.end)
        } else {
            is_left = false;
            (middle..tree.end, tree.start..middle)
        };
        path.push(beside);
        tree = to;
    }
    // The old tree itself is known to whoever asks.
    if !is_left {
        path.push(tree);
    }
    path.reverse();
    path
}

/// The subtrees of the tree of `size` that hold nothing of `leaves`, from left to right, each as large as can be.
fn beside(leaves: &Range<u64>, size: u64) -> Vec<Range<u64>> {
    fn walk(tree: Range<u64>, leaves: &Range<u64>, found: &mut Vec<Range<u64>>) {
        if tree.end <= leaves.start || leaves.end <= tree.start {
            found.push(tree);
        } else if tree.start < leaves.start || leaves.end < tree.end {
            let middle = tree.start + split(tree.end - tree.start);
            walk(tree.start..middle, leaves, found);
            walk(middle..tree.end, leaves, found);
        }
    }
    let mut found = Vec::new();
    walk(0..size, leaves, &mut found);
    found
}

/// Hashes of subtrees, made in one pass over the leaves.
#[derive(Debug)]
pub(super) struct Roots {
    wanted: Vec<(Range<u64>, Frontier)>,
    size: u64,
}

impl Roots {
    /// What an inclusion proof is made of. `index` is below `size`.
    pub(super) fn inclusion(index: u64, size: u64) -> Roots {
        Roots::of(inclusion(index, size), size)
    }

    /// What a consistency proof is made of. `old` is not 0, and at most `new`.
    pub(super) fn consistency(old: u64, new: u64) -> Roots {
        Roots::of(consistency(old, new), new)
    }

    /// What surrounds these leaves, of which there is one at least. Whatever is left of them comes first.
    pub(super) fn beside(leaves: &Range<u64>, size: u64) -> Roots {
        Roots::of(beside(leaves, size), size)
    }

    fn of(wanted: Vec<Range<u64>>, size: u64) -> Roots {
        Roots { wanted: wanted.into_iter().map(|range| (range, Frontier::default())).collect(), size }
    }

    /// How many leaves it must see.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// The next leaf, which is that of `index`.
    pub(super) fn see(&mut self, index: u64, leaf: Digest) {
        // Proofs are short: some 40 subtrees of a tree of a million million.
        if let Some((_, frontier)) = self.wanted.iter_mut().find(|(range, _)| range.contains(&index)) {
            frontier.push(leaf);
        }
    }

    /// The subtrees' roots, in order.
    pub(super) fn finish(self) -> Vec<Digest> {
        self.wanted.into_iter().map(|(_, frontier)| frontier.root()).collect()
    }
}

/// The root of the tree of `size` in which the leaf stands at `index`, if `path` is its proof: RFC 9162, 2.1.3.2.
pub fn root_by_inclusion(leaf: Digest, index: u64, size: u64, path: &[Digest]) -> Option<Digest> {
    if index >= size {
        return None;
    }
    let (mut at, mut last, mut root) = (index, size - 1, leaf);
    for &beside in path {
        if last == 0 {
            return None;
        }
        if at & 1 == 1 || at == last {
            root = node(beside, root);
            while at & 1 == 0 && at != 0 {
                (at, last) = (at >> 1, last >> 1);
            }
        } else {
            root = node(root, beside);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    (last == 0).then_some(root)
}

/// Whether `path` proves that the tree of `old` (size and root) is the beginning of `new`: RFC 9162, 2.1.4.2. Nothing is the
/// beginning of all.
pub fn is_beginning(old: (u64, Digest), new: (u64, Digest), path: &[Digest]) -> bool {
    if old.0 == 0 || old.0 == new.0 {
        return path.is_empty() && old.0 <= new.0 && (old == new || old == (0, Frontier::default().root()));
    }
    if old.0 > new.0 {
        return false;
    }
    let own = old.0.is_power_of_two().then_some(old.1);
    let mut steps = own.into_iter().chain(path.iter().copied());
    let Some(first) = steps.next() else { return false };
    let (mut at, mut last) = (old.0 - 1, new.0 - 1);
    while at & 1 == 1 {
        (at, last) = (at >> 1, last >> 1);
    }
    let (mut old_root, mut new_root) = (first, first);
    for beside in steps {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            old_root = node(beside, old_root);
            new_root = node(beside, new_root);
            while at & 1 == 0 && at != 0 {
                (at, last) = (at >> 1, last >> 1);
            }
        } else {
            new_root = node(new_root, beside);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    last == 0 && (old_root, new_root) == (old.1, new.1)
}

/// The root of the tree that begins as `begun` says, and goes on with the subtrees that surround those leaves on their right
/// in the tree of `size`. `None` where they are not as many as there must be.
pub(super) fn root_by_rest(begun: &Frontier, size: u64, right: &[Digest]) -> Option<Digest> {
    /// The root of a subtree that begins left of what is known.
    fn walk(tree: Range<u64>, known: u64, left: &mut &[Digest], right: &mut &[Digest]) -> Option<Digest> {
        let take = |from: &mut &[Digest]| from.split_off_first().copied();
        if tree.start >= known {
            return take(right);
        }
        let leaves = tree.end - tree.start;
        if tree.end <= known && leaves.is_power_of_two() {
            return take(left);
        }
        let middle = tree.start + split(leaves);
        let one = walk(tree.start..middle, known, left, right)?;
        Some(node(one, walk(middle..tree.end, known, left, right)?))
    }
    if begun.size == 0 || begun.size > size {
        return None;
    }
    let (mut left, mut right) = (begun.roots.as_slice(), right);
    let root = walk(0..size, begun.size, &mut left, &mut right)?;
    (left.is_empty() && right.is_empty()).then_some(root)
}

#[cfg(test)]
mod tests;
