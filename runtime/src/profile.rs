//! Was this deployment measured before, on this machine?
//!
//! One JSON file per artifact, engine, build, provider, threads of a run, and machine: when one of them changes, it is
//! measured anew. A file that cannot be read is as good as none.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tiltyard_types::Digest;

use crate::cost::Point;

/// A file larger than this was not written here.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Files in the folder of profiles, about: a model that is made anew every hour leaves two each time.
const FILES_MAX: usize = 1_000;

/// Writes between two looks at how many files there are.
const WRITES_A_LOOK: u64 = 16;

/// What a profile is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Subject {
    pub(crate) artifact: String,
    pub(crate) engine: String,
    pub(crate) build: String,
    pub(crate) provider: String,
    /// Threads that one run may use.
    pub(crate) threads: usize,
    /// Up to which batch it was measured.
    pub(crate) rows_max: usize,
    pub(crate) machine: Machine,
}

/// What two machines must share so that runs cost the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Machine {
    cpu: String,
    arch: String,
    /// Processors that the process may use.
    cores: usize,
}

impl Machine {
    /// This one, of which `cores` may be used.
    pub(crate) fn here(cores: usize) -> Machine {
        Machine { cpu: cpu_name().to_owned(), arch: std::env::consts::ARCH.to_owned(), cores }
    }
}

/// What is known of a deployment.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Profile {
    pub(crate) points: Vec<Point>,
    pub(crate) best_rows: usize,
}

/// Where a deployment's profile is kept.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    file: PathBuf,
    subject: Subject,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    subject: Subject,
    best_rows: usize,
    points: Vec<KeptPoint>,
}

#[derive(Serialize, Deserialize)]
struct KeptPoint {
    rows: f64,
    runs: u64,
    typical_ns: u64,
    p99_ns: Option<u64>,
}

impl Place {
    /// The place for `subject` in the folder of profiles.
    pub(crate) fn new(folder: &Path, subject: Subject) -> Place {
        let key = serde_json::to_vec(&subject).unwrap_or_default();
        let file = folder.join(format!("cost-{}.json", Digest::new(Sha256::digest(key).into())));
        Place { file, subject }
    }

    /// What was kept; `None` where there is nothing that can be used.
    pub(crate) fn read(&self) -> Option<Profile> {
        if fs::metadata(&self.file).ok()?.len() > FILE_BYTES_MAX {
            return None;
        }
        let kept: Kept = serde_json::from_slice(&fs::read(&self.file).ok()?).ok()?;
        let sound = |point: &KeptPoint| (1.0..=1e9).contains(&point.rows) && point.typical_ns > 0 && point.runs > 0;
        let usable = kept.subject == self.subject
            && (1..=self.subject.rows_max).contains(&kept.best_rows)
            && !kept.points.is_empty()
            && kept.points.iter().all(sound);
        usable.then(|| Profile {
            best_rows: kept.best_rows,
            points: kept
                .points
                .iter()
                .map(|point| Point {
                    rows: point.rows,
                    runs: point.runs,
                    typical: Duration::from_nanos(point.typical_ns),
                    p99: point.p99_ns.map(Duration::from_nanos),
                })
                .collect(),
        })
    }

    /// Keeps what was measured. A folder that cannot be written costs the next start a measurement, nothing else.
    pub(crate) fn keep(&self, points: &[Point], best_rows: usize) {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let kept_point = |point: &Point| KeptPoint {
            rows: point.rows,
            runs: point.runs,
            typical_ns: nanos(point.typical),
            p99_ns: point.p99.map(nanos),
        };
        let kept = Kept { subject: self.subject.clone(), best_rows, points: points.iter().map(kept_point).collect() };
        let text = serde_json::to_vec_pretty(&kept).map_err(std::io::Error::from);
        if let Err(error) = text.and_then(|text| replace(&self.file, &text)) {
            tracing::debug!(%error, file = %self.file.display(), "what runs cost is not kept");
        }
    }
}

/// Writes a file so that readers find all of the old or all of the new, whoever else writes it at that moment.
pub(crate) fn replace(file: &Path, text: &[u8]) -> std::io::Result<()> {
    static WRITES: AtomicU64 = AtomicU64::new(0);
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    let number = WRITES.fetch_add(1, Relaxed);
    let temporary = file.with_extension(format!("{}-{number}.tmp", std::process::id()));
    let replaced = fs::write(&temporary, text).and_then(|()| fs::rename(&temporary, file));
    if replaced.is_err() {
        // What cannot be removed either was not made, or is left to whoever owns the folder.
        drop(fs::remove_file(&temporary));
    }
    if let Some(folder) = file.parent().filter(|_| number.is_multiple_of(WRITES_A_LOOK)) {
        prune(folder, FILES_MAX);
    }
    replaced
}

/// Removes the oldest files, so that a quarter of the room is free again, where there are more than `files_max`. Whatever is still
/// of use among them is found out anew. What cannot be looked at or removed stays.
fn prune(folder: &Path, files_max: usize) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let mut files: Vec<(SystemTime, PathBuf)> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let metadata = entry.metadata().ok().filter(|metadata| metadata.is_file())?;
            Some((metadata.modified().ok()?, entry.path()))
        })
        .collect();
    if files.len() <= files_max {
        return;
    }
    files.sort_unstable();
    let surplus = files.len() - files_max * 3 / 4;
    files[..surplus].iter().for_each(|(_, file)| drop(fs::remove_file(file)));
}

/// The processor's name as the system tells it; empty where it does not.
pub fn cpu_name() -> &'static str {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| {
        let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let line = cpu.lines().find(|line| line.starts_with("model name")).unwrap_or_default();
        line.split_once(':').map_or("", |(_, name)| name.trim()).to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(engine: &str) -> Subject {
        Subject {
            artifact: "sha256:00".into(),
            engine: engine.into(),
            build: "1".into(),
            provider: "cpu".into(),
            threads: 1,
            rows_max: 64,
            machine: Machine::here(2),
        }
    }

    fn profile() -> Profile {
        let point = |rows, micros| Point {
            rows,
            runs: 48,
            typical: Duration::from_micros(micros),
            p99: Some(Duration::from_micros(micros * 2)),
        };
        Profile { points: vec![point(1.0, 5), Point { p99: None, ..point(64.0, 90) }], best_rows: 64 }
    }

    #[test]
    fn what_was_kept_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::new(&folder.path().join("profiles"), subject("tract"));
        assert_eq!(place.read(), None);
        place.keep(&profile().points, 64);
        assert_eq!(place.read(), Some(profile()));
        assert_eq!(Place::new(&folder.path().join("profiles"), subject("onnxruntime")).read(), None);
    }

    #[test]
    fn what_cannot_be_used_is_as_good_as_none() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::new(folder.path(), subject("tract"));
        let check = |text: &str| {
            fs::write(&place.file, text).unwrap();
            assert_eq!(place.read(), None, "{text}");
        };
        place.keep(&profile().points, 64);
        let good = fs::read_to_string(&place.file).unwrap();
        check("");
        check(&good[..good.len() / 2]);
        check(&good.replace("\"best_rows\": 64", "\"best_rows\": 65"));
        check(&good.replace("\"rows\": 1.0", "\"rows\": -1.0"));
        check(&good.replace("\"engine\": \"tract\"", "\"engine\": \"other\""));
        check(&good.replace("tract", &"t".repeat(FILE_BYTES_MAX as usize)));
    }

    #[test]
    fn the_oldest_files_make_room() {
        let folder = tempfile::tempdir().unwrap();
        let names = || {
            let mut names: Vec<String> = fs::read_dir(folder.path())
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        };
        for number in 0..9 {
            let file = fs::File::create(folder.path().join(format!("{number}.json"))).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(100 - number)).unwrap();
        }
        prune(folder.path(), 9);
        assert_eq!(names().len(), 9);
        prune(folder.path(), 8);
        assert_eq!(names(), ["0.json", "1.json", "2.json", "3.json", "4.json", "5.json"]);
        prune(&folder.path().join("none"), 8);
    }

    #[test]
    fn the_folder_does_not_grow_without_bound() {
        let folder = tempfile::tempdir().unwrap();
        let bound = FILES_MAX + usize::try_from(WRITES_A_LOOK).unwrap();
        for number in 0..FILES_MAX + 200 {
            replace(&folder.path().join(format!("{number}.json")), b"{}").unwrap();
        }
        assert!(fs::read_dir(folder.path()).unwrap().count() <= bound);
    }

    #[test]
    fn writers_of_one_file_do_not_disturb_one_another() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("choice.json");
        std::thread::scope(|scope| {
            for writer in 0..4u8 {
                let file = &file;
                scope.spawn(move || (0..200).for_each(|_| replace(file, &vec![writer; 10_000]).unwrap()));
            }
        });
        let text = fs::read(&file).unwrap();
        assert!(text.len() == 10_000 && text.iter().all(|byte| *byte == text[0]));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_no_failure() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let place = Place::new(&file, subject("tract"));
        place.keep(&profile().points, 64);
        assert_eq!(place.read(), None);
    }
}
