//! What does a forest of ordered tests look like when all its tests are of one kind?
//!
//! Every ordered test becomes "goes left if the value is at most this". Where a missing value goes becomes a matter of how
//! the column is seen: to those nodes that send it left, NaN shows as what is less than all; to the others, as greater.

use super::scalar::Scalar;
use super::{Forest, Node, Test, Tree};

/// A column as a node sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Sight {
    pub(super) column: u32,
    pub(super) missing_left: bool,
}

/// One node.
#[derive(Clone, Copy, Debug)]
pub(super) enum PlainNode<S> {
    /// Goes left if what is seen is at most `most`, which is not NaN.
    Branch { sight: Sight, most: S, left: u32, right: u32 },
    /// The leaf of this number in the forest.
    Leaf(u32),
}

/// One tree: the nodes that can be reached, parents before their children. The first is the root.
#[derive(Debug)]
pub(super) struct PlainTree<S> {
    pub(super) nodes: Vec<PlainNode<S>>,
    /// Branches on the longest way.
    pub(super) depth: usize,
}

/// Whether a checked forest asks ordered tests only, and no node of it is the child of two.
pub(super) fn is_plain(forest: &Forest) -> bool {
    let mut is_child = Vec::new();
    forest.trees.iter().all(|tree| {
        is_child.clear();
        is_child.resize(tree.nodes.len(), false);
        tree.nodes.iter().all(|node| match node {
            Node::Leaf { .. } => true,
            Node::Branch { test, then, other, .. } => {
                let ordered = !matches!(test, Test::Eq(_) | Test::Neq(_) | Test::Member(_) | Test::In(_));
                ordered && [then, other].iter().all(|&&child| !std::mem::replace(&mut is_child[child as usize], true))
            }
        })
    })
}

/// All trees of a forest that is plain. Each gives back its memory when it has been told anew: a large forest is there once.
pub(super) fn plain<S: Scalar>(forest: Forest) -> Vec<PlainTree<S>> {
    let mut leaves = 0;
    forest.trees.into_iter().map(|tree| plain_tree(&tree, &mut leaves)).collect()
}

fn plain_tree<S: Scalar>(tree: &Tree, leaves: &mut u32) -> PlainTree<S> {
    let numbers: Vec<u32> = tree
        .nodes
        .iter()
        .map(|node| {
            let number = *leaves;
            *leaves += u32::from(matches!(node, Node::Leaf { .. }));
            number
        })
        .collect();
    let mut nodes: Vec<PlainNode<S>> = Vec::with_capacity(tree.nodes.len());
    let mut depth = 0;
    // What is yet to come: a node, how deep it lies, and whose right child it is.
    let mut waiting: Vec<(u32, usize, Option<usize>)> = vec![(0, 0, None)];
    while let Some((node, level, parent)) = waiting.pop() {
        let own = nodes.len();
        if let Some(PlainNode::Branch { right, .. }) = parent.and_then(|parent| nodes.get_mut(parent)) {
            *right = own as u32;
        }
        depth = depth.max(level);
        match &tree.nodes[node as usize] {
            Node::Leaf { .. } => nodes.push(PlainNode::Leaf(numbers[node as usize])),
            Node::Branch { column, test, then, other, missing_then } => {
                let (most, then_is_left) = ordered::<S>(test);
                let (left, right) = if then_is_left { (*then, *other) } else { (*other, *then) };
                let sight = Sight { column: *column, missing_left: *missing_then == then_is_left };
                nodes.push(PlainNode::Branch { sight, most, left: own as u32 + 1, right: 0 });
                waiting.push((right, level + 1, Some(own)));
                waiting.push((left, level + 1, None));
            }
        }
    }
    PlainTree { nodes, depth }
}

/// An ordered test as "at most this", and whether `then` is where it goes if so.
fn ordered<S: Scalar>(test: &Test) -> (S, bool) {
    let always = S::INFINITY;
    let below = |than: S| (than != S::NEG_INFINITY).then(|| than.next_below());
    let told = match test {
        Test::Leq(than) | Test::Lt(than) | Test::Gt(than) | Test::Geq(than) => S::of(*than),
        Test::Eq(_) | Test::Neq(_) | Test::Member(_) | Test::In(_) => {
            unreachable!("a plain forest has ordered tests only")
        }
    };
    if told.is_missing() {
        // Nothing compares with NaN: all go to `other`.
        return (always, false);
    }
    match test {
        Test::Leq(_) => (told, true),
        Test::Gt(_) => (told, false),
        // Less than the least is nothing, and at least the least is all.
        Test::Lt(_) => below(told).map_or((always, false), |most| (most, true)),
        _ => below(told).map_or((always, true), |most| (most, false)),
    }
}
