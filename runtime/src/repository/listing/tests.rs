//! Which changes does a look notice, and which links does it follow?

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use super::*;
use crate::artifact::Reading;

/// A repository with a model and a folder outside of it.
struct Bench {
    work: tempfile::TempDir,
}

impl Bench {
    fn new() -> Bench {
        let work = tempfile::tempdir().unwrap();
        let paths =
            ["models/m/1/golden/one.json", "models/m/1/model.onnx", "models/shared/weights.bin", "outside/secret"];
        for path in paths {
            let path = work.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "content").unwrap();
        }
        Bench { work }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.work.path().join(name)
    }

    fn version(&self, name: &str) -> PathBuf {
        self.path("models/m/1").join(name)
    }

    fn list(&self) -> Listing {
        let mut listing = Listing::within([self.version("").as_path(), &self.path("models")]).unwrap();
        listing.add_folder(&self.version("")).unwrap();
        listing
    }

    fn names(&self) -> Vec<String> {
        self.list().files.iter().map(|(name, _)| name.to_owned()).collect()
    }

    /// Changes something until the file system's clock, which is coarse, shows it.
    #[track_caller]
    fn check(&self, change: impl Fn(), expected: &str) {
        let before = self.list().fingerprint;
        assert_eq!(before.difference(&self.list().fingerprint), None);
        let began = std::time::Instant::now();
        loop {
            change();
            if let Some(told) = before.difference(&self.list().fingerprint) {
                return assert_eq!(told, expected);
            }
            assert!(began.elapsed() < Duration::from_secs(5), "it does not show: {expected}");
        }
    }
}

#[test]
fn every_change_shows_and_is_told() {
    let bench = Bench::new();
    let model = bench.version("model.onnx");
    bench.check(|| fs::write(&model, "CONTENT").unwrap(), "model.onnx was changed");
    bench.check(|| fs::write(&model, "more content").unwrap(), "model.onnx has 12 bytes and had 7");
    bench.check(|| fs::set_permissions(&model, Permissions::from_mode(0o600)).unwrap(), "model.onnx was changed");
    let day_ago = SystemTime::now() - Duration::from_secs(24 * 3600);
    bench.check(|| fs::File::open(&model).unwrap().set_modified(day_ago).unwrap(), "model.onnx was changed");
    bench.check(|| fs::write(bench.version("golden/two.json"), "{}").unwrap(), "golden/two.json is new");
    bench.check(|| fs::write(bench.version(".two.json.x7Gk"), "{}").unwrap(), ".two.json.x7Gk is new");
    bench.check(|| drop(fs::remove_file(bench.version("golden/two.json"))), "golden/two.json is gone");
    bench.check(|| drop(fs::create_dir(bench.version(".~tmp~"))), ".~tmp~ is new");
    bench.check(|| fs::write(bench.version(".~tmp~/model.onnx"), "rsync at work").unwrap(), ".~tmp~/model.onnx is new");
    bench.check(|| drop(symlink("nowhere", bench.version("weights.bin"))), "weights.bin (the link) is new");
}

#[test]
fn work_in_progress_is_seen_and_does_not_count() {
    let bench = Bench::new();
    fs::write(bench.version(".model.onnx.x7Gk"), "rsync at work").unwrap();
    fs::write(bench.version("model.onnx.part"), "a browser at work").unwrap();
    symlink("nowhere", bench.version("weights.bin")).unwrap();
    assert_eq!(bench.names(), ["golden/one.json", "model.onnx"]);
}

#[test]
fn links_are_followed_inside_the_repository() {
    let bench = Bench::new();
    // As Kubernetes mounts a volume.
    fs::create_dir(bench.version("..2026")).unwrap();
    fs::write(bench.version("..2026/labels.txt"), "a").unwrap();
    symlink("..2026", bench.version("..data")).unwrap();
    symlink("..data/labels.txt", bench.version("labels.txt")).unwrap();
    symlink("../../shared/weights.bin", bench.version("weights.bin")).unwrap();
    let listing = bench.list();
    assert_eq!(listing.refused, None);
    assert_eq!(bench.names(), ["golden/one.json", "labels.txt", "model.onnx", "weights.bin"]);
    let mut reading = Reading::new(&listing.files);
    assert_eq!(reading.take("weights.bin").unwrap().unwrap(), "content");
}

#[test]
fn links_that_lead_out_of_the_repository_are_refused() {
    for target in ["../../../outside/secret", "../../../outside", "/etc/hostname", "/proc/self/environ"] {
        let bench = Bench::new();
        symlink(target, bench.version("leak")).unwrap();
        let refused = bench.list().refused.unwrap_or_default();
        assert!(refused.contains("leak leads to") && refused.contains("is not inside"), "{target}: {refused}");
    }
}

#[test]
fn a_link_that_is_moved_after_the_look_leads_nowhere() {
    let bench = Bench::new();
    let listing = bench.list();
    let model = bench.version("model.onnx");
    let swap = |target: &str| {
        fs::remove_file(&model).unwrap();
        symlink(bench.path(target), &model).unwrap();
        Reading::new(&listing.files).take("model.onnx").unwrap().map_err(|error| error.to_string())
    };
    let error = swap("outside/secret").unwrap_err();
    assert!(error.contains("outside/secret, which is not inside") && error.contains("models"), "{error}");
    assert_eq!(swap("models/shared/weights.bin").unwrap(), "content");
    // The same for a folder on the way to it.
    fs::remove_dir_all(bench.version("golden")).unwrap();
    symlink(bench.path("outside"), bench.version("golden")).unwrap();
    fs::write(bench.path("outside/one.json"), "{}").unwrap();
    let error = Reading::new(&listing.files).take("golden/one.json").unwrap().unwrap_err();
    assert!(error.to_string().contains("is not inside"), "{error}");
}

#[test]
fn what_is_no_file_any_more_does_not_hold_the_reader_up() {
    let bench = Bench::new();
    let listing = bench.list();
    let model = bench.version("model.onnx");
    fs::remove_file(&model).unwrap();
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &model, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let error = Reading::new(&listing.files).take("model.onnx").unwrap().unwrap_err();
    assert!(error.to_string().contains("is not a file"), "{error}");
}

#[test]
fn an_endless_folder_is_refused() {
    let bench = Bench::new();
    symlink(".", bench.version("self")).unwrap();
    let mut listing = Listing::within([bench.version("").as_path()]).unwrap();
    assert!(listing.add_folder(&bench.version("")).is_err());
}
