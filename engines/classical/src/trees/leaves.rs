//! What are the leaves worth that a row ends in, one in each tree?
//!
//! Leaves are numbered through the forest, in the order of the trees and of their nodes. Kernels find a *payload* for each tree
//! and row: the weight itself where a leaf has no more than one and all leaves of a tree speak of one target, else the number of the leaf.

use super::scalar::Scalar;
use super::{Aggregate, Forest, Gives, Node, Tree};

/// The weights of all leaves.
#[derive(Debug)]
pub(super) struct Leaves<S> {
    aggregate: Aggregate,
    trees: usize,
    gives: Vec<Gives>,
    worth: Worth<S>,
}

#[derive(Debug)]
enum Worth<S> {
    /// The weight of each leaf, and the target of each tree.
    One { weights: Vec<S>, targets: Vec<u32> },
    /// One weight for each target of each leaf.
    Each(Vec<S>),
    /// Where each leaf's weights begin, and where the last one's end.
    Some { starts: Vec<u32>, weights: Vec<(u32, S)> },
}

impl<S: Scalar> Leaves<S> {
    /// The leaves of a forest that was checked.
    pub(super) fn new(forest: &Forest, aggregate: Aggregate) -> Leaves<S> {
        let gives = gives(forest);
        let sums = matches!(aggregate, Aggregate::Sum | Aggregate::Average);
        let quick = sums && !gives.contains(&Gives::Sometimes);
        let worth = quick.then(|| one(forest).or_else(|| each(forest))).flatten().unwrap_or_else(|| some(forest));
        Leaves { aggregate, trees: forest.trees.len(), gives, worth }
    }

    pub(super) fn targets(&self) -> usize {
        self.gives.len()
    }

    pub(super) fn gives(&self) -> &[Gives] {
        &self.gives
    }

    /// What a kernel finds where it comes to this leaf. Never NaN.
    pub(super) fn payload(&self, leaf: u32) -> S {
        match &self.worth {
            Worth::One { weights, .. } => weights[leaf as usize],
            Worth::Each(_) | Worth::Some { .. } => S::of_leaf(leaf),
        }
    }

    /// Frees what is in the payloads now, of which no more will be asked.
    pub(super) fn told(&mut self) {
        if let Worth::One { weights, .. } = &mut self.worth {
            *weights = Vec::new();
        }
    }

    /// Room to remember which targets got a weight, of so many rows.
    pub(super) fn given_of(&self, rows: usize) -> Vec<bool> {
        match &self.worth {
            Worth::One { .. } | Worth::Each(_) => Vec::new(),
            Worth::Some { .. } => vec![false; rows * self.targets()],
        }
    }

    /// Takes the payloads of some trees, from the first on, into the scores of rows: all rows of a tree, then those of the next.
    ///
    /// Scores are 0, and not `given`, before the first tree.
    pub(super) fn take_all(&self, first: usize, payloads: &[S], rows: usize, scores: &mut [S], given: &mut [bool]) {
        let targets = self.targets();
        match &self.worth {
            Worth::One { .. } if targets == 1 => take_one(payloads, &mut scores[..rows]),
            Worth::One { targets: of_trees, .. } => {
                for (payloads, &target) in payloads.chunks_exact(rows).zip(&of_trees[first..]) {
                    let scores = scores.iter_mut().skip(target as usize).step_by(targets);
                    scores.zip(payloads).for_each(|(score, payload)| *score += *payload);
                }
            }
            Worth::Each(weights) => {
                for payloads in payloads.chunks_exact(rows) {
                    for (scores, payload) in scores.chunks_exact_mut(targets).zip(payloads) {
                        let weights = &weights[payload.leaf() as usize * targets..][..targets];
                        scores.iter_mut().zip(weights).for_each(|(score, weight)| *score += *weight);
                    }
                }
            }
            Worth::Some { .. } => {
                for payloads in payloads.chunks_exact(rows) {
                    let rows = scores.chunks_exact_mut(targets).zip(given.chunks_exact_mut(targets));
                    rows.zip(payloads).for_each(|((scores, given), payload)| self.take(payload.leaf(), scores, given));
                }
            }
        }
    }

    fn take(&self, leaf: u32, scores: &mut [S], given: &mut [bool]) {
        for &(target, weight) in self.weights(leaf) {
            let target = target as usize;
            let score = &mut scores[target];
            match self.aggregate {
                Aggregate::Sum | Aggregate::Average => *score += weight,
                Aggregate::Min if !given[target] || weight < *score => *score = weight,
                Aggregate::Max if !given[target] || weight > *score => *score = weight,
                Aggregate::Min | Aggregate::Max => {}
            }
            given[target] = true;
        }
    }

    /// The weights of a leaf of a forest whose targets some rows get and others do not.
    fn weights(&self, leaf: u32) -> &[(u32, S)] {
        let leaf = leaf as usize;
        match &self.worth {
            Worth::Some { starts, weights } => &weights[starts[leaf] as usize..starts[leaf + 1] as usize],
            Worth::One { .. } | Worth::Each(_) => &[],
        }
    }

    /// Marks the targets that the leaf has a weight for, of those that some rows get and others do not.
    pub(super) fn mark(&self, leaf: u32, given: &mut [bool]) {
        self.weights(leaf).iter().for_each(|(target, _)| given[*target as usize] = true);
    }

    /// Makes scores of what was taken of all trees.
    pub(super) fn finish(&self, scores: &mut [S]) {
        if self.aggregate == Aggregate::Average {
            let trees = S::of(self.trees as f64);
            scores.iter_mut().for_each(|score| *score /= trees);
        }
    }
}

fn take_one<S: Scalar>(payloads: &[S], scores: &mut [S]) {
    if let [score] = scores {
        // In a register: each sum waits for the one before.
        let mut sum = *score;
        payloads.iter().for_each(|payload| sum += *payload);
        *score = sum;
        return;
    }
    for payloads in payloads.chunks_exact(scores.len()) {
        scores.iter_mut().zip(payloads).for_each(|(score, payload)| *score += *payload);
    }
}

fn leaves_of(tree: &Tree) -> impl Iterator<Item = &[(u32, f64)]> {
    tree.nodes.iter().filter_map(|node| match node {
        Node::Leaf { weights } => Some(weights.as_slice()),
        Node::Branch { .. } => None,
    })
}

/// The weights of a leaf that count, by target.
fn counted(targets: usize, weights: &[(u32, f64)]) -> impl Iterator<Item = (u32, f64)> {
    let counted = if targets == 1 { &weights[..weights.len().min(1)] } else { weights };
    counted.iter().map(move |&(target, weight)| (if targets == 1 { 0 } else { target }, weight))
}

fn one<S: Scalar>(forest: &Forest) -> Option<Worth<S>> {
    let mut weights = Vec::new();
    let mut targets = Vec::with_capacity(forest.trees.len());
    for tree in &forest.trees {
        let mut target = None;
        for leaf in leaves_of(tree) {
            let mut counted = counted(forest.targets, leaf);
            let (Some((of, weight)), None) = (counted.next(), counted.next()) else { return None };
            // A payload is at least less than all, which NaN is not.
            if *target.get_or_insert(of) != of || weight.is_nan() {
                return None;
            }
            weights.push(S::of(weight));
        }
        targets.push(target?);
    }
    Some(Worth::One { weights, targets })
}

fn each<S: Scalar>(forest: &Forest) -> Option<Worth<S>> {
    let mut all = Vec::new();
    for leaf in forest.trees.iter().flat_map(leaves_of) {
        let in_order =
            leaf.len() == forest.targets && leaf.iter().zip(0..).all(|((target, _), place)| *target == place);
        if !in_order {
            return None;
        }
        all.extend(leaf.iter().map(|(_, weight)| S::of(*weight)));
    }
    Some(Worth::Each(all))
}

fn some<S: Scalar>(forest: &Forest) -> Worth<S> {
    let mut starts = vec![0];
    let mut weights = Vec::new();
    for leaf in forest.trees.iter().flat_map(leaves_of) {
        weights.extend(counted(forest.targets, leaf).map(|(target, weight)| (target, S::of(weight))));
        starts.push(weights.len() as u32);
    }
    Worth::Some { starts, weights }
}

/// A target is always given where there is a tree whose every leaf has a weight for it, and never where no leaf has.
fn gives(forest: &Forest) -> Vec<Gives> {
    let mut gives = vec![Gives::Never; forest.targets];
    // How many leaves of a tree name a target, and the last of them: a leaf may name it twice.
    let mut named = vec![(0usize, usize::MAX); forest.targets];
    let mut number = 0;
    for tree in &forest.trees {
        let leaves = leaves_of(tree).count();
        for leaf in leaves_of(tree) {
            for (target, _) in counted(forest.targets, leaf) {
                let (times, last) = &mut named[target as usize];
                if *last != number {
                    (*times, *last) = (*times + 1, number);
                }
            }
            number += 1;
        }
        for (target, _) in leaves_of(tree).flat_map(|leaf| counted(forest.targets, leaf)) {
            let (times, _) = &mut named[target as usize];
            match (std::mem::take(times), &mut gives[target as usize]) {
                // Seen to already in this tree.
                (0, _) => {}
                (times, gives) if times == leaves => *gives = Gives::Always,
                (_, gives) if *gives == Gives::Never => *gives = Gives::Sometimes,
                _ => {}
            }
        }
    }
    gives
}
