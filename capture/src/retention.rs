//! How long are segments kept, and how much room may they take?
//!
//! The oldest go first. The manifest says so before a segment is gone, so that one that is missing without a word was
//! taken by somebody else.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use crate::manifest::{Manifest, REMOVED};
use crate::segment::Facts;
use crate::{Error, Result};

/// What was taken away since the process began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Removed {
    /// Segments that were older than they may be.
    pub aged: u64,
    /// Segments that did not fit into the budget.
    pub over_budget: u64,
}

/// The segments that are there.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// Bytes, by when a segment was made and where it is.
    files: BTreeMap<(u64, String), u64>,
    bytes: u64,
    pub(crate) removed: Removed,
}

#[derive(Serialize)]
struct Gone<'a> {
    file: &'a str,
    bytes: u64,
    reason: &'a str,
}

impl Kept {
    /// Finds the segments below `folder`; files of other names are nobody's business.
    pub(crate) fn find(folder: &Path) -> Kept {
        let mut kept = Kept::default();
        for endpoint in names(folder) {
            for date in names(&folder.join(&endpoint)) {
                let day = format!("{endpoint}/{date}");
                for name in names(&folder.join(&day)) {
                    let Some(made_ms) = made_ms(&name) else { continue };
                    let bytes = fs::metadata(folder.join(&day).join(&name)).map_or(0, |found| found.len());
                    kept.add(made_ms, format!("{day}/{name}"), bytes);
                }
            }
        }
        kept
    }

    fn add(&mut self, made_ms: u64, file: String, bytes: u64) {
        let before = self.files.insert((made_ms, file), bytes).unwrap_or(0);
        self.bytes = self.bytes + bytes - before;
    }

    /// A segment was written.
    pub(crate) fn wrote(&mut self, facts: &Facts) {
        let name = facts.file.rsplit('/').next().unwrap_or_default();
        self.add(made_ms(name).unwrap_or(0), facts.file.clone(), facts.bytes);
    }

    /// How many there are, and their bytes.
    pub(crate) fn size(&self) -> (u64, u64) {
        (self.files.len() as u64, self.bytes)
    }

    /// Where they are, from the folder of segments.
    #[cfg(test)]
    pub(crate) fn into_files(self) -> impl Iterator<Item = String> {
        self.files.into_keys().map(|(_, file)| file)
    }

    /// Takes away what is too old, and the oldest of what is too much.
    pub(crate) fn shrink(
        &mut self,
        folder: &Path,
        manifest: &mut Manifest,
        now_ms: u64,
        age_max: Option<Duration>,
        bytes_max: Option<u64>,
    ) -> Result<()> {
        while let Some(((made_ms, file), bytes)) = self.files.first_key_value() {
            let age = Duration::from_millis(now_ms.saturating_sub(*made_ms));
            let reason = match () {
                () if age_max.is_some_and(|most| age > most) => "age",
                () if bytes_max.is_some_and(|most| self.bytes > most) => "budget",
                () => return Ok(()),
            };
            let gone = serde_json::to_string(&Gone { file, bytes: *bytes, reason }).unwrap_or_default();
            let head = manifest.head().clone();
            manifest.append_at(&head, &[(REMOVED.to_owned(), gone)], now_ms)?;
            let path = folder.join(file);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(Error::io("remove", &path, error)),
                _ => {}
            }
            // A folder of a day without segments; one that has some cannot be removed.
            if let Some(day) = path.parent() {
                drop(fs::remove_dir(day));
            }
            self.bytes -= bytes;
            match reason {
                "age" => self.removed.aged += 1,
                _ => self.removed.over_budget += 1,
            }
            self.files.pop_first();
        }
        Ok(())
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// When a segment of this name was made, in milliseconds since 1970: its UUID begins with that.
fn made_ms(name: &str) -> Option<u64> {
    let stem = name.strip_suffix(".parquet")?;
    let (_, id) = stem.rsplit_once('-')?;
    let is_id = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_id.then(|| u64::from_str_radix(&id[..12], 16).ok()).flatten()
}
