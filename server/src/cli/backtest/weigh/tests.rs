//! Are verdicts those of the figures?

use tiltyard_rollout::kernel::ln_e_beta;

use super::*;
use crate::cli::backtest::tests::options;

fn row(champion: f64, challenger: f64) -> Row {
    Row { losses: [champion, challenger], no_answer: [false; 2], distance: f64::from(u8::from(champion != challenger)) }
}

/// What so many rows of each kind come to, well mixed: one in so many rows each kind is due.
fn weighed(more: &str, is_binary: bool, kinds: &[(u64, Row, &str)]) -> Weighed {
    let plan = plan(&options(more), [("risk".into(), 1), ("risk".into(), 2)]);
    let mut weighed = Weighed::new(plan, is_binary, &["region".to_owned()]).unwrap();
    let total: u64 = kinds.iter().map(|(count, ..)| count).sum();
    for at in 0..total {
        for &(count, row, slice) in kinds {
            if (at + 1) * count / total > at * count / total {
                weighed.add(row, [slice]).unwrap();
            }
        }
    }
    weighed.finish().unwrap();
    weighed
}

#[test]
fn the_one_that_is_right_alone_more_often_wins() {
    let both = (900, row(0.0, 0.0), "a");
    let better = weighed("", true, &[both, (20, row(0.0, 1.0), "a"), (80, row(1.0, 0.0), "a")]);
    assert_eq!((better.verdict(), better.all.n, better.all.discordant()), (Verdict::Promote, 1_000, [20, 80]));
    assert!((better.all.ln_e()[0] - ln_e_beta([20, 80], 0.5, 0.0, [5.0, 5.0])).abs() < 1e-12);
    assert_eq!(better.all.decided, Some((Verdict::Promote, 400)), "the first look at which it was shown");
    let worse = weighed("", true, &[both, (80, row(0.0, 1.0), "a"), (20, row(1.0, 0.0), "a")]);
    assert_eq!((worse.verdict(), worse.worse_slices()), (Verdict::Worse, vec![("region", "a")]));
    let alike = weighed("", true, &[both, (50, row(0.0, 1.0), "a"), (50, row(1.0, 0.0), "a")]);
    assert_eq!((alike.verdict(), alike.all.decided, alike.all.labels_needed()), (Verdict::NotEnough, None, None));
    let little = weighed("", true, &[both, (45, row(0.0, 1.0), "a"), (55, row(1.0, 0.0), "a")]);
    let needed = little.all.labels_needed().unwrap();
    assert!((5_000..12_000).contains(&needed), "{needed}");
}

#[test]
fn a_margin_says_how_much_worse_still_passes() {
    let kinds = [(9_900, row(0.0, 0.0), "a"), (50, row(0.0, 1.0), "a"), (50, row(1.0, 0.0), "a")];
    assert_eq!(weighed("--margin 0.02", true, &kinds).verdict(), Verdict::Promote);
    assert_eq!(weighed("--margin 0.0001", true, &kinds).verdict(), Verdict::NotEnough);
    let worse = [(9_000, row(0.0, 0.0), "a"), (1_000, row(0.0, 1.0), "a")];
    assert_eq!(weighed("--margin 0.02", true, &worse).verdict(), Verdict::Worse);
}

#[test]
fn losses_that_are_no_bits_are_judged_by_their_mean() {
    let better = weighed("", false, &[(500, row(0.5, 0.4), "a"), (500, row(0.3, 0.25), "a")]);
    assert_eq!(better.verdict(), Verdict::Promote);
    assert!((better.all.gain() - 0.075).abs() < 1e-9, "{}", better.all.gain());
    let interval = better.all.interval().unwrap();
    assert!(interval.lower > 0.0 && interval.lower < 0.075 && interval.upper > 0.075);
    assert!(better.all.decided.is_some_and(|(_, after)| after <= 1_000));
    let alike = weighed("", false, &[(500, row(0.5, 0.4), "a"), (500, row(0.3, 0.39), "a")]);
    assert_eq!(alike.verdict(), Verdict::NotEnough);
    assert!(alike.all.labels_needed().is_some_and(|needed| needed > 1_000));
}

#[test]
fn a_slice_that_is_worse_leaves_it_to_a_person() {
    let kinds = [
        (4_000, row(0.0, 0.0), "north"),
        (400, row(1.0, 0.0), "north"),
        (500, row(0.0, 0.0), "south"),
        (60, row(0.0, 1.0), "south"),
        (10, row(1.0, 0.0), ""),
    ];
    let found = weighed("", true, &kinds);
    assert_eq!((found.all.verdict(), found.verdict()), (Verdict::Promote, Verdict::Halted));
    assert_eq!(found.worse_slices(), [("region", "south")]);
    let counts: Vec<u64> = found.slices[0].1.values().map(|scale| scale.n).collect();
    assert_eq!(counts, [10, 4_400, 560]);
}

#[test]
fn a_column_of_numbers_is_no_slice() {
    let plan = plan(&options(""), [("risk".into(), 1), ("risk".into(), 2)]);
    let mut weighed = Weighed::new(plan, true, &["age".to_owned()]).unwrap();
    let found = (0..200).try_for_each(|age: u32| weighed.add(row(0.0, 0.0), [age.to_string().as_str()]));
    assert!(found.is_err_and(|error| error.contains("more than 100 values, such as \"100\"")));
}

#[test]
fn labels_that_follow_the_decision_decide_nothing() {
    let mut options = options("");
    options.depends_on_decision = true;
    let plan = plan(&options, [("risk".into(), 1), ("risk".into(), 2)]);
    let mut weighed = Weighed::new(plan, true, &["region".to_owned()]).unwrap();
    (0..1_000).for_each(|_| weighed.add(row(1.0, 0.0), ["a"]).unwrap());
    weighed.finish().unwrap();
    assert_eq!((weighed.verdict(), weighed.worse_slices()), (Verdict::Refused, vec![]));
    assert!(weighed.all.refusal().is_some_and(|why| why.contains("the label depends on the decision")));
}
