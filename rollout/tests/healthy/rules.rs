//! What would rules do that count how often a threshold was crossed, as Argo Rollouts and Flagger document them?

use crate::play::RAMP;
use crate::traffic::{Scene, Strip, Traffic};
use tiltyard_rollout::evidence::{Arms, Share};

/// Argo Rollouts: an analysis each minute; more failed measurements than this abort.
const FAILURE_LIMIT: u32 = 3;

/// Flagger: so many failed checks roll back.
const CHECKS: u32 = 10;

/// What such a rule came to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ruled {
    pub(crate) aborted: bool,
    pub(crate) minutes: u64,
    pub(crate) excess: f64,
}

/// By what a canary's minute fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Threshold {
    /// More than 1 % of its requests fail.
    OnePercent,
    /// More than 1.2 times as many as the stable version's.
    Baseline,
}

impl Threshold {
    fn is_crossed(self, requests: Arms, failures: Arms) -> bool {
        let rate = |arm: usize| failures[arm] as f64 / requests[arm].max(1) as f64;
        match self {
            Threshold::OnePercent => rate(1) > 0.01,
            Threshold::Baseline => rate(1) > (1.2 * rate(0)).max(1e-4),
        }
    }
}

/// Argo Rollouts along the same hour as the judge's ramp.
pub(crate) fn argo(scene: Scene, rps: f64, ratio: f64, seed: u64, threshold: Threshold) -> Ruled {
    let mut traffic = Traffic::new(scene, rps, ratio, seed, false, Strip::Nothing);
    let (mut minute, mut crossed, mut sum) = (0, 0, 0.0);
    for (share, minutes) in RAMP {
        let until = minute + minutes;
        while minute < until {
            let seen = traffic.seen(minute..minute + 1, Share::of(share), until);
            sum += seen.excess();
            minute += 1;
            crossed += u32::from(threshold.is_crossed(seen.requests, seen.failures));
            if crossed > FAILURE_LIMIT {
                return Ruled { aborted: true, minutes: minute, excess: sum };
            }
        }
    }
    Ruled { aborted: false, minutes: minute, excess: sum }
}

/// Flagger: 5 % more with each minute in which 99 % were answered, up to 50 %; a failed check waits, and ten roll back.
pub(crate) fn flagger(scene: Scene, rps: f64, ratio: f64, seed: u64) -> Ruled {
    let mut traffic = Traffic::new(scene, rps, ratio, seed, false, Strip::Nothing);
    let (mut minute, mut failed, mut sum, mut weight) = (0, 0, 0.0, 50_000);
    while weight <= 500_000 {
        // Nobody knows for how long this share stays: until the last check fails at most.
        let until = minute + u64::from(CHECKS) + 1;
        let seen = traffic.seen(minute..minute + 1, Share::of(weight), until);
        sum += seen.excess();
        minute += 1;
        if Threshold::OnePercent.is_crossed(seen.requests, seen.failures) {
            failed += 1;
            if failed >= CHECKS {
                return Ruled { aborted: true, minutes: minute, excess: sum };
            }
        } else {
            weight += 50_000;
        }
    }
    Ruled { aborted: false, minutes: minute, excess: sum }
}
