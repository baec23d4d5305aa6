//! Which operators of tract make a number of what is not one?
//!
//! tract computes some with minima and maxima, which drop a NaN: a missing value would silently become a plausible
//! score. A request that could lose one is refused instead.

use std::collections::BTreeSet;

use half::f16;
use tiltyard_runtime::engine::EngineError;
use tiltyard_types::{DataType, Tensor};

/// Operators that lose a NaN, found by comparing each with ONNX Runtime, and the recurrent ones made of them.
const LOSERS: [&str; 11] =
    ["Celu", "Clip", "GRU", "HardSigmoid", "LSTM", "Max", "Min", "RNN", "Relu", "Sigmoid", "Tanh"];

/// Operators of graphs that expect missing values and put others in their place.
const IMPUTERS: [&str; 2] = ["IsNaN", "ai.onnx.ml.Imputer"];

/// The operator in which a request's NaN could be lost. `None` where the graph has none, or deals with NaN itself.
pub(crate) fn loser(operators: &BTreeSet<String>) -> Option<&'static str> {
    let imputes = IMPUTERS.iter().any(|operator| operators.contains(*operator));
    LOSERS.into_iter().find(|operator| !imputes && operators.contains(*operator))
}

/// Fails with [`EngineError::BadInput`] on a NaN that `loser` would lose.
pub(crate) fn check(loser: &str, name: &str, tensor: &Tensor) -> Result<(), EngineError> {
    match position(tensor) {
        None => Ok(()),
        Some(at) => Err(EngineError::BadInput(format!(
            "input {name:?}: element {at} is not a number, which tract loses in operator {loser}; \
             ONNX Runtime does not: `tiltyard engine install onnxruntime`"
        ))),
    }
}

/// Where the first NaN is.
fn position(tensor: &Tensor) -> Option<usize> {
    match tensor.dtype() {
        DataType::Fp16 => tensor.as_slice::<f16>()?.iter().position(|value| value.is_nan()),
        DataType::Fp32 => tensor.as_slice::<f32>()?.iter().position(|value| value.is_nan()),
        DataType::Fp64 => tensor.as_slice::<f64>()?.iter().position(|value| value.is_nan()),
        _ => None,
    }
}
