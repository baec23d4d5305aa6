//! How are columns scaled, filled in and put side by side?

use tiltyard_runtime::engine::EngineError;
use tiltyard_types::Shape;

use super::linear::NUMBERS;
use crate::node::{Built, Node, bad_shape};
use crate::value::{Item, Slice, Type, View};

/// Length of a row as `Scaler` and `Imputer` count columns: the second axis, or the only one.
fn columns(view: &View<'_>) -> Result<usize, EngineError> {
    match *view.dims {
        [] => Err(bad_shape("a scalar was given where columns are expected")),
        [only] => Ok(only),
        [_, columns, ..] => Ok(columns),
    }
}

/// `Scaler`: (x − offset) · scale.
pub(super) fn scaler(node: &Node<'_>) -> Result<Built, EngineError> {
    node.one_of(&NUMBERS)?;
    let (scale, offset) = (node.floats("scale").to_vec(), node.floats("offset").to_vec());
    if scale.is_empty() || scale.len() != offset.len() {
        return Err(node.bad(format_args!("{} scales and {} offsets", scale.len(), offset.len())));
    }
    Built::new(&[Type::F32], move |inputs, outputs| {
        let columns = columns(&inputs[0])?;
        if scale.len() != columns && scale.len() != 1 {
            return Err(bad_shape(format_args!(
                "{columns} columns were given, and there are scales for {}",
                scale.len()
            )));
        }
        let out = outputs[0].fill::<f32>(inputs[0].shape())?;
        // In the type of the input where that is floating, and in single precision where it is not.
        macro_rules! scaled {
            ($values:expr, $convert:expr) => {{
                if let ([offset], [scale]) = (&offset[..], &scale[..]) {
                    out.iter_mut().zip($values).for_each(|(out, value)| *out = $convert(*value, *offset, *scale));
                } else {
                    // Two lists, not one of pairs: so many columns are scaled by one instruction.
                    let count = scale.len();
                    for (out, values) in out.chunks_exact_mut(count).zip($values.chunks_exact(count)) {
                        for (((out, value), offset), scale) in out.iter_mut().zip(values).zip(&offset).zip(&scale) {
                            *out = $convert(*value, *offset, *scale);
                        }
                    }
                }
            }};
        }
        match inputs[0].data {
            Slice::F32(values) => scaled!(values, |x: f32, offset: f32, scale: f32| (x - offset) * scale),
            Slice::F64(values) => {
                scaled!(values, |x: f64, offset: f32, scale: f32| ((x - f64::from(offset)) * f64::from(scale)) as f32)
            }
            Slice::I64(values) => scaled!(values, |x: i64, offset: f32, scale: f32| (x as f32 - offset) * scale),
            Slice::I32(values) => scaled!(values, |x: i32, offset: f32, scale: f32| (x as f32 - offset) * scale),
            _ => {}
        }
        Ok(())
    })
}

/// A number that `Normalizer` takes.
trait Number: Item + Copy {
    fn single(self) -> f32;
    /// The square, in the type's own arithmetic.
    fn squared(self) -> f32;
    fn size(self) -> f32;
    fn is_negative(self) -> bool;
}

macro_rules! number {
    ($type:ty, $multiply:expr, $size:expr) => {
        impl Number for $type {
            fn single(self) -> f32 {
                self as f32
            }
            fn squared(self) -> f32 {
                $multiply(self) as f32
            }
            fn size(self) -> f32 {
                $size(self) as f32
            }
            fn is_negative(self) -> bool {
                self < (0 as $type)
            }
        }
    };
}

number!(f32, |x: f32| x * x, f32::abs);
number!(f64, |x: f64| x * x, f64::abs);
number!(i64, |x: i64| x.wrapping_mul(x), i64::wrapping_abs);
number!(i32, |x: i32| x.wrapping_mul(x), i32::wrapping_abs);

#[derive(Clone, Copy)]
enum Norm {
    Max,
    L1,
    L2,
}

fn normalize<T: Number>(norm: Norm, row: &[T], out: &mut [f32]) {
    let size = match norm {
        Norm::Max => row.iter().map(|x| x.single()).fold(-f32::MAX, |most, x| if most < x { x } else { most }),
        Norm::L1 => row.iter().fold(0.0, |sum, x| sum + x.size()),
        Norm::L2 => row.iter().fold(0.0, |sum, x| sum + x.squared()),
    };
    for (out, &x) in out.iter_mut().zip(row) {
        *out = match norm {
            // Not equal to zero, that is: NaN divides too.
            _ if size == 0.0 => x.single(),
            Norm::L2 if x.is_negative() => -(x.squared() / size).sqrt(),
            Norm::L2 => (x.squared() / size).sqrt(),
            _ => x.single() / size,
        };
    }
}

/// `Normalizer`: each row divided by its largest element, by the sum of sizes, or by its length.
pub(super) fn normalizer(node: &Node<'_>) -> Result<Built, EngineError> {
    node.one_of(&NUMBERS)?;
    let norm = match &node.text("norm", "MAX")[..] {
        b"MAX" => Norm::Max,
        b"L1" => Norm::L1,
        b"L2" => Norm::L2,
        other => return Err(node.bad(format_args!("norm {:?} does not exist", String::from_utf8_lossy(other)))),
    };
    fn all<T: Number>(norm: Norm, values: &[T], columns: usize, out: &mut [f32]) {
        for (row, out) in values.chunks_exact(columns.max(1)).zip(out.chunks_exact_mut(columns.max(1))) {
            normalize(norm, row, out);
        }
    }
    Built::new(&[Type::F32], move |inputs, outputs| {
        if inputs[0].dims.len() > 2 {
            return Err(bad_shape(format_args!("{} axes were given, at most 2 are expected", inputs[0].dims.len())));
        }
        let columns = columns(&inputs[0])?;
        let out = outputs[0].fill::<f32>(inputs[0].shape())?;
        match inputs[0].data {
            Slice::F32(values) => all(norm, values, columns, out),
            Slice::F64(values) => all(norm, values, columns, out),
            Slice::I64(values) => all(norm, values, columns, out),
            Slice::I32(values) => all(norm, values, columns, out),
            _ => {}
        }
        Ok(())
    })
}

/// `Imputer`: what stands for a missing value gives way to another.
pub(super) fn imputer(node: &Node<'_>) -> Result<Built, EngineError> {
    fn filled<T: Item + Copy>(
        node: &Node<'_>,
        values: Vec<T>,
        is_missing: impl Fn(T) -> bool + Send + Sync + 'static,
    ) -> Result<Built, EngineError> {
        if values.is_empty() {
            return Err(node.bad("there is nothing of its type to fill in"));
        }
        Built::new(&[T::TYPE], move |inputs, outputs| {
            let columns = columns(&inputs[0])?;
            let read = inputs[0].get::<T>()?;
            let out = outputs[0].fill::<T>(inputs[0].shape())?;
            out.copy_from_slice(read);
            if values.len() == columns {
                for row in out.chunks_exact_mut(columns) {
                    for (out, value) in row.iter_mut().zip(&values).filter(|(out, _)| is_missing(**out)) {
                        *out = *value;
                    }
                }
            } else {
                out.iter_mut().filter(|out| is_missing(**out)).for_each(|out| *out = values[0]);
            }
            Ok(())
        })
    }
    match node.one_of(&[Type::F32, Type::I64])? {
        Type::F32 => {
            let missing = node.float("replaced_value_float", 0.0);
            let values = node.floats("imputed_value_floats").to_vec();
            filled(node, values, move |x: f32| x == missing || (x.is_nan() && missing.is_nan()))
        }
        _ => {
            let missing = node.int("replaced_value_int64", 0);
            filled(node, node.ints("imputed_value_int64s").to_vec(), move |x: i64| x == missing)
        }
    }
}

/// `Binarizer`: 1 above the threshold, 0 up to it.
pub(super) fn binarizer(node: &Node<'_>) -> Result<Built, EngineError> {
    node.one_of(&[Type::F32])?;
    let threshold = node.float("threshold", 0.0);
    Built::new(&[Type::F32], move |inputs, outputs| {
        let out = outputs[0].fill::<f32>(inputs[0].shape())?;
        for (index, (out, &x)) in out.iter_mut().zip(inputs[0].get::<f32>()?).enumerate() {
            if x.is_nan() {
                return Err(EngineError::BadInput(format!(
                    "element {index} is NaN, which is on no side of a threshold"
                )));
            }
            *out = if x > threshold { 1.0 } else { 0.0 };
        }
        Ok(())
    })
}

/// `FeatureVectorizer`: columns of several inputs side by side, cut or filled up with zeros to the length said for each.
pub(super) fn feature_vectorizer(node: &Node<'_>) -> Result<Built, EngineError> {
    let lengths: Option<Vec<usize>> =
        node.ints("inputdimensions").iter().map(|&length| usize::try_from(length).ok()).collect();
    let lengths = lengths.ok_or_else(|| node.bad("a length among inputdimensions is negative"))?;
    let inputs = node.types.len();
    if lengths.len() != inputs || inputs == 0 {
        return Err(node.bad(format_args!("{} lengths for {inputs} inputs", lengths.len())));
    }
    for input in 0..inputs {
        let kind = node.kind(input)?;
        if !NUMBERS.contains(&kind) {
            return Err(node.unsupported(kind.dtype()));
        }
    }
    let total = lengths.iter().try_fold(0usize, |sum, &length| sum.checked_add(length));
    let total = total.ok_or_else(|| node.bad("inputdimensions are too large"))?;
    fn copy<T: Number>(read: &[T], columns: usize, out: &mut [f32], total: usize, length: usize, start: usize) {
        let kept = columns.min(length);
        if kept == 0 {
            return;
        }
        for (row, out) in read.chunks_exact(columns).zip(out.chunks_exact_mut(total)) {
            out[start..start + kept].iter_mut().zip(row).for_each(|(out, x)| *out = x.single());
        }
    }
    Built::new(&[Type::F32], move |inputs, outputs| {
        let (rows, _) = inputs[0].matrix()?;
        let out = outputs[0].fill::<f32>(Shape::from([rows, total]))?;
        out.fill(0.0);
        let mut start = 0;
        for (input, &length) in inputs.iter().zip(&lengths) {
            let (own_rows, columns) = input.matrix()?;
            if own_rows != rows {
                return Err(bad_shape(format_args!("an input has {own_rows} rows, and the first has {rows}")));
            }
            match input.data {
                Slice::F32(values) => copy(values, columns, out, total, length, start),
                Slice::F64(values) => copy(values, columns, out, total, length, start),
                Slice::I64(values) => copy(values, columns, out, total, length, start),
                Slice::I32(values) => copy(values, columns, out, total, length, start),
                _ => {}
            }
            start += length;
        }
        Ok(())
    })
}
