//! How is something logged, and how do clients see and change the level?

use std::io::IsTerminal;
use std::sync::Mutex;

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, fmt, reload};

use crate::config::{LogFormat, LogLevel};

/// The running log's level.
pub struct Logs {
    level: Mutex<LogLevel>,
    handle: Option<reload::Handle<Targets, Registry>>,
}

impl Logs {
    /// Starts logging to standard error: lines for people on a terminal, JSON elsewhere.
    pub fn start(format: LogFormat, level: LogLevel) -> Logs {
        let (filter, handle) = reload::Layer::new(filter(level));
        let terminal = std::io::stderr().is_terminal();
        let registry = tracing_subscriber::registry().with(filter);
        let json = match format {
            LogFormat::Json => true,
            LogFormat::Human => false,
            LogFormat::Auto => !terminal,
        };
        let started = if json {
            registry.with(fmt::layer().json().flatten_event(true).with_writer(std::io::stderr)).try_init()
        } else {
            registry.with(fmt::layer().with_ansi(terminal).with_target(false).with_writer(std::io::stderr)).try_init()
        };
        // A second start in one process, as in tests, keeps the first one's output.
        Logs { level: Mutex::new(level), handle: started.is_ok().then_some(handle) }
    }

    /// The least important lines that are logged.
    pub fn level(&self) -> LogLevel {
        *self.level.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Changes the level at once.
    pub fn set_level(&self, level: LogLevel) {
        *self.level.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = level;
        if let Some(handle) = &self.handle {
            // Fails only when the subscriber is gone, and with it all logging.
            drop(handle.modify(|current| *current = filter(level)));
        }
    }
}

/// Our own lines at `level`; those of libraries only from warnings on, unless everything is wanted.
fn filter(level: LogLevel) -> Targets {
    let (ours, theirs) = match level {
        LogLevel::Error => (LevelFilter::ERROR, LevelFilter::ERROR),
        LogLevel::Warn => (LevelFilter::WARN, LevelFilter::WARN),
        LogLevel::Info => (LevelFilter::INFO, LevelFilter::WARN),
        LogLevel::Debug => (LevelFilter::DEBUG, LevelFilter::WARN),
        LogLevel::Trace => (LevelFilter::TRACE, LevelFilter::TRACE),
    };
    let crates = ["tiltyard_server", "tiltyard_runtime", "tiltyard_tract"];
    Targets::new().with_default(theirs).with_targets(crates.map(|name| (name, ours)))
}
