//! How are bodies and messages compressed, and made plain again without a bomb going off? For all protocols.

use std::io::{Read, Write};

use bytes::Bytes;
use flate2::Compression;
use flate2::bufread::{DeflateDecoder, GzDecoder, ZlibDecoder};
use flate2::write::{GzEncoder, ZlibEncoder};

/// The encodings known here. On the web, `deflate` names the zlib format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// The zlib format, RFC 1950; bare RFC 1951 is understood too.
    Deflate,
    /// RFC 1952.
    Gzip,
}

impl Encoding {
    /// The name in headers.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Encoding::Deflate => "deflate",
            Encoding::Gzip => "gzip",
        }
    }
}

/// Plain bytes between two questions whether there is room for more.
const STEP_BYTES: usize = 1 << 20;

/// The plain bytes; `None` when there are more than `plain_bytes_max`, or more than there is `room` for, which is asked about
/// each size before much more than that is there. Blocks its thread for as long as that takes. Fails, in words, when the
/// bytes are not of that encoding or go on after its end.
pub(crate) fn decompress(
    encoding: Encoding,
    compressed: &[u8],
    plain_bytes_max: usize,
    room: &mut dyn FnMut(usize) -> bool,
) -> Result<Option<Bytes>, String> {
    let (bytes, max) = (compressed.len(), plain_bytes_max);
    match encoding {
        Encoding::Gzip => read(GzDecoder::new(compressed), bytes, max, room, GzDecoder::into_inner),
        Encoding::Deflate => {
            let zlib = read(ZlibDecoder::new(compressed), bytes, max, room, ZlibDecoder::into_inner);
            zlib.or_else(|_| read(DeflateDecoder::new(compressed), bytes, max, room, DeflateDecoder::into_inner))
        }
    }
}

fn read<'a, D: Read>(
    mut decoder: D,
    compressed_bytes: usize,
    plain_bytes_max: usize,
    room: &mut dyn FnMut(usize) -> bool,
    rest: fn(D) -> &'a [u8],
) -> Result<Option<Bytes>, String> {
    // Twice the size is what binary tensors typically come to; the rest is growth.
    let mut plain = Vec::with_capacity(compressed_bytes.saturating_mul(2).min(plain_bytes_max));
    loop {
        if plain.len() > plain_bytes_max || !room(plain.len()) {
            return Ok(None);
        }
        let step = STEP_BYTES.min(plain_bytes_max - plain.len() + 1);
        let read = decoder.by_ref().take(step as u64).read_to_end(&mut plain).map_err(|error| error.to_string())?;
        if read == 0 {
            break;
        }
    }
    match rest(decoder).len() {
        0 => Ok(Some(Bytes::from(plain))),
        left => Err(format!("it ends {left} bytes early")),
    }
}

/// Compresses fast: on float tensors the slower levels gain a percent or two for several times the processor time.
pub(crate) fn compress(encoding: Encoding, plain: &[u8]) -> std::io::Result<Bytes> {
    let buffer = Vec::with_capacity(plain.len() / 2);
    let compressed = match encoding {
        Encoding::Gzip => {
            let mut encoder = GzEncoder::new(buffer, Compression::fast());
            encoder.write_all(plain)?;
            encoder.finish()?
        }
        Encoding::Deflate => {
            let mut encoder = ZlibEncoder::new(buffer, Compression::fast());
            encoder.write_all(plain)?;
            encoder.finish()?
        }
    };
    Ok(compressed.into())
}
