//! Which events of OpenLineage does a fact come to?
//!
//! A push is a run of the job `push/MODEL`, a promotion one of `promote/MODEL/ENVIRONMENT`, an endpoint is a job that
//! goes on, and a version is a dataset. Ids of runs are made of what they are about: the same fact tells of the same
//! run, however often.

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::super::endpoints::Planned;
use super::super::facts::{Fact, Says};
use super::super::model::{Code, Dataset, Version};
use super::super::moments::Instant;
use super::super::requests::{Ending, Promotion};
use super::{Book, is_uuid};

/// Who tells: the identity of this program in events.
const PRODUCER: &str = concat!("urn:tiltyard:", env!("CARGO_PKG_VERSION"));

/// The namespace of what is named here.
const NAMESPACE: &str = "tiltyard";

const SPEC: &str = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/";

/// What a fact on the record comes to; nothing for those that move no artifact. The book has taken it in.
pub fn events(book: &Book, fact: &Fact, time_ms: u64) -> Vec<Value> {
    let at = Instant(time_ms).to_string();
    match &fact.says {
        Says::Version(pushed) => {
            let version = book.version(&pushed.model, pushed.version);
            version.map(|version| push(book, version, &at)).unwrap_or_default()
        }
        Says::Promoted(begun) => {
            let promotion = book.promotion(&begun.promotion);
            let both =
                |promotion| vec![promote(book, promotion, "START", &at), promote(book, promotion, "COMPLETE", &at)];
            promotion.map(both).unwrap_or_default()
        }
        Says::Begun(begun) => {
            let promotion = book.promotion(&begun.promotion);
            promotion.map(|promotion| promote(book, promotion, "START", &at)).into_iter().collect()
        }
        Says::Ended(ended) => {
            let state = match ended.outcome {
                Ending::Promoted => "COMPLETE",
                Ending::RolledBack => "FAIL",
                Ending::Aborted => "ABORT",
            };
            let promotion = book.promotion(&ended.promotion);
            promotion.map(|promotion| promote(book, promotion, state, &at)).into_iter().collect()
        }
        Says::Plan(planned) => vec![plan(book, planned, &at)],
        _ => Vec::new(),
    }
}

fn push(book: &Book, version: &Version, at: &str) -> Vec<Value> {
    let inputs: Vec<_> = version.lineage.datasets.iter().map(dataset).collect();
    let mut facets = job_facets("PUSH", "BATCH");
    if let Some(code) = version.lineage.code.as_ref().filter(|code| code.repository.starts_with("http")) {
        facets.insert("sourceCodeLocation".into(), source(code));
    }
    let id = uuid(&format!("push {} {} {}", version.model, version.number, version.artifact));
    let run = |state: &str| {
        json!({
            "eventType": state, "eventTime": at, "producer": PRODUCER, "schemaURL": format!("{SPEC}RunEvent"),
            "run": { "runId": id, "facets": run_facets(book, version) },
            "job": { "namespace": NAMESPACE, "name": format!("push/{}", version.model), "facets": facets },
            "inputs": inputs, "outputs": [model(version)],
        })
    };
    let made = json!({
        "eventTime": at, "producer": PRODUCER, "schemaURL": format!("{SPEC}DatasetEvent"), "dataset": model(version),
    });
    vec![run("START"), run("COMPLETE"), made]
}

fn promote(book: &Book, promotion: &Promotion, state: &str, at: &str) -> Value {
    let Promotion { id, environment, model: name, version, .. } = promotion;
    let inputs: Vec<_> = book.version(name, *version).map(model).into_iter().collect();
    let told = json!({
        "promotion": id, "environment": environment, "request": promotion.request, "approvers": promotion.approvers,
        "rollout": promotion.rollout, "from": promotion.from, "overridden": promotion.overridden,
    });
    let mut facets = Map::new();
    facets.insert("tiltyard_promotion".into(), facet(&format!("{SPEC}RunFacet"), told));
    json!({
        "eventType": state, "eventTime": at, "producer": PRODUCER, "schemaURL": format!("{SPEC}RunEvent"),
        "run": { "runId": uuid(&format!("promotion {id}")), "facets": facets },
        "job": {
            "namespace": NAMESPACE, "name": format!("promote/{name}/{environment}"),
            "facets": job_facets("PROMOTION", "BATCH"),
        },
        "inputs": inputs,
        "outputs": [{ "namespace": NAMESPACE, "name": format!("{environment}/{name}") }],
    })
}

fn plan(book: &Book, planned: &Planned, at: &str) -> Value {
    let arms = planned.arms.iter().filter_map(|arm| book.version(&arm.model, arm.version));
    let mut facets = job_facets("ENDPOINT", "SERVICE");
    let Planned { endpoint, revision, cause, arms: all, .. } = planned;
    let told = json!({ "endpoint": endpoint, "revision": revision, "cause": cause, "arms": all });
    facets.insert("tiltyard_plan".into(), facet(&format!("{SPEC}JobFacet"), told));
    json!({
        "eventTime": at, "producer": PRODUCER, "schemaURL": format!("{SPEC}JobEvent"),
        "job": { "namespace": NAMESPACE, "name": format!("endpoint/{}", planned.endpoint), "facets": facets },
        "inputs": arms.map(model).collect::<Vec<_>>(),
    })
}

/// A facet: what is told, with who tells it and by which schema. `told` is an object.
fn facet(schema: &str, mut told: Value) -> Value {
    told["_producer"] = PRODUCER.into();
    told["_schemaURL"] = schema.into();
    told
}

fn spec_facet(name: &str, version: &str, told: Value) -> Value {
    facet(&format!("https://openlineage.io/spec/facets/{version}/{name}.json#/$defs/{name}"), told)
}

fn job_facets(what: &str, processing: &str) -> Map<String, Value> {
    let told = json!({ "processingType": processing, "integration": "TILTYARD", "jobType": what });
    [("jobType".to_owned(), spec_facet("JobTypeJobFacet", "2-0-4", told))].into_iter().collect()
}

fn source(code: &Code) -> Value {
    let told = json!({ "type": "git", "url": code.repository, "repoUrl": code.repository, "version": code.commit });
    spec_facet("SourceCodeLocationJobFacet", "1-1-0", told)
}

fn run_facets(book: &Book, version: &Version) -> Map<String, Value> {
    let mut facets = Map::new();
    let Some(run) = &version.lineage.run else { return facets };
    let told = json!({ "id": run.id, "system": run.system, "uri": run.uri });
    facets.insert("tiltyard_run".into(), facet(&format!("{SPEC}RunFacet"), told));
    let parent = book.runs().get(&run.id.to_ascii_lowercase()).filter(|parent| is_uuid(&parent.id));
    if let Some(parent) = parent {
        let told =
            json!({ "run": { "runId": parent.id }, "job": { "namespace": parent.namespace, "name": parent.job } });
        facets.insert("parent".into(), spec_facet("ParentRunFacet", "1-2-0", told));
    }
    facets
}

/// A version as a dataset.
fn model(version: &Version) -> Value {
    let mut facets = Map::new();
    let number = json!({ "datasetVersion": version.number.to_string() });
    facets.insert("version".into(), spec_facet("DatasetVersionDatasetFacet", "1-0-1", number));
    let digest = format!("sha256:{}", version.artifact);
    let told = json!({ "name": version.model, "version": version.number, "digest": digest });
    facets.insert("tiltyard_model".into(), facet(&format!("{SPEC}DatasetFacet"), told));
    let sides = ["inputs", "outputs"].into_iter().flat_map(|side| version.signature[side].as_array());
    let fields = sides.flatten().filter_map(|tensor| {
        let name = tensor["name"].as_str()?;
        Some(json!({ "name": name, "type": tensor["datatype"].as_str().unwrap_or_default() }))
    });
    let fields: Vec<_> = fields.collect();
    if !fields.is_empty() {
        facets.insert("schema".into(), spec_facet("SchemaDatasetFacet", "1-2-0", json!({ "fields": fields })));
    }
    if !version.tags.is_empty() {
        let tags = version.tags.iter().map(|(key, value)| json!({ "key": key, "value": value, "source": "TILTYARD" }));
        let told = json!({ "tags": tags.collect::<Vec<_>>() });
        facets.insert("tags".into(), spec_facet("TagsDatasetFacet", "1-0-0", told));
    }
    json!({ "namespace": NAMESPACE, "name": format!("{}/{}", version.model, version.number), "facets": facets })
}

/// Data that a version was made of.
fn dataset(dataset: &Dataset) -> Value {
    let mut facets = Map::new();
    let digest = dataset.digest.map(|digest| format!("sha256:{digest}"));
    let version = Some(dataset.version.clone()).filter(|version| !version.is_empty()).or(digest);
    if let Some(version) = version {
        let told = json!({ "datasetVersion": version });
        facets.insert("version".into(), spec_facet("DatasetVersionDatasetFacet", "1-0-1", told));
    }
    if !dataset.uri.is_empty() {
        let told = json!({ "name": dataset.name, "uri": dataset.uri });
        facets.insert("dataSource".into(), spec_facet("DatasourceDatasetFacet", "1-0-1", told));
    }
    let namespace = if dataset.namespace.is_empty() { NAMESPACE } else { &dataset.namespace };
    json!({ "namespace": namespace, "name": dataset.name, "facets": facets })
}

/// A UUID made of a text: version 8 of RFC 9562, whose bits are the maker's own.
fn uuid(text: &str) -> String {
    let hash = Sha256::digest(text);
    let mut bytes: [u8; 16] = std::array::from_fn(|at| hash[at]);
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-")
}
