//! What does a tracking server of MLflow's say about a model, and where on it do its files lie?
//!
//! Every question is a GET of its REST interface, version 2.0, through [`Fetch`]. Files are read through the server, whatever store
//! it keeps them in, so that nobody needs that store's credentials here. What it answers is read within bounds: who asks a server does
//! not have to trust it with more than the model.

use std::collections::BTreeMap;
use std::io::Write;

use serde_json::Value;

use super::{Error, Result};

mod answers;
mod reference;

pub use answers::{Dataset, Run, Version};
pub use reference::Reference;

/// Bytes of an answer in JSON, at most.
const JSON_BYTES_MAX: u64 = 16 << 20;

/// Pages of a list that are asked for, at most, of 200 entries each.
const PAGES_MAX: usize = 50;

/// Gets something from the tracking server.
pub trait Fetch {
    /// Gets `path`, which begins with `/` and has its query already encoded, writes the body into `into` and gives the status. More than
    /// `bytes_max` bytes, and whatever keeps an answer from coming, is an error in words.
    fn get(&mut self, path: &str, bytes_max: u64, into: &mut dyn Write) -> Result<u16, String>;
}

/// Who we are to the server, in the variables that MLflow's own clients read.
pub fn authorization(variable: impl Fn(&str) -> Option<String>) -> Option<String> {
    use base64::Engine as _;
    let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
    // MLflow takes the token only where there is no user.
    if let Some(user) = variable("MLFLOW_TRACKING_USERNAME") {
        let password = variable("MLFLOW_TRACKING_PASSWORD").unwrap_or_default();
        return Some(format!("Basic {}", base64::prelude::BASE64_STANDARD.encode(format!("{user}:{password}"))));
    }
    variable("MLFLOW_TRACKING_TOKEN").map(|token| format!("Bearer {token}"))
}

/// Where a model's files lie on the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Below a path of the store that it hands through.
    Proxied(String),
    /// Those of a registered version, in a store that it reads itself.
    Version {
        /// The registered model.
        name: String,
        /// Its version.
        version: u64,
    },
    /// Below a path among a run's artifacts.
    Run {
        /// The run.
        run: String,
        /// The folder.
        path: String,
    },
    /// Those of a logged model, from MLflow 3 on.
    Logged(String),
}

impl Place {
    /// The path at which the server has that file.
    fn of(&self, file: &str) -> String {
        match self {
            Place::Proxied(folder) => {
                let parts = folder.split('/').chain(file.split('/')).filter(|part| !part.is_empty()).map(encoded);
                format!("/api/2.0/mlflow-artifacts/artifacts/{}", parts.collect::<Vec<_>>().join("/"))
            }
            Place::Version { name, version } => query(
                "/model-versions/get-artifact",
                &[("name", name), ("version", &version.to_string()), ("path", file)],
            ),
            Place::Run { run, path } => query("/get-artifact", &[("run_id", run), ("path", &format!("{path}/{file}"))]),
            Place::Logged(id) => query(
                &format!("/ajax-api/2.0/mlflow/logged-models/{}/artifacts/files", encoded(id)),
                &[("artifact_file_path", file)],
            ),
        }
    }

    /// The place that a URI names, where it is one that the server hands through.
    fn proxied(uri: &str) -> Option<Place> {
        let rest = uri.strip_prefix("mlflow-artifacts:")?;
        // With a host it is still this server that we ask.
        let path = match rest.strip_prefix("//") {
            Some(rest) => rest.split_once('/').map_or("", |(_, path)| path),
            None => rest,
        };
        let path = super::folder::plain_path(path.trim_matches('/')).ok()?;
        Some(Place::Proxied(path))
    }
}

/// A model that was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The registered version, where it is one.
    pub version: Option<Version>,
    /// The run that made it, where that is known.
    pub run_id: Option<String>,
    /// Where its files lie.
    pub place: Place,
}

/// A tracking server.
pub struct Tracking<'a, F: ?Sized> {
    fetch: &'a mut F,
}

impl<'a, F: Fetch + ?Sized> Tracking<'a, F> {
    /// The server that `fetch` reaches.
    pub fn new(fetch: &'a mut F) -> Tracking<'a, F> {
        Tracking { fetch }
    }

    /// Finds what a reference names.
    pub fn find(&mut self, reference: &Reference) -> Result<Found> {
        let version = match reference {
            Reference::Version { name, version } => self.version(name, *version)?,
            Reference::Alias { name, alias } => match self.alias(name, alias)? {
                Some(version) => version,
                None => {
                    return Err(Error::Missing(format!(
                        "the model {name:?} has no alias {alias:?} on the tracking server"
                    )));
                }
            },
            Reference::Logged(id) => return self.logged(id),
            Reference::Run { run, path } => return self.of_run(run, path),
        };
        if version.status != "READY" {
            return Err(Error::Missing(format!(
                "version {} of {:?} is {} on the tracking server: expected READY",
                version.version, version.name, version.status
            )));
        }
        let (name, number) = (version.name.clone(), version.version);
        let path = "/api/2.0/mlflow/model-versions/get-download-uri";
        let answer = self.json(&query(path, &[("name", &name), ("version", &number.to_string())]))?;
        let uri = answers::text(&answer, "artifact_uri")?;
        let place = Place::proxied(&uri).unwrap_or(Place::Version { name, version: number });
        Ok(Found { run_id: version.run_id.clone(), version: Some(version), place })
    }

    /// One version of a registered model.
    pub fn version(&mut self, name: &str, version: u64) -> Result<Version> {
        let path = query("/api/2.0/mlflow/model-versions/get", &[("name", name), ("version", &version.to_string())]);
        answers::version(&self.json(&path)?["model_version"])
    }

    /// The version that an alias points to; `None` where the model is there and the alias is not.
    pub fn alias(&mut self, name: &str, alias: &str) -> Result<Option<Version>> {
        let path = query("/api/2.0/mlflow/registered-models/alias", &[("name", name), ("alias", alias)]);
        match self.json(&path) {
            Ok(answer) => answers::version(&answer["model_version"]).map(Some),
            // What MLflow says of an alias that is not there, and what others say.
            Err(Error::Refused { code, message, .. })
                if message.to_lowercase().contains("alias")
                    && matches!(code.as_str(), "INVALID_PARAMETER_VALUE" | "RESOURCE_DOES_NOT_EXIST") =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// All versions of a registered model, by number.
    pub fn versions(&mut self, name: &str) -> Result<Vec<Version>> {
        if name.contains('\'') && name.contains('"') {
            return Err(Error::Unfit(format!("{name:?} has both kinds of quotes, which MLflow's search cannot name")));
        }
        let quote = if name.contains('\'') { '"' } else { '\'' };
        let filter = format!("name={quote}{name}{quote}");
        let (mut found, mut token) = (Vec::new(), String::new());
        for _ in 0..PAGES_MAX {
            let given = [("filter", filter.as_str()), ("max_results", "200"), ("page_token", token.as_str())];
            let asked = if token.is_empty() { &given[..2] } else { &given[..] };
            let answer = self.json(&query("/api/2.0/mlflow/model-versions/search", asked))?;
            for version in answers::list(&answer, "model_versions")? {
                found.push(answers::version(version)?);
            }
            token = answer["next_page_token"].as_str().unwrap_or_default().to_owned();
            if token.is_empty() {
                found.sort_by_key(|version| version.version);
                return Ok(found);
            }
        }
        Err(Error::Answer(format!("the list of versions of {name:?} has more than {PAGES_MAX} pages")))
    }

    /// What a run measured, and with what.
    pub fn run(&mut self, run: &str) -> Result<Run> {
        let answer = self.json(&query("/api/2.0/mlflow/runs/get", &[("run_id", run)]))?;
        answers::run(&answer["run"])
    }

    /// Writes one of the model's files into `into`.
    pub fn read(&mut self, place: &Place, file: &str, bytes_max: u64, into: &mut dyn Write) -> Result<()> {
        let file = super::folder::plain_path(file).map_err(Error::Unfit)?;
        let path = place.of(&file);
        // What a refusal says comes the same way, so it must not reach the file.
        let mut body = Kept { into, kept: Vec::new() };
        match self
            .fetch
            .get(&path, bytes_max, &mut body)
            .map_err(|why| Error::Unreachable { path: path.clone(), why })?
        {
            200 => Ok(()),
            404 => Err(Error::Missing(format!("the tracking server has no file {file:?} with this model"))),
            status => Err(refused(status, &body.kept)),
        }
    }

    /// The text of `MLmodel`.
    pub fn mlmodel(&mut self, place: &Place) -> Result<String> {
        let mut text = Vec::new();
        self.read(place, super::folder::MLMODEL, super::yaml::BYTES_MAX as u64, &mut text)?;
        String::from_utf8(text).map_err(|_| Error::Malformed("expected text in UTF-8".into()))
    }

    fn logged(&mut self, id: &str) -> Result<Found> {
        let answer = self.json(&format!("/api/2.0/mlflow/logged-models/{}", encoded(id)))?;
        let info = &answer["model"]["info"];
        let place = info["artifact_uri"].as_str().and_then(Place::proxied);
        let run_id = info["source_run_id"].as_str().filter(|run| !run.is_empty()).map(str::to_owned);
        Ok(Found { version: None, run_id, place: place.unwrap_or_else(|| Place::Logged(id.to_owned())) })
    }

    /// From MLflow 3 on, what a run logged as a model is not among its artifacts: it names a model that lies elsewhere.
    fn of_run(&mut self, run: &str, path: &str) -> Result<Found> {
        let answer = self.json(&query("/api/2.0/mlflow/runs/get", &[("run_id", run)]))?;
        let run_id = Some(run.to_owned());
        for output in answers::list(&answer["run"]["outputs"], "model_outputs")?.iter().take(64) {
            let Some(id) = output["model_id"].as_str() else { continue };
            let model = self.json(&format!("/api/2.0/mlflow/logged-models/{}", encoded(id)))?;
            if model["model"]["info"]["name"].as_str() == Some(path) {
                return Ok(Found { run_id, ..self.logged(id)? });
            }
        }
        let place = match answer["run"]["info"]["artifact_uri"].as_str().and_then(Place::proxied) {
            Some(Place::Proxied(root)) => Place::Proxied(format!("{root}/{path}")),
            _ => Place::Run { run: run.to_owned(), path: path.to_owned() },
        };
        Ok(Found { version: None, run_id, place })
    }

    fn json(&mut self, path: &str) -> Result<Value> {
        let mut body = Vec::new();
        let status = self.fetch.get(path, JSON_BYTES_MAX, &mut body);
        match status.map_err(|why| Error::Unreachable { path: path.to_owned(), why })? {
            200 => serde_json::from_slice(&body).map_err(|error| Error::Answer(format!("{path}: {error}"))),
            status => Err(refused(status, &body)),
        }
    }
}

/// Passes on what it is given, and keeps the beginning.
struct Kept<'a> {
    into: &'a mut dyn Write,
    kept: Vec<u8>,
}

impl Write for Kept<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        const KEPT_MAX: usize = 4096;
        let written = self.into.write(bytes)?;
        let room = KEPT_MAX - self.kept.len();
        self.kept.extend_from_slice(&bytes[..written.min(room)]);
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.into.flush()
    }
}

fn refused(status: u16, body: &[u8]) -> Error {
    let answer: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |key: &str| answer[key].as_str().unwrap_or_default().chars().take(500).collect::<String>();
    Error::Refused { status, code: text("error_code"), message: text("message") }
}

fn query(path: &str, given: &[(&str, &str)]) -> String {
    let given = given.iter().map(|(key, value)| format!("{key}={}", encoded(value)));
    format!("{path}?{}", given.collect::<Vec<_>>().join("&"))
}

/// Text as one part of a path or query.
fn encoded(text: impl AsRef<str>) -> String {
    let mut encoded = String::new();
    for byte in text.as_ref().bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => encoded.push(char::from(byte)),
            other => encoded.push_str(&format!("%{other:02X}")),
        }
    }
    encoded
}

/// Text by key, as MLflow's lists of tags come to it.
type Texts = BTreeMap<String, String>;

#[cfg(test)]
mod tests;
