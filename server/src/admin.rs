//! What does the admin port answer? Metrics, health, and what is loaded.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, DATE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};
use tiltyard_runtime::deployment::{BatchAxis, Padding};

use crate::catalog::Version;
use crate::config::Host;
use crate::listen::CameInOn;
use crate::protocol::date;
use crate::service::Service;
use crate::telemetry;

/// Answers one request on the admin port. Metrics and health are for everybody who reaches it; the rest only for
/// connections that came in on the admin host.
pub(crate) fn answer<B>(
    service: &Arc<Service>,
    admin_host: &Host,
    triton_metrics: bool,
    request: &Request<B>,
    CameInOn(came_in_on): CameInOn,
) -> Response<Full<Bytes>> {
    let (status, content_type, body) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/metrics") => {
            (StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", telemetry::render(service, triton_metrics))
        }
        (&Method::GET | &Method::HEAD, "/health/live" | "/v2/health/live") => {
            (StatusCode::OK, "text/plain", String::new())
        }
        (&Method::GET | &Method::HEAD, "/health/ready" | "/v2/health/ready") => {
            let status = if service.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            (status, "text/plain", String::new())
        }
        (_, path) if path.starts_with("/admin") && !came_in_on.is_some_and(|address| covers(admin_host, address)) => {
            let error = json!({ "error": format!("{path} is answered on the admin host {admin_host} only") });
            (StatusCode::FORBIDDEN, "application/json", error.to_string())
        }
        (&Method::GET | &Method::HEAD, "/admin/models") => {
            (StatusCode::OK, "application/json", Value::Array(models(service)).to_string())
        }
        (method, path) => {
            let error = json!({ "error": format!("nothing is at {method} {path}") });
            (StatusCode::NOT_FOUND, "application/json", error.to_string())
        }
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    if request.version() == http::Version::HTTP_2 {
        response.headers_mut().insert(DATE, date::header());
    }
    response
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
            "runs_stuck": deployment.health.runs_stuck(),
            "out_of_service": deployment.health.out().map(|_| deployment.health.reason()),
        });
        if let (Some(form), Value::Object(facts)) = (form.as_object_mut(), facts) {
            form.extend(facts);
        }
    }
    form
}
