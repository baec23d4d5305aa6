//! Which waiting jobs run next, and together?
//!
//! A state machine without threads, clock or IO: it is told what happened and at which moment, and says what to do.
//! The thread shells in [`crate::pool`] drive it in production; tests drive it by hand.
//!
//! There is no timer by default: a batch is whatever waits when a session becomes free, so an idle server adds no
//! delay and load makes batches bigger by itself.

use std::collections::VecDeque;
use std::time::Duration;

use tiltyard_types::Moment;

/// What the queue must know of a job.
pub trait Waiting {
    /// Rows on the batch axis; 1 where there is none.
    fn rows(&self) -> usize;

    /// When its client stops waiting, if ever.
    fn deadline(&self) -> Option<Moment>;

    /// Whether its client has gone.
    fn is_cancelled(&self) -> bool;

    /// Whether it may share a run with `other`: same shapes beyond the batch axis, same inputs present.
    fn joins(&self, other: &Self) -> bool;
}

/// How a queue batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueuePolicy {
    /// Rows in one batch at most; 1 means that every job runs alone. A single larger job still runs, alone.
    pub rows_max: usize,
    /// How long the oldest job may wait for company.
    pub delay_max: Duration,
    /// Jobs that may wait at once.
    pub jobs_max: usize,
    /// Batches that may run at once: the sessions there are.
    pub runs_max: usize,
}

/// Why a job was not taken in. It is given back.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused<J> {
    /// As many jobs wait as may.
    Full(J),
    /// The queue is being emptied for good.
    Draining(J),
}

/// What a free worker shall do.
#[derive(Debug, PartialEq, Eq)]
pub enum Take<J> {
    /// Run these together, then call [`Queue::finish`].
    Batch(Vec<J>),
    /// Nothing yet: ask again at this moment at the latest.
    Wait(Moment),
    /// Nothing to do.
    Idle,
}

/// A deployment's waiting jobs.
#[derive(Debug)]
pub struct Queue<J> {
    policy: QueuePolicy,
    waiting: VecDeque<(Moment, J)>,
    running: usize,
    draining: bool,
}

impl<J: Waiting> Queue<J> {
    /// An empty queue.
    pub fn new(policy: QueuePolicy) -> Queue<J> {
        Queue { policy, waiting: VecDeque::new(), running: 0, draining: false }
    }

    /// Takes a job in. Says whether a further worker could be of use now: where jobs wait for company, only the first
    /// of them (which sets the time) and the one that fills the batch are worth a wake-up.
    pub fn enqueue(&mut self, job: J, now: Moment) -> Result<bool, Refused<J>> {
        if self.draining {
            return Err(Refused::Draining(job));
        }
        if self.waiting.len() >= self.policy.jobs_max {
            return Err(Refused::Full(job));
        }
        self.waiting.push_back((now, job));
        let worth_a_look =
            self.policy.delay_max.is_zero() || self.waiting.len() == 1 || self.leading_rows() >= self.policy.rows_max;
        Ok(worth_a_look && self.running < self.policy.runs_max)
    }

    /// What a free worker shall do at `now`. Jobs whose client has gone, or whose deadline has passed, are moved to
    /// `dead` and never run.
    pub fn take(&mut self, now: Moment, dead: &mut Vec<J>) -> Take<J> {
        self.bury(now, dead);
        let Some((oldest, _)) = self.waiting.front() else { return Take::Idle };
        if self.running >= self.policy.runs_max {
            return Take::Idle;
        }
        let ripe = *oldest + self.policy.delay_max;
        if now < ripe && !self.draining && self.leading_rows() < self.policy.rows_max {
            return Take::Wait(ripe);
        }
        let batch = self.pop_batch(now, dead);
        self.running += 1;
        Take::Batch(batch)
    }

    /// Notes that a batch has run, well or not.
    pub fn finish(&mut self) {
        self.running -= 1;
    }

    /// Lets a batch run that never waited here, where it overtakes nobody and there is room for it. Then call
    /// [`Queue::finish`].
    pub fn pass(&mut self) -> bool {
        let may = self.waiting.is_empty() && self.running < self.policy.runs_max;
        self.running += usize::from(may);
        may
    }

    /// Refuses jobs from now on. Those that wait are still run.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// Whether nothing waits and nothing runs.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running == 0
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Jobs that wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Takes out the job that came first.
    pub fn pop(&mut self) -> Option<J> {
        self.waiting.pop_front().map(|(_, job)| job)
    }

    /// Removes dead jobs from the front, so that the one in front is alive.
    fn bury(&mut self, now: Moment, dead: &mut Vec<J>) {
        while self.waiting.front().is_some_and(|(_, job)| is_dead(job, now)) {
            dead.extend(self.waiting.pop_front().map(|(_, job)| job));
        }
    }

    /// Rows of the jobs in front that would share the next batch.
    fn leading_rows(&self) -> usize {
        let Some((_, first)) = self.waiting.front() else { return 0 };
        let mut rows = 0usize;
        for (_, job) in self.waiting.iter().take_while(|(_, job)| job.joins(first)) {
            rows = rows.saturating_add(job.rows());
            if rows >= self.policy.rows_max {
                break;
            }
        }
        rows
    }

    /// The next batch in order of arrival. It ends before the first job that does not join or fit, so no job is
    /// overtaken.
    fn pop_batch(&mut self, now: Moment, dead: &mut Vec<J>) -> Vec<J> {
        let mut batch: Vec<J> = Vec::new();
        let mut rows = 0usize;
        while let Some((_, job)) = self.waiting.front() {
            if !is_dead(job, now) {
                let fits = match batch.first() {
                    None => true,
                    Some(first) => rows.saturating_add(job.rows()) <= self.policy.rows_max && job.joins(first),
                };
                if !fits {
                    break;
                }
                rows = rows.saturating_add(job.rows());
            }
            let Some((_, job)) = self.waiting.pop_front() else { break };
            if is_dead(&job, now) { dead.push(job) } else { batch.push(job) }
        }
        batch
    }
}

fn is_dead<J: Waiting>(job: &J, now: Moment) -> bool {
    job.is_cancelled() || job.deadline().is_some_and(|deadline| deadline <= now)
}

#[cfg(test)]
#[path = "queue/tests.rs"]
mod tests;
