//! What is an answer over REST, before it is compressed and sent?

use bytes::Bytes;
use http::StatusCode;
use http::header::{HeaderMap, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use serde_json::{Value, json};
use tiltyard_types::{Error, ErrorKind};

use super::status::http_status;

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
        reply.headers.insert(RETRY_AFTER, HeaderValue::from(wait.as_secs().max(1)));
    }
    reply
}
