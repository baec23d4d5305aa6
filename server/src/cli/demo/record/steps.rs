//! What happens in the release, one step after the other, and what must be so after each?

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::stage::Stage;
use crate::cli::demo::data::{MODEL, Rows, write_models, write_version};
use crate::cli::demo::server::Server;
use crate::cli::demo::traffic::{Callers, Traffic};
use crate::cli::exit::Failure;
use crate::clock;

/// A step: what it is about, and what is done.
type Act = fn(&mut Stage) -> Result<(), Failure>;

/// The release.
pub(super) const STEPS: [(&str, Act); 12] = [
    ("Two people and a program get tokens", people),
    ("Version 1 answers, and what it answers is captured", serve),
    ("Production says what it asks of a version", policy),
    ("A version comes, with what it reached and what it was made for", push),
    ("A worse version comes, and is refused", refuse),
    ("Somebody else must agree", approve),
    ("What was approved is changed, so the approval is void", change),
    ("The version is a shadow first, then it competes, then it answers", promote),
    ("The record knows who answered when, and why", history),
    ("What it is asked is compared with what it was made for", drift),
    ("The way back", back),
    ("Every answer is on record once, and no byte of the record changes unseen", proof),
];

/// What production asks.
const POLICY: &str = "\
baseline = true
lock = true
rollout = \"canary\"

[[approvals]]
required = 1

[[metrics]]
metric = \"squared_error\"
dataset = \"flights.csv\"
better = \"lower\"
bound = 0.16
";

/// How the version comes. A day of a real release is a second here.
const ROLLOUT: &str = "\
shadow = \"100%\"
steps = [{ share = \"20%\", min_time = \"2s\" }, { share = \"50%\", min_time = \"2s\" }]

[policy]
shadow_time = \"3s\"
min_time = \"6s\"
min_units = 300
comparisons = [{ metric = \"distance\", rule = { retrain = 0.3 } }]
guardrails = [{ metric = \"errors\", floor = 0.02 }]
";

/// Requests in a second at most.
const RATE: f64 = 300.0;

/// Rows of which the baseline is made.
const BASELINE_ROWS: usize = 2_000;

/// How long a rollout may take.
const ROLLOUT_MAX: Duration = Duration::from_secs(90);

/// How long what follows by itself may take.
const FOLLOWS_MAX: Duration = Duration::from_secs(20);

/// How long all that was captured may take to be in segments.
const SEGMENTS_MAX: Duration = Duration::from_secs(30);

fn people(stage: &mut Stage) -> Result<(), Failure> {
    for (name, roles) in [("ann", &["deployer", "viewer"][..]), ("ada", &["admin"]), ("app", &["scorer:flights"])] {
        let token = format!("{name}.token");
        let words = [&["token", "new", name][..], roles, &["--into", "access", "--to", &token]].concat();
        stage.does(&words)?.done()?;
    }
    let access = fs::read_to_string(stage.folder.join("access")).unwrap_or_default();
    let tokens = ["ann", "ada", "app"].map(|name| fs::read_to_string(stage.folder.join(format!("{name}.token"))));
    let is_hidden = tokens.iter().all(|token| token.as_ref().is_ok_and(|token| !access.contains(token.trim())));
    stage.look("the access file has three lines, and no token", access.lines().count() == 3 && is_hidden);
    Ok(())
}

fn serve(stage: &mut Stage) -> Result<(), Failure> {
    write_models(&stage.folder.join("models"), 1..=1).map_err(|error| stage.cannot_write("models", &error))?;
    let flags = ["--access-file", "access", "--open-calls", "health", "--capture", "on"];
    let of_capture = ["--capture-segment-time", "1s", "--capture-ring-bytes", "16MiB"];
    stage.step.commands.push(format!("tiltyard serve --models models --data-dir data {}", flags.join(" ")));
    stage.server = Some(Server::start(&stage.folder, stage.keep, &[&flags[..], &of_capture].concat())?);
    let (rest, credentials) = (stage.server()?.rest.clone(), stage.credentials("app")?);
    let callers = Callers { rest: &rest, credentials, rate: RATE, tells_labels: false };
    stage.traffic = Some(Traffic::begin(&callers, Rows::read()?)?);
    let answers = stage.answers()?;
    stage.look(format!("a caller with a token is answered by version {answers}"), answers == 1);
    let locked = stage.status_without_token()?;
    stage.look(format!("a caller without one gets {locked}"), locked == 401);
    on_record(stage, 1)?;
    stage.moments.push(clock::unix_ms());
    Ok(())
}

fn policy(stage: &mut Stage) -> Result<(), Failure> {
    stage.write("prod.toml", POLICY)?;
    let said = stage.asks("ann", &["environments", "set", "prod", "-f", "prod.toml"])?;
    stage.look(format!("ann may not say it: {}", said.error), said.code == 4);
    stage.asks("ada", &["environments", "set", "prod", "-f", "prod.toml"])?.done()?;
    let asked = stage.quietly("ann", &["environments"])?.done()?.form;
    let prod = asked.as_array().into_iter().flatten().find(|environment| environment["name"] == "prod");
    let asks = prod.and_then(|prod| prod["policy"].as_object()).map_or(0, serde_json::Map::len);
    stage.look("ada may: an approval, a baseline, a lock, a canary and a metric are asked for", asks >= 5);
    Ok(())
}

fn push(stage: &mut Stage) -> Result<(), Failure> {
    write_version(&stage.folder.join("better"), 2).map_err(|error| stage.cannot_write("better", &error))?;
    stage.write("rows.csv", &Rows::read()?.table(BASELINE_ROWS))?;
    let words = ["push", MODEL, "better", "--metric", "squared_error=0.15156@flights.csv", "--data", "flights@2013-06"];
    let words = [&words[..], &["--baseline", "rows.csv"]].concat();
    let pushed = stage.asks("ann", &words)?.done()?.form;
    stage.look(format!("it is version {}", pushed["version"]), pushed["version"] == 2);
    stage.look("it is locked to what ran it here", pushed["lock"]["engine"] == "tract");
    let rows = &pushed["baseline"]["rows"];
    stage.look(format!("its baseline is made of {rows} rows"), *rows == BASELINE_ROWS);
    let again = stage.quietly("ann", &["push", MODEL, "better"])?.done()?.form;
    stage.look("the same bytes again are the same version", again["version"] == 2 && again["is_new"] == false);
    let answers = stage.answers()?;
    stage.look(format!("version {answers} answers still"), answers == 1);
    Ok(())
}

fn refuse(stage: &mut Stage) -> Result<(), Failure> {
    write_version(&stage.folder.join("worse"), 3).map_err(|error| stage.cannot_write("worse", &error))?;
    stage.asks("ann", &["push", MODEL, "worse", "--metric", "squared_error=0.1788@flights.csv"])?.done()?;
    let said = stage.asks("ann", &["promote", "flights@3", "--to", "prod"])?;
    for rule in ["approvals", "baseline", "metrics", "rollout"] {
        stage.look(format!("the refusal names the rule {rule}"), said.error.contains(&format!("{rule}:")));
    }
    stage.look("the command says that it was refused", said.code == 4);
    Ok(())
}

fn approve(stage: &mut Stage) -> Result<(), Failure> {
    stage.asks("ann", &["request", "flights@2", "--to", "prod", "--reason", "a lower squared error"])?.done()?;
    let own = stage.asks("ann", &["approve", "flights@2", "--to", "prod"])?;
    stage.look(format!("ann may not agree with herself: {}", own.error), own.code != 0);
    let agreed = stage.asks("ada", &["approve", "flights@2", "--to", "prod"])?.done()?.form;
    let needs: Vec<&str> =
        agreed["standing"]["needs"].as_array().into_iter().flatten().filter_map(|need| need["rule"].as_str()).collect();
    // By which way it comes is said by who promotes it.
    stage.look("ada may, and nothing else is in the way", needs.iter().all(|rule| *rule == "rollout"));
    Ok(())
}

fn change(stage: &mut Stage) -> Result<(), Failure> {
    stage.write("rollout.toml", ROLLOUT)?;
    stage.asks("ann", &["note", "flights@2", "--description", "all flights of half a year"])?.done()?;
    let words = ["promote", "flights@2", "--to", "prod", "--rollout", "rollout.toml"];
    let said = stage.asks("ann", &words)?;
    let is_void = said.error.contains("approvals:") && said.error.contains("void");
    stage.look("the promotion is refused, since the approval of ada is void", said.code == 4 && is_void);
    stage.asks("ada", &["approve", "flights@2", "--to", "prod"])?.done()?;
    Ok(())
}

fn promote(stage: &mut Stage) -> Result<(), Failure> {
    let begun = Instant::now();
    stage.asks("ann", &["promote", "flights@2", "--to", "prod", "--rollout", "rollout.toml"])?.done()?;
    let (mut states, mut pairs, mut last) = (Vec::<String>::new(), 0, Value::Null);
    stage.until(ROLLOUT_MAX, |stage| {
        last = stage.admin(&format!("/admin/endpoints/{MODEL}/rollout"))?;
        let stands = last["stands"].as_str().unwrap_or_default().to_owned();
        if states.last() != Some(&stands) {
            states.push(stands.clone());
        }
        let shadows = stage.admin(&format!("/admin/endpoints/{MODEL}/shadows")).unwrap_or_default();
        pairs = shadows["shadows"][0]["compared"].as_u64().unwrap_or(0).max(pairs);
        if stands.starts_with("canary") && stage.moments.len() == 1 {
            stage.moments.push(clock::unix_ms());
        }
        Ok(last["ended"] == true)
    })?;
    let way = states.join(", ");
    let has = |name: &str| states.iter().any(|state| state.starts_with(name));
    stage.look(format!("its way was {way}"), has("shadow") && has("canary") && last["state"] == "promoted");
    stage.look(format!("as a shadow it answered {pairs} requests that version 1 answered"), pairs > 0);
    let [champion, challenger] = [0, 1].map(|arm| last["units"][arm].as_u64().unwrap_or(0));
    let units = format!("{champion} requests of the one and {challenger} of the other were judged");
    stage.look(units, champion.min(challenger) >= 300);
    let is_there = stage.until(FOLLOWS_MAX, |stage| {
        let environments = stage.quietly("ann", &["show", "flights@2"])?.form;
        Ok(environments["environments"].as_array().is_some_and(|names| names.iter().any(|name| name == "prod")))
    })?;
    stage.look("it is in production on the record", is_there);
    let answers = stage.answers()?;
    let took = begun.elapsed().as_secs_f64();
    stage.look(format!("version {answers} answers, {took:.1} s after the command"), answers == 2);
    on_record(stage, 2)?;
    stage.moments.push(clock::unix_ms());
    Ok(())
}

fn history(stage: &mut Stage) -> Result<(), Failure> {
    let moments = stage.moments.clone();
    for (at, (when, expected)) in
        moments.iter().zip([("before it came", &[1][..]), ("while it competed", &[1, 2]), ("after that", &[2])])
    {
        let at = at.to_string();
        let served = stage.asks("ann", &["history", MODEL, "--at", &at])?.done()?.form;
        let arms = served["arms"].as_array().map(Vec::as_slice).unwrap_or_default();
        let mut versions: Vec<u64> = arms.iter().filter_map(|arm| arm["arm"]["version"].as_u64()).collect();
        versions.sort_unstable();
        versions.dedup();
        stage.look(format!("{when}: {versions:?}"), versions == expected);
        if expected == [2] {
            let promotion = &arms.first().map(|arm| arm["promotions"][0].clone()).unwrap_or_default();
            let by = promotion["approvers"][0].as_str() == Some("ada");
            stage.look("with the promotion that ada approved", by && promotion["end"]["outcome"] == "promoted");
        }
    }
    stage.look("three moments were asked about", moments.len() == 3);
    Ok(())
}

fn drift(stage: &mut Stage) -> Result<(), Failure> {
    let mut told = Value::Null;
    let is_watched = stage.until(FOLLOWS_MAX, |stage| {
        let report = stage.quietly("ann", &["drift", "report", MODEL])?.form;
        let of_2 = report.as_array().into_iter().flatten().find(|told| told["version"] == "2");
        told = of_2.cloned().unwrap_or_default();
        Ok(told["state"] == "watched" && told["open_hour_rows"].as_u64() > Some(0))
    })?;
    stage.step.commands.push("tiltyard drift report --token-file ann.token".to_owned());
    stage.look(format!("version 2 is watched; {} rows this hour", told["open_hour_rows"]), is_watched);
    let rows = &told["baseline"]["rows"];
    let is_pushed = *rows == BASELINE_ROWS && told["baseline"]["provisional"] == false;
    stage.look(format!("it is compared with the {rows} rows that came with it"), is_pushed);
    Ok(())
}

fn back(stage: &mut Stage) -> Result<(), Failure> {
    let begun = Instant::now();
    stage.asks("ann", &["rollback", MODEL])?.done()?;
    let took = begun.elapsed();
    let answers = stage.answers()?;
    let millis = took.as_millis();
    stage
        .look(format!("the next request is answered by version {answers}; the command took {millis} ms"), answers == 1);
    on_record(stage, 1)
}

/// Waits until the record says that this version answers alone.
fn on_record(stage: &mut Stage, version: u64) -> Result<(), Failure> {
    let is_on_record = stage.until(FOLLOWS_MAX, |stage| {
        let plans = stage.quietly("ann", &["history", MODEL])?.form;
        let arms = plans.as_array().and_then(|plans| plans.last()).map(|plan| plan["arms"].clone()).unwrap_or_default();
        Ok(arms.as_array().is_some_and(|arms| arms.len() == 1) && arms[0]["version"] == version)
    })?;
    stage.look("that it answers is on the record", is_on_record);
    Ok(())
}

fn proof(stage: &mut Stage) -> Result<(), Failure> {
    let asked = stage.traffic.take().map_or(Ok(0), Traffic::end)? + stage.probes;
    let mut rows = Value::Null;
    let is_whole = stage.until(SEGMENTS_MAX, |stage| {
        let said = stage.quietly_here(&["capture", "verify", "--data-dir", "data"])?;
        rows = said.form["rows"].clone();
        Ok(said.code == 0 && rows == asked)
    })?;
    stage.step.commands.push("tiltyard capture verify --data-dir data".to_owned());
    stage.look(format!("{asked} requests were answered, and {rows} rows are in whole segments"), is_whole);
    let metrics = stage.admin("/metrics")?;
    let [served, captured, dropped] = ["served", "captured", "dropped"].map(|name| sum(&metrics, name));
    let sums = format!("{served} served = {captured} captured + {dropped} dropped");
    stage.look(sums, served == captured + dropped && served == asked as u64);
    record(stage)
}

/// The log: whole as it is, and not whole once a byte is another.
fn record(stage: &mut Stage) -> Result<(), Failure> {
    let kept = stage.quietly("ada", &["audit", "checkpoint"])?.done()?;
    let kept = kept.form["checkpoint"].as_str().unwrap_or_default().to_owned();
    stage.write("kept.txt", &kept)?;
    let states = stage.folder.join("data").join("state");
    let state = fs::read_dir(&states).ok().and_then(|mut found| found.next()?.ok());
    let state = state.ok_or_else(|| Failure::failed(format!("{} has no record", states.display())))?.path();
    let text = |path: &Path| path.strip_prefix(&stage.folder).unwrap_or(path).display().to_string();
    let (record, key) = (text(&state), text(&state.join("audit.pub")));
    let verified = stage.does(&["audit", "verify", &record, "--checkpoint", "kept.txt", "--key", &key])?;
    let entries = &verified.form["head"]["sequence"];
    stage.look(format!("{entries} entries are as they were written, and signed"), verified.code == 0);
    let requests = stage.quietly("ada", &["requests"])?.done()?.form;
    let approvals = requests[0]["approvals"].as_array().cloned().unwrap_or_default();
    let entry = approvals.last().map_or(0, |approval| approval["at"]["sequence"].as_u64().unwrap_or(0)).to_string();
    let proof = stage.asks("ada", &["audit", "prove", &entry])?.done()?;
    stage.write("approval.json", &proof.text)?;
    let proved = stage.does(&["audit", "verify", "approval.json", "--key", &key])?;
    let is_hers = proved.form["kind"] == "approval.approved" && proved.form["data"]["by"]["name"] == "ada";
    stage.look("a file proves that ada approved, without the server and without the rest", is_hers);
    let copy = stage.folder.join("copy");
    changed_copy(&state, &copy).map_err(|error| stage.cannot_write("copy", &error))?;
    let changed = stage.does(&["audit", "verify", "copy", "--key", &key])?;
    stage.look(format!("in a copy with one byte changed it is found: {}", changed.error), changed.code == 1);
    stage.server.take().map_or(Ok(()), Server::end)
}

/// A counter of the capture, over all its labels.
fn sum(metrics: &Value, name: &str) -> u64 {
    let lines = metrics.as_str().unwrap_or_default().lines();
    let name = format!("tiltyard_capture_{name}_total");
    let of_name = lines.filter(|line| line.strip_prefix(&name).is_some_and(|rest| rest.starts_with(['{', ' '])));
    of_name.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum::<f64>() as u64
}

/// Copies a record, and changes one byte in the middle of its log.
fn changed_copy(from: &Path, to: &Path) -> io::Result<()> {
    let mut folders = vec![PathBuf::new()];
    let mut segments = Vec::new();
    while let Some(folder) = folders.pop() {
        fs::create_dir_all(to.join(&folder))?;
        for entry in fs::read_dir(from.join(&folder))? {
            let entry = entry?;
            let place = folder.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                folders.push(place);
                continue;
            }
            fs::copy(entry.path(), to.join(&place))?;
            if place.starts_with("log") && place.extension().is_some_and(|extension| extension == "jsonl") {
                segments.push(to.join(place));
            }
        }
    }
    let first = segments.iter().min().ok_or_else(|| io::Error::other("the record has no log"))?;
    let mut bytes = fs::read(first)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(first, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_added_over_their_labels() {
        let metrics = "tiltyard_capture_dropped_total{reason=\"full\"} 2\ntiltyard_capture_dropped_total{reason=\"busy\"} 3\n\
                       tiltyard_capture_served_total 7\n# tiltyard_capture_served_total 9\n";
        assert_eq!((sum(&metrics.into(), "dropped"), sum(&metrics.into(), "served")), (5, 7));
    }

    #[test]
    fn a_changed_copy_differs_in_one_byte() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        fs::create_dir_all(from.join("log")).unwrap();
        fs::write(from.join("audit.pub"), "key").unwrap();
        fs::write(from.join("log/1.jsonl"), "one\ntwo\n").unwrap();
        changed_copy(&from, &to).unwrap();
        let bytes = fs::read(to.join("log/1.jsonl")).unwrap();
        let differ = bytes.iter().zip(b"one\ntwo\n").filter(|(a, b)| a != b).count();
        assert_eq!((differ, bytes.len(), fs::read(to.join("audit.pub")).unwrap()), (1, 8, b"key".to_vec()));
    }

    #[test]
    fn what_is_asked_is_a_rollout() {
        let (mut written, _) =
            crate::rollouts::written::read(&toml::from_str::<Value>(ROLLOUT).unwrap().to_string()).unwrap();
        written.challenger =
            Some(crate::rollouts::written::WrittenArm { name: None, model: None, version: 2, digest: None });
        let plan = crate::rollouts::begin::plan(MODEL, &written, None, &[1]).unwrap();
        assert_eq!(plan.arms.len(), 3, "champion, challenger, and what it sees as a shadow");
    }
}
