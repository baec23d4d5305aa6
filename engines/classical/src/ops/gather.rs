//! How are columns, rows and elements picked by their number?

use tiltyard_runtime::engine::EngineError;
use tiltyard_types::Shape;

use super::shape::with_type;
use crate::node::{Built, Node, axis_of, bad_shape};
use crate::value::{Item, Slice, Type, Value, View};

/// The place of each number in an axis of a length, counted from either end where `wraps`.
fn places(view: &View<'_>, length: usize, wraps: bool) -> Result<Vec<usize>, EngineError> {
    let place = |index: i64| {
        let place =
            if wraps { axis_of(index, length) } else { usize::try_from(index).ok().filter(|&place| place < length) };
        place.ok_or_else(|| EngineError::BadInput(format!("index {index} is out of range: there are {length}")))
    };
    match view.data {
        Slice::I64(indices) => indices.iter().map(|&index| place(index)).collect(),
        Slice::I32(indices) => indices.iter().map(|&index| place(index.into())).collect(),
        _ => Err(EngineError::Failed("indices are integers".into())),
    }
}

fn check_indices(node: &Node<'_>) -> Result<(), EngineError> {
    match node.kind(1)? {
        Type::I64 | Type::I32 => Ok(()),
        kind => Err(node.bad(format_args!("its indices are of {}", kind.dtype()))),
    }
}

/// Picks blocks along an axis.
fn pick<T: Item>(
    view: &View<'_>,
    axis: usize,
    places: &[usize],
    shape: Shape,
    out: &mut Value,
) -> Result<(), EngineError> {
    let inner: usize = view.dims[axis + 1..].iter().product();
    let block = view.dims[axis] * inner;
    let elements = view.get::<T>()?;
    let out = out.start::<T>(shape)?;
    if block == 0 {
        return Ok(());
    }
    for block in elements.chunks_exact(block) {
        if inner == 1 {
            out.extend(places.iter().map(|&place| block[place].clone()));
        } else {
            places.iter().for_each(|place| out.extend_from_slice(&block[place * inner..(place + 1) * inner]));
        }
    }
    Ok(())
}

/// `ArrayFeatureExtractor`: columns by their numbers.
pub(super) fn array_feature_extractor(node: &Node<'_>) -> Result<Built, EngineError> {
    let kind = node.kind(0)?;
    check_indices(node)?;
    Built::new(&[kind], move |inputs, outputs| {
        let dims = inputs[0].dims;
        let &[ref before @ .., columns] = dims else { return Err(bad_shape("a scalar has no columns")) };
        let places = places(&inputs[1], columns, false)?;
        if places.is_empty() {
            return Err(bad_shape("no column is asked for"));
        }
        // A vector becomes a matrix of one row.
        let shape: Shape = match before {
            [] => Shape::from([1, places.len()]),
            before => before.iter().copied().chain([places.len()]).collect(),
        };
        with_type!(kind, pick(&inputs[0], dims.len() - 1, &places, shape, &mut outputs[0]))
    })
}

/// `Gather`.
pub(super) fn gather(node: &Node<'_>) -> Result<Built, EngineError> {
    let kind = node.kind(0)?;
    check_indices(node)?;
    let axis = node.int("axis", 0);
    Built::new(&[kind], move |inputs, outputs| {
        let dims = inputs[0].dims;
        let axis = axis_of(axis, dims.len()).ok_or_else(|| bad_shape(format_args!("there is no axis {axis}")))?;
        let places = places(&inputs[1], dims[axis], true)?;
        let shape = dims[..axis].iter().chain(inputs[1].dims).chain(&dims[axis + 1..]).copied().collect();
        with_type!(kind, pick(&inputs[0], axis, &places, shape, &mut outputs[0]))
    })
}

/// `GatherElements`.
pub(super) fn gather_elements(node: &Node<'_>) -> Result<Built, EngineError> {
    let kind = node.kind(0)?;
    check_indices(node)?;
    let axis = node.int("axis", 0);
    fn of<T: Item>(
        view: &View<'_>,
        axis: usize,
        places: &[usize],
        shape: Shape,
        out: &mut Value,
    ) -> Result<(), EngineError> {
        let elements = view.get::<T>()?;
        let dims = view.dims;
        let written = out.start::<T>(shape.clone())?;
        for (index, &place) in places.iter().enumerate() {
            let (mut rest, mut at, mut stride) = (index, 0, 1);
            for own in (0..dims.len()).rev() {
                let along = if own == axis { place } else { rest % shape[own] };
                at += along * stride;
                rest /= shape[own];
                stride *= dims[own];
            }
            written.push(elements[at].clone());
        }
        Ok(())
    }
    Built::new(&[kind], move |inputs, outputs| {
        let (dims, picked) = (inputs[0].dims, inputs[1].dims);
        let axis = axis_of(axis, dims.len()).ok_or_else(|| bad_shape(format_args!("there is no axis {axis}")))?;
        if picked.len() != dims.len() || (0..dims.len()).any(|own| own != axis && picked[own] > dims[own]) {
            return Err(bad_shape(format_args!("{} cannot be picked by {}", inputs[0].shape(), inputs[1].shape())));
        }
        let places = places(&inputs[1], dims[axis], true)?;
        with_type!(kind, of(&inputs[0], axis, &places, inputs[1].shape(), &mut outputs[0]))
    })
}
