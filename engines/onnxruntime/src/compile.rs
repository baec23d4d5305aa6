//! How does a model file become sessions, and what do the library's errors mean here?

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use ort::ErrorCode;
use ort::environment::Environment;
use ort::session::Session as OrtSession;
use ort::session::builder::{AutoDevicePolicy, GraphOptimizationLevel, SessionBuilder};
use tiltyard_runtime::engine::{CompileOptions, CompiledModel, EngineBuild, EngineError, ModelFile, Session};
use tiltyard_types::{Dim, Signature, Tensor, TensorSpec};

use crate::provider::Provider;
use crate::shared_run::{RunError, SharedSession};

/// Larger files cannot be parsed from memory: a protocol buffer ends at 2 GiB.
const IN_MEMORY_BYTES_MAX: usize = i32::MAX as usize;

/// Compiles `model` for the first of the preferred providers that can be had.
pub(crate) fn compile(
    environment: &Environment,
    build: &EngineBuild,
    model: &ModelFile,
    options: &CompileOptions,
) -> Result<Box<dyn CompiledModel>, EngineError> {
    model.graph.check_external_files(&model.path).map_err(|error| EngineError::BadModel(error.to_string()))?;
    let preferred: Vec<Provider> = match options.providers.as_slice() {
        [] => vec![Provider::Cpu],
        names => names.iter().map(|name| Provider::parse(name)).collect::<Result<_, _>>()?,
    };
    let mut refusals: Vec<String> = Vec::new();
    for provider in preferred {
        let recipe =
            Recipe { environment: environment.clone(), model: model.clone(), provider, threads: options.intra_threads };
        let builder = match provider.require(build).and_then(|()| recipe.builder(build)) {
            Ok(builder) => builder,
            Err(EngineError::Unsupported(refusal)) => {
                refusals.push(refusal);
                continue;
            }
            Err(error) => return Err(error),
        };
        for refusal in &refusals {
            tracing::warn!(model = %model.path.display(), provider = provider.name(), "falling back: {refusal}");
        }
        return Ok(Box::new(OrtModel::new(recipe, builder, build)?));
    }
    Err(EngineError::Unsupported(refusals.join("; ")))
}

/// Everything that a session is made from.
struct Recipe {
    environment: Environment,
    model: ModelFile,
    provider: Provider,
    threads: usize,
}

impl Recipe {
    /// Options with the provider registered. Fails with `Unsupported` when the provider does not start.
    fn builder(&self, build: &EngineBuild) -> Result<SessionBuilder, EngineError> {
        let options = self.options().map_err(|error| EngineError::Failed(error.to_string()))?;
        options.with_execution_providers(self.provider.registrations()).map_err(|error| {
            EngineError::Unsupported(format!(
                "the execution provider {:?} of ONNX Runtime {} does not start: {}; {}",
                self.provider.name(),
                build.version,
                first_line(error.message()),
                self.provider.how_to_get()
            ))
        })
    }

    fn options(&self) -> Result<SessionBuilder, ort::Error> {
        let options = OrtSession::builder(&self.environment)?
            // `ort` would let the library look for an NPU by itself; which device runs a model is not its choice.
            .with_auto_device(AutoDevicePolicy::PreferCPU)?
            .with_optimization_level(GraphOptimizationLevel::All)?
            .with_intra_threads(self.threads.max(1))?
            .with_inter_threads(1)?
            .with_intra_op_spinning(false)?
            .with_inter_op_spinning(false)?
            // With shapes that vary the library would keep one plan of its memory per shape ever seen, behind a lock.
            .with_memory_pattern(!has_dynamic_shapes(&self.model.graph.signature))?;
        Ok(options)
    }

    /// Reads the file from memory where that is possible, else from its path, beside which its weights lie.
    fn commit(&self, mut builder: SessionBuilder) -> Result<OrtSession, EngineError> {
        let from_path = !self.model.graph.external_files.is_empty() || self.model.bytes.len() > IN_MEMORY_BYTES_MAX;
        let session = match from_path {
            true => builder.commit_from_file(&self.model.path),
            false => builder.commit_from_memory(&self.model.bytes),
        };
        session.map_err(|error| load_error(&error))
    }
}

fn has_dynamic_shapes(signature: &Signature) -> bool {
    let is_dynamic = |spec: &TensorSpec| match &spec.dims {
        None => true,
        Some(dims) => dims.iter().any(|dim| matches!(dim, Dim::Dynamic(_))),
    };
    signature.inputs.iter().any(is_dynamic)
}

/// A compiled model.
struct OrtModel {
    signature: Signature,
    provider: Provider,
    sessions: Sessions,
}

/// Who runs what.
enum Sessions {
    /// On the CPU one session serves all threads.
    Shared(Arc<SharedSession>),
    /// On a device each open session is one of the library's; the first was made to see whether it can be.
    PerThread { recipe: Box<Recipe>, build: EngineBuild, first: Mutex<Option<SharedSession>> },
}

impl OrtModel {
    fn new(recipe: Recipe, builder: SessionBuilder, build: &EngineBuild) -> Result<OrtModel, EngineError> {
        let session = recipe.commit(builder)?;
        let signature = served_signature(&recipe.model.graph.signature, &session);
        let shared = share(&session, &signature)?;
        let provider = recipe.provider;
        let sessions = match provider {
            Provider::Cpu => Sessions::Shared(Arc::new(shared)),
            _ => {
                Sessions::PerThread { recipe: Box::new(recipe), build: build.clone(), first: Mutex::new(Some(shared)) }
            }
        };
        Ok(OrtModel { signature, provider, sessions })
    }
}

/// The file's signature without the weights that an old exporter listed as inputs: before version 4 of the format
/// they cannot be given, and the library does not take them.
fn served_signature(signature: &Signature, session: &OrtSession) -> Signature {
    let overridable = session.overridable_initializers();
    let taken: BTreeSet<&str> = session
        .inputs()
        .iter()
        .map(|input| input.name())
        .chain(overridable.iter().map(|initializer| initializer.name()))
        .collect();
    let mut served = signature.clone();
    served.inputs.retain(|input| taken.contains(input.name.as_str()));
    served
}

fn share(session: &OrtSession, signature: &Signature) -> Result<SharedSession, EngineError> {
    SharedSession::new(session, signature).map_err(|error| EngineError::Failed(error.to_string()))
}

impl CompiledModel for OrtModel {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn provider(&self) -> &str {
        self.provider.name()
    }

    fn open(&self) -> Result<Box<dyn Session>, EngineError> {
        let session = match &self.sessions {
            Sessions::Shared(session) => Arc::clone(session),
            Sessions::PerThread { recipe, build, first } => {
                let first = first.lock().unwrap_or_else(PoisonError::into_inner).take();
                Arc::new(match first {
                    Some(session) => session,
                    None => share(&recipe.commit(recipe.builder(build)?)?, &self.signature)?,
                })
            }
        };
        Ok(Box::new(OpenSession(session)))
    }
}

/// One thread's way into a session, shared or its own.
struct OpenSession(Arc<SharedSession>);

impl Session for OpenSession {
    fn run(&mut self, inputs: &[Option<Tensor>], wanted: &[usize]) -> Result<Vec<Tensor>, EngineError> {
        self.0.run(inputs, wanted).map_err(run_error)
    }
}

fn run_error(error: RunError) -> EngineError {
    match error {
        RunError::Shape(what) => EngineError::Failed(what),
        RunError::Library(error) => match error.code() {
            ErrorCode::InvalidArgument => EngineError::BadInput(error.message().to_owned()),
            _ => EngineError::Failed(error.message().to_owned()),
        },
    }
}

/// What the library's messages say where its codes do not: one code stands for "this graph is wrong", "too new for
/// me" and "not mine to know".
const UNKNOWN_HERE: [&str; 4] =
    ["No Op registered for", "is not a registered function/op", "is under development", "Unsupported model IR version"];

/// Begins the message of a graph that does not hold together, whose code is the general one.
const INVALID_MODEL: &str = "Invalid model";

fn load_error(error: &ort::Error) -> EngineError {
    let message = error.message().to_owned();
    if UNKNOWN_HERE.iter().any(|sign| message.contains(sign)) {
        return EngineError::Unsupported(message);
    }
    match error.code() {
        ErrorCode::NotImplemented => EngineError::Unsupported(message),
        ErrorCode::NoSuchFile | ErrorCode::NoModel | ErrorCode::InvalidProtobuf | ErrorCode::InvalidGraph => {
            EngineError::BadModel(message)
        }
        _ if message.starts_with(INVALID_MODEL) => EngineError::BadModel(message),
        _ => EngineError::Failed(message),
    }
}

/// The library's messages carry a trail of source locations after the first line.
fn first_line(message: &str) -> &str {
    message.lines().next().unwrap_or_default().trim()
}
