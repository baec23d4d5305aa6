//! Is the right library taken, and is every other one accounted for?

use super::*;
use tempfile::TempDir;

/// A machine with the given files, relative to a temporary root.
fn machine(files: &[&str]) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for file in files {
        let path = root.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, b"").unwrap();
    }
    root
}

/// All places at once, as folders under `root`.
fn places(root: &TempDir) -> Places {
    Places {
        data_dir: Some(root.path().join("data")),
        virtual_env: Some(root.path().join("venv")),
        executable: Some(root.path().join("own/bin/tiltyard")),
        system: vec![root.path().join("usr/lib")],
        ..Places::default()
    }
}

const VENV: &str = "venv/lib/python3.12/site-packages/onnxruntime/capi/libonnxruntime.so.1.30.0";
const OWN: &str = "own/lib/python3.11/site-packages/onnxruntime/capi/libonnxruntime.so.1.31.0";
const SYSTEM: &str = "usr/lib/libonnxruntime.so.1.32.0";

/// Checks which of `files` is taken and how it came to be considered.
#[track_caller]
fn check(files: &[&str], expected: Option<(&str, Source)>) {
    let root = machine(files);
    let found = locate(&places(&root)).found();
    let expected = expected.map(|(path, source)| Found { path: root.path().join(path), source });
    assert_eq!(found, expected);
    assert_eq!(survey(&places(&root)).found(), expected, "a survey takes the same one");
}

#[test]
fn places_are_tried_in_order() {
    check(&[], None);
    check(&[SYSTEM], Some((SYSTEM, Source::System)));
    check(&[SYSTEM, OWN], Some((OWN, Source::OwnEnvironment)));
    check(&[SYSTEM, OWN, VENV], Some((VENV, Source::VirtualEnv)));
    let installed = "data/lib/onnxruntime-1.29.0/libonnxruntime.so.1.29.0";
    check(&[SYSTEM, OWN, VENV, installed], Some((installed, Source::Installed)));
}

#[test]
fn the_newest_installed_is_taken_by_number_not_by_letter() {
    let newest = "data/lib/onnxruntime-1.100.0/libonnxruntime.so.1.100.0";
    check(&["data/lib/onnxruntime-1.32.0/libonnxruntime.so.1.32.0", newest], Some((newest, Source::Installed)));
}

#[test]
fn an_old_library_is_passed_over_and_named() {
    let old = "venv/lib/python3.12/site-packages/onnxruntime/capi/libonnxruntime.so.1.20.1";
    check(&[old, SYSTEM], Some((SYSTEM, Source::System)));
    let root = machine(&[old]);
    let search = locate(&places(&root));
    assert_eq!(search.found(), None);
    let path = root.path().join(old);
    let expected = format!(
        "ONNX Runtime 1.20.1 at {} is too old: 1.24 or newer is needed; `tiltyard engine install onnxruntime` brings one",
        path.display()
    );
    assert_eq!(search.advice(), expected);
}

#[test]
fn a_file_whose_name_tells_no_version_is_asked() {
    let root = machine(&["usr/lib/libonnxruntime.so"]);
    let advice = locate(&places(&root)).advice();
    assert!(advice.contains("libonnxruntime.so (system libraries): it cannot be loaded"), "{advice}");
}

#[test]
fn other_libraries_of_the_package_are_not_taken() {
    check(&["usr/lib/libonnxruntime_providers_shared.so", "usr/lib/libonnxruntime.a"], None);
}

#[test]
fn an_order_is_obeyed_or_fails() {
    let root = machine(&[SYSTEM, VENV]);
    let explicit = |path: &str| Places { explicit: Some(root.path().join(path)), ..places(&root) };
    assert_eq!(locate(&explicit(SYSTEM)).found().unwrap().source, Source::Explicit);
    assert_eq!(locate(&explicit("usr/lib")).found().unwrap().path, root.path().join(SYSTEM));
    let missing = locate(&explicit("nowhere.so"));
    assert_eq!(missing.found(), None, "nothing else takes the place of a library that was ordered");
    assert!(missing.advice().ends_with("nowhere.so (--ort-lib): there is no such file"), "{}", missing.advice());
    assert!(locate(&explicit("venv")).advice().contains("holds no libonnxruntime.so"));
    let variable = Places { variable: Some(root.path().join("gone.so")), ..places(&root) };
    assert_eq!(locate(&variable).found(), None);
}

#[test]
fn a_survey_lists_every_library_once() {
    let root = machine(&[SYSTEM, OWN, VENV]);
    std::os::unix::fs::symlink(root.path().join(SYSTEM), root.path().join("usr/lib/libonnxruntime.so")).unwrap();
    let verdicts: Vec<_> =
        survey(&places(&root)).candidates.into_iter().map(|found| (found.source, found.verdict)).collect();
    let expected = [
        (Source::VirtualEnv, Verdict::Taken),
        (Source::OwnEnvironment, Verdict::Spare),
        (Source::System, Verdict::Spare),
    ];
    assert_eq!(verdicts, expected);
}

#[test]
fn python_is_asked_only_when_nothing_earlier_was_found() {
    use std::os::unix::fs::PermissionsExt;
    let root = machine(&["site/onnxruntime/capi/libonnxruntime.so.1.32.0", "python3"]);
    let python = root.path().join("python3");
    let body = format!("#!/bin/sh\ntouch {0}/asked\necho {0}/site\n", root.path().display());
    std::fs::write(&python, body).unwrap();
    std::fs::set_permissions(&python, std::fs::Permissions::from_mode(0o755)).unwrap();
    let with_python = Places { python: Some(python), ..places(&root) };

    let early = Places { explicit: Some(root.path().join("site/onnxruntime/capi")), ..with_python.clone() };
    assert!(locate(&early).found().is_some());
    assert!(!root.path().join("asked").exists());
    assert_eq!(locate(&with_python).found().unwrap().source, Source::Python);
}
