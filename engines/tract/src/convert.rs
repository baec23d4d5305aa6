//! How do tensors cross between this house and tract?
//!
//! One copy in, since tract owns what it computes on; none out, since what it computed is handed on as it lies.

use std::sync::Arc;

use bytes::Bytes;
use half::f16;
use tiltyard_runtime::engine::EngineError;
use tiltyard_types::{DataType, Element, Shape, Tensor, TensorData};
use tract_onnx::prelude::{Datum, DatumType, IntoArcTensor, TValue, Tensor as TractTensor, TractResult, tract_ndarray};

/// tract's name for a data type; `None` for those it lacks.
pub(crate) fn datum_type(dtype: DataType) -> Option<DatumType> {
    Some(match dtype {
        DataType::Bool => DatumType::Bool,
        DataType::Uint8 => DatumType::U8,
        DataType::Uint16 => DatumType::U16,
        DataType::Uint32 => DatumType::U32,
        DataType::Uint64 => DatumType::U64,
        DataType::Int8 => DatumType::I8,
        DataType::Int16 => DatumType::I16,
        DataType::Int32 => DatumType::I32,
        DataType::Int64 => DatumType::I64,
        DataType::Fp16 => DatumType::F16,
        DataType::Fp32 => DatumType::F32,
        DataType::Fp64 => DatumType::F64,
        DataType::Bytes => DatumType::String,
        DataType::Bf16 => return None,
    })
}

/// A copy of `tensor` for tract. Fails on strings that are not UTF-8, which tract's are.
pub(crate) fn to_tract(name: &str, tensor: &Tensor) -> Result<TractTensor, EngineError> {
    let copied = match (tensor.dtype(), tensor.data()) {
        (_, TensorData::Strings(elements)) => return strings_to_tract(name, tensor.shape(), elements),
        (DataType::Bool, TensorData::Fixed(bytes)) => bools(tensor.shape(), bytes),
        (DataType::Uint8, _) => numbers::<u8>(tensor),
        (DataType::Uint16, _) => numbers::<u16>(tensor),
        (DataType::Uint32, _) => numbers::<u32>(tensor),
        (DataType::Uint64, _) => numbers::<u64>(tensor),
        (DataType::Int8, _) => numbers::<i8>(tensor),
        (DataType::Int16, _) => numbers::<i16>(tensor),
        (DataType::Int32, _) => numbers::<i32>(tensor),
        (DataType::Int64, _) => numbers::<i64>(tensor),
        (DataType::Fp16, _) => numbers::<f16>(tensor),
        (DataType::Fp32, _) => numbers::<f32>(tensor),
        (DataType::Fp64, _) => numbers::<f64>(tensor),
        (DataType::Bf16 | DataType::Bytes, _) => {
            return Err(EngineError::Unsupported(format!("tract has no datatype {}", tensor.dtype())));
        }
    };
    copied.map_err(|error| EngineError::BadInput(format!("input {name:?}: {error}")))
}

fn numbers<T: Element + Datum>(tensor: &Tensor) -> TractResult<TractTensor> {
    let aligned = tensor.aligned();
    TractTensor::from_shape(tensor.shape(), aligned.as_slice::<T>().unwrap_or_default())
}

/// Bytes are known to be 0 or 1 ([`Tensor::fixed`] checks), which is what a `bool` is.
fn bools(shape: &Shape, bytes: &[u8]) -> TractResult<TractTensor> {
    let mut tensor = TractTensor::zero_dt(DatumType::Bool, shape)?;
    tensor.as_bytes_mut().copy_from_slice(bytes);
    Ok(tensor)
}

fn strings_to_tract(name: &str, shape: &Shape, elements: &[Bytes]) -> Result<TractTensor, EngineError> {
    let texts = elements.iter().enumerate().map(|(index, element)| match str::from_utf8(element) {
        Ok(text) => Ok(text.to_owned()),
        Err(error) => Err(EngineError::BadInput(format!(
            "input {name:?}: element {index} is not UTF-8 ({error}), which tract asks of strings"
        ))),
    });
    let texts: Vec<String> = texts.collect::<Result<_, _>>()?;
    let array = tract_ndarray::ArrayD::from_shape_vec(shape.to_vec(), texts)
        .map_err(|error| EngineError::BadInput(format!("input {name:?}: {error}")))?;
    Ok(array.into())
}

/// An output of tract as a tensor of the declared `dtype`, sharing its memory. Fails when it is of another type.
pub(crate) fn from_tract(name: &str, value: TValue, dtype: DataType) -> Result<Tensor, EngineError> {
    let failed = |error: &dyn std::fmt::Display| EngineError::Failed(format!("output {name:?}: {error}"));
    let mut tensor = value.into_arc_tensor();
    if tensor.datum_type() == DatumType::TDim {
        // Lengths of axes, which tract may keep as expressions.
        tensor = Arc::new(tensor.cast_to::<i64>().map_err(|error| failed(&error))?.into_owned());
    }
    if Some(tensor.datum_type().unquantized()) != datum_type(dtype) {
        return Err(failed(&format!("tract gave {:?} where {dtype} is declared", tensor.datum_type())));
    }
    let shape = Shape::from(tensor.shape());
    let plain = tensor.try_as_plain_ram().map_err(|error| failed(&error))?;
    let converted = if dtype == DataType::Bytes {
        let texts = plain.as_slice::<String>().map_err(|error| failed(&error))?;
        Tensor::strings(shape, texts.iter().map(|text| Bytes::copy_from_slice(text.as_bytes())).collect())
    } else {
        Tensor::fixed(dtype, shape, Bytes::from_owner(Elements(tensor)))
    };
    converted.map_err(|error| failed(&error))
}

/// Keeps a tensor of tract alive for as long as somebody reads its bytes.
struct Elements(Arc<TractTensor>);

impl AsRef<[u8]> for Elements {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}
