//! What do rules get to see of the server? Its counters, and how things stand that are no counters.

use std::collections::BTreeMap;

use tiltyard_runtime::stats::Snapshot;
use tiltyard_types::ErrorKind;

use super::Outside;
use super::conditions::View;
use super::history::{Figures, History, Sample, WAYS_MAX, Whose};
use crate::catalog::Endpoint;
use crate::clock;
use crate::ledger::Line;
use crate::rollouts::aim;
use crate::service::Service;

/// Failures that are the server's, whatever the client did.
fn is_ours(kind: ErrorKind) -> bool {
    match kind {
        ErrorKind::Engine | ErrorKind::NotReady | ErrorKind::Overloaded | ErrorKind::Deadline => true,
        ErrorKind::Invalid
        | ErrorKind::Unauthenticated
        | ErrorKind::Forbidden
        | ErrorKind::NotFound
        | ErrorKind::TooLarge
        | ErrorKind::Draining
        | ErrorKind::Cancelled
        | ErrorKind::Unsupported => false,
    }
}

/// Takes in the counters, and says how all else stands.
pub(super) fn view(service: &Service, mut history: History, outside: Option<&dyn Outside>) -> View {
    history.push(clock::now(), sample(service));
    let catalog = service.inference.catalog.load();
    let champions = catalog.endpoints.iter().filter_map(|(name, endpoint)| match endpoint {
        Endpoint::Planned(route) => Some((name.clone(), aim::champion(&route.plan).name.clone())),
        Endpoint::Newest(_) => None,
    });
    let config = service.live.config();
    View {
        now_ms: clock::unix_ms(),
        history,
        drifting: service.inference.drifts.drifting(),
        champions: champions.collect(),
        prices: [config.price_cpu_hour, config.price_device_hour],
        capture: capture_of(service).map(|(_, failing)| failing),
        registry: Some(service.rollouts.trouble().or_else(|| outside?.registry_trouble())),
        reviews: outside.map(Outside::reviews).unwrap_or_default(),
    }
}

fn sample(service: &Service) -> Sample {
    let catalog = service.inference.catalog.load();
    catalog.deployments().for_each(|deployment| service.ledger.open(deployment));
    let mut ways: BTreeMap<Whose, Figures> = service.ledger.lines(clock::now()).iter().flat_map(of_line).collect();
    for (who, tally) in service.rollouts.feedback.figures.arms() {
        let whose = Whose { endpoint: who.endpoint, arm: who.arm, model: who.model, version: who.version };
        let figures = ways.entry(whose).or_default();
        (figures.units, figures.outcomes) = (tally.units, tally.outcomes);
    }
    while ways.len() > WAYS_MAX {
        ways.pop_last();
    }
    Sample { ways, capture: capture_of(service).map(|(counts, _)| counts).unwrap_or_default() }
}

fn of_line(line: &Line) -> Vec<(Whose, Figures)> {
    // Versions that are long gone are one sum, which says nothing of any of them.
    let Some(version) = line.version else { return Vec::new() };
    let asked = line.counts.ways.iter().map(|(way, sum)| (way, figures(sum))).filter(|(_, one)| one.requests > 0);
    let whose = |(way, figures): (&tiltyard_runtime::stats::Way, Figures)| {
        let (endpoint, arm) = (way.endpoint.clone(), way.arm.clone());
        (Whose { endpoint, arm, model: line.model.clone(), version: version.to_string() }, figures)
    };
    asked.map(whose).collect()
}

fn figures(sum: &Snapshot) -> Figures {
    let failures = ErrorKind::ALL.iter().zip(&sum.failures);
    let failed = failures.filter(|(kind, _)| is_ours(**kind)).map(|(_, failures)| failures.count).sum::<u64>();
    Figures {
        requests: sum.success.count + failed,
        failed,
        rows: sum.rows,
        cpu_nanos: sum.cpu_nanos,
        device_nanos: sum.device_nanos,
        total: sum.total.clone(),
        units: 0,
        outcomes: 0.0,
    }
}

/// Requests that were to be captured and those that were dropped, and why segments cannot be written.
#[cfg(feature = "record")]
fn capture_of(service: &Service) -> Option<([u64; 2], Option<String>)> {
    let captures = service.inference.captures.as_ref()?;
    let counters = captures.counters();
    let reasons =
        tiltyard_capture::Reason::ALL.iter().filter(|reason| **reason != tiltyard_capture::Reason::NotSampled);
    let dropped = reasons.map(|reason| counters.dropped(*reason)).sum();
    Some(([counters.served, dropped], captures.state().failing))
}

/// A build without the record captures nothing.
#[cfg(not(feature = "record"))]
fn capture_of(_service: &Service) -> Option<([u64; 2], Option<String>)> {
    None
}
