//! What is known of an answered request, and what are its bytes?
//!
//! The bytes stand in the ring, and the hash of each row in a segment's Merkle tree is over the same form with that one
//! row in it. So there is one form only: whatever is read is written again to the same bytes. All numbers are
//! little-endian; `docs/capture.md` has the table. Integers of tensors' shapes are 32 bits, texts have a length of 16.

use std::borrow::Cow;

use bytes::Bytes;
use tiltyard_types::{DataType, Digest, ErrorKind, RequestId, Shape, Tensor, TensorData};

/// The form's number, a record's first byte.
pub const FORM: u8 = 1;

/// Axes of a tensor, at most.
const AXES_MAX: usize = 16;

/// How a request ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome<'a> {
    /// With outputs.
    Answered,
    /// With an error of this kind, and what it said.
    Failed(ErrorKind, Cow<'a, str>),
}

/// A tensor with its name.
#[derive(Clone, Debug, PartialEq)]
pub struct Value<'a> {
    /// The input's or output's name.
    pub name: Cow<'a, str>,
    /// Its elements.
    pub tensor: Cow<'a, Tensor>,
}

impl<'a> Value<'a> {
    /// A tensor of this name, borrowed.
    pub fn of(name: &'a str, tensor: &'a Tensor) -> Value<'a> {
        Value { name: name.into(), tensor: Cow::Borrowed(tensor) }
    }
}

/// A header that is kept, and what it said where it was there.
pub type Header<'a> = (Cow<'a, str>, Option<Cow<'a, str>>);

/// An answered request, or one row of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Record<'a> {
    /// The server's name for it; a row's prediction id is made of it.
    pub request: RequestId,
    /// How many rows it has.
    pub rows: u32,
    /// The number of the first of them, 0 unless this is a part.
    pub first_row: u32,
    /// When it was accepted, in microseconds since 1970.
    pub unix_us: u64,
    /// From accepted to answered, in nanoseconds.
    pub latency_ns: u64,
    /// The endpoint that was called.
    pub endpoint: Cow<'a, str>,
    /// The model that answered.
    pub model: Cow<'a, str>,
    /// Its version.
    pub version: u64,
    /// The deployment's digest.
    pub digest: Digest,
    /// The arm; empty without a plan.
    pub arm: Cow<'a, str>,
    /// What the sticky key hashes to.
    pub key: Option<u64>,
    /// The layout that its columns are named by; see [`Layout`](crate::Layout).
    pub layout: u64,
    /// How it ended.
    pub outcome: Outcome<'a>,
    /// Chosen headers, each request of an endpoint the same names in the same order.
    pub headers: Vec<Header<'a>>,
    /// What was asked.
    pub inputs: Vec<Value<'a>>,
    /// What was answered.
    pub outputs: Vec<Value<'a>>,
    /// Whose data it is, where that was declared: one for all rows or one for each. Then what was asked and answered is encrypted
    /// in segments, for each of them under a key of its own.
    pub subjects: Vec<Cow<'a, str>>,
}

/// Bytes that are no record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a record: {0}")]
pub struct NoRecord(&'static str);

impl Record<'static> {
    /// A record without anything: what a reader or a test starts from.
    pub(crate) fn empty() -> Record<'static> {
        Record {
            request: RequestId::from_bits(0),
            rows: 1,
            first_row: 0,
            unix_us: 0,
            latency_ns: 0,
            endpoint: "".into(),
            model: "".into(),
            version: 0,
            digest: Digest::new([0; 32]),
            arm: "".into(),
            key: None,
            layout: 0,
            outcome: Outcome::Answered,
            headers: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            subjects: Vec::new(),
        }
    }
}

impl Record<'_> {
    /// Appends the record's bytes to `out`. Texts are cut at 64 KiB, and axes behind the sixteenth are folded into it.
    pub fn write(&self, out: &mut Vec<u8>) {
        let (outcome, why) = match &self.outcome {
            Outcome::Answered => (0, ""),
            Outcome::Failed(kind, why) => (1 + kind_number(*kind), why.as_ref()),
        };
        let is_private = u8::from(!self.subjects.is_empty());
        out.extend_from_slice(&[FORM, outcome, u8::from(self.key.is_some()), is_private]);
        out.extend_from_slice(&self.rows.to_le_bytes());
        out.extend_from_slice(&self.first_row.to_le_bytes());
        out.extend_from_slice(&self.request.bits().to_be_bytes());
        for number in [self.unix_us, self.latency_ns, self.version, self.layout, self.key.unwrap_or(0)] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(self.digest.as_bytes());
        for text in [&self.endpoint, &self.model, &self.arm] {
            write_text(text, out);
        }
        write_text(why, out);
        write_count(self.headers.len(), out);
        for (name, value) in self.headers.iter().take(usize::from(u16::MAX)) {
            write_text(name, out);
            out.push(u8::from(value.is_some()));
            write_text(value.as_deref().unwrap_or_default(), out);
        }
        for values in [&self.inputs, &self.outputs] {
            write_count(values.len(), out);
            for value in values.iter().take(usize::from(u16::MAX)) {
                write_text(&value.name, out);
                write_tensor(&value.tensor, out);
            }
        }
        if is_private == 1 {
            out.extend_from_slice(&u32::try_from(self.subjects.len()).unwrap_or(u32::MAX).to_le_bytes());
            self.subjects.iter().for_each(|subject| write_text(subject, out));
        }
    }

    /// Reads a record; texts and elements are parts of `bytes`. Fails on anything that [`Record::write`] does not write.
    pub fn read(bytes: &Bytes) -> Result<Record<'_>, NoRecord> {
        let mut reader = Reader { bytes, at: 0 };
        let [form, outcome, has_key, is_private] = reader.array()?;
        if form != FORM {
            return Err(NoRecord("of an unknown form"));
        }
        let (rows, first_row) = (reader.u32()?, reader.u32()?);
        let request = RequestId::from_bits(u128::from_be_bytes(reader.array()?));
        let [unix_us, latency_ns, version, layout, key] =
            [reader.u64()?, reader.u64()?, reader.u64()?, reader.u64()?, reader.u64()?];
        let digest = Digest::new(reader.array()?);
        let (endpoint, model, arm, why) = (reader.text()?, reader.text()?, reader.text()?, reader.text()?);
        let outcome = match outcome {
            0 if why.is_empty() => Outcome::Answered,
            0 => return Err(NoRecord("an answer that says why it failed")),
            kind => {
                let kind = ErrorKind::ALL.get(usize::from(kind) - 1).ok_or(NoRecord("an unknown kind of error"))?;
                Outcome::Failed(*kind, why)
            }
        };
        if is_private > 1 || has_key > 1 || (has_key == 0 && key != 0) {
            return Err(NoRecord("flags that nobody sets"));
        }
        let key = (has_key == 1).then_some(key);
        let headers = (0..reader.u16()?).map(|_| reader.header()).collect::<Result<_, _>>()?;
        let inputs = (0..reader.u16()?).map(|_| reader.value()).collect::<Result<_, _>>()?;
        let outputs = (0..reader.u16()?).map(|_| reader.value()).collect::<Result<_, _>>()?;
        let count = if is_private == 1 { reader.u32()? } else { 0 };
        let subjects = (0..count).map(|_| reader.text()).collect::<Result<Vec<_>, _>>()?;
        if is_private == 1 && subjects.is_empty() {
            return Err(NoRecord("of somebody, and of nobody"));
        }
        if reader.at != bytes.len() {
            return Err(NoRecord("bytes behind its end"));
        }
        let record = Record {
            request,
            rows,
            first_row,
            unix_us,
            latency_ns,
            endpoint,
            model,
            version,
            digest,
            arm,
            key,
            layout,
            outcome,
            headers,
            inputs,
            outputs,
            subjects,
        };
        Ok(record)
    }

    /// The record of row `row` alone, counted from this record's first, without whose data it is. Tensors that have no row for each
    /// of the record's stand in its first row only.
    pub fn row(&self, row: u32) -> Record<'static> {
        let cut = |values: &[Value<'_>]| -> Vec<Value<'static>> {
            let cut = |value: &Value<'_>| {
                let at = row as usize;
                let tensor = match self.is_by_row(&value.tensor) {
                    true => value.tensor.rows(at..at + 1)?,
                    false if row == 0 => value.tensor.as_ref().clone(),
                    false => return None,
                };
                Some(Value { name: value.name.to_string().into(), tensor: Cow::Owned(tensor) })
            };
            values.iter().filter_map(cut).collect()
        };
        let owned = |text: &Cow<'_, str>| Cow::Owned(text.to_string());
        Record {
            rows: 1,
            first_row: self.first_row.wrapping_add(row),
            endpoint: owned(&self.endpoint),
            model: owned(&self.model),
            arm: owned(&self.arm),
            outcome: match &self.outcome {
                Outcome::Answered => Outcome::Answered,
                Outcome::Failed(kind, why) => Outcome::Failed(*kind, owned(why)),
            },
            headers: self.headers.iter().map(|(name, value)| (owned(name), value.as_ref().map(owned))).collect(),
            inputs: cut(&self.inputs),
            outputs: cut(&self.outputs),
            subjects: Vec::new(),
            ..*self
        }
    }

    /// Whose data a row is, where that was declared. Where some rows say it and this one does not, nobody's.
    pub(crate) fn subject(&self, row: u32) -> Option<&str> {
        match self.subjects.as_slice() {
            [] => None,
            [one] => Some(one),
            each => Some(each.get(row as usize).map_or("", AsRef::as_ref)),
        }
    }

    /// Whether a tensor has a row for each of the record's.
    pub(crate) fn is_by_row(&self, tensor: &Tensor) -> bool {
        tensor.shape().rows() == Some(self.rows as usize)
    }
}

/// Its place in [`ErrorKind::ALL`].
fn kind_number(kind: ErrorKind) -> u8 {
    ErrorKind::ALL.iter().position(|one| *one == kind).unwrap_or_default() as u8
}

fn write_count(count: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(&u16::try_from(count).unwrap_or(u16::MAX).to_le_bytes());
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    let text = &text[..text.floor_char_boundary(usize::from(u16::MAX))];
    write_count(text.len(), out);
    out.extend_from_slice(text.as_bytes());
}

fn write_tensor(tensor: &Tensor, out: &mut Vec<u8>) {
    let dtype = DataType::ALL.iter().position(|one| *one == tensor.dtype()).unwrap_or_default();
    let shape = tensor.shape();
    let (kept, folded) = shape.split_at(shape.len().min(AXES_MAX - 1));
    out.extend_from_slice(&[dtype as u8, kept.len() as u8 + u8::from(!folded.is_empty())]);
    let folded = (!folded.is_empty()).then(|| folded.iter().product());
    for axis in kept.iter().copied().chain(folded) {
        out.extend_from_slice(&u32::try_from(axis).unwrap_or(u32::MAX).to_le_bytes());
    }
    match tensor.data() {
        TensorData::Fixed(bytes) => out.extend_from_slice(bytes),
        TensorData::Strings(elements) => {
            for element in elements {
                out.extend_from_slice(&(element.len() as u32).to_le_bytes());
                out.extend_from_slice(element);
            }
        }
    }
}

/// Reads from the front of bytes that somebody may have damaged.
struct Reader<'a> {
    bytes: &'a Bytes,
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<Bytes, NoRecord> {
        let end = self.at.checked_add(length).filter(|end| *end <= self.bytes.len()).ok_or(NoRecord("cut off"))?;
        let taken = self.bytes.slice(self.at..end);
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], NoRecord> {
        let found = self.bytes[self.at..].first_chunk::<N>().copied().ok_or(NoRecord("cut off"))?;
        self.at += N;
        Ok(found)
    }

    fn u16(&mut self) -> Result<u16, NoRecord> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    fn u32(&mut self) -> Result<u32, NoRecord> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, NoRecord> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn text(&mut self) -> Result<Cow<'a, str>, NoRecord> {
        let length = usize::from(self.u16()?);
        let bytes = self.bytes[self.at..].get(..length).ok_or(NoRecord("cut off"))?;
        self.at += length;
        std::str::from_utf8(bytes).map(Cow::Borrowed).map_err(|_| NoRecord("a text that is not UTF-8"))
    }

    fn header(&mut self) -> Result<Header<'a>, NoRecord> {
        let name = self.text()?;
        let [is_there] = self.array()?;
        let value = self.text()?;
        match is_there {
            0 if value.is_empty() => Ok((name, None)),
            1 => Ok((name, Some(value))),
            _ => Err(NoRecord("a header that is neither there nor not")),
        }
    }

    fn value(&mut self) -> Result<Value<'a>, NoRecord> {
        let name = self.text()?;
        let [dtype, rank] = self.array()?;
        let dtype = *DataType::ALL.get(usize::from(dtype)).ok_or(NoRecord("an unknown data type"))?;
        if usize::from(rank) > AXES_MAX {
            return Err(NoRecord("too many axes"));
        }
        let axes = (0..rank).map(|_| Ok(self.u32()? as usize)).collect::<Result<Vec<_>, _>>()?;
        let shape = Shape::from(axes.as_slice());
        let elements = shape.elements().ok_or(NoRecord("a shape without an end"))?;
        let tensor = match dtype.width() {
            Some(width) => {
                let length = elements.checked_mul(width).ok_or(NoRecord("a shape without an end"))?;
                Tensor::fixed(dtype, shape, self.take(length)?)
            }
            // Each element has a length of four bytes at least, so that nothing is sized by what a shape says.
            None if elements > (self.bytes.len() - self.at) / 4 => return Err(NoRecord("cut off")),
            None => {
                let element = |_| {
                    let length = self.u32()? as usize;
                    self.take(length)
                };
                Tensor::strings(shape, (0..elements).map(element).collect::<Result<_, _>>()?)
            }
        };
        let tensor = tensor.map_err(|_| NoRecord("elements that its data type does not have"))?;
        Ok(Value { name, tensor: Cow::Owned(tensor) })
    }
}

#[cfg(test)]
pub(crate) mod tests;
