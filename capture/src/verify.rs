//! Are the segments what was written, to the byte?

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;

use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tiltyard_types::Digest;

use crate::drain;
use crate::manifest::{self, REMOVED, WRITTEN};
use crate::segment::Facts;
use crate::{Error, Result};

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Verified {
    /// Segments that are what was written.
    pub whole: u64,
    /// Their rows.
    pub rows: u64,
    /// Segments that were taken away by age or budget, and are gone.
    pub removed: u64,
    /// What is wrong, a line for each: a segment that is changed, missing, or that nobody wrote.
    pub faults: Vec<String>,
}

/// Checks the manifest's chain and every segment's bytes in a capture's folder. Fails where the manifest itself is not
/// what was written. A server may go on capturing meanwhile.
pub fn verify(folder: &Path) -> Result<Verified> {
    if ["ring", "segments.jsonl"].iter().all(|name| !folder.join(name).exists()) {
        let why = "there is no capture: expected the folder of one, with its ring or its segments.jsonl".to_owned();
        return Err(Error::Broken { path: folder.to_owned(), why });
    }
    // In this order: a segment is named by the commit until it is in the manifest, and has its name only then.
    let mut there = Vec::new();
    tables(&folder.join("segments"), "", &mut there);
    let on_their_way = drain::on_their_way(folder);
    let (written, mut removed) = read(folder)?;
    let mut found = Verified::default();
    for (file, facts) in &written {
        let path = folder.join("segments").join(file);
        match digest(&path) {
            Ok((bytes, sha256)) if (bytes, &sha256) == (facts.bytes, &facts.sha256) => {
                found.whole += 1;
                found.rows += facts.rows;
            }
            Ok((bytes, _)) => {
                found
                    .faults
                    .push(format!("{file}: changed since it was written ({bytes} bytes, {} then)", facts.bytes));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if !removed.contains(file) {
                    // It may have been removed since, and the manifest says so first.
                    removed = read(folder)?.1;
                }
                match removed.contains(file) {
                    true => found.removed += 1,
                    false => found.faults.push(format!("{file}: missing, and nobody removed it")),
                }
            }
            Err(error) => found.faults.push(format!("{file}: {error}")),
        }
    }
    let is_strange = |file: &&String| !written.contains_key(*file) && !on_their_way.contains(*file);
    found.faults.extend(there.iter().filter(is_strange).map(|file| format!("{file}: not in the manifest")));
    found.faults.sort();
    Ok(found)
}

/// Every file that programs take for rows on record, whoever put it there: whatever its name, it ends with `.parquet`.
fn tables(folder: &Path, below: &str, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder.join(below)).into_iter().flatten().flatten() {
        let name = format!("{below}{}", entry.file_name().to_string_lossy());
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => tables(folder, &format!("{name}/"), found),
            _ if name.ends_with(".parquet") => found.push(name),
            _ => {}
        }
    }
}

/// A segment that the manifest says was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// What the manifest says of it.
    pub facts: Facts,
    /// The number of the manifest's line.
    pub line: u64,
    /// The hash of that line, which those behind it stand on.
    pub line_hash: String,
    /// It was taken away since, by its age or for room.
    pub is_removed: bool,
}

impl Listed {
    /// Whether the file is what was written: its length and its SHA-256. Fails where it cannot be read.
    pub fn is_whole(&self, folder: &Path) -> Result<bool> {
        let path = folder.join("segments").join(&self.facts.file);
        let (bytes, sha256) = digest(&path).map_err(|error| Error::io("read", &path, error))?;
        Ok((bytes, &sha256) == (self.facts.bytes, &self.facts.sha256))
    }
}

/// The segments that were written into a capture's folder by its manifest, in that order. Fails where the manifest is
/// not what was written.
pub fn listing(folder: &Path) -> Result<Vec<Listed>> {
    let removed = read(folder)?.1;
    let (mut listed, mut unread) = (Vec::new(), None);
    let path = folder.join("segments.jsonl");
    manifest::read(&path, |line| {
        if line.kind != WRITTEN {
            return;
        }
        match serde_json::from_str::<Facts>(line.data.get()) {
            Ok(facts) => {
                let is_removed = removed.contains(&facts.file);
                listed.push(Listed { facts, line: line.seq, line_hash: line.hash.to_owned(), is_removed });
            }
            Err(error) => unread = Some(error.to_string()),
        }
    })?;
    unread.map_or(Ok(listed), |why| Err(Error::broken(&path, why)))
}

/// What the manifest says was written, and what was removed.
fn read(folder: &Path) -> Result<(BTreeMap<String, Facts>, HashSet<String>)> {
    #[derive(Deserialize)]
    struct Gone {
        file: String,
    }
    let path = folder.join("segments.jsonl");
    let (mut written, mut removed, mut unread) = (BTreeMap::new(), HashSet::new(), None);
    manifest::read(&path, |line| match line.kind {
        WRITTEN => match serde_json::from_str::<Facts>(line.data.get()) {
            Ok(facts) => drop(written.insert(facts.file.clone(), facts)),
            Err(error) => unread = Some(error.to_string()),
        },
        REMOVED => match serde_json::from_str::<Gone>(line.data.get()) {
            Ok(gone) => _ = removed.insert(gone.file),
            Err(error) => unread = Some(error.to_string()),
        },
        _ => {}
    })?;
    match unread {
        Some(why) => Err(Error::broken(&path, why)),
        None => Ok((written, removed)),
    }
}

fn digest(path: &Path) -> io::Result<(u64, String)> {
    let (mut file, mut hash, mut bytes) = (File::open(path)?, Sha256::new(), 0);
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok((bytes, Digest::new(hash.finalize().into()).to_string()));
        }
        hash.update(&buffer[..read]);
        bytes += read as u64;
    }
}
