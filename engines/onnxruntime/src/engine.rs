//! How is the library opened, once per process, and what is known of it?

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use ort::environment::Environment;
use ort::logging::LogLevel;
use tiltyard_runtime::engine::{CompileOptions, CompiledModel, Engine, EngineBuild, EngineError, ModelFile};

use crate::compile;
use crate::library;
use crate::locate;
use crate::provider::Provider;
use crate::shared_run;
use crate::version::Version;

/// ONNX Runtime, loaded. Cheap to clone; the library stays loaded until the process ends.
#[derive(Clone, Debug)]
pub struct OrtEngine {
    environment: Environment,
    build: EngineBuild,
    rehearsal: Option<Rehearsal>,
}

/// What of a device's way to run a model is done on the processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rehearsal {
    /// One run at a time for each session, through memory that a device would read and write by itself.
    Staging,
    /// Runs at fixed addresses on a thread of their own, as graphs are replayed.
    Graphs,
}

/// Why a library could not be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// The file is not there or cannot be read.
    #[error("ONNX Runtime's library {path}: {reason}")]
    Missing {
        /// The path as it was given.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// The file is not a library for this machine, or another one.
    #[error("{path} cannot be used as ONNX Runtime: {reason}")]
    NotUsable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The functions called here are not all in it.
    #[error("{}", locate::too_old(.version, .path))]
    TooOld {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: String,
    },
    /// A process can hold only one.
    #[error("this process has loaded ONNX Runtime from {loaded} and cannot load {asked} as well")]
    AlreadyLoaded {
        /// The library in use.
        loaded: PathBuf,
        /// The one that was asked for.
        asked: PathBuf,
    },
    /// The library was loaded, but would not start.
    #[error("ONNX Runtime at {path} would not start: {reason}")]
    Start {
        /// The file.
        path: PathBuf,
        /// What it said.
        reason: String,
    },
}

/// What this process has loaded. The path is set first: from then on no other library can be loaded.
struct Process {
    library: Option<PathBuf>,
    engine: Option<OrtEngine>,
}

static PROCESS: Mutex<Process> = Mutex::new(Process { library: None, engine: None });

impl OrtEngine {
    /// Loads the library at `path` and starts it with its telemetry off. A second call for the same file gives the
    /// same engine; one for another file fails.
    ///
    /// Blocks for tens of milliseconds. Sets `ORT_DISABLE_TELEMETRY` in the environment of this process unless it is
    /// set already.
    pub fn load(path: &Path) -> Result<OrtEngine, LoadError> {
        let missing = |error: std::io::Error| LoadError::Missing { path: path.into(), reason: error.to_string() };
        let path = std::fs::canonicalize(path).map_err(missing)?;
        let mut process = PROCESS.lock().unwrap_or_else(PoisonError::into_inner);
        match (&process.library, &process.engine) {
            (Some(loaded), _) if *loaded != path => {
                return Err(LoadError::AlreadyLoaded { loaded: loaded.clone(), asked: path });
            }
            (_, Some(engine)) => return Ok(engine.clone()),
            _ => {}
        }
        library::silence_telemetry();
        let unusable = |reason: String| LoadError::NotUsable { path: path.clone(), reason };
        // Held until `ort` has it too, so that a library in use is never unloaded in between.
        let opened = library::open(&path).map_err(|error| unusable(error.to_string()))?;
        let version = opened.version.clone();
        if !version.parse::<Version>().is_ok_and(Version::is_usable) {
            return Err(LoadError::TooOld { path, version });
        }
        let builder = ort::init_from(&path).map_err(|error| unusable(error.to_string()))?;
        process.library = Some(path.clone());
        let engine = start(builder, path, version)?;
        tracing::info!(version = engine.build.version, library = ?engine.build.library, "ONNX Runtime loaded");
        process.engine = Some(engine.clone());
        Ok(engine)
    }

    /// This engine, treating the processor as a device would be: for tests, which find out here what can be found out
    /// without one.
    pub fn rehearsing(&self, rehearsal: Rehearsal) -> OrtEngine {
        OrtEngine { rehearsal: Some(rehearsal), ..self.clone() }
    }
}

/// Makes the process's environment.
fn start(
    builder: ort::environment::EnvironmentBuilder,
    path: PathBuf,
    version: String,
) -> Result<OrtEngine, LoadError> {
    let failed = |error: ort::Error| LoadError::Start { path: path.clone(), reason: error.to_string() };
    let environment = builder
        .with_name("tiltyard")
        .with_telemetry(false)
        .with_logger(Arc::new(|level, category, _id, location, message| log(level, category, location, message)))
        .build()
        .map_err(failed)?;
    environment.set_log_level(LogLevel::Warning);
    let providers = Provider::usable(&shared_run::available_providers().map_err(failed)?);
    let build = EngineBuild { version, library: Some(path), providers };
    Ok(OrtEngine { environment, build, rehearsal: None })
}

/// Passes the library's messages on. What it calls an error is also returned to whoever called, who decides how
/// grave it is, so that here it is a warning.
fn log(level: LogLevel, category: &str, location: &str, message: &str) {
    match level {
        LogLevel::Fatal => tracing::error!(target: "onnxruntime", category, location, "{message}"),
        LogLevel::Error | LogLevel::Warning => tracing::warn!(target: "onnxruntime", category, location, "{message}"),
        LogLevel::Info | LogLevel::Verbose => tracing::trace!(target: "onnxruntime", category, location, "{message}"),
    }
}

impl Engine for OrtEngine {
    fn name(&self) -> &'static str {
        "onnxruntime"
    }

    fn build(&self) -> EngineBuild {
        self.build.clone()
    }

    fn compile(&self, model: &ModelFile, options: &CompileOptions) -> Result<Box<dyn CompiledModel>, EngineError> {
        compile::compile(&self.environment, &self.build, self.rehearsal, model, options)
    }
}
