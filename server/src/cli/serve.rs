//! What does `tiltyard serve` do? Configure, build, announce, run, drain.

use std::fs;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::ArgMatches;
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::exit::Failure;
use super::settings;
use crate::catalog::{Catalog, VersionState};
use crate::config::{Config, Loaded};
use crate::drain::{self, Cut, Drain, Patience, Phase};
use crate::fronts::Fronts;
use crate::handed::{self, Purpose, Socket};
use crate::listen::{self, CameIn, End, Listener};
use crate::locks::{self, tls::Tls};
use crate::logs::Logs;
use crate::reload::{Read, Reload};
use crate::service::Service;
use crate::systemd::Manager;
use crate::{admin, clock, cores, deadlines, descriptors, protocol, start};

/// How long the end waits for traces to be sent on.
const TRACES_FLUSHED_MAX: Duration = Duration::from_secs(1);

/// How long the end waits for a checkpoint of the record.
const SEALED_MAX: Duration = Duration::from_secs(2);

/// Serves until told to end. The exit code says whether requests were cut off. Fails where the settings are wrong.
pub(crate) fn run(matches: &ArgMatches) -> Result<ExitCode, Failure> {
    let loaded = settings::load(matches)?;
    let logs = Logs::start(loaded.config.log_format, loaded.config.log_level);
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    // The same command line and environment: what can differ is the file.
    let matches = matches.clone();
    let read: Read = Box::new(move || settings::load(&matches).map_err(|failure| failure.to_string()));
    // Before there is any thread.
    let outcome = handed::take().and_then(|handed| {
        // Signals, accepting and the admin port live on this thread; connections have threads of their own.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| format!("the front end cannot start: {error}"))?;
        let outcome = runtime.block_on(serve(loaded, logs, handed, read));
        // Whatever still runs was given its time.
        runtime.shutdown_background();
        outcome
    });
    Ok(outcome.unwrap_or_else(|message| {
        tracing::error!("{message}");
        ExitCode::FAILURE
    }))
}

async fn serve(loaded: Loaded, logs: Logs, handed: Vec<(Purpose, Socket)>, read: Read) -> Result<ExitCode, String> {
    let Loaded { config, origins, .. } = loaded;
    let signals = Signals::watch().map_err(|error| format!("signals cannot be watched: {error}"))?;
    let manager = Arc::new(Manager::from_env());
    manager.status("loading models");
    descriptors::ask_for(config.connections_max);
    let (bound, addresses) = Bound::bind(&config, handed).await?;
    let tls = Tls::open(&config)?.map(Arc::new);
    let service = start::start(&config, start::plans(&config)?, logs)?;
    locks::follow(tls.clone(), service.access.clone())
        .map_err(|error| format!("a thread cannot be started: {error}"))?;
    service.alerts.start(&service).map_err(|error| format!("a thread cannot be started: {error}"))?;
    for warning in locks::warnings(&config) {
        tracing::warn!("{warning}");
    }
    let threads = config.frontend_threads.or((cores::granted() / 4).max(1));
    let fronts = Fronts::start(threads, &service.inference.pool)
        .map_err(|error| format!("the front end cannot start: {error}"))?;
    let fronts = Arc::new(fronts);
    let reload = Arc::new(Reload::new(read, Arc::clone(&service), origins));
    let end = End { phases: service.phase.subscribe(), cut: Arc::default() };
    let listeners = bound.serve(&config, &service, &reload, &fronts, &end, tls.as_ref());
    if let Some(path) = &config.ports_file {
        write_ports(path, &addresses, tls.is_some())
            .map_err(|error| format!("ports file {}: {error}", path.display()))?;
    }
    let (tls, strict) = (tls.is_some(), config.strict);
    Life { service, fronts, listeners, signals, manager, reload, cut: end.cut, addresses, tls, strict }.live().await
}

/// What the process is asked from outside.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn watch() -> io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }
}

/// A process between its start and its end.
struct Life {
    service: Arc<Service>,
    fronts: Arc<Fronts>,
    listeners: JoinSet<()>,
    signals: Signals,
    manager: Arc<Manager>,
    reload: Arc<Reload>,
    cut: Arc<Cut>,
    addresses: Addresses,
    tls: bool,
    strict: bool,
}

impl Life {
    /// Lives it. Fails where a model that must be there is not.
    async fn live(mut self) -> Result<ExitCode, String> {
        let mut drain = Drain::new();
        let mut first_look = self.service.writer.first_look_done.clone();
        let (mut was_ready, mut all_ended) = (false, false);
        let mut alive_at = clock::now();
        while drain.phase() < Phase::Ended {
            let now = clock::now();
            let time_over = sleep(drain.until().map_or(Duration::ZERO, |until| until.since(now)));
            let watchdog = self.manager.watchdog();
            tokio::select! {
                _ = self.signals.terminate.recv() => drain.ask(clock::now(), was_ready, self.patience()),
                _ = self.signals.interrupt.recv() => drain.ask(clock::now(), was_ready, self.patience()),
                _ = self.signals.hangup.recv(), if was_ready && drain.phase() == Phase::Serving => self.read_anew(),
                () = time_over, if drain.until().is_some() => drain.look(clock::now()),
                ended = self.listeners.join_next(), if !all_ended => {
                    all_ended = ended.is_none();
                }
                _ = first_look.wait_for(|done| *done), if !was_ready && drain.phase() == Phase::Serving => {
                    self.begin()?;
                    was_ready = true;
                }
                () = sleep((alive_at + watchdog.unwrap_or_default()).since(now)), if watchdog.is_some() => {
                    alive_at = clock::now();
                    // An event loop that does not answer keeps the manager from hearing that all is well.
                    let (fronts, manager) = (Arc::clone(&self.fronts), Arc::clone(&self.manager));
                    tokio::spawn(async move {
                        fronts.each(|| {}).await;
                        manager.alive();
                    });
                }
            }
            if all_ended {
                drain.all_ended();
            }
            self.enter(drain.phase());
        }
        // What is new on the record is signed, unless its place is slow.
        drop(deadlines::within(clock::now() + SEALED_MAX, self.service.registry.checkpoint()).await);
        Ok(self.end())
    }

    fn patience(&self) -> Patience {
        let config = self.service.live.config();
        Patience { notice: config.drain_notice, drain: config.drain_timeout }
    }

    /// The first look is done: every model is ready or failed.
    fn begin(&self) -> Result<(), String> {
        if let Err(error) = self.service.measurer.begin() {
            tracing::warn!(%error, "no thread to measure in idle time what runs cost");
        }
        let catalog = self.service.inference.catalog.load();
        if self.strict
            && let Some(reason) = first_failure(&catalog)
        {
            return Err(format!("{reason} (--strict)"));
        }
        // A reader that has gone does not matter to the server.
        drop(announce(&self.service, &self.addresses, self.tls));
        self.manager.ready(&self.status());
        Ok(())
    }

    /// What a service manager shows of a server that serves.
    fn status(&self) -> String {
        let catalog = self.service.inference.catalog.load();
        format!("serving {} versions of {} models", catalog.deployments().count(), catalog.models.len())
    }

    fn read_anew(&self) {
        self.manager.reloading();
        // What came of it is in the log.
        drop(self.reload.now());
        self.manager.ready(&self.status());
    }

    /// Tells all who watch that the process is in this phase.
    fn enter(&self, phase: Phase) {
        if !self.service.phase.send_if_modified(|held| std::mem::replace(held, phase) != phase) {
            return;
        }
        let Patience { notice, drain } = self.patience();
        // Who waits for changes hears of this one, and goes.
        if phase > Phase::Serving {
            self.service.states.close();
        }
        match phase {
            Phase::Serving | Phase::Ended => {}
            Phase::Notice => {
                tracing::info!(?notice, "not ready any more: load balancers are given notice");
                self.manager.stopping("giving notice to load balancers");
            }
            Phase::Draining => {
                tracing::info!(timeout = ?drain, "draining");
                self.manager.stopping("finishing requests");
            }
            Phase::Cutting => {
                tracing::warn!("the time to finish requests is over: those that wait are told so");
                let fronts = Arc::clone(&self.fronts);
                tokio::spawn(async move { fronts.each(deadlines::end).await });
            }
        }
    }

    fn end(&self) -> ExitCode {
        // What ended last is traced like the rest, unless the collector is slow.
        self.service.inference.traces.iter().for_each(|traces| traces.flush(TRACES_FLUSHED_MAX));
        self.service.inference.captures.iter().for_each(|captures| captures.end());
        self.service.inference.drifts.end();
        // A connection whose event loop is stuck could not say what was under way.
        let (open, in_flight) = (self.service.totals.connections.count(), self.service.inference.admission.requests());
        let unsaid = if open > 0 { in_flight } else { 0 };
        let (requests, connections) = (self.cut.requests().max(unsaid), self.cut.connections().max(open));
        if requests == 0 {
            tracing::info!("ended, and nothing was cut off");
            return ExitCode::SUCCESS;
        }
        tracing::error!(
            requests,
            connections,
            "ended, and requests were cut off: drain_timeout was too short for them"
        );
        ExitCode::FAILURE
    }
}

/// The sockets, bound before anything is loaded, so that a taken port is told at once.
struct Bound {
    /// REST and gRPC: each answers both.
    data: Vec<Listener>,
    /// Administration and metrics: told apart by the address that a connection came in on.
    admin: Vec<Listener>,
}

/// Where the server is found; `None` on a Unix socket.
struct Addresses {
    http: Option<SocketAddr>,
    grpc: Option<SocketAddr>,
    admin: Option<SocketAddr>,
}

impl Bound {
    /// Takes what was handed over, and binds what was not.
    async fn bind(config: &Config, handed: Vec<(Purpose, Socket)>) -> Result<(Bound, Addresses), String> {
        let (mut http, mut grpc, mut admin) = (Vec::new(), Vec::new(), Vec::new());
        for (purpose, socket) in handed {
            let listener = Listener::handed(socket).map_err(|error| {
                format!("socket {:?}, which was handed over, cannot be used: {error}", purpose.name())
            })?;
            tracing::info!(socket = purpose.name(), address = ?listener.address(), "handed over");
            match purpose {
                Purpose::Http => http.push(listener),
                Purpose::Grpc => grpc.push(listener),
                Purpose::Admin => admin.push(listener),
            }
        }
        let host = config.host.to_string();
        if http.is_empty() {
            http.push(bind("HTTP", &host, config.http_port).await?);
        }
        let one_port = config.grpc_port != 0 && config.grpc_port == config.http_port;
        if grpc.is_empty() && !one_port {
            grpc.push(bind("gRPC", &host, config.grpc_port).await?);
        }
        if admin.is_empty() {
            admin = bind_admin(config).await?;
        }
        let address = |listeners: &[Listener]| listeners.iter().find_map(Listener::address);
        let grpc_address = if grpc.is_empty() { address(&http) } else { address(&grpc) };
        let addresses = Addresses { http: address(&http), grpc: grpc_address, admin: address(&admin) };
        let mut data: Vec<Listener> = http.into_iter().chain(grpc).collect();
        for path in [&config.http_socket, &config.grpc_socket].into_iter().flatten() {
            data.push(Listener::unix(path).map_err(|error| format!("socket {}: {error}", path.display()))?);
        }
        Ok((Bound { data, admin }, addresses))
    }

    fn serve(
        self,
        config: &Config,
        service: &Arc<Service>,
        reload: &Arc<Reload>,
        fronts: &Arc<Fronts>,
        end: &End,
        tls: Option<&Arc<Tls>>,
    ) -> JoinSet<()> {
        let open = Arc::clone(&service.totals.connections);
        let mut listeners = JoinSet::new();
        for listener in self.data {
            let service = Arc::clone(service);
            let (live, open, fronts) = (Arc::clone(&service.live), Arc::clone(&open), Arc::clone(fronts));
            let ready = service.writer.first_look_done.clone();
            let handler = move |request, came_in: CameIn| protocol::answer(Arc::clone(&service), request, came_in);
            let (end, tls) = (end.clone(), tls.cloned());
            listeners.spawn(async move {
                if listener.is_shared() {
                    take_turn(ready, end.phases.clone()).await;
                }
                listen::serve(listener, live, open, end, fronts, tls, handler).await;
            });
        }
        for listener in self.admin {
            let (service, reload) = (Arc::clone(service), Arc::clone(reload));
            let admin_host = config.admin_host.clone();
            let (live, open, here) = (Arc::clone(&service.live), Arc::clone(&open), Arc::new(Fronts::here()));
            let handler = move |request, came_in| {
                admin::answer(Arc::clone(&service), Arc::clone(&reload), admin_host.clone(), request, came_in)
            };
            listeners.spawn(listen::serve(listener, live, open, end.clone(), here, tls.cloned(), handler));
        }
        listeners
    }
}

/// Ends when the server is ready, or is not to be any more. On a socket that others keep open, clients are better off
/// waiting, or asking a server beside this one, than with a server that is not ready.
async fn take_turn(mut ready: watch::Receiver<bool>, mut phases: watch::Receiver<Phase>) {
    tokio::select! {
        _ = ready.wait_for(|ready| *ready) => {}
        () = drain::reached(&mut phases, Phase::Draining) => {}
    }
}

/// The admin port, on the host of the admin API and on that of the metrics. A listener on all addresses covers both;
/// what is for the admin host alone is then told apart by the address a connection came in on.
async fn bind_admin(config: &Config) -> Result<Vec<Listener>, String> {
    let (admin, metrics) = (config.admin_host.to_string(), config.metrics_host.to_string());
    let is_all = |host: &str| host.parse::<IpAddr>().is_ok_and(|address| address.is_unspecified());
    if is_all(&metrics) || admin == metrics {
        return Ok(vec![bind("admin", &metrics, config.admin_port).await?]);
    }
    let listener = bind("admin", &admin, config.admin_port).await?;
    if is_all(&admin) {
        return Ok(vec![listener]);
    }
    let port = listener.address().map_or(config.admin_port, |address| address.port());
    let second = bind("admin", &metrics, port).await?;
    Ok(vec![listener, second])
}

async fn bind(what: &str, host: &str, port: u16) -> Result<Listener, String> {
    Listener::tcp(host, port).await.map_err(|error| {
        let key = what.to_lowercase();
        format!("the {what} port {host}:{port} cannot be bound: {error}. Choose another with --{key}-port (0 = any)")
    })
}

/// Written whole or not at all, so that whoever waits for the file reads all of it.
fn write_ports(path: &Path, addresses: &Addresses, tls: bool) -> io::Result<()> {
    let port = |address: Option<SocketAddr>| address.map_or(0, |address| address.port());
    let ports = json!({
        "http": port(addresses.http), "grpc": port(addresses.grpc), "admin": port(addresses.admin), "tls": tls,
    });
    let temporary = path.with_extension("tmp");
    fs::write(&temporary, ports.to_string())?;
    fs::rename(temporary, path)
}

fn first_failure(catalog: &Catalog) -> Option<String> {
    catalog.models.iter().find_map(|(name, model)| {
        model.versions.iter().find_map(|(number, version)| match &version.state {
            VersionState::Failed(reason) => Some(format!("model {name:?} version {number} cannot be served: {reason}")),
            _ => None,
        })
    })
}

/// Tells on standard output what is served where, and one command to try.
fn announce(service: &Service, addresses: &Addresses, tls: bool) -> io::Result<()> {
    let scheme = if tls { "https" } else { "http" };
    let catalog = service.inference.catalog.load();
    let mut out = io::stdout().lock();
    writeln!(out, "Tiltyard {} is ready", env!("CARGO_PKG_VERSION"))?;
    let shown = |address: Option<SocketAddr>| address.map_or("a Unix socket".to_owned(), |address| address.to_string());
    let http = shown(addresses.http);
    writeln!(out, "  REST   {scheme}://{http}    (docs at /docs)")?;
    writeln!(out, "  gRPC   {}{}", shown(addresses.grpc), if tls { "    (TLS)" } else { "" })?;
    writeln!(out, "  admin  {scheme}://{}/metrics", shown(addresses.admin))?;
    writeln!(out)?;
    let mut any = false;
    for (name, model) in &catalog.models {
        for (number, version) in &model.versions {
            any = true;
            match (&version.deployment, &version.state) {
                (Some(deployment), _) => {
                    let identity = &deployment.identity;
                    writeln!(out, "  {name} {number}  {} {}", identity.engine, deployment.signature)?;
                }
                (None, VersionState::Failed(reason)) => writeln!(out, "  {name} {number}  FAILED: {reason}")?,
                (None, state) => writeln!(out, "  {name} {number}  {}", state.index().0.to_lowercase())?,
            }
        }
    }
    if !any {
        writeln!(out, "  no models yet: put one at <models>/<name>/1/model.onnx")?;
    }
    // With locks there is no one line that works for everybody.
    if !tls
        && service.access.is_none()
        && let Some(command) = protocol::docs::try_me(&catalog, &http)
    {
        writeln!(out, "\nTry it:\n  {command}")?;
    }
    out.flush()
}
