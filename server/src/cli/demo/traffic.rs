//! Who asks about each flight, and says later what became of it?
//!
//! A few clients ask, one request after the other; one more says of each flight whether it was late, when its time has come: within
//! three seconds, in an order that is not that of the requests.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::collections::binary_heap::{BinaryHeap, PeekMut};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::data::{INPUT, MODEL, Rows};
use crate::cli::credentials::Credentials;
use crate::cli::exit::Failure;
use crate::cli::target::{Http, ask, ask_as};

/// Clients that ask at the same time.
const CLIENTS: usize = 8;

/// How long after the answer a flight's label is known: at least, and at most.
const DELAYS_MS: (u64, u64) = (500, 3_000);

/// How often labels are told.
const TELL: Duration = Duration::from_millis(100);

/// Labels in one request.
const LABELS_AT_ONCE: usize = 5_000;

/// A label on its way: when it is known, of which row, and whether it was late.
type Due = Reverse<(Instant, usize, bool)>;

/// Who asks.
pub(super) struct Callers<'a> {
    /// The server's address.
    pub(super) rest: &'a str,
    pub(super) credentials: Credentials,
    /// Requests in a second at most, of all of them.
    pub(super) rate: f64,
    /// Whether it is told later what became of each flight.
    pub(super) tells_labels: bool,
}

/// Live traffic, from the first row on.
pub(super) struct Traffic {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    rows: Rows,
    rate: f64,
    started: Instant,
    next: AtomicUsize,
    answered: AtomicUsize,
    is_over: AtomicBool,
    due: Mutex<BinaryHeap<Due>>,
    /// What became of labels.
    heard: Mutex<BTreeMap<String, u64>>,
    failure: Mutex<Option<Failure>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Traffic {
    /// Begins to ask.
    pub(super) fn begin(callers: &Callers<'_>, rows: Rows) -> Result<Traffic, Failure> {
        let shared = Arc::new(Shared {
            rows,
            rate: callers.rate,
            started: Instant::now(),
            next: AtomicUsize::new(0),
            answered: AtomicUsize::new(0),
            is_over: AtomicBool::new(false),
            due: Mutex::default(),
            heard: Mutex::default(),
            failure: Mutex::default(),
        });
        let mut traffic = Traffic { shared, threads: Vec::new() };
        for _ in 0..CLIENTS {
            traffic.spawn(callers, Shared::ask_on)?;
        }
        if callers.tells_labels {
            traffic.spawn(callers, Shared::tell_on)?;
        }
        Ok(traffic)
    }

    fn spawn(&mut self, callers: &Callers<'_>, work: fn(&Shared, &Http) -> Result<(), Failure>) -> Result<(), Failure> {
        // Each has a connection of its own.
        let http = Http::new(callers.rest, &callers.credentials)?;
        let shared = Arc::clone(&self.shared);
        let run = move || {
            if let Err(failure) = work(&shared, &http) {
                // The first says why; those after it fail since it ended.
                lock(&shared.failure).get_or_insert(failure);
                shared.is_over.store(true, Relaxed);
            }
        };
        let thread = thread::Builder::new().name("client".to_owned()).spawn(run);
        self.threads.push(thread.map_err(|error| Failure::failed(format!("a thread cannot be started: {error}")))?);
        Ok(())
    }

    /// Fails where a request did.
    pub(super) fn check(&self) -> Result<(), Failure> {
        lock(&self.shared.failure).clone().map_or(Ok(()), Err)
    }

    /// Rows that were answered.
    pub(super) fn answered(&self) -> usize {
        self.shared.answered.load(Relaxed)
    }

    /// Whether every row was asked about, and every label told.
    pub(super) fn has_ended(&self) -> bool {
        self.shared.next.load(Relaxed) >= self.shared.rows.len() + CLIENTS && lock(&self.shared.due).is_empty()
    }

    /// What became of labels so far.
    pub(super) fn heard(&self) -> BTreeMap<String, u64> {
        lock(&self.shared.heard).clone()
    }

    /// Ends it, whatever is still to come, and says how many rows were answered.
    pub(super) fn end(mut self) -> Result<usize, Failure> {
        self.stop();
        self.check()?;
        Ok(self.answered())
    }

    fn stop(&mut self) {
        self.shared.is_over.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

impl Drop for Traffic {
    /// Before the server goes.
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn ask_on(&self, http: &Http) -> Result<(), Failure> {
        let path = format!("/v2/models/{MODEL}/infer");
        while !self.is_over.load(Relaxed) {
            let at = self.next.fetch_add(1, Relaxed);
            let Some((numbers, is_late)) = self.rows.get(at) else { break };
            let due = self.started + Duration::from_secs_f64(at as f64 / self.rate);
            thread::sleep(due.saturating_duration_since(Instant::now()));
            ask(http, "POST", &path, request(at, self.rows.width, numbers))?;
            self.answered.fetch_add(1, Relaxed);
            lock(&self.due).push(Reverse((Instant::now() + delay(at), at, is_late)));
        }
        Ok(())
    }

    fn tell_on(&self, http: &Http) -> Result<(), Failure> {
        let headers = [("content-type", Some("application/x-ndjson")), ("tiltyard-endpoint", Some(MODEL))];
        while !self.is_over.load(Relaxed) {
            let (lines, count) = self.known();
            if count > 0 {
                let told = ask_as(http, "/v1/feedback", &headers, lines.into_bytes())?;
                self.hear(&serde_json::from_slice(&told).unwrap_or_default())?;
            }
            if count < LABELS_AT_ONCE {
                thread::sleep(TELL);
            }
        }
        Ok(())
    }

    /// Labels whose time has come, a line each, and how many.
    fn known(&self) -> (String, usize) {
        let (mut lines, mut count, now) = (String::new(), 0, Instant::now());
        let mut due = lock(&self.due);
        while count < LABELS_AT_ONCE
            && let Some(first) = due.peek_mut()
            && first.0.0 <= now
        {
            let Reverse((_, at, is_late)) = PeekMut::pop(first);
            // Into text it does not fail.
            let _ = writeln!(lines, "{{\"row_key\":{at},\"label\":{}}}", u8::from(is_late));
            count += 1;
        }
        (lines, count)
    }

    fn hear(&self, told: &Value) -> Result<(), Failure> {
        if told["failed"].as_u64() != Some(0) {
            return Err(Failure::failed(format!("the server did not take labels: {}", told["errors"][0])));
        }
        let mut heard = lock(&self.heard);
        for (name, count) in told.as_object().into_iter().flatten() {
            if let Some(count) = count.as_u64().filter(|count| *count > 0) {
                *heard.entry(name.clone()).or_default() += count;
            }
        }
        Ok(())
    }
}

/// A request about one flight, which names it by its place among the rows.
fn request(at: usize, width: usize, numbers: &str) -> Vec<u8> {
    let input = format!("{{\"name\":\"{INPUT}\",\"datatype\":\"FP32\",\"shape\":[1,{width}],\"data\":[{numbers}]}}");
    format!("{{\"parameters\":{{\"row_key\":{at}}},\"inputs\":[{input}]}}").into_bytes()
}

/// How long a flight takes to be known: any time between the least and the most, the same in every run.
fn delay(at: usize) -> Duration {
    let (least, most) = DELAYS_MS;
    // The golden ratio's multiples are spread evenly, and never in order.
    let spread = (at as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    Duration::from_millis(least + ((spread * (most - least)) >> 32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_name_their_row() {
        let form: Value = serde_json::from_slice(&request(7, 3, "1,-2,30")).unwrap();
        assert_eq!((&form["parameters"]["row_key"], &form["inputs"][0]["data"][1]), (&7.into(), &(-2).into()));
        assert_eq!(form["inputs"][0]["shape"], serde_json::json!([1, 3]));
    }

    #[test]
    fn labels_come_within_their_time_and_not_in_order() {
        let delays: Vec<u64> = (0..10_000).map(|at| u64::try_from(delay(at).as_millis()).unwrap()).collect();
        let (least, most) = DELAYS_MS;
        assert!(delays.iter().all(|delay| (least..most).contains(delay)));
        let mean = delays.iter().sum::<u64>() / 10_000;
        assert!(mean.abs_diff((least + most) / 2) < 20, "{mean}");
        assert!(delays.windows(2).filter(|pair| pair[0] > pair[1] + 1).count() > 3_000);
    }
}
