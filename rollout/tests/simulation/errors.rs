//! SIM-1, SIM-2 and SIM-8: how soon are more errors and slower answers found, and how often is a good one accused?

use tiltyard_rollout::evidence::Share;
use tiltyard_rollout::kernel::{Tally, ln_e_above, ln_e_beta};

use super::{Found, lot::Lot, median, play};

const BASE: f64 = 0.005;
const TOLERANCE: f64 = 0.25;
const ALPHA: f64 = 0.001;

/// SIM-1: 5 % of the traffic, a look each minute, the closed form with Beta(1, 19). Median in minutes. `wave`: how far the
/// load goes up and down over a day, 0 to 1.
pub(crate) fn constant(runs: u64, rps: f64, ratio: f64, minutes: u32, wave: f64) -> Found {
    play(runs, |lot| {
        let mut events = [0u64; 2];
        for minute in 1..=minutes {
            let phase = 2.0 * std::f64::consts::PI * f64::from(minute) / 1_440.0;
            let mean = rps * 60.0 * (1.0 + wave * libm::sin(phase));
            // Errors of a Poisson stream are Poisson streams.
            events[0] += lot.poisson(mean * 0.95 * BASE);
            events[1] += lot.poisson(mean * 0.05 * BASE * ratio);
            if ln_e_beta(events, 0.05, TOLERANCE, [1.0, 19.0]) >= -libm::log(ALPHA) {
                return Some(f64::from(minute));
            }
        }
        None
    })
}

/// What a ramp came to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ramp {
    /// The share of runs that were stopped, and after how many minutes in the median.
    pub(crate) found: Found,
    /// The median number of failures above the base rate until the stop or the end.
    pub(crate) excess: f64,
}

/// SIM-2: the grid, 1/5/25/50 % for 10/10/10/30 minutes, a look each minute.
pub(crate) fn ramp(runs: u64, rps: f64, ratio: f64) -> Ramp {
    let mut excesses = Vec::new();
    let mut took = Vec::new();
    for seed in 0..runs {
        let lot = &mut Lot::new(seed);
        let (mut tally, mut excess, mut stopped) = (Tally::default(), 0.0, None);
        let steps = [(10_000, 10), (50_000, 10), (250_000, 10), (500_000, 30)];
        let minutes = steps.iter().flat_map(|&(share, minutes)| std::iter::repeat_n(Share::of(share), minutes));
        for (minute, share) in minutes.enumerate() {
            let w = share.challengers();
            let requests = rps * 60.0 * w;
            let errors = lot.poisson(requests * BASE * ratio);
            excess += errors as f64 - requests * BASE;
            tally.add(share, [lot.poisson(rps * 60.0 * (1.0 - w) * BASE), errors]);
            if ln_e_above(&tally, TOLERANCE) >= -libm::log(ALPHA) {
                stopped = Some(minute as f64 + 1.0);
                break;
            }
        }
        took.extend(stopped);
        excesses.push(excess);
    }
    let share = took.len() as f64 / runs as f64;
    Ramp { found: Found { share, median: median(took) }, excess: median(excesses) }
}

/// SIM-8: log-normal latencies of sd 0.5, the challenger's `factor` times as long; cut points p50, p90 and p99 of the
/// champion's; 5 % of the traffic, a look every 200 requests, up to 120,000. Median in requests.
pub(crate) fn latency(runs: u64, factor: f64) -> Found {
    // How likely is it to be above each cut point, given that it is above the one before?
    let above = |factor: f64| {
        let shift = libm::log(factor) / 0.5;
        let tail = |z: f64| libm::erfc((z - shift) / std::f64::consts::SQRT_2) / 2.0;
        let [p50, p90, p99] = [0.0, 1.281_551_565_544_600_4, 2.326_347_874_040_840_8].map(tail);
        [p50, p90 / p50, p99 / p90]
    };
    let chances = [above(1.0), above(factor)];
    let share = Share::of(50_000);
    play(runs, |lot| {
        let mut tallies = [const { None::<Tally> }; 3].map(Option::unwrap_or_default);
        for look in 1..=600 {
            let challengers = lot.binomial(200, 0.05);
            let mut left = [200 - challengers, challengers];
            for (cut, tally) in tallies.iter_mut().enumerate() {
                left = std::array::from_fn(|arm| lot.binomial(left[arm], chances[arm][cut]));
                tally.add(share, left);
            }
            if tallies.iter().any(|tally| ln_e_above(tally, TOLERANCE) >= libm::log(3.0 / ALPHA)) {
                return Some(f64::from(look) * 200.0);
            }
        }
        None
    })
}
