//! What is a model whose every answer tells which version gave it?
//!
//! `y = ((x · A) · B) · stamp`, where A and B undo each other exactly: ballast, so that a version that is not freed is
//! seen in the memory of the process. The stamp is one number in the file; no two versions have the same. Between A and B
//! there may be products that change nothing, for a model whose rows cost as much as is wanted.

use serde_json::json;

/// Elements of a row.
pub(crate) const WIDTH: usize = 4;

/// The inner width: 2 matrices of 4 by this, 32 KiB together.
const INNER: usize = 1024;

/// The largest stamp: products with the small whole numbers that are sent are exact in 32 bits.
pub(crate) const STAMP_MAX: u32 = 1 << 19;

/// Field numbers of `onnx.proto3`, by message.
mod field {
    pub(super) const MODEL_IR: u32 = 1;
    pub(super) const MODEL_GRAPH: u32 = 7;
    pub(super) const MODEL_OPSET: u32 = 8;
    pub(super) const OPSET_VERSION: u32 = 2;
    pub(super) const GRAPH_NODE: u32 = 1;
    pub(super) const GRAPH_NAME: u32 = 2;
    pub(super) const GRAPH_WEIGHTS: u32 = 5;
    pub(super) const GRAPH_INPUT: u32 = 11;
    pub(super) const GRAPH_OUTPUT: u32 = 12;
    pub(super) const NODE_INPUT: u32 = 1;
    pub(super) const NODE_OUTPUT: u32 = 2;
    pub(super) const NODE_KIND: u32 = 4;
    pub(super) const TENSOR_DIMS: u32 = 1;
    pub(super) const TENSOR_TYPE: u32 = 2;
    pub(super) const TENSOR_NAME: u32 = 8;
    pub(super) const TENSOR_RAW: u32 = 9;
    pub(super) const VALUE_NAME: u32 = 1;
    pub(super) const VALUE_TYPE: u32 = 2;
    pub(super) const TYPE_TENSOR: u32 = 1;
    pub(super) const TENSOR_TYPE_ELEMENT: u32 = 1;
    pub(super) const TENSOR_TYPE_SHAPE: u32 = 2;
    pub(super) const SHAPE_DIM: u32 = 1;
    pub(super) const DIM_VALUE: u32 = 1;
    pub(super) const DIM_NAME: u32 = 2;
}

const FLOAT: u64 = 1;
const IR_VERSION: u64 = 8;
const OPSET: u64 = 17;

/// A message of protocol buffers under construction.
#[derive(Default)]
struct Wire(Vec<u8>);

impl Wire {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn number(mut self, field: u32, value: u64) -> Wire {
        self.varint(u64::from(field) << 3);
        self.varint(value);
        self
    }

    fn bytes(mut self, field: u32, value: &[u8]) -> Wire {
        self.varint(u64::from(field) << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }

    fn text(self, field: u32, value: &str) -> Wire {
        self.bytes(field, value.as_bytes())
    }

    fn part(self, field: u32, part: Wire) -> Wire {
        self.bytes(field, &part.0)
    }

    fn parts(self, field: u32, parts: impl IntoIterator<Item = Wire>) -> Wire {
        parts.into_iter().fold(self, |wire, part| wire.part(field, part))
    }
}

/// A square of numbers that changes no row, to the bit.
fn square() -> Wire {
    let ones = (0..INNER * INNER).map(|at| if at / INNER == at % INNER { 1.0 } else { 0.0 });
    weights("square", &[INNER, INNER], ones)
}

fn node(kind: &str, inputs: [&str; 2], output: &str) -> Wire {
    let node = inputs.iter().fold(Wire::default(), |node, input| node.text(field::NODE_INPUT, input));
    node.text(field::NODE_OUTPUT, output).text(field::NODE_KIND, kind)
}

fn weights(name: &str, dims: &[usize], values: impl Iterator<Item = f32>) -> Wire {
    let raw: Vec<u8> = values.flat_map(f32::to_le_bytes).collect();
    let tensor = dims.iter().fold(Wire::default(), |tensor, &dim| tensor.number(field::TENSOR_DIMS, dim as u64));
    tensor.number(field::TENSOR_TYPE, FLOAT).text(field::TENSOR_NAME, name).bytes(field::TENSOR_RAW, &raw)
}

fn value(name: &str) -> Wire {
    let batch = Wire::default().text(field::DIM_NAME, "batch");
    let width = Wire::default().number(field::DIM_VALUE, WIDTH as u64);
    let shape = Wire::default().part(field::SHAPE_DIM, batch).part(field::SHAPE_DIM, width);
    let tensor = Wire::default().number(field::TENSOR_TYPE_ELEMENT, FLOAT).part(field::TENSOR_TYPE_SHAPE, shape);
    let kind = Wire::default().part(field::TYPE_TENSOR, tensor);
    Wire::default().text(field::VALUE_NAME, name).part(field::VALUE_TYPE, kind)
}

/// The ONNX file with this stamp.
pub(crate) fn model(stamp: u32) -> Vec<u8> {
    deep_model(stamp, 0)
}

/// The same with so many products of each row with a square of [`INNER`] by [`INNER`] numbers, 4 MiB for all of them.
pub(crate) fn deep_model(stamp: u32, products: usize) -> Vec<u8> {
    let (rows, columns) = (0..WIDTH * INNER, 0..INNER * WIDTH);
    let unit = |is_one: bool| if is_one { 1.0 } else { 0.0 };
    let widen = rows.map(|at| unit(at / INNER == at % INNER));
    let narrow = columns.map(|at| unit(at / WIDTH == at % WIDTH));
    let graph = Wire::default().part(field::GRAPH_NODE, node("MatMul", ["x", "widen"], "wide_0"));
    let wide = |number: usize| format!("wide_{number}");
    let graph = (0..products).fold(graph, |graph, number| {
        graph.part(field::GRAPH_NODE, node("MatMul", [&wide(number), "square"], &wide(number + 1)))
    });
    let graph = graph
        .part(field::GRAPH_NODE, node("MatMul", [&wide(products), "narrow"], "same"))
        .part(field::GRAPH_NODE, node("Mul", ["same", "stamp"], "y"))
        .text(field::GRAPH_NAME, "stamped")
        .part(field::GRAPH_WEIGHTS, weights("widen", &[WIDTH, INNER], widen))
        .part(field::GRAPH_WEIGHTS, weights("narrow", &[INNER, WIDTH], narrow))
        .part(field::GRAPH_WEIGHTS, weights("stamp", &[1], std::iter::once(stamp as f32)))
        .parts(field::GRAPH_WEIGHTS, (products > 0).then(square))
        .part(field::GRAPH_INPUT, value("x"))
        .part(field::GRAPH_OUTPUT, value("y"));
    let opset = Wire::default().number(field::OPSET_VERSION, OPSET);
    let model = Wire::default().number(field::MODEL_IR, IR_VERSION).part(field::MODEL_GRAPH, graph);
    model.part(field::MODEL_OPSET, opset).0
}

/// A golden example that only a model with this stamp passes.
pub(crate) fn golden(stamp: u32) -> Vec<u8> {
    let tensor =
        |name: &str, data: [u32; WIDTH]| json!({ "name": name, "datatype": "FP32", "shape": [1, WIDTH], "data": data });
    let golden = json!({
        "inputs": [tensor("x", [1, 2, 3, 4])],
        "outputs": [tensor("y", [1, 2, 3, 4].map(|value| value * stamp))],
        "tolerance": { "absolute": 0, "relative": 0 },
    });
    golden.to_string().into_bytes()
}

/// The same model with a note in its `doc_string`, so that no two have one digest: protocol buffers take the last of a field.
pub(crate) fn with_note(model: &[u8], note: &str) -> Vec<u8> {
    /// Field 6, length-delimited, of `ModelProto`.
    const DOC_STRING: u8 = 6 << 3 | 2;
    let mut bytes = model.to_vec();
    // Notes are shorter than 128 bytes, so that the length is one byte.
    bytes.extend([DOC_STRING, note.len().min(127) as u8]);
    bytes.extend(note.bytes().take(127));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_differ_by_their_stamp_alone() {
        let (one, other) = (model(3), model(5));
        assert_eq!(one.len(), other.len());
        let differ = one.iter().zip(&other).filter(|(one, other)| one != other).count();
        assert!((1..=4).contains(&differ), "{differ} bytes");
        assert!(one.len() > 2 * 4 * WIDTH * INNER);
    }

    #[test]
    fn products_make_a_file_larger_once() {
        assert!(deep_model(1, 1).len() > model(1).len() + 4 * INNER * INNER);
        assert!(deep_model(1, 9).len() < deep_model(1, 1).len() + 1024);
    }

    #[test]
    fn numbers_are_written_as_protocol_buffers_have_them() {
        assert_eq!(Wire::default().number(1, 300).0, [8, 0xac, 2]);
        assert_eq!(Wire::default().text(2, "ab").0, [18, 2, b'a', b'b']);
    }

    #[test]
    fn products_are_exact() {
        assert_eq!((STAMP_MAX as f32 * 16.0) as u32, STAMP_MAX * 16);
        assert_ne!((STAMP_MAX as f32 * 11.0), (STAMP_MAX - 1) as f32 * 11.0);
    }

    #[test]
    fn notes_are_a_field_of_their_own() {
        assert_eq!(with_note(&[8, 1], "copy"), [8, 1, 0x32, 4, b'c', b'o', b'p', b'y']);
        assert_eq!(with_note(&[], &"x".repeat(200)).len(), 129);
    }
}
