//! Where do the files of versions lie, where replicas share a registry?
//!
//! On each replica that has had to do with them, and in one place that all of them reach: a folder on a shared disk, or a store of
//! objects. What somebody pushes to one replica goes there before it is on the record, and each other takes it from there when
//! it first needs it, checked against its digest.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tiltyard_registry::artifacts::{Blob, Blobs, Checked, Store, Swept};
use tiltyard_registry::{Error, Result};
use tiltyard_types::Digest;

#[cfg(feature = "stores")]
use crate::mirror::writing::Writing;

/// Bytes of a file that is taken from where all have it: as many as it has.
const FILE_BYTES_MAX: u64 = u64::MAX;

/// Files here, and where all have them.
pub(super) struct Files {
    here: Store,
    shared: Option<Shared>,
}

enum Shared {
    Folder(Store),
    #[cfg(feature = "stores")]
    Objects(Box<Writing>),
}

impl Files {
    /// Files in a folder of this machine, and in `shared`, a folder or a URL, where replicas have one. Fails in words.
    pub(super) fn open(folder: &Path, shared: Option<&Path>) -> std::result::Result<Files, String> {
        let here = Store::open(folder).map_err(|error| error.to_string())?;
        let shared = shared.map(Shared::open).transpose()?;
        Ok(Files { here, shared })
    }

    /// Takes a file from where all have it. False where it is not there either.
    fn fetch(&self, digest: Digest) -> Result<bool> {
        let Some(shared) = &self.shared else { return Ok(false) };
        let Some(mut from) = shared.read(digest)? else { return Ok(false) };
        let found = self.here.put(&mut from, FILE_BYTES_MAX)?;
        match found.digest == digest {
            true => Ok(true),
            // It stays under its own name, and is nobody's.
            false => {
                Err(Error::Unfit(format!("what lies under {digest} where replicas share files is {}", found.digest)))
            }
        }
    }
}

impl Shared {
    fn open(place: &Path) -> std::result::Result<Shared, String> {
        if !place.to_string_lossy().contains("://") {
            return Store::open(place).map(Shared::Folder).map_err(|error| error.to_string());
        }
        #[cfg(feature = "stores")]
        return Writing::open(place, None).map(|writing| Shared::Objects(Box::new(writing)));
        #[cfg(not(feature = "stores"))]
        Err(format!(
            "registry_store = {}: this build knows folders only, since it was made without the feature \"stores\"",
            place.display()
        ))
    }

    fn read(&self, digest: Digest) -> Result<Option<Box<dyn Read + Send + '_>>> {
        match self {
            Shared::Folder(store) => match store.size(digest)? {
                Some(_) => Ok(Some(Box::new(store.open(digest)?))),
                None => Ok(None),
            },
            #[cfg(feature = "stores")]
            Shared::Objects(writing) => {
                let found = writing.read(&name(digest)).map_err(Error::Unfit)?;
                Ok(found.map(|reading| Box::new(reading) as Box<dyn Read + Send + '_>))
            }
        }
    }

    fn put(&self, digest: Digest, place: &Path) -> Result<()> {
        let failed = |error: io::Error| Error::Unfit(format!("{digest} cannot be read: {error}"));
        match self {
            Shared::Folder(store) => {
                let mut file = std::fs::File::open(place).map_err(failed)?;
                store.put(&mut file, FILE_BYTES_MAX).map(drop)
            }
            #[cfg(feature = "stores")]
            Shared::Objects(writing) => writing.put_file(&name(digest), place).map_err(Error::Unfit),
        }
    }

    fn size(&self, digest: Digest) -> Result<Option<u64>> {
        match self {
            Shared::Folder(store) => store.size(digest),
            #[cfg(feature = "stores")]
            Shared::Objects(writing) => writing.size(&name(digest)).map_err(Error::Unfit),
        }
    }
}

/// The name of an object.
#[cfg(feature = "stores")]
fn name(digest: Digest) -> String {
    format!("sha256/{digest}")
}

impl Blobs for Files {
    fn put(&self, from: &mut dyn Read, bytes_max: u64) -> Result<Blob> {
        let blob = self.here.put(from, bytes_max)?;
        if let (Some(shared), Some(place)) = (&self.shared, self.here.file(blob.digest)) {
            shared.put(blob.digest, &place)?;
        }
        Ok(blob)
    }

    /// Where replicas share files, what all can have: what lies here alone has to be put there.
    fn size(&self, digest: Digest) -> Result<Option<u64>> {
        match &self.shared {
            Some(shared) => shared.size(digest),
            None => self.here.size(digest),
        }
    }

    fn open(&self, digest: Digest) -> Result<Checked> {
        if self.here.size(digest)?.is_none() {
            self.fetch(digest)?;
        }
        self.here.open(digest)
    }

    fn sweep(&self, is_wanted: &dyn Fn(Digest) -> bool, now: SystemTime, grace: Duration) -> Result<Swept> {
        self.here.sweep(is_wanted, now, grace)
    }

    fn file(&self, digest: Digest) -> Option<PathBuf> {
        self.here.file(digest).filter(|place| place.exists())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_replica_has_the_others_can_have() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other, all) = (folder.path().join("one"), folder.path().join("other"), folder.path().join("all"));
        let first = Files::open(&one, Some(&all)).unwrap();
        let second = Files::open(&other, Some(&all)).unwrap();
        let blob = first.put(&mut b"weights".as_slice(), 100).unwrap();
        assert_eq!(second.file(blob.digest), None, "nobody needed it yet");
        let mut read = String::new();
        second.open(blob.digest).unwrap().read_to_string(&mut read).unwrap();
        assert_eq!((read.as_str(), second.size(blob.digest).unwrap()), ("weights", Some(7)));
        assert!(second.file(blob.digest).is_some());
        let alone = Files::open(&folder.path().join("alone"), None).unwrap();
        assert!(alone.open(blob.digest).is_err());
    }

    #[test]
    fn other_bytes_under_a_name_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other, all) = (folder.path().join("one"), folder.path().join("other"), folder.path().join("all"));
        let blob = Files::open(&one, Some(&all)).unwrap().put(&mut b"weights".as_slice(), 100).unwrap();
        let name = blob.digest.to_string();
        let place = all.join("sha256").join(&name[..2]).join(&name[2..]);
        std::fs::remove_file(&place).unwrap();
        std::fs::write(&place, b"poison!").unwrap();
        assert!(Files::open(&other, Some(&all)).unwrap().open(blob.digest).is_err());
    }
}
