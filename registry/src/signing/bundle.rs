//! What does the file of a signature hold, before anybody believes it?

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;

use super::{Error, SIGNATURE_BYTES_MAX};

const MEDIA_TYPE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";

const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";

/// Certificates in one bundle, at most.
const CERTIFICATES_MAX: usize = 16;

/// A signature, what it signs, and what it says it was made with.
#[derive(Debug)]
pub(super) struct Bundle {
    /// The bytes that hold the statement.
    pub(super) payload: Vec<u8>,
    /// The signature, in ASN.1 as ECDSA has it.
    pub(super) signature: Vec<u8>,
    pub(super) made_with: MadeWith,
}

/// What the bundle says to check it with.
#[derive(Debug)]
pub(super) enum MadeWith {
    /// SHA-256 of the public key's PEM; packages before 1.0 left it out.
    Key { hint: Option<String> },
    /// Certificates in DER, the signer's first.
    Certificates(Vec<Vec<u8>>),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    media_type: String,
    verification_material: Material,
    dsse_envelope: Option<Envelope>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Material {
    public_key: Option<PublicKey>,
    x509_certificate_chain: Option<Chain>,
    certificate: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct PublicKey {
    hint: Option<String>,
}

#[derive(Deserialize)]
struct Chain {
    certificates: Vec<Certificate>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Certificate {
    raw_bytes: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    payload: String,
    payload_type: String,
    signatures: Vec<Signature>,
}

#[derive(Deserialize)]
struct Signature {
    sig: String,
}

impl Bundle {
    pub(super) fn read(bytes: &[u8]) -> Result<Bundle, Error> {
        let malformed = |why: String| Error::Malformed(why);
        if bytes.len() > SIGNATURE_BYTES_MAX {
            return Err(malformed(format!("it has {} bytes, expected at most {SIGNATURE_BYTES_MAX}", bytes.len())));
        }
        let written: Written = serde_json::from_slice(bytes).map_err(|error| {
            malformed(format!("expected a Sigstore bundle as the package model-signing writes it: {error}"))
        })?;
        if written.media_type != MEDIA_TYPE {
            return Err(malformed(format!("its media type is {:?}, expected {MEDIA_TYPE:?}", written.media_type)));
        }
        let Some(envelope) = written.dsse_envelope else {
            return Err(malformed("it signs something without an envelope (dsseEnvelope)".into()));
        };
        if envelope.payload_type != PAYLOAD_TYPE {
            return Err(malformed(format!("its payload is {:?}, expected {PAYLOAD_TYPE:?}", envelope.payload_type)));
        }
        let [signature] = envelope.signatures.as_slice() else {
            return Err(malformed(format!("it has {} signatures, expected one", envelope.signatures.len())));
        };
        let decoded = |what: &str, text: &str| {
            BASE64_STANDARD.decode(text).map_err(|error| malformed(format!("{what} is not Base64: {error}")))
        };
        let made_with = match written.verification_material {
            Material { certificate: Some(_), .. } => {
                return Err(Error::Unsupported(
                    "was made without a key, through Sigstore: that is not checked here; sign with a key or with a certificate".into(),
                ));
            }
            Material { public_key: Some(PublicKey { hint }), x509_certificate_chain: None, .. } => {
                MadeWith::Key { hint }
            }
            Material { public_key: None, x509_certificate_chain: Some(Chain { certificates }), .. }
                if (1..=CERTIFICATES_MAX).contains(&certificates.len()) =>
            {
                let decode = |certificate: &Certificate| decoded("a certificate", &certificate.raw_bytes);
                MadeWith::Certificates(certificates.iter().map(decode).collect::<Result<_, _>>()?)
            }
            _ => {
                return Err(malformed(format!(
                    "expected either a key's hint or 1 to {CERTIFICATES_MAX} certificates (verificationMaterial)"
                )));
            }
        };
        let payload = decoded("its payload", &envelope.payload)?;
        Ok(Bundle { payload, signature: decoded("its signature", &signature.sig)?, made_with })
    }

    /// The bytes that are signed, as [DSSE](https://github.com/secure-systems-lab/dsse/blob/v1.0.0/protocol.md) puts type and
    /// payload together.
    pub(super) fn signed_bytes(&self) -> Vec<u8> {
        let (length, payload) = (self.payload.len(), &self.payload);
        let mut bytes = format!("DSSEv1 {} {PAYLOAD_TYPE} {length} ", PAYLOAD_TYPE.len()).into_bytes();
        bytes.extend_from_slice(payload);
        bytes
    }
}
