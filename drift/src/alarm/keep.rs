//! How does a watch outlive a restart?

use sha2::{Digest as _, Sha256};
use tiltyard_types::Digest;

use super::{Ladder, Level, Rule, Track, Waiting, Watch};
use crate::baseline::Baseline;
use crate::code::{Broken, Reader, put};
use crate::counts::Counts;
use crate::distinct::Distinct;

/// What a watch written as bytes begins with.
const MAGIC: &[u8; 8] = b"TYWATCH1";

const CHECK: usize = 8;

impl Watch {
    /// All that the past means to it, as bytes. What was found last is not among it: the next window brings that again.
    pub fn write(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(self.baseline.digest().as_bytes());
        self.whole.write(&mut bytes);
        for track in self.tracks.iter().flatten() {
            track.ladders.iter().for_each(|ladder| ladder.write(&mut bytes));
            bytes.push(u8::from(track.waiting.is_some()));
            if let Some(waiting) = &track.waiting {
                waiting.write(&mut bytes);
            }
        }
        let check = Sha256::digest(&bytes);
        bytes.extend_from_slice(&check[..CHECK]);
        bytes
    }

    /// From bytes, with the baseline it watched by.
    pub fn read(baseline: &Baseline, rule: Rule, bytes: &[u8]) -> Result<Watch, Broken> {
        let (held, check) = bytes.split_at(bytes.len().saturating_sub(CHECK));
        if Sha256::digest(held)[..CHECK] != *check {
            return Err(Broken("a watch was cut or changed: its check does not hold".into()));
        }
        let mut reader = Reader(held);
        if reader.bytes(MAGIC.len())? != MAGIC {
            return Err(Broken("this is no watch of this version".into()));
        }
        let digest = Digest::new(reader.bytes(32)?.try_into().unwrap_or_default());
        if digest != baseline.digest() {
            let ours = baseline.digest().short();
            return Err(Broken(format!("it watched by the baseline {}, and not by {ours}", digest.short())));
        }
        let mut watch = Watch::new(baseline, rule);
        watch.whole = Ladder::read(&mut reader)?;
        for (tracks, feature) in watch.tracks.iter_mut().zip(baseline.features()) {
            for track in tracks {
                let mut ladders = [Ladder::default(); 3];
                for ladder in &mut ladders {
                    *ladder = Ladder::read(&mut reader)?;
                }
                let is_waiting = reader.bytes(1)?[0] != 0;
                let waiting =
                    is_waiting.then(|| Waiting::read(&mut reader, |reader| Counts::read(&feature.bins, reader)));
                *track = Track { ladders, waiting: waiting.transpose()?.map(Box::new), reading: None };
            }
        }
        Ok(watch)
    }
}

impl Ladder {
    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.push(self.level as u8);
        put(bytes, self.since_ms.into());
        bytes.extend_from_slice(&[self.above, self.below].concat());
    }

    fn read(reader: &mut Reader<'_>) -> Result<Ladder, Broken> {
        let level = reader.bytes(1)?[0];
        let level = *Level::ALL.get(usize::from(level)).ok_or_else(|| Broken(format!("{level} is no level")))?;
        let since_ms = reader.number()?;
        let counts = reader.bytes(4)?;
        Ok(Ladder { level, since_ms, above: [counts[0], counts[1]], below: [counts[2], counts[3]] })
    }
}

impl Waiting {
    fn write(&self, bytes: &mut Vec<u8>) {
        put(bytes, self.from_ms.into());
        put(bytes, self.rows.into());
        put(bytes, self.hours.len() as u128);
        for &(hour, rows) in &self.hours {
            bytes.push(hour);
            put(bytes, rows.into());
        }
        self.keys.write(bytes);
        self.counts.write(bytes);
    }

    fn read(
        reader: &mut Reader<'_>,
        counts: impl FnOnce(&mut Reader<'_>) -> Result<Counts, Broken>,
    ) -> Result<Waiting, Broken> {
        let (from_ms, rows) = (reader.number()?, reader.number()?);
        let mut hours = Vec::new();
        for _ in 0..reader.number()? {
            let hour = reader.bytes(1)?[0];
            if hours.last().is_some_and(|(last, _)| *last >= hour) {
                return Err(Broken("hours that wait are not in order".into()));
            }
            hours.push((hour, reader.number()?.min(1 << 48)));
        }
        Ok(Waiting { from_ms, rows, hours, keys: Distinct::read(reader)?, counts: counts(reader)? })
    }
}
