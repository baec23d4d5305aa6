//! What is sent while versions change, and what is said of each answer?
//!
//! An open loop: requests leave when it is time, whether the server keeps up or not. Every answer is held against what
//! it may be. One thread sends and judges, another says when it is time.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;

use super::asked::{Asked, FIRST_MAX};
use super::slow;
use super::stream::Stream;
use super::truth::{Sent, Shown, Truth};
use super::{BESIDE, BESIDE_STAMP, SOAK};
use crate::Fault;
use crate::client::{Failure, Way, connect};
use crate::payload::Prepared;
use crate::random::Random;
use crate::run::sleep_exactly;
use crate::schedule::{Arrivals, Schedule};

/// Requests that each lane can have in flight.
const WAYS: usize = 16;

/// Arrivals that may wait for a free way; those behind them wait in the schedule, their moments unchanged.
const WAITING_MAX: usize = 1024;

/// A request without an answer for so long has failed.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// Rows of a request: 1 up to this.
const ROWS_MAX: u32 = 3;

/// Failures of one kind of client that are told with all that is known of them; the rest is counted.
const EXAMPLES_MAX: usize = 3;

/// Between a broken connection and the next attempt.
const RECONNECT_PAUSE: Duration = Duration::from_millis(20);

/// A kind of client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Lane {
    /// REST with JSON.
    Json,
    /// REST with binary tensors.
    Binary,
    /// gRPC, a call for each request.
    Grpc,
    /// gRPC, all requests on streams that stay open.
    Stream,
    /// REST, pinned to the version before the newest.
    PinnedJson,
    /// gRPC, pinned to the version before the newest.
    PinnedGrpc,
    /// REST, to the model beside, which never changes.
    BesideBinary,
    /// gRPC, to the model beside.
    BesideGrpc,
}

impl Lane {
    /// All of them, with their shares of the requests.
    const ALL: [(Lane, u64); 8] = [
        (Lane::Json, 3),
        (Lane::Binary, 2),
        (Lane::Grpc, 4),
        (Lane::Stream, 3),
        (Lane::PinnedJson, 1),
        (Lane::PinnedGrpc, 1),
        (Lane::BesideBinary, 1),
        (Lane::BesideGrpc, 1),
    ];

    /// The name in reports.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Lane::Json => "REST JSON",
            Lane::Binary => "REST binary",
            Lane::Grpc => "gRPC",
            Lane::Stream => "gRPC stream",
            Lane::PinnedJson => "REST pinned",
            Lane::PinnedGrpc => "gRPC pinned",
            Lane::BesideBinary => "REST beside",
            Lane::BesideGrpc => "gRPC beside",
        }
    }

    const fn is_pinned(self) -> bool {
        matches!(self, Lane::PinnedJson | Lane::PinnedGrpc)
    }

    const fn is_beside(self) -> bool {
        matches!(self, Lane::BesideBinary | Lane::BesideGrpc)
    }
}

/// What clients and the one who changes versions both know.
pub(super) struct Shared {
    /// Where REST is answered.
    pub(super) http: SocketAddr,
    /// Where gRPC is answered.
    pub(super) grpc: SocketAddr,
    truth: Mutex<Truth>,
    /// What is being done to the repository, for messages.
    doing: Mutex<String>,
    notes: Mutex<Notes>,
    began: Instant,
    /// Whether clients shall come to an end.
    ending: AtomicBool,
    waiting: AtomicUsize,
}

/// An answer's moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// When it was meant to be sent.
    pub(super) meant: Instant,
    /// From then to its answer.
    pub(super) latency: Duration,
    /// Whether it asked the model beside.
    pub(super) beside: bool,
}

/// What came of all requests.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// Good answers, in the order they came.
    pub(super) samples: Vec<Sample>,
    /// Good answers by lane.
    pub(super) good: BTreeMap<&'static str, u64>,
    /// Requests that failed or were answered late, by lane and what was wrong in short.
    pub(super) failed: BTreeMap<(&'static str, String), u64>,
    /// Answers that were wrong, by lane.
    pub(super) wrong: BTreeMap<&'static str, u64>,
    /// Failures in words, the first ones.
    pub(super) examples: Vec<String>,
    /// How many there were by lane.
    told: BTreeMap<&'static str, usize>,
    /// Requests that were due.
    pub(super) due: u64,
    /// Answers to bodies that came slowly which were older than what others saw when their last byte was sent.
    pub(super) stale_slow: u64,
}

impl Notes {
    /// Requests that failed, of whatever kind.
    pub(super) fn failed(&self) -> u64 {
        self.failed.values().sum()
    }

    /// Answers that were another version's than they may be.
    pub(super) fn misversioned(&self) -> u64 {
        self.wrong.values().sum()
    }

    /// Requests that were answered well.
    pub(super) fn answered(&self) -> u64 {
        self.good.values().sum()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why a request has no answer that may stand.
pub(super) enum Fail {
    /// There is none, or it is a failure.
    Failed(Failure),
    /// There is one, and it is wrong.
    Wrong(String),
}

impl Shared {
    /// Knows of no request yet.
    pub(super) fn new(http: SocketAddr, grpc: SocketAddr) -> Shared {
        Shared {
            http,
            grpc,
            truth: Mutex::default(),
            doing: Mutex::default(),
            notes: Mutex::default(),
            began: Instant::now(),
            ending: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
        }
    }

    /// What may be answered.
    pub(super) fn truth(&self) -> MutexGuard<'_, Truth> {
        lock(&self.truth)
    }

    /// Says what is being done to the repository.
    pub(super) fn doing(&self, what: String) {
        *lock(&self.doing) = what;
    }

    /// What came of requests.
    pub(super) fn notes(&self) -> MutexGuard<'_, Notes> {
        lock(&self.notes)
    }

    /// Whether clients shall come to an end.
    pub(super) fn is_ending(&self) -> bool {
        self.ending.load(Relaxed)
    }

    /// Counts a failure, and keeps it in words if it is among the first.
    pub(super) fn fail(&self, name: &'static str, fail: &Fail) {
        let mut notes = self.notes();
        let text = match fail {
            Fail::Failed(failure) => {
                let mut kind = failure.to_string();
                kind.truncate(kind.floor_char_boundary(160));
                *notes.failed.entry((name, kind.clone())).or_default() += 1;
                format!("failed: {kind}")
            }
            Fail::Wrong(what) => {
                *notes.wrong.entry(name).or_default() += 1;
                format!("wrong: {what}")
            }
        };
        let told = notes.told.entry(name).or_default();
        *told += 1;
        if *told <= EXAMPLES_MAX {
            let (at, doing) = (self.began.elapsed().as_secs_f64(), lock(&self.doing).clone());
            notes.examples.push(format!("at {at:.3} s, {name}, while {doing}: {text}"));
        }
    }
}

/// Clients at work.
pub(super) struct Traffic {
    shared: Arc<Shared>,
    pacer: JoinHandle<u64>,
    sender: JoinHandle<Result<(), Fault>>,
}

impl Traffic {
    /// Lets clients begin: `rate` requests a second, and with `slow` those who send and read a byte a second.
    pub(super) fn start(shared: &Arc<Shared>, rate: f64, seed: u64, slow: bool) -> Result<Traffic, Fault> {
        shared.ending.store(false, Relaxed);
        let mut lanes = BTreeMap::new();
        let mut queues = Vec::new();
        for (lane, _) in Lane::ALL {
            let (queue, due) = unbounded_channel();
            lanes.insert(lane, queue);
            queues.push((lane, due));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let clients = Arc::clone(shared);
        let sender = std::thread::Builder::new().name("soak-clients".into()).spawn(move || {
            runtime.block_on(all_clients(&clients, queues, slow));
            Ok(())
        })?;
        let paced = Arc::clone(shared);
        let pacer =
            std::thread::Builder::new().name("soak-pacer".into()).spawn(move || pace(&paced, rate, seed, &lanes))?;
        Ok(Traffic { shared: Arc::clone(shared), pacer, sender })
    }

    /// Lets clients end, each with its last answer, and closes their connections.
    pub(super) fn stop(self) -> Result<(), Fault> {
        self.shared.ending.store(true, Relaxed);
        let due = self.pacer.join().map_err(|_| "the pacing thread panicked")?;
        self.sender.join().map_err(|_| "the clients' thread panicked")??;
        self.shared.notes().due += due;
        Ok(())
    }
}

type Due = (u64, Instant);

/// Hands each moment out when it comes, and says how many there were. A thread of its own, since timers of the runtime know
/// milliseconds only.
fn pace(shared: &Shared, rate: f64, seed: u64, lanes: &BTreeMap<Lane, UnboundedSender<Due>>) -> u64 {
    sleep_exactly();
    let mut random = Random::new(seed ^ 0x50a1);
    let all: u64 = Lane::ALL.iter().map(|(_, share)| share).sum();
    let start = Instant::now();
    let mut count = 0;
    for offset in Schedule::new(Arrivals::Poisson { rate }, seed) {
        let meant = start + offset;
        while let Some(left) = meant.checked_duration_since(Instant::now()).filter(|_| !shared.is_ending()) {
            std::thread::sleep(left.min(Duration::from_millis(50)));
        }
        while shared.waiting.load(Relaxed) >= WAITING_MAX && !shared.is_ending() {
            std::thread::sleep(Duration::from_millis(1));
        }
        if shared.is_ending() {
            break;
        }
        let mut drawn = random.below(all);
        let lane = Lane::ALL.iter().find(|(_, share)| {
            let found = drawn < *share;
            drawn = drawn.saturating_sub(*share);
            found
        });
        if let Some(queue) = lane.and_then(|(lane, _)| lanes.get(lane)) {
            shared.waiting.fetch_add(1, Relaxed);
            count += u64::from(queue.send((random.bits(), meant)).is_ok());
        }
    }
    count
}

async fn all_clients(shared: &Arc<Shared>, queues: Vec<(Lane, UnboundedReceiver<Due>)>, slow: bool) {
    let mut clients = JoinSet::new();
    for (lane, queue) in queues {
        let queue = Arc::new(tokio::sync::Mutex::new(queue));
        for _ in 0..WAYS {
            clients.spawn(client(Arc::clone(shared), lane, Arc::clone(&queue)));
        }
    }
    if slow {
        clients.spawn(slow::readers(Arc::clone(shared)));
        clients.spawn(slow::senders(Arc::clone(shared)));
    }
    while clients.join_next().await.is_some() {}
}

/// One client: a request for each moment that it gets hold of, until no more come.
async fn client(shared: Arc<Shared>, lane: Lane, queue: Arc<tokio::sync::Mutex<UnboundedReceiver<Due>>>) {
    let mut line = Line::Closed;
    loop {
        let next = queue.lock().await.recv().await;
        let Some((chance, meant)) = next else { break };
        shared.waiting.fetch_sub(1, Relaxed);
        match line.ask(&shared, lane, chance).await {
            Ok(()) => {
                let mut notes = shared.notes();
                *notes.good.entry(lane.name()).or_default() += 1;
                notes.samples.push(Sample { meant, latency: meant.elapsed(), beside: lane.is_beside() });
            }
            Err(fail) => {
                shared.fail(lane.name(), &fail);
                if let Fail::Failed(_) = fail {
                    line = Line::Closed;
                    tokio::time::sleep(RECONNECT_PAUSE).await;
                }
            }
        }
    }
    if let Line::Stream(stream) = line {
        let ended = tokio::time::timeout(ANSWER_TIMEOUT, stream.close()).await;
        let ended = ended.unwrap_or_else(|_| Err(Failure::Broken("the stream does not end".into())));
        if let Err(failure) = ended {
            shared.fail(lane.name(), &Fail::Failed(failure));
        }
    }
}

/// A client's connection.
enum Line {
    Closed,
    Way(Way),
    Stream(Box<Stream>),
}

impl Line {
    async fn open(shared: &Shared, lane: Lane) -> Result<Line, Failure> {
        let (address, grpc) = match lane {
            Lane::Json | Lane::Binary | Lane::PinnedJson | Lane::BesideBinary => (shared.http, false),
            Lane::Grpc | Lane::PinnedGrpc | Lane::BesideGrpc => (shared.grpc, true),
            Lane::Stream => return Ok(Line::Stream(Box::new(Stream::open(shared.grpc).await?))),
        };
        let way = connect(address, grpc, 1, 1).await?.pop();
        way.map(Line::Way).ok_or_else(|| Failure::Broken("no connection was made".into()))
    }

    /// Asks once and judges the answer.
    async fn ask(&mut self, shared: &Shared, lane: Lane, chance: u64) -> Result<(), Fail> {
        if let Line::Closed = self {
            *self = Line::open(shared, lane).await.map_err(Fail::Failed)?;
        }
        // The connection is there: what others have seen by now, this request may not fall behind.
        let sent = shared.truth().send(lane.is_pinned());
        let asked = Asked {
            model: if lane.is_beside() { BESIDE } else { SOAK },
            pin: sent.pin,
            rows: (1 + chance % u64::from(ROWS_MAX)) as usize,
            first: (chance >> 8) as u32 % FIRST_MAX,
        };
        let exchanged = tokio::time::timeout(ANSWER_TIMEOUT, self.exchange(shared, lane, &asked)).await;
        let late = || Err(Fail::Failed(Failure::Broken(format!("no answer in {} s", ANSWER_TIMEOUT.as_secs()))));
        let judged = exchanged.unwrap_or_else(|_| late()).and_then(|shown| judge(shared, lane, &sent, shown));
        shared.truth().end(&sent);
        judged
    }

    async fn exchange(&mut self, shared: &Shared, lane: Lane, asked: &Asked) -> Result<Shown, Fail> {
        let failed = |failure| Fail::Failed(failure);
        let mut answer = BytesMut::new();
        let way = match self {
            Line::Closed => return Err(failed(Failure::Broken("the connection is closed".into()))),
            Line::Stream(stream) => {
                let message = stream.exchange(asked.message()).await.map_err(failed)?;
                return asked.shown_in_message(&message).map_err(Fail::Wrong);
            }
            Line::Way(way) => way,
        };
        let request = match lane {
            Lane::Json | Lane::PinnedJson => Prepared::Http1(asked.json(shared.http)),
            Lane::Binary | Lane::BesideBinary => Prepared::Http1(asked.binary(shared.http)),
            Lane::Grpc | Lane::PinnedGrpc | Lane::BesideGrpc | Lane::Stream => {
                asked.unary(shared.grpc).map_err(|fault| failed(Failure::Broken(fault.to_string())))?
            }
        };
        way.exchange(&request, &mut answer).await.map_err(failed)?;
        let shown = match request {
            Prepared::Http1(_) => asked.shown_in_json(&answer),
            Prepared::Grpc { .. } => asked.shown_in_frame(&answer),
        };
        shown.map_err(Fail::Wrong)
    }
}

fn judge(shared: &Shared, lane: Lane, sent: &Sent, shown: Shown) -> Result<(), Fail> {
    if !lane.is_beside() {
        return shared.truth().judge(sent, shown, Instant::now()).map_err(Fail::Wrong);
    }
    let expected = Shown { stamp: BESIDE_STAMP, version: 1 };
    if shown == expected { Ok(()) } else { Err(Fail::Wrong(format!("{shown:?} answered, expected {expected:?}"))) }
}
