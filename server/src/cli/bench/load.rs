//! How does a deployment do under a load?
//!
//! Requests go through its queue and the pool as those of clients do, without network and protocol.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::Duration;

use tiltyard_runtime::deployment::Deployment;
use tiltyard_runtime::job::{Demand, Pending};
use tiltyard_runtime::pool::Pool;
use tiltyard_types::{Moment, Tensor};

use crate::clock;

/// Requests of one load at most: their times are kept until they are sorted.
const REQUESTS_MAX: u64 = 4_000_000;

/// Requests in flight at most in an open load; one that saturates after all waits here, and its time tells.
const OPEN_IN_FLIGHT_MAX: usize = 65_536;

/// Gaps longer than this are slept through; shorter ones are too short for a sleep to be on time.
const SLEEP_ABOVE: Duration = Duration::from_micros(300);

/// When requests are sent.
#[derive(Clone, Copy, Debug)]
pub(super) enum Pace {
    /// As soon as fewer than this many are in flight: as much as the deployment takes.
    Window(usize),
    /// At random moments, so many in a second on average, whether or not earlier ones were answered.
    Rate {
        /// Requests in a second.
        rate: f64,
        /// The part of saturation that this is.
        fraction: f64,
    },
}

/// What came of a load.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Load {
    /// The part of saturation that was offered; `None` where as much was offered as was taken.
    pub(super) fraction: Option<f64>,
    /// Rows that were offered in a second.
    pub(super) offered: Option<f64>,
    /// Rows that were answered in a second.
    pub(super) rows_per_second: f64,
    /// Requests that were answered.
    pub(super) answered: u64,
    /// Requests that were refused or failed.
    pub(super) failed: u64,
    /// Half of the requests took this long at most, from the moment they should have arrived.
    pub(super) p50: Option<Duration>,
    /// 99 in 100 took this long at most.
    pub(super) p99: Option<Duration>,
    /// Rows in a run, on average over requests.
    pub(super) batch_rows: f64,
}

struct Sent {
    scheduled: Moment,
    enqueued: Moment,
    pending: Pending,
}

/// What the collecting thread has at the end.
#[derive(Default)]
struct Collected {
    nanos: Vec<u64>,
    batch_rows: u64,
    failed: u64,
}

/// Sends `request`, of `rows` rows, for `time`, and waits for the answers.
pub(super) fn drive(
    deployment: &Arc<Deployment>,
    pool: &Arc<Pool>,
    request: &[Option<Tensor>],
    rows: usize,
    pace: Pace,
    time: Duration,
) -> Load {
    let in_flight_max = match pace {
        Pace::Window(window) => window.saturating_sub(1),
        Pace::Rate { .. } => OPEN_IN_FLIGHT_MAX,
    };
    let wanted: Vec<usize> = (0..deployment.signature.outputs.len()).collect();
    let (sender, receiver) = sync_channel(in_flight_max);
    let started = clock::now();
    let mut refused = 0;
    let collected = thread::scope(|scope| {
        let collecting = scope.spawn(move || collect(&receiver));
        let mut arrivals = Arrivals::new(started, pace);
        for _ in 0..REQUESTS_MAX {
            let scheduled = arrivals.next();
            if scheduled - started >= time {
                break;
            }
            wait_until(scheduled);
            let enqueued = clock::now();
            match deployment.enqueue(request.to_vec(), wanted.clone(), Demand::default(), Box::new(()), pool) {
                // Fails only where the collecting thread is gone, and then its counts are, too.
                Ok(pending) => drop(sender.send(Sent { scheduled, enqueued, pending })),
                Err(_) => refused += 1,
            }
        }
        drop(sender);
        collecting.join().unwrap_or_default()
    });
    summary(collected, refused, rows, pace, clock::now() - started)
}

fn summary(mut collected: Collected, refused: u64, rows: usize, pace: Pace, took: Duration) -> Load {
    let answered = collected.nanos.len() as u64;
    collected.nanos.sort_unstable();
    let (fraction, offered) = match pace {
        Pace::Window(_) => (None, None),
        Pace::Rate { rate, fraction } => (Some(fraction), Some(rate * rows as f64)),
    };
    Load {
        fraction,
        offered,
        rows_per_second: answered as f64 * rows as f64 / took.as_secs_f64().max(1e-9),
        answered,
        failed: collected.failed + refused,
        p50: quantile(&collected.nanos, 0.5),
        p99: quantile(&collected.nanos, 0.99),
        batch_rows: collected.batch_rows as f64 / answered.max(1) as f64,
    }
}

/// Waits for the answers in turn. When each was ready is told by the answer itself, not by when it is looked at.
fn collect(receiver: &Receiver<Sent>) -> Collected {
    let mut collected = Collected::default();
    for Sent { scheduled, enqueued, pending } in receiver {
        match pending.blocking_recv() {
            Ok(Ok(answer)) => {
                let times = answer.times;
                let time = (enqueued - scheduled) + answer.queue + times.assemble + times.run + times.split;
                collected.nanos.push(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
                collected.batch_rows += answer.batch_rows as u64;
            }
            _ => collected.failed += 1,
        }
    }
    collected
}

/// The time that this part of ascending `nanos` took at most.
fn quantile(nanos: &[u64], part: f64) -> Option<Duration> {
    let rank = (part * nanos.len() as f64).ceil() as usize;
    nanos.get(rank.saturating_sub(1)).copied().map(Duration::from_nanos)
}

fn wait_until(moment: Moment) {
    loop {
        let left = moment - clock::now();
        if left.is_zero() {
            return;
        }
        match left.checked_sub(SLEEP_ABOVE) {
            Some(rest) if !rest.is_zero() => thread::sleep(rest),
            _ => thread::yield_now(),
        }
    }
}

/// Moments of arrival. Open ones are a Poisson process from a fixed seed: the same for every model and machine.
struct Arrivals {
    at: Moment,
    rate: Option<f64>,
    state: u64,
}

impl Arrivals {
    fn new(start: Moment, pace: Pace) -> Arrivals {
        let rate = match pace {
            Pace::Window(_) => None,
            Pace::Rate { rate, .. } => Some(rate.max(1e-3)),
        };
        Arrivals { at: start, rate, state: 1 }
    }

    fn next(&mut self) -> Moment {
        let Some(rate) = self.rate else { return clock::now() };
        // SplitMix64, by Steele, Lea and Flood.
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        let uniform = ((mixed >> 11) as f64 + 1.0) / (1u64 << 53) as f64;
        self.at = self.at + Duration::from_secs_f64((-uniform.ln() / rate).min(3600.0));
        self.at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles() {
        let nanos: Vec<u64> = (1..=200).collect();
        assert_eq!(quantile(&nanos, 0.5), Some(Duration::from_nanos(100)));
        assert_eq!(quantile(&nanos, 0.99), Some(Duration::from_nanos(198)));
        assert_eq!(quantile(&[7], 0.99), Some(Duration::from_nanos(7)));
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn arrivals_come_at_the_rate() {
        let mut arrivals = Arrivals::new(Moment::default(), Pace::Rate { rate: 1_000.0, fraction: 0.5 });
        let mut last = Moment::default();
        for _ in 0..10_000 {
            let next = arrivals.next();
            assert!(next >= last);
            last = next;
        }
        let rate = 10_000.0 / (last - Moment::default()).as_secs_f64();
        assert!((950.0..1_050.0).contains(&rate), "{rate}");
    }

    #[test]
    fn what_came_of_it() {
        let collected = Collected { nanos: vec![3_000, 1_000], batch_rows: 12, failed: 1 };
        let pace = Pace::Rate { rate: 10.0, fraction: 0.25 };
        let load = summary(collected, 2, 4, pace, Duration::from_secs(2));
        assert_eq!(
            load,
            Load {
                fraction: Some(0.25),
                offered: Some(40.0),
                rows_per_second: 4.0,
                answered: 2,
                failed: 3,
                p50: Some(Duration::from_micros(1)),
                p99: Some(Duration::from_micros(3)),
                batch_rows: 6.0,
            }
        );
    }
}
