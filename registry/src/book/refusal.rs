//! Why is an order not done, and what would have to be otherwise?

use std::fmt;

use serde::{Serialize, Serializer};
use tiltyard_types::{Error, ErrorKind};

use super::rules::Need;

/// An order that is refused. Nothing of it is on the record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// Which way of failing it is.
    #[serde(serialize_with = "name")]
    pub kind: ErrorKind,
    /// The rule that refuses; `promotion` where it is those in `needed`.
    pub rule: &'static str,
    /// What was wrong, what was expected and what to do.
    pub message: String,
    /// Every rule that is not met, with what would satisfy it.
    pub needed: Vec<Need>,
}

fn name<S: Serializer>(kind: &ErrorKind, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(kind.name())
}

impl Refusal {
    fn new(kind: ErrorKind, rule: &'static str, message: impl Into<String>) -> Refusal {
        Refusal { kind, rule, message: message.into(), needed: Vec::new() }
    }

    /// The order cannot be meant so.
    pub(crate) fn invalid(rule: &'static str, message: impl Into<String>) -> Refusal {
        Refusal::new(ErrorKind::Invalid, rule, message)
    }

    /// Something named is not on the record.
    pub(crate) fn unknown(what: &'static str, message: impl Into<String>) -> Refusal {
        Refusal::new(ErrorKind::NotFound, what, message)
    }

    /// Whoever orders it may not, or the rules of the house do not let it happen.
    pub(crate) fn forbidden(rule: &'static str, message: impl Into<String>) -> Refusal {
        Refusal::new(ErrorKind::Forbidden, rule, message)
    }

    /// Something is over its limit.
    pub(crate) fn too_large(rule: &'static str, message: impl Into<String>) -> Refusal {
        Refusal::new(ErrorKind::TooLarge, rule, message)
    }

    /// Rules of a promotion are not met.
    pub(crate) fn needs(what: String, needed: Vec<Need>) -> Refusal {
        let rules: Vec<_> = needed.iter().map(|need| need.rule.as_str()).collect();
        let message = format!("{what} is refused by {}: {}", count(&needed), rules.join(", "));
        Refusal { needed, ..Refusal::new(ErrorKind::Forbidden, "promotion", message) }
    }
}

fn count(needed: &[Need]) -> String {
    if needed.len() == 1 { "1 rule".into() } else { format!("{} rules", needed.len()) }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        self.needed.iter().try_for_each(|need| write!(f, "\n  {need}"))
    }
}

impl std::error::Error for Refusal {}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Error {
        Error::new(refusal.kind, refusal.to_string())
    }
}

/// An entry of the log that makes no sense after those before it: another program wrote it, or a newer one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("entry {sequence}: {why}")]
pub struct Fault {
    /// The entry.
    pub sequence: u64,
    /// What is wrong with it.
    pub why: String,
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Error {
        Error::invalid(fault.to_string())
    }
}
