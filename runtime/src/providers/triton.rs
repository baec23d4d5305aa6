//! What do Triton's accelerators and parameters ask of a provider?

use std::collections::BTreeMap;

use toml::Value;

use super::{OptionError, ProviderOptions};

/// An execution accelerator of `config.pbtxt`: a provider to prefer over the plain device, with its parameters.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Accelerator {
    /// `tensorrt`, `cuda` or `openvino`.
    pub name: String,
    /// Text by name.
    pub parameters: BTreeMap<String, String>,
}

/// How a parameter's text becomes a value of ours.
#[derive(Clone, Copy)]
enum Form {
    /// `0`, `1`, `true`, `false`.
    Bool,
    /// A whole number.
    Integer,
    /// Text, in lower case.
    Lower,
    /// One of these by its number or its name there, and ours.
    Names(&'static [(&'static str, &'static str)]),
}

const SEARCHES: Form = Form::Names(&[
    ("0", "exhaustive"),
    ("1", "heuristic"),
    ("2", "default"),
    ("EXHAUSTIVE", "exhaustive"),
    ("HEURISTIC", "heuristic"),
    ("DEFAULT", "default"),
]);

const GROWTHS: Form = Form::Names(&[
    ("0", "doubling"),
    ("1", "as_requested"),
    ("kNextPowerOfTwo", "doubling"),
    ("kSameAsRequested", "as_requested"),
]);

/// Triton's name, ours, and its form, by provider.
const KNOWN: &[(&str, &str, &str, Form)] = &[
    ("cuda", "gpu_mem_limit", "memory_limit", Form::Integer),
    ("cuda", "cudnn_conv_algo_search", "conv_search", SEARCHES),
    ("cuda", "cudnn_conv_use_max_workspace", "conv_workspace_max", Form::Bool),
    ("cuda", "arena_extend_strategy", "arena_growth", GROWTHS),
    ("cuda", "use_tf32", "tf32", Form::Bool),
    ("cuda", "prefer_nhwc", "prefer_nhwc", Form::Bool),
    ("cuda", "enable_cuda_graph", "cuda_graphs", Form::Bool),
    ("tensorrt", "precision_mode", "precision", Form::Lower),
    ("tensorrt", "max_workspace_size_bytes", "workspace_limit", Form::Integer),
    ("tensorrt", "trt_max_workspace_size", "workspace_limit", Form::Integer),
    ("tensorrt", "trt_engine_cache_enable", "engine_cache", Form::Bool),
    ("tensorrt", "trt_min_subgraph_size", "subgraph_nodes_min", Form::Integer),
    ("tensorrt", "trt_builder_optimization_level", "optimization_level", Form::Integer),
    ("openvino", "num_of_threads", "threads", Form::Integer),
    ("openvino", "num_streams", "streams", Form::Integer),
];

impl ProviderOptions {
    /// Takes over a parameter that stands at the model itself, where Triton keeps those of CUDA. Says whether it was
    /// one.
    pub fn take_parameter(&mut self, name: &str, text: &str) -> Result<bool, OptionError> {
        self.take("cuda", name, text)
    }

    /// Takes over an accelerator's parameters. Gives the names of those that are not acted on.
    pub fn take_accelerator(&mut self, accelerator: &Accelerator) -> Result<Vec<String>, OptionError> {
        let mut ignored = Vec::new();
        for (name, text) in &accelerator.parameters {
            if !self.take(&accelerator.name, name, text)? {
                ignored.push(name.clone());
            }
        }
        Ok(ignored)
    }

    fn take(&mut self, provider: &str, name: &str, text: &str) -> Result<bool, OptionError> {
        // TensorRT's precision has switches of its own beside the mode.
        let switch = match name {
            _ if provider != "tensorrt" => None,
            "trt_fp16_enable" => Some("fp16"),
            "trt_bf16_enable" => Some("bf16"),
            "trt_int8_enable" => Some("int8"),
            _ => None,
        };
        if let Some(precision) = switch {
            if value(Form::Bool, text).as_bool() == Some(true) {
                self.set(provider, "precision", &Value::from(precision))?;
            }
            return Ok(true);
        }
        let known = KNOWN.iter().find(|(owner, theirs, ..)| *owner == provider && *theirs == name);
        let Some((_, _, ours, form)) = known else { return Ok(false) };
        self.set(provider, ours, &value(*form, text))?;
        Ok(true)
    }
}

/// The text as a value of ours; as it is where it is none, which [`ProviderOptions::set`] then refuses.
fn value(form: Form, text: &str) -> Value {
    let read = match form {
        Form::Bool => match text {
            "1" | "true" | "True" => Some(true.into()),
            "0" | "false" | "False" => Some(false.into()),
            _ => None,
        },
        Form::Integer => text.parse::<i64>().ok().map(Value::from),
        Form::Lower => Some(text.to_ascii_lowercase().into()),
        Form::Names(names) => names.iter().find(|(theirs, _)| *theirs == text).map(|(_, ours)| (*ours).into()),
    };
    read.unwrap_or_else(|| text.into())
}
