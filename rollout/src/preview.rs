//! How long will it take until a verdict, before anybody is touched?
//!
//! The tests themselves are run on the counts that are expected, not on drawn ones: about half of all rollouts decide
//! earlier and half later. Nothing here decides anything.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::evidence::{Labels, Moments, Share, Sum};
use crate::interval::Difference;
use crate::kernel::{Tally, ln_e_above, ln_e_beta, ratio};
use crate::numbers::{exp, ln, normal_below};
use crate::paired::Paired;
use crate::plan::{Guardrail, Plan};
use crate::rate;

/// What is known of the traffic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Traffic {
    /// Units (requests, or new keys where the plan is sticky) per second, over all arms.
    pub units_per_second: f64,
    /// How often a unit has the event of a guardrail, 0 to 1, by metric. Others are thought never to happen.
    pub rates: BTreeMap<String, f64>,
    /// How many times as often a bad challenger has them, above 1.
    pub effect: f64,
}

/// What is to be expected. Times are in milliseconds from the challenger's first share; `None`: not before the time is over.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Forecast {
    /// When each step begins.
    pub steps_ms: Vec<u64>,
    /// When the last step ends.
    pub baking_ms: u64,
    /// When a challenger that is as good as the champion has passed every guardrail, its time and its units.
    pub promotion_ms: Option<u64>,
    /// By guardrail.
    pub guardrails: Vec<GuardrailForecast>,
}

/// What is to be expected of one guardrail.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GuardrailForecast {
    /// Its metric.
    pub metric: String,
    /// When a challenger that is as good as the champion has passed.
    pub passes_ms: Option<u64>,
    /// When one that has the event more often, by [`Traffic::effect`], is rolled back.
    pub catches_ms: Option<u64>,
    /// How many events more it has had by then than the champion would have had of the same units.
    pub excess: Option<f64>,
}

/// What `plan` will take under `traffic`.
pub fn preview(plan: &Plan, traffic: &Traffic) -> Forecast {
    let course = Course::new(plan, traffic);
    let policy = &plan.policy;
    let threshold = ln(policy.alarms() as f64 / policy.alpha_guardrails);
    let forecast = |rule: &Guardrail| {
        let rate = traffic.rates.get(&rule.metric).copied().unwrap_or(0.0);
        let passes = |ms| {
            let own = course.units(ms)[1];
            let most = rule
                .floor
                .map(|floor| rate::upper((own * rate).round() as u64, own as u64, policy.alpha_guardrails) <= floor);
            let bound = 1.0 + rule.margin;
            most == Some(true)
                || ratio(&course.events(ms, rate, 1.0), policy.alpha_guardrails)
                    .upper
                    .is_some_and(|upper| upper <= bound)
        };
        let catches = |ms| ln_e_above(&course.events(ms, rate, traffic.effect), rule.tolerance) >= threshold;
        let catches_ms = course.first(catches);
        let more = (rate * traffic.effect).min(1.0) - rate;
        GuardrailForecast {
            metric: rule.metric.clone(),
            passes_ms: course.first(passes),
            catches_ms,
            excess: catches_ms.map(|ms| course.units(ms)[1] * more),
        }
    };
    let guardrails: Vec<GuardrailForecast> = policy.guardrails.iter().map(forecast).collect();
    let enough = course.first(|ms| course.units(ms).iter().all(|&units| units >= policy.min_units as f64));
    let waits = guardrails.iter().map(|guardrail| guardrail.passes_ms).chain([enough]);
    let last = waits.collect::<Option<Vec<u64>>>().and_then(|waits| waits.into_iter().max());
    let baking_ms = course.baking_ms();
    let promotion_ms = last.map(|last| last.max(policy.min_time_ms).max(baking_ms));
    let promotion_ms = promotion_ms.filter(|&ms| ms <= policy.max_time_ms);
    let steps_ms = course.steps.iter().take(plan.steps.len()).map(|&(from, _)| from).collect();
    Forecast { steps_ms, baking_ms, promotion_ms, guardrails }
}

/// The shares that a rollout has over time, if nothing stops it.
struct Course {
    /// (from, share), the last without an end.
    steps: Vec<(u64, Share)>,
    units_per_ms: f64,
    max_ms: u64,
}

impl Course {
    fn new(plan: &Plan, traffic: &Traffic) -> Course {
        let units_per_ms = traffic.units_per_second / 1_000.0;
        let (mut from, mut steps) = (0u64, Vec::new());
        for step in &plan.steps {
            let share = Share::of(step.share);
            steps.push((from, share));
            // What is never reached takes longer than anything: `as` cuts it off.
            let units_ms = step.min_units as f64 / (units_per_ms * share.challengers());
            from = from.saturating_add(step.min_time_ms.max(units_ms.ceil() as u64));
        }
        steps.push((from, steps.last().map_or(Share::of(0), |&(_, share)| share)));
        Course { steps, units_per_ms, max_ms: plan.policy.max_time_ms }
    }

    fn baking_ms(&self) -> u64 {
        self.steps.last().map_or(0, |&(from, _)| from)
    }

    /// Each share's units by then.
    fn by_share(&self, ms: u64) -> impl Iterator<Item = (Share, f64)> {
        let ends = self.steps.iter().skip(1).map(|&(from, _)| from).chain([u64::MAX]);
        self.steps
            .iter()
            .zip(ends)
            .map(move |(&(from, share), end)| (share, ms.min(end).saturating_sub(from) as f64 * self.units_per_ms))
    }

    fn units(&self, ms: u64) -> [f64; 2] {
        self.by_share(ms).fold([0.0; 2], |[a, b], (share, units)| {
            let w = share.challengers();
            [a + units * (1.0 - w), b + units * w]
        })
    }

    fn events(&self, ms: u64, rate: f64, ratio: f64) -> Tally {
        let mut tally = Tally::default();
        for (share, units) in self.by_share(ms) {
            let w = share.challengers();
            let events = [units * (1.0 - w) * rate, units * w * (rate * ratio).min(1.0)];
            tally.add(share, events.map(|count| count.round() as u64));
        }
        tally
    }

    /// The first time, to about a second, at which something holds that will go on holding.
    fn first(&self, holds: impl Fn(u64) -> bool) -> Option<u64> {
        let (mut from, mut to) = (0, self.max_ms);
        if !holds(to) {
            return None;
        }
        while to - from > 1_000 {
            let middle = from + (to - from) / 2;
            if holds(middle) { to = middle } else { from = middle }
        }
        Some(to)
    }
}

/// Discordant pairs up to which the median is computed.
const PAIRS_MAX: u64 = 20_000;

/// How many labels pairs of answers need, in the median, until a challenger that is better by `gain` has won at `alpha`,
/// where both are right or wrong and differ in that on a share of `disagreement` of the rows, and somebody looks every
/// `block` labels. `None`: too many to tell.
///
/// The distribution of the discordant pairs that the challenger won is followed pair by pair; who has won leaves it.
pub fn paired_labels(gain: f64, disagreement: f64, alpha: f64, block: u64) -> Option<u64> {
    let p = (disagreement + gain) / (2.0 * disagreement);
    if gain <= 0.0 || p > 1.0 {
        return None;
    }
    let (threshold, mut alive, mut needed, mut won) = (-ln(alpha), vec![1.0], 1u64, 0.0);
    let look = ((block as f64 * disagreement).round() as u64).max(1);
    let is_won = |pairs: u64, wins: u64| ln_e_beta([pairs - wins, wins], 0.5, 0.0, [5.0, 5.0]) >= threshold;
    for pairs in 1..=PAIRS_MAX {
        alive.push(0.0);
        for wins in (1..alive.len()).rev() {
            alive[wins] = alive[wins] * (1.0 - p) + alive[wins - 1] * p;
        }
        alive[0] *= 1.0 - p;
        if !pairs.is_multiple_of(look) {
            continue;
        }
        // With every loss, more wins are needed: never fewer than before.
        while needed <= pairs && !is_won(pairs, needed) {
            needed += 1;
        }
        won += alive.drain(alive.len().min(needed as usize)..).sum::<f64>();
        if won >= 0.5 {
            return Some((pairs as f64 / disagreement).ceil() as u64);
        }
    }
    None
}

/// Labels up to which losses that are no bits are followed.
const BOUNDED_MAX: u64 = 10_000_000;

/// How many labels pairs of losses in [0, 1] need until the gain is shown to be above `needed` at `alpha`, where it is `gain`
/// with the standard deviation `sd` from row to row, and somebody looks every `block` labels. `None`: more than 10⁷.
///
/// The confidence sequence is fed with blocks of just these moments.
pub fn bounded_labels(gain: f64, sd: f64, needed: f64, alpha: f64, block: u64) -> Option<u64> {
    if gain <= needed {
        return None;
    }
    let (n, mean, block) = (block as f64, (gain + 1.0) / 2.0, block.max(1));
    let moments = Moments { n: block, x: Sum::of(n * mean), xx: Sum::of(n * (sd * sd / 4.0 + mean * mean)) };
    let mut paired = Paired::new(alpha);
    let labels = Labels { paired: moments, ..Labels::default() };
    while paired.n() < BOUNDED_MAX {
        paired.add(&labels);
        if paired.interval().is_some_and(|interval| interval.lower > needed) {
            return Some(paired.n());
        }
    }
    None
}

/// How many a split needs, in the median, where outcomes have the standard deviation `sd`, at the challenger's share `w`,
/// planned for `planned` units, and somebody looks every `block` labels. `None`: more than 10⁹.
///
/// The sum of the units' differences is taken for a Brownian motion with drift μ, in units of their standard deviation. It
/// has won once it is above t·radius(t), of which the tangent a + c·s at t is taken:
///
/// ```text
/// P(won by t) = Φ((δt − a)/√t) + exp(2aδ) Φ((−δt − a)/√t),   δ = μ − c
/// ```
///
/// As nobody looks in between, the line lies higher by 0.5826·√block (Siegmund).
pub fn split_labels(gain: f64, sd: f64, w: f64, alpha: f64, planned: u64, block: u64) -> Option<u64> {
    if gain <= 0.0 {
        return None;
    }
    let drift = gain * (w * (1.0 - w)).sqrt() / sd;
    let line = |n: u64| n as f64 * -Difference { n, mean: 0.0, sd: 1.0 }.lower(alpha, planned);
    needed(|n| {
        if n < 3 {
            return false;
        }
        let (t, step) = (n as f64, (n / 1_000).max(1));
        let slope = (line(n + step) - line(n - step)) / (2.0 * step as f64);
        let (start, drift) = (line(n) - slope * t + 0.5826 * (block as f64).sqrt(), drift - slope);
        if drift * t >= start {
            return true;
        }
        let below = |x: f64| normal_below(x / t.sqrt());
        below(drift * t - start) + exp(2.0 * start * drift) * below(-drift * t - start) >= 0.5
    })
}

/// The smallest count that is enough.
fn needed(is_enough: impl Fn(u64) -> bool) -> Option<u64> {
    let (mut from, mut to) = (0u64, 1_000_000_000);
    if !is_enough(to) {
        return None;
    }
    while to - from > 1 {
        let middle = from + (to - from) / 2;
        if is_enough(middle) { to = middle } else { from = middle }
    }
    Some(to)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::ramp;

    const MINUTE_MS: u64 = 60_000;

    fn forecast(units_per_second: f64, rate: f64) -> Forecast {
        let mut plan = ramp(&[10_000, 50_000, 250_000, 500_000]);
        plan.policy.min_time_ms = 60 * MINUTE_MS;
        plan.policy.max_time_ms = 24 * 60 * MINUTE_MS;
        preview(&plan, &Traffic { units_per_second, rates: [("errors".to_owned(), rate)].into(), effect: 2.0 })
    }

    #[test]
    fn more_traffic_decides_sooner_and_too_little_says_so_beforehand() {
        let [slow, fast] = [10.0, 1_000.0].map(|rate| forecast(rate, 0.005));
        assert_eq!((slow.baking_ms, fast.baking_ms), (40 * MINUTE_MS, 40 * MINUTE_MS));
        let catches = |forecast: &Forecast| forecast.guardrails[0].catches_ms.expect("in a day");
        // SIM-2: 2x at 1,000 requests/s after 12 minutes; at 10, hardly ever within the hour.
        assert!((11 * MINUTE_MS..14 * MINUTE_MS).contains(&catches(&fast)), "{}", catches(&fast));
        assert!(catches(&slow) > 60 * MINUTE_MS, "{}", catches(&slow));
        // 12 minutes at 1,000 a second: ten at 1 % and two at 5 %, of which a half percent too many fail.
        assert!(fast.guardrails[0].excess.is_some_and(|excess| (45.0..70.0).contains(&excess)), "{fast:?}");
        assert_eq!(fast.steps_ms, [0, 10, 20, 30].map(|minutes| minutes * MINUTE_MS));
        assert_eq!(fast.promotion_ms, Some(60 * MINUTE_MS), "the least time is what it waits for");
        assert!(slow.promotion_ms.is_some_and(|ms| ms > 60 * MINUTE_MS), "{slow:?}");
        assert_eq!(forecast(0.01, 0.005).promotion_ms, None);
    }

    #[test]
    fn a_service_that_never_fails_passes_by_its_floor() {
        let found = forecast(100.0, 0.0);
        assert!(found.guardrails[0].passes_ms.is_some_and(|ms| ms < 30 * MINUTE_MS), "{found:?}");
        assert_eq!(found.guardrails[0].catches_ms, None, "twice nothing is nothing");
    }

    /// statistics.md, 3.5: medians of simulated runs beside what is expected.
    #[test]
    fn labels_that_are_needed_are_about_those_of_the_simulation() {
        for (gain, disagreement, median) in
            [(0.01, 0.04, 4_200.0), (0.005, 0.03, 11_800.0), (0.003, 0.02, 22_300.0), (0.01, 0.06, 6_200.0)]
        {
            let found = paired_labels(gain, disagreement, 0.01, 200).expect("some") as f64;
            assert!((found / median - 1.0).abs() < 0.1, "{found}, simulated {median}");
        }
        // As `examples/simulate.rs` found them.
        for (gain, sd, median) in [(0.01, 0.293, 38_000.0), (0.005, 0.296, 134_000.0), (0.003, 0.215, 204_000.0)] {
            let found = split_labels(gain, sd, 0.5, 0.01, 50_000, 2_000).expect("some") as f64;
            assert!((found / median - 1.0).abs() < 0.1, "{found}, simulated {median}");
        }
        // As `examples/labels` found them of models of digits: a few hundred are told as well as many.
        for (gain, sd, planned, median) in [(0.113, 0.2883, 262, 270.0), (0.078, 0.2666, 469, 460.0)] {
            let found = split_labels(gain, sd, 0.5, 0.01, planned, 10).expect("some") as f64;
            assert!((found / median - 1.0).abs() < 0.1, "{found}, simulated {median}");
        }
        assert_eq!(split_labels(0.0, 0.3, 0.5, 0.01, 50_000, 2_000), None);
        assert_eq!(paired_labels(0.0, 0.04, 0.01, 200), None);
    }

    #[test]
    fn losses_of_such_moments_need_about_so_many_labels() {
        for (gain, sd, needed) in [(0.02f64, 0.1f64, 0.0f64), (0.004, 0.05, 0.0), (-0.001, 0.02, -0.005)] {
            let mut paired = Paired::new(0.01);
            while paired.interval().is_none_or(|interval| interval.lower <= needed) {
                let mut labels = Labels::default();
                for row in 0..10 {
                    let d = gain + if row % 2 == 0 { sd } else { -sd };
                    labels.paired.add((d + 1.0) / 2.0);
                }
                paired.add(&labels);
            }
            assert_eq!(bounded_labels(gain, sd, needed, 0.01, 10), Some(paired.n()), "{gain} {sd}");
        }
        assert_eq!(bounded_labels(0.0, 0.1, 0.0, 0.01, 10), None);
        assert_eq!(bounded_labels(1e-5, 0.5, 0.0, 0.01, 1_000), None);
    }
}
