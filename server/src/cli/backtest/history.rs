//! What does the history's next row say?
//!
//! One row at a time, whatever the size of the file. A row that cannot be read is told with its line, and the next one
//! is read all the same; only a file that breaks off ends everything.

#[cfg(feature = "record")]
mod table;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::rc::Rc;

use csv::ByteRecord;
use flate2::read::MultiGzDecoder;
use tiltyard_types::json::{JsonError, Reader};

use super::batch::Batch;
use crate::cli::exit::Failure;

/// Bytes of one row at most.
const ROW_BYTES_MAX: usize = 1 << 20;

/// What Parquet begins with, in the open and with its directory encrypted.
const PARQUET_MARKS: [&[u8; 4]; 2] = [b"PAR1", b"PARE"];

#[cfg(feature = "record")]
const PARQUET: &str = "\
it is Parquet, whose directory is at its end: expected the file itself, neither compressed nor from a pipe";

#[cfg(not(feature = "record"))]
const PARQUET: &str = "\
it is Parquet, which this program was built without (the feature `record`): convert it once, for example with\n  \
python3 -c \"import pandas; pandas.read_parquet('history.parquet').to_csv('history.csv.gz', index=False)\"\n  \
duckdb -c \"COPY 'history.parquet' TO 'history.csv'\"";

/// Why a row cannot be used, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) line: u64,
    pub(super) message: String,
}

/// What a read came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// A row, now the last of the batch.
    Row,
    /// One that cannot be read; the batch is as before.
    Fault(Fault),
    /// There are no more.
    End,
}

/// A history that is open.
pub(super) struct History {
    rows: Rows,
    columns: Vec<String>,
    /// Where each wanted column is, or which one a name means.
    wanted: Vec<Option<usize>>,
    by_name: BTreeMap<String, usize>,
    /// How messages call it.
    shown: String,
}

enum Rows {
    /// `late`: how far the reader's count of lines lags where a row begins.
    Csv {
        reader: csv::Reader<Bounded>,
        room: Rc<Cell<usize>>,
        record: ByteRecord,
        late: u64,
    },
    Json {
        reader: Box<dyn BufRead>,
        line: Vec<u8>,
        number: u64,
        is_pending: bool,
    },
    #[cfg(feature = "record")]
    Table(Box<table::Table>),
}

impl History {
    /// Opens a file, or standard input where it is `-`. Fails on what is neither CSV with a header nor NDJSON nor Parquet.
    pub(super) fn open(path: &Path) -> Result<History, Failure> {
        let shown = if path == Path::new("-") { "standard input".to_owned() } else { path.display().to_string() };
        if path == Path::new("-") {
            return History::read_from(Box::new(io::stdin()), &shown).map_err(|failure| failure.at(&shown));
        }
        let broken = |error: io::Error| Failure::failed(format!("cannot read {shown}: {error}"));
        let file = File::open(path).map_err(broken)?;
        #[cfg(feature = "record")]
        if is_table(&file).map_err(broken)? {
            return History::of_table(file, &shown).map_err(|failure| failure.at(&shown));
        }
        History::read_from(Box::new(file), &shown).map_err(|failure| failure.at(&shown))
    }

    /// A Parquet file.
    #[cfg(feature = "record")]
    fn of_table(file: File, shown: &str) -> Result<History, Failure> {
        let table = table::Table::open(file).map_err(Failure::failed)?;
        let columns = table.columns().to_vec();
        let (rows, wanted, by_name) = (Rows::Table(Box::new(table)), Vec::new(), BTreeMap::new());
        Ok(History { rows, columns, wanted, by_name, shown: shown.to_owned() })
    }

    /// The same from anywhere.
    pub(super) fn read_from(source: Box<dyn Read>, shown: &str) -> Result<History, Failure> {
        let broken = |error: io::Error| Failure::failed(error.to_string());
        let mut plain: Box<dyn BufRead> = Box::new(BufReader::with_capacity(1 << 16, source));
        if plain.fill_buf().map_err(broken)?.starts_with(&[0x1f, 0x8b]) {
            plain = Box::new(BufReader::with_capacity(1 << 16, MultiGzDecoder::new(plain)));
        }
        let mut plain = without_mark(plain).map_err(broken)?;
        let head = plain.fill_buf().map_err(broken)?;
        if PARQUET_MARKS.iter().any(|mark| head.starts_with(*mark)) {
            return Err(Failure::failed(PARQUET));
        }
        let rows = match head.iter().find(|byte| !byte.is_ascii_whitespace()) {
            None => return Err(Failure::failed("it is empty")),
            Some(b'[') => {
                return Err(Failure::failed(
                    "it is one list of JSON: expected NDJSON, an object on each line (jq -c '.[]' makes it so)",
                ));
            }
            Some(b'{') => Rows::Json { reader: plain, line: Vec::new(), number: 0, is_pending: false },
            Some(_) => {
                // Of \r\n, it takes the second half for the next row's.
                let end = head.iter().position(|byte| *byte == b'\n');
                let late = u64::from(end.is_some_and(|end| end > 0 && head[end - 1] == b'\r'));
                let room = Rc::new(Cell::new(ROW_BYTES_MAX));
                let bounded = Bounded { source: plain, room: Rc::clone(&room) };
                let reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(bounded);
                Rows::Csv { reader, room, record: ByteRecord::new(), late }
            }
        };
        let (columns, wanted, by_name) = (Vec::new(), Vec::new(), BTreeMap::new());
        let mut history = History { rows, columns, wanted, by_name, shown: shown.to_owned() };
        history.columns = history.read_columns()?;
        Ok(history)
    }

    /// How messages call it.
    pub(super) fn shown(&self) -> &str {
        &self.shown
    }

    /// The names in the header, or in the first row of NDJSON.
    pub(super) fn columns(&self) -> &[String] {
        &self.columns
    }

    pub(super) fn is_json(&self) -> bool {
        matches!(self.rows, Rows::Json { .. })
    }

    /// What messages call the place of a row.
    pub(super) fn place(&self) -> &'static str {
        match self.rows {
            Rows::Csv { .. } | Rows::Json { .. } => "line",
            #[cfg(feature = "record")]
            Rows::Table(_) => "row",
        }
    }

    fn read_columns(&mut self) -> Result<Vec<String>, Failure> {
        match &mut self.rows {
            Rows::Csv { reader, .. } => {
                let names = reader.headers().map_err(|error| Failure::failed(format!("the header: {error}")))?;
                Ok(names.iter().map(str::to_owned).collect())
            }
            Rows::Json { reader, line, number, is_pending } => {
                let mut names = Vec::new();
                match read_line(reader, line, number).map_err(|error| Failure::failed(error.to_string()))? {
                    Line::Text => *is_pending = true,
                    Line::TooLong => return Err(Failure::failed("the first line is longer than a row may be, 1 MiB")),
                    Line::End => return Ok(names),
                }
                let read = Reader::new(line).read_object(|key, reader| {
                    names.push(key.to_owned());
                    reader.skip_value().map(|_| ())
                });
                match read {
                    Ok(()) => Ok(names),
                    Err(error) => {
                        let error: JsonError = error;
                        Err(Failure::failed(format!("line {number}: expected an object on each line: {error}")))
                    }
                }
            }
            #[cfg(feature = "record")]
            Rows::Table(table) => Ok(table.columns().to_vec()),
        }
    }

    /// Says which columns the rows of a batch have, in which order.
    pub(super) fn want(&mut self, names: &[String]) {
        let place = |name: &String| self.columns.iter().position(|column| column == name);
        self.wanted = names.iter().map(place).collect();
        self.by_name = names.iter().cloned().enumerate().map(|(at, name)| (name, at)).collect();
        #[cfg(feature = "record")]
        if let Rows::Table(table) = &mut self.rows {
            table.want(&self.wanted);
        }
    }

    /// Reads the next row into `batch`. Fails where the file itself cannot be read any further.
    pub(super) fn next(&mut self, batch: &mut Batch) -> Result<Next, Failure> {
        match &mut self.rows {
            Rows::Csv { reader, room, record, late } => {
                room.set(ROW_BYTES_MAX);
                let broken = |error: &csv::Error, line: u64| {
                    Failure::failed(format!("{}: it cannot be read after line {line}: {error}", self.shown))
                };
                let before = reader.position().line() + *late;
                match reader.read_byte_record(record) {
                    Ok(true) => {
                        let line = record.position().map_or(before, |position| position.line() + *late);
                        Ok(add_record(record, line, &self.wanted, batch))
                    }
                    Ok(false) => Ok(Next::End),
                    Err(error) => match error.kind() {
                        csv::ErrorKind::UnequalLengths { pos, expected_len, len } => {
                            let line = pos.as_ref().map_or(before, |position| position.line() + *late);
                            let message = format!("it has {len} cells, and the header has {expected_len}");
                            Ok(Next::Fault(Fault { line, message }))
                        }
                        _ => Err(broken(&error, before)),
                    },
                }
            }
            Rows::Json { reader, line, number, is_pending } => {
                let read = if std::mem::take(is_pending) { Ok(Line::Text) } else { read_line(reader, line, number) };
                match read {
                    Ok(Line::Text) => Ok(add_object(line, *number, &self.by_name, batch)),
                    Ok(Line::TooLong) => Ok(Next::Fault(Fault {
                        line: *number,
                        message: "it is longer than a row may be, 1 MiB".into(),
                    })),
                    Ok(Line::End) => Ok(Next::End),
                    Err(error) => {
                        let shown = &self.shown;
                        Err(Failure::failed(format!("{shown}: it cannot be read after line {number}: {error}")))
                    }
                }
            }
            #[cfg(feature = "record")]
            Rows::Table(table) => table.next(batch).map_err(|error| Failure::failed(error).at(&self.shown)),
        }
    }
}

/// Whether a file is Parquet. Pipes are not looked into: what is read there is gone.
#[cfg(feature = "record")]
fn is_table(mut file: &File) -> io::Result<bool> {
    if !file.metadata()?.is_file() {
        return Ok(false);
    }
    let mut head = Vec::new();
    file.by_ref().take(4).read_to_end(&mut head)?;
    io::Seek::rewind(&mut file)?;
    Ok(PARQUET_MARKS.iter().any(|mark| head == **mark))
}

/// Without the mark that some programs put before UTF-8.
fn without_mark(mut source: Box<dyn BufRead>) -> io::Result<Box<dyn BufRead>> {
    if source.fill_buf()?.starts_with(b"\xef\xbb\xbf") {
        source.consume(3);
    }
    Ok(source)
}

fn add_record(record: &ByteRecord, line: u64, wanted: &[Option<usize>], batch: &mut Batch) -> Next {
    batch.begin(line);
    for (column, place) in wanted.iter().enumerate() {
        let Some(cell) = place.and_then(|place| record.get(place)) else { continue };
        if std::str::from_utf8(cell).is_err() {
            batch.pop();
            return Next::Fault(Fault { line, message: "it is not UTF-8".into() });
        }
        batch.fill(column, cell);
    }
    Next::Row
}

fn add_object(line: &[u8], number: u64, by_name: &BTreeMap<String, usize>, batch: &mut Batch) -> Next {
    batch.begin(number);
    let mut doubled = None;
    let mut reader = Reader::new(line);
    let read = reader.read_object(|key, reader| {
        let value = reader.skip_value()?;
        if let Some(&column) = by_name.get(key)
            && !batch.fill(column, value)
        {
            doubled = Some(format!("{key:?} is given twice"));
        }
        Ok::<(), JsonError>(())
    });
    let fault = match read.and_then(|()| reader.finish()) {
        Err(error) => Some(format!("it is not an object of JSON: {error}")),
        Ok(()) => doubled.or_else(|| std::str::from_utf8(line).is_err().then(|| "it is not UTF-8".to_owned())),
    };
    match fault {
        None => Next::Row,
        Some(message) => {
            batch.pop();
            Next::Fault(Fault { line: number, message })
        }
    }
}

/// What a read of a line came to.
enum Line {
    /// A line that is not blank.
    Text,
    /// It was longer than a row may be, and is thrown away.
    TooLong,
    /// There are no more.
    End,
}

fn read_line(reader: &mut Box<dyn BufRead>, line: &mut Vec<u8>, number: &mut u64) -> io::Result<Line> {
    loop {
        line.clear();
        let count = reader.by_ref().take(ROW_BYTES_MAX as u64 + 1).read_until(b'\n', line)?;
        if count == 0 {
            return Ok(Line::End);
        }
        *number += 1;
        if count > ROW_BYTES_MAX && line.last() != Some(&b'\n') {
            reader.skip_until(b'\n')?;
            return Ok(Line::TooLong);
        }
        if !line.iter().all(u8::is_ascii_whitespace) {
            return Ok(Line::Text);
        }
    }
}

/// A source that ends where a row would grow beyond its bound: a quote that is never closed would take in all of the file.
struct Bounded {
    source: Box<dyn BufRead>,
    room: Rc<Cell<usize>>,
}

impl Read for Bounded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = self.room.get();
        if room == 0 {
            return Err(io::Error::other("a row of more than 1 MiB: is there a quote that is never closed?"));
        }
        let most = buffer.len().min(room);
        let count = self.source.read(&mut buffer[..most])?;
        self.room.set(room - count);
        Ok(count)
    }
}

#[cfg(test)]
mod tests;
