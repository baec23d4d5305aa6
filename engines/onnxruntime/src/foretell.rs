//! Which shape will an output have, before the run?
//!
//! Where the signature and the inputs tell, the output is written straight into memory of ours: no question about its
//! shape, no copy, and no allocation by the library. A wrong guess is an error of that run and never a wrong answer,
//! for those outputs that are foretold, on the CPU:
//!
//! - What a node computes is written where the node asks for its output, and the library compares the shape it asks for
//!   with ours then. That holds for nodes with graphs inside (If, Loop, Scan) too.
//! - What was constant at the load is copied from there, and only the number of elements is compared then; but its
//!   shape is known to the library, which compares ours with it before the run.
//!
//! Nothing is compared or written for an output that is a graph input too, since the library hands the input back in
//! its place, nor for one of two outputs with one name; and an optional value is replaced rather than written to. Those
//! are never foretold. On a device, outputs are made there and copied at the end, and only the number of elements is
//! compared: a session on one must not foretell at all.

use std::collections::HashMap;

use smallvec::SmallVec;
use tiltyard_types::{DataType, Dim, Shape, Signature, Tensor, TensorSpec};

/// Larger outputs are left to the library, whose allocation can fail without ending the process.
const BYTES_MAX: usize = 64 << 20;

/// How to tell an output's shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Foretold {
    pub(crate) dtype: DataType,
    width: usize,
    axes: SmallVec<[Axis; 4]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Axis {
    Fixed(usize),
    /// As long as this axis of this input.
    Of {
        input: usize,
        axis: usize,
    },
}

impl Foretold {
    /// How to tell the shape of each output; `None` where nothing does, or where the library would not write to memory of
    /// ours or not compare its shape (see the module's documentation).
    pub(crate) fn of(signature: &Signature) -> Vec<Option<Foretold>> {
        let mut times: HashMap<&str, usize> = HashMap::new();
        for spec in signature.inputs.iter().chain(&signature.outputs) {
            *times.entry(spec.name.as_str()).or_default() += 1;
        }
        let is_written = |output: &&TensorSpec| times[output.name.as_str()] == 1 && !output.optional;
        let outputs = signature.outputs.iter();
        outputs.map(|output| Some(output).filter(is_written).and_then(|it| foretold(it, &signature.inputs))).collect()
    }

    /// The shape of the output and its size in bytes, which is above 0. `None` where these inputs do not tell.
    pub(crate) fn shape(&self, inputs: &[Option<Tensor>]) -> Option<(Shape, usize)> {
        let length = |axis: &Axis| match *axis {
            Axis::Fixed(length) => Some(length),
            Axis::Of { input, axis } => inputs.get(input)?.as_ref()?.shape().get(axis).copied(),
        };
        let shape: Shape = self.axes.iter().map(length).collect::<Option<_>>()?;
        let bytes = shape.elements()?.checked_mul(self.width)?;
        (1..=BYTES_MAX).contains(&bytes).then_some((shape, bytes))
    }
}

fn foretold(output: &TensorSpec, inputs: &[TensorSpec]) -> Option<Foretold> {
    let width = output.dtype.width()?;
    let axes = output.dims.as_ref()?.iter().enumerate().map(|(position, dim)| match dim {
        Dim::Fixed(length) => Some(Axis::Fixed(*length)),
        Dim::Dynamic(name) => source(position, name.as_deref(), inputs),
    });
    Some(Foretold { dtype: output.dtype, width, axes: axes.collect::<Option<_>>()? })
}

/// The input's axis with that name. Without a name the first axis is taken for the rows, as exporters leave it.
fn source(position: usize, name: Option<&str>, inputs: &[TensorSpec]) -> Option<Axis> {
    let is_source = |axis: usize, dim: &Dim| match (name, dim) {
        (Some(name), Dim::Dynamic(Some(other))) => name == other.as_ref() as &str,
        (None, Dim::Dynamic(None)) => position == 0 && axis == 0,
        _ => false,
    };
    inputs.iter().enumerate().find_map(|(input, spec)| {
        let axis = spec.dims.as_ref()?.iter().enumerate().position(|(axis, dim)| is_source(axis, dim))?;
        Some(Axis::Of { input, axis })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, dims: &[Dim]) -> TensorSpec {
        TensorSpec { name: name.into(), dtype: DataType::Fp32, dims: Some(dims.to_vec()), optional: false }
    }

    fn named(name: &str) -> Dim {
        Dim::Dynamic(Some(name.into()))
    }

    /// The shape foretold for an output of these dims, of a model that takes `[n, 30]` and `[?, m]` and is given
    /// `[5, 30]` and `[7, 2]`.
    fn shape(output: &[Dim]) -> Option<(Shape, usize)> {
        let inputs = vec![spec("a", &[named("n"), Dim::Fixed(30)]), spec("b", &[Dim::Dynamic(None), named("m")])];
        let given = [
            Some(Tensor::from_slice([5, 30], &[0f32; 150]).unwrap()),
            Some(Tensor::from_slice([7, 2], &[0f32; 14]).unwrap()),
        ];
        let signature = Signature { inputs, outputs: vec![spec("y", output)] };
        Foretold::of(&signature)[0].as_ref()?.shape(&given)
    }

    #[test]
    fn names_tie_outputs_to_inputs() {
        assert_eq!(shape(&[named("n"), Dim::Fixed(2)]), Some((Shape::from([5, 2]), 40)));
        assert_eq!(shape(&[named("m"), named("n")]), Some((Shape::from([2, 5]), 40)));
        assert_eq!(shape(&[Dim::Dynamic(None), Dim::Fixed(3)]), Some((Shape::from([7, 3]), 84)));
        assert_eq!(shape(&[]), Some((Shape::from([]), 4)));
    }

    #[test]
    fn what_is_not_told_is_left_to_the_library() {
        assert_eq!(shape(&[named("k")]), None);
        assert_eq!(shape(&[named("n"), Dim::Dynamic(None)]), None);
        assert_eq!(shape(&[named("n"), Dim::Fixed(0)]), None);
        assert_eq!(shape(&[named("n"), Dim::Fixed(usize::MAX)]), None);
        assert_eq!(shape(&[named("n"), Dim::Fixed(BYTES_MAX)]), None);
    }

    #[test]
    fn what_the_library_does_not_write_is_not_foretold() {
        let one = |name: &str| spec(name, &[named("n")]);
        let foretold = |outputs: Vec<TensorSpec>| -> Vec<bool> {
            let signature = Signature { inputs: vec![one("x"), one("bias")], outputs };
            Foretold::of(&signature).iter().map(Option::is_some).collect()
        };
        assert_eq!(foretold(vec![one("y"), one("x"), one("bias")]), [true, false, false]);
        assert_eq!(foretold(vec![one("y"), one("z"), one("y")]), [false, true, false]);
        assert_eq!(foretold(vec![TensorSpec { optional: true, ..one("y") }, one("z")]), [false, true]);
    }
}
