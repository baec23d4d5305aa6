//! How does somebody prove what is on the record, or that nobody changed it?
//!
//! A server that runs signs, proves and exports; whoever checks needs no server, and not this program either: `docs/audit.md`.

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgMatches, Command, value_parser};
use serde_json::{Value, json};
use tiltyard_registry::audit::{Checkpoint, Proof, PublicKey, verify, verify_export};
use tiltyard_registry::book::Book;
use tiltyard_registry::{Entries, Error};

use super::credentials::Credentials;
use super::exit::Failure;
use super::output::{self, Form};
use super::status::address;
use super::target::{Http, Named, admin_flag, ask, server_flags};

pub(crate) fn command() -> Command {
    let with_server = |command: Command| command.args(server_flags()).arg(admin_flag());
    let key = || {
        Arg::new("key").long("key").value_name("FILE").value_parser(value_parser!(PathBuf)).help(
            "The server's public key, as it was kept elsewhere; else the one that is there is believed, which proves less",
        )
    };
    let verify =
        Command::new("verify")
            .about("Check every byte of the record against what was signed: its folder, an export, or a proof's file")
            .arg(
                Arg::new("path").value_name("PATH").required(true).value_parser(value_parser!(PathBuf)).help(
                    "<data dir>/state/<repository>, a folder that `audit export` wrote, or a file of `audit prove`",
                ),
            )
            .arg(key())
            .arg(
                Arg::new("checkpoint")
                    .long("checkpoint")
                    .value_name("FILE")
                    .value_parser(value_parser!(PathBuf))
                    .help("A checkpoint that was kept elsewhere: the record must still be what it was then, and more"),
            );
    let prove =
        Command::new("prove").about("Prove that an entry is on the record, in a file that needs nothing else").arg(
            Arg::new("sequence")
                .value_name("ENTRY")
                .required(true)
                .value_parser(value_parser!(u64))
                .help("Its sequence, as `history` and `show` tell it"),
        );
    let export = Command::new("export")
        .about("Have the server write the record, or a part, to a folder of its machine, with what proves it")
        .arg(
            Arg::new("folder")
                .value_name("FOLDER")
                .required(true)
                .value_parser(value_parser!(PathBuf))
                .help("A folder that is empty or not there"),
        )
        .arg(Arg::new("from").long("from").value_name("ENTRY").value_parser(value_parser!(u64)).help("The first"))
        .arg(Arg::new("until").long("until").value_name("ENTRY").value_parser(value_parser!(u64)).help("The last"));
    let checkpoint = Command::new("checkpoint")
        .about("Have everything signed that is on the record, and print that: keep it elsewhere, and nothing can be taken away unseen");
    Command::new("audit")
        .about("Prove what is on the record, and that nobody changed it")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(verify)
        .subcommands([prove, export, checkpoint].map(with_server))
        .after_help("Examples:\n  tiltyard audit checkpoint > kept.txt\n  tiltyard audit verify ~/.local/share/tiltyard/state/0a1b… --checkpoint kept.txt --key audit.pub\n  tiltyard audit prove 42 > entry-42.json && tiltyard audit verify entry-42.json")
}

pub(crate) fn run(matches: &ArgMatches) -> Result<(), Failure> {
    match matches.subcommand() {
        Some(("verify", matches)) => check(matches),
        Some(("prove", matches)) => {
            let sequence = matches.get_one::<u64>("sequence").copied().unwrap_or(0);
            output::print_json(&asked(matches, "GET", &format!("proof/{sequence}"), &Value::Null)?)
        }
        Some(("export", matches)) => {
            let folder = matches.get_one::<PathBuf>("folder").cloned().unwrap_or_default();
            let folder = std::path::absolute(&folder).unwrap_or(folder);
            let number = |name: &str| matches.get_one::<u64>(name);
            let body = json!({ "to": folder, "from": number("from"), "until": number("until") });
            let answer = asked(matches, "POST", "export", &body)?;
            match Form::of(matches) {
                Form::Json => output::print_json(&answer),
                Form::Table => output::print(&format!(
                    "Entries {} to {} are in {}.\n",
                    answer["from"],
                    answer["until"],
                    folder.display()
                )),
            }
        }
        Some(("checkpoint", matches)) => {
            let answer = asked(matches, "POST", "checkpoint", &Value::Null)?;
            match Form::of(matches) {
                Form::Json => output::print_json(&answer),
                Form::Table => output::print(answer["checkpoint"].as_str().unwrap_or_default()),
            }
        }
        _ => Err(Failure::usage("expected verify, prove, export or checkpoint")),
    }
}

fn asked(matches: &ArgMatches, method: &str, what: &str, body: &Value) -> Result<Value, Failure> {
    let http = Http::new(address(&Named::of(matches)?)?, &Credentials::of(matches)?)?;
    let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    let answer = ask(&http, method, &format!("/admin/registry/audit/{what}"), body)?;
    serde_json::from_slice(&answer)
        .map_err(|_| Failure::failed("the admin port does not answer as a Tiltyard server does"))
}

fn check(matches: &ArgMatches) -> Result<(), Failure> {
    let path = matches.get_one::<PathBuf>("path").cloned().unwrap_or_default();
    let failed = |error: Error| Failure::failed(error.to_string());
    let key = matches.get_one::<PathBuf>("key").map(|path| PublicKey::read(path)).transpose().map_err(failed)?;
    let is_trusted = key.is_some();
    let kept = matches.get_one::<PathBuf>("checkpoint");
    if kept.is_some() && (path.is_file() || path.join("export.json").exists()) {
        return Err(Failure::usage(
            "--checkpoint is held against a whole log: expected a server's folder, and not an export or a proof",
        ));
    }
    let found = if path.is_file() {
        of_proof(&path, key.as_ref()).map_err(failed)?
    } else if path.join("export.json").exists() {
        let exported = verify_export(&path, key.as_ref()).map_err(failed)?;
        json!({ "from": exported.from, "until": exported.to, "signed_at_ms": exported.checkpoint.time_ms })
    } else {
        of_folder(&path, key, kept)?
    };
    if Form::of(matches) == Form::Json {
        return output::print_json(&found);
    }
    let doubt = match is_trusted {
        true => "",
        false => "The key that was there is believed: give --key with the one that was kept elsewhere.\n",
    };
    output::print(&format!("{}{doubt}", told(&found)))
}

/// What was found, for people.
fn told(found: &Value) -> String {
    if let Some(sequence) = found["sequence"].as_u64() {
        return format!(
            "Entry {sequence}, {}, is on the record under a signed checkpoint of {} entries.\n",
            found["kind"], found["signed"]
        );
    }
    if found["until"].is_u64() {
        return format!("Entries {} to {} are as they were signed.\n", found["from"], found["until"]);
    }
    format!(
        "{} entries are as they were written, {} of them under {} signed checkpoints.\n",
        found["head"]["sequence"], found["signed"], found["checkpoints"]
    )
}

fn of_proof(path: &Path, key: Option<&PublicKey>) -> Result<Value, Error> {
    let (entry, checkpoint, _) = Proof::read(path)?.verify(key)?;
    let data: Value = serde_json::from_str(entry.data.get()).unwrap_or_default();
    Ok(json!({
        "sequence": entry.sequence, "kind": entry.kind, "time_ms": entry.time_ms, "data": data, "signed": checkpoint.size,
        "signed_at_ms": checkpoint.time_ms,
    }))
}

fn of_folder(folder: &Path, key: Option<PublicKey>, kept: Option<&PathBuf>) -> Result<Value, Failure> {
    let failed = |error: Error| Failure::failed(error.to_string());
    let log = folder.join("log");
    if !log.is_dir() {
        return Err(Failure::failed(format!(
            "{} has no log: expected a folder such as <data dir>/state/<repository>, of `audit export`, or a file of `audit prove`",
            folder.display()
        )));
    }
    let key = key.map_or_else(|| PublicKey::read(&folder.join("audit.pub")), Ok).map_err(failed)?;
    let kept = kept.map(|path| read_checkpoint(path, &key)).transpose()?;
    let entries = Entries::open(&log, 1).map_err(failed)?;
    let audited = verify(entries, &log.join("checkpoints"), &key, kept.as_slice()).map_err(failed)?;
    check_facts(Entries::open(&log, 1).map_err(failed)?)?;
    serde_json::to_value(&audited).map_err(|error| Failure::failed(error.to_string()))
}

/// Fails at the first fact of the registry that the rules did not allow when it was said.
fn check_facts(entries: Entries) -> Result<(), Failure> {
    let mut book = Book::default();
    for entry in entries {
        let entry = entry.map_err(|error| Failure::failed(error.to_string()))?;
        if let Some(doubt) = book.doubt(&entry) {
            return Err(Failure::failed(format!("all is as it was written, and not all was allowed: {doubt}")));
        }
        book.take(&entry).map_err(|fault| Failure::failed(fault.to_string()))?;
    }
    Ok(())
}

fn read_checkpoint(path: &Path, key: &PublicKey) -> Result<Checkpoint, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::failed(format!("{}: {error}", path.display()));
    let text = fs::read_to_string(path).map_err(|error| failed(&error))?;
    Checkpoint::read(&text, key).map_err(|error| failed(&error))
}
