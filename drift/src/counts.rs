//! What is known of a feature's values in a stretch of time?
//!
//! Counts and integer sums, which add up to the same in whatever order they are put together: over threads, replicas, restarts
//! and hours.

use crate::bins::{ABOVE_ALL, BELOW_ALL, Bins, KINDS, NAN, NULL, Numeric};
use crate::code::{Broken, Reader, put, put_float, put_signed};
use crate::newcomers::Newcomers;

/// One feature's counts.
#[derive(Clone, Debug, PartialEq)]
pub struct Counts {
    /// Rows by bin, and behind the bins those that have no value.
    pub(crate) slots: Vec<u64>,
    pub(crate) moments: Moments,
    pub(crate) newcomers: Option<Box<Newcomers>>,
}

/// Sums of scaled numbers, and the smallest and largest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Moments {
    pub(crate) sum: i128,
    pub(crate) squares: u128,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Default for Moments {
    fn default() -> Moments {
        Moments { sum: 0, squares: 0, min: f64::INFINITY, max: f64::NEG_INFINITY }
    }
}

impl Moments {
    pub(crate) fn merge(&mut self, other: &Moments) {
        self.sum = self.sum.saturating_add(other.sum);
        self.squares = self.squares.saturating_add(other.squares);
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
    }
}

impl Counts {
    /// None yet, for a feature with these bins.
    pub fn new(bins: &Bins) -> Counts {
        Counts { slots: vec![0; bins.slots()], moments: Moments::default(), newcomers: None }
    }

    /// Rows by bin: those that have a value.
    pub fn bins(&self) -> &[u64] {
        &self.slots[..self.slots.len() - KINDS]
    }

    /// Rows that have a finite number, a truth value or a text.
    pub fn values(&self) -> u64 {
        self.bins().iter().sum()
    }

    /// All rows.
    pub fn rows(&self) -> u64 {
        self.slots.iter().sum()
    }

    fn kind(&self, kind: usize) -> u64 {
        self.slots[self.slots.len() - KINDS + kind]
    }

    /// Rows without a value.
    pub fn null(&self) -> u64 {
        self.kind(NULL)
    }

    /// Rows whose value is not a number.
    pub fn nan(&self) -> u64 {
        self.kind(NAN)
    }

    /// Rows with +∞ and with −∞.
    pub fn infinite(&self) -> [u64; 2] {
        [self.kind(ABOVE_ALL), self.kind(BELOW_ALL)]
    }

    /// Mean, standard deviation, smallest and largest of a number; `None` where there is none.
    pub fn summary(&self, numeric: &Numeric) -> Option<Summary> {
        let (n, Moments { sum, squares, min, max }) = (self.values(), self.moments);
        let summary = || Summary { mean: numeric.mean_of(n, sum), sd: numeric.sd_of(n, sum, squares), min, max };
        (n > 0).then(summary)
    }

    /// The commonest values that the baseline never saw.
    pub fn newcomers(&self) -> Option<&Newcomers> {
        self.newcomers.as_deref()
    }

    /// Takes in what was counted elsewhere, with the same bins.
    pub fn merge(&mut self, other: &Counts) {
        for (ours, theirs) in self.slots.iter_mut().zip(&other.slots) {
            *ours = ours.saturating_add(*theirs);
        }
        self.moments.merge(&other.moments);
        self.meet(other.newcomers.as_deref());
    }

    pub(crate) fn meet(&mut self, others: Option<&Newcomers>) {
        if let Some(others) = others {
            self.newcomers.get_or_insert_default().merge(others);
        }
    }

    pub(crate) fn write(&self, bytes: &mut Vec<u8>) {
        self.slots.iter().for_each(|&count| put(bytes, count.into()));
        let Moments { sum, squares, min, max } = self.moments;
        let has_moments = min <= max;
        bytes.push(u8::from(has_moments) | u8::from(self.newcomers.is_some()) << 1);
        if has_moments {
            put_signed(bytes, sum);
            put(bytes, squares);
            put_float(bytes, min);
            put_float(bytes, max);
        }
        if let Some(newcomers) = &self.newcomers {
            newcomers.write(bytes);
        }
    }

    pub(crate) fn read(bins: &Bins, reader: &mut Reader<'_>) -> Result<Counts, Broken> {
        let mut counts = Counts::new(bins);
        for count in &mut counts.slots {
            // So few that those of a feature add up.
            *count = reader.number()?;
            if *count > 1 << 56 {
                return Err(Broken(format!("{count} rows are more than there can be")));
            }
        }
        let flags = reader.bytes(1)?[0];
        if flags & 1 != 0 {
            let (sum, squares, min, max) = (reader.signed()?, reader.wide()?, reader.float()?, reader.float()?);
            counts.moments = Moments { sum, squares, min, max };
        }
        if flags & 2 != 0 {
            counts.newcomers = Some(Box::new(Newcomers::read(reader)?));
        }
        Ok(counts)
    }
}

/// What people call a number's distribution by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// The mean, to a 65,536th of the baseline's standard deviation.
    pub mean: f64,
    /// The standard deviation. Values count as at most 16,384 of the baseline's away from its mean, here and there.
    pub sd: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}
