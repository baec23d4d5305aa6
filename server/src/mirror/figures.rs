//! How does the copying from a store go? Counters for metrics, and words for whoever asks.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

/// What is known of one store. Written by the thread that follows it, read by everybody.
#[derive(Default)]
pub struct Figures {
    /// Which store: its URL, which holds no secret.
    pub url: String,
    /// Objects that were fetched whole.
    pub fetched_objects: AtomicU64,
    /// Bytes that arrived, those of attempts that were cut off included.
    pub fetched_bytes: AtomicU64,
    /// Times that the store could not be listed.
    pub list_failures: AtomicU64,
    /// Objects that could not be fetched or kept.
    pub fetch_failures: AtomicU64,
    /// Objects still to come.
    pub pending_objects: AtomicU64,
    /// Bytes still to come, as far as sizes are known.
    pub pending_bytes: AtomicU64,
    /// Objects in the cache that are served.
    pub held_objects: AtomicU64,
    /// Their bytes.
    pub held_bytes: AtomicU64,
    /// When the cache was last known to be what the store has, in milliseconds since 1970; 0 for never.
    pub synced_ms: AtomicU64,
    trouble: Mutex<Option<String>>,
}

impl Figures {
    /// Of a store that nobody has asked yet.
    pub fn of(url: String) -> Figures {
        Figures { url, ..Figures::default() }
    }

    /// What is wrong with the store, or that nothing is.
    pub fn set_trouble(&self, trouble: Option<&str>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble.map(str::to_owned);
    }

    /// The figures for programs.
    pub fn form(&self) -> Value {
        let read = |counter: &AtomicU64| counter.load(Relaxed);
        json!({
            "url": self.url,
            "objects": read(&self.held_objects),
            "bytes": read(&self.held_bytes),
            "pending_objects": read(&self.pending_objects),
            "pending_bytes": read(&self.pending_bytes),
            "synced_ms": Some(read(&self.synced_ms)).filter(|at| *at > 0),
            "trouble": *self.trouble.lock().unwrap_or_else(PoisonError::into_inner),
        })
    }
}

/// Takes away what was expected; more than that may come, and the count stays at zero.
#[cfg(feature = "stores")]
pub(super) fn count_down(counter: &AtomicU64, by: u64) {
    // Fails only where the closure gives nothing.
    let _ = counter.fetch_update(Relaxed, Relaxed, |count| Some(count.saturating_sub(by)));
}
