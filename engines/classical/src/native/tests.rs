//! Do conventions of the libraries hold that no example shows: their odd values, and what other releases write?

use std::path::Path;

use bytes::Bytes;
use tiltyard_runtime::engine::{CompileOptions, Engine, EngineError, ModelFile};
use tiltyard_types::Tensor;

use super::FORMATS;
use crate::fixture::{f32s, f64s};

/// What a file with this text answers, predictions and sums.
fn run(extension: &str, text: &str, input: Tensor) -> Result<Vec<Tensor>, EngineError> {
    let format = FORMATS.iter().find(|format| format.extension == extension).expect("a format");
    let bytes = Bytes::copy_from_slice(text.as_bytes());
    let graph = (format.read)(&bytes).map_err(EngineError::BadModel)?;
    let file = ModelFile { path: Path::new("nowhere").to_owned(), bytes, external: Default::default(), graph };
    let compiled = crate::engine().compile(&file, &CompileOptions::default())?;
    let wanted: Vec<usize> = (0..compiled.signature().outputs.len()).collect();
    compiled.open()?.run(&[Some(input)], &wanted)
}

fn xgboost(version: &str, objective: &str, base: &str, targets: usize, trees: &[&str]) -> String {
    let groups: Vec<String> = (0..trees.len()).map(|tree| (tree % targets).to_string()).collect();
    format!(
        r#"{{"version": {version}, "learner": {{"objective": {{"name": "{objective}"}},
            "learner_model_param": {{"base_score": "{base}", "num_feature": "1", "num_class": "0", "num_target": "{targets}"}},
            "gradient_booster": {{"name": "gbtree", "model": {{"trees": [{}], "tree_info": [{}]}}}}}}}}"#,
        trees.join(","),
        groups.join(",")
    )
}

/// A branch with the leaves 1 and 2; `more` tells its categories.
fn stump(threshold: &str, default_left: &str, more: &str) -> String {
    format!(
        r#"{{"left_children": [1, -1, -1], "right_children": [2, -1, -1], "split_indices": [0, 0, 0],
            "split_conditions": [{threshold}, 1, 2], "default_left": [{default_left}, 0, 0] {more}}}"#
    )
}

#[track_caller]
fn check_xgboost(text: &str, column: &[f32], predictions: &[f32]) {
    let outputs = run("json", text, f32s(&[column.len(), 1], column)).expect("it runs");
    assert_eq!(outputs[0].to_vec::<f32>().unwrap(), predictions);
}

#[test]
fn a_branch_over_categories_goes_right_for_its_own_only() {
    let sets =
        r#", "categories_nodes": [0], "categories_segments": [0], "categories_sizes": [2], "categories": [0, 65]"#;
    let text = xgboost("[3,2,0]", "reg:squarederror", "0", 1, &[&stump("0", "1", sets)]);
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    let column = [0.0, 65.0, 65.9, 1.0, 64.0, 66.0, 500.0, -1.0, -0.5, inf, -inf, nan];
    check_xgboost(&text, &column, &[2.0, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]);
    let text = xgboost("[3,2,0]", "reg:squarederror", "0", 1, &[&stump("0", "0", sets)]);
    check_xgboost(&text, &[nan, 1.0], &[2.0, 1.0]);
}

#[test]
fn booleans_of_old_releases_and_lists_of_new_ones_are_read() {
    let stump = stump("0.5", "true", "");
    check_xgboost(&xgboost("[1,0,0]", "reg:linear", "5E-1", 1, &[&stump]), &[0.5, 0.4, f32::NAN], &[2.5, 1.5, 1.5]);
    let two = xgboost("[3,2,0]", "reg:squarederror", "[1E0,-1E0]", 2, &[&stump, &stump]);
    check_xgboost(&two, &[0.5, 0.4], &[3.0, 1.0, 2.0, 0.0]);
}

#[test]
fn what_an_objective_means_is_what_it_meant_to_the_release() {
    let (low, high) = (stump("0", "0", ""), stump("1", "0", ""));
    // Quantiles that cross: of the sums 2 and 1 in the middle.
    let quantiles = |version| xgboost(version, "reg:quantileerror", "0", 2, &[&low, &high]);
    check_xgboost(&quantiles("[3,2,0]"), &[0.5], &[2.0, 1.0]);
    check_xgboost(&quantiles("[3,4,0]"), &[0.5], &[1.0, 2.0]);
    let raw = |version| xgboost(version, "binary:logitraw", "0.5", 1, &[&low]);
    check_xgboost(&raw("[2,1,0]"), &[-1.0], &[1.0]);
    check_xgboost(&raw("[3,2,0]"), &[-1.0], &[1.5]);
}

fn lightgbm(threshold: &str, kind: u8) -> String {
    format!(
        "tree\nversion=v4\nnum_class=1\nnum_tree_per_iteration=1\nmax_feature_idx=0\nobjective=regression\n\
         feature_names=a\n\nTree=0\nnum_leaves=2\nnum_cat=0\nsplit_feature=0\nthreshold={threshold}\n\
         decision_type={kind}\nleft_child=-1\nright_child=-2\nleaf_value=1 2\nis_linear=0\n\n\nend of trees\n"
    )
}

#[track_caller]
fn check_lightgbm(threshold: &str, kind: u8, column: &[f64], predictions: &[f64]) {
    let outputs = run("txt", &lightgbm(threshold, kind), f64s(&[column.len(), 1], column)).expect("it runs");
    assert_eq!(outputs[0].to_vec::<f64>().unwrap(), predictions);
}

#[test]
fn missing_values_go_where_lightgbm_sends_them() {
    let nan = f64::NAN;
    // A zero, where nothing is missing.
    check_lightgbm("0.5", 0, &[nan, 0.5, 0.6], &[1.0, 1.0, 2.0]);
    check_lightgbm("-0.5", 2, &[nan, -0.5, 0.0], &[2.0, 1.0, 2.0]);
    // As zeros, which go where they would not by themselves.
    check_lightgbm("0.5", 4, &[nan, 0.0, 0.1, -1.0, 1e-36], &[2.0, 2.0, 1.0, 1.0, 2.0]);
    check_lightgbm("-0.5", 6, &[nan, -0.0, 0.1, -1.0], &[1.0, 1.0, 2.0, 1.0]);
    check_lightgbm("-0.5", 8, &[nan, 0.0, -1.0], &[2.0, 2.0, 1.0]);
    check_lightgbm("-0.5", 10, &[nan, 0.0, -1.0], &[1.0, 2.0, 1.0]);
}

#[test]
fn what_is_next_to_zero_is_zero_to_lightgbm() {
    let next = f64::from(1e-35f32);
    check_lightgbm("-1.0000000180025095e-35", 8, &[-next, next, 0.0, -2e-35], &[2.0, 2.0, 2.0, 1.0]);
    check_lightgbm("1.0000000180025095e-35", 8, &[-next, next, 0.0, 2e-35], &[1.0, 1.0, 1.0, 2.0]);
    check_lightgbm("-0.0", 8, &[-next, next, 0.0, 2e-35, -2e-35], &[1.0, 1.0, 1.0, 2.0, 1.0]);
}

#[test]
fn rows_of_another_width_are_refused_and_no_rows_are_answered() {
    let error = run("txt", &lightgbm("0", 0), f64s(&[1, 2], &[1.0, 2.0])).unwrap_err();
    assert_eq!(error, EngineError::BadInput("2 columns were given, 1 are expected".into()));
    let none = run("txt", &lightgbm("0", 0), f64s(&[0, 1], &[])).unwrap();
    assert_eq!(none[0].shape().to_vec(), [0, 1]);
}

#[test]
fn a_model_without_trees_says_zero() {
    let text = lightgbm("0", 0);
    let (head, _) = text.split_once("Tree=0").expect("it has a tree");
    let outputs = run("txt", &format!("{head}end of trees\n"), f64s(&[2, 1], &[1.0, 2.0])).unwrap();
    assert_eq!(outputs[0].to_vec::<f64>().unwrap(), [0.0, 0.0]);
}
