//! What do single and double precision have in common that kernels need?

use std::fmt::Debug;
use std::ops::{AddAssign, DivAssign};

use super::simd::wide::Wide;
use super::word::{self, Book};

/// A floating-point number, of inputs, thresholds and sums alike.
pub(super) trait Scalar:
    Copy + Debug + Default + PartialOrd + AddAssign + DivAssign + Send + Sync + 'static
{
    const INFINITY: Self;
    const NEG_INFINITY: Self;

    /// The nearest number.
    fn of(value: f64) -> Self;
    fn is_missing(self) -> bool;
    /// The greatest number less than this one.
    fn next_below(self) -> Self;
    /// The bits of a leaf's number as a number, which is positive and finite up to [`NODES_MAX`](super::check::NODES_MAX).
    fn of_leaf(leaf: u32) -> Self;
    fn leaf(self) -> u32;
    /// The whole part, where it is the number of a bit.
    fn category(self) -> Option<usize>;
    /// Writes the codes of a row, in the fastest way that there is.
    fn encode(wide: Wide, book: &Book<Self>, row: &[Self], codes: &mut [u8]);
}

impl Scalar for f32 {
    const INFINITY: f32 = f32::INFINITY;
    const NEG_INFINITY: f32 = f32::NEG_INFINITY;

    fn of(value: f64) -> f32 {
        value as f32
    }

    fn is_missing(self) -> bool {
        self.is_nan()
    }

    fn next_below(self) -> f32 {
        self.next_down()
    }

    fn of_leaf(leaf: u32) -> f32 {
        f32::from_bits(leaf)
    }

    fn leaf(self) -> u32 {
        self.to_bits()
    }

    fn category(self) -> Option<usize> {
        f64::from(self).category()
    }

    fn encode(wide: Wide, book: &Book<f32>, row: &[f32], codes: &mut [u8]) {
        wide.encode_f32(book, row, codes);
    }
}

impl Scalar for f64 {
    const INFINITY: f64 = f64::INFINITY;
    const NEG_INFINITY: f64 = f64::NEG_INFINITY;

    fn of(value: f64) -> f64 {
        value
    }

    fn is_missing(self) -> bool {
        self.is_nan()
    }

    fn next_below(self) -> f64 {
        self.next_down()
    }

    fn of_leaf(leaf: u32) -> f64 {
        f64::from_bits(u64::from(leaf))
    }

    fn leaf(self) -> u32 {
        self.to_bits() as u32
    }

    fn category(self) -> Option<usize> {
        // Towards zero: what is above -1 is of the first category, as LightGBM has it.
        (self > -1.0 && self < 4_294_967_296.0).then_some(self as usize)
    }

    fn encode(_: Wide, book: &Book<f64>, row: &[f64], codes: &mut [u8]) {
        word::encode(book, row, codes);
    }
}
