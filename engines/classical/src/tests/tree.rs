//! Do tree ensembles say what ONNX Runtime says, in the corners too?

use tiltyard_types::{DataType, Tensor};

use crate::fixture::{ANY, Attr, Model, assert_close, doubles, f32s, f64s, i64s, singles, small, texts};

/// A weight of a leaf: the leaf, the class and how much.
type Weight = (i64, i64, f32);

/// A tree of one branch, x ≤ 1, with leaves 1 (then) and 2 (other).
struct Stump<'a> {
    weights: &'a [Weight],
    base: &'a [f32],
    transform: &'a str,
    missing: &'a [i64],
    values: [f32; 3],
    then: [i64; 3],
    treeids: [i64; 3],
}

impl Default for Stump<'_> {
    fn default() -> Self {
        let weights = &[(1, 0, -0.3), (2, 0, 0.8)];
        Stump {
            weights,
            base: &[],
            transform: "NONE",
            missing: &[],
            values: [1., 0., 0.],
            then: [1, 0, 0],
            treeids: [0; 3],
        }
    }
}

impl Stump<'_> {
    fn with(&self, model: Model, operator: &str, prefix: &str, outputs: &[&str], more: Vec<(&str, Attr<'_>)>) -> Model {
        let nodes: Vec<i64> = self.weights.iter().map(|weight| weight.0).collect();
        let ids: Vec<i64> = self.weights.iter().map(|weight| weight.1).collect();
        let weights: Vec<f32> = self.weights.iter().map(|weight| weight.2).collect();
        let trees = vec![0; nodes.len()];
        let names: Vec<String> = ["treeids", "nodeids", "ids", "weights"].map(|name| format!("{prefix}_{name}")).into();
        let mut attributes = vec![
            ("nodes_treeids", Attr::Ints(&self.treeids)),
            ("nodes_nodeids", Attr::Ints(&[0, 1, 2])),
            ("nodes_featureids", Attr::Ints(&[0, 0, 0])),
            ("nodes_modes", Attr::Texts(&["BRANCH_LEQ", "LEAF", "LEAF"])),
            ("nodes_values", Attr::Floats(&self.values)),
            ("nodes_truenodeids", Attr::Ints(&self.then)),
            ("nodes_falsenodeids", Attr::Ints(&[2, 0, 0])),
            ("nodes_missing_value_tracks_true", Attr::Ints(self.missing)),
            ("base_values", Attr::Floats(self.base)),
            ("post_transform", Attr::Text(self.transform)),
            (&names[0], Attr::Ints(&trees)),
            (&names[1], Attr::Ints(&nodes)),
            (&names[2], Attr::Ints(&ids)),
            (&names[3], Attr::Floats(&weights)),
        ];
        attributes.extend(more);
        model.ml(operator, &["x"], outputs, &attributes)
    }

    fn classifier(&self, labels: &[i64]) -> Model {
        let model = Model::new().input("x", DataType::Fp32, &[ANY, 1]).output("label", DataType::Int64, &[ANY]).output(
            "scores",
            DataType::Fp32,
            &[ANY, labels.len() as i64],
        );
        let labels = vec![("classlabels_int64s", Attr::Ints(labels))];
        self.with(model, "TreeEnsembleClassifier", "class", &["label", "scores"], labels)
    }

    fn regressor(&self, targets: i64, aggregate: &str) -> Model {
        let model =
            Model::new().input("x", DataType::Fp32, &[ANY, 1]).output("scores", DataType::Fp32, &[ANY, targets]);
        let more = vec![("n_targets", Attr::Int(targets)), ("aggregate_function", Attr::Text(aggregate))];
        self.with(model, "TreeEnsembleRegressor", "target", &["scores"], more)
    }
}

/// One row on either side.
fn rows() -> Vec<Tensor> {
    vec![f32s(&[2, 1], &[0., 2.])]
}

#[track_caller]
fn says(stump: &Stump<'_>, labels: &[i64], said: &[i64], scores: &[f32]) {
    let answer = stump.classifier(labels).run(&rows());
    assert_eq!(answer[0].to_vec::<i64>().unwrap(), said);
    assert_close(&answer[1], scores);
}

const BOTH: &[Weight] = &[(1, 0, -0.3), (1, 1, 0.3), (2, 0, 0.8), (2, 1, -0.8)];
const EITHER: &[Weight] = &[(1, 0, 0.3), (2, 1, 0.8)];
const POSITIVE: &[Weight] = &[(1, 0, 0.3), (2, 0, 0.8)];

#[test]
fn one_score_for_two_classes_becomes_two() {
    let stump = |transform| Stump { transform, ..Stump::default() };
    says(&stump("NONE"), &[5, 7], &[5, 7], &[0.3, -0.3, -0.8, 0.8]);
    says(&stump("LOGISTIC"), &[5, 7], &[5, 7], &[0.5744425, 0.4255575, 0.3100255, 0.6899745]);
    says(&stump("SOFTMAX"), &[5, 7], &[5, 7], &[0.3, -0.3, -0.8, 0.8]);
    let positive = |transform| Stump { weights: POSITIVE, transform, ..Stump::default() };
    says(&positive("NONE"), &[5, 7], &[5, 7], &[0.7, 0.3, 0.19999999, 0.8]);
    says(&positive("SOFTMAX"), &[5, 7], &[5, 7], &[0.7, 0.3, 0.19999999, 0.8]);
    says(&positive("LOGISTIC"), &[5, 7], &[5, 7], &[0.4255575, 0.5744425, 0.3100255, 0.6899745]);
    let second = Stump { weights: &[(1, 1, 0.3), (2, 1, 0.8)], ..Stump::default() };
    says(&second, &[5, 7], &[5, 7], &[0., 0.3, 0., 0.8]);
    let silent = Stump { weights: &[(2, 1, 0.8)], ..Stump::default() };
    says(&silent, &[5, 7], &[5, 7], &[1., 0., 0., 0.8]);
}

#[test]
fn base_values_of_two_classes_count_as_in_onnx_runtime() {
    let stump = |base, transform| Stump { base, transform, ..Stump::default() };
    says(&stump(&[0.1], "NONE"), &[5, 7], &[5, 7], &[0.2, -0.2, -0.9, 0.9]);
    says(&stump(&[0.1], "LOGISTIC"), &[5, 7], &[5, 7], &[0.549834, 0.450166, 0.28905052, 0.7109495]);
    says(&stump(&[0.1, 0.2], "NONE"), &[5, 7], &[5, 7], &[-0.2, 0., 0.9, 0.]);
    says(&stump(&[0.1, 0.2], "SOFTMAX"), &[5, 7], &[5, 7], &[0.450166, 0.549834, 0.7109495, 0.2890505]);
    says(&Stump { weights: BOTH, base: &[0.1], ..Stump::default() }, &[5, 7], &[1, 0], &[-0.2, 0.3, 0.9, -0.8]);
    says(&Stump { weights: BOTH, base: &[0.1, 0.2], ..Stump::default() }, &[5, 7], &[0, 1], &[0.1, -0.1, -1., 1.]);
    let second = Stump { weights: &[(1, 1, -0.3), (2, 1, 0.8)], base: &[0.1, 0.2], ..Stump::default() };
    says(&second, &[5, 7], &[7, 7], &[0., 0.2, 0., 0.2]);
}

#[test]
fn of_two_classes_with_weights_each_the_numbers_0_and_1_are_said() {
    says(&Stump { weights: BOTH, ..Stump::default() }, &[5, 7], &[1, 0], &[-0.3, 0.3, 0.8, -0.8]);
    says(&Stump { weights: EITHER, ..Stump::default() }, &[5, 7], &[1, 1], &[-0.3, 0.3, 0., 0.8]);
    let softmax = Stump { weights: EITHER, transform: "SOFTMAX", ..Stump::default() };
    says(&softmax, &[5, 7], &[1, 1], &[-0.3, 0.3, 0.31002554, 0.6899745]);
}

#[test]
fn of_three_classes_the_largest_that_a_tree_spoke_of_is_said() {
    let three = |weights, transform, base| Stump { weights, transform, base, ..Stump::default() };
    let sparse: &[Weight] = &[(1, 0, -0.3), (2, 2, 0.8)];
    says(&three(sparse, "NONE", &[]), &[1, 2, 3], &[1, 3], &[-0.3, 0., 0., 0., 0., 0.8]);
    says(
        &three(sparse, "SOFTMAX", &[]),
        &[1, 2, 3],
        &[1, 3],
        &[0.27029088, 0.36485454, 0.36485454, 0.23665608, 0.23665608, 0.5266878],
    );
    says(&three(sparse, "SOFTMAX_ZERO", &[]), &[1, 2, 3], &[1, 3], &[1., 0., 0., 0., 0., 1.]);
    says(&three(sparse, "NONE", &[0.1, 0.2, 0.3]), &[1, 2, 3], &[3, 3], &[-0.2, 0.2, 0.3, 0.1, 0.2, 1.1]);
    let negative: &[Weight] = &[(1, 1, -0.8), (2, 2, -0.7)];
    says(&three(negative, "NONE", &[]), &[1, 2, 3], &[2, 3], &[0., -0.8, 0., 0., 0., -0.7]);
    let silent = three(&[(2, 0, 0.8)], "NONE", &[]).classifier(&[1, 2, 3]).try_run(&rows());
    assert!(silent.unwrap_err().to_string().contains("no tree speaks of any class"));
}

#[test]
fn a_single_label_is_said_as_0_or_1() {
    says(&Stump::default(), &[9], &[0, 1], &[-0.3, 0.8]);
    says(&Stump { base: &[0.1], transform: "LOGISTIC", ..Stump::default() }, &[9], &[0, 1], &[-0.2, 0.9]);
}

#[test]
fn labels_may_be_texts() {
    let model = Model::new().input("x", DataType::Fp32, &[ANY, 1]).output("label", DataType::Bytes, &[ANY]).output(
        "scores",
        DataType::Fp32,
        &[ANY, 2],
    );
    let labels = vec![("classlabels_strings", Attr::Texts(&["no", "yes"]))];
    let stump = Stump { weights: BOTH, ..Stump::default() };
    let answer = stump.with(model, "TreeEnsembleClassifier", "class", &["label", "scores"], labels).run(&rows());
    assert_eq!(answer[0], texts(&[2], &["yes", "no"]));
}

#[test]
fn regressors_add_base_values_and_transform() {
    let check = |stump: Stump<'_>, targets: i64, expected: &[f32]| {
        assert_close(&stump.regressor(targets, "SUM").run(&rows())[0], expected);
    };
    check(Stump { base: &[0.5], ..Stump::default() }, 1, &[0.2, 1.3]);
    // Of one score, only PROBIT is known.
    check(Stump { base: &[0.5], transform: "LOGISTIC", ..Stump::default() }, 1, &[0.2, 1.3]);
    check(Stump { base: &[0.5], transform: "PROBIT", ..Stump::default() }, 1, &[-0.8417561, f32::NAN]);
    let two =
        |transform| Stump { weights: &[(1, 0, -0.3), (2, 1, 0.8)], base: &[0.1, 0.2], transform, ..Stump::default() };
    check(two("SOFTMAX"), 2, &[0.40131232, 0.59868765, 0.2890505, 0.7109495]);
    check(two("LOGISTIC"), 2, &[0.450166, 0.54983395, 0.5249792, 0.7310586]);
    // The first of two weights counts; one that has none gives its node's value.
    check(Stump { weights: &[(1, 0, 0.5), (1, 0, 0.25), (2, 0, 0.8)], ..Stump::default() }, 1, &[0.5, 0.8]);
    check(Stump { weights: &[(2, 0, 0.8)], values: [1., 4., 0.], ..Stump::default() }, 1, &[4., 0.8]);
    check(Stump { weights: &[(0, 0, 100.), (1, 0, -0.3), (2, 0, 0.8)], ..Stump::default() }, 1, &[-0.3, 0.8]);
}

#[test]
fn missing_values_go_where_their_node_sends_them() {
    let row = || vec![f32s(&[1, 1], &[f32::NAN])];
    assert_close(&Stump::default().regressor(1, "SUM").run(&row())[0], &[0.8]);
    assert_close(&Stump { missing: &[1, 0, 0], ..Stump::default() }.regressor(1, "SUM").run(&row())[0], &[-0.3]);
    assert_close(&Stump { missing: &[1], ..Stump::default() }.regressor(1, "SUM").run(&row())[0], &[-0.3]);
}

#[test]
fn double_precision_comes_with_double_input() {
    let model = Model::new().input("x", DataType::Fp64, &[ANY, 1]).output("scores", DataType::Fp32, &[ANY, 1]);
    let more = vec![("n_targets", Attr::Int(1))];
    let answer = Stump::default()
        .with(model, "TreeEnsembleRegressor", "target", &["scores"], more)
        .run(&[f64s(&[2, 1], &[1.000_000_01, 1.0])]);
    // In single precision both would be 1.
    assert_close(&answer[0], &[0.8, -0.3]);
}

#[test]
fn rows_may_be_wider_than_trees_look() {
    let model = Model::new().input("x", DataType::Fp32, &[ANY, ANY]).output("scores", DataType::Fp32, &[ANY, 1]);
    let more = vec![("n_targets", Attr::Int(1))];
    let model = Stump::default().with(model, "TreeEnsembleRegressor", "target", &["scores"], more);
    assert_close(&model.clone().run(&[f32s(&[2, 3], &[0., 9., 9., 2., 9., 9.])])[0], &[-0.3, 0.8]);
    let narrow = model.try_run(&[f32s(&[2, 0], &[])]).unwrap_err().to_string();
    assert!(narrow.contains("0 columns were given, and a tree looks at column 0"), "{narrow}");
}

#[test]
fn what_is_no_forest_is_refused() {
    let check = |stump: Stump<'_>, expected: &str| {
        let error = stump.regressor(1, "SUM").refused();
        assert!(error.contains(expected), "{error}");
    };
    check(Stump { then: [0, 0, 0], ..Stump::default() }, "cycle");
    check(Stump { then: [9, 0, 0], ..Stump::default() }, "leads to node 9");
    check(Stump { then: [-1, 0, 0], ..Stump::default() }, "leads to node -1");
    check(Stump { weights: &[(9, 0, 1.0)], ..Stump::default() }, "node 9 of tree 0, which is not there");
    check(Stump { weights: &[(1, 3, 1.0)], ..Stump::default() }, "none of the 1 scores");
    check(Stump { treeids: [0, 1, 0], ..Stump::default() }, "leads to node 1");
    check(Stump { base: &[1.0, 2.0], ..Stump::default() }, "2 base values for 1 targets");
    check(Stump { transform: "MAGIC", ..Stump::default() }, "MAGIC");
    let odd = Stump::default().regressor(1, "MEDIAN").refused();
    assert!(odd.contains("MEDIAN"), "{odd}");
    let none = Stump::default().regressor(0, "SUM").refused();
    assert!(none.contains("for 0 scores"), "{none}");
}

/// A tree of opset 5: x ≤ 2, or what `mode` asks, with two leaves.
fn opset5(mode: u8, transform: i64, more: Vec<(&str, Attr<'_>)>) -> Model {
    let mut attributes = vec![
        ("n_targets", Attr::Int(2)),
        ("aggregate_function", Attr::Int(1)),
        ("post_transform", Attr::Int(transform)),
        ("tree_roots", Attr::Ints(&[0])),
        ("nodes_featureids", Attr::Ints(&[0])),
        ("nodes_splits", Attr::Tensor(singles(&[2.]))),
        ("nodes_modes", Attr::Tensor(small(std::slice::from_ref(&mode)))),
        ("nodes_truenodeids", Attr::Ints(&[0])),
        ("nodes_trueleafs", Attr::Ints(&[1])),
        ("nodes_falsenodeids", Attr::Ints(&[1])),
        ("nodes_falseleafs", Attr::Ints(&[1])),
        ("leaf_targetids", Attr::Ints(&[0, 1])),
        ("leaf_weights", Attr::Tensor(singles(&[1., 2.]))),
    ];
    attributes.extend(more);
    Model::new().opsets(21, 5).input("x", DataType::Fp32, &[ANY, 1]).output("y", DataType::Fp32, &[ANY, 2]).ml(
        "TreeEnsemble",
        &["x"],
        &["y"],
        &attributes,
    )
}

#[test]
fn ensembles_of_opset_5_have_every_test() {
    // For 1, 2, 3 and NaN: whether the test is true.
    let truth: [(u8, [bool; 4]); 6] = [
        (0, [true, true, false, false]),
        (1, [true, false, false, false]),
        (2, [false, true, true, false]),
        (3, [false, false, true, false]),
        (4, [false, true, false, false]),
        (5, [true, false, true, true]),
    ];
    let rows = f32s(&[4, 1], &[1., 2., 3., f32::NAN]);
    for (mode, truth) in truth {
        let expected: Vec<f32> = truth.iter().flat_map(|&truth| if truth { [1., 0.] } else { [0., 2.] }).collect();
        assert_close(&opset5(mode, 0, Vec::new()).run(std::slice::from_ref(&rows))[0], &expected);
    }
    let members = || vec![("membership_values", Attr::Tensor(singles(&[1., 3., f32::NAN])))];
    let rows = [f32s(&[5, 1], &[1., 2., 3., f32::NAN, 1.5])];
    assert_close(&opset5(6, 0, members()).run(&rows)[0], &[1., 0., 0., 2., 1., 0., 0., 2., 0., 2.]);
    let missing = members().into_iter().chain([("nodes_missing_value_tracks_true", Attr::Ints(&[1]))]).collect();
    assert_close(&opset5(6, 0, missing).run(&rows)[0], &[1., 0., 0., 2., 1., 0., 1., 0., 0., 2.]);
}

#[test]
fn ensembles_of_opset_5_transform_as_onnx_runtime_numbers_it() {
    let rows = [f32s(&[2, 1], &[1., 3.])];
    let check = |transform, expected: &[f32]| assert_close(&opset5(0, transform, Vec::new()).run(&rows)[0], expected);
    check(1, &[0.7310586, 0.5, 0.5, 0.880797]);
    check(2, &[0.7310586, 0.26894143, 0.11920292, 0.880797]);
    check(3, &[1., 0., 0., 1.]);
    let error = opset5(0, 9, Vec::new()).refused();
    assert!(error.contains("post_transform 9"), "{error}");
    let error = opset5(0, 0, vec![("nodes_splits", Attr::Tensor(doubles(&[2.])))]).try_run(&rows);
    assert!(error.is_ok(), "the first of two attributes of a name counts");
}

#[test]
fn integers_are_compared_as_singles() {
    let model = Model::new().input("x", DataType::Int64, &[ANY, 1]).output("label", DataType::Int64, &[ANY]).output(
        "scores",
        DataType::Fp32,
        &[ANY, 2],
    );
    let labels = vec![("classlabels_int64s", Attr::Ints(&[5, 7]))];
    let model = Stump::default().with(model, "TreeEnsembleClassifier", "class", &["label", "scores"], labels);
    assert_eq!(model.run(&[i64s(&[2, 1], &[1, 2])])[0], i64s(&[2], &[5, 7]));
}
