//! How does a version on disk become something that answers?
//!
//! Deployments live here: load, prove, warm, queue, batch, execute, drain. This crate knows no network and
//! publishes nothing; it defines what an engine is and is handed the engines.

pub mod artifact;
pub mod batch;
pub mod breaker;
pub mod choose;
pub mod compare;
pub mod cost;
pub mod deployment;
pub mod engine;
pub mod explain;
pub mod forecast;
pub mod golden;
pub mod health;
pub mod job;
mod join;
pub mod load;
pub mod lock;
pub mod made;
pub mod measure;
pub mod memory;
pub mod onnx;
pub mod pool;
pub mod priority;
pub mod profile;
pub mod prove;
pub mod providers;
pub mod queue;
pub mod repository;
pub mod retired;
pub mod stats;
mod sync;
pub mod turn;
