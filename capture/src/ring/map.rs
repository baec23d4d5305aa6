//! How are the bytes of a file reached without a call into the system?
//!
//! The file is mapped, and seen as words that are atomic. This is the one place outside `engines/` with unsafe code, one
//! expression: a write by `pwrite` instead took 2.0 to 3.4 µs for 1 KiB on ext4, a mapped one about 0.1 µs, and a request
//! of a tiny model has some 10 µs in all, of which capture may take 5 %. No maintained crate offers safe access to a map:
//! the danger of a map is that somebody else changes the bytes behind a reference. Here no reference says that nobody
//! does: whatever threads or other processes write, an atomic word has one value or the other. What they mean is checked
//! by whoever reads them.
//!
//! Whoever shortens the file has the process killed by the system at its next access: so does truncating any program's
//! open database. The file is preallocated, so that a full disk cannot do the same.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use memmap2::{Advice, MmapOptions, MmapRaw};

/// A mapped file, by words of 8 bytes.
#[derive(Debug)]
pub(crate) struct Map {
    raw: MmapRaw,
}

impl Map {
    /// Maps all of `file`, which must not be empty; writes go to the file, and stay in the page cache when the process
    /// ends, however it ends.
    pub(crate) fn of(file: &File) -> io::Result<Map> {
        let raw = MmapOptions::new().map_raw(file)?;
        if raw.len() < 8 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the file is too short to be mapped"));
        }
        Ok(Map { raw })
    }

    /// All of its whole words.
    pub(crate) fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping begins at a page, so its words are aligned; it is readable and writable for `len` bytes for as
        // long as `raw` lives, which the borrow of `self` outlasts not; every bit pattern is a number; and atomics may be
        // changed behind a shared reference by anybody.
        unsafe { std::slice::from_raw_parts(self.raw.as_ptr().cast(), self.raw.len() / 8) }
    }

    /// Copies `bytes` to byte `at`, a multiple of 8. The rest of the last word becomes zeros.
    pub(crate) fn write(&self, at: usize, bytes: &[u8]) {
        let words = &self.words()[at / 8..][..bytes.len().div_ceil(8)];
        let (whole, rest) = bytes.as_chunks::<8>();
        for (word, chunk) in words.iter().zip(whole) {
            word.store(u64::from_ne_bytes(*chunk), Relaxed);
        }
        if !rest.is_empty() {
            let mut last = [0; 8];
            last[..rest.len()].copy_from_slice(rest);
            words[whole.len()].store(u64::from_ne_bytes(last), Relaxed);
        }
    }

    /// Appends `length` bytes from byte `at`, a multiple of 8, to `out`.
    pub(crate) fn read(&self, at: usize, length: usize, out: &mut Vec<u8>) {
        let (begin, end) = (out.len(), out.len() + length);
        let words = &self.words()[at / 8..][..length.div_ceil(8)];
        out.resize(begin + words.len() * 8, 0);
        let (chunks, _) = out[begin..].as_chunks_mut::<8>();
        for (chunk, word) in chunks.iter_mut().zip(words) {
            *chunk = word.load(Relaxed).to_ne_bytes();
        }
        out.truncate(end);
    }

    /// Waits until these bytes are on the disk.
    pub(crate) fn sync(&self, at: usize, length: usize) -> io::Result<()> {
        self.raw.flush_range(at, length)
    }

    /// Has the pages of these bytes ready to be written, so that no later write meets a fault of its page.
    pub(crate) fn populate(&self, at: usize, length: usize) -> io::Result<()> {
        self.raw.advise_range(Advice::PopulateWrite, at, length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back_from_the_file() {
        let file = tempfile::tempfile().expect("a file");
        assert!(Map::of(&file).is_err(), "an empty file is no map");
        file.set_len(4096).expect("a length");
        let map = Map::of(&file).expect("a map");
        map.write(4064, &[9; 32]);
        map.write(4064, b"0123456789");
        let mut read = Vec::new();
        Map::of(&file).expect("another map").read(4064, 18, &mut read);
        assert_eq!(read, b"0123456789\0\0\0\0\0\0\x09\x09");
        map.sync(4064, 32).expect("it can be synced");
    }
}
