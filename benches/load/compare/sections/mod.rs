//! Which lines of the budget can be measured?

mod arrivals;
mod batching;
mod many;
mod memory;
mod models;
mod open;
mod tiny;

use super::Bench;
use super::report::{Section, number, times};
use super::rounds::{CPU, Outcome, P50, P99, P999, THROUGHPUT};
use crate::Fault;

/// Measures one section.
type Measure = fn(&Bench) -> Result<Section, Fault>;

/// All sections: name, question, and who answers it.
pub(super) const ALL: [(&str, &str, Measure); 7] = [
    ("tiny", "the front end: a tiny model beside bare echoes, at concurrency 64 and 1", tiny::measure),
    ("models", "all models beside ONNX Runtime in process, at concurrency 1, 8 and 64", models::measure),
    ("batching", "the same trees with batching and without", batching::measure),
    ("arrivals", "no settings against a grid of settings: steady, Poisson and bursts of 10x", arrivals::measure),
    ("memory", "resident memory with 1 and with 4 instances", memory::measure),
    ("many", "one model's latency among 1,000, their memory and the start", many::measure),
    ("open", "throughput against latency, and latency against load", open::measure),
];

/// The columns that say how one subject did.
const COLUMNS: [&str; 7] = ["requests/s", "spread", "CPU µs/request", "p50 µs", "p99 µs", "p99.9 µs", "failed"];

/// The cells of [`COLUMNS`].
fn cells(outcome: &Outcome) -> Vec<String> {
    let figures = [CPU, P50, P99, P999].map(|figure| number(outcome.median(figure)));
    let mut cells = vec![number(outcome.median(THROUGHPUT)), super::report::percent(outcome.spread())];
    cells.extend(figures);
    cells.push(outcome.failed().to_string());
    cells
}

/// The processor time of one subject by another's, of the same rounds.
fn cpu_ratio(outcome: &Outcome, other: &Outcome) -> String {
    times(outcome.ratio(other, CPU))
}

/// The outcome of a subject in a case.
fn find<'a>(outcomes: &'a [Outcome], subject: &str, case: &str) -> Option<&'a Outcome> {
    outcomes.iter().find(|outcome| outcome.subject == subject && outcome.case == case)
}
