//! Do all engines keep the same promises, and does the runtime see through those that do not?
//!
//! One suite, run on every engine. `VIRTUAL_ENV=<with onnxruntime> cargo test --release -p tiltyard-conformance` runs
//! it; without ONNX Runtime it fails, unless `TILTYARD_TEST_WITHOUT_ORT=1` says that it is meant to be so. Real models
//! are fetched by `real_models.py`, which says how they are run.

mod batching;
mod broken;
mod choosing;
mod promises;
mod real_models;
mod refusals;
mod rehearsals;
mod subjects;
