//! Is what a file says of a rollout good, and how long will it take to decide?

use std::fs;
use std::path::{Path, PathBuf};

use clap::builder::ValueParser;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use serde_json::{Value, json};
use tiltyard_rollout::plan::{Arm, Design, KeySource, MILLION, Plan, Policy, Role, Step};
use tiltyard_rollout::preview::{Forecast, Traffic, paired_labels, preview, split_labels};

use crate::cli::exit::Failure;
use crate::cli::output::{self, Form, NOTHING, Table};
use crate::cli::status::age;
use crate::config::parse_duration;
use crate::endpoints::differences::key;
use crate::rollouts::written::{self, Written};
use crate::rollouts::{aim, begin};

/// Labels between two looks at them, for pairs and for a split: as in the simulations of docs/statistics.md.
const LABELS_A_LOOK: [u64; 2] = [200, 2_000];

/// t* where the plan has no outcome of its own.
const PLANNED_UNITS: u64 = 50_000;

/// The schedule where neither a file nor a flag has one.
const STEPS: &str = "1%/10m,5%/10m,25%/10m,50%/10m";

const EXAMPLES: &str = "\
A file is what `tiltyard apply` and `tiltyard rollout start --plan` take, or a part of it. Without one, the preview is of a rollout
with errors as its only guardrail, and defaults.
Half of all rollouts decide earlier than it says, and half later.

Examples:
  tiltyard rollout plan risk.toml
  tiltyard rollout plan risk.toml --preview --rate 100 --errors 0.5%
  tiltyard rollout plan --preview --rate 1000 --errors 0.2% --effect 1.5 --steps 1%/10m,10%/1h,50%/1h
  tiltyard rollout plan risk.toml --preview --rate 100 --event slow=1% --output json
  tiltyard rollout plan --preview --rate 50 --gain 0.01 --disagreement 4%       labels that pairs need";

pub(super) fn command() -> Command {
    Command::new("plan")
        .about("Check a file of a rollout, and tell beforehand how long a decision takes")
        .arg(
            Arg::new("file")
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .help("The rollout, as TOML or JSON: docs/rollouts.md"),
        )
        .arg(
            Arg::new("preview")
                .long("preview")
                .action(ArgAction::SetTrue)
                .requires("rate")
                .help("Tell how long it takes until a bad challenger is rolled back, and a good one promoted"),
        )
        .args(traffic_flags())
        .args(label_flags())
        .after_help(EXAMPLES)
}

fn flag(name: &'static str, value: &'static str, parser: ValueParser, help: &'static str) -> Arg {
    let flag = Arg::new(name).long(name).value_name(value).value_parser(parser).help(help);
    flag.requires("preview").help_heading("Preview")
}

fn traffic_flags() -> [Arg; 5] {
    let [positive, share, above_one] = [positive, share, above_one].map(ValueParser::new);
    let (event, steps) = (ValueParser::new(event), ValueParser::new(steps));
    let rate = "Units a second over all arms: requests, or new keys where the plan is sticky";
    let events = "The same of another guardrail's event, such as slow=1%; may be repeated";
    let schedule = "Shares, each with its least time [default: the plan's, or 1%/10m,5%/10m,25%/10m,50%/10m]";
    [
        flag("rate", "UNITS", positive, rate),
        flag("errors", "SHARE", share, "How many of the champion's requests fail, such as 0.5%"),
        flag("event", "METRIC=SHARE", event, events).action(ArgAction::Append),
        flag("effect", "RATIO", above_one, "How many times as often a bad challenger has the event [default: 2]"),
        flag("steps", "STEPS", steps, schedule),
    ]
}

fn label_flags() -> [Arg; 3] {
    let [amount, spread, share] = [positive, positive, share].map(ValueParser::new);
    let gain = "By how much a better challenger's outcome is better: how many labels that takes";
    let disagreement = "On how many rows one of shadow and champion is right, and the other wrong";
    let sd = "The outcomes' standard deviation, where arms are compared by a split";
    [
        flag("gain", "AMOUNT", amount, gain),
        flag("disagreement", "SHARE", share, disagreement).requires("gain"),
        flag("sd", "AMOUNT", spread, sd).requires("gain").conflicts_with("disagreement"),
    ]
}

fn positive(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| number.is_finite() && *number > 0.0);
    number.ok_or_else(|| "expected a number above 0".to_owned())
}

fn above_one(text: &str) -> Result<f64, String> {
    positive(text).ok().filter(|ratio| *ratio > 1.0).ok_or_else(|| "expected a number above 1, such as 2".to_owned())
}

/// `0.5%` or `0.005`.
fn share(text: &str) -> Result<f64, String> {
    let (number, unit) = text.strip_suffix('%').map_or((text, 1.0), |number| (number, 100.0));
    let share = number.parse().ok().map(|number: f64| number / unit).filter(|share| (0.0..1.0).contains(share));
    share.ok_or_else(|| "expected a share below 1, such as 0.5% or 0.005".to_owned())
}

/// `slow=1%`.
fn event(text: &str) -> Result<(String, f64), String> {
    let (metric, rate) = text.split_once('=').filter(|(metric, _)| !metric.is_empty()).unzip();
    match (metric, rate.map(share)) {
        (Some(metric), Some(Ok(rate))) => Ok((metric.to_owned(), rate)),
        _ => Err("expected a metric and a share, such as slow=1%".to_owned()),
    }
}

/// `1%/10m,5%/1h`.
fn steps(text: &str) -> Result<Vec<Step>, String> {
    let step = |text: &str| {
        let (of, time) = text.split_once('/').unwrap_or((text, "0"));
        let millionths =
            if of == "100%" { Ok(1.0) } else { share(of) }.ok().map(|of| (of * f64::from(MILLION)).round());
        let time = parse_duration(time)?;
        let min_time_ms = u64::try_from(time.as_millis()).ok()?;
        Some(Step { share: millionths? as u32, min_time_ms, min_units: 0, gates: Vec::new() })
    };
    let steps = text.split(',').map(|text| step(text.trim())).collect::<Option<Vec<Step>>>();
    steps.ok_or_else(|| "expected shares, each with its least time, such as 1%/10m,5%/1h".to_owned())
}

pub(super) fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let is_preview = matches.get_flag("preview");
    let file = matches.get_one::<PathBuf>("file");
    let (written, mut plan) = match file {
        Some(path) => read(path).map(|(written, plan)| (Some(written), plan))?,
        None if is_preview => (None, example()),
        None => return Err(Failure::usage("expected a file with a plan, or --preview --rate UNITS")),
    };
    if let Some(steps) = matches.get_one::<Vec<Step>>("steps") {
        plan.steps.clone_from(steps);
        plan.validate().map_err(|error| Failure::usage(format!("--steps: {error}")))?;
    }
    let told = is_preview.then(|| Told::of(&plan, matches)).transpose()?;
    match Form::of(matches) {
        Form::Json => {
            let mut form = form(&plan, written.as_ref());
            if let Some(told) = &told {
                form["preview"] = told.form();
            }
            output::print_json(&form)
        }
        Form::Table => {
            let head = written.map_or_else(String::new, |written| listing(&plan, &written));
            output::print(&(head + &told.map_or_else(String::new, |told| told.listing(&plan))))
        }
    }
}

/// What a file says, and the plan of that with stand-ins for whom it does not name.
fn read(path: &Path) -> Result<(Written, Plan), Failure> {
    let fail = |what: String| Failure::failed(format!("{}: {what}", path.display()));
    let text = fs::read_to_string(path).map_err(|error| fail(error.to_string()))?;
    let stem = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
    let rehearse = || -> tiltyard_types::Result<(Written, Plan)> {
        let (written, _) = written::read(&text)?;
        let endpoint = written.endpoint.clone().unwrap_or_else(|| stem.to_owned());
        Ok((written.clone(), begin::rehearse(&endpoint, &written)?))
    };
    rehearse().map_err(|error| fail(error.message().to_owned()))
}

/// A champion, a challenger that may grow to the whole, and the defaults.
pub(super) fn example() -> Plan {
    let arm = |name: &str, version, role| Arm { name: name.into(), model: "risk".into(), version, digest: None, role };
    let challenger = Role::Challenger { weight: 0, final_weight: MILLION };
    Plan {
        endpoint: "risk".into(),
        revision: 1,
        arms: vec![arm("champion", 1, Role::Champion), arm("challenger", 2, challenger)],
        key: KeySource::PerRequest,
        salt: "preview".into(),
        headers: Vec::new(),
        steps: steps(STEPS).unwrap_or_default(),
        policy: Policy::default(),
        watched: false,
    }
}

/// What a rollout shall be, for programs. Whom the file does not name is null.
fn form(plan: &Plan, written: Option<&Written>) -> Value {
    let arm = |arm: &Arm| json!({ "name": arm.name, "model": arm.model, "version": arm.version });
    let champion = written.and_then(|written| written.champion.as_ref()).map(|_| arm(aim::champion(plan)));
    let challenger = written.and_then(|written| written.challenger.as_ref()).map(|_| arm(aim::challenger(plan)));
    json!({
        "endpoint": plan.endpoint, "champion": champion, "challenger": challenger, "key": plan.key, "steps": plan.steps,
        "policy": plan.policy,
    })
}

/// The same for people.
fn listing(plan: &Plan, written: &Written) -> String {
    let called = |arm: &Arm, is_named: bool, other: &str| {
        if is_named { format!("{}@{}", arm.model, arm.version) } else { other.to_owned() }
    };
    let champion = called(aim::champion(plan), written.champion.is_some(), "whoever answers");
    let challenger = called(aim::challenger(plan), written.challenger.is_some(), "whoever is named");
    let mut listing =
        format!("The rollout of {} is good: {challenger} against {champion}, {}.\n", plan.endpoint, key(&plan.key));
    let mut table = Table::new(["step", "share", "least time", "least units", "gates"]);
    let or_nothing = |text: String| if text.is_empty() { NOTHING.to_owned() } else { text };
    for (at, Step { share, min_time_ms, min_units, gates }) in plan.steps.iter().enumerate() {
        let (time, units) = (age(min_time_ms / 1_000), min_units.to_string());
        table.add([(at + 1).to_string(), percent(*share), time, units, or_nothing(gates.join(", "))]);
    }
    let policy = &plan.policy;
    let (time, units) = (age(policy.min_time_ms / 1_000), policy.min_units.to_string());
    table.add(["promotion".to_owned(), "100%".to_owned(), time, units, or_nothing(policy.gates.join(", "))]);
    listing += &table.to_string();
    let metrics: Vec<&str> = policy.guardrails.iter().map(|guardrail| guardrail.metric.as_str()).collect();
    listing + &format!("Guardrails: {}.\n", metrics.join(", "))
}

fn percent(millionths: u32) -> String {
    format!("{}%", f64::from(millionths) / 10_000.0)
}

/// What is told beforehand.
#[derive(Debug)]
struct Told {
    traffic: Traffic,
    forecast: Forecast,
    labels: Option<Labels>,
}

/// Labels until a better challenger has won.
#[derive(Debug)]
struct Labels {
    design: Design,
    gain: f64,
    needed: Option<u64>,
}

impl Told {
    fn of(plan: &Plan, matches: &ArgMatches) -> Result<Told, Failure> {
        if plan.steps.is_empty() {
            return Err(Failure::usage("the plan has no steps, so nobody is judged: give some with --steps"));
        }
        let number = |name: &str| matches.get_one::<f64>(name).copied();
        let events = matches.get_many::<(String, f64)>("event").unwrap_or_default().cloned();
        let errors = number("errors").map(|rate| ("errors".to_owned(), rate));
        let traffic = Traffic {
            units_per_second: number("rate").unwrap_or_default(),
            rates: events.chain(errors).collect(),
            effect: number("effect").unwrap_or(2.0),
        };
        let known = |metric: &String| plan.policy.guardrails.iter().any(|rule| rule.metric == *metric);
        if let Some(metric) = traffic.rates.keys().find(|metric| !known(metric)) {
            let names: Vec<&str> = plan.policy.guardrails.iter().map(|rule| rule.metric.as_str()).collect();
            return Err(Failure::usage(format!("no guardrail watches {metric}: expected one of {}", names.join(", "))));
        }
        let labels =
            number("gain").map(|gain| Labels::of(plan, gain, number("disagreement"), number("sd"))).transpose()?;
        Ok(Told { forecast: preview(plan, &traffic), traffic, labels })
    }

    fn form(&self) -> Value {
        let labels = self
            .labels
            .as_ref()
            .map(|Labels { design, gain, needed }| json!({ "design": design, "gain": gain, "needed": needed }));
        json!({ "traffic": self.traffic, "forecast": self.forecast, "labels": labels })
    }

    fn listing(&self, plan: &Plan) -> String {
        let Told { traffic, forecast, labels } = self;
        let mut table = Table::new(["step", "share", "begins after"]);
        for (at, (step, from)) in plan.steps.iter().zip(&forecast.steps_ms).enumerate() {
            table.add([(at + 1).to_string(), percent(step.share), after(Some(*from), plan)]);
        }
        table.add(["baking".to_owned(), NOTHING.to_owned(), after(Some(forecast.baking_ms), plan)]);
        let mut listing = table.to_string();
        let effect = format!("{}x is rolled back after", traffic.effect);
        let mut table = Table::new(["guardrail", "rate", &effect, "too many by then", "as good passes after"]);
        for guardrail in &forecast.guardrails {
            let rate = traffic.rates.get(&guardrail.metric).copied().unwrap_or(0.0);
            table.add([
                guardrail.metric.clone(),
                format!("{}%", (rate * 1e8).round() / 1e6),
                after(guardrail.catches_ms, plan),
                guardrail.excess.map_or_else(|| NOTHING.to_owned(), |excess| format!("{excess:.0}")),
                after(guardrail.passes_ms, plan),
            ]);
        }
        listing += &table.to_string();
        listing += &match forecast.promotion_ms {
            Some(ms) => format!("A challenger that is as good is promoted after {}.\n", age(ms / 1_000)),
            None => format!(
                "A challenger that is as good is not promoted within {}.\n",
                age(plan.policy.max_time_ms / 1_000)
            ),
        };
        if let Some(Labels { design, gain, needed }) = labels {
            let of = if *design == Design::Split { "in a split" } else { "of pairs" };
            let needed =
                needed.map_or_else(|| "more labels than can be told".to_owned(), |count| format!("{count} labels"));
            listing += &format!("One that is better by {gain} has won after {needed} {of}.\n");
        }
        listing
    }
}

/// A time of the forecast, if it comes.
fn after(ms: Option<u64>, plan: &Plan) -> String {
    ms.map_or_else(|| format!("not in {}", age(plan.policy.max_time_ms / 1_000)), |ms| age(ms / 1_000))
}

impl Labels {
    fn of(plan: &Plan, gain: f64, disagreement: Option<f64>, sd: Option<f64>) -> Result<Labels, Failure> {
        let alpha = plan.policy.alpha_primary;
        let planned = plan.policy.primary.as_ref().map_or(PLANNED_UNITS, |primary| primary.planned_units);
        let share = plan.steps.last().map_or(0.0, |step| f64::from(step.share) / f64::from(MILLION));
        let [pairs, split] = LABELS_A_LOOK;
        match (disagreement, sd) {
            (Some(disagreement), _) if gain > disagreement => Err(Failure::usage(format!(
                "--gain {gain} is above --disagreement {disagreement}: who gains on a row must differ on it"
            ))),
            (Some(disagreement), _) => {
                let needed = paired_labels(gain, disagreement, alpha, pairs);
                Ok(Labels { design: Design::PairedShadow, gain, needed })
            }
            (None, Some(_)) if share >= 1.0 => Err(Failure::usage(
                "the last step leaves the champion nothing to be compared with: expected a share below 100%",
            )),
            (None, Some(sd)) => {
                let needed = split_labels(gain, sd, share, alpha, planned, split);
                Ok(Labels { design: Design::Split, gain, needed })
            }
            (None, None) => {
                Err(Failure::usage("--gain needs --disagreement SHARE for pairs, or --sd AMOUNT for a split"))
            }
        }
    }
}

#[cfg(test)]
mod tests;
