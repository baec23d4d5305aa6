//! How is any checked tree walked, one step at a time?

use super::leaves::Leaves;
use super::scalar::Scalar;
use super::{Forest, Node, Precision, Test};

/// All trees as they were told.
#[derive(Debug)]
pub(super) struct Generic<S> {
    nodes: Vec<Step<S>>,
    /// Where each tree begins, which is its root.
    roots: Vec<u32>,
}

#[derive(Debug)]
enum Step<S> {
    Branch { column: u32, test: Asked<S>, then: u32, other: u32, missing_then: bool },
    Leaf(u32),
}

/// A test in the precision of the input.
#[derive(Debug)]
enum Asked<S> {
    Leq(S),
    Lt(S),
    Gt(S),
    Geq(S),
    Eq(S),
    Neq(S),
    Member(Box<[S]>),
    In(Box<[u64]>),
}

impl<S: Scalar> Asked<S> {
    fn new(test: &Test) -> Asked<S> {
        match test {
            Test::Leq(value) => Asked::Leq(S::of(*value)),
            Test::Lt(value) => Asked::Lt(S::of(*value)),
            Test::Gt(value) => Asked::Gt(S::of(*value)),
            Test::Geq(value) => Asked::Geq(S::of(*value)),
            Test::Eq(value) => Asked::Eq(S::of(*value)),
            Test::Neq(value) => Asked::Neq(S::of(*value)),
            Test::Member(values) => Asked::Member(values.iter().map(|value| S::of(*value)).collect()),
            Test::In(words) => Asked::In(words.clone()),
        }
    }

    fn is_true(&self, value: S) -> bool {
        match self {
            Asked::Leq(than) => value <= *than,
            Asked::Lt(than) => value < *than,
            Asked::Gt(than) => value > *than,
            Asked::Geq(than) => value >= *than,
            Asked::Eq(to) => value == *to,
            Asked::Neq(to) => value != *to,
            Asked::Member(values) => values.contains(&value),
            Asked::In(words) => value
                .category()
                .is_some_and(|category| words.get(category / 64).is_some_and(|word| word >> (category % 64) & 1 == 1)),
        }
    }
}

/// A test as an ensemble of some precision asks it, of numbers that it would see.
#[derive(Debug)]
pub(crate) struct Question(Asked<f64>);

impl Question {
    pub(crate) fn new(test: &Test, precision: Precision) -> Question {
        let rounded = |value: &f64| match precision {
            Precision::F32 => f64::from(*value as f32),
            Precision::F64 => *value,
        };
        Question(match Asked::<f64>::new(test) {
            Asked::Leq(value) => Asked::Leq(rounded(&value)),
            Asked::Lt(value) => Asked::Lt(rounded(&value)),
            Asked::Gt(value) => Asked::Gt(rounded(&value)),
            Asked::Geq(value) => Asked::Geq(rounded(&value)),
            Asked::Eq(value) => Asked::Eq(rounded(&value)),
            Asked::Neq(value) => Asked::Neq(rounded(&value)),
            Asked::Member(values) => Asked::Member(values.iter().map(rounded).collect()),
            Asked::In(words) => Asked::In(words),
        })
    }

    pub(crate) fn is_true(&self, value: f64) -> bool {
        self.0.is_true(value)
    }
}

impl<S: Scalar> Generic<S> {
    /// The trees of a forest that was checked.
    pub(super) fn new(forest: &Forest) -> Generic<S> {
        let mut generic = Generic { nodes: Vec::new(), roots: Vec::with_capacity(forest.trees.len()) };
        let mut leaf = 0;
        for tree in &forest.trees {
            let root = generic.nodes.len() as u32;
            generic.roots.push(root);
            generic.nodes.extend(tree.nodes.iter().map(|node| match node {
                Node::Branch { column, test, then, other, missing_then } => Step::Branch {
                    column: *column,
                    test: Asked::new(test),
                    then: root + then,
                    other: root + other,
                    missing_then: *missing_then,
                },
                Node::Leaf { .. } => {
                    leaf += 1;
                    Step::Leaf(leaf - 1)
                }
            }));
        }
        generic
    }

    /// The leaf of each tree that a row ends in.
    pub(super) fn leaves_of(&self, row: &[S]) -> impl Iterator<Item = u32> {
        self.roots.iter().map(|root| {
            let mut at = *root;
            loop {
                match &self.nodes[at as usize] {
                    Step::Leaf(leaf) => return *leaf,
                    Step::Branch { column, test, then, other, missing_then } => {
                        let value = row[*column as usize];
                        let is_true = test.is_true(value) || (*missing_then && value.is_missing());
                        at = if is_true { *then } else { *other };
                    }
                }
            }
        })
    }

    /// Adds what all trees say of rows to their scores.
    pub(super) fn score(&self, leaves: &Leaves<S>, rows: &[S], columns: usize, scores: &mut [S]) {
        let targets = leaves.targets();
        let mut given = leaves.given_of(1);
        for (row, scores) in rows.chunks_exact(columns).zip(scores.chunks_exact_mut(targets)) {
            given.fill(false);
            for (tree, leaf) in self.leaves_of(row).enumerate() {
                leaves.take_all(tree, &[leaves.payload(leaf)], 1, scores, &mut given);
            }
        }
    }
}
