//! What is told of the capture? That served = captured + dropped, and why what is dropped is.

use tiltyard_capture::Reason;

use super::page::Page;
use crate::capture::Captures;

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
}
