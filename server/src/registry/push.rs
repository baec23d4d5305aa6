//! How does a version come into the registry?
//!
//! Its files first, each under its digest, then what is said of it. Before anything is on the record the version is loaded once,
//! here, has answered its golden examples, and what ran it has become its lock. Bytes that are there already are that version.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use tiltyard_registry::artifacts::{Blobs, Manifest, materialise};
use tiltyard_registry::book::{
    Baseline, BaselineSet, Content, FileEntry, Lineage, Lock, Metric, MetricKey, Order, Outcome, Principal, Push,
    Signed, Source, Version, Wants,
};
use tiltyard_runtime::deployment::Deployment;
use tiltyard_runtime::load::Loader;
use tiltyard_runtime::made::Made;
use tiltyard_runtime::repository::{self, FoundVersion};
use tiltyard_types::{Digest, Error, ErrorKind, Result};

use super::{Registry, manifest, text_of};
use crate::describe;
use crate::service::Service;

/// Files of one version.
const FILES_MAX: usize = 10_000;

/// What somebody says of a version that they push.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pushing {
    /// Its files.
    files: Vec<FileEntry>,
    #[serde(default)]
    description: String,
    /// Text for its card.
    #[serde(default)]
    card: String,
    #[serde(default)]
    tags: BTreeMap<String, String>,
    #[serde(default)]
    metrics: Vec<Said>,
    #[serde(default)]
    lineage: Lineage,
    #[serde(default)]
    source: Source,
    /// The same key again is the same push.
    #[serde(default)]
    key: Option<String>,
}

/// A measurement as people say it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Said {
    name: String,
    value: f64,
    #[serde(default)]
    dataset: Option<String>,
    #[serde(default)]
    slice: Option<String>,
    #[serde(default)]
    interval: Option<[f64; 2]>,
    #[serde(default)]
    evaluator: String,
}

impl From<Said> for Metric {
    fn from(said: Said) -> Metric {
        let Said { name, value, dataset, slice, interval, evaluator } = said;
        let key = MetricKey { dataset: dataset.unwrap_or_default(), slice: slice.unwrap_or_default(), metric: name };
        Metric { key, value, interval, evaluator }
    }
}

/// How often a version is loaded once more whose files seemed to change, and how long that is waited for.
const LOADS: usize = 20;
const LINKS: Duration = Duration::from_millis(50);

/// Takes a version in. Where files are missing, says which: they are sent, and the same is asked again.
pub async fn push(service: &Service, model: &str, pushing: Pushing, by: Principal) -> Result<Value> {
    let registry = &service.registry;
    let artifacts = registry.artifacts()?;
    let mut files = pushing.files.clone();
    if files.is_empty() || files.len() > FILES_MAX {
        let message = format!("{} files: expected 1 to {FILES_MAX}, the model's among them", files.len());
        return Err(Error::invalid(message));
    }
    files.sort();
    let missing = missing(Arc::clone(artifacts), files.iter().map(|file| file.sha256).collect()).await?;
    if !missing.is_empty() {
        return Ok(json!({ "missing": missing }));
    }
    let listed = manifest(&files)?;
    let artifact = listed.digest();
    let known = registry.book().with_artifact(model, artifact).map(facts_of);
    let found = match &known {
        Some(_) => None,
        None => Some(check(service, artifacts, model, listed, artifact).await?),
    };
    let content = Content {
        artifact,
        files,
        signature: found.as_ref().map_or(Value::Null, |found| found.signature.clone()),
        description: pushing.description,
        text: pushing.card,
        tags: pushing.tags,
        metrics: pushing.metrics.into_iter().map(Metric::from).collect(),
        lock: found.as_ref().map(|found| found.lock.clone()),
        baseline: None,
        signed: found.as_ref().and_then(|found| found.signed.clone()),
        lineage: pushing.lineage,
        source: pushing.source,
    };
    let number_min = 1 + highest(service, model).await;
    let push = Wants::Push(Push { model: model.to_owned(), content: Box::new(content), number_min });
    let decided = registry.order(Order { key: pushing.key, wants: push }, by).await?;
    let Outcome::Version { model, version, is_new } = decided.outcome else {
        return Err(Error::new(ErrorKind::Engine, "a push came to something else than a version"));
    };
    // Its files lie where plans find them before anybody is told its number.
    registry.settle().await;
    let book = registry.book();
    let mut form = book.version(&model, version).map(facts_of).unwrap_or_default();
    form["is_new"] = is_new.into();
    Ok(form)
}

/// Those of the files that are not there yet. Where replicas share them, a store is asked, which takes its time.
async fn missing(artifacts: Arc<dyn Blobs>, wanted: Vec<Digest>) -> Result<Vec<String>> {
    let look = move || {
        let lacks = |digest: &Digest| artifacts.size(*digest).map(|size| size.is_none());
        let found = wanted.iter().filter_map(|digest| match lacks(digest) {
            Ok(false) => None,
            Ok(true) => Some(Ok(text_of(digest))),
            Err(error) => Some(Err(Error::from(error))),
        });
        found.collect()
    };
    let looked = tokio::task::spawn_blocking(look).await;
    looked.map_err(|_| Error::new(ErrorKind::Engine, "the thread that looks for files panicked"))?
}

/// What is told of a version that was pushed.
fn facts_of(version: &Version) -> Value {
    json!({
        "model": version.model, "version": version.number, "artifact": text_of(&version.artifact),
        "lock": version.lock, "goldens": version.golden_examples(), "signature": version.signature, "state": version.state,
    })
}

/// The highest number that a version of the model has anywhere, folders included.
pub(crate) async fn highest(service: &Service, model: &str) -> u64 {
    let catalog = service.inference.catalog.load();
    let known = catalog.models.get(model).and_then(|model| model.versions.keys().next_back().copied());
    // A folder may have more than is loaded. Where it cannot be read, what is known must do.
    let root = service.registry.repository.clone();
    let found = tokio::task::spawn_blocking(move || repository::scan(&root).ok()).await.ok().flatten();
    let found = found.and_then(|scan| scan.models.get(model)?.versions.keys().next_back().copied());
    known.unwrap_or(0).max(found.unwrap_or(0))
}

/// What a version showed of itself when it was loaded.
struct Found {
    signature: Value,
    lock: Lock,
    signed: Option<Signed>,
}

/// Loads a version once, on a thread that may wait. Fails with what keeps it from being served.
async fn check(
    service: &Service,
    artifacts: &Arc<dyn Blobs>,
    model: &str,
    files: Manifest,
    artifact: Digest,
) -> Result<Found> {
    // Of its own: the same may be pushed twice at once.
    let trial = format!("{artifact}-{}", uuid::Uuid::now_v7().simple());
    let place = Trial(service.registry.pushed.with_file_name("trials").join(trial));
    let (artifacts, loader, model) = (Arc::clone(artifacts), Arc::clone(&service.loader), model.to_owned());
    let load = move || -> Result<Found> {
        materialise(&*artifacts, &files, &place.0)?;
        load(&loader, &model, &place.0)
    };
    let loaded = tokio::task::spawn_blocking(load).await;
    loaded.unwrap_or_else(|_| Err(Error::new(ErrorKind::Engine, "the engine panicked while it loaded")))
}

fn load(loader: &Loader, model: &str, folder: &std::path::Path) -> Result<Found> {
    let unreadable = |error| Error::new(ErrorKind::NotReady, format!("the version's files cannot be read: {error}"));
    // Number 0 is nobody's: no lock is known of it.
    let mut loaded = loader.load(model, 0, &FoundVersion::at(folder).map_err(unreadable)?);
    // Its bytes are those of the store. Who lays out the same beside it makes links to them, which looks like a change.
    for _ in 0..LOADS {
        if !loaded.as_ref().is_err_and(|error| error.incomplete) {
            break;
        }
        std::thread::sleep(LINKS);
        loaded = loader.load(model, 0, &FoundVersion::at(folder).map_err(unreadable)?);
    }
    let deployment = loaded.map_err(|error| {
        // Where it was tried is nothing to whoever pushes it.
        let reason = error.reason.replace(&folder.display().to_string(), "what was pushed");
        Error::invalid(format!("it is not taken in: {reason}"))
    })?;
    let signed = match &deployment.made {
        Some(Made::By(maker)) => Some(Signed { key: maker.clone(), identity: String::new() }),
        _ => None,
    };
    Ok(Found { signature: describe::signature(&deployment), lock: lock_of(&deployment), signed })
}

/// What ran a version, for the record.
fn lock_of(deployment: &Deployment) -> Lock {
    let lock = tiltyard_runtime::lock::Lock::of(deployment);
    Lock {
        engine: lock.engine,
        build: lock.build,
        provider: lock.provider,
        opset: lock.opset.and_then(|opset| u64::try_from(opset).ok()),
        threads: Some(lock.threads as u64),
        batch_rows_max: Some(lock.rows_max as u64),
        others: BTreeMap::new(),
    }
}

/// A folder that is gone when nobody needs it any more.
struct Trial(PathBuf);

impl Drop for Trial {
    fn drop(&mut self) {
        // What stays is laid out anew the next time.
        drop(std::fs::remove_dir_all(&self.0));
    }
}

impl Registry {
    /// What is told of a version, whole.
    pub fn form_of(&self, reference: &str) -> Result<Value> {
        let book = self.book();
        let version = book.resolve(reference)?;
        let mut form = serde_json::to_value(version)
            .map_err(|error| Error::new(ErrorKind::Engine, format!("the version cannot be shown: {error}")))?;
        form["version"] = version.number.into();
        let model = book.model(&version.model);
        form["aliases"] = model.into_iter().flat_map(|model| model.aliases_of(version.number)).collect();
        let at = book.environments_of(&version.model, version.number);
        form["environments"] = at.into_iter().map(|environment| environment.name.as_str()).collect();
        Ok(form)
    }
}

/// Keeps what a version's traffic is compared with, and has it watched by that.
pub async fn put_baseline(
    service: &Service,
    (model, number): (&str, u64),
    made: Bytes,
    by: Principal,
) -> Result<Value> {
    let artifacts = Arc::clone(service.registry.artifacts()?);
    let text = String::from_utf8(made.to_vec()).map_err(|error| Error::invalid(format!("no baseline: {error}")))?;
    let baseline = tiltyard_drift::baseline::Baseline::from_json(&text).map_err(Error::invalid)?;
    let facts = baseline.facts();
    let (rows, is_provisional) = (facts.rows, facts.provisional);
    let kept = tokio::task::spawn_blocking(move || artifacts.put(&mut made.as_ref(), u64::MAX)).await;
    let blob = kept.map_err(|_| Error::new(ErrorKind::Engine, "the thread that writes panicked"))??;
    let said = Baseline { digest: blob.digest, rows, is_provisional };
    let set = BaselineSet { model: model.to_owned(), version: number, baseline: said };
    let told = json!({ "digest": text_of(&set.baseline.digest), "rows": rows });
    service.registry.order(Wants::Baseline(set).into(), by).await?;
    service.registry.settle().await;
    Ok(json!({ "model": model, "version": number, "baseline": told }))
}
