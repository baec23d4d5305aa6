//! What is a model's traffic compared with, and how does it stand?

mod importance;
mod page;
mod replicas;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgMatches, Command, value_parser};
use serde_json::Value;
use tiltyard_drift::baseline::Baseline;

use super::credentials::Credentials;
use super::exit::{Exit, Failure};
use super::output::{self, Form, Table};
use super::predict::input::{self, Columns, Question};
use super::predict::{ModelName, parse_model, score_rows, start};
use super::settings::{self, ENGINE_SETTINGS};
use super::status::address;
use super::target::{Http, Named, admin_flag, ask, server_flags};
use crate::clock;
use crate::config::Config;
use crate::drift::{baseline_file, baseline_of};
use crate::local::Local;

const EXAMPLES: &str = "\
A baseline is made by asking the model about the rows of a file, so that its answers are part of it. It is kept in the data \
folder of this user, where a server finds it within a second; give --to to have it elsewhere. See docs/drift.md.

Examples:
  tiltyard drift baseline risk --file validation.csv
  tiltyard drift baseline risk --file validation.csv --importance explain
  tiltyard drift baseline risk@2 --file validation.csv --models ./models --data-dir /var/lib/tiltyard
  tiltyard drift report
  tiltyard drift report risk --all --output json
  tiltyard drift report --html drift.html
  tiltyard drift report --admin http://a:8002 --merge http://b:8002,http://c:8002

The exit code of report is 1 where anything is in ALERT.";

pub(crate) fn command() -> Command {
    let baseline = Command::new("baseline")
        .about("Make a model's baseline of a file of rows that it was made for")
        .arg(Arg::new("model").value_name("MODEL[@VERSION]").required(true).help("The model, and perhaps its version"))
        .arg(
            Arg::new("file")
                .long("file")
                .value_name("PATH")
                .required(true)
                .value_parser(value_parser!(PathBuf))
                .help("Rows as predict takes them: CSV with a header, or JSON"),
        )
        .arg(
            Arg::new("to")
                .long("to")
                .value_name("PATH")
                .value_parser(value_parser!(PathBuf))
                .help("Write it here, instead of into the data folder"),
        )
        .arg(
            Arg::new("importance")
                .long("importance")
                .value_name("PATH")
                .help("How much columns matter beside others: JSON or CSV of columns and numbers; or explain, as the model's explanations say"),
        )
        .args(settings::flags(&["models"]))
        .args(settings::flags(&ENGINE_SETTINGS));
    let report = Command::new("report")
        .about("Tell how far what models are asked, and what they answer, is from their baselines")
        .arg(Arg::new("model").value_name("MODEL").help("Only this model"))
        .arg(
            Arg::new("all")
                .long("all")
                .action(clap::ArgAction::SetTrue)
                .help("Every column, not only those that are not as expected"),
        )
        .arg(
            Arg::new("html")
                .long("html")
                .value_name("PATH")
                .value_parser(value_parser!(PathBuf))
                .help("Write it as a page with charts, which needs nothing else, instead of telling it here"),
        )
        .arg(
            Arg::new("merge")
                .long("merge")
                .value_name("URL")
                .value_delimiter(',')
                .action(clap::ArgAction::Append)
                .help("The admin address of another replica, whose rows are added; may be given several times"),
        )
        .args(server_flags())
        .arg(admin_flag());
    Command::new("drift")
        .about("Compare what models are asked and answer with what they were made for")
        .subcommand_required(true)
        .subcommand(baseline)
        .subcommand(report)
        .after_help(EXAMPLES)
}

pub(crate) fn run(matches: &ArgMatches) -> Result<Exit, Failure> {
    match matches.subcommand() {
        Some(("baseline", matches)) => baseline(matches).map(|()| Exit::Done),
        Some(("report", matches)) => report(matches),
        _ => Err(Failure::usage("expected baseline or report")),
    }
}

fn baseline(matches: &ArgMatches) -> Result<(), Failure> {
    let model: ModelName = parse_model(matches.get_one::<String>("model").map_or("", String::as_str))?;
    let path = matches.get_one::<PathBuf>("file").cloned().unwrap_or_default();
    let question = input::read_file(&path)?;
    let importance = matches.get_one::<String>("importance").map(String::as_str);
    let is_explained = importance == Some(importance::EXPLAIN);
    let read = importance.filter(|_| !is_explained).map(|path| importance::read(Path::new(path))).transpose()?;
    let loaded = settings::load(matches)?;
    settings::warn(&loaded);
    let config = loaded.config.clone();
    let local = start(loaded.config, &model)?;
    let drifts = &local.service().inference.drifts;
    drifts.record();
    ask_rows(&local, &model, question)?;
    let seen = drifts.recorded();
    let importance = match is_explained {
        true => importance::explained(&local, &model, input::read_file(&path)?)?,
        false => read.unwrap_or_default(),
    };
    let baseline = baseline_of(&seen, &importance).map_err(Failure::failed)?;
    let arm = seen.first().map(|seen| &seen.arm).ok_or_else(|| Failure::failed("no row was answered"))?;
    let path = matches.get_one::<PathBuf>("to").cloned().unwrap_or_else(|| baseline_file(&config, arm));
    let broken = |error: std::io::Error| Failure::failed(format!("cannot write {}: {error}", path.display()));
    path.parent().map_or(Ok(()), fs::create_dir_all).map_err(broken)?;
    let temporary = path.with_extension("tmp");
    fs::write(&temporary, baseline.to_json()).and_then(|()| fs::rename(&temporary, &path)).map_err(broken)?;
    let facts = baseline.facts();
    let identity = &arm.deployment.identity;
    let told = serde_json::json!({
        "model": identity.model, "version": identity.version.to_string(), "artifact": identity.artifact.to_string(),
        "rows": facts.rows, "features": facts.features.len(), "left_out": facts.left_out,
        "matter_most": importance::told(&importance), "digest": baseline.digest().to_string(), "file": path.display().to_string(),
    });
    match Form::of(matches) {
        Form::Json => output::print_json(&told),
        Form::Table => {
            let mut text = format!(
                "{} {}: a baseline of {} rows, {} columns: {}\n",
                identity.model,
                identity.version,
                facts.rows,
                facts.features.len(),
                path.display()
            );
            for left_out in &facts.left_out {
                text.push_str(&format!("  not watched: {}: {}\n", left_out.name, left_out.why));
            }
            output::print(&text)
        }
    }
}

/// Asks a model about all rows.
fn ask_rows(local: &Local, model: &ModelName, question: Question) -> Result<(), Failure> {
    match question {
        Question::Csv(csv) => {
            let columns = Columns::of(&ask(local, "GET", &model.path("v2"), Vec::new())?);
            score_rows(local, model, None, csv.rows(&columns)?)?;
        }
        Question::Rows(rows) => {
            let total = rows.len() as u64;
            score_rows(local, model, Some(total), rows.into_iter().map(Ok))?;
        }
        Question::Score(body) => drop(ask(local, "POST", &format!("{}/score", model.path("v1")), body)?),
        Question::Infer(body) => drop(ask(local, "POST", &format!("{}/infer", model.path("v2")), body)?),
    }
    Ok(())
}

/// A version's baseline, made of the rows in a file.
pub(super) fn made_of(config: Config, model: &ModelName, file: &Path) -> Result<Baseline, Failure> {
    let question = input::read_file(file)?;
    let local = start(config, model)?;
    let drifts = &local.service().inference.drifts;
    drifts.record();
    ask_rows(&local, model, question)?;
    baseline_of(&drifts.recorded(), &BTreeMap::new()).map_err(Failure::failed)
}

fn report(matches: &ArgMatches) -> Result<Exit, Failure> {
    let credentials = Credentials::of(matches)?;
    let http = Http::new(address(&Named::of(matches)?)?, &credentials)?;
    let model = matches.get_one::<String>("model").map(String::as_str);
    let (others, html) = (matches.get_many::<String>("merge"), matches.get_one::<PathBuf>("html"));
    let is_raw = others.is_some() || html.is_some();
    let mut all = replicas::fetch(&http, model, is_raw)?;
    if let Some(others) = others {
        let mut replicas = vec![all];
        for other in others {
            let told = replicas::fetch(&Http::new(other, &credentials)?, model, true);
            replicas.push(told.map_err(|failure| failure.at(other))?);
        }
        all = replicas::merged(replicas, clock::unix_ms())?;
    }
    if let Some(model) = model.filter(|_| all.is_empty()) {
        return Err(Failure::failed(format!(
            "nothing is known of the drift of model {model:?}: is it served, and is drift on?"
        )));
    }
    if let Some(path) = html {
        let page = page::of(&all, matches.get_flag("all"), clock::unix_ms())?;
        fs::write(path, page).map_err(|error| Failure::failed(format!("cannot write {}: {error}", path.display())))?;
    }
    for one in &mut all {
        one.as_object_mut().map(|form| form.remove("raw"));
    }
    let is_alert = |one: &Value| ["level", "inputs", "outputs"].iter().any(|key| one[key].as_str() == Some("alert"));
    let exit = if all.iter().any(is_alert) { Exit::Failed } else { Exit::Done };
    match Form::of(matches) {
        Form::Json => output::print_json(&Value::Array(all))?,
        Form::Table if html.is_some() => {}
        Form::Table => output::print(&listing(&all, matches.get_flag("all")))?,
    }
    Ok(exit)
}

/// For people: a line for each version, and for each column that is not as expected.
fn listing(all: &[Value], every_column: bool) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let mut versions =
        Table::new(["model", "version", "state", "inputs", "outputs", "baseline rows", "rows this hour"]);
    let mut columns = Table::new(["model", "version", "column", "level", "psi", "why"]);
    let mut any = false;
    for one in all {
        let baseline = match (one["baseline"]["rows"].as_u64(), one["baseline"]["provisional"].as_bool()) {
            (Some(rows), Some(true)) => format!("{rows} of first traffic"),
            (Some(rows), _) => rows.to_string(),
            (None, _) => match one["wanted"]["rows"].as_u64() {
                Some(rows) => format!("{rows} rows are wanted yet"),
                None => "-".to_owned(),
            },
        };
        let hour = one["open_hour_rows"].as_u64().map_or_else(|| "-".to_owned(), |rows| rows.to_string());
        let (model, version) = (text(&one["model"]), text(&one["version"]));
        versions.add([
            model.clone(),
            version.clone(),
            text(&one["state"]),
            text(&one["inputs"]),
            text(&one["outputs"]),
            baseline,
            hour,
        ]);
        for feature in one["features"].as_array().into_iter().flatten() {
            let level = text(&feature["level"]);
            if level == "ok" && !every_column {
                continue;
            }
            any = true;
            let psi = feature["reading"]["distance"]["psi_corrected"].as_f64();
            let psi = psi.map_or_else(|| "-".to_owned(), |psi| format!("{psi:.3}"));
            columns.add([model.clone(), version.clone(), text(&feature["name"]), level, psi, text(&feature["why"])]);
        }
    }
    if any { format!("{versions}\n{columns}") } else { versions.to_string() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn command_lines() {
        let check = |line: &str, right: bool| {
            let parsed = command().try_get_matches_from(line.split_whitespace());
            assert_eq!(parsed.is_ok(), right, "{line}");
        };
        check("drift baseline risk --file v.csv", true);
        check("drift baseline risk@2 --file v.csv --models m --data-dir d --to b.json", true);
        check("drift report risk --all", true);
        check("drift report --html d.html --merge http://b:8002,http://c:8002 --merge http://d:8002", true);
        check("drift baseline risk --file v.csv --importance explain", true);
        check("drift baseline risk", false);
        check("drift", false);
    }

    #[test]
    fn people_see_what_is_not_as_expected() {
        let one = json!({
            "model": "risk", "version": "2", "state": "watched", "inputs": "alert", "outputs": "ok",
            "baseline": {"rows": 400, "provisional": true}, "open_hour_rows": 7,
            "features": [
                {"name": "age", "level": "alert", "why": "distributed otherwise", "reading": {"distance": {"psi_corrected": 0.5}}},
                {"name": "income", "level": "ok", "why": "as expected"},
            ],
        });
        let shown = listing(std::slice::from_ref(&one), false);
        for expected in ["risk", "watched", "400 of first traffic", "age", "0.500", "distributed otherwise"] {
            assert!(shown.contains(expected), "{shown}");
        }
        assert!(!shown.contains("income") && listing(&[one], true).contains("income"));
    }
}
