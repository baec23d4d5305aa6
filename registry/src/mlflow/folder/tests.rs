//! Is an MLmodel read as it was meant, and is hostile text refused within bounds?

use proptest::prelude::*;
use tiltyard_types::{DataType, Dim, Signature, TensorSpec};

use super::*;

/// As MLflow writes it, with a signature of tensors.
const RISK: &str = r#"artifact_path: model
flavors:
  onnx:
    code: null
    data: model.onnx
    onnx_session_options: null
    onnx_version: 1.23.2
    providers:
    - CUDAExecutionProvider
    - CPUExecutionProvider
  python_function:
    data: model.onnx
    env:
      conda: conda.yaml
      virtualenv: python_env.yaml
    loader_module: mlflow.onnx
    python_version: 3.11.4
metadata:
  reviewed: true
  team: lending
mlflow_version: 3.17.2
model_id: m-77
model_uuid: 0f8c
run_id: 1ab2
signature:
  inputs: '[{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 8]},
    "name": "features"}]'
  outputs: '[{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1]}}]'
  params: null
utc_time_created: '2026-11-02 10:20:30.123456'
"#;

fn spec(name: &str, dtype: DataType, dims: &[i64]) -> TensorSpec {
    let dim = |&axis: &i64| usize::try_from(axis).map_or(Dim::Dynamic(None), Dim::Fixed);
    TensorSpec { name: name.into(), dtype, dims: Some(dims.iter().map(dim).collect()), optional: false }
}

#[test]
fn a_model_of_mlflows_says_what_to_take_and_where_it_came_from() {
    let model = Model::read(RISK).expect("it has the onnx flavor");
    assert_eq!(model.origin.run_id.as_deref(), Some("1ab2"));
    let tags = model.tags();
    let tag = |key: &str| tags.get(key).map(String::as_str);
    assert_eq!(tag("mlflow.created"), Some("2026-11-02 10:20:30.123456"));
    assert_eq!((tag("mlflow.metadata.reviewed"), tag("mlflow.metadata.team")), (Some("true"), Some("lending")));
    let placed = model.files(["weights/a.bin", "b.bin"]).expect("plain names");
    let placed: Vec<_> = placed.iter().map(|file| (file.from.as_str(), file.to.as_str())).collect();
    let expected = [("model.onnx", "model.onnx"), ("weights/a.bin", "weights/a.bin"), ("b.bin", "b.bin")];
    assert_eq!(placed, expected);
    let nested = Model::read(&RISK.replace("data: model.onnx", "data: sub/risk.onnx")).expect("a model");
    let placed = nested.files(["w.bin"]).expect("plain names");
    assert_eq!((placed[0].from.as_str(), placed[0].to.as_str()), ("sub/risk.onnx", "model.onnx"));
    assert_eq!((placed[1].from.as_str(), placed[1].to.as_str()), ("sub/w.bin", "w.bin"));
}

#[test]
fn where_the_graph_differs_from_mlflows_signature_is_told() {
    let check = |text: &str, inputs: &[TensorSpec], expected: &[&str]| {
        let declared = Model::read(text).expect("a model").declared.expect("a signature");
        let outputs = vec![spec("score", DataType::Fp32, &[-1])];
        let told = declared.differences(&Signature { inputs: inputs.to_vec(), outputs });
        assert_eq!(told, expected);
    };
    check(RISK, &[spec("features", DataType::Fp32, &[-1, 8])], &[]);
    check(
        RISK,
        &[spec("features", DataType::Fp64, &[-1, 9])],
        &[
            "MLflow says the input \"features\" is float32, the graph says FP64",
            "MLflow says the input \"features\" has the axes [-1, 8], the graph says features FP64[-1, 9]",
        ],
    );
    check(
        RISK,
        &[spec("rows", DataType::Fp32, &[-1, 8])],
        &[
            "MLflow says there is an input \"features\", the graph has none",
            "the graph has the input rows FP32[-1, 8], of which MLflow says nothing",
        ],
    );
    let table = RISK.replace(
        "[{\"type\": \"tensor\", \"tensor-spec\": {\"dtype\": \"float32\", \"shape\": [-1, 8]},\n    \"name\": \"features\"}]",
        r#"[{"type": "double", "name": "age"}, {"type": "long", "name": "term"}]"#,
    );
    check(&table, &[spec("age", DataType::Fp64, &[-1, 1]), spec("term", DataType::Int64, &[-1, 1])], &[]);
    check(
        &table,
        &[spec("age", DataType::Fp32, &[-1, 1]), spec("term", DataType::Int64, &[-1, 1])],
        &["MLflow says the input \"age\" is double, the graph says FP32"],
    );
    check(&table, &[spec("rows", DataType::Fp32, &[-1, 2])], &[]);
    check(
        &table,
        &[spec("rows", DataType::Fp32, &[-1, 3])],
        &["MLflow says 2 columns of input, the graph takes them as rows FP32[-1, 3]: 3"],
    );
}

#[test]
fn what_cannot_be_served_is_refused_with_a_way_out() {
    let check = |text: &str, expected: &str| {
        let error = Model::read(text).expect_err(expected).to_string();
        assert!(error.contains(expected), "{error}");
    };
    check(
        "flavors:\n  python_function: {}\n  sklearn: {pickled_model: model.pkl}\n",
        "the model has no onnx flavor: it has python_function, sklearn. Export it to ONNX (skl2onnx.to_onnx(model, rows)), \
         and log it with mlflow.onnx.log_model",
    );
    check("flavors: {}", "it has none");
    check("a: 1", "MLmodel: it has no flavors");
    check("- 1", "MLmodel: expected keys and values");
    check("flavors: {onnx: {}}", "flavors.onnx has no data");
    check("flavors: {onnx: {data: 7}}", "expected the name of a file");
    for path in ["../model.onnx", "/etc/passwd", "a//b", "a/./b", "c:\\x"] {
        check(&format!("flavors: {{onnx: {{data: '{path}'}}}}"), "is not a path within the folder");
    }
    check("flavors: {onnx: {data: m.onnx}}\nsignature: {inputs: '[1'}", "signature.inputs: expected JSON");
    check("flavors: {onnx: {data: m.onnx}}\nsignature: {inputs: '[{}]'}", "a field has no type");
    check(&format!("flavors: {{onnx: {{data: m.onnx}}}}\nrun_id: {}", "r".repeat(5000)), "expected at most 4096");
    let model = Model::read(RISK).expect("a model");
    assert!(model.files(["../w.bin"]).is_err_and(|error| error.to_string().contains("is not a path within")));
    assert!(model.files(["model.onnx"]).is_err_and(|error| error.to_string().contains("the name of the model itself")));
}

proptest! {
    #[test]
    fn a_line_from_nowhere_is_read_or_refused(at in 0usize..30, line in "[-a-z: \\[\\]{}'\"]{0,40}") {
        let mut lines: Vec<&str> = RISK.lines().collect();
        lines.insert(at.min(lines.len()), &line);
        if let Ok(model) = Model::read(&lines.join("\n")) {
            prop_assert!(!model.file.starts_with('/') && !model.file.split('/').any(|part| part == ".."));
        }
    }
}
