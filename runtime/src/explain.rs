//! How is a version made ready to explain its answers, and when is that paid for?
//!
//! At the first question: until then a deployment only remembers where its files lay and what they were. They are read again
//! then, and must be what they were, byte for byte. What was made of them is kept until the deployment goes.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use tiltyard_types::{Digest, Error, ErrorKind, Result, Tensor};

use crate::artifact::{Files, Reading};
use crate::deployment::Deployment;
use crate::engine::{Engine, EngineError, Explainer, ModelFile};
use crate::onnx::Graph;
use crate::sync::Mutex;

/// Rows that stand for what is usual, in a version's folder or, for all its versions, in the model's.
pub const BACKGROUND_FILE: &str = "explain/background.json";

/// A larger background is refused when its version is loaded.
const BACKGROUND_BYTES_MAX: u64 = 16 << 20;

/// Rows that a background may have: each explained row is compared with all of them.
const BACKGROUND_ROWS_MAX: usize = 1000;

/// Where the files lay of which explanations are made, and what they were.
#[derive(Clone, Debug, Default)]
pub struct Source {
    files: Files,
    /// By the name in the artifact's digest.
    model: String,
    /// What the graph names beside itself, by the name that it has there, with the name in the artifact's digest.
    external: BTreeMap<String, String>,
    background: Option<String>,
    digests: BTreeMap<String, Digest>,
}

impl Source {
    /// Of a version whose model and weights were read: the file of the graph `model`, and `external` by the names that the
    /// graph gives them. Reads the background, where there is one. Fails where that is too large.
    pub(crate) fn new(
        reading: &mut Reading<'_>,
        files: &Files,
        model: (&str, &Path),
        external: BTreeMap<String, (String, PathBuf)>,
    ) -> Result<Source, String> {
        let mut source = Source { model: model.0.to_owned(), files: files.none(), ..Source::default() };
        source.files.add(model.0, model.1.to_owned());
        for (location, (name, path)) in external {
            source.files.add(name.clone(), path);
            source.external.insert(location, name);
        }
        let own = [BACKGROUND_FILE.to_owned(), format!("../{BACKGROUND_FILE}")];
        if let Some((name, path)) = own.into_iter().find_map(|name| files.place(&name).map(|path| (name, path))) {
            let told = |error: io::Error| format!("{name}: {error}");
            let size = std::fs::metadata(path).map_err(told)?.len();
            if size > BACKGROUND_BYTES_MAX {
                return Err(format!("{name}: {size} bytes; at most {BACKGROUND_BYTES_MAX} are read"));
            }
            reading.take(&name).transpose().map_err(|error| format!("{name}: {error}"))?;
            source.files.add(name.clone(), path.to_owned());
            source.background = Some(name);
        }
        for (name, _) in source.files.iter() {
            source.digests.extend(reading.digest(name).map(|digest| (name.to_owned(), digest)));
        }
        Ok(source)
    }

    /// Reads everything again. Fails where it is not what it was.
    fn read(&self, graph: &Graph) -> Result<(ModelFile, Option<Bytes>)> {
        let mut reading = Reading::new(&self.files);
        let mut read = |name: &str| -> Result<(PathBuf, Arc<[u8]>)> {
            let gone = |why: String| {
                Error::new(
                    ErrorKind::NotReady,
                    format!(
                        "{name} is not what it was when the version was loaded: {why}; explanations need the same file"
                    ),
                )
            };
            let path = self.files.place(name).ok_or_else(|| gone("it is gone".into()))?;
            let bytes = reading.take_shared(name, path).map_err(|error| gone(error.to_string()))?;
            match reading.digest(name) == self.digests.get(name).copied() {
                true => Ok((path.to_owned(), bytes)),
                false => Err(gone("its content changed".into())),
            }
        };
        let (path, bytes) = read(&self.model)?;
        let mut external = BTreeMap::new();
        for (location, name) in &self.external {
            external.insert(location.clone(), read(name)?.1);
        }
        let background = self.background.as_deref().map(&mut read).transpose()?;
        let file = ModelFile { path, bytes: Bytes::from_owner(bytes), external, graph: graph.clone() };
        Ok((file, background.map(|(_, bytes)| Bytes::from_owner(bytes))))
    }
}

/// What a deployment needs to explain its answers.
pub(crate) struct Explaining {
    engine: Arc<dyn Engine>,
    source: Source,
    /// What was made at the first question, or why nothing could be.
    made: Mutex<Option<Result<Arc<dyn Explainer>>>>,
}

impl Explaining {
    pub(crate) fn new(engine: Arc<dyn Engine>, source: Source) -> Explaining {
        Explaining { engine, source, made: Mutex::new(None) }
    }
}

impl Deployment {
    /// What explains its answers. The first call reads the version's files again and takes about as long as a compilation, and
    /// others wait for it meanwhile: never called on a thread that serves requests. `background` reads the rows of
    /// [`BACKGROUND_FILE`] into tensors in the order of the signature.
    ///
    /// Fails where the engine cannot explain the model, with what would help; and where the files are not there any more.
    pub fn explainer(
        &self,
        background: impl FnOnce(&[u8]) -> Result<Vec<Option<Tensor>>>,
    ) -> Result<Arc<dyn Explainer>> {
        let Some(explaining) = &self.explaining else {
            return Err(Error::unsupported("this version does not explain its answers"));
        };
        let mut made = explaining.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(made) = &*made {
            return made.clone();
        }
        let result = self.make(explaining, background);
        // A file that is being replaced may be back in a moment; all else stays as it is.
        if result.as_ref().err().is_none_or(|error| error.kind() != ErrorKind::NotReady) {
            *made = Some(result.clone());
        }
        result
    }

    fn make(
        &self,
        explaining: &Explaining,
        background: impl FnOnce(&[u8]) -> Result<Vec<Option<Tensor>>>,
    ) -> Result<Arc<dyn Explainer>> {
        let (file, rows) = explaining.source.read(&self.graph)?;
        let wrong = |what: String| Error::unsupported(format!("{BACKGROUND_FILE}: {what}"));
        let rows = match rows {
            None => None,
            Some(text) => {
                let inputs = background(&text).map_err(|error| wrong(error.message().to_owned()))?;
                let rows = inputs.iter().flatten().filter_map(|tensor| tensor.shape().rows()).max().unwrap_or(0);
                if !(1..=BACKGROUND_ROWS_MAX).contains(&rows) {
                    return Err(wrong(format!("{rows} rows, 1 to {BACKGROUND_ROWS_MAX} are taken")));
                }
                Some(inputs)
            }
        };
        let engine = explaining.engine.as_ref();
        let told = |error: EngineError| {
            let (engine, model, version) = (engine.name(), &self.identity.model, self.identity.version);
            let kind = match error {
                EngineError::Unsupported(_) => ErrorKind::Unsupported,
                _ => ErrorKind::Engine,
            };
            Error::new(
                kind,
                format!("version {version} of {model:?}, which runs on {engine}, is not explained: {error}"),
            )
        };
        engine.explainer(&file, rows.as_deref()).map(Arc::from).map_err(told)
    }
}
