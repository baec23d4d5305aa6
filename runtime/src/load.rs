//! How does a version's folder become a deployment?
//!
//! Read → digest → settings → compile on the engines that may → golden examples → choose → prove the batch axis. No
//! step touches what serves already; the first that fails says why.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tiltyard_types::{Digest, Dim, Signature, Tensor, TensorSpec};

use crate::artifact::{Artifact, Files, Reading};
use crate::batch::{Extent, Layout, Pad};
use crate::choose::{Candidate, Contest};
use crate::deployment::{BatchAxis, Deployment, Identity, Padding, Parts};
use crate::engine::{CompileOptions, CompiledModel, Engine, EngineError, Format, ModelFile};
use crate::explain::{Explaining, Source};
use crate::golden::Golden;
use crate::lock::Locks;
use crate::made::{Ask, Made, Read, SIGNATURE_BYTES_MAX, SIGNATURE_FILE};
use crate::measure::idle::{Measurer, Task, settle};
use crate::measure::{self, Curve};
use crate::memory;
use crate::onnx::Graph;
use crate::pool::Clock;
use crate::priority::giving_way;
use crate::profile::{Machine, Place, Subject};
use crate::prove;
use crate::providers::{Placement, fixed_sizes};
use crate::queue::QueuePolicy;
use crate::repository::settings::{Column, Settings};
use crate::repository::{FoundVersion, MODEL_FILE};

/// What loading needs from its surroundings.
pub struct Loader {
    /// The engines that may be used, in order of preference.
    pub engines: Vec<Arc<dyn Engine>>,
    /// Whether the first engine that works is taken. False compares their speed.
    pub first_engine_wins: bool,
    /// Where measured choices are kept, so that restarts agree; `None` keeps none.
    pub profiles: Option<PathBuf>,
    /// Bounds for models whose settings name none.
    pub defaults: QueuePolicy,
    /// What versions must be run with, where that is laid down.
    pub locks: Arc<Locks>,
    /// Who is asked who made a version; nobody where that is all the same.
    pub made: Option<Arc<Ask>>,
    /// The process's clock.
    pub clock: Clock,
    /// How the cost of runs is measured and what may follow from it; `None` leaves it at a first look.
    pub measuring: Option<Measuring>,
}

/// How the cost of runs is measured after a load.
pub struct Measuring {
    /// Who measures in idle time what a load does not.
    pub measurer: Arc<Measurer>,
    /// Whether batches may be smaller than allowed where that is as good; a model's own bound always stands.
    pub learns_rows: bool,
    /// Processors that the process may use: part of what a profile is about.
    pub cores: usize,
}

/// What a version goes through while it is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Its files are read and compiled.
    Loading,
    /// It answers golden examples and proves what may share a run.
    Verifying,
    /// It runs what later runs would else have to wait for.
    Warming,
}

/// Told of each stage as it begins.
pub type Progress<'a> = dyn Fn(Stage) + Sync + 'a;

/// Why a version did not become ready.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct LoadError {
    /// What is wrong, with its cure where there is one.
    pub reason: String,
    /// Whether the files changed while they were read: somebody is still copying, so a later look may find it whole.
    pub incomplete: bool,
}

impl LoadError {
    fn new(reason: impl Into<String>) -> LoadError {
        LoadError { reason: reason.into(), incomplete: false }
    }
}

/// A version as far as it is understood without an engine.
pub struct Understood {
    /// The file with the graph.
    pub file: ModelFile,
    /// What all files come to.
    pub artifact: Artifact,
    /// What the owner says.
    pub settings: Settings,
    /// The examples it must answer.
    pub goldens: Vec<Golden>,
    /// Where it lay, for explanations of its answers.
    pub source: Source,
    /// What stands in the file that signs the others.
    pub signature: Option<Bytes>,
}

impl Loader {
    /// Makes a version ready. Takes as long as it takes; never called on a thread that serves requests.
    pub fn load(&self, model: &str, version: u64, found: &FoundVersion) -> Result<Arc<Deployment>, LoadError> {
        self.load_understood(model, version, found, understand(found, &self.engines)?, &|_| {})
    }

    /// The same for a server, unless the files are, byte for byte, those of the artifact `served`: then `None`. It gives way
    /// to traffic where there is any: while nobody is served, a load that gave way to everything else on the machine would
    /// only take longer.
    pub fn load_beside(
        &self,
        model: &str,
        version: u64,
        found: &FoundVersion,
        served: Option<Digest>,
        traffic: bool,
        progress: &Progress<'_>,
    ) -> Result<Option<Arc<Deployment>>, LoadError> {
        let read = || understand(found, &self.engines);
        let understood = if traffic { giving_way(read) } else { read() }?;
        if served == Some(understood.artifact.digest) {
            return Ok(None);
        }
        // Sessions with threads of their own, and libraries of devices, start them here, and they are to serve.
        let starts_threads = understood.settings.threads.is_some_and(|threads| threads > 1)
            || understood.settings.providers.iter().any(|provider| provider != "cpu");
        let load = || self.load_understood(model, version, found, understood, progress);
        if traffic && !starts_threads { giving_way(load) } else { load() }.map(Some)
    }

    fn load_understood(
        &self,
        model: &str,
        version: u64,
        found: &FoundVersion,
        understood: Understood,
        progress: &Progress<'_>,
    ) -> Result<Arc<Deployment>, LoadError> {
        let artifact = understood.artifact.clone();
        let result = self.make(model, version, understood, progress);
        // Whatever came of them: files that are not what they were are somebody still copying.
        unchanged(found, Some(&artifact))?;
        result
    }

    fn make(
        &self,
        model: &str,
        version: u64,
        mut understood: Understood,
        progress: &Progress<'_>,
    ) -> Result<Arc<Deployment>, LoadError> {
        let started = (self.clock)();
        let made = self.allow(model, version, &mut understood)?;
        if let Some(name) = understood.settings.name.as_ref().filter(|name| *name != model) {
            return Err(LoadError::new(format!(
                "config.pbtxt: its name is {name:?}, but the folder is {model:?}: they must agree"
            )));
        }
        let mut candidates = self.candidates(&understood, progress)?;
        keep_preferred(&mut candidates, &understood.settings.providers);
        let contest = Contest {
            clock: self.clock,
            profiles: self.profiles.as_deref(),
            artifact: understood.artifact.digest,
            inputs: candidates
                .first()
                .map_or_else(Vec::new, |first| timing_inputs(&understood, first.compiled.signature())),
        };
        let Some(Candidate { engine, compiled }) = contest.winner(candidates) else {
            return Err(LoadError::new("no engine is at hand"));
        };
        let example = understood.goldens.first().cloned();
        let batch_axis = self.batch_axis(&understood, compiled.as_ref(), example.as_ref())?;
        let padding = padding(&understood, compiled.as_ref(), &batch_axis)?;
        progress(Stage::Warming);
        warm_up(&understood, compiled.as_ref())?;
        let policy = self.policy(&understood.settings, &batch_axis, &padding, compiled.as_ref());
        if compiled.likes_fixed_sizes() {
            warm_sizes(&understood, compiled.as_ref(), &policy.sizes)?;
        }
        report_placement(model, compiled.as_ref());
        let build = engine.build();
        let digest = deployment_digest(&understood, engine.name(), &build.version, compiled.provider(), &policy);
        let identity = Identity {
            model: model.to_owned(),
            version,
            artifact: understood.artifact.digest,
            digest,
            engine: engine.name(),
            build,
            provider: compiled.provider().to_owned(),
            placement: compiled.placement().to_vec(),
            size: understood.artifact.size,
            loaded: SystemTime::now(),
            load_time: (self.clock)() - started,
            goldens: understood.goldens.len(),
        };
        let threads = understood.settings.threads.unwrap_or(1);
        let learns_rows = self.measuring.as_ref().is_some_and(|measuring| measuring.learns_rows)
            && understood.settings.batching.leaves_sizes_open();
        let settings = completed(understood.settings, &understood.file, compiled.as_ref());
        let mut deployment = Deployment::new(Parts {
            identity,
            graph: understood.file.graph,
            settings,
            batch_axis,
            padding,
            policy,
            example,
            learns_rows,
            compiled,
        });
        deployment.made = made;
        deployment.explaining = Some(Explaining::new(engine, understood.source));
        let deployment = Arc::new(deployment);
        self.learn_cost(&deployment, threads);
        Ok(deployment)
    }

    /// Asks who made the version, where that is asked, and holds it to what it must be run with.
    fn allow(&self, model: &str, version: u64, understood: &mut Understood) -> Result<Option<Made>, LoadError> {
        let read = Read { files: &understood.artifact.files, signature: understood.signature.as_deref() };
        let made = self.made.as_ref().map(|ask| ask(read)).transpose().map_err(LoadError::new)?;
        if let Some(lock) = (self.locks)(model, version, &understood.artifact.digest) {
            lock.hold(&mut understood.settings, &self.engines).map_err(LoadError::new)?;
        }
        Ok(made)
    }

    /// Recalls what runs of the deployment cost, or has a first look and leaves the rest to idle time.
    fn learn_cost(&self, deployment: &Arc<Deployment>, threads: usize) {
        let Some(measuring) = &self.measuring else {
            measure::first_look(deployment, self.clock);
            return;
        };
        let identity = &deployment.identity;
        let subject = || Subject {
            artifact: identity.artifact.to_string(),
            engine: identity.engine.to_owned(),
            build: identity.build.version.clone(),
            provider: identity.provider.clone(),
            threads,
            rows_max: measure::rows_limit(deployment),
            machine: Machine::here(measuring.cores),
        };
        let place = self.profiles.as_deref().map(|folder| Place::new(folder, subject()));
        let curve = match place.as_ref().and_then(Place::read) {
            Some(profile) => {
                deployment.cost.recall(&profile.points);
                deployment.learn_rows(profile.best_rows);
                Curve::nothing()
            }
            None => measure::first_look(deployment, self.clock),
        };
        if curve.next().is_none() {
            settle(deployment, &curve, place.as_ref());
        }
        measuring.measurer.add(Task { deployment: Arc::downgrade(deployment), curve, place });
    }

    /// Compiles on every engine that may run the model. Fails with every engine's reason where none can.
    fn candidates(&self, understood: &Understood, progress: &Progress<'_>) -> Result<Vec<Candidate>, LoadError> {
        let wanted = &understood.settings.engines;
        if let Some(unknown) = wanted.iter().find(|name| self.engines.iter().all(|engine| engine.name() != *name)) {
            let known = self.engines.iter().map(|engine| engine.name()).collect::<Vec<_>>().join(", ");
            return Err(LoadError::new(format!(
                "engine {unknown:?} is asked for and not at hand; there is {known}{}",
                if unknown == "onnxruntime" { ". Install it with: tiltyard engine install onnxruntime" } else { "" }
            )));
        }
        let mut allowed: Vec<&Arc<dyn Engine>> = self
            .engines
            .iter()
            .filter(|engine| wanted.is_empty() || wanted.iter().any(|name| name == engine.name()))
            .collect();
        allowed.sort_by_key(|engine| wanted.iter().position(|name| name == engine.name()));
        let first_wins = self.first_engine_wins || !wanted.is_empty();
        let (mut candidates, mut reasons) = (Vec::new(), Vec::new());
        if let Some(format) = understood.file.graph.format {
            allowed.retain(|engine| engine.formats().iter().any(|known| known.name == format));
            if allowed.is_empty() {
                return Err(LoadError::new(format!("none of the engines that it may use reads {format} files")));
            }
        }
        for engine in allowed {
            match self.candidate(engine, understood, progress) {
                Ok(candidate) => {
                    candidates.push(candidate);
                    if first_wins || (engine.is_settled() && candidates.len() == 1) {
                        break;
                    }
                }
                Err(reason) => reasons.push(format!("{}: {reason}", engine.name())),
            }
        }
        if candidates.is_empty() {
            return Err(LoadError::new(if reasons.is_empty() {
                "no engine is at hand".into()
            } else {
                reasons.join("; ")
            }));
        }
        Ok(candidates)
    }

    fn candidate(
        &self,
        engine: &Arc<dyn Engine>,
        understood: &Understood,
        progress: &Progress<'_>,
    ) -> Result<Candidate, String> {
        if understood.goldens.is_empty()
            && let Some(doubt) = engine.doubt(&understood.file.graph)
        {
            return Err(doubt);
        }
        let options = CompileOptions {
            providers: understood.settings.providers.clone(),
            provider_options: understood.settings.provider_options.clone(),
            intra_threads: understood.settings.threads.unwrap_or(1),
            instances: understood.settings.instances.unwrap_or(1),
            // Beside the profiles, which are of this machine too.
            cache: self
                .profiles
                .as_ref()
                .map(|folder| folder.join("built").join(understood.artifact.digest.to_string())),
            memory_check: understood.settings.memory_check.unwrap_or(true),
        };
        progress(Stage::Loading);
        let compiled = engine.compile(&understood.file, &options).map_err(|error| error.to_string())?;
        progress(Stage::Verifying);
        understood.settings.check(compiled.signature())?;
        let mut session = compiled.open().map_err(|error| error.to_string())?;
        for golden in &understood.goldens {
            golden.check(compiled.signature(), session.as_mut())?;
        }
        drop(session);
        Ok(Candidate { engine: Arc::clone(engine), compiled })
    }

    fn batch_axis(
        &self,
        understood: &Understood,
        compiled: &dyn CompiledModel,
        example: Option<&Golden>,
    ) -> Result<BatchAxis, LoadError> {
        let signature = compiled.signature();
        let settings = &understood.settings;
        let open = |error: EngineError| LoadError::new(error.to_string());
        if settings.batching.enabled == Some(false) && settings.declared_rows_max() == Some(0) {
            return Ok(BatchAxis::None);
        }
        if settings.batching.enabled == Some(false) {
            return Ok(match prove::has_batch_axis(signature) {
                true => BatchAxis::Unproved("switched off in its settings".into()),
                false => BatchAxis::None,
            });
        }
        let arranged: Option<Vec<Option<Tensor>>> = example.and_then(|golden| golden.arranged(signature).ok());
        let mut session = compiled.open().map_err(open)?;
        let axis = prove::prove(signature, arranged.as_deref(), session.as_mut());
        match (&axis, settings.declared_rows_max()) {
            (BatchAxis::None, Some(rows)) if rows > 0 => Err(LoadError::new(format!(
                "config.pbtxt: max_batch_size is {rows}, but the graph has no dynamic first axis on every input and output: {signature}"
            ))),
            _ => Ok(axis),
        }
    }

    /// What the settings say, as far as the proofs allow.
    fn policy(
        &self,
        settings: &Settings,
        batch_axis: &BatchAxis,
        padding: &Padding,
        compiled: &dyn CompiledModel,
    ) -> QueuePolicy {
        let policy = settings.batching.policy(&self.defaults);
        // On devices there are as many sessions as were made, whatever the server would like.
        let runs_max = compiled.sessions_max().or(settings.instances).unwrap_or(self.defaults.runs_max).max(1);
        if *batch_axis != BatchAxis::Proved {
            // Company that cannot share a run is not worth a wait.
            let (rows_max, delay_max) = (1, std::time::Duration::ZERO);
            let (sizes, sizes_preferred, pad) = (Vec::new(), Vec::new(), None);
            return QueuePolicy { rows_max, delay_max, sizes, sizes_preferred, pad, runs_max, ..policy };
        }
        let pad = policy.pad.clone().filter(|_| matches!(padding, Padding::Proved(_)));
        let sizes = match policy.sizes.is_empty() && compiled.likes_fixed_sizes() {
            true => fixed_sizes(policy.rows_max),
            false => policy.sizes.clone(),
        };
        QueuePolicy { sizes, pad, runs_max, ..policy }
    }
}

/// The owner's settings, with what the file and the engine tell where the owner says nothing.
fn completed(mut settings: Settings, file: &ModelFile, compiled: &dyn CompiledModel) -> Settings {
    if settings.columns.is_empty() {
        settings.columns = file.graph.columns.iter().map(|name| Column::named(name)).collect();
    }
    if settings.model_file.is_none() && file.graph.format.is_some() {
        settings.model_file = file.path.file_name().map(|name| name.to_string_lossy().into_owned());
    }
    for classes in compiled.classes() {
        settings.labels.entry(classes.output.clone()).or_insert_with(|| classes.labels.clone());
    }
    settings
}

/// Finds out whether requests of different lengths may share a run, where the settings declare an axis for it.
fn padding(
    understood: &Understood,
    compiled: &dyn CompiledModel,
    batch_axis: &BatchAxis,
) -> Result<Padding, LoadError> {
    let Some(declared) = &understood.settings.batching.pad else { return Ok(Padding::Undeclared) };
    let signature = compiled.signature();
    let layout = Layout::of(signature).filter(|_| *batch_axis == BatchAxis::Proved);
    let Some(layout) = layout else {
        return Ok(Padding::Unproved("its rows share no run, so there is nothing to pad for".into()));
    };
    let pad = Pad::new(signature, declared).map_err(LoadError::new)?;
    let examples: Vec<Vec<Option<Tensor>>> =
        understood.goldens.iter().filter_map(|golden| golden.arranged(signature).ok()).collect();
    let mut session = compiled.open().map_err(|error| LoadError::new(error.to_string()))?;
    let layout = layout.padded(Some(pad.clone()));
    Ok(match prove::prove_padding(&layout, signature, &examples, session.as_mut()) {
        Ok(()) => Padding::Proved(pad),
        Err(reason) => Padding::Unproved(reason),
    })
}

/// Leaves only those on the most preferred of the providers that were had: who asks for a device is not given a
/// processor because that is faster on a small example.
fn keep_preferred(candidates: &mut Vec<Candidate>, providers: &[String]) {
    let rank = |candidate: &Candidate| {
        let position = providers.iter().position(|name| name == candidate.compiled.provider());
        position.unwrap_or(providers.len())
    };
    let best = candidates.iter().map(rank).min();
    candidates.retain(|candidate| Some(rank(candidate)) == best);
}

/// Refuses a model whose weights alone are more than the memory that this process may still take: better than being
/// killed in the middle of it. Devices have limits of their own, which engines look at.
fn check_memory(settings: &Settings, weight_bytes: u64) -> Result<(), LoadError> {
    if settings.memory_check == Some(false) {
        return Ok(());
    }
    let Some(free) = memory::free() else { return Ok(()) };
    memory::check(weight_bytes, 1, free, "this process's memory").map_err(LoadError::new)
}

/// Tells in one line which nodes of the graph a device left to another.
fn report_placement(model: &str, compiled: &dyn CompiledModel) {
    let placement = compiled.placement();
    let text = placement.iter().map(Placement::to_string).collect::<Vec<_>>().join("; ");
    match placement {
        [] => {}
        [only] if only.provider == compiled.provider() => tracing::debug!(model, "placement: {text}"),
        _ => tracing::warn!(model, provider = compiled.provider(), "not all nodes run on this provider: {text}"),
    }
}

/// Runs each size once on every session, so that no request pays for the search that a new size costs there, and has the
/// engine settle on them.
fn warm_sizes(understood: &Understood, compiled: &dyn CompiledModel, sizes: &[usize]) -> Result<(), LoadError> {
    let signature = compiled.signature();
    let failed = |rows: usize, what: String| LoadError::new(format!("warming up with {rows} rows fails: {what}"));
    let wanted: Vec<usize> = (0..signature.outputs.len()).collect();
    let example = timing_inputs(understood, signature);
    let mut batches = Vec::new();
    if let Some(layout) = Layout::of(signature) {
        let row = first_row(&example, &layout);
        for &rows in sizes {
            let batch = layout.gather(&vec![row.as_slice(); rows], Extent::of_rows(rows));
            batches.push((rows, batch.map_err(|error| failed(rows, error.to_string()))?));
        }
    }
    let mut session = compiled.open().map_err(|error| failed(0, error.to_string()))?;
    for (rows, batch) in &batches {
        // Sessions take turns, so that each has its run.
        for _ in 0..compiled.sessions_max().unwrap_or(1) {
            session.run(batch, &wanted).map_err(|error| failed(*rows, error.to_string()))?;
        }
    }
    drop(session);
    let mut batches: Vec<Vec<Option<Tensor>>> = batches.into_iter().map(|(_, batch)| batch).collect();
    if signature.inputs.iter().all(has_one_shape) {
        batches = vec![example];
    }
    compiled.settle(&batches).map_err(|error| LoadError::new(error.to_string()))
}

/// Whether nothing about an input's shape is open.
fn has_one_shape(input: &TensorSpec) -> bool {
    let is_fixed = |dim: &Dim| matches!(dim, Dim::Fixed(_));
    input.dims.as_ref().is_some_and(|dims| dims.iter().all(is_fixed))
}

/// Runs what the settings ask for before the first request. Golden examples and probes have warmed most models already.
fn warm_up(understood: &Understood, compiled: &dyn CompiledModel) -> Result<(), LoadError> {
    let signature = compiled.signature();
    let wanted: Vec<usize> = (0..signature.outputs.len()).collect();
    let failed = |what: String| LoadError::new(format!("the warm-up that config.pbtxt asks for fails: {what}"));
    for &(rows, count) in &understood.settings.warmups {
        let example = timing_inputs(understood, signature);
        let batch = match Layout::of(signature) {
            Some(layout) => layout
                .gather(&vec![first_row(&example, &layout).as_slice(); rows as usize], Extent::of_rows(rows as usize))
                .map_err(|error| failed(error.to_string()))?,
            None => example,
        };
        let mut session = compiled.open().map_err(|error| failed(error.to_string()))?;
        for _ in 0..count {
            session.run(&batch, &wanted).map_err(|error| failed(error.to_string()))?;
        }
    }
    Ok(())
}

/// Inputs of one row: the first one of each input that has rows; the others, which all rows of a run share, as they are.
fn first_row(inputs: &[Option<Tensor>], layout: &Layout) -> Vec<Option<Tensor>> {
    let first = |position: usize, tensor: &Tensor| {
        let row = layout.has_rows(position).then(|| tensor.rows(0..1)).flatten();
        row.unwrap_or_else(|| tensor.clone())
    };
    inputs.iter().enumerate().map(|(position, input)| input.as_ref().map(|tensor| first(position, tensor))).collect()
}

/// Reads a version as far as nothing is compiled: file, graph, digest, settings, golden examples. The engines tell which
/// formats there are beside ONNX.
pub fn understand(found: &FoundVersion, engines: &[Arc<dyn Engine>]) -> Result<Understood, LoadError> {
    let result = understand_files(found, engines);
    // Files that changed under our hands are somebody still copying: whatever we read does not count.
    unchanged(found, result.as_ref().ok().map(|understood| &understood.artifact))?;
    result
}

/// Fails where a version's files are not what they were when they were listed, or read.
fn unchanged(found: &FoundVersion, artifact: Option<&Artifact>) -> Result<(), LoadError> {
    let unlisted = || artifact.and_then(Artifact::changed).map(|path| format!("{} was changed", path.display()));
    match found.change().or_else(unlisted) {
        Some(change) => {
            Err(LoadError { reason: format!("its files are still being written: {change}"), incomplete: true })
        }
        None => Ok(()),
    }
}

fn understand_files(found: &FoundVersion, engines: &[Arc<dyn Engine>]) -> Result<Understood, LoadError> {
    if let Some(refused) = &found.refused {
        return Err(LoadError::new(refused.clone()));
    }
    let mut reading = Reading::new(&found.files);
    let settings = Settings::read_with(&mut |name| reading.take(name)).map_err(LoadError::new)?;
    let formats: Vec<Format> = engines.iter().flat_map(|engine| engine.formats()).copied().collect();
    let (name, path) = model_file(found, settings.model_file.as_deref(), &formats)?;
    let file_name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let unreadable = |error: &dyn std::fmt::Display| LoadError::new(format!("{file_name}: {error}"));
    let size_of = |path: &Path| std::fs::metadata(path).ok().filter(Metadata::is_file).map(|metadata| metadata.len());
    let size = size_of(&path).unwrap_or(0);
    check_memory(&settings, size)?;
    let bytes = Bytes::from_owner(reading.take_shared(&name, &path).map_err(|error| unreadable(&error))?);
    let of_path = |format: &&Format| path.extension().is_some_and(|extension| extension == format.extension);
    let graph = match formats.iter().find(of_path) {
        Some(format) => (format.read)(&bytes)
            .map_err(|error| unreadable(&format_args!("not served as {}: {error}", format.name)))?,
        None => Graph::read(&bytes).map_err(|error| unreadable(&error))?,
    };
    let sizes: BTreeMap<&str, u64> = graph
        .external_files
        .keys()
        .filter_map(|external| Some((external.as_str(), size_of(&path.with_file_name(external))?)))
        .collect();
    graph.check_external_files(|external| sizes.get(external).copied()).map_err(|error| unreadable(&error))?;
    check_memory(&settings, sizes.values().sum())?;
    settings.check(&graph.servable()).map_err(LoadError::new)?;
    let (mut external, mut places) = (BTreeMap::new(), BTreeMap::new());
    for (location, path) in graph.external_files.keys().map(|location| (location, path.with_file_name(location))) {
        let name = beside(&name, location);
        let read = reading.take_shared(&name, &path).map_err(|error| unreadable(&error))?;
        external.insert(location.clone(), read);
        places.insert(location.clone(), (name, path));
    }
    let signature = signature(&found.files, &mut reading)?;
    let goldens = Golden::read_all(&found.files, &mut reading).map_err(LoadError::new)?;
    let source = Source::new(&mut reading, &found.files, (&name, &path), places).map_err(LoadError::new)?;
    let artifact = reading.finish().map_err(|error| LoadError::new(format!("cannot be read: {error}")))?;
    let file = ModelFile { path, bytes, external, graph };
    file.check_external_files().map_err(|error| LoadError::new(error.to_string()))?;
    Ok(Understood { file, artifact, settings, goldens, source, signature })
}

/// What stands in the file that signs the others, where there is one.
fn signature(files: &Files, reading: &mut Reading<'_>) -> Result<Option<Bytes>, LoadError> {
    let Some(path) = files.place(SIGNATURE_FILE) else { return Ok(None) };
    let size = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
    if size > SIGNATURE_BYTES_MAX {
        return Err(LoadError::new(format!("{SIGNATURE_FILE}: {size} bytes; at most {SIGNATURE_BYTES_MAX} are read")));
    }
    let read = reading.take(SIGNATURE_FILE).transpose();
    read.map_err(|error| LoadError::new(format!("{SIGNATURE_FILE}: {error}")))
}

/// The name in the digest of what a model's file of the name `model` calls `location`.
fn beside(model: &str, location: &str) -> String {
    let folder = Path::new(model).parent().unwrap_or(Path::new(""));
    // Components leave out what says nothing, as in `./weights.bin`.
    folder.join(location).components().collect::<PathBuf>().to_string_lossy().into_owned()
}

/// The file with the graph, by its name in the digest and its place: the one the settings name, or `model.onnx`, or the
/// only `.onnx` file there is; where there is none, the one of another format, such as `model.json`.
fn model_file(found: &FoundVersion, named: Option<&str>, formats: &[Format]) -> Result<(String, PathBuf), LoadError> {
    let wanted = named.unwrap_or(MODEL_FILE);
    if let Some(path) = found.files.place(wanted) {
        return Ok((wanted.to_owned(), path.to_owned()));
    }
    let names = || found.files.iter().map(|(name, _)| name).filter(|name| !name.contains('/'));
    let mut there: Vec<&str> = names().filter(|name| name.ends_with(".onnx")).collect();
    if there.is_empty() {
        let is_known = |name: &&str| formats.iter().any(|format| name.strip_prefix("model.") == Some(format.extension));
        there = names().filter(is_known).collect();
    }
    match there.as_slice() {
        [only] if named.is_none() => Ok(((*only).to_owned(), found.folder.join(only))),
        [] => Err(LoadError::new(format!("no {wanted} in {}", shown(&found.folder)))),
        several => Err(LoadError::new(format!(
            "no {wanted} in {}, which has {}; name one with model_file in model.toml",
            shown(&found.folder),
            several.join(", ")
        ))),
    }
}

fn shown(folder: &Path) -> String {
    folder.display().to_string()
}

/// Covers everything that can change an answer: files, engine, build, provider and how rows are put together.
fn deployment_digest(
    understood: &Understood,
    engine: &str,
    build: &str,
    provider: &str,
    policy: &QueuePolicy,
) -> Digest {
    let rows_max = policy.rows_max;
    let threads = understood.settings.threads.unwrap_or(1);
    let options = understood.settings.provider_options.shapes_answers(provider);
    let mut text = format!(
        "artifact {}\nengine {engine} {build}\nprovider {provider}{options}\nthreads {threads}\nrows_max {rows_max}\n",
        understood.artifact.digest
    );
    if !policy.sizes.is_empty() {
        text.push_str(&format!("sizes {:?}\n", policy.sizes));
    }
    if let (Some(pad), Some(declared)) = (&policy.pad, &understood.settings.batching.pad) {
        text.push_str(&format!("pad {:?} {:?} to {:?}\n", declared.axis, declared.values, pad.lengths));
    }
    Digest::new(Sha256::digest(text).into())
}

/// Inputs to time a model with, in its signature's order: an example's, or made-up ones.
fn timing_inputs(understood: &Understood, signature: &Signature) -> Vec<Option<Tensor>> {
    let example = understood.goldens.first().and_then(|golden| golden.arranged(signature).ok());
    // Where no row can be made, nothing runs, and nothing is timed.
    let nothing = || vec![None; signature.inputs.len()];
    example.unwrap_or_else(|| prove::made_up_rows(signature, 8).map_or_else(nothing, |mut rows| rows.swap_remove(0)))
}
