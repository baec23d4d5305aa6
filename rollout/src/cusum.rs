//! After the promotion: has the new champion become worse than the old one was?
//!
//! There is nobody to compare it with any more but the previous version's frozen profile: so often did an event happen.
//! For each of 64 ratios r an e-CUSUM over blocks, and their mean (which is an e-detector as each of them is):
//!
//! ```text
//! L(r) = r^k [(1 − r p)/(1 − p)]^(n−k)        k events in a block of n units, p the rate that is still fine
//! M(r) = max(M(r), 1) · L(r);   alarm when the mean of M reaches 10⁶
//! ```
//!
//! Without a change it takes 10⁶ blocks on average until it cries wolf. Source: Shin, Ramdas and Rinaldo, arXiv:2203.03532.

use crate::kernel::GRID;
use crate::numbers::{exp, ln, ln_1p, ln_mean_exp};

/// The mean number of blocks between false alarms, at least.
pub const RUN_LENGTH: f64 = 1e6;

/// Watches one rate.
#[derive(Clone, Debug)]
pub struct Cusum {
    rate: f64,
    ln_m: [f64; GRID],
}

impl Cusum {
    /// Watches for rates above `rate`, 0 to 1: the profile's, with its tolerance.
    pub fn new(rate: f64) -> Cusum {
        Cusum { rate: rate.clamp(1e-9, 0.9), ln_m: [0.0; GRID] }
    }

    /// Takes in a block; returns ln of the mean M.
    pub fn add(&mut self, events: u64, units: u64) -> f64 {
        let (k, clean) = (events as f64, units.saturating_sub(events) as f64);
        // Rates stay below 1, whatever the ratio.
        let far = ln(60.0f64.min(0.99 / self.rate));
        let near = ln(1.02);
        let step = (far - near) / (GRID - 1) as f64;
        for (g, ln_m) in self.ln_m.iter_mut().enumerate() {
            let ln_r = near + step * g as f64;
            let ln_l = k * ln_r + clean * (ln_1p(-exp(ln_r) * self.rate) - ln_1p(-self.rate));
            *ln_m = ln_m.max(0.0) + ln_l;
        }
        self.ln_m()
    }

    /// ln of the mean M.
    pub fn ln_m(&self) -> f64 {
        ln_mean_exp(&self.ln_m)
    }

    /// Whether the rate has become too high.
    pub fn is_alarm(&self) -> bool {
        self.ln_m() >= ln(RUN_LENGTH)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_that_stays_as_it_was_is_no_alarm_and_one_that_trebles_is() {
        let mut cusum = Cusum::new(0.005 * 1.25);
        for _ in 0..10_000 {
            cusum.add(5, 1_000);
        }
        assert!(!cusum.is_alarm() && cusum.ln_m() < 0.5, "{}", cusum.ln_m());
        let blocks = (1..100).find(|_| {
            cusum.add(15, 1_000);
            cusum.is_alarm()
        });
        assert_eq!(blocks, Some(4), "the good time before does not weigh against it");
    }

    #[test]
    fn a_champion_that_never_failed_leaves_a_profile_that_can_be_watched() {
        let mut cusum = Cusum::new(0.0);
        cusum.add(0, 1_000_000);
        assert!(!cusum.is_alarm());
        cusum.add(5, 1_000);
        assert!(cusum.is_alarm());
    }
}
