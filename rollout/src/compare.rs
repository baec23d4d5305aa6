//! How alike are two answers to the same rows?
//!
//! Plain slices, one answer each; who joins the pairs decides which slices belong together. Slices of different lengths
//! are of different answers: `None`. NaN is like NaN and unlike everything else, and ranks above all numbers.

use std::cmp::Ordering;

/// How far numbers may be apart and still be the same: `|a − b| ≤ atol + rtol · |champion's|`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// In the values' own unit.
    pub atol: f64,
    /// Relative to the champion's.
    pub rtol: f64,
}

/// How far two answers are apart.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Distance {
    /// Values beyond the tolerance.
    pub beyond: u64,
    /// The largest |a − b|; infinite where one of them is no number.
    pub largest: f64,
    /// Where it is.
    pub at: usize,
}

/// Rows whose labels differ: labels, class names, or [`top`] of each row's scores.
pub fn flips<T: PartialEq>(champion: &[T], challenger: &[T]) -> Option<u64> {
    same_length(champion, challenger)?;
    Some(champion.iter().zip(challenger).filter(|(a, b)| a != b).count() as u64)
}

/// The index of the largest score, the first of equals; `None` of none.
pub fn top(scores: &[f64]) -> Option<usize> {
    ranked(scores).first().copied()
}

/// How far the values are apart.
pub fn distance(champion: &[f64], challenger: &[f64], tolerance: Tolerance) -> Option<Distance> {
    same_length(champion, challenger)?;
    let mut found = Distance::default();
    for (at, (&a, &b)) in champion.iter().zip(challenger).enumerate() {
        let apart = apart(a, b);
        // Against an infinite value, every number would be near.
        let near = if a.is_finite() { tolerance.atol + tolerance.rtol * a.abs() } else { 0.0 };
        found.beyond += u64::from(apart > near);
        if apart > found.largest {
            (found.largest, found.at) = (apart, at);
        }
    }
    Some(found)
}

/// The mean of min(1, |a − b|/`scale`): 0 where they are alike, 1 where all are at least a scale apart. 0 of none.
pub fn bounded(champion: &[f64], challenger: &[f64], scale: f64) -> Option<f64> {
    same_length(champion, challenger)?;
    let sum: f64 = champion.iter().zip(challenger).map(|(&a, &b)| (apart(a, b) / scale).min(1.0)).sum();
    Some(sum / champion.len().max(1) as f64)
}

/// The mean of min(1, |a − b|/max(1, |champion's|)): for values whose scale nobody declared. Small ones, as probabilities, are
/// measured in their own unit, large ones relative to the champion's. 0 of none.
pub fn relative(champion: &[f64], challenger: &[f64]) -> Option<f64> {
    same_length(champion, challenger)?;
    let scale = |a: f64| if a.is_finite() { a.abs().max(1.0) } else { 1.0 };
    let sum: f64 = champion.iter().zip(challenger).map(|(&a, &b)| (apart(a, b) / scale(a)).min(1.0)).sum();
    Some(sum / champion.len().max(1) as f64)
}

/// The share of the champion's `k` highest that are among the challenger's `k` highest, 0 to 1. Of fewer than k, all count.
pub fn top_k_overlap(champion: &[f64], challenger: &[f64], k: usize) -> Option<f64> {
    same_length(champion, challenger)?;
    let k = k.min(champion.len());
    if k == 0 {
        return Some(1.0);
    }
    let [mut a, mut b] = [champion, challenger].map(|scores| ranked(scores)[..k].to_vec());
    a.sort_unstable();
    b.sort_unstable();
    Some(a.iter().filter(|at| b.binary_search(at).is_ok()).count() as f64 / k as f64)
}

/// Whether both put things in the same order: Spearman's ρ, −1 to 1, equals sharing the mean of their ranks. `None` also
/// where one of them has no order, all being equal or fewer than two.
pub fn rank_agreement(champion: &[f64], challenger: &[f64]) -> Option<f64> {
    same_length(champion, challenger)?;
    let [a, b] = [champion, challenger].map(mean_ranks);
    let middle = (champion.len() as f64 - 1.0) / 2.0;
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - middle) * (b - middle)).sum::<f64>();
    let scale = (product(&a, &a) * product(&b, &b)).sqrt();
    (scale > 0.0).then(|| (product(&a, &b) / scale).clamp(-1.0, 1.0))
}

fn same_length<T>(champion: &[T], challenger: &[T]) -> Option<()> {
    (champion.len() == challenger.len()).then_some(())
}

fn apart(a: f64, b: f64) -> f64 {
    if a == b || (a.is_nan() && b.is_nan()) {
        return 0.0;
    }
    let apart = (a - b).abs();
    if apart.is_nan() { f64::INFINITY } else { apart }
}

/// NaN above all, and all NaN and both zeros equal, as in [`apart`].
fn order(a: f64, b: f64) -> Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

/// Indices by falling score, equals in their own order.
fn ranked(scores: &[f64]) -> Vec<usize> {
    let mut indices: Vec<usize> = (0..scores.len()).collect();
    indices.sort_by(|&a, &b| order(scores[b], scores[a]));
    indices
}

fn mean_ranks(scores: &[f64]) -> Vec<f64> {
    let indices = ranked(scores);
    let mut ranks = vec![0.0; scores.len()];
    let mut from = 0;
    for equals in indices.chunk_by(|&a, &b| order(scores[a], scores[b]).is_eq()) {
        equals.iter().for_each(|&at| ranks[at] = from as f64 + (equals.len() as f64 - 1.0) / 2.0);
        from += equals.len();
    }
    ranks
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NAN: f64 = f64::NAN;

    #[test]
    fn labels_that_differ_are_counted() {
        assert_eq!(flips(&["a", "b", "b"], &["a", "b", "c"]), Some(1));
        assert_eq!(flips(&[1], &[1, 2]), None);
        assert_eq!((top(&[0.1, 0.7, 0.7]), top(&[])), (Some(1), None));
    }

    #[test]
    fn numbers_are_compared_with_what_was_declared() {
        let tolerance = Tolerance { atol: 0.5, rtol: 0.1 };
        let found = distance(&[10.0, 0.0, -10.0], &[11.5, 0.6, -11.6], tolerance);
        assert_eq!(found.map(|found| (found.beyond, found.at)), Some((2, 2)));
        let none = Tolerance { atol: 0.0, rtol: 0.0 };
        let odd = distance(&[NAN, 1.0, f64::INFINITY], &[NAN, NAN, f64::INFINITY], none);
        assert_eq!(odd, Some(Distance { beyond: 1, largest: f64::INFINITY, at: 1 }));
        let loose = Tolerance { atol: 1.0, rtol: 0.5 };
        assert_eq!(distance(&[f64::INFINITY], &[3.0], loose).map(|found| found.beyond), Some(1));
        assert_eq!(bounded(&[0.0, 0.0], &[0.5, 9.0], 2.0), Some(0.625));
        assert_eq!((bounded(&[NAN], &[1.0], 2.0), bounded(&[], &[], 1.0)), (Some(1.0), Some(0.0)));
        assert_eq!(relative(&[0.25, 100.0], &[0.75, 150.0]), Some(0.5));
        assert_eq!((relative(&[f64::INFINITY, NAN], &[3.0, NAN]), relative(&[], &[])), (Some(0.5), Some(0.0)));
    }

    #[test]
    fn rankings_are_compared_by_their_heads_and_as_a_whole() {
        let (a, b) = ([5.0, 4.0, 3.0, 2.0], [5.0, 3.0, 4.0, 1.0]);
        assert_eq!(top_k_overlap(&a, &b, 1), Some(1.0));
        assert_eq!(top_k_overlap(&a, &b, 2), Some(0.5));
        assert_eq!(top_k_overlap(&a, &b, 9), Some(1.0));
        // 1 − 6·Σd²/(n(n²−1)) with Σd² = 2.
        assert_eq!(rank_agreement(&a, &b), Some(0.8));
        assert_eq!(rank_agreement(&a, &a.map(|x| -x)), Some(-1.0));
        assert_eq!(rank_agreement(&[1.0, 1.0], &[1.0, 2.0]), None, "no order to agree with");
        assert_eq!(rank_agreement(&[], &[]), None);
    }

    proptest! {
        #[test]
        fn measures_stay_within_their_bounds(
            pairs in prop::collection::vec((any::<f64>(), any::<f64>()), 0..40), k in 0usize..50,
        ) {
            let (a, b): (Vec<f64>, Vec<f64>) = pairs.into_iter().unzip();
            let overlap = top_k_overlap(&a, &b, k).expect("same length");
            let bounded = bounded(&a, &b, 1.0).expect("same length");
            prop_assert!((0.0..=1.0).contains(&overlap) && (0.0..=1.0).contains(&bounded));
            prop_assert!(rank_agreement(&a, &b).is_none_or(|rho| (-1.0..=1.0).contains(&rho)));
            prop_assert_eq!(rank_agreement(&a, &b), rank_agreement(&b, &a));
            let none = Tolerance { atol: 0.0, rtol: 0.0 };
            prop_assert_eq!(distance(&a, &a, none).map(|found| found.beyond), Some(0));
            prop_assert_eq!(top_k_overlap(&a, &a, k), Some(1.0));
        }
    }
}
