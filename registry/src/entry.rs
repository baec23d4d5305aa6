//! What does one line of the log look like, and is it whole?
//!
//! ```text
//! {"hash":"<64 hex>","prev":"<64 hex>","seq":7,"time_ms":1700000000000,"kind":"rollout.event","data":{…}}
//! ```
//!
//! The hash is SHA-256 of the line's bytes from `"prev"` to the last brace: all that comes after the 75 bytes of the hash
//! itself, without the line's end. `prev` is the hash of the entry before. So each line proves itself, and the chain
//! proves that none is missing, doubled or moved.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};
use tiltyard_types::Digest;

use crate::{Error, Result};

/// Bytes of a line with its end, at most. The largest evidence block has about a tenth of it for each metric.
pub const LINE_BYTES_MAX: usize = 16 << 20;

/// Bytes of a kind, at most.
const KIND_BYTES_MAX: usize = 64;

const BEFORE_HASH: &[u8] = b"{\"hash\":\"";
const AFTER_HASH: &[u8] = b"\",";
const HASH_BYTES: usize = 64;

/// Where hashed bytes begin in a line.
const BODY_AT: usize = BEFORE_HASH.len() + HASH_BYTES + AFTER_HASH.len();

/// The end of a chain so far: what the next entry follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Head {
    /// How many entries there are.
    pub sequence: u64,
    /// The last entry's hash; zeros where there is none.
    #[serde(serialize_with = "as_text")]
    pub hash: Digest,
}

pub(crate) fn as_text<S: serde::Serializer>(hash: &Digest, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(hash)
}

impl Head {
    /// Before the first entry.
    pub const START: Head = Head { sequence: 0, hash: Digest::new([0; 32]) };
}

/// A fact on the record.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Counts from 1 without a gap.
    pub sequence: u64,
    /// When it was appended, as the writer was told, in milliseconds since 1970. Clocks are set: it may fall.
    pub time_ms: u64,
    /// What it is about, such as `rollout.event`.
    pub kind: String,
    /// What it says: JSON, as it was written.
    pub data: Box<RawValue>,
    /// The hash of the entry before.
    pub previous: Digest,
    /// Its own hash.
    pub hash: Digest,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields<'a> {
    #[serde(rename = "hash")]
    _hash: &'a str,
    prev: &'a str,
    seq: u64,
    time_ms: u64,
    kind: &'a str,
    #[serde(borrow)]
    data: &'a RawValue,
}

impl Entry {
    /// Reads a line without its end. The error says what is wrong with it.
    pub fn read(line: &[u8]) -> Result<Entry, String> {
        let body = line.get(BODY_AT..).unwrap_or_default();
        let (start, rest) = line.split_at(BODY_AT.min(line.len()));
        let written = start.strip_prefix(BEFORE_HASH).and_then(|start| start.strip_suffix(AFTER_HASH));
        let Some(written) = written.filter(|_| !rest.is_empty()) else {
            return Err("it does not begin as an entry: expected {\"hash\":\" and 64 hexadecimal digits".into());
        };
        let hash = Digest::new(Sha256::digest(body).into());
        if written != hash.to_string().as_bytes() {
            return Err(format!("its bytes have the hash {hash}, and it says {}", written.escape_ascii()));
        }
        let fields: Fields<'_> = serde_json::from_slice(line).map_err(|error| format!("it is no entry: {error}"))?;
        let Fields { prev, seq, time_ms, kind, data, .. } = fields;
        let previous: Digest = prev.parse().map_err(|error| format!("prev: {error}"))?;
        if !is_kind(kind) || written_body(previous, seq, time_ms, kind, data.get()).as_bytes() != body {
            return Err("it is not written as entries are: docs/log.md has the form".into());
        }
        Ok(Entry { sequence: seq, time_ms, kind: kind.to_owned(), data: data.to_owned(), previous, hash })
    }

    /// The line that it is, without its end: there is one form only.
    pub fn line(&self) -> String {
        let body = written_body(self.previous, self.sequence, self.time_ms, &self.kind, self.data.get());
        format!("{{\"hash\":\"{}\",{body}", self.hash)
    }

    /// The chain with this entry as its last.
    pub fn head(&self) -> Head {
        Head { sequence: self.sequence, hash: self.hash }
    }

    /// Why this entry cannot come after `head`.
    pub(crate) fn gap(&self, head: Head) -> Option<String> {
        if self.sequence != head.sequence + 1 {
            return Some(format!("entry {} comes after entry {}", self.sequence, head.sequence));
        }
        (self.previous != head.hash).then(|| {
            format!(
                "entry {} follows an entry with the hash {}, but the one before has {}",
                self.sequence, self.previous, head.hash
            )
        })
    }
}

fn is_kind(kind: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '.';
    (1..=KIND_BYTES_MAX).contains(&kind.len()) && kind.chars().all(is_plain)
}

fn written_body(prev: Digest, seq: u64, time_ms: u64, kind: &str, data: &str) -> String {
    format!("\"prev\":\"{prev}\",\"seq\":{seq},\"time_ms\":{time_ms},\"kind\":\"{kind}\",\"data\":{data}}}")
}

/// The line, with its end, of the entry that follows `head`, and the head from there on.
pub(crate) fn line(head: Head, time_ms: u64, kind: &str, data: &impl Serialize) -> Result<(String, Head)> {
    let unfit = |why: String| Err(Error::Unfit(format!("an entry of kind {kind:?} cannot be written: {why}")));
    if !is_kind(kind) {
        return unfit(format!("expected 1 to {KIND_BYTES_MAX} of a-z, 0-9, _ and ."));
    }
    let data = match serde_json::to_string(data) {
        Ok(data) => data,
        Err(error) => return unfit(error.to_string()),
    };
    // Only JSON that came as text can have one, between its values.
    if data.contains('\n') {
        return unfit("its data holds a line's end: expected JSON without white space".into());
    }
    let sequence = head.sequence + 1;
    let body = written_body(head.hash, sequence, time_ms, kind, &data);
    let bytes = BODY_AT + body.len() + 1;
    if bytes > LINE_BYTES_MAX {
        return unfit(format!("it would have {bytes} bytes, expected at most {LINE_BYTES_MAX}"));
    }
    let hash = Digest::new(Sha256::digest(&body).into());
    Ok((format!("{{\"hash\":\"{hash}\",{body}\n"), Head { sequence, hash }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_written_is_read_to_the_byte() {
        let (text, head) = line(Head::START, 1_700_000_000_000, "a.b_1", &json!({"x": [1, "ü\n"]})).expect("an entry");
        let entry = Entry::read(text.trim_end().as_bytes()).expect("it is whole");
        assert_eq!((entry.head(), entry.gap(Head::START)), (head, None));
        assert_eq!((entry.kind.as_str(), entry.data.get()), ("a.b_1", r#"{"x":[1,"ü\n"]}"#));
        assert_eq!(entry.line(), text.trim_end());
        let (again, _) = line(Head::START, entry.time_ms, &entry.kind, &entry.data).expect("an entry");
        assert_eq!(again, text);
        let (second, _) = line(head, 0, "a", &()).expect("an entry");
        let second = Entry::read(second.trim_end().as_bytes()).expect("it is whole");
        assert_eq!(second.gap(head), None);
        assert_eq!(second.gap(Head::START).as_deref(), Some("entry 2 comes after entry 0"));
        let other = Head { hash: Digest::new([1; 32]), ..head };
        assert!(second.gap(other).is_some_and(|why| why.contains("but the one before has 0101")));
    }

    #[test]
    fn what_no_line_can_hold_is_refused() {
        let check = |kind: &str, data: &str, expected: &str| {
            let data = RawValue::from_string(data.into()).expect("it is JSON");
            let error = line(Head::START, 0, kind, &data).expect_err(expected).to_string();
            assert!(error.contains(expected), "{error}");
        };
        check("", "{}", "expected 1 to 64 of a-z");
        check("A", "{}", "expected 1 to 64 of a-z");
        check("a\"", "{}", "expected 1 to 64 of a-z");
        check("a", "{\n}", "holds a line's end");
        check("a", &format!("{:?}", "x".repeat(LINE_BYTES_MAX)), "expected at most 16777216");
    }

    /// Whoever hashes rightly must still write as we do: two readers could take another form for two different facts.
    #[test]
    fn there_is_one_form_only() {
        let check = |body: &str, expected: &str| {
            let hash = Digest::new(Sha256::digest(body).into());
            let error = Entry::read(format!("{{\"hash\":\"{hash}\",{body}").as_bytes()).expect_err(expected);
            assert!(error.contains(expected), "{error}");
        };
        let zeros = "0".repeat(64);
        check(&format!(r#""prev":"{zeros}", "seq":1,"time_ms":0,"kind":"a","data":1}}"#), "not written as entries are");
        check(&format!(r#""seq":1,"prev":"{zeros}","time_ms":0,"kind":"a","data":1}}"#), "not written as entries are");
        check(&format!(r#""prev":"{zeros}","seq":1,"time_ms":0,"kind":"A","data":1}}"#), "not written as entries are");
        let capitals = "A".repeat(64);
        check(
            &format!(r#""prev":"{capitals}","seq":1,"time_ms":0,"kind":"a","data":1}}"#),
            "not written as entries are",
        );
        check(r#""prev":"0","seq":1,"time_ms":0,"kind":"a","data":1}"#, "64 hexadecimal digits");
        check(&format!(r#""prev":"{zeros}","seq":1,"seq":1,"time_ms":0,"kind":"a","data":1}}"#), "duplicate field");
        check(&format!(r#""prev":"{zeros}","seq":1,"time_ms":0,"kind":"a","data":1,"by":2}}"#), "unknown field");
        check("", "does not begin as an entry");
    }
}
