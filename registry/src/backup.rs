//! How is the record put by while it is written, and how does it come back?
//!
//! A backup is a folder that looks as the data folder does, so that the programs that verify one verify the other: the log's
//! lines, the checkpoints, the public key, the secret one if it is asked for, and blobs if they are. `backup.json` is written
//! last, with the size and digest of each file: a folder without it is no backup. Restoring checks every byte before anything
//! has its place.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tiltyard_types::Digest;

use crate::artifacts::{Blobs, Checked, Manifest, Store};
use crate::audit::{self, Frontier, PublicKey};
use crate::copy::{Segments, make_empty, write_new};
use crate::entry::Head;
use crate::log::Log;
use crate::reader::Entries;
use crate::{Error, Result};

/// What `backup.json` calls itself.
const FORMAT: &str = "tiltyard-backup-v1";

/// Bytes of `backup.json`, at most.
const MANIFEST_BYTES_MAX: u64 = 64 << 20;

/// What is put by.
#[derive(Clone, Copy)]
pub struct Parts<'a> {
    /// The log, which may be written meanwhile: what it has promised when this begins is put by.
    pub log: &'a Log,
    /// The file of its checkpoints.
    pub checkpoints: &'a Path,
    /// The key that signs them.
    pub key: &'a PublicKey,
    /// The file of the secret key, where it is to be put by: whoever has it can sign as this server.
    pub secret: Option<&'a Path>,
    /// The blobs that are to be put by.
    pub blobs: Option<(&'a dyn Blobs, &'a [Digest])>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    format: String,
    entries: u64,
    head: String,
    root: String,
    /// Whether the secret key is in it.
    has_secret: bool,
    files: Manifest,
    /// The digests of blobs, which are their names.
    blobs: Vec<String>,
}

/// What a backup holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Backup {
    /// The end of the log in it.
    pub head: Head,
    /// The root of the tree over its lines, as hexadecimal digits.
    #[serde(serialize_with = "crate::entry::as_text")]
    pub root: Digest,
    /// Whether the secret key is in it.
    pub has_secret: bool,
    /// How many blobs are.
    pub blobs: u64,
}

/// Puts the record by in a folder that is empty, or not there.
pub fn backup(parts: &Parts<'_>, folder: &Path) -> Result<Backup> {
    make_empty(folder)?;
    // In this order, no checkpoint is ahead of the log.
    let checkpoints = audit::checkpoints(parts.checkpoints, parts.key)?;
    let promised = parts.log.head();
    let log = folder.join("log");
    let mut segments = Segments::new(&log)?;
    let (mut tree, mut head) = (Frontier::default(), Head::START);
    for entry in parts.log.entries(1)?.take(usize::try_from(promised.sequence).unwrap_or(usize::MAX)) {
        let entry = entry?;
        segments.write(&entry)?;
        tree.push(entry.leaf());
        head = entry.head();
    }
    segments.finish()?;
    if head != promised {
        return Err(Error::Lost(format!(
            "the log ends after entry {}, and had promised {}",
            head.sequence, promised.sequence
        )));
    }
    let notes: String = checkpoints.iter().map(|checkpoint| format!("{checkpoint}\n")).collect();
    write_new(&log.join("checkpoints"), &notes)?;
    write_new(&folder.join("audit.pub"), &format!("{}\n", parts.key))?;
    if let Some(secret) = parts.secret {
        copy(secret, &folder.join("audit.key"), 0o600)?;
    }
    let files = Manifest::of_folder(folder)?;
    let mut digests = parts.blobs.map_or(vec![], |(_, digests)| digests.to_vec());
    digests.sort();
    digests.dedup();
    if let Some((blobs, _)) = parts.blobs {
        put_by(blobs, &digests, &folder.join("blobs"))?;
    }
    let has_secret = parts.secret.is_some();
    let written = Written {
        format: FORMAT.to_owned(),
        entries: head.sequence,
        head: head.hash.to_string(),
        root: tree.root().to_string(),
        has_secret,
        files,
        blobs: digests.iter().map(Digest::to_string).collect(),
    };
    let text = serde_json::to_string_pretty(&written).map_err(|error| Error::Unfit(error.to_string()))?;
    write_new(&folder.join("backup.json"), &format!("{text}\n"))?;
    sync(folder)?;
    Ok(Backup { head, root: tree.root(), has_secret, blobs: digests.len() as u64 })
}

fn put_by(blobs: &dyn Blobs, digests: &[Digest], folder: &Path) -> Result<()> {
    let store = Store::open(folder)?;
    for &digest in digests {
        let Some(size) = blobs.size(digest)? else {
            return Err(Error::Lost(format!("the blob {digest} is not there: the record refers to it")));
        };
        store.put(&mut blobs.open(digest)?, size)?;
    }
    // A folder for what is being written is no part of it.
    let new = folder.join("new");
    fs::remove_dir(&new).map_err(|error| Error::io("remove", &new, error))
}

/// Opens a blob of a backup, whose bytes are checked while they are read.
fn open_blob(folder: &Path, digest: &str) -> Result<Checked> {
    let unfit = |error| Error::Unfit(format!("backup.json names the blob {}: {error}", digest.escape_debug()));
    let digest: Digest = digest.parse().map_err(unfit)?;
    let name = digest.to_string();
    let path = folder.join("blobs/sha256").join(&name[..2]).join(&name[2..]);
    let file = File::open(&path).map_err(|error| Error::io("open", &path, error))?;
    Ok(Checked::new(Box::new(file), digest))
}

fn copy(from: &Path, to: &Path, mode: u32) -> Result<()> {
    let copied = OpenOptions::new().write(true).create_new(true).mode(mode).open(to).and_then(|mut file| {
        io::copy(&mut File::open(from)?, &mut file)?;
        file.sync_all()
    });
    copied.map_err(|error| Error::io("copy", to, error))
}

fn sync(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| Error::io("sync", folder, error))
}

/// Reads a backup, each byte of it, and says what it holds.
pub fn verify_backup(folder: &Path) -> Result<Backup> {
    let (written, backup) = read(folder)?;
    // What lies there beside it is not the backup's, and is not looked at.
    for file in written.files.files() {
        let path = folder.join(&file.path);
        let found = File::open(&path).and_then(crate::artifacts::digest);
        if found.map_err(|error| Error::io("read", &path, error))? != (file.sha256, file.size) {
            return Err(damaged(&path));
        }
    }
    for digest in &written.blobs {
        let read = io::copy(&mut open_blob(folder, digest)?, &mut io::sink());
        read.map_err(|_| damaged(&folder.join("blobs").join(digest)))?;
    }
    let key = PublicKey::read(&folder.join("audit.pub"))?;
    let audited = audit::verify(Entries::open(&folder.join("log"), 1)?, &folder.join("log/checkpoints"), &key, &[])?;
    let is_whole = audited.unfinished_bytes == 0 && audited.unfinished_checkpoint_bytes == 0;
    if !is_whole || (audited.head, audited.root) != (backup.head, backup.root) {
        return Err(damaged(&folder.join("log")));
    }
    Ok(backup)
}

fn damaged(path: &Path) -> Error {
    Error::Lost(format!("the backup is damaged: {} is not what was put by; take another backup", path.display()))
}

fn read(folder: &Path) -> Result<(Written, Backup)> {
    let path = folder.join("backup.json");
    let unfit = |why: String| Error::Unfit(format!("{} is no backup: {why}", folder.display()));
    let text = match fs::metadata(&path) {
        Ok(metadata) if metadata.len() > MANIFEST_BYTES_MAX => {
            return Err(unfit("backup.json is too large".to_owned()));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(unfit("backup.json is missing, which is written last: it was not finished".to_owned()));
        }
        _ => fs::read(&path).map_err(|error| Error::io("read", &path, error))?,
    };
    let written: Written = serde_json::from_slice(&text).map_err(|error| unfit(error.to_string()))?;
    if written.format != FORMAT {
        return Err(unfit(format!("its format is {}, and {FORMAT} is known", written.format.escape_debug())));
    }
    let digest = |text: &str| text.parse::<Digest>().map_err(|error| unfit(error.to_string()));
    let head = Head { sequence: written.entries, hash: digest(&written.head)? };
    let blobs = written.blobs.len() as u64;
    let backup = Backup { head, root: digest(&written.root)?, has_secret: written.has_secret, blobs };
    Ok((written, backup))
}

/// Makes a data folder of a backup, in a folder that is empty, or not there. All is checked first. Where the secret key is not in
/// it, the server makes another one, and what the old one signed is kept as `audit.pub.before` and `log/checkpoints.before`.
pub fn restore(backup: &Path, folder: &Path) -> Result<Backup> {
    let found = verify_backup(backup)?;
    let (written, _) = read(backup)?;
    make_empty(folder)?;
    let mut made: Vec<PathBuf> = vec![folder.to_owned()];
    for file in written.files.files() {
        let path = file.path.as_str();
        let name = match path {
            "audit.pub" | "log/checkpoints" if !written.has_secret => format!("{path}.before"),
            _ => path.to_owned(),
        };
        let to = folder.join(name);
        let within = to.parent().unwrap_or(folder);
        if !within.is_dir() {
            fs::create_dir_all(within).map_err(|error| Error::io("make the folder", within, error))?;
            made.extend(within.ancestors().take_while(|made| *made != folder).map(Path::to_owned));
        }
        let mode = if path == "audit.key" { 0o600 } else { 0o644 };
        copy(&backup.join(path), &to, mode)?;
    }
    made.iter().try_for_each(|folder| sync(folder))?;
    if !written.blobs.is_empty() {
        let store = Store::open(&folder.join("blobs"))?;
        for digest in &written.blobs {
            store.put(&mut open_blob(backup, digest)?, u64::MAX)?;
        }
    }
    // What was copied is what was checked: files may change in between.
    let log = folder.join("log");
    let key = PublicKey::read(&backup.join("audit.pub"))?;
    let checkpoints = log.join(if written.has_secret { "checkpoints" } else { "checkpoints.before" });
    let audited = audit::verify(Entries::open(&log, 1)?, &checkpoints, &key, &[])?;
    if (audited.head, audited.root) != (found.head, found.root) {
        return Err(damaged(&log));
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
