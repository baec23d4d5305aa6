//! What stands in a segment?
//!
//! Each of its rows as the record that it was made of: read and written again, it has the bytes whose hash is in the segment's
//! tree. Columns are found by their places, which the layout in the footer gives them. A segment is read as it was written, all of it
//! at once; whoever does not trust its bytes asks the manifest first ([`verify`](crate::verify), [`listing`](crate::listing)).

use std::borrow::Cow;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::DataType as Physical;
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use tiltyard_types::{DataType, Digest, ErrorKind, RequestId, Shape, Tensor};
use uuid::Uuid;

use super::columns::{
    ARM, Column, Columns, ERROR, FACTS, KEY, LATENCY, Levels, NO_LIST, OUTCOME, PREDICTION, ROW, TIME, Values,
    float_to_brain, float_to_half, width,
};
use super::merkle;
use crate::keys::Keys;
use crate::layout::{Field, Form, Layout};
use crate::record::{Outcome, Record, Value};
use crate::seal::{Opened, Sealer};
use crate::{Error, Result};

/// A segment in memory.
#[derive(Debug)]
pub struct Segment {
    path: PathBuf,
    columns: Columns,
    /// What all rows have in common.
    base: Record<'static>,
    /// How the rows became columns, or would have, were they not encrypted.
    layout: Layout,
    /// Where rows are encrypted.
    salt: Option<[u8; 16]>,
    merkle_root: String,
    rows: usize,
}

/// A row as it stands in its segment.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The record's number on its node.
    pub sequence: u64,
    /// The row's number in its segment.
    pub number: u64,
    /// What is known of it; of one that is encrypted, what everybody may know.
    pub record: Record<'static>,
}

impl Row {
    /// The row's leaf in the segment's tree.
    pub fn leaf(&self) -> [u8; 32] {
        let mut bytes = Vec::new();
        self.record.write(&mut bytes);
        merkle::leaf(&bytes)
    }
}

/// That a row is in its segment: the audit path of RFC 6962 from its leaf to the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// The row's number in the segment.
    pub row: u64,
    /// How many rows there are.
    pub rows: u64,
    /// SHA-256 of a zero byte and the row's record.
    pub leaf: Digest,
    /// The hashes beside the way up, the lowest first.
    pub path: Vec<Digest>,
    /// Where that leads; the segment's `merkle_root` if the row is in it.
    pub root: Digest,
}

impl Segment {
    /// Reads a segment. Fails where it is none, or not one of this form.
    pub fn open(path: &Path) -> Result<Segment> {
        let broken = |why: String| Error::broken(path, why);
        let file = File::open(path).map_err(|error| Error::io("open", path, error))?;
        let reader = SerializedFileReader::new(file).map_err(|error| Error::parquet("read", path, error))?;
        let footer = reader.metadata().file_metadata().key_value_metadata().cloned().unwrap_or_default();
        let optional = |key: &str| {
            let found = footer.iter().find(|pair| pair.key.strip_prefix("tiltyard.") == Some(key));
            found.and_then(|pair| pair.value.as_deref())
        };
        let said = |key: &str| {
            optional(key).ok_or_else(|| broken(format!("no segment of a capture: its footer has no tiltyard.{key}")))
        };
        if said("form")? != super::FORM {
            return Err(broken("a segment of another form: a newer tiltyard wrote it".into()));
        }
        let layout_of = |text: &str| serde_json::from_str(text).map_err(|error| broken(format!("its layout: {error}")));
        let shown: Layout = layout_of(said("layout")?)?;
        let layout = optional("sealed_layout").map_or_else(|| Ok(shown.clone()), layout_of)?;
        let layout_id = match optional("layout_id") {
            Some(id) => u64::from_str_radix(id, 16).map_err(|_| broken("its layout has no number".into()))?,
            // Those of the first version did not say it; most were noted.
            None => shown.id(),
        };
        let salt = optional("salt").map(|salt| unhexed(salt).ok_or_else(|| broken("its salt is none".into())));
        let digest: Digest = said("digest")?.parse().map_err(|_| broken("its digest is none".into()))?;
        let base = Record {
            endpoint: said("endpoint")?.to_owned().into(),
            model: said("model")?.to_owned().into(),
            version: said("version")?.parse().map_err(|_| broken("its version is no number".into()))?,
            digest,
            layout: layout_id,
            ..Record::empty()
        };
        let mut columns = Columns::new(Arc::new(shown), &base);
        let rows = fill(&reader, &mut columns).map_err(|error| Error::parquet("read", path, error))?;
        let (salt, merkle_root) = (salt.transpose()?, said("merkle_root")?.to_owned());
        Ok(Segment { path: path.to_owned(), columns, base, layout, salt, merkle_root, rows })
    }

    /// The endpoint, model, version and digest of all rows.
    pub fn base(&self) -> &Record<'static> {
        &self.base
    }

    /// How rows become columns, those that are encrypted among them.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Whether rows are encrypted.
    pub fn is_sealed(&self) -> bool {
        self.salt.is_some()
    }

    /// How many rows it has.
    pub fn rows_count(&self) -> usize {
        self.rows
    }

    /// The root of its tree, as its footer says it.
    pub fn merkle_root(&self) -> &str {
        &self.merkle_root
    }

    /// Its rows, in their order.
    pub fn rows(&self) -> Rows<'_> {
        Rows { segment: self, number: 0, cursors: vec![Cursor::default(); self.columns.columns.len()] }
    }

    /// The way from a row to the root over what the rows are now. Fails where a row cannot be read, or there are not so many.
    pub fn prove(&self, row: u64) -> Result<Proof> {
        let leaves = self.rows().map(|row| Ok(row?.leaf())).collect::<Result<Vec<_>>>()?;
        let (at, rows) = (row as usize, leaves.len() as u64);
        let leaf = *leaves.get(at).ok_or_else(|| Error::broken(&self.path, format!("there is no row {row}")))?;
        let path = merkle::path(&leaves, at);
        let root = merkle::climb(leaf, row, rows, &path).unwrap_or_default();
        let path = path.into_iter().map(Digest::new).collect();
        Ok(Proof { row, rows, leaf: Digest::new(leaf), path, root: Digest::new(root) })
    }

    /// Its rows as they were before they were encrypted; those whose subject was erased come as [`Opened::Erased`], with what
    /// everybody may know in the row. Fails where rows are encrypted and there are no keys.
    pub fn opened<'a>(&'a self, keys: Option<&'a Keys>) -> Result<impl Iterator<Item = Result<(Row, Opened)>> + 'a> {
        let sealer = match (&self.salt, keys) {
            (None, _) => None,
            (Some(salt), Some(keys)) => Some((Sealer::of(keys, *salt), keys)),
            (Some(_), None) => return Err(Error::Sealed(self.path.clone())),
        };
        Ok(self.rows().map(move |row| {
            let row = row?;
            let opened = match &sealer {
                None => Opened::Row(Box::new(row.record.clone())),
                Some((sealer, keys)) => sealer
                    .open(keys, &row.record, row.number)
                    .map_err(|why| Error::broken(&self.path, format!("row {}: {why}", row.number)))?,
            };
            Ok((row, opened))
        }))
    }
}

fn unhexed(text: &str) -> Option<[u8; 16]> {
    (text.len() == 32).then(|| u128::from_str_radix(text, 16).ok().map(u128::to_be_bytes)).flatten()
}

/// Reads the file's columns into those that the layout has; gives the number of rows.
fn fill(file: &SerializedFileReader<File>, columns: &mut Columns) -> Result<usize, ParquetError> {
    let odd = |what: &str| ParquetError::General(what.to_owned());
    let metadata = file.metadata();
    let schema = metadata.file_metadata().schema_descr();
    if metadata.num_row_groups() != 1 || schema.num_columns() != columns.columns.len() {
        return Err(odd("its columns are not those that its layout has"));
    }
    let group = file.get_row_group(0)?;
    let rows = usize::try_from(group.metadata().num_rows()).map_err(|_| odd("fewer than no rows"))?;
    for (at, column) in columns.columns.iter_mut().enumerate() {
        if *schema.column(at).path() != column.path() {
            return Err(odd("its columns are not those that its layout has"));
        }
        if matches!(column.values, Values::Few(..) | Values::Requests(_) | Values::Predictions(_)) {
            column.values = Values::Bytes(Vec::new());
        }
        fill_column(group.get_column_reader(at)?, column, rows)?;
    }
    Ok(rows)
}

fn fill_column(reader: ColumnReader, column: &mut Column, rows: usize) -> Result<(), ParquetError> {
    use ColumnReader as R;
    let levels = &mut column.levels;
    match (reader, &mut column.values) {
        (R::BoolColumnReader(reader), Values::Bool(values)) => fill_values(reader, values, levels, rows),
        (R::Int32ColumnReader(reader), Values::Int32(values)) => fill_values(reader, values, levels, rows),
        (R::Int64ColumnReader(reader), Values::Int64(values)) => fill_values(reader, values, levels, rows),
        (R::FloatColumnReader(reader), Values::Float(values)) => fill_values(reader, values, levels, rows),
        (R::DoubleColumnReader(reader), Values::Double(values)) => fill_values(reader, values, levels, rows),
        (R::ByteArrayColumnReader(reader), Values::Bytes(values)) => fill_values(reader, values, levels, rows),
        _ => Err(ParquetError::General("a column of another type than its layout says".to_owned())),
    }
}

fn fill_values<T: Physical>(
    mut reader: ColumnReaderImpl<T>,
    values: &mut Vec<T::T>,
    levels: &mut Levels,
    rows: usize,
) -> Result<(), ParquetError> {
    let mut left = rows;
    let (mut list_defs, mut reps) = (Vec::new(), Vec::new());
    while left > 0 {
        let (defs, reps) = match levels {
            Levels::Required => (None, None),
            Levels::Optional(defs) => (Some(defs), None),
            Levels::List(_) => (Some(&mut list_defs), Some(&mut reps)),
        };
        let (read, _, _) = reader.read_records(left, defs, reps, values)?;
        if read == 0 {
            return Err(ParquetError::General("a column that ends before the others".to_owned()));
        }
        left -= read;
    }
    if let Levels::List(lengths) = levels {
        for (def, rep) in list_defs.into_iter().zip(reps) {
            match (rep, lengths.last_mut()) {
                (1.., Some(length)) => *length = length.saturating_add(1),
                _ => lengths.push([NO_LIST, 0, 1][usize::from(def.clamp(0, 2).unsigned_abs())]),
            }
        }
    }
    Ok(())
}

/// Where the next row is in a column.
#[derive(Clone, Copy, Debug, Default)]
struct Cursor {
    value: usize,
    level: usize,
}

/// The rows of a segment.
#[derive(Debug)]
pub struct Rows<'a> {
    segment: &'a Segment,
    number: usize,
    cursors: Vec<Cursor>,
}

impl Iterator for Rows<'_> {
    type Item = Result<Row>;

    fn next(&mut self) -> Option<Result<Row>> {
        if self.number >= self.segment.rows {
            return None;
        }
        let row = self.row().ok_or_else(|| {
            Error::broken(&self.segment.path, format!("row {} is not what a capture writes", self.number))
        });
        self.number = if row.is_ok() { self.number + 1 } else { self.segment.rows };
        Some(row)
    }
}

impl Rows<'_> {
    /// The next row; `None` where its columns do not hold one.
    fn row(&mut self) -> Option<Row> {
        let base = &self.segment.base;
        let sequence = self.int64(0)?.cast_unsigned();
        let prediction = self.text(PREDICTION)?;
        let request = RequestId::from_bits(Uuid::parse_str(prediction.get(..36)?).ok()?.as_u128());
        let Values::Int32(rows) = &self.columns()[ROW].values else { return None };
        let first_row = rows.get(self.number)?.cast_unsigned();
        let kind = self.text(OUTCOME)?;
        let arm = self.text(ARM)?;
        let (unix_us, latency_ns) = (self.int64(TIME)?.cast_unsigned(), self.int64(LATENCY)?.cast_unsigned());
        let key = self.optional_text(KEY)?.map(|key| u64::from_str_radix(&key, 16));
        let outcome = match (kind.as_str(), self.optional_text(ERROR)?) {
            ("ok", None) => Outcome::Answered,
            (kind, Some(why)) => {
                Outcome::Failed(*ErrorKind::ALL.iter().find(|known| known.name() == kind)?, why.into())
            }
            _ => return None,
        };
        let layout = self.segment.columns.layout.clone();
        let mut at = FACTS;
        let mut headers = Vec::with_capacity(layout.headers.len());
        for name in &layout.headers {
            headers.push((Cow::Owned(name.clone()), self.optional_text(at)?.map(Cow::Owned)));
            at += 1;
        }
        let inputs = self.values(&layout.inputs, &mut at)?;
        let outputs = self.values(&layout.outputs, &mut at)?;
        let record = Record {
            request,
            first_row,
            unix_us,
            latency_ns,
            arm: arm.into(),
            key: key.transpose().ok()?,
            outcome,
            headers,
            inputs,
            outputs,
            ..base.clone()
        };
        Some(Row { sequence, number: self.number as u64, record })
    }

    fn columns(&self) -> &[Column] {
        &self.segment.columns.columns
    }

    /// A fact that each row has.
    fn int64(&self, column: usize) -> Option<i64> {
        let Values::Int64(values) = &self.columns()[column].values else { return None };
        values.get(self.number).copied()
    }

    fn text(&self, column: usize) -> Option<String> {
        let Values::Bytes(values) = &self.columns()[column].values else { return None };
        values.get(self.number)?.as_utf8().ok().map(str::to_owned)
    }

    fn optional_text(&mut self, column: usize) -> Option<Option<String>> {
        let Some(elements) = self.elements(column)? else { return Some(None) };
        let Values::Bytes(values) = &self.columns()[column].values else { return None };
        values.get(elements.start)?.as_utf8().ok().map(|text| Some(text.to_owned()))
    }

    /// Where the row's elements are in a column's values; `Some(None)` for a null.
    fn elements(&mut self, column: usize) -> Option<Option<Range<usize>>> {
        let segment = self.segment;
        let cursor = &mut self.cursors[column];
        let from = cursor.value;
        let def = match &segment.columns.columns[column].levels {
            Levels::Required => return Some(Some(self.number..self.number + 1)),
            Levels::Optional(defs) => {
                let def = *defs.get(cursor.level)?;
                cursor.level += 1;
                cursor.value += usize::from(def == 1);
                def
            }
            Levels::List(lengths) => {
                let length = *lengths.get(self.number)?;
                cursor.value += if length == NO_LIST { 0 } else { length as usize };
                i16::from(length != NO_LIST)
            }
        };
        Some((def > 0).then_some(from..cursor.value))
    }

    fn values(&mut self, fields: &[Field], at: &mut usize) -> Option<Vec<Value<'static>>> {
        let mut values = Vec::with_capacity(fields.len());
        for field in fields {
            if let Some(tensor) = self.tensor(field, *at)? {
                values.push(Value { name: field.name.clone().into(), tensor: Cow::Owned(tensor) });
            }
            *at += width(field);
        }
        Some(values)
    }

    /// The row's part of a tensor; `Some(None)` where it has none.
    fn tensor(&mut self, field: &Field, at: usize) -> Option<Option<Tensor>> {
        let parts = match &field.form {
            Form::Columns(names) => names.len(),
            Form::One | Form::List | Form::Whole => 1,
        };
        let mut elements = Elements::new(field.dtype);
        let mut found = 0;
        for column in at..at + parts {
            if let Some(range) = self.elements(column)? {
                elements.take(&self.columns()[column].values, range)?;
                found += 1;
            }
        }
        let lengths = if field.has_shape() { self.elements(at + parts)? } else { None };
        if found < parts || parts == 0 {
            return Some(None);
        }
        let shape = match (&field.form, lengths) {
            (Form::One, None) => vec![1; field.axes],
            (Form::Columns(_) | Form::List, None) => vec![1, elements.count],
            (form, Some(lengths)) => {
                let Values::Int64(values) = &self.columns()[at + parts].values else { return None };
                let lengths = values.get(lengths)?.iter().map(|length| usize::try_from(*length).ok());
                let rows = (*form != Form::Whole).then_some(Some(1));
                rows.into_iter().chain(lengths).collect::<Option<Vec<_>>>()?
            }
            (Form::Whole, None) => return None,
        };
        elements.tensor(Shape::from(shape.as_slice())).map(Some)
    }
}

/// Elements on their way from columns into a tensor.
struct Elements {
    dtype: DataType,
    bytes: Vec<u8>,
    strings: Vec<Bytes>,
    count: usize,
}

impl Elements {
    fn new(dtype: DataType) -> Elements {
        Elements { dtype, bytes: Vec::new(), strings: Vec::new(), count: 0 }
    }

    fn take(&mut self, values: &Values, range: Range<usize>) -> Option<()> {
        use DataType as D;
        self.count += range.len();
        let bytes = &mut self.bytes;
        match (values, self.dtype) {
            (Values::Bool(values), _) => bytes.extend(values.get(range)?.iter().map(|value| u8::from(*value))),
            (Values::Int32(values), D::Int8 | D::Uint8) => {
                bytes.extend(values.get(range)?.iter().map(|value| *value as u8));
            }
            (Values::Int32(values), D::Int16 | D::Uint16) => {
                bytes.extend(values.get(range)?.iter().flat_map(|value| (*value as u16).to_le_bytes()));
            }
            (Values::Int32(values), _) => {
                bytes.extend(values.get(range)?.iter().flat_map(|value| value.to_le_bytes()));
            }
            (Values::Int64(values), _) => {
                bytes.extend(values.get(range)?.iter().flat_map(|value| value.to_le_bytes()));
            }
            (Values::Float(values), D::Fp16) => {
                bytes.extend(values.get(range)?.iter().flat_map(|value| float_to_half(*value)));
            }
            (Values::Float(values), D::Bf16) => {
                bytes.extend(values.get(range)?.iter().flat_map(|value| float_to_brain(*value)));
            }
            (Values::Float(values), _) => {
                bytes.extend(values.get(range)?.iter().flat_map(|value| value.to_le_bytes()));
            }
            (Values::Double(values), _) => {
                bytes.extend(values.get(range)?.iter().flat_map(|value| value.to_le_bytes()));
            }
            (Values::Bytes(values), _) => {
                self.strings.extend(values.get(range)?.iter().map(|text| Bytes::copy_from_slice(text.data())));
            }
            // No tensor is read into these.
            (Values::Few(..) | Values::Requests(_) | Values::Predictions(_), _) => return None,
        }
        Some(())
    }

    fn tensor(self, shape: Shape) -> Option<Tensor> {
        match self.dtype {
            DataType::Bytes => Tensor::strings(shape, self.strings).ok(),
            dtype => Tensor::fixed(dtype, shape, self.bytes).ok(),
        }
    }
}

/// Rows of one request as that request: tensors that each row has a part of are put together again. `None` of none, or where
/// parts do not fit.
pub fn joined(rows: &[Record<'static>]) -> Option<Record<'static>> {
    let first = rows.first()?;
    if rows.len() == 1 {
        return Some(first.clone());
    }
    let side = |of: for<'a> fn(&'a Record<'static>) -> &'a [Value<'static>]| {
        let join = |value: &Value<'static>| {
            let parts =
                rows.iter().map(|row| of(row).iter().find(|part| part.name == value.name).map(|part| &*part.tensor));
            // What stands in the first row alone had no rows.
            match parts.collect::<Option<Vec<&Tensor>>>() {
                Some(parts) => Some(Value { name: value.name.clone(), tensor: Cow::Owned(concatenated(&parts)?) }),
                None => Some(value.clone()),
            }
        };
        of(first).iter().map(join).collect::<Option<Vec<_>>>()
    };
    let rows_count = u32::try_from(rows.len()).ok()?;
    let (inputs, outputs) = (side(|row| &row.inputs)?, side(|row| &row.outputs)?);
    Some(Record { rows: rows_count, inputs, outputs, ..first.clone() })
}

fn concatenated(parts: &[&Tensor]) -> Option<Tensor> {
    let first = parts.first()?;
    if parts.iter().any(|part| part.shape() != first.shape() || part.dtype() != first.dtype()) {
        return None;
    }
    let mut shape: Vec<usize> = first.shape().to_vec();
    *shape.first_mut()? *= parts.len();
    let shape = Shape::from(shape.as_slice());
    match first.dtype() {
        DataType::Bytes => {
            let strings = parts.iter().filter_map(|part| part.as_strings()).flatten().cloned().collect();
            Tensor::strings(shape, strings).ok()
        }
        dtype => {
            let bytes: Vec<u8> =
                parts.iter().filter_map(|part| part.bytes()).flat_map(|bytes| bytes.to_vec()).collect();
            Tensor::fixed(dtype, shape, bytes).ok()
        }
    }
}
