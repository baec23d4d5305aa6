//! Which environments are there, what do they ask, and which versions are in them?

use clap::{Arg, ArgMatches, Command, value_parser};
use serde_json::json;
use tiltyard_registry::book::Policy;

use super::{Asked, read_text, text};
use crate::cli::exit::Failure;
use crate::cli::output::{self, Form, NOTHING, Table};
use crate::cli::target::{admin_flag, server_flags};
use crate::endpoints::file;

pub(crate) fn command() -> Command {
    let name = || Arg::new("name").value_name("ENVIRONMENT").required(true).help("Its name, such as prod");
    let with_server = |command: Command| command.args(server_flags()).arg(admin_flag());
    let set = Command::new("set")
        .about("Declare an environment and what it asks of versions")
        .arg(name())
        .arg(Arg::new("rank").long("rank").value_name("N").value_parser(value_parser!(u64)).help("Its place: those below have lower ranks"))
        .arg(Arg::new("file").short('f').long("file").value_name("PATH").help("Its policy in TOML; without it, nothing is asked"))
        .after_help(
            "prod.toml:\n\n  golden_min = 1\n  rollout = \"canary\"\n\n  [[approvals]]\n  required = 1\n  roles = [\"approver\"]\n\n  \
             [[metrics]]\n  metric = \"auc\"\n  dataset = \"holdout\"\n  bound = 0.9\n\ndocs/registry.md has all rules.",
        );
    let back = Command::new("back")
        .about("Have what was in an environment before be there again, and answer")
        .arg(name())
        .arg(Arg::new("model").value_name("MODEL").required(true).help("The model"))
        .arg(Arg::new("reason").long("reason").value_name("TEXT").required(true).help("Why"))
        .arg(
            Arg::new("version")
                .long("version")
                .value_name("N")
                .value_parser(value_parser!(u64))
                .help("Which; the one before where it is left out"),
        );
    with_server(Command::new("environments").about("List environments with what is in them, or change them"))
        .subcommands([set, back].map(with_server))
        .after_help("Examples:\n  tiltyard environments\n  tiltyard environments set prod -f prod.toml\n  tiltyard environments back prod risk --reason \"complaints\"")
}

pub(crate) fn run(matches: &ArgMatches) -> Result<(), Failure> {
    match matches.subcommand() {
        Some(("set", matches)) => set(matches),
        Some(("back", matches)) => back(matches),
        _ => list(matches),
    }
}

fn set(matches: &ArgMatches) -> Result<(), Failure> {
    let asked = Asked::of(matches)?;
    let name = matches.get_one::<String>("name").cloned().unwrap_or_default();
    let policy = match matches.get_one::<String>("file") {
        None => json!({}),
        Some(file) => {
            let policy = file::parse::<Policy>(&read_text(file)?);
            let policy = policy.map_err(|error| Failure::failed(format!("{file}: {}", error.message())))?;
            serde_json::to_value(policy).map_err(|error| Failure::failed(format!("{file}: {error}")))?
        }
    };
    let known = asked.get("/admin/registry/environments")?;
    let known = known.as_array().into_iter().flatten().find(|known| known["name"] == name.as_str());
    let rank = matches.get_one::<u64>("rank").copied().or_else(|| known?["rank"].as_u64());
    let rank = rank.ok_or_else(|| {
        Failure::usage(format!("{name} is new: say its place with --rank; dev has 10, staging 20, prod 30"))
    })?;
    let wants = json!({ "environment": { "environment": name, "rank": rank, "policy": policy } });
    let answer = asked.order(&wants)?;
    match Form::of(matches) {
        Form::Json => output::print_json(&answer),
        Form::Table => {
            let digest: String =
                answer["outcome"]["environment"]["policy"].as_str().unwrap_or_default().chars().take(12).collect();
            output::print(&format!(
                "{name} has the policy {digest}. Approvals that were given under another one do not count any more.\n"
            ))
        }
    }
}

fn back(matches: &ArgMatches) -> Result<(), Failure> {
    let of = |name: &str| matches.get_one::<String>(name).cloned().unwrap_or_default();
    let body = json!({ "environment": of("name"), "model": of("model"), "reason": of("reason"), "to": matches.get_one::<u64>("version") });
    let answer = Asked::of(matches)?.post("/admin/registry/back", &body)?;
    if answer["answers"] == false {
        let why = text(&answer, "why");
        return Err(Failure::failed(format!(
            "it is on the record, and does not answer: {why}. It is tried again until it does"
        )));
    }
    match Form::of(matches) {
        Form::Json => output::print_json(&answer),
        Form::Table => {
            let version = &answer["outcome"]["position"]["version"];
            output::print(&format!("{}@{version} is in {} again.\n", of("model"), of("name")))
        }
    }
}

fn list(matches: &ArgMatches) -> Result<(), Failure> {
    let form = Asked::of(matches)?.get("/admin/registry/environments")?;
    if Form::of(matches) == Form::Json {
        return output::print_json(&form);
    }
    let mut table = Table::new(["environment", "rank", "asks", "versions"]);
    for environment in form.as_array().into_iter().flatten() {
        let policy = environment["policy"].as_object();
        let asks: Vec<&str> = policy.into_iter().flat_map(|policy| policy.keys()).map(String::as_str).collect();
        let current = environment["current"].as_object().into_iter().flatten();
        let current: Vec<String> = current.map(|(model, version)| format!("{model}@{version}")).collect();
        let shown = |list: String| if list.is_empty() { NOTHING.to_owned() } else { list };
        table.add([
            text(environment, "name"),
            environment["rank"].to_string(),
            shown(asks.join(", ")),
            shown(current.join(", ")),
        ]);
    }
    output::print(&table.to_string())
}
