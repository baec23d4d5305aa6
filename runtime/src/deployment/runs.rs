//! How does a batch run, and what do its jobs get?

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use smallvec::SmallVec;
use tiltyard_types::{Error, ErrorKind, Moment, Result, Tensor};

use super::Deployment;
use super::leases::Running;
use crate::batch::{BatchError, Extent, Layout};
use crate::job::{Answer, Job, Mark};
use crate::pool::Pool;
use crate::stats::RunTimes;

/// Jobs that run together, and those that the same thread runs after them.
struct Batch {
    jobs: Vec<Job>,
    later: Vec<Job>,
    taken: Moment,
    on_loop: bool,
}

/// What a session gets to run.
struct Assembled {
    /// How rows of different requests lie in it, where they may.
    layout: Option<Arc<Layout>>,
    parts: SmallVec<[Extent; 1]>,
    frame: Extent,
    inputs: Vec<Option<Tensor>>,
    /// Positions of outputs, ascending, each once.
    wanted: Vec<usize>,
    /// Padding included.
    rows: usize,
}

/// What became of a batch.
struct Ran {
    answers: Result<Vec<Answer>>,
    jobs: Vec<Job>,
    later: Vec<Job>,
}

/// A run hung for so long that others answered its jobs.
#[derive(Debug)]
pub(super) struct GivenUp;

/// The number of the next run of the process, from 1.
fn next_run() -> u64 {
    static RUNS: AtomicU64 = AtomicU64::new(0);
    RUNS.fetch_add(1, Relaxed) + 1
}

/// The marks of jobs, where there are several.
fn mates(jobs: &[Job]) -> Option<Arc<[Mark]>> {
    let marks = || jobs.iter().filter_map(|job| job.demand.mark);
    marks().nth(1).map(|_| marks().collect())
}

fn internal(error: &BatchError) -> Error {
    Error::new(ErrorKind::Engine, error.to_string())
}

impl Deployment {
    /// Runs a batch, and where it fails each of its jobs alone: strangers must not pay for one job's values.
    pub(super) fn run_batch(
        &self,
        mut jobs: Vec<Job>,
        taken: Moment,
        on_loop: bool,
        pool: &Pool,
    ) -> Result<(), GivenUp> {
        // The next is the last.
        let mut later: Vec<Job> = Vec::new();
        loop {
            jobs.iter_mut().for_each(Job::trim);
            let ran = self.run_together(Batch { jobs, later, taken, on_loop }, pool)?;
            later = ran.later;
            match ran.answers {
                Ok(answers) => {
                    for (job, answer) in ran.jobs.into_iter().zip(answers) {
                        job.reply.send(Ok(answer));
                    }
                }
                Err(_) if ran.jobs.len() > 1 => later.extend(ran.jobs.into_iter().rev()),
                Err(error) => ran.jobs.into_iter().for_each(|job| job.reply.send(Err(error.clone()))),
            }
            match self.next_wanted(&mut later, pool) {
                Some(job) => jobs = vec![job],
                None => return Ok(()),
            }
        }
    }

    /// The last of these jobs that somebody still waits for. The run that failed took its time too: those before it that
    /// are late are answered.
    fn next_wanted(&self, later: &mut Vec<Job>, pool: &Pool) -> Option<Job> {
        while let Some(job) = later.pop() {
            let now = pool.now();
            match job.demand.deadline {
                _ if job.reply.is_closed() => {}
                Some(deadline) if deadline <= now => self.refuse_dead(vec![job], now),
                _ => return Some(job),
            }
        }
        None
    }

    /// Assemble, run, split.
    fn run_together(&self, batch: Batch, pool: &Pool) -> Result<Ran, GivenUp> {
        let Batch { mut jobs, later, taken, on_loop } = batch;
        let (assembled, put_together) = loop {
            let put_together = self.assemble(&jobs);
            let assembled = pool.now();
            // That took time too. No run is for those who are late by now, or have gone: the others' is put together without
            // them.
            let is_dead = |job: &mut Job| {
                job.reply.is_closed() || job.demand.deadline.is_some_and(|deadline| deadline <= assembled)
            };
            let dead: Vec<Job> = jobs.extract_if(.., is_dead).collect();
            if dead.is_empty() {
                break (assembled, put_together);
            }
            self.refuse_dead(dead, assembled);
            if jobs.is_empty() {
                return Ok(Ran { answers: Ok(Vec::new()), jobs, later });
            }
        };
        let Assembled { layout, parts, frame, inputs, wanted, rows } = match put_together {
            Ok(assembled) => assembled,
            Err(error) => return Ok(Ran { answers: Err(internal(&error)), jobs, later }),
        };
        let batch_rows = parts.iter().map(|part| part.rows).sum();
        let deadlines: SmallVec<[Moment; 4]> = jobs.iter().filter_map(|job| job.demand.deadline).collect();
        let (number, mates) = (next_run(), mates(&jobs));
        let (slot, idle) = self.leases.lease(Running { number, since: assembled, rows, on_loop, jobs, later });
        let waited = pool.kept_waiting();
        let meter = self.meter(rows, pool);
        let (outputs, opened) = self.in_session(idle, |session| {
            if !deadlines.is_empty() {
                let begun = pool.now();
                self.stats.late(deadlines.iter().filter(|deadline| **deadline <= begun).count());
            }
            session.run(&inputs, &wanted)
        });
        // Whoever gave it up has answered its jobs.
        let Running { jobs, later, .. } = self.leases.give_back(slot, opened).ok_or(GivenUp)?;
        let outputs = match outputs {
            Ok(outputs) => outputs,
            Err(error) => {
                return Ok(Ran { answers: Err(self.failure(error, assembled, pool).in_run(number)), jobs, later });
            }
        };
        let (ran, waited) = (pool.now(), pool.kept_waiting().saturating_sub(waited));
        let run = (ran - assembled).saturating_sub(waited);
        let used = self.used(meter, run, pool);
        let apart = self.check_outputs(&outputs, &wanted).and_then(|()| match &layout {
            // Where rows are proved independent, also a lone job's outputs must have a row for each of its own.
            Some(layout) => layout.split(&outputs, &wanted, &parts, frame).map_err(|error| internal(&error)),
            None => Ok(vec![outputs]),
        });
        let apart = match apart {
            Ok(apart) => apart,
            Err(error) => {
                self.blame(error.message(), ran, pool);
                return Ok(Ran { answers: Err(error.in_run(number)), jobs, later });
            }
        };
        self.health.ran_well();
        let times = RunTimes { assemble: assembled - taken, run, split: pool.now() - ran };
        self.stats.executed(batch_rows, times);
        self.observe(rows, &inputs, times.run);
        let answers = jobs.iter().zip(apart).map(|(job, outputs)| {
            let pick = |position: &usize| outputs.get(wanted.binary_search(position).ok()?).cloned();
            // Most want all there is, in its order.
            let outputs = if job.wanted == wanted { outputs } else { job.wanted.iter().filter_map(pick).collect() };
            let (rows, enqueued, used) = (job.rows, job.enqueued, used.part(job.rows, batch_rows));
            let (queue, mates) = (taken - enqueued, mates.clone());
            Answer { outputs, rows, enqueued, queue, times, used, batch_rows, run: number, mates }
        });
        Ok(Ran { answers: Ok(answers.collect()), jobs, later })
    }

    /// Whether an engine gave what was asked of it. Shapes are not compared: files declare some that are not true, and where
    /// rows matter they are counted when they are cut apart.
    fn check_outputs(&self, outputs: &[Tensor], wanted: &[usize]) -> Result<()> {
        if outputs.len() != wanted.len() {
            let message = format!("the engine gave {} outputs, expected {}", outputs.len(), wanted.len());
            return Err(Error::new(ErrorKind::Engine, message));
        }
        let mut specs = wanted.iter().filter_map(|&position| self.signature.outputs.get(position)).zip(outputs);
        match specs.find(|(spec, output)| spec.dtype != output.dtype()) {
            None => Ok(()),
            Some((spec, output)) => {
                let (name, got, expected) = (&spec.name, output.dtype(), spec.dtype);
                let message = format!("the engine gave output {name:?} as {got}, expected {expected}");
                Err(Error::new(ErrorKind::Engine, message))
            }
        }
    }

    /// The inputs of a run for these jobs.
    fn assemble(&self, jobs: &[Job]) -> Result<Assembled, BatchError> {
        let parts: SmallVec<[Extent; 1]> =
            jobs.iter().map(|job| Extent { rows: job.rows, length: job.length }).collect();
        let layout = jobs.first().and_then(|job| job.layout.clone());
        let frame = self.policy.frame(&parts, || jobs.iter().map(Job::size).sum());
        let inputs = match &layout {
            Some(layout) => {
                let views: SmallVec<[&[Option<Tensor>]; 1]> = jobs.iter().map(|job| job.inputs.as_slice()).collect();
                layout.gather(&views, frame)?
            }
            None => {
                let inputs = jobs.iter().flat_map(|job| &job.inputs);
                inputs.map(|input| input.as_ref().map(Tensor::aligned)).collect()
            }
        };
        let mut wanted: Vec<usize> = jobs.iter().flat_map(|job| job.wanted.iter().copied()).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let rows = if layout.is_some() { frame.rows } else { parts.iter().map(|part| part.rows).sum() };
        Ok(Assembled { layout, parts, frame, inputs, wanted, rows })
    }
}
