//! Are MLflow's clients answered as its own server answers them?

use proptest::prelude::*;
use tiltyard_types::Digest;

use super::*;
use crate::book::{FileEntry, How, Lineage, Principal, Run, StateSet, VersionState};

const BASE: &str = "http://localhost:8002/admin/mlflow";

/// A registry as the server keeps one, without a disk.
#[derive(Default)]
struct Shelf {
    book: Book,
    sequence: u64,
}

impl Shelf {
    /// A model with three versions, the first of which came from MLflow.
    fn risk() -> Shelf {
        let mut shelf = Shelf::default();
        for number in 1..=3u8 {
            let file = |path: &str| FileEntry { path: path.into(), size: 7, sha256: Digest::new([number; 32]) };
            let run = (number == 1).then(|| Run { id: "74be".into(), system: "mlflow".into(), uri: String::new() });
            let content = Content {
                artifact: Digest::new([number; 32]),
                files: vec![file("golden/a.json"), file("model.onnx")],
                signature: Value::Null,
                description: format!("number {number}"),
                text: String::new(),
                tags: BTreeMap::from([("team".to_owned(), if number == 3 { "fraud" } else { "lending" }.to_owned())]),
                metrics: Vec::new(),
                lock: None,
                baseline: None,
                signed: None,
                lineage: Lineage { run, ..Lineage::default() },
                source: match number {
                    1 => Source::Imported { system: "mlflow".into(), uri: "models:/risk/7".into() },
                    _ => Source::Pushed,
                },
            };
            shelf
                .order(&Wants::Push(Push { model: "risk".into(), content: Box::new(content), number_min: 0 }).into())
                .expect("it is pushed");
        }
        shelf
    }

    fn order(&mut self, order: &Order) -> Result<Outcome, Refused> {
        let by = Principal { name: "ann".into(), roles: vec!["admin".into()], how: How::Key };
        let decided = self.book.decide(order.clone(), &by, 1000 + self.sequence);
        let decided = decided.map_err(|refusal| Refused::from(&tiltyard_types::Error::from(refusal)))?;
        for fact in &decided.facts {
            self.sequence += 1;
            self.book.apply(self.sequence, 1000 + self.sequence, fact).expect("what is decided stands");
        }
        Ok(decided.outcome)
    }

    fn call(&mut self, method: &str, path: &str, said: Value) -> Result<Value, Refused> {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let pairs = said.as_object().into_iter().flatten().flat_map(|(key, value)| match value {
            Value::Array(list) => list.iter().map(|value| (key.clone(), text(value))).collect(),
            value => vec![(key.clone(), text(value))],
        });
        let query: Vec<_> = if method == "GET" { pairs.collect() } else { Vec::new() };
        let body = if method == "GET" { Value::Null } else { said };
        let asked = Asked { method, path, query: &query, body, base: BASE };
        match answer(&self.book, &asked)? {
            Reply::Answer(form) => Ok(form),
            Reply::Orders(orders) => {
                let mut outcome = Outcome::Model { model: String::new() };
                for order in &orders {
                    outcome = self.order(order)?;
                }
                answer_to(&self.book, &asked, &outcome)
            }
            Reply::File { model, version, path } => Ok(json!([model, version, path])),
            Reply::Text(text) => Ok(text.into()),
        }
    }

    fn get(&mut self, path: &str, said: Value) -> Value {
        self.call("GET", &format!("mlflow/{path}"), said).expect(path)
    }

    fn refused(&mut self, method: &str, path: &str, said: Value) -> (u16, &'static str, String) {
        let refused = self.call(method, &format!("mlflow/{path}"), said).expect_err(path);
        (refused.status, refused.code, refused.message)
    }

    /// The numbers of the versions that a filter finds.
    fn found(&mut self, filter: &str, order: &[&str]) -> Vec<u64> {
        let found = self.get("model-versions/search", json!({ "filter": filter, "order_by": order }));
        let number = |version: &Value| version["version"].as_str().expect("text").parse().expect("a number");
        found["model_versions"].as_array().expect("a list").iter().map(number).collect()
    }
}

#[test]
fn a_client_sees_models_and_versions_as_mlflow_has_them() {
    let mut shelf = Shelf::risk();
    let version = shelf.get("model-versions/get", json!({ "name": "risk", "version": "1" }))["model_version"].clone();
    assert_eq!((&version["version"], &version["status"]), (&json!("1"), &json!("READY")));
    assert_eq!((&version["run_id"], &version["source"]), (&json!("74be"), &json!("models:/risk/7")));
    assert_eq!(version["tags"], json!([{ "key": "team", "value": "lending" }]));
    let model = shelf.get("registered-models/get", json!({ "name": "risk" }))["registered_model"].clone();
    assert_eq!((&model["name"], &model["latest_versions"][0]["version"]), (&json!("risk"), &json!("3")));
    let wants = StateSet { model: "risk".into(), version: 3, state: VersionState::Quarantined, reason: "leak".into() };
    shelf.order(&Wants::State(wants).into()).expect("an admin may");
    let version = shelf.get("model-versions/get", json!({ "name": "risk", "version": "3" }))["model_version"].clone();
    assert_eq!(
        (&version["status"], &version["status_message"]),
        (&json!("FAILED_REGISTRATION"), &json!("quarantined: leak"))
    );
}

#[test]
fn a_client_makes_models_tags_descriptions_and_aliases() {
    let mut shelf = Shelf::risk();
    let tags = json!([{ "key": "a", "value": "b" }]);
    let made = shelf.call(
        "POST",
        "mlflow/registered-models/create",
        json!({ "name": "new", "tags": tags, "description": "d" }),
    );
    let made = made.expect("it is new")["registered_model"].clone();
    assert_eq!((&made["name"], &made["tags"], &made["description"]), (&json!("new"), &tags, &json!("d")));
    let again = shelf.refused("POST", "registered-models/create", json!({ "name": "new" }));
    assert_eq!(again, (400, "RESOURCE_ALREADY_EXISTS", "Registered Model (name=new) already exists.".into()));
    let version = json!({ "name": "risk", "version": "2", "key": "k", "value": "v", "description": "other", "alias": "champion" });
    for (method, call) in [
        ("POST", "registered-models/set-tag"),
        ("PATCH", "registered-models/update"),
        ("POST", "model-versions/set-tag"),
        ("PATCH", "model-versions/update"),
        ("POST", "registered-models/alias"),
    ] {
        shelf.call(method, &format!("mlflow/{call}"), version.clone()).expect(call);
    }
    let by_alias =
        shelf.get("registered-models/alias", json!({ "name": "risk", "alias": "champion" }))["model_version"].clone();
    assert_eq!((&by_alias["version"], &by_alias["description"]), (&json!("2"), &json!("other")));
    assert_eq!(by_alias["tags"], json!([{ "key": "k", "value": "v" }, { "key": "team", "value": "lending" }]));
    assert_eq!(by_alias["aliases"], json!(["champion"]));
    let model = shelf.get("registered-models/get", json!({ "name": "risk" }))["registered_model"].clone();
    assert_eq!(model["aliases"], json!([{ "alias": "champion", "version": "2" }]));
    assert_eq!(model["tags"], json!([{ "key": "k", "value": "v" }]));
    for call in ["registered-models/delete-tag", "model-versions/delete-tag", "registered-models/alias"] {
        shelf.call("DELETE", &format!("mlflow/{call}"), version.clone()).expect(call);
    }
    let gone = shelf.refused("GET", "registered-models/alias", json!({ "name": "risk", "alias": "champion" }));
    assert_eq!(gone, (400, "INVALID_PARAMETER_VALUE", "Registered model alias champion not found.".into()));
    let model = shelf.get("registered-models/get", json!({ "name": "risk" }))["registered_model"].clone();
    assert_eq!((&model["aliases"], &model["tags"], &model["description"]), (&json!([]), &json!([]), &json!("other")));
}

#[test]
fn versions_are_copied_within_the_registry_and_come_from_nowhere_else() {
    let mut shelf = Shelf::risk();
    shelf.call("POST", "mlflow/registered-models/create", json!({ "name": "copy" })).expect("it is new");
    let from = json!({ "name": "copy", "source": "models:/risk/2", "description": "a copy" });
    let copied =
        shelf.call("POST", "mlflow/model-versions/create", from.clone()).expect("it is here")["model_version"].clone();
    assert_eq!(
        (&copied["name"], &copied["version"], &copied["source"]),
        (&json!("copy"), &json!("1"), &json!("models:/risk/2"))
    );
    let again =
        shelf.call("POST", "mlflow/model-versions/create", from).expect("the same bytes")["model_version"].clone();
    assert_eq!(again["version"], json!("1"), "the same bytes are the same version");
    for source in ["file:///etc", "mlflow-artifacts:/1/x", "models:/risk/9", "models:/m-1", "runs:/1/model"] {
        let (status, code, message) =
            shelf.refused("POST", "model-versions/create", json!({ "name": "copy", "source": source }));
        assert_eq!((status, code), (400, "BAD_REQUEST"), "{source}");
        assert!(message.contains("tiltyard push copy FILE"), "{message}");
    }
}

#[test]
fn filters_order_and_pages_are_those_of_mlflow() {
    let mut shelf = Shelf::risk();
    let mut check = |filter: &str, expected: &[u64]| assert_eq!(shelf.found(filter, &[]), expected, "{filter}");
    check("", &[3, 2, 1]);
    check("name = 'risk'", &[3, 2, 1]);
    check("name='other'", &[]);
    check("name LIKE 'r%k' AND tags.team = \"fraud\"", &[3]);
    check("name ILIKE 'RI_K' and tags.`team` != 'fraud'", &[2, 1]);
    check("name LIKE 'isk'", &[]);
    check("run_id IN ('1', '74be')", &[1]);
    check("source_path = 'models:/risk/7'", &[1]);
    check("version_number >= 2 AND version_number < 3", &[2]);
    check("tags.nobody = 'x'", &[]);
    check("tags.nobody != 'x'", &[]);
    check("name = 'risk' AND tag.`mlflow.prompt.is_prompt` != 'true'", &[3, 2, 1]);
    assert_eq!(shelf.found("name = 'risk'", &["name ASC", "version_number ASC"]), [1, 2, 3]);
    let mut page = |token: &str| shelf.get("model-versions/search", json!({ "max_results": "2", "page_token": token }));
    let first = page("");
    assert_eq!((first["model_versions"].as_array().map(Vec::len), &first["next_page_token"]), (Some(2), &json!("2")));
    let second = page("2");
    assert_eq!(
        (second["model_versions"].as_array().map(Vec::len), &second["next_page_token"]),
        (Some(1), &Value::Null)
    );
    let models = shelf.get("registered-models/search", json!({ "filter": "name = 'risk'", "order_by": ["name DESC"] }));
    assert_eq!(models["registered_models"][0]["name"], json!("risk"));
    let mut wrong = |said: Value, expected: &str| {
        let (status, code, message) = shelf.refused("GET", "model-versions/search", said);
        assert_eq!((status, code), (400, "INVALID_PARAMETER_VALUE"));
        assert!(message.contains(expected), "{message}");
    };
    wrong(json!({ "filter": "name" }), "a term is a field, a comparison and a value");
    wrong(json!({ "filter": "name = 'a" }), "a quote is not closed");
    wrong(json!({ "filter": "name ~ 'a'" }), "a comparison is =");
    wrong(json!({ "filter": "name = 'a' OR name = 'b'" }), "terms have AND between them");
    wrong(json!({ "filter": "color = 'a'" }), "Invalid attribute \"color\"");
    wrong(json!({ "order_by": ["color"] }), "Invalid order_by clause");
    wrong(json!({ "page_token": "x" }), "page_token: expected");
}

#[test]
fn files_are_listed_and_named_as_a_tracking_server_does() {
    let mut shelf = Shelf::risk();
    let uri = shelf.get("model-versions/get-download-uri", json!({ "name": "risk", "version": "1" }));
    assert_eq!(uri["artifact_uri"], json!(format!("{BASE}/api/2.0/mlflow-artifacts/artifacts/risk/1")));
    let mut files = |path: &str, within: Value| shelf.call("GET", &format!("mlflow-artifacts/artifacts{path}"), within);
    let names = |form: Value| {
        form["files"].as_array().expect("a list").iter().map(|file| file["path"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(names(files("", json!({ "path": "risk/1" })).expect("a list")), ["MLmodel", "golden", "model.onnx"]);
    assert_eq!(names(files("", json!({ "path": "risk/1/golden" })).expect("a list")), ["a.json"]);
    assert_eq!(files("/risk/1/golden/a.json", Value::Null), Ok(json!(["risk", 1, "golden/a.json"])));
    let text = files("/risk/1/MLmodel", Value::Null).expect("it is made");
    let model = crate::mlflow::folder::Model::read(text.as_str().expect("text")).expect("as MLflow writes it");
    assert_eq!((model.file.as_str(), model.origin.run_id.as_deref()), ("model.onnx", Some("74be")));
    for path in ["/risk/1/../../x", "/risk/1/none", "/risk/9/model.onnx", "/other/1/model.onnx"] {
        assert_eq!(files(path, Value::Null).expect_err(path).status, 404, "{path}");
    }
    assert_eq!(files("/risk/x", Value::Null).expect_err("no number").status, 400);
}

#[test]
fn what_a_record_must_not_do_is_refused_with_what_there_is_instead() {
    let mut shelf = Shelf::risk();
    let said = json!({ "name": "risk", "version": "1", "new_name": "x", "stage": "Production" });
    let mut check = |method: &str, call: &str, expected: &str| {
        let (status, code, message) = shelf.refused(method, call, said.clone());
        assert_eq!((status, code), (400, "BAD_REQUEST"));
        assert!(message.contains(expected), "{message}");
    };
    check("POST", "registered-models/rename", "copy_model_version");
    check("DELETE", "registered-models/delete", "tiltyard archive");
    check("DELETE", "model-versions/delete", "tiltyard quarantine");
    check("POST", "model-versions/transition-stage", "tiltyard promote");
    let unknown = shelf.refused("GET", "experiments/search", json!({}));
    assert_eq!((unknown.0, unknown.1), (404, "ENDPOINT_NOT_FOUND"));
    let missing = shelf.refused("GET", "registered-models/get", json!({}));
    assert_eq!(missing, (400, "INVALID_PARAMETER_VALUE", "Missing value for required parameter 'name'.".into()));
    assert_eq!(shelf.refused("GET", "registered-models/get", json!({ "name": "x" })).0, 404);
    assert_eq!(shelf.refused("GET", "model-versions/get", json!({ "name": "risk", "version": "x" })).0, 400);
    assert_eq!(shelf.refused("POST", "registered-models/create", json!({ "name": "a/b" })).0, 400);
}

proptest! {
    #[test]
    fn no_filter_is_too_strange(filter in "[-a-z .'\"`%_=!<>(),]{0,60}") {
        let mut shelf = Shelf::risk();
        let _ = shelf.call("GET", "mlflow/model-versions/search", json!({ "filter": filter }));
    }

    /// What `%` and `_` find is what a slow and plain reading of them finds.
    #[test]
    fn like_is_like_in_sql(text in "[ab]{0,8}", pattern in "[ab%_]{0,6}") {
        fn plain(text: &[u8], pattern: &[u8]) -> bool {
            match pattern.split_first() {
                None => text.is_empty(),
                Some((b'%', rest)) => (0..=text.len()).any(|from| plain(&text[from..], rest)),
                Some((letter, rest)) => text.split_first().is_some_and(|(first, left)| (*letter == b'_' || letter == first) && plain(left, rest)),
            }
        }
        let mut shelf = Shelf::default();
        prop_assume!(!text.is_empty());
        let _ = shelf.call("POST", "mlflow/registered-models/create", json!({ "name": text }));
        let found = shelf.get("registered-models/search", json!({ "filter": format!("name LIKE '{pattern}'") }));
        prop_assert_eq!(found["registered_models"].as_array().is_some_and(|found| !found.is_empty()), plain(text.as_bytes(), pattern.as_bytes()));
    }
}
