//! How are many small things drawn at once, from a seed?

use std::ops::{Deref, DerefMut};

use crate::lot::Lot;

/// A [`Lot`] that is quick where means are large.
#[derive(Clone, Debug)]
pub(crate) struct Chance(Lot);

impl Deref for Chance {
    type Target = Lot;

    fn deref(&self) -> &Lot {
        &self.0
    }
}

impl DerefMut for Chance {
    fn deref_mut(&mut self) -> &mut Lot {
        &mut self.0
    }
}

impl Chance {
    /// The chance of a seed, one of many for different purposes.
    pub(crate) fn new(seed: u64, purpose: u64) -> Chance {
        Chance(Lot::new(seed ^ (purpose << 48)))
    }

    /// Gamma with a shape of 1 at least (Marsaglia and Tsang).
    fn gamma(&mut self, shape: f64) -> f64 {
        let d = shape - 1.0 / 3.0;
        let c = 1.0 / (9.0 * d).sqrt();
        loop {
            let x = self.normal();
            let v = (1.0 + c * x) * (1.0 + c * x) * (1.0 + c * x);
            if v > 0.0 && libm::log(self.uniform()) < 0.5 * x * x + d - d * v + d * libm::log(v) {
                return d * v;
            }
        }
    }

    /// Beta, with parameters of 1 at least.
    pub(crate) fn beta(&mut self, a: f64, b: f64) -> f64 {
        let (x, y) = (self.gamma(a), self.gamma(b));
        x / (x + y)
    }

    /// Poisson: by inversion from the mode, and normal where nobody can tell.
    pub(crate) fn poisson(&mut self, mean: f64) -> u64 {
        if mean <= 0.0 {
            return 0;
        }
        if mean > 2_000.0 {
            return (mean + mean.sqrt() * self.normal()).round().max(0.0) as u64;
        }
        let mode = mean.floor();
        let top = libm::exp(mode * libm::log(mean) - mean - libm::lgamma(mode + 1.0));
        self.about_mode(mode as u64, top, u64::MAX, |k| mean / k as f64)
    }

    /// Binomial, likewise.
    pub(crate) fn binomial(&mut self, n: u64, p: f64) -> u64 {
        if n == 0 || p <= 0.0 {
            return 0;
        }
        if p > 0.5 {
            return n - self.binomial(n, 1.0 - p);
        }
        let all = n as f64;
        let variance = all * p * (1.0 - p);
        if variance > 2_000.0 {
            return (all * p + variance.sqrt() * self.normal()).round().clamp(0.0, all) as u64;
        }
        let (mode, odds) = (((all + 1.0) * p).floor().min(all), p / (1.0 - p));
        let ways = libm::lgamma(all + 1.0) - libm::lgamma(mode + 1.0) - libm::lgamma(all - mode + 1.0);
        let top = libm::exp(ways + mode * libm::log(p) + (all - mode) * libm::log1p(-p));
        self.about_mode(mode as u64, top, n, |k| (n - k + 1) as f64 / k as f64 * odds)
    }

    /// Inversion that begins at the mode and goes to both sides. `step(k)` is P(k) / P(k − 1).
    fn about_mode(&mut self, mode: u64, top: f64, most: u64, step: impl Fn(u64) -> f64) -> u64 {
        let mut left = self.uniform() - top;
        let (mut low, mut high, mut p_low, mut p_high) = (mode, mode, top, top);
        while left > 0.0 {
            let (was_low, was_high) = (low, high);
            if low > 0 {
                p_low /= step(low);
                low -= 1;
                left -= p_low;
                if left <= 0.0 {
                    return low;
                }
            }
            if high < most {
                high += 1;
                p_high *= step(high);
                left -= p_high;
                if left <= 0.0 {
                    return high;
                }
            }
            // What rounding left over belongs nowhere.
            if (low, high) == (was_low, was_high) || p_low.max(p_high) < 1e-18 {
                return mode;
            }
        }
        mode
    }
}
