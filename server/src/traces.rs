//! Which requests are traced, and who is told of their spans?
//!
//! A request whose caller traces it goes on in that trace (W3C Trace Context); others begin one for a share of them, named as the
//! request is. What ended is handed to one thread, which sends it on (OTLP over HTTP). Nobody waits for that: where there is no
//! room, spans are dropped and counted.

pub mod context;
mod export;
mod spans;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};
use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use tiltyard_runtime::job::{Answer, Mark};
use tiltyard_types::{Error, ErrorKind, Moment, RequestId};

use crate::arm::Arm;
use crate::config::Config;
use crate::infer::Accepted;
use export::Item;

/// Requests that wait to be sent on.
const WAITING_MAX: usize = 4_096;

/// Answers to traced requests name their trace by it.
static TRACERESPONSE: HeaderName = HeaderName::from_static("traceresponse");

/// A request's place in its trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace {
    /// The trace.
    pub id: u128,
    /// The request's own span.
    pub span: u64,
    /// The span that asked for it; 0 for none.
    pub parent: u64,
}

impl Trace {
    /// By what the requests that share its run know it.
    pub fn mark(&self) -> Mark {
        Mark { trace: self.id, span: self.span }
    }

    /// The name of the trace in logs.
    pub fn shown(&self) -> String {
        format!("{:032x}", self.id)
    }

    /// Names the trace in an answer's headers.
    pub fn name_in(&self, headers: &mut HeaderMap) {
        if let Ok(value) = HeaderValue::from_str(&context::written(self)) {
            headers.insert(&TRACERESPONSE, value);
        }
    }
}

/// What became of spans.
#[derive(Debug, Default)]
pub struct Counts {
    /// Those that the collector took.
    pub exported: AtomicU64,
    /// Those for which there was no room.
    pub full: AtomicU64,
    /// Those that the collector did not take.
    pub refused: AtomicU64,
}

/// The way to the thread.
#[derive(Clone)]
pub struct Traces {
    /// The share of requests that begin a trace, in parts of 2^56.
    sampled: u64,
    sender: Sender<Item>,
    /// What became of spans.
    pub counts: Arc<Counts>,
}

/// A traced request that has ended.
pub struct Ended {
    trace: Trace,
    accepted: Accepted,
    endpoint: String,
    ended: Moment,
    became: Became,
}

enum Became {
    Answered(Box<Answered>),
    Failed { kind: ErrorKind, message: String },
}

/// The steps of a request that was answered.
struct Answered {
    arm: Arc<Arm>,
    enqueued: Moment,
    taken: Moment,
    ran: Moment,
    answered: Moment,
    rows: usize,
    batch_rows: usize,
    run: u64,
    mates: Option<Arc<[Mark]>>,
}

impl Ended {
    /// Spans that it is told as: the request, and of one that was answered its steps.
    fn spans(&self) -> u64 {
        match self.became {
            Became::Answered(_) => 5,
            Became::Failed { .. } => 1,
        }
    }
}

/// A traced request whose answer is yet to be encoded. Dropping it ends it.
pub struct Open {
    traces: Traces,
    ended: Option<Ended>,
}

impl Open {
    /// The request's place in its trace.
    pub fn trace(&self) -> Option<Trace> {
        self.ended.as_ref().map(|ended| ended.trace)
    }

    /// Hands it on: its answer was encoded by `now`.
    pub fn end(&mut self, now: Moment) {
        if let Some(ended) = self.ended.take() {
            self.traces.hand_on(Ended { ended: now, ..ended });
        }
    }
}

impl Traces {
    /// Starts the thread, where the settings name a collector. Fails, in words, where it cannot be used.
    pub fn start(config: &Config) -> Result<Option<Traces>, String> {
        let Some(endpoint) = &config.otlp_endpoint else { return Ok(None) };
        let collector = export::Collector::new(endpoint)?;
        let (sender, items) = bounded(WAITING_MAX);
        let counts = Arc::<Counts>::default();
        let told = Arc::clone(&counts);
        let thread = std::thread::Builder::new().name("tiltyard-traces".into());
        thread
            .spawn(move || export::send_on(&collector, &items, &told))
            .map_err(|error| format!("a thread cannot be started: {error}"))?;
        Ok(Some(Traces { sampled: context::parts(config.trace_sampling), sender, counts }))
    }

    /// The place in its trace of a request that came with these headers; nothing where it is not traced.
    pub fn begin(&self, headers: &HeaderMap, id: RequestId) -> Option<Trace> {
        let span = context::span_of(id);
        match context::read(headers) {
            Some(parent) => parent.is_sampled.then_some(Trace { id: parent.trace, span, parent: parent.span }),
            // The last 56 bits of a request's name are random, as those of a trace's name shall be.
            None => (context::last_bits(id.bits()) < self.sampled).then_some(Trace { id: id.bits(), span, parent: 0 }),
        }
    }

    /// Takes in that a traced request was answered.
    pub fn answered(
        &self,
        trace: Trace,
        accepted: Accepted,
        endpoint: &str,
        arm: &Arc<Arm>,
        answer: &Answer,
        now: Moment,
    ) -> Open {
        let taken = answer.enqueued + answer.queue;
        let times = answer.times;
        let answered = Answered {
            arm: Arc::clone(arm),
            enqueued: answer.enqueued,
            taken,
            ran: taken + times.assemble + times.run + times.split,
            answered: now,
            rows: answer.rows,
            batch_rows: answer.batch_rows,
            run: answer.run,
            mates: answer.mates.clone(),
        };
        let became = Became::Answered(Box::new(answered));
        let ended = Ended { trace, accepted, endpoint: endpoint.to_owned(), ended: now, became };
        Open { traces: self.clone(), ended: Some(ended) }
    }

    /// Hands on that a traced request failed.
    pub fn failed(&self, trace: Trace, accepted: Accepted, endpoint: &str, error: &Error, now: Moment) {
        // Names that clients make up are as long as they like.
        let cut = |text: &str| text.chars().take(500).collect::<String>();
        let became = Became::Failed { kind: error.kind(), message: cut(error.message()) };
        self.hand_on(Ended { trace, accepted, endpoint: cut(endpoint), ended: now, became });
    }

    fn hand_on(&self, ended: Ended) {
        let spans = ended.spans();
        if self.sender.try_send(Item::Ended(Box::new(ended))).is_err() {
            self.counts.full.fetch_add(spans, Relaxed);
        }
    }

    /// Waits until all that was handed on is sent, but no longer than that.
    pub fn flush(&self, time_max: Duration) {
        let (done, is_done) = bounded(1);
        if self.sender.send_timeout(Item::Flush(done), time_max).is_ok() {
            // Whether or not it was in time, the process goes on to its end.
            let _ = is_done.recv_timeout(time_max);
        }
    }
}
