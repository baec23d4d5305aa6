//! How does it go with the store that models come from?

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::page::Page;
use crate::mirror::figures::Figures;

/// Writes what was fetched, what is held, and how current that is.
pub(super) fn families(page: &mut Page, figures: &Figures) {
    let read = |counter: &AtomicU64| counter.load(Relaxed) as f64;
    let families = [
        (
            "tiltyard_store_fetched_objects_total",
            "counter",
            "Objects fetched whole from the store.",
            &figures.fetched_objects,
        ),
        (
            "tiltyard_store_fetched_bytes_total",
            "counter",
            "Bytes that came from the store, attempts that were cut off included.",
            &figures.fetched_bytes,
        ),
        ("tiltyard_store_objects", "gauge", "Objects of the store that the cache has.", &figures.held_objects),
        ("tiltyard_store_bytes", "gauge", "Bytes of the store's objects that the cache has.", &figures.held_bytes),
        ("tiltyard_store_pending_objects", "gauge", "Objects still to be fetched.", &figures.pending_objects),
        (
            "tiltyard_store_pending_bytes",
            "gauge",
            "Bytes still to be fetched, as far as sizes are known.",
            &figures.pending_bytes,
        ),
    ];
    for (name, kind, help, figure) in families {
        page.family(name, kind, help);
        page.sample(name, "", read(figure));
    }
    let name = "tiltyard_store_failures_total";
    page.family(name, "counter", "Times that the store could not be listed, and objects that could not be had.");
    page.sample(name, "step=\"list\"", read(&figures.list_failures));
    page.sample(name, "step=\"fetch\"", read(&figures.fetch_failures));
    let name = "tiltyard_store_synced_timestamp_seconds";
    page.family(name, "gauge", "When the cache was last what the store has, in seconds since 1970; 0 for never.");
    page.sample(name, "", (read(&figures.synced_ms) / 1000.0).floor());
}
