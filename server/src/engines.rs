//! Which engines can this process use? The one list of them.

use std::sync::Arc;

use tiltyard_onnxruntime::OrtEngine;
use tiltyard_onnxruntime::locate::{Places, locate};
use tiltyard_runtime::engine::Engine;

use crate::config::Config;

/// Every engine there is, in the order in which `auto` prefers them: classical first, which takes graphs of trees, linear
/// models and their preprocessing and nothing else; then ONNX Runtime, since it answers as the models' authors saw it and is
/// faster on most large models.
pub const NAMES: [&str; 3] = ["classical", "onnxruntime", "tract"];

/// The engines at hand, and why others are not.
pub struct Engines {
    /// In order of preference.
    pub found: Vec<Arc<dyn Engine>>,
    /// Names of engines that were looked for in vain, each with the reason.
    pub missing: Vec<(&'static str, String)>,
}

/// Finds the engines that the configuration allows. An engine that is named there and unknown is an error.
pub fn find(config: &Config) -> Result<Engines, String> {
    let allowed = &config.engines;
    if let Some(unknown) = allowed.iter().find(|name| !NAMES.contains(&name.as_str())) {
        return Err(format!("unknown engine {unknown:?}: expected auto, or some of {}", NAMES.join(", ")));
    }
    let mut order: Vec<&'static str> =
        NAMES.into_iter().filter(|name| allowed.is_empty() || allowed.iter().any(|other| other == name)).collect();
    order.sort_by_key(|name| allowed.iter().position(|other| other == name));
    let mut engines = Engines { found: Vec::new(), missing: Vec::new() };
    for name in order {
        let engine: Result<Arc<dyn Engine>, String> = match name {
            "classical" => Ok(Arc::new(tiltyard_classical::engine())),
            "onnxruntime" => onnxruntime(config),
            _ => Ok(Arc::new(tiltyard_tract::engine())),
        };
        match engine {
            Ok(engine) => engines.found.push(engine),
            Err(reason) => engines.missing.push((name, reason)),
        }
    }
    Ok(engines)
}

fn onnxruntime(config: &Config) -> Result<Arc<dyn Engine>, String> {
    let search = locate(&Places::of_process(config.ort_lib.clone(), Some(config.data_dir.clone())));
    let Some(found) = search.found() else { return Err(search.advice()) };
    OrtEngine::load(&found.path).map(|engine| Arc::new(engine) as Arc<dyn Engine>).map_err(|error| error.to_string())
}
