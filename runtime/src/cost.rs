//! What does a run of so many rows cost?
//!
//! Every run of the engine is observed: one atomic addition into a histogram of its size class, in a shard picked per
//! thread. Now and then one of these additions also reads the histograms and publishes what they say, so that readers on
//! a request's path load a few atomics and compute nothing. Old runs fade: a histogram that is full is halved.

mod fit;
mod times;

use std::sync::OnceLock;
use std::sync::atomic::Ordering::{self, Relaxed};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize};
use std::time::Duration;

use tiltyard_types::shard::{SHARDS, shard};

pub use self::fit::Fit;
use self::times::{BUCKETS, LONGEST_NS, Times, bucket};

/// Size classes: 1 row, 2, up to 4, up to 8 … up to 4096, which also counts what is larger.
const CLASSES: usize = 13;

/// A bucket's count sits above the sum of its nanoseconds, in one word, so that one addition does both.
const COUNT_SHIFT: u32 = 49;
const NANOS_MASK: u64 = (1 << COUNT_SHIFT) - 1;

/// Runs of one class in one shard after which all of them count half. Together with [`PUBLISH_EVERY`] it keeps both
/// fields from running over: at most 2,048 + 108 · 64 runs of 34 s.
const HALVE_AT: u64 = 2048;

/// Runs in one bucket between two publications. Early ones come sooner.
const PUBLISH_EVERY: u64 = 64;

/// Runs of one size at least, for a statement about what is typical.
const TYPICAL_RUNS_MIN: u64 = 3;

/// A run of this length at most, 99 times in 100, may be run by the thread that brought it.
pub(crate) const QUICK: Duration = Duration::from_micros(50);

/// A run of more than this is slow, not quick in a bad moment.
const FAR_FROM_QUICK: Duration = Duration::from_micros(200);

/// A batch this close to the best rate is as good, if it is smaller: it answers sooner.
const AS_GOOD_AS_BEST: f64 = 0.97;

/// What runs of one size class cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Rows of these runs, on average.
    pub rows: f64,
    /// Runs that this is about, older ones counting less.
    pub runs: u64,
    /// The time of a typical run: the mean of the fastest nine in ten.
    pub typical: Duration,
    /// The time that 99 in 100 take at most, those left out in which the thread lost its processor; `None` while too few
    /// were seen.
    pub p99: Option<Duration>,
}

impl Point {
    /// Rows in a second, one run after the other.
    pub fn rows_per_second(&self) -> f64 {
        self.rows / self.typical.as_secs_f64().max(1e-9)
    }
}

/// What a deployment's runs cost, learned from those that were.
pub struct Cost {
    known: Known,
    runs: [[OnceLock<Box<Runs>>; CLASSES]; SHARDS],
    publishing: AtomicBool,
}

/// What was published last; zero stands for unknown. Apart from what is written all the time.
#[repr(align(128))]
#[derive(Default)]
struct Known {
    p99_ns: [AtomicU64; CLASSES],
    typical_ns: [AtomicU64; CLASSES],
    count: [AtomicU64; CLASSES],
    /// The bits of a float.
    rows: [AtomicU64; CLASSES],
    /// The bits of floats: a and b.
    fit: [AtomicU64; 2],
    rows_quick: AtomicUsize,
}

/// The histogram of one class in one shard.
struct Runs {
    buckets: [AtomicU64; BUCKETS],
    /// Rows that these runs lacked to the class's largest size, in all; negative for those above every class.
    short: AtomicI64,
}

impl Default for Cost {
    fn default() -> Cost {
        Cost {
            known: Known::default(),
            runs: std::array::from_fn(|_| std::array::from_fn(|_| OnceLock::new())),
            publishing: AtomicBool::new(false),
        }
    }
}

impl Cost {
    /// Takes in that a run of `rows` rows took `run` in the engine. A few nanoseconds; any thread may call it.
    pub fn observe(&self, rows: usize, run: Duration) {
        let class = class_of(rows);
        let runs = self.runs[shard()][class].get_or_init(Box::default);
        let nanos = u64::try_from(run.as_nanos()).unwrap_or(u64::MAX).min(LONGEST_NS);
        let short = rows_of(class) as i64 - rows as i64;
        if short != 0 {
            runs.short.fetch_add(short, Relaxed);
        }
        let before = runs.buckets[bucket(nanos)].fetch_add((1 << COUNT_SHIFT) | nanos, Relaxed);
        let count = (before >> COUNT_SHIFT) + 1;
        let is_news = count.is_multiple_of(PUBLISH_EVERY)
            || (count.is_power_of_two() && self.known.count[class].load(Relaxed) < PUBLISH_EVERY);
        if is_news {
            self.publish(class, shard());
        }
    }

    /// Publishes what every run so far says. Observing does so by itself, a little later.
    pub fn settle(&self) {
        (0..CLASSES).for_each(|class| self.publish(class, shard()));
    }

    /// What is known, from few rows to many: one point for each size class that ran.
    pub fn points(&self) -> Vec<Point> {
        (0..CLASSES).filter_map(|class| self.point(class)).collect()
    }

    /// Takes in what was known at an earlier time, as that many runs but at most 32 of each size: what is seen from now on
    /// soon weighs more.
    pub fn recall(&self, points: &[Point]) {
        const RUNS_MAX: u64 = 32;
        for point in points.iter().filter(|point| point.runs > 0 && point.rows >= 1.0) {
            let rows = point.rows.round() as usize;
            let slowest = point.p99.map_or(0, |p99| {
                self.observe(rows, p99);
                1
            });
            (slowest..point.runs.min(RUNS_MAX)).for_each(|_| self.observe(rows, point.typical));
        }
        self.settle();
    }

    /// The line through all that is known.
    pub fn fit(&self) -> Option<Fit> {
        let [row_ns, run_ns] = [0, 1].map(|part: usize| f64::from_bits(self.known.fit[part].load(Relaxed)));
        (row_ns > 0.0 || run_ns > 0.0).then_some(Fit { row_ns, run_ns })
    }

    /// The largest size that ran often enough to be known.
    pub fn rows_known_max(&self) -> Option<usize> {
        (0..CLASSES).rev().find(|&class| self.known.typical_ns[class].load(Relaxed) > 0).map(rows_of)
    }

    /// What a run of `rows` rows typically costs; beyond the sizes that ran, by the line through them.
    pub fn predict(&self, rows: usize) -> Option<Duration> {
        self.fit().map(|fit| fit.at(rows))
    }

    /// What 99 in 100 runs of about `rows` rows take at most; `None` where that size has not run often enough.
    pub fn p99(&self, rows: usize) -> Option<Duration> {
        known_time(&self.known.p99_ns[class_of(rows)])
    }

    /// The largest number of rows whose runs are quick: short enough for the thread that brought them. 0 while that is
    /// unknown, or where even one row is not. One load: made for a request's path.
    pub fn rows_quick(&self) -> usize {
        self.known.rows_quick.load(Relaxed)
    }

    /// The smallest batch, up to `limit`, whose rows per second are as good as the best one's.
    pub fn best_rows(&self, limit: usize) -> usize {
        let points: Vec<(f64, f64)> = self
            .points()
            .iter()
            .map(|point| (point.rows, point.typical.as_nanos() as f64))
            .filter(|(rows, _)| *rows <= limit as f64)
            .collect();
        best_rows(&points, limit)
    }

    fn point(&self, class: usize) -> Option<Point> {
        Some(Point {
            typical: known_time(&self.known.typical_ns[class])?,
            rows: f64::from_bits(self.known.rows[class].load(Relaxed)),
            runs: self.known.count[class].load(Relaxed),
            p99: known_time(&self.known.p99_ns[class]),
        })
    }

    /// Reads a class's histograms and publishes what they say. One thread at a time; others go on with what there is.
    fn publish(&self, class: usize, own_shard: usize) {
        if self.publishing.swap(true, Ordering::Acquire) {
            return;
        }
        let (mut times, mut short) = (Times::new(), 0i64);
        for (shard, runs) in self.runs.iter().enumerate() {
            let Some(runs) = runs[class].get() else { continue };
            let count = runs.read_into(&mut times);
            short += runs.short.load(Relaxed);
            if shard == own_shard && count >= HALVE_AT {
                runs.halve();
            }
        }
        let count = times.count();
        let known = &self.known;
        known.count[class].store(count, Relaxed);
        if let Some(typical) = times.typical().filter(|_| count >= TYPICAL_RUNS_MIN) {
            let rows = rows_of(class) as f64 - short as f64 / count as f64;
            known.rows[class].store(rows.max(1.0).to_bits(), Relaxed);
            known.typical_ns[class].store((typical as u64).max(1), Relaxed);
            known.p99_ns[class].store(times.p99().map_or(0, |p99| (p99 as u64).max(1)), Relaxed);
            let p99s: [Option<Duration>; CLASSES] = std::array::from_fn(|class| known_time(&known.p99_ns[class]));
            known.rows_quick.store(rows_quick(&p99s, known.rows_quick.load(Relaxed)), Relaxed);
            let points: [(f64, f64, f64); CLASSES] = std::array::from_fn(|class| {
                self.point(class)
                    .map_or((0.0, 0.0, 0.0), |point| (point.rows, point.typical.as_nanos() as f64, point.runs as f64))
            });
            if let Some(fit) = Fit::of(&points) {
                known.fit[0].store(fit.row_ns.to_bits(), Relaxed);
                known.fit[1].store(fit.run_ns.to_bits(), Relaxed);
            }
        }
        self.publishing.store(false, Ordering::Release);
    }
}

impl Default for Runs {
    fn default() -> Runs {
        Runs { buckets: std::array::from_fn(|_| AtomicU64::new(0)), short: AtomicI64::new(0) }
    }
}

impl Runs {
    /// Adds what is counted here to `times` and says how many runs that were.
    fn read_into(&self, times: &mut Times) -> u64 {
        let mut total = 0;
        for (position, bucket) in self.buckets.iter().enumerate() {
            let word = bucket.load(Relaxed);
            if word > 0 {
                times.add(position, word >> COUNT_SHIFT, word & NANOS_MASK);
                total += word >> COUNT_SHIFT;
            }
        }
        total
    }

    /// Makes all runs so far count half. What others add meanwhile is kept, since this only subtracts. A lone run of its
    /// bucket goes, which makes outliers fade fastest.
    fn halve(&self) {
        for bucket in &self.buckets {
            let word = bucket.load(Relaxed);
            let (count, nanos) = (word >> COUNT_SHIFT, word & NANOS_MASK);
            if count > 0 {
                let kept = count / 2;
                let kept_nanos = nanos / count * kept;
                bucket.fetch_sub(((count - kept) << COUNT_SHIFT) | (nanos - kept_nanos), Relaxed);
            }
        }
        let short = self.short.load(Relaxed);
        self.short.fetch_sub(short - short / 2, Relaxed);
    }
}

/// The smallest batch whose rows per second are within 3 % of the best, from ascending points of (rows, nanoseconds). Where
/// that is the largest one tried, and twice as many rows are allowed, nobody knows where it ends: it is `limit`.
pub(crate) fn best_rows(points: &[(f64, f64)], limit: usize) -> usize {
    let rate = |(rows, nanos): &(f64, f64)| rows / nanos.max(1.0);
    let best = points.iter().map(rate).fold(0.0, f64::max);
    let Some(first) = points.iter().position(|point| rate(point) >= AS_GOOD_AS_BEST * best) else { return limit };
    let rows = points[first].0;
    let is_open = first + 1 == points.len() && rows * 2.0 <= limit as f64;
    if is_open { limit } else { (rows.round() as usize).clamp(1, limit.max(1)) }
}

/// The largest number of rows whose runs are quick, 99 in 100, by the size classes' times; `before` is what was quick until
/// now.
///
/// What was quick once may take twice as long before it no longer is: a busy machine must not send requests to and fro.
/// More rows take no less time than fewer, so that a size which looks a little slower than a larger one was only seen in a
/// worse moment; one that is far beyond the bound rules out all above it. Only sizes that ran are answered for, and twice
/// the largest of them where it takes half of the bound at most: twice the rows take no more than twice the time.
fn rows_quick(p99s: &[Option<Duration>], before: usize) -> usize {
    let (mut rows, mut longest) = (0, QUICK);
    for (class, p99) in p99s.iter().enumerate().filter_map(|(class, p99)| Some((class, (*p99)?))) {
        let bound = if rows_of(class) <= before { 2 * QUICK } else { QUICK };
        if p99 > FAR_FROM_QUICK {
            return rows;
        }
        if p99 <= bound {
            (rows, longest) = (rows_of(class), p99);
        }
    }
    if longest <= QUICK / 2 { rows * 2 } else { rows }
}

/// The size class of a run.
fn class_of(rows: usize) -> usize {
    (rows.max(1).next_power_of_two().trailing_zeros() as usize).min(CLASSES - 1)
}

/// The largest size of a class.
fn rows_of(class: usize) -> usize {
    1 << class
}

fn known_time(nanos: &AtomicU64) -> Option<Duration> {
    match nanos.load(Relaxed) {
        0 => None,
        nanos => Some(Duration::from_nanos(nanos)),
    }
}

#[cfg(test)]
#[path = "cost/tests.rs"]
mod tests;
