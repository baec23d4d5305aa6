//! How do records come from the ring into segments, each row into exactly one, whenever the process is killed?
//!
//! A cycle takes what is committed, makes segments of it under names that nobody reads, and then writes `commit.json`: which
//! files take which names, which lines the manifest gets, and up to where the ring is drained. With that file on the disk
//! the cycle has happened; without it, it has not, and what it left is thrown away. Each of its steps leaves the same
//! when it is done twice, so that whoever opens the folder does all of them again. `docs/capture.md` has the steps.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::keys::Keys;
use crate::layout::Layouts;
use crate::manifest::{Head, Manifest, WRITTEN};
use crate::record::Record;
use crate::ring::{Mark, Place, Ring};
use crate::seal::Sealer;
use crate::segment::{Facts, Group};
use crate::{Error, Result, disk};

/// Segments of one cycle, at most: each is a file, and has buffers of its own.
const GROUPS_MAX: usize = 256;

const DAY_US: u64 = 86_400_000_000;

/// What becomes of a cycle's files, once it has happened.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Commit {
    /// Names before and after, from the capture's folder.
    files: Vec<(String, String)>,
    /// Where the manifest's lines begin.
    manifest: Head,
    /// What is to stand in them.
    lines: Vec<Facts>,
    time_ms: u64,
    /// The ring that the marks are of.
    ring: u64,
    /// Shard, position, ordinal and lost records of each mark.
    marks: Vec<(usize, u64, u64, u64)>,
}

/// What a cycle did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// Rows that came into segments.
    pub rows: u64,
    /// Segments that were written.
    pub segments: Vec<Facts>,
    /// Whether there is more to be drained at once: a limit of memory ended the cycle.
    pub has_more: bool,
}

/// The folder of a capture and what is in it.
#[derive(Debug)]
pub(crate) struct Drain {
    pub(crate) folder: PathBuf,
    pub(crate) node: String,
    pub(crate) manifest: Manifest,
    /// Where rows of subjects may be encrypted.
    keys: Option<Keys>,
}

impl Drain {
    /// Opens the folder: a cycle that has happened is brought to its end, the remains of one that has not are thrown away.
    pub(crate) fn open(folder: &Path, node: String, ring: &Ring, keys: Option<Keys>) -> Result<Drain> {
        disk::make_folder(&folder.join("making")).map_err(|error| Error::io("make the folder", folder, error))?;
        let manifest = Manifest::open(folder.join("segments.jsonl"))?;
        let mut drain = Drain { folder: folder.to_owned(), node, manifest, keys };
        let path = drain.commit_path();
        match fs::read(&path) {
            Ok(text) => {
                let commit = serde_json::from_slice(&text).map_err(|error| Error::broken(&path, error.to_string()))?;
                // What is drained is wiped below.
                drain.finish(ring, &commit, usize::MAX, false)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io("read", &path, error)),
        }
        drain.sweep();
        if drain.keys.is_some() {
            ring.wipe_drained().map_err(|error| Error::io("sync", &folder.join("ring"), error))?;
        }
        Ok(drain)
    }

    /// Has on the record where a copy of a segment lies.
    pub(crate) fn note_stored(&mut self, file: &str, at: &str, now_ms: u64) -> Result<()> {
        // A cycle that happened and is not at its end knows where its lines begin: none may come between.
        if self.commit_path().exists() {
            return Err(Error::broken(&self.commit_path(), "a cycle is not at its end: later"));
        }
        self.manifest.append_stored(file, at, now_ms)
    }

    fn commit_path(&self) -> PathBuf {
        self.folder.join("commit.json")
    }

    /// Throws away what no commit names.
    fn sweep(&self) {
        for entry in fs::read_dir(self.folder.join("making")).into_iter().flatten().flatten() {
            // What cannot be removed now is tried again the next time.
            drop(fs::remove_file(entry.path()));
        }
    }

    /// Takes what is committed into segments. Memory for about `bytes_max` bytes of columns.
    pub(crate) fn cycle(&mut self, ring: &Ring, layouts: &Layouts, now_us: u64, bytes_max: usize) -> Result<Drained> {
        let Some(mut keys) = self.keys.take() else { return self.cycle_with(ring, layouts, now_us, bytes_max, None) };
        // Nobody erases until the segments have happened, or have not.
        let drained = keys.locked(|keys| {
            keys.refresh()?;
            self.cycle_with(ring, layouts, now_us, bytes_max, Some(keys))
        });
        self.keys = Some(keys);
        drained
    }

    fn cycle_with(
        &mut self,
        ring: &Ring,
        layouts: &Layouts,
        now_us: u64,
        bytes_max: usize,
        mut keys: Option<&mut Keys>,
    ) -> Result<Drained> {
        let wipes = keys.is_some();
        // Only a cycle that happened and did not come to its end leaves one: it failed, for want of room perhaps.
        if let Ok(text) = fs::read(self.commit_path()) {
            let path = self.commit_path();
            let commit = serde_json::from_slice(&text).map_err(|error| Error::broken(&path, error.to_string()))?;
            self.finish(ring, &commit, usize::MAX, wipes)?;
        }
        if let Some(keys) = &keys {
            for (slot, erasure) in keys.unrecorded()? {
                self.manifest.append_erasure(&erasure, now_us / 1000)?;
                keys.recorded(slot)?;
            }
        }
        let taken = take(ring, layouts, bytes_max, keys.as_deref_mut())?;
        // Before a segment needs them.
        keys.map_or(Ok(()), Keys::save)?;
        if taken.groups.is_empty() && !taken.has_moved {
            return Ok(Drained::default());
        }
        let written = self.prepare(ring, &taken, now_us);
        let commit = match written {
            Ok(commit) => commit,
            Err(error) => {
                self.sweep();
                return Err(error);
            }
        };
        self.finish(ring, &commit, usize::MAX, wipes)?;
        let rows = commit.lines.iter().map(|facts| facts.rows).sum();
        Ok(Drained { rows, segments: commit.lines, has_more: taken.has_more })
    }

    /// Writes the segments and the commit: when this returns, the cycle has happened.
    fn prepare(&self, ring: &Ring, taken: &Taken, now_us: u64) -> Result<Commit> {
        let mut commit = Commit {
            files: Vec::new(),
            manifest: self.manifest.head().clone(),
            lines: Vec::new(),
            time_ms: now_us / 1000,
            ring: ring.id(),
            marks: taken
                .marks
                .iter()
                .map(|(shard, mark)| (*shard, mark.place.position, mark.place.ordinal, mark.lost))
                .collect(),
        };
        let seconds = now_us / 1_000_000;
        for (day, group) in &taken.groups {
            let time = uuid::Timestamp::from_unix(uuid::NoContext, seconds, (now_us % 1_000_000) as u32 * 1000);
            let name = format!("{}-{}.parquet", self.node, Uuid::new_v7(time).simple());
            let file = format!("endpoint={}/date={}/{name}", escaped(group.endpoint()), date(*day));
            let making = format!("making/{name}");
            match group.write(&self.folder.join(&making), file.clone(), &self.node) {
                Ok(facts) => {
                    commit.lines.push(facts);
                    commit.files.push((making, format!("segments/{file}")));
                }
                // What can never be written must not keep all others from it.
                Err(error) if error.is_for_ever() => {
                    commit.marks.iter_mut().take(1).for_each(|mark| mark.3 += group.records);
                }
                Err(error) => return Err(error),
            }
        }
        let making = self.folder.join("making");
        disk::sync_folder(&making).map_err(|error| Error::io("sync", &making, error))?;
        let path = self.commit_path();
        // Nothing in it that JSON cannot have.
        let text = serde_json::to_vec(&commit).map_err(|error| Error::broken(&path, error.to_string()))?;
        disk::write_whole(&path, &text).map_err(|error| Error::io("write", &path, error))?;
        Ok(commit)
    }

    /// Does what a commit says, all of it or up to a step. Each step may have been done before.
    fn finish(&mut self, ring: &Ring, commit: &Commit, steps: usize, wipes: bool) -> Result<()> {
        let mut steps = 0..steps;
        for (making, file) in &commit.files {
            if steps.next().is_none() {
                return Ok(());
            }
            let (from, to) = (self.folder.join(making), self.folder.join(file));
            if let Some(folder) = to.parent() {
                disk::make_folder(folder).map_err(|error| Error::io("make the folder", folder, error))?;
            }
            match fs::rename(&from, &to) {
                Err(error) if error.kind() == io::ErrorKind::NotFound && to.exists() => {}
                Err(error) => return Err(Error::io("name", &to, error)),
                Ok(()) => {}
            }
            disk::sync_folder_of(&to).map_err(|error| Error::io("sync", &to, error))?;
        }
        if steps.next().is_none() {
            return Ok(());
        }
        let line = |facts: &Facts| (WRITTEN.to_owned(), serde_json::to_string(facts).unwrap_or_default());
        let lines: Vec<_> = commit.lines.iter().map(line).collect();
        self.manifest.append_at(&commit.manifest, &lines, commit.time_ms)?;
        if steps.next().is_none() {
            return Ok(());
        }
        let marks = commit
            .marks
            .iter()
            .map(|&(shard, position, ordinal, lost)| (shard, Mark { place: Place { position, ordinal }, lost }));
        // Somebody may have taken the ring away since.
        if commit.ring == ring.id() {
            let advanced = ring.advance(&marks.collect::<Vec<_>>(), wipes);
            advanced.map_err(|error| Error::io("sync", &self.folder.join("ring"), error))?;
        }
        if steps.next().is_none() {
            return Ok(());
        }
        let path = self.commit_path();
        let removed = fs::remove_file(&path).and_then(|()| disk::sync_folder_of(&path));
        removed.map_err(|error| Error::io("remove", &path, error))
    }
}

/// Segments that a commit names, from the folder of segments: they may have their names, and not be in the manifest yet.
pub(crate) fn on_their_way(folder: &Path) -> HashSet<String> {
    let commit =
        fs::read(folder.join("commit.json")).ok().and_then(|text| serde_json::from_slice::<Commit>(&text).ok());
    commit.into_iter().flat_map(|commit| commit.lines).map(|facts| facts.file).collect()
}

/// What a cycle takes.
#[derive(Default)]
struct Taken {
    /// What goes into one segment together, by day.
    groups: Vec<(u64, Group)>,
    marks: Vec<(usize, Mark)>,
    has_moved: bool,
    has_more: bool,
    /// Where the record before went: most go to the same.
    last: usize,
}

impl Taken {
    /// The group that a record belongs to.
    fn group(&mut self, record: &Record<'_>, layouts: &Layouts, keys: Option<&Keys>) -> Result<&mut Group> {
        let (layout, day) = (layouts.of(record), record.unix_us / DAY_US);
        let is_its = |(of, group): &(u64, Group)| *of == day && group.is_of(record) && *group.layout() == layout;
        if !self.groups.get(self.last).is_some_and(is_its) {
            self.last = match self.groups.iter().position(is_its) {
                Some(found) => found,
                None => {
                    let sealer = match (record.subjects.is_empty(), keys) {
                        (true, _) => None,
                        (false, Some(keys)) => Some(Sealer::new(keys)?),
                        (false, None) => return Err(Error::NoKeys),
                    };
                    self.groups.push((day, Group::like(record, layout, sealer)));
                    self.groups.len() - 1
                }
            };
        }
        Ok(&mut self.groups[self.last].1)
    }
}

fn take(ring: &Ring, layouts: &Layouts, bytes_max: usize, mut keys: Option<&mut Keys>) -> Result<Taken> {
    let mut taken = Taken::default();
    let (mut payload, mut bytes) = (Vec::new(), 0);
    for span in ring.pending() {
        let mut mark = span.from;
        while !taken.has_more {
            let Some((sequence, next)) = ring.read(span, mark, &mut payload) else {
                mark = Ring::end(span, mark);
                break;
            };
            let payload = Bytes::from(std::mem::take(&mut payload));
            let Ok(mut record) = Record::read(&payload) else {
                // Its bytes are as they were written: another program of another form wrote them.
                mark = Mark { lost: next.lost + 1, ..next };
                continue;
            };
            record.rows = record.rows.max(1);
            let group = taken.group(&record, layouts, keys.as_deref())?;
            bytes -= group.bytes();
            group.push(sequence, &record, &payload, keys.as_deref_mut())?;
            bytes += group.bytes();
            mark = next;
            taken.has_more = bytes >= bytes_max || taken.groups.len() >= GROUPS_MAX;
        }
        taken.has_moved |= mark != span.from;
        taken.marks.push((span.shard, mark));
    }
    Ok(taken)
}

/// The day, counted from 1970, as `2026-11-29`.
fn date(day: u64) -> String {
    // The last day that has a date of ten letters.
    let day = day.min(2_932_896);
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(day * 86_400);
    humantime::format_rfc3339_seconds(time).to_string()[..10].to_owned()
}

/// A name that is one part of a path on every system, and that readers of such folders turn back.
fn escaped(name: &str) -> String {
    let mut escaped = String::new();
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => escaped.push(char::from(byte)),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests;
