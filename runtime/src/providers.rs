//! With which options shall a model run on an execution provider?
//!
//! The owner writes them into `model.toml` under `[provider.<name>]`, or has written Triton's into `config.pbtxt`. Each
//! is checked when it is read: a key or a value that is not known is refused with what was expected, whether or not
//! the provider is at hand.

mod keys;
mod triton;

pub use keys::OptionError;
pub use triton::Accelerator;

/// The options of all providers. What is `None` is left to the library.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ProviderOptions {
    /// Of `cuda`, and of the nodes that `tensorrt` leaves to it.
    pub cuda: CudaOptions,
    /// Of `tensorrt`.
    pub tensorrt: TensorRtOptions,
    /// Of `openvino`.
    pub openvino: OpenVinoOptions,
}

/// NVIDIA's CUDA with cuDNN.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct CudaOptions {
    /// The GPUs by number; empty means the first.
    pub devices: Vec<u32>,
    /// Bytes that the model may take on each device, shared out among its sessions there.
    pub memory_limit: Option<u64>,
    /// How the arena grows.
    pub arena_growth: Option<ArenaGrowth>,
    /// How an algorithm for a convolution is found.
    pub conv_search: Option<ConvSearch>,
    /// Whether that search may take as much memory as it wants.
    pub conv_workspace_max: Option<bool>,
    /// Whether single-precision products may be computed in TensorFloat-32, which is faster and less exact.
    pub tf32: Option<bool>,
    /// Whether convolutions keep their channels last.
    pub prefer_nhwc: Option<bool>,
    /// Whether each batch size is recorded at the load and replayed as one call.
    pub graphs: bool,
}

/// How CUDA's arena grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArenaGrowth {
    /// To the next power of two.
    Doubling,
    /// By what is asked for.
    AsRequested,
}

/// How cuDNN finds an algorithm for a convolution of a new shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConvSearch {
    /// By trying all: slow at a shape's first run, fastest afterwards.
    Exhaustive,
    /// By a rule of thumb.
    Heuristic,
    /// Not at all: one algorithm for everything.
    Default,
}

/// NVIDIA's TensorRT. Nodes it does not know run on CUDA.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct TensorRtOptions {
    /// The GPUs by number; empty means the first.
    pub devices: Vec<u32>,
    /// The numbers it computes with. Lower ones answer less exactly.
    pub precision: Precision,
    /// Whether built engines are kept between starts; `None` means yes where there is a place for them.
    pub engine_cache: Option<bool>,
    /// Bytes an engine may use for a layer while it is built.
    pub workspace_limit: Option<u64>,
    /// Parts of the graph with fewer nodes are left to CUDA.
    pub subgraph_nodes_min: Option<u32>,
    /// How long to search for a faster engine, from 0 to 5.
    pub optimization_level: Option<u32>,
}

/// The numbers that TensorRT computes with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Precision {
    /// Single precision, as the model says.
    #[default]
    Fp32,
    /// Half precision where that is faster.
    Fp16,
    /// Brain floats where that is faster.
    Bf16,
    /// Bytes where that is faster: for models that were quantised, and say their scales themselves.
    Int8,
}

impl Precision {
    /// The name in `model.toml`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Precision::Fp32 => "fp32",
            Precision::Fp16 => "fp16",
            Precision::Bf16 => "bf16",
            Precision::Int8 => "int8",
        }
    }
}

/// Intel's OpenVINO.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct OpenVinoOptions {
    /// Its own names of devices, such as `CPU`, `GPU.0` or `NPU`; empty means `CPU`.
    pub device_types: Vec<String>,
    /// The numbers it computes with: `FP32`, `FP16` or `ACCURACY`.
    pub precision: Option<String>,
    /// Threads of a run; `None` takes those of the model.
    pub threads: Option<u32>,
    /// Runs that the device works on at a time.
    pub streams: Option<u32>,
    /// Whether compiled models are kept between starts.
    pub cache: bool,
}

impl ProviderOptions {
    /// How many devices the provider of that name spreads its sessions over.
    pub fn devices(&self, provider: &str) -> usize {
        match provider {
            "cuda" => self.cuda.devices.len().max(1),
            "tensorrt" => self.tensorrt.devices.len().max(1),
            "openvino" => self.openvino.device_types.len().max(1),
            _ => 1,
        }
    }

    /// Bytes that the sessions on one device may take, where the owner names a limit.
    pub fn memory_limit(&self, provider: &str) -> Option<u64> {
        // TensorRT has no limit of its own, but what it shares with CUDA counts.
        matches!(provider, "cuda" | "tensorrt").then_some(self.cuda.memory_limit).flatten()
    }

    /// What of a provider's options changes answers, to be put behind its name; empty where nothing does. Part of a
    /// deployment's digest: the file they are written in is too, but not what holds where nothing is written.
    pub fn shapes_answers(&self, provider: &str) -> String {
        match provider {
            "cuda" => format!(" tf32 {:?}, channels last {:?}", self.cuda.tf32, self.cuda.prefer_nhwc),
            "tensorrt" => format!(" precision {}, tf32 {:?}", self.tensorrt.precision.as_str(), self.cuda.tf32),
            "openvino" => {
                let OpenVinoOptions { device_types, precision, .. } = &self.openvino;
                format!(" devices {device_types:?}, precision {precision:?}")
            }
            _ => String::new(),
        }
    }
}

/// Batch sizes to run on a device that plans anew for each: powers of two up to `rows_max`, and that itself. Rows are
/// padded up to the next, so that every size was planned for at load.
pub fn fixed_sizes(rows_max: usize) -> Vec<usize> {
    let powers = (0..usize::BITS).map(|exponent| 1 << exponent).take_while(|&size| size < rows_max);
    powers.chain([rows_max]).filter(|&size| size > 0).collect()
}

/// Nodes of a graph that run on one provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The provider.
    pub provider: String,
    /// How many nodes of each operator.
    pub operators: std::collections::BTreeMap<String, usize>,
}

impl Placement {
    /// Nodes of all operators.
    pub fn nodes(&self) -> usize {
        self.operators.values().sum()
    }
}

impl std::fmt::Display for Placement {
    /// Such as `cpu: 3 nodes (Gather 2, Shape 1)`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let nodes = self.nodes();
        write!(f, "{}: {nodes} node{} (", self.provider, if nodes == 1 { "" } else { "s" })?;
        for (position, (operator, count)) in self.operators.iter().enumerate() {
            write!(f, "{}{operator} {count}", if position == 0 { "" } else { ", " })?;
        }
        f.write_str(")")
    }
}

#[cfg(test)]
#[path = "providers/tests.rs"]
mod tests;
