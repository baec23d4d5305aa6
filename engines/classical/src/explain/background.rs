//! Which feature had which part in a forest's score, compared with rows that stand for what is usual?
//!
//! The game of interventional TreeSHAP: players who are in play have the row's features, the others those of a background row, and a
//! player's part is the mean over all background rows. With both rows at hand a tree is walked once: where they go the same way,
//! so does every mixture of them; where they part, whose features decide says which way each coalition goes. A leaf that
//! is reached by those with `a` players in play and `b` not gives each of the former (a − 1)!·b!/(a + b)! of its weight, and
//! takes a!·(b − 1)!/(a + b)! from each of the latter.

use super::forest::{NOBODY, Step, Trees};

/// Sizes of coalitions of which fractions are kept ready.
const KEPT: usize = 64;

/// Nodes between two looks at the time.
const NODES_AT_ONCE: usize = 1 << 14;

/// Words of 64 bits that the ways of all rows may take: more are found out anew for each row that is explained.
const WAYS_MAX: usize = 1 << 22;

/// Which way a row goes at each node, a bit for each.
struct Ways(Vec<u64>);

impl Ways {
    fn of(trees: &Trees, row: &[f64]) -> Ways {
        let mut words = vec![0; trees.nodes.len().div_ceil(64)];
        for (at, step) in trees.nodes.iter().enumerate() {
            if matches!(step, Step::Branch(branch) if branch.goes_then(row)) {
                words[at / 64] |= 1 << (at % 64);
            }
        }
        Ways(words)
    }

    fn goes_then(&self, node: usize) -> bool {
        self.0[node / 64] >> (node % 64) & 1 == 1
    }
}

/// A forest with rows to compare with.
pub(super) struct ByBackground {
    trees: Trees,
    /// The ways of the rows, where they take little room; else none.
    ways: Vec<Ways>,
    /// rows × features.
    rows: Vec<f64>,
    features: usize,
    /// The mean score of the rows, for each target.
    base: Vec<f64>,
    /// For `a` players in play and `b` not: a!·b!/(a + b + 1)!, of [`KEPT`] × [`KEPT`].
    fractions: Vec<f64>,
}

impl ByBackground {
    /// `rows` is rows × features; there is at least one.
    pub(super) fn new(trees: Trees, rows: Vec<f64>) -> ByBackground {
        let features = trees.players.len();
        let mut base = vec![0.0; trees.targets];
        let count = rows.len() / features.max(1);
        rows.chunks_exact(features).for_each(|row| trees.score(row, &mut base));
        base.iter_mut().for_each(|base| *base /= count as f64);
        let fractions = (0..KEPT * KEPT).map(|at| fraction(at / KEPT, at % KEPT)).collect();
        let kept = trees.nodes.len().div_ceil(64).saturating_mul(count) <= WAYS_MAX;
        let ways = rows.chunks_exact(features).filter(|_| kept).map(|row| Ways::of(&trees, row)).collect();
        ByBackground { trees, ways, rows, features, base, fractions }
    }

    pub(super) fn trees(&self) -> &Trees {
        &self.trees
    }

    pub(super) fn base(&self) -> &[f64] {
        &self.base
    }

    pub(super) fn rows(&self) -> usize {
        self.rows.len() / self.features
    }

    fn fraction(&self, a: usize, b: usize) -> f64 {
        if a < KEPT && b < KEPT { self.fractions[a * KEPT + b] } else { fraction(a, b) }
    }

    /// Adds each player's part in the scores of a row of features to `parts`, which is targets × players. `false` where it was
    /// told to stop.
    pub(super) fn explain(&self, row: &[f64], parts: &mut [f64], go_on: &mut dyn FnMut() -> bool) -> bool {
        let mut sums = vec![0.0; parts.len()];
        let mut work = Work { decides: vec![None; self.trees.player_count], ..Work::default() };
        let mut left = NODES_AT_ONCE;
        let own = Ways::of(&self.trees, row);
        // Where all ways are known, one tree after the other stays in the cache.
        for &root in &self.trees.roots {
            for other in &self.ways {
                if !self.tree(&mut work, root, [&own, other], &mut sums, &mut left, go_on) {
                    return false;
                }
            }
        }
        let anew = if self.ways.is_empty() { &self.rows[..] } else { &[] };
        for other in anew.chunks_exact(self.features) {
            let other = Ways::of(&self.trees, other);
            for &root in &self.trees.roots {
                if !self.tree(&mut work, root, [&own, &other], &mut sums, &mut left, go_on) {
                    return false;
                }
            }
        }
        let count = self.rows() as f64;
        parts.iter_mut().zip(sums).for_each(|(part, sum)| *part += sum / count);
        true
    }

    fn tree(
        &self,
        work: &mut Work,
        root: u32,
        rows: [&Ways; 2],
        sums: &mut [f64],
        left: &mut usize,
        go_on: &mut dyn FnMut() -> bool,
    ) -> bool {
        let targets = self.trees.targets;
        work.frames.clear();
        work.arrives.clear();
        work.arrives.resize(targets, [0.0; 2]);
        let mut at = root as usize;
        loop {
            *left -= 1;
            if *left == 0 {
                *left = NODES_AT_ONCE;
                if !go_on() {
                    return false;
                }
            }
            match &self.trees.nodes[at] {
                Step::Branch(branch) => {
                    let ways = rows.map(|row| row.goes_then(at));
                    let to = |then: bool| if then { at + 1 } else { branch.other as usize };
                    let player = self.trees.player(branch);
                    let decided = if player == NOBODY { Some(0) } else { work.decides[player as usize] };
                    at = match decided {
                        _ if ways[0] == ways[1] => to(ways[0]),
                        Some(of) => to(ways[usize::from(of)]),
                        None => {
                            work.part(player, to(ways[1]), targets);
                            to(ways[0])
                        }
                    };
                    continue;
                }
                Step::Leaf { start, end } => {
                    let [a, b] = work.counts;
                    let gained = if a > 0 { self.fraction(a - 1, b) } else { 0.0 };
                    let lost = if b > 0 { self.fraction(a, b - 1) } else { 0.0 };
                    let level = work.frames.len() * targets;
                    for &(target, weight) in &self.trees.weights[*start as usize..*end as usize] {
                        let arrives = &mut work.arrives[level + target as usize];
                        arrives[0] += gained * weight;
                        arrives[1] += lost * weight;
                    }
                }
            }
            match work.back(sums, targets, self.trees.player_count) {
                Some(next) => at = next,
                None => return true,
            }
        }
    }
}

/// What is in hand while a tree is walked.
#[derive(Default)]
struct Work {
    /// Whose features decide for each player: the row's (0), the background's (1), or nobody's yet.
    decides: Vec<Option<u8>>,
    /// Players for whom the row decides, and for whom the background does.
    counts: [usize; 2],
    frames: Vec<Frame>,
    /// level × targets: what leaves below give to the former and take from the latter.
    arrives: Vec<[f64; 2]>,
}

/// Where the ways of both rows parted.
struct Frame {
    player: u32,
    /// The way of the background's row, while it was not gone.
    other: Option<usize>,
}

impl Work {
    /// Both ways will be gone; the row's first.
    fn part(&mut self, player: u32, other: usize, targets: usize) {
        self.frames.push(Frame { player, other: Some(other) });
        self.decides[player as usize] = Some(0);
        self.counts[0] += 1;
        self.arrives.resize((self.frames.len() + 1) * targets, [0.0; 2]);
    }

    /// Goes up from a leaf to where another way is left, and gives the node that it begins with.
    fn back(&mut self, sums: &mut [f64], targets: usize, players: usize) -> Option<usize> {
        while let Some(frame) = self.frames.last_mut() {
            let (player, level) = (frame.player as usize, self.arrives.len() - targets);
            let other = frame.other.take();
            let side = usize::from(other.is_none());
            for target in 0..targets {
                let here = std::mem::take(&mut self.arrives[level + target]);
                sums[target * players + player] += if side == 0 { here[0] } else { -here[1] };
                let above = &mut self.arrives[level - targets + target];
                above[0] += here[0];
                above[1] += here[1];
            }
            self.counts[side] -= 1;
            if let Some(other) = other {
                self.decides[player] = Some(1);
                self.counts[1] += 1;
                return Some(other);
            }
            self.decides[player] = None;
            self.frames.pop();
            self.arrives.truncate(level);
        }
        None
    }
}

/// a!·b!/(a + b + 1)!.
fn fraction(a: usize, b: usize) -> f64 {
    let (small, large) = (a.min(b), a.max(b));
    let start = 1.0 / (large as f64 + 1.0);
    (1..=small).fold(start, |product, at| product * at as f64 / ((large + 1 + at) as f64))
}
