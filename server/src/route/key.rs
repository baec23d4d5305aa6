//! What is the sticky key of a request that was read?
//!
//! A key is text, as bytes: strings as they are, numbers in decimal, true and false. All rows of a request must have the
//! same one, since a request goes to one arm.

use half::{bf16, f16};
use tiltyard_runtime::deployment::Deployment;
use tiltyard_types::json::{Kind, Reader};
use tiltyard_types::{DataType, Element, Error, InferRequest, NamedTensor, Parameter, Result, Tensor};

/// The longest path that is followed.
const STEPS_MAX: usize = 16;

/// Where in a request the key is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum BodyKey {
    /// The client's name for the request.
    Id,
    /// The parameter of this name.
    Parameter(String),
    /// In the JSON that the request came as, and nowhere in what came otherwise.
    Path(Vec<Step>),
    /// In an input: of this name, at this place of each row, which has so many.
    Column { input: String, place: usize, width: usize },
}

/// One step of a path into JSON.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    Key(String),
    Item(usize),
    EveryItem,
}

impl BodyKey {
    /// The key, `None` where there is none; `text` is the JSON that the request came as, if it did. Fails where there are
    /// several that differ.
    pub(super) fn find(&self, request: &InferRequest, text: &[u8]) -> Result<Option<Vec<u8>>> {
        match self {
            BodyKey::Id => Ok((!request.id.is_empty()).then(|| request.id.clone().into_bytes())),
            BodyKey::Parameter(name) => Ok(request.parameters.get(name).map(of_parameter)),
            BodyKey::Path(_) if text.is_empty() => Ok(None),
            BodyKey::Path(steps) => {
                let mut found = None;
                follow(&mut Reader::new(text), steps, &mut found)?;
                Ok(found)
            }
            BodyKey::Column { input, place, width } => {
                let named = |named: &&NamedTensor| named.name == *input;
                let tensor = request.inputs.iter().find(named).map(|named| &named.tensor);
                tensor.map_or(Ok(None), |tensor| of_column(input, tensor, *place, *width))
            }
        }
    }

    /// The place that a path such as `$.customer.id`, `$.rows[0].customer` or `$.rows[*].customer` leads to.
    pub(super) fn at_path(path: &str) -> Result<BodyKey> {
        let wrong = || {
            Error::invalid(format!(
                "{path:?} is not a path into JSON: expected such as $.customer.id, $.parameters.customer or $.items[0].id"
            ))
        };
        let mut rest = path.strip_prefix('$').filter(|rest| !rest.is_empty()).ok_or_else(wrong)?;
        let mut steps = Vec::new();
        while !rest.is_empty() {
            let (step, left) = match rest.strip_prefix('.') {
                Some(key) => {
                    let end = key.find(['.', '[']).unwrap_or(key.len());
                    (Step::Key(key[..end].to_owned()), &key[end..])
                }
                None => {
                    let (item, left) =
                        rest.strip_prefix('[').and_then(|rest| rest.split_once(']')).ok_or_else(wrong)?;
                    let item = if item == "*" { Some(Step::EveryItem) } else { item.parse().ok().map(Step::Item) };
                    (item.ok_or_else(wrong)?, left)
                }
            };
            if step == Step::Key(String::new()) || steps.len() == STEPS_MAX {
                return Err(wrong());
            }
            steps.push(step);
            rest = left;
        }
        // These are the same whether they come as JSON or not.
        match &mut steps[..] {
            [Step::Key(id)] if id == "id" => Ok(BodyKey::Id),
            [Step::Key(parameters), Step::Key(name)] if parameters == "parameters" => {
                Ok(BodyKey::Parameter(std::mem::take(name)))
            }
            _ => Ok(BodyKey::Path(steps)),
        }
    }

    /// The input of this name, or the column that the owner of the model called so. Fails where there is neither, or where an
    /// input has several values for each row.
    pub(super) fn in_column(name: &str, deployment: &Deployment) -> Result<BodyKey> {
        let inputs = &deployment.signature.inputs;
        let width = |dims: &[i64]| match dims {
            [_] => Some(1),
            [_, width] => usize::try_from(*width).ok(),
            _ => None,
        };
        if let Some(spec) = inputs.iter().find(|spec| spec.name == name) {
            return match width(&spec.wire_dims()) {
                Some(1) => Ok(BodyKey::Column { input: name.to_owned(), place: 0, width: 1 }),
                _ => Err(Error::invalid(format!("input {spec} cannot be the key: expected one value for each row"))),
            };
        }
        let declared = &deployment.settings.columns;
        for spec in inputs {
            let is_of = |input: &Option<String>| input.as_ref().is_none_or(|input| *input == spec.name);
            let columns: Vec<&str> =
                declared.iter().filter(|column| is_of(&column.input)).map(|column| column.name.as_str()).collect();
            let place = columns.iter().position(|column| *column == name);
            if let Some(place) = place.filter(|_| width(&spec.wire_dims()) == Some(columns.len())) {
                return Ok(BodyKey::Column { input: spec.name.clone(), place, width: columns.len() });
            }
        }
        let known: Vec<&str> = inputs.iter().map(|spec| spec.name.as_str()).collect();
        Err(Error::invalid(format!(
            "the champion has no input or column {name:?} that could be the key; its inputs are {}",
            known.join(", ")
        )))
    }
}

fn of_parameter(parameter: &Parameter) -> Vec<u8> {
    match parameter {
        Parameter::Text(text) => text.clone().into_bytes(),
        Parameter::Bool(value) => value.to_string().into_bytes(),
        Parameter::Int(value) => value.to_string().into_bytes(),
        Parameter::Uint(value) => value.to_string().into_bytes(),
        Parameter::Double(value) => value.to_string().into_bytes(),
    }
}

/// Notes a key; fails where there was another.
fn note(found: &mut Option<Vec<u8>>, key: Vec<u8>) -> Result<()> {
    match found {
        Some(first) if *first != key => Err(differ(first, &key)),
        _ => {
            *found = Some(key);
            Ok(())
        }
    }
}

fn differ(first: &[u8], other: &[u8]) -> Error {
    let shown = |key: &[u8]| String::from_utf8_lossy(key).chars().take(64).collect::<String>();
    Error::invalid(format!(
        "the rows of this request have different keys, such as {:?} and {:?}: send one request for each",
        shown(first),
        shown(other)
    ))
}

fn follow(reader: &mut Reader<'_>, steps: &[Step], found: &mut Option<Vec<u8>>) -> Result<()> {
    let kind = reader.peek_kind()?;
    match (steps.split_first(), kind) {
        (None, Kind::String) => note(found, reader.read_string()?.into_owned().into_bytes()),
        (None, Kind::Number | Kind::Bool) => note(found, reader.skip_value()?.to_vec()),
        (None, Kind::Object | Kind::Array) => {
            Err(Error::invalid("what stands where the key should be is no text, number or truth"))
        }
        (Some((Step::Key(wanted), rest)), Kind::Object) => reader.read_object(|key, reader| match key == wanted {
            true => follow(reader, rest, found),
            false => skip(reader),
        }),
        (Some((Step::Item(_) | Step::EveryItem, rest)), Kind::Array) => {
            let wanted = match steps[0] {
                Step::Item(at) => Some(at),
                _ => None,
            };
            let mut at = 0;
            reader.read_array(|reader| {
                at += 1;
                match wanted.is_none_or(|wanted| wanted + 1 == at) {
                    true => follow(reader, rest, found),
                    false => skip(reader),
                }
            })
        }
        _ => skip(reader),
    }
}

fn skip(reader: &mut Reader<'_>) -> Result<()> {
    reader.skip_value()?;
    Ok(())
}

/// The key in a column of rows; none where there are no rows.
fn of_column(input: &str, tensor: &Tensor, place: usize, width: usize) -> Result<Option<Vec<u8>>> {
    let elements = tensor.elements();
    if elements == 0 || width == 0 || !elements.is_multiple_of(width) {
        return Ok(None);
    }
    let positions = (place..elements).step_by(width);
    let other = match (tensor.as_strings(), tensor.bytes(), tensor.dtype().width()) {
        (Some(strings), ..) => positions.clone().find(|&at| strings[at] != strings[place]),
        (None, Some(bytes), Some(size)) => {
            let element = |at: usize| &bytes[at * size..(at + 1) * size];
            positions.clone().find(|&at| element(at) != element(place))
        }
        _ => None,
    };
    let first = text_of(tensor, place);
    match other {
        Some(at) => {
            let error = differ(&first, &text_of(tensor, at));
            Err(Error::invalid(format!("input {input:?}: {}", error.message())))
        }
        None => Ok(Some(first)),
    }
}

/// One element as a key.
fn text_of(tensor: &Tensor, at: usize) -> Vec<u8> {
    fn one<T: Element>(tensor: &Tensor, at: usize, write: impl Fn(T) -> String) -> Vec<u8> {
        let size = size_of::<T>();
        let bytes = tensor.bytes().map_or(&[][..], |bytes| &bytes[at * size..(at + 1) * size]);
        write(bytemuck::pod_read_unaligned(bytes)).into_bytes()
    }
    if let Some(strings) = tensor.as_strings() {
        return strings[at].to_vec();
    }
    match tensor.dtype() {
        DataType::Bool => one::<u8>(tensor, at, |value| (value != 0).to_string()),
        DataType::Uint8 => one::<u8>(tensor, at, |value| value.to_string()),
        DataType::Uint16 => one::<u16>(tensor, at, |value| value.to_string()),
        DataType::Uint32 => one::<u32>(tensor, at, |value| value.to_string()),
        DataType::Uint64 => one::<u64>(tensor, at, |value| value.to_string()),
        DataType::Int8 => one::<i8>(tensor, at, |value| value.to_string()),
        DataType::Int16 => one::<i16>(tensor, at, |value| value.to_string()),
        DataType::Int32 => one::<i32>(tensor, at, |value| value.to_string()),
        DataType::Int64 => one::<i64>(tensor, at, |value| value.to_string()),
        DataType::Fp16 => one::<f16>(tensor, at, |value| value.to_string()),
        DataType::Bf16 => one::<bf16>(tensor, at, |value| value.to_string()),
        DataType::Fp32 => one::<f32>(tensor, at, |value| value.to_string()),
        DataType::Fp64 => one::<f64>(tensor, at, |value| value.to_string()),
        DataType::Bytes => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn at(path: &str, text: &str) -> std::result::Result<Option<String>, String> {
        let key = BodyKey::at_path(path).unwrap();
        let found = key.find(&InferRequest::default(), text.as_bytes());
        found.map(|key| key.map(|key| String::from_utf8(key).unwrap())).map_err(|error| error.message().to_owned())
    }

    #[test]
    fn paths_lead_to_keys() {
        let found = |path: &str, text: &str| at(path, text).unwrap();
        assert_eq!(found("$.customer.id", r#"{"x": [1], "customer": {"id": "ä\n"}}"#), Some("ä\n".into()));
        assert_eq!(found("$.n", r#"{"n": 12.50}"#), Some("12.50".into()));
        assert_eq!(found("$.n", r#"{"n": true}"#), Some("true".into()));
        assert_eq!(found("$.n", r#"{"n": null}"#), None);
        assert_eq!(found("$.n.m", r#"{"n": 1}"#), None);
        assert_eq!(found("$.a[1].b", r#"{"a": [{"b": 1}, {"b": 2}]}"#), Some("2".into()));
        assert_eq!(found("$.a[*].b", r#"{"a": [{"b": 2}, {"c": 1}, {"b": 2}]}"#), Some("2".into()));
        assert_eq!(found("$.a[*]", "{}"), None);
        assert!(at("$.a[*]", r#"{"a": ["x", "y"]}"#).unwrap_err().contains("\"x\" and \"y\": send one request"));
        assert!(at("$.a", r#"{"a": [1]}"#).unwrap_err().contains("no text, number or truth"));
    }

    #[test]
    fn some_paths_are_of_every_protocol() {
        let mut request = InferRequest { id: "r1".into(), ..InferRequest::default() };
        request.parameters.insert("customer".into(), Parameter::Int(7));
        let find = |path: &str| BodyKey::at_path(path).unwrap().find(&request, b"").unwrap();
        assert_eq!(find("$.id"), Some(b"r1".to_vec()));
        assert_eq!(find("$.parameters.customer"), Some(b"7".to_vec()));
        assert_eq!((find("$.parameters.other"), find("$.customer")), (None, None));
    }

    #[test]
    fn what_is_no_path() {
        for wrong in ["", "$", "customer", "$customer", "$.", "$..a", "$.a[", "$.a[x]", "$.a[-1]"] {
            let error = BodyKey::at_path(wrong);
            assert!(error.is_err(), "{wrong}: {error:?}");
        }
    }

    #[test]
    fn rows_must_agree() {
        let find = |tensor: Tensor, place, width| {
            let key = BodyKey::Column { input: "c".into(), place, width };
            let inputs = vec![NamedTensor { name: "c".into(), tensor }];
            let found = key.find(&InferRequest { inputs, ..InferRequest::default() }, b"");
            found.map(|key| key.map(|key| String::from_utf8(key).unwrap())).map_err(|error| error.message().to_owned())
        };
        assert_eq!(find(Tensor::from_slice([2], &[7i64, 7]).unwrap(), 0, 1), Ok(Some("7".into())));
        assert_eq!(find(Tensor::from_slice([2, 2], &[1f32, 2.5, 3.0, 2.5]).unwrap(), 1, 2), Ok(Some("2.5".into())));
        assert_eq!(find(Tensor::from_slice([0], &[0u8; 0]).unwrap(), 0, 1), Ok(None));
        let texts = |texts: &[&'static str]| {
            let texts: Vec<Bytes> = texts.iter().map(|text| Bytes::from_static(text.as_bytes())).collect();
            Tensor::strings([texts.len()].into(), texts).unwrap()
        };
        assert_eq!(find(texts(&["a", "a"]), 0, 1), Ok(Some("a".into())));
        let refused = find(texts(&["a", "a", "b"]), 0, 1).unwrap_err();
        assert!(refused.starts_with("input \"c\": the rows of this request have different keys"), "{refused}");
        assert!(refused.contains("such as \"a\" and \"b\""), "{refused}");
    }
}
