//! What does it take to load a classical model, in time and memory, beside ONNX Runtime?
//!
//! `cargo bench -p tiltyard-benches --bench loading -- FILES`, with ONNX Runtime's library where `ORT_DYLIB_PATH` or `VIRTUAL_ENV` say. Each load
//! is a process of its own, in turns, from the file's path to a session that has answered one row; the medians are told. Memory
//! is what the kernel counts as resident, from before the load on: at its peak, and afterwards.
#![allow(clippy::print_stdout, reason = "the report is what a bench is for")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use ort::session::SessionInputValue;
use ort::value::TensorRef;
use tiltyard_benches::onnxruntime::{find_library, session};
use tiltyard_runtime::engine::{CompileOptions, Engine, ModelFile};
use tiltyard_types::{Dim, Signature, Tensor};

/// As in the server.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROUNDS: usize = 11;
const CONTENDERS: [&str; 2] = ["ours", "ONNX Runtime"];
/// Tells a process that it is one of the loads.
const CHILD: &str = "TILTYARD_BENCH_LOADS";

/// What one load took.
#[derive(Clone, Copy)]
struct Cost {
    time: Duration,
    peak_kib: u64,
    after_kib: u64,
}

/// A line of `/proc/self/status`, in KiB.
fn resident(line: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let value = status.lines().find_map(|each| each.strip_prefix(line)).expect("a line of that name");
    value.trim_matches([':', '\t', ' ', 'k', 'B']).parse().expect("a number")
}

fn columns(signature: &Signature) -> usize {
    match signature.inputs[0].dims.as_deref() {
        Some([_, Dim::Fixed(columns)]) => *columns,
        other => panic!("one input of rows and columns is expected, not {other:?}"),
    }
}

fn load_ours(file: &Path) {
    let model = ModelFile::read(file).expect("a model");
    let compiled =
        tiltyard_classical::engine().compile(&model, &CompileOptions::default()).expect("classical takes it");
    drop(model);
    let row = Tensor::from_slice([1, columns(compiled.signature())], &vec![0.5f32; columns(compiled.signature())]);
    let wanted: Vec<usize> = (0..compiled.signature().outputs.len()).collect();
    let answer = compiled.open().expect("a session").run(&[Some(row.expect("a row"))], &wanted).expect("an answer");
    assert!(!answer.is_empty());
    std::mem::forget(compiled); // It stays, as in a server.
}

fn load_theirs(file: &Path) {
    let library = find_library(None).expect("ONNX Runtime");
    let environment = ort::init_from(library).expect("a library").build().expect("an environment");
    // The library itself is not the model's.
    let before = (Instant::now(), resident("VmRSS"));
    let mut session = session(&environment, file).expect("ONNX Runtime takes the file");
    let columns = session.inputs()[0].dtype().tensor_shape().expect("a tensor")[1] as usize;
    let row = vec![0.5f32; columns];
    let input = TensorRef::from_array_view(([1, columns], &row[..])).expect("a shape of rows");
    let inputs: [SessionInputValue<'_>; 1] = [input.into()];
    assert!(session.run(inputs).expect("it answers").len() > 0);
    tell(before);
    std::process::exit(0);
}

fn tell((started, before): (Instant, u64)) {
    let time = started.elapsed().as_nanos();
    println!("{time} {} {}", resident("VmHWM") - before, resident("VmRSS").saturating_sub(before));
}

fn child(contender: &str, file: &Path) {
    if contender == CONTENDERS[0] {
        let before = (Instant::now(), resident("VmRSS"));
        load_ours(file);
        tell(before);
    } else {
        load_theirs(file);
    }
}

fn measure(contender: &str, file: &Path) -> Cost {
    let program = std::env::current_exe().expect("this program");
    let output = Command::new(program).env(CHILD, contender).arg(file).output().expect("it starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("numbers");
    let numbers: Vec<u64> = text.split_whitespace().map(|word| word.parse().expect("a number")).collect();
    Cost { time: Duration::from_nanos(numbers[0]), peak_kib: numbers[1], after_kib: numbers[2] }
}

fn median<T: Ord + Copy>(costs: &[Cost], of: impl Fn(&Cost) -> T) -> T {
    let mut values: Vec<T> = costs.iter().map(of).collect();
    values.sort_unstable();
    values[values.len() / 2]
}

fn bench(file: &Path) {
    let mut costs = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (costs, contender) in costs.iter_mut().zip(CONTENDERS) {
            costs.push(measure(contender, file));
        }
    }
    let medians = costs.map(|costs| {
        (median(&costs, |cost| cost.time), median(&costs, |cost| cost.peak_kib), median(&costs, |cost| cost.after_kib))
    });
    let size = std::fs::metadata(file).expect("the file").len() as f64 / 1e6;
    let name = file.file_stem().unwrap_or_default().to_string_lossy();
    let against = medians[1];
    for (contender, (time, peak, after)) in CONTENDERS.iter().zip(medians) {
        println!(
            "{name:<14} {size:>5.1} MB {contender:<14} {:>8.1} ms {:>5.2}x {:>7.1} MiB at peak {:>5.2}x {:>7.1} MiB after {:>5.2}x",
            time.as_secs_f64() * 1e3,
            time.as_secs_f64() / against.0.as_secs_f64(),
            peak as f64 / 1024.0,
            peak as f64 / against.1 as f64,
            after as f64 / 1024.0,
            after as f64 / against.2 as f64,
        );
    }
}

fn main() {
    let files: Vec<PathBuf> =
        std::env::args_os().skip(1).filter(|argument| argument != "--bench").map(PathBuf::from).collect();
    match std::env::var(CHILD) {
        Ok(contender) => child(&contender, &files[0]),
        Err(_) => files.iter().for_each(|file| bench(file)),
    }
}
