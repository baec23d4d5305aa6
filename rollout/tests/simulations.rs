//! Do the judge's tests keep their promises on drawn traffic, and are they as quick as the figures of docs/statistics.md?
//!
//! Seeds are fixed, so that each figure is the same on every run; the tolerances are what so few runs may differ by.
//! `cargo run --release -p tiltyard-rollout --example simulate` plays the full counts.

mod simulation;

use simulation::splits::Unit;
use simulation::{Found, errors, judged, outcomes, splits};

/// At least `share` of the runs found it, in about `median`, to a part of `tolerance`.
#[track_caller]
fn finds(found: Found, share: f64, median: f64, tolerance: f64) {
    assert!(found.share >= share, "{found:?}, expected {share} of the runs");
    assert!((found.median / median - 1.0).abs() <= tolerance, "{found:?}, expected a median of {median}");
}

/// At most `share` of the runs cried wolf.
#[track_caller]
fn rarely(found: Found, share: f64) {
    assert!(found.share <= share, "{found:?}, expected at most {share}");
}

#[test]
fn sim_1_a_healthy_canary_is_left_alone_and_a_bad_one_is_found() {
    for (rps, ratio) in [(10.0, 1.0), (100.0, 1.0), (1_000.0, 1.0), (100.0, 1.25)] {
        rarely(errors::constant(1_000, rps, ratio, 60, 0.0), 0.001);
    }
    rarely(errors::constant(50, 100.0, 1.0, 1_440, 0.8), 0.0);
    finds(errors::constant(300, 100.0, 2.0, 60, 0.0), 0.90, 27.0, 0.15);
    finds(errors::constant(300, 100.0, 3.0, 60, 0.0), 1.0, 7.0, 0.15);
    finds(errors::constant(300, 10.0, 5.0, 60, 0.0), 0.98, 20.0, 0.15);
    finds(errors::constant(300, 10.0, 20.0, 60, 0.0), 1.0, 3.0, 0.34);
}

#[test]
fn sim_2_a_ramp_stops_before_many_have_suffered() {
    for rps in [10.0, 100.0, 1_000.0] {
        rarely(errors::ramp(300, rps, 1.0).found, 0.001);
    }
    for (rps, ratio, share, minutes, excess) in [
        (10.0, 3.0, 0.95, 36.0, 41.0),
        (100.0, 2.0, 1.0, 26.0, 77.0),
        (100.0, 3.0, 1.0, 16.0, 26.0),
        (1_000.0, 2.0, 1.0, 12.0, 62.0),
        (1_000.0, 5.0, 1.0, 1.0, 18.0),
    ] {
        let ramp = errors::ramp(300, rps, ratio);
        finds(ramp.found, share, minutes, 0.1);
        assert!((ramp.excess / excess - 1.0).abs() < 0.2, "{ramp:?}, expected an excess of {excess}");
    }
    // Nobody can tell 2x of 0.5 % within the hour at 10 requests/s: 18 % in statistics.md.
    let slow = errors::ramp(600, 10.0, 2.0);
    assert!((0.12..0.24).contains(&slow.found.share), "{slow:?}");
}

#[test]
fn sim_3_pairs_need_a_tenth_of_the_labels() {
    finds(outcomes::paired(600, 0.01, 0.04, 200_000), 1.0, 4_200.0, 0.12);
    finds(outcomes::paired(600, 0.005, 0.03, 200_000), 1.0, 11_800.0, 0.12);
    finds(outcomes::paired(600, 0.003, 0.02, 200_000), 1.0, 22_300.0, 0.12);
    finds(outcomes::paired(600, 0.01, 0.06, 200_000), 1.0, 6_200.0, 0.12);
    finds(outcomes::split(300, [0.9, 0.91], 1_000_000), 1.0, 35_000.0, 0.15);
    finds(outcomes::split(300, [0.8, 0.81], 1_000_000), 1.0, 60_000.0, 0.15);
    // At α = 0.01, of 1,000 runs.
    rarely(outcomes::paired(1_000, 0.0, 0.04, 100_000), 0.016);
    rarely(outcomes::split(1_000, [0.9, 0.9], 200_000), 0.016);
    // Shown to be worse, at α = 0.00025.
    finds(outcomes::harm(100, [0.9, 0.89], 1_000_000), 1.0, 68_000.0, 0.2);
    rarely(outcomes::harm(1_000, [0.9, 0.9], 200_000), 0.002);
}

/// The preview tells beforehand what the simulation finds: within 15 %.
#[test]
fn labels_that_are_needed_are_known_beforehand() {
    for (gain, disagreement) in [(0.01, 0.04), (0.005, 0.03), (0.003, 0.02), (0.01, 0.06)] {
        let told = tiltyard_rollout::preview::paired_labels(gain, disagreement, 0.01, 200).expect("some") as f64;
        finds(outcomes::paired(600, gain, disagreement, 200_000), 1.0, told, 0.15);
    }
}

#[test]
fn sim_4_the_unit_that_counts_is_the_unit_that_was_dealt() {
    rarely(splits::sticky(20, Unit::Request), 0.0);
    rarely(splits::sticky(60, Unit::Key), 0.05);
    assert_eq!(splits::sticky(10, Unit::StickyRequest).share, 1.0, "what is counted wrongly is seen wrongly");
}

#[test]
fn sim_5_labels_that_are_merely_quicker_win_nothing() {
    rarely(outcomes::delayed(60, true), 0.05);
    let naive = outcomes::delayed(60, false).share;
    assert!(naive > 0.5, "{naive}: labels as they arrive show a difference that is not there");
}

#[test]
fn sim_7_a_split_that_is_not_as_configured_is_found() {
    rarely(splits::sample_ratio(500, 500_000, 0.5), 0.004);
    finds(splits::sample_ratio(60, 50_000, 0.0475), 1.0, 122_000.0, 0.25);
    finds(splits::sample_ratio(60, 500_000, 0.495), 1.0, 165_000.0, 0.25);
}

#[test]
fn sim_8_slower_answers_are_found_at_their_cut_points() {
    finds(errors::latency(100, 2.0), 1.0, 800.0, 0.26);
    finds(errors::latency(100, 1.5), 1.0, 1_800.0, 0.25);
    finds(errors::latency(60, 1.2), 1.0, 17_400.0, 0.25);
    rarely(errors::latency(60, 1.1), 0.25);
    rarely(errors::latency(60, 1.05), 0.05);
    rarely(errors::latency(30, 1.0), 0.0);
}

#[test]
fn sim_9_bounds_hold_at_every_look_and_are_narrow() {
    let [single, ten] = [1, 10].map(|block| outcomes::bounded(60, block));
    assert!(single.missed <= 0.05 && ten.missed <= 0.05, "{single:?}, {ten:?}");
    assert!(
        (single.at_1_000 / 0.0091 - 1.0).abs() < 0.05 && (single.at_20_000 / 0.0017 - 1.0).abs() < 0.05,
        "{single:?}"
    );
    // What blocks cost.
    assert!(ten.at_1_000 < 0.0105 && ten.at_20_000 < 0.0019, "{ten:?}");
    let hundred = outcomes::bounded(60, 100);
    assert!(hundred.missed <= 0.05 && hundred.at_20_000 < 0.0022, "{hundred:?}");
}

#[test]
fn whole_rollouts_end_as_they_should() {
    for (runs, rps) in [(10, 10.0), (100, 100.0), (50, 1_000.0)] {
        let healthy = judged::rollouts(runs, rps, 1.0);
        assert!(healthy.rolled_back == 0, "at {rps} requests/s: {healthy:?}");
        // Of a thousand, the test of the split may stop one for a person.
        assert!(rps < 100.0 || healthy.promoted + 1 >= runs, "at {rps} requests/s: {healthy:?}");
    }
    for rps in [100.0, 1_000.0] {
        let harmful = judged::rollouts(100, rps, 2.0);
        assert!(harmful.rolled_back >= 99 && harmful.promoted == 0 && harmful.excess <= 100.0, "{harmful:?}");
    }
}
