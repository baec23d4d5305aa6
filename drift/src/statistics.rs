//! How far is what comes from what was expected, and could that be chance?
//!
//! ```text
//! PSI    Σ (q − p) ln(q / p)                       p expected, q found; in the logarithm at least 10⁻⁴
//! PSI_c  max(0, PSI − (B − 1)(1/N + 1/M))          less what chance makes of N rows against M; B bins that hold anything
//! test   NM/(N + M) · PSI ~ χ² with B − 1 degrees  Yurdakul 2018
//! JS     √(½ Σ p log₂(p/m) + ½ Σ q log₂(q/m))      m = (p + q)/2; from 0 to 1
//! KS     max |Q(b) − P(b)|                         sums up to bin b: at most 1/20 less than that of the values themselves
//! W1     Σ |Q − P| Δx / sd                         between cuts, in standard deviations of the baseline
//! L∞     max |q − p|
//! ```
//!
//! Where rows of one key come again and again they are not so many: N and M are those of different keys.

use serde::{Deserialize, Serialize};

use crate::bins::Numeric;
use crate::numbers::{chi_square_above, ln};

/// The least share in a logarithm.
const FLOOR: f64 = 1e-4;

/// What distances two distributions have, and what they rest on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Distance {
    /// Population stability index.
    pub psi: f64,
    /// The same less what chance makes of so few rows: what thresholds are held against.
    pub psi_corrected: f64,
    /// What chance makes of so few rows, on average.
    pub noise: f64,
    /// How likely chance alone makes a PSI as large, were rows independent.
    pub p: f64,
    /// Jensen-Shannon distance, 0 to 1.
    pub js: f64,
    /// Largest difference of the shares below a cut; of numbers.
    pub ks: Option<f64>,
    /// How far values moved on the whole, in standard deviations of the baseline; of numbers.
    pub w1: Option<f64>,
    /// Largest difference of a bin's shares.
    pub largest: f64,
    /// The bin with that difference.
    pub bin: usize,
    /// Rows, or different keys where these are fewer.
    pub n: f64,
    /// The same of what was expected.
    pub m: f64,
}

/// What was expected: a share for each bin, of `m` rows.
#[derive(Clone, Debug, PartialEq)]
pub struct Expected {
    /// Shares of the bins, which add up to 1.
    pub shares: Vec<f64>,
    /// Rows they were made of, or different keys.
    pub m: f64,
}

/// Distances of rows by bin from what was expected, as if they were `n` rows; `None` where there are none of either.
pub fn distance(expected: &Expected, found: &[u64], n: f64) -> Option<Distance> {
    let rows: u64 = found.iter().sum();
    if rows == 0 || n <= 0.0 || expected.m <= 0.0 || expected.shares.len() != found.len() {
        return None;
    }
    let (p, m) = (&expected.shares, expected.m);
    let q: Vec<f64> = found.iter().map(|&count| count as f64 / rows as f64).collect();
    let used = p.iter().zip(&q).filter(|(p, q)| **p > 0.0 || **q > 0.0).count();
    let freedom = used.saturating_sub(1) as f64;
    let psi = psi(p, &q);
    let noise = freedom * (1.0 / n + 1.0 / m);
    let apart = p.iter().zip(&q).map(|(p, q)| (q - p).abs());
    let (bin, largest) = apart.enumerate().fold((0, 0.0), |most, here| if here.1 > most.1 { here } else { most });
    Some(Distance {
        psi,
        psi_corrected: (psi - noise).max(0.0),
        noise,
        p: chi_square_above(n * m / (n + m) * psi, freedom),
        js: jensen_shannon(p, &q),
        ks: None,
        w1: None,
        largest,
        bin,
        n,
        m,
    })
}

/// The same with what only numbers have; `range` is the smallest and largest that were found.
pub fn numeric_distance(
    numeric: &Numeric,
    expected: &Expected,
    found: &[u64],
    n: f64,
    range: [f64; 2],
) -> Option<Distance> {
    let distance = distance(expected, found, n)?;
    let rows: u64 = found.iter().sum();
    let q: Vec<f64> = found.iter().map(|&count| count as f64 / rows as f64).collect();
    let ks = Some(kolmogorov_smirnov(&expected.shares, &q));
    Some(Distance { ks, w1: Some(wasserstein(numeric, &expected.shares, &q, range)), ..distance })
}

/// The population stability index of shares `q` against `p`.
pub fn psi(p: &[f64], q: &[f64]) -> f64 {
    p.iter().zip(q).map(|(p, q)| (q - p) * ln(q.max(FLOOR) / p.max(FLOOR))).sum()
}

/// The Jensen-Shannon distance, with logarithms to the base of 2.
pub fn jensen_shannon(p: &[f64], q: &[f64]) -> f64 {
    let half = |share: f64, middle: f64| if share > 0.0 { share * ln(share / middle) } else { 0.0 };
    let both = p.iter().zip(q).map(|(&p, &q)| half(p, (p + q) / 2.0) + half(q, (p + q) / 2.0));
    (both.sum::<f64>() / 2.0 / std::f64::consts::LN_2).clamp(0.0, 1.0).sqrt()
}

/// The largest difference of the shares up to a bin.
pub fn kolmogorov_smirnov(p: &[f64], q: &[f64]) -> f64 {
    let ahead = p.iter().zip(q).scan(0.0, |ahead, (p, q)| {
        *ahead += q - p;
        Some(f64::abs(*ahead))
    });
    ahead.fold(0.0, f64::max)
}

/// What is between the shares below, in standard deviations: straight from cut to cut, and out to `range` beyond them.
fn wasserstein(numeric: &Numeric, p: &[f64], q: &[f64], [min, max]: [f64; 2]) -> f64 {
    let cuts = numeric.cuts();
    let mut ahead = q[0] - p[0];
    let mut area = ahead.abs() * (cuts[0] - min).max(0.0) / 2.0;
    for (bin, ends) in (1..).zip(cuts.windows(2)) {
        let next = ahead + q[bin] - p[bin];
        area += (ahead.abs() + next.abs()) / 2.0 * (ends[1] - ends[0]);
        ahead = next;
    }
    area += ahead.abs() * (max - cuts[cuts.len() - 1]).max(0.0) / 2.0;
    area / numeric.sd()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Φ.
    fn below(x: f64) -> f64 {
        libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2) / 2.0
    }

    /// Where Φ is `share`.
    fn quantile(share: f64) -> f64 {
        let (mut low, mut high) = (-10.0, 10.0);
        for _ in 0..80 {
            let middle = (low + high) / 2.0;
            if below(middle) < share { low = middle } else { high = middle }
        }
        low
    }

    /// Shares of 20 equal bins of a standard normal distribution after it has moved.
    fn moved(shift: f64) -> Vec<f64> {
        let cut = |at: u32| match at {
            0 => 0.0,
            20 => 1.0,
            at => below(quantile(f64::from(at) / 20.0) - shift),
        };
        (0..20).map(|at| cut(at + 1) - cut(at)).collect()
    }

    /// The table of the method, §4.4: Gaussian shift, 20 bins of equal mass.
    #[test]
    fn reference_values_come_out() {
        let p = vec![0.05; 20];
        for (shift, expected) in [
            (0.1, [0.010, 0.042, 0.040]),
            (0.2, [0.039, 0.084, 0.080]),
            (0.3, [0.088, 0.126, 0.119]),
            (0.5, [0.245, 0.207, 0.197]),
            (1.0, [0.963, 0.397, 0.383]),
        ] {
            let q = moved(shift);
            let found = [psi(&p, &q), jensen_shannon(&p, &q), kolmogorov_smirnov(&p, &q)];
            for (found, expected) in found.iter().zip(expected) {
                assert!(
                    (found - expected).abs() <= 0.000_51 + 0.002 * expected,
                    "{shift}: {found}, expected {expected}"
                );
            }
        }
    }

    #[test]
    fn a_shift_is_as_long_as_it_is() {
        let edges = |at: u32| match at {
            0 => -3.5,
            20 => 3.5,
            at => quantile(f64::from(at) / 20.0),
        };
        let cuts: Vec<f64> = (0..=20).map(edges).collect();
        let numeric = Numeric::new(cuts, 0.0, 1.0).unwrap();
        let with_ends = |inner: Vec<f64>| [vec![0.0], inner, vec![0.0]].concat();
        let p = with_ends(vec![0.05; 20]);
        // Bins are wide at the ends, and what is within them is taken to be spread evenly.
        for shift in [0.2, 0.5] {
            let found = wasserstein(&numeric, &p, &with_ends(moved(shift)), [-3.5, 3.5]);
            assert!((found / shift - 1.0).abs() < 0.2, "{found}, expected {shift}");
        }
        // All of it beyond the largest, by 2 at most.
        let mut beyond = vec![0.0; 22];
        beyond[21] = 1.0;
        assert!((wasserstein(&numeric, &p, &beyond, [3.6, 5.5]) - (3.5 + 1.0)).abs() < 0.01);
    }

    #[test]
    fn what_is_alike_is_near_and_nothing_has_no_distance() {
        let expected = Expected { shares: vec![0.5, 0.25, 0.25, 0.0], m: 1_000.0 };
        let same = distance(&expected, &[50, 25, 25, 0], 100.0).unwrap();
        assert_eq!((same.psi, same.psi_corrected, same.p, same.js, same.largest), (0.0, 0.0, 1.0, 0.0, 0.0));
        let other = distance(&expected, &[0, 0, 0, 100], 100.0).unwrap();
        assert!(other.js > 0.999 && other.p < 1e-12 && other.bin == 3 && other.largest == 1.0, "{other:?}");
        assert_eq!(distance(&expected, &[0; 4], 100.0), None);
        assert_eq!(distance(&expected, &[1; 3], 100.0), None);
        assert_eq!(distance(&Expected { m: 0.0, ..expected }, &[1; 4], 4.0), None);
    }
}
