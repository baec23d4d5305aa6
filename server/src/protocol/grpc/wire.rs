//! How do gRPC messages get on and off HTTP/2?
//!
//! This is the whole transport: framing, compression, deadlines, statuses and trailers over the bodies of `hyper`, with
//! one fast path, the unary call. A message that arrived in one DATA frame is never copied; an answer is one prepared
//! buffer and its trailers, without a channel, a task or a box. What the messages mean is not known here.

mod compression;
mod head;
mod read;
mod respond;
mod retry;
mod status;
#[cfg(test)]
mod tests;
mod timeout;

use http::header::{ALLOW, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Version};

pub(crate) use compression::{CompressionPolicy, Encoder};
pub(crate) use head::Head;
pub(crate) use read::{MESSAGE_TIME_MAX, MessageStream, late, read_message};
pub(crate) use respond::{
    GrpcBody, MessageSender, PREFIX_BYTES, frame, prefix, streaming_response, unary_response, unary_response_with,
};
pub(crate) use retry::wait_ms;
pub(crate) use status::{Code, Status};
pub(crate) use timeout::timeout;

/// Whether a request claims to be gRPC, of whatever kind. Where one port serves several protocols, this tells them apart.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).map(|value| value.as_bytes());
    content_type.is_some_and(|value| value.starts_with(b"application/grpc"))
}

/// The HTTP answer to a request that is no gRPC call of ours, for which gRPC has no status; `None` where it may go on.
///
/// 505 below HTTP/2, which has no trailers that clients could rely on; 405 for a method other than POST; 415 for a content
/// type other than `application/grpc` and `application/grpc+proto`.
pub(crate) fn refusal(request: &Parts, head: &Head<'_>) -> Option<Response<GrpcBody>> {
    let refuse = |status| {
        let mut response = Response::new(GrpcBody::empty());
        *response.status_mut() = status;
        response
    };
    if !head.content_type.is_some_and(is_ours) {
        return Some(refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE));
    }
    if request.version != Version::HTTP_2 {
        return Some(refuse(StatusCode::HTTP_VERSION_NOT_SUPPORTED));
    }
    if request.method != Method::POST {
        let mut response = refuse(StatusCode::METHOD_NOT_ALLOWED);
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
        return Some(response);
    }
    None
}

fn is_ours(content_type: &HeaderValue) -> bool {
    // Most say just this.
    if content_type == "application/grpc" {
        return true;
    }
    let media_type = content_type.as_bytes().split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii();
    media_type.eq_ignore_ascii_case(b"application/grpc") || media_type.eq_ignore_ascii_case(b"application/grpc+proto")
}
