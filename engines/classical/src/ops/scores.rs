//! What becomes of raw scores?
//!
//! The transforms of `ai.onnx.ml`, in single precision whatever the scores are in, as ONNX Runtime has them.

use tiltyard_runtime::engine::EngineError;

use crate::node::Node;

/// `post_transform` of an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transform {
    None,
    Logistic,
    Softmax,
    SoftmaxZero,
    Probit,
}

impl Transform {
    pub(super) fn of(node: &Node<'_>) -> Result<Transform, EngineError> {
        let text = node.text("post_transform", "NONE");
        Transform::named(&text)
            .ok_or_else(|| node.bad(format_args!("post_transform {:?} does not exist", String::from_utf8_lossy(&text))))
    }

    pub(super) fn named(text: &[u8]) -> Option<Transform> {
        Some(match text {
            b"NONE" => Transform::None,
            b"LOGISTIC" => Transform::Logistic,
            b"SOFTMAX" => Transform::Softmax,
            b"SOFTMAX_ZERO" => Transform::SoftmaxZero,
            b"PROBIT" => Transform::Probit,
            _ => return None,
        })
    }

    /// The scores of two classes of which one is known, and which is larger than zero where the second wins.
    pub(super) fn of_two(self, score: f32) -> (f32, f32) {
        match self {
            Transform::Logistic => (logistic(-score), logistic(score)),
            _ => (1.0 - score, score),
        }
    }

    /// Transforms the scores of one row of a linear model, of which there are two or more.
    pub(super) fn apply_quickly(self, scores: &mut [f32]) {
        match self {
            Transform::Logistic => scores.iter_mut().for_each(|score| *score = quick_logistic(*score)),
            _ => self.apply(scores),
        }
    }

    /// Transforms the scores of one row, of which there are two or more.
    pub(super) fn apply(self, scores: &mut [f32]) {
        match self {
            Transform::None => {}
            Transform::Logistic => scores.iter_mut().for_each(|score| *score = logistic(*score)),
            Transform::Softmax => softmax(scores),
            Transform::SoftmaxZero => softmax_zero(scores),
            Transform::Probit => scores.iter_mut().for_each(|score| *score = probit(*score)),
        }
    }
}

pub(super) fn logistic(value: f32) -> f32 {
    let above = 1.0 / (1.0 + (-value.abs()).exp());
    if value < 0.0 { 1.0 - above } else { above }
}

/// The logistic function as a quotient of two polynomials, Eigen's, which ONNX Runtime computes wherever it has many at once.
/// What is small differs from [`logistic`], down to exact zeros, of which a normalizer makes other classes: so it is the same
/// here, to the bit, with each product and sum rounded once.
pub(super) fn quick_logistic(value: f32) -> f32 {
    const ABOVE: [f64; 5] = [
        4.370_310_125_798_01e-11,
        1.156_273_244_599_42e-7,
        6.085_748_646_001_43e-5,
        8.513_771_333_047_01e-3,
        2.482_879_470_615_29e-1,
    ];
    const BELOW: [f64; 6] = [
        6.102_473_897_556_81e-13,
        5.761_021_369_934_27e-9,
        6.291_067_850_170_4e-6,
        1.701_988_173_740_94e-3,
        1.168_176_569_044_53e-1,
        9.931_519_210_231_8e-1,
    ];
    // Beyond, single precision has 0 or 1. NaN stays.
    let value = if value < -18.0 { -18.0 } else { value };
    let value = if value > 18.0 { 18.0 } else { value };
    let square = value * value;
    let of = |factors: &[f64]| factors.iter().fold(0f32, |sum, &factor| sum.mul_add(square, factor as f32));
    (of(&ABOVE) * value / of(&BELOW) + 0.5).clamp(0.0, 1.0)
}

pub(super) fn probit(value: f32) -> f32 {
    std::f32::consts::SQRT_2 * inverse_erf(2.0 * value - 1.0)
}

/// Winitzki's approximation, with the constant that ONNX Runtime has.
fn inverse_erf(x: f32) -> f32 {
    const A: f32 = 0.147;
    let sign = if x < 0.0 { -1.0 } else { 1.0 };
    let log = ((1.0 - x) * (1.0 + x)).ln();
    let half = 2.0 / (std::f32::consts::PI * A) + 0.5 * log;
    sign * (-half + (half * half - (1.0 / A) * log).sqrt()).sqrt()
}

/// The largest score that is a number; the smallest there is where none is.
fn largest(scores: &[f32]) -> f32 {
    scores.iter().fold(-f32::MAX, |largest, &score| if score > largest { score } else { largest })
}

pub(super) fn softmax(scores: &mut [f32]) {
    let largest = largest(scores);
    let mut sum = 0.0;
    for score in scores.iter_mut() {
        *score = (*score - largest).exp();
        sum += *score;
    }
    scores.iter_mut().for_each(|score| *score /= sum);
}

/// Leaves zeros at zero.
fn softmax_zero(scores: &mut [f32]) {
    const ZERO: f32 = 0.000_000_1;
    let largest = largest(scores);
    let scale = (-largest).exp();
    let mut sum = 0.0;
    for score in scores.iter_mut() {
        if *score > ZERO || *score < -ZERO {
            *score = (*score - largest).exp();
            sum += *score;
        } else {
            *score *= scale;
        }
    }
    scores.iter_mut().for_each(|score| *score /= sum);
}

/// The position of the largest score, the first of equal ones; NaN is larger than nothing.
pub(super) fn best(scores: &[f32]) -> usize {
    let mut best = 0;
    for (class, score) in scores.iter().enumerate().skip(1) {
        if *score > scores[best] {
            best = class;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quick_logistic_is_onnx_runtimes_to_the_bit() {
        let values = [-30., -17., -12., -8.5, -5., -2.65, -0.3, 0.1, 3., 9., 16.5, 30., 0.];
        // As `Sigmoid` of ONNX Runtime 1.32 gives them.
        let bits = [
            0x0,
            0x33c0_0000,
            0x36cd_0000,
            0x3955_5800,
            0x3bdb_5040,
            0x3d87_2544,
            0x3ed9_e2ac,
            0x3f06_6509,
            0x3f73_dbe6,
            0x3f7f_f7ea,
            0x3f7f_fffe,
            0x3f80_0000,
            0x3f00_0000,
        ];
        for (value, bits) in values.into_iter().zip(bits) {
            assert_eq!(quick_logistic(value).to_bits(), bits, "{value}: {}", quick_logistic(value));
        }
        assert!(quick_logistic(f32::NAN).is_nan());
    }
}
