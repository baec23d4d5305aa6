//! How are linear models scored?

use tiltyard_runtime::engine::EngineError;
use tiltyard_types::Shape;

use super::raw::{Output, Raw, Sum, numbered, space_of};
use super::scores::{Transform, best, probit};
use crate::node::{Built, Labels, Node, bad_shape};
use crate::value::{Slice, Type, View};

/// Lanes that sum one product side by side.
const LANES: usize = 8;

/// So many targets are summed side by side, fewer one after the other.
const MANY: usize = 16;

/// Coefficients of some targets over a row's columns.
pub(super) struct Weights {
    /// As the file has them, a row for each target; a row for each column where targets are many, so that all are summed at once.
    coefficients: Vec<f32>,
    intercepts: Vec<f32>,
    columns: usize,
}

impl Weights {
    /// Fails where the lengths contradict each other.
    pub(super) fn new(node: &Node<'_>, coefficients: &[f32], intercepts: Vec<f32>) -> Result<Weights, EngineError> {
        let targets = intercepts.len();
        if targets == 0 || coefficients.is_empty() || !coefficients.len().is_multiple_of(targets) {
            return Err(node.bad(format_args!("{} coefficients for {targets} scores", coefficients.len())));
        }
        let columns = coefficients.len() / targets;
        let mut turned = coefficients.to_vec();
        if targets >= MANY {
            for target in 0..targets {
                for column in 0..columns {
                    turned[column * targets + target] = coefficients[target * columns + column];
                }
            }
        }
        Ok(Weights { coefficients: turned, intercepts, columns })
    }

    pub(super) fn targets(&self) -> usize {
        self.intercepts.len()
    }

    pub(super) fn check(&self, columns: usize) -> Result<(), EngineError> {
        if columns == self.columns {
            return Ok(());
        }
        Err(bad_shape(format_args!("{columns} columns were given, and there are coefficients for {}", self.columns)))
    }

    /// Writes the scores of each row.
    pub(super) fn score(&self, rows: &[f32], scores: &mut [f32]) {
        let targets = self.targets();
        if targets < MANY {
            for (row, scores) in rows.chunks_exact(self.columns).zip(scores.chunks_exact_mut(targets)) {
                let weights = self.coefficients.chunks_exact(self.columns).zip(&self.intercepts);
                for (score, (weights, intercept)) in scores.iter_mut().zip(weights) {
                    *score = dot(row, weights) + intercept;
                }
            }
            return;
        }
        for (row, scores) in rows.chunks_exact(self.columns).zip(scores.chunks_exact_mut(targets)) {
            scores.fill(0.0);
            for (value, weights) in row.iter().zip(self.coefficients.chunks_exact(targets)) {
                for (score, weight) in scores.iter_mut().zip(weights) {
                    *score += value * weight;
                }
            }
            for (score, intercept) in scores.iter_mut().zip(&self.intercepts) {
                *score += intercept;
            }
        }
    }
}

pub(super) fn dot(left: &[f32], right: &[f32]) -> f32 {
    let mut sums = [0f32; LANES];
    let (left_chunks, left_rest) = left.as_chunks::<LANES>();
    let (right_chunks, right_rest) = right.as_chunks::<LANES>();
    for (left, right) in left_chunks.iter().zip(right_chunks) {
        for lane in 0..LANES {
            sums[lane] += left[lane] * right[lane];
        }
    }
    for (sum, (left, right)) in sums.iter_mut().zip(left_rest.iter().zip(right_rest)) {
        *sum += left * right;
    }
    let [a, b, c, d, e, f, g, h] = sums;
    ((a + e) + (b + f)) + ((c + g) + (d + h))
}

/// Numbers of any type in single precision, as the operators of `ai.onnx.ml` take them: as they lie, or converted.
pub(super) fn singles<'a>(view: &View<'a>, converted: &'a mut Vec<f32>) -> Result<&'a [f32], EngineError> {
    match view.data {
        Slice::F32(values) => return Ok(values),
        Slice::F64(values) => converted.extend(values.iter().map(|&value| value as f32)),
        Slice::I64(values) => converted.extend(values.iter().map(|&value| value as f32)),
        Slice::I32(values) => converted.extend(values.iter().map(|&value| value as f32)),
        _ => return Err(EngineError::Failed("numbers are expected".into())),
    }
    Ok(converted)
}

/// The types that operators of `ai.onnx.ml` take.
pub(super) const NUMBERS: [Type; 4] = [Type::F32, Type::F64, Type::I64, Type::I32];

/// `LinearClassifier`: labels, and scores of each class.
pub(super) fn classifier(node: &Node<'_>) -> Result<Built, EngineError> {
    node.one_of(&NUMBERS)?;
    let labels = node.labels("classlabels_ints", "classlabels_strings")?;
    let weights = Weights::new(node, node.floats("coefficients"), node.floats("intercepts").to_vec())?;
    let transform = Transform::of(node)?;
    let targets = weights.targets();
    // One score for two classes: the other one's is what is missing to one.
    let of_two = targets == 1 && labels.len() == 2;
    if targets > 1 && labels.len() < targets {
        return Err(node.bad(format_args!("{} labels for {targets} scores", labels.len())));
    }
    if targets == 1 && (labels.len() != 2 || transform == Transform::Probit) {
        return Err(node.unsupported(format_args!("one score for {} labels", labels.len())));
    }
    Built::new(&[labels.kind(), Type::F32], move |inputs, outputs| {
        let (rows, columns) = inputs[0].matrix()?;
        weights.check(columns)?;
        let mut converted = Vec::new();
        let values = singles(&inputs[0], &mut converted)?;
        let (label, scores) = outputs.split_at_mut(1);
        let classes = if of_two { 2 } else { targets };
        let scores = scores[0].fill::<f32>(Shape::from([rows, classes]))?;
        weights.score(values, &mut scores[..rows * targets]);
        if of_two {
            labels.write(rows, &mut label[0], |row| usize::from(scores[row] > 0.0))?;
            for row in (0..rows).rev() {
                let score = scores[row];
                (scores[2 * row], scores[2 * row + 1]) = transform.of_two(score);
            }
            return Ok(());
        }
        labels.write(rows, &mut label[0], |row| best(&scores[row * targets..(row + 1) * targets]))?;
        if transform != Transform::None {
            scores.chunks_exact_mut(targets).for_each(|scores| transform.apply_quickly(scores));
        }
        Ok(())
    })
}

/// `LinearRegressor`.
pub(super) fn regressor(node: &Node<'_>) -> Result<Built, EngineError> {
    node.one_of(&[Type::F32])?;
    let targets = usize::try_from(node.int("targets", 1)).unwrap_or(0);
    let coefficients = node.floats("coefficients");
    if targets == 0 || targets > coefficients.len() {
        return Err(node.bad(format_args!("{} coefficients for {targets} targets", coefficients.len())));
    }
    let intercepts = match node.floats("intercepts") {
        intercepts if intercepts.len() == targets => intercepts.to_vec(),
        _ => vec![0.0; targets],
    };
    let weights = Weights::new(node, coefficients, intercepts)?;
    let transform = Transform::of(node)?;
    Built::new(&[Type::F32], move |inputs, outputs| {
        let (rows, columns) = inputs[0].matrix()?;
        weights.check(columns)?;
        let scores = outputs[0].fill::<f32>(Shape::from([rows, targets]))?;
        weights.score(inputs[0].get::<f32>()?, scores);
        // Of one score, ONNX Runtime knows this transform only.
        match transform {
            Transform::Probit => scores.iter_mut().for_each(|score| *score = probit(*score)),
            Transform::None => {}
            _ if targets > 1 => scores.chunks_exact_mut(targets).for_each(|scores| transform.apply_quickly(scores)),
            _ => {}
        }
        Ok(())
    })
}

/// The raw scores of both. Where one score stands for two classes, it speaks for the second.
pub(super) fn raw(node: &Node<'_>) -> Result<Raw, EngineError> {
    let coefficients: Vec<f64> = node.floats("coefficients").iter().map(|&weight| weight.into()).collect();
    let intercepts: Vec<f64> = node.floats("intercepts").iter().map(|&intercept| intercept.into()).collect();
    let transform = Transform::of(node)?;
    if node.wire.op_type == "LinearRegressor" {
        let targets = usize::try_from(node.int("targets", 1)).unwrap_or(0);
        let base = if intercepts.len() == targets { &intercepts[..] } else { &[] };
        let transform = if targets == 1 && transform != Transform::Probit { Transform::None } else { transform };
        let outputs = numbered(targets, base);
        return Ok(Raw { space: space_of(transform, "value"), outputs, sum: Sum::Columns { coefficients, targets } });
    }
    let labels: Vec<String> = match node.labels("classlabels_ints", "classlabels_strings")? {
        Labels::Numbers(labels) => labels.iter().map(i64::to_string).collect(),
        Labels::Texts(labels) => labels.iter().map(|label| String::from_utf8_lossy(label).into_owned()).collect(),
    };
    let targets = intercepts.len();
    // Exporters write one score twice, the first time with the other sign.
    let is_opposite = |pair: (&f64, &f64)| *pair.0 == -*pair.1;
    let (first, second) = coefficients.split_at(coefficients.len() / 2);
    if targets == 2
        && labels.len() == 2
        && matches!(transform, Transform::None | Transform::Logistic)
        && is_opposite((&intercepts[0], &intercepts[1]))
        && first.iter().zip(second).all(is_opposite)
    {
        let outputs = vec![Output { label: labels[1].clone(), target: 1, base: intercepts[1] }];
        return Ok(Raw { space: space_of(transform, "raw"), outputs, sum: Sum::Columns { coefficients, targets } });
    }
    let labelled = if targets == 1 { labels.get(1..).unwrap_or_default() } else { &labels[..] };
    let output =
        |(target, (label, base)): (usize, (&String, &f64))| Output { label: label.clone(), target, base: *base };
    let outputs = labelled.iter().zip(&intercepts).enumerate().map(output).collect();
    Ok(Raw { space: space_of(transform, "raw"), outputs, sum: Sum::Columns { coefficients, targets } })
}
