//! How fast is ONNX Runtime by itself, with nothing around it, at its best batch size?
//!
//! One session for each thread, one thread for each run: of all settings measured so far the one with the most rows per
//! second on a CPU. The inputs are made before, and each run builds only the library's own handles on them.

use std::path::PathBuf;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use clap::{ArgMatches, Command, value_parser};
use ort::session::{Session, SessionInputValue};
use ort::value::TensorRef;
use serde::{Deserialize, Serialize};
use tiltyard_benches::onnxruntime::{find_library, session};

use crate::Fault;
use crate::arguments::{count, count_of, flag, optional, parse_duration, value};
use crate::model::{AskedModel, Lengths, ModelForm, Values};
use crate::process;
use crate::random::Random;

/// Different batches of each size, run in turns: texts differ in length.
const BATCHES: usize = 16;

/// A larger batch is not tried once this many rows per second of the best are reached no more.
const WORTH_TRYING: f64 = 0.7;

/// The command line of `limit`.
pub(crate) fn command() -> Command {
    Command::new("limit")
        .about("Runs a model in process with ONNX Runtime, over batch sizes: the limit of compute")
        .arg(optional("file", value_parser!(PathBuf), "The model.onnx").required(true))
        .arg(
            optional(
                "model",
                value_parser!(AskedModel),
                "What it takes: a model of the benches, or NAME=INPUT:KIND:AXES",
            )
            .required(true),
        )
        .arg(flag(
            "lengths",
            "32",
            value_parser!(Lengths),
            "Tokens in each text, such as 32 or 8-64; a batch is padded to its longest",
        ))
        .arg(flag(
            "threads",
            "0",
            value_parser!(u32).range(0..=1024),
            "Threads that run at the same time; 0 takes all cores",
        ))
        .arg(count("rows-max", "128", "The largest batch"))
        .arg(flag("duration", "400ms", parse_duration, "Of each measurement"))
        .arg(count("rounds", "3", "Measurements of each batch size, in turns; medians are told"))
        .arg(optional("ort-lib", value_parser!(PathBuf), "The library; else that of ORT_DYLIB_PATH or VIRTUAL_ENV"))
        .arg(optional("json", value_parser!(PathBuf), "A file for the outcome as JSON"))
}

/// What one batch size gave.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct AtRows {
    /// Rows in each run.
    pub(crate) rows: usize,
    /// Over all threads.
    pub(crate) rows_per_second: f64,
    /// Processor time of all threads.
    pub(crate) cpu_us_per_row: f64,
}

/// The limit of a model on this machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Limit {
    pub(crate) model: String,
    pub(crate) threads: usize,
    pub(crate) by_rows: Vec<AtRows>,
    /// One row in each run.
    pub(crate) single: AtRows,
    /// The batch size with the most rows per second.
    pub(crate) best: AtRows,
}

/// Runs `limit`.
pub(crate) fn main(matches: &ArgMatches) -> Result<(), Fault> {
    let model: AskedModel = value(matches, "model")?;
    let threads = match value::<u32>(matches, "threads")? as usize {
        0 => std::thread::available_parallelism()?.get(),
        threads => threads,
    };
    let library = find_library(matches.get_one("ort-lib"))?;
    let environment = ort::init_from(&library).map_err(|error| format!("{}: {error}", library.display()))?.build()?;
    let file: PathBuf = value(matches, "file")?;
    let mut sessions = (0..threads).map(|_| session(&environment, &file)).collect::<Result<Vec<_>, _>>()?;
    let work = Work {
        form: &model.form,
        lengths: value(matches, "lengths")?,
        rows_max: count_of(matches, "rows-max")?,
        duration: value(matches, "duration")?,
        rounds: count_of(matches, "rounds")?,
    };
    let by_rows = work.measure(&mut sessions)?;
    let limit = told(model.name, threads, by_rows).ok_or("nothing was measured")?;
    println!("{}", table(&limit));
    if let Some(path) = matches.get_one::<PathBuf>("json") {
        let text = serde_json::to_string_pretty(&limit)?;
        std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}

/// What is measured, and how long.
struct Work<'a> {
    form: &'a ModelForm,
    lengths: Lengths,
    rows_max: usize,
    duration: Duration,
    rounds: usize,
}

/// The inputs of one run.
type Batch = Vec<(Vec<i64>, Values)>;

impl Work<'_> {
    /// All batch sizes in turns, so that what disturbs the machine for longer disturbs them all; medians.
    fn measure(&self, sessions: &mut [Session]) -> Result<Vec<AtRows>, Fault> {
        let mut sizes: Vec<(usize, Vec<Batch>)> = Vec::new();
        let mut figures: Vec<Vec<AtRows>> = Vec::new();
        let mut best = 0.0f64;
        for rows in (0..).map(|power| 1usize << power).take_while(|rows| *rows <= self.rows_max) {
            let batches = self.batches(rows);
            // The first time is for the library's own memory, which it takes when it sees a shape.
            once(sessions, &batches)?;
            let figure = self.one(sessions, rows, &batches)?;
            if figure.rows_per_second < best * WORTH_TRYING {
                break;
            }
            best = best.max(figure.rows_per_second);
            sizes.push((rows, batches));
            figures.push(vec![figure]);
        }
        for _ in 1..self.rounds {
            for ((rows, batches), figures) in sizes.iter().zip(&mut figures) {
                figures.push(self.one(sessions, *rows, batches)?);
            }
        }
        Ok(figures.iter_mut().filter_map(|figures| median(figures)).collect())
    }

    fn batches(&self, rows: usize) -> Vec<Batch> {
        let mut random = Random::new(rows as u64);
        let batch = |_| {
            // A batch is as long as its longest text. Padding's content does not change the time.
            let length = (0..rows).map(|_| self.lengths.draw(&mut random)).max().unwrap_or(1);
            let input = self.form.inputs.iter().map(|input| {
                let shape = input.shape(rows, length);
                let values = input.values(shape.iter().product(), &mut random);
                (shape.iter().map(|&axis| axis as i64).collect(), values)
            });
            input.collect()
        };
        (0..BATCHES).map(batch).collect()
    }

    /// All threads at once, for the duration.
    fn one(&self, sessions: &mut [Session], rows: usize, batches: &[Batch]) -> Result<AtRows, Fault> {
        let own = std::process::id();
        let barrier = Barrier::new(sessions.len() + 1);
        let (runs, took, cpu) = std::thread::scope(|scope| -> Result<_, Fault> {
            let threads: Vec<_> = sessions
                .iter_mut()
                .map(|session| {
                    let barrier = &barrier;
                    scope.spawn(move || {
                        barrier.wait();
                        let end = Instant::now() + self.duration;
                        let mut runs = 0usize;
                        while Instant::now() < end {
                            run(session, &batches[runs % batches.len()])?;
                            runs += 1;
                        }
                        Ok::<_, ort::Error>(runs)
                    })
                })
                .collect();
            let before = process::cpu_time(own)?;
            barrier.wait();
            let began = Instant::now();
            let mut runs = 0;
            for thread in threads {
                runs += thread.join().map_err(|_| "a thread of the limit panicked")??;
            }
            Ok((runs, began.elapsed(), process::cpu_time(own)?.saturating_sub(before)))
        })?;
        let all = (runs * rows) as f64;
        Ok(AtRows {
            rows,
            rows_per_second: all / took.as_secs_f64(),
            cpu_us_per_row: cpu.as_secs_f64() * 1e6 / all.max(1.0),
        })
    }
}

fn once(sessions: &mut [Session], batches: &[Batch]) -> Result<(), ort::Error> {
    for session in sessions {
        for batch in batches.iter().take(2) {
            run(session, batch)?;
        }
    }
    Ok(())
}

fn run(session: &mut Session, batch: &Batch) -> Result<(), ort::Error> {
    let inputs = batch.iter().map(|(shape, values)| {
        Ok(match values {
            Values::Fp32(values) => {
                SessionInputValue::from(TensorRef::from_array_view((shape.as_slice(), values.as_slice()))?)
            }
            Values::Int64(values) => {
                SessionInputValue::from(TensorRef::from_array_view((shape.as_slice(), values.as_slice()))?)
            }
        })
    });
    let inputs = inputs.collect::<Result<Vec<_>, ort::Error>>()?;
    drop(session.run(inputs.as_slice())?);
    Ok(())
}

/// The one in the middle by rows per second.
fn median(figures: &mut [AtRows]) -> Option<AtRows> {
    figures.sort_by(|one, other| one.rows_per_second.total_cmp(&other.rows_per_second));
    figures.get(figures.len() / 2).copied()
}

fn told(model: String, threads: usize, by_rows: Vec<AtRows>) -> Option<Limit> {
    let best = by_rows.iter().copied().max_by(|one, other| one.rows_per_second.total_cmp(&other.rows_per_second))?;
    Some(Limit { model, threads, single: *by_rows.first()?, best, by_rows })
}

fn table(limit: &Limit) -> String {
    let mut text =
        format!("{} on {} threads\n{:>6} {:>14} {:>12}", limit.model, limit.threads, "rows", "rows/s", "CPU µs/row");
    for AtRows { rows, rows_per_second, cpu_us_per_row } in &limit.by_rows {
        let mark = if *rows == limit.best.rows { " best" } else { "" };
        text += &format!("\n{rows:>6} {rows_per_second:>14.0} {cpu_us_per_row:>12.3}{mark}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(rows: usize, rows_per_second: f64) -> AtRows {
        AtRows { rows, rows_per_second, cpu_us_per_row: 1e6 / rows_per_second }
    }

    #[test]
    fn the_best_batch_is_the_one_with_the_most_rows() {
        let limit = told("m".into(), 2, vec![at(1, 100.0), at(2, 300.0), at(4, 200.0)]).expect("there are figures");
        assert_eq!((limit.single.rows, limit.best.rows), (1, 2));
        assert!(table(&limit).contains("     2            300     3333.333 best"), "{}", table(&limit));
        assert_eq!(told("m".into(), 2, Vec::new()), None);
    }

    #[test]
    fn medians_go_by_rows_per_second() {
        assert_eq!(median(&mut [at(1, 3.0), at(1, 1.0), at(1, 2.0)]), Some(at(1, 2.0)));
        assert_eq!(median(&mut []), None);
    }

    #[test]
    fn a_batch_is_as_long_as_its_longest_text() {
        let form = ModelForm::known("minilm").expect("it is known");
        let work = Work {
            form: &form,
            lengths: Lengths { shortest: 2, longest: 9 },
            rows_max: 4,
            duration: Duration::ZERO,
            rounds: 1,
        };
        for batch in work.batches(64) {
            let shapes: Vec<&[i64]> = batch.iter().map(|(shape, _)| shape.as_slice()).collect();
            assert_eq!(shapes, [&[64, 9][..], &[64, 9][..]]);
        }
    }
}
