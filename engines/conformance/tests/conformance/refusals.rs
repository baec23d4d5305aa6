//! What does each engine refuse, and does it answer everything else rightly?
//!
//! A refusal that disappears fails here as one that appears does: users are told of them, and `auto` leans on them.

use tiltyard_runtime::engine::{Engine, EngineError};

use crate::subjects::{compile, engines, subjects};

/// Engine, model, and what the refusal names: the operator or the data type that is missing.
pub(crate) const REFUSALS: &[(&str, &str, &str)] = &[];

/// Whether the engine is known not to take the model.
pub(crate) fn is_refused(engine: &str, model: &str) -> bool {
    REFUSALS.iter().any(|(by, name, _)| *by == engine && *name == model)
}

fn check(engine: &dyn Engine, name: &str, refusal: Option<&str>) -> Result<(), String> {
    let understood = crate::subjects::subject(name).understood();
    let compiled = match (compile(engine, &understood), refusal) {
        (Ok(_), Some(_)) => return Err("it is in the table of refusals and was not refused".into()),
        (Err(EngineError::Unsupported(message)), Some(named)) if message.contains(named) => return Ok(()),
        (Err(error), _) => return Err(format!("refused: {error:?}")),
        (Ok(compiled), None) => compiled,
    };
    if understood.goldens.is_empty() {
        return Err("it has no golden examples to be judged by".into());
    }
    let mut session = compiled.open().map_err(|error| error.to_string())?;
    understood.goldens.iter().try_for_each(|golden| golden.check(compiled.signature(), session.as_mut()))
}

#[test]
fn every_model_answers_rightly_or_is_refused_by_name() {
    let mut faults = Vec::new();
    let names: Vec<String> = subjects().into_iter().map(|subject| subject.name).collect();
    for engine in engines() {
        for name in &names {
            let row = REFUSALS.iter().find(|(by, model, _)| *by == engine.name() && model == name);
            if let Err(fault) = check(engine.as_ref(), name, row.map(|(.., named)| *named)) {
                faults.push(format!("{} on {}: {fault}", name, engine.name()));
            }
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
    for (_, model, _) in REFUSALS {
        assert!(names.iter().any(|name| name == model), "the table names {model:?}, which is not there");
    }
}
