//! Which promises did a soak find kept, and by which figures?

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::changes::Changes;
use super::figures::{Comparison, Estimate, compare, median, merged, slope};
use super::traffic::Notes;
use super::{Done, Plan, SOAK};
use crate::server::{Holdings, POLL_INTERVAL};

/// p99 while something changes, by p99 while nothing does: at most this.
const P99_RATIO_MAX: f64 = 1.2;

/// What a small question costs in the last tenth, by its cost in the first: at most this.
const ROUTE_RATIO_MAX: f64 = 1.25;

/// A slope of resident memory that is surely above 0 is still none where the second half of the run adds no more than
/// this share of what is resident.
const GROWTH_MAX: f64 = 0.01;

/// Files that the server may keep for what it has learned.
const FILES_KEPT_MAX: usize = 1024;

/// Versions of one model that metrics may tell apart: 64 that are gone, some that answer or are about to go, and all others as one.
const VERSIONS_MAX: usize = 72;

/// What was found at the end.
pub(super) struct Found {
    pub(super) done: Done,
    pub(super) took: Duration,
    pub(super) before: Holdings,
    pub(super) after: Holdings,
    pub(super) metrics: BTreeMap<String, f64>,
    pub(super) files_kept: usize,
}

/// A promise: whether it was kept, and its figure.
#[derive(Clone, Debug, Serialize)]
struct Promise {
    name: &'static str,
    /// `None` where this run does not judge it.
    kept: Option<bool>,
    figure: String,
    /// What broke it, the first cases.
    cases: Vec<String>,
}

/// Everything a soak found.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    command: Vec<String>,
    poll_interval: &'static str,
    seconds: f64,
    done: Done,
    answers: BTreeMap<&'static str, u64>,
    /// Median seconds from the last byte written to the first answer, by way.
    delays: BTreeMap<&'static str, f64>,
    /// Of the model that changes, and of the one beside it.
    p99: Option<Comparison>,
    p99_beside: Option<Comparison>,
    /// Bytes per change over the last half.
    memory_slope: Option<Estimate>,
    resident_bytes: (u64, u64),
    stale_slow: u64,
    before: Holdings,
    after: Holdings,
    promises: Vec<Promise>,
}

impl Report {
    /// Judges everything but the server's end.
    pub(super) fn new(plan: &Plan, notes: &Notes, changes: &Changes<'_>, found: &Found) -> Report {
        let windows = merged(&changes.windows, plan.margin);
        let p99_of = |beside: bool| {
            let samples: Vec<_> = notes.samples.iter().filter(|sample| sample.beside == beside).copied().collect();
            compare(&samples, &windows, plan.seed)
        };
        let half = &changes.points[changes.points.len() / 2..];
        let points: Vec<(f64, f64)> =
            half.iter().map(|point| (point.changes as f64, point.resident_bytes as f64)).collect();
        let resident = |point: Option<&super::changes::Point>| point.map_or(0, |point| point.resident_bytes);
        let mut report = Report {
            command: std::env::args().collect(),
            poll_interval: POLL_INTERVAL,
            seconds: found.took.as_secs_f64(),
            done: found.done,
            answers: notes.good.clone(),
            delays: changes.delays.iter().map(|(way, all)| (*way, median(all))).collect(),
            p99: p99_of(false),
            p99_beside: p99_of(true),
            memory_slope: slope(&points),
            resident_bytes: (resident(changes.points.first()), resident(changes.points.last())),
            stale_slow: notes.stale_slow,
            before: found.before.clone(),
            after: found.after.clone(),
            promises: Vec::new(),
        };
        report.judge_counts(plan, notes, changes, found);
        report.judge_figures(plan, changes, half.len());
        report
    }

    fn promise(&mut self, name: &'static str, kept: Option<bool>, figure: String, cases: Vec<String>) {
        self.promises.push(Promise { name, kept, figure, cases });
    }

    fn judge_counts(&mut self, plan: &Plan, notes: &Notes, changes: &Changes<'_>, found: &Found) {
        let Done { swaps, settings, refused } = found.done;
        let all = swaps == plan.swaps && settings == plan.settings;
        let figure = format!("{swaps} swaps, {settings} changes of settings, {refused} bad versions");
        self.promise("all changes were made", Some(all), figure, Vec::new());
        let broken = changes.broken_count;
        let name = "every change came through, and no bad one";
        self.promise(name, Some(broken == 0), format!("{broken} did not"), changes.broken.clone());
        let failed = notes.failed();
        let kinds = notes.failed.iter().map(|((lane, kind), count)| format!("{count} x {lane}: {kind}"));
        let cases = kinds.chain(notes.examples.iter().filter(|text| text.contains(": failed: ")).cloned()).collect();
        self.promise("no request failed", Some(failed == 0), format!("{failed} of {}", notes.due), cases);
        let wrong = notes.misversioned();
        let kinds = notes.wrong.iter().map(|(lane, count)| format!("{count} x {lane}"));
        let cases = kinds.chain(notes.examples.iter().filter(|text| text.contains(": wrong: ")).cloned()).collect();
        let figure = format!("{wrong} of {}", notes.answered() + wrong);
        self.promise("no answer was another version's", Some(wrong == 0), figure, cases);
        let ended = notes.answered() + failed + wrong;
        let unanswered = notes.due.saturating_sub(ended);
        self.promise(
            "every request was answered once",
            Some(ended == notes.due),
            format!("{unanswered} were not"),
            Vec::new(),
        );
        let fell = changes.fell_count;
        self.promise("no counter fell", Some(fell == 0), format!("{fell} did"), changes.fell.clone());
        let versions = versions_told(&found.metrics);
        let figure = format!("{versions} versions in {} series; {VERSIONS_MAX} versions at most", found.metrics.len());
        self.promise("series are bounded", Some(versions <= VERSIONS_MAX), figure, Vec::new());
        let counted = counted_by_server(&found.metrics);
        let answered: u64 =
            notes.good.iter().filter(|(lane, _)| !lane.ends_with("beside")).map(|(_, count)| count).sum();
        let answered = answered + wrong;
        let figure = format!("it counted {counted}, clients {answered}");
        self.promise("the server counted every answer", Some(counted == answered), figure, Vec::new());
        let mut differences = found.before.differences(&found.after);
        if found.before.live.is_empty() {
            differences.push("the server does not tell what is alive (tiltyard_live)".into());
        }
        let figure = format!("{} kinds differ", differences.len());
        self.promise("what is alive is back to the start", Some(differences.is_empty()), figure, differences);
        let files = found.files_kept;
        let figure = format!("{files}, at most {FILES_KEPT_MAX}");
        self.promise("files in the data folder are bounded", Some(files <= FILES_KEPT_MAX), figure, Vec::new());
    }

    fn judge_figures(&mut self, plan: &Plan, changes: &Changes<'_>, changes_in_half: usize) {
        let judged = |kept: bool| (!plan.counts_only).then_some(kept);
        for (name, told) in [
            ("p99 with a change by p99 without", self.p99.clone()),
            ("the same of the model beside", self.p99_beside.clone()),
        ] {
            let Some(told) = told else { continue };
            let Estimate { value, low, high } = told.ratio;
            let figure = format!(
                "{value:.2} ({low:.2} to {high:.2}), at most {P99_RATIO_MAX}: {} µs by {} µs; p50 {} by {}, max {} by {}; {} and {} answers",
                told.inside_p99_us,
                told.outside_p99_us,
                told.inside_p50_us,
                told.outside_p50_us,
                told.inside_max_us,
                told.outside_max_us,
                told.inside_count,
                told.outside_count,
            );
            self.promise(name, judged(value <= P99_RATIO_MAX), figure, Vec::new());
        }
        if let Some(Estimate { value, low, high }) = self.memory_slope {
            let growth = value * changes_in_half as f64 / self.resident_bytes.1.max(1) as f64;
            let (first, last) = (self.resident_bytes.0 as f64 / 1e6, self.resident_bytes.1 as f64 / 1e6);
            let figure = format!(
                "{value:.0} bytes a change ({low:.0} to {high:.0}), {:.2} % over the last half; {first:.1} MB → {last:.1} MB",
                growth * 100.0
            );
            let kept = low <= 0.0 || growth <= GROWTH_MAX;
            self.promise("resident memory does not grow over the last half", judged(kept), figure, Vec::new());
        }
        let tenth = (changes.routes_us.len() / 10).max(1);
        if let (Some(first), Some(last)) = (
            changes.routes_us.get(..tenth),
            changes.routes_us.get(changes.routes_us.len() - tenth.min(changes.routes_us.len())..),
        ) {
            let (first, last) = (median(first), median(last));
            let ratio = last / first;
            let figure = format!("{ratio:.2}, at most {ROUTE_RATIO_MAX}: {first:.0} µs → {last:.0} µs");
            self.promise(
                "reading the catalog costs the same at the end",
                judged(ratio <= ROUTE_RATIO_MAX),
                figure,
                Vec::new(),
            );
        }
    }

    /// Judges how the server ended.
    pub(super) fn note_end(&mut self, code: Option<i32>) {
        let figure = code.map_or_else(|| "it was killed".to_owned(), |code| format!("exit code {code}"));
        self.promise("the server ended well", Some(code == Some(0)), figure, Vec::new());
    }

    /// How many promises are broken.
    pub(super) fn broken(&self) -> usize {
        self.promises.iter().filter(|promise| promise.kept == Some(false)).count()
    }
}

/// Versions of the model that changes that metrics tell apart.
fn versions_told(metrics: &BTreeMap<String, f64>) -> usize {
    let model = format!("model=\"{SOAK}\"");
    let version = |series: &str| series.split("version=\"").nth(1)?.split('"').next().map(str::to_owned);
    let told = metrics.keys().filter(|series| series.contains(&model)).filter_map(|series| version(series.as_str()));
    told.collect::<BTreeSet<_>>().len()
}

/// Requests to the model that changes that the server says it answered well, over all versions.
fn counted_by_server(metrics: &BTreeMap<String, f64>) -> u64 {
    let model = format!("model=\"{SOAK}\"");
    let matches = |series: &str| {
        series.starts_with("tiltyard_requests_total{")
            && series.contains(&model)
            && series.contains("outcome=\"success\"")
    };
    metrics.iter().filter(|(series, _)| matches(series)).map(|(_, value)| *value as u64).sum()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let answers: u64 = self.answers.values().sum();
        writeln!(
            f,
            "{:.0} s, {answers} answers; the server looks at its folder every {}",
            self.seconds, self.poll_interval
        )?;
        for promise in &self.promises {
            let word = match promise.kept {
                Some(true) => "kept  ",
                Some(false) => "BROKEN",
                None => "told  ",
            };
            writeln!(f, "{word} {}: {}", promise.name, promise.figure)?;
            if promise.kept == Some(false) {
                for case in promise.cases.iter().take(30) {
                    writeln!(f, "         {case}")?;
                }
            }
        }
        writeln!(f, "median time from the last byte to the first answer:")?;
        for (way, seconds) in &self.delays {
            writeln!(f, "       {way}: {:.0} ms", seconds * 1000.0)?;
        }
        write!(
            f,
            "answers to slowly sent bodies by a version already gone when their last byte was sent: {}",
            self.stale_slow
        )
    }
}
