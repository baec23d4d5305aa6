//! What do a deployment's metadata, configuration and figures look like to a Triton client?
//!
//! Each is made once, as the gRPC message; REST writes the same messages as JSON.

use std::sync::Arc;
use std::time::Duration;

use tiltyard_proto::inference as pb;
use tiltyard_runtime::deployment::Deployment;
use tiltyard_runtime::queue::QueuePolicy;
use tiltyard_runtime::repository::policy::VersionPolicy;
use tiltyard_runtime::stats::{Durations, Histogram, Snapshot};
use tiltyard_types::{DataType, ErrorKind, TensorSpec};

use crate::catalog::Model;

/// The name of this server in its metadata.
pub const SERVER_NAME: &str = "tiltyard";

/// The protocol extensions that are really offered.
pub const EXTENSIONS: [&str; 7] = [
    "classification",
    "model_repository",
    "model_configuration",
    "binary_tensor_data",
    "parameters",
    "statistics",
    "logging",
];

/// The Open Inference Protocol's name for what is served here, but for files of other formats.
const PLATFORM: &str = "onnx_onnxv1";

/// Server metadata.
pub fn server_metadata() -> pb::ServerMetadataResponse {
    pb::ServerMetadataResponse {
        name: SERVER_NAME.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        extensions: EXTENSIONS.map(str::to_owned).to_vec(),
    }
}

/// Model metadata. `versions` are those that answer.
pub fn model_metadata(name: &str, model: &Model, deployment: &Deployment) -> pb::ModelMetadataResponse {
    let tensors = |specs: &[TensorSpec]| {
        specs
            .iter()
            .map(|spec| pb::model_metadata_response::TensorMetadata {
                name: spec.name.clone(),
                datatype: spec.dtype.name().to_owned(),
                shape: spec.wire_dims(),
            })
            .collect()
    };
    let ready = model.versions.iter().filter(|(_, version)| version.deployment.is_some());
    let mut properties = std::collections::BTreeMap::new();
    if !deployment.settings.description.is_empty() {
        properties.insert("description".to_owned(), deployment.settings.description.clone());
    }
    properties.insert("engine".to_owned(), deployment.identity.engine.to_owned());
    if !deployment.identity.placement.is_empty() {
        let placement = deployment.identity.placement.iter().map(ToString::to_string).collect::<Vec<_>>();
        properties.insert("placement".to_owned(), placement.join("; "));
    }
    for classes in deployment.classes() {
        properties.insert(format!("classes.{}", classes.output), classes.labels.join(", "));
    }
    properties.insert("digest".to_owned(), deployment.identity.digest.to_string());
    pb::ModelMetadataResponse {
        name: name.to_owned(),
        versions: ready.map(|(number, _)| number.to_string()).collect(),
        platform: deployment.graph.format.map_or(PLATFORM.to_owned(), str::to_lowercase),
        inputs: tensors(&deployment.signature.inputs),
        outputs: tensors(&deployment.signature.outputs),
        properties,
    }
}

/// What a deployment takes and gives, for the record.
pub fn signature(deployment: &Deployment) -> serde_json::Value {
    let tensors = |specs: &[TensorSpec]| -> Vec<serde_json::Value> {
        let form = |spec: &TensorSpec| {
            let optional = spec.optional.then_some(true);
            let mut form =
                serde_json::json!({ "name": spec.name, "datatype": spec.dtype.to_string(), "shape": spec.wire_dims() });
            if let (Some(optional), Some(form)) = (optional, form.as_object_mut()) {
                form.insert("optional".to_owned(), optional.into());
            }
            form
        };
        specs.iter().map(form).collect()
    };
    let signature = &deployment.signature;
    serde_json::json!({ "inputs": tensors(&signature.inputs), "outputs": tensors(&signature.outputs) })
}

/// The configuration a Triton user would have had to write. A model whose rows are batched has `max_batch_size` above
/// 0 and dims without the batch axis.
pub fn model_config(name: &str, deployment: &Deployment, default_policy: &VersionPolicy) -> pb::ModelConfig {
    // Triton's clients take every input to have a batch axis where there is one at all.
    let rows_max = if deployment.has_shared_inputs() { 0 } else { deployment.rows_max() };
    // Triton's clients expect at least one dimension: one value per row is dims [1], reshaped to none.
    let one_per_row = |spec: &TensorSpec| rows_max > 0 && spec.wire_dims().len() == 1;
    let reshape = |spec: &TensorSpec| one_per_row(spec).then(pb::ModelTensorReshape::default);
    let dims = |spec: &TensorSpec| match spec.wire_dims() {
        _ if one_per_row(spec) => vec![1],
        dims if rows_max > 0 => dims.get(1..).unwrap_or(&[]).to_vec(),
        dims => dims,
    };
    let settings = &deployment.settings;
    let policy = settings.version_policy.as_ref().unwrap_or(default_policy);
    pb::ModelConfig {
        name: name.to_owned(),
        // Triton has no name for a file of another format.
        platform: if deployment.graph.format.is_none() { "onnxruntime_onnx".to_owned() } else { String::new() },
        backend: deployment.identity.engine.to_owned(),
        version_policy: Some(version_policy(policy)),
        max_batch_size: i32::try_from(rows_max).unwrap_or(i32::MAX),
        input: deployment
            .signature
            .inputs
            .iter()
            .map(|spec| pb::ModelInput {
                name: spec.name.clone(),
                data_type: config_type(spec.dtype) as i32,
                dims: dims(spec),
                reshape: reshape(spec),
                optional: spec.optional,
                ..Default::default()
            })
            .collect(),
        output: deployment
            .signature
            .outputs
            .iter()
            .map(|spec| pb::ModelOutput {
                name: spec.name.clone(),
                data_type: config_type(spec.dtype) as i32,
                dims: dims(spec),
                reshape: reshape(spec),
                ..Default::default()
            })
            .collect(),
        instance_group: vec![instance_group(name, deployment)],
        default_model_filename: settings.model_file.clone().unwrap_or_else(|| "model.onnx".to_owned()),
        parameters: settings
            .parameters
            .iter()
            .map(|(key, value)| (key.clone(), pb::ModelParameter { string_value: value.clone() }))
            .collect(),
        scheduling_choice: (rows_max > 0)
            .then(|| pb::model_config::SchedulingChoice::DynamicBatching(dynamic_batching(&deployment.policy))),
        ..Default::default()
    }
}

/// How a deployment batches, in Triton's words.
fn dynamic_batching(policy: &QueuePolicy) -> pb::ModelDynamicBatching {
    let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    let sizes = if policy.sizes.is_empty() { &policy.sizes_preferred } else { &policy.sizes };
    // One level is what Triton calls none.
    let has_levels = policy.levels.len() > 1;
    pb::ModelDynamicBatching {
        preferred_batch_size: sizes.iter().map(|&size| i32::try_from(size).unwrap_or(i32::MAX)).collect(),
        max_queue_delay_microseconds: micros(policy.delay_max),
        priority_levels: if has_levels { policy.levels.len() as u64 } else { 0 },
        default_priority_level: if has_levels { u64::from(policy.level_default) } else { 0 },
        ..Default::default()
    }
}

fn version_policy(policy: &VersionPolicy) -> pb::ModelVersionPolicy {
    use pb::model_version_policy::{All, Latest, PolicyChoice, Specific};
    let choice = match policy {
        VersionPolicy::Latest(count) => {
            PolicyChoice::Latest(Latest { num_versions: u32::try_from(*count).unwrap_or(u32::MAX) })
        }
        VersionPolicy::All => PolicyChoice::All(All {}),
        VersionPolicy::Specific(versions) => PolicyChoice::Specific(Specific {
            versions: versions.iter().map(|&version| i64::try_from(version).unwrap_or(i64::MAX)).collect(),
        }),
    };
    pb::ModelVersionPolicy { policy_choice: Some(choice) }
}

/// Where the sessions are, and how many there are on each device.
fn instance_group(name: &str, deployment: &Deployment) -> pb::ModelInstanceGroup {
    use pb::model_instance_group::Kind;
    let options = &deployment.settings.provider_options;
    let (kind, gpus) = match deployment.identity.provider.as_str() {
        "cpu" => (Kind::Cpu, &[][..]),
        "cuda" => (Kind::Gpu, options.cuda.devices.as_slice()),
        "tensorrt" => (Kind::Gpu, options.tensorrt.devices.as_slice()),
        // On what, is the provider's own affair.
        _ => (Kind::Model, &[][..]),
    };
    let each = deployment.policy.runs_max / gpus.len().max(1);
    pb::ModelInstanceGroup {
        name: format!("{name}_0"),
        kind: kind as i32,
        count: i32::try_from(each).unwrap_or(i32::MAX),
        gpus: gpus.iter().filter_map(|&gpu| i32::try_from(gpu).ok()).collect(),
        ..Default::default()
    }
}

/// The name that configurations use for a data type.
pub fn config_type(dtype: DataType) -> pb::DataType {
    match dtype {
        DataType::Bool => pb::DataType::TypeBool,
        DataType::Uint8 => pb::DataType::TypeUint8,
        DataType::Uint16 => pb::DataType::TypeUint16,
        DataType::Uint32 => pb::DataType::TypeUint32,
        DataType::Uint64 => pb::DataType::TypeUint64,
        DataType::Int8 => pb::DataType::TypeInt8,
        DataType::Int16 => pb::DataType::TypeInt16,
        DataType::Int32 => pb::DataType::TypeInt32,
        DataType::Int64 => pb::DataType::TypeInt64,
        DataType::Fp16 => pb::DataType::TypeFp16,
        DataType::Bf16 => pb::DataType::TypeBf16,
        DataType::Fp32 => pb::DataType::TypeFp32,
        DataType::Fp64 => pb::DataType::TypeFp64,
        DataType::Bytes => pb::DataType::TypeString,
    }
}

/// A deployment's figures since it was loaded.
pub fn model_statistics(name: &str, deployment: &Arc<Deployment>) -> pb::ModelStatistics {
    let sum = deployment.stats.snapshot();
    let failed = failures(&sum);
    let stats = pb::InferStatistics {
        success: Some(duration(sum.success)),
        fail: Some(duration(failed)),
        queue: Some(histogram(&sum.queue)),
        compute_input: Some(duration(sum.assemble)),
        compute_infer: Some(histogram(&sum.run)),
        compute_output: Some(duration(sum.split)),
        cache_hit: Some(pb::StatisticDuration::default()),
        cache_miss: Some(pb::StatisticDuration::default()),
    };
    let batches = sum.batches.iter().map(|(rows, assemble, run, split)| pb::InferBatchStatistics {
        batch_size: *rows as u64,
        compute_input: Some(duration(*assemble)),
        compute_infer: Some(duration(*run)),
        compute_output: Some(duration(*split)),
    });
    pb::ModelStatistics {
        name: name.to_owned(),
        version: deployment.identity.version.to_string(),
        last_inference: sum.last_request_ms,
        inference_count: sum.rows,
        execution_count: sum.executions,
        inference_stats: Some(stats),
        batch_stats: batches.collect(),
        ..Default::default()
    }
}

/// All failures together, those of clients that went away left out, as Triton counts.
fn failures(sum: &Snapshot) -> Durations {
    let counted = ErrorKind::ALL.iter().zip(&sum.failures).filter(|(kind, _)| **kind != ErrorKind::Cancelled);
    counted.fold(Durations::default(), |all, (_, one)| Durations {
        count: all.count + one.count,
        nanos: all.nanos + one.nanos,
    })
}

fn duration(durations: Durations) -> pb::StatisticDuration {
    pb::StatisticDuration { count: durations.count, ns: durations.nanos }
}

fn histogram(histogram: &Histogram) -> pb::StatisticDuration {
    pb::StatisticDuration { count: histogram.count(), ns: histogram.nanos }
}
