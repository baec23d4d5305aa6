//! Do several replicas share one log, so that nobody is heard twice and no two decide at once?
#![cfg(feature = "sql")]

mod postgres;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use postgres::Postgres;
use serde_json::json;
use tiltyard_registry::{Address, Draft, Entry, Error, Head, Letter, Limits, Log, Taken};

fn address(server: &Postgres) -> Address {
    Address::parse(&server.url(), None).expect("a URL")
}

fn draft(n: u64) -> Draft {
    Draft::new(1_700_000_000_000 + n, "test.entry", &json!({ "n": n, "text": "quote \" back \\ feed \n end" }))
        .expect("JSON")
}

fn all(log: &Log) -> Vec<Entry> {
    log.entries(1).expect("it is there").collect::<Result<_, _>>().expect("it is whole")
}

/// Whatever keeps it, a log does the same: what it says of itself, and the bytes.
fn same_on_both(log: &Log) -> Vec<String> {
    assert_eq!(log.head(), Head::START);
    let first = log.record_after(Head::START, &[draft(1), draft(2)]).expect("it is written");
    assert_eq!((first.sequence, log.head()), (2, first));
    let late = log.record_after(Head::START, &[draft(9)]).expect_err("others were first");
    assert!(matches!(late, Error::Moved { after: 0 }), "{late}");
    assert_eq!(log.record(1_700_000_000_003, "test.entry", &json!({ "n": 3 })).expect("it is written"), 3);
    let ticket = log.append(0, "test.other", &"more").expect("in line");
    log.wait(&ticket).expect("it is written");
    assert_eq!((ticket.sequence(), log.head().sequence), (4, 4));
    for from in 0..=5 {
        let found: Vec<u64> =
            log.entries(from).expect("it is there").map(|entry| entry.expect("it is whole").sequence).collect();
        assert_eq!(found, (from.max(1)..=4).collect::<Vec<_>>(), "from {from}");
    }
    let mut entries = log.entries(1).expect("it is there");
    entries.by_ref().for_each(drop);
    assert_eq!(entries.head(), Some(log.head()));
    all(log).iter().map(|entry| format!("{} {} {}", entry.hash, entry.kind, entry.data)).collect()
}

#[test]
fn a_log_is_the_same_in_a_folder_and_in_a_database() {
    let Some(server) = Postgres::start() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let ours = same_on_both(&Log::open(folder.path(), Limits::default()).expect("a log"));
    let remote = Log::connect(&address(&server)).expect("a log");
    assert_eq!(same_on_both(&remote), ours);
    let again = Log::connect(&address(&server)).expect("a log");
    assert_eq!(again.head(), remote.head());
    // What is exported is what a folder has, to the byte: the program that knows only the format agrees.
    let exported = tempfile::tempdir().expect("a folder");
    let mut client = address(&server).connect().expect("it is there");
    let rows = client.query("SELECT line FROM tiltyard_log ORDER BY seq", &[]).expect("it answers");
    let lines: String = rows.iter().map(|row| row.get::<_, String>(0) + "\n").collect();
    fs::write(exported.path().join("00000000000000000001.jsonl"), &lines).expect("a segment");
    assert_eq!(lines, fs::read_to_string(folder.path().join("00000000000000000001.jsonl")).expect("a segment"));
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/verify.py");
    let told = Command::new("python3").arg(program).arg(exported.path()).output().expect("python3 runs");
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stdout));

    // An older copy of it is no log that goes on.
    let read = again.head();
    client
        .batch("CREATE TABLE kept AS SELECT * FROM tiltyard_log; CREATE TABLE head AS SELECT * FROM tiltyard_head")
        .expect("kept");
    again.record(0, "test.other", &"lost").expect("it is written");
    let later = again.head();
    client
        .batch(
            "DELETE FROM tiltyard_log WHERE seq > 4; UPDATE tiltyard_head SET seq = h.seq, hash = h.hash FROM head h",
        )
        .expect("it is old");
    let follower = again.remote().expect("a database");
    assert!(follower.entries_after(read).expect("it is as it was").is_empty());
    let error = follower.entries_after(later).expect_err("it is shorter").to_string();
    assert!(error.contains("entry 5 with hash"), "{error}");

    for (change, expected) in [
        ("UPDATE tiltyard_log SET line = replace(line, 'more', 'less') WHERE seq = 4", "its bytes have the hash"),
        ("DELETE FROM tiltyard_log WHERE seq = 2", "expected entry 2, and entry 3 is there"),
    ] {
        client.batch(change).expect("it is changed");
        let error = again.entries(1).expect("it is there").find_map(Result::err).expect("it is found").to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn many_replicas_append_at_once_and_each_decision_follows_what_it_knew() {
    let Some(server) = Postgres::start() else { return };
    // Each adds one to the last number that it knows: a decision that did not see the one before would double a number.
    let add = |who: u64| {
        let log = Log::connect(&address(&server)).expect("a log");
        let (mut known, mut head, mut refused) = (0, Head::START, 0);
        for _ in 0..40 {
            loop {
                for entry in log.remote().expect("a database").entries_after(head).expect("it answers") {
                    (known, head) = (entry.data.get().parse::<u64>().expect("a number"), entry.head());
                }
                let next = Draft::new(who, "test.count", &(known + 1)).expect("JSON");
                match log.record_after(head, &[next]) {
                    Ok(_) => break,
                    Err(Error::Moved { .. }) => refused += 1,
                    Err(error) => panic!("{error}"),
                }
            }
        }
        refused
    };
    let refused: u64 = thread::scope(|scope| {
        let replicas: Vec<_> = (0..4).map(|who| scope.spawn(move || add(who))).collect();
        replicas.into_iter().map(|replica| replica.join().expect("no panic")).sum()
    });
    let numbers: Vec<String> =
        all(&Log::connect(&address(&server)).expect("a log")).iter().map(|entry| entry.data.to_string()).collect();
    assert_eq!(numbers, (1..=160).map(|n: u64| n.to_string()).collect::<Vec<_>>());
    assert!(refused > 0, "nobody was ever too late: nothing was tried");
}

fn letter(sender: &str, number: u64) -> Letter {
    Letter { topic: "ends:r-1".into(), sender: sender.into(), number, body: vec![0, number as u8, 255] }
}

#[test]
fn what_replicas_saw_is_on_the_log_once_and_only_by_the_one_that_leads() {
    let Some(server) = Postgres::start() else { return };
    let [one, two] = [(); 2].map(|()| Log::connect(&address(&server)).expect("a log"));
    let (a, b) = (one.remote().expect("a database"), two.remote().expect("a database"));
    assert_eq!([a, b].map(|one| one.leads().expect("it answers")), [Some(1), None]);
    let topics = ["ends:r-1".to_owned()];
    b.send(&[letter("b", 1), letter("b", 2)], Some(10)).expect("it is sent");
    b.send(&[letter("b", 2), letter("b", 3)], Some(10)).expect("twice is once");
    a.send(&[letter("a", 1)], Some(10)).expect("it is sent");
    let mut taken = Taken::new();
    let found = a.collect(&topics, &taken).expect("it answers");
    assert_eq!(found, [letter("a", 1), letter("b", 1), letter("b", 2), letter("b", 3)]);
    taken.insert(("ends:r-1".into(), "b".into()), 2);
    assert_eq!(a.collect(&topics, &taken).expect("it answers"), [letter("a", 1), letter("b", 3)]);
    let refused = b.record_after(Head::START, &[draft(1)], Some(&taken)).expect_err("it does not lead");
    assert!(matches!(refused, Error::NotLeading), "{refused}");
    // What was decided too late leaves the letters where they are.
    two.record(0, "test.entry", &1).expect("it is written");
    let late = a.record_after(Head::START, &[draft(1)], Some(&taken)).expect_err("others were first");
    assert!(matches!(late, Error::Moved { .. }), "{late}");
    assert_eq!(a.collect(&topics, &Taken::new()).expect("it answers").len(), 4);
    let head = a.entries_after(Head::START).expect("it answers").last().expect("one").head();
    a.record_after(head, &[draft(1)], Some(&taken)).expect("it leads");
    assert_eq!(a.collect(&topics, &Taken::new()).expect("it answers"), [letter("a", 1), letter("b", 3)]);
    // A sender that nobody listens to has a bound.
    b.send(&(4..20).map(|n| letter("b", n)).collect::<Vec<_>>(), Some(1)).expect("it answers");
    assert_eq!(a.collect(&topics, &Taken::new()).expect("it answers").len(), 2);
    a.tidy(&BTreeMap::from([("other".into(), 0)]), 3_600_000).expect("it answers");
    assert_eq!(a.collect(&topics, &Taken::new()).expect("it answers").len(), 2, "they are young");
    a.tidy(&BTreeMap::from([("ends:r-1".into(), 0)]), 3_600_000).expect("it answers");
    assert_eq!(a.collect(&topics, &Taken::new()).expect("it answers"), []);
}

#[test]
fn who_leads_and_is_gone_is_followed_by_another() {
    let Some(server) = Postgres::start() else { return };
    let [one, two] = [(); 2].map(|()| Log::connect(&address(&server)).expect("a log"));
    let (a, b) = (one.remote().expect("a database"), two.remote().expect("a database"));
    assert_eq!([a, b].map(|one| one.leads().expect("it answers")), [Some(1), None]);
    a.report("a#1", "a", 3).expect("it answers");
    let heard = b.report("b#1", "b", 0).expect("it answers");
    assert_eq!(
        heard.iter().map(|replica| (&*replica.name, replica.sequence, replica.leads)).collect::<Vec<_>>(),
        [("a", 3, true), ("b", 0, false)]
    );
    // Its session is ended, as the database does with one that is silent.
    let mut client = address(&server).connect().expect("it is there");
    let others = "SELECT pg_terminate_backend(l.pid) FROM pg_locks l WHERE l.locktype = 'advisory' AND l.granted";
    client.query(others, &[]).expect("it answers");
    let until = Instant::now() + Duration::from_secs(10);
    while b.leads().expect("it answers").is_none() {
        assert!(Instant::now() < until, "nobody leads");
        thread::sleep(Duration::from_millis(20));
    }
    // It finds out with the next thing that it does, and not only then.
    let refused = a.record_after(Head::START, &[draft(1)], Some(&Taken::new())).expect_err("it leads no more");
    assert!(matches!(refused, Error::NotLeading | Error::Unreachable { .. }), "{refused}");
    b.record_after(Head::START, &[draft(1)], Some(&Taken::new())).expect("it leads");
    let names: BTreeSet<String> =
        b.report("b#1", "b", 1).expect("it answers").into_iter().map(|replica| replica.name).collect();
    assert_eq!(names, BTreeSet::from(["a".into(), "b".into()]));
}
