//! Which column had which part in a score? Asked of a running server, or in this process.

use clap::{Arg, ArgMatches, Command, value_parser};
use serde_json::{Map, Value, json};

use super::exit::Failure;
use super::output::{self, Form, Table};
use super::predict::input::{Columns, Question};
use super::predict::{ModelName, asked, asking};
use super::target::{Target, ask};

/// Rows in one request.
const CHUNK_ROWS: usize = 256;

const EXAMPLES: &str = r#"Input is as of predict: rows or columns by name as JSON, or a CSV file with a header. A model's parts are differences to
what is usual: see docs/explain.md for where that comes from.

Examples:
  tiltyard explain risk --file patients.csv --top 3
  tiltyard explain churn --data '{"age": 41, "income": 52000}'
  tiltyard explain digits@1 --file rows.json --class 7 --output json
  tiltyard explain risk --models ./models --file patients.csv     no server needed"#;

pub(crate) fn command() -> Command {
    let command = Command::new("explain").about("Ask which column had which part in a model's score");
    asking(command)
        .arg(
            Arg::new("top")
                .long("top")
                .value_name("COLUMNS")
                .value_parser(value_parser!(u32).range(1..))
                .help("Only the columns that count most; the rest as one sum"),
        )
        .arg(
            Arg::new("class")
                .long("class")
                .value_name("CLASS")
                .help("Only this class, by its label or its number from 0"),
        )
        .after_help(EXAMPLES)
}

pub(crate) fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let (question, model, target) = asked(matches)?;
    let top = matches.get_one::<u32>("top").copied();
    let class = matches.get_one::<String>("class").map(String::as_str);
    let wanted = Wanted { top, class };
    let answers = match question {
        Question::Infer(_) => {
            return Err(Failure::failed("explanations are by column: give \"rows\" or \"columns\", not \"inputs\""));
        }
        Question::Score(body) => {
            let body = serde_json::from_slice(&body).map_err(|error| Failure::failed(format!("the input: {error}")))?;
            vec![wanted.ask(target.as_ref(), &model, body)?]
        }
        Question::Rows(rows) => wanted.ask_rows(target.as_ref(), &model, rows.into_iter().map(Ok))?,
        Question::Csv(csv) => {
            let columns = Columns::of(&ask(target.as_ref(), "GET", &model.path("v2"), Vec::new())?);
            wanted.ask_rows(target.as_ref(), &model, csv.rows(&columns)?)?
        }
    };
    let all = together(answers);
    match Form::of(matches) {
        Form::Json => output::print(&format!("{all:#}\n")),
        Form::Table => {
            output::print(&table(&all))?;
            for warning in all["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                output::note(format_args!("warning: {warning}"));
            }
            Ok(())
        }
    }
}

/// What is asked beside the rows.
struct Wanted<'a> {
    top: Option<u32>,
    class: Option<&'a str>,
}

impl Wanted<'_> {
    fn ask(&self, target: &dyn Target, model: &ModelName, mut body: Map<String, Value>) -> Result<Value, Failure> {
        if let Some(top) = self.top {
            body.insert("top".into(), json!(top));
        }
        if let Some(class) = self.class {
            body.insert("output".into(), json!(class));
        }
        let body = Value::Object(body).to_string().into_bytes();
        let answer = ask(target, "POST", &format!("{}/explain", model.path("v1")), body)?;
        serde_json::from_slice(&answer)
            .map_err(|error| Failure::failed(format!("the answer is not that of a Tiltyard server: {error}")))
    }

    /// Asks about rows, many in a request. Fails at the first request that does.
    fn ask_rows(
        &self,
        target: &dyn Target,
        model: &ModelName,
        rows: impl Iterator<Item = Result<String, Failure>>,
    ) -> Result<Vec<Value>, Failure> {
        let (mut answers, mut rows) = (Vec::new(), rows.peekable());
        while answers.is_empty() || rows.peek().is_some() {
            let chunk = rows.by_ref().take(CHUNK_ROWS).collect::<Result<Vec<String>, Failure>>()?;
            let read = |row: &String| {
                serde_json::from_str(row).map_err(|error| Failure::failed(format!("the input is not JSON: {error}")))
            };
            let chunk = chunk.iter().map(read).collect::<Result<Vec<Value>, Failure>>()?;
            answers.push(self.ask(target, model, Map::from_iter([("rows".to_owned(), Value::Array(chunk))]))?);
        }
        Ok(answers)
    }
}

/// The answers to all requests, as if there had been one.
fn together(answers: Vec<Value>) -> Value {
    let mut answers = answers.into_iter();
    let mut all = answers.next().unwrap_or_default();
    for mut answer in answers {
        for key in ["explanations", "warnings"] {
            let Some(more) = answer.get_mut(key).and_then(Value::as_array_mut) else { continue };
            match all.get_mut(key).and_then(Value::as_array_mut) {
                Some(list) => list.append(more),
                None => all[key] = Value::Array(std::mem::take(more)),
            }
        }
    }
    all
}

/// A line for each part, and before them one for each score.
fn table(all: &Value) -> String {
    let mut table = Table::new(["row", "output", "column", "value", "contribution"]);
    let cell = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    for (row, explanation) in all["explanations"].as_array().into_iter().flatten().enumerate() {
        let only = cell(all.get("output").unwrap_or(&json!("")));
        let outputs: Vec<(String, &Value)> = match explanation.get("outputs").and_then(Value::as_object) {
            Some(outputs) => outputs.iter().map(|(label, told)| (label.clone(), told)).collect(),
            None => vec![(only, explanation)],
        };
        for (label, told) in outputs {
            let mut line = |column: &str, value: String, part: &Value| {
                let part = part.as_f64().map_or_else(String::new, |part| format!("{part:+.6}"));
                table.add([row.to_string(), label.clone(), column.to_owned(), value, part]);
            };
            line("(base)", String::new(), &told["base"]);
            for part in told["contributions"].as_array().into_iter().flatten() {
                line(part["column"].as_str().unwrap_or_default(), cell(&part["value"]), &part["contribution"]);
            }
            if let Some(others) = told.get("others") {
                line("(others)", String::new(), others);
            }
            line("(score)", String::new(), &told["score"]);
        }
    }
    format!("{table}{} by {}\n", cell(&all["space"]), cell(&all["method"]))
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
        check("explain risk --data {}", true);
        check("explain risk@1 --file rows.csv --top 3 --class yes --models m", true);
        check("explain risk --data {} --top 0", false);
        check("explain risk", false);
    }

    #[test]
    fn answers_are_put_together_and_shown() {
        let answer = |part: f64| {
            json!({"method": "interventional", "space": "log-odds", "output": "yes", "explanations": [
                {"base": 1.0, "score": 1.0 + part, "contributions": [{"column": "age", "value": 41, "contribution": part}]}]})
        };
        let all = together(vec![answer(0.5), answer(-2.0)]);
        assert_eq!(all["explanations"].as_array().map(Vec::len), Some(2));
        let shown = table(&all);
        for expected in ["age", "41", "+0.500000", "-2.000000", "(base)", "log-odds by interventional"] {
            assert!(shown.contains(expected), "{shown}");
        }
    }
}
