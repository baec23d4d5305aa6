//! How do rows of different lengths share a run? The shorter ones are filled up along one axis, and their answers cut
//! back.

use std::collections::BTreeMap;

use bytes::Bytes;
use half::{bf16, f16};
use serde::Deserialize;
use tiltyard_types::{Buffer, DataType, Dim, Shape, Signature, Tensor, TensorData, TensorSpec};

/// What a model's owner says about padding, before it is proved.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PadDeclaration {
    /// The name of a dynamic axis of the inputs.
    pub axis: String,
    /// What the inputs are filled with, by name; those that have the axis and are not named take zero.
    #[serde(default)]
    pub values: BTreeMap<String, PadValue>,
    /// The lengths that a batch may have; empty allows all.
    #[serde(default)]
    pub lengths: Vec<usize>,
    /// Padding that company may cost at most, as a fraction of what the requests would take alone.
    pub waste_max: Option<f64>,
}

/// One element, as it is written in a configuration.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum PadValue {
    /// `true` or `false`.
    Boolean(bool),
    /// A whole number.
    Integer(i64),
    /// Any number.
    Float(f64),
    /// Text, for BYTES.
    Text(String),
}

/// The padded axis of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Pad {
    inputs: Vec<Option<PadInput>>,
    outputs: Vec<Option<usize>>,
}

/// The padded axis of an input.
#[derive(Clone, Debug, PartialEq)]
pub struct PadInput {
    axis: usize,
    /// The bytes of one element.
    value: Bytes,
}

impl Pad {
    /// Finds the axis in the signature. Fails where it is not there, or a value does not suit its input; the error says
    /// what would.
    pub fn new(signature: &Signature, declared: &PadDeclaration) -> Result<Pad, String> {
        let name = &declared.axis;
        let axes = |specs: &[TensorSpec]| -> Result<Vec<Option<usize>>, String> {
            specs.iter().map(|spec| axis_of(spec, name)).collect()
        };
        let (on_inputs, outputs) = (axes(&signature.inputs)?, axes(&signature.outputs)?);
        if on_inputs.iter().all(Option::is_none) {
            let known: Vec<String> = axis_names(signature).into_iter().map(|known| format!("{known:?}")).collect();
            let known = if known.is_empty() { "none that has a name".to_owned() } else { known.join(", ") };
            return Err(format!("no input has an axis {name:?} after its first; expected one of: {known}"));
        }
        let mut inputs = Vec::with_capacity(on_inputs.len());
        for (spec, axis) in signature.inputs.iter().zip(on_inputs) {
            let value = declared.values.get(&spec.name);
            inputs.push(match (axis, value) {
                (Some(axis), _) => Some(PadInput { axis, value: element(spec, value)? }),
                (None, Some(_)) => return Err(format!("input {:?} has no axis {name:?} to fill", spec.name)),
                (None, None) => None,
            });
        }
        match declared.values.keys().find(|key| signature.inputs.iter().all(|spec| spec.name != **key)) {
            Some(unknown) => Err(format!("there is no input {unknown:?}")),
            None => Ok(Pad { inputs, outputs }),
        }
    }

    /// The padded axis of the input at this position.
    pub fn input(&self, position: usize) -> Option<&PadInput> {
        self.inputs.get(position)?.as_ref()
    }

    /// The padded axis of the output at this position.
    pub fn output(&self, position: usize) -> Option<usize> {
        self.outputs.get(position).copied().flatten()
    }

    /// How long these inputs are on the padded axis; `None` where they disagree. What is empty is not padded: a sum of
    /// nothing need not be one of zeros.
    pub fn length(&self, inputs: &[Option<Tensor>]) -> Option<usize> {
        let padded = self.inputs.iter().zip(inputs);
        let mut lengths =
            padded.filter_map(|(input, tensor)| tensor.as_ref()?.shape().get(input.as_ref()?.axis).copied());
        let first = lengths.next()?;
        (first > 0 && lengths.all(|length| length == first)).then_some(first)
    }
}

impl PadInput {
    /// Where the axis is.
    pub fn axis(&self) -> usize {
        self.axis
    }

    /// The same tensor without elements that are padding: those are ones instead, or zeros where ones pad. Strings stay.
    pub(crate) fn without_padding(&self, tensor: &Tensor) -> Tensor {
        let dtype = tensor.dtype();
        let one = encode(dtype, &PadValue::Integer(1)).or_else(|| encode(dtype, &PadValue::Boolean(true)));
        let (Some(bytes), Some(one)) = (tensor.bytes(), one) else { return tensor.clone() };
        let other = if one == self.value { Bytes::from(vec![0; one.len()]) } else { one };
        let mut buffer = Buffer::copy_of(bytes);
        buffer
            .as_bytes_mut()
            .chunks_mut(self.value.len())
            .filter(|element| **element == self.value)
            .for_each(|element| element.copy_from_slice(&other));
        Tensor::fixed(dtype, tensor.shape().clone(), buffer).unwrap_or_else(|_| tensor.clone())
    }

    /// Whether rows of both tensors fit under one another once they are filled up.
    pub(super) fn fits(&self, one: &Tensor, other: &Tensor) -> bool {
        let (a, b) = (one.shape(), other.shape());
        let alike = |axis: usize| axis == 0 || axis == self.axis || a[axis] == b[axis];
        one.dtype() == other.dtype() && a.len() == b.len() && a.len() > self.axis && (0..a.len()).all(alike)
    }

    /// Puts tensors under one another, each filled up to `length`. `None` where they do not fit, or one is longer.
    pub(super) fn stack(&self, parts: &[&Tensor], length: usize) -> Option<Tensor> {
        let first = *parts.first()?;
        let whole = |part: &&Tensor| self.fits(first, part) && part.shape()[self.axis] <= length;
        if !parts.iter().all(whole) {
            return None;
        }
        if parts.iter().all(|part| part.shape()[self.axis] == length) {
            return super::stack(parts);
        }
        let rows = parts.iter().map(|part| part.shape().rows().unwrap_or(0)).sum();
        let shape = with_axis(&first.shape().with_rows(rows), self.axis, length);
        let elements = shape.elements()?;
        if elements == 0 {
            // The other axes may then be of any length, beyond all memory.
            return empty(first, shape);
        }
        let inner: usize = shape[self.axis + 1..].iter().product();
        let filled = length.checked_mul(inner)?;
        match first.data() {
            TensorData::Fixed(_) => {
                let width = first.dtype().width()?;
                let filler = self.value.repeat(filled);
                let mut buffer = Buffer::with_capacity(elements.checked_mul(width)?);
                for part in parts {
                    let (bytes, own) = (part.bytes()?, part.shape()[self.axis] * inner * width);
                    for outer in 0..outer_count(part.shape(), self.axis) {
                        buffer.extend(&bytes[outer * own..][..own]);
                        buffer.extend(&filler[own..]);
                    }
                }
                Tensor::fixed(first.dtype(), shape, buffer).ok()
            }
            TensorData::Strings(_) => {
                let mut strings = Vec::with_capacity(elements);
                for part in parts {
                    let (elements, own) = (part.as_strings()?, part.shape()[self.axis] * inner);
                    for outer in 0..outer_count(part.shape(), self.axis) {
                        strings.extend_from_slice(&elements[outer * own..][..own]);
                        strings.extend(std::iter::repeat_n(&self.value, filled - own).cloned());
                    }
                }
                Tensor::strings(shape, strings).ok()
            }
        }
    }
}

/// The first `length` on `axis`: a slice without a copy where nothing but that axis has to be cut.
pub(crate) fn crop(tensor: &Tensor, axis: usize, length: usize) -> Option<Tensor> {
    let own = *tensor.shape().get(axis)?;
    if own == length {
        return Some(tensor.clone());
    }
    if own < length {
        return None;
    }
    let shape = with_axis(tensor.shape(), axis, length);
    if shape.elements() == Some(0) {
        return empty(tensor, shape);
    }
    let inner: usize = tensor.shape()[axis + 1..].iter().product();
    let (outer, whole, kept) = (outer_count(tensor.shape(), axis), own * inner, length * inner);
    match tensor.data() {
        TensorData::Fixed(bytes) => {
            let width = tensor.dtype().width()?;
            let (whole, kept) = (whole * width, kept * width);
            if outer == 1 {
                return Tensor::fixed(tensor.dtype(), shape, bytes.slice(..kept)).ok();
            }
            let mut buffer = Buffer::with_capacity(outer * kept);
            (0..outer).for_each(|outer| buffer.extend(&bytes[outer * whole..][..kept]));
            Tensor::fixed(tensor.dtype(), shape, buffer).ok()
        }
        TensorData::Strings(strings) => {
            let kept = (0..outer).flat_map(|outer| &strings[outer * whole..][..kept]).cloned();
            Tensor::strings(shape, kept.collect()).ok()
        }
    }
}

/// A tensor of that shape, which has no elements, and of the kind of another.
fn empty(like: &Tensor, shape: Shape) -> Option<Tensor> {
    match like.data() {
        TensorData::Fixed(_) => Tensor::fixed(like.dtype(), shape, Bytes::new()).ok(),
        TensorData::Strings(_) => Tensor::strings(shape, Vec::new()).ok(),
    }
}

/// How often the axis is repeated by those outside it.
fn outer_count(shape: &Shape, axis: usize) -> usize {
    shape[..axis].iter().product()
}

fn with_axis(shape: &Shape, axis: usize, length: usize) -> Shape {
    shape.iter().enumerate().map(|(position, &own)| if position == axis { length } else { own }).collect()
}

/// The position of the axis of that name after the first. Fails where there are several.
fn axis_of(spec: &TensorSpec, name: &str) -> Result<Option<usize>, String> {
    let is_it = |dim: &Dim| matches!(dim, Dim::Dynamic(Some(own)) if own == name);
    let dims = spec.dims.as_deref().unwrap_or(&[]);
    let mut found = dims.iter().enumerate().filter(|(_, dim)| is_it(dim)).map(|(position, _)| position);
    match (found.next(), found.next()) {
        (Some(0), _) => Err(format!("axis {name:?} is the batch axis of {:?}, which is not padded", spec.name)),
        (Some(_), Some(_)) => Err(format!("axis {name:?} is there twice in {:?}, which is not offered", spec.name)),
        (position, _) => Ok(position),
    }
}

/// The names of the inputs' dynamic axes after the first.
fn axis_names(signature: &Signature) -> Vec<&str> {
    let dims = signature.inputs.iter().flat_map(|input| input.dims.iter().flat_map(|dims| dims.iter().skip(1)));
    let mut names: Vec<&str> = dims
        .filter_map(|dim| match dim {
            Dim::Dynamic(name) => name.as_deref(),
            Dim::Fixed(_) => None,
        })
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// The bytes of one element of an input.
fn element(spec: &TensorSpec, value: Option<&PadValue>) -> Result<Bytes, String> {
    let zero = match spec.dtype {
        DataType::Bytes => PadValue::Text(String::new()),
        DataType::Bool => PadValue::Boolean(false),
        _ => PadValue::Integer(0),
    };
    let value = value.unwrap_or(&zero);
    encode(spec.dtype, value)
        .ok_or_else(|| format!("value {value:?} is none of datatype {}, which input {:?} has", spec.dtype, spec.name))
}

fn encode(dtype: DataType, value: &PadValue) -> Option<Bytes> {
    let number = match value {
        PadValue::Integer(value) => Some(*value as f64),
        PadValue::Float(value) => Some(*value),
        PadValue::Boolean(_) | PadValue::Text(_) => None,
    };
    let integer = |signed: bool, width: usize| {
        let PadValue::Integer(value) = *value else { return None };
        let bits = 8 * width as u32;
        let (least, most) =
            if signed { (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1) } else { (0, (1i128 << bits) - 1) };
        let value = Some(i128::from(value)).filter(|value| (least..=most).contains(value))?;
        Some(Bytes::copy_from_slice(&value.to_le_bytes()[..width]))
    };
    match (dtype, value) {
        (DataType::Bytes, PadValue::Text(text)) => Some(Bytes::copy_from_slice(text.as_bytes())),
        (DataType::Bytes, _) => None,
        (DataType::Bool, PadValue::Boolean(value)) => Some(Bytes::copy_from_slice(&[u8::from(*value)])),
        (DataType::Bool, _) => None,
        (DataType::Fp16, _) => number.map(|value| Bytes::copy_from_slice(&f16::from_f64(value).to_le_bytes())),
        (DataType::Bf16, _) => number.map(|value| Bytes::copy_from_slice(&bf16::from_f64(value).to_le_bytes())),
        (DataType::Fp32, _) => number.map(|value| Bytes::copy_from_slice(&(value as f32).to_le_bytes())),
        (DataType::Fp64, _) => number.map(|value| Bytes::copy_from_slice(&value.to_le_bytes())),
        (DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64, _) => integer(true, dtype.width()?),
        (DataType::Uint8 | DataType::Uint16 | DataType::Uint32 | DataType::Uint64, _) => integer(false, dtype.width()?),
    }
}
