//! What does MLflow's signature say, and does the graph say the same?
//!
//! MLflow infers a signature from an example, or takes the author's word for it; what is served is the graph's own. Where they
//! differ nobody is refused, since the graph is what answers, but whoever imports the model should read how.

use serde_json::Value;
use tiltyard_types::{DataType, Dim, Signature, TensorSpec};

use super::{Error, Result};

/// Fields of one side that are read, at most.
const FIELDS_MAX: usize = 10_000;

/// What MLflow believes a model takes and gives.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Declared {
    /// What it takes.
    pub inputs: Vec<Field>,
    /// What it gives.
    pub outputs: Vec<Field>,
}

/// A tensor, or a column of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name, where it has one.
    pub name: Option<String>,
    /// What it is.
    pub kind: Kind,
}

/// What a field of MLflow's is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A tensor.
    Tensor {
        /// NumPy's name of its data type, such as `float32`.
        dtype: String,
        /// Its axes, −1 for one of any length.
        shape: Vec<i64>,
    },
    /// A column, with MLflow's name of its type, such as `double`.
    Column(String),
}

impl Declared {
    /// Reads `signature` of `MLmodel`, whose sides are JSON in a string.
    pub(super) fn read(signature: &Value) -> Result<Declared> {
        let side =
            |key: &str| fields(&signature[key]).map_err(|why| Error::Malformed(format!("signature.{key}: {why}")));
        Ok(Declared { inputs: side("inputs")?, outputs: side("outputs")? })
    }

    /// In which ways the graph says something else, one sentence each.
    pub fn differences(&self, graph: &Signature) -> Vec<String> {
        let mut found = Vec::new();
        compare("input", &self.inputs, &graph.inputs, &mut found);
        compare("output", &self.outputs, &graph.outputs, &mut found);
        found
    }
}

fn fields(side: &Value) -> Result<Vec<Field>, String> {
    let parsed: Value = match side {
        Value::Null => return Ok(Vec::new()),
        Value::String(text) => serde_json::from_str(text).map_err(|error| format!("expected JSON: {error}"))?,
        other => other.clone(),
    };
    match parsed {
        Value::Array(list) if list.len() > FIELDS_MAX => {
            Err(format!("it has {} fields, expected at most {FIELDS_MAX}", list.len()))
        }
        Value::Array(list) => list.iter().map(field).collect(),
        _ => Err("expected a list of fields".into()),
    }
}

fn field(value: &Value) -> Result<Field, String> {
    let name = value["name"].as_str().map(str::to_owned);
    let Some(kind) = value["type"].as_str() else { return Err("a field has no type".into()) };
    let kind = match kind {
        "tensor" => {
            let spec = &value["tensor-spec"];
            let shape = spec["shape"].as_array().and_then(|axes| axes.iter().map(Value::as_i64).collect::<Option<_>>());
            let (Some(dtype), Some(shape)) = (spec["dtype"].as_str(), shape) else {
                return Err("a tensor has no tensor-spec with dtype and shape".into());
            };
            Kind::Tensor { dtype: dtype.to_owned(), shape }
        }
        column => Kind::Column(column.to_owned()),
    };
    Ok(Field { name, kind })
}

fn compare(side: &str, declared: &[Field], graph: &[TensorSpec], found: &mut Vec<String>) {
    let is_table = !declared.is_empty() && declared.iter().all(|field| matches!(field.kind, Kind::Column(_)));
    // Columns of one table are often one tensor of the graph.
    if let ([spec], true) = (graph, is_table)
        && !declared.iter().any(|field| field.name.as_deref() == Some(&spec.name))
        && let Some([.., last]) = spec.dims.as_deref()
    {
        match last {
            Dim::Fixed(columns) if *columns != declared.len() && declared.len() > 1 => found.push(format!(
                "MLflow says {} columns of {side}, the graph takes them as {spec}: {columns}",
                declared.len()
            )),
            _ => {}
        }
        return;
    }
    if let ([Field { name: None, kind }], [spec]) = (declared, graph) {
        compare_field(side, kind, spec, found);
        return;
    }
    for field in declared {
        let Some(name) = &field.name else { continue };
        match graph.iter().find(|spec| spec.name == *name) {
            Some(spec) => compare_field(side, &field.kind, spec, found),
            None => found.push(format!("MLflow says there is an {side} {name:?}, the graph has none")),
        }
    }
    let is_named = declared.iter().any(|field| field.name.is_some());
    for spec in graph.iter().filter(|spec| is_named && !spec.optional) {
        if !declared.iter().any(|field| field.name.as_deref() == Some(&spec.name)) {
            found.push(format!("the graph has the {side} {spec}, of which MLflow says nothing"));
        }
    }
}

fn compare_field(side: &str, kind: &Kind, spec: &TensorSpec, found: &mut Vec<String>) {
    let (dtype, shape) = match kind {
        Kind::Tensor { dtype, shape } => (dtype.as_str(), Some(shape)),
        Kind::Column(column) => (column.as_str(), None),
    };
    // Data types that we do not know, such as MLflow's arrays and objects, are left alone.
    if data_type(dtype).is_some_and(|dtype| dtype != spec.dtype) {
        found.push(format!("MLflow says the {side} {:?} is {dtype}, the graph says {}", spec.name, spec.dtype));
    }
    let (Some(shape), Some(dims)) = (shape, &spec.dims) else { return };
    let fits = |(axis, dim): (&i64, &Dim)| *axis < 0 || usize::try_from(*axis).is_ok_and(|length| dim.accepts(length));
    if shape.len() != dims.len() || !shape.iter().zip(dims).all(fits) {
        found.push(format!("MLflow says the {side} {:?} has the axes {shape:?}, the graph says {spec}", spec.name));
    }
}

/// What NumPy's and MLflow's names of data types are here.
fn data_type(name: &str) -> Option<DataType> {
    Some(match name {
        "bool" | "boolean" => DataType::Bool,
        "uint8" => DataType::Uint8,
        "uint16" => DataType::Uint16,
        "uint32" => DataType::Uint32,
        "uint64" => DataType::Uint64,
        "int8" => DataType::Int8,
        "int16" => DataType::Int16,
        "int32" | "integer" => DataType::Int32,
        "int64" | "long" => DataType::Int64,
        "float16" => DataType::Fp16,
        "float32" | "float" => DataType::Fp32,
        "float64" | "double" => DataType::Fp64,
        "str" | "string" | "object" | "binary" => DataType::Bytes,
        _ => return None,
    })
}
