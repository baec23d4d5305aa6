//! Which sum do tree ensembles transform, and of which class or target is it?

use tiltyard_runtime::engine::EngineError;

use super::super::linear::NUMBERS;
use super::{Aggregate, Model, older, opset5};
use crate::node::{Labels, Node};
use crate::ops::raw::{Output, Raw, Sum, numbered, space_of};
use crate::ops::scores::Transform;
use crate::trees::{Forest, Node as TreeNode, Precision, Weights};
use crate::value::Type;

fn weights(forest: &Forest) -> impl Iterator<Item = (u32, f64)> {
    let of_node = |node: &TreeNode| match node {
        TreeNode::Leaf { weights } => weights.clone(),
        TreeNode::Branch { .. } => Weights::new(),
    };
    forest.trees.iter().flat_map(|tree| &tree.nodes).flat_map(of_node)
}

/// The raw scores of `TreeEnsembleRegressor` or of `TreeEnsemble`, of opset 5.
pub(in crate::ops) fn regressor(node: &Node<'_>) -> Result<Raw, EngineError> {
    let kind = node.one_of(&[Type::F32, Type::F64])?;
    let (Model { mut forest, aggregate, transform }, covers) = match node.wire.op_type.as_str() {
        "TreeEnsemble" => (opset5::read(node, kind)?, None),
        _ => (older::read(node, kind, "target")?, older::covers(node)?),
    };
    match aggregate {
        Aggregate::Sum => {}
        Aggregate::Average => {
            let trees = forest.trees.len() as f64;
            for node in forest.trees.iter_mut().flat_map(|tree| &mut tree.nodes) {
                if let TreeNode::Leaf { weights } = node {
                    weights.iter_mut().for_each(|(_, weight)| *weight /= trees);
                }
            }
        }
        Aggregate::Min | Aggregate::Max => {
            let told = "trees of which the least or greatest counts are not explained: parts are of sums";
            return Err(EngineError::Unsupported(told.into()));
        }
    }
    let base = std::mem::take(&mut forest.base);
    let outputs = numbered(forest.targets, &base);
    // Of a single score, there is no other transform.
    let transform = if forest.targets == 1 && transform != Transform::Probit { Transform::None } else { transform };
    let precision = precision_of(kind);
    Ok(Raw { space: space_of(transform, "value"), outputs, sum: Sum::Trees { forest, covers, precision } })
}

fn precision_of(kind: Type) -> Precision {
    // Integers are compared in single precision.
    if kind == Type::F64 { Precision::F64 } else { Precision::F32 }
}

/// The raw scores of `TreeEnsembleClassifier`. Where one score stands for two classes, it speaks for the second.
pub(in crate::ops) fn classifier(node: &Node<'_>) -> Result<Raw, EngineError> {
    let kind = node.one_of(&NUMBERS)?;
    let precision = precision_of(kind);
    let model = older::read(node, if kind == Type::F64 { Type::F64 } else { Type::F32 }, "class")?;
    let labels = match node.labels("classlabels_int64s", "classlabels_strings")? {
        Labels::Numbers(labels) => labels.iter().map(i64::to_string).collect(),
        Labels::Texts(labels) => {
            labels.iter().map(|label| String::from_utf8_lossy(label).into_owned()).collect::<Vec<_>>()
        }
    };
    let Model { mut forest, aggregate, transform } = model;
    if aggregate != Aggregate::Sum {
        return Err(node.bad("a classifier sums its trees"));
    }
    let base = std::mem::take(&mut forest.base);
    let given = |class: u32| weights(&forest).any(|(of, _)| of == class);
    let is_share = weights(&forest).all(|(_, weight)| (0.0..=1.0).contains(&weight));
    let outputs = match (labels.len(), &base[..]) {
        (2, [_, _]) => {
            let told = "base values for each of two classes are not explained: one of the scores is left out there";
            return Err(EngineError::Unsupported(told.into()));
        }
        (2, base) => match (given(0), given(1)) {
            (true, true) => {
                let own = |class: usize| if class == 0 { base.first().copied().unwrap_or(0.0) } else { 0.0 };
                let output = |class: usize| Output { label: labels[class].clone(), target: class, base: own(class) };
                vec![output(0), output(1)]
            }
            (false, true) => vec![Output { label: labels[1].clone(), target: 1, base: 0.0 }],
            (_, false) => {
                let base = base.first().copied().unwrap_or(0.0);
                vec![Output { label: labels[1].clone(), target: 0, base }]
            }
        },
        (_, base) => labels
            .iter()
            .enumerate()
            .map(|(target, label)| Output {
                label: label.clone(),
                target,
                base: base.get(target).copied().unwrap_or(0.0),
            })
            .collect(),
    };
    let plain = if is_share && base.is_empty() { "probability" } else { "raw" };
    let covers = older::covers(node)?;
    Ok(Raw { space: space_of(transform, plain), outputs, sum: Sum::Trees { forest, covers, precision } })
}
