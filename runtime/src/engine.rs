//! What must an execution library offer to serve here?
//!
//! Two levels: a compiled model, shared by all threads, and sessions, each leased by one thread at a time. To add
//! an engine, write a crate under `engines/` that implements [`Engine`] and name it in the server's list.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use tiltyard_types::{Signature, Tensor};

use crate::artifact::{Files, Reading};
use crate::onnx::{Graph, OnnxError};
use crate::providers::{Placement, ProviderOptions};

/// An execution library.
pub trait Engine: Send + Sync {
    /// The name in configuration, metrics and logs, such as `onnxruntime`.
    fn name(&self) -> &'static str;

    /// Which build of the library this is. Part of a deployment's digest, since builds may answer differently.
    fn build(&self) -> EngineBuild;

    /// Why this engine is not to be trusted with a graph unless golden examples prove it; `None` where it is.
    fn doubt(&self, _graph: &Graph) -> Option<String> {
        None
    }

    /// Whether a graph that this engine compiles needs no other: it answers as every other one would, and is known to be
    /// faster. Golden examples decide even so. Others are neither compiled nor timed then, where it comes before them.
    fn is_settled(&self) -> bool {
        false
    }

    /// The kinds of files that it reads beside ONNX's.
    fn formats(&self) -> &[Format] {
        &[]
    }

    /// Makes a model ready to run. Takes as long as it takes (seconds for large models): never called on a thread
    /// that serves requests. A provider that is missing is an error, never a silent run elsewhere.
    fn compile(&self, model: &ModelFile, options: &CompileOptions) -> Result<Box<dyn CompiledModel>, EngineError>;

    /// Makes ready to say which input had which part in a model's scores. `background` has rows of the model's inputs in the
    /// order of its signature, which stand for what is usual; without it, the file must tell how often each branch was taken.
    /// Takes as long as a compilation; never called on a thread that serves requests.
    ///
    /// Fails with [`EngineError::Unsupported`] where the engine cannot tell it of this model, and says what would help.
    fn explainer(
        &self,
        _model: &ModelFile,
        _background: Option<&[Option<Tensor>]>,
    ) -> Result<Box<dyn Explainer>, EngineError> {
        let told = "explanations need the classical engine, and this model runs on another";
        Err(EngineError::Unsupported(told.into()))
    }
}

/// An engine's own identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineBuild {
    /// The library's version, such as `1.32.0`.
    pub version: String,
    /// The file it was loaded from; `None` when it is compiled in.
    pub library: Option<PathBuf>,
    /// The execution providers it can use, such as `cpu` and `cuda`.
    pub providers: Vec<String>,
}

/// A kind of model file other than ONNX's, which the engines run that name it.
#[derive(Clone, Copy, Debug)]
pub struct Format {
    /// What it is, for people, such as `XGBoost`; [`Graph::format`] has it.
    pub name: &'static str,
    /// How names of such files end, after the dot. A version's is `model.<extension>`.
    pub extension: &'static str,
    /// Tells what a file says about itself, at far less than the cost of a compilation; or why it is no such file.
    pub read: fn(&Bytes) -> Result<Graph, String>,
}

/// A model file that was read and understood as far as no engine is needed for.
#[derive(Clone, Debug)]
pub struct ModelFile {
    /// Where it lies, for messages: nothing is read from there any more.
    pub path: PathBuf,
    /// Its content.
    pub bytes: Bytes,
    /// The content of the files beside it that hold its weights, by the names that the graph gives them.
    pub external: BTreeMap<String, Arc<[u8]>>,
    /// What the file says about itself.
    pub graph: Graph,
}

impl ModelFile {
    /// Reads a model with all that it names beside itself.
    pub fn read(path: &Path) -> io::Result<ModelFile> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let files = Files::within([folder])?;
        let mut reading = Reading::new(&files);
        let bytes = Bytes::from_owner(reading.take_shared("", path)?);
        let graph = Graph::read(&bytes).map_err(io::Error::other)?;
        let mut external = BTreeMap::new();
        for name in graph.external_files.keys().filter(|name| folder.join(name).exists()) {
            external.insert(name.clone(), reading.take_shared(name, &folder.join(name))?);
        }
        Ok(ModelFile { path: path.to_owned(), bytes, external, graph })
    }

    /// Checks that the files that hold its weights are here and whole.
    pub fn check_external_files(&self) -> Result<(), OnnxError> {
        self.graph.check_external_files(|name| self.external.get(name).map(|bytes| bytes.len() as u64))
    }

    /// Bytes of the file and of those beside it that hold its weights.
    pub fn weight_bytes(&self) -> u64 {
        self.bytes.len() as u64 + self.external.values().map(|bytes| bytes.len() as u64).sum::<u64>()
    }
}

/// What the columns of an output are of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputClasses {
    /// The output's name.
    pub output: String,
    /// The class of each column; numbers as text.
    pub labels: Vec<String>,
}

/// How to compile a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompileOptions {
    /// Execution providers in order of preference; empty means `cpu`.
    pub providers: Vec<String>,
    /// What the owner says about each.
    pub provider_options: ProviderOptions,
    /// Threads that one run may use.
    pub intra_threads: usize,
    /// Sessions on each device, for providers whose sessions hold a device's memory.
    pub instances: usize,
    /// A folder where an engine may keep what it built of this artifact, until it is asked for again; it may not be
    /// there yet. `None` keeps nothing.
    pub cache: Option<PathBuf>,
    /// Whether weights that are sure not to fit a device's limit are refused before anything is tried.
    pub memory_check: bool,
}

impl Default for CompileOptions {
    fn default() -> CompileOptions {
        CompileOptions {
            providers: Vec::new(),
            provider_options: ProviderOptions::default(),
            intra_threads: 1,
            instances: 1,
            cache: None,
            memory_check: true,
        }
    }
}

/// A model that can be run, shared by all threads.
pub trait CompiledModel: Send + Sync {
    /// The contract, in the graph's order. [`Session::run`] takes and gives tensors in this order.
    fn signature(&self) -> &Signature;

    /// The provider that was chosen among those preferred.
    fn provider(&self) -> &str;

    /// Which nodes of the graph run on which provider, where the engine tells.
    fn placement(&self) -> &[Placement] {
        &[]
    }

    /// The classes that columns of outputs are of, where the graph says so of an output that is a map there and a matrix here.
    fn classes(&self) -> &[OutputClasses] {
        &[]
    }

    /// How many runs there can be at a time, where each session holds a device's memory and all of them were made at
    /// the load; `None` where threads can have as many as they want.
    fn sessions_max(&self) -> Option<usize> {
        None
    }

    /// Whether a batch size that was never run costs a search, so that a few sizes shall be warmed and kept to; see
    /// [`crate::providers::fixed_sizes`].
    fn likes_fixed_sizes(&self) -> bool {
        false
    }

    /// Makes ready for the batches that will keep coming, each an example of its size: from now on no run has other shapes,
    /// but for fewer rows. Called once, before the first request, and only where few sizes are liked. A model that can only
    /// answer such runs and none yet fails here.
    fn settle(&self, _batches: &[Vec<Option<Tensor>>]) -> Result<(), EngineError> {
        Ok(())
    }

    /// Opens a session. Cheap where the library can share the compiled model.
    fn open(&self) -> Result<Box<dyn Session>, EngineError>;
}

/// One thread's way to run a model.
pub trait Session: Send {
    /// Runs the model once and computes the outputs at the positions `wanted`, which are given back in that order.
    ///
    /// `inputs` has one entry per input of the signature, aligned (see [`Tensor::aligned`]) and already checked
    /// against it; `None` stands for an optional input that was left out. The outputs are in memory of this
    /// process, not the library's: they may outlive the session.
    fn run(&mut self, inputs: &[Option<Tensor>], wanted: &[usize]) -> Result<Vec<Tensor>, EngineError>;
}

/// A model that is ready to be explained, shared by all threads.
///
/// What is explained is the score before its last transform, for each output of it. The parts of a row add up to what is
/// between its score and the base, which is the score of whatever is usual.
pub trait Explainer: Send + Sync {
    /// What its explanations are of.
    fn about(&self) -> &ExplanationKind;

    /// Explains the scores of rows for the outputs at the positions `wanted` of [`ExplanationKind::outputs`].
    ///
    /// `inputs` is as [`Session::run`] takes it. `go_on` is asked every now and then, a millisecond of work apart or so;
    /// where it says no, there is no explanation: `None`.
    fn explain(
        &self,
        inputs: &[Option<Tensor>],
        wanted: &[usize],
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<Option<Explanation>, EngineError>;
}

/// What the explanations of a model are of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExplanationKind {
    /// How parts are found, such as `tree_path_dependent`.
    pub method: &'static str,
    /// What scores are, such as `log-odds`.
    pub space: &'static str,
    /// The outputs that can be explained: classes of a classifier, numbers from 0 elsewhere.
    pub outputs: Vec<String>,
    /// How many columns each input of the signature has, in its order.
    pub columns: Vec<usize>,
    /// Rows that stand for what is usual; `None` where the file itself tells it.
    pub background_rows: Option<usize>,
}

/// The parts of some rows' scores.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Explanation {
    /// What is usual, for each wanted output, in the unit of scores.
    pub base: Vec<f64>,
    /// rows × wanted outputs: the scores.
    pub scores: Vec<f64>,
    /// rows × wanted outputs × columns of all inputs side by side: what each column adds to the base.
    pub parts: Vec<f64>,
}

/// Why an engine could not compile or run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// The engine lacks something this model needs; another engine may have it.
    #[error("{0}")]
    Unsupported(String),
    /// The model file is at fault: no engine will run it.
    #[error("{0}")]
    BadModel(String),
    /// The values of this request are at fault, such as an index outside a table.
    #[error("{0}")]
    BadInput(String),
    /// There is not enough memory for a run as large as this one.
    #[error("{0}")]
    OutOfMemory(String),
    /// The library panicked, with this text, which is no client's to read.
    #[error("the engine panicked: {0}")]
    Panicked(String),
    /// The run failed for another reason.
    #[error("{0}")]
    Failed(String),
}
