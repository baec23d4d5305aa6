//! What lies in a version's folder, and has any of it changed?
//!
//! A listing follows links and goes into folders. What it remembers of each thing there is all that the system tells
//! without reading it, so that two listings differ where anything was touched in between: also where a tool set the times
//! back, since the time of the last change to a file's own record is nobody's to set.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::is_absence;
use crate::artifact::{Files, is_temporary};

/// Folders below a version's folder are followed this deep, so that a symbolic link to a parent ends.
const DEPTH_MAX: usize = 8;

/// More files than this in one version are refused: somebody pointed at the wrong folder.
const FILES_MAX: usize = 10_000;

/// What the system tells of a file or folder without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    size: u64,
    /// Device and inode: which thing it is, whatever its name.
    identity: (u64, u64),
    /// When its content last changed, since 1970; anybody may set it.
    modified: Duration,
    /// When anything of it last changed, the time above included; nobody may set it.
    changed: Duration,
}

impl Mark {
    /// Of a file's metadata.
    #[cfg(unix)]
    pub fn of(metadata: &Metadata) -> Mark {
        use std::os::unix::fs::MetadataExt;
        let time = |seconds: i64, nanoseconds: i64| {
            Duration::new(u64::try_from(seconds).unwrap_or(0), u32::try_from(nanoseconds).unwrap_or(0))
        };
        Mark {
            size: metadata.len(),
            identity: (metadata.dev(), metadata.ino()),
            modified: time(metadata.mtime(), metadata.mtime_nsec()),
            changed: time(metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Of a file's metadata: elsewhere less is told.
    #[cfg(not(unix))]
    pub fn of(metadata: &Metadata) -> Mark {
        let modified = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let modified = modified.unwrap_or_default();
        Mark { size: metadata.len(), identity: (0, 0), modified, changed: modified }
    }

    /// Bytes of a file.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether both are of one thing.
    pub fn is_same_file(&self, other: &Mark) -> bool {
        self.identity == other.identity
    }
}

/// Marks of everything that belongs to a version, by name: unequal when anything was touched.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Fingerprint(BTreeMap<String, Mark>);

impl Fingerprint {
    /// When the last change was, by the clock of whoever keeps the files.
    pub fn newest(&self) -> Option<SystemTime> {
        self.0.values().map(|mark| mark.changed).max().and_then(|newest| UNIX_EPOCH.checked_add(newest))
    }

    /// What is different in a later look, in words; `None` where nothing is. A change in a folder shows in the folder too:
    /// what is in it says more.
    pub fn difference(&self, later: &Fingerprint) -> Option<String> {
        let is_folder = |name: &str| name.is_empty() || name.ends_with('/');
        let changed = |folders: bool| {
            let own = self.0.iter().filter(move |(name, _)| is_folder(name) == folders);
            own.filter(|(name, mark)| later.0.get(*name) != Some(*mark)).map(move |(name, mark)| {
                match later.0.get(name) {
                    None => format!("{} is gone", shown(name)),
                    Some(now) if now.size != mark.size && !folders => {
                        format!("{} has {} bytes and had {}", shown(name), now.size, mark.size)
                    }
                    Some(_) => format!("{} was changed", shown(name)),
                }
            })
        };
        let new = later.0.keys().find(|name| !self.0.contains_key(*name)).map(|name| format!("{} is new", shown(name)));
        changed(false).next().or(new).or_else(|| changed(true).next())
    }

    fn note(&mut self, name: impl Into<String>, metadata: &Metadata) {
        self.0.insert(name.into(), Mark::of(metadata));
    }
}

fn shown(name: &str) -> &str {
    if name.is_empty() { "its folder" } else { name.trim_end_matches('/') }
}

/// What was found in one look.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Listing {
    /// The files that count: hidden and temporary ones are left out.
    pub files: Files,
    /// All that tells whether anything is touched, work in progress included.
    pub fingerprint: Fingerprint,
    /// Why the files must not be read, where links lead astray.
    pub refused: Option<String>,
}

impl Listing {
    /// Nothing yet; files may only lie in these folders, links followed.
    pub fn within<'a>(folders: impl IntoIterator<Item = &'a Path>) -> io::Result<Listing> {
        Ok(Listing { files: Files::within(folders)?, ..Listing::default() })
    }

    /// Adds one file, links followed; nothing where there is none. Fails where that cannot be told.
    pub fn add_file(&mut self, name: &str, path: &Path) -> io::Result<()> {
        let is_link = self.note_link(name, path);
        let metadata = match fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if is_absence(&error) => return Ok(()),
            Err(error) => return Err(error),
        };
        self.fingerprint.note(name, &metadata);
        if metadata.is_file() {
            self.check_link(path, is_link);
            self.files.add(name, path.to_owned());
        }
        Ok(())
    }

    /// Adds everything in a folder, by its path relative to it. Fails where the folder cannot be read.
    pub fn add_folder(&mut self, folder: &Path) -> io::Result<()> {
        self.note_link("", folder);
        self.collect(folder, "", 0)
    }

    fn collect(&mut self, folder: &Path, prefix: &str, depth: usize) -> io::Result<()> {
        if depth > DEPTH_MAX {
            return Err(io::Error::other(format!("{} is nested too deep", folder.display())));
        }
        // Before what is in it: what comes in between shows as a folder that has changed.
        self.fingerprint.note(prefix, &fs::metadata(folder)?);
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let Ok(file_name) = entry.file_name().into_string() else { continue };
            let (name, path) = (format!("{prefix}{file_name}"), entry.path());
            let is_link = self.note_link(&name, &path);
            if is_temporary(&file_name) {
                // Somebody may be at work on it: it counts for whether the folder rests, and for nothing else.
                if !is_link {
                    self.note_aside(&name, &path, depth);
                }
                continue;
            }
            let metadata = match fs::metadata(&path) {
                Ok(metadata) => metadata,
                // Gone since it was listed, or a link to nowhere.
                Err(error) if is_absence(&error) => continue,
                Err(error) => return Err(error),
            };
            if metadata.is_dir() {
                self.check_link(&path, is_link);
                self.collect(&path, &format!("{name}/"), depth + 1)?;
            } else if metadata.is_file() {
                self.check_link(&path, is_link);
                self.fingerprint.note(name.clone(), &metadata);
                self.files.add(name, path);
            }
            if self.files.len() > FILES_MAX {
                return Err(io::Error::other(format!("more than {FILES_MAX} files below {}", folder.display())));
            }
        }
        Ok(())
    }

    /// Notes work in progress, and what is in it where it is a folder, as far as that is within bounds. What vanishes
    /// meanwhile shows by its absence.
    fn note_aside(&mut self, name: &str, path: &Path, depth: usize) {
        let Ok(metadata) = fs::symlink_metadata(path) else { return };
        let is_folder = metadata.is_dir();
        self.fingerprint.note(if is_folder { format!("{name}/") } else { name.to_owned() }, &metadata);
        if !is_folder || depth > DEPTH_MAX {
            return;
        }
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            if self.fingerprint.0.len() < FILES_MAX {
                let inner = format!("{name}/{}", entry.file_name().to_string_lossy());
                self.note_aside(&inner, &entry.path(), depth + 1);
            }
        }
    }

    /// Notes a link itself, beside what it leads to. True where it is one.
    fn note_link(&mut self, name: &str, path: &Path) -> bool {
        let link = fs::symlink_metadata(path).ok().filter(Metadata::is_symlink);
        if let Some(metadata) = &link {
            self.fingerprint.note(format!("{name} (the link)"), metadata);
        }
        link.is_some()
    }

    /// A link that leads out is told at once; the reading itself is guarded by what it opens.
    fn check_link(&mut self, path: &Path, is_link: bool) {
        if is_link && let Err(error) = self.files.check_place(path) {
            self.refused.get_or_insert_with(|| error.to_string());
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests;
