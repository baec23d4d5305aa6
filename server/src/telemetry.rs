//! What do the figures look like to Prometheus? Each metric is declared here, once, with its unit and help.

mod alerts;
#[cfg(feature = "record")]
mod capture;
mod drift;
mod explain;
mod feedback;
mod live;
mod machine;
pub(crate) mod page;
mod protobuf;
mod requests;
mod rollouts;
mod shadow;
mod store;
mod triton;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tiltyard_runtime::deployment::Deployment;
use tiltyard_runtime::stats::{Exemplar, Snapshot};
use tiltyard_types::ErrorKind;

use crate::arm::PINNED;
use crate::catalog::{Catalog, VersionState};
use crate::clock;
use crate::ledger::Line;
use crate::listen::Connections;
use crate::service::Service;
use page::{Form, Page, escape};

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

/// Writes all metrics in this form; those that the settings want also under the names of Triton's dashboards.
pub(crate) fn render(service: &Service, form: Form) -> Vec<u8> {
    let catalog = service.inference.catalog.load();
    catalog.deployments().for_each(|deployment| service.ledger.open(deployment));
    let lines = service.ledger.lines(clock::now());
    let config = service.live.config();
    let mut page = Page::new(form);
    let mut ways: Vec<Row> = lines.iter().flat_map(Row::of_ways).collect();
    let runs: Vec<Row> = lines.iter().map(Row::of_runs).collect();
    if form.has_exemplars() {
        requests::add_exemplars(&mut ways, &catalog);
    }
    requests::families(&mut page, &ways);
    requests::executions(&mut page, &runs);
    requests::refusals(&mut page, &runs, &service.inference.admission.unknown().snapshot());
    machine::families(&mut page, &ways, &catalog, [config.price_cpu_hour, config.price_device_hour]);
    shadow::families(&mut page, service, &catalog, &ways);
    page.family("tiltyard_queue_length", "gauge", "Requests that wait for a session now.");
    for deployment in catalog.deployments() {
        page.sample("tiltyard_queue_length", &labels_of_all(deployment), deployment.queue_len() as f64);
    }
    costs(&mut page, &catalog);
    faults(&mut page, &runs, &catalog);
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
    service.inference.traces.iter().for_each(|traces| live::traces(&mut page, &traces.counts));
    feedback::families(&mut page, &service.rollouts.feedback);
    #[cfg(feature = "record")]
    service.inference.captures.iter().for_each(|captures| capture::families(&mut page, captures));
    drift::families(&mut page, &service.inference.drifts);
    alerts::families(&mut page, &service.alerts);
    explain::families(&mut page, &service.explainers.counts);
    if config.triton_metrics {
        triton::families(&mut page, &catalog, &lines);
    }
    page.finish()
}

/// Figures and their labels.
struct Row {
    labels: String,
    sum: Snapshot,
    /// Requests as examples, each with the position of its bucket.
    exemplars: Vec<(usize, Exemplar)>,
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
            exemplars: Vec::new(),
        })
    }

    /// What the deployment did.
    fn of_runs(line: &Line) -> Row {
        let labels = labels_of(&line.model, &line.model, &line.version_label(), ALL_ARMS);
        Row { labels, sum: line.counts.runs.clone(), exemplars: Vec::new() }
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
fn faults(page: &mut Page, rows: &[Row], catalog: &Catalog) {
    let name = "tiltyard_runs_stuck";
    page.family(name, "gauge", "Runs that were given up and have not come back: each keeps a thread.");
    for deployment in catalog.deployments() {
        page.sample(name, &labels_of_all(deployment), deployment.lost_runs().0 as f64);
    }
    type Pick = fn(&Snapshot) -> u64;
    let counters: [(&str, &str, Pick); 2] = [
        ("tiltyard_runs_given_up_total", "Runs that were given up as stuck.", |sum| sum.given_up),
        ("tiltyard_out_of_service_total", "Times that the version was taken out of service.", |sum| sum.times_out),
    ];
    for (name, help, pick) in counters {
        page.family(name, "counter", help);
        for row in rows {
            page.sample(name, &row.labels, pick(&row.sum) as f64);
        }
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
