//! Do thousands of clients that are idle or slow cost those that are neither?
//!
//! Good clients are measured alone and among the crowd, in turns. The crowd has a thread of its own: idle clients ask once
//! and then keep their connection; slow ones send a request's head a byte at a time and begin anew when they are cut off.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use clap::{ArgMatches, Command, value_parser};
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::Fault;
use crate::arguments::{count, count_of, flag, optional, parse_duration, parse_target, value};
use crate::model::{AskedModel, Lengths};
use crate::payload::Protocol;
use crate::process;
use crate::run::{Load, Pace, drive};
use crate::schedule::Arrivals;

/// Clients of each kind, at most: one address has no more ports than this for one other.
const CLIENTS_MAX: usize = 20_000;

/// Between two bytes of a slow client.
const BYTE_PAUSE: Duration = Duration::from_secs(1);

/// How long the crowd may take to come together, and how often that is looked at.
const GATHER_TIMEOUT: Duration = Duration::from_secs(60);
const LOOK_PAUSE: Duration = Duration::from_millis(20);

/// Connections that are being opened at a time: more than a listener's backlog holds would wait for seconds.
const OPENING_MAX: usize = 64;

/// Files that a process needs beside its connections.
const FILES_BESIDE: usize = 200;

/// The command line of `crowd`.
pub(crate) fn command() -> Command {
    Command::new("crowd")
        .about("Measures good clients of a running server with and without thousands of idle and slow ones beside them")
        .arg(optional("target", parse_target, "The address, such as 127.0.0.1:8001").required(true))
        .arg(
            optional("server-pid", value_parser!(u32), "The server's process, whose memory is looked at")
                .required(true),
        )
        .arg(optional("model", value_parser!(AskedModel), "NAME[=FORM], as run takes it").required(true))
        .arg(flag("protocol", "grpc", value_parser!(Protocol), "grpc, grpc-typed, http or json"))
        .arg(flag("rate", "2000", value_parser!(f64), "Requests per second of the good clients"))
        .arg(count("idle", "10000", "Connections that are idle; the server's connections_max must allow them"))
        .arg(count("slow", "1000", "Clients that send a byte a second"))
        .arg(count("rounds", "5", "Stretches of each kind, in turns"))
        .arg(flag("duration", "5s", parse_duration, "Each stretch"))
}

/// The outcome, as JSON.
#[derive(Debug, Serialize)]
struct Outcome {
    idle: usize,
    slow: usize,
    /// Medians over the rounds, in microseconds.
    p99_alone_us: f64,
    p99_crowded_us: f64,
    /// The median of the rounds' own ratios.
    p99_ratio: f64,
    p50_ratio: f64,
    failed: u64,
    bytes_per_idle_connection: f64,
    /// Slow clients that the server cut off, over all rounds.
    cut_off: usize,
}

/// Runs `crowd`.
pub(crate) fn main(matches: &ArgMatches) -> Result<(), Fault> {
    let (idle, slow) = (count_of(matches, "idle")?, count_of(matches, "slow")?);
    let pid: u32 = value(matches, "server-pid")?;
    if idle.max(slow) > CLIENTS_MAX {
        return Err(format!("at most {CLIENTS_MAX} clients of each kind").into());
    }
    for process in [std::process::id(), pid] {
        check_files(process, idle + slow + FILES_BESIDE)?;
    }
    let load = load(matches)?;
    let (mut alone, mut crowded, mut p99, mut p50, mut bytes) = (vec![], vec![], vec![], vec![], vec![]);
    let (mut failed, mut cut_off) = (0, 0);
    for round in 1..=count_of(matches, "rounds")? {
        let before = drive(&load)?;
        let resident = process::memory(pid)?.resident_bytes;
        let idlers = Clients::start(load.address, idle, Kind::Idle)?;
        idlers.wait()?;
        bytes.push(process::memory(pid)?.resident_bytes.saturating_sub(resident) as f64 / idle as f64);
        let slow = Clients::start(load.address, slow, Kind::Slow)?;
        slow.wait()?;
        let among = drive(&load)?;
        cut_off += slow.end();
        idlers.end();
        failed += before.failed() + among.failed();
        let (quiet, loud) = (before.latency_us, among.latency_us);
        println!("round {round}: p99 {:.0} µs alone, {:.0} µs in the crowd", quiet.p99, loud.p99);
        alone.push(quiet.p99);
        crowded.push(loud.p99);
        p99.push(loud.p99 / quiet.p99);
        p50.push(loud.p50 / quiet.p50);
    }
    let outcome = Outcome {
        idle,
        slow,
        p99_alone_us: median(alone),
        p99_crowded_us: median(crowded),
        p99_ratio: median(p99),
        p50_ratio: median(p50),
        failed,
        bytes_per_idle_connection: median(bytes),
        cut_off,
    };
    println!("{}", serde_json::to_string_pretty(&outcome)?);
    match failed {
        0 => Ok(()),
        _ => Err(format!("{failed} requests of good clients failed").into()),
    }
}

fn load(matches: &ArgMatches) -> Result<Load, Fault> {
    let rate: f64 = value(matches, "rate")?;
    if !(rate > 0.0 && rate <= 1e6) {
        return Err(format!("--rate {rate}: expected requests per second above 0, at most 1000000").into());
    }
    Ok(Load {
        address: value(matches, "target")?,
        protocol: value(matches, "protocol")?,
        models: vec![value(matches, "model")?],
        rows: 1,
        lengths: "32".parse::<Lengths>()?,
        connections: 16,
        pace: Pace::Open { arrivals: Arrivals::Poisson { rate }, in_flight_max: 64 },
        warmup: Duration::from_millis(500),
        duration: value(matches, "duration")?,
        server_pid: None,
        seed: 1,
        verify: false,
        bound: None,
        deadline: None,
        key: None,
    })
}

/// Fails where a process may not open so many files.
fn check_files(pid: u32, files: usize) -> Result<(), Fault> {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits"))?;
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap_or_default();
    let soft = line.split_ascii_whitespace().nth(3).and_then(|word| word.parse().ok()).unwrap_or(usize::MAX);
    match soft >= files {
        true => Ok(()),
        false => Err(format!("process {pid} may open {soft} files, and {files} are needed: ulimit -n {files}").into()),
    }
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[derive(Clone, Copy)]
enum Kind {
    Idle,
    Slow,
}

/// Clients of one kind on a thread of their own.
struct Clients {
    wanted: usize,
    there: Arc<AtomicUsize>,
    cut_off: Arc<AtomicUsize>,
    ending: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Clients {
    fn start(address: SocketAddr, wanted: usize, kind: Kind) -> Result<Clients, Fault> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (there, cut_off) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let ending = Arc::new(AtomicBool::new(false));
        let seen = (Arc::clone(&there), Arc::clone(&cut_off), Arc::clone(&ending));
        let thread = thread::spawn(move || {
            let (there, cut_off, ending) = seen;
            runtime.block_on(async {
                let doors = Arc::new(tokio::sync::Semaphore::new(OPENING_MAX));
                let mut clients = JoinSet::new();
                for number in 0..wanted {
                    let client =
                        Client { address, doors: doors.clone(), there: there.clone(), cut_off: cut_off.clone() };
                    clients.spawn(async move {
                        match kind {
                            Kind::Idle => client.idle().await,
                            // Not all at the same moment of each second.
                            Kind::Slow => client.slow(BYTE_PAUSE.mul_f64(number as f64 / wanted as f64)).await,
                        }
                    });
                }
                while !ending.load(Relaxed) {
                    tokio::time::sleep(LOOK_PAUSE).await;
                }
            });
            runtime.shutdown_background();
        });
        Ok(Clients { wanted, there, cut_off, ending, thread })
    }

    fn wait(&self) -> Result<(), Fault> {
        let began = Instant::now();
        while self.there.load(Relaxed) < self.wanted {
            if began.elapsed() > GATHER_TIMEOUT {
                let there = self.there.load(Relaxed);
                return Err(
                    format!("only {there} of {} clients could connect: see connections_max", self.wanted).into()
                );
            }
            thread::sleep(LOOK_PAUSE);
        }
        Ok(())
    }

    fn end(self) -> usize {
        self.ending.store(true, Relaxed);
        // It panics only where this program is wrong, and has said so then.
        drop(self.thread.join());
        self.cut_off.load(Relaxed)
    }
}

/// One of the crowd.
struct Client {
    address: SocketAddr,
    doors: Arc<tokio::sync::Semaphore>,
    there: Arc<AtomicUsize>,
    cut_off: Arc<AtomicUsize>,
}

impl Client {
    async fn connect(&self) -> Option<TcpStream> {
        let _door = self.doors.acquire().await.ok()?;
        TcpStream::connect(self.address).await.ok()
    }

    /// Asks once and stays.
    async fn idle(self) {
        loop {
            if let Some(mut stream) = self.connect().await
                && stream.write_all(b"GET /v2/health/live HTTP/1.1\r\nhost: localhost\r\n\r\n").await.is_ok()
                && stream.read_u8().await.is_ok()
            {
                self.there.fetch_add(1, Relaxed);
                let mut rest = [0; 1024];
                while stream.read(&mut rest).await.is_ok_and(|bytes| bytes > 0) {}
                self.there.fetch_sub(1, Relaxed);
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }

    /// Sends the head of a request, a byte at a time, and begins anew when it is cut off.
    async fn slow(self, offset: Duration) {
        tokio::time::sleep(offset).await;
        let mut known = false;
        loop {
            let Some(mut stream) = self.connect().await else {
                tokio::time::sleep(LOOK_PAUSE).await;
                continue;
            };
            for byte in b"GET /v2/health/live HTTP/1.1\r\nx-slow: ".iter().chain(std::iter::repeat(&b'.')) {
                if stream.write_all(&[*byte]).await.is_err() {
                    break;
                }
                if !std::mem::replace(&mut known, true) {
                    self.there.fetch_add(1, Relaxed);
                }
                tokio::time::sleep(BYTE_PAUSE).await;
            }
            self.cut_off.fetch_add(1, Relaxed);
        }
    }
}
