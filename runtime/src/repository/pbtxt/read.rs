//! What do the values of the file mean?

use std::collections::BTreeMap;
use std::time::Duration;

use tiltyard_types::DataType;

use super::parser::Record;
use super::token::Mistake;
use super::{
    Accelerator, DynamicBatching, InstanceGroup, InstanceKind, PbtxtConfig, PriorityPolicy, Tensor, TimeoutAction,
    VersionPolicy, Warmup, WarmupData, WarmupInput,
};

/// Gathers what is acted on. Fails on what the schema alone cannot refuse.
pub(super) fn config(record: &Record, ignored: Vec<String>) -> Result<PbtxtConfig, Mistake> {
    Ok(PbtxtConfig {
        name: text(record, "name"),
        platform: text(record, "platform"),
        backend: text(record, "backend"),
        max_batch_size: record.integer("max_batch_size"),
        inputs: record.messages("input").map(tensor).collect::<Result<_, _>>()?,
        outputs: record.messages("output").map(tensor).collect::<Result<_, _>>()?,
        version_policy: record.message("version_policy").and_then(version_policy),
        instance_groups: record.messages("instance_group").map(instance_group).collect(),
        gpu_accelerators: accelerators(record, "gpu_execution_accelerator"),
        cpu_accelerators: accelerators(record, "cpu_execution_accelerator"),
        dynamic_batching: record.message("dynamic_batching").map(dynamic_batching),
        warmups: record.messages("model_warmup").map(warmup).collect::<Result<_, _>>()?,
        parameters: record.messages("parameters").map(parameter).collect(),
        default_model_filename: text(record, "default_model_filename"),
        ignored,
    })
}

/// A text that was written and is not empty, which for Triton is the same as not written.
fn text(record: &Record, name: &'static str) -> Option<String> {
    record.text(name).filter(|text| !text.is_empty()).map(str::to_owned)
}

fn duration(record: &Record, name: &'static str) -> Option<Duration> {
    record.integer(name).map(Duration::from_micros)
}

fn tensor(record: &Record) -> Result<Tensor, Mistake> {
    let name = text(record, "name").ok_or_else(|| Mistake::new(record.at, "a tensor without a name", "\"name\""))?;
    Ok(Tensor {
        name,
        dtype: data_type(record),
        dims: record.integers("dims"),
        reshape: record.message("reshape").map(|reshape| reshape.integers("shape")),
        optional: record.is_true("optional"),
        label_filename: text(record, "label_filename"),
    })
}

/// The data type by its number in the schema; `None` where it is not written or `TYPE_INVALID`.
fn data_type(record: &Record) -> Option<DataType> {
    Some(match record.integer::<u8>("data_type")? {
        1 => DataType::Bool,
        2 => DataType::Uint8,
        3 => DataType::Uint16,
        4 => DataType::Uint32,
        5 => DataType::Uint64,
        6 => DataType::Int8,
        7 => DataType::Int16,
        8 => DataType::Int32,
        9 => DataType::Int64,
        10 => DataType::Fp16,
        11 => DataType::Fp32,
        12 => DataType::Fp64,
        13 => DataType::Bytes,
        14 => DataType::Bf16,
        _ => return None,
    })
}

fn version_policy(record: &Record) -> Option<VersionPolicy> {
    if let Some(latest) = record.message("latest") {
        return Some(VersionPolicy::Latest(latest.integer("num_versions").unwrap_or(1)));
    }
    let specific = record.message("specific");
    let specific =
        specific.map(|specific| VersionPolicy::Specific(specific.integers("versions").into_iter().collect()));
    specific.or(record.message("all").map(|_| VersionPolicy::All))
}

fn instance_group(record: &Record) -> InstanceGroup {
    let kind = match record.integer::<u8>("kind") {
        Some(1) => InstanceKind::Gpu,
        Some(2) => InstanceKind::Cpu,
        Some(3) => InstanceKind::Model,
        _ => InstanceKind::Auto,
    };
    let count = record.integer("count").filter(|count| *count > 0);
    InstanceGroup { kind, count, gpus: record.integers("gpus") }
}

/// The accelerators in one of the two lists of `optimization.execution_accelerators`.
fn accelerators(record: &Record, list: &'static str) -> Vec<Accelerator> {
    let optimization = record.message("optimization");
    let both = optimization.and_then(|optimization| optimization.message("execution_accelerators"));
    let of = |accelerator: &Record| {
        let entry = |entry: &Record| {
            let text = |name| entry.text(name).unwrap_or_default().to_owned();
            (text("key"), text("value"))
        };
        Accelerator {
            name: text(accelerator, "name").unwrap_or_default(),
            parameters: accelerator.messages("parameters").map(entry).collect(),
        }
    };
    both.into_iter().flat_map(|both| both.messages(list)).map(of).collect()
}

fn dynamic_batching(record: &Record) -> DynamicBatching {
    let by_priority = record.messages("priority_queue_policy");
    DynamicBatching {
        preferred_batch_sizes: record.integers("preferred_batch_size"),
        queue_delay_max: duration(record, "max_queue_delay_microseconds"),
        preserve_ordering: record.is_true("preserve_ordering"),
        priority_levels: record.integer("priority_levels").unwrap_or(0),
        default_priority_level: record.integer("default_priority_level").unwrap_or(0),
        default_policy: record.message("default_queue_policy").map(priority_policy).unwrap_or_default(),
        priority_policies: by_priority
            .map(|entry| {
                let policy = entry.message("value").map(priority_policy).unwrap_or_default();
                (entry.integer("key").unwrap_or(0), policy)
            })
            .collect(),
    }
}

fn priority_policy(record: &Record) -> PriorityPolicy {
    PriorityPolicy {
        timeout_action: match record.integer::<u8>("timeout_action") {
            Some(1) => TimeoutAction::Delay,
            _ => TimeoutAction::Reject,
        },
        default_timeout: duration(record, "default_timeout_microseconds"),
        allow_timeout_override: record.is_true("allow_timeout_override"),
        queue_size_max: record.integer("max_queue_size"),
    }
}

fn warmup(record: &Record) -> Result<Warmup, Mistake> {
    let mut inputs = BTreeMap::new();
    for entry in record.messages("inputs") {
        let name = entry.text("key").unwrap_or_default().to_owned();
        inputs.insert(name, warmup_input(entry)?);
    }
    Ok(Warmup {
        name: text(record, "name").unwrap_or_default(),
        batch_size: record.integer("batch_size").unwrap_or(0),
        count: record.integer("count").unwrap_or(0),
        inputs,
    })
}

fn warmup_input(entry: &Record) -> Result<WarmupInput, Mistake> {
    let missing = || Mistake::new(entry.at, "an input without data", "zero_data, random_data or input_data_file");
    let value = entry.message("value").ok_or_else(missing)?;
    let data = if let Some(file) = text(value, "input_data_file") {
        WarmupData::File(file)
    } else if value.is_true("random_data") {
        WarmupData::Random
    } else if value.is_true("zero_data") {
        WarmupData::Zero
    } else {
        return Err(missing());
    };
    Ok(WarmupInput { dtype: data_type(value), dims: value.integers("dims"), data })
}

fn parameter(entry: &Record) -> (String, String) {
    let key = entry.text("key").unwrap_or_default().to_owned();
    let value = entry.message("value").and_then(|value| value.text("string_value"));
    (key, value.unwrap_or_default().to_owned())
}
