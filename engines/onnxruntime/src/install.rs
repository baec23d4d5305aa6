//! How does a fresh machine get ONNX Runtime's library, whole and unforged?
//!
//! `pip` downloads the wheel, because it knows the user's index, proxy and certificates; without a network the wheel
//! is given as a file. Its digest must be one of those pinned in the source. The library and its licences are then
//! unpacked into a folder beside the target, which takes its name in one step: a target that exists is complete.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tiltyard_types::Digest;
use zip::ZipArchive;

use crate::python;
use crate::releases::{DEFAULT_VERSION, PYTHON_VERSION, RELEASES, Release};
use crate::version::Version;

/// How often the download is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Bytes handled between two reports of progress.
const CHUNK_BYTES: usize = 1 << 18;

/// The last bytes of `pip`'s complaint that are passed on.
const COMPLAINT_BYTES_MAX: usize = 2_000;

/// What to install and where.
#[derive(Clone, Debug, Default)]
pub struct InstallOptions {
    /// The server's data folder; the library goes into [`default_library_dir`] of it.
    pub data_dir: PathBuf,
    /// The version; `None` means the newest that is pinned.
    pub version: Option<String>,
    /// A wheel that is here already, for a machine without a network.
    pub wheel: Option<PathBuf>,
}

/// How far the installation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub step: Step,
    /// Bytes done.
    pub done_bytes: u64,
    /// Bytes in all.
    pub total_bytes: u64,
}

/// The steps of an installation, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// `pip` downloads the wheel.
    Download,
    /// The wheel's digest is computed.
    Verify,
    /// The library is unpacked.
    Unpack,
}

/// What was installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// The version.
    pub version: String,
    /// The library.
    pub library: PathBuf,
    /// Whether it had been there before, so that nothing was done.
    pub was_there: bool,
}

/// Why nothing was installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// No digest is pinned for this version on this machine.
    #[error("ONNX Runtime {version} for {platform} is not among the releases this build can verify: {known}")]
    UnknownRelease {
        /// The version that was asked for.
        version: String,
        /// This machine.
        platform: String,
        /// What can be had here.
        known: String,
    },
    /// There is no interpreter, or it has no `pip`.
    #[error(
        "{reason}; install pip, or download {wheel} from https://pypi.org/project/onnxruntime/{version}/#files on \
         another machine and pass it with --wheel"
    )]
    NoPip {
        /// What is missing.
        reason: String,
        /// The file to download.
        wheel: String,
        /// Its version.
        version: String,
    },
    /// `pip` could not get the wheel.
    #[error(
        "pip could not download {wheel}: {complaint}\ncheck the network and pip's index (`pip config list`), or \
         download the file on another machine and pass it with --wheel"
    )]
    Download {
        /// The file that was asked for.
        wheel: String,
        /// The end of what `pip` said.
        complaint: String,
    },
    /// The bytes are not those of the release.
    #[error(
        "{path} is not the {wheel} that was published: its SHA-256 is {actual}, expected {expected}; nothing was \
         installed. Download the file again, and if it stays so, do not trust its source"
    )]
    Digest {
        /// The file.
        path: PathBuf,
        /// What it should be.
        wheel: String,
        /// The pinned digest.
        expected: String,
        /// The digest found.
        actual: Digest,
    },
    /// The wheel cannot be unpacked.
    #[error("{path} is not a wheel with ONNX Runtime's library: {reason}")]
    Wheel {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The file system refused.
    #[error("{action} {path}: {error}")]
    Io {
        /// What was being done, such as "cannot write".
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// The folder under the data folder that holds one folder per installed version.
pub fn default_library_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("lib")
}

/// Installs the library, unless that version is there already. Blocks for as long as the download takes.
pub fn install(options: InstallOptions, progress: &mut dyn FnMut(Progress)) -> Result<Installed, InstallError> {
    let version = options.version.as_deref().unwrap_or(DEFAULT_VERSION);
    let release = pinned(version)?;
    let python = python::on_path(std::env::var_os("PATH").as_ref());
    install_release(release, &options, python.as_deref(), progress)
}

/// The pinned release for this machine.
fn pinned(version: &str) -> Result<&'static Release, InstallError> {
    let here = std::env::consts::ARCH;
    let is_linux = cfg!(target_os = "linux");
    let found = RELEASES.iter().find(|release| is_linux && release.version == version && release.arch == here);
    found.ok_or_else(|| {
        let known: Vec<&str> =
            RELEASES.iter().filter(|release| is_linux && release.arch == here).map(|release| release.version).collect();
        InstallError::UnknownRelease {
            version: version.chars().take(40).collect(),
            platform: format!("{} {here}", std::env::consts::OS),
            known: if known.is_empty() { "none for this machine".into() } else { known.join(", ") },
        }
    })
}

fn install_release(
    release: &Release,
    options: &InstallOptions,
    python: Option<&Path>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Installed, InstallError> {
    let parent = default_library_dir(&options.data_dir);
    let target = parent.join(format!("onnxruntime-{}", release.version));
    let installed = |was_there: bool| -> Option<Installed> {
        Some(Installed { version: release.version.into(), library: library_in(&target)?, was_there })
    };
    if let Some(installed) = installed(true) {
        return Ok(installed);
    }
    fs::create_dir_all(&parent).map_err(failed("cannot create", &parent))?;
    // Beside the target, so that what is in it can be moved there in one step. Removed when it goes out of scope.
    let scratch = tempfile::Builder::new().prefix(".onnxruntime-").tempdir_in(&parent);
    let scratch = scratch.map_err(failed("cannot create a folder in", &parent))?;
    let wheel = match &options.wheel {
        Some(wheel) => wheel.clone(),
        None => download(release, python, scratch.path(), progress)?,
    };
    verify(&wheel, release, progress)?;
    let unpacked = scratch.path().join("unpacked");
    fs::create_dir(&unpacked).map_err(failed("cannot create", &unpacked))?;
    unpack(&wheel, &unpacked, progress)?;
    match fs::rename(&unpacked, &target) {
        // Another process may have been faster; what it installed passed the same checks.
        Err(error) if installed(true).is_none() => Err(failed("cannot move the library to", &target)(error)),
        _ => installed(false).ok_or_else(|| InstallError::Wheel { path: wheel, reason: "the library is gone".into() }),
    }
}

/// The library in an installed version's folder.
fn library_in(folder: &Path) -> Option<PathBuf> {
    let names = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.file_name());
    let name = names.into_iter().find(|name| name.to_str().and_then(Version::in_file_name).is_some())?;
    Some(folder.join(name))
}

/// Has the `pip` of `python` put the wheel into `folder`.
fn download(
    release: &Release,
    python: Option<&Path>,
    folder: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<PathBuf, InstallError> {
    let no_pip =
        |reason: String| InstallError::NoPip { reason, wheel: release.wheel(), version: release.version.to_owned() };
    let python =
        python.ok_or_else(|| no_pip("there is no python3 on PATH, whose pip would download the wheel".into()))?;
    let downloads = folder.join("download");
    fs::create_dir(&downloads).map_err(failed("cannot create", &downloads))?;
    let complaints = folder.join("pip.log");
    let log = File::create(&complaints).map_err(failed("cannot write", &complaints))?;
    let mut pip = Command::new(python)
        .args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-cache-dir"])
        .args(["--only-binary=:all:", "--implementation", "cp", "--abi", "cp312", "--retries", "2"])
        .args(["--python-version", PYTHON_VERSION, "--platform", &release.platform(), "--dest"])
        .arg(&downloads)
        .arg(format!("onnxruntime=={}", release.version))
        // `pip` writes into its temporary folder first; there the file can be seen to grow.
        .env("TMPDIR", folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .map_err(|error| no_pip(format!("{} could not be started: {error}", python.display())))?;
    let total_bytes = release.size_bytes;
    let status = loop {
        let waited = pip.try_wait().map_err(failed("cannot wait for", python))?;
        let done_bytes = bytes_below(folder).min(total_bytes);
        progress(Progress { step: Step::Download, done_bytes, total_bytes });
        match waited {
            Some(status) => break status,
            None => std::thread::sleep(POLL_INTERVAL),
        }
    };
    let wheel = downloads.join(release.wheel());
    if status.success() && wheel.is_file() {
        return Ok(wheel);
    }
    let complaint = tail(&complaints);
    if complaint.contains("No module named pip") {
        return Err(no_pip(format!("{} has no pip", python.display())));
    }
    let complaint = if complaint.is_empty() { format!("it ended with {status}") } else { complaint };
    Err(InstallError::Download { wheel: release.wheel(), complaint })
}

/// Bytes of all files in and below `folder`; files that vanish meanwhile count nothing.
fn bytes_below(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}

/// The end of a log, as far as it is text.
fn tail(path: &Path) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    let start = bytes.len().saturating_sub(COMPLAINT_BYTES_MAX);
    String::from_utf8_lossy(&bytes[start..]).trim().to_owned()
}

/// Fails unless the file's digest is the pinned one.
fn verify(wheel: &Path, release: &Release, progress: &mut dyn FnMut(Progress)) -> Result<(), InstallError> {
    let unreadable = failed("cannot read", wheel);
    let mut file = File::open(wheel).map_err(&unreadable)?;
    let total_bytes = file.metadata().map_err(&unreadable)?.len();
    let mut hasher = Sha256::new();
    copy(&mut file, &mut HashWriter(&mut hasher), Step::Verify, total_bytes, progress).map_err(&unreadable)?;
    let actual = Digest::new(hasher.finalize().into());
    if actual.to_string() == release.sha256 {
        return Ok(());
    }
    let expected = release.sha256.to_owned();
    Err(InstallError::Digest { path: wheel.into(), wheel: release.wheel(), expected, actual })
}

struct HashWriter<'a>(&'a mut Sha256);

impl Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes the library and its licences into `folder`.
fn unpack(wheel: &Path, folder: &Path, progress: &mut dyn FnMut(Progress)) -> Result<(), InstallError> {
    let broken = |reason: String| InstallError::Wheel { path: wheel.into(), reason };
    let file = File::open(wheel).map_err(failed("cannot read", wheel))?;
    let mut archive = ZipArchive::new(file).map_err(|error| broken(error.to_string()))?;
    let mut has_library = false;
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).map_err(|error| broken(error.to_string()))?;
        let name = entry.name().map_err(|error| broken(error.to_string()))?.into_owned();
        let Some(name) = wanted_name(&name) else { continue };
        let path = folder.join(name);
        let mut file = File::create(&path).map_err(failed("cannot write", &path))?;
        let total_bytes = entry.size();
        copy(&mut entry, &mut file, Step::Unpack, total_bytes, progress)
            .and_then(|()| file.sync_all())
            .map_err(failed("cannot unpack", &path))?;
        has_library |= Version::in_file_name(name).is_some();
    }
    if has_library { Ok(()) } else { Err(broken("it has no onnxruntime/capi/libonnxruntime.so.*".into())) }
}

/// The plain file name of an entry that is to be unpacked; it has no folder in it.
fn wanted_name(entry: &str) -> Option<&str> {
    let inside = entry.strip_prefix("onnxruntime/")?;
    if matches!(inside, "LICENSE" | "ThirdPartyNotices.txt") {
        return Some(inside);
    }
    inside.strip_prefix("capi/").filter(|name| Version::in_file_name(name).is_some() && !name.contains('/'))
}

/// Copies everything, reporting on the way.
fn copy(
    from: &mut dyn Read,
    to: &mut dyn Write,
    step: Step,
    total_bytes: u64,
    progress: &mut dyn FnMut(Progress),
) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut done_bytes = 0;
    loop {
        let read = match from.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        to.write_all(&chunk[..read])?;
        done_bytes += read as u64;
        progress(Progress { step, done_bytes, total_bytes });
    }
}

fn failed(action: &'static str, path: &Path) -> impl Fn(io::Error) -> InstallError + use<> {
    let path = path.to_path_buf();
    move |error| InstallError::Io { action, path: path.clone(), error }
}

#[cfg(test)]
mod tests;
