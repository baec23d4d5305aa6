//! Who is trusted to sign, and did one of them?
//!
//! Certificates are checked by `webpki`, which does it for TLS too. A signature says no time that anybody vouches for, so a chain
//! must hold at the moment from which the signer's certificate does, as in the package `model-signing`: one that has expired since
//! still speaks for what it signed. Nothing is asked about revocation: who was trusted and is no more has to go from the keys.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{
    CertificateDer, SignatureVerificationAlgorithm, SubjectPublicKeyInfoDer, TrustAnchor, UnixTime,
};
use sha2::{Digest as _, Sha256};
use tiltyard_types::Digest;
use webpki::{EndEntityCert, ExtendedKeyUsageValidator, KeyUsage, RawPublicKeyEntity, anchor_from_trusted_cert, ring};
use x509_cert::Certificate;
use x509_cert::der::Decode as _;
use x509_cert::ext::pkix::{ExtendedKeyUsage, KeyUsage as CertificateUsage};

use super::bundle::{Bundle, MadeWith};
use super::{Error, Signer};

/// id-kp-codeSigning, 1.3.6.1.5.5.7.3.3, as DER has it.
const CODE_SIGNING: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x03];

/// What model-signing signs with: the hash follows from the curve.
const SIGNATURES: &[&dyn SignatureVerificationAlgorithm] = &[ring::ECDSA_P256_SHA256, ring::ECDSA_P384_SHA384];

/// What an authority may have signed a certificate with.
const CERTIFICATES: &[&dyn SignatureVerificationAlgorithm] = &[
    ring::ECDSA_P256_SHA256,
    ring::ECDSA_P256_SHA384,
    ring::ECDSA_P384_SHA256,
    ring::ECDSA_P384_SHA384,
    ring::ED25519,
    ring::RSA_PKCS1_2048_8192_SHA256,
    ring::RSA_PKCS1_2048_8192_SHA384,
    ring::RSA_PKCS1_2048_8192_SHA512,
];

/// The public keys and authorities whose signatures count.
#[derive(Clone, Debug, Default)]
pub struct Keys {
    keys: Vec<Key>,
    authorities: Vec<TrustAnchor<'static>>,
}

#[derive(Clone, Debug)]
struct Key {
    name: String,
    hint: Digest,
    key: SubjectPublicKeyInfoDer<'static>,
}

impl Keys {
    /// Trusts what a file of PEM holds: public keys (`BEGIN PUBLIC KEY`), and certificates of authorities (`BEGIN CERTIFICATE`). `name` is
    /// what the keys are called to people. The error says what is wrong with it.
    pub fn add(&mut self, name: &str, pem: &[u8]) -> Result<(), String> {
        let unreadable = |what: &str, error: &dyn std::fmt::Display| format!("{name}: {what}: {error}");
        let (mut keys, mut authorities) = (Vec::new(), Vec::new());
        for key in SubjectPublicKeyInfoDer::pem_slice_iter(pem) {
            let key = key.map_err(|error| unreadable("not PEM", &error))?;
            let entity = RawPublicKeyEntity::try_from(&key).map_err(|error| unreadable("not a public key", &error))?;
            // An empty signature never fits, but whether the curve does is said before that.
            let is_known = SIGNATURES.iter().any(|way| match entity.verify_signature(*way, b"", b"") {
                Err(error) => error == webpki::Error::InvalidSignatureForPublicKey,
                Ok(()) => true,
            });
            if !is_known {
                return Err(format!(
                    "{name}: a key of a kind that is not checked here: expected ECDSA on P-256 or P-384"
                ));
            }
            keys.push(Key { name: name.to_owned(), hint: hint(&key), key });
        }
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|error| unreadable("not PEM", &error))?;
            let anchor = anchor_from_trusted_cert(&certificate);
            authorities.push(anchor.map_err(|error| unreadable("not a certificate", &error))?.to_owned());
        }
        if keys.is_empty() && authorities.is_empty() {
            return Err(format!("{name}: no key in it: expected PEM with BEGIN PUBLIC KEY or BEGIN CERTIFICATE"));
        }
        self.keys.append(&mut keys);
        self.authorities.append(&mut authorities);
        Ok(())
    }

    /// Whether nobody is trusted.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.authorities.is_empty()
    }

    /// How many keys and how many authorities are trusted.
    pub fn len(&self) -> usize {
        self.keys.len() + self.authorities.len()
    }

    /// Who of those made this signature.
    pub(super) fn signer(&self, bundle: &Bundle) -> Result<Signer, Error> {
        match &bundle.made_with {
            MadeWith::Key { hint } => self.by_key(bundle, hint.as_deref()),
            MadeWith::Certificates(certificates) => self.by_certificate(bundle, certificates),
        }
    }

    fn by_key(&self, bundle: &Bundle, hint: Option<&str>) -> Result<Signer, Error> {
        let hinted = |key: &&Key| hint.is_none_or(|hint| key.hint.to_string() == hint);
        let candidates: Vec<&Key> = self.keys.iter().filter(hinted).collect();
        if candidates.is_empty() {
            let with = hint.map_or("a key without a hint".to_owned(), |hint| {
                format!("a key whose PEM has the SHA-256 {}", hint.chars().take(64).collect::<String>())
            });
            return Err(Error::Untrusted { with, trusted: self.to_string() });
        }
        let message = bundle.signed_bytes();
        let made_by = |key: &&&Key| {
            let entity = RawPublicKeyEntity::try_from(&key.key);
            entity.is_ok_and(|entity| {
                SIGNATURES.iter().any(|way| entity.verify_signature(*way, &message, &bundle.signature).is_ok())
            })
        };
        match candidates.iter().find(made_by) {
            Some(key) => Ok(Signer::Key(key.name.clone())),
            None => Err(Error::Forged(Signer::Key(candidates[0].name.clone()))),
        }
    }

    fn by_certificate(&self, bundle: &Bundle, certificates: &[Vec<u8>]) -> Result<Signer, Error> {
        let [signer, others @ ..] = certificates else {
            return Err(Error::Malformed("it has no certificate".into()));
        };
        let certificate = Certificate::from_der(signer)
            .map_err(|error| Error::Malformed(format!("the signer's certificate is none: {error}")))?;
        let subject = subject(&certificate);
        let untrusted =
            |why: String| Error::Untrusted { with: format!("the certificate of {subject:?}"), trusted: why };
        if self.authorities.is_empty() {
            return Err(untrusted(format!("{self}, and no authority's certificate")));
        }
        let der = CertificateDer::from(signer.as_slice());
        let entity = EndEntityCert::try_from(&der)
            .map_err(|error| Error::Malformed(format!("the signer's certificate is none: {error}")))?;
        let between: Vec<CertificateDer<'_>> = others.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
        let since: Duration = certificate.tbs_certificate().validity().not_before.to_unix_duration();
        let usage = KeyUsage::required_if_present(CODE_SIGNING);
        let at = UnixTime::since_unix_epoch(since);
        entity
            .verify_for_usage(CERTIFICATES, &self.authorities, &between, at, usage_of(&usage), None, None)
            .map_err(|error| untrusted(format!("no trusted authority vouches for it ({error:?})")))?;
        if !may_sign(&certificate) {
            return Err(untrusted("it is not for signing: expected the usage digitalSignature or codeSigning".into()));
        }
        let message = bundle.signed_bytes();
        let holds = |way: &&dyn SignatureVerificationAlgorithm| {
            entity.verify_signature(*way, &message, &bundle.signature).is_ok()
        };
        let by = Signer::Certificate(subject.clone());
        if SIGNATURES.iter().any(holds) { Ok(by) } else { Err(Error::Forged(by)) }
    }
}

impl std::fmt::Display for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const SHOWN_MAX: usize = 8;
        if self.keys.is_empty() {
            return f.write_str("no key is");
        }
        let names: Vec<&str> = self.keys.iter().take(SHOWN_MAX).map(|key| key.name.as_str()).collect();
        write!(f, "the keys that are: {}", names.join(", "))?;
        if self.keys.len() > SHOWN_MAX { write!(f, " and {} more", self.keys.len() - SHOWN_MAX) } else { Ok(()) }
    }
}

fn usage_of(usage: &KeyUsage) -> impl ExtendedKeyUsageValidator + '_ {
    usage
}

/// What model-signing notes of a key: SHA-256 of its PEM as OpenSSL writes it.
fn hint(key: &SubjectPublicKeyInfoDer<'_>) -> Digest {
    let text = BASE64_STANDARD.encode(key);
    let mut pem = String::from("-----BEGIN PUBLIC KEY-----\n");
    for (at, letter) in text.chars().enumerate() {
        if at > 0 && at % 64 == 0 {
            pem.push('\n');
        }
        pem.push(letter);
    }
    pem.push_str("\n-----END PUBLIC KEY-----\n");
    Digest::new(Sha256::digest(pem).into())
}

/// Whom a certificate names, as people write it.
fn subject(certificate: &Certificate) -> String {
    let subject = certificate.tbs_certificate().subject();
    let common = subject.common_name().ok().flatten().map(|name| name.value().into_owned());
    common.unwrap_or_else(|| subject.to_string()).chars().take(200).collect()
}

/// Whether a certificate says that its key may sign such things.
fn may_sign(certificate: &Certificate) -> bool {
    let certificate = certificate.tbs_certificate();
    let usage = certificate.get_extension::<CertificateUsage>().ok().flatten();
    let extended = certificate.get_extension::<ExtendedKeyUsage>().ok().flatten();
    // That an extended usage is the right one was checked with the chain.
    usage.map_or(extended.is_some(), |(_, usage)| usage.digital_signature())
}
