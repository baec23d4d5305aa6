//! How does a call's end look on the wire: code, message and trailers?

use std::borrow::Cow;
use std::fmt;
use std::sync::LazyLock;
use std::time::Duration;

use http::header::HeaderName;
use http::{HeaderMap, HeaderValue};

use super::retry;

static GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
static GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// The longest message on the wire, escapes included: above some 8 KiB of headers clients drop the whole answer, and with
/// it the code.
const MESSAGE_BYTES_MAX: usize = 4096;

/// gRPC's closed set of codes.
// The set is the protocol's; not all of it occurs here.
#[allow(dead_code)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    Ok = 0,
    Cancelled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}

impl Code {
    const fn text(self) -> &'static str {
        const TEXTS: [&str; 17] =
            ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16"];
        TEXTS[self as usize]
    }
}

/// How a call failed: a code, a sentence for the client, and metadata for its machinery.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Status {
    code: Code,
    message: Cow<'static, str>,
    metadata: Vec<(HeaderName, HeaderValue)>,
}

impl Status {
    /// A failure of this code; `message` says what was wrong and what was expected.
    pub(crate) fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Status {
        Status { code, message: message.into(), metadata: Vec::new() }
    }

    /// The end of a stream that the server's end ends: the code says that it may go on elsewhere.
    pub(crate) fn shutting_down() -> Status {
        Status::new(Code::Unavailable, "the server is shutting down: ask again for what is not answered")
    }

    /// Adds one entry of metadata, which the client sees among the trailers.
    pub(crate) fn with(mut self, name: HeaderName, value: HeaderValue) -> Status {
        self.metadata.push((name, value));
        self
    }

    /// Adds when to try again.
    pub(crate) fn retry_after(mut self, wait: Duration) -> Status {
        self.metadata.extend(retry::metadata(self.code, &self.message, wait));
        self
    }

    /// The code.
    pub(crate) fn code(&self) -> Code {
        self.code
    }

    /// The sentence for the client, whole and without escapes.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// Writes this end of a call into trailers, or into the headers of an answer that has nothing but its end; with a line for
    /// who looks for it.
    pub(super) fn write(self, trailers: &mut HeaderMap) {
        tracing::debug!(code = ?self.code, reason = self.message(), "refused");
        trailers.insert(&GRPC_STATUS, HeaderValue::from_static(self.code.text()));
        if !self.message.is_empty() {
            trailers.insert(&GRPC_MESSAGE, encoded_message(&self.message));
        }
        for (name, value) in self.metadata {
            trailers.append(name, value);
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.code, self.message)
    }
}

impl std::error::Error for Status {}

/// The trailers of a call that went well.
pub(super) fn ok_trailers() -> HeaderMap {
    static TRAILERS: LazyLock<HeaderMap> =
        LazyLock::new(|| HeaderMap::from_iter([(GRPC_STATUS.clone(), HeaderValue::from_static("0"))]));
    TRAILERS.clone()
}

/// Percent-encodes what is not printable ASCII, and `%`. A message that is too long ends after its last whole character.
fn encoded_message(message: &str) -> HeaderValue {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut encoded = Vec::with_capacity(message.len().min(MESSAGE_BYTES_MAX));
    for character in message.chars() {
        let plain = matches!(character, ' '..='~') && character != '%';
        let width = if plain { 1 } else { character.len_utf8() * 3 };
        if encoded.len() + width > MESSAGE_BYTES_MAX {
            break;
        }
        let mut utf8 = [0; 4];
        for &byte in character.encode_utf8(&mut utf8).as_bytes() {
            if plain {
                encoded.push(byte);
            } else {
                encoded.extend_from_slice(&[b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 0xF)]]);
            }
        }
    }
    // Only bytes from 0x20 to 0x7E were written, all of which a header may hold.
    HeaderValue::from_bytes(&encoded).unwrap_or(HeaderValue::from_static("the message could not be encoded"))
}
