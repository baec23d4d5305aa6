//! What is asked of rollouts on the command line?

mod assign;
mod plan;
mod start;
pub(super) mod status;
mod tell;
mod verify;

use clap::{ArgMatches, Command};

use super::exit::Failure;

pub(super) use self::start::read_steps;

pub(crate) fn command() -> Command {
    Command::new("rollout")
        .about("Have versions compete, see how they do, and prove how they did")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(start::command())
        .subcommand(status::command())
        .subcommands(tell::commands())
        .subcommand(assign::command())
        .subcommand(plan::command())
        .subcommand(verify::command())
}

pub(crate) fn run(matches: &ArgMatches) -> Result<(), Failure> {
    match matches.subcommand() {
        Some(("start", matches)) => start::run(matches),
        Some(("status", matches)) => status::run(matches),
        Some(("assign", matches)) => assign::run(matches),
        Some(("plan", matches)) => plan::run(matches),
        Some(("verify", matches)) => verify::run(matches),
        Some((command, matches)) => tell::run(command, matches),
        None => Err(Failure::usage("expected a command, such as `tiltyard rollout status`")),
    }
}
