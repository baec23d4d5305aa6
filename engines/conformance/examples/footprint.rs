//! What does a model cost beside its file: resident memory per loaded copy, and instructions per run?
//!
//! ```sh
//! cargo run --release -p tiltyard-conformance --example footprint -- memory onnxruntime 200 models/risk/2
//! cargo run --release -p tiltyard-conformance --example footprint -- sessions onnxruntime 4 path/to/resnet18/1
//! valgrind --tool=callgrind target/release/examples/footprint runs onnxruntime 2000 models/risk/2
//! ```

use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tiltyard_onnxruntime::OrtEngine;
use tiltyard_onnxruntime::locate::{Places, locate};
use tiltyard_runtime::engine::{CompileOptions, CompiledModel, Engine};
use tiltyard_runtime::golden::Golden;
use tiltyard_runtime::load::{Loader, understand};
use tiltyard_runtime::queue::QueuePolicy;
use tiltyard_runtime::repository::FoundVersion;
use tiltyard_types::{Moment, Tensor};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USAGE: &str = "usage: footprint (memory | sessions | runs) (onnxruntime | tract) COUNT VERSION_FOLDER";

/// An answer for people, or what went wrong.
type Outcome = Result<String, String>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [what, engine, count, folder] => measure(what, engine, count, Path::new(folder)),
        _ => Err(USAGE.to_owned()),
    };
    let (text, code) = match outcome {
        Ok(text) => (text, ExitCode::SUCCESS),
        Err(text) => (text, ExitCode::FAILURE),
    };
    #[expect(clippy::print_stdout, reason = "this is a command, and what it measured is its output")]
    {
        println!("{text}");
    }
    code
}

fn measure(what: &str, engine: &str, count: &str, folder: &Path) -> Outcome {
    let count: usize = count.parse().map_err(|_| format!("{count:?} is no number; {USAGE}"))?;
    let found = FoundVersion::at(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let engine = engine_named(engine)?;
    match what {
        "memory" => memory(&engine, count, &found),
        "sessions" => sessions(engine.as_ref(), count, &found),
        "runs" => runs(engine.as_ref(), count, &found),
        _ => Err(USAGE.to_owned()),
    }
}

fn engine_named(name: &str) -> Result<Arc<dyn Engine>, String> {
    match name {
        "tract" => Ok(Arc::new(tiltyard_tract::engine())),
        "onnxruntime" => {
            let search = locate(&Places::of_process(None, None));
            let found = search.found().ok_or_else(|| search.advice())?;
            Ok(Arc::new(OrtEngine::load(&found.path).map_err(|error| error.to_string())?))
        }
        _ => Err(USAGE.to_owned()),
    }
}

/// Resident memory of `count` deployments, made as the server makes them, golden examples and proofs included.
fn memory(engine: &Arc<dyn Engine>, count: usize, found: &FoundVersion) -> Outcome {
    let defaults = QueuePolicy { jobs_max: 1024, runs_max: 2, ..QueuePolicy::default() };
    let loader = Loader {
        engines: vec![Arc::clone(engine)],
        first_engine_wins: true,
        profiles: None,
        locks: tiltyard_runtime::lock::nobody(),
        made: None,
        defaults,
        clock: now,
        measuring: None,
    };
    let load = || loader.load("model", 1, found).map_err(|error| error.to_string());
    // The first pays for what the process needs once.
    let first = load()?;
    let before = resident_kib()?;
    let deployments = (0..count).map(|_| load()).collect::<Result<Vec<_>, _>>()?;
    let after = settled_kib(|| Ok(()))?;
    let file_kib = first.identity.size / 1024;
    let each = after.saturating_sub(before) / count.max(1) as u64;
    drop(deployments);
    Ok(format!(
        "{count} copies of {file_kib} KiB: {each} KiB resident for each ({before} KiB before, {after} KiB after)"
    ))
}

/// Resident memory of one deployment after runs on `count` sessions at once.
fn sessions(engine: &dyn Engine, count: usize, found: &FoundVersion) -> Outcome {
    let before = resident_kib()?;
    let (compiled, inputs) = compiled(engine, found)?;
    let wanted: Vec<usize> = (0..compiled.signature().outputs.len()).collect();
    let run = || -> Result<(), String> {
        let mut session = compiled.open().map_err(|error| error.to_string())?;
        for _ in 0..3 {
            session.run(&inputs, &wanted).map_err(|error| error.to_string())?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..count).map(|_| scope.spawn(run)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| "a run panicked".to_owned())?)
    })?;
    let after = settled_kib(run)?;
    Ok(format!("{count} sessions at once: {} KiB more than before the load", after.saturating_sub(before)))
}

/// Runs the first golden example `count` times; for a profiler to watch.
fn runs(engine: &dyn Engine, count: usize, found: &FoundVersion) -> Outcome {
    let (compiled, inputs) = compiled(engine, found)?;
    let wanted: Vec<usize> = (0..compiled.signature().outputs.len()).collect();
    let mut session = compiled.open().map_err(|error| error.to_string())?;
    let started = Instant::now();
    for _ in 0..count {
        session.run(&inputs, &wanted).map_err(|error| error.to_string())?;
    }
    let nanos = started.elapsed().as_nanos() / count.max(1) as u128;
    Ok(format!("{count} runs: {nanos} ns each"))
}

/// A compiled model with something to run.
type Ready = (Box<dyn CompiledModel>, Vec<Option<Tensor>>);

/// The model on the engine, and the inputs of its first golden example.
fn compiled(engine: &dyn Engine, found: &FoundVersion) -> Result<Ready, String> {
    let understood = understand(found, &[]).map_err(|error| error.to_string())?;
    let compiled = engine.compile(&understood.file, &CompileOptions::default()).map_err(|error| error.to_string())?;
    let golden: Option<&Golden> = understood.goldens.first();
    let golden = golden.ok_or("the version has no golden example to run")?;
    let inputs = golden.arranged(compiled.signature()).map_err(|error| error.to_string())?;
    let inputs = inputs.iter().map(|input| input.as_ref().map(Tensor::aligned)).collect();
    Ok((compiled, inputs))
}

/// Resident memory once the allocator has given back what the load has left, which it does some milliseconds late and
/// only while it is used.
fn settled_kib(work: impl Fn() -> Result<(), String>) -> Result<u64, String> {
    let mut least = u64::MAX;
    for _ in 0..8 {
        std::thread::sleep(Duration::from_millis(50));
        work()?;
        std::hint::black_box(vec![0u8; 100_000]);
        least = least.min(resident_kib()?);
    }
    Ok(least)
}

fn resident_kib() -> Result<u64, String> {
    let status = std::fs::read_to_string("/proc/self/status").map_err(|error| error.to_string())?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS in /proc/self/status")?;
    line.trim().trim_end_matches(" kB").parse().map_err(|_| format!("{line:?} is no size"))
}

/// The time since this process first asked.
fn now() -> Moment {
    static START: OnceLock<Instant> = OnceLock::new();
    let nanoseconds = START.get_or_init(Instant::now).elapsed().as_nanos();
    Moment::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
}
