//! Does only the published wheel get in, and does a failure leave nothing behind?

use std::os::unix::fs::PermissionsExt;

use super::*;
use zip::write::SimpleFileOptions;

const LIBRARY: &str = "onnxruntime/capi/libonnxruntime.so.9.8.7";

/// A wheel with these entries, and the release that it is.
fn wheel(folder: &Path, entries: &[(&str, &str)]) -> (PathBuf, Release) {
    let path = folder.join("fake.whl");
    let mut writer = zip::ZipWriter::new(File::create(&path).unwrap());
    for (name, content) in entries {
        writer.start_file(*name, SimpleFileOptions::default()).unwrap();
        writer.write_all(content.as_bytes()).unwrap();
    }
    writer.finish().unwrap();
    let digest = Digest::new(Sha256::digest(fs::read(&path).unwrap()).into());
    let release = Release { version: "9.8.7", arch: "x86_64", size_bytes: 1, sha256: digest.to_string().leak() };
    (path, release)
}

fn options(folder: &Path, wheel: PathBuf) -> InstallOptions {
    InstallOptions { data_dir: folder.join("data"), version: None, wheel: Some(wheel) }
}

/// Names in the library folder, those that are hidden included.
fn left_behind(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(default_library_dir(&folder.join("data"))).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn the_library_and_its_licences_are_unpacked_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let entries = [
        (LIBRARY, "library"),
        ("onnxruntime/LICENSE", "licence"),
        ("onnxruntime/ThirdPartyNotices.txt", "notices"),
        ("onnxruntime/capi/libonnxruntime_providers_shared.so", "other"),
        ("onnxruntime/capi/libonnxruntime.so.1.2.3/../../evil", "evil"),
        ("evil/libonnxruntime.so.1.2.3", "evil"),
    ];
    let (wheel, release) = wheel(folder.path(), &entries);
    let options = options(folder.path(), wheel);
    let mut steps = Vec::new();
    let installed = install_release(&release, &options, None, &mut |progress| steps.push(progress.step)).unwrap();

    assert_eq!(installed.library, folder.path().join("data/lib/onnxruntime-9.8.7/libonnxruntime.so.9.8.7"));
    assert!(!installed.was_there);
    assert_eq!(fs::read_to_string(&installed.library).unwrap(), "library");
    let mut names: Vec<_> = fs::read_dir(installed.library.parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["LICENSE", "ThirdPartyNotices.txt", "libonnxruntime.so.9.8.7"]);
    steps.dedup();
    assert_eq!(steps, [Step::Verify, Step::Unpack]);
    assert_eq!(left_behind(folder.path()), ["onnxruntime-9.8.7"]);

    let again = install_release(&release, &options, None, &mut |_| panic!("nothing is to be done")).unwrap();
    assert!(again.was_there);
}

/// Checks that a wheel is refused with `expected` in the message, and that nothing stays.
#[track_caller]
fn check_refused(entries: &[(&str, &str)], spoil: impl Fn(&Path, &mut Release), expected: &str) {
    let folder = tempfile::tempdir().unwrap();
    let (wheel, mut release) = wheel(folder.path(), entries);
    spoil(&wheel, &mut release);
    let error = install_release(&release, &options(folder.path(), wheel), None, &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains(expected), "{error}");
    assert_eq!(left_behind(folder.path()), Vec::<String>::new());
}

#[test]
fn forged_broken_and_missing_wheels_are_refused() {
    let good = [(LIBRARY, "library")];
    let forge = |_: &Path, release: &mut Release| release.sha256 = RELEASES[0].sha256;
    check_refused(
        &good,
        forge,
        "expected 99e1074c4b2197accd5073052a465361be17b89c093b8ffb6e6bd8f986c52df8; nothing was",
    );
    check_refused(&[("README", "")], |_, _| {}, "it has no onnxruntime/capi/libonnxruntime.so.*");
    check_refused(&good, |wheel, _| fs::remove_file(wheel).unwrap(), "cannot read");
    let truncate = |wheel: &Path, release: &mut Release| {
        fs::write(wheel, b"not a zip").unwrap();
        release.sha256 = Digest::new(Sha256::digest(b"not a zip").into()).to_string().leak();
    };
    check_refused(&good, truncate, "is not a wheel");
}

/// What comes of a download when this script stands in for `python3`. `$WHEEL` in it is a good wheel.
fn download_with(script: &str) -> Result<Vec<Progress>, String> {
    let folder = tempfile::tempdir().unwrap();
    let (wheel, release) = wheel(folder.path(), &[(LIBRARY, "library")]);
    let python = folder.path().join("python3");
    fs::write(&python, format!("#!/bin/sh\nWHEEL={}\n{script}\n", wheel.display())).unwrap();
    fs::set_permissions(&python, fs::Permissions::from_mode(0o755)).unwrap();
    let options = InstallOptions { data_dir: folder.path().join("data"), ..InstallOptions::default() };
    let mut seen = Vec::new();
    let installed = install_release(&release, &options, Some(&python), &mut |progress| seen.push(progress));
    let expected = if installed.is_ok() { vec!["onnxruntime-9.8.7".to_owned()] } else { Vec::new() };
    assert_eq!(left_behind(folder.path()), expected);
    installed.map(|_| seen).map_err(|error| error.to_string())
}

#[test]
fn pip_downloads_and_its_complaints_are_passed_on() {
    let name = "onnxruntime-9.8.7-cp312-cp312-manylinux_2_28_x86_64.whl";
    let copy = format!("while [ $1 != --dest ]; do shift; done; cp $WHEEL $2/{name}");
    let seen = download_with(&copy).unwrap();
    assert!(seen.iter().any(|progress| progress.step == Step::Download));

    let offline = download_with("echo 'ERROR: no route to host' >&2; exit 1").unwrap_err();
    assert!(offline.starts_with(&format!("pip could not download {name}: ERROR: no route to host\n")), "{offline}");
    assert!(offline.ends_with("pass it with --wheel"), "{offline}");
    let silent = download_with("exit 1").unwrap_err();
    assert!(silent.contains("it ended with exit status: 1"), "{silent}");
    let without_pip = download_with("echo 'python3: No module named pip' >&2; exit 1").unwrap_err();
    assert!(without_pip.contains("has no pip; install pip, or download"), "{without_pip}");
}

#[test]
fn an_unknown_release_names_those_that_are_known() {
    let asked = InstallOptions { version: Some("1.2.3".into()), ..InstallOptions::default() };
    let error = install(asked, &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("ONNX Runtime 1.2.3 for") && error.contains("1.32.0, 1.31.1"), "{error}");
}

#[test]
fn the_published_wheel_installs() {
    if std::env::var_os("TILTYARD_TEST_DOWNLOAD").is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut downloaded_bytes = Vec::new();
    let installed =
        install(InstallOptions { data_dir: folder.path().into(), ..InstallOptions::default() }, &mut |progress| {
            match progress.step {
                Step::Download => downloaded_bytes.push(progress.done_bytes),
                Step::Verify | Step::Unpack => {}
            }
        })
        .unwrap();
    assert_eq!(installed.version, DEFAULT_VERSION);
    assert!(downloaded_bytes.is_sorted() && downloaded_bytes.len() > 1, "{downloaded_bytes:?}");
    let places = crate::locate::Places { data_dir: Some(folder.path().into()), ..Default::default() };
    assert_eq!(crate::locate::locate(&places).found().unwrap().path, installed.library);
}
