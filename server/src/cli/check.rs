//! What would be served from a folder, and what is wrong with the rest?
//!
//! The same code as in `serve` loads every version, proofs and golden examples included; only nobody listens.

use std::thread;
use std::time::Duration;

use clap::{Arg, ArgMatches, Command};
use serde_json::{Value, json};
use tiltyard_onnxruntime::locate::{Places, locate};
use tiltyard_runtime::repository::settings::Settings;
use tiltyard_runtime::repository::{self, Problem, Scan};

use super::exit::Failure;
use super::models::{batch, text};
use super::output::{self, Form, NOTHING, Table};
use super::{progress, settings};
use crate::config::{Config, LogFormat, LogLevel, ModelControl};
use crate::logs::Logs;
use crate::mirror;
use crate::service::Service;
use crate::writer::PlanSources;
use crate::{admin, start};

/// The settings that decide what would be served.
const SETTINGS: [&str; 12] = [
    "engines",
    "ort_lib",
    "data_dir",
    "config",
    "version_policy",
    "threads",
    "batch_rows_max",
    "batch_delay_max",
    "queue_rows_max",
    "strict",
    "signing",
    "signing_keys",
];

/// How often is looked whether all is loaded.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

pub(crate) fn command() -> Command {
    Command::new("check")
        .about("Say what would be served from a folder, and every problem with its cure")
        .long_about(
            "Say what would be served from a folder of models, from an .onnx file, or from a store, and every problem with its cure. \
             Each version is loaded as serve would: golden examples run, and it is proved whether rows of several \
             requests may share a run. No server is started. Ends with 1 if anything would not be served.",
        )
        .arg(
            Arg::new("models")
                .value_name("PATH")
                .help("The folder or file, or the URL of a store [default: what serve would take, ./models]"),
        )
        .args(settings::flags(&SETTINGS))
        .after_help(
            "Examples:\n  tiltyard check\n  tiltyard check ~/models --engines tract\n  \
             tiltyard check churn.onnx --output json",
        )
}

pub(crate) fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let loaded = settings::load(matches)?;
    settings::warn(&loaded);
    // What is wrong is told once, by the report.
    drop(tracing::subscriber::set_global_default(tracing::subscriber::NoSubscriber::new()));
    let report = examine(loaded.config)?;
    match Form::of(matches) {
        Form::Json => output::print_json(&report.form())?,
        Form::Table => output::print(&report.listing())?,
    }
    if report.is_good() { Ok(()) } else { Err(Failure::told()) }
}

/// What was found out.
#[derive(Clone, Debug, Default, PartialEq)]
struct Report {
    /// Every version that was found, in the form of the admin port.
    versions: Vec<Value>,
    /// What is good to know of versions that would be served: place and words.
    notes: Vec<(String, String)>,
    /// What keeps something from being served: place and words.
    problems: Vec<(String, String)>,
}

/// Loads what serve would load. Takes as long as that takes.
fn examine(mut config: Config) -> Result<Report, Failure> {
    config.model_control = ModelControl::None;
    let shown = config.models.display().to_string();
    let brought = mirror::bring(&config).map_err(Failure::failed)?;
    if let Some(brought) = &brought {
        config.models.clone_from(&brought.root);
    }
    let scan = repository::scan(&config.models)
        .map_err(|error| Failure::failed(format!("{shown} cannot be read: {error}")))?;
    let versions = load(&config, &scan)?;
    Ok(Report::of(&config, &scan, versions))
}

fn load(config: &Config, scan: &Scan) -> Result<Vec<Value>, Failure> {
    if scan.models.is_empty() {
        return Ok(Vec::new());
    }
    let logs = Logs::start(LogFormat::Human, LogLevel::Error);
    let service: &Service = &*start::start(config, PlanSources::default(), logs).map_err(Failure::usage)?;
    let total = scan.models.values().map(|model| model.versions.len() as u64).sum();
    let bar = progress::bar("checking versions", Some(total));
    while !service.is_ready() {
        let loading = admin::models(service).iter().filter(|version| version["state"] == "LOADING").count() as u64;
        bar.set_position(total.saturating_sub(loading));
        thread::sleep(LOOK_INTERVAL);
    }
    bar.finish_and_clear();
    Ok(admin::models(service))
}

impl Report {
    fn of(config: &Config, scan: &Scan, versions: Vec<Value>) -> Report {
        let mut report = Report { versions, ..Report::default() };
        report.add_problems_of_places(config, scan);
        for version in &report.versions {
            let place = format!("{} version {}", text(version, "name"), text(version, "version"));
            if version["state"] != "READY" {
                report.problems.push((place, text(version, "reason")));
                continue;
            }
            if let Some(why) = version["made_by_nobody"].as_str() {
                report.notes.push((place.clone(), format!("nobody who is trusted has signed it: {why}")));
            }
            if version["batch_rows_max"].as_u64().is_some_and(|rows| rows <= 1) {
                let reason = text(version, "batch_reason");
                report.notes.push((place.clone(), format!("requests are not batched: {reason}")));
            }
            if version["padding"] == "refuted" {
                let reason = text(version, "padding_reason");
                report.notes.push((place, format!("requests of different lengths are not batched: {reason}")));
            }
        }
        report.add_what_settings_say(config, scan);
        report
    }

    fn add_problems_of_places(&mut self, config: &Config, scan: &Scan) {
        let Config { models, ort_lib, data_dir, .. } = config;
        for Problem { path, message } in &scan.problems {
            self.problems.push((path.display().to_string(), message.clone()));
        }
        if scan.models.is_empty() && scan.problems.is_empty() {
            let message = "no models here: expected a folder per model and in it one per version, such as \
                           risk/1/model.onnx, or a single .onnx file";
            self.problems.push((models.display().to_string(), message.to_owned()));
        }
        if config.engines.iter().any(|engine| engine == "onnxruntime") {
            let search = locate(&Places::of_process(ort_lib.clone(), Some(data_dir.clone())));
            if search.found().is_none() {
                self.problems.push(("engine onnxruntime".to_owned(), search.advice()));
            }
        }
    }

    /// Versions that are there and not wanted, and lines of settings without effect.
    fn add_what_settings_say(&mut self, config: &Config, scan: &Scan) {
        for (name, model) in &scan.models {
            // Settings that cannot be read fail each version, which says so.
            let Ok(own) = Settings::read(&model.settings_files) else { continue };
            if !own.ignored.is_empty() {
                self.notes.push((name.clone(), format!("has no effect here: {}", own.ignored.join(", "))));
            }
            let policy = own.version_policy.as_ref().unwrap_or(&config.version_policy);
            let wanted = policy.choose(&model.versions.keys().copied().collect());
            for number in model.versions.keys().filter(|number| !wanted.contains(number)) {
                self.versions.push(json!({
                    "name": name,
                    "version": number.to_string(),
                    "state": "LEFT_OUT",
                    "reason": format!("the version policy is {policy}"),
                }));
            }
        }
        let key = |version: &Value| (text(version, "name"), text(version, "version").parse::<u64>().unwrap_or(0));
        self.versions.sort_by_key(key);
    }

    fn is_good(&self) -> bool {
        self.problems.is_empty()
    }

    fn form(&self) -> Value {
        let list = |entries: &[(String, String)]| -> Vec<Value> {
            entries.iter().map(|(place, message)| json!({ "place": place, "message": message })).collect()
        };
        json!({
            "good": self.is_good(),
            "versions": self.versions,
            "notes": list(&self.notes),
            "problems": list(&self.problems),
        })
    }

    fn listing(&self) -> String {
        let mut listing = String::new();
        if !self.versions.is_empty() {
            let mut table = Table::new(["model", "version", "state", "engine", "batch", "goldens", "signature"]);
            for version in &self.versions {
                let goldens = version["goldens"].as_u64().map_or_else(|| NOTHING.to_owned(), |count| count.to_string());
                let state = match version["state"].as_str() {
                    Some("READY") => "ready",
                    Some("LEFT_OUT") => "left out",
                    _ => "broken",
                };
                table.add([
                    text(version, "name"),
                    text(version, "version"),
                    state.to_owned(),
                    text(version, "engine"),
                    batch(version),
                    goldens,
                    text(version, "signature"),
                ]);
            }
            listing += &table.to_string();
        }
        let left_out = self.versions.iter().filter(|version| version["state"] == "LEFT_OUT").map(|version| {
            let place = format!("{} version {}", text(version, "name"), text(version, "version"));
            (place, format!("left out, since {}", text(version, "reason")))
        });
        let notes: Vec<(String, String)> = self.notes.iter().cloned().chain(left_out).collect();
        listing += &paragraph("Good to know", &notes);
        listing += &paragraph("Problems", &self.problems);
        if self.is_good() {
            listing += "\nNothing is wrong.\n";
        }
        listing
    }
}

fn paragraph(title: &str, entries: &[(String, String)]) -> String {
    let lines: String = entries.iter().map(|(place, message)| format!("  {place}: {}\n", indented(message))).collect();
    if lines.is_empty() { lines } else { format!("\n{title}:\n{lines}") }
}

/// A message of several lines, such as one that points into a file, with its further lines below its place.
fn indented(message: &str) -> String {
    message.trim_end().replace('\n', "\n      ")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config(root: &Path) -> Config {
        Config {
            models: root.to_owned(),
            engines: vec!["classical".to_owned(), "tract".to_owned()],
            data_dir: root.join("data"),
            ..Config::default()
        }
    }

    fn version(name: &str, number: &str, state: &str, more: Value) -> Value {
        let mut version = json!({ "name": name, "version": number, "state": state, "reason": "" });
        version.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        version
    }

    #[test]
    fn problems_and_notes() {
        let root = tempfile::tempdir().unwrap();
        for folder in ["a/1", "a/2", "a/10", "empty"] {
            std::fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        std::fs::write(root.path().join("a/config.pbtxt"), "optimization { graph { level: 1 } }").unwrap();
        let scan = repository::scan(root.path()).unwrap();
        let versions = vec![
            version("a", "10", "UNAVAILABLE", json!({"reason": "no model.onnx"})),
            version("a", "2", "READY", json!({"batch_rows_max": 1, "batch_reason": "no batch axis"})),
        ];
        let report = Report::of(&config(root.path()), &scan, versions);
        let numbers: Vec<&str> = report.versions.iter().map(|version| version["version"].as_str().unwrap()).collect();
        assert_eq!(numbers, ["1", "2", "10"]);
        assert_eq!(report.versions[0]["state"], "LEFT_OUT");
        assert!(!report.is_good());
        let problems: Vec<&str> = report.problems.iter().map(|(_, message)| message.as_str()).collect();
        assert!(problems[0].starts_with("no version: expected"), "{problems:?}");
        assert_eq!(problems[1..], ["no model.onnx"]);
        assert_eq!(report.notes[0], ("a version 2".into(), "requests are not batched: no batch axis".into()));
        assert!(report.notes[1].1.starts_with("has no effect here: optimization"), "{:?}", report.notes);
        let listing = report.listing();
        assert!(listing.contains("a version 1: left out, since the version policy is latest:2"), "{listing}");
        assert!(!listing.contains("Nothing is wrong"), "{listing}");
    }

    #[test]
    fn a_folder_without_models_is_a_problem() {
        let root = tempfile::tempdir().unwrap();
        let report = Report::of(&config(root.path()), &repository::scan(root.path()).unwrap(), Vec::new());
        assert!(report.problems[0].1.starts_with("no models here"), "{report:?}");
    }

    #[test]
    fn versions_are_loaded_as_serve_would() {
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models");
        let root = tempfile::tempdir().unwrap();
        let report = examine(Config { data_dir: root.path().to_owned(), ..config(&models) }).unwrap();
        assert!(report.is_good(), "{}", report.listing());
        let engine = |version: &Value| if version["name"] == "risk_trees" { "classical" } else { "tract" };
        assert!(report.versions.iter().all(|one| one["state"] == "READY" && one["engine"] == engine(one)));
        assert!(examine(config(Path::new("/nowhere/at/all"))).is_err());
    }
}
