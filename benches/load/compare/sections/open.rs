//! Which latency comes with which load?

use super::{COLUMNS, cells, find};
use crate::Fault;
use crate::compare::plot::{Line, Plot};
use crate::compare::report::{Section, Table};
use crate::compare::rounds::{self, Figure, Outcome, P50, P99, THROUGHPUT};
use crate::compare::subjects::{Repository, Subject};
use crate::compare::{Ask, Bench, subjects};
use crate::payload::Protocol;
use crate::run::Pace;
use crate::schedule::Arrivals;

const CONCURRENCIES: [usize; 6] = [1, 4, 16, 64, 128, 256];

/// Of the throughput at saturation.
const FRACTIONS: [f64; 7] = [0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95];

const IN_FLIGHT_MAX: usize = 512;

pub(super) fn measure(bench: &Bench) -> Result<Section, Fault> {
    let mut section = Section::default();
    for &(model, longer) in &bench.only {
        let mut repository = Repository::new(bench.folder("models-open"))?;
        repository.add(&bench.models, model, model, "")?;
        let servers = bench.start_all(&repository)?;
        let echo = subjects::echo(Protocol::Grpc, model)?;
        let all: Vec<&Subject> = servers.iter().chain([&echo]).collect();
        let mut contenders = Vec::new();
        for concurrency in CONCURRENCIES {
            for subject in &all {
                let ask = Ask { longer, ..Ask::closed(model, Protocol::Grpc, concurrency) };
                contenders.push(bench.contender(subject, format!("concurrency {concurrency}"), &ask)?);
            }
        }
        let closed = rounds::measure(&contenders, bench.rounds)?;
        let saturation = closed
            .iter()
            .filter(|outcome| outcome.subject == "server")
            .map(|outcome| outcome.median(THROUGHPUT))
            .fold(0.0, f64::max);
        let mut contenders = Vec::new();
        for fraction in FRACTIONS {
            let arrivals = Arrivals::Poisson { rate: saturation * fraction };
            for subject in &all {
                let pace = Pace::Open { arrivals, in_flight_max: IN_FLIGHT_MAX };
                let ask = Ask { longer, pace, ..Ask::closed(model, Protocol::Grpc, 1) };
                contenders.push(bench.contender(subject, format!("{:.0} % load", fraction * 100.0), &ask)?);
            }
        }
        let open = rounds::measure(&contenders, bench.rounds)?;
        section.tables.push(table(&format!("{model}, grpc, closed loop"), &closed));
        section.tables.push(table(
            &format!("{model}, grpc, Poisson arrivals; 100 % load is {saturation:.0} requests/s for all"),
            &open,
        ));
        section.plots.push(throughput_plot(model, &all, &closed));
        section.plots.push(load_plot(model, &all, &open));
        section.outcomes.extend(closed.into_iter().chain(open));
    }
    Ok(section)
}

fn table(title: &str, outcomes: &[Outcome]) -> Table {
    let mut table = Table::new(title, &[&["case", "subject"][..], &COLUMNS].concat());
    for outcome in outcomes {
        let mut row = vec![outcome.case.clone(), outcome.subject.clone()];
        row.extend(cells(outcome));
        table.rows.push(row);
    }
    table
}

/// One line for each subject and quantile.
fn lines(all: &[&Subject], point: impl Fn(&str, Figure) -> Vec<(f64, f64)>) -> Vec<Line> {
    let quantiles: [(&str, Figure); 2] = [("p50", P50), ("p99", P99)];
    let line = |name: &str| {
        quantiles.map(|(quantile, figure)| Line { name: format!("{name}, {quantile}"), points: point(name, figure) })
    };
    all.iter().flat_map(|subject| line(&subject.name)).collect()
}

fn throughput_plot(model: &str, all: &[&Subject], outcomes: &[Outcome]) -> Plot {
    let point = |name: &str, figure: Figure| {
        let at =
            CONCURRENCIES.iter().filter_map(|concurrency| find(outcomes, name, &format!("concurrency {concurrency}")));
        at.map(|outcome| (outcome.median(THROUGHPUT), outcome.median(figure))).collect()
    };
    Plot {
        name: format!("throughput-latency-{model}"),
        title: format!("{model}, gRPC: throughput against latency, concurrency 1 to 256"),
        x: "requests/s".to_owned(),
        y: "latency, µs".to_owned(),
        lines: lines(all, point),
    }
}

fn load_plot(model: &str, all: &[&Subject], outcomes: &[Outcome]) -> Plot {
    let point = |name: &str, figure: Figure| {
        let at = FRACTIONS.iter().filter_map(|fraction| {
            let outcome = find(outcomes, name, &format!("{:.0} % load", fraction * 100.0))?;
            Some((fraction * 100.0, outcome.median(figure)))
        });
        at.collect()
    };
    Plot {
        name: format!("latency-load-{model}"),
        title: format!("{model}, gRPC: latency against load, Poisson arrivals"),
        x: "load, % of the server's throughput at saturation".to_owned(),
        y: "latency, µs".to_owned(),
        lines: lines(all, point),
    }
}
