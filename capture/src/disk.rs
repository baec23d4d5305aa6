//! When is a file on the disk?
//!
//! A file is there when it and its name are: the folder is synced too.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

/// Has the names in the folder of `path` on the disk.
pub(crate) fn sync_folder_of(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    sync_folder(folder)
}

/// Has the names in `folder` on the disk.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Makes `folder` and those above it that are missing, on the disk.
pub(crate) fn make_folder(folder: &Path) -> io::Result<()> {
    if folder.as_os_str().is_empty() || folder.is_dir() {
        return Ok(());
    }
    if let Some(above) = folder.parent() {
        make_folder(above)?;
    }
    match fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    sync_folder_of(folder)
}

/// Has a file with this content on the disk: all of it, or what was there before.
pub(crate) fn write_whole(path: &Path, content: &[u8]) -> io::Result<()> {
    let making = path.with_extension("making");
    let written = File::create(&making).and_then(|mut file| {
        file.write_all(content)?;
        file.sync_all()
    });
    if let Err(error) = written.and_then(|()| fs::rename(&making, path)) {
        // Where there was no room, what is half there is in the way.
        drop(fs::remove_file(&making));
        return Err(error);
    }
    sync_folder_of(path)
}
