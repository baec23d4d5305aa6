//! What does `tiltyard serve` do? Configure, build, announce, run, drain.

use std::fs;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::catalog::{Catalog, VersionState};
use crate::config::{Config, Loaded};
use crate::fronts::Fronts;
use crate::listen::{self, Ends, Limits, Listener};
use crate::logs::Logs;
use crate::service::Service;
use crate::{admin, cores, protocol, start};

/// Serves until told to end. The exit code says whether requests were cut off.
pub(crate) fn run(loaded: Loaded) -> ExitCode {
    let Loaded { config, warnings, .. } = loaded;
    let logs = Logs::start(config.log_format, config.log_level);
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    // Signals, accepting and the admin port live on this thread; connections have threads of their own.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => {
            let outcome = runtime.block_on(serve(&config, logs));
            // Whatever still runs was given its time.
            runtime.shutdown_background();
            outcome
        }
        Err(error) => Err(format!("the front end cannot start: {error}")),
    };
    match outcome {
        Ok(code) => code,
        Err(message) => {
            tracing::error!("{message}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(config: &Config, logs: Logs) -> Result<ExitCode, String> {
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| error.to_string())?;
    let bound = Bound::bind(config).await?;
    let addresses = bound.addresses();
    let service = start::start(config, logs)?;
    let (drain, draining) = watch::channel(false);
    let threads = config.frontend_threads.or((cores::granted() / 4).max(1));
    let fronts = Fronts::start(threads, &service.inference.pool)
        .map_err(|error| format!("the front end cannot start: {error}"))?;
    let mut listeners = bound.serve(config, &service, &Arc::new(fronts), &draining);
    if let Some(path) = &config.ports_file {
        write_ports(path, &addresses).map_err(|error| format!("ports file {}: {error}", path.display()))?;
    }

    let mut done = service.writer.first_look_done.clone();
    tokio::select! {
        _ = done.wait_for(|done| *done) => {}
        _ = terminate.recv() => return Ok(ExitCode::SUCCESS),
        _ = interrupt.recv() => return Ok(ExitCode::SUCCESS),
    }
    if let Err(error) = service.measurer.begin() {
        tracing::warn!(%error, "no thread to measure in idle time what runs cost");
    }
    if config.strict
        && let Some(reason) = first_failure(&service.inference.catalog.load())
    {
        return Err(format!("{reason} (--strict)"));
    }
    // A reader that has gone does not matter to the server.
    drop(announce(&service, &addresses));

    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    service.draining.store(true, Relaxed);
    tracing::info!("draining");
    tokio::time::sleep(config.drain_notice).await;
    drain.send_replace(true);
    let all_ended = async { while listeners.join_next().await.is_some() {} };
    match tokio::time::timeout(config.drain_timeout, all_ended).await {
        Ok(()) => {
            tracing::info!("ended");
            Ok(ExitCode::SUCCESS)
        }
        Err(_) => {
            let cut = service.inference.admission.requests();
            tracing::error!(requests = cut, "the drain time is over: what is open is cut off");
            Ok(ExitCode::FAILURE)
        }
    }
}

/// The sockets, bound before anything is loaded, so that a taken port is told at once.
struct Bound {
    http: Listener,
    /// `None` where gRPC is to be on the port of HTTP: each port answers both.
    grpc: Option<Listener>,
    admin: Listener,
    /// The admin port on the metrics' host, where one listener does not cover both.
    metrics: Option<Listener>,
    sockets: Vec<Listener>,
}

struct Addresses {
    http: SocketAddr,
    grpc: SocketAddr,
    admin: SocketAddr,
}

impl Bound {
    async fn bind(config: &Config) -> Result<Bound, String> {
        let host = config.host.to_string();
        let http = bind("HTTP", &host, config.http_port).await?;
        let one_port = config.grpc_port != 0 && config.grpc_port == config.http_port;
        let grpc = if one_port { None } else { Some(bind("gRPC", &host, config.grpc_port).await?) };
        let (admin, metrics) = bind_admin(config).await?;
        let mut sockets = Vec::new();
        for path in [&config.http_socket, &config.grpc_socket].into_iter().flatten() {
            sockets.push(Listener::unix(path).map_err(|error| format!("socket {}: {error}", path.display()))?);
        }
        Ok(Bound { http, grpc, admin, metrics, sockets })
    }

    fn addresses(&self) -> Addresses {
        let address = |listener: &Listener| listener.address().unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 0)));
        let http = address(&self.http);
        Addresses { http, grpc: self.grpc.as_ref().map_or(http, address), admin: address(&self.admin) }
    }

    fn serve(
        self,
        config: &Config,
        service: &Arc<Service>,
        fronts: &Arc<Fronts>,
        draining: &watch::Receiver<bool>,
    ) -> JoinSet<()> {
        let limits = Limits {
            connections_max: config.connections_max,
            header_timeout: config.header_timeout,
            idle_timeout: config.idle_timeout,
        };
        let open = Arc::clone(&service.totals.connections);
        let mut listeners = JoinSet::new();
        for listener in std::iter::once(self.http).chain(self.grpc).chain(self.sockets) {
            let service = Arc::clone(service);
            let handler = move |request, ends: Ends| protocol::answer(Arc::clone(&service), request, ends.peer);
            let (open, fronts) = (Arc::clone(&open), Arc::clone(fronts));
            listeners.spawn(listen::serve(listener, limits, open, draining.clone(), fronts, handler));
        }
        for listener in std::iter::once(self.admin).chain(self.metrics) {
            let (service, admin_host, triton) = (Arc::clone(service), config.admin_host.clone(), config.triton_metrics);
            let handler = move |request, ends| {
                let response = admin::answer(&service, &admin_host, triton, &request, ends);
                async move { response }
            };
            let (open, here) = (Arc::clone(&open), Arc::new(Fronts::here()));
            listeners.spawn(listen::serve(listener, limits, open, draining.clone(), here, handler));
        }
        listeners
    }
}

/// The admin port, on the host of the admin API and on that of the metrics. A listener on all addresses covers both;
/// what is for the admin host alone is then told apart by the address a connection came in on.
async fn bind_admin(config: &Config) -> Result<(Listener, Option<Listener>), String> {
    let (admin, metrics) = (config.admin_host.to_string(), config.metrics_host.to_string());
    let is_all = |host: &str| host.parse::<IpAddr>().is_ok_and(|address| address.is_unspecified());
    if is_all(&metrics) || admin == metrics {
        return Ok((bind("admin", &metrics, config.admin_port).await?, None));
    }
    let listener = bind("admin", &admin, config.admin_port).await?;
    if is_all(&admin) {
        return Ok((listener, None));
    }
    let port = listener.address().map_or(config.admin_port, |address| address.port());
    let second = bind("admin", &metrics, port).await?;
    Ok((listener, Some(second)))
}

async fn bind(what: &str, host: &str, port: u16) -> Result<Listener, String> {
    Listener::tcp(host, port).await.map_err(|error| {
        let key = what.to_lowercase();
        format!("the {what} port {host}:{port} cannot be bound: {error}. Choose another with --{key}-port (0 = any)")
    })
}

/// Written whole or not at all, so that whoever waits for the file reads all of it.
fn write_ports(path: &Path, addresses: &Addresses) -> io::Result<()> {
    let ports = json!({
        "http": addresses.http.port(), "grpc": addresses.grpc.port(), "admin": addresses.admin.port(),
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
fn announce(service: &Service, addresses: &Addresses) -> io::Result<()> {
    let catalog = service.inference.catalog.load();
    let mut out = io::stdout().lock();
    writeln!(out, "Tiltyard {} is ready", env!("CARGO_PKG_VERSION"))?;
    writeln!(out, "  REST   http://{}    (docs at /docs)", addresses.http)?;
    writeln!(out, "  gRPC   {}", addresses.grpc)?;
    writeln!(out, "  admin  http://{}/metrics", addresses.admin)?;
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
    if let Some(command) = protocol::docs::try_me(&catalog, &addresses.http.to_string()) {
        writeln!(out, "\nTry it:\n  {command}")?;
    }
    out.flush()
}
