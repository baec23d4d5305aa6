//! How are artifacts and requests named?

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

/// A SHA-256 digest: of an artifact, or of a deployment.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Wraps the 32 bytes of a SHA-256.
    pub const fn new(bytes: [u8; 32]) -> Digest {
        Digest(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first 12 hexadecimal digits, for people.
    pub fn short(&self) -> String {
        self.to_string()[..12].to_owned()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Text that is not 64 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a digest is 64 hexadecimal digits")]
pub struct ParseDigestError;

impl FromStr for Digest {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Digest, ParseDigestError> {
        let mut bytes = [0; 32];
        if text.len() != 64 || !text.is_ascii() {
            return Err(ParseDigestError);
        }
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            let digit = |c: u8| (c as char).to_digit(16).ok_or(ParseDigestError);
            *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
        }
        Ok(Digest(bytes))
    }
}

/// The server's own name for a request, a UUIDv7 made when the request is accepted. A client's `id` is something
/// else: it is echoed, and two requests may share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(Uuid);

impl RequestId {
    /// Wraps a UUID.
    pub const fn new(uuid: Uuid) -> RequestId {
        RequestId(uuid)
    }

    /// The one that has these 128 bits.
    pub const fn from_bits(bits: u128) -> RequestId {
        RequestId(Uuid::from_u128(bits))
    }

    /// Its 128 bits.
    pub const fn bits(&self) -> u128 {
        self.0.as_u128()
    }

    /// The prediction id of one row: `<request id>:<row>`.
    pub fn prediction(&self, row: usize) -> String {
        format!("{self}:{row}")
    }

    /// The prediction id of the first row, as ASCII: every answer has it.
    pub fn first_prediction(&self) -> [u8; 38] {
        let mut text = [0; 38];
        self.0.hyphenated().encode_lower(&mut text);
        text[36..].copy_from_slice(b":0");
        text
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn predictions_are_named_after_their_request() {
        let id = RequestId::new(Uuid::from_u128(0x0192_0000_0000_7000_8000_0000_0000_00ab));
        assert_eq!(id.prediction(0), "01920000-0000-7000-8000-0000000000ab:0");
        assert_eq!(id.prediction(123), "01920000-0000-7000-8000-0000000000ab:123");
        assert_eq!(id.first_prediction(), id.prediction(0).as_bytes());
    }

    #[test]
    fn digests_round_trip() {
        let digest = Digest::new(std::array::from_fn(|i| i as u8 * 7));
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert_eq!("zz".parse::<Digest>(), Err(ParseDigestError));
        assert_eq!("é".repeat(32).parse::<Digest>(), Err(ParseDigestError));
    }
}
