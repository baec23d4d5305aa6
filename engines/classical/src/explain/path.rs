//! Which feature had which part in a forest's score, by how often training rows took each branch?
//!
//! The game of TreeSHAP (Lundberg et al., 2018 and 2020): players who are in play answer with the row, for the others each
//! branch goes both ways, in proportion to the training rows that did. A leaf's part in a coalition's score is a product over
//! the players on its path, so that Shapley values are integrals of polynomials: with all others in play with probability t, a
//! player adds (o − z) ∏ (t·o' + (1 − t)·z'), where o is 1 if the row passes all of the player's tests on the path and z is the
//! part of the training rows that did. Half as many points as there are players on a path give that integral exactly. All
//! factors are positive: nothing cancels. A tree costs its nodes times those points, and not the square of its depth at each leaf.

use tiltyard_runtime::engine::EngineError;

use super::forest::{NOBODY, Step, Trees};
use super::quadrature::gauss_legendre;

/// Points are worked on so many at a time.
const LANES: usize = 4;

/// More players on one path than that take too many points.
const PLAYERS_MAX: usize = 1024;

/// Nodes between two looks at the time.
const NODES_AT_ONCE: usize = 1 << 12;

type Lanes = [f64; LANES];

/// Points t between 0 and 1, with what else is asked of them: 1 − t, its inverse, and what each point counts.
#[derive(Clone, Copy)]
struct Points {
    t: Lanes,
    u: Lanes,
    inverse: Lanes,
    counts: Lanes,
}

/// A forest of which is known which part of the training rows came by each node.
pub(super) struct ByPath {
    trees: Trees,
    /// For each node, what its player's tests on the way let through: with the test above it, and without.
    passed: Vec<[f64; 2]>,
    /// Of each tree: its number of points, as a place in the rules, and the only target that it speaks of.
    kinds: Vec<(u32, Option<u32>)>,
    /// Points for whole lanes, by how many lanes there are.
    rules: Vec<Vec<Points>>,
    /// The mean of what leaves say of each target.
    base: Vec<f64>,
}

impl ByPath {
    pub(super) fn new(trees: Trees) -> Result<ByPath, EngineError> {
        let is_nobodys = |step: &Step| matches!(step, Step::Branch(branch) if trees.player(branch) == NOBODY);
        if trees.nodes.iter().any(is_nobodys) {
            let told = "a tree looks at what no input changes: give a background";
            return Err(EngineError::Unsupported(told.into()));
        }
        let mut by_path = ByPath {
            passed: vec![[1.0; 2]; trees.nodes.len()],
            kinds: Vec::with_capacity(trees.roots.len()),
            rules: Vec::new(),
            base: vec![0.0; trees.targets],
            trees,
        };
        let mut most = 0;
        for number in 0..by_path.trees.roots.len() {
            let players = by_path.walk_once(number);
            if players > PLAYERS_MAX {
                return Err(EngineError::Unsupported(format!(
                    "a path asks for {players} columns, and explanations by path take {PLAYERS_MAX}: give a background"
                )));
            }
            let rule = players.div_ceil(2).div_ceil(LANES);
            most = most.max(rule);
            let target = by_path.only_target(number);
            by_path.kinds.push((rule as u32, target));
        }
        by_path.rules = (0..=most).map(|lanes| rule(lanes * LANES)).collect();
        Ok(by_path)
    }

    pub(super) fn trees(&self) -> &Trees {
        &self.trees
    }

    pub(super) fn base(&self) -> &[f64] {
        &self.base
    }

    fn end(&self, tree: usize) -> usize {
        self.trees.roots.get(tree + 1).map_or(self.trees.nodes.len(), |&end| end as usize)
    }

    /// The target of which each leaf of a tree says one thing, if there is one.
    fn only_target(&self, tree: usize) -> Option<u32> {
        let nodes = &self.trees.nodes[self.trees.roots[tree] as usize..self.end(tree)];
        let of_leaf = |step: &Step| match step {
            Step::Leaf { start, end } => Some(&self.trees.weights[*start as usize..*end as usize]),
            Step::Branch(_) => None,
        };
        let mut leaves = nodes.iter().filter_map(of_leaf);
        let [(first, _)] = leaves.next()? else { return None };
        leaves.all(|weights| matches!(weights, [(target, _)] if target == first)).then_some(*first)
    }

    /// Notes what is known of each node before any row: what its player's tests let through. Adds to the base, and tells how
    /// many players the path with most of them has.
    fn walk_once(&mut self, tree: usize) -> usize {
        enum Visit {
            /// A node, what its player let through so far with the test above it, and what all did.
            Enter { node: usize, above: Option<(u32, f64)>, reach: f64 },
            /// Who was entered with what, before that.
            Leave { player: u32, before: Option<f64> },
        }
        let root = self.trees.roots[tree] as usize;
        let mut waiting = vec![Visit::Enter { node: root, above: None, reach: 1.0 }];
        let mut through: std::collections::HashMap<u32, f64> = std::collections::HashMap::new();
        let mut most = 0;
        while let Some(visit) = waiting.pop() {
            let (node, above, reach) = match visit {
                Visit::Leave { player, before: Some(before) } => {
                    through.insert(player, before);
                    continue;
                }
                Visit::Leave { player, before: None } => {
                    through.remove(&player);
                    continue;
                }
                Visit::Enter { node, above, reach } => (node, above, reach),
            };
            if let Some((player, share)) = above {
                let before = through.get(&player).copied();
                let without = before.unwrap_or(1.0);
                self.passed[node] = [without * share, without];
                through.insert(player, without * share);
                waiting.push(Visit::Leave { player, before });
                most = most.max(through.len());
            }
            match &self.trees.nodes[node] {
                Step::Leaf { start, end } => {
                    let weights = &self.trees.weights[*start as usize..*end as usize];
                    weights.iter().for_each(|&(target, weight)| self.base[target as usize] += weight * reach);
                }
                Step::Branch(branch) => {
                    let player = self.trees.player(branch);
                    for (node, share) in [(branch.other as usize, branch.shares[1]), (node + 1, branch.shares[0])] {
                        waiting.push(Visit::Enter { node, above: Some((player, share)), reach: reach * share });
                    }
                }
            }
        }
        most
    }

    /// Adds each player's part in the scores of a row of features to `parts`, which is targets × players. `false` where it was
    /// told to stop.
    pub(super) fn explain(&self, row: &[f64], parts: &mut [f64], go_on: &mut dyn FnMut() -> bool) -> bool {
        let mut work = Work { row, parts, passes: vec![true; self.trees.player_count], ..Work::default() };
        let mut left = NODES_AT_ONCE;
        for tree in 0..self.trees.roots.len() {
            let (rule, target) = self.kinds[tree];
            let walked = match self.rules[rule as usize][..] {
                [] => true,
                // Paths of at most eight players, whose loops are known to have one turn.
                [only] => self.tree(&mut work, tree, &[only], target, &mut left, go_on),
                ref rule => self.tree(&mut work, tree, rule, target, &mut left, go_on),
            };
            if !walked {
                return false;
            }
        }
        true
    }

    #[inline(always)]
    fn tree(
        &self,
        work: &mut Work<'_>,
        tree: usize,
        rule: &[Points],
        only: Option<u32>,
        left: &mut usize,
        go_on: &mut dyn FnMut() -> bool,
    ) -> bool {
        let targets = only.map_or(self.trees.targets, |_| 1);
        work.begin(self.trees.roots[tree] as usize, rule.len(), targets);
        let mut level = 0;
        loop {
            let frame = &mut work.frames[level];
            let at = frame.node as usize;
            match &self.trees.nodes[at] {
                Step::Leaf { start, end } => {
                    let weights = &self.trees.weights[*start as usize..*end as usize];
                    work.leaf(level, rule, targets, only, weights);
                }
                Step::Branch(branch) => {
                    let (child, yes) = match frame.stage {
                        0 => {
                            frame.goes_then = branch.goes_then(work.row);
                            (at + 1, true)
                        }
                        1 => (branch.other as usize, false),
                        _ => (0, false),
                    };
                    if frame.stage < 2 {
                        frame.stage += 1;
                        let passes = frame.goes_then == yes;
                        let player = self.trees.player(branch) as usize;
                        match (&self.trees.nodes[child], only) {
                            (Step::Leaf { start, .. }, Some(target)) => {
                                let part = target as usize * self.trees.player_count + player;
                                let weight = self.trees.weights[*start as usize].1;
                                work.reach(level, rule, player, passes, self.passed[child], weight, part);
                            }
                            _ if work.enter(level, rule, targets, child, player, passes, self.passed[child]) => {
                                level += 1;
                            }
                            _ => {}
                        }
                        continue;
                    }
                }
            }
            if level == 0 {
                return true;
            }
            work.fold(level, rule.len(), targets, only, self.trees.player_count);
            level -= 1;
            *left -= 1;
            if *left == 0 {
                *left = NODES_AT_ONCE;
                if !go_on() {
                    return false;
                }
            }
        }
    }
}

/// Points for whole lanes.
fn rule(count: usize) -> Vec<Points> {
    let points = gauss_legendre(count);
    let (chunks, _) = points.as_chunks::<LANES>();
    let of = |chunk: &[(f64, f64); LANES]| Points {
        t: chunk.map(|(t, _)| t),
        u: chunk.map(|(t, _)| 1.0 - t),
        inverse: chunk.map(|(t, _)| 1.0 / (1.0 - t)),
        counts: chunk.map(|(_, counts)| counts),
    };
    chunks.iter().map(of).collect()
}

/// The product of the factors of all players, and what a unit that arrives below adds to the player above, from the product
/// without the test above. `before` and `passes` say whether the row passes the player's tests without that one and with it; `with` and
/// `without` what part of the training rows did. Who passed all so far has the factor t + (1 − t)·z, and who has not (1 − t)·z.
#[inline(always)]
fn factors(points: &Points, above: &Lanes, before: bool, passes: bool, [with, without]: [f64; 2]) -> (Lanes, Lanes) {
    let (mut product, mut term) = (*above, [0.0; LANES]);
    if !before {
        let share = with / without;
        product.iter_mut().for_each(|product| *product *= share);
        return (product, term);
    }
    if without != 1.0 {
        // The player is on the path already: what it added so far is taken back.
        for lane in 0..LANES {
            let inverse = 1.0 / (points.t[lane] + points.u[lane] * without);
            product[lane] *= inverse;
            term[lane] = (without - 1.0) * inverse;
        }
    }
    for lane in 0..LANES {
        if passes {
            let factor = points.t[lane] + points.u[lane] * with;
            product[lane] *= factor;
            term[lane] += (1.0 - with) / factor;
        } else {
            product[lane] *= points.u[lane] * with;
            term[lane] -= points.inverse[lane];
        }
    }
    (product, term)
}

/// What is in hand while a tree is walked, level by level.
#[derive(Default)]
struct Work<'a> {
    row: &'a [f64],
    parts: &'a mut [f64],
    /// Whether the row passes all tests of each player on the path.
    passes: Vec<bool>,
    frames: Vec<Frame>,
    /// level × lanes: the product of all players' factors.
    products: Vec<Lanes>,
    /// level × lanes: what a unit that arrives at a leaf below adds to the player above the level.
    terms: Vec<Lanes>,
    /// level × targets × lanes: what arrives at the leaves below.
    arrives: Vec<Lanes>,
}

#[derive(Clone, Copy, Default)]
struct Frame {
    node: u32,
    /// Ways that were gone.
    stage: u8,
    goes_then: bool,
    /// Whose test is above, and whether its tests were passed before that one: if not, nothing changes for it any more.
    player: u32,
    passed: bool,
}

impl Work<'_> {
    fn begin(&mut self, root: usize, lanes: usize, targets: usize) {
        self.frames.clear();
        self.frames.push(Frame { node: root as u32, ..Frame::default() });
        self.products.clear();
        self.products.resize(lanes, [1.0; LANES]);
        self.terms.clear();
        self.terms.resize(lanes, [0.0; LANES]);
        self.arrives.clear();
        self.arrives.resize(lanes * targets, [0.0; LANES]);
    }

    /// Goes down to a child, unless nothing would come of it. `with` and `without` are what the player's tests let through.
    #[inline(always)]
    #[allow(clippy::too_many_arguments, reason = "one step of one loop")]
    fn enter(
        &mut self,
        level: usize,
        rule: &[Points],
        targets: usize,
        child: usize,
        player: usize,
        passes: bool,
        [with, without]: [f64; 2],
    ) -> bool {
        let before = self.passes[player];
        let passes = before && passes;
        if !passes && with == 0.0 {
            return false;
        }
        let (lanes, next) = (rule.len(), level + 1);
        if self.frames.len() == next {
            self.frames.push(Frame::default());
            self.products.resize((next + 1) * lanes, [0.0; LANES]);
            self.terms.resize((next + 1) * lanes, [0.0; LANES]);
            self.arrives.resize((next + 1) * lanes * targets, [0.0; LANES]);
        }
        self.frames[next] = Frame { node: child as u32, passed: before, player: player as u32, ..Frame::default() };
        self.passes[player] = passes;
        self.arrives[next * lanes * targets..][..lanes * targets].fill([0.0; LANES]);
        let (above, here) = self.products.split_at_mut(next * lanes);
        let above = &above[level * lanes..][..lanes];
        let terms = &mut self.terms[next * lanes..][..lanes];
        for ((points, above), (product, term)) in rule.iter().zip(above).zip(here.iter_mut().zip(terms.iter_mut())) {
            (*product, *term) = factors(points, above, before, passes, [with, without]);
        }
        true
    }

    /// What going down to a leaf of one weight and up again comes to. `part` is the player's place among the parts.
    #[inline(always)]
    #[allow(clippy::too_many_arguments, reason = "one step of one loop")]
    fn reach(
        &mut self,
        level: usize,
        rule: &[Points],
        player: usize,
        passes: bool,
        shares: [f64; 2],
        weight: f64,
        part: usize,
    ) {
        let before = self.passes[player];
        let passes = before && passes;
        if !passes && shares[0] == 0.0 {
            return;
        }
        let lanes = rule.len();
        let products = &self.products[level * lanes..][..lanes];
        let arrives = &mut self.arrives[level * lanes..][..lanes];
        let mut sum = [0.0; LANES];
        for ((points, above), arrives) in rule.iter().zip(products).zip(arrives) {
            let (product, term) = factors(points, above, before, passes, shares);
            for lane in 0..LANES {
                let here = weight * points.counts[lane] * product[lane];
                arrives[lane] += here;
                sum[lane] += here * term[lane];
            }
        }
        self.parts[part] += (sum[0] + sum[2]) + (sum[1] + sum[3]);
    }

    #[inline(always)]
    fn leaf(&mut self, level: usize, rule: &[Points], targets: usize, only: Option<u32>, weights: &[(u32, f64)]) {
        let lanes = rule.len();
        let products = &self.products[level * lanes..][..lanes];
        let arrives = &mut self.arrives[level * lanes * targets..][..lanes * targets];
        for &(target, weight) in weights {
            let target = if only.is_some() { 0 } else { target as usize };
            let arrives = &mut arrives[target * lanes..][..lanes];
            for ((points, product), arrives) in rule.iter().zip(products).zip(arrives) {
                for lane in 0..LANES {
                    arrives[lane] += weight * points.counts[lane] * product[lane];
                }
            }
        }
    }

    /// Goes up again: the player above gets its part, and what arrives below arrives above.
    #[inline(always)]
    fn fold(&mut self, level: usize, lanes: usize, targets: usize, only: Option<u32>, players: usize) {
        let Frame { player, passed, .. } = self.frames[level];
        self.passes[player as usize] = passed;
        let size = lanes * targets;
        let (above, here) = self.arrives.split_at_mut(level * size);
        let (above, here) = (&mut above[(level - 1) * size..], &here[..size]);
        let terms = &self.terms[level * lanes..][..lanes];
        for target in 0..targets {
            let (above, here) = (&mut above[target * lanes..][..lanes], &here[target * lanes..][..lanes]);
            let mut sum = [0.0; LANES];
            for ((above, here), term) in above.iter_mut().zip(here).zip(terms) {
                for lane in 0..LANES {
                    sum[lane] += here[lane] * term[lane];
                    above[lane] += here[lane];
                }
            }
            if passed {
                let target = only.map_or(target, |only| only as usize);
                self.parts[target * players + player as usize] += (sum[0] + sum[2]) + (sum[1] + sum[3]);
            }
        }
    }
}
