//! Which segments were written and which were taken away, and did anybody change them since?
//!
//! `segments.jsonl` has a line for each, in the form of the registry's log (`docs/log.md`): each line has its own hash and
//! that of the line before, so `registry/verify.py` reads it too.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};
use tiltyard_types::Digest;

use crate::keys::Erasure;
use crate::{Error, Result};

/// A segment was written.
pub(crate) const WRITTEN: &str = "capture.segment";
/// A segment was taken away: too old, or no room within the budget.
pub(crate) const REMOVED: &str = "capture.removed";

/// A segment was copied elsewhere.
pub(crate) const STORED: &str = "capture.stored";
/// A subject's keys were destroyed.
pub(crate) const ERASED: &str = "capture.erased";

/// Bytes before what a line hashes: `{"hash":"`, 64 digits and `",`.
const BODY_AT: usize = 75;

/// Where the next line goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Head {
    /// Bytes of whole lines.
    pub(crate) length: u64,
    /// The last line's number.
    pub(crate) sequence: u64,
    /// The last line's hash.
    pub(crate) hash: String,
}

/// What a line says.
#[derive(Debug, Deserialize)]
pub(crate) struct Line<'a> {
    pub(crate) hash: &'a str,
    prev: &'a str,
    pub(crate) seq: u64,
    pub(crate) kind: &'a str,
    #[serde(borrow)]
    pub(crate) data: &'a RawValue,
}

#[derive(Debug)]
pub(crate) struct Manifest {
    path: PathBuf,
    head: Head,
    /// Erasures that it has.
    erased: HashSet<(String, u64)>,
}

/// What a line says of an erasure.
#[derive(Debug, Serialize, Deserialize)]
struct Erased {
    commitment: String,
    erased_ms: u64,
    keys: u64,
}

impl Manifest {
    /// Opens the manifest, or begins one. A line without an end, which a writer leaves that dies, is cut off.
    pub(crate) fn open(path: PathBuf) -> Result<Manifest> {
        let mut erased = HashSet::new();
        let head = read(&path, |line| {
            if let (ERASED, Ok(found)) = (line.kind, serde_json::from_str::<Erased>(line.data.get())) {
                erased.insert((found.commitment, found.erased_ms));
            }
        })?;
        let manifest = Manifest { path, head, erased };
        manifest.cut()?;
        Ok(manifest)
    }

    pub(crate) fn head(&self) -> &Head {
        &self.head
    }

    /// Has exactly what is before the head in the file.
    fn cut(&self) -> Result<()> {
        let open = OpenOptions::new().write(true).create(true).truncate(false).open(&self.path);
        let cut = open.and_then(|file| {
            file.set_len(self.head.length)?;
            file.sync_all()
        });
        cut.and_then(|()| crate::disk::sync_folder_of(&self.path)).map_err(|error| Error::io("cut", &self.path, error))
    }

    /// Has on the record where a copy of a segment lies.
    pub(crate) fn append_stored(&mut self, file: &str, at: &str, now_ms: u64) -> Result<()> {
        let line = serde_json::json!({ "file": file, "at": at }).to_string();
        let head = self.head.clone();
        self.append_at(&head, &[(STORED.to_owned(), line)], now_ms)
    }

    /// Has an erasure on the record, once.
    pub(crate) fn append_erasure(&mut self, erasure: &Erasure, now_ms: u64) -> Result<()> {
        let Erasure { commitment, erased_ms, keys } = erasure.clone();
        if self.erased.contains(&(commitment.clone(), erased_ms)) {
            return Ok(());
        }
        let line = Erased { commitment: commitment.clone(), erased_ms, keys };
        let head = self.head.clone();
        self.append_at(&head, &[(ERASED.to_owned(), serde_json::to_string(&line).unwrap_or_default())], now_ms)?;
        self.erased.insert((commitment, erased_ms));
        Ok(())
    }

    /// Goes back to an earlier head, and appends lines there. Doing so twice is doing so once.
    pub(crate) fn append_at(&mut self, head: &Head, lines: &[(String, String)], time_ms: u64) -> Result<()> {
        let (mut text, mut sequence, mut hash) = (String::new(), head.sequence, head.hash.clone());
        for (kind, data) in lines {
            sequence += 1;
            let body =
                format!(r#""prev":"{hash}","seq":{sequence},"time_ms":{time_ms},"kind":"{kind}","data":{data}}}"#);
            hash = Digest::new(Sha256::digest(&body).into()).to_string();
            text.push_str(&format!("{{\"hash\":\"{hash}\",{body}\n"));
        }
        self.head = head.clone();
        self.cut()?;
        let append = OpenOptions::new().append(true).open(&self.path);
        let written = append.and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_data()
        });
        if let Err(error) = written {
            // What it left is cut off before the next line is written.
            return Err(Error::io("write", &self.path, error));
        }
        self.head = Head { length: head.length + text.len() as u64, sequence, hash };
        Ok(())
    }
}

/// Reads all whole lines, each checked against its own hash and the line before. Fails where one is not as it was written.
pub(crate) fn read(path: &Path, mut each: impl FnMut(&Line<'_>)) -> Result<Head> {
    let mut head = Head { length: 0, sequence: 0, hash: "0".repeat(64) };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(head),
        Err(error) => return Err(Error::io("open", path, error)),
    };
    let (mut reader, mut line) = (BufReader::new(file), Vec::new());
    loop {
        line.clear();
        reader.read_until(b'\n', &mut line).map_err(|error| Error::io("read", path, error))?;
        let Some(text) = line.strip_suffix(b"\n") else { return Ok(head) };
        let broken = |why: &str| Error::broken(path, format!("line {}: {why}", head.sequence + 1));
        let parsed: Line<'_> = serde_json::from_slice(text).map_err(|error| broken(&error.to_string()))?;
        let hash = Digest::new(Sha256::digest(text.get(BODY_AT..).unwrap_or_default()).into()).to_string();
        if !text.starts_with(format!("{{\"hash\":\"{hash}\",").as_bytes()) || parsed.hash != hash {
            return Err(broken("its bytes are not those that were hashed"));
        }
        if parsed.seq != head.sequence + 1 || parsed.prev != head.hash {
            return Err(broken("it does not follow the line before"));
        }
        each(&parsed);
        head = Head { length: head.length + line.len() as u64, sequence: parsed.seq, hash };
    }
}
