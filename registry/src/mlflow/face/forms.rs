//! What does a model or a version of ours look like to MLflow's clients?

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::book::{Book, Model, Source, Version, VersionState};

/// A registered model.
pub(super) fn model_form(book: &Book, model: &Model) -> Value {
    let aliases = model.aliases.iter().map(|(alias, at)| json!({ "alias": alias, "version": at.version.to_string() }));
    json!({
        "name": model.name,
        "creation_timestamp": model.created.time_ms,
        "last_updated_timestamp": model.changed.time_ms,
        "user_id": model.owner,
        "description": model.description,
        "latest_versions": latest(book, model).into_iter().map(|(_, version)| version_form(book, version)).collect::<Vec<_>>(),
        "tags": tags(&model.tags),
        "aliases": aliases.collect::<Vec<_>>(),
    })
}

/// A version of a model.
pub(super) fn version_form(book: &Book, version: &Version) -> Value {
    let aliases: Vec<&str> =
        book.model(&version.model).map(|model| model.aliases_of(version.number).collect()).unwrap_or_default();
    // Nobody should take a version that must not answer.
    let (status, why) = match version.state {
        VersionState::Quarantined => ("FAILED_REGISTRATION", format!("quarantined: {}", version.reason)),
        _ => ("READY", String::new()),
    };
    json!({
        "name": version.model,
        "version": version.number.to_string(),
        "creation_timestamp": version.pushed.time_ms,
        "last_updated_timestamp": version.changed.time_ms,
        "user_id": version.pushed.by,
        "current_stage": stage(book, version),
        "description": version.description,
        "source": source(version),
        "run_id": run_id(version),
        "status": status,
        "status_message": why,
        "tags": tags(&version.tags),
        "aliases": aliases,
    })
}

/// Where a client that knows HTTP alone reads a version's files.
pub(super) fn download_uri(base: &str, version: &Version) -> String {
    format!("{base}/api/2.0/mlflow-artifacts/artifacts/{}/{}", version.model, version.number)
}

/// Where a version came from.
pub(super) fn source(version: &Version) -> String {
    match &version.source {
        Source::Imported { uri, .. } => uri.clone(),
        Source::Pushed => format!("tiltyard:sha256:{}", version.artifact),
    }
}

/// The run of MLflow's that made a version.
pub(super) fn run_id(version: &Version) -> &str {
    let run = version.lineage.run.as_ref().filter(|run| run.system == "mlflow");
    run.map_or("", |run| run.id.as_str())
}

/// MLflow's stage for the environments in which a version is.
pub(super) fn stage(book: &Book, version: &Version) -> &'static str {
    let environments = book.environments_of(&version.model, version.number);
    let is_in = |name: &str| environments.iter().any(|environment| environment.name == name);
    match version.state {
        VersionState::Archived => "Archived",
        _ if is_in("prod") => "Production",
        _ if is_in("staging") => "Staging",
        _ => "None",
    }
}

/// The newest version in each stage, as MLflow tells them with a model.
pub(super) fn latest<'a>(book: &Book, model: &'a Model) -> Vec<(&'static str, &'a Version)> {
    let mut latest: BTreeMap<&'static str, &Version> = BTreeMap::new();
    for version in versions(model) {
        latest.insert(stage(book, version), version);
    }
    latest.into_iter().collect()
}

/// A model's versions, oldest first.
pub(super) fn versions(model: &Model) -> impl DoubleEndedIterator<Item = &Version> {
    model.versions.iter()
}

fn tags(tags: &BTreeMap<String, String>) -> Vec<Value> {
    tags.iter().map(|(key, value)| json!({ "key": key, "value": value })).collect()
}
