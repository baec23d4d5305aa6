//! Is a JSON web token genuine, meant for us, and still good? RFC 7519 and RFC 7515, and of these only what is safe.
//!
//! Signatures only, of algorithms that the operator allows, by keys of the provider: no `none`, no secrets that both sides
//! share, no key that a token brings along.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::jwks::Keys;
use crate::config::Algorithm;

/// The longest token that is read.
const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// How far clocks may be apart.
const LEEWAY_SECONDS: u64 = 60;

/// Groups of one caller; those after them are passed over.
const GROUPS_MAX: usize = 512;

/// What a token must be to be taken.
#[derive(Clone, Debug)]
pub struct Expected {
    /// Who made it.
    pub issuer: String,
    /// For whom: one of these.
    pub audiences: Vec<String>,
    /// How it is signed: one of these.
    pub algorithms: Vec<Algorithm>,
    /// Where its groups are.
    pub groups_claim: String,
}

/// What a good token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// Whom it stands for.
    pub subject: String,
    /// Groups that it is in.
    pub groups: Vec<String>,
    /// The last second in which it is good, since 1970.
    pub expires: u64,
}

/// Why a token is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// In words for whoever sent it.
    Because(&'static str),
    /// It names a key that is not here, and may be soon.
    UnknownKey,
}

use Refused::Because;

/// Whether a credential has the form of a JSON web token at all.
pub(super) fn looks_like(token: &str) -> bool {
    token.bytes().filter(|&byte| byte == b'.').count() == 2
}

/// Reads a token, at `now` in seconds since 1970. Nothing of it is believed before its signature was found to be right.
pub fn read(token: &str, expected: &Expected, keys: &Keys, now: u64) -> Result<Claims, Refused> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(Because("it is too long"));
    }
    let (signed, signature) = token.rsplit_once('.').ok_or(Because("it is no JSON web token"))?;
    let (header, claims) = signed.split_once('.').ok_or(Because("it is no JSON web token"))?;
    let header = object(header).ok_or(Because("its header cannot be read"))?;
    // Extensions that a reader must understand; we understand none.
    if header.contains_key("crit") {
        return Err(Because("its header has crit, of which nothing is known here"));
    }
    let name = text(&header, "alg").unwrap_or_default();
    let algorithm = expected.algorithms.iter().find(|algorithm| algorithm.name() == name);
    let algorithm = *algorithm.ok_or(Because("its signature is not of a kind that is taken (oidc_algorithms)"))?;
    let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| Because("its signature cannot be read"))?;
    let candidates: Vec<_> = keys.for_token(algorithm, text(&header, "kid")).collect();
    if candidates.is_empty() {
        return Err(Refused::UnknownKey);
    }
    if !candidates.iter().any(|key| key.verifies(algorithm, signed.as_bytes(), &signature)) {
        return Err(Because("its signature is wrong"));
    }
    let claims = object(claims).ok_or(Because("its claims cannot be read"))?;
    check(&claims, expected, now)
}

/// What claims say, whose signature was found to be right.
pub fn check(claims: &Map<String, Value>, expected: &Expected, now: u64) -> Result<Claims, Refused> {
    if text(claims, "iss") != Some(expected.issuer.as_str()) {
        return Err(Because("it is from another issuer (oidc_issuer)"));
    }
    let is_ours =
        |audience: &Value| audience.as_str().is_some_and(|name| expected.audiences.iter().any(|our| our == name));
    let meant = match claims.get("aud") {
        Some(Value::Array(audiences)) => audiences.iter().any(is_ours),
        Some(audience) => is_ours(audience),
        None => false,
    };
    if !meant {
        return Err(Because("it is meant for another audience (oidc_audience)"));
    }
    let expires = seconds(claims, "exp")?.ok_or(Because("it has no time of expiry (exp)"))?;
    if now >= expires.saturating_add(LEEWAY_SECONDS) {
        return Err(Because("it has expired"));
    }
    if seconds(claims, "nbf")?.is_some_and(|from| from > now.saturating_add(LEEWAY_SECONDS)) {
        return Err(Because("it is not good yet (nbf)"));
    }
    let subject = text(claims, "sub").filter(|subject| !subject.is_empty()).ok_or(Because("it names nobody (sub)"))?;
    Ok(Claims { subject: subject.to_owned(), groups: groups(claims, &expected.groups_claim), expires })
}

/// Seconds since 1970, which may have a fraction; `None` where the claim is not there.
fn seconds(claims: &Map<String, Value>, name: &str) -> Result<Option<u64>, Refused> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    match value.as_f64() {
        Some(seconds) if (0.0..1e15).contains(&seconds) => Ok(Some(seconds as u64)),
        _ => Err(Because("one of its times is no number of seconds")),
    }
}

/// The groups at a claim's path: a list, or one text with blanks between them. A claim whose own name has dots is found too.
fn groups(claims: &Map<String, Value>, path: &str) -> Vec<String> {
    let mut found = claims.get(path);
    if found.is_none() {
        let mut parts = path.split('.');
        found = parts.next().and_then(|part| claims.get(part));
        found = parts.fold(found, |value, part| value?.get(part));
    }
    match found {
        Some(Value::Array(groups)) => {
            groups.iter().filter_map(Value::as_str).take(GROUPS_MAX).map(str::to_owned).collect()
        }
        Some(Value::String(groups)) => groups.split_whitespace().take(GROUPS_MAX).map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}

fn object(part: &str) -> Option<Map<String, Value>> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

fn text<'a>(object: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    object.get(key)?.as_str()
}

#[cfg(test)]
mod tests;
