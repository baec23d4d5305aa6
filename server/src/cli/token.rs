//! How does somebody get a token, and the server the line that knows it?

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use serde_json::json;

use super::exit::Failure;
use super::output::{self, Form};
use crate::locks::{list, secret};

/// Who may read a file with a token.
const TOKEN_MODE: u32 = 0o600;

pub(crate) fn command() -> Command {
    let file = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).value_parser(value_parser!(PathBuf)).help(help)
    };
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
        .arg(file("into", "ACCESS_FILE", "Add the line to this access file, which a server reads again by itself"))
        .arg(file("to", "TOKEN_FILE", "Write the token to this file, which must be new, and which nobody else may read"))
        .after_help(
            "The token is kept nowhere else: the access file has its SHA-256 only. Without --to standard output has the token; \
             without --into standard error has the line.\n\nExamples:\n  tiltyard token new fraud-app scorer:risk\n  \
             tiltyard token new ci deployer viewer --into access --to ci.token\n  tiltyard status --token-file ci.token",
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
    let path = |name: &str| matches.get_one::<PathBuf>(name).map(PathBuf::as_path);
    let (into, to) = (path("into"), path("to"));
    let (token, digest) = secret::new().map_err(Failure::failed)?;
    let line = line(&name, &roles, &digest.to_string())?;
    keep(&token, to, &line, into)?;
    match Form::of(matches) {
        Form::Json if to.is_some() => output::print_json(&json!({ "name": name, "line": line })),
        Form::Json => output::print_json(&json!({ "name": name, "token": token, "line": line })),
        Form::Table => {
            match to {
                Some(to) => output::print(&format!("The token of {name} is in {}.\n", to.display()))?,
                None => output::print(&format!("{token}\n"))?,
            }
            if into.is_none() {
                output::note(line);
            }
            Ok(())
        }
    }
}

/// Writes the token, and the line that knows it, to the files that were named: both, or none.
fn keep(token: &str, to: Option<&Path>, line: &str, into: Option<&Path>) -> Result<(), Failure> {
    let failed = |path: &Path, error: io::Error| Failure::failed(format!("cannot write {}: {error}", path.display()));
    if let Some(to) = to {
        let written = OpenOptions::new().write(true).create_new(true).mode(TOKEN_MODE).open(to);
        written.and_then(|mut file| writeln!(file, "{token}")).map_err(|error| failed(to, error))?;
    }
    let Some(into) = into else { return Ok(()) };
    add(line, into).inspect_err(|_| {
        if let Some(to) = to {
            // Nobody knows this token.
            drop(fs::remove_file(to));
        }
    })
}

/// Adds a line to an access file, where all of it can be read by a server then.
fn add(line: &str, into: &Path) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::failed(format!("cannot write {}: {error}", into.display()));
    let before = match fs::read_to_string(into) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        before => before.map_err(failed)?,
    };
    list::List::parse(&before)
        .map_err(|why| Failure::failed(format!("{} is no access file: {why}", into.display())))?;
    // An editor may have left the last line without an end.
    let gap = if before.is_empty() || before.ends_with('\n') { "" } else { "\n" };
    let file = File::options().append(true).create(true).open(into);
    file.and_then(|mut file| file.write_all(format!("{gap}{line}\n").as_bytes())).map_err(failed)
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

    #[test]
    fn a_token_and_its_line_are_kept_both_or_not_at_all() {
        use std::os::unix::fs::PermissionsExt as _;

        let folder = tempfile::tempdir().unwrap();
        let (access, token) = (folder.path().join("access"), folder.path().join("ann.token"));
        fs::write(&access, format!("token app scorer sha256:{}", "1".repeat(64))).unwrap();
        let line = |digit: &str| format!("token ann viewer sha256:{}", digit.repeat(64));
        keep("secret", Some(&token), &line("2"), Some(&access)).unwrap();
        let text = fs::read_to_string(&access).unwrap();
        assert!(list::List::parse(&text).is_ok() && text.lines().count() == 2, "{text}");
        assert_eq!(fs::read_to_string(&token).unwrap(), "secret\n");
        assert_eq!(fs::metadata(&token).unwrap().permissions().mode() & 0o777, TOKEN_MODE);
        // A file that is there is somebody's token.
        assert!(keep("other", Some(&token), &line("3"), Some(&access)).is_err());
        assert_eq!(fs::read_to_string(&token).unwrap(), "secret\n");
        let (other, wrong) = (folder.path().join("bob.token"), folder.path().join("wrong"));
        fs::write(&wrong, "who knows\n").unwrap();
        let failure = keep("other", Some(&other), &line("3"), Some(&wrong)).unwrap_err();
        assert!(failure.to_string().contains("is no access file") && !other.exists(), "{failure}");
    }
}
