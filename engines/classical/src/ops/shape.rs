//! How do values change their shape and nothing else, or hardly anything?

use tiltyard_runtime::engine::EngineError;
use tiltyard_types::Shape;

use super::arithmetic::{Places, meet};
use crate::node::{Built, Node, axis_of, bad_shape};
use crate::value::{Data, ELEMENTS_MAX, Item, Slice, Type, Value, View};

/// Calls a generic function with the Rust type of a type known at compilation.
macro_rules! with_type {
    ($kind:expr, $function:ident ( $($argument:expr),* )) => {
        match $kind {
            crate::value::Type::F32 => $function::<f32>($($argument),*),
            crate::value::Type::F64 => $function::<f64>($($argument),*),
            crate::value::Type::I64 => $function::<i64>($($argument),*),
            crate::value::Type::I32 => $function::<i32>($($argument),*),
            crate::value::Type::Bool => $function::<u8>($($argument),*),
            crate::value::Type::Text => $function::<bytes::Bytes>($($argument),*),
        }
    };
}
pub(super) use with_type;

/// Copies the elements under another shape.
pub(super) fn copy(view: &View<'_>, shape: Shape, out: &mut Value) -> Result<(), EngineError> {
    fn of<T: Item>(elements: &[T], shape: Shape, out: &mut Value) -> Result<(), EngineError> {
        if shape.elements() != Some(elements.len()) {
            return Err(bad_shape(format_args!("{} elements do not fill shape {shape}", elements.len())));
        }
        out.start::<T>(shape)?.extend_from_slice(elements);
        Ok(())
    }
    match view.data {
        Slice::F32(elements) => of(elements, shape, out),
        Slice::F64(elements) => of(elements, shape, out),
        Slice::I64(elements) => of(elements, shape, out),
        Slice::I32(elements) => of(elements, shape, out),
        Slice::Bool(elements) => of(elements, shape, out),
        Slice::Text(elements) => of(elements, shape, out),
        Slice::Absent => Err(EngineError::Failed("an input is missing".into())),
    }
}

/// `Identity`, and `Dropout`, which does nothing once a model is trained.
pub(super) fn identity(node: &Node<'_>) -> Result<Built, EngineError> {
    if node.wire.output.len() > 1 {
        return Err(node.unsupported("a second output"));
    }
    Built::pass(node.kind(0)?)
}

/// `Constant`.
pub(super) fn constant(node: &Node<'_>) -> Result<Built, EngineError> {
    let list = |length: usize| Shape::from([length]);
    let value = if let Some(value) = node.tensor("value")? {
        value
    } else if node.has_attribute("value_float") {
        Value::of(Shape::from([]), vec![node.float("value_float", 0.0)])
    } else if node.has_attribute("value_floats") {
        Value::of(list(node.floats("value_floats").len()), node.floats("value_floats").to_vec())
    } else if node.has_attribute("value_int") {
        Value::of(Shape::from([]), vec![node.int("value_int", 0)])
    } else if node.has_attribute("value_ints") {
        Value::of(list(node.ints("value_ints").len()), node.ints("value_ints").to_vec())
    } else if node.has_attribute("value_string") {
        Value::of(Shape::from([]), vec![node.text("value_string", "")])
    } else if node.has_attribute("value_strings") {
        Value::of(list(node.texts("value_strings").len()), node.kept_texts("value_strings"))
    } else {
        return Err(node.unsupported("a value of this kind"));
    };
    Built::new(&[value.kind()], move |_, outputs| copy(&value.view(), value.shape.clone(), &mut outputs[0]))
}

/// The integers of an input.
fn ints(view: &View<'_>) -> Result<Vec<i64>, EngineError> {
    match view.data {
        Slice::I64(elements) => Ok(elements.to_vec()),
        Slice::I32(elements) => Ok(elements.iter().map(|&element| element.into()).collect()),
        _ => Err(EngineError::Failed("integers are expected".into())),
    }
}

/// A shape that an input says.
fn shape_of(view: &View<'_>) -> Result<Shape, EngineError> {
    let lengths = ints(view)?;
    let shape: Option<Shape> = lengths.iter().map(|&length| usize::try_from(length).ok()).collect();
    shape.ok_or_else(|| bad_shape(format_args!("{lengths:?} is no shape")))
}

fn check_ints(node: &Node<'_>, input: usize) -> Result<(), EngineError> {
    match node.kind(input)? {
        Type::I64 | Type::I32 => Ok(()),
        kind => Err(node.bad(format_args!("its input {input} is of {}", kind.dtype()))),
    }
}

/// `Reshape`. A length may be left open, or be that of the input.
pub(super) fn reshape(node: &Node<'_>) -> Result<Built, EngineError> {
    let kind = node.kind(0)?;
    let keeps_zero = node.int("allowzero", 0) != 0;
    // Before opset 5, the shape was an attribute.
    let attribute = node.ints("shape").to_vec();
    if node.opset >= 5 {
        check_ints(node, 1)?;
    }
    let has_input = node.has(1);
    Built::new(&[kind], move |inputs, outputs| {
        let wanted = if has_input { ints(&inputs[1])? } else { attribute.clone() };
        let shape = reshaped(inputs[0].dims, &wanted, keeps_zero)
            .ok_or_else(|| bad_shape(format_args!("{} cannot become {wanted:?}", inputs[0].shape())))?;
        copy(&inputs[0], shape, &mut outputs[0])
    })
}

fn reshaped(dims: &[usize], wanted: &[i64], keeps_zero: bool) -> Option<Shape> {
    let mut lengths: Vec<usize> = Vec::with_capacity(wanted.len());
    let mut open = None;
    for (axis, &length) in wanted.iter().enumerate() {
        lengths.push(match length {
            -1 if open.is_none() => {
                open = Some(axis);
                1
            }
            0 if !keeps_zero => *dims.get(axis)?,
            length => usize::try_from(length).ok()?,
        });
    }
    if let Some(axis) = open {
        let others = lengths.iter().try_fold(1usize, |product, &length| product.checked_mul(length))?;
        let all: usize = dims.iter().product();
        lengths[axis] = all.checked_div(others).unwrap_or(0);
    }
    Some(lengths.into_iter().collect())
}

/// `Flatten`: a matrix, whose rows are the axes before one.
pub(super) fn flatten(node: &Node<'_>) -> Result<Built, EngineError> {
    let axis = node.int("axis", 1);
    Built::new(&[node.kind(0)?], move |inputs, outputs| {
        let dims = inputs[0].dims;
        let axis = if axis == dims.len() as i64 { Some(dims.len()) } else { axis_of(axis, dims.len()) };
        let axis = axis.ok_or_else(|| bad_shape(format_args!("{} has no such axis", inputs[0].shape())))?;
        let shape = Shape::from([dims[..axis].iter().product(), dims[axis..].iter().product::<usize>()]);
        copy(&inputs[0], shape, &mut outputs[0])
    })
}

/// Axes that a node names: an attribute before opset 13, an input since.
fn axes(node: &Node<'_>) -> Result<impl Fn(&[View<'_>]) -> Result<Vec<i64>, EngineError> + use<>, EngineError> {
    let attribute = node.ints("axes").to_vec();
    let has_input = node.has(1);
    if has_input {
        check_ints(node, 1)?;
    }
    Ok(move |inputs: &[View<'_>]| if has_input { ints(&inputs[1]) } else { Ok(attribute.clone()) })
}

/// `Squeeze`: leaves out axes of length 1.
pub(super) fn squeeze(node: &Node<'_>) -> Result<Built, EngineError> {
    let axes = axes(node)?;
    Built::new(&[node.kind(0)?], move |inputs, outputs| {
        let dims = inputs[0].dims;
        let mut left_out = vec![false; dims.len()];
        let named = axes(inputs)?;
        if named.is_empty() {
            left_out = dims.iter().map(|&length| length == 1).collect();
        }
        for axis in named {
            let axis = axis_of(axis, dims.len()).filter(|&axis| dims[axis] == 1);
            let axis =
                axis.ok_or_else(|| bad_shape(format_args!("an axis of {} is not of length 1", inputs[0].shape())))?;
            left_out[axis] = true;
        }
        let shape = dims.iter().zip(left_out).filter(|(_, left_out)| !left_out).map(|(&length, _)| length).collect();
        copy(&inputs[0], shape, &mut outputs[0])
    })
}

/// `Unsqueeze`: adds axes of length 1.
pub(super) fn unsqueeze(node: &Node<'_>) -> Result<Built, EngineError> {
    let axes = axes(node)?;
    Built::new(&[node.kind(0)?], move |inputs, outputs| {
        let named = axes(inputs)?;
        let rank = inputs[0].dims.len() + named.len();
        let mut added = vec![false; rank];
        for axis in named {
            let axis = axis_of(axis, rank).filter(|&axis| !added[axis]);
            added[axis.ok_or_else(|| bad_shape(format_args!("axes that are added to {}", inputs[0].shape())))?] = true;
        }
        let mut own = inputs[0].dims.iter();
        let shape = added.iter().map(|&added| if added { 1 } else { own.next().copied().unwrap_or(1) }).collect();
        copy(&inputs[0], shape, &mut outputs[0])
    })
}

/// `Shape`: the lengths of axes.
pub(super) fn shape(node: &Node<'_>) -> Result<Built, EngineError> {
    node.kind(0)?;
    let (start, end) = (node.int("start", 0), node.int("end", i64::MAX));
    Built::new(&[Type::I64], move |inputs, outputs| {
        let dims = inputs[0].dims;
        let rank = dims.len() as i64;
        let bound = |at: i64| if at < 0 { at.saturating_add(rank) } else { at }.clamp(0, rank) as usize;
        let kept = dims.get(bound(start)..bound(end)).unwrap_or_default();
        outputs[0].start::<i64>(Shape::from([kept.len()]))?.extend(kept.iter().map(|&length| length as i64));
        Ok(())
    })
}

/// `ConstantOfShape`.
pub(super) fn constant_of_shape(node: &Node<'_>) -> Result<Built, EngineError> {
    check_ints(node, 0)?;
    let value = node.tensor("value")?.unwrap_or_else(|| Value::of(Shape::from([1]), vec![0f32]));
    if value.shape.elements() != Some(1) {
        return Err(node.bad("its value is not one element"));
    }
    fn of<T: Item>(element: &T, shape: Shape, out: &mut Value) -> Result<(), EngineError> {
        out.fill::<T>(shape)?.fill(element.clone());
        Ok(())
    }
    Built::new(&[value.kind()], move |inputs, outputs| {
        let (shape, out) = (shape_of(&inputs[0])?, &mut outputs[0]);
        match &value.data {
            Data::F32(element) => of(&element[0], shape, out),
            Data::F64(element) => of(&element[0], shape, out),
            Data::I64(element) => of(&element[0], shape, out),
            Data::I32(element) => of(&element[0], shape, out),
            Data::Bool(element) => of(&element[0], shape, out),
            Data::Text(element) => of(&element[0], shape, out),
        }
    })
}

/// Writes the element at each place that `places` names.
fn pick<T: Item>(view: &View<'_>, shape: Shape, places: &mut Places, out: &mut Value) -> Result<(), EngineError> {
    let elements = view.get::<T>()?;
    let count = shape.elements().unwrap_or(usize::MAX);
    let out = out.start::<T>(shape)?;
    out.extend((0..count).map(|_| elements[places.next()].clone()));
    Ok(())
}

/// `Expand`: repeats axes of length 1.
pub(super) fn expand(node: &Node<'_>) -> Result<Built, EngineError> {
    let kind = node.kind(0)?;
    check_ints(node, 1)?;
    Built::new(&[kind], move |inputs, outputs| {
        let shape = meet(inputs[0].dims, &shape_of(&inputs[1])?)?;
        let mut places = Places::new(&shape, inputs[0].dims);
        with_type!(kind, pick(&inputs[0], shape, &mut places, &mut outputs[0]))
    })
}

/// `Tile`: repeats the whole along each axis.
pub(super) fn tile(node: &Node<'_>) -> Result<Built, EngineError> {
    let kind = node.kind(0)?;
    check_ints(node, 1)?;
    fn of<T: Item>(view: &View<'_>, repeats: &[usize], out: &mut Value) -> Result<(), EngineError> {
        let lengths = view.dims.iter().zip(repeats).map(|(length, repeats)| length.saturating_mul(*repeats));
        let shape: Shape = lengths.collect();
        let count = shape.elements().filter(|&count| count <= ELEMENTS_MAX);
        let count = count.ok_or_else(|| EngineError::OutOfMemory(format!("a value of shape {shape}")))?;
        let elements = view.get::<T>()?;
        let written = out.start::<T>(shape.clone())?;
        for index in 0..count {
            let (mut rest, mut place, mut stride) = (index, 0, 1);
            for axis in (0..view.dims.len()).rev() {
                place += (rest % shape[axis]) % view.dims[axis] * stride;
                rest /= shape[axis];
                stride *= view.dims[axis];
            }
            written.push(elements[place].clone());
        }
        Ok(())
    }
    Built::new(&[kind], move |inputs, outputs| {
        let repeats = shape_of(&inputs[1])?;
        if repeats.len() != inputs[0].dims.len() {
            return Err(bad_shape(format_args!("{} is repeated along {} axes", inputs[0].shape(), repeats.len())));
        }
        with_type!(kind, of(&inputs[0], &repeats, &mut outputs[0]))
    })
}

/// `Transpose`.
pub(super) fn transpose(node: &Node<'_>) -> Result<Built, EngineError> {
    let kind = node.kind(0)?;
    let order = node.ints("perm").to_vec();
    Built::new(&[kind], move |inputs, outputs| {
        let dims = inputs[0].dims;
        let rank = dims.len();
        let order: Vec<usize> = match order.is_empty() {
            true => (0..rank).rev().collect(),
            false => order.iter().filter_map(|&axis| usize::try_from(axis).ok().filter(|&axis| axis < rank)).collect(),
        };
        if order.len() != rank || (0..rank).any(|axis| !order.contains(&axis)) {
            return Err(bad_shape(format_args!("{} has other axes than are put in order", inputs[0].shape())));
        }
        let mut strides = vec![1usize; rank];
        for axis in (1..rank).rev() {
            strides[axis - 1] = strides[axis] * dims[axis];
        }
        let shape: Shape = order.iter().map(|&axis| dims[axis]).collect();
        let mut places = Places::with_strides(&shape, order.iter().map(|&axis| strides[axis]).collect());
        with_type!(kind, pick(&inputs[0], shape, &mut places, &mut outputs[0]))
    })
}
