//! How often does an event happen at most, by the challenger's own count alone?
//!
//! For decision 2 of the judge (a rate that is small in itself passes, whatever the champion's is) and for comparisons
//! that must show hardly any mismatch. Against "the rate is at least p", the evidence for smaller ones, m·p:
//!
//! ```text
//! L(m) = m^k [(1 − m p)/(1 − p)]^(n−k)        k events in n units
//! E    = 15/16 · L(0) + 1/16 · mean over 64 log-spaced m of L(m)
//! ```
//!
//! L(m) is a supermartingale for every rate ≥ p, so that the bound holds at whatever time somebody looks. Most of the
//! weight is on "never": without any event, p ≤ 0.1 % takes 6,942 units at α = 0.001, where a test that gives up at the
//! first event takes 6,905.

use crate::kernel::GRID;
use crate::numbers::{exp, ln, ln_1p, ln_mean_exp};
use crate::search::Way;

/// How much of the evidence is kept for rates above zero.
const REST: f64 = 1.0 / 16.0;

/// The smallest rate that is looked for, relative to the bound, and the nearest.
const SMALLEST: f64 = 1.0 / 60.0;
const NEAREST: f64 = 1.0 / 1.02;

/// Rates that are bounds at least and at most.
const LEAST: f64 = 1e-12;
const MOST: f64 = 0.999_999;

/// Some events in some units, and the ratios m with their logarithms.
struct Likelihood {
    events: u64,
    clean: f64,
    grid: [[f64; 2]; GRID],
}

impl Likelihood {
    fn of(events: u64, units: u64) -> Likelihood {
        let step = ln(NEAREST / SMALLEST) / (GRID - 1) as f64;
        let grid = std::array::from_fn(|g| {
            let ln_m = ln(SMALLEST) + step * g as f64;
            [ln_m, exp(ln_m)]
        });
        Likelihood { events, clean: units.saturating_sub(events) as f64, grid }
    }

    /// ln E against "the rate is at least p", of ln p: rises to −ln α at the upper bound, as the logarithm of L is concave.
    fn way(self, alpha: f64) -> Way<impl Fn(f64) -> f64> {
        let noise = 64.0 * f64::EPSILON * (self.events as f64 + 16.0);
        Way { value: move |ln_p| self.ln_e_below(exp(ln_p)), rises: true, level: -ln(alpha), noise }
    }

    /// ln E against "the rate is at least `p`".
    fn ln_e_below(&self, p: f64) -> f64 {
        let (k, base) = (self.events as f64, ln_1p(-p));
        let logs = self.grid.map(|[ln_m, m]| k * ln_m + self.clean * (ln_1p(-m * p) - base));
        let some = ln(REST) + ln_mean_exp(&logs);
        if self.events > 0 {
            return some;
        }
        let none = ln(1.0 - REST) - self.clean * base;
        ln(2.0) + ln_mean_exp(&[none, some])
    }
}

/// An upper bound of the rate that is missed with a chance of at most `alpha` at whatever time; 1 where nothing is known.
pub fn upper(events: u64, units: u64, alpha: f64) -> f64 {
    let (way, most) = (Likelihood::of(events, units).way(alpha), ln(MOST));
    if way.is_past(most) { exp(way.first(ln(LEAST), most)) } else { 1.0 }
}

/// Whether [`upper`] is at most `bound`: what comparing them says, and sooner.
pub fn is_at_most(events: u64, units: u64, alpha: f64, bound: f64) -> bool {
    // Within them by more than there can be doubt.
    let is_inside = bound > 2.0 * LEAST && bound < MOST / 2.0;
    match is_inside.then(|| Likelihood::of(events, units).way(alpha).is_clearly_past(ln(bound))) {
        Some(Some(is_past)) => is_past,
        _ => upper(events, units, alpha) <= bound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decision 2: about 6,908 clean units show an error rate of 0.1 % at most; 3.4: 69,075 one of 0.01 %.
    #[test]
    fn clean_units_show_a_small_rate() {
        assert!(upper(0, 6_941, 0.001) > 0.001 && upper(0, 6_942, 0.001) <= 0.001);
        assert!(upper(0, 69_446, 0.001) > 1e-4 && upper(0, 69_447, 0.001) <= 1e-4);
        assert_eq!(upper(0, 0, 0.001), 1.0);
    }

    #[test]
    fn an_event_or_two_cost_more_units_and_not_all() {
        let needed = |events| (1..100).map(|k| k * 1_000).find(|&n| upper(events, n, 0.001) <= 0.001).expect("some");
        assert_eq!([0, 1, 3, 10].map(needed), [7_000, 14_000, 20_000, 34_000]);
    }

    #[test]
    fn the_bound_is_above_the_rate_and_comes_nearer() {
        let bounds: Vec<f64> = [1_000u64, 100_000, 10_000_000].map(|n| upper(n / 100, n, 0.001)).to_vec();
        assert!(bounds.iter().all(|&bound| bound > 0.01) && bounds.is_sorted_by(|a, b| a > b), "{bounds:?}");
        assert!(bounds[2] < 0.0103, "{bounds:?}");
    }

    #[test]
    fn whether_a_bound_is_kept_is_what_the_bound_says() {
        for (events, units) in
            [(0, 0), (0, 1), (0, 6_941), (0, 6_942), (3, 20_000), (40, 9_000), (9, 9), (700, 123_456)]
        {
            let bound = upper(events, units, 0.001);
            for other in
                [0.0, 1e-13, 0.001, bound, bound.next_down(), bound * 0.999, bound * 1.001, 0.999_999, 1.0, 7.0]
            {
                assert_eq!(
                    is_at_most(events, units, 0.001, other),
                    bound <= other,
                    "{events} of {units}: {bound}, {other}"
                );
            }
        }
    }
}
