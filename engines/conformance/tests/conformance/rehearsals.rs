//! Does ONNX Runtime answer the same where the processor is treated as a device is?
//!
//! Staging must change no bit of any model's answer. Graphs must answer every model that they are not refused for, through
//! the whole load: sizes, batches that are filled up, requests that are taken together and apart.

use std::sync::Arc;

use tiltyard_onnxruntime::locate::{Places, locate};
use tiltyard_onnxruntime::{OrtEngine, Rehearsal};
use tiltyard_runtime::compare::{Tolerance, compare};
use tiltyard_runtime::engine::{CompiledModel, Engine};
use tiltyard_runtime::job::Demand;
use tiltyard_runtime::pool::Pool;
use tiltyard_types::{Dim, Signature, Tensor, TensorSpec};

use crate::subjects::{Random, all_outputs, compile, loader, now, subjects};

/// Models that no graph can stand for, by what the refusal names.
const NO_GRAPH: &[(&str, &[&str])] = &[
    ("is text or optional", &["columns_text", "identity_bytes", "optional_input", "string_upper"]),
    ("nodes If", &["if_branch"]),
    ("nodes Loop", &["loop"]),
    ("nodes NonMaxSuppression", &["nms"]),
    ("nodes NonZero", &["dynamic_output"]),
    ("more than the number of rows is open", &["language", "masked_mean", "plain_mean"]),
    ("more than the number of rows is open", &["state_beside", "stateful", "identity_bool", "identity_bf16"]),
    ("more than the number of rows is open", &["identity_fp16", "identity_fp32", "identity_fp64"]),
    ("more than the number of rows is open", &["identity_int8", "identity_int16", "identity_int32", "identity_int64"]),
    ("more than the number of rows is open", &["identity_uint8", "identity_uint16", "identity_uint32"]),
    ("more than the number of rows is open", &["identity_uint64"]),
    ("rows may share no run", &["normalise_axis0", "scalar", "stacked"]),
];

/// ONNX Runtime, where it is at hand; `subjects` says where it may be missing.
fn engine() -> Option<OrtEngine> {
    let search = locate(&Places::of_process(None, None));
    search.found().map(|found| OrtEngine::load(&found.path).unwrap())
}

/// The same example with other numbers of rows, where inputs have some.
fn resized(signature: &Signature, inputs: &[Option<Tensor>], rows: usize) -> Option<Vec<Option<Tensor>>> {
    let resize = |(input, spec): (&Option<Tensor>, &TensorSpec)| -> Option<Option<Tensor>> {
        let has_rows = matches!(spec.dims.as_deref(), Some([Dim::Dynamic(_), ..]));
        let Some(tensor) = input.as_ref().filter(|_| has_rows) else { return Some(input.clone()) };
        let row = tensor.rows(0..1)?.aligned();
        match row.as_strings() {
            Some(texts) => {
                let texts = (0..rows).flat_map(|_| texts.iter().cloned()).collect();
                Tensor::strings(tensor.shape().with_rows(rows), texts).ok().map(Some)
            }
            None => {
                Tensor::fixed(tensor.dtype(), tensor.shape().with_rows(rows), row.bytes()?.repeat(rows)).ok().map(Some)
            }
        }
    };
    inputs.iter().zip(&signature.inputs).map(resize).collect()
}

/// What both make of it: the answer to the bit, or that it is refused.
fn answers_agree(place: &str, plain: &dyn CompiledModel, staged: &dyn CompiledModel, inputs: &[Option<Tensor>]) {
    let aligned: Vec<Option<Tensor>> = inputs.iter().map(|input| input.as_ref().map(Tensor::aligned)).collect();
    let all = all_outputs(plain);
    let backwards: Vec<usize> = all.iter().rev().copied().collect();
    for wanted in [&all, &all[..1].to_vec(), &backwards] {
        let run = |model: &dyn CompiledModel| model.open().unwrap().run(&aligned, wanted);
        match (run(plain), run(staged)) {
            (Ok(plain), Ok(staged)) => assert!(plain == staged, "{place}: outputs {wanted:?} differ"),
            (plain, staged) => assert!(plain.is_err() && staged.is_err(), "{place}: {plain:?} or {staged:?}"),
        }
    }
}

#[test]
fn staging_changes_no_bit_of_any_answer() {
    let Some(engine) = engine() else { return };
    let rehearsing = engine.rehearsing(Rehearsal::Staging);
    for subject in subjects().iter().filter(|subject| !subject.name.starts_with("slow")) {
        let understood = subject.understood();
        let plain = compile(&engine, &understood).unwrap();
        let staged = compile(&rehearsing, &understood).unwrap();
        for golden in &understood.goldens {
            let inputs = golden.arranged(plain.signature()).unwrap();
            answers_agree(&subject.name, &*plain, &*staged, &inputs);
            for rows in [1, 7, 2, 33, 7, 1] {
                if let Some(inputs) = resized(plain.signature(), &inputs, rows) {
                    answers_agree(&format!("{} with {rows} rows", subject.name), &*plain, &*staged, &inputs);
                }
            }
        }
    }
}

#[test]
fn graphs_answer_every_model_that_they_are_not_refused_for() {
    let Some(engine) = engine() else { return };
    let (plain, graphs): (Arc<dyn Engine>, Arc<dyn Engine>) =
        (Arc::new(engine.clone()), Arc::new(engine.rehearsing(Rehearsal::Graphs)));
    let (plain, graphs) = (loader(vec![plain], None), loader(vec![graphs], None));
    let pool = Pool::start(2, now).unwrap();
    let mut faults = Vec::new();
    for subject in subjects().iter().filter(|subject| !subject.name.starts_with("slow")) {
        let refusal = NO_GRAPH.iter().find(|(_, names)| names.contains(&subject.name.as_str())).map(|(why, _)| *why);
        let name = subject.name.split('@').next().unwrap_or_default();
        let deployment = match (graphs.load(name, 1, &subject.found), refusal) {
            (Ok(deployment), None) => deployment,
            (Err(error), Some(why)) if error.to_string().contains(why) => continue,
            (Ok(_), Some(_)) => {
                faults.push(format!("{} is not refused", subject.name));
                continue;
            }
            (Err(error), _) => {
                faults.push(format!("{}: {error}", subject.name));
                continue;
            }
        };
        let alone = plain.load(name, 1, &subject.found).unwrap();
        let wanted: Vec<usize> = (0..deployment.signature.outputs.len()).collect();
        let golden = subject.understood().goldens[0].arranged(&deployment.signature).unwrap();
        let mut random = Random(11);
        let requests: Vec<Vec<Option<Tensor>>> = (0..100)
            .map(|_| resized(&deployment.signature, &golden, 1 + random.below(9)).unwrap_or_else(|| golden.clone()))
            .collect();
        let ask = |inputs: &Vec<Option<Tensor>>| {
            deployment.enqueue(inputs.clone(), wanted.clone(), Demand::default(), Box::new(()), &pool).unwrap()
        };
        let pending: Vec<_> = requests.iter().map(ask).collect();
        for (pending, inputs) in pending.into_iter().zip(&requests) {
            let answer = pending.blocking_recv().unwrap().unwrap();
            for (actual, expected) in answer.outputs.iter().zip(&alone.run_alone(inputs, &wanted).unwrap()) {
                compare(actual, expected, Tolerance::default()).unwrap_or_else(|why| panic!("{}: {why}", subject.name));
            }
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}
