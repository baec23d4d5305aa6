//! How are rows held between the file and the model?
//!
//! As the text of their cells in one buffer, row by row: what a cell means depends on who asks for it.

use std::borrow::Cow;
use std::ops::Range;

use tiltyard_types::json::{Kind, Reader};

/// Some rows of a history, the wanted columns of each in one order.
#[derive(Clone, Debug, Default)]
pub(super) struct Batch {
    /// Whether cells are values of JSON; otherwise they are cells of CSV.
    is_json: bool,
    width: usize,
    text: Vec<u8>,
    /// Row by row; `None` where a row lacks the column.
    cells: Vec<Option<Range<usize>>>,
    /// The line of each row.
    lines: Vec<u64>,
}

impl Batch {
    /// No rows yet, of `width` columns.
    pub(super) fn new(width: usize, is_json: bool) -> Batch {
        Batch { is_json, width, ..Batch::default() }
    }

    pub(super) fn rows(&self) -> usize {
        self.lines.len()
    }

    /// Bytes of all cells.
    pub(super) fn size(&self) -> usize {
        self.text.len()
    }

    pub(super) fn is_json(&self) -> bool {
        self.is_json
    }

    /// The line of a row.
    pub(super) fn line(&self, row: usize) -> u64 {
        self.lines[row]
    }

    /// Begins a row, all of whose cells are missing.
    pub(super) fn begin(&mut self, line: u64) {
        self.lines.push(line);
        self.cells.resize(self.lines.len() * self.width, None);
    }

    /// Fills a cell of the last row. False where it is filled already.
    pub(super) fn fill(&mut self, column: usize, cell: &[u8]) -> bool {
        let start = self.text.len();
        self.text.extend_from_slice(cell);
        let place = self.cells.len() - self.width + column;
        self.cells[place].replace(start..self.text.len()).is_none()
    }

    /// Takes the last row away.
    pub(super) fn pop(&mut self) {
        self.lines.pop();
        let kept = self.lines.len() * self.width;
        let start = self.cells[kept..].iter().flatten().map(|range| range.start).min();
        self.text.truncate(start.unwrap_or(self.text.len()));
        self.cells.truncate(kept);
    }

    /// Leaves those rows alone for which `is_kept` says so.
    pub(super) fn retain(&mut self, is_kept: impl Fn(usize) -> bool) {
        let kept: Vec<usize> = (0..self.rows()).filter(|&row| is_kept(row)).collect();
        self.lines = kept.iter().map(|&row| self.lines[row]).collect();
        let cells = |&row: &usize| self.cells[row * self.width..(row + 1) * self.width].iter().cloned();
        self.cells = kept.iter().flat_map(cells).collect();
    }

    /// A cell as it stands in the file; `None` where the row lacks the column.
    pub(super) fn cell(&self, row: usize, column: usize) -> Option<&[u8]> {
        self.cells[row * self.width + column].clone().map(|range| &self.text[range])
    }

    /// A cell as one value in plain text: empty where there is none. Fails on a list or an object.
    pub(super) fn plain(&self, row: usize, column: usize) -> Result<Cow<'_, str>, String> {
        let Some(cell) = self.cell(row, column) else { return Ok(Cow::Borrowed("")) };
        // Both readers take in nothing that is not UTF-8.
        let text = std::str::from_utf8(cell).map_err(|_| "it is not UTF-8".to_owned())?;
        if !self.is_json {
            return Ok(Cow::Borrowed(text));
        }
        let mut reader = Reader::new(cell);
        match reader.peek_kind().map_err(|error| error.to_string())? {
            Kind::String => reader.read_string().map_err(|error| error.to_string()),
            Kind::Null => Ok(Cow::Borrowed("")),
            Kind::Number | Kind::Bool => Ok(Cow::Borrowed(text)),
            Kind::Array | Kind::Object => Err(format!("expected one value, found {}", shortened(text))),
        }
    }
}

/// The head of a text, as much as a message can bear.
pub(super) fn shortened(text: &str) -> String {
    const CHARS_MAX: usize = 60;
    match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{:?} …", &text[..end]),
        None => format!("{text:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_and_go() {
        let mut batch = Batch::new(2, false);
        for (line, cells) in [(2, ["a", "1"]), (3, ["b", "2"]), (4, ["c", "3"])] {
            batch.begin(line);
            assert!(batch.fill(0, cells[0].as_bytes()) && batch.fill(1, cells[1].as_bytes()));
        }
        assert!(!batch.fill(1, b"4"), "it is filled already");
        batch.pop();
        batch.begin(5);
        assert_eq!((batch.rows(), batch.size(), batch.cell(2, 0)), (3, 4, None));
        batch.fill(1, b"9");
        batch.retain(|row| row != 1);
        let plain = |row, column| batch.plain(row, column).unwrap().into_owned();
        assert_eq!(
            (plain(0, 0), plain(0, 1), plain(1, 0), plain(1, 1)),
            ("a".into(), "1".into(), "".into(), "9".into())
        );
        assert_eq!((batch.line(0), batch.line(1)), (2, 5));
    }

    #[test]
    fn values_of_json_in_plain_text() {
        let check = |cell: &str, expected: Result<&str, &str>| {
            let mut batch = Batch::new(1, true);
            batch.begin(1);
            batch.fill(0, cell.as_bytes());
            let found = batch.plain(0, 0).map(Cow::into_owned);
            assert_eq!(found, expected.map(str::to_owned).map_err(str::to_owned), "{cell}");
        };
        check(r#""a\"b""#, Ok("a\"b"));
        check("12.50", Ok("12.50"));
        check("true", Ok("true"));
        check("null", Ok(""));
        check("[1]", Err("expected one value, found \"[1]\""));
    }
}
