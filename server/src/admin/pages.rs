//! Does a page that somebody opened in a browser ask, without its reader's knowledge?
//!
//! A browser reaches loopback ports, and sends a form or a simple POST for any page. It says whose page it was in `Origin`; and
//! where a page had its own name lead to this address, that name is in `Host`.

use std::net::IpAddr;

use http::header::{HOST, ORIGIN};
use http::{HeaderMap, Uri};
use tiltyard_types::{Error, ErrorKind, Result};

use crate::config::{Config, Host};

/// Fails where a request comes from a page that is not this port's own, or names a host that is not this one.
pub(super) fn refuse_foreign(headers: &HeaderMap, uri: &Uri, config: &Config) -> Result<()> {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let Some(host) = uri.authority().map(http::uri::Authority::as_str).or_else(|| text(HOST)) else { return Ok(()) };
    // With TLS the page's name would have to be in the certificate, and with locks it would have to know a secret.
    let is_locked = config.tls_cert.is_some() || config.access_file.is_some();
    if !is_locked && !is_ours(name_of(host), config) {
        return Err(refused(format!(
            "the admin port is not called {:?}: expected its address, localhost, or a name in admin_names",
            shown(host)
        )));
    }
    match text(ORIGIN) {
        Some(origin) if !is_page_of(origin, host) => Err(refused(format!(
            "a page of {:?} asks, and the admin port answers pages of its own only: use a command, or a client that sends no Origin",
            shown(origin)
        ))),
        _ => Ok(()),
    }
}

fn refused(message: String) -> Error {
    Error::new(ErrorKind::Forbidden, message)
}

fn shown(text: &str) -> String {
    text.chars().take(200).collect()
}

fn is_page_of(origin: &str, host: &str) -> bool {
    let authority = ["http://", "https://"].into_iter().find_map(|scheme| origin.strip_prefix(scheme));
    authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host))
}

/// The host without its port.
fn name_of(host: &str) -> &str {
    if let Some((address, _)) = host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return address;
    }
    host.rsplit_once(':').map_or(host, |(name, _)| name)
}

/// Whether it is an address, which no page can have lead elsewhere, or a name that this port is known by.
fn is_ours(name: &str, config: &Config) -> bool {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let is_configured = |host: &Host| matches!(host, Host::Name(known) if known.eq_ignore_ascii_case(&name));
    name.parse::<IpAddr>().is_ok()
        || name == "localhost"
        || name.ends_with(".localhost")
        || [&config.admin_host, &config.metrics_host].into_iter().any(is_configured)
        || config.admin_names.iter().any(|known| known.eq_ignore_ascii_case(&name))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn pages_of_others_are_refused() {
        let config = Config {
            admin_names: vec!["Tiltyard.internal".into()],
            metrics_host: Host::Name("metrics".into()),
            ..Config::default()
        };
        let ask = |config: &Config, host: &'static str, origin: Option<&'static str>| {
            let mut headers = HeaderMap::from_iter([(HOST, HeaderValue::from_static(host))]);
            headers.extend(origin.map(|origin| (ORIGIN, HeaderValue::from_static(origin))));
            refuse_foreign(&headers, &Uri::from_static("/admin/status"), config)
                .map_err(|error| error.message().to_owned())
        };
        for host in ["127.0.0.1:8002", "localhost:8002", "LOCALHOST.", "[::1]:8002", "10.1.2.3", "a.localhost:1"] {
            assert_eq!(ask(&config, host, None), Ok(()), "{host}");
        }
        for host in ["tiltyard.internal:8002", "metrics"] {
            assert_eq!(
                (ask(&config, host, None), ask(&Config::default(), host, None).is_err()),
                (Ok(()), true),
                "{host}"
            );
        }
        for host in ["evil.example:8002", "127.0.0.1.evil.example", "localhost.evil.example", ""] {
            assert!(ask(&config, host, None).unwrap_err().contains("a name in admin_names"), "{host}");
        }
        let locked = Config { access_file: Some("access".into()), ..Config::default() };
        assert_eq!(ask(&locked, "tiltyard.example", None), Ok(()));
        for origin in ["http://127.0.0.1:8002", "https://127.0.0.1:8002"] {
            assert_eq!(ask(&config, "127.0.0.1:8002", Some(origin)), Ok(()));
        }
        for origin in
            ["null", "http://evil.example", "http://127.0.0.1:8000", "http://127.0.0.1", "file://", "127.0.0.1:8002"]
        {
            for config in [&config, &locked] {
                assert!(
                    ask(config, "127.0.0.1:8002", Some(origin)).unwrap_err().contains("pages of its own only"),
                    "{origin}"
                );
            }
        }
        // Over HTTP/2 the name is in the address.
        let uri = Uri::from_static("http://evil.example/admin/status");
        assert!(refuse_foreign(&HeaderMap::new(), &uri, &config).is_err());
        assert_eq!(refuse_foreign(&HeaderMap::new(), &Uri::from_static("/admin/status"), &config), Ok(()));
    }
}
