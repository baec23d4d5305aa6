//! How does tract, an inference library in pure Rust, serve as an engine?
//!
//! It is the engine that is always there. A model is read once into a `blueprint`, from which plans are made: one
//! that takes any batch size, and for convolutions further ones for the exact shapes that keep coming (`plans`),
//! since those run several times faster. All sessions of a model share its plans.

mod background;
mod blueprint;
mod convert;
mod engine;
mod nan;
mod plans;
mod refusal;
mod session;
mod weights;

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod tests;

pub use engine::{TractEngine, engine, needs_proof};
