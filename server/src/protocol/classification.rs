//! How does an output become its best classes? Triton's classification extension, for all protocols.

use bytes::Bytes;
use half::{bf16, f16};
use tiltyard_runtime::deployment::{BatchAxis, Deployment};
use tiltyard_types::{DataType, Element, Error, Parameter, Parameters, Result, Shape, Tensor};

/// The number of classes that an output's parameters ask for; `None` for none.
pub(crate) fn requested(parameters: &Parameters) -> Result<Option<usize>> {
    let count = match parameters.get("classification") {
        None => return Ok(None),
        Some(Parameter::Int(count)) => usize::try_from(*count).ok(),
        Some(Parameter::Uint(count)) => usize::try_from(*count).ok(),
        Some(_) => None,
    };
    match count {
        Some(0) => Ok(None),
        Some(count) => Ok(Some(count)),
        None => Err(Error::invalid("parameter \"classification\": expected the number of classes, an integer above 0")),
    }
}

/// The `count` largest values of each row as strings `value:index`, with `:label` where the model has labels. With a
/// batch axis the shape is `[rows, count]`, else `[count]`.
pub(crate) fn classify(deployment: &Deployment, name: &str, output: &Tensor, count: usize) -> Result<Tensor> {
    let labels = deployment.settings.labels.get(name).map_or(&[][..], Vec::as_slice);
    let batched = deployment.batch_axis != BatchAxis::None;
    let rows = if batched { output.shape().rows().unwrap_or(1) } else { 1 };
    let values = as_f64(output).ok_or_else(|| {
        Error::invalid(format!("output {name:?} is {}, which has no order to classify by", output.dtype()))
    })?;
    let per_row = values.len().checked_div(rows).unwrap_or(0);
    let count = count.min(per_row);
    let mut classes = Vec::with_capacity(rows * count);
    for row in values.chunks(per_row.max(1)) {
        let mut order: Vec<usize> = (0..row.len()).collect();
        order.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
        for &index in &order[..count] {
            let label = labels.get(index).map_or(String::new(), |label| format!(":{label}"));
            let decimals = if output.dtype().is_float() { 6 } else { 0 };
            classes.push(Bytes::from(format!("{:.decimals$}:{index}{label}", row[index])));
        }
    }
    let shape = if batched { Shape::from([rows, count]) } else { Shape::from([count]) };
    Tensor::strings(shape, classes).map_err(|error| Error::invalid(format!("output {name:?}: {error}")))
}

fn as_f64(tensor: &Tensor) -> Option<Vec<f64>> {
    fn wide<T: Element>(tensor: &Tensor, widen: fn(T) -> f64) -> Option<Vec<f64>> {
        Some(tensor.to_vec::<T>()?.into_iter().map(widen).collect())
    }
    match tensor.dtype() {
        DataType::Bool | DataType::Bytes => None,
        DataType::Uint8 => wide::<u8>(tensor, f64::from),
        DataType::Uint16 => wide::<u16>(tensor, f64::from),
        DataType::Uint32 => wide::<u32>(tensor, f64::from),
        DataType::Uint64 => wide::<u64>(tensor, |value| value as f64),
        DataType::Int8 => wide::<i8>(tensor, f64::from),
        DataType::Int16 => wide::<i16>(tensor, f64::from),
        DataType::Int32 => wide::<i32>(tensor, f64::from),
        DataType::Int64 => wide::<i64>(tensor, |value| value as f64),
        DataType::Fp16 => wide::<f16>(tensor, f16::to_f64),
        DataType::Bf16 => wide::<bf16>(tensor, bf16::to_f64),
        DataType::Fp32 => wide::<f32>(tensor, f64::from),
        DataType::Fp64 => wide::<f64>(tensor, |value| value),
    }
}
