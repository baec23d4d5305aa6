//! How close does serving come to running, for models of every size?

use std::path::Path;
use std::process::{Command, Stdio};

use super::{COLUMNS, cells};
use crate::Fault;
use crate::compare::report::{Section, Table, number, percent};
use crate::compare::rounds::{self, Contender, Outcome, THROUGHPUT, median};
use crate::compare::subjects::{Repository, Subject, fresh};
use crate::compare::{Ask, Bench, section_of};
use crate::limit::{AtRows, Limit};
use crate::model::Lengths;

const CONCURRENCIES: [usize; 3] = [1, 8, 64];

/// Texts of different lengths share a run: what fills the shorter ones up is not in the mask.
const PADDED: &str = "[batching.pad]\naxis = \"sequence\"\nvalues = { input_ids = 0, attention_mask = 0 }\n";

/// A model, how long its texts are, and what its `model.toml` says.
struct Work {
    model: &'static str,
    name: String,
    lengths: Lengths,
    settings: &'static str,
    longer: f64,
}

/// The models, with the text model three times.
fn works(bench: &Bench) -> Vec<Work> {
    let short = Lengths { shortest: 32, longest: 32 };
    let mut works = Vec::new();
    for &(model, longer) in &bench.only {
        works.push(Work { model, name: model.to_owned(), lengths: short, settings: "", longer });
        if model == "minilm" {
            let lengths = Lengths { shortest: 8, longest: 64 };
            let name = format!("{model}, 8 to 64 tokens");
            works.push(Work { model, name: name.clone(), lengths, settings: "", longer });
            works.push(Work { model, name: format!("{name}, padding declared"), lengths, settings: PADDED, longer });
        }
    }
    works
}

pub(super) fn measure(bench: &Bench) -> Result<Section, Fault> {
    let mut section = Section::default();
    for work in works(bench) {
        // A repository for each model: what the others do in idle time must not show in this one's figures.
        let mut repository = Repository::new(bench.folder("models-one"))?;
        repository.add(&bench.models, work.model, work.model, work.settings)?;
        // An older server may not know the settings.
        let count = if work.settings.is_empty() { bench.servers.len() } else { 1 };
        let servers = bench.start_some(&repository, count)?;
        let contenders = contenders(bench, &servers, &work)?;
        let mut outcomes: Vec<Outcome> = Vec::new();
        let mut limits: Vec<Limit> = Vec::new();
        for _ in 0..bench.rounds {
            limits.push(limit(bench, &work)?);
            let round = rounds::measure(&contenders, 1)?;
            match outcomes.is_empty() {
                true => outcomes = round,
                false => {
                    let mut rounds = round.into_iter().map(|outcome| outcome.rounds);
                    outcomes.iter_mut().for_each(|outcome| outcome.rounds.extend(rounds.next().into_iter().flatten()));
                }
            }
        }
        section.tables.push(table(&work.name, &outcomes, &limits));
        section.outcomes.extend(section_of(outcomes).outcomes);
        section.limits.extend(limits);
    }
    Ok(section)
}

fn contenders(bench: &Bench, servers: &[Subject], work: &Work) -> Result<Vec<Contender>, Fault> {
    let mut contenders = Vec::new();
    for &protocol in &bench.protocols {
        for concurrency in CONCURRENCIES {
            for server in servers {
                let closed = Ask::closed(work.model, protocol, concurrency);
                let ask = Ask { lengths: work.lengths, longer: work.longer, ..closed };
                let case = format!("{}, {protocol}, concurrency {concurrency}", work.name);
                contenders.push(bench.contender(server, case, &ask)?);
            }
        }
    }
    Ok(contenders)
}

/// One round of the limit, in a process of its own.
fn limit(bench: &Bench, work: &Work) -> Result<Limit, Fault> {
    let folder = bench.folder("limit");
    fresh(&folder)?;
    let json = folder.join("limit.json");
    let Lengths { shortest, longest } = work.lengths;
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("limit").arg("--file").arg(bench.models.join(work.model).join("1/model.onnx"));
    command.args(["--model", work.model, "--rounds", "1", "--lengths", &format!("{shortest}-{longest}")]);
    // There are eight batch sizes: together they get twice the time of one stretch.
    let each = bench.duration.mul_f64(work.longer) / 4;
    command.arg("--duration").arg(format!("{}ms", each.as_millis())).arg("--json").arg(&json);
    if let Some(library) = &bench.ort_lib {
        command.arg("--ort-lib").arg(library);
    }
    let status = command.stdout(Stdio::null()).status()?;
    if !status.success() {
        return Err(format!("the limit ended with {status}").into());
    }
    let limit: Limit = read(&json)?;
    let AtRows { rows, rows_per_second, .. } = limit.best;
    eprintln!("in process: {}: {rows_per_second:.0} rows/s with {rows} rows in each run", work.name);
    Ok(limit)
}

fn read(path: &Path) -> Result<Limit, Fault> {
    Ok(serde_json::from_slice(&std::fs::read(path)?)?)
}

fn table(name: &str, outcomes: &[Outcome], limits: &[Limit]) -> Table {
    let of_limit = |figure: fn(&Limit) -> f64| median(limits.iter().map(figure).collect());
    let best_rows = of_limit(|limit| limit.best.rows as f64);
    let title = format!(
        "{name}: in process {} inferences/s with {best_rows:.0} rows in each run ({} µs CPU), {} with one row ({} µs CPU)",
        number(of_limit(|limit| limit.best.rows_per_second)),
        number(of_limit(|limit| limit.best.cpu_us_per_row)),
        number(of_limit(|limit| limit.single.rows_per_second)),
        number(of_limit(|limit| limit.single.cpu_us_per_row)),
    );
    let mut table = Table::new(title, &[&["case", "subject", "of the limit"][..], &COLUMNS].concat());
    for outcome in outcomes {
        let shares = outcome.rounds.iter().zip(limits);
        let share = shares.map(|(round, limit)| THROUGHPUT(round) / limit.best.rows_per_second).collect();
        let mut row = vec![outcome.case.clone(), outcome.subject.clone(), percent(median(share))];
        row.extend(cells(outcome));
        table.rows.push(row);
    }
    table
}
