//! How does a command prove to a server who it is, and know that it is the right one?
//!
//! A secret is never an argument, which everybody on the machine can read: it is in a file or in a variable.

use std::path::Path;

use clap::{Arg, ArgMatches};
use ureq::tls::TlsConfig;

use super::exit::Failure;
use super::output::variable;
use crate::locks::fetch;

/// What to show a server, and whom to believe.
#[derive(Default)]
pub(crate) struct Credentials {
    token: Option<String>,
    ca: Option<String>,
    /// A certificate and its key.
    shown: Option<(String, String)>,
}

/// Flags with their variables and what they name.
const FLAGS: [(&str, &str, &str); 4] = [
    ("token-file", "TILTYARD_TOKEN_FILE", "A file with the token to send; TILTYARD_TOKEN may hold the token itself"),
    ("ca", "TILTYARD_CA", "The authorities to believe of an https:// server, in PEM, where they are not the system's"),
    ("client-cert", "TILTYARD_CLIENT_CERT", "The certificate to show to a server that asks for one, in PEM"),
    ("client-key", "TILTYARD_CLIENT_KEY", "The private key that belongs to --client-cert, in PEM"),
];

/// The flags of every command that asks a server.
pub(crate) fn flags() -> impl Iterator<Item = Arg> {
    FLAGS.into_iter().map(|(name, variable, help)| {
        Arg::new(name).long(name).value_name("PATH").help_heading("Server").help(format!("{help} [env: {variable}]"))
    })
}

impl Credentials {
    /// A token, and the system's authorities.
    pub(super) fn of_token(token: &str) -> Credentials {
        Credentials { token: Some(token.trim().to_owned()), ..Credentials::default() }
    }

    /// What flags and variables say. Fails on a file of a token that cannot be read.
    pub(crate) fn of(matches: &ArgMatches) -> Result<Credentials, Failure> {
        let [token_file, ca, certificate, key] = FLAGS.map(|(name, in_environment, _)| {
            matches.try_get_one::<String>(name).ok().flatten().cloned().or_else(|| variable(in_environment))
        });
        let token = match token_file {
            Some(path) => Some(read_token(&path)?),
            None => variable("TILTYARD_TOKEN").map(|token| token.trim().to_owned()),
        };
        if token.as_ref().is_some_and(|token| !token.bytes().all(|byte| byte.is_ascii_graphic())) {
            return Err(Failure::usage("the token holds what no token can: expected one word of printable characters"));
        }
        let shown = match (certificate, key) {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some((certificate, key)),
            _ => return Err(Failure::usage("--client-cert and --client-key go together")),
        };
        Ok(Credentials { token, ca, shown })
    }

    /// The value of the header, where there is a token.
    pub(super) fn authorization(&self) -> Option<String> {
        self.token.as_ref().map(|token| format!("Bearer {token}"))
    }

    /// The client's side of TLS.
    pub(super) fn tls(&self) -> Result<TlsConfig, Failure> {
        let shown = self.shown.as_ref().map(|(certificate, key)| (Path::new(certificate), Path::new(key)));
        fetch::tls(self.ca.as_deref().map(Path::new), shown).map_err(Failure::usage)
    }
}

fn read_token(path: &str) -> Result<String, Failure> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::usage(format!("cannot read the token file {path}: {error}")))?;
    match text.trim() {
        "" => Err(Failure::usage(format!("the token file {path} is empty"))),
        token => Ok(token.to_owned()),
    }
}
