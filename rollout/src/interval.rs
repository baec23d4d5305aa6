//! Between which bounds does a mean lie, at whatever time somebody looks?
//!
//! Values from 0 to 1 that come in pairs: [`EmpiricalBernstein`]. Outcomes of two arms: [`difference`]. Whole
//! distributions: [`band`].

use serde::{Deserialize, Serialize};

use crate::evidence::{Moments, Outcomes, Share, Sum};
use crate::numbers::{ln, ln_1p};

/// Two bounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interval {
    /// At least this.
    pub lower: f64,
    /// At most this.
    pub upper: f64,
}

/// The mean of values from 0 to 1: the predictable plug-in empirical-Bernstein confidence sequence on blocks.
///
/// ```text
/// μ̂, σ̂²  from earlier blocks:  μ̂ = (1/2 + Σx)/(n + 1),  σ̂² = (1/4 + Σv)/(n + 1),  v = (x − μ̂)²
/// λ   = min( √(2 ln(2/α) / (σ̂² t ln(1+t))), 1/2 )        t: about where the block will end
/// ψ(λ) = −ln(1−λ) − λ
/// CS  = ( Σ λx ± [ln(2/α) + Σ v ψ(λ)] ) / Σ λ
/// ```
///
/// λ and μ̂ are frozen from earlier blocks, hence predictable, hence valid; μ̂ lags by a block, which widens it a little.
/// Source: Waudby-Smith and Ramdas, arXiv:2010.09686.
#[derive(Clone, Debug)]
pub struct EmpiricalBernstein {
    /// ln(2/α).
    budget: f64,
    n: u64,
    /// How large the next block is thought to be: as the last.
    expected: u64,
    x: Sum,
    v: f64,
    lambda: f64,
    lambda_x: f64,
    psi_v: f64,
}

impl EmpiricalBernstein {
    /// Bounds that are missed with a chance of at most `alpha` together, half of it each. `expected`: values in the first
    /// block, about.
    pub fn new(alpha: f64, expected: u64) -> EmpiricalBernstein {
        let budget = ln(2.0 / alpha);
        EmpiricalBernstein { budget, n: 0, expected, x: Sum::default(), v: 0.0, lambda: 0.0, lambda_x: 0.0, psi_v: 0.0 }
    }

    /// Takes in the values of a block.
    pub fn add(&mut self, block: Moments) {
        if block.n == 0 {
            return;
        }
        let seen = self.n as f64;
        let mean = (0.5 + self.x.value()) / (seen + 1.0);
        let variance = (0.25 + self.v) / (seen + 1.0);
        let t = seen + self.expected.max(1) as f64;
        let lambda = (2.0 * self.budget / (variance * t * ln_1p(t))).sqrt().min(0.5);
        // Σ(x − μ̂)², from the sums.
        let v = (block.xx.value() - 2.0 * mean * block.x.value() + mean * mean * block.n as f64).max(0.0);
        self.lambda += lambda * block.n as f64;
        self.lambda_x += lambda * block.x.value();
        self.psi_v += v * (-ln_1p(-lambda) - lambda);
        self.v += v;
        self.x = self.x.plus(block.x);
        self.n += block.n;
        self.expected = block.n;
    }

    /// How many values.
    pub fn n(&self) -> u64 {
        self.n
    }

    /// Their mean; 1/2 of none.
    pub fn mean(&self) -> f64 {
        if self.n == 0 { 0.5 } else { self.x.value() / self.n as f64 }
    }

    /// The bounds, within 0 to 1.
    pub fn interval(&self) -> Interval {
        if self.lambda == 0.0 {
            return Interval { lower: 0.0, upper: 1.0 };
        }
        let (center, radius) = (self.lambda_x / self.lambda, (self.budget + self.psi_v) / self.lambda);
        Interval { lower: (center - radius).max(0.0), upper: (center + radius).min(1.0) }
    }

    /// ln E against "the mean is at most `mean`": Σ λ(x − mean) − Σ v ψ(λ). The lower bound lies above `mean` just where
    /// this is above ln(2/α).
    pub fn ln_e_above(&self, mean: f64) -> f64 {
        self.lambda_x - self.lambda * mean - self.psi_v
    }

    /// ln E against "the mean is at least `mean`".
    pub fn ln_e_below(&self, mean: f64) -> f64 {
        self.lambda * mean - self.lambda_x - self.psi_v
    }
}

/// What the difference of two arms' mean outcomes is, challenger − champion.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// Units of both arms.
    pub n: u64,
    /// τ̂.
    pub mean: f64,
    /// s: the standard deviation of a unit's τ.
    pub sd: f64,
}

/// The difference of mean outcomes over units of known shares, adjusted for a covariate:
///
/// ```text
/// Y' = Y − Ȳ − θ (Z − Z̄),   θ = cov(Y, Z)/var(Z)           over both arms
/// τ  = A Y'/w − (1−A) Y'/(1−w);   τ̂ = mean,  s² = variance
/// ```
///
/// Ȳ takes nothing away from τ̂ (what is the same in both arms cancels) and most of its variance. Without a covariate, all
/// Z are 0 and so is θ. Sources: Deng and others 2013; Lindon and others, arXiv:2210.08589.
pub fn difference(cohorts: &[(Share, [Outcomes; 2])]) -> Difference {
    let all = cohorts.iter().flat_map(|(_, arms)| arms).fold(Outcomes::default(), |sum, arm| sum.plus(*arm));
    let n = all.n as f64;
    if all.n < 2 {
        return Difference { n: all.n, mean: 0.0, sd: f64::INFINITY };
    }
    let (y, z) = (all.y.value() / n, all.z.value() / n);
    let variance = all.zz.value() / n - z * z;
    // A covariate that hardly varies explains nothing.
    let theta = if variance > 1e-12 { (all.yz.value() / n - y * z) / variance } else { 0.0 };
    // Y' = Y − θZ − shift.
    let shift = y - theta * z;
    let (mut sum, mut squares) = (0.0, 0.0);
    for (share, arms) in cohorts {
        let w = share.challengers();
        for (arm, weight) in arms.iter().zip([-1.0 / (1.0 - w), 1.0 / w]) {
            let n = arm.n as f64;
            let first = arm.y.value() - theta * arm.z.value();
            let second = arm.yy.value() - 2.0 * theta * arm.yz.value() + theta * theta * arm.zz.value();
            if arm.n > 0 {
                sum += weight * (first - shift * n);
                squares += weight * weight * (second - 2.0 * shift * first + shift * shift * n).max(0.0);
            }
        }
    }
    let mean = sum / n;
    Difference { n: all.n, mean, sd: (squares / n - mean * mean).max(0.0).sqrt() }
}

impl Difference {
    /// ρ² for an interval that is narrowest at `planned` units.
    fn rho_squared(alpha: f64, planned: u64) -> f64 {
        let doubled = -2.0 * ln(alpha);
        (doubled + ln(doubled + 1.0)) / planned.max(1) as f64
    }

    /// Both bounds: τ̂ ± s √( 2(tρ²+1)/(t²ρ²) · ln(√(tρ²+1)/α) ). An asymptotic confidence sequence: for many units, missed
    /// with a chance of about `alpha` at whatever time. Source: Waudby-Smith and others, arXiv:2103.06476.
    pub fn interval(&self, alpha: f64, planned: u64) -> Interval {
        let radius = self.radius(alpha, planned, |root| ln(root / alpha));
        Interval { lower: self.mean - radius, upper: self.mean + radius }
    }

    /// The lower bound alone: τ̂ − s √( 2(tρ²+1)/(t²ρ²) · ln(1 + √(tρ²+1)/(2α)) ).
    pub fn lower(&self, alpha: f64, planned: u64) -> f64 {
        self.mean - self.radius(alpha, planned, |root| ln_1p(root / (2.0 * alpha)))
    }

    /// The upper bound alone, missed with a chance of about `alpha`.
    pub fn upper(&self, alpha: f64, planned: u64) -> f64 {
        self.mean + self.radius(alpha, planned, |root| ln_1p(root / (2.0 * alpha)))
    }

    fn radius(&self, alpha: f64, planned: u64, log: impl Fn(f64) -> f64) -> f64 {
        let (t, rho) = (self.n as f64, Difference::rho_squared(alpha, planned));
        if self.n < 2 || !self.sd.is_finite() {
            return f64::INFINITY;
        }
        self.sd * (2.0 * (t * rho + 1.0) / (t * t * rho) * log((t * rho + 1.0).sqrt())).sqrt()
    }
}

/// The chance of error of a [`band`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confidence {
    /// 5 %.
    Alpha05,
    /// 1 %.
    Alpha01,
    /// 0.1 %.
    Alpha001,
}

/// How far an empirical distribution of `n` values is from the true one at most, at all n at once:
/// sup |F_n − F| ≤ 0.85 √((ln ln(e n) + C)/n), C = 8.12, 9.28, 10.94. Source: Howard and Ramdas, arXiv:1906.09712, theorem 2.
pub fn band(n: u64, confidence: Confidence) -> f64 {
    let c = match confidence {
        Confidence::Alpha05 => 8.12,
        Confidence::Alpha01 => 9.28,
        Confidence::Alpha001 => 10.94,
    };
    if n == 0 {
        return 1.0;
    }
    let n = n as f64;
    (0.85 * ((ln(1.0 + ln(n)) + c) / n).sqrt()).min(1.0)
}

/// How far two distributions over the same bins are apart, at their widest, and whether their bands separate there.
pub fn bands_separate(bins: &[[u64; 2]], confidence: Confidence) -> (f64, bool) {
    let total = bins.iter().fold([0u64; 2], |sum, bin| [sum[0] + bin[0], sum[1] + bin[1]]);
    if total.contains(&0) {
        return (0.0, false);
    }
    let (mut below, mut widest) = ([0u64; 2], 0.0f64);
    for bin in bins {
        below = [below[0] + bin[0], below[1] + bin[1]];
        let [a, b] = [0, 1].map(|arm| below[arm] as f64 / total[arm] as f64);
        widest = widest.max((a - b).abs());
    }
    (widest, widest > band(total[0], confidence) + band(total[1], confidence))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::MILLION;

    fn outcomes(values: &[(f64, f64)]) -> Outcomes {
        let mut outcomes = Outcomes::default();
        values.iter().for_each(|&(y, z)| outcomes.add(y, z));
        outcomes
    }

    #[test]
    fn a_block_of_equal_values_is_closed_in_upon() {
        let mut sequence = EmpiricalBernstein::new(0.05, 100);
        assert_eq!(sequence.interval(), Interval { lower: 0.0, upper: 1.0 });
        let mut block = Moments::default();
        (0..100).for_each(|_| block.add(0.25));
        let widths: Vec<f64> = (0..50)
            .map(|_| {
                sequence.add(block);
                let Interval { lower, upper } = sequence.interval();
                assert!(lower <= 0.25 && 0.25 <= upper);
                upper - lower
            })
            .collect();
        assert!(widths.is_sorted_by(|a, b| a >= b) && widths[49] < 0.01, "{widths:?}");
        sequence.add(Moments::default());
        assert_eq!((sequence.n(), sequence.mean()), (5_000, 0.25));
    }

    #[test]
    fn what_both_arms_have_in_common_cancels() {
        // Outcomes that the covariate explains but for 1/4 more in the challenger's.
        let values = [0.0, 1.0, 2.0, 3.0];
        let champion = outcomes(&values.map(|z| (10.0 + z, z)));
        let challenger = outcomes(&values.map(|z| (10.25 + z, z)));
        let found = difference(&[(Share::of(MILLION / 2), [champion, challenger])]);
        assert!((found.mean - 0.25).abs() < 1e-9 && found.sd < 1e-6, "{found:?}");
        let without = [champion, challenger].map(|arm| Outcomes {
            z: Sum::default(),
            zz: Sum::default(),
            yz: Sum::default(),
            ..arm
        });
        let plain = difference(&[(Share::of(MILLION / 2), without)]);
        assert!((plain.mean - 0.25).abs() < 1e-9 && plain.sd > 2.0, "{plain:?}");
    }

    #[test]
    fn nothing_is_known_of_nobody() {
        let found = difference(&[]);
        assert_eq!(found.lower(0.01, 1_000), f64::NEG_INFINITY);
        assert_eq!(band(0, Confidence::Alpha05), 1.0);
        assert_eq!(bands_separate(&[[5, 0], [5, 0]], Confidence::Alpha05), (0.0, false));
    }

    #[test]
    fn bands_are_as_wide_as_the_formula_says() {
        // 0.85 √((ln(1 + ln 10,000) + 8.12)/10,000), by hand.
        assert!((band(10_000, Confidence::Alpha05) - 0.027_469).abs() < 1e-6, "{}", band(10_000, Confidence::Alpha05));
        let apart = [[5_000, 2_000], [5_000, 8_000]];
        assert_eq!(bands_separate(&apart, Confidence::Alpha001), (0.3, true));
        assert!(!bands_separate(&[[50, 20], [50, 80]], Confidence::Alpha001).1);
    }
}
