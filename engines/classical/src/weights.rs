//! How does a tensor in a model's file become a value?

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use tiltyard_runtime::engine::EngineError;
use tiltyard_types::Shape;

use crate::value::{ELEMENTS_MAX, Type, Value};
use crate::wire::Tensor;

/// Where weights lie that are not in the model's file, by the names that the graph gives those files.
pub(crate) type External = BTreeMap<String, Arc<[u8]>>;

/// The value of a tensor. Fails where its lengths contradict each other, and where its type is unknown here.
pub(crate) fn read(tensor: &Tensor, external: &External) -> Result<Value, EngineError> {
    let bad = |what: String| EngineError::BadModel(format!("weight {:?}: {what}", tensor.name));
    let Some(kind) = Type::of_wire(tensor.data_type.into()) else {
        return Err(EngineError::Unsupported(format!(
            "weight {:?} is of ONNX type {}, which the classical engine does not have",
            tensor.name, tensor.data_type
        )));
    };
    let dims: Option<Shape> = tensor.dims.iter().map(|&length| usize::try_from(length).ok()).collect::<Option<_>>();
    let shape = dims.ok_or_else(|| bad(format!("its shape is {:?}", tensor.dims)))?;
    let count = shape.elements().filter(|&count| count <= ELEMENTS_MAX);
    let count = count.ok_or_else(|| bad(format!("shape {shape} has too many elements")))?;
    let raw = raw(tensor, external).map_err(bad)?;
    let short = |there: usize| bad(format!("shape {shape} has {count} elements, {there} are there"));
    macro_rules! numbers {
        ($type:ty, $listed:expr) => {{
            let elements: Vec<$type> = match &raw {
                Some(bytes) => {
                    let (chunks, rest) = bytes.as_chunks::<{ size_of::<$type>() }>();
                    if !rest.is_empty() {
                        return Err(short(chunks.len()));
                    }
                    chunks.iter().map(|chunk| <$type>::from_le_bytes(*chunk)).collect()
                }
                None => $listed,
            };
            if elements.len() != count {
                return Err(short(elements.len()));
            }
            Ok(Value::of(shape.clone(), elements))
        }};
    }
    match kind {
        Type::F32 => numbers!(f32, tensor.float_data.clone()),
        Type::F64 => numbers!(f64, tensor.double_data.clone()),
        Type::I64 => numbers!(i64, tensor.int64_data.clone()),
        Type::I32 => numbers!(i32, tensor.int32_data.clone()),
        Type::Bool => {
            let elements: Vec<u8> = match &raw {
                Some(bytes) => bytes.iter().map(|&byte| u8::from(byte != 0)).collect(),
                None => tensor.int32_data.iter().map(|&element| u8::from(element != 0)).collect(),
            };
            if elements.len() != count {
                return Err(short(elements.len()));
            }
            Ok(Value::of(shape, elements))
        }
        Type::Text => {
            if tensor.string_data.len() != count {
                return Err(short(tensor.string_data.len()));
            }
            // Copies, so that a label does not keep the whole file in memory.
            let elements: Vec<Bytes> = tensor.string_data.iter().map(|text| Bytes::copy_from_slice(text)).collect();
            Ok(Value::of(shape, elements))
        }
    }
}

/// The bytes of a tensor that has bytes: its own, or those of the file beside the model.
fn raw<'a>(tensor: &'a Tensor, external: &'a External) -> Result<Option<&'a [u8]>, String> {
    const EXTERNAL: i32 = 1;
    if tensor.data_location != EXTERNAL {
        let listed =
            tensor.float_data.len() + tensor.double_data.len() + tensor.int32_data.len() + tensor.int64_data.len();
        return Ok((listed == 0).then_some(&tensor.raw_data[..]));
    }
    let entry =
        |key: &str| tensor.external_data.iter().find(|entry| entry.key == key).map(|entry| entry.value.as_str());
    let number = |key: &str| -> Result<Option<usize>, String> {
        entry(key).map(|text| text.parse().map_err(|_| format!("its {key} is {text:?}"))).transpose()
    };
    let location = entry("location").ok_or("it is in another file, and not said in which")?;
    let file = external.get(location).ok_or_else(|| format!("file {location:?} is not there"))?;
    let start = number("offset")?.unwrap_or(0);
    let end = match number("length")? {
        Some(length) => start.checked_add(length),
        None => Some(file.len()),
    };
    let bytes = end.and_then(|end| file.get(start..end)).ok_or_else(|| format!("file {location:?} is too short"))?;
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(dims: &[i64], raw: &[u8]) -> Tensor {
        Tensor {
            name: "w".into(),
            dims: dims.to_vec(),
            data_type: 1,
            raw_data: Bytes::copy_from_slice(raw),
            ..Tensor::default()
        }
    }

    #[track_caller]
    fn refused(tensor: &Tensor, expected: &str) {
        let error = read(tensor, &External::new()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn raw_and_listed_elements_are_the_same() {
        let raw = floats(&[2], &[0, 0, 128, 63, 0, 0, 0, 64]);
        let listed = Tensor { float_data: vec![1.0, 2.0], raw_data: Bytes::new(), ..raw.clone() };
        let value = read(&raw, &External::new()).unwrap();
        assert_eq!(value, Value::of(Shape::from([2]), vec![1f32, 2.0]));
        assert_eq!(read(&listed, &External::new()).unwrap(), value);
    }

    #[test]
    fn lengths_that_contradict_each_other_are_refused() {
        refused(&floats(&[3], &[0; 8]), "shape [3] has 3 elements, 2 are there");
        refused(&floats(&[2], &[0; 7]), "2 elements, 1 are there");
        refused(&floats(&[-1], &[]), "its shape is [-1]");
        refused(&floats(&[1 << 40, 1 << 40], &[]), "too many elements");
        refused(&Tensor { data_type: 10, ..floats(&[1], &[0; 2]) }, "ONNX type 10");
    }

    #[test]
    fn weights_beside_the_model_are_read_where_they_are_said_to_be() {
        let entry = |key: &str, value: &str| crate::wire::Entry { key: key.into(), value: value.into() };
        let mut tensor = Tensor { data_location: 1, ..floats(&[1], &[]) };
        tensor.external_data = vec![entry("location", "w.bin"), entry("offset", "4"), entry("length", "4")];
        let files: External = [("w.bin".to_owned(), Arc::from([9u8, 9, 9, 9, 0, 0, 128, 63].as_slice()))].into();
        assert_eq!(read(&tensor, &files).unwrap(), Value::of(Shape::from([1]), vec![1f32]));
        tensor.external_data[1] = entry("offset", "5");
        let error = read(&tensor, &files).unwrap_err().to_string();
        assert!(error.contains("too short"), "{error}");
        refused(&tensor, "\"w.bin\" is not there");
    }
}
