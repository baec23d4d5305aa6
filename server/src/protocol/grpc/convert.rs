//! How does an inference message become one of our requests, and an outcome a message?
//!
//! Raw tensors stay slices of the received buffer in both directions.

use std::collections::BTreeMap;

use bytes::Bytes;
use tiltyard_proto::inference as pb;
use tiltyard_types::json::AXES_MAX;
use tiltyard_types::{
    Buffer, DataType, Element, Error, InferRequest, NamedTensor, Parameter, Parameters, RequestedOutput, Result, Shape,
    Tensor, TensorError,
};

use crate::infer::Outcome;
use crate::manage::no_shared_memory;
use crate::protocol::strings;

/// Decodes a request. Fails on unknown data types, negative axes, and contents that are not what the shape says.
pub(super) fn request(message: pb::ModelInferRequest, version: Option<u64>) -> Result<InferRequest> {
    let raw = &message.raw_input_contents;
    if !raw.is_empty() {
        if let Some(input) = message.inputs.iter().find(|input| input.contents.is_some()) {
            return Err(Error::invalid(format!(
                "input {:?} has typed contents while the message has raw_input_contents: one form for the whole message",
                input.name
            )));
        }
        if raw.len() != message.inputs.len() {
            return Err(Error::invalid(format!(
                "raw_input_contents has {} buffers for {} inputs: expected one for each",
                raw.len(),
                message.inputs.len()
            )));
        }
    }
    let mut raw = message.raw_input_contents.into_iter();
    let inputs = message.inputs.into_iter().map(|input| self::input(input, raw.next())).collect::<Result<_>>()?;
    let outputs = message
        .outputs
        .into_iter()
        .map(|output| {
            let parameters = self::parameters(output.parameters)?;
            match parameters.contains_key("shared_memory_region") {
                true => Err(no_shared_memory(&format!("output {:?}", output.name))),
                false => Ok(RequestedOutput { name: output.name, parameters }),
            }
        })
        .collect::<Result<_>>()?;
    Ok(InferRequest {
        model: message.model_name,
        version,
        id: message.id,
        parameters: parameters(message.parameters)?,
        inputs,
        outputs,
    })
}

fn input(input: pb::model_infer_request::InferInputTensor, raw: Option<Bytes>) -> Result<NamedTensor> {
    let pb::model_infer_request::InferInputTensor { name, datatype, shape, parameters, contents } = input;
    if parameters.contains_key("shared_memory_region") {
        return Err(no_shared_memory(&format!("input {name:?}")));
    }
    let told = |error: String| Error::invalid(format!("input {name:?}: {error}"));
    let dtype: DataType = datatype.parse().map_err(|error| told(format!("{error}")))?;
    if shape.len() > AXES_MAX {
        return Err(told(format!("shape: expected at most {AXES_MAX} axes, got {}", shape.len())));
    }
    let length = |(axis, &length): (usize, &i64)| {
        usize::try_from(length).map_err(|_| told(format!("shape: axis {axis}: expected a length, got \"{length}\"")))
    };
    let shape = shape.iter().enumerate().map(length).collect::<Result<Shape>>()?;
    let tensor = match (raw, contents) {
        (Some(raw), _) if dtype == DataType::Bytes => strings::decode(&name, shape, &raw)?,
        (Some(raw), _) => Tensor::fixed(dtype, shape, raw).map_err(|error| told(error.to_string()))?,
        (None, Some(contents)) => typed(dtype, shape, contents).map_err(told)?,
        (None, None) if shape.elements() == Some(0) => {
            typed(dtype, shape, pb::InferTensorContents::default()).map_err(told)?
        }
        (None, None) => return Err(told("it has neither contents nor a buffer in raw_input_contents".to_owned())),
    };
    Ok(NamedTensor { name, tensor })
}

/// A tensor from the one typed field that suits its data type; the others must be empty.
fn typed(dtype: DataType, shape: Shape, contents: pb::InferTensorContents) -> Result<Tensor, String> {
    let pb::InferTensorContents {
        bool_contents: bools,
        int_contents: ints,
        int64_contents: int64s,
        uint_contents: uints,
        uint64_contents: uint64s,
        fp32_contents: fp32s,
        fp64_contents: fp64s,
        bytes_contents: strings,
    } = contents;
    let right = match dtype {
        DataType::Bool => "bool_contents",
        DataType::Int8 | DataType::Int16 | DataType::Int32 => "int_contents",
        DataType::Int64 => "int64_contents",
        DataType::Uint8 | DataType::Uint16 | DataType::Uint32 => "uint_contents",
        DataType::Uint64 => "uint64_contents",
        DataType::Fp32 => "fp32_contents",
        DataType::Fp64 => "fp64_contents",
        DataType::Bytes => "bytes_contents",
        DataType::Fp16 | DataType::Bf16 => return Err(format!("{dtype} travels in raw_input_contents only")),
    };
    let filled = [
        ("bool_contents", bools.len()),
        ("int_contents", ints.len()),
        ("int64_contents", int64s.len()),
        ("uint_contents", uints.len()),
        ("uint64_contents", uint64s.len()),
        ("fp32_contents", fp32s.len()),
        ("fp64_contents", fp64s.len()),
        ("bytes_contents", strings.len()),
    ];
    if let Some((wrong, _)) = filled.iter().find(|(name, length)| *length > 0 && *name != right) {
        return Err(format!("{dtype} is expected in {right}, got {wrong}"));
    }
    let tensor = match dtype {
        DataType::Bool => {
            let bytes: Vec<u8> = bools.into_iter().map(u8::from).collect();
            counted(dtype, shape, &bytes)
        }
        DataType::Int8 => counted(dtype, shape, &narrow::<i32, i8>(&ints, dtype)?),
        DataType::Int16 => counted(dtype, shape, &narrow::<i32, i16>(&ints, dtype)?),
        DataType::Int32 => counted(dtype, shape, &ints),
        DataType::Int64 => counted(dtype, shape, &int64s),
        DataType::Uint8 => counted(dtype, shape, &narrow::<u32, u8>(&uints, dtype)?),
        DataType::Uint16 => counted(dtype, shape, &narrow::<u32, u16>(&uints, dtype)?),
        DataType::Uint32 => counted(dtype, shape, &uints),
        DataType::Uint64 => counted(dtype, shape, &uint64s),
        DataType::Fp32 => counted(dtype, shape, &fp32s),
        DataType::Fp64 => counted(dtype, shape, &fp64s),
        DataType::Bytes => Tensor::strings(shape, strings),
        DataType::Fp16 | DataType::Bf16 => Err(TensorError::Kind(dtype)),
    };
    tensor.map_err(|error| error.to_string())
}

/// Counts elements before bytes, so that the message speaks of what the client sent.
fn counted<T: Element>(dtype: DataType, shape: Shape, elements: &[T]) -> Result<Tensor, TensorError> {
    match shape.elements() {
        Some(expected) if expected != elements.len() => {
            Err(TensorError::Count { shape, expected, actual: elements.len() })
        }
        _ => Tensor::fixed(dtype, shape, Buffer::copy_of(bytemuck::cast_slice(elements))),
    }
}

fn narrow<W: Copy + std::fmt::Display, N: TryFrom<W>>(wide: &[W], dtype: DataType) -> Result<Vec<N>, String> {
    wide.iter()
        .enumerate()
        .map(|(at, &value)| {
            N::try_from(value).map_err(|_| format!("element {at}: {value} is out of range for {dtype}"))
        })
        .collect()
}

fn parameters(message: BTreeMap<String, pb::InferParameter>) -> Result<Parameters> {
    use pb::infer_parameter::ParameterChoice;
    message
        .into_iter()
        .map(|(key, parameter)| {
            let value = match parameter.parameter_choice {
                Some(ParameterChoice::BoolParam(value)) => Parameter::Bool(value),
                Some(ParameterChoice::Int64Param(value)) => Parameter::Int(value),
                Some(ParameterChoice::StringParam(value)) => Parameter::Text(value),
                Some(ParameterChoice::DoubleParam(value)) => Parameter::Double(value),
                Some(ParameterChoice::Uint64Param(value)) => Parameter::Uint(value),
                None => return Err(Error::invalid(format!("parameter {key:?} has no value"))),
            };
            Ok((key, value))
        })
        .collect()
}

/// Encodes an outcome: tensors always as raw contents.
pub(super) fn response(request: &InferRequest, outcome: &Outcome) -> pb::ModelInferResponse {
    let mut response = pb::ModelInferResponse {
        model_name: request.model.clone(),
        model_version: outcome.arm.version.clone(),
        id: request.id.clone(),
        ..Default::default()
    };
    for (name, tensor) in outcome.named() {
        response.outputs.push(pb::model_infer_response::InferOutputTensor {
            name: name.to_owned(),
            datatype: tensor.dtype().name().to_owned(),
            shape: tensor.shape().iter().map(|&axis| i64::try_from(axis).unwrap_or(i64::MAX)).collect(),
            ..Default::default()
        });
        response.raw_output_contents.push(raw(tensor));
    }
    response
}

/// A tensor as raw contents: its own bytes, or its strings each behind its length.
pub(super) fn raw(tensor: &Tensor) -> Bytes {
    match tensor.as_strings() {
        Some(elements) => strings::encode(elements),
        None => tensor.bytes().cloned().unwrap_or_default(),
    }
}
