//! Does a program that shares no code with the judge find the same verdicts, whatever a rollout is told?
//!
//! Rollouts of all kinds, each from a seed, go through the judge and are written as `docs/log.md` has it. `verify.py` must
//! find every verdict again, and whatever somebody changes of one. The logs stay in `target/tmp/independent`, for who wants to
//! look at them.

mod random;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};
use tiltyard_rollout::verify::{Record, verify};
use tiltyard_types::Digest;

use random::Lot;

/// Rollouts that are played at each run of the tests, and by name: `cargo test … --test independent -- --ignored`.
const SOME: u64 = 150;
const MANY: u64 = 1_000;

/// A log, as `docs/log.md` describes it.
struct Log {
    text: String,
    entries: u64,
    before: String,
}

impl Log {
    fn new() -> Log {
        Log { text: String::new(), entries: 0, before: "0".repeat(64) }
    }

    fn add(&mut self, time_ms: u64, kind: &str, data: &str) {
        self.entries += 1;
        let (sequence, before) = (self.entries, &self.before);
        let body = format!(
            "\"prev\":\"{before}\",\"seq\":{sequence},\"time_ms\":{time_ms},\"kind\":\"{kind}\",\"data\":{data}}}"
        );
        self.before = Digest::new(Sha256::digest(&body).into()).to_string();
        self.text += &format!("{{\"hash\":\"{}\",{body}\n", self.before);
    }

    /// A whole rollout.
    fn tell(&mut self, id: &str, record: &Record) {
        let plan = record.plan.canonical();
        // As if a file had declared it.
        let declared = if plan.len().is_multiple_of(2) {
            format!(",\"declared\":\"{}\"", record.plan.digest())
        } else {
            String::new()
        };
        self.add(0, "rollout.plan", &format!("{{\"rollout\":\"{id}\",\"plan\":{plan}{declared}}}"));
        for entry in &record.entries {
            let event = serde_json::to_string(&entry.event).expect("it is JSON");
            let verdict = entry.verdict.get();
            let data = format!("{{\"rollout\":\"{id}\",\"event\":{event},\"verdict\":{verdict}}}");
            self.add(entry.event.time_ms(), "rollout.event", &data);
        }
    }

    fn save(&self, name: &str) -> PathBuf {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("independent").join(name);
        fs::create_dir_all(&folder).expect("a folder");
        fs::write(folder.join(format!("{:020}.jsonl", 1)), &self.text).expect("a segment");
        folder
    }
}

/// What the other program says of these logs, and whether all of them follow.
fn independent(folders: &[PathBuf]) -> (bool, String) {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("verify.py");
    let output = Command::new("python3").arg(program).args(folders).output().expect("python3 runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.is_empty(), "{errors}");
    (output.status.success(), String::from_utf8(output.stdout).expect("it is text"))
}

/// Every decision in a record, each with its reasons, and where it was taken if that is in the shadow.
fn words(record: &Record) -> BTreeSet<String> {
    let (mut words, mut is_shadow) = (BTreeSet::new(), false);
    for entry in &record.entries {
        let verdict: Value = serde_json::from_str(entry.verdict.get()).expect("it is JSON");
        let place = if is_shadow { "shadow: " } else { "" };
        is_shadow = verdict["state"]["running"] == "shadow";
        let decision = verdict["decision"].as_str().unwrap_or_default();
        for reason in verdict["reasons"].as_array().into_iter().flatten() {
            words.insert(format!("{place}{decision} {}", reason["reason"].as_str().unwrap_or_default()));
        }
    }
    words
}

#[test]
fn another_program_finds_every_verdict() {
    finds(SOME, "some");
}

#[test]
#[ignore = "takes minutes"]
fn another_program_finds_every_verdict_of_many() {
    finds(MANY, "many");
}

fn finds(rollouts: u64, name: &str) {
    let (mut log, mut told, mut rows, mut verdicts) = (Log::new(), BTreeSet::new(), Vec::new(), 0);
    for seed in 0..rollouts {
        let (id, record) = (format!("r{seed}"), random::rollout(seed));
        log.tell(&id, &record);
        told.append(&mut words(&record));
        verdicts += record.entries.len();
        let state = verify(&record).expect("it is proved").state();
        rows.push(format!("{id} risk 1 {state} {}", record.entries.len()));
    }
    let folder = log.save(name);
    let expected = [
        "advance time",
        "futile primary",
        "halt invalid",
        "halt label_arrival",
        "halt output",
        "halt sample_ratio",
        "halt slices",
        "halt trip",
        "inconclusive gate",
        "inconclusive guardrail",
        "inconclusive pairs_refused",
        "inconclusive primary",
        "inconclusive time",
        "inconclusive units",
        "not_yet drops",
        "not_yet gate",
        "not_yet guardrail",
        "not_yet pairs_refused",
        "not_yet primary",
        "not_yet time",
        "not_yet trip",
        "not_yet units",
        "obey person",
        "promote guardrail",
        "promote primary",
        "roll_back guardrail",
        "roll_back output",
        "roll_back primary",
        "roll_back regression",
        "roll_back trip",
        "shadow: advance comparison",
        "shadow: advance primary",
        "shadow: futile primary",
        "shadow: halt label_arrival",
        "shadow: halt trip",
        "shadow: inconclusive comparison",
        "shadow: inconclusive gate",
        "shadow: not_yet comparison",
        "shadow: not_yet drops",
        "shadow: not_yet gate",
        "shadow: not_yet primary",
        "shadow: not_yet time",
        "shadow: not_yet trip",
        "shadow: obey person",
        "shadow: roll_back primary",
        "shadow: roll_back trip",
    ];
    let missing: Vec<_> = expected.iter().filter(|word| !told.contains(**word)).collect();
    assert!(missing.is_empty(), "of what these rollouts are about {missing:?} is missing");
    let (is_good, text) = independent(&[folder]);
    assert!(is_good && text.contains(&format!("\n{verdicts} verdicts are identical, ")), "{text}");
    let found: Vec<_> = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(rows.iter().filter(|row| !found.contains(row)).collect::<Vec<_>>(), [] as [&String; 0], "{text}");
}

/// Where the leaves of a value are, as JSON pointers.
fn leaves(value: &Value, at: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(key, value)| leaves(value, &format!("{at}/{key}"), found)),
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(key, value)| leaves(value, &format!("{at}/{key}"), found));
        }
        _ => found.push(at.to_owned()),
    }
}

/// Changes one value, numbers by a millionth or by one.
fn change(verdict: &mut Value, lot: &mut Lot) -> String {
    let mut found = Vec::new();
    leaves(verdict, "", &mut found);
    let at = found.swap_remove(lot.below(found.len() as u64) as usize);
    let value = verdict.pointer_mut(&at).expect("it was found there");
    *value = match &*value {
        Value::Null => 0.5.into(),
        Value::Bool(is) => (!is).into(),
        Value::String(text) => format!("{text}x").into(),
        Value::Number(number) => match (number.as_u64(), number.as_f64()) {
            (Some(count), _) => (count + 1).into(),
            (None, figure) => figure.map(|figure| figure + 1e-6 * figure.abs().max(1.0)).into(),
        },
        Value::Array(_) | Value::Object(_) => unreachable!("no leaf"),
    };
    at
}

#[test]
fn whatever_is_changed_of_a_verdict_is_found() {
    let (mut folders, mut expected) = (Vec::new(), Vec::new());
    for seed in 0..40 {
        let (mut record, mut lot, mut log) = (random::rollout(seed), Lot::new(seed + 1_000), Log::new());
        let at = lot.below(record.entries.len() as u64) as usize;
        let mut verdict: Value = serde_json::from_str(record.entries[at].verdict.get()).expect("it is JSON");
        let changed = change(&mut verdict, &mut lot);
        record.entries[at].verdict = RawValue::from_string(verdict.to_string()).expect("it is JSON");
        assert!(verify(&record).is_err());
        log.tell("r", &record);
        folders.push(log.save(&format!("changed-{seed}")));
        expected.push((format!("line {}, entry {}: rollout r, verdict {}: ", at + 2, at + 2, at + 1), changed));
    }
    let (is_good, text) = independent(&folders);
    let found: Vec<_> = text.lines().filter(|line| line.starts_with("DIFFERENT: ")).collect();
    assert!(!is_good && found.len() == expected.len(), "{} are found", found.len());
    for ((place, changed), found) in expected.iter().zip(found) {
        assert!(found.contains(place), "{place}, where {changed} is changed: {found}");
    }
}
