//! What is a column of values, wherever in a tensor it lies?
//!
//! Tensors come as the client sent them: little-endian, perhaps unaligned, one column beside the other. Nothing is copied.

use bytes::Bytes;
use half::{bf16, f16};
use tiltyard_types::{DataType, Tensor, TensorData};

/// The bytes of a text that tell it from others, together with its length.
const TEXT_MAX: usize = 256;

/// Bytes of a value's name, as people are told it.
pub(crate) const NAME_MAX: usize = 46;

/// A column: one value in each of some rows.
#[derive(Clone, Copy, Debug)]
pub struct Values<'a>(Kind<'a>);

#[derive(Clone, Copy, Debug)]
enum Kind<'a> {
    /// Little-endian elements: the one at `start`, and each `stride`th from there.
    Fixed {
        dtype: DataType,
        bytes: &'a [u8],
        start: usize,
        stride: usize,
    },
    Texts {
        texts: &'a [Bytes],
        start: usize,
        stride: usize,
    },
    /// So many rows without a value.
    Missing(usize),
}

impl<'a> Values<'a> {
    /// Column `column` of a tensor whose rows are its outermost axis, and whose other axes make its columns; a scalar is one row.
    /// `None` where it has no such column.
    pub fn of(tensor: &'a Tensor, column: usize) -> Option<Values<'a>> {
        let stride = columns(tensor);
        (column < stride).then(|| Values::at(tensor, column, stride))
    }

    /// The same where a row is known to have `stride` columns, and to have that one.
    pub(crate) fn at(tensor: &'a Tensor, column: usize, stride: usize) -> Values<'a> {
        Values(match tensor.data() {
            TensorData::Fixed(bytes) => Kind::Fixed { dtype: tensor.dtype(), bytes, start: column, stride },
            TensorData::Strings(texts) => Kind::Texts { texts, start: column, stride },
        })
    }

    /// All of these texts.
    pub fn texts(texts: &'a [Bytes]) -> Values<'a> {
        Values(Kind::Texts { texts, start: 0, stride: 1 })
    }

    /// All of `bytes`, little-endian numbers of `dtype`. `None` for texts.
    pub fn numbers(dtype: DataType, bytes: &'a [u8]) -> Option<Values<'a>> {
        dtype.width().map(|_| Values(Kind::Fixed { dtype, bytes, start: 0, stride: 1 }))
    }

    /// `rows` rows in which the value is missing.
    pub fn missing(rows: usize) -> Values<'a> {
        Values(Kind::Missing(rows))
    }

    /// How many rows.
    pub fn rows(&self) -> usize {
        let (elements, start, stride) = match self.0 {
            Kind::Fixed { dtype, bytes, start, stride } => (bytes.len() / dtype.width().unwrap_or(1), start, stride),
            Kind::Texts { texts, start, stride } => (texts.len(), start, stride),
            Kind::Missing(rows) => (rows, 0, 1),
        };
        elements.saturating_sub(start).div_ceil(stride)
    }

    /// Shows each of them to `eye`, in order.
    pub(crate) fn visit<E: Eye>(&self, eye: &mut E) {
        match self.0 {
            Kind::Fixed { dtype, bytes, start, stride } => fixed(dtype, bytes, start, stride, eye),
            Kind::Texts { texts, start, stride } => {
                texts.iter().skip(start).step_by(stride).for_each(|text| eye.text(text))
            }
            Kind::Missing(rows) => eye.missing(rows as u64),
        }
    }
}

/// How many columns a tensor has: the elements of a row.
pub fn columns(tensor: &Tensor) -> usize {
    tensor.shape().iter().skip(1).product()
}

/// Whoever looks at values one by one.
pub(crate) trait Eye {
    /// A number, of whatever type.
    fn number<N: Number>(&mut self, number: N);
    /// A text.
    fn text(&mut self, text: &[u8]);
    /// So many rows without one.
    fn missing(&mut self, rows: u64);
}

fn fixed<E: Eye>(dtype: DataType, bytes: &[u8], start: usize, stride: usize, eye: &mut E) {
    match dtype {
        DataType::Fp32 => each::<f32, E>(bytes, start, stride, eye),
        DataType::Fp64 => each::<f64, E>(bytes, start, stride, eye),
        DataType::Int64 => each::<i64, E>(bytes, start, stride, eye),
        DataType::Int32 => each::<i32, E>(bytes, start, stride, eye),
        DataType::Bool | DataType::Uint8 => each::<u8, E>(bytes, start, stride, eye),
        DataType::Uint16 => each::<u16, E>(bytes, start, stride, eye),
        DataType::Uint32 => each::<u32, E>(bytes, start, stride, eye),
        DataType::Uint64 => each::<u64, E>(bytes, start, stride, eye),
        DataType::Int8 => each::<i8, E>(bytes, start, stride, eye),
        DataType::Int16 => each::<i16, E>(bytes, start, stride, eye),
        DataType::Fp16 => each::<f16, E>(bytes, start, stride, eye),
        DataType::Bf16 => each::<bf16, E>(bytes, start, stride, eye),
        DataType::Bytes => {}
    }
}

fn each<N: Number, E: Eye>(bytes: &[u8], start: usize, stride: usize, eye: &mut E) {
    let width = size_of::<N>();
    if stride == 1 && start == 0 {
        bytes.chunks_exact(width).for_each(|bytes| eye.number(N::read(bytes)));
        return;
    }
    // Often there is one row, and a column is one number: nothing is prepared for more.
    let mut at = start * width;
    while let Some(bytes) = bytes.get(at..at + width) {
        eye.number(N::read(bytes));
        at += stride * width;
    }
}

/// A number as it lies in a tensor.
pub(crate) trait Number: Copy {
    /// From its bytes.
    fn read(bytes: &[u8]) -> Self;
    /// As that of the type that holds nearly all.
    fn value(self) -> f64;
    /// What tells it from other numbers, of whatever type: 3 is 3.
    fn identity(self) -> u64;
    /// As people write it.
    fn name(self) -> String;
}

macro_rules! numbers {
    ($($rust:ty: $value:expr, $identity:expr);* $(;)?) => {
        $(impl Number for $rust {
            fn read(bytes: &[u8]) -> $rust {
                bytes.try_into().map_or(Default::default(), <$rust>::from_le_bytes)
            }

            fn value(self) -> f64 {
                $value(self)
            }

            fn identity(self) -> u64 {
                $identity(self)
            }

            fn name(self) -> String {
                let text = self.to_string();
                if text.len() <= 24 { text } else { format!("{self:e}") }
            }
        })*
    };
}

numbers! {
    u8: f64::from, |n| whole(i64::from(n));
    u16: f64::from, |n| whole(i64::from(n));
    u32: f64::from, |n| whole(i64::from(n));
    u64: |n| n as f64, |n| i64::try_from(n).map_or_else(|_| mixed(n, 2), whole);
    i8: f64::from, |n| whole(i64::from(n));
    i16: f64::from, |n| whole(i64::from(n));
    i32: f64::from, |n| whole(i64::from(n));
    i64: |n| n as f64, whole;
    f16: f64::from, |n| float(f64::from(n));
    bf16: f64::from, |n| float(f64::from(n));
    f32: f64::from, |n| float(f64::from(n));
    f64: |n| n, float;
}

fn whole(number: i64) -> u64 {
    mixed(number.cast_unsigned(), 1)
}

/// What tells this number from others: a whole one is the same as an integer of that value.
pub(crate) fn float(number: f64) -> u64 {
    const EXACT: f64 = (1u64 << 53) as f64;
    let integer = number as i64;
    let is_whole = number.abs() < EXACT && integer as f64 == number;
    if is_whole { whole(integer) } else { mixed(number.to_bits(), 3) }
}

/// What tells this text from others: by its first 256 bytes and its length.
pub(crate) fn text_identity(text: &[u8]) -> u64 {
    let held = &text[..text.len().min(TEXT_MAX)];
    let mut hash = text.len() as u64;
    let chunks = held.chunks_exact(8);
    let rest = chunks.remainder();
    for chunk in chunks {
        hash = folded(hash ^ chunk.try_into().map_or(0, u64::from_le_bytes), 0xa076_1d64_78bd_642f).rotate_left(23);
    }
    let last = rest.iter().rev().fold(0, |last, &byte| last << 8 | u64::from(byte));
    mixed(hash ^ last, 4)
}

/// Spreads `value` over all bits, differently for each `seed`. Never 0, which stands for nothing.
pub(crate) fn mixed(value: u64, seed: u64) -> u64 {
    let z = folded(value ^ 0x9e37_79b9_7f4a_7c15, seed.wrapping_mul(2) ^ 0xd134_2543_de82_ef95);
    let z = z.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (z ^ (z >> 31)).max(1)
}

/// Both halves of a product.
fn folded(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product >> 64) as u64 ^ product as u64
}

/// A text as people are told it: its beginning, and what is no text replaced.
pub(crate) fn text_name(text: &[u8]) -> String {
    shortened(&String::from_utf8_lossy(&text[..text.len().min(NAME_MAX + 4)]))
}

/// The beginning of a name, at most [`NAME_MAX`] bytes.
pub(crate) fn shortened(name: &str) -> String {
    let end = (0..=NAME_MAX.min(name.len())).rev().find(|&end| name.is_char_boundary(end)).unwrap_or(0);
    name[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Seen(Vec<String>);

    impl Eye for Seen {
        fn number<N: Number>(&mut self, number: N) {
            self.0.push(number.name());
        }
        fn text(&mut self, text: &[u8]) {
            self.0.push(text_name(text));
        }
        fn missing(&mut self, rows: u64) {
            self.0.push(format!("{rows} missing"));
        }
    }

    fn seen(values: Values<'_>) -> Vec<String> {
        let mut seen = Seen::default();
        values.visit(&mut seen);
        seen.0
    }

    #[test]
    fn columns_are_found_in_tensors() {
        let tensor = Tensor::from_slice([2, 3], &[1f32, 2., 3., 4., 5., 6.]).unwrap();
        let column = |column| Values::of(&tensor, column);
        assert_eq!((columns(&tensor), seen(column(1).unwrap())), (3, vec!["2".to_owned(), "5".to_owned()]));
        assert_eq!((column(2).unwrap().rows(), column(3).is_none()), (2, true));
        let lone = Tensor::from_slice([2], &[7i64, -1]).unwrap();
        assert_eq!(seen(Values::of(&lone, 0).unwrap()), ["7", "-1"]);
        let none = Tensor::from_slice([0, 2], &[0u8; 0]).unwrap();
        assert_eq!(Values::of(&none, 1).unwrap().rows(), 0);
        assert_eq!(seen(Values::missing(3)), ["3 missing"]);
    }

    #[test]
    fn the_same_number_is_the_same_in_every_type() {
        assert_eq!(3f32.identity(), 3i64.identity());
        assert_eq!(f16::from_f32(-2.0).identity(), (-2i8).identity());
        assert_eq!((-0.0f64).identity(), 0u8.identity());
        assert_ne!(u64::MAX.identity(), (-1i64).identity());
        assert_ne!(0.5f64.identity(), 0.25f64.identity());
        assert_ne!(text_identity(b"3"), 3u8.identity());
        assert_ne!(text_identity(b""), text_identity(b"\0"));
    }

    #[test]
    fn names_are_short_and_whole() {
        let long = "é".repeat(500);
        assert_eq!(text_name(long.as_bytes()), "é".repeat(NAME_MAX / 2));
        assert_eq!(text_name(&[0xff, b'a']), "\u{fffd}a");
    }
}
