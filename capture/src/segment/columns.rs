//! What do the rows of records look like as columns of Parquet?
//!
//! The facts of a request come first, the same columns in every segment; then headers, inputs and outputs by the layout.
//! The endpoint and the day are in a segment's path alone: most readers take them from there, and some fail where both have
//! them. What a row does not have is null. FP16 and BF16 become FLOAT, which holds each of their values; BYTES are text where
//! all of a segment's are UTF-8, else they are binary.

use std::collections::HashSet;
use std::sync::Arc;

use half::f16;
use parquet::basic::{LogicalType, Repetition, TimeUnit, Type as Physical};
use parquet::data_type::ByteArray;
use parquet::errors::Result;
use parquet::schema::types::{ColumnPath, Type, TypePtr};
use tiltyard_types::{DataType, RequestId, Tensor, TensorData};

use crate::layout::{Field, Form, Layout};
use crate::record::{Outcome, Record, Value};
use crate::seal::SEALED;

/// A column's values, without its nulls.
#[derive(Debug)]
pub(super) enum Values {
    Bool(Vec<bool>),
    Int32(Vec<i32>),
    Int64(Vec<i64>),
    Float(Vec<f32>),
    Double(Vec<f64>),
    Bytes(Vec<ByteArray>),
    /// Texts of which there are few: each once, and which of them rows have.
    Few(Vec<ByteArray>, Vec<u32>),
    /// Ids of requests, and of their rows: texts are made of them when they are written, for each would be memory of its own.
    Requests(Vec<RequestId>),
    Predictions(Vec<(RequestId, u32)>),
}

/// Where a column's nulls and lists are.
#[derive(Debug)]
pub(super) enum Levels {
    /// Nowhere.
    Required,
    /// 1 for a value, 0 for a null.
    Optional(Vec<i16>),
    /// How many elements each row's list has, [`NO_LIST`] for a null.
    List(Vec<u32>),
}

/// The length of a list that is not there.
pub(super) const NO_LIST: u32 = u32::MAX;

/// What a column's values mean beyond what they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    Number,
    Integer(i8, bool),
    Time,
    /// Text while all are UTF-8.
    Text(bool),
}

#[derive(Debug)]
pub(super) struct Column {
    name: String,
    pub(super) values: Values,
    pub(super) levels: Levels,
    meaning: Meaning,
}

impl Column {
    fn text(name: impl Into<String>, levels: Levels) -> Column {
        Column { name: name.into(), values: Values::Bytes(Vec::new()), levels, meaning: Meaning::Text(true) }
    }

    fn int64(name: &str, meaning: Meaning) -> Column {
        Column { name: name.into(), values: Values::Int64(Vec::new()), levels: Levels::Required, meaning }
    }

    fn of(name: String, dtype: DataType, levels: Levels) -> Column {
        use DataType::{Bf16, Bool, Fp16, Fp32, Fp64, Int8, Int16, Int32, Int64, Uint8, Uint16, Uint32, Uint64};
        let (values, meaning) = match dtype {
            Bool => (Values::Bool(Vec::new()), Meaning::Number),
            Int8 => (Values::Int32(Vec::new()), Meaning::Integer(8, true)),
            Int16 => (Values::Int32(Vec::new()), Meaning::Integer(16, true)),
            Int32 => (Values::Int32(Vec::new()), Meaning::Integer(32, true)),
            Int64 => (Values::Int64(Vec::new()), Meaning::Integer(64, true)),
            Uint8 => (Values::Int32(Vec::new()), Meaning::Integer(8, false)),
            Uint16 => (Values::Int32(Vec::new()), Meaning::Integer(16, false)),
            Uint32 => (Values::Int32(Vec::new()), Meaning::Integer(32, false)),
            Uint64 => (Values::Int64(Vec::new()), Meaning::Integer(64, false)),
            Fp16 | Bf16 | Fp32 => (Values::Float(Vec::new()), Meaning::Number),
            Fp64 => (Values::Double(Vec::new()), Meaning::Number),
            DataType::Bytes => (Values::Bytes(Vec::new()), Meaning::Text(true)),
        };
        Column { name, values, levels, meaning }
    }

    /// Its path in the file.
    pub(super) fn path(&self) -> ColumnPath {
        let inner = matches!(self.levels, Levels::List(_)).then_some(["list", "element"]);
        let names = std::iter::once(self.name.as_str()).chain(inner.into_iter().flatten());
        ColumnPath::new(names.map(str::to_owned).collect())
    }

    /// Whether its values are texts of which many are the same.
    pub(super) fn comes_again(&self) -> bool {
        matches!(self.values, Values::Bytes(_) | Values::Few(..)) && self.name != SEALED
    }

    /// Whether people ask for a part of its values.
    pub(super) fn is_asked_for(&self) -> bool {
        ["sequence", "time", "latency_ns"].contains(&self.name.as_str())
    }

    /// Its place in the schema.
    fn field(&self) -> Result<TypePtr> {
        let physical = match self.values {
            Values::Bool(_) => Physical::BOOLEAN,
            Values::Int32(_) => Physical::INT32,
            Values::Int64(_) => Physical::INT64,
            Values::Float(_) => Physical::FLOAT,
            Values::Double(_) => Physical::DOUBLE,
            Values::Bytes(_) | Values::Few(..) | Values::Requests(_) | Values::Predictions(_) => Physical::BYTE_ARRAY,
        };
        let logical = match self.meaning {
            Meaning::Integer(bits, is_signed) => Some(LogicalType::integer(bits, is_signed)),
            Meaning::Time => Some(LogicalType::timestamp(true, TimeUnit::MICROS)),
            Meaning::Text(true) => Some(LogicalType::String),
            Meaning::Number | Meaning::Text(false) => None,
        };
        let of = |name: &str, repetition| {
            let field = Type::primitive_type_builder(name, physical).with_repetition(repetition);
            field.with_logical_type(logical.clone()).build().map(Arc::new)
        };
        match self.levels {
            Levels::Required => of(&self.name, Repetition::REQUIRED),
            Levels::Optional(_) => of(&self.name, Repetition::OPTIONAL),
            Levels::List(_) => {
                let element = of("element", Repetition::REQUIRED)?;
                let list = Type::group_type_builder("list").with_repetition(Repetition::REPEATED);
                let list = list.with_fields(vec![element]).build()?;
                let column = Type::group_type_builder(&self.name).with_repetition(Repetition::OPTIONAL);
                column.with_logical_type(Some(LogicalType::List)).with_fields(vec![list.into()]).build().map(Arc::new)
            }
        }
    }

    /// Adds a text; `None` for a null.
    fn push_text(&mut self, text: Option<&ByteArray>) {
        match (&mut self.values, text) {
            (Values::Bytes(values), Some(text)) => values.push(text.clone()),
            (Values::Few(texts, values), Some(text)) => {
                let known = texts.iter().rposition(|known| known == text).unwrap_or_else(|| {
                    texts.push(text.clone());
                    texts.len() - 1
                });
                values.push(known as u32);
            }
            _ => {}
        }
        if let Levels::Optional(levels) = &mut self.levels {
            levels.push(i16::from(text.is_some()));
        }
    }

    fn push_int64(&mut self, value: i64) {
        if let Values::Int64(values) = &mut self.values {
            values.push(value);
        }
    }

    fn push_null(&mut self) {
        match &mut self.levels {
            Levels::Required => {}
            Levels::Optional(levels) => levels.push(0),
            Levels::List(lengths) => lengths.push(NO_LIST),
        }
    }

    /// Adds a row of these elements: one, or a list of them.
    fn push_elements(&mut self, tensor: &Tensor, elements: std::ops::Range<usize>) {
        match &mut self.levels {
            Levels::Required => {}
            Levels::Optional(levels) => levels.push(1),
            // A record has fewer elements than that.
            Levels::List(lengths) => lengths.push(elements.len() as u32),
        }
        self.values.extend(tensor, elements, &mut self.meaning);
    }
}

impl Values {
    fn extend(&mut self, tensor: &Tensor, elements: std::ops::Range<usize>, meaning: &mut Meaning) {
        let bytes = match tensor.data() {
            TensorData::Fixed(bytes) => bytes,
            TensorData::Strings(strings) => {
                if let Values::Bytes(values) = self {
                    for string in &strings[elements] {
                        if *meaning == Meaning::Text(true) && std::str::from_utf8(string).is_err() {
                            *meaning = Meaning::Text(false);
                        }
                        values.push(ByteArray::from(string.clone()));
                    }
                }
                return;
            }
        };
        let width = tensor.dtype().width().unwrap_or(1);
        let bytes = &bytes[elements.start * width..elements.end * width];
        use DataType as D;
        match (self, tensor.dtype()) {
            (Values::Bool(values), _) => values.extend(bytes.iter().map(|byte| *byte != 0)),
            (Values::Int32(values), D::Int8) => values.extend(bytes.iter().map(|byte| i32::from(*byte as i8))),
            (Values::Int32(values), D::Uint8) => values.extend(bytes.iter().map(|byte| i32::from(*byte))),
            (Values::Int32(values), D::Int16) => values.extend(each(bytes, |two| i32::from(i16::from_le_bytes(two)))),
            (Values::Int32(values), D::Uint16) => values.extend(each(bytes, |two| i32::from(u16::from_le_bytes(two)))),
            (Values::Int32(values), _) => values.extend(each(bytes, i32::from_le_bytes)),
            (Values::Int64(values), _) => values.extend(each(bytes, i64::from_le_bytes)),
            (Values::Float(values), D::Fp16) => values.extend(each(bytes, half_to_float)),
            (Values::Float(values), D::Bf16) => values.extend(each(bytes, brain_to_float)),
            (Values::Float(values), _) => values.extend(each(bytes, f32::from_le_bytes)),
            (Values::Double(values), _) => values.extend(each(bytes, f64::from_le_bytes)),
            (Values::Bytes(_) | Values::Few(..) | Values::Requests(_) | Values::Predictions(_), _) => {}
        }
    }
}

/// A value of FP16 as one of FP32, to the bit: what is no number keeps which one it is, so that it comes back.
fn half_to_float(two: [u8; 2]) -> f32 {
    let half = f16::from_le_bytes(two);
    if !half.is_nan() {
        return half.to_f32();
    }
    let bits = u32::from(half.to_bits());
    f32::from_bits((bits & 0x8000) << 16 | 0x7f80_0000 | (bits & 0x03ff) << 13)
}

/// The way back.
pub(super) fn float_to_half(float: f32) -> [u8; 2] {
    if !float.is_nan() {
        return f16::from_f32(float).to_le_bytes();
    }
    let bits = float.to_bits();
    ((bits >> 16 & 0x8000 | 0x7c00 | bits >> 13 & 0x03ff) as u16).to_le_bytes()
}

/// BF16 is the upper half of FP32.
fn brain_to_float(two: [u8; 2]) -> f32 {
    f32::from_bits(u32::from(u16::from_le_bytes(two)) << 16)
}

/// The way back.
pub(super) fn float_to_brain(float: f32) -> [u8; 2] {
    ((float.to_bits() >> 16) as u16).to_le_bytes()
}

fn each<const N: usize, T>(bytes: &[u8], read: impl Fn([u8; N]) -> T) -> impl Iterator<Item = T> {
    bytes.as_chunks::<N>().0.iter().map(move |chunk| read(*chunk))
}

/// The facts' columns, in their order.
const REQUEST: usize = 2;
pub(super) const ROW: usize = 3;
pub(super) const TIME: usize = 4;
pub(super) const VERSION: usize = 6;
pub(super) const LATENCY: usize = 9;
pub(super) const KEY: usize = 11;
pub(super) const ERROR: usize = 12;
pub(super) const FACTS: usize = 13;
pub(super) const PREDICTION: usize = 1;
pub(super) const DIGEST: usize = 7;
pub(super) const ARM: usize = 8;
pub(super) const OUTCOME: usize = 10;
/// Those that are texts and never null, of which there are few: model, digest, arm and outcome.
const TEXTS: [usize; 4] = [5, DIGEST, ARM, OUTCOME];

fn facts() -> Vec<Column> {
    let optional = || Levels::Optional(Vec::new());
    let few =
        |name: &str| Column { values: Values::Few(Vec::new(), Vec::new()), ..Column::text(name, Levels::Required) };
    let mut row = Column::of("row".into(), DataType::Int32, Levels::Required);
    row.meaning = Meaning::Integer(32, true);
    vec![
        Column::int64("sequence", Meaning::Integer(64, true)),
        Column { values: Values::Predictions(Vec::new()), ..Column::text("prediction_id", Levels::Required) },
        Column { values: Values::Requests(Vec::new()), ..Column::text("request_id", Levels::Required) },
        row,
        Column::int64("time", Meaning::Time),
        few("model"),
        Column::int64("version", Meaning::Integer(64, true)),
        few("digest"),
        few("arm"),
        Column::int64("latency_ns", Meaning::Integer(64, true)),
        few("outcome"),
        Column::text("key_hash", optional()),
        Column::text("error", optional()),
    ]
}

/// Rows of one layout, as columns.
#[derive(Debug)]
pub(crate) struct Columns {
    pub(super) layout: Arc<Layout>,
    /// The model and the digest, which are the same for all rows.
    texts: [ByteArray; 2],
    pub(super) columns: Vec<Column>,
    pub(super) rows: usize,
    /// Bytes that they take in memory, about.
    pub(crate) bytes: usize,
}

impl Columns {
    /// No rows yet of the deployment that `record` is of.
    pub(crate) fn new(layout: Arc<Layout>, record: &Record<'_>) -> Columns {
        let mut columns = facts();
        for name in &layout.headers {
            columns.push(Column::text(format!("header_{name}"), Levels::Optional(Vec::new())));
        }
        for (side, fields) in [("input", &layout.inputs), ("output", &layout.outputs)] {
            for field in fields {
                columns.extend(columns_of(side, field));
            }
        }
        if let (true, Some(sealed)) = (layout.is_sealed, columns.last_mut()) {
            sealed.name = SEALED.to_owned();
            // Never text, whatever its bytes look like.
            sealed.meaning = Meaning::Text(false);
        }
        tell_apart(&mut columns);
        let texts = [record.model.as_ref(), &record.digest.to_string()].map(ByteArray::from);
        Columns { layout, texts, columns, rows: 0, bytes: 0 }
    }

    /// The schema of a segment with these columns.
    pub(super) fn schema(&self) -> Result<TypePtr> {
        let fields = self.columns.iter().map(Column::field).collect::<Result<Vec<_>>>()?;
        Type::group_type_builder("prediction").with_fields(fields).build().map(Arc::new)
    }

    /// Adds all rows of a record that fits the layout.
    pub(crate) fn push(&mut self, sequence: u64, record: &Record<'_>) {
        let bytes_before = self.rows * self.columns.len();
        self.push_facts(sequence, record);
        let mut at = FACTS;
        for name in &self.layout.headers {
            let value = record.headers.iter().find(|(known, _)| known == name).and_then(|(_, value)| value.as_deref());
            let value = value.map(ByteArray::from);
            (0..record.rows).for_each(|_| self.columns[at].push_text(value.as_ref()));
            at += 1;
        }
        let layout = self.layout.clone();
        for (fields, values) in [(&layout.inputs, &record.inputs), (&layout.outputs, &record.outputs)] {
            for field in fields {
                let is_it = |value: &&Value<'_>| {
                    value.name == field.name && field.fits(&value.tensor, record.is_by_row(&value.tensor))
                };
                let value = values.iter().find(is_it);
                let width = width(field);
                push_tensor(&mut self.columns[at..at + width], field, value, record);
                at += width;
                self.bytes += value.map_or(0, |value| value.tensor.size());
            }
        }
        self.rows += record.rows as usize;
        // A value of text has a header of its own; most columns are numbers of 8 bytes with their levels.
        self.bytes += (self.rows * self.columns.len() - bytes_before) * 24;
    }

    fn push_facts(&mut self, sequence: u64, record: &Record<'_>) {
        let (outcome, error) = match &record.outcome {
            Outcome::Answered => ("ok", None),
            Outcome::Failed(kind, why) => (kind.name(), Some(ByteArray::from(why.as_ref()))),
        };
        let [model, digest] = self.texts.clone();
        let (arm, outcome) = (ByteArray::from(record.arm.as_ref()), ByteArray::from(outcome));
        let key = record.key.map(|key| ByteArray::from(format!("{key:016x}").as_str()));
        for row in 0..record.rows {
            let row = record.first_row.wrapping_add(row);
            let columns = &mut self.columns;
            columns[0].push_int64(sequence.cast_signed());
            if let Values::Predictions(ids) = &mut columns[PREDICTION].values {
                ids.push((record.request, row));
            }
            if let Values::Requests(ids) = &mut columns[REQUEST].values {
                ids.push(record.request);
            }
            if let Values::Int32(rows) = &mut columns[ROW].values {
                rows.push(row.cast_signed());
            }
            for (column, text) in TEXTS.into_iter().zip([&model, &digest, &arm, &outcome]) {
                columns[column].push_text(Some(text));
            }
            columns[TIME].push_int64(record.unix_us.cast_signed());
            columns[VERSION].push_int64(record.version.cast_signed());
            columns[LATENCY].push_int64(record.latency_ns.cast_signed());
            columns[KEY].push_text(key.as_ref());
            columns[ERROR].push_text(error.as_ref());
        }
    }
}

/// How many columns a field has.
pub(super) fn width(field: &Field) -> usize {
    usize::from(field.has_shape())
        + match &field.form {
            Form::Columns(names) => names.len(),
            Form::One | Form::List | Form::Whole => 1,
        }
}

fn columns_of(side: &str, field: &Field) -> Vec<Column> {
    let list = || Levels::List(Vec::new());
    let name = format!("{side}_{}", field.name);
    let mut columns = match &field.form {
        Form::One => vec![Column::of(name.clone(), field.dtype, Levels::Optional(Vec::new()))],
        Form::List | Form::Whole => vec![Column::of(name.clone(), field.dtype, list())],
        Form::Columns(names) => {
            let of =
                |column: &String| Column::of(format!("{side}_{column}"), field.dtype, Levels::Optional(Vec::new()));
            names.iter().map(of).collect()
        }
    };
    if field.has_shape() {
        columns.push(Column::of(format!("{name}_shape"), DataType::Int64, list()));
    }
    columns
}

/// Two columns of one name would be one to most readers: the later ones get a number.
fn tell_apart(columns: &mut [Column]) {
    let mut taken = HashSet::new();
    for column in columns {
        let name = column.name.clone();
        let mut number = 1;
        while !taken.insert(column.name.clone()) {
            number += 1;
            column.name = format!("{name}_{number}");
        }
    }
}

fn push_tensor(columns: &mut [Column], field: &Field, value: Option<&Value<'_>>, record: &Record<'_>) {
    let rows = record.rows as usize;
    let Some(value) = value else {
        columns.iter_mut().for_each(|column| (0..rows).for_each(|_| column.push_null()));
        return;
    };
    let tensor = value.tensor.as_ref();
    let per_row = tensor.elements().checked_div(rows).unwrap_or(0);
    let is_whole = field.form == Form::Whole;
    let shape: Vec<i64> = tensor.shape()[usize::from(!is_whole)..].iter().map(|axis| *axis as i64).collect();
    let shape = field.has_shape().then(|| Tensor::from_slice([shape.len()], &shape).ok()).flatten();
    for row in 0..rows {
        if is_whole && row > 0 {
            columns.iter_mut().for_each(Column::push_null);
            continue;
        }
        let elements = if is_whole { 0..tensor.elements() } else { row * per_row..(row + 1) * per_row };
        match &field.form {
            Form::Columns(_) => {
                for (column, element) in columns.iter_mut().zip(elements) {
                    column.push_elements(tensor, element..element + 1);
                }
            }
            Form::One | Form::List | Form::Whole => columns[0].push_elements(tensor, elements),
        }
        if let (Some(shape), Some(column)) = (&shape, columns.last_mut()) {
            column.push_elements(shape, 0..shape.elements());
        }
    }
}
