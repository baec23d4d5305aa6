//! How often did somebody ask why, and what did it cost?

use std::sync::atomic::Ordering::Relaxed;

use super::page::Page;
use crate::explain::Counts;

/// Writes what explanations did. Nothing where nobody ever asked for one.
pub(super) fn families(page: &mut Page, counts: &Counts) {
    if counts.outcomes.iter().all(|count| count.load(Relaxed) == 0) {
        return;
    }
    let name = "tiltyard_explain_requests_total";
    page.family(name, "counter", "Requests for explanations, by what became of them; refused: too many waited.");
    for (outcome, count) in Counts::OUTCOMES.iter().zip(&counts.outcomes) {
        page.sample(name, &format!("outcome=\"{outcome}\""), count.load(Relaxed) as f64);
    }
    let name = "tiltyard_explain_rows_total";
    page.family(name, "counter", "Rows that were explained.");
    page.sample(name, "", counts.rows.load(Relaxed) as f64);
    let name = "tiltyard_explain_busy_seconds_total";
    page.family(name, "counter", "Time that threads worked on explanations, which give way to inference.");
    page.sample(name, "", counts.busy_ns.load(Relaxed) as f64 / 1e9);
}
