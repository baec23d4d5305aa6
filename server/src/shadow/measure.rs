//! How far apart are the champion's answer to a request and the shadow's?
//!
//! Every output is measured by what its type allows, without being told: labels by whether they differ, numbers by how far
//! they are apart, scores by what they put first. Each measure is one value for the request, from 0 (alike) to 1: the mean of
//! its rows, since the rows of a request are no independent witnesses.

use std::collections::BTreeMap;

use half::{bf16, f16};
use tiltyard_rollout::compare::{self, Tolerance, rank_agreement, top, top_k_overlap};
use tiltyard_runtime::compare::Tolerance as OfGoldens;
use tiltyard_types::{DataType, Tensor, TensorData};

/// The share of rows whose label differs, or what their scores put first.
pub const FLIPS: &str = "flips";

/// The share of rows that differ by more than another order of summation explains.
pub const MISMATCH: &str = "mismatch";

/// How far numbers are apart, in their own unit up to 1 and relative above.
pub const DISTANCE: &str = "distance";

/// 1 − the share of the champion's highest scores that are among the shadow's.
pub const TOP_K: &str = "top_k";

/// (1 − ρ)/2 for Spearman's ρ of the scores.
pub const RANKS: &str = "ranks";

/// Scores that count as the highest.
const K: usize = 5;

/// Scores of one row that are ranked at most: beyond that it is an image, or an embedding.
const SCORES_MAX: usize = 1_024;

/// Values of one output that are compared at most.
const VALUES_MAX: usize = 1 << 20;

/// Outputs that are compared at most.
const OUTPUTS_MAX: usize = 32;

/// One output as both have it.
#[derive(Clone, Copy)]
pub struct Both<'a> {
    /// Its name.
    pub name: &'a str,
    /// The champion's.
    pub champion: &'a Tensor,
    /// The shadow's.
    pub shadow: &'a Tensor,
}

/// What a comparison found.
#[derive(Debug, Default, PartialEq)]
pub struct Compared {
    /// Values by measure; where there are several outputs, those of each too, under `<measure>.<output>`.
    pub values: BTreeMap<String, f64>,
    /// The row that differs most and by how much, 0 to 1, if any does beyond tolerance.
    pub worst: Option<(usize, f64)>,
    /// Whether the shadow has no number where the champion has one.
    pub is_broken: bool,
}

/// The measures of one output, each for every row, or once for all of them.
#[derive(Default)]
struct Measures {
    by_row: BTreeMap<&'static str, Vec<f64>>,
    is_broken: bool,
}

/// Compares answers to `rows` rows.
pub fn compare(rows: usize, outputs: &[Both<'_>]) -> Compared {
    if rows == 0 {
        return Compared::default();
    }
    let outputs = &outputs[..outputs.len().min(OUTPUTS_MAX)];
    let measured: Vec<(&str, Measures)> = outputs.iter().map(|output| (output.name, measure(rows, *output))).collect();
    let mut all: BTreeMap<&'static str, Vec<f64>> = BTreeMap::new();
    let mut found = Compared::default();
    for (name, measures) in &measured {
        found.is_broken |= measures.is_broken;
        for (&measure, values) in &measures.by_row {
            if measured.len() > 1 {
                found.values.insert(format!("{measure}.{name}"), mean(values));
            }
            worse_of(all.entry(measure).or_default(), values);
        }
    }
    found.worst = worst(&all);
    found.values.extend(all.iter().map(|(measure, values)| ((*measure).to_owned(), mean(values))));
    found
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// The larger of both for each row. What is known once is known of every row.
fn worse_of(sum: &mut Vec<f64>, more: &[f64]) {
    let length = sum.len().max(more.len());
    let at = |values: &[f64], row: usize| values.get(row.min(values.len().saturating_sub(1))).copied().unwrap_or(0.0);
    *sum = (0..length).map(|row| at(sum, row).max(at(more, row))).collect();
}

/// Whose label differs comes before all whose does not; then whose numbers are farthest apart.
fn worst(all: &BTreeMap<&'static str, Vec<f64>>) -> Option<(usize, f64)> {
    let mismatch = all.get(MISMATCH)?;
    let of = |measure: &str, row: usize| all.get(measure).and_then(|values| values.get(row)).copied();
    let difference = |row: usize| match (of(FLIPS, row), of(DISTANCE, row)) {
        (Some(flip), Some(distance)) => f64::midpoint(flip, distance),
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => mismatch[row],
    };
    let differing = (0..mismatch.len()).filter(|row| mismatch[*row] > 0.0);
    // The first of equals.
    let larger = |best: Option<(usize, f64)>, row: usize| match best {
        Some((_, most)) if most >= difference(row) => best,
        _ => Some((row, difference(row))),
    };
    differing.fold(None, larger)
}

fn measure(rows: usize, Both { champion, shadow, .. }: Both<'_>) -> Measures {
    let has_rows = champion.shape().rows() == Some(rows);
    if champion.shape() != shadow.shape() || champion.dtype() != shadow.dtype() {
        let all = vec![1.0; if has_rows { rows } else { 1 }];
        let by_row = BTreeMap::from([(MISMATCH, all.clone()), (FLIPS, all.clone()), (DISTANCE, all)]);
        return Measures { by_row, is_broken: false };
    }
    // An output without rows is one thing.
    let rows = if has_rows { rows } else { 1 };
    let width = champion.elements() / rows;
    let compared = rows.min(VALUES_MAX / width.max(1)).max(1);
    let cut = |tensor: &Tensor| if has_rows { tensor.rows(0..compared) } else { Some(tensor.clone()) };
    let (Some(champion), Some(shadow)) = (cut(champion), cut(shadow)) else { return Measures::default() };
    match (numbers(&champion), numbers(&shadow)) {
        (Some(a), Some(b)) => of_numbers(&a, &b, width, champion.dtype()),
        _ => of_labels(&champion, &shadow, compared),
    }
}

/// Whole numbers and text: what they mean is not known, only whether they are the same.
fn of_labels(champion: &Tensor, shadow: &Tensor, rows: usize) -> Measures {
    fn differ<T: PartialEq>(a: &[T], b: &[T], rows: usize) -> Vec<f64> {
        let width = (a.len() / rows).max(1);
        let pairs = a.chunks(width).zip(b.chunks(width));
        let mut differ: Vec<f64> = pairs.map(|(a, b)| f64::from(u8::from(a != b))).collect();
        differ.resize(rows, 0.0);
        differ
    }
    let flips = match (champion.data(), shadow.data()) {
        (TensorData::Fixed(a), TensorData::Fixed(b)) => differ(a, b, rows),
        (TensorData::Strings(a), TensorData::Strings(b)) => differ(a, b, rows),
        _ => vec![1.0; rows],
    };
    Measures { by_row: BTreeMap::from([(MISMATCH, flips.clone()), (FLIPS, flips)]), is_broken: false }
}

/// Numbers in rows of `width`.
fn of_numbers(champion: &[f64], shadow: &[f64], width: usize, dtype: DataType) -> Measures {
    let OfGoldens { absolute, relative } = OfGoldens::default().widened_for(dtype);
    let tolerance = Tolerance { atol: absolute, rtol: relative };
    let is_broken = champion.iter().zip(shadow).any(|(a, b)| a.is_finite() && !b.is_finite());
    let rows = || champion.chunks(width.max(1)).zip(shadow.chunks(width.max(1)));
    let is_beyond = |(a, b)| compare::distance(a, b, tolerance).is_none_or(|distance| distance.beyond > 0);
    let mismatch: Vec<f64> = rows().map(|pair| f64::from(u8::from(is_beyond(pair)))).collect();
    let distance = rows().map(|(a, b)| compare::relative(a, b).unwrap_or(1.0)).collect();
    let mut by_row = BTreeMap::from([(MISMATCH, mismatch), (DISTANCE, distance)]);
    // One score for each row orders the rows; several order what they are scores of.
    let lists: Vec<(&[f64], &[f64])> = if width == 1 { vec![(champion, shadow)] } else { rows().collect() };
    let length = lists.first().map_or(0, |(a, _)| a.len());
    if length > SCORES_MAX {
        return Measures { by_row, is_broken };
    }
    if width > 1 {
        by_row.insert(FLIPS, lists.iter().map(|(a, b)| f64::from(u8::from(top(a) != top(b)))).collect());
    }
    if length > K {
        let apart = |(a, b): &(&[f64], &[f64])| 1.0 - top_k_overlap(a, b, K).unwrap_or(0.0);
        by_row.insert(TOP_K, lists.iter().map(apart).collect());
    }
    if length > 2 {
        let apart = |(a, b): &(&[f64], &[f64])| rank_agreement(a, b).map(|rho| f64::midpoint(1.0, -rho));
        let ranks: Vec<f64> = lists.iter().filter_map(apart).collect();
        if !ranks.is_empty() {
            by_row.insert(RANKS, ranks);
        }
    }
    Measures { by_row, is_broken }
}

/// A tensor of floats as numbers; `None` of others.
pub(crate) fn numbers(tensor: &Tensor) -> Option<Vec<f64>> {
    fn wide<T: Copy>(values: Option<Vec<T>>, widen: fn(T) -> f64) -> Option<Vec<f64>> {
        values.map(|values| values.into_iter().map(widen).collect())
    }
    match tensor.dtype() {
        DataType::Fp32 => wide(tensor.to_vec::<f32>(), f64::from),
        DataType::Fp64 => tensor.to_vec::<f64>(),
        DataType::Fp16 => wide(tensor.to_vec::<f16>(), f16::to_f64),
        DataType::Bf16 => wide(tensor.to_vec::<bf16>(), bf16::to_f64),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tiltyard_types::Shape;

    use super::*;

    fn floats(shape: &[usize], values: &[f32]) -> Tensor {
        Tensor::from_slice(Shape::from(shape), values).unwrap()
    }

    fn texts(values: &[&str]) -> Tensor {
        let texts = values.iter().map(|text| Bytes::copy_from_slice(text.as_bytes())).collect();
        Tensor::strings(Shape::from([values.len()]), texts).unwrap()
    }

    fn of(rows: usize, champion: &Tensor, shadow: &Tensor) -> Compared {
        compare(rows, &[Both { name: "y", champion, shadow }])
    }

    #[track_caller]
    fn check(found: &Compared, expected: &[(&str, f64)]) {
        let told: Vec<(&str, f64)> = found.values.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        assert_eq!(told.len(), expected.len(), "{told:?}");
        for ((name, value), (wanted, number)) in told.iter().zip(expected) {
            assert!(name == wanted && (value - number).abs() < 1e-6, "{told:?}, expected {expected:?}");
        }
    }

    #[test]
    fn labels_differ_or_do_not() {
        let found = of(4, &texts(&["a", "b", "c", "d"]), &texts(&["a", "b", "x", "y"]));
        check(&found, &[("flips", 0.5), ("mismatch", 0.5)]);
        assert_eq!(found.worst, Some((2, 1.0)));
        let whole = |values: &[i64]| Tensor::from_slice([values.len()], values).unwrap();
        check(&of(2, &whole(&[1, 2]), &whole(&[1, 2])), &[("flips", 0.0), ("mismatch", 0.0)]);
    }

    #[test]
    fn scores_flip_by_what_they_put_first() {
        let champion = floats(&[2, 3], &[0.7, 0.2, 0.1, 0.1, 0.5, 0.4]);
        let shadow = floats(&[2, 3], &[0.7, 0.2, 0.1, 0.1, 0.4, 0.5]);
        let found = of(2, &champion, &shadow);
        check(&found, &[("distance", 0.1 / 3.0), ("flips", 0.5), ("mismatch", 0.5), ("ranks", 0.125)]);
        assert_eq!(found.worst.unwrap().0, 1);
        assert_eq!(of(2, &champion, &champion).worst, None);
    }

    #[test]
    fn one_score_a_row_orders_the_rows() {
        let champion: Vec<f32> = (0..10).map(|score| score as f32).collect();
        let shadow: Vec<f32> = champion.iter().map(|score| 9.0 - score).collect();
        let found = of(10, &floats(&[10, 1], &champion), &floats(&[10, 1], &shadow));
        assert_eq!((found.values["ranks"], found.values["top_k"]), (1.0, 1.0));
        assert!(!found.values.contains_key("flips"), "a single score has no first");
        let one = of(1, &floats(&[1, 1], &[200.0]), &floats(&[1, 1], &[250.0]));
        check(&one, &[("distance", 0.25), ("mismatch", 1.0)]);
    }

    #[test]
    fn another_order_of_summation_is_no_difference() {
        let found = of(1, &floats(&[1, 1], &[1.0]), &floats(&[1, 1], &[1.000_1]));
        assert_eq!((found.values["mismatch"], found.worst), (0.0, None));
        assert!(found.values["distance"] > 0.0);
    }

    #[test]
    fn what_is_no_number_breaks_a_shadow_and_no_champion() {
        let (nan, one) = (floats(&[1, 1], &[f32::NAN]), floats(&[1, 1], &[1.0]));
        assert!(of(1, &one, &nan).is_broken && !of(1, &nan, &one).is_broken && !of(1, &nan, &nan).is_broken);
        assert_eq!(of(1, &one, &nan).values["distance"], 1.0);
    }

    #[test]
    fn several_outputs_are_told_together_and_apart() {
        let (a, b) = (texts(&["a", "b"]), texts(&["a", "c"]));
        let (x, y) = (floats(&[2, 1], &[1.0, 1.0]), floats(&[2, 1], &[1.5, 1.0]));
        let outputs =
            [Both { name: "label", champion: &a, shadow: &b }, Both { name: "score", champion: &x, shadow: &y }];
        let found = compare(2, &outputs);
        assert_eq!(
            [found.values["flips"], found.values["flips.label"], found.values["distance.score"]],
            [0.5, 0.5, 0.25]
        );
        assert_eq!(found.values["mismatch"], 1.0, "a row is like another if all of it is");
    }

    #[test]
    fn shapes_that_differ_are_all_different() {
        let found = of(2, &floats(&[2, 2], &[0.0; 4]), &floats(&[2, 3], &[0.0; 6]));
        check(&found, &[("distance", 1.0), ("flips", 1.0), ("mismatch", 1.0)]);
        // Not by row: the whole is one thing.
        check(&of(2, &floats(&[], &[1.0]), &floats(&[], &[1.0])), &[("distance", 0.0), ("mismatch", 0.0)]);
        assert_eq!(of(0, &floats(&[0, 1], &[]), &floats(&[0, 1], &[])), Compared::default());
    }
}
