//! How does a model file become sessions, and what do the library's errors mean here?

use std::collections::BTreeSet;
use std::sync::Arc;

use ort::ErrorCode;
use ort::environment::Environment;
use ort::session::Session as OrtSession;
use ort::session::builder::{AutoDevicePolicy, GraphOptimizationLevel, SessionBuilder};
use tiltyard_runtime::engine::{CompileOptions, CompiledModel, EngineBuild, EngineError, ModelFile, Session};
use tiltyard_runtime::memory;
use tiltyard_runtime::providers::Placement;
use tiltyard_types::{Dim, Signature, Tensor, TensorSpec};

use crate::engine::Rehearsal;
use crate::gate;
use crate::graphs::{self, GraphSession};
use crate::nvidia;
use crate::placement;
use crate::provider::Provider;
use crate::sessions::{DeviceSession, Sessions};
use crate::shared_run::{HostMemory, RunError, SharedSession, Staging, on_device};

/// Larger files cannot be parsed: a protocol buffer ends at 2 GiB.
const FILE_BYTES_MAX: usize = i32::MAX as usize;

/// Compiles `model` for the first of the preferred providers that can be had.
pub(crate) fn compile(
    environment: &Environment,
    build: &EngineBuild,
    rehearsal: Option<Rehearsal>,
    model: &ModelFile,
    options: &CompileOptions,
) -> Result<Box<dyn CompiledModel>, EngineError> {
    model.check_external_files().map_err(|error| EngineError::BadModel(error.to_string()))?;
    if model.bytes.len() > FILE_BYTES_MAX {
        return Err(EngineError::BadModel(format!(
            "the file has {} bytes, and a protocol buffer ends at 2 GiB: export it with external data",
            model.bytes.len()
        )));
    }
    let preferred: Vec<Provider> = match options.providers.as_slice() {
        [] => vec![Provider::Cpu],
        names => names.iter().map(|name| Provider::parse(name)).collect::<Result<_, _>>()?,
    };
    let mut refusals: Vec<String> = Vec::new();
    for provider in preferred {
        let graphs = match rehearsal {
            Some(rehearsal) => rehearsal == Rehearsal::Graphs,
            None => provider == Provider::Cuda && options.provider_options.cuda.graphs,
        };
        match attempt(&Recipe { environment, build, model, options, provider, graphs, rehearsal }) {
            Ok(compiled) => {
                for refusal in &refusals {
                    tracing::warn!(model = %model.path.display(), provider = provider.name(), "falling back: {refusal}");
                }
                return Ok(Box::new(compiled));
            }
            Err(EngineError::Unsupported(refusal)) => refusals.push(refusal),
            // What a device cannot do another may; the CPU is the judge of a file.
            Err(error) if provider != Provider::Cpu => refusals.push(format!(
                "the execution provider {:?}: {}",
                provider.name(),
                plain_message(&error.to_string())
            )),
            Err(error) => return Err(error),
        }
    }
    Err(EngineError::Unsupported(refusals.join("; ")))
}

/// Compiles the model for one provider: on the CPU one session, on devices all that there will be.
fn attempt(recipe: &Recipe<'_>) -> Result<OrtModel, EngineError> {
    let Recipe { build, model, options, provider, .. } = *recipe;
    provider.require(build)?;
    if let (Provider::Cuda | Provider::TensorRt, Some(library)) = (provider, &build.library) {
        nvidia::preload(library);
    }
    let devices = options.provider_options.devices(provider.name());
    let instances = options.instances.max(1);
    if let Some(limit) = options.provider_options.memory_limit(provider.name()).filter(|_| options.memory_check) {
        memory::check(model.weight_bytes(), instances, limit, "memory_limit of provider.cuda")
            .map_err(|refusal| EngineError::Unsupported(format!("{provider}: {refusal}")))?;
    }
    if recipe.graphs {
        graphs::check_graph(&model.graph)?;
    }
    if provider == Provider::Cpu && recipe.rehearsal.is_none() {
        let first = recipe.session(0)?;
        let signature = served_signature(&model.graph.signature, &first);
        let shared = SharedSession::new(&first, &signature, true).map_err(failed)?;
        let (placement, sessions) = (Vec::new(), Sessions::Shared(Arc::new(shared)));
        return Ok(OrtModel { signature, provider, placement, sessions });
    }
    // To the end: sessions that were made are freed where a later one fails.
    let _making = gate::making();
    let first = recipe.session(0).map_err(|error| recipe.name_nodes(error))?;
    let signature = served_signature(&model.graph.signature, &first);
    let placement = placement::of(&first).unwrap_or_else(|error| {
        tracing::debug!(%error, "the library does not tell which nodes run where");
        Vec::new()
    });
    let mut sessions = vec![recipe.on_device(&first, &signature, 0)?];
    // One on each device before a second on any.
    for number in 1..devices * instances {
        let device = number % devices;
        sessions.push(recipe.on_device(&recipe.session(device)?, &signature, device)?);
    }
    Ok(OrtModel { signature, provider, placement, sessions: Sessions::leased(sessions) })
}

/// Everything that a session is made from.
#[derive(Clone, Copy)]
struct Recipe<'a> {
    environment: &'a Environment,
    build: &'a EngineBuild,
    model: &'a ModelFile,
    options: &'a CompileOptions,
    provider: Provider,
    /// Whether runs are recorded and replayed.
    graphs: bool,
    rehearsal: Option<Rehearsal>,
}

impl Recipe<'_> {
    /// A session on the `device`th of the provider's devices.
    fn session(&self, device: usize) -> Result<OrtSession, EngineError> {
        self.commit(self.builder(device)?)
    }

    /// Options with the provider registered. Fails with `Unsupported` when the provider does not start.
    fn builder(&self, device: usize) -> Result<SessionBuilder, EngineError> {
        let options = self.options().map_err(|error| EngineError::Failed(error.to_string()))?;
        options.with_execution_providers(self.provider.registrations(self.options, device, self.graphs)).map_err(
            |error| {
                EngineError::Unsupported(format!(
                    "the execution provider {:?} of ONNX Runtime {} does not start: {}; {}",
                    self.provider.name(),
                    self.build.version,
                    plain_message(error.message()),
                    self.provider.how_to_get()
                ))
            },
        )
    }

    fn options(&self) -> Result<SessionBuilder, ort::Error> {
        let options = OrtSession::builder(self.environment)?
            // `ort` would let the library look for an NPU by itself; which device runs a model is not its choice.
            .with_auto_device(AutoDevicePolicy::PreferCPU)?
            .with_optimization_level(GraphOptimizationLevel::All)?
            .with_intra_threads(self.options.intra_threads.max(1))?
            .with_inter_threads(1)?
            .with_intra_op_spinning(false)?
            .with_inter_op_spinning(false)?
            // With shapes that vary the library would keep one plan of its memory per shape ever seen, behind a lock.
            .with_memory_pattern(!has_dynamic_shapes(&self.model.graph.signature))?;
        match self.provider {
            Provider::Cpu => Ok(options),
            _ => Ok(options.with_config_entry(placement::RECORD, "1")?),
        }
    }

    /// What one run at a time leases: a session on the `device`th of the provider's devices, with what it needs beside.
    fn on_device(
        &self,
        session: &OrtSession,
        signature: &Signature,
        device: usize,
    ) -> Result<DeviceSession, EngineError> {
        let memory = match (self.rehearsal, self.provider.pinned_memory(self.options, device)) {
            (Some(_), _) => Some(HostMemory::plain(session)),
            (None, Some((name, device))) => Some(HostMemory::named(session, name, device)),
            (None, None) => None,
        };
        // A rehearsal stages what a GPU would read, which is all that it could.
        let is_staged = match self.rehearsal {
            Some(_) => vec![true; signature.inputs.len()],
            None => on_device(session, signature).map_err(failed)?,
        };
        if self.graphs {
            if let Some(position) = is_staged.iter().position(|is_staged| !is_staged) {
                return Err(EngineError::Unsupported(format!(
                    "cuda_graphs of provider.cuda: input {} is read by the processor, and a graph would keep its first \
                     values; expected nodes on the device only",
                    signature.inputs[position]
                )));
            }
            let memory = memory.ok_or_else(|| ort::Error::new("no pinned memory")).flatten().map_err(failed)?;
            let session = SharedSession::new(session, signature, false).and_then(SharedSession::without_graphs);
            let session = GraphSession::new(session.map_err(failed)?, memory, signature);
            return Ok(DeviceSession::Graphs(session.map_err(|error| EngineError::Failed(error.to_string()))?));
        }
        let staging = match memory.transpose() {
            Ok(memory) => memory.map(|memory| Staging::new(memory, is_staged)),
            Err(error) => {
                tracing::warn!(provider = self.provider.name(), %error, "there is no pinned memory: copies take a detour");
                None
            }
        };
        Ok(DeviceSession::Plain(staging, SharedSession::new(session, signature, false).map_err(failed)?))
    }

    /// An error of a session that was to be recorded, with the nodes that are not on the device where these are why.
    fn name_nodes(&self, error: EngineError) -> EngineError {
        if !self.graphs || !error.to_string().contains(NO_RECORDING) {
            return error;
        }
        let plain = Recipe { graphs: false, ..*self };
        let placement = plain.session(0).ok().and_then(|session| placement::of(&session).ok()).unwrap_or_default();
        let elsewhere = placement.iter().filter(|part| part.provider != self.provider.name());
        let elsewhere = elsewhere.map(Placement::to_string).collect::<Vec<_>>().join("; ");
        EngineError::Unsupported(format!(
            "cuda_graphs of provider.cuda: not all nodes run on the device ({elsewhere}); expected all, or no graphs: {}",
            plain_message(&error.to_string())
        ))
    }

    /// Makes the session from what was read, and from nothing that may have changed since: the library would map external
    /// data into memory, where an overwritten file changes what serves, and one cut short ends the process.
    fn commit(&self, mut builder: SessionBuilder) -> Result<OrtSession, EngineError> {
        for (name, bytes) in &self.model.external {
            builder = builder
                .with_external_initializer_file_in_memory(name, Arc::clone(bytes))
                .map_err(|error| EngineError::Failed(error.message().to_owned()))?;
        }
        builder.commit_from_memory(&self.model.bytes).map_err(|error| load_error(&error))
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
    placement: Vec<Placement>,
    sessions: Sessions,
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

fn failed(error: ort::Error) -> EngineError {
    EngineError::Failed(error.to_string())
}

impl CompiledModel for OrtModel {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn provider(&self) -> &str {
        self.provider.name()
    }

    fn placement(&self) -> &[Placement] {
        &self.placement
    }

    fn sessions_max(&self) -> Option<usize> {
        self.sessions.limit()
    }

    fn likes_fixed_sizes(&self) -> bool {
        self.sessions.limit().is_some()
    }

    fn settle(&self, batches: &[Vec<Option<Tensor>>]) -> Result<(), EngineError> {
        self.sessions.settle(batches).map_err(run_error)
    }

    fn open(&self) -> Result<Box<dyn Session>, EngineError> {
        Ok(Box::new(OpenSession(self.sessions.clone())))
    }
}

/// One thread's way into the sessions.
struct OpenSession(Sessions);

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
            _ if is_lack_of_memory(error.message()) => EngineError::OutOfMemory(error.message().to_owned()),
            _ => EngineError::Failed(error.message().to_owned()),
        },
    }
}

/// Whether the library says that there was not enough memory: it has no code of its own for that. The words are those of
/// the C++ runtime, of its own arena, and of CUDA.
fn is_lack_of_memory(message: &str) -> bool {
    ["bad_alloc", "bad allocation", "Failed to allocate memory", "out of memory"]
        .iter()
        .any(|words| message.contains(words))
}

/// What the library's messages say where its codes do not: one code stands for "this graph is wrong", "too new for
/// me" and "not mine to know".
const UNKNOWN_HERE: [&str; 4] =
    ["No Op registered for", "is not a registered function/op", "is under development", "Unsupported model IR version"];

/// In the message of a session that was to be recorded and cannot be.
const NO_RECORDING: &str = "This session cannot use the";

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

/// What a message says, without the trail of source locations after its first line, and the one that a provider's own
/// library puts before it: `/src/a.cc:7 f() [ONNXRuntimeError] : 1 : FAIL : what it says`.
fn plain_message(message: &str) -> &str {
    let line = message.lines().next().unwrap_or_default().trim();
    let inner = line.rsplit_once("[ONNXRuntimeError] : ").and_then(|(_, coded)| coded.splitn(3, " : ").nth(2));
    inner.unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::plain_message;

    #[test]
    fn messages_lose_their_source_locations() {
        let nested = "/a/bridge.cc:2043 Provider& Get() [ONNXRuntimeError] : 1 : FAIL : Failed to load x.so : y\nat z";
        assert_eq!(plain_message(nested), "Failed to load x.so : y");
        assert_eq!(plain_message("CUDA is not enabled\n"), "CUDA is not enabled");
        assert_eq!(plain_message("[ONNXRuntimeError] : odd"), "[ONNXRuntimeError] : odd");
    }
}
