//! How much does each input column matter beside others? As a file says, or as the model's own explanations do.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::super::exit::Failure;
use super::super::predict::ModelName;
use super::super::predict::input::{Columns, Question};
use super::super::target::{Target, ask};

/// What stands for a file where explanations shall say it.
pub(super) const EXPLAIN: &str = "explain";

/// Rows that are explained.
const ROWS_MAX: usize = 500;

/// Rows of one request for explanations.
const CHUNK_ROWS: usize = 100;

/// The least importance: what no explanation names matters a little all the same.
const LEAST: f64 = 0.01;

/// Importances by column, of which the mean is 1.
pub(super) type Importance = BTreeMap<String, f64>;

/// As a file says: a JSON object, or lines of a column and a number with a comma between them.
pub(super) fn read(path: &Path) -> Result<Importance, Failure> {
    let said = |why: String| Failure::usage(format!("--importance {}: {why}", path.display()));
    let text = fs::read_to_string(path).map_err(|error| said(error.to_string()))?;
    parse(&text).map_err(said)
}

fn parse(text: &str) -> Result<Importance, String> {
    let expected =
        "expected a JSON object such as {\"age\": 2.5}, or lines such as age,2.5 below the line column,importance";
    let importance: Importance = match text.trim_start().starts_with('{') {
        true => serde_json::from_str(text).map_err(|error| format!("{error}; {expected}"))?,
        false => {
            let lines = text.lines().skip(1).filter(|line| !line.trim().is_empty());
            let line = |line: &str| {
                let (name, number) = line.rsplit_once(',')?;
                Some((name.trim().trim_matches('"').to_owned(), number.trim().parse().ok()?))
            };
            let lines = lines.map(|text| line(text).ok_or_else(|| format!("{text:?}: {expected}")));
            lines.collect::<Result<_, String>>()?
        }
    };
    match importance.iter().find(|(_, weight)| !(weight.is_finite() && **weight > 0.0)) {
        Some((name, weight)) => Err(format!("{name:?} has the importance {weight}: expected a number above 0")),
        None => scaled(importance).ok_or_else(|| format!("it names no column: {expected}")),
    }
}

/// With a mean of 1, so that one that matters twice as much as the average has 2.
fn scaled(importance: Importance) -> Option<Importance> {
    let mean = importance.values().sum::<f64>() / importance.len() as f64;
    (mean > 0.0).then(|| importance.into_iter().map(|(name, weight)| (name, (weight / mean).max(LEAST))).collect())
}

/// By what the model's explanations of the first rows say: the mean size of each column's contribution. Fails where the model cannot be
/// explained.
pub(super) fn explained(target: &dyn Target, model: &ModelName, question: Question) -> Result<Importance, Failure> {
    let rows: Vec<String> = match question {
        Question::Csv(csv) => {
            let columns = Columns::of(&ask(target, "GET", &model.path("v2"), Vec::new())?);
            csv.rows(&columns)?.take(ROWS_MAX).collect::<Result<_, Failure>>()?
        }
        Question::Rows(rows) => rows.into_iter().take(ROWS_MAX).collect(),
        Question::Score(_) | Question::Infer(_) => {
            return Err(Failure::usage(
                "--importance explain needs rows with columns: CSV with a header, or a list of JSON objects",
            ));
        }
    };
    let mut sums = Importance::new();
    for rows in rows.chunks(CHUNK_ROWS) {
        let body = format!("{{\"rows\": [{}]}}", rows.join(", "));
        let answer = ask(target, "POST", &format!("{}/explain", model.path("v1")), body.into_bytes())?;
        add(&serde_json::from_slice(&answer).unwrap_or_default(), &mut sums);
    }
    scaled(sums)
        .ok_or_else(|| Failure::failed("the explanations name no column that matters: give --importance a file"))
}

fn add(answer: &Value, sums: &mut Importance) {
    let outputs = |one: &Value| match one["outputs"].as_object() {
        Some(outputs) => outputs.values().cloned().collect(),
        None => vec![one.clone()],
    };
    let all = answer["explanations"].as_array().into_iter().flatten().flat_map(outputs);
    for part in all.flat_map(|one| one["contributions"].as_array().cloned().unwrap_or_default()) {
        let (name, size) = (part["column"].as_str().unwrap_or_default(), part["contribution"].as_f64());
        *sums.entry(name.to_owned()).or_default() += size.unwrap_or(0.0).abs();
    }
}

/// What is told of it: the columns that matter most.
pub(super) fn told(importance: &Importance) -> Value {
    let mut most: Vec<(&String, &f64)> = importance.iter().collect();
    most.sort_by(|a, b| b.1.total_cmp(a.1));
    most.into_iter().take(5).map(|(name, weight)| json!([name, (weight * 1e3).round() / 1e3])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_say_how_much_columns_matter() {
        let expected = Importance::from([("age".to_owned(), 1.5), ("income".to_owned(), 0.5)]);
        assert_eq!(parse("{\"age\": 3, \"income\": 1}"), Ok(expected.clone()));
        assert_eq!(parse("column,importance\nage,3\n\"income\", 1\n"), Ok(expected));
        for (text, told) in
            [("{}", "no column"), ("{\"age\": 0}", "above 0"), ("a,b\nage\n", "age"), ("{\"a\": \"b\"}", "expected")]
        {
            let error = parse(text).expect_err(text);
            assert!(error.contains(told), "{error}");
        }
    }

    #[test]
    fn explanations_say_how_much_columns_matter() {
        let part = |column: &str, contribution: f64| json!({"column": column, "contribution": contribution});
        let one = json!({"contributions": [part("age", -3.0), part("income", 1.0)]});
        let both = json!({"outputs": {"a": {"contributions": [part("age", 2.0)]}, "b": {"contributions": [part("age", 1.0)]}}});
        let mut sums = Importance::new();
        add(&json!({"explanations": [one, both]}), &mut sums);
        assert_eq!(sums, Importance::from([("age".to_owned(), 6.0), ("income".to_owned(), 1.0)]));
        let scaled = scaled(sums).expect("columns");
        assert_eq!(told(&scaled), json!([["age", 1.714], ["income", 0.286]]));
    }
}
