//! On which devices does a model's owner want it to run, and with which options?

use super::Settings;
use crate::repository::pbtxt::{InstanceKind, PbtxtConfig};

/// Parameters that Triton hands to ONNX Runtime and that are not acted on here. Others are free text.
const RUNTIME_PARAMETERS: [&str; 8] = [
    "inter_op_thread_count",
    "execution_mode",
    "level",
    "enable_mem_arena",
    "enable_mem_pattern",
    "memory.enable_memory_arena_shrinkage",
    "session.use_device_allocator_for_initializers",
    "do_copy_in_default_stream",
];

impl Settings {
    /// Takes over the tables below `provider` in `model.toml`; `providers` is known by then.
    pub(super) fn apply_toml_providers(&mut self, tables: &toml::Table) -> Result<(), String> {
        self.provider_options.read(tables).map_err(|error| format!("model.toml: {error}"))?;
        if let Some(unused) = tables.keys().find(|name| !self.uses_provider(name)) {
            return Err(format!(
                "model.toml: provider.{unused} has options, but providers does not name it: expected such as \
                 providers = [{unused:?}, \"cpu\"]"
            ));
        }
        Ok(())
    }

    /// Whether options of a provider can have an effect. TensorRT leaves nodes to CUDA.
    fn uses_provider(&self, name: &str) -> bool {
        self.providers.iter().any(|used| used == name || (name == "cuda" && used == "tensorrt"))
    }

    /// Takes over on which devices to run, and with what.
    pub(super) fn apply_pbtxt_devices(&mut self, config: &PbtxtConfig) -> Result<(), String> {
        let group = config.instance_groups.first();
        let kind = group.map_or(InstanceKind::Auto, |group| group.kind);
        self.instances = group.and_then(|group| group.count).map(|count| count as usize);
        if kind == InstanceKind::Model {
            self.ignored.push("instance_group.kind: KIND_MODEL".into());
        }
        if config.instance_groups.len() > 1 {
            self.ignored.push("instance_group: all but the first".into());
        }
        let lists = [
            ("gpu", &config.gpu_accelerators, ["tensorrt", "cuda"].as_slice(), InstanceKind::Cpu),
            ("cpu", &config.cpu_accelerators, ["openvino"].as_slice(), InstanceKind::Gpu),
        ];
        for (list, accelerators, offered, elsewhere) in lists {
            for accelerator in accelerators {
                let place =
                    format!("optimization.execution_accelerators.{list}_execution_accelerator: {}", accelerator.name);
                if kind == elsewhere || !offered.contains(&accelerator.name.as_str()) {
                    self.ignored.push(place);
                    continue;
                }
                self.providers.push(accelerator.name.clone());
                let ignored = self.provider_options.take_accelerator(accelerator);
                let ignored = ignored.map_err(|error| format!("config.pbtxt: {place}: {error}"))?;
                self.ignored.extend(ignored.iter().map(|name| format!("{place}: {name}")));
            }
        }
        match kind {
            InstanceKind::Gpu if self.providers.is_empty() => self.providers.push("cuda".into()),
            // An accelerator where it can be had; Triton runs without on a machine that lacks it.
            InstanceKind::Auto if !self.providers.is_empty() => {
                if self.providers.iter().any(|name| name == "tensorrt") && !self.providers.contains(&"cuda".to_owned())
                {
                    self.providers.push("cuda".into());
                }
                self.providers.push("cpu".into());
            }
            _ => {}
        }
        if let Some(group) = group {
            self.provider_options.cuda.devices.clone_from(&group.gpus);
            self.provider_options.tensorrt.devices.clone_from(&group.gpus);
        }
        for (name, text) in &config.parameters {
            let taken = self.provider_options.take_parameter(name, text);
            let taken = taken.map_err(|error| format!("config.pbtxt: parameter {name:?}: {error}"))?;
            match (name.as_str(), text.parse::<usize>()) {
                // 0 leaves it to the library there, and to the server here.
                ("intra_op_thread_count", Ok(threads)) => self.threads = Some(threads).filter(|&threads| threads > 0),
                ("intra_op_thread_count", Err(_)) => {
                    return Err(format!("config.pbtxt: parameter {name:?} is {text:?}: expected a whole number"));
                }
                _ if !taken && RUNTIME_PARAMETERS.contains(&name.as_str()) => {
                    self.ignored.push(format!("parameters: {name}"));
                }
                _ => {}
            }
        }
        Ok(())
    }
}
