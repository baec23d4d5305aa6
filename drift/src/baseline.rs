//! What is expected of a model's inputs and outputs?
//!
//! A baseline is made once, column by column, of rows that went through the served model ([`Builder`]), or of first traffic
//! ([`gather::Gathering`], provisional). It holds the frozen bins, how full they were, in which hours of the day and week where that
//! differs, and how far the baseline's own days were from the rest of it.

mod build;
mod cycle;
pub mod gather;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tiltyard_types::Digest;

use crate::bins::{Bins, Categories, Category, KINDS, Numeric};
use crate::exact;
use crate::span::Span;
use crate::statistics::Expected;

pub use build::{Builder, Spec};
pub use cycle::{Cycle, Steadiness};

/// What the JSON calls itself.
const FORMAT: &str = "tiltyard-baseline";

/// The version of the JSON that is written, and the only one that is read.
const VERSION: u32 = 1;

/// Bytes of a baseline's JSON, at most.
const JSON_MAX: usize = 1 << 30;

/// Features of a deployment, at most.
pub const FEATURES_MAX: usize = 16_384;

/// Rows in a cell that tell something: with fewer, the whole baseline is taken instead.
const CELL_MIN: u64 = 50;

/// What is expected, frozen: cheap to clone.
#[derive(Clone, Debug)]
pub struct Baseline(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    facts: Facts,
    digest: Digest,
}

/// How it is written, with what it is and the digest of the rest.
#[derive(Serialize, Deserialize)]
struct Written<T> {
    format: String,
    version: u32,
    digest: String,
    baseline: T,
}

/// Where a baseline comes from, and its features.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Facts {
    /// Made of first traffic, which nobody has looked at: not good enough for who wants a baseline that is known to be right.
    pub provisional: bool,
    /// Rows that it was made of.
    pub rows: u64,
    /// Different keys among them, where rows had keys.
    #[serde(with = "exact")]
    pub keys_per_row: f64,
    /// The first and last of them, in milliseconds since 1970; where rows had times.
    pub times_ms: Option<[u64; 2]>,
    /// What is watched.
    pub features: Vec<Feature>,
    /// What is not, and why.
    pub left_out: Vec<LeftOut>,
}

/// A feature that is not watched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeftOut {
    /// Its name.
    pub name: String,
    /// A sentence.
    pub why: String,
}

/// Whether a feature goes into the model or comes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// What the model is asked with.
    Input,
    /// What it answers.
    Output,
}

/// What is expected of one feature.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Feature {
    /// As people call it.
    pub name: String,
    /// Input or output.
    pub role: Role,
    /// How much it matters beside others, above 0.
    #[serde(with = "exact")]
    pub importance: f64,
    /// Into which bins values fall.
    pub bins: Bins,
    /// Which hours are alike.
    pub cycle: Cycle,
    /// Rows by bin and kind of no value, for each group of hours that are alike.
    cells: Vec<Vec<u32>>,
    /// How far the baseline's own hours, days and weeks were from the rest of it; where there were enough of them.
    steadiness: [Option<Steadiness>; 3],
}

impl Baseline {
    /// Freezes these facts.
    pub(crate) fn new(facts: Facts) -> Result<Baseline, String> {
        facts.check()?;
        let json = serde_json::to_string(&facts).map_err(|error| error.to_string())?;
        let digest = Digest::new(Sha256::digest(&json).into());
        Ok(Baseline(Arc::new(Inner { facts, digest })))
    }

    /// Where it comes from, and its features.
    pub fn facts(&self) -> &Facts {
        &self.0.facts
    }

    /// What is watched, in the order in which it is counted.
    pub fn features(&self) -> &[Feature] {
        &self.0.facts.features
    }

    /// The position of a feature.
    pub fn position(&self, role: Role, name: &str) -> Option<usize> {
        self.features().iter().position(|feature| feature.role == role && feature.name == name)
    }

    /// What names it: SHA-256 over what it says.
    pub fn digest(&self) -> Digest {
        self.0.digest
    }

    /// As JSON, with its digest.
    pub fn to_json(&self) -> String {
        let Inner { digest, facts } = &*self.0;
        let written = Written { format: FORMAT.into(), version: VERSION, digest: digest.to_string(), baseline: facts };
        serde_json::to_string(&written).unwrap_or_default()
    }

    /// From JSON. Fails where it is not a baseline, or not the one whose digest it has.
    pub fn from_json(json: &str) -> Result<Baseline, String> {
        if json.len() > JSON_MAX {
            return Err(format!("a baseline of {} bytes, more than {JSON_MAX}", json.len()));
        }
        let written: Written<Facts> = serde_json::from_str(json).map_err(|error| format!("not a baseline: {error}"))?;
        if written.format != FORMAT || written.version != VERSION {
            let Written { format, version, .. } = written;
            return Err(format!("{format:?} of version {version}: expected {FORMAT:?} of version {VERSION}"));
        }
        let baseline = Baseline::new(written.baseline)?;
        if written.digest != baseline.digest().to_string() {
            let (digest, said) = (baseline.digest(), written.digest);
            return Err(format!("the baseline was changed: its digest is {digest}, and {said} is written there"));
        }
        Ok(baseline)
    }

    /// The same with so many features that all there is to hold of them takes at most `bytes`: the most important ones, and
    /// outputs before inputs. The rest is said to be left out.
    pub fn within(&self, bytes: usize) -> Result<Baseline, String> {
        let features = self.features();
        let mut order: Vec<usize> = (0..features.len()).collect();
        let weight = |at: usize| (features[at].role == Role::Output, features[at].importance);
        order.sort_by(|&a, &b| weight(b).partial_cmp(&weight(a)).unwrap_or(std::cmp::Ordering::Equal).then(a.cmp(&b)));
        let mut taken = 0;
        let mut stays = vec![false; features.len()];
        for &at in &order {
            let cost = features[at].memory();
            // Once one has no room, none that matters less takes its place.
            if taken + cost > bytes {
                break;
            }
            taken += cost;
            stays[at] = true;
        }
        if stays.iter().all(|stays| *stays) {
            return Ok(self.clone());
        }
        let mut facts = self.facts().clone();
        let gone = features.iter().zip(&stays).filter(|(_, stays)| !**stays);
        let why = |feature: &Feature| format!("no room: {} bytes, of {bytes} for all of them", feature.memory());
        facts.left_out.extend(gone.map(|(feature, _)| LeftOut { name: feature.name.clone(), why: why(feature) }));
        let mut stays = stays.into_iter();
        facts.features.retain(|_| stays.next().unwrap_or(false));
        Baseline::new(facts)
    }
}

impl Facts {
    fn check(&self) -> Result<(), String> {
        if self.features.len() > FEATURES_MAX {
            return Err(format!("{} features, more than {FEATURES_MAX}", self.features.len()));
        }
        if !(self.keys_per_row > 0.0 && self.keys_per_row <= 1.0) {
            return Err(format!("{} keys a row: expected more than 0 and at most 1", self.keys_per_row));
        }
        self.features.iter().try_for_each(Feature::check)
    }
}

impl Feature {
    fn check(&self) -> Result<(), String> {
        let Feature { name, importance, bins, cycle, cells, .. } = self;
        if !(importance.is_finite() && *importance > 0.0) {
            return Err(format!("the importance of {name:?} is {importance}: expected more than 0"));
        }
        if cells.len() != cycle.cells() || cells.iter().any(|cell| cell.len() != bins.slots()) {
            return Err(format!("the counts of {name:?} are not {} times {}", cycle.cells(), bins.slots()));
        }
        Ok(())
    }

    /// How far windows of this length were from the rest of the baseline; `None` where there were too few of them.
    pub fn steadiness(&self, span: Span) -> Option<&Steadiness> {
        self.steadiness[span as usize].as_ref()
    }

    /// Rows by slot of the whole baseline.
    pub fn totals(&self) -> Vec<u64> {
        let mut totals = vec![0; self.bins.slots()];
        for cell in &self.cells {
            totals.iter_mut().zip(cell).for_each(|(total, count)| *total += u64::from(*count));
        }
        totals
    }

    /// The share of the baseline's rows that have a value; a hundredth at least.
    pub(crate) fn present(&self) -> f64 {
        let totals = self.totals();
        let [rows, values] = [&totals[..], &totals[..self.bins.bins()]].map(|part| part.iter().sum::<u64>() as f64);
        if rows > 0.0 { (values / rows).max(0.01) } else { 1.0 }
    }

    /// What is expected of rows from these hours of the week: so many of each, by hour. `keys_per_row`: the baseline's.
    pub fn expected(&self, hours: &[(u8, u64)], keys_per_row: f64) -> Whole {
        let mut rows = vec![0u64; self.cells.len()];
        for &(hour, count) in hours {
            rows[self.cycle.cell(hour)] += count;
        }
        let cells: Vec<Vec<u64>> =
            self.cells.iter().map(|cell| cell.iter().map(|&count| count.into()).collect()).collect();
        mixture(&cells, &rows, &self.bins, keys_per_row)
    }

    /// About how much memory all there is to hold of this feature takes, on two threads that count.
    pub fn memory(&self) -> usize {
        let slots = self.bins.slots();
        let bins = match &self.bins {
            Bins::Numeric(_) => 512,
            Bins::Categories(categories) => 40 * (slots + categories.others().len()) + 64 * slots,
        };
        // Newcomers: two threads, three open windows, three that wait, and each kept.
        let newcomers = if self.bins.are_numeric() { 0 } else { 8 * 3_500 + 46 * 1_000 };
        let kept: usize = Span::ALL.iter().map(|span| span.kept()).sum();
        // A count of a closed window is two or three bytes, its sums some 35; last what a watch read, and what allocators round up.
        bins + self.cells.len() * (slots * 4 + 24)
            + 2 * (slots * 4 + 350)
            + 3 * (slots * 8 + 128)
            + kept * (slots * 5 / 2 + 40)
            + 2_500
            + newcomers
    }
}

/// What is expected of some rows.
#[derive(Clone, Debug, PartialEq)]
pub struct Whole {
    /// By bin, of rows that have a value.
    pub expected: Expected,
    /// The share of rows that have none: missing, not a number, or infinite.
    pub missing: f64,
    /// Rows that all this was made of, or different keys.
    pub rows: f64,
}

/// What is expected where so many rows come from each of some cells: their shares, weighted.
fn mixture(cells: &[Vec<u64>], rows: &[u64], bins: &Bins, keys_per_row: f64) -> Whole {
    let slots = bins.slots();
    let whole: Vec<u64> = (0..slots).map(|slot| cells.iter().map(|cell| cell[slot]).sum()).collect();
    let total: u64 = rows.iter().sum();
    let mut parts: Vec<(f64, &[u64])> = Vec::new();
    let mut rest = if total == 0 { 1.0 } else { 0.0 };
    for (cell, &count) in cells.iter().zip(rows).filter(|(_, count)| **count > 0) {
        let share = count as f64 / total as f64;
        // An hour that the baseline does not know is like all of them.
        if cell.iter().sum::<u64>() < CELL_MIN { rest += share } else { parts.push((share, cell)) }
    }
    if rest > 0.0 {
        parts.push((rest, &whole));
    }
    let kinds = slots - KINDS;
    let (mut shares, mut missing, mut spread, mut row_spread) = (vec![0.0; kinds], 0.0, 0.0, 0.0);
    for (share, part) in parts {
        let [all, values] = [part, &part[..kinds]].map(|part| part.iter().sum::<u64>() as f64);
        if values == 0.0 {
            missing += if all > 0.0 { share } else { 0.0 };
            continue;
        }
        shares.iter_mut().zip(part).for_each(|(sum, &count)| *sum += share * count as f64 / all);
        missing += share * (all - values) / all;
        spread += share * share / values;
        row_spread += share * share / all;
    }
    let sum: f64 = shares.iter().sum();
    if sum > 0.0 {
        shares.iter_mut().for_each(|share| *share /= sum);
    }
    let size = |spread: f64| if spread > 0.0 { keys_per_row / spread } else { 0.0 };
    Whole { expected: Expected { shares, m: size(spread) }, missing, rows: size(row_spread) }
}

/// How bins are written.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum WrittenBins {
    Numeric {
        #[serde(with = "exact::floats")]
        cuts: Vec<f64>,
        #[serde(with = "exact")]
        mean: f64,
        #[serde(with = "exact")]
        sd: f64,
    },
    Categories {
        top: Vec<Category>,
        #[serde(with = "exact::hexes")]
        others: Vec<u64>,
        open: bool,
    },
}

impl Serialize for Bins {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let written = match self {
            Bins::Numeric(numeric) => {
                WrittenBins::Numeric { cuts: numeric.cuts().to_vec(), mean: numeric.mean(), sd: numeric.sd() }
            }
            Bins::Categories(categories) => WrittenBins::Categories {
                top: categories.top().to_vec(),
                others: categories.others().to_vec(),
                open: categories.are_open(),
            },
        };
        written.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Bins {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Bins, D::Error> {
        let bins = match WrittenBins::deserialize(deserializer)? {
            WrittenBins::Numeric { cuts, mean, sd } => {
                Numeric::new(cuts, mean, sd).map(|numeric| Bins::Numeric(numeric.into()))
            }
            WrittenBins::Categories { top, others, open } => {
                Categories::new(top, others, open).map(|categories| Bins::Categories(categories.into()))
            }
        };
        bins.map_err(serde::de::Error::custom)
    }
}
