//! Do outputs have the shapes that the file says?
//!
//! Exporters of boosters declare one label for however many rows: such a model would never have rows of several requests in
//! one run. Two small runs show what an output's axes are, and where the file is wrong, what was seen stands.

use tiltyard_types::{Buffer, DataType, Dim, Shape, Signature, Tensor, TensorSpec};

use crate::program::{Program, State};

/// Rows of the runs.
const ROWS: [usize; 2] = [2, 3];

/// Puts right what the signature says of outputs, as far as two runs can tell. Where zeros are nothing that a graph can work
/// with, it stays as it is.
pub(crate) fn correct(program: &Program, signature: &mut Signature) {
    let wanted: Vec<usize> = (0..signature.outputs.len()).collect();
    let run = |rows: usize| {
        let inputs: Option<Vec<Option<Tensor>>> = signature
            .inputs
            .iter()
            .map(|spec| if spec.optional { Some(None) } else { zeros(spec, rows).map(Some) })
            .collect();
        program.run(&mut State::default(), &inputs?, &wanted).ok()
    };
    let (Some(few), Some(more)) = (run(ROWS[0]), run(ROWS[1])) else { return };
    for (spec, (few, more)) in signature.outputs.iter_mut().zip(few.iter().zip(&more)) {
        let (few, more) = (few.shape(), more.shape());
        if few.len() == more.len() && !(spec.dims.is_some() && spec.accepts(few) && spec.accepts(more)) {
            let axis = |(few, more): (&usize, &usize)| if few == more { Dim::Fixed(*few) } else { Dim::Dynamic(None) };
            spec.dims = Some(few.iter().zip(more.iter()).map(axis).collect());
        }
    }
}

/// Rows of zeros, or of empty texts; `None` for an input that has no rows, or of which the columns are not known.
fn zeros(spec: &TensorSpec, rows: usize) -> Option<Tensor> {
    let dims = spec.dims.as_ref()?;
    let axis = |(axis, dim): (usize, &Dim)| match dim {
        Dim::Dynamic(_) if axis == 0 => Some(rows),
        Dim::Fixed(length) if axis > 0 => Some(*length),
        _ => None,
    };
    let shape: Shape = dims.iter().enumerate().map(axis).collect::<Option<_>>()?;
    let count = shape.elements().filter(|&count| count > 0 && count <= 1 << 20)?;
    match (spec.dtype, spec.dtype.width()) {
        (DataType::Bytes, _) => Tensor::strings(shape, vec![bytes::Bytes::new(); count]).ok(),
        (dtype, Some(width)) => Tensor::fixed(dtype, shape, Buffer::zeroed(count * width)).ok(),
        _ => None,
    }
}
