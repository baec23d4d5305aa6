//! Is what gets read always a whole version that somebody finished, however it was written and whenever it was looked at?
//!
//! Versions are written step by step by every way that people use, on a real file system, while looks and reads come at
//! any time between the steps. The clock is made up: whoever writes never stands still for the settle time.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use proptest::prelude::*;
use tiltyard_types::Moment;

use super::rest::{Now, Rest, WallClock};
use super::{FoundVersion, scan};
use crate::artifact::Reading;

const SETTLE: Duration = Duration::from_secs(2);

/// One thing that a tool does.
type Step = Box<dyn FnOnce()>;

/// A way to put a version in place.
#[derive(Clone, Copy, Debug)]
enum Way {
    Copy { keeps_times: bool },
    Rename,
    Link,
    Volume,
    Touch,
}

fn model(stamp: u32) -> String {
    format!("model {stamp:08}")
}

fn golden(stamp: u32) -> String {
    format!("golden {stamp:08}")
}

/// The steps that put the version of this stamp where `folder` is, whatever was there before.
fn steps(way: Way, work: &Path, folder: &Path, stamp: u32) -> Vec<Step> {
    match way {
        Way::Copy { keeps_times } => copy(folder.to_owned(), stamp, keeps_times),
        Way::Rename => {
            let aside = folder.with_file_name(".incoming");
            let mut steps = copy(aside.clone(), stamp, false);
            let (folder, old) = (folder.to_owned(), folder.with_file_name(".old"));
            let (from, to) = (folder.clone(), old.clone());
            steps.push(Box::new(move || drop(fs::rename(from, to))));
            steps.push(Box::new(move || fs::rename(aside, folder).unwrap()));
            steps.push(Box::new(move || remove(&old)));
            steps
        }
        Way::Link => {
            let store = work.join(format!("store-{stamp}"));
            let mut steps = copy(store.clone(), stamp, true);
            let folder = folder.to_owned();
            steps.push(Box::new(move || link_over(&store, &folder)));
            steps
        }
        Way::Volume => {
            let data = format!("..{stamp}");
            let mut steps: Vec<Step> = Vec::new();
            let place = folder.to_owned();
            steps.push(Box::new(move || {
                if !place.join("..data").exists() {
                    remove(&place)
                }
            }));
            steps.extend(copy(folder.join(&data), stamp, false));
            let place = folder.to_owned();
            steps.push(Box::new(move || link_over(Path::new(&data), &place.join("..data"))));
            let place = folder.to_owned();
            steps.push(Box::new(move || drop(symlink("..data/model.onnx", place.join("model.onnx")))));
            let place = folder.to_owned();
            steps.push(Box::new(move || drop(symlink("..data/golden", place.join("golden")))));
            steps
        }
        Way::Touch => {
            let (mode, time) = (folder.join("model.onnx"), folder.join("golden/one.json"));
            vec![
                Box::new(move || drop(fs::set_permissions(mode, Permissions::from_mode(0o640 + stamp % 8)))),
                Box::new(move || drop(File::open(time).and_then(|file| file.set_modified(day_ago())))),
            ]
        }
    }
}

/// What `cp` does: folders and files one after the other, the files in pieces; `cp -p` sets the times back after each.
fn copy(folder: PathBuf, stamp: u32, keeps_times: bool) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let place = folder.clone();
    // What is there of another kind is in the way.
    steps.push(Box::new(move || {
        if place.is_symlink() || place.join("..data").exists() {
            remove(&place);
        }
        fs::create_dir_all(place.join("golden")).unwrap();
    }));
    for (name, text) in [("model.onnx", model(stamp)), ("golden/one.json", golden(stamp))] {
        let (path, half) = (folder.join(name), text[..text.len() / 2].to_owned());
        steps.push(Box::new(move || fs::write(path, half).unwrap()));
        let path = folder.join(name);
        steps.push(Box::new(move || {
            fs::write(&path, text).unwrap();
            if keeps_times {
                path.ancestors().take(3).for_each(|path| File::open(path).unwrap().set_modified(day_ago()).unwrap());
            }
        }));
    }
    steps
}

fn day_ago() -> SystemTime {
    SystemTime::now() - Duration::from_secs(24 * 3600)
}

fn remove(path: &Path) {
    match path.is_symlink() {
        true => fs::remove_file(path).unwrap(),
        false => drop(fs::remove_dir_all(path)),
    }
}

fn link_over(target: &Path, link: &Path) {
    if !link.is_symlink() {
        remove(link);
    }
    let aside = link.with_file_name(".link");
    symlink(target, &aside).unwrap();
    fs::rename(aside, link).unwrap();
}

/// What happens next to a repository.
#[derive(Clone, Debug)]
enum Event {
    /// Somebody does the next step of what is being done.
    Step,
    /// Time passes; less than the settle time while a version is half written.
    Wait(Duration),
    /// A look, and a read if the files rest, in which so many steps are done by somebody.
    Look { steps_within: usize },
    /// The process is started anew.
    Restart,
    /// The wall clock jumps by so many seconds.
    Jump(i64),
}

struct World {
    work: tempfile::TempDir,
    steps: Vec<Step>,
    /// The stamp that is being written.
    stamp: u32,
    finished: Vec<u32>,
    ways: Vec<Way>,
    steady: Duration,
    wall: SystemTime,
    /// Since the last step.
    idle: Duration,
    rest: Rest,
    clock: WallClock,
    looked_before: bool,
    published: usize,
}

impl World {
    fn new(mut ways: Vec<Way>) -> World {
        ways.push(Way::Copy { keeps_times: true });
        let work = tempfile::tempdir().unwrap();
        fs::create_dir_all(work.path().join("models/m")).unwrap();
        World {
            work,
            steps: Vec::new(),
            stamp: 0,
            finished: Vec::new(),
            ways,
            steady: Duration::ZERO,
            wall: SystemTime::now(),
            idle: Duration::ZERO,
            rest: Rest::default(),
            clock: WallClock::default(),
            looked_before: false,
            published: 0,
        }
    }

    fn root(&self) -> PathBuf {
        self.work.path().join("models")
    }

    fn step(&mut self) {
        if self.steps.is_empty() {
            let Some(way) = self.ways.pop() else { return };
            // A version that is only touched stays what it is.
            self.stamp += u32::from(!matches!(way, Way::Touch));
            self.steps = steps(way, self.work.path(), &self.root().join("m/1"), self.stamp);
            self.steps.reverse();
        }
        if let Some(step) = self.steps.pop() {
            step();
            self.idle = Duration::ZERO;
            self.tick();
        }
        if self.steps.is_empty() {
            self.finished.push(self.stamp);
        }
    }

    /// Waits until the clock of the file system, which is coarse, goes on: what takes no time here takes some elsewhere.
    fn tick(&self) {
        let scratch = self.work.path().join("scratch");
        let began = Instant::now();
        let time = || {
            fs::write(&scratch, "x").unwrap();
            let metadata = fs::metadata(&scratch).unwrap();
            (metadata.ctime(), metadata.ctime_nsec())
        };
        let first = time();
        while time() == first {
            assert!(began.elapsed() < Duration::from_secs(5), "the file system's clock stands still");
        }
    }

    fn wait(&mut self, time: Duration) {
        // Who has begun goes on in time.
        let most =
            if self.steps.is_empty() { time } else { (SETTLE - Duration::from_millis(50)).saturating_sub(self.idle) };
        let time = time.min(most);
        self.idle += time;
        self.steady += time;
        self.wall += time;
    }

    fn look(&mut self, steps_within: usize) {
        if !self.looked_before {
            // The files' own times tell a start how long ago the last step was.
            self.wall = SystemTime::now() + self.idle;
        }
        let now = Now { steady: Moment::from_nanos(self.steady.as_nanos() as u64), wall: self.wall };
        let at_least = self.clock.at_least(now);
        let at_least = (!std::mem::replace(&mut self.looked_before, true)).then_some(at_least);
        let found = scan(&self.root()).unwrap().models.remove("m").and_then(|mut model| model.versions.remove(&1));
        let Some(found) = found else { return };
        if self.rest.look(&found.fingerprint, now.steady, at_least, SETTLE).is_none() {
            self.read(&found, steps_within);
        }
    }

    fn read(&mut self, found: &FoundVersion, mut steps_within: usize) {
        let mut reading = Reading::new(&found.files);
        let mut content = BTreeMap::new();
        let mut failed = found.refused.clone();
        for (name, _) in found.files.iter() {
            if steps_within > 0 {
                self.step();
                steps_within -= 1;
            }
            match reading.take(name).unwrap() {
                Ok(bytes) => drop(content.insert(name.to_owned(), String::from_utf8_lossy(&bytes).into_owned())),
                Err(error) => failed = Some(error.to_string()),
            }
        }
        if let Some(change) = found.change() {
            assert!(!change.is_empty());
            return self.rest.disturb(Moment::from_nanos(self.steady.as_nanos() as u64));
        }
        assert_eq!(failed, None, "what rests can be read");
        self.rest.note_read();
        self.published += 1;
        let expected = |stamp: u32| {
            BTreeMap::from([("golden/one.json".to_owned(), golden(stamp)), ("model.onnx".to_owned(), model(stamp))])
        };
        let whole = self.finished.iter().any(|stamp| content == expected(*stamp));
        assert!(whole, "{content:?} is none of the finished {:?}", self.finished);
    }

    fn run(&mut self, event: &Event) {
        match event {
            Event::Step => self.step(),
            Event::Wait(time) => self.wait(*time),
            Event::Look { steps_within } => self.look(*steps_within),
            Event::Restart => (self.rest, self.clock, self.looked_before) = Default::default(),
            Event::Jump(seconds) => {
                let jump = Duration::from_secs(seconds.unsigned_abs());
                self.wall = if *seconds < 0 { self.wall - jump } else { self.wall + jump };
            }
        }
    }
}

fn ways() -> impl Strategy<Value = Vec<Way>> {
    let way = prop_oneof![
        any::<bool>().prop_map(|keeps_times| Way::Copy { keeps_times }),
        Just(Way::Rename),
        Just(Way::Link),
        Just(Way::Volume),
        Just(Way::Touch),
    ];
    prop::collection::vec(way, 0..4)
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        8 => Just(Event::Step),
        4 => (0u64..3000).prop_map(|time| Event::Wait(Duration::from_millis(time))),
        6 => (0usize..3).prop_map(|steps| Event::Look { steps_within: steps.saturating_sub(1) }),
        1 => Just(Event::Restart),
        1 => (-5000i64..5000).prop_map(Event::Jump),
    ];
    prop::collection::vec(event, 20..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn what_is_read_is_a_whole_version_that_somebody_finished(ways in ways(), events in events()) {
        let mut world = World::new(ways);
        for event in &events {
            world.run(event);
        }
        // Everything that was begun is finished, and is then read after all.
        while !world.steps.is_empty() || !world.ways.is_empty() {
            world.step();
        }
        world.look(0);
        let published = world.published;
        // However often it was disturbed before.
        world.wait(SETTLE * 64);
        world.look(0);
        prop_assert_eq!(world.published, published + 1);
    }
}
