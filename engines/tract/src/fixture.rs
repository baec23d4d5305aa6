//! How are small ONNX models made for the tests of this crate?

use std::path::Path;

use bytes::Bytes;
use prost::Message;
use tiltyard_runtime::engine::ModelFile;
use tiltyard_runtime::onnx::Graph;
use tiltyard_types::DataType;
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto, TensorProto,
    TensorShapeProto, TypeProto, ValueInfoProto, attribute_proto, tensor_proto, tensor_shape_proto, type_proto,
};

/// An axis, as the tests write it: a length, a name, or nothing known.
#[derive(Clone, Copy)]
pub(crate) enum Axis {
    Long(i64),
    Called(&'static str),
    Unknown,
}

/// A model under construction.
pub(crate) struct Model(ModelProto);

impl Model {
    pub(crate) fn new() -> Model {
        let opset = |domain: &str, version| OperatorSetIdProto { domain: domain.into(), version };
        Model(ModelProto {
            ir_version: 8,
            opset_import: vec![opset("", 17), opset("ai.onnx.ml", 3)],
            graph: Some(GraphProto { name: "test".into(), ..GraphProto::default() }),
            ..ModelProto::default()
        })
    }

    pub(crate) fn input(mut self, name: &str, dtype: DataType, axes: &[Axis]) -> Model {
        self.graph().input.push(value(name, dtype, axes));
        self
    }

    pub(crate) fn output(mut self, name: &str, dtype: DataType, axes: &[Axis]) -> Model {
        self.graph().output.push(value(name, dtype, axes));
        self
    }

    /// Adds a node; an operator outside the default domain is written `domain:Name`.
    pub(crate) fn node(
        mut self,
        operator: &str,
        inputs: &[&str],
        outputs: &[&str],
        attributes: &[(&str, &[i64])],
    ) -> Model {
        let (domain, name) = operator.split_once(':').unwrap_or(("", operator));
        let node = NodeProto {
            op_type: name.into(),
            domain: domain.into(),
            name: outputs[0].into(),
            input: inputs.iter().map(|&name| name.into()).collect(),
            output: outputs.iter().map(|&name| name.into()).collect(),
            attribute: attributes.iter().map(|(name, values)| attribute(name, values)).collect(),
            ..NodeProto::default()
        };
        self.graph().node.push(node);
        self
    }

    pub(crate) fn floats(mut self, name: &str, shape: &[i64], values: &[f32]) -> Model {
        self.graph().initializer.push(TensorProto {
            name: name.into(),
            dims: shape.to_vec(),
            data_type: tensor_proto::DataType::Float as i32,
            raw_data: values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            ..TensorProto::default()
        });
        self
    }

    pub(crate) fn integers(mut self, name: &str, shape: &[i64], values: &[i64]) -> Model {
        self.graph().initializer.push(TensorProto {
            name: name.into(),
            dims: shape.to_vec(),
            data_type: tensor_proto::DataType::Int64 as i32,
            int64_data: values.to_vec(),
            ..TensorProto::default()
        });
        self
    }

    /// A weight of floats that lies in a file beside the model.
    pub(crate) fn external(mut self, name: &str, shape: &[i64], entries: &[(&str, &str)]) -> Model {
        let entry = |(key, value): &(&str, &str)| StringStringEntryProto { key: (*key).into(), value: (*value).into() };
        self.graph().initializer.push(TensorProto {
            name: name.into(),
            dims: shape.to_vec(),
            data_type: tensor_proto::DataType::Float as i32,
            data_location: Some(tensor_proto::DataLocation::External as i32),
            external_data: entries.iter().map(entry).collect(),
            ..TensorProto::default()
        });
        self
    }

    /// The model as it would lie in `folder`.
    pub(crate) fn file(self, folder: &Path) -> ModelFile {
        let bytes = Bytes::from(self.0.encode_to_vec());
        let graph = Graph::read(&bytes).expect("the test's model is sound");
        let read = |name: &String| Some((name.clone(), std::fs::read(folder.join(name)).ok()?.into()));
        let external = graph.external_files.keys().filter_map(read).collect();
        ModelFile { path: folder.join("model.onnx"), bytes, external, graph }
    }

    fn graph(&mut self) -> &mut GraphProto {
        self.0.graph.as_mut().expect("made with a graph")
    }
}

fn attribute(name: &str, values: &[i64]) -> AttributeProto {
    let mut attribute = AttributeProto { name: name.into(), ..AttributeProto::default() };
    match values {
        [value] => {
            attribute.r#type = attribute_proto::AttributeType::Int as i32;
            attribute.i = *value;
        }
        values => {
            attribute.r#type = attribute_proto::AttributeType::Ints as i32;
            attribute.ints = values.to_vec();
        }
    }
    attribute
}

fn value(name: &str, dtype: DataType, axes: &[Axis]) -> ValueInfoProto {
    use tensor_shape_proto::dimension::Value;

    let dim = axes.iter().map(|axis| tensor_shape_proto::Dimension {
        value: match axis {
            Axis::Long(length) => Some(Value::DimValue(*length)),
            Axis::Called(name) => Some(Value::DimParam((*name).into())),
            Axis::Unknown => None,
        },
        ..tensor_shape_proto::Dimension::default()
    });
    let tensor =
        type_proto::Tensor { elem_type: elem_type(dtype), shape: Some(TensorShapeProto { dim: dim.collect() }) };
    ValueInfoProto {
        name: name.into(),
        r#type: Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() }),
        ..ValueInfoProto::default()
    }
}

fn elem_type(dtype: DataType) -> i32 {
    use tensor_proto::DataType as Onnx;

    (match dtype {
        DataType::Bool => Onnx::Bool,
        DataType::Uint8 => Onnx::Uint8,
        DataType::Uint16 => Onnx::Uint16,
        DataType::Uint32 => Onnx::Uint32,
        DataType::Uint64 => Onnx::Uint64,
        DataType::Int8 => Onnx::Int8,
        DataType::Int16 => Onnx::Int16,
        DataType::Int32 => Onnx::Int32,
        DataType::Int64 => Onnx::Int64,
        DataType::Fp16 => Onnx::Float16,
        DataType::Bf16 => Onnx::Bfloat16,
        DataType::Fp32 => Onnx::Float,
        DataType::Fp64 => Onnx::Double,
        DataType::Bytes => Onnx::String,
    }) as i32
}
