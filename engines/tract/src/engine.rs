//! What does tract answer when the runtime asks for an engine?

use std::sync::Arc;

use tiltyard_runtime::engine::{CompileOptions, CompiledModel, Engine, EngineBuild, EngineError, ModelFile, Session};
use tiltyard_runtime::onnx::Graph;
use tiltyard_types::Signature;

use crate::background::Background;
use crate::blueprint::{Blueprint, Plan, ValueInfo};
use crate::convert::datum_type;
use crate::nan;
use crate::plans::{Plans, Traits};
use crate::refusal::foreign;
use crate::session::TractSession;

/// The version of tract that is compiled in, which the library itself does not tell.
pub(crate) const VERSION: &str = "0.23.9";

const PROVIDER: &str = "cpu";

/// tract as an engine. It runs on the CPU, each run on the thread that calls it.
#[derive(Default)]
pub struct TractEngine {
    background: Arc<Background>,
}

/// Makes the engine. Starts nothing: the thread that builds plans comes with the first model that wants one.
pub fn engine() -> TractEngine {
    TractEngine::default()
}

/// Tells whether answers of tract to this model may be wrong without an error, so that only golden examples that
/// pass make it fit to serve: it has been seen to give wrong labels for tree ensembles.
pub fn needs_proof(graph: &Graph) -> bool {
    graph.operators.iter().any(|operator| operator.starts_with("ai.onnx.ml.TreeEnsemble"))
}

impl TractEngine {
    /// Waits until the plans that were asked for so far, for shapes that came repeatedly, are built and in use.
    pub fn wait_for_plans(&self) {
        self.background.wait();
    }

    /// The plans of a model, before they are put behind the trait.
    pub(crate) fn plans(&self, file: &ModelFile) -> Result<Arc<Plans>, EngineError> {
        check_datatypes(&file.graph.signature)?;
        if let Some(error) = foreign(&file.graph.operators) {
            return Err(error);
        }
        let (blueprint, open) = prepare(file)?;
        let traits = Traits { prefers_exact: prefers_exact(&file.graph), nan_loser: nan::loser(&file.graph.operators) };
        Ok(Arc::new(Plans::new(blueprint, open, traits, Arc::clone(&self.background))))
    }
}

impl Engine for TractEngine {
    fn name(&self) -> &'static str {
        "tract"
    }

    fn build(&self) -> EngineBuild {
        EngineBuild { version: VERSION.into(), library: None, providers: vec![PROVIDER.into()] }
    }

    fn doubt(&self, graph: &Graph) -> Option<String> {
        needs_proof(graph)
            .then(|| "tract has been seen to give wrong labels for tree ensembles, without an error".into())
    }

    /// Fails on providers other than `cpu`. Threads per run are not heeded: tract uses the calling one alone.
    fn compile(&self, model: &ModelFile, options: &CompileOptions) -> Result<Box<dyn CompiledModel>, EngineError> {
        if !options.providers.is_empty() && !options.providers.iter().any(|provider| provider == PROVIDER) {
            return Err(EngineError::Unsupported(format!(
                "tract runs on {PROVIDER} only, not on {}",
                options.providers.join(", ")
            )));
        }
        Ok(Box::new(TractModel { plans: self.plans(model)? }))
    }
}

struct TractModel {
    plans: Arc<Plans>,
}

impl CompiledModel for TractModel {
    fn signature(&self) -> &Signature {
        self.plans.signature()
    }

    fn provider(&self) -> &str {
        PROVIDER
    }

    fn open(&self) -> Result<Box<dyn Session>, EngineError> {
        Ok(Box::new(TractSession::new(Arc::clone(&self.plans))))
    }
}

fn check_datatypes(signature: &Signature) -> Result<(), EngineError> {
    match signature.inputs.iter().chain(&signature.outputs).find(|spec| datum_type(spec.dtype).is_none()) {
        Some(spec) => Err(EngineError::Unsupported(format!(
            "tract has no datatype {} (of {:?}); ONNX Runtime has: `tiltyard engine install onnxruntime`",
            spec.dtype, spec.name
        ))),
        None => Ok(()),
    }
}

/// Convolutions are three to five times faster in a plan for one exact shape; other graphs gain nothing.
fn prefers_exact(graph: &Graph) -> bool {
    graph.operators.iter().any(|operator| operator.contains("Conv"))
}

/// Finds a way to run the model: a plan for any shape where there is one, otherwise the assurance that plans for
/// exact shapes can be built. An operator that is missing is found here and not by a client.
fn prepare(file: &ModelFile) -> Result<(Blueprint, Option<Plan>), EngineError> {
    // What exporters noted about values in between often contradicts a changed batch size, and sometimes it is what
    // tract needs to work a shape out.
    let blueprint = Blueprint::read(file, ValueInfo::Ignored)?;
    if let Ok(plan) = blueprint.open_plan(&blueprint.required()) {
        return Ok((blueprint, Some(plan)));
    }
    let informed = blueprint.has_value_info().then(|| Blueprint::read(file, ValueInfo::Believed)).transpose()?;
    if let Some(informed) = informed
        && let Ok(plan) = informed.open_plan(&informed.required())
    {
        return Ok((informed, Some(plan)));
    }
    blueprint.probe()?;
    Ok((blueprint, None))
}
