//! Which bytes shape a version's answers, and what is their digest?
//!
//! Each file is read once: what is digested here is what is parsed, compiled and compared elsewhere. It is opened first
//! and only then asked where it lies, so that no link can lead the reading out of the repository, whenever it is moved.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tiltyard_types::Digest;

use crate::repository::listing::Mark;

/// Larger files are not read where text is expected, at each look at the folder.
const TEXT_BYTES_MAX: u64 = 16 << 20;

/// The files of one version by the name they have in the digest, and where they lie.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Files {
    places: BTreeMap<String, PathBuf>,
    /// Where they may lie once all links are followed.
    within: Vec<PathBuf>,
}

impl Files {
    /// No files yet. Those that are added may only be read where they lie in one of these folders, links followed.
    pub fn within<'a>(folders: impl IntoIterator<Item = &'a Path>) -> io::Result<Files> {
        let within = folders.into_iter().map(fs::canonicalize).collect::<io::Result<_>>()?;
        Ok(Files { places: BTreeMap::new(), within })
    }

    /// None of these files, which may lie in the same folders.
    pub(crate) fn none(&self) -> Files {
        Files { places: BTreeMap::new(), within: self.within.clone() }
    }

    /// Adds one file under the name it has in the digest.
    pub fn add(&mut self, name: impl Into<String>, path: PathBuf) {
        self.places.insert(name.into(), path);
    }

    /// Names and places, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Path)> {
        self.places.iter().map(|(name, path)| (name.as_str(), path.as_path()))
    }

    /// Where a file lies.
    pub fn place(&self, name: &str) -> Option<&Path> {
        self.places.get(name).map(PathBuf::as_path)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Reads a file of text as it is now. `None` where there is none of that name.
    pub fn read(&self, name: &str) -> Option<io::Result<Vec<u8>>> {
        let opened = Opened::new(self.place(name)?, &self.within);
        Some(opened.and_then(|opened| match opened.mark.size() {
            size if size > TEXT_BYTES_MAX => {
                Err(io::Error::other(format!("{size} bytes; at most {TEXT_BYTES_MAX} are read")))
            }
            _ => opened.into_vec(),
        }))
    }

    /// Fails where a place leads out of the folders in which the files may lie.
    pub(crate) fn check_place(&self, path: &Path) -> io::Result<()> {
        check_within(path, &fs::canonicalize(path)?, &self.within)
    }
}

fn check_within(path: &Path, real: &Path, within: &[PathBuf]) -> io::Result<()> {
    if within.iter().any(|folder| real.starts_with(folder)) {
        return Ok(());
    }
    let folders = within.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(" or ");
    Err(io::Error::other(format!(
        "{} leads to {}, which is not inside {folders}: put the file itself there",
        path.display(),
        real.display()
    )))
}

/// A file that is open, and known to lie where it may.
struct Opened {
    file: File,
    path: PathBuf,
    mark: Mark,
}

impl Opened {
    fn new(path: &Path, within: &[PathBuf]) -> io::Result<Opened> {
        let file = open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other(format!("{} is not a file", path.display())));
        }
        let mark = Mark::of(&metadata);
        // Whatever links lead to now: this is about the file that was opened, and no other.
        let real = fs::canonicalize(path)?;
        if !mark.is_same_file(&Mark::of(&fs::symlink_metadata(&real)?)) {
            return Err(io::Error::other(format!("{} was replaced while it was opened", path.display())));
        }
        check_within(path, &real, within)?;
        Ok(Opened { file, path: path.to_owned(), mark })
    }

    /// Its bytes, as many as it had when it was opened: one that grows is not followed.
    fn into_vec(mut self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; self.size()?];
        self.file.read_exact(&mut bytes).map_err(|error| self.cut_short(&error))?;
        Ok(bytes)
    }

    /// The same where it is shared, without a copy on the way.
    fn into_shared(mut self) -> io::Result<Arc<[u8]>> {
        let mut bytes: Arc<[u8]> = std::iter::repeat_n(0, self.size()?).collect();
        if let Some(bytes) = Arc::get_mut(&mut bytes) {
            self.file.read_exact(bytes).map_err(|error| self.cut_short(&error))?;
        }
        Ok(bytes)
    }

    fn digest(mut self) -> io::Result<Digest> {
        let mut hash = Sha256::new();
        let mut chunk = vec![0; 64 * 1024];
        let mut left = self.mark.size();
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(chunk.len());
            self.file.read_exact(&mut chunk[..most]).map_err(|error| self.cut_short(&error))?;
            hash.update(&chunk[..most]);
            left -= most as u64;
        }
        Ok(Digest::new(hash.finalize().into()))
    }

    fn size(&self) -> io::Result<usize> {
        usize::try_from(self.mark.size()).map_err(io::Error::other)
    }

    fn cut_short(&self, error: &io::Error) -> io::Error {
        io::Error::other(format!("{} could not be read whole: {error}", self.path.display()))
    }
}

/// Opens a file for reading. One that became a pipe since it was looked at does not hold the loader up.
#[cfg(target_os = "linux")]
fn open(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY;
    OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(path)
}

#[cfg(not(target_os = "linux"))]
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).open(path)
}

/// Reads a version's files, each once, and notes what the digest is made of.
pub struct Reading<'a> {
    files: &'a Files,
    /// Size and digest of what was read, and what the file looked like when it was opened.
    read: BTreeMap<String, (PathBuf, Mark, Digest)>,
}

impl<'a> Reading<'a> {
    /// Nothing is read yet.
    pub fn new(files: &'a Files) -> Reading<'a> {
        Reading { files, read: BTreeMap::new() }
    }

    /// Reads the file of that name. `None` where there is none.
    pub fn take(&mut self, name: &str) -> Option<io::Result<Bytes>> {
        let path = self.files.place(name)?;
        Some(self.open(path).and_then(|opened| {
            let mark = opened.mark.clone();
            let bytes = opened.into_vec()?;
            self.note(name, path, mark, digest_of(&bytes));
            Ok(Bytes::from(bytes))
        }))
    }

    /// Reads a file that may not have been listed: what a graph names beside itself.
    pub fn take_shared(&mut self, name: &str, path: &Path) -> io::Result<Arc<[u8]>> {
        let opened = self.open(path)?;
        let mark = opened.mark.clone();
        let bytes = opened.into_shared()?;
        self.note(name, path, mark, digest_of(&bytes));
        Ok(bytes)
    }

    /// The digest of a file that was read.
    pub(crate) fn digest(&self, name: &str) -> Option<Digest> {
        self.read.get(name).map(|(_, _, digest)| *digest)
    }

    /// Reads what is left of the listed files, and gives the artifact digest and the bytes there are in all: SHA-256 over
    /// the sorted lines `<name>\0<size>\0<SHA-256 in hexadecimal>\n`.
    pub fn finish(mut self) -> io::Result<Artifact> {
        for (name, path) in self.files.iter() {
            if !self.read.contains_key(name) {
                let opened = self.open(path)?;
                let mark = opened.mark.clone();
                self.note(name, path, mark, opened.digest()?);
            }
        }
        let mut all = Sha256::new();
        let mut size = 0;
        let mut files = BTreeMap::new();
        for (name, (_, mark, digest)) in &self.read {
            all.update(format!("{name}\0{}\0{digest}\n", mark.size()));
            size += mark.size();
            files.insert(name.clone(), (mark.size(), *digest));
        }
        let listed = |name: &String| self.files.places.contains_key(name);
        let unlisted = self.read.into_iter().filter(|(name, _)| !listed(name));
        let unlisted = unlisted.map(|(_, (path, mark, _))| (path, mark)).collect();
        Ok(Artifact { digest: Digest::new(all.finalize().into()), size, files, unlisted })
    }

    fn open(&self, path: &Path) -> io::Result<Opened> {
        Opened::new(path, &self.files.within)
    }

    fn note(&mut self, name: &str, path: &Path, mark: Mark, digest: Digest) {
        self.read.insert(name.to_owned(), (path.to_owned(), mark, digest));
    }
}

/// What a version's files come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artifact {
    /// The digest of all.
    pub digest: Digest,
    /// Bytes of all.
    pub size: u64,
    /// Bytes and digest of each, by its name.
    pub files: BTreeMap<String, (u64, Digest)>,
    /// Files that no listing has, and what they looked like when they were read.
    unlisted: Vec<(PathBuf, Mark)>,
}

impl Artifact {
    /// A file that was read though no listing has it, and that has changed since.
    pub fn changed(&self) -> Option<&Path> {
        let changed =
            |(path, mark): &&(PathBuf, Mark)| fs::metadata(path).ok().is_none_or(|now| Mark::of(&now) != *mark);
        self.unlisted.iter().find(changed).map(|(path, _)| path.as_path())
    }
}

fn digest_of(bytes: &[u8]) -> Digest {
    Digest::new(Sha256::digest(bytes).into())
}

/// Names that copying tools and editors use for work in progress; rsync's are hidden.
pub fn is_temporary(file_name: &str) -> bool {
    const SUFFIXES: [&str; 6] = [".tmp", ".part", ".partial", ".crdownload", ".filepart", "~"];
    file_name.starts_with('.') || SUFFIXES.iter().any(|suffix| file_name.ends_with(suffix))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::FoundVersion;

    fn digest(folder: &Path) -> Artifact {
        Reading::new(&FoundVersion::at(folder).unwrap().files).finish().unwrap()
    }

    #[test]
    fn the_digest_covers_names_sizes_and_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, content: &str| fs::write(folder.path().join(name), content).unwrap();
        write("model.onnx", "weights");
        let first = digest(folder.path());
        assert_eq!(first.size, 7);
        write(".model.onnx.x7Gk", "rsync at work");
        assert_eq!(digest(folder.path()), first, "work in progress is not part of the artifact");
        write("model.onnx", "Weights");
        assert_ne!(digest(folder.path()), first);
        write("model.onnx", "weights");
        assert_eq!(digest(folder.path()), first);
        fs::create_dir(folder.path().join("golden")).unwrap();
        write("golden/one.json", "{}");
        assert_ne!(digest(folder.path()), first);
    }

    /// A figure that is computed apart from this code. The registry's manifests have the same one in their tests.
    #[test]
    fn the_digest_is_what_the_design_says() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("golden")).unwrap();
        let mut files = Files::within([folder.path()]).unwrap();
        for (name, content) in [("model.onnx", "weights"), ("golden/one.json", "{}"), ("model.toml", "")] {
            let path = folder.path().join(name);
            fs::write(&path, content).unwrap();
            files.add(name, path);
        }
        let expected = "aa68a82ea59641803c952592ab3193c57050818ce4f5f280045855a1d1776eb0";
        assert_eq!(Reading::new(&files).finish().unwrap().digest.to_string(), expected);
    }

    #[test]
    fn it_does_not_matter_which_files_were_read_first() {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in [("a", "1"), ("b", "22"), ("c", "")] {
            fs::write(folder.path().join(name), content).unwrap();
        }
        let found = FoundVersion::at(folder.path()).unwrap();
        let mut reading = Reading::new(&found.files);
        assert_eq!(reading.take("c").unwrap().unwrap(), "");
        assert_eq!(&*reading.take_shared("b", &folder.path().join("b")).unwrap(), b"22");
        assert!(reading.take("d").is_none());
        assert_eq!(reading.finish().unwrap(), digest(folder.path()));
    }
}
