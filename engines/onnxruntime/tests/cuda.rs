//! Does a GPU answer as the processor does, with and without graphs?
//!
//! Where the library was built without CUDA or the machine has no GPU of NVIDIA's, these tests have nothing to look at;
//! `benches/README.md` says how to run them with one.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tiltyard_onnxruntime::OrtEngine;
use tiltyard_onnxruntime::locate::{Places, locate};
use tiltyard_runtime::engine::{CompileOptions, CompiledModel, Engine, EngineError, ModelFile};
use tiltyard_runtime::onnx::Graph;
use tiltyard_runtime::providers::ProviderOptions;
use tiltyard_types::Tensor;

/// The engine, where there is a GPU that its library can use.
fn engine() -> Option<OrtEngine> {
    let search = locate(&Places::of_process(None, None));
    let engine = OrtEngine::load(&search.found()?.path).unwrap();
    let is_built_for_it = engine.build().providers.iter().any(|name| name == "cuda");
    (is_built_for_it && Path::new("/dev/nvidia0").exists()).then_some(engine)
}

/// Compiles for the GPU alone, in full single precision, with these lines below `provider.cuda`.
fn compile(engine: &OrtEngine, name: &str, lines: &str) -> Result<Box<dyn CompiledModel>, EngineError> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models").join(format!("{name}.onnx"));
    let bytes = Bytes::from(std::fs::read(&path).unwrap());
    let graph = Graph::read(&bytes).unwrap();
    let mut provider_options = ProviderOptions::default();
    provider_options.read(&toml::from_str(&format!("[cuda]\ntf32 = false\n{lines}")).unwrap()).unwrap();
    let providers = vec!["cuda".to_owned()];
    let options = CompileOptions { providers, provider_options, instances: 2, ..CompileOptions::default() };
    engine.compile(&ModelFile { path, bytes, graph, external: Default::default() }, &options)
}

fn rows(count: usize, seed: usize) -> Vec<Option<Tensor>> {
    let values: Vec<f32> = (0..count * 16).map(|i| ((i * 31 + seed * 7) % 97) as f32 / 48.5 - 1.0).collect();
    vec![Some(Tensor::from_slice([count, 16], &values).unwrap())]
}

fn on_cpu(engine: &OrtEngine) -> Box<dyn CompiledModel> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models/mlp.onnx");
    let bytes = Bytes::from(std::fs::read(&path).unwrap());
    let graph = Graph::read(&bytes).unwrap();
    engine.compile(&ModelFile { path, bytes, graph, external: Default::default() }, &CompileOptions::default()).unwrap()
}

#[track_caller]
fn agrees(device: &dyn CompiledModel, processor: &dyn CompiledModel, count: usize, seed: usize) {
    let answer = |model: &dyn CompiledModel| -> Vec<f32> {
        model.open().unwrap().run(&rows(count, seed), &[0]).unwrap()[0].to_vec().unwrap()
    };
    let (ours, theirs) = (answer(device), answer(processor));
    assert_eq!(ours.len(), theirs.len());
    assert!(ours.iter().zip(&theirs).all(|(a, b)| (a - b).abs() < 1e-4), "{count} rows: {ours:?} {theirs:?}");
}

#[test]
fn it_answers_as_the_processor_does_while_batches_grow_and_shrink() {
    let Some(engine) = engine() else { return };
    let (device, processor) = (compile(&engine, "mlp", "").unwrap(), on_cpu(&engine));
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (device, processor) = (&*device, &*processor);
            scope.spawn(move || {
                (0..200)
                    .for_each(|round| agrees(device, processor, [1, 64, 3, 17, 200, 2, 64][round % 7], thread + round))
            });
        }
    });
}

#[test]
fn graphs_answer_as_the_processor_does() {
    let Some(engine) = engine() else { return };
    let (graphs, processor) = (compile(&engine, "mlp", "cuda_graphs = true").unwrap(), on_cpu(&engine));
    agrees(&*graphs, &*processor, 5, 0);
    graphs.settle(&[1, 2, 4, 8, 16].map(|count| rows(count, 3))).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (graphs, processor) = (&*graphs, &*processor);
            scope.spawn(move || (0..400).for_each(|round| agrees(graphs, processor, 1 + round % 16, thread + round)));
        }
    });
}

#[test]
fn others_are_served_while_graphs_are_recorded() {
    let Some(engine) = engine() else { return };
    let (device, processor) = (compile(&engine, "mlp", "").unwrap(), on_cpu(&engine));
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let (device, processor, is_done) = (&*device, &*processor, &is_done);
            scope.spawn(move || {
                let mut round = 0;
                while !is_done.load(Ordering::Relaxed) {
                    // Sizes that are new ask the device for memory, which must not meet a recording.
                    agrees(device, processor, 1 + (round * 13 + thread) % 700, round);
                    round += 1;
                }
            });
        }
        for _ in 0..5 {
            let graphs = compile(&engine, "mlp", "cuda_graphs = true").unwrap();
            graphs.settle(&[1, 8, 64].map(|count| rows(count, 1))).unwrap();
        }
        is_done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn what_no_graph_can_stand_for_is_refused() {
    let Some(engine) = engine() else { return };
    let refused = |name: &str| compile(&engine, name, "cuda_graphs = true").map(|_| ()).unwrap_err().to_string();
    assert!(refused("constants").contains("nodes If"), "{}", refused("constants"));
    // What shall be made is said by an input that the processor reads.
    assert!(refused("fill").contains("cuda_graphs of provider.cuda"), "{}", refused("fill"));
}
