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

/// A flood: so many times as many requests came between two takes as the second one took, and so many times in a row.
const FLOOD: usize = 2;
const FLOODS_MIN: u32 = 2;

/// How far the door can open; beyond, there is none.
const DOOR_MAX: f64 = 64.0;

/// In a flood requests that have fewer runs' time than this do not wait for as long as they could.
const PATIENT_RUNS: f64 = 8.0;

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
    /// Requests that came since the last take, those that were refused included.
    came: usize,
    /// Takes in a row before which a flood came.
    floods: u32,
    /// The flood that goes on.
    flood: Option<Flood>,
    /// Whether one was refused since the last take for coming too early.
    was_early: bool,
}

/// Far more comes than can be answered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Flood {
    /// Rows that come in a nanosecond.
    pub rows: f64,
    /// So many times as early as it should be enough requests are let in: more where a run found too few.
    pub door: f64,
}

impl Pace {
    /// Takes in that so many requests came, whatever became of them.
    pub fn came(&mut self, jobs: usize) {
        self.came = self.came.saturating_add(jobs);
    }

    /// Takes in that one was refused for coming too early.
    pub fn was_early(&mut self) {
        self.was_early = true;
    }

    /// Takes in that `jobs` requests are taken at `now`, with so many rows, and whether others are left: is this a flood?
    pub fn gauge(&mut self, jobs: usize, rows: usize, left_some: bool, now: Moment) {
        let (came, was_early) = (std::mem::take(&mut self.came), std::mem::take(&mut self.was_early));
        let nanos = self.last.map_or(0, |(last, _)| (now - last).as_nanos());
        let is_flood = jobs > 0 && nanos > 0 && came >= FLOOD * jobs;
        self.floods = if is_flood { self.floods.saturating_add(1) } else { 0 };
        if self.floods < FLOODS_MIN {
            self.flood = None;
            return;
        }
        let door = self.flood.map_or(1.0, |flood| flood.door);
        let door = match (left_some, was_early) {
            (false, true) => (door * 2.0).min(DOOR_MAX),
            (true, _) => (door * FADE).max(1.0),
            (false, false) => door,
        };
        self.flood = Some(Flood { rows: came as f64 * (rows as f64 / jobs as f64) / nanos as f64, door });
    }

    /// The flood that goes on.
    pub fn flood(&self) -> Option<Flood> {
        self.flood
    }

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
    /// The flood that goes on.
    pub flood: Option<Flood>,
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

    /// In a flood, how long until a request that has `left` time is better let in than now; `None` where it is now. Others will
    /// come that fill its run, and have more time: it would be the first to be late where a run takes longer than foreseen,
    /// and all of a batch that was let in as early as it would be late together. Whoever has time for many runs may wait.
    pub fn too_early(&self, left: Duration, now: Moment) -> Option<Duration> {
        let Flood { rows: coming, door } = self.flood.filter(|flood| self.is_seen && flood.rows > 0.0)?;
        let rows = self.rows_for(left);
        let (left_ns, run_ns, start_ns) =
            (left.as_nanos() as f64, self.run_ns(rows), self.start_ns(self.rows, rows, now));
        let fills_ns = rows as f64 / coming;
        let window_ns = (2.0 * fills_ns).max(run_ns / 4.0).max(left_ns / 2.0 - run_ns) * door;
        (left_ns < PATIENT_RUNS * run_ns && start_ns > window_ns).then(|| nanos(start_ns - window_ns))
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
