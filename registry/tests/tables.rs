//! Do the tables say what the log says, in SQLite and in Postgres alike, whatever happens to either?
#![cfg(feature = "sql")]

mod postgres;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use postgres::Postgres;
use rusqlite::Connection;
use rusqlite::types::ValueRef;
use serde_json::{Value, json};
use tempfile::TempDir;
use tiltyard_registry::book::{Book, Environment, How, Model, Principal, Promotion, RequestState, Wants};
use tiltyard_registry::postgres::Client;
use tiltyard_registry::tables::Tables;
use tiltyard_registry::{Address, Limits, Log};

const T0: u64 = 1_700_000_000_000;

/// One of the two, and how a person would ask it.
enum Place {
    Sqlite(TempDir),
    Postgres(Postgres),
}

impl Place {
    /// SQLite, and Postgres where there is one.
    fn all() -> Vec<Place> {
        let sqlite = Place::Sqlite(tempfile::tempdir().expect("a folder"));
        [Some(sqlite), Postgres::start().map(Place::Postgres)].into_iter().flatten().collect()
    }

    fn open(&self) -> tiltyard_registry::Result<Tables> {
        match self {
            Place::Sqlite(folder) => Tables::sqlite(&folder.path().join("registry.db")),
            Place::Postgres(server) => Tables::postgres(&address(server)),
        }
    }

    fn tables(&self) -> Tables {
        self.open().expect("tables")
    }

    fn file(&self) -> Connection {
        match self {
            Place::Sqlite(folder) => Connection::open(folder.path().join("registry.db")).expect("a database"),
            Place::Postgres(_) => unreachable!("it is no file"),
        }
    }

    fn client(server: &Postgres) -> Client {
        let mut client = address(server).connect().expect("it is there");
        client.batch("SET search_path TO tiltyard").expect("it runs");
        client
    }

    fn run(&self, sql: &str) {
        match self {
            Place::Sqlite(_) => self.file().execute_batch(sql).expect("it runs"),
            Place::Postgres(server) => Place::client(server).batch(sql).expect("it runs"),
        }
    }

    /// Rows as text, with | between columns and - for nothing.
    fn ask(&self, sql: &str) -> Vec<String> {
        match self {
            Place::Sqlite(_) => {
                let file = self.file();
                let mut query = file.prepare(sql).expect(sql);
                let columns = query.column_count();
                let rows = query.query_map([], |row| {
                    let cell = |at| match row.get_ref(at).expect("a column") {
                        ValueRef::Null => "-".to_owned(),
                        ValueRef::Integer(number) => number.to_string(),
                        ValueRef::Real(number) => number.to_string(),
                        ValueRef::Text(text) | ValueRef::Blob(text) => String::from_utf8_lossy(text).into_owned(),
                    };
                    Ok((0..columns).map(cell).collect::<Vec<_>>().join("|"))
                });
                rows.expect("rows").map(|row| row.expect("a row")).collect()
            }
            Place::Postgres(server) => {
                // An array keeps the order of columns.
                let sql = format!(
                    "SELECT (SELECT coalesce(json_agg(value), '[]')::text FROM json_each(row_to_json(asked))) FROM ({sql}) AS asked"
                );
                let rows = Place::client(server).query(&sql, &[]).expect(&sql);
                let cell = |value: &Value| match value {
                    Value::Null => "-".to_owned(),
                    Value::String(text) => text.clone(),
                    other => other.to_string(),
                };
                let cells = |text: &str| serde_json::from_str::<Vec<Value>>(text).expect("JSON");
                rows.iter().map(|row| cells(row.get(0)).iter().map(cell).collect::<Vec<_>>().join("|")).collect()
            }
        }
    }
}

fn address(server: &Postgres) -> Address {
    Address::parse(&server.url(), None).expect("a URL")
}

fn log(folder: &Path) -> Log {
    Log::open(folder, Limits { segment_bytes: 3000 }).expect("a log")
}

/// A story of one model, from the first push to a step back.
fn story() -> Vec<(&'static str, Value)> {
    [versions(), promotion()].concat()
}

fn fact(by: &str, says: Value) -> Value {
    json!({"by": {"name": by, "roles": ["approver"], "how": "key"}, "says": says})
}

fn versions() -> Vec<(&'static str, Value)> {
    let content = |artifact: &str| {
        json!({"artifact": artifact, "description": "first", "tags": {"team": "risk", "stage": "new"},
               "files": [{"path": "model.onnx", "size": 12, "sha256": "ff"}, {"path": "golden/a.json", "size": 3, "sha256": "ee"}],
               "metrics": [{"key": {"dataset": "d1", "metric": "auc"}, "value": 0.5}], "lineage": {}, "source": "pushed"})
    };
    vec![
        ("model.version", fact("ann", json!({"model": "risk", "version": 1, "content": content("aa")}))),
        ("model.set", fact("ann", json!({"model": "risk", "owner": "bea", "risk": "high"}))),
        ("model.set", fact("ann", json!({"model": "risk", "description": "who pays back"}))),
        ("model.version", fact("ann", json!({"model": "risk", "version": 2, "content": content("bb")}))),
        (
            "model.tags",
            fact(
                "ann",
                json!({"model": "risk", "version": 1, "set": {"stage": "old", "x": "\u{fc}"}, "unset": ["team"]}),
            ),
        ),
        (
            "model.metrics",
            fact(
                "cli",
                json!({"model": "risk", "version": 1, "metrics": [
                {"key": {"dataset": "d1", "metric": "auc"}, "value": 0.75, "interval": [0.5, 1.0], "evaluator": "backtest"},
                {"key": {"dataset": "d1", "slice": "new", "metric": "auc"}, "value": 0.25}]}),
            ),
        ),
        ("model.alias", fact("ann", json!({"model": "risk", "alias": "champion", "version": 1}))),
        ("model.alias", fact("ann", json!({"model": "risk", "alias": "gone", "version": 1}))),
        ("model.alias", fact("ann", json!({"model": "risk", "alias": "champion", "version": 2}))),
        ("model.alias", fact("ann", json!({"model": "risk", "alias": "gone", "version": null}))),
        (
            "model.described",
            fact("ann", json!({"model": "risk", "version": 2, "description": "second", "review_ms": 5})),
        ),
        ("model.state", fact("ann", json!({"model": "risk", "version": 1, "state": "archived"}))),
        ("model.state", fact("ann", json!({"model": "risk", "version": 1, "state": "quarantined"}))),
        ("model.state", fact("adm", json!({"model": "risk", "version": 1, "state": "ready"}))),
    ]
}

fn promotion() -> Vec<(&'static str, Value)> {
    let bound = json!({"artifact": "aa", "card": "cc", "policy": "pp"});
    vec![
        ("environment.set", fact("adm", json!({"environment": "prod", "rank": 40, "policy": {}}))),
        (
            "approval.requested",
            fact("ann", json!({"request": "q1", "model": "risk", "version": 2, "environment": "prod", "bound": bound})),
        ),
        (
            "approval.approved",
            fact(
                "bea",
                json!({"request": "q1", "bound": bound, "comment": "fine", "seal": {"key": "k", "signature": "s"}}),
            ),
        ),
        ("approval.approved", fact("cleo", json!({"request": "q1", "bound": bound, "expires_ms": 9}))),
        ("approval.revoked", fact("cleo", json!({"request": "q1", "approver": "cleo", "reason": "no"}))),
        (
            "promotion.begun",
            fact(
                "ann",
                json!({"promotion": "p1", "model": "risk", "version": 2, "environment": "prod", "from": 1,
                               "request": "q1", "rollout": {"id": "r1", "way": "full"}, "bound": bound}),
            ),
        ),
        ("rollout.plan", json!({"rollout": "r1", "plan": {"endpoint": "risk"}})),
        (
            "endpoint.plan",
            fact(
                "ann",
                json!({"endpoint": "risk", "revision": 1, "cause": "applied", "arms": [
            {"name": "a", "model": "risk", "version": 1, "role": "champion", "weight": 900_000},
            {"name": "b", "model": "risk", "version": 2, "role": "challenger", "weight": 100_000}]}),
            ),
        ),
        (
            "rollout.event",
            json!({"rollout": "r1", "event": {"tick": 1}, "verdict": {"sequence": 1, "decision": "advance",
            "state": {"running": {"canary": 0}}, "share": 100_000, "reasons": []}}),
        ),
        ("promotion.ended", fact("server", json!({"promotion": "p1", "outcome": "promoted", "verdict": 23}))),
        (
            "endpoint.plan",
            fact("server", json!({"endpoint": "risk", "revision": 2, "cause": "rollout", "rollout": "r1", "arms": []})),
        ),
        (
            "environment.rolled_back",
            fact("ann", json!({"environment": "prod", "model": "risk", "from": 2, "to": 1, "reason": "slow"})),
        ),
    ]
}

fn write(log: &Log, facts: &[(&'static str, Value)]) {
    let from = log.head().sequence;
    let tickets: Vec<_> =
        (from + 1..).zip(facts).map(|(n, (kind, data))| log.append(T0 + n, kind, data).expect("in line")).collect();
    tickets.iter().for_each(|ticket| log.wait(ticket).expect("it is written"));
}

#[test]
fn the_views_say_what_the_facts_come_to() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = log(folder.path());
    write(&log, &story());
    for place in Place::all() {
        let mut tables = place.tables();
        assert_eq!(tables.follow(&log).expect("it follows"), 26);
        assert_eq!(tables.applied(), log.head());
        let check = |sql: &str, expected: &[&str]| assert_eq!(place.ask(sql), expected, "{sql}");
        check(
            "SELECT name, owner, description, task, risk, newest_version, seq FROM models",
            &["risk|bea|who pays back|-|high|2|1"],
        );
        check(
            "SELECT version, artifact, state, description, review_ms, author, time_ms, seq FROM versions ORDER BY seq",
            &["1|aa|archived|first|-|ann|1700000000001|1", "2|bb|ready|second|5|ann|1700000000004|4"],
        );
        check(
            "SELECT path, size, sha256, seq FROM version_files WHERE version = 2 ORDER BY path",
            &["golden/a.json|3|ee|4", "model.onnx|12|ff|4"],
        );
        check(
            "SELECT tag, value, seq FROM version_tags WHERE version = 1 ORDER BY tag",
            &["stage|old|5", "x|\u{fc}|5"],
        );
        check(
            "SELECT dataset, slice, metric, value, low, high, evaluator, seq FROM version_metrics WHERE version = 1 ORDER BY slice",
            &["d1||auc|0.75|0.5|1|backtest|6", "d1|new|auc|0.25|-|-||6"],
        );
        check("SELECT alias, version, seq FROM aliases", &["champion|2|9"]);
        check(
            "SELECT name, rank, policy, seq FROM environments ORDER BY rank",
            &["dev|10|{}|0", "staging|20|{}|0", "prod|40|{}|15"],
        );
        check(
            "SELECT request, version, environment, artifact, ended, author, seq FROM requests",
            &["q1|2|prod|aa|promoted|ann|16"],
        );
        check(
            "SELECT approver, how, artifact, comment, expires_ms, sealed_by, revoked_seq, seq FROM approvals ORDER BY seq",
            &["bea|key|aa|fine|-|k|-|17", "cleo|key|aa||9|-|19|18"],
        );
        check(
            "SELECT promotion, version, from_version, request, rollout, outcome, ended_seq, seq FROM promotions",
            &["p1|2|1|q1|r1|promoted|24|20"],
        );
        check(
            "SELECT environment, version, cause, seq FROM environment_moves ORDER BY seq",
            &["prod|2|promoted|24", "prod|1|rolled_back|26"],
        );
        check("SELECT environment, version, cause, seq FROM environment_versions", &["prod|1|rolled_back|26"]);
        check(
            "SELECT revision, cause, rollout, until_ms, seq FROM endpoint_plans ORDER BY seq",
            &["1|applied|-|1700000000025|22", "2|rollout|r1|-|25"],
        );
        check(
            "SELECT arm, role, version, weight FROM endpoint_arms ORDER BY arm",
            &["a|champion|1|900000", "b|challenger|2|100000"],
        );
        check("SELECT rollout, number, decision, share, reasons, seq FROM verdicts", &["r1|1|advance|100000|[]|23"]);
        check("SELECT rollout, endpoint, verdicts, seq FROM rollouts", &["r1|risk|1|21"]);
        check(
            "SELECT kind, count(*) FROM entries WHERE model = 'risk' AND version = 1 GROUP BY kind ORDER BY kind",
            &["model.alias|2", "model.metrics|1", "model.state|3", "model.tags|1", "model.version|1"],
        );
    }
}

#[test]
fn they_go_on_where_they_were_and_begin_anew_where_the_log_is_another() {
    for place in Place::all() {
        let (one, two) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let first = log(one.path());
        let mut tables = place.tables();
        assert_eq!(tables.follow(&first).expect("nothing is there"), 0);
        write(&first, &story()[..10]);
        assert_eq!(tables.follow(&first).expect("it follows"), 10);
        write(&first, &story()[10..]);
        drop(tables);
        let mut tables = place.tables();
        assert_eq!((tables.applied().sequence, tables.follow(&first).expect("it follows")), (10, 16));
        assert_eq!(tables.follow(&first).expect("nothing is new"), 0);
        assert_eq!(tables.rebuilt(), 0);

        // Another log: of as many entries, of fewer, of none.
        for (count, name) in [(26, "other"), (3, "third"), (0, "")] {
            let folder = two.path().join(count.to_string());
            let other = log(&folder);
            let facts: Vec<_> = (0..count)
                .map(|n| ("model.set", json!({"by": {"name": "x"}, "says": {"model": name, "owner": n}})))
                .collect();
            write(&other, &facts);
            let mut tables = place.tables();
            assert_eq!(tables.follow(&other).expect("it begins anew"), count);
            assert_eq!((tables.rebuilt(), tables.applied()), (1, other.head()));
            let expected = if count == 0 { vec![] } else { vec![name.to_owned()] };
            assert_eq!(place.ask("SELECT name FROM models"), expected);
        }
        let mut tables = place.tables();
        tables.rebuild(&first).expect("it is made anew");
        assert_eq!(place.ask("SELECT count(*) FROM entries"), ["26"]);
    }
}

#[test]
fn two_who_follow_at_once_have_each_entry_once() {
    for place in Place::all() {
        let folder = tempfile::tempdir().expect("a folder");
        let log = log(folder.path());
        let facts: Vec<_> = (0..3000).map(|n| ("test.entry", json!(n))).collect();
        write(&log, &facts);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut tables = place.tables();
                    while tables.applied() != log.head() {
                        tables.follow(&log).expect("it follows");
                    }
                });
            }
        });
        assert_eq!(place.ask("SELECT count(*), min(seq), max(seq) FROM entries"), ["3000|1|3000"]);
        assert_eq!(place.tables().applied(), log.head());
    }
}

/// Who leads holds a lock of the same database for as long as it lives.
#[test]
fn they_follow_whoever_leads() {
    let Some(server) = Postgres::start() else { return };
    let log = Log::connect(&address(&server)).expect("a log");
    assert_eq!(log.remote().expect("a database").leads().expect("it answers"), Some(1));
    log.record(T0, "test", &json!({"n": 1})).expect("it is written");
    let impatient = address(&server).patience(Duration::from_millis(500));
    let mut tables = Tables::postgres(&impatient).expect("nobody holds them back");
    assert_eq!(tables.follow(&log).expect("it answers"), 1);
}

/// Nothing that stands in a log keeps the rest of it from being asked.
#[test]
fn odd_data_does_not_stop_anybody() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = log(folder.path());
    let raw = |text: String| serde_json::value::RawValue::from_string(text).expect("JSON");
    let odd = [
        raw(r#"{"says":{"model":"a\u0000b"}}"#.into()),
        raw(r#"{"says":"\ud800"}"#.into()),
        raw(format!("{}1{}", "[".repeat(5000), "]".repeat(5000))),
        raw("1e999999".into()),
        raw(r#"{"says":{"model":"risk","version":1e300,"set":[],"unset":{},"arms":1,"metrics":"x"}}"#.into()),
    ];
    for kind in ["model.tags", "test.odd", "model.metrics", "endpoint.plan"] {
        odd.iter().for_each(|data| assert!(log.record(T0, kind, data).expect("it is written") > 0));
    }
    write(&log, &story());
    let views = [
        "models",
        "versions",
        "version_files",
        "version_tags",
        "version_metrics",
        "aliases",
        "environments",
        "environment_moves",
        "environment_versions",
        "requests",
        "approvals",
        "promotions",
        "endpoint_plans",
        "endpoint_arms",
        "verdicts",
        "rollouts",
    ];
    for place in Place::all() {
        place.tables().follow(&log).expect("it follows");
        for view in views {
            place.ask(&format!("SELECT * FROM {view}"));
        }
        assert_eq!(place.ask("SELECT count(*) FROM entries"), ["46"]);
        assert_eq!(
            place.ask("SELECT tag FROM version_tags WHERE model = 'risk' AND version = 1 ORDER BY tag"),
            ["stage", "x"]
        );
    }
}

#[test]
fn tables_of_another_program_are_made_anew_or_refused() {
    for place in Place::all() {
        let folder = tempfile::tempdir().expect("a folder");
        let log = log(folder.path());
        write(&log, &story());
        place.tables().follow(&log).expect("it follows");
        // An older one had another table.
        place.run("UPDATE applied SET schema_version = 0; CREATE TABLE older (x BIGINT)");
        let mut tables = place.tables();
        assert_eq!((tables.applied().sequence, tables.follow(&log).expect("it follows")), (0, 26));
        assert_eq!(place.ask("SELECT count(*) FROM versions"), ["2"]);
        place.run("UPDATE applied SET schema_version = 99");
        let error = place.open().expect_err("a newer one").to_string();
        assert!(
            error.contains("have the schema 99, and this program knows") && error.contains("made anew from the log"),
            "{error}"
        );
    }
}

#[test]
fn a_file_that_is_no_database_any_more_is_made_anew() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = log(folder.path());
    write(&log, &story());
    let place = Place::Sqlite(tempfile::tempdir().expect("a folder"));
    place.tables().follow(&log).expect("it follows");
    let Place::Sqlite(at) = &place else { unreachable!() };
    fs::write(at.path().join("registry.db"), "not a database ".repeat(1000)).expect("written");
    let mut tables = place.tables();
    assert_eq!(tables.follow(&log).expect("it follows"), 26);
    assert_eq!(place.ask("SELECT count(*) FROM versions"), ["2"]);
}

/// Xorshift.
fn below(random: &mut u64, bound: u64) -> u64 {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    *random % bound
}

/// Any order, sensible or not.
fn any_order(random: &mut u64) -> Value {
    let model = ["risk", "fraud"][below(random, 2) as usize];
    let (version, figure) = (1 + below(random, 4), below(random, 100) as f64 / 100.0);
    let environment = ["dev", "staging", "prod", "lab"][below(random, 4) as usize];
    let id = |random: &mut u64, of: &str| format!("{of}{}", below(random, 12));
    let hex = |byte: u64| format!("{byte:02x}").repeat(32);
    let slice = ["", "new"][below(random, 2) as usize];
    let metric = json!({"key": {"dataset": "d1", "slice": slice, "metric": "auc"}, "value": figure});
    match below(random, 17) {
        0..=1 => {
            let files = json!([{"path": "model.onnx", "size": 7, "sha256": hex(version)}]);
            json!({"push": {"model": model, "content": {"artifact": hex(below(random, 9)), "files": files, "description": "pushed",
                "tags": {"team": model}, "metrics": [metric], "source": "pushed"}}})
        }
        2 => json!({"model": {"model": model, "owner": id(random, "o"), "description": id(random, "d")}}),
        3 => json!({"model": {"model": model, "task": "classification", "risk": "high"}}),
        4 => json!({"tags": {"model": model, "version": version, "set": {"team": id(random, "t"), "x": "y"}}}),
        5 => json!({"tags": {"model": model, "version": version, "unset": ["team"]}}),
        6 => json!({"measure": {"model": model, "version": version, "metrics": [metric]}}),
        7 => json!({"alias": {"model": model, "alias": id(random, "a"), "version": version}}),
        8 => json!({"alias": {"model": model, "alias": id(random, "a"), "version": null}}),
        9 => {
            json!({"describe": {"model": model, "version": version, "description": id(random, "d"), "review_ms": below(random, 9)}})
        }
        10 => {
            let state = ["archived", "quarantined", "ready", "ready"][below(random, 4) as usize];
            json!({"state": {"model": model, "version": version, "state": state, "reason": "why"}})
        }
        11 => {
            json!({"environment": {"environment": environment, "rank": 10 * (1 + below(random, 4)), "policy": {"golden_min": below(random, 2)}}})
        }
        12 => {
            json!({"request": {"id": id(random, "q"), "model": model, "version": version, "environment": environment}})
        }
        13 => {
            let answer = ["reject", "withdraw", "approve"][below(random, 3) as usize];
            let mut said = json!({"request": id(random, "q")});
            if answer != "approve" {
                said["reason"] = "why".into();
            }
            json!({answer: said})
        }
        14 => json!({"promote": {"id": id(random, "p"), "model": model, "version": version, "environment": environment,
            "overriding": (below(random, 2) == 0).then_some("at once")}}),
        15 => json!({"promote": {"id": id(random, "p"), "model": model, "version": version, "environment": environment,
            "rollout": {"id": id(random, "r"), "way": "canary"}, "overriding": "at once"}}),
        _ => match below(random, 2) {
            0 => {
                let outcome = ["promoted", "rolled_back", "aborted"][below(random, 3) as usize];
                json!({"end": {"promotion": id(random, "p"), "outcome": outcome, "reason": "so"}})
            }
            _ => json!({"go_back": {"environment": environment, "model": model, "reason": "slow"}}),
        },
    }
}

/// What the book says, in the form in which the views are asked for it.
fn versions_by_book(book: &Book) -> Vec<(&'static str, Vec<String>)> {
    let versions = || book.models().flat_map(|model| &model.versions);
    vec![
        (
            "SELECT name, owner, coalesce(description, ''), coalesce(task, ''), coalesce(risk, ''), seq FROM models",
            book.models()
                .map(|m| {
                    format!("{}|{}|{}|{}|{}|{}", m.name, m.owner, m.description, m.task, m.risk, m.created.sequence)
                })
                .collect(),
        ),
        (
            "SELECT model, version, artifact, state, description, author, seq FROM versions",
            versions()
                .map(|v| {
                    format!(
                        "{}|{}|{}|{}|{}|{}|{}",
                        v.model,
                        v.number,
                        v.artifact,
                        v.state.name(),
                        v.description,
                        v.pushed.by,
                        v.pushed.sequence
                    )
                })
                .collect(),
        ),
        (
            "SELECT model, version, tag, value FROM version_tags",
            versions()
                .flat_map(|v| v.tags.iter().map(|(tag, value)| format!("{}|{}|{tag}|{value}", v.model, v.number)))
                .collect(),
        ),
        (
            "SELECT model, version, dataset, slice, metric, value, seq FROM version_metrics",
            versions()
                .flat_map(|v| {
                    v.metrics.iter().map(|m| {
                        let key = &m.metric.key;
                        format!(
                            "{}|{}|{}|{}|{}|{}|{}",
                            v.model, v.number, key.dataset, key.slice, key.metric, m.metric.value, m.at.sequence
                        )
                    })
                })
                .collect(),
        ),
    ]
}

fn places_by_book(book: &Book) -> Vec<(&'static str, Vec<String>)> {
    let word = |state: RequestState| serde_json::to_value(state).expect("a word").as_str().expect("a word").to_owned();
    let end = |promotion: &Promotion| promotion.end.as_ref().map_or("under_way", |end| end.outcome.name());
    let positions = || {
        let at = |environment: &Environment| {
            let at = |model: &Model| {
                environment.current(&model.name).map(|at| format!("{}|{}|{}", environment.name, model.name, at.version))
            };
            book.models().filter_map(at).collect::<Vec<_>>()
        };
        book.environments().flat_map(at).collect()
    };
    vec![
        (
            "SELECT model, alias, version, seq FROM aliases",
            book.models()
                .flat_map(|m| {
                    m.aliases
                        .iter()
                        .map(|(alias, at)| format!("{}|{alias}|{}|{}", m.name, at.version, at.since.sequence))
                })
                .collect(),
        ),
        (
            "SELECT name, rank FROM environments",
            book.environments().map(|e| format!("{}|{}", e.name, e.rank)).collect(),
        ),
        ("SELECT environment, model, version FROM environment_versions", positions()),
        (
            "SELECT promotion, environment, model, version, outcome, seq FROM promotions",
            book.promotions()
                .map(|p| {
                    format!("{}|{}|{}|{}|{}|{}", p.id, p.environment, p.model, p.version, end(p), p.begun.sequence)
                })
                .collect(),
        ),
        (
            "SELECT request, model, version, environment, ended, seq FROM requests",
            book.requests()
                .map(|r| {
                    let ended = r.end.as_ref().map_or("-".to_owned(), |end| word(end.state));
                    format!("{}|{}|{}|{}|{ended}|{}", r.id, r.model, r.version, r.environment, r.asked.sequence)
                })
                .collect(),
        ),
    ]
}

/// Some hundred orders, drawn by lot: what the book, which is another program over the same facts, says of them, the views say.
#[test]
fn the_views_agree_with_the_book() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = log(folder.path());
    let admin = |name: &str| Principal { name: name.into(), roles: vec!["admin".into()], how: How::Key };
    let (mut book, mut random, mut kinds) = (Book::default(), 0x7461_626c_6573_u64, BTreeSet::new());
    for n in 0..2000 {
        let order = any_order(&mut random);
        let wants: Wants = serde_json::from_value(order.clone()).unwrap_or_else(|error| panic!("{error}: {order}"));
        let by = admin(["ann", "bea"][below(&mut random, 2) as usize]);
        let Ok(decided) = book.decide(wants.into(), &by, T0 + n) else { continue };
        for fact in &decided.facts {
            kinds.insert(fact.kind());
            let sequence = log.record(T0 + n, fact.kind(), fact).expect("it is written");
            let entry = log.entries(sequence).expect("it is there").next().expect("one").expect("it is whole");
            book.take(&entry).expect("it is taken");
        }
    }
    assert!(log.head().sequence > 300 && kinds.len() >= 14, "{} {kinds:?}", log.head().sequence);
    for place in Place::all() {
        place.tables().follow(&log).expect("it follows");
        for (sql, mut expected) in [versions_by_book(&book), places_by_book(&book)].concat() {
            let mut found = place.ask(sql);
            assert!(!expected.is_empty(), "{sql}: it shows something");
            found.sort();
            expected.sort();
            assert_eq!(found, expected, "{sql}");
        }
    }
}
