//! How is the registry put by, brought back, and moved to another place?
//!
//! A server that runs makes backups of its own log; bringing one back, and moving a log to a database, is done while none runs.

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use serde_json::{Value, json};
use tiltyard_registry::backup::{restore, verify_backup};
use tiltyard_registry::{Address, Limits, Log, migrate};

use super::Asked;
use crate::cli::exit::Failure;
use crate::cli::output::{self, Form};
use crate::cli::target::{admin_flag, server_flags};

pub(crate) fn command() -> Command {
    let folder = |help: &'static str| {
        Arg::new("folder").value_name("FOLDER").required(true).value_parser(value_parser!(PathBuf)).help(help)
    };
    let backup = Command::new("backup")
        .about("Have a running server write a backup to a folder of its machine: log, checkpoints, and the versions' files")
        .arg(folder("A folder that is empty or not there"))
        .arg(Arg::new("secret").long("secret").action(ArgAction::SetTrue).help("With the key that signs: whoever has it can sign as this server"))
        .arg(Arg::new("without_files").long("without-files").action(ArgAction::SetTrue).help("Without the versions' files"))
        .args(server_flags())
        .arg(admin_flag());
    let restore = Command::new("restore")
        .about("Bring a backup back, every byte checked, for a server that does not run")
        .arg(folder("The backup"))
        .arg(
            Arg::new("to")
                .long("to")
                .value_name("FOLDER")
                .required(true)
                .value_parser(value_parser!(PathBuf))
                .help("A folder that is empty or not there"),
        );
    let migrate = Command::new("migrate")
        .about("Copy a log to a database that replicas share, or to a folder, line by line and proved; the same again goes on")
        .arg(
            Arg::new("from")
                .long("from")
                .value_name("PLACE")
                .required(true)
                .help("A folder such as <data dir>/state/<repository>/log, whose server does not run, or postgres://…"),
        )
        .arg(Arg::new("to").long("to").value_name("PLACE").required(true).help("postgres://…, or a folder"))
        .arg(
            Arg::new("password_file")
                .long("password-file")
                .value_name("FILE")
                .help("The password of the database"),
        );
    Command::new("registry")
        .about("Put the registry by, bring it back, move it to a database")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommands([backup, restore, migrate])
        .after_help("Examples:\n  tiltyard registry backup /backups/2026-11-29\n  tiltyard registry restore /backups/2026-11-29 --to restored\n  tiltyard registry migrate --from ~/.local/share/tiltyard/state/0a1b…/log --to postgres://registry@db/tiltyard --password-file pw")
}

/// Fails where there is no log to be moved: to open one would begin one.
fn is_log(place: &str) -> Result<(), Failure> {
    let is_segment = |entry: fs::DirEntry| entry.path().extension().is_some_and(|end| end == "jsonl");
    let has_log = || fs::read_dir(place).is_ok_and(|entries| entries.flatten().any(is_segment));
    match place.contains("://") || has_log() {
        true => Ok(()),
        false => Err(Failure::failed(format!(
            "{place} has no log: expected a folder with segments such as 00000000000000000001.jsonl, as <data \
             dir>/state/<repository>/log and the folder log of a backup are, or the URL of a database"
        ))),
    }
}

pub(crate) fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let failed = |error: tiltyard_registry::Error| Failure::failed(error.to_string());
    match matches.subcommand() {
        Some(("backup", matches)) => {
            let folder = path(matches, "folder");
            let folder = std::path::absolute(&folder).unwrap_or(folder);
            let (secret, files) = (matches.get_flag("secret"), !matches.get_flag("without_files"));
            let body = json!({ "to": folder, "secret": secret, "files": files });
            told(matches, &Asked::of(matches)?.post("/admin/registry/backup", &body)?, &folder)
        }
        Some(("restore", matches)) => {
            let (from, to) = (path(matches, "folder"), path(matches, "to"));
            verify_backup(&from).map_err(failed)?;
            let found = restore(&from, &to).map_err(failed)?;
            let form = serde_json::to_value(found).map_err(|error| Failure::failed(error.to_string()))?;
            told(matches, &form, &to)
        }
        Some(("migrate", matches)) => {
            let place = |name: &str| matches.get_one::<String>(name).map(String::as_str).unwrap_or_default();
            let password = matches.get_one::<String>("password_file").map(|file| super::read_text(file)).transpose()?;
            is_log(place("from"))?;
            let (from, to) = (open(place("from"), password.as_deref())?, open(place("to"), password.as_deref())?);
            let moved = migrate(&from, &to).map_err(failed)?;
            let form = serde_json::to_value(moved).map_err(|error| Failure::failed(error.to_string()))?;
            match Form::of(matches) {
                Form::Json => output::print_json(&form),
                Form::Table => output::print(&format!(
                    "{} entries are in {}, to the same root {}.\n",
                    form["head"]["sequence"],
                    place("to"),
                    form["root"].as_str().unwrap_or_default()
                )),
            }
        }
        _ => Err(Failure::usage("expected backup, restore or migrate")),
    }
}

fn path(matches: &ArgMatches, name: &str) -> PathBuf {
    matches.get_one::<PathBuf>(name).cloned().unwrap_or_default()
}

fn told(matches: &ArgMatches, form: &Value, folder: &Path) -> Result<(), Failure> {
    match Form::of(matches) {
        Form::Json => output::print_json(form),
        Form::Table => output::print(&format!(
            "{} entries and {} files of versions are in {}.\n",
            form["head"]["sequence"],
            form["blobs"],
            folder.display()
        )),
    }
}

/// A log in a folder, whose only writer this is for as long, or in a database.
fn open(place: &str, password: Option<&str>) -> Result<Log, Failure> {
    let failed = |error: tiltyard_registry::Error| Failure::failed(error.to_string());
    if place.contains("://") {
        let address = Address::parse(place, password.map(str::trim_end)).map_err(failed)?;
        return Log::connect(&address).map_err(failed);
    }
    Log::open(Path::new(place), Limits::default()).map_err(failed)
}
