//! Does a backup come back to the byte, and a damaged one not at all?

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::thread;

use tempfile::TempDir;

use super::*;
use crate::Limits;
use crate::audit::{Sealer, Signer};

const T0: u64 = 1_700_000_000_000;

/// A data folder with a log that goes on, checkpoints, keys, and two blobs of which the record wants one.
struct Data {
    folder: TempDir,
    log: Log,
    sealer: Sealer,
    store: Store,
    wanted: Vec<Digest>,
}

impl Data {
    fn new() -> Data {
        let folder = tempfile::tempdir().expect("a folder");
        let log = Log::open(&folder.path().join("log"), Limits { segment_bytes: 900 }).expect("a log");
        let signer = Signer::open(folder.path()).expect("a key");
        let sealer = Sealer::open(&folder.path().join("log/checkpoints"), signer, &log).expect("it opens");
        let store = Store::open(&folder.path().join("blobs")).expect("a store");
        let wanted = vec![store.put(&mut &b"weights"[..], 100).expect("it is kept").digest];
        store.put(&mut &b"of nobody"[..], 100).expect("it is kept");
        let mut data = Data { folder, log, sealer, store, wanted };
        data.write(20);
        data.sealer.seal(&data.log, T0).expect("it is signed");
        data.write(5);
        data
    }

    fn write(&mut self, count: u64) {
        (0..count).for_each(|n| assert!(self.log.record(T0 + n, "test.entry", &n).expect("it is written") > 0));
    }

    fn backup(&self, has_secret: bool, to: &Path) -> Result<Backup> {
        let (checkpoints, secret) = (self.folder.path().join("log/checkpoints"), self.folder.path().join("audit.key"));
        let parts = Parts {
            log: &self.log,
            checkpoints: &checkpoints,
            key: self.sealer.signer().public(),
            secret: has_secret.then_some(&secret),
            blobs: Some((&self.store, &self.wanted)),
        };
        backup(&parts, to)
    }
}

fn bytes(folder: &Path) -> Vec<u8> {
    let mut paths: Vec<_> =
        fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    let lines = paths.iter().filter(|path| path.extension().is_some_and(|end| end == "jsonl"));
    lines.flat_map(|path| fs::read(path).expect("a segment")).collect()
}

#[test]
fn what_is_put_by_comes_back_to_the_byte_and_goes_on() {
    let data = Data::new();
    let (kept, back) = (data.folder.path().join("kept"), data.folder.path().join("back"));
    let made = data.backup(true, &kept).expect("it is put by");
    assert_eq!((made.head, made.has_secret, made.blobs), (data.log.head(), true, 1));
    assert_eq!(verify_backup(&kept).expect("it is whole"), made);
    assert_eq!(fs::metadata(kept.join("audit.key")).expect("a key").permissions().mode() & 0o777, 0o600);
    assert_eq!(restore(&kept, &back).expect("it comes back"), made);
    assert_eq!(bytes(&back.join("log")), bytes(&data.folder.path().join("log")));
    assert!(bytes(&back.join("log")).len() > 2000);
    let store = Store::open(&back.join("blobs")).expect("a store");
    assert_eq!(store.size(data.wanted[0]).expect("it runs"), Some(7));

    let log = Log::open(&back.join("log"), Limits::default()).expect("a log");
    let signer = Signer::open(&back).expect("the same key");
    assert_eq!(signer.public(), data.sealer.signer().public());
    let mut sealer = Sealer::open(&back.join("log/checkpoints"), signer, &log).expect("it goes on");
    assert_eq!(log.record(T0, "test.entry", &"more").expect("it is written"), 26);
    assert_eq!(sealer.seal(&log, T0 + 1).expect("it is signed").map(|made| made.size), Some(26));
}

#[test]
fn without_the_secret_another_key_goes_on_and_what_was_signed_is_kept() {
    let data = Data::new();
    let (kept, back) = (data.folder.path().join("kept"), data.folder.path().join("back"));
    data.backup(false, &kept).expect("it is put by");
    assert!(!kept.join("audit.key").exists());
    restore(&kept, &back).expect("it comes back");
    let log = Log::open(&back.join("log"), Limits::default()).expect("a log");
    let signer = Signer::open(&back).expect("a new key");
    assert_ne!(signer.public(), data.sealer.signer().public());
    let mut sealer = Sealer::open(&back.join("log/checkpoints"), signer, &log).expect("it begins");
    assert_eq!(sealer.seal(&log, T0).expect("it is signed").map(|made| made.size), Some(25));
    let before = PublicKey::read(&back.join("audit.pub.before")).expect("a key");
    let entries = Entries::open(&back.join("log"), 1).expect("a log");
    let audited = audit::verify(entries, &back.join("log/checkpoints.before"), &before, &[]).expect("it is whole");
    assert_eq!((audited.signed, audited.head), (20, data.log.head()));
}

/// Whoever puts by while others write has a log that is whole, with nothing in it that was not promised.
#[test]
fn it_may_be_written_meanwhile() {
    let mut data = Data::new();
    let folder = data.folder.path().to_owned();
    let Data { log, sealer, store, wanted, .. } = &mut data;
    let (log, checkpoints) = (&*log, folder.join("log/checkpoints"));
    let key = sealer.signer().public().clone();
    thread::scope(|scope| {
        let writer = scope.spawn(move || {
            for n in 0..400 {
                log.record(T0 + n, "test.entry", &n).expect("it is written");
                sealer.seal(log, T0 + n).expect("it is signed");
            }
        });
        for round in 0.. {
            let kept = folder.join(format!("kept{round}"));
            let parts =
                Parts { log, checkpoints: &checkpoints, key: &key, secret: None, blobs: Some((&*store, wanted)) };
            let made = backup(&parts, &kept).expect("it is put by");
            assert_eq!(verify_backup(&kept).expect("it is whole"), made);
            if writer.is_finished() {
                assert!(round > 0, "at least one was made meanwhile");
                break;
            }
        }
    });
}

#[test]
fn any_changed_byte_of_a_backup_is_found_before_anything_is_restored() {
    let data = Data::new();
    let kept = data.folder.path().join("kept");
    data.backup(true, &kept).expect("it is put by");
    let mut files = vec![];
    let mut waiting = vec![kept.clone()];
    while let Some(path) = waiting.pop() {
        match path.is_dir() {
            true => waiting.extend(fs::read_dir(&path).expect("a folder").map(|entry| entry.expect("an entry").path())),
            false => files.push(path),
        }
    }
    files.sort();
    assert!(files.len() >= 6, "{files:?}");
    let mut random = 0x6261_636b_7570_u64;
    for case in 0..300 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let path = &files[case % files.len()];
        let whole = fs::read(path).expect("a file");
        let at = (random >> 33) as usize % whole.len();
        let mut changed = whole.clone();
        changed[at] ^= ((random >> 20) as u8).max(1);
        fs::set_permissions(path, fs::Permissions::from_mode(0o644)).expect("set");
        fs::write(path, &changed).expect("written");
        // White space and the case of letters in backup.json say the same.
        let is_same = path.ends_with("backup.json")
            && serde_json::from_slice::<serde_json::Value>(&changed).is_ok_and(|text| {
                text.to_string().to_lowercase()
                    == serde_json::from_slice::<serde_json::Value>(&whole).expect("JSON").to_string().to_lowercase()
            });
        if !is_same {
            let back = data.folder.path().join("back");
            assert!(restore(&kept, &back).is_err(), "byte {at} of {}", path.display());
            assert!(!back.exists(), "nothing is restored");
        }
        fs::write(path, &whole).expect("written");
    }
    verify_backup(&kept).expect("it is whole again");
}

#[test]
fn what_is_no_backup_and_where_something_lies_is_said() {
    let data = Data::new();
    let kept = data.folder.path().join("kept");
    data.backup(false, &kept).expect("it is put by");
    let error = restore(&kept, data.folder.path()).expect_err("something is there").to_string();
    assert!(error.contains("is not empty: expected a new folder"), "{error}");
    assert!(data.backup(false, &kept).is_err_and(|error| error.to_string().contains("is not empty")));
    fs::remove_file(kept.join("backup.json")).expect("it was there");
    let error = verify_backup(&kept).expect_err("it was not finished").to_string();
    assert!(error.contains("it was not finished"), "{error}");
}
