//! What was counted in the last hours, days and weeks?
//!
//! One hour, day and week are open; those that closed are kept as few bytes: 24 hours, 14 days, 8 weeks. A window is the same whether
//! it was counted in one place or put together of many, and whether or not the process was killed meanwhile.

use std::collections::{BTreeMap, VecDeque};

use sha2::{Digest as _, Sha256};
use tiltyard_types::Digest;

use crate::baseline::Baseline;
use crate::code::{Broken, Reader, put, put_bytes};
use crate::counts::Counts;
use crate::distinct::Distinct;
use crate::shard::Shard;
use crate::span::{HOUR_MS, Span, WEEK, hour, hour_of_week};

/// What windows written as bytes begin with.
const MAGIC: &[u8; 8] = b"TYDRIFT1";

/// Bytes of a hash that stand at the end.
const CHECK: usize = 8;

/// Bytes of a window, at most.
const WINDOW_MAX: usize = 1 << 28;

/// Counts of all features in a stretch of time.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    /// How long it is.
    pub span: Span,
    /// Its first hour since 1970.
    first: u64,
    /// Rows.
    pub rows: u64,
    /// Rows by hour of the week.
    hours: Vec<(u8, u64)>,
    keys: Distinct,
    /// In the baseline's order.
    pub features: Vec<Counts>,
}

impl Window {
    /// An empty one, of the `span` that `unix_ms` belongs to.
    pub fn new(baseline: &Baseline, span: Span, unix_ms: u64) -> Window {
        let features = baseline.features().iter().map(|feature| Counts::new(&feature.bins)).collect();
        Window {
            span,
            first: span.first(hour(unix_ms)),
            rows: 0,
            hours: Vec::new(),
            keys: Distinct::default(),
            features,
        }
    }

    /// When it began, in milliseconds since 1970.
    pub fn from_ms(&self) -> u64 {
        self.first * HOUR_MS
    }

    /// When it is over.
    pub fn to_ms(&self) -> u64 {
        self.span.end(self.first) * HOUR_MS
    }

    /// Rows by hour of the week, from Monday 00:00 UTC.
    pub fn hours(&self) -> &[(u8, u64)] {
        &self.hours
    }

    /// Whose rows they were.
    pub fn keys(&self) -> &Distinct {
        &self.keys
    }

    /// Takes in what another place counted of the same stretch, with the same baseline. Fails where it is another.
    pub fn merge(&mut self, other: &Window) -> Result<(), String> {
        if (self.span, self.first, self.features.len()) != (other.span, other.first, other.features.len()) {
            return Err(format!("windows of another {} or other features do not add up", self.span.name()));
        }
        self.take_in(other);
        Ok(())
    }

    fn take_in(&mut self, other: &Window) {
        self.rows += other.rows;
        other.hours.iter().for_each(|&(hour, rows)| self.add_hour(hour, rows));
        self.keys.merge(&other.keys);
        self.features.iter_mut().zip(&other.features).for_each(|(ours, theirs)| ours.merge(theirs));
    }

    fn add_hour(&mut self, hour: u8, rows: u64) {
        match self.hours.binary_search_by_key(&hour, |(hour, _)| *hour) {
            Ok(at) => self.hours[at].1 += rows,
            Err(at) => self.hours.insert(at, (hour, rows)),
        }
    }

    /// Empties a shard into it, as of the hour `hour`.
    pub(crate) fn absorb(&mut self, shard: &mut Shard, hour: u64) {
        self.rows += shard.rows;
        if shard.rows > 0 {
            self.add_hour(hour_of_week(hour), shard.rows);
        }
        self.keys.merge(&shard.keys);
        shard.take(&mut self.features);
    }

    /// As bytes, which [`Window::read`] reads with the same baseline.
    pub fn write(&self) -> Vec<u8> {
        let mut bytes = vec![self.span as u8];
        put(&mut bytes, self.first.into());
        put(&mut bytes, self.rows.into());
        put(&mut bytes, self.hours.len() as u128);
        for &(hour, rows) in &self.hours {
            bytes.push(hour);
            put(&mut bytes, rows.into());
        }
        self.keys.write(&mut bytes);
        self.features.iter().for_each(|counts| counts.write(&mut bytes));
        bytes
    }

    /// From bytes.
    pub fn read(baseline: &Baseline, bytes: &[u8]) -> Result<Window, Broken> {
        let mut reader = Reader(bytes);
        let span = reader.bytes(1)?[0];
        let span = *Span::ALL.get(usize::from(span)).ok_or_else(|| Broken(format!("{span} is no span")))?;
        let (first, rows) = (reader.number()?, reader.number()?);
        if first > 1 << 41 || span.first(first) != first {
            return Err(Broken(format!("no {} begins with hour {first}", span.name())));
        }
        let mut window = Window { rows, first, ..Window::new(baseline, span, 0) };
        for _ in 0..reader.number()?.min(WEEK) {
            let hour = reader.bytes(1)?[0];
            if u64::from(hour) >= WEEK {
                return Err(Broken(format!("no week has an hour {hour}")));
            }
            // So few that those of a week add up.
            window.add_hour(hour, reader.number()?.min(1 << 48));
        }
        window.keys = Distinct::read(&mut reader)?;
        for (feature, counts) in baseline.features().iter().zip(&mut window.features) {
            *counts = Counts::read(&feature.bins, &mut reader)?;
        }
        if !reader.0.is_empty() {
            return Err(Broken(format!("{} bytes follow where none should", reader.0.len())));
        }
        Ok(window)
    }
}

/// The open windows of a deployment, and those that are kept.
#[derive(Clone, Debug)]
pub struct Windows {
    baseline: Baseline,
    open: [Option<Window>; 3],
    closed: [VecDeque<Box<[u8]>>; 3],
}

impl Windows {
    /// None yet.
    pub fn new(baseline: &Baseline) -> Windows {
        Windows { baseline: baseline.clone(), open: [None, None, None], closed: Default::default() }
    }

    /// What the windows are counted by.
    pub fn baseline(&self) -> &Baseline {
        &self.baseline
    }

    /// Empties a shard into the hour of `unix_ms`, and gives the windows that are over by then, as [`Windows::advance`]. What was
    /// counted by another baseline's bins is not for these windows: it is left where it is.
    pub fn absorb(&mut self, shard: &mut Shard, unix_ms: u64) -> Vec<Window> {
        let closed = self.advance(unix_ms);
        if shard.rows > 0 && shard.baseline.digest() == self.baseline.digest() {
            let (baseline, hour) = (&self.baseline, hour(unix_ms));
            let open = self.open[0].get_or_insert_with(|| Window::new(baseline, Span::Hour, unix_ms));
            // Where the clock was set back, the hour that is open goes on.
            open.absorb(shard, open.first.max(hour));
        }
        closed
    }

    /// Closes what is over at `unix_ms`, and gives it: hours, days, weeks, in this order.
    pub fn advance(&mut self, unix_ms: u64) -> Vec<Window> {
        let now = hour(unix_ms);
        let mut closed = Vec::new();
        for span in Span::ALL {
            let at = span as usize;
            let Some(window) = self.open[at].take_if(|window| span.end(window.first) <= now) else { continue };
            let kept = &mut self.closed[at];
            if kept.len() == span.kept() {
                kept.pop_front();
            }
            kept.push_back(window.write().into_boxed_slice());
            if let Some(longer) = Span::ALL.get(at + 1) {
                let baseline = &self.baseline;
                let begun = || Window::new(baseline, *longer, window.from_ms());
                self.open[at + 1].get_or_insert_with(begun).take_in(&window);
            }
            closed.push(window);
        }
        closed
    }

    /// The windows that are kept, the oldest first.
    pub fn closed(&self, span: Span) -> impl Iterator<Item = Window> + '_ {
        // What is kept was written here, or read once already.
        self.closed[span as usize].iter().filter_map(|bytes| Window::read(&self.baseline, bytes).ok())
    }

    /// What the open window holds so far; `None` where it holds nothing.
    pub fn open(&self, span: Span) -> Option<Window> {
        let parts = self.open[..=span as usize].iter().flatten();
        parts.fold(None, |sum: Option<Window>, part| {
            let mut sum = sum.unwrap_or_else(|| Window::new(&self.baseline, span, part.from_ms()));
            sum.take_in(part);
            Some(sum)
        })
    }

    /// Takes in what another place counted with the same baseline, as of `unix_ms`: windows that are over by then are closed in both first.
    /// Fails where it is another baseline.
    pub fn merge(&mut self, mut other: Windows, unix_ms: u64) -> Result<(), String> {
        if self.baseline.digest() != other.baseline.digest() {
            let (ours, theirs) = (self.baseline.digest(), other.baseline.digest());
            return Err(format!("counted by the baseline {}, and not by {}", theirs.short(), ours.short()));
        }
        for windows in [&mut *self, &mut other] {
            windows.advance(unix_ms);
        }
        for span in Span::ALL {
            let at = span as usize;
            let mut all: BTreeMap<u64, Window> = self.closed(span).map(|window| (window.first, window)).collect();
            for window in other.closed(span) {
                match all.get_mut(&window.first) {
                    Some(ours) => ours.take_in(&window),
                    None => drop(all.insert(window.first, window)),
                }
            }
            let surplus = all.len().saturating_sub(span.kept());
            self.closed[at] = all.values().skip(surplus).map(|window| window.write().into_boxed_slice()).collect();
            match (&mut self.open[at], other.open[at].take()) {
                // Where a clock runs ahead, that hour is counted as ours.
                (Some(ours), Some(theirs)) => ours.take_in(&theirs),
                (open, theirs) => *open = open.take().or(theirs),
            }
        }
        Ok(())
    }

    /// Bytes that are held, about.
    pub fn memory(&self) -> usize {
        let kept: usize = self.closed.iter().flatten().map(|bytes| bytes.len() + size_of::<Box<[u8]>>()).sum();
        let counts = |counts: &Counts| size_of::<Counts>() + counts.slots.len() * 8;
        kept + self.open.iter().flatten().map(|window| window.features.iter().map(counts).sum::<usize>()).sum::<usize>()
    }

    /// All of it as bytes: what a restart needs.
    pub fn write(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(self.baseline.digest().as_bytes());
        for (open, closed) in self.open.iter().zip(&self.closed) {
            put_bytes(&mut bytes, &open.as_ref().map(Window::write).unwrap_or_default());
            put(&mut bytes, closed.len() as u128);
            closed.iter().for_each(|window| put_bytes(&mut bytes, window));
        }
        let check = Sha256::digest(&bytes);
        bytes.extend_from_slice(&check[..CHECK]);
        bytes
    }

    /// From bytes, with the baseline by which they were counted.
    pub fn read(baseline: &Baseline, bytes: &[u8]) -> Result<Windows, Broken> {
        let (held, check) = bytes.split_at(bytes.len().saturating_sub(CHECK));
        if Sha256::digest(held)[..CHECK] != *check {
            return Err(Broken("windows were cut or changed: their check does not hold".into()));
        }
        let mut reader = Reader(held);
        if reader.bytes(MAGIC.len())? != MAGIC {
            return Err(Broken("these are no windows of this version".into()));
        }
        let digest = Digest::new(reader.bytes(32)?.try_into().unwrap_or_default());
        if digest != baseline.digest() {
            let ours = baseline.digest().short();
            return Err(Broken(format!("counted by the baseline {}, and not by {ours}", digest.short())));
        }
        let mut windows = Windows::new(baseline);
        for span in Span::ALL {
            let window = |bytes: &[u8]| {
                let window = Window::read(baseline, bytes)?;
                let is_so = window.span == span;
                is_so.then_some(window).ok_or_else(|| Broken(format!("a window is no {}", span.name())))
            };
            let open = reader.measured(WINDOW_MAX)?;
            windows.open[span as usize] = (!open.is_empty()).then(|| window(open)).transpose()?;
            let count = reader.number()?;
            if count > span.kept() as u64 {
                return Err(Broken(format!("{count} windows where at most {} may be", span.kept())));
            }
            for _ in 0..count {
                let bytes = reader.measured(WINDOW_MAX)?;
                window(bytes)?;
                windows.closed[span as usize].push_back(bytes.into());
            }
        }
        Ok(windows)
    }
}
