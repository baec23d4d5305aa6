//! Do the engines answer rightly to models that people use, or refuse them by name?
//!
//! `real_models.py` makes the repository that `TILTYARD_REAL_MODELS` names, and its first lines say how. Without the
//! variable nothing is tried, and a line says so.

use std::path::PathBuf;

use tiltyard_runtime::engine::{Engine, EngineError};
use tiltyard_runtime::load::Understood;
use tiltyard_runtime::prove::prove;

use crate::subjects::{all_outputs, compile, distance, engines, loader, subjects_in};

/// Engine, model, and what the refusal names: here the node whose branches differ in rank. Everything else must be
/// answered by every engine.
const REFUSALS: &[(&str, &str, &str)] = &[
    ("tract", "voice", "\"If_0\" If"),
    ("tract", "voice_half", "\"/decoder/If\" If"),
    ("tract", "voice_op15", "\"/model/decoder/If\" If"),
];

/// How an engine did with a model, for people; or what is wrong.
fn verdict(engine: &dyn Engine, name: &str, understood: &Understood) -> Result<String, String> {
    let refusal = REFUSALS.iter().find(|(by, model, _)| *by == engine.name() && *model == name);
    let compiled = match (compile(engine, understood), refusal) {
        (Err(EngineError::Unsupported(message)), Some((.., named))) if message.contains(named) => {
            return Ok(format!("refused: {message}"));
        }
        (Ok(_), Some(_)) => return Err("it is in the table of refusals and was not refused".into()),
        (Err(error), _) => return Err(format!("refused: {error:?}")),
        (Ok(compiled), None) => compiled,
    };
    let signature = compiled.signature();
    let mut session = compiled.open().map_err(|error| error.to_string())?;
    let mut farthest = 0f64;
    for golden in &understood.goldens {
        let inputs = golden.arranged(signature).map_err(|error| error.to_string())?;
        let answer =
            session.run(&inputs, &all_outputs(compiled.as_ref())).map_err(|e| format!("{}: {e}", golden.file))?;
        for (actual, expected) in answer.iter().zip(&golden.outputs) {
            farthest = farthest.max(distance(actual, &expected.tensor));
        }
        golden.check(signature, session.as_mut())?;
    }
    let example = understood.goldens[0].arranged(signature).map_err(|error| error.to_string())?;
    let axis = prove(signature, Some(&example), session.as_mut());
    Ok(format!("{} examples pass, farthest {farthest:.1e}, batch axis {axis:?}", understood.goldens.len()))
}

#[test]
#[allow(clippy::print_stdout, reason = "the table of verdicts is what a person runs this for")]
fn real_models_are_answered_rightly() {
    let Some(root) = std::env::var_os("TILTYARD_REAL_MODELS").filter(|root| !root.is_empty()).map(PathBuf::from) else {
        println!("skipped: TILTYARD_REAL_MODELS names no repository; engines/conformance/real_models.py makes one");
        return;
    };
    let subjects = subjects_in(&root);
    assert!(!subjects.is_empty(), "{} holds no models", root.display());
    let mut faults = Vec::new();
    for subject in &subjects {
        let understood = subject.understood();
        assert!(!understood.goldens.is_empty(), "{} has no golden examples", subject.name);
        for engine in engines() {
            match verdict(engine.as_ref(), &subject.name, &understood) {
                Ok(verdict) => println!("{:15} {:12} {verdict}", subject.name, engine.name()),
                Err(fault) => faults.push(format!("{} on {}: {fault}", subject.name, engine.name())),
            }
        }
        match loader(engines(), None).load(&subject.name, 1, &subject.found) {
            Ok(deployment) => println!("{:15} auto takes {}", subject.name, deployment.identity.engine),
            Err(error) if engines().len() > 1 => faults.push(format!("{}: auto: {error}", subject.name)),
            Err(error) => println!("{:15} auto: {error}", subject.name),
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}
