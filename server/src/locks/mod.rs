//! Which locks are on the doors?
//!
//! Whether a connection is encrypted ([`tls`]), who sent a request ([`access`]), and what that caller may do ([`calls`],
//! the one table). Nothing here is in the way of a server without locks: it has neither.

pub mod access;
pub mod calls;
pub mod certificate;
pub(crate) mod fetch;
mod followed;
pub mod jwks;
pub mod jwt;
pub mod list;
mod oidc;
pub mod secret;
pub mod tls;

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::config::{ClientAuth, Config, Host};
use access::Access;
use tls::Tls;

/// How often the files of the locks are looked at. What changed is used once it was the same in two looks.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// Looks after files and keys that change while the server runs, on a thread of its own: reading them may take a while.
pub fn follow(tls: Option<Arc<Tls>>, access: Option<Arc<Access>>) -> io::Result<()> {
    if tls.is_none() && access.is_none() {
        return Ok(());
    }
    let look = move || {
        loop {
            if let Some(tls) = &tls {
                tls.look();
            }
            if let Some(access) = &access {
                access.look();
            }
            thread::sleep(LOOK_INTERVAL);
        }
    };
    thread::Builder::new().name("tiltyard-locks".to_owned()).spawn(look).map(drop)
}

/// What an operator should know of doors that are open; nothing where all is well.
pub fn warnings(config: &Config) -> Vec<String> {
    let reachable: Vec<String> = [&config.host, &config.admin_host]
        .into_iter()
        .filter(|host| !is_loopback(host))
        .map(ToString::to_string)
        .collect();
    let Some(host) = reachable.first() else { return Vec::new() };
    let certified = config.tls_client_ca.is_some() && config.tls_client_auth == ClientAuth::Required;
    let known = config.access_file.is_some() || certified;
    if !known {
        return vec![format!(
            "nothing locks the doors: whoever reaches {host} may use every model; see access_file and tls_client_ca, or \
             keep it behind something that asks"
        )];
    }
    if config.tls_cert.is_none() {
        return vec![format!("tokens travel in the clear on {host}: give tls_cert and tls_key")];
    }
    Vec::new()
}

/// Whether only this machine can connect. A name other than the usual one may be anywhere.
fn is_loopback(host: &Host) -> bool {
    match host {
        Host::Address(address) => address.to_canonical().is_loopback(),
        Host::Name(name) => name == "localhost",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_doors_are_told() {
        let everywhere = || Host::Address([0, 0, 0, 0].into());
        let check = |config: Config, expected: &[&str]| {
            let warnings = warnings(&config);
            assert_eq!(warnings.len(), expected.len(), "{warnings:?}");
            assert!(warnings.iter().zip(expected).all(|(warning, part)| warning.contains(part)), "{warnings:?}");
        };
        check(Config::default(), &[]);
        check(Config { host: everywhere(), ..Config::default() }, &["nothing locks the doors"]);
        check(Config { admin_host: everywhere(), ..Config::default() }, &["nothing locks the doors"]);
        let asked = |tls_client_auth| Config {
            host: everywhere(),
            tls_cert: Some("c".into()),
            tls_client_ca: Some("a".into()),
            tls_client_auth,
            ..Config::default()
        };
        check(asked(ClientAuth::Required), &[]);
        check(asked(ClientAuth::Optional), &["nothing locks the doors"]);
        let access_file = Some("access".into());
        check(Config { host: everywhere(), access_file: access_file.clone(), ..Config::default() }, &["in the clear"]);
        check(Config { host: everywhere(), access_file, tls_cert: Some("c".into()), ..Config::default() }, &[]);
    }
}
