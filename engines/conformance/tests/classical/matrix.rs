//! Does the engine answer to the matrix of classical models as ONNX Runtime does, or name what it lacks?
//!
//! Labels, words and whole numbers must be equal, and scores within a millionth of themselves; near zero, where terms cancel
//! each other, within a millionth of the largest score that the model gives to rows as it was trained on, or five where it sums a
//! row's products. The examples say so themselves. Without the variable `TILTYARD_CLASSICAL_MODELS` nothing is tried, and a line says so.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use tiltyard_runtime::deployment::BatchAxis;
use tiltyard_runtime::engine::{CompileOptions, Engine, EngineError};
use tiltyard_runtime::load::understand;
use tiltyard_runtime::prove::prove;
use tiltyard_runtime::repository::{FoundVersion, scan};

/// How the names of the models begin that are refused, and what of them the refusal names: the operator, or what is served
/// in no way. A refusal that disappears fails as one that appears does: the table may only shrink.
const REFUSALS: &[(&str, &str)] = &[
    ("cls.neighbours.", "Scan"),
    ("cls.radius.", "Scan"),
    ("onnx.label_encoder_tensor_", "ONNX type 5"),
    ("op.linear_classifier.2_1.probit.", "one score"),
    ("op.svm_classifier.rbf.2.probit", "PROBIT"),
    ("op.tree_classifier.binary_base_1.probit", "PROBIT"),
    ("op.tree_classifier.binary_base_2.probit", "PROBIT"),
    ("op.tree_classifier.binary_one.probit.", "PROBIT"),
    ("op.tree_classifier.binary_one_positive.probit.", "PROBIT"),
    ("out.local_factor.", "Scan"),
    ("reg.gaussian_process.", "Scan"),
    ("reg.neighbours.", "Scan"),
    ("reg.radius.", "Scan"),
    ("tr.imputer_near.", "Compress"),
];

/// Models of which rows may not share a run, by how their names begin: exports whose output is no row for each row, or
/// whose answers are not-a-number for all that is asked.
const ALONE: &[&str] = &[
    "cls.qda.",
    "op.tree_classifier.three_positive.probit.",
    "op.tree_ensemble.0.4.1.float",
    "op.tree_ensemble.1.4.1.float",
    "op.tree_ensemble.2.4.1.float",
    "op.tree_regressor.max.probit.1",
    "op.tree_regressor.min.probit.1",
    "op.tree_regressor.sum.probit.1",
    "reg.bagging.linnerud",
    "reg.perceptrons.linnerud",
];

/// What is below must be tried at least, so that an empty folder proves nothing.
const MODELS_MIN: usize = 1500;

/// How the engine did with a model.
enum Verdict {
    /// This many examples were answered rightly.
    Right(usize),
    /// It says what it lacks.
    Refused,
}

fn verdict(name: &str, found: &FoundVersion) -> Result<Verdict, String> {
    let understood = understand(found, &[]).map_err(|error| format!("not understood: {error:?}"))?;
    let refusal = REFUSALS.iter().find(|(start, _)| name.starts_with(start)).map(|(_, named)| *named);
    // What has no operator of the classical kind is another engine's, and is told so.
    let refusal = refusal.or((!understood.file.graph.uses_domain("ai.onnx.ml")).then_some("no operator of ai.onnx.ml"));
    let compiled = tiltyard_classical::engine().compile(&understood.file, &CompileOptions::default());
    let compiled = match (compiled, refusal) {
        (Err(EngineError::Unsupported(message)), Some(named)) if message.contains(named) => {
            return Ok(Verdict::Refused);
        }
        (Err(error), _) => return Err(format!("refused: {error:?}")),
        (Ok(_), Some(_)) => return Err("it is in the table of refusals and was not refused".into()),
        (Ok(compiled), None) => compiled,
    };
    let mut session = compiled.open().map_err(|error| error.to_string())?;
    if understood.goldens.is_empty() {
        return Err("it has no golden examples to be judged by".into());
    }
    for golden in &understood.goldens {
        golden.check(compiled.signature(), session.as_mut())?;
    }
    if let Some(rows) = understood.goldens.iter().find(|golden| golden.file.ends_with("/rows.json")) {
        let rows = rows.arranged(compiled.signature()).map_err(|error| error.to_string())?;
        let axis = prove(compiled.signature(), Some(&rows), session.as_mut());
        if (axis == BatchAxis::Proved) == ALONE.iter().any(|start| name.starts_with(start)) {
            return Err(format!("its batch axis: {axis:?}"));
        }
    }
    Ok(Verdict::Right(understood.goldens.len()))
}

/// The verdicts on all models, on as many threads as there are cores.
fn verdicts(models: &[(String, FoundVersion)]) -> BTreeMap<&str, Result<Verdict, String>> {
    let (next, verdicts) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some((name, found)) = models.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let verdict = verdict(name, found);
                    verdicts.lock().unwrap().insert(name.as_str(), verdict);
                }
            });
        }
    });
    verdicts.into_inner().unwrap()
}

#[test]
#[allow(clippy::print_stdout, reason = "the counts are what a person runs this for")]
fn classical_models_are_answered_as_onnx_runtime_answers_them() {
    let Some(root) = std::env::var_os("TILTYARD_CLASSICAL_MODELS").filter(|root| !root.is_empty()).map(PathBuf::from)
    else {
        println!(
            "skipped: TILTYARD_CLASSICAL_MODELS names no repository; engines/conformance/classical/make.py makes one"
        );
        return;
    };
    let scan = scan(&root).unwrap_or_else(|error| panic!("{}: {error}", root.display()));
    let models = scan.models.into_iter();
    let models: Vec<_> = models.filter_map(|(name, mut model)| Some((name, model.versions.remove(&1)?))).collect();
    let verdicts = verdicts(&models);

    let (mut right, mut examples, mut refused, mut faults) = (0, 0, 0, Vec::new());
    for (name, verdict) in &verdicts {
        match verdict {
            Ok(Verdict::Right(count)) => (right, examples) = (right + 1, examples + count),
            Ok(Verdict::Refused) => refused += 1,
            Err(fault) => faults.push(format!("{name}: {fault}")),
        }
    }
    println!("{right} models answered rightly, {examples} examples; {refused} refused by name");
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
    assert!(models.len() >= MODELS_MIN, "{} models in {}: {MODELS_MIN} are expected", models.len(), root.display());
    for start in REFUSALS.iter().map(|(start, _)| start).chain(ALONE) {
        assert!(verdicts.keys().any(|name| name.starts_with(start)), "the tables name {start:?}, which is not there");
    }
}
