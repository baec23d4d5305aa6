//! How do gRPC clients ask about the server and its models, and change what is loaded and logged?

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;
use tiltyard_proto::inference as pb;
use tiltyard_types::{ErrorKind, Result};

use super::callers::Known;
use super::wire::{Code, Encoder, Status};
use super::{decode, parse_version};
use crate::describe;
use crate::locks::calls::Call;
use crate::manage::{self, LogSetting};
use crate::service::Service;

/// The framed answer to a call of `method` with `message`, where the caller may make it.
pub(super) async fn answer(
    service: &Service,
    caller: &Known,
    method: &str,
    message: Bytes,
    encoder: Encoder,
) -> Result<Bytes, Status> {
    let answered = try_answer(service, caller, method, message, encoder).await;
    answered.inspect_err(|status| {
        if status.code() == Code::PermissionDenied {
            service.totals.note_failure(ErrorKind::Forbidden);
        }
    })
}

async fn try_answer(
    service: &Service,
    caller: &Known,
    method: &str,
    message: Bytes,
    encoder: Encoder,
) -> Result<Bytes, Status> {
    let frame = |message: &dyn Framed| message.frame(encoder);
    match method {
        "ServerLive" => frame(&pb::ServerLiveResponse { live: true }),
        "ServerReady" => frame(&pb::ServerReadyResponse { ready: service.is_ready() }),
        "ModelReady" => frame(&model_ready(service, caller, decode(message)?)?),
        "ModelMetadata" => frame(&model_metadata(service, caller, decode(message)?)?),
        "ModelConfig" => frame(&model_config(service, caller, decode(message)?)?),
        "ModelStatistics" => frame(&model_statistics(service, caller, decode(message)?)?),
        "RepositoryIndex" => {
            caller.may(Call::SeeAll)?;
            frame(&repository_index(service, decode(message)?))
        }
        "RepositoryModelLoad" => {
            let request: pb::RepositoryModelLoadRequest = decode(message)?;
            caller.may(Call::Deploy(&request.model_name))?;
            manage::load(service, &request.model_name, request.parameters.into_keys().collect()).await?;
            frame(&pb::RepositoryModelLoadResponse {})
        }
        "RepositoryModelUnload" => {
            let request: pb::RepositoryModelUnloadRequest = decode(message)?;
            caller.may(Call::Deploy(&request.model_name))?;
            manage::unload(service, &request.model_name).await?;
            frame(&pb::RepositoryModelUnloadResponse {})
        }
        "TraceSetting" => frame(&trace_setting(service, caller, decode(message)?)?),
        "LogSettings" => frame(&log_settings(service, caller, decode(message)?)?),
        method => {
            caller.may(Call::Server)?;
            about_the_server(method, encoder)
        }
    }
}

/// What any caller that is known may ask.
fn about_the_server(method: &str, encoder: Encoder) -> Result<Bytes, Status> {
    let frame = |message: &dyn Framed| message.frame(encoder);
    match method {
        "ServerMetadata" => frame(&describe::server_metadata()),
        "SystemSharedMemoryStatus" => frame(&pb::SystemSharedMemoryStatusResponse::default()),
        "SystemSharedMemoryUnregister" => frame(&pb::SystemSharedMemoryUnregisterResponse::default()),
        "CudaSharedMemoryStatus" => frame(&pb::CudaSharedMemoryStatusResponse::default()),
        "CudaSharedMemoryUnregister" => frame(&pb::CudaSharedMemoryUnregisterResponse::default()),
        "SystemSharedMemoryRegister" => Err(manage::no_shared_memory("systemsharedmemory").into()),
        "CudaSharedMemoryRegister" => Err(manage::no_shared_memory("cudasharedmemory").into()),
        other => Err(Status::new(Code::Unimplemented, format!("the inference service has no method {other:?}"))),
    }
}

/// Any message that can be framed: the methods above differ in nothing else.
trait Framed {
    fn frame(&self, encoder: Encoder) -> Result<Bytes, Status>;
}

impl<M: Message> Framed for M {
    fn frame(&self, encoder: Encoder) -> Result<Bytes, Status> {
        encoder.frame(self)
    }
}

fn model_ready(service: &Service, caller: &Known, request: pb::ModelReadyRequest) -> Result<pb::ModelReadyResponse> {
    caller.may(Call::See(&request.name))?;
    let version = parse_version(&request.version)?;
    let ready = !service.is_leaving() && service.inference.catalog.load().speaker(&request.name, version).is_ok();
    Ok(pb::ModelReadyResponse { ready })
}

fn model_metadata(
    service: &Service,
    caller: &Known,
    request: pb::ModelMetadataRequest,
) -> Result<pb::ModelMetadataResponse> {
    caller.may(Call::See(&request.name))?;
    let catalog = service.inference.catalog.load();
    let arm = catalog.speaker(&request.name, parse_version(&request.version)?)?;
    let model = catalog.models.get(&request.name).cloned().unwrap_or_default();
    Ok(describe::model_metadata(&request.name, &model, &arm.deployment))
}

fn model_config(service: &Service, caller: &Known, request: pb::ModelConfigRequest) -> Result<pb::ModelConfigResponse> {
    caller.may(Call::See(&request.name))?;
    let arm = service.inference.catalog.load().speaker(&request.name, parse_version(&request.version)?)?;
    let config = describe::model_config(&request.name, &arm.deployment, &service.live.config().version_policy);
    Ok(pb::ModelConfigResponse { config: Some(config) })
}

fn model_statistics(
    service: &Service,
    caller: &Known,
    request: pb::ModelStatisticsRequest,
) -> Result<pb::ModelStatisticsResponse> {
    let name = (!request.name.is_empty()).then_some(request.name.as_str());
    caller.may(name.map_or(Call::SeeAll, Call::See))?;
    let model_stats = manage::statistics(service, name, parse_version(&request.version)?)?;
    Ok(pb::ModelStatisticsResponse { model_stats })
}

fn repository_index(service: &Service, request: pb::RepositoryIndexRequest) -> pb::RepositoryIndexResponse {
    let models = manage::index(service, request.ready)
        .into_iter()
        .map(|entry| pb::repository_index_response::ModelIndex {
            name: entry.name,
            version: entry.version,
            state: entry.state.to_owned(),
            reason: entry.reason,
        })
        .collect();
    pb::RepositoryIndexResponse { models }
}

fn trace_setting(
    service: &Service,
    caller: &Known,
    request: pb::TraceSettingRequest,
) -> Result<pb::TraceSettingResponse> {
    let model = (!request.model_name.is_empty()).then_some(request.model_name.as_str());
    caller.may(match model {
        Some(model) => Call::See(model),
        None if request.settings.is_empty() => Call::SeeSettings,
        None => Call::ChangeSettings,
    })?;
    let asked = request.settings.into_iter().map(|(key, setting)| (key, setting.value)).collect();
    let settings = manage::trace_settings(service, model, asked)?
        .into_iter()
        .map(|(key, value)| (key, pb::trace_setting_response::SettingValue { value }))
        .collect();
    Ok(pb::TraceSettingResponse { settings })
}

fn log_settings(service: &Service, caller: &Known, request: pb::LogSettingsRequest) -> Result<pb::LogSettingsResponse> {
    use pb::log_settings_request::setting_value::ParameterChoice as Asked;
    use pb::log_settings_response::SettingValue;
    use pb::log_settings_response::setting_value::ParameterChoice as Told;
    caller.may(if request.settings.is_empty() { Call::SeeSettings } else { Call::ChangeSettings })?;
    let asked = request.settings.into_iter().filter_map(|(key, setting)| {
        let value = match setting.parameter_choice? {
            Asked::BoolParam(value) => LogSetting::Bool(value),
            Asked::Uint32Param(value) => LogSetting::Number(value),
            Asked::StringParam(value) => LogSetting::Text(value),
        };
        Some((key, value))
    });
    manage::change_logging(service, asked.collect())?;
    let settings: BTreeMap<String, SettingValue> = manage::log_settings(service)
        .into_iter()
        .map(|(key, setting)| {
            let told = match setting {
                LogSetting::Bool(value) => Told::BoolParam(value),
                LogSetting::Number(value) => Told::Uint32Param(value),
                LogSetting::Text(value) => Told::StringParam(value),
            };
            (key.to_owned(), SettingValue { parameter_choice: Some(told) })
        })
        .collect();
    Ok(pb::LogSettingsResponse { settings })
}
