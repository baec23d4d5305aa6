//! How do versions do right now, second by second?

use std::io::{self, IsTerminal};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use tiltyard_runtime::stats::Histogram;

use super::exit::Failure;
use super::models::text;
use super::output::{self, Form, NOTHING, Table};
use super::status::versions as list;
use super::target::{Http, ask};

/// Puts the cursor into the corner and empties the screen from there on.
const FROM_THE_TOP: &str = "\x1b[H\x1b[J";

/// Shows what happened in each interval, until it is stopped: on a terminal in one place, elsewhere one table after the other, as
/// JSON one line for each.
pub(super) fn watch(http: &Http, form: Form, interval: Duration) -> Result<(), Failure> {
    let mut before = fetch(http)?;
    let in_place = form == Form::Table && io::stdout().is_terminal();
    if in_place {
        output::print(&format!("{FROM_THE_TOP}The first figures come in {interval:?}.\n"))?;
    }
    loop {
        thread::sleep(interval);
        let now = fetch(http)?;
        let figures = between(&before, &now);
        output::print(&match form {
            Form::Json => format!("{figures}\n"),
            Form::Table if in_place => format!("{FROM_THE_TOP}{}", shown(&figures)),
            Form::Table => shown(&figures) + "\n",
        })?;
        before = now;
    }
}

fn fetch(http: &Http) -> Result<Value, Failure> {
    let answer = ask(http, "GET", "/admin/traffic", Vec::new())?;
    match serde_json::from_slice(&answer) {
        Ok(Value::Object(counts)) if counts.contains_key("arms") => Ok(Value::Object(counts)),
        _ => Err(Failure::failed("the admin port does not answer as a Tiltyard server of this version does")),
    }
}

/// What happened between two answers, arm by arm.
fn between(before: &Value, now: &Value) -> Value {
    let seconds = (number(now, "unix_ms") - number(before, "unix_ms")) / 1000.0;
    let none = Value::Null;
    let same = |key: &str, one: &Value, names: &[&str]| -> Value {
        let found = list(before, key).iter().find(|other| names.iter().all(|name| other[name] == one[name]));
        found.unwrap_or(&none).clone()
    };
    let versions: Vec<(&Value, f64, f64)> = list(now, "versions")
        .iter()
        .map(|version| {
            let earlier = same("versions", version, &["model", "version"]);
            (version, since(version, &earlier, "runs"), since(version, &earlier, "run_rows"))
        })
        .collect();
    let arms = list(now, "arms").iter().filter_map(|arm| {
        let earlier = same("arms", arm, &["endpoint", "model", "version", "arm"]);
        let version =
            versions.iter().find(|(version, ..)| ["model", "version"].iter().all(|name| version[name] == arm[name]));
        let (succeeded, failed) = (since(arm, &earlier, "succeeded"), since(arm, &earlier, "failed"));
        // Of versions that are gone only what still happens is worth a line.
        if version.is_none() && succeeded + failed == 0.0 {
            return None;
        }
        let times =
            times(arm).map(|times| self::times(&earlier).map_or(times.clone(), |earlier| times.since(&earlier)));
        let quantile = |share: f64| times.as_ref()?.quantile(share).map(|time| time.as_secs_f64());
        let rate = |count: f64| if seconds > 0.0 { json!(count / seconds) } else { Value::Null };
        let cpu = (since(arm, &earlier, "cpu_ns") + since(arm, &earlier, "device_ns")) / 1e9;
        Some(json!({
            "endpoint": arm["endpoint"], "model": arm["model"], "version": arm["version"], "arm": arm["arm"],
            "requests_per_second": rate(succeeded + failed),
            "rows_per_second": rate(since(arm, &earlier, "rows")),
            "failed_ratio": (succeeded + failed > 0.0).then(|| failed / (succeeded + failed)),
            "p50_seconds": quantile(0.5),
            "p99_seconds": quantile(0.99),
            "queued": version.map(|(version, ..)| version["queued"].clone()),
            "batch_rows": version.filter(|(_, runs, _)| *runs > 0.0).map(|(_, runs, rows)| rows / runs),
            "busy": rate(cpu),
        }))
    });
    let arms: Vec<Value> = arms.collect();
    json!({ "seconds": seconds, "ready": now["ready"], "arms": arms })
}

fn number(form: &Value, key: &str) -> f64 {
    form[key].as_f64().unwrap_or(0.0)
}

/// How far a counter came; one that is lower than before began anew.
fn since(now: &Value, before: &Value, key: &str) -> f64 {
    let (now, before) = (number(now, key), number(before, key));
    if now < before { now } else { now - before }
}

fn times(arm: &Value) -> Option<Histogram> {
    let counts: Option<Vec<u64>> = arm["times"].as_array()?.iter().map(Value::as_u64).collect();
    Histogram::of(&counts?)
}

fn shown(figures: &Value) -> String {
    let ready = if figures["ready"] == true { "is ready" } else { "is not ready" };
    let head = format!("The server {ready}. The last {:.1} s:\n", number(figures, "seconds"));
    let arms = list(figures, "arms");
    if arms.is_empty() {
        return head + "It has no models.\n";
    }
    let mut table = Table::new([
        "endpoint", "model", "version", "arm", "req/s", "rows/s", "failed", "p50", "p99", "queued", "batch", "busy",
    ]);
    for arm in arms {
        let cell = |key: &str, show: fn(f64) -> String| arm[key].as_f64().map_or_else(|| NOTHING.to_owned(), show);
        table.add([
            text(arm, "endpoint"),
            text(arm, "model"),
            text(arm, "version"),
            text(arm, "arm"),
            cell("requests_per_second", |rate| format!("{rate:.1}")),
            cell("rows_per_second", |rate| format!("{rate:.1}")),
            cell("failed_ratio", |ratio| format!("{:.1}%", ratio * 100.0)),
            cell("p50_seconds", time),
            cell("p99_seconds", time),
            cell("queued", |count| format!("{count}")),
            cell("batch_rows", |rows| format!("{rows:.1}")),
            cell("busy", |share| format!("{share:.2}")),
        ]);
    }
    head + &table.to_string()
}

/// A time with as many digits as it is known to.
fn time(seconds: f64) -> String {
    match seconds {
        ..0.001 => format!("{:.0} us", seconds * 1e6),
        ..1.0 => format!("{:.1} ms", seconds * 1e3),
        _ => format!("{seconds:.2} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(unix_ms: u64, succeeded: u64, failed: u64, slow: u64) -> Value {
        let mut times = Histogram::default().counts().to_vec();
        times[10] = succeeded - slow;
        *times.last_mut().unwrap() = slow;
        json!({
            "unix_ms": unix_ms, "ready": true,
            "arms": [
                { "endpoint": "risk", "model": "risk", "version": "2", "arm": "champion", "succeeded": succeeded,
                  "failed": failed, "rows": 4 * succeeded, "cpu_ns": succeeded * 1_000_000, "device_ns": 0, "times": times },
                { "endpoint": "risk", "model": "risk", "version": "1", "arm": "champion", "succeeded": 9, "failed": 0,
                  "rows": 9, "cpu_ns": 9, "device_ns": 0, "times": [] },
            ],
            "versions": [{ "model": "risk", "version": "2", "queued": 3, "runs": succeeded / 2, "run_rows": 4 * succeeded }],
        })
    }

    #[test]
    fn what_happened_in_between_is_told() {
        let figures = between(&counts(1_000, 100, 0, 0), &counts(3_000, 290, 10, 0));
        let arm = &figures["arms"][0];
        assert_eq!(figures["arms"].as_array().unwrap().len(), 1, "version 1 is gone, and nothing happens there");
        assert_eq!((&arm["requests_per_second"], &arm["rows_per_second"]), (&json!(100.0), &json!(380.0)));
        assert_eq!((&arm["failed_ratio"], &arm["queued"], &arm["batch_rows"]), (&json!(0.05), &json!(3), &json!(8.0)));
        assert_eq!(arm["busy"], json!(0.095));
        let table = shown(&figures);
        assert!(table.starts_with("The server is ready. The last 2.0 s:\nENDPOINT  MODEL  VERSION  ARM"), "{table}");
        assert!(table.contains("risk      risk   2        champion  100.0  380.0   5.0%"), "{table}");
    }

    #[test]
    fn a_server_that_began_anew_counts_from_zero() {
        let figures = between(&counts(1_000, 500, 0, 0), &counts(2_000, 20, 0, 20));
        assert_eq!(figures["arms"][0]["requests_per_second"], json!(20.0));
        assert_eq!(between(&json!({}), &json!({ "unix_ms": 5, "arms": [] }))["arms"], json!([]));
        assert_eq!([0.000_02, 0.0123, 2.5].map(time), ["20 us", "12.3 ms", "2.50 s"]);
    }
}
