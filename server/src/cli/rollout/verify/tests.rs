//! Does the command tell a log that is whole from one that is not?

use std::fs;

use tempfile::TempDir;
use tiltyard_registry::Limits;
use tiltyard_rollout::judge::{self, Event};

use super::*;
use crate::cli::rollout::plan::example;
use crate::rollouts::record::Record;

/// A log of one rollout that was begun and aborted, and its segment.
fn sample() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut record = Record::open(folder.path(), Limits::default()).expect("a log");
    record.start("r1", &example(), None, 5).expect("a good plan");
    for command in [judge::Command::Start, judge::Command::Abort] {
        record.feed("r1", Event::Command { time_ms: 5, by: "ada".into(), command }).expect("it is taken in");
    }
    let segment = folder.path().join("00000000000000000001.jsonl");
    (folder, segment)
}

fn read(path: &Path) -> Found {
    Found::read(path).expect("there is a log")
}

#[test]
fn a_whole_log_is_proved_as_a_folder_and_as_a_file() {
    let (folder, segment) = sample();
    for path in [folder.path(), &segment] {
        let found = read(path);
        let form = found.form();
        assert_eq!((&form["entries"], &form["head"]["sequence"], &form["fault"]), (&json!(3), &json!(3), &Value::Null));
        let rollout = &form["rollouts"][0];
        assert_eq!((&rollout["rollout"], &rollout["state"]), (&json!("r1"), &json!("aborted")));
        let listing = found.listing();
        assert!(listing.contains("r1       risk      1         aborted  2\n"), "{listing}");
        let hash = form["head"]["hash"].as_str().expect("a hash");
        assert!(
            listing.ends_with(&format!("3 entries and 2 verdicts are proved, to entry 3, hash {hash}.\n")),
            "{listing}"
        );
    }
}

#[test]
fn what_is_wrong_is_named_with_its_place() {
    let (folder, segment) = sample();
    let text = fs::read_to_string(&segment).expect("a segment");
    fs::write(&segment, text.replace("\"ada\"", "\"eve\"")).expect("a changed segment");
    let found = read(folder.path());
    let form = found.form();
    assert_eq!(form["fault"]["place"]["line"], 2, "{form}");
    assert_eq!(form["entries"], 1, "what came before is proved");
    assert!(found.fault.is_some_and(|fault| fault.message.contains("line 2, byte")));

    let second = text.lines().nth(1).expect("a line");
    fs::write(&segment, format!("{second}\n")).expect("a changed segment");
    let found = read(&segment);
    assert!(found.fault.is_some_and(|fault| fault.message.contains("no rollout r1 has begun")));

    fs::write(&segment, &text[..text.len() - 9]).expect("a torn segment");
    let found = read(folder.path());
    assert!(found.fault.is_none() && found.unfinished_bytes > 0);
    assert!(found.listing().contains("bytes of an entry that was never finished follow"));
}

#[test]
fn a_folder_without_a_log_proves_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let failure = Found::read(folder.path()).expect_err("it is empty");
    assert!(failure.to_string().contains("there is no log in"), "{failure}");
    let failure = Found::read(&folder.path().join("log")).expect_err("it is not there");
    assert!(failure.to_string().contains("cannot open"), "{failure}");
}
