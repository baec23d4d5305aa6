//! What have versions done so far, for who watches them live?

use serde_json::{Value, json};
use tiltyard_runtime::stats::Snapshot;
use tiltyard_types::ErrorKind;

use crate::clock;
use crate::ledger::Line;
use crate::service::Service;

/// Counts since the start, by the way that requests came and by version: whoever asks twice knows what happened in between.
pub(super) fn form(service: &Service) -> Value {
    let catalog = service.inference.catalog.load();
    catalog.deployments().for_each(|deployment| service.ledger.open(deployment));
    let lines = service.ledger.lines(clock::now());
    let arms: Vec<Value> = lines.iter().flat_map(arms).collect();
    let versions: Vec<Value> = catalog
        .deployments()
        .map(|deployment| {
            let (identity, runs) = (&deployment.identity, deployment.stats.runs());
            let instances = deployment.instances();
            json!({
                "model": identity.model, "version": identity.version.to_string(), "queued": deployment.queue_len(),
                "runs": runs.executions, "run_rows": runs.run_rows, "instances": instances.open,
                "running": instances.running,
            })
        })
        .collect();
    json!({ "unix_ms": clock::unix_ms(), "ready": service.is_ready(), "arms": arms, "versions": versions })
}

fn arms(line: &Line) -> impl Iterator<Item = Value> {
    line.counts.ways.iter().map(|(way, sum)| {
        json!({
            "endpoint": way.endpoint, "model": line.model, "version": line.version_label(), "arm": way.arm,
            "succeeded": sum.success.count, "failed": failed(sum), "rows": sum.rows,
            "cpu_ns": sum.cpu_nanos, "device_ns": sum.device_nanos, "times": sum.total.counts(),
        })
    })
}

/// What failed, whoever's mistake it was; clients that went away are nobody's.
fn failed(sum: &Snapshot) -> u64 {
    let counted = ErrorKind::ALL.iter().zip(&sum.failures).filter(|(kind, _)| **kind != ErrorKind::Cancelled);
    counted.map(|(_, failures)| failures.count).sum()
}
