//! How do spans get to a collector? OTLP over HTTP, as JSON, on one thread that may be slow.

use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};

use super::{Counts, Ended, spans};
use crate::clock;
use crate::locks::fetch;
use crate::logs::Seldom;

/// Requests in one message.
const TOGETHER_MAX: usize = 512;

/// How long the first of them waits for others.
const TOGETHER: Duration = Duration::from_millis(500);

/// How long one answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// How long it is waited between tries.
const TRIES: [Duration; 3] = [Duration::ZERO, Duration::from_secs(1), Duration::from_secs(2)];

/// What the thread is handed.
pub(super) enum Item {
    Ended(Box<Ended>),
    /// Says when all before it was sent.
    Flush(Sender<()>),
}

/// Where spans go.
pub(super) struct Collector {
    url: String,
    agent: ureq::Agent,
}

impl Collector {
    /// The collector at an endpoint, as `OTEL_EXPORTER_OTLP_ENDPOINT` names it.
    pub(super) fn new(endpoint: &str) -> Result<Collector, String> {
        let (scheme, rest) = endpoint.split_once("://").unwrap_or_default();
        let host = rest.split(['/', '?']).next().unwrap_or_default();
        if !["http", "https"].contains(&scheme) || host.is_empty() {
            return Err(format!(
                "otlp_endpoint is {endpoint:?}: expected the http:// or https:// URL of a collector, such as http://127.0.0.1:4318"
            ));
        }
        let base = endpoint.trim_end_matches('/');
        let url = if base.ends_with("/v1/traces") { base.to_owned() } else { format!("{base}/v1/traces") };
        let settings = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_global(Some(ANSWER_MAX))
            .tls_config(fetch::tls(None, None)?);
        Ok(Collector { url, agent: settings.build().new_agent() })
    }

    /// Sends a message. Fails with whether to try again, and why.
    fn post(&self, message: &str) -> Result<(), (bool, String)> {
        let request = self.agent.post(&self.url).header("content-type", "application/json");
        let response = request.send(message.as_bytes()).map_err(|error| (true, error.to_string()))?;
        match response.status().as_u16() {
            200..=299 => Ok(()),
            status => {
                Err(([429, 502, 503, 504].contains(&status), format!("{} answered with status {status}", self.url)))
            }
        }
    }
}

/// The thread's life.
pub(super) fn send_on(collector: &Collector, items: &Receiver<Item>, counts: &Counts) {
    while let Ok(item) = items.recv() {
        let (mut together, mut flushed) = (Vec::new(), None);
        let until = Instant::now() + TOGETHER;
        let mut next = Some(item);
        while let Some(item) = next {
            match item {
                Item::Ended(ended) => together.push(ended),
                Item::Flush(done) => flushed = Some(done),
            }
            next = match together.len() < TOGETHER_MAX && flushed.is_none() {
                true => items.recv_deadline(until).ok(),
                false => None,
            };
        }
        send(collector, &together, counts);
        if let Some(done) = flushed {
            // Who asked may have gone.
            let _ = done.try_send(());
        }
    }
}

fn send(collector: &Collector, together: &[Box<Ended>], counts: &Counts) {
    static TROUBLE: Seldom = Seldom::new();
    if together.is_empty() {
        return;
    }
    let message = spans::message(together, clock::unix_ns().saturating_sub(clock::now().as_nanos()));
    let spans: u64 = together.iter().map(|ended| ended.spans()).sum();
    let mut why = String::new();
    for pause in TRIES {
        thread::sleep(pause);
        match collector.post(&message) {
            Ok(()) => {
                counts.exported.fetch_add(spans, Relaxed);
                return;
            }
            Err((again, reason)) => {
                why = reason;
                if !again {
                    break;
                }
            }
        }
    }
    counts.refused.fetch_add(spans, Relaxed);
    if let Some(times) = TROUBLE.note(clock::now()) {
        tracing::warn!(times, reason = why, "traces cannot be sent on; this is the last of so many tries");
    }
}
