//! Which hours of a baseline are alike, and how far are its own days from the rest of it?
//!
//! Hours are grouped where that foretells days that were left out better: by the mean log-likelihood of a row, so that few rows an
//! hour are enough to tell. Then each hour, day and week of the baseline is compared with the rest of it as windows will be: what
//! the baseline does to itself is no drift.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::bins::{Bins, KINDS};
use crate::exact;
use crate::numbers::ln;
use crate::span::{Span, hour_of_week};
use crate::statistics::distance;

/// What a row must be better foretold, in natural units, for each step towards more groups: half of a PSI of 0.01.
const GAIN_MIN: f64 = 0.005;

/// Rows a group must have, on average.
const GROUP_MIN: u64 = 200;

/// Rows of a window: with fewer, the next one is added.
pub(crate) const WINDOW_MIN: u64 = 200;

/// Hours and days of the baseline that tell something of others, and weeks: with fewer of these, what days are is taken for them,
/// which is more.
const WINDOWS_MIN: [usize; 3] = [7, 7, 26];

/// As many rows as the whole counts for in a group, where groups are weighed.
const PRIOR: f64 = 20.0;

/// Which hours of the week are alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cycle {
    /// All.
    None,
    /// Those of the same time of day.
    Day,
    /// Those of the same day of the week.
    Week,
    /// Those of the same time of day, Mondays to Fridays, and on Saturdays and Sundays.
    DayAndWeekend,
}

impl Cycle {
    const ALL: [Cycle; 4] = [Cycle::None, Cycle::Day, Cycle::Week, Cycle::DayAndWeekend];

    /// How many groups.
    pub fn cells(self) -> usize {
        match self {
            Cycle::None => 1,
            Cycle::Day => 24,
            Cycle::Week => 7,
            Cycle::DayAndWeekend => 48,
        }
    }

    /// The group of an hour of the week, from Monday 00:00.
    pub fn cell(self, hour: u8) -> usize {
        let (day, time) = (usize::from(hour / 24 % 7), usize::from(hour % 24));
        match self {
            Cycle::None => 0,
            Cycle::Day => time,
            Cycle::Week => day,
            Cycle::DayAndWeekend => time + if day >= 5 { 24 } else { 0 },
        }
    }

    /// Steps towards more groups, each of which must be worth it.
    fn steps(self) -> f64 {
        match self {
            Cycle::None => 0.0,
            Cycle::Day | Cycle::Week => 1.0,
            Cycle::DayAndWeekend => 2.0,
        }
    }

    /// Days that must have been seen.
    fn days_min(self) -> usize {
        match self {
            Cycle::None => 0,
            Cycle::Day => 3,
            Cycle::Week | Cycle::DayAndWeekend => 14,
        }
    }
}

impl Steadiness {
    /// How many windows these are worth that have nothing to do with each other.
    pub fn independent(&self) -> f64 {
        f64::from(self.windows) * (1.0 - self.lasting) / (1.0 + self.lasting)
    }
}

/// How far the baseline's own windows of some length were from the rest of it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Steadiness {
    /// How many of them.
    pub windows: u32,
    /// The mean of their corrected PSI.
    #[serde(with = "exact")]
    pub mean: f64,
    /// Its standard deviation.
    #[serde(with = "exact")]
    pub sd: f64,
    /// How much one is like the next: the correlation, 0 to 0.9.
    #[serde(with = "exact")]
    pub lasting: f64,
    /// The largest of them.
    #[serde(with = "exact")]
    pub largest: f64,
    /// The most by which more rows had no value than expected.
    #[serde(with = "exact")]
    pub missing: f64,
    /// The largest share of values that no other window had.
    #[serde(with = "exact")]
    pub strange: f64,
}

/// Rows by slot, of each hour since 1970.
pub(super) type Hours = BTreeMap<u64, Vec<u32>>;

/// The counts of each group.
pub(super) fn cells(hours: &Hours, cycle: Cycle, slots: usize) -> Vec<Vec<u64>> {
    let mut cells = vec![vec![0; slots]; cycle.cells()];
    for (&hour, counts) in hours {
        add(&mut cells[cycle.cell(hour_of_week(hour))], counts);
    }
    cells
}

fn add(sums: &mut [u64], counts: &[u32]) {
    sums.iter_mut().zip(counts).for_each(|(sum, &count)| *sum += u64::from(count));
}

fn by_day(hours: &Hours) -> Vec<Vec<(u64, &[u32])>> {
    let mut days: BTreeMap<u64, Vec<(u64, &[u32])>> = BTreeMap::new();
    for (&hour, counts) in hours {
        days.entry(hour / 24).or_default().push((hour, counts));
    }
    days.into_values().collect()
}

/// Which hours are to be taken as alike.
pub(super) fn choose(hours: &Hours, slots: usize) -> Cycle {
    let days = by_day(hours);
    let rows: u64 = hours.values().flatten().map(|&count| u64::from(count)).sum();
    let fits = |cycle: &Cycle| days.len() >= cycle.days_min() && rows >= cycle.cells() as u64 * GROUP_MIN;
    let scored = Cycle::ALL.into_iter().filter(fits).map(|cycle| {
        let foretold = foretold(&days, &cells(hours, cycle, slots), cycle);
        (cycle, foretold / rows.max(1) as f64 - GAIN_MIN * cycle.steps())
    });
    scored.fold((Cycle::None, f64::NEG_INFINITY), |best, next| if next.1 > best.1 { next } else { best }).0
}

/// ln of how likely the rows of each day are, given the other days' of their groups.
fn foretold(days: &[Vec<(u64, &[u32])>], cells: &[Vec<u64>], cycle: Cycle) -> f64 {
    let slots = cells[0].len();
    let mut sum = 0.0;
    for day in days {
        let mut own: BTreeMap<usize, Vec<u64>> = BTreeMap::new();
        for (hour, counts) in day {
            let cell = cycle.cell(hour_of_week(*hour));
            add(own.entry(cell).or_insert_with(|| vec![0; slots]), counts);
        }
        let whole: Vec<f64> = (0..slots)
            .map(|slot| {
                let all: u64 = cells.iter().map(|cell| cell[slot]).sum();
                (all - own.values().map(|own| own[slot]).sum::<u64>()) as f64 + 0.5
            })
            .collect();
        let whole_rows: f64 = whole.iter().sum();
        for (cell, own) in &own {
            let rest: Vec<f64> = cells[*cell].iter().zip(own).map(|(all, own)| (all - own) as f64).collect();
            let rest_rows: f64 = rest.iter().sum();
            for slot in (0..slots).filter(|&slot| own[slot] > 0) {
                let prior = PRIOR * whole[slot] / whole_rows;
                sum += own[slot] as f64 * ln((rest[slot] + prior) / (rest_rows + PRIOR));
            }
        }
    }
    sum
}

/// What windows of `span` are apart from the rest; `strange`: the values of a window that no other had, by its first hour.
pub(super) fn steadiness(
    hours: &Hours,
    cycle: Cycle,
    bins: &Bins,
    span: Span,
    strange: &BTreeMap<u64, u64>,
) -> Option<Steadiness> {
    let slots = bins.slots();
    let kinds = slots - KINDS;
    let all = cells(hours, cycle, slots);
    let mut apart = Vec::new();
    let (mut missing, mut strangest) = (0f64, 0f64);
    let mut window = Window::new(&all);
    let mut hours = hours.iter().peekable();
    while let Some((&hour, counts)) = hours.next() {
        window.add(hour, counts, cycle);
        let is_over = hours.peek().is_none_or(|(next, _)| span.first(**next) != span.first(hour));
        if is_over {
            window.strange += strange.get(&span.first(hour)).copied().unwrap_or(0);
        }
        let found: u64 = window.found[..kinds].iter().sum();
        if !is_over || found < WINDOW_MIN {
            continue;
        }
        let whole = super::mixture(&window.rest, &window.rows, bins, 1.0);
        let there = &window.found[..kinds];
        if let Some(distance) =
            distance(&whole.expected, there, found as f64).filter(|distance| distance.m >= WINDOW_MIN as f64)
        {
            // As it is: what chance takes from one window it gives to another.
            apart.push(distance.psi - distance.noise);
            let rows: u64 = window.found.iter().sum();
            missing = missing.max((rows - found) as f64 / rows as f64 - whole.missing);
            strangest = strangest.max(window.strange as f64 / found as f64);
        }
        window = Window::new(&all);
    }
    (apart.len() >= WINDOWS_MIN[span as usize]).then(|| {
        let n = apart.len() as f64;
        let mean = (apart.iter().sum::<f64>() / n).max(0.0);
        let pairs = apart.windows(2).map(|pair| (pair[0] - mean) * (pair[1] - mean)).sum::<f64>();
        let square = apart.iter().map(|psi| (psi - mean) * (psi - mean)).sum::<f64>();
        let lasting = if square > 0.0 { (pairs / square).clamp(0.0, 0.9) } else { 0.0 };
        let sd = (apart.iter().map(|psi| (psi - mean) * (psi - mean)).sum::<f64>() / (n - 1.0)).sqrt();
        let largest = apart.iter().copied().fold(0.0, f64::max);
        Steadiness { windows: apart.len() as u32, mean, sd, lasting, largest, missing, strange: strangest }
    })
}

/// A window of the baseline, and the rest of it.
struct Window {
    found: Vec<u64>,
    rest: Vec<Vec<u64>>,
    /// Its rows by group.
    rows: Vec<u64>,
    strange: u64,
}

impl Window {
    fn new(all: &[Vec<u64>]) -> Window {
        Window { found: vec![0; all[0].len()], rest: all.to_vec(), rows: vec![0; all.len()], strange: 0 }
    }

    fn add(&mut self, hour: u64, counts: &[u32], cycle: Cycle) {
        let cell = cycle.cell(hour_of_week(hour));
        add(&mut self.found, counts);
        self.rest[cell].iter_mut().zip(counts).for_each(|(rest, &count)| *rest -= u64::from(count));
        self.rows[cell] += counts.iter().map(|&count| u64::from(count)).sum::<u64>();
    }
}
