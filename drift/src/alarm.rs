//! When is what comes so different that somebody should look?
//!
//! ```text
//! WARN     PSI_c ≥ 0.10 and p < 0.01/F, in two windows in a row          F features; windows of 200 rows at least, or longer ones
//! ALERT    PSI_c ≥ 0.25 and p < 0.01/F, in two windows in a row
//!          or 5 points more without a value, unseen or out of range than expected, surely, in one window
//! DATASET  30 % of the inputs, by importance, in WARN, or an output in ALERT
//! ```
//!
//! Limits are higher for features whose baseline moves more by itself ([`Rule::limit`]). An alarm ends after two windows in a row in
//! which 0.8 of its limit is not reached. Days and weeks alarm, and hours only where values are missing. The same windows in the same order
//! give the same alarms.

mod keep;
mod reason;

use serde::{Deserialize, Serialize};

use crate::baseline::{Baseline, Feature, Role, Whole};
use crate::bins::Bins;
use crate::counts::{Counts, Summary};
use crate::distinct::Distinct;
use crate::numbers::rate_bounds;
use crate::span::Span;
use crate::statistics::{Distance, distance, numeric_distance};
use crate::windows::{Window, Windows};

pub use reason::moment;

/// What it takes to be alarmed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rule {
    /// The corrected PSI that warns, and the one that alerts.
    pub psi: [f64; 2],
    /// How likely chance may make a PSI as large, over all features together.
    pub alpha: f64,
    /// How many times the mean corrected PSI of the baseline's own windows a window must have at least, and how many more times
    /// where these are but one: of so many that are independent, that by their number.
    pub own: [f64; 2],
    /// Windows in a row that it takes to be alarmed by a distribution, and to be calm again.
    pub windows: u8,
    /// Rows of a window, or different keys; with fewer, the next one is added.
    pub rows_min: f64,
    /// By how much more rows must be without a value, unseen or out of range: 0.05 are five points.
    pub points: f64,
    /// How likely such a rate may be found by chance, over all features together.
    pub rate_alpha: f64,
    /// The share of a limit below which an alarm may end.
    pub calm: f64,
    /// The share of the inputs, by importance, that makes it a matter of the whole.
    pub dataset: f64,
    /// An importance from which on an input's drift is more severe than others'.
    pub important: f64,
}

impl Default for Rule {
    fn default() -> Rule {
        Rule {
            psi: [0.10, 0.25],
            alpha: 0.01,
            own: [12.0, 200.0],
            windows: 2,
            rows_min: 200.0,
            points: 0.05,
            rate_alpha: 1e-6,
            calm: 0.8,
            dataset: 0.30,
            important: 2.0,
        }
    }
}

impl Rule {
    /// The corrected PSI that warns, and the one that alerts, in windows of this length: those of the rule, or as many times the mean
    /// of the baseline's own windows as `own` says, where that is more.
    pub fn limit(&self, feature: &Feature, span: Span) -> [f64; 2] {
        let own = feature.steadiness(span).or_else(|| feature.steadiness(Span::Day));
        let own = own.map_or(0.0, |own| own.mean * (self.own[0] + self.own[1] / own.independent()));
        self.psi.map(|psi| psi.max(own))
    }

    /// Whether windows of this length alarm by this signal.
    fn listens(&self, signal: Signal, span: Span) -> bool {
        span != Span::Hour || signal == Signal::Missing
    }
}

/// By how many more rows without a value, unseen or out of range anybody is alarmed, whatever the baseline's own windows had.
const OWN_POINTS_MAX: f64 = 0.5;

/// How bad it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As expected.
    #[default]
    Ok,
    /// Different.
    Warn,
    /// Very different, or missing, unseen or out of range.
    Alert,
}

impl Level {
    const ALL: [Level; 3] = [Level::Ok, Level::Warn, Level::Alert];

    /// The name in metrics and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Level::Ok => "ok",
            Level::Warn => "warn",
            Level::Alert => "alert",
        }
    }
}

/// By what an alarm is raised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Signal {
    /// Values are distributed otherwise.
    Shape,
    /// More rows have no value, none that is a number, or an infinite one.
    Missing,
    /// More values are out of the baseline's range, or categories that it never saw.
    Strange,
}

impl Signal {
    /// All of them.
    pub const ALL: [Signal; 3] = [Signal::Shape, Signal::Missing, Signal::Strange];
}

/// How soon somebody should look, the least first. Harm that labels show is more severe than all of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// An input.
    Other,
    /// An input that matters, or many of them.
    Important,
    /// What the model answers.
    Output,
}

/// What was found of a feature in one window.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// How long windows are; it may be several of them where rows were few.
    pub span: Span,
    /// From when, in milliseconds since 1970.
    pub from_ms: u64,
    /// To when.
    pub to_ms: u64,
    /// Rows.
    pub rows: u64,
    /// How far the distribution is; `None` where there is nothing to compare.
    pub distance: Option<Distance>,
    /// The corrected PSI that warns, and the one that alerts.
    pub limit: [f64; 2],
    /// Rows without a value.
    pub missing: Rate,
    /// Values that were never seen, or are out of range.
    pub strange: Rate,
    /// Mean and so on, of a number.
    pub summary: Option<Summary>,
    /// The commonest values that were never seen, with their rows.
    pub newcomers: Vec<(String, u64)>,
}

/// How often something was found.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rate {
    /// The share of the rows.
    pub found: f64,
    /// The share that was expected.
    pub expected: f64,
    /// How much more is alarming.
    pub limit: f64,
    /// Whether it is surely more than was expected.
    pub is_sure: bool,
}

impl Rate {
    fn is_alarming(&self) -> bool {
        self.is_sure && self.found - self.expected >= self.limit
    }
}

/// How a signal stands: a level that is slow to rise and slow to fall.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Ladder {
    level: Level,
    since_ms: u64,
    /// Windows in a row that reached the limits.
    above: [u8; 2],
    /// Windows in a row that were well below them.
    below: [u8; 2],
}

impl Ladder {
    /// Takes in whether a window reaches each limit, and whether it is well below it.
    fn step(&mut self, reaches: [bool; 2], calm: [bool; 2], [rise, fall]: [u8; 2], at_ms: u64) {
        let count = |counts: &mut [u8; 2], more: [bool; 2]| {
            counts
                .iter_mut()
                .zip(more)
                .for_each(|(count, more)| *count = if more { count.saturating_add(1) } else { 0 });
        };
        count(&mut self.above, reaches);
        count(&mut self.below, calm);
        let reached = |counts: [u8; 2], needed| [counts[0] >= needed, counts[1] >= needed];
        let [warns, alerts] = reached(self.above, rise);
        let [calm, calmer] = reached(self.below, fall);
        let level = match self.level {
            _ if alerts => Level::Alert,
            Level::Alert if !calmer => Level::Alert,
            _ if warns => Level::Warn,
            Level::Ok => Level::Ok,
            _ if calm => Level::Ok,
            _ => Level::Warn,
        };
        if level != self.level {
            (self.level, self.since_ms) = (level, at_ms);
        }
    }
}

/// One feature in windows of one length.
#[derive(Clone, Debug, Default)]
struct Track {
    waiting: Option<Box<Waiting>>,
    ladders: [Ladder; 3],
    reading: Option<Box<Reading>>,
}

/// Windows that are too small to be looked at by themselves.
#[derive(Clone, Debug, PartialEq)]
struct Waiting {
    from_ms: u64,
    hours: Vec<(u8, u64)>,
    keys: Distinct,
    rows: u64,
    counts: Counts,
}

/// Something changed.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The feature's position; `None`: the whole.
    pub feature: Option<usize>,
    /// What it was.
    pub from: Level,
    /// What it is now.
    pub to: Level,
    /// By which signal; `None` of the whole.
    pub signal: Option<Signal>,
    /// When the window ended that showed it.
    pub at_ms: u64,
    /// How soon somebody should look.
    pub severity: Severity,
    /// Why: a sentence.
    pub why: String,
}

impl Change {
    /// Whether something may be done without a person: values that are missing, unseen or out of range break models, others need not.
    pub fn may_act(&self) -> bool {
        self.to == Level::Alert && matches!(self.signal, Some(Signal::Missing | Signal::Strange))
    }
}

/// Where a feature stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing<'a> {
    /// The worst of its signals.
    pub level: Level,
    /// Since when, in milliseconds since 1970; 0 where it was never otherwise.
    pub since_ms: u64,
    /// By which signal and in windows of which length; `None` where it is as expected.
    pub by: Option<(Signal, Span)>,
    /// What was found last.
    pub reading: Option<&'a Reading>,
    /// A sentence.
    pub why: String,
}

/// Watches the windows of a deployment.
#[derive(Clone, Debug)]
pub struct Watch {
    baseline: Baseline,
    rule: Rule,
    tracks: Vec<[Track; 3]>,
    whole: Ladder,
}

impl Watch {
    /// Nothing was seen yet.
    pub fn new(baseline: &Baseline, rule: Rule) -> Watch {
        let tracks = baseline.features().iter().map(|_| Default::default()).collect();
        Watch { baseline: baseline.clone(), rule, tracks, whole: Ladder::default() }
    }

    /// What it takes to be alarmed.
    pub fn rule(&self) -> &Rule {
        &self.rule
    }

    /// Takes in a window that is over, and says what changed: the worst first. Windows of a length come one after the other, and all of
    /// them are counted by the watch's own baseline; one with another number of features changes nothing.
    pub fn take(&mut self, window: &Window) -> Vec<Change> {
        let mut changes = Vec::new();
        if window.features.len() != self.tracks.len() {
            return changes;
        }
        for feature in 0..self.tracks.len() {
            let before = self.worst(feature);
            self.look(feature, window);
            let after = self.worst(feature);
            if before.0 != after.0 {
                let why = self.standing(feature).why;
                let signal = after.1.or(before.1).map(|(signal, _)| signal);
                let severity = self.severity(feature);
                let (from, to, at_ms) = (before.0, after.0, window.to_ms());
                changes.push(Change { feature: Some(feature), from, to, signal, at_ms, severity, why });
            }
        }
        changes.extend(self.look_at_the_whole(window.to_ms()));
        changes.sort_by_key(|change| (std::cmp::Reverse((change.to, change.severity)), change.feature));
        changes
    }

    /// Where a feature stands, by its position in the baseline; there must be one.
    pub fn standing(&self, feature: usize) -> Standing<'_> {
        let (level, by) = self.worst(feature);
        let tracks = &self.tracks[feature];
        let span = by.map_or(Span::Day, |(_, span)| span);
        let reading = tracks[span as usize].reading.as_deref();
        let latest = tracks.iter().flat_map(|track| &track.ladders).map(|ladder| ladder.since_ms).max().unwrap_or(0);
        let since_ms = by.map_or(latest, |(signal, span)| tracks[span as usize].ladders[signal as usize].since_ms);
        let why = reason::sentence(&self.baseline.features()[feature], level, by, reading, self.rule.windows);
        Standing { level, since_ms, by, reading, why }
    }

    /// What was found last of a feature in windows of this length, by its position in the baseline; there must be one.
    pub fn reading(&self, feature: usize, span: Span) -> Option<&Reading> {
        self.tracks[feature][span as usize].reading.as_deref()
    }

    /// How things stand by nothing but the windows that are kept: of several replicas, put together.
    pub fn replay(rule: Rule, windows: &Windows) -> Watch {
        let mut all: Vec<Window> = Span::ALL.into_iter().flat_map(|span| windows.closed(span)).collect();
        all.sort_by_key(|window| (window.to_ms(), window.span));
        let mut watch = Watch::new(windows.baseline(), rule);
        all.iter().for_each(|window| drop(watch.take(window)));
        watch
    }

    /// Finds again what was found last of the features that alarm, after a restart.
    pub fn recall(&mut self, windows: &Windows) {
        let mut closed: [Option<Vec<Window>>; 3] = Default::default();
        for feature in 0..self.tracks.len() {
            let (_, Some((_, span))) = self.worst(feature) else { continue };
            let closed = closed[span as usize].get_or_insert_with(|| windows.closed(span).collect());
            let last = readings(&self.baseline, &self.rule, feature, closed).pop();
            let track = &mut self.tracks[feature][span as usize];
            track.reading = track.reading.take().or(last.map(Box::new));
        }
    }

    /// The worst of all features of a role: while the inputs are in ALERT, a promotion is held.
    pub fn level(&self, role: Role) -> Level {
        let of_role = self.baseline.features().iter().enumerate().filter(|(_, feature)| feature.role == role);
        of_role.map(|(at, _)| self.worst(at).0).max().unwrap_or_default()
    }

    /// Whether it is a matter of the whole, and since when.
    pub fn whole(&self) -> (Level, u64) {
        (self.whole.level, self.whole.since_ms)
    }

    fn worst(&self, feature: usize) -> (Level, Option<(Signal, Span)>) {
        let mut worst = (Level::Ok, None);
        // The days' word comes first where others say the same.
        for span in [Span::Day, Span::Week, Span::Hour] {
            for signal in Signal::ALL {
                let level = self.tracks[feature][span as usize].ladders[signal as usize].level;
                if level > worst.0 {
                    worst = (level, Some((signal, span)));
                }
            }
        }
        worst
    }

    fn severity(&self, feature: usize) -> Severity {
        let feature = &self.baseline.features()[feature];
        match feature.role {
            Role::Output => Severity::Output,
            Role::Input if feature.importance >= self.rule.important => Severity::Important,
            Role::Input => Severity::Other,
        }
    }

    /// Looks at a feature's part of a window, or adds it to those that wait for more rows.
    fn look(&mut self, feature: usize, window: &Window) {
        let Watch { baseline, rule, tracks, .. } = self;
        let track = &mut tracks[feature][window.span as usize];
        let counts = &window.features[feature];
        let waiting = match track.waiting.take() {
            None => Waiting::of(window, counts),
            Some(mut waiting) => {
                waiting.add(window, counts);
                *waiting
            }
        };
        if !waiting.is_enough(&baseline.features()[feature], rule) {
            track.waiting = Some(Box::new(waiting));
            return;
        }
        let reading = read(baseline, rule, feature, &waiting, window.span, window.to_ms());
        let is_far = |limit: f64| {
            let far = |distance: &Distance| {
                distance.psi_corrected >= limit && distance.p < rule.alpha / baseline.features().len() as f64
            };
            reading.distance.as_ref().is_some_and(far)
        };
        let is_calm =
            |limit: f64| reading.distance.as_ref().is_some_and(|distance| distance.psi_corrected < rule.calm * limit);
        for signal in Signal::ALL.into_iter().filter(|&signal| rule.listens(signal, window.span)) {
            let ladder = &mut track.ladders[signal as usize];
            let mut step = |reaches, calm, needed| ladder.step(reaches, calm, needed, window.to_ms());
            let rate = match signal {
                Signal::Shape if reading.distance.is_none() => continue,
                Signal::Shape => {
                    step(reading.limit.map(is_far), reading.limit.map(is_calm), [rule.windows; 2]);
                    continue;
                }
                Signal::Missing => reading.missing,
                Signal::Strange => reading.strange,
            };
            let is_calm = rate.found - rate.expected < rule.calm * rate.limit;
            step([false, rate.is_alarming()], [is_calm; 2], [1, rule.windows]);
        }
        track.reading = Some(Box::new(reading));
    }

    fn look_at_the_whole(&mut self, at_ms: u64) -> Option<Change> {
        let (mut all, mut warned, mut names) = (0.0, 0.0, Vec::new());
        let mut output = None;
        for (at, feature) in self.baseline.features().iter().enumerate() {
            let level = self.worst(at).0;
            match feature.role {
                Role::Output if level == Level::Alert => output = Some(feature.name.clone()),
                Role::Output => {}
                Role::Input => {
                    all += feature.importance;
                    if level > Level::Ok {
                        warned += feature.importance;
                        names.push(feature.name.clone());
                    }
                }
            }
        }
        let share = if all > 0.0 { warned / all } else { 0.0 };
        let level =
            if output.is_some() || share >= self.rule.dataset && warned > 0.0 { Level::Alert } else { Level::Ok };
        let from = std::mem::replace(&mut self.whole.level, level);
        if from == level {
            return None;
        }
        self.whole.since_ms = at_ms;
        let severity = if output.is_some() { Severity::Output } else { Severity::Important };
        let why = reason::of_the_whole(level, output.as_deref(), share, &names);
        Some(Change { feature: None, from, to: level, signal: None, at_ms, severity, why })
    }
}

impl Waiting {
    fn of(window: &Window, counts: &Counts) -> Waiting {
        let (hours, keys) = (window.hours().to_vec(), window.keys().clone());
        Waiting { from_ms: window.from_ms(), hours, keys, rows: window.rows, counts: counts.clone() }
    }

    fn add(&mut self, window: &Window, counts: &Counts) {
        for &(hour, rows) in window.hours() {
            match self.hours.binary_search_by_key(&hour, |(hour, _)| *hour) {
                Ok(at) => self.hours[at].1 = self.hours[at].1.saturating_add(rows),
                Err(at) => self.hours.insert(at, (hour, rows)),
            }
        }
        self.keys.merge(window.keys());
        self.rows = self.rows.saturating_add(window.rows);
        self.counts.merge(counts);
    }

    /// Whether there are enough values, or so many rows that there should be.
    fn is_enough(&self, feature: &Feature, rule: &Rule) -> bool {
        let [rows, values] = [self.counts.rows(), self.counts.values()].map(|n| n as f64 * self.keys_per_row());
        values >= rule.rows_min || rows * feature.present() >= 1.5 * rule.rows_min
    }

    /// Different keys for each row: 1 where rows have none.
    fn keys_per_row(&self) -> f64 {
        match self.keys.count() {
            Some(keys) if self.rows > 0 => (keys / self.rows as f64).min(1.0),
            _ => 1.0,
        }
    }
}

/// What was found of a feature in windows that followed each other: where rows were few, of several together.
pub fn readings(baseline: &Baseline, rule: &Rule, feature: usize, windows: &[Window]) -> Vec<Reading> {
    let (mut found, mut waiting) = (Vec::new(), None::<Waiting>);
    for window in windows.iter().filter(|window| window.features.len() == baseline.features().len()) {
        let counts = &window.features[feature];
        let together = match waiting.take() {
            None => Waiting::of(window, counts),
            Some(mut waiting) => {
                waiting.add(window, counts);
                waiting
            }
        };
        match together.is_enough(&baseline.features()[feature], rule) {
            true => found.push(read(baseline, rule, feature, &together, window.span, window.to_ms())),
            false => waiting = Some(together),
        }
    }
    found
}

/// What is to be said of what was found.
fn read(baseline: &Baseline, rule: &Rule, at: usize, found: &Waiting, span: Span, to_ms: u64) -> Reading {
    let feature = &baseline.features()[at];
    let whole = feature.expected(&found.hours, baseline.facts().keys_per_row);
    let (counts, ratio) = (&found.counts, found.keys_per_row());
    let (rows, values) = (counts.rows(), counts.values());
    let n = values as f64 * ratio;
    let summary = match &feature.bins {
        Bins::Numeric(numeric) => counts.summary(numeric),
        Bins::Categories(_) => None,
    };
    let distance = match (&feature.bins, summary) {
        _ if n < rule.rows_min => None,
        (Bins::Numeric(numeric), Some(Summary { min, max, .. })) => {
            numeric_distance(numeric, &whole.expected, counts.bins(), n, [min, max])
        }
        _ => distance(&whole.expected, counts.bins(), n),
    };
    let alpha = rule.rate_alpha / baseline.features().len() as f64;
    let own = feature.steadiness(span).or_else(|| feature.steadiness(Span::Day));
    // Twice what the worst of the baseline's own windows had; but one that had an outage does not hide the next.
    let points = |own: f64| rule.points.max((2.0 * own).min(OWN_POINTS_MAX));
    let rate = |[more, of]: [u64; 2], expected: f64, m: f64, limit: f64| {
        let found = if of > 0 { more as f64 / of as f64 } else { 0.0 };
        let n = of as f64 * ratio;
        // Bounds cost more than all else here, and are seldom needed.
        let is_sure = found - expected >= limit
            && n >= rule.rows_min
            && m > 0.0
            && rate_bounds(found * n, n, alpha)[0] > rate_bounds(expected * m, m, alpha)[1];
        Rate { found, expected, limit, is_sure }
    };
    let strange: u64 = feature.bins.strange().iter().map(|&bin| counts.bins()[bin]).sum();
    let Whole { missing, rows: m, .. } = whole;
    let missing = rate([rows - values, rows], missing, m, points(own.map_or(0.0, |own| own.missing)));
    let strange = rate([strange, values], 0.0, whole.expected.m, points(own.map_or(0.0, |own| own.strange)));
    let newcomers = counts.newcomers().map(|newcomers| newcomers.commonest()).unwrap_or_default();
    let newcomers = newcomers.into_iter().take(3).map(|(newcomer, rows)| (newcomer.name.clone(), rows)).collect();
    let limit = rule.limit(feature, span);
    Reading { span, from_ms: found.from_ms, to_ms, rows, distance, limit, missing, strange, summary, newcomers }
}

#[cfg(test)]
mod tests;
