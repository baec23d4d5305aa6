//! Which columns do the rows of a deployment have on record?

use tiltyard_capture::{Field, Form, Layout};
use tiltyard_runtime::deployment::Deployment;
use tiltyard_types::{Dim, NamedTensor, TensorSpec};

use crate::protocol::score;

/// The columns as people name them, where the model says their names: those of row scoring.
pub(super) fn of(deployment: &Deployment) -> Layout {
    let named = score::fields(deployment).unwrap_or_default();
    let signature = &deployment.signature;
    let inputs = signature.inputs.iter().enumerate().filter_map(|(position, spec)| {
        let names: Vec<String> = named
            .iter()
            .filter(|field| field.input == position && field.place.is_some())
            .map(|field| field.name.clone())
            .collect();
        field(spec, names)
    });
    let outputs = signature.outputs.iter().filter_map(|spec| field(spec, Vec::new()));
    Layout { inputs: inputs.collect(), outputs: outputs.collect(), ..Layout::default() }
}

/// `None` for a tensor of any number of axes: its records say it themselves.
fn field(spec: &TensorSpec, names: Vec<String>) -> Option<Field> {
    let dims = spec.dims.as_deref()?;
    let form = match dims {
        [Dim::Dynamic(_)] | [Dim::Dynamic(_), Dim::Fixed(1)] => Form::One,
        [Dim::Dynamic(_), Dim::Fixed(width)] if *width == names.len() => Form::Columns(names),
        [Dim::Dynamic(_), ..] => Form::List,
        _ => Form::Whole,
    };
    Some(Field { name: spec.name.clone(), dtype: spec.dtype, axes: dims.len(), form })
}

/// The rows of a request that was not answered: as its first input has it, one at least.
pub(super) fn rows(inputs: &[NamedTensor]) -> usize {
    inputs.first().and_then(|input| input.tensor.shape().first().copied()).unwrap_or(1).max(1)
}
