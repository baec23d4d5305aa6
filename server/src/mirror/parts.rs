//! Where do objects lie while they arrive, and how does one go on where it was cut off?
//!
//! Each has a file that grows, named by its path and tag, so that bytes of two states of an object never meet; and a note
//! beside it of how much is safe on the disk. After a crash, what was written later than the note is not believed.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use ring::digest::{Context, SHA256, digest};
use serde_json::{Value, json};

use super::cache::finish;
use super::manifest::{hex, unhex, write_whole};
use super::plan::{Digest, Held, Object};

/// What arrives between two notes.
const NOTE_BYTES: u64 = 8 << 20;

/// The folder of objects on their way.
#[derive(Clone)]
pub(super) struct Parts {
    folder: PathBuf,
}

impl Parts {
    /// Fails where the folder can neither be found nor made.
    pub(super) fn open(folder: PathBuf) -> io::Result<Parts> {
        fs::create_dir_all(&folder)?;
        Ok(Parts { folder })
    }

    /// Where all of them lie.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Goes on with an object, or begins it.
    pub(super) fn begin(&self, object: &Object) -> io::Result<Part> {
        Part::open(self.place(&object.path, &object.tag))
    }

    /// Where an object lies while it arrives, and what is in it once it is whole.
    pub(super) fn place(&self, path: &str, tag: &str) -> PathBuf {
        self.folder.join(format!("{}.part", name(path, tag)))
    }

    /// Moves an object that arrived whole to where it belongs.
    pub(super) fn take(&self, path: &str, held: &Held, to: &Path) -> io::Result<()> {
        let part = self.place(path, &held.tag);
        fs::rename(&part, to)?;
        // Without its file, the note means nothing.
        fs::remove_file(part.with_extension("note"))
    }

    /// Throws away what belongs to none of these objects.
    pub(super) fn keep_only<'a>(&self, objects: impl Iterator<Item = &'a Object>) -> io::Result<()> {
        let kept: BTreeSet<String> = objects.map(|object| name(&object.path, &object.tag)).collect();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
            if !stem.is_some_and(|stem| kept.contains(&stem)) {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

fn name(path: &str, tag: &str) -> String {
    hex(&digest(&SHA256, format!("{path}\0{tag}").as_bytes()).as_ref()[..16])
}

/// One object on its way.
pub(super) struct Part {
    path: PathBuf,
    file: File,
    context: Context,
    received: u64,
    noted: u64,
    /// Of all of it, once that has arrived.
    whole: Option<Digest>,
}

impl Part {
    fn open(path: PathBuf) -> io::Result<Part> {
        let note = fs::read(path.with_extension("note")).ok();
        let note: Value = note.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(&path)?;
        let safe = note["received"].as_u64().unwrap_or(0);
        let mut part =
            Part { file: file.try_clone()?, path, context: Context::new(&SHA256), received: 0, noted: 0, whole: None };
        if file.metadata()?.len() < safe {
            // Somebody else's doing.
            part.restart()?;
            return Ok(part);
        }
        if file.metadata()?.len() > safe {
            file.set_len(safe)?;
        }
        let mut buffer = vec![0; 1 << 18];
        while part.received < safe {
            let count = file.read(&mut buffer)?;
            if count == 0 {
                break;
            }
            part.context.update(&buffer[..count]);
            part.received += count as u64;
        }
        part.noted = part.received;
        let whole = note["sha256"].as_str().and_then(unhex);
        if let Some(whole) = whole {
            match finish(part.context.clone()) == whole {
                true => part.whole = Some(whole),
                false => part.restart()?,
            }
        }
        Ok(part)
    }

    /// Bytes that are here.
    pub(super) fn received(&self) -> u64 {
        self.received
    }

    /// The digest of an object that is here whole.
    pub(super) fn whole(&self) -> Option<Digest> {
        self.whole
    }

    /// Begins anew.
    pub(super) fn restart(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        (self.context, self.received, self.noted, self.whole) = (Context::new(&SHA256), 0, 0, None);
        self.write_note()
    }

    /// Takes bytes that arrived.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.context.update(bytes);
        self.received += bytes.len() as u64;
        if self.received - self.noted >= NOTE_BYTES { self.note() } else { Ok(()) }
    }

    /// Makes safe what is here, so that it need not come again.
    pub(super) fn note(&mut self) -> io::Result<()> {
        if self.noted != self.received {
            self.file.sync_data()?;
            self.noted = self.received;
            self.write_note()?;
        }
        Ok(())
    }

    /// All of it is here. Its digest.
    pub(super) fn end(&mut self) -> io::Result<Digest> {
        self.file.sync_data()?;
        let digest = finish(self.context.clone());
        (self.noted, self.whole) = (self.received, Some(digest));
        self.write_note()?;
        Ok(digest)
    }

    fn write_note(&self) -> io::Result<()> {
        let sha256 = self.whole.map(|digest| hex(&digest));
        let note = json!({ "received": self.received, "sha256": sha256 });
        write_whole(&self.path.with_extension("note"), note.to_string().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::super::cache::digest_of;
    use super::*;

    fn object(tag: &str) -> Object {
        Object { path: "a/1/m".to_owned(), tag: tag.to_owned(), size: None, sha256: None }
    }

    #[test]
    fn what_was_noted_is_gone_on_with() {
        let folder = tempfile::tempdir().unwrap();
        let parts = Parts::open(folder.path().join("parts")).unwrap();
        let mut part = parts.begin(&object("x")).unwrap();
        part.write(b"first").unwrap();
        part.note().unwrap();
        part.write(b"lost").unwrap();
        drop(part);
        let mut part = parts.begin(&object("x")).unwrap();
        assert_eq!((part.received(), part.whole()), (5, None));
        part.write(b" last").unwrap();
        let sha256 = part.end().unwrap();
        let again = parts.begin(&object("x")).unwrap();
        assert_eq!((again.received(), again.whole()), (10, Some(sha256)));
        // Another state of the object has nothing to do with it.
        assert_eq!(parts.begin(&object("y")).unwrap().received(), 0);
        let to = folder.path().join("m");
        parts.take("a/1/m", &Held { tag: "x".to_owned(), size: 10, sha256 }, &to).unwrap();
        assert_eq!(fs::read(&to).unwrap(), b"first last");
        assert_eq!(digest_of(&to).unwrap(), sha256);
    }

    #[test]
    fn what_somebody_changed_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let parts = Parts::open(folder.path().to_owned()).unwrap();
        for spoil in [&b"sHort"[..], b"sh"] {
            let mut part = parts.begin(&object("x")).unwrap();
            part.restart().unwrap();
            part.write(b"short").unwrap();
            part.end().unwrap();
            fs::write(parts.place("a/1/m", "x"), spoil).unwrap();
            let part = parts.begin(&object("x")).unwrap();
            assert_eq!((part.received(), part.whole()), (0, None));
        }
    }

    #[test]
    fn what_nobody_wants_any_more_goes() {
        let folder = tempfile::tempdir().unwrap();
        let parts = Parts::open(folder.path().to_owned()).unwrap();
        for tag in ["x", "y"] {
            let mut part = parts.begin(&object(tag)).unwrap();
            part.write(tag.as_bytes()).unwrap();
            part.note().unwrap();
        }
        parts.keep_only([object("y")].iter()).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
        assert_eq!(parts.begin(&object("y")).unwrap().received(), 1);
    }
}
