//! How is one tensor of a request read, whatever the order of its keys?

use smallvec::SmallVec;

use super::data::read_data;
use super::element::{Integer, Parse};
use super::reader::{Kind, Number, Reader};
use crate::{DataType, Error, Parameter, Parameters, Result, Shape, Tensor};

/// The most axes that a shape may have.
pub const AXES_MAX: usize = 64;

/// A tensor as the Open Inference Protocol writes it in JSON.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorText {
    /// The input's or output's name.
    pub name: String,
    /// The element type.
    pub dtype: DataType,
    /// The declared shape.
    pub shape: Shape,
    /// Its parameters.
    pub parameters: Parameters,
    /// Its elements; `None` where they come some other way, such as after the JSON. Whether that is right is for
    /// the caller to say.
    pub data: Option<Tensor>,
}

/// Reads one tensor object, its keys in any order: `name`, `shape`, `datatype`, `parameters`, `data`. Others are
/// ignored. Where `datatype` is missing, `resolve` is asked for that of the name.
///
/// `data` after `shape` and `datatype` is read in one pass; before them only its end is looked for, and it is read at the
/// end of the object.
/// `null` for `parameters` or `data` means that there are none. Fails with a message that names the input, on what is
/// no JSON, on missing and on doubled keys, and on data that is not of the declared type and shape.
pub fn read_tensor(reader: &mut Reader<'_>, resolve: &dyn Fn(&str) -> Option<DataType>) -> Result<TensorText> {
    let mut fields = Fields::default();
    let outcome = reader.read_object(|key, reader| fields.take(key, reader));
    outcome.and_then(|()| fields.complete(resolve)).map_err(|error| blame(fields.name.as_deref(), &error))
}

/// Reads an object of parameters. Fails on values that are no boolean, number or string, and on a doubled key.
pub fn read_parameters(reader: &mut Reader<'_>) -> Result<Parameters> {
    let mut parameters = Parameters::new();
    reader.read_object(|key, reader| {
        let value = match reader.peek_kind()? {
            Kind::Bool => Parameter::Bool(reader.read_bool()?),
            Kind::String => Parameter::Text(reader.read_string()?.into_owned()),
            Kind::Number => match reader.read_number()? {
                Number::Int(value) => Parameter::Int(value),
                Number::Uint(value) => Parameter::Uint(value),
                Number::Float(value) => Parameter::Double(value),
            },
            kind => {
                let (key, found) = (quoted(key), kind.described());
                let message = format!("parameter {key}: expected a boolean, a number or a string, got {found}");
                return Err(Error::invalid(message));
            }
        };
        match parameters.insert(key.to_owned(), value) {
            None => Ok(()),
            Some(_) => Err(Error::invalid(format!("parameter {} is given twice", quoted(key)))),
        }
    })?;
    Ok(parameters)
}

/// A name in quotes for a message, cut where it is long.
fn quoted(name: &str) -> String {
    const SHOWN_MAX: usize = 64;
    match name.char_indices().nth(SHOWN_MAX) {
        None => format!("{name:?}"),
        Some((end, _)) => format!("{:?}…", &name[..end]),
    }
}

fn blame(name: Option<&str>, error: &Error) -> Error {
    Error::invalid(match name {
        Some(name) => format!("input {}: {}", quoted(name), error.message()),
        None => format!("input: {}", error.message()),
    })
}

/// What was read of a tensor object so far.
#[derive(Default)]
struct Fields<'a> {
    name: Option<String>,
    dtype: Option<DataType>,
    shape: Option<Shape>,
    parameters: Option<Parameters>,
    data: Option<Data<'a>>,
}

enum Data<'a> {
    None,
    Read(Tensor),
    /// To be read at the end; the bookmark is where it begins.
    Left(Reader<'a>),
}

impl<'a> Fields<'a> {
    fn take(&mut self, key: &str, reader: &mut Reader<'a>) -> Result<()> {
        match key {
            "name" => {
                let name = reader.read_string()?.into_owned();
                once(key, self.name.replace(name))
            }
            "datatype" => {
                let dtype = reader.read_string()?.parse().map_err(|error| Error::invalid(format!("{error}")))?;
                once(key, self.dtype.replace(dtype))
            }
            "shape" => {
                let shape = read_shape(reader)?;
                once(key, self.shape.replace(shape))
            }
            "parameters" => {
                let parameters = if reader.peek_kind()? == Kind::Null {
                    reader.read_null()?;
                    Parameters::new()
                } else {
                    read_parameters(reader)?
                };
                once(key, self.parameters.replace(parameters))
            }
            "data" => {
                let data = self.read_or_leave(reader)?;
                once(key, self.data.replace(data))
            }
            _ => Ok(reader.skip_value().map(drop)?),
        }
    }

    fn read_or_leave(&self, reader: &mut Reader<'a>) -> Result<Data<'a>> {
        if reader.peek_kind()? == Kind::Null {
            reader.read_null()?;
            return Ok(Data::None);
        }
        let start = reader.clone();
        if let (Some(dtype), Some(shape)) = (self.dtype, &self.shape) {
            match read_data(reader, dtype, shape) {
                Ok(tensor) => return Ok(Data::Read(tensor)),
                // The message shall name the input: the data is read again when the name is known.
                Err(_) if self.name.is_none() => *reader = start.clone(),
                Err(error) => return Err(error),
            }
        }
        if reader.peek_kind()? == Kind::Array {
            reader.leave_array()?;
        } else {
            reader.skip_value()?;
        }
        Ok(Data::Left(start))
    }

    /// Takes the tensor out of the fields; where that fails, the name stays.
    fn complete(&mut self, resolve: &dyn Fn(&str) -> Option<DataType>) -> Result<TensorText> {
        let name = self.name.as_deref().ok_or_else(|| Error::invalid("\"name\" is missing"))?;
        let dtype = self.dtype.or_else(|| resolve(name)).ok_or_else(|| Error::invalid("\"datatype\" is missing"))?;
        let shape = self.shape.take().ok_or_else(|| Error::invalid("\"shape\" is missing"))?;
        let data = match self.data.take() {
            None | Some(Data::None) => None,
            Some(Data::Read(tensor)) => Some(tensor),
            Some(Data::Left(mut reader)) => Some(read_data(&mut reader, dtype, &shape)?),
        };
        let name = self.name.take().unwrap_or_default();
        Ok(TensorText { name, dtype, shape, parameters: self.parameters.take().unwrap_or_default(), data })
    }
}

fn once<T>(key: &str, before: Option<T>) -> Result<()> {
    match before {
        None => Ok(()),
        Some(_) => Err(Error::invalid(format!("key {key:?} appears twice"))),
    }
}

fn read_shape(reader: &mut Reader<'_>) -> Result<Shape> {
    let mut axes = SmallVec::<[usize; 4]>::new();
    reader.read_array(|reader| {
        let axis = axes.len();
        if axis == AXES_MAX {
            return Err(Error::invalid(format!("shape: expected at most {AXES_MAX} axes")));
        }
        reader.skip_whitespace();
        if let Some(Ok(length)) = reader.read_count().map(usize::try_from) {
            axes.push(length);
            return Ok(());
        }
        reader.peek_kind()?;
        let mut again = reader.clone();
        // The wire's lengths are signed, 64 bits wide.
        let length = Integer::<i64>::parse(reader).ok().and_then(|length| usize::try_from(length).ok());
        match length {
            Some(length) => axes.push(length),
            None => {
                let found = quoted(&String::from_utf8_lossy(again.skip_value()?));
                return Err(Error::invalid(format!("shape: axis {axis}: expected a length, got {found}")));
            }
        }
        Ok(())
    })?;
    Ok(Shape::from(&axes[..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<TensorText, String> {
        let mut reader = Reader::new(text.as_bytes());
        let tensor = read_tensor(&mut reader, &|name| (name == "known").then_some(DataType::Int64));
        let tensor = tensor.map_err(|error| error.message().to_owned())?;
        reader.finish().map_err(|error| error.to_string())?;
        Ok(tensor)
    }

    #[test]
    fn the_order_of_keys_does_not_matter() {
        let fields = [
            r#""name": "x""#,
            r#""shape": [2, 1]"#,
            r#""datatype": "FP32""#,
            r#""data": [[0.5], [2]]"#,
            r#""parameters": {"a": 1, "b": "]", "c": true, "d": 1.5, "e": 18446744073709551615}"#,
            r#""other": {"name": ["]", {}]}"#,
        ];
        let expected = TensorText {
            name: "x".to_owned(),
            dtype: DataType::Fp32,
            shape: Shape::from([2, 1]),
            parameters: Parameters::from_iter([
                ("a".to_owned(), Parameter::Int(1)),
                ("b".to_owned(), Parameter::Text("]".to_owned())),
                ("c".to_owned(), Parameter::Bool(true)),
                ("d".to_owned(), Parameter::Double(1.5)),
                ("e".to_owned(), Parameter::Uint(u64::MAX)),
            ]),
            data: Some(Tensor::from_slice([2, 1], &[0.5f32, 2.]).unwrap()),
        };
        for turn in 0..fields.len() {
            for swapped in 1..fields.len() {
                let mut fields = fields;
                fields.rotate_left(turn);
                fields.swap(0, swapped);
                let text = format!("{{{}}}", fields.join(", "));
                assert_eq!(read(&text).as_ref(), Ok(&expected), "{text}");
            }
        }
    }

    #[test]
    fn data_may_be_elsewhere() {
        let absent = r#"{"name": "x", "shape": [4], "datatype": "BYTES", "parameters": {"binary_data_size": 20}}"#;
        let tensor = read(absent).unwrap();
        assert_eq!((tensor.data, tensor.parameters.len()), (None, 1));
        let null =
            read(r#"{"data": null, "parameters": null, "name": "x", "shape": [4], "datatype": "BYTES"}"#).unwrap();
        assert_eq!((null.data, null.parameters.len()), (None, 0));
        let resolved = read(r#"{"name": "known", "shape": [1], "data": [3]}"#).unwrap();
        assert_eq!(resolved.data, Some(Tensor::from_slice([1], &[3i64]).unwrap()));
    }

    #[test]
    fn strings_with_brackets_do_not_end_the_data() {
        let text = r#"{"data": ["]", "[[", "\"]", "\\"], "name": "x", "shape": [4], "datatype": "BYTES"}"#;
        let tensor = read(text).unwrap().data.unwrap();
        assert_eq!(tensor.as_strings().unwrap(), [&b"]"[..], b"[[", b"\"]", b"\\"]);
    }

    #[test]
    fn errors_name_the_input() {
        fn check(text: &str, expected: &str) {
            assert_eq!(read(text), Err(expected.to_owned()), "{text}");
        }
        let short = "input \"x\": expected 2 elements for shape [2], got 1";
        check(r#"{"name": "x", "shape": [2], "datatype": "FP32", "data": [1]}"#, short);
        check(r#"{"shape": [2], "datatype": "FP32", "data": [1], "name": "x"}"#, short);
        check(r#"{"data": [1], "shape": [2], "datatype": "FP32", "name": "x"}"#, short);
        check(r#"{"shape": [2], "data": []}"#, "input: \"name\" is missing");
        check(r#"{"name": "x", "shape": [2]}"#, "input \"x\": \"datatype\" is missing");
        check(r#"{"name": "x", "datatype": "FP32"}"#, "input \"x\": \"shape\" is missing");
        check(r#"{"name": "x", "name": "y"}"#, "input \"y\": key \"name\" appears twice");
        check(r#"{"name": "x", "shape": [], "shape": []}"#, "input \"x\": key \"shape\" appears twice");
        check(r#"{"name": "x", "data": [], "data": []}"#, "input \"x\": key \"data\" appears twice");
        check(r#"{"name": "x", "shape": [-1]}"#, "input \"x\": shape: axis 0: expected a length, got \"-1\"");
        check(r#"{"name": "x", "shape": [1, 2.5]}"#, "input \"x\": shape: axis 1: expected a length, got \"2.5\"");
        check(r#"{"name": "x", "shape": [1e30]}"#, "input \"x\": shape: axis 0: expected a length, got \"1e30\"");
        check(r#"{"name": "x", "shape": [null]}"#, "input \"x\": shape: axis 0: expected a length, got \"null\"");
        check(r#"{"name": "x", "shape": 3}"#, "input \"x\": at byte 23: expected an array, found a number");
        check(r#"{"name": 5}"#, "input: at byte 9: expected a string, found a number");
        check(r#"{"data": [1, 2"#, "input: at byte 9: the array does not end");
        check(
            r#"{"data": [1 2], "name": "x", "shape": [2], "datatype": "FP32"}"#,
            "input \"x\": at byte 12: expected ',' or ']', found '2'",
        );
        check(
            r#"{"data": [{}, 1], "name": "x", "shape": [2], "datatype": "FP32"}"#,
            "input \"x\": element 0: expected a number, got an object",
        );
        check(
            r#"{"name": "x", "parameters": {"p": []}}"#,
            "input \"x\": parameter \"p\": expected a boolean, a number or a string, got an array",
        );
        check(r#"{"name": "x", "parameters": {"p": 1, "p": 1}}"#, "input \"x\": parameter \"p\" is given twice");
        check("[]", "input: at byte 0: expected an object, found an array");
        let many = format!(r#"{{"name": "x", "shape": [{}1]}}"#, "1,".repeat(AXES_MAX));
        check(&many, "input \"x\": shape: expected at most 64 axes");
        let wrong = read(r#"{"name": "x", "datatype": "FLOAT"}"#).unwrap_err();
        assert!(wrong.starts_with("input \"x\": unknown datatype \"FLOAT\": expected one of BOOL"), "{wrong}");
    }
}
