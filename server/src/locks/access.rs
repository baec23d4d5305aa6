//! Who sent a request?
//!
//! A bearer token (of the access file, or a JSON web token of the provider), or else the names in the client's certificate.
//! Credentials that are wrong are an error, even where others would do.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use tiltyard_registry::book::How;
use tiltyard_types::{Error, ErrorKind, Result};

use super::calls::{Call, Caller};
use super::certificate::ClientCertificate;
use super::followed::{Contents, Followed};
use super::jwt::{self, Refused};
use super::list::List;
use super::oidc::Oidc;
use super::secret::Digest;
use crate::clock;
use crate::config::{Config, OpenCall};

/// JSON web tokens that one thread remembers to have verified: signatures cost tens of microseconds.
const REMEMBERED_MAX: usize = 1024;

/// The list of who may do what, and how callers prove who they are.
pub struct Access {
    list: ArcSwap<List>,
    followed: Mutex<Followed>,
    oidc: Option<Oidc>,
    open: Vec<OpenCall>,
    /// Counts up whenever what was remembered may be wrong.
    revision: AtomicU64,
}

impl Access {
    /// What the configuration asks for; `None` where anybody may do anything. Fails, in words, on a list that is missing or
    /// wrong: a server that was to have locks does not start without them.
    pub fn open(config: &Config) -> Result<Option<Access>, String> {
        let oidc = Oidc::open(config)?;
        let Some(path) = config.access_file.clone() else {
            return match oidc {
                None => Ok(None),
                Some(_) => Err("oidc_issuer needs access_file, which says what groups may do".to_owned()),
            };
        };
        let said = |reason: String| format!("access_file {}: {reason}", path.display());
        let (followed, contents) = Followed::open(vec![PathBuf::from(&path)]).map_err(said)?;
        let list = parse(&contents).map_err(said)?;
        let [tokens, groups, certificates] = list.counts();
        tracing::info!(tokens, groups, certificates, "callers must say who they are");
        if groups > 0 && oidc.is_none() {
            tracing::warn!("the access file has groups, and no oidc_issuer says where tokens with groups come from");
        }
        Ok(Some(Access {
            list: ArcSwap::from_pointee(list),
            followed: Mutex::new(followed),
            oidc,
            open: config.open_calls.clone(),
            revision: AtomicU64::new(0),
        }))
    }

    /// Takes a list and keys that changed. What is wrong with them is told once, and leaves the old ones in force.
    pub(super) fn look(&self) {
        let changed = self.followed.lock().unwrap_or_else(PoisonError::into_inner).look();
        match changed.map(|read| read.and_then(|contents| parse(&contents))) {
            None => {}
            Some(Ok(list)) => {
                self.list.store(Arc::new(list));
                self.revision.fetch_add(1, Relaxed);
                tracing::info!("the access file was read anew");
            }
            Some(Err(reason)) => {
                tracing::error!(reason, "the new access file cannot be used: the old one stays in force");
            }
        }
        if self.oidc.as_ref().is_some_and(Oidc::look) {
            self.revision.fetch_add(1, Relaxed);
        }
    }

    /// Whether a request may do what it asks for, and who sent it; nobody is asked about what is open to everybody. Fails with
    /// UNAUTHENTICATED or FORBIDDEN.
    pub fn judge(
        &self,
        headers: &HeaderMap,
        certificate: Option<&ClientCertificate>,
        call: Call<'_>,
    ) -> Result<Option<Arc<Caller>>> {
        if call.open_name().is_some_and(|name| self.open.contains(&name)) {
            return Ok(None);
        }
        let caller = self.who(headers, certificate)?;
        caller.may(call)?;
        Ok(Some(caller))
    }

    /// Who sent a request. Fails with UNAUTHENTICATED where its credentials are missing or wrong, and with NOT_READY where
    /// they cannot be looked at yet.
    pub fn who(&self, headers: &HeaderMap, certificate: Option<&ClientCertificate>) -> Result<Arc<Caller>> {
        let mut given = headers.get_all(AUTHORIZATION).iter();
        match (given.next(), given.next()) {
            (Some(value), None) => {
                let value = value.to_str().unwrap_or_default();
                let (scheme, token) = value.split_once(' ').unwrap_or((value, ""));
                if !scheme.eq_ignore_ascii_case("bearer") {
                    return Err(unauthenticated("the authorization header must be: Bearer, a blank, and a token"));
                }
                self.bearer(token.trim())
            }
            (Some(_), Some(_)) => Err(unauthenticated("there is more than one authorization header")),
            (None, _) => {
                let Some(certificate) = certificate else {
                    return Err(unauthenticated(
                        "this call needs credentials: send the header authorization: Bearer and a token, or show a \
                         client certificate where the server asks for one",
                    ));
                };
                let caller = self.list.load().of_certificate(&certificate.names);
                // Known to the authority, but not to us.
                caller.map(Arc::new).ok_or_else(|| {
                    let names = certificate.names.join(", ");
                    let message = format!("the client certificate's names ({names}) have no role here");
                    Error::new(ErrorKind::Forbidden, message)
                })
            }
        }
    }

    fn bearer(&self, token: &str) -> Result<Arc<Caller>> {
        let digest = Digest::of(token);
        if let Some(caller) = self.list.load().token(&digest) {
            return Ok(Arc::clone(caller));
        }
        match &self.oidc {
            Some(oidc) if jwt::looks_like(token) => self.web_token(oidc, token, digest),
            _ => Err(unauthenticated("the token is not known here")),
        }
    }

    fn web_token(&self, oidc: &Oidc, token: &str, digest: Digest) -> Result<Arc<Caller>> {
        let (revision, now) = (self.revision.load(Relaxed), clock::unix_ms() / 1000);
        if let Some(caller) = remembered(&digest, revision, now) {
            return Ok(caller);
        }
        let Some(keys) = oidc.keys.load_full() else {
            let message = "the keys of the tokens' provider are not here yet; try again soon";
            return Err(Error::new(ErrorKind::NotReady, message));
        };
        let claims = jwt::read(token, &oidc.expected, &keys, now).map_err(|refused| match refused {
            Refused::Because(reason) => unauthenticated(&format!("the token is not taken: {reason}")),
            Refused::UnknownKey => {
                oidc.miss_key();
                unauthenticated("the token is not taken: the provider has not shown the key that it names")
            }
        })?;
        let grants = self.list.load().of_groups(claims.groups.iter().map(String::as_str));
        let caller = Arc::new(Caller { name: claims.subject, grants, how: How::Token });
        remember(digest, revision, claims.expires, &caller);
        Ok(caller)
    }
}

fn parse(contents: &Contents) -> Result<List, String> {
    List::parse(std::str::from_utf8(&contents.concat()).map_err(|_| "it is not UTF-8".to_owned())?)
}

fn unauthenticated(message: &str) -> Error {
    Error::new(ErrorKind::Unauthenticated, message)
}

/// A JSON web token that was found to be good.
struct Remembered {
    revision: u64,
    expires: u64,
    caller: Arc<Caller>,
}

thread_local! {
    /// Each event loop remembers for itself, without a lock.
    static REMEMBERED: RefCell<HashMap<Digest, Remembered>> = RefCell::default();
}

/// Whose token it is, where it was verified before, under the same list and keys, and has not expired. Without the leeway
/// that a first look grants: then it is looked at again.
fn remembered(digest: &Digest, revision: u64, now: u64) -> Option<Arc<Caller>> {
    REMEMBERED.with_borrow(|tokens| {
        let known = tokens.get(digest)?;
        (known.revision == revision && now < known.expires).then(|| Arc::clone(&known.caller))
    })
}

fn remember(digest: Digest, revision: u64, expires: u64, caller: &Arc<Caller>) {
    REMEMBERED.with_borrow_mut(|tokens| {
        if tokens.len() >= REMEMBERED_MAX {
            tokens.clear();
        }
        tokens.insert(digest, Remembered { revision, expires, caller: Arc::clone(caller) });
    });
}

#[cfg(test)]
mod tests;
