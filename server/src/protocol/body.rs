//! How does a request's body become bytes, and an answer's bytes a body?

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http::header::HeaderValue;
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use tiltyard_types::{Error, Result};

use super::beside_the_loop;
use super::compression::{Encoding, decompress};
use super::grpc::wire::GrpcBody;
use crate::admission::Room;
use crate::{clock, deadlines};

/// The body of every answer.
pub(crate) enum ReplyBody {
    /// Ready bytes.
    Full(Full<Bytes>),
    /// A gRPC answer with its trailers.
    Grpc(GrpcBody),
}

impl From<Bytes> for ReplyBody {
    fn from(bytes: Bytes) -> ReplyBody {
        ReplyBody::Full(Full::new(bytes))
    }
}

/// Wraps a gRPC answer.
pub(crate) fn grpc(response: Response<GrpcBody>) -> Response<ReplyBody> {
    response.map(ReplyBody::Grpc)
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.get_mut() {
            ReplyBody::Full(body) => Pin::new(body).poll_frame(context),
            ReplyBody::Grpc(body) => Pin::new(body).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            ReplyBody::Full(body) => body.is_end_stream(),
            ReplyBody::Grpc(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            ReplyBody::Full(body) => body.size_hint(),
            ReplyBody::Grpc(body) => body.size_hint(),
        }
    }
}

/// Reads a whole body and undoes its content encoding. A body in one piece is not copied. What has arrived takes `room`.
///
/// Fails for one over `bytes_max`, plain or compressed, and for one that there is no room for, without reading it to its
/// end, and for one that takes longer than `time_max` to arrive.
pub(crate) async fn read<B>(
    content_encoding: Option<&HeaderValue>,
    body: B,
    bytes_max: usize,
    time_max: Duration,
    room: &mut Room,
) -> Result<Bytes>
where
    B: Body<Data = Bytes>,
    B::Error: std::fmt::Display,
{
    // What the head declares, if it declares anything.
    let declared = body.size_hint().exact();
    if let Some(length) = declared.filter(|&length| length > bytes_max as u64) {
        return Err(too_large(&format!("has {length} bytes"), bytes_max));
    }
    room.expect(declared.unwrap_or(0) as usize)?;
    let encoding = content_encoding.map(encoding).transpose()?.flatten();
    let Some(raw) = deadlines::within(clock::now() + time_max, collect(body, bytes_max, room)).await else {
        return Err(deadlines::late(format!("the body did not arrive within {time_max:.0?}")));
    };
    let raw = raw?;
    let raw_bytes = raw.len();
    let Some(encoding) = encoding else { return Ok(raw) };
    let mut beside = room.beside();
    let undo = move || {
        let plain = undo(encoding, &raw, bytes_max, &mut beside);
        (plain, beside)
    };
    // What it grows to is not known yet; this is what dense numbers do.
    let (plain, beside) = beside_the_loop(raw_bytes.saturating_mul(16), undo).await;
    *room = beside;
    plain
}

/// Undoes a content encoding. What it grows to takes `room`.
fn undo(encoding: Encoding, raw: &[u8], bytes_max: usize, room: &mut Room) -> Result<Bytes> {
    let mut refused = None;
    let mut grow = |bytes| room.grow(bytes).map_err(|error| refused = Some(error)).is_ok();
    let plain = decompress(encoding, raw, bytes_max, &mut grow);
    match (refused, plain) {
        (Some(error), _) => Err(error),
        (None, Ok(Some(plain))) => Ok(plain),
        (None, Ok(None)) => Err(too_large("decompresses to more", bytes_max)),
        (None, Err(reason)) => Err(Error::invalid(format!("the body is not what its content encoding says: {reason}"))),
    }
}

fn encoding(value: &HeaderValue) -> Result<Option<Encoding>> {
    match value.as_bytes().to_ascii_lowercase().as_slice() {
        b"" | b"identity" => Ok(None),
        b"gzip" | b"x-gzip" => Ok(Some(Encoding::Gzip)),
        b"deflate" => Ok(Some(Encoding::Deflate)),
        _ => Err(Error::invalid(format!(
            "content encoding {value:?} is not known here: expected gzip, deflate or identity"
        ))),
    }
}

async fn collect<B>(body: B, bytes_max: usize, room: &mut Room) -> Result<Bytes>
where
    B: Body<Data = Bytes>,
    B::Error: std::fmt::Display,
{
    let mut body = std::pin::pin!(body);
    let mut first = Bytes::new();
    let mut more: Option<Vec<u8>> = None;
    let mut length = 0usize;
    // What is declared bounds the buffer and does not make it.
    let total = body.size_hint().upper().map_or(bytes_max, |upper| upper.min(bytes_max as u64) as usize);
    while !body.is_end_stream()
        && let Some(frame) = body.frame().await
    {
        let frame = frame.map_err(|error| Error::invalid(format!("the body ended early: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        length += data.len();
        if length > bytes_max {
            return Err(too_large("goes on", bytes_max));
        }
        if first.is_empty() && more.is_none() {
            room.grow(length)?;
            first = data;
            continue;
        }
        let more = more.get_or_insert_default();
        Room::make(Some(room), more, length, total)?;
        more.extend_from_slice(&std::mem::take(&mut first));
        more.extend_from_slice(&data);
    }
    Ok(more.map_or(first, Bytes::from))
}

fn too_large(what: &str, bytes_max: usize) -> Error {
    Error::too_large(format!("the body {what}; the limit is {bytes_max} bytes (body_bytes_max)"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::StreamBody;
    use std::io::Write;
    use tiltyard_types::ErrorKind;

    use crate::admission::Admission;

    async fn read_pieces(pieces: &[&[u8]], encoding: Option<&'static str>, bytes_max: usize) -> Result<Bytes> {
        let frames: Vec<Result<Frame<Bytes>, String>> =
            pieces.iter().map(|piece| Ok(Frame::data(Bytes::copy_from_slice(piece)))).collect();
        let encoding = encoding.map(HeaderValue::from_static);
        let mut room = Admission::new(1, 2 << 20).room_for_unknown();
        let body = StreamBody::new(futures_stream(frames));
        let read = read(encoding.as_ref(), body, bytes_max, Duration::from_secs(9), &mut room).await;
        read.inspect(|bytes| assert!(room.bytes() >= bytes.len(), "what is in memory takes room"))
    }

    fn futures_stream<T>(items: Vec<T>) -> impl futures_core::Stream<Item = T> {
        struct Items<T>(std::vec::IntoIter<T>);
        impl<T> Unpin for Items<T> {}
        impl<T> futures_core::Stream for Items<T> {
            type Item = T;
            fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<T>> {
                Poll::Ready(self.0.next())
            }
        }
        Items(items.into_iter())
    }

    #[tokio::test]
    async fn pieces_are_joined_within_the_limit() {
        assert_eq!(read_pieces(&[b"ab", b"", b"cde"], None, 5).await.unwrap(), "abcde");
        assert_eq!(read_pieces(&[b"ab", b"cde"], None, 4).await.unwrap_err().kind(), ErrorKind::TooLarge);
        assert_eq!(read_pieces(&[], None, 4).await.unwrap(), "");
    }

    #[tokio::test]
    async fn a_bomb_is_refused() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        gzip.write_all(&vec![0; 1 << 20]).unwrap();
        let bomb = gzip.finish().unwrap();
        assert_eq!(read_pieces(&[&bomb], Some("gzip"), 100_000).await.unwrap_err().kind(), ErrorKind::TooLarge);
        assert_eq!(read_pieces(&[&bomb], Some("gzip"), 1 << 20).await.unwrap().len(), 1 << 20);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        gzip.write_all(&vec![0; 5 << 20]).unwrap();
        let bomb = gzip.finish().unwrap();
        assert_eq!(read_pieces(&[&bomb], Some("gzip"), 9 << 20).await.unwrap_err().kind(), ErrorKind::Overloaded);
        assert_eq!(read_pieces(&[b"plain"], Some("gzip"), 100).await.unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(read_pieces(&[b"x"], Some("br"), 100).await.unwrap_err().kind(), ErrorKind::Invalid);
    }
}
