//! How are a tensor's elements written as JSON?

use super::string::plain_end;
use crate::{DataType, Tensor};

/// How NaN and the infinities are written, for which JSON has no words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NonFinite {
    /// As `NaN`, `Infinity` and `-Infinity`, which Python's `json` reads, and strict parsers refuse.
    Bare,
    /// As `null`, which every parser reads; which of the three it was is lost.
    Null,
}

/// A BYTES element that no JSON string can hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("element {element} is not UTF-8 and cannot be written as JSON")]
pub struct NotUtf8 {
    /// Its index, row major.
    pub element: usize,
}

/// Appends the elements as a flat list. Floats are written with as few digits as bring the same value back.
///
/// Fails on a BYTES element that is not UTF-8; `out` is then as it was.
pub fn write_data(tensor: &Tensor, out: &mut Vec<u8>, non_finite: NonFinite) -> Result<(), NotUtf8> {
    let start = out.len();
    if let Some(strings) = tensor.as_strings() {
        out.push(b'[');
        for (element, string) in strings.iter().enumerate() {
            if element > 0 {
                out.push(b',');
            }
            let Ok(string) = std::str::from_utf8(string) else {
                out.truncate(start);
                return Err(NotUtf8 { element });
            };
            write_string(string, out);
        }
        out.push(b']');
        return Ok(());
    }
    write_numbers(tensor, out, non_finite);
    Ok(())
}

fn write_numbers(tensor: &Tensor, out: &mut Vec<u8>, non_finite: NonFinite) {
    macro_rules! list {
        ($rust:ty, $write:expr) => {
            write_list(tensor.aligned().as_slice::<$rust>().unwrap_or_default(), out, $write)
        };
    }
    match tensor.dtype() {
        DataType::Bool => list!(u8, |value, out| out.extend_from_slice(if value == 0 { b"false" } else { b"true" })),
        DataType::Uint8 => list!(u8, |value, out| write_unsigned(value.into(), out)),
        DataType::Uint16 => list!(u16, |value, out| write_unsigned(value.into(), out)),
        DataType::Uint32 => list!(u32, |value, out| write_unsigned(value.into(), out)),
        DataType::Uint64 => list!(u64, write_unsigned),
        DataType::Int8 => list!(i8, |value, out| write_signed(value.into(), out)),
        DataType::Int16 => list!(i16, |value, out| write_signed(value.into(), out)),
        DataType::Int32 => list!(i32, |value, out| write_signed(value.into(), out)),
        DataType::Int64 => list!(i64, write_signed),
        DataType::Fp16 => list!(half::f16, |value, out| write_f32(value.to_f32(), out, non_finite)),
        DataType::Bf16 => list!(half::bf16, |value, out| write_f32(value.to_f32(), out, non_finite)),
        DataType::Fp32 => list!(f32, |value, out| write_f32(value, out, non_finite)),
        DataType::Fp64 => list!(f64, |value, out| write_f64(value, out, non_finite)),
        DataType::Bytes => {}
    }
}

fn write_list<T: Copy>(elements: &[T], out: &mut Vec<u8>, write: impl Fn(T, &mut Vec<u8>)) {
    // A guess at the text's length, of the right order for every type.
    out.reserve(elements.len() * (size_of::<T>() * 2 + 3) + 2);
    out.push(b'[');
    for (index, &element) in elements.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write(element, out);
    }
    out.push(b']');
}

#[inline(always)]
fn write_f32(value: f32, out: &mut Vec<u8>, non_finite: NonFinite) {
    if value.is_finite() {
        out.extend_from_slice(ryu::Buffer::new().format_finite(value).as_bytes());
    } else {
        write_non_finite(value.into(), out, non_finite);
    }
}

#[inline(always)]
fn write_f64(value: f64, out: &mut Vec<u8>, non_finite: NonFinite) {
    if value.is_finite() {
        out.extend_from_slice(ryu::Buffer::new().format_finite(value).as_bytes());
    } else {
        write_non_finite(value, out, non_finite);
    }
}

#[cold]
#[inline(never)]
fn write_non_finite(value: f64, out: &mut Vec<u8>, non_finite: NonFinite) {
    out.extend_from_slice(match non_finite {
        NonFinite::Null => b"null",
        NonFinite::Bare if value.is_nan() => b"NaN",
        NonFinite::Bare if value > 0.0 => b"Infinity",
        NonFinite::Bare => b"-Infinity",
    });
}

fn write_signed(value: i64, out: &mut Vec<u8>) {
    if value < 0 {
        out.push(b'-');
    }
    write_unsigned(value.unsigned_abs(), out);
}

fn write_unsigned(mut value: u64, out: &mut Vec<u8>) {
    const DIGITS_MAX: usize = 20;
    let mut digits = [0; DIGITS_MAX];
    let mut start = DIGITS_MAX;
    loop {
        start -= 1;
        digits[start] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}

/// Appends a JSON string: quotes, backslashes and control characters escaped, everything else as it is.
pub fn write_string(string: &str, out: &mut Vec<u8>) {
    let text = string.as_bytes();
    out.push(b'"');
    let mut at = 0;
    loop {
        let end = plain_end(text, at);
        out.extend_from_slice(&text[at..end]);
        let Some(&special) = text.get(end) else { break };
        match special {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', special]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            control => {
                let hex = |digit: u8| b"0123456789abcdef"[usize::from(digit)];
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', hex(control >> 4), hex(control & 15)]);
            }
        }
        at = end + 1;
    }
    out.push(b'"');
}
