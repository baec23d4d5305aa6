//! How do the messages of a request come out of its body?

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use bytes::{Buf, Bytes};
use http_body::Body;

use super::compression::Declared;
use super::respond::{FLAG_COMPRESSED, FLAG_PLAIN, PREFIX_BYTES};
use super::{Code, Head, Status};
use crate::admission::Room;
use crate::deadlines;
use crate::protocol::beside_the_loop;

/// How long a message may take to arrive that asks of health or services.
pub(crate) const MESSAGE_TIME_MAX: Duration = Duration::from_secs(10);

/// The failure of a message that was begun and did not arrive in its time.
pub(crate) fn late() -> Status {
    deadlines::late("the message did not arrive in time".to_owned()).into()
}

/// How long a client that still sends may take to hear that its call has ended.
const HEARD_AFTER: Duration = Duration::from_secs(1);

/// The one message of a unary call. What has arrived of it takes `room`, where there is one given.
///
/// Fails with RESOURCE_EXHAUSTED where it is longer than `message_bytes_max`, plain or compressed, as soon as that is known
/// and before it is read, or where there is no room for it; UNIMPLEMENTED where there is not exactly one message or its
/// encoding is not known; INTERNAL where framing or compression is broken; CANCELLED where the client went away.
pub(crate) async fn read_message<B>(
    head: &Head<'_>,
    body: B,
    message_bytes_max: usize,
    room: Option<&mut Room>,
) -> Result<Bytes, Status>
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut messages = MessageStream::new(head, body, message_bytes_max)?;
    let cardinality =
        |sent| Status::new(Code::Unimplemented, format!("the call takes one message; the client sent {sent}"));
    let message = messages.next(room).await?.ok_or_else(|| cardinality("none"))?;
    messages.end().await.map_err(|failure| failure.unwrap_or_else(|| cardinality("more")))?;
    Ok(message)
}

/// The messages of a request's body, one after the other. After a failure it is of no further use.
pub(crate) struct MessageStream<B> {
    body: B,
    encoding: Declared,
    message_bytes_max: usize,
    state: State,
    /// Received, and not yet looked at.
    received: Bytes,
}

enum State {
    /// The first `filled` bytes of the next prefix are here.
    Prefix { bytes: [u8; PREFIX_BYTES], filled: usize },
    /// The prefix is read; the message came in pieces, which gather in `buffer` until there are `length` bytes.
    Message { compressed: bool, length: usize, buffer: Vec<u8> },
}

const START: State = State::Prefix { bytes: [0; PREFIX_BYTES], filled: 0 };

impl<B> MessageStream<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    /// Fails with UNIMPLEMENTED where the encoding that the headers declare is not known.
    pub(crate) fn new(head: &Head<'_>, body: B, message_bytes_max: usize) -> Result<MessageStream<B>, Status> {
        let encoding = Declared::of_request(head)?;
        Ok(MessageStream { body, encoding, message_bytes_max, state: START, received: Bytes::new() })
    }

    /// The next message, plain; `None` after the last. Waits for the client. Takes room and fails like [`read_message`].
    pub(crate) async fn next(&mut self, mut room: Option<&mut Room>) -> Result<Option<Bytes>, Status> {
        loop {
            if let Some((compressed, payload)) = self.take_message(room.as_deref_mut())? {
                let payload_bytes = payload.len();
                if !compressed {
                    return Ok(Some(payload));
                }
                let (encoding, bytes_max) = (self.encoding, self.message_bytes_max);
                let mut beside = room.as_deref().map(Room::beside);
                let plain = move || {
                    let plain = encoding.decompress(&payload, bytes_max, beside.as_mut());
                    (plain, beside)
                };
                // What it grows to is not known yet; this is what dense numbers do.
                let (plain, beside) = beside_the_loop(payload_bytes.saturating_mul(4), plain).await;
                if let (Some(room), Some(beside)) = (room, beside) {
                    *room = beside;
                }
                return plain.map(Some);
            }
            match self.receive().await? {
                Some(data) => self.received = data,
                None => return self.check_whole().map(|()| None),
            }
        }
    }

    /// Waits until the next message begins, or the body ends. False where `end` comes first.
    pub(crate) async fn begins(&mut self, end: impl Future<Output = ()>) -> Result<bool, Status> {
        if !self.received.is_empty() || !matches!(self.state, State::Prefix { filled: 0, .. }) {
            return Ok(true);
        }
        tokio::select! {
            // What is here already counts, even where the end has come.
            biased;
            received = self.receive() => {
                self.received = received?.unwrap_or_default();
                Ok(true)
            }
            () = end => Ok(false),
        }
    }

    /// Reads on for a moment, until the client has no more to say. To hang up on it at once would have proxies take the
    /// call for broken, and not pass on the status at its end.
    pub(crate) async fn discard(mut self) {
        let read = async { while let Ok(Some(_)) = self.receive().await {} };
        // A client that talks on has had its chance to hear.
        drop(tokio::time::timeout(HEARD_AFTER, read).await);
    }

    /// Waits for the end of the body. Fails with `None` where there is more, without reading on.
    async fn end(&mut self) -> Result<(), Option<Status>> {
        while self.received.is_empty() {
            match self.receive().await? {
                Some(data) => self.received = data,
                None => return Ok(()),
            }
        }
        Err(None)
    }

    async fn receive(&mut self) -> Result<Option<Bytes>, Status> {
        // Many clients end the stream with the frame that ends the message: then there is nothing to wait for.
        while !self.body.is_end_stream() {
            match poll_fn(|context| Pin::new(&mut self.body).poll_frame(context)).await {
                Some(Ok(frame)) => {
                    // Trailers from a client mean nothing in gRPC.
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
                Some(Err(_)) => return Err(Status::new(Code::Cancelled, "the client went away while it was sending")),
                None => break,
            }
        }
        Ok(None)
    }

    /// A whole message, and whether it is compressed, if what was received completes one. Otherwise all of it was used up.
    fn take_message(&mut self, mut room: Option<&mut Room>) -> Result<Option<(bool, Bytes)>, Status> {
        loop {
            match &mut self.state {
                State::Prefix { bytes, filled } => {
                    let count = self.received.len().min(PREFIX_BYTES - *filled);
                    self.received.copy_to_slice(&mut bytes[*filled..*filled + count]);
                    *filled += count;
                    if *filled < PREFIX_BYTES {
                        return Ok(None);
                    }
                    let (compressed, length) = parse_prefix(*bytes, self.message_bytes_max)?;
                    if self.received.len() >= length {
                        room.map_or(Ok(()), |room| room.grow(length))?;
                        self.state = START;
                        return Ok(Some((compressed, self.received.split_to(length))));
                    }
                    // Only what arrives takes memory.
                    self.state = State::Message { compressed, length, buffer: Vec::new() };
                }
                State::Message { compressed, length, buffer } => {
                    let count = self.received.len().min(*length - buffer.len());
                    Room::make(room.as_deref_mut(), buffer, buffer.len() + count, *length)?;
                    buffer.extend_from_slice(&self.received.split_to(count));
                    if buffer.len() < *length {
                        return Ok(None);
                    }
                    let message = (*compressed, Bytes::from(std::mem::take(buffer)));
                    self.state = START;
                    return Ok(Some(message));
                }
            }
        }
    }

    /// Fails where the body ended inside a message.
    fn check_whole(&self) -> Result<(), Status> {
        let message = match &self.state {
            State::Prefix { filled: 0, .. } => return Ok(()),
            State::Prefix { filled, .. } => {
                format!("the request ends after {filled} of the {PREFIX_BYTES} bytes before a message")
            }
            State::Message { length, buffer, .. } => {
                format!("the request ends after {} of the {length} bytes of a message", buffer.len())
            }
        };
        Err(Status::new(Code::Internal, message))
    }
}

/// Whether the message is compressed, and its length on the wire.
fn parse_prefix(bytes: [u8; PREFIX_BYTES], message_bytes_max: usize) -> Result<(bool, usize), Status> {
    let [flag, length @ ..] = bytes;
    let compressed = match flag {
        FLAG_PLAIN => false,
        FLAG_COMPRESSED => true,
        other => {
            let message =
                format!("a message's compression flag is {other}; expected {FLAG_PLAIN} or {FLAG_COMPRESSED}");
            return Err(Status::new(Code::Internal, message));
        }
    };
    let length = u32::from_be_bytes(length) as usize;
    if length > message_bytes_max {
        let message = format!("the message has {length} bytes, more than the limit of {message_bytes_max} bytes");
        return Err(Status::new(Code::ResourceExhausted, message));
    }
    Ok((compressed, length))
}
