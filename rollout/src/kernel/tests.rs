//! Does the label test compute what its formulas say?

use proptest::prelude::*;
use serde::Deserialize;

use super::*;

fn tally(share: u32, events: Arms) -> Tally {
    let mut tally = Tally::default();
    tally.add(Share::of(share), events);
    tally
}

#[derive(Deserialize)]
struct Case {
    /// (champion's share, challenger's share, champion's events, challenger's events)
    tally: Vec<(u32, u32, u64, u64)>,
    tolerance: f64,
    ln_e: f64,
}

#[derive(Deserialize)]
struct Cases {
    cases: Vec<Case>,
}

#[test]
fn the_published_e_values_hold() {
    let cases: Cases = serde_json::from_str(include_str!("../../vectors/kernel.json")).expect("it is JSON");
    assert!(cases.cases.len() >= 8);
    for Case { tally, tolerance, ln_e } in cases.cases {
        let mut sum = Tally::default();
        for &(champion, challenger, n0, n1) in &tally {
            sum.add(Share { champion, challenger }, [n0, n1]);
        }
        let found = ln_e_above(&sum, tolerance);
        assert!((found - ln_e).abs() < 1e-9, "{tally:?}: {found}, published {ln_e}");
    }
}

/// statistics.md, 3.3: a champion without any error does not make the test blind.
#[test]
fn errors_that_only_the_challenger_has_are_evidence() {
    for (errors, expected) in [(4, 4.2e3), (5, 4.4e4)] {
        let e = exp(ln_e_above(&tally(50_000, [0, errors]), 0.25));
        assert!((e / expected - 1.0).abs() < 0.02, "{errors} errors: {e:.0}, expected {expected}");
    }
}

#[test]
fn no_events_are_no_evidence() {
    let nothing = Tally::default();
    assert_eq!(ln_e_above(&nothing, 0.25), 0.0);
    assert_eq!(ln_e_two_sided(&nothing), 0.0);
    assert_eq!(ln_e_sample_ratio(&nothing), 0.0);
    assert_eq!(ratio(&nothing, 0.001), Ratio { lower: 0.0, upper: None });
    assert_eq!(tally(0, [5, 5]), nothing, "who had no share is not compared");
    assert_eq!(p_value(0.0), 1.0);
}

/// The one-step mean of E is 1 at the bound of the null hypothesis and below 1 within it.
#[test]
fn evidence_does_not_grow_by_itself() {
    for (share, before) in [(50_000, [40, 3]), (500_000, [0, 9]), (10_000, [900, 30])] {
        let mean = |ratio: f64, ln_e: &dyn Fn(Arms) -> f64| {
            let w = Share::of(share).challengers();
            let p = w * ratio / (w * ratio + 1.0 - w);
            let [zero, one] = before;
            let after = p * exp(ln_e([zero, one + 1])) + (1.0 - p) * exp(ln_e([zero + 1, one]));
            after / exp(ln_e(before))
        };
        let w = Share::of(share).challengers();
        let grid = |events| ln_e_above(&tally(share, events), 0.25);
        let closed = |events| ln_e_beta(events, w, 0.25, [1.0, 19.0]);
        for test in [&grid as &dyn Fn(Arms) -> f64, &closed] {
            assert!((mean(1.25, test) - 1.0).abs() < 1e-9, "{}", mean(1.25, test));
            assert!(mean(1.0, test) < 1.0 && mean(2.0, test) > 1.0);
        }
        let even = |events| ln_e_sample_ratio(&tally(share, events));
        assert!((mean(1.0, &even) - 1.0).abs() < 1e-9);
        let two = |events| ln_e_two_sided(&tally(share, events));
        assert!((mean(1.0, &two) - 1.0).abs() < 1e-9);
    }
}

#[test]
fn the_ratios_bounds_hold_what_was_counted() {
    // 1,000 events among 10 % and 9,000 among the rest: the same rate.
    let found = ratio(&tally(100_000, [9_000, 1_000]), 0.0005);
    let upper = found.upper.expect("it is bounded");
    assert!(0.8 < found.lower && found.lower < 1.0 && 1.0 < upper && upper < 1.25, "{found:?}");
    // Nothing of the challenger's: no lower bound. Nothing of the champion's: no upper one.
    assert!(ratio(&tally(500_000, [50, 0]), 0.01).lower == 0.0);
    assert!(ratio(&tally(500_000, [0, 50]), 0.01).upper.is_none());
}

#[test]
fn slices_are_found_together() {
    let ln_e = [1.0, 20.0, 20.0, 50.0f64].map(ln);
    // K/(kα) at α = 0.1: 40, 20, 13.3, 10.
    assert_eq!(e_bh(&ln_e, 0.1), [1, 2, 3]);
    assert_eq!(e_bh(&[1.0, 20.0, 39.0, 19.0].map(ln), 0.1), [1, 2, 3]);
    assert_eq!(e_bh(&[1.0, 2.0, 39.0, 3.0].map(ln), 0.1), [0usize; 0]);
    assert_eq!(e_bh(&[], 0.1), [0usize; 0]);
}

proptest! {
    /// Blocks in any order, cut anywhere: the same to the bit.
    #[test]
    fn the_order_of_blocks_does_not_matter(
        blocks in prop::collection::vec((1u32..5, 0u64..50, 0u64..50), 0..20), swaps in any::<u64>(),
    ) {
        let sum = |blocks: &[(u32, u64, u64)]| {
            let mut sum = Tally::default();
            blocks.iter().for_each(|&(share, n0, n1)| sum.add(Share::of(share * 100_000), [n0, n1]));
            sum
        };
        let mut shuffled = blocks.clone();
        shuffled.sort_by_key(|(share, n0, n1)| (u64::from(*share) ^ n0 ^ n1 << 7).wrapping_mul(swaps | 1));
        let (a, b) = (sum(&blocks), sum(&shuffled));
        prop_assert_eq!(ln_e_above(&a, 0.25).to_bits(), ln_e_above(&b, 0.25).to_bits());
        prop_assert_eq!(ratio(&a, 0.01), ratio(&b, 0.01));
    }

    /// One more event of the challenger's is more evidence against it, one more of the champion's is less.
    #[test]
    fn evidence_is_monotone(share in 1_000u32..900_000, n0 in 0u64..3_000, n1 in 0u64..3_000) {
        let ln_e = |n0, n1| ln_e_above(&tally(share, [n0, n1]), 0.25);
        prop_assert!(ln_e(n0, n1 + 1) > ln_e(n0, n1) && ln_e(n0 + 1, n1) < ln_e(n0, n1));
        let w = Share::of(share).challengers();
        let closed = |n0, n1| ln_e_beta([n0, n1], w, 0.25, [1.0, 1.0 / w]);
        prop_assert!(closed(n0, n1 + 1) > closed(n0, n1) && closed(n0 + 1, n1) < closed(n0, n1));
        let bounds = ratio(&tally(share, [n0, n1]), 0.001);
        prop_assert!(bounds.upper.is_none_or(|upper| upper > bounds.lower));
    }
}

proptest! {
    /// The challenger is given its due, or a little more, and never less.
    #[test]
    fn exposure_is_rounded_in_the_challengers_favour(champion in 1u64..1_000_000_000, challenger in 1u64..1_000_000_000) {
        let mut tally = Tally::default();
        tally.add_exposed(Group { of: [champion, challenger], events: [1, 2] });
        let due = challenger as f64 / (challenger + champion) as f64;
        match tally.by_share().next() {
            Some((share, events)) => {
                let given = share.challengers();
                prop_assert_eq!(events, [1, 2]);
                prop_assert!(given >= due && given <= (due + 1e-6) * (1.0 + ROUNDING), "{} for {}", given, due);
            }
            // All of it, or hardly less.
            None => prop_assert!(due > 0.96, "{}", due),
        }
    }
}

#[test]
fn few_shares_are_remembered_of_many_exposures() {
    let mut tally = Tally::default();
    for challenger in 1..20_000 {
        tally.add_exposed(Group { of: [20_000, challenger], events: [1, 1] });
    }
    assert!(tally.by_share().count() < 400, "{}", tally.by_share().count());
    assert_eq!(tally.total(), [19_999, 19_999]);
}

/// What [`Likelihood`] leaves out and [`Way`] does not ask: the formulas as they stand at the head of the file.
mod plain {
    use super::*;

    fn ln_likelihood(tally: &Tally, ln_ratio: f64) -> f64 {
        let ratio = exp(ln_ratio);
        let each = tally.by_share().map(|(share, [champion, challenger])| {
            let w = share.challengers();
            challenger as f64 * ln_ratio - (champion + challenger) as f64 * ln(w * ratio + 1.0 - w)
        });
        each.sum()
    }

    pub(super) fn ln_mixture(tally: &Tally, null: f64, near: f64, far: f64) -> f64 {
        let base = ln_likelihood(tally, null);
        let step = (far - near) / (GRID - 1) as f64;
        let logs: [f64; GRID] = std::array::from_fn(|g| ln_likelihood(tally, near + step * g as f64) - base);
        ln_mean_exp(&logs)
    }

    pub(super) fn ratio(tally: &Tally, alpha: f64) -> Ratio {
        let first = |is_past: &dyn Fn(f64) -> bool| {
            let (mut from, mut to) = (-LN_RATIO_MAX, LN_RATIO_MAX);
            for _ in 0..crate::search::HALVINGS {
                let middle = (from + to) / 2.0;
                if is_past(middle) { to = middle } else { from = middle }
            }
            exp(to)
        };
        let (threshold, [near, far]) = (-ln(alpha), [NEAREST, FARTHEST].map(ln));
        let is_above = |null: f64| ln_mixture(tally, null, null + near, null + far) < threshold;
        let is_below = |null: f64| ln_mixture(tally, null, null - near, null - far) >= threshold;
        let lower = if is_above(-LN_RATIO_MAX) { 0.0 } else { first(&is_above) };
        Ratio { lower, upper: is_below(LN_RATIO_MAX).then(|| first(&is_below)) }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Records hold figures to the last digit: what makes them sooner changes none.
    #[test]
    fn short_ways_lead_to_the_same_bits(
        events in prop::collection::vec((1_000u32..900_000, 0.0f64..14.0, -3.0f64..2.0), 0..12), alpha in 1e-4f64..0.1,
        tolerance in 0.0f64..1.0, bound in 1.0f64..3.0,
    ) {
        let mut tally = Tally::default();
        for (share, size, ln_ratio) in events {
            let (w, all) = (Share::of(share).challengers(), exp(size));
            let p = w * exp(ln_ratio) / (w * exp(ln_ratio) + 1.0 - w);
            tally.add(Share::of(share), [(all * (1.0 - p)) as u64, (all * p) as u64]);
        }
        let null = ln_1p(tolerance);
        let above = plain::ln_mixture(&tally, null, null + ln(NEAREST), ln(FARTHEST).max(null + ln(2.0)));
        prop_assert_eq!(ln_e_above(&tally, tolerance).to_bits(), above.to_bits());
        let (found, expected) = (ratio(&tally, alpha), plain::ratio(&tally, alpha));
        prop_assert_eq!(found.lower.to_bits(), expected.lower.to_bits());
        prop_assert_eq!(found.upper.map(f64::to_bits), expected.upper.map(f64::to_bits));
        for bound in [bound, expected.upper.unwrap_or(1.0), 1e6] {
            for slack in [1.0, 1.0 + ROUNDING] {
                let is_at_most = expected.upper.is_some_and(|upper| upper * slack <= bound);
                prop_assert_eq!(is_ratio_at_most(&tally, alpha, slack, bound), is_at_most);
            }
        }
    }
}
