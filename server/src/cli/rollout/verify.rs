//! Does a log prove the verdicts in it? No server is asked: the log is all that is needed.

use std::path::{Path, PathBuf};

use clap::{Arg, ArgMatches, Command, value_parser};
use serde_json::{Value, json};
use tiltyard_registry::{Break, Entries, Error, Head};

use crate::cli::exit::Failure;
use crate::cli::output::{self, Form, Table};
use crate::rollouts::record::Rollouts;

const EXAMPLES: &str = "\
Every byte of the log is checked, and every verdict is computed again from the plan and the evidence before it: it must be
the same to the last digit. Ends with 1 if anything differs, and says where. `rollout/verify.py` does the same without any
code of Tiltyard's, to ten digits or so.

Examples:
  tiltyard rollout verify log
  tiltyard rollout verify 00000000000000000001.jsonl
  tiltyard rollout verify log --output json";

pub(super) fn command() -> Command {
    Command::new("verify")
        .about("Prove a log: that nobody changed it, and that its verdicts follow from its evidence")
        .arg(
            Arg::new("path")
                .value_name("FILE|DIR")
                .required(true)
                .value_parser(value_parser!(PathBuf))
                .help("The folder of a log, or a file with entries of one"),
        )
        .after_help(EXAMPLES)
}

pub(super) fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let path = matches.get_one::<PathBuf>("path").cloned().unwrap_or_default();
    let found = Found::read(&path)?;
    match Form::of(matches) {
        Form::Json => output::print_json(&found.form())?,
        Form::Table => output::print(&found.listing())?,
    }
    match (found.fault, Form::of(matches)) {
        (None, _) => Ok(()),
        (Some(_), Form::Json) => Err(Failure::told()),
        (Some(fault), Form::Table) => Err(Failure::failed(fault.message)),
    }
}

/// What a log proves.
#[derive(Debug)]
struct Found {
    rollouts: Rollouts,
    entries: u64,
    /// The last entry that was proved.
    head: Head,
    unfinished_bytes: u64,
    fault: Option<Fault>,
}

/// The first thing that is wrong.
#[derive(Debug)]
struct Fault {
    message: String,
    place: Option<Break>,
}

impl Found {
    /// Reads all of a log, or up to the first fault. Fails where there is none to read.
    fn read(path: &Path) -> Result<Found, Failure> {
        let missing = || {
            Failure::failed(format!(
                "there is no log in {}: expected segments such as 00000000000000000001.jsonl",
                path.display()
            ))
        };
        let opened = if path.is_dir() { Entries::open(path, 1) } else { Entries::of_file(path) };
        let mut log = opened.map_err(|error| Failure::failed(error.to_string()))?;
        let (rollouts, head) = (Rollouts::default(), Head::START);
        let mut found = Found { rollouts, entries: 0, head, unfinished_bytes: 0, fault: None };
        for entry in log.by_ref() {
            match entry {
                Ok(entry) => {
                    if let Err(error) = found.rollouts.take(&entry) {
                        found.fault = Some(Fault { message: error.to_string(), place: None });
                        return Ok(found);
                    }
                    found.entries += 1;
                    found.head = entry.head();
                }
                Err(error) => {
                    let message = error.to_string();
                    let place = if let Error::Broken(place) = error { Some(place) } else { None };
                    found.fault = Some(Fault { message, place });
                    return Ok(found);
                }
            }
        }
        found.unfinished_bytes = log.unfinished();
        if found.entries == 0 && found.unfinished_bytes == 0 { Err(missing()) } else { Ok(found) }
    }

    fn form(&self) -> Value {
        let rollouts = self.rollouts.iter().map(|(id, rollout)| {
            let plan = rollout.judge.plan();
            json!({
                "rollout": id,
                "endpoint": plan.endpoint,
                "revision": plan.revision,
                "plan_digest": plan.digest().to_string(),
                "state": rollout.judge.state().to_string(),
                "share": rollout.judge.share(),
                "verdicts": rollout.events,
            })
        });
        let fault = self.fault.as_ref().map(|Fault { message, place }| {
            let place = place.as_ref().map(|at| json!({"segment": at.segment, "line": at.line, "byte": at.byte}));
            json!({ "message": message, "place": place })
        });
        json!({
            "entries": self.entries,
            "head": self.head,
            "unfinished_bytes": self.unfinished_bytes,
            "rollouts": rollouts.collect::<Vec<_>>(),
            "fault": fault,
        })
    }

    fn listing(&self) -> String {
        let mut listing = String::new();
        let mut verdicts = 0;
        let mut table = Table::new(["rollout", "endpoint", "revision", "state", "verdicts"]);
        for (id, rollout) in self.rollouts.iter() {
            let plan = rollout.judge.plan();
            verdicts += rollout.events;
            table.add([
                id.to_owned(),
                plan.endpoint.clone(),
                plan.revision.to_string(),
                rollout.judge.state().to_string(),
                rollout.events.to_string(),
            ]);
        }
        if self.rollouts.iter().next().is_some() {
            listing += &table.to_string();
        }
        let Head { sequence, hash } = self.head;
        let entries = self.entries;
        listing +=
            &format!("{entries} entries and {verdicts} verdicts are proved, to entry {sequence}, hash {hash}.\n");
        if self.unfinished_bytes > 0 {
            let bytes = self.unfinished_bytes;
            listing += &format!("{bytes} bytes of an entry that was never finished follow: nobody was promised it.\n");
        }
        listing
    }
}

#[cfg(test)]
mod tests;
