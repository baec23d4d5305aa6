//! Do the operators around classical ones do what the specification says?

use tiltyard_types::{DataType, Tensor};

use crate::fixture::{ANY, Attr, Model, assert_close, f32s, f64s, i64s, texts};

const F32: DataType = DataType::Fp32;
const I64: DataType = DataType::Int64;

/// A graph that is this engine's, for one operator over inputs `a`, `b`, … that are not weights.
fn model(operator: &str, inputs: &[Tensor], to: DataType, attributes: &[(&str, Attr<'_>)]) -> Model {
    let names = &["a", "b", "c"][..inputs.len()];
    let mut model = Model::new();
    for (name, input) in names.iter().zip(inputs) {
        model = model.input(name, input.dtype(), &vec![ANY; input.shape().len()]);
    }
    classical(model.output("y", to, &[]).node(operator, names, &["y"], attributes))
}

/// Adds a classical operator, which nobody asks for.
fn classical(model: Model) -> Model {
    let attributes = [("scale", Attr::Floats(&[1.])), ("offset", Attr::Floats(&[0.]))];
    model.floats("weight", &[1], &[0.]).ml("Scaler", &["weight"], &["scaled"], &attributes)
}

#[track_caller]
fn check(operator: &str, inputs: &[Tensor], attributes: &[(&str, Attr<'_>)], expected: Tensor) {
    let answer = model(operator, inputs, expected.dtype(), attributes).try_run(inputs).expect(operator).swap_remove(0);
    assert_eq!(answer.shape(), expected.shape(), "{operator}");
    match expected.to_vec::<f32>() {
        Some(expected) => assert_close(&answer, &expected),
        None => assert_eq!(answer, expected, "{operator}"),
    }
}

fn bools(dims: &[usize], values: &[u8]) -> Tensor {
    Tensor::fixed(DataType::Bool, dims.into(), tiltyard_types::Buffer::copy_of(values)).unwrap()
}

fn matrix() -> Tensor {
    f32s(&[2, 3], &[1., 2., 3., 4., 5., 6.])
}

#[test]
fn shapes_meet_as_they_do_in_numpy() {
    check("Add", &[matrix(), matrix()], &[], f32s(&[2, 3], &[2., 4., 6., 8., 10., 12.]));
    check("Add", &[matrix(), f32s(&[3], &[10., 20., 30.])], &[], f32s(&[2, 3], &[11., 22., 33., 14., 25., 36.]));
    check("Sub", &[f32s(&[3], &[10., 20., 30.]), matrix()], &[], f32s(&[2, 3], &[9., 18., 27., 6., 15., 24.]));
    check("Mul", &[matrix(), f32s(&[2, 1], &[10., 100.])], &[], f32s(&[2, 3], &[10., 20., 30., 400., 500., 600.]));
    check("Div", &[matrix(), f32s(&[], &[2.])], &[], f32s(&[2, 3], &[0.5, 1., 1.5, 2., 2.5, 3.]));
    check("Div", &[i64s(&[2], &[7, -7]), i64s(&[1], &[2])], &[], i64s(&[2], &[3, -3]));
    check("Pow", &[f32s(&[2], &[3., 2.]), f32s(&[1], &[2.])], &[], f32s(&[2], &[9., 4.]));
    check("Add", &[f32s(&[0, 3], &[]), f32s(&[3], &[1., 2., 3.])], &[], f32s(&[0, 3], &[]));
    let misfit = [matrix(), f32s(&[2], &[1., 2.])];
    let error = model("Add", &misfit, F32, &[]).try_run(&misfit).unwrap_err().to_string();
    assert_eq!(error, "Add: [2, 3] and [2] do not fit");
    let mixed = [matrix(), i64s(&[1], &[1])];
    assert!(model("Add", &mixed, F32, &[]).refused().contains("FP32 and INT64"));
}

#[test]
fn nan_goes_through_max_min_and_clip() {
    let (a, b) = (f32s(&[3], &[1., f32::NAN, 3.]), f32s(&[3], &[f32::NAN, 1., 2.]));
    check("Max", &[a.clone(), b.clone()], &[], f32s(&[3], &[f32::NAN, f32::NAN, 3.]));
    check("Min", &[a.clone(), b], &[], f32s(&[3], &[f32::NAN, f32::NAN, 2.]));
    check(
        "Clip",
        &[f32s(&[3], &[1., f32::NAN, 9.]), f32s(&[], &[2.]), f32s(&[], &[3.])],
        &[],
        f32s(&[3], &[2., f32::NAN, 3.]),
    );
    check("Sum", &[a.clone(), a.clone(), a], &[], f32s(&[3], &[3., f32::NAN, 9.]));
    check("Relu", &[f32s(&[3], &[1., f32::NAN, -9.])], &[], f32s(&[3], &[1., f32::NAN, 0.]));
    check("Sign", &[f32s(&[4], &[5., f32::NAN, -9., 0.])], &[], f32s(&[4], &[1., f32::NAN, -1., 0.]));
    check("IsNaN", &[f32s(&[2], &[1., f32::NAN])], &[], bools(&[2], &[0, 1]));
}

#[test]
fn values_are_compared_and_chosen() {
    check("Equal", &[texts(&[2], &["a", "b"]), texts(&[1], &["b"])], &[], bools(&[2], &[0, 1]));
    check("Less", &[f32s(&[3], &[1., 2., f32::NAN]), f32s(&[], &[2.])], &[], bools(&[3], &[1, 0, 0]));
    check("GreaterOrEqual", &[i64s(&[2], &[1, 2]), i64s(&[1], &[2])], &[], bools(&[2], &[0, 1]));
    check("And", &[bools(&[2], &[1, 1]), bools(&[2], &[0, 1])], &[], bools(&[2], &[0, 1]));
    check("Not", &[bools(&[2], &[1, 0])], &[], bools(&[2], &[0, 1]));
    let chosen = [bools(&[2, 1], &[1, 0]), f32s(&[3], &[1., 2., 3.]), f32s(&[], &[0.])];
    check("Where", &chosen, &[], f32s(&[2, 3], &[1., 2., 3., 0., 0., 0.]));
}

#[test]
fn functions_of_each_element() {
    let x = || f32s(&[2], &[-1., 2.]);
    check("Abs", &[x()], &[], f32s(&[2], &[1., 2.]));
    check("Neg", &[x()], &[], f32s(&[2], &[1., -2.]));
    check("Exp", &[x()], &[], f32s(&[2], &[0.36787945, 7.389056]));
    check("Sigmoid", &[x()], &[], f32s(&[2], &[0.26894143, 0.880797]));
    check("Reciprocal", &[x()], &[], f32s(&[2], &[-1., 0.5]));
    check("Erf", &[x()], &[], f32s(&[2], &[-0.8427008, 0.9953223]));
    check("Sqrt", &[f32s(&[2], &[4., -1.])], &[], f32s(&[2], &[2., f32::NAN]));
    check("Round", &[f32s(&[3], &[0.5, 1.5, -2.5])], &[], f32s(&[3], &[0., 2., -2.]));
    check("Floor", &[f32s(&[2], &[1.5, -1.5])], &[], f32s(&[2], &[1., -2.]));
}

#[test]
fn softmax_goes_along_one_axis() {
    let x = || f32s(&[2, 2], &[1., 2., 0., 0.]);
    check("Softmax", &[x()], &[], f32s(&[2, 2], &[0.26894143, 0.7310586, 0.5, 0.5]));
    check("Softmax", &[x()], &[("axis", Attr::Int(0))], f32s(&[2, 2], &[0.7310586, 0.880797, 0.26894143, 0.11920292]));
    check(
        "LogSoftmax",
        &[x()],
        &[],
        f32s(&[2, 2], &[-1.3132617, -0.3132617, -std::f32::consts::LN_2, -std::f32::consts::LN_2]),
    );
}

#[test]
fn shapes_change() {
    check("Reshape", &[matrix(), i64s(&[2], &[0, -1])], &[], matrix());
    check("Reshape", &[matrix(), i64s(&[2], &[3, -1])], &[], f32s(&[3, 2], &[1., 2., 3., 4., 5., 6.]));
    let wrong = [matrix(), i64s(&[1], &[5])];
    assert!(model("Reshape", &wrong, F32, &[]).try_run(&wrong).is_err());
    check("Flatten", &[f32s(&[1, 2, 3], &[1., 2., 3., 4., 5., 6.])], &[("axis", Attr::Int(2))], matrix());
    check("Squeeze", &[f32s(&[1, 2], &[1., 2.])], &[], f32s(&[2], &[1., 2.]));
    check("Unsqueeze", &[f32s(&[2], &[1., 2.]), i64s(&[1], &[1])], &[], f32s(&[2, 1], &[1., 2.]));
    check("Shape", &[matrix()], &[], i64s(&[2], &[2, 3]));
    check("Transpose", &[matrix()], &[], f32s(&[3, 2], &[1., 4., 2., 5., 3., 6.]));
    check("Expand", &[f32s(&[2, 1], &[1., 2.]), i64s(&[2], &[1, 2])], &[], f32s(&[2, 2], &[1., 1., 2., 2.]));
    check(
        "Tile",
        &[f32s(&[1, 2], &[1., 2.]), i64s(&[2], &[2, 2])],
        &[],
        f32s(&[2, 4], &[1., 2., 1., 2., 1., 2., 1., 2.]),
    );
    check(
        "Concat",
        &[matrix(), f32s(&[2, 1], &[7., 8.])],
        &[("axis", Attr::Int(-1))],
        f32s(&[2, 4], &[1., 2., 3., 7., 4., 5., 6., 8.]),
    );
    check("Concat", &[texts(&[1], &["a"]), texts(&[1], &["b"])], &[("axis", Attr::Int(0))], texts(&[2], &["a", "b"]));
}

#[test]
fn elements_are_gathered() {
    check("Gather", &[matrix(), i64s(&[2], &[-1, 0])], &[("axis", Attr::Int(1))], f32s(&[2, 2], &[3., 1., 6., 4.]));
    check("Gather", &[matrix(), i64s(&[], &[1])], &[], f32s(&[3], &[4., 5., 6.]));
    let by = i64s(&[2, 1], &[2, 0]);
    check("GatherElements", &[matrix(), by], &[("axis", Attr::Int(1))], f32s(&[2, 1], &[3., 4.]));
    let outside = [matrix(), i64s(&[1], &[2])];
    assert!(model("Gather", &outside, F32, &[]).try_run(&outside).unwrap_err().to_string().contains("out of range"));
}

#[test]
fn matrices_are_multiplied() {
    let turned = f32s(&[3, 2], &[1., 4., 2., 5., 3., 6.]);
    check("MatMul", &[matrix(), turned.clone()], &[], f32s(&[2, 2], &[14., 32., 32., 77.]));
    check("MatMul", &[matrix(), f32s(&[3], &[1., 1., 1.])], &[], f32s(&[2], &[6., 15.]));
    let stacked = f32s(&[2, 1, 3], &[1., 2., 3., 4., 5., 6.]);
    check("MatMul", &[stacked, turned], &[], f32s(&[2, 1, 2], &[14., 32., 32., 77.]));
    let gemm = [("transB", Attr::Int(1)), ("alpha", Attr::Float(2.)), ("beta", Attr::Float(0.5))];
    check("Gemm", &[matrix(), matrix(), f32s(&[2], &[2., 4.])], &gemm, f32s(&[2, 2], &[29., 66., 65., 156.]));
    check("MatMul", &[f64s(&[1, 1], &[3.]), f64s(&[1, 1], &[0.5])], &[], f64s(&[1, 1], &[1.5]));
}

#[test]
fn elements_are_reduced() {
    let axis = |axis: &'static [i64]| [("axes", Attr::Ints(axis)), ("keepdims", Attr::Int(0))];
    check("ReduceSum", &[matrix()], &[("keepdims", Attr::Int(0))], f32s(&[], &[21.]));
    check("ReduceMean", &[matrix()], &axis(&[1]), f32s(&[2], &[2., 5.]));
    check(
        "ReduceMax",
        &[f32s(&[2, 3], &[1., f32::NAN, 3., f32::NAN, 1., 2.])],
        &axis(&[1]),
        f32s(&[2], &[3., f32::NAN]),
    );
    check("ReduceSumSquare", &[matrix()], &axis(&[0]), f32s(&[3], &[17., 29., 45.]));
    check("ReduceL2", &[f32s(&[1, 2], &[3., 4.])], &[("axes", Attr::Ints(&[-1]))], f32s(&[1, 1], &[5.]));
    check("ReduceLogSumExp", &[f32s(&[1, 2], &[0., 0.])], &axis(&[1]), f32s(&[1], &[std::f32::consts::LN_2]));
    let nan = f32::NAN;
    let rows = f32s(&[5, 3], &[nan, 1., 2., 1., nan, 2., 2., nan, 1., 2., 2., 1., 1., 2., nan]);
    check("ArgMax", &[rows], &[("axis", Attr::Int(1)), ("keepdims", Attr::Int(0))], i64s(&[5], &[0, 2, 0, 0, 1]));
    check("ArgMin", &[matrix()], &[("axis", Attr::Int(0))], i64s(&[1, 3], &[0, 0, 0]));
}

#[test]
fn the_first_few_are_taken() {
    let row = [f32s(&[1, 4], &[2., 9., 1., 9.]), i64s(&[1], &[3])];
    let two = |attributes: &[(&str, Attr<'_>)]| {
        let model = Model::new().input("a", F32, &[ANY, 4]).input("b", I64, &[1]);
        let model =
            model.output("y", F32, &[]).output("at", I64, &[]).node("TopK", &["a", "b"], &["y", "at"], attributes);
        classical(model).run(&row)
    };
    assert_eq!(two(&[]), [f32s(&[1, 3], &[9., 9., 2.]), i64s(&[1, 3], &[1, 3, 0])]);
    assert_eq!(two(&[("largest", Attr::Int(0))])[1], i64s(&[1, 3], &[2, 0, 1]));
}

#[test]
fn values_are_cut_up() {
    let slice = |bounds: [&[i64]; 4]| {
        let mut model = Model::new().input("x", F32, &[ANY, 3]).output("y", F32, &[]);
        for (name, bound) in ["starts", "ends", "axes", "steps"].iter().zip(bounds) {
            model = model.ints(name, &[bound.len() as i64], bound);
        }
        let model = model.node("Slice", &["x", "starts", "ends", "axes", "steps"], &["y"], &[]);
        classical(model).run(&[matrix()]).swap_remove(0)
    };
    assert_eq!(slice([&[1], &[i64::MAX], &[1], &[1]]), f32s(&[2, 2], &[2., 3., 5., 6.]));
    assert_eq!(slice([&[-1], &[i64::MIN], &[1], &[-2]]), f32s(&[2, 2], &[3., 1., 6., 4.]));
    assert_eq!(slice([&[0, 2], &[1, 3], &[0, 1], &[1, 1]]), f32s(&[1, 1], &[3.]));
    assert_eq!(slice([&[3], &[1], &[1], &[1]]), f32s(&[2, 0], &[]));
    let split = Model::new().input("x", F32, &[ANY, 3]).output("y", F32, &[]).output("z", F32, &[]);
    let split = split.ints("lengths", &[2], &[1, 2]);
    let split = classical(split.node("Split", &["x", "lengths"], &["y", "z"], &[("axis", Attr::Int(1))]));
    assert_eq!(split.run(&[matrix()]), [f32s(&[2, 1], &[1., 4.]), f32s(&[2, 2], &[2., 3., 5., 6.])]);
    let sums = Model::new().input("x", F32, &[ANY, 3]).output("y", F32, &[]).ints("axis", &[], &[1]);
    let sums = classical(sums.node("CumSum", &["x", "axis"], &["y"], &[]));
    assert_close(&sums.run(&[matrix()])[0], &[1., 3., 6., 4., 9., 15.]);
}

#[test]
fn constants_are_what_they_say() {
    let constant = |attributes: &[(&str, Attr<'_>)], dtype| {
        let model = Model::new().input("x", F32, &[ANY]).output("y", dtype, &[]);
        classical(model.node("Constant", &[], &["y"], attributes)).run(&[f32s(&[1], &[0.])]).swap_remove(0)
    };
    assert_eq!(constant(&[("value_ints", Attr::Ints(&[4, 5]))], I64), i64s(&[2], &[4, 5]));
    assert_eq!(constant(&[("value_float", Attr::Float(1.5))], F32), f32s(&[], &[1.5]));
    assert_eq!(constant(&[("value_string", Attr::Text("a"))], DataType::Bytes), texts(&[], &["a"]));
}
