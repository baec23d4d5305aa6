//! Does the classical engine answer as ONNX Runtime does, and refuse in words what it cannot or must not run?
//!
//! `engines/conformance/classical/make.py` makes the models, and its first lines say how they are run.

mod building;
mod hostile;
mod matrix;
