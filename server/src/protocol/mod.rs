//! Which protocol is a request of, and who answers it?
//!
//! To add a protocol, write a file (and its codec) here and name it in [`answer`]. Protocols decode, call
//! [`crate::infer`], and encode; the codes of failures are in one table, [`status`].

pub(crate) mod body;
pub(crate) mod classification;
pub(crate) mod compression;
pub(crate) mod docs;
pub(crate) mod grpc;
pub(crate) mod reply;
pub(crate) mod rest;
pub(crate) mod score;
pub(crate) mod status;
pub(crate) mod strings;

use std::sync::Arc;

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{Request, Response};
use http_body::Body;
use tiltyard_types::Result;
use tokio::runtime::RuntimeFlavor;

use crate::infer::Outcome;
use crate::service::Service;
use body::ReplyBody;

/// Answers one request of any protocol.
pub(crate) async fn answer<B>(service: Arc<Service>, request: Request<B>) -> Response<ReplyBody>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::fmt::Display + Send + Sync + 'static,
{
    if grpc::wire::is_grpc(request.headers()) {
        return body::grpc(grpc::answer(service, request).await);
    }
    rest::answer(&service, request).await
}

/// Work on a body of so many bytes may take tens of milliseconds: the thread's other connections shall not wait.
const HEAVY_BYTES: usize = 1 << 20;

/// Does work in proportion to `bytes` on this thread; where it is heavy, the thread's other tasks move to another first.
pub(crate) fn beside_the_loop<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    let runtime = tokio::runtime::Handle::try_current();
    let several_threads = runtime.is_ok_and(|runtime| runtime.runtime_flavor() == RuntimeFlavor::MultiThread);
    if bytes >= HEAVY_BYTES && several_threads { tokio::task::block_in_place(work) } else { work() }
}

/// The version in a path or a message; empty stands for none.
pub(crate) fn parse_version(text: &str) -> Result<Option<u64>> {
    if text.is_empty() {
        return Ok(None);
    }
    match text.parse::<u64>() {
        Ok(version) if version > 0 => Ok(Some(version)),
        _ => {
            let shown: String = text.chars().take(40).collect();
            Err(tiltyard_types::Error::invalid(format!("version {shown:?}: expected a positive integer")))
        }
    }
}

/// What every answer tells about who gave it, as headers or metadata.
pub(crate) fn identity_headers(endpoint: &str, outcome: &Outcome) -> Vec<(HeaderName, HeaderValue)> {
    let identity = &outcome.deployment.identity;
    let pairs = [
        ("tiltyard-endpoint", endpoint.to_owned()),
        ("tiltyard-model", identity.model.clone()),
        ("tiltyard-version", identity.version.to_string()),
        ("tiltyard-digest", identity.digest.to_string()),
        ("tiltyard-arm", outcome.role.name().to_owned()),
        ("tiltyard-prediction-id", outcome.id.prediction(0)),
    ];
    // A model's name may hold characters that a header cannot.
    pairs
        .into_iter()
        .filter_map(|(name, value)| Some((HeaderName::from_static(name), HeaderValue::from_str(&value).ok()?)))
        .collect()
}
