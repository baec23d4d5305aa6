//! What does an ONNX file say about itself, before any engine has seen it?
//!
//! Only the fields that matter here are declared, with the numbers of `onnx.proto3`; the decoder skips the rest,
//! weights above all, without copying them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};

use bytes::Bytes;
use prost::Message;
use tiltyard_types::{DataType, Dim, Signature, TensorSpec};

/// Versions that operator sets of the default domain can have. They have come to the middle twenties in ten years; which
/// of them an engine knows is for the engine to say.
const OPSETS: std::ops::RangeInclusive<i64> = 1..=100;

/// What a model file says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Graph {
    /// Which [format](crate::engine::Format) the file is of; `None` where it is ONNX.
    pub format: Option<&'static str>,
    /// The names of the columns of its only input, where the format tells them.
    pub columns: Vec<String>,
    /// Inputs and outputs that are tensors.
    pub signature: Signature,
    /// Outputs that are not tensors, by name: they cannot be served, but for those that are maps.
    pub other_outputs: Vec<String>,
    /// Those of them that map the classes of a classifier to their scores (a `ZipMap`'s): an engine may serve one as a tensor.
    pub maps: Vec<String>,
    /// The version of each operator set the file imports; the default domain is `ai.onnx`.
    pub opsets: Vec<(String, i64)>,
    /// Which exporter wrote it, with its version.
    pub producer: String,
    /// Every operator used, subgraphs and functions included: `Conv`, or with its domain `ai.onnx.ml.Scaler`.
    pub operators: BTreeSet<String>,
    /// Files beside the model that hold its weights, as the graph names them, and the bytes each has at least.
    pub external_files: BTreeMap<String, u64>,
    /// Free text entries, such as column names an exporter left.
    pub metadata: Vec<(String, String)>,
}

/// Why a file is not a model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OnnxError {
    /// Nothing in it.
    #[error("the file is empty")]
    Empty,
    /// The bytes are not the protocol buffer of an ONNX model, or end too early.
    #[error("not a whole ONNX model (truncated, or another format): {0}")]
    Malformed(String),
    /// No graph, or one without outputs.
    #[error("not an ONNX model: {0}")]
    NoGraph(&'static str),
    /// An input of a kind that no protocol can carry.
    #[error("input {name:?} is {kind}, which cannot be served: only tensors can")]
    Input {
        /// Its name.
        name: String,
        /// What it is instead of a tensor.
        kind: String,
    },
    /// No output is a tensor.
    #[error("no output is a tensor ({0}); export the classifier with the option zipmap=False")]
    Outputs(String),
    /// External data outside the model's folder.
    #[error("external data {0:?} is not inside the model's folder")]
    Escape(String),
    /// External data that is not there.
    #[error("external data file {0:?} is missing beside the model")]
    MissingData(String),
    /// External data that ends too early.
    #[error("external data file {name:?} is not whole yet: it has {there} bytes, and the graph asks for {needed}")]
    ShortData {
        /// Its name.
        name: String,
        /// Bytes that it has.
        there: u64,
        /// Bytes that the graph's weights need.
        needed: u64,
    },
    /// An operator set that was never released.
    #[error("unknown opset {0}: no such version of the ai.onnx operators was ever released")]
    Opset(i64),
}

impl Graph {
    /// Reads the file's own account of itself. Costs time in proportion to the number of nodes and weights, not to
    /// their size.
    pub fn read(file: &Bytes) -> Result<Graph, OnnxError> {
        if file.is_empty() {
            return Err(OnnxError::Empty);
        }
        let model = wire::Model::decode(file.clone()).map_err(|error| OnnxError::Malformed(error.to_string()))?;
        let graph = model.graph.as_ref().ok_or(OnnxError::NoGraph("it has no graph"))?;
        if graph.output.is_empty() {
            return Err(OnnxError::NoGraph("its graph has no outputs"));
        }
        let opsets: Vec<(String, i64)> =
            model.opset_import.iter().map(|opset| (domain_name(&opset.domain).to_owned(), opset.version)).collect();
        for (domain, version) in &opsets {
            if domain == "ai.onnx" && !OPSETS.contains(version) {
                return Err(OnnxError::Opset(*version));
            }
        }

        let mut read = Graph {
            opsets,
            producer: format!("{} {}", model.producer_name, model.producer_version).trim().to_owned(),
            metadata: model.metadata_props.into_iter().map(|entry| (entry.key, entry.value)).collect(),
            ..Graph::default()
        };
        read.walk(graph)?;
        for function in &model.functions {
            read.walk_nodes(&function.node)?;
        }
        read.read_signature(graph)?;
        Ok(read)
    }

    /// Checks that every external data file is there, with as many bytes as the weights in it need; `size` tells how
    /// many a file has.
    pub fn check_external_files(&self, size: impl Fn(&str) -> Option<u64>) -> Result<(), OnnxError> {
        for (name, &needed) in &self.external_files {
            let there = size(name).ok_or_else(|| OnnxError::MissingData(name.clone()))?;
            if there < needed {
                return Err(OnnxError::ShortData { name: name.clone(), there, needed });
            }
        }
        Ok(())
    }

    /// Whether the graph uses operators of `domain`, such as `ai.onnx.ml`.
    pub fn uses_domain(&self, domain: &str) -> bool {
        self.operators.iter().any(|op| op.strip_prefix(domain).is_some_and(|rest| rest.starts_with('.')))
    }

    /// The signature with what an engine may serve besides: the maps, each as a matrix.
    pub fn servable(&self) -> Signature {
        let mut signature = self.signature.clone();
        let matrix = |name: &String| TensorSpec {
            name: name.clone(),
            dtype: DataType::Fp32,
            dims: Some(vec![Dim::Dynamic(None), Dim::Dynamic(None)]),
            optional: false,
        };
        signature.outputs.extend(self.maps.iter().map(matrix));
        signature
    }

    fn read_signature(&mut self, graph: &wire::Graph) -> Result<(), OnnxError> {
        let defaults: BTreeSet<&str> = graph
            .initializer
            .iter()
            .map(|tensor| tensor.name.as_str())
            .chain(graph.sparse_initializer.iter().filter_map(|sparse| Some(sparse.values.as_ref()?.name.as_str())))
            .collect();
        for input in &graph.input {
            let optional = defaults.contains(input.name.as_str());
            match spec(input, optional) {
                Ok(spec) => self.signature.inputs.push(spec),
                // Weights that old exporters list as inputs may be of any type: nobody sends them.
                Err(_) if optional => {}
                Err(kind) => return Err(OnnxError::Input { name: input.name.clone(), kind }),
            }
        }
        for output in &graph.output {
            match spec(output, false) {
                Ok(spec) => self.signature.outputs.push(spec),
                Err(_) => self.other_outputs.push(output.name.clone()),
            }
        }
        let zipped = graph.node.iter().filter(|node| node.op_type == "ZipMap" && node.domain == "ai.onnx.ml");
        let zipped = zipped.flat_map(|node| &node.output);
        self.maps = zipped.filter(|name| self.other_outputs.contains(name)).cloned().collect();
        if self.signature.outputs.is_empty() && self.maps.is_empty() {
            return Err(OnnxError::Outputs(self.other_outputs.join(", ")));
        }
        Ok(())
    }

    fn walk(&mut self, graph: &wire::Graph) -> Result<(), OnnxError> {
        let sparse = graph.sparse_initializer.iter().flat_map(wire::SparseTensor::parts);
        for tensor in graph.initializer.iter().chain(sparse) {
            self.note_external(tensor)?;
        }
        self.walk_nodes(&graph.node)
    }

    fn walk_nodes(&mut self, nodes: &[wire::Node]) -> Result<(), OnnxError> {
        for node in nodes {
            self.operators.insert(match domain_name(&node.domain) {
                "ai.onnx" => node.op_type.clone(),
                domain => format!("{domain}.{}", node.op_type),
            });
            for attribute in &node.attribute {
                let sparse = attribute.sparse_tensor.iter().chain(&attribute.sparse_tensors);
                let sparse = sparse.flat_map(wire::SparseTensor::parts);
                for tensor in attribute.t.iter().chain(&attribute.tensors).chain(sparse) {
                    self.note_external(tensor)?;
                }
                for graph in attribute.g.iter().chain(&attribute.graphs) {
                    self.walk(graph)?;
                }
            }
        }
        Ok(())
    }

    fn note_external(&mut self, tensor: &wire::Tensor) -> Result<(), OnnxError> {
        const EXTERNAL: i32 = 1;
        if tensor.data_location != EXTERNAL {
            return Ok(());
        }
        let end = tensor.external_end();
        for entry in tensor.external_data.iter().filter(|entry| entry.key == "location") {
            let inside = Path::new(&entry.value)
                .components()
                .all(|component| matches!(component, Component::Normal(_) | Component::CurDir));
            if !inside || entry.value.is_empty() {
                return Err(OnnxError::Escape(entry.value.clone()));
            }
            let needed = self.external_files.entry(entry.value.clone()).or_default();
            *needed = end.max(*needed);
        }
        Ok(())
    }
}

fn domain_name(domain: &str) -> &str {
    if domain.is_empty() { "ai.onnx" } else { domain }
}

/// The spec of a graph input or output, or what it is instead of a tensor.
fn spec(value: &wire::ValueInfo, optional: bool) -> Result<TensorSpec, String> {
    let Some(kind) = &value.r#type else { return Err("without a type".into()) };
    let (tensor, optional) = match (&kind.tensor_type, &kind.optional_type) {
        (Some(tensor), _) => (tensor, optional),
        (None, Some(inner)) => match inner.elem_type.as_ref().and_then(|kind| kind.tensor_type.as_ref()) {
            Some(tensor) => (tensor, true),
            None => return Err("an optional that is not a tensor".into()),
        },
        (None, None) if kind.sequence_type.is_some() => return Err("a sequence".into()),
        (None, None) if kind.map_type.is_some() => return Err("a map".into()),
        (None, None) => return Err("not a tensor".into()),
    };
    let dtype = dtype(tensor.elem_type).ok_or_else(|| format!("a tensor of ONNX type {}", tensor.elem_type))?;
    let dims = tensor.shape.as_ref().map(|shape| shape.dim.iter().map(dim).collect());
    Ok(TensorSpec { name: value.name.clone(), dtype, dims, optional })
}

fn dim(dim: &wire::Dimension) -> Dim {
    match (dim.dim_value, &dim.dim_param) {
        // Exporters write 0 and negative numbers for "unknown" too; a real zero-length axis is not seen in practice.
        (Some(length), _) if length > 0 => Dim::Fixed(length as usize),
        (_, Some(name)) if !name.is_empty() => Dim::Dynamic(Some(name.clone())),
        _ => Dim::Dynamic(None),
    }
}

/// Maps `TensorProto.DataType`.
fn dtype(onnx: i32) -> Option<DataType> {
    Some(match onnx {
        1 => DataType::Fp32,
        2 => DataType::Uint8,
        3 => DataType::Int8,
        4 => DataType::Uint16,
        5 => DataType::Int16,
        6 => DataType::Int32,
        7 => DataType::Int64,
        8 => DataType::Bytes,
        9 => DataType::Bool,
        10 => DataType::Fp16,
        11 => DataType::Fp64,
        12 => DataType::Uint32,
        13 => DataType::Uint64,
        16 => DataType::Bf16,
        _ => return None,
    })
}

/// The fields of `onnx.proto3` that are read here.
mod wire {
    use prost::Message;

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Model {
        #[prost(string, tag = "2")]
        pub(super) producer_name: String,
        #[prost(string, tag = "3")]
        pub(super) producer_version: String,
        #[prost(message, optional, tag = "7")]
        pub(super) graph: Option<Graph>,
        #[prost(message, repeated, tag = "8")]
        pub(super) opset_import: Vec<OperatorSet>,
        #[prost(message, repeated, tag = "14")]
        pub(super) metadata_props: Vec<Entry>,
        #[prost(message, repeated, tag = "25")]
        pub(super) functions: Vec<Function>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct OperatorSet {
        #[prost(string, tag = "1")]
        pub(super) domain: String,
        #[prost(int64, tag = "2")]
        pub(super) version: i64,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Entry {
        #[prost(string, tag = "1")]
        pub(super) key: String,
        #[prost(string, tag = "2")]
        pub(super) value: String,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Function {
        #[prost(message, repeated, tag = "7")]
        pub(super) node: Vec<Node>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Graph {
        #[prost(message, repeated, tag = "1")]
        pub(super) node: Vec<Node>,
        #[prost(message, repeated, tag = "5")]
        pub(super) initializer: Vec<Tensor>,
        #[prost(message, repeated, tag = "11")]
        pub(super) input: Vec<ValueInfo>,
        #[prost(message, repeated, tag = "12")]
        pub(super) output: Vec<ValueInfo>,
        #[prost(message, repeated, tag = "15")]
        pub(super) sparse_initializer: Vec<SparseTensor>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Node {
        #[prost(string, repeated, tag = "2")]
        pub(super) output: Vec<String>,
        #[prost(string, tag = "4")]
        pub(super) op_type: String,
        #[prost(message, repeated, tag = "5")]
        pub(super) attribute: Vec<Attribute>,
        #[prost(string, tag = "7")]
        pub(super) domain: String,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Attribute {
        #[prost(message, optional, tag = "5")]
        pub(super) t: Option<Tensor>,
        #[prost(message, optional, tag = "6")]
        pub(super) g: Option<Graph>,
        #[prost(message, repeated, tag = "10")]
        pub(super) tensors: Vec<Tensor>,
        #[prost(message, repeated, tag = "11")]
        pub(super) graphs: Vec<Graph>,
        #[prost(message, optional, tag = "22")]
        pub(super) sparse_tensor: Option<SparseTensor>,
        #[prost(message, repeated, tag = "23")]
        pub(super) sparse_tensors: Vec<SparseTensor>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct SparseTensor {
        #[prost(message, optional, tag = "1")]
        pub(super) values: Option<Tensor>,
        #[prost(message, optional, tag = "2")]
        pub(super) indices: Option<Tensor>,
    }

    impl SparseTensor {
        pub(super) fn parts(&self) -> impl Iterator<Item = &Tensor> {
            self.values.iter().chain(&self.indices)
        }
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Tensor {
        #[prost(int64, repeated, tag = "1")]
        pub(super) dims: Vec<i64>,
        #[prost(int32, tag = "2")]
        pub(super) data_type: i32,
        #[prost(string, tag = "8")]
        pub(super) name: String,
        #[prost(message, repeated, tag = "13")]
        pub(super) external_data: Vec<Entry>,
        #[prost(int32, tag = "14")]
        pub(super) data_location: i32,
    }

    impl Tensor {
        /// Where its bytes end in the file that holds them. What is not a number says nothing.
        pub(super) fn external_end(&self) -> u64 {
            let entry = |key: &str| self.external_data.iter().find(|entry| entry.key == key);
            let number = |key: &str| entry(key).and_then(|entry| entry.value.parse::<u64>().ok());
            let width = super::dtype(self.data_type).and_then(|dtype| dtype.width()).unwrap_or(0) as u64;
            let lengths = self.dims.iter().map(|&length| u64::try_from(length).unwrap_or(0));
            let of_shape = lengths.fold(width, u64::saturating_mul);
            number("offset").unwrap_or(0).saturating_add(number("length").unwrap_or(of_shape))
        }
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct ValueInfo {
        #[prost(string, tag = "1")]
        pub(super) name: String,
        #[prost(message, optional, tag = "2")]
        pub(super) r#type: Option<Type>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Type {
        #[prost(message, optional, tag = "1")]
        pub(super) tensor_type: Option<TensorType>,
        #[prost(message, optional, tag = "4")]
        pub(super) sequence_type: Option<Opaque>,
        #[prost(message, optional, tag = "5")]
        pub(super) map_type: Option<Opaque>,
        #[prost(message, optional, boxed, tag = "9")]
        pub(super) optional_type: Option<Box<OptionalType>>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct OptionalType {
        #[prost(message, optional, boxed, tag = "1")]
        pub(super) elem_type: Option<Box<Type>>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Opaque {}

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct TensorType {
        #[prost(int32, tag = "1")]
        pub(super) elem_type: i32,
        #[prost(message, optional, tag = "2")]
        pub(super) shape: Option<TensorShape>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct TensorShape {
        #[prost(message, repeated, tag = "1")]
        pub(super) dim: Vec<Dimension>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Dimension {
        #[prost(int64, optional, tag = "1")]
        pub(super) dim_value: Option<i64>,
        #[prost(string, optional, tag = "2")]
        pub(super) dim_param: Option<String>,
    }
}
