//! What does the next row of a Parquet file say?
//!
//! Of each wanted column one page at a time is held, some hundred rows of it decoded: a file may be larger than the memory. Its
//! directory is looked at before it is believed, pages are read by [`pages`], and what the decoders of the `parquet` crate
//! panic on becomes an error like any other.

mod pages;
mod text;
mod thrift;

use std::cell::Cell;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Once};

use parquet::basic::{Compression, Repetition, Type};
use parquet::column::reader::ColumnReaderImpl;
use parquet::data_type::{
    BoolType, ByteArrayType, DataType, DoubleType, FixedLenByteArrayType, FloatType, Int32Type, Int64Type, Int96Type,
};
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};

use self::pages::{Pages, Share};
use self::text::{Form, Told};
use self::thrift::{Met, walk};
use super::{Batch, Fault, Next, ROW_BYTES_MAX};

/// Bytes of a file's directory.
const DIRECTORY_BYTES_MAX: usize = 32 << 20;

/// Columns, those within others and those that hold them counted.
const COLUMNS_MAX: usize = 100_000;

/// Columns within columns.
const DEPTH_MAX: usize = 64;

/// Rows that are decoded at a time.
const ROWS: usize = 512;

/// A Parquet file that is open.
pub(super) struct Table {
    file: Arc<File>,
    bytes: u64,
    directory: ParquetMetaData,
    columns: Vec<String>,
    /// The columns of a batch's row, as places in the file; `None` for one that it lacks.
    wanted: Vec<Option<usize>>,
    /// What the open row group has of them.
    open: Vec<Option<Box<dyn Cells>>>,
    /// Row groups that were opened.
    groups: usize,
    /// Rows that the open row group has left to decode.
    left: usize,
    /// Rows that are decoded and not told.
    ready: usize,
    /// Rows that were told.
    row: u64,
    cell: Vec<u8>,
}

impl Table {
    /// Reads the directory at the file's end. Fails with what is wrong with it.
    pub(super) fn open(file: File) -> Result<Table, String> {
        caught(|| {
            let bytes = file.metadata().map_err(|error| error.to_string())?.len();
            let directory = read_directory(&file, bytes)?;
            let fields = directory.file_metadata().schema().get_fields();
            let columns = fields.iter().map(|field| field.name().to_owned()).collect();
            Ok(Table {
                file: Arc::new(file),
                bytes,
                directory,
                columns,
                wanted: Vec::new(),
                open: Vec::new(),
                groups: 0,
                left: 0,
                ready: 0,
                row: 0,
                cell: Vec::new(),
            })
        })
    }

    /// The names of the columns, those that hold others among them.
    pub(super) fn columns(&self) -> &[String] {
        &self.columns
    }

    /// Says which columns a batch's rows have, by their places.
    pub(super) fn want(&mut self, wanted: &[Option<usize>]) {
        self.wanted = wanted.to_vec();
    }

    /// Reads the next row into `batch`. Fails where the file cannot be read any further.
    pub(super) fn next(&mut self, batch: &mut Batch) -> Result<Next, String> {
        caught(|| {
            while self.ready == 0 {
                if self.left == 0 && !self.open_next()? {
                    return Ok(Next::End);
                }
                self.decode()?;
            }
            self.ready -= 1;
            self.row += 1;
            Ok(self.tell(batch))
        })
    }

    /// Opens the next row group. False where there is none.
    fn open_next(&mut self) -> Result<bool, String> {
        let Some(group) = self.directory.row_groups().get(self.groups) else { return Ok(false) };
        self.groups += 1;
        self.left = usize::try_from(group.num_rows()).map_err(|_| "a row group has less than no rows".to_owned())?;
        let schema = self.directory.file_metadata().schema_descr();
        let held = Arc::new(AtomicUsize::new(0));
        // What was open gives its pages up first.
        self.open.clear();
        for place in &self.wanted {
            let opened = place.map(|place| {
                let leaf = (0..schema.num_columns()).find(|leaf| schema.get_column_root_idx(*leaf) == place);
                let in_column = |error: String| format!("column {:?}: {error}", self.columns[place]);
                open_column(&self.file, self.bytes, group, leaf, Share::new(&held)).map_err(in_column)
            });
            self.open.push(opened.transpose()?);
        }
        Ok(true)
    }

    /// Decodes the next rows of the open row group.
    fn decode(&mut self) -> Result<(), String> {
        let count = self.left.min(ROWS);
        for (column, place) in self.open.iter_mut().zip(&self.wanted) {
            if let (Some(column), Some(place)) = (column, place) {
                column.decode(count).map_err(|error| {
                    format!("column {:?} in row group {}: {error}", self.columns[*place], self.groups - 1)
                })?;
            }
        }
        (self.left, self.ready) = (self.left - count, count);
        Ok(())
    }

    /// Tells one row of those that are decoded.
    fn tell(&mut self, batch: &mut Batch) -> Next {
        batch.begin(self.row);
        let mut fault = None;
        let mut bytes = 0;
        // Each column goes on by a row, also where another has a fault.
        for (at, (column, place)) in self.open.iter_mut().zip(&self.wanted).enumerate() {
            let (Some(column), Some(place)) = (column, place) else { continue };
            self.cell.clear();
            match column.tell(&mut self.cell) {
                Ok(()) => bytes += self.cell.len(),
                Err(error) => fault = fault.or_else(|| Some(format!("column {:?}: {error}", self.columns[*place]))),
            }
            if bytes > ROW_BYTES_MAX {
                fault.get_or_insert_with(|| "it is longer than a row may be, 1 MiB".to_owned());
            }
            if fault.is_none() {
                batch.fill(at, &self.cell);
            }
        }
        match fault {
            None => Next::Row,
            Some(message) => {
                batch.pop();
                Next::Fault(Fault { line: self.row, message })
            }
        }
    }
}

/// Reads the file's directory, once it is known that it asks for no more than it may.
fn read_directory(file: &File, bytes: u64) -> Result<ParquetMetaData, String> {
    let read = |at: u64, count: usize| {
        let mut bytes = vec![0; count];
        file.read_exact_at(&mut bytes, at).map(|()| bytes).map_err(|error| error.to_string())
    };
    let torn = || "it ends as no Parquet does: it was cut off, or is still being written".to_owned();
    let rest = bytes.checked_sub(12).ok_or_else(torn)?;
    let tail = read(rest + 4, 8)?;
    let size = u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]) as usize;
    match &tail[4..] {
        b"PAR1" => {}
        b"PARE" => return Err("it is encrypted, which is not read here".to_owned()),
        _ => return Err(torn()),
    }
    if size as u64 > rest {
        return Err("its directory is larger than the file".to_owned());
    }
    if size > DIRECTORY_BYTES_MAX {
        return Err(format!(
            "its directory has {size} bytes, and at most {DIRECTORY_BYTES_MAX} are read: write it with larger row groups"
        ));
    }
    let directory = read(rest + 4 - size as u64, size)?;
    look_through(&directory).map_err(|error| format!("its directory: {error}"))?;
    ParquetMetaDataReader::decode_metadata(&directory).map_err(|error| format!("its directory: {error}"))
}

/// Looks whether columns lie within columns as far as can be followed. Who reads them later believes what it is told.
fn look_through(directory: &[u8]) -> Result<(), String> {
    let mut columns = 0;
    // Of each column that holds others, how many are to come.
    let mut open: Vec<i64> = Vec::new();
    let mut within = 0;
    walk(directory, &mut |path, met| match (path, met) {
        (&[2, 5], Met::Number(count)) => {
            within = count;
            Ok(())
        }
        (&[2], Met::End) => {
            columns += 1;
            if let Some(left) = open.last_mut() {
                *left -= 1;
            }
            match std::mem::take(&mut within) {
                0 => {}
                count if !(0..=COLUMNS_MAX as i64).contains(&count) => {
                    return Err(format!("a column holds {count} others"));
                }
                count => open.push(count),
            }
            while open.last() == Some(&0) {
                open.pop();
            }
            match columns > COLUMNS_MAX || open.len() > DEPTH_MAX {
                true => Err(format!("more than {COLUMNS_MAX} columns, or more than {DEPTH_MAX} within each other")),
                false => Ok(()),
            }
        }
        _ => Ok(()),
    })?;
    Ok(())
}

/// Opens a column in a row group. `leaf` is where its values are, or the first of them.
fn open_column(
    file: &Arc<File>,
    bytes: u64,
    group: &parquet::file::metadata::RowGroupMetaData,
    leaf: Option<usize>,
    share: Share,
) -> Result<Box<dyn Cells>, String> {
    let column = leaf.map(|leaf| group.column(leaf));
    let Some(column) = column.filter(|column| column.column_descr().path().parts().len() == 1) else {
        return Err("it holds lists or structures, expected one value in each row".to_owned());
    };
    let descriptor = column.column_descr_ptr();
    if descriptor.self_type().get_basic_info().repetition() == Repetition::REPEATED {
        return Err("it holds lists, expected one value in each row".to_owned());
    }
    let form = Form::of(&descriptor).map_err(|what| format!("it holds {what}, which no cell has"))?;
    if let other @ (Compression::BROTLI(_) | Compression::LZO) = column.compression() {
        return Err(format!("it is packed with {other}: expected snappy, zstd, gzip, LZ4 or nothing"));
    }
    let (at, size) = column.byte_range();
    let end = at.checked_add(size).filter(|end| *end <= bytes).ok_or("it lies beyond the end of the file")?;
    let pages = Pages {
        file: Arc::clone(file),
        at,
        end,
        packing: column.compression(),
        kind: (descriptor.physical_type(), descriptor.type_length()),
        has_levels: descriptor.max_def_level() > 0,
        has_dictionary: false,
        share,
    };
    Ok(match descriptor.physical_type() {
        Type::BOOLEAN => Box::new(Leaf::<BoolType>::new(descriptor, pages, form)),
        Type::INT32 => Box::new(Leaf::<Int32Type>::new(descriptor, pages, form)),
        Type::INT64 => Box::new(Leaf::<Int64Type>::new(descriptor, pages, form)),
        Type::INT96 => Box::new(Leaf::<Int96Type>::new(descriptor, pages, form)),
        Type::FLOAT => Box::new(Leaf::<FloatType>::new(descriptor, pages, form)),
        Type::DOUBLE => Box::new(Leaf::<DoubleType>::new(descriptor, pages, form)),
        Type::BYTE_ARRAY => Box::new(Leaf::<ByteArrayType>::new(descriptor, pages, form)),
        Type::FIXED_LEN_BYTE_ARRAY => Box::new(Leaf::<FixedLenByteArrayType>::new(descriptor, pages, form)),
    })
}

/// One column's cells, whatever its values are.
trait Cells {
    /// Decodes so many rows in place of those before.
    fn decode(&mut self, rows: usize) -> Result<(), String>;

    /// Writes the next of the decoded cells; nothing where its value is missing.
    fn tell(&mut self, out: &mut Vec<u8>) -> Result<(), String>;
}

struct Leaf<T: DataType> {
    reader: ColumnReaderImpl<T>,
    form: Form,
    /// Of each decoded row, whether it has a value; empty where all have.
    levels: Vec<i16>,
    values: Vec<T::T>,
    row: usize,
    value: usize,
}

impl<T: DataType> Leaf<T> {
    fn new(column: parquet::schema::types::ColumnDescPtr, pages: Pages, form: Form) -> Leaf<T> {
        let reader = ColumnReaderImpl::new(column, Box::new(pages));
        Leaf { reader, form, levels: Vec::new(), values: Vec::new(), row: 0, value: 0 }
    }
}

impl<T: DataType<T: Told>> Cells for Leaf<T> {
    fn decode(&mut self, rows: usize) -> Result<(), String> {
        self.levels.clear();
        self.values.clear();
        (self.row, self.value) = (0, 0);
        let read = self.reader.read_records(rows, Some(&mut self.levels), None, &mut self.values);
        let (found, ..) = read.map_err(|error| error.to_string())?;
        if found == rows { Ok(()) } else { Err("it has fewer values than there are rows".to_owned()) }
    }

    fn tell(&mut self, out: &mut Vec<u8>) -> Result<(), String> {
        let level = self.levels.get(self.row);
        self.row += 1;
        if level.is_some_and(|level| *level == 0) {
            return Ok(());
        }
        let value = self.values.get(self.value).ok_or("it has fewer values than there are rows")?;
        self.value += 1;
        value.tell(self.form, out)
    }
}

/// Does what may panic on a file that lies, and says nothing of that but in its error.
fn caught<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    thread_local! { static IS_QUIET: Cell<bool> = const { Cell::new(false) }; }
    static HOOKED: Once = Once::new();
    HOOKED.call_once(|| {
        let told = take_hook();
        set_hook(Box::new(move |info| {
            if !IS_QUIET.get() {
                told(info);
            }
        }));
    });
    IS_QUIET.set(true);
    let done = catch_unwind(AssertUnwindSafe(work));
    IS_QUIET.set(false);
    done.unwrap_or_else(|_| Err("it is damaged, or no Parquet at all: its parts do not fit together".to_owned()))
}

#[cfg(test)]
mod tests;
