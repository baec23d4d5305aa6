//! How is one person's data destroyed, and nothing else's?

use clap::{Arg, ArgMatches, Command};
use serde_json::json;
use tiltyard_capture::{Capture, Error, Keys, Limits};

use crate::capture::{folder, master_key};
use crate::cli::exit::Failure;
use crate::cli::output::{self, Form};
use crate::cli::settings;
use crate::clock;

const EXAMPLES: &str = "\
The subject's key is written over with zeros: its rows cannot be read any more by anybody, all others can, and `tiltyard capture
verify` still passes. That cannot be undone. A server may go on capturing meanwhile; rows of requests that it accepted before and
that are in no segment yet are erased too. The manifest gets a line that it happened, which does not say who it was.

Examples:
  tiltyard capture erase --key customer-4711 --capture-key-file /etc/tiltyard/master.key
  tiltyard capture erase --key customer-4711 --endpoint risk --capture-dir /var/lib/record --capture-key-file master.key";

pub(super) fn command() -> Command {
    Command::new("erase")
        .about("Destroy the key that a subject's rows are encrypted under")
        .arg(
            Arg::new("key")
                .long("key")
                .value_name("SUBJECT")
                .required(true)
                .help("Who: what the header or input said that the endpoint's rules name as subject"),
        )
        .arg(
            Arg::new("endpoint")
                .long("endpoint")
                .value_name("NAME")
                .help("Only rows of this endpoint [default: of all]"),
        )
        .args(settings::flags(&["data_dir", "capture_dir", "capture_key_file", "config"]))
        .after_help(EXAMPLES)
}

pub(super) fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let loaded = settings::load(matches)?;
    settings::warn(&loaded);
    let config = &loaded.config;
    let folder = folder(config);
    let failed = |error: Error| Failure::failed(error.to_string());
    let Some(path) = &config.capture_key_file else {
        return Err(Failure::usage("the master key's file is needed: --capture-key-file, as the server has it"));
    };
    let master = master_key(path).map_err(Failure::usage)?;
    if !folder.join("keys").exists() {
        return Err(Failure::failed(format!(
            "{}: nothing was encrypted here: there is no file of keys",
            folder.display()
        )));
    }
    let mut keys = Keys::open(&folder, &master).map_err(failed)?;
    let subject = matches.get_one::<String>("key").map(String::as_str).unwrap_or_default();
    let endpoint = matches.get_one::<String>("endpoint").map(String::as_str);
    let erased = keys.erase(subject, endpoint, clock::unix_ms()).map_err(failed)?;
    drop(keys);
    // Where a server has the folder it writes the line with its next segment; else that is done here.
    let limits = Limits { ring_bytes: config.capture_ring_bytes as u64, ..Limits::default() };
    let is_recorded = match Capture::open_with(&folder, &limits, Some(&master)) {
        Ok(capture) => capture.flush(clock::unix_ns() / 1_000).map(|_| true),
        Err(Error::Held(_)) => Ok(false),
        Err(error) => Err(error),
    };
    let is_recorded =
        is_recorded.map_err(|error| Failure::failed(format!("erased, and not yet on the record: {error}")))?;
    match Form::of(matches) {
        Form::Json => output::print_json(&json!({
            "keys": erased.keys, "commitment": erased.commitment, "erased_ms": erased.erased_ms, "recorded": is_recorded,
        })),
        Form::Table => {
            let recorded = match is_recorded {
                true => "It is on the record",
                false => "The server that captures here puts it on the record with its next segment",
            };
            let keys = match erased.keys {
                0 => {
                    "No key of it is there; rows that were accepted before now and are in no segment yet are erased all the same"
                        .to_owned()
                }
                keys => format!("{keys} keys were destroyed"),
            };
            output::print(&format!("{keys}. {recorded}, as {}.\n", erased.commitment))
        }
    }
}
