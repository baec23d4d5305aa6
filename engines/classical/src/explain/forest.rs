//! In which form is a forest explained?
//!
//! Every tree as a list of nodes in which a branch is followed by what its test leads to where it is true, then by the rest: no
//! node is reached in two ways, so that what is above it is known once and for all.

use std::collections::HashMap;

use tiltyard_runtime::engine::EngineError;

use crate::trees::{Forest, Node, Precision, Question, Test, Tree};

/// How often rows came by each node of each tree when the forest was trained.
pub(crate) type Covers = Vec<Vec<f64>>;

/// Nodes that there may be for each one of the file: where trees share nodes, each way to one gets its own.
const COPIES_MAX: usize = 4;

/// A column of features that belongs to nobody: it is the same in all rows.
pub(crate) const NOBODY: u32 = u32::MAX;

/// What is asked on the way to a leaf, and what leaves say.
pub(super) struct Trees {
    pub(super) nodes: Vec<Step>,
    /// Where each tree begins.
    pub(super) roots: Vec<u32>,
    /// What leaves say: of which target, and how much.
    pub(super) weights: Vec<(u32, f64)>,
    pub(super) targets: usize,
    /// The player whom each feature belongs to; [`NOBODY`] for those that never differ.
    pub(super) players: Vec<u32>,
    pub(super) player_count: usize,
}

pub(super) enum Step {
    /// The next node is where it goes if the answer is yes.
    Branch(Branch),
    /// A range of the weights.
    Leaf { start: u32, end: u32 },
}

pub(super) struct Branch {
    question: Question,
    pub(super) feature: u32,
    /// Where it goes on if the answer is no.
    pub(super) other: u32,
    missing_then: bool,
    /// What is below zero is a no whatever the question says: XGBoost's categories.
    below_zero_other: bool,
    /// Of the rows that came here, the part that went each way.
    pub(super) shares: [f64; 2],
}

impl Branch {
    /// Whether a row of features goes on to the next node.
    pub(super) fn goes_then(&self, row: &[f64]) -> bool {
        let value = row[self.feature as usize];
        if self.below_zero_other && value < 0.0 {
            return false;
        }
        self.question.is_true(value) || (self.missing_then && value.is_nan())
    }
}

impl Trees {
    /// Takes a forest apart whose features belong to `players`. Without `covers`, what part of the rows went where is not
    /// known, and 0.
    pub(super) fn new(
        forest: &Forest,
        covers: Option<&Covers>,
        precision: Precision,
        players: Vec<u32>,
        player_count: usize,
    ) -> Result<Trees, EngineError> {
        forest.check().map_err(|error| EngineError::BadModel(error.to_string()))?;
        let of_file: usize = forest.trees.iter().map(|tree| tree.nodes.len()).sum();
        let targets = forest.targets;
        let (nodes, weights) = (Vec::with_capacity(of_file), Vec::new());
        let mut trees = Trees { nodes, roots: Vec::new(), weights, targets, players, player_count };
        let most = of_file.saturating_mul(COPIES_MAX).min(u32::MAX as usize);
        for (number, tree) in forest.trees.iter().enumerate() {
            trees.roots.push(trees.nodes.len() as u32);
            trees.add(tree, covers.map(|covers| &covers[number][..]), precision, most)?;
        }
        Ok(trees)
    }

    fn add(
        &mut self,
        tree: &Tree,
        covers: Option<&[f64]>,
        precision: Precision,
        most: usize,
    ) -> Result<(), EngineError> {
        // A node of the tree, and the branch here that it is the other way of.
        let mut waiting: Vec<(u32, Option<usize>)> = vec![(0, None)];
        while let Some((at, other_of)) = waiting.pop() {
            let here = self.nodes.len();
            if here >= most {
                let told = "its trees share so many nodes that they cannot be explained one by one";
                return Err(EngineError::Unsupported(told.into()));
            }
            if let Some(Step::Branch(branch)) = other_of.and_then(|of| self.nodes.get_mut(of)) {
                branch.other = here as u32;
            }
            let (column, test, then, other, missing_then, below_zero_other) = match &tree.nodes[at as usize] {
                Node::Leaf { weights } => {
                    self.leaf(weights);
                    continue;
                }
                Node::Branch { column, test, then, other, missing_then } => match folded(tree, at) {
                    Some(Node::Branch { test, then, other, missing_then, .. }) => {
                        (*column, test, *then, *other, *missing_then, true)
                    }
                    _ => (*column, test, *then, *other, *missing_then, false),
                },
            };
            let of_all = |node: u32| covers.map_or(0.0, |covers| covers[node as usize] / covers[at as usize]);
            self.nodes.push(Step::Branch(Branch {
                question: Question::new(test, precision),
                feature: column,
                other: 0,
                missing_then,
                below_zero_other,
                shares: [of_all(then), of_all(other)],
            }));
            waiting.push((other, Some(here)));
            waiting.push((then, None));
        }
        Ok(())
    }

    fn leaf(&mut self, weights: &[(u32, f64)]) {
        let start = self.weights.len() as u32;
        match (self.targets, weights) {
            // Where there is one target, the first weight counts, whatever target it names.
            (1, [(_, weight), ..]) => self.weights.push((0, *weight)),
            _ => self.weights.extend_from_slice(weights),
        }
        self.nodes.push(Step::Leaf { start, end: self.weights.len() as u32 });
    }

    /// Who a branch asks.
    pub(super) fn player(&self, branch: &Branch) -> u32 {
        self.players[branch.feature as usize]
    }

    /// Adds what the trees say of a row of features to its scores.
    pub(super) fn score(&self, row: &[f64], scores: &mut [f64]) {
        for &root in &self.roots {
            let mut at = root as usize;
            loop {
                match &self.nodes[at] {
                    Step::Branch(branch) => at = if branch.goes_then(row) { at + 1 } else { branch.other as usize },
                    Step::Leaf { start, end } => {
                        let weights = &self.weights[*start as usize..*end as usize];
                        weights.iter().for_each(|&(target, weight)| scores[target as usize] += weight);
                        break;
                    }
                }
            }
        }
    }
}

/// The branch over categories behind one that only sends what is below zero to where that branch's other rows go: both are one
/// to whoever trained the tree.
fn folded(tree: &Tree, at: u32) -> Option<&Node> {
    let Node::Branch { column, test: Test::Lt(0.0), then, other, missing_then: false } = &tree.nodes[at as usize]
    else {
        return None;
    };
    let behind = &tree.nodes[*other as usize];
    match behind {
        Node::Branch { column: same, test: Test::In(_), other: no, .. } if same == column && no == then => Some(behind),
        _ => None,
    }
}

/// Whether covers tell anything: each branch was reached, and by as many as its ways together. What exporters fill in where
/// they know nothing is not so.
pub(super) fn are_covers(forest: &Forest, covers: &Covers) -> bool {
    let lengths = covers.len() == forest.trees.len()
        && covers.iter().zip(&forest.trees).all(|(covers, tree)| covers.len() == tree.nodes.len());
    // A branch behind another is one with it, and has no cover of its own.
    let is_right = |tree: &Tree, covers: &[f64], at: usize| {
        let (then, other) = match (&tree.nodes[at], folded(tree, at as u32)) {
            (_, Some(Node::Branch { then, other, .. })) | (Node::Branch { then, other, .. }, _) => (*then, *other),
            (Node::Leaf { .. }, _) => return true,
        };
        let (all, parts) = (covers[at], [covers[then as usize], covers[other as usize]]);
        let sum = parts[0] + parts[1];
        all.is_finite() && all > 0.0 && parts.iter().all(|part| *part >= 0.0) && (sum - all).abs() <= all * 0.01
    };
    let hidden = |tree: &Tree| -> HashMap<u32, ()> {
        let behind = |at: usize| match &tree.nodes[at] {
            Node::Branch { other, .. } if folded(tree, at as u32).is_some() => Some((*other, ())),
            _ => None,
        };
        (0..tree.nodes.len()).filter_map(behind).collect()
    };
    lengths
        && forest.trees.iter().zip(covers).all(|(tree, covers)| {
            let hidden = hidden(tree);
            (0..tree.nodes.len()).all(|at| hidden.contains_key(&(at as u32)) || is_right(tree, covers, at))
        })
}
