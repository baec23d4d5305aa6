//! When would a request that joins the queue now be answered?
//!
//! By what runs are known to cost, and by how much slower than that they were seen to be: run by run, and, where requests had
//! to wait for nothing but runs, batch by batch, with all that slows these down, other models and busy processors included.
//! Before runs were seen their cost is a lower bound: refusing a request that could have been answered is worse than letting
//! one expire.

use std::time::Duration;

use tiltyard_types::Moment;

use crate::cost::Fit;

/// Predictions are off, and those in front may hang up: by so much. Where runs were seen a request must have time for its own
/// to take so much longer; where they were not, its wait must be so much longer than the time it has to be refused.
pub(crate) const DOUBT: f64 = 1.25;

/// Of the time that a request has when it comes, its own run may take so much; the rest is for waiting. Larger batches do
/// more in the same time, but a queue whose runs take all the time there is answers nobody.
const RUN_SHARE: f64 = 0.75;

/// What is seen so many times is believed.
const SEEN_MIN: u32 = 8;

/// What each observation leaves of the weight of those before it.
const FADE: f64 = 0.9;

/// An observation counts as this many times the mean before it at most: one run that hung tells nothing of others.
const OUTLIER: f64 = 4.0;

/// What was seen longer ago than this, with nothing to do since, is of another time.
const FORGET_AFTER: Duration = Duration::from_secs(1);

/// The mean of what was seen lately.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Lately {
    sum: f64,
    weight: f64,
    seen: u32,
}

impl Lately {
    fn see(&mut self, what: f64) {
        let bounded = self.mean().map_or(what, |mean| what.min(mean * OUTLIER));
        self.sum = self.sum * FADE + bounded;
        self.weight = self.weight * FADE + 1.0;
        self.seen = self.seen.saturating_add(1);
    }

    /// `None` while too little was seen.
    fn mean(&self) -> Option<f64> {
        (self.seen >= SEEN_MIN).then(|| self.sum / self.weight)
    }
}

/// How fast a queue was seen to move.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pace {
    /// What runs took from take to finish, by what they cost.
    slower: Lately,
    /// What lay between two takes of which the second had to wait for runs, by the run of the first.
    apart: Lately,
    /// Rows of batches.
    rows: Lately,
    /// Rows of batches that left others behind: what is seen of how well requests join.
    joined: Lately,
    /// The last batch that was taken: when, and its rows.
    last: Option<(Moment, usize)>,
    /// Whether the next batch has waited for nothing but runs, ever since.
    is_held_up: bool,
    finished: Moment,
}

impl Pace {
    /// Takes in that a batch of `rows` rows was taken at `now`, whether it left others behind, and whether the next one has to
    /// wait for runs. `run_ns` is what a run of so many rows takes as far as is known.
    pub fn took(&mut self, rows: usize, now: Moment, left_some: bool, is_held_up: bool, run_ns: impl Fn(usize) -> f64) {
        if let Some((last, last_rows)) = self.last.filter(|_| self.is_held_up) {
            let run_ns = run_ns(last_rows);
            if run_ns > 0.0 {
                self.apart.see((now - last).as_nanos() as f64 / run_ns);
            }
        }
        self.rows.see(rows as f64);
        if left_some {
            self.joined.see(rows as f64);
        }
        (self.last, self.is_held_up) = (Some((now, rows)), is_held_up);
    }

    /// Takes in that there is room for a run that nobody fills: when the next batch is taken tells nothing of runs.
    pub fn pause(&mut self) {
        self.is_held_up = false;
    }

    /// Takes in that a run has ended at `now`, which took so much `longer` than it costs, as a factor.
    pub fn finished(&mut self, longer: Option<f64>, now: Moment) {
        self.finished = now;
        longer.into_iter().for_each(|longer| self.slower.see(longer));
    }

    /// Whether it is of another time, in a queue where nothing runs.
    pub fn is_old(&self, now: Moment) -> bool {
        now - self.finished > FORGET_AFTER
    }

    /// How much slower than their cost runs were seen to be; `None` while too few were.
    pub fn slower(&self) -> Option<f64> {
        self.slower.mean()
    }

    /// What lies between two takes that wait for runs, by a run; as many runs at once as may where nobody had to.
    pub fn apart(&self, runs_max: usize) -> f64 {
        self.apart.mean().unwrap_or(1.0 / runs_max as f64)
    }

    /// Rows of a batch lately.
    pub fn rows(&self) -> f64 {
        self.rows.mean().unwrap_or(1.0)
    }

    /// Rows of a batch that left others behind.
    pub fn joined(&self) -> Option<f64> {
        self.joined.mean()
    }

    /// The last batch that was taken: when, and its rows.
    pub fn last(&self) -> Option<(Moment, usize)> {
        self.last
    }
}

/// What is ahead of a request, and what runs take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ahead {
    /// Requests that wait.
    pub jobs: usize,
    /// Their rows.
    pub rows: usize,
    /// Rows that one run takes at most, those of one request where none shares it; at least 1.
    pub rows_max: usize,
    /// Rows that runs had lately.
    pub rows_lately: f64,
    /// What a run takes; `None` while nobody knows.
    pub line: Option<Fit>,
    /// What lies between two runs that begin, by a run.
    pub apart: f64,
    /// Whether the line is what runs were seen to take; else it is a lower bound.
    pub is_seen: bool,
    /// When there is room for the next run, as far as one can tell; in the past where there is, or should be.
    pub free_at: Moment,
}

impl Ahead {
    /// The rows of a run that leaves a request time to wait, of the `time` that it has when it comes: as many as one may
    /// have, where that is known to be enough, and as cost little more than one.
    pub(crate) fn rows_for(&self, time: Duration) -> usize {
        let Some(line) = self.line.filter(|line| line.row_ns > 0.0) else { return self.rows_max };
        let run_ns = (time.as_nanos() as f64 * RUN_SHARE / DOUBT).max(line.ns(1) * DOUBT);
        (((run_ns - line.run_ns) / line.row_ns) as usize).clamp(1, self.rows_max)
    }

    /// How long a run of `rows` rows takes; nothing where nobody knows.
    pub(crate) fn run(&self, rows: usize) -> Duration {
        nanos(self.run_ns(rows))
    }

    /// How long until what waits now has been run; `None` where nobody knows what runs take. A last batch that is not full is
    /// not counted: it would take the request along.
    pub fn wait(&self, now: Moment) -> Option<Duration> {
        self.line.map(|_| nanos(self.start_ns(self.rows, self.rows_max, now)))
    }

    /// How long a request that came now, and has `left` time, would have to wait for its answer: what it must be refused for
    /// if that is longer. Where runs were seen that is the wait and its own run, doubted: a queue that goes up to the last
    /// moment of its requests answers no more of them than a shorter one, and later. Where they were not it is less than
    /// the wait, for doubt. Nothing where nothing waits, unless it is seen to wait for those who run.
    pub fn sure_wait(&self, left: Duration, now: Moment) -> Duration {
        if self.jobs == 0 && !(self.is_seen && self.free_at > now) {
            return Duration::ZERO;
        }
        if !self.is_seen {
            return nanos((self.start_ns(self.rows, self.rows_max, now) + self.run_ns(1)) / DOUBT);
        }
        let rows = self.rows_for(left);
        // Others will come until it starts, as many as came lately.
        let own = (self.rows % rows + 1).max(self.rows_lately as usize).min(rows);
        let doubt = if self.jobs == 0 { 1.0 } else { DOUBT };
        nanos(self.start_ns(self.rows, rows, now) + self.run_ns(own) * doubt)
    }

    /// How long a request with `ahead` rows in front of it, that had `time` when it came, waits for its answer, without a
    /// doubt: what it is given up for if it has less left.
    pub(crate) fn least_wait(&self, ahead: usize, time: Duration, now: Moment) -> Duration {
        let rows = self.rows_for(time);
        let own = rows.min(self.rows.saturating_sub(ahead)).max(1);
        nanos(self.start_ns(ahead, rows, now) + self.run_ns(own))
    }

    fn run_ns(&self, rows: usize) -> f64 {
        self.line.map_or(0.0, |line| line.ns(rows))
    }

    /// Nanoseconds until the run of a request starts that has `ahead` rows in front of it, in runs of `rows` rows.
    fn start_ns(&self, ahead: usize, rows: usize, now: Moment) -> f64 {
        (self.free_at - now).as_nanos() as f64 + (ahead / rows) as f64 * self.run_ns(rows) * self.apart
    }
}

fn nanos(nanos: f64) -> Duration {
    Duration::from_nanos(nanos as u64)
}

#[cfg(test)]
#[path = "forecast/tests.rs"]
mod tests;
