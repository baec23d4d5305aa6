//! How do models compete, from the first request to the last verdict?

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use clap::ArgMatches;
use indicatif::ProgressBar;
use serde_json::{Value, json};

use super::data::{MODEL, Manifest, OUTPUT, Rows, write_models};
use super::report::Report;
use super::server::Server;
use super::traffic::{Callers, Traffic};
use super::watched::Watched;
use crate::cli::credentials::Credentials;
use crate::cli::exit::Failure;
use crate::cli::output::{self, Form};
use crate::cli::progress;
use crate::cli::rollout::status::line;
use crate::cli::target::{Http, Target, ask, good};

/// Champion and challenger of each rollout, and the state that it is to come to.
const CONTESTS: [([u64; 2], &str); 2] = [([1, 2], "promoted"), ([2, 3], "rolled_back")];

/// Requests in a second at most.
const RATE: f64 = 2_000.0;

/// How often rollouts are looked at.
const PAUSE: Duration = Duration::from_millis(250);

/// How long the plan of a rollout that has ended may take to hold.
const SETTLE_MAX: Duration = Duration::from_secs(20);

/// The status of an answer that will be another in a moment.
const NOT_READY: u16 = 503;

/// How long verdicts are waited for once every label is told: the horizon, and a few looks.
const AFTER_ROWS: Duration = Duration::from_secs(10);

pub(super) fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let (manifest, rows) = (Manifest::read()?, Rows::read()?);
    let (folder, keep) = new_folder(matches.get_one::<PathBuf>("folder"))?;
    write_models(&folder.join("models"), 1..=3)
        .map_err(|error| Failure::failed(format!("cannot write models to {}: {error}", folder.display())))?;
    let started = Instant::now();
    let server = Server::start(&folder, keep, &[])?;
    let callers = Callers { rest: &server.rest, credentials: Credentials::default(), rate: RATE, tells_labels: true };
    let traffic = Traffic::begin(&callers, rows)?;
    let admin = Http::new(&server.admin, &Credentials::default())?;
    let mut rollouts = Vec::new();
    for (versions, expected) in CONTESTS {
        let watched = contest(&admin, &traffic, Watched::begin(&manifest, versions, expected)?)?;
        let is_as_expected = watched.is_as_expected();
        rollouts.push(watched);
        if !is_as_expected {
            // Who would be challenged next is not the champion.
            break;
        }
    }
    let labels = traffic.heard();
    let rows_answered = traffic.end()?;
    server.end()?;
    let (wanted, took) = (CONTESTS.len(), started.elapsed());
    let report = Report { manifest, rollouts, wanted, rows_answered, labels, took };
    if let Some(file) = matches.get_one::<PathBuf>("report") {
        fs::write(file, report.page())
            .map_err(|error| Failure::failed(format!("cannot write {}: {error}", file.display())))?;
    }
    match Form::of(matches) {
        Form::Json => output::print_json(&report.json())?,
        Form::Table => output::print(&report.text())?,
    }
    if report.is_as_expected() { Ok(()) } else { Err(Failure::failed("the verdicts were not reached")) }
}

/// The folder for all there is, as a whole path, and whether it is to be kept.
pub(super) fn new_folder(wanted: Option<&PathBuf>) -> Result<(PathBuf, bool), Failure> {
    let own = || std::env::temp_dir().join(format!("tiltyard-demo-{}", std::process::id()));
    let folder = wanted.cloned().unwrap_or_else(own);
    let cannot = |error| Failure::failed(format!("cannot make the folder {}: {error}", folder.display()));
    fs::create_dir(&folder).map_err(cannot)?;
    Ok((fs::canonicalize(&folder).map_err(cannot)?, wanted.is_some()))
}

/// Has a version challenge the champion, and comes back when that has ended, or when no row is left.
fn contest(admin: &Http, traffic: &Traffic, mut watched: Watched) -> Result<Watched, Failure> {
    let path = format!("/admin/endpoints/{MODEL}/rollout");
    let body = rollout(watched.challenger.version).to_string().into_bytes();
    watched.note(begin(admin, &path, &body)?, traffic.answered());
    let bar = progress::bar("demo", None);
    let mut left_alone: Option<Instant> = None;
    while !watched.has_ended() && left_alone.is_none_or(|since| since.elapsed() < AFTER_ROWS) {
        thread::sleep(PAUSE);
        traffic.check()?;
        let answered = traffic.answered();
        watched.note(read(&ask(admin, "GET", &path, Vec::new())?)?, answered);
        show(&bar, &watched, traffic);
        if traffic.has_ended() {
            left_alone.get_or_insert_with(Instant::now);
        }
    }
    bar.finish_and_clear();
    let took = watched.took.as_secs_f64();
    output::note(format_args!(
        "{}: version {} is {} after {took:.0} s and {} labels",
        watched.name(),
        watched.challenger.version,
        watched.state(),
        watched.last().labels
    ));
    Ok(watched)
}

/// Starts a rollout, as soon as the plan of the one before gives way: until then the server asks to be asked again.
fn begin(admin: &dyn Target, path: &str, body: &[u8]) -> Result<Value, Failure> {
    let deadline = Instant::now() + SETTLE_MAX;
    loop {
        let (status, answer) = admin.call("POST", path, body.to_vec())?;
        if status != NOT_READY || Instant::now() > deadline {
            return read(&good(status, answer)?);
        }
        thread::sleep(PAUSE);
    }
}

fn read(answer: &[u8]) -> Result<Value, Failure> {
    serde_json::from_slice(answer)
        .map_err(|error| Failure::failed(format!("the admin port's answer is wrong: {error}")))
}

fn show(bar: &ProgressBar, watched: &Watched, traffic: &Traffic) {
    let last = watched.last();
    let bounds = last.bounds.map_or_else(String::new, |(lower, upper)| format!(" ({lower:+.4} to {upper:+.4})"));
    bar.set_position(traffic.answered() as u64);
    bar.set_message(format!(
        "flights; {}; {} labels, gain {:+.4}{bounds}",
        line(&watched.form),
        last.labels,
        last.gain
    ));
}

/// What is asked of a challenger. A day of a real rollout is a second here.
fn rollout(challenger: u64) -> Value {
    json!({
        "challenger": { "version": challenger },
        "key": "per_request",
        "steps": [{ "share": "20%", "min_time": "2s" }, { "share": "50%", "min_time": "2s" }],
        "policy": {
            "min_time": "8s", "max_time": "10m", "min_units": 2000,
            "guardrails": [{ "metric": "errors", "floor": 0.001 }, { "metric": "slow_p90", "floor": 0.15 }],
            "primary": {
                "metric": OUTPUT, "gain": "squared_error", "scale": 1, "output": OUTPUT, "label_depends_on_decision": false,
                "horizon": "4s", "missing": "exclude", "planned_units": 30000, "harm": 0,
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Answers with these statuses, one after the other.
    struct Answers(Mutex<Vec<u16>>);

    impl Target for Answers {
        fn call(&self, _: &str, _: &str, _: Vec<u8>) -> Result<(u16, Vec<u8>), Failure> {
            Ok((self.0.lock().unwrap().remove(0), br#"{"error": "so it is"}"#.to_vec()))
        }
    }

    #[test]
    fn a_rollout_is_asked_for_again_only_where_it_may_begin_later() {
        let check = |statuses: &[u16], left: usize, is_begun: bool| {
            let answers = Answers(Mutex::new(statuses.to_vec()));
            assert_eq!(begin(&answers, "/", b"").is_ok(), is_begun, "{statuses:?}");
            assert_eq!(answers.0.lock().unwrap().len(), left, "{statuses:?}");
        };
        check(&[503, 200, 200], 1, true);
        check(&[400, 200], 1, false);
        check(&[500, 200], 1, false);
    }

    #[test]
    fn a_folder_must_be_new() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("made");
        let (made, keep) = new_folder(Some(&folder)).unwrap();
        assert!(keep && made.is_absolute() && folder.is_dir());
        assert!(new_folder(Some(&folder)).unwrap_err().to_string().contains("cannot make the folder"));
    }

    #[test]
    fn what_is_asked_is_a_rollout() {
        let text = rollout(2).to_string();
        let (written, _) = crate::rollouts::written::read(&text).unwrap();
        let plan = crate::rollouts::begin::plan(MODEL, &written, None, &[1]).unwrap();
        let primary = plan.policy.primary.unwrap();
        assert_eq!((plan.arms.len(), plan.policy.guardrails.len(), primary.harm), (2, 2, Some(0.0)));
    }
}
