//! Which requests get no place in the queue, or lose it, and what are they told?

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::time::Duration;

use tiltyard_types::{Error, ErrorKind, Moment, Result};

use super::{Deployment, Identity};
use crate::cost::Fit;
use crate::forecast::{Ahead, Flood};
use crate::job::Job;
use crate::queue::{Queue, Refused, Unfit, WAIT_MIN, is_too_long};
use crate::stats::Refusal;

/// When to come again, where nobody knows how long what waits will take.
const COME_AGAIN: Duration = Duration::from_secs(1);

/// What a request that came now would find, for whoever asks before there is a job. Told under the queue's lock whenever
/// something waits or has waited, and read without it: what is read may be of two moments, and is a guess anyway.
#[derive(Default)]
pub(super) struct Outlook {
    jobs: AtomicUsize,
    rows: AtomicUsize,
    rows_max: AtomicUsize,
    /// The bits of floats: a and b, both 0 where nobody knows.
    line: [AtomicU64; 2],
    /// The bits of floats: rows of runs lately, and what lies between two by a run.
    seen: [AtomicU64; 2],
    is_seen: AtomicBool,
    free_at_ns: AtomicU64,
    /// The bits of floats: rows that come in a nanosecond in a flood, 0 where there is none, and how early the door opens.
    flood: [AtomicU64; 2],
    /// Requests that were refused by what is told here, and that the queue has not heard of yet.
    refused: AtomicUsize,
    /// The queue is full until this moment, in nanoseconds, unless something leaves before; 0 where it is not.
    full_until_ns: AtomicU64,
}

impl Outlook {
    pub(super) fn tell(&self, queue: &Queue<Job>, now: Moment) {
        let ahead = queue.ahead(now);
        let line = ahead.line.map_or([0.0; 2], |line| [line.row_ns, line.run_ns]);
        self.jobs.store(ahead.jobs, Relaxed);
        self.rows.store(ahead.rows, Relaxed);
        self.rows_max.store(ahead.rows_max, Relaxed);
        self.line.iter().zip(line).for_each(|(told, part)| told.store(part.to_bits(), Relaxed));
        let seen = [ahead.rows_lately, ahead.apart];
        self.seen.iter().zip(seen).for_each(|(told, part)| told.store(part.to_bits(), Relaxed));
        self.is_seen.store(ahead.is_seen, Relaxed);
        self.free_at_ns.store(ahead.free_at.as_nanos(), Relaxed);
        let flood = ahead.flood.map_or([0.0; 2], |flood| [flood.rows, flood.door]);
        self.flood.iter().zip(flood).for_each(|(told, part)| told.store(part.to_bits(), Relaxed));
        // From then on the queue is worth a sweep.
        let full_until = if queue.is_full() { queue.sweeps_from().as_nanos() } else { 0 };
        self.full_until_ns.store(full_until, Relaxed);
    }

    fn ahead(&self) -> Ahead {
        let floats = |told: &[AtomicU64; 2]| [0, 1].map(|part: usize| f64::from_bits(told[part].load(Relaxed)));
        let ([row_ns, run_ns], [rows_lately, apart]) = (floats(&self.line), floats(&self.seen));
        let [rows, door] = floats(&self.flood);
        Ahead {
            jobs: self.jobs.load(Relaxed),
            rows: self.rows.load(Relaxed),
            rows_max: self.rows_max.load(Relaxed).max(1),
            line: (row_ns > 0.0 || run_ns > 0.0).then_some(Fit { row_ns, run_ns }),
            rows_lately,
            apart,
            is_seen: self.is_seen.load(Relaxed),
            free_at: Moment::from_nanos(self.free_at_ns.load(Relaxed)),
            flood: (rows > 0.0).then_some(Flood { rows, door }),
        }
    }
}

impl Outlook {
    /// How many requests were refused since this was asked last.
    pub(super) fn refused(&self) -> usize {
        self.refused.swap(0, Relaxed)
    }
}

impl Deployment {
    /// Refuses a request that comes at `now` and has `left` time, by what is known before there is a job: whether the queue
    /// is full, and how long it would wait. Takes no lock; what comes later may still be refused in the queue.
    pub fn foresee(&self, left: Duration, now: Moment) -> Result<()> {
        let ahead = self.outlook.ahead();
        if ahead.jobs == 0 && ahead.flood.is_none() {
            return Ok(());
        }
        let refusal = self.foreseen(&ahead, left, now);
        if refusal.is_err() {
            self.outlook.refused.fetch_add(1, Relaxed);
        }
        refusal
    }

    fn foreseen(&self, ahead: &Ahead, left: Duration, now: Moment) -> Result<()> {
        let wait = ahead.sure_wait(left, now);
        if self.policy.levels.len() <= 1 {
            if is_too_long(wait, left) {
                return Err(self.late(wait, left));
            }
            if let Some(until) = ahead.too_early(left, now) {
                return Err(self.early(until));
            }
        }
        if now.as_nanos() < self.outlook.full_until_ns.load(Relaxed) {
            return Err(self.full(self.policy.jobs_max, wait));
        }
        Ok(())
    }

    /// Answers a job that was not taken in.
    pub(super) fn refuse(&self, unfit: Unfit<Job>) -> Error {
        let Identity { model, version, .. } = &self.identity;
        let (error, job) = match unfit {
            Unfit::Late(job, wait) => {
                let left = job.demand.deadline.map_or(Duration::ZERO, |deadline| deadline - job.enqueued);
                (self.late(wait, left), job)
            }
            Unfit::Early(job, until) => (self.early(until), job),
            Unfit::Refused(Refused::Full(job)) => {
                let wait = self.predicted_wait(job.enqueued).unwrap_or(COME_AGAIN);
                (self.full(self.policy.jobs_max_at(job.demand.priority), wait), job)
            }
            Unfit::Refused(Refused::FullOfBytes(job)) => {
                self.stats.refused(Refusal::QueueFull);
                let message =
                    format!("almost {} bytes of requests wait for model {model:?} already", self.policy.bytes_max);
                (overloaded(message, self.predicted_wait(job.enqueued).unwrap_or(COME_AGAIN)), job)
            }
            Unfit::Refused(Refused::Draining(job)) => {
                let why = self.health.out().unwrap_or("is unloading");
                let message = format!("model {model:?} version {version} {why}");
                (Error::new(ErrorKind::NotReady, message).retry_after(COME_AGAIN), job)
            }
        };
        job.reply.send(Err(error.clone()));
        error
    }

    /// Answers jobs that were not worth a run any more.
    pub(super) fn refuse_dead(&self, dead: Vec<Job>, now: Moment) {
        for job in dead {
            // A cancelled job's client has gone: this answer then reaches nobody.
            if job.reply.is_closed() {
                continue;
            }
            let level = self.policy.levels.get(self.policy.level(job.demand.priority));
            let wait_max = level.and_then(|level| level.wait_max);
            let error = match job.demand.deadline {
                Some(deadline) if deadline <= now => {
                    Error::new(ErrorKind::Deadline, "the deadline passed while the request waited")
                }
                _ if wait_max.is_some_and(|wait| job.enqueued + wait <= now) => {
                    let late = "the request waited longer than its model's queue allows";
                    Error::new(ErrorKind::Deadline, late)
                }
                _ => {
                    self.stats.refused(Refusal::Shed);
                    let message = format!(
                        "requests for model {:?} wait longer than predicted: this one would have been answered too late",
                        self.identity.model
                    );
                    overloaded(message, self.predicted_wait(now).unwrap_or(COME_AGAIN))
                }
            };
            job.reply.send(Err(error));
        }
    }

    fn late(&self, wait: Duration, left: Duration) -> Error {
        self.stats.refused(Refusal::PredictedWait);
        let model = &self.identity.model;
        let message =
            format!("the predicted wait for model {model:?} is {wait:.0?}, and the request has {left:.0?} left");
        overloaded(message, wait)
    }

    fn early(&self, until: Duration) -> Error {
        self.stats.refused(Refusal::PredictedWait);
        let model = &self.identity.model;
        let message = format!(
            "many times more requests come for model {model:?} than it can answer: the next run takes those who come in {until:.0?}"
        );
        overloaded(message, until)
    }

    fn full(&self, jobs_max: usize, wait: Duration) -> Error {
        self.stats.refused(Refusal::QueueFull);
        let message = format!("{jobs_max} requests wait for model {:?} already", self.identity.model);
        overloaded(message, if wait.is_zero() { COME_AGAIN } else { wait })
    }
}

fn overloaded(message: String, wait: Duration) -> Error {
    Error::new(ErrorKind::Overloaded, message).retry_after(wait.max(WAIT_MIN))
}
