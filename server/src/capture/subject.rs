//! Whose data is a row of a request?
//!
//! An endpoint's rules name where that is said: a header of the request, or an input whose element each row has one of.

use http::HeaderMap;
use http::header::HeaderName;
use serde::Deserialize;
use tiltyard_capture::{Field, Form, Layout, Unfit};
use tiltyard_types::{NamedTensor, Tensor, nearest};

/// Where the rules say that it stands.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Subject {
    /// In this header, for all rows.
    Header(String),
    /// In this input, or this column of one, for each row.
    Input(String),
}

/// The same for one deployment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Header(HeaderName),
    /// Of each row of so many elements of this input, the element at this place.
    Input {
        name: String,
        width: usize,
        at: usize,
    },
}

impl Source {
    /// Finds it in a deployment. Fails where there is no such input.
    pub(super) fn find(subject: &Subject, layout: &Layout) -> Result<Source, Unfit> {
        let wanted = match subject {
            Subject::Header(name) => {
                let name = name.parse().map_err(|_| Unfit::Unknown { name: name.clone(), nearest: None })?;
                return Ok(Source::Header(name));
            }
            Subject::Input(name) => name,
        };
        let places = |field: &Field| match &field.form {
            Form::One => vec![(field.name.clone(), 1, 0, field.name.clone())],
            Form::Columns(names) => {
                let place = |(at, name): (usize, &String)| (name.clone(), names.len(), at, field.name.clone());
                names.iter().enumerate().map(place).collect()
            }
            Form::List | Form::Whole => Vec::new(),
        };
        let places: Vec<_> = layout.inputs.iter().flat_map(places).collect();
        match places.iter().find(|(column, ..)| column == wanted) {
            Some((_, width, at, name)) => Ok(Source::Input { name: name.clone(), width: *width, at: *at }),
            None => {
                let nearest = nearest(wanted, places.iter().map(|(column, ..)| column.as_str())).map(str::to_owned);
                Err(Unfit::Unknown { name: wanted.clone(), nearest })
            }
        }
    }

    /// Whose data the rows of a request are: one for all, or one for each. Where nobody says it, they are nobody's, and encrypted too.
    pub(super) fn of(&self, inputs: &[NamedTensor], headers: &HeaderMap) -> Vec<String> {
        let (name, width, at) = match self {
            Source::Header(name) => return vec![text_of(headers, name).unwrap_or_default()],
            Source::Input { name, width, at } => (name, *width, *at),
        };
        let tensor = inputs.iter().find(|input| input.name == *name).map(|input| &input.tensor);
        let Some(tensor) = tensor.filter(|tensor| tensor.elements() > 0) else { return vec![String::new()] };
        (at..tensor.elements()).step_by(width).map(|element| shown(tensor, element)).collect()
    }
}

/// A header's values as one text.
pub(super) fn text_of(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let values: Vec<_> = headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
    (!values.is_empty()).then(|| values.join(", "))
}

/// An element as people write it, so that `--key` can name it.
fn shown(tensor: &Tensor, at: usize) -> String {
    use tiltyard_types::DataType as D;
    fn number<T: tiltyard_types::Element + ToString>(tensor: &Tensor, at: usize) -> String {
        tensor.to_vec::<T>().and_then(|values| values.get(at).map(ToString::to_string)).unwrap_or_default()
    }
    let one = tensor.reshaped([tensor.elements()].as_slice().into()).ok().and_then(|flat| flat.rows(at..at + 1));
    let Some(one) = one else { return String::new() };
    match one.dtype() {
        D::Bytes => one.as_strings().map(|texts| String::from_utf8_lossy(&texts[0]).into_owned()).unwrap_or_default(),
        D::Int8 => number::<i8>(&one, 0),
        D::Int16 => number::<i16>(&one, 0),
        D::Int32 => number::<i32>(&one, 0),
        D::Int64 => number::<i64>(&one, 0),
        D::Uint8 => number::<u8>(&one, 0),
        D::Uint16 => number::<u16>(&one, 0),
        D::Uint32 => number::<u32>(&one, 0),
        D::Uint64 => number::<u64>(&one, 0),
        D::Fp32 => number::<f32>(&one, 0),
        D::Fp64 => number::<f64>(&one, 0),
        D::Fp16 => number::<half::f16>(&one, 0),
        D::Bf16 => number::<half::bf16>(&one, 0),
        D::Bool => one.bytes().map(|bytes| (bytes[0] != 0).to_string()).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use tiltyard_types::{DataType, Shape};

    use super::*;

    fn layout() -> Layout {
        let field = |name: &str, form| Field { name: name.into(), dtype: DataType::Fp32, axes: 2, form };
        let columns = Form::Columns(vec!["age".into(), "customer".into()]);
        Layout { inputs: vec![field("features", columns), field("id", Form::One)], ..Layout::default() }
    }

    #[test]
    fn each_row_says_whose_it_is() {
        let find = |name: &str| Source::find(&Subject::Input(name.into()), &layout());
        let features = Tensor::from_slice([2, 2], &[41f32, 7.0, 52.0, 8.5]).expect("four");
        let names = Tensor::strings(Shape::from([2]), vec!["ann".into(), "bob".into()]).expect("two");
        let inputs = [
            NamedTensor { name: "features".into(), tensor: features },
            NamedTensor { name: "id".into(), tensor: names },
        ];
        let of = |name: &str| find(name).expect("it is there").of(&inputs, &HeaderMap::new());
        assert_eq!((of("customer"), of("id")), (vec!["7".into(), "8.5".into()], vec!["ann".into(), "bob".into()]));
        assert!(find("costumer").expect_err("there is none").to_string().contains("did you mean \"customer\""));
    }

    #[test]
    fn a_header_says_it_for_all_and_nobody_is_nobody() {
        let source = Source::find(&Subject::Header("X-Customer".into()), &layout()).expect("a header");
        let mut headers = HeaderMap::new();
        assert_eq!(source.of(&[], &headers), [""]);
        headers.insert("x-customer", "ann".parse().expect("a value"));
        assert_eq!(source.of(&[], &headers), ["ann"]);
    }
}
