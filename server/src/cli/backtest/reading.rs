//! Which rows of the history count?
//!
//! Those that can be read, are old enough, have a label, and are the first of their key to be so; the rest is counted by what
//! it lacks. A key that is seen again says nothing new of how versions differ on other keys: the unit that counts is the key.

use std::borrow::Cow;

use tiltyard_rollout::assign::place;
use tiltyard_rollout::evidence::Seen;

use super::batch::Batch;
use super::columns::Columns;
use super::dates::parse_time;
use super::history::{Fault, History, Next};
use super::options::{Maturity, Options};
use super::report::Counts;
use crate::cli::exit::Failure;

/// Bytes of the cells of a batch, about, at which it is large enough.
const BATCH_BYTES: usize = 8 << 20;

/// Keys that are remembered, some 100 MB; of more, a sample counts.
const KEYS_MAX: usize = 1 << 23;

/// Faults that are told; more are counted.
const FAULTS_TOLD: usize = 10;

/// The history on its way through.
pub(super) struct Reading {
    history: History,
    pub(super) columns: Columns,
    label_name: String,
    missing: Option<String>,
    maturity: Option<Maturity>,
    errors_max: u64,
    seen: Seen,
    pub(super) counts: Counts,
    /// The first of the rows that could not be read.
    pub(super) faults: Vec<Fault>,
    latest_ms: i64,
    is_in_order: bool,
}

/// What becomes of a row that was read.
enum Fate {
    Counts,
    Young,
    WithoutLabel,
    Repeated,
    OutOfSample,
}

impl Reading {
    /// From the start of `history`, with `columns` found in it.
    pub(super) fn new(mut history: History, options: &Options, columns: Columns) -> Reading {
        history.want(&columns.names);
        Reading {
            history,
            columns,
            label_name: options.label.clone(),
            missing: options.missing.clone(),
            maturity: options.maturity.clone(),
            errors_max: options.errors_max,
            seen: Seen::new(KEYS_MAX),
            counts: Counts::default(),
            faults: Vec::new(),
            latest_ms: i64::MIN,
            is_in_order: true,
        }
    }

    /// How messages call the history.
    pub(super) fn shown(&self) -> &str {
        self.history.shown()
    }

    /// What messages call the place of a row.
    pub(super) fn place(&self) -> &'static str {
        self.history.place()
    }

    /// The next rows that count, up to `rows_max`; none at the end.
    pub(super) fn next_batch(&mut self, rows_max: usize) -> Result<Batch, Failure> {
        let mut batch = Batch::new(self.columns.names.len(), self.history.is_json());
        while batch.rows() < rows_max && batch.size() < BATCH_BYTES {
            match self.history.next(&mut batch)? {
                Next::End => break,
                Next::Fault(fault) => {
                    self.counts.read += 1;
                    self.fault(fault)?;
                }
                Next::Row => {
                    self.counts.read += 1;
                    let row = batch.rows() - 1;
                    let fate = self.fate(&batch, row);
                    if !matches!(fate, Ok(Fate::Counts)) {
                        let line = batch.line(row);
                        batch.pop();
                        self.leave_out(fate, line)?;
                    }
                }
            }
        }
        Ok(batch)
    }

    fn leave_out(&mut self, fate: Result<Fate, String>, line: u64) -> Result<(), Failure> {
        match fate {
            Ok(Fate::Counts) => {}
            Ok(Fate::Young) => self.counts.young += 1,
            Ok(Fate::WithoutLabel) => self.counts.without_label += 1,
            Ok(Fate::Repeated) => self.counts.repeated += 1,
            Ok(Fate::OutOfSample) => self.counts.out_of_sample += 1,
            Err(message) => self.fault(Fault { line, message })?,
        }
        Ok(())
    }

    fn fate(&mut self, batch: &Batch, row: usize) -> Result<Fate, String> {
        if let (Some(maturity), Some(time)) = (&self.maturity, self.columns.time) {
            let text = batch.plain(row, time)?;
            let at_ms = parse_time(&text).ok_or_else(|| {
                format!("{:?} is {text:?}: expected a date, a time or seconds since 1970", maturity.column)
            })?;
            self.is_in_order &= at_ms >= self.latest_ms;
            self.latest_ms = self.latest_ms.max(at_ms);
            let age_ms = maturity.as_of_ms.saturating_sub(at_ms);
            if u64::try_from(age_ms).unwrap_or(0) < maturity.horizon_ms || age_ms < 0 {
                return Ok(Fate::Young);
            }
        }
        if self.missing.is_none() && batch.plain(row, self.columns.label)?.trim().is_empty() {
            return Ok(Fate::WithoutLabel);
        }
        let Some(key) = self.columns.key else { return Ok(Fate::Counts) };
        let key = batch.plain(row, key)?;
        if key.is_empty() {
            return Err("it has no key".to_owned());
        }
        let hash = place(b"backtest", key.as_bytes()).hash;
        Ok(match self.seen.is_first(hash) {
            true => Fate::Counts,
            false if self.seen.sampling() < 1.0 => Fate::OutOfSample,
            false => Fate::Repeated,
        })
    }

    /// The label of a row, or what counts as one.
    pub(super) fn label<'a>(&'a self, batch: &'a Batch, row: usize) -> Cow<'a, str> {
        // It was read before, and there is nothing new to go wrong.
        let label = batch.plain(row, self.columns.label).unwrap_or_default();
        match &self.missing {
            Some(missing) if label.trim().is_empty() => Cow::Borrowed(missing),
            _ => label,
        }
    }

    /// A row's slices, in the order of their columns.
    pub(super) fn slices<'a>(&self, batch: &'a Batch, row: usize) -> Result<Vec<Cow<'a, str>>, String> {
        self.columns.slices.iter().map(|&column| batch.plain(row, column)).collect()
    }

    /// Counts a row that cannot be used. Fails where there are more of these than may be.
    pub(super) fn fault(&mut self, fault: Fault) -> Result<(), Failure> {
        self.counts.unreadable += 1;
        if self.faults.len() < FAULTS_TOLD {
            self.faults.push(fault.clone());
        }
        if self.counts.unreadable <= self.errors_max {
            return Ok(());
        }
        let (shown, place, Fault { line, message }) = (self.history.shown(), self.history.place(), fault);
        let before = match self.errors_max {
            0 => "--errors-max ROWS goes on past so many of these".to_owned(),
            most => format!("it is one more than the {most} that --errors-max allows"),
        };
        Err(Failure::failed(format!("{shown} {place} {line}: {message}; {before}")))
    }

    /// Fails where rows were read and none of them had a label: then its name is likely to be wrong.
    pub(super) fn check_labels(&self) -> Result<(), Failure> {
        let is_empty = self.counts.without_label > 0 && self.counts.without_label == self.counts.read;
        match is_empty {
            true => Err(Failure::failed(format!("{}: no row has a label in {:?}", self.shown(), self.label_name))),
            false => Ok(()),
        }
    }

    /// What is good to know of the rows.
    pub(super) fn notes(&self) -> Vec<String> {
        let mut notes = self.columns.notes.clone();
        if self.columns.key.is_none() {
            notes.push(
                "no --key was given, and each row counts: rows about the same person are not independent".to_owned(),
            );
        }
        if !self.is_in_order {
            notes.push("rows are not in the order of time: the first row of a key is the first in the file".to_owned());
        }
        if self.seen.sampling() < 1.0 {
            notes.push(format!("there are very many keys: one in {} counts", (1.0 / self.seen.sampling()).round()));
        }
        notes
    }
}
