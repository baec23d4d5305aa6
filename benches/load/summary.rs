//! What did a stretch of load show?

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::client::Failure;
use crate::process::Memory;

/// Latencies are kept in nanoseconds, up to this.
const LATENCY_MAX: Duration = Duration::from_secs(3600);

/// A closed loop with fewer answers than this for each request in flight is told by its latency.
const ROUNDS_MIN: u64 = 50;

/// Kinds of failure that are told apart; the rest is counted together.
const FAILURES_MAX: usize = 16;

/// What is counted while the load runs.
pub(crate) struct Recorder {
    /// Nothing counts outside the measured stretch.
    pub(crate) measuring: bool,
    latencies: Histogram<u64>,
    /// Answers that came within the stretch, good ones only.
    answered: u64,
    /// What a client still takes for an answer.
    bound: Duration,
    /// Answers to requests of the stretch that came within the bound.
    within_bound: u64,
    failures: BTreeMap<String, u64>,
    /// How soon requests of the stretch were refused.
    refusals: Histogram<u64>,
    expired: u64,
}

impl Recorder {
    /// Counts nothing yet; answers later than `bound` are not good. Fails when the histogram cannot be made.
    pub(crate) fn new(bound: Option<Duration>) -> Result<Recorder, hdrhistogram::CreationError> {
        let latencies = Histogram::new_with_bounds(1, LATENCY_MAX.as_nanos() as u64, 3)?;
        Ok(Recorder {
            measuring: false,
            latencies,
            answered: 0,
            bound: bound.unwrap_or(LATENCY_MAX),
            within_bound: 0,
            failures: BTreeMap::new(),
            refusals: Histogram::new_with_bounds(1, LATENCY_MAX.as_nanos() as u64, 3)?,
            expired: 0,
        })
    }

    /// Counts a request's end. `latency` is `None` where the request was meant for another time than the stretch.
    pub(crate) fn note(&mut self, outcome: &Result<(), Failure>, latency: Option<Duration>) {
        match outcome {
            Ok(()) => {
                self.answered += u64::from(self.measuring);
                if let Some(latency) = latency {
                    self.latencies.saturating_record(latency.as_nanos() as u64);
                    self.within_bound += u64::from(latency <= self.bound);
                }
            }
            Err(failure) if latency.is_some() || self.measuring => {
                if let Some(latency) = latency.filter(|_| failure.is_refusal()) {
                    self.refusals.saturating_record(latency.as_nanos() as u64);
                }
                self.expired += u64::from(failure.is_expiry());
                let mut kind = failure.to_string();
                if self.failures.len() >= FAILURES_MAX && !self.failures.contains_key(&kind) {
                    "others".clone_into(&mut kind);
                }
                *self.failures.entry(kind).or_default() += 1;
            }
            Err(_) => {}
        }
    }

    /// Requests meant for the stretch that have ended, well or not.
    pub(crate) fn ended(&self) -> u64 {
        self.latencies.len() + self.failures.values().sum::<u64>()
    }

    /// All that was counted, over the stretch it was counted in.
    pub(crate) fn summary(self, took: Duration, rows: usize, unanswered: u64) -> Summary {
        let throughput = self.answered as f64 / took.as_secs_f64();
        Summary {
            seconds: took.as_secs_f64(),
            requests: self.answered,
            requests_per_second: throughput,
            rows_per_second: throughput * rows as f64,
            good_per_second: self.within_bound as f64 / took.as_secs_f64(),
            late: self.latencies.len() - self.within_bound,
            latency_us: Latency::of(&self.latencies),
            refused: self.refusals.len(),
            refusal_us: Latency::of(&self.refusals),
            expired: self.expired,
            failures: self.failures,
            unanswered,
            server: None,
            generator_cpu_us_per_request: None,
            load_average: crate::process::load_average(),
        }
    }
}

/// Latency in microseconds, from the moment a request was meant to be sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Latency {
    pub(crate) mean: f64,
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) max: f64,
}

impl Latency {
    fn of(histogram: &Histogram<u64>) -> Latency {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
        Latency {
            mean: histogram.mean() / 1000.0,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: histogram.max() as f64 / 1000.0,
        }
    }
}

/// What the server used over the measured stretch.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct ServerUse {
    /// Processor time per answered request, in microseconds; the same figure is milliseconds per 1,000 requests.
    pub(crate) cpu_us_per_request: f64,
    /// Processor time per second of the stretch.
    pub(crate) cores: f64,
    /// At the end of the stretch.
    pub(crate) memory: Memory,
}

/// The outcome of one stretch of load.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Summary {
    pub(crate) seconds: f64,
    pub(crate) requests: u64,
    pub(crate) requests_per_second: f64,
    pub(crate) rows_per_second: f64,
    /// Requests meant for the stretch that were answered within the bound, where there is one.
    pub(crate) good_per_second: f64,
    /// Requests meant for the stretch that were answered later than the bound.
    pub(crate) late: u64,
    pub(crate) latency_us: Latency,
    /// Requests meant for the stretch that the server refused for want of room or time.
    pub(crate) refused: u64,
    /// How soon it did.
    pub(crate) refusal_us: Latency,
    /// Requests whose time was over.
    pub(crate) expired: u64,
    /// How many requests failed, by kind.
    pub(crate) failures: BTreeMap<String, u64>,
    /// Requests of an open loop that were due and had no answer when the load was given up.
    pub(crate) unanswered: u64,
    pub(crate) server: Option<ServerUse>,
    pub(crate) generator_cpu_us_per_request: Option<f64>,
    /// Over the last minute, at the end.
    pub(crate) load_average: Option<f64>,
}

impl Summary {
    /// Tells throughput by latency where a closed loop went round a few times only.
    ///
    /// Answers of a slow model come a batch at a time, and whether the stretch holds ten batches or eleven is chance. With
    /// so many always in flight, throughput is their number by the mean latency (Little, 1961), which has no such steps.
    pub(crate) fn smooth(&mut self, concurrency: usize, rows: usize) {
        let is_steady = self.failed() == 0 && self.latency_us.mean > 0.0;
        if is_steady && self.requests < ROUNDS_MIN * concurrency as u64 {
            self.requests_per_second = concurrency as f64 * 1e6 / self.latency_us.mean;
            self.rows_per_second = self.requests_per_second * rows as f64;
        }
    }

    /// Of the requests meant for the stretch, how many were answered within the bound; one where there were none.
    pub(crate) fn good_share(&self) -> f64 {
        let good = self.good_per_second * self.seconds;
        let all = good + (self.late + self.failed()) as f64;
        if all > 0.0 { good / all } else { 1.0 }
    }

    /// Requests that went wrong, of whatever kind.
    pub(crate) fn failed(&self) -> u64 {
        self.failures.values().sum::<u64>() + self.unanswered
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Latency { p50, p90, p99, p999, max, .. } = self.latency_us;
        write!(f, "{:.0} requests/s over {:.2} s", self.requests_per_second, self.seconds)?;
        write!(f, "; latency µs p50 {p50:.0} p90 {p90:.0} p99 {p99:.0} p99.9 {p999:.0} max {max:.0}")?;
        if let Some(server) = &self.server {
            let megabytes = server.memory.resident_bytes as f64 / 1e6;
            write!(f, "; server {:.2} µs CPU/request, {:.2} cores", server.cpu_us_per_request, server.cores)?;
            write!(f, ", {megabytes:.1} MB")?;
        }
        if let Some(generator) = self.generator_cpu_us_per_request {
            write!(f, "; generator {generator:.2} µs CPU/request")?;
        }
        write!(f, "; failures {}", self.failed())?;
        for (kind, count) in &self.failures {
            write!(f, "; {count} x {kind}")?;
        }
        if self.unanswered > 0 {
            write!(f, "; {} unanswered", self.unanswered)?;
        }
        match self.load_average {
            Some(load) => write!(f, "; load average {load:.1}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorder() -> Recorder {
        let mut recorder = Recorder::new(None).expect("the bounds are right");
        recorder.measuring = true;
        recorder
    }

    #[test]
    fn quantiles_are_those_of_the_latencies() {
        let mut recorder = recorder();
        for millis in 1..=1000 {
            recorder.note(&Ok(()), Some(Duration::from_millis(millis)));
        }
        let summary = recorder.summary(Duration::from_secs(2), 4, 0);
        assert_eq!((summary.requests, summary.requests_per_second, summary.rows_per_second), (1000, 500.0, 2000.0));
        let close =
            |actual: f64, expected: f64| assert!((actual / expected - 1.0).abs() < 0.002, "{actual} {expected}");
        close(summary.latency_us.p50, 500_000.0);
        close(summary.latency_us.p99, 990_000.0);
        close(summary.latency_us.p999, 999_000.0);
        close(summary.latency_us.max, 1_000_000.0);
        close(summary.latency_us.mean, 500_500.0);
    }

    #[test]
    fn what_ends_outside_the_stretch_is_not_throughput() {
        let mut recorder = recorder();
        recorder.note(&Ok(()), None);
        recorder.measuring = false;
        recorder.note(&Ok(()), Some(Duration::from_millis(1)));
        recorder.note(&Ok(()), None);
        recorder.note(&Err(Failure::Http(500)), None);
        assert_eq!(recorder.ended(), 1);
        let summary = recorder.summary(Duration::from_secs(1), 1, 0);
        assert_eq!((summary.requests, summary.failed()), (1, 0));
        assert_eq!(summary.latency_us.p50.round(), 1000.0);
    }

    #[test]
    fn late_answers_are_not_good() {
        let mut recorder = Recorder::new(Some(Duration::from_millis(5))).expect("the bounds are right");
        for millis in 1..=10 {
            recorder.note(&Ok(()), Some(Duration::from_millis(millis)));
        }
        let summary = recorder.summary(Duration::from_secs(2), 1, 10);
        assert_eq!((summary.good_per_second, summary.late, summary.good_share()), (2.5, 5, 0.25));
    }

    #[test]
    fn few_answers_in_batches_are_told_by_their_latency() {
        let told = |rounds: usize, failure: Option<Failure>| {
            let mut recorder = recorder();
            // Batches of 8, one each second: nine and a half seconds hold nine or ten of them.
            for _ in 0..rounds * 8 {
                recorder.note(&Ok(()), Some(Duration::from_secs(1)));
            }
            failure.into_iter().for_each(|failure| recorder.note(&Err(failure), None));
            let mut summary = recorder.summary(Duration::from_millis(rounds as u64 * 1000 - 500), 2, 0);
            summary.smooth(8, 2);
            summary.requests_per_second
        };
        assert!((told(10, None) - 8.0).abs() < 0.01, "{}", told(10, None));
        assert!((told(10, Some(Failure::Http(429))) - 80.0 / 9.5).abs() < 1e-9);
        assert!((told(60, None) - 480.0 / 59.5).abs() < 1e-9);
    }

    #[test]
    fn failures_are_counted_by_kind_and_kinds_are_bounded() {
        let mut recorder = recorder();
        recorder.note(&Err(Failure::Http(429)), None);
        recorder.note(&Err(Failure::Http(429)), Some(Duration::ZERO));
        recorder.note(&Err(Failure::Grpc("8".into())), None);
        for number in 0..100 {
            recorder.note(&Err(Failure::Broken(number.to_string())), None);
        }
        let summary = recorder.summary(Duration::from_secs(1), 1, 3);
        assert_eq!((summary.failures["HTTP 429"], summary.failures["gRPC 8"], summary.failed()), (2, 1, 106));
        assert_eq!(summary.failures.len(), FAILURES_MAX + 1);
        assert_eq!(summary.latency_us, Latency::default());
    }
}
