//! Does the processor, treated as a device is, answer as it does otherwise?
//!
//! What only a device can show (pinned memory, recorded graphs) is not here; that answers pass through such memory, at
//! addresses that stay, from a session's own thread, and what is refused, is.

use std::path::Path;
use std::process::Command;

use bytes::Bytes;
use tiltyard_onnxruntime::locate::{Places, locate};
use tiltyard_onnxruntime::{OrtEngine, Rehearsal};
use tiltyard_runtime::engine::{CompileOptions, CompiledModel, Engine, EngineError, ModelFile};
use tiltyard_runtime::onnx::Graph;
use tiltyard_types::{DataType, Shape, Tensor};

/// The engine; `None` where the operator wants to go without (see `engine.rs`).
fn engine() -> Option<OrtEngine> {
    let search = locate(&Places::of_process(None, None));
    match search.found() {
        Some(found) => Some(OrtEngine::load(&found.path).unwrap()),
        None if std::env::var_os("TILTYARD_TEST_WITHOUT_ORT").is_some() => None,
        None => panic!("{}", search.advice()),
    }
}

fn model(name: &str) -> ModelFile {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models").join(format!("{name}.onnx"));
    let bytes = Bytes::from(std::fs::read(&path).unwrap());
    let graph = Graph::read(&bytes).unwrap();
    ModelFile { path, bytes, graph, external: Default::default() }
}

fn compile(engine: &OrtEngine, name: &str, instances: usize) -> Result<Box<dyn CompiledModel>, EngineError> {
    engine.compile(&model(name), &CompileOptions { instances, ..CompileOptions::default() })
}

/// Other values for every seed.
fn rows(count: usize, seed: usize) -> Vec<Option<Tensor>> {
    let values: Vec<f32> = (0..count * 16).map(|i| ((i * 31 + seed * 7) % 97) as f32 / 48.5 - 1.0).collect();
    vec![Some(Tensor::from_slice([count, 16], &values).unwrap())]
}

fn run(compiled: &dyn CompiledModel, inputs: &[Option<Tensor>]) -> Result<Tensor, EngineError> {
    Ok(compiled.open()?.run(inputs, &[0])?.remove(0))
}

#[test]
fn batches_that_grow_and_shrink_are_answered_bit_for_bit() {
    let Some(engine) = engine() else { return };
    let plain = compile(&engine, "mlp", 1).unwrap();
    let staged = compile(&engine.rehearsing(Rehearsal::Staging), "mlp", 2).unwrap();
    assert_eq!(staged.sessions_max(), Some(2));
    // More threads than sessions, each with sizes of its own.
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (plain, staged) = (&*plain, &*staged);
            scope.spawn(move || {
                for round in 0..200 {
                    let count = [1, 64, 3, 17, 0, 200, 2, 64][(round + thread) % 8];
                    let inputs = rows(count, thread * 1000 + round);
                    let answer = run(staged, &inputs).unwrap();
                    assert_eq!(answer, run(plain, &inputs).unwrap(), "{count} rows");
                }
            });
        }
    });
}

#[test]
fn recorded_sizes_are_answered_bit_for_bit_and_fewer_rows_within_rounding() {
    let Some(engine) = engine() else { return };
    let plain = compile(&engine, "mlp", 1).unwrap();
    let graphs = compile(&engine.rehearsing(Rehearsal::Graphs), "mlp", 2).unwrap();
    // Before sizes are settled on, any run is answered.
    assert_eq!(run(&*graphs, &rows(5, 1)).unwrap(), run(&*plain, &rows(5, 1)).unwrap());
    graphs.settle(&[rows(8, 2), rows(1, 2), rows(4, 2)]).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (plain, graphs) = (&*plain, &*graphs);
            scope.spawn(move || {
                for round in 0..200 {
                    let count = 1 + (round * 5 + thread) % 8;
                    let inputs = rows(count, thread * 1000 + round);
                    let (ours, theirs) = (run(graphs, &inputs).unwrap(), run(plain, &inputs).unwrap());
                    if [1, 4, 8].contains(&count) {
                        assert_eq!(ours, theirs, "{count} rows");
                    }
                    assert_eq!(ours.shape(), theirs.shape());
                    let (ours, theirs) = (ours.to_vec::<f32>().unwrap(), theirs.to_vec::<f32>().unwrap());
                    assert!(ours.iter().zip(&theirs).all(|(a, b)| (a - b).abs() < 1e-5), "{count} rows");
                }
            });
        }
    });
    let none = run(&*graphs, &rows(0, 1)).unwrap();
    assert_eq!(none.shape(), &Shape::from([0, 4]));
}

#[track_caller]
fn fails<T>(result: Result<T, EngineError>, expected: &str) {
    let error = result.map(|_| ()).unwrap_err().to_string();
    assert!(error.contains(expected), "{error}");
}

#[test]
fn what_was_not_recorded_is_an_error_that_says_what_is() {
    let Some(engine) = engine() else { return };
    let graphs = compile(&engine.rehearsing(Rehearsal::Graphs), "mlp", 1).unwrap();
    fails(graphs.settle(&[]), "its rows may share no run");
    fails(graphs.settle(&vec![rows(1, 0); 17]), "there would be 17 graphs; expected at most 16");
    fails(graphs.settle(&[vec![None]]), "no value to record with");
    graphs.settle(&[rows(1, 0), rows(4, 0)]).unwrap();
    fails(graphs.settle(&[rows(2, 0)]), "has its graphs already");
    fails(
        run(&*graphs, &rows(5, 0)),
        "no CUDA graph takes inputs of [5, 16]; expected at most the rows of one of 1, 4",
    );
    let integers = Tensor::from_slice([1, 16], &[0i64; 16]).unwrap();
    fails(run(&*graphs, &[Some(integers)]), "no CUDA graph takes");
    fails(run(&*graphs, &[None]), "no CUDA graph takes inputs of none");
    fails(graphs.open().unwrap().run(&rows(1, 0), &[7]), "no output at position 7");
    assert_eq!(run(&*graphs, &rows(4, 3)).unwrap().shape(), &Shape::from([4, 4]));
}

#[test]
fn models_that_no_graph_can_stand_for_are_refused_by_name() {
    let Some(engine) = engine() else { return };
    let engine = engine.rehearsing(Rehearsal::Graphs);
    fails(compile(&engine, "constants", 1), "the model has nodes If");
    fails(compile(&engine, "identities", 1), "is text or optional");
    fails(compile(&engine, "optional_input", 1), "is text or optional");
    let chance = compile(&engine, "chance", 1).unwrap();
    let batch = vec![Some(Tensor::from_slice([50, 2], &[1f32; 100]).unwrap())];
    fails(chance.settle(&[batch]), "with 50 rows the graph answers otherwise than the model does: output \"y\"");
    // Its first axis is open and does not count the rows of the input.
    let fill = compile(&engine, "fill", 1).unwrap();
    let shape = |rows: i64| vec![Some(Tensor::from_slice([2], &[rows, 2]).unwrap())];
    fails(fill.settle(&[shape(3)]), "which its values decide");
}

/// Says in which process the test below is the child.
const CHILD: &str = "TILTYARD_TEST_CHILD";

/// Memory of this process that lies in RAM, in bytes.
#[cfg(target_os = "linux")]
fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[cfg(target_os = "linux")]
#[test]
fn what_was_staged_is_not_kept() {
    let Some(engine) = engine() else { return };
    if std::env::var_os(CHILD).is_none() {
        // Other tests of this process would be measured too.
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "what_was_staged_is_not_kept"])
            .env("ORT_DYLIB_PATH", engine.build().library.unwrap())
            .env(CHILD, "1")
            .output()
            .unwrap();
        assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
        return;
    }
    for rehearsal in [Rehearsal::Staging, Rehearsal::Graphs] {
        let engine = engine.rehearsing(rehearsal);
        let round = |rounds: usize| {
            for round in 0..rounds {
                let compiled = compile(&engine, "mlp", 2).unwrap();
                compiled.settle(&[rows(1, 0), rows(512, 0)]).unwrap();
                for count in [1, 512, 30, 512, 400] {
                    run(&*compiled, &rows(count, round)).unwrap();
                }
            }
        };
        round(50);
        let before = resident();
        round(400);
        // One batch's input has 32 KiB, so that one lost each time would be 12 MiB.
        let grown = resident().saturating_sub(before);
        assert!(grown < 6 << 20, "{rehearsal:?}: {grown} bytes more");
    }
}

#[test]
fn what_cannot_be_staged_is_lent() {
    let Some(engine) = engine() else { return };
    let (plain, staged) = (compile(&engine, "mlp", 1), compile(&engine.rehearsing(Rehearsal::Staging), "mlp", 1));
    let (plain, staged) = (plain.unwrap(), staged.unwrap());
    // Above what is pinned for one tensor: 64 MiB.
    let inputs = rows((65 << 20) / 64, 1);
    for _ in 0..2 {
        assert_eq!(run(&*staged, &inputs).unwrap(), run(&*plain, &inputs).unwrap());
    }
    let mut raw = vec![0u8];
    raw.extend(rows(1, 5)[0].as_ref().unwrap().bytes().unwrap());
    let unaligned = Tensor::fixed(DataType::Fp32, Shape::from([1, 16]), Bytes::from(raw).slice(1..)).unwrap();
    assert_eq!(run(&*staged, &[Some(unaligned)]).unwrap(), run(&*plain, &rows(1, 5)).unwrap());
}
