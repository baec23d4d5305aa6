//! Is what the example tells what the judge would say, and what a pencil finds?

use tiltyard_rollout::evidence::{Block, Matured};
use tiltyard_rollout::judge::{Event, Judge};

use super::*;

const BOTH: Row = [true, true];
const CHALLENGER: Row = [false, true];
const CHAMPION: Row = [true, false];
const NEITHER: Row = [false, false];

/// So many rows of each kind.
fn rows(kinds: &[(Row, usize)]) -> Vec<Row> {
    kinds.iter().flat_map(|&(row, count)| std::iter::repeat_n(row, count)).collect()
}

#[test]
fn a_row_is_two_bits_and_nothing_else() {
    assert_eq!(read("10\n11\r\n00\n01"), Ok(vec![CHAMPION, BOTH, NEITHER, CHALLENGER]));
    let refused = |text: &str, fault: &str| assert_eq!(read(text), Err(fault.to_owned()), "{text:?}");
    refused("", "no rows: expected a line of two bits for each, such as 10");
    refused("10\n1\n", "line 2 is \"1\": expected two bits, such as 10");
    refused("10\n\n11\n", "line 2 is \"\": expected two bits, such as 10");
    refused("12\n", "line 1 is \"12\": expected two bits, such as 10");
    refused("1 0\n", "line 1 is \"1 0\": expected two bits, such as 10");
    refused("é\n", "line 1 is \"é\": expected two bits, such as 10");
}

/// Of k pairs that are all won, E = 2·2^k·B(5+k, 5)/B(5, 5)·P(Beta(5+k, 5) > 1/2): 78 for 13, and 122 for 14 of them. The
/// challenger wins one row in four and loses none. The preview asks at every third pair, as somebody looks every ten labels:
/// 15 pairs, 60 labels. The fourteenth comes after (14 − 1/3)·4 = 55 labels in the median, and is seen after 60.
#[test]
fn a_tiny_pair_takes_what_a_pencil_finds() {
    let found = report("tiny", rows(&[(BOTH, 3), (CHALLENGER, 1)]), 200);
    assert_eq!((found.rows, found.accuracy, found.better), (4, [0.75, 1.0], Some("challenger")));
    assert_eq!((found.gain, found.disagreement), (0.25, 0.25));
    assert_eq!((found.pairs.told, found.pairs.median, found.pairs.undecided), (Some(60), Some(60), 0.0));
    let needed = &mut Needed::default();
    assert_eq!((needed.wins(13), needed.wins(14)), (14, 14), "13 of 13 are not enough");
    assert!(found.pairs.false_wins <= 0.02 && found.split.false_wins <= 0.02, "{found:?}");
    // Nobody is sure of a split before either arm has 100 labels.
    assert!(found.split.median.is_some_and(|labels| labels >= 200), "{found:?}");
    let turned = report("tiny", rows(&[(BOTH, 3), (CHAMPION, 1)]), 200);
    assert_eq!((turned.accuracy, turned.better), ([1.0, 0.75], Some("champion")));
    assert_eq!((&turned.pairs, &turned.split), (&found.pairs, &found.split), "whose it is makes no difference");
}

/// statistics.md, 3.5: 34,504 for 0.90 → 0.91, 63,006 for 0.80 → 0.81.
#[test]
fn a_split_is_planned_as_a_test_of_fixed_size() {
    for (middle, table) in [(0.905f64, 34_504.0), (0.805, 63_006.0)] {
        let found = planned(0.01, (middle * (1.0 - middle)).sqrt()) as f64;
        assert!((found / table - 1.0).abs() < 0.01, "{found}, expected about {table}");
    }
}

/// t* = 50,000. Of 1,000 labels in each arm, of which the champion has 500: ρ² = 2.307e-4, and the radius is s·0.1142 with
/// s² = 4·ȳ(1−ȳ) − τ̂². A difference of 0.112 is below it (0.11277), one of 0.113 above (0.11274).
#[test]
fn a_split_is_won_where_the_formula_says() {
    assert!(!split_is_won([1_000, 1_000], [500, 612], PLANNED));
    assert!(split_is_won([1_000, 1_000], [500, 613], PLANNED));
    assert!(!split_is_won([99, 100], [0, 100], PLANNED) && split_is_won([100, 100], [0, 100], PLANNED));
}

#[test]
fn models_that_are_right_as_often_win_nothing() {
    let found = report("same", rows(&[(BOTH, 8), (CHAMPION, 1), (CHALLENGER, 1)]), 200);
    assert_eq!((found.better, found.gain, found.disagreement), (None, 0.0, 0.2));
    for design in [&found.pairs, &found.split] {
        assert_eq!((design.told, design.median, design.undecided), (None, None, 1.0));
        assert!(design.false_wins <= 0.02, "{design:?}");
    }
}

fn judge(design: &str) -> Judge {
    let plan = serde_json::json!({
        "endpoint": "risk", "revision": 1, "key": "per_request", "salt": "7f0c1d",
        "arms": [
            { "name": "old", "model": "risk", "version": 1, "role": "champion" },
            { "name": "new", "model": "risk", "version": 2,
              "role": { "challenger": { "weight": 0, "final_weight": 500_000 } } },
        ],
        "steps": [{ "share": 500_000, "min_time_ms": 0 }],
        "policy": { "alpha_primary": ALPHA, "primary": {
            "metric": "right", "design": design, "label_depends_on_decision": false, "horizon_ms": 0,
            "missing": "exclude", "planned_units": PLANNED,
        } },
    });
    Judge::new(serde_json::from_value(plan).expect("it is a plan")).expect("it is a good plan")
}

/// After how many labels the judge lets the challenger pass, where `add` puts the next ones into a block.
fn judged(design: &str, mut add: impl FnMut(&mut Labels)) -> u64 {
    let mut judge = judge(design);
    let look = (1..=10_000).find(|&sequence| {
        let mut labels = Labels { is_binary: true, ..Labels::default() };
        add(&mut labels);
        let mut block = Block::new(sequence, 0, Share::of(MILLION / 2));
        block.labels.insert("right".into(), labels);
        judge.feed(&Event::Block(block)).expect("it belongs here");
        judge.quality().is_some_and(|quality| quality.passes)
    });
    look.expect("it is better") * LOOK
}

#[test]
fn the_judge_itself_decides_at_the_same_look() {
    let draw = Draw { rows: rows(&[(BOTH, 80), (CHALLENGER, 5), (CHAMPION, 1), (NEITHER, 14)]) };
    for seed in 0..5 {
        let lot = &mut Lot::new(seed);
        let pairs = judged("paired_shadow", |labels| {
            for _ in 0..LOOK {
                let row @ [champion, challenger] = draw.row(lot, false);
                labels.paired.add((f64::from(u8::from(challenger)) - f64::from(u8::from(champion)) + 1.0) / 2.0);
                labels.discordant[0] += u64::from(row == CHAMPION);
                labels.discordant[1] += u64::from(row == CHALLENGER);
            }
        });
        let found = draw.pairs(&mut Lot::new(seed), LABELS_MAX, false, &mut Needed::default());
        assert_eq!(found, Some(pairs), "pairs, seed {seed}");
        let lot = &mut Lot::new(seed);
        let split = judged("split", |labels| {
            let mut outcomes = [Outcomes::default(); 2];
            for _ in 0..LOOK {
                let (row, arm) = (draw.row(lot, false), (lot.bits() & 1) as usize);
                outcomes[arm].add(f64::from(u8::from(row[arm])), 0.0);
            }
            let arrived = outcomes.map(|outcomes| outcomes.n);
            labels.matured = vec![Matured { share: Share::of(MILLION / 2), outcomes, arrived }];
        });
        assert_eq!(draw.split(&mut Lot::new(seed), LABELS_MAX, false, PLANNED), Some(split), "a split, seed {seed}");
    }
}
