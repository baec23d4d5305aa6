//! What may somebody say of a version that is in the registry, and what may be done with it?

use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::{Value, json};

use super::push::{metric, pair};
use super::{Asked, read_text, reference};
use crate::cli::exit::Failure;
use crate::cli::output::{self, Form};
use crate::cli::target::{admin_flag, server_flags};

pub(crate) fn commands() -> [Command; 5] {
    let with_server = |command: Command| command.args(server_flags()).arg(admin_flag());
    let reason = || Arg::new("reason").long("reason").value_name("TEXT").help("Why, for whoever reads the record");
    let many = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).action(ArgAction::Append).help(help)
    };
    let note = Command::new("note")
        .about("Put tags, metrics, a description or a card's text of a version on the record")
        .arg(reference("version"))
        .arg(many("tag", "KEY=VALUE", "Set a tag; as often as needed"))
        .arg(many("untag", "KEY", "Unset a tag"))
        .arg(many("metric", "NAME=VALUE[@DATASET[/SLICE]]", "What it reached, on which data"))
        .arg(Arg::new("description").long("description").value_name("TEXT").help("What it is, in a sentence"))
        .arg(Arg::new("card").long("card").value_name("FILE").help("Text for its model card"))
        .arg(Arg::new("review").long("review").value_name("DATE").help("When somebody is to look at it again, such as 2027-01-31"))
        .after_help("Approvals are bound to what is said of a version: another card or metric voids them.\n\nExample:\n  tiltyard note risk@3 --metric auc=0.91@holdout --tag stage=candidate");
    let alias = Command::new("alias")
        .about("Have a name point to a version, or to none")
        .arg(Arg::new("model").value_name("MODEL").required(true).help("The model"))
        .arg(Arg::new("alias").value_name("ALIAS").required(true).help("The name, such as champion"))
        .arg(
            Arg::new("number")
                .value_name("VERSION")
                .value_parser(clap::value_parser!(u64))
                .help("The version; the alias is removed where none is given"),
        )
        .after_help("Examples:\n  tiltyard alias risk champion 3\n  tiltyard alias risk champion");
    let archive = Command::new("archive")
        .about("Keep a version, and have it go nowhere any more")
        .arg(reference("version"))
        .arg(reason());
    let quarantine = Command::new("quarantine")
        .about("Have a version answer nobody any more: what answered before it does")
        .arg(reference("version"))
        .arg(reason().required(true));
    let release = Command::new("release")
        .about("Take a version out of quarantine, which takes an admin")
        .arg(reference("version"))
        .arg(reason().required(true));
    [note, alias, archive, quarantine, release].map(with_server)
}

pub(crate) fn run(name: &str, matches: &ArgMatches) -> Result<(), Failure> {
    let asked = Asked::of(matches)?;
    let orders = match name {
        "note" => notes(matches, &asked)?,
        "alias" => {
            let text = |name: &str| matches.get_one::<String>(name).cloned().unwrap_or_default();
            vec![
                json!({ "alias": { "model": text("model"), "alias": text("alias"), "version": matches.get_one::<u64>("number") } }),
            ]
        }
        _ => {
            let state = match name {
                "archive" => "archived",
                "quarantine" => "quarantined",
                _ => "ready",
            };
            let (model, version) = asked.version(matches, "version")?;
            let reason = matches.get_one::<String>("reason").cloned().unwrap_or_default();
            vec![json!({ "state": { "model": model, "version": version, "state": state, "reason": reason } })]
        }
    };
    if orders.is_empty() {
        return Err(Failure::usage(
            "nothing is said of it: expected --tag, --metric, --description, --card or another of note's flags",
        ));
    }
    let mut answers = Vec::new();
    for wants in orders {
        answers.push(asked.order(&wants)?);
    }
    let still: Vec<String> = answers
        .iter()
        .flat_map(|answer| answer["still_answers"].as_array().into_iter().flatten())
        .filter_map(|endpoint| endpoint.as_str().map(str::to_owned))
        .collect();
    if Form::of(matches) == Form::Json {
        output::print_json(&Value::Array(answers))?;
    }
    match (still.first(), Form::of(matches)) {
        (Some(first), _) => Err(Failure::failed(format!(
            "it is on the record, and the version answers {} still, since no other can: push or load another, then \
             tiltyard apply a plan with that for {first}",
            still.join(", ")
        ))),
        (None, Form::Json) => Ok(()),
        (None, Form::Table) => output::print("It is on the record.\n"),
    }
}

/// The orders that flags of `note` stand for.
fn notes(matches: &ArgMatches, asked: &Asked) -> Result<Vec<Value>, Failure> {
    let (model, version) = asked.version(matches, "version")?;
    let many = |name: &str| matches.get_many::<String>(name).into_iter().flatten();
    let text = |name: &str| matches.get_one::<String>(name).cloned();
    let mut orders = Vec::new();
    let set = many("tag").map(|tag| pair(tag).map(|(key, value)| (key.to_owned(), Value::from(value))));
    let set: serde_json::Map<String, Value> = set.collect::<Result<_, _>>()?;
    let unset: Vec<&String> = many("untag").collect();
    if !set.is_empty() || !unset.is_empty() {
        orders.push(json!({ "tags": { "model": model, "version": version, "set": set, "unset": unset } }));
    }
    let metrics = many("metric").map(|text| metric(text)).collect::<Result<Vec<_>, _>>()?;
    if !metrics.is_empty() {
        let metrics: Vec<Value> = metrics.iter().map(measured).collect();
        orders.push(json!({ "measure": { "model": model, "version": version, "metrics": metrics } }));
    }
    let card = text("card").map(|file| read_text(&file)).transpose()?;
    let review_ms = text("review").map(|date| super::time_ms(&date)).transpose()?;
    if card.is_some() || text("description").is_some() || review_ms.is_some() {
        let described = json!({
            "model": model, "version": version, "text": card, "description": text("description"), "review_ms": review_ms,
        });
        orders.push(json!({ "describe": described }));
    }
    Ok(orders)
}

/// A measurement as the record has it.
fn measured(metric: &Value) -> Value {
    let key = json!({
        "metric": metric["name"], "dataset": metric["dataset"].as_str().unwrap_or_default(),
        "slice": metric["slice"].as_str().unwrap_or_default(),
    });
    json!({ "key": key, "value": metric["value"] })
}
