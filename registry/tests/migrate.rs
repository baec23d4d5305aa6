//! Is a log the same to the byte when it has come from a folder into a database, and back?
#![cfg(feature = "sql")]

mod postgres;

use std::fs;
use std::path::Path;

use postgres::Postgres;
use serde_json::json;
use tempfile::TempDir;
use tiltyard_registry::{Address, Limits, Log, migrate};

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

fn open(folder: &TempDir) -> Log {
    Log::open(folder.path(), Limits { segment_bytes: 2000 }).expect("a log")
}

fn fill(log: &Log, count: u64) {
    for n in 0..count {
        let said = json!({ "n": n, "text": "quote \" back \\ feed \n \u{0}\u{fc}", "x": 0.1 });
        log.record(1_700_000_000_000 + n, "test.entry", &said).expect("it is written");
    }
}

fn bytes(folder: &Path) -> Vec<u8> {
    let mut paths: Vec<_> =
        fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    let lines = paths.iter().filter(|path| path.extension().is_some_and(|end| end == "jsonl"));
    lines.flat_map(|path| fs::read(path).expect("a segment")).collect()
}

/// Copies into `to`, is interrupted and goes on, does nothing when all is there, and refuses another log.
fn check(from: &Log, to: &Log) {
    let first = migrate(from, to).expect("it is copied");
    assert_eq!((first.there, first.copied, first.head), (0, 30, from.head()));
    let again = migrate(from, to).expect("nothing is to be done");
    assert_eq!((again.there, again.copied, again.root), (30, 0, first.root));
    fill(from, 5);
    let more = migrate(from, to).expect("it goes on");
    assert_eq!((more.there, more.copied, more.head), (30, 5, from.head()));
    let other = folder();
    let other = open(&other);
    fill(&other, 3);
    other.record(0, "test.other", &1).expect("it is written");
    let error = migrate(&other, to).expect_err("it holds another log").to_string();
    assert!(error.contains("holds another one: its entry 5 is not"), "{error}");
    fill(&other, 40);
    let error = migrate(&other, to).expect_err("it holds another log").to_string();
    assert!(error.contains("holds another one: its entry 4 is not"), "{error}");
}

#[test]
fn from_a_folder_into_another() {
    let (one, two) = (folder(), folder());
    let from = open(&one);
    fill(&from, 30);
    check(&from, &open(&two));
    assert_eq!(bytes(one.path()), bytes(two.path()));
}

#[test]
fn from_a_folder_into_a_database_and_back() {
    let Some(server) = Postgres::start() else { return };
    let (one, two) = (folder(), folder());
    let from = open(&one);
    fill(&from, 30);
    let remote = Log::connect(&Address::parse(&server.url(), None).expect("a URL")).expect("a log");
    check(&from, &remote);
    // Another process has read nothing yet, and finds the same.
    let remote = Log::connect(&Address::parse(&server.url(), None).expect("a URL")).expect("a log");
    let back = migrate(&remote, &open(&two)).expect("it comes back");
    assert_eq!((back.copied, back.head), (35, from.head()));
    assert_eq!(bytes(one.path()), bytes(two.path()));
}

#[test]
fn of_nothing_comes_nothing() {
    let (one, two) = (folder(), folder());
    let done = migrate(&open(&one), &open(&two)).expect("it runs");
    assert_eq!((done.there, done.copied), (0, 0));
}
