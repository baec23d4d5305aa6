//! What does a model's owner say about it, beyond what its graph says itself?
//!
//! `model.toml` is ours; `config.pbtxt` is Triton's and is read where present. Where both speak of the same thing,
//! `model.toml` wins. Neither is needed.

mod devices;

use std::collections::BTreeMap;
use std::io;

use bytes::Bytes;
use serde::Deserialize;
use tiltyard_types::{Dim, Signature, TensorSpec};

use super::batching::BatchingSettings;
use super::pbtxt::{self, PbtxtConfig};
use super::policy::VersionPolicy;
use crate::artifact::Files;
use crate::providers::ProviderOptions;

/// Where settings are read from: the file of that name.
pub(crate) type ReadFile<'a> = dyn FnMut(&str) -> Option<io::Result<Bytes>> + 'a;

/// The effective settings of a model.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Settings {
    /// The model's name in `config.pbtxt`; it must be that of its folder.
    pub name: Option<String>,
    /// For people.
    pub description: String,
    /// Engines that may be used, in order of preference; empty leaves it to the server.
    pub engines: Vec<String>,
    /// Execution providers in order of preference; empty means cpu.
    pub providers: Vec<String>,
    /// Options of providers.
    pub provider_options: ProviderOptions,
    /// Whether weights that are sure not to fit are refused before anything is tried; `None` means yes.
    pub memory_check: Option<bool>,
    /// Which versions to serve; `None` leaves it to the server.
    pub version_policy: Option<VersionPolicy>,
    /// Whether a version may replace one whose clients it breaks.
    pub accept_incompatible: bool,
    /// The file with the graph, where it is not `model.onnx`.
    pub model_file: Option<String>,
    /// How to batch.
    pub batching: BatchingSettings,
    /// Sessions that may run at once; `None` leaves it to the server.
    pub instances: Option<usize>,
    /// Threads that one run may use.
    pub threads: Option<usize>,
    /// Columns of wide inputs, for row scoring.
    pub columns: Vec<Column>,
    /// Names along the last axis, by output.
    pub labels: BTreeMap<String, Vec<String>>,
    /// Free parameters, reported in the model's configuration.
    pub parameters: BTreeMap<String, String>,
    /// Runs that `config.pbtxt` asks for before the model is ready: rows, and how often.
    pub warmups: Vec<(u32, u32)>,
    /// Fields of `config.pbtxt` that are understood but not acted on, by name.
    pub ignored: Vec<String>,
    /// Inputs and outputs that `config.pbtxt` declares; they must agree with the graph.
    declared: Option<(Vec<pbtxt::Tensor>, Vec<pbtxt::Tensor>, u32)>,
}

/// A column of a wide input.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Column {
    /// The name that row scoring uses.
    pub name: String,
    /// The input it is part of; may be left out where the model has one input.
    pub input: Option<String>,
    /// The kind of values.
    #[serde(rename = "type", default)]
    pub kind: ColumnKind,
    /// The unit, for people.
    pub unit: Option<String>,
    /// The smallest value seen in training.
    pub minimum: Option<f64>,
    /// The largest value seen in training.
    pub maximum: Option<f64>,
    /// The values a categorical column takes; for a numeric input, the position is what the model sees.
    #[serde(default)]
    pub categories: Vec<String>,
    /// For people.
    pub description: Option<String>,
}

impl Column {
    /// A column of numbers of which only the name is known.
    pub(crate) fn named(name: &str) -> Column {
        Column {
            name: name.to_owned(),
            input: None,
            kind: ColumnKind::Number,
            unit: None,
            minimum: None,
            maximum: None,
            categories: Vec::new(),
            description: None,
        }
    }
}

/// The kinds of values a column takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ColumnKind {
    /// Any number.
    #[default]
    Number,
    /// A whole number.
    Integer,
    /// True or false.
    Boolean,
    /// Text.
    String,
}

/// `model.toml` as it is written.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Written {
    description: String,
    engine: OneOrMany,
    providers: Vec<String>,
    provider: toml::Table,
    memory_check: Option<bool>,
    version_policy: Option<String>,
    accept_incompatible: bool,
    model_file: Option<String>,
    instances: Option<usize>,
    threads: Option<usize>,
    batching: BatchingSettings,
    columns: Vec<Column>,
    outputs: BTreeMap<String, WrittenOutput>,
    parameters: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl Default for OneOrMany {
    fn default() -> OneOrMany {
        OneOrMany::Many(Vec::new())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenOutput {
    #[serde(default)]
    labels: Vec<String>,
}

impl Settings {
    /// Reads the model-level files among `files`. The error names the file, the place and what was expected.
    pub fn read(files: &Files) -> Result<Settings, String> {
        Settings::read_with(&mut |name| files.read(name).map(|read| read.map(Bytes::from)))
    }

    /// The same from wherever `read` has the files; it gives `None` for one that is not there.
    pub(crate) fn read_with(read: &mut ReadFile<'_>) -> Result<Settings, String> {
        // Among a version's files, those of the model's own folder are one level up.
        let mut read_text = |name: &str| {
            let bytes = read(&format!("../{name}")).or_else(|| read(name))?;
            let text = bytes.and_then(|bytes| String::from_utf8(bytes.into()).map_err(io::Error::other));
            Some(text.map_err(|error| format!("{name}: {error}")))
        };
        let mut settings = Settings::default();
        if let Some(text) = read_text("config.pbtxt").transpose()? {
            let config = pbtxt::parse(&text).map_err(|error| format!("config.pbtxt: {error}"))?;
            settings.apply_pbtxt(config)?;
            settings.read_label_files(&mut read_text)?;
        }
        if let Some(text) = read_text("model.toml").transpose()? {
            let written: Written = toml::from_str(&text).map_err(|error| format!("model.toml: {error}"))?;
            settings.apply_toml(written)?;
        }
        Ok(settings)
    }

    /// The rows `config.pbtxt` allows in one run, where it says so; 0 means that there is no batch axis.
    pub fn declared_rows_max(&self) -> Option<u32> {
        self.declared.as_ref().map(|(_, _, rows_max)| *rows_max)
    }

    /// Checks names, data types and shapes that the settings mention against the graph's own.
    pub fn check(&self, signature: &Signature) -> Result<(), String> {
        if let Some((inputs, outputs, rows_max)) = &self.declared {
            check_declared("input", inputs, &signature.inputs, *rows_max > 0)?;
            check_declared("output", outputs, &signature.outputs, *rows_max > 0)?;
        }
        for column in &self.columns {
            let known = match &column.input {
                Some(input) => signature.inputs.iter().any(|spec| spec.name == *input),
                None => signature.inputs.len() == 1,
            };
            if !known {
                let input = column.input.as_deref().unwrap_or("(none named)");
                return Err(format!("model.toml: column {:?} is of input {input}, which the model lacks", column.name));
            }
        }
        self.batching.check(signature).map_err(|error| format!("model.toml: {error}"))?;
        match self.labels.keys().find(|name| signature.outputs.iter().all(|output| output.name != **name)) {
            Some(unknown) => Err(format!("labels are given for output {unknown:?}, which the model lacks")),
            None => Ok(()),
        }
    }

    fn apply_toml(&mut self, written: Written) -> Result<(), String> {
        if !written.description.is_empty() {
            self.description = written.description;
        }
        let engines = match written.engine {
            OneOrMany::One(name) if name == "auto" => Vec::new(),
            OneOrMany::One(name) => vec![name],
            OneOrMany::Many(names) => names,
        };
        if !engines.is_empty() {
            self.engines = engines;
        }
        if !written.providers.is_empty() {
            self.providers = written.providers;
        }
        self.apply_toml_providers(&written.provider)?;
        self.memory_check = written.memory_check.or(self.memory_check);
        if let Some(policy) = written.version_policy {
            self.version_policy = Some(policy.parse().map_err(|error| format!("model.toml: {error}"))?);
        }
        self.accept_incompatible = written.accept_incompatible;
        self.model_file = written.model_file.or(self.model_file.take());
        self.instances = written.instances.or(self.instances);
        self.threads = written.threads.or(self.threads);
        self.batching.override_with(written.batching).map_err(|error| format!("model.toml: {error}"))?;
        self.columns = written.columns;
        for (output, WrittenOutput { labels }) in written.outputs {
            self.labels.insert(output, labels);
        }
        self.parameters.extend(written.parameters);
        Ok(())
    }

    fn apply_pbtxt(&mut self, config: PbtxtConfig) -> Result<(), String> {
        self.engines = pbtxt_engines(&config)?;
        self.apply_pbtxt_devices(&config)?;
        self.name = config.name.filter(|name| !name.is_empty());
        self.version_policy = config.version_policy;
        self.model_file = config.default_model_filename;
        self.parameters.extend(config.parameters);
        self.ignored.extend(config.ignored);
        self.batching = BatchingSettings::of_pbtxt(config.max_batch_size, config.dynamic_batching, &mut self.ignored)
            .map_err(|error| format!("config.pbtxt: dynamic_batching: {error}"))?;
        self.warmups = config
            .warmups
            .iter()
            .map(|warmup| (warmup.batch_size.clamp(1, 4096), warmup.count.clamp(1, 1000)))
            .collect();
        for output in &config.outputs {
            if let Some(file) = &output.label_filename {
                self.labels.insert(output.name.clone(), vec![file.clone()]);
            }
        }
        self.declared = Some((config.inputs, config.outputs, config.max_batch_size.unwrap_or(0)));
        Ok(())
    }

    /// Replaces the names of label files by the labels in them, one per line.
    fn read_label_files(
        &mut self,
        read_text: &mut dyn FnMut(&str) -> Option<Result<String, String>>,
    ) -> Result<(), String> {
        for labels in self.labels.values_mut() {
            let file = labels.join("");
            if !pbtxt::is_inside(&file) {
                return Err(format!("config.pbtxt: label file {file:?} is not inside the model's folder"));
            }
            let text = read_text(&file).unwrap_or_else(|| Err(format!("{file}: there is no such file")));
            let text = text.map_err(|error| format!("config.pbtxt: label file {error}"))?;
            *labels = text.lines().map(str::to_owned).collect();
        }
        Ok(())
    }
}

/// Triton's platform and backend, as engines of ours.
fn pbtxt_engines(config: &PbtxtConfig) -> Result<Vec<String>, String> {
    let named = config.backend.as_deref().or(config.platform.as_deref()).unwrap_or("");
    match named {
        "" | "onnxruntime" | "onnxruntime_onnx" | "onnx_onnxv1" => Ok(Vec::new()),
        "classical" | "tract" => Ok(vec![named.to_owned()]),
        other => Err(format!(
            "config.pbtxt: backend {other:?} is not offered; expected \"onnxruntime\" (platform \"onnxruntime_onnx\")"
        )),
    }
}

/// Compares what `config.pbtxt` declares with the graph. With `batched`, declared dims lack the batch axis.
fn check_declared(what: &str, declared: &[pbtxt::Tensor], graph: &[TensorSpec], batched: bool) -> Result<(), String> {
    for tensor in declared {
        let Some(spec) = graph.iter().find(|spec| spec.name == tensor.name) else {
            let known = graph.iter().map(|spec| spec.name.as_str()).collect::<Vec<_>>().join(", ");
            return Err(format!("config.pbtxt: {what} {:?} is not in the graph, which has {known}", tensor.name));
        };
        if let Some(dtype) = tensor.dtype
            && dtype != spec.dtype
        {
            return Err(format!(
                "config.pbtxt: {what} {:?} is {dtype} there and {} in the graph",
                tensor.name, spec.dtype
            ));
        }
        let Some(dims) = &spec.dims else { continue };
        let dims = if batched && !dims.is_empty() { &dims[1..] } else { &dims[..] };
        // Where both are given, the graph sees the reshaped form.
        let declared_dims = tensor.reshape.as_ref().unwrap_or(&tensor.dims);
        let fits = dims.len() == declared_dims.len()
            && dims.iter().zip(declared_dims).all(|(dim, &declared)| match dim {
                Dim::Fixed(length) => declared == -1 || usize::try_from(declared) == Ok(*length),
                Dim::Dynamic(_) => true,
            });
        if !fits {
            let batch_axis = if batched { " (without the batch axis, since max_batch_size is above 0)" } else { "" };
            let expected: Vec<i64> = dims.iter().map(Dim::to_wire).collect();
            return Err(format!(
                "config.pbtxt: {what} {:?} has dims {:?}; the graph has {expected:?}{batch_axis}",
                tensor.name, declared_dims
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::PathBuf;
    use std::time::Duration;
    use tiltyard_types::DataType;

    fn read(toml: Option<&str>, pbtxt: Option<&str>) -> Result<Settings, String> {
        let folder = tempfile::tempdir().unwrap();
        let mut files = Files::within([folder.path()]).unwrap();
        for (name, text) in [("model.toml", toml), ("config.pbtxt", pbtxt)] {
            if let Some(text) = text {
                let path: PathBuf = folder.path().join(name);
                fs::write(&path, text).unwrap();
                files.add(name, path);
            }
        }
        Settings::read(&files)
    }

    fn signature() -> Signature {
        let spec = |name: &str, last| TensorSpec {
            name: name.into(),
            dtype: DataType::Fp32,
            dims: Some(vec![Dim::Dynamic(None), Dim::Fixed(last)]),
            optional: false,
        };
        Signature { inputs: vec![spec("x", 30)], outputs: vec![spec("y", 2)] }
    }

    #[test]
    fn nothing_is_needed() {
        assert_eq!(read(None, None), Ok(Settings::default()));
    }

    #[test]
    fn toml_overrides_pbtxt() {
        let settings = read(
            Some("[batching]\nrows_max = 16\ndelay_max = \"2ms\"\n[[columns]]\nname = \"age\"\nminimum = 18"),
            Some("max_batch_size: 8 dynamic_batching { max_queue_delay_microseconds: 100 } optimization { cuda { graphs: true } }"),
        )
        .unwrap();
        assert_eq!(settings.batching.rows_max, Some(16));
        assert_eq!(settings.batching.delay_max, Some(Duration::from_millis(2)));
        assert_eq!(settings.columns[0].minimum, Some(18.0));
        assert!(settings.ignored.iter().any(|name| name.starts_with("optimization")), "{:?}", settings.ignored);
        assert_eq!(settings.check(&signature()), Ok(()));
    }

    #[track_caller]
    fn refused(toml: Option<&str>, pbtxt: Option<&str>, expected: &str) {
        let error = match read(toml, pbtxt) {
            Ok(settings) => settings.check(&signature()).unwrap_err(),
            Err(error) => error,
        };
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn devices_are_understood_from_both_files() {
        let gpus = "instance_group { kind: KIND_GPU count: 2 gpus: [0, 1] } parameters { key: \"gpu_mem_limit\" value { \
                    string_value: \"1024\" } } parameters { key: \"execution_mode\" value { string_value: \"1\" } }";
        let settings = read(None, Some(gpus)).unwrap();
        assert_eq!((settings.providers.as_slice(), settings.instances), (["cuda".to_owned()].as_slice(), Some(2)));
        assert_eq!(settings.provider_options.cuda.devices, [0, 1]);
        assert_eq!(settings.provider_options.cuda.memory_limit, Some(1024));
        assert_eq!(settings.ignored, ["parameters: execution_mode"]);

        let tensorrt = "optimization { execution_accelerators { gpu_execution_accelerator { name: \"tensorrt\" \
                        parameters { key: \"precision_mode\" value: \"FP16\" } parameters { key: \"x\" value: \"\" } } } }";
        let settings = read(Some("[provider.tensorrt]\nworkspace_limit = \"1GiB\""), Some(tensorrt)).unwrap();
        assert_eq!(settings.providers, ["tensorrt", "cuda", "cpu"]);
        assert_eq!(settings.provider_options.tensorrt.precision.as_str(), "fp16");
        assert_eq!(settings.provider_options.tensorrt.workspace_limit, Some(1 << 30));
        let place = "optimization.execution_accelerators.gpu_execution_accelerator: tensorrt: x";
        assert_eq!(settings.ignored, [place]);
        refused(None, Some(&tensorrt.replace("FP16", "FP12")), "provider.tensorrt.precision: \"fp12\"");
    }

    #[test]
    fn mistakes_are_told() {
        refused(Some("descripton = \"x\""), None, "unknown field `descripton`");
        refused(Some("[batching]\ndelay_max = \"soon\""), None, "no duration");
        refused(Some("[[columns]]\nname = \"age\"\ninput = \"z\""), None, "column \"age\"");
        refused(Some("[outputs.q]\nlabels = [\"a\"]"), None, "output \"q\"");
        refused(Some("version_policy = \"newest\""), None, "expected \"latest:N\"");
        refused(Some("providers = [\"cuda\"]\n[provider.cuda]\ndevise = 1"), None, "did you mean device?");
        refused(Some("[provider.cuda]\ndevice = 1"), None, "provider.cuda has options, but providers does not name it");
        refused(None, Some("backend: \"pytorch\""), "backend \"pytorch\" is not offered");
        refused(None, Some("input [{ name: \"z\" data_type: TYPE_FP32 dims: [30] }]"), "not in the graph");
        refused(None, Some("input [{ name: \"x\" data_type: TYPE_INT8 dims: [-1, 30] }]"), "INT8 there and FP32");
        refused(
            None,
            Some("max_batch_size: 4 input [{ name: \"x\" data_type: TYPE_FP32 dims: [-1, 30] }]"),
            "has dims [-1, 30]; the graph has [30] (without the batch axis",
        );
        refused(
            None,
            Some("output [{ name: \"y\" data_type: TYPE_FP32 dims: [2] label_filename: \"../../etc/passwd\" }]"),
            "not inside",
        );
    }
}
