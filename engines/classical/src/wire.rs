//! Which fields of `onnx.proto3` does this engine read?
//!
//! Texts, raw weights and attributes stay slices of the file: a large ensemble has millions of them.

mod attribute;

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use prost::Message;
use tiltyard_runtime::engine::EngineError;

pub(crate) use self::attribute::{Attribute, Lengths};

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Model {
    #[prost(message, optional, tag = "7")]
    pub(crate) graph: Option<Graph>,
    #[prost(message, repeated, tag = "8")]
    pub(crate) opset_import: Vec<OperatorSet>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct OperatorSet {
    #[prost(string, tag = "1")]
    pub(crate) domain: String,
    #[prost(int64, tag = "2")]
    pub(crate) version: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Graph {
    #[prost(message, repeated, tag = "1")]
    pub(crate) node: Vec<Node>,
    #[prost(message, repeated, tag = "5")]
    pub(crate) initializer: Vec<Tensor>,
    #[prost(message, repeated, tag = "12")]
    pub(crate) output: Vec<Value>,
    #[prost(message, repeated, tag = "15")]
    pub(crate) sparse_initializer: Vec<Present>,
}

/// Names of values, the given ones among them, that nodes need to make these values.
pub(crate) fn ancestors<'a>(graph: &'a Graph, of: impl IntoIterator<Item = &'a str>) -> HashSet<&'a str> {
    let mut makers: HashMap<&str, &Node> = HashMap::new();
    for node in &graph.node {
        makers.extend(node.output.iter().map(|output| (output.as_str(), node)));
    }
    let mut waiting: Vec<&str> = of.into_iter().collect();
    let mut found: HashSet<&str> = waiting.iter().copied().collect();
    while let Some(name) = waiting.pop() {
        let inputs = makers.get(name).into_iter().flat_map(|node| &node.input).filter(|input| !input.is_empty());
        waiting.extend(inputs.map(String::as_str).filter(|input| found.insert(input)));
    }
    found
}

/// An input or output of the graph; the runtime has read what else is said of it.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Value {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Node {
    #[prost(string, repeated, tag = "1")]
    pub(crate) input: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    pub(crate) output: Vec<String>,
    #[prost(string, tag = "3")]
    pub(crate) name: String,
    #[prost(string, tag = "4")]
    pub(crate) op_type: String,
    /// Each is an [`Attribute`].
    #[prost(bytes = "bytes", repeated, tag = "5")]
    pub(crate) attribute: Vec<Bytes>,
    #[prost(string, tag = "7")]
    pub(crate) domain: String,
}

impl Node {
    /// Its attributes, read.
    pub(crate) fn attributes(&self) -> Result<Vec<Attribute>, EngineError> {
        let attributes = self.attribute.iter().map(Attribute::read).collect::<Result<_, _>>();
        attributes.map_err(|error| {
            EngineError::BadModel(format!("not a whole ONNX model: an attribute of node {:?}: {error}", self.name))
        })
    }
}

/// Something of which only matters that it is there.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Present {}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Tensor {
    #[prost(int64, repeated, tag = "1")]
    pub(crate) dims: Vec<i64>,
    #[prost(int32, tag = "2")]
    pub(crate) data_type: i32,
    #[prost(float, repeated, tag = "4")]
    pub(crate) float_data: Vec<f32>,
    #[prost(int32, repeated, tag = "5")]
    pub(crate) int32_data: Vec<i32>,
    #[prost(bytes = "bytes", repeated, tag = "6")]
    pub(crate) string_data: Vec<Bytes>,
    #[prost(int64, repeated, tag = "7")]
    pub(crate) int64_data: Vec<i64>,
    #[prost(string, tag = "8")]
    pub(crate) name: String,
    #[prost(bytes = "bytes", tag = "9")]
    pub(crate) raw_data: Bytes,
    #[prost(double, repeated, tag = "10")]
    pub(crate) double_data: Vec<f64>,
    #[prost(message, repeated, tag = "13")]
    pub(crate) external_data: Vec<Entry>,
    #[prost(int32, tag = "14")]
    pub(crate) data_location: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Entry {
    #[prost(string, tag = "1")]
    pub(crate) key: String,
    #[prost(string, tag = "2")]
    pub(crate) value: String,
}
