//! Which files make a version, and what is their digest?

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tiltyard_types::Digest;

use super::{Blobs, CHUNK_BYTES};
use crate::{Error, Result};

/// Files of a version, at most.
pub const FILES_MAX: usize = 10_000;

/// Bytes of a name, and of each of its parts, at most.
const NAME_BYTES_MAX: usize = 1024;
const PART_BYTES_MAX: usize = 255;

/// Folders within folders, at most.
const DEPTH_MAX: usize = 16;

/// A file of a version.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listed {
    /// Relative, with `/` between its parts.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// SHA-256 of them.
    pub sha256: Digest,
}

/// The files of a version, sorted by name. Its names are harmless wherever they are written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Written>", into = "Vec<Written>")]
pub struct Manifest(Vec<Listed>);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    path: String,
    size: u64,
    sha256: String,
}

impl From<Manifest> for Vec<Written> {
    fn from(manifest: Manifest) -> Vec<Written> {
        let written = |Listed { path, size, sha256 }| Written { path, size, sha256: sha256.to_string() };
        manifest.0.into_iter().map(written).collect()
    }
}

impl TryFrom<Vec<Written>> for Manifest {
    type Error = Error;

    fn try_from(files: Vec<Written>) -> Result<Manifest> {
        let listed = |Written { path, size, sha256 }: Written| {
            let unfit = |error| Error::Unfit(format!("{}: {error}", path.escape_debug()));
            let sha256 = sha256.parse().map_err(unfit)?;
            Ok(Listed { path, size, sha256 })
        };
        Manifest::new(files.into_iter().map(listed).collect::<Result<_>>()?)
    }
}

/// Says what is wrong with the name of a file of a version.
pub fn check_name(name: &str) -> Result<()> {
    let unfit =
        |why: &str| Err(Error::Unfit(format!("a version cannot have a file named \"{}\": {why}", name.escape_debug())));
    if name.len() > NAME_BYTES_MAX {
        return unfit("its name is too long");
    }
    if name.chars().any(|c| c.is_control() || matches!(c, '\\' | ':' | '*' | '?' | '"' | '<' | '>' | '|')) {
        return unfit("expected letters, digits and plain signs");
    }
    if name.split('/').count() > DEPTH_MAX {
        return unfit("it lies too deep");
    }
    for part in name.split('/') {
        if part.is_empty() || part == "." || part == ".." {
            return unfit("expected a relative path without . and .. in it");
        }
        if part.len() > PART_BYTES_MAX || part.starts_with(' ') || part.ends_with([' ', '.']) {
            return unfit("a part of it is too long, or begins or ends with a space or a dot");
        }
        let stem = part.split('.').next().unwrap_or(part).to_ascii_lowercase();
        let numbered = |of: &str| stem.strip_prefix(of).is_some_and(|rest| matches!(rest.as_bytes(), [b'0'..=b'9']));
        if matches!(stem.as_str(), "con" | "prn" | "aux" | "nul") || numbered("com") || numbered("lpt") {
            return unfit("that is a device on some systems");
        }
    }
    Ok(())
}

impl Manifest {
    /// These files. The error says which name or number no version can have.
    pub fn new(mut files: Vec<Listed>) -> Result<Manifest> {
        if files.is_empty() || files.len() > FILES_MAX {
            return Err(Error::Unfit(format!("a version has 1 to {FILES_MAX} files, and this has {}", files.len())));
        }
        files.sort();
        let mut folders = BTreeSet::new();
        for file in &files {
            check_name(&file.path)?;
            folders.extend(file.path.char_indices().filter(|(_, c)| *c == '/').map(|(at, _)| &file.path[..at]));
        }
        let twice = files.windows(2).find(|pair| pair[0].path == pair[1].path).map(|pair| &pair[0].path);
        if let Some(path) =
            twice.or_else(|| files.iter().map(|file| &file.path).find(|path| folders.contains(path.as_str())))
        {
            return Err(Error::Unfit(format!("a version cannot have two things named {path}")));
        }
        Ok(Manifest(files))
    }

    /// The files, sorted by name.
    pub fn files(&self) -> &[Listed] {
        &self.0
    }

    /// Bytes of all files.
    pub fn size(&self) -> u64 {
        self.0.iter().fold(0, |all, file| all.saturating_add(file.size))
    }

    /// The artifact digest: SHA-256 over the sorted lines `<name>\0<size>\0<SHA-256 in hexadecimal>\n`.
    pub fn digest(&self) -> Digest {
        let mut all = Sha256::new();
        for Listed { path, size, sha256 } in &self.0 {
            all.update(format!("{path}\0{size}\0{sha256}\n"));
        }
        Digest::new(all.finalize().into())
    }

    /// What lies in a folder, links not followed.
    pub fn of_folder(folder: &Path) -> Result<Manifest> {
        let mut files = Vec::new();
        walk(folder, &mut |path, file| {
            let (sha256, size) = digest(file).map_err(|error| Error::io("read", &folder.join(&path), error))?;
            files.push(Listed { path, size, sha256 });
            Ok(())
        })?;
        Manifest::new(files)
    }

    /// Keeps all that lies in a folder, which may be this many bytes.
    pub fn put_folder(blobs: &dyn Blobs, folder: &Path, bytes_max: u64) -> Result<Manifest> {
        let (mut files, mut left) = (Vec::new(), bytes_max);
        walk(folder, &mut |path, mut file| {
            let blob = blobs.put(&mut file, left)?;
            left -= blob.size;
            files.push(Listed { path, size: blob.size, sha256: blob.digest });
            Ok(())
        })?;
        Manifest::new(files)
    }
}

/// Each file in a folder, by its name in the manifest. Anything that is neither file nor folder is refused.
fn walk(folder: &Path, each: &mut dyn FnMut(String, File) -> Result<()>) -> Result<()> {
    let mut waiting = vec![String::new()];
    let mut count = 0;
    while let Some(within) = waiting.pop() {
        let at = folder.join(&within);
        let fail = |error| Error::io("list", &at, error);
        for entry in fs::read_dir(&at).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let Ok(name) = entry.file_name().into_string() else {
                return Err(Error::Unfit(format!("{} is no text: rename it", entry.path().display())));
            };
            let path = if within.is_empty() { name } else { format!("{within}/{name}") };
            check_name(&path)?;
            count += 1;
            if count > FILES_MAX {
                return Err(Error::Unfit(format!("{} has more than {FILES_MAX} files", folder.display())));
            }
            let kind = entry.file_type().map_err(fail)?;
            if kind.is_dir() {
                waiting.push(path);
            } else if kind.is_file() {
                let file = open(&entry.path()).map_err(|error| Error::io("open", &entry.path(), error))?;
                each(path, file)?;
            } else {
                return Err(Error::Unfit(format!("{} is no file: put the file itself there", entry.path().display())));
            }
        }
    }
    Ok(())
}

/// Opens a file that is one, whatever was put in its place meanwhile.
fn open(path: &Path) -> std::io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::other("it is no file"));
    }
    Ok(file)
}

/// SHA-256 of a file's bytes, and how many those are.
pub(crate) fn digest(mut file: File) -> std::io::Result<(Digest, u64)> {
    let (mut hash, mut size, mut chunk) = (Sha256::new(), 0, vec![0; CHUNK_BYTES]);
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok((Digest::new(hash.finalize().into()), size)),
            read => {
                hash.update(&chunk[..read]);
                size += read as u64;
            }
        }
    }
}
