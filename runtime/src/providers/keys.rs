//! Which keys do the providers' tables have, and what may stand there?

use tiltyard_types::nearest;
use toml::{Table, Value};

use super::{ArenaGrowth, ConvSearch, CudaOptions, OpenVinoOptions, Precision, ProviderOptions, TensorRtOptions};

/// A key or a value that is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("provider.{key}: {wrong}")]
pub struct OptionError {
    /// The key below `provider`, such as `cuda.conv_search`.
    pub key: String,
    /// What is wrong there, and what was expected.
    pub wrong: String,
}

/// Puts a value into its place, or says what was expected there.
type Set<T> = fn(&mut T, &Value) -> Result<(), String>;

const CUDA: &[(&str, Set<CudaOptions>)] = &[
    ("device", |options, value| put(&mut options.devices, vec![device(value)?])),
    ("devices", |options, value| put(&mut options.devices, several(value, device)?)),
    ("memory_limit", |options, value| put(&mut options.memory_limit, Some(bytes(value)?))),
    ("arena_growth", |options, value| {
        let known = [("doubling", ArenaGrowth::Doubling), ("as_requested", ArenaGrowth::AsRequested)];
        put(&mut options.arena_growth, Some(one_of(value, &known)?))
    }),
    ("conv_search", |options, value| {
        let known = [
            ("heuristic", ConvSearch::Heuristic),
            ("exhaustive", ConvSearch::Exhaustive),
            ("default", ConvSearch::Default),
        ];
        put(&mut options.conv_search, Some(one_of(value, &known)?))
    }),
    ("conv_workspace_max", |options, value| put(&mut options.conv_workspace_max, Some(boolean(value)?))),
    ("tf32", |options, value| put(&mut options.tf32, Some(boolean(value)?))),
    ("prefer_nhwc", |options, value| put(&mut options.prefer_nhwc, Some(boolean(value)?))),
    ("cuda_graphs", |options, value| put(&mut options.graphs, boolean(value)?)),
];

const TENSORRT: &[(&str, Set<TensorRtOptions>)] = &[
    ("device", |options, value| put(&mut options.devices, vec![device(value)?])),
    ("devices", |options, value| put(&mut options.devices, several(value, device)?)),
    ("precision", |options, value| {
        let known = [Precision::Fp32, Precision::Fp16, Precision::Bf16, Precision::Int8];
        put(&mut options.precision, one_of(value, &known.map(|precision| (precision.as_str(), precision)))?)
    }),
    ("engine_cache", |options, value| put(&mut options.engine_cache, Some(boolean(value)?))),
    ("workspace_limit", |options, value| put(&mut options.workspace_limit, Some(bytes(value)?))),
    ("subgraph_nodes_min", |options, value| put(&mut options.subgraph_nodes_min, Some(number(value, 1, 1 << 20)?))),
    ("optimization_level", |options, value| put(&mut options.optimization_level, Some(number(value, 0, 5)?))),
    ("cuda_graphs", |_, value| no_graphs(value)),
];

const OPENVINO: &[(&str, Set<OpenVinoOptions>)] = &[
    ("device_type", |options, value| put(&mut options.device_types, vec![device_type(value)?])),
    ("device_types", |options, value| put(&mut options.device_types, alike(several(value, device_type)?)?)),
    ("precision", |options, value| {
        let known = ["FP32", "FP16", "ACCURACY"].map(|name| (name, name.to_owned()));
        put(&mut options.precision, Some(one_of(value, &known)?))
    }),
    ("threads", |options, value| put(&mut options.threads, Some(number(value, 1, 1024)?))),
    // The library takes a byte.
    ("streams", |options, value| put(&mut options.streams, Some(number(value, 1, 255)?))),
    ("cache", |options, value| put(&mut options.cache, boolean(value)?)),
];

/// Providers that have options.
const PROVIDERS: [&str; 3] = ["cuda", "tensorrt", "openvino"];

impl ProviderOptions {
    /// Reads what stands under `provider` in `model.toml`: a table for each provider. Values that are there replace
    /// those of `self`.
    pub fn read(&mut self, tables: &Table) -> Result<(), OptionError> {
        for (provider, table) in tables {
            let Value::Table(table) = table else {
                let wrong =
                    format!("{table} is no table: expected such as [provider.cuda] with a line for each option");
                return Err(OptionError { key: provider.clone(), wrong });
            };
            for (key, value) in table {
                if let Some(plural) = ["device", "device_type"].into_iter().find(|one| one == key)
                    && table.contains_key(&format!("{plural}s"))
                {
                    let wrong = format!("stands beside {plural}s: expected one of the two");
                    return Err(OptionError { key: format!("{provider}.{key}"), wrong });
                }
                self.set(provider, key, value)?;
            }
            if table.is_empty() {
                self.keys(provider)?;
            }
        }
        Ok(())
    }

    /// Sets one option. Fails on a provider, a key or a value that is not known.
    pub fn set(&mut self, provider: &str, key: &str, value: &Value) -> Result<(), OptionError> {
        let known = self.keys(provider)?;
        let fault = |wrong: String| OptionError { key: format!("{provider}.{key}"), wrong };
        if !known.contains(&key) {
            let such_as = nearest(key, known.iter().copied());
            let such_as = such_as.map(|name| format!("; did you mean {name}?")).unwrap_or_default();
            return Err(fault(format!("not an option: expected one of {}{such_as}", known.join(", "))));
        }
        let set = match provider {
            "cuda" => apply(CUDA, &mut self.cuda, key, value),
            "tensorrt" => apply(TENSORRT, &mut self.tensorrt, key, value),
            _ => apply(OPENVINO, &mut self.openvino, key, value),
        };
        set.map_err(|expected| fault(format!("{value} is not possible: {expected}")))
    }

    /// The options a provider has. Fails where it has none.
    fn keys(&self, provider: &str) -> Result<Vec<&'static str>, OptionError> {
        fn names<T>(table: &'static [(&'static str, Set<T>)]) -> Vec<&'static str> {
            table.iter().map(|(name, _)| *name).collect()
        }
        match provider {
            "cuda" => Ok(names(CUDA)),
            "tensorrt" => Ok(names(TENSORRT)),
            "openvino" => Ok(names(OPENVINO)),
            _ => {
                let such_as = nearest(provider, PROVIDERS);
                let such_as = such_as.map(|name| format!("; did you mean {name}?")).unwrap_or_default();
                let wrong = format!("no provider with options: expected one of {}{such_as}", PROVIDERS.join(", "));
                Err(OptionError { key: provider.to_owned(), wrong })
            }
        }
    }
}

fn apply<T>(table: &[(&str, Set<T>)], options: &mut T, key: &str, value: &Value) -> Result<(), String> {
    let set = table.iter().find(|(name, _)| *name == key).map(|(_, set)| set);
    set.map_or(Ok(()), |set| set(options, value))
}

fn put<T>(place: &mut T, value: T) -> Result<(), String> {
    *place = value;
    Ok(())
}

fn boolean(value: &Value) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| "expected true or false".to_owned())
}

fn number(value: &Value, least: u32, most: u32) -> Result<u32, String> {
    let number = value.as_integer().and_then(|number| u32::try_from(number).ok());
    number
        .filter(|number| (least..=most).contains(number))
        .ok_or_else(|| format!("expected a whole number from {least} to {most}"))
}

/// A GPU's number. More than this are in no machine.
fn device(value: &Value) -> Result<u32, String> {
    number(value, 0, 255).map_err(|_| "expected a GPU's number from 0 to 255".to_owned())
}

/// One or more, each once: instances say how many sessions there are on each.
fn several<T: PartialEq>(value: &Value, one: fn(&Value) -> Result<T, String>) -> Result<Vec<T>, String> {
    let values = value.as_array().filter(|values| !values.is_empty());
    let values = values.ok_or("expected a list of one or more, such as [0, 1]")?;
    let read: Vec<T> = values.iter().map(one).collect::<Result<_, _>>()?;
    let twice = read.iter().enumerate().any(|(position, device)| read[..position].contains(device));
    match twice {
        true => Err("expected each once; instances says how many sessions there are on each".to_owned()),
        false => Ok(read),
    }
}

fn one_of<T: Clone>(value: &Value, known: &[(&str, T)]) -> Result<T, String> {
    let text = value.as_str().unwrap_or_default();
    if let Some((_, found)) = known.iter().find(|(name, _)| *name == text) {
        return Ok(found.clone());
    }
    let names = known.iter().map(|(name, _)| *name);
    let such_as = nearest(text, names.clone()).map(|name| format!("; did you mean {name:?}?")).unwrap_or_default();
    let names = names.map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
    Err(format!("expected one of {names}{such_as}"))
}

/// OpenVINO's names of devices, alone or as a list after the name of a policy.
fn device_type(value: &Value) -> Result<String, String> {
    let is_device = |name: &str| {
        let (kind, number) = name.split_once('.').unwrap_or((name, "0"));
        ["CPU", "GPU", "NPU"].contains(&kind) && number.parse::<u8>().is_ok()
    };
    let text = value.as_str().unwrap_or_default();
    let fits = match text.split_once(':') {
        Some((policy, devices)) => ["AUTO", "HETERO", "MULTI"].contains(&policy) && devices.split(',').all(is_device),
        None => text == "AUTO" || is_device(text),
    };
    fits.then(|| text.to_owned()).ok_or_else(|| {
        "expected a device of OpenVINO, such as \"CPU\", \"GPU\", \"GPU.1\", \"NPU\" or \"AUTO:GPU,CPU\"".into()
    })
}

/// Devices that round alike: whichever answers, the model answers the same.
fn alike(device_types: Vec<String>) -> Result<Vec<String>, String> {
    fn kind(name: &str) -> &str {
        let device = name.split_once(':').map_or(name, |(_, devices)| devices);
        device.split_once('.').map_or(device, |(kind, _)| kind)
    }
    match device_types.windows(2).all(|pair| kind(&pair[0]) == kind(&pair[1])) {
        true => Ok(device_types),
        false => Err("expected devices of one kind, since others answer a little differently".to_owned()),
    }
}

/// A number of bytes, or text such as `512MiB` or `4GiB`.
fn bytes(value: &Value) -> Result<u64, String> {
    const UNITS: [(&str, u64); 7] = [
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("KB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("B", 1),
    ];
    let read = match value {
        Value::Integer(number) => u64::try_from(*number).ok(),
        Value::String(text) => UNITS.iter().find_map(|(unit, size)| {
            let number: u64 = text.trim().strip_suffix(unit)?.trim_end().parse().ok()?;
            number.checked_mul(*size)
        }),
        _ => None,
    };
    read.filter(|&size| size > 0).ok_or_else(|| "expected a size such as \"512MiB\" or \"4GiB\", or bytes".to_owned())
}

/// TensorRT's own graphs are another thing: this provider's parts of a model, with what it leaves to CUDA beside them.
fn no_graphs(value: &Value) -> Result<(), String> {
    match boolean(value)? {
        false => Ok(()),
        true => Err("graphs are recorded where all nodes run on cuda; expected false, or cuda_graphs of \
                     provider.cuda and cuda before tensorrt"
            .into()),
    }
}
