//! What can be shown without anything of one's own? Models that compete, from the first request to the verdicts.

mod chart;
mod compete;
mod data;
mod page;
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

const EXAMPLES: &str = "\
Examples:
  tiltyard demo compete
  tiltyard demo compete --report report.html
  tiltyard demo compete --folder flights && tiltyard rollout verify flights/data/state/*/log";

pub(crate) fn command() -> Command {
    Command::new("demo")
        .about("See models compete: a worked example that needs nothing else")
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
                .arg(
                    Arg::new("folder")
                        .long("folder")
                        .value_name("FOLDER")
                        .value_parser(value_parser!(PathBuf))
                        .help("Keep models, server log and record in this folder, which must be new; else they are removed at the end"),
                )
                .after_help(EXAMPLES),
        )
        .subcommand(server::command())
}

pub(crate) fn run(matches: &ArgMatches) -> Result<ExitCode, Failure> {
    match matches.subcommand() {
        Some(("compete", matches)) => compete::run(matches).map(|()| Exit::Done.into()),
        Some((server::NAME, matches)) => server::run(matches),
        _ => Err(Failure::usage("expected a command: `tiltyard demo compete`")),
    }
}
