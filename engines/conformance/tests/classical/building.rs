//! How does a test write an ONNX model that no library would write?
//!
//! Protocol buffers by hand: fields with the numbers of `onnx.proto3`, nothing checked.

/// Element types of `TensorProto`.
pub(crate) const FLOAT: u64 = 1;
pub(crate) const INT64: u64 = 7;
pub(crate) const STRING: u64 = 8;

fn varint(mut value: u64, to: &mut Vec<u8>) {
    while value >= 0x80 {
        to.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    to.push(value.to_le_bytes()[0]);
}

/// A field that is a number.
pub(crate) fn number(tag: u64, value: u64) -> Vec<u8> {
    let mut field = Vec::new();
    varint(tag << 3, &mut field);
    varint(value, &mut field);
    field
}

/// A field that is text, bytes, a message or packed numbers.
pub(crate) fn bytes(tag: u64, content: impl AsRef<[u8]>) -> Vec<u8> {
    let content = content.as_ref();
    let mut field = Vec::with_capacity(content.len() + 12);
    varint(tag << 3 | 2, &mut field);
    varint(content.len() as u64, &mut field);
    field.extend_from_slice(content);
    field
}

fn packed(values: &[i64]) -> Vec<u8> {
    let mut packed = Vec::new();
    values.iter().for_each(|&value| varint(value.cast_unsigned(), &mut packed));
    packed
}

fn packed_floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// The value of an attribute.
#[derive(Clone)]
pub(crate) enum Given {
    Int(i64),
    Text(&'static str),
    Ints(Vec<i64>),
    Floats(Vec<f32>),
    Texts(Vec<String>),
    /// A whole `TensorProto`.
    Tensor(Vec<u8>),
}

/// An attribute by name.
pub(crate) type Attribute = (&'static str, Given);

fn attribute((name, given): &Attribute) -> Vec<u8> {
    let (kind, value) = match given {
        Given::Int(value) => (2, number(3, value.cast_unsigned())),
        Given::Text(value) => (3, bytes(4, value)),
        Given::Tensor(value) => (4, bytes(5, value)),
        Given::Floats(values) => (6, bytes(7, packed_floats(values))),
        Given::Ints(values) => (7, bytes(8, packed(values))),
        Given::Texts(values) => (8, values.iter().flat_map(|value| bytes(9, value)).collect()),
    };
    [bytes(1, name), value, number(20, kind)].concat()
}

/// A weight: `raw` is its content, however much its shape asks for.
pub(crate) fn tensor(name: &str, dtype: u64, dims: &[i64], raw: &[u8]) -> Vec<u8> {
    let dims = dims.iter().flat_map(|&length| number(1, length.cast_unsigned())).collect::<Vec<u8>>();
    [dims, number(2, dtype), bytes(8, name), bytes(9, raw)].concat()
}

/// Whole numbers as the raw content of a weight.
pub(crate) fn raw(values: &[i64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// A model under construction.
#[derive(Default)]
pub(crate) struct Model {
    graph: Vec<u8>,
    ml: u64,
}

impl Model {
    /// With the operators of `ai.onnx.ml` of that version.
    pub(crate) fn of(ml: u64) -> Model {
        Model { graph: Vec::new(), ml }
    }

    /// A node; an operator of `ai.onnx.ml` is written `ml:Name`. Names are put apart by spaces.
    pub(crate) fn node(mut self, operator: &str, inputs: &str, outputs: &str, attributes: &[Attribute]) -> Model {
        let (domain, operator) = operator.split_once(':').map_or(("", operator), |(_, name)| ("ai.onnx.ml", name));
        let names = |tag, names: &str| names.split_whitespace().flat_map(|name| bytes(tag, name)).collect::<Vec<u8>>();
        let attributes: Vec<u8> = attributes.iter().flat_map(|given| bytes(5, attribute(given))).collect();
        let node = [names(1, inputs), names(2, outputs), bytes(4, operator), attributes, bytes(7, domain)];
        self.graph.extend(bytes(1, node.concat()));
        self
    }

    pub(crate) fn weight(mut self, name: &str, dtype: u64, dims: &[i64], raw: &[u8]) -> Model {
        self.graph.extend(bytes(5, tensor(name, dtype, dims, raw)));
        self
    }

    /// An input of rows with this many columns.
    pub(crate) fn input(mut self, name: &str, dtype: u64, columns: u64) -> Model {
        self.graph.extend(bytes(11, value(name, dtype, Some(columns))));
        self
    }

    /// An output of any shape.
    pub(crate) fn output(mut self, name: &str, dtype: u64) -> Model {
        self.graph.extend(bytes(12, value(name, dtype, None)));
        self
    }

    pub(crate) fn write(self) -> Vec<u8> {
        let opset = |domain: &str, version| bytes(8, [bytes(1, domain), number(2, version)].concat());
        [number(1, 8), bytes(7, self.graph), opset("", 17), opset("ai.onnx.ml", self.ml)].concat()
    }
}

fn value(name: &str, dtype: u64, columns: Option<u64>) -> Vec<u8> {
    let dims = columns.map(|columns| [bytes(1, bytes(2, "rows")), bytes(1, number(1, columns))].concat());
    let shape = dims.map(|dims| bytes(2, dims)).unwrap_or_default();
    let tensor = [number(1, dtype), shape].concat();
    [bytes(1, name), bytes(2, bytes(1, tensor))].concat()
}
