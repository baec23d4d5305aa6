//! How do several jobs become one run, and one run's outputs several answers?

use std::ops::Range;

use tiltyard_types::{Buffer, Shape, Tensor, TensorData};

/// Why rows cannot be put together or cut apart: always a fault of this program or of an engine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// Tensors that do not belong into one batch.
    #[error("input {0} cannot be gathered: shapes or data types differ")]
    Gather(usize),
    /// An output without a row for each input row.
    #[error("output {output} has shape {shape}, expected {rows} rows")]
    Split {
        /// Position among the outputs that were asked for.
        output: usize,
        /// What the engine gave.
        shape: Shape,
        /// What was expected.
        rows: usize,
    },
}

/// Puts the rows of several jobs under one another, input by input: one copy into aligned memory.
///
/// `jobs` holds each job's inputs in the signature's order. All must be present in the same places and equal in
/// everything but the outermost axis.
pub fn gather(jobs: &[&[Option<Tensor>]]) -> Result<Vec<Option<Tensor>>, BatchError> {
    let Some(first) = jobs.first() else { return Ok(Vec::new()) };
    (0..first.len()).map(|position| gather_input(jobs, position)).collect()
}

fn gather_input(jobs: &[&[Option<Tensor>]], position: usize) -> Result<Option<Tensor>, BatchError> {
    let error = || BatchError::Gather(position);
    let parts: Vec<&Tensor> = jobs.iter().filter_map(|inputs| inputs.get(position)?.as_ref()).collect();
    let Some(first) = parts.first() else { return Ok(None) };
    if parts.len() != jobs.len() || parts.iter().any(|part| !same_row(first, part)) {
        return Err(error());
    }
    let rows = parts.iter().map(|part| part.shape().rows().unwrap_or(0)).sum();
    let shape = first.shape().with_rows(rows);
    let joined = match first.data() {
        TensorData::Fixed(_) => {
            let mut buffer = Buffer::with_capacity(parts.iter().map(|part| part.size()).sum());
            parts.iter().filter_map(|part| part.bytes()).for_each(|bytes| buffer.extend(bytes));
            Tensor::fixed(first.dtype(), shape, buffer)
        }
        TensorData::Strings(_) => {
            let strings = parts.iter().filter_map(|part| part.as_strings()).flatten().cloned().collect();
            Tensor::strings(shape, strings)
        }
    };
    joined.map(Some).map_err(|_| error())
}

/// Whether rows of both tensors fit under one another.
pub fn same_row(one: &Tensor, other: &Tensor) -> bool {
    let (a, b) = (one.shape(), other.shape());
    one.dtype() == other.dtype() && a.len() == b.len() && !a.is_empty() && a[1..] == b[1..]
}

/// Cuts outputs into answers of `rows` rows each, in order, without a copy.
pub fn split(outputs: &[Tensor], rows: &[usize]) -> Result<Vec<Vec<Tensor>>, BatchError> {
    let total: usize = rows.iter().sum();
    let mut start = 0;
    let mut answers = Vec::with_capacity(rows.len());
    for &count in rows {
        let range = start..start + count;
        start = range.end;
        answers.push(
            outputs
                .iter()
                .enumerate()
                .map(|(position, output)| cut(output, position, range.clone(), total))
                .collect::<Result<_, _>>()?,
        );
    }
    Ok(answers)
}

fn cut(output: &Tensor, position: usize, range: Range<usize>, total: usize) -> Result<Tensor, BatchError> {
    let whole = output.shape().rows() == Some(total);
    whole.then(|| output.rows(range)).flatten().ok_or_else(|| BatchError::Split {
        output: position,
        shape: output.shape().clone(),
        rows: total,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;

    fn floats(rows: usize, start: f32) -> Tensor {
        let values: Vec<f32> = (0..rows * 2).map(|i| start + i as f32).collect();
        Tensor::from_slice([rows, 2], &values).unwrap()
    }

    #[test]
    fn strings_and_numbers_travel_together() {
        let text = |words: &[&str]| {
            let words: Vec<Bytes> = words.iter().map(|word| Bytes::copy_from_slice(word.as_bytes())).collect();
            Tensor::strings(Shape::from([words.len()]), words).unwrap()
        };
        let one = [Some(floats(1, 0.)), None, Some(text(&["a"]))];
        let two = [Some(floats(2, 9.)), None, Some(text(&["b", "c"]))];
        let joined = gather(&[&one, &two]).unwrap();
        assert_eq!(joined[0].as_ref().unwrap().to_vec::<f32>().unwrap(), [0., 1., 9., 10., 11., 12.]);
        assert!(joined[1].is_none());
        let outputs: Vec<Tensor> = joined.into_iter().flatten().collect();
        let answers = split(&outputs, &[1, 2]).unwrap();
        assert_eq!(answers[1][0], floats(2, 9.));
        assert_eq!(answers[1][1].as_strings().unwrap(), ["b", "c"]);
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        assert!(gather(&[&[Some(floats(1, 0.))], &[None]]).is_err());
        let wide = Tensor::from_slice([1, 3], &[0f32; 3]).unwrap();
        assert!(gather(&[&[Some(floats(1, 0.))], &[Some(wide)]]).is_err());
        assert!(split(&[floats(3, 0.)], &[1, 1]).is_err());
    }

    proptest! {
        #[test]
        fn splitting_undoes_gathering(rows in prop::collection::vec(0usize..5, 1..8)) {
            let jobs: Vec<Vec<Option<Tensor>>> =
                rows.iter().enumerate().map(|(i, &rows)| vec![Some(floats(rows, i as f32 * 100.))]).collect();
            let views: Vec<&[Option<Tensor>]> = jobs.iter().map(Vec::as_slice).collect();
            let joined: Vec<Tensor> = gather(&views).unwrap().into_iter().flatten().collect();
            let apart = split(&joined, &rows).unwrap();
            for (job, answer) in jobs.iter().zip(apart) {
                prop_assert_eq!(job[0].as_ref().unwrap(), &answer[0]);
            }
        }
    }
}
