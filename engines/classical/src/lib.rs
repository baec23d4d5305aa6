//! How are trees, linear models and their preprocessing run at the speed of memory?
//!
//! An engine for graphs of `ai.onnx.ml` operators and of what exporters put around them. A graph is read once into a list of
//! steps over numbered values ([`engine`]); whatever else it has is refused by name, and another engine gets it. Answers are
//! those of ONNX Runtime but for the order of sums.
//!
//! The files that XGBoost and LightGBM save are read as they are ([`Engine::formats`](tiltyard_runtime::engine::Engine)), and
//! answered as those libraries answer them.

mod engine;
mod explain;
#[cfg(test)]
mod fixture;
mod native;
mod node;
mod ops;
mod program;
#[cfg(test)]
mod tests;
pub mod trees;
mod trial;
mod value;
mod weights;
mod wire;

pub use engine::{ClassicalEngine, engine};
