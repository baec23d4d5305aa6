//! Which requests get no place in the queue, or lose it, and what are they told?

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tiltyard_types::{Error, ErrorKind, Moment, Result};

use super::{Deployment, Identity};
use crate::cost::Fit;
use crate::job::Job;
use crate::queue::{Queue, Refused};
use crate::stats::Refusal;

/// No request is refused for a wait as short as this.
const WAIT_MIN: Duration = Duration::from_millis(1);

/// When to come again, where nobody knows how long what waits will take.
const COME_AGAIN: Duration = Duration::from_secs(1);

/// A job that the queue does not take in, and why.
pub(super) enum Unfit {
    /// As the queue says.
    Refused(Refused<Job>),
    /// It would wait about this long, which is surely longer than it has.
    Late(Job, Duration),
}

/// What a request that came now would find, for whoever asks before there is a job. Told under the queue's lock whenever
/// something waits or has waited, and read without it.
#[derive(Default)]
pub(super) struct Outlook {
    sure_wait_ns: AtomicU64,
    /// The queue is full until this moment, in nanoseconds, unless something leaves before; 0 where it is not.
    full_until_ns: AtomicU64,
}

impl Outlook {
    pub(super) fn tell(&self, queue: &Queue<Job>, shares: bool, fit: Option<Fit>) {
        let wait = queue.ahead(shares).sure_wait(fit);
        self.sure_wait_ns.store(u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX), Relaxed);
        // From then on the queue is worth a sweep.
        let full_until = if queue.is_full() { queue.sweeps_from().as_nanos() } else { 0 };
        self.full_until_ns.store(full_until, Relaxed);
    }
}

impl Deployment {
    /// Refuses a request that comes at `now` and has `left` time, by what is known before there is a job: whether the queue
    /// is full, and how long it would wait. Takes no lock; what comes later may still be refused in the queue.
    pub fn foresee(&self, left: Duration, now: Moment) -> Result<()> {
        let wait = Duration::from_nanos(self.outlook.sure_wait_ns.load(Relaxed));
        if self.policy.levels.len() <= 1 && is_too_long(wait, left) {
            return Err(self.late(wait, left));
        }
        if now.as_nanos() < self.outlook.full_until_ns.load(Relaxed) {
            return Err(self.full(self.policy.jobs_max, wait));
        }
        Ok(())
    }

    /// Takes a job into the queue, if need be in the place of such as nobody waits for any more, or will when they are done:
    /// these are moved to `dead`. Says whether a further worker is of use.
    #[expect(clippy::result_large_err, reason = "a job that is not taken in goes back to where it came from, once")]
    pub(super) fn take_in(
        &self,
        queue: &mut Queue<Job>,
        job: Job,
        now: Moment,
        dead: &mut Vec<Job>,
    ) -> Result<bool, Unfit> {
        let fit = self.cost.fit();
        queue.expect(fit, self.layout.is_some());
        // Where there are levels of priority, nobody knows how many are before it.
        if let Some(deadline) = job.demand.deadline.filter(|_| self.policy.levels.len() <= 1) {
            let sure_wait = |queue: &Queue<Job>| queue.ahead(job.layout.is_some()).sure_wait(fit);
            let late = |wait: Duration| is_too_long(wait, deadline - now);
            // Some of those in front may have gone.
            if late(sure_wait(queue)) && (!queue.sweep(now, dead) || late(sure_wait(queue))) {
                let ahead = queue.ahead(job.layout.is_some());
                let wait = ahead.wait(fit).unwrap_or_default().max(ahead.sure_wait(fit));
                return Err(Unfit::Late(job, wait));
            }
        }
        match queue.enqueue(job, now) {
            Err(Refused::Full(job) | Refused::FullOfBytes(job)) if queue.sweep(now, dead) => queue.enqueue(job, now),
            taken_in => taken_in,
        }
        .map_err(Unfit::Refused)
    }

    /// Answers a job that was not taken in.
    pub(super) fn refuse(&self, unfit: Unfit) -> Error {
        let Identity { model, version, .. } = &self.identity;
        let (error, job) = match unfit {
            Unfit::Late(job, wait) => {
                let left = job.demand.deadline.map_or(Duration::ZERO, |deadline| deadline - job.enqueued);
                (self.late(wait, left), job)
            }
            Unfit::Refused(Refused::Full(job)) => {
                let wait = self.predicted_wait().unwrap_or(COME_AGAIN);
                (self.full(self.policy.jobs_max_at(job.demand.priority), wait), job)
            }
            Unfit::Refused(Refused::FullOfBytes(job)) => {
                self.stats.refused(Refusal::QueueFull);
                let message =
                    format!("almost {} bytes of requests wait for model {model:?} already", self.policy.bytes_max);
                (overloaded(message, self.predicted_wait().unwrap_or(COME_AGAIN)), job)
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
                    overloaded(message, self.predicted_wait().unwrap_or(COME_AGAIN))
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

    fn full(&self, jobs_max: usize, wait: Duration) -> Error {
        self.stats.refused(Refusal::QueueFull);
        let message = format!("{jobs_max} requests wait for model {:?} already", self.identity.model);
        overloaded(message, if wait.is_zero() { COME_AGAIN } else { wait })
    }
}

fn is_too_long(wait: Duration, left: Duration) -> bool {
    wait > left.max(WAIT_MIN)
}

fn overloaded(message: String, wait: Duration) -> Error {
    Error::new(ErrorKind::Overloaded, message).retry_after(wait.max(WAIT_MIN))
}
