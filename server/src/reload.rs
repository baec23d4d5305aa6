//! What happens when the settings are read anew?
//!
//! All of it or nothing: a file with a mistake changes nothing. What may change while the server runs is taken in at once;
//! for the rest, the reading says which keys wait for a restart.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use serde_json::{Value, json};

use crate::config::{Change, Config, Loaded, Setting, changes};
use crate::descriptors;
use crate::service::Service;
use crate::start::bytes_in_flight;
use crate::writer::Following;

/// The settings that hold now. Those that requests meet are kept beside the others, where reading them costs nothing.
pub struct Live {
    config: ArcSwap<Config>,
    body_bytes_max: AtomicUsize,
    request_timeout_ns: AtomicU64,
}

impl Live {
    /// These settings hold.
    pub fn new(config: &Config) -> Live {
        let live = Live {
            config: ArcSwap::from_pointee(config.clone()),
            body_bytes_max: AtomicUsize::default(),
            request_timeout_ns: AtomicU64::default(),
        };
        live.set(config.clone());
        live
    }

    /// All settings.
    pub fn config(&self) -> Guard<Arc<Config>> {
        self.config.load()
    }

    /// The largest body on any protocol.
    pub fn body_bytes_max(&self) -> usize {
        self.body_bytes_max.load(Relaxed)
    }

    /// The time a request has where its client gave none, and in which its body must arrive.
    pub fn request_timeout(&self) -> Duration {
        Duration::from_nanos(self.request_timeout_ns.load(Relaxed))
    }

    fn set(&self, config: Config) {
        self.body_bytes_max.store(config.body_bytes_max, Relaxed);
        let nanoseconds = u64::try_from(config.request_timeout.as_nanos()).unwrap_or(u64::MAX);
        self.request_timeout_ns.store(nanoseconds, Relaxed);
        self.config.store(Arc::new(config));
    }
}

/// What a reading brought.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What holds from now on.
    pub changed: Vec<Change>,
    /// What is written, and waits for a restart.
    pub needs_restart: Vec<Change>,
    /// Settings whose file says something else now, which holds.
    pub reread: Vec<&'static str>,
}

impl Report {
    /// The report for programs.
    pub fn form(&self) -> Value {
        let list = |changes: &[Change]| {
            let change = |Change { key, from, to }: &Change| json!({ "key": key, "from": from, "to": to });
            changes.iter().map(change).collect::<Vec<_>>()
        };
        json!({ "changed": list(&self.changed), "needs_restart": list(&self.needs_restart), "reread": self.reread })
    }
}

/// Reads the settings as they were read at the start. Fails in words for the operator.
pub type Read = Box<dyn Fn() -> Result<Loaded, String> + Send + Sync>;

/// The way to have the settings read anew.
pub struct Reload {
    read: Read,
    service: Arc<Service>,
    /// The settings that hold, as they were written.
    held: Mutex<Vec<Setting>>,
}

impl Reload {
    /// `held` is what the service was started with.
    pub fn new(read: Read, service: Arc<Service>, held: Vec<Setting>) -> Reload {
        Reload { read, service, held: Mutex::new(held) }
    }

    /// Reads the settings and takes in what may change. Logs what came of it, and says it.
    pub fn now(&self) -> Result<Report, String> {
        let refused = |error: &String| tracing::error!(error, "the settings cannot be read anew: nothing is changed");
        let loaded = (self.read)().inspect_err(refused)?;
        let captures = self.service.inference.captures.as_ref();
        let rules = captures.map(|captures| captures.read(&loaded.config)).transpose().inspect_err(refused)?;
        for warning in &loaded.warnings {
            tracing::warn!("{warning}");
        }
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let (changed, needs_restart): (Vec<Change>, _) =
            changes(&held, &loaded.origins).into_iter().partition(Change::is_live);
        let is_changed = |key: &str| changed.iter().any(|change| change.key == key);
        for (held, new) in held.iter_mut().zip(loaded.origins) {
            if is_changed(held.key) {
                *held = new;
            }
        }
        drop(held);
        self.take_in(&loaded.config, is_changed("log_level"));
        let mut reread = Vec::new();
        if let (Some(captures), Some(rules)) = (captures, rules)
            && captures.take(rules, &self.service.inference.catalog.load())
        {
            tracing::info!(key = "capture_rules", "the file was read anew");
            reread.push("capture_rules");
        }
        for Change { key, from, to } in &changed {
            tracing::info!(key, from, to, "a setting was changed");
        }
        for Change { key, from, to } in &needs_restart {
            tracing::warn!(key, from, to, "a setting needs a restart to change");
        }
        if changed.is_empty() && needs_restart.is_empty() && reread.is_empty() {
            tracing::info!("the settings are as they were");
        }
        Ok(Report { changed, needs_restart, reread })
    }

    /// The level of logging is left alone where clients may have changed it since, and nobody wrote another.
    fn take_in(&self, new: &Config, log_level: bool) {
        let service = &self.service;
        let config = service.live.config().renewed(new);
        service.inference.admission.set_bounds(config.requests_max, bytes_in_flight(&config));
        service.writer.follow(Following::of(&config));
        if log_level {
            service.logs.set_level(config.log_level);
        }
        descriptors::ask_for(config.connections_max);
        service.live.set(config);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_told_both_kinds() {
        let change = |key: &'static str| Change { key, from: "1".to_owned(), to: "2".to_owned() };
        let report = Report {
            changed: vec![change("requests_max")],
            needs_restart: vec![change("threads")],
            reread: vec!["capture_rules"],
        };
        let expected = json!({
            "changed": [{"key": "requests_max", "from": "1", "to": "2"}],
            "needs_restart": [{"key": "threads", "from": "1", "to": "2"}],
            "reread": ["capture_rules"],
        });
        assert_eq!(report.form(), expected);
    }
}
