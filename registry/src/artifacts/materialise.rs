//! How does a version come into a folder as a whole or not at all?

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::manifest::{Listed, Manifest};
use super::{Blobs, lost};
use crate::{Error, Result};

/// Has the files of a version in `folder`, which is not there yet, or has just these files. They are made beside it, under a
/// hidden name that no server takes for a version, each checked, and get their place by one rename. Where the blobs lie on the
/// same file system, the files are hard links: they take no room, and may only be read.
pub fn materialise(blobs: &dyn Blobs, manifest: &Manifest, folder: &Path) -> Result<()> {
    if folder.exists() {
        let found = Manifest::of_folder(folder)?;
        if found == *manifest {
            return Ok(());
        }
        return Err(Error::Unfit(format!(
            "{} is there already, with other bytes: its artifact is {}, and {} is wanted",
            folder.display(),
            found.digest().short(),
            manifest.digest().short()
        )));
    }
    let (Some(parent), Some(name)) = (folder.parent(), folder.file_name()) else {
        return Err(Error::Unfit(format!("{} has no name: expected a new folder", folder.display())));
    };
    let fail = |error| Error::io("make the folder", folder, error);
    fs::create_dir_all(parent).map_err(fail)?;
    let new = parent.join(format!(".{}.new-{}", name.to_string_lossy(), std::process::id()));
    let made = clear(&new).and_then(|()| fs::create_dir(&new)).map_err(fail);
    let made = made
        .and_then(|()| fill(blobs, manifest, &new))
        .and_then(|()| fs::rename(&new, folder).and_then(|()| File::open(parent)?.sync_all()).map_err(fail));
    if made.is_err() {
        drop(clear(&new));
    }
    made
}

fn clear(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn fill(blobs: &dyn Blobs, manifest: &Manifest, folder: &Path) -> Result<()> {
    let mut folders = vec![folder.to_owned()];
    for file in manifest.files() {
        let path = folder.join(&file.path);
        let within = path.parent().unwrap_or(folder);
        if !within.is_dir() {
            fs::create_dir_all(within).map_err(|error| Error::io("make the folder", within, error))?;
            let made = within.ancestors().take_while(|made| *made != folder);
            folders.extend(made.map(Path::to_owned));
        }
        place(blobs, file, &path)?;
    }
    for made in folders {
        File::open(&made).and_then(|made| made.sync_all()).map_err(|error| Error::io("sync", &made, error))?;
    }
    Ok(())
}

/// One file: a link to the blob once its bytes were read and are right, or else a copy of them.
fn place(blobs: &dyn Blobs, file: &Listed, path: &Path) -> Result<()> {
    let fail = |error: io::Error| match error.kind() {
        io::ErrorKind::InvalidData => Error::Lost(error.to_string()),
        _ => Error::io("write", path, error),
    };
    if blobs.size(file.sha256)?.ok_or_else(|| lost(file.sha256))? != file.size {
        return Err(Error::Lost(format!("the blob {} is damaged: expected {} bytes", file.sha256, file.size)));
    }
    let mut from = blobs.open(file.sha256)?;
    if let Some(kept) = blobs.file(file.sha256)
        && fs::hard_link(&kept, path).is_ok()
    {
        return io::copy(&mut from, &mut io::sink()).map(drop).map_err(fail);
    }
    let copy = || {
        let mut to = OpenOptions::new().write(true).create_new(true).open(path)?;
        io::copy(&mut from, &mut to)?;
        to.set_permissions(Permissions::from_mode(0o444))?;
        to.sync_all()
    };
    let mut copy = copy;
    copy().map_err(fail)
}
