//! Does the rule keep its promises: hardly ever an alarm where nothing happens, and soon where something does?
//!
//! Seeds are fixed, so that each figure is the same on every run. `TILTYARD_DRIFT=100 cargo test --release -p tiltyard-drift --test
//! simulations -- --nocapture` plays a hundred times as much, and prints the tables of docs/drift.md.
#![allow(clippy::print_stdout, reason = "the tables are what the long form is for")]

#[path = "simulation/lot.rs"]
mod lot;
#[path = "simulation/tables.rs"]
mod tables;
#[path = "simulation/worlds.rs"]
mod worlds;

use tiltyard_drift::alarm::Rule;
use worlds::{FEATURES, World};

fn times() -> u64 {
    std::env::var("TILTYARD_DRIFT").map_or(1, |times| times.parse().expect("a number of times"))
}

/// §4.5: alarms a model-month on bins alone.
#[test]
fn on_bins_alone_the_rule_is_as_quiet_as_designed() {
    println!("alarms a model-month: PSI > 0.02, PSI > 0.1, chi-square 5 %, ours in one window, ours in two");
    for (n, months, designed) in [
        (200, 40, [900.0, 414.0, 77.0, 2.3, 0.007]),
        (500, 20, [861.0, 0.24, 55.0, 0.0, 0.0]),
        (2_000, 6, [4.3, 0.0, 48.0, 0.0, 0.0]),
        (10_000, 2, [0.0, 0.0, 46.0, 0.0, 0.0]),
    ] {
        let found = tables::alarms(months * times(), n);
        println!("N = {n}: {found:.3?}, designed {designed:?}");
        for (found, designed) in found.into_iter().zip(designed) {
            let tolerance = 0.1 * designed + 4.0 * (designed / months as f64).sqrt() + 0.2;
            assert!((found - designed).abs() <= tolerance, "N = {n}: {found}, designed {designed}");
        }
    }
}

/// §4.5: one window finds half a standard deviation.
#[test]
fn half_a_standard_deviation_is_found_in_a_window() {
    for (n, least) in [(200, 0.93), (500, 0.999)] {
        let found = tables::power(1_000 * times(), n, 0.5);
        println!("0.5 sd in a window of {n} rows: found in {:.2} %", found * 100.0);
        assert!(found >= least, "{found} of windows of {n}");
    }
}

const STILL: World =
    World { name: "no cycle", rows: 500, days: 28, daily: 0.0, weekly: 0.0, mood: 0.0, lasting: 0.0, keys: 0 };

const WORLDS: &[World] = &[
    STILL,
    World { name: "daily and weekly cycles", daily: 1.0, weekly: 1.0, ..STILL },
    World { name: "the same, 2,000 rows", rows: 2_000, daily: 1.0, weekly: 1.0, ..STILL },
    World {
        name: "days differ by 0.1 sd, half of it lasts",
        daily: 1.0,
        weekly: 1.0,
        mood: 0.1,
        lasting: 0.5,
        ..STILL
    },
    World { name: "by 0.2 sd", daily: 1.0, weekly: 1.0, mood: 0.2, lasting: 0.5, ..STILL },
    World { name: "by 0.4 sd", daily: 1.0, weekly: 1.0, mood: 0.4, lasting: 0.5, ..STILL },
    World { name: "by 0.4 sd, 80 % of it lasts", daily: 1.0, weekly: 1.0, mood: 0.4, lasting: 0.8, ..STILL },
    World {
        name: "the same, a baseline of 90 days",
        days: 90,
        daily: 1.0,
        weekly: 1.0,
        mood: 0.4,
        lasting: 0.8,
        ..STILL
    },
    World { name: "3,000 keys that come again", rows: 1_000, keys: 3_000, ..STILL },
];

/// What is played where nobody asks for more: a year of each takes a second.
const SHORT: [usize; 3] = [0, 1, 3];

fn worlds() -> impl Iterator<Item = &'static World> {
    let is_short = times() == 1;
    WORLDS.iter().enumerate().filter(move |(at, _)| !is_short || SHORT.contains(at)).map(|(_, world)| world)
}

#[test]
fn a_year_in_which_nothing_happens_is_quiet() {
    // As the method had it: the mean and three standard deviations, of squares of normal variables.
    let designed = Rule { own: [1.0 + 3.0 * std::f64::consts::SQRT_2, 0.0], ..Rule::default() };
    println!("alarms a model-year of {FEATURES} features: ours, with the mean and three standard deviations instead");
    for world in worlds() {
        let ours = worlds::alarms(*world, times(), &Rule::default());
        let theirs = if times() > 1 { worlds::alarms(*world, times(), &designed) } else { 0.0 };
        println!("{}: {ours:.2}, {theirs:.2}", world.name);
        if world.mood == 0.0 {
            assert!(ours <= 0.05, "{}: {ours}", world.name);
        } else if world.lasting <= 0.5 {
            assert!(ours <= 1.0 + 3.0 / (times() as f64).sqrt(), "{}: {ours}", world.name);
        }
    }
}

#[test]
fn half_a_standard_deviation_is_found_in_two_days() {
    println!("days until half of the features and nine of ten are alarmed: by 0.5 sd, by 1 sd");
    for world in worlds() {
        let runs = times().div_ceil(4);
        let found = worlds::delay(*world, runs, 0.5, &Rule::default());
        let more = worlds::delay(*world, runs, 1.0, &Rule::default());
        println!("{}: {found:?}, {more:?}", world.name);
        assert!(world.mood > 0.0 || found == [2, 2], "{}: {found:?}", world.name);
    }
}
