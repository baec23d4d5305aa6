//! How much may stand in one place of the book?
//!
//! Everything that somebody hands in has a bound, so that no order makes the log or the memory of those who read it
//! grow without one. What grows with the log itself, such as the number of plans an endpoint has had, is bounded by who
//! may write.

use super::refusal::Refusal;

/// Bytes of a name of a model, an environment, an alias, an id or a key.
pub const NAME_BYTES_MAX: usize = 128;

/// Bytes of the name of a person or a role.
pub const PERSON_BYTES_MAX: usize = 512;

/// Bytes of a path, an engine's build, a slice, and of what else is a few words.
pub const WORDS_BYTES_MAX: usize = 512;

/// Bytes of a line of text, such as a description, a reason or a tag's value.
pub const LINE_BYTES_MAX: usize = 4 << 10;

/// Bytes of a model card's text.
pub const TEXT_BYTES_MAX: usize = 256 << 10;

/// Bytes of a signature's JSON, and of another system's event.
pub const JSON_BYTES_MAX: usize = 256 << 10;

/// How deep that JSON may be nested.
pub const JSON_DEPTH_MAX: usize = 32;

/// Models.
pub const MODELS_MAX: usize = 10_000;

/// Versions of one model.
pub const VERSIONS_MAX: usize = 100_000;

/// The highest number of a version: what JavaScript can hold exactly.
pub const NUMBER_MAX: u64 = (1 << 53) - 1;

/// Files of one version.
pub const FILES_MAX: usize = 10_000;

/// Tags of one version, and of one model.
pub const TAGS_MAX: usize = 256;

/// Measurements of one version.
pub const METRICS_MAX: usize = 2_000;

/// Aliases of one model.
pub const ALIASES_MAX: usize = 256;

/// Datasets of one version, further entries of a lock, and what one order lists otherwise.
pub const LIST_MAX: usize = 256;

/// Environments.
pub const ENVIRONMENTS_MAX: usize = 64;

/// Groups, required measurements and freeze windows of one policy.
pub const RULES_MAX: usize = 64;

/// Requests of one model that are open at a time.
pub const OPEN_MAX: usize = 1_000;

/// Approvals of one request, void ones included.
pub const APPROVALS_MAX: usize = 1_000;

/// Arms of one plan.
pub const ARMS_MAX: usize = 64;

/// Endpoints with a history.
pub const ENDPOINTS_MAX: usize = 10_000;

/// Runs of other systems that are kept; the oldest goes when another one comes.
pub const RUNS_MAX: usize = 10_000;

/// Orders whose keys are remembered; the oldest is forgotten when another one comes.
pub const KEYS_MAX: usize = 10_000;

/// Fails where there are more than `max` of something.
pub(crate) fn at_most(what: &'static str, count: usize, max: usize) -> Result<(), Refusal> {
    if count <= max {
        return Ok(());
    }
    Err(Refusal::too_large(what, format!("{count} {what}: expected at most {max}")))
}

/// Fails where a text that may be empty is too long.
pub(crate) fn text(what: &'static str, text: &str, bytes_max: usize) -> Result<(), Refusal> {
    if text.len() <= bytes_max {
        return Ok(());
    }
    Err(Refusal::too_large(what, format!("{what} has {} bytes: expected at most {bytes_max}", text.len())))
}

/// Fails where a text of a few words or lines, which may be empty, is too long or holds control characters.
pub(crate) fn line(what: &'static str, line: &str) -> Result<(), Refusal> {
    text(what, line, LINE_BYTES_MAX)?;
    match line.chars().find(|c| c.is_control() && *c != '\n' && *c != '\t') {
        None => Ok(()),
        Some(c) => Err(Refusal::invalid(what, format!("{what} has the control character {c:?}: expected plain text"))),
    }
}

/// Fails where a few words, of which there may be none, are too long or hold control characters.
pub(crate) fn words(what: &'static str, words: &str) -> Result<(), Refusal> {
    text(what, words, WORDS_BYTES_MAX)?;
    line(what, words)
}

/// Fails where something cannot be a name: it is empty, too long, or has a character that paths and commands would
/// misread.
pub(crate) fn name(what: &'static str, name: &str) -> Result<(), Refusal> {
    let refused = |c: char| c.is_control() || "/\\@=<>\"'".contains(c);
    let wrong = match name.chars().find(|c| refused(*c)) {
        _ if name.is_empty() => "it is empty".to_owned(),
        _ if name.len() > NAME_BYTES_MAX => format!("it has {} bytes", name.len()),
        _ if name.starts_with(['.', '-', ' ']) || name.ends_with(' ') => {
            "it begins or ends with what is misread".to_owned()
        }
        Some(c) => format!("it has {c:?}"),
        None => return Ok(()),
    };
    let shown: String = name.chars().take(40).collect();
    let expected =
        "bytes without / \\ @ = < > quotes and control characters, not beginning with a dot, hyphen or space";
    let message = format!("{shown:?} cannot be the name of {what}: {wrong}; expected 1 to {NAME_BYTES_MAX} {expected}");
    Err(Refusal::invalid(what, message))
}

/// Fails where something cannot be the name of a person or a role. Certificates name people such as `CN=ann,O=bank`.
pub(crate) fn person(name: &str) -> Result<(), Refusal> {
    let is_plain = !name.chars().any(char::is_control);
    if !name.trim().is_empty() && name.len() <= PERSON_BYTES_MAX && is_plain {
        return Ok(());
    }
    let shown: String = name.chars().take(40).collect();
    let expected = format!("1 to {PERSON_BYTES_MAX} bytes without control characters");
    Err(Refusal::invalid("person", format!("{shown:?} cannot be the name of a person or a role: expected {expected}")))
}
