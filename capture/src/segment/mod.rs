//! What is a segment, and how does it come to the disk?
//!
//! A file of Parquet with a row for each row of its records, which are of one deployment, one layout and one day. Its
//! footer says what it holds, its name belongs to no other node, and the SHA-256 of all its bytes goes into the manifest.

mod columns;
pub(crate) mod merkle;
pub(crate) mod read;

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use parquet::basic::Compression;
use parquet::column::writer::ColumnWriterImpl;
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DataType, DoubleType, FloatType, Int32Type, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tiltyard_types::{Digest, RequestId};

use crate::keys::Keys;
use crate::layout::Layout;
use crate::record::Record;
use crate::seal::Sealer;
use crate::{Error, Result};
use columns::{Column, Columns, Levels, NO_LIST, Values};
use merkle::Tree;

/// The form that the footer names.
const FORM: &str = "1";

/// What the manifest says of a segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Facts {
    /// Where it is, from the folder of segments, with `/` between.
    pub file: String,
    /// How long it is.
    pub bytes: u64,
    /// SHA-256 of all of it, as hexadecimal digits.
    pub sha256: String,
    /// The root of the Merkle tree over its rows.
    pub merkle_root: String,
    /// How many rows it has.
    pub rows: u64,
    /// The lowest sequence of its records.
    pub first_sequence: u64,
    /// The highest.
    pub last_sequence: u64,
    /// When its first request was accepted, in microseconds since 1970.
    pub from_us: u64,
    /// When its last one was.
    pub to_us: u64,
    /// The endpoint that was called.
    pub endpoint: String,
    /// The model that answered.
    pub model: String,
    /// Its version.
    pub version: u64,
    /// The deployment's digest.
    pub digest: String,
    /// The node that wrote it.
    pub node: String,
}

/// Records that go into one segment.
#[derive(Debug)]
pub(crate) struct Group {
    layout: Arc<Layout>,
    /// The layout's number in the rows' records.
    layout_id: u64,
    /// Encrypts the rows, where they are somebody's.
    sealer: Option<Sealer>,
    columns: Columns,
    tree: Tree,
    sequences: (u64, u64),
    times: (u64, u64),
    endpoint: String,
    model: String,
    version: u64,
    digest: Digest,
    row_bytes: Vec<u8>,
    /// How many records there are.
    pub(crate) records: u64,
}

impl Group {
    /// No records yet of the kind that `record` is the first of.
    pub(crate) fn like(record: &Record<'_>, layout: Arc<Layout>, sealer: Option<Sealer>) -> Group {
        let shown = if sealer.is_some() { Arc::new(Layout::sealed()) } else { layout.clone() };
        Group {
            columns: Columns::new(shown, record),
            layout,
            layout_id: record.layout,
            sealer,
            tree: Tree::default(),
            sequences: (u64::MAX, 0),
            times: (u64::MAX, 0),
            endpoint: record.endpoint.to_string(),
            model: record.model.to_string(),
            version: record.version,
            digest: record.digest,
            row_bytes: Vec::new(),
            records: 0,
        }
    }

    /// Whether the record belongs here, were it of that layout.
    pub(crate) fn is_of(&self, record: &Record<'_>) -> bool {
        self.endpoint == record.endpoint
            && self.model == record.model
            && self.version == record.version
            && self.digest == record.digest
            && self.layout_id == record.layout
            && self.sealer.is_some() != record.subjects.is_empty()
    }

    pub(crate) fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// The endpoint that was called.
    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Adds the rows of a record, whose bytes are `written`. Fails where they are to be encrypted and cannot be.
    pub(crate) fn push(
        &mut self,
        sequence: u64,
        record: &Record<'_>,
        written: &[u8],
        keys: Option<&mut Keys>,
    ) -> Result<()> {
        match (&self.sealer, keys) {
            (Some(_), Some(keys)) => self.push_sealed(sequence, record, keys)?,
            (Some(_), None) => return Err(Error::NoKeys),
            (None, _) => self.push_open(sequence, record, written),
        }
        self.records += 1;
        self.sequences = (self.sequences.0.min(sequence), self.sequences.1.max(sequence));
        self.times = (self.times.0.min(record.unix_us), self.times.1.max(record.unix_us));
        Ok(())
    }

    fn push_sealed(&mut self, sequence: u64, record: &Record<'_>, keys: &mut Keys) -> Result<()> {
        let Some(sealer) = &self.sealer else { return Ok(()) };
        for row in 0..record.rows {
            let sealed = sealer.seal(keys, record, row, self.columns.rows as u64)?;
            self.columns.push(sequence, &sealed);
            self.row_bytes.clear();
            sealed.write(&mut self.row_bytes);
            self.tree.push(&self.row_bytes);
        }
        Ok(())
    }

    fn push_open(&mut self, sequence: u64, record: &Record<'_>, written: &[u8]) {
        self.columns.push(sequence, record);
        for row in 0..record.rows {
            // A record of one row is that row.
            if record.rows == 1 {
                self.tree.push(written);
                continue;
            }
            self.row_bytes.clear();
            record.row(row).write(&mut self.row_bytes);
            self.tree.push(&self.row_bytes);
        }
    }

    /// Bytes of memory that it takes, about.
    pub(crate) fn bytes(&self) -> usize {
        self.columns.bytes
    }

    /// Writes the segment to `path` and has its bytes on the disk; its name is not, until the folder is synced.
    pub(crate) fn write(&self, path: &Path, file: String, node: &str) -> Result<Facts> {
        let created = File::create(path).map_err(|error| Error::io("make", path, error))?;
        let mut facts = Facts {
            file,
            bytes: 0,
            sha256: String::new(),
            merkle_root: hex(&self.tree.root()),
            rows: self.columns.rows as u64,
            first_sequence: self.sequences.0,
            last_sequence: self.sequences.1,
            from_us: self.times.0,
            to_us: self.times.1,
            endpoint: self.endpoint.clone(),
            model: self.model.clone(),
            version: self.version,
            digest: self.digest.to_string(),
            node: node.to_owned(),
        };
        let mut hashing = Hashing { file: &created, hash: Sha256::new(), bytes: 0 };
        let written = write_columns(&mut hashing, &self.columns, self.footer(&facts));
        written.map_err(|error| Error::parquet("write", path, error))?;
        facts.bytes = hashing.bytes;
        facts.sha256 = hex(&hashing.hash.finalize().into());
        created.sync_all().map_err(|error| Error::io("sync", path, error))?;
        Ok(facts)
    }

    fn footer(&self, facts: &Facts) -> Vec<KeyValue> {
        let mut pairs = vec![
            ("form", FORM.to_owned()),
            ("node", facts.node.clone()),
            ("endpoint", facts.endpoint.clone()),
            ("model", facts.model.clone()),
            ("version", facts.version.to_string()),
            ("digest", facts.digest.clone()),
            ("rows", facts.rows.to_string()),
            ("first_sequence", facts.first_sequence.to_string()),
            ("last_sequence", facts.last_sequence.to_string()),
            ("merkle_root", facts.merkle_root.clone()),
            ("layout", self.columns.layout.text()),
            ("layout_id", format!("{:016x}", self.layout_id)),
        ];
        if let Some(sealer) = &self.sealer {
            pairs.push(("salt", sealer.salt.iter().map(|byte| format!("{byte:02x}")).collect()));
            pairs.push(("sealed_layout", self.layout.text()));
        }
        pairs.into_iter().map(|(key, value)| KeyValue::new(format!("tiltyard.{key}"), value)).collect()
    }
}

/// Writes rows of one deployment, with their sequences, as a segment of this layout that is not encrypted, for those who have
/// opened it. Fails where the file cannot be written.
pub fn write_plain(path: &Path, layout: &Layout, rows: &[(u64, Record<'static>)]) -> Result<Facts> {
    let Some((_, first)) = rows.first() else { return Err(Error::broken(path, "a segment of no rows")) };
    let mut group = Group::like(first, Arc::new(layout.clone()), None);
    for (sequence, record) in rows {
        let mut written = Vec::new();
        record.write(&mut written);
        group.push(*sequence, record, &written, None)?;
    }
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    group.write(path, name, "export")
}

fn hex(hash: &[u8; 32]) -> String {
    Digest::new(*hash).to_string()
}

/// Hashes what it writes.
struct Hashing<'a> {
    file: &'a File,
    hash: Sha256,
    bytes: u64,
}

impl Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn write_columns(to: &mut Hashing<'_>, columns: &Columns, footer: Vec<KeyValue>) -> Result<(), ParquetError> {
    // A dictionary pays where values come again and are longer than a number, and bounds where somebody asks for a part of them:
    // both cost a multiple of writing the values down.
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::None);
    for column in &columns.columns {
        if column.comes_again() {
            properties = properties.set_column_dictionary_enabled(column.path(), true);
        }
        if column.is_asked_for() {
            properties = properties.set_column_statistics_enabled(column.path(), EnabledStatistics::Chunk);
        }
    }
    let properties = properties
        .set_created_by(concat!("tiltyard version ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_key_value_metadata(Some(footer))
        .build();
    let mut writer = SerializedFileWriter::new(to, columns.schema()?, Arc::new(properties))?;
    let mut group = writer.next_row_group()?;
    for column in &columns.columns {
        let mut writer = group.next_column()?.ok_or_else(|| ParquetError::General("a column too many".into()))?;
        write_column(&mut writer, column)?;
        writer.close()?;
    }
    group.close()?;
    writer.close().map(drop)
}

/// Rows that are written at a time where texts or levels are made for it.
const ROWS_AT_A_TIME: usize = 1024;

fn write_column(to: &mut SerializedColumnWriter<'_>, column: &Column) -> Result<(), ParquetError> {
    let levels = &column.levels;
    match &column.values {
        Values::Bool(values) => write_values(to.typed::<BoolType>(), values, levels),
        Values::Int32(values) => write_values(to.typed::<Int32Type>(), values, levels),
        Values::Int64(values) => write_values(to.typed::<Int64Type>(), values, levels),
        Values::Float(values) => write_values(to.typed::<FloatType>(), values, levels),
        Values::Double(values) => write_values(to.typed::<DoubleType>(), values, levels),
        Values::Bytes(values) => write_values(to.typed::<ByteArrayType>(), values, levels),
        Values::Few(texts, values) => {
            write_texts(to, values, |part| part.iter().map(|at| texts[*at as usize].clone()).collect())
        }
        Values::Requests(ids) => {
            let text =
                |id: &RequestId, out: &mut Vec<u8>| out.extend_from_slice(&id.first_prediction()[..REQUEST_BYTES]);
            write_texts(to, ids, |part| texts_of(part, text))
        }
        Values::Predictions(ids) => {
            let text = |(id, row): &(RequestId, u32), out: &mut Vec<u8>| {
                out.extend_from_slice(&id.first_prediction()[..=REQUEST_BYTES]);
                out.extend_from_slice(row.to_string().as_bytes());
            };
            write_texts(to, ids, |part| texts_of(part, text))
        }
    }
}

/// Bytes of a UUID as text; in a prediction's id a colon follows, and the row.
const REQUEST_BYTES: usize = 36;

/// Texts that share one piece of memory.
fn texts_of<T>(values: &[T], write: impl Fn(&T, &mut Vec<u8>)) -> Vec<ByteArray> {
    let (mut all, mut ends) = (Vec::new(), Vec::with_capacity(values.len()));
    for value in values {
        write(value, &mut all);
        ends.push(all.len());
    }
    let (all, mut from) = (Bytes::from(all), 0);
    let text = |to: usize| ByteArray::from(all.slice(std::mem::replace(&mut from, to)..to));
    ends.into_iter().map(text).collect()
}

/// Writes a column of texts that are never null, and are made for it.
fn write_texts<T>(
    to: &mut SerializedColumnWriter<'_>,
    values: &[T],
    texts: impl Fn(&[T]) -> Vec<ByteArray>,
) -> Result<(), ParquetError> {
    let to = to.typed::<ByteArrayType>();
    values.chunks(ROWS_AT_A_TIME).try_for_each(|part| to.write_batch(&texts(part), None, None).map(drop))
}

fn write_values<T: DataType>(
    to: &mut ColumnWriterImpl<'_, T>,
    values: &[T::T],
    levels: &Levels,
) -> Result<(), ParquetError> {
    let lengths = match levels {
        Levels::Required => return to.write_batch(values, None, None).map(drop),
        Levels::Optional(defs) => return to.write_batch(values, Some(defs), None).map(drop),
        Levels::List(lengths) => lengths,
    };
    // 2 for an element, 1 for an empty list, 0 for a null; and 0 where a row begins, else 1.
    let (mut defs, mut reps, mut rest) = (Vec::new(), Vec::new(), values);
    for part in lengths.chunks(ROWS_AT_A_TIME) {
        defs.clear();
        reps.clear();
        let mut elements = 0;
        for &length in part {
            reps.push(0);
            match length {
                NO_LIST => defs.push(0),
                0 => defs.push(1),
                _ => {
                    elements += length as usize;
                    defs.resize(defs.len() + length as usize, 2);
                    reps.resize(defs.len(), 1);
                }
            }
        }
        let (values, others) = rest.split_at(elements);
        to.write_batch(values, Some(&defs), Some(&reps))?;
        rest = others;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
