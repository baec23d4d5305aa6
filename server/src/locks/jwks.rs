//! Which keys does a provider sign with? A JSON web key set, RFC 7517, of which signatures' keys are kept.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{self, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm};
use serde_json::Value;

use crate::config::Algorithm;

/// Keys of one set; those after them are passed over.
const KEYS_MAX: usize = 256;

/// The keys of a provider.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Keys(Vec<Key>);

/// One key.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Key {
    id: Option<String>,
    /// The only algorithm that it is for, where the set says so.
    algorithm: Option<String>,
    public: Public,
}

#[derive(Debug, PartialEq, Eq)]
enum Public {
    Rsa { modulus: Vec<u8>, exponent: Vec<u8> },
    P256(Vec<u8>),
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
}

impl Keys {
    /// Reads a set. Keys of kinds that are not known here are passed over. Fails, in words, on what is no set, and on one
    /// without any key that could be used.
    pub fn parse(json: &[u8]) -> Result<Keys, String> {
        let set: Value = serde_json::from_slice(json).map_err(|error| format!("the key set is no JSON: {error}"))?;
        let listed = set.get("keys").and_then(Value::as_array).ok_or("the key set has no list called keys")?;
        let keys: Vec<Key> = listed.iter().filter_map(key).take(KEYS_MAX).collect();
        match keys.is_empty() {
            true => Err(
                "the key set has no public key for signatures: expected kty RSA, EC (P-256, P-384) or OKP (Ed25519)"
                    .into(),
            ),
            false => Ok(Keys(keys)),
        }
    }

    /// The keys that a token may be signed with: those of the id it names, or where it names none, all that fit.
    pub(super) fn for_token<'a>(&'a self, algorithm: Algorithm, id: Option<&'a str>) -> impl Iterator<Item = &'a Key> {
        self.0.iter().filter(move |key| {
            (id.is_none() || key.id.as_deref() == id)
                && key.algorithm.as_deref().is_none_or(|only| only == algorithm.name())
                && key.fits(algorithm)
        })
    }
}

impl Key {
    fn fits(&self, algorithm: Algorithm) -> bool {
        match &self.public {
            Public::Rsa { .. } => rsa(algorithm).is_some(),
            Public::P256(_) => algorithm == Algorithm::Es256,
            Public::P384(_) => algorithm == Algorithm::Es384,
            Public::Ed25519(_) => algorithm == Algorithm::EdDsa,
        }
    }

    /// Whether the signature of these bytes is by this key.
    pub(super) fn verifies(&self, algorithm: Algorithm, signed: &[u8], signature: &[u8]) -> bool {
        let with = |algorithm: &'static dyn VerificationAlgorithm, public: &[u8]| {
            UnparsedPublicKey::new(algorithm, public).verify(signed, signature).is_ok()
        };
        match &self.public {
            Public::Rsa { modulus, exponent } => rsa(algorithm).is_some_and(|parameters| {
                RsaPublicKeyComponents { n: modulus, e: exponent }.verify(parameters, signed, signature).is_ok()
            }),
            Public::P256(point) => algorithm == Algorithm::Es256 && with(&signature::ECDSA_P256_SHA256_FIXED, point),
            Public::P384(point) => algorithm == Algorithm::Es384 && with(&signature::ECDSA_P384_SHA384_FIXED, point),
            Public::Ed25519(point) => algorithm == Algorithm::EdDsa && with(&signature::ED25519, point),
        }
    }
}

/// RSA keys below 2048 bits are refused by these.
fn rsa(algorithm: Algorithm) -> Option<&'static RsaParameters> {
    match algorithm {
        Algorithm::Rs256 => Some(&signature::RSA_PKCS1_2048_8192_SHA256),
        Algorithm::Rs384 => Some(&signature::RSA_PKCS1_2048_8192_SHA384),
        Algorithm::Rs512 => Some(&signature::RSA_PKCS1_2048_8192_SHA512),
        Algorithm::Ps256 => Some(&signature::RSA_PSS_2048_8192_SHA256),
        Algorithm::Ps384 => Some(&signature::RSA_PSS_2048_8192_SHA384),
        Algorithm::Ps512 => Some(&signature::RSA_PSS_2048_8192_SHA512),
        Algorithm::Es256 | Algorithm::Es384 | Algorithm::EdDsa => None,
    }
}

fn key(form: &Value) -> Option<Key> {
    let text = |name: &str| form.get(name).and_then(Value::as_str);
    let bytes = |name: &str| URL_SAFE_NO_PAD.decode(text(name)?).ok();
    if text("use").is_some_and(|purpose| purpose != "sig") {
        return None;
    }
    let public = match (text("kty")?, text("crv")) {
        ("RSA", _) => {
            let modulus = bytes("n")?;
            // Some write a zero in front, as signed numbers have it.
            let zeros = modulus.iter().take_while(|&&byte| byte == 0).count();
            Public::Rsa { modulus: modulus[zeros..].to_vec(), exponent: bytes("e")? }
        }
        ("EC", Some("P-256")) => Public::P256(point(bytes("x")?, bytes("y")?, 32)?),
        ("EC", Some("P-384")) => Public::P384(point(bytes("x")?, bytes("y")?, 48)?),
        ("OKP", Some("Ed25519")) => Public::Ed25519(bytes("x").filter(|point| point.len() == 32)?),
        _ => return None,
    };
    Some(Key { id: text("kid").map(str::to_owned), algorithm: text("alg").map(str::to_owned), public })
}

/// A point of a curve, uncompressed.
fn point(x: Vec<u8>, y: Vec<u8>, bytes: usize) -> Option<Vec<u8>> {
    (x.len() == bytes && y.len() == bytes).then(|| [vec![4], x, y].concat())
}
