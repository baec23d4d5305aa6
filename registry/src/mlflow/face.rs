//! What do MLflow's own clients get to hear when they take this registry for one of MLflow's?
//!
//! A pure function of a call and the book: either an answer, or an order with which the caller's wish is put on the record first, and
//! what is answered once that is so. `docs/mlflow.md` lists the calls. What MLflow would do and a record must not, such as to delete or
//! rename, is refused with what there is instead.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tiltyard_types::ErrorKind;

use crate::book::{
    Aliased, Book, Content, Described, Model, ModelSet, Order, Outcome, Push, Source, Tagged, Version, Wants,
};

mod files;
mod forms;
mod search;

use forms::{download_uri, model_form, version_form};

/// A call of a client.
#[derive(Clone, Debug)]
pub struct Asked<'a> {
    /// The method of HTTP.
    pub method: &'a str,
    /// The path from after `/api/2.0/` on, percent signs decoded.
    pub path: &'a str,
    /// The query's pairs, decoded, in their order.
    pub query: &'a [(String, String)],
    /// The body; null where there is none.
    pub body: Value,
    /// Where this face is reached, up to before `/api`, such as `http://localhost:8002/admin/mlflow`.
    pub base: &'a str,
}

/// What is to be done with a call.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// This is the answer.
    Answer(Value),
    /// These are put on the record, in their order, and then [`answer_to`] has the answer.
    Orders(Vec<Order>),
    /// The bytes of one of a version's files.
    File {
        /// The model.
        model: String,
        /// The version.
        version: u64,
        /// Its path among the version's files.
        path: String,
    },
    /// This text, as the file that MLflow expects beside a model.
    Text(String),
}

/// Why a call is refused, as MLflow's clients read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The status of HTTP.
    pub status: u16,
    /// MLflow's word for it.
    pub code: &'static str,
    /// What is wrong, what was expected and what to do.
    pub message: String,
}

impl Refused {
    /// The body of the answer.
    pub fn form(&self) -> Value {
        json!({ "error_code": self.code, "message": self.message })
    }

    fn new(status: u16, code: &'static str, message: impl Into<String>) -> Refused {
        Refused { status, code, message: message.into() }
    }

    fn missing(message: impl Into<String>) -> Refused {
        Refused::new(404, "RESOURCE_DOES_NOT_EXIST", message)
    }

    fn invalid(message: impl Into<String>) -> Refused {
        Refused::new(400, "INVALID_PARAMETER_VALUE", message)
    }

    fn instead(message: impl Into<String>) -> Refused {
        Refused::new(400, "BAD_REQUEST", message)
    }
}

impl From<&tiltyard_types::Error> for Refused {
    fn from(error: &tiltyard_types::Error) -> Refused {
        let (status, code) = match error.kind() {
            ErrorKind::Invalid | ErrorKind::TooLarge => (400, "INVALID_PARAMETER_VALUE"),
            ErrorKind::NotFound => (404, "RESOURCE_DOES_NOT_EXIST"),
            ErrorKind::Forbidden => (403, "PERMISSION_DENIED"),
            ErrorKind::Unauthenticated => (401, "UNAUTHENTICATED"),
            ErrorKind::Overloaded => (429, "REQUEST_LIMIT_EXCEEDED"),
            ErrorKind::NotReady | ErrorKind::Draining => (503, "TEMPORARILY_UNAVAILABLE"),
            ErrorKind::Unsupported => (501, "NOT_IMPLEMENTED"),
            _ => (500, "INTERNAL_ERROR"),
        };
        Refused::new(status, code, error.message())
    }
}

/// What is to be done with a call.
pub fn answer(book: &Book, asked: &Asked<'_>) -> Result<Reply, Refused> {
    if let Some(file) = asked.path.strip_prefix("mlflow-artifacts/artifacts") {
        return files::answer(book, asked, file.trim_start_matches('/'));
    }
    let unknown = || {
        let message = format!("{} {} is not offered here: docs/mlflow.md lists what is", asked.method, asked.path);
        Refused::new(404, "ENDPOINT_NOT_FOUND", message)
    };
    let call = asked.path.strip_prefix("mlflow/").ok_or_else(unknown)?;
    let given = Given { asked };
    match (asked.method, call) {
        ("GET", "registered-models/get") => model(book, &given),
        ("GET", "registered-models/search") => search::models(book, &given).map(Reply::Answer),
        ("GET" | "POST", "registered-models/get-latest-versions") => latest(book, &given),
        ("GET", "registered-models/alias") => alias(book, &given),
        ("GET", "model-versions/get") => version(book, &given),
        ("GET", "model-versions/search") => search::versions(book, &given).map(Reply::Answer),
        ("GET", "model-versions/get-download-uri") => {
            let version = given.version(book)?;
            Ok(Reply::Answer(json!({ "artifact_uri": download_uri(asked.base, version) })))
        }
        ("POST", "registered-models/create") => create_model(book, &given),
        ("PATCH", "registered-models/update") => {
            given.model(book)?;
            let set = ModelSet { description: given.maybe("description")?, ..named(given.text("name")?) };
            Ok(orders([Wants::Model(set)]))
        }
        ("POST", "registered-models/set-tag") | ("DELETE", "registered-models/delete-tag") => {
            given.model(book)?;
            tag(&given, None)
        }
        ("POST" | "DELETE", "registered-models/alias") => set_alias(book, &given),
        ("POST", "model-versions/create") => create_version(book, &given),
        ("PATCH", "model-versions/update") => {
            let version = given.version(book)?;
            let (model, number) = (version.model.clone(), version.number);
            let said =
                Described { model, version: number, description: given.maybe("description")?, ..Described::default() };
            Ok(orders([Wants::Describe(said)]))
        }
        ("POST", "model-versions/set-tag") | ("DELETE", "model-versions/delete-tag") => {
            let number = given.version(book)?.number;
            tag(&given, Some(number))
        }
        (_, "registered-models/rename") => Err(Refused::instead(
            "a model keeps its name, which the record knows it by: push its versions under another one (copy_model_version)",
        )),
        (_, "registered-models/delete" | "model-versions/delete") => Err(Refused::instead(
            "the record deletes nothing: archive or quarantine the version (tiltyard archive, tiltyard quarantine)",
        )),
        (_, "model-versions/transition-stage") => Err(Refused::instead(
            "stages are read here, and follow from environments: request and promote the version (tiltyard request, tiltyard promote)",
        )),
        _ => Err(unknown()),
    }
}

/// What is answered to a call whose orders are on the record; `outcome` is what the last one came to.
pub fn answer_to(book: &Book, asked: &Asked<'_>, outcome: &Outcome) -> Result<Value, Refused> {
    let given = Given { asked };
    match (asked.method, asked.path.strip_prefix("mlflow/").unwrap_or_default(), outcome) {
        (_, "registered-models/create" | "registered-models/update", _) => {
            Ok(json!({ "registered_model": model_form(book, given.model(book)?) }))
        }
        (_, "model-versions/create", Outcome::Version { model, version, .. }) => {
            Ok(json!({ "model_version": version_form(book, known_version(book, model, *version)?) }))
        }
        (_, "model-versions/update", _) => Ok(json!({ "model_version": version_form(book, given.version(book)?) })),
        _ => Ok(json!({})),
    }
}

fn orders<const N: usize>(wants: [Wants; N]) -> Reply {
    Reply::Orders(wants.into_iter().map(Order::from).collect())
}

fn named(model: String) -> ModelSet {
    ModelSet { model, ..ModelSet::default() }
}

fn known_model<'a>(book: &'a Book, name: &str) -> Result<&'a Model, Refused> {
    book.model(name).ok_or_else(|| Refused::missing(format!("Registered Model with name={name} not found")))
}

fn known_version<'a>(book: &'a Book, name: &str, number: u64) -> Result<&'a Version, Refused> {
    let found = book.model(name).and_then(|model| model.version(number));
    found.ok_or_else(|| Refused::missing(format!("Model Version (name={name}, version={number}) not found")))
}

/// What a call says, wherever it says it.
struct Given<'a> {
    asked: &'a Asked<'a>,
}

impl Given<'_> {
    /// A value of the body, or of the query.
    fn maybe(&self, key: &str) -> Result<Option<String>, Refused> {
        match &self.asked.body[key] {
            Value::String(text) => return Ok(Some(text.clone())),
            Value::Number(number) => return Ok(Some(number.to_string())),
            Value::Null => {}
            _ => return Err(Refused::invalid(format!("{key}: expected text"))),
        }
        let mut found = self.asked.query.iter().filter(|(name, _)| name == key);
        Ok(found.next().map(|(_, value)| value.clone()))
    }

    fn text(&self, key: &str) -> Result<String, Refused> {
        let found = self.maybe(key)?.filter(|text| !text.is_empty());
        found.ok_or_else(|| Refused::invalid(format!("Missing value for required parameter '{key}'.")))
    }

    /// A list of texts: of the body, or as often as the query says it.
    fn texts(&self, key: &str) -> Result<Vec<String>, Refused> {
        match &self.asked.body[key] {
            Value::Array(list) => {
                let texts = list.iter().map(|text| text.as_str().map(str::to_owned)).collect::<Option<_>>();
                texts.ok_or_else(|| Refused::invalid(format!("{key}: expected a list of texts")))
            }
            Value::Null => {
                let found = self.asked.query.iter().filter(|(name, _)| name == key);
                Ok(found.map(|(_, value)| value.clone()).collect())
            }
            _ => Err(Refused::invalid(format!("{key}: expected a list of texts"))),
        }
    }

    /// Keys and values, as MLflow writes tags.
    fn tags(&self) -> Result<BTreeMap<String, String>, Refused> {
        let wrong = || Refused::invalid("tags: expected a list of keys and values");
        let tag =
            |tag: &Value| Some((tag["key"].as_str()?.to_owned(), tag["value"].as_str().unwrap_or_default().to_owned()));
        match &self.asked.body["tags"] {
            Value::Null => Ok(BTreeMap::new()),
            Value::Array(list) => list.iter().map(tag).collect::<Option<_>>().ok_or_else(wrong),
            _ => Err(wrong()),
        }
    }

    fn model<'b>(&self, book: &'b Book) -> Result<&'b Model, Refused> {
        known_model(book, &self.text("name")?)
    }

    fn version<'b>(&self, book: &'b Book) -> Result<&'b Version, Refused> {
        let (name, text) = (self.text("name")?, self.text("version")?);
        let number =
            text.parse().map_err(|_| Refused::invalid(format!("Model version must be an integer, got '{text}'")))?;
        known_version(book, &name, number)
    }
}

fn model(book: &Book, given: &Given<'_>) -> Result<Reply, Refused> {
    Ok(Reply::Answer(json!({ "registered_model": model_form(book, given.model(book)?) })))
}

fn version(book: &Book, given: &Given<'_>) -> Result<Reply, Refused> {
    Ok(Reply::Answer(json!({ "model_version": version_form(book, given.version(book)?) })))
}

fn alias(book: &Book, given: &Given<'_>) -> Result<Reply, Refused> {
    let (model, alias) = (given.model(book)?, given.text("alias")?);
    let found = model.aliases.get(&alias).and_then(|found| model.version(found.version));
    let version = found.ok_or_else(|| Refused::invalid(format!("Registered model alias {alias} not found.")))?;
    Ok(Reply::Answer(json!({ "model_version": version_form(book, version) })))
}

fn latest(book: &Book, given: &Given<'_>) -> Result<Reply, Refused> {
    let (model, stages) = (given.model(book)?, given.texts("stages")?);
    let latest = forms::latest(book, model);
    let wanted = latest
        .into_iter()
        .filter(|(stage, _)| stages.is_empty() || stages.iter().any(|wanted| wanted.eq_ignore_ascii_case(stage)));
    let forms: Vec<Value> = wanted.map(|(_, version)| version_form(book, version)).collect();
    Ok(Reply::Answer(json!({ "model_versions": forms })))
}

fn create_model(book: &Book, given: &Given<'_>) -> Result<Reply, Refused> {
    let (name, tags) = (given.text("name")?, given.tags()?);
    if book.model(&name).is_some() {
        let message = format!("Registered Model (name={name}) already exists.");
        return Err(Refused::new(400, "RESOURCE_ALREADY_EXISTS", message));
    }
    let made = Wants::Model(ModelSet { description: given.maybe("description")?, ..named(name.clone()) });
    if tags.is_empty() {
        return Ok(orders([made]));
    }
    Ok(orders([made, Wants::Tags(Tagged { model: name, set: tags, ..Tagged::default() })]))
}

fn tag(given: &Given<'_>, version: Option<u64>) -> Result<Reply, Refused> {
    let (model, key) = (given.text("name")?, given.text("key")?);
    let mut tagged = Tagged { model, version, ..Tagged::default() };
    if given.asked.method == "DELETE" {
        tagged.unset.push(key);
    } else {
        tagged.set.insert(key, given.maybe("value")?.unwrap_or_default());
    }
    Ok(orders([Wants::Tags(tagged)]))
}

fn set_alias(book: &Book, given: &Given<'_>) -> Result<Reply, Refused> {
    let (model, alias) = (given.model(book)?.name.clone(), given.text("alias")?);
    let version = match given.asked.method {
        "DELETE" => None,
        _ => Some(given.version(book)?.number),
    };
    Ok(orders([Wants::Alias(Aliased { model, alias, version })]))
}

/// A version of bytes that are here already. MLflow names a place from which nothing is read: whoever has bytes pushes them.
fn create_version(book: &Book, given: &Given<'_>) -> Result<Reply, Refused> {
    let (model, source) = (given.model(book)?.name.clone(), given.text("source")?);
    let known = source
        .strip_prefix("models:/")
        .and_then(|rest| rest.rsplit_once('/'))
        .and_then(|(name, number)| book.model(name)?.version(number.parse().ok()?));
    let Some(known) = known else {
        return Err(Refused::instead(format!(
            "{source:?} is not read from here: expected models:/NAME/VERSION of this registry. Bytes come with: tiltyard push {model} \
             FILE, or tiltyard import mlflow {model} models:/NAME@ALIAS from a tracking server"
        )));
    };
    let mut tags = known.tags.clone();
    tags.extend(given.tags()?);
    let content = Content {
        artifact: known.artifact,
        files: known.files.clone(),
        signature: known.signature.clone(),
        description: given.maybe("description")?.unwrap_or_default(),
        text: known.text.clone(),
        tags,
        metrics: known.metrics.iter().map(|measured| measured.metric.clone()).collect(),
        lock: known.lock.clone(),
        baseline: known.baseline.clone(),
        signed: known.signed.clone(),
        lineage: known.lineage.clone(),
        source: Source::Imported { system: "mlflow".into(), uri: source },
    };
    Ok(orders([Wants::Push(Push { model, content: Box::new(content), number_min: 0 })]))
}

#[cfg(test)]
mod tests;
