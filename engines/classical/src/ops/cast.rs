//! How does an element become one of another type?

use bytes::Bytes;
use tiltyard_runtime::engine::EngineError;

use crate::node::{Built, Node};
use crate::value::{Slice, Type};

/// A number without its fraction. What does not fit becomes the smallest there is, as processors have it that ONNX Runtime
/// runs on.
pub(super) fn whole(value: f64) -> i64 {
    // 2^63, the first that does not fit.
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    if (-LIMIT..LIMIT).contains(&value) { value as i64 } else { i64::MIN }
}

fn short(value: f64) -> i32 {
    if value > -2_147_483_649.0 && value < 2_147_483_648.0 { value as i32 } else { i32::MIN }
}

/// `Cast`.
pub(super) fn cast(node: &Node<'_>) -> Result<Built, EngineError> {
    let from = node.kind(0)?;
    let Some(to) = Type::of_wire(node.int("to", 0)) else {
        return Err(node.unsupported(format_args!("ONNX type {}", node.int("to", 0))));
    };
    if from == to {
        return Built::pass(to);
    }
    Built::new(&[to], move |inputs, outputs| {
        let (read, out, shape) = (inputs[0].data, &mut outputs[0], inputs[0].shape());
        macro_rules! each {
            ($type:ty, $values:expr, $convert:expr) => {{
                let written = out.start::<$type>(shape)?;
                written.extend($values.iter().map($convert));
                Ok(())
            }};
        }
        macro_rules! parsed {
            ($type:ty, $values:expr, $parse:expr) => {{
                let written = out.start::<$type>(shape)?;
                for text in $values {
                    written.push($parse(text)?);
                }
                Ok(())
            }};
        }
        match (read, to) {
            (Slice::F32(x), Type::F64) => each!(f64, x, |&x| f64::from(x)),
            (Slice::F32(x), Type::I64) => each!(i64, x, |&x| whole(x.into())),
            (Slice::F32(x), Type::I32) => each!(i32, x, |&x| short(x.into())),
            (Slice::F32(x), Type::Bool) => each!(u8, x, |&x| u8::from(x != 0.0)),
            (Slice::F32(x), Type::Text) => each!(Bytes, x, |&x| float_text(x.into(), 8)),
            (Slice::F64(x), Type::F32) => each!(f32, x, |&x| x as f32),
            (Slice::F64(x), Type::I64) => each!(i64, x, |&x| whole(x)),
            (Slice::F64(x), Type::I32) => each!(i32, x, |&x| short(x)),
            (Slice::F64(x), Type::Bool) => each!(u8, x, |&x| u8::from(x != 0.0)),
            (Slice::F64(x), Type::Text) => each!(Bytes, x, |&x| float_text(x, 17)),
            (Slice::I64(x), Type::F32) => each!(f32, x, |&x| x as f32),
            (Slice::I64(x), Type::F64) => each!(f64, x, |&x| x as f64),
            (Slice::I64(x), Type::I32) => each!(i32, x, |&x| x as i32),
            (Slice::I64(x), Type::Bool) => each!(u8, x, |&x| u8::from(x != 0)),
            (Slice::I64(x), Type::Text) => each!(Bytes, x, |x| Bytes::from(x.to_string())),
            (Slice::I32(x), Type::F32) => each!(f32, x, |&x| x as f32),
            (Slice::I32(x), Type::F64) => each!(f64, x, |&x| f64::from(x)),
            (Slice::I32(x), Type::I64) => each!(i64, x, |&x| i64::from(x)),
            (Slice::I32(x), Type::Bool) => each!(u8, x, |&x| u8::from(x != 0)),
            (Slice::I32(x), Type::Text) => each!(Bytes, x, |x| Bytes::from(x.to_string())),
            (Slice::Bool(x), Type::F32) => each!(f32, x, |&x| f32::from(x)),
            (Slice::Bool(x), Type::F64) => each!(f64, x, |&x| f64::from(x)),
            (Slice::Bool(x), Type::I64) => each!(i64, x, |&x| i64::from(x)),
            (Slice::Bool(x), Type::I32) => each!(i32, x, |&x| i32::from(x)),
            (Slice::Bool(x), Type::Text) => each!(Bytes, x, |x| Bytes::from(x.to_string())),
            (Slice::Text(x), Type::F32) => parsed!(f32, x, number::<f32>),
            (Slice::Text(x), Type::F64) => parsed!(f64, x, number::<f64>),
            (Slice::Text(x), Type::I64) => parsed!(i64, x, number::<i64>),
            (Slice::Text(x), Type::I32) => parsed!(i32, x, number::<i32>),
            (Slice::Text(x), Type::Bool) => {
                parsed!(u8, x, |text: &Bytes| number::<f64>(text).map(|x| u8::from(x != 0.0)))
            }
            _ => Err(EngineError::Failed("types that were not settled".into())),
        }
    })
}

fn number<T: std::str::FromStr>(text: &Bytes) -> Result<T, EngineError> {
    let parsed = str::from_utf8(text).ok().and_then(|text| text.trim().parse().ok());
    parsed.ok_or_else(|| EngineError::BadInput(format!("{:?} is not a number", String::from_utf8_lossy(text))))
}

/// A number with so many significant digits, as C's `%g` writes it.
fn float_text(value: f64, digits: usize) -> Bytes {
    if value.is_nan() {
        return Bytes::from_static(b"NaN");
    }
    if value.is_infinite() {
        return Bytes::from_static(if value > 0.0 { b"INF" } else { b"-INF" });
    }
    if value == 0.0 {
        return Bytes::from_static(if value.is_sign_negative() { b"-0" } else { b"0" });
    }
    let scientific = format!("{value:.*e}", digits - 1);
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let trimmed = |text: &str| {
        if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text.to_owned() }
    };
    if exponent < -4 || exponent >= digits as i32 {
        let sign = if exponent < 0 { '-' } else { '+' };
        return Bytes::from(format!("{}e{sign}{:02}", trimmed(mantissa), exponent.abs()));
    }
    let places = usize::try_from(digits as i32 - 1 - exponent).unwrap_or(0);
    Bytes::from(trimmed(&format!("{value:.places$}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_written_as_onnx_runtime_writes_them() {
        let check = |value: f64, digits: usize, expected: &str| {
            assert_eq!(str::from_utf8(&float_text(value, digits)).unwrap(), expected);
        };
        check(1.0, 8, "1");
        check(0.1f32.into(), 8, "0.1");
        check(1234567.9f32.into(), 8, "1234567.9");
        check(123456789.0, 8, "1.2345679e+08");
        check(0.00001234, 8, "1.234e-05");
        check(-2.5, 8, "-2.5");
        check(0.1, 17, "0.10000000000000001");
        check(f64::NAN, 8, "NaN");
        check(f64::NEG_INFINITY, 8, "-INF");
        check(100.0, 8, "100");
    }

    #[test]
    fn what_does_not_fit_becomes_the_smallest() {
        assert_eq!([whole(1e30), whole(f64::NAN), whole(-1.9)], [i64::MIN, i64::MIN, -1]);
        assert_eq!([short(3e9), short(f64::NAN), short(2.9)], [i32::MIN, i32::MIN, 2]);
    }
}
