//! How do the parts come together? Build engines, pool, catalog and writer from a configuration.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tiltyard_runtime::engine::Engine;
use tiltyard_runtime::load::{Loader, Measuring};
use tiltyard_runtime::lock::Locks;
use tiltyard_runtime::measure::idle::Measurer;
use tiltyard_runtime::pool::Pool;
use tiltyard_runtime::queue::QueuePolicy;
use tokio::sync::watch;

use crate::admission::Admission;
use crate::alerts::Alerts;
use crate::capture::Captures;
use crate::catalog::Catalog;
use crate::chain::Chain;
use crate::clients::Clients;
use crate::config::{Amount, Config};
use crate::drain::Phase;
use crate::drift::Drifts;
use crate::endpoints::folder::Folder;
use crate::endpoints::journal::Journal;
use crate::engines::{self, Engines};
use crate::explain::Explainers;
use crate::infer::Inference;
use crate::ledger::Ledger;
use crate::locks::access::Access;
use crate::logs::Logs;
use crate::mirror;
use crate::reaper::Reaper;
use crate::registry::{Registry, Shelf};
use crate::reload::Live;
use crate::rollouts::Rollouts;
use crate::rollouts::fleet::Shared;
use crate::rollouts::hooks::Hook;
use crate::service::Service;
use crate::shadow::Shadows;
use crate::state::StateFolder;
use crate::states::States;
use crate::telemetry::Totals;
use crate::traces::Traces;
use crate::writer::{Following, Plan, PlanSources, Writer};
use crate::{clock, cores, guard, signing};

/// Rows in one batch where neither model nor operator says.
const BATCH_ROWS_MAX: usize = 64;

/// Requests that may wait for one deployment where neither model nor operator says.
const QUEUE_MAX: usize = 4096;

/// Bytes of request bodies in memory where the operator does not say, at most.
const BYTES_IN_FLIGHT_MAX: u64 = 1 << 30;

/// Bytes of request bodies in memory. Where the operator does not say, a quarter of the memory granted: the rest is for
/// models, batches and answers.
pub(crate) fn bytes_in_flight(config: &Config) -> usize {
    let auto = cores::memory_granted().map_or(BYTES_IN_FLIGHT_MAX, |granted| BYTES_IN_FLIGHT_MAX.min(granted / 4));
    config.bytes_in_flight_max.or(usize::try_from(auto).unwrap_or(usize::MAX))
}

/// What a queue may hold and how it batches, where the model does not say.
fn queue_defaults(config: &Config, threads: usize) -> QueuePolicy {
    QueuePolicy {
        rows_max: config.batch_rows_max.or(BATCH_ROWS_MAX),
        delay_max: config.batch_delay_max,
        jobs_max: config.queue_rows_max.or(QUEUE_MAX),
        runs_max: threads,
        ..QueuePolicy::default()
    }
}

/// Says which engines there are, and why others are not.
fn tell(config: &Config, Engines { found, missing }: &Engines) {
    for engine in found {
        let build = engine.build();
        let library = build.library.as_ref().map(|path| path.display().to_string());
        tracing::info!(engine = engine.name(), version = build.version, library, "engine");
    }
    for (engine, reason) in missing {
        // An engine the operator asked for by name is worth a warning; one that merely could be there is not.
        match config.engines.iter().any(|name| name == engine) {
            true => tracing::warn!(engine, reason, "engine not found"),
            false => tracing::info!(engine, reason, "engine not found"),
        }
    }
}

/// The plans of endpoints that a server has: those it kept, and those in files.
pub fn plans(config: &Config) -> Result<PlanSources, String> {
    let state = Arc::new(StateFolder::open(&config.data_dir, &config.models)?);
    let (journal, endpoints) = Journal::open(state)?;
    let has_locks = config.access_file.is_some();
    Ok(PlanSources { endpoints, journal: Some(journal), folder: config.endpoints.clone().map(Folder::new), has_locks })
}

/// Who loads versions, and keeps what was learned of them where that can be kept.
fn loader(
    config: &Config,
    engines: Vec<Arc<dyn Engine>>,
    threads: usize,
    measurer: &Arc<Measurer>,
    locks: Arc<Locks>,
) -> Result<Loader, String> {
    let profiles = config.data_dir.join("profiles");
    let writable = std::fs::create_dir_all(&profiles);
    if let Err(error) = &writable {
        let folder = config.data_dir.display();
        tracing::warn!(%folder, %error, "the data folder cannot be written: choices of engines and costs of runs are not kept");
    }
    Ok(Loader {
        first_engine_wins: !config.engines.is_empty(),
        engines,
        profiles: writable.is_ok().then_some(profiles),
        defaults: queue_defaults(config, threads),
        locks,
        made: signing::ask(config)?,
        clock: clock::now,
        measuring: Some(Measuring {
            measurer: Arc::clone(measurer),
            learns_rows: config.batch_rows_max == Amount::Auto,
            cores: cores::granted(),
        }),
    })
}

/// What answers inference requests, of which nothing can be answered yet.
fn inference(config: &Config, pool: Arc<Pool>, shadows: Arc<Shadows>, live: &Arc<Live>) -> Result<Inference, String> {
    let clients = |rate| Clients::new(rate, config.client_burst.or(rate), config.client_key.clone());
    Ok(Inference {
        catalog: ArcSwap::from_pointee(Catalog::default()),
        pool,
        admission: Admission::new(config.requests_max, bytes_in_flight(config)),
        captures: Captures::start(config)?,
        drifts: Arc::new(Drifts::new(config)),
        shadows,
        live: Arc::clone(live),
        traces: Traces::start(config)?,
        clients: config.client_rate.map(clients),
    })
}

/// Starts everything but the listeners. The first look at the repository begins at once.
pub fn start(config: &Config, plans: PlanSources, logs: Logs) -> Result<Arc<Service>, String> {
    let access = Access::open(config)?.map(Arc::new);
    let engines = engines::find(config)?;
    tell(config, &engines);
    let threads = config.threads.or(cores::granted());
    let text = |error: std::io::Error| format!("a thread cannot be started: {error}");
    let pool = Pool::start_metered(threads, clock::now, clock::thread_taken).map_err(text)?;
    let live = Arc::new(Live::new(config));
    // Half of the processors for each shadow: the rest is there for whoever serves, whatever shadows do.
    let (held, runs) = (config.shadow_bytes_max, threads.div_ceil(2));
    let shadows = Shadows::start(held, runs, config.run_timeout, clock::now).map_err(text)?;
    let inference = Arc::new(inference(config, pool, shadows, &live)?);
    inference.drifts.start().map_err(text)?;
    let measurer = Measurer::new(clock::now);
    let shelf = Shelf::open(&config.data_dir, config.registry_store.as_deref());
    let loader = Arc::new(loader(config, engines.found, threads, &measurer, shelf.locks())?);
    let mirror = mirror::follow(config, &live)?;
    let plan = Plan {
        root: mirror.root.clone(),
        pushed: Some(shelf.pushed.clone()),
        pushed_waits: plans.journal.is_some(),
        begin: mirror.begin,
        control: config.model_control,
        load_models: config.load_model.clone(),
        following: Following::of(config),
        on_failure: config.on_failure,
        loader_threads: threads,
    };
    let alerts = Arc::new(Alerts::new(config)?);
    let state = plans.journal.as_ref().map(|journal| Arc::clone(&journal.folder));
    let ledger = Arc::new(Ledger::default());
    let states = Arc::new(States::default());
    let reaper = Reaper::start(Arc::clone(&ledger), Arc::clone(&states)).map_err(text)?;
    let writer = Writer::start(plan, plans, Arc::clone(&loader), Arc::clone(&inference), reaper, Arc::clone(&states))
        .map_err(text)?;
    let shared = Shared::of(config, state.as_deref())?;
    let chain = state.as_ref().map(|state| Arc::new(Chain::of(state.path.join("log"), shared.as_ref())));
    let rows_max = config.feedback_rows_max;
    let rollouts =
        Rollouts::start(chain.clone(), shared, Hook::of(config)?, &writer, &inference, rows_max).map_err(text)?;
    let places = (mirror.root, config);
    let chain = chain.zip(state.as_ref().map(|state| state.path.clone()));
    let registry = Arc::new(Registry::start(shelf, chain, places, &writer, &inference, &rollouts)?);
    alerts.hear(Box::new(Arc::clone(&registry)));
    let loop_hangs = guard::start(Arc::clone(&inference), writer.clone(), config.run_timeout).map_err(text)?;
    Ok(Arc::new(Service {
        inference,
        explainers: Explainers::default(),
        loop_hangs,
        writer,
        rollouts,
        registry,
        loader,
        alerts,
        measurer,
        logs,
        totals: Totals::default(),
        ledger,
        access,
        live,
        states,
        state,
        store: mirror.figures,
        control: config.model_control,
        phase: watch::Sender::new(Phase::Serving),
    }))
}
