//! When would a request that joins the queue now be run?
//!
//! Where rows were seen to leave while others waited, by that pace: it has in it all that slows them down, other models
//! and busy processors included. Before that by what runs are known to cost, which is a lower bound: refusing a request
//! that could have been answered is worse than letting one expire.

use std::time::Duration;

use tiltyard_types::Moment;

use crate::cost::Fit;

/// Predictions are off, and those in front may hang up: by so much. A wait that only the cost of runs tells must go beyond
/// the time that a request has left by this much before it is refused.
pub(crate) const DOUBT: f64 = 1.25;

/// Batches that were taken while others went on waiting, before they say at which pace rows leave.
const TAKES_MIN: u32 = 8;

/// What each batch leaves of the weight of those before it.
const FADE: f64 = 0.9;

/// Of the time that a request has when it comes, its own run may take so much; the rest is for waiting. Larger batches do
/// more in the same time, but a queue whose runs take all the time there is answers nobody.
const RUN_SHARE: f64 = 0.75;

/// From one batch to the next, in a queue that nothing holds up: after that its pace is of another time.
const FORGET_AFTER: Duration = Duration::from_secs(1);

/// How fast rows leave a queue while a next batch waits for nothing but those that run: for their runs, other models, busy
/// processors. Forgotten when there was nothing to do for a while.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pace {
    /// The last batch that was taken: when, and its rows.
    last: Option<(Moment, usize)>,
    /// Whether nothing but runs held up whoever waits, ever since.
    is_held_up: bool,
    nanos: f64,
    rows: f64,
    /// The batches, faded as their rows are.
    weight: f64,
    takes: u32,
}

impl Pace {
    /// Takes in that a batch of `rows` rows was taken at `now`, and whether the next one has to wait for runs.
    pub fn took(&mut self, rows: usize, now: Moment, is_held_up: bool) {
        if self.last.is_some_and(|(last, _)| !self.is_held_up && now - last > FORGET_AFTER) {
            *self = Pace::default();
        }
        self.rest(now);
        (self.last, self.is_held_up) = (Some((now, rows)), is_held_up);
    }

    /// Takes in that there is room for a run at `now` that nobody fills: up to then something was held up, if so, and when
    /// the next batch is taken tells nothing of runs.
    pub fn rest(&mut self, now: Moment) {
        if let Some((last, last_rows)) = self.last.filter(|_| self.is_held_up) {
            self.nanos = self.nanos * FADE + (now - last).as_nanos() as f64;
            self.rows = self.rows * FADE + last_rows as f64;
            self.weight = self.weight * FADE + 1.0;
            self.takes = self.takes.saturating_add(1);
        }
        self.is_held_up = false;
    }

    /// Rows of a batch, and nanoseconds from one to the next, on average; `None` while too few told. A batch has fewer rows
    /// than it may have where requests do not join.
    pub fn batch(&self) -> Option<(f64, f64)> {
        (self.takes >= TAKES_MIN && self.rows > 0.0).then(|| (self.rows / self.weight, self.nanos / self.weight))
    }

    /// The last batch that was taken: when, and its rows.
    pub fn last(&self) -> Option<(Moment, usize)> {
        self.last
    }
}

/// What is ahead of a request, and what runs take.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Ahead {
    /// Requests that wait.
    pub jobs: usize,
    /// Their rows.
    pub rows: usize,
    /// Rows that one run takes at most, those of one request where none shares it; at least 1.
    pub rows_max: usize,
    /// Runs that go on at once; at least 1.
    pub runs_max: usize,
    /// What a run takes; `None` while nobody knows.
    pub line: Option<Fit>,
    /// Whether that is by the pace at which rows were seen to leave; else it is a lower bound.
    pub is_paced: bool,
    /// When there is room for the next run, as far as one can tell; in the past where there is, or should be.
    pub free_at: Moment,
}

impl Ahead {
    /// What a run takes: its cost as measured, and as much slower as batches were seen to leave. Where the cost is unknown,
    /// a row takes what rows took.
    pub(crate) fn line_of(fit: Option<Fit>, pace: &Pace, runs_max: usize) -> Option<Fit> {
        let Some((rows, apart_ns)) = pace.batch() else { return fit };
        let seen_ns = apart_ns * runs_max as f64;
        Some(match fit.map(|fit| (fit, fit.row_ns * rows + fit.run_ns)) {
            Some((fit, expected_ns)) if expected_ns > 0.0 => {
                let slower = seen_ns / expected_ns;
                Fit { row_ns: fit.row_ns * slower, run_ns: fit.run_ns * slower }
            }
            _ => Fit { row_ns: seen_ns / rows, run_ns: 0.0 },
        })
    }

    /// The rows of a run that leaves a request time to wait, of the `time` that it has when it comes: as many as one may
    /// have, where that is known to be enough.
    pub(crate) fn rows_for(&self, time: Duration) -> usize {
        let Some(line) = self.line.filter(|line| line.row_ns > 0.0) else { return self.rows_max };
        let run_ns = time.as_nanos() as f64 * RUN_SHARE / DOUBT;
        (((run_ns - line.run_ns) / line.row_ns) as usize).clamp(1, self.rows_max)
    }

    /// How long a run of `rows` rows takes; nothing where nobody knows.
    pub(crate) fn run(&self, rows: usize) -> Duration {
        nanos(self.line.map_or(0.0, |line| line.ns(rows)))
    }

    /// How long until what waits now has been run: by the pace at which rows leave, or else by the line that fits the cost
    /// of runs. `None` where nobody knows either. A last batch that is not full is not counted: it would take the request
    /// along.
    pub fn wait(&self, now: Moment) -> Option<Duration> {
        self.line.map(|_| nanos(self.start_ns(self.rows, self.rows_max, now)))
    }

    /// How long a request that came now, and has `left` time, would surely have to wait for its answer: what it must be
    /// refused for if that is longer. By the pace of rows that is the wait and a run, and some more: a queue that goes up
    /// to the last moment of its requests answers no more of them than a shorter one, and later. By the cost of runs alone
    /// it is less than the wait, for doubt. Nothing where nothing waits: then only running tells.
    pub fn sure_wait(&self, left: Duration, now: Moment) -> Duration {
        let Some(line) = self.line.filter(|_| self.jobs > 0 || self.is_paced && self.free_at > now) else {
            return Duration::ZERO;
        };
        let rows = self.rows_for(left);
        let start_ns = self.start_ns(self.rows, rows, now);
        nanos(if self.is_paced { start_ns + line.ns(rows) * DOUBT } else { (start_ns + line.ns(1)) / DOUBT })
    }

    /// How long a request with `ahead` rows in front of it, that had `time` when it came, waits for its answer, without a
    /// doubt: what it is given up for if it has less left.
    pub(crate) fn least_wait(&self, ahead: usize, time: Duration, now: Moment) -> Duration {
        let rows = self.rows_for(time);
        let run_ns = self.line.map_or(0.0, |line| line.ns(rows.min(self.rows - ahead.min(self.rows)).max(1)));
        nanos(self.start_ns(ahead, rows, now) + run_ns)
    }

    /// Nanoseconds until the run of a request starts that has `ahead` rows in front of it, in runs of `rows` rows.
    fn start_ns(&self, ahead: usize, rows: usize, now: Moment) -> f64 {
        let run_ns = self.line.map_or(0.0, |line| line.ns(rows)) / self.runs_max as f64;
        (self.free_at - now).as_nanos() as f64 + (ahead / rows) as f64 * run_ns
    }
}

fn nanos(nanos: f64) -> Duration {
    Duration::from_nanos(nanos as u64)
}

#[cfg(test)]
#[path = "forecast/tests.rs"]
mod tests;
