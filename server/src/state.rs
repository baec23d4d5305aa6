//! Where does a server keep what it must remember of one repository?
//!
//! ```text
//! <data dir>/state/<first 16 hexadecimal digits of the SHA-256 of the repository's name>/
//!   repository       that name, for people
//!   lock             held by the process that may change what is here
//!   endpoints.json   the plans that were applied
//!   log/             what rollouts were told and said
//! ```
//!
//! Servers of one user share a data folder, and those of different repositories have nothing to say about each other's.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use ring::digest::{SHA256, digest};

use crate::mirror::address::Address;

/// Bytes of the digest that make a folder's name.
const NAME_BYTES: usize = 8;

/// The folder of one repository, and who may change what is in it. It need not be there: a data folder that cannot be written
/// keeps nothing.
#[derive(Debug)]
pub struct StateFolder {
    /// Where it is.
    pub path: PathBuf,
    repository: String,
    lock: Mutex<Option<Lock>>,
}

impl StateFolder {
    /// The folder in `data_dir` for what `models` names, a path or the URL of a store. Makes it and takes its lock where that
    /// can be; where it cannot, that is said once in the log, and what is there can be read all the same. Fails, in words,
    /// where the URL cannot be used.
    pub fn open(data_dir: &Path, models: &Path) -> Result<StateFolder, String> {
        let repository = name_of(models)?;
        let hashed = digest(&SHA256, repository.as_bytes());
        let name: String = hashed.as_ref()[..NAME_BYTES].iter().map(|byte| format!("{byte:02x}")).collect();
        let path = data_dir.join("state").join(name);
        let folder = StateFolder { path, repository, lock: Mutex::new(None) };
        if let Err(error) = folder.hold() {
            let (folder, error) = (folder.path.display(), error.to_string());
            tracing::warn!(%folder, error, "plans are taken as they are kept there, and changes of them are not kept");
        }
        Ok(folder)
    }

    /// Takes the lock, unless this process has it already. Fails while another process has it, which may end before this one,
    /// and where the folder cannot be written.
    pub fn hold(&self) -> io::Result<()> {
        // What panicked while it held this left nothing half done.
        let mut lock = self.lock.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if lock.is_none() {
            fs::create_dir_all(&self.path)?;
            let taken = Lock::take(&self.path.join("lock"))?;
            fs::write(self.path.join("repository"), format!("{}\n", self.repository))?;
            *lock = Some(taken);
        }
        Ok(())
    }
}

/// What a repository is called whatever way its path is written. Links to the folder that it is in are followed; a repository
/// that is a link itself is that link, since where it leads to changes with each release.
fn name_of(models: &Path) -> Result<String, String> {
    if let Some(address) = Address::of(models).transpose()? {
        return Ok(address.to_string());
    }
    // A path that cannot be made sense of is told by whoever reads the repository.
    let path = std::path::absolute(models).unwrap_or_else(|_| models.to_owned());
    let canonical = match (path.parent().map(Path::canonicalize), path.file_name()) {
        (Some(Ok(parent)), Some(name)) => parent.join(name),
        _ => path.canonicalize().unwrap_or(path),
    };
    Ok(canonical.to_string_lossy().into_owned())
}

/// Held for as long as this process may write. The system gives it back when the process ends, however it ends.
#[derive(Debug)]
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing is not enough: a process that this one is starting has the file too, until it is another program.
        drop(self.0.unlock());
    }
}

impl Lock {
    fn take(path: &Path) -> io::Result<Lock> {
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) => {
                // It may be a moment before the holder has written who it is.
                let mut text = String::new();
                let is_known = file.read_to_string(&mut text).is_ok() && !text.trim().is_empty();
                let holder = if is_known { format!("process {}", text.trim()) } else { "another process".to_owned() };
                return Err(io::Error::other(format!("{holder} serves the same repository and keeps its state")));
            }
        }
        file.set_len(0)?;
        writeln!(file, "{}", std::process::id())?;
        Ok(Lock(file))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn repositories_have_folders_of_their_own() {
        let place = tempfile::tempdir().unwrap();
        let data = place.path().join("data");
        for name in ["a", "b"] {
            fs::create_dir(place.path().join(name)).unwrap();
        }
        symlink(place.path(), place.path().join("link")).unwrap();
        symlink("a", place.path().join("current")).unwrap();
        let path = |models: &Path| StateFolder::open(&data, models).unwrap().path;
        let a = path(&place.path().join("a"));
        assert_eq!(fs::read_to_string(a.join("repository")).unwrap().trim(), name_of(&place.path().join("a")).unwrap());
        assert_eq!(a.file_name().unwrap().len(), 16);
        for same in ["a/", "./a", "b/../a", "link/a"] {
            assert_eq!(path(&place.path().join(same)), a, "{same}");
        }
        for other in ["b", "nowhere/yet"] {
            assert_ne!(path(&place.path().join(other)), a, "{other}");
        }
        // A link to a release is the same repository with the next release.
        let current = path(&place.path().join("current"));
        assert_ne!(current, a);
        fs::remove_file(place.path().join("current")).unwrap();
        symlink("b", place.path().join("current")).unwrap();
        assert_eq!(path(&place.path().join("current")), current);
        assert_eq!(path(Path::new("s3://bucket/models/")), path(Path::new("s3://bucket/models")));
        assert_ne!(path(Path::new("s3://bucket/models")), path(Path::new("s3://bucket/others")));
        assert!(StateFolder::open(&data, Path::new("ftp://x")).is_err());
    }

    #[test]
    fn one_process_at_a_time_may_write() {
        let data = tempfile::tempdir().unwrap();
        let open = || StateFolder::open(data.path(), Path::new("models")).unwrap();
        let (first, second) = (open(), open());
        assert!(first.hold().is_ok());
        let refused = second.hold().unwrap_err().to_string();
        assert_eq!(refused, format!("process {} serves the same repository and keeps its state", std::process::id()));
        drop(first);
        assert!(second.hold().is_ok(), "whoever is left takes over");
        assert!(open().hold().is_err());
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_no_failure() {
        let place = tempfile::tempdir().unwrap();
        // A file, since who runs the tests may write anywhere.
        fs::write(place.path().join("data"), "").unwrap();
        let folder = StateFolder::open(&place.path().join("data"), Path::new("models")).unwrap();
        assert!(folder.hold().is_err());
    }
}
