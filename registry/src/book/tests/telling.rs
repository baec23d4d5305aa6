//! Do cards, differences and events tell what the record has?

use serde_json::Value;

use super::*;

fn told() -> (World, Version) {
    let mut world = World::new();
    let dataset = Dataset {
        name: "loans".into(),
        namespace: "s3://data".into(),
        version: "7".into(),
        digest: Some(digest(5)),
        uri: "s3://data/loans".into(),
    };
    let lineage = Lineage {
        datasets: vec![dataset],
        code: Some(Code { repository: "https://git.example/risk".into(), commit: "abc123".into(), is_dirty: true }),
        run: Some(Run {
            id: "0192F000-0000-7000-8000-000000000001".into(),
            system: "mlflow".into(),
            uri: String::new(),
        }),
        parent: None,
    };
    let lock = Lock {
        engine: "onnxruntime".into(),
        build: "1.23".into(),
        provider: "cpu".into(),
        threads: Some(2),
        ..Lock::default()
    };
    world.does(
        &dana(),
        Wants::Model(ModelSet { model: "risk".into(), risk: Some("high".into()), ..ModelSet::default() }),
    );
    let text = "Not for loans over 1 million.\n".into();
    world.push(&dana(), Content { lineage, lock: Some(lock), text, ..content(1) });
    let version = world.book.version("risk", 1).expect("it is there").clone();
    (world, version)
}

/// Approvals are bound to these bytes: whoever changes the form voids those of everybody who updates.
#[test]
fn a_card_has_this_form() {
    let (world, version) = told();
    let expected = "\
# risk version 1

Scores applications.

## Model

- owner: dana
- risk: high

## Artifact

- digest: sha256:0101010101010101010101010101010101010101010101010101010101010101
- pushed: 2026-11-29T04:25:00.000Z by dana
- golden examples: 1

| file | bytes | sha256 |
|---|---|---|
| golden/first.json | 210 | 0101010101010101010101010101010101010101010101010101010101010101 |
| model.onnx | 4711 | 0101010101010101010101010101010101010101010101010101010101010101 |

## Signature

```json
{\"inputs\":[{\"datatype\":\"FP32\",\"name\":\"features\",\"shape\":[-1,4]}],\"outputs\":[{\"datatype\":\"FP32\",\"name\":\"score\",\"shape\":[-1,4]}]}
```

## Metrics

| metric | dataset | slice | value | interval | evaluator |
|---|---|---|---|---|---|
| auc | holdout |  | 0.8 |  | backtest |

## Runs on

- engine: onnxruntime
- build: 1.23
- provider: cpu
- threads: 2

## Made of

- dataset: loans, s3://data, version 7, sha256:0505050505050505050505050505050505050505050505050505050505050505, s3://data/loans
- code: https://git.example/risk abc123, with changes that are not in it
- run: mlflow 0192F000-0000-7000-8000-000000000001

## Tags

- team: fraud

## In words

Not for loans over 1 million.
";
    assert_eq!(card(&world.book, &version).markdown, expected);
}

#[test]
fn what_people_type_is_no_markup_in_a_card() {
    let mut world = World::new();
    let tags = [("a".to_owned(), "x\n## Approved | <b>".to_owned())].into();
    world.push(&dana(), Content { tags, ..content(1) });
    let card = card(&world.book, world.book.version("risk", 1).expect("it is there")).markdown;
    assert!(card.contains("- a: x \\#\\# Approved \\| \\<b>\n"), "{card}");
}

#[test]
fn a_diff_has_what_differs_and_nothing_else() {
    let (mut world, first) = told();
    let mut second = content(2);
    second.files.push(FileEntry { path: "vocabulary.txt".into(), size: 3, sha256: digest(2) });
    second.signature["outputs"][0]["shape"] = json!([-1, 1]);
    second.metrics = vec![auc(0.75)];
    second.text = "Not for loans over 2 million.\n".into();
    second.lineage.parent = Some(Parent { model: "risk".into(), version: 1 });
    world.push(&dana(), second);
    let second = world.book.version("risk", 2).expect("it is there");
    let graph = GraphDiff { lines: vec!["Gemm: 3 nodes, then 4".into()] };
    let text = diff(&first, second, Some(graph)).to_string();
    for expected in [
        "--- risk@1\n+++ risk@2\n",
        "signature\n  - output score: {\"datatype\":\"FP32\",\"name\":\"score\",\"shape\":[-1,4]}\n  + output score:",
        "  - model.onnx: 4711 bytes, sha256 010101010101\n  + model.onnx: 4711 bytes, sha256 020202020202\n",
        "  + vocabulary.txt: 3 bytes",
        "  auc on holdout: 0.8 -> 0.75 (-0.05)\n",
        "  - line 1: Not for loans over 1 million.\n  + line 1: Not for loans over 2 million.\n",
        "  - engine: onnxruntime\n",
        "  + parent: risk@1\n",
        "graph\n  Gemm: 3 nodes, then 4\n",
    ] {
        assert!(text.contains(expected), "expected {expected:?} in\n{text}");
    }
    assert!(!text.contains("team"), "their tags are the same:\n{text}");
    let same = diff(&first, &first, None);
    assert!(same.is_empty());
    assert_eq!(same.to_string(), "--- risk@1\n+++ risk@1\nnothing differs\n");
}

/// What the specification says must be there; it is read anew here, not taken from the code.
fn check_event(event: &Value) {
    let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    for required in ["eventTime", "producer", "schemaURL"] {
        assert!(text(&event[required]).is_some(), "{required} in {event}");
    }
    let schema = text(&event["schemaURL"]).expect("it is there");
    match schema.rsplit('/').next() {
        Some("RunEvent") => {
            assert!(text(&event["run"]["runId"]).is_some_and(|id| lineage::is_uuid(&id)), "{event}");
            assert!(text(&event["job"]["namespace"]).is_some() && text(&event["job"]["name"]).is_some());
        }
        Some("JobEvent") => assert!(event["run"].is_null() && text(&event["job"]["name"]).is_some()),
        Some("DatasetEvent") => assert!(event["job"].is_null() && text(&event["dataset"]["name"]).is_some()),
        other => panic!("{other:?}"),
    }
    fn facets(value: &Value) {
        match value {
            Value::Object(fields) => {
                for facet in
                    fields.get("facets").and_then(Value::as_object).into_iter().flat_map(|facets| facets.values())
                {
                    assert!(facet["_producer"].is_string() && facet["_schemaURL"].is_string(), "{facet}");
                }
                fields.values().for_each(facets);
            }
            Value::Array(items) => items.iter().for_each(facets),
            _ => {}
        }
    }
    facets(event);
}

#[test]
fn a_push_and_a_promotion_are_told_as_openlineage() {
    let (mut world, _) = told();
    let promote = world.promote(1, "prod");
    world.does(&dana(), promote);
    let told: Vec<Vec<Value>> = world
        .entries
        .iter()
        .map(|entry| {
            let fact = Fact::read(&entry.kind, entry.data.get()).expect("it is ours").expect("it is read");
            lineage::events(&world.book, &fact, entry.time_ms)
        })
        .collect();
    told.iter().flatten().for_each(check_event);
    let states = |events: &[Value]| {
        events.iter().map(|event| event["eventType"].as_str().map(str::to_owned)).collect::<Vec<_>>()
    };
    assert!(told[0].is_empty());
    assert_eq!(states(&told[1]), [Some("START".into()), Some("COMPLETE".into()), None]);
    assert_eq!(states(&told[2]), [Some("START".into()), Some("COMPLETE".into())]);
    let push = &told[1][1];
    assert_eq!(push["run"]["runId"], told[1][0]["run"]["runId"]);
    assert_eq!(push["inputs"][0]["namespace"], "s3://data");
    assert_eq!(push["outputs"][0]["facets"]["tiltyard_model"]["version"], 1);
    assert_eq!(push["job"]["facets"]["sourceCodeLocation"]["version"], "abc123");
    assert_eq!(told[2][1]["outputs"][0]["name"], "prod/risk");
}

fn run_event(id: u8, inputs: &[&str], outputs: &[&str]) -> Value {
    let named =
        |names: &[&str]| names.iter().map(|name| json!({ "namespace": "s3://data", "name": name })).collect::<Vec<_>>();
    json!({
        "eventType": "COMPLETE", "eventTime": "2026-11-01T00:00:00.000+01:00", "producer": "https://airflow.apache.org",
        "schemaURL": "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent",
        "run": { "runId": format!("0192f000-0000-7000-8000-0000000000{id:02x}") },
        "job": { "namespace": "airflow", "name": format!("job{id}") }, "inputs": named(inputs), "outputs": named(outputs),
    })
}

#[test]
fn ancestors_reach_into_what_other_systems_told() {
    let (mut world, _) = told();
    world.does(&program(), Wants::Event(run_event(2, &["raw"], &["loans"])));
    // What reads what it writes is shown once.
    world.does(&program(), Wants::Event(run_event(3, &["raw", "loans"], &["raw"])));
    let version = world.book.version("risk", 1).expect("it is there");
    let lines = lineage::ancestors(&world.book, version).lines();
    let expected = [
        "risk@1",
        "  dataset loans, s3://data, version 7, sha256:0505050505050505050505050505050505050505050505050505050505050505, s3://data/loans",
        "    run airflow/job2 0192f000-0000-7000-8000-000000000002",
        "      dataset raw, s3://data",
        "        run airflow/job3 0192f000-0000-7000-8000-000000000003",
        "          dataset loans, s3://data",
        "            run airflow/job2 0192f000-0000-7000-8000-000000000002 …",
        "          dataset raw, s3://data …",
        "  code https://git.example/risk abc123",
        "  run mlflow 0192F000-0000-7000-8000-000000000001",
    ];
    assert_eq!(lines, expected);
    // The run that made it becomes known, and is its parent in what is told.
    world.does(&program(), Wants::Event(run_event(1, &["loans"], &[])));
    let entry = &world.entries[1];
    let fact = Fact::read(&entry.kind, entry.data.get()).expect("ours").expect("read");
    let events = lineage::events(&world.book, &fact, entry.time_ms);
    assert_eq!(events[0]["run"]["facets"]["parent"]["job"]["name"], "job1");
}

#[test]
fn an_event_that_is_none_is_refused_by_what_it_lacks() {
    let mut world = World::new();
    let mut check = |change: &dyn Fn(&mut Value), expected: &str| {
        let mut event = run_event(1, &[], &[]);
        change(&mut event);
        let text = world.refusal(&program(), Wants::Event(event)).to_string();
        assert!(text.contains(expected), "{text}");
    };
    check(&|event| event["eventTime"] = "now".into(), "eventTime \"now\" is no time");
    check(&|event| event["run"]["runId"] = "7".into(), "run.runId \"7\" is no UUID");
    check(&|event| event["job"] = json!({}), "the event has no job.namespace");
    check(&|event| event["eventType"] = "DONE".into(), "expected START, RUNNING");
    check(&|event| event["inputs"] = json!([{ "name": "x" }]), "the event has no inputs.namespace");
    check(&|event| drop(event.as_object_mut().map(|fields| fields.remove("producer"))), "the event has no producer");
}

fn program() -> Principal {
    Principal { name: "airflow".into(), roles: Vec::new(), how: How::Token }
}

#[test]
fn a_seal_is_of_everything_but_itself() {
    let mut world = World::new();
    world.push(&dana(), content(1));
    let id = world.ask(&dana(), 1, "prod");
    let mut decided = world.book.decide(approve(&id).into(), &ann(), world.now_ms).expect("she may");
    let fact = &mut decided.facts[0];
    let statement = fact.to_seal().expect("it is an approval");
    assert!(statement.contains("\"name\":\"ann\"") && statement.contains("\"card\":"), "{statement}");
    fact.seal(Seal { key: "k".into(), signature: "c2ln".into() });
    assert_eq!(fact.to_seal(), Some(statement));
    let fact = fact.clone();
    world.write(&fact);
    let seal = world.request(&id).approvals[0].seal.clone().expect("it is kept");
    assert_eq!(seal.signature, "c2ln");
    let again = Fact::read(&world.entries[2].kind, world.entries[2].data.get()).expect("ours").expect("read");
    assert_eq!(again, fact);
}
