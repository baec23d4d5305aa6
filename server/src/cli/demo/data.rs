//! What does the demo bring along: which models, which rows, and what is known of them?
//!
//! `server/demo` has it all, and the script that made it.

use std::fmt::Display;
use std::fs;
use std::io::{self, Read as _};
use std::ops::{Range, RangeInclusive};
use std::path::Path;

use flate2::read::GzDecoder;
use serde::Deserialize;

use crate::cli::exit::Failure;

/// The model's name, which is the endpoint's too.
pub(super) const MODEL: &str = "flights";

/// The model's input.
pub(super) const INPUT: &str = "flight";

/// The model's output, which is the label's name too.
pub(super) const OUTPUT: &str = "late";

const SETTINGS: &str = include_str!("../../../demo/flights/model.toml");
const MANIFEST: &str = include_str!("../../../demo/manifest.json");
const LOSSES: &str = include_str!("../../../demo/losses.csv");
const ROWS: &[u8] = include_bytes!("../../../demo/flights.csv.gz");

/// From version 1 on.
const VERSIONS: [&[u8]; 3] = [
    include_bytes!("../../../demo/flights/1/model.onnx"),
    include_bytes!("../../../demo/flights/2/model.onnx"),
    include_bytes!("../../../demo/flights/3/model.onnx"),
];

/// Rows that `losses.csv` has a line for.
const STRETCH_ROWS: usize = 250;

/// What the script that made them found out.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    /// Rows that no model was trained on.
    pub(super) rows: usize,
    /// Of the rows' text.
    #[cfg_attr(not(test), expect(dead_code, reason = "a test compares it"))]
    rows_sha256: String,
    /// The share of them that were late.
    pub(super) late: f64,
    versions: Vec<Version>,
}

/// A version, and how good it is on all those rows.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Version {
    pub(super) version: u64,
    pub(super) trained_on: String,
    /// How many rows that is.
    pub(super) rows: u64,
    /// The mean of (chance − label)².
    pub(super) squared_error: f64,
    /// The share of rows on whose side of one half the chance is.
    pub(super) accuracy: f64,
    /// The same error in each stretch of [`STRETCH_ROWS`].
    #[serde(skip)]
    squared_errors: Vec<f64>,
}

impl Manifest {
    pub(super) fn read() -> Result<Manifest, Failure> {
        let wrong = |error: &dyn Display| Failure::failed(format!("the demo's manifest is wrong: {error}"));
        let mut manifest: Manifest = serde_json::from_str(MANIFEST).map_err(|error| wrong(&error))?;
        // A column for each version, after that of the rows.
        for (version, column) in manifest.versions.iter_mut().zip(1..) {
            let numbers = LOSSES.lines().skip(1).filter_map(|line| line.split(',').nth(column));
            version.squared_errors =
                numbers.map(str::parse).collect::<Result<_, _>>().map_err(|error| wrong(&error))?;
        }
        Ok(manifest)
    }

    pub(super) fn version(&self, version: u64) -> Result<&Version, Failure> {
        let found = self.versions.iter().find(|found| found.version == version);
        found.ok_or_else(|| Failure::failed(format!("the demo's manifest does not know version {version}")))
    }
}

impl Version {
    /// The mean of (chance − label)² on these rows, in whose first and last stretch all rows count alike.
    pub(super) fn squared_error_on(&self, rows: Range<usize>) -> f64 {
        let (mut sum, mut count) = (0.0, 0);
        for (error, start) in self.squared_errors.iter().zip((0..).step_by(STRETCH_ROWS)) {
            let among = rows.end.min(start + STRETCH_ROWS).saturating_sub(rows.start.max(start));
            sum += error * among as f64;
            count += among;
        }
        if count == 0 { self.squared_error } else { sum / count as f64 }
    }
}

/// Makes a model repository of these versions in a folder.
pub(super) fn write_models(folder: &Path, versions: RangeInclusive<u64>) -> io::Result<()> {
    let model = folder.join(MODEL);
    for (bytes, version) in VERSIONS.iter().zip(1..).filter(|(_, version)| versions.contains(version)) {
        let version = model.join(version.to_string());
        fs::create_dir_all(&version)?;
        fs::write(version.join("model.onnx"), bytes)?;
    }
    // The others answer once a rollout has them.
    fs::write(model.join("model.toml"), format!("version_policy = \"1\"\n{SETTINGS}"))
}

/// Makes the folder of a version that no repository has.
pub(super) fn write_version(folder: &Path, version: u64) -> io::Result<()> {
    let bytes = usize::try_from(version).ok().and_then(|version| VERSIONS.get(version.wrapping_sub(1)));
    let bytes = bytes.ok_or_else(|| io::Error::other(format!("the demo has no version {version}")))?;
    fs::create_dir_all(folder)?;
    fs::write(folder.join("model.onnx"), bytes)?;
    fs::write(folder.join("model.toml"), SETTINGS)
}

/// Flights in the order in which they were to leave.
pub(super) struct Rows {
    text: String,
    lines: Vec<Range<usize>>,
    /// Numbers in a row, the label aside.
    pub(super) width: usize,
}

impl Rows {
    pub(super) fn read() -> Result<Rows, Failure> {
        let wrong = |why: &str| Failure::failed(format!("the demo's rows are wrong: {why}"));
        let mut text = String::new();
        GzDecoder::new(ROWS).read_to_string(&mut text).map_err(|error| wrong(&error.to_string()))?;
        let mut lines: Vec<Range<usize>> = Vec::new();
        let mut at = 0;
        for line in text.lines() {
            lines.push(at..at + line.len());
            at += line.len() + 1;
        }
        if lines.is_empty() {
            return Err(wrong("there are none"));
        }
        let width = text[lines.remove(0)].split(',').count().saturating_sub(1);
        Ok(Rows { text, lines, width })
    }

    pub(super) fn len(&self) -> usize {
        self.lines.len()
    }

    /// The first rows as a table without labels, its head included.
    pub(super) fn table(&self, rows: usize) -> String {
        let head = self.text.lines().next().and_then(|head| head.rsplit_once(',')).map_or("", |(head, _)| head);
        let lines = (0..rows).filter_map(|at| self.get(at)).map(|(numbers, _)| numbers);
        std::iter::once(head).chain(lines).flat_map(|line| [line, "\n"]).collect()
    }

    /// A flight's numbers, with commas between them, and whether it was late; none beyond the last.
    pub(super) fn get(&self, at: usize) -> Option<(&str, bool)> {
        let (numbers, label) = self.text[self.lines.get(at)?.clone()].rsplit_once(',')?;
        Some((numbers, label == "1"))
    }
}

#[cfg(test)]
mod tests {
    use ring::digest::{SHA256, digest};

    use super::*;

    #[test]
    fn rows_are_those_that_the_manifest_tells_of() {
        let (manifest, rows) = (Manifest::read().unwrap(), Rows::read().unwrap());
        let sha: String =
            digest(&SHA256, rows.text.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!((rows.len(), rows.width, sha), (manifest.rows, 13, manifest.rows_sha256.clone()));
        let late = (0..rows.len()).filter(|&at| rows.get(at).unwrap().1).count();
        assert!((late as f64 / rows.len() as f64 - manifest.late).abs() < 1e-5, "{late}");
        let is_whole = |at: usize| {
            let numbers = rows.get(at).unwrap().0;
            numbers.split(',').count() == rows.width && numbers.split(',').all(|number| number.parse::<i32>().is_ok())
        };
        assert!((0..rows.len()).all(is_whole) && rows.get(rows.len()).is_none());
        assert!(SETTINGS.matches("[[columns]]").count() == rows.width);
    }

    #[test]
    fn how_good_a_version_is_differs_by_stretch() {
        let manifest = Manifest::read().unwrap();
        for version in &manifest.versions {
            assert_eq!(version.squared_errors.len(), manifest.rows.div_ceil(STRETCH_ROWS));
            assert!((version.squared_error_on(0..manifest.rows) - version.squared_error).abs() < 1e-4, "{version:?}");
            let [first, second] = [0, 1].map(|at| version.squared_errors[at]);
            assert_eq!(version.squared_error_on(10..20), first);
            assert!((version.squared_error_on(200..450) - (0.2 * first + 0.8 * second)).abs() < 1e-9);
            // Of no row, what holds of all.
            assert_eq!(version.squared_error_on(5..5), version.squared_error);
        }
    }

    #[test]
    fn more_flights_make_a_better_model_and_shuffled_labels_a_worse_one() {
        let manifest = Manifest::read().unwrap();
        let [few, all, shuffled] = [1, 2, 3].map(|version| manifest.version(version).unwrap());
        assert!(all.squared_error < few.squared_error && few.squared_error < shuffled.squared_error);
        assert!(all.accuracy > few.accuracy && (few.rows, all.rows) == (1606, 160_678));
        // Who knows nothing says how many are late.
        assert!((shuffled.squared_error - manifest.late * (1.0 - manifest.late)).abs() < 0.001);
        assert!(manifest.version(4).is_err() && manifest.rows >= 20_000);
    }
}
