//! What must be fetched, kept and taken away, so that the cache is what the store lists?
//!
//! A pure function of the listing and of what is held. Names in a store are hostile until they are read here: what comes out
//! are relative paths below the cache's folder, or words about what was refused.

use std::collections::{BTreeMap, BTreeSet};

use tiltyard_runtime::artifact::is_temporary;
use tiltyard_runtime::repository::policy::VersionPolicy;

/// Objects listed beyond this are an error: somebody pointed at the wrong folder.
pub(super) const OBJECTS_MAX: usize = 100_000;

/// Model-level files beyond this are left where they are: settings and labels are text, and larger ones are not read.
const SETTINGS_BYTES_MAX: u64 = 4 << 20;

/// What a path may have, as file systems have it.
const PATH_BYTES_MAX: usize = 1024;
const NAME_BYTES_MAX: usize = 255;

/// Problems told of one listing: whoever writes into a store shall not fill a log.
const PROBLEMS_MAX: usize = 20;

/// SHA-256.
pub(super) type Digest = [u8; 32];

/// An object as the store lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Object {
    /// Relative to the folder that is followed, with slashes.
    pub(super) path: String,
    /// What changes when its bytes do.
    pub(super) tag: String,
    /// Bytes, where the listing says so.
    pub(super) size: Option<u64>,
    /// The digest that its bytes must have, where the listing says so.
    pub(super) sha256: Option<Digest>,
}

/// A file in the cache, and which object it is a copy of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) tag: String,
    pub(super) size: u64,
    pub(super) sha256: Digest,
}

/// The cache's files by path.
pub(super) type Files = BTreeMap<String, Held>;

/// Files that appear, change and leave together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// All of it, where the folder is a single model.
    Whole,
    /// What lies directly in a model's folder.
    Model(String),
    /// A version's folder.
    Version(String, u64),
}

impl Place {
    /// The model it belongs to; nothing where there is only one.
    pub(super) fn model(&self) -> &str {
        match self {
            Place::Whole => "",
            Place::Model(model) | Place::Version(model, _) => model,
        }
    }

    /// Its folder, relative to the cache's.
    pub(super) fn folder(&self) -> String {
        match self {
            Place::Whole => String::new(),
            Place::Model(model) => model.clone(),
            Place::Version(model, number) => format!("{model}/{number}"),
        }
    }
}

/// What is to become of one model.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) struct Change {
    /// What is not here yet.
    pub(super) fetch: Vec<Object>,
    /// Places that become something else, with all that will be in them.
    pub(super) places: BTreeMap<Place, BTreeSet<String>>,
    /// Places that go.
    pub(super) leave: BTreeSet<Place>,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) struct Plan {
    /// By model, those that change.
    pub(super) changes: BTreeMap<String, Change>,
    /// What is listed and refused, and why.
    pub(super) problems: Vec<String>,
}

/// The listing, sorted into places.
#[derive(Default)]
pub(super) struct Sorted {
    places: BTreeMap<Place, BTreeMap<String, Object>>,
    /// Models of which something was refused: they stay as they are.
    refused: BTreeSet<String>,
    problems: Vec<String>,
}

impl Sorted {
    /// Reads the names of a listing.
    pub(super) fn of(listing: &[Object]) -> Sorted {
        let markers = markers(listing);
        let listing: Vec<&Object> = listing.iter().filter(|object| !markers.contains(object.path.as_str())).collect();
        let whole = is_whole(listing.iter().map(|object| object.path.as_str()));
        let mut sorted = Sorted::default();
        for object in listing {
            let place = match check(&object.path) {
                Ok(()) => place(&object.path, whole),
                Err(reason) => {
                    sorted.refuse(&object.path, whole, reason);
                    continue;
                }
            };
            let Some(place) = place else { continue };
            let too_large = object.size.is_some_and(|size| size > SETTINGS_BYTES_MAX);
            if matches!(place, Place::Model(_)) && too_large {
                continue;
            }
            sorted.places.entry(place).or_default().insert(object.path.clone(), object.clone());
        }
        sorted.refuse_files_that_are_folders();
        sorted.leave_out_models_without_versions();
        sorted
    }

    fn refuse(&mut self, path: &str, whole: bool, reason: &str) {
        let model = path.split('/').next().unwrap_or_default();
        // Quoted, so that a name cannot write lines of its own into a log.
        self.problems.push(format!("{path:?} is refused: {reason}; nothing of this model is changed meanwhile"));
        self.refused.insert(if whole { String::new() } else { model.to_owned() });
    }

    fn refuse_files_that_are_folders(&mut self) {
        let paths: BTreeSet<String> = self.places.values().flat_map(|files| files.keys().cloned()).collect();
        let whole = self.places.contains_key(&Place::Whole);
        for path in &paths {
            if paths.range(format!("{path}/")..format!("{path}0")).next().is_some() {
                self.refuse(path, whole, "it is a file and a folder");
            }
        }
    }

    fn leave_out_models_without_versions(&mut self) {
        let with_versions: BTreeSet<String> = self.places.keys().filter_map(version_of).collect();
        let lost = |place: &Place| matches!(place, Place::Model(model) if !with_versions.contains(model));
        let without: Vec<Place> = self.places.keys().filter(|place| lost(place)).cloned().collect();
        for place in without {
            let model = place.folder();
            self.places.remove(&place);
            self.problems.push(format!("{model:?} has no version: expected an object such as {model}/1/model.onnx"));
        }
    }

    /// The model-level objects that are not here yet: what they say decides which versions are wanted.
    pub(super) fn settings_to_fetch(&self, held: &Files) -> Vec<Object> {
        let settings = self.places.iter().filter(|(place, _)| matches!(place, Place::Model(_)));
        let wanted = settings.filter(|(place, _)| !self.refused.contains(place.model()));
        wanted.flat_map(|(_, files)| files.values()).filter(|object| !is_held(held, object)).cloned().collect()
    }

    /// Whether a model-level file is listed.
    pub(super) fn has_settings(&self, model: &str, path: &str) -> bool {
        self.places.get(&Place::Model(model.to_owned())).is_some_and(|files| files.contains_key(path))
    }

    /// Compares the listing with what is held. `policy` says which versions of a model are wanted.
    pub(super) fn plan(&self, held: &Files, policy: impl Fn(&str) -> VersionPolicy) -> Plan {
        let held_places = places_of(held);
        let mut plan = Plan { problems: self.problems.iter().take(PROBLEMS_MAX).cloned().collect(), ..Plan::default() };
        let mut wanted: BTreeMap<&Place, &BTreeMap<String, Object>> = BTreeMap::new();
        let models: BTreeSet<&str> = self.places.keys().map(Place::model).collect();
        for model in models.into_iter().filter(|model| !self.refused.contains(*model)) {
            let numbers = |places: &mut dyn Iterator<Item = &Place>| -> BTreeSet<u64> {
                places.filter_map(|place| number_of(place, model)).collect()
            };
            let listed = numbers(&mut self.places.keys());
            let kept = versions(&policy(model), &listed, &numbers(&mut held_places.keys()));
            let fits = |place: &Place| number_of(place, model).is_none_or(|number| kept.contains(&number));
            wanted.extend(self.places.iter().filter(|(place, _)| place.model() == model && fits(place)));
        }
        for (place, files) in &wanted {
            let differs = |object: &&Object| !is_held(held, object);
            let fetch: Vec<Object> = files.values().filter(differs).cloned().collect();
            let paths: BTreeSet<String> = files.keys().cloned().collect();
            if fetch.is_empty() && held_places.get(*place) == Some(&paths) {
                continue;
            }
            let change = plan.changes.entry(place.model().to_owned()).or_default();
            change.fetch.extend(fetch);
            change.places.insert((*place).clone(), paths);
        }
        for place in held_places.into_keys() {
            if !wanted.contains_key(&place) && !self.refused.contains(place.model()) {
                plan.changes.entry(place.model().to_owned()).or_default().leave.insert(place);
            }
        }
        plan
    }
}

fn is_held(held: &Files, object: &Object) -> bool {
    held.get(&object.path).is_some_and(|held| {
        held.tag == object.tag
            && object.size.is_none_or(|size| size == held.size)
            && object.sha256.is_none_or(|digest| digest == held.sha256)
    })
}

/// The versions to have. Beside those that the policy asks for, a few that are here already stay while the store has them:
/// where the newest turns out to be broken, they are what serves instead.
fn versions(policy: &VersionPolicy, listed: &BTreeSet<u64>, held: &BTreeSet<u64>) -> BTreeSet<u64> {
    let mut wanted = policy.choose(listed);
    if let VersionPolicy::Latest(count) = policy {
        let spare = listed.iter().rev().take(count.saturating_mul(2));
        wanted.extend(spare.filter(|number| held.contains(number)));
    }
    wanted
}

/// The places of files in the cache, each with its paths.
pub(super) fn places_of(held: &Files) -> BTreeMap<Place, BTreeSet<String>> {
    let whole = is_whole(held.keys().map(String::as_str));
    let mut places: BTreeMap<Place, BTreeSet<String>> = BTreeMap::new();
    for path in held.keys() {
        if let Some(place) = place(path, whole) {
            places.entry(place).or_default().insert(path.clone());
        }
    }
    places
}

fn version_of(place: &Place) -> Option<String> {
    if let Place::Version(model, _) = place { Some(model.clone()) } else { None }
}

fn number_of(place: &Place, of: &str) -> Option<u64> {
    match place {
        Place::Version(model, number) if model == of => Some(*number),
        _ => None,
    }
}

/// Objects that stand for a folder, as consoles and tools make them: empty, and named like one.
fn markers(listing: &[Object]) -> BTreeSet<&str> {
    let empty = listing.iter().filter(|object| object.size == Some(0)).map(|object| object.path.as_str());
    empty.filter(|path| !path.rsplit('/').next().unwrap_or_default().contains('.')).collect()
}

/// Whether the folder is a single model: one `.onnx` file directly in it, and no versions.
fn is_whole<'a>(paths: impl Iterator<Item = &'a str> + Clone) -> bool {
    let lone = |path: &&str| !path.contains('/') && path.ends_with(".onnx") && !is_temporary(path);
    paths.clone().filter(lone).count() == 1
        && !paths.clone().any(|path| matches!(place(path, false), Some(Place::Version(..))))
}

/// Where a path belongs; `None` where nobody would look at it.
fn place(path: &str, whole: bool) -> Option<Place> {
    if path.split('/').any(is_temporary) {
        return None;
    }
    if whole {
        return Some(Place::Whole);
    }
    let (model, rest) = path.split_once('/')?;
    if model.starts_with('_') {
        return None;
    }
    match rest.split_once('/') {
        None => Some(Place::Model(model.to_owned())),
        Some((number, _)) if number.starts_with(['0', '+']) => None,
        Some((number, _)) => Some(Place::Version(model.to_owned(), number.parse().ok()?)),
    }
}

/// Refuses what would not be a plain path below the cache's folder.
fn check(path: &str) -> Result<(), &'static str> {
    if path.len() > PATH_BYTES_MAX {
        return Err("its name is longer than 1024 bytes");
    }
    for name in path.split('/') {
        if matches!(name, "" | "." | "..") {
            return Err("its name leads out of its folder, or has an empty part");
        }
        if name.len() > NAME_BYTES_MAX {
            return Err("a part of its name is longer than 255 bytes");
        }
        if name.contains(|letter: char| letter.is_control() || letter == '\\') {
            return Err("its name has a backslash or a control character");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
