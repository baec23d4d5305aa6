//! What of a model of MLflow's is put on the record?

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use tiltyard_registry::mlflow::folder::Model;
use tiltyard_registry::mlflow::remote::{Run, Version};
use tiltyard_runtime::onnx::Graph;

use crate::cli::output;

/// Tags of one version that are taken along, at most.
const TAGS_MAX: usize = 200;

/// Bytes of a tag's value that are kept.
const VALUE_BYTES_MAX: usize = 4096;

/// Metrics and datasets of one run that are taken along, at most.
const LIST_MAX: usize = 200;

/// Says something beside what is asked for.
pub(super) fn note(text: &str) {
    output::note(text);
}

/// What is said of a version with its push. Where MLflow says one thing and the graph another, that is told.
pub(super) fn of(
    model: &Model,
    graph: &Graph,
    version: Option<&Version>,
    run: Option<&Run>,
    uri: &str,
) -> Map<String, Value> {
    for difference in model.declared.iter().flat_map(|declared| declared.differences(&graph.servable())) {
        note(&format!("note: {difference}; the graph answers"));
    }
    let run_id = run.map(|run| run.id.as_str()).or(model.origin.run_id.as_deref());
    let mut lineage = json!({ "datasets": run.map(datasets).unwrap_or_default() });
    if let Some(commit) = run.and_then(Run::commit) {
        let repository = run.and_then(|run| run.tags.get("mlflow.source.git.repoURL")).map_or("", String::as_str);
        lineage["code"] = json!({ "commit": commit, "repository": repository });
    }
    if let Some(id) = run_id {
        lineage["run"] = json!({ "id": id, "system": "mlflow" });
    }
    let metrics = run.into_iter().flat_map(|run| &run.metrics).take(LIST_MAX);
    let measured_on = run.map(measured_on);
    let metrics = metrics
        .map(|(name, value)| json!({ "name": name, "value": value, "dataset": measured_on, "evaluator": "mlflow" }));
    let facts = json!({
        "description": version.map_or("", |version| version.description.as_str()),
        "tags": tags(model, version, run, uri),
        "metrics": metrics.collect::<Vec<_>>(),
        "lineage": lineage,
        "source": { "imported": { "system": "mlflow", "uri": uri } },
    });
    match facts {
        Value::Object(facts) => facts,
        _ => Map::new(),
    }
}

/// What a run's metrics were measured on: the data that it says it read for that, where that is one; else nobody knows more than
/// which run it was.
fn measured_on(run: &Run) -> String {
    let is_for_that = |context: &str| ["eval", "test", "valid", "holdout"].iter().any(|word| context.contains(word));
    let read = run.datasets.iter().filter(|dataset| dataset.context.as_deref().is_some_and(is_for_that));
    match read.collect::<Vec<_>>().as_slice() {
        [only] if !only.name.is_empty() => only.name.clone(),
        _ => format!("run {}", run.id),
    }
}

fn datasets(run: &Run) -> Vec<Value> {
    let named = run.datasets.iter().filter(|dataset| !dataset.name.is_empty()).take(LIST_MAX);
    let form = named.map(|dataset| {
        let mut form = json!({ "name": dataset.name, "version": dataset.digest });
        // What is no place, such as the name of a program, is left out.
        let place: Option<Value> = serde_json::from_str(&dataset.source).ok();
        if let Some(uri) =
            place.as_ref().and_then(|place| ["uri", "url", "path"].iter().find_map(|key| place[*key].as_str()))
        {
            form["uri"] = uri.into();
        }
        form
    });
    form.collect()
}

/// Tags of the version, of its run, and where it came from. Names that cannot be ours are left out, and that is told.
fn tags(model: &Model, version: Option<&Version>, run: Option<&Run>, uri: &str) -> BTreeMap<String, String> {
    let of_run = run.into_iter().flat_map(|run| {
        // What begins with mlflow. is MLflow's own book-keeping; what of it matters is in the lineage.
        let noted = run.tags.iter().filter(|(key, _)| !key.starts_with("mlflow."));
        let noted = noted.map(|(key, value)| (key.clone(), value.clone()));
        noted.chain(run.params.iter().map(|(key, value)| (format!("mlflow.param.{key}"), value.clone())))
    });
    let of_version = version.into_iter().flat_map(|version| version.tags.clone());
    let imported = [("mlflow.imported".to_owned(), uri.to_owned())];
    let mut all: BTreeMap<String, String> = of_run.collect();
    all.extend(of_version);
    all.extend(model.tags());
    all.extend(imported);
    let count = all.len();
    let cut = |value: String| {
        let end = (0..=VALUE_BYTES_MAX.min(value.len())).rev().find(|at| value.is_char_boundary(*at)).unwrap_or(0);
        value[..end].to_owned()
    };
    let kept: BTreeMap<_, _> =
        all.into_iter().filter(|(key, _)| is_name(key)).take(TAGS_MAX).map(|(key, value)| (key, cut(value))).collect();
    if kept.len() < count {
        note(&format!(
            "note: tags left out, whose names cannot be tags here or that are too many: {}",
            count - kept.len()
        ));
    }
    kept
}

/// Whether a text can be the name of a tag here.
fn is_name(text: &str) -> bool {
    let is_refused = |c: char| c.is_control() || "/\\@=<>\"'".contains(c);
    (1..=128).contains(&text.len())
        && !text.contains(is_refused)
        && !text.starts_with(['.', '-', ' '])
        && !text.ends_with(' ')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_mlflow_knows_is_on_the_record() {
        let model = Model::read("flavors: {onnx: {data: m.onnx}}\nrun_id: r1\n").unwrap();
        let texts = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        let run = Run {
            id: "r1".into(),
            name: "quail".into(),
            status: "FINISHED".into(),
            metrics: BTreeMap::from([("auc".to_owned(), 0.9)]),
            params: texts(&[("depth", "3"), ("a/b", "x")]),
            tags: texts(&[("mlflow.source.git.commit", "c0ffee"), ("team", "lending"), ("mlflow.user", "ada")]),
            datasets: Vec::new(),
        };
        let facts = Value::Object(of(&model, &Graph::default(), None, Some(&run), "models:/risk/3"));
        assert_eq!(facts["lineage"]["code"]["commit"], "c0ffee");
        assert_eq!(facts["lineage"]["run"], json!({ "id": "r1", "system": "mlflow" }));
        assert_eq!(
            facts["metrics"],
            json!([{ "name": "auc", "value": 0.9, "dataset": "run r1", "evaluator": "mlflow" }])
        );
        let expected = json!({ "mlflow.imported": "models:/risk/3", "mlflow.param.depth": "3", "mlflow.run_id": "r1", "team": "lending" });
        assert_eq!(facts["tags"], expected);
        assert_eq!(facts["source"], json!({ "imported": { "system": "mlflow", "uri": "models:/risk/3" } }));
    }
}
