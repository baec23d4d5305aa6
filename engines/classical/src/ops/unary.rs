//! What becomes of each element by itself, or of the elements along an axis?

use tiltyard_runtime::engine::EngineError;

use super::scores::{quick_logistic, softmax as softmax_row};
use crate::node::{Built, Node, axis_of, bad_shape};
use crate::value::{Item, Type};

fn each<T: Item + Copy>(function: fn(T) -> T) -> Result<Built, EngineError> {
    Built::new(&[T::TYPE], move |inputs, outputs| {
        let out = outputs[0].start::<T>(inputs[0].shape())?;
        out.extend(inputs[0].get::<T>()?.iter().map(|&x| function(x)));
        Ok(())
    })
}

/// An operator on each element.
pub(super) fn unary(node: &Node<'_>) -> Result<Built, EngineError> {
    let kind = node.one_of(&[Type::F32, Type::F64, Type::I64, Type::I32])?;
    macro_rules! float {
        ($single:expr, $double:expr) => {
            match kind {
                Type::F32 => each::<f32>($single),
                Type::F64 => each::<f64>($double),
                _ => Err(node.unsupported(kind.dtype())),
            }
        };
    }
    macro_rules! number {
        ($single:expr, $double:expr, $whole:expr, $short:expr) => {
            match kind {
                Type::F32 => each::<f32>($single),
                Type::F64 => each::<f64>($double),
                Type::I64 => each::<i64>($whole),
                _ => each::<i32>($short),
            }
        };
    }
    match node.wire.op_type.as_str() {
        "Abs" => number!(f32::abs, f64::abs, i64::wrapping_abs, i32::wrapping_abs),
        "Neg" => number!(|x| -x, |x| -x, i64::wrapping_neg, i32::wrapping_neg),
        "Sign" => number!(
            |x| if x > 0.0 {
                1.0
            } else if x < 0.0 {
                -1.0
            } else {
                x
            },
            |x| if x > 0.0 {
                1.0
            } else if x < 0.0 {
                -1.0
            } else {
                x
            },
            i64::signum,
            i32::signum
        ),
        "Floor" => float!(f32::floor, f64::floor),
        "Ceil" => float!(f32::ceil, f64::ceil),
        "Round" => float!(f32::round_ties_even, f64::round_ties_even),
        "Sqrt" => float!(f32::sqrt, f64::sqrt),
        "Exp" => float!(f32::exp, f64::exp),
        "Log" => float!(f32::ln, f64::ln),
        "Reciprocal" => float!(|x| 1.0 / x, |x| 1.0 / x),
        "Sigmoid" => {
            float!(quick_logistic, |x| if x < 0.0 { x.exp() / (1.0 + x.exp()) } else { 1.0 / (1.0 + (-x).exp()) })
        }
        "Tanh" => float!(f32::tanh, f64::tanh),
        "Relu" => {
            number!(|x| if x < 0.0 { 0.0 } else { x }, |x| if x < 0.0 { 0.0 } else { x }, |x| x.max(0), |x| x.max(0))
        }
        "Erf" => float!(libm::erff, libm::erf),
        "Sin" => float!(f32::sin, f64::sin),
        _ => float!(f32::cos, f64::cos),
    }
}

/// `Softmax` and `LogSoftmax`, along one axis; before opset 13 over all axes from one on.
pub(super) fn softmax(node: &Node<'_>) -> Result<Built, EngineError> {
    let kind = node.one_of(&[Type::F32, Type::F64])?;
    let is_log = node.wire.op_type == "LogSoftmax";
    let over_all = node.opset < 13;
    let axis = node.int("axis", if over_all { 1 } else { -1 });
    match (kind, is_log) {
        (Type::F32, false) => along::<f32>(axis, over_all, softmax_row),
        (Type::F32, true) => along::<f32>(axis, over_all, |row| {
            let most = row.iter().fold(f32::NEG_INFINITY, |most, &x| if x > most { x } else { most });
            let log = row.iter().map(|x| (x - most).exp()).sum::<f32>().ln();
            row.iter_mut().for_each(|x| *x = *x - most - log);
        }),
        (_, is_log) => along::<f64>(axis, over_all, move |row| {
            let most = row.iter().fold(f64::NEG_INFINITY, |most, &x| if x > most { x } else { most });
            let sum = row.iter().map(|x| (x - most).exp()).sum::<f64>();
            row.iter_mut().for_each(|x| *x = if is_log { *x - most - sum.ln() } else { (*x - most).exp() / sum });
        }),
    }
}

/// `LpNormalization`: each line along an axis divided by its norm; a line of zeros stays.
pub(super) fn lp_normalization(node: &Node<'_>) -> Result<Built, EngineError> {
    let kind = node.one_of(&[Type::F32, Type::F64])?;
    let (axis, p) = (node.int("axis", -1), node.int("p", 2));
    if p != 1 && p != 2 {
        return Err(node.bad(format_args!("p is {p}, expected 1 or 2")));
    }
    macro_rules! normalized {
        ($T:ty) => {
            along::<$T>(axis, false, move |line| {
                let norm = match p {
                    1 => line.iter().map(|x| x.abs()).sum::<$T>(),
                    _ => line.iter().map(|x| x * x).sum::<$T>().sqrt(),
                };
                line.iter_mut().for_each(|x| *x = if norm == 0.0 { 0.0 } else { *x / norm });
            })
        };
    }
    if kind == Type::F32 { normalized!(f32) } else { normalized!(f64) }
}

/// Applies a function to each line along an axis, or to each block of all axes from one on.
fn along<T: Item + Copy>(
    axis: i64,
    over_all: bool,
    function: impl Fn(&mut [T]) + Send + Sync + 'static,
) -> Result<Built, EngineError> {
    Built::new(&[T::TYPE], move |inputs, outputs| {
        let dims = inputs[0].dims;
        let axis = axis_of(axis, dims.len()).ok_or_else(|| bad_shape(format_args!("there is no axis {axis}")))?;
        let out = outputs[0].start::<T>(inputs[0].shape())?;
        out.extend_from_slice(inputs[0].get::<T>()?);
        let (length, inner): (usize, usize) = match over_all {
            true => (dims[axis..].iter().product(), 1),
            false => (dims[axis], dims[axis + 1..].iter().product()),
        };
        if out.is_empty() {
            return Ok(());
        }
        if inner == 1 {
            out.chunks_exact_mut(length).for_each(&function);
            return Ok(());
        }
        let mut line = Vec::with_capacity(length);
        for block in out.chunks_exact_mut(length * inner) {
            for at in 0..inner {
                line.clear();
                line.extend(block.iter().skip(at).step_by(inner).copied());
                function(&mut line);
                block.iter_mut().skip(at).step_by(inner).zip(&line).for_each(|(out, &x)| *out = x);
            }
        }
        Ok(())
    })
}
