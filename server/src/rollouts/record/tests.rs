//! Does a rollout go on after any end of its writer as if nothing had happened, and does the log prove how it went?

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;
use tiltyard_registry::{Entries, LINE_BYTES_MAX, verify};
use tiltyard_rollout::evidence::{Block, Events, Share};
use tiltyard_rollout::judge::{self, Decision, Stage, State, Trip};
use tiltyard_rollout::plan::{Arm, KeySource, Policy, Role, Step};

use super::*;

/// Names the folder to the process that a test starts of itself.
const CHILD: &str = "TILTYARD_TEST_RECORD";

const START_MS: u64 = 1_700_000_000_000;
const MINUTE_MS: u64 = 60_000;

/// Segments of a few entries each.
const SMALL: Limits = Limits { segment_bytes: 3_000 };

fn plan() -> Plan {
    let arm = |name: &str, version, role| Arm { name: name.into(), model: "risk".into(), version, digest: None, role };
    let step = |share| Step { share, min_time_ms: 10 * MINUTE_MS, min_units: 0, gates: Vec::new() };
    let challenger = Role::Challenger { weight: 0, final_weight: 500_000 };
    Plan {
        endpoint: "risk".into(),
        revision: 2,
        arms: vec![arm("champion", 1, Role::Champion), arm("challenger", 2, challenger)],
        key: KeySource::Header("x-user".into()),
        salt: "7f0c1d".into(),
        headers: Vec::new(),
        steps: [10_000, 100_000, 500_000].map(step).into(),
        policy: Policy { min_time_ms: 60 * MINUTE_MS, ..Policy::default() },
        watched: false,
    }
}

fn command(command: judge::Command) -> Event {
    Event::Command { time_ms: START_MS, by: "ada".into(), command }
}

/// What a healthy rollout is told next, by nothing but where it stands: whoever resumes says the same.
fn next(judge: &Judge) -> Event {
    match judge.state() {
        State::Running(Stage::Draft) => command(judge::Command::Start),
        State::Running(Stage::Validating) => Event::Validated { time_ms: START_MS, fault: None },
        State::Running(Stage::Shadow) => Event::Tick { time_ms: START_MS },
        _ => Event::Block(block(judge)),
    }
}

/// Five minutes of 100,000 requests, of which both arms fail 500 in a million.
fn block(judge: &Judge) -> Block {
    let share = Share::of(judge.share());
    let challengers = u64::from(share.challenger) / 10;
    let units = [100_000 - challengers, challengers];
    let sequence = judge.blocks() + 1;
    let mut block = Block::new(sequence, START_MS + sequence * 5 * MINUTE_MS, share);
    block.units = units;
    let events = units.map(|units| units * 500 / 1_000_000);
    block.events.insert("errors".into(), Events::Every { of: units, events });
    block
}

fn open(folder: &Path) -> Record {
    Record::open(folder, SMALL).expect("every verdict is proved")
}

/// Tells it what is next; the text of what it says.
fn step(record: &mut Record) -> String {
    let event = next(&record.rollouts().get("r1").expect("it has begun").judge);
    let verdict = record.feed("r1", event).expect("it is taken in");
    serde_json::to_string(&verdict).expect("it is JSON")
}

/// All that a rollout knows.
fn state(record: &Record) -> String {
    record.rollouts().get("r1").map_or_else(|error| error.to_string(), |rollout| format!("{rollout:?}"))
}

/// A rollout of so many events, and after each what was said and where it stood.
fn history(folder: &Path, events: usize) -> Vec<(String, String)> {
    let mut record = open(folder);
    let mut told = vec![(String::new(), state(&record))];
    record.start("r1", &plan(), None, START_MS).expect("a good plan");
    told.push((String::new(), state(&record)));
    for _ in 0..events {
        told.push((step(&mut record), state(&record)));
    }
    told
}

fn segments(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let mut found: Vec<_> = entries.filter(|path| path.extension().is_some_and(|end| end == "jsonl")).collect();
    found.sort();
    found
}

#[test]
fn a_rollout_is_promoted_and_its_record_proves_every_verdict() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut record = open(folder.path());
    record.start("r1", &plan(), None, START_MS).expect("a good plan");
    record.start("r2", &plan(), None, START_MS).expect("another");
    let mut last = String::new();
    while record.rollouts().get("r1").expect("it has begun").judge.state() != State::Promoted {
        last = step(&mut record);
        let judge = &record.rollouts().get("r2").expect("it has begun").judge;
        let event = if judge.blocks() < 8 { next(judge) } else { Event::Tick { time_ms: START_MS } };
        record.feed("r2", event).expect("it is taken in");
    }
    assert!(last.contains("\"promote\""), "{last}");
    let harm = Event::Trip { time_ms: START_MS, trip: Trip::Crash };
    let verdict = record.feed("r2", harm).expect("it is taken in");
    assert_eq!(verdict.decision, Decision::RollBack);
    assert!(segments(folder.path()).len() > 2);

    let before: Vec<_> = record.rollouts().iter().map(|found| format!("{found:?}")).collect();
    drop(record);
    let record = open(folder.path());
    assert_eq!(record.rollouts().iter().map(|found| format!("{found:?}")).collect::<Vec<_>>(), before);
    assert_eq!(record.rollouts().get("r2").expect("it is there").judge.state(), State::RolledBack);
}

#[test]
fn what_the_judge_refuses_is_not_on_the_record() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut record = open(folder.path());
    record.start("r1", &plan(), None, START_MS).expect("a good plan");
    let before = (state(&record), record.log().head());
    let no = |error: Error, expected: &str| assert!(error.message().contains(expected), "{error}");
    no(record.start("r1", &plan(), None, 0).expect_err("it has begun"), "rollout r1 has begun already");
    no(
        record.start("r2", &Plan { steps: Vec::new(), ..plan() }, None, 0).expect_err("no steps"),
        "the plan has no steps",
    );
    no(record.feed("r1", command(judge::Command::Resume)).expect_err("a draft").into(), "resume is not possible");
    no(record.feed("r3", command(judge::Command::Start)).expect_err("unknown").into(), "no rollout r3 has begun");
    // The judge takes it, and the log cannot.
    let wordy = Event::Command { time_ms: 0, by: "a".repeat(LINE_BYTES_MAX), command: judge::Command::Start };
    no(record.feed("r1", wordy).expect_err("too long").into(), "expected at most 16777216");
    assert_eq!((state(&record), record.log().head()), before);
    record.feed("r1", command(judge::Command::Start)).expect("and it goes on");
}

/// Everything that was promised is there, nothing else is, and the rest goes as it would have gone.
#[test]
fn wherever_the_log_ends_the_rollout_goes_on_the_same() {
    let folder = tempfile::tempdir().expect("a folder");
    let told = history(folder.path(), 14);
    let last = segments(folder.path()).pop().expect("a segment");
    let bytes = fs::read(&last).expect("a segment");
    let lines = |bytes: &[u8]| bytes.iter().filter(|&&byte| byte == b'\n').count();
    let whole = told.len() - 1 - lines(&bytes);
    // Every byte of the last entry, and places in those before it.
    let kept = bytes.split_inclusive(|&byte| byte == b'\n').rev().skip(1).map(<[u8]>::len).sum::<usize>();
    assert!(lines(&bytes) > 2, "a segment of several entries");
    for length in (0..kept).step_by(37).chain(kept..=bytes.len()) {
        let torn = tempfile::tempdir().expect("a folder");
        for path in segments(folder.path()) {
            fs::copy(&path, torn.path().join(path.file_name().expect("a name"))).expect("a copy");
        }
        let ended = segments(torn.path()).pop().expect("a segment");
        fs::write(&ended, &bytes[..length]).expect("a torn segment");
        let at = whole + lines(&bytes[..length]);
        let mut record = open(torn.path());
        assert_eq!(state(&record), told[at].1, "{length} bytes of the last segment");
        let is_torn = length > 0 && bytes[length - 1] != b'\n';
        assert_eq!(record.log().cut().is_some(), is_torn, "what is cut is told");
        // At some places only: each of these goes to the end.
        if length % 200 == 0 {
            for (said, stands) in &told[at + 1..] {
                assert_eq!((&step(&mut record), &state(&record)), (said, stands));
            }
        }
    }
}

#[test]
fn a_verdict_that_its_evidence_does_not_say_is_found() {
    let folder = tempfile::tempdir().expect("a folder");
    history(folder.path(), 6);
    let forge = |from: &str, to: &str| -> Result<()> {
        // Whoever forges hashes too: the chain is whole, and still the verdicts tell.
        let forged = TempDir::new().expect("a folder");
        let log = Log::open(forged.path(), SMALL).expect("a log");
        for entry in Entries::open(folder.path(), 1).expect("it is there") {
            let entry = entry.expect("it is whole");
            let data = entry.data.get().replacen(from, to, 1);
            let data: Box<RawValue> = RawValue::from_string(data).expect("it is JSON");
            log.record(entry.time_ms, &entry.kind, &data).expect("it is written");
        }
        drop(log);
        verify(forged.path()).expect("the chain is whole");
        Record::open(forged.path(), SMALL).map(drop)
    };
    forge("", "").expect("nothing is changed");
    let check = |from: &str, to: &str, expected: &str| {
        let error = forge(from, to).expect_err(expected);
        assert!(error.message().contains(expected), "{from}: {error}");
    };
    check("\"not_yet\"", "\"promote\"", "but its evidence says");
    check("\"units\":[99000,1000]", "\"units\":[1000,99000]", "entry 5: rollout r1: the verdict is recorded as");
    check("\"min_time_ms\":600000", "\"min_time_ms\":60000", "but its evidence says");
    check("\"rollout\":\"r1\",\"event\"", "\"rollout\":\"r2\",\"event\"", "no rollout r2 has begun");
    check(
        "\"sequence\":1,\"time_ms\":1700000300000",
        "\"sequence\":2,\"time_ms\":1700000300000",
        "block 2 is out of order",
    );
}

#[test]
fn kinds_of_rollouts_that_are_not_known_are_no_proof() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = Log::open(folder.path(), SMALL).expect("a log");
    log.record(0, "approval.given", &()).expect("it is written");
    drop(log);
    drop(open(folder.path()));
    let log = Log::open(folder.path(), SMALL).expect("a log");
    log.record(0, "rollout.fork", &()).expect("it is written");
    drop(log);
    let error = Record::open(folder.path(), SMALL).expect_err("it is not known");
    assert!(error.message().contains("entry 2: rollout.fork is not known"), "{error}");
}

/// A process that decides is killed at any moment, 30 times. Whoever goes on says what would have been said.
#[test]
fn a_rollout_survives_kills_to_the_bit() {
    const EVENTS: usize = 2_000;
    if let Some(folder) = std::env::var_os(CHILD) {
        let mut record = open(Path::new(&folder));
        if record.rollouts().get("r1").is_err() {
            record.start("r1", &plan(), None, START_MS).expect("a good plan");
        }
        loop {
            let said = step(&mut record);
            writeln!(std::io::stdout(), "said {said}").expect("somebody reads");
        }
    }
    let folder = tempfile::tempdir().expect("a folder");
    let mut said = Vec::new();
    for kill in 0..30 {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "rollouts::record::tests::a_rollout_survives_kills_to_the_bit", "--nocapture"])
            .env(CHILD, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it runs");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let mut lines =
            lines.map_while(|line| line.ok()).filter_map(|line| line.strip_prefix("said ").map(str::to_owned));
        // It lives until it has said something, now more and now less; then the moment is any.
        said.push(lines.next().expect("it says something"));
        said.extend(lines.by_ref().take(kill % 7));
        child.kill().expect("it is killed");
        child.wait().expect("it is over");
        said.extend(lines);
    }
    let record = open(folder.path());
    let events = record.rollouts().get("r1").expect("it has begun").events as usize;
    assert!((30..EVENTS).contains(&events), "{events}");
    assert!(events >= said.len(), "{} verdicts were heard, {events} are on the record", said.len());
    // An undisturbed rollout says the same, in the same order: some of it was said to nobody.
    let undisturbed = tempfile::tempdir().expect("a folder");
    let told = history(undisturbed.path(), events);
    assert_eq!(state(&record), told[events + 1].1);
    let mut heard = said.iter().peekable();
    for (verdict, _) in &told {
        heard.next_if_eq(&verdict);
    }
    assert_eq!(heard.next(), None, "a verdict that was heard is not what would have been said");
}
