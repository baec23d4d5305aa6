//! How alike are the answers of then and of now, over all rows?

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use tiltyard_capture::Record;
use tiltyard_rollout::compare::{Tolerance, distance, rank_agreement, top_k_overlap};
use tiltyard_types::NamedTensor;

use crate::cli::output::Table;
use crate::shadow::measure::{Both, Compared, FLIPS, MISMATCH, compare, numbers};

/// Scores of an output that are ranked at most: the first ones.
const RANKED_MAX: usize = 100_000;

/// Of so many highest scores it is told how many both have.
const TOP: usize = 100;

/// Predictions that differ most, as examples.
const WORST_MAX: usize = 5;

/// Rows by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Rows {
    pub(super) read: u64,
    /// Answered then and now.
    pub(super) compared: u64,
    /// Not answered then: there is nothing to compare with.
    pub(super) failed_then: u64,
    /// Answered then, and not now.
    pub(super) failed_now: u64,
    /// The record does not have what the version needs.
    pub(super) unusable: u64,
    /// Their subject was erased.
    pub(super) erased: u64,
}

/// Scores of one output, one for each row.
#[derive(Default)]
struct Scores {
    then: Vec<f64>,
    now: Vec<f64>,
    largest: f64,
}

/// All that was compared.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) rows: Rows,
    /// Sums of measures over rows.
    sums: BTreeMap<String, (f64, u64)>,
    scores: BTreeMap<String, Scores>,
    worst: Vec<(f64, String)>,
    /// Why rows are unusable or failed, and how many.
    reasons: BTreeMap<String, u64>,
    versions: BTreeMap<String, u64>,
}

impl Tally {
    /// Whose answers they were then.
    pub(super) fn of_version(&mut self, record: &Record<'_>, rows: u64) {
        let version = format!("{}@{}", record.model, record.version);
        *self.versions.entry(version).or_default() += rows;
    }

    /// Rows of which nothing can be compared, and why.
    pub(super) fn note(&mut self, reason: String, rows: u64) {
        // As many as there are kinds of mistakes; a message with values of rows in it must not fill the memory.
        if self.reasons.len() < 100 || self.reasons.contains_key(&reason) {
            *self.reasons.entry(reason).or_default() += rows;
        }
    }

    /// Takes in the answers to a request.
    pub(super) fn add(&mut self, then: &Record<'_>, now: &[NamedTensor]) {
        let pairs: Vec<Both<'_>> = now
            .iter()
            .filter_map(|now| {
                let then = then.outputs.iter().find(|then| then.name == now.name)?;
                Some(Both { name: &now.name, champion: &then.tensor, shadow: &now.tensor })
            })
            .collect();
        let rows = u64::from(then.rows);
        self.rows.compared += rows;
        let Compared { values, worst, .. } = compare(then.rows as usize, &pairs);
        for (measure, value) in values {
            let sum = self.sums.entry(measure).or_default();
            *sum = (sum.0 + value * rows as f64, sum.1 + rows);
        }
        if let Some((row, difference)) = worst {
            let at = self.worst.partition_point(|(more, _)| *more >= difference);
            if at < WORST_MAX {
                self.worst.insert(at, (difference, then.request.prediction(then.first_row as usize + row)));
                self.worst.truncate(WORST_MAX);
            }
        }
        for both in pairs {
            self.add_scores(both, then.rows as usize);
        }
    }

    fn add_scores(&mut self, Both { name, champion, shadow }: Both<'_>, rows: usize) {
        let (Some(then), Some(now)) = (numbers(champion), numbers(shadow)) else { return };
        let Some(found) = distance(&then, &now, Tolerance { atol: 0.0, rtol: 0.0 }) else { return };
        let scores = self.scores.entry(name.to_owned()).or_default();
        scores.largest = scores.largest.max(found.largest);
        // Only one score a row puts rows in an order.
        if then.len() == rows && scores.then.len() < RANKED_MAX {
            scores.then.extend(then.into_iter().map(rounded));
            scores.now.extend(now.into_iter().map(rounded));
        }
    }

    fn mean(&self, measure: &str) -> Option<f64> {
        self.sums.get(measure).map(|(sum, rows)| sum / *rows as f64)
    }

    /// The share of rows whose answers differ, or that have none now; `None` where nothing was compared.
    pub(super) fn share(&self) -> Option<f64> {
        let all = self.rows.compared + self.rows.failed_now;
        let differing = self.mean(MISMATCH).unwrap_or(0.0) * self.rows.compared as f64 + self.rows.failed_now as f64;
        (all > 0).then(|| differing / all as f64)
    }

    /// For programs.
    pub(super) fn form(&self) -> Value {
        let Rows { read, compared, failed_then, failed_now, unusable, erased } = self.rows;
        let agreement: Map<String, Value> =
            self.sums.keys().filter_map(|measure| Some((measure.clone(), json!(self.mean(measure)?)))).collect();
        let scores: Map<String, Value> =
            self.scores.iter().map(|(name, scores)| (name.clone(), form(scores))).collect();
        let worst: Vec<Value> = self
            .worst
            .iter()
            .map(|(difference, id)| json!({ "prediction_id": id, "difference": difference }))
            .collect();
        json!({
            "rows": { "read": read, "compared": compared, "failed_then": failed_then, "failed_now": failed_now,
                      "unusable": unusable, "erased": erased },
            "then": self.versions, "differ": self.share(), "measures": agreement, "numbers": scores, "worst": worst,
            "reasons": self.reasons,
        })
    }

    /// For people.
    pub(super) fn told(&self, to: &str) -> String {
        let Rows { read, compared, failed_then, failed_now, unusable, erased } = self.rows;
        let versions: Vec<String> = self.versions.iter().map(|(name, rows)| format!("{name} ({rows} rows)")).collect();
        let mut text = format!("{read} rows of {} asked again of {to}.\n", versions.join(", "));
        let mut table = Table::new(["rows", "count"]);
        for (what, count) in [
            ("compared", compared),
            ("not answered then", failed_then),
            ("not answered now", failed_now),
            ("not on record as they were asked", unusable),
            ("erased", erased),
        ] {
            table.add([what.to_owned(), count.to_string()]);
        }
        text.push_str(&format!("{table}\n"));
        if let Some(share) = self.share() {
            text.push_str(&format!("{:.3} % of rows differ.\n", share * 100.0));
        }
        let mut measures = Table::new(["measure", "mean"]);
        for measure in self.sums.keys() {
            measures.add([described(measure), format!("{:.6}", self.mean(measure).unwrap_or(0.0))]);
        }
        text.push_str(&measures.to_string());
        for (name, scores) in &self.scores {
            let ranks = rank_agreement(&scores.then, &scores.now);
            let ranks = ranks.map_or_else(String::new, |rho| format!(", rank agreement {rho:.6}"));
            text.push_str(&format!("{name}: largest difference {:e}{ranks}\n", scores.largest));
        }
        for (difference, id) in &self.worst {
            text.push_str(&format!("differs by {difference:.6}: {id}\n"));
        }
        for (reason, rows) in &self.reasons {
            text.push_str(&format!("{rows} rows: {reason}\n"));
        }
        text
    }
}

/// To six digits: rows whose scores differ by rounding alone, as where batches are put together differently, share their rank.
fn rounded(score: f64) -> f64 {
    if score == 0.0 || !score.is_finite() {
        return score;
    }
    let unit = 10f64.powi(score.abs().log10().floor() as i32 - 5);
    (score / unit).round() * unit
}

fn form(scores: &Scores) -> Value {
    let ranks = rank_agreement(&scores.then, &scores.now);
    let top = (scores.then.len() > TOP).then(|| top_k_overlap(&scores.then, &scores.now, TOP)).flatten();
    // JSON has no infinity: a number against none is told as null.
    json!({ "largest_difference": scores.largest, "rank_agreement": ranks, "top_100_overlap": top })
}

fn described(measure: &str) -> String {
    let what = match measure.split('.').next().unwrap_or_default() {
        FLIPS => "share of rows whose label differs",
        MISMATCH => "share of rows beyond rounding",
        "distance" => "distance of numbers, to 1",
        "top_k" => "1 - overlap of a row's 5 highest scores",
        "ranks" => "(1 - rank agreement) / 2 within requests",
        _ => return measure.to_owned(),
    };
    format!("{measure}: {what}")
}

#[cfg(test)]
mod tests {
    use tiltyard_capture::{Outcome, Value as Captured};
    use tiltyard_types::{Digest, RequestId, Tensor};

    use super::*;

    fn then<'a>(scores: &'a Tensor, labels: &'a Tensor) -> Record<'a> {
        Record {
            request: RequestId::from_bits(1),
            rows: scores.shape()[0] as u32,
            first_row: 0,
            unix_us: 0,
            latency_ns: 0,
            endpoint: "risk".into(),
            model: "risk".into(),
            version: 1,
            digest: Digest::new([0; 32]),
            arm: "champion".into(),
            key: None,
            layout: 0,
            outcome: Outcome::Answered,
            headers: vec![],
            inputs: vec![],
            outputs: vec![Captured::of("score", scores), Captured::of("label", labels)],
            subjects: vec![],
        }
    }

    #[test]
    fn rows_that_differ_are_counted_once_and_named() {
        let (scores, labels) =
            (Tensor::from_slice([4], &[0.1f32, 0.2, 0.3, 0.4]), Tensor::from_slice([4], &[0i64, 0, 1, 1]));
        let (scores, labels) = (scores.expect("four"), labels.expect("four"));
        let other = Tensor::from_slice([4], &[0.1f32, 0.2, 0.3, 0.9]).expect("four");
        let flipped = Tensor::from_slice([4], &[0i64, 0, 1, 0]).expect("four");
        let now = |score: &Tensor, label: &Tensor| {
            vec![
                NamedTensor { name: "label".into(), tensor: label.clone() },
                NamedTensor { name: "score".into(), tensor: score.clone() },
            ]
        };
        let mut tally = Tally::default();
        tally.add(&then(&scores, &labels), &now(&scores, &labels));
        assert_eq!(tally.share(), Some(0.0));
        tally.add(&then(&scores, &labels), &now(&other, &flipped));
        assert_eq!((tally.rows.compared, tally.share()), (8, Some(0.125)));
        tally.rows.failed_now = 8;
        assert_eq!(tally.share(), Some(9.0 / 16.0), "no answer is another answer");
        let form = tally.form();
        assert_eq!(form["worst"][0]["prediction_id"], "00000000-0000-0000-0000-000000000001:3");
        let ranks = form["numbers"]["score"]["rank_agreement"].as_f64().expect("an order");
        assert!(ranks > 0.99 && ranks < 1.0, "{ranks}");
        assert_eq!((rounded(0.999_999_9), rounded(-1_234_567.0), rounded(0.0)), (1.0, -1_234_570.0, 0.0));
        assert_eq!(form["measures"]["flips.label"], 0.125);
        assert_eq!(Tally::default().share(), None, "nothing compared is no agreement");
    }
}
