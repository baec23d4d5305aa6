//! May rows of different requests share a run of this model?
//!
//! Only if rows answer the same alone, together, permuted and beside other neighbours, and output rows are input
//! rows. A normalisation over the batch, a suppression of overlapping boxes or a state on another axis fails here.
//! Inputs without a batch axis are the same for all rows of a probe, as they will be for all requests of a batch.

mod lengths;
mod shown;

use std::panic::{AssertUnwindSafe, catch_unwind};

use tiltyard_types::{Buffer, DataType, Dim, Shape, Signature, Tensor, TensorSpec};

use crate::batch::{Extent, Layout};
use crate::deployment::{BatchAxis, panic_text};
use crate::engine::{EngineError, Session};

pub use self::lengths::prove_padding;

use self::shown::{Findings, Nan, Shown, shown};

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
    match try_sets(&layout, signature, example, session) {
        Ok(()) => BatchAxis::Proved,
        Err(reason) => BatchAxis::Unproved(reason),
    }
}

fn try_sets(
    layout: &Layout,
    signature: &Signature,
    example: Option<&[Option<Tensor>]>,
    session: &mut dyn Session,
) -> Result<(), String> {
    let mut findings = Findings::none("no probe could be made for its shapes");
    if let Some(example) = example {
        // Rows made of one by moving its numbers may be alike in what matters: made-up ones may still refute.
        findings.add_known(try_rows(&rows_like(example, layout), Nan::Tells, layout, signature, session))?;
    }
    for &numbers in Numbers::for_inputs(signature) {
        for rows in LENGTHS.iter().filter_map(|&length| rows_of_numbers(signature, length, numbers)) {
            if findings.add(try_rows(&rows, numbers.nan(), layout, signature, session))? {
                break;
            }
        }
    }
    findings.verdict()
}

enum Failure {
    /// The probes ran, and rows depend on their neighbours.
    Differs(String),
    /// The rows did not suit the model.
    NoRun(EngineError),
}

type Row = Vec<Option<Tensor>>;

fn try_rows(
    rows: &[Row],
    nan: Nan,
    layout: &Layout,
    signature: &Signature,
    session: &mut dyn Session,
) -> Result<Shown, Failure> {
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
                nan.compare(actual, expected).map_err(|difference| {
                    Failure::Differs(format!(
                        "output {:?} of a row depends on its neighbours: {difference}",
                        output.name
                    ))
                })?;
            }
        }
    }
    Ok(shown(&alone, signature, nan))
}

/// Runs values that nobody vouches for: a panic of the engine is an error like any other.
pub(crate) fn contained(
    session: &mut dyn Session,
    inputs: &[Option<Tensor>],
    wanted: &[usize],
) -> Result<Vec<Tensor>, EngineError> {
    catch_unwind(AssertUnwindSafe(|| session.run(inputs, wanted)))
        .unwrap_or_else(|panic| Err(EngineError::Panicked(panic_text(&*panic))))
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

/// Rows of small random numbers, none of them negative: zeros and ones for integers, which are legal as tokens, masks and
/// flags.
///
/// `None` where a row would be absurdly large: shapes come from a file that nobody vouches for.
pub fn made_up_rows(signature: &Signature, length: usize) -> Option<Vec<Row>> {
    rows_of_numbers(signature, length, Numbers::Positive)
}

/// From where made-up floats are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Numbers {
    /// From [0, 1), which logarithms and roots take too.
    Positive,
    /// From [-0.5, 0.5), and for every second row from (-0.5, 0]: a maximum or a threshold hides what is below it.
    Signed,
}

impl Numbers {
    /// What is worth a try: integers are the same in both.
    fn for_inputs(signature: &Signature) -> &'static [Numbers] {
        let is_float = |dtype| matches!(dtype, DataType::Fp16 | DataType::Bf16 | DataType::Fp32 | DataType::Fp64);
        match signature.inputs.iter().any(|input| !input.optional && is_float(input.dtype)) {
            true => &[Numbers::Positive, Numbers::Signed],
            false => &[Numbers::Positive],
        }
    }

    /// What NaN means for such numbers.
    fn nan(self) -> Nan {
        match self {
            Numbers::Positive => Nan::Tells,
            Numbers::Signed => Nan::Excused,
        }
    }

    /// A number for a row out of one from [0, 1).
    fn shifted(self, row: usize, number: f32) -> f32 {
        match self {
            Numbers::Positive => number,
            Numbers::Signed if row % 2 == 1 => number * -0.5,
            Numbers::Signed => number - 0.5,
        }
    }
}

/// See [`made_up_rows`].
fn rows_of_numbers(signature: &Signature, length: usize, numbers: Numbers) -> Option<Vec<Row>> {
    const ELEMENTS_MAX: usize = 1 << 24;
    let fits = |spec: &TensorSpec| made_up_shape(spec, length).elements().is_some_and(|count| count <= ELEMENTS_MAX);
    if !signature.inputs.iter().filter(|input| !input.optional).all(fits) {
        return None;
    }
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let make = |row: usize, input: &TensorSpec, random: &mut Random| {
        let mut draw = || (random.next() >> 40) as f32 / (1 << 24) as f32;
        (!input.optional).then(|| made_up(input, length, &mut draw, &|number| numbers.shifted(row, number)))
    };
    let mut rows: Vec<Row> = Vec::with_capacity(PROBE_ROWS);
    for number in 0..PROBE_ROWS {
        let row = signature.inputs.iter().enumerate().map(|(position, input)| match rows.first() {
            // What has no rows is the same for all.
            Some(first) if !starts_dynamic(input) => first[position].clone(),
            _ => make(number, input, &mut random),
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

/// One row of an input. `draw` gives numbers from [0, 1), of which `shifted` makes the floats.
fn made_up(spec: &TensorSpec, length: usize, draw: &mut dyn FnMut() -> f32, shifted: &dyn Fn(f32) -> f32) -> Tensor {
    let shape = made_up_shape(spec, length);
    let count = shape.elements().unwrap_or(0);
    let tensor = match spec.dtype {
        DataType::Fp32 => Tensor::from_slice(shape, &(0..count).map(|_| shifted(draw())).collect::<Vec<f32>>()),
        DataType::Fp64 => {
            Tensor::from_slice(shape, &(0..count).map(|_| f64::from(shifted(draw()))).collect::<Vec<_>>())
        }
        DataType::Fp16 => {
            Tensor::from_slice(shape, &(0..count).map(|_| half::f16::from_f32(shifted(draw()))).collect::<Vec<_>>())
        }
        DataType::Bf16 => {
            Tensor::from_slice(shape, &(0..count).map(|_| half::bf16::from_f32(shifted(draw()))).collect::<Vec<_>>())
        }
        DataType::Bytes => Tensor::strings(
            shape,
            (0..count).map(|_| bytes::Bytes::from_static(if draw() < 0.5 { b"a" } else { b"b" })).collect(),
        ),
        dtype => {
            let width = dtype.width().unwrap_or(1);
            let mut buffer = Buffer::zeroed(count * width);
            buffer.as_bytes_mut().chunks_mut(width).for_each(|element| element[0] = u8::from(draw() < 0.5));
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

    /// Answers with a row's sum, changed by what the test asks for: it is given each row's sum and the least of the batch.
    struct Changed(fn(sum: f32, least: f32) -> f32);

    impl Session for Changed {
        fn run(&mut self, inputs: &[Option<Tensor>], wanted: &[usize]) -> Result<Vec<Tensor>, EngineError> {
            let [sums] = Sums { centred: false, rows_out: |rows| rows }.run(inputs, wanted)?.try_into().unwrap();
            let sums = sums.to_vec::<f32>().unwrap();
            let least = sums.iter().copied().fold(f32::INFINITY, f32::min);
            let changed: Vec<f32> = sums.iter().map(|&sum| (self.0)(sum, least)).collect();
            Ok(vec![Tensor::from_slice([changed.len()], &changed).unwrap()])
        }
    }

    #[test]
    fn what_only_negative_numbers_show_is_found() {
        let example = [Some(Tensor::from_slice([1, 3], &[1f32, 5., 7.]).unwrap())];
        for example in [None, Some(&example[..])] {
            let verdict = |change| prove(&signature(Dim::Dynamic(None)), example, &mut Changed(change));
            let refuted = verdict(|sum, least| sum + least.min(0.0));
            assert!(matches!(&refuted, BatchAxis::Unproved(reason) if reason.contains("neighbours")), "{refuted:?}");
            // All rows answer alike until one is negative.
            let refuted = verdict(|_, least| least.min(0.0));
            assert!(matches!(&refuted, BatchAxis::Unproved(reason) if reason.contains("neighbours")), "{refuted:?}");
        }
    }

    #[test]
    fn answers_that_do_not_depend_on_the_row_are_no_reason_against_sharing() {
        assert_eq!(prove(&signature(Dim::Dynamic(None)), None, &mut Changed(|_, _| 7.0)), BatchAxis::Proved);
    }

    #[test]
    fn not_a_number_proves_nothing_and_refutes_nothing() {
        let verdict = |example, change| prove(&signature(Dim::Dynamic(None)), example, &mut Changed(change));
        let unproved = verdict(None, |_, _| f32::NAN);
        assert!(matches!(&unproved, BatchAxis::Unproved(reason) if reason.contains("is NaN")), "{unproved:?}");
        // A logarithm of made-up negative numbers.
        assert_eq!(verdict(None, |sum, _| sum.ln()), BatchAxis::Proved);
        // Which NaN it is, or whether it is one in company, is no matter outside of what the model is made for.
        let odd = |sum: f32, least: f32| if sum < 0.0 && sum == least { f32::NAN } else { sum.max(0.0) };
        assert_eq!(verdict(None, odd), BatchAxis::Proved);
        // A known request shows what the made-up ones do not.
        let example = [Some(Tensor::from_slice([1, 3], &[1f32, 5., 7.]).unwrap())];
        let above = |sum: f32, _: f32| if sum > 10.0 { sum } else { f32::NAN };
        assert_eq!(verdict(Some(&example), above), BatchAxis::Proved);
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
