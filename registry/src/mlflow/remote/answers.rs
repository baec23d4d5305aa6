//! What does a tracking server's JSON say?

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::{Error, Result, Texts};

/// Entries of one list that are kept, at most.
const ENTRIES_MAX: usize = 1000;

/// Characters of one text that are kept, at most.
const TEXT_MAX: usize = 8192;

/// A version of a registered model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// The registered model.
    pub name: String,
    /// Its number there.
    pub version: u64,
    /// Whether its files are there, in MLflow's word: `READY`.
    pub status: String,
    /// What somebody wrote about it.
    pub description: String,
    /// The run that made it.
    pub run_id: Option<String>,
    /// What somebody noted with it.
    pub tags: Texts,
    /// The pointers that lead to it, where the server tells.
    pub aliases: Vec<String>,
    /// When it was registered, in milliseconds since 1970; 0 where the server does not tell.
    pub created_ms: u64,
}

/// What a run measured, and with what.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Run {
    /// Its id.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// Whether it came to its end, in MLflow's word: `FINISHED`.
    pub status: String,
    /// The last value of each metric; those that are no number are left out.
    pub metrics: BTreeMap<String, f64>,
    /// What it was called with.
    pub params: Texts,
    /// What somebody noted with it.
    pub tags: Texts,
    /// Data that it read.
    pub datasets: Vec<Dataset>,
}

impl Run {
    /// The commit that it ran, where MLflow knew.
    pub fn commit(&self) -> Option<&str> {
        self.tags.get("mlflow.source.git.commit").map(String::as_str)
    }

    /// Who started it, where MLflow knew.
    pub fn user(&self) -> Option<&str> {
        self.tags.get("mlflow.user").map(String::as_str)
    }
}

/// Data that a run read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Dataset {
    /// What people call it.
    pub name: String,
    /// MLflow's digest of it, which is of its own kind.
    pub digest: String,
    /// Where it was read from, in the form of its kind.
    pub source: String,
    /// What it was for, such as `training`.
    pub context: Option<String>,
}

pub(super) fn version(value: &Value) -> Result<Version> {
    let version = &value["version"];
    // MLflow writes it as text, others as a number.
    let number = version.as_u64().or_else(|| version.as_str()?.parse().ok()).filter(|version| *version > 0);
    let Some(number) = number else {
        return Err(Error::Answer(format!("a version of a model is {version}, expected a number from 1 on")));
    };
    let aliases = list(value, "aliases")?;
    Ok(Version {
        name: text(value, "name")?,
        version: number,
        status: value["status"].as_str().unwrap_or("READY").to_owned(),
        description: shown(&value["description"]),
        run_id: value["run_id"].as_str().filter(|run| !run.is_empty()).map(str::to_owned),
        tags: texts(value, "tags")?,
        aliases: aliases.iter().filter_map(|alias| Some(alias.as_str()?.to_owned())).take(ENTRIES_MAX).collect(),
        created_ms: value["creation_timestamp"].as_u64().unwrap_or(0),
    })
}

pub(super) fn run(value: &Value) -> Result<Run> {
    let (info, data) = (&value["info"], &value["data"]);
    let mut metrics = BTreeMap::new();
    for metric in list(data, "metrics")?.iter().take(ENTRIES_MAX) {
        // What is no number comes as text, and what is infinite as the largest number there is.
        let number = metric["value"].as_f64().filter(|value| value.abs() < f64::MAX);
        if let (Some(key), Some(number)) = (metric["key"].as_str(), number) {
            metrics.insert(key.to_owned(), number);
        }
    }
    let dataset = |input: &Value| {
        let dataset = &input["dataset"];
        let context = texts(input, "tags").ok()?.remove("mlflow.data.context");
        let shown = |key: &str| shown(&dataset[key]);
        Some(Dataset { name: shown("name"), digest: shown("digest"), source: shown("source"), context })
    };
    let inputs = list(&value["inputs"], "dataset_inputs")?;
    Ok(Run {
        id: text(info, "run_id")?,
        name: shown(&info["run_name"]),
        status: shown(&info["status"]),
        metrics,
        params: texts(data, "params")?,
        tags: texts(data, "tags")?,
        datasets: inputs.iter().take(ENTRIES_MAX).filter_map(dataset).collect(),
    })
}

/// A list; none is an empty one, as protocol buffers have it in JSON.
pub(super) fn list<'a>(value: &'a Value, key: &str) -> Result<&'a [Value]> {
    match &value[key] {
        Value::Null => Ok(&[]),
        Value::Array(list) => Ok(list),
        _ => Err(Error::Answer(format!("{key} is no list"))),
    }
}

/// Text that has to be there.
pub(super) fn text(value: &Value, key: &str) -> Result<String> {
    match value[key].as_str() {
        Some(text) if !text.is_empty() && text.len() <= TEXT_MAX => Ok(text.to_owned()),
        _ => Err(Error::Answer(format!("it has no {key}: is that a tracking server of MLflow's?"))),
    }
}

fn shown(value: &Value) -> String {
    value.as_str().unwrap_or_default().chars().take(TEXT_MAX).collect()
}

/// A list of keys with their values.
fn texts(value: &Value, key: &str) -> Result<Texts> {
    let entry = |entry: &Value| Some((entry["key"].as_str()?.to_owned(), shown(&entry["value"])));
    Ok(list(value, key)?.iter().take(ENTRIES_MAX).filter_map(entry).collect())
}
