//! Are the same bytes kept once, checked whenever they are read, and out of reach of hostile names?

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

const MANY: u64 = 1 << 30;

fn store() -> (TempDir, Store) {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::open(&folder.path().join("blobs")).expect("a store");
    (folder, store)
}

fn put(store: &Store, bytes: &[u8]) -> Blob {
    store.put(&mut &bytes[..], MANY).expect("it is kept")
}

fn read(store: &Store, digest: Digest) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = store.open(digest)?.read_to_end(&mut bytes);
    read.map(|_| bytes).map_err(|error| Error::Lost(error.to_string()))
}

/// A version's folder: a graph, a golden example, a model-level file.
fn version(folder: &Path) -> Manifest {
    fs::create_dir_all(folder.join("golden")).expect("a folder");
    for (name, bytes) in [("model.onnx", "weights"), ("golden/one.json", "{}"), ("model.toml", "")] {
        fs::write(folder.join(name), bytes).expect("written");
    }
    Manifest::of_folder(folder).expect("a version")
}

fn files(folder: &Path) -> usize {
    let found = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    found.map(|path| if path.is_dir() { files(&path) } else { 1 }).sum()
}

#[test]
fn the_same_bytes_are_kept_once_and_read_as_they_were() {
    let (folder, store) = store();
    let blob = put(&store, b"weights");
    assert_eq!((blob, put(&store, b"weights")), (Blob { size: 7, ..blob }, blob));
    assert_eq!(blob.digest.to_string(), "9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c");
    assert_eq!(files(folder.path()), 1);
    assert_eq!(read(&store, blob.digest).expect("it is there"), b"weights");
    assert_eq!(store.size(blob.digest).expect("it runs"), Some(7));
    let path = store.file(blob.digest).expect("a file");
    assert_eq!(
        path,
        folder.path().join(format!("blobs/sha256/{}/{}", &blob.digest.to_string()[..2], &blob.digest.to_string()[2..]))
    );
    assert_eq!(fs::metadata(&path).expect("it is there").permissions().mode() & 0o777, 0o444);
    let other = Digest::new([7; 32]);
    assert_eq!(store.size(other).expect("it runs"), None);
    assert!(
        store.open(other).expect_err("it is not there").to_string().contains("is not there: push the version again")
    );
}

#[test]
fn damaged_bytes_are_found_when_they_are_read_and_mended_when_they_come_again() {
    let (_folder, store) = store();
    let blob = put(&store, b"weights");
    let path = store.file(blob.digest).expect("a file");
    fs::remove_file(&path).expect("it was there");
    fs::write(&path, b"Weights").expect("written");
    let error = read(&store, blob.digest).expect_err("damaged").to_string();
    assert!(error.contains("is damaged: its bytes have the digest"), "{error}");
    put(&store, b"weights");
    assert_eq!(read(&store, blob.digest).expect("it is mended"), b"weights");
}

#[test]
fn what_is_too_large_or_breaks_off_leaves_nothing() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            buffer[0] = 1;
            Err(io::Error::other("the line broke"))
        }
    }
    let (folder, store) = store();
    let error = store.put(&mut &b"12345678"[..], 7).expect_err("too large").to_string();
    assert!(error.contains("more bytes than the 7 that are allowed"), "{error}");
    assert!(store.put(&mut Broken, 7).is_err());
    assert_eq!(files(folder.path()), 0);
    assert_eq!(store.put(&mut &b"1234567"[..], 7).expect("it fits").size, 7);
}

/// A figure that is computed apart from this code, from what the design says of it. The runtime's tests have the same one.
#[test]
fn a_manifests_digest_is_the_artifact_digest() {
    let folder = tempfile::tempdir().expect("a folder");
    let manifest = version(folder.path());
    assert_eq!(manifest.digest().to_string(), "aa68a82ea59641803c952592ab3193c57050818ce4f5f280045855a1d1776eb0");
    assert_eq!(manifest.size(), 9);
    let text = serde_json::to_string(&manifest).expect("JSON");
    assert_eq!(serde_json::from_str::<Manifest>(&text).expect("a manifest"), manifest);
}

#[test]
fn names_that_could_lead_elsewhere_are_refused() {
    let long = "a".repeat(256);
    let deep = "a/".repeat(16) + "a";
    for name in [
        "",
        "/etc/passwd",
        "..",
        "../x",
        "a/../../x",
        "a//b",
        "a/",
        "./a",
        "a\\b",
        "C:x",
        "a\0b",
        "a\nb",
        "NUL",
        "con.txt",
        "golden/COM1",
        "lpt9.onnx",
        "x.",
        "x ",
        " x",
        &long,
        &deep,
    ] {
        let listed = |path: &str| vec![Listed { path: path.into(), size: 0, sha256: Digest::new([0; 32]) }];
        assert!(Manifest::new(listed(name)).is_err(), "{name:?}");
        let text = serde_json::json!([{ "path": name, "size": 0, "sha256": "0".repeat(64) }]);
        assert!(serde_json::from_value::<Manifest>(text).is_err(), "{name:?}");
    }
    for name in ["model.onnx", "golden/one two.json", "\u{fc}/x", "console", "com10", ".hidden"] {
        check_name(name).expect(name);
    }
    let two = |a: &str, b: &str| {
        Manifest::new([a, b].map(|path| Listed { path: path.into(), size: 0, sha256: Digest::new([0; 32]) }).into())
    };
    assert!(two("a", "a").is_err() && two("a", "a/b").is_err() && two("a-", "a/b").is_ok());
    assert!(Manifest::new(vec![]).is_err());
}

#[test]
fn links_and_devices_are_not_followed_into_a_version() {
    let (folder, store) = store();
    let version = folder.path().join("version");
    fs::create_dir(&version).expect("a folder");
    fs::write(folder.path().join("secret"), "x").expect("written");
    symlink(folder.path().join("secret"), version.join("model.onnx")).expect("a link");
    let error = Manifest::put_folder(&store, &version, MANY).expect_err("a link").to_string();
    assert!(error.contains("put the file itself there"), "{error}");
}

#[test]
fn a_version_comes_into_a_folder_as_a_whole_or_not_at_all() {
    let (folder, store) = store();
    let source = folder.path().join("source");
    let expected = version(&source);
    let manifest = Manifest::put_folder(&store, &source, MANY).expect("it is kept");
    assert_eq!(manifest, expected);
    let models = folder.path().join("models/risk");
    let place = models.join("1");
    materialise(&store, &manifest, &place).expect("it is there");
    assert_eq!(Manifest::of_folder(&place).expect("a version"), manifest);
    let blob = fs::metadata(store.file(manifest.files()[1].sha256).expect("a file")).expect("it is there");
    let linked = fs::metadata(place.join("model.onnx")).expect("it is there");
    assert_eq!((blob.ino(), linked.permissions().mode() & 0o222), (linked.ino(), 0), "a link, which nobody writes");
    materialise(&store, &manifest, &place).expect("it is there already");

    fs::write(source.join("model.toml"), "other").expect("written");
    let other = Manifest::put_folder(&store, &source, MANY).expect("it is kept");
    let error = materialise(&store, &other, &place).expect_err("other bytes are there").to_string();
    assert!(error.contains("is there already, with other bytes"), "{error}");
    // A blob is gone, or damaged: nothing appears.
    let path = store.file(other.files()[1].sha256).expect("a file");
    let bytes = fs::read(&path).expect("a blob");
    fs::remove_file(&path).expect("it was there");
    assert!(
        materialise(&store, &other, &models.join("2")).is_err_and(|error| error.to_string().contains("is not there"))
    );
    fs::write(&path, [&bytes[1..], b"x"].concat()).expect("written");
    assert!(
        materialise(&store, &other, &models.join("2")).is_err_and(|error| error.to_string().contains("is damaged"))
    );
    assert_eq!(fs::read_dir(&models).expect("a folder").count(), 1, "no other version, and nothing hidden");
}

#[test]
fn a_sweep_takes_what_nobody_refers_to_and_leaves_what_is_young() {
    let (folder, store) = store();
    let (wanted, old, young) = (put(&store, b"wanted"), put(&store, b"old"), put(&store, b"young"));
    fs::write(folder.path().join("blobs/new/1-0"), "half").expect("written");
    let now = SystemTime::now();
    let hour = Duration::from_secs(3600);
    for path in [store.file(old.digest), store.file(wanted.digest), Some(folder.path().join("blobs/new/1-0"))] {
        let path = path.expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("set");
        fs::File::options().write(true).open(path).expect("it opens").set_modified(now - 2 * hour).expect("set");
    }
    let swept = store.sweep(&|digest| digest == wanted.digest, now, hour).expect("it runs");
    assert_eq!(swept, Swept { removed: 2, removed_bytes: 7, wanted: 1, young: 1 });
    assert!(
        read(&store, old.digest).is_err() && read(&store, young.digest).is_ok() && read(&store, wanted.digest).is_ok()
    );
    // What is kept again is young again.
    let path = store.file(young.digest).expect("a file");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("set");
    fs::File::options().write(true).open(path).expect("it opens").set_modified(now - 2 * hour).expect("set");
    put(&store, b"young");
    assert_eq!(store.sweep(&|_| false, now, hour).expect("it runs").young, 1);
}

/// Who keeps a blob and looks for it within the grace time finds it, however often somebody sweeps.
#[test]
fn nobody_sweeps_away_what_is_just_being_kept() {
    let (_folder, store) = store();
    std::thread::scope(|scope| {
        let keepers: Vec<_> = (0..3u8)
            .map(|who| {
                let store = &store;
                scope.spawn(move || {
                    for n in 0..100u8 {
                        let blob = put(store, &[who % 2, n % 5]);
                        assert_eq!(read(store, blob.digest).expect("it is there"), [who % 2, n % 5]);
                    }
                })
            })
            .collect();
        while !keepers.iter().all(|keeper| keeper.is_finished()) {
            store.sweep(&|_| false, SystemTime::now(), Duration::from_secs(60)).expect("it sweeps");
        }
    });
}

proptest! {
    /// No name that passes leads out of the folder that it is joined to, whatever it holds.
    #[test]
    fn a_name_that_passes_stays_inside(name in "(\\.|/|a|\\\\|\u{fc}| |:|\0|nul|\\.\\.){0,8}") {
        if check_name(&name).is_ok() {
            let path = Path::new("some/folder").join(&name);
            prop_assert!(path.starts_with("some/folder"));
            prop_assert!(path.components().all(|part| !matches!(part, std::path::Component::ParentDir)));
            prop_assert_eq!(path.components().count(), 2 + name.split('/').count());
        }
    }
}
