//! How are deep trees walked fast?
//!
//! A node is 8 bytes (16 in double precision, 12 where a tree or its rows are very large) and its children lie side by side,
//! so that a step is arithmetic and no branch: to the left child, or one further. Eight walks go on at once, of
//! eight rows through one tree or of one row through eight trees, since each of them does nothing but wait for memory. A leaf
//! leads to itself: it looks at a column that is less than all.
//!
//! Pairs of children that follow each other lie in one line of the cache where they fit: two steps or more for each line.

use super::leaves::Leaves;
use super::plain::{PlainNode, PlainTree, Sight};
use super::scalar::Scalar;
use super::simd::walks::{Cell, Cells, LANES, Large, Small};

/// Rows that go through a few trees before the next rows do: they and the trees shall stay in the second cache.
const ROWS: usize = 256;

/// Payloads at a time.
const PAYLOADS: usize = 4096;

/// A forest as walks want it.
#[derive(Debug)]
pub(super) struct Walk<S: Scalar> {
    cells: Sized<S>,
    sights: Vec<Sight>,
}

#[derive(Debug)]
enum Sized<S: Scalar> {
    Small(Cells<Small<S>>),
    Large(Cells<Large<S>>),
}

impl<S: Scalar> Walk<S> {
    pub(super) fn new(trees: &[PlainTree<S>], leaves: &Leaves<S>) -> Walk<S> {
        let mut sights = Vec::new();
        // By column, for those who send NaN to the right and to the left.
        let mut numbers: Vec<[Option<u32>; 2]> = Vec::new();
        for node in trees.iter().flat_map(|tree| &tree.nodes) {
            if let PlainNode::Branch { sight, .. } = node {
                let column = sight.column as usize;
                if column >= numbers.len() {
                    numbers.resize(column + 1, [None; 2]);
                }
                numbers[column][usize::from(sight.missing_left)].get_or_insert_with(|| {
                    sights.push(*sight);
                    sights.len() as u32 - 1
                });
            }
        }
        // All sights of these trees have a number.
        let of = |sight: &Sight| numbers[sight.column as usize][usize::from(sight.missing_left)].unwrap_or(0) as usize;
        let cells = match lay_all(trees, leaves, sights.len(), of) {
            Some(cells) => Sized::Small(cells),
            None => Sized::Large(lay_all(trees, leaves, sights.len(), of).expect("nodes and columns fit into 32 bits")),
        };
        Walk { cells, sights }
    }

    /// Adds what all trees say of rows to their scores.
    pub(super) fn score(&self, leaves: &Leaves<S>, rows: &[S], columns: usize, scores: &mut [S]) {
        match &self.cells {
            Sized::Small(cells) => score(cells, &self.sights, leaves, rows, columns, scores),
            Sized::Large(cells) => score(cells, &self.sights, leaves, rows, columns, scores),
        }
    }
}

fn score<C: Cell>(
    cells: &Cells<C>,
    sights: &[Sight],
    leaves: &Leaves<C::Scalar>,
    rows: &[C::Scalar],
    columns: usize,
    scores: &mut [C::Scalar],
) {
    let at_once = ROWS.min(rows.len() / columns);
    let mut seen = vec![C::Scalar::NEG_INFINITY; at_once * cells.stride()];
    let trees_at_once = if at_once == 1 { 512.min(cells.trees()) } else { PAYLOADS / at_once };
    let mut payloads = vec![C::Scalar::default(); at_once * trees_at_once];
    let mut given = leaves.given_of(at_once);
    let targets = leaves.targets();
    for (rows, scores) in rows.chunks(at_once * columns).zip(scores.chunks_mut(at_once * targets)) {
        let count = rows.len() / columns;
        for (row, seen) in rows.chunks_exact(columns).zip(seen.chunks_exact_mut(cells.stride())) {
            see(row, sights, seen);
        }
        given.fill(false);
        let mut first = 0;
        while first < cells.trees() {
            let trees = trees_at_once.min(cells.trees() - first);
            let payloads = &mut payloads[..trees * count];
            find(cells, first, &seen[..count * cells.stride()], payloads);
            leaves.take_all(first, payloads, count, scores, &mut given);
            first += trees;
        }
    }
}

/// A row as nodes see it.
fn see<S: Scalar>(row: &[S], sights: &[Sight], seen: &mut [S]) {
    for (sight, seen) in sights.iter().zip(seen) {
        let value = row[sight.column as usize];
        *seen = if sight.missing_left && value.is_missing() { S::NEG_INFINITY } else { value };
    }
}

/// The payloads of some trees, from the first on: all rows of a tree, then those of the next.
fn find<C: Cell>(cells: &Cells<C>, first: usize, seen: &[C::Scalar], payloads: &mut [C::Scalar]) {
    let rows = seen.len() / cells.stride();
    let trees = payloads.len() / rows;
    let in_lanes = if rows < LANES { 0 } else { rows - rows % LANES };
    if in_lanes > 0 {
        for tree in 0..trees {
            for row in (0..in_lanes).step_by(LANES) {
                let found = cells.rows(first + tree, seen, row);
                payloads[tree * rows + row..][..LANES].copy_from_slice(&found);
            }
        }
    }
    for row in in_lanes..rows {
        for tree in (0..trees).step_by(LANES) {
            let found = cells.trees_of(first + tree, seen, row);
            // What is beyond these trees is found again when its turn comes.
            for (found, tree) in found.into_iter().zip(tree..trees) {
                payloads[tree * rows + row] = found;
            }
        }
    }
}

/// Lays out all trees, if cells of this size can hold them.
fn lay_all<C: Cell>(
    trees: &[PlainTree<C::Scalar>],
    leaves: &Leaves<C::Scalar>,
    sights: usize,
    number: impl Fn(&Sight) -> usize,
) -> Option<Cells<C>> {
    let line = 64 / size_of::<C>();
    // Some room for the gaps between clusters of pairs.
    let nodes: usize = trees.iter().map(|tree| tree.nodes.len()).sum();
    let mut cells: Vec<C> = Vec::with_capacity(nodes + nodes / 8);
    let mut roots = Vec::with_capacity(trees.len());
    for tree in trees {
        let root = cells.len().next_multiple_of(line);
        let places = places(tree, line);
        // One more than is reached: wherever a walk stands, there is a cell to the right of the left one.
        let used = places.iter().max().map_or(0, |last| last + 2).max(2);
        // What lies between two pairs is never reached.
        cells.resize(root + used, C::new(C::Scalar::default(), sights, 0)?);
        for (node, &place) in tree.nodes.iter().zip(&places) {
            cells[root + place] = match node {
                PlainNode::Branch { sight, most, left, .. } => C::new(*most, number(sight), places[*left as usize])?,
                PlainNode::Leaf(leaf) => C::new(leaves.payload(*leaf), sights, place)?,
            };
        }
        roots.push((root, tree.depth));
    }
    Some(Cells::new(cells, roots, sights + 1))
}

/// Where each node of a tree lies, in cells from its root: children in pairs, and pairs that follow each other in one line.
fn places<S: Scalar>(tree: &PlainTree<S>, line: usize) -> Vec<usize> {
    let mut places = vec![0; tree.nodes.len()];
    let children = |node: u32| match &tree.nodes[node as usize] {
        PlainNode::Branch { left, right, .. } => Some((*left, *right)),
        PlainNode::Leaf(_) => None,
    };
    // The first pair is the root and nobody.
    let mut next = 2;
    let mut tops: Vec<(u32, u32)> = children(0).into_iter().collect();
    let mut cluster = Vec::with_capacity(line / 2);
    while let Some(top) = tops.pop() {
        cluster.clear();
        cluster.push(top);
        let mut opened = 0;
        while opened < cluster.len() {
            let (left, right) = cluster[opened];
            for pair in [left, right].into_iter().filter_map(children) {
                if cluster.len() * 2 < line { cluster.push(pair) } else { tops.push(pair) }
            }
            opened += 1;
        }
        if next % line + cluster.len() * 2 > line {
            next = next.next_multiple_of(line);
        }
        for &(left, right) in &cluster {
            (places[left as usize], places[right as usize]) = (next, next + 1);
            next += 2;
        }
    }
    places
}
