//! How does a person's row stand in a segment, so that nobody reads it without that person's key?
//!
//! The row's record, as one row has it in the ring, is encrypted whole. What stands in the segment is the same record without
//! what was asked and answered, without headers, key and the error's words, and with one value `sealed`: 48 bytes that say under
//! whose key, then the rest, both AES-256-GCM. Each segment has a random salt in its footer; the key of its rows of one
//! subject is HMAC-SHA-256 of "segment", a zero byte and the salt under the subject's key, and the nonce is the row's number in
//! the segment. So no key meets a nonce twice. The hash of a row in the segment's tree is over what stands there.

use std::borrow::Cow;

use bytes::Bytes;
use ring::aead::{Aad, LessSafeKey, NONCE_LEN, Nonce};
use tiltyard_types::{Shape, Tensor};

use crate::keys::{Key, Keys, Name, TAG_BYTES, aead, derived, random};
use crate::record::{Outcome, Record, Value};
use crate::{Error, Result};

/// The value's name, and its column's.
pub(crate) const SEALED: &str = "sealed";

/// Bytes that say under whose key a row is.
const NAME_BYTES: usize = 32 + TAG_BYTES;

/// Seals the rows of one segment.
#[derive(Debug)]
pub(crate) struct Sealer {
    pub(crate) salt: [u8; 16],
    names: LessSafeKey,
}

/// What a row that stands sealed in a segment is.
#[derive(Clone, Debug, PartialEq)]
pub enum Opened {
    /// What was asked and answered.
    Row(Box<Record<'static>>),
    /// Its subject's key is destroyed.
    Erased,
}

impl Sealer {
    /// For a new segment.
    pub(crate) fn new(keys: &Keys) -> Result<Sealer> {
        Ok(Sealer::of(keys, random()?))
    }

    /// For a segment with this salt.
    pub(crate) fn of(keys: &Keys, salt: [u8; 16]) -> Sealer {
        Sealer { salt, names: aead(&keys.names(&salt)) }
    }

    fn key(&self, subject: &Key) -> LessSafeKey {
        aead(&derived(subject, b"segment", &self.salt))
    }

    /// A row of a record as it stands in the segment, where it has this number.
    pub(crate) fn seal(&self, keys: &mut Keys, record: &Record<'_>, row: u32, number: u64) -> Result<Record<'static>> {
        let subject = record.subject(row).unwrap_or_default();
        let (name, key) = keys.sealing_key(&record.endpoint, subject, record.unix_us / 1000)?;
        let inner = record.row(row);
        let mut outer = without_payload(&inner);
        let (mut bare, mut payload) = (Vec::new(), Vec::new());
        outer.write(&mut bare);
        inner.write(&mut payload);
        let failed = |_| Error::broken(std::path::Path::new("keys"), "a row cannot be encrypted");
        let mut sealed = name.to_vec();
        self.names.seal_in_place_append_tag(nonce(number), Aad::from(&bare), &mut sealed).map_err(failed)?;
        self.key(&key).seal_in_place_append_tag(nonce(number), Aad::from(&bare), &mut payload).map_err(failed)?;
        sealed.extend_from_slice(&payload);
        outer.inputs.extend(value(sealed.into()));
        Ok(outer)
    }

    /// What a sealed row is, which has this number in its segment. Fails where it is not what was sealed there.
    pub(crate) fn open(&self, keys: &Keys, outer: &Record<'_>, number: u64) -> Result<Opened, &'static str> {
        const OTHER: &str = "not what was encrypted";
        let sealed = outer.inputs.first().and_then(|value| value.tensor.as_strings()?.first().cloned()).ok_or(OTHER)?;
        let (name, payload) = sealed.split_at_checked(NAME_BYTES).ok_or(OTHER)?;
        let (mut bare, mut name, mut payload) = (Vec::new(), name.to_vec(), payload.to_vec());
        without_payload(outer).write(&mut bare);
        let opened = self.names.open_in_place(nonce(number), Aad::from(&bare), &mut name);
        let name: Name = opened.ok().and_then(|name| name.first_chunk().copied()).ok_or(OTHER)?;
        let key = keys.opening_key(&name).map_err(|_| "its key cannot be read")?;
        let Some(key) = key else { return Ok(Opened::Erased) };
        let Ok(inner) = self.key(&key).open_in_place(nonce(number), Aad::from(&bare), &mut payload) else {
            // A row that was still in the ring when its subject was erased, who has a new key since.
            return if keys.was_erased(&name) { Ok(Opened::Erased) } else { Err(OTHER) };
        };
        let inner = Bytes::copy_from_slice(inner);
        let record = Record::read(&inner).map_err(|_| OTHER)?;
        Ok(Opened::Row(Box::new(record.row(0))))
    }
}

/// What everybody may know of a row.
fn without_payload(row: &Record<'_>) -> Record<'static> {
    let owned = |text: &Cow<'_, str>| Cow::Owned(text.to_string());
    Record {
        endpoint: owned(&row.endpoint),
        model: owned(&row.model),
        arm: owned(&row.arm),
        outcome: match &row.outcome {
            Outcome::Answered => Outcome::Answered,
            Outcome::Failed(kind, _) => Outcome::Failed(*kind, "".into()),
        },
        key: None,
        headers: Vec::new(),
        inputs: Vec::new(),
        outputs: Vec::new(),
        subjects: Vec::new(),
        ..*row
    }
}

fn value(sealed: Bytes) -> Option<Value<'static>> {
    let tensor = Tensor::strings(Shape::from([1]), vec![sealed]).ok()?;
    Some(Value { name: SEALED.into(), tensor: Cow::Owned(tensor) })
}

fn nonce(number: u64) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce[4..].copy_from_slice(&number.to_be_bytes());
    Nonce::assume_unique_for_key(nonce)
}
