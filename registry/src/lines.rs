//! What stands in one segment, line by line, and where does it break?

use std::io::{BufRead, Read};
use std::path::Path;

use crate::entry::{Entry, Head, LINE_BYTES_MAX};
use crate::{Break, Error, Result};

/// The entries of a segment, each checked by itself and against the one before. After an error there are no more.
#[derive(Debug)]
pub struct Lines<R> {
    from: R,
    name: String,
    /// What the next entry must follow; `None` where reading begins in the middle.
    head: Option<Head>,
    /// The sequence of the first entry, where that is all that is known of it.
    first: Option<u64>,
    line: u64,
    byte: u64,
    unfinished: u64,
    is_over: bool,
    buffer: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    /// The entries in `from`, called `name` in errors. The first must follow `head`, if that is known.
    pub fn new(from: R, name: impl Into<String>, head: Option<Head>) -> Lines<R> {
        let (name, buffer) = (name.into(), Vec::new());
        Lines { from, name, head, first: None, line: 0, byte: 0, unfinished: 0, is_over: false, buffer }
    }

    /// The same, of a segment whose name says with which entry it begins.
    pub(crate) fn beginning_with(self, first: u64) -> Lines<R> {
        Lines { first: Some(first), ..self }
    }

    /// The last entry that was read, or what was before the first.
    pub fn head(&self) -> Option<Head> {
        self.head
    }

    /// Bytes after the last line's end: a line that was being written, or whose writer died.
    pub fn unfinished(&self) -> u64 {
        self.unfinished
    }

    /// Where lines with an end are over: what may be kept of the segment.
    pub(crate) fn whole(&self) -> u64 {
        self.byte
    }

    /// A break at the line that was looked at last.
    pub(crate) fn broken(&self, what: impl Into<String>) -> Error {
        Error::Broken(Break { segment: self.name.clone(), line: self.line, byte: self.byte, what: what.into() })
    }

    fn gap(&self, entry: &Entry) -> Option<String> {
        let first = self.first.filter(|&first| first != entry.sequence);
        match self.head {
            Some(head) => entry.gap(head),
            None => first.map(|first| format!("it is entry {}, and the file's name says {first}", entry.sequence)),
        }
    }

    fn read(&mut self) -> Result<Option<Entry>> {
        self.buffer.clear();
        self.line += 1;
        let mut bounded = (&mut self.from).take(LINE_BYTES_MAX as u64 + 1);
        let read = bounded.read_until(b'\n', &mut self.buffer);
        read.map_err(|error| Error::io("read", Path::new(&self.name), error))?;
        if self.buffer.len() > LINE_BYTES_MAX {
            return Err(self.broken(format!("it is longer than {LINE_BYTES_MAX} bytes")));
        }
        let Some(line) = self.buffer.strip_suffix(b"\n") else {
            // A writer that dies leaves the beginning of a line, never a whole one with something else behind it.
            if self.buffer.split_last().is_some_and(|(_, line)| Entry::read(line).is_ok()) {
                return Err(self.broken("it is whole but for its end: expected a line feed after the last brace"));
            }
            self.unfinished = self.buffer.len() as u64;
            return Ok(None);
        };
        let entry = Entry::read(line).map_err(|what| self.broken(what))?;
        if let Some(what) = self.gap(&entry) {
            return Err(self.broken(what));
        }
        self.byte += self.buffer.len() as u64;
        self.head = Some(entry.head());
        Ok(Some(entry))
    }
}

impl<R: BufRead> Iterator for Lines<R> {
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
