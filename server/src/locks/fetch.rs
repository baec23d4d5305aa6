//! How does the server ask somebody else, over HTTPS? For a provider's keys, to tell a webhook, and by the commands that ask a
//! server.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig};

use super::followed::read_file;

/// The largest answer that is read.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// How long a whole answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// The client's side of TLS: whom to believe, and what to show. Fails, in words, on files that cannot be read.
///
/// `ca` holds the authorities in PEM; without it those of the system are believed. `shown` are files with a certificate and
/// its key, for servers that ask for one.
pub(crate) fn tls(ca: Option<&Path>, shown: Option<(&Path, &Path)>) -> Result<TlsConfig, String> {
    let roots: Vec<CertificateDer<'static>> = match ca {
        Some(path) => certificates(path)?,
        // One that cannot be read is not believed; without any, no connection comes to be and says so.
        None => rustls_native_certs::load_native_certs().certs,
    };
    let roots: Vec<Certificate<'static>> = roots.iter().map(|root| Certificate::from_der(root).to_owned()).collect();
    let shown = match shown {
        None => None,
        Some((certificate, key)) => {
            let chain = certificates(certificate)?;
            let chain: Vec<Certificate<'static>> =
                chain.iter().map(|certificate| Certificate::from_der(certificate).to_owned()).collect();
            let pem = read_file(key).map_err(|error| format!("{}: {error}", key.display()))?;
            let key = PrivateKey::from_pem(&pem).map_err(|error| format!("{}: {error}", key.display()))?;
            Some(ClientCert::new_with_certs(&chain, key))
        }
    };
    Ok(TlsConfig::builder()
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .root_certs(RootCerts::new_with_certs(&roots))
        .client_cert(shown)
        .build())
}

/// A URL that may be asked: over https://, or from this machine itself.
pub(crate) fn safe(url: &str) -> Option<String> {
    let host = |rest: &str| rest.split(['/', '?']).next().unwrap_or_default().to_owned();
    let near = |host: &str| {
        ["localhost", "127.0.0.1", "[::1]"].iter().any(|near| host == *near || host.starts_with(&format!("{near}:")))
    };
    let is_safe = match url.split_once("://") {
        Some(("https", rest)) => !host(rest).is_empty(),
        Some(("http", rest)) => near(&host(rest)),
        _ => false,
    };
    is_safe.then(|| url.to_owned())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let said = |reason: String| format!("{}: {reason}", path.display());
    let pem = read_file(path).map_err(|error| said(error.to_string()))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match found {
        Ok(found) if found.is_empty() => Err(said("it holds no certificate in PEM".to_owned())),
        Ok(found) => Ok(found),
        Err(error) => Err(said(format!("it is no PEM: {error}"))),
    }
}

/// Whom to ask for keys.
pub(super) struct Client(ureq::Agent);

impl Client {
    pub(super) fn new(tls: TlsConfig) -> Client {
        let settings = ureq::Agent::config_builder()
            .http_status_as_error(true)
            .max_redirects(0)
            .timeout_global(Some(ANSWER_MAX))
            .tls_config(tls);
        Client(settings.build().new_agent())
    }

    /// The body of a good answer. Blocks; fails in words.
    pub(super) fn get(&self, url: &str) -> Result<Vec<u8>, String> {
        let mut response = self.0.get(url).call().map_err(|error| format!("{url}: {error}"))?;
        let body = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec();
        body.map_err(|error| format!("{url}: {error}"))
    }
}
