//! By which ways do people put a version into a folder that is being served?
//!
//! Each way here is what some tool does: a rename, a copy that takes a while, a copy that keeps the files' times, an
//! overwrite in place, links, a volume as Kubernetes mounts it, rsync.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use super::{BESIDE, BESIDE_STAMP, SOAK};
use crate::template::{golden, model};

/// Pieces that a slow copy writes, and the time between two of them.
const PIECES: usize = 4;
const PIECE_PAUSE: Duration = Duration::from_millis(15);

/// Between the model and its golden example, where a copy takes its time: time enough to load the one without the other.
const GOLDEN_PAUSE: Duration = Duration::from_millis(80);

/// How old files are whose times are kept.
const KEPT_AGE: Duration = Duration::from_secs(24 * 3600);

/// A way of changing what is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Way {
    /// `mv`: written elsewhere, then renamed.
    Rename,
    /// `cp -r`: written where it is served from, in pieces, the golden example last.
    Copy,
    /// The same number again: the file is truncated and written anew.
    InPlace,
    /// `cp -rp`, `tar x`: as [`Way::Copy`], but the files look a day old from the start.
    KeptTimes,
    /// A version's folder that is a link.
    LinkNew,
    /// The same number again: the link leads elsewhere.
    LinkSwap,
    /// The whole repository is a link, which leads to another tree; the old tree is deleted at once.
    Root,
    /// A ConfigMap or Secret as Kubernetes mounts it.
    VolumeNew,
    /// The same number again: `..data` leads elsewhere, the old data is deleted at once.
    VolumeSwap,
    /// `rsync -a`.
    Rsync,
}

impl Way {
    /// In the order in which they take turns: what is swapped was made in the turn before.
    const ALL: [Way; 10] = [
        Way::Rename,
        Way::Copy,
        Way::InPlace,
        Way::KeptTimes,
        Way::LinkNew,
        Way::LinkSwap,
        Way::Root,
        Way::VolumeNew,
        Way::VolumeSwap,
        Way::Rsync,
    ];

    /// Those that this machine has the tools for.
    pub(super) fn usable() -> Vec<Way> {
        let ran = Command::new("rsync").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        let has_rsync = ran.is_ok_and(|status| status.success());
        Way::ALL.into_iter().filter(|way| *way != Way::Rsync || has_rsync).collect()
    }

    /// Whether it makes a version with a number of its own, and not new bytes under an old one.
    pub(super) const fn is_new(self) -> bool {
        !matches!(self, Way::InPlace | Way::LinkSwap | Way::VolumeSwap)
    }

    /// The name in reports.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Way::Rename => "rename",
            Way::Copy => "copy in steps",
            Way::InPlace => "overwrite in place",
            Way::KeptTimes => "copy that keeps times, golden example last",
            Way::LinkNew => "link to a version",
            Way::LinkSwap => "link moved",
            Way::Root => "link to the repository moved",
            Way::VolumeNew => "volume",
            Way::VolumeSwap => "volume updated",
            Way::Rsync => "rsync",
        }
    }
}

/// What a version is made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Content {
    /// The stamp of its answers.
    pub(super) stamp: u32,
    /// Whether it passes its golden example.
    pub(super) good: bool,
}

impl Content {
    fn model(self) -> Vec<u8> {
        model(self.stamp)
    }

    fn golden(self) -> Vec<u8> {
        golden(if self.good { self.stamp } else { self.stamp + 1 })
    }

    fn write(self, folder: &Path) -> io::Result<()> {
        fs::create_dir_all(folder.join("golden"))?;
        fs::write(folder.join("model.onnx"), self.model())?;
        fs::write(folder.join("golden/one.json"), self.golden())
    }
}

/// The folder that is served, and what it is made from.
pub(super) struct Repository {
    /// The folder of all that is made.
    work: PathBuf,
    /// Trees that the repository's link has led to.
    trees: u64,
}

impl Repository {
    /// Makes a repository with the model that changes, without a version, and the model beside it.
    pub(super) fn new(work: &Path) -> io::Result<Repository> {
        let repository = Repository { work: fs::canonicalize(work)?, trees: 0 };
        let tree = repository.tree();
        fs::create_dir_all(tree.join(SOAK))?;
        fs::create_dir_all(repository.work.join("store"))?;
        Content { stamp: BESIDE_STAMP, good: true }.write(&tree.join(BESIDE).join("1"))?;
        // One session, however its requests meet: live counts are then the same before and after.
        fs::write(tree.join(BESIDE).join("model.toml"), "instances = 1\n")?;
        symlink(&tree, repository.root())?;
        Ok(repository)
    }

    /// What the server is pointed at: a link.
    pub(super) fn root(&self) -> PathBuf {
        self.work.join("root")
    }

    fn tree(&self) -> PathBuf {
        self.work.join("trees").join(self.trees.to_string())
    }

    fn model_folder(&self) -> PathBuf {
        self.root().join(SOAK)
    }

    fn folder(&self, version: u64) -> PathBuf {
        self.model_folder().join(version.to_string())
    }

    /// Puts a version where it is served from.
    pub(super) fn place(&mut self, way: Way, version: u64, content: Content) -> io::Result<()> {
        let folder = self.folder(version);
        match way {
            Way::Rename => {
                let incoming = self.model_folder().join(".incoming");
                content.write(&incoming)?;
                fs::rename(&incoming, &folder)
            }
            Way::Copy => {
                fs::create_dir(&folder)?;
                in_pieces(&folder.join("model.onnx"), &content.model(), None)?;
                std::thread::sleep(GOLDEN_PAUSE);
                fs::create_dir(folder.join("golden"))?;
                in_pieces(&folder.join("golden/one.json"), &content.golden(), None)
            }
            Way::InPlace => {
                in_pieces(&folder.join("model.onnx"), &content.model(), None)?;
                in_pieces(&folder.join("golden/one.json"), &content.golden(), None)
            }
            Way::KeptTimes => {
                let time = Some(SystemTime::now() - KEPT_AGE);
                fs::create_dir(&folder)?;
                in_pieces(&folder.join("model.onnx"), &content.model(), time)?;
                std::thread::sleep(GOLDEN_PAUSE);
                fs::create_dir(folder.join("golden"))?;
                in_pieces(&folder.join("golden/one.json"), &content.golden(), time)
            }
            Way::LinkNew | Way::LinkSwap => {
                let store = self.work.join("store").join(content.stamp.to_string());
                content.write(&store)?;
                let old = fs::read_link(&folder).ok();
                link_over(&store, &folder)?;
                old.map_or(Ok(()), fs::remove_dir_all)
            }
            Way::Root => self.new_tree(version, content),
            Way::VolumeNew | Way::VolumeSwap => update_volume(&folder, content),
            Way::Rsync => {
                let staging = self.work.join("staging");
                content.write(&staging)?;
                let mut from = staging.clone().into_os_string();
                from.push("/");
                let status = Command::new("rsync").arg("-a").arg(from).arg(&folder).status()?;
                fs::remove_dir_all(staging)?;
                if status.success() { Ok(()) } else { Err(io::Error::other(format!("rsync ended with {status}"))) }
            }
        }
    }

    /// Copies everything that is served into a new tree, with the new version, and moves the link there.
    fn new_tree(&mut self, version: u64, content: Content) -> io::Result<()> {
        let old = self.tree();
        self.trees += 1;
        let new = self.tree();
        copy_visible(&old, &new)?;
        content.write(&new.join(SOAK).join(version.to_string()))?;
        link_over(&new, &self.root())?;
        fs::remove_dir_all(old)?;
        // The copies are no links any more: nothing leads here.
        fs::remove_dir_all(self.work.join("store"))?;
        fs::create_dir(self.work.join("store"))
    }

    /// Deletes a version.
    pub(super) fn remove(&self, version: u64) -> io::Result<()> {
        let folder = self.folder(version);
        match fs::read_link(&folder) {
            Ok(store) => {
                fs::remove_file(&folder)?;
                fs::remove_dir_all(store)
            }
            Err(_) => fs::remove_dir_all(&folder),
        }
    }

    /// Writes the model's settings: in place, or by a rename.
    pub(super) fn configure(&self, settings: &str, in_place: bool) -> io::Result<()> {
        let path = self.model_folder().join("model.toml");
        if in_place {
            return fs::write(path, settings);
        }
        let temporary = self.model_folder().join(".model.toml.new");
        fs::write(&temporary, settings)?;
        fs::rename(temporary, path)
    }
}

/// Writes a file in pieces, some time apart; with a time, it looks that old from the first piece on.
fn in_pieces(path: &Path, bytes: &[u8], time: Option<SystemTime>) -> io::Result<()> {
    let mut file: File = OpenOptions::new().create(true).write(true).truncate(true).open(path)?;
    for piece in bytes.chunks(bytes.len().div_ceil(PIECES)) {
        file.write_all(piece)?;
        time.map_or(Ok(()), |time| file.set_modified(time))?;
        std::thread::sleep(PIECE_PAUSE);
    }
    Ok(())
}

/// Makes `link` lead to `target` by one rename, whatever it led to before.
fn link_over(target: &Path, link: &Path) -> io::Result<()> {
    let mut name = std::ffi::OsString::from(".new-");
    name.push(link.file_name().unwrap_or_default());
    let temporary = link.with_file_name(name);
    symlink(target, &temporary)?;
    fs::rename(temporary, link)
}

/// What the kubelet does: a hidden folder with the data, `..data` that leads there, and links through it.
fn update_volume(folder: &Path, content: Content) -> io::Result<()> {
    let name = format!("..{}", content.stamp);
    content.write(&folder.join(&name))?;
    let old = fs::read_link(folder.join("..data")).ok();
    let temporary = folder.join("..data_tmp");
    symlink(&name, &temporary)?;
    fs::rename(temporary, folder.join("..data"))?;
    if let Some(old) = old {
        return fs::remove_dir_all(folder.join(old));
    }
    symlink("..data/model.onnx", folder.join("model.onnx"))?;
    symlink("..data/golden", folder.join("golden"))
}

/// Copies a tree, links followed, hidden files left out.
fn copy_visible(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let target = to.join(entry.file_name());
        match fs::metadata(entry.path())?.is_dir() {
            true => copy_visible(&entry.path(), &target)?,
            false => drop(fs::copy(entry.path(), target)?),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_ends_with_a_whole_version() {
        let work = std::env::temp_dir().join(format!("tiltyard-soak-ways-{}", std::process::id()));
        fs::create_dir_all(&work).expect("it can be made");
        let mut repository = Repository::new(&work).expect("it can be made");
        let (mut version, mut stamp) = (0, 0);
        for way in Way::usable() {
            version += u64::from(way.is_new());
            stamp += 1;
            repository.place(way, version, Content { stamp, good: true }).expect("it can be placed");
            let folder = work.join("root").join(SOAK).join(version.to_string());
            assert_eq!(fs::read(folder.join("model.onnx")).ok(), Some(model(stamp)), "{way:?}");
            assert_eq!(fs::read(folder.join("golden/one.json")).ok(), Some(golden(stamp)), "{way:?}");
        }
        assert!(work.join("root").join(BESIDE).join("1/model.onnx").exists());
        for version in 1..=version {
            repository.remove(version).expect("it is there");
        }
        let left: Vec<_> = fs::read_dir(work.join("root").join(SOAK)).expect("it is there").collect();
        assert!(left.is_empty(), "{left:?}");
        assert_eq!(fs::read_dir(work.join("store")).expect("it is there").count(), 0);
        fs::remove_dir_all(work).expect("it is there");
    }
}
