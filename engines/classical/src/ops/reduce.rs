//! How do many elements become one: sums, the largest, the first few?

use tiltyard_runtime::engine::EngineError;
use tiltyard_types::Shape;

use crate::node::{Built, Node, axis_of, bad_shape};
use crate::value::{Item, Type, Value, View};

/// Which elements make one: for each kept place, those at the places of the axes that go.
struct Lines {
    kept: Vec<(usize, usize)>,
    gone: Vec<(usize, usize)>,
    shape: Shape,
}

impl Lines {
    fn new(dims: &[usize], goes: &[bool], keeps_axes: bool) -> Lines {
        let mut strides = vec![1usize; dims.len()];
        for axis in (1..dims.len()).rev() {
            strides[axis - 1] = strides[axis] * dims[axis];
        }
        let pick = |wanted: bool| {
            (0..dims.len()).filter(|&axis| goes[axis] == wanted).map(|axis| (dims[axis], strides[axis])).collect()
        };
        let shape = (0..dims.len())
            .filter(|&axis| keeps_axes || !goes[axis])
            .map(|axis| if goes[axis] { 1 } else { dims[axis] })
            .collect();
        Lines { kept: pick(false), gone: pick(true), shape }
    }

    fn place(axes: &[(usize, usize)], index: usize) -> usize {
        let (mut rest, mut place) = (index, 0);
        for &(length, stride) in axes.iter().rev() {
            place += rest % length * stride;
            rest /= length;
        }
        place
    }

    fn count(axes: &[(usize, usize)]) -> usize {
        axes.iter().map(|&(length, _)| length).product()
    }

    /// Calls `each` with the elements of every line.
    fn each<T: Item>(&self, elements: &[T], mut each: impl FnMut(&[T])) {
        let length = Lines::count(&self.gone);
        let places: Vec<usize> = (0..length).map(|index| Lines::place(&self.gone, index)).collect();
        let lie_together = places.iter().enumerate().all(|(index, &place)| index == place);
        let mut line = Vec::with_capacity(length);
        for index in 0..Lines::count(&self.kept) {
            let start = Lines::place(&self.kept, index);
            if lie_together {
                each(&elements[start..start + length]);
                continue;
            }
            line.clear();
            line.extend(places.iter().map(|place| elements[start + place].clone()));
            each(&line);
        }
    }
}

/// Axes that a node names: an attribute or an input that is a weight.
fn named_axes(node: &Node<'_>) -> Result<Vec<i64>, EngineError> {
    Ok(match node.constant_ints(1)? {
        Some(axes) => axes,
        None => node.ints("axes").to_vec(),
    })
}

fn going(axes: &[i64], rank: usize) -> Result<Vec<bool>, EngineError> {
    let mut goes = vec![axes.is_empty(); rank];
    for &axis in axes {
        goes[axis_of(axis, rank).ok_or_else(|| bad_shape(format_args!("there is no axis {axis}")))?] = true;
    }
    Ok(goes)
}

macro_rules! reductions {
    ($name:ident, $type:ty) => {
        fn $name(operator: &str) -> Option<fn(&[$type]) -> $type> {
            Some(match operator {
                "ReduceSum" => |line| line.iter().sum(),
                "ReduceMean" => |line| line.iter().sum::<$type>() / line.len() as $type,
                "ReduceMax" => |line| {
                    line.iter()
                        .skip(1)
                        .fold(line.first().copied().unwrap_or_default(), |most, &x| if x > most { x } else { most })
                },
                "ReduceMin" => |line| {
                    line.iter()
                        .skip(1)
                        .fold(line.first().copied().unwrap_or_default(), |least, &x| if x < least { x } else { least })
                },
                "ReduceProd" => |line| line.iter().product(),
                "ReduceSumSquare" => |line| line.iter().map(|x| x * x).sum(),
                _ => return None,
            })
        }
    };
}

macro_rules! float_reductions {
    ($name:ident, $all:ident, $type:ty) => {
        fn $name(operator: &str) -> Option<fn(&[$type]) -> $type> {
            Some(match operator {
                "ReduceL1" => |line| line.iter().map(|x| x.abs()).sum(),
                "ReduceL2" => |line| line.iter().map(|x| x * x).sum::<$type>().sqrt(),
                "ReduceLogSum" => |line| line.iter().sum::<$type>().ln(),
                "ReduceLogSumExp" => |line| {
                    let most = line.iter().fold(<$type>::NEG_INFINITY, |most, &x| if x > most { x } else { most });
                    let most = if most.is_finite() { most } else { 0.0 };
                    line.iter().map(|x| (x - most).exp()).sum::<$type>().ln() + most
                },
                other => return $all(other),
            })
        }
    };
}

reductions!(singles, f32);
reductions!(doubles, f64);
reductions!(wholes, i64);
reductions!(shorts, i32);
float_reductions!(single, singles, f32);
float_reductions!(double, doubles, f64);

/// The operators that make one element of those along some axes.
pub(super) fn reduce(node: &Node<'_>) -> Result<Built, EngineError> {
    let kind = node.one_of(&[Type::F32, Type::F64, Type::I64, Type::I32])?;
    let axes = named_axes(node)?;
    if axes.is_empty() && node.int("noop_with_empty_axes", 0) != 0 {
        return Built::pass(kind);
    }
    let keeps_axes = node.int("keepdims", 1) != 0;
    fn of<T: Item>(axes: Vec<i64>, keeps_axes: bool, function: fn(&[T]) -> T) -> Result<Built, EngineError> {
        Built::new(&[T::TYPE], move |inputs, outputs| {
            let lines = Lines::new(inputs[0].dims, &going(&axes, inputs[0].dims.len())?, keeps_axes);
            let out = outputs[0].start::<T>(lines.shape.clone())?;
            lines.each(inputs[0].get::<T>()?, |line| out.push(function(line)));
            Ok(())
        })
    }
    let unknown = || node.unsupported(kind.dtype());
    let operator = node.wire.op_type.as_str();
    match kind {
        Type::F32 => of(axes, keeps_axes, single(operator).ok_or_else(unknown)?),
        Type::F64 => of(axes, keeps_axes, double(operator).ok_or_else(unknown)?),
        // The mean of no integers is nothing.
        _ if operator == "ReduceMean" => Err(unknown()),
        Type::I64 => of(axes, keeps_axes, wholes(operator).ok_or_else(unknown)?),
        _ => of(axes, keeps_axes, shorts(operator).ok_or_else(unknown)?),
    }
}

/// `ArgMax` and `ArgMin`: the place of the largest or smallest along an axis, the first of equal ones.
pub(super) fn arg(node: &Node<'_>) -> Result<Built, EngineError> {
    let (axis, keeps_axes) = (node.int("axis", 0), node.int("keepdims", 1) != 0);
    let (takes_last, is_max) = (node.int("select_last_index", 0) != 0, node.wire.op_type == "ArgMax");
    fn of<T: Item + Copy + PartialOrd>(
        (axis, keeps_axes): (i64, bool),
        better: impl Fn(T, T) -> bool + Send + Sync + 'static,
    ) -> Result<Built, EngineError> {
        Built::new(&[Type::I64], move |inputs, outputs| {
            let dims = inputs[0].dims;
            let lines = Lines::new(dims, &going(&[axis], dims.len())?, keeps_axes);
            if axis_of(axis, dims.len()).is_some_and(|axis| dims[axis] == 0) {
                return Err(bad_shape("there is no element to choose"));
            }
            let out = outputs[0].start::<i64>(lines.shape.clone())?;
            lines.each(inputs[0].get::<T>()?, |line| {
                let mut best = 0;
                for (place, &element) in line.iter().enumerate().skip(1) {
                    if better(element, line[best]) {
                        best = place;
                    }
                }
                out.push(best as i64);
            });
            Ok(())
        })
    }
    macro_rules! with_better {
        ($type:ty) => {
            match (is_max, takes_last) {
                (true, false) => of::<$type>((axis, keeps_axes), |a, b| a > b),
                (true, true) => of::<$type>((axis, keeps_axes), |a, b| a >= b),
                (false, false) => of::<$type>((axis, keeps_axes), |a, b| a < b),
                (false, true) => of::<$type>((axis, keeps_axes), |a, b| a <= b),
            }
        };
    }
    match node.one_of(&[Type::F32, Type::F64, Type::I64, Type::I32])? {
        Type::F32 => with_better!(f32),
        Type::F64 => with_better!(f64),
        Type::I64 => with_better!(i64),
        _ => with_better!(i32),
    }
}

/// Which of two comes first, the largest ahead; NaN is ahead of all.
fn descending<T: PartialOrd>(a: &T, b: &T) -> std::cmp::Ordering {
    use std::cmp::Ordering::{Equal, Greater, Less};
    let is_nan = |x: &T| x.partial_cmp(x).is_none();
    b.partial_cmp(a).unwrap_or_else(|| match (is_nan(a), is_nan(b)) {
        (true, false) => Less,
        (false, true) => Greater,
        _ => Equal,
    })
}

/// `TopK`: the largest or smallest along an axis, in order, and where they are.
pub(super) fn top_k(node: &Node<'_>) -> Result<Built, EngineError> {
    let kind = node.one_of(&[Type::F32, Type::F64, Type::I64, Type::I32])?;
    let (axis, largest) = (node.int("axis", -1), node.int("largest", 1) != 0);
    let attribute = node.has_attribute("k").then(|| node.int("k", 0));
    if attribute.is_none() && node.kind(1)? != Type::I64 {
        return Err(node.bad("k is not an INT64"));
    }
    fn run<T: Item + PartialOrd>(
        view: &View<'_>,
        (axis, k, largest): (usize, usize, bool),
        outputs: &mut [Value],
    ) -> Result<(), EngineError> {
        let dims = view.dims;
        let inner: usize = dims[axis + 1..].iter().product();
        let outer: usize = dims[..axis].iter().product();
        let mut shape = dims.to_vec();
        shape[axis] = k;
        let shape = Shape::from(&shape[..]);
        let elements = view.get::<T>()?;
        let (values, places) = outputs.split_at_mut(1);
        let values = values[0].fill::<T>(shape.clone())?;
        let places = places[0].fill::<i64>(shape)?;
        let mut order: Vec<usize> = Vec::with_capacity(dims[axis]);
        for (block, at) in (0..outer).flat_map(|block| (0..inner).map(move |at| (block, at))) {
            let element = |place: usize| &elements[(block * dims[axis] + place) * inner + at];
            order.clear();
            order.extend(0..dims[axis]);
            // Stable: of equal ones, the first comes first.
            order.sort_by(|&a, &b| {
                let order = descending(element(a), element(b));
                if largest { order } else { order.reverse() }
            });
            for (rank, &place) in order.iter().take(k).enumerate() {
                let to = (block * k + rank) * inner + at;
                values[to] = element(place).clone();
                places[to] = place as i64;
            }
        }
        Ok(())
    }
    Built::new(&[kind, Type::I64], move |inputs, outputs| {
        let dims = inputs[0].dims;
        let axis = axis_of(axis, dims.len()).ok_or_else(|| bad_shape(format_args!("there is no axis {axis}")))?;
        let k = match attribute {
            Some(k) => k,
            None => inputs[1].get::<i64>()?.first().copied().unwrap_or(-1),
        };
        let k = usize::try_from(k).ok().filter(|&k| k <= dims[axis]);
        let k = k.ok_or_else(|| bad_shape(format_args!("there are {} elements to choose from", dims[axis])))?;
        let how = (axis, k, largest);
        match kind {
            Type::F32 => run::<f32>(&inputs[0], how, outputs),
            Type::F64 => run::<f64>(&inputs[0], how, outputs),
            Type::I64 => run::<i64>(&inputs[0], how, outputs),
            _ => run::<i32>(&inputs[0], how, outputs),
        }
    })
}

/// `CumSum`.
pub(super) fn cumulative_sum(node: &Node<'_>) -> Result<Built, EngineError> {
    let axis = node.constant_ints(1)?.and_then(|axes| axes.first().copied());
    let axis = axis.ok_or_else(|| node.bad("it names no axis"))?;
    if node.int("exclusive", 0) != 0 || node.int("reverse", 0) != 0 {
        return Err(node.unsupported("exclusive or reverse"));
    }
    fn of<T: Item + Copy>(axis: i64, add: fn(T, T) -> T) -> Result<Built, EngineError> {
        Built::new(&[T::TYPE], move |inputs, outputs| {
            let dims = inputs[0].dims;
            let axis = axis_of(axis, dims.len()).ok_or_else(|| bad_shape(format_args!("there is no axis {axis}")))?;
            let inner: usize = dims[axis + 1..].iter().product();
            let out = outputs[0].start::<T>(inputs[0].shape())?;
            out.extend_from_slice(inputs[0].get::<T>()?);
            for index in 0..out.len() {
                if !(index / inner).is_multiple_of(dims[axis]) {
                    out[index] = add(out[index - inner], out[index]);
                }
            }
            Ok(())
        })
    }
    match node.one_of(&[Type::F32, Type::F64, Type::I64, Type::I32])? {
        Type::F32 => of::<f32>(axis, |a, b| a + b),
        Type::F64 => of::<f64>(axis, |a, b| a + b),
        Type::I64 => of::<i64>(axis, i64::wrapping_add),
        _ => of::<i32>(axis, i32::wrapping_add),
    }
}
