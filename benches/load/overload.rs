//! What does a server do of ten times what it can?
//!
//! A closed loop finds what it can at most. Then requests come as though nobody minded: ten times as many, each with a
//! deadline. What is answered in time is held against the best that could be: whoever spends `c` on an answer and `r` on a
//! refusal has, under k times his peak, c / (c + (k - 1) · r) of it left to answer with. Both costs are of the same run:
//! refusals are made on the event loops alone, and runs elsewhere, so that the loops' own processor time tells them apart.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command as Program, Stdio};
use std::time::{Duration, Instant};

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use serde::Serialize;

use crate::Fault;
use crate::arguments::{count, count_of, flag, parse_duration, value};
use crate::model::Lengths;
use crate::payload::Protocol;
use crate::process;
use crate::run::{Load, Pace, drive};
use crate::schedule::Arrivals;
use crate::server::Server;
use crate::summary::{Latency, Summary};
use crate::template;

/// The model, and what it takes.
const MODEL: &str = "deep";
const FORM: &str = "deep=x:FP32:4";

/// Of what can be had at best, so much must be.
const GOODPUT_MIN: f64 = 0.95;

/// A refusal must be there as soon as this, at the median.
const REFUSAL_MAX: Duration = Duration::from_millis(1);

/// Requests that wait or run at the peak.
const CONCURRENCY: usize = 64;

/// The most requests that the generator has open.
const IN_FLIGHT_MAX: usize = 1024;

/// How long the server may take, after the last request, to let go of what it held.
const LET_GO_TIMEOUT: Duration = Duration::from_secs(30);

/// The threads on which requests are read and refused.
const LOOPS: &str = "tiltyard-front";

/// The command line of `overload`.
pub(crate) fn command() -> Command {
    Command::new("overload")
        .about("Sends ten times what a server can do, and says how much of that it still does, and what refusals cost")
        .arg(flag("server", "target/release/tiltyard", value_parser!(PathBuf), "The server's program"))
        .arg(flag("protocol", "grpc", value_parser!(Protocol), "grpc, grpc-typed, http (binary tensors) or json"))
        .arg(count("products", "64", "How dear a row is: so many products with 4 MiB of weights"))
        .arg(flag("factor", "10", value_parser!(f64), "Requests that come, by those that the server can answer"))
        .arg(flag("deadline", "500ms", parse_duration, "How long each client waits, as its requests say"))
        .arg(flag("peak-duration", "5s", parse_duration, "How long the peak is measured, before and after"))
        .arg(flag("duration", "60s", parse_duration, "How long the flood lasts; an hour at most"))
        .arg(
            Arg::new("counts-only")
                .long("counts-only")
                .action(ArgAction::SetTrue)
                .help("Judge counts alone and no times: for short runs, and machines that others use too"),
        )
        .arg(flag("out", "target/overload", value_parser!(PathBuf), "The folder for all that is made; emptied first"))
        .arg(Arg::new("flags").action(ArgAction::Append).last(true).help("Further flags for the server"))
}

/// What a run found.
#[derive(Clone, Debug, Serialize)]
struct Report {
    command: Vec<String>,
    /// Whether server and generator have a processor of their own each.
    pinned: bool,
    factor: f64,
    deadline_ms: f64,
    /// Answers per second before and after the flood.
    peaks: [f64; 2],
    /// Requests per second that came.
    offered: f64,
    /// Answers per second in time.
    goodput: f64,
    /// What an answer and a refusal cost the server, in microseconds of processor time.
    answer_us: f64,
    refusal_cost_us: f64,
    refused: u64,
    refusal_us: Latency,
    answer_latency_us: Latency,
    expired: u64,
    late: u64,
    /// Failures that are neither refusals nor expired deadlines, by kind.
    failures: BTreeMap<String, u64>,
    unanswered: u64,
    /// Refusals by reason, as the server counts them.
    reasons: BTreeMap<String, f64>,
    /// Runs for clients whose time was over.
    run_late: f64,
    /// What is still held afterwards, in words.
    left_over: Vec<String>,
    resident_mb: [f64; 2],
    promises: Vec<Promise>,
}

/// A promise: whether it was kept, and its figure.
#[derive(Clone, Debug, Serialize)]
struct Promise {
    name: &'static str,
    /// `None` where this run does not judge it.
    kept: Option<bool>,
    figure: String,
}

/// Runs `overload`.
pub(crate) fn main(matches: &ArgMatches) -> Result<(), Fault> {
    let (out, binary) = (value::<PathBuf>(matches, "out")?, value::<PathBuf>(matches, "server")?);
    let factor: f64 = value(matches, "factor")?;
    if !(factor > 1.0 && factor <= 1000.0) {
        return Err(format!("--factor {factor}: expected a number above 1, at most 1000").into());
    }
    if out.exists() {
        // Only what an earlier run made is deleted, whatever the flag names.
        if !out.join("models").join(MODEL).exists() && fs::read_dir(&out)?.next().is_some() {
            return Err(format!("--out {}: it holds what no overload has made", out.display()).into());
        }
        fs::remove_dir_all(&out)?;
    }
    let version = out.join("models").join(MODEL).join("1");
    fs::create_dir_all(&version)?;
    fs::write(version.join("model.onnx"), template::deep_model(1, count_of(matches, "products")?))?;
    let flags: Vec<String> = matches.get_many("flags").map(|flags| flags.cloned().collect()).unwrap_or_default();
    let (server, pinned) = start(&binary, &out, &flags)?;
    let report = flood(&server, matches, factor, pinned)?;
    println!("{report}");
    fs::write(out.join("overload.json"), serde_json::to_string_pretty(&report)? + "\n")?;
    let status = server.stop()?;
    match report.promises.iter().filter(|promise| promise.kept == Some(false)).count() {
        _ if !status.success() => Err(format!("the server ended with {status}").into()),
        0 => Ok(()),
        broken => {
            Err(format!("{broken} promises are broken; the server's log is {}", out.join("log").display()).into())
        }
    }
}

/// Starts the server on the first processor and leaves the second to the generator, where there is a program for that.
/// Says whether it is so.
fn start(binary: &Path, out: &Path, flags: &[String]) -> Result<(Server, bool), Fault> {
    let here = std::process::id().to_string();
    let pin = |processors: &str| {
        let mut program = Program::new("taskset");
        program.args(["-a", "-c", "-p", processors, &here]).stdout(Stdio::null()).stderr(Stdio::null());
        program.status().is_ok_and(|status| status.success())
    };
    // What is started inherits it.
    let pinned = std::thread::available_parallelism().is_ok_and(|count| count.get() >= 2) && pin("0");
    let server = Server::start(binary, &out.join("models"), out, flags)?;
    Ok((server, pinned && pin("1")))
}

/// The figures of the server that the flood is judged by.
struct Seen {
    answered: f64,
    refused: f64,
    loops: Duration,
    all: Duration,
}

impl Seen {
    fn of(server: &Server) -> Result<Seen, Fault> {
        let metrics = server.metrics()?;
        Ok(Seen {
            answered: sum(&metrics, "tiltyard_requests_total", "outcome=\"success\""),
            refused: sum(&metrics, "tiltyard_requests_refused_total", ""),
            loops: process::threads_cpu_time(server.pid(), LOOPS)?,
            all: process::cpu_time(server.pid())?,
        })
    }
}

/// The sum over all series of a family that have a label.
fn sum(metrics: &BTreeMap<String, f64>, family: &str, label: &str) -> f64 {
    let of_family = |series: &str| series.split('{').next() == Some(family) && series.contains(label);
    metrics.iter().filter(|(series, _)| of_family(series)).map(|(_, value)| value).sum()
}

fn flood(server: &Server, matches: &ArgMatches, factor: f64, pinned: bool) -> Result<Report, Fault> {
    let protocol: Protocol = value(matches, "protocol")?;
    let deadline: Duration = value(matches, "deadline")?;
    let peak_load = Load {
        address: if protocol.is_grpc() { server.grpc } else { server.http },
        protocol,
        models: vec![FORM.parse()?],
        rows: 1,
        lengths: Lengths { shortest: 1, longest: 1 },
        connections: CONCURRENCY,
        pace: Pace::Closed { concurrency: CONCURRENCY },
        warmup: Duration::from_secs(3),
        duration: value(matches, "peak-duration")?,
        server_pid: None,
        seed: 1,
        verify: false,
        bound: None,
        deadline: None,
        key: None,
    };
    let before = Seen::of(server)?;
    let peak = drive(&peak_load)?;
    let between = Seen::of(server)?;
    let resident_before = server.memory()?.resident_bytes;
    let rate = peak.requests_per_second * factor;
    let load = Load {
        pace: Pace::Open { arrivals: Arrivals::Poisson { rate }, in_flight_max: IN_FLIGHT_MAX },
        // The first moments are a burst onto an empty queue.
        warmup: (deadline * 2).min(Duration::from_secs(10)),
        duration: value(matches, "duration")?,
        bound: Some(deadline),
        deadline: Some(deadline),
        ..peak_load.clone()
    };
    let flooded = drive(&load)?;
    let after = Seen::of(server)?;
    let memory = server.memory()?;
    let peak_again = drive(&Load { warmup: Duration::from_secs(1), ..peak_load })?;
    let left_over = left_over(server)?;
    let metrics = server.metrics()?;
    let answers = (between.answered - before.answered).max(1.0);
    let loop_us = (between.loops - before.loops).as_secs_f64() * 1e6 / answers;
    let refusing_us = (after.loops - between.loops).as_secs_f64() * 1e6 - loop_us * (after.answered - between.answered);
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    let Summary { refused, refusal_us, latency_us, expired, late, unanswered, .. } = flooded;
    // Those that the generator had no way for never came.
    let came = flooded.good_per_second * flooded.seconds + (late + flooded.failed() - unanswered) as f64;
    let is_told = |kind: &str| ["HTTP 429", "gRPC 8", "HTTP 504", "gRPC 4"].contains(&kind);
    let mut report = Report {
        command: std::env::args().collect(),
        pinned,
        factor,
        deadline_ms: deadline.as_secs_f64() * 1e3,
        peaks: [peak.requests_per_second, peak_again.requests_per_second],
        offered: came / flooded.seconds,
        goodput: flooded.good_per_second,
        answer_us: (between.all - before.all).as_secs_f64() * 1e6 / answers,
        refusal_cost_us: refusing_us.max(0.0) / (after.refused - between.refused).max(1.0),
        refused,
        refusal_us,
        answer_latency_us: latency_us,
        expired,
        late,
        failures: flooded.failures.into_iter().filter(|(kind, _)| !is_told(kind)).collect(),
        unanswered,
        reasons: reasons(&metrics),
        run_late: sum(&metrics, "tiltyard_requests_late_total", ""),
        left_over,
        resident_mb: [megabytes(resident_before), megabytes(memory.peak_bytes)],
        promises: Vec::new(),
    };
    report.judge(matches.get_flag("counts-only"));
    Ok(report)
}

/// Refusals by reason.
fn reasons(metrics: &BTreeMap<String, f64>) -> BTreeMap<String, f64> {
    let reason = |series: &str| Some(series.split("reason=\"").nth(1)?.split('"').next()?.to_owned());
    let refusals = metrics.iter().filter(|(series, _)| series.starts_with("tiltyard_requests_refused_total"));
    refusals.filter_map(|(series, count)| Some((reason(series)?, *count))).collect()
}

/// What the server still holds when nobody asks any more, once it had time to let go.
fn left_over(server: &Server) -> Result<Vec<String>, Fault> {
    const HELD: [&str; 4] = [
        "tiltyard_requests_in_flight",
        "tiltyard_bytes_in_flight",
        "tiltyard_live{kind=\"jobs\"}",
        "tiltyard_live{kind=\"split_requests\"}",
    ];
    let began = Instant::now();
    loop {
        let metrics = server.metrics()?;
        let held = |series: &&str| metrics.get(*series).copied() != Some(0.0);
        let left: Vec<String> = HELD
            .iter()
            .filter(|series| held(series))
            .map(|series| format!("{series} {:?}", metrics.get(*series)))
            .collect();
        if left.is_empty() || began.elapsed() > LET_GO_TIMEOUT {
            return Ok(left);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

impl Report {
    /// What can be had at best, of the peak: that which was lower, since the machine may have become slower meanwhile.
    fn best(&self) -> f64 {
        let peak = self.peaks[0].min(self.peaks[1]);
        let by_peak = self.offered / self.peaks[0];
        peak * self.answer_us / (self.answer_us + (by_peak - 1.0).max(0.0) * self.refusal_cost_us)
    }

    /// What the processor has time for, of the same peak, where every request that comes and is not answered is paid for: of
    /// ten times the peak more than nine for each answer are refused, as answers are fewer than at the peak.
    fn affordable(&self) -> f64 {
        let peak = self.peaks[0].min(self.peaks[1]);
        let spared = (self.answer_us - self.refusal_cost_us).max(1.0);
        ((peak * self.answer_us - self.offered * self.refusal_cost_us) / spared).max(0.0)
    }

    fn judge(&mut self, counts_only: bool) {
        let share = self.goodput / self.best();
        let timed = |kept: bool| Some(kept).filter(|_| !counts_only);
        let refusal = Duration::from_secs_f64(self.refusal_us.p50 / 1e6);
        let offered = self.offered / (self.factor * self.peaks[0]);
        let promises = [
            (
                "answers in time, of the best that could be",
                timed(share >= GOODPUT_MIN),
                format!("{:.1} %", share * 100.0),
            ),
            (
                "a refusal at the median",
                timed(refusal <= REFUSAL_MAX),
                format!("{:.2} ms, p99 {:.2} ms", self.refusal_us.p50 / 1e3, self.refusal_us.p99 / 1e3),
            ),
            ("as many requests came as were meant to", timed(offered > 0.97), format!("{:.1} %", offered * 100.0)),
            ("there were refusals", Some(self.refused > 0), self.refused.to_string()),
            ("no run for a client whose time was over", Some(self.run_late == 0.0), self.run_late.to_string()),
            (
                "nothing failed in another way",
                Some(self.failures.is_empty() && (self.unanswered == 0 || counts_only)),
                format!("{:?}, {} unanswered", self.failures, self.unanswered),
            ),
            ("nothing is held afterwards", Some(self.left_over.is_empty()), self.left_over.join(", ")),
        ];
        self.promises = promises.into_iter().map(|(name, kept, figure)| Promise { name, kept, figure }).collect();
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pinned =
            if self.pinned { "a processor each for server and generator" } else { "all on the same processors" };
        writeln!(f, "{pinned}; deadline {:.0} ms", self.deadline_ms)?;
        writeln!(f, "peak       {:.1}/s, afterwards {:.1}/s", self.peaks[0], self.peaks[1])?;
        writeln!(f, "offered    {:.1}/s, {:.1} times the peak", self.offered, self.offered / self.peaks[0])?;
        writeln!(f, "in time    {:.1}/s of {:.1}/s at best", self.goodput, self.best())?;
        let affordable = self.affordable();
        let share = self.goodput / affordable * 100.0;
        writeln!(f, "           {share:.1} % of the {affordable:.1}/s that all those refusals leave time for")?;
        writeln!(
            f,
            "an answer  {:.1} µs of the server's processors; a refusal {:.2} µs",
            self.answer_us, self.refusal_cost_us
        )?;
        let Latency { p50, p99, .. } = self.answer_latency_us;
        writeln!(f, "latency    median {:.1} ms, p99 {:.1} ms of those answered", p50 / 1e3, p99 / 1e3)?;
        writeln!(f, "too late   {} answers, {} expired", self.late, self.expired)?;
        writeln!(f, "refusals   {:?}", self.reasons)?;
        writeln!(
            f,
            "memory     {:.1} MB before the flood, {:.1} MB at most",
            self.resident_mb[0], self.resident_mb[1]
        )?;
        for Promise { name, kept, figure } in &self.promises {
            let word = match kept {
                Some(true) => "kept   ",
                Some(false) => "BROKEN ",
                None => "–      ",
            };
            writeln!(f, "{word} {name}: {figure}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report {
            command: Vec::new(),
            pinned: true,
            factor: 10.0,
            deadline_ms: 500.0,
            peaks: [100.0, 110.0],
            offered: 1000.0,
            goodput: 96.0,
            answer_us: 9000.0,
            refusal_cost_us: 0.0,
            refused: 5,
            refusal_us: Latency { p50: 200.0, ..Latency::default() },
            answer_latency_us: Latency::default(),
            expired: 0,
            late: 0,
            failures: BTreeMap::new(),
            unanswered: 0,
            reasons: BTreeMap::new(),
            run_late: 0.0,
            left_over: Vec::new(),
            resident_mb: [1.0, 2.0],
            promises: Vec::new(),
        }
    }

    fn broken(mut report: Report, counts_only: bool) -> Vec<&'static str> {
        report.judge(counts_only);
        report.promises.iter().filter(|promise| promise.kept == Some(false)).map(|promise| promise.name).collect()
    }

    #[test]
    fn the_best_is_what_refusals_leave() {
        assert_eq!(report().best(), 100.0);
        assert_eq!(Report { refusal_cost_us: 1000.0, ..report() }.best(), 50.0);
        let paid = Report { refusal_cost_us: 1000.0, answer_us: 10_000.0, offered: 500.0, ..report() };
        // 55.6 answers take 0.556 s of the second, and 444.4 refusals the rest.
        assert!((paid.affordable() - 500.0 / 9.0).abs() < 1e-9);
        assert!(broken(report(), false).is_empty());
        let slow = Report { goodput: 94.0, ..report() };
        assert_eq!(broken(slow.clone(), false), ["answers in time, of the best that could be"]);
        assert!(broken(slow, true).is_empty());
    }

    #[test]
    fn counts_are_judged_always() {
        for report in [
            Report { run_late: 1.0, ..report() },
            Report { left_over: vec!["x".to_owned()], ..report() },
            Report { failures: [("HTTP 500".to_owned(), 1)].into(), ..report() },
            Report { refused: 0, ..report() },
        ] {
            assert_eq!(broken(report, true).len(), 1);
        }
    }

    #[test]
    fn figures_are_added_up_by_family_and_label() {
        let metrics = [
            ("a_total{x=\"1\",y=\"2\"}", 1.0),
            ("a_total{x=\"2\"}", 2.0),
            ("a_total_more{x=\"1\"}", 4.0),
            ("a_total", 8.0),
        ];
        let metrics = metrics.map(|(series, value)| (series.to_owned(), value)).into();
        assert_eq!((sum(&metrics, "a_total", ""), sum(&metrics, "a_total", "x=\"1\"")), (11.0, 1.0));
    }
}
