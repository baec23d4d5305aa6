//! Who may do what? The access file: one line for each token, group and name of a certificate.
//!
//! ```text
//! # kind      name              roles, for all models or for some     what it is known by
//! token       fraud-app         scorer:risk,fraud-*                   sha256:9f86d0…
//! group       ml-platform       viewer deployer
//! certificate spiffe://prod/ci  deployer
//! ```
//!
//! Words are divided by blanks; a word with blanks in it stands between double quotes.

use std::collections::HashMap;
use std::sync::Arc;

use subtle::ConstantTimeEq;
use tiltyard_registry::book::How;

use super::calls::{Caller, Grant, Role};
use super::secret::Digest;

/// Lines that say something, at most.
const LINES_MAX: usize = 10_000;

/// The access file as it is meant.
#[derive(Debug, Default)]
pub struct List {
    /// By the first bytes of their digests. Finding these takes a time that says something of them, which is nothing of
    /// the token; the rest is compared in constant time.
    tokens: HashMap<[u8; 8], Vec<(Digest, Arc<Caller>)>>,
    groups: HashMap<String, Vec<Grant>>,
    certificates: HashMap<String, Vec<Grant>>,
}

impl List {
    /// Reads the file's text. Fails at the first line that is wrong, and says how.
    pub fn parse(text: &str) -> Result<List, String> {
        let mut list = List::default();
        let mut count = 0;
        for (number, line) in text.lines().enumerate() {
            let wrong = |reason: String| format!("line {}: {reason}", number + 1);
            let words = words(line).map_err(wrong)?;
            if words.is_empty() {
                continue;
            }
            count += 1;
            if count > LINES_MAX {
                return Err(wrong(format!("more than {LINES_MAX} lines")));
            }
            list.take(&words).map_err(wrong)?;
        }
        Ok(list)
    }

    fn take(&mut self, words: &[String]) -> Result<(), String> {
        let [kind, name, rest @ ..] = words else {
            return Err("expected a kind, a name and roles".to_owned());
        };
        match kind.as_str() {
            "token" => {
                let (digest, roles) = rest.split_last().ok_or("expected roles and sha256:…")?;
                // The word is not shown: somebody may have put the token itself there.
                let digest = digest.strip_prefix("sha256:").and_then(Digest::parse).ok_or(
                    "the last word of a token's line is sha256: and the 64 hexadecimal digits of its digest, as \
                     `tiltyard token new` writes it",
                )?;
                let caller = Caller { name: name.clone(), grants: grants(roles)?, how: How::Key };
                if self.token(&digest).is_some() {
                    return Err("this token is in the list already".to_owned());
                }
                self.tokens.entry(beginning(&digest)).or_default().push((digest, Arc::new(caller)));
            }
            "group" => self.groups.entry(name.clone()).or_default().extend(grants(rest)?),
            "certificate" => self.certificates.entry(name.clone()).or_default().extend(grants(rest)?),
            other => return Err(format!("{other:?} is no kind: expected token, group or certificate")),
        }
        Ok(())
    }

    /// Whose token it is.
    pub(super) fn token(&self, digest: &Digest) -> Option<&Arc<Caller>> {
        let candidates = self.tokens.get(&beginning(digest))?;
        candidates.iter().find(|(known, _)| bool::from(known.0.ct_eq(&digest.0))).map(|(_, caller)| caller)
    }

    /// What the groups of a caller may do together.
    pub(super) fn of_groups<'a>(&self, groups: impl Iterator<Item = &'a str>) -> Vec<Grant> {
        groups.filter_map(|name| self.groups.get(name)).flatten().cloned().collect()
    }

    /// Who shows a certificate with these names; none where the list has none of them.
    pub(super) fn of_certificate(&self, names: &[String]) -> Option<Caller> {
        let known: Vec<&String> = names.iter().filter(|name| self.certificates.contains_key(*name)).collect();
        let name = (*known.first()?).clone();
        Some(Caller {
            name,
            grants: known.iter().filter_map(|name| self.certificates.get(*name)).flatten().cloned().collect(),
            how: How::Certificate,
        })
    }

    /// Whether tokens, groups and certificates are in it.
    pub(super) fn counts(&self) -> [usize; 3] {
        [self.tokens.values().map(Vec::len).sum(), self.groups.len(), self.certificates.len()]
    }
}

fn beginning(digest: &Digest) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&digest.0[..8]);
    bytes
}

/// The words of a line, up to a `#`.
fn words(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while let Some(first) = rest.chars().next() {
        if first == '#' {
            break;
        }
        let (word, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').ok_or("a quote is not closed")?,
            None => rest.split_at(rest.find(char::is_whitespace).unwrap_or(rest.len())),
        };
        if word.is_empty() {
            return Err("a name is empty".to_owned());
        }
        words.push(word.to_owned());
        rest = after.trim_start();
    }
    Ok(words)
}

fn grants(words: &[String]) -> Result<Vec<Grant>, String> {
    if words.is_empty() {
        return Err(format!("expected at least one role: {}", roles()));
    }
    words.iter().map(|word| grant(word)).collect()
}

/// Reads `scorer` or `scorer:risk,fraud-*`.
pub fn grant(word: &str) -> Result<Grant, String> {
    let (name, models) = match word.split_once(':') {
        Some((name, models)) => (name, models.split(',').map(str::to_owned).collect()),
        None => (word, Vec::new()),
    };
    let role = Role::ALL.iter().find(|(known, _)| *known == name).map(|(_, role)| *role);
    // What is no role may be a secret in the wrong place, so only a little of it is shown.
    let role = role.ok_or_else(|| {
        let shown: String = name.chars().take(8).collect();
        format!("{shown:?} is no role: expected {}", roles())
    })?;
    if models.iter().any(String::is_empty) {
        return Err(format!("{name}: names a model that has no name; write {name}:risk,digits, or {name} for all"));
    }
    Ok(Grant { role, models })
}

fn roles() -> String {
    Role::ALL.map(|(name, _)| name).join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::locks::calls::Call;

    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn lines_give_roles() {
        let text = format!(
            "# who may\n\n token fraud-app scorer:risk,fraud-* viewer:risk  sha256:{ABC} # note\n\
             group \"ML platform\" deployer viewer\ncertificate spiffe://prod/ci deployer\ncertificate ci.local viewer\n"
        );
        let list = List::parse(&text).unwrap();
        assert_eq!(list.counts(), [1, 1, 2]);
        let app = list.token(&Digest::of("abc")).unwrap();
        assert_eq!(app.name, "fraud-app");
        assert!(app.may(Call::Score("fraud-eu")).is_ok() && app.may(Call::Score("digits")).is_err());
        assert!(list.token(&Digest::of("abd")).is_none());
        assert_eq!(list.of_groups(["other", "ML platform"].into_iter()).len(), 2);
        assert!(list.of_groups(["ml platform"].into_iter()).is_empty());
        let names = ["x", "ci.local", "spiffe://prod/ci"].map(str::to_owned);
        let ci = list.of_certificate(&names).unwrap();
        assert_eq!((ci.name.as_str(), ci.grants.len()), ("ci.local", 2));
        assert_eq!(list.of_certificate(&names[..1]), None);
    }

    #[test]
    fn lines_that_are_wrong() {
        let check = |text: &str, expected: &str| {
            let reason = List::parse(text).unwrap_err();
            assert!(reason.contains(expected), "{reason}");
        };
        check("token", "line 1: expected a kind, a name and roles");
        check("\n# x\nuser ada admin", "line 3: \"user\" is no kind");
        check("token ada", "expected roles and sha256");
        check(&format!("token ada sha256:{ABC}"), "at least one role");
        check("token ada admin sha256:12", "64 hexadecimal digits");
        check("group x owner", "\"owner\" is no role: expected viewer, scorer");
        check("group x scorer:", "scorer: names a model that has no name");
        check("group \"x scorer", "a quote is not closed");
        check("group \"\" scorer", "a name is empty");
        check(&format!("token a admin sha256:{ABC}\ntoken b admin sha256:{ABC}"), "line 2: this token is in the list");
    }

    #[test]
    fn a_token_in_the_wrong_place_is_not_told() {
        for text in ["token ada admin tiltyard_AbCdEfGhIjKlMnOp", "token ada tiltyard_AbCdEfGhIjKlMnOp sha256:12"] {
            assert!(!List::parse(text).unwrap_err().contains("AbCdEf"));
        }
        assert!(!List::parse("group ada tiltyard_AbCdEfGhIjKlMnOp").unwrap_err().contains("AbCdEf"));
    }
}
