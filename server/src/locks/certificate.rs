//! Whom does a client's certificate name?
//!
//! Read only once the chain was verified, so that whoever wrote these bytes was signed for by the operator's own authority.

use rustls::pki_types::CertificateDer;
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

/// Names that one certificate may have; those after them are passed over.
const NAMES_MAX: usize = 64;

/// The names in a client's certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientCertificate {
    /// Alternative names (DNS, URI, e-mail) in their order; the common name where there is no alternative one.
    pub names: Vec<String>,
}

impl ClientCertificate {
    /// Reads the names. None where the certificate cannot be read, or names nobody in a form that is known here.
    pub fn read(certificate: &CertificateDer<'_>) -> ClientCertificate {
        let names = Certificate::from_der(certificate).ok().map(|certificate| names(&certificate)).unwrap_or_default();
        ClientCertificate { names }
    }
}

fn names(certificate: &Certificate) -> Vec<String> {
    let certificate = certificate.tbs_certificate();
    let alternatives = certificate.get_extension::<SubjectAltName>().ok().flatten();
    let mut names: Vec<String> = alternatives
        .map(|(_, SubjectAltName(names))| names.iter().filter_map(name).take(NAMES_MAX).collect())
        .unwrap_or_default();
    // As for servers: where there are alternative names, the common name is for people.
    if names.is_empty() {
        let common = certificate.subject().common_name().ok().flatten();
        names.extend(common.map(|name| name.value().into_owned()));
    }
    names
}

fn name(name: &GeneralName) -> Option<String> {
    match name {
        GeneralName::DnsName(name) => Some(name.to_string()),
        GeneralName::UniformResourceIdentifier(name) => Some(name.to_string()),
        GeneralName::Rfc822Name(name) => Some(name.to_string()),
        _ => None,
    }
}
