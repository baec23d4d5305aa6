//! Which columns of a deployment's inputs and outputs are watched, and by which names?
//!
//! Those of tensors that are rows of numbers or texts: a column for each place in a row. Wider rows of numbers, embeddings and images, are
//! watched by a few projections and their length (`tiltyard_drift::projections`). Rows of any length are not watched.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use tiltyard_drift::baseline::{Baseline, Builder, Role, Spec};
use tiltyard_drift::projections::Projections;
use tiltyard_drift::values::Values;
use tiltyard_runtime::deployment::Deployment;
use tiltyard_types::{Dim, NamedTensor, Tensor, TensorSpec};

use super::Seen;
use crate::protocol::score;

/// Places of a row beyond which a tensor is not rows of columns any more.
const COLUMNS_MAX: usize = 2_000;

/// Elements of a row beyond which it is not watched.
const WIDTH_MAX: usize = 1 << 24;

/// The columns of one tensor.
#[derive(Clone, Debug)]
pub(super) struct Side {
    pub(super) tensor: String,
    /// A name for each place of a row; none where it is not watched.
    pub(super) columns: Vec<String>,
    /// What makes these of a row that is too wide.
    pub(super) projections: Option<Arc<Projections>>,
}

impl Side {
    /// The tensor whose columns these are: itself, or what its rows are projected to. `None` where that is not to be had.
    pub(super) fn seen<'a>(&self, tensor: &'a Tensor) -> Option<Cow<'a, Tensor>> {
        match &self.projections {
            None => Some(Cow::Borrowed(tensor)),
            Some(projections) => projections.of(tensor).map(Cow::Owned),
        }
    }
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
        let artifact = deployment.identity.artifact.as_bytes();
        let seed = u64::from_le_bytes(std::array::from_fn(|at| artifact[at]));
        let inputs =
            signature.inputs.iter().enumerate().map(|(position, spec)| side(spec, seed, |at| named(position, at)));
        let labels = &deployment.settings.labels;
        let label = |spec: &TensorSpec, at: usize| {
            labels.get(&spec.name).and_then(|labels| labels.get(at)).map(|label| format!("{}[{label}]", spec.name))
        };
        let outputs = signature.outputs.iter().map(|spec| side(spec, seed, |at| label(spec, at)));
        Features { inputs: inputs.collect(), outputs: outputs.collect() }
    }

    fn sides(&self) -> impl Iterator<Item = (Role, &Side)> {
        let inputs = self.inputs.iter().map(|side| (Role::Input, side));
        inputs.chain(self.outputs.iter().map(|side| (Role::Output, side)))
    }

    /// All of them, inputs first.
    pub(super) fn specs(&self) -> Vec<Spec> {
        let of_side = |(role, side): (Role, &Side)| -> Vec<Spec> {
            side.columns.iter().map(|name| Spec { name: name.clone(), role, importance: 1.0 }).collect()
        };
        self.sides().flat_map(of_side).collect()
    }

    /// What was recorded as a baseline. `importance` says how much inputs matter: those that it does not name are as important as the
    /// average. Fails where it names others.
    pub(super) fn baseline(&self, seen: &[Seen], importance: &BTreeMap<String, f64>) -> Result<Baseline, String> {
        let is_known = |name: &String| self.inputs.iter().any(|side| side.columns.contains(name));
        if let Some(name) = importance.keys().find(|name| !is_known(name)) {
            let known: Vec<&str> =
                self.inputs.iter().flat_map(|side| side.columns.iter().map(String::as_str)).take(12).collect();
            return Err(format!(
                "there is no input column {name:?} that matters so much: there are {}",
                known.join(", ")
            ));
        }
        let mut builder = Builder::new(seen.iter().map(|seen| rows_of(&seen.inputs)).sum());
        for (role, side) in self.sides().filter(|(_, side)| !side.columns.is_empty()) {
            let tensors: Vec<Option<Cow<'_, Tensor>>> =
                seen.iter().map(|seen| tensor(seen, role, &side.tensor).and_then(|tensor| side.seen(tensor))).collect();
            for (column, name) in side.columns.iter().enumerate() {
                // As many rows without a value where the tensor was left out.
                let missing = |seen: &Seen| Values::missing(rows_of(&seen.inputs));
                let pieces = seen.iter().zip(&tensors);
                let pieces: Vec<Values<'_>> = pieces
                    .map(|(seen, tensor)| {
                        let values = tensor.as_ref().and_then(|tensor| Values::of(tensor, column));
                        values.unwrap_or_else(|| missing(seen))
                    })
                    .collect();
                let importance = importance.get(name).copied().filter(|_| role == Role::Input).unwrap_or(1.0);
                builder.add(Spec { name: name.clone(), role, importance }, &pieces)?;
            }
        }
        builder.finish()
    }
}

/// The tensor of this name in what was recorded.
fn tensor<'a>(seen: &'a Seen, role: Role, name: &str) -> Option<&'a Tensor> {
    match role {
        Role::Input => find(&seen.inputs, name),
        Role::Output => seen.outputs.iter().find(|(output, _)| output == name).map(|(_, tensor)| tensor),
    }
}

/// The tensor of this name.
pub(super) fn find<'a>(tensors: &'a [NamedTensor], name: &str) -> Option<&'a Tensor> {
    tensors.iter().find(|tensor| tensor.name == name).map(|tensor| &tensor.tensor)
}

/// Rows of a request: the outermost axis of its first tensor.
pub(super) fn rows_of(inputs: &[NamedTensor]) -> usize {
    inputs.first().and_then(|input| input.tensor.shape().first().copied()).unwrap_or(1)
}

/// The elements of a row, where each row has as many.
fn width(spec: &TensorSpec) -> Option<usize> {
    let [Dim::Dynamic(_), rest @ ..] = spec.dims.as_deref()? else { return None };
    let fixed = |dim: &Dim| match dim {
        Dim::Fixed(length) => Some(*length),
        Dim::Dynamic(_) => None,
    };
    rest.iter().map(fixed).try_fold(1usize, |product, length| product.checked_mul(length?))
}

fn side(spec: &TensorSpec, seed: u64, named: impl Fn(usize) -> Option<String>) -> Side {
    let tensor = spec.name.clone();
    let is_flat = spec.dims.as_ref().is_some_and(|dims| dims.len() <= 2);
    match width(spec) {
        Some(width) if is_flat && width <= COLUMNS_MAX => {
            let name = |at: usize| {
                named(at).unwrap_or_else(|| if width == 1 { tensor.clone() } else { format!("{tensor}[{at}]") })
            };
            let columns = (0..width).map(name).collect();
            Side { tensor, columns, projections: None }
        }
        // Of a few elements there is nothing to project, and of texts nothing at all.
        Some(width) if width > 1 && width <= WIDTH_MAX && spec.dtype.width().is_some() => {
            let columns = Projections::names(&tensor);
            Side { tensor, columns, projections: Some(Arc::new(Projections::new(seed, width))) }
        }
        _ => Side { tensor, columns: Vec::new(), projections: None },
    }
}

#[cfg(test)]
mod tests {
    use tiltyard_types::DataType;

    use super::*;

    fn columns(dtype: DataType, dims: &[usize]) -> Vec<String> {
        let rest = dims.iter().map(|length| if *length == 0 { Dim::Dynamic(None) } else { Dim::Fixed(*length) });
        let dims = Some([Dim::Dynamic(None)].into_iter().chain(rest).collect());
        side(&TensorSpec { name: "x".into(), dtype, dims, optional: false }, 1, |_| None).columns
    }

    #[test]
    fn narrow_rows_have_columns_and_wide_ones_projections() {
        assert_eq!(columns(DataType::Fp32, &[]), ["x"]);
        assert_eq!(columns(DataType::Bytes, &[2]), ["x[0]", "x[1]"]);
        assert_eq!(columns(DataType::Fp32, &[2_000]).len(), 2_000);
        for wide in [&[2_001][..], &[3, 224, 224], &[28, 28]] {
            let names = columns(DataType::Fp32, wide);
            assert_eq!((names.len(), names[0].as_str(), names[8].as_str()), (9, "x[projection 1]", "x[length]"));
        }
        assert!(columns(DataType::Bytes, &[2_001]).is_empty() && columns(DataType::Fp32, &[0, 8]).is_empty());
    }
}
