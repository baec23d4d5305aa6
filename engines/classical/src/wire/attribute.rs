//! How is an attribute read whose lists have millions of elements?
//!
//! Its lists stay as the file has them, and are read as often as somebody asks: unpacked they would take several times the
//! memory, and getting memory from the system is what loading a large forest waits for. Most writers give each element a
//! field of its own, some pack them; both are read.

use std::cell::OnceCell;

use bytes::{Buf, Bytes};
use prost::Message;
use prost::encoding::decode_varint;

use super::Tensor;

const FLOATS: u32 = 7;
const INTS: u32 = 8;
const STRINGS: u32 = 9;

/// An attribute of a node.
#[derive(Debug, Default)]
pub(crate) struct Attribute {
    pub(crate) name: String,
    pub(crate) f: f32,
    pub(crate) i: i64,
    pub(crate) s: Bytes,
    pub(crate) t: Option<Tensor>,
    /// Elements of the lists.
    pub(crate) lengths: Lengths,
    bytes: Bytes,
    ints: OnceCell<Vec<i64>>,
    floats: OnceCell<Vec<f32>>,
    strings: OnceCell<Vec<Bytes>>,
}

/// How many elements the lists of an attribute have.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lengths {
    pub(crate) floats: usize,
    pub(crate) ints: usize,
    pub(crate) strings: usize,
}

impl Attribute {
    /// Reads all but the lists, which are looked at to the end: nothing of an attribute that was read is malformed.
    pub(crate) fn read(bytes: &Bytes) -> Result<Attribute, Malformed> {
        let mut attribute = Attribute { bytes: bytes.clone(), ..Attribute::default() };
        let rest = Fields(bytes);
        for field in rest {
            match field? {
                (1, Field::Bytes(name)) => {
                    attribute.name = String::from_utf8(name.to_vec()).map_err(|_| Malformed)?;
                }
                (2, Field::Fixed32(value)) => attribute.f = f32::from_le_bytes(value),
                (3, Field::Varint(value)) => attribute.i = value as i64,
                (4, Field::Bytes(text)) => attribute.s = bytes.slice_ref(text),
                (5, Field::Bytes(tensor)) => {
                    attribute.t = Some(Tensor::decode(bytes.slice_ref(tensor)).map_err(|_| Malformed)?)
                }
                (INTS, Field::Varint(_)) => attribute.lengths.ints += 1,
                (FLOATS, Field::Fixed32(_)) => attribute.lengths.floats += 1,
                (STRINGS, Field::Bytes(_)) => attribute.lengths.strings += 1,
                (FLOATS, Field::Bytes(packed)) if packed.len() % 4 == 0 => {
                    attribute.lengths.floats += packed.len() / 4;
                }
                (INTS, Field::Bytes(mut packed)) => {
                    while !packed.is_empty() {
                        decode_varint(&mut packed).map_err(|_| Malformed)?;
                        attribute.lengths.ints += 1;
                    }
                }
                (1..=5 | FLOATS..=STRINGS, _) => return Err(Malformed),
                _ => {}
            }
        }
        Ok(attribute)
    }

    /// The list of integers, read anew.
    pub(crate) fn each_int(&self) -> impl Iterator<Item = i64> {
        let mut fields = self.fields(INTS);
        let mut packed: &[u8] = &[];
        std::iter::from_fn(move || {
            while packed.is_empty() {
                match fields.next()? {
                    Field::Varint(value) => return Some(value as i64),
                    Field::Bytes(bytes) => packed = bytes,
                    Field::Fixed32(_) | Field::Other => {}
                }
            }
            decode_varint(&mut packed).ok().map(|value| value as i64)
        })
    }

    /// The list of numbers, read anew.
    pub(crate) fn each_float(&self) -> impl Iterator<Item = f32> {
        let mut fields = self.fields(FLOATS);
        let mut packed: &[u8] = &[];
        std::iter::from_fn(move || {
            while packed.is_empty() {
                match fields.next()? {
                    Field::Fixed32(value) => return Some(f32::from_le_bytes(value)),
                    Field::Bytes(bytes) => packed = bytes,
                    Field::Varint(_) | Field::Other => {}
                }
            }
            packed.try_get_f32_le().ok()
        })
    }

    /// The list of texts, read anew.
    pub(crate) fn each_string(&self) -> impl Iterator<Item = &[u8]> {
        self.fields(STRINGS).filter_map(|field| match field {
            Field::Bytes(text) => Some(text),
            _ => None,
        })
    }

    /// The list of integers, kept.
    pub(crate) fn ints(&self) -> &[i64] {
        self.ints.get_or_init(|| self.each_int().collect())
    }

    /// The list of numbers, kept.
    pub(crate) fn floats(&self) -> &[f32] {
        self.floats.get_or_init(|| self.each_float().collect())
    }

    /// The list of texts, kept: slices of the file.
    pub(crate) fn strings(&self) -> &[Bytes] {
        self.strings.get_or_init(|| self.each_string().map(|text| self.bytes.slice_ref(text)).collect())
    }

    fn fields(&self, wanted: u32) -> impl Iterator<Item = Field<'_>> {
        Fields(&self.bytes).map_while(Result::ok).filter_map(move |(tag, field)| (tag == wanted).then_some(field))
    }
}

/// A field that is not whole, or not of its kind.
#[derive(Debug, thiserror::Error)]
#[error("a field that is not whole, or of another kind than expected")]
pub(crate) struct Malformed;

enum Field<'a> {
    Varint(u64),
    Fixed32([u8; 4]),
    Bytes(&'a [u8]),
    /// Of eight bytes, which no attribute has.
    Other,
}

/// The fields of a message, in order, by number.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    #[inline]
    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    #[inline]
    fn varint(&mut self) -> Result<u64, Malformed> {
        if let [byte @ ..0x80, rest @ ..] = self.0 {
            self.0 = rest;
            return Ok(u64::from(*byte));
        }
        decode_varint(&mut self.0).map_err(|_| Malformed)
    }

    #[inline]
    fn field(&mut self) -> Result<(u32, Field<'a>), Malformed> {
        let key = self.varint()?;
        let tag = u32::try_from(key >> 3).map_err(|_| Malformed)?;
        let field = match key & 7 {
            0 => Field::Varint(self.varint()?),
            1 => self.take(8).map(|_| Field::Other)?,
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| Malformed)?;
                Field::Bytes(self.take(length)?)
            }
            5 => Field::Fixed32(self.take(4)?.try_into().map_err(|_| Malformed)?),
            _ => return Err(Malformed),
        };
        Ok((tag, field))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Field<'a>), Malformed>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        (!self.0.is_empty()).then(|| self.field())
    }
}
