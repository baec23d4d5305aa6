//! Where does the server stand between its limits, everything measured side by side in one run?
//!
//! A section answers one line of the budget. Each starts what it needs, measures in turns, and gives tables, the rounds'
//! figures and plots.

mod host;
mod plot;
mod report;
mod rounds;
mod sections;
mod subjects;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use self::host::Host;
use self::report::{Report, Section};
use self::rounds::Contender;
use self::subjects::{Repository, ServerPlan, Subject};
use crate::Fault;
use crate::arguments::{count, count_of, flag, optional, parse_duration, value};
use crate::model::Lengths;
use crate::payload::Protocol;
use crate::process;
use crate::run::{Load, Pace};

/// The models of `benches/models/make.py`, and how long a stretch of each must be, by that of the small ones.
const MODELS: [(&str, f64); 4] = [("mlp", 1.0), ("gbdt", 1.0), ("minilm", 2.5), ("resnet18", 2.5)];

/// The command line of `compare`.
pub(crate) fn command() -> Command {
    let sections: Vec<&'static str> = sections::ALL.iter().map(|(name, ..)| *name).collect();
    let help: String = sections::ALL.iter().map(|(name, question, _)| format!("\n  {name:<9} {question}")).collect();
    Command::new("compare")
        .about("Measures the server beside its limits, in turns; writes results.json, table.md and plots")
        .after_help(format!("Sections:{help}"))
        .arg(flag("server", "target/release/tiltyard", value_parser!(PathBuf), "The server's program"))
        .arg(optional("against", value_parser!(PathBuf), "Another one, measured beside it: before and after"))
        .arg(flag(
            "tonic-echo",
            "target/tonic/release/tiltyard-tonic-echo",
            value_parser!(PathBuf),
            "The echo on tonic; left out where it is not built",
        ))
        .arg(flag("models", "target/bench-models", value_parser!(PathBuf), "What benches/models/make.py made"))
        .arg(optional("ort-lib", value_parser!(PathBuf), "ONNX Runtime's library for all sides; else each finds it"))
        .arg(
            Arg::new("sections")
                .long("sections")
                .value_delimiter(',')
                .default_value("tiny")
                .value_parser(sections)
                .help("What to measure, with commas between"),
        )
        .arg(
            Arg::new("only")
                .long("only")
                .value_delimiter(',')
                .value_parser(MODELS.map(|(name, _)| name))
                .help("Models to measure, with commas between; all where nothing is said"),
        )
        .arg(
            Arg::new("protocols")
                .long("protocols")
                .value_delimiter(',')
                .default_value("grpc")
                .value_parser(value_parser!(Protocol))
                .help("Protocols of the section models"),
        )
        .arg(count("rounds", "5", "Rounds in turns"))
        .arg(flag("duration", "2s", parse_duration, "Of each stretch; large models take 2.5 times as long"))
        .arg(flag("warmup", "500ms", parse_duration, "Before each stretch"))
        .arg(flag(
            "settle",
            "3s",
            parse_duration,
            "From a server's start to the first stretch, for what it measures in idle time",
        ))
        .arg(count("connections", "64", "HTTP/2 connections, at most one for each request in flight"))
        .arg(count("many", "1000", "Models in the section many"))
        .arg(flag("out", "target/bench", value_parser!(PathBuf), "The folder for what is written"))
        .arg(Arg::new("flags").action(ArgAction::Append).last(true).help("Further flags for the server"))
}

/// Everything the sections go by.
struct Bench {
    /// Servers' names and programs.
    servers: Vec<(&'static str, PathBuf)>,
    tonic_echo: Option<PathBuf>,
    models: PathBuf,
    ort_lib: Option<PathBuf>,
    /// Of [`MODELS`], those to measure.
    only: Vec<(&'static str, f64)>,
    protocols: Vec<Protocol>,
    rounds: usize,
    duration: Duration,
    warmup: Duration,
    settle: Duration,
    connections: usize,
    many: usize,
    out: PathBuf,
    flags: Vec<String>,
}

/// A stretch of load, short: what differs from stretch to stretch.
struct Ask<'a> {
    /// The model's name on the wire, with its form where the name does not tell.
    model: &'a str,
    protocol: Protocol,
    pace: Pace,
    lengths: Lengths,
    /// How much longer than the shortest stretch.
    longer: f64,
}

impl<'a> Ask<'a> {
    /// So many requests at a time, of one row, with texts of 32 tokens.
    fn closed(model: &'a str, protocol: Protocol, concurrency: usize) -> Ask<'a> {
        let lengths = Lengths { shortest: 32, longest: 32 };
        Ask { model, protocol, pace: Pace::Closed { concurrency }, lengths, longer: 1.0 }
    }
}

impl Bench {
    fn read(matches: &ArgMatches) -> Result<Bench, Fault> {
        let chosen: Option<Vec<&String>> = matches.get_many("only").map(Iterator::collect);
        let is_chosen = |name: &str| chosen.as_ref().is_none_or(|chosen| chosen.iter().any(|one| *one == name));
        let against = matches.get_one::<PathBuf>("against").map(|path| ("against", path.clone()));
        let tonic_echo: PathBuf = value(matches, "tonic-echo")?;
        let mut flags: Vec<String> =
            matches.get_many("flags").map(|flags| flags.cloned().collect()).unwrap_or_default();
        let ort_lib: Option<PathBuf> = matches.get_one("ort-lib").cloned();
        if let Some(library) = &ort_lib {
            flags.extend(["--ort-lib".to_owned(), library.display().to_string()]);
        }
        Ok(Bench {
            servers: [("server", value(matches, "server")?)].into_iter().chain(against).collect(),
            tonic_echo: tonic_echo.exists().then_some(tonic_echo),
            models: value(matches, "models")?,
            ort_lib,
            only: MODELS.into_iter().filter(|(name, _)| is_chosen(name)).collect(),
            protocols: matches.get_many("protocols").map(|all| all.copied().collect()).unwrap_or_default(),
            rounds: count_of(matches, "rounds")?,
            duration: value(matches, "duration")?,
            warmup: value(matches, "warmup")?,
            settle: value(matches, "settle")?,
            connections: count_of(matches, "connections")?,
            many: count_of(matches, "many")?,
            out: value(matches, "out")?,
            flags,
        })
    }

    /// A folder of this section's own.
    fn folder(&self, name: &str) -> PathBuf {
        self.out.join("work").join(name)
    }

    /// Starts all servers on a repository, and lets them measure what they measure in idle time.
    fn start_all(&self, repository: &Repository) -> Result<Vec<Subject>, Fault> {
        self.start_some(repository, self.servers.len())
    }

    /// As [`Bench::start_all`], the first so many.
    fn start_some(&self, repository: &Repository, count: usize) -> Result<Vec<Subject>, Fault> {
        let start = |(name, binary): &(&'static str, PathBuf)| self.start(name, binary, repository);
        let started = self.servers.iter().take(count).map(start).collect::<Result<Vec<_>, _>>()?;
        std::thread::sleep(self.settle);
        Ok(started)
    }

    fn start(&self, name: &str, binary: &Path, repository: &Repository) -> Result<Subject, Fault> {
        subjects::server(&ServerPlan {
            name,
            binary,
            models: &repository.folder,
            wanted: &repository.names,
            folder: &self.folder(&format!("process-{name}")),
            flags: &self.flags,
        })
    }

    /// What one subject is asked.
    fn contender(&self, subject: &Subject, case: impl Into<String>, ask: &Ask<'_>) -> Result<Contender, Fault> {
        let load = Load {
            address: subject.address(ask.protocol),
            protocol: ask.protocol,
            models: vec![ask.model.parse()?],
            rows: 1,
            lengths: ask.lengths,
            connections: self.connections,
            pace: ask.pace,
            warmup: self.warmup.mul_f64(ask.longer),
            duration: self.duration.mul_f64(ask.longer),
            server_pid: Some(subject.pid()),
            seed: 1,
            bound: None,
            deadline: None,
            key: None,
            verify: false,
        };
        Ok(Contender { subject: subject.name.clone(), case: case.into(), load })
    }
}

/// Runs `compare`.
pub(crate) fn main(matches: &ArgMatches) -> Result<(), Fault> {
    let bench = Bench::read(matches)?;
    let chosen: Vec<String> = matches.get_many("sections").ok_or("--sections is missing")?.cloned().collect();
    fs::create_dir_all(&bench.out)?;
    let mut report =
        Report { host: Host::look(), command: std::env::args().collect(), rounds: bench.rounds, sections: Vec::new() };
    for (name, _, measure) in sections::ALL.iter().filter(|(name, ..)| chosen.iter().any(|one| one == name)) {
        let before = process::load_average();
        let mut section = measure(&bench).map_err(|fault| format!("section {name}: {fault}"))?;
        section.name = name;
        section.load_average = (before, process::load_average());
        for plot in &section.plots {
            fs::write(bench.out.join(format!("{}.svg", plot.name)), plot.svg())?;
        }
        report.sections.push(section);
        // After each section, so that what was measured is kept when a later one fails.
        fs::write(bench.out.join("results.json"), serde_json::to_string_pretty(&report)?)?;
        fs::write(bench.out.join("table.md"), report.markdown())?;
    }
    println!("{}", report.markdown());
    Ok(())
}

/// The figures of a section, its tables still to be made.
fn section_of(outcomes: Vec<rounds::Outcome>) -> Section {
    Section { outcomes, ..Section::default() }
}
