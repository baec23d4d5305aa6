//! Which plans lie in a folder of files, one for each endpoint, and have they come to rest?

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use tiltyard_types::Moment;

use super::file::{self, Said};

/// The largest file that is read.
const BYTES_MAX: u64 = 1 << 20;

/// A folder with `<endpoint>.toml` for each endpoint.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// What each file held at the last look, and since when.
    seen: BTreeMap<String, (String, Moment)>,
    /// Files that are gone, and since when.
    missing: BTreeMap<String, Moment>,
    looked_before: bool,
}

/// What a look found.
#[derive(Debug, Default)]
pub struct Found {
    /// What files at rest say.
    pub said: Vec<Said>,
    /// Endpoints whose files have been gone for long enough.
    pub gone: Vec<String>,
    /// Endpoints whose files are no plans, and why.
    pub unread: BTreeMap<String, String>,
    /// Every endpoint that has a file; `None` where the folder cannot be read.
    pub files: Option<BTreeSet<String>>,
    /// Why the folder cannot be read.
    pub problem: Option<String>,
    /// How long the next file must still rest.
    pub wait: Option<Duration>,
}

impl Folder {
    /// The folder at a path.
    pub fn new(path: PathBuf) -> Folder {
        Folder { path, seen: BTreeMap::new(), missing: BTreeMap::new(), looked_before: false }
    }

    /// Looks at the files. What is there at the first look is taken as it is; later a file must be the same for `settle_time`
    /// before it is read, and as long gone before its endpoint is. `known` are the endpoints that came from files.
    pub fn look<'a>(&mut self, now: Moment, settle_time: Duration, known: impl Iterator<Item = &'a String>) -> Found {
        let mut found = Found::default();
        let texts = match self.texts(&mut found.unread) {
            Ok(texts) => texts,
            Err(error) => {
                // What holds goes on: a folder out of reach is no reason to forget its plans.
                found.problem =
                    Some(format!("the folder of endpoints {} cannot be read: {error}", self.path.display()));
                return found;
            }
        };
        let rests = |since: Moment| settle_time.saturating_sub(now - since);
        let is_first = !std::mem::replace(&mut self.looked_before, true);
        let unreadable: BTreeSet<String> =
            texts.iter().filter(|(_, text)| text.is_none()).map(|(name, _)| name.clone()).collect();
        for (name, text) in texts.iter().filter_map(|(name, text)| Some((name, text.as_ref()?))) {
            let is_same = self.seen.get(name).is_some_and(|(before, _)| before == text);
            if !is_same {
                self.seen.insert(name.clone(), (text.clone(), now));
            }
            let left = rests(self.seen[name].1);
            if !is_first && !left.is_zero() {
                found.wait = found.wait.into_iter().chain([left]).min();
                continue;
            }
            match file::read(text, Some(name)) {
                Ok(said) => found.said.push(said),
                Err(error) => drop(found.unread.insert(name.clone(), self.blame(name, error.message()))),
            }
        }
        self.seen.retain(|name, _| texts.contains_key(name));
        let mut missing = BTreeMap::new();
        for name in known.filter(|name| !texts.contains_key(*name) && !unreadable.contains(*name)) {
            let since = self.missing.get(name).copied().unwrap_or(now);
            match rests(since) {
                left if left.is_zero() && !is_first => found.gone.push(name.clone()),
                left => {
                    found.wait = found.wait.into_iter().chain([left]).min();
                    missing.insert(name.clone(), since);
                }
            }
        }
        self.missing = missing;
        found.files = Some(texts.into_keys().collect());
        found
    }

    fn blame(&self, name: &str, reason: &str) -> String {
        format!("{}: {reason}", self.path.join(format!("{name}.toml")).display())
    }

    /// The text of each file by its endpoint; `None` where it cannot be read, which is told.
    fn texts(&self, unread: &mut BTreeMap<String, String>) -> io::Result<BTreeMap<String, Option<String>>> {
        let mut texts = BTreeMap::new();
        for entry in fs::read_dir(&self.path)? {
            let path = entry?.path();
            let name = path.file_stem().and_then(|name| name.to_str()).filter(|name| !name.starts_with('.'));
            let Some(name) = name.filter(|_| path.extension().is_some_and(|end| end == "toml")) else { continue };
            let text = read(&path);
            if let Err(error) = &text {
                unread.insert(name.to_owned(), self.blame(name, &error.to_string()));
            }
            texts.insert(name.to_owned(), text.ok());
        }
        Ok(texts)
    }
}

fn read(path: &Path) -> io::Result<String> {
    if fs::metadata(path)?.len() > BYTES_MAX {
        return Err(io::Error::other(format!("it has more than {BYTES_MAX} bytes")));
    }
    fs::read_to_string(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: &str = "key = \"per_request\"\n[[arms]]\nname = \"champion\"\nversion = 1\nrole = \"champion\"\n";

    fn at(ms: u64) -> Moment {
        Moment::from_nanos(1_000_000_000 + ms * 1_000_000)
    }

    #[test]
    fn files_are_read_at_once_and_later_when_they_rest() {
        let place = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(place.path().join(name), text).unwrap();
        let mut folder = Folder::new(place.path().to_owned());
        let known = ["risk".to_owned()];
        let mut look = |ms| folder.look(at(ms), Duration::from_millis(100), known.iter());
        write("risk.toml", PLAN);
        write("README.md", "no plan");
        write(".risk.toml", "half a pl");
        let found = look(0);
        assert_eq!((found.said.len(), found.said[0].endpoint()), (1, "risk"));
        write("risk.toml", &PLAN.replace("version = 1", "version = 2"));
        let found = look(10);
        assert_eq!((found.said.len(), found.wait), (0, Some(Duration::from_millis(100))));
        let found = look(110);
        assert_eq!((found.said[0].clone().plan().unwrap().arms[0].version, found.wait), (2, None));
        write("risk.toml", "key = ");
        look(120);
        let found = look(300);
        assert!(found.said.is_empty() && found.unread["risk"].contains("risk.toml: "), "{found:?}");
        assert_eq!(found.files, Some(BTreeSet::from(["risk".to_owned()])));
        fs::remove_file(place.path().join("risk.toml")).unwrap();
        assert_eq!((look(310).gone.len(), look(500).gone), (0, vec!["risk".to_owned()]));
    }

    #[test]
    fn a_folder_that_is_not_there_takes_nothing_away() {
        let place = tempfile::tempdir().unwrap();
        let mut folder = Folder::new(place.path().join("nowhere"));
        let known = ["risk".to_owned()];
        for ms in [0, 1000] {
            let found = folder.look(at(ms), Duration::ZERO, known.iter());
            assert!(found.gone.is_empty() && found.problem.is_some() && found.files.is_none(), "{found:?}");
        }
    }
}
