//! How do `TreeEnsembleClassifier` and `TreeEnsembleRegressor` write a forest down?
//!
//! As parallel lists: a node is a number within a tree, a leaf's weights are named by both. Numbers need not be in order.

use std::collections::HashMap;
use std::ops::Range;

use tiltyard_runtime::engine::EngineError;

use super::Model;
use crate::node::Node;
use crate::ops::scores::Transform;
use crate::trees::{Aggregate, Forest, Node as TreeNode, Test, Tree};
use crate::value::{Slice, Type};

/// Numbers in double precision: of the list, or of the tensor `<name>_as_tensor`, of which one may be there.
fn values(node: &Node<'_>, name: &str) -> Result<Vec<f64>, EngineError> {
    let listed = node.floats(name);
    let Some(tensor) = node.tensor(&format!("{name}_as_tensor"))? else {
        return Ok(listed.iter().map(|&value| f64::from(value)).collect());
    };
    if !listed.is_empty() {
        return Err(node.bad(format_args!("both {name} and {name}_as_tensor are there")));
    }
    match tensor.view().data {
        Slice::F64(values) => Ok(values.to_vec()),
        Slice::F32(values) => Ok(values.iter().map(|&value| f64::from(value)).collect()),
        _ => Err(node.bad(format_args!("{name}_as_tensor is not of floats"))),
    }
}

/// The weights of leaves, as they are listed. `prefix` is `class` or `target`.
pub(super) fn weights(node: &Node<'_>, prefix: &str) -> Result<Vec<f64>, EngineError> {
    values(node, &format!("{prefix}_weights"))
}

/// Nodes of one tree, which lie together.
struct Run {
    range: Range<usize>,
    /// Where each number is, counted from the first; `None` where numbers are places.
    places: Option<HashMap<i64, usize>>,
}

impl Run {
    fn new(node: &Node<'_>, ids: &[i64], range: Range<usize>) -> Result<Run, EngineError> {
        let own = &ids[range.clone()];
        if own.iter().zip(0i64..).all(|(id, place)| *id == place) {
            return Ok(Run { range, places: None });
        }
        let mut places = HashMap::with_capacity(own.len());
        for (place, id) in own.iter().enumerate() {
            if places.insert(*id, place).is_some() {
                return Err(node.bad(format_args!("node {id} of a tree is there twice")));
            }
        }
        Ok(Run { range, places: Some(places) })
    }

    fn place(&self, id: i64) -> Option<usize> {
        match &self.places {
            Some(places) => places.get(&id).copied(),
            None => usize::try_from(id).ok().filter(|&place| place < self.range.len()),
        }
    }
}

/// Reads the forest, in the precision `kind`.
pub(super) fn read(node: &Node<'_>, kind: Type, prefix: &str) -> Result<Model, EngineError> {
    let targets = match prefix {
        "class" => node.labels("classlabels_int64s", "classlabels_strings")?.len(),
        _ => usize::try_from(node.int("n_targets", 0)).unwrap_or(0),
    };
    let tree_ids = node.ints("nodes_treeids");
    let count = tree_ids.len();
    let nodes = Lists {
        ids: node.ints("nodes_nodeids"),
        columns: node.ints("nodes_featureids"),
        modes: node.texts("nodes_modes"),
        values: values(node, "nodes_values")?,
        then: node.ints("nodes_truenodeids"),
        other: node.ints("nodes_falsenodeids"),
        missing: node.ints("nodes_missing_value_tracks_true"),
    };
    let lengths = [
        nodes.ids.len(),
        nodes.columns.len(),
        nodes.modes.len(),
        nodes.values.len(),
        nodes.then.len(),
        nodes.other.len(),
    ];
    if count == 0 || targets == 0 || lengths.iter().any(|&length| length != count) {
        return Err(node.bad(format_args!("{count} nodes for {targets} scores, with lists of {lengths:?} elements")));
    }
    let aggregate = match &node.text("aggregate_function", "SUM")[..] {
        b"SUM" => Aggregate::Sum,
        b"AVERAGE" => Aggregate::Average,
        b"MIN" => Aggregate::Min,
        b"MAX" => Aggregate::Max,
        other => {
            return Err(
                node.bad(format_args!("aggregate_function {:?} does not exist", String::from_utf8_lossy(other)))
            );
        }
    };
    let runs = runs(node, tree_ids, nodes.ids)?;
    let mut trees = Vec::with_capacity(runs.len());
    let mut columns = 1;
    for run in &runs {
        trees.push(nodes.tree(node, run, &mut columns)?);
    }
    add_weights(node, prefix, tree_ids, &runs, &mut trees, targets)?;
    if targets == 1 {
        give_own_values(&nodes, &runs, &mut trees);
    }
    let base = values(node, "base_values")?;
    if kind == Type::F32 && node.has_attribute("nodes_values_as_tensor") && !is_single(node)? {
        return Err(node.unsupported("thresholds in double precision for an input that is not"));
    }
    Ok(Model { forest: Forest { columns, targets, trees, base }, aggregate, transform: Transform::of(node)? })
}

fn is_single(node: &Node<'_>) -> Result<bool, EngineError> {
    Ok(node.tensor("nodes_values_as_tensor")?.is_none_or(|tensor| tensor.kind() == Type::F32))
}

/// Which nodes are of which tree.
fn runs(node: &Node<'_>, tree_ids: &[i64], ids: &[i64]) -> Result<Vec<Run>, EngineError> {
    let mut runs = Vec::new();
    let mut start = 0;
    for run in tree_ids.chunk_by(|left, right| left == right) {
        runs.push(Run::new(node, ids, start..start + run.len())?);
        start += run.len();
    }
    Ok(runs)
}

/// The lists of nodes, each as long as there are nodes but for the last.
struct Lists<'a> {
    ids: &'a [i64],
    columns: &'a [i64],
    modes: &'a [bytes::Bytes],
    values: Vec<f64>,
    then: &'a [i64],
    other: &'a [i64],
    missing: &'a [i64],
}

impl Lists<'_> {
    fn tree(&self, node: &Node<'_>, run: &Run, columns: &mut usize) -> Result<Tree, EngineError> {
        let mut nodes = Vec::with_capacity(run.range.len());
        for at in run.range.clone() {
            let value = self.values[at];
            let test = match &self.modes[at][..] {
                b"LEAF" => {
                    nodes.push(TreeNode::Leaf { weights: Vec::new() });
                    continue;
                }
                b"BRANCH_LEQ" => Test::Leq(value),
                b"BRANCH_LT" => Test::Lt(value),
                b"BRANCH_GTE" => Test::Geq(value),
                b"BRANCH_GT" => Test::Gt(value),
                b"BRANCH_EQ" => Test::Eq(value),
                b"BRANCH_NEQ" => Test::Neq(value),
                other => return Err(node.bad(format_args!("mode {:?} does not exist", String::from_utf8_lossy(other)))),
            };
            let child = |id: i64| -> Result<u32, EngineError> {
                let place = run.place(id).and_then(|place| u32::try_from(place).ok());
                place.ok_or_else(|| {
                    node.bad(format_args!("node {} leads to node {id}, which its tree does not have", self.ids[at]))
                })
            };
            let column = u32::try_from(self.columns[at]).ok();
            let column = column.ok_or_else(|| node.bad(format_args!("a node looks at column {}", self.columns[at])))?;
            *columns = (*columns).max(column as usize + 1);
            let missing_then = self.missing.get(at).is_some_and(|&tracks| tracks == 1);
            nodes.push(TreeNode::Branch {
                column,
                test,
                then: child(self.then[at])?,
                other: child(self.other[at])?,
                missing_then,
            });
        }
        Ok(Tree { nodes })
    }
}

/// Gives leaves their weights, in the order in which they are listed. Weights of branches are left out: old converters
/// wrote some.
fn add_weights(
    node: &Node<'_>,
    prefix: &str,
    tree_ids: &[i64],
    runs: &[Run],
    trees: &mut [Tree],
    targets: usize,
) -> Result<(), EngineError> {
    let list = |name: &str| node.ints(&format!("{prefix}_{name}"));
    let (of_tree, of_node, of_target) = (list("treeids"), list("nodeids"), list("ids"));
    let weights = weights(node, prefix)?;
    let lengths = [of_tree.len(), of_node.len(), of_target.len(), weights.len()];
    if lengths.iter().any(|&length| length != lengths[0]) {
        return Err(node.bad(format_args!("weights of leaves have lists of {lengths:?} elements")));
    }
    let mut by_id: HashMap<i64, usize> = HashMap::with_capacity(runs.len());
    for (tree, run) in runs.iter().enumerate() {
        if by_id.insert(tree_ids[run.range.start], tree).is_some() {
            return Err(
                node.unsupported(format_args!("nodes of tree {} that do not lie together", tree_ids[run.range.start]))
            );
        }
    }
    let mut last: Option<(i64, usize)> = None;
    for (((&tree_id, &id), &target), &weight) in of_tree.iter().zip(of_node).zip(of_target).zip(&weights) {
        let tree = match last {
            Some((last_id, tree)) if last_id == tree_id => Some(tree),
            _ => by_id.get(&tree_id).copied(),
        };
        let place = tree.and_then(|tree| runs[tree].place(id));
        let (Some(tree), Some(place)) = (tree, place) else {
            return Err(node.bad(format_args!("a weight is of node {id} of tree {tree_id}, which is not there")));
        };
        last = Some((tree_id, tree));
        let target = u32::try_from(target).ok().filter(|&target| (target as usize) < targets);
        let target = target.ok_or_else(|| node.bad(format_args!("a weight is of none of the {targets} scores")))?;
        if let TreeNode::Leaf { weights } = &mut trees[tree].nodes[place] {
            weights.push((target, weight));
        }
    }
    Ok(())
}

/// Where there is one score, a leaf without a weight gives the value that its node has, as in ONNX Runtime.
fn give_own_values(nodes: &Lists<'_>, runs: &[Run], trees: &mut [Tree]) {
    for (run, tree) in runs.iter().zip(trees) {
        for (at, node) in run.range.clone().zip(&mut tree.nodes) {
            if let TreeNode::Leaf { weights } = node
                && weights.is_empty()
            {
                weights.push((0, nodes.values[at]));
            }
        }
    }
}
