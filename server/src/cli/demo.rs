//! What can be shown without anything of one's own? Models that compete, from the first request to the verdicts; and a release that is on
//! record, from the file to the way back.

pub(in crate::cli) mod chart;
mod compete;
mod data;
mod page;
mod record;
mod report;
mod server;
mod traffic;
mod watched;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Arg, ArgMatches, Command, value_parser};

use super::exit::{Exit, Failure};

const ABOUT: &str = "\
Starts a server with three models that say whether a flight will be late, and replays flights that none of them was trained on, once
each, as live traffic. What became of a flight is told seconds later, a second for a day. By that, a model that was trained on a
hundred times as many flights is to be promoted, and one whose labels were shuffled is to be rolled back. It takes a minute or two
and nothing from outside; docs/demo.md explains what there is to see.

The exit code is 0 where both verdicts were reached, and else 1.";

const ABOUT_RECORD: &str = "\
Starts a server with locks that answers for flights and captures its answers, and makes a release on live traffic by the commands that
people use: a version is pushed, asked for, approved by somebody else, refused where something is missing, a shadow, a canary, in
production, watched, and taken back. After each step it is looked at who answers and what is on the record; at the end the record is
proved, and a byte of a copy is changed to see that it is found. It takes nothing from outside; docs/release.md has the same for a
model of one's own.

The exit code is 0 only where every step held, and else 1.";

const EXAMPLES: &str = "\
Examples:
  tiltyard demo compete
  tiltyard demo compete --report report.html
  tiltyard demo compete --folder flights && tiltyard rollout verify flights/data/state/*/log";

pub(crate) fn command() -> Command {
    let folder = || {
        Arg::new("folder").long("folder").value_name("FOLDER").value_parser(value_parser!(PathBuf)).help(
            "Keep models, server log and record in this folder, which must be new; else they are removed at the end",
        )
    };
    Command::new("demo")
        .about("See models compete, or a release on record: worked examples that need nothing else")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(
            Command::new("compete")
                .about("Have a better and a worse model challenge one on live traffic, and tell who wins and why")
                .long_about(ABOUT)
                .arg(
                    Arg::new("report")
                        .long("report")
                        .value_name("FILE")
                        .value_parser(value_parser!(PathBuf))
                        .help("Write what happened as one HTML page with charts"),
                )
                .arg(folder())
                .after_help(EXAMPLES),
        )
        .subcommand(
            Command::new("record")
                .about("Make a release with approval, shadow, canary, capture, drift and a way back, and look at each step")
                .long_about(ABOUT_RECORD)
                .arg(folder())
                .after_help("Examples:\n  tiltyard demo record\n  tiltyard demo record --folder release && tiltyard audit verify release/data/state/*"),
        )
        .subcommand(server::command())
}

pub(crate) fn run(matches: &ArgMatches) -> Result<ExitCode, Failure> {
    match matches.subcommand() {
        Some(("compete", matches)) => compete::run(matches).map(|()| Exit::Done.into()),
        Some(("record", matches)) => record::run(matches).map(|()| Exit::Done.into()),
        Some((server::NAME, matches)) => server::run(matches),
        _ => Err(Failure::usage("expected a command: `tiltyard demo compete` or `tiltyard demo record`")),
    }
}
