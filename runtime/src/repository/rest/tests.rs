//! When are files taken to be at rest, whatever clocks do?

use std::fs;
use std::path::Path;

use super::*;
use crate::repository::listing::Listing;

const SETTLE: Duration = Duration::from_secs(2);
const SECOND: Duration = Duration::from_secs(1);

/// A folder with one file, and a clock that stands still.
struct Bench {
    folder: tempfile::TempDir,
    rest: Rest,
    now: Moment,
}

impl Bench {
    fn new() -> Bench {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("model.onnx"), "x").unwrap();
        Bench { folder, rest: Rest::default(), now: Moment::from_nanos(5_000_000_000) }
    }

    fn listed(&self) -> Fingerprint {
        let mut listing = Listing::within([self.folder.path()]).unwrap();
        listing.add_folder(self.folder.path()).unwrap();
        listing.fingerprint
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.folder.path().join(name), text).unwrap();
    }

    /// A look after so much time: how long is still to be waited.
    fn look(&mut self, after: Duration, at_least: Option<SystemTime>) -> Option<Duration> {
        self.now = self.now + after;
        self.rest.look(&self.listed(), self.now, at_least, SETTLE)
    }
}

#[test]
fn files_rest_once_nothing_changed_for_the_settle_time() {
    let mut bench = Bench::new();
    assert_eq!(bench.look(SECOND, None), Some(SETTLE));
    assert_eq!(bench.look(SECOND, None), Some(SECOND));
    bench.write("model.onnx", "xy");
    assert_eq!(bench.look(SECOND, None), Some(SETTLE), "it grew");
    bench.write(".model.onnx.x7Gk", "rsync at work");
    assert_eq!(bench.look(SETTLE, None), Some(SETTLE), "somebody is at work beside it");
    fs::remove_file(bench.folder.path().join(".model.onnx.x7Gk")).unwrap();
    assert_eq!(bench.look(SETTLE, None), Some(SETTLE));
    assert_eq!(bench.look(SETTLE, None), None);
    assert_eq!(bench.look(Duration::ZERO, None), None);
}

#[test]
fn kept_times_are_not_believed() {
    let mut bench = Bench::new();
    let day_ago = SystemTime::now() - 24 * 3600 * SECOND;
    let set = |path: &Path| fs::File::open(path).unwrap().set_modified(day_ago).unwrap();
    set(&bench.folder.path().join("model.onnx"));
    set(bench.folder.path());
    assert_eq!(bench.look(SECOND, Some(SystemTime::now())), Some(SETTLE));
}

#[test]
fn what_was_not_touched_for_long_need_not_wait_at_a_start() {
    let later = || Some(SystemTime::now() + SETTLE + SECOND);
    assert_eq!(Bench::new().look(SECOND, later()), None);
    let mut bench = Bench::new();
    assert_eq!(bench.look(SECOND, None), Some(SETTLE), "without a start there is no telling");
    assert_eq!(bench.look(SECOND, later()), Some(SECOND), "only a first look is a start");
}

#[test]
fn files_from_the_future_wait_once_and_not_for_ever() {
    let mut bench = Bench::new();
    let year_ago = Some(SystemTime::now() - 365 * 24 * 3600 * SECOND);
    assert_eq!(bench.look(SECOND, year_ago), Some(SETTLE));
    assert_eq!(bench.look(SETTLE, year_ago), None);
}

#[test]
fn a_clock_that_jumps_makes_nothing_older_than_it_is() {
    let start = UNIX_EPOCH + 1_000_000 * SECOND;
    let mut wall = WallClock::default();
    let mut at = |steady: u64, wall_now: SystemTime| {
        wall.at_least(Now { steady: Moment::from_nanos(steady * 1_000_000_000), wall: wall_now })
    };
    assert_eq!(at(0, start), start);
    assert_eq!(at(10, start + 10 * SECOND), start + 10 * SECOND);
    assert_eq!(at(11, start + 5000 * SECOND), start + 11 * SECOND, "forward: what was written before stays young");
    assert_eq!(at(12, start - 100 * SECOND), start - 100 * SECOND, "back: so does what is written from now on");
    assert_eq!(at(13, start + 13 * SECOND), start - 99 * SECOND, "and forward again");
}

#[test]
fn files_that_change_while_they_are_read_must_rest_longer_each_time() {
    let mut bench = Bench::new();
    assert_eq!(bench.look(SECOND, None), Some(SETTLE));
    assert_eq!(bench.look(SETTLE, None), None);
    for waits in [4, 8, 16, 32, 64, 64, 64] {
        bench.rest.disturb(bench.now);
        assert_eq!(bench.look(Duration::ZERO, None), Some(waits * SECOND));
        assert_eq!(bench.look(waits * SECOND, None), None);
    }
    bench.rest.note_read();
    bench.write("model.onnx", "other");
    assert_eq!(bench.look(SECOND, None), Some(SETTLE));
    assert_eq!(bench.rest.last_change(), "model.onnx has 5 bytes and had 1");
}
