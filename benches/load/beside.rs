//! Does anybody notice when a large model is loaded beside the one that they ask?
//!
//! One model serves at a share of what it can. In every other stretch another model's versions come, one as soon as the one
//! before it is ready, each with a digest of its own, so that the whole stretch is loading.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use serde::Serialize;

use crate::Fault;
use crate::arguments::{count, count_of, flag, parse_duration, value};
use crate::crowd::median;
use crate::model::{AskedModel, Lengths};
use crate::payload::Protocol;
use crate::run::{Load, Pace, drive};
use crate::schedule::Arrivals;
use crate::server::Server;
use crate::template::with_note;

/// The model that is loaded; the one that is asked keeps its name.
const LOADED: &str = "loaded";

/// Requests in flight at the peak.
const CONCURRENCY: usize = 64;

/// How long one load may take.
const LOAD_TIMEOUT: Duration = Duration::from_secs(120);

/// Versions that lie ready before a stretch begins: writing them would disturb whoever measures.
const STAGED_AHEAD: u64 = 4;

/// Between two looks at whether a version is ready.
const LOOK_PAUSE: Duration = Duration::from_millis(20);

/// The command line of `beside`.
pub(crate) fn command() -> Command {
    Command::new("beside")
        .about("Measures a model at half of what it can, with and without loads of another model beside it")
        .arg(flag("server", "target/release/tiltyard", value_parser!(PathBuf), "The server's program"))
        .arg(flag("models", "target/bench-models", value_parser!(PathBuf), "What benches/models/make.py made"))
        .arg(flag("asked", "mlp", value_parser!(AskedModel), "The model that is asked"))
        .arg(flag("loaded", "resnet18", value_parser!(String), "The model that is loaded, over and over"))
        .arg(flag("protocol", "grpc", value_parser!(Protocol), "grpc, grpc-typed, http (binary tensors) or json"))
        .arg(flag("share", "0.5", value_parser!(f64), "Requests that come, by those that the server can answer"))
        .arg(count("rounds", "9", "Stretches of each kind, in turns"))
        .arg(flag("duration", "5s", parse_duration, "Each stretch"))
        .arg(flag("out", "target/beside", value_parser!(PathBuf), "The folder for all that is made; emptied first"))
        .arg(Arg::new("flags").action(ArgAction::Append).last(true).help("Further flags for the server"))
}

/// The outcome, as JSON.
#[derive(Debug, Serialize)]
struct Outcome {
    /// Requests per second that were offered.
    rate: f64,
    /// Medians over the rounds, in microseconds.
    p99_alone_us: f64,
    p99_loading_us: f64,
    /// Medians of the rounds' own ratios, and the least and the most of them.
    p99_ratio: f64,
    p99_ratio_range: [f64; 2],
    p50_ratio: f64,
    /// Loads over all rounds, and the median of the seconds that each took.
    loads: usize,
    load_seconds: f64,
    failed: u64,
}

/// Runs `beside`.
pub(crate) fn main(matches: &ArgMatches) -> Result<(), Fault> {
    let (out, models): (PathBuf, PathBuf) = (value(matches, "out")?, value(matches, "models")?);
    let (asked, loaded): (AskedModel, String) = (value(matches, "asked")?, value(matches, "loaded")?);
    let share: f64 = value(matches, "share")?;
    if !(share > 0.0 && share < 1.0) {
        return Err(format!("--share {share}: expected a number between 0 and 1").into());
    }
    if out.exists() {
        // Only what an earlier run made is deleted, whatever the flag names.
        if !out.join("staged").exists() && fs::read_dir(&out)?.next().is_some() {
            return Err(format!("--out {}: it holds what no such run has made", out.display()).into());
        }
        fs::remove_dir_all(&out)?;
    }
    let file = |name: &str| models.join(name).join("1/model.onnx");
    fs::create_dir_all(out.join("staged"))?;
    let served = out.join("models").join(&asked.name).join("1");
    fs::create_dir_all(&served)?;
    fs::copy(file(&asked.name), served.join("model.onnx"))
        .map_err(|error| format!("{}: {error}", file(&asked.name).display()))?;
    let bytes = fs::read(file(&loaded)).map_err(|error| format!("{}: {error}", file(&loaded).display()))?;
    let flags: Vec<String> = matches.get_many("flags").map(|flags| flags.cloned().collect()).unwrap_or_default();
    let server = Server::start(&value::<PathBuf>(matches, "server")?, &out.join("models"), &out, &flags)?;
    let loads = Loads { server: &server, out: &out, bytes: &bytes };
    let outcome = measure(&loads, asked, share, matches)?;
    println!("{}", serde_json::to_string_pretty(&outcome)?);
    fs::write(out.join("beside.json"), serde_json::to_string_pretty(&outcome)? + "\n")?;
    let status = server.stop()?;
    match outcome.failed {
        _ if !status.success() => Err(format!("the server ended with {status}").into()),
        0 => Ok(()),
        failed => Err(format!("{failed} requests failed").into()),
    }
}

fn measure(loads: &Loads<'_>, asked: AskedModel, share: f64, matches: &ArgMatches) -> Result<Outcome, Fault> {
    let protocol: Protocol = value(matches, "protocol")?;
    let peak = Load {
        address: if protocol.is_grpc() { loads.server.grpc } else { loads.server.http },
        protocol,
        models: vec![asked],
        rows: 1,
        lengths: "32".parse::<Lengths>()?,
        connections: CONCURRENCY,
        pace: Pace::Closed { concurrency: CONCURRENCY },
        warmup: Duration::from_secs(1),
        duration: Duration::from_secs(3),
        server_pid: None,
        seed: 1,
        verify: false,
        bound: None,
        deadline: None,
        key: None,
    };
    let rate = drive(&peak)?.requests_per_second * share;
    let pace = Pace::Open { arrivals: Arrivals::Poisson { rate }, in_flight_max: 4 * CONCURRENCY };
    let load = Load { pace, duration: value(matches, "duration")?, ..peak };
    let (mut quiet, mut loud, mut p99, mut p50) = (vec![], vec![], vec![], vec![]);
    let (mut seconds, mut failed, mut version) = (vec![], 0, 0);
    for round in 1..=count_of(matches, "rounds")? {
        let alone = drive(&load)?;
        let (among, took) = loads.among(&mut version, || drive(&load))?;
        failed += alone.failed() + among.failed();
        let (before, beside) = (alone.latency_us, among.latency_us);
        eprintln!("round {round}: p99 {:.0} µs alone, {:.0} µs beside {} loads", before.p99, beside.p99, took.len());
        quiet.push(before.p99);
        loud.push(beside.p99);
        p99.push(beside.p99 / before.p99);
        p50.push(beside.p50 / before.p50);
        seconds.extend(took);
    }
    let range = [p99.iter().copied().fold(f64::INFINITY, f64::min), p99.iter().copied().fold(0.0, f64::max)];
    Ok(Outcome {
        rate,
        p99_alone_us: median(quiet),
        p99_loading_us: median(loud),
        p99_ratio: median(p99),
        p99_ratio_range: range,
        p50_ratio: median(p50),
        loads: seconds.len(),
        load_seconds: median(seconds),
        failed,
    })
}

/// Versions that come while others are asked.
struct Loads<'a> {
    server: &'a Server,
    out: &'a Path,
    bytes: &'a [u8],
}

impl Loads<'_> {
    /// Does `work` while versions are loaded, one after the other; says what came of it and how many seconds each load took.
    fn among<T>(&self, version: &mut u64, work: impl FnOnce() -> Result<T, Fault>) -> Result<(T, Vec<f64>), Fault> {
        for ahead in *version + 1..=*version + STAGED_AHEAD {
            self.stage(ahead)?;
        }
        let ending = AtomicBool::new(false);
        thread::scope(|scope| {
            let loading = scope.spawn(|| {
                let mut took = Vec::new();
                while !ending.load(Relaxed) {
                    *version += 1;
                    took.push(self.load(*version)?);
                }
                Ok::<_, Fault>(took)
            });
            let done = work();
            ending.store(true, Relaxed);
            let took = loading.join().map_err(|_| "the loading thread panicked")??;
            Ok((done?, took))
        })
    }

    fn staged(&self, version: u64) -> PathBuf {
        self.out.join("staged").join(version.to_string())
    }

    /// Writes a version beside the repository, onto the disk, unless it is there.
    fn stage(&self, version: u64) -> Result<(), Fault> {
        let staged = self.staged(version);
        if staged.exists() {
            return Ok(());
        }
        fs::create_dir_all(&staged)?;
        let mut file = fs::File::create(staged.join("model.onnx"))?;
        file.write_all(&with_note(self.bytes, &format!("version {version}")))?;
        Ok(file.sync_all()?)
    }

    /// Puts a version there as a whole and waits until it is ready; the seconds that it took.
    fn load(&self, version: u64) -> Result<f64, Fault> {
        self.stage(version)?;
        let staged = self.staged(version);
        let folder = self.out.join("models").join(LOADED);
        fs::create_dir_all(&folder)?;
        fs::rename(&staged, folder.join(version.to_string()))?;
        let began = Instant::now();
        while !self.server.told(LOADED, version)?.is_some_and(|told| told.is_ready()) {
            if began.elapsed() > LOAD_TIMEOUT {
                return Err(format!("version {version} is not ready after {} s", LOAD_TIMEOUT.as_secs()).into());
            }
            thread::sleep(LOOK_PAUSE);
        }
        // What is retired by now is not needed again.
        if version > 2 {
            fs::remove_dir_all(folder.join((version - 2).to_string()))?;
        }
        Ok(began.elapsed().as_secs_f64())
    }
}
