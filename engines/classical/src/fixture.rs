//! How are small ONNX models made, and run, for the tests of this crate?

use std::path::Path;

use bytes::Bytes;
use prost::Message;
use tiltyard_runtime::engine::{CompileOptions, CompiledModel, Engine, EngineError, ModelFile};
use tiltyard_runtime::onnx::Graph;
use tiltyard_types::{DataType, Tensor};

use crate::wire;

/// The domain of classical operators.
pub(crate) const ML: &str = "ai.onnx.ml";

/// An axis that is of any length.
pub(crate) const ANY: i64 = -1;

#[derive(Clone, PartialEq, Message)]
struct FileModel {
    #[prost(message, optional, tag = "7")]
    graph: Option<FileGraph>,
    #[prost(message, repeated, tag = "8")]
    opset_import: Vec<wire::OperatorSet>,
}

#[derive(Clone, PartialEq, Message)]
struct FileGraph {
    #[prost(message, repeated, tag = "1")]
    node: Vec<wire::Node>,
    #[prost(message, repeated, tag = "5")]
    initializer: Vec<wire::Tensor>,
    #[prost(message, repeated, tag = "11")]
    input: Vec<Declared>,
    #[prost(message, repeated, tag = "12")]
    output: Vec<Declared>,
}

#[derive(Clone, PartialEq, Message)]
struct Declared {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    kind: Option<Kind>,
}

#[derive(Clone, PartialEq, Message)]
struct Kind {
    #[prost(message, optional, tag = "1")]
    tensor: Option<TensorKind>,
    #[prost(message, optional, tag = "4")]
    sequence: Option<wire::Present>,
}

#[derive(Clone, PartialEq, Message)]
struct TensorKind {
    #[prost(int32, tag = "1")]
    elem_type: i32,
    #[prost(message, optional, tag = "2")]
    shape: Option<ShapeKind>,
}

#[derive(Clone, PartialEq, Message)]
struct ShapeKind {
    #[prost(message, repeated, tag = "1")]
    dim: Vec<DimKind>,
}

#[derive(Clone, PartialEq, Message)]
struct DimKind {
    #[prost(int64, optional, tag = "1")]
    value: Option<i64>,
}

fn number(dtype: DataType) -> i32 {
    match dtype {
        DataType::Fp32 => 1,
        DataType::Int32 => 6,
        DataType::Int64 => 7,
        DataType::Bytes => 8,
        DataType::Bool => 9,
        DataType::Fp64 => 11,
        DataType::Fp16 => 10,
        other => panic!("no test has {other}"),
    }
}

fn declared(name: &str, dtype: DataType, axes: &[i64]) -> Declared {
    let dim = axes.iter().map(|&length| DimKind { value: (length >= 0).then_some(length) }).collect();
    let tensor = TensorKind { elem_type: number(dtype), shape: Some(ShapeKind { dim }) };
    Declared { name: name.into(), kind: Some(Kind { tensor: Some(tensor), sequence: None }) }
}

#[derive(Clone, PartialEq, Message)]
struct FileAttribute {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(float, tag = "2")]
    f: f32,
    #[prost(int64, tag = "3")]
    i: i64,
    #[prost(bytes = "bytes", tag = "4")]
    s: Bytes,
    #[prost(message, optional, tag = "5")]
    t: Option<wire::Tensor>,
    #[prost(float, repeated, packed = "false", tag = "7")]
    floats: Vec<f32>,
    #[prost(int64, repeated, packed = "false", tag = "8")]
    ints: Vec<i64>,
    #[prost(bytes = "bytes", repeated, tag = "9")]
    strings: Vec<Bytes>,
}

/// An attribute's value.
#[allow(clippy::large_enum_variant, reason = "a test has few of them")]
pub(crate) enum Attr<'a> {
    Int(i64),
    Float(f32),
    Text(&'a str),
    Ints(&'a [i64]),
    Floats(&'a [f32]),
    Texts(&'a [&'a str]),
    Tensor(wire::Tensor),
}

/// A tensor of an attribute.
pub(crate) fn doubles(values: &[f64]) -> wire::Tensor {
    wire::Tensor { dims: vec![values.len() as i64], data_type: 11, double_data: values.to_vec(), ..Default::default() }
}

/// A tensor of an attribute.
pub(crate) fn singles(values: &[f32]) -> wire::Tensor {
    wire::Tensor { dims: vec![values.len() as i64], data_type: 1, float_data: values.to_vec(), ..Default::default() }
}

/// A tensor of bytes of an attribute.
pub(crate) fn small(values: &[u8]) -> wire::Tensor {
    let raw_data = Bytes::copy_from_slice(values);
    wire::Tensor { dims: vec![values.len() as i64], data_type: 2, raw_data, ..Default::default() }
}

/// A model under construction.
#[derive(Clone, Default)]
pub(crate) struct Model {
    graph: FileGraph,
    opsets: [i64; 2],
}

impl Model {
    /// Of opset 17, and version 3 of the classical operators.
    pub(crate) fn new() -> Model {
        Model { graph: FileGraph::default(), opsets: [17, 3] }
    }

    pub(crate) fn opsets(mut self, onnx: i64, ml: i64) -> Model {
        self.opsets = [onnx, ml];
        self
    }

    pub(crate) fn input(mut self, name: &str, dtype: DataType, axes: &[i64]) -> Model {
        self.graph.input.push(declared(name, dtype, axes));
        self
    }

    pub(crate) fn output(mut self, name: &str, dtype: DataType, axes: &[i64]) -> Model {
        self.graph.output.push(declared(name, dtype, axes));
        self
    }

    /// An output that is a sequence of maps.
    pub(crate) fn maps(mut self, name: &str) -> Model {
        let kind = Some(Kind { tensor: None, sequence: Some(wire::Present {}) });
        self.graph.output.push(Declared { name: name.into(), kind });
        self
    }

    pub(crate) fn node(
        self,
        operator: &str,
        inputs: &[&str],
        outputs: &[&str],
        attributes: &[(&str, Attr<'_>)],
    ) -> Model {
        self.node_of("", operator, inputs, outputs, attributes)
    }

    pub(crate) fn ml(
        self,
        operator: &str,
        inputs: &[&str],
        outputs: &[&str],
        attributes: &[(&str, Attr<'_>)],
    ) -> Model {
        self.node_of(ML, operator, inputs, outputs, attributes)
    }

    fn node_of(
        mut self,
        domain: &str,
        operator: &str,
        inputs: &[&str],
        outputs: &[&str],
        attributes: &[(&str, Attr<'_>)],
    ) -> Model {
        let attribute = |(name, value): &(&str, Attr<'_>)| {
            let mut attribute = FileAttribute { name: (*name).into(), ..Default::default() };
            match value {
                Attr::Int(value) => attribute.i = *value,
                Attr::Float(value) => attribute.f = *value,
                Attr::Text(value) => attribute.s = Bytes::copy_from_slice(value.as_bytes()),
                Attr::Ints(values) => attribute.ints = values.to_vec(),
                Attr::Floats(values) => attribute.floats = values.to_vec(),
                Attr::Texts(values) => {
                    attribute.strings = values.iter().map(|text| Bytes::copy_from_slice(text.as_bytes())).collect();
                }
                Attr::Tensor(tensor) => attribute.t = Some(tensor.clone()),
            }
            Bytes::from(attribute.encode_to_vec())
        };
        self.graph.node.push(wire::Node {
            input: inputs.iter().map(|&name| name.into()).collect(),
            output: outputs.iter().map(|&name| name.into()).collect(),
            name: outputs.first().copied().unwrap_or_default().into(),
            op_type: operator.into(),
            attribute: attributes.iter().map(attribute).collect(),
            domain: domain.into(),
        });
        self
    }

    pub(crate) fn floats(mut self, name: &str, dims: &[i64], values: &[f32]) -> Model {
        self.graph.initializer.push(wire::Tensor { name: name.into(), dims: dims.to_vec(), ..singles(values) });
        self
    }

    pub(crate) fn ints(mut self, name: &str, dims: &[i64], values: &[i64]) -> Model {
        let tensor = wire::Tensor { data_type: 7, int64_data: values.to_vec(), ..Default::default() };
        self.graph.initializer.push(wire::Tensor { name: name.into(), dims: dims.to_vec(), ..tensor });
        self
    }

    pub(crate) fn file(self) -> ModelFile {
        let set = |domain: &str, version| wire::OperatorSet { domain: domain.into(), version };
        let opset_import = vec![set("", self.opsets[0]), set(ML, self.opsets[1])];
        let bytes = Bytes::from(FileModel { graph: Some(self.graph), opset_import }.encode_to_vec());
        let graph = Graph::read(&bytes).expect("the runtime reads it");
        ModelFile { path: Path::new("nowhere").to_owned(), bytes, external: Default::default(), graph }
    }

    pub(crate) fn compile(self) -> Result<Box<dyn CompiledModel>, EngineError> {
        crate::engine().compile(&self.file(), &CompileOptions::default())
    }

    /// Why it is refused.
    #[track_caller]
    pub(crate) fn refused(self) -> String {
        self.compile().err().expect("it is refused").to_string()
    }

    /// What it answers to these inputs.
    pub(crate) fn try_run(self, inputs: &[Tensor]) -> Result<Vec<Tensor>, EngineError> {
        let compiled = self.compile()?;
        let wanted: Vec<usize> = (0..compiled.signature().outputs.len()).collect();
        let inputs: Vec<Option<Tensor>> = inputs.iter().cloned().map(Some).collect();
        let mut session = compiled.open()?;
        let first = session.run(&inputs, &wanted)?;
        // A session keeps its values: the second answer is no other.
        assert_eq!(format!("{:?}", session.run(&inputs, &wanted)?), format!("{first:?}"));
        Ok(first)
    }

    #[track_caller]
    pub(crate) fn run(self, inputs: &[Tensor]) -> Vec<Tensor> {
        self.try_run(inputs).expect("it runs")
    }
}

pub(crate) fn f32s(dims: &[usize], values: &[f32]) -> Tensor {
    Tensor::from_slice(dims, values).expect("as many as the shape says")
}

pub(crate) fn f64s(dims: &[usize], values: &[f64]) -> Tensor {
    Tensor::from_slice(dims, values).expect("as many as the shape says")
}

pub(crate) fn i64s(dims: &[usize], values: &[i64]) -> Tensor {
    Tensor::from_slice(dims, values).expect("as many as the shape says")
}

pub(crate) fn texts(dims: &[usize], values: &[&str]) -> Tensor {
    let values = values.iter().map(|text| Bytes::copy_from_slice(text.as_bytes())).collect();
    Tensor::strings(dims.into(), values).expect("as many as the shape says")
}

/// Whether floats are equal but for the order of sums; NaN is equal to NaN.
#[track_caller]
pub(crate) fn assert_close(tensor: &Tensor, expected: &[f32]) {
    let values: Vec<f32> = tensor.to_vec().expect("floats");
    let close = |(value, expected): (&f32, &f32)| {
        (value.is_nan() && expected.is_nan())
            || value == expected
            || (value - expected).abs() <= 1e-6 * expected.abs().max(1e-2)
    };
    assert!(
        values.len() == expected.len() && values.iter().zip(expected).all(close),
        "{values:?}, expected {expected:?}"
    );
}
