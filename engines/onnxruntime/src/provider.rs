//! On which devices can a session run, and what must the library have for it?

use std::ffi::CStr;
use std::fmt;
use std::path::Path;

use ort::ep::cuda::ConvAlgorithmSearch;
use ort::ep::{ArenaExtendStrategy, CPU, CUDA, ExecutionProvider, ExecutionProviderDispatch, OpenVINO, TensorRT};
use tiltyard_runtime::engine::{CompileOptions, EngineBuild, EngineError};
use tiltyard_runtime::providers::{
    ArenaGrowth, ConvSearch, CudaOptions, OpenVinoOptions, Precision, ProviderOptions, TensorRtOptions,
};

/// An execution provider that can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Provider {
    Cpu,
    Cuda,
    TensorRt,
    OpenVino,
}

impl Provider {
    pub(crate) const ALL: [Provider; 4] = [Provider::Cpu, Provider::Cuda, Provider::TensorRt, Provider::OpenVino];

    /// The name in configuration and metrics.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Provider::Cpu => "cpu",
            Provider::Cuda => "cuda",
            Provider::TensorRt => "tensorrt",
            Provider::OpenVino => "openvino",
        }
    }

    /// The name in the library.
    const fn library_name(self) -> &'static str {
        match self {
            Provider::Cpu => CPU::NAME,
            Provider::Cuda => CUDA::NAME,
            Provider::TensorRt => TensorRT::NAME,
            Provider::OpenVino => <OpenVINO as ExecutionProvider>::NAME,
        }
    }

    /// Fails on a name that is none of ours.
    pub(crate) fn parse(name: &str) -> Result<Provider, EngineError> {
        Provider::ALL.into_iter().find(|provider| provider.name() == name).ok_or_else(|| {
            let known = Provider::ALL.map(Provider::name).join(", ");
            EngineError::Unsupported(format!("unknown execution provider {name:?}: onnxruntime has {known}"))
        })
    }

    /// Those that can be asked for among the names a library gives.
    pub(crate) fn usable(library_names: &[String]) -> Vec<String> {
        let is_there = |provider: &Provider| library_names.iter().any(|name| name == provider.library_name());
        Provider::ALL.into_iter().filter(is_there).map(|provider| provider.name().to_owned()).collect()
    }

    /// Our name of a provider of the library; its own where we have none.
    pub(crate) fn own_name(library_name: &str) -> &str {
        let ours = Provider::ALL.into_iter().find(|provider| provider.library_name() == library_name);
        match ours {
            Some(provider) => provider.name(),
            None => library_name,
        }
    }

    /// What to register with a session on the `device`th of the provider's devices. A device that cannot start is an
    /// error, never a silent run on the CPU.
    ///
    /// The CPU is always there; naming it last switches its arena off, without which threads that share a session
    /// do not wait for each other.
    pub(crate) fn registrations(
        self,
        options: &CompileOptions,
        device: usize,
        graphs: bool,
    ) -> Vec<ExecutionProviderDispatch> {
        let cpu = CPU::default().with_arena_allocator(false).build();
        let ProviderOptions { cuda: for_cuda, tensorrt: for_tensorrt, openvino: for_openvino } =
            &options.provider_options;
        let cache = options.cache.as_deref().map(|folder| folder.join(self.name()));
        let devices = match self {
            Provider::Cpu => vec![],
            Provider::Cuda => {
                let cuda = cuda(for_cuda, &for_cuda.devices, device, options.instances);
                vec![if graphs { cuda.with_cuda_graph(true) } else { cuda }.build()]
            }
            // TensorRT leaves the nodes it does not know to CUDA, as its documentation recommends.
            Provider::TensorRt => vec![
                tensorrt(for_tensorrt, device, cache.as_deref()).build(),
                cuda(for_cuda, &for_tensorrt.devices, device, options.instances).build(),
            ],
            Provider::OpenVino => {
                vec![openvino(for_openvino, device, options.intra_threads, cache.as_deref()).build()]
            }
        };
        devices.into_iter().chain([cpu]).map(ExecutionProviderDispatch::error_on_failure).collect()
    }

    /// The library's name of host memory that the `device`th of the provider's devices reads and writes by itself, and the
    /// device's number there; `None` where the provider has none.
    pub(crate) fn pinned_memory(self, options: &CompileOptions, device: usize) -> Option<(&'static CStr, i32)> {
        let devices = match self {
            Provider::Cuda => &options.provider_options.cuda.devices,
            Provider::TensorRt => &options.provider_options.tensorrt.devices,
            // OpenVINO reads and writes this process's memory; its devices copy for themselves.
            Provider::Cpu | Provider::OpenVino => return None,
        };
        Some((c"CudaPinned", device_id(devices, device)))
    }

    /// Fails with what to install when the library was built without this provider.
    pub(crate) fn require(self, build: &EngineBuild) -> Result<(), EngineError> {
        if build.providers.iter().any(|name| name == self.name()) {
            return Ok(());
        }
        let library = build.library.as_deref().map_or_else(String::new, |path| format!(" at {}", path.display()));
        Err(EngineError::Unsupported(format!(
            "the execution provider {:?} is not in ONNX Runtime {}{library}, which has {}: {}",
            self.name(),
            build.version,
            build.providers.join(", "),
            self.how_to_get()
        )))
    }

    /// The second half of a sentence about a provider that is missing or does not start.
    pub(crate) const fn how_to_get(self) -> &'static str {
        match self {
            Provider::Cpu => "any build has it",
            Provider::Cuda => {
                "install NVIDIA's driver and the Python package onnxruntime-gpu[cuda,cudnn], and point --ort-lib at its \
                 onnxruntime/capi folder"
            }
            Provider::TensorRt => {
                "install NVIDIA's driver and the Python packages onnxruntime-gpu[cuda,cudnn] and tensorrt, and point \
                 --ort-lib at the former's onnxruntime/capi folder"
            }
            Provider::OpenVino => {
                "install the Python package onnxruntime-openvino, and point --ort-lib at its onnxruntime/capi folder"
            }
        }
    }
}

/// CUDA on the `device`th of `devices`. What is not named is left to the library.
fn cuda(options: &CudaOptions, devices: &[u32], device: usize, instances: usize) -> CUDA {
    let mut cuda = CUDA::default().with_device_id(device_id(devices, device));
    if let Some(limit) = options.memory_limit {
        // Every session has an arena of its own.
        let limit = limit / instances.max(1) as u64;
        cuda = cuda.with_memory_limit(usize::try_from(limit).unwrap_or(usize::MAX));
    }
    if let Some(growth) = options.arena_growth {
        cuda = cuda.with_arena_extend_strategy(match growth {
            ArenaGrowth::Doubling => ArenaExtendStrategy::NextPowerOfTwo,
            ArenaGrowth::AsRequested => ArenaExtendStrategy::SameAsRequested,
        });
    }
    if let Some(search) = options.conv_search {
        cuda = cuda.with_conv_algorithm_search(match search {
            ConvSearch::Exhaustive => ConvAlgorithmSearch::Exhaustive,
            ConvSearch::Heuristic => ConvAlgorithmSearch::Heuristic,
            ConvSearch::Default => ConvAlgorithmSearch::Default,
        });
    }
    if let Some(enable) = options.conv_workspace_max {
        cuda = cuda.with_conv_max_workspace(enable);
    }
    if let Some(enable) = options.tf32 {
        cuda = cuda.with_tf32(enable);
    }
    if let Some(enable) = options.prefer_nhwc {
        cuda = cuda.with_prefer_nhwc(enable);
    }
    cuda
}

fn tensorrt(options: &TensorRtOptions, device: usize, cache: Option<&Path>) -> TensorRT {
    let mut tensorrt = TensorRT::default().with_device_id(device_id(&options.devices, device));
    tensorrt = match options.precision {
        Precision::Fp32 => tensorrt,
        Precision::Fp16 => tensorrt.with_fp16(true),
        Precision::Bf16 => tensorrt.with_bf16(true),
        Precision::Int8 => tensorrt.with_int8(true),
    };
    if let Some(limit) = options.workspace_limit {
        tensorrt = tensorrt.with_max_workspace_size(usize::try_from(limit).unwrap_or(usize::MAX));
    }
    if let Some(nodes) = options.subgraph_nodes_min {
        tensorrt = tensorrt.with_min_subgraph_size(nodes as usize);
    }
    if let Some(level) = options.optimization_level {
        tensorrt = tensorrt.with_builder_optimization_level(u8::try_from(level).unwrap_or(u8::MAX));
    }
    match cache.filter(|_| options.engine_cache != Some(false)).and_then(made) {
        Some(folder) => tensorrt
            .with_engine_cache(true)
            .with_engine_cache_path(folder.display())
            .with_timing_cache(true)
            .with_timing_cache_path(folder.display()),
        None => tensorrt,
    }
}

fn openvino(options: &OpenVinoOptions, device: usize, threads: usize, cache: Option<&Path>) -> OpenVINO {
    let device_type = options.device_types.get(device).map_or("CPU", String::as_str);
    let threads = options.threads.map_or(threads.max(1), |threads| threads as usize);
    let mut openvino = OpenVINO::default().with_device_type(device_type).with_num_threads(threads);
    if let Some(precision) = &options.precision {
        openvino = openvino.with_precision(precision);
    }
    if let Some(streams) = options.streams {
        openvino = openvino.with_num_streams(u8::try_from(streams).unwrap_or(u8::MAX));
    }
    match cache.filter(|_| options.cache).and_then(made) {
        Some(folder) => openvino.with_cache_dir(folder.display()),
        None => openvino,
    }
}

/// The number of a GPU; the first where none is named.
fn device_id(devices: &[u32], device: usize) -> i32 {
    devices.get(device).and_then(|&id| i32::try_from(id).ok()).unwrap_or(0)
}

/// The folder, which is there afterwards. Without it the next start builds again what this one has built.
fn made(folder: &Path) -> Option<&Path> {
    let made = std::fs::create_dir_all(folder);
    if let Err(error) = &made {
        tracing::warn!(folder = %folder.display(), %error, "what is built for this provider is not kept");
    }
    made.is_ok().then_some(folder)
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for provider in Provider::ALL {
            assert_eq!(Provider::parse(provider.name()), Ok(provider));
        }
        let error = Provider::parse("gpu").unwrap_err().to_string();
        assert_eq!(error, "unknown execution provider \"gpu\": onnxruntime has cpu, cuda, tensorrt, openvino");
    }

    #[test]
    fn providers_that_cannot_be_asked_for_are_not_listed() {
        let library = ["AzureExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"].map(String::from);
        assert_eq!(Provider::usable(&library), ["cpu", "cuda"]);
    }
}
