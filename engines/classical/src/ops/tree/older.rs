//! How do `TreeEnsembleClassifier` and `TreeEnsembleRegressor` write a forest down?
//!
//! As parallel lists: a node is a number within a tree, a leaf's weights are named by both. Numbers need not be in order.

use std::collections::HashMap;
use std::ops::Range;

use tiltyard_runtime::engine::EngineError;

use super::Model;
use crate::node::Node;
use crate::ops::scores::Transform;
use crate::trees::{Aggregate, Forest, Node as TreeNode, Test, Tree, Weights};
use crate::value::{Slice, Type};
use crate::wire::{Attribute, Lengths};

/// Numbers in double precision: of the list, or of the tensor `<name>_as_tensor`, of which one may be there.
fn values(node: &Node<'_>, name: &str) -> Result<Vec<f64>, EngineError> {
    let listed = node.attribute(name).filter(|attribute| attribute.lengths.floats > 0);
    let Some(tensor) = node.tensor(&format!("{name}_as_tensor"))? else {
        let mut values = Vec::with_capacity(listed.map_or(0, |attribute| attribute.lengths.floats));
        values.extend(listed.into_iter().flat_map(Attribute::each_float).map(f64::from));
        return Ok(values);
    };
    if listed.is_some() {
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

/// How often rows came by each node of each tree when it was trained, as far as the file says so.
pub(super) fn covers(node: &Node<'_>) -> Result<Option<Vec<Vec<f64>>>, EngineError> {
    let rates = values(node, "nodes_hitrates")?;
    if rates.is_empty() || rates.len() != lengths_of(node, "nodes_treeids").ints {
        return Ok(None);
    }
    let (mut trees, mut last): (Vec<Vec<f64>>, _) = (Vec::new(), None);
    for (tree, rate) in ints(node, "nodes_treeids").zip(rates) {
        if last.replace(tree) != Some(tree) {
            trees.push(Vec::new());
        }
        trees.last_mut().into_iter().for_each(|rates| rates.push(rate));
    }
    Ok(Some(trees))
}

/// Nodes of one tree, which lie together.
struct Run {
    /// The tree's number.
    tree: i64,
    range: Range<usize>,
    /// Where each number is, counted from the first; `None` where numbers are places.
    places: Option<HashMap<i64, usize>>,
}

impl Run {
    fn new(node: &Node<'_>, tree: i64, ids: &[i64], start: usize) -> Result<Run, EngineError> {
        let range = start..start + ids.len();
        if ids.iter().zip(0i64..).all(|(id, place)| *id == place) {
            return Ok(Run { tree, range, places: None });
        }
        let mut places = HashMap::with_capacity(ids.len());
        for (place, id) in ids.iter().enumerate() {
            if places.insert(*id, place).is_some() {
                return Err(node.bad(format_args!("node {id} of a tree is there twice")));
            }
        }
        Ok(Run { tree, range, places: Some(places) })
    }

    fn place(&self, id: i64) -> Option<usize> {
        match &self.places {
            Some(places) => places.get(&id).copied(),
            None => usize::try_from(id).ok().filter(|&place| place < self.range.len()),
        }
    }
}

/// A list of integers as the file has it; empty where it is not there.
fn ints<'a>(node: &Node<'a>, name: &str) -> impl Iterator<Item = i64> + use<'a> {
    node.attribute(name).into_iter().flat_map(Attribute::each_int)
}

/// A list of texts as the file has it; empty where it is not there.
fn texts<'a>(node: &Node<'a>, name: &str) -> impl Iterator<Item = &'a [u8]> + use<'a> {
    node.attribute(name).into_iter().flat_map(Attribute::each_string)
}

/// How many elements an attribute's lists have: none where it is not there.
fn lengths_of(node: &Node<'_>, name: &str) -> Lengths {
    node.attribute(name).map_or(Lengths::default(), |attribute| attribute.lengths)
}

/// Reads the forest, in the precision `kind`.
pub(super) fn read(node: &Node<'_>, kind: Type, prefix: &str) -> Result<Model, EngineError> {
    let targets = match prefix {
        "class" => node.labels("classlabels_int64s", "classlabels_strings")?.len(),
        _ => usize::try_from(node.int("n_targets", 0)).unwrap_or(0),
    };
    let own_values = values(node, "nodes_values")?;
    let lengths = ["treeids", "nodeids", "featureids", "truenodeids", "falsenodeids"]
        .map(|list| lengths_of(node, &format!("nodes_{list}")).ints);
    let others = [lengths_of(node, "nodes_modes").strings, own_values.len()];
    let count = lengths[0];
    if count == 0 || targets == 0 || lengths.iter().chain(&others).any(|&length| length != count) {
        return Err(node.bad(format_args!(
            "{count} nodes for {targets} scores, with lists of {lengths:?} and {others:?} elements"
        )));
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
    let runs = runs(node)?;
    let (mut trees, columns) = trees(node, &runs, &own_values)?;
    add_weights(node, prefix, &runs, &mut trees, targets)?;
    if targets == 1 {
        give_own_values(&own_values, &runs, &mut trees);
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
fn runs(node: &Node<'_>) -> Result<Vec<Run>, EngineError> {
    let mut runs: Vec<Run> = Vec::new();
    // The nodes of the tree that is looked at.
    let (mut tree, mut ids, mut start) = (0, Vec::new(), 0);
    for (of, id) in ints(node, "nodes_treeids").zip(ints(node, "nodes_nodeids")) {
        if of != tree && !ids.is_empty() {
            runs.push(Run::new(node, tree, &ids, start)?);
            start += ids.len();
            ids.clear();
        }
        tree = of;
        ids.push(id);
    }
    runs.push(Run::new(node, tree, &ids, start)?);
    Ok(runs)
}

/// The trees, without weights, and how many columns they look at. The lists have been found to be of one length.
fn trees(node: &Node<'_>, runs: &[Run], own_values: &[f64]) -> Result<(Vec<Tree>, usize), EngineError> {
    let mut modes = texts(node, "nodes_modes");
    let list = |name: &str| ints(node, &format!("nodes_{name}"));
    let (mut looked_at, mut thens, mut others) = (list("featureids"), list("truenodeids"), list("falsenodeids"));
    // This one may be shorter.
    let mut missing = list("missing_value_tracks_true");
    let mut trees = Vec::with_capacity(runs.len());
    let mut columns = 1;
    for run in runs {
        let mut nodes = Vec::with_capacity(run.range.len());
        for (place, &value) in own_values[run.range.clone()].iter().enumerate() {
            let (Some(mode), Some(column), Some(then), Some(other)) =
                (modes.next(), looked_at.next(), thens.next(), others.next())
            else {
                return Err(node.bad("lists of nodes that end too early"));
            };
            let missing_then = missing.next() == Some(1);
            let Some(test) = test(node, mode, value)? else {
                nodes.push(TreeNode::Leaf { weights: Weights::new() });
                continue;
            };
            let child = |id: i64| -> Result<u32, EngineError> {
                let found = run.place(id).and_then(|place| u32::try_from(place).ok());
                found.ok_or_else(|| {
                    let tree = run.tree;
                    node.bad(format_args!("the node at {place} of tree {tree} leads to node {id}, which is not there"))
                })
            };
            let column =
                u32::try_from(column).map_err(|_| node.bad(format_args!("a node looks at column {column}")))?;
            columns = columns.max(column as usize + 1);
            nodes.push(TreeNode::Branch { column, test, then: child(then)?, other: child(other)?, missing_then });
        }
        trees.push(Tree { nodes });
    }
    Ok((trees, columns))
}

/// What a branch asks; `None` of a leaf.
fn test(node: &Node<'_>, mode: &[u8], value: f64) -> Result<Option<Test>, EngineError> {
    Ok(Some(match mode {
        b"LEAF" => return Ok(None),
        b"BRANCH_LEQ" => Test::Leq(value),
        b"BRANCH_LT" => Test::Lt(value),
        b"BRANCH_GTE" => Test::Geq(value),
        b"BRANCH_GT" => Test::Gt(value),
        b"BRANCH_EQ" => Test::Eq(value),
        b"BRANCH_NEQ" => Test::Neq(value),
        other => return Err(node.bad(format_args!("mode {:?} does not exist", String::from_utf8_lossy(other)))),
    }))
}

/// Gives leaves their weights, in the order in which they are listed. Weights of branches are left out: old converters
/// wrote some.
fn add_weights(
    node: &Node<'_>,
    prefix: &str,
    runs: &[Run],
    trees: &mut [Tree],
    targets: usize,
) -> Result<(), EngineError> {
    let list = |name: &str| ints(node, &format!("{prefix}_{name}"));
    let weights = weights(node, prefix)?;
    let length = |name: &str| lengths_of(node, &format!("{prefix}_{name}")).ints;
    let lengths = [length("treeids"), length("nodeids"), length("ids"), weights.len()];
    if lengths.iter().any(|&length| length != lengths[0]) {
        return Err(node.bad(format_args!("weights of leaves have lists of {lengths:?} elements")));
    }
    let mut by_id: HashMap<i64, usize> = HashMap::with_capacity(runs.len());
    for (tree, run) in runs.iter().enumerate() {
        if by_id.insert(run.tree, tree).is_some() {
            return Err(node.unsupported(format_args!("nodes of tree {} that do not lie together", run.tree)));
        }
    }
    let mut last: Option<(i64, usize)> = None;
    for (((tree_id, id), target), weight) in list("treeids").zip(list("nodeids")).zip(list("ids")).zip(weights) {
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
fn give_own_values(own_values: &[f64], runs: &[Run], trees: &mut [Tree]) {
    for (run, tree) in runs.iter().zip(trees) {
        for (at, node) in run.range.clone().zip(&mut tree.nodes) {
            if let TreeNode::Leaf { weights } = node
                && weights.is_empty()
            {
                weights.push((0, own_values[at]));
            }
        }
    }
}
