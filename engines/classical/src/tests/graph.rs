//! Are graphs read, put in order, refused and run as they should be?

use tiltyard_runtime::engine::{CompileOptions, Engine, EngineError};
use tiltyard_types::{DataType, Tensor};

use crate::fixture::{ANY, Attr, Model, assert_close, f32s, i64s};

const F32: DataType = DataType::Fp32;

fn scaler(model: Model, from: &str, to: &str, offset: f32) -> Model {
    model.ml("Scaler", &[from], &[to], &[("scale", Attr::Floats(&[1.])), ("offset", Attr::Floats(&[offset]))])
}

fn open() -> Model {
    Model::new().input("x", F32, &[ANY, 1]).output("y", F32, &[ANY, 1])
}

#[test]
fn an_operator_that_is_missing_is_named() {
    let model = open().node("Einsum", &["x"], &["a"], &[]).node("Conv", &["a"], &["b"], &[]);
    let error = scaler(model, "b", "y", 0.).compile().err().unwrap();
    assert_eq!(error, EngineError::Unsupported("the classical engine does not have Conv, Einsum".into()));
}

#[test]
fn a_graph_without_classical_operators_is_none_of_ours() {
    let error = open().node("Exp", &["x"], &["y"], &[]).compile().err().unwrap();
    assert!(matches!(&error, EngineError::Unsupported(what) if what.contains("no operator of ai.onnx.ml")), "{error}");
}

#[test]
fn nodes_are_put_in_order_and_circles_refused() {
    let turned = scaler(scaler(open(), "a", "y", 1.), "x", "a", 10.);
    assert_close(&turned.run(&[f32s(&[1, 1], &[20.])])[0], &[9.]);
    let circle = scaler(scaler(open(), "y", "a", 1.), "a", "y", 1.);
    assert!(circle.refused().contains("circle"));
    let itself = scaler(open(), "y", "y", 1.);
    assert!(itself.refused().contains("circle"));
}

#[test]
fn names_that_nobody_makes_or_two_make_are_refused() {
    assert!(scaler(open(), "q", "y", 1.).refused().contains("reads \"q\", which nothing makes"));
    assert!(scaler(open(), "x", "z", 1.).refused().contains("nothing makes the output \"y\""));
    assert!(scaler(scaler(open(), "x", "y", 1.), "x", "y", 2.).refused().contains("\"y\" is made twice"));
    let mistaken = Model::new().input("x", F32, &[ANY, 1]).output("y", DataType::Int64, &[ANY, 1]);
    assert!(scaler(mistaken, "x", "y", 1.).refused().contains("declared as INT64, and is FP32"));
}

#[test]
fn other_types_and_providers_are_refused() {
    let halves = Model::new().input("x", DataType::Fp16, &[ANY, 1]).output("y", F32, &[ANY, 1]);
    assert!(scaler(halves, "x", "y", 1.).refused().contains("FP16 (of \"x\")"));
    let options = CompileOptions { providers: vec!["cuda".into()], ..CompileOptions::default() };
    let error = crate::engine().compile(&scaler(open(), "x", "y", 0.).file(), &options).err().unwrap();
    assert!(error.to_string().contains("runs on cpu only, not on cuda"));
}

#[test]
fn only_what_is_wanted_is_computed() {
    // The second output divides by zero.
    let model = Model::new()
        .input("x", F32, &[ANY, 1])
        .input("n", DataType::Int64, &[ANY])
        .output("y", F32, &[ANY, 1])
        .output("z", DataType::Int64, &[ANY])
        .node("Div", &["n", "n"], &["z"], &[]);
    let compiled = scaler(model, "x", "y", 1.).compile().unwrap();
    let mut session = compiled.open().unwrap();
    let inputs = [Some(f32s(&[1, 1], &[3.])), Some(i64s(&[1], &[0]))];
    assert_close(&session.run(&inputs, &[0]).unwrap()[0], &[2.]);
    let error = session.run(&inputs, &[1, 0]).unwrap_err();
    assert_eq!(error, EngineError::BadInput("Div: an integer is divided by zero".into()));
    let good = [inputs[0].clone(), Some(i64s(&[1], &[7]))];
    let answer = session.run(&good, &[1, 0]).unwrap();
    assert_eq!((&answer[0], &answer[1]), (&i64s(&[1], &[1]), &f32s(&[1, 1], &[2.])));
}

#[test]
fn inputs_with_defaults_may_be_left_out() {
    let model = open().input("bias", F32, &[1]).floats("bias", &[1], &[5.]);
    let model = scaler(model.node("Add", &["x", "bias"], &["a"], &[]), "a", "y", 0.);
    let compiled = model.compile().unwrap();
    let mut session = compiled.open().unwrap();
    let x = Some(f32s(&[1, 1], &[1.]));
    assert_close(&session.run(&[x.clone(), None], &[0]).unwrap()[0], &[6.]);
    assert_close(&session.run(&[x, Some(f32s(&[1], &[2.]))], &[0]).unwrap()[0], &[3.]);
}

#[test]
fn a_session_takes_runs_of_any_size() {
    let compiled = scaler(open(), "x", "y", 1.).compile().unwrap();
    let mut session = compiled.open().unwrap();
    for rows in [1usize, 300, 2, 0, 7] {
        let values: Vec<f32> = (0..rows).map(|row| row as f32).collect();
        let expected: Vec<f32> = values.iter().map(|value| value - 1.).collect();
        let answer = session.run(&[Some(f32s(&[rows, 1], &values))], &[0]).unwrap();
        assert_eq!(answer[0], f32s(&[rows, 1], &expected));
    }
}

#[test]
fn an_identity_is_its_input() {
    let model = open().output("same", F32, &[ANY, 1]).node("Identity", &["x"], &["same"], &[]);
    let answer =
        scaler(model.node("Identity", &["same"], &["again"], &[]), "again", "y", 1.).run(&[f32s(&[1, 1], &[4.])]);
    let values: Vec<Vec<f32>> = answer.iter().map(|tensor: &Tensor| tensor.to_vec().unwrap()).collect();
    assert_eq!(values, [[3.], [4.]]);
}

#[test]
fn absurd_shapes_are_refused_and_not_allocated() {
    let model = Model::new()
        .input("x", F32, &[ANY, 1])
        .input("shape", DataType::Int64, &[ANY])
        .output("y", F32, &[ANY, 1])
        .node("ConstantOfShape", &["shape"], &["much"], &[])
        .node("Add", &["x", "much"], &["a"], &[]);
    let model = scaler(model, "a", "y", 0.);
    let row = f32s(&[1, 1], &[1.]);
    let error = model.clone().try_run(&[row.clone(), i64s(&[2], &[1 << 40, 1 << 40])]).unwrap_err();
    assert!(matches!(&error, EngineError::OutOfMemory(what) if what.contains("ConstantOfShape")), "{error}");
    let error = model.clone().try_run(&[row.clone(), i64s(&[1], &[-3])]).unwrap_err();
    assert!(matches!(&error, EngineError::BadInput(_)), "{error}");
    let spread = model.try_run(&[row, i64s(&[2], &[1 << 20, 1])]).unwrap();
    assert_eq!(&spread[0].shape()[..], [1 << 20, 1]);
}

#[test]
fn outputs_are_declared_as_they_come() {
    // As LightGBM's exporter does it: one label for however many rows.
    let attributes = [
        ("coefficients", Attr::Floats(&[1., -1.])),
        ("intercepts", Attr::Floats(&[0., 1.])),
        ("classlabels_ints", Attr::Ints(&[0, 1])),
    ];
    let model =
        Model::new().input("x", F32, &[ANY, 1]).output("label", DataType::Int64, &[1]).output("s", F32, &[ANY, 2]);
    let compiled = model.ml("LinearClassifier", &["x"], &["label", "s"], &attributes).compile().unwrap();
    assert_eq!(compiled.signature().to_string(), "(x FP32[-1, 1]) -> (label INT64[-1], s FP32[-1, 2])");
}
