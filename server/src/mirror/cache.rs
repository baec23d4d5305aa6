//! Which copies of a store's objects lie on this disk, and how do they change without anybody seeing half of it?
//!
//! ```text
//! <data dir>/stores/<digest of the URL>-<number>/
//!   lock            held by the process that uses it
//!   manifest.json   what is in the folder that is served
//!   parts/          objects on their way
//!   aside/          places that come and go, for a moment
//!   <name>/         the folder that is served
//! ```
//!
//! A place appears by one rename, and one that changes is out of sight for the moment between two.

use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use ring::digest::{Context, SHA256, digest};

use super::address::Address;
use super::manifest::{self, hex};
use super::parts::Parts;
use super::plan::{Change, Digest, Files, Held, Place, places_of};

/// Processes with one data folder and one store at a time: each has a cache of its own.
const CACHES_MAX: usize = 8;

/// The copies, and the right to change them.
pub(super) struct Cache {
    /// The folder that is served.
    pub(super) root: PathBuf,
    /// Where objects are on their way.
    pub(super) parts: Parts,
    folder: PathBuf,
    url: String,
    held: Files,
    made: u64,
    /// Locked while this lives.
    _lock: File,
}

impl Cache {
    /// Opens the cache of a store. What it holds is not to be served before [`Cache::verify`]. Fails, in words, where there
    /// can be none.
    pub(super) fn open(data_dir: &Path, address: &Address) -> Result<Cache, String> {
        let url = address.to_string();
        let stores = data_dir.join("stores");
        let name = hex(&digest(&SHA256, url.as_bytes()).as_ref()[..8]);
        let failed = |error: io::Error| {
            format!(
                "{} cannot be used: {error}. What {url} has is copied there before it is served: choose a folder that \
                 can be written with --data-dir",
                stores.display()
            )
        };
        fs::create_dir_all(&stores).map_err(failed)?;
        for number in 0..CACHES_MAX {
            let folder = stores.join(format!("{name}-{number}"));
            fs::create_dir_all(&folder).map_err(failed)?;
            let lock = File::create(folder.join("lock")).map_err(failed)?;
            match lock.try_lock() {
                Ok(()) => return Cache::take(folder, address, lock).map_err(failed),
                // Another process, such as the one that this one is to follow, serves from it.
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
        }
        Err(failed(io::Error::other(format!("{CACHES_MAX} processes use it already"))))
    }

    fn take(folder: PathBuf, address: &Address, lock: File) -> io::Result<Cache> {
        let url = address.to_string();
        let root = folder.join(address.name());
        fs::create_dir_all(&root)?;
        let held = manifest::read(&folder.join("manifest.json"), &url);
        let parts = Parts::open(folder.join("parts"))?;
        Ok(Cache { root, parts, folder, url, held, made: 0, _lock: lock })
    }

    /// What is served, by path.
    pub(super) fn held(&self) -> &Files {
        &self.held
    }

    /// Where a file lies, or would lie.
    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// Takes away whatever is not as it was fetched: places of which a byte differs, and files that nobody fetched. Blocks
    /// while everything is digested.
    pub(super) fn verify(&mut self) -> io::Result<()> {
        let mut bad: BTreeSet<Place> = BTreeSet::new();
        let places = places_of(&self.held);
        for (place, paths) in &places {
            for path in paths {
                if let Err(reason) = is_as_fetched(&self.path(path), &self.held[path]) {
                    tracing::warn!(path, reason, "a cached copy is not what was fetched: it is not used");
                    bad.insert(place.clone());
                    break;
                }
            }
        }
        // What a model's own files say shapes all of its versions.
        let models: BTreeSet<String> =
            bad.iter().filter(|place| matches!(place, Place::Model(_))).map(Place::folder).collect();
        bad.extend(places.keys().filter(|place| models.contains(place.model())).cloned());
        let is_bad = |path: &String| places.iter().any(|(place, paths)| bad.contains(place) && paths.contains(path));
        self.held.retain(|path, _| !is_bad(path));
        let mut strays = Vec::new();
        collect_strays(&self.root, "", &self.held, &mut strays)?;
        strays.iter().try_for_each(|path| remove_any(path))?;
        if !bad.is_empty() {
            self.save()?;
        }
        Ok(())
    }

    /// Writes down what is held.
    fn save(&self) -> io::Result<()> {
        manifest::write(&self.folder.join("manifest.json"), &self.url, &self.held)
    }

    /// Makes one model what the store says, once everything of it was fetched. What fails leaves the model's other places as
    /// they were; a place that is not as it should be is forgotten, and with it fetched again.
    pub(super) fn publish(&mut self, change: &Change, fetched: &Files) -> io::Result<()> {
        let aside = self.folder.join("aside");
        remove_folder(&aside)?;
        fs::create_dir_all(&aside)?;
        let outcome = self.apply(change, fetched);
        self.save()?;
        outcome
    }

    fn apply(&mut self, change: &Change, fetched: &Files) -> io::Result<()> {
        for place in &change.leave {
            self.leave(place)?;
        }
        // A model's own files come before its versions: places are sorted so.
        for (place, paths) in &change.places {
            match place {
                Place::Model(_) => self.renew_files(place, paths, fetched)?,
                Place::Whole | Place::Version(..) => self.renew_folder(place, paths, fetched)?,
            }
        }
        Ok(())
    }

    /// The paths of a place that are held.
    fn paths_of(&self, place: &Place) -> BTreeSet<String> {
        places_of(&self.held).remove(place).unwrap_or_default()
    }

    fn leave(&mut self, place: &Place) -> io::Result<()> {
        let paths = self.paths_of(place);
        self.held.retain(|path, _| !paths.contains(path));
        match place {
            Place::Model(_) => paths.iter().try_for_each(|path| remove_any(&self.path(path)))?,
            Place::Whole | Place::Version(..) => {
                let aside = self.aside();
                rename_if_there(&self.path(&place.folder()), &aside)?;
                remove_folder(&aside)?;
            }
        }
        match place {
            Place::Whole => fs::create_dir_all(&self.root),
            // The last to leave takes the model's folder along.
            _ => match fs::remove_dir(self.path(place.model())) {
                Err(error) if !is_expected(&error) => Err(error),
                _ => Ok(()),
            },
        }
    }

    /// A model's own files, one by one.
    fn renew_files(&mut self, place: &Place, paths: &BTreeSet<String>, fetched: &Files) -> io::Result<()> {
        for path in self.paths_of(place).difference(paths) {
            self.held.remove(path);
            remove_any(&self.path(path))?;
        }
        fs::create_dir_all(self.path(&place.folder()))?;
        for path in paths {
            if let Some(held) = fetched.get(path) {
                self.held.remove(path);
                self.parts.take(path, held, &self.path(path))?;
                self.held.insert(path.clone(), held.clone());
            }
        }
        Ok(())
    }

    /// A folder as a whole. What is in it already moves over.
    fn renew_folder(&mut self, place: &Place, paths: &BTreeSet<String>, fetched: &Files) -> io::Result<()> {
        let prefix = match place {
            Place::Whole => String::new(),
            _ => format!("{}/", place.folder()),
        };
        let within = |path: &str| path.strip_prefix(&prefix).unwrap_or(path).to_owned();
        let (new, old) = (self.aside(), self.aside());
        for path in paths {
            let to = new.join(within(path));
            fs::create_dir_all(to.parent().unwrap_or(&new))?;
            if let Some(held) = fetched.get(path) {
                self.parts.take(path, held, &to)?;
            }
        }
        let served = self.path(&place.folder());
        let known = self.held.clone();
        for path in self.paths_of(place) {
            self.held.remove(&path);
        }
        fs::create_dir_all(served.parent().unwrap_or(&self.root))?;
        rename_if_there(&served, &old)?;
        let mut kept = paths.iter().filter(|path| !fetched.contains_key(*path));
        let moved = kept.try_for_each(|path| fs::rename(old.join(within(path)), new.join(within(path))));
        if let Err(error) = moved.and_then(|()| fs::rename(&new, &served)) {
            // A folder that lacks something makes nobody forget what it was read from; one that is gone does.
            drop(fs::rename(&old, &served));
            return Err(error);
        }
        for path in paths {
            if let Some(held) = fetched.get(path).or_else(|| known.get(path)) {
                self.held.insert(path.clone(), held.clone());
            }
        }
        remove_folder(&old)
    }

    /// A path that nobody uses.
    fn aside(&mut self) -> PathBuf {
        self.made += 1;
        self.folder.join("aside").join(self.made.to_string())
    }
}

/// Digests a file. Fails, in words, where it is not what was fetched.
fn is_as_fetched(path: &Path, held: &Held) -> Result<(), String> {
    let metadata = fs::symlink_metadata(path).map_err(|error| error.to_string())?;
    if !metadata.is_file() || metadata.len() != held.size {
        return Err(format!("expected a file of {} bytes", held.size));
    }
    let found = digest_of(path).map_err(|error| error.to_string())?;
    if found == held.sha256 { Ok(()) } else { Err("its SHA-256 differs".to_owned()) }
}

/// The SHA-256 of a file.
pub(super) fn digest_of(path: &Path) -> io::Result<Digest> {
    let mut file = File::open(path)?;
    let mut context = Context::new(&SHA256);
    let mut buffer = vec![0; 1 << 18];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(finish(context)),
            count => context.update(&buffer[..count]),
        }
    }
}

/// What a digest comes to.
pub(super) fn finish(context: Context) -> Digest {
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    digest
}

/// Finds what nobody fetched. True where nothing else is in the folder.
fn collect_strays(folder: &Path, prefix: &str, held: &Files, strays: &mut Vec<PathBuf>) -> io::Result<bool> {
    let mut only_strays = true;
    for entry in fs::read_dir(folder)? {
        let (entry, at) = entry.map(|entry| (entry.path(), entry))?;
        let name = at.file_name();
        let path = name.to_str().map(|name| format!("{prefix}{name}"));
        let is_stray = match path {
            Some(path) if at.file_type()?.is_dir() => collect_strays(&entry, &format!("{path}/"), held, strays)?,
            Some(path) => !held.contains_key(&path),
            None => true,
        };
        if is_stray {
            strays.push(entry);
        }
        only_strays &= is_stray;
    }
    Ok(only_strays)
}

/// Nothing was there, or something else still is.
fn is_expected(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotADirectory)
}

fn rename_if_there(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

fn remove_folder(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

/// Removes a file, a link or a folder; nothing where there is none.
fn remove_any(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => remove_folder(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
