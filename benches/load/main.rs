//! What does the server cost beside its limits: in-process ONNX Runtime for the models, bare echoes for the front end?
//!
//! One program for all sides of the comparison, each its own process: `echo` and `limit` are the limits, `run` is the
//! load, `compare` starts the others and measures them in turns. `soak` asks whether anybody notices when versions
//! change, `crowd` whether thousands of idle and slow clients cost the others, `overload` what a server does of ten times
//! what it can, `beside` whether loading one model disturbs another.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool answers on its standard output")]

mod arguments;
mod beside;
mod client;
mod compare;
mod crowd;
mod echo;
mod limit;
mod model;
mod overload;
mod payload;
mod process;
mod random;
mod run;
mod schedule;
mod server;
mod soak;
mod summary;
mod template;
mod verify;

use std::process::ExitCode;

use clap::Command;

/// The server's own allocator: an echo with another one would be another limit.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Whatever ends a command early, in words for the person at the terminal.
type Fault = Box<dyn std::error::Error + Send + Sync>;

fn command() -> Command {
    Command::new("tiltyard-load")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Load for an inference server on this machine, and the limits to hold it against")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(run::command())
        .subcommand(echo::command())
        .subcommand(limit::command())
        .subcommand(compare::command())
        .subcommand(soak::command())
        .subcommand(crowd::command())
        .subcommand(overload::command())
        .subcommand(beside::command())
}

fn main() -> ExitCode {
    let matches = command().get_matches();
    let done = match matches.subcommand() {
        Some(("run", matches)) => run::main(matches),
        Some(("echo", matches)) => echo::main(matches),
        Some(("limit", matches)) => limit::main(matches),
        Some(("compare", matches)) => compare::main(matches),
        Some(("soak", matches)) => soak::main(matches),
        Some(("crowd", matches)) => crowd::main(matches),
        Some(("overload", matches)) => overload::main(matches),
        Some(("beside", matches)) => beside::main(matches),
        _ => Err("there is no such command".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("tiltyard-load: {fault}");
            ExitCode::FAILURE
        }
    }
}
