//! How are a tensor's elements written as JSON?

use super::string::plain_end;
use crate::{Buffer, DataType, Tensor};

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
    let copy;
    let aligned = if tensor.bytes().is_some_and(|bytes| Buffer::is_aligned(bytes)) {
        tensor
    } else {
        copy = tensor.aligned();
        &copy
    };
    macro_rules! list {
        ($rust:ty, $write:expr) => {
            write_list(aligned.as_slice::<$rust>().unwrap_or_default(), out, $write)
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

/// Writes a whole number of at most seven digits as a float; answers whether it was one.
///
/// Pixels and counts are such numbers, and the general way takes longest for them. A zero is left to it for its sign.
#[inline(always)]
fn write_small_whole(value: f64, out: &mut Vec<u8>) -> bool {
    let whole = value as i32;
    if f64::from(whole) != value || whole == 0 || whole.unsigned_abs() > 9_999_999 {
        return false;
    }
    write_signed(whole.into(), out);
    out.extend_from_slice(b".0");
    true
}

#[inline(always)]
fn write_f32(value: f32, out: &mut Vec<u8>, non_finite: NonFinite) {
    if write_small_whole(value.into(), out) {
        return;
    }
    if value.is_finite() {
        out.extend_from_slice(zmij::Buffer::new().format_finite(value).as_bytes());
    } else {
        write_non_finite(value.into(), out, non_finite);
    }
}

#[inline(always)]
fn write_f64(value: f64, out: &mut Vec<u8>, non_finite: NonFinite) {
    if write_small_whole(value, out) {
        return;
    }
    if value.is_finite() {
        out.extend_from_slice(zmij::Buffer::new().format_finite(value).as_bytes());
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

/// Appends a whole number in decimal digits.
pub fn write_unsigned(mut value: u64, out: &mut Vec<u8>) {
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use half::{bf16, f16};

    use super::*;
    use crate::Shape;

    fn written(tensor: &Tensor, non_finite: NonFinite) -> String {
        let mut out = b"before".to_vec();
        write_data(tensor, &mut out, non_finite).unwrap();
        String::from_utf8(out).unwrap().strip_prefix("before").unwrap().to_owned()
    }

    #[test]
    fn elements_are_written_flat() {
        fn check<T: crate::Element>(elements: &[T], expected: &str) {
            let tensor = Tensor::from_slice([elements.len(), 1], elements).unwrap();
            assert_eq!(written(&tensor, NonFinite::Bare), expected);
        }
        check::<f32>(&[], "[]");
        check(&[0u8, 255], "[0,255]");
        check(&[u64::MAX], "[18446744073709551615]");
        check(&[i64::MIN, -1, 0, i64::MAX], "[-9223372036854775808,-1,0,9223372036854775807]");
        check(&[i8::MIN, i8::MAX], "[-128,127]");
        check(&[0.1f32, 1.0, -255.0, 0.0, -0.0, 1.0e-45], "[0.1,1.0,-255.0,0.0,-0.0,1e-45]");
        check(&[0.1f64, 0.30000000000000004, 1e300], "[0.1,0.30000000000000004,1e+300]");
        check(&[f16::from_f32(0.1), f16::MAX], "[0.099975586,65504.0]");
        check(&[bf16::from_f32(1.5)], "[1.5]");
    }

    #[test]
    fn booleans_and_words() {
        let truth = Tensor::fixed(DataType::Bool, Shape::from([2]), vec![1, 0]).unwrap();
        assert_eq!(written(&truth, NonFinite::Bare), "[true,false]");
        let wild = Tensor::from_slice([3], &[f32::NAN, f32::INFINITY, f32::NEG_INFINITY]).unwrap();
        assert_eq!(written(&wild, NonFinite::Bare), "[NaN,Infinity,-Infinity]");
        assert_eq!(written(&wild, NonFinite::Null), "[null,null,null]");
    }

    #[test]
    fn strings_are_escaped_or_refused() {
        let strings = |elements: &[&'static [u8]]| {
            let elements: Vec<Bytes> = elements.iter().map(|element| Bytes::from_static(element)).collect();
            Tensor::strings(Shape::from([elements.len()]), elements).unwrap()
        };
        let good = strings(&[b"", "a\"b\\c\n\r\t\0\u{1f}é🦀".as_bytes(), b"plain, and longer than a word"]);
        assert_eq!(
            written(&good, NonFinite::Bare),
            r#"["","a\"b\\c\n\r\t\u0000\u001fé🦀","plain, and longer than a word"]"#
        );
        let mut out = b"before".to_vec();
        let refused = write_data(&strings(&[b"a", b"\xff"]), &mut out, NonFinite::Bare);
        assert_eq!((refused, &out[..]), (Err(NotUtf8 { element: 1 }), &b"before"[..]));
    }
}
