//! How is a token made, and what of it is kept?
//!
//! A token is 256 random bits, so that a plain SHA-256 is enough to keep it by: slow hashes with salt are for what people
//! make up and can be guessed, and would cost each request what they cost the guesser.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};

/// What every token begins with, so that scanners find one that was committed or logged.
pub const PREFIX: &str = "tiltyard_";

/// A new token, and the digest to keep it by. Fails where the system has no randomness to give.
pub fn new() -> Result<(String, Digest), String> {
    let mut bytes = [0; 32];
    SystemRandom::new().fill(&mut bytes).map_err(|_| "the system gives no random bytes".to_owned())?;
    let token = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes));
    let digest = Digest::of(&token);
    Ok((token, digest))
}

/// What a token is known by.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of a token as it was sent.
    pub fn of(token: &str) -> Digest {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        Digest(bytes)
    }

    /// Reads what [`Digest::to_string`] writes, the part after `sha256:`.
    pub(super) fn parse(hex: &str) -> Option<Digest> {
        let mut bytes = [0; 32];
        if hex.len() != 64 {
            return None;
        }
        for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            let digit = |at: usize| char::from(pair[at]).to_digit(16);
            *byte = (digit(0)? * 16 + digit(1)?) as u8;
        }
        Some(Digest(bytes))
    }
}

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Digest(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_long_and_never_the_same() {
        let (one, digest) = new().unwrap();
        let (other, _) = new().unwrap();
        assert_ne!(one, other);
        assert_eq!(one.len(), PREFIX.len() + 43);
        assert_eq!(Digest::of(&one), digest);
        assert_eq!(Digest::parse(&digest.to_string()), Some(digest));
    }

    #[test]
    fn digests_are_those_of_sha256sum() {
        let digest = Digest::of("abc").to_string();
        assert_eq!(digest, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(Digest::parse("zz"), None);
        assert_eq!(Digest::parse(&"g".repeat(64)), None);
        assert_eq!(Digest::parse(&"é".repeat(32)), None);
    }
}
