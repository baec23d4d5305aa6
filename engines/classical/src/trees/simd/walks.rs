//! How do eight walks through trees go on at once?
//!
//! Why reading without a check of bounds is sound: [`Cells::new`] panics unless, for every cell of every tree, the column is less
//! than the stride, and both cells at `left` and `left + 1` from its root are cells of its tree. The fields are
//! private and never change. A walk begins at a root, which is a cell of its tree, and each step goes to `left` or
//! `left + 1`: it never leaves the tree. Methods panic unless the row they are asked for lies within the values that they are given.

use std::fmt::Debug;

use super::super::scalar::Scalar;

/// Walks at once: what a core has registers for, and waits enough to hide each other.
pub(in super::super) const LANES: usize = 8;

/// A node as a walk wants it.
pub(in super::super) trait Cell: Copy + Debug {
    type Scalar: Scalar;

    /// Goes to `left` where the column is at most `most`, else to `left + 1`; `None` if it does not fit.
    fn new(most: Self::Scalar, column: usize, left: usize) -> Option<Self>;
    fn most(self) -> Self::Scalar;
    fn column(self) -> usize;
    fn left(self) -> usize;
}

/// For up to 65,536 columns, and as many cells in a tree.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(in super::super) struct Small<S> {
    most: S,
    column: u16,
    left: u16,
}

/// For all others.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(in super::super) struct Large<S> {
    most: S,
    column: u32,
    left: u32,
}

impl<S: Scalar> Cell for Small<S> {
    type Scalar = S;

    fn new(most: S, column: usize, left: usize) -> Option<Self> {
        Some(Small { most, column: column.try_into().ok()?, left: left.try_into().ok()? })
    }

    fn most(self) -> S {
        self.most
    }

    fn column(self) -> usize {
        self.column.into()
    }

    fn left(self) -> usize {
        self.left.into()
    }
}

impl<S: Scalar> Cell for Large<S> {
    type Scalar = S;

    fn new(most: S, column: usize, left: usize) -> Option<Self> {
        Some(Large { most, column: column.try_into().ok()?, left: left.try_into().ok()? })
    }

    fn most(self) -> S {
        self.most
    }

    fn column(self) -> usize {
        self.column as usize
    }

    fn left(self) -> usize {
        self.left as usize
    }
}

/// The cells of a forest.
#[derive(Debug)]
pub(in super::super) struct Cells<C> {
    cells: Vec<C>,
    /// Where each tree begins, and how many steps lead to any leaf.
    roots: Vec<(usize, usize)>,
    stride: usize,
}

impl<C: Cell> Cells<C> {
    /// The cells of trees, with where each begins and how many steps lead to any leaf. A row is seen as `stride` values.
    pub(in super::super) fn new(cells: Vec<C>, roots: Vec<(usize, usize)>, stride: usize) -> Cells<C> {
        let ends = roots.iter().skip(1).map(|(root, _)| *root).chain([cells.len()]);
        for (&(root, _), end) in roots.iter().zip(ends) {
            let tree = &cells[root..end];
            assert!(!tree.is_empty(), "a tree has a root");
            let fits = |cell: &C| cell.column() < stride && cell.left() + 1 < tree.len();
            assert!(tree.iter().all(fits), "cells lead to cells and look at columns");
        }
        Cells { cells, roots, stride }
    }

    pub(in super::super) fn trees(&self) -> usize {
        self.roots.len()
    }

    pub(in super::super) fn stride(&self) -> usize {
        self.stride
    }

    /// What one tree says of eight rows, from `row` on.
    pub(in super::super) fn rows(&self, tree: usize, seen: &[C::Scalar], row: usize) -> [C::Scalar; LANES] {
        let rows = &seen[row * self.stride..(row + LANES) * self.stride];
        let (root, depth) = self.roots[tree];
        self.walk([root; LANES], std::array::from_fn(|lane| lane * self.stride), rows, depth)
    }

    /// What eight trees, from `tree` on, say of one row. The last tree speaks for those that are not there.
    pub(in super::super) fn trees_of(&self, tree: usize, seen: &[C::Scalar], row: usize) -> [C::Scalar; LANES] {
        let row = &seen[row * self.stride..(row + 1) * self.stride];
        let trees: [_; LANES] = std::array::from_fn(|lane| self.roots[(tree + lane).min(self.roots.len() - 1)]);
        let depth = trees.iter().map(|(_, depth)| *depth).max().unwrap_or(0);
        self.walk(trees.map(|(root, _)| root), [0; LANES], row, depth)
    }

    /// Eight walks. `roots` are roots of ours, and from each of `offsets` on there are `stride` values in `seen`.
    #[inline(always)]
    fn walk(
        &self,
        roots: [usize; LANES],
        offsets: [usize; LANES],
        seen: &[C::Scalar],
        depth: usize,
    ) -> [C::Scalar; LANES] {
        let mut at = [0usize; LANES];
        let step = |lane: usize, at: usize| {
            // SAFETY: `at` is 0 or what a step from this root led to, so the cell is one of this tree (see the head); its column is
            // less than the stride, and there are as many values from the lane's offset on.
            let (cell, value) = unsafe {
                let cell = *self.cells.get_unchecked(roots[lane] + at);
                (cell, *seen.get_unchecked(offsets[lane] + cell.column()))
            };
            // Not "greater": NaN goes right.
            #[allow(clippy::neg_cmp_op_on_partial_ord, reason = "NaN is not at most anything")]
            let right = !(value <= cell.most());
            cell.left() + usize::from(right)
        };
        let mut level = 0;
        while level < depth {
            for _ in 0..3 {
                for (lane, at) in at.iter_mut().enumerate() {
                    *at = step(lane, *at);
                }
            }
            let mut moved = 0;
            for (lane, at) in at.iter_mut().enumerate() {
                let next = step(lane, *at);
                moved |= next ^ *at;
                *at = next;
            }
            // All have come to leaves, which lead to themselves.
            if moved == 0 {
                break;
            }
            level += 4;
        }
        std::array::from_fn(|lane| {
            // SAFETY: as above.
            unsafe { self.cells.get_unchecked(roots[lane] + at[lane]).most() }
        })
    }
}
