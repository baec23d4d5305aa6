//! Which waiting jobs run next, and together?
//!
//! A state machine without threads, clock or IO: it is told what happened and at which moment, and says what to do.
//! The thread shells in [`crate::pool`] drive it in production; tests drive it by hand.
//!
//! There is no timer by default: a batch is whatever waits when a session becomes free, so an idle server adds no
//! delay and load makes batches bigger by itself.

mod ahead;
mod plan;
mod policy;
mod shed;

use std::collections::VecDeque;

use tiltyard_types::Moment;

pub use self::policy::{LEVELS_MAX, Level, PadPolicy, QueuePolicy};
pub use self::shed::Unfit;
pub(crate) use self::shed::{WAIT_MIN, is_too_long};

use self::plan::{Fate, Pick};
use crate::cost::Fit;
use crate::forecast::Pace;

/// What the queue must know of a job.
pub trait Waiting: Sized {
    /// Rows on the batch axis; 1 where there is none.
    fn rows(&self) -> usize;

    /// Bytes that it holds in memory.
    fn bytes(&self) -> usize;

    /// How urgent it is: 1 is the most, 0 leaves it to the policy.
    fn priority(&self) -> u32;

    /// When its client stops waiting, if ever.
    fn deadline(&self) -> Option<Moment>;

    /// Whether its client has gone.
    fn is_cancelled(&self) -> bool;

    /// Whether it may share a run with `other`: same shapes beyond the batch axis and the padded one, same inputs
    /// present.
    fn joins(&self, other: &Self) -> bool;

    /// How long it is on the padded axis; 0 where there is none.
    fn length(&self) -> usize;

    /// Whether its rows may run apart.
    fn can_cut(&self) -> bool;

    /// Takes the first `rows` rows off, as a job of their own. Only called where [`Waiting::can_cut`], and with fewer
    /// rows than there are.
    fn cut(&mut self, rows: usize) -> Self;
}

/// Why a job was not taken in. It is given back.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused<J> {
    /// As many jobs wait as may.
    Full(J),
    /// As many bytes wait as may.
    FullOfBytes(J),
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
    /// One per level of priority, each in order of arrival.
    lanes: Vec<VecDeque<Entry<J>>>,
    jobs: usize,
    rows: usize,
    bytes: usize,
    running: usize,
    draining: bool,
    /// How fast rows leave.
    pace: Pace,
    /// What runs cost, where that is known.
    fit: Option<Fit>,
    /// Whether jobs share runs.
    shares: bool,
    /// Before this, another sweep is not worth it.
    sweeps_from: Moment,
    /// Kept for its memory.
    picks: Vec<Pick>,
}

#[derive(Debug)]
struct Entry<J> {
    enqueued: Moment,
    /// Jobs leave in the order of this moment: that of arrival, later by the ageing of each level below the first.
    rank: Moment,
    /// The last moment to start it.
    expires: Option<Moment>,
    job: J,
}

impl<J: Waiting> Queue<J> {
    /// An empty queue.
    pub fn new(policy: QueuePolicy) -> Queue<J> {
        let lanes = (0..policy.levels.len().max(1)).map(|_| VecDeque::new()).collect();
        Queue {
            policy,
            lanes,
            jobs: 0,
            rows: 0,
            bytes: 0,
            running: 0,
            draining: false,
            pace: Pace::default(),
            fit: None,
            shares: true,
            sweeps_from: Moment::default(),
            picks: Vec::new(),
        }
    }

    /// Takes a job in. Says whether a further worker could be of use now: where jobs wait for company, only the first
    /// of them (which sets the time), one that cannot wait, and one that fills the batch are worth a wake-up.
    pub fn enqueue(&mut self, job: J, now: Moment) -> Result<bool, Refused<J>> {
        let level = if self.lanes.len() == 1 { 0 } else { self.policy.level(job.priority()) };
        let Level { jobs_max, wait_max } = self.policy.levels.get(level).copied().unwrap_or_default();
        if self.draining {
            return Err(Refused::Draining(job));
        }
        if self.jobs >= self.policy.jobs_max || self.lanes[level].len() >= jobs_max {
            return Err(Refused::Full(job));
        }
        if self.jobs > 0 && self.bytes.saturating_add(job.bytes()) > self.policy.bytes_max {
            return Err(Refused::FullOfBytes(job));
        }
        self.jobs += 1;
        self.rows = self.rows.saturating_add(job.rows());
        self.bytes = self.bytes.saturating_add(job.bytes());
        let rank = self.rank(level, now);
        let expires = earlier(job.deadline(), wait_max.map(|wait| now + wait));
        self.lanes[level].push_back(Entry { enqueued: now, rank, expires, job });
        let worth_a_look = self.policy.delay_max.is_zero()
            || self.jobs == 1
            || expires.is_some_and(|expires| expires <= now + self.policy.delay_max)
            || (self.rows >= self.policy.rows_full() && self.makes_full_run(now));
        Ok(worth_a_look && self.running < self.policy.runs_max)
    }

    /// What a free worker shall do at `now`. Jobs whose client has gone, or whose time is over, are moved to `dead` and
    /// never run; nor do those that would be done too late, while others fill the run.
    pub fn take(&mut self, now: Moment, dead: &mut Vec<J>) -> Take<J> {
        if self.jobs == 0 || self.running >= self.policy.runs_max {
            return Take::Idle;
        }
        let mut picks = std::mem::take(&mut self.picks);
        let plan = self.plan(now, &mut picks);
        let take = match plan.hold {
            Some(until) if !self.draining => {
                self.pace.pause();
                Take::Wait(until)
            }
            _ => match self.carry_out(&picks, now, dead) {
                batch if batch.is_empty() => {
                    self.rest_pace();
                    Take::Idle
                }
                batch => {
                    self.note_take(batch.len(), batch.iter().map(J::rows).sum(), now);
                    Take::Batch(batch)
                }
            },
        };
        self.picks = picks;
        take
    }

    /// Notes that a batch has run, well or not: when it was taken, and its rows. Nothing of it where that took longer for a
    /// reason that others do not have.
    pub fn finish(&mut self, run: Option<(Moment, usize)>, now: Moment) {
        self.note_finish(run, now);
    }

    /// Lets a batch run that never waited here, where it overtakes nobody, there is room for it, and new jobs are taken.
    /// Then call [`Queue::finish`].
    pub fn pass(&mut self) -> bool {
        let may = !self.draining && self.jobs == 0 && self.running < self.policy.runs_max;
        self.running += usize::from(may);
        may
    }

    /// Refuses jobs from now on. Those that wait are still run.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// Takes out all that waits, each level in its order, and refuses jobs from now on: nobody is going to run any.
    pub fn abandon(&mut self) -> Vec<J> {
        self.draining = true;
        (self.jobs, self.rows, self.bytes) = (0, 0, 0);
        self.lanes.iter_mut().flat_map(|lane| lane.drain(..)).map(|entry| entry.job).collect()
    }

    /// Whether nothing waits and nothing runs.
    pub fn is_idle(&self) -> bool {
        self.jobs == 0 && self.running == 0
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.jobs == 0
    }

    /// Whether a further worker could be of use after a take: something is left, and there is room for another run.
    pub fn calls_for_more(&self) -> bool {
        self.jobs > 0 && self.running < self.policy.runs_max
    }

    /// Jobs that wait.
    pub fn len(&self) -> usize {
        self.jobs
    }

    /// The jobs that still wait, each level in its order.
    pub fn into_jobs(self) -> impl Iterator<Item = J> {
        self.lanes.into_iter().flatten().map(|entry| entry.job)
    }

    fn makes_full_run(&mut self, now: Moment) -> bool {
        let mut picks = std::mem::take(&mut self.picks);
        let full = self.plan(now, &mut picks).hold.is_none();
        self.picks = picks;
        full
    }

    /// The place in the order in which jobs leave, of one that comes now.
    fn rank(&self, level: usize, now: Moment) -> Moment {
        match u32::try_from(level) {
            Ok(0) => now,
            level => now + self.policy.ageing.saturating_mul(level.unwrap_or(u32::MAX)),
        }
    }

    /// Takes out what was picked. What was passed over stays in front. The rest of a job that was cut goes to the back, as
    /// though it came now, but for the time it has left: however large it is, it takes turns with others.
    fn carry_out(&mut self, picks: &[Pick], now: Moment, dead: &mut Vec<J>) -> Vec<J> {
        let mut batch = Vec::with_capacity(picks.len());
        let mut kept: Vec<(usize, Entry<J>)> = Vec::new();
        let mut rest: Option<(usize, Entry<J>)> = None;
        for pick in picks {
            let Some(mut entry) = self.lanes[pick.lane].pop_front() else { break };
            match pick.fate {
                Fate::Stays => kept.push((pick.lane, entry)),
                Fate::Dies => dead.push(self.leaves(entry)),
                Fate::Runs(rows) if rows < entry.job.rows() => {
                    self.rows = self.rows.saturating_sub(rows);
                    batch.push(entry.job.cut(rows));
                    let rank = self.rank(pick.lane, now);
                    // Where a job is cut the batch is full: there is one at most.
                    rest = Some((pick.lane, Entry { enqueued: now, rank, ..entry }));
                }
                Fate::Runs(_) => batch.push(self.leaves(entry)),
            }
        }
        for (lane, entry) in kept.into_iter().rev() {
            self.lanes[lane].push_front(entry);
        }
        if let Some((lane, entry)) = rest {
            self.lanes[lane].push_back(entry);
        }
        batch
    }

    /// Takes a job off the books.
    fn leaves(&mut self, entry: Entry<J>) -> J {
        self.jobs -= 1;
        self.rows = self.rows.saturating_sub(entry.job.rows());
        self.bytes = self.bytes.saturating_sub(entry.job.bytes());
        entry.job
    }
}

/// The earlier of two moments that may not be there.
fn earlier(one: Option<Moment>, other: Option<Moment>) -> Option<Moment> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

#[cfg(test)]
#[path = "queue/tests.rs"]
mod tests;

#[cfg(test)]
#[path = "queue/flood_tests.rs"]
mod flood_tests;
