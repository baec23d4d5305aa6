//! Is what was promised on the record, whatever happens to the writer, its disk or its files?

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::json;
use tempfile::TempDir;
use tiltyard_registry::{Break, Entries, Error, Head, Limits, Log, verify};

/// Names the folder to the process that a test starts of itself.
const CHILD: &str = "TILTYARD_TEST_LOG";

/// Segments of a few entries each.
const SMALL: Limits = Limits { segment_bytes: 700 };

/// A log of twelve entries in several segments.
fn sample() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let log = Log::open(folder.path(), SMALL).expect("a log");
    for n in 1..=12u64 {
        let said = json!({ "n": n, "text": "quote \" brace } feed \n end" });
        assert_eq!(log.record(1_700_000_000_000 + n, "test.entry", &said).expect("it is written"), n);
    }
    folder
}

fn segments(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let mut found: Vec<_> = entries.filter(|path| path.extension().is_some_and(|end| end == "jsonl")).collect();
    found.sort();
    found
}

fn last(folder: &Path) -> PathBuf {
    segments(folder).pop().expect("a segment")
}

fn sequences(folder: &Path, from: u64) -> Vec<u64> {
    let entries = Entries::open(folder, from).expect("it is there");
    entries.map(|entry| entry.expect("it is whole").sequence).collect()
}

fn broken(folder: &Path) -> Break {
    match verify(folder) {
        Err(Error::Broken(found)) => found,
        other => panic!("{other:?}"),
    }
}

fn copy(from: &Path) -> TempDir {
    let to = tempfile::tempdir().expect("a folder");
    for path in segments(from) {
        fs::copy(&path, to.path().join(path.file_name().expect("a name"))).expect("a copy");
    }
    to
}

/// Runs this test again as a process of its own, which finds the folder in [`CHILD`].
fn again(test: &str, folder: &Path, shell: &str) -> Command {
    let mut command = Command::new("sh");
    let program = std::env::current_exe().expect("this program");
    command.args(["-c", &format!("{shell} exec \"$0\" --exact {test} --nocapture --test-threads 1")]).arg(program);
    command.env(CHILD, folder);
    command
}

fn child_folder() -> Option<PathBuf> {
    std::env::var_os(CHILD).map(PathBuf::from)
}

#[test]
fn a_log_goes_on_over_segments_and_is_read_from_anywhere() {
    let folder = sample();
    assert!(segments(folder.path()).len() >= 4, "{:?}", segments(folder.path()));
    for from in 0..=13 {
        assert_eq!(sequences(folder.path(), from), (from.max(1)..=12).collect::<Vec<_>>(), "from {from}");
    }
    let found = verify(folder.path()).expect("it is whole");
    let log = Log::open(folder.path(), SMALL).expect("it is whole");
    assert_eq!((log.head(), log.cut()), (found.head, None));
    log.record(0, "test.entry", &"more").expect("it is written");
    let entry = log.entries(13).expect("it is there").next().expect("one").expect("it is whole");
    assert_eq!((entry.sequence, entry.previous, entry.data.get()), (13, found.head.hash, "\"more\""));
}

#[test]
fn many_may_append_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = Log::open(folder.path(), Limits { segment_bytes: 20_000 }).expect("a log");
    let numbers: Vec<u64> = thread::scope(|scope| {
        let append = |who: u64| {
            let log = &log;
            move || (0..50).map(|n| log.record(n, "test.many", &(who, n)).expect("it is written")).collect::<Vec<_>>()
        };
        let writers: Vec<_> = (0..8).map(|who| scope.spawn(append(who))).collect();
        // Whoever reads meanwhile finds it whole, and never shorter than what was promised.
        while !writers.iter().all(|writer| writer.is_finished()) {
            let promised = log.head().sequence;
            let found = verify(folder.path()).expect("it is whole while others write").head.sequence;
            assert!(found >= promised, "{found} after {promised}");
        }
        writers.into_iter().flat_map(|writer| writer.join().expect("no panic")).collect()
    });
    assert_eq!(numbers.iter().copied().collect::<BTreeSet<_>>(), (1..=400).collect());
    assert_eq!(verify(folder.path()).expect("it is whole").head, log.head());
    assert_eq!(log.head().sequence, 400);
}

#[test]
fn one_wait_is_enough_for_all_that_are_in_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = Log::open(folder.path(), SMALL).expect("a log");
    let tickets: Vec<_> = (0..20).map(|n| log.append(n, "test.group", &n).expect("in line")).collect();
    assert_eq!(log.head(), Head::START, "nothing was promised yet");
    log.wait(&tickets[3]).expect("it is written");
    assert_eq!(log.head().sequence, 20);
    assert_eq!(segments(folder.path()).len(), 1, "a group is never torn apart");
    assert!(tickets.iter().all(|ticket| log.wait(ticket).is_ok()));
}

#[test]
fn there_is_one_writer_and_any_number_of_readers() {
    let folder = sample();
    let log = Log::open(folder.path(), SMALL).expect("a log");
    let error = Log::open(folder.path(), SMALL).expect_err("it is held").to_string();
    assert!(error.contains(&format!("is written by process {}", std::process::id())), "{error}");
    assert_eq!(sequences(folder.path(), 12), [12]);
    log.record(0, "test.entry", &13).expect("it is written");
    assert_eq!(sequences(folder.path(), 12), [12, 13]);
    drop(log);
    Log::open(folder.path(), SMALL).expect("it is free again");
}

/// Until a new process is another program, it has all files of the one that starts it.
#[test]
fn a_log_is_free_at_once_though_processes_are_started_meanwhile() {
    let folder = sample();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                Command::new("true").status().expect("it runs");
            }
        });
        let opened: Vec<_> = (0..300).map(|_| Log::open(folder.path(), SMALL).map(drop)).collect();
        is_over.store(true, Ordering::Relaxed);
        let held = opened.iter().filter(|opened| opened.is_err()).count();
        assert_eq!(held, 0, "of 300 times");
    });
}

/// A writer that dies leaves the beginning of what it wrote.
#[test]
fn a_torn_end_is_cut_and_told_wherever_it_is() {
    let folder = sample();
    let path = last(folder.path());
    let bytes = fs::read(&path).expect("a segment");
    let ends: Vec<usize> = (1..=bytes.len()).filter(|&end| bytes[end - 1] == b'\n').collect();
    assert!(ends.len() > 1, "a segment of several entries");
    let before = 12 - ends.len();
    for length in 0..=bytes.len() {
        let torn = copy(folder.path());
        fs::write(last(torn.path()), &bytes[..length]).expect("a torn segment");
        let whole = ends.iter().filter(|&&end| end <= length).count();
        let end = ends[..whole].last().copied().unwrap_or(0);
        let (kept, unfinished) = ((before + whole) as u64, (length - end) as u64);
        let found = verify(torn.path()).expect("a torn end is no break");
        assert_eq!((found.head.sequence, found.unfinished_bytes), (kept, unfinished), "{length} bytes");
        let log = Log::open(torn.path(), SMALL).expect("a torn end is cut");
        assert_eq!(log.cut().map(|cut| (cut.bytes, cut.after)), (unfinished > 0).then_some((unfinished, kept)));
        assert_eq!(log.record(0, "test.entry", &"on").expect("it is written"), kept + 1);
        assert_eq!(verify(torn.path()).expect("it is whole").unfinished_bytes, 0);
    }
}

#[test]
fn every_changed_byte_is_found_where_it_is() {
    let folder = sample();
    for path in segments(folder.path()) {
        let bytes = fs::read(&path).expect("a segment");
        let file = fs::OpenOptions::new().write(true).open(&path).expect("a segment");
        for at in 0..bytes.len() {
            let line = bytes[..at].iter().filter(|&&byte| byte == b'\n').count() as u64 + 1;
            // Any bit, and the one that makes a capital of a letter.
            for bit in [1 << (at % 8), b' '] {
                file.write_all_at(&[bytes[at] ^ bit], at as u64).expect("a changed segment");
                let found = broken(folder.path());
                assert_eq!(
                    (Some(found.segment.as_ref()), found.line),
                    (path.file_name(), line),
                    "byte {at}, bit {bit}"
                );
            }
            file.write_all_at(&bytes[at..=at], at as u64).expect("the byte as it was");
        }
    }
    verify(folder.path()).expect("it is whole again");
}

#[test]
fn what_is_missing_doubled_or_moved_is_found_and_never_cut() {
    let folder = sample();
    let paths = segments(folder.path());
    let text = |path: &PathBuf| fs::read_to_string(path).expect("a segment");
    #[track_caller]
    fn check(folder: &TempDir, segment: &Path, line: u64, what: &str) {
        let found = broken(folder.path());
        assert!(Some(found.segment.as_ref()) == segment.file_name() && found.line == line, "{found}");
        assert!(found.what.contains(what), "{found}");
        let before: Vec<_> =
            segments(folder.path()).into_iter().map(|path| fs::read(path).expect("a segment")).collect();
        assert!(matches!(Log::open(folder.path(), SMALL), Err(Error::Broken(again)) if again == found));
        let after: Vec<_> =
            segments(folder.path()).into_iter().map(|path| fs::read(path).expect("a segment")).collect();
        assert!(before == after, "nothing is changed");
    }
    let lines: Vec<String> = text(&paths[1]).split_inclusive('\n').map(str::to_owned).collect();
    let other = |order: &[usize]| {
        let changed = copy(folder.path());
        let text: String = order.iter().map(|&at| lines[at].as_str()).collect();
        fs::write(changed.path().join(paths[1].file_name().expect("a name")), text).expect("a changed segment");
        changed
    };
    assert_eq!(lines.len(), 3);
    check(&other(&[0, 2]), &paths[1], 2, "entry 6 comes after entry 4");
    check(&other(&[0, 0, 1, 2]), &paths[1], 2, "entry 4 comes after entry 4");
    check(&other(&[1, 0, 2]), &paths[1], 1, "entry 5 comes after entry 3");
    check(&other(&[0, 1]), &paths[2], 1, "expected entry 6: a segment is missing, or has lost its last lines");
    check(&other(&[]), &paths[2], 1, "expected entry 4");

    let missing = copy(folder.path());
    fs::remove_file(missing.path().join(paths[0].file_name().expect("a name"))).expect("it was there");
    check(&missing, &paths[1], 1, "expected entry 1");

    let torn = copy(folder.path());
    let middle = torn.path().join(paths[1].file_name().expect("a name"));
    fs::write(&middle, &text(&paths[1])[..lines[0].len() + 9]).expect("a torn segment");
    check(&torn, &paths[1], 2, "another segment follows");

    let renamed = copy(folder.path());
    fs::rename(last(renamed.path()), renamed.path().join(format!("{:020}.jsonl", 11))).expect("renamed");
    check(&renamed, &last(renamed.path()), 1, "expected entry 10");
    let found = Entries::open(renamed.path(), 11).expect("it is there").next().expect("one");
    assert!(matches!(&found, Err(Error::Broken(found)) if found.what.contains("the file's name says 11")), "{found:?}");
}

/// `verify.py` knows the description of the format only. It finds what we find, where we find it.
#[test]
fn an_independent_program_agrees() {
    let folder = sample();
    let mut changed = vec![copy(folder.path())];
    let mut random = 0x0069_7374_6875_7276u64;
    for _ in 0..300 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let (one, path) = (copy(folder.path()), &segments(folder.path())[(random >> 33) as usize % 4]);
        let mut bytes = fs::read(path).expect("a segment");
        let (at, to) = ((random >> 40) as usize % bytes.len(), (random >> 20) as u8);
        match random >> 60 {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, to),
            2 => drop(bytes.remove(at)),
            _ => bytes[at] = to,
        }
        fs::write(one.path().join(path.file_name().expect("a name")), bytes).expect("a changed segment");
        changed.push(one);
    }
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("verify.py");
    let mut command = Command::new("python3");
    let output = command.arg(program).args(changed.iter().map(TempDir::path)).output().expect("python3 runs");
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    let told = String::from_utf8(output.stdout).expect("it is text");
    assert_eq!(told.lines().count(), changed.len());
    let mut breaks = 0;
    for (folder, told) in changed.iter().zip(told.lines()) {
        let found = match verify(folder.path()) {
            Ok(found) => format!(
                "whole, entry {} hash {} unfinished {}",
                found.head.sequence, found.head.hash, found.unfinished_bytes
            ),
            Err(Error::Broken(Break { segment, line, byte, .. })) => {
                breaks += 1;
                format!("broken, {segment} line {line} byte {byte}: ")
            }
            Err(error) => panic!("{error}"),
        };
        let expected = format!("{}: {found}", folder.path().display());
        assert!(told.starts_with(&expected), "found {expected}\n told {told}");
    }
    assert!(breaks > 250, "{breaks}");
}

/// A limit of the file's size stands in for a full disk: a part of the group is written, the rest refused.
#[test]
fn a_full_disk_is_told_and_leaves_the_log_usable() {
    let Some(folder) = child_folder() else {
        let folder = tempfile::tempdir().expect("a folder");
        let test = "a_full_disk_is_told_and_leaves_the_log_usable";
        let output = again(test, folder.path(), "trap '' XFSZ; ulimit -S -f 20;").output().expect("it runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(verify(folder.path()).expect("it is whole").head.sequence > 10);
        return;
    };
    let log = Log::open(&folder, Limits::default()).expect("a log");
    let said = "x".repeat(300);
    let full = loop {
        let head = log.head();
        if let Err(error) = log.record(0, "test.full", &said) {
            assert_eq!(log.head(), head);
            break error;
        }
    };
    assert!(full.is_full(), "{full}");
    assert!(full.to_string().contains("cannot write"), "{full}");
    let found = verify(&folder).expect("what was written of it is gone");
    assert_eq!((found.head, found.unfinished_bytes), (log.head(), 0));

    let tickets: Vec<_> = (0..3).map(|_| log.append(0, "test.full", &said).expect("in line")).collect();
    assert!(tickets.iter().all(|ticket| log.wait(ticket).is_err_and(|error| error.is_full())));
    assert_eq!(verify(&folder).expect("it is whole").head, log.head());

    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Fsize);
    setrlimit(Resource::Fsize, Rlimit { current: limit.maximum, ..limit }).expect("there is room again");
    let sequence = log.record(0, "test.full", &said).expect("and it goes on");
    assert_eq!(sequence, found.head.sequence + 1);
    assert_eq!(verify(&folder).expect("it is whole").head, log.head());
}

/// A process that appends is killed at any moment, 30 times: what it was promised is there, and the chain is whole.
#[test]
fn what_was_promised_survives_a_kill() {
    if let Some(folder) = child_folder() {
        let log = Log::open(&folder, Limits { segment_bytes: 4_000 }).expect("a log");
        thread::scope(|scope| {
            for who in 0..4u64 {
                let log = &log;
                scope.spawn(move || {
                    for n in 0.. {
                        let sequence = log.record(n, "test.kill", &(who, n)).expect("it is written");
                        writeln!(std::io::stdout(), "promised {sequence}").expect("somebody reads");
                    }
                });
            }
        });
    }
    let folder = tempfile::tempdir().expect("a folder");
    let mut promised = 0;
    for kill in 0..30 {
        let mut child = again("what_was_promised_survives_a_kill", folder.path(), "")
            .stdout(Stdio::piped())
            .spawn()
            .expect("it runs");
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let told = |line: std::io::Result<String>| line.ok()?.strip_prefix("promised ")?.parse::<u64>().ok();
        // It lives until it has promised something, now more and now less; then the moment is any.
        let heard: Vec<u64> = lines.by_ref().filter_map(told).take(1 + kill % 7).collect();
        assert!(heard.iter().all(|first| *first > promised) && !heard.is_empty(), "{heard:?} after {promised}");
        child.kill().expect("it is killed");
        child.wait().expect("it is over");
        promised = lines.filter_map(told).chain(heard).max().expect("the first at least");
        let found = verify(folder.path()).expect("it is whole");
        assert!(found.head.sequence >= promised, "{promised} were promised, {} are there", found.head.sequence);
    }
    assert!(promised >= 115, "{promised}: so many were heard, each once");
    Log::open(folder.path(), SMALL).expect("it is whole");
}
