//! Which operators does this engine have, and in which room does each live?

mod arithmetic;
mod cast;
mod compare;
mod encode;
mod gather;
mod linear;
mod product;
pub(crate) mod raw;
mod reduce;
mod scale;
mod scores;
mod shape;
mod slice;
mod svm;
mod tree;
mod unary;

use std::collections::BTreeSet;

use tiltyard_runtime::engine::EngineError;

use crate::node::{Built, Labels, Node};

/// Makes a node's operator ready to run.
type Builder = fn(&Node<'_>) -> Result<Built, EngineError>;

/// The room of an operator; `None` for one that is not here.
fn find(operator: &str) -> Option<Builder> {
    let build: Builder = match operator {
        "ai.onnx.ml.TreeEnsembleClassifier" => tree::classifier,
        "ai.onnx.ml.TreeEnsembleRegressor" => tree::regressor,
        "ai.onnx.ml.TreeEnsemble" => tree::ensemble,
        "ai.onnx.ml.LinearClassifier" => linear::classifier,
        "ai.onnx.ml.LinearRegressor" => linear::regressor,
        "ai.onnx.ml.SVMClassifier" => svm::classifier,
        "ai.onnx.ml.SVMRegressor" => svm::regressor,
        "ai.onnx.ml.Scaler" => scale::scaler,
        "ai.onnx.ml.Normalizer" => scale::normalizer,
        "ai.onnx.ml.Imputer" => scale::imputer,
        "ai.onnx.ml.Binarizer" => scale::binarizer,
        "ai.onnx.ml.FeatureVectorizer" => scale::feature_vectorizer,
        "ai.onnx.ml.OneHotEncoder" => encode::one_hot,
        "ai.onnx.ml.LabelEncoder" => encode::label_encoder,
        "ai.onnx.ml.CategoryMapper" => encode::category_mapper,
        "ai.onnx.ml.ZipMap" => encode::zip_map,
        "ai.onnx.ml.ArrayFeatureExtractor" => gather::array_feature_extractor,
        "Gather" => gather::gather,
        "GatherElements" => gather::gather_elements,
        "Add" | "Sub" | "Mul" | "Div" | "Pow" => arithmetic::binary,
        "Max" | "Min" | "Sum" | "Mean" => arithmetic::variadic,
        "Clip" => arithmetic::clip,
        "Equal" | "Less" | "LessOrEqual" | "Greater" | "GreaterOrEqual" => compare::compare,
        "And" | "Or" | "Xor" => compare::logic,
        "Not" => compare::not,
        "Where" => compare::choose,
        "IsNaN" => compare::is_nan,
        "Abs" | "Neg" | "Sign" | "Floor" | "Ceil" | "Round" | "Sqrt" | "Exp" | "Log" | "Reciprocal" | "Sigmoid"
        | "Tanh" | "Relu" | "Erf" | "Sin" | "Cos" => unary::unary,
        "Softmax" | "LogSoftmax" => unary::softmax,
        "LpNormalization" => unary::lp_normalization,
        "Identity" | "Dropout" => shape::identity,
        "Constant" => shape::constant,
        "Reshape" => shape::reshape,
        "Flatten" => shape::flatten,
        "Squeeze" => shape::squeeze,
        "Unsqueeze" => shape::unsqueeze,
        "Shape" => shape::shape,
        "ConstantOfShape" => shape::constant_of_shape,
        "Expand" => shape::expand,
        "Tile" => shape::tile,
        "Transpose" => shape::transpose,
        "Concat" => slice::concat,
        "Split" => slice::split,
        "Slice" => slice::slice,
        "Cast" => cast::cast,
        "MatMul" => product::matmul,
        "Gemm" => product::gemm,
        "ReduceSum" | "ReduceMean" | "ReduceMax" | "ReduceMin" | "ReduceProd" | "ReduceSumSquare" | "ReduceL1"
        | "ReduceL2" | "ReduceLogSumExp" | "ReduceLogSum" => reduce::reduce,
        "ArgMax" | "ArgMin" => reduce::arg,
        "TopK" => reduce::top_k,
        "CumSum" => reduce::cumulative_sum,
        _ => return None,
    };
    Some(build)
}

/// Fails where a graph has operators that are not here, and names them; and where it has none of `ai.onnx.ml`, which are
/// what this engine is for.
pub(crate) fn check(operators: &BTreeSet<String>) -> Result<(), EngineError> {
    const NAMED_MAX: usize = 8;
    let unknown: Vec<&str> = operators.iter().map(String::as_str).filter(|operator| find(operator).is_none()).collect();
    if !unknown.is_empty() {
        let more = unknown.len().saturating_sub(NAMED_MAX);
        return Err(EngineError::Unsupported(format!(
            "the classical engine does not have {}{}",
            unknown.iter().take(NAMED_MAX).copied().collect::<Vec<_>>().join(", "),
            if more > 0 { format!(" and {more} more") } else { String::new() }
        )));
    }
    if !operators.iter().any(|operator| operator.starts_with("ai.onnx.ml.")) {
        return Err(EngineError::Unsupported(
            "the graph has no operator of ai.onnx.ml, which the classical engine is for".into(),
        ));
    }
    Ok(())
}

/// Makes a node's operator ready to run.
pub(crate) fn build(node: &Node<'_>) -> Result<Built, EngineError> {
    let build = find(&node.operator());
    build.ok_or_else(|| EngineError::Unsupported(format!("the classical engine does not have {}", node.operator())))?(
        node,
    )
}

/// The classes that a `ZipMap`'s scores are of, as text; `None` for other operators.
pub(crate) fn labels_of_map(node: &Node<'_>) -> Result<Option<Vec<String>>, EngineError> {
    if node.operator() != "ai.onnx.ml.ZipMap" {
        return Ok(None);
    }
    Ok(Some(match node.labels("classlabels_int64s", "classlabels_strings")? {
        Labels::Numbers(labels) => labels.iter().map(i64::to_string).collect(),
        Labels::Texts(labels) => labels.iter().map(|label| String::from_utf8_lossy(label).into_owned()).collect(),
    }))
}
