//! Is what lies in the cache's folder always what was fetched, and a version's folder whole?

use super::super::plan::{Object, Sorted};
use super::*;

fn address() -> Address {
    Address::of(Path::new("s3://bucket/models")).unwrap().unwrap()
}

fn open(data_dir: &Path) -> Cache {
    let mut cache = Cache::open(data_dir, &address()).unwrap();
    cache.verify().unwrap();
    cache
}

/// Makes the cache what is listed, as `path=content`, with the content as tag.
fn sync(cache: &mut Cache, listed: &[&str]) {
    let object = |text: &&str| {
        let (path, tag) = text.split_once('=').unwrap();
        Object { path: path.to_owned(), tag: tag.to_owned(), size: Some(tag.len() as u64), sha256: None }
    };
    let listed: Vec<Object> = listed.iter().map(object).collect();
    let plan = Sorted::of(&listed).plan(cache.held(), |_| "all".parse().unwrap());
    for change in plan.changes.values() {
        let mut fetched = Files::new();
        for object in &change.fetch {
            let mut part = cache.parts.begin(object).unwrap();
            part.write(object.tag.as_bytes()).unwrap();
            let held = Held { tag: object.tag.clone(), size: part.received(), sha256: part.end().unwrap() };
            fetched.insert(object.path.clone(), held);
        }
        cache.publish(change, &fetched).unwrap();
    }
}

/// Everything in a folder, as `path=content`.
fn content(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                found.push(format!("{name}={}", fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

#[track_caller]
fn check(cache: &mut Cache, listed: &[&str]) {
    sync(cache, listed);
    let mut expected = listed.to_vec();
    expected.sort_unstable();
    assert_eq!(content(&cache.root), expected);
    assert_eq!(cache.held().keys().count(), listed.len());
}

#[test]
fn the_folder_follows_the_listing() {
    let data = tempfile::tempdir().unwrap();
    let mut cache = open(data.path());
    check(&mut cache, &["a/1/m=x", "a/1/golden/g=y", "a/s=z", "b/2/m=w"]);
    check(&mut cache, &["a/1/m=new", "a/1/golden/g=y", "a/s=z", "b/2/m=w"]);
    check(&mut cache, &["a/1/m=new", "a/s=other", "a/2/m=x"]);
    assert!(!cache.root.join("b").exists(), "the last version takes the model's folder along");
    check(&mut cache, &["lone.onnx=x", "golden/g=y"]);
    check(&mut cache, &["lone.onnx=new", "golden/g=y"]);
    check(&mut cache, &["a/1/m=x"]);
    // A file where a folder was, and a folder where a file was.
    check(&mut cache, &["a/2/m=x", "a/1=f"]);
    check(&mut cache, &["a/2/m=x", "a/1/m=x"]);
    drop(cache);
    let cache = open(data.path());
    assert_eq!(content(&cache.root), ["a/1/m=x", "a/2/m=x"]);
    assert_eq!(cache.held().len(), 2);
}

#[test]
fn a_version_that_does_not_change_is_not_touched() {
    let data = tempfile::tempdir().unwrap();
    let mut cache = open(data.path());
    sync(&mut cache, &["a/1/m=x", "a/s=y"]);
    let look = |cache: &Cache| {
        let scan = tiltyard_runtime::repository::scan(&cache.root).unwrap();
        scan.models["a"].versions[&1].fingerprint.clone()
    };
    let before = look(&cache);
    sync(&mut cache, &["a/1/m=x", "a/s=y", "a/2/m=z", "b/1/m=w"]);
    assert_eq!(before.difference(&look(&cache)), None);
}

#[test]
fn only_what_was_fetched_is_believed() {
    #[track_caller]
    fn check(spoil: impl Fn(&Path), expected: &[&str]) {
        let data = tempfile::tempdir().unwrap();
        let mut cache = open(data.path());
        sync(&mut cache, &["a/1/m=x", "a/1/n=y", "a/2/m=z", "a/s=t", "b/1/m=x"]);
        spoil(&cache.root);
        drop(cache);
        let cache = open(data.path());
        assert_eq!(content(&cache.root), expected);
        assert_eq!(cache.held().len(), expected.len());
    }
    let write = |path: &'static str, text: &'static str| move |root: &Path| fs::write(root.join(path), text).unwrap();
    check(write("a/1/m", "X"), &["a/2/m=z", "a/s=t", "b/1/m=x"]);
    check(write("a/1/m", "xx"), &["a/2/m=z", "a/s=t", "b/1/m=x"]);
    check(|root| fs::remove_file(root.join("a/1/n")).unwrap(), &["a/2/m=z", "a/s=t", "b/1/m=x"]);
    check(|root| fs::remove_dir_all(root.join("a/2")).unwrap(), &["a/1/m=x", "a/1/n=y", "a/s=t", "b/1/m=x"]);
    // What a model's own files say shapes all of its versions.
    check(write("a/s", "T"), &["b/1/m=x"]);
    check(write("a/1/extra", "e"), &["a/1/m=x", "a/1/n=y", "a/2/m=z", "a/s=t", "b/1/m=x"]);
    check(
        |root| {
            fs::create_dir_all(root.join("c/1")).unwrap();
            fs::write(root.join("c/1/m"), "e").unwrap();
        },
        &["a/1/m=x", "a/1/n=y", "a/2/m=z", "a/s=t", "b/1/m=x"],
    );
    #[cfg(unix)]
    check(
        |root| {
            fs::remove_file(root.join("b/1/m")).unwrap();
            std::os::unix::fs::symlink(root.join("a/1/m"), root.join("b/1/m")).unwrap();
        },
        &["a/1/m=x", "a/1/n=y", "a/2/m=z", "a/s=t"],
    );
}

#[test]
fn each_process_has_a_cache_of_its_own() {
    let data = tempfile::tempdir().unwrap();
    let mut first = open(data.path());
    let second = open(data.path());
    assert_ne!(first.root, second.root);
    sync(&mut first, &["a/1/m=x"]);
    assert_eq!(content(&second.root), [""; 0]);
    let root = first.root.clone();
    drop(first);
    assert_eq!(open(data.path()).root, root, "what nobody uses is taken again");
    let _others: Vec<Cache> = (1..CACHES_MAX).map(|_| open(data.path())).collect();
    let error = Cache::open(data.path(), &address()).map(|_| ()).unwrap_err();
    assert!(error.contains("processes use it already"), "{error}");
}

#[test]
fn a_publication_that_fails_leaves_the_old_version() {
    let data = tempfile::tempdir().unwrap();
    let mut cache = open(data.path());
    sync(&mut cache, &["a/1/m=x", "a/1/n=y"]);
    let place = Place::Version("a".to_owned(), 1);
    let paths = BTreeSet::from(["a/1/m".to_owned(), "a/1/n".to_owned()]);
    let change = Change { places: [(place, paths)].into(), ..Change::default() };
    // It says that it was fetched, and it is not there.
    let lost = Held { tag: "z".to_owned(), size: 1, sha256: [0; 32] };
    cache.publish(&change, &Files::from([("a/1/m".to_owned(), lost)])).unwrap_err();
    assert_eq!(content(&cache.root), ["a/1/m=x", "a/1/n=y"]);
    check(&mut cache, &["a/1/m=z", "a/1/n=y"]);
}
