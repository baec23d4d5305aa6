//! How much is ahead of a job that would join the queue now, and how large may batches be?

use tiltyard_types::Moment;

use super::{Queue, Waiting};
use crate::cost::Fit;
use crate::forecast::{Ahead, Pace};

impl<J: Waiting> Queue<J> {
    /// Takes in what runs are known to cost, and whether several jobs may share one.
    pub fn expect(&mut self, fit: Option<Fit>, shares: bool) {
        (self.fit, self.shares) = (fit, shares);
    }

    /// Takes in that so many requests came that never reached the queue.
    pub fn note_came(&mut self, jobs: usize) {
        self.pace.came(jobs);
        if jobs > 0 {
            self.pace.was_early();
        }
    }

    /// What waits at `now`, and what runs take.
    pub fn ahead(&self, now: Moment) -> Ahead {
        let runs_max = self.policy.runs_max.max(1);
        let pace = if self.is_rested(now) { Pace::default() } else { self.pace };
        let slower = pace.slower();
        let line = self.fit.map(|Fit { row_ns, run_ns }| {
            let slower = slower.unwrap_or(1.0);
            Fit { row_ns: row_ns * slower, run_ns: run_ns * slower }
        });
        let apart = pace.apart(runs_max);
        let free_at = match (pace.last(), line) {
            (Some((taken, rows)), Some(line)) if self.running >= runs_max => taken + line.at(rows).mul_f64(apart),
            _ => Moment::default(),
        };
        let rows_of_jobs = if self.shares { self.policy.rows_limit() } else { self.rows / self.jobs.max(1) };
        // Those who wait may be of kinds that do not join: more than twice what did is not to be expected.
        let rows_max = pace.joined().map_or(rows_of_jobs, |joined| rows_of_jobs.min((joined * 2.0) as usize)).max(1);
        let is_seen = slower.is_some();
        Ahead {
            jobs: self.jobs,
            rows: self.rows,
            rows_max,
            rows_lately: pace.rows(),
            line,
            apart,
            is_seen,
            free_at,
            flood: pace.flood(),
        }
    }

    /// Whether nothing runs, nor has for so long that what was seen tells nothing any more.
    fn is_rested(&self, now: Moment) -> bool {
        self.running == 0 && self.pace.is_old(now)
    }

    /// Takes in a batch that leaves now, and runs from here on.
    pub(super) fn note_take(&mut self, jobs: usize, rows: usize, now: Moment) {
        if self.is_rested(now) {
            self.pace = Pace::default();
        }
        self.running += 1;
        self.pace.gauge(jobs, rows, self.jobs > 0, now);
        let is_held_up = self.jobs > 0 || self.running >= self.policy.runs_max;
        // Lines are of rows as they run.
        let (fit, slower) = (self.fit, self.pace.slower().unwrap_or(1.0));
        let run_ns = |rows| fit.map_or(0.0, |fit| fit.ns(rows)) * slower;
        self.pace.took(self.policy.padded_rows(rows), now, self.jobs > 0, is_held_up, run_ns);
    }

    /// Takes in that a run has ended: when it was taken, and its rows, where that tells anything of others.
    pub(super) fn note_finish(&mut self, run: Option<(Moment, usize)>, now: Moment) {
        self.running -= 1;
        let expected_ns = |rows| self.fit.map_or(0.0, |fit| fit.ns(self.policy.padded_rows(rows)));
        let longer = run.map(|(taken, rows)| ((now - taken).as_nanos() as f64, expected_ns(rows)));
        let longer =
            longer.filter(|(_, expected_ns)| *expected_ns > 0.0).map(|(took_ns, expected_ns)| took_ns / expected_ns);
        self.pace.finished(longer, now);
        self.rest_pace();
    }

    /// Changes the rows that one batch may have, from the next one on.
    pub fn limit_rows(&mut self, rows_max: usize) {
        self.policy.rows_max = rows_max.max(1);
    }

    /// When the next batch is taken says nothing of runs where there is room for one that nobody fills.
    pub(super) fn rest_pace(&mut self) {
        if self.jobs == 0 && self.running < self.policy.runs_max {
            self.pace.pause();
        }
    }
}
