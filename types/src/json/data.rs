//! How does a JSON list become a tensor, nested or flat?

use super::element::{Bf16, Fault, Fixed, Fp16, Fp32, Fp64, Integer, Parse, Sink, Strings, Truth};
use super::reader::{Kind, Reader};
use crate::{Buffer, DataType, Error, Result, Shape, Tensor, TensorError};

/// Reads the elements of a tensor, row major: a flat list, or lists in each other that match the shape exactly. A
/// scalar may stand alone or in a list of one.
///
/// - BOOL takes `true`, `false`, and the numbers 1 and 0.
/// - Integers take whole numbers in range, however written: `3`, `3.0`, `1e2`.
/// - Floats take numbers, rounded once to the nearest value of the type (ties to even), `null` for NaN, and the words
///   `NaN`, `Infinity` and `-Infinity`. A finite number beyond the type's range is refused, never made infinite.
/// - BYTES takes strings.
///
/// Memory is bounded by the length of the text, never by the shape. Fails on what is no JSON, with its position, and
/// on data that is not of this type and shape; the reader's position means nothing then.
pub fn read_data(reader: &mut Reader<'_>, dtype: DataType, shape: &Shape) -> Result<Tensor> {
    let read = match dtype {
        DataType::Bool => read_fixed::<Truth>,
        DataType::Uint8 => read_fixed::<Integer<u8>>,
        DataType::Uint16 => read_fixed::<Integer<u16>>,
        DataType::Uint32 => read_fixed::<Integer<u32>>,
        DataType::Uint64 => read_fixed::<Integer<u64>>,
        DataType::Int8 => read_fixed::<Integer<i8>>,
        DataType::Int16 => read_fixed::<Integer<i16>>,
        DataType::Int32 => read_fixed::<Integer<i32>>,
        DataType::Int64 => read_fixed::<Integer<i64>>,
        DataType::Fp16 => read_fixed::<Fp16>,
        DataType::Bf16 => read_fixed::<Bf16>,
        DataType::Fp32 => read_fixed::<Fp32>,
        DataType::Fp64 => read_fixed::<Fp64>,
        DataType::Bytes => read_strings,
    };
    read(reader, dtype, shape).map_err(|fault| match fault {
        Fault::Syntax(error) => error.into(),
        Fault::Value(message) => Error::invalid(message),
    })
}

fn read_fixed<P: Parse>(reader: &mut Reader<'_>, dtype: DataType, shape: &Shape) -> Result<Tensor, Fault> {
    let expected = expected_elements(shape)?;
    // Every element but the last takes two bytes at least: itself and a comma.
    let slots = expected.min(reader.remaining() / 2 + 1);
    let mut buffer = Buffer::zeroed(slots * size_of::<P::Out>());
    let mut sink = Fixed::<P>::new(bytemuck::cast_slice_mut(buffer.as_bytes_mut()));
    read_elements(reader, shape, expected, &mut sink)?;
    Tensor::fixed(dtype, shape.clone(), buffer).map_err(misfit)
}

fn read_strings(reader: &mut Reader<'_>, _: DataType, shape: &Shape) -> Result<Tensor, Fault> {
    let mut sink = Strings::default();
    read_elements(reader, shape, expected_elements(shape)?, &mut sink)?;
    Tensor::strings(shape.clone(), sink.into_elements()).map_err(misfit)
}

fn expected_elements(shape: &Shape) -> Result<usize, Fault> {
    shape.elements().ok_or_else(|| misfit(TensorError::TooManyElements(shape.clone())))
}

fn misfit(error: TensorError) -> Fault {
    Fault::Value(error.to_string())
}

/// Reads exactly the elements that the shape asks for into the sink.
fn read_elements<S: Sink>(reader: &mut Reader<'_>, shape: &Shape, expected: usize, sink: &mut S) -> Result<(), Fault> {
    let kind = reader.peek_kind()?;
    if kind != Kind::Array {
        if shape.is_empty() {
            return sink.take(reader).map_err(|fault| at_element(0, fault));
        }
        let found = kind.described();
        return Err(Fault::Value(format!("expected an array of {expected} elements for shape {shape}, got {found}")));
    }
    let start = reader.clone();
    if reader.enter::<b'[', b']'>()? {
        if reader.peek() == Some(b'[') {
            if shape.len() < 2 {
                return Err(Fault::Value(format!("expected a flat list for shape {shape}, got lists in a list")));
            }
            *reader = start;
            return read_nested(reader, shape, &mut Vec::new(), sink);
        }
        read_run(reader, sink)?;
    }
    if sink.count() == expected {
        return Ok(());
    }
    Err(Fault::Value(format!("expected {expected} elements for shape {shape}, got {}", sink.count())))
}

/// Reads the elements of a list that was entered and has one at least, to its end.
#[inline(never)]
fn read_run<S: Sink>(reader: &mut Reader<'_>, sink: &mut S) -> Result<(), Fault> {
    loop {
        if let Err(fault) = sink.take(reader) {
            return Err(at_element(sink.count(), fault));
        }
        if !reader.next_item(b']')? {
            return Ok(());
        }
        reader.skip_whitespace();
    }
}

/// Reads a list of lists; `path` leads to it, and its length is the axis of this list.
fn read_nested<S: Sink>(
    reader: &mut Reader<'_>,
    shape: &Shape,
    path: &mut Vec<usize>,
    sink: &mut S,
) -> Result<(), Fault> {
    let axis = path.len();
    let kind = reader.peek_kind()?;
    if kind != Kind::Array {
        let (place, found) = (place(path), kind.described());
        return Err(Fault::Value(format!("{place}: expected an array for shape {shape}, got {found}")));
    }
    let mut length = 0;
    let mut more = reader.enter::<b'[', b']'>()?;
    if axis + 1 == shape.len() {
        let before = sink.count();
        if more {
            read_run(reader, sink)?;
        }
        length = sink.count() - before;
    } else {
        while more {
            path.push(length);
            read_nested(reader, shape, path, sink)?;
            path.pop();
            length += 1;
            more = reader.next_item(b']')?;
        }
    }
    if length == shape[axis] {
        return Ok(());
    }
    let (place, expected) = (place(path), shape[axis]);
    Err(Fault::Value(format!("{place}: expected {expected} elements for shape {shape}, got {length}")))
}

/// Where in nested data: `data[1][0]`.
fn place(path: &[usize]) -> String {
    let mut place = String::from("data");
    for index in path {
        place.push_str(&format!("[{index}]"));
    }
    place
}

#[cold]
fn at_element(index: usize, fault: Fault) -> Fault {
    match fault {
        Fault::Value(message) => Fault::Value(format!("element {index}: {message}")),
        syntax => syntax,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use DataType::{Bf16, Bool, Bytes, Fp16, Fp32, Fp64, Int8, Int32, Int64, Uint8, Uint64};

    fn read(text: &str, dtype: DataType, shape: &[usize]) -> Result<Tensor, String> {
        let mut reader = Reader::new(text.as_bytes());
        let tensor = read_data(&mut reader, dtype, &Shape::from(shape)).map_err(|error| error.message().to_owned())?;
        reader.finish().map_err(|error| error.to_string())?;
        Ok(tensor)
    }

    #[test]
    fn good_data_is_read() {
        fn check<T: crate::Element>(text: &str, shape: &[usize], expected: &[T]) {
            let tensor = read(text, T::DTYPE, shape).unwrap();
            assert_eq!(tensor.to_vec::<T>().as_deref(), Some(expected), "{text}");
            assert_eq!(tensor.shape()[..], *shape, "{text}");
        }
        check("[1, 2.5, -3e1, 0.000]", &[2, 2], &[1f32, 2.5, -30., 0.]);
        check("[[1, 2],\n [3,4]]", &[2, 2], &[1f32, 2., 3., 4.]);
        check("[[[1],[2]],[[3],[4]]]", &[2, 2, 1], &[1u8, 2, 3, 4]);
        check("[ ]", &[0], &[] as &[f64]);
        check("[]", &[2, 0, 3], &[] as &[f64]);
        check("[[], [ ]]", &[2, 0], &[] as &[f64]);
        check("7", &[], &[7i32]);
        check("[7]", &[], &[7i32]);
        check("[3.0, 1e2, -0, 2.50e1, 1000e-3, 0e999999999999]", &[6], &[3i16, 100, 0, 25, 1, 0]);
        check(
            "[18446744073709551615, 9223372036854775809, 18446744073709551615.0]",
            &[3],
            &[u64::MAX, (1 << 63) + 1, u64::MAX],
        );
        check("[-9223372036854775808, 9223372036854775807]", &[2], &[i64::MIN, i64::MAX]);
        check("[Infinity, -Infinity]", &[2], &[f32::INFINITY, f32::NEG_INFINITY]);
        check("[1e-400, 1.7976931348623157e308]", &[2], &[0f64, f64::MAX]);
    }

    #[test]
    fn what_is_no_number_by_name_becomes_nan() {
        for dtype in [Fp16, Bf16, Fp32, Fp64] {
            let tensor = read("[null, NaN]", dtype, &[2]).unwrap();
            let nan = match dtype {
                Fp64 => tensor.to_vec::<f64>().unwrap().iter().all(|value| value.is_nan()),
                Fp32 => tensor.to_vec::<f32>().unwrap().iter().all(|value| value.is_nan()),
                Fp16 => tensor.to_vec::<half::f16>().unwrap().iter().all(|value| value.is_nan()),
                _ => tensor.to_vec::<half::bf16>().unwrap().iter().all(|value| value.is_nan()),
            };
            assert!(nan, "{dtype}");
        }
    }

    #[test]
    fn booleans_and_strings() {
        let truth = read("[true, false, 0, 1, 1.0]", Bool, &[5]).unwrap();
        assert_eq!(truth.to_vec::<u8>().unwrap(), [1, 0, 0, 1, 1]);
        let strings = read(r#"[["a", ""], ["\u0000é", "b\n"]]"#, Bytes, &[2, 2]).unwrap();
        assert_eq!(strings.as_strings().unwrap(), [&b"a"[..], b"", "\0é".as_bytes(), b"b\n"]);
        assert!(read("[]", Bytes, &[0]).unwrap().as_strings().unwrap().is_empty());
    }

    #[test]
    fn bad_data_is_told_what_was_expected() {
        fn check(text: &str, dtype: DataType, shape: &[usize], expected: &str) {
            assert_eq!(read(text, dtype, shape), Err(expected.to_owned()), "{text}");
        }
        check("[1, 2, 3]", Fp32, &[2, 2], "expected 4 elements for shape [2, 2], got 3");
        check("[1, 2, 3]", Fp32, &[2], "expected 2 elements for shape [2], got 3");
        check("[]", Fp32, &[], "expected 1 elements for shape [], got 0");
        check("[[1, 2], [3]]", Fp32, &[2, 2], "data[1]: expected 2 elements for shape [2, 2], got 1");
        check("[[1], [2]]", Fp32, &[3, 1], "data: expected 3 elements for shape [3, 1], got 2");
        check("[[1], 2]", Fp32, &[2, 1], "data[1]: expected an array for shape [2, 1], got a number");
        check("[[[1]]]", Fp32, &[1, 1], "element 0: expected a number, got an array");
        check("[[1, 2]]", Fp32, &[1, 2, 1], "data[0][0]: expected an array for shape [1, 2, 1], got a number");
        check("[1, [2]]", Fp32, &[2], "element 1: expected a number, got an array");
        check("[[1], [2]]", Fp32, &[2], "expected a flat list for shape [2], got lists in a list");
        check("[[1]]", Fp32, &[], "expected a flat list for shape [], got lists in a list");
        check("[[]]", Fp32, &[0, 2], "data[0]: expected 2 elements for shape [0, 2], got 0");
        check("1", Fp32, &[1], "expected an array of 1 elements for shape [1], got a number");
        check("[1, \"2\"]", Fp32, &[2], "element 1: expected a number, got a string");
        check("[1.5]", Int32, &[1], "element 0: expected an integer, got 1.5");
        check("[1e-1]", Int32, &[1], "element 0: expected an integer, got 1e-1");
        check("[NaN]", Int32, &[1], "element 0: expected an integer, got NaN");
        check("[true]", Int32, &[1], "element 0: expected an integer, got a boolean");
        check("[1, 2, 3, 300]", Uint8, &[4], "element 3: 300 is out of range for UINT8");
        check("[-1]", Uint64, &[1], "element 0: -1 is out of range for UINT64");
        check("[18446744073709551616]", Uint64, &[1], "element 0: 18446744073709551616 is out of range for UINT64");
        check("[1e999999999999999999]", Int8, &[1], "element 0: 1e999999999999999999 is out of range for INT8");
        check("[null]", Int64, &[1], "element 0: null is not a value of INT64");
        check("[null]", Bytes, &[1], "element 0: null is not a value of BYTES");
        check("[1]", Bytes, &[1], "element 0: expected a string, got 1");
        check("[2]", Bool, &[1], "element 0: expected true, false, 0 or 1, got 2");
        check("[\"true\"]", Bool, &[1], "element 0: expected a boolean, got a string");
        check("[3.5e38]", Fp32, &[1], "element 0: 3.5e38 is out of range for FP32");
        check("[-1e309]", Fp64, &[1], "element 0: -1e309 is out of range for FP64");
        check("[65520]", Fp16, &[1], "element 0: 65520 is out of range for FP16");
        check("[3.4e38]", Bf16, &[1], "element 0: 3.4e38 is out of range for BF16");
        check("[1 2]", Fp32, &[2], "at byte 3: expected ',' or ']', found '2'");
        check("[nil]", Fp32, &[1], "at byte 2: expected the word null, found 'i'");
        let long = format!("[{}.5]", "1".repeat(100));
        check(&long, Int8, &[1], &format!("element 0: expected an integer, got {}…", "1".repeat(40)));
    }

    #[test]
    fn absurd_shapes_cost_nothing() {
        fn check(shape: &[usize], expected: &str) {
            for dtype in DataType::ALL {
                assert_eq!(read("[]", dtype, shape), Err(expected.to_owned()));
            }
        }
        check(&[1 << 40, 30], "expected 32985348833280 elements for shape [1099511627776, 30], got 0");
        check(&[1 << 40, 1 << 40], &TensorError::TooManyElements(Shape::from([1 << 40, 1 << 40])).to_string());
    }
}
