//! How does a client of MLflow's read a version's files?
//!
//! As from a tracking server that hands its store through: a list of a folder, and one file after the other. Beside the files that a
//! version has, there is one more that MLflow's loaders need, `MLmodel`, made of what the book knows.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Asked, Refused, Reply, forms, known_version};
use crate::book::{Book, Version};
use crate::mlflow::folder::MLMODEL;

/// Answers a call below `mlflow-artifacts/artifacts`: `path` is what follows.
pub(super) fn answer(book: &Book, asked: &Asked<'_>, path: &str) -> Result<Reply, Refused> {
    if asked.method != "GET" {
        return Err(Refused::instead("files are read from here only; bytes come with: tiltyard push MODEL FILE"));
    }
    if path.is_empty() {
        let path = asked.query.iter().find(|(key, _)| key == "path").map_or("", |(_, value)| value.as_str());
        return list(book, path.trim_matches('/')).map(Reply::Answer);
    }
    let (version, file) = place(book, path)?;
    if file == MLMODEL && !version.files.iter().any(|known| known.path == MLMODEL) {
        return Ok(Reply::Text(mlmodel(version)));
    }
    if !version.files.iter().any(|known| known.path == file) {
        let (model, number) = (&version.model, version.number);
        return Err(Refused::missing(format!("version {number} of {model} has no file {file:?}")));
    }
    Ok(Reply::File { model: version.model.clone(), version: version.number, path: file.to_owned() })
}

/// The version and the path within it that `path` names: `risk/3/golden/a.json`.
fn place<'a, 'b>(book: &'a Book, path: &'b str) -> Result<(&'a Version, &'b str), Refused> {
    let (name, rest) = path.split_once('/').unwrap_or((path, ""));
    let (number, file) = rest.split_once('/').unwrap_or((rest, ""));
    let number = number.parse().map_err(|_| {
        Refused::invalid(format!("{path:?} names no version's files: expected MODEL/VERSION and a path behind that"))
    })?;
    Ok((known_version(book, name, number)?, file))
}

/// What lies in a folder, as MLflow lists it: names without what leads to them.
fn list(book: &Book, path: &str) -> Result<Value, Refused> {
    let (version, folder) = place(book, path)?;
    let mut found = BTreeMap::new();
    let made = [(MLMODEL, mlmodel(version).len() as u64)];
    let files = version.files.iter().map(|file| (file.path.as_str(), file.size));
    for (path, size) in made.into_iter().chain(files) {
        let within = match folder {
            "" => Some(path),
            folder => path.strip_prefix(folder).and_then(|rest| rest.strip_prefix('/')),
        };
        match within.map(|rest| rest.split_once('/').map_or((rest, false), |(name, _)| (name, true))) {
            None => {}
            Some((name, true)) => drop(found.insert(name, json!({ "path": name, "is_dir": true }))),
            Some((name, false)) => {
                found.insert(name, json!({ "path": name, "is_dir": false, "file_size": size }));
            }
        }
    }
    Ok(json!({ "files": found.into_values().collect::<Vec<_>>() }))
}

/// What `mlflow.onnx` needs to load the model.
fn mlmodel(version: &Version) -> String {
    // JSON is YAML, and text in it cannot be taken for anything else.
    let text = |text: &str| Value::from(text).to_string();
    let mut lines =
        String::from("flavors:\n  onnx:\n    code: null\n    data: model.onnx\n    onnx_session_options: null\n");
    lines.push_str("    providers:\n    - CPUExecutionProvider\n");
    let run = forms::run_id(version);
    if !run.is_empty() {
        lines.push_str(&format!("run_id: {}\n", text(run)));
    }
    lines.push_str(&format!("model_uuid: {}\n", text(&version.artifact.to_string()[..32])));
    lines
}
