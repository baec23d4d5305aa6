//! How are numbers added, multiplied and held within bounds, whatever shapes meet?

use tiltyard_runtime::engine::EngineError;
use tiltyard_types::Shape;

use crate::node::{Built, Node, bad_shape};
use crate::value::{Item, Type, Value, View};

/// The shape in which two shapes meet: an axis of one is as long as the other asks for. Fails where they do not fit.
pub(super) fn meet(left: &[usize], right: &[usize]) -> Result<Shape, EngineError> {
    let rank = left.len().max(right.len());
    let length = |dims: &[usize], axis: usize| (axis + dims.len()).checked_sub(rank).map_or(1, |axis| dims[axis]);
    let axis = |axis: usize| match (length(left, axis), length(right, axis)) {
        (left, right) if left == right || right == 1 => Ok(left),
        (1, right) => Ok(right),
        _ => Err(bad_shape(format_args!("{} and {} do not fit", Shape::from(left), Shape::from(right)))),
    };
    (0..rank).map(axis).collect()
}

/// The place of each element of `shape` in a value of the shape `dims`, which was spread to it.
pub(super) struct Places {
    lengths: Vec<usize>,
    strides: Vec<usize>,
    at: Vec<usize>,
    place: usize,
}

impl Places {
    pub(super) fn new(shape: &[usize], dims: &[usize]) -> Places {
        let mut strides = vec![0; shape.len()];
        let mut stride = 1;
        for (axis, &length) in dims.iter().enumerate().rev() {
            if length != 1 {
                strides[axis + shape.len() - dims.len()] = stride;
            }
            stride *= length;
        }
        Places { lengths: shape.to_vec(), strides, at: vec![0; shape.len()], place: 0 }
    }

    /// With a stride of one's own for each axis.
    pub(super) fn with_strides(shape: &[usize], strides: Vec<usize>) -> Places {
        Places { lengths: shape.to_vec(), strides, at: vec![0; shape.len()], place: 0 }
    }

    /// The place of the next element. Asked for more often than there are elements, it starts again.
    pub(super) fn next(&mut self) -> usize {
        let place = self.place;
        for axis in (0..self.at.len()).rev() {
            self.at[axis] += 1;
            self.place += self.strides[axis];
            if self.at[axis] < self.lengths[axis] {
                break;
            }
            self.place -= self.strides[axis] * self.at[axis];
            self.at[axis] = 0;
        }
        place
    }
}

/// Writes what `each` makes of every pair of elements.
pub(super) fn pairs<A: Item, B: Item, O: Item>(
    left: &View<'_>,
    right: &View<'_>,
    out: &mut Value,
    each: impl Fn(&A, &B) -> O,
) -> Result<(), EngineError> {
    let (a, b) = (left.get::<A>()?, right.get::<B>()?);
    if left.dims == right.dims {
        let out = out.start::<O>(left.shape())?;
        out.extend(a.iter().zip(b).map(|(a, b)| each(a, b)));
        return Ok(());
    }
    let shape = meet(left.dims, right.dims)?;
    let count = shape.elements().unwrap_or(0);
    let whole_left = a.len() == count;
    if let ([b], true) = (b, whole_left) {
        out.start::<O>(shape)?.extend(a.iter().map(|a| each(a, b)));
        return Ok(());
    }
    // A row that meets each row of a matrix, as weights do.
    let ends = right.dims.iter().position(|&length| length != 1).map_or(&[][..], |first| &right.dims[first..]);
    if whole_left && !b.is_empty() && shape.ends_with(ends) {
        let out = out.start::<O>(shape)?;
        a.chunks_exact(b.len()).for_each(|row| out.extend(row.iter().zip(b).map(|(a, b)| each(a, b))));
        return Ok(());
    }
    let (mut of_left, mut of_right) = (Places::new(&shape, left.dims), Places::new(&shape, right.dims));
    let out = out.start::<O>(shape)?;
    out.extend((0..count).map(|_| each(&a[of_left.next()], &b[of_right.next()])));
    Ok(())
}

/// The type that both inputs have.
pub(super) fn same_type(node: &Node<'_>, kinds: &[Type]) -> Result<Type, EngineError> {
    let kind = node.one_of(kinds)?;
    for input in 1..node.types.len() {
        if node.kind(input)? != kind {
            return Err(node.bad(format_args!("its inputs are of {} and {}", kind.dtype(), node.kind(input)?.dtype())));
        }
    }
    Ok(kind)
}

const NUMBERS: [Type; 4] = [Type::F32, Type::F64, Type::I64, Type::I32];

macro_rules! pairwise {
    ($node:expr, $type:ty, $each:expr) => {
        Built::new(&[<$type as Item>::TYPE], |inputs, outputs| {
            pairs::<$type, $type, $type>(&inputs[0], &inputs[1], &mut outputs[0], $each)
        })
    };
}

macro_rules! by_type {
    ($node:expr, $kind:expr, $float:expr, $float64:expr, $int:expr, $int32:expr) => {
        match $kind {
            Type::F32 => pairwise!($node, f32, $float),
            Type::F64 => pairwise!($node, f64, $float64),
            Type::I64 => pairwise!($node, i64, $int),
            _ => pairwise!($node, i32, $int32),
        }
    };
}

/// `Add`, `Sub`, `Mul`, `Div` and `Pow`.
pub(super) fn binary(node: &Node<'_>) -> Result<Built, EngineError> {
    if node.types.len() != 2 {
        return Err(node.bad("two inputs are expected"));
    }
    if node.opset < 7 {
        return Err(node.unsupported(format_args!("opset {}", node.opset)));
    }
    if node.wire.op_type == "Pow" {
        return power(node);
    }
    let kind = same_type(node, &NUMBERS)?;
    match node.wire.op_type.as_str() {
        "Add" => by_type!(node, kind, |a, b| a + b, |a, b| a + b, |a, b| a.wrapping_add(*b), |a, b| a.wrapping_add(*b)),
        "Sub" => by_type!(node, kind, |a, b| a - b, |a, b| a - b, |a, b| a.wrapping_sub(*b), |a, b| a.wrapping_sub(*b)),
        "Mul" => by_type!(node, kind, |a, b| a * b, |a, b| a * b, |a, b| a.wrapping_mul(*b), |a, b| a.wrapping_mul(*b)),
        _ => match kind {
            Type::F32 => pairwise!(node, f32, |a, b| a / b),
            Type::F64 => pairwise!(node, f64, |a, b| a / b),
            Type::I64 => whole_quotient::<i64>(|a, b| a.checked_div(*b)),
            _ => whole_quotient::<i32>(|a, b| a.checked_div(*b)),
        },
    }
}

fn whole_quotient<T: Item>(divide: fn(&T, &T) -> Option<T>) -> Result<Built, EngineError> {
    Built::new(&[T::TYPE], move |inputs, outputs| {
        let failed = std::cell::Cell::new(false);
        pairs::<T, T, T>(&inputs[0], &inputs[1], &mut outputs[0], |a, b| {
            divide(a, b).unwrap_or_else(|| {
                failed.set(true);
                T::default()
            })
        })?;
        if failed.get() {
            return Err(EngineError::BadInput("an integer is divided by zero".into()));
        }
        Ok(())
    })
}

fn power(node: &Node<'_>) -> Result<Built, EngineError> {
    fn of<A: Item + Copy, B: Item + Copy>(each: fn(A, B) -> A) -> Result<Built, EngineError> {
        Built::new(&[A::TYPE], move |inputs, outputs| {
            pairs::<A, B, A>(&inputs[0], &inputs[1], &mut outputs[0], |a, b| each(*a, *b))
        })
    }
    match (node.one_of(&NUMBERS)?, node.kind(1)?) {
        (Type::F32, Type::F32) => of::<f32, f32>(|a, b| match b {
            2.0 => a * a,
            3.0 => a * a * a,
            _ => a.powf(b),
        }),
        (Type::F64, Type::F64) => of::<f64, f64>(|a, b| match b {
            2.0 => a * a,
            3.0 => a * a * a,
            _ => a.powf(b),
        }),
        (Type::F32, Type::I64) => of::<f32, i64>(|a, b| f64::from(a).powf(b as f64) as f32),
        (Type::F64, Type::I64) => of::<f64, i64>(|a, b| a.powf(b as f64)),
        (Type::I64, Type::I64) => of::<i64, i64>(|a, b| super::cast::whole((a as f64).powf(b as f64))),
        (Type::I64, Type::F32) => of::<i64, f32>(|a, b| super::cast::whole((a as f64).powf(b.into()))),
        (kind, exponent) => {
            Err(node.unsupported(format_args!("{} to the power of {}", kind.dtype(), exponent.dtype())))
        }
    }
}

/// The larger, or NaN where one of them is.
fn larger(a: f64, b: f64) -> f64 {
    if a.is_nan() || a > b { a } else { b }
}

fn smaller(a: f64, b: f64) -> f64 {
    if a.is_nan() || a < b { a } else { b }
}

/// `Max`, `Min`, `Sum` and `Mean` of any number of inputs.
pub(super) fn variadic(node: &Node<'_>) -> Result<Built, EngineError> {
    fn of<T: Item>(each: fn(&T, &T) -> T, last: fn(T, usize) -> T) -> Result<Built, EngineError> {
        Built::new(&[T::TYPE], move |inputs, outputs| {
            let mut sum = Value::of(inputs[0].shape(), inputs[0].get::<T>()?.to_vec());
            for input in &inputs[1..] {
                let mut next = Value::default();
                pairs::<T, T, T>(&sum.view(), input, &mut next, each)?;
                sum = next;
            }
            let out = outputs[0].start::<T>(sum.shape.clone())?;
            out.extend(sum.view().get::<T>()?.iter().map(|element| last(element.clone(), inputs.len())));
            Ok(())
        })
    }
    if node.types.is_empty() {
        return Err(node.bad("one input at least is expected"));
    }
    let kind = same_type(node, &NUMBERS)?;
    let bare = |node: &Node<'_>| node.unsupported(kind.dtype());
    match (node.wire.op_type.as_str(), kind) {
        ("Max", Type::F32) => of::<f32>(|a, b| larger((*a).into(), (*b).into()) as f32, |x, _| x),
        ("Max", Type::F64) => of::<f64>(|a, b| larger(*a, *b), |x, _| x),
        ("Max", Type::I64) => of::<i64>(|a, b| *a.max(b), |x, _| x),
        ("Max", _) => of::<i32>(|a, b| *a.max(b), |x, _| x),
        ("Min", Type::F32) => of::<f32>(|a, b| smaller((*a).into(), (*b).into()) as f32, |x, _| x),
        ("Min", Type::F64) => of::<f64>(|a, b| smaller(*a, *b), |x, _| x),
        ("Min", Type::I64) => of::<i64>(|a, b| *a.min(b), |x, _| x),
        ("Min", _) => of::<i32>(|a, b| *a.min(b), |x, _| x),
        ("Sum", Type::F32) => of::<f32>(|a, b| a + b, |x, _| x),
        ("Sum", Type::F64) => of::<f64>(|a, b| a + b, |x, _| x),
        ("Mean", Type::F32) => of::<f32>(|a, b| a + b, |x, count| x / count as f32),
        ("Mean", Type::F64) => of::<f64>(|a, b| a + b, |x, count| x / count as f64),
        _ => Err(bare(node)),
    }
}

/// `Clip`. NaN stays.
pub(super) fn clip(node: &Node<'_>) -> Result<Built, EngineError> {
    fn of<T: Item + Copy + PartialOrd>(least: Option<T>, most: Option<T>) -> Result<Built, EngineError> {
        Built::new(&[T::TYPE], move |inputs, outputs| {
            let bound = |input: usize, attribute: Option<T>| -> Result<Option<T>, EngineError> {
                match inputs.get(input).filter(|view| !view.is_absent()) {
                    Some(view) => Ok(view.get::<T>()?.first().copied()),
                    None => Ok(attribute),
                }
            };
            let (least, most) = (bound(1, least)?, bound(2, most)?);
            let out = outputs[0].start::<T>(inputs[0].shape())?;
            out.extend(inputs[0].get::<T>()?.iter().map(|&x| {
                let x = least.map_or(x, |least| if x < least { least } else { x });
                most.map_or(x, |most| if x > most { most } else { x })
            }));
            Ok(())
        })
    }
    let kind = node.one_of(&NUMBERS)?;
    for input in 1..node.types.len() {
        if node.has(input) && node.kind(input)? != kind {
            return Err(node.bad("its bounds are of another type than its input"));
        }
    }
    // Before opset 11, bounds were attributes.
    let bound = |name: &str| (node.opset < 11 && node.has_attribute(name)).then(|| node.float(name, 0.0));
    match kind {
        Type::F32 => of::<f32>(bound("min"), bound("max")),
        Type::F64 => of::<f64>(bound("min").map(f64::from), bound("max").map(f64::from)),
        Type::I64 => of::<i64>(None, None),
        _ => of::<i32>(None, None),
    }
}
