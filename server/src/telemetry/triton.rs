//! What are the figures called where dashboards were made for Triton?

use tiltyard_runtime::stats::{Durations, Snapshot};
use tiltyard_types::ErrorKind;

use super::page::{Page, escape};
use crate::catalog::Catalog;
use crate::ledger::Line;

/// Triton's metrics, in its units: microseconds, and counts of requests and rows.
pub(super) fn families(page: &mut Page, catalog: &Catalog, lines: &[Line]) {
    let labels = |model: &str, version: &str| format!("model=\"{}\",version=\"{version}\"", escape(model));
    let row = |line: &Line| (labels(&line.model, &line.version_label()), line.counts.all());
    let rows: Vec<(String, Snapshot)> = lines.iter().map(row).collect();
    type Count = fn(&Snapshot) -> u64;
    fn micros(durations: Durations) -> u64 {
        durations.nanos / 1000
    }
    let counters: [(&str, &str, Count); 8] = [
        ("nv_inference_request_success", "Requests answered well.", |sum| sum.success.count),
        ("nv_inference_count", "Rows answered.", |sum| sum.rows),
        ("nv_inference_exec_count", "Runs of the engine.", |sum| sum.executions),
        ("nv_inference_request_duration_us", "Total time of requests.", |sum| micros(sum.success)),
        ("nv_inference_queue_duration_us", "Time in the queue.", |sum| sum.queue.nanos / 1000),
        ("nv_inference_compute_input_duration_us", "Time gathering inputs.", |sum| micros(sum.assemble)),
        ("nv_inference_compute_infer_duration_us", "Time in the engine.", |sum| sum.run.nanos / 1000),
        ("nv_inference_compute_output_duration_us", "Time cutting outputs apart.", |sum| micros(sum.split)),
    ];
    for (name, help, pick) in counters {
        page.family(name, "counter", help);
        for (labels, sum) in &rows {
            page.sample(name, labels, pick(sum) as f64);
        }
    }
    page.family("nv_inference_request_failure", "counter", "Requests that failed, by reason.");
    for (labels, sum) in &rows {
        for (reason, kinds) in [
            ("REJECTED", &[ErrorKind::Overloaded, ErrorKind::Deadline, ErrorKind::NotReady, ErrorKind::Draining][..]),
            ("CANCELED", &[ErrorKind::Cancelled]),
            ("BACKEND", &[ErrorKind::Engine]),
        ] {
            page.sample(
                "nv_inference_request_failure",
                &format!("{labels},reason=\"{reason}\""),
                failed(sum, kinds) as f64,
            );
        }
        let known: u64 = failed(
            sum,
            &[
                ErrorKind::Overloaded,
                ErrorKind::Deadline,
                ErrorKind::NotReady,
                ErrorKind::Draining,
                ErrorKind::Cancelled,
                ErrorKind::Engine,
            ],
        );
        let other = sum.failures.iter().map(|failure| failure.count).sum::<u64>() - known;
        page.sample("nv_inference_request_failure", &format!("{labels},reason=\"OTHER\""), other as f64);
    }
    page.family("nv_inference_pending_request_count", "gauge", "Requests that wait now.");
    for deployment in catalog.deployments() {
        let labels = labels(&deployment.identity.model, &deployment.identity.version.to_string());
        page.sample("nv_inference_pending_request_count", &labels, deployment.queue_len() as f64);
    }
}

fn failed(sum: &Snapshot, kinds: &[ErrorKind]) -> u64 {
    ErrorKind::ALL
        .iter()
        .zip(&sum.failures)
        .filter(|(kind, _)| kinds.contains(kind))
        .map(|(_, failure)| failure.count)
        .sum()
}
