//! What does a queue still do of ten times what it can, whatever runs cost, and however little time requests have?

use std::time::Duration;

use super::tests::{Job, due};
use super::*;
use crate::cost::{Cost, Fit};

const ROWS_MAX: usize = 64;

/// A session that runs one batch after the other, and requests that come all the time, in virtual seconds.
struct Flood {
    /// What runs take.
    cost: Fit,
    /// What was known before: runs that took so many times as long.
    known: f64,
    /// How long requests have.
    time: f64,
    /// What comes, by what could be answered.
    times: f64,
    /// How long nothing goes on, once in the time of twenty full runs.
    stall: f64,
    /// How much a run's time goes up and down.
    noise: f64,
}

impl Flood {
    /// Requests answered in time, by those that could be, while time goes on for a hundred full runs; the first quarter is
    /// for settling.
    fn goodput(&self) -> f64 {
        let mut queue = Queue::new(QueuePolicy { rows_max: ROWS_MAX, ..QueuePolicy::default() });
        let cost = self.cost_known();
        let at = |seconds: f64| Moment::from_nanos((seconds * 1e9) as u64);
        let full = self.run(ROWS_MAX);
        let (from, until) = (25.0 * full, 100.0 * full);
        let (mut now, mut next_comes, mut next_stalls) = (0.0, 0.0, 0.0);
        let (mut id, mut random, mut good) = (0, 88_172_645_463_325_252u64, 0);
        let mut running: Option<(f64, Vec<Job>)> = None;
        let mut began = 0.0;
        while now < until {
            queue.expect(cost.fit(), true);
            if running.as_ref().is_none_or(|(ends, _)| next_comes < *ends) {
                now = next_comes;
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                // Between a half and three halves of the mean: no flood in step with runs.
                next_comes += (0.5 + (random >> 40) as f64 / (1u64 << 24) as f64) / (self.times * self.best());
                id += 1;
                drop(queue.admit(due(id, at(now + self.time)), at(now), &mut Vec::new()));
            } else if let Some((ends, batch)) = running.take() {
                now = ends;
                queue.finish(Some((at(began), batch.len())), at(now));
                cost.observe(batch.len(), Duration::from_secs_f64(now - began));
                let in_time = batch.iter().filter(|job| job.deadline.is_some_and(|deadline| at(now) <= deadline));
                good += if now >= from { in_time.count() } else { 0 };
            }
            if running.is_none()
                && let Take::Batch(batch) = queue.take(at(now), &mut Vec::new())
            {
                began = now;
                let stall = if now >= next_stalls { self.stall } else { 0.0 };
                next_stalls = if now >= next_stalls { now + 20.0 * full } else { next_stalls };
                let noise = 1.0 + self.noise * ((random >> 20 & 0xffff) as f64 / 32_768.0 - 1.0);
                running = Some((now + self.run(batch.len()) * noise + stall, batch));
            }
        }
        let possible = (until - from) * (20.0 * full - self.stall) / (20.0 * full);
        good as f64 / (possible * self.best())
    }

    fn cost_known(&self) -> Cost {
        let cost = Cost::default();
        for rows in [1, 8, ROWS_MAX] {
            (0..32).for_each(|_| cost.observe(rows, self.cost.at(rows).mul_f64(self.known)));
        }
        cost.settle();
        cost
    }

    fn run(&self, rows: usize) -> f64 {
        self.cost.at(rows).as_secs_f64()
    }

    /// The most that could be answered in a second by runs that take three quarters of the time that there is at most.
    fn best(&self) -> f64 {
        let fits = |rows: &usize| self.run(*rows) <= self.time * 0.75;
        let rows = (1..=ROWS_MAX).rev().find(fits).unwrap_or(1);
        rows as f64 / self.run(rows)
    }
}

/// The share that is left in the worst case of stalls of so many full runs, with the case.
fn worst(stall: f64, noise: f64) -> (f64, String) {
    let mut worst = (f64::MAX, String::new());
    // Rows are what is dear, or runs are; or both.
    for (row_ns, run_ns) in [(1e6, 2e5), (2e6, 5e6), (1e5, 1e7)] {
        let cost = Fit { row_ns, run_ns };
        let full = cost.at(ROWS_MAX).as_secs_f64();
        for known in [0.5, 1.0, 2.0] {
            for (times, full_runs) in
                [1.2, 10.0].into_iter().flat_map(|times| [0.6, 1.2, 2.0, 5.0].map(|runs| (times, runs)))
            {
                if full_runs * full < 2.5 * cost.at(1).as_secs_f64() {
                    // Not even one row alone can wait for one.
                    continue;
                }
                let share = Flood { cost, known, time: full_runs * full, times, stall: stall * full, noise }.goodput();
                if share < worst.0 {
                    worst =
                        (share, format!("{share:.2} of {cost:?}, known {known}, {times} times, {full_runs} full runs"));
                }
            }
        }
    }
    worst
}

#[test]
fn a_flood_leaves_most_of_what_could_be_done() {
    let (share, case) = worst(0.0, 0.0);
    assert!(share > 0.6, "{case}");
}

#[test]
fn a_flood_that_follows_a_stall_does_not_last() {
    let (share, case) = worst(3.0, 0.0);
    assert!(share > 0.6, "{case}");
}

#[test]
fn runs_that_nobody_can_foretell_leave_much() {
    let (share, case) = worst(0.0, 0.5);
    assert!(share > 0.6, "{case}");
}
