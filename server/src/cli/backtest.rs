//! Is a version better than another on rows whose labels are known? Before any user is touched, in this process.
//!
//! Rows are read one by one, those that count are asked of both versions many at a time, and the judge of rollouts weighs what
//! came out: `backtest/weigh.rs`.

mod batch;
mod columns;
mod contender;
pub(super) mod dates;
mod gate;
mod history;
mod options;
mod prediction;
mod reading;
mod report;
mod weigh;

use clap::{ArgMatches, Command};
use serde_json::Value;
use tiltyard_runtime::job::Pending;
use tiltyard_types::Tensor;

use self::batch::Batch;
use self::columns::Columns;
use self::contender::Contender;
use self::gate::Gate;
use self::history::{Fault, History};
use self::options::Options;
use self::prediction::Said;
use self::reading::Reading;
use self::report::Report;
use self::weigh::{Row, Verdict, Weighed, plan};
use super::exit::{Exit, Failure};
use super::output::{self, Form};
use super::{progress, settings};

/// Inputs of champion and challenger for the rows of a batch.
type Inputs = [Vec<Option<Tensor>>; 2];

pub(crate) fn command() -> Command {
    options::command()
}

pub(crate) fn run(matches: &ArgMatches) -> Result<Exit, Failure> {
    let gate = Gate::of(matches)?;
    let (told, report, exit) = judge(matches)?;
    output::print(&told)?;
    if let Some(gate) = gate {
        gate.answer(&report)?;
    }
    Ok(exit)
}

/// What is to be told, to people and to programs, and how the command ends.
fn judge(matches: &ArgMatches) -> Result<(String, Value, Exit), Failure> {
    let options = Options::of(matches)?;
    let history = History::open(&options.rows)?;
    let loaded = settings::load(matches)?;
    settings::warn(&loaded);
    let load = |side: usize| Contender::load(&loaded.config, &options.models[side], &options, side);
    let contenders = [load(0)?, load(1)?];
    let versions = contenders.each_ref().map(|contender| {
        let identity = &contender.deployment.identity;
        (identity.model.clone(), identity.version)
    });
    let plan = plan(&options, versions);
    let weighed = Weighed::new(plan.clone(), options.loss.is_binary(), &options.slices).map_err(Failure::usage)?;
    let columns = Columns::find(&options, &contenders, &history)?;
    let reading = Reading::new(history, &options, columns);
    let mut backtest = Backtest { contenders: &contenders, reading, weighed };
    backtest.weigh_all()?;
    let Backtest { reading, weighed, .. } = backtest;
    let notes = reading.notes();
    let report = Report {
        options: &options,
        history: reading.shown(),
        place: reading.place(),
        contenders: &contenders,
        plan: &plan,
        counts: reading.counts,
        weighed: &weighed,
        faults: &reading.faults,
        unused: &reading.columns.unused,
        notes: &notes,
    };
    let form = report.form();
    let told = match Form::of(matches) {
        Form::Json => format!("{form:#}\n"),
        Form::Table => report.listing(),
    };
    let exit = match weighed.verdict() {
        Verdict::Promote => Exit::Done,
        Verdict::Worse => Exit::RolledBack,
        Verdict::NotEnough | Verdict::Halted | Verdict::Refused => Exit::Refused,
    };
    Ok((told, form, exit))
}

struct Backtest<'a> {
    contenders: &'a [Contender; 2],
    reading: Reading,
    weighed: Weighed,
}

impl Backtest<'_> {
    /// Reads, asks and weighs, a batch at a time. While one is answered the next one is read.
    fn weigh_all(&mut self) -> Result<(), Failure> {
        let bar = progress::bar("rows", None);
        let rows_max = self.contenders.iter().map(Contender::rows_max).min().unwrap_or(1);
        let mut asked: Option<(Batch, [Pending; 2])> = None;
        loop {
            let mut batch = self.reading.next_batch(rows_max)?;
            let is_last = batch.rows() == 0;
            let inputs = if is_last { None } else { self.inputs(&mut batch)? };
            if let Some((batch, pending)) = asked.take() {
                self.weigh(&batch, pending)?;
            }
            bar.set_position(self.reading.counts.read);
            if is_last {
                break;
            }
            if let Some([a, b]) = inputs {
                asked = Some((batch, [self.contenders[0].ask(a)?, self.contenders[1].ask(b)?]));
            }
        }
        bar.finish_and_clear();
        self.reading.check_labels()?;
        self.weighed.finish().map_err(Failure::failed)
    }

    /// The inputs of both for all rows of a batch that have good values; the others are taken out of it. `None` where none are
    /// left.
    fn inputs(&mut self, batch: &mut Batch) -> Result<Option<Inputs>, Failure> {
        loop {
            match make_inputs(self.contenders, batch, 0..batch.rows(), &self.reading.columns) {
                Ok(inputs) => return Ok(Some(inputs)),
                Err(message) => {
                    let one =
                        |row: usize| make_inputs(self.contenders, batch, row..row + 1, &self.reading.columns).err();
                    let bad: Vec<Option<String>> = (0..batch.rows()).map(one).collect();
                    if bad.iter().all(Option::is_none) {
                        return Err(Failure::failed(message));
                    }
                    for (row, message) in bad.iter().enumerate() {
                        if let Some(message) = message.clone() {
                            self.reading.fault(Fault { line: batch.line(row), message })?;
                        }
                    }
                    batch.retain(|row| bad[row].is_none());
                    if batch.rows() == 0 {
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// Takes in the answers to a batch.
    fn weigh(&mut self, batch: &Batch, pending: [Pending; 2]) -> Result<(), Failure> {
        let rows = batch.rows();
        let place = |failure: Failure| {
            let lines = format!("{}s {} to {}", self.reading.place(), batch.line(0), batch.line(rows - 1));
            failure.at(&lines)
        };
        let [a, b] = pending;
        let said =
            [self.contenders[0].answers(a, rows).map_err(place)?, self.contenders[1].answers(b, rows).map_err(place)?];
        for (row, (a, b)) in said[0].iter().zip(&said[1]).enumerate() {
            let label = self.reading.label(batch, row);
            let weighed = weigh_row(self.contenders, &label, [a, b]);
            let slices = self.reading.slices(batch, row);
            match (weighed, slices) {
                (Ok(weighed), Ok(slices)) => {
                    let slices = slices.iter().map(AsRef::as_ref);
                    self.weighed.add(weighed, slices).map_err(Failure::failed)?;
                    self.reading.counts.counted += 1;
                }
                (Err(message), _) | (_, Err(message)) => {
                    self.reading.fault(Fault { line: batch.line(row), message })?;
                }
            }
        }
        Ok(())
    }
}

fn make_inputs(
    contenders: &[Contender; 2],
    batch: &Batch,
    rows: std::ops::Range<usize>,
    columns: &Columns,
) -> Result<Inputs, String> {
    let [champion, challenger] = contenders;
    let first = champion.inputs(batch, rows.clone(), &columns.fields[0])?;
    // Tensors share their bytes.
    let second = match champion.takes_the_same(challenger) {
        true => first.clone(),
        false => challenger.inputs(batch, rows, &columns.fields[1])?,
    };
    Ok([first, second])
}

fn weigh_row([champion, challenger]: &[Contender; 2], label: &str, [a, b]: [&Said; 2]) -> Result<Row, String> {
    let [champion, challenger] = [&champion.prediction, &challenger.prediction];
    let losses =
        [champion.loss(a, &champion.read_label(label, a)?), challenger.loss(b, &challenger.read_label(label, b)?)];
    let no_answer = [a, b].map(|said| *said == Said::Nothing);
    Ok(Row { losses, no_answer, distance: champion.distance(a, challenger, b) })
}

#[cfg(test)]
mod tests;
