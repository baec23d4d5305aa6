//! How is a repository served?

use std::path::PathBuf;
use std::time::Duration;

use crossbeam_channel::Receiver;
use tiltyard_runtime::repository::policy::VersionPolicy;

use crate::config::{Config, ModelControl, OnFailure};

/// How the repository is served.
pub struct Plan {
    /// The folder or file with the models.
    pub root: PathBuf,
    /// The folder with the versions that came into the registry, where there is one.
    pub pushed: Option<PathBuf>,
    /// Whether those wait for a plan; else they are as all others.
    pub pushed_waits: bool,
    /// Tells when there is something to look at, where it has to come first.
    pub begin: Option<Receiver<()>>,
    /// Who decides what is loaded.
    pub control: ModelControl,
    /// Under explicit control: what to load at the start; `*` for all.
    pub load_models: Vec<String>,
    /// How files are followed.
    pub following: Following,
    /// Who answers for a version that is out of service.
    pub on_failure: OnFailure,
    /// Threads that load.
    pub loader_threads: usize,
}

/// How files are followed, which may change while they are.
#[derive(Clone, Debug)]
pub struct Following {
    /// Which versions, where the model does not say.
    pub policy: VersionPolicy,
    /// Whether new bytes under an old number are refused.
    pub strict: bool,
    /// How often the folder is looked at.
    pub poll_interval: Duration,
    /// How long files must not have changed before they are read, and be gone before their version leaves.
    pub settle_time: Duration,
}

impl Following {
    /// As the settings say.
    pub fn of(config: &Config) -> Following {
        Following {
            policy: config.version_policy.clone(),
            strict: config.strict,
            poll_interval: config.poll_interval,
            settle_time: config.settle_time,
        }
    }
}
