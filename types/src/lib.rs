//! What are the words of the house, as types?
//!
//! Everything here is plain data: no IO, no clock, no threads. Every other crate may depend on this one;
//! it depends on none of them.

mod buffer;
mod change;
mod dtype;
mod error;
mod id;
pub mod json;
pub mod live;
mod moment;
mod nearest;
mod request;
mod shape;
pub mod shard;
mod signature;
mod tensor;

pub use buffer::Buffer;
pub use dtype::{DataType, Element, UnknownDataType};
pub use error::{Error, ErrorKind, Result};
pub use id::{Digest, ParseDigestError, RequestId};
pub use moment::Moment;
pub use nearest::nearest;
pub use request::{InferRequest, InferResponse, NamedTensor, Parameter, Parameters, RequestedOutput};
pub use shape::Shape;
pub use signature::{Dim, Signature, TensorSpec};
pub use tensor::{Tensor, TensorData, TensorError};
