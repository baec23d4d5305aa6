//! Is what is planned what the listing says, whatever the names?

use proptest::prelude::*;

use super::*;

fn object(path: &str, tag: &str) -> Object {
    Object { path: path.to_owned(), tag: tag.to_owned(), size: Some(7), sha256: None }
}

/// Objects as `path=tag`.
fn listing(texts: &[&str]) -> Vec<Object> {
    texts.iter().map(|text| text.split_once('=').unwrap()).map(|(path, tag)| object(path, tag)).collect()
}

fn held(texts: &[&str]) -> Files {
    let held = |object: Object| (object.path, Held { tag: object.tag, size: 7, sha256: [0; 32] });
    listing(texts).into_iter().map(held).collect()
}

/// What is planned, a line a step: `+` fetched, `=` a place that changes, `-` a place that leaves, `!` a problem.
fn steps(listed: &[Object], held: &Files, policy: &str) -> Vec<String> {
    let plan = Sorted::of(listed).plan(held, |_| policy.parse().unwrap());
    let mut steps = Vec::new();
    for (model, change) in &plan.changes {
        assert!(change.places.keys().chain(&change.leave).all(|place| place.model() == model));
        steps.extend(change.fetch.iter().map(|object| format!("+{}", object.path)));
        steps.extend(change.places.iter().map(|(place, files)| format!("={} {}", place.folder(), files.len())));
        steps.extend(change.leave.iter().map(|place| format!("-{}", place.folder())));
    }
    steps.extend(plan.problems.iter().map(|problem| format!("!{problem}")));
    steps
}

#[track_caller]
fn check(listed: &[&str], here: &[&str], expected: &[&str]) {
    assert_eq!(steps(&listing(listed), &held(here), "latest:2"), expected);
}

#[test]
fn what_is_new_is_fetched_and_what_is_gone_leaves() {
    check(&["a/1/m=x"], &[], &["+a/1/m", "=a/1 1"]);
    check(&["a/1/m=x"], &["a/1/m=x"], &[]);
    check(&["a/1/m=y", "a/1/n=z"], &["a/1/m=x", "a/1/n=z"], &["+a/1/m", "=a/1 2"]);
    // A file less is a change of its place, without anything to fetch.
    check(&["a/1/m=x"], &["a/1/m=x", "a/1/n=z"], &["=a/1 1"]);
    check(&["b/1/m=x"], &["a/1/m=x", "a/s=t", "b/1/m=x"], &["-a", "-a/1"]);
    check(&["a/s=t", "a/1/m=x"], &["a/1/m=x"], &["+a/s", "=a 1"]);
    check(&["a/1/m=x"], &["a/s=t", "a/1/m=x"], &["-a"]);
}

#[test]
fn only_wanted_versions_are_fetched() {
    let all = ["a/1/m=1", "a/2/m=2", "a/3/m=3", "a/4/m=4", "a/5/m=5", "a/6/m=6"];
    check(&all, &[], &["+a/5/m", "+a/6/m", "=a/5 1", "=a/6 1"]);
    // Those that are here stay for a while, and go when they are far behind.
    check(&all, &["a/2/m=2", "a/3/m=3", "a/4/m=4", "a/5/m=5", "a/6/m=6"], &["-a/2"]);
    assert_eq!(steps(&listing(&all), &held(&["a/1/m=1", "a/6/m=6"]), "1,6"), [""; 0]);
    assert_eq!(steps(&listing(&all), &held(&all), "all"), [""; 0]);
    assert_eq!(steps(&listing(&all), &held(&all), "3"), ["-a/1", "-a/2", "-a/4", "-a/5", "-a/6"]);
}

#[test]
fn what_nobody_looks_at_is_left_alone() {
    let others = ["README.md=x", "_data/1/m=x", ".git/1/m=x", "a/notes/m=x", "a/01/m=x", "a/+1/m=x", "a/1/.m.swp=x"];
    check(&[&others[..], &["a/1/m=x"]].concat(), &["a/1/m=x"], &[]);
    let mut large = object("a/data.bin", "x");
    large.size = Some(SETTINGS_BYTES_MAX + 1);
    assert_eq!(steps(&[large, object("a/1/m", "x")], &held(&["a/1/m=x"]), "all"), [""; 0]);
}

#[test]
fn a_single_model_is_one_place() {
    check(&["churn.onnx=x", "golden/a.json=y"], &[], &["+churn.onnx", "+golden/a.json", "= 2"]);
    check(&["churn.onnx=x"], &["churn.onnx=x"], &[]);
    check(&["churn.onnx=x", "a/1/m=y"], &["churn.onnx=x"], &["-", "+a/1/m", "=a/1 1"]);
}

#[test]
fn folders_that_consoles_make_are_no_files() {
    let mut listed = listing(&["a=x", "a/1=x", "a/1/golden=x", "a/1/m.onnx=x"]);
    listed.iter_mut().take(3).for_each(|object| object.size = Some(0));
    assert_eq!(steps(&listed, &held(&["a/1/m.onnx=x"]), "all"), [""; 0]);
}

#[test]
fn names_that_lead_astray_stop_their_model_alone() {
    for hostile in ["a/1/../../../etc/x", "a//x", "a/1/./m", "a/1/b\\c", "a/1/b\0c", "a/1/b\nc", "/a/1/m", "a/1/"] {
        let listed = [object(hostile, "x"), object("a/2/m", "x"), object("b/1/m", "x")];
        let steps = steps(&listed, &held(&["a/1/m=x"]), "all");
        let (problems, rest): (Vec<_>, Vec<_>) = steps.iter().partition(|step| step.starts_with('!'));
        assert_eq!(problems.len(), 1, "{hostile:?}: {steps:?}");
        assert!(problems[0].contains("is refused") && !problems[0].contains('\n'), "{problems:?}");
        if !hostile.starts_with('/') {
            assert_eq!(rest, ["+b/1/m", "=b/1 1"], "{hostile:?}");
        }
    }
    check(
        &["a/1/m=x", "a/1/m/n=x"],
        &[],
        &["!\"a/1/m\" is refused: it is a file and a folder; nothing of this model is changed meanwhile"],
    );
    check(&["a/model.onnx=x"], &[], &["!\"a\" has no version: expected an object such as a/1/model.onnx"]);
}

#[test]
fn a_digest_of_the_listing_must_be_that_of_the_file() {
    let mut listed = object("a/1/m", "x");
    listed.sha256 = Some([1; 32]);
    assert_eq!(steps(&[listed], &held(&["a/1/m=x"]), "all"), ["+a/1/m", "=a/1 1"]);
}

fn names() -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec!["a", "b", "1", "2", "..", ".", "", "m.onnx", "x\\y", "\0", "s", ".h", "_u"]);
    prop::collection::vec(name, 1..5).prop_map(|names| names.join("/"))
}

proptest! {
    /// Whatever is listed: paths stay inside, and doing what is planned leads to where nothing is left to do.
    #[test]
    fn a_plan_that_was_followed_leaves_nothing_to_do(
        listed in prop::collection::btree_map(names(), "[xyz]", 0..20),
        here in prop::collection::btree_map("[ab]/[12]/[mn]", "[xyz]", 0..8),
    ) {
        let listed: Vec<Object> = listed.iter().map(|(path, tag)| object(path, tag)).collect();
        let mut files: Files =
            here.into_iter().map(|(path, tag)| (path, Held { tag, size: 7, sha256: [0; 32] })).collect();
        let policy = |_: &str| VersionPolicy::Latest(1);
        let sorted = Sorted::of(&listed);
        let plan = sorted.plan(&files, policy);
        for change in plan.changes.values() {
            for object in &change.fetch {
                prop_assert!(super::check(&object.path).is_ok());
            }
            let leaving: BTreeSet<String> = change.leave.iter().chain(change.places.keys())
                .flat_map(|place| places_of(&files).remove(place).unwrap_or_default()).collect();
            let mut after: Files = files.clone();
            after.retain(|path, _| !leaving.contains(path));
            for path in change.places.values().flatten() {
                let new = change.fetch.iter().find(|object| object.path == *path);
                let held = new.map(|object| Held { tag: object.tag.clone(), size: 7, sha256: [0; 32] });
                let held = held.or_else(|| files.get(path).cloned()).expect("it is fetched, or was here");
                after.insert(path.clone(), held);
            }
            files = after;
        }
        prop_assert_eq!(sorted.plan(&files, policy).changes, BTreeMap::new());
    }
}
