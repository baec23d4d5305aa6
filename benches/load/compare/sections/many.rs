//! What do a thousand small models cost: at the start, in memory, and for one of them that is asked?

use super::{COLUMNS, cells, find};
use crate::Fault;
use crate::compare::report::{Section, Table, number, times};
use crate::compare::rounds::{self, P50};
use crate::compare::subjects::{Repository, Subject};
use crate::compare::{Ask, Bench, section_of};
use crate::payload::Protocol;
use crate::process;
use crate::template::with_note;

pub(super) fn measure(bench: &Bench) -> Result<Section, Fault> {
    let file = bench.models.join("mlp/1/model.onnx");
    let bytes = std::fs::read(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    let [one, many] = [1, bench.many].map(|count| repository(bench, &bytes, count));
    let (one, many) = (one?, many?);
    let mut memory = Table::new(
        format!("{} models of {:.3} MB each", bench.many, bytes.len() as f64 / 1e6),
        &["subject", "ready after, s", "with 1 model, MB", "with all, MB", "per model, MB", "2 x file + 1 MB"],
    );
    let mut contenders = Vec::new();
    let mut started: Vec<Subject> = Vec::new();
    for (name, binary) in &bench.servers {
        let pair = [("one", &one), ("many", &many)].map(|(which, repository)| {
            let mut subject = bench.start(&format!("{name}-{which}"), binary, repository)?;
            (*name).clone_into(&mut subject.name);
            std::thread::sleep(bench.settle);
            Ok::<_, Fault>(subject)
        });
        let [alone, among] = pair;
        let (alone, among) = (alone?, among?);
        let resident = |subject: &Subject| Ok::<_, Fault>(process::memory(subject.pid())?.resident_bytes as f64 / 1e6);
        let (with_one, with_all) = (resident(&alone)?, resident(&among)?);
        let per_model = (with_all - with_one) / (bench.many.max(2) - 1) as f64;
        let mut row = vec![(*name).to_owned(), format!("{:.2}", among.ready_after.as_secs_f64())];
        row.extend([number(with_one), number(with_all), format!("{per_model:.3}")]);
        row.push(format!("{:.3}", 2.0 * bytes.len() as f64 / 1e6 + 1.0));
        memory.rows.push(row);
        for concurrency in [1, 64] {
            for (subject, count) in [(&alone, 1), (&among, bench.many)] {
                let ask = Ask::closed("mlp_0=mlp", Protocol::Grpc, concurrency);
                contenders.push(bench.contender(
                    subject,
                    format!("concurrency {concurrency}, {count} loaded"),
                    &ask,
                )?);
            }
        }
        started.extend([alone, among]);
    }
    let outcomes = rounds::measure(&contenders, bench.rounds)?;
    let mut latency = Table::new("One model, grpc", &[&["case", "subject", "p50 by 1 loaded"][..], &COLUMNS].concat());
    for outcome in &outcomes {
        let (concurrency, _) = outcome.case.rsplit_once(", ").ok_or("a case has no name")?;
        let alone = find(&outcomes, &outcome.subject, &format!("{concurrency}, 1 loaded"));
        let ratio = outcome.ratio(alone.ok_or("nothing was measured with one model")?, P50);
        let mut row = vec![outcome.case.clone(), outcome.subject.clone(), times(ratio)];
        row.extend(cells(outcome));
        latency.rows.push(row);
    }
    Ok(Section { tables: vec![memory, latency], ..section_of(outcomes) })
}

fn repository(bench: &Bench, bytes: &[u8], count: usize) -> Result<Repository, Fault> {
    let mut repository = Repository::new(bench.folder(&format!("models-many-{count}")))?;
    for number in 0..count {
        repository.add_bytes(&with_note(bytes, &format!("copy {number}")), &format!("mlp_{number}"))?;
    }
    Ok(repository)
}
