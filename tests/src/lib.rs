//! What is in this repository? The files that people wrote, and the packages that cargo sees.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Folders with nothing that people wrote.
const SKIPPED: &[&str] = &["target", "dist", "__pycache__"];

/// The folder of the whole repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this crate is in a folder of the repository").to_owned()
}

/// Every file under `folder` of the repository, relative to its root, sorted; `""` stands for all. Hidden folders and
/// what builds leave are passed over. Panics where a folder cannot be read.
pub fn files(folder: &str) -> Vec<PathBuf> {
    let root = root();
    let mut found = Vec::new();
    let mut waiting = vec![root.join(folder)];
    while let Some(folder) = waiting.pop() {
        let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        for entry in entries {
            let entry = entry.expect("an entry can be read");
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.file_type().expect("an entry has a type").is_dir() {
                if !name.starts_with('.') && !SKIPPED.contains(&name.as_str()) {
                    waiting.push(entry.path());
                }
            } else {
                found.push(entry.path().strip_prefix(&root).expect("it is below the root").to_owned());
            }
        }
    }
    found.sort();
    found
}

/// The text of a file of the repository. Panics where it cannot be read.
pub fn text(path: &Path) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What another package needs of this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dependency {
    /// The package's name.
    pub name: String,
    /// Whether only tests and benches need it.
    pub for_tests: bool,
}

/// A package, ours or not.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its licence expression, where it has one.
    pub licence: Option<String>,
    /// Where it comes from; `None` for a folder of this repository.
    pub source: Option<String>,
    /// The folder of its manifest.
    pub folder: PathBuf,
    /// What it says that it needs.
    pub dependencies: Vec<Dependency>,
}

impl Package {
    /// Whether it is a crate of this workspace.
    pub fn is_ours(&self) -> bool {
        self.source.is_none()
    }
}

/// All packages that a build for `targets` takes, those of the workspace among them. Asks cargo; panics where it fails.
pub fn packages(targets: &[&str]) -> Vec<Package> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["metadata", "--format-version", "1", "--locked"]).current_dir(root());
    cargo.args(targets.iter().flat_map(|target| ["--filter-platform", target]));
    let output = cargo.output().expect("cargo starts");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo writes JSON");
    metadata["packages"].as_array().expect("a list of packages").iter().map(package).collect()
}

fn package(value: &Value) -> Package {
    let text = |key: &str| value[key].as_str().map(str::to_owned);
    let manifest = PathBuf::from(text("manifest_path").unwrap_or_default());
    let dependencies = value["dependencies"].as_array().into_iter().flatten();
    Package {
        name: text("name").unwrap_or_default(),
        version: text("version").unwrap_or_default(),
        licence: text("license"),
        source: text("source"),
        folder: manifest.parent().map(Path::to_owned).unwrap_or_default(),
        dependencies: dependencies
            .map(|dependency| Dependency {
                name: dependency["name"].as_str().unwrap_or_default().to_owned(),
                for_tests: dependency["kind"] == "dev",
            })
            .collect(),
    }
}
