//! What does a run that panics cost, where sessions are leased as on a device?

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use tiltyard_runtime::engine::{CompileOptions, CompiledModel, Engine, ModelFile};
use tiltyard_runtime::onnx::Graph;

use super::*;
use crate::locate::{Places, locate};
use crate::{OrtEngine, Rehearsal};

/// Makes the next run panic, of whatever session.
pub(super) static PANICS: AtomicBool = AtomicBool::new(false);

fn rows(count: usize) -> Vec<Option<Tensor>> {
    let values: Vec<f32> = (0..count * 16).map(|i| (i % 97) as f32 / 48.5 - 1.0).collect();
    vec![Some(Tensor::from_slice([count, 16], &values).unwrap())]
}

fn run(compiled: &dyn CompiledModel, count: usize) -> Tensor {
    compiled.open().unwrap().run(&rows(count), &[0]).unwrap().remove(0)
}

#[test]
fn a_run_that_panics_costs_itself_and_no_session() {
    let search = locate(&Places::of_process(None, None));
    let Some(found) = search.found() else {
        assert!(std::env::var_os("TILTYARD_TEST_WITHOUT_ORT").is_some(), "{}", search.advice());
        return;
    };
    let engine = OrtEngine::load(&found.path).unwrap();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models/mlp.onnx");
    let bytes = Bytes::from(std::fs::read(&path).unwrap());
    let graph = Graph::read(&bytes).unwrap();
    let model = ModelFile { path, bytes, graph, external: Default::default() };
    let options = CompileOptions { instances: 1, ..CompileOptions::default() };
    let plain = engine.compile(&model, &options).unwrap();
    for rehearsal in [Rehearsal::Staging, Rehearsal::Graphs] {
        let compiled = engine.rehearsing(rehearsal).compile(&model, &options).unwrap();
        compiled.settle(&[rows(4)]).unwrap();
        assert_eq!(run(&*compiled, 4), run(&*plain, 4), "{rehearsal:?}");
        for _ in 0..3 {
            PANICS.store(true, Ordering::Relaxed);
            let mut session = compiled.open().unwrap();
            let panic = catch_unwind(AssertUnwindSafe(|| session.run(&rows(4), &[0]))).unwrap_err();
            assert_eq!(panic.downcast_ref::<&str>(), Some(&"as ordered"), "{rehearsal:?}");
            // The one session there is answers on, also what has another size.
            for count in [4, 1, 3] {
                assert_eq!(run(&*compiled, count), run(&*plain, count), "{rehearsal:?}");
            }
        }
    }
}
