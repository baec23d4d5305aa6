//! What may clients see and change of the repository, the logs and the traces, whatever protocol they use?

use std::collections::BTreeMap;

use tiltyard_proto::inference as pb;
use tiltyard_types::{Error, ErrorKind, Result};

use crate::catalog::Endpoint;
use crate::config::LogLevel;
use crate::describe;
use crate::service::Service;

/// One line of the repository index.
pub struct IndexEntry {
    /// The model.
    pub name: String,
    /// The version.
    pub version: String,
    /// READY, LOADING or UNAVAILABLE.
    pub state: &'static str,
    /// Why it is not ready.
    pub reason: String,
}

/// A value of a log setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogSetting {
    /// A switch.
    Bool(bool),
    /// A level.
    Number(u32),
    /// A name.
    Text(String),
}

/// Every version and where it stands.
pub fn index(service: &Service, ready_only: bool) -> Vec<IndexEntry> {
    let catalog = service.inference.catalog.load();
    let mut entries = Vec::new();
    for (name, model) in &catalog.models {
        for (number, version) in &model.versions {
            let (state, reason) = version.state.index();
            if !ready_only || state == "READY" {
                entries.push(IndexEntry {
                    name: name.clone(),
                    version: number.to_string(),
                    state,
                    reason: reason.to_owned(),
                });
            }
        }
    }
    entries
}

/// The load parameter by which a client wants a version that breaks the clients of the one before.
const ACCEPT_INCOMPATIBLE: &str = "accept_incompatible";

/// Loads a model. `parameters` are the names of what the client sent along: overriding files is not offered.
pub async fn load(service: &Service, model: &str, parameters: Vec<String>) -> Result<()> {
    if let Some(override_name) = parameters.iter().find(|name| *name == "config" || name.starts_with("file:")) {
        return Err(Error::unsupported(format!(
            "load parameter {override_name:?} is not offered: put the files into the model repository"
        )));
    }
    let accept_incompatible = parameters.iter().any(|name| name == ACCEPT_INCOMPATIBLE);
    service.writer.load(model, accept_incompatible).await
}

/// Takes a model out.
pub async fn unload(service: &Service, model: &str) -> Result<()> {
    service.writer.unload(model).await
}

/// The figures of one version, of a model's versions that answer, or of all.
pub fn statistics(service: &Service, model: Option<&str>, version: Option<u64>) -> Result<Vec<pb::ModelStatistics>> {
    let catalog = service.inference.catalog.load();
    if let (Some(model), Some(version)) = (model, version) {
        let arm = catalog.speaker(model, Some(version))?;
        return Ok(vec![describe::model_statistics(model, &arm.deployment)]);
    }
    if let Some(model) = model
        && !catalog.models.contains_key(model)
    {
        // The figures of an endpoint without versions of its own are those of whom it asks.
        let Some(Endpoint::Planned(route)) = catalog.endpoints.get(model) else {
            return Err(catalog.unknown_model(model));
        };
        let arms = route.seats().filter_map(|seat| seat.ok());
        return Ok(arms
            .map(|arm| describe::model_statistics(&arm.deployment.identity.model, &arm.deployment))
            .collect());
    }
    let wanted = |name: &str| model.is_none_or(|model| model == name);
    Ok(catalog
        .deployments()
        .filter(|deployment| wanted(&deployment.identity.model))
        .map(|deployment| describe::model_statistics(&deployment.identity.model, deployment))
        .collect())
}

/// The log settings under Triton's names.
pub fn log_settings(service: &Service) -> Vec<(&'static str, LogSetting)> {
    let level = service.logs.level();
    let at_least = |wanted: LogLevel| LogSetting::Bool(level >= wanted);
    let verbose = match level {
        LogLevel::Debug => 1,
        LogLevel::Trace => 2,
        _ => 0,
    };
    vec![
        ("log_file", LogSetting::Text(String::new())),
        ("log_info", at_least(LogLevel::Info)),
        ("log_warning", at_least(LogLevel::Warn)),
        ("log_error", LogSetting::Bool(true)),
        ("log_verbose_level", LogSetting::Number(verbose)),
        ("log_format", LogSetting::Text("default".to_owned())),
    ]
}

/// Changes log settings; there is one level, so switching one importance off switches off the lesser ones.
pub fn change_logging(service: &Service, settings: Vec<(String, LogSetting)>) -> Result<()> {
    if settings.is_empty() {
        return Ok(());
    }
    require_management(service, "changing log settings")?;
    let mut level = service.logs.level();
    for (key, value) in settings {
        level = match (key.as_str(), value) {
            ("log_info", LogSetting::Bool(true)) => level.max(LogLevel::Info),
            ("log_info", LogSetting::Bool(false)) => level.min(LogLevel::Warn),
            ("log_warning", LogSetting::Bool(true)) => level.max(LogLevel::Warn),
            ("log_warning", LogSetting::Bool(false)) => level.min(LogLevel::Error),
            ("log_error", LogSetting::Bool(true)) => level,
            ("log_verbose_level", LogSetting::Number(0)) => level.min(LogLevel::Info),
            ("log_verbose_level", LogSetting::Number(1)) => LogLevel::Debug,
            ("log_verbose_level", LogSetting::Number(_)) => LogLevel::Trace,
            ("log_format", LogSetting::Text(format)) if format == "default" => level,
            (key, value) => return Err(Error::unsupported(format!("log setting {key:?} cannot be {value:?} here"))),
        };
    }
    service.logs.set_level(level);
    Ok(())
}

/// The trace settings: tracing in Triton's form is not offered, so all say off, and only that can be asked for.
pub fn trace_settings(
    service: &Service,
    model: Option<&str>,
    asked: BTreeMap<String, Vec<String>>,
) -> Result<BTreeMap<String, Vec<String>>> {
    if let Some(model) = model {
        service.inference.catalog.load().speaker(model, None)?;
    }
    let off: BTreeMap<String, Vec<String>> = [
        ("trace_level", "OFF"),
        ("trace_rate", "1000"),
        ("trace_count", "-1"),
        ("log_frequency", "0"),
        ("trace_file", ""),
        ("trace_mode", "triton"),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), vec![value.to_owned()]))
    .collect();
    for (key, values) in asked {
        let Some(current) = off.get(&key) else {
            return Err(Error::invalid(format!("unknown trace setting {key:?}: expected one of {:?}", off.keys())));
        };
        if !values.is_empty() && values != *current {
            return Err(Error::unsupported(format!(
                "trace setting {key:?} cannot be {values:?}: traces in Triton's form are not offered"
            )));
        }
    }
    Ok(off)
}

/// The answer to whoever wants to share memory.
pub fn no_shared_memory(kind: &str) -> Error {
    Error::unsupported(format!("{kind}: shared memory is not enabled on this server; send tensors as binary data"))
}

/// Management on data ports answers only under explicit control.
fn require_management(service: &Service, what: &str) -> Result<()> {
    match service.clients_may_manage() {
        true => Ok(()),
        false => Err(Error::new(
            ErrorKind::Forbidden,
            format!("{what} by clients is off: start the server with --model-control explicit"),
        )),
    }
}
