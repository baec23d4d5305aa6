//! Is what was captured still what was written, how is it read by those who have the keys, and how is a person's part destroyed?

mod erase;
mod export;
pub(super) mod source;

use clap::{ArgMatches, Command};
use serde_json::json;
use tiltyard_capture::{Verified, verify};

use super::exit::{Exit, Failure};
use super::output::{self, Form};
use super::settings;
use crate::capture::folder;

pub(crate) fn command() -> Command {
    let verify = Command::new("verify")
        .about("Check every segment, byte by byte, against the manifest, and the manifest's chain")
        .args(settings::flags(&["data_dir", "capture_dir", "config"]))
        .after_help(
            "A server may go on capturing meanwhile. The exit code is 1 where anything is wrong.\n\n\
             Examples:\n  tiltyard capture verify\n  tiltyard capture verify --capture-dir /var/lib/record --output json",
        );
    Command::new("capture")
        .about("Look after requests and answers that were put on record (serve --capture on)")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(verify)
        .subcommand(erase::command())
        .subcommand(export::export_command())
        .subcommand(export::read_command())
}

pub(crate) fn run(matches: &ArgMatches) -> Result<Exit, Failure> {
    let done = |()| Exit::Done;
    match matches.subcommand() {
        Some(("verify", matches)) => check(matches),
        Some(("erase", matches)) => erase::run(matches).map(done),
        Some(("export", matches)) => export::export(matches).map(done),
        Some(("read", matches)) => export::read(matches).map(done),
        _ => Err(Failure::usage("expected `tiltyard capture verify`, erase, export or read")),
    }
}

fn check(matches: &ArgMatches) -> Result<Exit, Failure> {
    let loaded = settings::load(matches)?;
    settings::warn(&loaded);
    let folder = folder(&loaded.config);
    let found = verify(&folder).map_err(|error| Failure::failed(error.to_string()))?;
    let Verified { whole, rows, removed, faults } = &found;
    match Form::of(matches) {
        Form::Json => output::print_json(&json!({
            "folder": folder.display().to_string(), "segments": whole, "rows": rows, "removed": removed, "faults": faults,
        }))?,
        Form::Table => output::print(&told(&found))?,
    }
    Ok(if faults.is_empty() { Exit::Done } else { Exit::Failed })
}

fn told(Verified { whole, rows, removed, faults }: &Verified) -> String {
    let mut text =
        format!("{whole} segments with {rows} rows are what was written; {removed} were removed by age or room.\n");
    faults.iter().for_each(|fault| text.push_str(&format!("WRONG: {fault}\n")));
    text
}
