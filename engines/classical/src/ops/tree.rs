//! How do tree ensembles answer: which class, which scores?
//!
//! The forest itself is scored by [`crate::trees`]. Here is what ONNX Runtime does before and after, to the letter, the odd
//! parts included: which of two classes it says, what base values do, and what a score becomes.

mod older;
mod opset5;
pub(super) mod raw;

use tiltyard_runtime::engine::EngineError;
use tiltyard_types::Shape;

use super::linear::{NUMBERS, singles};
use super::scores::{Transform, logistic, probit};
use crate::node::{Built, Labels, Node, bad_shape};
use crate::trees::{Aggregate, Ensemble, Forest, ForestError, Gives, Precision};
use crate::value::{Item, Type, View};

/// A forest with what is said of its answers.
struct Model {
    forest: Forest,
    aggregate: Aggregate,
    transform: Transform,
}

/// A score in the precision of a forest.
trait Score:
    Item + Copy + PartialOrd + std::ops::Add<Output = Self> + std::ops::Sub<Output = Self> + std::ops::Neg<Output = Self>
{
    const PRECISION: Precision;
    const ONE: Self;
    const HALF: Self;
    fn rounded(value: f64) -> Self;
    fn single(self) -> f32;
    fn score(ensemble: &Ensemble, rows: &[Self], scores: &mut [Self]);
    fn given(ensemble: &Ensemble, rows: &[Self], given: &mut [bool]);
}

impl Score for f32 {
    const PRECISION: Precision = Precision::F32;
    const ONE: f32 = 1.0;
    const HALF: f32 = 0.5;
    fn rounded(value: f64) -> f32 {
        value as f32
    }
    fn single(self) -> f32 {
        self
    }
    fn score(ensemble: &Ensemble, rows: &[f32], scores: &mut [f32]) {
        ensemble.score_f32(rows, scores);
    }
    fn given(ensemble: &Ensemble, rows: &[f32], given: &mut [bool]) {
        ensemble.given_f32(rows, given);
    }
}

impl Score for f64 {
    const PRECISION: Precision = Precision::F64;
    const ONE: f64 = 1.0;
    const HALF: f64 = 0.5;
    fn rounded(value: f64) -> f64 {
        value
    }
    fn single(self) -> f32 {
        self as f32
    }
    fn score(ensemble: &Ensemble, rows: &[f64], scores: &mut [f64]) {
        ensemble.score_f64(rows, scores);
    }
    fn given(ensemble: &Ensemble, rows: &[f64], given: &mut [bool]) {
        ensemble.given_f64(rows, given);
    }
}

/// A forest that takes rows of any width that has its columns.
struct Scorer<S> {
    ensemble: Ensemble,
    base: Vec<S>,
}

impl<S: Score> Scorer<S> {
    fn new(node: &Node<'_>, mut forest: Forest, aggregate: Aggregate) -> Result<Scorer<S>, EngineError> {
        if let Some(width) = node.width(0) {
            // The width of the request's rows: they can be read as they lie.
            forest.columns = forest.columns.max(width);
        }
        let base = std::mem::take(&mut forest.base).into_iter().map(S::rounded).collect();
        let ensemble = Ensemble::new(forest, S::PRECISION, aggregate).map_err(|error| match error {
            ForestError::TooMany { .. } => node.unsupported(error),
            _ => node.bad(error),
        })?;
        Ok(Scorer { ensemble, base })
    }

    /// Calls `then` with rows as wide as the ensemble has them: as they lie, or without the columns that no tree looks at.
    fn with_rows<R>(&self, values: &[S], columns: usize, then: impl FnOnce(&[S]) -> R) -> Result<R, EngineError> {
        let needed = self.ensemble.columns();
        if columns == needed {
            return Ok(then(values));
        }
        if columns < needed {
            return Err(bad_shape(format_args!(
                "{columns} columns were given, and a tree looks at column {}",
                needed - 1
            )));
        }
        let narrow: Vec<S> = values.chunks_exact(columns).flat_map(|row| &row[..needed]).copied().collect();
        Ok(then(&narrow))
    }
}

/// Rows and columns. Fails where there are more than two axes, as ONNX Runtime does.
fn matrix(view: &View<'_>) -> Result<(usize, usize), EngineError> {
    if view.dims.len() > 2 {
        return Err(bad_shape(format_args!("{} axes were given, at most 2 are expected", view.dims.len())));
    }
    view.matrix()
}

/// `TreeEnsembleRegressor`.
pub(super) fn regressor(node: &Node<'_>) -> Result<Built, EngineError> {
    let kind = node.one_of(&[Type::F32, Type::F64])?;
    let model = older::read(node, kind, "target")?;
    match kind {
        Type::F32 => scores::<f32, f32>(node, model, |score| score),
        _ => scores::<f64, f32>(node, model, |score| score as f32),
    }
}

/// `TreeEnsemble`, of opset 5: scores in the precision of the input.
pub(super) fn ensemble(node: &Node<'_>) -> Result<Built, EngineError> {
    let kind = node.one_of(&[Type::F32, Type::F64])?;
    let model = opset5::read(node, kind)?;
    match kind {
        Type::F32 => scores::<f32, f32>(node, model, |score| score),
        _ if model.transform == Transform::None => scores::<f64, f64>(node, model, |score| score),
        // Transforms are computed in single precision.
        _ => scores::<f64, f64>(node, model, |score| f64::from(score as f32)),
    }
}

/// Scores of targets, with base values and transformed.
fn scores<S: Score, O: Item + Copy + From<f32>>(
    node: &Node<'_>,
    model: Model,
    written: fn(S) -> O,
) -> Result<Built, EngineError> {
    let Model { forest, aggregate, transform } = model;
    let targets = forest.targets;
    if !forest.base.is_empty() && forest.base.len() != targets {
        return Err(node.bad(format_args!("{} base values for {targets} targets", forest.base.len())));
    }
    let scorer = Scorer::<S>::new(node, forest, aggregate)?;
    Built::new(&[O::TYPE], move |inputs, outputs| {
        let (rows, columns) = matrix(&inputs[0])?;
        let values = inputs[0].get::<S>()?;
        let out = outputs[0].fill::<O>(Shape::from([rows, targets]))?;
        let mut raw = vec![S::default(); rows * targets];
        scorer.with_rows(values, columns, |rows| S::score(&scorer.ensemble, rows, &mut raw))?;
        if !scorer.base.is_empty() {
            for scores in raw.chunks_exact_mut(targets) {
                scores.iter_mut().zip(&scorer.base).for_each(|(score, &base)| *score = *score + base);
            }
        }
        match transform {
            Transform::Probit => out.iter_mut().zip(&raw).for_each(|(out, raw)| *out = probit(raw.single()).into()),
            // Of a single score, ONNX Runtime knows the transform above only.
            _ if transform == Transform::None || targets == 1 => {
                out.iter_mut().zip(&raw).for_each(|(out, &raw)| *out = written(raw));
            }
            _ => {
                let mut row = vec![0f32; targets];
                for (out, raw) in out.chunks_exact_mut(targets).zip(raw.chunks_exact(targets)) {
                    row.iter_mut().zip(raw).for_each(|(single, raw)| *single = raw.single());
                    transform.apply(&mut row);
                    out.iter_mut().zip(&row).for_each(|(out, &score)| *out = score.into());
                }
            }
        }
        Ok(())
    })
}

/// `TreeEnsembleClassifier`: labels, and scores of each class.
pub(super) fn classifier(node: &Node<'_>) -> Result<Built, EngineError> {
    let kind = node.one_of(&NUMBERS)?;
    // Integers are compared in single precision.
    let precision = if kind == Type::F64 { Type::F64 } else { Type::F32 };
    let model = older::read(node, precision, "class")?;
    match precision {
        Type::F64 => classes::<f64>(node, model, |view, _| view.get::<f64>()),
        _ => classes::<f32>(node, model, singles),
    }
}

/// How the classes of rows follow from scores.
struct Choice<S> {
    /// All weights are of one class of two.
    of_one: bool,
    all_positive: bool,
    transform: Transform,
    base: Vec<S>,
}

fn classes<S: Score>(
    node: &Node<'_>,
    model: Model,
    read: for<'a> fn(&View<'a>, &'a mut Vec<S>) -> Result<&'a [S], EngineError>,
) -> Result<Built, EngineError> {
    let labels = node.labels("classlabels_int64s", "classlabels_strings")?;
    let Model { forest, aggregate, transform } = model;
    let (count, base) = (labels.len(), forest.base.len());
    if aggregate != Aggregate::Sum {
        return Err(node.bad("a classifier sums its trees"));
    }
    if base > count.max(1) || (count > 2 && base != 0 && base != count) {
        return Err(node.bad(format_args!("{base} base values for {count} classes")));
    }
    let ids = node.ints("class_ids");
    let of_one = count == 2 && !ids.is_empty() && ids.iter().all(|id| *id == ids[0]);
    let all_positive = !older::weights(node, "class")?.iter().any(|weight| *weight < 0.0);
    // What it says of two classes, or of one, are these numbers unless all weights are of one class.
    let said = match labels {
        Labels::Numbers(_) if count <= 2 && !of_one => Labels::Numbers(vec![0, 1]),
        Labels::Texts(_) if count == 1 => return Err(node.unsupported("a single label that is a text")),
        labels => labels,
    };
    let scorer = Scorer::<S>::new(node, forest, aggregate)?;
    // Which classes get a weight, where that is the same for every row.
    let gives = scorer.ensemble.gives();
    let always: Vec<bool> = gives.iter().map(|gives| *gives == Gives::Always).collect();
    let varies = gives.contains(&Gives::Sometimes);
    if transform == Transform::Probit && count == 2 && !always[1] {
        return Err(node.unsupported("PROBIT of a single score for two classes"));
    }
    let choice = Choice { of_one, all_positive, transform, base: scorer.base.clone() };
    Built::new(&[said.kind(), Type::F32], move |inputs, outputs| {
        let (rows, columns) = matrix(&inputs[0])?;
        let mut converted = Vec::new();
        let values = read(&inputs[0], &mut converted)?;
        let mut raw = vec![S::default(); rows * count];
        let mut given = vec![false; if varies { rows * count } else { 0 }];
        scorer.with_rows(values, columns, |rows| {
            S::score(&scorer.ensemble, rows, &mut raw);
            if varies {
                S::given(&scorer.ensemble, rows, &mut given);
            }
        })?;
        let (label, scores) = outputs.split_at_mut(1);
        let out = scores[0].fill::<f32>(Shape::from([rows, count]))?;
        let mut silent = false;
        said.write(rows, &mut label[0], |row| {
            let range = row * count..(row + 1) * count;
            let given = if varies { &given[range.clone()] } else { &always[..] };
            let class = choice.finish(&mut raw[range.clone()], given, &mut out[range]);
            silent |= class.is_none();
            class.unwrap_or(0)
        })?;
        if silent {
            return Err(EngineError::BadInput("no tree speaks of any class for a row".into()));
        }
        Ok(())
    })
}

impl<S: Score> Choice<S> {
    /// Writes the scores of a row, and says which class it is of; `None` where no tree spoke of any.
    fn finish(&self, raw: &mut [S], given: &[bool], out: &mut [f32]) -> Option<usize> {
        match raw.len() {
            1 => {
                let score = self.base.first().map_or(raw[0], |&base| raw[0] + base);
                out[0] = if self.transform == Transform::Probit { probit(score.single()) } else { score.single() };
                Some(usize::from(score > S::default()))
            }
            2 => Some(self.finish_two(raw, given, out)),
            _ => {
                // The same for every row where every row gets all.
                let has_base = !self.base.is_empty();
                raw.iter_mut().zip(&self.base).for_each(|(score, &base)| *score = *score + base);
                let mut best: Option<usize> = None;
                for class in (0..raw.len()).filter(|&class| has_base || given[class]) {
                    if best.is_none_or(|best| raw[class] > raw[best]) {
                        best = Some(class);
                    }
                }
                out.iter_mut().zip(raw.iter()).for_each(|(out, raw)| *out = raw.single());
                self.transform.apply(out);
                best
            }
        }
    }

    fn finish_two(&self, raw: &[S], given: &[bool], out: &mut [f32]) -> usize {
        let zero = S::default();
        let (mut first, mut second) = (raw[0], raw[1]);
        let has = |given: bool, score: S| if given { score } else { zero };
        let mut alone = !given[1];
        match self.base[..] {
            [_, base] if given[1] => {
                // As ONNX Runtime has it: the second class follows from the first.
                second = base + first;
                first = -second;
            }
            [of_first, of_second] => {
                first = first + of_first;
                second = second + of_second;
                alone = false;
            }
            [base] => first = first + base,
            _ => {}
        }
        let positive = if given[1] { second } else { has(given[0], first) };
        let wins = if self.of_one && self.all_positive { positive > S::HALF } else { positive > zero };
        if !alone {
            (out[0], out[1]) = (has(given[0], first).single(), has(given[1], second).single());
            self.transform.apply(out);
            return usize::from(wins);
        }
        // One score for both classes.
        let score = has(given[0], first);
        (out[0], out[1]) = if !self.of_one && self.base.len() == 1 {
            (score.single(), 0.0)
        } else if self.transform == Transform::Logistic {
            (logistic(-score.single()), logistic(score.single()))
        } else if self.of_one && self.all_positive {
            ((S::ONE - score).single(), score.single())
        } else {
            ((-score).single(), score.single())
        };
        usize::from(wins)
    }
}
