//! How is a connection encrypted, and which certificate does it show?
//!
//! rustls with ring, TLS 1.2 and 1.3. Certificate, key and the authority of clients come from files and follow them: a new
//! set is used from the next connection on, a broken one is told and leaves the old one in force.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::certificate::ClientCertificate;
use super::followed::{Contents, Followed};
use crate::clock;
use crate::config::{ClientAuth, Config};

/// The first byte of every TLS connection: a handshake record.
const HANDSHAKE: u8 = 0x16;

/// Between two warnings of the same kind: strangers decide how often there is a reason.
const WARN_INTERVAL: Duration = Duration::from_secs(10);

/// What a client that speaks plain HTTP/1 is told.
const SPEAK_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\n\
    content-length: 64\r\n\r\n{\"error\": \"this port speaks TLS: ask with https:// instead\"}    ";

/// The encrypted side of the ports.
pub struct Tls {
    config: ArcSwap<ServerConfig>,
    followed: Mutex<Followed>,
    client_auth: ClientAuth,
    warned: AtomicU64,
}

impl Tls {
    /// What the configuration asks for; `None` where that is plain connections. Fails, in words, on files that are missing,
    /// broken, or do not belong together.
    pub fn open(config: &Config) -> Result<Option<Tls>, String> {
        let (certificate, key) = match (&config.tls_cert, &config.tls_key) {
            (Some(certificate), Some(key)) => (certificate.clone(), key.clone()),
            (None, None) if config.tls_client_ca.is_none() => return Ok(None),
            (None, None) => return Err("tls_client_ca needs tls_cert and tls_key".to_owned()),
            (Some(_), None) => return Err("tls_cert needs tls_key, the private key that belongs to it".to_owned()),
            (None, Some(_)) => return Err("tls_key needs tls_cert, the certificate that belongs to it".to_owned()),
        };
        let paths: Vec<PathBuf> = [certificate, key].into_iter().chain(config.tls_client_ca.clone()).collect();
        let (followed, contents) = Followed::open(paths).map_err(|reason| format!("TLS: {reason}"))?;
        let server = server_config(&contents, config.tls_client_auth).map_err(|reason| format!("TLS: {reason}"))?;
        Ok(Some(Tls {
            config: ArcSwap::from_pointee(server),
            followed: Mutex::new(followed),
            client_auth: config.tls_client_auth,
            warned: AtomicU64::new(0),
        }))
    }

    /// Takes files that changed, for connections to come. What is wrong with them is told once.
    pub(super) fn look(&self) {
        let changed = self.followed.lock().unwrap_or_else(PoisonError::into_inner).look();
        let Some(changed) = changed else { return };
        match changed.and_then(|contents| server_config(&contents, self.client_auth)) {
            Ok(config) => {
                self.config.store(Arc::new(config));
                tracing::info!("the TLS certificate was read anew");
            }
            Err(reason) => tracing::error!(reason, "the new TLS files cannot be used: the old ones stay in force"),
        }
    }

    /// Shakes hands within a time. `None`, with a line in the log, where that does not come to pass.
    pub(crate) async fn accept(
        &self,
        stream: TcpStream,
        within: Duration,
    ) -> Option<(TlsStream<TcpStream>, Option<Arc<ClientCertificate>>)> {
        match tokio::time::timeout(within, self.shake_hands(stream)).await {
            Ok(stream) => {
                let stream = stream?;
                let (_, session) = stream.get_ref();
                let shown = session.peer_certificates().and_then(<[_]>::first);
                let certificate = shown.map(|certificate| Arc::new(ClientCertificate::read(certificate)));
                Some((stream, certificate))
            }
            Err(_) => {
                tracing::debug!("a connection did not finish its TLS handshake in time");
                None
            }
        }
    }

    async fn shake_hands(&self, stream: TcpStream) -> Option<TlsStream<TcpStream>> {
        // Looked at and left there: a client that speaks plain HTTP shall be told so in words that it understands.
        let mut first = [0];
        match stream.peek(&mut first).await {
            Ok(1..) if first[0] == HANDSHAKE => {}
            Ok(1..) => {
                self.tell_to_speak_tls(&stream, first[0]);
                return None;
            }
            _ => return None,
        }
        let accepted = TlsAcceptor::from(self.config.load_full()).accept(stream).await;
        accepted.inspect_err(|error| tracing::debug!(%error, "a TLS handshake failed")).ok()
    }

    fn tell_to_speak_tls(&self, stream: &TcpStream, first: u8) {
        let peer = stream.peer_addr().ok();
        if self.may_warn() {
            tracing::warn!(?peer, "a client does not speak TLS on a port that does: use https:// or a secure channel");
        }
        // What was sent must be read before the connection closes, or the answer is lost to the reset that follows.
        let mut sent = [0; 4096];
        while stream.try_read(&mut sent).is_ok_and(|bytes| bytes > 0) {}
        if first.is_ascii_uppercase() {
            // The client may have gone already.
            drop(stream.try_write(SPEAK_TLS));
        }
    }

    fn may_warn(&self) -> bool {
        let (now, warned) = (clock::now().as_nanos().max(1), self.warned.load(Relaxed));
        let due = warned == 0 || now.saturating_sub(warned) >= WARN_INTERVAL.as_nanos() as u64;
        due && self.warned.compare_exchange(warned, now, Relaxed, Relaxed).is_ok()
    }
}

/// A configuration from the files' contents: certificates, key and, if any, the clients' authority.
fn server_config(contents: &Contents, client_auth: ClientAuth) -> Result<ServerConfig, String> {
    let [certificate, key, authority @ ..] = contents.as_slice() else { return Err("no certificate and key".into()) };
    let chain = certificates(certificate, "tls_cert")?;
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|error| format!("tls_key holds no private key in PEM (PKCS #8, PKCS #1 or SEC 1): {error}"))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = match authority.first() {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(authority, "tls_client_ca")? {
                roots.add(certificate).map_err(|error| format!("tls_client_ca: {error}"))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = match client_auth {
                ClientAuth::Required => verifier,
                ClientAuth::Optional => verifier.allow_unauthenticated(),
            };
            builder.with_client_cert_verifier(verifier.build().map_err(|error| format!("tls_client_ca: {error}"))?)
        }
    };
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(|error| format!("tls_cert and tls_key do not make a pair: {error}"))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// The certificates in a text of PEM; at least one.
fn certificates(pem: &[u8], key: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if found.is_empty() => Err(format!("{key} holds no certificate in PEM")),
        Ok(found) => Ok(found),
        Err(error) => Err(format!("{key} is no PEM: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_do_not_belong_together_are_told() {
        let check = |config: Config, expected: &str| {
            let reason = Tls::open(&config).err().unwrap_or_default();
            assert!(reason.contains(expected), "{reason}");
        };
        check(Config { tls_cert: Some("c".into()), ..Config::default() }, "tls_cert needs tls_key");
        check(Config { tls_key: Some("k".into()), ..Config::default() }, "tls_key needs tls_cert");
        check(Config { tls_client_ca: Some("a".into()), ..Config::default() }, "tls_client_ca needs tls_cert");
        let none = Some("/nowhere/c".into());
        check(Config { tls_cert: none.clone(), tls_key: none, ..Config::default() }, "/nowhere/c: No such file");
        assert!(Tls::open(&Config::default()).is_ok_and(|tls| tls.is_none()));
    }

    #[test]
    fn contents_that_are_no_pem_are_told() {
        let check = |contents: &[&str], expected: &str| {
            let contents = contents.iter().map(|content| content.as_bytes().to_vec()).collect();
            let reason = server_config(&contents, ClientAuth::Required).err().unwrap_or_default();
            assert!(reason.contains(expected), "{reason}");
        };
        check(&["", ""], "tls_cert holds no certificate in PEM");
        check(&["-----BEGIN CERTIFICATE-----\n!", ""], "tls_cert");
        let certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        check(&[certificate, ""], "tls_key holds no private key");
    }

    #[test]
    fn the_words_for_plain_clients_are_one_whole_answer() {
        let text = std::str::from_utf8(SPEAK_TLS).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}", body.len())), "{}", body.len());
        assert!(serde_json::from_str::<serde_json::Value>(body).is_ok());
    }
}
