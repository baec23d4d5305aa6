//! What do a call's headers say about its messages?

use http::{HeaderMap, HeaderValue};

/// The headers of a call that mean something here, found in one pass: to ask a map for each costs more than all of them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Head<'a> {
    /// What the messages are.
    pub(super) content_type: Option<&'a HeaderValue>,
    /// How long the client waits.
    pub(super) timeout: Option<&'a HeaderValue>,
    /// How the client's messages are compressed where they say that they are.
    pub(super) encoding: Option<&'a HeaderValue>,
    /// Whether the client takes messages that are compressed with gzip.
    pub(super) accepts_gzip: bool,
}

impl<'a> Head<'a> {
    /// Of a header that comes more than once the first counts; what the client accepts may be spread over several.
    pub(crate) fn of(headers: &'a HeaderMap) -> Head<'a> {
        let mut head = Head::default();
        for (name, value) in headers {
            match name.as_str() {
                "content-type" => head.content_type = head.content_type.or(Some(value)),
                "grpc-timeout" => head.timeout = head.timeout.or(Some(value)),
                "grpc-encoding" => head.encoding = head.encoding.or(Some(value)),
                "grpc-accept-encoding" => {
                    let mut names = value.as_bytes().split(|&byte| byte == b',');
                    head.accepts_gzip |= names.any(|name| name.trim_ascii() == b"gzip");
                }
                _ => {}
            }
        }
        head
    }
}
