//! Does anybody notice when versions change, ten thousand times, under load?
//!
//! The soak starts a server on a folder of its own, sends mixed traffic, changes what is served by every way that people
//! use, and holds each answer against what it may be. Each promise is one line with its figure; one that is broken
//! fails the command.

mod asked;
mod changes;
mod figures;
mod report;
mod repository;
mod slow;
mod stream;
mod traffic;
mod truth;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use self::changes::Changes;
use self::report::Report;
use self::repository::{Content, Repository, Way};
use self::traffic::{Shared, Traffic};
use crate::Fault;
use crate::arguments::{count, count_of, flag, parse_duration, value};
use crate::server::{Holdings, Server};
use crate::template::STAMP_MAX;

/// The model whose versions change, and the one beside it, which stays as it is.
const SOAK: &str = "soak";
const BESIDE: &str = "beside";

/// The stamp of the model beside.
const BESIDE_STAMP: u32 = 77;

/// Swaps between two bad versions that must be refused.
const REFUSE_EVERY: usize = 25;

/// How long the server may take, after the last request, to let go of what it held.
const LET_GO_TIMEOUT: Duration = Duration::from_secs(30);

/// How long nothing may change until it is taken to be at rest.
const REST: Duration = Duration::from_secs(3);

/// Of a run, how many looks at the cost of a route are taken.
const ROUTE_LOOKS: usize = 100;

/// The command line of `soak`.
pub(crate) fn command() -> Command {
    Command::new("soak")
        .about("Changes versions and settings under mixed load, again and again, and says whether anybody noticed")
        .arg(flag("server", "target/release/tiltyard", value_parser!(PathBuf), "The server's program"))
        .arg(count("swaps", "10000", "Versions that are swapped"))
        .arg(flag("config-changes", "1000", value_parser!(u32), "Changes of the model's settings, spread between them"))
        .arg(count("warm-up", "50", "Swaps before anything is measured; what goes wrong there counts"))
        .arg(flag("rate", "400", value_parser!(f64), "Requests per second, over all kinds of clients"))
        .arg(flag("pause", "200ms", parse_duration, "Between two changes"))
        .arg(flag("margin", "50ms", parse_duration, "How long after a change its window ends"))
        .arg(count("minutes-max", "90", "When to give up; what is not done then is told as broken"))
        .arg(flag("seed", "1", value_parser!(u64), "What chance follows from"))
        .arg(
            Arg::new("counts-only")
                .long("counts-only")
                .action(ArgAction::SetTrue)
                .help("Judge counts alone and no times and slopes: for short runs, and machines that others use too"),
        )
        .arg(flag("out", "target/soak", value_parser!(PathBuf), "The folder for all that is made; emptied first"))
        .arg(Arg::new("flags").action(ArgAction::Append).last(true).help("Further flags for the server"))
}

/// What a run is asked for.
struct Plan {
    binary: PathBuf,
    swaps: usize,
    settings: usize,
    warm_up: usize,
    rate: f64,
    pause: Duration,
    margin: Duration,
    time_max: Duration,
    seed: u64,
    counts_only: bool,
    out: PathBuf,
    flags: Vec<String>,
}

impl Plan {
    fn read(matches: &ArgMatches) -> Result<Plan, Fault> {
        let plan = Plan {
            binary: value(matches, "server")?,
            swaps: count_of(matches, "swaps")?,
            settings: count_of(matches, "config-changes")?,
            warm_up: count_of(matches, "warm-up")?,
            rate: value(matches, "rate")?,
            pause: value(matches, "pause")?,
            margin: value(matches, "margin")?,
            time_max: Duration::from_secs(60 * count_of(matches, "minutes-max")? as u64),
            seed: value(matches, "seed")?,
            counts_only: matches.get_flag("counts-only"),
            out: value(matches, "out")?,
            flags: matches.get_many("flags").map(|flags| flags.cloned().collect()).unwrap_or_default(),
        };
        if !(plan.rate > 0.0 && plan.rate <= 1e5) {
            return Err(format!("--rate {}: expected requests per second above 0, at most 100000", plan.rate).into());
        }
        // Bad versions have stamps, too.
        match plan.swaps + plan.warm_up <= STAMP_MAX as usize / 2 {
            true => Ok(plan),
            false => Err(format!("--swaps {}: expected at most {}", plan.swaps, STAMP_MAX / 2).into()),
        }
    }
}

/// Runs `soak`.
pub(crate) fn main(matches: &ArgMatches) -> Result<(), Fault> {
    let plan = Plan::read(matches)?;
    if plan.out.exists() {
        // Only what an earlier run made is deleted, whatever the flag names.
        let ours = plan.out.join("soak.json").exists() || plan.out.join("work").exists();
        if !ours && fs::read_dir(&plan.out)?.next().is_some() {
            return Err(format!("--out {}: it holds what no soak has made", plan.out.display()).into());
        }
        fs::remove_dir_all(&plan.out)?;
    }
    fs::create_dir_all(plan.out.join("work"))?;
    let report = soak(&plan)?;
    println!("{report}");
    fs::write(plan.out.join("soak.json"), serde_json::to_string_pretty(&report)? + "\n")?;
    match report.broken() {
        0 => Ok(()),
        broken => {
            Err(format!("{broken} promises are broken; the server's log is {}", plan.out.join("log").display()).into())
        }
    }
}

fn soak(plan: &Plan) -> Result<Report, Fault> {
    let mut files = Repository::new(&plan.out.join("work"))?;
    for version in [1, 2] {
        files.place(Way::Rename, version, Content { stamp: version as u32, good: true })?;
    }
    let server = Server::start(&plan.binary, &files.root(), &plan.out, &plan.flags)?;
    let shared = Arc::new(Shared::new(server.http, server.grpc));
    let began = Instant::now();
    let mut changes = Changes::new(&shared, &server, files, Way::usable());

    let traffic = Traffic::start(&shared, plan.rate, plan.seed, true)?;
    run(plan, &mut changes, plan.warm_up, plan.warm_up.div_ceil(10), began)?;
    traffic.stop()?;
    changes.level()?;
    let before = at_rest(&server)?;
    eprintln!("soak: warm after {:.0} s; the server holds {before:?}", began.elapsed().as_secs_f64());
    shared.notes().samples.clear();
    changes.begin_measuring();

    let traffic = Traffic::start(&shared, plan.rate, plan.seed + 1, true)?;
    let done = run(plan, &mut changes, plan.swaps, plan.settings, began)?;
    traffic.stop()?;
    changes.level()?;
    let after = let_go(&server, &before)?;
    let metrics = server.metrics()?;
    let files_kept = server.files_kept();
    let found = report::Found { done, took: began.elapsed(), before, after, metrics, files_kept };
    let mut report = Report::new(plan, &shared.notes(), &changes, &found);
    drop(changes);
    let status = server.stop()?;
    report.note_end(status.code());
    Ok(report)
}

/// What became of a run's changes.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub(crate) struct Done {
    swaps: usize,
    settings: usize,
    refused: usize,
}

/// So many swaps, with changes of the settings and bad versions spread between them.
fn run(plan: &Plan, changes: &mut Changes<'_>, swaps: usize, settings: usize, began: Instant) -> Result<Done, Fault> {
    let mut done = Done::default();
    let route_every = (swaps / ROUTE_LOOKS).max(1);
    for swap in 0..swaps {
        if began.elapsed() > plan.time_max {
            break;
        }
        changes.swap()?;
        done.swaps += 1;
        std::thread::sleep(plan.pause);
        while done.settings * swaps < settings * (swap + 1) {
            changes.configure()?;
            done.settings += 1;
            std::thread::sleep(plan.pause);
        }
        if swap % REFUSE_EVERY == REFUSE_EVERY / 2 {
            changes.refuse()?;
            done.refused += 1;
            std::thread::sleep(plan.pause);
        }
        if swap % route_every == 0 {
            changes.note_route()?;
        }
        if (swap + 1) % 500 == 0 {
            eprintln!("soak: {} of {swaps} swaps after {:.0} s", swap + 1, began.elapsed().as_secs_f64());
        }
    }
    Ok(done)
}

/// What the server holds, once it has not changed for a while.
fn at_rest(server: &Server) -> Result<Holdings, Fault> {
    let began = Instant::now();
    let mut holdings = server.holdings()?;
    let mut since = Instant::now();
    while since.elapsed() < REST && began.elapsed() < LET_GO_TIMEOUT {
        std::thread::sleep(Duration::from_millis(100));
        let now = server.holdings()?;
        if now != holdings {
            holdings = now;
            since = Instant::now();
        }
    }
    Ok(holdings)
}

/// What the server holds once it is what it was, or when that has taken too long.
fn let_go(server: &Server, before: &Holdings) -> Result<Holdings, Fault> {
    let began = Instant::now();
    loop {
        let now = server.holdings()?;
        if now == *before || began.elapsed() > LET_GO_TIMEOUT {
            return Ok(now);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
