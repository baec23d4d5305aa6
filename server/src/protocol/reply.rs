//! What is an answer over REST, before it is compressed and sent?

use bytes::Bytes;
use http::StatusCode;
use http::header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use serde_json::{Value, json};
use tiltyard_types::{Error, ErrorKind};

use super::grpc::wire::wait_ms;
use super::status::http_status;

static RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");

/// Status, type, headers and body.
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) content_type: HeaderValue,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// The type of JSON.
pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The type of binary tensors behind JSON.
pub(crate) const BINARY: HeaderValue = HeaderValue::from_static("application/octet-stream");

impl Reply {
    /// An answer of JSON.
    pub(crate) fn json(value: &Value) -> Reply {
        Reply::new(JSON, value.to_string())
    }

    /// An answer of another type.
    pub(crate) fn text(content_type: &'static str, body: impl Into<Bytes>) -> Reply {
        Reply::new(HeaderValue::from_static(content_type), body)
    }

    /// A good answer without headers of its own.
    pub(crate) fn new(content_type: HeaderValue, body: impl Into<Bytes>) -> Reply {
        Reply { status: StatusCode::OK, content_type, headers: HeaderMap::new(), body: body.into() }
    }

    /// An answer that is only a status.
    pub(crate) fn status_only(status: StatusCode) -> Reply {
        Reply { status, ..Reply::text("text/plain", "") }
    }
}

/// The answer to a failure: `{"error": …}` with the status of its kind.
pub(crate) fn failure(error: &Error) -> Reply {
    let mut reply = Reply::json(&json!({ "error": error.message() }));
    reply.status = http_status(error.kind());
    if error.kind() == ErrorKind::Unauthenticated {
        reply.headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"tiltyard\""));
    }
    if let Some(wait) = error.wait() {
        // The standard's header has whole seconds, which is long for a server; many clients read the finer one first.
        reply.headers.insert(RETRY_AFTER, HeaderValue::from(wait_ms(wait).div_ceil(1000)));
        reply.headers.insert(&RETRY_AFTER_MS, HeaderValue::from(wait_ms(wait)));
    }
    reply
}
