//! Which settings are in force, and who gave each?

use clap::{ArgMatches, Command};
use serde_json::{Value, json};

use super::exit::Failure;
use super::output::{self, Form};
use super::settings;
use crate::config::{Loaded, Setting, command_flags};

pub(crate) fn command() -> Command {
    Command::new("config")
        .about("Show every setting with its value and where it came from")
        .long_about(
            "Show every setting with its value and where it came from: a flag, a variable, the file or the default. \
             Takes the flags of serve, so that a command line can be tried without starting a server.",
        )
        .args(command_flags())
        .after_help(
            "Examples:\n  tiltyard config\n  tiltyard config --http-port 9000\n  \
             tiltyard config --config production.toml --output json",
        )
}

pub(crate) fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let loaded = settings::load(matches)?;
    match Form::of(matches) {
        Form::Json => output::print_json(&listing(&loaded)),
        Form::Table => {
            settings::warn(&loaded);
            output::print(&loaded.listing())
        }
    }
}

fn listing(loaded: &Loaded) -> Value {
    let setting = |Setting { key, value, origin }: &Setting| {
        let value = (!value.is_empty()).then_some(value);
        json!({ "key": key, "value": value, "origin": origin.to_string() })
    };
    json!({ "settings": loaded.origins.iter().map(setting).collect::<Vec<_>>(), "warnings": loaded.warnings })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_get_every_setting_with_its_origin() {
        let matches = command().try_get_matches_from(["config", "--http-port", "9000", "--config="]).unwrap();
        let loaded = crate::config::load(&matches, &Default::default(), &|_| Ok(String::new())).unwrap();
        let listing = listing(&loaded);
        let find =
            |key: &str| listing["settings"].as_array().unwrap().iter().find(|entry| entry["key"] == key).unwrap();
        assert_eq!(*find("http_port"), json!({"key": "http_port", "value": "9000", "origin": "flag --http-port"}));
        assert_eq!(*find("ports_file"), json!({"key": "ports_file", "value": null, "origin": "default"}));
    }
}
