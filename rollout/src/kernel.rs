//! Given that something happened, from which arm did it come, and is that too often the challenger?
//!
//! The label test (kernel A). Every event carries a label: the challenger's or not. We dealt the traffic ourselves, so
//! that the label's law is known whatever the traffic does: with share w and rate ratio r (challenger / champion),
//!
//! ```text
//! p(r)   = w r / (w r + 1 − w)
//! L(r)   = Π [p(r)/p(r0)]^A [(1−p(r))/(1−p(r0))]^(1−A)      the evidence for r against r0
//! E      = mean of L(r_g) over 64 log-spaced ratios
//! ```
//!
//! For every true ratio ≤ r0 and r_g > r0, L is a supermartingale, and so is the mean: E ever reaches 1/α with a chance of
//! at most α (Ville). L depends on how many events of each label there were at each share and on nothing else, so that a
//! [`Tally`] is all the state, and the order of blocks does not matter. Sources: Robbins' mixtures; Lindon and Malek,
//! arXiv:2011.03567; Johari and others, arXiv:1512.04922.

use std::collections::BTreeMap;

use crate::evidence::{Arms, Group, Share, plus};
use crate::numbers::{exp, ln, ln_1p, ln_beta, ln_beta_above, ln_mean_exp, ln_sum_exp};
use crate::plan::MILLION;
use crate::search::Way;

/// G: how many ratios share the evidence.
pub const GRID: usize = 64;

/// The nearest ratio that is looked for, relative to the bound, and the farthest.
const NEAREST: f64 = 1.02;
const FARTHEST: f64 = 60.0;

/// k: how sure the test of the sample ratio is, beforehand, that the share is about right.
pub const SAMPLE_RATIO_WEIGHT: f64 = 2_000.0;

/// By how much a [rounded](Tally::add_exposed) share is too large at most, relative to it.
pub const ROUNDING: f64 = 1.0 / 32.0;

/// What is smaller than the largest by this, as a logarithm, changes no digit of a sum that has the largest in it: e^−38 is less
/// than half of 2⁻⁵², the last digit of 1.
const NOTHING: f64 = 38.0;

/// Ratios beyond these, as logarithms, are told as 0 and as unbounded.
const LN_RATIO_MAX: f64 = 9.3;

/// Events by the share that was in force: everything that the label test needs to know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally(BTreeMap<Share, Arms>);

impl Tally {
    /// Takes in events under `share`. Where one arm had everything, they tell nothing.
    pub fn add(&mut self, share: Share, events: Arms) {
        if share.is_split() && events != [0; 2] {
            let held = self.0.entry(share).or_default();
            *held = plus(*held, events);
        }
    }

    /// Takes in a group that was exposed alike. Given which runs had the event, each is the challenger's with the chance
    /// that a run is: they are drawn without putting back, which spreads less than the law above (Hoeffding 1963), so that
    /// E is at most what it would be. The chance is rounded up, which gives the challenger more than its due, by at most
    /// [`ROUNDING`]: so there are few shares to remember.
    pub fn add_exposed(&mut self, group: Group) {
        let [champion, challenger] = group.of.map(u128::from);
        let all = champion + challenger;
        let million = u128::from(MILLION);
        let chance = if all == 0 { 0 } else { (challenger * million).div_ceil(all) };
        // Six binary digits.
        let unit = 1u128 << (128 - chance.leading_zeros()).saturating_sub(6);
        let chance = chance.div_ceil(unit) * unit;
        // At most a million, or what is rounded up to it.
        self.add(Share::of(chance.min(million) as u32), group.events);
    }

    /// Events by arm, over all shares.
    pub fn total(&self) -> Arms {
        self.0.values().fold([0; 2], |sum, &events| plus(sum, events))
    }

    /// The events under each share, in the order of shares.
    pub fn by_share(&self) -> impl Iterator<Item = (Share, Arms)> {
        self.0.iter().map(|(&share, &events)| (share, events))
    }
}

/// What the likelihood of a ratio is made of: of each share w, the challenger's events and all.
struct Likelihood(Vec<[f64; 3]>);

impl Likelihood {
    fn of(tally: &Tally) -> Likelihood {
        let each = tally.by_share().map(|(share, [champion, challenger])| {
            [share.challengers(), challenger as f64, (champion + challenger) as f64]
        });
        Likelihood(each.collect())
    }

    /// ln of [p(r)^A (1−p(r))^(1−A)] over all events, up to what does not depend on `r`.
    fn ln(&self, ln_ratio: f64) -> f64 {
        let ratio = exp(ln_ratio);
        self.0.iter().map(|&[w, challenger, all]| challenger * ln_ratio - all * ln(w * ratio + 1.0 - w)).sum()
    }

    /// ln E for greater ratios against one: falls, and is below −ln α from the lower bound on.
    fn above(&self, alpha: f64) -> Way<impl Fn(f64) -> f64> {
        let [near, far] = [NEAREST, FARTHEST].map(ln);
        let value = move |null: f64| self.ln_mixture(null, null + near, null + far);
        Way { value, rises: false, level: -ln(alpha), noise: self.noise() }
    }

    /// ln E for smaller ratios against one: rises to −ln α at the upper bound.
    fn below(&self, alpha: f64) -> Way<impl Fn(f64) -> f64> {
        let [near, far] = [NEAREST, FARTHEST].map(ln);
        let value = move |null: f64| self.ln_mixture(null, null - near, null - far);
        Way { value, rises: true, level: -ln(alpha), noise: self.noise() }
    }

    /// What rounding makes of ln E at most: in as many sums as there are shares, of terms as large as all events together.
    fn noise(&self) -> f64 {
        let all: f64 = self.0.iter().map(|[_, _, all]| all).sum();
        8.0 * f64::EPSILON * (self.0.len() as f64 + 8.0) * (all + 8.0)
    }

    /// ln E for ratios from `near` to `far` (logarithms) against `null`.
    ///
    /// The logarithm of L is concave in ln r: once it has fallen by [`NOTHING`], all that follow are smaller still, and the
    /// sum is the same without them.
    fn ln_mixture(&self, null: f64, near: f64, far: f64) -> f64 {
        let base = self.ln(null);
        let step = (far - near) / (GRID - 1) as f64;
        let (mut logs, mut count, mut top) = ([0.0; GRID], 0, f64::NEG_INFINITY);
        for (g, held) in logs.iter_mut().enumerate() {
            let log = self.ln(near + step * g as f64) - base;
            if log < top - NOTHING {
                break;
            }
            (*held, count, top) = (log, g + 1, top.max(log));
        }
        ln_sum_exp(&logs[..count], GRID)
    }
}

/// ln E against "the ratio is at most 1 + `tolerance`": ratios from 1.02·(1 + δ) to 60.
pub fn ln_e_above(tally: &Tally, tolerance: f64) -> f64 {
    let null = ln_1p(tolerance);
    Likelihood::of(tally).ln_mixture(null, null + ln(NEAREST), ln(FARTHEST).max(null + ln(2.0)))
}

/// ln E against "the ratio is 1": half above, half below.
pub fn ln_e_two_sided(tally: &Tally) -> f64 {
    let ([near, far], likelihood) = ([NEAREST, FARTHEST].map(ln), Likelihood::of(tally));
    ln_mean_exp(&[likelihood.ln_mixture(0.0, near, far), likelihood.ln_mixture(0.0, -near, -far)])
}

/// ln E against "in each bin the ratio is at most 1 + `tolerance` and at least 1/(1 + `tolerance`)": the product over bins of
/// mixtures, half above and half below. An event falls in one bin and moves its factor alone, which is at most 1 on average, so that
/// the product is too.
pub fn ln_e_shift(bins: &[Tally], tolerance: f64) -> f64 {
    let null = ln_1p(tolerance);
    let (near, far) = (null + ln(NEAREST), ln(FARTHEST).max(null + ln(2.0)));
    let each = |bin: &Tally| {
        let likelihood = Likelihood::of(bin);
        ln_mean_exp(&[likelihood.ln_mixture(null, near, far), likelihood.ln_mixture(-null, -near, -far)])
    };
    bins.iter().map(each).sum()
}

/// ln E against "each bin has its share": the product over bins of the [two-sided](ln_e_two_sided) mixtures.
pub fn ln_e_bins(bins: &[Tally]) -> f64 {
    bins.iter().map(ln_e_two_sided).sum()
}

/// The always-valid p-value of the largest ln E so far.
pub fn p_value(ln_e_max: f64) -> f64 {
    exp(-ln_e_max).min(1.0)
}

/// The rate ratio's confidence bounds: `lower` is 0 and `upper` is `None` where there is no bound.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ratio {
    /// At least this.
    pub lower: f64,
    /// At most this.
    pub upper: Option<f64>,
}

/// Both bounds of the ratio, each missed with a chance of at most `alpha` at whatever time somebody looks.
///
/// Against a ratio r0, mixtures over r0·m (m from 1.02 to 60) and r0/m. The logarithm of L is concave in ln r, so that the
/// evidence that r is below r0 grows with r0: what is excluded is everything from some r0 on, and halving finds it.
pub fn ratio(tally: &Tally, alpha: f64) -> Ratio {
    let likelihood = Likelihood::of(tally);
    let (above, below) = (likelihood.above(alpha), likelihood.below(alpha));
    let [least, most] = [-LN_RATIO_MAX, LN_RATIO_MAX];
    let lower = if above.is_past(least) { 0.0 } else { exp(above.first(least, most)) };
    Ratio { lower, upper: below.is_past(most).then(|| exp(below.first(least, most))) }
}

/// Whether the upper bound of the [`ratio`], times `slack`, is at most `bound`: what comparing them says, and sooner.
pub fn is_ratio_at_most(tally: &Tally, alpha: f64, slack: f64, bound: f64) -> bool {
    match Likelihood::of(tally).below(alpha).is_clearly_past(ln(bound / slack)) {
        Some(is_past) if bound < FARTHEST && bound > 1.0 / FARTHEST => is_past,
        _ => ratio(tally, alpha).upper.is_some_and(|upper| upper * slack <= bound),
    }
}

/// ln E against "the ratio is at most 1 + `tolerance`" at one share `w`, in closed form: ratios spread so that p is
/// Beta(a, b), cut off at p0 = p(1 + δ).
///
/// E = B(a+n1, b+n0) [1 − I_p0(a+n1, b+n0)] / (B(a, b) [1 − I_p0(a, b)] p0^n1 (1−p0)^n0)
pub fn ln_e_beta(events: Arms, w: f64, tolerance: f64, [a, b]: [f64; 2]) -> f64 {
    let [champion, challenger] = events.map(|count| count as f64);
    let p = w * (1.0 + tolerance) / (w * (1.0 + tolerance) + 1.0 - w);
    let with = ln_beta(a + challenger, b + champion) + ln_beta_above(p, a + challenger, b + champion);
    let without = ln_beta(a, b) + ln_beta_above(p, a, b);
    with - without - challenger * ln(p) - champion * ln_1p(-p)
}

/// ln E against "units are dealt as configured": at each share the mixture Beta(k·w, k·(1−w)), k = 2,000, and the product
/// over shares. Always-valid, unlike a test that is looked at again and again.
pub fn ln_e_sample_ratio(tally: &Tally) -> f64 {
    let each = tally.by_share().map(|(share, units)| {
        let w = share.challengers();
        let [champion, challenger] = units.map(|count| count as f64);
        let (a, b) = (SAMPLE_RATIO_WEIGHT * w, SAMPLE_RATIO_WEIGHT * (1.0 - w));
        ln_beta(a + challenger, b + champion) - ln_beta(a, b) - challenger * ln(w) - champion * ln_1p(-w)
    });
    each.sum()
}

/// Which of K e-values (as logarithms) are discoveries at a false discovery rate of `alpha`, whatever they have to do with
/// each other (e-BH): the k largest, for the greatest k with e_(k) ≥ K/(k·α). Wang and Ramdas, arXiv:2009.02824.
pub fn e_bh(ln_e: &[f64], alpha: f64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..ln_e.len()).collect();
    order.sort_by(|&a, &b| ln_e[b].total_cmp(&ln_e[a]));
    let threshold = |k: usize| ln(ln_e.len() as f64 / (k as f64 * alpha));
    let count = (1..=order.len()).rev().find(|&k| ln_e[order[k - 1]] >= threshold(k)).unwrap_or(0);
    let mut found = order[..count].to_vec();
    found.sort_unstable();
    found
}

#[cfg(test)]
mod tests;
