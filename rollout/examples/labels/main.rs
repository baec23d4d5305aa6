//! How many labels until the better of two models has won: with a shadow's pairs, and in an A/B split of the same rows?
//!
//! `cargo run --release -p tiltyard-rollout --example labels -- FILE…`, a file for each pair of models and a line for each held-out
//! row: whether the champion and whether the challenger was right, such as `10`. Rows are drawn from the file again and again,
//! with replacement, until the judge's test is passed. Prints a line of JSON for each file; everything is drawn from fixed
//! seeds. `benches/paired/run.py` trains models and writes such files.
#![allow(clippy::print_stdout, clippy::print_stderr, missing_docs)]

use std::process::ExitCode;

use lot::Lot;
use serde::Serialize;
use tiltyard_rollout::evidence::{Arms, Labels, Outcomes, Share, Sum};
use tiltyard_rollout::interval::difference;
use tiltyard_rollout::paired::Paired;
use tiltyard_rollout::plan::MILLION;
use tiltyard_rollout::preview::{paired_labels, split_labels};

#[path = "../../tests/simulation/lot.rs"]
#[allow(dead_code, reason = "simulations draw more kinds of things")]
mod lot;

/// The chance that a model that is not better ever wins, the same for both designs.
const ALPHA: f64 = 0.01;

/// Somebody looks whenever there are so many labels more.
const LOOK: u64 = 10;

/// The normal quantiles of 1 − α and of a power of 0.8: a test of fixed size needs ((their sum)/δ)² units, where δ is the gain in
/// standard deviations of a unit's difference. So many a person plans a split for, and then its interval is narrowest: t*.
const QUANTILES: [f64; 2] = [2.326_35, 0.841_62];

/// t* where there is no gain to plan for, as in SIM-3.
const PLANNED: u64 = 50_000;

/// Labels of each arm from which on the judge trusts the normal approximation.
const OUTCOMES_MIN: u64 = 100;

/// How often rows are drawn until one has won, and until how many labels.
const DRAWS: u64 = 1_000;
const LABELS_MAX: u64 = 1_000_000;

/// Labels for which two models without a difference are watched.
const NULL_LABELS: u64 = 100_000;

/// Whether the champion was right on a row, and whether the challenger was.
type Row = [bool; 2];

/// What is told of a pair of models.
#[derive(Debug, PartialEq, Serialize)]
struct Report {
    file: String,
    rows: usize,
    /// After so many labels nobody waits any longer.
    limit: u64,
    /// Of champion and challenger.
    accuracy: [f64; 2],
    /// How much more often the better one is right.
    gain: f64,
    /// The share of rows on which one alone is right.
    disagreement: f64,
    /// Who is to win; `None`: both are right as often.
    better: Option<&'static str>,
    pairs: Found,
    split: Found,
}

/// What one design takes.
#[derive(Debug, PartialEq, Serialize)]
struct Found {
    /// What the preview says beforehand.
    told: Option<u64>,
    /// The median of the draws; `None` where half of them or more had not decided by [`LABELS_MAX`].
    median: Option<u64>,
    /// The share of those that had not.
    undecided: f64,
    /// The share of draws in which one wins that is not better.
    false_wins: f64,
}

fn main() -> ExitCode {
    let files: Vec<String> = std::env::args().skip(1).collect();
    if files.is_empty() {
        eprintln!("no file: expected one or more, each with a line of two bits for each row, such as 10");
        return ExitCode::from(2);
    }
    for file in files {
        let rows = std::fs::read_to_string(&file).map_err(|error| error.to_string()).and_then(|text| read(&text));
        match rows
            .and_then(|rows| serde_json::to_string(&report(&file, rows, DRAWS)).map_err(|error| error.to_string()))
        {
            Ok(line) => println!("{line}"),
            Err(fault) => {
                eprintln!("{file}: {fault}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

/// The rows of a file.
fn read(text: &str) -> Result<Vec<Row>, String> {
    let bit = |byte: u8| (byte == b'0' || byte == b'1').then_some(byte == b'1');
    let row = |line: &str| match *line.as_bytes() {
        [champion, challenger] => Some([bit(champion)?, bit(challenger)?]),
        _ => None,
    };
    let rows: Result<Vec<Row>, String> = text
        .lines()
        .enumerate()
        .map(|(at, line)| {
            row(line).ok_or_else(|| format!("line {} is {line:?}: expected two bits, such as 10", at + 1))
        })
        .collect();
    let rows = rows?;
    if rows.is_empty() { Err("no rows: expected a line of two bits for each, such as 10".into()) } else { Ok(rows) }
}

fn report(file: &str, rows: Vec<Row>, draws: u64) -> Report {
    let of = |is: fn(&Row) -> bool| rows.iter().filter(|row| is(row)).count();
    let share = |count: usize| count as f64 / rows.len() as f64;
    let alone = [of(|row| *row == [true, false]), of(|row| *row == [false, true])];
    let accuracy @ [champion, challenger] = [share(of(|row| row[0])), share(of(|row| row[1]))];
    let (gain, disagreement) = (share(alone[0].abs_diff(alone[1])), share(alone[0] + alone[1]));
    let is_turned = alone[0] > alone[1];
    let better = (alone[0] != alone[1]).then_some(if is_turned { "champion" } else { "challenger" });
    let middle = (champion + challenger) / 2.0;
    let sd = (middle * (1.0 - middle)).sqrt();
    let (count, needed) = (rows.len(), &mut Needed::default());
    // The better one is the one that is to win.
    let draw = Draw { rows: rows.into_iter().map(|[a, b]| if is_turned { [b, a] } else { [a, b] }).collect() };
    let told = better.and_then(|_| paired_labels(gain, disagreement, ALPHA, LOOK));
    let pairs = found(draws, told, better, |lot, labels, is_null| draw.pairs(lot, labels, is_null, needed));
    let planned = if better.is_some() { planned(gain, sd) } else { PLANNED };
    let told = better.and_then(|_| split_labels(gain, sd, 0.5, ALPHA, planned, LOOK));
    let split = found(draws, told, better, |lot, labels, is_null| draw.split(lot, labels, is_null, planned));
    Report { file: file.to_owned(), rows: count, limit: LABELS_MAX, accuracy, gain, disagreement, better, pairs, split }
}

/// Plays one design: (the lot, how many labels there are, whether the two are to be no different) to how many it took.
fn found(
    draws: u64,
    told: Option<u64>,
    better: Option<&str>,
    mut play: impl FnMut(&mut Lot, u64, bool) -> Option<u64>,
) -> Found {
    let took = |seed| play(&mut Lot::new(seed), LABELS_MAX, false).unwrap_or(u64::MAX);
    // Nobody is waited for who will not come.
    let mut took: Vec<u64> = if better.is_some() { (0..draws).map(took).collect() } else { vec![u64::MAX] };
    took.sort_unstable();
    let undecided = took.iter().filter(|&&labels| labels == u64::MAX).count() as f64 / took.len() as f64;
    let median = Some(took[took.len() / 2]).filter(|&labels| labels < u64::MAX);
    let false_wins = (draws..2 * draws).filter(|&seed| play(&mut Lot::new(seed), NULL_LABELS, true).is_some()).count();
    Found { told, median, undecided, false_wins: false_wins as f64 / draws as f64 }
}

/// Rows that are drawn with replacement.
struct Draw {
    rows: Vec<Row>,
}

impl Draw {
    /// A row. Where the two are to be no different, it is anybody's guess which answer is whose.
    fn row(&self, lot: &mut Lot, is_null: bool) -> Row {
        let row @ [champion, challenger] = self.rows[lot.below(self.rows.len() as u64) as usize];
        if is_null && lot.bits() & 1 == 1 { [challenger, champion] } else { row }
    }

    /// How many labels it takes where both answer each row.
    fn pairs(&self, lot: &mut Lot, labels: u64, is_null: bool, needed: &mut Needed) -> Option<u64> {
        let mut discordant: Arms = [0; 2];
        (1..=labels).find(|n| {
            let [champion, challenger] = self.row(lot, is_null);
            if champion != challenger {
                discordant[usize::from(challenger)] += 1;
            }
            n.is_multiple_of(LOOK) && discordant[1] >= needed.wins(discordant.iter().sum())
        })
    }

    /// How many labels it takes where each row is dealt to one of them, half and half.
    fn split(&self, lot: &mut Lot, labels: u64, is_null: bool, planned: u64) -> Option<u64> {
        let (mut dealt, mut right): (Arms, Arms) = ([0; 2], [0; 2]);
        (1..=labels).find(|n| {
            let (row, arm) = (self.row(lot, is_null), (lot.bits() & 1) as usize);
            dealt[arm] += 1;
            right[arm] += u64::from(row[arm]);
            n.is_multiple_of(LOOK) && split_is_won(dealt, right, planned)
        })
    }
}

/// For how many units a split in half is planned.
fn planned(gain: f64, sd: f64) -> u64 {
    let (quantiles, drift) = (QUANTILES.iter().sum::<f64>(), gain / (2.0 * sd));
    (quantiles * quantiles / (drift * drift)).ceil() as u64
}

/// The judge's test of outcomes by arm.
fn split_is_won(dealt: Arms, right: Arms, planned: u64) -> bool {
    let outcomes = [0, 1].map(|arm| outcomes(dealt[arm], right[arm]));
    let found = difference(&[(Share::of(MILLION / 2), outcomes)]);
    dealt.iter().all(|&count| count >= OUTCOMES_MIN) && found.lower(ALPHA, planned) > 0.0
}

/// `n` outcomes of which `right` are 1.
fn outcomes(n: u64, right: u64) -> Outcomes {
    let ones = Sum::of(right as f64);
    Outcomes { n, y: ones, yy: ones, ..Outcomes::default() }
}

/// The judge's test of pairs, as a bar: by the number of rows on which one alone was right, the least of them that the better
/// one must have won.
#[derive(Default)]
struct Needed(Vec<u64>);

impl Needed {
    fn wins(&mut self, discordant: u64) -> u64 {
        while self.0.len() as u64 <= discordant {
            let pairs = self.0.len() as u64;
            // With every loss, more wins are needed: never fewer than before.
            let mut wins = self.0.last().copied().unwrap_or(0);
            while wins <= pairs && !pairs_are_won([pairs - wins, wins]) {
                wins += 1;
            }
            self.0.push(wins);
        }
        self.0[discordant as usize]
    }
}

fn pairs_are_won(discordant: Arms) -> bool {
    let mut paired = Paired::new(ALPHA);
    paired.add(&Labels { discordant, is_binary: true, ..Labels::default() });
    paired.ln_e_above(0.0) >= -libm::log(ALPHA)
}

#[cfg(test)]
mod tests;
