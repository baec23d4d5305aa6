//! How do blobs lie in a folder?
//!
//! ```text
//! blobs/sha256/ab/cdef…   the bytes whose SHA-256 begins with ab, then cdef…; read-only
//! blobs/new/…             what is being written; a sweep takes what was left there
//! ```

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use sha2::{Digest as _, Sha256};
use tiltyard_types::Digest;

use super::{Blob, Blobs, CHUNK_BYTES, Checked, Swept, lost};
use crate::{Error, Result};

/// Blobs in a folder, of which this process is the only one that sweeps.
#[derive(Debug)]
pub struct Store {
    kept: PathBuf,
    new: PathBuf,
    count: AtomicU64,
    /// Held by who puts something in its place, and alone by who sweeps: what is kept again must not go.
    moving: RwLock<()>,
}

impl Store {
    /// Opens the folder, or makes it.
    pub fn open(folder: &Path) -> Result<Store> {
        let (kept, new) = (folder.join("sha256"), folder.join("new"));
        for made in [&kept, &new] {
            fs::create_dir_all(made).map_err(|error| Error::io("make the folder", made, error))?;
        }
        sync(folder)?;
        Ok(Store { kept, new, count: AtomicU64::new(0), moving: RwLock::new(()) })
    }

    fn path(&self, digest: Digest) -> PathBuf {
        let name = digest.to_string();
        self.kept.join(&name[..2]).join(&name[2..])
    }

    /// Writes what comes into a new file.
    fn receive(&self, from: &mut dyn Read, bytes_max: u64, path: &Path) -> Result<Blob> {
        let fail = |error| Error::io("write", path, error);
        let mut file = OpenOptions::new().write(true).create_new(true).open(path).map_err(fail)?;
        let (mut hash, mut size, mut chunk) = (Sha256::new(), 0, vec![0; CHUNK_BYTES]);
        loop {
            let read = match from.read(&mut chunk) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Error::io("receive", path, error)),
            };
            size += read as u64;
            if size > bytes_max {
                return Err(Error::Unfit(format!("it has more bytes than the {bytes_max} that are allowed")));
            }
            hash.update(&chunk[..read]);
            file.write_all(&chunk[..read]).map_err(fail)?;
        }
        file.set_permissions(Permissions::from_mode(0o444)).map_err(fail)?;
        file.sync_all().map_err(fail)?;
        Ok(Blob { digest: Digest::new(hash.finalize().into()), size })
    }

    /// Gives it its name. What has that name has the same bytes, or is damaged: it is replaced either way, and so is young.
    fn keep(&self, new: &Path, digest: Digest) -> Result<()> {
        let path = self.path(digest);
        let folder = path.parent().unwrap_or(&self.kept);
        if !folder.is_dir() {
            match fs::create_dir(folder) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(Error::io("make the folder", folder, error));
                }
                _ => sync(&self.kept)?,
            }
        }
        let _moving = self.moving.read().unwrap_or_else(PoisonError::into_inner);
        fs::rename(new, &path).map_err(|error| Error::io("keep", &path, error))?;
        sync(folder)
    }
}

fn sync(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| Error::io("sync", folder, error))
}

impl Blobs for Store {
    fn put(&self, from: &mut dyn Read, bytes_max: u64) -> Result<Blob> {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let new = self.new.join(format!("{}-{number}", std::process::id()));
        // What a process of the same number left.
        drop(fs::remove_file(&new));
        let put = self.receive(from, bytes_max, &new).and_then(|blob| self.keep(&new, blob.digest).map(|()| blob));
        if put.is_err() {
            drop(fs::remove_file(&new));
        }
        put
    }

    fn size(&self, digest: Digest) -> Result<Option<u64>> {
        let path = self.path(digest);
        match fs::metadata(&path) {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("look at", &path, error)),
        }
    }

    fn open(&self, digest: Digest) -> Result<Checked> {
        let path = self.path(digest);
        match File::open(&path) {
            Ok(file) => Ok(Checked::new(Box::new(file), digest)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(lost(digest)),
            Err(error) => Err(Error::io("open", &path, error)),
        }
    }

    fn sweep(&self, is_wanted: &dyn Fn(Digest) -> bool, now: SystemTime, grace: Duration) -> Result<Swept> {
        let mut swept = Swept::default();
        let is_young =
            |modified: SystemTime| now.duration_since(modified).is_ok_and(|age| age < grace) || modified > now;
        let mut take = |path: &Path, is_blob: bool| -> io::Result<()> {
            let _moving = self.moving.write().unwrap_or_else(PoisonError::into_inner);
            let metadata = match fs::metadata(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                found => found?,
            };
            if is_young(metadata.modified()?) {
                swept.young += u64::from(is_blob);
                return Ok(());
            }
            fs::remove_file(path)?;
            swept.removed += 1;
            swept.removed_bytes += metadata.len();
            Ok(())
        };
        for path in list(&self.new)? {
            take(&path, false).map_err(|error| Error::io("sweep", &path, error))?;
        }
        let mut wanted = 0;
        for folder in list(&self.kept)? {
            for path in list(&folder)? {
                match named(&folder, &path) {
                    Some(digest) if is_wanted(digest) => wanted += 1,
                    Some(_) => take(&path, true).map_err(|error| Error::io("sweep", &path, error))?,
                    // What is named otherwise is not ours.
                    None => {}
                }
            }
        }
        Ok(Swept { wanted, ..swept })
    }

    fn file(&self, digest: Digest) -> Option<PathBuf> {
        Some(self.path(digest))
    }
}

fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let listed = fs::read_dir(folder).and_then(|found| found.map(|entry| entry.map(|entry| entry.path())).collect());
    listed.map_err(|error| Error::io("list", folder, error))
}

fn named(folder: &Path, path: &Path) -> Option<Digest> {
    let part = |path: &Path| path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
    format!("{}{}", part(folder)?, part(path)?).parse().ok()
}
