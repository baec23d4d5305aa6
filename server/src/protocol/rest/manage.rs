//! How do REST clients look at the repository, and change what is loaded and logged?

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Map, Value, json};
use tiltyard_types::{Error, Result};

use super::forms;
use crate::manage::{self, LogSetting};
use crate::protocol::reply::Reply;
use crate::service::Service;

/// Answers the paths below `repository`, `logging`, `trace` and the shared memory extensions; `None` where the path is
/// right but the method is not.
pub(super) async fn answer(
    service: &Arc<Service>,
    path: &[&str],
    get: bool,
    post: bool,
    body: &Bytes,
) -> Result<Option<Reply>> {
    Ok(Some(match path {
        ["v2", "repository", "index"] | ["v2", "repository", _, "index"] if post || get => {
            let ready_only = object(body)?.get("ready").and_then(Value::as_bool).unwrap_or(false);
            let index: Vec<Value> = manage::index(service, ready_only)
                .into_iter()
                .map(|entry| json!({ "name": entry.name, "version": entry.version, "state": entry.state, "reason": entry.reason }))
                .collect();
            Reply::json(&Value::Array(index))
        }
        ["v2", "repository", "models", model, verb] | ["v2", "repository", _, "models", model, verb] if post => {
            let parameters = object(body)?;
            let names =
                parameters.get("parameters").and_then(Value::as_object).map(|map| map.keys().cloned().collect());
            match *verb {
                "load" => manage::load(service, model, names.unwrap_or_default()).await?,
                "unload" => manage::unload(service, model).await?,
                _ => return Err(Error::not_found(format!("nothing is at POST /{}", path.join("/")))),
            }
            Reply::json(&json!({}))
        }
        ["v2", "logging"] if get => Reply::json(&log_form(service)),
        ["v2", "logging"] if post => {
            let settings = object(body)?.into_iter().map(|(key, value)| Ok((key, log_setting(&value)?)));
            manage::change_logging(service, settings.collect::<Result<_>>()?)?;
            Reply::json(&log_form(service))
        }
        ["v2", "trace", "setting"] | ["v2", "models", _, "trace", "setting"] if get || post => {
            let named = if let ["v2", "models", model, ..] = path { Some(*model) } else { None };
            let asked = object(body)?.into_iter().map(|(key, value)| (key, setting_text(&value))).collect();
            let settings = manage::trace_settings(service, named, asked)?;
            let form: Map<String, Value> = settings
                .into_iter()
                .map(|(key, mut values)| {
                    let one = if values.len() == 1 && key != "trace_level" { values.pop() } else { None };
                    (key, one.map_or_else(|| json!(values), Value::String))
                })
                .collect();
            Reply::json(&Value::Object(form))
        }
        ["v2", kind @ ("systemsharedmemory" | "cudasharedmemory"), rest @ ..] => match rest {
            ["status"] | ["region", _, "status"] if get => Reply::json(&json!([])),
            ["unregister"] | ["region", _, "unregister"] if post => Reply::json(&json!({})),
            ["region", _, "register"] if post => return Err(manage::no_shared_memory(kind)),
            _ => return Ok(None),
        },
        _ => return Ok(None),
    }))
}

/// The figures of one deployment, of a model's, or of all.
pub(super) fn statistics(service: &Service, model: Option<&str>, version: Option<u64>) -> Result<Reply> {
    Ok(Reply::json(&forms::statistics(&manage::statistics(service, model, version)?)))
}

fn object(body: &Bytes) -> Result<Map<String, Value>> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Map::new());
    }
    serde_json::from_slice(body).map_err(|error| Error::invalid(format!("the body is not a JSON object: {error}")))
}

fn log_form(service: &Service) -> Value {
    let settings = manage::log_settings(service).into_iter().map(|(key, setting)| {
        let value = match setting {
            LogSetting::Bool(value) => json!(value),
            LogSetting::Number(value) => json!(value),
            LogSetting::Text(value) => json!(value),
        };
        (key.to_owned(), value)
    });
    Value::Object(settings.collect())
}

fn log_setting(value: &Value) -> Result<LogSetting> {
    match value {
        Value::Bool(value) => Ok(LogSetting::Bool(*value)),
        Value::String(value) => Ok(LogSetting::Text(value.clone())),
        Value::Number(value) => match value.as_u64().and_then(|value| u32::try_from(value).ok()) {
            Some(value) => Ok(LogSetting::Number(value)),
            None => Err(Error::invalid(format!("{value} is no log setting"))),
        },
        other => Err(Error::invalid(format!("{other} is no log setting"))),
    }
}

/// A trace setting's values as text; empty for null, which clears it.
fn setting_text(value: &Value) -> Vec<String> {
    match value {
        Value::Null => Vec::new(),
        Value::Array(values) => values.iter().flat_map(setting_text).collect(),
        Value::String(text) => vec![text.clone()],
        other => vec![other.to_string()],
    }
}
