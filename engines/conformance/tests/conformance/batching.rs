//! Of which models may rows share a run? The proof must see through those whose rows are not independent.

use std::sync::Arc;

use tiltyard_runtime::compare::{Tolerance, compare};
use tiltyard_runtime::deployment::{BatchAxis, Deployment, Padding};
use tiltyard_runtime::engine::Engine;
use tiltyard_runtime::job::{Demand, Pending};
use tiltyard_runtime::pool::Pool;
use tiltyard_runtime::prove::prove;
use tiltyard_types::Tensor;

use crate::refusals::is_refused;
use crate::subjects::{Random, compile, engines, loader, now, subject, subjects};

/// Models that must not be proved, and what is the matter: `none` has no batch axis, `neighbours` and `rows` are the
/// words that the reason must hold.
const NOT_PROVED: &[(&str, &str)] = &[
    ("dynamic_output", "none"),
    ("fixed_batch", "none"),
    ("if_branch", "none"),
    ("nms", "rows"),
    ("normalise_axis0", "neighbours"),
    ("scalar", "none"),
    ("stacked", "rows"),
    ("state_beside", "none"),
    ("stateful", "none"),
];

fn verdict(engine: &dyn Engine, name: &str, with_example: bool) -> Option<BatchAxis> {
    if is_refused(engine.name(), name) {
        return None;
    }
    let understood = subject(name).understood();
    let model = compile(engine, &understood).unwrap_or_else(|error| panic!("{name} on {}: {error}", engine.name()));
    let example = with_example.then(|| understood.goldens[0].arranged(model.signature()).unwrap());
    Some(prove(model.signature(), example.as_deref(), model.open().unwrap().as_mut()))
}

fn fits(axis: &BatchAxis, expected: Option<&str>) -> bool {
    match (axis, expected) {
        (BatchAxis::Proved, None) => true,
        (BatchAxis::None, Some("none")) => true,
        (BatchAxis::Unproved(reason), Some(word)) => reason.contains(word),
        _ => false,
    }
}

#[test]
fn only_models_with_independent_rows_are_proved_on_every_engine() {
    let mut faults = Vec::new();
    for subject in subjects() {
        let expected = NOT_PROVED.iter().find(|(name, _)| *name == subject.name).map(|(_, word)| *word);
        for engine in engines() {
            let axis = verdict(engine.as_ref(), &subject.name, true);
            if axis.as_ref().is_some_and(|axis| !fits(axis, expected)) {
                faults.push(format!("{} on {}: {axis:?}, expected {expected:?}", subject.name, engine.name()));
            }
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

/// Without an example rows are made up, which need not suit a model; but none that depends on its neighbours may
/// pass.
#[test]
fn made_up_rows_prove_no_model_wrongly() {
    for (name, _) in NOT_PROVED {
        for engine in engines() {
            let axis = verdict(engine.as_ref(), name, false);
            assert_ne!(axis, Some(BatchAxis::Proved), "{name} on {}", engine.name());
        }
    }
}

fn load(engine: &Arc<dyn Engine>, name: &str) -> Arc<Deployment> {
    let loader = loader(vec![Arc::clone(engine)], None);
    loader.load(name, 1, &subject(name).found).unwrap_or_else(|error| panic!("{name} on {}: {error}", engine.name()))
}

#[test]
fn padding_is_on_only_where_no_answer_changes() {
    for engine in engines() {
        let padding = |name: &str| load(&engine, name).padding.clone();
        for name in ["masked_mean", "language"] {
            assert!(matches!(padding(name), Padding::Proved(_)), "{name} on {}: {:?}", engine.name(), padding(name));
        }
        let refuted = padding("plain_mean");
        assert!(matches!(&refuted, Padding::Unproved(reason) if reason.contains("\"mean\"")), "{refuted:?}");
        assert_eq!(padding("normalise_axis0"), Padding::Undeclared);
    }
}

/// Asks all at once and compares each answer with what the model alone says.
fn answers_are_those_of_single_runs(deployment: &Arc<Deployment>, requests: &[Vec<Option<Tensor>>]) {
    let pool = Pool::start(2, now).unwrap();
    let wanted: Vec<usize> = (0..deployment.signature.outputs.len()).collect();
    let ask = |inputs: &Vec<Option<Tensor>>| {
        deployment.enqueue(inputs.clone(), wanted.clone(), Demand::default(), Box::new(()), &pool).unwrap()
    };
    let pending: Vec<Pending> = requests.iter().map(ask).collect();
    for (pending, inputs) in pending.into_iter().zip(requests) {
        let answer = pending.blocking_recv().unwrap().unwrap();
        let alone = deployment.run_alone(inputs, &wanted).unwrap();
        for (actual, expected) in answer.outputs.iter().zip(&alone) {
            compare(actual, expected, Tolerance::default()).unwrap();
        }
    }
}

#[test]
fn texts_of_different_lengths_are_answered_as_each_alone() {
    let mut random = Random(7);
    let mut text = |rows: usize, length: usize| -> Vec<Option<Tensor>> {
        let tokens: Vec<i64> = (0..rows * length).map(|_| 1 + random.below(19) as i64).collect();
        let tensor = |values: &[i64]| Some(Tensor::from_slice([rows, length], values).unwrap());
        vec![tensor(&tokens), tensor(&vec![1; rows * length])]
    };
    let texts: Vec<Vec<Option<Tensor>>> = (0..200).map(|at| text(1 + at % 3, 1 + at * 7 % 23)).collect();
    for engine in engines() {
        let deployment = load(&engine, "masked_mean");
        answers_are_those_of_single_runs(&deployment, &texts);
        let tokens_only: Vec<Vec<Option<Tensor>>> = texts.iter().map(|text| vec![text[0].clone()]).collect();
        answers_are_those_of_single_runs(&load(&engine, "language"), &tokens_only);
    }
}

#[test]
fn a_request_larger_than_any_batch_is_answered_as_one_run() {
    let rows = 1000;
    let features: Vec<f32> = (0..rows * 30).map(|at| (at % 97) as f32 / 7.0).collect();
    let large = vec![Some(Tensor::from_slice([rows, 30], &features).unwrap())];
    for engine in engines() {
        answers_are_those_of_single_runs(&load(&engine, "risk"), &[large.clone(), large.clone()]);
    }
}

#[test]
fn requests_with_other_weights_are_answered_by_their_own() {
    let request = |at: usize| {
        let x = Tensor::from_slice([1, 3], &[at as f32, 1.0, 2.0]).unwrap();
        let weights = Tensor::from_slice([3], &[1.0, (at % 3) as f32, -1.0]).unwrap();
        vec![Some(x), Some(weights)]
    };
    let requests: Vec<Vec<Option<Tensor>>> = (0..200).map(request).collect();
    for engine in engines() {
        let deployment = load(&engine, "weighted");
        assert!(deployment.batch_axis == BatchAxis::Proved && deployment.has_shared_inputs());
        answers_are_those_of_single_runs(&deployment, &requests);
    }
}
