//! Which number does a decimal text stand for, rounded as IEEE 754 asks?
//!
//! Digits are read eight at a time. Most conversions need one multiplication; where that cannot decide the rounding,
//! the standard library's parser does, which is always right and several times slower.

use std::cmp::Ordering;

use super::JsonError;

/// A number taken apart: `mantissa * 10^exponent`, negated where `negative`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Decimal {
    pub(super) negative: bool,
    /// Meaningless unless `exact`.
    pub(super) mantissa: u64,
    pub(super) exponent: i64,
    /// Whether all digits fitted into the mantissa.
    pub(super) exact: bool,
    /// Whether the text has neither a fraction nor an exponent.
    pub(super) whole: bool,
}

/// The most digits that always fit into the mantissa.
const MANTISSA_DIGITS: usize = 19;

const POWERS: [u64; 9] = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000];

const ZEROS: u64 = u64::from_le_bytes([b'0'; 8]);

/// Eight bytes from `at` on; past the end there are NULs, which end every run of digits.
#[inline(always)]
fn chunk(text: &[u8], at: usize) -> u64 {
    match text.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        Some(bytes) => u64::from_le_bytes(*bytes),
        None => last_chunk(text, at),
    }
}

#[cold]
fn last_chunk(text: &[u8], at: usize) -> u64 {
    let mut bytes = [0; 8];
    let rest = text.get(at..).unwrap_or_default();
    bytes[..rest.len()].copy_from_slice(rest);
    u64::from_le_bytes(bytes)
}

/// How many of the chunk's bytes, already without the zeros' ASCII code, are digits before the first that is not.
///
/// A byte that is no digit may carry into later ones, never into earlier ones, so that the first is found rightly.
#[inline(always)]
fn leading_digits(chunk: u64) -> usize {
    let others = (chunk.wrapping_add(0x7676_7676_7676_7676) | chunk) & 0x8080_8080_8080_8080;
    (others.trailing_zeros() / 8) as usize
}

/// The value of the first `count` digits of a chunk without the zeros' ASCII code: pairs, then fours, then eight.
#[inline(always)]
fn chunk_value(chunk: u64, count: usize) -> u64 {
    let digits = chunk.unbounded_shl(64 - 8 * count as u32);
    let pairs = digits.wrapping_mul(10).wrapping_add(digits >> 8);
    let even = (pairs & 0x0000_00ff_0000_00ff).wrapping_mul(100 + (1_000_000 << 32));
    let odd = ((pairs >> 16) & 0x0000_00ff_0000_00ff).wrapping_mul(1 + (10_000 << 32));
    even.wrapping_add(odd) >> 32
}

/// Appends the run of digits at `at` to the mantissa, which wraps; returns it with the position after the run.
#[inline(always)]
fn read_digits(text: &[u8], mut at: usize, mut mantissa: u64) -> (u64, usize) {
    loop {
        let bytes = chunk(text, at) ^ ZEROS;
        let count = leading_digits(bytes);
        mantissa = mantissa.wrapping_mul(POWERS[count]).wrapping_add(chunk_value(bytes, count));
        at += count;
        if count < 8 {
            return (mantissa, at);
        }
    }
}

/// The position after the run of digits at `at`.
#[inline(always)]
fn skip_digits(text: &[u8], mut at: usize) -> usize {
    loop {
        let count = leading_digits(chunk(text, at) ^ ZEROS);
        at += count;
        if count < 8 {
            return at;
        }
    }
}

#[cold]
fn no_digit(text: &[u8], at: usize) -> JsonError {
    JsonError::new(at, format!("expected a digit, found {}", super::reader::found(text, at)))
}

#[cold]
fn leading_zero(at: usize) -> JsonError {
    JsonError::new(at, "a number must not begin with a zero and another digit")
}

/// Reads the number at `start` with its length, if it has one of the two forms that most tensors are written in,
/// `d.ddd` and `ddd`; it has then no exponent, at most 19 digits, and 18 of them at most after the point.
///
/// After the minus all positions are known to the compiler, so that no bounds are checked and no load waits for the
/// one before it. What is longer, or near the end of the text, or wrong, is left to [`scan`].
#[inline(always)]
pub(super) fn scan_quick(text: &[u8], start: usize) -> Option<(Decimal, usize)> {
    // A minus, a digit, a point, three chunks and a byte that ends the number.
    const WINDOW: usize = 28;
    let window: &[u8; WINDOW] = text.get(start..)?.first_chunk()?;
    let negative = window[0] == b'-';
    let window: &[u8; WINDOW - 1] = window[usize::from(negative)..].first_chunk()?;
    let (decimal, length) = if window[1] == b'.' { scan_fraction(window) } else { scan_whole(window) }?;
    Some((Decimal { negative, ..decimal }, length + usize::from(negative)))
}

#[inline(always)]
fn load(window: &[u8; 27], at: usize) -> u64 {
    u64::from_le_bytes(window[at..].first_chunk().copied().unwrap_or_default()) ^ ZEROS
}

#[inline(always)]
fn scan_fraction(window: &[u8; 27]) -> Option<(Decimal, usize)> {
    // What is no digit is found at the end; until then its lower bits do, with which nothing overflows.
    let is_digit = window[0].is_ascii_digit();
    let lead = u64::from(window[0] & 0x0f);
    let first = load(window, 2);
    let mut count = leading_digits(first);
    let mut mantissa;
    if count == 8 {
        mantissa = lead * POWERS[8] + chunk_value(first, 8);
        let second = load(window, 10);
        let more = leading_digits(second);
        mantissa = mantissa * POWERS[more] + chunk_value(second, more);
        count += more;
        if more == 8 {
            let third = load(window, 18);
            let more = leading_digits(third);
            if more > MANTISSA_DIGITS - 17 {
                return None;
            }
            mantissa = mantissa * POWERS[more] + chunk_value(third, more);
            count += more;
        }
    } else {
        mantissa = lead * POWERS[count] + chunk_value(first, count);
    }
    let bad = !is_digit || count == 0 || window[count + 2] | 0x20 == b'e';
    let decimal = Decimal { negative: false, mantissa, exponent: -(count as i64), exact: true, whole: false };
    (!bad).then_some((decimal, count + 2))
}

#[inline(always)]
fn scan_whole(window: &[u8; 27]) -> Option<(Decimal, usize)> {
    let digits = load(window, 0);
    let count = leading_digits(digits);
    let bad = count == 0 || count == 8 || (window[0] == b'0' && count > 1);
    if bad || matches!(window[count], b'.' | b'e' | b'E') {
        return None;
    }
    let mantissa = chunk_value(digits, count);
    Some((Decimal { negative: false, mantissa, exponent: 0, exact: true, whole: true }, count))
}

/// Reads the number at `start`, a minus or a digit, of any form; returns it with the position after it.
#[inline(never)]
pub(super) fn scan(text: &[u8], start: usize) -> Result<(Decimal, usize), JsonError> {
    let negative = text.get(start) == Some(&b'-');
    let first = start + usize::from(negative);
    let lead = text.get(first).copied().unwrap_or_default().wrapping_sub(b'0');
    if lead > 9 {
        return Err(no_digit(text, first));
    }
    let (mut mantissa, mut at) = read_digits(text, first, 0);
    if lead == 0 && at > first + 1 {
        return Err(leading_zero(first));
    }
    let mut exponent = 0;
    let mut digits = at - first;
    let mut whole = true;
    if text.get(at) == Some(&b'.') {
        let fraction = at + 1;
        (mantissa, at) = read_digits(text, fraction, mantissa);
        if at == fraction {
            return Err(no_digit(text, at));
        }
        exponent = -((at - fraction) as i64);
        digits += at - fraction;
        whole = false;
    }
    let exact = digits <= MANTISSA_DIGITS || significant_digits(&text[first..at]) <= MANTISSA_DIGITS;
    if let Some(b'e' | b'E') = text.get(at) {
        let (scale, end) = scan_exponent(text, at + 1)?;
        exponent += scale;
        at = end;
        whole = false;
    }
    Ok((Decimal { negative, mantissa, exponent, exact, whole }, at))
}

/// The number of digits from the first one that is not a zero.
#[cold]
fn significant_digits(digits: &[u8]) -> usize {
    let leading = digits.iter().take_while(|&&byte| matches!(byte, b'0' | b'.')).count();
    digits[leading..].iter().filter(|byte| byte.is_ascii_digit()).count()
}

/// Reads an exponent after its `e`. What no number needs is cut to a million millions, beyond any text's length.
#[inline(never)]
fn scan_exponent(text: &[u8], at: usize) -> Result<(i64, usize), JsonError> {
    let negative = text.get(at) == Some(&b'-');
    let first = at + usize::from(negative || text.get(at) == Some(&b'+'));
    let mut end = first;
    let mut scale = 0i64;
    while let Some(digit @ b'0'..=b'9') = text.get(end) {
        scale = (scale * 10 + i64::from(digit - b'0')).min(1_000_000_000_000);
        end += 1;
    }
    if end == first {
        return Err(no_digit(text, end));
    }
    Ok((if negative { -scale } else { scale }, end))
}

/// The position after the number at `start`, which is checked but not computed.
#[inline(always)]
pub(super) fn skip(text: &[u8], start: usize) -> Result<usize, JsonError> {
    let first = start + usize::from(text.get(start) == Some(&b'-'));
    let lead = text.get(first).copied().unwrap_or_default().wrapping_sub(b'0');
    if lead > 9 {
        return Err(no_digit(text, first));
    }
    let mut at = skip_digits(text, first);
    if lead == 0 && at > first + 1 {
        return Err(leading_zero(first));
    }
    if text.get(at) == Some(&b'.') {
        let fraction = at + 1;
        at = skip_digits(text, fraction);
        if at == fraction {
            return Err(no_digit(text, at));
        }
    }
    if let Some(b'e' | b'E') = text.get(at) {
        (_, at) = scan_exponent(text, at + 1)?;
    }
    Ok(at)
}

/// The powers of ten from 10^-60 on, each rounded to the nearest double.
#[rustfmt::skip]
const SCALES: [f64; 121] = [
    1e-60, 1e-59, 1e-58, 1e-57, 1e-56, 1e-55, 1e-54, 1e-53, 1e-52, 1e-51, 1e-50,
    1e-49, 1e-48, 1e-47, 1e-46, 1e-45, 1e-44, 1e-43, 1e-42, 1e-41, 1e-40, 1e-39,
    1e-38, 1e-37, 1e-36, 1e-35, 1e-34, 1e-33, 1e-32, 1e-31, 1e-30, 1e-29, 1e-28,
    1e-27, 1e-26, 1e-25, 1e-24, 1e-23, 1e-22, 1e-21, 1e-20, 1e-19, 1e-18, 1e-17,
    1e-16, 1e-15, 1e-14, 1e-13, 1e-12, 1e-11, 1e-10, 1e-9, 1e-8, 1e-7, 1e-6,
    1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1e0, 1e1, 1e2, 1e3, 1e4, 1e5,
    1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16,
    1e17, 1e18, 1e19, 1e20, 1e21, 1e22, 1e23, 1e24, 1e25, 1e26, 1e27,
    1e28, 1e29, 1e30, 1e31, 1e32, 1e33, 1e34, 1e35, 1e36, 1e37, 1e38,
    1e39, 1e40, 1e41, 1e42, 1e43, 1e44, 1e45, 1e46, 1e47, 1e48, 1e49,
    1e50, 1e51, 1e52, 1e53, 1e54, 1e55, 1e56, 1e57, 1e58, 1e59, 1e60,
];

/// How far a product of a mantissa and a scale may be off, relatively: three roundings of 2^-53 each, and a margin.
const PRODUCT_ERROR: f64 = 1.0 / (1u64 << 50) as f64;

impl Decimal {
    /// An approximation of the magnitude that is off by less than [`PRODUCT_ERROR`]; `None` where there is no cheap one.
    #[inline(always)]
    fn approximate(&self) -> Option<f64> {
        let scale = SCALES.get(usize::try_from(self.exponent.wrapping_add(60)).ok()?)?;
        let mantissa = self.mantissa as i64;
        (self.exact && mantissa >= 0).then_some(mantissa as f64 * scale)
    }

    /// The nearest single, or `None` where it takes more than a multiplication to know, or where it is infinite.
    ///
    /// The true value lies between two doubles; where both round to one single, so does everything in between.
    #[inline(always)]
    pub(super) fn to_f32(self) -> Option<f32> {
        let product = self.approximate()?;
        let low = (product * (1.0 - PRODUCT_ERROR)) as f32;
        let high = (product * (1.0 + PRODUCT_ERROR)) as f32;
        let sign = u32::from(self.negative) << 31;
        (low == high && low < f32::INFINITY).then(|| f32::from_bits(low.to_bits() | sign))
    }

    /// The nearest double, or `None` where it takes more than a division to know.
    #[inline(always)]
    pub(super) fn to_f64(self) -> Option<f64> {
        // Both are exact doubles, so that there is one rounding, that of the operation.
        const EXACT_SCALE_MAX: i64 = 22;
        let magnitude = if !self.exact {
            return None;
        } else if self.mantissa <= 1 << 53 && (-EXACT_SCALE_MAX..=EXACT_SCALE_MAX).contains(&self.exponent) {
            let mantissa = self.mantissa as i64 as f64;
            let scale = SCALES[60 + self.exponent.unsigned_abs() as usize];
            if self.exponent < 0 { mantissa / scale } else { mantissa * scale }
        } else if self.mantissa != 0 && (-27..=0).contains(&self.exponent) {
            divide(self.mantissa, self.exponent.unsigned_abs() as usize)
        } else {
            return None;
        };
        Some(if self.negative { -magnitude } else { magnitude })
    }
}

/// A power of five, shifted to have its highest bit set, by how much, and what stands for its reciprocal.
struct Divisor {
    value: u64,
    shift: u32,
    reciprocal: u64,
}

/// The powers of five that fit into 64 bits.
const DIVISORS: [Divisor; 28] = {
    let mut divisors = [const { Divisor { value: 0, shift: 0, reciprocal: 0 } }; 28];
    let mut power = 0;
    while power < divisors.len() {
        let shift = 5u64.pow(power as u32).leading_zeros();
        let value = 5u64.pow(power as u32) << shift;
        // It is 2^64 and something; the something is kept.
        let reciprocal = (u128::MAX / value as u128) as u64;
        divisors[power] = Divisor { value, shift, reciprocal };
        power += 1;
    }
    divisors
};

/// `mantissa / 10^power`, rounded once; the mantissa is not zero and the power is at most 27.
///
/// The quotient by `5^power` is taken to at least 63 bits, and its lowest bit says whether anything was left over, so
/// that the conversion to a double sees on which side of a half the true value lies. Powers of two change no digit.
#[inline(always)]
fn divide(mantissa: u64, power: usize) -> f64 {
    let divisor = &DIVISORS[power];
    let shift = mantissa.leading_zeros();
    let (quotient, remainder) = divide_wide(u128::from(mantissa << shift) << 63, divisor);
    let sticky = quotient | u64::from(remainder != 0);
    let scale = i64::from(divisor.shift) - i64::from(shift) - power as i64 - 63;
    sticky as f64 * f64::from_bits(((1023 + scale) as u64) << 52)
}

/// Quotient and remainder of a number whose upper half is less than the divisor, by multiplication with the
/// reciprocal (Möller and Granlund, "Improved division by invariant integers", algorithm 4).
#[inline(always)]
fn divide_wide(number: u128, divisor: &Divisor) -> (u64, u64) {
    let (high, low) = ((number >> 64) as u64, number as u64);
    let estimate = (u128::from(divisor.reciprocal) * u128::from(high)).wrapping_add(number);
    let mut quotient = ((estimate >> 64) as u64).wrapping_add(1);
    let mut remainder = low.wrapping_sub(quotient.wrapping_mul(divisor.value));
    if remainder > estimate as u64 {
        quotient = quotient.wrapping_sub(1);
        remainder = remainder.wrapping_add(divisor.value);
    }
    if remainder >= divisor.value {
        quotient = quotient.wrapping_add(1);
        remainder -= divisor.value;
    }
    (quotient, remainder)
}

/// A finite number that the text overflows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OutOfRange;

/// The single nearest to a scanned number, whose text is `token`.
pub(super) fn nearest_f32(decimal: Decimal, token: &[u8]) -> Result<f32, OutOfRange> {
    match decimal.to_f32() {
        Some(value) => Ok(value),
        None => slow_f32(token),
    }
}

/// The double nearest to a scanned number, whose text is `token`.
pub(super) fn nearest_f64(decimal: Decimal, token: &[u8]) -> Result<f64, OutOfRange> {
    match decimal.to_f64() {
        Some(value) => Ok(value),
        None => slow_f64(token),
    }
}

#[inline(never)]
fn slow_f32(token: &[u8]) -> Result<f32, OutOfRange> {
    let value = std::str::from_utf8(token).ok().and_then(|token| token.parse().ok());
    value.filter(|value: &f32| value.is_finite()).ok_or(OutOfRange)
}

#[inline(never)]
fn slow_f64(token: &[u8]) -> Result<f64, OutOfRange> {
    let value = std::str::from_utf8(token).ok().and_then(|token| token.parse().ok());
    value.filter(|value: &f64| value.is_finite()).ok_or(OutOfRange)
}

/// The number nearest to a scanned one that has `fraction_bits` bits after the leading one, and the exponent
/// `exponent_min` at least: a half or a brain float, as a single.
pub(super) fn nearest_narrow(
    decimal: Decimal,
    token: &[u8],
    fraction_bits: i32,
    exponent_min: i32,
) -> Result<f32, OutOfRange> {
    let value = nearest_f64(decimal, token)?;
    let magnitude = value.abs();
    let exponent = ((magnitude.to_bits() >> 52) as i32 - 1023).max(exponent_min);
    // A double holds every product and quotient with this power of two.
    let unit = f64::from_bits(((1023 + exponent - fraction_bits) as u64) << 52);
    let units = magnitude / unit;
    let below = units.floor();
    let rounded = if units - below == 0.5 {
        // The text may lie a little beside the half that its double is.
        match compare(token, magnitude, (fraction_bits - exponent_min + 1) as usize) {
            Ordering::Less => below,
            Ordering::Equal => units.round_ties_even(),
            Ordering::Greater => below + 1.0,
        }
    } else {
        units.round()
    };
    Ok(((rounded * unit) as f32).copysign(value as f32))
}

/// How the magnitude of a number's text compares, exactly, with a double that is not zero and a multiple of
/// `2^-places`, so that it has no more decimal places than that.
fn compare(token: &[u8], value: f64, places: usize) -> Ordering {
    let exact = format!("{value:.places$}");
    let (token_point, token_digits) = normalized(token);
    let (point, digits) = normalized(exact.as_bytes());
    token_point.cmp(&point).then_with(|| token_digits.cmp(&digits))
}

/// A number's digits without zeros at either end, and where the point is, counted from the first of them.
///
/// Of two such numbers, that with the later point is the greater, and then that whose digits sort later.
pub(super) fn normalized(token: &[u8]) -> (i64, Vec<u8>) {
    let end = token.iter().position(|byte| matches!(byte, b'e' | b'E')).unwrap_or(token.len());
    let scale = token.get(end + 1..).and_then(|_| scan_exponent(token, end + 1).ok()).map_or(0, |(scale, _)| scale);
    let number = token[..end].strip_prefix(b"-").unwrap_or(&token[..end]);
    let whole = number.iter().position(|&byte| byte == b'.').unwrap_or(number.len());
    let mut digits: Vec<u8> = number.iter().copied().filter(|&byte| byte != b'.').collect();
    let leading = digits.iter().take_while(|&&byte| byte == b'0').count();
    digits.drain(..leading);
    let kept = digits.iter().rposition(|&byte| byte != b'0').map_or(0, |last| last + 1);
    digits.truncate(kept);
    (whole as i64 - leading as i64 + scale, digits)
}
