//! How are the files served that XGBoost and LightGBM save themselves?
//!
//! A reader of each format makes a forest and a link of it: what becomes of the sums of a row. Both follow the library that
//! wrote the file, down to the precision: XGBoost has single precision, `x < threshold`, and sums that begin with the base
//! score; LightGBM has double precision and `x <= threshold`. The request has one input, `input`, of one row of columns
//! each; the answer has `predictions`, what the library's `predict` says, and `raw`, the sums.

mod document;
mod lightgbm;
#[cfg(test)]
mod tests;
mod ubjson;
mod xgboost;

use std::sync::Arc;

use tiltyard_runtime::engine::{CompiledModel, EngineError, Format, ModelFile, Session};
use tiltyard_runtime::onnx::Graph;
use tiltyard_types::{DataType, Dim, Shape, Signature, Tensor, TensorSpec};

use crate::trees::{Ensemble, Forest, ForestError};
use crate::value::{ELEMENTS_MAX, Item, View};

/// The formats, by how their files' names end.
pub(crate) const FORMATS: [Format; 3] = [
    Format { name: xgboost::NAME, extension: "json", read: |file| described(xgboost::graph(file)) },
    Format { name: xgboost::NAME, extension: "ubj", read: |file| described(xgboost::graph(file)) },
    Format { name: lightgbm::NAME, extension: "txt", read: |file| described(lightgbm::graph(file)) },
];

/// Columns that a row may have: rows come whole, so that more of them are a mistake or an attack.
const COLUMNS_MAX: usize = 1 << 20;

/// Scores of a row that a model may have without as many trees.
const TARGETS_MAX: usize = 1 << 10;

/// Words of 64 bits that all sets of categories of a model may take.
const WORDS_MAX: usize = 1 << 24;

/// What is not farther from zero is zero to LightGBM, which has the constant in single precision.
const ZERO: f64 = 1e-35f32 as f64;

/// Why a file is not served.
#[derive(Clone, Debug, PartialEq)]
enum Refusal {
    /// It is no such file, or a damaged one.
    Bad(String),
    /// It has something that is not there yet.
    Unsupported(String),
}

impl From<Refusal> for EngineError {
    fn from(refusal: Refusal) -> EngineError {
        match refusal {
            Refusal::Bad(what) => EngineError::BadModel(what),
            Refusal::Unsupported(what) => EngineError::Unsupported(what),
        }
    }
}

impl From<ForestError> for Refusal {
    fn from(error: ForestError) -> Refusal {
        Refusal::Bad(error.to_string())
    }
}

fn described(graph: Result<Graph, Refusal>) -> Result<Graph, String> {
    graph.map_err(|(Refusal::Bad(what) | Refusal::Unsupported(what))| what)
}

/// What a file says of itself before its trees are read.
#[derive(Clone, Debug, PartialEq)]
struct Head {
    format: &'static str,
    /// Which release wrote it, if it says so.
    producer: String,
    dtype: DataType,
    columns: usize,
    /// The names of the columns, as many as there are, or none.
    names: Vec<String>,
    /// Sums of a row.
    targets: usize,
    /// Predictions of a row.
    outputs: usize,
}

impl Head {
    /// Refuses numbers that no honest file has, before memory is taken for them.
    fn check(&self) -> Result<(), Refusal> {
        if !(1..=COLUMNS_MAX).contains(&self.columns) {
            let columns = self.columns;
            return Err(Refusal::Unsupported(format!("rows of {columns} columns; 1 to {COLUMNS_MAX} are possible")));
        }
        if !self.names.is_empty() && self.names.len() != self.columns {
            return Err(Refusal::Bad(format!("{} names of {} columns", self.names.len(), self.columns)));
        }
        Ok(())
    }

    /// Refuses more sums than there are trees, where they are many.
    fn check_targets(&self, trees: usize) -> Result<(), Refusal> {
        let targets = self.targets;
        if targets > trees.max(TARGETS_MAX) {
            return Err(Refusal::Bad(format!("{targets} scores of a row, and {trees} trees to make them")));
        }
        Ok(())
    }

    fn graph(self) -> Graph {
        let spec = |name: &str, columns| TensorSpec {
            name: name.to_owned(),
            dtype: self.dtype,
            dims: Some(vec![Dim::Dynamic(None), Dim::Fixed(columns)]),
            optional: false,
        };
        let signature = Signature {
            inputs: vec![spec("input", self.columns)],
            outputs: vec![spec("predictions", self.outputs), spec("raw", self.targets)],
        };
        let producer = format!("{} {}", self.format, self.producer).trim().to_owned();
        Graph { signature, producer, format: Some(self.format), columns: self.names, ..Graph::default() }
    }
}

/// What becomes of the sums of a row: reads those, and writes the predictions.
type Link<S> = Box<dyn Fn(&[S], &mut [S]) + Send + Sync>;

/// The precision of a library.
trait Real: Item + Copy + PartialOrd {
    const NAN: Self;
    /// Whether LightGBM takes this for a zero.
    fn is_zero(self) -> bool;
    fn score(ensemble: &Ensemble, rows: &[Self], sums: &mut [Self]);
}

impl Real for f32 {
    const NAN: f32 = f32::NAN;
    fn is_zero(self) -> bool {
        f64::from(self).is_zero()
    }
    fn score(ensemble: &Ensemble, rows: &[f32], sums: &mut [f32]) {
        ensemble.score_f32(rows, sums);
    }
}

impl Real for f64 {
    const NAN: f64 = f64::NAN;
    fn is_zero(self) -> bool {
        (-ZERO..=ZERO).contains(&self)
    }
    fn score(ensemble: &Ensemble, rows: &[f64], sums: &mut [f64]) {
        ensemble.score_f64(rows, sums);
    }
}

/// A forest with what is done before and after it.
struct Scorer<S> {
    ensemble: Ensemble,
    /// Columns that come once more at the end of each row, in which zeros are missing.
    zeros: Vec<u32>,
    link: Link<S>,
}

impl<S: Real> Scorer<S> {
    /// The predictions and the sums of rows, those that are wanted.
    fn run(&self, head: &Head, input: &Tensor, wanted: &[usize]) -> Result<Vec<Tensor>, EngineError> {
        let view = View::of_tensor(input)?;
        let values = view.get::<S>()?;
        let (rows, columns) = view.matrix()?;
        if columns != head.columns {
            return Err(EngineError::BadInput(format!("{columns} columns were given, {} are expected", head.columns)));
        }
        let most = rows.checked_mul(head.targets.max(head.outputs).max(columns + self.zeros.len()));
        if most.is_none_or(|most| most > ELEMENTS_MAX) {
            return Err(EngineError::OutOfMemory(format!("{rows} rows are too many for one run")));
        }
        let mut sums = vec![S::default(); rows * head.targets];
        if self.zeros.is_empty() {
            S::score(&self.ensemble, values, &mut sums);
        } else {
            S::score(&self.ensemble, &self.with_zeros(values, columns), &mut sums);
        }
        let output = |&position: &usize| match position {
            0 => {
                let mut predictions = vec![S::default(); rows * head.outputs];
                let each = predictions.chunks_exact_mut(head.outputs).zip(sums.chunks_exact(head.targets));
                each.for_each(|(predictions, sums)| (self.link)(sums, predictions));
                tensor([rows, head.outputs], predictions)
            }
            1 => tensor([rows, head.targets], sums.clone()),
            _ => Err(EngineError::Failed(format!("there is no output {position}"))),
        };
        wanted.iter().map(output).collect()
    }

    fn with_zeros(&self, values: &[S], columns: usize) -> Vec<S> {
        let mut all = Vec::with_capacity(values.len() / columns * (columns + self.zeros.len()));
        for row in values.chunks_exact(columns) {
            all.extend_from_slice(row);
            all.extend(self.zeros.iter().map(|&column| {
                let value = row[column as usize];
                if value.is_zero() { S::NAN } else { value }
            }));
        }
        all
    }
}

fn tensor<S: Item>(shape: [usize; 2], elements: Vec<S>) -> Result<Tensor, EngineError> {
    crate::value::Value::of(Shape::from(shape), elements).view().to_tensor()
}

/// A model that was read.
struct Native {
    head: Head,
    signature: Signature,
    scorer: Precise,
}

enum Precise {
    Single(Scorer<f32>),
    Double(Scorer<f64>),
}

/// Reads a file of one of the [`FORMATS`].
pub(crate) fn compile(file: &ModelFile) -> Result<Box<dyn CompiledModel>, EngineError> {
    let (head, scorer) = match file.graph.format {
        Some(lightgbm::NAME) => lightgbm::read(&file.bytes).map(|(head, scorer)| (head, Precise::Double(scorer)))?,
        _ => xgboost::read(&file.bytes).map(|(head, scorer)| (head, Precise::Single(scorer)))?,
    };
    let signature = head.clone().graph().signature;
    Ok(Box::new(NativeModel(Arc::new(Native { head, signature, scorer }))))
}

struct NativeModel(Arc<Native>);

impl CompiledModel for NativeModel {
    fn signature(&self) -> &Signature {
        &self.0.signature
    }

    fn provider(&self) -> &str {
        crate::engine::PROVIDER
    }

    fn open(&self) -> Result<Box<dyn Session>, EngineError> {
        Ok(Box::new(NativeSession(Arc::clone(&self.0))))
    }
}

struct NativeSession(Arc<Native>);

impl Session for NativeSession {
    fn run(&mut self, inputs: &[Option<Tensor>], wanted: &[usize]) -> Result<Vec<Tensor>, EngineError> {
        let Native { head, scorer, .. } = &*self.0;
        let input = inputs.first().and_then(Option::as_ref);
        let input = input.ok_or_else(|| EngineError::BadInput("the input is missing".into()))?;
        match scorer {
            Precise::Single(scorer) => scorer.run(head, input, wanted),
            Precise::Double(scorer) => scorer.run(head, input, wanted),
        }
    }
}

/// What explanations need of a file.
pub(crate) struct Explained {
    /// With base values in its trees.
    pub(crate) forest: Forest,
    /// How much of the training rows came by each node of each tree.
    pub(crate) covers: Option<Vec<Vec<f64>>>,
    pub(crate) precision: crate::trees::Precision,
    /// Columns that come once more at the end of each row, in which zeros are missing.
    pub(crate) zeros: Vec<u32>,
    /// What sums are.
    pub(crate) space: &'static str,
}

/// Reads what explanations need, and how many columns a row has.
pub(crate) fn explained(file: &ModelFile) -> Result<(usize, Explained), EngineError> {
    let (head, explained) = match file.graph.format {
        Some(lightgbm::NAME) => lightgbm::explained(&file.bytes)?,
        _ => xgboost::explained(&file.bytes)?,
    };
    Ok((head.columns, explained))
}

/// A row with what comes at its end; see [`Explained::zeros`].
pub(crate) fn with_zeros(row: &[f64], zeros: &[u32], all: &mut Vec<f64>) {
    all.extend_from_slice(row);
    all.extend(zeros.iter().map(|&column| {
        let value = row[column as usize];
        if value.is_zero() { f64::NAN } else { value }
    }));
}

/// How much room sets of categories may yet take.
struct Words(usize);

impl Words {
    fn new() -> Words {
        Words(WORDS_MAX)
    }

    /// An empty set of so many bits.
    fn set(&mut self, bits: usize) -> Result<Box<[u64]>, Refusal> {
        let count = bits.div_ceil(64);
        let left = self.0.checked_sub(count);
        self.0 = left.ok_or_else(|| Refusal::Unsupported("its sets of categories take more than 128 MiB".into()))?;
        Ok(vec![0; count].into_boxed_slice())
    }
}

/// Lays out a forest, whose base values are in its trees.
fn ensemble(forest: Forest, precision: crate::trees::Precision) -> Result<Ensemble, Refusal> {
    Ok(Ensemble::new(forest, precision, crate::trees::Aggregate::Sum)?)
}

/// Text or bytes of a file in messages: a piece of it.
fn shown(text: &str) -> String {
    let piece: String = text.chars().take(60).collect();
    format!("{piece:?}{}", if piece.len() < text.len() { " ..." } else { "" })
}
