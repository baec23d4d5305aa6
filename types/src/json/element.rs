//! What may stand for one element of a tensor, type by type?

use bytes::Bytes;
use half::{bf16, f16};

use super::JsonError;
use super::number::{Decimal, nearest_f32, nearest_f64, nearest_narrow, normalized};
use super::reader::{Kind, Reader};
use crate::DataType;

/// Why elements could not be read.
#[derive(Debug)]
pub(super) enum Fault {
    /// The text is no JSON.
    Syntax(JsonError),
    /// It is, but not this tensor: a sentence for the client.
    Value(String),
}

impl From<JsonError> for Fault {
    fn from(error: JsonError) -> Fault {
        Fault::Syntax(error)
    }
}

/// Takes a tensor's elements out of the text, one after the other.
pub(super) trait Sink {
    /// Reads the next element.
    fn take(&mut self, reader: &mut Reader<'_>) -> Result<(), Fault>;

    /// How many were read.
    fn count(&self) -> usize;
}

/// How one element of a fixed width is read.
pub(super) trait Parse {
    type Out: bytemuck::Pod;

    /// Reads an element; the reader stands on its first byte, without whitespace before it.
    fn parse(reader: &mut Reader<'_>) -> Result<Self::Out, Fault>;
}

/// Puts elements of a fixed width into their slots; those that find none are read, counted and forgotten.
pub(super) struct Fixed<'b, P: Parse> {
    slots: &'b mut [P::Out],
    count: usize,
}

impl<'b, P: Parse> Fixed<'b, P> {
    pub(super) fn new(slots: &'b mut [P::Out]) -> Self {
        Fixed { slots, count: 0 }
    }
}

impl<P: Parse> Sink for Fixed<'_, P> {
    #[inline(always)]
    fn take(&mut self, reader: &mut Reader<'_>) -> Result<(), Fault> {
        let value = P::parse(reader)?;
        if let Some(slot) = self.slots.get_mut(self.count) {
            *slot = value;
        }
        self.count += 1;
        Ok(())
    }

    #[inline(always)]
    fn count(&self) -> usize {
        self.count
    }
}

/// Gathers strings in one piece of memory that the elements share.
#[derive(Default)]
pub(super) struct Strings {
    joined: Vec<u8>,
    ends: Vec<usize>,
}

impl Strings {
    /// The strings, in order.
    pub(super) fn into_elements(self) -> Vec<Bytes> {
        let joined = Bytes::from(self.joined);
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, &end)| joined.slice(start..end)).collect()
    }
}

impl Sink for Strings {
    fn take(&mut self, reader: &mut Reader<'_>) -> Result<(), Fault> {
        if reader.peek() != Some(b'"') {
            return Err(wrong_kind(reader, "a string", DataType::Bytes));
        }
        self.joined.extend_from_slice(reader.read_string()?.as_bytes());
        self.ends.push(self.joined.len());
        Ok(())
    }

    fn count(&self) -> usize {
        self.ends.len()
    }
}

/// What to say of a value that is JSON but not what was `expected`.
#[cold]
#[inline(never)]
fn wrong_kind(reader: &mut Reader<'_>, expected: &str, dtype: DataType) -> Fault {
    match reader.peek_kind() {
        Err(error) => Fault::Syntax(error),
        Ok(Kind::Null) => match reader.read_null() {
            Ok(()) => Fault::Value(format!("null is not a value of {dtype}")),
            Err(error) => Fault::Syntax(error),
        },
        Ok(Kind::Number) => match reader.skip_value() {
            Ok(token) => Fault::Value(format!("expected {expected}, got {}", shown(token))),
            Err(error) => Fault::Syntax(error),
        },
        Ok(kind) => Fault::Value(format!("expected {expected}, got {}", kind.described())),
    }
}

#[cold]
#[inline(never)]
fn out_of_range(token: &[u8], dtype: DataType) -> Fault {
    Fault::Value(format!("{} is out of range for {dtype}", shown(token)))
}

/// A number's text for a message, cut where it is long.
fn shown(token: &[u8]) -> String {
    const SHOWN_MAX: usize = 40;
    let text = String::from_utf8_lossy(&token[..token.len().min(SHOWN_MAX)]);
    if token.len() > SHOWN_MAX { format!("{text}…") } else { text.into_owned() }
}

/// What stands for a float without being a number: the bare words, and null for NaN.
#[cold]
#[inline(never)]
fn float_word(reader: &mut Reader<'_>, dtype: DataType) -> Result<f64, Fault> {
    if let Some(value) = reader.read_number_word()? {
        return Ok(value);
    }
    if reader.peek() == Some(b'n') {
        reader.read_null()?;
        return Ok(f64::NAN);
    }
    Err(wrong_kind(reader, "a number", dtype))
}

/// Whether a number in digits begins here.
fn at_number(reader: &Reader<'_>) -> bool {
    match reader.peek() {
        Some(b'0'..=b'9') => true,
        Some(b'-') => !reader.at_negative_word(),
        _ => false,
    }
}

pub(super) struct Fp32;

impl Parse for Fp32 {
    type Out = f32;

    #[inline(always)]
    fn parse(reader: &mut Reader<'_>) -> Result<f32, Fault> {
        match reader.scan_quick(Decimal::to_f32) {
            Some(value) => Ok(value),
            None => parse_rare_f32(reader),
        }
    }
}

#[inline(never)]
fn parse_rare_f32(reader: &mut Reader<'_>) -> Result<f32, Fault> {
    if !at_number(reader) {
        return Ok(float_word(reader, DataType::Fp32)? as f32);
    }
    let (decimal, token) = reader.scan_number()?;
    nearest_f32(decimal, token).map_err(|_| out_of_range(token, DataType::Fp32))
}

pub(super) struct Fp64;

impl Parse for Fp64 {
    type Out = f64;

    #[inline(always)]
    fn parse(reader: &mut Reader<'_>) -> Result<f64, Fault> {
        match reader.scan_quick(Decimal::to_f64) {
            Some(value) => Ok(value),
            None => parse_rare_f64(reader),
        }
    }
}

#[inline(never)]
fn parse_rare_f64(reader: &mut Reader<'_>) -> Result<f64, Fault> {
    if !at_number(reader) {
        return float_word(reader, DataType::Fp64);
    }
    let (decimal, token) = reader.scan_number()?;
    nearest_f64(decimal, token).map_err(|_| out_of_range(token, DataType::Fp64))
}

/// Reads a half or a brain float, as the single that equals it.
fn parse_narrow(
    reader: &mut Reader<'_>,
    dtype: DataType,
    fraction_bits: i32,
    exponent_min: i32,
    max: f32,
) -> Result<f32, Fault> {
    if !at_number(reader) {
        return Ok(float_word(reader, dtype)? as f32);
    }
    let (decimal, token) = reader.scan_number()?;
    match nearest_narrow(decimal, token, fraction_bits, exponent_min) {
        Ok(value) if value.abs() <= max => Ok(value),
        _ => Err(out_of_range(token, dtype)),
    }
}

pub(super) struct Fp16;

impl Parse for Fp16 {
    type Out = f16;

    fn parse(reader: &mut Reader<'_>) -> Result<f16, Fault> {
        parse_narrow(reader, DataType::Fp16, 10, -14, f16::MAX.to_f32()).map(f16::from_f32)
    }
}

pub(super) struct Bf16;

impl Parse for Bf16 {
    type Out = bf16;

    fn parse(reader: &mut Reader<'_>) -> Result<bf16, Fault> {
        parse_narrow(reader, DataType::Bf16, 7, -126, bf16::MAX.to_f32()).map(bf16::from_f32)
    }
}

/// Booleans: true and false, and the numbers 1 and 0.
pub(super) struct Truth;

impl Parse for Truth {
    type Out = u8;

    #[inline(always)]
    fn parse(reader: &mut Reader<'_>) -> Result<u8, Fault> {
        match reader.peek() {
            Some(b't' | b'f') => Ok(u8::from(reader.read_bool()?)),
            Some(b'-' | b'0'..=b'9') => match Integer::<u8>::parse(&mut reader.clone()) {
                Ok(value @ 0..=1) => Integer::<u8>::parse(reader).map(|_| value),
                _ => Err(wrong_kind(reader, "true, false, 0 or 1", DataType::Bool)),
            },
            _ => Err(wrong_kind(reader, "a boolean", DataType::Bool)),
        }
    }
}

/// Integers. A fraction of zeros and an exponent are welcome where the value is whole: `3.0`, `1e2`.
pub(super) struct Integer<T>(std::marker::PhantomData<T>);

macro_rules! integers {
    ($($rust:ty => $dtype:ident),* $(,)?) => {
        $(impl Parse for Integer<$rust> {
            type Out = $rust;

            #[inline(always)]
            fn parse(reader: &mut Reader<'_>) -> Result<$rust, Fault> {
                let quick = reader.scan_quick(|decimal| {
                    let magnitude = decimal.mantissa as i64;
                    let value = if decimal.negative { -magnitude } else { magnitude };
                    if decimal.whole { <$rust>::try_from(value).ok() } else { None }
                });
                if let Some(value) = quick {
                    return Ok(value);
                }
                let (value, token) = parse_rare_integer(reader, DataType::$dtype)?;
                <$rust>::try_from(value).map_err(|_| out_of_range(token, DataType::$dtype))
            }
        })*
    };
}

integers! {
    u8 => Uint8, u16 => Uint16, u32 => Uint32, u64 => Uint64,
    i8 => Int8, i16 => Int16, i32 => Int32, i64 => Int64,
}

/// Reads a whole number with its text, whatever its size up to 30 digits.
#[inline(never)]
fn parse_rare_integer<'a>(reader: &mut Reader<'a>, dtype: DataType) -> Result<(i128, &'a [u8]), Fault> {
    if !at_number(reader) {
        return Err(wrong_kind(reader, "an integer", dtype));
    }
    let (_, token) = reader.scan_number()?;
    whole_value(token, dtype).map(|value| (value, token))
}

/// The value of a number however written, where it is whole.
fn whole_value(token: &[u8], dtype: DataType) -> Result<i128, Fault> {
    const DIGITS_MAX: i64 = 30;
    let (point, digits) = normalized(token);
    if digits.is_empty() {
        return Ok(0);
    }
    if point < digits.len() as i64 {
        return Err(Fault::Value(format!("expected an integer, got {}", shown(token))));
    }
    if point > DIGITS_MAX {
        return Err(out_of_range(token, dtype));
    }
    let value = digits.iter().fold(0i128, |value, digit| value * 10 + i128::from(digit - b'0'));
    let magnitude = value * 10i128.pow((point - digits.len() as i64) as u32);
    Ok(if token[0] == b'-' { -magnitude } else { magnitude })
}
