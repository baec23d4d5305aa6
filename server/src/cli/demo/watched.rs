//! What was seen of one rollout, from its start to its end?

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::data::{Manifest, Version};
use crate::cli::exit::Failure;
use crate::cli::models::text;
use crate::cli::rollout::status::because;

/// A rollout at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Sample {
    /// Seconds since its start.
    pub(super) seconds: f64,
    /// The challenger's, 0 to 1.
    pub(super) share: f64,
    /// Labels that count.
    pub(super) labels: u64,
    /// How much less the challenger loses, with its bounds where there are enough labels.
    pub(super) gain: f64,
    pub(super) bounds: Option<(f64, f64)>,
    /// The upper bound that must be below 0 for harm.
    pub(super) harm_upper: Option<f64>,
    /// Of each guardrail, how far its evidence is on the way to an alarm: 1 is one.
    pub(super) guardrails: Vec<(String, f64)>,
}

impl Sample {
    /// What the admin port tells of a rollout.
    pub(super) fn of(form: &Value, seconds: f64) -> Sample {
        let (quality, number) = (&form["quality"], |form: &Value| form.as_f64().unwrap_or_default());
        let interval = &quality["interval"];
        let reading = |reading: &Value| {
            let evidence = number(&reading["ln_e"]) / number(&reading["threshold"]).max(f64::MIN_POSITIVE);
            (text(reading, "metric"), evidence.max(0.0))
        };
        Sample {
            seconds,
            share: number(&form["share"]) / 1e6,
            labels: quality["n"].as_u64().unwrap_or(0),
            gain: number(&quality["gain"]),
            bounds: interval["lower"].as_f64().zip(interval["upper"].as_f64()),
            harm_upper: quality["harm"]["upper"].as_f64(),
            guardrails: form["guardrails"].as_array().into_iter().flatten().map(reading).collect(),
        }
    }
}

/// A rollout, and what it was to come to.
#[derive(Clone, Debug)]
pub(super) struct Watched {
    pub(super) champion: Version,
    pub(super) challenger: Version,
    /// The state that is to be reached.
    pub(super) expected: &'static str,
    /// How many rows were answered when the challenger had no share yet.
    first_row: usize,
    started: Instant,
    pub(super) took: Duration,
    pub(super) samples: Vec<Sample>,
    /// What the admin port told last.
    pub(super) form: Value,
}

impl Watched {
    pub(super) fn begin(manifest: &Manifest, versions: [u64; 2], expected: &'static str) -> Result<Watched, Failure> {
        let [champion, challenger] = versions;
        Ok(Watched {
            champion: manifest.version(champion)?.clone(),
            challenger: manifest.version(challenger)?.clone(),
            expected,
            first_row: 0,
            started: Instant::now(),
            took: Duration::ZERO,
            samples: Vec::new(),
            form: Value::Null,
        })
    }

    /// Notes what the admin port tells, which was asked when so many rows were answered.
    pub(super) fn note(&mut self, form: Value, answered: usize) {
        self.took = self.started.elapsed();
        let sample = Sample::of(&form, self.took.as_secs_f64());
        if sample.share == 0.0 && sample.labels == 0 {
            self.first_row = answered;
        }
        self.samples.push(sample);
        self.form = form;
    }

    /// Its name.
    pub(super) fn name(&self) -> String {
        text(&self.form, "rollout")
    }

    pub(super) fn state(&self) -> String {
        text(&self.form, "state")
    }

    /// Whether nothing will come of it any more unless a person decides.
    pub(super) fn has_ended(&self) -> bool {
        self.form["ended"] == true || matches!(self.form["state"].as_str(), Some("halted" | "inconclusive"))
    }

    pub(super) fn is_as_expected(&self) -> bool {
        self.state() == self.expected
    }

    /// What led to its end, or what it waited for last.
    pub(super) fn reasons(&self) -> Vec<String> {
        self.form["verdict"]["reasons"].as_array().into_iter().flatten().map(because).collect()
    }

    /// How much less the challenger loses on all rows, as it was known beforehand.
    fn gain_on_all_rows(&self) -> f64 {
        self.champion.squared_error - self.challenger.squared_error
    }

    /// The same on the rows whose labels counted, which are other days than all: what the gain is an estimate of.
    pub(super) fn truth(&self) -> f64 {
        let labels = usize::try_from(self.last().labels).unwrap_or(usize::MAX);
        let rows = self.first_row..self.first_row.saturating_add(labels);
        self.champion.squared_error_on(rows.clone()) - self.challenger.squared_error_on(rows)
    }

    pub(super) fn last(&self) -> Sample {
        self.samples.last().cloned().unwrap_or_default()
    }

    /// For programs.
    pub(super) fn json(&self) -> Value {
        let version = |version: &Version| {
            json!({ "version": version.version, "trained_on": version.trained_on, "rows_trained_on": version.rows,
                    "squared_error": version.squared_error, "accuracy": version.accuracy })
        };
        let form = &self.form;
        json!({
            "name": self.name(), "endpoint": form["endpoint"],
            "champion": version(&self.champion), "challenger": version(&self.challenger),
            "state": self.state(), "expected": self.expected, "reached": self.is_as_expected(),
            "reason": self.reasons().join("; "), "verdict": form["verdict"],
            "seconds": self.took.as_secs_f64(), "units": form["units"], "labels": form["labelled"],
            "estimates": { "quality": form["quality"], "guardrails": form["guardrails"],
                           "gain_on_its_rows": self.truth(), "gain_on_all_rows": self.gain_on_all_rows() },
            "first_row": self.first_row,
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A rollout that began when 500 rows were answered, and ended after two looks.
    pub(in crate::cli::demo) fn ended(state: &str, expected: &'static str) -> Watched {
        let mut watched = Watched::begin(&Manifest::read().unwrap(), [1, 2], expected).unwrap();
        watched.note(json!({ "rollout": "flights-1", "state": "running", "share": 0 }), 500);
        for (labels, lower) in [(2_000, -0.01), (40_000, 0.001)] {
            watched.note(json!({
                "rollout": "flights-1", "endpoint": "flights", "state": state, "ended": state != "running", "share": 500_000,
                "units": [20_000, 20_000], "labelled": [labels / 2, labels / 2],
                "guardrails": [{"metric": "errors", "ln_e": 4.0, "threshold": 8.0}, {"metric": "slow_p90", "ln_e": -3.0, "threshold": 8.0}],
                "quality": {"metric": "late", "n": labels, "gain": 0.008, "needed": 0.0, "passes": lower > 0.0, "is_futile": false,
                            "interval": {"lower": lower, "upper": 0.02}, "harm": {"below": 0.0, "upper": 0.03, "is_shown": false}},
                "verdict": {"decision": "promote", "reasons": [{"reason": "guardrail", "metric": "errors", "passes": true}]},
            }), labels);
        }
        watched
    }

    #[test]
    fn what_is_told_is_noted() {
        let watched = ended("promoted", "promoted");
        assert!(watched.has_ended() && watched.is_as_expected());
        let last = watched.last();
        assert_eq!(
            (last.share, last.labels, last.bounds, last.harm_upper),
            (0.5, 40_000, Some((0.001, 0.02)), Some(0.03))
        );
        assert_eq!(last.guardrails, [("errors".to_owned(), 0.5), ("slow_p90".to_owned(), 0.0)]);
        let form = watched.json();
        assert_eq!(
            (&form["state"], &form["reached"], &form["labels"][1]),
            (&"promoted".into(), &true.into(), &20_000.into())
        );
        assert_eq!(form["reason"], "errors passes");
        assert_eq!(form["first_row"], 500);
        assert!((0.005..0.015).contains(&form["estimates"]["gain_on_its_rows"].as_f64().unwrap()), "{form}");
        assert!((form["estimates"]["gain_on_all_rows"].as_f64().unwrap() - 0.00808).abs() < 1e-9);
        assert!(!ended("running", "promoted").has_ended() && ended("halted", "promoted").has_ended());
        assert!(!ended("futile", "rolled_back").is_as_expected());
    }
}
