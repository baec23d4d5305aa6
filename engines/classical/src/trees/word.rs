//! How are small trees scored without walking to their nodes?
//!
//! Each value of a row becomes its *code*: how many thresholds of its column it is greater than. Trees stand in groups small
//! enough that no column of a group has more than 255 thresholds, so a code is a byte, and "at most this threshold" is a
//! comparison of bytes. Then all tests of a tree are two instructions: one takes the code that each node wants from a row,
//! one compares them all with the ranks of the nodes' thresholds. Their outcome is one word, a bit for each node, and the way through the
//! tree is arithmetic on this word alone.
//!
//! Trees of up to six levels are padded to perfect ones: node `n` has the children `2n` and `2n + 1`, the root is 1. Nodes that are
//! no branches send all to the left. Deeper trees of up to 64 leaves are as QuickScorer has them: each
//! node that sends a row to the right rules out the leaves to its left, and the first that is left is the row's.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::leaves::Leaves;
use super::plain::{PlainNode, PlainTree, Sight};
use super::scalar::Scalar;
use super::simd::wide::Wide;

/// Levels of the deepest trees that are padded.
const DEPTH_MAX: usize = 6;

/// Branches of the largest trees that are scored so: one bit less than a word has.
const BRANCHES_MAX: usize = 63;

/// Thresholds of a column in a group: codes are 0 to this, and what is greater than all.
const THRESHOLDS_MAX: usize = 255;

/// Lines of codes for a row, at most: what one node can choose from.
const LINES_MAX: usize = 4;

/// The code of what is greater than all thresholds. The rank of a node that sends all to the left.
const GREATEST: u8 = 255;

/// Rows at a time.
const ROWS: usize = 64;

/// Codes of 64 columns as nodes see them.
pub(super) type Line = [u8; 64];

/// The nodes of a tree, by number.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub(super) struct TreeWord {
    /// The place of the code that the node looks at.
    pub(super) places: Line,
    /// It goes right where the code is greater than this.
    pub(super) ranks: Line,
}

/// What the nodes of a tree rule out, which is deeper than those that are padded.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub(super) struct Links {
    /// By number of the node: the leaves that are possible where it sends to the right, in order from the left.
    pub(super) possible: [u64; 64],
    /// Nodes that are branches: the first of them.
    pub(super) branches: usize,
}

/// How the outcome of all tests leads to a leaf.
#[derive(Debug)]
pub(super) enum Way {
    /// Trees are perfect, of so many levels.
    Levels(usize),
    /// Each tree has links.
    Links(Vec<Links>),
}

impl Way {
    /// As a power of two: payloads of each tree.
    pub(super) fn leaf_bits(&self) -> usize {
        match self {
            Way::Levels(levels) => *levels,
            Way::Links(_) => 6,
        }
    }
}

/// A column in a code book.
#[derive(Clone, Debug)]
pub(super) struct Coded {
    pub(super) column: u32,
    /// Where its table begins: 16 pivots, each the last of a block, then blocks of 16 thresholds. What is beyond the last
    /// threshold, one at least, is infinite.
    pub(super) table: u32,
    pub(super) thresholds: u32,
    /// The places of its code for nodes that send NaN to the left and to the right; or else the last place.
    pub(super) left: u8,
    pub(super) right: u8,
}

/// What makes codes of values.
#[derive(Debug, Default)]
pub(super) struct Book<S> {
    pub(super) columns: Vec<Coded>,
    pub(super) tables: Vec<S>,
}

#[derive(Debug)]
struct Group<S> {
    first: usize,
    trees: Vec<TreeWord>,
    way: Way,
    /// Those of each tree, as many as its way can lead to.
    payloads: Vec<S>,
    book: Book<S>,
    /// Lines of codes for each row.
    lines: usize,
}

/// A forest of small trees.
#[derive(Debug)]
pub(super) struct Word<S> {
    groups: Vec<Group<S>>,
    wide: Wide,
}

/// Aligned as lines of the cache are.
#[repr(align(64))]
struct Aligned<const LINES: usize>([Line; LINES]);

impl<S: Scalar> Word<S> {
    /// The forest, if its trees are small, and this is the faster way on this machine.
    pub(super) fn new(trees: &[PlainTree<S>], leaves: &Leaves<S>) -> Option<Word<S>> {
        let wide = *Wide::of_this_machine().first()?;
        let word = Word::with(trees, leaves, wide)?;
        // Cycles, as measured: a code, a tree, and a level of a walk.
        let codes: usize = word.groups.iter().map(|group| group.book.columns.len() * 8).sum();
        let decided = |tree: &PlainTree<S>| if tree.depth > DEPTH_MAX { 10 } else { 6 };
        let (words, walks) =
            trees.iter().fold((codes, 0), |(words, walks), tree| (words + decided(tree), walks + tree.depth * 3));
        (words <= walks).then_some(word)
    }

    /// The forest, if its trees are small.
    pub(super) fn with(trees: &[PlainTree<S>], leaves: &Leaves<S>, wide: Wide) -> Option<Word<S>> {
        if trees.iter().any(|tree| tree.nodes.len() / 2 > BRANCHES_MAX) {
            return None;
        }
        let mut groups = Vec::new();
        let mut first = 0;
        let mut gathering = Gathering::default();
        for (number, tree) in trees.iter().enumerate() {
            if !gathering.take(tree, wide) {
                groups.push(gathering.group(first, &trees[first..number], leaves));
                first = number;
                gathering = Gathering::default();
                // 63 branches at most: they always fit.
                gathering.take(tree, wide);
            }
        }
        if first < trees.len() {
            groups.push(gathering.group(first, &trees[first..], leaves));
        }
        Some(Word { groups, wide })
    }

    /// Adds what all trees say of rows to their scores.
    pub(super) fn score(&self, leaves: &Leaves<S>, rows: &[S], columns: usize, scores: &mut [S]) {
        if rows.len() == columns {
            let mut codes = Aligned([[0; 64]; LINES_MAX]);
            self.score_some(leaves, rows, columns, scores, &mut codes.0, &mut [S::default(); 256]);
            return;
        }
        let mut codes = Aligned([[0; 64]; ROWS * LINES_MAX]);
        let mut payloads = [S::default(); 1024];
        let targets = leaves.targets();
        for (rows, scores) in rows.chunks(ROWS * columns).zip(scores.chunks_mut(ROWS * targets)) {
            self.score_some(leaves, rows, columns, scores, &mut codes.0, &mut payloads);
        }
    }

    fn score_some(
        &self,
        leaves: &Leaves<S>,
        rows: &[S],
        columns: usize,
        scores: &mut [S],
        codes: &mut [Line],
        payloads: &mut [S],
    ) {
        let count = rows.len() / columns;
        let at_once = payloads.len() / count;
        let mut given = leaves.given_of(count);
        for group in &self.groups {
            for (row, codes) in rows.chunks_exact(columns).zip(codes.chunks_exact_mut(group.lines)) {
                S::encode(self.wide, &group.book, row, codes.as_flattened_mut());
            }
            let codes = &codes[..count * group.lines];
            let mut first = 0;
            while first < group.trees.len() {
                let trees = first..group.trees.len().min(first + at_once);
                let payloads = &mut payloads[..trees.len() * count];
                group.find(self.wide, trees, codes, payloads);
                leaves.take_all(group.first + first, payloads, count, scores, &mut given);
                first += at_once;
            }
        }
    }
}

impl<S: Scalar> Group<S> {
    /// The payloads of some of the trees: all rows of a tree, then those of the next.
    fn find(&self, wide: Wide, trees: Range<usize>, codes: &[Line], payloads: &mut [S]) {
        let bits = self.way.leaf_bits();
        let table = &self.payloads[trees.start << bits..trees.end << bits];
        let words = &self.trees[trees.clone()];
        match &self.way {
            Way::Levels(levels) => wide.find_by_levels(words, *levels, table, codes, self.lines, payloads),
            Way::Links(links) => wide.find_by_links(words, &links[trees], table, codes, self.lines, payloads),
        }
    }
}

/// The trees of a group, so far.
#[derive(Default)]
struct Gathering<S> {
    sights: BTreeSet<Sight>,
    /// In order, without duplicates.
    thresholds: BTreeMap<u32, Vec<S>>,
    depth: usize,
}

impl<S: Scalar> Gathering<S> {
    /// Takes a tree in, unless the group would be too large.
    fn take(&mut self, tree: &PlainTree<S>, wide: Wide) -> bool {
        let branches = tree.nodes.iter().filter_map(|node| match node {
            PlainNode::Branch { sight, most, .. } => Some((*sight, *most)),
            PlainNode::Leaf(_) => None,
        });
        let new: BTreeSet<Sight> =
            branches.clone().map(|(sight, _)| sight).filter(|sight| !self.sights.contains(sight)).collect();
        // One place is for what nobody sees.
        if self.sights.len() + new.len() > wide.lines_max() * 64 - 1 {
            return false;
        }
        let mut added: Vec<(u32, S)> = Vec::new();
        for (sight, most) in branches {
            let thresholds = self.thresholds.entry(sight.column).or_default();
            let place = thresholds.partition_point(|threshold| *threshold < most);
            if thresholds.get(place).is_none_or(|threshold| *threshold > most) {
                thresholds.insert(place, most);
                added.push((sight.column, most));
            }
        }
        if self.thresholds.values().any(|thresholds| thresholds.len() > THRESHOLDS_MAX) {
            for (column, most) in added {
                self.thresholds.entry(column).or_default().retain(|threshold| *threshold != most);
            }
            self.thresholds.retain(|_, thresholds| !thresholds.is_empty());
            return false;
        }
        self.sights.extend(new);
        self.depth = self.depth.max(tree.depth);
        true
    }

    fn group(&self, first: usize, trees: &[PlainTree<S>], leaves: &Leaves<S>) -> Group<S> {
        let places: BTreeMap<Sight, u8> = self.sights.iter().copied().zip(0..).collect();
        let lines = (places.len() + 1).div_ceil(64).next_power_of_two();
        let nobody = (lines * 64 - 1) as u8;
        let mut book = Book { columns: Vec::new(), tables: Vec::new() };
        for (&column, thresholds) in &self.thresholds {
            let place = |missing_left| places.get(&Sight { column, missing_left }).copied().unwrap_or(nobody);
            book.columns.push(Coded {
                column,
                table: book.tables.len() as u32,
                thresholds: thresholds.len() as u32,
                left: place(true),
                right: place(false),
            });
            let mut blocks = thresholds.clone();
            blocks.resize((thresholds.len() / 16 + 1) * 16, S::INFINITY);
            let mut pivots: Vec<S> = blocks.chunks_exact(16).map(|block| block[15]).collect();
            pivots.resize(16, S::INFINITY);
            book.tables.extend(pivots);
            book.tables.extend(blocks);
        }
        let code = |sight: Sight, most: S| {
            let rank = self.thresholds[&sight.column].partition_point(|threshold| *threshold < most);
            (places[&sight], rank as u8)
        };
        // Kernels are made for 4 levels, 5 and 6.
        let levels = self.depth.max(4);
        let links = levels > DEPTH_MAX;
        let way = if links { Way::Links(Vec::with_capacity(trees.len())) } else { Way::Levels(levels) };
        let bits = way.leaf_bits();
        let payloads = vec![S::default(); trees.len() << bits];
        let mut group = Group { first, trees: Vec::with_capacity(trees.len()), way, payloads, book, lines };
        for (tree, payloads) in trees.iter().zip(group.payloads.chunks_exact_mut(1 << bits)) {
            group.trees.push(match &mut group.way {
                Way::Levels(levels) => padded(tree, *levels, leaves, payloads, code),
                Way::Links(all) => {
                    let (word, links) = linked(tree, leaves, payloads, code);
                    all.push(links);
                    word
                }
            });
        }
        group
    }
}

/// A tree as a perfect one.
fn padded<S: Scalar>(
    tree: &PlainTree<S>,
    depth: usize,
    leaves: &Leaves<S>,
    payloads: &mut [S],
    code: impl Fn(Sight, S) -> (u8, u8),
) -> TreeWord {
    let mut word = TreeWord { places: [0; 64], ranks: [GREATEST; 64] };
    let mut waiting = vec![(0u32, 1usize)];
    while let Some((node, number)) = waiting.pop() {
        match tree.nodes[node as usize] {
            PlainNode::Branch { sight, most, left, right } => {
                (word.places[number], word.ranks[number]) = code(sight, most);
                waiting.extend([(left, 2 * number), (right, 2 * number + 1)]);
            }
            PlainNode::Leaf(leaf) => {
                // Whoever comes here goes on to the left, to the last level.
                let levels = depth - number.ilog2() as usize;
                payloads[(number << levels) - (1 << depth)] = leaves.payload(leaf);
            }
        }
    }
    word
}

/// A tree as it is, with its links. Leaves are numbered from the left.
fn linked<S: Scalar>(
    tree: &PlainTree<S>,
    leaves: &Leaves<S>,
    payloads: &mut [S],
    code: impl Fn(Sight, S) -> (u8, u8),
) -> (TreeWord, Links) {
    let mut word = TreeWord { places: [0; 64], ranks: [GREATEST; 64] };
    let mut links = Links { possible: [u64::MAX; 64], branches: 0 };
    // Nodes lie in the order of a walk that goes left first, so leaves come from the left, and all that lies between a branch and
    // its right child is to its left.
    let mut leaves_before = Vec::with_capacity(tree.nodes.len());
    let mut seen = 0;
    for node in &tree.nodes {
        leaves_before.push(seen);
        if let PlainNode::Leaf(leaf) = node {
            payloads[seen] = leaves.payload(*leaf);
            seen += 1;
        }
    }
    for (node, before) in tree.nodes.iter().zip(&leaves_before) {
        if let PlainNode::Branch { sight, most, right, .. } = *node {
            let number = links.branches;
            links.branches += 1;
            (word.places[number], word.ranks[number]) = code(sight, most);
            // At most 63 leaves lie to the left of any node.
            let up_to = |leaf: usize| (1u64 << leaf) - 1;
            links.possible[number] = !(up_to(leaves_before[right as usize]) & !up_to(*before));
        }
    }
    (word, links)
}

/// The leaf of a tree where the tests have this outcome.
#[inline(always)]
pub(super) fn linked_leaf(word: u64, links: &Links) -> usize {
    let mut possible = [u64::MAX; 8];
    for (at, eight) in links.possible.chunks_exact(8).enumerate().take(links.branches.div_ceil(8)) {
        for lane in 0..8 {
            // All bits where the node sends to the left.
            let left = (word >> (at * 8 + lane) & 1).wrapping_sub(1);
            possible[lane] &= eight[lane] | left;
        }
    }
    possible.into_iter().fold(u64::MAX, |all, some| all & some).trailing_zeros() as usize
}

/// Codes of a row: [`Scalar::encode`] of any machine.
pub(super) fn encode<S: Scalar>(book: &Book<S>, row: &[S], codes: &mut [u8]) {
    for coded in &book.columns {
        let value = row[coded.column as usize];
        let thresholds = &book.tables[coded.table as usize + 16..][..coded.thresholds as usize];
        // NaN is greater than none.
        let code = thresholds.partition_point(|threshold| *threshold < value) as u8;
        codes[coded.left as usize] = code;
        codes[coded.right as usize] = if value.is_missing() { GREATEST } else { code };
    }
}

/// The payload of each tree and row: [`Wide::find_by_levels`] of any machine.
pub(super) fn find_by_levels<S: Copy>(
    trees: &[TreeWord],
    levels: usize,
    table: &[S],
    codes: &[Line],
    lines: usize,
    payloads: &mut [S],
) {
    let rows = codes.len() / lines;
    let trees = trees.iter().zip(table.chunks_exact(1 << levels)).zip(payloads.chunks_exact_mut(rows));
    for ((tree, table), payloads) in trees {
        for (codes, payload) in codes.chunks_exact(lines).zip(payloads) {
            let mut at = 1;
            for _ in 0..levels {
                at = 2 * at + usize::from(goes_right(tree, codes, at));
            }
            *payload = table[at - (1 << levels)];
        }
    }
}

/// The payload of each tree and row: [`Wide::find_by_links`] of any machine.
pub(super) fn find_by_links<S: Copy>(
    trees: &[TreeWord],
    links: &[Links],
    table: &[S],
    codes: &[Line],
    lines: usize,
    payloads: &mut [S],
) {
    let rows = codes.len() / lines;
    let trees = trees.iter().zip(links).zip(table.chunks_exact(64)).zip(payloads.chunks_exact_mut(rows));
    for (((tree, links), table), payloads) in trees {
        for (codes, payload) in codes.chunks_exact(lines).zip(payloads) {
            let word = (0..links.branches).map(|node| u64::from(goes_right(tree, codes, node)) << node).sum();
            *payload = table[linked_leaf(word, links)];
        }
    }
}

fn goes_right(tree: &TreeWord, codes: &[Line], node: usize) -> bool {
    codes.as_flattened()[tree.places[node] as usize] > tree.ranks[node]
}
