//! May rows of different requests share a run of this model?
//!
//! Only if rows answer the same alone, together, permuted and beside other neighbours, and output rows are input
//! rows. A normalisation over the batch, a suppression of overlapping boxes or a state on another axis fails here.
//! Inputs without a batch axis are the same for all rows of a probe, as they will be for all requests of a batch.

mod lengths;

use std::panic::{AssertUnwindSafe, catch_unwind};

use tiltyard_types::{Buffer, DataType, Dim, Shape, Signature, Tensor, TensorSpec};

use crate::batch::{Extent, Layout};
use crate::compare::{Tolerance, compare};
use crate::deployment::{BatchAxis, panic_text};
use crate::engine::{EngineError, Session};

pub use self::lengths::prove_padding;

/// Rows that the probes are made of.
const PROBE_ROWS: usize = 4;

/// Which rows run together, by number.
const PROBES: [&[usize]; 4] = [&[0, 1, 2, 3], &[3, 1, 0, 2], &[0, 3], &[2, 0, 0]];

/// Lengths tried for dynamic axes where no example tells one.
pub(crate) const LENGTHS: [usize; 3] = [8, 32, 1];

/// Whether the signature can have a batch axis at all: see [`Layout::of`].
pub fn has_batch_axis(signature: &Signature) -> bool {
    Layout::of(signature).is_some()
}

/// Runs the probes in `session`. `example` holds one known good request, in the signature's order, where there is one.
pub fn prove(signature: &Signature, example: Option<&[Option<Tensor>]>, session: &mut dyn Session) -> BatchAxis {
    let Some(layout) = Layout::of(signature) else { return BatchAxis::None };
    let mut reason = String::from("no probe could be made for its shapes");
    let mut proved = false;
    if let Some(example) = example {
        match try_rows(&rows_like(example, &layout), &layout, signature, session) {
            // Rows made of one by moving its numbers may be alike in what matters: made-up ones may still refute.
            Ok(()) => proved = true,
            Err(Failure::Differs(what)) => return BatchAxis::Unproved(what),
            Err(Failure::NoRun(error)) => return BatchAxis::Unproved(format!("the probes did not run: {error}")),
        }
    }
    for rows in LENGTHS.iter().filter_map(|&length| made_up_rows(signature, length)) {
        match try_rows(&rows, &layout, signature, session) {
            Ok(()) => return BatchAxis::Proved,
            Err(Failure::Differs(what)) => return BatchAxis::Unproved(what),
            Err(Failure::NoRun(error)) => reason = format!("the probes did not run: {error}"),
        }
    }
    if proved { BatchAxis::Proved } else { BatchAxis::Unproved(reason) }
}

enum Failure {
    /// The probes ran, and rows depend on their neighbours.
    Differs(String),
    /// The rows did not suit the model.
    NoRun(EngineError),
}

type Row = Vec<Option<Tensor>>;

fn try_rows(rows: &[Row], layout: &Layout, signature: &Signature, session: &mut dyn Session) -> Result<(), Failure> {
    let wanted: Vec<usize> = (0..signature.outputs.len()).collect();
    let mut alone = Vec::with_capacity(rows.len());
    for row in rows {
        alone.push(contained(session, row, &wanted).map_err(Failure::NoRun)?);
    }
    for probe in PROBES {
        let members: Vec<&[Option<Tensor>]> = probe.iter().map(|&number| rows[number].as_slice()).collect();
        let frame = Extent::of_rows(probe.len());
        let inputs = layout.gather(&members, frame).map_err(|error| Failure::Differs(error.to_string()))?;
        let outputs = contained(session, &inputs, &wanted)
            .map_err(|error| Failure::Differs(format!("{} rows together fail: {error}", probe.len())))?;
        let apart = layout
            .split(&outputs, &wanted, &vec![Extent::of_rows(1); probe.len()], frame)
            .map_err(|_| Failure::Differs("its output rows are not its input rows".into()))?;
        for (&number, answer) in probe.iter().zip(&apart) {
            for ((actual, expected), output) in answer.iter().zip(&alone[number]).zip(&signature.outputs) {
                compare(actual, expected, Tolerance::default()).map_err(|difference| {
                    Failure::Differs(format!(
                        "output {:?} of a row depends on its neighbours: {difference}",
                        output.name
                    ))
                })?;
            }
        }
    }
    Ok(())
}

/// Runs values that nobody vouches for: a panic of the engine is an error like any other.
pub(crate) fn contained(
    session: &mut dyn Session,
    inputs: &[Option<Tensor>],
    wanted: &[usize],
) -> Result<Vec<Tensor>, EngineError> {
    catch_unwind(AssertUnwindSafe(|| session.run(inputs, wanted)))
        .unwrap_or_else(|panic| Err(EngineError::Failed(format!("the engine panicked: {}", panic_text(&*panic)))))
}

/// Different rows in the image of an example's first: numbers moved about, so that indices stay in their tables. What
/// is no row of the example stays as it is.
fn rows_like(example: &[Option<Tensor>], layout: &Layout) -> Vec<Row> {
    let input = |position: usize, tensor: &Tensor, number: usize| match layout.has_rows(position) {
        true => row_like(tensor, number),
        false => tensor.aligned(),
    };
    let row = |number| {
        let inputs = example.iter().enumerate();
        inputs.map(|(position, tensor)| Some(input(position, tensor.as_ref()?, number))).collect()
    };
    (0..PROBE_ROWS).map(row).collect()
}

fn row_like(example: &Tensor, number: usize) -> Tensor {
    let available = example.shape().rows().unwrap_or(0);
    if let Some(row) = (number < available).then(|| example.rows(number..number + 1)).flatten() {
        return row.aligned();
    }
    let Some(first) = (available > 0).then(|| example.rows(0..1)).flatten() else { return example.aligned() };
    let rotated = match first.dtype().width() {
        Some(width) => {
            let mut bytes = first.bytes().map_or(Vec::new(), |bytes| bytes.to_vec());
            let turns = (number * width) % bytes.len().max(1);
            bytes.rotate_left(turns);
            Tensor::fixed(first.dtype(), first.shape().clone(), Buffer::copy_of(&bytes))
        }
        None => {
            let mut strings = first.as_strings().unwrap_or(&[]).to_vec();
            let turns = number % strings.len().max(1);
            strings.rotate_left(turns);
            Tensor::strings(first.shape().clone(), strings)
        }
    };
    rotated.unwrap_or(first)
}

/// Rows of small random numbers: zeros and ones for integers, which are legal as tokens, masks and flags.
///
/// `None` where a row would be absurdly large: shapes come from a file that nobody vouches for.
pub fn made_up_rows(signature: &Signature, length: usize) -> Option<Vec<Row>> {
    const ELEMENTS_MAX: usize = 1 << 24;
    let fits = |spec: &TensorSpec| made_up_shape(spec, length).elements().is_some_and(|count| count <= ELEMENTS_MAX);
    if !signature.inputs.iter().filter(|input| !input.optional).all(fits) {
        return None;
    }
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let make = |input: &TensorSpec, random: &mut Random| (!input.optional).then(|| made_up(input, length, random));
    let mut rows: Vec<Row> = Vec::with_capacity(PROBE_ROWS);
    for _ in 0..PROBE_ROWS {
        let row = signature.inputs.iter().enumerate().map(|(position, input)| match rows.first() {
            // What has no rows is the same for all.
            Some(first) if !starts_dynamic(input) => first[position].clone(),
            _ => make(input, &mut random),
        });
        let row = row.collect();
        rows.push(row);
    }
    Some(rows)
}

/// Whether an input's outermost axis may have any length.
fn starts_dynamic(spec: &TensorSpec) -> bool {
    matches!(spec.dims.as_deref(), Some([Dim::Dynamic(_), ..]))
}

/// One row of an input, with `length` for its dynamic axes.
fn made_up_shape(spec: &TensorSpec, length: usize) -> Shape {
    let dims = spec.dims.as_deref().unwrap_or(&[]);
    let axis = |(position, dim): (usize, &Dim)| match dim {
        Dim::Fixed(fixed) => *fixed,
        Dim::Dynamic(_) if position == 0 => 1,
        Dim::Dynamic(_) => length,
    };
    dims.iter().enumerate().map(axis).collect()
}

fn made_up(spec: &TensorSpec, length: usize, random: &mut Random) -> Tensor {
    let shape = made_up_shape(spec, length);
    let count = shape.elements().unwrap_or(0);
    let mut numbers = || (random.next() >> 40) as f32 / (1 << 24) as f32;
    let tensor = match spec.dtype {
        DataType::Fp32 => Tensor::from_slice(shape, &(0..count).map(|_| numbers()).collect::<Vec<f32>>()),
        DataType::Fp64 => Tensor::from_slice(shape, &(0..count).map(|_| f64::from(numbers())).collect::<Vec<_>>()),
        DataType::Fp16 => {
            Tensor::from_slice(shape, &(0..count).map(|_| half::f16::from_f32(numbers())).collect::<Vec<_>>())
        }
        DataType::Bf16 => {
            Tensor::from_slice(shape, &(0..count).map(|_| half::bf16::from_f32(numbers())).collect::<Vec<_>>())
        }
        DataType::Bytes => Tensor::strings(
            shape,
            (0..count).map(|_| bytes::Bytes::from_static(if numbers() < 0.5 { b"a" } else { b"b" })).collect(),
        ),
        dtype => {
            let width = dtype.width().unwrap_or(1);
            let mut buffer = Buffer::zeroed(count * width);
            buffer.as_bytes_mut().chunks_mut(width).for_each(|element| element[0] = u8::from(numbers() < 0.5));
            Tensor::fixed(dtype, shape, buffer)
        }
    };
    // The data was made to measure for the shape.
    tensor.unwrap_or_else(|error| unreachable!("{error}"))
}

/// SplitMix64, by Steele, Lea and Flood: probes need variety, not quality, and the same numbers each time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A model whose rows are summed, with an effect of the neighbours or not.
    struct Sums {
        centred: bool,
        rows_out: fn(usize) -> usize,
    }

    impl Session for Sums {
        fn run(&mut self, inputs: &[Option<Tensor>], _: &[usize]) -> Result<Vec<Tensor>, EngineError> {
            let input = inputs[0].as_ref().unwrap();
            let values = input.to_vec::<f32>().unwrap();
            let rows = input.shape()[0];
            let mut sums: Vec<f32> = values.chunks(values.len() / rows).map(|row| row.iter().sum()).collect();
            if self.centred {
                let mean = sums.iter().sum::<f32>() / rows as f32;
                sums.iter_mut().for_each(|sum| *sum -= mean);
            }
            sums.resize((self.rows_out)(rows), 0.0);
            Ok(vec![Tensor::from_slice([sums.len()], &sums).unwrap()])
        }
    }

    fn signature(first: Dim) -> Signature {
        let input = TensorSpec {
            name: "x".into(),
            dtype: DataType::Fp32,
            dims: Some(vec![first, Dim::Dynamic(None)]),
            optional: false,
        };
        let output = TensorSpec { name: "y".into(), dims: Some(vec![Dim::Dynamic(None)]), ..input.clone() };
        Signature { inputs: vec![input], outputs: vec![output] }
    }

    #[track_caller]
    fn check(centred: bool, rows_out: fn(usize) -> usize, expected: &str) {
        let example = [Some(Tensor::from_slice([1, 3], &[1f32, 5., 7.]).unwrap())];
        for example in [None, Some(&example[..])] {
            let verdict = match prove(&signature(Dim::Dynamic(None)), example, &mut Sums { centred, rows_out }) {
                BatchAxis::Proved => "proved".to_owned(),
                BatchAxis::None => "none".to_owned(),
                BatchAxis::Unproved(reason) => reason,
            };
            assert!(verdict.starts_with(expected), "{verdict}");
        }
    }

    #[test]
    fn only_independent_rows_are_proved() {
        check(false, |rows| rows, "proved");
        check(false, |rows| rows + 1, "its output rows are not its input rows");
        check(false, |_| 1, "its output rows are not its input rows");
        assert_eq!(
            prove(&signature(Dim::Fixed(1)), None, &mut Sums { centred: false, rows_out: |rows| rows }),
            BatchAxis::None
        );
    }

    #[test]
    fn a_row_that_depends_on_its_neighbours_is_found() {
        let example = [Some(Tensor::from_slice([1, 3], &[1f32, 5., 7.]).unwrap())];
        for example in [None, Some(&example[..])] {
            let mut sums = Sums { centred: true, rows_out: |rows| rows };
            let verdict = prove(&signature(Dim::Dynamic(None)), example, &mut sums);
            assert!(matches!(verdict, BatchAxis::Unproved(reason) if reason.contains("depends on its neighbours")));
        }
    }

    /// Multiplies rows by a number that all of a batch share, or by one that counts the rows.
    struct Scaled {
        by_rows: bool,
    }

    impl Session for Scaled {
        fn run(&mut self, inputs: &[Option<Tensor>], _: &[usize]) -> Result<Vec<Tensor>, EngineError> {
            let (x, factor) = (inputs[0].as_ref().unwrap(), inputs[1].as_ref().unwrap());
            assert_eq!(factor.shape(), &Shape::from([]), "it is passed once");
            let factor = factor.to_vec::<f32>().unwrap()[0];
            let factor = if self.by_rows { factor * x.shape()[0] as f32 } else { factor };
            let values: Vec<f32> = x.to_vec::<f32>().unwrap().iter().map(|value| value * factor).collect();
            Ok(vec![Tensor::from_slice(x.shape().clone(), &values).unwrap()])
        }
    }

    #[test]
    fn inputs_without_rows_are_shared_by_the_rows_of_a_probe() {
        let mut signature = signature(Dim::Dynamic(None));
        signature.inputs[0].dims = Some(vec![Dim::Dynamic(None), Dim::Fixed(2)]);
        signature.inputs.push(TensorSpec { name: "factor".into(), dims: Some(vec![]), ..signature.inputs[0].clone() });
        signature.outputs[0].dims = signature.inputs[0].dims.clone();
        let x = Tensor::from_slice([1, 2], &[1f32, 5.]).unwrap();
        let example = [Some(x), Some(Tensor::from_slice([], &[3f32]).unwrap())];
        for example in [None, Some(&example[..])] {
            assert_eq!(prove(&signature, example, &mut Scaled { by_rows: false }), BatchAxis::Proved);
            let verdict = prove(&signature, example, &mut Scaled { by_rows: true });
            assert!(matches!(verdict, BatchAxis::Unproved(reason) if reason.contains("depends on its neighbours")));
        }
    }

    #[test]
    fn absurd_shapes_make_no_rows() {
        let mut wide = signature(Dim::Dynamic(None));
        wide.inputs[0].dims = Some(vec![Dim::Dynamic(None), Dim::Fixed(1 << 40)]);
        assert!(made_up_rows(&wide, 8).is_none());
        let verdict = prove(&wide, None, &mut Sums { centred: false, rows_out: |rows| rows });
        assert!(matches!(verdict, BatchAxis::Unproved(_)));
    }
}
