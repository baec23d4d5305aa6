//! Is every answer that somebody heard of captured once, or counted as dropped, when the process is killed at any point?
//!
//! This program runs itself as a server of sorts: threads that offer a record, and then print its id, as if it were
//! answered. It is killed after a number of ids that is drawn by lot, a hundred times, each time in the same folder;
//! then every id that was printed must be in one segment once, or have been printed as dropped. Ring and segments are
//! small, so that a cycle is always on its way. `TILTYARD_KILLS=1000` kills as often. The other scene is a disk that is
//! full: records are dropped and counted, nobody hears an error, and capturing goes on by itself once there is room.
#![allow(clippy::print_stdout, reason = "a program that prints what it answered")]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::RowAccessor;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tiltyard_capture::{Capture, Limits, Outcome, Reason, Record, Threads, Value, verify};
use tiltyard_types::{Digest, RequestId, Tensor};

const FOLDER: &str = "TILTYARD_KILL_FOLDER";
const ROUND: &str = "TILTYARD_KILL_ROUND";
const THREADS: u64 = 2;
/// Of the keys that rows of one endpoint are encrypted under.
const MASTER: [u8; 32] = [5; 32];

fn limits() -> Limits {
    Limits {
        shards: THREADS as usize,
        ring_bytes: 256 << 10,
        segment_bytes: 16 << 10,
        segment_time: Duration::from_millis(20),
        sync_interval: Duration::from_millis(5),
        ..Limits::default()
    }
}

fn main() {
    if let Ok(folder) = std::env::var(FOLDER) {
        let round = std::env::var(ROUND).expect("a round").parse().expect("a number");
        return answer(Path::new(&folder), round);
    }
    let kills = std::env::var("TILTYARD_KILLS").map_or(120, |kills| kills.parse().expect("a number of kills"));
    killed(kills);
    full_disk();
}

fn now_us() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock after 1970");
    now.as_micros() as u64
}

/// Answers until it is killed.
fn answer(folder: &Path, round: u64) {
    let capture = Arc::new(Capture::open_with(folder, &limits(), Some(&MASTER)).expect("the folder opens"));
    let _threads = Threads::start(&capture, now_us, || {}).expect("threads start");
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let capture = &capture;
            scope.spawn(move || {
                for number in 0..u64::MAX {
                    answer_one(capture, round << 48 | thread << 40 | number);
                }
            });
        }
    });
}

fn answer_one(capture: &Capture, id: u64) {
    let rows = 1 + id % 3;
    let features: Vec<f32> = (0..rows * 8).map(|at| (id + at) as f32).collect();
    let features = Tensor::from_slice([rows as usize, 8], &features).expect("as many as the shape says");
    let record = Record {
        request: RequestId::from_bits(u128::from(id)),
        rows: rows as u32,
        first_row: 0,
        unix_us: 1_764_374_400_000_000 + id % 1000,
        latency_ns: 1,
        // Several segments a cycle.
        endpoint: ["risk", "fraud", "a/b"][(id % 3) as usize].into(),
        model: "m".into(),
        version: 1,
        digest: Digest::new([1; 32]),
        arm: "".into(),
        key: None,
        layout: 0,
        outcome: Outcome::Answered,
        headers: vec![],
        inputs: vec![Value::of("x", &features)],
        outputs: vec![],
        subjects: if id % 3 == 1 { vec![format!("person-{}", id % 7).into()] } else { vec![] },
    };
    let (word, is_full) = match capture.offer(&record) {
        Ok(_) => ("c", false),
        Err(_) => ("d", true),
    };
    let line = format!("{word} {id:016x}\n").into_bytes();
    // Nobody listens any more: the parent is gone.
    if std::io::stdout().write_all(&line).is_err() {
        std::process::exit(0);
    }
    if is_full {
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// What was printed, by id: whether it was captured.
type Heard = BTreeMap<u64, bool>;

struct Answering {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Answering {
    fn start(mut command: Command, folder: &Path, round: u64) -> Answering {
        command.env(FOLDER, folder).env(ROUND, round.to_string()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let lines = BufReader::new(child.stdout.take().expect("its output"));
        Answering { child, lines }
    }

    /// The next whole line; `None` at the end.
    fn hear(&mut self, heard: &mut Heard) -> Option<bool> {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("it can be read");
        let (word, id) = line.strip_suffix('\n')?.split_once(' ').expect("a word and an id");
        let id = u64::from_str_radix(id, 16).expect("an id");
        assert!(heard.insert(id, word == "c").is_none(), "{id:016x} was answered twice");
        Some(word == "c")
    }

    fn kill(mut self, heard: &mut Heard) {
        self.child.kill().expect("it can be killed");
        while self.hear(heard).is_some() {}
        self.child.wait().expect("it ends");
    }
}

fn itself() -> Command {
    Command::new(std::env::current_exe().expect("this program"))
}

/// Xorshift.
fn below(random: &mut u64, bound: u64) -> u64 {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    *random % bound
}

fn killed(kills: u64) {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut heard, mut random) = (Heard::new(), 0x6b69_6c6c);
    let mut rows = Rows::default();
    for round in 0..kills {
        let mut answering = Answering::start(itself(), folder.path(), round);
        let answers = if round.is_multiple_of(4) { below(&mut random, 40) } else { below(&mut random, 1500) };
        for _ in 0..answers {
            answering.hear(&mut heard);
        }
        answering.kill(&mut heard);
        if round % 50 == 49 || round + 1 == kills {
            check(folder.path(), &heard, &mut rows, round + 1);
        }
    }
    let captured = heard.values().filter(|is_captured| **is_captured).count();
    assert!(captured as u64 > kills * 10, "only {captured} were captured: the test shows nothing");
    println!(
        "{kills} kills: {} answers heard, {captured} captured, {} segments, each once",
        heard.len(),
        rows.files.len()
    );
}

/// What segments hold.
#[derive(Default)]
struct Rows {
    files: BTreeSet<PathBuf>,
    /// By id: how many rows.
    found: HashMap<u64, u64>,
    sequences: BTreeSet<(u64, u64)>,
}

impl Rows {
    /// Reads the segments that were not read yet.
    fn read(&mut self, folder: &Path) {
        let mut waiting = vec![folder.join("segments")];
        while let Some(path) = waiting.pop() {
            if path.is_dir() {
                waiting.extend(path.read_dir().expect("a folder").map(|entry| entry.expect("an entry").path()));
            } else if self.files.insert(path.clone()) {
                let file = SerializedFileReader::new(File::open(&path).expect("it opens")).expect("a segment");
                for row in file.get_row_iter(None).expect("rows") {
                    let row = row.expect("a row");
                    let request = row.get_string(2).expect("a request's id").replace('-', "");
                    let id = u128::from_str_radix(&request, 16).expect("an id") as u64;
                    let key =
                        (row.get_long(0).expect("a sequence") as u64, row.get_int(3).expect("a row's number") as u64);
                    assert!(self.sequences.insert(key), "{key:?} is there twice");
                    *self.found.entry(id).or_default() += 1;
                }
            }
        }
    }
}

fn check(folder: &Path, heard: &Heard, rows: &mut Rows, kills: u64) {
    let capture = Capture::open_with(folder, &limits(), Some(&MASTER)).expect("the folder opens");
    capture.flush(now_us()).expect("all is drained");
    rows.read(folder);
    for (id, is_captured) in heard {
        let expected = if *is_captured { 1 + id % 3 } else { 0 };
        assert_eq!(rows.found.get(id).copied().unwrap_or(0), expected, "rows of {id:016x}");
    }
    // Those whose answer was not heard may be there, whole.
    assert!(rows.found.iter().all(|(id, rows)| *rows == 1 + id % 3), "a part of a request is there");
    let counters = capture.counters();
    assert_eq!(counters.served, counters.captured + counters.dropped.iter().sum::<u64>(), "{counters:?}");
    assert_eq!(counters.captured, rows.found.len() as u64, "{counters:?}");
    let dropped = heard.values().filter(|is_captured| !**is_captured).count() as u64;
    assert!(counters.dropped(Reason::Full) + counters.dropped(Reason::Busy) >= dropped, "{counters:?}");
    assert!(counters.dropped(Reason::Interrupted) <= kills * THREADS, "{counters:?}");
    assert_eq!(counters.dropped(Reason::Lost), 0, "{counters:?}");
    assert_eq!(capture.state().pending_bytes, 0);
    drop(capture);
    let verified = verify(folder).expect("the manifest is whole");
    assert_eq!(verified.faults, Vec::<String>::new());
    assert_eq!(verified.rows, rows.sequences.len() as u64);
}

fn full_disk() {
    let folder = tempfile::tempdir().expect("a folder");
    // The ring has its room already: only what grows meets the limit.
    drop(Capture::open_with(folder.path(), &limits(), Some(&MASTER)).expect("the folder opens"));
    let mut command = Command::new("sh");
    // 1 or 2 KiB, as the shell counts: no segment has so little. The program hears of an error, not of a signal.
    command
        .args(["-c", "trap '' XFSZ; ulimit -S -f 2; exec \"$0\""])
        .arg(std::env::current_exe().expect("this program"));
    let (mut heard, deadline) = (Heard::new(), Instant::now() + Duration::from_secs(60));
    let mut answering = Answering::start(command, folder.path(), 1);
    let mut until = |answering: &mut Answering, wanted: bool, count: u64| {
        let mut seen = 0;
        while seen < count {
            assert!(Instant::now() < deadline, "{seen} of {count} answers with captured = {wanted}");
            seen += u64::from(answering.hear(&mut heard).expect("it goes on answering") == wanted);
        }
    };
    until(&mut answering, true, 10);
    until(&mut answering, false, 500);
    let pid = Pid::from_child(&answering.child);
    prlimit(Some(pid), Resource::Fsize, Rlimit { current: None, maximum: None }).expect("the limit is lifted");
    until(&mut answering, true, 2000);
    answering.kill(&mut heard);
    let mut rows = Rows::default();
    check(folder.path(), &heard, &mut rows, 1);
    println!("full disk: {} answers heard, {} captured, each once", heard.len(), rows.found.len());
}
