//! What does this engine answer when the runtime asks for an engine?

use std::sync::Arc;

use tiltyard_runtime::engine::{
    CompileOptions, CompiledModel, Engine, EngineBuild, EngineError, Explainer, Format, ModelFile, OutputClasses,
    Session,
};
use tiltyard_types::{Signature, Tensor};

use crate::program::{Program, State};
use crate::{explain, native};

pub(crate) const PROVIDER: &str = "cpu";

/// Trees, linear models and their preprocessing. It runs on the CPU, each run on the thread that calls it.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClassicalEngine;

/// Makes the engine.
pub fn engine() -> ClassicalEngine {
    ClassicalEngine
}

impl Engine for ClassicalEngine {
    fn name(&self) -> &'static str {
        "classical"
    }

    fn build(&self) -> EngineBuild {
        EngineBuild { version: env!("CARGO_PKG_VERSION").into(), library: None, providers: vec![PROVIDER.into()] }
    }

    /// What it compiles it answers as ONNX Runtime does, and faster: nothing else needs to be compiled and timed.
    fn is_settled(&self) -> bool {
        true
    }

    fn formats(&self) -> &[Format] {
        &native::FORMATS
    }

    /// Fails on providers other than `cpu`, and on a graph with an operator that it does not have, which is named.
    fn compile(&self, model: &ModelFile, options: &CompileOptions) -> Result<Box<dyn CompiledModel>, EngineError> {
        if !options.providers.is_empty() && !options.providers.iter().any(|provider| provider == PROVIDER) {
            return Err(EngineError::Unsupported(format!(
                "the classical engine runs on {PROVIDER} only, not on {}",
                options.providers.join(", ")
            )));
        }
        if model.graph.format.is_some() {
            return native::compile(model);
        }
        Ok(Box::new(ClassicalModel { program: Arc::new(Program::read(model)?) }))
    }

    /// Fails on models of anything but one forest or one linear model, and says what would have to be there.
    fn explainer(
        &self,
        model: &ModelFile,
        background: Option<&[Option<Tensor>]>,
    ) -> Result<Box<dyn Explainer>, EngineError> {
        explain::explainer(model, background)
    }
}

struct ClassicalModel {
    program: Arc<Program>,
}

impl CompiledModel for ClassicalModel {
    fn signature(&self) -> &Signature {
        self.program.signature()
    }

    fn provider(&self) -> &str {
        PROVIDER
    }

    fn classes(&self) -> &[OutputClasses] {
        self.program.classes()
    }

    fn open(&self) -> Result<Box<dyn Session>, EngineError> {
        Ok(Box::new(ClassicalSession { program: Arc::clone(&self.program), state: State::default() }))
    }
}

struct ClassicalSession {
    program: Arc<Program>,
    state: State,
}

impl Session for ClassicalSession {
    fn run(&mut self, inputs: &[Option<Tensor>], wanted: &[usize]) -> Result<Vec<Tensor>, EngineError> {
        self.program.run(&mut self.state, inputs, wanted)
    }
}
