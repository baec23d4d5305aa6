//! How does somebody get a token, and the server the line that knows it?

use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::json;

use super::exit::Failure;
use super::output::{self, Form};
use crate::locks::{list, secret};

pub(crate) fn command() -> Command {
    let new = Command::new("new")
        .about("Make a token: print it, this once, and the line of the access file that knows it")
        .arg(Arg::new("name").required(true).value_name("NAME").help("Whom the token is for, as logs will have it"))
        .arg(
            Arg::new("role")
                .required(true)
                .value_name("ROLE")
                .num_args(1..)
                .action(ArgAction::Append)
                .help("viewer, scorer, deployer, approver or admin, for all models or for some: scorer:risk,fraud-*"),
        )
        .after_help(
            "The token is kept nowhere: the access file has its SHA-256 only. Standard output has the token, standard \
             error the line.\n\nExamples:\n  tiltyard token new fraud-app scorer:risk\n  \
             tiltyard token new ci deployer viewer >ci.token 2>>access",
        );
    Command::new("token")
        .about("Make tokens for callers of a server with an access file")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(new)
}

pub(crate) fn run(matches: &ArgMatches) -> Result<(), Failure> {
    match matches.subcommand() {
        Some(("new", matches)) => new(matches),
        _ => Err(Failure::usage("expected `tiltyard token new NAME ROLE…`")),
    }
}

fn new(matches: &ArgMatches) -> Result<(), Failure> {
    let name = matches.get_one::<String>("name").cloned().unwrap_or_default();
    let roles: Vec<String> = matches.get_many::<String>("role").unwrap_or_default().cloned().collect();
    let (token, digest) = secret::new().map_err(Failure::failed)?;
    let line = line(&name, &roles, &digest.to_string())?;
    match Form::of(matches) {
        Form::Json => output::print_json(&json!({ "name": name, "token": token, "line": line })),
        Form::Table => {
            output::print(&format!("{token}\n"))?;
            output::note(line);
            Ok(())
        }
    }
}

/// A line that the server can read, which is made sure of here.
fn line(name: &str, roles: &[String], digest: &str) -> Result<String, Failure> {
    let word = |word: &str| if word.contains(char::is_whitespace) { format!("\"{word}\"") } else { word.to_owned() };
    let words: Vec<String> = std::iter::once(name).chain(roles.iter().map(String::as_str)).map(word).collect();
    let line = format!("token {} sha256:{digest}", words.join(" "));
    let is_one_line = !line.contains(['\n', '\r', '#']) && !name.contains('"') && !name.is_empty();
    if !is_one_line {
        return Err(Failure::usage(format!("{name:?} cannot be a name: no quotes, no #, one line")));
    }
    list::List::parse(&line).map(|_| line).map_err(Failure::usage)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_can_be_read_by_the_server() {
        let check = |name: &str, roles: &[&str], expected: Result<&str, &str>| {
            let roles: Vec<String> = roles.iter().map(|role| (*role).to_owned()).collect();
            match (line(name, &roles, &"0".repeat(64)), expected) {
                (Ok(line), Ok(expected)) => assert_eq!(line, format!("{expected} sha256:{}", "0".repeat(64))),
                (Err(failure), Err(part)) => assert!(failure.to_string().contains(part), "{failure}"),
                (found, _) => panic!("{name:?}: {found:?}"),
            }
        };
        check("app", &["scorer:risk", "viewer"], Ok("token app scorer:risk viewer"));
        check("the app", &["scorer:my model"], Ok("token \"the app\" \"scorer:my model\""));
        check("app", &["owner"], Err("is no role"));
        check("a\nb", &["viewer"], Err("cannot be a name"));
        check("#", &["viewer"], Err("cannot be a name"));
        check("", &["viewer"], Err("cannot be a name"));
    }
}
