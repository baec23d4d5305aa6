//! What does batching bring where the model allows it, and does it ever cost?

use super::{COLUMNS, cells, cpu_ratio, find};
use crate::Fault;
use crate::compare::report::{Section, Table, times};
use crate::compare::rounds::{self, THROUGHPUT};
use crate::compare::subjects::Repository;
use crate::compare::{Ask, Bench, section_of};
use crate::payload::Protocol;

const UNBATCHED: &str = "[batching]\nenabled = false\n";

pub(super) fn measure(bench: &Bench) -> Result<Section, Fault> {
    let mut repository = Repository::new(bench.folder("models-batching"))?;
    repository.add(&bench.models, "gbdt", "gbdt", "")?;
    repository.add(&bench.models, "gbdt", "gbdt_alone", UNBATCHED)?;
    let servers = bench.start_all(&repository)?;
    let mut contenders = Vec::new();
    for concurrency in [64, 8, 1] {
        for server in &servers {
            for (model, how) in [("gbdt", "batched"), ("gbdt_alone=gbdt", "unbatched")] {
                let ask = Ask::closed(model, Protocol::Grpc, concurrency);
                contenders.push(bench.contender(server, format!("concurrency {concurrency}, {how}"), &ask)?);
            }
        }
    }
    let outcomes = rounds::measure(&contenders, bench.rounds)?;
    let title = "gbdt, grpc: batched against unbatched";
    let columns = ["case", "subject", "throughput by unbatched", "CPU by unbatched"];
    let mut table = Table::new(title, &[&columns[..], &COLUMNS].concat());
    for outcome in &outcomes {
        let (concurrency, _) = outcome.case.rsplit_once(", ").ok_or("a case has no name")?;
        let unbatched = find(&outcomes, &outcome.subject, &format!("{concurrency}, unbatched"));
        let unbatched = unbatched.ok_or("nothing was measured unbatched")?;
        let mut row = vec![outcome.case.clone(), outcome.subject.clone()];
        row.extend([times(outcome.ratio(unbatched, THROUGHPUT)), cpu_ratio(outcome, unbatched)]);
        row.extend(cells(outcome));
        table.rows.push(row);
    }
    Ok(Section { tables: vec![table], ..section_of(outcomes) })
}
