//! Which protocol is a request of, and who answers it?
//!
//! To add a protocol, write a file (and its codec) here and name it in [`answer`]. Protocols decode, call
//! [`crate::infer`], and encode; the codes of failures are in one table, [`status`].

pub(crate) mod body;
pub(crate) mod classification;
pub(crate) mod compression;
pub(crate) mod date;
pub(crate) mod docs;
pub(crate) mod explain;
pub(crate) mod grpc;
pub(crate) mod reply;
pub(crate) mod rest;
pub(crate) mod score;
pub(crate) mod status;
pub(crate) mod strings;

use std::sync::Arc;

use bytes::Bytes;
use http::header::DATE;
use http::{Request, Response, Version};
use http_body::Body;
use tiltyard_types::Result;

use crate::listen::CameIn;
use crate::service::Service;
use body::ReplyBody;

/// Answers one request of any protocol.
pub(crate) async fn answer<B>(service: Arc<Service>, request: Request<B>, came_in: CameIn) -> Response<ReplyBody>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::fmt::Display + Send + Sync + 'static,
{
    if grpc::wire::is_grpc(request.headers()) {
        return body::grpc(grpc::answer(service, request, &came_in).await);
    }
    let version = request.version();
    let mut response = rest::answer(&service, request, &came_in).await;
    if version == Version::HTTP_2 {
        response.headers_mut().insert(DATE, date::header());
    }
    response
}

/// Work on a body of so many bytes may take tens of milliseconds: the thread's other connections shall not wait.
const HEAVY_BYTES: usize = 1 << 20;

/// Whether work on so many bytes is done where it comes up; see [`beside_the_loop`].
pub(crate) fn is_light(bytes: usize) -> bool {
    bytes < HEAVY_BYTES
}

/// Does work in proportion to `bytes`: here where it is light, on a thread beside the event loop where it is heavy.
pub(crate) async fn beside_the_loop<T: Send + 'static>(bytes: usize, work: impl FnOnce() -> T + Send + 'static) -> T {
    if is_light(bytes) || tokio::runtime::Handle::try_current().is_err() {
        return work();
    }
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        // The work cannot be cancelled once it runs, and before that only together with the loop that waits here.
        Err(ended) => std::panic::resume_unwind(ended.into_panic()),
    }
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
