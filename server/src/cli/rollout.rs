//! What is asked of rollouts on the command line?

mod assign;
mod plan;
mod verify;

use clap::{ArgMatches, Command};

use super::exit::Failure;

pub(crate) fn command() -> Command {
    Command::new("rollout")
        .about("Plan how versions compete, and prove how they did")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(assign::command())
        .subcommand(plan::command())
        .subcommand(verify::command())
}

pub(crate) fn run(matches: &ArgMatches) -> Result<(), Failure> {
    match matches.subcommand() {
        Some(("assign", matches)) => assign::run(matches),
        Some(("plan", matches)) => plan::run(matches),
        Some(("verify", matches)) => verify::run(matches),
        _ => Err(Failure::usage("expected `tiltyard rollout assign`, `plan` or `verify`")),
    }
}
