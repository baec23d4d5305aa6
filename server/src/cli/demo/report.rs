//! What does the demo tell in the end: to people at a terminal, and to programs?

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use super::data::Manifest;
use super::page;
use super::watched::{Sample, Watched};
use crate::cli::output::{NOTHING, Table};

/// Lines of a small chart, and cells of each.
const CHART_LINES: usize = 8;
const CHART_CELLS: usize = 48;

/// All that happened.
pub(super) struct Report {
    pub(super) manifest: Manifest,
    pub(super) rollouts: Vec<Watched>,
    /// How many there were to be.
    pub(super) wanted: usize,
    pub(super) rows_answered: usize,
    /// What became of labels.
    pub(super) labels: BTreeMap<String, u64>,
    pub(super) took: Duration,
}

impl Report {
    /// Whether each rollout came to what it was to come to.
    pub(super) fn is_as_expected(&self) -> bool {
        self.rollouts.len() == self.wanted && self.rollouts.iter().all(Watched::is_as_expected)
    }

    /// For programs.
    pub(super) fn json(&self) -> Value {
        json!({
            "rollouts": self.rollouts.iter().map(Watched::json).collect::<Vec<_>>(),
            "reached": self.is_as_expected(),
            "rows": self.manifest.rows,
            "late_share": self.manifest.late,
            "rows_answered": self.rows_answered,
            "labels": self.labels,
            "seconds": self.took.as_secs_f64(),
        })
    }

    /// For a browser.
    pub(super) fn page(&self) -> String {
        page::of(self)
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for watched in &self.rollouts {
            // Into text it does not fail.
            let _ = writeln!(text, "{}", told(watched));
        }
        let mut table = Table::new([
            "rollout",
            "champion",
            "challenger",
            "state",
            "after",
            "labels",
            "gain",
            "within",
            "on its rows",
        ]);
        for watched in &self.rollouts {
            table.add(cells(watched));
        }
        let end = if self.is_as_expected() { "Both verdicts were reached." } else { "The verdicts were NOT reached." };
        text + &format!("{table}\n{}\n{end}\n", self.counts())
    }

    /// How many rows and labels it took.
    pub(super) fn counts(&self) -> String {
        let labels = self.labels.iter().filter(|(name, _)| *name != "received");
        let labels: Vec<String> = labels.map(|(name, count)| format!("{count} {name}")).collect();
        format!(
            "{} of {} flights were asked about, once each, in {:.0} s. Labels: {} (what is not joined is of flights \
             that were answered while no rollout judged them).",
            self.rows_answered,
            self.manifest.rows,
            self.took.as_secs_f64(),
            labels.join(", ")
        )
    }
}

/// One line of the summary.
pub(super) fn cells(watched: &Watched) -> [String; 9] {
    let last = watched.last();
    let version = |version: &super::data::Version| format!("{}: {}", version.version, version.trained_on);
    [
        watched.name(),
        version(&watched.champion),
        version(&watched.challenger),
        watched.state(),
        format!("{:.0} s", watched.took.as_secs_f64()),
        last.labels.to_string(),
        format!("{:+.4}", last.gain),
        within(&last),
        format!("{:+.4}", watched.truth()),
    ]
}

/// The bounds of the gain.
pub(super) fn within(sample: &Sample) -> String {
    sample.bounds.map_or_else(|| NOTHING.to_owned(), |(lower, upper)| format!("{lower:+.4} to {upper:+.4}"))
}

/// One rollout for people: how the gain became known, and what decided.
fn told(watched: &Watched) -> String {
    let mut text = format!(
        "{}: version {} ({}) challenged version {} ({}), and is {}\n",
        watched.name(),
        watched.challenger.version,
        watched.challenger.trained_on,
        watched.champion.version,
        watched.champion.trained_on,
        watched.state()
    );
    for reason in watched.reasons() {
        let _ = writeln!(text, "  {reason}");
    }
    text + &chart(&watched.samples)
}

/// How the bounds of the gain closed in, a line for some of the moments; `|` is no gain, `o` the gain.
fn chart(samples: &[Sample]) -> String {
    let mut known: Vec<&Sample> = samples.iter().filter(|sample| sample.bounds.is_some()).collect();
    known.dedup_by_key(|sample| sample.labels);
    // From a quarter of all labels on: before that nothing is known.
    let most = known.last().map_or(0, |last| last.labels);
    let known: Vec<&Sample> = known.into_iter().filter(|sample| sample.labels * 4 >= most).collect();
    let last = known.len().saturating_sub(1);
    let mut places: Vec<usize> = (0..CHART_LINES).map(|line| last * line / (CHART_LINES - 1)).collect();
    places.dedup();
    let drawn: Vec<&Sample> = places.into_iter().filter_map(|place| known.get(place).copied()).collect();
    let widest = drawn.iter().filter_map(|sample| sample.bounds);
    let widest = widest.map(|(lower, upper)| lower.abs().max(upper.abs())).fold(0.0, f64::max);
    let mut text = String::new();
    for sample in drawn {
        let (lower, upper) = sample.bounds.unwrap_or_default();
        let _ = writeln!(
            text,
            "  {:>7} labels  {}  {}",
            sample.labels,
            bar(lower, sample.gain, upper, widest),
            within(sample)
        );
    }
    text
}

/// An interval as cells from −`widest` to `widest`.
fn bar(lower: f64, gain: f64, upper: f64, widest: f64) -> String {
    let cell = |value: f64| {
        let part = if widest > 0.0 { (value / widest + 1.0) / 2.0 } else { 0.5 };
        ((part * (CHART_CELLS - 1) as f64).round() as usize).min(CHART_CELLS - 1)
    };
    let (from, to, middle, zero) = (cell(lower), cell(upper), cell(gain), cell(0.0));
    let draw = |at: usize| match at {
        at if at == middle => 'o',
        at if at == zero => '|',
        at if (from..=to).contains(&at) => '─',
        _ => ' ',
    };
    (0..CHART_CELLS).map(draw).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::cli::demo::watched::tests::ended;

    pub(in crate::cli::demo) fn report(second: &str) -> Report {
        Report {
            manifest: Manifest::read().unwrap(),
            rollouts: vec![ended("promoted", "promoted"), ended(second, "rolled_back")],
            wanted: 2,
            rows_answered: 70_000,
            labels: BTreeMap::from([
                ("joined".to_owned(), 60_000),
                ("received".to_owned(), 61_000),
                ("unknown".to_owned(), 1_000),
            ]),
            took: Duration::from_secs(42),
        }
    }

    #[test]
    fn both_verdicts_must_be_reached() {
        assert!(report("rolled_back").is_as_expected());
        assert!(!report("futile").is_as_expected() && !report("running").is_as_expected());
        let missing = Report { rollouts: vec![ended("promoted", "promoted")], ..report("") };
        assert!(!missing.is_as_expected());
        let form = report("futile").json();
        assert_eq!(
            (&form["reached"], &form["rollouts"][0]["state"], &form["rollouts"][1]["state"]),
            (&false.into(), &"promoted".into(), &"futile".into())
        );
    }

    #[test]
    fn people_are_told_why() {
        let text = report("rolled_back").text();
        for part in [
            "flights-1: version 2 (all flights) challenged version 1 (1 % of the flights), and is promoted",
            "errors passes",
            "40000 labels",
            "+0.0010 to +0.0200",
            "+0.0088",
            "70000 of 166668 flights",
            "60000 joined, 1000 unknown",
            "Both verdicts were reached.",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(report("futile").text().contains("NOT reached"));
    }

    #[test]
    fn intervals_are_drawn_about_zero() {
        let drawn = bar(-1.0, 0.5, 1.0, 1.0);
        assert_eq!(drawn.chars().count(), CHART_CELLS);
        assert_eq!(drawn.chars().position(|cell| cell == '|'), Some(24));
        assert_eq!(drawn.chars().position(|cell| cell == 'o'), Some(35));
        assert!(drawn.starts_with('─') && drawn.ends_with('─'));
        assert_eq!(bar(0.5, 0.75, 1.0, 1.0).chars().filter(|cell| *cell == '─').count(), 12);
        assert!(chart(&[]).is_empty() && bar(f64::NAN, 0.0, 0.0, 0.0).chars().count() == CHART_CELLS);
        let sample = |labels| Sample { labels, bounds: Some((-0.1, 0.2)), ..Sample::default() };
        let lines = |most| chart(&(0..=most).map(sample).collect::<Vec<Sample>>()).lines().count();
        assert_eq!([0, 4, 400].map(lines), [1, 4, CHART_LINES]);
    }
}
