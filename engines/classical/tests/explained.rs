//! Are scores explained as the reference libraries explain them?
//!
//! The models, and the parts that XGBoost, LightGBM and shap find in their scores, were made by
//! `engines/conformance/explained.py`; for pipelines over strings, the parts are those of the definition.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;
use tiltyard_runtime::deployment::Deployment;
use tiltyard_runtime::engine::{CompileOptions, Engine, Explainer, Explanation, ModelFile};
use tiltyard_runtime::load::Loader;
use tiltyard_runtime::queue::QueuePolicy;
use tiltyard_runtime::repository::FoundVersion;
use tiltyard_types::{DataType, Error, ErrorKind, Moment, Shape, Tensor};

fn model(folder: &Path) -> ModelFile {
    let engine = tiltyard_classical::engine();
    let path = |extension: &str| folder.join(format!("model.{extension}"));
    if path("onnx").exists() {
        return ModelFile::read(&path("onnx")).unwrap();
    }
    let format = engine.formats().iter().find(|format| path(format.extension).exists()).expect("there is a model");
    let path = path(format.extension);
    let bytes = Bytes::from(fs::read(&path).unwrap());
    let graph = (format.read)(&bytes).unwrap();
    ModelFile { path, bytes, external: Default::default(), graph }
}

/// Inputs in the order of the signature; null is NaN.
fn inputs(model: &ModelFile, told: &Value) -> Vec<Option<Tensor>> {
    let inputs = model.graph.signature.inputs.iter().map(|spec| {
        let told = &told[spec.name.as_str()];
        let shape: Shape =
            told["shape"].as_array().unwrap().iter().map(|length| length.as_u64().unwrap() as usize).collect();
        let data = told["data"].as_array().unwrap();
        let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
        let tensor = match spec.dtype {
            DataType::Fp32 => {
                Tensor::from_slice(shape, &data.iter().map(|value| number(value) as f32).collect::<Vec<_>>())
            }
            DataType::Fp64 => Tensor::from_slice(shape, &data.iter().map(number).collect::<Vec<_>>()),
            _ => {
                let texts = data.iter().map(|text| Bytes::copy_from_slice(text.as_str().unwrap().as_bytes()));
                Tensor::strings(shape, texts.collect())
            }
        };
        Some(tensor.unwrap())
    });
    inputs.collect()
}

fn numbers(told: &Value) -> Vec<f64> {
    told.as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
}

/// The first difference beyond a tolerance, which is relative where numbers are large.
fn difference(what: &str, found: &[f64], expected: &[f64], tolerance: f64) -> Result<(), String> {
    if found.len() != expected.len() {
        return Err(format!("{what}: {} numbers, {} are expected", found.len(), expected.len()));
    }
    let is_off = |(_, (found, expected)): &(usize, (&f64, &f64))| {
        (*found - *expected).abs() > tolerance * expected.abs().max(1.0) || found.is_nan()
    };
    match found.iter().zip(expected).enumerate().find(is_off) {
        None => Ok(()),
        Some((at, (found, expected))) => Err(format!("{what} {at}: {found}, {expected} is expected")),
    }
}

/// What is served must follow from the explained scores by the transform that their unit names.
fn check_served(
    model: &ModelFile,
    inputs: &[Option<Tensor>],
    explained: &Explanation,
    space: &str,
) -> Result<(), String> {
    let compiled = tiltyard_classical::engine().compile(model, &CompileOptions::default()).unwrap();
    let signature = compiled.signature();
    // Of a file that a library wrote, the sums; or what it predicts, where that is the same or their mean.
    let aside = if space == "value" { "raw" } else { "predictions" };
    let is_score = |output: &tiltyard_types::TensorSpec| output.name != aside && output.dtype != DataType::Int64;
    let output = signature.outputs.iter().rposition(is_score).unwrap();
    let served = compiled.open().unwrap().run(inputs, &[output]).unwrap().remove(0);
    let served: Vec<f64> = match served.dtype() {
        DataType::Fp64 => served.to_vec::<f64>().unwrap(),
        _ => served.to_vec::<f32>().unwrap().into_iter().map(f64::from).collect(),
    };
    let outputs = explained.base.len();
    let rows = explained.scores.len() / outputs;
    let expected: Vec<f64> = match (signature.outputs[output].name.as_str(), space) {
        ("raw" | "predictions", _) => explained.scores.clone(),
        (_, "log-odds") if outputs == 1 => explained
            .scores
            .iter()
            .flat_map(|score| [1.0 / (1.0 + score.exp()), 1.0 / (1.0 + (-score).exp())])
            .collect(),
        // The second class alone is in the file.
        (_, "probability") if served.len() == 2 * outputs * rows => {
            explained.scores.iter().flat_map(|score| [1.0 - score, *score]).collect()
        }
        (_, "log-odds") => explained
            .scores
            .chunks_exact(outputs)
            .flat_map(|scores| {
                let sum: f64 = scores.iter().map(|score| score.exp()).sum();
                scores.iter().map(move |score| score.exp() / sum).collect::<Vec<_>>()
            })
            .collect(),
        _ => explained.scores.clone(),
    };
    difference("served", &served, &expected, 2e-5)
}

fn check(folder: &Path) -> Result<(), String> {
    let told: Value = serde_json::from_slice(&fs::read(folder.join("expected.json")).unwrap()).unwrap();
    let model = model(folder);
    let background = told["background"].is_object().then(|| inputs(&model, &told["background"]));
    let explainer: Box<dyn Explainer> =
        tiltyard_classical::engine().explainer(&model, background.as_deref()).map_err(|error| error.to_string())?;
    let about = explainer.about();
    let method = if background.is_some() { "interventional" } else { "tree_path_dependent" };
    if about.method != method || about.outputs.len() as u64 != told["outputs"].as_u64().unwrap() {
        return Err(format!("{about:?} is not by {method} with {} outputs", told["outputs"]));
    }
    let rows = inputs(&model, &told["inputs"]);
    let wanted: Vec<usize> = (0..about.outputs.len()).collect();
    let explained = explainer.explain(&rows, &wanted, &mut || true).map_err(|error| error.to_string())?;
    let explained = explained.expect("nobody stops it");
    let tolerance = told["tolerance"].as_f64().unwrap();
    difference("base", &explained.base, &numbers(&told["base"]), tolerance)?;
    difference("part", &explained.parts, &numbers(&told["parts"]), tolerance)?;
    let columns = about.columns.iter().sum::<usize>();
    let with_base = explained.base.iter().cycle().zip(explained.parts.chunks_exact(columns));
    let sums: Vec<f64> = with_base.map(|(base, parts)| base + parts.iter().sum::<f64>()).collect();
    difference("sum", &sums, &explained.scores, 1e-9)?;
    check_served(&model, &rows, &explained, about.space)
}

#[test]
fn parts_are_those_of_the_reference_libraries() {
    let root: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/explained");
    let mut names: Vec<PathBuf> = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    assert!(names.len() >= 40, "{} models", names.len());
    let wrong: Vec<String> = names
        .iter()
        .filter_map(|folder| {
            let name = folder.file_name().unwrap_or_default().to_string_lossy();
            check(folder).err().map(|reason| format!("{name}: {reason}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn load(folder: &Path) -> Arc<Deployment> {
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
    loader.load("m", 1, &FoundVersion::at(folder).unwrap()).unwrap()
}

fn method(deployment: &Deployment) -> Result<&'static str, Error> {
    let rows = |text: &[u8]| match text {
        b"{}" => Ok(vec![Some(Tensor::from_slice([1, 5], &[0f64; 5]).unwrap())]),
        _ => Err(Error::invalid("no rows")),
    };
    deployment.explainer(rows).map(|explainer| explainer.about().method)
}

#[test]
fn the_same_bytes_are_read_again_or_none() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/explained/lightgbm_regression/model.txt");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.txt");
    let content = fs::read(&source).unwrap();
    fs::write(&file, &content).unwrap();
    let deployment = load(folder.path());
    fs::write(&file, [&content[..], b"\n"].concat()).unwrap();
    let error = method(&deployment).unwrap_err();
    assert!(error.kind() == ErrorKind::NotReady && error.message().contains("its content changed"), "{error:?}");
    fs::write(&file, &content).unwrap();
    assert_eq!(method(&deployment), Ok("tree_path_dependent"));
    fs::remove_file(&file).unwrap();
    assert_eq!(method(&deployment), Ok("tree_path_dependent"), "it is kept");
}

#[test]
fn a_background_is_part_of_the_artifact_and_told_where_it_is_wrong() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/explained/lightgbm_regression/model.txt");
    let folder = tempfile::tempdir().unwrap();
    fs::copy(&source, folder.path().join("model.txt")).unwrap();
    let bare = load(folder.path());
    fs::create_dir(folder.path().join("explain")).unwrap();
    let background = folder.path().join("explain/background.json");
    fs::write(&background, "{}").unwrap();
    let compared = load(folder.path());
    assert_ne!(bare.identity.artifact, compared.identity.artifact);
    assert_eq!((method(&bare), method(&compared)), (Ok("tree_path_dependent"), Ok("interventional")));
    fs::write(&background, "[]").unwrap();
    let error = method(&load(folder.path())).unwrap_err();
    assert_eq!(error.message(), "explain/background.json: no rows");
}
