//! What does the admin port answer? Metrics, health, what is loaded, and who answers whom.

mod alerts;
pub(crate) mod endpoints;
mod mlflow;
mod pages;
mod registry;
pub(crate) mod rollouts;
mod traffic;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, DATE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::Full;
use serde_json::{Value, json};
use tiltyard_runtime::deployment::{BatchAxis, Padding};
use tiltyard_runtime::made::Made;
use tiltyard_types::{Error, Result};

use crate::catalog::Version;
use crate::config::Host;
use crate::drain::Phase;
use crate::listen::CameIn;
use crate::locks::calls::{Call, Caller};
use crate::protocol::{date, reply};
use crate::reload::Reload;
use crate::service::Service;
use crate::telemetry;
use crate::telemetry::page::Form;

/// What can be asked here, for programs.
const OPENAPI: &str = include_str!("admin/openapi.json");

/// How long a question for changes may wait for the next one.
const CHANGES_WAIT: Duration = Duration::from_secs(25);

/// Answers one request on the admin port, where its caller may ask: metrics and health to everybody who reaches it, the rest
/// only to connections that came in on the admin host.
pub(crate) async fn answer<B>(
    service: Arc<Service>,
    reload: Arc<Reload>,
    admin_host: Host,
    request: Request<B>,
    came_in: CameIn,
) -> Response<Full<Bytes>>
where
    B: Body<Data = Bytes> + Send + Unpin,
    B::Error: std::fmt::Display + Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let is_foreign = || match request.uri().path().starts_with("/admin") {
        true => pages::refuse_foreign(request.headers(), request.uri(), &service.live.config()),
        false => Ok(()),
    };
    let caller = match is_foreign().and_then(|()| let_in(&service, &request, &came_in)) {
        Ok(caller) => caller,
        Err(error) => {
            service.totals.note_failure(error.kind());
            return refusal(&error);
        }
    };
    // What waits keeps nothing of the request.
    let (method, version) = (request.method().clone(), request.version());
    let (path, query) = (request.uri().path().to_owned(), request.uri().query().unwrap_or_default().to_owned());
    let may_change = came_in.on.is_some_and(|address| covers(&admin_host, address));
    let request = match may_change {
        true => match beyond(&service, caller.as_deref(), (&path, &query), request).await {
            Ok(answered) => return dated(answered, version),
            Err(request) => request,
        },
        false => request,
    };
    let is_get = method == Method::GET || method == Method::HEAD;
    if is_get && path == "/metrics" {
        let accept = request.headers().get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        return dated(metrics(&service, Form::of(&accept.collect::<Vec<_>>().join(","))), version);
    }
    drop(request);
    let (status, content_type, body) = match path.as_str() {
        "/health/live" | "/v2/health/live" if is_get => (StatusCode::OK, "text/plain", String::new()),
        "/health/ready" | "/v2/health/ready" if is_get => {
            let status = if service.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            (status, "text/plain", String::new())
        }
        path if path.starts_with("/admin") && !may_change => {
            let error = json!({ "error": format!("{path} is answered on the admin host {admin_host} only") });
            (StatusCode::FORBIDDEN, "application/json", error.to_string())
        }
        "/admin/models" if is_get => (StatusCode::OK, "application/json", Value::Array(models(&service)).to_string()),
        "/admin/endpoints" if is_get => {
            (StatusCode::OK, "application/json", Value::Array(endpoints::list(&service)).to_string())
        }
        "/admin/rollouts" if is_get => (StatusCode::OK, "application/json", rollouts::list(&service).to_string()),
        "/admin/openapi.json" if is_get => (StatusCode::OK, "application/json", OPENAPI.to_owned()),
        "/admin/drift" if is_get => {
            (StatusCode::OK, "application/json", service.inference.drifts.form(&query).to_string())
        }
        "/admin/status" if is_get => (StatusCode::OK, "application/json", status(&service).to_string()),
        "/admin/traffic" if is_get => (StatusCode::OK, "application/json", traffic::form(&service).to_string()),
        "/admin/changes" if is_get => changes(&service, &query).await,
        "/admin/reload" if method == Method::POST => reloaded(&reload),
        path => {
            let error = json!({ "error": format!("nothing is at {method} {path}") });
            (StatusCode::NOT_FOUND, "application/json", error.to_string())
        }
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    dated(response, version)
}

/// Answers requests whose bodies are read, and those to whole trees of paths; gives others back.
async fn beyond<B>(
    service: &Service,
    caller: Option<&Caller>,
    (path, query): (&str, &str),
    request: Request<B>,
) -> Result<Response<Full<Bytes>>, Request<B>>
where
    B: Body<Data = Bytes> + Send + Unpin,
    B::Error: std::fmt::Display + Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let method = request.method().clone();
    let form =
        |answered: Result<Value>| answered.map_or_else(|error| refusal(&error), |form| json_of(StatusCode::OK, &form));
    if let Some(named) = endpoints::parts(path) {
        let answered = match named {
            Ok((endpoint, verb)) => {
                endpoints::answer(service, caller, &method, (&endpoint, verb), query, request.into_body()).await
            }
            Err(error) => Err(error),
        };
        return Ok(form(answered));
    }
    if path.starts_with(registry::PREFIX) {
        let answered = registry::answer(service, caller, (&method, path, query), request.into_body()).await;
        return Ok(answered.map_or_else(|error| refusal(&error), registry::Answer::into_response));
    }
    if path.starts_with(mlflow::PREFIX) {
        let headers = request.headers().clone();
        return Ok(mlflow::answer(service, caller, (&method, path, query, &headers), request.into_body()).await);
    }
    if path.starts_with("/admin/alerts") {
        return Ok(form(alerts::answer(&service.alerts, caller, &method, path, request.into_body()).await));
    }
    Err(request)
}

fn reloaded(reload: &Reload) -> (StatusCode, &'static str, String) {
    let (status, form) = match reload.now() {
        Ok(report) => (StatusCode::OK, report.form()),
        Err(error) => (StatusCode::UNPROCESSABLE_ENTITY, json!({ "error": error })),
    };
    (status, "application/json", form.to_string())
}

fn metrics(service: &Service, form: Form) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(telemetry::render(service, form))));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(form.content_type()));
    response
}

fn dated(mut response: Response<Full<Bytes>>, version: http::Version) -> Response<Full<Bytes>> {
    if version == http::Version::HTTP_2 {
        response.headers_mut().insert(DATE, date::header());
    }
    response
}

/// Whether a request may go on, and who sent it.
fn let_in<B>(service: &Service, request: &Request<B>, came_in: &CameIn) -> Result<Option<Arc<Caller>>> {
    let Some(access) = &service.access else { return Ok(None) };
    let path = request.uri().path();
    let named = endpoints::parts(path).and_then(Result::ok);
    let call = match &named {
        Some((endpoint, verb)) => endpoints::call(request.method(), endpoint, verb),
        None => call(request.method(), path),
    };
    access.judge(request.headers(), came_in.certificate.as_deref(), call)
}

/// What a request asks for, as far as permission goes, where its path names no endpoint.
fn call(method: &Method, path: &str) -> Call<'static> {
    match path {
        "/metrics" => Call::Metrics,
        "/health/live" | "/v2/health/live" | "/health/ready" | "/v2/health/ready" => Call::Health,
        path if path.starts_with(registry::PREFIX) => registry::call(method),
        path if path.starts_with(mlflow::PREFIX) => mlflow::call(method),
        path if path.starts_with("/admin") => match *method {
            Method::GET | Method::HEAD => Call::SeeAll,
            _ => Call::ChangeSettings,
        },
        // Nothing is there, which those whom the server knows may be told.
        _ => Call::Server,
    }
}

fn json_of(status: StatusCode, form: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(form.to_string())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, reply::JSON);
    response
}

fn refusal(error: &Error) -> Response<Full<Bytes>> {
    let reply = reply::failure(error);
    let mut response = Response::new(Full::new(reply.body));
    *response.status_mut() = reply.status;
    *response.headers_mut() = reply.headers;
    response.headers_mut().insert(CONTENT_TYPE, reply.content_type);
    response
}

/// Where the server and every version stand.
fn status(service: &Service) -> Value {
    let (versions, sequence) = service.states.form();
    let draining = *service.phase.borrow() > Phase::Serving;
    let store = service.store.as_ref().map(|figures| figures.form());
    json!({
        "ready": service.is_ready(), "draining": draining, "sequence": sequence, "versions": versions, "store": store,
        "endpoints": endpoints::list(service), "fleet": service.rollouts.told().fleet,
    })
}

/// The changes after the one that the query names, as soon as there is one: `after=N`.
async fn changes(service: &Service, query: &str) -> (StatusCode, &'static str, String) {
    let after = query.split('&').find_map(|part| part.strip_prefix("after=")).map_or(Ok(0), str::parse::<u64>);
    let Ok(after) = after else {
        let error = json!({ "error": format!("{query:?}: expected after=N, with the sequence of the last answer") });
        return (StatusCode::BAD_REQUEST, "application/json", error.to_string());
    };
    match service.states.changes(after, CHANGES_WAIT).await {
        Some(changes) => (StatusCode::OK, "application/json", changes.to_string()),
        None => {
            let error = json!({ "error": "too many wait for changes already: ask again later" });
            (StatusCode::TOO_MANY_REQUESTS, "application/json", error.to_string())
        }
    }
}

/// Whether connections to `address` are connections to `host`. A name is taken to be this machine's own.
fn covers(host: &Host, address: IpAddr) -> bool {
    match host {
        Host::Address(host) => host.is_unspecified() || *host == address.to_canonical(),
        Host::Name(_) => address.to_canonical().is_loopback(),
    }
}

/// Every version, with what is known of it.
pub(crate) fn models(service: &Service) -> Vec<Value> {
    let catalog = service.inference.catalog.load();
    let versions = catalog.models.iter().flat_map(|(name, model)| {
        model.versions.iter().map(move |(number, version)| model_form(name, *number, version))
    });
    versions.collect()
}

fn model_form(name: &str, number: u64, version: &Version) -> Value {
    let (state, reason) = version.state.index();
    let mut form = json!({ "name": name, "version": number.to_string(), "state": state, "reason": reason });
    if let Some(deployment) = &version.deployment {
        let identity = &deployment.identity;
        let batch_reason = match &deployment.batch_axis {
            BatchAxis::None => "no batch axis",
            BatchAxis::Unproved(reason) => reason,
            BatchAxis::Proved => "rows are proved independent",
        };
        let (padding, padding_reason) = match &deployment.padding {
            Padding::Undeclared => ("off", "none is declared"),
            Padding::Unproved(reason) => ("refuted", reason.as_str()),
            Padding::Proved(_) => ("on", "padded rows are proved to answer as unpadded ones"),
        };
        let facts = json!({
            "engine": identity.engine,
            "engine_version": identity.build.version,
            "provider": identity.provider,
            "placement": identity.placement.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "batch_rows_max": deployment.rows_max(),
            "batch_rows_taken_max": deployment.rows_taken_max(),
            "batch_reason": batch_reason,
            "cost_row_seconds": deployment.cost.fit().map(|fit| fit.row_ns / 1e9),
            "cost_run_seconds": deployment.cost.fit().map(|fit| fit.run_ns / 1e9),
            "padding": padding,
            "padding_reason": padding_reason,
            "signature": deployment.signature.to_string(),
            "digest": identity.digest.to_string(),
            "artifact": identity.artifact.to_string(),
            "size_bytes": identity.size,
            "loaded": identity.loaded.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            "load_seconds": identity.load_time.as_secs_f64(),
            "goldens": identity.goldens,
            "made_by": match &deployment.made {
                Some(Made::By(maker)) => Some(maker),
                _ => None,
            },
            "made_by_nobody": match &deployment.made {
                Some(Made::Unknown(why)) => Some(why),
                _ => None,
            },
            "runs_stuck": deployment.health.runs_stuck(),
            "out_of_service": deployment.health.out().map(|_| deployment.health.reason()),
        });
        if let (Some(form), Value::Object(facts)) = (form.as_object_mut(), facts) {
            form.extend(facts);
        }
    }
    form
}
