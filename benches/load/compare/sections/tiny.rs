//! What does the front end cost, for a model that costs nothing?

use super::{COLUMNS, cells, cpu_ratio};
use crate::Fault;
use crate::compare::report::{Section, Table, number, percent};
use crate::compare::rounds::{self, Contender, Outcome, P50, THROUGHPUT};
use crate::compare::subjects::{Repository, Subject};
use crate::compare::{Ask, Bench, section_of, subjects};
use crate::payload::Protocol;

const MODEL: &str = "mlp";

pub(super) fn measure(bench: &Bench) -> Result<Section, Fault> {
    let mut repository = Repository::new(bench.folder("models-tiny"))?;
    repository.add(&bench.models, MODEL, MODEL, "")?;
    let servers = bench.start_all(&repository)?;
    let mut outcomes = Vec::new();
    let mut tables = Vec::new();
    for protocol in [Protocol::Grpc, Protocol::Http, Protocol::Json] {
        let echo = subjects::echo(protocol, MODEL)?;
        let tonic = match (&bench.tonic_echo, protocol) {
            (Some(binary), Protocol::Grpc) => Some(subjects::tonic(binary)?),
            _ => None,
        };
        let all: Vec<&Subject> = servers.iter().chain([&echo]).chain(&tonic).collect();
        for concurrency in [64, 1] {
            let case = format!("concurrency {concurrency}");
            let ask = Ask::closed(MODEL, protocol, concurrency);
            let contenders = all.iter().map(|subject| bench.contender(subject, case.as_str(), &ask));
            let measured = rounds::measure(&contenders.collect::<Result<Vec<_>, _>>()?, bench.rounds)?;
            tables.push(table(&format!("{MODEL}, {protocol}, {case}"), &measured));
            outcomes.extend(measured);
        }
        if protocol == Protocol::Grpc {
            // The same with requests that share reads and writes: the echo gains most by it.
            let contenders = all.iter().map(|subject| {
                let ask = Ask::closed(MODEL, protocol, 64);
                let mut contender: Contender = bench.contender(subject, "concurrency 64, 8 connections", &ask)?;
                contender.load.connections = 8;
                Ok::<_, Fault>(contender)
            });
            let measured = rounds::measure(&contenders.collect::<Result<Vec<_>, _>>()?, bench.rounds)?;
            tables.push(table(&format!("{MODEL}, {protocol}, concurrency 64 on 8 connections"), &measured));
            outcomes.extend(measured);
        }
    }
    Ok(Section { tables, ..section_of(outcomes) })
}

fn table(title: &str, outcomes: &[Outcome]) -> Table {
    let columns = ["subject", "of hyper echo", "of tonic echo", "CPU by hyper echo's", "p50 above echo's, µs"];
    let mut table = Table::new(title, &[&columns[..], &COLUMNS].concat());
    let echo = outcomes.iter().find(|outcome| outcome.subject == "hyper echo");
    let tonic = outcomes.iter().find(|outcome| outcome.subject == "tonic echo");
    let missing = || "–".to_owned();
    for outcome in outcomes {
        let share = |of: Option<&Outcome>| of.map_or_else(missing, |of| percent(outcome.ratio(of, THROUGHPUT)));
        let mut row = vec![outcome.subject.clone(), share(echo), share(tonic)];
        row.push(echo.map_or_else(missing, |echo| cpu_ratio(outcome, echo)));
        row.push(echo.map_or_else(missing, |echo| number(outcome.median(P50) - echo.median(P50))));
        row.extend(cells(outcome));
        table.rows.push(row);
    }
    table
}
