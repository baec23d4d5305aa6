//! Do categories, columns and labels become what ONNX Runtime makes of them?

use tiltyard_types::{DataType, Tensor};

use crate::fixture::{ANY, Attr, Model, assert_close, f32s, f64s, i64s, singles, texts};

const F32: DataType = DataType::Fp32;

fn encoder(operator: &str, from: DataType, to: DataType, ml: i64, attributes: &[(&str, Attr<'_>)]) -> Model {
    Model::new().opsets(17, ml).input("x", from, &[ANY]).output("y", to, &[ANY]).ml(
        operator,
        &["x"],
        &["y"],
        attributes,
    )
}

#[test]
fn one_hot_marks_the_category() {
    let model = |from, attributes: &[(&str, Attr<'_>)]| {
        Model::new().input("x", from, &[ANY, ANY]).output("y", F32, &[ANY, ANY, ANY]).ml(
            "OneHotEncoder",
            &["x"],
            &["y"],
            attributes,
        )
    };
    let numbers = [("cats_int64s", Attr::Ints(&[1, 2, 3]))];
    let answer = model(F32, &numbers).run(&[f32s(&[1, 4], &[1.9, 3., -1., f32::NAN])]);
    assert_eq!(&answer[0].shape()[..], [1, 4, 3]);
    assert_close(&answer[0], &[1., 0., 0., 0., 0., 1., 0., 0., 0., 0., 0., 0.]);
    let names = [("cats_strings", Attr::Texts(&["a", "b"])), ("zeros", Attr::Int(0))];
    assert_close(&model(DataType::Bytes, &names).run(&[texts(&[1, 1], &["b"])])[0], &[0., 1.]);
    let error = model(DataType::Bytes, &names).try_run(&[texts(&[1, 1], &["c"])]).unwrap_err().to_string();
    assert!(error.contains("element 0 is none of the categories"), "{error}");
    assert!(model(DataType::Bytes, &numbers).refused().contains("another type"));
    assert!(model(F32, &[]).refused().contains("exactly one"));
}

#[test]
fn label_encoders_look_up() {
    let to_numbers = [
        ("keys_strings", Attr::Texts(&["a", "b", "a"])),
        ("values_int64s", Attr::Ints(&[10, 20, 30])),
        ("default_int64", Attr::Int(-7)),
    ];
    let model = encoder("LabelEncoder", DataType::Bytes, DataType::Int64, 3, &to_numbers);
    // Of equal keys the first one counts.
    assert_eq!(model.run(&[texts(&[3], &["b", "a", "z"])])[0], i64s(&[3], &[20, 10, -7]));
    let to_texts = [("keys_int64s", Attr::Ints(&[1])), ("values_strings", Attr::Texts(&["one"]))];
    let model = encoder("LabelEncoder", DataType::Int64, DataType::Bytes, 3, &to_texts);
    assert_eq!(model.run(&[i64s(&[2], &[1, 2])])[0], texts(&[2], &["one", "_Unused"]));
    let uneven = [("keys_int64s", Attr::Ints(&[1, 2])), ("values_strings", Attr::Texts(&["one"]))];
    let refused = encoder("LabelEncoder", DataType::Int64, DataType::Bytes, 3, &uneven).refused();
    assert!(refused.contains("2 keys and 1 values"), "{refused}");
}

#[test]
fn nan_is_a_key_since_version_4() {
    let attributes = || {
        [
            ("keys_floats", Attr::Floats(&[1., f32::NAN, 0.])),
            ("values_int64s", Attr::Ints(&[10, 20, 30])),
            ("default_int64", Attr::Int(-7)),
        ]
    };
    let rows = [f32s(&[4], &[1., f32::NAN, -0., 2.])];
    let answer =
        |version| encoder("LabelEncoder", F32, DataType::Int64, version, &attributes()).run(&rows).swap_remove(0);
    assert_eq!(answer(3), i64s(&[4], &[10, -7, 30, -7]));
    assert_eq!(answer(4), i64s(&[4], &[10, 20, 30, -7]));
    let tensors = [
        ("keys_tensor", Attr::Tensor(singles(&[1., 2.]))),
        ("values_tensor", Attr::Tensor(singles(&[0.5, 0.25]))),
        ("default_tensor", Attr::Tensor(singles(&[9.]))),
    ];
    assert_close(&encoder("LabelEncoder", F32, F32, 4, &tensors).run(&rows)[0], &[0.5, 9., 9., 0.25]);
}

#[test]
fn the_first_label_encoder_and_the_category_mapper_go_both_ways() {
    let classes = [("classes_strings", Attr::Texts(&["a", "b", "a"])), ("default_string", Attr::Text("?"))];
    let model = encoder("LabelEncoder", DataType::Bytes, DataType::Int64, 1, &classes);
    // Of equal keys the last one counts.
    assert_eq!(model.run(&[texts(&[3], &["a", "b", "z"])])[0], i64s(&[3], &[2, 1, -1]));
    let model = encoder("LabelEncoder", DataType::Int64, DataType::Bytes, 1, &classes);
    assert_eq!(model.run(&[i64s(&[2], &[1, 9])])[0], texts(&[2], &["b", "?"]));
    let mapper = [("cats_strings", Attr::Texts(&["a", "b"])), ("cats_int64s", Attr::Ints(&[5, 6]))];
    let model = encoder("CategoryMapper", DataType::Bytes, DataType::Int64, 3, &mapper);
    assert_eq!(model.run(&[texts(&[2], &["b", "z"])])[0], i64s(&[2], &[6, -1]));
}

#[test]
fn columns_are_picked_by_number() {
    let model = |dims: &[i64], places: &[i64]| {
        Model::new()
            .input("x", F32, dims)
            .output("y", F32, &[ANY, ANY])
            .ints("places", &[places.len() as i64], places)
            .ml("ArrayFeatureExtractor", &["x", "places"], &["y"], &[])
    };
    let rows = [f32s(&[2, 3], &[0., 1., 2., 3., 4., 5.])];
    let answer = model(&[ANY, 3], &[2, 0]).run(&rows);
    assert_eq!(answer[0], f32s(&[2, 2], &[2., 0., 5., 3.]));
    assert_eq!(model(&[ANY], &[2]).run(&[f32s(&[3], &[0., 1., 2.])])[0], f32s(&[1, 1], &[2.]));
    for outside in [3, -1] {
        let error = model(&[ANY, 3], &[outside]).try_run(&rows).unwrap_err().to_string();
        assert!(error.contains("out of range"), "{error}");
    }
}

fn cast(from: DataType, to: DataType, number: i64, input: Tensor) -> Result<Tensor, String> {
    let model = Model::new()
        .input("x", from, &[ANY])
        .output("y", to, &[ANY])
        .node("Cast", &["x"], &["y"], &[("to", Attr::Int(number))])
        // Without an operator of its own domain, a graph is none of this engine's.
        .input("u", F32, &[ANY, 1])
        .ml("Scaler", &["u"], &["v"], &[("scale", Attr::Floats(&[1.])), ("offset", Attr::Floats(&[0.]))]);
    let answer = model.try_run(&[input, f32s(&[1, 1], &[0.])]);
    answer.map(|mut answer| answer.swap_remove(0)).map_err(|error| error.to_string())
}

#[test]
fn casts_are_those_of_onnx_runtime() {
    let floats = || f32s(&[5], &[1.9, -1.9, 1e30, f32::NAN, 3e9]);
    let least = i64::MIN;
    assert_eq!(cast(F32, DataType::Int64, 7, floats()).unwrap(), i64s(&[5], &[1, -1, least, least, 3_000_000_000]));
    let numbers = Tensor::from_slice([5], &[1i32, -1, i32::MIN, i32::MIN, i32::MIN]).unwrap();
    assert_eq!(cast(F32, DataType::Int32, 6, floats()).unwrap(), numbers);
    let texts_of = cast(F32, DataType::Bytes, 8, f32s(&[5], &[1., 0.1, 1e10, f32::NEG_INFINITY, 1.5e-7])).unwrap();
    assert_eq!(texts_of, texts(&[5], &["1", "0.1", "1e+10", "-INF", "1.5000001e-07"]));
    assert_eq!(
        cast(DataType::Bytes, DataType::Fp64, 11, texts(&[2], &["1.5", " -2e3"])).unwrap(),
        f64s(&[2], &[1.5, -2e3])
    );
    let error = cast(DataType::Bytes, DataType::Int64, 7, texts(&[1], &["x"])).unwrap_err();
    assert!(error.contains("\"x\" is not a number"), "{error}");
    let error = cast(F32, DataType::Fp16, 10, f32s(&[1], &[1.])).unwrap_err();
    assert!(error.contains("Cast with ONNX type 10"), "{error}");
}

#[test]
fn a_zip_map_is_a_matrix_of_scores_with_classes() {
    let model = || {
        Model::new().input("x", F32, &[ANY, 2]).maps("scores").ml(
            "ZipMap",
            &["x"],
            &["scores"],
            &[("classlabels_int64s", Attr::Ints(&[5, 7]))],
        )
    };
    let compiled = model().compile().unwrap();
    assert_eq!(compiled.signature().to_string(), "(x FP32[-1, 2]) -> (scores FP32[-1, 2])");
    assert_eq!(
        (&compiled.classes()[0].output[..], &compiled.classes()[0].labels[..]),
        ("scores", &["5".into(), "7".into()][..])
    );
    assert_eq!(model().run(&[f32s(&[1, 2], &[0.25, 0.75])])[0], f32s(&[1, 2], &[0.25, 0.75]));
    let texts = Model::new().input("x", F32, &[ANY, 3]).output("y", F32, &[ANY, 3]).maps("scores").node(
        "Identity",
        &["x"],
        &["y"],
        &[],
    );
    let texts = texts.ml("ZipMap", &["x"], &["scores"], &[("classlabels_strings", Attr::Texts(&["a", "b"]))]);
    let error = texts.try_run(&[f32s(&[1, 3], &[0.; 3])]).unwrap_err().to_string();
    assert!(error.contains("3 scores a row, and 2 labels"), "{error}");
}
