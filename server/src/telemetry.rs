//! What do the figures look like to Prometheus? Each metric is declared here, once, with its unit and help.

mod feedback;
mod live;
mod rollouts;
mod shadow;
mod store;

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tiltyard_runtime::deployment::Deployment;
use tiltyard_runtime::stats::{Apart, BUCKETS_NS, Durations, Histogram, Refusal, Snapshot};
use tiltyard_types::ErrorKind;

use crate::arm::PINNED;
use crate::catalog::{Catalog, VersionState};
use crate::clock;
use crate::ledger::Line;
use crate::listen::Connections;
use crate::service::Service;

/// Counters that belong to no deployment.
#[derive(Default)]
pub struct Totals {
    refused: [AtomicU64; ErrorKind::ALL.len()],
    /// Connections over all listeners.
    pub connections: Arc<Connections>,
}

impl Totals {
    /// Counts an answer that was a failure on any path.
    pub fn note_failure(&self, kind: ErrorKind) {
        let position = ErrorKind::ALL.iter().position(|&other| other == kind).unwrap_or(0);
        self.refused[position].fetch_add(1, Relaxed);
    }
}

/// Writes all metrics in Prometheus' text form; with `triton` also under the names of Triton's dashboards.
pub fn render(service: &Service, triton: bool) -> String {
    let catalog = service.inference.catalog.load();
    catalog.deployments().for_each(|deployment| service.ledger.open(deployment));
    let lines = service.ledger.lines(clock::now());
    let mut page = Page::default();
    let ways: Vec<Row> = lines.iter().flat_map(Row::of_ways).collect();
    let runs: Vec<Row> = lines.iter().map(Row::of_runs).collect();
    requests(&mut page, &ways);
    executions(&mut page, &runs);
    refusals(&mut page, &runs, &service.inference.admission.unknown().snapshot());
    shadow::families(&mut page, service, &catalog, &ways);
    page.family("tiltyard_queue_length", "gauge", "Requests that wait for a session now.");
    for deployment in catalog.deployments() {
        page.sample("tiltyard_queue_length", &labels_of_all(deployment), deployment.queue_len() as f64);
    }
    costs(&mut page, &catalog);
    faults(&mut page, &catalog);
    page.family("tiltyard_deployment_info", "gauge", "Always 1: which artifact on which engine answers.");
    for deployment in catalog.deployments() {
        page.sample("tiltyard_deployment_info", &info_labels(deployment), 1.0);
    }
    server(&mut page, service, &catalog);
    if let Some(figures) = &service.store {
        store::families(&mut page, figures);
    }
    rollouts::families(&mut page, &service.rollouts.told());
    live::families(&mut page);
    feedback::families(&mut page, &service.rollouts.feedback);
    if triton {
        triton_names(&mut page, &catalog, &lines);
    }
    page.text
}

/// Figures and their labels.
struct Row {
    labels: String,
    sum: Snapshot,
}

/// The arm of figures that are a deployment's own, whatever the arms that its requests came by.
pub(crate) const ALL_ARMS: &str = "all";

impl Row {
    /// What requests did, by the way they came; of those that pinned the version, where there were any. A version that
    /// leaves keeps its counts: nothing falls.
    fn of_ways(line: &Line) -> impl Iterator<Item = Row> {
        let counted = |sum: &Snapshot| sum.success.count > 0 || sum.failures.iter().any(|failures| failures.count > 0);
        let shown = line.counts.ways.iter().filter(move |(way, sum)| way.arm != PINNED || counted(sum));
        shown.map(|(way, sum)| Row {
            labels: labels_of(&way.endpoint, &line.model, &line.version_label(), &way.arm),
            sum: sum.clone(),
        })
    }

    /// What the deployment did.
    fn of_runs(line: &Line) -> Row {
        let labels = labels_of(&line.model, &line.model, &line.version_label(), ALL_ARMS);
        Row { labels, sum: line.counts.runs.clone() }
    }
}

fn labels_of(endpoint: &str, model: &str, version: &str, arm: &str) -> String {
    let (endpoint, model, arm) = (escape(endpoint), escape(model), escape(arm));
    format!("endpoint=\"{endpoint}\",model=\"{model}\",version=\"{version}\",arm=\"{arm}\"")
}

fn info_labels(deployment: &Deployment) -> String {
    let identity = &deployment.identity;
    format!(
        "{},digest=\"{}\",engine=\"{}\",engine_version=\"{}\",provider=\"{}\"",
        labels_of_all(deployment),
        identity.digest,
        identity.engine,
        escape(&identity.build.version),
        escape(&identity.provider)
    )
}

fn labels_of_all(deployment: &Deployment) -> String {
    let identity = &deployment.identity;
    labels_of(&identity.model, &identity.model, &identity.version.to_string(), ALL_ARMS)
}

/// What each deployment has learned of its own cost, and what follows from it. Nothing while that is unknown.
fn costs(page: &mut Page, catalog: &Catalog) {
    type Pick = fn(&Deployment) -> Option<f64>;
    let gauges: [(&str, &str, Pick); 4] = [
        ("tiltyard_cost_row_seconds", "What each row adds to a run: a in the fitted a·n + b.", |deployment| {
            Some(deployment.cost.fit()?.row_ns / 1e9)
        }),
        ("tiltyard_cost_run_seconds", "What a run costs whatever its rows: b in the fitted a·n + b.", |deployment| {
            Some(deployment.cost.fit()?.run_ns / 1e9)
        }),
        (
            "tiltyard_batch_rows_limit",
            "Rows that one run takes at most: as allowed, or as measured to be as good; 0 where requests are not batched.",
            |deployment| Some(deployment.rows_taken_max() as f64),
        ),
        (
            "tiltyard_predicted_wait_seconds",
            "How long a request that came now would wait at least, by what runs take.",
            |deployment| Some(deployment.predicted_wait(clock::now())?.as_secs_f64()),
        ),
    ];
    for (name, help, pick) in gauges {
        page.family(name, "gauge", help);
        for deployment in catalog.deployments() {
            if let Some(value) = pick(deployment) {
                page.sample(name, &labels_of_all(deployment), value);
            }
        }
    }
}

/// What went wrong by the engines' fault.
fn faults(page: &mut Page, catalog: &Catalog) {
    type Pick = fn(&Deployment) -> f64;
    let families: [(&str, &str, &str, Pick); 3] = [
        (
            "tiltyard_runs_stuck",
            "gauge",
            "Runs that were given up and have not come back: each keeps a thread.",
            |deployment| deployment.lost_runs().0 as f64,
        ),
        ("tiltyard_runs_given_up_total", "counter", "Runs that were given up as stuck.", |deployment| {
            deployment.health.runs_stuck() as f64
        }),
        (
            "tiltyard_out_of_service_total",
            "counter",
            "Times that the version was taken out of service.",
            |deployment| deployment.health.times_out() as f64,
        ),
    ];
    for (name, kind, help, pick) in families {
        page.family(name, kind, help);
        for deployment in catalog.deployments() {
            page.sample(name, &labels_of_all(deployment), pick(deployment));
        }
    }
}

fn requests(page: &mut Page, rows: &[Row]) {
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
    type Pick = fn(&Snapshot) -> &Histogram;
    let histograms: [(&str, &str, Pick); 3] = [
        ("tiltyard_request_duration_seconds", "From accepting a request to its answer.", |sum| &sum.total),
        ("tiltyard_queue_duration_seconds", "From queueing a request to taking it.", |sum| &sum.queue),
        ("tiltyard_run_duration_seconds", "In the engine, per request: the time of its batch.", |sum| &sum.run),
    ];
    for (name, help, pick) in histograms {
        page.family(name, "histogram", help);
        for row in rows {
            page.histogram(name, &row.labels, pick(&row.sum));
        }
    }
}

fn executions(page: &mut Page, rows: &[Row]) {
    page.family("tiltyard_executions_total", "counter", "Runs of the engine.");
    for row in rows {
        page.sample("tiltyard_executions_total", &row.labels, row.sum.executions as f64);
    }
}

/// What was refused for want of room or time, and what was run for nothing. Those whose model was not known yet have none.
fn refusals(page: &mut Page, rows: &[Row], unknown: &Snapshot) {
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

fn server(page: &mut Page, service: &Service, catalog: &Catalog) {
    page.family(
        "tiltyard_refused_total",
        "counter",
        "Inference requests and REST calls that were answered with a failure, by kind.",
    );
    for (kind, count) in ErrorKind::ALL.iter().zip(&service.totals.refused) {
        page.sample("tiltyard_refused_total", &format!("kind=\"{}\"", kind.name()), count.load(Relaxed) as f64);
    }
    page.family("tiltyard_connections_refused_total", "counter", "Connections closed at once: there were too many.");
    page.sample("tiltyard_connections_refused_total", "", service.totals.connections.refused() as f64);
    let gauges = [
        (
            "tiltyard_bytes_in_flight",
            "Bytes of request bodies in memory, those that still arrive included.",
            service.inference.admission.bytes() as f64,
        ),
        ("tiltyard_connections", "Open connections.", service.totals.connections.count() as f64),
        (
            "tiltyard_requests_in_flight",
            "Requests between admission and answer.",
            service.inference.admission.requests() as f64,
        ),
        ("tiltyard_catalog_revision", "Counts up with each change of what can answer.", catalog.revision as f64),
        ("tiltyard_ready", "1 if load balancers shall send requests.", f64::from(u8::from(service.is_ready()))),
    ];
    for (name, help, value) in gauges {
        page.family(name, "gauge", help);
        page.sample(name, "", value);
    }
    page.family("tiltyard_versions", "gauge", "Model versions by state.");
    let states: Vec<&VersionState> =
        catalog.models.values().flat_map(|model| model.versions.values()).map(|version| &version.state).collect();
    for (state, matches) in [
        ("ready", (|state| matches!(state, VersionState::Ready)) as fn(&VersionState) -> bool),
        ("loading", |state| matches!(state, VersionState::Loading)),
        ("out", |state| matches!(state, VersionState::Out(_))),
        ("failed", |state| matches!(state, VersionState::Failed(_))),
        ("unloaded", |state| matches!(state, VersionState::Unloaded)),
    ] {
        let count = states.iter().filter(|state| matches(state)).count();
        page.sample("tiltyard_versions", &format!("state=\"{state}\""), count as f64);
    }
}

/// Triton's metrics, in its units: microseconds, and counts of requests and rows.
fn triton_names(page: &mut Page, catalog: &Catalog, lines: &[Line]) {
    let labels = |model: &str, version: &str| format!("model=\"{}\",version=\"{version}\"", escape(model));
    let row = |line: &Line| Row { labels: labels(&line.model, &line.version_label()), sum: line.counts.all() };
    let rows: Vec<Row> = lines.iter().map(row).collect();
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
        for row in &rows {
            page.sample(name, &row.labels, pick(&row.sum) as f64);
        }
    }
    page.family("nv_inference_request_failure", "counter", "Requests that failed, by reason.");
    for row in &rows {
        for (reason, kinds) in [
            ("REJECTED", &[ErrorKind::Overloaded, ErrorKind::Deadline, ErrorKind::NotReady, ErrorKind::Draining][..]),
            ("CANCELED", &[ErrorKind::Cancelled]),
            ("BACKEND", &[ErrorKind::Engine]),
        ] {
            page.sample(
                "nv_inference_request_failure",
                &format!("{},reason=\"{reason}\"", row.labels),
                failed(&row.sum, kinds) as f64,
            );
        }
        let known: u64 = failed(
            &row.sum,
            &[
                ErrorKind::Overloaded,
                ErrorKind::Deadline,
                ErrorKind::NotReady,
                ErrorKind::Draining,
                ErrorKind::Cancelled,
                ErrorKind::Engine,
            ],
        );
        let other = row.sum.failures.iter().map(|failure| failure.count).sum::<u64>() - known;
        page.sample("nv_inference_request_failure", &format!("{},reason=\"OTHER\"", row.labels), other as f64);
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

/// A page of metrics under construction.
#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing into a string cannot fail.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &str, value: f64) {
        let _ = match labels {
            "" => writeln!(self.text, "{name} {value}"),
            _ => writeln!(self.text, "{name}{{{labels}}} {value}"),
        };
    }

    fn histogram(&mut self, name: &str, labels: &str, histogram: &Histogram) {
        let mut below = 0;
        for (bound, count) in BUCKETS_NS.iter().zip(&histogram.buckets) {
            below += count;
            let bound = *bound as f64 / 1e9;
            let _ = writeln!(self.text, "{name}_bucket{{{labels},le=\"{bound}\"}} {below}");
        }
        let count = histogram.count();
        let _ = writeln!(self.text, "{name}_bucket{{{labels},le=\"+Inf\"}} {count}");
        let _ = writeln!(self.text, "{name}_sum{{{labels}}} {}", histogram.nanos as f64 / 1e9);
        let _ = writeln!(self.text, "{name}_count{{{labels}}} {count}");
    }
}

/// A label's value as the text form has it.
fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
