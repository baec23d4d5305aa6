//! How do answers become frames, headers and trailers?

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Response};
use http_body::{Body, Frame};
use prost::Message;
use tokio::sync::mpsc;

use super::compression::{Encoder, GRPC_ENCODING};
use super::status::ok_trailers;
use super::{Code, Status};

pub(crate) const PREFIX_BYTES: usize = 5;
pub(super) const FLAG_PLAIN: u8 = 0;
pub(super) const FLAG_COMPRESSED: u8 = 1;

/// What stands before each message: whether it is compressed, and its length.
pub(crate) fn prefix(compressed: bool, length: u32) -> [u8; PREFIX_BYTES] {
    let [a, b, c, d] = length.to_be_bytes();
    [if compressed { FLAG_COMPRESSED } else { FLAG_PLAIN }, a, b, c, d]
}

/// A message with its prefix, uncompressed, in one allocation. Fails with RESOURCE_EXHAUSTED from 4 GiB on, which no frame
/// can hold.
pub(crate) fn frame(message: &impl Message) -> Result<Bytes, Status> {
    let bytes = message.encoded_len();
    let Ok(length) = u32::try_from(bytes) else {
        let text = format!("the answer has {bytes} bytes, more than gRPC's limit of {} bytes", u32::MAX);
        return Err(Status::new(Code::ResourceExhausted, text));
    };
    let mut buffer = Vec::with_capacity(PREFIX_BYTES + bytes);
    buffer.extend_from_slice(&prefix(false, length));
    // `encode` would measure the message a second time, to find that a vector has room.
    message.encode_raw(&mut buffer);
    Ok(Bytes::from(buffer))
}

/// The answer to a unary call that went well: `framed` comes from [`frame`] or [`Encoder::frame`].
pub(crate) fn unary_response(framed: Bytes) -> Response<GrpcBody> {
    unary_response_with(framed, own_headers())
}

/// The same with headers that were made beforehand, the content type among them.
pub(crate) fn unary_response_with(framed: Bytes, headers: HeaderMap) -> Response<GrpcBody> {
    let compressed = framed.first() == Some(&FLAG_COMPRESSED);
    response(GrpcBody(Inner::Unary { data: Some(framed), trailers: Some(ok_trailers()) }), compressed, headers)
}

/// The answer to a streaming call: `drive` sends the messages, and what it returns is the status at the end.
///
/// The future runs inside the body. It makes progress when the client has taken what was sent before, and it is dropped
/// with the body when the client goes away: no task outlives its call. At most `waiting_max` messages (at least one) wait
/// between the two.
pub(crate) fn streaming_response<D, F>(encoder: Encoder, waiting_max: usize, drive: D) -> Response<GrpcBody>
where
    D: FnOnce(MessageSender) -> F,
    F: Future<Output = Result<(), Status>> + Send + 'static,
{
    let (messages, waiting) = mpsc::channel(waiting_max.max(1));
    let driver = Box::pin(drive(MessageSender { messages, encoder }));
    let body = GrpcBody(Inner::Streaming { driver: Driver::Running(driver), waiting });
    response(body, encoder.may_compress(), own_headers())
}

impl Status {
    /// The answer to a call that failed before its first message: HTTP 200 with the status among the headers and no body.
    pub(crate) fn into_response(self) -> Response<GrpcBody> {
        let mut response = response(GrpcBody::empty(), false, own_headers());
        self.write(response.headers_mut());
        response
    }
}

/// The headers of an answer that has nothing else to tell.
fn own_headers() -> HeaderMap {
    HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/grpc"))])
}

fn response(body: GrpcBody, may_be_compressed: bool, headers: HeaderMap) -> Response<GrpcBody> {
    let mut response = Response::new(body);
    *response.headers_mut() = headers;
    if may_be_compressed {
        response.headers_mut().insert(&GRPC_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

/// The sending half of a streaming call.
pub(crate) struct MessageSender {
    messages: mpsc::Sender<Bytes>,
    encoder: Encoder,
}

impl MessageSender {
    /// Sends one message. Waits while the client has not taken those before it. Fails with CANCELLED where the client is
    /// gone, and like [`frame`].
    pub(crate) async fn send(&self, message: &impl Message) -> Result<(), Status> {
        let framed = self.encoder.frame(message)?;
        self.messages.send(framed).await.map_err(|_| Status::new(Code::Cancelled, "the client went away"))
    }
}

/// The body of every gRPC answer.
pub(crate) struct GrpcBody(Inner);

enum Inner {
    /// Nothing, or nothing any more.
    Empty,
    /// One message and the end.
    Unary { data: Option<Bytes>, trailers: Option<HeaderMap> },
    /// Messages as they come.
    Streaming { driver: Driver, waiting: mpsc::Receiver<Bytes> },
}

enum Driver {
    Running(Pin<Box<dyn Future<Output = Result<(), Status>> + Send>>),
    /// What the trailers will say once the messages that still wait are sent.
    Ended(Result<(), Status>),
}

impl GrpcBody {
    /// A body without data or trailers.
    pub(crate) fn empty() -> GrpcBody {
        GrpcBody(Inner::Empty)
    }
}

impl fmt::Debug for GrpcBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0 {
            Inner::Empty => "GrpcBody(empty)",
            Inner::Unary { .. } => "GrpcBody(unary)",
            Inner::Streaming { .. } => "GrpcBody(streaming)",
        })
    }
}

impl Body for GrpcBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let inner = &mut self.get_mut().0;
        match inner {
            Inner::Empty => Poll::Ready(None),
            Inner::Unary { data, trailers } => {
                if let Some(data) = data.take() {
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                let trailers = trailers.take();
                *inner = Inner::Empty;
                Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
            }
            Inner::Streaming { driver, waiting } => {
                if let Driver::Running(future) = driver
                    && let Poll::Ready(end) = future.as_mut().poll(context)
                {
                    *driver = Driver::Ended(end);
                }
                match (waiting.poll_recv(context), driver) {
                    (Poll::Ready(Some(data)), _) => Poll::Ready(Some(Ok(Frame::data(data)))),
                    // Closed and empty: every message is on its way, so the end may follow.
                    (Poll::Ready(None), Driver::Ended(end)) => {
                        let end = std::mem::replace(end, Ok(()));
                        *inner = Inner::Empty;
                        Poll::Ready(Some(Ok(Frame::trailers(trailers_of(end)))))
                    }
                    _ => Poll::Pending,
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.0, Inner::Empty)
    }
}

fn trailers_of(end: Result<(), Status>) -> HeaderMap {
    match end {
        Ok(()) => ok_trailers(),
        Err(status) => {
            let mut trailers = HeaderMap::new();
            status.write(&mut trailers);
            trailers
        }
    }
}
