//! Do linear models, support vectors and scalers answer as ONNX Runtime does?

use tiltyard_types::{DataType, Tensor};

use crate::fixture::{ANY, Attr, Model, assert_close, f32s, f64s, i64s, texts};

const F32: DataType = DataType::Fp32;

fn rows() -> Vec<Tensor> {
    vec![f32s(&[2, 2], &[1., 2., -3., 0.5])]
}

/// A node with one output of floats over `x`.
fn floats(operator: &str, attributes: &[(&str, Attr<'_>)]) -> Model {
    Model::new().input("x", F32, &[ANY, ANY]).output("y", F32, &[ANY, ANY]).ml(operator, &["x"], &["y"], attributes)
}

fn classifier(coefficients: &[f32], intercepts: &[f32], labels: &[i64], transform: &str) -> Model {
    Model::new()
        .input("x", F32, &[ANY, 2])
        .output("label", DataType::Int64, &[ANY])
        .output("scores", F32, &[ANY, ANY])
        .ml(
            "LinearClassifier",
            &["x"],
            &["label", "scores"],
            &[
                ("coefficients", Attr::Floats(coefficients)),
                ("intercepts", Attr::Floats(intercepts)),
                ("classlabels_ints", Attr::Ints(labels)),
                ("post_transform", Attr::Text(transform)),
            ],
        )
}

#[test]
fn linear_classifiers_score_and_choose() {
    let check = |transform: &str, expected: &[f32]| {
        let answer =
            classifier(&[0.1, 0.2, -0.3, 0.4], &[0.05, 0.1], &[3, 4], transform).run(&[f32s(&[1, 2], &[1., 2.])]);
        assert_eq!(answer[0], i64s(&[1], &[4]));
        assert_close(&answer[1], expected);
    };
    check("NONE", &[0.55, 0.6]);
    check("LOGISTIC", &[0.6341356, 0.6456563]);
    check("SOFTMAX", &[0.4875026, 0.5124974]);
    check("SOFTMAX_ZERO", &[0.4875026, 0.5124974]);
    check("PROBIT", &[0.12566201, 0.2533535]);
}

#[test]
fn one_score_for_two_labels_becomes_two() {
    let check = |transform: &str, expected: &[f32]| {
        let answer = classifier(&[0.1, 0.2], &[0.05], &[3, 4], transform).run(&[f32s(&[1, 2], &[1., 2.])]);
        assert_eq!(answer[0], i64s(&[1], &[4]));
        assert_close(&answer[1], expected);
    };
    check("NONE", &[0.45, 0.55]);
    check("SOFTMAX", &[0.45, 0.55]);
    check("LOGISTIC", &[0.3658644, 0.6341356]);
    let refused = classifier(&[0.1, 0.2], &[0.05], &[3], "NONE").refused();
    assert!(refused.contains("one score for 1 labels"), "{refused}");
}

#[test]
fn of_equal_scores_the_first_wins_and_nan_is_larger_than_nothing() {
    let model = classifier(&[1., 0., 1., 0., 0., 1.], &[0., 0., 0.], &[7, 8, 9], "NONE");
    let answer = model.run(&[f32s(&[3, 2], &[1., 1., f32::NAN, 1., 1., f32::NAN])]);
    assert_eq!(answer[0], i64s(&[3], &[7, 7, 7]));
}

#[test]
fn lengths_that_do_not_fit_are_told() {
    let refused = classifier(&[1., 2., 3.], &[0., 0.], &[1, 2], "NONE").refused();
    assert!(refused.contains("3 coefficients for 2 scores"), "{refused}");
    let model = Model::new().input("x", F32, &[ANY, ANY]).output("y", F32, &[ANY, 1]).ml(
        "LinearRegressor",
        &["x"],
        &["y"],
        &[("coefficients", Attr::Floats(&[1., 2., 3.]))],
    );
    let error = model.try_run(&rows()).unwrap_err().to_string();
    assert!(error.contains("LinearRegressor: 2 columns were given, and there are coefficients for 3"), "{error}");
}

#[test]
fn linear_regressors_score() {
    let model = |transform: &str| {
        floats(
            "LinearRegressor",
            &[
                ("coefficients", Attr::Floats(&[0.1, 0.2, -0.3, 0.4])),
                ("intercepts", Attr::Floats(&[0.05, 0.1])),
                ("targets", Attr::Int(2)),
                ("post_transform", Attr::Text(transform)),
            ],
        )
    };
    assert_close(&model("NONE").run(&rows())[0], &[0.55, 0.6, -0.15, 1.2]);
    assert_close(&model("SOFTMAX").run(&rows())[0], &[0.48750263, 0.5124974, 0.20587036, 0.7941297]);
    let single = |transform: &str| {
        floats(
            "LinearRegressor",
            &[("coefficients", Attr::Floats(&[0.1, 0.2])), ("post_transform", Attr::Text(transform))],
        )
        .run(&[f32s(&[1, 2], &[1., 2.])])
        .swap_remove(0)
    };
    assert_close(&single("LOGISTIC"), &[0.5]);
    assert_close(&single("PROBIT"), &[0.0]);
}

#[test]
fn many_targets_are_those_of_one_each() {
    let (targets, columns) = (20, 11);
    let coefficients: Vec<f32> = (0..targets * columns).map(|at| (at % 7) as f32 - 3.).collect();
    let intercepts: Vec<f32> = (0..targets).map(|at| at as f32 * 0.5).collect();
    let row: Vec<f32> = (0..columns).map(|at| (at % 5) as f32 - 2.).collect();
    let score = |coefficients: &[f32], intercepts: &[f32]| {
        let attributes = [
            ("coefficients", Attr::Floats(coefficients)),
            ("intercepts", Attr::Floats(intercepts)),
            ("targets", Attr::Int(intercepts.len() as i64)),
        ];
        let answer = floats("LinearRegressor", &attributes).run(&[f32s(&[1, columns], &row)]);
        answer[0].to_vec::<f32>().unwrap()
    };
    let each: Vec<f32> =
        coefficients.chunks(columns).zip(&intercepts).flat_map(|(own, &at)| score(own, &[at])).collect();
    assert_close(&f32s(&[targets], &score(&coefficients, &intercepts)), &each);
}

#[test]
fn support_vectors_regress() {
    let model = |kernel: &str, one_class: i64| {
        floats(
            "SVMRegressor",
            &[
                ("kernel_type", Attr::Text(kernel)),
                ("kernel_params", Attr::Floats(&[0.3, 0.2, 3.0])),
                ("support_vectors", Attr::Floats(&[0.5, 1., 1.5, -0.5])),
                ("coefficients", Attr::Floats(&[0.7, -0.2])),
                ("rho", Attr::Floats(&[0.1])),
                ("n_supports", Attr::Int(2)),
                ("one_class", Attr::Int(one_class)),
            ],
        )
    };
    // exp(-0.3 · distance²), by hand.
    let rbf = |a: f32, b: f32| 0.7 * (-0.3f32 * a).exp() - 0.2 * (-0.3f32 * b).exp() + 0.1;
    assert_close(&model("RBF", 0).run(&rows())[0], &[rbf(1.25, 6.5), rbf(12.5, 21.25)]);
    assert_close(&model("LINEAR", 1).run(&rows())[0], &[1.0, 1.0]);
    assert_close(&model("LINEAR", 0).run(&rows())[0], &[0.7 * 2.5 - 0.2 * 0.5 + 0.1, -0.7 + 0.2 * 4.75 + 0.1]);
    let refused = floats("SVMRegressor", &[("coefficients", Attr::Floats(&[1.0]))]).refused();
    assert!(refused.contains("rho is missing"), "{refused}");
}

fn pairs(classes: i64, transform: &str, kernel: &str, has_proba: bool) -> Vec<Tensor> {
    let pairs = (classes * (classes - 1) / 2) as usize;
    let labels: Vec<i64> = (3..3 + classes).collect();
    let counts: &[i64] = if classes == 2 { &[2, 1] } else { &[1, 1, 1] };
    let coefficients = [0.5, -0.7, 0.2, 0.3, 0.1, -0.4];
    let mut attributes = vec![
        ("coefficients", Attr::Floats(&coefficients[..3 * (classes as usize - 1)])),
        ("support_vectors", Attr::Floats(&[0.5, 1., 1.5, -0.5, 0., 2.])),
        ("rho", Attr::Floats(&[0.05, 0.02, -0.03][..pairs])),
        ("vectors_per_class", Attr::Ints(counts)),
        ("kernel_type", Attr::Text(kernel)),
        ("kernel_params", Attr::Floats(&[0.3, 0.1, 2.])),
        ("classlabels_ints", Attr::Ints(&labels)),
        ("post_transform", Attr::Text(transform)),
    ];
    if has_proba {
        attributes.push(("prob_a", Attr::Floats(&[-1.2, -1.1, -0.9][..pairs])));
        attributes.push(("prob_b", Attr::Floats(&[0.1, 0.2, 0.3][..pairs])));
    }
    Model::new()
        .input("x", F32, &[ANY, 2])
        .output("label", DataType::Int64, &[ANY])
        .output("scores", F32, &[ANY, ANY])
        .ml("SVMClassifier", &["x"], &["label", "scores"], &attributes)
        .run(&[f32s(&[2, 2], &[1., 2., 0., 0.])])
}

#[test]
fn support_vectors_choose_by_votes() {
    let two = pairs(2, "NONE", "RBF", false);
    assert_eq!(two[0], i64s(&[2], &[3, 3]));
    assert_close(&two[1], &[-0.44221646, 0.44221646, -0.1232269, 0.1232269]);
    assert_close(&pairs(2, "LOGISTIC", "RBF", false)[1], &[0.39121294, 0.60878706, 0.4692322, 0.5307678]);
    assert_close(&pairs(2, "SOFTMAX", "RBF", false)[1], &[0.55778354, 0.44221646, 0.8767731, 0.1232269]);
    let three = pairs(3, "NONE", "RBF", false);
    assert_eq!(three[0], i64s(&[2], &[3, 3]));
    assert_close(&three[1], &[0.2940528, 0.37435046, -0.31209987, 0.06298806, 0.28642565, -0.10324102]);
    assert_close(&pairs(3, "NONE", "LINEAR", false)[1], &[0.95, 1.57, -1.58, 0.05, 0.02, -0.03]);
    assert_close(&pairs(3, "NONE", "POLY", false)[1], &[0.3675, 0.57475007, -0.69975007, 0.048, 0.025, -0.033]);
    assert_close(
        &pairs(3, "NONE", "SIGMOID", false)[1],
        &[0.22409171, 0.3996655, -0.3501974, 0.0300664, 0.06983399, -0.0599004],
    );
}

#[test]
fn support_vectors_have_probabilities() {
    let two = pairs(2, "NONE", "RBF", true);
    assert_close(&two[1], &[0.6053108, 0.39468917, 0.5119657, 0.48803437]);
    assert_close(&pairs(2, "LOGISTIC", "RBF", true)[1], &[0.6468704, 0.597411, 0.62526715, 0.6196433]);
    let three = pairs(3, "NONE", "RBF", true);
    assert_eq!(three[0], i64s(&[2], &[3, 3]));
    assert_close(&three[1], &[0.3891656, 0.25070384, 0.3601306, 0.34548673, 0.29391563, 0.36059785]);
}

#[test]
fn support_vectors_without_vectors_are_linear() {
    let model = |coefficients: &[f32], labels: &[i64], transform: &str| {
        Model::new()
            .input("x", F32, &[ANY, 2])
            .output("label", DataType::Int64, &[ANY])
            .output("scores", F32, &[ANY, ANY])
            .ml(
                "SVMClassifier",
                &["x"],
                &["label", "scores"],
                &[
                    ("coefficients", Attr::Floats(coefficients)),
                    ("rho", Attr::Floats(&[0.05, 0.1])),
                    ("classlabels_ints", Attr::Ints(labels)),
                    ("post_transform", Attr::Text(transform)),
                ],
            )
            .run(&[f32s(&[4, 2], &[1., 2., 0., 0., 3., -1., -9., -9.])])
    };
    let mixed = model(&[0.1, 0.2, -0.3, 0.4], &[3, 4], "NONE");
    assert_eq!(mixed[0], i64s(&[4], &[4, 4, 4, 4]));
    assert_close(&mixed[1], &[0.55, 0.55, 0.05, 0.05, 0.15, -1.25, -2.65, -0.85]);
    assert_eq!(model(&[0.1, 0.2, 0.3, 0.4], &[3, 4], "NONE")[0], i64s(&[4], &[4, 3, 4, 3]));
    assert_eq!(model(&[0.1, 0.2, 0.3, 0.4, -0.1, -0.2], &[1, 2, 3], "NONE")[0], i64s(&[4], &[2, 1, 2, 3]));
    assert_close(
        &model(&[0.1, 0.2, -0.3, 0.4], &[3, 4], "LOGISTIC")[1],
        &[0.6341356, 0.6341356, 0.51249737, 0.51249737, 0.5374299, 0.22270014, 0.06598905, 0.2994329],
    );
}

#[test]
fn scalers_scale_columns_or_all() {
    let scaler = |scale: &[f32], offset: &[f32]| {
        floats("Scaler", &[("scale", Attr::Floats(scale)), ("offset", Attr::Floats(offset))])
    };
    assert_close(&scaler(&[2., 0.5], &[1., -1.]).run(&rows())[0], &[0., 1.5, -8., 0.75]);
    assert_close(&scaler(&[2.], &[1.]).run(&rows())[0], &[0., 2., -8., -1.]);
    let refused = scaler(&[2., 1.], &[1.]).refused();
    assert!(refused.contains("2 scales and 1 offsets"), "{refused}");
    let error = scaler(&[2., 1., 1.], &[1., 1., 1.]).try_run(&rows()).unwrap_err().to_string();
    assert!(error.contains("2 columns were given, and there are scales for 3"), "{error}");
    let wide = Model::new().input("x", DataType::Fp64, &[ANY, 1]).output("y", F32, &[ANY, 1]).ml(
        "Scaler",
        &["x"],
        &["y"],
        &[("scale", Attr::Floats(&[1.0])), ("offset", Attr::Floats(&[1e8]))],
    );
    assert_close(&wide.run(&[f64s(&[1, 1], &[100_000_001.0])])[0], &[1.0]);
}

#[test]
fn normalizers_divide_rows() {
    let rows = [f32s(&[4, 3], &[-1., 2., -4., -1., -2., -3., 0., 0., 0., f32::NAN, 1., 2.])];
    let check = |norm: &str, expected: &[f32]| {
        assert_close(&floats("Normalizer", &[("norm", Attr::Text(norm))]).run(&rows)[0], expected);
    };
    let nan = f32::NAN;
    check("MAX", &[-0.5, 1., -2., 1., 2., 3., 0., 0., 0., nan, 0.5, 1.]);
    check("L1", &[-0.14285715, 0.2857143, -0.5714286, -0.16666667, -0.33333334, -0.5, 0., 0., 0., nan, nan, nan]);
    check("L2", &[-0.2182179, 0.4364358, -0.8728716, -0.26726124, -0.5345225, -0.80178374, 0., 0., 0., nan, nan, nan]);
}

#[test]
fn imputers_fill_in() {
    let imputer =
        |attributes: &[(&str, Attr<'_>)], row: &[f32]| floats("Imputer", attributes).run(&[f32s(&[2, 2], row)]);
    let nan = [("imputed_value_floats", Attr::Floats(&[7., 8.])), ("replaced_value_float", Attr::Float(f32::NAN))];
    assert_close(&imputer(&nan, &[f32::NAN, 2., 3., f32::NAN])[0], &[7., 2., 3., 8.]);
    assert_close(&imputer(&[("imputed_value_floats", Attr::Floats(&[7.]))], &[0., 2., 3., 0.])[0], &[7., 2., 3., 7.]);
    assert!(floats("Imputer", &[]).refused().contains("nothing of its type to fill in"));
}

#[test]
fn binarizers_ask_on_which_side_a_number_is() {
    let binarizer = || floats("Binarizer", &[]);
    assert_close(&binarizer().run(&[f32s(&[1, 4], &[0.5, 1., -9., 0.])])[0], &[1., 1., 0., 0.]);
    let error = binarizer().try_run(&[f32s(&[1, 1], &[f32::NAN])]).unwrap_err().to_string();
    assert!(error.contains("element 0 is NaN"), "{error}");
}

#[test]
fn feature_vectorizers_cut_and_fill_up() {
    let model = Model::new()
        .input("a", F32, &[ANY, 3])
        .input("b", DataType::Int64, &[ANY, 1])
        .output("y", F32, &[ANY, 5])
        .ml("FeatureVectorizer", &["a", "b"], &["y"], &[("inputdimensions", Attr::Ints(&[2, 3]))]);
    let answer = model.run(&[f32s(&[2, 3], &[1., 2., 3., 4., 5., 6.]), i64s(&[2, 1], &[7, 8])]);
    assert_close(&answer[0], &[1., 2., 7., 0., 0., 4., 5., 8., 0., 0.]);
}

#[test]
fn texts_are_labels_of_linear_models_too() {
    let model = Model::new()
        .input("x", DataType::Int64, &[ANY, 1])
        .output("label", DataType::Bytes, &[ANY])
        .output("scores", F32, &[ANY, 2])
        .ml(
            "LinearClassifier",
            &["x"],
            &["label", "scores"],
            &[
                ("coefficients", Attr::Floats(&[1., -1.])),
                ("intercepts", Attr::Floats(&[0., 1.])),
                ("classlabels_strings", Attr::Texts(&["yes", "no"])),
            ],
        );
    assert_eq!(model.run(&[i64s(&[2, 1], &[2, 0])])[0], texts(&[2], &["yes", "no"]));
}
