//! May requests of different lengths share a run of this model, if the shorter ones are filled up?
//!
//! Only if rows that were filled up answer as they did unpadded, once their answers are cut back. Also where there are
//! examples, made-up rows may still refute: padding with zeros goes unseen in a maximum until all numbers are negative.

use tiltyard_types::{Signature, Tensor};

use super::shown::{Findings, Nan, Shown, shown};
use super::{Failure, Numbers, Row, contained, rows_of_numbers};
use crate::batch::{BatchError, Extent, Layout, crop};
use crate::engine::Session;

/// Rows tried, each cut to another length.
const ROWS_MAX: usize = 4;

/// The length of made-up rows.
const LENGTH: usize = 8;

/// Runs rows of different lengths alone and filled up, alone and together. `layout` says how they are filled up;
/// `examples` holds known good requests, in the signature's order. The error says what differs, or why nothing ran.
pub fn prove_padding(
    layout: &Layout,
    signature: &Signature,
    examples: &[Vec<Option<Tensor>>],
    session: &mut dyn Session,
) -> Result<(), String> {
    let mut findings = Findings::none("no rows of different lengths could be made to probe it with");
    if let Some(rows) = rows_of(layout, examples) {
        findings.add_known(try_lengths(&rows, Nan::Tells, layout, signature, session))?;
    }
    for &numbers in Numbers::for_inputs(signature) {
        if let Some(rows) = rows_of(layout, &made_up(layout, signature, numbers)) {
            findings.add(try_lengths(&rows, numbers.nan(), layout, signature, session))?;
        }
    }
    findings.verdict()
}

/// Runs one set of rows, each with its length.
fn try_lengths(
    rows: &[(Row, usize)],
    nan: Nan,
    layout: &Layout,
    signature: &Signature,
    session: &mut dyn Session,
) -> Result<Shown, Failure> {
    let wanted: Vec<usize> = (0..signature.outputs.len()).collect();
    let mut alone = Vec::with_capacity(rows.len());
    for (row, _) in rows {
        alone.push(contained(session, row, &wanted).map_err(Failure::NoRun)?);
    }
    let differs = |error: BatchError| Failure::Differs(error.to_string());
    let longest = rows.iter().map(|(_, length)| *length).max().unwrap_or(0);
    let all: Vec<usize> = (0..rows.len()).collect();
    let backwards: Vec<usize> = all.iter().rev().copied().collect();
    let probes = [(all, longest), (backwards, longest + 3), (vec![rows.len() - 1], longest + 1)];
    for (members, length) in probes {
        let views: Vec<&[Option<Tensor>]> = members.iter().map(|&number| rows[number].0.as_slice()).collect();
        let frame = Extent { rows: members.len(), length: Some(length) };
        let inputs = layout.gather(&views, frame).map_err(differs)?;
        let outputs = contained(session, &inputs, &wanted)
            .map_err(|error| Failure::Differs(format!("rows filled up to {length} do not run: {error}")))?;
        let extent = |&number: &usize| Extent { rows: 1, length: Some(rows[number].1) };
        let parts: Vec<Extent> = members.iter().map(extent).collect();
        let answers = layout.split(&outputs, &wanted, &parts, frame).map_err(differs)?;
        for (&number, answer) in members.iter().zip(&answers) {
            for ((actual, expected), output) in answer.iter().zip(&alone[number]).zip(&signature.outputs) {
                nan.compare(actual, expected).map_err(|difference| {
                    let own = rows[number].1;
                    let name = &output.name;
                    Failure::Differs(format!(
                        "output {name:?} of a row of length {own} differs when it is filled up to {length}: {difference}"
                    ))
                })?;
            }
        }
    }
    Ok(shown(&alone, signature, nan))
}

/// Rows of different lengths: those of the requests, the longest first, each cut to a smaller part of its length than
/// the one before. `None` where no two different lengths come of it.
fn rows_of(layout: &Layout, requests: &[Vec<Option<Tensor>>]) -> Option<Vec<(Row, usize)>> {
    let mut whole: Vec<(Row, usize)> = Vec::new();
    for inputs in requests {
        let Some(length) = layout.length(inputs) else { continue };
        let counts = inputs.iter().enumerate().filter(|(position, _)| layout.has_rows(*position));
        let count = counts.filter_map(|(_, tensor)| tensor.as_ref()?.shape().rows()).min().unwrap_or(0);
        whole.extend((0..count.min(ROWS_MAX)).filter_map(|number| Some((one_row(layout, inputs, number)?, length))));
    }
    // Batches hold only rows that are alike in the rest of their shape and in what they share.
    whole.sort_by_key(|(_, length)| std::cmp::Reverse(*length));
    let first = whole.first()?.0.clone();
    whole.retain(|(row, _)| layout.joins(&first, row, true));
    let known = whole.len();
    let rows: Vec<(Row, usize)> = (0..ROWS_MAX)
        .filter_map(|number| {
            let (row, length) = &whole[number % known];
            // All of it, then three quarters, a half, a quarter.
            let length = (length * (ROWS_MAX - number)).div_ceil(ROWS_MAX);
            Some((shortened(layout, row, length)?, length))
        })
        .collect();
    let differ = rows.iter().any(|(_, length)| *length != rows[0].1);
    differ.then_some(rows)
}

fn one_row(layout: &Layout, inputs: &[Option<Tensor>], number: usize) -> Option<Row> {
    let row = |position: usize, tensor: &Tensor| match layout.has_rows(position) {
        true => Some(tensor.rows(number..number + 1)?.aligned()),
        false => Some(tensor.aligned()),
    };
    let mut all = Vec::with_capacity(inputs.len());
    for (position, input) in inputs.iter().enumerate() {
        all.push(match input {
            Some(tensor) => Some(row(position, tensor)?),
            None => None,
        });
    }
    Some(all)
}

/// The first `length` of a row.
fn shortened(layout: &Layout, row: &Row, length: usize) -> Option<Row> {
    let pad = layout.pad()?;
    let mut all = Vec::with_capacity(row.len());
    for (position, input) in row.iter().enumerate() {
        all.push(match (input, pad.input(position)) {
            (Some(tensor), Some(input)) => Some(crop(tensor, input.axis(), length)?.aligned()),
            (input, _) => input.clone(),
        });
    }
    Some(all)
}

/// Made-up rows. Where an input is filled with what might be made up too, such as the zeros of a mask, it is given ones:
/// a row that is all padding is none.
fn made_up(layout: &Layout, signature: &Signature, numbers: Numbers) -> Vec<Vec<Option<Tensor>>> {
    let rows = rows_of_numbers(signature, LENGTH, numbers).unwrap_or_default();
    let real = |position: usize, tensor: Tensor| match layout.pad().and_then(|pad| pad.input(position)) {
        Some(input) => input.without_padding(&tensor),
        None => tensor,
    };
    rows.into_iter()
        .map(|row| row.into_iter().enumerate().map(|(position, input)| Some(real(position, input?))).collect())
        .collect()
}

#[cfg(test)]
mod tests {
    use tiltyard_types::{DataType, Dim, TensorSpec};

    use super::*;
    use crate::batch::Pad;
    use crate::engine::EngineError;

    /// Sums what is not masked, or counts all of it.
    struct Masked {
        counts: bool,
    }

    impl Session for Masked {
        fn run(&mut self, inputs: &[Option<Tensor>], _: &[usize]) -> Result<Vec<Tensor>, EngineError> {
            let (x, mask) = (inputs[0].as_ref().unwrap(), inputs[1].as_ref().unwrap());
            let length = x.shape()[1].max(1);
            let (values, mask) = (x.to_vec::<f32>().unwrap(), mask.to_vec::<i64>().unwrap());
            let kept: Vec<f32> = values.iter().zip(&mask).map(|(value, &mask)| value * mask as f32).collect();
            let sums: Vec<f32> = kept.chunks(length).map(|row| row.iter().sum()).collect();
            let sums: Vec<f32> = sums.iter().map(|sum| if self.counts { sum / length as f32 } else { *sum }).collect();
            Ok(vec![
                Tensor::from_slice(x.shape().clone(), &kept).unwrap(),
                Tensor::from_slice([sums.len()], &sums).unwrap(),
            ])
        }
    }

    fn signature() -> Signature {
        let spec = |name: &str, dtype, dims: &[&str]| TensorSpec {
            name: name.into(),
            dtype,
            dims: Some(dims.iter().map(|dim| Dim::Dynamic(Some((*dim).into()))).collect()),
            optional: false,
        };
        let both = ["batch", "length"];
        Signature {
            inputs: vec![spec("x", DataType::Fp32, &both), spec("mask", DataType::Int64, &both)],
            outputs: vec![spec("kept", DataType::Fp32, &both), spec("sum", DataType::Fp32, &["batch"])],
        }
    }

    fn verdict(counts: bool, values: &str, examples: &[Vec<Option<Tensor>>]) -> Result<(), String> {
        verdict_of(&mut Masked { counts }, values, examples)
    }

    fn verdict_of(session: &mut dyn Session, values: &str, examples: &[Vec<Option<Tensor>>]) -> Result<(), String> {
        let signature = signature();
        let declared = toml::from_str(&format!("axis = \"length\"\nvalues = {{ {values} }}")).unwrap();
        let pad = Pad::new(&signature, &declared)?;
        let layout = Layout::of(&signature).unwrap().padded(Some(pad));
        prove_padding(&layout, &signature, examples, session)
    }

    #[test]
    fn only_models_that_do_not_see_the_padding_are_proved() {
        let x = Tensor::from_slice([2, 5], &[1f32, 2., 3., 4., 5., 6., 7., 8., 9., 10.]).unwrap();
        let mask = Tensor::from_slice([2, 5], &[1i64; 10]).unwrap();
        let example = [vec![Some(x), Some(mask)]];
        for examples in [&example[..], &[]] {
            assert_eq!(verdict(false, "", examples), Ok(()));
            assert_eq!(verdict(false, "x = -7.5", examples), Ok(()));
            assert!(verdict(true, "", examples).unwrap_err().contains("\"sum\" of a row of length"));
            assert!(verdict(false, "x = 1, mask = 1", examples).unwrap_err().contains("\"sum\" of a row of length"));
        }
    }

    /// The largest number of each row, and of those whose mask is set.
    struct Largest {
        masks: bool,
    }

    impl Session for Largest {
        fn run(&mut self, inputs: &[Option<Tensor>], _: &[usize]) -> Result<Vec<Tensor>, EngineError> {
            let (x, mask) = (inputs[0].as_ref().unwrap(), inputs[1].as_ref().unwrap());
            let (values, mask) = (x.to_vec::<f32>().unwrap(), mask.to_vec::<i64>().unwrap());
            let kept = |(value, mask): (&f32, &i64)| if self.masks && *mask == 0 { f32::NEG_INFINITY } else { *value };
            let kept: Vec<f32> = values.iter().zip(&mask).map(kept).collect();
            let largest: Vec<f32> =
                kept.chunks(x.shape()[1]).map(|row| row.iter().copied().fold(f32::NEG_INFINITY, f32::max)).collect();
            Ok(vec![x.clone(), Tensor::from_slice([largest.len()], &largest).unwrap()])
        }
    }

    #[test]
    fn padding_that_only_negative_numbers_show_is_found() {
        let x = Tensor::from_slice([2, 5], &[1f32, 2., 3., 4., 5., 6., 7., 8., 9., 10.]).unwrap();
        let mask = Tensor::from_slice([2, 5], &[1i64; 10]).unwrap();
        let example = [vec![Some(x), Some(mask)]];
        for examples in [&example[..], &[]] {
            let refuted = verdict_of(&mut Largest { masks: false }, "", examples).unwrap_err();
            assert!(refuted.contains("\"sum\" of a row of length"), "{refuted}");
            assert_eq!(verdict_of(&mut Largest { masks: true }, "", examples), Ok(()));
        }
    }
}
