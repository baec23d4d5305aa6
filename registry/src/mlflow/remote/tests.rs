//! Does a tracking server give what was asked for, whatever it answers?

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// Answers as MLflow 3.17 gave them, by path; anything else is asked of nobody.
#[derive(Default)]
struct Recorded(BTreeMap<String, (u16, String)>);

impl Fetch for Recorded {
    fn get(&mut self, path: &str, bytes_max: u64, into: &mut dyn Write) -> Result<u16, String> {
        let (status, body) = self.0.get(path).ok_or_else(|| format!("nobody answers {path}"))?;
        assert!(body.len() as u64 <= bytes_max);
        into.write_all(body.as_bytes()).map_err(|error| error.to_string())?;
        Ok(*status)
    }
}

impl Recorded {
    fn with(mut self, path: &str, status: u16, body: &str) -> Recorded {
        self.0.insert(path.to_owned(), (status, body.to_owned()));
        self
    }
}

const VERSION: &str = r#"{"name": "risk", "version": "2", "creation_timestamp": 1795927506652, "current_stage": "None",
    "description": "better", "source": "models:/m-72", "run_id": "74be", "status": "READY",
    "tags": [{"key": "k", "value": "v"}], "run_link": "", "aliases": ["champion"]}"#;

const RUN: &str = r#"{"run": {
    "info": {"run_id": "74be", "run_name": "quail", "status": "FINISHED", "artifact_uri": "mlflow-artifacts:/1/74be/artifacts"},
    "data": {
        "metrics": [{"key": "auc", "value": 0.92, "timestamp": 1, "step": 2}, {"key": "bad", "value": "NaN"},
                    {"key": "inf", "value": 1.7976931348623157e+308}],
        "params": [{"key": "depth", "value": "3"}],
        "tags": [{"key": "mlflow.source.git.commit", "value": "c0ffee"}, {"key": "mlflow.user", "value": "ada"}]
    },
    "inputs": {"dataset_inputs": [{"tags": [{"key": "mlflow.data.context", "value": "training"}],
        "dataset": {"name": "train", "digest": "abfa1980", "source_type": "code", "source": "{}"}}]},
    "outputs": {"model_outputs": [{"model_id": "m-72", "step": 0}]}}}"#;

const LOGGED: &str = r#"{"model": {"info": {"model_id": "m-72", "name": "model", "source_run_id": "74be",
    "artifact_uri": "mlflow-artifacts:/1/models/m-72/artifacts"}}}"#;

const ALIAS: &str = "/api/2.0/mlflow/registered-models/alias?name=risk&alias=champion";
const URI: &str = "/api/2.0/mlflow/model-versions/get-download-uri?name=risk&version=2";

fn server(uri: &str) -> Recorded {
    let versioned = format!(r#"{{"model_version": {VERSION}}}"#);
    Recorded::default()
        .with(ALIAS, 200, &versioned)
        .with("/api/2.0/mlflow/model-versions/get?name=risk&version=2", 200, &versioned)
        .with(URI, 200, &format!(r#"{{"artifact_uri": "{uri}"}}"#))
        .with("/api/2.0/mlflow/runs/get?run_id=74be", 200, RUN)
        .with("/api/2.0/mlflow/logged-models/m-72", 200, LOGGED)
        .with(
            "/api/2.0/mlflow/registered-models/alias?name=risk&alias=none",
            400,
            r#"{"error_code": "INVALID_PARAMETER_VALUE", "message": "Registered model alias none not found."}"#,
        )
}

fn reference(text: &str) -> Reference {
    text.parse().expect("a reference")
}

#[test]
fn references_are_those_of_mlflow() {
    for text in
        ["models:/risk/3", "models:/risk@champion", "models:/m-72a6", "runs:/74be/a/model", "models:/my model/1"]
    {
        assert_eq!(reference(text).to_string(), text);
    }
    let check = |text: &str, expected: &str| {
        let error = text.parse::<Reference>().expect_err(expected).to_string();
        assert!(error.contains(expected) && error.contains("models:/NAME@ALIAS"), "{error}");
    };
    check("risk", "begins with neither models:/ nor runs:/");
    check("models:/risk", "neither version nor alias");
    check("models:/risk/Production", "aliases are what is left");
    check("models:/risk/0", "its version is no number");
    check("models:/@champion", "no name before");
    check("runs:/74be", "it has no run and path");
    check("runs:/74be/../x", "is not a path within the folder");
}

#[test]
fn a_model_is_found_by_alias_version_run_and_id() {
    let proxied = Place::Proxied("1/models/m-72/artifacts".into());
    let mut server = server("mlflow-artifacts:/1/models/m-72/artifacts");
    for text in ["models:/risk@champion", "models:/risk/2", "models:/m-72", "runs:/74be/model"] {
        let found = Tracking::new(&mut server).find(&reference(text)).expect(text);
        assert_eq!((found.place, found.run_id.as_deref()), (proxied.clone(), Some("74be")), "{text}");
        let version = found.version.map(|version| (version.version, version.tags["k"].clone(), version.description));
        assert_eq!(version.is_some(), text.starts_with("models:/risk"));
        assert!(version.is_none_or(|version| version == (2, "v".into(), "better".into())));
    }
    let other = Tracking::new(&mut server).find(&reference("runs:/74be/other model")).expect("a run");
    assert_eq!(other.place, Place::Proxied("1/74be/artifacts/other model".into()));
    assert_eq!(other.place.of("a.onnx"), "/api/2.0/mlflow-artifacts/artifacts/1/74be/artifacts/other%20model/a.onnx");
    assert_eq!(Tracking::new(&mut server).alias("risk", "none").expect("an answer"), None);
    let missing =
        Tracking::new(&mut server).find(&reference("models:/risk@none")).expect_err("no such alias").to_string();
    assert_eq!(missing, "the model \"risk\" has no alias \"none\" on the tracking server");
}

#[test]
fn files_are_read_through_the_server_wherever_it_keeps_them() {
    let mut server = server("s3://bucket/models/m-72")
        .with("/model-versions/get-artifact?name=risk&version=2&path=MLmodel", 200, "flavors: {}")
        .with(
            "/model-versions/get-artifact?name=risk&version=2&path=model.onnx",
            404,
            r#"{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no"}"#,
        )
        .with("/get-artifact?run_id=74be&path=m%2Fa.bin", 401, "<html>who are you</html>");
    let mut tracking = Tracking::new(&mut server);
    let found = tracking.find(&reference("models:/risk@champion")).expect("a version");
    assert_eq!(found.place, Place::Version { name: "risk".into(), version: 2 });
    assert_eq!(tracking.mlmodel(&found.place).expect("it is there"), "flavors: {}");
    let mut failing = |place: &Place, file: &str| {
        tracking.read(place, file, 1 << 30, &mut Vec::new()).expect_err("refused").to_string()
    };
    assert_eq!(failing(&found.place, "model.onnx"), "the tracking server has no file \"model.onnx\" with this model");
    let run = Place::Run { run: "74be".into(), path: "m".into() };
    assert_eq!(
        failing(&run, "a.bin"),
        "the tracking server answers 401: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
    );
    assert!(failing(&run, "../a.bin").contains("is not a path within the folder"));
    assert!(
        failing(&run, "b.bin").contains("does not answer /get-artifact?run_id=74be&path=m%2Fb.bin: nobody answers")
    );
    let logged = Place::Logged("m-7/2".into()).of("a b");
    assert_eq!(logged, "/ajax-api/2.0/mlflow/logged-models/m-7%2F2/artifacts/files?artifact_file_path=a%20b");
}

#[test]
fn a_run_tells_what_it_measured_with_what() {
    let run = Tracking::new(&mut server("x")).run("74be").expect("a run");
    assert_eq!(run.metrics, BTreeMap::from([("auc".to_owned(), 0.92)]), "the others are no numbers");
    assert_eq!((run.commit(), run.user(), run.params["depth"].as_str()), (Some("c0ffee"), Some("ada"), "3"));
    let dataset = &run.datasets[0];
    assert_eq!((dataset.name.as_str(), dataset.digest.as_str()), ("train", "abfa1980"));
    assert_eq!(dataset.context.as_deref(), Some("training"));
}

#[test]
fn lists_are_read_page_by_page_and_an_endless_one_ends() {
    let page = |version: u64, next: &str| {
        format!(r#"{{"model_versions": [{{"name": "risk", "version": "{version}"}}], "next_page_token": "{next}"}}"#)
    };
    let path = "/api/2.0/mlflow/model-versions/search?filter=name%3D%27risk%27&max_results=200";
    let mut server = Recorded::default().with(path, 200, &page(2, "n+1")).with(
        &format!("{path}&page_token=n%2B1"),
        200,
        &page(1, ""),
    );
    let versions = Tracking::new(&mut server).versions("risk").expect("two pages");
    assert_eq!(versions.iter().map(|version| version.version).collect::<Vec<_>>(), [1, 2]);
    let mut endless = server.with(&format!("{path}&page_token=n%2B1"), 200, &page(1, "n+1"));
    let error = Tracking::new(&mut endless).versions("risk").expect_err("endless").to_string();
    assert!(error.contains("more than 50 pages"), "{error}");
}

#[test]
fn what_is_no_tracking_server_is_told_as_such() {
    let check = |status: u16, body: &str, expected: &str| {
        let mut server = Recorded::default().with(ALIAS, status, body);
        let error =
            Tracking::new(&mut server).find(&reference("models:/risk@champion")).expect_err(expected).to_string();
        assert!(error.contains(expected), "{error}");
    };
    check(200, "<html>", "is not understood: /api/2.0/mlflow/registered-models/alias");
    check(200, "{}", "expected a number from 1 on");
    check(200, r#"{"model_version": {"version": 1}}"#, "it has no name");
    check(404, "<html>", "the tracking server answers 404");
    let unknown =
        r#"{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "Registered Model with name=risk not found"}"#;
    check(404, unknown, "answers 404 RESOURCE_DOES_NOT_EXIST (Registered Model with name=risk not found)");
    check(
        200,
        r#"{"model_version": {"name": "risk", "version": "1", "status": "FAILED_REGISTRATION"}}"#,
        "version 1 of \"risk\" is FAILED_REGISTRATION on the tracking server: expected READY",
    );
}

#[test]
fn credentials_are_those_of_mlflows_clients() {
    let with = |given: &[(&str, &str)]| {
        let given: BTreeMap<_, _> = given.iter().copied().collect();
        authorization(|name| given.get(name).map(|value| (*value).to_owned()))
    };
    let (user, password, token) = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN");
    assert_eq!(with(&[(user, "ada"), (password, "p:w"), (token, "t")]).as_deref(), Some("Basic YWRhOnA6dw=="));
    assert_eq!(with(&[(user, ""), (token, "t")]).as_deref(), Some("Bearer t"));
    assert_eq!(with(&[(password, "p")]), None);
}

proptest! {
    /// Whatever a server says, reading it ends with an answer or an error, and a place that stays on the server.
    #[test]
    fn no_answer_is_too_strange(uri in "[-a-z:/.@0-9]{0,40}", body in "[\\[\\]{}\":,a-z0-9]{0,80}") {
        let mut server = server(&uri).with("/api/2.0/mlflow/runs/get?run_id=1", 200, &body);
        let mut tracking = Tracking::new(&mut server);
        let _ = tracking.run("1");
        if let Ok(found) = tracking.find(&reference("models:/risk@champion")) {
            prop_assert!(!found.place.of("a").contains(".."));
        }
    }
}
