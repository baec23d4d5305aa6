//! Which columns of a deployment's inputs and outputs are watched, and by which names?
//!
//! Those of tensors that are rows of numbers or texts: a column for each place in a row. Images, and rows of any length, are not
//! looked at element by element; what a model makes of them is.

use tiltyard_drift::baseline::{Baseline, Builder, Role, Spec};
use tiltyard_drift::values::Values;
use tiltyard_runtime::deployment::Deployment;
use tiltyard_types::{Dim, NamedTensor, Tensor, TensorSpec};

use super::Seen;
use crate::protocol::score;

/// Places of a row beyond which a tensor is not rows of columns any more.
const COLUMNS_MAX: usize = 2_000;

/// The columns of one tensor.
#[derive(Clone, Debug)]
pub(super) struct Side {
    pub(super) tensor: String,
    /// A name for each place of a row; none where it is not watched.
    pub(super) columns: Vec<String>,
}

/// The columns of a deployment.
#[derive(Clone, Debug)]
pub(super) struct Features {
    /// In the order of the signature.
    pub(super) inputs: Vec<Side>,
    pub(super) outputs: Vec<Side>,
}

impl Features {
    pub(super) fn of(deployment: &Deployment) -> Features {
        let fields = score::fields(deployment).unwrap_or_default();
        let signature = &deployment.signature;
        let named = |position: usize, place: usize| {
            let field = fields.iter().find(|field| field.input == position && field.place.unwrap_or(0) == place);
            field.map(|field| field.name.clone())
        };
        let inputs = signature.inputs.iter().enumerate().map(|(position, spec)| side(spec, |at| named(position, at)));
        let labels = &deployment.settings.labels;
        let label = |spec: &TensorSpec, at: usize| {
            labels.get(&spec.name).and_then(|labels| labels.get(at)).map(|label| format!("{}[{label}]", spec.name))
        };
        let outputs = signature.outputs.iter().map(|spec| side(spec, |at| label(spec, at)));
        Features { inputs: inputs.collect(), outputs: outputs.collect() }
    }

    /// All of them, inputs first.
    pub(super) fn specs(&self) -> Vec<Spec> {
        let sides = [(Role::Input, &self.inputs), (Role::Output, &self.outputs)];
        let specs = sides.into_iter().flat_map(|(role, sides)| {
            sides.iter().flat_map(move |side| {
                side.columns.iter().map(move |name| Spec { name: name.clone(), role, importance: 1.0 })
            })
        });
        specs.collect()
    }

    /// What was recorded as a baseline.
    pub(super) fn baseline(&self, seen: &[Seen]) -> Result<Baseline, String> {
        let mut builder = Builder::new(seen.iter().map(|seen| rows_of(&seen.inputs)).sum());
        for (role, sides) in [(Role::Input, &self.inputs), (Role::Output, &self.outputs)] {
            for side in sides {
                for (column, name) in side.columns.iter().enumerate() {
                    let pieces: Vec<Values<'_>> =
                        seen.iter().map(|seen| values(seen, role, &side.tensor, column)).collect();
                    builder.add(Spec { name: name.clone(), role, importance: 1.0 }, &pieces)?;
                }
            }
        }
        builder.finish()
    }
}

/// A column of what was recorded; as many rows without a value where the tensor was left out.
fn values<'a>(seen: &'a Seen, role: Role, tensor: &str, column: usize) -> Values<'a> {
    let found = match role {
        Role::Input => find(&seen.inputs, tensor),
        Role::Output => seen.outputs.iter().find(|(name, _)| name == tensor).map(|(_, tensor)| tensor),
    };
    found.and_then(|tensor| Values::of(tensor, column)).unwrap_or_else(|| Values::missing(rows_of(&seen.inputs)))
}

/// The tensor of this name.
pub(super) fn find<'a>(tensors: &'a [NamedTensor], name: &str) -> Option<&'a Tensor> {
    tensors.iter().find(|tensor| tensor.name == name).map(|tensor| &tensor.tensor)
}

/// Rows of a request: the outermost axis of its first tensor.
pub(super) fn rows_of(inputs: &[NamedTensor]) -> usize {
    inputs.first().and_then(|input| input.tensor.shape().first().copied()).unwrap_or(1)
}

fn side(spec: &TensorSpec, named: impl Fn(usize) -> Option<String>) -> Side {
    let width = match spec.dims.as_deref() {
        Some([Dim::Dynamic(_)]) => 1,
        Some([Dim::Dynamic(_), Dim::Fixed(width)]) if *width <= COLUMNS_MAX => *width,
        _ => 0,
    };
    let name = |at: usize| {
        named(at).unwrap_or_else(|| if width == 1 { spec.name.clone() } else { format!("{}[{at}]", spec.name) })
    };
    Side { tensor: spec.name.clone(), columns: (0..width).map(name).collect() }
}
