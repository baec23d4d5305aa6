//! How are tensors read from JSON, and written as it?
//!
//! The REST protocol, golden examples and row scoring all use these functions. There is no tree in between: numbers
//! go straight from the text into the tensor's buffer. Accepted is RFC 8259, and beyond it only the bare words `NaN`,
//! `Infinity` and `-Infinity` where a number may stand, because Python's `json` writes them.

mod data;
mod element;
mod number;
#[cfg(test)]
mod oracle;
mod reader;
mod string;
mod tensor;
mod write;

use std::fmt;

pub use data::read_data;
pub use reader::{DEPTH_MAX, Kind, Number, Reader};
pub use tensor::{AXES_MAX, TensorText, read_parameters, read_tensor};
pub use write::{NonFinite, NotUtf8, write_data, write_string, write_unsigned};

use crate::Error;

/// Where and why a text is not the JSON that was expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonError {
    /// The position in the text, in bytes from its start.
    pub offset: usize,
    /// What was expected there, and what was found.
    pub message: String,
}

impl JsonError {
    #[cold]
    fn new(offset: usize, message: impl Into<String>) -> JsonError {
        JsonError { offset, message: message.into() }
    }
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at byte {}: {}", self.offset, self.message)
    }
}

impl std::error::Error for JsonError {}

impl From<JsonError> for Error {
    /// The client's mistake, with its position.
    fn from(error: JsonError) -> Error {
        Error::invalid(error.to_string())
    }
}
