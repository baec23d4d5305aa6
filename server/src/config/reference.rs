//! How are the settings told to people: as flags with help, and as a page of documentation?

use clap::{Arg, ArgAction};

use super::keys::{KEYS, KeyDefinition};
use super::kinds::Form;
use super::live::LIVE;

/// One flag per setting, for every command that takes settings. Their values are read by [`super::load`].
pub fn command_flags() -> Vec<Arg> {
    KEYS.iter().map(flag).collect()
}

fn flag(key: &KeyDefinition) -> Arg {
    let help = format!("{} [env: {}] [default: {}]", key.help, key.variable(), key.fallback_shown());
    let arg = Arg::new(key.name).long(key.flag()).help(help).help_heading(key.section).value_name(key.placeholder);
    match key.form {
        Form::List => arg.action(ArgAction::Append),
        // `--strict` alone means true; only `--strict=false` takes a value, so that no argument after it is eaten.
        Form::Boolean => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
        Form::Text | Form::Integer | Form::IntegerOrText | Form::Number => arg,
    }
}

/// The page of documentation about all settings, in Markdown.
pub fn reference_markdown() -> String {
    let mut page = PREFACE.to_owned();
    let mut section = "";
    for key in KEYS {
        if key.section != section {
            section = key.section;
            page += &format!("\n## {section}\n");
        }
        let place = if key.in_file() { format!("`{}`", key.name) } else { "not in the file".to_owned() };
        let change = if LIVE.contains(&key.name) { "at a reload" } else { "at a restart" };
        page += &format!(
            "\n### {}\n\n{}\n\n- flag `--{}`, variable `{}`, key {place}\n- expects {}\n- default: {}\n- \
             changes: {change}\n",
            key.name,
            key.help,
            key.flag(),
            key.variable(),
            key.expected,
            key.fallback_shown(),
        );
    }
    page
}

const PREFACE: &str = "\
# Configuration

Made from the table of settings in `server/src/config/keys.rs`. To make it anew, run the tests of `tiltyard-server` \
with `TILTYARD_REGENERATE=1`.

Every setting can be given in four ways. The first that gives it wins:

1. a flag, such as `--http-port 9000`
2. a variable, such as `TILTYARD_HTTP_PORT=9000`; an empty one counts as none
3. a key in the file, such as `http_port = 9000` in `tiltyard.toml`
4. the default

`tiltyard config` lists every setting with its value and where it came from. Unknown keys in the file are refused; \
unknown variables that begin with `TILTYARD_` are warned about. Variables that Kubernetes sets for services, such as \
`TILTYARD_HTTP_PORT=tcp://10.0.0.1:8000`, are ignored with a warning. Paths are relative to the working directory.

A running server reads the file anew on SIGHUP and when `tiltyard reload` asks it to. Changes of the keys that say so \
below hold from then on; the others are told by name and wait for a restart. A file with a mistake changes nothing: \
the mistake is logged, and `tiltyard reload` tells it and ends with exit code 1.
";
