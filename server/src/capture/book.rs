//! What may be captured of which endpoint?
//!
//! One file, a table for each endpoint, so that it belongs to the endpoint and outlives its versions and plans:
//!
//! ```toml
//! [risk]
//! sample = 0.1                       # the share of requests, by their ids
//! columns = ["input_age", "output_probability"]
//! hash = ["input_customer"]
//! redact = ["input_note"]
//! drop = ["input_name"]
//! headers = ["x-channel"]            # columns header_x-channel
//! subject = { header = "x-customer" }  # or { input = "customer" }: rows are encrypted, and can be erased
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use http::header::{AUTHORIZATION, COOKIE, HeaderName, PROXY_AUTHORIZATION};
use serde::Deserialize;
use tiltyard_capture::{Action, Rules};
use tiltyard_types::nearest;

use super::subject::Subject;

const MILLION: f64 = 1e6;

/// The rules of endpoints.
#[derive(Debug, Default)]
pub struct Book {
    /// As they were read.
    text: String,
    of: BTreeMap<String, Said>,
    /// Of all others: everything, as it is.
    others: Said,
}

/// What the file says of an endpoint.
#[derive(Debug, Default)]
pub(super) struct Said {
    pub(super) rules: Rules,
    pub(super) headers: Vec<HeaderName>,
    pub(super) subject: Option<Subject>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    sample: Option<f64>,
    columns: Option<BTreeSet<String>>,
    #[serde(default)]
    drop: Vec<String>,
    #[serde(default)]
    redact: Vec<String>,
    #[serde(default)]
    hash: Vec<String>,
    #[serde(default)]
    headers: Vec<String>,
    subject: Option<Subject>,
}

impl Book {
    /// Reads the file, where there is one. `key` is asked for the key of hashes where something is to be hashed; `can_seal` says
    /// whether there is a master key.
    pub(super) fn open(
        file: Option<&Path>,
        can_seal: bool,
        key: impl Fn() -> Result<[u8; 32], String>,
    ) -> Result<Book, String> {
        let Some(path) = file else { return Ok(Book::default()) };
        let of_file = |what: String| format!("capture_rules: {}: {what}", path.display());
        let text = std::fs::read_to_string(path).map_err(|error| of_file(error.to_string()))?;
        Book::read(&text, can_seal, key).map_err(of_file)
    }

    fn read(text: &str, can_seal: bool, key: impl Fn() -> Result<[u8; 32], String>) -> Result<Book, String> {
        let tables: BTreeMap<String, Written> = toml::from_str(text).map_err(|error| error.to_string())?;
        let mut book = Book { text: text.to_owned(), ..Book::default() };
        for (endpoint, written) in tables {
            if written.subject.is_some() && !can_seal {
                return Err(format!(
                    "[{endpoint}] subject: rows are encrypted for it, and there is no master key: set capture_key_file"
                ));
            }
            let headers = written.headers.iter().map(|name| header(&endpoint, name)).collect::<Result<_, _>>()?;
            let subject = written.subject.clone();
            if let Some(Subject::Header(name)) = &subject {
                header(&endpoint, name)?;
            }
            let said = Said { rules: rules(&endpoint, written, &key)?, headers, subject };
            book.of.insert(endpoint, said);
        }
        Ok(book)
    }

    pub(super) fn of(&self, endpoint: &str) -> &Said {
        self.of.get(endpoint).unwrap_or(&self.others)
    }

    /// Whether the file says the same.
    pub(super) fn says_what(&self, other: &Book) -> bool {
        self.text == other.text
    }

    /// The table that was probably meant for an endpoint that has none: of a similar name, and of no endpoint that there is.
    pub(super) fn meant_for<'a>(&'a self, endpoint: &str, known: &BTreeSet<&str>) -> Option<&'a str> {
        let idle = self.of.keys().map(String::as_str).filter(|name| !known.contains(name));
        nearest(endpoint, idle).filter(|_| !self.of.contains_key(endpoint))
    }
}

/// A header that may be captured.
fn header(endpoint: &str, name: &str) -> Result<HeaderName, String> {
    let wrong = |why: &str| format!("[{endpoint}] header {name:?}: {why}");
    let name: HeaderName = name.parse().map_err(|_| wrong("expected a name such as x-channel"))?;
    match [AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION].contains(&name) {
        true => Err(wrong("holds credentials, which are never captured")),
        false => Ok(name),
    }
}

fn rules(endpoint: &str, written: Written, key: impl Fn() -> Result<[u8; 32], String>) -> Result<Rules, String> {
    let sample = written.sample.unwrap_or(1.0);
    if !(0.0..=1.0).contains(&sample) {
        return Err(format!("[{endpoint}] sample: expected a share from 0 to 1, got {sample}"));
    }
    let mut actions = BTreeMap::new();
    for (action, names) in
        [(Action::Drop, written.drop), (Action::Redact, written.redact), (Action::Hash, written.hash)]
    {
        for name in names {
            if actions.insert(name.clone(), action).is_some() {
                return Err(format!(
                    "[{endpoint}] column {name:?} is named twice: expected one of drop, redact and hash"
                ));
            }
        }
    }
    let hashes = actions.values().any(|action| *action == Action::Hash);
    Ok(Rules {
        sample_per_million: (sample * MILLION).round() as u32,
        columns: written.columns,
        actions,
        key: hashes.then(key).transpose()?,
    })
}

/// Whether all columns are captured as they are.
pub(super) fn keeps_all(rules: &Rules) -> bool {
    rules.columns.is_none() && rules.actions.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Book, String> {
        Book::read(text, false, || Ok([7; 32]))
    }

    #[test]
    fn an_endpoint_has_its_own_rules_and_others_none() {
        let book = read("[risk]\nsample = 0.25\ncolumns = [\"input_age\"]\nhash = [\"input_age\"]").expect("rules");
        let risk = &book.of("risk").rules;
        assert_eq!(risk.sample_per_million, 250_000);
        assert_eq!(risk.actions.get("input_age"), Some(&Action::Hash));
        assert_eq!((risk.key, keeps_all(risk)), (Some([7; 32]), false));
        let other = &book.of("other").rules;
        assert!(keeps_all(other) && other.sample_per_million == 1_000_000);
    }

    #[test]
    fn a_table_of_no_endpoint_may_be_meant_for_another() {
        let book = read("[rsik]\nredact = [\"input_age\"]\n[fraud]\nsample = 0.1").expect("rules");
        let known = BTreeSet::from(["risk", "fraud"]);
        assert_eq!(book.meant_for("risk", &known), Some("rsik"));
        assert_eq!(book.meant_for("fraud", &known), None, "it has its own");
        assert_eq!(book.meant_for("digits", &known), None);
        assert_eq!(book.meant_for("frau", &known), None, "that table is an endpoint's");
    }

    #[test]
    fn mistakes_are_told() {
        for (text, told) in [
            ("[risk]\nsamples = 1", "samples"),
            ("[risk]\nsample = 2.0", "from 0 to 1, got 2"),
            ("[risk]\ndrop = [\"a\"]\nhash = [\"a\"]", "\"a\" is named twice"),
            ("[risk]\nheaders = [\"Cookie\"]", "credentials"),
            ("[risk]\nheaders = [\"a b\"]", "expected a name"),
            ("[risk]\nsubject = { header = \"x-customer\" }", "capture_key_file"),
            ("[risk]\nsubject = { output = \"y\" }", "unknown variant"),
        ] {
            let error = read(text).expect_err(text);
            assert!(error.contains(told), "{error}");
        }
    }
}
