//! Is a broken file told apart from a good one, in words, and never with a panic?

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use tiltyard_runtime::engine::Engine;
use tiltyard_runtime::load::{LoadError, understand};
use tiltyard_runtime::repository::scan;

use crate::subjects::{Random, compile, engines, loader, place, subject, subjects_in};

/// What the message about each broken model must say.
const MESSAGES: &[(&str, &[&str])] = &[
    ("bad_pbtxt", &["config.pbtxt", "line"]),
    ("bad_toml", &["model.toml", "line"]),
    ("empty", &["model.onnx", "the file is empty"]),
    ("escaping_external_data", &["make.py", "not inside the model's folder"]),
    ("missing_external_data", &["weights.bin", "missing beside the model"]),
    ("no_version_file", &["no model.onnx in"]),
    ("not_onnx", &["model.onnx", "not a whole ONNX model"]),
    ("truncated", &["model.onnx", "not a whole ONNX model"]),
    ("unknown_opset", &["9999"]),
    ("wrong_golden", &["golden/one_row.json", "expected 3"]),
];

/// Loads the first version below `root` on one engine; a panic fails the test.
fn load(engine: &Arc<dyn Engine>, root: &Path, name: &str) -> Result<(), LoadError> {
    let scan = scan(root).unwrap();
    let found = &scan.models[name].versions[&1];
    let loader = loader(vec![Arc::clone(engine)], None);
    let loaded = catch_unwind(AssertUnwindSafe(|| loader.load(name, 1, found).map(drop)));
    loaded.unwrap_or_else(|_| panic!("{name} on {}: the loader panicked", engine.name()))
}

#[test]
fn every_broken_model_is_refused_in_words() {
    let root = place("tests/fixtures/broken");
    let names: Vec<String> = subjects_in(&root).into_iter().map(|subject| subject.name).collect();
    assert_eq!(names, MESSAGES.iter().map(|(name, _)| *name).collect::<Vec<_>>(), "each has its message");
    for engine in engines() {
        for (name, words) in MESSAGES {
            let error = load(&engine, &root, name).expect_err(name);
            let all = words.iter().all(|word| error.reason.contains(word));
            assert!(all && !error.incomplete, "{name} on {}: {error:?} lacks one of {words:?}", engine.name());
        }
    }
}

/// Loads `risk` with `content` as its model. Where it loads, its answers are judged anew, by the untouched examples.
fn check_damaged(engine: &Arc<dyn Engine>, folder: &Path, content: &[u8], damage: &str) -> bool {
    fs::write(folder.join("risk/1/model.onnx"), content).unwrap();
    let Err(error) = load(engine, folder, "risk") else {
        let found = scan(folder).unwrap().models.remove("risk").unwrap().versions.remove(&1).unwrap();
        let understood = understand(&found, &[]).unwrap();
        let model = compile(engine.as_ref(), &understood).unwrap();
        for golden in subject("risk").understood().goldens {
            let right = golden.check(model.signature(), model.open().unwrap().as_mut());
            assert_eq!(right, Ok(()), "{damage} on {}: it was loaded", engine.name());
        }
        return true;
    };
    assert!(!error.reason.trim().is_empty(), "{damage} on {}: refused without a word", engine.name());
    assert!(error.reason.len() < 4000, "{damage} on {}: {} bytes of reason", engine.name(), error.reason.len());
    false
}

/// A repository that holds `risk` alone, and its model's bytes.
fn risk_alone() -> (tempfile::TempDir, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let found = subject("risk").found;
    fs::create_dir_all(folder.path().join("risk/1/golden")).unwrap();
    for (name, path) in found.files.iter() {
        fs::copy(path, folder.path().join("risk/1").join(name)).unwrap();
    }
    let content = fs::read(folder.path().join("risk/1/model.onnx")).unwrap();
    (folder, content)
}

#[test]
fn a_truncated_model_never_panics_and_never_loads_with_wrong_answers() {
    let (folder, content) = risk_alone();
    for engine in engines() {
        let mut random = Random(1);
        assert!(check_damaged(&engine, folder.path(), &content, "no damage"), "the whole file loads");
        for _ in 0..200 {
            let length = random.below(content.len());
            check_damaged(&engine, folder.path(), &content[..length], &format!("{length} bytes left"));
        }
    }
}

#[test]
fn a_flipped_byte_never_panics_and_never_loads_with_wrong_answers() {
    let (folder, content) = risk_alone();
    for engine in engines() {
        let mut random = Random(2);
        let mut refused = 0;
        for _ in 0..300 {
            let (at, bits) = (random.below(content.len()), 1 + random.below(255) as u8);
            let mut damaged = content.clone();
            damaged[at] ^= bits;
            refused += u32::from(!check_damaged(&engine, folder.path(), &damaged, &format!("byte {at} ^ {bits:#04x}")));
        }
        assert!(refused > 30, "only {refused} of 300 damaged files were refused by {}", engine.name());
    }
}
