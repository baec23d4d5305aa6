//! Why can tract not run a model, in words that help its owner?

use std::any::Any;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use tiltyard_runtime::engine::EngineError;
use tract_onnx::Onnx;
use tract_onnx::prelude::{TractError, TractResult};

/// What else to try.
const INSTEAD: &str = "ONNX Runtime can: `tiltyard engine install onnxruntime`";
const PERHAPS: &str = "ONNX Runtime may: `tiltyard engine install onnxruntime`";

/// How much of tract's own explanation is passed on: it may print whole weights.
const CAUSE_CHARS_MAX: usize = 400;

/// Contributed operators that tract has on purpose. It looks operators up without their domain, so that any other
/// would silently be run as its namesake. The block-quantised ones are left out: looking up a row in a table they
/// pack, tract does not check the index.
const CONTRIBUTED: [&str; 10] = [
    "BiasGelu",
    "FastGelu",
    "Gelu",
    "GroupQueryAttention",
    "MultiHeadAttention",
    "QuickGelu",
    "RotaryEmbedding",
    "SimplifiedLayerNormalization",
    "SkipLayerNormalization",
    "SkipSimplifiedLayerNormalization",
];

/// The first operator that must not be given to tract because only its name is known there.
pub(crate) fn foreign(operators: &BTreeSet<String>) -> Option<EngineError> {
    let foreign = operators.iter().find(|operator| match operator.strip_prefix("com.microsoft.") {
        Some(name) => !CONTRIBUTED.contains(&name),
        None => operator.contains('.') && !operator.starts_with("ai.onnx.ml."),
    })?;
    let instead = if foreign.starts_with("com.microsoft.") { INSTEAD } else { "it is not an ONNX operator" };
    Some(EngineError::Unsupported(format!("tract cannot run operator {foreign}; {instead}")))
}

/// The operators that tract does not know. A graph may use one on a dead branch and still run.
pub(crate) fn unknown(onnx: &Onnx, operators: &BTreeSet<String>) -> Vec<String> {
    operators
        .iter()
        .filter(|operator| {
            let name = operator.rsplit_once('.').map_or(operator.as_str(), |(_, name)| name);
            !onnx.op_register.0.contains_key(name)
        })
        .cloned()
        .collect()
}

/// tract's refusal of a model, naming the operators it does not know or else its own explanation.
pub(crate) fn refusal(unknown: &[String], error: &TractError) -> EngineError {
    EngineError::Unsupported(match unknown {
        [] => format!("tract cannot run this model ({}); {PERHAPS}", cause(error)),
        [operator] => format!("tract cannot run operator {operator}; {INSTEAD}"),
        operators => format!("tract cannot run operators {}; {INSTEAD}", operators.join(", ")),
    })
}

/// The outermost and innermost of tract's explanations: which node, and what is wrong with it.
pub(crate) fn cause(error: &TractError) -> String {
    let (outer, inner) = (error.to_string(), error.root_cause().to_string());
    let whole = if outer == inner { outer } else { format!("{}: {inner}", clipped(&outer)) };
    clipped(&whole)
}

fn clipped(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(CAUSE_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// Runs `work` on a model nobody vouches for: a panic in tract becomes an error.
pub(crate) fn contained<T>(work: impl FnOnce() -> TractResult<T>) -> TractResult<T> {
    // What `work` may leave half done is its own: it takes clones and gives back the result.
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|panic| Err(TractError::msg(format!("it panicked: {}", panic_message(&*panic)))))
}

/// The text of a panic.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
