//! How is a model opened with ONNX Runtime, for one thread and with nothing around it?

use std::path::{Path, PathBuf};

use ort::environment::Environment;
use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;

/// The library that was asked for, else that of `ORT_DYLIB_PATH`, else that in the virtual environment. Fails where there is none.
pub fn find_library(asked: Option<&PathBuf>) -> Result<PathBuf, String> {
    if let Some(path) = asked {
        return Ok(path.clone());
    }
    if let Some(path) = std::env::var_os("ORT_DYLIB_PATH").filter(|path| !path.is_empty()) {
        return Ok(path.into());
    }
    let missing = "ONNX Runtime's library is not found: give --ort-lib, or activate an environment with onnxruntime";
    let environment = std::env::var_os("VIRTUAL_ENV").ok_or(missing)?;
    let pythons = std::fs::read_dir(Path::new(&environment).join("lib")).map_err(|error| error.to_string())?;
    let folders = pythons.flatten().map(|python| python.path().join("site-packages/onnxruntime/capi"));
    let files = folders.filter_map(|folder| std::fs::read_dir(folder).ok()).flatten().flatten();
    let is_library = |name: &str| name == "libonnxruntime.so" || name.starts_with("libonnxruntime.so.");
    let found = files
        .map(|file| file.path())
        .find(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(is_library));
    found.ok_or_else(|| missing.into())
}

/// Opens a model with all optimisations, one thread for a run, and no spinning. Fails with the file's name.
pub fn session(environment: &Environment, file: &Path) -> Result<Session, String> {
    // An error of the builder holds the builder, which cannot be sent to other threads: its text can.
    let session = || -> Result<Session, ort::Error> {
        Session::builder(environment)?
            .with_optimization_level(GraphOptimizationLevel::All)?
            .with_intra_threads(1)?
            .with_inter_threads(1)?
            .with_intra_op_spinning(false)?
            .commit_from_file(file)
    };
    session().map_err(|error| format!("{}: {error}", file.display()))
}
