//! What does a model answer to this? Asked of a running server, or in this process.

mod answer;
pub(super) mod input;

use std::io::{self, Read};
use std::path::Path;

use clap::{Arg, ArgGroup, ArgMatches, Command};
use tiltyard_runtime::repository::policy::VersionPolicy;

use self::answer::Answers;
use self::input::{Columns, Question};
use super::credentials::Credentials;
use super::exit::Failure;
use super::output::{self, Form};
use super::progress;
use super::settings::{self, ENGINE_SETTINGS};
use super::target::{Http, Named, Target, ask, path_part, server_flags};
use crate::config::{Config, ModelControl};
use crate::local::Local;

/// Rows in one request.
const CHUNK_ROWS: usize = 256;

const EXAMPLES: &str = r#"Input is one of
  an inference request         {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}
  rows by column name          {"rows": [{"age": 41, "income": 52000}]}, or a plain list of such rows, or one row
  columns by name              {"columns": {"age": [41], "income": [52000]}}
  a CSV file with a header     sent in requests of 256 rows; an empty cell is null

Examples:
  tiltyard predict risk --file patients.csv
  tiltyard predict churn --data '{"age": 41, "income": 52000}'
  tiltyard predict risk@1 --file rows.json --output json
  tiltyard predict risk --models ./models --file patients.csv     no server needed
  cat rows.csv | tiltyard predict risk --file - --server http://models:8000"#;

pub(crate) fn command() -> Command {
    asking(Command::new("predict").about("Ask a model for its answer, on a running server or without one"))
        .after_help(EXAMPLES)
}

/// A command that asks a model about an input, on a running server or without one.
pub(super) fn asking(command: Command) -> Command {
    let engine_flags = settings::flags(&ENGINE_SETTINGS).into_iter().map(|flag| {
        // They say how models are run, which a running server has decided already.
        flag.requires("models").help_heading("Without a server")
    });
    command
        .arg(
            Arg::new("model")
                .value_name("MODEL[@VERSION]")
                .required(true)
                .help("The model, and the version where not the newest is meant"),
        )
        .arg(Arg::new("data").long("data").value_name("JSON").help_heading("Input").help("The input, as JSON"))
        .arg(
            Arg::new("file")
                .long("file")
                .value_name("PATH")
                .help_heading("Input")
                .help("A file with the input, as JSON or CSV; - for standard input"),
        )
        .group(ArgGroup::new("input").args(["data", "file"]).required(true))
        .args(server_flags())
        .arg(
            Arg::new("models")
                .long("models")
                .value_name("DIR")
                .help_heading("Without a server")
                .conflicts_with_all(["server", "ports_file"])
                .help("Load the model from this folder of models, .onnx file or URL of a store, in this process"),
        )
        .args(engine_flags)
}

/// What such a command asks, of which model, and whom.
pub(super) fn asked(matches: &ArgMatches) -> Result<(Question, ModelName, Box<dyn Target>), Failure> {
    let text = |name: &str| matches.get_one::<String>(name).map(String::as_str);
    let model: ModelName = parse_model(text("model").unwrap_or_default())?;
    let question = match (text("data"), text("file")) {
        (Some(data), _) => input::read_json(data.as_bytes())?,
        (None, Some("-")) => {
            let mut bytes = Vec::new();
            io::stdin()
                .lock()
                .read_to_end(&mut bytes)
                .map_err(|error| Failure::failed(format!("standard input: {error}")))?;
            input::read(&bytes).map_err(|failure| failure.at("standard input"))?
        }
        (None, path) => input::read_file(Path::new(path.unwrap_or_default()))?,
    };
    let target: Box<dyn Target> = match text("models") {
        Some(_) => Box::new(local(matches, &model)?),
        None => Box::new(Http::new(Named::of(matches)?.server(), &Credentials::of(matches)?)?),
    };
    Ok((question, model, target))
}

pub(crate) fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let (question, model, target) = asked(matches)?;
    let form = Form::of(matches);
    match question {
        Question::Infer(body) => {
            let answer = ask(target.as_ref(), "POST", &format!("{}/infer", model.path("v2")), body)?;
            output::print(&answer::show_inference(&answer, form))
        }
        Question::Score(body) => {
            let mut answers = Answers::default();
            answers.add(&score(target.as_ref(), &model, body, 0)?)?;
            answers.show(form)
        }
        Question::Rows(rows) => {
            let total = rows.len() as u64;
            score_rows(target.as_ref(), &model, Some(total), rows.into_iter().map(Ok))?.show(form)
        }
        Question::Csv(csv) => {
            let columns = Columns::of(&ask(target.as_ref(), "GET", &model.path("v2"), Vec::new())?);
            score_rows(target.as_ref(), &model, None, csv.rows(&columns)?)?.show(form)
        }
    }
}

/// A model, and perhaps one of its versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ModelName {
    /// The model.
    pub(crate) name: String,
    /// The version, where one was named.
    pub(crate) version: Option<u64>,
}

impl ModelName {
    /// Where it is, below the protocol's root.
    pub(super) fn path(&self, root: &str) -> String {
        let name = path_part(&self.name);
        self.version.map_or_else(
            || format!("/{root}/models/{name}"),
            |version| format!("/{root}/models/{name}/versions/{version}"),
        )
    }
}

/// Reads `MODEL[@VERSION]`.
pub(crate) fn parse_model(text: &str) -> Result<ModelName, Failure> {
    let (name, version) = match text.rsplit_once('@') {
        None => (text, None),
        Some((name, version)) => match version.parse() {
            Ok(version) if version > 0 => (name, Some(version)),
            _ => return Err(Failure::usage(format!("{text:?}: a version is a positive integer, as in {name}@1"))),
        },
    };
    match name {
        "" => Err(Failure::usage("expected a model's name, such as risk or risk@1")),
        name => Ok(ModelName { name: name.to_owned(), version }),
    }
}

/// Loads only the model that is asked for.
pub(crate) fn local(matches: &ArgMatches, model: &ModelName) -> Result<Local, Failure> {
    let loaded = settings::load(matches)?;
    settings::warn(&loaded);
    start(loaded.config, model)
}

/// The same by a configuration.
pub(crate) fn start(mut config: Config, model: &ModelName) -> Result<Local, Failure> {
    config.model_control = ModelControl::Explicit;
    config.load_model = vec![model.name.clone()];
    if let Some(version) = model.version {
        config.version_policy = VersionPolicy::Specific([version].into());
    }
    Local::start(&config).map_err(Failure::failed)
}

fn score(target: &dyn Target, model: &ModelName, body: Vec<u8>, first_row: usize) -> Result<Vec<u8>, Failure> {
    let result = ask(target, "POST", &format!("{}/score", model.path("v1")), body);
    result.map_err(|failure| match first_row {
        0 => failure,
        _ => failure.at(&format!("in the request with rows from {first_row}, which it counts from 0")),
    })
}

/// Sends rows, many in a request, and gathers the answers. Fails at the first request that does.
pub(super) fn score_rows(
    target: &dyn Target,
    model: &ModelName,
    total: Option<u64>,
    rows: impl Iterator<Item = Result<String, Failure>>,
) -> Result<Answers, Failure> {
    let mut answers = Answers::default();
    let bar = progress::bar("rows", total);
    let mut rows = rows.peekable();
    let mut first_row = 0;
    // A list without rows is sent too: whether it is legal is the server's to say.
    while first_row == 0 || rows.peek().is_some() {
        let chunk = rows.by_ref().take(CHUNK_ROWS).collect::<Result<Vec<String>, Failure>>()?;
        let body = format!("{{\"rows\": [{}]}}", chunk.join(", "));
        answers.add(&score(target, model, body.into_bytes(), first_row)?)?;
        first_row += chunk.len();
        bar.inc(chunk.len() as u64);
        if chunk.is_empty() {
            break;
        }
    }
    bar.finish_and_clear();
    Ok(answers)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::cli::exit::Exit;

    #[test]
    fn names_and_versions() {
        let check = |text: &str, path: Option<&str>| {
            let found = parse_model(text).map(|model| model.path("v2"));
            assert_eq!(found.as_deref().map_err(Failure::exit), path.ok_or(Exit::Usage), "{text}");
        };
        check("risk", Some("/v2/models/risk"));
        check("risk@12", Some("/v2/models/risk/versions/12"));
        check("a b@1", Some("/v2/models/a%20b/versions/1"));
        check("risk@latest", None);
        check("risk@0", None);
        check("@1", None);
        check("", None);
    }

    #[test]
    fn command_lines() {
        let check = |line: &str, right: bool| {
            let parsed = command().try_get_matches_from(line.split_whitespace());
            assert_eq!(parsed.is_ok(), right, "{line}");
        };
        check("predict risk --data {}", true);
        check("predict risk@1 --file rows.csv --server http://h:1", true);
        check("predict risk --file - --models m --engines tract", true);
        check("predict risk --file - --ports-file p.json", true);
        check("predict risk", false);
        check("predict --data {}", false);
        check("predict risk --data {} --file x", false);
        check("predict risk --data {} --models m --server s", false);
        check("predict risk --data {} --engines tract", false);
    }

    /// Counts the rows of each request and answers with one score for each.
    #[derive(Default)]
    struct Scores(RefCell<Vec<usize>>);

    impl Target for Scores {
        fn call(&self, _: &str, path: &str, body: Vec<u8>) -> Result<(u16, Vec<u8>), Failure> {
            assert_eq!(path, "/v1/models/risk/score");
            let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
            let rows = body["rows"].as_array().unwrap();
            self.0.borrow_mut().push(rows.len());
            if rows.iter().any(|row| row["x"] == 300) {
                return Ok((400, br#"{"error": "row 44: too large"}"#.to_vec()));
            }
            Ok((200, serde_json::json!({"model": "risk", "version": "1", "rows": rows}).to_string().into_bytes()))
        }
    }

    #[test]
    fn rows_travel_in_chunks() {
        let check = |count: usize, chunks: &[usize]| {
            let target = Scores::default();
            let rows = (0..count).map(|_| Ok(r#"{"x": 1}"#.to_owned()));
            let answers = score_rows(&target, &parse_model("risk").unwrap(), None, rows).unwrap();
            assert_eq!((target.0.into_inner().as_slice(), answers.rows()), (chunks, count));
        };
        check(0, &[0]);
        check(1, &[1]);
        check(256, &[256]);
        check(600, &[256, 256, 88]);
    }

    #[test]
    fn a_chunk_that_fails_says_where() {
        let rows = (0..600).map(|row| Ok(format!("{{\"x\": {row}}}")));
        let failure = score_rows(&Scores::default(), &parse_model("risk").unwrap(), None, rows).err().unwrap();
        assert_eq!(failure.to_string(), "in the request with rows from 256, which it counts from 0: row 44: too large");
    }
}
