//! How does `TreeEnsemble`, of opset 5, write a forest down?
//!
//! Branches and leaves have lists of their own; children are places in one or the other. Trees are reached from their roots.

use std::collections::HashMap;

use smallvec::smallvec;
use tiltyard_runtime::engine::EngineError;

use super::Model;
use crate::node::Node;
use crate::ops::scores::Transform;
use crate::trees::{Aggregate, Forest, Node as TreeNode, Test, Tree};
use crate::value::{Slice, Type};
use crate::wire;

/// Floats of a tensor among the attributes, which must be of the input's type.
fn floats(node: &Node<'_>, name: &str, kind: Type) -> Result<Vec<f64>, EngineError> {
    let Some(tensor) = node.tensor(name)? else { return Ok(Vec::new()) };
    match (tensor.view().data, kind) {
        (Slice::F32(values), Type::F32) => Ok(values.iter().map(|&value| f64::from(value)).collect()),
        (Slice::F64(values), Type::F64) => Ok(values.to_vec()),
        _ => Err(node.bad(format_args!("{name} is not of its input's type, {}", kind.dtype()))),
    }
}

/// Bytes of a tensor among the attributes.
fn bytes(node: &Node<'_>, name: &str) -> Vec<u8> {
    let of_tensor = |tensor: &wire::Tensor| match tensor.raw_data.is_empty() {
        true => tensor.int32_data.iter().map(|&mode| u8::try_from(mode).unwrap_or(u8::MAX)).collect(),
        false => tensor.raw_data.to_vec(),
    };
    node.attribute(name).and_then(|attribute| attribute.t.as_ref()).map_or(Vec::new(), of_tensor)
}

/// The lists of branches and leaves.
struct Lists<'a> {
    tests: Vec<Test>,
    columns: &'a [i64],
    then: &'a [i64],
    then_is_leaf: &'a [i64],
    other: &'a [i64],
    other_is_leaf: &'a [i64],
    missing: &'a [i64],
    leaf_targets: &'a [i64],
    leaf_weights: Vec<f64>,
}

pub(super) fn read(node: &Node<'_>, kind: Type) -> Result<Model, EngineError> {
    let targets = usize::try_from(node.int("n_targets", 0)).unwrap_or(0);
    let roots = node.ints("tree_roots");
    let lists = Lists {
        tests: tests(node, kind)?,
        columns: node.ints("nodes_featureids"),
        then: node.ints("nodes_truenodeids"),
        then_is_leaf: node.ints("nodes_trueleafs"),
        other: node.ints("nodes_falsenodeids"),
        other_is_leaf: node.ints("nodes_falseleafs"),
        missing: node.ints("nodes_missing_value_tracks_true"),
        leaf_targets: node.ints("leaf_targetids"),
        leaf_weights: floats(node, "leaf_weights", kind)?,
    };
    let branches = lists.tests.len();
    let lengths =
        [lists.columns.len(), lists.then.len(), lists.then_is_leaf.len(), lists.other.len(), lists.other_is_leaf.len()];
    if targets == 0 || roots.is_empty() || lengths.iter().any(|&length| length != branches) {
        return Err(node.bad(format_args!("{branches} nodes for {targets} scores, with lists of {lengths:?} elements")));
    }
    if lists.leaf_targets.len() != lists.leaf_weights.len() {
        let (targets, weights) = (lists.leaf_targets.len(), lists.leaf_weights.len());
        return Err(node.bad(format_args!("{targets} targets and {weights} weights of leaves")));
    }
    let aggregate = match node.int("aggregate_function", 1) {
        0 => Aggregate::Average,
        1 => Aggregate::Sum,
        2 => Aggregate::Min,
        3 => Aggregate::Max,
        other => return Err(node.bad(format_args!("aggregate_function {other} does not exist"))),
    };
    let transform = match node.int("post_transform", 0) {
        0 => Transform::None,
        1 => Transform::Logistic,
        2 => Transform::Softmax,
        3 => Transform::SoftmaxZero,
        4 => Transform::Probit,
        other => return Err(node.bad(format_args!("post_transform {other} does not exist"))),
    };
    let columns = lists.columns.iter().copied().max().unwrap_or(0).max(0);
    let columns = usize::try_from(columns).map_or(usize::MAX, |column| column.saturating_add(1));
    // Trees that have all nodes to themselves have so many in all.
    let mut left = branches + lists.leaf_weights.len() + roots.len();
    let trees = roots.iter().map(|&root| lists.tree(node, root, targets, &mut left)).collect::<Result<_, _>>()?;
    Ok(Model { forest: Forest { columns, targets, trees, base: Vec::new() }, aggregate, transform })
}

fn tests(node: &Node<'_>, kind: Type) -> Result<Vec<Test>, EngineError> {
    let splits = floats(node, "nodes_splits", kind)?;
    let modes = bytes(node, "nodes_modes");
    if splits.len() != modes.len() {
        return Err(node.bad(format_args!("{} splits and {} modes", splits.len(), modes.len())));
    }
    let members = floats(node, "membership_values", kind)?;
    // One set after the other, each up to a NaN.
    let mut sets = members.split(|member| member.is_nan());
    let test = |(mode, split): (&u8, &f64)| {
        Ok(match mode {
            0 => Test::Leq(*split),
            1 => Test::Lt(*split),
            2 => Test::Geq(*split),
            3 => Test::Gt(*split),
            4 => Test::Eq(*split),
            5 => Test::Neq(*split),
            6 => Test::Member(sets.next().unwrap_or_default().to_vec()),
            other => return Err(node.bad(format_args!("mode {other} does not exist"))),
        })
    };
    modes.iter().zip(&splits).map(test).collect()
}

impl Lists<'_> {
    /// The tree at a root. `left` is how many nodes there may be in all.
    fn tree(&self, node: &Node<'_>, root: i64, targets: usize, left: &mut usize) -> Result<Tree, EngineError> {
        let place = |list: &str, id: i64, count: usize| {
            let place = usize::try_from(id).ok().filter(|&place| place < count);
            place.ok_or_else(|| node.bad(format_args!("{list} {id} is not among {count}")))
        };
        let at = place("root", root, self.tests.len())?;
        let is_leaf = self.then[at] == self.other[at] && self.then_is_leaf[at] != 0 && self.other_is_leaf[at] != 0;
        if is_leaf && self.then[at] != root {
            // ONNX Runtime takes the root's own number for the leaf's here, which is not what is written.
            return Err(node.unsupported("a tree of a single leaf with another number than its root"));
        }
        if is_leaf {
            place("leaf", root, self.leaf_weights.len())?;
        }
        // What is reached, as a place in one of both lists, and its place in the tree.
        let mut found: HashMap<(bool, usize), u32> = HashMap::new();
        let mut waiting = vec![(is_leaf, at)];
        found.insert((is_leaf, at), 0);
        let mut nodes: Vec<TreeNode> = Vec::new();
        let mut next = 0;
        while let Some(&(is_leaf, at)) = waiting.get(next) {
            next += 1;
            *left = left.checked_sub(1).ok_or_else(|| node.unsupported("trees that share many nodes"))?;
            if is_leaf {
                let target = u32::try_from(self.leaf_targets[at]).ok().filter(|&target| (target as usize) < targets);
                let target =
                    target.ok_or_else(|| node.bad(format_args!("a leaf is of none of the {targets} scores")))?;
                nodes.push(TreeNode::Leaf { weights: smallvec![(target, self.leaf_weights[at])] });
                continue;
            }
            let mut child = |id: i64, is_leaf: i64| -> Result<u32, EngineError> {
                let is_leaf = is_leaf != 0;
                let count = if is_leaf { self.leaf_weights.len() } else { self.tests.len() };
                let at = place(if is_leaf { "leaf" } else { "node" }, id, count)?;
                let fresh = u32::try_from(waiting.len()).map_err(|_| node.unsupported("so many nodes"))?;
                Ok(*found.entry((is_leaf, at)).or_insert_with(|| {
                    waiting.push((is_leaf, at));
                    fresh
                }))
            };
            let then = child(self.then[at], self.then_is_leaf[at])?;
            let other = child(self.other[at], self.other_is_leaf[at])?;
            let column = u32::try_from(self.columns[at]);
            let column = column.map_err(|_| node.bad(format_args!("a node looks at column {}", self.columns[at])))?;
            let missing_then = self.missing.get(at).is_some_and(|&tracks| tracks == 1);
            nodes.push(TreeNode::Branch { column, test: self.tests[at].clone(), then, other, missing_then });
        }
        Ok(Tree { nodes })
    }
}
