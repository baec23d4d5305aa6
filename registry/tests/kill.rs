//! Is the record whole, with its checkpoints and tables, when the process is killed at any point?
//!
//! A process appends, seals, and has the tables follow, all at once and as fast as it can, and prints what it was promised. It
//! is killed after a number of promises that is drawn by lot, again and again in the same folder, and then in another; `TILTYARD_KILLS=300` kills as
//! often. Each time what was promised is there, the chain and every checkpoint are proved, and the tables catch up.
#![cfg(feature = "sql")]

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use tiltyard_registry::audit::{self, PublicKey, Sealer, Signer};
use tiltyard_registry::tables::Tables;
use tiltyard_registry::{Entries, Limits, Log};

const CHILD: &str = "TILTYARD_TEST_RECORD";

/// Kills in one folder.
const KILLS_A_FOLDER: u64 = 25;

fn log(folder: &Path) -> Log {
    Log::open(&folder.join("log"), Limits { segment_bytes: 4_000 }).expect("a log")
}

/// Writes until it is killed.
fn write(folder: &Path) {
    let log = log(folder);
    let signer = Signer::open(folder).expect("a key");
    let mut sealer = Sealer::open(&folder.join("log/checkpoints"), signer, &log).expect("it opens");
    let mut tables = Tables::sqlite(&folder.join("registry.db")).expect("it opens");
    thread::scope(|scope| {
        let log = &log;
        for who in 0..2u64 {
            scope.spawn(move || {
                for n in 0.. {
                    let sequence = log.record(n, "test.kill", &(who, n)).expect("it is written");
                    // Nobody listens any more: the parent is gone.
                    if writeln!(std::io::stdout(), "promised {sequence}").is_err() {
                        std::process::exit(0);
                    }
                }
            });
        }
        scope.spawn(move || {
            for n in 0.. {
                sealer.seal(log, n).expect("it is signed");
                thread::yield_now();
            }
        });
        scope.spawn(move || {
            loop {
                tables.follow(log).expect("it follows");
                thread::yield_now();
            }
        });
    });
}

#[test]
fn whatever_is_killed_the_record_is_whole() {
    if let Some(folder) = std::env::var_os(CHILD).map(PathBuf::from) {
        return write(&folder);
    }
    let kills: u64 = std::env::var("TILTYARD_KILLS").map_or(25, |kills| kills.parse().expect("a number of kills"));
    let mut folder = tempfile::tempdir().expect("a folder");
    let (mut promised, mut random, mut checkpoints, mut behind, mut signed) = (0, 0x6b69_6c6c_u64, 0, 0, 0);
    for kill in 0..kills {
        // All of a log is proved after each kill: one that has grown for long would take longer than it tells.
        if kill % KILLS_A_FOLDER == 0 {
            (folder, promised, checkpoints) = (tempfile::tempdir().expect("a folder"), 0, 0);
        }
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args(["--exact", "whatever_is_killed_the_record_is_whole", "--nocapture", "--test-threads", "1"]);
        let mut child = command.env(CHILD, folder.path()).stdout(Stdio::piped()).spawn().expect("it runs");
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let told = |line: std::io::Result<String>| line.ok()?.strip_prefix("promised ")?.parse::<u64>().ok();
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let heard: Vec<u64> = lines.by_ref().filter_map(told).take(1 + (random % 60) as usize).collect();
        child.kill().expect("it is killed");
        child.wait().expect("it is over");
        promised = lines.filter_map(told).chain(heard).max().expect("one at least").max(promised);

        let key = PublicKey::read(&folder.path().join("audit.pub")).expect("a key");
        let entries = Entries::open(&folder.path().join("log"), 1).expect("a log");
        let found = audit::verify(entries, &folder.path().join("log/checkpoints"), &key, &[]).expect("it is proved");
        assert!(found.head.sequence >= promised, "{promised} were promised, {} are there", found.head.sequence);
        assert!(found.checkpoints >= checkpoints, "none is lost");
        signed += found.checkpoints - checkpoints;
        checkpoints = found.checkpoints;

        let log = log(folder.path());
        let mut tables = Tables::sqlite(&folder.path().join("registry.db")).expect("it opens");
        behind += tables.follow(&log).expect("it catches up");
        assert_eq!((tables.applied(), tables.rebuilt()), (log.head(), 0), "kill {kill}");
        let file = rusqlite::Connection::open(folder.path().join("registry.db")).expect("a database");
        let rows: (i64, i64) = file
            .query_row("SELECT count(*), max(seq) FROM entries", [], |row| Ok((row.get(0)?, row.get(1)?)))
            .expect("a row");
        let expected = log.head().sequence as i64;
        assert_eq!(rows, (expected, expected), "each entry once");
        let state: String = file.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("a row");
        assert_eq!(state, "ok");
    }
    assert!(signed > kills && behind > 0, "{signed} checkpoints, {behind} rows caught up: it shows something");
}
