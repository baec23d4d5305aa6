//! Where on this machine is ONNX Runtime's library?
//!
//! These places are looked at in turn, and the first library that is new enough is taken:
//!
//! 1. the path given by `--ort-lib` or the configuration (a file, or a folder that holds one);
//! 2. `ORT_DYLIB_PATH`, likewise;
//! 3. `<data dir>/lib/onnxruntime-<version>/`, newest first: what `tiltyard engine install` brings;
//! 4. `$VIRTUAL_ENV/lib/python*/site-packages/onnxruntime/capi/`;
//! 5. the same folder of the environment that the running executable was installed into, for a wheel that put
//!    `tiltyard` into `<env>/bin/`;
//! 6. the package folders that `python3` names, when there is one on `PATH`;
//! 7. `LD_LIBRARY_PATH` and the system's library folders.
//!
//! The first two are orders, not hints: when one is given and cannot be used, nothing else is tried.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::library;
use crate::python;
use crate::version::{OLDEST_VERSION, Version};

/// Everything the search depends on, so that it can be tried without touching the process's environment.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// The path from `--ort-lib` or the configuration.
    pub explicit: Option<PathBuf>,
    /// The value of `ORT_DYLIB_PATH`.
    pub variable: Option<PathBuf>,
    /// The server's data folder.
    pub data_dir: Option<PathBuf>,
    /// The value of `VIRTUAL_ENV`.
    pub virtual_env: Option<PathBuf>,
    /// The running executable.
    pub executable: Option<PathBuf>,
    /// The interpreter to ask for its package folders.
    pub python: Option<PathBuf>,
    /// Folders to look into last.
    pub system: Vec<PathBuf>,
}

impl Places {
    /// The places of this process. Reads the environment once.
    pub fn of_process(explicit: Option<PathBuf>, data_dir: Option<PathBuf>) -> Places {
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let mut system: Vec<PathBuf> = variable("LD_LIBRARY_PATH")
            .iter()
            .flat_map(std::env::split_paths)
            .filter(|path| path.is_absolute())
            .collect();
        let multiarch = format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
        system.extend(["/usr/local/lib", "/usr/local/lib64", &multiarch, "/usr/lib64", "/usr/lib"].map(PathBuf::from));
        system.push("/opt/onnxruntime/lib".into());
        Places {
            explicit,
            variable: variable("ORT_DYLIB_PATH").map(PathBuf::from),
            data_dir,
            virtual_env: variable("VIRTUAL_ENV").map(PathBuf::from),
            executable: std::env::current_exe().ok(),
            python: python::on_path(variable("PATH").as_ref()),
            system,
        }
    }
}

/// How a library came to be considered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// `--ort-lib` or the configuration.
    Explicit,
    /// `ORT_DYLIB_PATH`.
    Variable,
    /// Brought by `tiltyard engine install`.
    Installed,
    /// The activated virtual environment.
    VirtualEnv,
    /// The environment that this executable was installed into.
    OwnEnvironment,
    /// The package folders of `python3`.
    Python,
    /// The system's library folders.
    System,
}

impl Source {
    /// All sources, in the order of the search.
    pub const ALL: [Source; 7] = [
        Source::Explicit,
        Source::Variable,
        Source::Installed,
        Source::VirtualEnv,
        Source::OwnEnvironment,
        Source::Python,
        Source::System,
    ];

    /// Whether the operator named this library, so that no other may take its place.
    fn is_order(self) -> bool {
        matches!(self, Source::Explicit | Source::Variable)
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Source::Explicit => "--ort-lib",
            Source::Variable => "ORT_DYLIB_PATH",
            Source::Installed => "engine install",
            Source::VirtualEnv => "VIRTUAL_ENV",
            Source::OwnEnvironment => "this program's environment",
            Source::Python => "python3's packages",
            Source::System => "system libraries",
        })
    }
}

/// What was decided about a candidate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// This one is to be loaded.
    Taken,
    /// It would do, but an earlier one was taken.
    Spare,
    /// The functions called here are not all in it.
    TooOld,
    /// It cannot be used, or its place could not be searched; the text says why.
    Unusable(String),
}

/// A library, or a place without one, and what was decided about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The library, or the place that was searched.
    pub path: PathBuf,
    /// How it came to be considered.
    pub source: Source,
    /// Its version, where its name or its folder's tells.
    pub version: Option<Version>,
    /// Taken or not, and why.
    pub verdict: Verdict,
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        let version = self.version.map_or_else(|| "unknown version".to_owned(), |version| version.to_string());
        match &self.verdict {
            Verdict::Taken => write!(f, "{version} at {path} ({}) is taken", self.source),
            Verdict::Spare => write!(f, "{version} at {path} ({}) would do", self.source),
            Verdict::TooOld => write!(f, "{}", too_old(&version, &self.path)),
            Verdict::Unusable(why) => write!(f, "{path} ({}): {why}", self.source),
        }
    }
}

/// The library to load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The library's file.
    pub path: PathBuf,
    /// How it was found.
    pub source: Source,
}

/// Every candidate that was examined, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Search {
    /// The candidates.
    pub candidates: Vec<Candidate>,
}

impl Search {
    /// The library to load, if any will do.
    pub fn found(&self) -> Option<Found> {
        let taken = self.candidates.iter().find(|candidate| candidate.verdict == Verdict::Taken)?;
        Some(Found { path: taken.path.clone(), source: taken.source })
    }

    /// One sentence per thing that went wrong, and what to do; for when nothing was found.
    pub fn advice(&self) -> String {
        if self.candidates.is_empty() {
            return "ONNX Runtime was not found on this machine: `tiltyard engine install onnxruntime` brings it"
                .into();
        }
        self.candidates.iter().map(Candidate::to_string).collect::<Vec<_>>().join("; ")
    }
}

/// Finds the library to load: examines the places in order and stops at the first that will do.
///
/// Blocks on the file system, and for up to two seconds on `python3` when no earlier place had a library.
pub fn locate(places: &Places) -> Search {
    search(places, true)
}

/// Examines every place, for a listing. Blocks like [`locate`].
pub fn survey(places: &Places) -> Search {
    search(places, false)
}

fn search(places: &Places, stop_when_found: bool) -> Search {
    let mut found = Search::default();
    let mut taken = false;
    for source in Source::ALL {
        for mut candidate in candidates(places, source) {
            if found.candidates.iter().any(|earlier| earlier.path == candidate.path) {
                continue;
            }
            if candidate.verdict == Verdict::Spare && !taken {
                candidate.verdict = Verdict::Taken;
                taken = true;
            }
            found.candidates.push(candidate);
            if taken && stop_when_found {
                return found;
            }
        }
        // An order that cannot be obeyed ends the search, and so does one that was.
        let ordered = found.candidates.iter().any(|candidate| candidate.source == source) && source.is_order();
        if ordered && (stop_when_found || !taken) {
            return found;
        }
    }
    found
}

/// The candidates of one source, each as if it were the only one.
fn candidates(places: &Places, source: Source) -> Vec<Candidate> {
    let folders = match source {
        Source::Explicit => return ordered(places.explicit.as_deref(), source),
        Source::Variable => return ordered(places.variable.as_deref(), source),
        Source::Installed => places.data_dir.as_deref().map(installed_folders).unwrap_or_default(),
        Source::VirtualEnv => places.virtual_env.as_deref().map(environment_folders).unwrap_or_default(),
        Source::OwnEnvironment => {
            // `<env>/bin/tiltyard` → `<env>`.
            let environment = places.executable.as_deref().and_then(Path::parent).and_then(Path::parent);
            environment.map(environment_folders).unwrap_or_default()
        }
        Source::Python => {
            let Some(python) = &places.python else { return Vec::new() };
            match python::package_folders(python) {
                Ok(folders) => folders.into_iter().map(|folder| folder.join("onnxruntime/capi")).collect(),
                Err(why) => return vec![unusable(python, source, why)],
            }
        }
        Source::System => places.system.clone(),
    };
    folders.iter().flat_map(|folder| libraries(folder)).map(|path| judge(path, source)).collect()
}

/// The candidate that the operator named, which is listed even when it is not there.
fn ordered(path: Option<&Path>, source: Source) -> Vec<Candidate> {
    let Some(path) = path else { return Vec::new() };
    if path.is_dir() {
        let inside: Vec<Candidate> = libraries(path).into_iter().map(|path| judge(path, source)).collect();
        if inside.is_empty() {
            return vec![unusable(path, source, "the folder holds no libonnxruntime.so".into())];
        }
        return inside;
    }
    if !path.is_file() {
        return vec![unusable(path, source, "there is no such file".into())];
    }
    vec![judge(path.to_path_buf(), source)]
}

fn unusable(path: &Path, source: Source, why: String) -> Candidate {
    Candidate { path: path.to_path_buf(), source, version: None, verdict: Verdict::Unusable(why) }
}

/// Judges a file by its name, or where that does not tell the version, by what the library itself says.
fn judge(path: PathBuf, source: Source) -> Candidate {
    let version = match version_of(&path) {
        Some(version) => Some(version),
        None => match library::open(&path) {
            Ok(opened) => opened.version.parse().ok(),
            Err(error) => return unusable(&path, source, error.to_string()),
        },
    };
    let verdict = match version {
        Some(version) if !version.is_usable() => Verdict::TooOld,
        _ => Verdict::Spare,
    };
    Candidate { path, source, version, verdict }
}

/// The version in the file's name, or in the name of the file that a link leads to.
fn version_of(path: &Path) -> Option<Version> {
    let named = |path: &Path| Version::in_file_name(path.file_name()?.to_str()?);
    named(path).or_else(|| named(&std::fs::canonicalize(path).ok()?))
}

/// `<data dir>/lib/onnxruntime-<version>`, newest first.
fn installed_folders(data_dir: &Path) -> Vec<PathBuf> {
    let mut versions: Vec<(Version, PathBuf)> = entries(&crate::install::default_library_dir(data_dir))
        .into_iter()
        .filter_map(|(name, path)| Some((name.to_str()?.strip_prefix("onnxruntime-")?.parse().ok()?, path)))
        .collect();
    versions.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    versions.into_iter().map(|(_, path)| path).collect()
}

/// `<environment>/lib/python*/site-packages/onnxruntime/capi`.
fn environment_folders(environment: &Path) -> Vec<PathBuf> {
    entries(&environment.join("lib"))
        .into_iter()
        .filter(|(name, _)| name.to_str().is_some_and(|name| name.starts_with("python")))
        .map(|(_, path)| path.join("site-packages/onnxruntime/capi"))
        .collect()
}

/// The libraries in `folder`, newest first; one file under several names counts once.
fn libraries(folder: &Path) -> Vec<PathBuf> {
    let is_library = |name: &OsString| {
        let name = name.to_str().unwrap_or_default();
        name == "libonnxruntime.so" || name.starts_with("libonnxruntime.so.")
    };
    let mut found: Vec<PathBuf> = entries(folder)
        .into_iter()
        .filter(|(name, path)| is_library(name) && path.is_file())
        .map(|(_, path)| path)
        .collect();
    // The full name sorts first among several names of one file, so that it is the one shown.
    found.sort_by_key(|path| std::cmp::Reverse((version_of(path), path.as_os_str().len())));
    let mut seen = Vec::new();
    found.retain(|path| {
        let real = std::fs::canonicalize(path).unwrap_or_else(|_| path.clone());
        let is_new = !seen.contains(&real);
        seen.push(real);
        is_new
    });
    found
}

/// Names and paths in `folder` by name; a folder that is missing or closed to us has none.
fn entries(folder: &Path) -> Vec<(OsString, PathBuf)> {
    let Ok(read) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut entries: Vec<_> = read.flatten().map(|entry| (entry.file_name(), entry.path())).collect();
    entries.sort();
    entries
}

/// The sentence for a library that lacks functions called here.
pub(crate) fn too_old(version: &str, path: &Path) -> String {
    format!(
        "ONNX Runtime {version} at {} is too old: {}.{} or newer is needed; `tiltyard engine install onnxruntime` \
         brings one",
        path.display(),
        OLDEST_VERSION.major,
        OLDEST_VERSION.minor
    )
}

#[cfg(test)]
mod tests;
