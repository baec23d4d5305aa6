//! What was written last? Who follows the log of a folder need not read its files again for each entry.

use std::collections::VecDeque;

use crate::entry::Entry;

/// Bytes of lines that are kept.
const BYTES_MAX: usize = 4 << 20;

/// The last lines that are on the disk.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    lines: VecDeque<Box<[u8]>>,
    bytes: usize,
    /// The entry of the last line.
    last: u64,
}

impl Recent {
    /// Nothing is kept of a log whose last entry is this one.
    pub(crate) fn after(last: u64) -> Recent {
        Recent { last, ..Recent::default() }
    }

    /// Takes in lines that the disk has, of which the last is this entry's.
    pub(crate) fn add(&mut self, lines: &[u8], last: u64) {
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            let line = line.strip_suffix(b"\n").unwrap_or(line);
            self.bytes += line.len();
            self.lines.push_back(line.into());
        }
        self.last = last;
        while self.bytes > BYTES_MAX
            && let Some(first) = self.lines.pop_front()
        {
            self.bytes -= first.len();
        }
    }

    /// The entries from this sequence on; `None` where the files have to be read for that.
    pub(crate) fn from(&self, from: u64) -> Option<VecDeque<Entry>> {
        let count = usize::try_from((self.last + 1).checked_sub(from)?).ok()?;
        let skipped = self.lines.len().checked_sub(count)?;
        self.lines.iter().skip(skipped).map(|line| Entry::read(line).ok()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Head;
    use crate::entry::line;

    #[test]
    fn what_is_kept_is_what_was_written_last() {
        assert!(Recent::after(5).from(1).is_none(), "the files have what was there before");
        let (mut recent, mut head) = (Recent::after(0), Head::START);
        let long = "x".repeat(BYTES_MAX / 4);
        assert!(
            recent.from(1).is_some_and(|known| known.is_empty()),
            "nothing was written yet, and nothing is behind it"
        );
        for _ in 0..6 {
            let (text, next) = line(head, 0, "a", &long).expect("an entry");
            recent.add(text.as_bytes(), next.sequence);
            head = next;
        }
        let sequences =
            |from| recent.from(from).map(|known| known.iter().map(|entry| entry.sequence).collect::<Vec<_>>());
        assert_eq!(sequences(5), Some(vec![5, 6]));
        assert_eq!(sequences(7), Some(vec![]));
        assert_eq!(sequences(1), None, "the files have those");
        assert_eq!(sequences(9), None, "nobody has those");
    }
}
