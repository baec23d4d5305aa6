//! What became of requests, how long did their steps take, and in which batches did they run?

use std::collections::BTreeMap;

use tiltyard_runtime::stats::{Apart, Exemplar, Histogram, Refusal, Snapshot};
use tiltyard_types::ErrorKind;

use super::page::Page;
use super::{Row, labels_of};
use crate::catalog::Catalog;

/// Adds requests as examples to the rows of what answers now.
pub(super) fn add_exemplars(rows: &mut [Row], catalog: &Catalog) {
    let mut examples: BTreeMap<String, Vec<(usize, Exemplar)>> = BTreeMap::new();
    for deployment in catalog.deployments() {
        let identity = &deployment.identity;
        for (way, shown) in deployment.stats.exemplars() {
            let labels = labels_of(&way.endpoint, &identity.model, &identity.version.to_string(), &way.arm);
            examples.insert(labels, shown);
        }
    }
    for row in rows {
        row.exemplars = examples.remove(&row.labels).unwrap_or_default();
    }
}

/// Writes what became of requests, and how long each of their steps took.
pub(super) fn families(page: &mut Page, rows: &[Row]) {
    page.family("tiltyard_requests_total", "counter", "Requests that reached a deployment, by outcome.");
    for row in rows {
        page.sample(
            "tiltyard_requests_total",
            &format!("{},outcome=\"success\"", row.labels),
            row.sum.success.count as f64,
        );
        for (kind, failures) in ErrorKind::ALL.iter().zip(&row.sum.failures) {
            if failures.count > 0 {
                let labels = format!("{},outcome=\"{}\"", row.labels, kind.name());
                page.sample("tiltyard_requests_total", &labels, failures.count as f64);
            }
        }
    }
    page.family("tiltyard_rows_total", "counter", "Rows answered.");
    for row in rows {
        page.sample("tiltyard_rows_total", &row.labels, row.sum.rows as f64);
    }
    let name = "tiltyard_requests_apart_total";
    page.family(name, "counter", "Requests that are no evidence in a test of versions, by reason.");
    for row in rows {
        for (why, count) in Apart::ALL.iter().zip(row.sum.apart).filter(|(_, count)| *count > 0) {
            page.sample(name, &format!("{},reason=\"{}\"", row.labels, why.name()), count as f64);
        }
    }
    let name = "tiltyard_request_duration_seconds";
    page.family(name, "histogram", "From accepting a request to its answer.");
    for row in rows {
        page.histogram(name, &row.labels, &row.sum.total, &row.exemplars);
    }
    type Pick = fn(&Snapshot) -> &Histogram;
    let histograms: [(&str, &str, Pick); 4] = [
        ("tiltyard_decode_duration_seconds", "From having a request's body to queueing it.", |sum| &sum.decode),
        ("tiltyard_queue_duration_seconds", "From queueing a request to taking it.", |sum| &sum.queue),
        ("tiltyard_run_duration_seconds", "In the engine, per request: the time of its batch.", |sum| &sum.run),
        ("tiltyard_encode_duration_seconds", "From having an answer to having it encoded.", |sum| &sum.encode),
    ];
    for (name, help, pick) in histograms {
        page.family(name, "histogram", help);
        for row in rows {
            page.histogram(name, &row.labels, pick(&row.sum), &[]);
        }
    }
}

/// Writes how the engine ran.
pub(super) fn executions(page: &mut Page, rows: &[Row]) {
    page.family("tiltyard_executions_total", "counter", "Runs of the engine.");
    for row in rows {
        page.sample("tiltyard_executions_total", &row.labels, row.sum.executions as f64);
    }
    let name = "tiltyard_batch_rows";
    page.family(name, "histogram", "Rows of each run of the engine, padding left out.");
    for row in rows {
        page.batch_sizes(name, &row.labels, &row.sum);
    }
}

/// What was refused for want of room or time, and what was run for nothing. Those whose model was not known yet have none.
pub(super) fn refusals(page: &mut Page, rows: &[Row], unknown: &Snapshot) {
    let name = "tiltyard_requests_refused_total";
    page.family(name, "counter", "Inference requests refused for want of room or time, by reason.");
    let nobody = "endpoint=\"\",model=\"\",version=\"\",arm=\"\"";
    let known = rows.iter().map(|row| (row.labels.as_str(), &row.sum));
    for (labels, sum) in known.chain(std::iter::once((nobody, unknown))) {
        for (reason, count) in Refusal::ALL.iter().zip(sum.refused) {
            if count > 0 {
                page.sample(name, &format!("{labels},reason=\"{}\"", reason.name()), count as f64);
            }
        }
    }
    let name = "tiltyard_requests_late_total";
    page.family(name, "counter", "Requests whose run began although their time was over.");
    for row in rows {
        page.sample(name, &row.labels, row.sum.late as f64);
    }
}
