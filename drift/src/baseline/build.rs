//! How does a baseline come of rows?
//!
//! Column by column, so that no more than one is held as numbers: bins first, from all of its values, then how full they are by hour.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

use super::cycle::{self, Cycle, Hours};
use super::{Baseline, Facts, Feature, LeftOut, Role};
use crate::bins::{
    ABOVE_ALL, BELOW_ALL, Bins, CUTS_MAX, Categories, Category, DISTINCT_MAX, KINDS, NAN, NULL, Numeric, OTHERS_MAX,
    TOP_MAX,
};
use crate::code::{Broken, Reader, put, put_bytes, put_float};
use crate::distinct::Distinct;
use crate::span::{Span, hour};
use crate::values::{Eye, NAME_MAX, Number, Values, text_identity, text_name};

/// Distinct values whose names are remembered while the commonest are looked for.
const NAMES_MAX: usize = 1 << 16;

/// What a column is.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// As people call it.
    pub name: String,
    /// Whether it goes into the model or comes out.
    pub role: Role,
    /// How much it matters beside others: above 0, and 1 where nobody knows.
    pub importance: f64,
}

/// Makes a baseline of rows.
#[derive(Debug)]
pub struct Builder {
    rows: usize,
    hours: Option<Vec<u64>>,
    times_ms: Option<[u64; 2]>,
    keys: Distinct,
    features: Vec<Feature>,
    pub(super) left_out: Vec<LeftOut>,
}

impl Builder {
    /// For `rows` rows.
    pub fn new(rows: usize) -> Builder {
        let (features, left_out) = (Vec::new(), Vec::new());
        Builder { rows, hours: None, times_ms: None, keys: Distinct::default(), features, left_out }
    }

    /// When each row was, in milliseconds since 1970, in any order: only then hours and days can be told apart. Fails where these are
    /// not as many as rows.
    pub fn times(mut self, unix_ms: &[u64]) -> Result<Builder, String> {
        self.fits("times", unix_ms.len())?;
        self.times_ms = unix_ms.iter().min().zip(unix_ms.iter().max()).map(|(&first, &last)| [first, last]);
        self.hours = Some(unix_ms.iter().map(|&unix_ms| hour(unix_ms)).collect());
        Ok(self)
    }

    /// Whose each row is, as any hash: rows of one key are not independent. Fails where these are not as many as rows.
    pub fn keys(mut self, keys: &[u64]) -> Result<Builder, String> {
        self.fits("keys", keys.len())?;
        keys.iter().for_each(|&key| self.keys.add(key));
        Ok(self)
    }

    fn fits(&self, what: &str, count: usize) -> Result<(), String> {
        if count == self.rows {
            return Ok(());
        }
        Err(format!("{count} {what} of {} rows", self.rows))
    }

    /// Adds a column: its values in the order of the rows, in as many pieces as they come. A column of which nothing can be made is
    /// left out, and said to be. Fails where the values are not as many as rows, or the column is there already.
    pub fn add(&mut self, spec: Spec, pieces: &[Values<'_>]) -> Result<(), String> {
        self.fits(&format!("values of {:?}", spec.name), pieces.iter().map(Values::rows).sum())?;
        let mut column = Column::new(NAMES_MAX);
        pieces.iter().for_each(|values| values.visit(&mut column));
        self.add_column(spec, &column)
    }

    pub(super) fn add_column(&mut self, spec: Spec, column: &Column) -> Result<(), String> {
        if self.features.iter().any(|feature| feature.role == spec.role && feature.name == spec.name) {
            return Err(format!("the column {:?} is there twice", spec.name));
        }
        match column.bins() {
            Ok(bins) => self.features.push(self.feature(spec, bins, column)),
            Err(why) => self.left_out.push(LeftOut { name: spec.name, why }),
        }
        Ok(())
    }

    fn feature(&self, spec: Spec, bins: Bins, column: &Column) -> Feature {
        let slots = bins.slots();
        let mut by_hour = Hours::new();
        for (at, item) in column.items.iter().enumerate() {
            let hour = self.hours.as_ref().map_or(0, |hours| hours[at]);
            by_hour.entry(hour).or_insert_with(|| vec![0; slots])[item.slot(&bins)] += 1;
        }
        let (mut chosen, mut steadiness) = (Cycle::None, [None; 3]);
        if let Some(hours) = &self.hours {
            chosen = cycle::choose(&by_hour, slots);
            for span in Span::ALL {
                let strange = column.strange(hours, span, &bins);
                steadiness[span as usize] = cycle::steadiness(&by_hour, chosen, &bins, span, &strange);
            }
        }
        let short = |cell: Vec<u64>| cell.into_iter().map(|count| u32::try_from(count).unwrap_or(u32::MAX)).collect();
        let mut cells = cycle::cells(&by_hour, chosen, slots);
        if cells.is_empty() {
            cells = vec![vec![0; slots]];
        }
        let cells = cells.into_iter().map(short).collect();
        let Spec { name, role, importance } = spec;
        Feature { name, role, importance, bins, cycle: chosen, cells, steadiness }
    }

    /// Freezes it.
    pub fn finish(self) -> Result<Baseline, String> {
        self.freeze(false)
    }

    pub(super) fn freeze(self, provisional: bool) -> Result<Baseline, String> {
        let Builder { rows, times_ms, keys, features, left_out, .. } = self;
        let keys_per_row = keys.count().map_or(1.0, |keys| (keys / rows as f64).clamp(f64::MIN_POSITIVE, 1.0));
        Baseline::new(Facts { provisional, rows: rows as u64, keys_per_row, times_ms, features, left_out })
    }
}

/// A value: its number, and what tells it from others; 0 where it is none, and the number says which kind of none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Item {
    number: f64,
    identity: u64,
}

impl Item {
    fn none(kind: usize) -> Item {
        Item { number: kind as f64, identity: 0 }
    }

    fn slot(self, bins: &Bins) -> usize {
        match bins {
            _ if self.identity == 0 => bins.bins() + self.number as usize,
            Bins::Numeric(numeric) => numeric.bin(self.number),
            Bins::Categories(categories) => categories.lookup().bin(self.identity).0,
        }
    }
}

/// A column's values, and the names of its distinct ones.
#[derive(Debug)]
pub(super) struct Column {
    pub(super) items: Vec<Item>,
    pub(super) names: HashMap<u64, String, BuildHasherDefault<Mixed>>,
    names_max: usize,
    has_texts: bool,
    has_numbers: bool,
}

impl Eye for Column {
    fn number<N: Number>(&mut self, number: N) {
        self.has_numbers = true;
        let x = number.value();
        if x.is_finite() {
            let identity = number.identity();
            // Of more numbers than that there are no categories.
            if self.names.len() <= DISTINCT_MAX {
                self.know(identity, || number.name());
            }
            self.items.push(Item { number: x + 0.0, identity });
        } else {
            let kind = if x.is_nan() {
                NAN
            } else if x > 0.0 {
                ABOVE_ALL
            } else {
                BELOW_ALL
            };
            self.items.push(Item::none(kind));
        }
    }

    fn text(&mut self, text: &[u8]) {
        self.has_texts = true;
        let identity = text_identity(text);
        self.know(identity, || text_name(text));
        self.items.push(Item { number: 0.0, identity });
    }

    fn missing(&mut self, rows: u64) {
        (0..rows).for_each(|_| self.items.push(Item::none(NULL)));
    }
}

impl Column {
    /// An empty one that remembers the names of so many values.
    pub(super) fn new(names_max: usize) -> Column {
        let (items, names) = (Vec::new(), HashMap::default());
        Column { items, names, names_max, has_texts: false, has_numbers: false }
    }

    /// As bytes.
    pub(super) fn write(&self, bytes: &mut Vec<u8>) {
        bytes.push(u8::from(self.has_texts) | u8::from(self.has_numbers) << 1);
        for item in &self.items {
            put_float(bytes, item.number);
            bytes.extend_from_slice(&item.identity.to_le_bytes());
        }
        let mut names: Vec<(&u64, &String)> = self.names.iter().collect();
        names.sort_unstable();
        put(bytes, names.len() as u128);
        for (identity, name) in names {
            bytes.extend_from_slice(&identity.to_le_bytes());
            put_bytes(bytes, name.as_bytes());
        }
    }

    /// From bytes: so many values, and the names of `names_max` at most.
    pub(super) fn read(names_max: usize, rows: usize, reader: &mut Reader<'_>) -> Result<Column, Broken> {
        let kinds = reader.bytes(1)?[0];
        let mut column = Column { has_texts: kinds & 1 != 0, has_numbers: kinds & 2 != 0, ..Column::new(names_max) };
        let identity = |reader: &mut Reader<'_>| -> Result<u64, Broken> {
            Ok(u64::from_le_bytes(reader.bytes(8)?.try_into().unwrap_or_default()))
        };
        for _ in 0..rows {
            let item = Item { number: reader.float()?, identity: identity(reader)? };
            let is_sound = if item.identity == 0 {
                (0..KINDS).any(|kind| kind as f64 == item.number)
            } else {
                item.number.is_finite()
            };
            if !is_sound {
                return Err(Broken(format!("{} is no value", item.number)));
            }
            column.items.push(item);
        }
        let names = reader.number()?;
        if names > names_max as u64 {
            return Err(Broken(format!("{names} names where at most {names_max} may be")));
        }
        for _ in 0..names {
            let identity = identity(reader)?;
            let name = String::from_utf8_lossy(reader.measured(2 * NAME_MAX)?).into_owned();
            column.names.insert(identity, name);
        }
        Ok(column)
    }

    fn know(&mut self, identity: u64, name: impl FnOnce() -> String) {
        if self.names.len() < self.names_max {
            self.names.entry(identity).or_insert_with(name);
        }
    }

    fn values(&self) -> impl Iterator<Item = Item> + '_ {
        self.items.iter().copied().filter(|item| item.identity != 0)
    }

    fn bins(&self) -> Result<Bins, String> {
        if self.has_texts && self.has_numbers {
            return Err("some of its values are texts and some numbers".to_owned());
        }
        if self.values().next().is_none() {
            return Err("no row has a value".to_owned());
        }
        if self.has_texts || self.names.len() <= DISTINCT_MAX {
            return self.categories().map(|categories| Bins::Categories(categories.into()));
        }
        self.numeric().map(|numeric| Bins::Numeric(numeric.into()))
    }

    fn categories(&self) -> Result<Categories, String> {
        let mut counts: HashMap<u64, u64, BuildHasherDefault<Mixed>> = HashMap::default();
        self.values().for_each(|item| *counts.entry(item.identity).or_default() += 1);
        let mut counts: Vec<(u64, u64)> = counts.into_iter().collect();
        counts.sort_unstable_by_key(|&(identity, count)| (std::cmp::Reverse(count), identity));
        let named = |&(identity, _): &(u64, u64)| {
            let name = self.names.get(&identity).cloned().unwrap_or_else(|| format!("{identity:016x}"));
            Category { name, identity }
        };
        let (top, others) = counts.split_at(counts.len().min(TOP_MAX));
        let kept = &others[..others.len().min(OTHERS_MAX)];
        let kept = kept.iter().map(|(identity, _)| *identity).collect();
        Categories::new(top.iter().map(named).collect(), kept, others.len() > OTHERS_MAX)
    }

    /// Cuts at the smallest, at 19 quantiles of equal mass, and at the largest; equal ones are one.
    fn numeric(&self) -> Result<Numeric, String> {
        const PARTS: usize = CUTS_MAX - 1;
        let mut sorted: Vec<f64> = self.values().map(|item| item.number).collect();
        let n = sorted.len() as f64;
        let mean = sorted.iter().map(|x| x / n).sum::<f64>();
        let sd = sorted.iter().map(|x| (x - mean) * (x - mean) / n).sum::<f64>().sqrt();
        sorted.sort_unstable_by(f64::total_cmp);
        let inner = (1..PARTS).map(|part| sorted[(part * sorted.len()).div_ceil(PARTS) - 1]);
        let mut cuts: Vec<f64> = std::iter::once(sorted[0]).chain(inner).chain([sorted[sorted.len() - 1]]).collect();
        cuts.dedup();
        Numeric::new(cuts, mean, sd)
    }

    /// How many values of each window no other window had: those below and above all others', or in no other one.
    fn strange(&self, hours: &[u64], span: Span, bins: &Bins) -> BTreeMap<u64, u64> {
        let windows =
            || hours.iter().map(|&hour| span.first(hour)).zip(&self.items).filter(|(_, item)| item.identity != 0);
        let mut counts = BTreeMap::new();
        match bins {
            Bins::Numeric(_) => {
                let mut ranges: BTreeMap<u64, [f64; 2]> = BTreeMap::new();
                for (window, Item { number, .. }) in windows() {
                    let [min, max] = ranges.entry(window).or_insert([f64::INFINITY, f64::NEG_INFINITY]);
                    (*min, *max) = (min.min(*number), max.max(*number));
                }
                // The two smallest of the windows' smallest, and the two largest: without a window, one of two is left.
                let mut lows: Vec<(f64, u64)> = ranges.iter().map(|(&window, range)| (range[0], window)).collect();
                let mut highs: Vec<(f64, u64)> = ranges.iter().map(|(&window, range)| (-range[1], window)).collect();
                lows.sort_by(|a, b| a.0.total_cmp(&b.0));
                highs.sort_by(|a, b| a.0.total_cmp(&b.0));
                let beside =
                    |ends: &[(f64, u64)], window| ends.iter().take(2).find(|end| end.1 != window).map(|end| end.0);
                for (window, Item { number, .. }) in windows() {
                    let is_below = beside(&lows, window).is_some_and(|low| *number < low);
                    let is_above = beside(&highs, window).is_some_and(|high| *number > -high);
                    *counts.entry(window).or_default() += u64::from(is_below || is_above);
                }
            }
            Bins::Categories(categories) if categories.are_open() => {}
            Bins::Categories(_) => {
                let mut seen: HashMap<u64, (u64, bool), BuildHasherDefault<Mixed>> = HashMap::default();
                for (window, item) in windows() {
                    let (first, is_alone) = seen.entry(item.identity).or_insert((window, true));
                    *is_alone &= *first == window;
                }
                for (window, item) in windows() {
                    *counts.entry(window).or_default() += u64::from(seen[&item.identity].1);
                }
            }
        }
        counts
    }
}

/// Identities are hashes already.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Mixed(u64);

impl Hasher for Mixed {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.0 = self.0.rotate_left(8) ^ u64::from(byte));
    }

    fn write_u64(&mut self, identity: u64) {
        self.0 = identity;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

const _: () = assert!(KINDS == 4, "Item::none tells kinds by their number");
