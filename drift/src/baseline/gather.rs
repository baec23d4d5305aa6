//! How does a baseline come of first traffic, in bounded memory?
//!
//! A sample of rows, spread over all of the time: a row is in it by a hash of its number alone, and where there is no more room the
//! sample is thinned, as often as it takes. It is done after so many rows and so many hours, whichever comes later.

mod keep;

use super::build::Column;
use super::{Baseline, Builder, LeftOut, Spec};
use crate::span::HOUR_MS;
use crate::values::{Eye, NAME_MAX, Number, Values, mixed};

/// Rows of a sample that is worth a baseline.
pub const ROWS: usize = 20_000;

/// Hours that it must be spread over.
pub const HOURS: u64 = 24;

/// Rows to which the sample of many features may be thinned, at least.
const ROWS_LEAST: usize = 1_000;

/// Bytes of a value that is held.
const VALUE: usize = 16;

/// Twice as many rows are held before they are thinned, in lists that may be as long once more.
const SPARE: usize = 4;

/// Distinct texts of a feature whose names are held.
const NAMES_MAX: usize = 128;

/// First traffic that becomes a provisional baseline.
#[derive(Debug)]
pub struct Gathering {
    specs: Vec<Spec>,
    columns: Vec<Column>,
    /// Of each row that is held: its hash, its time and its key.
    rows: Vec<Row>,
    keep: usize,
    /// Rows are held whose hash is below this.
    below: u64,
    seen: u64,
    first_ms: Option<u64>,
    last_ms: u64,
    left_out: Vec<LeftOut>,
}

#[derive(Clone, Copy, Debug)]
struct Row {
    hash: u64,
    unix_ms: u64,
    key: Option<u64>,
}

impl Gathering {
    /// For these features, in about `bytes` bytes at most. Those for which there is no room are left out, the least important first.
    pub fn new(mut specs: Vec<Spec>, bytes: usize) -> Gathering {
        let most = (bytes / (ROWS_LEAST * VALUE * SPARE)).max(1);
        let mut left_out = Vec::new();
        if specs.len() > most {
            specs.sort_by(|a, b| b.importance.total_cmp(&a.importance));
            let why = format!("no room while first traffic is gathered: {most} features have some in {bytes} bytes");
            left_out.extend(specs.drain(most..).map(|spec| LeftOut { name: spec.name, why: why.clone() }));
        }
        let keep = (bytes / ((specs.len() * VALUE + size_of::<Row>()) * SPARE)).clamp(ROWS_LEAST, ROWS);
        let columns = specs.iter().map(|_| Column::new(NAMES_MAX)).collect();
        let (rows, below) = (Vec::new(), u64::MAX);
        Gathering { specs, columns, rows, keep, below, seen: 0, first_ms: None, last_ms: 0, left_out }
    }

    /// What is gathered, in order.
    pub fn specs(&self) -> &[Spec] {
        &self.specs
    }

    /// Takes in `rows` rows of `unix_ms`: the values of each feature, and perhaps a hash of each row's key. Fails where these are not
    /// as many as rows and features.
    pub fn add(
        &mut self,
        unix_ms: u64,
        rows: usize,
        keys: Option<&[u64]>,
        values: &[Values<'_>],
    ) -> Result<(), String> {
        let is_odd = values.len() != self.columns.len() || values.iter().any(|values| values.rows() != rows);
        if is_odd || keys.is_some_and(|keys| keys.len() != rows) {
            return Err(format!("expected {rows} values and keys of each of {} features", self.columns.len()));
        }
        self.first_ms.get_or_insert(unix_ms);
        self.last_ms = self.last_ms.max(unix_ms);
        let hashes: Vec<u64> = (0..rows as u64).map(|row| mixed(self.seen + row, 7)).collect();
        self.seen += rows as u64;
        let held: Vec<bool> = hashes.iter().map(|&hash| hash < self.below).collect();
        for (row, &hash) in hashes.iter().enumerate().filter(|(row, _)| held[*row]) {
            self.rows.push(Row { hash, unix_ms, key: keys.map(|keys| keys[row]) });
        }
        for (column, values) in self.columns.iter_mut().zip(values) {
            values.visit(&mut Picker { column, held: &held, at: 0 });
        }
        if self.rows.len() >= 2 * self.keep {
            self.thin();
        }
        Ok(())
    }

    /// Keeps the rows whose hashes are smallest.
    fn thin(&mut self) {
        let mut hashes: Vec<u64> = self.rows.iter().map(|row| row.hash).collect();
        let (_, below, _) = hashes.select_nth_unstable(self.keep);
        self.below = *below;
        for column in &mut self.columns {
            let mut rows = self.rows.iter();
            column.items.retain(|_| rows.next().is_some_and(|row| row.hash < self.below));
        }
        self.rows.retain(|row| row.hash < self.below);
    }

    /// What is still wanted: rows and milliseconds. It is done where neither is.
    pub fn wanted(&self) -> (u64, u64) {
        let passed = self.first_ms.map_or(0, |first| self.last_ms.saturating_sub(first));
        ((ROWS as u64).saturating_sub(self.seen), (HOURS * HOUR_MS).saturating_sub(passed))
    }

    /// Bytes that are held, about.
    pub fn memory(&self) -> usize {
        let column = |column: &Column| column.items.capacity() * VALUE + column.names.len() * (NAME_MAX + 64);
        self.rows.capacity() * size_of::<Row>() + self.columns.iter().map(column).sum::<usize>()
    }

    /// The baseline of what was gathered, marked as provisional.
    pub fn finish(self) -> Result<Baseline, String> {
        let times: Vec<u64> = self.rows.iter().map(|row| row.unix_ms).collect();
        let mut builder = Builder::new(self.rows.len()).times(&times)?;
        let keys: Option<Vec<u64>> = self.rows.iter().map(|row| row.key).collect();
        if let Some(keys) = keys {
            builder = builder.keys(&keys)?;
        }
        for (spec, column) in self.specs.into_iter().zip(&self.columns) {
            builder.add_column(spec, column)?;
        }
        builder.left_out.extend(self.left_out);
        builder.freeze(true)
    }
}

/// Takes the values of the rows that are held.
struct Picker<'a> {
    column: &'a mut Column,
    held: &'a [bool],
    at: usize,
}

impl Picker<'_> {
    fn picks(&mut self) -> bool {
        self.at += 1;
        self.held.get(self.at - 1).is_some_and(|held| *held)
    }
}

impl Eye for Picker<'_> {
    fn number<N: Number>(&mut self, number: N) {
        if self.picks() {
            self.column.number(number);
        }
    }

    fn text(&mut self, text: &[u8]) {
        if self.picks() {
            self.column.text(text);
        }
    }

    fn missing(&mut self, rows: u64) {
        for _ in 0..rows {
            if self.picks() {
                self.column.missing(1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tiltyard_types::DataType;

    use super::*;
    use crate::baseline::Role;
    use crate::bins::Bins;

    fn specs(count: usize) -> Vec<Spec> {
        let spec = |at: usize| Spec { name: format!("f{at}"), role: Role::Input, importance: 1.0 + at as f64 };
        (0..count).map(spec).collect()
    }

    #[test]
    fn a_sample_of_a_day_becomes_a_baseline() {
        let mut gathering = Gathering::new(specs(2), 4 << 20);
        assert_eq!(gathering.wanted(), (20_000, 24 * HOUR_MS));
        let words = ["red", "green", "blue"].map(|word| bytes::Bytes::from_static(word.as_bytes()));
        for minute in 0..=24 * 60u64 {
            let numbers: Vec<u8> = (0..100u64).flat_map(|at| ((minute * 100 + at) as f64).to_le_bytes()).collect();
            let texts: Vec<bytes::Bytes> = (0..100).map(|at| words[at % 3].clone()).collect();
            let values = [Values::numbers(DataType::Fp64, &numbers).unwrap(), Values::texts(&texts)];
            gathering.add(minute * 60_000, 100, None, &values).unwrap();
            assert!(gathering.memory() < 9 << 19, "{}", gathering.memory());
        }
        assert_eq!(gathering.wanted(), (0, 0));
        let baseline = gathering.finish().unwrap();
        let facts = baseline.facts();
        assert!(facts.provisional && (16_000..=40_000).contains(&facts.rows), "{}", facts.rows);
        // It is spread over all of the day, and so are the bins.
        let [numbers, texts] = baseline.features() else { panic!("two features") };
        let Bins::Numeric(numeric) = &numbers.bins else { panic!("numbers") };
        for (cut, part) in numeric.cuts().iter().zip(0..) {
            let expected = f64::from(part) / 20.0 * 144_100.0;
            assert!((cut - expected).abs() < 0.02 * 144_100.0, "{cut}, expected {expected}");
        }
        let Bins::Categories(categories) = &texts.bins else { panic!("categories") };
        assert_eq!(categories.top().len(), 3);
    }

    #[test]
    fn what_was_gathered_outlives_a_restart_to_the_bit() {
        let hour = |gathering: &mut Gathering, hour: u64| {
            let numbers: Vec<u8> = (0..900u64).flat_map(|at| ((hour * 900 + at) as f64).to_le_bytes()).collect();
            let texts: Vec<bytes::Bytes> = (0..900).map(|at| bytes::Bytes::from(format!("{}", at % 7))).collect();
            let values = [Values::numbers(DataType::Fp64, &numbers).unwrap(), Values::texts(&texts)];
            let keys: Vec<u64> = (0..900).collect();
            gathering.add(hour * HOUR_MS, 900, Some(&keys), &values).unwrap();
        };
        let (mut whole, mut kept) = (Gathering::new(specs(2), 4 << 20), Gathering::new(specs(2), 4 << 20));
        for at in 0..30 {
            hour(&mut whole, at);
            hour(&mut kept, at);
            kept = Gathering::read(specs(2), 4 << 20, &kept.write()).unwrap();
        }
        assert!(kept.write() == whole.write());
        assert_eq!(kept.wanted(), (0, 0));
        let bytes = kept.write();
        assert!(Gathering::read(specs(3), 4 << 20, &bytes).unwrap_err().to_string().contains("other features"));
        for cut in (0..bytes.len()).step_by(bytes.len() / 50) {
            assert!(Gathering::read(specs(2), 4 << 20, &bytes[..cut]).is_err());
        }
        assert_eq!(kept.finish().unwrap().digest(), whole.finish().unwrap().digest());
    }

    #[test]
    fn where_there_is_no_room_the_least_important_are_left_out() {
        let mut gathering = Gathering::new(specs(10), 200_000);
        let names: Vec<&str> = gathering.specs().iter().map(|spec| spec.name.as_str()).collect();
        assert_eq!(names, ["f9", "f8", "f7"]);
        assert!(gathering.add(0, 1, None, &[]).is_err());
        let baseline = gathering.finish().unwrap();
        assert_eq!((baseline.features().len(), baseline.facts().left_out.len()), (0, 10));
    }
}
