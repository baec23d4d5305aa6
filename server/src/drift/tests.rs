//! Does a shift alert after two days, also over a restart, and does first traffic become a baseline? Time is the test's.

use std::path::Path;
use std::sync::Arc;

use tiltyard_drift::baseline::{Baseline, Builder, Role, Spec};
use tiltyard_drift::values::Values;
use tiltyard_types::{NamedTensor, Tensor};

use super::features::{Features, Side};
use super::watched::Watched;
use crate::config::DriftMode;

const HOUR_MS: u64 = 3_600_000;
const ROWS: usize = 400;

fn side(tensor: &str, columns: &[&str]) -> Side {
    Side { tensor: tensor.into(), columns: columns.iter().map(|&name| name.into()).collect(), projections: None }
}

fn features() -> Features {
    Features { inputs: vec![side("x", &["age", "income"])], outputs: vec![side("score", &["score"])] }
}

/// Rows of two columns, and a score of each; ages are `older` by so many years.
fn rows(count: usize, older: f32) -> (Vec<NamedTensor>, Vec<Tensor>) {
    let age = |row: usize| 20.0 + (row * 7 % 500) as f32 / 10.0 + older;
    let income = |row: usize| 1_000.0 + (row * 13 % 800) as f32;
    let values: Vec<f32> = (0..count).flat_map(|row| [age(row), income(row)]).collect();
    let scores: Vec<f32> = (0..count).map(|row| (row * 3 % 100) as f32 / 100.0).collect();
    let x = Tensor::from_slice([count, 2], &values).expect("rows");
    (vec![NamedTensor { name: "x".into(), tensor: x }], vec![Tensor::from_slice([count], &scores).expect("scores")])
}

fn baseline() -> Baseline {
    let (inputs, outputs) = rows(4_000, 0.0);
    let mut builder = Builder::new(4_000);
    let columns = [("age", Role::Input, &inputs[0].tensor, 0), ("income", Role::Input, &inputs[0].tensor, 1)];
    for (name, role, tensor, column) in columns.into_iter().chain([("score", Role::Output, &outputs[0], 0)]) {
        let values = Values::of(tensor, column).expect("a column");
        builder.add(Spec { name: name.into(), role, importance: 1.0 }, &[values]).expect("it fits");
    }
    builder.finish().expect("a baseline")
}

fn watched(folder: &Path, mode: DriftMode, now_ms: u64) -> Arc<Watched> {
    let whose = ("risk".to_owned(), 2, "artifact".to_owned());
    Arc::new(Watched::of(whose, folder.to_owned(), features(), 2, mode, now_ms))
}

fn serve(watched: &Arc<Watched>, older: f32, now_ms: u64) {
    let (inputs, outputs) = rows(ROWS, older);
    watched.count(None, &inputs, (&outputs, &[0]), now_ms);
    watched.keep(now_ms, false);
}

fn level(watched: &Watched, role: &str) -> String {
    watched.form(false)[role].as_str().expect("a level").to_owned()
}

#[test]
fn older_customers_alert_after_two_days_and_a_restart_between() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("baseline.json"), baseline().to_json()).expect("written");
    let mut it = watched(folder.path(), DriftMode::Baseline, 0);
    for hour in 0..24 {
        serve(&it, 0.0, hour * HOUR_MS);
    }
    assert_eq!((level(&it, "inputs"), level(&it, "outputs")), ("ok".into(), "ok".into()));
    for hour in 24..74 {
        if hour == 50 {
            it.keep(hour * HOUR_MS, true);
            it = watched(folder.path(), DriftMode::Baseline, hour * HOUR_MS);
        }
        serve(&it, 25.0, hour * HOUR_MS);
    }
    assert_eq!((level(&it, "inputs"), level(&it, "outputs")), ("alert".into(), "ok".into()));
    let form = it.form(false);
    let feature = |name: &str| {
        form["features"].as_array().and_then(|all| all.iter().find(|one| one["name"] == name)).expect(name).clone()
    };
    assert_eq!((feature("age")["level"].as_str(), feature("income")["level"].as_str()), (Some("alert"), Some("ok")));
    assert!(feature("age")["why"].as_str().is_some_and(|why| why.contains("age")), "{form}");
    let levels = it.levels().expect("figures");
    assert_eq!(
        (levels.roles, levels.features),
        ([("input", 2), ("output", 0)], [("ok", 2), ("warn", 0), ("alert", 1)])
    );
}

#[test]
fn first_traffic_of_a_day_becomes_a_provisional_baseline() {
    let folder = tempfile::tempdir().expect("a folder");
    let it = watched(folder.path(), DriftMode::Traffic, 0);
    for hour in 0..20 {
        for _ in 0..2 {
            serve(&it, 0.0, hour * HOUR_MS);
        }
    }
    assert_eq!(it.form(false)["state"], "gathering", "20,000 rows are wanted");
    it.keep(20 * HOUR_MS, true);
    drop(it);
    let it = watched(folder.path(), DriftMode::Traffic, 20 * HOUR_MS);
    assert_eq!(it.form(false)["wanted"]["rows"], 20_000 - 20 * 2 * ROWS as u64, "a restart loses nothing");
    for hour in 20..36 {
        for _ in 0..4 {
            serve(&it, 0.0, hour * HOUR_MS);
        }
    }
    it.keep(36 * HOUR_MS, false);
    let form = it.form(false);
    assert_eq!(
        (form["state"].as_str(), form["baseline"]["provisional"].as_bool()),
        (Some("watched"), Some(true)),
        "{form}"
    );
    assert!(folder.path().join("baseline.json").exists(), "the next process watches by it");
    assert!(!folder.path().join("first").exists());
}

#[test]
fn of_two_servers_one_keeps_its_counts() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("baseline.json"), baseline().to_json()).expect("written");
    let first = watched(folder.path(), DriftMode::Baseline, 0);
    let second = watched(folder.path(), DriftMode::Baseline, 0);
    serve(&first, 0.0, 0);
    (0..3).for_each(|_| serve(&second, 0.0, 0));
    second.keep(1_000, true);
    first.keep(2_000, true);
    second.keep(3_000, true);
    assert_eq!(second.form(false)["open_hour_rows"], 3 * ROWS as u64);
    drop((first, second));
    let next = watched(folder.path(), DriftMode::Baseline, 4_000);
    assert_eq!(next.form(false)["open_hour_rows"], ROWS as u64, "what the first had counted");
}

#[test]
fn what_cannot_be_written_is_no_reason_not_to_serve() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("it");
    std::fs::create_dir(&path).expect("a folder");
    std::fs::write(path.join("baseline.json"), baseline().to_json()).expect("written");
    let it = watched(&path, DriftMode::Baseline, 0);
    std::fs::remove_dir_all(&path).expect("gone");
    std::fs::write(&path, b"a file in the way").expect("written");
    serve(&it, 0.0, 0);
    it.keep(20_000, true);
    assert_eq!(it.form(false)["open_hour_rows"], ROWS as u64);
}
