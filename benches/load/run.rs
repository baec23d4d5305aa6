//! How does a server on this machine do under load?
//!
//! A closed loop keeps a number of requests in flight: it finds the throughput. An open loop sends when it is time, answer
//! or no answer: it finds the latency that clients see. One thread does it all, since it takes its cores from the server.

use std::collections::VecDeque;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use http::HeaderName;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::Fault;
use crate::arguments::{count, count_of, flag, optional, parse_duration, parse_target, value};
use crate::client::{Failure, Way, connect};
use crate::model::{AskedModel, Lengths};
use crate::payload::{Prepared, Protocol, prepare};
use crate::process;
use crate::schedule::{Arrivals, Burst, Schedule};
use crate::summary::{Recorder, ServerUse, Summary};
use crate::verify::difference;

/// Requests that differ, sent in turns.
const REQUESTS: usize = 64;

/// Clients that say who they are: each has a request of its own.
const CLIENTS: usize = 4096;

/// Arrivals that may wait for a free way; those behind them wait in the schedule, their moments unchanged.
const WAITING_MAX: usize = 1024;

/// HTTP/2 connections where nothing is said. Fewer make everything cheaper, the echo most of all: more requests share a
/// read and a write.
const CONNECTIONS_DEFAULT: usize = 64;

/// Between two looks at whether fewer wait.
const CROWDED_PAUSE: Duration = Duration::from_millis(1);

/// How long after the end of the stretch a request may still be sent that was meant for it.
const LATE_MAX: Duration = Duration::from_secs(1);

/// How long answers are waited for once the load has ended.
const GRACE: Duration = Duration::from_secs(10);

/// Between a broken connection and the next attempt.
const RECONNECT_PAUSE: Duration = Duration::from_millis(20);

/// How requests are let go.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Pace {
    /// So many at a time, each followed by the next.
    Closed {
        /// Requests in flight.
        concurrency: usize,
    },
    /// When it is time.
    Open {
        /// When that is.
        arrivals: Arrivals,
        /// The most requests in flight: later ones wait, and their wait counts.
        in_flight_max: usize,
    },
}

/// A stretch of load.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    /// Where to.
    pub(crate) address: SocketAddr,
    /// How requests travel.
    pub(crate) protocol: Protocol,
    /// Which models are asked.
    pub(crate) models: Vec<AskedModel>,
    /// Rows in each request.
    pub(crate) rows: usize,
    /// Tokens in each text.
    pub(crate) lengths: Lengths,
    /// HTTP/2 connections; HTTP/1.1 has one for each request in flight.
    pub(crate) connections: usize,
    /// How requests are let go.
    pub(crate) pace: Pace,
    /// Before anything counts.
    pub(crate) warmup: Duration,
    /// What counts.
    pub(crate) duration: Duration,
    /// The server's process, whose use is told with that of all it started.
    pub(crate) server_pid: Option<u32>,
    /// What chance follows from.
    pub(crate) seed: u64,
    /// Whether answers are held against those that the same requests got alone.
    pub(crate) verify: bool,
    /// Answers later than this are not good ones.
    pub(crate) bound: Option<Duration>,
    /// How long clients wait, as their requests say.
    pub(crate) deadline: Option<Duration>,
    /// A header in which clients say who they are.
    pub(crate) key: Option<HeaderName>,
}

/// The command line of `run`.
pub(crate) fn command() -> Command {
    Command::new("run")
        .about("Sends load to a server on this machine and says what came of it")
        .arg(optional("target", parse_target, "The address, such as 127.0.0.1:8001").required(true))
        .arg(flag("protocol", "grpc", value_parser!(Protocol), "grpc, grpc-typed, http (binary tensors) or json"))
        .arg(
            optional(
                "model",
                value_parser!(AskedModel),
                "NAME[=FORM][@WEIGHT]; several make a mix. A FORM is a model of the benches, or INPUT:KIND:AXES",
            )
            .required(true)
            .action(ArgAction::Append),
        )
        .arg(count("rows", "1", "Rows in each request"))
        .arg(flag("lengths", "32", value_parser!(Lengths), "Tokens in each text, such as 32 or 8-64"))
        .arg(count("concurrency", "64", "Closed loop: requests in flight"))
        .arg(optional("rate", value_parser!(f64), "Open loop: requests per second"))
        .arg(flag("arrivals", "poisson", ["poisson", "constant"], "Open loop: how requests arrive"))
        .arg(
            optional("burst", value_parser!(Burst), "Open loop: FACTORxLENGTH/PERIOD, such as 10x1s/5s")
                .requires("rate"),
        )
        .arg(count("in-flight-max", "1024", "Open loop: the most requests in flight; with HTTP/1.1, its connections"))
        .arg(optional(
            "connections",
            value_parser!(u32).range(1..=1024),
            "HTTP/2 connections; else one for each request in flight, up to 64. HTTP/1.1 has one for each in any case",
        ))
        .arg(flag("warmup", "500ms", parse_duration, "Before anything counts"))
        .arg(flag("duration", "3s", parse_duration, "What counts"))
        .arg(optional(
            "server-pid",
            value_parser!(u32),
            "The server's process: its processor time and memory, and those of all it started, are told",
        ))
        .arg(flag("seed", "1", value_parser!(u64), "What chance follows from"))
        .arg(
            Arg::new("verify")
                .long("verify")
                .action(ArgAction::SetTrue)
                .help("Hold answers against those that the same requests get alone; costs the generator time"),
        )
        .arg(optional("key", value_parser!(HeaderName), "A header that says which of 4096 clients asks"))
        .arg(optional("json", value_parser!(PathBuf), "A file for the outcome as JSON"))
}

fn load(matches: &ArgMatches) -> Result<Load, Fault> {
    let rate: Option<f64> = matches.get_one("rate").copied();
    let pace = match (rate, matches.get_one::<Burst>("burst").copied()) {
        (None, _) => Pace::Closed { concurrency: count_of(matches, "concurrency")? },
        (Some(rate), _) if !(rate > 0.0 && rate <= 1e7) => {
            return Err(format!("--rate {rate}: expected requests per second above 0, at most 10000000").into());
        }
        (Some(rate), burst) => {
            let arrivals = match (burst, value::<String>(matches, "arrivals")?.as_str()) {
                (Some(burst), _) => Arrivals::Bursts { rate, burst },
                (None, "constant") => Arrivals::Constant { rate },
                (None, _) => Arrivals::Poisson { rate },
            };
            Pace::Open { arrivals, in_flight_max: count_of(matches, "in-flight-max")? }
        }
    };
    Ok(Load {
        address: value(matches, "target")?,
        protocol: value(matches, "protocol")?,
        models: matches.get_many("model").ok_or("--model is missing")?.cloned().collect(),
        rows: count_of(matches, "rows")?,
        lengths: value(matches, "lengths")?,
        connections: matches.get_one::<u32>("connections").map_or(CONNECTIONS_DEFAULT, |count| *count as usize),
        pace,
        warmup: value(matches, "warmup")?,
        duration: value(matches, "duration")?,
        server_pid: matches.get_one("server-pid").copied(),
        seed: value(matches, "seed")?,
        bound: None,
        deadline: None,
        key: matches.get_one("key").cloned(),
        verify: matches.get_flag("verify"),
    })
}

/// Runs `run`.
pub(crate) fn main(matches: &ArgMatches) -> Result<(), Fault> {
    let summary = drive(&load(matches)?)?;
    println!("{summary}");
    if let Some(path) = matches.get_one::<PathBuf>("json") {
        let mut file = std::fs::File::create(path).map_err(|error| format!("{}: {error}", path.display()))?;
        serde_json::to_writer_pretty(&mut file, &summary)?;
        file.write_all(b"\n")?;
    }
    Ok(())
}

/// Sends the load and says what came of it.
///
/// Fails when the server does not accept or does not answer the first request well: then nothing else would.
pub(crate) fn drive(load: &Load) -> Result<Summary, Fault> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let summary = runtime.block_on(drive_here(load));
    runtime.shutdown_background();
    summary
}

/// What all ways share.
struct Shared {
    requests: Vec<Prepared>,
    /// What each request got alone; empty where nobody compares.
    expected: Vec<BytesMut>,
    recorder: Mutex<Recorder>,
    protocol: Protocol,
    address: SocketAddr,
    /// The measured stretch.
    counted: (Instant, Instant),
}

impl Shared {
    fn recorder(&self) -> MutexGuard<'_, Recorder> {
        self.recorder.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends one request, counts its end, and mends the way where it broke.
    async fn send(&self, way: &mut Way, number: usize, meant: Instant, answer: &mut BytesMut) {
        let number = number % self.requests.len();
        let mut outcome = way.exchange(&self.requests[number], answer).await;
        let counts = meant >= self.counted.0 && meant < self.counted.1;
        let latency = counts.then(|| meant.elapsed());
        if let (Ok(()), Some(expected)) = (&outcome, self.expected.get(number))
            && let Some(what) = difference(self.protocol, expected, answer)
        {
            outcome = Err(Failure::Wrong(what));
        }
        self.recorder().note(&outcome, latency);
        if let Err(Failure::Broken(_)) = outcome {
            tokio::time::sleep(RECONNECT_PAUSE).await;
            if let Some(mended) =
                connect(self.address, self.protocol.is_grpc(), 1, 1).await.ok().and_then(|mut ways| ways.pop())
            {
                *way = mended;
            }
        }
    }
}

async fn drive_here(load: &Load) -> Result<Summary, Fault> {
    let grpc = load.protocol.is_grpc();
    let requests = prepared(load)?;
    let count = match load.pace {
        Pace::Closed { concurrency } => concurrency,
        Pace::Open { in_flight_max, .. } => in_flight_max,
    };
    let mut ways = connect(load.address, grpc, count, load.connections)
        .await
        .map_err(|failure| format!("{} does not accept: {failure}", load.address))?;
    // Without good answers to a few there is no point in sending more.
    let mut expected = ask_alone(&mut ways[0], &requests[..if load.verify { REQUESTS } else { 4 }]).await?;
    expected.truncate(if load.verify { REQUESTS } else { 0 });
    let start = Instant::now();
    let counted = (start + load.warmup, start + load.warmup + load.duration);
    let recorder = Mutex::new(Recorder::new(load.bound)?);
    let shared =
        Arc::new(Shared { requests, expected, recorder, protocol: load.protocol, address: load.address, counted });
    let mut slots = JoinSet::new();
    let pacer = match load.pace {
        Pace::Closed { .. } => {
            ways.into_iter()
                .enumerate()
                .for_each(|(number, way)| drop(slots.spawn(closed(Arc::clone(&shared), way, number))));
            None
        }
        Pace::Open { arrivals, .. } => {
            let due = Arc::new(Due::default());
            for way in ways {
                slots.spawn(open(Arc::clone(&shared), way, Arc::clone(&due)));
            }
            let schedule = Schedule::new(arrivals, load.seed);
            Some(std::thread::spawn(move || pace(schedule, start, counted, &due)))
        }
    };
    let measured = measure(&shared, load.server_pid).await?;
    let ended = async { while slots.join_next().await.is_some() {} };
    let all_ended = tokio::time::timeout(GRACE, ended).await.is_ok();
    slots.shutdown().await;
    let due = match pacer.map(std::thread::JoinHandle::join) {
        None => None,
        Some(due) => Some(due.map_err(|_| "the pacing thread panicked")?),
    };
    let shared = Arc::into_inner(shared).ok_or("a request is still running")?;
    let recorder = shared.recorder.into_inner().unwrap_or_else(PoisonError::into_inner);
    let unanswered = match due {
        Some(due) => due.saturating_sub(recorder.ended()),
        None if all_ended => 0,
        None => count as u64,
    };
    let mut summary = recorder.summary(measured.took, load.rows, unanswered);
    if let Pace::Closed { concurrency } = load.pace {
        summary.smooth(concurrency, load.rows);
    }
    let answers = (summary.requests_per_second * measured.took.as_secs_f64()).max(1.0);
    let per_request = |time: Duration| time.as_secs_f64() * 1e6 / answers;
    summary.generator_cpu_us_per_request = Some(per_request(measured.generator_cpu));
    summary.server = measured.server.map(|(cpu, memory)| ServerUse {
        cpu_us_per_request: per_request(cpu),
        cores: cpu.as_secs_f64() / measured.took.as_secs_f64(),
        memory,
    });
    Ok(summary)
}

/// The requests that are sent in turn.
fn prepared(load: &Load) -> Result<Vec<Prepared>, Fault> {
    let count = if load.key.is_some() { CLIENTS } else { REQUESTS };
    let mut requests = prepare(&load.models, load.address, load.protocol, load.rows, load.lengths, count)?;
    if let Some(deadline) = load.deadline {
        requests = requests.into_iter().map(|request| request.within(deadline)).collect();
    }
    if let Some(key) = &load.key {
        let asks = |(client, request): (usize, Prepared)| request.saying(key, &format!("client-{client}"));
        requests = requests.into_iter().enumerate().map(asks).collect();
    }
    Ok(requests)
}

/// The answers to requests that are sent one by one. Fails when one is not good.
async fn ask_alone(way: &mut Way, requests: &[Prepared]) -> Result<Vec<BytesMut>, Fault> {
    let mut answers = Vec::new();
    for request in requests {
        let mut answer = BytesMut::new();
        let asked = tokio::time::timeout(GRACE, way.exchange(request, &mut answer)).await;
        let asked = asked.map_err(|_| "the first request has no answer in 10 s")?;
        asked.map_err(|failure| format!("the first request has no good answer: {failure}"))?;
        answers.push(answer);
    }
    Ok(answers)
}

/// What was used over the measured stretch.
struct Measured {
    took: Duration,
    generator_cpu: Duration,
    server: Option<(Duration, process::Memory)>,
}

/// Lets the stretch begin and end, and reads what was used meanwhile.
async fn measure(shared: &Shared, server_pid: Option<u32>) -> Result<Measured, Fault> {
    let own = std::process::id();
    // Found once: it takes a look at every process of the machine.
    let family = server_pid.map(process::family).transpose()?;
    let used_there = || family.as_deref().map(process::family_cpu_time).transpose();
    let used = || Ok::<_, Fault>((process::cpu_time(own)?, used_there()?));
    tokio::time::sleep_until(shared.counted.0.into()).await;
    let before = used()?;
    let began = Instant::now();
    shared.recorder().measuring = true;
    tokio::time::sleep_until(shared.counted.1.into()).await;
    shared.recorder().measuring = false;
    let took = began.elapsed();
    let after = used()?;
    let server = match (&family, before.1, after.1) {
        (Some(family), Some(before), Some(after)) => {
            Some((after.saturating_sub(before), process::family_memory(family)?))
        }
        _ => None,
    };
    Ok(Measured { took, generator_cpu: after.0.saturating_sub(before.0), server })
}

/// One request after the other, until the stretch is over.
async fn closed(shared: Arc<Shared>, mut way: Way, first: usize) {
    let mut answer = BytesMut::new();
    let mut number = first;
    while Instant::now() < shared.counted.1 {
        shared.send(&mut way, number, Instant::now(), &mut answer).await;
        number += 1;
    }
}

/// Moments that have come and that no way has taken yet.
struct Due {
    moments: Mutex<VecDeque<(usize, Instant)>>,
    /// As many as there are moments; one wake-up for each, in the order in which ways wait.
    count: Semaphore,
}

impl Default for Due {
    fn default() -> Due {
        Due { moments: Mutex::default(), count: Semaphore::new(0) }
    }
}

impl Due {
    fn moments(&self) -> MutexGuard<'_, VecDeque<(usize, Instant)>> {
        self.moments.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next moment, when it has come; `None` when no more come.
    async fn next(&self) -> Option<(usize, Instant)> {
        self.count.acquire().await.ok()?.forget();
        self.moments().pop_front()
    }

    fn push(&self, number: usize, meant: Instant) {
        self.moments().push_back((number, meant));
        self.count.add_permits(1);
    }

    /// Lets every way that waits, now or later, find that there is nothing left.
    fn end(&self) {
        self.count.add_permits(Semaphore::MAX_PERMITS / 2);
    }
}

/// One request for each moment that comes, until no more come.
async fn open(shared: Arc<Shared>, mut way: Way, due: Arc<Due>) {
    let mut answer = BytesMut::new();
    while let Some((number, meant)) = due.next().await {
        shared.send(&mut way, number, meant, &mut answer).await;
    }
}

/// Hands each moment out when it comes, and says how many were meant for the measured stretch.
///
/// A thread of its own, since the runtime's timers know milliseconds only. When too many wait, it waits too; what it could
/// not hand out shortly after the end is not sent any more.
fn pace(schedule: Schedule, start: Instant, counted: (Instant, Instant), due: &Due) -> u64 {
    sleep_exactly();
    let mut meant_count = 0;
    for (number, offset) in schedule.enumerate() {
        let meant = start + offset;
        if meant >= counted.1 {
            break;
        }
        meant_count += u64::from(meant >= counted.0);
        let now = Instant::now();
        if now < meant {
            std::thread::sleep(meant - now);
        }
        let given_up = counted.1 + LATE_MAX;
        while due.moments().len() >= WAITING_MAX && Instant::now() < given_up {
            std::thread::sleep(CROWDED_PAUSE);
        }
        if Instant::now() < given_up {
            due.push(number, meant);
        }
    }
    due.end();
    meant_count
}

/// Asks the kernel not to let this thread's sleeps end late for the sake of saving wake-ups, which is 50 µs else. Without
/// the right to ask, moments are that much later, and latencies that much longer.
pub(crate) fn sleep_exactly() {
    let thread = std::fs::read_link("/proc/thread-self").ok();
    if let Some(number) = thread.as_deref().and_then(|path| path.file_name()?.to_str()) {
        drop(std::fs::write(format!("/proc/{number}/timerslack_ns"), "1"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::echo;

    fn load(address: SocketAddr, protocol: Protocol, pace: Pace) -> Load {
        Load {
            address,
            protocol,
            models: vec!["mlp".parse().expect("it is known")],
            rows: 1,
            lengths: Lengths { shortest: 1, longest: 1 },
            connections: 2,
            pace,
            warmup: Duration::from_millis(10),
            duration: Duration::from_millis(100),
            server_pid: None,
            seed: 1,
            bound: None,
            deadline: None,
            key: None,
            verify: true,
        }
    }

    fn echo(protocol: Protocol, threads: usize) -> SocketAddr {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let answer = echo::Answer::new(&"mlp".parse().expect("it is known"), protocol, 1);
        std::thread::spawn(move || echo::serve(listener, threads, Duration::from_secs(60), &answer));
        address
    }

    #[test]
    fn every_protocol_gets_good_answers_in_both_loops() {
        let arrivals = Arrivals::Poisson { rate: 500.0 };
        let paces = [Pace::Closed { concurrency: 4 }, Pace::Open { arrivals, in_flight_max: 8 }];
        // Stands for the server's process: this one's other tests have children that come and go.
        let mut process = std::process::Command::new("sleep").arg("60").spawn().expect("there is a sleep");
        for protocol in [Protocol::Grpc, Protocol::GrpcTyped, Protocol::Http, Protocol::Json] {
            let address = echo(protocol, 2);
            for pace in paces {
                let load = Load { server_pid: Some(process.id()), ..load(address, protocol, pace) };
                let summary = drive(&load).expect("the echo answers");
                assert!(summary.requests > 0 && summary.latency_us.max > 0.0, "{protocol} {pace:?}: {summary}");
                assert_eq!(summary.failed(), 0, "{protocol} {pace:?}: {summary}");
                assert!(summary.server.is_some() && summary.generator_cpu_us_per_request.is_some());
            }
        }
        process.kill().and_then(|()| process.wait()).expect("it was running");
    }

    #[test]
    fn an_open_loop_sends_what_the_schedule_says_and_no_more() {
        let address = echo(Protocol::Http, 1);
        let pace = Pace::Open { arrivals: Arrivals::Constant { rate: 200.0 }, in_flight_max: 4 };
        let load = load(address, Protocol::Http, pace);
        let summary = drive(&load).expect("the echo answers");
        let due = Schedule::new(Arrivals::Constant { rate: 200.0 }, load.seed)
            .skip_while(|offset| *offset < load.warmup)
            .take_while(|offset| *offset < load.warmup + load.duration);
        assert!(summary.requests + summary.unanswered <= due.count() as u64 + 4, "{summary}");
    }

    #[test]
    fn a_server_that_speaks_something_else_is_told_at_once() {
        let address = echo(Protocol::Http, 1);
        let fault = drive(&load(address, Protocol::Grpc, Pace::Closed { concurrency: 1 })).unwrap_err();
        assert!(fault.to_string().starts_with("the first request has no good answer: "), "{fault}");
        let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
        let fault = drive(&load(nobody, Protocol::Grpc, Pace::Closed { concurrency: 1 })).unwrap_err();
        assert!(fault.to_string().starts_with("127.0.0.1:1 does not accept: "), "{fault}");
    }
}
