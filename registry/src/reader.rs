//! What stands in a log, from some entry on, and is it all as it was written?
//!
//! No lock is needed: what is on the disk only grows. Who reads while another writes sees what the disk has, which may be
//! an entry or two more than the writer has promised yet.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::entry::{Entry, Head};
use crate::lines::Lines;
use crate::remote::Pages;
use crate::{Break, Error, Result};

/// Digits of a segment's name: enough for any sequence, and names sort as numbers do.
const DIGITS: usize = 20;

/// The name of the segment that begins with this entry.
pub(crate) fn segment_name(first: u64) -> String {
    format!("{first:0DIGITS$}.jsonl")
}

/// The segments of a folder by their first entry, in order. Files of other names are not the log's.
pub(crate) fn segments(folder: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let fail = |error| Error::io("list", folder, error);
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".jsonl"));
        let digits = name.filter(|name| name.len() == DIGITS && name.bytes().all(|c| c.is_ascii_digit()));
        if let Some(first) = digits.and_then(|digits| digits.parse().ok()) {
            found.push((first, path));
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// The entries of a log, in order, each checked. After an error there are no more.
#[derive(Debug)]
pub struct Entries {
    waiting: VecDeque<(u64, PathBuf)>,
    segment: Option<Lines<BufReader<File>>>,
    /// Where they are in a database instead.
    pages: Option<Pages>,
    /// Those that need not be read.
    known: VecDeque<Entry>,
    /// Earlier ones are read, and not told of.
    from: u64,
    head: Option<Head>,
    is_over: bool,
}

impl Entries {
    /// The entries of the log in `folder` from the one of this sequence on; 0 and 1 stand for all. The segment that has it
    /// is checked from its start.
    pub fn open(folder: &Path, from: u64) -> Result<Entries> {
        let mut waiting = VecDeque::from(segments(folder)?);
        let mut head = Some(Head::START);
        while waiting.get(1).is_some_and(|&(first, _)| first <= from) {
            waiting.pop_front();
            head = None;
        }
        Ok(Entries { waiting, segment: None, pages: None, from, head, known: VecDeque::new(), is_over: false })
    }

    /// Entries that were read before.
    pub(crate) fn known(known: VecDeque<Entry>) -> Entries {
        Entries { waiting: VecDeque::new(), segment: None, pages: None, from: 0, head: None, known, is_over: false }
    }

    /// The entries in one file: a segment, or several one behind the other, wherever they begin.
    pub fn of_file(path: &Path) -> Result<Entries> {
        let file = File::open(path).map_err(|error| Error::io("open", path, error))?;
        let segment = Some(Lines::new(BufReader::new(file), name(path), None));
        Ok(Entries {
            waiting: VecDeque::new(),
            segment,
            pages: None,
            from: 0,
            head: None,
            known: VecDeque::new(),
            is_over: false,
        })
    }

    #[cfg(feature = "sql")]
    pub(crate) fn of_pages(pages: Pages, from: u64) -> Entries {
        let head = (from <= 1).then_some(Head::START);
        Entries {
            waiting: VecDeque::new(),
            segment: None,
            pages: Some(pages),
            from,
            head,
            known: VecDeque::new(),
            is_over: false,
        }
    }

    /// The entries in a folder that has a part of a log: it may begin anywhere.
    pub fn part(folder: &Path) -> Result<Entries> {
        let waiting = VecDeque::from(segments(folder)?);
        Ok(Entries { waiting, segment: None, pages: None, from: 0, head: None, known: VecDeque::new(), is_over: false })
    }

    /// The last entry that was read, or what was before the first.
    pub fn head(&self) -> Option<Head> {
        self.segment.as_ref().map_or(self.head, Lines::head)
    }

    /// Bytes after the last line's end, once all is read: a line that was being written, or whose writer died.
    pub fn unfinished(&self) -> u64 {
        self.segment.as_ref().map_or(0, Lines::unfinished)
    }

    /// Bytes of the last segment up to there, once all is read.
    pub(crate) fn whole(&self) -> u64 {
        self.segment.as_ref().map_or(0, Lines::whole)
    }

    fn read(&mut self) -> Result<Option<Entry>> {
        if let Some(entry) = self.known.pop_front() {
            self.head = Some(entry.head());
            return Ok(Some(entry));
        }
        while let Some(pages) = &mut self.pages {
            let Some(entry) = pages.next(self.head)? else { return Ok(None) };
            self.head = Some(entry.head());
            if entry.sequence >= self.from {
                return Ok(Some(entry));
            }
        }
        loop {
            if let Some(lines) = &mut self.segment
                && let Some(entry) = lines.next().transpose()?
            {
                if entry.sequence >= self.from {
                    return Ok(Some(entry));
                }
                continue;
            }
            let Some((first, path)) = self.waiting.pop_front() else { return Ok(None) };
            self.enter(first, &path)?;
        }
    }

    /// Goes on to the next segment, which must begin where the one before ends.
    fn enter(&mut self, first: u64, path: &Path) -> Result<()> {
        if let Some(lines) = self.segment.as_ref().filter(|lines| lines.unfinished() > 0) {
            return Err(lines.broken("it has no end, and another segment follows"));
        }
        self.head = self.head();
        if let Some(head) = self.head.filter(|head| head.sequence + 1 != first) {
            let what =
                format!("expected entry {}: a segment is missing, or has lost its last lines", head.sequence + 1);
            return Err(Error::Broken(Break { segment: name(path), line: 1, byte: 0, what }));
        }
        let file = File::open(path).map_err(|error| Error::io("open", path, error))?;
        self.segment = Some(Lines::new(BufReader::new(file), name(path), self.head).beginning_with(first));
        Ok(())
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

impl Iterator for Entries {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Result<Entry>> {
        if self.is_over {
            return None;
        }
        let next = self.read().transpose();
        self.is_over = !matches!(next, Some(Ok(_)));
        next
    }
}

/// A log in which every byte is as it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// The end of its chain. Who keeps it elsewhere can tell later that nothing before it was changed.
    pub head: Head,
    /// Bytes after the last line's end: a line that was being written, or whose writer died. Nobody was promised it.
    pub unfinished_bytes: u64,
}

/// Reads a whole log. The error says where it breaks first.
pub fn verify(folder: &Path) -> Result<Verified> {
    let mut entries = Entries::open(folder, 1)?;
    entries.by_ref().try_for_each(|entry| entry.map(drop))?;
    Ok(Verified { head: entries.head().unwrap_or(Head::START), unfinished_bytes: entries.unfinished() })
}
