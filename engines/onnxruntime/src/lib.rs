//! How does ONNX Runtime serve models here?
//!
//! Nothing of ONNX Runtime is compiled in: [`locate`] finds a library on the machine, [`OrtEngine::load`] opens it,
//! and [`install`] brings one to a machine that has none. All `unsafe` is in four modules: `shared_run` makes the one
//! call that `ort` does not offer (several threads running one session, and values in memory that devices read and write by
//! themselves), `placement` asks which nodes run where, `library` asks a file for its version and silences telemetry,
//! `nvidia` loads what CUDA needs.

mod compile;
mod engine;
mod foretell;
mod gate;
mod graphs;
pub mod install;
#[allow(unsafe_code)]
mod library;
pub mod locate;
#[allow(unsafe_code)]
mod nvidia;
#[allow(unsafe_code)]
mod placement;
mod provider;
mod python;
mod releases;
mod sessions;
#[allow(unsafe_code)]
mod shared_run;
mod version;

pub use engine::{LoadError, OrtEngine, Rehearsal};
pub use version::{OLDEST_VERSION, Version};
