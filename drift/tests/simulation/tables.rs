//! How often does each rule alarm on bins alone, with and without drift? The table of the method, §4.5.

use tiltyard_drift::statistics::{Distance, Expected, distance};

use crate::lot::Lot;

/// Features and windows of a model-month.
const FEATURES: usize = 30;
const WINDOWS: usize = 30;

const BINS: usize = 20;
const BASELINE: u64 = 100_000;

/// Alarms a model-month of each rule: PSI > 0.02, PSI > 0.1, χ² at 5 %, ours in one window, ours in two in a row.
pub(crate) fn alarms(months: u64, n: u64) -> [f64; 5] {
    let mut counts = [0u64; 5];
    for month in 0..months {
        let mut lot = Lot::new(month * 1_000_003 + n);
        for _ in 0..FEATURES {
            let expected = sampled(&mut lot);
            let mut was = false;
            for _ in 0..WINDOWS {
                let found = distance(&expected, &drawn(&mut lot, n, 0.0), n as f64).expect("there are rows");
                let fires = fires(&found);
                let rules = [found.psi > 0.02, found.psi > 0.1, found.p < 0.05, fires, fires && was];
                counts.iter_mut().zip(rules).for_each(|(count, fires)| *count += u64::from(fires));
                was = fires;
            }
        }
    }
    counts.map(|count| count as f64 / months as f64)
}

/// The share of windows of `n` rows in which a shift of `shift` standard deviations is found.
pub(crate) fn power(windows: u64, n: u64, shift: f64) -> f64 {
    let mut lot = Lot::new(n);
    let found = (0..windows).filter(|_| {
        let expected = sampled(&mut lot);
        distance(&expected, &drawn(&mut lot, n, shift), n as f64).is_some_and(|found| fires(&found))
    });
    found.count() as f64 / windows as f64
}

/// The rule of docs/drift.md, in one window.
fn fires(distance: &Distance) -> bool {
    distance.psi_corrected >= 0.10 && distance.p < 0.01 / FEATURES as f64
}

fn sampled(lot: &mut Lot) -> Expected {
    // By a normal distribution of each count, which is near enough for so many.
    let mut shares: Vec<f64> =
        (0..BINS).map(|_| 0.05 + lot.normal() * (0.05 * 0.95 / BASELINE as f64).sqrt()).collect();
    let sum: f64 = shares.iter().sum();
    shares.iter_mut().for_each(|share| *share /= sum);
    Expected { shares, m: BASELINE as f64 }
}

/// Rows by bin of 20 that are equally full where nothing has moved.
fn drawn(lot: &mut Lot, n: u64, shift: f64) -> Vec<u64> {
    let mut counts = vec![0; BINS];
    for _ in 0..n {
        let at = if shift == 0.0 { lot.uniform() } else { libm::erfc(-(lot.normal() + shift) / 2f64.sqrt()) / 2.0 };
        counts[((at * BINS as f64) as usize).min(BINS - 1)] += 1;
    }
    counts
}
