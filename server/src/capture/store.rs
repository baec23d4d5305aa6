//! Where do finished segments go that are to be kept elsewhere: in a store, or in another folder?
//!
//! A segment is put under its own name and never over another object, and the manifest gets a line that says where it lies. What is
//! there already under that name, of the same length, is an earlier try's: names are never used twice.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use tiltyard_capture::{Capture, Listed};

use super::sent::{Receiver, Taken};
use crate::clock;

/// Where segments go.
pub(super) struct Store(Place);

enum Place {
    Folder(PathBuf),
    #[cfg(feature = "stores")]
    Remote(crate::mirror::writing::Writing),
}

impl Store {
    /// The store or folder that the settings name. Fails, in words, where it cannot be used; nothing is sent yet.
    pub(super) fn open(place: &Path, token_file: Option<&Path>) -> Result<Store, String> {
        let is_url = place.to_str().is_some_and(|text| text.contains("://"));
        if !is_url {
            return Ok(Store(Place::Folder(place.to_owned())));
        }
        remote(place, token_file).map_err(|reason| format!("capture_store: {reason}"))
    }
}

#[cfg(feature = "stores")]
fn remote(place: &Path, token_file: Option<&Path>) -> Result<Store, String> {
    crate::mirror::writing::Writing::open(place, token_file).map(|writing| Store(Place::Remote(writing)))
}

#[cfg(not(feature = "stores"))]
fn remote(_: &Path, _: Option<&Path>) -> Result<Store, String> {
    Err("this build of tiltyard was built without the feature stores: expected a folder".to_owned())
}

impl Receiver for Store {
    fn name(&self) -> &'static str {
        "store"
    }

    fn take(&mut self, capture: &Capture, folder: &Path, listed: &Listed, _: &AtomicBool) -> Result<Taken, String> {
        let file = &listed.facts.file;
        let path = folder.join("segments").join(file);
        if !listed.is_whole(folder).map_err(|error| error.to_string())? {
            return Err(format!("{}: it is not what was written, and is not sent for that", path.display()));
        }
        let content = fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let at = match &self.0 {
            Place::Folder(to) => copy(&to.join(file), &content)?,
            #[cfg(feature = "stores")]
            Place::Remote(writing) => writing.put(file, content)?,
        };
        capture.note_stored(file, &at, clock::unix_ms()).map_err(|error| error.to_string())?;
        Ok(Taken { sent: 1, dropped: 0 })
    }
}

/// Has the content in a file of that name, which nobody sees before it is whole.
fn copy(to: &Path, content: &[u8]) -> Result<String, String> {
    let copied = || -> io::Result<()> {
        if let Some(above) = to.parent() {
            fs::create_dir_all(above)?;
        }
        let making = to.with_extension("making");
        let mut file = fs::File::create(&making)?;
        file.write_all(content)?;
        file.sync_all()?;
        // A link is refused where there is something already.
        let linked = fs::hard_link(&making, to);
        fs::remove_file(&making)?;
        match linked {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && fs::read(to)? == content => Ok(()),
            linked => linked,
        }
    };
    let shown = to.display().to_string();
    copied().map(|()| shown.clone()).map_err(|error| format!("{shown}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_whole_and_never_over_another_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let to = folder.path().join("endpoint=risk/a.parquet");
        for _ in 0..2 {
            assert_eq!(copy(&to, b"one"), Ok(to.display().to_string()), "the same once more is no mistake");
        }
        assert!(copy(&to, b"two").is_err());
        assert_eq!(fs::read(&to).expect("it is there"), b"one");
        assert_eq!(fs::read_dir(to.parent().expect("a folder")).expect("a folder").count(), 1, "nothing half is left");
    }
}
