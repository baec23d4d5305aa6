//! Which bytes shape a version's answers, and what is their digest?

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sha2::{Digest as _, Sha256};
use tiltyard_types::Digest;

/// Folders below a version's folder are followed this deep, so that a symbolic link to a parent ends.
const DEPTH_MAX: usize = 8;

/// More files than this in one version are refused: somebody pointed at the wrong folder.
const FILES_MAX: usize = 10_000;

/// The files of one version by the name they have in the digest, and where they lie.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Files(BTreeMap<String, PathBuf>);

/// Sizes and times of files: unequal when a file was touched, at the cost of a look at each.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Fingerprint(BTreeMap<String, (u64, Option<SystemTime>, u64)>);

impl Files {
    /// All files below `folder`, hidden and temporary ones left out, by their path relative to it.
    pub fn below(folder: &Path) -> io::Result<Files> {
        let mut files = Files::default();
        files.collect(folder, "", 0)?;
        Ok(files)
    }

    /// Adds one file under the name it has in the digest.
    pub fn add(&mut self, name: impl Into<String>, path: PathBuf) {
        self.0.insert(name.into(), path);
    }

    /// Names and places, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Path)> {
        self.0.iter().map(|(name, path)| (name.as_str(), path.as_path()))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A look at sizes and times. A file that vanished counts as absent.
    pub fn fingerprint(&self) -> Fingerprint {
        let look = |metadata: Metadata| (metadata.len(), metadata.modified().ok(), inode(&metadata));
        Fingerprint(
            self.0.iter().filter_map(|(name, path)| Some((name.clone(), look(fs::metadata(path).ok()?)))).collect(),
        )
    }

    /// The artifact digest: SHA-256 over the sorted lines `<name>\0<size>\0<SHA-256 in hexadecimal>\n`. Reads
    /// every byte of every file.
    pub fn digest(&self) -> io::Result<Digest> {
        let mut all = Sha256::new();
        for (name, path) in &self.0 {
            let (size, digest) = digest_file(path)?;
            all.update(format!("{name}\0{size}\0{digest}\n"));
        }
        Ok(Digest::new(all.finalize().into()))
    }

    fn collect(&mut self, folder: &Path, prefix: &str, depth: usize) -> io::Result<()> {
        if depth > DEPTH_MAX {
            return Err(io::Error::other(format!("{} is nested too deep", folder.display())));
        }
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let Ok(file_name) = entry.file_name().into_string() else { continue };
            if is_temporary(&file_name) {
                continue;
            }
            let name = format!("{prefix}{file_name}");
            let path = entry.path();
            let kind = match fs::metadata(&path) {
                Ok(kind) => kind,
                // Gone since it was listed, or a link to nowhere.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            if kind.is_dir() {
                self.collect(&path, &format!("{name}/"), depth + 1)?;
            } else if kind.is_file() {
                self.add(name, path);
            }
            if self.0.len() > FILES_MAX {
                return Err(io::Error::other(format!("more than {FILES_MAX} files below {}", folder.display())));
            }
        }
        Ok(())
    }
}

impl Fingerprint {
    /// How long before `now` the youngest file was last written; zero for one from the future.
    pub fn age(&self, now: SystemTime) -> Duration {
        let newest = self.0.values().filter_map(|(_, modified, _)| *modified).max();
        newest.map_or(Duration::MAX, |newest| now.duration_since(newest).unwrap_or(Duration::ZERO))
    }

    /// Bytes of all files together.
    pub fn size(&self) -> u64 {
        self.0.values().map(|(size, ..)| size).sum()
    }
}

/// Names that copying tools and editors use for work in progress; rsync's are hidden.
pub fn is_temporary(file_name: &str) -> bool {
    const SUFFIXES: [&str; 6] = [".tmp", ".part", ".partial", ".crdownload", ".filepart", "~"];
    file_name.starts_with('.') || SUFFIXES.iter().any(|suffix| file_name.ends_with(suffix))
}

fn digest_file(path: &Path) -> io::Result<(u64, Digest)> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut chunk = vec![0; 64 * 1024];
    let mut size = 0;
    loop {
        let read = file.read(&mut chunk)?;
        if read == 0 {
            return Ok((size, Digest::new(hash.finalize().into())));
        }
        size += read as u64;
        hash.update(&chunk[..read]);
    }
}

#[cfg(unix)]
fn inode(metadata: &Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(metadata)
}

#[cfg(not(unix))]
fn inode(_: &Metadata) -> u64 {
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_covers_names_sizes_and_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, content: &str| fs::write(folder.path().join(name), content).unwrap();
        let digest = || Files::below(folder.path()).unwrap().digest().unwrap();
        write("model.onnx", "weights");
        let first = digest();
        write(".model.onnx.x7Gk", "rsync at work");
        assert_eq!(digest(), first, "work in progress is not part of the artifact");
        write("model.onnx", "Weights");
        assert_ne!(digest(), first);
        write("model.onnx", "weights");
        assert_eq!(digest(), first);
        fs::create_dir(folder.path().join("golden")).unwrap();
        write("golden/one.json", "{}");
        assert_ne!(digest(), first);
    }

    #[test]
    fn an_endless_folder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(folder.path(), folder.path().join("self")).unwrap();
        assert!(Files::below(folder.path()).is_err());
    }
}
