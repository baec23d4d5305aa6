//! What does each engine refuse, and does it answer everything else rightly?
//!
//! A refusal that disappears fails here as one that appears does: users are told of them, and `auto` leans on them.

use tiltyard_runtime::engine::{Engine, EngineError};

use crate::subjects::{compile, engines, subjects};

/// Engine, model, and what the refusal names: the operator or the data type that is missing. Branches of different
/// rank have no operator's name of their own: there it names the node.
pub(crate) const REFUSALS: &[(&str, &str, &str)] = &[
    ("tract", "columns_text", "ai.onnx.ml.LabelEncoder"),
    ("tract", "fused_ms", "com.microsoft.FusedGemm"),
    ("tract", "identity_bf16", "BF16"),
    ("tract", "if_branch", "\"y\" If"),
    ("tract", "loop", "operator Loop"),
    ("tract", "risk_trees", "ai.onnx.ml.TreeEnsembleRegressor"),
    ("tract", "string_upper", "StringNormalizer"),
];

/// Models that an engine takes and answers wrongly, which only golden examples find: engine, model, and the output.
/// tract names the second class of a boosted classifier with one score, whatever the score.
const WRONG: &[(&str, &str, &str)] = &[("tract", "trees_one_score", "label")];

/// Whether the engine is known not to be fit for the model.
pub(crate) fn is_refused(engine: &str, model: &str) -> bool {
    REFUSALS.iter().chain(WRONG).any(|(by, name, _)| *by == engine && *name == model)
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
    let mut checks = understood.goldens.iter();
    let checked = checks.try_for_each(|golden| golden.check(compiled.signature(), session.as_mut()));
    match (checked, WRONG.iter().find(|(by, model, _)| *by == engine.name() && *model == name)) {
        (Err(fault), Some((.., output))) if fault.contains(output) => Ok(()),
        (Ok(()), Some(_)) => Err("it is in the table of wrong answers and is right".into()),
        (checked, _) => checked,
    }
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
    for (_, model, _) in REFUSALS.iter().chain(WRONG) {
        assert!(names.iter().any(|name| name == model), "the table names {model:?}, which is not there");
    }
}
