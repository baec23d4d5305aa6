//! What is in the registry, and how do two versions differ?

use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::Value;

use super::{Asked, join, reference, text};
use crate::cli::exit::Failure;
use crate::cli::output::{self, Form, NOTHING, Table, short_digest};
use crate::cli::target::{admin_flag, path_part, server_flags};

pub(crate) fn command() -> Command {
    Command::new("show")
        .about("Tell what is in the registry: all of it, a model, or a version with its card")
        .arg(
            Arg::new("reference")
                .value_name("MODEL[@VERSION]")
                .help("Such as risk, risk@3, risk@prod or an alias, risk@champion"),
        )
        .arg(Arg::new("card").long("card").action(ArgAction::SetTrue).help("The version's model card, as Markdown"))
        .arg(
            Arg::new("lineage")
                .long("lineage")
                .action(ArgAction::SetTrue)
                .conflicts_with("card")
                .help("What the version was made of, and its OpenLineage events with --output json"),
        )
        .args(server_flags())
        .arg(admin_flag())
        .after_help("Examples:\n  tiltyard show\n  tiltyard show risk@prod\n  tiltyard show risk@3 --card > card.md")
}

pub(crate) fn diff_command() -> Command {
    Command::new("diff")
        .about("Tell how two versions in the registry differ: signature, files, metrics, tags, lock, lineage, card")
        .arg(reference("a").value_name("A").help("A version, such as risk@prod"))
        .arg(reference("b").value_name("B").help("The other, such as risk@4"))
        .args(server_flags())
        .arg(admin_flag())
        .after_help("Example:\n  tiltyard diff risk@prod risk@4")
}

pub(crate) fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let asked = Asked::of(matches)?;
    let Some(reference) = matches.get_one::<String>("reference") else { return overview(matches, &asked) };
    let part = path_part(reference);
    if !reference.contains('@') {
        return model(matches, &asked.get(&format!("/admin/registry/models/{part}"))?);
    }
    if matches.get_flag("card") {
        let card = asked.bytes(&format!("/admin/registry/versions/{part}/card"))?;
        return output::print(&String::from_utf8_lossy(&card));
    }
    if matches.get_flag("lineage") {
        let form = asked.get(&format!("/admin/registry/versions/{part}/lineage"))?;
        return match Form::of(matches) {
            Form::Json => output::print_json(&form),
            Form::Table => {
                let lines = form["lines"].as_array().into_iter().flatten().filter_map(Value::as_str);
                output::print(&lines.map(|line| format!("{line}\n")).collect::<String>())
            }
        };
    }
    version(matches, &asked.get(&format!("/admin/registry/versions/{part}"))?)
}

pub(crate) fn run_diff(matches: &ArgMatches) -> Result<(), Failure> {
    let of = |name: &str| path_part(matches.get_one::<String>(name).map(String::as_str).unwrap_or_default());
    let form = Asked::of(matches)?.get(&format!("/admin/registry/diff/{}/{}", of("a"), of("b")))?;
    match Form::of(matches) {
        Form::Json => output::print_json(&form),
        Form::Table => output::print(form["shown"].as_str().unwrap_or_default()),
    }
}

fn overview(matches: &ArgMatches, asked: &Asked) -> Result<(), Failure> {
    let form = asked.get("/admin/registry")?;
    if Form::of(matches) == Form::Json {
        return output::print_json(&form);
    }
    let mut table = Table::new(["model", "version", "state", "in", "aliases", "pushed by", "artifact", "description"]);
    for model in form["models"].as_array().into_iter().flatten() {
        for version in model["versions"].as_array().into_iter().flatten() {
            table.add([
                text(model, "model"),
                version["version"].to_string(),
                text(version, "state"),
                join(&version["environments"]),
                join(&version["aliases"]),
                text(&version["pushed"], "by"),
                short_digest(&text(version, "artifact")),
                text(version, "description"),
            ]);
        }
    }
    let trouble =
        form["trouble"].as_str().map_or_else(String::new, |trouble| format!("Nothing can be changed: {trouble}\n"));
    match form["models"].as_array().is_none_or(Vec::is_empty) {
        true => output::print(&format!("The registry has no versions: tiltyard push MODEL FILE\n{trouble}")),
        false => output::print(&(table.to_string() + &trouble)),
    }
}

fn model(matches: &ArgMatches, form: &Value) -> Result<(), Failure> {
    if Form::of(matches) == Form::Json {
        return output::print_json(form);
    }
    let mut lines = String::new();
    for (name, key) in
        [("model", "name"), ("owner", "owner"), ("purpose", "description"), ("task", "task"), ("risk", "risk")]
    {
        let value = text(form, key);
        if value != NOTHING && !value.is_empty() {
            lines += &format!("{name:<10} {value}\n");
        }
    }
    let mut table = Table::new(["version", "state", "pushed by", "metrics", "description"]);
    for version in form["versions"].as_array().into_iter().flatten() {
        table.add([
            version["number"].to_string(),
            text(version, "state"),
            text(&version["pushed"], "by"),
            metrics(version),
            text(version, "description"),
        ]);
    }
    output::print(&(lines + &table.to_string()))
}

/// Metrics in a line.
fn metrics(version: &Value) -> String {
    let all = version["metrics"].as_array().into_iter().flatten().map(|metric| {
        let key = &metric["key"];
        let on = key["dataset"]
            .as_str()
            .filter(|dataset| !dataset.is_empty())
            .map_or_else(String::new, |name| format!(" on {name}"));
        format!("{} {}{on}", key["metric"].as_str().unwrap_or_default(), metric["value"])
    });
    let all: Vec<String> = all.collect();
    if all.is_empty() { NOTHING.to_owned() } else { all.join(", ") }
}

fn version(matches: &ArgMatches, form: &Value) -> Result<(), Failure> {
    if Form::of(matches) == Form::Json {
        return output::print_json(form);
    }
    let lock = &form["lock"];
    let locked = format!("{} {} on {}", text(lock, "engine"), text(lock, "build"), text(lock, "provider"));
    let lines = [
        ("version", format!("{}@{}, {}", text(form, "model"), form["version"], text(form, "state"))),
        ("in", join(&form["environments"])),
        ("aliases", join(&form["aliases"])),
        ("artifact", text(form, "artifact")),
        ("files", form["files"].as_array().map_or(0, Vec::len).to_string()),
        ("pushed", format!("by {} in entry {}", text(&form["pushed"], "by"), form["pushed"]["sequence"])),
        ("runs with", if lock.is_object() { locked } else { NOTHING.to_owned() }),
        ("metrics", metrics(form)),
        ("tags", pairs(&form["tags"])),
        ("made of", made_of(&form["lineage"])),
        ("baseline", form["baseline"]["digest"].as_str().map_or_else(|| NOTHING.to_owned(), short_digest)),
        ("signed", text(&form["signed"], "key")),
        ("purpose", text(form, "description")),
    ];
    output::print(&lines.into_iter().map(|(name, value)| format!("{name:<10} {value}\n")).collect::<String>())
}

fn pairs(tags: &Value) -> String {
    let tags = tags
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()));
    let tags: Vec<String> = tags.collect();
    if tags.is_empty() { NOTHING.to_owned() } else { tags.join(", ") }
}

fn made_of(lineage: &Value) -> String {
    let datasets =
        lineage["datasets"].as_array().into_iter().flatten().map(|data| format!("data {}", text(data, "name")));
    let code = lineage["code"]["commit"].as_str().map(|commit| format!("code {commit}"));
    let run = lineage["run"]["id"].as_str().map(|run| format!("run {run}"));
    let parts: Vec<String> = datasets.chain(code).chain(run).collect();
    if parts.is_empty() { NOTHING.to_owned() } else { parts.join(", ") }
}
