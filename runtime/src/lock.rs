//! What must be the same wherever a version runs, so that it answers the same?
//!
//! A version that was pushed was loaded once before it was taken in. What ran it then is its lock: every replica runs it with
//! the same engine, build, provider, threads and batches, or not at all. What `auto` would choose elsewhere does not matter.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tiltyard_types::Digest;

use crate::deployment::Deployment;
use crate::engine::Engine;
use crate::repository::settings::Settings;

/// What runs a version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    /// The engine, such as `onnxruntime`.
    pub engine: String,
    /// Its version, as the engine tells it.
    pub build: String,
    /// The execution provider.
    pub provider: String,
    /// Threads of one run.
    pub threads: usize,
    /// Rows of one run at most.
    pub rows_max: usize,
    /// The version of the operators that the file is written in, where it says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opset: Option<i64>,
}

/// Who knows locks: by model, version, and the artifact that must be meant.
pub type Locks = dyn Fn(&str, u64, &Digest) -> Option<Lock> + Send + Sync;

/// Knows none.
pub fn nobody() -> Arc<Locks> {
    Arc::new(|_, _, _| None)
}

impl Lock {
    /// What runs a deployment.
    pub fn of(deployment: &Deployment) -> Lock {
        let identity = &deployment.identity;
        Lock {
            engine: identity.engine.to_owned(),
            build: identity.build.version.clone(),
            provider: identity.provider.clone(),
            threads: deployment.settings.threads.unwrap_or(1),
            rows_max: deployment.rows_max(),
            opset: deployment.graph.opsets.iter().find(|(domain, _)| domain == "ai.onnx").map(|(_, version)| *version),
        }
    }

    /// Has a version be run as it says. Fails, in words, where that engine or that build of it is not at hand.
    pub(crate) fn hold(&self, settings: &mut Settings, engines: &[Arc<dyn Engine>]) -> Result<(), String> {
        let Some(engine) = engines.iter().find(|engine| engine.name() == self.engine) else {
            let known = engines.iter().map(|engine| engine.name()).collect::<Vec<_>>().join(", ");
            return Err(format!("it is locked to {self}, and there is {known}: install that engine here"));
        };
        let here = engine.build().version;
        if here != self.build {
            return Err(format!(
                "it is locked to {self}, and here is {} {here}: install that build, or lock it anew with what is here",
                self.engine
            ));
        }
        settings.engines = vec![self.engine.clone()];
        settings.providers = vec![self.provider.clone()];
        settings.threads = Some(self.threads);
        settings.batching.lock_rows(self.rows_max);
        Ok(())
    }
}

impl fmt::Display for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Lock { engine, build, provider, threads, rows_max, .. } = self;
        write!(f, "{engine} {build} on {provider}, {threads} threads, {rows_max} rows")
    }
}
