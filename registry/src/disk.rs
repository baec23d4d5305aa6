//! How do lines come to the disk, and what is there when that fails?
//!
//! A segment is appended to until it is large enough; the next one is named after its first entry. What a failed write left
//! is cut off again, so that the log is what it was before.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::entry::Head;
use crate::reader::segment_name;
use crate::{Error, Result};

/// Held for as long as somebody may append. The system gives it back when the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing is not enough: a process that this one is starting has the file too, until it is another program. What
        // cannot be released here is when that is so.
        drop(self.0.unlock());
    }
}

impl Lock {
    /// Takes the lock of the log in `folder`, or says who has it.
    pub(crate) fn take(folder: &Path) -> Result<Lock> {
        let path = folder.join("lock");
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = open.map_err(|error| Error::io("open", &path, error))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::Error(error)) => return Err(Error::io("lock", &path, error)),
            Err(TryLockError::WouldBlock) => {
                // It may be a moment before the holder has written who it is.
                let mut text = String::new();
                let is_known = file.read_to_string(&mut text).is_ok() && !text.trim().is_empty();
                let holder = if is_known { format!("process {}", text.trim()) } else { "another process".to_owned() };
                return Err(Error::Held { folder: folder.to_owned(), holder });
            }
        }
        let written = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        written.map_err(|error| Error::io("write", &path, error))?;
        Ok(Lock(file))
    }
}

/// Makes the folder, so that it is there after a power loss too.
pub(crate) fn make_folder(folder: &Path) -> Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(folder).map_err(|error| Error::io("make the folder", folder, error))?;
    let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    sync_folder(parent)
}

/// Names of files are on the disk when their folder is.
fn sync_folder(folder: &Path) -> Result<()> {
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|error| Error::io("sync", folder, error))
}

/// The segment that is appended to, and what of the log is safe.
#[derive(Debug)]
pub(crate) struct Disk {
    folder: PathBuf,
    segment_bytes: u64,
    /// `None` before the first segment is there.
    segment: Option<Segment>,
    head: Head,
    stopped: Option<Arc<Error>>,
}

#[derive(Debug)]
struct Segment {
    file: File,
    path: PathBuf,
    /// Bytes that are safe.
    length: u64,
}

impl Disk {
    /// A log of which `head` was read, the last segment up to `length`. What is behind that is cut off.
    pub(crate) fn resume(folder: &Path, segment_bytes: u64, last: Option<(PathBuf, u64)>, head: Head) -> Result<Disk> {
        let resume = |(path, length): (PathBuf, u64)| {
            let file = OpenOptions::new().write(true).open(&path).map_err(|error| Error::io("open", &path, error))?;
            let segment = Segment { file, path, length };
            // What was read may not be on the disk yet: who wrote it may have died before it was.
            segment.cut()?;
            Ok(segment)
        };
        let segment = last.map(resume).transpose()?;
        sync_folder(folder)?;
        Ok(Disk { folder: folder.to_owned(), segment_bytes, segment, head, stopped: None })
    }

    /// What is safe.
    pub(crate) fn head(&self) -> Head {
        self.head
    }

    /// Has these lines, up to `head`, on the disk, or none of them.
    pub(crate) fn write(&mut self, lines: &[u8], head: Head) -> Result<()> {
        if let Some(error) = &self.stopped {
            return Err(Error::Stopped(error.clone()));
        }
        let segment = self.segment()?;
        let written = segment.file.write_all_at(lines, segment.length).and_then(|()| segment.file.sync_data());
        if let Err(error) = written {
            let error = Error::io("write", &segment.path, error);
            // A part may be there. Where it cannot be taken back, nobody knows what a later write would be appended to.
            if segment.cut().is_err() {
                self.stopped = Some(Arc::new(error.clone()));
            }
            return Err(error);
        }
        segment.length += lines.len() as u64;
        self.head = head;
        Ok(())
    }

    /// The segment for the next lines: a new one where there is none, or the last is large enough.
    fn segment(&mut self) -> Result<&mut Segment> {
        let last = self.segment.take().filter(|segment| segment.length < self.segment_bytes);
        let segment = match last {
            Some(segment) => segment,
            None => {
                let path = self.folder.join(segment_name(self.head.sequence + 1));
                // An earlier try may have made it, and failed after that.
                let open = OpenOptions::new().write(true).create(true).truncate(true).open(&path);
                let file = open.map_err(|error| Error::io("make", &path, error))?;
                sync_folder(&self.folder)?;
                Segment { file, path, length: 0 }
            }
        };
        Ok(self.segment.insert(segment))
    }
}

impl Segment {
    /// Has what is safe on the disk, and nothing else.
    fn cut(&self) -> Result<()> {
        let cut = || -> io::Result<()> {
            if self.file.metadata()?.len() != self.length {
                self.file.set_len(self.length)?;
            }
            self.file.sync_all()
        };
        cut().map_err(|error| Error::io("cut", &self.path, error))
    }
}
