//! What does it cost to explain a row, on one thread?
//!
//! `python benches/trees.py make`, then `cargo bench -p tiltyard-benches --bench explain [-- FOLDER]`; `python benches/trees.py
//! explain` times XGBoost, LightGBM and shap on the same files and rows. One line per forest and method: the median of microseconds
//! a row, and the time that the first question takes.
#![allow(clippy::print_stdout, reason = "the report is what a bench is for")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tiltyard_runtime::engine::{Engine, ModelFile};
use tiltyard_types::{DataType, Tensor};

const COLUMNS: usize = 30;
const ROUNDS: usize = 15;
const SLICE: Duration = Duration::from_millis(60);
const BACKGROUND: usize = 100;

/// Different rows that are explained in turns.
const ROWS: usize = 256;

fn model(path: PathBuf) -> ModelFile {
    let engine = tiltyard_classical::engine();
    let format = engine.formats().iter().find(|format| path.extension().is_some_and(|end| end == format.extension));
    let Some(format) = format else { return ModelFile::read(&path).expect("the file can be read") };
    let bytes = Bytes::from(std::fs::read(&path).expect("the file can be read"));
    let graph = (format.read)(&bytes).expect("the file is a model");
    ModelFile { path, bytes, external: Default::default(), graph }
}

/// Some rows as the model takes them.
fn input(model: &ModelFile, rows: &[f32]) -> Vec<Option<Tensor>> {
    let shape = [rows.len() / COLUMNS, COLUMNS];
    let tensor = match model.graph.signature.inputs[0].dtype {
        DataType::Fp64 => Tensor::from_slice(shape, &rows.iter().map(|&value| f64::from(value)).collect::<Vec<_>>()),
        _ => Tensor::from_slice(shape, rows),
    };
    vec![Some(tensor.expect("as many as the shape says"))]
}

fn time(folder: &Path, name: &str, compared: bool, rows: &[f32]) {
    let model = model(folder.join(name));
    let background = compared.then(|| input(&model, &rows[rows.len() - BACKGROUND * COLUMNS..]));
    let start = Instant::now();
    let explainer = tiltyard_classical::engine().explainer(&model, background.as_deref()).expect("it is explained");
    let first = start.elapsed();
    let wanted: Vec<usize> = (0..explainer.about().outputs.len()).collect();
    let inputs: Vec<_> = rows.chunks_exact(COLUMNS).take(ROWS).map(|row| input(&model, row)).collect();
    let mut slices = Vec::new();
    let mut at = 0;
    for _ in 0..ROUNDS {
        let (start, mut count) = (Instant::now(), 0u32);
        while start.elapsed() < SLICE {
            explainer.explain(&inputs[at % ROWS], &wanted, &mut || true).expect("it is explained");
            (at, count) = (at + 1, count + 1);
        }
        slices.push(start.elapsed().as_secs_f64() * 1e6 / f64::from(count));
    }
    slices.sort_by(f64::total_cmp);
    println!(
        "{name:20} {:22} {:9.1} us a row; ready after {:5.1} ms",
        explainer.about().method,
        slices[ROUNDS / 2],
        first.as_secs_f64() * 1e3
    );
}

fn main() {
    let named = std::env::args().skip(1).find(|argument| !argument.starts_with("--"));
    let folder =
        named.map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench-trees"), PathBuf::from);
    let bytes = std::fs::read(folder.join("rows.f32")).expect("python benches/trees.py make");
    let rows: Vec<f32> =
        bytes.chunks_exact(4).map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]])).collect();
    for name in ["xgboost-200.json", "xgboost-1000.json", "lightgbm-200.txt"] {
        time(&folder, name, false, &rows);
    }
    for name in ["xgboost-200.json", "lightgbm-200.txt", "forest-100.onnx"] {
        time(&folder, name, true, &rows);
    }
}
