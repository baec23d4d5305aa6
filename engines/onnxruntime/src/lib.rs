//! How does ONNX Runtime serve models here?
//!
//! Nothing of ONNX Runtime is compiled in: [`locate`] finds a library on the machine, [`OrtEngine::load`] opens it,
//! and [`install`] brings one to a machine that has none. All `unsafe` is in two modules: `shared_run` makes the one
//! call that `ort` does not offer (several threads running one session), `library` asks a file for its version and
//! silences telemetry.

mod compile;
mod engine;
mod foretell;
pub mod install;
#[allow(unsafe_code)]
mod library;
pub mod locate;
mod provider;
mod python;
mod releases;
#[allow(unsafe_code)]
mod shared_run;
mod version;

pub use engine::{LoadError, OrtEngine};
pub use version::{OLDEST_VERSION, Version};
