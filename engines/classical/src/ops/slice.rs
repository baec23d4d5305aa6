//! How are values cut into pieces, and pieces put together?

use tiltyard_runtime::engine::EngineError;
use tiltyard_types::Shape;

use super::arithmetic::same_type;
use super::shape::with_type;
use crate::node::{Built, Node, axis_of, bad_shape};
use crate::value::{Item, Type, Value, View};

const ALL: [Type; 6] = [Type::F32, Type::F64, Type::I64, Type::I32, Type::Bool, Type::Text];

/// `Concat`.
pub(super) fn concat(node: &Node<'_>) -> Result<Built, EngineError> {
    if node.types.is_empty() {
        return Err(node.bad("one input at least is expected"));
    }
    let kind = same_type(node, &ALL)?;
    let axis = node.int("axis", 1);
    fn of<T: Item>(inputs: &[View<'_>], axis: usize, shape: Shape, out: &mut Value) -> Result<(), EngineError> {
        let before: usize = shape[..axis].iter().product();
        let mut pieces = Vec::with_capacity(inputs.len());
        for input in inputs {
            pieces.push((input.get::<T>()?, input.dims[axis..].iter().product::<usize>()));
        }
        let out = out.start::<T>(shape)?;
        for block in 0..before {
            for (elements, length) in &pieces {
                out.extend_from_slice(&elements[block * length..(block + 1) * length]);
            }
        }
        Ok(())
    }
    Built::new(&[kind], move |inputs, outputs| {
        let first = inputs[0].dims;
        let axis = axis_of(axis, first.len()).ok_or_else(|| bad_shape(format_args!("there is no axis {axis}")))?;
        let fits = |dims: &[usize]| {
            dims.len() == first.len() && (0..first.len()).all(|other| other == axis || dims[other] == first[other])
        };
        if let Some(other) = inputs.iter().find(|input| !fits(input.dims)) {
            return Err(bad_shape(format_args!("{} and {} do not fit", inputs[0].shape(), other.shape())));
        }
        let mut shape = first.to_vec();
        shape[axis] = inputs.iter().map(|input| input.dims[axis]).sum();
        with_type!(kind, of(inputs, axis, Shape::from(&shape[..]), &mut outputs[0]))
    })
}

/// Copies the part of each block from `start` on, `length` steps of `step` along an axis.
fn part<T: Item>(
    view: &View<'_>,
    axis: usize,
    (start, step, length): (usize, isize, usize),
    out: &mut Value,
) -> Result<(), EngineError> {
    let inner: usize = view.dims[axis + 1..].iter().product();
    let block = view.dims[axis] * inner;
    let mut shape = view.dims.to_vec();
    shape[axis] = length;
    let elements = view.get::<T>()?;
    let out = out.start::<T>(Shape::from(&shape[..]))?;
    if block == 0 || length == 0 {
        return Ok(());
    }
    for block in elements.chunks_exact(block) {
        if step == 1 {
            out.extend_from_slice(&block[start * inner..(start + length) * inner]);
            continue;
        }
        let mut at = start as isize;
        for _ in 0..length {
            out.extend_from_slice(&block[at as usize * inner..(at as usize + 1) * inner]);
            at += step;
        }
    }
    Ok(())
}

/// `Split`, into pieces of which the lengths are said, or equal ones.
pub(super) fn split(node: &Node<'_>) -> Result<Built, EngineError> {
    let kind = node.kind(0)?;
    let axis = node.int("axis", 0);
    let count = node.wire.output.len();
    let said = match node.constant_ints(1)? {
        Some(lengths) => lengths,
        None => node.ints("split").to_vec(),
    };
    let lengths: Option<Vec<usize>> = said.iter().map(|&length| usize::try_from(length).ok()).collect();
    let lengths = lengths.filter(|lengths| lengths.is_empty() || lengths.len() == count);
    let lengths = lengths.ok_or_else(|| node.bad(format_args!("{count} pieces of lengths {said:?}")))?;
    Built::new(&vec![kind; count], move |inputs, outputs| {
        let dims = inputs[0].dims;
        let axis = axis_of(axis, dims.len()).ok_or_else(|| bad_shape(format_args!("there is no axis {axis}")))?;
        let even = dims[axis].div_ceil(count);
        let mut start = 0;
        for (piece, out) in outputs.iter_mut().enumerate() {
            let length = lengths.get(piece).copied().unwrap_or_else(|| even.min(dims[axis].saturating_sub(start)));
            if start.saturating_add(length) > dims[axis] {
                return Err(bad_shape(format_args!("{} cannot be cut into {count} pieces", inputs[0].shape())));
            }
            with_type!(kind, part(&inputs[0], axis, (start, 1, length), out))?;
            start += length;
        }
        if start != dims[axis] {
            return Err(bad_shape(format_args!("{} is not cut up by {count} pieces", inputs[0].shape())));
        }
        Ok(())
    })
}

/// One axis of a slice.
#[derive(Clone, Copy)]
struct Cut {
    axis: i64,
    start: i64,
    end: i64,
    step: i64,
}

impl Cut {
    /// The first place, the step and how many there are, of an axis of this length.
    fn of(&self, length: usize) -> (usize, isize, usize) {
        let whole = length as i64;
        let from_end = |at: i64| if at < 0 { at.saturating_add(whole) } else { at };
        let (start, end) = (from_end(self.start), from_end(self.end));
        let (start, end) = match self.step > 0 {
            true => (start.clamp(0, whole), end.clamp(0, whole)),
            false => (start.clamp(0, (whole - 1).max(0)), end.clamp(-1, (whole - 1).max(-1))),
        };
        let distance = if self.step > 0 { end - start } else { start - end };
        let count = if distance <= 0 || whole == 0 { 0 } else { (distance as u64).div_ceil(self.step.unsigned_abs()) };
        (start as usize, self.step.clamp(-whole.max(1), whole.max(1)) as isize, count as usize)
    }
}

/// `Slice`, with bounds that are weights or attributes.
pub(super) fn slice(node: &Node<'_>) -> Result<Built, EngineError> {
    let kind = node.kind(0)?;
    let (starts, ends, axes, steps) = if node.opset < 10 {
        let list = |name: &str| node.ints(name).to_vec();
        (list("starts"), list("ends"), list("axes"), Vec::new())
    } else {
        let needed = |input: usize| node.constant_ints(input)?.ok_or_else(|| node.bad("a bound is missing"));
        let wanted =
            |input: usize| -> Result<Vec<i64>, EngineError> { Ok(node.constant_ints(input)?.unwrap_or_default()) };
        (needed(1)?, needed(2)?, wanted(3)?, wanted(4)?)
    };
    let count = starts.len();
    if ends.len() != count || (!axes.is_empty() && axes.len() != count) || (!steps.is_empty() && steps.len() != count) {
        return Err(node.bad("its bounds are lists of several lengths"));
    }
    if steps.contains(&0) {
        return Err(node.bad("a step is 0"));
    }
    let cuts: Vec<Cut> = (0..count)
        .map(|at| Cut {
            axis: axes.get(at).copied().unwrap_or(at as i64),
            start: starts[at],
            end: ends[at],
            step: steps.get(at).copied().unwrap_or(1),
        })
        .collect();
    Built::new(&[kind], move |inputs, outputs| {
        let mut cut_before: Option<Value> = None;
        for cut in &cuts {
            let view = cut_before.as_ref().map_or(inputs[0], Value::view);
            let axis = axis_of(cut.axis, view.dims.len());
            let axis = axis.ok_or_else(|| bad_shape(format_args!("{} has no axis {}", view.shape(), cut.axis)))?;
            let mut next = Value::default();
            with_type!(kind, part(&view, axis, cut.of(view.dims[axis]), &mut next))?;
            cut_before = Some(next);
        }
        match cut_before {
            Some(value) => outputs[0] = value,
            None => super::shape::copy(&inputs[0], inputs[0].shape(), &mut outputs[0])?,
        }
        Ok(())
    })
}
