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
    if reader.enter(Kind::Array)? {
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
    let mut more = reader.enter(Kind::Array)?;
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
