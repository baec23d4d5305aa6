//! How do MLflow's own clients reach the registry?
//!
//! What they are told and what they may have done is decided in `tiltyard_registry::mlflow::face`; here is the way to it and to the
//! files. It is reached as `MlflowClient(registry_uri="http://HOST:8002/admin/mlflow")`.

use std::io::Read as _;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderValue};
use http::{Method, Response, StatusCode};
use http_body::Body;
use http_body_util::Full;
use serde_json::Value;
use tiltyard_registry::book::{Order, Outcome, Wants};
use tiltyard_registry::mlflow::face::{self, Asked, Refused, Reply};
use tiltyard_types::{Digest, Error, ErrorKind};

use super::registry;
use crate::locks::calls::{Call, Caller};
use crate::protocol::reply;
use crate::protocol::rest::decode_percent;
use crate::registry::{principal, push};
use crate::service::Service;

/// The beginning of every path here.
pub(super) const PREFIX: &str = "/admin/mlflow/";

/// Bytes of a file in one answer, at most. MLflow's clients ask for a file as a whole.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// What a request asks for, as far as permission goes, before its body is read.
pub(super) fn call(method: &Method) -> Call<'static> {
    registry::call(method)
}

/// Answers a request to `/admin/mlflow/…`.
pub(super) async fn answer<B>(
    service: &Service,
    caller: Option<&Caller>,
    (method, path, query, headers): (&Method, &str, &str, &HeaderMap),
    body: B,
) -> Response<Full<Bytes>>
where
    B: Body<Data = Bytes> + Send + Unpin,
    B::Error: std::fmt::Display + Into<Box<dyn std::error::Error + Send + Sync>>,
{
    match respond(service, caller, (method, path, query, headers), body).await {
        Ok(response) => response,
        Err(refused) => {
            let status = StatusCode::from_u16(refused.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            told(status, reply::JSON, refused.form().to_string().into())
        }
    }
}

async fn respond<B>(
    service: &Service,
    caller: Option<&Caller>,
    (method, path, query, headers): (&Method, &str, &str, &HeaderMap),
    body: B,
) -> Result<Response<Full<Bytes>>, Refused>
where
    B: Body<Data = Bytes> + Send + Unpin,
    B::Error: std::fmt::Display + Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let wrong = |error: Error| Refused::from(&error);
    let rest = path.strip_prefix(PREFIX).unwrap_or_default();
    let rest = rest.strip_prefix("api/2.0/").or_else(|| rest.strip_prefix("ajax-api/2.0/")).unwrap_or(rest);
    let (rest, query) = (decode_percent(rest).map_err(wrong)?, pairs(query).map_err(wrong)?);
    let is_said = !matches!(*method, Method::GET | Method::HEAD);
    let body = if is_said { registry::read(body).await.map_err(wrong)? } else { Value::Null };
    let base = base(service, headers);
    let asked = Asked { method: method.as_str(), path: &rest, query: &query, body, base: &base };
    // The book is not held over what takes time.
    let answered = face::answer(&service.registry.book(), &asked)?;
    let form = match answered {
        Reply::Answer(form) => form,
        Reply::Text(text) => return Ok(told(StatusCode::OK, HeaderValue::from_static("text/plain"), text.into())),
        Reply::File { model, version, path } => {
            let bytes = file(service, &model, version, &path).await.map_err(wrong)?;
            return Ok(told(StatusCode::OK, HeaderValue::from_static("application/octet-stream"), bytes));
        }
        Reply::Orders(orders) => {
            let outcome = order(service, caller, &asked, orders).await.map_err(wrong)?;
            face::answer_to(&service.registry.book(), &asked, &outcome)?
        }
    };
    Ok(told(StatusCode::OK, reply::JSON, form.to_string().into()))
}

/// Has orders done, one after the other, where the caller may deploy the model that the call is about.
async fn order(
    service: &Service,
    caller: Option<&Caller>,
    asked: &Asked<'_>,
    orders: Vec<Order>,
) -> Result<Outcome, Error> {
    let model = asked.body["name"].as_str().unwrap_or_default();
    if let Some(caller) = caller {
        caller.may(Call::Deploy(model))?;
    }
    let mut outcome = Outcome::Model { model: model.to_owned() };
    for mut order in orders {
        if let Wants::Push(push) = &mut order.wants {
            push.number_min = 1 + push::highest(service, &push.model).await;
        }
        outcome = service.registry.order(order, principal(caller, Some(model))).await?.outcome;
    }
    Ok(outcome)
}

/// The bytes of a version's file.
async fn file(service: &Service, model: &str, version: u64, path: &str) -> Result<Bytes, Error> {
    let found = service.registry.book().model(model).and_then(|model| {
        let file = model.version(version)?.files.iter().find(|file| file.path == path)?;
        Some((file.sha256, file.size))
    });
    let (digest, size): (Digest, u64) = found.ok_or_else(|| Error::not_found(format!("there is no file {path:?}")))?;
    if size > FILE_BYTES_MAX {
        let message = format!(
            "{path:?} has {size} bytes, and at most {FILE_BYTES_MAX} come this way: tiltyard pull {model}@{version}"
        );
        return Err(Error::new(ErrorKind::TooLarge, message));
    }
    let blobs = Arc::clone(service.registry.artifacts()?);
    let read = tokio::task::spawn_blocking(move || -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        // One byte more, so that the end is seen, where the digest is checked.
        blobs
            .open(digest)?
            .take(FILE_BYTES_MAX + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| Error::new(ErrorKind::NotReady, format!("{digest} cannot be read: {error}")))?;
        Ok(bytes)
    });
    let read = read.await.map_err(|_| Error::new(ErrorKind::Engine, "the thread that reads panicked"))?;
    read.map(Bytes::from)
}

/// Where this is reached, as the client knows it.
fn base(service: &Service, headers: &HeaderMap) -> String {
    let scheme = if service.live.config().tls_cert.is_some() { "https" } else { "http" };
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost");
    format!("{scheme}://{host}{}", PREFIX.trim_end_matches('/'))
}

fn told(status: StatusCode, kind: HeaderValue, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// A query's pairs, in their order: a key may be there more than once.
fn pairs(query: &str) -> Result<Vec<(String, String)>, Error> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        Ok((decode_percent(name)?, decode_percent(&value.replace('+', " "))?))
    });
    pairs.collect()
}
