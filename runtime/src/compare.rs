//! Are two tensors the same answer?

use half::{bf16, f16};
use tiltyard_types::{DataType, Element, Tensor};

/// How far numbers may be apart: `|a − b| ≤ absolute + relative · |expected|`. Integers, booleans and strings must
/// be equal; NaN equals NaN.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// In the values' own unit.
    pub absolute: f64,
    /// As a fraction of the expected value.
    pub relative: f64,
}

impl Default for Tolerance {
    /// Wide enough for another order of summation in single precision, narrow enough to find a wrong weight.
    fn default() -> Tolerance {
        Tolerance { absolute: 1e-5, relative: 1e-3 }
    }
}

impl Tolerance {
    /// At least as wide as what `dtype` can tell apart after some hundred operations.
    pub fn widened_for(self, dtype: DataType) -> Tolerance {
        let floor = match dtype {
            DataType::Fp16 => 1e-2,
            DataType::Bf16 => 5e-2,
            _ => return self,
        };
        Tolerance { absolute: self.absolute.max(floor), relative: self.relative.max(floor) }
    }
}

/// Compares data type, shape and every element. The error says where the first difference is.
pub fn compare(actual: &Tensor, expected: &Tensor, tolerance: Tolerance) -> Result<(), String> {
    if actual.dtype() != expected.dtype() {
        return Err(format!("datatype is {}, expected {}", actual.dtype(), expected.dtype()));
    }
    if actual.shape() != expected.shape() {
        return Err(format!("shape is {}, expected {}", actual.shape(), expected.shape()));
    }
    let tolerance = tolerance.widened_for(actual.dtype());
    match actual.dtype() {
        DataType::Fp32 => close::<f32>(actual, expected, tolerance, f64::from),
        DataType::Fp64 => close::<f64>(actual, expected, tolerance, |value| value),
        DataType::Fp16 => close::<f16>(actual, expected, tolerance, f16::to_f64),
        DataType::Bf16 => close::<bf16>(actual, expected, tolerance, bf16::to_f64),
        DataType::Bytes => {
            let (actual, expected) = (actual.as_strings().unwrap_or(&[]), expected.as_strings().unwrap_or(&[]));
            match actual.iter().zip(expected).position(|(a, b)| a != b) {
                Some(at) => Err(format!("element {at} is {:?}, expected {:?}", actual[at], expected[at])),
                None => Ok(()),
            }
        }
        dtype => {
            let width = dtype.width().unwrap_or(1);
            let (actual, expected) = (actual.bytes(), expected.bytes());
            match (actual, expected) {
                (Some(a), Some(b)) => match a.chunks(width).zip(b.chunks(width)).position(|(a, b)| a != b) {
                    Some(at) => Err(format!(
                        "element {at} is {}, expected {}",
                        integer(&a[at * width..][..width], dtype),
                        integer(&b[at * width..][..width], dtype)
                    )),
                    None => Ok(()),
                },
                _ => Err("the data is of another kind".into()),
            }
        }
    }
}

fn close<T: Element>(
    actual: &Tensor,
    expected: &Tensor,
    tolerance: Tolerance,
    wide: fn(T) -> f64,
) -> Result<(), String> {
    let (actual, expected) = (actual.to_vec::<T>().unwrap_or_default(), expected.to_vec::<T>().unwrap_or_default());
    for (at, (&a, &b)) in actual.iter().zip(&expected).enumerate() {
        let (a, b) = (wide(a), wide(b));
        let same = a == b || (a.is_nan() && b.is_nan());
        // An infinity is close to nothing but itself, whatever the arithmetic below says.
        let close = b.is_finite() && (a - b).abs() <= tolerance.absolute + tolerance.relative * b.abs();
        if !same && !close {
            return Err(format!(
                "element {at} is {a}, expected {b} (± {} + {} of it)",
                tolerance.absolute, tolerance.relative
            ));
        }
    }
    Ok(())
}

/// A little-endian integer as a person reads it.
fn integer(bytes: &[u8], dtype: DataType) -> i128 {
    let signed = matches!(dtype, DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64);
    let negative = signed && bytes.last().is_some_and(|&top| top & 0x80 != 0);
    let fill = if negative { 0xff } else { 0 };
    i128::from_le_bytes(std::array::from_fn(|at| bytes.get(at).copied().unwrap_or(fill)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check<T: Element>(actual: &[T], expected: &[T], verdict: &str) {
        let tensor = |values: &[T]| Tensor::from_slice([values.len()], values).unwrap();
        let result = compare(&tensor(actual), &tensor(expected), Tolerance { absolute: 1e-6, relative: 1e-3 });
        assert_eq!(result.err().unwrap_or_default(), verdict);
    }

    #[test]
    fn verdicts() {
        check(&[1.0f32, f32::NAN, f32::INFINITY], &[1.0005, f32::NAN, f32::INFINITY], "");
        check(&[1.0f32, 2.0], &[1.0, 2.01], "element 1 is 2, expected 2.009999990463257 (± 0.000001 + 0.001 of it)");
        check(&[f32::NAN], &[1.0], "element 0 is NaN, expected 1 (± 0.000001 + 0.001 of it)");
        check(&[f32::INFINITY], &[f32::NEG_INFINITY], "element 0 is inf, expected -inf (± 0.000001 + 0.001 of it)");
        check(&[-2i16, 3], &[-2, -3], "element 1 is 3, expected -3");
        check(&[1u64], &[1, 2], "shape is [1], expected [2]");
    }
}
