//! Which column had which part in a score?
//!
//! Shapley values of the sum that a model computes before it transforms anything: of trees by how often training rows took each
//! branch (`path.rs`) or compared with background rows (`background.rs`), of linear models compared with such rows. The players are
//! the columns of the request, whatever a pipeline makes of them (`graph.rs`, `origin.rs`): all that a column became
//! comes and goes with it.

mod background;
mod forest;
mod graph;
mod origin;
mod path;
mod quadrature;
#[cfg(test)]
mod tests;

use tiltyard_runtime::engine::{EngineError, Explainer, Explanation, ExplanationKind, ModelFile};
use tiltyard_types::Tensor;

use self::background::ByBackground;
use self::forest::{NOBODY, Step, Trees, are_covers};
use self::graph::{Lead, Scored};
use self::path::ByPath;
use crate::native;
use crate::ops::raw::{Output, Sum, numbered};
use crate::value::View;

/// Values that explanations of one call may have.
const PARTS_MAX: usize = 1 << 24;

/// Values that the features of all background rows may have together.
const BACKGROUND_MAX: usize = 1 << 24;

/// What makes features of a request.
enum Features {
    Graph(Lead),
    /// Rows as they are, with copies at their end in which zeros are missing.
    Native {
        columns: usize,
        zeros: Vec<u32>,
    },
}

impl Features {
    fn of(&self, inputs: &[Option<Tensor>]) -> Result<(usize, Vec<f64>), EngineError> {
        let (columns, zeros) = match self {
            Features::Graph(lead) => return lead.features(inputs),
            Features::Native { columns, zeros } => (*columns, zeros),
        };
        let input = inputs.first().and_then(Option::as_ref);
        let input = input.ok_or_else(|| EngineError::BadInput("the input is missing".into()))?;
        let view = View::of_tensor(input)?;
        let (rows, given) = view.matrix()?;
        if given != columns {
            return Err(EngineError::BadInput(format!("{given} columns were given, {columns} are expected")));
        }
        let values: Vec<f64> = match view.data {
            crate::value::Slice::F32(values) => values.iter().map(|&value| value.into()).collect(),
            _ => view.get::<f64>()?.to_vec(),
        };
        let mut all = Vec::with_capacity(rows * (columns + zeros.len()));
        values.chunks_exact(columns).for_each(|row| native::with_zeros(row, zeros, &mut all));
        Ok((rows, all))
    }
}

/// What is taken apart, and how.
enum Parts {
    Path(ByPath),
    Background(ByBackground),
    /// targets × features, with the mean of each feature.
    Columns {
        coefficients: Vec<f64>,
        means: Vec<f64>,
        players: Vec<u32>,
    },
}

struct Explained {
    about: ExplanationKind,
    features: Features,
    outputs: Vec<Output>,
    targets: usize,
    players: usize,
    parts: Parts,
}

/// Reads what is needed of a model's file. See [`Engine::explainer`](tiltyard_runtime::engine::Engine::explainer).
pub(crate) fn explainer(
    file: &ModelFile,
    background: Option<&[Option<Tensor>]>,
) -> Result<Box<dyn Explainer>, EngineError> {
    let columns = graph::columns(file)?;
    let players = columns.iter().sum();
    let (features, sum, outputs, space, of, mixed) = if file.graph.format.is_some() {
        let (width, explained) = native::explained(file)?;
        let native::Explained { forest, covers, precision, zeros, space } = explained;
        let of = (0..width as u32).chain(zeros.iter().copied()).collect();
        let outputs = numbered(forest.targets, &[]);
        let sum = Sum::Trees { forest, covers, precision };
        (Features::Native { columns: width, zeros }, sum, outputs, space, of, Vec::new())
    } else {
        let Scored { raw, lead, players, mixed } = graph::read(file, &columns)?;
        (Features::Graph(lead), raw.sum, raw.outputs, raw.space, players, mixed)
    };
    let rows = background.map(|background| features.of(background)).transpose()?;
    let (targets, parts) = parts_of(sum, rows, of, players, &mixed)?;
    let method = match &parts {
        Parts::Path(_) => "tree_path_dependent",
        Parts::Background(_) | Parts::Columns { .. } => "interventional",
    };
    let about = ExplanationKind {
        method,
        space,
        outputs: outputs.iter().map(|output| output.label.clone()).collect(),
        columns,
        background_rows: background.and_then(|inputs| inputs.iter().flatten().next()?.shape().rows()),
    };
    Ok(Box::new(Explained { about, features, outputs, targets, players, parts }))
}

/// What is to be taken apart, and how many targets it has. `of` says whose each feature is, and `mixed` which features are of
/// several columns.
fn parts_of(
    sum: Sum,
    background: Option<(usize, Vec<f64>)>,
    of: Vec<u32>,
    players: usize,
    mixed: &[u32],
) -> Result<(usize, Parts), EngineError> {
    if let Some((rows, values)) = &background
        && (*rows == 0 || values.len() > BACKGROUND_MAX)
    {
        let told = format!(
            "the background makes {rows} rows of {} features in all: 1 to {BACKGROUND_MAX} are taken",
            values.len()
        );
        return Err(EngineError::Unsupported(told));
    }
    match sum {
        Sum::Trees { forest, covers, precision } => {
            let covers = covers.filter(|covers| background.is_none() && are_covers(&forest, covers));
            if background.is_none() && covers.is_none() {
                return Err(needs_background("the file does not say how often each branch was taken"));
            }
            let mut of = of;
            of.resize(of.len().max(forest.columns), NOBODY);
            let trees = Trees::new(&forest, covers.as_ref(), precision, of, players)?;
            Ok((forest.targets, trees_apart(trees, background, mixed)?))
        }
        Sum::Columns { coefficients, targets } => {
            let rows = background
                .ok_or_else(|| needs_background("a linear model's parts are differences to what is usual"))?;
            Ok((targets, columns_apart(coefficients, targets, rows, of, mixed)?))
        }
    }
}

fn needs_background(why: &str) -> EngineError {
    EngineError::Unsupported(format!(
        "{why}: put some rows that stand for what is usual into explain/background.json in the version's folder, as \
         {{\"rows\": [{{\"column\": value}}]}}"
    ))
}

fn of_several(feature: u32) -> EngineError {
    EngineError::Unsupported(format!(
        "its score depends on feature {feature}, in which several columns have a part that cannot be told apart"
    ))
}

fn trees_apart(trees: Trees, background: Option<(usize, Vec<f64>)>, mixed: &[u32]) -> Result<Parts, EngineError> {
    for step in &trees.nodes {
        if let Step::Branch(branch) = step
            && mixed.binary_search(&branch.feature).is_ok()
        {
            return Err(of_several(branch.feature));
        }
    }
    match background {
        None => Ok(Parts::Path(ByPath::new(trees)?)),
        Some((rows, values)) if values.len() == rows * trees.players.len() => {
            Ok(Parts::Background(ByBackground::new(trees, values)))
        }
        Some(_) => Err(EngineError::BadModel("a tree looks at a feature that no row has".into())),
    }
}

fn columns_apart(
    coefficients: Vec<f64>,
    targets: usize,
    (rows, values): (usize, Vec<f64>),
    of: Vec<u32>,
    mixed: &[u32],
) -> Result<Parts, EngineError> {
    let width = of.len();
    if coefficients.len() != targets * width {
        let told = format!("{} coefficients for {targets} scores of {width} features", coefficients.len());
        return Err(EngineError::BadModel(told));
    }
    let is_used = |&feature: &u32| (0..targets).any(|target| coefficients[target * width + feature as usize] != 0.0);
    if let Some(&feature) = mixed.iter().find(|feature| is_used(feature)) {
        return Err(of_several(feature));
    }
    let mut means = vec![0.0; width];
    for row in values.chunks_exact(width) {
        means.iter_mut().zip(row).for_each(|(mean, value)| *mean += value / rows as f64);
    }
    Ok(Parts::Columns { coefficients, means, players: of })
}

impl Explained {
    /// The base of each target, without what is added to it.
    fn base(&self, target: usize) -> f64 {
        match &self.parts {
            Parts::Path(by_path) => by_path.base()[target],
            Parts::Background(by_background) => by_background.base()[target],
            Parts::Columns { coefficients, means, .. } => {
                let coefficients = &coefficients[target * means.len()..][..means.len()];
                coefficients.iter().zip(means).map(|(weight, mean)| weight * mean).sum()
            }
        }
    }

    /// Adds up the scores of a row of features, and each player's part in them. `false` where it was told to stop.
    fn row(&self, row: &[f64], scores: &mut [f64], parts: &mut [f64], go_on: &mut dyn FnMut() -> bool) -> bool {
        match &self.parts {
            Parts::Path(by_path) => {
                by_path.trees().score(row, scores);
                by_path.explain(row, parts, go_on)
            }
            Parts::Background(by_background) => {
                by_background.trees().score(row, scores);
                by_background.explain(row, parts, go_on)
            }
            Parts::Columns { coefficients, means, players } => {
                let of_targets = coefficients.chunks_exact(means.len());
                for ((weights, score), parts) in of_targets.zip(scores).zip(parts.chunks_exact_mut(self.players)) {
                    for (((weight, value), mean), &player) in weights.iter().zip(row).zip(means).zip(players) {
                        *score += weight * value;
                        if let Some(part) = parts.get_mut(player as usize) {
                            *part += weight * (value - mean);
                        }
                    }
                }
                go_on()
            }
        }
    }

    fn width(&self) -> usize {
        match &self.parts {
            Parts::Path(by_path) => by_path.trees().players.len(),
            Parts::Background(by_background) => by_background.trees().players.len(),
            Parts::Columns { means, .. } => means.len(),
        }
    }
}

impl Explainer for Explained {
    fn about(&self) -> &ExplanationKind {
        &self.about
    }

    fn explain(
        &self,
        inputs: &[Option<Tensor>],
        wanted: &[usize],
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<Option<Explanation>, EngineError> {
        let (rows, features) = self.features.of(inputs)?;
        let width = self.width();
        if features.len() != rows * width {
            return Err(EngineError::BadInput(format!("{} values for {rows} rows of {width}", features.len())));
        }
        let all = rows.checked_mul(wanted.len() * self.players).filter(|&all| all <= PARTS_MAX);
        if all.is_none() || self.targets * self.players > PARTS_MAX {
            return Err(EngineError::OutOfMemory(format!("{rows} rows have more than {PARTS_MAX} parts: send fewer")));
        }
        let mut found = Vec::with_capacity(wanted.len());
        for &position in wanted {
            let output = self.outputs.get(position);
            found.push(output.ok_or_else(|| EngineError::Failed(format!("there is no output {position}")))?);
        }
        let base = found.iter().map(|output| output.base + self.base(output.target)).collect();
        let mut explanation = Explanation { base, ..Explanation::default() };
        let (mut scores, mut parts) = (vec![0.0; self.targets], vec![0.0; self.targets * self.players]);
        for row in features.chunks_exact(width) {
            scores.fill(0.0);
            parts.fill(0.0);
            if !self.row(row, &mut scores, &mut parts, go_on) {
                return Ok(None);
            }
            for output in &found {
                explanation.scores.push(output.base + scores[output.target]);
                explanation.parts.extend_from_slice(&parts[output.target * self.players..][..self.players]);
            }
        }
        Ok(Some(explanation))
    }
}
