//! Which engines are on this machine, and how is a missing one brought?

use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgMatches, Command};
use indicatif::ProgressBar;
use serde_json::{Value, json};
use tiltyard_onnxruntime::install::{InstallOptions, Progress, Step, install};
use tiltyard_onnxruntime::locate::{Candidate, Places, Search, Verdict, survey};

use super::exit::Failure;
use super::output::{self, Form, NOTHING, Table, size};
use super::{progress, settings};
use crate::config::Config;
use crate::cores;
use crate::engines::{self, Engines, NAMES};

/// The engine that is not part of this program.
const INSTALLABLE: &str = "onnxruntime";

pub(crate) fn command() -> Command {
    Command::new("engine")
        .about("List the engines that run models, or install one")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand_value_name("COMMAND")
        .disable_help_subcommand(true)
        .subcommand(
            Command::new("list")
                .about("List the engines, where each was found, and what they run on")
                .args(settings::flags(&["ort_lib", "data_dir", "config"]))
                .after_help(
                    "Examples:\n  tiltyard engine list\n  tiltyard engine list --ort-lib /opt/ort/libonnxruntime.so",
                ),
        )
        .subcommand(install_command())
}

fn install_command() -> Command {
    Command::new("install")
        .about("Install an engine's library for this user")
        .long_about(
            "Install an engine's library for this user: pip downloads it from the package index that it is set up for, \
             its digest is compared with the one in this program, and it is unpacked into the data folder. serve finds \
             it there by itself.",
        )
        .arg(
            Arg::new("engine")
                .value_name("ENGINE")
                .required(true)
                .value_parser(PossibleValuesParser::new([INSTALLABLE]))
                .help("Which engine"),
        )
        .arg(
            Arg::new("version").long("version").value_name("VERSION").help("Which version [default: the newest known]"),
        )
        .arg(
            Arg::new("wheel")
                .long("wheel")
                .value_name("FILE")
                .help("The wheel, downloaded elsewhere, for a machine without a network"),
        )
        .args(settings::flags(&["data_dir", "config"]))
        .after_help(
            "Examples:\n  tiltyard engine install onnxruntime\n  \
             tiltyard engine install onnxruntime --wheel onnxruntime-1.32.0-cp312-….whl",
        )
}

pub(crate) fn run(matches: &ArgMatches) -> Result<(), Failure> {
    match matches.subcommand() {
        Some(("install", matches)) => run_install(matches),
        Some((_, matches)) => run_list(matches),
        None => Err(Failure::usage("expected list or install")),
    }
}

fn run_list(matches: &ArgMatches) -> Result<(), Failure> {
    let loaded = settings::load(matches)?;
    settings::warn(&loaded);
    // All engines are listed, whichever may be used.
    let config = Config { engines: Vec::new(), ..loaded.config };
    let found = engines::find(&config).map_err(Failure::usage)?;
    let search = survey(&Places::of_process(config.ort_lib.clone(), Some(config.data_dir.clone())));
    match Form::of(matches) {
        Form::Json => output::print_json(&json!({
            "engines": entries(&found),
            "cores": cores::granted(),
            "memory_bytes": cores::memory_granted(),
            "onnxruntime_candidates": search.candidates.iter().map(candidate_form).collect::<Vec<_>>(),
        })),
        Form::Table => output::print(&format!("{}\n{}\n", listing(&entries(&found), &search), granted())),
    }
}

/// What this process may use, in words.
fn granted() -> String {
    let memory = cores::memory_granted().map_or_else(String::new, |bytes| format!(", {} of memory", size(bytes)));
    format!("Granted to a server here: {} processors{memory}", cores::granted())
}

/// Every engine, found or not.
fn entries(engines: &Engines) -> Vec<Value> {
    let entry = |name: &str| {
        if let Some(engine) = engines.found.iter().find(|engine| engine.name() == name) {
            let build = engine.build();
            let library = build.library.map(|path| path.display().to_string());
            return json!({ "name": name, "found": true, "version": build.version, "library": library, "providers": build.providers });
        }
        let reason = engines.missing.iter().find(|(missing, _)| *missing == name).map(|(_, reason)| reason);
        json!({ "name": name, "found": false, "reason": reason })
    };
    NAMES.into_iter().map(entry).collect()
}

fn candidate_form(candidate: &Candidate) -> Value {
    let verdict = match &candidate.verdict {
        Verdict::Taken => "taken",
        Verdict::Spare => "spare",
        Verdict::TooOld => "too_old",
        Verdict::Unusable(_) => "unusable",
    };
    json!({
        "path": candidate.path.display().to_string(),
        "source": candidate.source.to_string(),
        "version": candidate.version.map(|version| version.to_string()),
        "verdict": verdict,
        "description": candidate.to_string(),
    })
}

fn listing(entries: &[Value], search: &Search) -> String {
    let mut table = Table::new(["engine", "found", "version", "providers", "library"]);
    for entry in entries {
        let found = entry["found"] == true;
        let text = |key: &str| entry[key].as_str().unwrap_or(NOTHING).to_owned();
        let providers: Vec<&str> =
            entry["providers"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        table.add([
            text("name"),
            if found { "yes" } else { "no" }.to_owned(),
            text("version"),
            if found { providers.join(", ") } else { NOTHING.to_owned() },
            if found && entry["library"].is_null() { "part of this program".to_owned() } else { text("library") },
        ]);
    }
    let mut listing = table.to_string();
    if !search.candidates.is_empty() {
        listing += "\nLibraries of ONNX Runtime on this machine:\n";
        listing.extend(search.candidates.iter().map(|candidate| format!("  {candidate}\n")));
    }
    for entry in entries.iter().filter(|entry| entry["found"] != true) {
        let (name, reason) = (entry["name"].as_str().unwrap_or(NOTHING), entry["reason"].as_str().unwrap_or(NOTHING));
        // Candidates were listed with what is wrong; only without any is there more to say.
        match search.candidates.is_empty() {
            true => listing += &format!("\n{name}: {reason}\n"),
            false => {
                listing += &format!("\n{name} is not usable. To install one that is: tiltyard engine install {name}\n")
            }
        }
    }
    listing
}

fn run_install(matches: &ArgMatches) -> Result<(), Failure> {
    let loaded = settings::load(matches)?;
    settings::warn(&loaded);
    let options = InstallOptions {
        data_dir: loaded.config.data_dir,
        version: matches.get_one::<String>("version").cloned(),
        wheel: matches.get_one::<String>("wheel").map(PathBuf::from),
    };
    let mut shown = Shown { step: None, bar: ProgressBar::hidden() };
    let installed = install(options, &mut |progress| shown.update(progress));
    shown.bar.finish_and_clear();
    let installed = installed.map_err(|error| Failure::failed(error.to_string()))?;
    let library = installed.library.display();
    match Form::of(matches) {
        Form::Json => output::print_json(&json!({
            "version": installed.version,
            "library": library.to_string(),
            "was_there": installed.was_there,
        })),
        Form::Table if installed.was_there => {
            output::print(&format!("ONNX Runtime {} was installed before: {library}\n", installed.version))
        }
        Form::Table => output::print(&format!(
            "ONNX Runtime {} is installed: {library}\nserve finds it by itself.\n",
            installed.version
        )),
    }
}

/// What a person sees of an installation: a bar per step on a terminal, a line per step elsewhere.
struct Shown {
    step: Option<Step>,
    bar: ProgressBar,
}

impl Shown {
    fn update(&mut self, Progress { step, done_bytes, total_bytes }: Progress) {
        let doing = match step {
            Step::Download => "downloading",
            Step::Verify => "verifying",
            Step::Unpack => "unpacking",
        };
        if self.step != Some(step) {
            self.step = Some(step);
            self.bar.finish_and_clear();
            if progress::on_terminal() {
                self.bar = progress::bytes_bar(total_bytes).with_message(doing);
            } else if step == Step::Unpack {
                // Of its files only the first one's size is known here, and that is a licence's.
                output::note(doing);
            } else {
                output::note(format_args!("{doing} ({})", size(total_bytes)));
            }
        }
        // A step may have several files, each with its own size.
        self.bar.set_length(total_bytes);
        self.bar.set_position(done_bytes);
    }
}

#[cfg(test)]
mod tests {
    use tiltyard_onnxruntime::locate::Source;

    use super::*;

    fn missing(reason: &str) -> Vec<Value> {
        entries(&Engines {
            found: vec![
                std::sync::Arc::new(tiltyard_classical::engine()),
                std::sync::Arc::new(tiltyard_tract::engine()),
            ],
            missing: vec![("onnxruntime", reason.to_owned())],
        })
    }

    #[test]
    fn engines_found_and_not() {
        let entries = missing("`tiltyard engine install onnxruntime` brings it");
        let told = |at: usize| (entries[at]["name"].as_str(), entries[at]["found"].as_bool());
        assert_eq!(told(0), (Some("classical"), Some(true)));
        assert_eq!(told(1), (Some("onnxruntime"), Some(false)));
        assert_eq!(told(2), (Some("tract"), Some(true)));
        let listing = listing(&entries, &Search::default());
        assert!(listing.contains("part of this program"), "{listing}");
        assert!(listing.ends_with("\nonnxruntime: `tiltyard engine install onnxruntime` brings it\n"), "{listing}");
    }

    #[test]
    fn places_that_were_looked_at() {
        let candidate = Candidate {
            path: "/opt/libonnxruntime.so".into(),
            source: Source::Variable,
            version: None,
            verdict: Verdict::Unusable("there is no such file".into()),
        };
        assert_eq!(candidate_form(&candidate)["verdict"], "unusable");
        let listing = listing(&missing("x"), &Search { candidates: vec![candidate] });
        assert!(listing.contains("  /opt/libonnxruntime.so (ORT_DYLIB_PATH): there is no such file\n"), "{listing}");
        assert!(listing.contains("tiltyard engine install onnxruntime"), "{listing}");
    }
}
