//! On which devices can a session run, and what must the library have for it?

use std::fmt;

use ort::ep::{CPU, CUDA, ExecutionProvider, ExecutionProviderDispatch, OpenVINO, TensorRT};
use tiltyard_runtime::engine::{EngineBuild, EngineError};

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

    /// What to register with a session. A device that cannot start is an error, never a silent run on the CPU.
    ///
    /// The CPU is always there; naming it last switches its arena off, without which threads that share a session
    /// do not wait for each other.
    pub(crate) fn registrations(self) -> Vec<ExecutionProviderDispatch> {
        let cpu = CPU::default().with_arena_allocator(false).build();
        let devices = match self {
            Provider::Cpu => vec![],
            Provider::Cuda => vec![CUDA::default().build()],
            // TensorRT leaves the nodes it does not know to CUDA, as its documentation recommends.
            Provider::TensorRt => vec![TensorRT::default().build(), CUDA::default().build()],
            Provider::OpenVino => vec![OpenVINO::default().build()],
        };
        devices.into_iter().chain([cpu]).map(ExecutionProviderDispatch::error_on_failure).collect()
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
                "install the Python package onnxruntime-gpu with NVIDIA's CUDA and cuDNN libraries, and point \
                 --ort-lib at its onnxruntime/capi folder"
            }
            Provider::TensorRt => {
                "install the Python package onnxruntime-gpu with NVIDIA's CUDA, cuDNN and TensorRT libraries, and \
                 point --ort-lib at its onnxruntime/capi folder"
            }
            Provider::OpenVino => {
                "install the Python package onnxruntime-openvino, and point --ort-lib at its onnxruntime/capi folder"
            }
        }
    }
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
