//! Which messages of a call are compressed, and what do its headers say of it?

use bytes::{Bytes, BytesMut};
use http::HeaderValue;
use http::header::HeaderName;
use prost::Message;

use super::respond::{PREFIX_BYTES, frame, prefix};
use super::{Code, Head, Status};
use crate::admission::Room;
use crate::protocol::compression::{Encoding, compress, decompress};

pub(super) static GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
static GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");

/// How a client's messages are compressed where they say that they are; `None` for not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Declared(Option<Encoding>);

impl Declared {
    /// The encoding that the request declares; UNIMPLEMENTED, with the list of ours, where it is none of them.
    pub(super) fn of_request(head: &Head<'_>) -> Result<Declared, Status> {
        let Some(value) = head.encoding else { return Ok(Declared(None)) };
        match value.as_bytes() {
            b"identity" => Ok(Declared(None)),
            b"deflate" => Ok(Declared(Some(Encoding::Deflate))),
            b"gzip" => Ok(Declared(Some(Encoding::Gzip))),
            _ => {
                let message =
                    format!("grpc-encoding {value:?} is not known here; known are identity, deflate and gzip");
                let ours = HeaderValue::from_static("identity,deflate,gzip");
                Err(Status::new(Code::Unimplemented, message).with(GRPC_ACCEPT_ENCODING.clone(), ours))
            }
        }
    }

    /// The plain bytes of a message that was flagged as compressed. Blocks its thread for as long as that takes.
    ///
    /// Fails with RESOURCE_EXHAUSTED as soon as there are more than `message_bytes_max` of them, or more than there is `room`
    /// for; with INTERNAL where they are not what the encoding says.
    pub(super) fn decompress(
        self,
        compressed: &[u8],
        message_bytes_max: usize,
        mut room: Option<&mut Room>,
    ) -> Result<Bytes, Status> {
        let Some(encoding) = self.0 else {
            let message = "a message is flagged as compressed, but no grpc-encoding says how";
            return Err(Status::new(Code::Internal, message));
        };
        let mut refused = None;
        let mut grow = |bytes: usize| match room.as_deref_mut().map(|room| room.grow(bytes)) {
            Some(Err(error)) => {
                refused = Some(error);
                false
            }
            _ => true,
        };
        let plain = decompress(encoding, compressed, message_bytes_max, &mut grow);
        if let Some(error) = refused {
            return Err(error.into());
        }
        match plain {
            Ok(Some(plain)) => Ok(plain),
            Ok(None) => {
                let message = format!(
                    "the message has {} bytes compressed and more than the limit of {message_bytes_max} bytes plain",
                    compressed.len()
                );
                Err(Status::new(Code::ResourceExhausted, message))
            }
            Err(reason) => Err(Status::new(Code::Internal, format!("the message cannot be decompressed: {reason}"))),
        }
    }
}

/// Whether answers may be compressed for clients that understand it, and from which size on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CompressionPolicy {
    /// Off: answers are always plain.
    pub(crate) enabled: bool,
    /// Smaller messages stay plain.
    pub(crate) message_bytes_min: usize,
}

/// Turns the messages of one call into frames, compressed where client and policy agree.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Encoder {
    gzip_bytes_min: Option<usize>,
}

impl Encoder {
    /// What the client of these request headers accepts and the policy allows.
    pub(crate) fn negotiate(head: &Head<'_>, policy: CompressionPolicy) -> Encoder {
        let accepted = policy.enabled && head.accepts_gzip;
        Encoder { gzip_bytes_min: accepted.then_some(policy.message_bytes_min) }
    }

    /// Never compresses.
    pub(crate) const PLAIN: Encoder = Encoder { gzip_bytes_min: None };

    /// Whether any of its frames may be compressed, which an answer has to announce before its first message.
    pub(super) fn may_compress(self) -> bool {
        self.gzip_bytes_min.is_some()
    }

    /// A message with its prefix; compressed only where that makes it smaller. Fails like [`frame`].
    pub(crate) fn frame(self, message: &impl Message) -> Result<Bytes, Status> {
        frame(message).map(|plain| self.pack(plain))
    }

    /// A plain frame as the client gets it: compressed only where that makes it smaller.
    pub(crate) fn pack(self, plain: Bytes) -> Bytes {
        let payload = &plain[PREFIX_BYTES..];
        if self.gzip_bytes_min.is_none_or(|bytes_min| payload.len() < bytes_min) {
            return plain;
        }
        compressed_frame(payload).filter(|compressed| compressed.len() < plain.len()).unwrap_or(plain)
    }
}

/// `None` where the payload would not fit into a frame.
fn compressed_frame(payload: &[u8]) -> Option<Bytes> {
    let compressed = compress(Encoding::Gzip, payload).ok()?;
    let mut framed = BytesMut::with_capacity(compressed.len() + PREFIX_BYTES);
    framed.extend_from_slice(&prefix(true, u32::try_from(compressed.len()).ok()?));
    framed.extend_from_slice(&compressed);
    Some(framed.freeze())
}
