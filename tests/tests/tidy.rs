//! Does the repository keep its own rules? Those that no compiler and no lint looks after.

use std::path::Path;

use tiltyard_tests::{Package, files, packages, root, text};

/// Lines of a file of code, tests and generated code aside.
const LINES_MAX: usize = 700;

/// Bytes of everything in `models/`.
const MODELS_BYTES_MAX: u64 = 3 * 1024 * 1024;

/// Names that do not say what a thing is.
const EMPTY_NAMES: &[&str] = &["utils", "util", "common", "helpers", "helper", "manager"];

/// Which of our crates a crate may use: the direction of DESIGN §2. `engines/` is one line for all of them.
const DIRECTIONS: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("proto", &[]),
    ("runtime", &["types"]),
    ("rollout", &["types"]),
    ("drift", &["types"]),
    ("registry", &["types"]),
    ("capture", &["types"]),
    ("engines/", &["runtime", "types"]),
    ("server", &["runtime", "rollout", "drift", "registry", "capture", "proto", "types", "engines/"]),
    ("benches", &["proto", "types"]),
    ("tests", &["server", "runtime", "proto", "types", "engines/", "benches"]),
];

/// Where unsafe code may live: with the engines, and where a file is seen as atomic words, which says at its head why.
const UNSAFE: &[&str] = &["engines", "capture/src/ring/map.rs"];

fn is_generated(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "generated")
}

fn is_test(path: &Path) -> bool {
    path.ends_with("tests.rs") || path.components().any(|part| part.as_os_str() == "tests")
}

fn file_name_faults(path: &Path) -> Vec<String> {
    let mut parts = path.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect::<Vec<_>>();
    parts.retain(|part| EMPTY_NAMES.contains(&part.as_str()));
    parts.iter().map(|name| format!("the name {name:?} does not say what it is")).collect()
}

/// Everything wrong with a file of Rust.
fn code_faults(path: &Path, text: &str) -> Vec<String> {
    let mut faults = file_name_faults(path);
    if is_generated(path) {
        return faults;
    }
    // The first paragraph: a question may take more than one line.
    let head: Vec<&str> = text.lines().map_while(|line| line.strip_prefix("//! ")).collect();
    if !head.iter().any(|line| line.contains('?')) {
        faults.push("it does not begin with a `//!` that asks the question which the file answers".into());
    }
    let lines = text.lines().count();
    if lines > LINES_MAX && !is_test(path) {
        faults.push(format!("{lines} lines, more than {LINES_MAX}"));
    }
    // Written in two pieces, so that this file does not hold them.
    for mark in [concat!("to", "do!"), concat!("unimple", "mented!"), concat!("TO", "DO"), concat!("FIX", "ME")] {
        for (number, _) in text.lines().enumerate().filter(|(_, line)| line.contains(mark)) {
            faults.push(format!("line {}: {mark}", number + 1));
        }
    }
    if text.contains(concat!("allow(", "unsafe_code)")) && !UNSAFE.iter().any(|place| path.starts_with(place)) {
        faults.push("allows unsafe code, which may live in engines/ and capture/src/ring/map.rs only".into());
    }
    faults
}

/// What a crate of this name is called in [`DIRECTIONS`]; engines are told by their folder.
fn place(package: &Package) -> String {
    let folder = package.folder.strip_prefix(root()).unwrap_or(&package.folder);
    if folder.starts_with("engines") { "engines/".into() } else { folder.to_string_lossy().into_owned() }
}

fn direction_faults(ours: &[Package]) -> Vec<String> {
    let mut faults = Vec::new();
    for package in ours {
        let from = place(package);
        let Some((_, allowed)) = DIRECTIONS.iter().find(|(name, _)| *name == from) else {
            faults.push(format!("{}: tests/tests/tidy.rs does not say what {from} may use", package.name));
            continue;
        };
        // What only tests need cannot turn the direction of what is built.
        let used = package.dependencies.iter().filter(|dependency| !dependency.for_tests);
        let used = used.filter_map(|dependency| ours.iter().find(|other| other.name == dependency.name));
        let wrong = used.map(place).filter(|to| !allowed.contains(&to.as_str()));
        faults.extend(wrong.map(|to| format!("{}: {from} may not use {to}", package.name)));
    }
    faults
}

fn manifest_faults(folder: &Path, manifest: &str) -> Vec<String> {
    let table: toml::Table = manifest.parse().expect("cargo has read it already");
    let inherits = |key: &str| table.get("lints").and_then(|lints| lints.get(key)) == Some(&toml::Value::Boolean(true));
    let expected = format!("tiltyard-{}", folder.file_name().unwrap_or_default().to_string_lossy());
    let mut faults = Vec::new();
    if !inherits("workspace") {
        faults.push("does not take the workspace's lints".to_owned());
    }
    if table["package"]["name"].as_str() != Some(&expected) {
        faults.push(format!("its name is not {expected:?}"));
    }
    faults
}

/// Fails with every fault, each with its file.
#[track_caller]
fn assert_clean(faults: &[String]) {
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

fn ours() -> Vec<Package> {
    packages(&[]).into_iter().filter(Package::is_ours).collect()
}

#[test]
fn files_say_what_they_answer_and_stay_readable() {
    let code: Vec<_> = files("").into_iter().filter(|path| path.extension().is_some_and(|end| end == "rs")).collect();
    assert!(code.len() > 50, "only {} files were found", code.len());
    let faults = code.iter().flat_map(|path| {
        code_faults(path, &text(path)).into_iter().map(move |fault| format!("{}: {fault}", path.display()))
    });
    assert_clean(&faults.collect::<Vec<_>>());
}

#[test]
fn dependencies_point_one_way() {
    assert_clean(&direction_faults(&ours()));
}

#[test]
fn every_crate_takes_the_rules_of_the_house() {
    let faults = ours().into_iter().flat_map(|package| {
        let manifest = text(&package.folder.join("Cargo.toml"));
        let faults = manifest_faults(&package.folder, &manifest);
        faults.into_iter().map(move |fault| format!("{}: {fault}", package.name))
    });
    assert_clean(&faults.collect::<Vec<_>>());
}

#[test]
fn the_sample_models_stay_small() {
    let bytes: u64 = files("models").iter().map(|path| root().join(path).metadata().expect("it is there").len()).sum();
    assert!(bytes <= MODELS_BYTES_MAX, "models/ holds {bytes} bytes, more than {MODELS_BYTES_MAX}");
}

#[test]
fn faults_in_code_are_found() {
    #[track_caller]
    fn check(path: &str, text: &str, expected: &[&str]) {
        assert_eq!(code_faults(Path::new(path), text), expected, "{path}");
    }
    let headless = "it does not begin with a `//!` that asks the question which the file answers";
    check("server/src/a.rs", "//! What is a?\n", &[]);
    check("server/src/a.rs", "", &[headless]);
    check("server/src/a.rs", "//! What is a, and\n//! what is it for?\n", &[]);
    check("server/src/a.rs", "//! This is a.\n//!\n//! What is it for?\n", &[headless]);
    check("server/src/a.rs", "use b; // Why?\n", &[headless]);
    check("proto/src/generated/a.rs", "use b;\n", &[]);
    check("server/src/utils.rs", "//! What?\n", &["the name \"utils\" does not say what it is"]);
    check("server/src/common/a.rs", "//! What?\n", &["the name \"common\" does not say what it is"]);
    let long = format!("//! What?\n{}", "\n".repeat(LINES_MAX));
    check("server/src/a.rs", &long, &["701 lines, more than 700"]);
    check("server/src/a/tests.rs", &long, &[]);
    check("server/tests/a.rs", &long, &[]);
    let marked = format!("//! What?\n// {}: more\n{}()\n", concat!("TO", "DO"), concat!("to", "do!"));
    check("server/src/a.rs", &marked, &[concat!("line 3: to", "do!"), concat!("line 2: TO", "DO")]);
    let unsafe_code = format!("//! What?\n#![{}]\n", concat!("allow(", "unsafe_code)"));
    check("engines/tract/src/lib.rs", &unsafe_code, &[]);
    check("capture/src/ring/map.rs", &unsafe_code, &[]);
    let elsewhere = "allows unsafe code, which may live in engines/ and capture/src/ring/map.rs only";
    check("server/src/a.rs", &unsafe_code, &[elsewhere]);
    check("capture/src/ring/mod.rs", &unsafe_code, &[elsewhere]);
}

#[test]
fn faults_between_crates_are_found() {
    use tiltyard_tests::Dependency;
    let package = |folder: &str, uses: &[(&str, bool)]| Package {
        name: format!("tiltyard-{folder}"),
        folder: root().join(folder),
        dependencies: uses
            .iter()
            .map(|&(name, for_tests)| Dependency { name: format!("tiltyard-{name}"), for_tests })
            .collect(),
        ..Package::default()
    };
    let ours = [
        package("types", &[]),
        package("runtime", &[("types", false), ("engines/tract", true)]),
        package("engines/tract", &[("runtime", false), ("types", false), ("server", false)]),
        package("proto", &[("types", false)]),
        package("server", &[("engines/tract", false), ("proto", false)]),
        package("attic", &[]),
    ];
    assert_eq!(
        direction_faults(&ours),
        [
            "tiltyard-engines/tract: engines/ may not use server",
            "tiltyard-proto: proto may not use types",
            "tiltyard-attic: tests/tests/tidy.rs does not say what attic may use",
        ]
    );
    let check = |manifest: &str, expected: &[&str]| assert_eq!(manifest_faults(Path::new("a/b"), manifest), expected);
    check("[package]\nname = \"tiltyard-b\"\n[lints]\nworkspace = true", &[]);
    check("[package]\nname = \"tiltyard-b\"", &["does not take the workspace's lints"]);
    check("[package]\nname = \"b\"\n[lints]\nworkspace = true", &["its name is not \"tiltyard-b\""]);
}
