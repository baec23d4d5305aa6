//! What does a Triton user's `config.pbtxt` say?
//!
//! The file is read after Triton's own schema: a name the schema lacks is an error with its place, and a field that
//! is known but not acted on here is told in [`PbtxtConfig::ignored`], so that nothing is dropped in silence.

mod parser;
mod read;
mod schema;
mod token;

use std::collections::BTreeMap;
use std::time::Duration;

use tiltyard_types::DataType;

use super::policy::VersionPolicy;
pub use crate::providers::Accelerator;

/// Longer files are refused: the longest that people write are a thousandth of this.
pub const BYTES_MAX: usize = 1 << 20;

/// What the file says, as far as it is acted on.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct PbtxtConfig {
    /// The model's name, which must be that of its folder.
    pub name: Option<String>,
    /// What runs the model, in the older spelling: `onnxruntime_onnx`.
    pub platform: Option<String>,
    /// What runs the model: `onnxruntime`.
    pub backend: Option<String>,
    /// Rows in one run at most; 0 says that there is no batch axis.
    pub max_batch_size: Option<u32>,
    /// The inputs, in the file's order.
    pub inputs: Vec<Tensor>,
    /// The outputs, in the file's order.
    pub outputs: Vec<Tensor>,
    /// Which versions to serve.
    pub version_policy: Option<VersionPolicy>,
    /// Sessions by kind of device.
    pub instance_groups: Vec<InstanceGroup>,
    /// What to prefer over plain CUDA, in order.
    pub gpu_accelerators: Vec<Accelerator>,
    /// What to prefer over the plain CPU, in order.
    pub cpu_accelerators: Vec<Accelerator>,
    /// How requests may share a run; present, perhaps empty, where the owner wants them to.
    pub dynamic_batching: Option<DynamicBatching>,
    /// Runs before the model is ready.
    pub warmups: Vec<Warmup>,
    /// Free text by name.
    pub parameters: BTreeMap<String, String>,
    /// The file with the graph, where it is not `model.onnx`.
    pub default_model_filename: Option<String>,
    /// Fields that are present but not acted on, each once, such as `optimization.cuda.graphs`.
    pub ignored: Vec<String>,
}

/// An input or an output as the file declares it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Tensor {
    /// Its name in the graph.
    pub name: String,
    /// Its data type; `None` leaves it to the graph.
    pub dtype: Option<DataType>,
    /// Its shape, without the batch axis where there is one; -1 for a length that varies.
    pub dims: Vec<i64>,
    /// The shape the model itself sees instead of `dims`. Also among the ignored fields.
    pub reshape: Option<Vec<i64>>,
    /// Whether requests may leave it out. Inputs only.
    pub optional: bool,
    /// A file beside the model with one label per line. Outputs only.
    pub label_filename: Option<String>,
}

/// Sessions on one kind of device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceGroup {
    /// The kind of device.
    pub kind: InstanceKind,
    /// How many on each device; `None` leaves it to the server.
    pub count: Option<u32>,
    /// The GPUs by number; empty leaves it to the server.
    pub gpus: Vec<u32>,
}

/// The kind of device that sessions are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InstanceKind {
    /// A GPU where there is one.
    Auto,
    /// A GPU.
    Gpu,
    /// The CPU.
    Cpu,
    /// What the model or its engine chooses.
    Model,
}

impl InstanceKind {
    /// The name in the file, such as `KIND_GPU`.
    pub const fn as_str(self) -> &'static str {
        match self {
            InstanceKind::Auto => "KIND_AUTO",
            InstanceKind::Gpu => "KIND_GPU",
            InstanceKind::Cpu => "KIND_CPU",
            InstanceKind::Model => "KIND_MODEL",
        }
    }
}

/// How requests may share a run. What is `None` or empty was not written.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct DynamicBatching {
    /// Batch sizes worth waiting for.
    pub preferred_batch_sizes: Vec<u32>,
    /// How long a request may wait for company.
    pub queue_delay_max: Option<Duration>,
    /// Whether responses leave in the order in which their requests came.
    pub preserve_ordering: bool,
    /// How many priorities there are; 1 is the most urgent, 0 says that there are none.
    pub priority_levels: u64,
    /// The priority of a request that names none.
    pub default_priority_level: u64,
    /// What a request may expect of the queue.
    pub default_policy: PriorityPolicy,
    /// The same for those of one priority.
    pub priority_policies: BTreeMap<u64, PriorityPolicy>,
}

/// What a request may expect of the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct PriorityPolicy {
    /// What happens to a request that waited too long.
    pub timeout_action: TimeoutAction,
    /// How long a request may wait where it does not say.
    pub default_timeout: Option<Duration>,
    /// Whether a request may say so itself. Here it always may: the earliest of all its deadlines counts.
    pub allow_timeout_override: bool,
    /// Requests that may wait at most; 0 says that there is no bound.
    pub queue_size_max: Option<u32>,
}

/// What happens to a request that waited too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum TimeoutAction {
    /// It is refused.
    #[default]
    Reject,
    /// It waits on, behind those that are in time.
    Delay,
}

/// A run before the model is ready.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Warmup {
    /// For logs.
    pub name: String,
    /// Rows in the run; 0 says that there is no batch axis.
    pub batch_size: u32,
    /// How often it runs; 0 is the same as once.
    pub count: u32,
    /// What each input is given.
    pub inputs: BTreeMap<String, WarmupInput>,
}

/// What an input is given in a [`Warmup`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WarmupInput {
    /// Its data type; `None` leaves it to the graph.
    pub dtype: Option<DataType>,
    /// Its shape without the batch axis.
    pub dims: Vec<i64>,
    /// Where its values come from.
    pub data: WarmupData,
}

/// Where a warm-up's values come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WarmupData {
    /// Zeros.
    Zero,
    /// Random numbers.
    Random,
    /// A file in the model's `warmup` folder.
    File(String),
}

/// What is wrong with a file, where, and what was expected there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {found}: expected {expected}")]
pub struct PbtxtError {
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// What is there.
    pub found: String,
    /// What would be right.
    pub expected: String,
}

/// Reads the text of a `config.pbtxt`. Fails at the first mistake; never panics, and takes time and memory in
/// proportion to the text, which is at most [`BYTES_MAX`] long.
pub fn parse(text: &str) -> Result<PbtxtConfig, PbtxtError> {
    if text.len() > BYTES_MAX {
        let (found, expected) = (format!("{} bytes of text", text.len()), format!("at most {BYTES_MAX}"));
        return Err(PbtxtError { line: 1, column: 1, found, expected });
    }
    let (record, ignored) = parser::parse(text).map_err(|mistake| mistake.in_text(text))?;
    read::config(&record, ignored).map_err(|mistake| mistake.in_text(text))
}

/// The label files that the text of a `config.pbtxt` names, as far as they are inside the model's folder; none where it
/// cannot be read.
pub fn label_files(text: &str) -> Vec<String> {
    let outputs = parse(text).map(|config| config.outputs).unwrap_or_default();
    outputs.into_iter().filter_map(|output| output.label_filename).filter(|name| is_inside(name)).collect()
}

/// Whether a path leads into the folder that it is relative to.
pub(crate) fn is_inside(path: &str) -> bool {
    let mut parts = std::path::Path::new(path).components().peekable();
    parts.peek().is_some() && parts.all(|part| matches!(part, std::path::Component::Normal(_)))
}

#[cfg(test)]
mod tests;
