//! What do more instances of one model cost in memory?

use crate::Fault;
use crate::compare::report::{Section, Table, number, times};
use crate::compare::rounds::{self, Outcome, median};
use crate::compare::subjects::Repository;
use crate::compare::{Ask, Bench, section_of};
use crate::payload::Protocol;

const INSTANCES: [usize; 2] = [1, 4];

pub(super) fn measure(bench: &Bench) -> Result<Section, Fault> {
    let mut section = Section::default();
    let columns = ["model", "subject", "1 instance, MB", "4 instances, MB", "by 1 instance"];
    let mut table = Table::new("Resident memory after load at concurrency 8, grpc", &columns);
    for &(model, longer) in &bench.only {
        for (name, binary) in &bench.servers {
            let mut outcomes: Vec<Outcome> = Vec::new();
            for _ in 0..bench.rounds {
                for instances in INSTANCES {
                    let mut repository = Repository::new(bench.folder("models-memory"))?;
                    repository.add(&bench.models, model, model, &format!("instances = {instances}\n"))?;
                    let server = bench.start(name, binary, &repository)?;
                    std::thread::sleep(bench.settle);
                    let ask = Ask { longer, ..Ask::closed(model, Protocol::Grpc, 8) };
                    let case = format!("{model}, instances = {instances}");
                    outcomes.extend(rounds::measure(&[bench.contender(&server, case, &ask)?], 1)?);
                }
            }
            let resident = |instances: usize| {
                let case = format!("{model}, instances = {instances}");
                let rounds = outcomes.iter().filter(|outcome| outcome.case == case).flat_map(|outcome| &outcome.rounds);
                let bytes = rounds.filter_map(|round| round.server.map(|server| server.memory.resident_bytes as f64));
                median(bytes.collect())
            };
            let (one, four) = (resident(1), resident(4));
            let figures = [number(one / 1e6), number(four / 1e6), times(four / one)];
            table.rows.push([model.to_owned(), (*name).to_owned()].into_iter().chain(figures).collect());
            section.outcomes.extend(section_of(outcomes).outcomes);
        }
    }
    section.tables.push(table);
    Ok(section)
}
