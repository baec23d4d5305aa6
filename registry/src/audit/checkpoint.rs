//! What does the server sign, so that nobody can later show another log?
//!
//! A checkpoint in the form of C2SP's `tlog-checkpoint`, as a signed note: who, how many entries, the root of the tree over
//! them, and, as an extension, what time it was.
//!
//! ```text
//! tiltyard/5f1e…
//! 4711
//! <root, base64>
//! time_ms 1700000000000
//!
//! — tiltyard/5f1e… <id of the key and signature, base64>
//! ```
//!
//! The file `checkpoints` has one after the other, with an empty line behind each. It has one form only: a changed byte is
//! found, be it in a signature's last bits.

use std::fmt;
use std::io::{BufRead, Read as _};
use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use tiltyard_types::Digest;

use super::key::{PublicKey, Signer};
use crate::{Break, Error, Result};

/// Lines of a checkpoint in the file, with the empty one behind it.
const LINES: usize = 7;

/// Bytes of one in the file, at most: two names of 200, and what is around them.
const BYTES_MAX: u64 = 1024;

/// A signed statement: so many entries, and this is their tree.
#[derive(Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Entries.
    pub size: u64,
    /// The root of the tree over them.
    pub root: Digest,
    /// When it was made, as the server was told, in milliseconds since 1970.
    pub time_ms: u64,
    /// The whole note.
    note: String,
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.note)
    }
}

impl fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Checkpoint").field(&self.note).finish()
    }
}

/// The part that is signed.
fn text(origin: &str, size: u64, root: Digest, time_ms: u64) -> String {
    format!("{origin}\n{size}\n{}\ntime_ms {time_ms}\n", BASE64_STANDARD.encode(root.as_bytes()))
}

fn note(text: &str, key: &PublicKey, signature: &[u8]) -> String {
    let signed = BASE64_STANDARD.encode([&key.id(), signature].concat());
    format!("{text}\n\u{2014} {} {signed}\n", key.name())
}

impl Checkpoint {
    pub(super) fn sign(signer: &Signer, size: u64, root: Digest, time_ms: u64) -> Checkpoint {
        let text = text(signer.public().name(), size, root, time_ms);
        let note = note(&text, signer.public(), &signer.sign_note(&text));
        Checkpoint { size, root, time_ms, note }
    }

    /// Reads a note that must be signed with this key. The error says what is wrong with it.
    pub fn read(note_text: &str, key: &PublicKey) -> Result<Checkpoint, String> {
        let lines: Vec<&str> = note_text.split('\n').collect();
        let [origin, size, root, time, "", signed, ""] = lines[..] else {
            return Err("it is no checkpoint: expected six lines".to_owned());
        };
        if origin != key.name() {
            return Err(format!("it is of {}, and the key is of {}", origin.escape_debug(), key.name()));
        }
        let number = |text: &str| text.parse::<u64>().map_err(|_| format!("{} is no number", text.escape_debug()));
        let size = number(size)?;
        let time_ms = number(time.strip_prefix("time_ms ").ok_or("expected a line with time_ms")?)?;
        let decoded = BASE64_STANDARD.decode(root).ok().and_then(|root| <[u8; 32]>::try_from(root).ok());
        let root = Digest::new(decoded.ok_or("its root is no 32 bytes in base64")?);
        let signature = signed.strip_prefix('\u{2014}').and_then(|rest| rest.strip_prefix(' ')?.split_once(' '));
        let (name, encoded) = signature.ok_or("expected a signature in the last line")?;
        let signature = BASE64_STANDARD.decode(encoded).map_err(|_| "its signature is no base64")?;
        let (id, signature) = signature.split_at_checked(4).ok_or("its signature is too short")?;
        if name != key.name() || id != key.id() {
            return Err("it is signed with another key".to_owned());
        }
        let text = text(origin, size, root, time_ms);
        if !key.is_of(&text, signature) {
            return Err("its signature is not of these bytes".to_owned());
        }
        let checkpoint = Checkpoint { size, root, time_ms, note: note(&text, key, signature) };
        if checkpoint.note != note_text {
            return Err("it is not written as checkpoints are: docs/audit.md has the form".to_owned());
        }
        Ok(checkpoint)
    }

    /// What the file has of it.
    pub(super) fn record(&self) -> String {
        format!("{}\n", self.note)
    }
}

/// The checkpoints of a file, each checked. After an error there are no more.
#[derive(Debug)]
pub(super) struct Checkpoints<R> {
    from: R,
    name: String,
    key: PublicKey,
    line: u64,
    byte: u64,
    unfinished: u64,
    last: Option<u64>,
    is_over: bool,
}

impl<R: BufRead> Checkpoints<R> {
    pub(super) fn new(from: R, path: &Path, key: &PublicKey) -> Checkpoints<R> {
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let key = key.clone();
        Checkpoints { from, name, key, line: 1, byte: 0, unfinished: 0, last: None, is_over: false }
    }

    /// Bytes after the last whole one, once all is read: its writer died.
    pub(super) fn unfinished(&self) -> u64 {
        self.unfinished
    }

    /// Where the last whole one ends.
    pub(super) fn whole(&self) -> u64 {
        self.byte
    }

    fn broken(&self, what: impl Into<String>) -> Error {
        Error::Broken(Break { segment: self.name.clone(), line: self.line, byte: self.byte, what: what.into() })
    }

    fn read(&mut self) -> Result<Option<Checkpoint>> {
        let mut record = Vec::new();
        let mut bounded = (&mut self.from).take(BYTES_MAX);
        for _ in 0..LINES {
            let read = bounded.read_until(b'\n', &mut record);
            read.map_err(|error| Error::io("read", Path::new(&self.name), error))?;
        }
        if record.is_empty() {
            return Ok(None);
        }
        if record.iter().filter(|&&byte| byte == b'\n').count() < LINES {
            // It may end within a character.
            if !is_beginning(&String::from_utf8_lossy(&record), &self.key) {
                return Err(self.broken("it is no checkpoint, nor the beginning of one"));
            }
            self.unfinished = record.len() as u64;
            return Ok(None);
        }
        let record = String::from_utf8(record).map_err(|_| self.broken("it is no text"))?;
        let note = record.strip_suffix("\n\n").ok_or_else(|| self.broken("expected an empty line behind it"))?;
        let checkpoint = Checkpoint::read(&format!("{note}\n"), &self.key).map_err(|what| self.broken(what))?;
        if self.last.is_some_and(|last| checkpoint.size <= last) {
            return Err(self.broken(format!("it has {} entries, no more than the one before", checkpoint.size)));
        }
        self.last = Some(checkpoint.size);
        self.line += LINES as u64;
        self.byte += record.len() as u64;
        Ok(Some(checkpoint))
    }
}

/// Whether a writer that died may have left this: each line that has an end is what it must be. A whole checkpoint of which
/// one line feed was changed is not.
fn is_beginning(record: &str, key: &PublicKey) -> bool {
    let mut lines: Vec<&str> = record.split('\n').collect();
    let torn = lines.pop().unwrap_or_default();
    let is_number = |text: &str| text.parse::<u64>().is_ok();
    let is_whole = lines.iter().enumerate().all(|(at, line)| match at {
        0 => *line == key.name(),
        1 => is_number(line),
        2 => BASE64_STANDARD.decode(line).is_ok_and(|root| root.len() == 32),
        3 => line.strip_prefix("time_ms ").is_some_and(is_number),
        4 => line.is_empty(),
        _ => Checkpoint::read(&format!("{}\n", lines[..=at].join("\n")), key).is_ok(),
    });
    is_whole && (lines.len() < LINES - 1 || torn.is_empty())
}

impl<R: BufRead> Iterator for Checkpoints<R> {
    type Item = Result<Checkpoint>;

    fn next(&mut self) -> Option<Result<Checkpoint>> {
        if self.is_over {
            return None;
        }
        let next = self.read().transpose();
        self.is_over = !matches!(next, Some(Ok(_)));
        next
    }
}
