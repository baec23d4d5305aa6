//! How does somebody go back to the plan that held before?

use clap::{Arg, ArgMatches, Command};
use serde_json::json;

use super::apply::show;
use super::credentials::Credentials;
use super::exit::Failure;
use super::status::address;
use super::target::{Http, Named, admin_flag, ask, path_part, server_flags};

pub(crate) fn command() -> Command {
    Command::new("rollback")
        .about("Go back to an endpoint's earlier plan, at once")
        .long_about(
            "Go back to an earlier revision of an endpoint's plan, at once: its versions are loaded still. Without --to it is \
             the revision before the current one; a second rollback goes further back.",
        )
        .arg(Arg::new("endpoint").value_name("ENDPOINT").required(true).help("The name that clients call"))
        .arg(
            Arg::new("to")
                .long("to")
                .value_name("REVISION")
                .value_parser(clap::value_parser!(u64))
                .help("The revision to go back to"),
        )
        .args(server_flags())
        .arg(admin_flag())
        .after_help("Examples:\n  tiltyard rollback risk\n  tiltyard rollback risk --to 3")
}

pub(crate) fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let endpoint = matches.get_one::<String>("endpoint").map(String::as_str).unwrap_or_default();
    let http = Http::new(address(&Named::of(matches)?)?, &Credentials::of(matches)?)?;
    let body = json!({ "to": matches.get_one::<u64>("to") }).to_string().into_bytes();
    let answer = ask(&http, "POST", &format!("/admin/endpoints/{}/rollback", path_part(endpoint)), body)?;
    show(matches, &answer)
}
