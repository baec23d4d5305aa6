//! How does somebody have a version answer in an environment?

use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::{Value, json};

use super::approve::comes_by_rollout;
use super::{Asked, reference, text};
use crate::cli::exit::Failure;
use crate::cli::output::{self, Form};
use crate::cli::target::{admin_flag, server_flags};
use crate::endpoints::file;

pub(crate) fn command() -> Command {
    let steps = Arg::new("steps")
        .long("steps")
        .value_name("SHARE/TIME,…")
        .help("The steps of its rollout, such as 1%/1h,25%/4h");
    Command::new("promote")
        .about("Have a version of the registry answer in an environment, at once or by a rollout")
        .long_about(
            "Have a version of the registry answer in an environment, where everything that the environment asks is so. With \
             --rollout it competes first: its share grows as its evidence does, and it is in the environment once it is promoted. \
             Exit code 4 where a rule refuses it: each is told, with what would satisfy it.",
        )
        .arg(reference("version"))
        .arg(Arg::new("to").long("to").value_name("ENVIRONMENT").default_value("prod").help("The environment"))
        .arg(
            Arg::new("rollout")
                .long("rollout")
                .value_name("FILE")
                .num_args(0..=1)
                .default_missing_value("")
                .help("By a rollout: as the file says, or with its defaults. docs/rollouts.md has the form"),
        )
        .arg(steps)
        .arg(Arg::new("shadow").long("shadow").value_name("SHARE").help("How much of the traffic its shadow sees, such as 100%"))
        .arg(
            Arg::new("override")
                .long("override")
                .value_name("REASON")
                .help("Set rules aside, in an emergency: takes an admin, and stays on the record"),
        )
        .arg(Arg::new("dry_run").long("dry-run").action(ArgAction::SetTrue).help("Only say what is in the way"))
        .args(server_flags())
        .arg(admin_flag())
        .after_help("Examples:\n  tiltyard promote risk@4 --to staging\n  tiltyard promote risk@4 --to prod --rollout\n  tiltyard promote risk@4 --to prod --steps 5%/10m,50%/1h --shadow 100%")
}

pub(crate) fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let of = |name: &str| matches.get_one::<String>(name).cloned();
    let (version, to) = (of("version").unwrap_or_default(), of("to").unwrap_or_default());
    let asked = Asked::of(matches)?;
    if matches.get_flag("dry_run") {
        return dry_run(matches, &asked, &version, &to);
    }
    let body = json!({ "version": version, "to": to, "rollout": rollout(matches)?, "overriding": of("override") });
    let answer = asked.post("/admin/registry/promote", &body)?;
    if Form::of(matches) == Form::Json {
        output::print_json(&answer)?;
    }
    let name = format!("{}@{}", answer["model"].as_str().unwrap_or_default(), answer["version"]);
    if answer["answers"] == false {
        return Err(Failure::failed(format!(
            "{name} is in {to} on the record, and does not answer: {}. It is tried again until it does, or another version is promoted",
            text(&answer, "why")
        )));
    }
    let told = match answer["rollout"].as_str() {
        Some(rollout) => format!(
            "{name} competes for {to} in rollout {rollout}: tiltyard rollout status {} --wait\n",
            answer["model"].as_str().unwrap_or_default()
        ),
        None if answer["answers"] == true => format!("{name} is in {to}, and answers.\n"),
        None => format!("{name} is in {to}: its servers follow.\n"),
    };
    if Form::of(matches) == Form::Table { output::print(&told) } else { Ok(()) }
}

/// The rollout that flags and file say; none where nothing says one.
pub(super) fn rollout(matches: &ArgMatches) -> Result<Option<Value>, Failure> {
    let of = |name: &str| matches.get_one::<String>(name);
    let mut written = match of("rollout") {
        Some(path) if !path.is_empty() => file::parse(&super::read_text(path)?)
            .map_err(|error| Failure::failed(format!("{path}: {}", error.message())))?,
        Some(_) => json!({}),
        None if of("steps").is_some() || of("shadow").is_some() => json!({}),
        None => return Ok(None),
    };
    if let Some(steps) = of("steps") {
        written["steps"] = crate::cli::rollout::read_steps(steps);
    }
    if let Some(shadow) = of("shadow") {
        written["shadow"] = shadow.clone().into();
    }
    Ok(Some(written))
}

fn dry_run(matches: &ArgMatches, asked: &Asked, version: &str, to: &str) -> Result<(), Failure> {
    use crate::cli::target::path_part;
    let standing = asked.get(&format!("/admin/registry/needs/{}/{}", path_part(version), path_part(to)))?;
    let needs: Vec<&Value> = standing["needs"].as_array().into_iter().flatten().collect();
    if Form::of(matches) == Form::Json {
        output::print_json(&standing)?;
    }
    let has_rollout = ["rollout", "steps", "shadow"].iter().any(|name| matches.contains_id(name));
    let lacks_rollout = comes_by_rollout(&standing) && !has_rollout;
    if needs.is_empty() && !lacks_rollout {
        return if Form::of(matches) == Form::Table { output::print("Nothing is in the way.\n") } else { Ok(()) };
    }
    let text = |need: &Value, key: &str| need[key].as_str().unwrap_or_default().to_owned();
    let lines = needs
        .iter()
        .map(|need| format!("\n  {}: {}; needed: {}", text(need, "rule"), text(need, "is"), text(need, "needed")));
    let way = standing["rollout"].as_str().unwrap_or_default();
    let rollout = match lacks_rollout {
        true => format!("\n  rollout: it would come as direct; needed: a rollout of the kind {way} (--rollout)"),
        false => String::new(),
    };
    Err(Failure::refused(format!("{version} may not be in {to}:{}{rollout}", lines.collect::<String>())))
}
