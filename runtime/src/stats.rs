//! What has a deployment done so far, in numbers?
//!
//! Counters are atomics in shards, one picked per thread, so that threads do not fight over a cache line. Reading
//! adds the shards up.

mod exemplars;
mod faults;
mod histogram;
mod shadow;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tiltyard_types::ErrorKind;
use tiltyard_types::shard::{SHARDS, shard};

pub use self::exemplars::Exemplar;
use self::exemplars::Exemplars;
pub use self::faults::Faults;
use self::histogram::Buckets;
pub use self::histogram::{CLASSIC_NS, Histogram, NATIVE_SCHEMA, Native};
pub use self::shadow::{Dropped, ShadowCounts, ShadowSums};

use crate::sync::Mutex;

/// Batch sizes are counted one by one up to this many rows, larger ones together.
pub const BATCH_ROWS_COUNTED_MAX: usize = 256;

/// Upper bounds of batch sizes as they are told, in rows.
pub const BATCH_ROWS_BOUNDS: [usize; 9] = [1, 2, 4, 8, 16, 32, 64, 128, BATCH_ROWS_COUNTED_MAX];

/// A count and a sum of times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Durations {
    /// How many.
    pub count: u64,
    /// Their sum in nanoseconds.
    pub nanos: u64,
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

/// What runs took of the machine, or a request's part of that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// Time of processors.
    pub cpu: Duration,
    /// Time that a device was theirs alone; none where they ran on processors.
    pub device: Duration,
}

impl Used {
    /// The part of `rows` rows where there were `all`.
    #[must_use]
    pub fn part(self, rows: usize, all: usize) -> Used {
        if rows == all {
            return self;
        }
        let ratio = rows as f64 / all.max(1) as f64;
        Used { cpu: self.cpu.mul_f64(ratio), device: self.device.mul_f64(ratio) }
    }

    /// Adds what others took.
    pub fn add(&mut self, more: Used) {
        self.cpu += more.cpu;
        self.device += more.device;
    }
}

/// A request that was answered well.
#[derive(Clone, Copy, Debug, Default)]
pub struct Served {
    /// Its rows.
    pub rows: usize,
    /// From having its body to having it in the queue.
    pub decode: Duration,
    /// From the queue to its run.
    pub queue: Duration,
    /// The times of the run it was in.
    pub times: RunTimes,
    /// Its part of what that run took.
    pub used: Used,
    /// From accepting it to having its answer.
    pub total: Duration,
    /// When it was accepted, in milliseconds since 1970.
    pub unix_ms: u64,
    /// The server's name for it, as bits.
    pub id: u128,
    /// Its trace, as bits; 0 where it has none.
    pub trace: u128,
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
    faults: Arc<Faults>,
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
    rows: AtomicU64,
    refused: [AtomicU64; Refusal::ALL.len()],
    late: AtomicU64,
}

/// The counters of the requests that came by one way.
#[derive(Default)]
pub struct Requests {
    /// As a shadow, which answers nobody.
    pub shadow: ShadowCounts,
    shards: [RequestShard; SHARDS],
    exemplars: Exemplars,
    last_request_ms: AtomicU64,
}

#[derive(Default)]
#[repr(align(128))]
struct RequestShard {
    success: Total,
    failures: [Total; ErrorKind::ALL.len()],
    rows: AtomicU64,
    decode: Buckets,
    queue: Buckets,
    run: Buckets,
    encode: Buckets,
    total: Buckets,
    cpu_nanos: AtomicU64,
    device_nanos: AtomicU64,
    assemble: Total,
    split: Total,
    apart: [AtomicU64; Apart::ALL.len()],
}

#[derive(Default)]
struct Total {
    count: AtomicU64,
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
    /// Rows in them.
    pub run_rows: u64,
    /// Runs by their rows: up to each of [`BATCH_ROWS_BOUNDS`] and above the one before; the last is for those above all.
    pub sizes: [u64; BATCH_ROWS_BOUNDS.len() + 1],
    /// Requests refused for want of room or time, by the position of the reason in [`Refusal::ALL`].
    pub refused: [u64; Refusal::ALL.len()],
    /// Requests whose run began after their time was over.
    pub late: u64,
    /// Runs that were given up as stuck.
    pub given_up: u64,
    /// Times that the deployment was taken out of service.
    pub times_out: u64,
    /// Requests that are no evidence in a test of versions, by the position of the reason in [`Apart::ALL`].
    pub apart: [u64; Apart::ALL.len()],
    /// Time between having the body and enqueue, per request.
    pub decode: Histogram,
    /// Time between enqueue and take, per request.
    pub queue: Histogram,
    /// Time in the engine, per request: that of the batch it was in.
    pub run: Histogram,
    /// Time between reply and having it encoded, per request.
    pub encode: Histogram,
    /// Processors' time in the engine: of each run, each request's part by its rows.
    pub cpu_nanos: u64,
    /// Devices' time in the same way.
    pub device_nanos: u64,
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
    /// Counts a request that was answered well.
    pub fn succeeded(&self, served: &Served) {
        let requests = &self.shards[shard()];
        requests.success.add(served.total);
        requests.rows.fetch_add(served.rows as u64, Relaxed);
        requests.decode.add(served.decode);
        requests.queue.add(served.queue);
        requests.run.add(served.times.run);
        requests.total.add(served.total);
        requests.assemble.add(served.times.assemble);
        requests.split.add(served.times.split);
        self.last_request_ms.store(served.unix_ms, Relaxed);
        self.used(served.used);
        let Served { id, trace, unix_ms, total, .. } = *served;
        self.exemplars.show(&Exemplar { id, trace, nanos: nanos(total), unix_ms });
    }

    /// Counts what was taken of the machine.
    pub fn used(&self, used: Used) {
        let requests = &self.shards[shard()];
        requests.cpu_nanos.fetch_add(nanos(used.cpu), Relaxed);
        if !used.device.is_zero() {
            requests.device_nanos.fetch_add(nanos(used.device), Relaxed);
        }
    }

    /// Counts that an answer was encoded, and how long that took.
    pub fn encoded(&self, encode: Duration) {
        self.shards[shard()].encode.add(encode);
    }

    /// Requests as examples, each with the position of its bucket among [`CLASSIC_NS`] or the one after.
    pub fn exemplars(&self) -> Vec<(usize, Exemplar)> {
        self.exemplars.read()
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
    /// Counters of a deployment whose health counts its `faults`.
    pub fn with(faults: &Arc<Faults>) -> Stats {
        Stats { faults: Arc::clone(faults), ..Stats::default() }
    }

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
        let counts = &self.shards[shard()];
        counts.executions.fetch_add(1, Relaxed);
        counts.rows.fetch_add(rows as u64, Relaxed);
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

    /// Requests as examples, by the way they came.
    pub fn exemplars(&self) -> Vec<(Way, Vec<(usize, Exemplar)>)> {
        let ways = self.ways.lock().unwrap_or_else(PoisonError::into_inner);
        ways.iter().map(|(way, requests)| (way.clone(), requests.exemplars())).collect()
    }

    /// What is counted whatever the way: runs of the engine, refusals.
    pub fn runs(&self) -> Snapshot {
        let (given_up, times_out) = (self.faults.given_up(), self.faults.times_out());
        let mut sum = Snapshot { given_up, times_out, ..Snapshot::default() };
        for shard in &self.shards {
            sum.executions += shard.executions.load(Relaxed);
            sum.run_rows += shard.rows.load(Relaxed);
            sum.late += shard.late.load(Relaxed);
            for (sum, count) in sum.refused.iter_mut().zip(&shard.refused) {
                *sum += count.load(Relaxed);
            }
        }
        for (rows, batch) in self.batches.0.iter().enumerate() {
            let runs = batch.run.count.load(Relaxed);
            if runs > 0 {
                sum.sizes[BATCH_ROWS_BOUNDS.partition_point(|&bound| bound < rows)] += runs;
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
        self.run_rows += other.run_rows;
        self.sizes.iter_mut().zip(other.sizes).for_each(|(sum, more)| *sum += more);
        self.late += other.late;
        self.given_up += other.given_up;
        self.times_out += other.times_out;
        self.refused.iter_mut().zip(&other.refused).for_each(|(sum, more)| *sum += more);
        self.apart.iter_mut().zip(&other.apart).for_each(|(sum, more)| *sum += more);
        self.decode.merge(&other.decode);
        self.queue.merge(&other.queue);
        self.run.merge(&other.run);
        self.encode.merge(&other.encode);
        self.total.merge(&other.total);
        self.cpu_nanos += other.cpu_nanos;
        self.device_nanos += other.device_nanos;
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
        requests.decode.add_to(&mut self.decode);
        requests.queue.add_to(&mut self.queue);
        requests.run.add_to(&mut self.run);
        requests.encode.add_to(&mut self.encode);
        requests.total.add_to(&mut self.total);
        self.cpu_nanos += requests.cpu_nanos.load(Relaxed);
        self.device_nanos += requests.device_nanos.load(Relaxed);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_two_counted_is_what_one_would_have() {
        let times = |micros| RunTimes { run: Duration::from_micros(micros), ..RunTimes::default() };
        let count = |stats: &Stats, rows: usize, micros: u64| {
            let requests = stats.way("e", "champion");
            stats.executed(rows, times(micros));
            let used = Used { cpu: Duration::from_micros(micros), device: Duration::from_nanos(micros) };
            let total = Duration::from_micros(60);
            requests.succeeded(&Served {
                rows,
                times: times(micros),
                used,
                total,
                unix_ms: micros,
                ..Served::default()
            });
            requests.encoded(Duration::from_micros(micros));
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
                        let used = Used { cpu: Duration::from_micros(10), ..Used::default() };
                        routed.succeeded(&Served { rows: 3, times, used, unix_ms: 5, ..Served::default() });
                    }
                    stats.way("e", "pinned").failed(ErrorKind::Deadline, Duration::from_secs(60), 6);
                });
            }
        });
        assert_eq!(stats.way("e", "pinned").snapshot().success.count, 0);
        let sum = stats.snapshot();
        assert_eq!((sum.success.count, sum.rows, sum.executions), (600, 1800, 600));
        assert_eq!(sum.failures.iter().map(|failure| failure.count).sum::<u64>(), 6);
        assert_eq!(sum.run.classic()[1..3], [0, 600], "30 µs belongs under the bound of 50 µs");
        assert_eq!((sum.run_rows, sum.sizes[2], sum.cpu_nanos), (1800, 600, 6_000_000), "3 rows are up to 4");
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
    fn what_a_run_took_is_shared_by_rows() {
        let used = Used { cpu: Duration::from_micros(80), device: Duration::from_micros(8) };
        let part = used.part(3, 4);
        assert_eq!(part, Used { cpu: Duration::from_micros(60), device: Duration::from_micros(6) });
        let mut sum = used.part(1, 4);
        sum.add(part);
        assert_eq!((sum, used.part(0, 0), used.part(0, 4)), (used, used, Used::default()));
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
