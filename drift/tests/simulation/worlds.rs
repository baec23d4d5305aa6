//! How often does the whole machinery cry wolf in a year in which nothing happens, and how soon does it find what does?
//!
//! Worlds of 30 features, from the rows to the alarms: baseline, shards, windows, watch. Days and weeks have their cycles, days have moods of
//! their own that last, and keys come again.

use bytes::Bytes;
use tiltyard_drift::alarm::{Level, Rule, Watch};
use tiltyard_drift::baseline::{Baseline, Builder, Role, Spec};
use tiltyard_drift::shard::Shard;
use tiltyard_drift::values::Values;
use tiltyard_drift::windows::Windows;
use tiltyard_types::DataType;

use crate::lot::Lot;

pub(crate) const FEATURES: usize = 30;

const HOUR_MS: u64 = 3_600_000;

/// A Monday.
const BEGIN_MS: u64 = 1_767_571_200_000;

/// What the world is like. Everything is in standard deviations of a row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct World {
    pub(crate) name: &'static str,
    /// Rows of a day, more by day than by night.
    pub(crate) rows: u64,
    /// Days of the baseline.
    pub(crate) days: u64,
    /// How far values go with the time of day, and on Saturdays and Sundays.
    pub(crate) daily: f64,
    pub(crate) weekly: f64,
    /// How far whole days are from each other, and how much of that lasts until the next.
    pub(crate) mood: f64,
    pub(crate) lasting: f64,
    /// How many different keys send rows, each with ways of its own; 0: rows have none.
    pub(crate) keys: u64,
}

/// A world as it goes on.
struct Course {
    world: World,
    lot: Lot,
    moods: Vec<f64>,
    /// Added to all of them.
    shift: f64,
}

/// Rows of an hour, column by column.
struct Rows {
    numbers: Vec<Vec<u8>>,
    texts: Vec<Vec<Bytes>>,
    keys: Vec<u64>,
}

impl Course {
    fn new(world: World, seed: u64) -> Course {
        let mut lot = Lot::new(seed);
        let moods = (0..FEATURES).map(|_| lot.normal() * world.mood).collect();
        Course { world, lot, moods, shift: 0.0 }
    }

    /// The rows of an hour since the beginning.
    fn hour(&mut self, hour: u64) -> Rows {
        let World { rows, daily, weekly, mood, lasting, keys, .. } = self.world;
        let (time, is_weekend) = (hour % 24, hour / 24 % 7 >= 5);
        if time == 0 {
            let fresh = mood * (1.0 - lasting * lasting).sqrt();
            let lot = &mut self.lot;
            self.moods.iter_mut().for_each(|mood| *mood = *mood * lasting + lot.normal() * fresh);
        }
        let angle = std::f64::consts::TAU * time as f64 / 24.0;
        let busy = 1.0 - 0.8 * libm::cos(angle);
        let exact = rows as f64 / 24.0 * busy * if is_weekend { 0.7 } else { 1.0 };
        let count = (exact + self.lot.uniform()) as usize;
        let whose: Vec<u64> = (0..count).map(|_| if keys > 0 { self.lot.below(keys) } else { 0 }).collect();
        let mut of = Rows { numbers: Vec::new(), texts: Vec::new(), keys: whose };
        for feature in 0..FEATURES {
            // Features go with the day and the week to different degrees, and some not at all.
            let degree = (feature % 3) as f64 / 2.0;
            let base = degree * (daily * libm::sin(angle) + if is_weekend { weekly } else { 0.0 })
                + self.moods[feature]
                + self.shift;
            let own = |key: u64| if keys > 0 { Lot::new(key * 64 + feature as u64).normal() } else { 0.0 };
            let lot = &mut self.lot;
            let mut latent = |key: u64| {
                let (own, noise) = (own(key), lot.normal());
                base + if keys > 0 { 0.9 * own + 0.436 * noise } else { noise }
            };
            let latent: Vec<f64> = of.keys.iter().map(|&key| latent(key)).collect();
            let made = |value: fn(f64) -> f64| latent.iter().flat_map(|&x| value(x).to_le_bytes()).collect::<Vec<u8>>();
            let (numbers, texts) = match feature % 5 {
                0..=2 => (made(|x| 3.0 * x + 40.0), Vec::new()),
                3 => (made(libm::exp), Vec::new()),
                _ => (
                    Vec::new(),
                    latent.iter().map(|x| Bytes::from(format!("c{}", (x * 1.5).clamp(-4.0, 4.0).round()))).collect(),
                ),
            };
            of.numbers.push(numbers);
            of.texts.push(texts);
        }
        of
    }
}

impl Rows {
    fn values(&self, feature: usize) -> Values<'_> {
        if feature % 5 == 4 {
            return Values::texts(&self.texts[feature]);
        }
        Values::numbers(DataType::Fp64, &self.numbers[feature]).expect("numbers")
    }
}

fn baseline(course: &mut Course) -> Baseline {
    let hours: Vec<Rows> = (0..course.world.days * 24).map(|hour| course.hour(hour)).collect();
    let at = |hour: usize| BEGIN_MS + hour as u64 * HOUR_MS;
    let times: Vec<u64> =
        hours.iter().enumerate().flat_map(|(hour, rows)| rows.keys.iter().map(move |_| at(hour))).collect();
    let mut builder = Builder::new(times.len()).times(&times).expect("one for each row");
    if course.world.keys > 0 {
        let keys: Vec<u64> = hours.iter().flat_map(|rows| rows.keys.iter().copied()).collect();
        builder = builder.keys(&keys).expect("one for each row");
    }
    for feature in 0..FEATURES {
        let pieces: Vec<Values<'_>> = hours.iter().map(|rows| rows.values(feature)).collect();
        let role = if feature == 0 { Role::Output } else { Role::Input };
        builder.add(Spec { name: format!("f{feature}"), role, importance: 1.0 }, &pieces).expect("as many as rows");
    }
    builder.finish().expect("it is one")
}

/// A deployment that is watched.
struct Watched {
    course: Course,
    shard: Shard,
    windows: Windows,
    watch: Watch,
    hour: u64,
    /// Features that were alarmed, each time again.
    alarms: u64,
}

impl Watched {
    fn new(world: World, seed: u64, rule: &Rule) -> Watched {
        let mut course = Course::new(world, seed);
        let baseline = baseline(&mut course);
        let (shard, windows) = (Shard::new(&baseline), Windows::new(&baseline));
        let watch = Watch::new(&baseline, rule.clone());
        Watched { course, shard, windows, watch, hour: world.days * 24, alarms: 0 }
    }

    fn day(&mut self) {
        for _ in 0..24 {
            let rows = self.course.hour(self.hour);
            let closed = self.windows.advance(BEGIN_MS + self.hour * HOUR_MS);
            self.look(&closed);
            self.shard.rows(rows.keys.len());
            if self.course.world.keys > 0 {
                rows.keys.iter().for_each(|&key| self.shard.key(key));
            }
            (0..FEATURES).for_each(|feature| self.shard.count(feature, &rows.values(feature)));
            let closed = self.windows.absorb(&mut self.shard, BEGIN_MS + self.hour * HOUR_MS);
            assert!(closed.is_empty());
            self.hour += 1;
        }
        let closed = self.windows.advance(BEGIN_MS + self.hour * HOUR_MS);
        self.look(&closed);
    }

    fn look(&mut self, closed: &[tiltyard_drift::windows::Window]) {
        for window in closed {
            let changes = self.watch.take(window);
            self.alarms +=
                changes.iter().filter(|change| change.feature.is_some() && change.from == Level::Ok).count() as u64;
        }
    }
}

/// Alarms a model-year: each time that a feature is not as expected any more.
pub(crate) fn alarms(world: World, years: u64, rule: &Rule) -> f64 {
    let of = |seed| {
        let mut watched = Watched::new(world, seed, rule);
        (0..365).for_each(|_| watched.day());
        watched.alarms
    };
    (0..years).map(of).sum::<u64>() as f64 / years as f64
}

/// After how many days a shift of all features is found in half of them and in nine of ten; none within 30 days counts as 31.
pub(crate) fn delay(world: World, runs: u64, shift: f64, rule: &Rule) -> [u64; 2] {
    let mut delays = Vec::new();
    for seed in 0..runs {
        let mut watched = Watched::new(world, 1_000 + seed, rule);
        (0..7).for_each(|_| watched.day());
        watched.course.shift = shift;
        let mut found = [31; FEATURES];
        for day in 1..=30 {
            watched.day();
            for (feature, found) in found.iter_mut().enumerate() {
                if watched.watch.standing(feature).level > Level::Ok {
                    *found = day.min(*found);
                }
            }
        }
        delays.extend(found);
    }
    delays.sort_unstable();
    [delays[delays.len() / 2], delays[delays.len() * 9 / 10]]
}
