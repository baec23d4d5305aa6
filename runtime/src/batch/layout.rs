//! Which of a model's inputs have a row per row, and which are the same for all?

use tiltyard_types::{Dim, Signature, Tensor, TensorSpec};

use super::pad::Pad;
use super::same_row;

/// Larger inputs without rows are not compared, for that is done while the queue is locked: their requests run alone.
const SHARED_BYTES_MAX: usize = 1 << 16;

/// What a model's inputs and outputs are to a batch: read off its signature, and believed once it is proved.
#[derive(Clone, Debug, PartialEq)]
pub struct Layout {
    /// By input: whether it has a row for each row of the batch. One that has none is passed once, and only requests
    /// that agree about it to the bit share a run.
    rows: Vec<bool>,
    pad: Option<Pad>,
}

impl Layout {
    /// The layout of a model that has a batch axis: a dynamic outermost axis on every output and some input. `None`
    /// where there is none, or where an input without one might have its rows on another axis.
    pub fn of(signature: &Signature) -> Option<Layout> {
        let rows: Vec<bool> = signature.inputs.iter().map(|input| batch_dim(input).is_some()).collect();
        let on_all_outputs = signature.outputs.iter().all(|output| batch_dim(output).is_some());
        if !on_all_outputs || !rows.contains(&true) {
            return None;
        }
        let names: Vec<&Dim> = signature.inputs.iter().chain(&signature.outputs).filter_map(batch_dim).collect();
        let may_have_rows = |dim: &Dim| match dim {
            Dim::Fixed(_) => false,
            Dim::Dynamic(None) => true,
            Dim::Dynamic(Some(_)) => names.contains(&dim),
        };
        let shared = signature.inputs.iter().zip(&rows).filter(|(_, rows)| !**rows).map(|(input, _)| input);
        let clear = |input: &TensorSpec| input.dims.as_ref().is_some_and(|dims| !dims.iter().any(may_have_rows));
        shared.into_iter().all(clear).then_some(Layout { rows, pad: None })
    }

    /// The same with padding.
    pub fn padded(self, pad: Option<Pad>) -> Layout {
        Layout { pad, ..self }
    }

    /// How one axis is padded, where one is.
    pub fn pad(&self) -> Option<&Pad> {
        self.pad.as_ref()
    }

    /// Whether the input at this position has a row for each row of the batch.
    pub fn has_rows(&self, input: usize) -> bool {
        self.rows.get(input).copied().unwrap_or(false)
    }

    /// Whether an input has none: then requests share a run only where they agree about it.
    pub fn has_shared(&self) -> bool {
        self.rows.contains(&false)
    }

    /// How long these inputs are on the padded axis; `None` where there is none, or they disagree.
    pub fn length(&self, inputs: &[Option<Tensor>]) -> Option<usize> {
        self.pad.as_ref()?.length(inputs)
    }

    /// Whether two requests may share a run. With `padded`, they may differ on the padded axis.
    pub fn joins(&self, one: &[Option<Tensor>], other: &[Option<Tensor>], padded: bool) -> bool {
        let pad = self.pad.as_ref().filter(|_| padded);
        one.len() == other.len()
            && one.iter().zip(other).enumerate().all(|(position, pair)| match pair {
                (None, None) => true,
                (Some(one), Some(other)) if self.has_rows(position) => match pad.and_then(|pad| pad.input(position)) {
                    Some(input) => input.fits(one, other),
                    None => same_row(one, other),
                },
                (Some(one), Some(other)) => one.size() <= SHARED_BYTES_MAX && one == other,
                _ => false,
            })
    }
}

/// The outermost axis, where it is dynamic.
fn batch_dim(spec: &TensorSpec) -> Option<&Dim> {
    spec.dims.as_deref()?.first().filter(|dim| matches!(dim, Dim::Dynamic(_)))
}
