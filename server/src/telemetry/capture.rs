//! What is told of the capture? That served = captured + dropped, and why what is dropped is.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use tiltyard_capture::Reason;

use super::page::Page;
use crate::capture::{Captures, Figures};

/// Its figures.
pub(super) fn families(page: &mut Page, captures: &Captures) {
    let (counters, state) = (captures.counters(), captures.state());
    let counts = [
        ("tiltyard_capture_served_total", "Requests that reached an arm while they are captured.", counters.served),
        ("tiltyard_capture_captured_total", "Those of them that are on record.", counters.captured),
    ];
    for (name, help, count) in counts {
        page.family(name, "counter", help);
        page.sample(name, "", count as f64);
    }
    page.family("tiltyard_capture_dropped_total", "counter", "Those of them that are not, by reason.");
    for reason in Reason::ALL {
        let labels = format!("reason=\"{}\"", reason.name());
        page.sample("tiltyard_capture_dropped_total", &labels, counters.dropped(reason) as f64);
    }
    let gauges = [
        ("tiltyard_capture_pending_bytes", "Bytes of records that are in no segment yet.", state.pending_bytes as f64),
        ("tiltyard_capture_segments", "Segments that are there.", state.segments as f64),
        ("tiltyard_capture_segment_bytes", "Their bytes.", state.segment_bytes as f64),
        (
            "tiltyard_capture_failing",
            "1 while segments cannot be written: the ring fills up, and then requests are not captured.",
            f64::from(u8::from(state.failing.is_some())),
        ),
    ];
    for (name, help, value) in gauges {
        page.family(name, "gauge", help);
        page.sample(name, "", value);
    }
    sent(page, captures);
}

/// How segments arrive elsewhere.
fn sent(page: &mut Page, captures: &Captures) {
    if captures.sent().is_empty() {
        return;
    }
    let each = |figure: fn(&Figures) -> f64| {
        let sample = move |(to, figures): &(&str, Arc<Figures>)| (format!("to=\"{to}\""), figure(figures));
        captures.sent().iter().map(sample).collect::<Vec<_>>()
    };
    let families = [
        (
            "tiltyard_capture_sent_total",
            "counter",
            "Requests that a sink has, and segments that a store has.",
            each(|figures| figures.sent.load(Relaxed) as f64),
        ),
        (
            "tiltyard_capture_unsent_total",
            "counter",
            "What will not be sent: removed before that, too late, or encrypted.",
            each(|figures| figures.dropped.load(Relaxed) as f64),
        ),
        (
            "tiltyard_capture_waiting_segments",
            "gauge",
            "Segments that are not sent yet.",
            each(|figures| figures.waiting.load(Relaxed) as f64),
        ),
        (
            "tiltyard_capture_sending_failing",
            "gauge",
            "1 while the receiver does not take them: it is tried again.",
            each(|figures| f64::from(u8::from(figures.is_failing()))),
        ),
    ];
    for (name, kind, help, samples) in families {
        page.family(name, kind, help);
        samples.iter().for_each(|(labels, value)| page.sample(name, labels, *value));
    }
}
