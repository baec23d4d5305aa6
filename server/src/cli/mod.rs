//! Which command was asked for, and how does the process end?

mod alerts;
mod apply;
mod audit;
mod backtest;
mod bench;
#[cfg(feature = "record")]
mod capture;
mod cells;
mod check;
mod completions;
mod config;
mod credentials;
pub(crate) mod demo;
mod drift;
mod endpoints;
mod engine;
pub mod exit;
mod explain;
mod feedback;
mod models;
mod output;
mod predict;
mod progress;
#[cfg(feature = "record")]
mod prove;
mod registry;
mod reload;
#[cfg(feature = "record")]
mod replay;
mod rollback;
mod rollout;
pub(crate) mod serve;
mod settings;
mod status;
mod target;
mod token;
mod traffic;
mod watch;

use std::process::ExitCode;

use clap::parser::ValueSource;
use clap::{ArgMatches, Command};

use self::exit::{Exit, Failure};
use crate::config::command_flags;

const ABOUT: &str = "Serve ONNX models over the Open Inference Protocol, REST and gRPC";

const HELP_END: &str = "\
Without a command, tiltyard serves the models in ./models; all flags of serve work without its name too.
Addresses: REST on 127.0.0.1:8000, gRPC on 127.0.0.1:8001, metrics and admin on 127.0.0.1:8002.

Examples:
  tiltyard                                      serve ./models
  tiltyard --models ~/models --http-port 9000   serve another folder on another port
  tiltyard check ~/models                       what would be served, and what is wrong
  tiltyard models                               what a running server serves
  tiltyard reload                               have it read its settings anew
  tiltyard status                               where each version stands, and since when
  tiltyard apply -f risk.toml                   split an endpoint's requests among versions
  tiltyard rollback risk                        go back to how they were split before
  tiltyard predict risk --file patients.csv     ask a running server
  tiltyard explain risk --file patients.csv     which column had which part in each score
  tiltyard bench risk                           what this machine can carry of it
  tiltyard engine install onnxruntime           bring the faster engine
  tiltyard backtest --rows history.csv …        two versions on rows whose labels are known
  tiltyard rollout plan --preview --rate 100    how long it takes to judge a challenger
  tiltyard replay --to risk@5 --models ./models  ask another version what was captured, and compare
  tiltyard prove PREDICTION_ID                  show that a prediction is on record, and run it again
  tiltyard feedback labels.csv --endpoint risk  say what became of rows that were answered
  tiltyard drift baseline risk --file val.csv   watch whether traffic is what a model was made for
  tiltyard alerts                               what is not as it should be
  tiltyard demo compete                         see models compete, in a minute or two
  tiltyard push risk model.onnx                 put a version into the registry
  tiltyard promote risk@3 --to prod             have it answer, once all that is asked of it is so
  tiltyard history risk                         which version answered when, and who approved it
  tiltyard token new app scorer:risk            a token for a caller of one model

Exit codes: 0 done, 1 failed, 2 usage, 3 server unreachable, 4 refused by policy, 5 rolled back.";

const SERVE_EXAMPLES: &str = "\
A folder of models has a folder per model and in it one per version: models/risk/1/model.onnx. A single .onnx file, or
a folder with one, is fine too, and so is the URL of either in a store. Every setting is also a variable and a key of ./tiltyard.toml; `tiltyard config` shows
which value holds, and why.

SIGTERM and SIGINT drain the server, a second one cuts that short: exit code 0 says that nothing was cut off, 1 that
requests were. SIGHUP has it read the file of settings anew.

Examples:
  tiltyard serve
  tiltyard serve --models churn.onnx
  tiltyard serve --models s3://bucket/models
  tiltyard serve --host 0.0.0.0 --models /models --log-format json
  tiltyard serve --http-port 0 --grpc-port 0 --admin-port 0 --ports-file ports.json
  tiltyard serve --model-control explicit --load-model risk --load-model digits";

/// The whole command line.
fn command() -> Command {
    // The flags of `serve` are taken without its name as well, but told only in its own help: there are many.
    let flags = command_flags().into_iter().map(|flag| flag.hide(true));
    let command = Command::new("tiltyard")
        .version(env!("CARGO_PKG_VERSION"))
        .about(ABOUT)
        .override_usage("tiltyard [FLAGS OF SERVE]\n       tiltyard COMMAND [OPTIONS]")
        .subcommand_value_name("COMMAND")
        .disable_help_subcommand(true)
        .args(flags)
        .arg(output::flag())
        .subcommand(serve_command())
        .subcommand(predict::command())
        .subcommand(explain::command())
        .subcommand(models::command())
        .subcommand(reload::command())
        .subcommand(status::command())
        .subcommand(watch::command())
        .subcommand(endpoints::command())
        .subcommand(apply::command())
        .subcommand(rollback::command())
        .subcommand(rollout::command())
        .subcommand(backtest::command())
        .subcommand(demo::command())
        .subcommand(feedback::command())
        .subcommand(drift::command())
        .subcommands(registry::commands())
        .subcommand(audit::command())
        .subcommand(alerts::command())
        .subcommand(check::command())
        .subcommand(bench::command())
        .subcommand(engine::command())
        .subcommand(config::command())
        .subcommand(token::command())
        .subcommand(completions::command())
        .after_help(HELP_END);
    #[cfg(feature = "record")]
    let command = command.subcommand(capture::command()).subcommand(replay::command()).subcommand(prove::command());
    command
}

fn serve_command() -> Command {
    Command::new("serve")
        .about("Serve a folder of models until told to end")
        .args(command_flags())
        .after_help(SERVE_EXAMPLES)
}

/// Does what the command line asks. Never panics on a closed standard output.
pub fn main() -> ExitCode {
    let matches = match command().try_get_matches() {
        Ok(matches) => matches,
        Err(error) => {
            // Help and the version come here too. Where nobody reads them, there is nobody to tell.
            drop(error.print());
            return if error.use_stderr() { Exit::Usage.into() } else { Exit::Done.into() };
        }
    };
    match run(&matches) {
        Ok(code) => code,
        Err(failure) => {
            let message = failure.to_string();
            if !message.is_empty() {
                output::note(format_args!("error: {message}"));
            }
            failure.exit().into()
        }
    }
}

fn run(matches: &ArgMatches) -> Result<ExitCode, Failure> {
    refuse_misplaced(matches)?;
    let done = |()| Exit::Done.into();
    match matches.subcommand() {
        None => serve(matches),
        Some(("serve", matches)) => serve(matches),
        Some(("predict", matches)) => predict::run(matches).map(done),
        Some(("explain", matches)) => explain::run(matches).map(done),
        Some(("models", matches)) => models::run(matches).map(done),
        Some(("reload", matches)) => reload::run(matches).map(done),
        Some(("status", matches)) => status::run(matches).map(done),
        Some(("watch", matches)) => watch::run(matches).map(done),
        Some(("endpoints", matches)) => endpoints::run(matches).map(done),
        Some(("apply", matches)) => apply::run(matches).map(done),
        Some(("rollback", matches)) => rollback::run(matches).map(done),
        Some(("rollout", matches)) => rollout::run(matches).map(done),
        Some(("backtest", matches)) => backtest::run(matches).map(Into::into),
        Some(("demo", matches)) => demo::run(matches),
        #[cfg(feature = "record")]
        Some(("capture", matches)) => capture::run(matches).map(Into::into),
        #[cfg(feature = "record")]
        Some(("replay", matches)) => replay::run(matches).map(Into::into),
        #[cfg(feature = "record")]
        Some(("prove", matches)) => prove::run(matches).map(Into::into),
        Some(("drift", matches)) => drift::run(matches).map(Into::into),
        Some(("audit", matches)) => audit::run(matches).map(done),
        Some(("alerts", matches)) => alerts::run(matches).map(Into::into),
        Some(("feedback", matches)) => feedback::run(matches).map(done),
        Some(("check", matches)) => check::run(matches).map(done),
        Some(("bench", matches)) => bench::run(matches).map(done),
        Some(("engine", matches)) => engine::run(matches).map(done),
        Some(("config", matches)) => config::run(matches).map(done),
        Some(("token", matches)) => token::run(matches).map(done),
        Some(("completions", matches)) => completions::run(matches).map(done),
        Some((name, matches)) => match registry::run(name, matches) {
            Some(ran) => ran.map(done),
            None => Err(Failure::usage(format!("unknown command {name:?}"))),
        },
    }
}

fn serve(matches: &ArgMatches) -> Result<ExitCode, Failure> {
    serve::run(matches)
}

/// Flags in a place where they would be silently without effect are mistakes.
fn refuse_misplaced(matches: &ArgMatches) -> Result<(), Failure> {
    let given = |id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
    let subcommand = matches.subcommand_name();
    if matches!(subcommand, None | Some("serve")) && given(output::OUTPUT) {
        return Err(Failure::usage("--output is for the other commands; the form of serve's log is --log-format"));
    }
    let flags = command_flags();
    let flag = flags.iter().find(|flag| given(flag.get_id().as_str())).and_then(|flag| flag.get_long());
    match (flag, subcommand) {
        (Some(flag), Some(command)) => Err(Failure::usage(format!(
            "--{flag} is without effect before a command: write tiltyard {command} … --{flag} …"
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        command().debug_assert();
    }

    /// Parses a line, and says which command with which value of `--http-port` it is, or how it is wrong.
    fn parsed(line: &str) -> String {
        let matches = match command().try_get_matches_from(line.split_whitespace()) {
            Ok(matches) => matches,
            Err(error) => return format!("{:?}", error.kind()),
        };
        if let Err(failure) = refuse_misplaced(&matches) {
            return failure.to_string();
        }
        let (name, matches) = matches.subcommand().unwrap_or(("", &matches));
        let port = matches.try_get_one::<String>("http_port").ok().flatten();
        let form = matches.try_get_one::<String>(output::OUTPUT).ok().flatten();
        [Some(name.to_owned()), port.cloned(), form.cloned()].into_iter().flatten().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn lines_that_people_type() {
        let check = |line: &str, expected: &str| assert_eq!(parsed(line), expected, "{line}");
        check("tiltyard", "");
        check("tiltyard --http-port 9000 --strict --models m", " 9000");
        check("tiltyard serve --http-port 9000 --load-model a --load-model b", "serve 9000");
        check("tiltyard models --output json", "models json");
        check("tiltyard reload --ports-file ports.json", "reload");
        check("tiltyard --output json models", "models json");
        check("tiltyard config --http-port 9000", "config 9000");
        check("tiltyard engine list --output json", "engine json");
        check("tiltyard status --output json", "status json");
        check("tiltyard watch", "watch");
        check("tiltyard check", "check");
        check("tiltyard rollout verify log --output json", "rollout json");
        check("tiltyard rollout plan --preview --rate 100", "rollout");
        check("tiltyard check m --engines tract,onnxruntime", "check");
        check("tiltyard bench risk --models m --output json", "bench json");
        check("tiltyard backtest --rows h.csv --label y risk@1 risk@2 --output json", "backtest json");
        check("tiltyard completions bash", "completions");
        check("tiltyard token new app scorer:risk viewer", "token");
        check("tiltyard apply -f risk.toml --dry-run", "apply");
        check("tiltyard rollback risk --to 3 --output json", "rollback json");
        check("tiltyard endpoints", "endpoints");
        check("tiltyard endpoints remove risk", "endpoints");
        check("tiltyard feedback labels.csv --endpoint risk --output json", "feedback json");
        check("tiltyard replay --to risk@5 --models m --fail-over 0.01 --output json", "replay json");
        check("tiltyard prove 01920000-0000-7000-8000-0000000000ab:0 --models m --output json", "prove json");
        check("tiltyard capture erase --key ann --capture-key-file k", "capture");
        check("tiltyard rollout assign risk --key k --file risk.toml", "rollout");
        check("tiltyard demo compete --report r.html --output json", "demo json");
        check("tiltyard demo server --http-port 0 --remove f", "demo");
        check("tiltyard models --server https://h --token-file t --ca c --output json", "models json");
    }

    #[test]
    fn lines_that_are_wrong() {
        let check = |line: &str, expected: &str| {
            let found = parsed(line);
            assert!(found.contains(expected), "{line}: {found}");
        };
        check("tiltyard srve", "InvalidSubcommand");
        check("tiltyard --htp-port 1", "UnknownArgument");
        check("tiltyard models --output yaml", "InvalidValue");
        check("tiltyard --output json", "--output is for the other commands");
        check("tiltyard serve --output json", "--output is for the other commands");
        check("tiltyard --models m predict risk --data {}", "write tiltyard predict … --models …");
        check("tiltyard --strict serve", "write tiltyard serve … --strict …");
        check("tiltyard engine", "DisplayHelpOnMissingArgumentOrSubcommand");
        check("tiltyard engine install", "MissingRequiredArgument");
        check("tiltyard engine install triton", "InvalidValue");
        check("tiltyard rollout", "DisplayHelpOnMissingArgumentOrSubcommand");
        check("tiltyard rollout verify", "MissingRequiredArgument");
        check("tiltyard rollout plan --preview", "MissingRequiredArgument");
        check("tiltyard rollout plan --rate 100", "MissingRequiredArgument");
        check("tiltyard backtest --rows h.csv --label y risk@1", "MissingRequiredArgument");
        check("tiltyard completions cmd", "InvalidValue");
        check("tiltyard token new app", "MissingRequiredArgument");
        check("tiltyard models --token secret", "UnknownArgument");
        check("tiltyard apply", "MissingRequiredArgument");
        check("tiltyard rollback risk --to latest", "ValueValidation");
        check("tiltyard rollout assign risk", "MissingRequiredArgument");
        check("tiltyard feedback", "MissingRequiredArgument");
        check("tiltyard demo", "DisplayHelpOnMissingArgumentOrSubcommand");
        check("tiltyard demo compete --rows 5", "UnknownArgument");
    }
}
