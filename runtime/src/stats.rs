//! What has a deployment done so far, in numbers?
//!
//! Counters are atomics in shards, one picked per thread, so that threads do not fight over a cache line. Reading
//! adds the shards up.

mod shadow;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tiltyard_types::ErrorKind;
use tiltyard_types::shard::{SHARDS, shard};

pub use self::shadow::{Dropped, ShadowCounts, ShadowSums};

use crate::sync::Mutex;

/// Upper bounds of the histograms' buckets, in nanoseconds: 10 µs to 10 s in steps of 1, 2.5, 5.
pub const BUCKETS_NS: [u64; 19] = [
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
];

/// Batch sizes are counted one by one up to this many rows, larger ones together.
pub const BATCH_ROWS_COUNTED_MAX: usize = 256;

/// A count and a sum of times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Durations {
    /// How many.
    pub count: u64,
    /// Their sum in nanoseconds.
    pub nanos: u64,
}

/// A histogram over [`BUCKETS_NS`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// Observations per bucket, not cumulated; the last is for those above every bound.
    pub buckets: [u64; BUCKETS_NS.len() + 1],
    /// Their sum in nanoseconds.
    pub nanos: u64,
}

impl Histogram {
    /// The number of observations.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

/// The times of one run of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunTimes {
    /// Gathering rows.
    pub assemble: Duration,
    /// Inside the engine.
    pub run: Duration,
    /// Cutting the outputs apart.
    pub split: Duration,
}

/// Why a request was refused for want of room or time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// As many requests are in flight as may.
    Requests,
    /// As many bytes are in flight as may.
    Bytes,
    /// Its model holds so much already that the rest is left to others.
    Share,
    /// As many requests wait for its version as may, or as many bytes.
    QueueFull,
    /// It would wait longer than it has time.
    PredictedWait,
    /// It waited, and would have been done too late.
    Shed,
    /// Its client asks too often.
    ClientRate,
}

impl Refusal {
    /// All reasons, in the order of their declaration.
    pub const ALL: [Refusal; 7] = [
        Refusal::Requests,
        Refusal::Bytes,
        Refusal::Share,
        Refusal::QueueFull,
        Refusal::PredictedWait,
        Refusal::Shed,
        Refusal::ClientRate,
    ];

    /// The name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Refusal::Requests => "requests",
            Refusal::Bytes => "bytes",
            Refusal::Share => "share",
            Refusal::QueueFull => "queue_full",
            Refusal::PredictedWait => "predicted_wait",
            Refusal::Shed => "shed",
            Refusal::ClientRate => "client_rate",
        }
    }
}

/// What of a deployment's is in flight. Whoever admits requests counts it.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct InFlight {
    /// Requests.
    pub requests: AtomicUsize,
    /// Bytes of their bodies, those that still arrive included.
    pub bytes: AtomicUsize,
}

/// Why a request is no evidence in a test of versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Apart {
    /// It has no key that would make it stick to an arm.
    NoKey,
    /// Its header picked the arm.
    Header,
    /// The arm that it belongs to does not answer, and another one does.
    StandIn,
}

impl Apart {
    /// All reasons, in the order of their declaration.
    pub const ALL: [Apart; 3] = [Apart::NoKey, Apart::Header, Apart::StandIn];

    /// The name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Apart::NoKey => "no_key",
            Apart::Header => "header",
            Apart::StandIn => "stand_in",
        }
    }
}

/// A deployment's counters.
#[derive(Default)]
pub struct Stats {
    /// What is in flight now.
    pub in_flight: InFlight,
    shards: [Shard; SHARDS],
    /// Those of requests, by the way they came.
    ways: Mutex<Vec<(Way, Arc<Requests>)>>,
    batches: Batches,
}

/// By which way requests reached a deployment: they are counted apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Way {
    /// The name that clients called.
    pub endpoint: String,
    /// The deployment's part there.
    pub arm: String,
}

/// Ways of one deployment that are counted each for itself; those beyond are counted together.
const WAYS_MAX: usize = 64;

#[derive(Default)]
#[repr(align(128))]
struct Shard {
    executions: AtomicU64,
    refused: [AtomicU64; Refusal::ALL.len()],
    late: AtomicU64,
}

/// The counters of the requests that came by one way.
#[derive(Default)]
pub struct Requests {
    /// As a shadow, which answers nobody.
    pub shadow: ShadowCounts,
    shards: [RequestShard; SHARDS],
    last_request_ms: AtomicU64,
}

#[derive(Default)]
#[repr(align(128))]
struct RequestShard {
    success: Total,
    failures: [Total; ErrorKind::ALL.len()],
    rows: AtomicU64,
    queue: Buckets,
    run: Buckets,
    total: Buckets,
    assemble: Total,
    split: Total,
    apart: [AtomicU64; Apart::ALL.len()],
}

#[derive(Default)]
struct Total {
    count: AtomicU64,
    nanos: AtomicU64,
}

#[derive(Default)]
struct Buckets {
    buckets: [AtomicU64; BUCKETS_NS.len() + 1],
    nanos: AtomicU64,
}

/// Executions and their time by the number of rows; the last entry is for larger batches.
struct Batches(Box<[BatchTotals]>);

#[derive(Default)]
struct BatchTotals {
    assemble: Total,
    run: Total,
    split: Total,
}

impl Default for Batches {
    fn default() -> Batches {
        Batches((0..BATCH_ROWS_COUNTED_MAX + 2).map(|_| BatchTotals::default()).collect())
    }
}

impl Total {
    fn add(&self, duration: Duration) {
        self.count.fetch_add(1, Relaxed);
        self.nanos.fetch_add(nanos(duration), Relaxed);
    }

    fn read(&self) -> Durations {
        Durations { count: self.count.load(Relaxed), nanos: self.nanos.load(Relaxed) }
    }
}

impl Buckets {
    fn add(&self, duration: Duration) {
        let value = nanos(duration);
        let bucket = BUCKETS_NS.partition_point(|&bound| bound < value);
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.nanos.fetch_add(value, Relaxed);
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// All of a deployment's counters, read at about one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Requests answered well, with their total time.
    pub success: Durations,
    /// Requests that failed, with their total time, by the position of the kind in [`ErrorKind::ALL`].
    pub failures: [Durations; ErrorKind::ALL.len()],
    /// Rows answered well.
    pub rows: u64,
    /// Runs of the engine.
    pub executions: u64,
    /// Requests refused for want of room or time, by the position of the reason in [`Refusal::ALL`].
    pub refused: [u64; Refusal::ALL.len()],
    /// Requests whose run began after their time was over.
    pub late: u64,
    /// Requests that are no evidence in a test of versions, by the position of the reason in [`Apart::ALL`].
    pub apart: [u64; Apart::ALL.len()],
    /// Time between enqueue and take, per request.
    pub queue: Histogram,
    /// Time in the engine, per request: that of the batch it was in.
    pub run: Histogram,
    /// Time between accept and reply, per request.
    pub total: Histogram,
    /// Time spent gathering, per request's batch.
    pub assemble: Durations,
    /// Time spent cutting apart, per request's batch.
    pub split: Durations,
    /// When the last request arrived, in milliseconds since 1970; 0 for never.
    pub last_request_ms: u64,
    /// As a shadow.
    pub shadow: ShadowSums,
    /// Per number of rows that occurred: rows, then the durations of assemble, run and split. Batches above
    /// [`BATCH_ROWS_COUNTED_MAX`] rows are counted under one more than that.
    pub batches: Vec<(usize, Durations, Durations, Durations)>,
}

impl Requests {
    /// Counts a request that was answered well: `rows` rows in `total` time since it was accepted.
    pub fn succeeded(&self, rows: usize, queue: Duration, times: RunTimes, total: Duration, unix_ms: u64) {
        let requests = &self.shards[shard()];
        requests.success.add(total);
        requests.rows.fetch_add(rows as u64, Relaxed);
        requests.queue.add(queue);
        requests.run.add(times.run);
        requests.total.add(total);
        requests.assemble.add(times.assemble);
        requests.split.add(times.split);
        self.last_request_ms.store(unix_ms, Relaxed);
    }

    /// Counts a request that failed.
    pub fn failed(&self, kind: ErrorKind, total: Duration, unix_ms: u64) {
        let position = ErrorKind::ALL.iter().position(|&other| other == kind).unwrap_or(0);
        self.shards[shard()].failures[position].add(total);
        self.last_request_ms.store(unix_ms, Relaxed);
    }

    /// Counts a request that is no evidence.
    pub fn apart(&self, why: Apart) {
        self.shards[shard()].apart[why as usize].fetch_add(1, Relaxed);
    }

    /// Adds the shards up.
    pub fn snapshot(&self) -> Snapshot {
        let (last_request_ms, shadow) = (self.last_request_ms.load(Relaxed), self.shadow.read());
        let mut sum = Snapshot { last_request_ms, shadow, ..Snapshot::default() };
        self.shards.iter().for_each(|shard| sum.add(shard));
        sum
    }
}

impl Stats {
    /// The counters of requests that come by this way: the same ones whenever they are asked for. For whoever makes a
    /// catalog, not for each request.
    pub fn way(&self, endpoint: &str, arm: &str) -> Arc<Requests> {
        let mut ways = self.ways.lock().unwrap_or_else(PoisonError::into_inner);
        let found = |ways: &[(Way, Arc<Requests>)], endpoint: &str, arm: &str| {
            let known = ways.iter().find(|(way, _)| way.endpoint == endpoint && way.arm == arm);
            known.map(|(_, requests)| Arc::clone(requests))
        };
        if let Some(requests) = found(&ways, endpoint, arm) {
            return requests;
        }
        let (endpoint, arm) = if ways.len() < WAYS_MAX { (endpoint, arm) } else { ("other", "other") };
        found(&ways, endpoint, arm).unwrap_or_else(|| {
            let requests = Arc::<Requests>::default();
            ways.push((Way { endpoint: endpoint.to_owned(), arm: arm.to_owned() }, Arc::clone(&requests)));
            requests
        })
    }

    /// Counts one run of the engine over `rows` rows.
    pub fn executed(&self, rows: usize, times: RunTimes) {
        self.shards[shard()].executions.fetch_add(1, Relaxed);
        let batch = &self.batches.0[rows.min(BATCH_ROWS_COUNTED_MAX + 1)];
        batch.assemble.add(times.assemble);
        batch.run.add(times.run);
        batch.split.add(times.split);
    }

    /// Counts a request that was refused for want of room or time.
    pub fn refused(&self, reason: Refusal) {
        self.shards[shard()].refused[reason as usize].fetch_add(1, Relaxed);
    }

    /// Counts requests whose run began after their time was over.
    pub fn late(&self, requests: usize) {
        if requests == 0 {
            return;
        }
        self.shards[shard()].late.fetch_add(requests as u64, Relaxed);
    }

    /// Runs of the engine so far.
    pub fn executions(&self) -> u64 {
        self.shards.iter().map(|shard| shard.executions.load(Relaxed)).sum()
    }

    /// What each way's requests counted, in the order in which the ways were first asked for.
    pub fn ways(&self) -> Vec<(Way, Snapshot)> {
        let ways = self.ways.lock().unwrap_or_else(PoisonError::into_inner);
        ways.iter().map(|(way, requests)| (way.clone(), requests.snapshot())).collect()
    }

    /// What is counted whatever the way: runs of the engine, refusals.
    pub fn runs(&self) -> Snapshot {
        let mut sum = Snapshot::default();
        for shard in &self.shards {
            sum.executions += shard.executions.load(Relaxed);
            sum.late += shard.late.load(Relaxed);
            for (sum, count) in sum.refused.iter_mut().zip(&shard.refused) {
                *sum += count.load(Relaxed);
            }
        }
        for (rows, batch) in self.batches.0.iter().enumerate() {
            if batch.run.count.load(Relaxed) > 0 {
                sum.batches.push((rows, batch.assemble.read(), batch.run.read(), batch.split.read()));
            }
        }
        sum
    }

    /// All of it together.
    pub fn snapshot(&self) -> Snapshot {
        let mut sum = self.runs();
        self.ways().iter().for_each(|(_, requests)| sum.merge(requests));
        sum
    }
}

impl Snapshot {
    /// Adds what another one counted.
    pub fn merge(&mut self, other: &Snapshot) {
        merge_durations(&mut self.success, other.success);
        for (sum, more) in self.failures.iter_mut().zip(&other.failures) {
            merge_durations(sum, *more);
        }
        self.rows += other.rows;
        self.executions += other.executions;
        self.late += other.late;
        self.refused.iter_mut().zip(&other.refused).for_each(|(sum, more)| *sum += more);
        self.apart.iter_mut().zip(&other.apart).for_each(|(sum, more)| *sum += more);
        for (sum, more) in
            [(&mut self.queue, &other.queue), (&mut self.run, &other.run), (&mut self.total, &other.total)]
        {
            sum.buckets.iter_mut().zip(&more.buckets).for_each(|(sum, more)| *sum += more);
            sum.nanos += more.nanos;
        }
        merge_durations(&mut self.assemble, other.assemble);
        merge_durations(&mut self.split, other.split);
        self.last_request_ms = self.last_request_ms.max(other.last_request_ms);
        self.shadow.merge(&other.shadow);
        for &(rows, assemble, run, split) in &other.batches {
            let position = self.batches.partition_point(|batch| batch.0 < rows);
            match self.batches.get_mut(position).filter(|batch| batch.0 == rows) {
                Some(batch) => {
                    merge_durations(&mut batch.1, assemble);
                    merge_durations(&mut batch.2, run);
                    merge_durations(&mut batch.3, split);
                }
                None => self.batches.insert(position, (rows, assemble, run, split)),
            }
        }
    }

    fn add(&mut self, requests: &RequestShard) {
        add_total(&mut self.success, &requests.success);
        for (sum, total) in self.failures.iter_mut().zip(&requests.failures) {
            add_total(sum, total);
        }
        self.rows += requests.rows.load(Relaxed);
        add_buckets(&mut self.queue, &requests.queue);
        add_buckets(&mut self.run, &requests.run);
        add_buckets(&mut self.total, &requests.total);
        add_total(&mut self.assemble, &requests.assemble);
        add_total(&mut self.split, &requests.split);
        self.apart.iter_mut().zip(&requests.apart).for_each(|(sum, count)| *sum += count.load(Relaxed));
    }
}

fn merge_durations(sum: &mut Durations, more: Durations) {
    sum.count += more.count;
    sum.nanos += more.nanos;
}

fn add_total(sum: &mut Durations, total: &Total) {
    merge_durations(sum, total.read());
}

fn add_buckets(sum: &mut Histogram, histogram: &Buckets) {
    for (sum, bucket) in sum.buckets.iter_mut().zip(&histogram.buckets) {
        *sum += bucket.load(Relaxed);
    }
    sum.nanos += histogram.nanos.load(Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_two_counted_is_what_one_would_have() {
        let times = |micros| RunTimes { run: Duration::from_micros(micros), ..RunTimes::default() };
        let count = |stats: &Stats, rows: usize, micros: u64| {
            let requests = stats.way("e", "champion");
            stats.executed(rows, times(micros));
            requests.succeeded(rows, Duration::ZERO, times(micros), Duration::from_micros(60), micros);
            requests.failed(ErrorKind::Engine, Duration::from_micros(5), micros);
            requests.apart(Apart::Header);
            requests.shadow.sampled();
            requests.shadow.dropped(Dropped::Late);
            requests.shadow.compared(Duration::from_micros(micros));
            stats.refused(Refusal::Shed);
            stats.late(rows);
        };
        let (one, other, both) = (Stats::default(), Stats::default(), Stats::default());
        for (rows, micros) in [(3, 30), (1, 20)] {
            count(&one, rows, micros);
            count(&both, rows, micros);
        }
        for (rows, micros) in [(3, 7), (2, 9)] {
            count(&other, rows, micros);
            count(&both, rows, micros);
        }
        let mut sum = one.snapshot();
        sum.merge(&other.snapshot());
        // The moment of the last request is that of whoever had the later one.
        let expected = Snapshot { last_request_ms: 20, ..both.snapshot() };
        assert_eq!(sum, expected);
    }

    #[test]
    fn counts_from_many_threads_add_up() {
        let stats = Stats::default();
        let times = RunTimes { run: Duration::from_micros(30), ..RunTimes::default() };
        std::thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        stats.executed(3, times);
                        let routed = stats.way("e", "champion");
                        routed.succeeded(3, Duration::ZERO, times, Duration::from_micros(60), 5);
                    }
                    stats.way("e", "pinned").failed(ErrorKind::Deadline, Duration::from_secs(60), 6);
                });
            }
        });
        assert_eq!(stats.way("e", "pinned").snapshot().success.count, 0);
        let sum = stats.snapshot();
        assert_eq!((sum.success.count, sum.rows, sum.executions), (600, 1800, 600));
        assert_eq!(sum.failures.iter().map(|failure| failure.count).sum::<u64>(), 6);
        assert_eq!(sum.run.buckets[2], 600, "30 µs belongs under the bound of 50 µs");
        assert_eq!(
            sum.batches,
            [(
                3,
                Durations { count: 600, nanos: 0 },
                Durations { count: 600, nanos: 18_000_000 },
                Durations { count: 600, nanos: 0 }
            )]
        );
    }

    #[test]
    fn ways_are_bounded_and_lose_nothing() {
        let stats = Stats::default();
        for endpoint in 0..2 * WAYS_MAX {
            let requests = stats.way(&endpoint.to_string(), "champion");
            assert!(Arc::ptr_eq(&requests, &stats.way(&endpoint.to_string(), "champion")));
            requests.failed(ErrorKind::Engine, Duration::ZERO, 1);
        }
        let ways = stats.ways();
        assert_eq!(ways.len(), WAYS_MAX + 1);
        assert_eq!(ways[WAYS_MAX].0, Way { endpoint: "other".into(), arm: "other".into() });
        let position = ErrorKind::ALL.iter().position(|kind| *kind == ErrorKind::Engine).unwrap();
        assert_eq!(stats.snapshot().failures[position].count, 2 * WAYS_MAX as u64);
    }
}
