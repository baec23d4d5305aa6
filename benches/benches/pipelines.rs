//! How long does a run of a classical model take, from tensors to tensors, beside ONNX Runtime, on one thread?
//!
//! `cargo bench -p tiltyard-benches --bench pipelines -- FILES`, with ONNX Runtime's library where `ORT_DYLIB_PATH` or `VIRTUAL_ENV` say. The files
//! are ONNX models with one FP32 input of rows and columns, such as a scaler with a logistic regression behind it
//! (`benches/README.md` has the line that makes one). One line per file, batch and contender. Both give all outputs that are
//! tensors, in memory of their own.
#![allow(clippy::print_stdout, reason = "the report is what a bench is for")]

use std::cell::RefCell;
use std::path::Path;
use std::time::Duration;

use ort::environment::Environment;
use ort::session::SessionInputValue;
use ort::value::TensorRef;
use tiltyard_benches::onnxruntime::{find_library, session};
use tiltyard_benches::{Contender, side_by_side};
use tiltyard_runtime::engine::{CompileOptions, Engine, ModelFile};
use tiltyard_types::{Dim, Tensor};

const BATCHES: [usize; 4] = [1, 8, 128, 4096];
const ROUNDS: usize = 15;
const SLICE: Duration = Duration::from_millis(40);

/// Numbers from −2 to 2 that repeat late.
fn rows(count: usize) -> Vec<f32> {
    (0..count).map(|at| ((at * 2_654_435_761) % 4_000_037) as f32 / 1_000_009.0 - 2.0).collect()
}

fn bench(environment: &Environment, file: &Path) {
    let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let model = ModelFile::read(file).expect("a model");
    let compiled =
        tiltyard_classical::engine().compile(&model, &CompileOptions::default()).expect("classical takes it");
    let Some([_, Dim::Fixed(columns)]) = compiled.signature().inputs[0].dims.as_deref() else {
        panic!("{name}: one input of rows and columns is expected")
    };
    let wanted: Vec<usize> = (0..compiled.signature().outputs.len()).collect();
    let mut ours = compiled.open().expect("a session");
    let theirs = RefCell::new(session(environment, file).expect("ONNX Runtime takes the file"));
    for batch in BATCHES {
        let values = rows(batch * columns);
        let inputs = [Some(Tensor::from_slice([batch, *columns], &values).expect("rows"))];
        let mut contenders = [
            Contender::new("ours", || ours.run(&inputs, &wanted).expect("it answers").len()),
            Contender::new("ONNX Runtime", || {
                let input = TensorRef::from_array_view(([batch, *columns], &values[..])).expect("a shape of rows");
                let inputs: [SessionInputValue<'_>; 1] = [input.into()];
                theirs.borrow_mut().run(inputs).expect("it answers").len()
            }),
        ];
        let times = side_by_side(&mut contenders, ROUNDS, SLICE);
        let baseline = times[1].as_secs_f64();
        for (contender, time) in contenders.iter().zip(&times) {
            let told = (time.as_secs_f64() * 1e6, time.as_secs_f64() / baseline);
            println!("{name:<20} batch {batch:>5} {:<14} {:>10.2} µs {:>6.2}x", contender.name, told.0, told.1);
        }
    }
}

fn main() {
    let files: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    assert!(!files.is_empty(), "name the models");
    let environment =
        ort::init_from(find_library(None).expect("ONNX Runtime")).expect("a library").build().expect("an environment");
    files.iter().for_each(|file| bench(&environment, Path::new(file)));
}
