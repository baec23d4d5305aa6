//! How do several jobs become one run, and one run's outputs several answers?

mod layout;
mod pad;

use std::ops::Range;

use bytes::Bytes;
use smallvec::SmallVec;
use tiltyard_types::{Buffer, Shape, Tensor, TensorData};

pub use self::layout::Layout;
pub(crate) use self::pad::crop;
pub use self::pad::{Pad, PadDeclaration, PadInput, PadValue};

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
    /// An output that is not as long as the padded inputs, though its axis has the same name.
    #[error("output {output} has shape {shape}, expected {length} on axis {axis}, as the padded inputs have")]
    Crop {
        /// Position among the outputs that were asked for.
        output: usize,
        /// What the engine gave.
        shape: Shape,
        /// The axis that was padded.
        axis: usize,
        /// What was expected there.
        length: usize,
    },
}

/// How large a job or a run is on the axes that may vary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// On the batch axis.
    pub rows: usize,
    /// On the padded axis; `None` where there is none.
    pub length: Option<usize>,
}

impl Extent {
    /// So many rows, nothing padded.
    pub fn of_rows(rows: usize) -> Extent {
        Extent { rows, length: None }
    }
}

impl Layout {
    /// Puts the rows of several jobs under one another, input by input: one copy into aligned memory. Fills up to
    /// `frame` with padding on the padded axis, and with copies of the last row on the batch axis.
    ///
    /// `jobs` holds each job's inputs in the signature's order. All must be present in the same places and equal in
    /// everything but the outermost axis and the padded one. Inputs without rows are given once; they must be equal.
    pub fn gather(&self, jobs: &[&[Option<Tensor>]], frame: Extent) -> Result<Vec<Option<Tensor>>, BatchError> {
        let Some(first) = jobs.first() else { return Ok(Vec::new()) };
        (0..first.len()).map(|position| self.gather_input(jobs, position, frame)).collect()
    }

    fn gather_input(
        &self,
        jobs: &[&[Option<Tensor>]],
        position: usize,
        frame: Extent,
    ) -> Result<Option<Tensor>, BatchError> {
        let error = || BatchError::Gather(position);
        let filler: Option<Tensor>;
        let mut parts: SmallVec<[&Tensor; 1]> =
            jobs.iter().filter_map(|inputs| inputs.get(position)?.as_ref()).collect();
        let Some(&first) = parts.first() else { return Ok(None) };
        if parts.len() != jobs.len() {
            return Err(error());
        }
        if !self.has_rows(position) {
            // A lone job's need no comparison with themselves, which would read all of them.
            return if parts.iter().skip(1).all(|part| *part == first) {
                Ok(Some(first.aligned()))
            } else {
                Err(error())
            };
        }
        let rows: usize = parts.iter().map(|part| part.shape().rows().unwrap_or(0)).sum();
        if let Some(missing @ 1..) = frame.rows.checked_sub(rows) {
            filler = parts.iter().rev().find_map(|part| last_row(part));
            parts.extend(filler.iter().cycle().take(missing));
        }
        match (self.pad().and_then(|pad| pad.input(position)), frame.length) {
            (Some(input), Some(length)) => input.stack(&parts, length),
            _ => stack(&parts),
        }
        .map(Some)
        .ok_or_else(error)
    }

    /// Cuts outputs into answers of these extents, in order, out of a run of `frame`. Rows are slices without a copy;
    /// what was padded is cut back, at the cost of a copy where an answer has several rows. Rows beyond those of the
    /// `parts` are padding, and left out.
    ///
    /// `wanted` holds the position of each output in the signature.
    pub fn split(
        &self,
        outputs: &[Tensor],
        wanted: &[usize],
        parts: &[Extent],
        frame: Extent,
    ) -> Result<Vec<Vec<Tensor>>, BatchError> {
        let mut start = 0;
        let mut answers = Vec::with_capacity(parts.len());
        for part in parts {
            let range = start..start + part.rows;
            start = range.end;
            let cut = outputs.iter().zip(wanted).enumerate().map(|(output, (tensor, &position))| {
                let rows = cut(tensor, output, range.clone(), frame.rows)?;
                self.crop(rows, output, position, *part, frame)
            });
            answers.push(cut.collect::<Result<_, _>>()?);
        }
        Ok(answers)
    }

    /// Cuts an output back to the length of its job.
    fn crop(
        &self,
        rows: Tensor,
        output: usize,
        position: usize,
        part: Extent,
        frame: Extent,
    ) -> Result<Tensor, BatchError> {
        let axis = self.pad().and_then(|pad| pad.output(position));
        let (Some(axis), Some(length), Some(padded)) = (axis, part.length, frame.length) else { return Ok(rows) };
        let whole = rows.shape().get(axis) == Some(&padded);
        whole.then(|| crop(&rows, axis, length)).flatten().ok_or_else(|| BatchError::Crop {
            output,
            shape: rows.shape().clone(),
            axis,
            length: padded,
        })
    }
}

fn last_row(tensor: &Tensor) -> Option<Tensor> {
    let rows = tensor.shape().rows()?;
    tensor.rows(rows.checked_sub(1)?..rows)
}

/// Puts tensors under one another in aligned memory. `None` where they differ in more than the number of rows.
pub(crate) fn stack(parts: &[&Tensor]) -> Option<Tensor> {
    let first = *parts.first()?;
    if parts.len() == 1 {
        return Some(first.aligned());
    }
    if !parts.iter().all(|part| same_row(first, part)) {
        return None;
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
            let strings: Vec<Bytes> = parts.iter().filter_map(|part| part.as_strings()).flatten().cloned().collect();
            Tensor::strings(shape, strings)
        }
    };
    joined.ok()
}

/// Whether rows of both tensors fit under one another.
pub fn same_row(one: &Tensor, other: &Tensor) -> bool {
    let (a, b) = (one.shape(), other.shape());
    one.dtype() == other.dtype() && a.len() == b.len() && !a.is_empty() && a[1..] == b[1..]
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
#[path = "batch/tests.rs"]
mod tests;
