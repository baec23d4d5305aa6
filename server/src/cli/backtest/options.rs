//! What is to be compared, on which rows, by which loss?

use std::path::PathBuf;

use clap::builder::ValueParser;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use super::dates::{parse_horizon, parse_time};
use crate::cli::exit::Failure;
use crate::cli::predict::{ModelName, parse_model};
use crate::cli::settings::{self, ENGINE_SETTINGS};
use crate::cli::target::{admin_flag, server_flags};
use crate::clock;

/// The chance of a wrong verdict where nobody says: that of a plan.
const ALPHA: &str = "0.01";

const EXAMPLES: &str = "\
Rows are CSV with a header, or NDJSON (one object per line), plain or gzip, or Parquet. Columns are found by name, as in row scoring.
A row counts if it can be read, is old enough, has a label, and is the first of its key to do so.

The verdict is that of a paired shadow on the same rows: losses of 0 or 1 are judged by the rows that one version alone got
right, others by a confidence sequence of their difference. It may be asked again as labels come in.

Exit codes: 0 the challenger is better (with --margin: not worse by more than that), 5 it is worse, 4 not enough was shown,
a slice is worse, or pairs may not decide; 1 failed, 2 usage.

Examples:
  tiltyard backtest --rows history.csv --key id --label default_90d --label-depends-on-decision no risk@1 risk@2
  tiltyard backtest --rows history.ndjson.gz --key customer --label churned --time day --horizon 90d \\
      --label-depends-on-decision no --slice region --slice plan churn@3 churn@4
  tiltyard backtest --rows trips.csv --label minutes --loss absolute --scale 60 --label-depends-on-decision no eta@1 eta@2
  tiltyard backtest --rows h.csv --key id --label y --margin 0.005 --label-depends-on-decision no big@1 small@1
  tiltyard backtest --rows history.csv --label y --label-depends-on-decision no --gate risk risk@1 risk@2";

const DEPENDS: &str = "\
say whether what the model says changes the label itself: --label-depends-on-decision yes, or no.
  no    the label is seen whatever was decided: a forecast and what came, a fraud told by the chargeback
  yes   what was decided shapes it: a loan that was declined never defaults, who is shown nothing buys nothing.
        History then says how the decisions of then did, and nothing of other ones: there is no verdict on quality";

pub(super) fn command() -> Command {
    let engine_flags = settings::flags(&ENGINE_SETTINGS).into_iter().map(|flag| flag.help_heading("Models"));
    let models = settings::flags(&["models", "threads"]).into_iter().map(|flag| flag.help_heading("Models"));
    Command::new("backtest")
        .about("Judge two versions on rows whose labels are known, before any user is touched")
        .arg(version("champion", "CHAMPION", "The version that answers today: MODEL[@VERSION]"))
        .arg(version("challenger", "CHALLENGER", "The version that is to be better: MODEL[@VERSION]"))
        .args(history_flags())
        .args(judging_flags())
        .args(gate_flags())
        .args(models)
        .args(engine_flags)
        .args(server_flags())
        .arg(admin_flag())
        .after_help(EXAMPLES)
}

fn version(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    Arg::new(name).value_name(value).required(true).help(help)
}

fn flag(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(value).help(help)
}

fn history_flags() -> [Arg; 9] {
    let history = |arg: Arg| arg.help_heading("History");
    let number = value_parser!(u64);
    [
        flag("rows", "FILE", "The history; - for standard input").required(true).value_parser(value_parser!(PathBuf)),
        flag("label", "COLUMN", "What came out: a class, 0 or 1, or a number").required(true),
        flag(
            "key",
            "COLUMN",
            "Whom a row is about: only the first of each key counts, since others are not independent",
        ),
        flag("missing", "LABEL", "What a row without a label counts as [default: not at all]"),
        flag("time", "COLUMN", "When a row was answered: a date, a time, or seconds since 1970").requires("horizon"),
        flag("horizon", "AGE", "Rows younger than this do not count, such as 90d: their labels are not final")
            .value_parser(ValueParser::new(horizon))
            .requires("time"),
        flag("as-of", "DATE", "The day from which that is reckoned [default: now]")
            .value_parser(ValueParser::new(date))
            .requires("time"),
        flag("slice", "COLUMN", "Report each value of this column apart, such as region; may be repeated")
            .action(ArgAction::Append),
        flag("errors-max", "ROWS", "Rows that may be unreadable before it is given up")
            .value_parser(number)
            .default_value("0"),
    ]
    .map(history)
}

fn judging_flags() -> [Arg; 7] {
    let judging = |arg: Arg| arg.help_heading("Judging");
    [
        flag(
            "label-depends-on-decision",
            "yes|no",
            "Whether what the model says changes the label itself; must be said",
        )
        .value_parser(["yes", "no"])
        .hide_possible_values(true),
        flag("loss", "LOSS", "zero-one for classes, absolute or squared for numbers and probabilities")
            .value_parser(["zero-one", "absolute", "squared"])
            .hide_possible_values(true)
            .default_value("zero-one"),
        flag("scale", "NUMBER", "The error that counts as a whole loss, for absolute and squared")
            .value_parser(ValueParser::new(positive)),
        flag("threshold", "SCORE", "A score above this says 1, for zero-one [default: 0.5]")
            .value_parser(ValueParser::new(finite)),
        flag("prediction", "OUTPUT[,OUTPUT]", "The output that is compared; two names where the versions' differ"),
        flag(
            "margin",
            "LOSS",
            "How much worse still passes: 0.005 is half a point of accuracy [default: must be better]",
        )
        .value_parser(ValueParser::new(margin)),
        flag("alpha", "CHANCE", "The chance of a wrong verdict, in either direction")
            .value_parser(ValueParser::new(chance))
            .default_value(ALPHA),
    ]
    .map(judging)
}

fn gate_flags() -> [Arg; 2] {
    let gate = |arg: Arg| arg.help_heading("Gate");
    [
        flag(
            "gate",
            "ENDPOINT",
            "Answer for a gate of this endpoint's rollout: it lets through where the verdict is to promote",
        ),
        flag("gate-name", "NAME", "Which gate that is").default_value("backtest").requires("gate"),
    ]
    .map(gate)
}

fn horizon(text: &str) -> Result<u64, String> {
    let found = parse_horizon(text).and_then(|horizon| u64::try_from(horizon.as_millis()).ok());
    found.ok_or_else(|| "expected an age such as 90d, 2w or 36h".to_owned())
}

fn date(text: &str) -> Result<i64, String> {
    parse_time(text).ok_or_else(|| "expected a date such as 2026-03-01".to_owned())
}

fn finite(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|number: &f64| number.is_finite()).ok_or_else(|| "expected a number".to_owned())
}

fn positive(text: &str) -> Result<f64, String> {
    finite(text).ok().filter(|number| *number > 0.0).ok_or_else(|| "expected a number above 0".to_owned())
}

fn margin(text: &str) -> Result<f64, String> {
    let found = finite(text).ok().filter(|number| (0.0..1.0).contains(number));
    found.ok_or_else(|| "expected a loss from 0 to 1, such as 0.005".to_owned())
}

fn chance(text: &str) -> Result<f64, String> {
    let found = finite(text).ok().filter(|number| *number > 0.0 && *number < 0.5);
    found.ok_or_else(|| "expected a chance above 0 and below 0.5, such as 0.01".to_owned())
}

/// How a prediction is held against its label. Every loss is from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Loss {
    /// 0 where the class is right, 1 where it is not. A lone score says 1 above the threshold.
    ZeroOne {
        /// Where somebody said so.
        threshold: Option<f64>,
    },
    /// |prediction − label|/scale, at most 1.
    Absolute {
        /// The error that is a whole loss.
        scale: f64,
    },
    /// ((prediction − label)/scale)², at most 1.
    Squared {
        /// The error that is a whole loss.
        scale: f64,
    },
}

impl Loss {
    /// Its name, as the flag has it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Loss::ZeroOne { .. } => "zero-one",
            Loss::Absolute { .. } => "absolute",
            Loss::Squared { .. } => "squared",
        }
    }

    pub(super) fn is_binary(self) -> bool {
        matches!(self, Loss::ZeroOne { .. })
    }
}

/// Which rows are too young.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Maturity {
    /// The column with the time.
    pub(super) column: String,
    /// The age from which on a label is final.
    pub(super) horizon_ms: u64,
    /// Milliseconds since 1970 from which ages are reckoned.
    pub(super) as_of_ms: i64,
}

/// All that the command line says, but for the models' settings.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Options {
    /// Champion and challenger.
    pub(super) models: [ModelName; 2],
    pub(super) rows: PathBuf,
    pub(super) label: String,
    pub(super) key: Option<String>,
    /// What an empty label counts as.
    pub(super) missing: Option<String>,
    pub(super) maturity: Option<Maturity>,
    pub(super) slices: Vec<String>,
    pub(super) errors_max: u64,
    pub(super) depends_on_decision: bool,
    pub(super) loss: Loss,
    /// The outputs that are compared, where they are named.
    pub(super) predictions: [Option<String>; 2],
    pub(super) margin: Option<f64>,
    pub(super) alpha: f64,
}

impl Options {
    /// Reads the command line. Fails on what makes no sense together.
    pub(super) fn of(matches: &ArgMatches) -> Result<Options, Failure> {
        let text = |name: &str| matches.get_one::<String>(name).cloned();
        let number = |name: &str| matches.get_one::<f64>(name).copied();
        let model = |name: &str| parse_model(&text(name).unwrap_or_default());
        let depends_on_decision = match text("label-depends-on-decision").as_deref() {
            Some(answer) => answer == "yes",
            None => return Err(Failure::usage(DEPENDS)),
        };
        let maturity = text("time").map(|column| Maturity {
            column,
            horizon_ms: matches.get_one::<u64>("horizon").copied().unwrap_or_default(),
            as_of_ms: matches.get_one::<i64>("as-of").copied().unwrap_or_else(now_ms),
        });
        Ok(Options {
            models: [model("champion")?, model("challenger")?],
            rows: matches.get_one::<PathBuf>("rows").cloned().unwrap_or_default(),
            label: text("label").unwrap_or_default(),
            key: text("key"),
            missing: text("missing"),
            maturity,
            slices: matches.get_many::<String>("slice").unwrap_or_default().cloned().collect(),
            errors_max: matches.get_one::<u64>("errors-max").copied().unwrap_or_default(),
            depends_on_decision,
            loss: loss(text("loss").as_deref(), number("scale"), number("threshold"))?,
            predictions: predictions(text("prediction").as_deref())?,
            // None at all and one of nothing are the same.
            margin: number("margin").filter(|margin| *margin > 0.0),
            alpha: number("alpha").unwrap_or(0.01),
        })
    }
}

fn now_ms() -> i64 {
    i64::try_from(clock::unix_ms()).unwrap_or(i64::MAX)
}

fn loss(name: Option<&str>, scale: Option<f64>, threshold: Option<f64>) -> Result<Loss, Failure> {
    match (name, scale, threshold) {
        (Some("absolute" | "squared"), None, _) => Err(Failure::usage(
            "--loss absolute and squared need --scale NUMBER: the error that counts as a whole loss, in the label's unit \
             (losses beyond it count as 1; for probabilities it is 1)",
        )),
        (Some("absolute" | "squared"), Some(_), Some(_)) => {
            Err(Failure::usage("--threshold turns a score into a class, which is of use to --loss zero-one alone"))
        }
        (Some("absolute"), Some(scale), None) => Ok(Loss::Absolute { scale }),
        (Some("squared"), Some(scale), None) => Ok(Loss::Squared { scale }),
        (_, Some(_), _) => Err(Failure::usage("--scale is for --loss absolute or squared; zero-one has none")),
        (_, None, threshold) => Ok(Loss::ZeroOne { threshold }),
    }
}

fn predictions(text: Option<&str>) -> Result<[Option<String>; 2], Failure> {
    let Some(text) = text else { return Ok([None, None]) };
    match text.split(',').map(str::trim).collect::<Vec<&str>>()[..] {
        [both] if !both.is_empty() => Ok([Some(both.to_owned()), Some(both.to_owned())]),
        [a, b] if !a.is_empty() && !b.is_empty() => Ok([Some(a.to_owned()), Some(b.to_owned())]),
        _ => Err(Failure::usage(format!("--prediction {text:?}: expected an output's name, or two with a comma"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(more: &str) -> Result<Options, String> {
        let line = format!("backtest risk@1 risk@2 --rows h.csv --label y {more}");
        let matches = command().try_get_matches_from(line.split_whitespace()).map_err(|error| error.to_string())?;
        Options::of(&matches).map_err(|failure| failure.to_string())
    }

    #[test]
    fn command_lines() {
        let check = |more: &str, expected: &str| {
            let found = parsed(more).map_or_else(|error| error, |options| format!("{options:?}"));
            assert!(found.contains(expected), "{more}: {found}");
        };
        let no = "--label-depends-on-decision no";
        check("", "a loan that was declined never defaults");
        check(no, "ZeroOne { threshold: None }");
        check(&format!("{no} --threshold 0.3"), "ZeroOne { threshold: Some(0.3) }");
        check(&format!("{no} --loss squared --scale 1"), "Squared { scale: 1.0 }");
        check(&format!("{no} --loss squared"), "need --scale");
        check(&format!("{no} --loss absolute --scale 1 --threshold 0.5"), "zero-one alone");
        check(&format!("{no} --scale 2"), "zero-one has none");
        check(&format!("{no} --scale 0"), "above 0");
        check(&format!("{no} --prediction a,b"), r#"[Some("a"), Some("b")]"#);
        check(&format!("{no} --prediction a,"), "expected an output's name");
        check(&format!("{no} --time t --horizon 90d --as-of 1970-01-02"), "as_of_ms: 86400000");
        check(&format!("{no} --time t"), "--horizon");
        check(&format!("{no} --horizon 90d"), "--time");
        check(&format!("{no} --margin 1"), "such as 0.005");
        check(&format!("{no} --alpha 0"), "such as 0.01");
        check("--label-depends-on-decision yes", "depends_on_decision: true");
        check("--label-depends-on-decision maybe", "invalid value");
    }
}
