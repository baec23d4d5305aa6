//! Which values come that the baseline never saw?
//!
//! How many there were is counted exactly elsewhere; here are the names of the commonest. Space-Saving with 32 places (Metwally and
//! others 2005): whoever is more than a 32nd of the newcomers is here, and counts are too high by at most `above`. Summaries merge as
//! Agarwal and others (2012) say, with the same bounds; which of the rare ones stay may depend on the order.

use crate::code::{Broken, Reader, put, put_bytes};
use crate::values::{NAME_MAX, shortened};

/// Values that are remembered.
pub const PLACES: usize = 32;

/// The commonest of the values that the baseline never saw. What is looked through for each value lies together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Newcomers {
    identities: Vec<u64>,
    rows: Vec<u64>,
    about: Vec<Newcomer>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Newcomer {
    /// How people write it, shortened.
    pub name: String,
    /// How much the rows that it had may be too high.
    pub above: u64,
}

/// A name that is short enough, as nearly all are.
fn short(name: String) -> String {
    if name.len() <= NAME_MAX { name } else { shortened(&name) }
}

impl Newcomers {
    /// Counts a value; its name is only asked for where it is new.
    pub(crate) fn add(&mut self, identity: u64, name: impl FnOnce() -> String) {
        if let Some(at) = self.identities.iter().position(|known| *known == identity) {
            self.rows[at] += 1;
            return;
        }
        if self.identities.len() < PLACES {
            self.push(identity, 1, Newcomer { name: short(name()), above: 0 });
            return;
        }
        // The first of the rarest. Each step compares two values at hand: none waits for a load that waits for the step before.
        let rarest = self.rows.iter().enumerate().min_by_key(|(_, rows)| **rows).map_or(0, |(at, _)| at);
        self.identities[rarest] = identity;
        self.about[rarest] = Newcomer { name: short(name()), above: self.rows[rarest] };
        self.rows[rarest] += 1;
    }

    fn push(&mut self, identity: u64, rows: u64, about: Newcomer) {
        self.identities.push(identity);
        self.rows.push(rows);
        self.about.push(about);
    }

    /// Takes in what the other saw.
    pub(crate) fn merge(&mut self, other: &Newcomers) {
        let [ours, theirs] = [self.floor(), other.floor()];
        let mut all: Vec<(u64, u64, Newcomer)> = Vec::with_capacity(2 * PLACES);
        for (at, identity) in self.identities.iter().enumerate() {
            let (rows, above) = other.of(*identity).unwrap_or((theirs, theirs));
            let Newcomer { name, above: own } = self.about[at].clone();
            all.push((
                *identity,
                self.rows[at].saturating_add(rows),
                Newcomer { name, above: own.saturating_add(above) },
            ));
        }
        for (at, identity) in other.identities.iter().enumerate() {
            if !self.identities.contains(identity) {
                let Newcomer { name, above } = other.about[at].clone();
                let above = above.saturating_add(ours);
                all.push((*identity, other.rows[at].saturating_add(ours), Newcomer { name, above }));
            }
        }
        all.sort_by_key(|(identity, rows, _)| (std::cmp::Reverse(*rows), *identity));
        *self = Newcomers::default();
        all.into_iter().take(PLACES).for_each(|(identity, rows, about)| self.push(identity, rows, about));
    }

    fn of(&self, identity: u64) -> Option<(u64, u64)> {
        let at = self.identities.iter().position(|known| *known == identity)?;
        Some((self.rows[at], self.about[at].above))
    }

    /// What a value that is not here may have had.
    fn floor(&self) -> u64 {
        if self.identities.len() < PLACES { 0 } else { self.rows.iter().copied().min().unwrap_or(0) }
    }

    /// The commonest first, with the rows that each had, or fewer.
    pub fn commonest(&self) -> Vec<(&Newcomer, u64)> {
        let mut order: Vec<usize> = (0..self.rows.len()).collect();
        order.sort_by_key(|&at| (std::cmp::Reverse(self.rows[at]), self.identities[at]));
        order.into_iter().map(|at| (&self.about[at], self.rows[at])).collect()
    }

    pub(crate) fn write(&self, bytes: &mut Vec<u8>) {
        put(bytes, self.rows.len() as u128);
        for (at, Newcomer { name, above }) in self.about.iter().enumerate() {
            put_bytes(bytes, name.as_bytes());
            put(bytes, self.rows[at].into());
            put(bytes, (*above).into());
            bytes.extend_from_slice(&self.identities[at].to_le_bytes());
        }
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Newcomers, Broken> {
        let count = reader.number()?;
        if count > PLACES as u64 {
            return Err(Broken(format!("{count} newcomers where at most {PLACES} may be")));
        }
        let mut newcomers = Newcomers::default();
        for _ in 0..count {
            let name = shortened(&String::from_utf8_lossy(reader.measured(NAME_MAX)?));
            let (rows, above) = (reader.number()?, reader.number()?);
            let identity = u64::from_le_bytes(reader.bytes(8)?.try_into().unwrap_or_default());
            newcomers.push(identity, rows, Newcomer { name, above });
        }
        Ok(newcomers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever is common is found whatever comes beside, in two halves that merge as in one.
    #[test]
    fn who_is_common_is_here() {
        let stream: Vec<u64> = (0..30_000u64).map(|at| if at % 10 < 3 { at % 3 + 1 } else { 1_000 + at }).collect();
        let seen = |values: &[u64]| {
            let mut newcomers = Newcomers::default();
            values.iter().for_each(|&value| newcomers.add(value, || value.to_string()));
            newcomers
        };
        let [mut half, other] = [&stream[..11_111], &stream[11_111..]].map(seen);
        half.merge(&other);
        for newcomers in [seen(&stream), half] {
            assert!(newcomers.rows.len() == PLACES);
            for value in 1..=3u64 {
                let truth = stream.iter().filter(|&&other| other == value).count() as u64;
                let (rows, above) = newcomers.of(value).expect("it is common");
                assert!(rows >= truth && rows - above <= truth, "{rows} less {above}, truly {truth}");
            }
            let mut bytes = Vec::new();
            newcomers.write(&mut bytes);
            assert_eq!(Newcomers::read(&mut Reader(&bytes)), Ok(newcomers));
        }
    }
}
