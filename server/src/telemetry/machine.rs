//! What do versions take of the machine, and what does that cost?

use tiltyard_runtime::deployment::Deployment;
use tiltyard_runtime::stats::Snapshot;

use super::page::Page;
use super::{Row, labels_of_all};
use crate::catalog::Catalog;

/// Writes what runs took, by the way that their requests came, and what each version has. `prices` are those of an hour of a
/// processor and of a device.
pub(super) fn families(page: &mut Page, ways: &[Row], catalog: &Catalog, prices: [f64; 2]) {
    let seconds = |nanos: u64| nanos as f64 / 1e9;
    let name = "tiltyard_run_cpu_seconds_total";
    page.family(name, "counter", "Processors' time in the engine: of each run, each request's part by its rows.");
    for row in ways {
        page.sample(name, &row.labels, seconds(row.sum.cpu_nanos));
    }
    let name = "tiltyard_run_device_seconds_total";
    page.family(name, "counter", "Devices' time in the engine, in the same way; only of versions that run on one.");
    for row in ways.iter().filter(|row| row.sum.device_nanos > 0) {
        page.sample(name, &row.labels, seconds(row.sum.device_nanos));
    }
    if prices.iter().any(|price| *price > 0.0) {
        let cost = |sum: &Snapshot| seconds(sum.cpu_nanos) * prices[0] + seconds(sum.device_nanos) * prices[1];
        let name = "tiltyard_spend_total";
        page.family(name, "counter", "What that time cost by price_cpu_hour and price_device_hour, in their currency.");
        for row in ways {
            page.sample(name, &row.labels, cost(&row.sum) / 3600.0);
        }
    }
    type Pick = fn(&Deployment) -> usize;
    let gauges: [(&str, &str, Pick); 3] = [
        ("tiltyard_instances", "Sessions of the engine that are open.", |deployment| deployment.instances().open),
        ("tiltyard_instances_running", "Those of them that run something now.", |deployment| {
            deployment.instances().running
        }),
        (
            "tiltyard_deployment_bytes",
            "Bytes of the version's files; what an engine takes beyond that is in the process's memory.",
            |deployment| usize::try_from(deployment.identity.size).unwrap_or(usize::MAX),
        ),
    ];
    for (name, help, pick) in gauges {
        page.family(name, "gauge", help);
        for deployment in catalog.deployments() {
            page.sample(name, &labels_of_all(deployment), pick(deployment) as f64);
        }
    }
}
