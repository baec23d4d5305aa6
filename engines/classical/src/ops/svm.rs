//! How are support vector machines scored?

use tiltyard_runtime::engine::EngineError;
use tiltyard_types::Shape;

use super::linear::{NUMBERS, dot, singles};
use super::scores::{Transform, best, logistic};
use crate::node::{Built, Labels, Node, bad_shape};
use crate::value::{ELEMENTS_MAX, Type};

#[derive(Clone, Copy)]
enum Kind {
    Linear,
    Poly,
    Rbf,
    Sigmoid,
}

/// How alike a row and a support vector are.
#[derive(Clone, Copy)]
struct Likeness {
    kind: Kind,
    gamma: f32,
    coef0: f32,
    degree: f32,
}

impl Likeness {
    fn of(node: &Node<'_>) -> Result<Likeness, EngineError> {
        let text = node.text("kernel_type", "LINEAR");
        let kind = match &text[..] {
            b"LINEAR" => Kind::Linear,
            b"POLY" => Kind::Poly,
            b"RBF" => Kind::Rbf,
            b"SIGMOID" => Kind::Sigmoid,
            _ => return Err(node.bad(format_args!("kernel_type {:?} does not exist", String::from_utf8_lossy(&text)))),
        };
        match *node.floats("kernel_params") {
            [] => Ok(Likeness { kind, gamma: 0.0, coef0: 0.0, degree: 0.0 }),
            [gamma, coef0, degree, ..] => Ok(Likeness { kind, gamma, coef0, degree }),
            _ => Err(node.bad("kernel_params needs gamma, coef0 and degree")),
        }
    }

    fn between(&self, row: &[f32], vector: &[f32]) -> f32 {
        match self.kind {
            Kind::Linear => dot(row, vector),
            Kind::Rbf => {
                let distance: f32 = row.iter().zip(vector).map(|(a, b)| (a - b) * (a - b)).sum();
                (-self.gamma * distance).exp()
            }
            Kind::Poly => {
                let base = self.gamma * dot(row, vector) + self.coef0;
                match self.degree {
                    2.0 => base * base,
                    3.0 => base * base * base,
                    degree => base.powf(degree),
                }
            }
            Kind::Sigmoid => (self.gamma * dot(row, vector) + self.coef0).tanh(),
        }
    }
}

fn check_columns(columns: usize, expected: usize) -> Result<(), EngineError> {
    if columns == expected {
        return Ok(());
    }
    Err(bad_shape(format_args!("{columns} columns were given, and the model has {expected}")))
}

/// `SVMRegressor`: one score a row, or with `one_class` on which side of the border it lies.
pub(super) fn regressor(node: &Node<'_>) -> Result<Built, EngineError> {
    node.one_of(&[Type::F32])?;
    let coefficients = node.floats("coefficients").to_vec();
    let &[rho, ..] = node.floats("rho") else { return Err(node.bad("rho is missing")) };
    if coefficients.is_empty() {
        return Err(node.bad("it has no coefficients"));
    }
    if node.text("post_transform", "NONE") != "NONE" {
        return Err(node.unsupported("a post_transform"));
    }
    let one_class = node.int("one_class", 0) != 0;
    let vectors = node.floats("support_vectors").to_vec();
    let supports = usize::try_from(node.int("n_supports", 0)).unwrap_or(0);
    let likeness = Likeness::of(node)?;
    if supports > 0 && (coefficients.len() != supports || vectors.is_empty() || !vectors.len().is_multiple_of(supports))
    {
        let (numbers, coefficients) = (vectors.len(), coefficients.len());
        return Err(node.bad(format_args!("{numbers} numbers and {coefficients} coefficients for {supports} vectors")));
    }
    let expected = vectors.len().checked_div(supports).unwrap_or(coefficients.len());
    Built::new(&[Type::F32], move |inputs, outputs| {
        let (rows, columns) = inputs[0].matrix()?;
        check_columns(columns, expected)?;
        let scores = outputs[0].fill::<f32>(Shape::from([rows, 1]))?;
        for (row, score) in inputs[0].get::<f32>()?.chunks_exact(columns).zip(scores) {
            let sum = if supports == 0 {
                dot(row, &coefficients)
            } else {
                let pairs = vectors.chunks_exact(columns).zip(&coefficients);
                pairs.map(|(vector, coefficient)| likeness.between(row, vector) * coefficient).sum()
            };
            *score = sum + rho;
            if one_class {
                *score = if *score > 0.0 { 1.0 } else { -1.0 };
            }
        }
        Ok(())
    })
}

/// `SVMClassifier`.
pub(super) fn classifier(node: &Node<'_>) -> Result<Built, EngineError> {
    node.one_of(&NUMBERS)?;
    let labels = node.labels("classlabels_ints", "classlabels_strings")?;
    if node.ints("vectors_per_class").iter().any(|&count| count != 0) {
        return pairwise(node, labels);
    }
    let transform = Transform::of(node)?;
    let classes = labels.len();
    let coefficients = node.floats("coefficients").to_vec();
    let &[rho, ..] = node.floats("rho") else { return Err(node.bad("rho is missing")) };
    if coefficients.is_empty() || !coefficients.len().is_multiple_of(classes) || classes < 2 {
        return Err(node.bad(format_args!("{} coefficients for {classes} classes", coefficients.len())));
    }
    let expected = coefficients.len() / classes;
    let proved = !node.floats("prob_a").is_empty();
    let all_positive = coefficients.iter().all(|&coefficient| coefficient >= 0.0);
    Built::new(&[labels.kind(), Type::F32], move |inputs, outputs| {
        let (rows, columns) = inputs[0].matrix()?;
        check_columns(columns, expected)?;
        let mut converted = Vec::new();
        let values = singles(&inputs[0], &mut converted)?;
        let (label, scores) = outputs.split_at_mut(1);
        let scores = scores[0].fill::<f32>(Shape::from([rows, classes]))?;
        for (row, scores) in values.chunks_exact(columns).zip(scores.chunks_exact_mut(classes)) {
            for (weights, score) in coefficients.chunks_exact(columns).zip(scores) {
                *score = dot(row, weights) + rho;
            }
        }
        labels.write(rows, &mut label[0], |row| {
            let scores = &scores[row * classes..(row + 1) * classes];
            let best = best(scores);
            let positive = if all_positive { scores[best] >= 0.5 } else { scores[best] > 0.0 };
            if classes == 2 && !proved && positive { 1 } else { best }
        })?;
        scores.chunks_exact_mut(classes).for_each(|scores| transform.apply_quickly(scores));
        Ok(())
    })
}

/// Classes that are held against each other, two at a time.
struct Pairwise {
    likeness: Likeness,
    vectors: Vec<f32>,
    columns: usize,
    /// Where the vectors of each class begin and end.
    starts: Vec<usize>,
    /// A row of one weight for each vector, for each class but one.
    coefficients: Vec<f32>,
    rho: Vec<f32>,
    /// How a score becomes a probability, for each pair; empty where there are none.
    proba: Vec<(f32, f32)>,
}

impl Pairwise {
    fn read(node: &Node<'_>, classes: usize) -> Result<Pairwise, EngineError> {
        let counts = node.ints("vectors_per_class");
        let mut starts = vec![0usize];
        for &count in counts {
            let last = starts[starts.len() - 1];
            let next = usize::try_from(count).ok().and_then(|count| last.checked_add(count));
            starts.push(next.ok_or_else(|| node.bad(format_args!("a class has {count} vectors")))?);
        }
        let count = starts[starts.len() - 1];
        let vectors = node.floats("support_vectors").to_vec();
        let coefficients = node.floats("coefficients").to_vec();
        let rho = node.floats("rho").to_vec();
        let (a, b) = (node.floats("prob_a"), node.floats("prob_b"));
        let pairs = classes.saturating_mul(classes.saturating_sub(1)) / 2;
        if !(2..65536).contains(&classes) || counts.len() != classes {
            return Err(node.bad(format_args!("{classes} labels, and vectors of {} classes", counts.len())));
        }
        if vectors.is_empty() || !vectors.len().is_multiple_of(count) {
            return Err(node.bad(format_args!("{} numbers for {count} vectors", vectors.len())));
        }
        let short =
            |what: &str, there: usize, needed: usize| node.bad(format_args!("{there} {what}, {needed} are needed"));
        if coefficients.len() < (classes - 1).saturating_mul(count) {
            return Err(short("coefficients", coefficients.len(), (classes - 1).saturating_mul(count)));
        }
        if rho.len() < pairs {
            return Err(short("rho", rho.len(), pairs));
        }
        if a.len() != b.len() || (!a.is_empty() && a.len() < pairs) {
            return Err(short("prob_a and prob_b", a.len().min(b.len()), pairs));
        }
        let proba = a.iter().copied().zip(b.iter().copied()).collect();
        let columns = vectors.len() / count;
        Ok(Pairwise { likeness: Likeness::of(node)?, vectors, columns, starts, coefficients, rho, proba })
    }

    /// Writes the score of each pair, and counts which class wins how often.
    fn score(&self, row: &[f32], alike: &mut Vec<f32>, pairs: &mut [f32], votes: &mut [usize]) {
        alike.clear();
        alike.extend(self.vectors.chunks_exact(self.columns).map(|vector| self.likeness.between(row, vector)));
        votes.fill(0);
        let sum = |class: usize, line: usize| -> f64 {
            let own = self.starts[class]..self.starts[class + 1];
            let weights = &self.coefficients[line * alike.len()..][own.clone()];
            weights.iter().zip(&alike[own]).map(|(weight, alike)| f64::from(weight * alike)).sum()
        };
        let mut pair = 0;
        for first in 0..votes.len() {
            for second in first + 1..votes.len() {
                let score = sum(first, second - 1) + sum(second, first) + f64::from(self.rho[pair]);
                pairs[pair] = score as f32;
                votes[if score > 0.0 { first } else { second }] += 1;
                pair += 1;
            }
        }
    }

    /// The probability of each class, from those of pairs.
    fn probabilities(&self, pairs: &[f32], out: &mut [f32]) {
        const LEAST: f32 = 1.0e-7;
        let classes = out.len();
        let mut of_pairs = vec![0f32; classes * classes];
        let mut pair = 0;
        for first in 0..classes {
            for second in first + 1..classes {
                let (a, b) = self.proba[pair];
                // What is not a number stays so, as it does in ONNX Runtime: all classes are alike then.
                let won = (1.0 - logistic(pairs[pair] * a + b)).clamp(LEAST, 1.0 - LEAST);
                of_pairs[first * classes + second] = won;
                of_pairs[second * classes + first] = 1.0 - won;
                pair += 1;
            }
        }
        couple(&of_pairs, out);
    }
}

/// Wu, Lin and Weng's second method: probabilities of classes from those of pairs, by iteration.
fn couple(of_pairs: &[f32], out: &mut [f32]) {
    const ROUNDS_MAX: usize = 100;
    let classes = out.len();
    let mut q = vec![0f32; classes * classes];
    let mut qp = vec![0f32; classes];
    for i in 0..classes {
        out[i] = 1.0 / classes as f32;
        for j in 0..classes {
            let other = of_pairs[j * classes + i];
            if j != i {
                q[i * classes + i] += other * other;
                q[i * classes + j] = if j < i { q[j * classes + i] } else { -other * of_pairs[i * classes + j] };
            }
        }
    }
    for _ in 0..ROUNDS_MAX {
        let mut pqp = 0f32;
        for i in 0..classes {
            qp[i] = 0.0;
            for j in 0..classes {
                qp[i] += q[i * classes + j] * out[j];
            }
            pqp += out[i] * qp[i];
        }
        let off =
            qp.iter().fold(0f32, |most, value| if (value - pqp).abs() > most { (value - pqp).abs() } else { most });
        if off < 0.005 / classes as f32 {
            break;
        }
        for i in 0..classes {
            let own = q[i * classes + i];
            let change = (-qp[i] + pqp) / own;
            out[i] += change;
            pqp = (pqp + change * (change * own + 2.0 * qp[i])) / (1.0 + change) / (1.0 + change);
            for j in 0..classes {
                qp[j] = (qp[j] + change * q[i * classes + j]) / (1.0 + change);
                out[j] /= 1.0 + change;
            }
        }
    }
}

fn pairwise(node: &Node<'_>, labels: Labels) -> Result<Built, EngineError> {
    let classes = labels.len();
    let model = Pairwise::read(node, classes)?;
    let transform = Transform::of(node)?;
    let has_proba = !model.proba.is_empty();
    let pairs = classes * (classes - 1) / 2;
    if classes == 2 && !has_proba && transform == Transform::Probit {
        return Err(node.unsupported("one score for two labels and PROBIT"));
    }
    let width = if has_proba || classes == 2 { classes } else { pairs };
    Built::new(&[labels.kind(), Type::F32], move |inputs, outputs| {
        let (rows, columns) = inputs[0].matrix()?;
        check_columns(columns, model.columns)?;
        let mut converted = Vec::new();
        let values = singles(&inputs[0], &mut converted)?;
        let (label, scores) = outputs.split_at_mut(1);
        if rows.saturating_mul(width) > ELEMENTS_MAX {
            return Err(EngineError::OutOfMemory(format!("{rows} rows of {width} scores")));
        }
        let scores = scores[0].fill::<f32>(Shape::from([rows, width]))?;
        let (mut alike, mut of_pairs, mut votes) = (Vec::new(), vec![0f32; pairs], vec![0usize; classes]);
        let mut lines = values.chunks_exact(columns.max(1)).zip(scores.chunks_exact_mut(width.max(1)));
        labels.write(rows, &mut label[0], |_| {
            let Some((row, out)) = lines.next() else { return usize::MAX };
            model.score(row, &mut alike, &mut of_pairs, &mut votes);
            // The first of those with most votes.
            let most = votes.iter().copied().max().unwrap_or(0);
            let winner = votes.iter().position(|&count| count == most).unwrap_or(0);
            if has_proba {
                model.probabilities(&of_pairs, out);
                transform.apply_quickly(out);
            } else if classes == 2 {
                let score = of_pairs[0];
                (out[0], out[1]) = if transform == Transform::None { (-score, score) } else { transform.of_two(score) };
            } else {
                out.copy_from_slice(&of_pairs);
                transform.apply_quickly(out);
            }
            winner
        })
    })
}
