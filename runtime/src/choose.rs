//! Which engine shall run a model that several can run?
//!
//! One that answers rightly: golden examples were checked before, and where there are none, engines must agree. Among
//! those the faster one, if it is faster by more than a tenth; else the one preferred. The choice is kept per
//! (artifact, machine, engine builds), so that restarts agree.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tiltyard_types::{Digest, Tensor};

use crate::compare::{Tolerance, compare};
use crate::engine::{CompiledModel, Engine};
use crate::pool::Clock;
use crate::profile::{cpu_name, replace};
use crate::prove::contained;

/// How long one engine is timed at most.
const TIMING_MAX: Duration = Duration::from_millis(200);

/// Runs that are timed at most, and at least.
const RUNS: std::ops::RangeInclusive<usize> = 3..=50;

/// An engine's own way to run the model.
pub struct Candidate {
    /// The engine.
    pub engine: Arc<dyn Engine>,
    /// The model compiled on it.
    pub compiled: Box<dyn CompiledModel>,
}

/// A choice as it is kept on disk.
#[derive(Serialize, Deserialize)]
struct Choice {
    engine: String,
}

/// What candidates are measured with.
pub(crate) struct Contest<'a> {
    /// The process's clock.
    pub(crate) clock: Clock,
    /// Where choices are kept; `None` keeps none.
    pub(crate) profiles: Option<&'a Path>,
    /// Which files the model is made of.
    pub(crate) artifact: Digest,
    /// A request to time, in the signature's order.
    pub(crate) inputs: Vec<Option<Tensor>>,
}

impl Contest<'_> {
    /// Takes the best of `candidates`, which are in order of preference; `None` where there are none.
    pub(crate) fn winner(&self, mut candidates: Vec<Candidate>) -> Option<Candidate> {
        if candidates.len() <= 1 {
            return candidates.pop();
        }
        let file = self.profiles.map(|folder| choice_file(folder, self.artifact, &candidates));
        let kept = file.as_ref().and_then(read_choice);
        let position = kept.and_then(|name| candidates.iter().position(|candidate| candidate.engine.name() == name));
        let position = position.unwrap_or_else(|| {
            let position = self.measure(&mut candidates);
            if let (Some(file), Some(chosen)) = (&file, candidates.get(position)) {
                keep_choice(file, chosen.engine.name());
            }
            position
        });
        Some(candidates.swap_remove(position))
    }

    /// Leaves out engines that disagree with the preferred one, times the rest, and gives the winner's position.
    fn measure(&self, candidates: &mut Vec<Candidate>) -> usize {
        let answers: Vec<Option<Vec<Tensor>>> =
            candidates.iter().map(|candidate| answer(candidate, &self.inputs)).collect();
        // The first that answers at all is the measure for the others.
        let preferred = answers.iter().flatten().next().cloned();
        let mut agrees = answers.iter().map(|answer| agree(answer, &preferred));
        candidates.retain(|candidate| {
            let keep = agrees.next().unwrap_or(false);
            if !keep {
                tracing::warn!(engine = candidate.engine.name(), "this engine answers differently and is not used");
            }
            keep
        });
        let times: Vec<Duration> = candidates.iter().map(|candidate| self.time(candidate)).collect();
        let mut best = 0;
        for (position, time) in times.iter().enumerate().skip(1) {
            if time.mul_f64(1.1) < times[best] {
                best = position;
            }
        }
        for (candidate, time) in candidates.iter().zip(&times) {
            tracing::debug!(engine = candidate.engine.name(), time = format!("{time:.1?}"), "timed");
        }
        best
    }

    /// The median time of a run; without end where it fails.
    fn time(&self, candidate: &Candidate) -> Duration {
        const NEVER: Duration = Duration::from_secs(1 << 32);
        let Ok(mut session) = candidate.compiled.open() else { return NEVER };
        let wanted: Vec<usize> = (0..candidate.compiled.signature().outputs.len()).collect();
        let started = (self.clock)();
        let mut times = Vec::new();
        while times.len() < *RUNS.end() && (times.len() < *RUNS.start() || (self.clock)() - started < TIMING_MAX) {
            let before = (self.clock)();
            if contained(session.as_mut(), &self.inputs, &wanted).is_err() {
                return NEVER;
            }
            times.push((self.clock)() - before);
        }
        times.sort_unstable();
        times[times.len() / 2]
    }
}

fn answer(candidate: &Candidate, inputs: &[Option<Tensor>]) -> Option<Vec<Tensor>> {
    let wanted: Vec<usize> = (0..candidate.compiled.signature().outputs.len()).collect();
    contained(candidate.compiled.open().ok()?.as_mut(), inputs, &wanted).ok()
}

/// Whether both answered the same, or the preferred engine cannot tell either.
fn agree(answer: &Option<Vec<Tensor>>, preferred: &Option<Vec<Tensor>>) -> bool {
    match (answer, preferred) {
        (Some(answer), Some(preferred)) => {
            answer.len() == preferred.len()
                && answer.iter().zip(preferred).all(|(a, b)| compare(a, b, Tolerance::default()).is_ok())
        }
        (None, None) => true,
        _ => false,
    }
}

/// One file per artifact, machine and set of engine builds: when one of them changes, it is measured anew.
fn choice_file(folder: &Path, artifact: Digest, candidates: &[Candidate]) -> PathBuf {
    let mut text = format!("{artifact}\n{}\n{}\n", cpu_name(), std::env::consts::ARCH);
    for candidate in candidates {
        text += &format!("{} {}\n", candidate.engine.name(), candidate.engine.build().version);
    }
    folder.join(format!("{}.json", Digest::new(Sha256::digest(text).into())))
}

fn read_choice(file: &PathBuf) -> Option<String> {
    let choice: Choice = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
    Some(choice.engine)
}

/// A folder that cannot be written costs the next start a measurement, nothing else.
fn keep_choice(file: &Path, engine: &str) {
    let text = serde_json::to_vec(&Choice { engine: engine.to_owned() }).map_err(std::io::Error::from);
    if let Err(error) = text.and_then(|text| replace(file, &text)) {
        tracing::debug!(%error, file = %file.display(), "the choice of engine is not kept");
    }
}
