//! What does a client ask, and what is it answered, whatever the protocol?

use std::collections::BTreeMap;

use crate::Tensor;

/// A tensor with the name of the input or output it is for.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedTensor {
    /// The input's or output's name.
    pub name: String,
    /// Its value.
    pub tensor: Tensor,
}

/// A parameter's value: what both protocols can carry.
#[derive(Clone, Debug, PartialEq)]
pub enum Parameter {
    /// True or false.
    Bool(bool),
    /// A signed integer.
    Int(i64),
    /// An unsigned integer that a signed one cannot hold, or that came as one.
    Uint(u64),
    /// A floating-point number.
    Double(f64),
    /// Text.
    Text(String),
}

/// Parameters by name.
pub type Parameters = BTreeMap<String, Parameter>;

/// One output a client asked for.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct RequestedOutput {
    /// The output's name.
    pub name: String,
    /// Such as `classification` or `binary_data`.
    pub parameters: Parameters,
}

/// A request for an inference, decoded.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct InferRequest {
    /// The name the client sent.
    pub model: String,
    /// The version it pinned, if any.
    pub version: Option<u64>,
    /// The client's id, echoed; empty for none.
    pub id: String,
    /// Request parameters.
    pub parameters: Parameters,
    /// The inputs, in the client's order.
    pub inputs: Vec<NamedTensor>,
    /// The outputs asked for; empty means all.
    pub outputs: Vec<RequestedOutput>,
}

/// The answer to an [`InferRequest`], before it is encoded.
#[derive(Clone, Debug, PartialEq)]
pub struct InferResponse {
    /// The outputs asked for, in the order asked.
    pub outputs: Vec<NamedTensor>,
}
