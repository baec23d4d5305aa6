//! Which models and versions lie in a folder?
//!
//! The layout is Triton's: `<root>/<name>/<version>/model.onnx`. Looking never fails as a whole: what cannot be
//! served is a problem with its place and its cure, and harms no neighbour.

pub mod batching;
pub mod listing;
pub mod pbtxt;
pub mod policy;
pub mod rest;
pub mod settings;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};

use crate::artifact::{Files, is_temporary};

use listing::{Fingerprint, Listing};

use crate::explain::BACKGROUND_FILE;

/// The file that holds the graph, unless the settings name another.
pub const MODEL_FILE: &str = "model.onnx";

/// Model-level files that shape answers: they are part of each version's artifact.
pub const SETTINGS_FILES: [&str; 2] = ["model.toml", "config.pbtxt"];

/// What a look at the root found.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Scan {
    /// Models by name.
    pub models: BTreeMap<String, FoundModel>,
    /// What lies there but cannot be served.
    pub problems: Vec<Problem>,
    /// Models of which something could not be read this time, and why: what serves of them shall go on.
    pub unreadable: BTreeMap<String, String>,
}

/// A model's folder.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct FoundModel {
    /// The model-level files that are there, by name: settings, and the label files that these name.
    pub settings_files: Files,
    /// The versions by number.
    pub versions: BTreeMap<u64, FoundVersion>,
    /// Those of them that came into a registry: no policy chooses them, only plans do.
    pub pushed: BTreeSet<u64>,
}

/// One version's files, unread.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct FoundVersion {
    /// The folder the version lies in.
    pub folder: PathBuf,
    /// The version's own files together with the model-level ones: all that its digest covers.
    pub files: Files,
    /// What all that belongs to it was like when it was looked at.
    pub fingerprint: Fingerprint,
    /// Why its files must not be read; `None` where they may.
    pub refused: Option<String>,
    kind: Kind,
}

/// Where a version's files are to be looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    /// In a folder of a model's folder.
    Numbered { root: PathBuf, model: PathBuf },
    /// In one file that is the whole repository.
    LoneFile(PathBuf),
    /// In a folder with one model that is the whole repository.
    LoneFolder(PathBuf),
}

impl Default for Kind {
    fn default() -> Kind {
        Kind::LoneFolder(PathBuf::new())
    }
}

impl FoundVersion {
    /// The version that lies in this folder, whatever is around it.
    pub fn at(folder: &Path) -> io::Result<FoundVersion> {
        FoundVersion::look(folder, Kind::Numbered { root: folder.to_owned(), model: folder.to_owned() })
    }

    /// What is different in the same place by now, in words; `None` where nothing is.
    pub fn change(&self) -> Option<String> {
        match FoundVersion::look(&self.folder, self.kind.clone()) {
            Ok(now) => self.fingerprint.difference(&now.fingerprint),
            Err(error) => Some(error.to_string()),
        }
    }

    fn look(folder: &Path, kind: Kind) -> io::Result<FoundVersion> {
        let mut listing;
        match &kind {
            Kind::Numbered { root, model } => {
                listing = Listing::within([folder, model, root])?;
                listing.add_folder(folder)?;
                if model != folder {
                    list_settings(model, "../", &mut listing)?;
                }
            }
            Kind::LoneFile(file) => {
                listing = Listing::within([folder])?;
                listing.add_file(MODEL_FILE, file)?;
            }
            Kind::LoneFolder(file) => {
                listing = Listing::within([folder])?;
                listing.add_folder(folder)?;
                listing.files.add(MODEL_FILE, file.clone());
            }
        }
        let Listing { files, fingerprint, refused } = listing;
        Ok(FoundVersion { folder: folder.to_owned(), files, fingerprint, refused, kind })
    }
}

/// Lists the model-level files of a model's folder: those that there may be, and those that `config.pbtxt` names. Fails
/// where one is there that cannot be looked at.
fn list_settings(model: &Path, prefix: &str, listing: &mut Listing) -> io::Result<()> {
    for name in SETTINGS_FILES.into_iter().chain([BACKGROUND_FILE]) {
        listing.add_file(&format!("{prefix}{name}"), &model.join(name))?;
    }
    let config = listing.files.read(&format!("{prefix}config.pbtxt")).and_then(Result::ok);
    for name in config.iter().flat_map(|text| pbtxt::label_files(&String::from_utf8_lossy(text))) {
        listing.add_file(&format!("{prefix}{name}"), &model.join(&name))?;
    }
    Ok(())
}

/// Something that cannot be served, where, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file or folder.
    pub path: PathBuf,
    /// What is wrong and what would cure it.
    pub message: String,
}

impl Problem {
    fn new(path: &Path, message: impl Into<String>) -> Problem {
        Problem { path: path.to_owned(), message: message.into() }
    }

    fn unreadable(path: &Path, error: &io::Error) -> Problem {
        Problem::new(path, format!("cannot be read: {error}"))
    }
}

/// Looks at `root`: a folder of models, a single `.onnx` file, or a folder that holds just one.
///
/// Fails only when the root itself cannot be read.
pub fn scan(root: &Path) -> io::Result<Scan> {
    let mut scan = Scan::default();
    if fs::metadata(root)?.is_file() {
        scan.add_lone_file(root);
        return Ok(scan);
    }
    if let Some(file) = lone_model(root)? {
        scan.add_lone_folder(root, &file);
        return Ok(scan);
    }
    for (name, folder) in subfolders(root)? {
        match scan_model(root, &folder, &mut scan) {
            Ok(Some(model)) => {
                scan.models.insert(name, model);
            }
            Ok(None) => {}
            Err(error) => scan.note_unreadable(name, Problem::unreadable(&folder, &error)),
        }
    }
    Ok(scan)
}

/// Looks at `root`, and at a folder beside it with versions that came into a registry. That they may lie there alone is no
/// failure; where both have a version of the same number, the registry's is the one that there is.
pub fn scan_with(root: &Path, pushed: Option<&Path>) -> io::Result<Scan> {
    let Some(pushed) = pushed.filter(|folder| folder.is_dir()) else { return scan(root) };
    let mut found = match scan(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Scan::default(),
        found => found?,
    };
    for (name, folder) in subfolders(pushed)? {
        match scan_model(pushed, &folder, &mut found) {
            Ok(Some(model)) => found.add_pushed(name, model),
            Ok(None) => {}
            Err(error) => found.note_unreadable(name, Problem::unreadable(&folder, &error)),
        }
    }
    Ok(found)
}

/// Looks at one model's folder. `None` where there is no version to serve.
fn scan_model(root: &Path, folder: &Path, scan: &mut Scan) -> io::Result<Option<FoundModel>> {
    let mut settings = Listing::within([folder, root])?;
    list_settings(folder, "", &mut settings)?;
    let mut model = FoundModel { settings_files: settings.files, ..FoundModel::default() };
    for (name, version_folder) in subfolders(folder)? {
        match name.parse::<u64>() {
            Ok(number) if number > 0 && !name.starts_with('0') => {
                let kind = Kind::Numbered { root: root.to_owned(), model: folder.to_owned() };
                match FoundVersion::look(&version_folder, kind) {
                    Ok(version) => {
                        model.versions.insert(number, version);
                    }
                    Err(error) => {
                        scan.note_unreadable(name_of(folder), Problem::unreadable(&version_folder, &error));
                    }
                }
            }
            _ if name.bytes().all(|byte| byte.is_ascii_digit()) => scan.problems.push(Problem::new(
                &version_folder,
                "not a version: versions are positive integers without leading zeros",
            )),
            _ => {}
        }
    }
    if model.versions.is_empty() {
        scan.problems.push(Problem::new(
            folder,
            format!("no version: expected a numbered folder with the model, such as {}", layout(folder)),
        ));
        return Ok(None);
    }
    Ok(Some(model))
}

impl Scan {
    /// Notes a model of which something is there and cannot be read. That it is gone is more than anybody knows.
    fn note_unreadable(&mut self, model: String, problem: Problem) {
        self.unreadable.insert(model, format!("{}: {}", problem.path.display(), problem.message));
        self.problems.push(problem);
    }

    fn add_pushed(&mut self, name: String, pushed: FoundModel) {
        let model = self.models.entry(name).or_default();
        for (number, version) in pushed.versions {
            if let Some(other) = model.versions.insert(number, version) {
                let message = format!("the registry has another version {number}, which holds: take another number");
                self.problems.push(Problem::new(&other.folder, message));
            }
            model.pushed.insert(number);
        }
    }

    fn add_lone_file(&mut self, file: &Path) {
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let name = file.file_stem().map_or_else(|| "model".into(), |stem| stem.to_string_lossy().into_owned());
        self.add_only_version(name, folder, Kind::LoneFile(file.to_owned()));
    }

    fn add_lone_folder(&mut self, root: &Path, file: &Path) {
        let absolute = fs::canonicalize(root).unwrap_or_else(|_| root.to_owned());
        let name = absolute.file_name().map_or_else(|| "model".into(), |name| name.to_string_lossy().into_owned());
        self.add_only_version(name, root, Kind::LoneFolder(file.to_owned()));
    }

    fn add_only_version(&mut self, name: String, folder: &Path, kind: Kind) {
        let settings = match kind {
            Kind::LoneFolder(_) => Listing::within([folder])
                .and_then(|mut listing| list_settings(folder, "", &mut listing).map(|()| listing)),
            _ => Ok(Listing::default()),
        };
        let found = settings.and_then(|settings| Ok((settings, FoundVersion::look(folder, kind)?)));
        match found {
            Ok((settings, version)) => {
                let versions = BTreeMap::from([(1, version)]);
                self.models
                    .insert(name, FoundModel { settings_files: settings.files, versions, ..FoundModel::default() });
            }
            Err(error) => self.note_unreadable(name, Problem::unreadable(folder, &error)),
        }
    }
}

/// The one `.onnx` file directly in `root`, if there is exactly one and no folder looks like a model.
fn lone_model(root: &Path) -> io::Result<Option<PathBuf>> {
    let models = onnx_files(root)?;
    let [only] = models.as_slice() else { return Ok(None) };
    let holds_models = subfolders(root)?.iter().any(|(_, folder)| {
        subfolders(folder).is_ok_and(|inner| inner.iter().any(|(name, _)| name.parse::<u64>().is_ok()))
    });
    Ok((!holds_models).then(|| only.clone()))
}

/// The `.onnx` files directly in a folder, sorted.
pub fn onnx_files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let hidden = path.file_name().is_some_and(|name| is_temporary(&name.to_string_lossy()));
        if !hidden && path.extension().is_some_and(|extension| extension == "onnx") && may_be(&path, Metadata::is_file)
        {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Folders directly below `folder` by name, and what may be some; hidden ones and those of tools (`__pycache__`) left out.
fn subfolders(folder: &Path) -> io::Result<BTreeMap<String, PathBuf>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        if let Ok(name) = entry.file_name().into_string()
            && !is_temporary(&name)
            && !name.starts_with('_')
            && may_be(&path, Metadata::is_dir)
        {
            found.insert(name, path);
        }
    }
    Ok(found)
}

/// Whether a path leads to such a thing, or to something that cannot be looked at: whoever reads it next says why.
fn may_be(path: &Path, such: impl Fn(&Metadata) -> bool) -> bool {
    match fs::metadata(path) {
        Ok(metadata) => such(&metadata),
        Err(error) => !is_absence(&error),
    }
}

/// Whether nothing is there, as opposed to something that cannot be looked at.
fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn name_of(folder: &Path) -> String {
    folder.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

fn layout(folder: &Path) -> String {
    let name = folder.file_name().map_or_else(|| "model".into(), |name| name.to_string_lossy());
    format!("{name}/1/{MODEL_FILE}")
}

#[cfg(all(test, target_os = "linux"))]
mod whole_tests;

#[cfg(test)]
mod tests {
    use super::*;

    fn make(paths: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for path in paths {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
        root
    }

    #[track_caller]
    fn check(paths: &[&str], served: &[(&str, &[u64])], problems: usize) {
        let root = make(paths);
        let scan = scan(root.path()).unwrap();
        let found: Vec<(&str, Vec<u64>)> =
            scan.models.iter().map(|(name, model)| (name.as_str(), model.versions.keys().copied().collect())).collect();
        let expected: Vec<(&str, Vec<u64>)> =
            served.iter().map(|(name, versions)| (*name, versions.to_vec())).collect();
        assert_eq!(found, expected);
        assert_eq!(scan.problems.len(), problems, "{:?}", scan.problems);
    }

    #[test]
    fn layouts_that_people_have() {
        check(&["a/1/model.onnx", "a/12/model.onnx", "b/3/model.onnx"], &[("a", &[1, 12]), ("b", &[3])], 0);
        check(&["README.md", "make.py", "a/1/model.onnx", ".git/1/x", "__pycache__/1/x"], &[("a", &[1])], 0);
        check(&["a/model.onnx"], &[], 1);
        check(&["a/01/model.onnx", "a/0/model.onnx"], &[], 3);
        check(&["a/1/model.onnx", "a/golden/x.json", "a/latest/model.onnx"], &[("a", &[1])], 0);
    }

    #[test]
    fn a_lone_model_is_version_1() {
        let root = make(&["churn.onnx", "notes.txt"]);
        let by_file = scan(&root.path().join("churn.onnx")).unwrap();
        assert_eq!(by_file.models.keys().collect::<Vec<_>>(), ["churn"]);
        let by_folder = scan(root.path()).unwrap();
        assert_eq!(by_folder.models.len(), 1);
        assert_eq!(by_folder.models.values().next().unwrap().versions.keys().collect::<Vec<_>>(), [&1]);
    }

    #[test]
    fn settings_are_part_of_each_version() {
        let root = make(&["a/model.toml", "a/1/model.onnx", "a/2/model.onnx"]);
        let scan = scan(root.path()).unwrap();
        for version in scan.models["a"].versions.values() {
            assert_eq!(version.files.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["../model.toml", "model.onnx"]);
        }
    }

    /// A link that leads to itself cannot be looked at, not even by root.
    #[cfg(unix)]
    #[test]
    fn what_cannot_be_looked_at_is_not_gone() {
        let check = |looped: &str, expected: &[&str]| {
            let root = make(&["a/1/model.onnx", "a/2/model.onnx", "b/1/model.onnx"]);
            let place = root.path().join(looped);
            drop((fs::remove_dir_all(&place), std::os::unix::fs::symlink(&place, &place)));
            let scan = scan(root.path()).unwrap();
            assert_eq!(scan.unreadable.keys().collect::<Vec<_>>(), expected, "{looped}");
            let reasons = scan.unreadable.values();
            let names_it = |reason: &String| reason.contains("cannot be read: ") && reason.contains("symbolic links");
            assert!(reasons.into_iter().all(names_it), "{:?}", scan.unreadable);
            assert!(scan.problems.len() >= expected.len());
            assert!(scan.models.contains_key("b") || expected == ["b"]);
        };
        check("b", &["b"]);
        check("a", &["a"]);
        check("a/2", &["a"]);
        check("a/2/weights.bin", &["a"]);
        check("a/model.toml", &["a"]);
        // These are nobody's.
        check("a/notes", &[]);
        check("b/1/.unfinished", &[]);
    }

    #[cfg(unix)]
    #[test]
    fn a_lone_model_that_cannot_be_looked_at_is_not_gone() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("churn.onnx");
        std::os::unix::fs::symlink(&file, &file).unwrap();
        let scan = scan(root.path()).unwrap();
        assert!(scan.models.is_empty());
        assert_eq!(scan.unreadable.len(), 1, "{scan:?}");
    }

    #[test]
    fn a_root_that_is_not_there_is_an_error() {
        assert!(scan(Path::new("/nowhere/at/all")).is_err());
    }

    #[test]
    fn a_registrys_versions_come_beside_those_of_the_folder() {
        let (root, registry) =
            (make(&["a/model.toml", "a/1/model.onnx", "a/2/model.onnx"]), make(&["a/2/model.onnx", "b/1/model.onnx"]));
        let found = scan_with(root.path(), Some(registry.path())).unwrap();
        let (a, b) = (&found.models["a"], &found.models["b"]);
        assert_eq!((a.versions.len(), &a.pushed, &b.pushed), (2, &BTreeSet::from([2]), &BTreeSet::from([1])));
        assert_eq!(a.versions[&2].folder, registry.path().join("a/2"), "the registry's holds");
        assert_eq!(a.versions[&1].files.len(), 2);
        assert_eq!(a.versions[&2].files.len(), 1, "settings of the folder are not part of what was pushed");
        assert!(found.problems[0].message.contains("another version 2"), "{:?}", found.problems);
        let alone = scan_with(Path::new("/nowhere/at/all"), Some(registry.path())).unwrap();
        assert_eq!(alone.models.keys().collect::<Vec<_>>(), ["a", "b"]);
        assert!(scan_with(Path::new("/nowhere/at/all"), Some(Path::new("/nowhere/either"))).is_err());
    }
}
