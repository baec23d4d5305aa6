//! Of which models may rows share a run? The proof must see through those whose rows are not independent.

use tiltyard_runtime::deployment::BatchAxis;
use tiltyard_runtime::engine::Engine;
use tiltyard_runtime::prove::prove;

use crate::refusals::is_refused;
use crate::subjects::{compile, engines, subjects};

/// Models that must not be proved, and what is the matter: `none` has no batch axis, `neighbours` and `rows` are the
/// words that the reason must hold.
const NOT_PROVED: &[(&str, &str)] = &[
    ("dynamic_output", "none"),
    ("fixed_batch", "none"),
    ("if_branch", "none"),
    ("nms", "rows"),
    ("normalise_axis0", "neighbours"),
    ("scalar", "none"),
    ("stateful", "none"),
];

fn verdict(engine: &dyn Engine, name: &str, with_example: bool) -> Option<BatchAxis> {
    if is_refused(engine.name(), name) {
        return None;
    }
    let understood = crate::subjects::subject(name).understood();
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
