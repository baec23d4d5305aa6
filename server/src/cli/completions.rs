//! How does a shell learn to complete our commands?

use clap::{Arg, ArgMatches, Command, value_parser};
use clap_complete::{Shell, generate};

use super::exit::Failure;
use super::output;

pub(crate) fn command() -> Command {
    Command::new("completions")
        .about("Print a script that teaches a shell to complete tiltyard's commands")
        .arg(
            Arg::new("shell").value_name("SHELL").required(true).value_parser(value_parser!(Shell)).help("Which shell"),
        )
        .after_help(
            "Examples:\n  tiltyard completions bash > ~/.local/share/bash-completion/completions/tiltyard\n  \
             tiltyard completions zsh > ~/.zfunc/_tiltyard\n  \
             tiltyard completions fish > ~/.config/fish/completions/tiltyard.fish",
        )
}

pub(crate) fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let shell = matches.get_one::<Shell>("shell").copied().unwrap_or(Shell::Bash);
    output::print(&script(shell))
}

fn script(shell: Shell) -> String {
    let mut script = Vec::new();
    generate(shell, &mut super::command(), "tiltyard", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_know_the_commands_and_their_flags() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = script(shell);
            for word in ["predict", "completions", "ports-file", "http-port"] {
                assert!(script.contains(word), "{shell}: {word}");
            }
        }
    }
}
