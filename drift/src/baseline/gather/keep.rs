//! How does first traffic outlive a restart until it is a baseline?

use sha2::{Digest as _, Sha256};

use super::super::{Role, Spec};
use super::{Column, Gathering, NAMES_MAX, Row};
use crate::code::{Broken, Reader, put, put_bytes};

/// What first traffic written as bytes begins with.
const MAGIC: &[u8; 8] = b"TYFIRST1";

const CHECK: usize = 8;

impl Gathering {
    /// All that was gathered, as bytes.
    pub fn write(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        put(&mut bytes, self.specs.len() as u128);
        for spec in &self.specs {
            bytes.push(u8::from(spec.role == Role::Output));
            put_bytes(&mut bytes, spec.name.as_bytes());
        }
        for number in [self.below, self.seen, self.first_ms.map_or(0, |first| first + 1), self.last_ms] {
            put(&mut bytes, number.into());
        }
        put(&mut bytes, self.rows.len() as u128);
        for Row { hash, unix_ms, key } in &self.rows {
            bytes.extend_from_slice(&hash.to_le_bytes());
            put(&mut bytes, (*unix_ms).into());
            bytes.push(u8::from(key.is_some()));
            bytes.extend_from_slice(&key.unwrap_or_default().to_le_bytes());
        }
        self.columns.iter().for_each(|column| column.write(&mut bytes));
        let check = Sha256::digest(&bytes);
        bytes.extend_from_slice(&check[..CHECK]);
        bytes
    }

    /// From bytes, of these features and with as much room as [`Gathering::new`] gives them. Fails where it was gathered of others.
    pub fn read(specs: Vec<Spec>, room: usize, bytes: &[u8]) -> Result<Gathering, Broken> {
        let mut gathering = Gathering::new(specs, room);
        let (held, check) = bytes.split_at(bytes.len().saturating_sub(CHECK));
        if Sha256::digest(held)[..CHECK] != *check {
            return Err(Broken("first traffic was cut or changed: its check does not hold".into()));
        }
        let mut reader = Reader(held);
        if reader.bytes(MAGIC.len())? != MAGIC {
            return Err(Broken("this is no first traffic of this version".into()));
        }
        let mut is_ours = reader.number()? == gathering.specs.len() as u64;
        for spec in &gathering.specs {
            if is_ours {
                let (role, name) = (reader.bytes(1)?[0], reader.measured(1 << 20)?);
                is_ours = role == u8::from(spec.role == Role::Output) && name == spec.name.as_bytes();
            }
        }
        if !is_ours {
            return Err(Broken("first traffic was gathered of other features".into()));
        }
        (gathering.below, gathering.seen) = (reader.number()?, reader.number()?);
        gathering.first_ms = reader.number()?.checked_sub(1);
        gathering.last_ms = reader.number()?;
        let rows = reader.number()?;
        if rows > 2 * gathering.keep as u64 {
            return Err(Broken(format!("{rows} rows where there is room for {}", 2 * gathering.keep)));
        }
        let eight = |reader: &mut Reader<'_>| Ok(u64::from_le_bytes(reader.bytes(8)?.try_into().unwrap_or_default()));
        for _ in 0..rows {
            let (hash, unix_ms) = (eight(&mut reader)?, reader.number()?);
            let has_key = reader.bytes(1)?[0] != 0;
            let key = eight(&mut reader)?;
            gathering.rows.push(Row { hash, unix_ms, key: has_key.then_some(key) });
        }
        for column in &mut gathering.columns {
            *column = Column::read(NAMES_MAX, rows as usize, &mut reader)?;
        }
        Ok(gathering)
    }
}
