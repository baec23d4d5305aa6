//! Which engines and which models are under test, and how is one run on the other?

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use tiltyard_onnxruntime::OrtEngine;
use tiltyard_onnxruntime::locate::{Places, locate};
use tiltyard_runtime::engine::{CompileOptions, CompiledModel, Engine, EngineError};
use tiltyard_runtime::load::{Loader, Understood, understand};
use tiltyard_runtime::queue::QueuePolicy;
use tiltyard_runtime::repository::{FoundVersion, scan};
use tiltyard_tract::TractEngine;
use tiltyard_types::{DataType, Moment, Tensor};

/// A model's version that lies in a repository.
pub(crate) struct Subject {
    /// The name, with `@` and the number where it is not version 1.
    pub(crate) name: String,
    pub(crate) found: FoundVersion,
}

impl Subject {
    /// Reads it. Panics where it cannot be read: those have tests of their own.
    pub(crate) fn understood(&self) -> Understood {
        understand(&self.found, &[]).unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }
}

/// All engines. ONNX Runtime may only be missing where the operator says that it is meant to be.
pub(crate) fn engines() -> Vec<Arc<dyn Engine>> {
    let mut engines: Vec<Arc<dyn Engine>> = vec![tract()];
    let search = locate(&Places::of_process(None, None));
    match search.found() {
        Some(found) => engines.push(Arc::new(OrtEngine::load(&found.path).expect("the library that was found loads"))),
        None if std::env::var_os("TILTYARD_TEST_WITHOUT_ORT").is_some_and(|value| value == "1") => {}
        None => panic!(
            "{}. This suite needs it (`pip install onnxruntime` in a virtual environment will do too); \
             TILTYARD_TEST_WITHOUT_ORT=1 leaves its half out",
            search.advice()
        ),
    }
    engines
}

/// tract, one for the whole suite.
fn tract() -> Arc<TractEngine> {
    static TRACT: OnceLock<Arc<TractEngine>> = OnceLock::new();
    Arc::clone(TRACT.get_or_init(|| Arc::new(tiltyard_tract::engine())))
}

/// Runs each example until no engine has a reason to change how it runs them: tract makes further plans in the
/// background for shapes that keep coming, which answer the same but for the last bits.
pub(crate) fn settle(compiled: &dyn CompiledModel, examples: &[Vec<Option<Tensor>>]) {
    let mut session = compiled.open().unwrap();
    let wanted = all_outputs(compiled);
    for inputs in examples {
        for _ in 0..3 {
            session.run(inputs, &wanted).unwrap();
        }
    }
    tract().wait_for_plans();
}

/// A place in this repository.
pub(crate) fn place(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(relative)
}

/// Every version below `root`.
pub(crate) fn subjects_in(root: &Path) -> Vec<Subject> {
    let scan = scan(root).unwrap_or_else(|error| panic!("{}: {error}", root.display()));
    let versions = scan.models.into_iter().flat_map(|(name, model)| {
        model.versions.into_iter().map(move |(number, found)| {
            let name = if number == 1 { name.clone() } else { format!("{name}@{number}") };
            Subject { name, found }
        })
    });
    versions.collect()
}

/// The sample models, the fixtures, and the classical models of this suite.
pub(crate) fn subjects() -> Vec<Subject> {
    let roots = ["models", "tests/fixtures/models", "engines/conformance/models"];
    let subjects: Vec<Subject> = roots.iter().flat_map(|root| subjects_in(&place(root))).collect();
    assert!(subjects.len() > 30, "only {} models were found", subjects.len());
    subjects
}

/// The version of that name.
pub(crate) fn subject(name: &str) -> Subject {
    let found = subjects().into_iter().find(|subject| subject.name == name);
    found.unwrap_or_else(|| panic!("no model {name:?}"))
}

/// The model on an engine, with one thread per run.
pub(crate) fn compile(engine: &dyn Engine, understood: &Understood) -> Result<Box<dyn CompiledModel>, EngineError> {
    engine.compile(&understood.file, &CompileOptions::default())
}

/// The named model on an engine that is known to take it.
pub(crate) fn compiled(engine: &dyn Engine, name: &str) -> Box<dyn CompiledModel> {
    compile(engine, &subject(name).understood()).unwrap_or_else(|error| panic!("{name} on {}: {error}", engine.name()))
}

/// Positions of all outputs.
pub(crate) fn all_outputs(compiled: &dyn CompiledModel) -> Vec<usize> {
    (0..compiled.signature().outputs.len()).collect()
}

/// A loader with these engines, as the server has it.
pub(crate) fn loader(engines: Vec<Arc<dyn Engine>>, profiles: Option<PathBuf>) -> Loader {
    let first_engine_wins = engines.len() == 1;
    let defaults = QueuePolicy { rows_max: 32, jobs_max: 1024, ..QueuePolicy::default() };
    let locks = tiltyard_runtime::lock::nobody();
    Loader { engines, first_engine_wins, profiles, defaults, locks, made: None, clock: now, measuring: None }
}

/// The time since this process first asked.
pub(crate) fn now() -> Moment {
    static START: OnceLock<Instant> = OnceLock::new();
    let nanoseconds = START.get_or_init(Instant::now).elapsed().as_nanos();
    Moment::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
}

/// The largest distance between two float tensors of one shape; 0 where they are of other types and equal.
pub(crate) fn distance(a: &Tensor, b: &Tensor) -> f64 {
    if a.shape() != b.shape() || a.dtype() != b.dtype() {
        return f64::INFINITY;
    }
    if a.dtype() != DataType::Fp32 {
        return if a == b { 0.0 } else { f64::INFINITY };
    }
    let (a, b) = (a.to_vec::<f32>().unwrap_or_default(), b.to_vec::<f32>().unwrap_or_default());
    let distances = a.iter().zip(&b).map(|(a, b)| match a == b || (a.is_nan() && b.is_nan()) {
        true => 0.0,
        false => f64::from((a - b).abs()),
    });
    distances.fold(0.0, |most, next| if next > most || next.is_nan() { next } else { most })
}

/// A repeatable source of numbers: SplitMix64, by Steele, Lea and Flood.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// A number below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % end.max(1) as u64) as usize
    }
}
