//! SIM-4 and SIM-7: is a split that is not as configured found, and what do sticky users do to the tests?

use tiltyard_rollout::evidence::{Seen, Share};
use tiltyard_rollout::kernel::{Tally, ln_e_bins, ln_e_sample_ratio};

use super::{Found, play};

/// SIM-7: 1,000 looks of 1,000 units; the true share against the configured one, in millionths. Median in units.
pub(crate) fn sample_ratio(runs: u64, configured: u32, true_share: f64) -> Found {
    play(runs, |lot| {
        let mut tally = Tally::default();
        (1..=1_000u32).find_map(|look| {
            let challengers = lot.binomial(1_000, true_share);
            tally.add(Share::of(configured), [1_000 - challengers, challengers]);
            (ln_e_sample_ratio(&tally) >= libm::log(1_000.0)).then(|| f64::from(look) * 1_000.0)
        })
    })
}

/// What is counted of a key that comes again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Each request is dealt on its own, and counts.
    Request,
    /// A key sticks to its arm, and all its requests count: wrong.
    StickyRequest,
    /// A key sticks to its arm, and its first request counts.
    Key,
}

/// SIM-4: two arms that are the same; 20,000 keys with Pareto(1.3) many requests (2,000 at most), 10 score bins of which
/// each key prefers one (80 %), w = 10 %, 200 looks, α = 0.01. The share of false alarms.
pub(crate) fn sticky(runs: u64, unit: Unit) -> Found {
    const KEYS: u64 = 20_000;
    play(runs, |lot| {
        let keys: Vec<(u64, bool)> = (0..KEYS).map(|_| (lot.below(10), lot.happens(0.1))).collect();
        let mut requests = Vec::new();
        for key in 0..KEYS {
            let count = libm::pow(lot.uniform(), -1.0 / 1.3).min(2_000.0) as usize;
            requests.extend(std::iter::repeat_n(key, count));
        }
        lot.shuffle(&mut requests);
        let mut bins = vec![Tally::default(); 10];
        let mut seen = Seen::new(1 << 20);
        for look in requests.chunks(requests.len().div_ceil(200)) {
            for &key in look {
                let (preferred, sticks_to) = keys[key as usize];
                let bin = if lot.happens(0.8) { preferred } else { lot.below(10) };
                let is_challengers = if unit == Unit::Request { lot.happens(0.1) } else { sticks_to };
                if unit != Unit::Key || seen.is_first(key) {
                    bins[bin as usize].add(Share::of(100_000), if is_challengers { [0, 1] } else { [1, 0] });
                }
            }
            if ln_e_bins(&bins) >= libm::log(100.0) {
                return Some(0.0);
            }
        }
        None
    })
}
