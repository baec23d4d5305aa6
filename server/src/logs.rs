//! How is something logged, and how do clients see and change the level?

use std::io::IsTerminal;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tiltyard_types::Moment;
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

/// Decides when a line about what may happen in floods is due again.
#[derive(Default)]
pub struct Seldom {
    /// When there was one last, in nanoseconds; 0 for never.
    last_ns: AtomicU64,
    count: AtomicU64,
}

impl Seldom {
    /// Between two lines.
    const APART: Duration = Duration::from_secs(10);

    /// None was needed yet.
    pub const fn new() -> Seldom {
        Seldom { last_ns: AtomicU64::new(0), count: AtomicU64::new(0) }
    }

    /// Notes that it happened once more; where a line is due, says how often since the last one.
    pub fn note(&self, now: Moment) -> Option<u64> {
        self.count.fetch_add(1, Relaxed);
        let last = self.last_ns.load(Relaxed);
        let due = last == 0 || now - Moment::from_nanos(last) >= Seldom::APART;
        let ours = due && self.last_ns.compare_exchange(last, now.as_nanos().max(1), Relaxed, Relaxed).is_ok();
        ours.then(|| self.count.swap(0, Relaxed))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_has_a_line_now_and_then() {
        let seldom = Seldom::new();
        let at = |s: u64| Moment::from_nanos(s * 1_000_000_000);
        assert_eq!(seldom.note(at(0)), Some(1));
        assert_eq!((1..10).filter_map(|s| seldom.note(at(s))).next(), None);
        assert_eq!(seldom.note(at(11)), Some(10));
        assert_eq!(seldom.note(at(12)), None);
    }
}
