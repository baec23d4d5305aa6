//! SIM-3, SIM-5 and SIM-9: how many labels does a verdict need, and is it right?

use tiltyard_rollout::cohort::Cohort;
use tiltyard_rollout::evidence::{Moments, Outcomes, Share};
use tiltyard_rollout::interval::{Difference, EmpiricalBernstein, difference};
use tiltyard_rollout::kernel::ln_e_beta;
use tiltyard_rollout::plan::{Design, Gain, Missing, Primary};

use super::{Found, lot::Lot, median, play};

const ALPHA: f64 = 0.01;
const HALF: u32 = 500_000;

/// SIM-3, paired: accuracy rises by `gain`, and the two differ in being right on a share of `disagreement` of the rows. A
/// look every 200 labels, up to `labels`. Median in labels.
pub(crate) fn paired(runs: u64, gain: f64, disagreement: f64, labels: u64) -> Found {
    play(runs, |lot| {
        let mut discordant = [0u64; 2];
        (1..=labels / 200).find_map(|look| {
            let differ = lot.binomial(200, disagreement);
            let won = lot.binomial(differ, (disagreement + gain) / (2.0 * disagreement));
            discordant = [discordant[0] + differ - won, discordant[1] + won];
            let ln_e = ln_e_beta(discordant, 0.5, 0.0, [5.0, 5.0]);
            (ln_e >= -libm::log(ALPHA)).then_some(look as f64 * 200.0)
        })
    })
}

/// `n` outcomes of which `right` are 1.
fn binary(n: u64, right: u64) -> Outcomes {
    let of = |y: f64| {
        let mut outcomes = Outcomes::default();
        outcomes.add(y, 0.0);
        outcomes
    };
    // Sums of ones are the count, exactly: no need to add them one by one.
    let (one, mut sum, mut left) = (of(1.0), Outcomes::default(), right);
    let mut power = one;
    while left > 0 {
        if left % 2 == 1 {
            sum = sum.plus(power);
        }
        power = power.plus(power);
        left /= 2;
    }
    Outcomes { n, ..sum }
}

/// SIM-3, split in half: accuracies of champion and challenger, t* = 50,000, a look every 2,000 labels, up to `labels`.
/// Median in labels.
pub(crate) fn split(runs: u64, accuracies: [f64; 2], labels: u64) -> Found {
    splits(runs, accuracies, labels, |found| found.lower(ALPHA, 50_000) > 0.0)
}

/// The same where the challenger is rolled back once it is shown to be worse: 0.1 % for it and three guardrails.
pub(crate) fn harm(runs: u64, accuracies: [f64; 2], labels: u64) -> Found {
    splits(runs, accuracies, labels, |found| found.upper(0.001 / 4.0, 50_000) < 0.0)
}

fn splits(runs: u64, accuracies: [f64; 2], labels: u64, is_over: impl Fn(&Difference) -> bool) -> Found {
    play(runs, |lot| {
        let mut arms = [Outcomes::default(); 2];
        (1..=labels / 2_000).find_map(|look| {
            let challengers = lot.binomial(2_000, 0.5);
            let counts = [2_000 - challengers, challengers];
            for arm in 0..2 {
                let right = lot.binomial(counts[arm], accuracies[arm]);
                arms[arm] = arms[arm].plus(binary(counts[arm], right));
            }
            let found = difference(&[(Share::of(HALF), arms)]);
            is_over(&found).then_some(look as f64 * 2_000.0)
        })
    })
}

/// SIM-5: 40,000 units over 14 days, 5 % positive in both arms; a positive's label takes 3.0 days in the champion's arm and
/// 1.5 in the challenger's, in the mean. The share of runs in which a difference is found that is not there: with labels as
/// they arrive, and with cohorts that have matured for 14 days. Looks twice a day, α = 0.01, both sides.
pub(crate) fn delayed(runs: u64, matures: bool) -> Found {
    const DAY_MS: u64 = 86_400_000;
    const UNITS: u64 = 40_000;
    let primary = Primary {
        metric: "default".into(),
        design: Design::Split,
        gain: Gain::Value,
        output: None,
        threshold: None,
        scale: None,
        label_depends_on_decision: true,
        horizon_ms: if matures { 14 * DAY_MS } else { 0 },
        missing: Missing::Value(0.0),
        margin: None,
        least_gain: None,
        harm: None,
        planned_units: UNITS,
    };
    play(runs, |lot| {
        // (exposed, challenger's, when its label arrives)
        let units: Vec<(u64, bool, Option<u64>)> = (0..UNITS)
            .map(|unit| {
                let (exposed, is_challengers) = (unit * 14 * DAY_MS / UNITS, lot.happens(0.5));
                let mean = if is_challengers { 1.5 } else { 3.0 };
                let delay = (lot.exponential(mean) * DAY_MS as f64) as u64;
                (exposed, is_challengers, lot.happens(0.05).then_some(exposed + delay))
            })
            .collect();
        let mut cohort = Cohort::new(&primary, UNITS as usize);
        let mut arms = [Outcomes::default(); 2];
        if matures {
            for (key, &(exposed, is_challengers, arrives)) in units.iter().enumerate() {
                cohort.expose(key as u64, 1, exposed, Share::of(HALF), is_challengers, 0.0);
                arrives.map(|arrives| cohort.label(key as u64, 0, arrives, Some(1.0)));
            }
        }
        (1..=56u64).find_map(|look| {
            let now = look * DAY_MS / 2;
            if matures {
                for matured in cohort.mature(now) {
                    arms = std::array::from_fn(|arm| arms[arm].plus(matured.outcomes[arm]));
                }
            } else {
                let seen = units.iter().filter(|unit| unit.0 <= now);
                let (mut counts, mut positives) = ([0; 2], [0; 2]);
                for &(_, is_challengers, arrives) in seen {
                    counts[usize::from(is_challengers)] += 1;
                    positives[usize::from(is_challengers)] += u64::from(arrives.is_some_and(|arrives| arrives <= now));
                }
                arms = std::array::from_fn(|arm| binary(counts[arm], positives[arm]));
            }
            let found = difference(&[(Share::of(HALF), arms)]).interval(ALPHA, UNITS);
            (found.lower > 0.0 || found.upper < 0.0).then_some(now as f64)
        })
    })
}

/// What became of a confidence sequence.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Coverage {
    /// The share of runs in which the truth was ever outside.
    pub(crate) missed: f64,
    /// Half the width at 1,000 values, in the median.
    pub(crate) at_1_000: f64,
    /// Half the width at 20,000 values, in the median.
    pub(crate) at_20_000: f64,
}

/// SIM-9 on blocks: 20,000 values of Beta(2, 18), α = 0.05, looked at after every block.
pub(crate) fn bounded(runs: u64, block: u64) -> Coverage {
    let (mut missed, mut early, mut late) = (0, Vec::new(), Vec::new());
    for seed in 0..runs {
        let lot = &mut Lot::new(seed);
        let mut sequence = EmpiricalBernstein::new(0.05, block);
        let mut was_outside = false;
        for _ in 0..20_000 / block {
            let mut values = Moments::default();
            (0..block).for_each(|_| values.add(lot.beta(2, 18)));
            sequence.add(values);
            let found = sequence.interval();
            was_outside |= !(found.lower..=found.upper).contains(&0.1);
            match sequence.n() {
                1_000 => early.push((found.upper - found.lower) / 2.0),
                20_000 => late.push((found.upper - found.lower) / 2.0),
                _ => {}
            }
        }
        missed += u64::from(was_outside);
    }
    Coverage { missed: missed as f64 / runs as f64, at_1_000: median(early), at_20_000: median(late) }
}
