//! Are the files of XGBoost and LightGBM served as those libraries answer them?
//!
//! The models, and what the libraries predict, were made by `engines/conformance/native_models.py`. They go through the
//! whole load of a server, which refuses a version that answers a golden example otherwise.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tiltyard_runtime::deployment::{BatchAxis, Deployment};
use tiltyard_runtime::load::Loader;
use tiltyard_runtime::queue::QueuePolicy;
use tiltyard_runtime::repository::{FoundVersion, scan};
use tiltyard_types::Moment;

fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/native")
}

fn load(name: &str, found: &FoundVersion) -> Result<Arc<Deployment>, String> {
    let loader = Loader {
        engines: vec![Arc::new(tiltyard_classical::engine())],
        first_engine_wins: true,
        profiles: None,
        locks: tiltyard_runtime::lock::nobody(),
        made: None,
        defaults: QueuePolicy::default(),
        clock: || Moment::from_nanos(0),
        measuring: None,
    };
    loader.load(name, 1, found).map_err(|error| error.reason)
}

/// What is said of a version with these files.
fn load_files(files: &[(&str, &[u8])]) -> Result<Arc<Deployment>, String> {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        fs::write(folder.path().join(name), content).unwrap();
    }
    load("m", &FoundVersion::at(folder.path()).unwrap())
}

#[track_caller]
fn check_refused(file: &str, content: &[u8], expected: &str) {
    let reason = load_files(&[(file, content)]).err().unwrap_or_else(|| panic!("it is served, without {expected:?}"));
    assert!(reason.contains(expected), "{reason:?} does not contain {expected:?}");
}

#[test]
fn what_the_libraries_predict_is_answered() {
    let scan = scan(&models()).unwrap();
    let mut wrong = Vec::new();
    for (name, model) in &scan.models {
        match load(name, &model.versions[&1]) {
            Ok(deployment) => {
                assert_eq!(deployment.identity.goldens, 1, "{name}");
                assert_eq!(deployment.batch_axis, BatchAxis::Proved, "{name}");
            }
            Err(reason) => wrong.push(format!("{name}: {reason}")),
        }
    }
    assert!(scan.models.len() >= 50, "{} models", scan.models.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn of_two_models_one_must_be_named() {
    let text = fs::read(models().join("lightgbm_binary/1/model.txt")).unwrap();
    let json = fs::read(models().join("xgboost_softmax/1/model.json")).unwrap();
    let reason = load_files(&[("model.txt", &text), ("model.json", &json)]).err().expect("it is refused");
    assert!(reason.contains("which has model.json, model.txt; name one with model_file in model.toml"), "{reason}");
    let named = b"model_file = \"model.txt\"";
    let deployment = load_files(&[("model.txt", &text), ("model.json", &json), ("model.toml", named)]).unwrap();
    assert_eq!(deployment.signature.inputs[0].to_string(), "input FP64[-1, 6]");
}

#[test]
fn an_onnx_file_stands_before_others_of_its_folder() {
    let text = fs::read(models().join("lightgbm_binary/1/model.txt")).unwrap();
    let reason = load_files(&[("other.onnx", b"none"), ("model.txt", &text)]).err().expect("it is refused");
    assert!(reason.contains("other.onnx: not a whole ONNX model"), "{reason}");
}

#[test]
fn columns_have_the_names_that_the_file_gives_them() {
    let scan = scan(&models()).unwrap();
    let names = |model: &str| -> Vec<String> {
        let deployment = load(model, &scan.models[model].versions[&1]).unwrap();
        deployment.settings.columns.iter().map(|column| column.name.clone()).collect()
    };
    let told = ["age", "income", "region", "größe", "tenure", "score"];
    assert_eq!(names("xgboost_categories_binary"), told);
    assert_eq!(names("lightgbm_binary"), told);
    assert!(names("xgboost_softmax").is_empty());
}

#[test]
fn other_files_of_these_names_are_refused_by_what_they_are() {
    check_refused("model.json", b"", "model.json: not served as XGBoost");
    check_refused("model.json", b"[{\"nodeid\": 0, \"leaf\": 1}]", "not a dump of its trees");
    check_refused("model.json", b"{\"name\": \"tree\", \"tree_info\": []}", "another library's file");
    check_refused("model.ubj", b"booster[0]:\n0:leaf=1\n", "not served as XGBoost: not JSON");
    check_refused("model.txt", b"booster[0]:\n0:leaf=1\n", "its first line is \"booster[0]:\"");
    check_refused("model.txt", b"\xff\xfe", "it is no text");
    check_refused("model.onnx.txt", b"tree", "no model.onnx in");
}

/// A fixture's text with one piece of it exchanged.
fn changed(name: &str, file: &str, old: &str, new: &str) -> Vec<u8> {
    let text = fs::read_to_string(models().join(name).join("1").join(file)).unwrap();
    assert!(text.contains(old), "{name} has no {old:?}");
    text.replacen(old, new, 1).into_bytes()
}

#[test]
fn damaged_xgboost_models_are_refused() {
    // Each tree has a number of features too, which nobody reads.
    const FEATURES: &str = "\"num_class\":\"0\",\"num_feature\":\"6\"";
    let check = |old: &str, new: &str, expected: &str| {
        check_refused("model.json", &changed("xgboost_categories", "model.json", old, new), expected);
    };
    check(FEATURES, "\"num_class\":\"0\",\"num_feature\":\"4000000000\"", "rows of 4000000000 columns");
    check(FEATURES, "\"num_class\":\"0\",\"num_feature\":\"0\"", "rows of 0 columns");
    check(FEATURES, "\"num_class\":\"0\",\"num_feature\":\"7\"", "6 names of 7 columns");
    check("\"num_class\":\"0\"", "\"num_class\":\"1000000000\"", "1000000000 scores of a row, and 5 trees");
    check("\"base_score\":\"", "\"base_score\":\"x", "its base_score is");
    check("\"left_children\":[1", "\"left_children\":[0", "reached again from itself");
    check("\"left_children\":[1", "\"left_children\":[99", "leads to node 99");
    check("\"left_children\":[1", "\"left_children\":[1.5", "child 1.5");
    check("\"left_children\":[1", "\"left_children\":[1,1", "nodes with lists of");
    check("\"categories_segments\":[0", "\"categories_segments\":[9999", "not where they are said to be");
    check("\"categories\":[", "\"categories\":[1e9,", "category 1000000000");
    check("\"tree_info\":[0", "\"tree_info\":[3", "it is of score 3");
    check("\"tree_info\":[0", "\"tree_info\":[0,0", "5 trees, and tree_info of 6");
    check("reg:squarederror", "survival:cox", "objective \"survival:cox\" is not served");
    check("\"name\":\"gbtree\"", "\"name\":\"gblinear\"", "booster \"gblinear\" is not served");
    check("\"size_leaf_vector\":\"1\"", "\"size_leaf_vector\":\"2\"", "multi_output_tree");
}

#[test]
fn damaged_lightgbm_models_are_refused() {
    let check = |old: &str, new: &str, expected: &str| {
        check_refused("model.txt", &changed("lightgbm_categories", "model.txt", old, new), expected);
    };
    check("max_feature_idx=5", "max_feature_idx=18446744073709551615", "columns; 1 to");
    check("num_tree_per_iteration=1", "num_tree_per_iteration=0", "num_tree_per_iteration is 0");
    check("num_tree_per_iteration=1", "num_tree_per_iteration=2", "5 trees for 2 scores");
    check("num_tree_per_iteration=1", "num_tree_per_iteration=4000000000", "4000000000 scores of a row, and 5 trees");
    check("objective=regression", "objective=survival", "objective \"survival\" is not served");
    check("objective=regression", "objective=binary sigmoid:-1", "without a sigmoid above 0");
    check("Tree=4", "Branch=4", "it ends after 4 trees; 5 are expected");
    check("num_leaves=8", "num_leaves=99999999999", "99999999999 are expected");
    check("num_leaves=8", "num_leaves=0", "are expected");
    check("left_child=", "left_child=0 ", "left_child has 8 values, 7 are expected");
    check("split_feature=", "split_feature=x", "split_feature has");
    check("cat_boundaries=0 ", "cat_boundaries=99 ", "cat_boundaries do not fit");
    check("is_linear=0", "is_linear=1", "linear_tree=false");
}

#[test]
fn cut_files_are_refused() {
    for (name, file) in [
        ("xgboost_dart", "model.ubj"),
        ("xgboost_softmax", "model.json"),
        ("lightgbm_categories_multiclass", "model.txt"),
    ] {
        let whole = fs::read(models().join(name).join("1").join(file)).unwrap();
        // A text may end anywhere after its last tree: what follows is about the training.
        let end = match whole.windows(12).position(|piece| piece == b"end of trees") {
            Some(end) => end - 400,
            None => whole.len(),
        };
        for cut in (0..end).step_by(61) {
            assert!(load_files(&[(file, &whole[..cut])]).is_err(), "{name} cut to {cut} bytes");
        }
    }
}

#[test]
fn damaged_bytes_never_panic() {
    for (name, file) in [
        ("xgboost_dart_softprob", "model.json"),
        ("xgboost_categories_binary", "model.ubj"),
        ("lightgbm_zeros_missing_categories", "model.txt"),
    ] {
        let whole = fs::read(models().join(name).join("1").join(file)).unwrap();
        let mut state = 7u64;
        for _ in 0..400 {
            let mut bytes = whole.clone();
            for _ in 0..2 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let place = (state >> 33) as usize % bytes.len();
                bytes[place] = (state >> 20) as u8;
            }
            // Whether it is served or not, somebody has an answer.
            drop(load_files(&[(file, &bytes)]));
        }
    }
}
