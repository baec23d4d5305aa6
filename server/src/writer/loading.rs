//! What do loader threads do, and what is known of a version beyond the catalog?

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use tiltyard_runtime::deployment::{Deployment, Padding};
use tiltyard_runtime::load::{LoadError, Loader};
use tiltyard_runtime::repository::FoundVersion;
use tiltyard_runtime::repository::listing::Fingerprint;
use tiltyard_runtime::repository::rest::Rest;
use tiltyard_types::{Digest, Moment};

use super::Command;
use crate::states::States;

/// How long files may keep changing before that is told.
const CHANGING_TOLD: Duration = Duration::from_secs(30);

/// What became of a load.
pub(super) struct LoadedVersion {
    pub(super) model: String,
    pub(super) number: u64,
    pub(super) fingerprint: Fingerprint,
    /// Nothing where the files are those that are served.
    pub(super) result: Result<Option<Arc<Deployment>>, LoadError>,
}

/// What a loader is asked for.
pub(super) struct LoadJob {
    pub(super) model: String,
    pub(super) number: u64,
    pub(super) found: FoundVersion,
    /// The artifact that is served under this number.
    pub(super) served: Option<Digest>,
    /// Whether there is traffic to give way to.
    pub(super) traffic: bool,
}

/// A loader thread's life: takes jobs until nobody can give any more. The work itself gives way to those who serve.
pub(super) fn load_versions(jobs: &Receiver<LoadJob>, loader: &Loader, states: &States, results: &Sender<Command>) {
    while let Ok(LoadJob { model, number, found, served, traffic }) = jobs.recv() {
        let fingerprint = found.fingerprint.clone();
        let progress = |stage| states.note_stage(&model, number, stage);
        let load = || loader.load_beside(&model, number, &found, served, traffic, &progress);
        let result = catch_unwind(AssertUnwindSafe(load)).unwrap_or_else(|_| {
            Err(LoadError { reason: "the engine panicked while it loaded".into(), incomplete: false })
        });
        if results.send(Command::Loaded(Box::new(LoadedVersion { model, number, fingerprint, result }))).is_err() {
            return;
        }
    }
}

/// What is known of a version beyond the catalog.
#[derive(Default)]
pub(super) struct Tracked {
    /// The files as they were at the last looks.
    pub(super) rest: Rest,
    /// The files as they were when it was last loaded or failed.
    pub(super) tried: Option<Fingerprint>,
    /// Whether a loader has it.
    pub(super) loading: bool,
    /// What became of new bytes that were refused while the old ones go on serving.
    pub(super) trouble: Option<String>,
    /// Whether it was refused for the sake of another version's clients.
    pub(super) incompatible: bool,
    /// Since when its files have not been at rest, so that it will be looked at again.
    pub(super) unsettled: Option<Moment>,
    /// Whether it was told that they keep changing.
    pub(super) changing_told: bool,
}

impl Tracked {
    /// Notes that its files are not at rest, and says so once where that goes on.
    pub(super) fn note_unrest(&mut self, model: &str, version: u64, now: Moment) {
        let since = *self.unsettled.get_or_insert(now);
        if !self.changing_told && now - since >= CHANGING_TOLD {
            self.changing_told = true;
            let change = self.rest.last_change();
            tracing::warn!(model, version, change, "its files keep changing: it is loaded when they rest");
        }
    }
}

/// Tells of a version that is ready, and of what its operator should know.
pub(super) fn announce(name: &str, number: u64, old: Option<&Deployment>, new: &Deployment) {
    let identity = &new.identity;
    tracing::info!(
        model = name,
        version = number,
        engine = identity.engine,
        digest = identity.digest.short(),
        load_time = format!("{:.0?}", identity.load_time),
        "ready"
    );
    if let Some(old) = old {
        let (old, new) = (old.identity.artifact.short(), identity.artifact.short());
        tracing::warn!(model = name, version = number, old, new, "new bytes under an old version number");
    }
    if let Padding::Unproved(reason) = &new.padding {
        tracing::warn!(model = name, version = number, reason, "requests of different lengths are not batched");
    }
    for field in &new.settings.ignored {
        tracing::warn!(model = name, field, "config.pbtxt has a field that is not acted on");
    }
}
