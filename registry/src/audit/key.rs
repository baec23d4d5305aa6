//! Whose signature is it, and where does the key lie?
//!
//! One Ed25519 key for each server, made in its data folder at the first start. Keys are written as C2SP's signed notes have
//! them (and Go's `note` package): a name, a short id that is a hash of name and key, and the key in base64. Whoever wants to
//! trust signatures keeps the public key elsewhere.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::str::FromStr;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use sha2::{Digest as _, Sha256};

use crate::{Error, Result};

/// C2SP's number for Ed25519, before each key and in the hash that is its id.
const ED25519_TYPE: u8 = 1;

/// Bytes of a name, at most.
const NAME_BYTES_MAX: usize = 200;

/// The key that signatures are checked with: `<name>+<id>+<base64>`.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    name: String,
    key: [u8; 32],
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, key } = self;
        write!(f, "{name}+{}+{}", hex(&self.id()), BASE64_STANDARD.encode([&[ED25519_TYPE], &key[..]].concat()))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn is_name(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_graphic() && c != '+';
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name.chars().all(is_plain)
}

/// The 32 bytes behind the number of their kind, in base64.
fn bytes(text: &str) -> Option<[u8; 32]> {
    let decoded = BASE64_STANDARD.decode(text).ok()?;
    decoded.strip_prefix(&[ED25519_TYPE])?.try_into().ok()
}

impl FromStr for PublicKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<PublicKey> {
        let unfit = || {
            Error::Unfit(
                "it is no public key: expected <name>+<8 hexadecimal digits>+<base64>, one line of audit.pub".into(),
            )
        };
        let mut parts = text.strip_suffix('\n').unwrap_or(text).splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else { return Err(unfit()) };
        let key = PublicKey { name: name.to_owned(), key: bytes(key).ok_or_else(unfit)? };
        if !is_name(name) || hex(&key.id()) != id {
            return Err(unfit());
        }
        Ok(key)
    }
}

impl PublicKey {
    /// Reads a file that has one.
    pub fn read(path: &Path) -> Result<PublicKey> {
        let text = fs::read_to_string(path).map_err(|error| Error::io("read", path, error))?;
        text.parse().map_err(|error| Error::Unfit(format!("{}: {error}", path.display())))
    }

    /// Whose it is: the origin of checkpoints.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The first four bytes of a hash of name and key, by which a signature says which key it wants.
    pub fn id(&self) -> [u8; 4] {
        let named = Sha256::new_with_prefix(self.name.as_bytes()).chain_update([b'\n', ED25519_TYPE]);
        let hash = named.chain_update(self.key).finalize();
        [hash[0], hash[1], hash[2], hash[3]]
    }

    /// Whether these bytes were signed with the key, as a note.
    pub(super) fn is_of(&self, text: &str, signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.key).verify(text.as_bytes(), signature).is_ok()
    }

    /// Whether `signature` is what [`Signer::sign`] made of these bytes, for this purpose.
    pub fn is_signed(&self, purpose: &str, bytes: &[u8], signature: &str) -> bool {
        let Ok(decoded) = BASE64_STANDARD.decode(signature) else { return false };
        UnparsedPublicKey::new(&ED25519, &self.key).verify(&purposed(purpose, bytes), &decoded).is_ok()
    }
}

/// What is signed for a purpose. No checkpoint begins like that: its first line is a name, which has no space.
fn purposed(purpose: &str, bytes: &[u8]) -> Vec<u8> {
    [b"tiltyard ", purpose.as_bytes(), b" v1\n", bytes].concat()
}

/// The server's key, with which it signs checkpoints and approvals.
pub struct Signer {
    pair: Ed25519KeyPair,
    public: PublicKey,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Signer").field(&self.public).finish()
    }
}

impl Signer {
    /// Opens the key in `folder`, or makes one there: `audit.key`, which its owner alone may read, and `audit.pub`, for all.
    pub fn open(folder: &Path) -> Result<Signer> {
        let path = folder.join("audit.key");
        if !path.exists() {
            make(&path)?;
        }
        let metadata = fs::metadata(&path).map_err(|error| Error::io("read", &path, error))?;
        if metadata.mode() & 0o077 != 0 {
            let mode = metadata.mode() & 0o777;
            return Err(Error::Unfit(format!(
                "{} may be read by others (its mode is {mode:o}): expected 600; if others could read it, remove it and \
                 audit.pub, and a new key is made",
                path.display()
            )));
        }
        let text = fs::read_to_string(&path).map_err(|error| Error::io("read", &path, error))?;
        let signer = Signer::read(&text).ok_or_else(|| {
            Error::Unfit(format!("{} is no key: restore it, or remove it, and a new one is made", path.display()))
        })?;
        let public = folder.join("audit.pub");
        let line = format!("{}\n", signer.public);
        if fs::read_to_string(&public).is_ok_and(|found| found == line) {
            return Ok(signer);
        }
        fs::write(&public, line).map_err(|error| Error::io("write", &public, error))?;
        Ok(signer)
    }

    /// `PRIVATE+KEY+<name>+<id>+<base64>`, as Go's note package writes it.
    fn read(text: &str) -> Option<Signer> {
        let mut parts = text.trim_end().strip_prefix("PRIVATE+KEY+")?.splitn(3, '+');
        let (name, id, seed) = (parts.next()?, parts.next()?, bytes(parts.next()?)?);
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).ok()?;
        let key = pair.public_key().as_ref().try_into().ok()?;
        let public = PublicKey { name: name.to_owned(), key };
        (is_name(name) && hex(&public.id()) == id).then_some(Signer { pair, public })
    }

    /// The key to check with.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Signs these bytes for a purpose, such as `approval`: 64 bytes in base64. What is signed for one purpose is not for
    /// another.
    pub fn sign(&self, purpose: &str, bytes: &[u8]) -> String {
        BASE64_STANDARD.encode(self.pair.sign(&purposed(purpose, bytes)))
    }

    pub(super) fn sign_note(&self, text: &str) -> [u8; 64] {
        let signature = self.pair.sign(text.as_bytes());
        signature.as_ref().try_into().expect("an Ed25519 signature has 64 bytes")
    }
}

/// Makes a key under a name that nobody else has.
fn make(path: &Path) -> Result<()> {
    let mut drawn = [0; 40];
    let random = SystemRandom::new();
    random.fill(&mut drawn).map_err(|_| Error::io("draw a key for", path, std::io::Error::other("no randomness")))?;
    let (name, seed) = drawn.split_at(8);
    let name = format!("tiltyard/{}", hex(name));
    let pair = Ed25519KeyPair::from_seed_unchecked(seed);
    let pair = pair.map_err(|error| Error::io("make", path, std::io::Error::other(error.to_string())))?;
    let key = pair.public_key().as_ref().try_into().expect("an Ed25519 key has 32 bytes");
    let id = hex(&PublicKey { name: name.clone(), key }.id());
    let encoded = BASE64_STANDARD.encode([&[ED25519_TYPE], seed].concat());
    // A half-written key would keep the server from starting again: it gets its name when it is whole.
    let new = path.with_extension("key.new");
    let written = fs::remove_file(&new).or_else(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    });
    let written = written.and_then(|()| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(format!("PRIVATE+KEY+{name}+{id}+{encoded}\n").as_bytes())?;
        file.sync_all()
    });
    written.and_then(|()| fs::rename(&new, path)).map_err(|error| Error::io("make", path, error))
}
