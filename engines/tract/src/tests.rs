//! Does tract answer rightly through the engine interface, whatever the data type, shape or kind of plan?

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::thread;

use bytes::Bytes;
use half::f16;
use tiltyard_runtime::engine::{CompileOptions, Engine, EngineError, ModelFile, Session};
use tiltyard_types::{Buffer, DataType, Shape, Tensor};

use crate::engine::{TractEngine, VERSION, engine, needs_proof};
use crate::fixture::Axis::{Called, Long, Unknown};
use crate::fixture::{Axis, Model};
use crate::plans::{PLANS_MAX, Plans};
use crate::session::TractSession;

const NOWHERE: &str = "nowhere";
const F32: DataType = DataType::Fp32;

fn file(model: Model) -> ModelFile {
    model.file(Path::new(NOWHERE))
}

fn plans(engine: &TractEngine, model: Model) -> Arc<Plans> {
    engine.plans(&file(model)).expect("compiles")
}

fn run(plans: &Arc<Plans>, inputs: &[Option<Tensor>]) -> Result<Vec<Tensor>, EngineError> {
    let wanted: Vec<usize> = (0..plans.signature().outputs.len()).collect();
    TractSession::new(Arc::clone(plans)).run(inputs, &wanted)
}

fn floats(shape: &[usize], values: &[f32]) -> Option<Tensor> {
    Some(Tensor::from_slice(shape, values).expect("as many values as the shape says"))
}

/// As many numbers as the shape asks for, none of them round.
fn ramp(shape: &[usize]) -> Option<Tensor> {
    let count = shape.iter().product::<usize>();
    floats(shape, &(0..count).map(|i| (i as f32 * 0.37).sin()).collect::<Vec<_>>())
}

fn identity(dtype: DataType, axes: &[Axis]) -> Model {
    Model::new().input("x", dtype, axes).output("y", dtype, axes).node("Identity", &["x"], &["y"], &[])
}

fn add(left: &[Axis], right: &[Axis]) -> Model {
    Model::new().input("a", F32, left).input("b", F32, right).output("sum", F32, left).node(
        "Add",
        &["a", "b"],
        &["sum"],
        &[],
    )
}

/// Two convolutions over a picture, the second one depthwise, then a mean.
fn convolutions() -> Model {
    let weights = |count: usize| (0..count).map(|i| (i as f32 * 0.7).cos() * 0.2).collect::<Vec<_>>();
    Model::new()
        .input("x", F32, &[Called("batch"), Long(3), Called("height"), Called("width")])
        .output("y", F32, &[Called("batch"), Long(8), Long(1), Long(1)])
        .floats("first", &[8, 3, 3, 3], &weights(8 * 27))
        .floats("second", &[8, 1, 3, 3], &weights(8 * 9))
        .node("Conv", &["x", "first"], &["a"], &[("pads", &[1, 1, 1, 1])])
        .node("Relu", &["a"], &["b"], &[])
        .node("Conv", &["b", "second"], &["c"], &[("group", &[8]), ("strides", &[2, 2])])
        .node("GlobalAveragePool", &["c"], &["y"], &[])
}

/// Folds any matrix into rows of six, which tract cannot follow while the lengths are unknown.
fn folding() -> Model {
    Model::new()
        .input("x", F32, &[Unknown, Unknown])
        .output("y", F32, &[Unknown, Long(6)])
        .integers("six", &[2], &[-1, 6])
        .node("Reshape", &["x", "six"], &["y"], &[])
}

fn compile_error(file: &ModelFile) -> EngineError {
    engine().compile(file, &CompileOptions::default()).err().expect("refused")
}

#[test]
fn every_datatype_passes_unchanged() {
    for dtype in DataType::ALL {
        let Some(width) = dtype.width().filter(|_| dtype != DataType::Bf16) else { continue };
        let bytes: Vec<u8> = match dtype {
            DataType::Bool => vec![0, 1, 1, 0, 1, 0],
            _ => (0..6 * width).map(|i| i as u8 * 17 + 3).collect(),
        };
        let tensor = Tensor::fixed(dtype, Shape::from([3, 2]), Buffer::copy_of(&bytes)).unwrap();
        let plans = plans(&engine(), identity(dtype, &[Called("batch"), Long(2)]));
        assert_eq!(run(&plans, &[Some(tensor.clone())]).unwrap(), [tensor], "{dtype}");
    }
}

#[test]
fn strings_pass_and_must_be_utf8() {
    let plans = plans(&engine(), identity(DataType::Bytes, &[Called("batch")]));
    let strings = |elements: &[&'static [u8]]| {
        let elements: Vec<Bytes> = elements.iter().map(|element| Bytes::from_static(element)).collect();
        Some(Tensor::strings(Shape::from([elements.len()]), elements).unwrap())
    };
    let good = strings(&["zwölf".as_bytes(), b"", b"a\0b"]);
    assert_eq!(run(&plans, std::slice::from_ref(&good)).unwrap(), [good.unwrap()]);
    let error = run(&plans, &[strings(&[b"fine", b"\xff"])]).unwrap_err();
    assert!(matches!(&error, EngineError::BadInput(message) if message.contains("element 1")), "{error}");
}

#[test]
fn bf16_is_refused_by_name() {
    let error = compile_error(&file(identity(DataType::Bf16, &[Long(1)])));
    assert!(matches!(&error, EngineError::Unsupported(message) if message.contains("BF16")), "{error}");
}

#[test]
fn odd_floats_pass() {
    let axes = [Called("batch")];
    let doubled =
        |dtype| Model::new().input("x", dtype, &axes).output("y", dtype, &axes).node("Add", &["x", "x"], &["y"], &[]);
    let plans_f32 = plans(&engine(), doubled(F32));
    let odd = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0];
    let answer = run(&plans_f32, &[floats(&[4], &odd)]).unwrap()[0].to_vec::<f32>().unwrap();
    assert!(answer[0].is_nan());
    assert_eq!(answer[1..], [f32::INFINITY, f32::NEG_INFINITY, -0.0]);

    let halves = [0.5, -1.25, 60000.0].map(f16::from_f32);
    let plans_f16 = plans(&engine(), doubled(DataType::Fp16));
    let answer = run(&plans_f16, &[Some(Tensor::from_slice([3], &halves).unwrap())]).unwrap();
    assert_eq!(answer[0].to_vec::<f16>().unwrap(), [f16::ONE, f16::from_f32(-2.5), f16::INFINITY]);
}

#[test]
fn any_batch_runs_on_one_plan() {
    for rows in [Called("batch"), Unknown, Long(0)] {
        let model = Model::new()
            .input("x", F32, &[rows, Long(2)])
            .output("y", F32, &[rows, Long(2)])
            .floats("w", &[2, 2], &[1., 2., 3., 4.])
            .node("MatMul", &["x", "w"], &["y"], &[]);
        let plans = plans(&engine(), model);
        let mut session = TractSession::new(Arc::clone(&plans));
        for count in [1, 5, 2, 0] {
            let answer = session.run(&[floats(&[count, 2], &[1., 1.].repeat(count))], &[0]).unwrap();
            assert_eq!(answer, [floats(&[count, 2], &[4., 6.].repeat(count)).unwrap()]);
        }
        assert!(plans.has_open() && plans.ready_count() == 0);
    }
}

#[test]
fn scalars_pass() {
    let plans = plans(&engine(), add(&[], &[]));
    let answer = run(&plans, &[floats(&[], &[1.5]), floats(&[], &[2.0])]).unwrap();
    assert_eq!(answer, [floats(&[], &[3.5]).unwrap()]);
}

#[test]
fn wanted_outputs_come_in_the_order_wanted() {
    let axes = [Called("batch")];
    let model = Model::new()
        .input("a", F32, &axes)
        .input("b", F32, &axes)
        .output("sum", F32, &axes)
        .output("difference", F32, &axes)
        .node("Sub", &["a", "b"], &["difference"], &[])
        .node("Add", &["a", "b"], &["sum"], &[]);
    let plans = plans(&engine(), model);
    let inputs = [floats(&[2], &[5., 7.]), floats(&[2], &[1., 2.])];
    let [sum, difference] = [floats(&[2], &[6., 9.]), floats(&[2], &[4., 5.])].map(Option::unwrap);
    let mut session = TractSession::new(plans);
    assert_eq!(session.run(&inputs, &[0, 1]).unwrap(), [sum.clone(), difference.clone()]);
    assert_eq!(session.run(&inputs, &[1, 0]).unwrap(), [difference.clone(), sum]);
    assert_eq!(session.run(&inputs, &[1]).unwrap(), [difference]);
}

#[test]
fn first_axes_without_a_name_may_differ() {
    let plans = plans(&engine(), add(&[Unknown], &[Unknown]));
    assert_eq!(
        run(&plans, &[floats(&[3], &[1., 2., 3.]), floats(&[1], &[10.])]).unwrap(),
        [floats(&[3], &[11., 12., 13.]).unwrap()]
    );
    assert_eq!(
        run(&plans, &[floats(&[2], &[1., 2.]), floats(&[2], &[10., 20.])]).unwrap(),
        [floats(&[2], &[11., 22.]).unwrap()]
    );
}

#[test]
fn an_optional_input_takes_its_default_or_what_is_sent() {
    // The second weight has the same value: tract keeps equal constants once, and must not mix the two up.
    let axes = [Called("batch"), Long(2)];
    let model = Model::new()
        .input("x", F32, &axes)
        .input("bias", F32, &[Long(2)])
        .output("y", F32, &axes)
        .floats("bias", &[2], &[10., 20.])
        .floats("shift", &[2], &[10., 20.])
        .node("Add", &["x", "bias"], &["biased"], &[])
        .node("Sub", &["biased", "shift"], &["y"], &[]);
    let plans = plans(&engine(), model);
    let mut session = TractSession::new(plans);
    let x = floats(&[1, 2], &[1., 2.]);
    for _ in 0..2 {
        assert_eq!(session.run(&[x.clone(), None], &[0]).unwrap(), [x.clone().unwrap()]);
        assert_eq!(
            session.run(&[x.clone(), floats(&[2], &[0., 0.])], &[0]).unwrap(),
            [floats(&[1, 2], &[-9., -18.]).unwrap()]
        );
    }
}

#[test]
fn a_graph_that_needs_exact_shapes_gets_a_plan_for_each() {
    let plans = plans(&engine(), folding());
    assert!(!plans.has_open(), "the case is here for graphs without an open plan");
    let mut session = TractSession::new(Arc::clone(&plans));
    for (rows, columns) in [(1, 6), (4, 3), (1, 6), (2, 6)] {
        let x = ramp(&[rows, columns]);
        let folded = x.as_ref().unwrap().reshaped(Shape::from([rows * columns / 6, 6])).unwrap();
        assert_eq!(session.run(&[x], &[0]).unwrap(), [folded]);
    }
    assert_eq!(plans.ready_count(), 3);
    assert!(session.run(&[ramp(&[1, 5])], &[0]).is_err());
    assert!(session.run(&[ramp(&[2, 3])], &[0]).is_ok(), "a shape that fails harms no other");
}

#[test]
fn plans_for_exact_shapes_are_bounded() {
    let plans = plans(&engine(), folding());
    let mut session = TractSession::new(Arc::clone(&plans));
    for rows in 1..100 {
        session.run(&[ramp(&[rows, 6])], &[0]).unwrap();
    }
    assert_eq!(plans.ready_count(), PLANS_MAX);
}

#[test]
fn threads_that_meet_a_new_shape_share_its_plan() {
    let plans = plans(&engine(), folding());
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for rows in 1..8 {
                    let x = ramp(&[rows, 6]);
                    assert_eq!(run(&plans, std::slice::from_ref(&x)).unwrap(), [x.unwrap()]);
                }
            });
        }
    });
    assert_eq!(plans.ready_count(), 7);
}

#[test]
fn a_plan_built_in_the_background_answers_as_the_open_one() {
    let engine = engine();
    let plans = plans(&engine, convolutions());
    let mut session = TractSession::new(Arc::clone(&plans));
    for shape in [[1, 3, 8, 8], [4, 3, 8, 8], [2, 3, 12, 9]] {
        let x = ramp(&shape);
        let before = plans.ready_count();
        let first = session.run(std::slice::from_ref(&x), &[0]).unwrap();
        engine.wait_for_plans();
        assert_eq!(plans.ready_count(), before, "a shape seen once gets no plan");
        session.run(std::slice::from_ref(&x), &[0]).unwrap();
        engine.wait_for_plans();
        assert_eq!(plans.ready_count(), before + 1);

        let later = session.run(&[x], &[0]).unwrap();
        assert_eq!(later[0].shape(), first[0].shape());
        let [first, later] = [&first, &later].map(|outputs| outputs[0].to_vec::<f32>().unwrap());
        assert!(first.iter().any(|value| value.abs() > 1e-3), "zeros would prove nothing");
        let worst = first.iter().zip(&later).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-5, "off by {worst}");
    }
}

#[test]
fn more_shapes_than_plans_do_not_keep_the_builder_busy() {
    let engine = engine();
    let plans = plans(&engine, convolutions());
    let mut session = TractSession::new(Arc::clone(&plans));
    for _ in 0..3 {
        for width in 0..PLANS_MAX + 4 {
            session.run(&[ramp(&[1, 3, 4, 4 + width])], &[0]).unwrap();
            engine.wait_for_plans();
        }
    }
    assert_eq!(plans.ready_count(), PLANS_MAX);
    assert!(plans.has_exact(&[Some(Shape::from([1, 3, 4, 4]))]), "the first plan made no room for later shapes");
}

#[test]
fn an_empty_batch_through_convolutions_is_empty_or_an_error() {
    let plans = plans(&engine(), convolutions());
    if let Ok(answer) = run(&plans, &[ramp(&[0, 3, 8, 8])]) {
        assert_eq!(answer[0].shape(), &Shape::from([0, 8, 1, 1]));
    }
}

#[test]
fn a_run_that_fails_leaves_the_session_usable() {
    let plans = plans(&engine(), add(&[Called("n"), Long(2)], &[Called("m"), Long(2)]));
    let mut session = TractSession::new(plans);
    let two = ramp(&[2, 2]);
    assert!(session.run(&[two.clone(), ramp(&[3, 2])], &[0]).is_err());
    assert!(session.run(&[two.clone(), two], &[0]).is_ok());
}

#[test]
fn an_index_outside_its_table_spoils_that_run_alone() {
    let model = Model::new()
        .input("index", DataType::Int64, &[Called("batch")])
        .output("y", F32, &[Called("batch"), Long(2)])
        .floats("table", &[3, 2], &[0., 1., 2., 3., 4., 5.])
        .node("Gather", &["table", "index"], &["y"], &[]);
    let plans = plans(&engine(), model);
    let mut session = TractSession::new(plans);
    let mut look_up = |index: i64| {
        let inputs = [Some(Tensor::from_slice([1], &[index]).unwrap())];
        catch_unwind(AssertUnwindSafe(|| session.run(&inputs, &[0])))
    };
    for outside in [3, -4, i64::MAX, i64::MIN] {
        assert!(matches!(look_up(outside), Ok(Err(EngineError::BadInput(_)))), "{outside} has no row");
        assert_eq!(look_up(-1).unwrap().unwrap(), [floats(&[1, 2], &[4., 5.]).unwrap()]);
    }
}

#[track_caller]
fn check_unsupported(model: Model, parts: &[&str]) {
    let error = compile_error(&file(model));
    let EngineError::Unsupported(message) = &error else { panic!("{error:?}") };
    assert!(parts.iter().all(|part| message.contains(part)), "{message}");
}

#[test]
fn a_missing_operator_is_named_at_load() {
    let with = |operator: &str| {
        let axes = [Called("batch"), Long(2)];
        Model::new().input("x", F32, &axes).output("y", F32, &axes).node(operator, &["x"], &["y"], &[])
    };
    let instead = "`tiltyard engine install onnxruntime`";
    check_unsupported(with("ai.onnx.ml:Scaler"), &["tract cannot run operator ai.onnx.ml.Scaler", instead]);
    check_unsupported(with("Det"), &["tract cannot run operator Det", instead]);
    check_unsupported(with("com.microsoft:Inverse"), &["operator com.microsoft.Inverse", instead]);
    // tract has a Relu, but nobody knows whether this one is the same.
    check_unsupported(with("org.example:Relu"), &["operator org.example.Relu", "not an ONNX operator"]);
}

#[test]
fn an_operator_on_a_dead_branch_does_no_harm() {
    let axes = [Called("batch")];
    let model = Model::new().input("x", F32, &axes).output("y", F32, &axes).node("Relu", &["x"], &["y"], &[]).node(
        "ai.onnx.ml:ZipMap",
        &["x"],
        &["unused"],
        &[],
    );
    let plans = plans(&engine(), model);
    assert_eq!(run(&plans, &[floats(&[1], &[-1.])]).unwrap(), [floats(&[1], &[0.]).unwrap()]);
}

#[test]
fn a_broken_file_is_the_models_fault() {
    let mut truncated = file(convolutions());
    truncated.bytes.truncate(truncated.bytes.len() - 40);
    let axes = [Called("batch"), Long(2)];
    let relu = || Model::new().input("x", F32, &axes).output("y", F32, &axes);
    let short = relu().floats("w", &[3, 2], &[1., 2.]).node("MatMul", &["x", "w"], &["y"], &[]);
    let unmade = relu().node("Relu", &["x"], &["z"], &[]);
    let unknown = relu().node("Add", &["x", "ghost"], &["y"], &[]);
    for broken in [truncated, file(short), file(unmade), file(unknown)] {
        let error = compile_error(&broken);
        assert!(matches!(error, EngineError::BadModel(_)), "{error:?}");
    }
}

#[test]
fn weights_beside_the_model_are_found_and_checked() {
    let folder = tempfile::tempdir().unwrap();
    let weights: Vec<u8> = [9f32, 1., 2., 3., 4.].iter().flat_map(|value| value.to_le_bytes()).collect();
    std::fs::write(folder.path().join("weights.bin"), weights).unwrap();
    let axes = [Called("batch"), Long(2)];
    let model = |entries: &[(&str, &str)]| {
        let model = Model::new().input("x", F32, &axes).output("y", F32, &axes).external("w", &[2, 2], entries);
        model.node("MatMul", &["x", "w"], &["y"], &[]).file(folder.path())
    };
    let plans = engine().plans(&model(&[("location", "weights.bin"), ("offset", "4"), ("length", "16")])).unwrap();
    assert_eq!(run(&plans, &[floats(&[1, 2], &[1., 1.])]).unwrap(), [floats(&[1, 2], &[4., 6.]).unwrap()]);
    for wrong in [[("location", "weights.bin"), ("offset", "8")], [("location", "absent.bin"), ("offset", "0")]] {
        let error = compile_error(&model(&wrong));
        assert!(matches!(error, EngineError::BadModel(_)), "{error:?}");
    }
}

#[test]
fn only_tree_ensembles_need_proof() {
    let axes = [Called("batch")];
    let with = |operator: &str| {
        file(Model::new().input("x", F32, &axes).output("y", F32, &axes).node(operator, &["x"], &["y"], &[])).graph
    };
    for operator in ["TreeEnsembleClassifier", "TreeEnsembleRegressor", "TreeEnsemble"] {
        assert!(needs_proof(&with(&format!("ai.onnx.ml:{operator}"))), "{operator}");
        assert!(engine().doubt(&with(&format!("ai.onnx.ml:{operator}"))).is_some(), "{operator}");
    }
    assert!(!needs_proof(&with("ai.onnx.ml:Normalizer")) && engine().doubt(&with("Relu")).is_none());
}

#[test]
fn a_provider_that_is_missing_is_an_error() {
    let model = file(identity(F32, &[Called("batch")]));
    let compile = |providers: &[&str]| {
        let providers = providers.iter().map(|&provider| provider.to_owned()).collect();
        engine().compile(&model, &CompileOptions { providers, ..CompileOptions::default() })
    };
    assert!(matches!(compile(&["cuda"]), Err(EngineError::Unsupported(_))));
    assert_eq!(compile(&["cuda", "cpu"]).unwrap().provider(), "cpu");
}

#[test]
fn the_version_is_that_of_the_lock_file() {
    let lock = include_str!("../../../Cargo.lock");
    assert!(lock.contains(&format!("name = \"tract-onnx\"\nversion = \"{VERSION}\"")));
}

/// A graph of one operator on rows of two.
fn activation(operator: &str) -> Model {
    let axes = [Called("batch"), Long(2)];
    Model::new().input("x", F32, &axes).output("y", F32, &axes).node(operator, &["x"], &["y"], &[])
}

#[test]
fn a_value_that_is_not_a_number_is_refused_where_it_would_be_lost() {
    let engine = engine();
    let rows = || [floats(&[2, 2], &[1.0, -2.0, f32::NAN, f32::INFINITY])];
    for operator in ["Relu", "Sigmoid", "Tanh"] {
        let plans = plans(&engine, activation(operator));
        let refused = run(&plans, &rows());
        let named = matches!(&refused, Err(EngineError::BadInput(message)) if message.contains(operator));
        assert!(named, "{operator}: {refused:?}");
        assert!(run(&plans, &[floats(&[1, 2], &[1.0, f32::NEG_INFINITY])]).is_ok(), "{operator} takes infinity");
    }
    let kept = run(&plans(&engine, activation("Exp")), &rows()).expect("it runs")[0].to_vec::<f32>().expect("floats");
    assert!(kept[2].is_nan() && kept[3].is_infinite(), "{kept:?}");
}

#[test]
fn a_graph_that_fills_in_missing_values_is_given_them() {
    let axes = [Called("batch"), Long(2)];
    let model = Model::new().input("x", F32, &axes).output("y", F32, &axes);
    let model = model.node("IsNaN", &["x"], &["missing"], &[]).node("Exp", &["x"], &["e"], &[]);
    let model = model.node("Relu", &["x"], &["r"], &[]).node("Where", &["missing", "r", "e"], &["y"], &[]);
    let y = run(&plans(&engine(), model), &[floats(&[1, 2], &[0.0, f32::NAN])]).expect("it runs");
    assert_eq!(y[0].to_vec::<f32>().expect("floats"), [1.0, 0.0]);
}
