//! Which jobs are not worth a run, though their time is not over yet?
//!
//! A run whose answer comes too late is work for nothing, and it makes all behind it later. So no job is let in that would
//! surely be late; where one is refused for those before it, those that cannot be done in time any more make room for it;
//! and where more waits than one run takes, a take passes over them too.

use std::time::Duration;

use tiltyard_types::Moment;

use super::plan::is_dead;
use super::{Queue, Refused, Waiting};
use crate::forecast::Ahead;

/// Between two looks at all that waits: each costs time in proportion to what waits, and a flood asks for many.
const SWEEPS_APART: Duration = Duration::from_millis(1);

/// No request is refused for a wait as short as this.
pub(crate) const WAIT_MIN: Duration = Duration::from_millis(1);

/// A job that the queue does not take in, and why.
#[derive(Debug, PartialEq, Eq)]
pub enum Unfit<J> {
    /// There is no room for it.
    Refused(Refused<J>),
    /// It would wait about this long, which is surely longer than it has.
    Late(J, Duration),
    /// In a flood, those who come after this long have more time left when the next run begins, and will fill it.
    Early(J, Duration),
}

impl<J: Waiting> Queue<J> {
    /// Takes a job into the queue that would not surely be late, if need be in the place of such as nobody waits for any
    /// more, or will when they are done: these are moved to `dead`. Says whether a further worker is of use.
    pub fn admit(&mut self, job: J, now: Moment, dead: &mut Vec<J>) -> Result<bool, Unfit<J>> {
        self.pace.came(1);
        // Where there are levels, nobody knows how many are before it.
        if let Some(deadline) = job.deadline().filter(|_| self.lanes.len() == 1) {
            let left = deadline - now;
            let mut ahead = self.ahead(now);
            let is_late = |ahead: &Ahead| is_too_long(ahead.sure_wait(left, now), left);
            // Some of those in front may have gone.
            if is_late(&ahead) && self.sweep(now, dead) {
                ahead = self.ahead(now);
            }
            if is_late(&ahead) {
                let wait = ahead.wait(now).unwrap_or_default().max(ahead.sure_wait(left, now));
                return Err(Unfit::Late(job, wait));
            }
            if let Some(until) = ahead.too_early(left, now) {
                self.pace.was_early();
                return Err(Unfit::Early(job, until));
            }
        }
        match self.enqueue(job, now) {
            Err(Refused::Full(job) | Refused::FullOfBytes(job)) if self.sweep(now, dead) => self.enqueue(job, now),
            taken_in => taken_in,
        }
        .map_err(Unfit::Refused)
    }

    /// Whether as many jobs wait as may, whatever their level.
    pub fn is_full(&self) -> bool {
        let level_max = self.policy.levels.iter().map(|level| level.jobs_max).fold(0, usize::saturating_add);
        self.jobs >= self.policy.jobs_max.min(level_max)
    }

    /// The moment from which on a sweep may find something.
    pub fn sweeps_from(&self) -> Moment {
        self.sweeps_from
    }

    /// Moves those to `dead` whom nobody waits for any more, and those whose answer would come too late by the pace at
    /// which rows leave. Says whether there were any. Looks no more often than each millisecond.
    pub fn sweep(&mut self, now: Moment, dead: &mut Vec<J>) -> bool {
        if now < self.sweeps_from {
            return false;
        }
        self.sweeps_from = now + SWEEPS_APART;
        let before = self.jobs;
        let forecast = self.ahead(now);
        // Where there are levels, nobody knows how many are before one.
        let foresees = forecast.is_seen && self.lanes.len() == 1;
        let (limit, mut ahead) = (self.policy.rows_limit(), 0usize);
        for lane in 0..self.lanes.len() {
            for entry in std::mem::take(&mut self.lanes[lane]) {
                let is_late = || {
                    let deadline = entry.job.deadline()?;
                    Some(deadline < now + forecast.least_wait(ahead, deadline - entry.enqueued, now))
                };
                if is_dead(&entry, now) || (foresees && ahead > 0 && is_late() == Some(true)) {
                    dead.push(self.leaves(entry));
                } else {
                    // The rest of a large job goes behind the others.
                    let rows = entry.job.rows();
                    ahead = ahead.saturating_add(if entry.job.can_cut() { rows.min(limit) } else { rows });
                    self.lanes[lane].push_back(entry);
                }
            }
        }
        self.rest_pace();
        self.jobs < before
    }
}

/// Whether a wait is longer than a request has `left`.
pub(crate) fn is_too_long(wait: Duration, left: Duration) -> bool {
    wait > left.max(WAIT_MIN)
}
