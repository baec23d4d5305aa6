//! What can this machine carry of a model? Measured in this process: first what runs cost, then under load.

mod card;
mod load;
mod plan;
mod plot;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::builder::ValueParser;
use clap::{Arg, ArgMatches, Command, value_parser};
use indicatif::ProgressBar;
use tiltyard_runtime::deployment::Deployment;
use tiltyard_runtime::measure::{BUDGET, Curve, Sample, measure, rows_limit};
use tiltyard_runtime::pool::Pool;
use tiltyard_runtime::profile::cpu_name;

use self::card::{Card, Machine};
use self::load::{Load, Pace, drive};
use self::plan::{Objective, plan};
use super::exit::Failure;
use super::output::{self, Form};
use super::predict::{ModelName, local, parse_model};
use super::progress;
use super::settings::{self, ENGINE_SETTINGS};
use crate::config::parse_duration;
use crate::local::Local;
use crate::{clock, cores};

/// Loads that are driven, as parts of what saturates the model.
const FRACTIONS: [f64; 4] = [0.25, 0.5, 0.75, 0.9];

/// The part of the time under load that finding saturation takes.
const SATURATION_SHARE: f64 = 0.25;

/// Rows of one request at most.
const ROWS_MAX: u64 = 4096;

const EXAMPLES: &str = "\
The curve says what a run of so many rows costs, and which batch is worth waiting for. The load is open: requests arrive
at random moments whether or not earlier ones were answered, and a request's time begins when it should have arrived.
Times are those in this process, without network and protocol. Inputs are those of the golden example, or made up.

Examples:
  tiltyard bench risk
  tiltyard bench risk@2 --models ~/models --rows 16
  tiltyard bench risk --slo p99=20ms --rate 50000       how many replicas carry 50,000 rows a second
  tiltyard bench risk --card risk-card                  writes risk-card.json and risk-card.md";

pub(crate) fn command() -> Command {
    Command::new("bench")
        .about("Measure what this machine can carry of a model: its cost curve and a capacity card")
        .arg(
            Arg::new("model")
                .value_name("MODEL[@VERSION]")
                .required(true)
                .help("The model, and the version where not the newest is meant"),
        )
        .arg(
            Arg::new("rows")
                .long("rows")
                .value_name("COUNT")
                .value_parser(value_parser!(u64).range(1..=ROWS_MAX))
                .default_value("1")
                .help("Rows in each request of the load"),
        )
        .arg(
            Arg::new("duration")
                .long("duration")
                .value_name("DURATION")
                .value_parser(ValueParser::new(time_under_load))
                .default_value("10s")
                .help("Time under load, all levels together; the curve takes 2s at most beside it"),
        )
        .arg(
            Arg::new("slo").long("slo").value_name("OBJECTIVE").value_parser(ValueParser::new(Objective::parse)).help(
                "What requests must keep, such as p99=20ms: the card says how much one replica carries within it",
            ),
        )
        .arg(
            Arg::new("rate")
                .long("rate")
                .value_name("ROWS")
                .value_parser(ValueParser::new(rows_per_second))
                .help("Rows in a second that all replicas shall carry: the card says how many it takes"),
        )
        .arg(
            Arg::new("card")
                .long("card")
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .help("Write the capacity card beside: FILE.json and FILE.md"),
        )
        .args(settings::flags(&["models", "threads", "batch_rows_max", "batch_delay_max"]))
        .args(settings::flags(&ENGINE_SETTINGS))
        .after_help(EXAMPLES)
}

fn time_under_load(text: &str) -> Result<Duration, String> {
    parse_duration(text)
        .filter(|time| (Duration::from_millis(100)..=Duration::from_secs(3600)).contains(time))
        .ok_or_else(|| "expected a duration from 100ms to 1h, such as 10s".to_owned())
}

fn rows_per_second(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate: &f64| rate.is_finite() && *rate > 0.0);
    rate.ok_or_else(|| "expected rows in a second, such as 50000".to_owned())
}

pub(crate) fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let model = parse_model(matches.get_one::<String>("model").map_or("", String::as_str))?;
    let rows = matches.get_one::<u64>("rows").map_or(1, |rows| usize::try_from(*rows).unwrap_or(1));
    let time = matches.get_one::<Duration>("duration").copied().unwrap_or(Duration::from_secs(10));
    let objective = matches.get_one::<Objective>("slo").copied();
    let rate = matches.get_one::<f64>("rate").copied();
    let local = local(matches, &model)?;
    let service = local.service();
    let deployment = find(&local, &model)?;
    let pool = Arc::clone(&service.inference.pool);

    let sample = Sample::of(&deployment).map_err(|reason| {
        Failure::failed(format!(
            "{} cannot be asked anything: {reason}; a golden example beside the model says what it takes",
            model.name
        ))
    })?;
    let curve = measure_curve(&deployment, &sample)?;
    // As a server would, unless the command line or the model says how many.
    if let Some(best) = curve.best_rows() {
        deployment.learn_rows(best);
    }
    let points = deployment.cost.points();
    let fit = deployment.cost.fit();
    let (saturation, loads) = drive_all(&deployment, &pool, &sample, rows, time);
    let card = Card {
        deployment: &deployment,
        machine: Machine { cpu: cpu_name(), cores: cores::granted(), memory_bytes: cores::memory_granted() },
        rows_per_request: rows,
        best_rows: curve.best_rows(),
        plan: plan(&saturation, &loads, objective, rate),
        points,
        fit,
        saturation,
        loads,
        unix_seconds: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
    };
    if let Some(file) = matches.get_one::<PathBuf>("card") {
        write_card(&card, file)?;
    }
    match Form::of(matches) {
        Form::Json => output::print_json(&card.form()),
        Form::Table => output::print(&card.listing()),
    }
}

/// The deployment that answers for `model`, or why none does.
pub(crate) fn find(local: &Local, model: &ModelName) -> Result<Arc<Deployment>, Failure> {
    let catalog = local.service().inference.catalog.load();
    let arm = catalog.speaker(&model.name, model.version).map_err(|error| Failure::failed(error.to_string()))?;
    Ok(Arc::clone(&arm.deployment))
}

fn measure_curve(deployment: &Deployment, sample: &Sample) -> Result<Curve, Failure> {
    let mut curve = Curve::new(rows_limit(deployment), BUDGET);
    let bar = progress::bar("batch sizes", Some(curve.progress().1 as u64));
    let measured = measure(deployment, sample, &mut curve, clock::now, &mut |_, curve| {
        bar.set_position(curve.progress().0 as u64);
        true
    });
    bar.finish_and_clear();
    measured.map_err(|error| Failure::failed(format!("{}: {error}", deployment.identity.model)))?;
    Ok(curve)
}

/// Finds what saturates the deployment, then drives it at parts of that.
fn drive_all(
    deployment: &Arc<Deployment>,
    pool: &Arc<Pool>,
    sample: &Sample,
    rows: usize,
    time: Duration,
) -> (Load, Vec<Load>) {
    let request = sample.request(rows);
    let bar = progress::bar("loads", Some(FRACTIONS.len() as u64 + 1));
    let next = |bar: &ProgressBar, message: String| bar.set_message(message);
    next(&bar, "saturation".to_owned());
    let window = window(deployment, rows, time);
    let saturation = drive(deployment, pool, &request, rows, Pace::Window(window), time.mul_f64(SATURATION_SHARE));
    bar.inc(1);
    let level_time = time.mul_f64((1.0 - SATURATION_SHARE) / FRACTIONS.len() as f64);
    let loads = FRACTIONS.map(|fraction| {
        next(&bar, format!("{:.0} % of {:.0} rows/s", fraction * 100.0, saturation.rows_per_second));
        let rate = fraction * saturation.rows_per_second / rows as f64;
        let load = drive(deployment, pool, &request, rows, Pace::Rate { rate, fraction }, level_time);
        bar.inc(1);
        load
    });
    bar.finish_and_clear();
    (saturation, loads.into())
}

/// Requests that saturate: every instance busy, and as much again waiting for it; but no more than are answered soon after
/// the load has ended.
fn window(deployment: &Deployment, rows: usize, time: Duration) -> usize {
    let instances = deployment.policy.runs_max;
    let batch = (deployment.rows_taken_max().max(1) / rows).max(1);
    let soon = deployment.cost.predict(rows).map_or(usize::MAX, |run| {
        (time.as_secs_f64() * SATURATION_SHARE * instances as f64 / run.as_secs_f64().max(1e-9)) as usize
    });
    let most = soon.min(deployment.policy.jobs_max / 2);
    (2 * instances * batch).min(most).max(2 * instances)
}

/// Writes `FILE.json` and `FILE.md`, whichever of the two endings the name has already.
fn write_card(card: &Card<'_>, file: &Path) -> Result<(), Failure> {
    let stem = match file.extension().and_then(|extension| extension.to_str()) {
        Some("json" | "md") => file.with_extension(""),
        _ => file.to_owned(),
    };
    for (ending, text) in [("json", format!("{:#}\n", card.form())), ("md", card.markdown())] {
        let mut name = stem.clone().into_os_string();
        name.push(format!(".{ending}"));
        std::fs::write(&name, text)
            .map_err(|error| Failure::failed(format!("cannot write {}: {error}", Path::new(&name).display())))?;
        output::note(format_args!("written: {}", Path::new(&name).display()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines() {
        let check = |line: &str, right: bool| {
            let parsed = command().try_get_matches_from(line.split_whitespace());
            assert_eq!(parsed.is_ok(), right, "{line}");
        };
        check("bench risk", true);
        check("bench risk@2 --models m --rows 16 --duration 2s --engines tract", true);
        check("bench risk --slo p99=20ms --rate 50000 --card risk", true);
        check("bench", false);
        check("bench risk --rows 0", false);
        check("bench risk --duration 10", false);
        check("bench risk --duration 1ms", false);
        check("bench risk --slo fast", false);
        check("bench risk --slo p99", false);
        check("bench risk --rate -1", false);
        check("bench risk --rate nan", false);
    }
}
