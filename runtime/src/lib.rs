//! How does a version on disk become something that answers?
//!
//! Deployments live here: load, prove, warm, queue, batch, execute, drain. This crate knows no network and
//! publishes nothing; it defines what an engine is and is handed the engines.

pub mod engine;
pub mod onnx;
