//! How do the gRPC messages look as JSON?

use serde_json::{Map, Value, json};
use tiltyard_proto::inference as pb;

/// Server metadata.
pub(super) fn server_metadata(metadata: &pb::ServerMetadataResponse) -> Value {
    json!({ "name": metadata.name, "version": metadata.version, "extensions": metadata.extensions })
}

/// Model metadata.
pub(super) fn model_metadata(metadata: &pb::ModelMetadataResponse) -> Value {
    let tensors = |tensors: &[pb::model_metadata_response::TensorMetadata]| -> Vec<Value> {
        tensors
            .iter()
            .map(|tensor| json!({ "name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape }))
            .collect()
    };
    json!({
        "name": metadata.name,
        "versions": metadata.versions,
        "platform": metadata.platform,
        "inputs": tensors(&metadata.inputs),
        "outputs": tensors(&metadata.outputs),
        "properties": metadata.properties,
    })
}

/// A model's configuration.
pub(super) fn model_config(config: &pb::ModelConfig) -> Value {
    let type_name = |number: i32| pb::DataType::try_from(number).unwrap_or_default().as_str_name();
    let inputs: Vec<Value> = config
        .input
        .iter()
        .map(|input| {
            let form = json!({
                "name": input.name, "data_type": type_name(input.data_type), "format": "FORMAT_NONE",
                "dims": input.dims, "is_shape_tensor": false, "allow_ragged_batch": false, "optional": input.optional,
            });
            reshaped(form, input.reshape.as_ref())
        })
        .collect();
    let outputs: Vec<Value> = config
        .output
        .iter()
        .map(|output| {
            let form = json!({
                "name": output.name, "data_type": type_name(output.data_type), "dims": output.dims,
                "label_filename": output.label_filename, "is_shape_tensor": false,
            });
            reshaped(form, output.reshape.as_ref())
        })
        .collect();
    let groups: Vec<Value> = config
        .instance_group
        .iter()
        .map(|group| {
            let kind = pb::model_instance_group::Kind::try_from(group.kind).unwrap_or_default();
            json!({ "name": group.name, "kind": kind.as_str_name(), "count": group.count, "gpus": group.gpus })
        })
        .collect();
    let parameters: Map<String, Value> = config
        .parameters
        .iter()
        .map(|(key, value)| (key.clone(), json!({ "string_value": value.string_value })))
        .collect();
    let mut form = json!({
        "name": config.name,
        "platform": config.platform,
        "backend": config.backend,
        "version_policy": version_policy(config.version_policy.as_ref()),
        "max_batch_size": config.max_batch_size,
        "input": inputs,
        "output": outputs,
        "batch_input": [],
        "batch_output": [],
        "instance_group": groups,
        "default_model_filename": config.default_model_filename,
        "parameters": parameters,
        "model_warmup": [],
    });
    if let Some(pb::model_config::SchedulingChoice::DynamicBatching(batching)) = &config.scheduling_choice {
        form["dynamic_batching"] = json!({
            "preferred_batch_size": batching.preferred_batch_size,
            "max_queue_delay_microseconds": batching.max_queue_delay_microseconds,
            "priority_levels": batching.priority_levels,
            "default_priority_level": batching.default_priority_level,
        });
    }
    form
}

fn reshaped(mut form: Value, reshape: Option<&pb::ModelTensorReshape>) -> Value {
    if let Some(reshape) = reshape {
        form["reshape"] = json!({ "shape": reshape.shape });
    }
    form
}

fn version_policy(policy: Option<&pb::ModelVersionPolicy>) -> Value {
    use pb::model_version_policy::PolicyChoice;
    match policy.and_then(|policy| policy.policy_choice.as_ref()) {
        Some(PolicyChoice::Latest(latest)) => json!({ "latest": { "num_versions": latest.num_versions } }),
        Some(PolicyChoice::All(_)) => json!({ "all": {} }),
        Some(PolicyChoice::Specific(specific)) => json!({ "specific": { "versions": specific.versions } }),
        None => json!({}),
    }
}

/// The figures of some deployments.
pub(super) fn statistics(statistics: &[pb::ModelStatistics]) -> Value {
    json!({ "model_stats": statistics.iter().map(model_statistics).collect::<Vec<_>>() })
}

fn model_statistics(statistics: &pb::ModelStatistics) -> Value {
    let stats = statistics.inference_stats.unwrap_or_default();
    let batches: Vec<Value> = statistics
        .batch_stats
        .iter()
        .map(|batch| {
            json!({
                "batch_size": batch.batch_size,
                "compute_input": duration(batch.compute_input),
                "compute_infer": duration(batch.compute_infer),
                "compute_output": duration(batch.compute_output),
            })
        })
        .collect();
    json!({
        "name": statistics.name,
        "version": statistics.version,
        "last_inference": statistics.last_inference,
        "inference_count": statistics.inference_count,
        "execution_count": statistics.execution_count,
        "inference_stats": {
            "success": duration(stats.success),
            "fail": duration(stats.fail),
            "queue": duration(stats.queue),
            "compute_input": duration(stats.compute_input),
            "compute_infer": duration(stats.compute_infer),
            "compute_output": duration(stats.compute_output),
            "cache_hit": duration(stats.cache_hit),
            "cache_miss": duration(stats.cache_miss),
        },
        "response_stats": {},
        "batch_stats": batches,
        "memory_usage": [],
    })
}

fn duration(duration: Option<pb::StatisticDuration>) -> Value {
    let duration = duration.unwrap_or_default();
    json!({ "count": duration.count, "ns": duration.ns })
}
