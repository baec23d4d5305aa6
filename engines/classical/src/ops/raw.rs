//! What does an operator that scores compute before it transforms anything?
//!
//! A sum over trees or over columns: what explanations take apart.

use tiltyard_runtime::engine::EngineError;

use super::linear;
use super::scores::Transform;
use super::tree::raw as tree;
use crate::node::Node;
use crate::trees::{Forest, Precision};

/// A sum that can be taken apart.
pub(crate) struct Raw {
    /// What the scores are, such as `log-odds`.
    pub(crate) space: &'static str,
    /// In the order of the classes or targets.
    pub(crate) outputs: Vec<Output>,
    pub(crate) sum: Sum,
}

/// One score of a row.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Output {
    /// The class, or a number from 0.
    pub(crate) label: String,
    /// Which target of the forest, or which row of the coefficients.
    pub(crate) target: usize,
    /// What is added to the sum.
    pub(crate) base: f64,
}

pub(crate) enum Sum {
    Trees {
        forest: Forest,
        /// How often rows came by each node of each tree, as far as the file says so; it may say what is not so.
        covers: Option<Vec<Vec<f64>>>,
        precision: Precision,
    },
    /// targets × columns.
    Columns { coefficients: Vec<f64>, targets: usize },
}

/// Outputs without names.
pub(crate) fn numbered(targets: usize, base: &[f64]) -> Vec<Output> {
    let output =
        |target: usize| Output { label: target.to_string(), target, base: base.get(target).copied().unwrap_or(0.0) };
    (0..targets).map(output).collect()
}

/// What scores are before a transform; `plain` where there is none.
pub(super) fn space_of(transform: Transform, plain: &'static str) -> &'static str {
    match transform {
        Transform::None => plain,
        Transform::Logistic | Transform::Softmax | Transform::SoftmaxZero => "log-odds",
        Transform::Probit => "probability",
    }
}

/// Whether an operator gives scores that a model was trained for.
pub(crate) fn scores(domain: &str, operator: &str) -> bool {
    domain == "ai.onnx.ml"
        && matches!(
            operator,
            "TreeEnsembleClassifier"
                | "TreeEnsembleRegressor"
                | "TreeEnsemble"
                | "LinearClassifier"
                | "LinearRegressor"
                | "SVMClassifier"
                | "SVMRegressor"
        )
}

/// The sum behind an operator that [`scores`]. Fails where it is no sum.
pub(crate) fn read(node: &Node<'_>) -> Result<Raw, EngineError> {
    match node.wire.op_type.as_str() {
        "TreeEnsembleClassifier" => tree::classifier(node),
        "TreeEnsembleRegressor" | "TreeEnsemble" => tree::regressor(node),
        "LinearClassifier" | "LinearRegressor" => linear::raw(node),
        other => Err(EngineError::Unsupported(format!(
            "{other} is not explained: its score is no sum over columns or trees"
        ))),
    }
}
