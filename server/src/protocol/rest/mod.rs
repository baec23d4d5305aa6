//! Which REST path does what? The Open Inference Protocol v2 with the extensions that Triton's clients use.

mod calls;
pub(crate) mod feedback;
mod forms;
mod headers;
mod infer;
mod manage;

use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, ALLOW, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, VARY};
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::Body;
use serde_json::Value;
use smallvec::SmallVec;
use tiltyard_types::{Error, ErrorKind, RequestId, Result};

use super::body::{self, ReplyBody};
use super::compression::{Encoding, compress};
use super::reply::{Reply, failure};
use super::{beside_the_loop, docs, explain, parse_version, score};
use crate::admission::Room;
use crate::arm::Arm;
use crate::clock;
use crate::describe;
use crate::infer::{Accepted, count_refusal};
use crate::listen::CameIn;
use crate::locks::calls::Caller;
use crate::route::{Asking, Choice};
use crate::service::Service;

/// Answers smaller than this stay plain even where the client accepts compression.
const COMPRESSED_BYTES_MIN: usize = 512;

/// A request whose head was read.
pub(crate) struct Head<'a> {
    pub(crate) method: &'a Method,
    /// The path's parts, decoded.
    pub(crate) path: &'a [&'a str],
    pub(crate) headers: &'a HeaderMap,
    /// Who sent it; nobody where there are no locks, or what is asked is open to everybody.
    pub(crate) caller: Option<Arc<Caller>>,
}

impl Head<'_> {
    /// What a plan may ask of a request that has this name.
    pub(crate) fn asking(&self, id: RequestId) -> Asking<'_> {
        Asking { headers: self.headers, caller: self.caller.as_ref().map(|caller| caller.name.as_str()), id }
    }
}

/// As many parts as the longest path of an inference has.
const PARTS: usize = 6;

/// Answers one REST request, whatever happens.
pub(crate) async fn answer<B>(service: &Arc<Service>, request: Request<B>, came_in: &CameIn) -> Response<ReplyBody>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::fmt::Display,
{
    let (parts, body) = request.into_parts();
    let decoded: Vec<String>;
    let mut path = segments(parts.uri.path());
    if parts.uri.path().contains('%') {
        decoded = match path.iter().map(|part| decode_percent(part)).collect() {
            Ok(decoded) => decoded,
            Err(error) => return send(&parts.headers, failure(&error)).await,
        };
        path = decoded.iter().map(String::as_str).collect();
    }
    let Parts { method, headers, .. } = &parts;
    let mut head = Head { method, path: &path, headers, caller: None };
    let answered = match let_in(service, &head, came_in) {
        Ok(caller) => {
            head.caller = caller;
            dispatch(service, &head, body).await
        }
        Err(error) => Err(error),
    };
    let reply = match answered {
        Ok(reply) => reply,
        Err(error) => {
            service.totals.note_failure(error.kind());
            tracing::debug!(path = parts.uri.path(), error = error.kind().name(), reason = error.message(), "refused");
            failure(&error)
        }
    };
    send(&parts.headers, reply).await
}

/// Whether a request may go on, before anything of its body is read. One that asks a model counts for its client as soon as
/// its caller is known, whatever it asks and whether or not it may, as over gRPC.
fn let_in(service: &Service, head: &Head<'_>, came_in: &CameIn) -> Result<Option<Arc<Caller>>> {
    let allowed = match &service.access {
        None => Ok(None),
        Some(access) => calls::allow(access, head, came_in.certificate.as_deref()),
    };
    let inference = &service.inference;
    let is_known = allowed.as_ref().map_or_else(|error| error.kind() == ErrorKind::Forbidden, |_| true);
    if let Some(asker) = inference.asker(head.headers, came_in.from)
        && is_known
        && let Some(model) = model_asked(head)
    {
        let counted = inference.admit_client(Some(asker), clock::now());
        let refused = |error: &Error| inference.tell_failure(inference.accept(head.headers, None, 0), model, "", error);
        counted.inspect_err(refused)?;
    }
    allowed
}

/// The model that an inference is for.
fn model_asked<'a>(head: &Head<'a>) -> Option<&'a str> {
    match head.path {
        ["v1" | "v2", "models", model, "infer" | "score" | "explain"] if *head.method == Method::POST => Some(model),
        ["v1" | "v2", "models", model, "versions", _, "infer" | "score" | "explain"]
            if *head.method == Method::POST =>
        {
            Some(model)
        }
        _ => None,
    }
}

async fn dispatch<B>(service: &Arc<Service>, head: &Head<'_>, body: B) -> Result<Reply>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::fmt::Display,
{
    if *head.method == Method::POST
        && let ["v2", "models", model, rest @ ..] = head.path
        && let ["infer"] | ["versions", _, "infer"] = rest
    {
        let version = parse_version(if let [_, version, _] = rest { version } else { "" })?;
        return infer::infer(service, head, model, version, body).await;
    }
    // Boxed, so that the future that every inference is moved about with stays small.
    Box::pin(dispatch_rest(service, head, body)).await
}

/// Lets an inference in by what its head tells, and reads its body, which takes the room that comes with it. Where the body
/// must tell whom it is for, nobody's load speaks against it yet.
pub(crate) async fn receive<B>(
    service: &Service,
    choice: &Choice,
    accepted: Accepted,
    content_encoding: Option<&HeaderValue>,
    body: B,
) -> Result<(Bytes, Room)>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::fmt::Display,
{
    let inference = &service.inference;
    let stats = match choice.known() {
        Some(arm) => inference.foresee(choice, accepted).map(|()| &arm.deployment.stats)?,
        None => inference.admission.check(inference.admission.unknown()).map(|()| inference.admission.unknown())?,
    };
    let mut room = inference.admission.room(stats);
    let (bytes_max, time_max) = (service.live.body_bytes_max(), service.live.request_timeout());
    match body::read(content_encoding, body, bytes_max, time_max, &mut room).await {
        Ok(bytes) => Ok((bytes, room)),
        Err(error) => {
            if choice.known().is_some() && error.kind() == ErrorKind::Overloaded {
                count_refusal(choice, accepted, &error);
            }
            Err(error)
        }
    }
}

/// All but inference.
async fn dispatch_rest<B>(service: &Arc<Service>, head: &Head<'_>, body: B) -> Result<Reply>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::fmt::Display,
{
    let path = head.path;
    let get = *head.method == Method::GET || *head.method == Method::HEAD;
    let encoding = head.headers.get(CONTENT_ENCODING);
    let mut room = service.inference.admission.room_for_unknown();
    // The allowed methods of what the path names, should this one not be among them.
    let allowed = match (path, get, *head.method == Method::POST) {
        (["v1", "models", model, rest @ ..], _, true) if matches!(rest, ["score"] | ["versions", _, "score"]) => {
            let version = parse_version(if let [_, version, _] = rest { version } else { "" })?;
            headers::check_content_type(head.headers.get(CONTENT_TYPE))?;
            return score::score(service, head, model, version, body).await;
        }
        (["v1", "models", model, rest @ ..], _, true) if matches!(rest, ["explain"] | ["versions", _, "explain"]) => {
            let version = parse_version(if let [_, version, _] = rest { version } else { "" })?;
            headers::check_content_type(head.headers.get(CONTENT_TYPE))?;
            return explain::explain(service, head, model, version, body).await;
        }
        (["v1", "feedback"], _, true) => return feedback::answer(service, head, body).await,
        (["v1", "feedback"], ..) => "POST",
        (["v2", "models", _, "infer"] | ["v2", "models", _, "versions", _, "infer"], ..) => "POST",
        (["v1", "models", _, "score" | "explain"] | ["v1", "models", _, "versions", _, "score" | "explain"], ..) => {
            "POST"
        }
        (["v2", "models", _, .., "generate" | "generate_stream"], _, true) => {
            return Err(Error::unsupported("generate is not offered: it is for language models; use infer"));
        }
        ([], true, _) => return Ok(docs::front_page(service)),
        (["docs", rest @ ..], true, _) => return docs::page(service, rest),
        (["v2"], true, _) => return Ok(Reply::json(&forms::server_metadata(&describe::server_metadata()))),
        (["v2", "health", "live"], true, _) => return Ok(Reply::status_only(StatusCode::OK)),
        (["v2", "health", "ready"], true, _) => return Ok(readiness(service.is_ready())),
        (["v2", "models", "stats"], true, _) => return manage::statistics(service, None, None),
        (["v2", "models", model], true, _) => return about(service, model, "", metadata),
        (["v2", "models", model, "versions", version], true, _) => return about(service, model, version, metadata),
        (["v2", "models", model, "ready"], true, _) => return model_ready(service, model, ""),
        (["v2", "models", model, "versions", version, "ready"], true, _) => {
            return model_ready(service, model, version);
        }
        (["v2", "models", model, "config"], true, _) => return about(service, model, "", config),
        (["v2", "models", model, "versions", version, "config"], true, _) => {
            return about(service, model, version, config);
        }
        (["v2", "models", model, "stats"], true, _) => return manage::statistics(service, Some(model), None),
        (["v2", "models", model, "versions", version, "stats"], true, _) => {
            return manage::statistics(service, Some(model), parse_version(version)?);
        }
        (["v2", "repository", ..] | ["v2", "logging"] | ["v2", "trace", "setting"], ..)
        | (["v2", "models", _, "trace", "setting"] | ["v2", "systemsharedmemory" | "cudasharedmemory", ..], ..) => {
            let (bytes_max, time_max) = (service.live.body_bytes_max(), service.live.request_timeout());
            let body = body::read(encoding, body, bytes_max, time_max, &mut room).await?;
            match manage::answer(service, path, get, *head.method == Method::POST, &body).await? {
                Some(reply) => return Ok(reply),
                None => "GET, POST",
            }
        }
        (["v2" | "docs", ..], false, _) | ([], false, _) => "GET",
        _ => {
            return Err(Error::not_found(format!("nothing is at {} /{}", head.method, path.join("/"))));
        }
    };
    if (*head.method == Method::POST && allowed.contains("POST")) || (get && allowed.contains("GET")) {
        return Err(Error::not_found(format!("nothing is at {} /{}", head.method, path.join("/"))));
    }
    let message = format!("/{} takes {allowed}, got {}", path.join("/"), head.method);
    let mut reply = failure(&Error::invalid(message));
    reply.status = StatusCode::METHOD_NOT_ALLOWED;
    reply.headers.insert(ALLOW, HeaderValue::from_str(allowed).unwrap_or(HeaderValue::from_static("GET, POST")));
    Ok(reply)
}

fn readiness(ready: bool) -> Reply {
    Reply::status_only(if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE })
}

fn model_ready(service: &Service, model: &str, version: &str) -> Result<Reply> {
    let version = parse_version(version)?;
    Ok(readiness(!service.is_leaving() && service.inference.catalog.load().speaker(model, version).is_ok()))
}

/// Answers about the deployment that a path names.
fn about(service: &Service, model: &str, version: &str, form: fn(&Service, &str, &Arm) -> Value) -> Result<Reply> {
    let arm = service.inference.catalog.load().speaker(model, parse_version(version)?)?;
    Ok(Reply::json(&form(service, model, &arm)))
}

fn metadata(service: &Service, name: &str, arm: &Arm) -> Value {
    let catalog = service.inference.catalog.load();
    let model = catalog.models.get(name).cloned().unwrap_or_default();
    forms::model_metadata(&describe::model_metadata(name, &model, &arm.deployment))
}

fn config(service: &Service, name: &str, arm: &Arm) -> Value {
    forms::model_config(&describe::model_config(name, &arm.deployment, &service.live.config().version_policy))
}

/// Compresses where the client accepts it and it is worth it, and puts the head on.
async fn send(request_headers: &HeaderMap, reply: Reply) -> Response<ReplyBody> {
    let worth = reply.body.len() >= COMPRESSED_BYTES_MIN;
    let encoding = worth.then(|| accepted_encoding(request_headers)).flatten();
    let (encoding, body) = match encoding {
        None => (None, reply.body),
        Some(encoding) => {
            let plain = reply.body.clone();
            match beside_the_loop(plain.len(), move || compress(encoding, &plain)).await {
                Ok(compressed) => (Some(encoding), compressed),
                Err(_) => (None, reply.body),
            }
        }
    };
    let mut response = Response::new(ReplyBody::from(body));
    *response.status_mut() = reply.status;
    *response.headers_mut() = reply.headers;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, reply.content_type);
    if let Some(encoding) = encoding {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static(encoding.name()));
        headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
    }
    response
}

fn accepted_encoding(headers: &HeaderMap) -> Option<Encoding> {
    let values = headers.get_all(ACCEPT_ENCODING).into_iter().filter_map(|value| value.to_str().ok());
    let weight = |part: &str| part.trim().strip_prefix("q=").and_then(|weight| weight.trim().parse::<f64>().ok());
    let refused = |item: &str| item.split(';').skip(1).any(|part| weight(part) == Some(0.0));
    let names: Vec<&str> = values
        .flat_map(|value| value.split(','))
        .filter(|item| !refused(item))
        .map(|item| item.split(';').next().unwrap_or("").trim())
        .collect();
    [Encoding::Gzip, Encoding::Deflate].into_iter().find(|encoding| names.contains(&encoding.name()))
}

/// The path's parts as they stand in it, percent-encoded.
fn segments(path: &str) -> SmallVec<[&str; PARTS]> {
    let mut parts = SmallVec::new();
    let mut rest = path;
    while !rest.is_empty() {
        let (part, after) = rest.split_at(rest.bytes().position(|byte| byte == b'/').unwrap_or(rest.len()));
        if !part.is_empty() {
            parts.push(part);
        }
        rest = after.get(1..).unwrap_or_default();
    }
    parts
}

/// A part of a path without its percent signs.
pub(crate) fn decode_percent(part: &str) -> Result<String> {
    let broken = || Error::invalid("the path is not percent-encoded UTF-8");
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if first == b'%' {
            let digit = |at: usize| tail.get(at).and_then(|&byte| char::from(byte).to_digit(16)).ok_or_else(broken);
            bytes.push((digit(0)? * 16 + digit(1)?) as u8);
            rest = &tail[2..];
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).map_err(|_| broken())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_decoded() {
        let decoded = |path: &str| segments(path).into_iter().map(decode_percent).collect::<Result<Vec<_>>>();
        let check = |path: &str, expected: &[&str]| assert_eq!(decoded(path).unwrap(), expected, "{path}");
        check("/v2/models/my%20model/", &["v2", "models", "my model"]);
        check("//a///b%2Fc/é", &["a", "b/c", "é"]);
        check("/", &[]);
        check("", &[]);
        assert!(decoded("/v2/%zz").is_err() && decoded("/v2/%f").is_err() && decoded("/%ff").is_err());
    }

    #[test]
    fn encodings_are_negotiated() {
        let check = |value: &'static str, expected: Option<Encoding>| {
            let headers = HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static(value))]);
            assert_eq!(accepted_encoding(&headers), expected, "{value}");
        };
        check("gzip, deflate, br", Some(Encoding::Gzip));
        check("deflate;q=0.5", Some(Encoding::Deflate));
        check("gzip; q=0, deflate", Some(Encoding::Deflate));
        check("gzip;q=0.0", None);
        check("br", None);
    }
}
