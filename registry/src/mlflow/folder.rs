//! What does a folder with the file `MLmodel` hold, and what of it is served here?
//!
//! The ONNX flavor is what is taken: its file under the name `model.onnx`, and the files beside it in which its weights lie.
//! The rest of the folder (environments, wrappers in Python, examples) has no say in an answer here and stays where it is.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value};

use super::{Error, Result, yaml};

mod declared;

pub use declared::{Declared, Field, Kind};

/// The file that makes a folder one of MLflow's.
pub const MLMODEL: &str = "MLmodel";

/// The name that a version's folder has for its model.
const MODEL_FILE: &str = "model.onnx";

/// Entries of `metadata` that become tags, at most; more are an error.
const METADATA_MAX: usize = 64;

/// Bytes of one of these values, at most.
const VALUE_BYTES_MAX: usize = 4096;

/// What `MLmodel` says of a model that can be served here.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// The ONNX file, as a path within the folder.
    pub file: String,
    /// What MLflow believes it takes and gives, where somebody told.
    pub declared: Option<Declared>,
    /// Where it came from.
    pub origin: Origin,
    /// What its author noted with it.
    pub metadata: BTreeMap<String, String>,
}

/// Where a model came from, in MLflow's words.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize)]
pub struct Origin {
    /// The run that logged it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_id: Option<String>,
    /// The logged model, from MLflow 3 on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_id: Option<String>,
    /// What MLflow up to 2 calls it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_uuid: Option<String>,
    /// When it was written, as MLflow wrote it: a date and time in UTC without a zone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// The MLflow that wrote it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mlflow_version: Option<String>,
}

/// A file of MLflow's and the name that it has in a version's folder here. Both are plain paths with `/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Within the folder of `MLmodel`.
    pub from: String,
    /// Within the version's folder.
    pub to: String,
}

impl Model {
    /// Reads the text of `MLmodel`.
    pub fn read(text: &str) -> Result<Model> {
        let Value::Object(root) = yaml::read(text).map_err(Error::Malformed)? else {
            return malformed("expected keys and values, such as flavors: …");
        };
        let Some(Value::Object(flavors)) = root.get("flavors") else {
            return malformed("it has no flavors: expected the file that MLflow writes beside a model");
        };
        let onnx = match flavors.get("onnx") {
            Some(Value::Object(onnx)) => onnx,
            Some(_) => return malformed("flavors.onnx: expected keys and values"),
            None => return Err(no_onnx(flavors)),
        };
        let file = match onnx.get("data").map(|data| data.as_str().ok_or(data)) {
            Some(Ok(file)) => plain_path(file).map_err(|why| Error::Malformed(format!("flavors.onnx.data: {why}")))?,
            Some(Err(_)) => return malformed("flavors.onnx.data: expected the name of a file"),
            None => return malformed("flavors.onnx has no data: expected the name of the ONNX file"),
        };
        let declared = match root.get("signature") {
            None | Some(Value::Null) => None,
            Some(signature) => Some(Declared::read(signature)?),
        };
        let text = |key: &str| match root.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => value_text(value).map(Some).map_err(|why| Error::Malformed(format!("{key}: {why}"))),
        };
        let origin = Origin {
            run_id: text("run_id")?,
            model_id: text("model_id")?,
            model_uuid: text("model_uuid")?,
            created: text("utc_time_created")?,
            mlflow_version: text("mlflow_version")?,
        };
        Ok(Model { file, declared, origin, metadata: metadata(root.get("metadata"))? })
    }

    /// What goes into a version's folder: the model, and the files of weights that its graph names, which lie beside it.
    pub fn files<'a>(&self, weights: impl IntoIterator<Item = &'a str>) -> Result<Vec<Placed>> {
        let mut files = vec![Placed { from: self.file.clone(), to: MODEL_FILE.to_owned() }];
        let folder = self.file.rsplit_once('/').map(|(folder, _)| folder);
        for name in weights {
            let unfit =
                |why: String| Error::Unfit(format!("the graph in {} keeps weights in {name:?}: {why}", self.file));
            let name = plain_path(name).map_err(unfit)?;
            if name == MODEL_FILE {
                return Err(unfit("that is the name of the model itself here; export it with another".to_owned()));
            }
            let from = folder.map_or_else(|| name.clone(), |folder| format!("{folder}/{name}"));
            files.push(Placed { from, to: name });
        }
        Ok(files)
    }

    /// What is worth a tag: where it came from, and what its author noted.
    pub fn tags(&self) -> BTreeMap<String, String> {
        let Origin { run_id, model_id, model_uuid, created, mlflow_version } = &self.origin;
        let known = [
            ("mlflow.run_id", run_id),
            ("mlflow.model_id", model_id),
            ("mlflow.model_uuid", model_uuid),
            ("mlflow.created", created),
            ("mlflow.version", mlflow_version),
        ];
        let known = known.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value.clone()?)));
        let noted = self.metadata.iter().map(|(key, value)| (format!("mlflow.metadata.{key}"), value.clone()));
        known.chain(noted).collect()
    }
}

fn malformed<T>(what: &str) -> Result<T> {
    Err(Error::Malformed(what.to_owned()))
}

/// Names the flavors that are there, and the way from them to ONNX.
fn no_onnx(flavors: &Map<String, Value>) -> Error {
    let shown: Vec<&str> = flavors.keys().map(String::as_str).take(12).collect();
    let export = shown.iter().find_map(|flavor| match *flavor {
        "sklearn" => Some("skl2onnx.to_onnx(model, rows)"),
        "xgboost" | "lightgbm" | "catboost" => Some("onnxmltools.convert_xgboost and the like"),
        "pytorch" => Some("torch.onnx.export(model, rows)"),
        "tensorflow" | "keras" => Some("tf2onnx.convert.from_keras(model)"),
        "transformers" | "sentence_transformers" => Some("optimum-cli export onnx"),
        _ => None,
    });
    Error::Unfit(format!(
        "the model has no onnx flavor: it has {}. Export it{}, and log it with mlflow.onnx.log_model",
        if shown.is_empty() { "none".to_owned() } else { shown.join(", ") },
        export.map_or_else(|| " to ONNX".to_owned(), |export| format!(" to ONNX ({export})")),
    ))
}

/// A path that stays in its folder and has one way to be written.
pub(super) fn plain_path(path: &str) -> Result<String, String> {
    let path = path.strip_prefix("./").unwrap_or(path);
    let is_plain = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains(['\\', ':']);
    if path.len() > 1024 || path.chars().any(char::is_control) || !path.split('/').all(is_plain) {
        let shown: String = path.chars().take(80).collect();
        return Err(format!("{shown:?} is not a path within the folder: expected names with / between them"));
    }
    Ok(path.to_owned())
}

/// A value as text: what is not text already is JSON.
fn value_text(value: &Value) -> Result<String, String> {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    if text.len() > VALUE_BYTES_MAX {
        return Err(format!("it has {} bytes, expected at most {VALUE_BYTES_MAX}", text.len()));
    }
    Ok(text)
}

fn metadata(value: Option<&Value>) -> Result<BTreeMap<String, String>> {
    let entries = match value {
        None | Some(Value::Null) => return Ok(BTreeMap::new()),
        Some(Value::Object(entries)) if entries.len() <= METADATA_MAX => entries,
        Some(Value::Object(entries)) => {
            return malformed(&format!("metadata has {} entries, expected at most {METADATA_MAX}", entries.len()));
        }
        Some(_) => return malformed("metadata: expected keys and values"),
    };
    let entry = |(key, value): (&String, &Value)| {
        let value = value_text(value).map_err(|why| Error::Malformed(format!("metadata.{key}: {why}")))?;
        Ok((key.clone(), value))
    };
    entries.iter().map(entry).collect()
}

#[cfg(test)]
mod tests;
