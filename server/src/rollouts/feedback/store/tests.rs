//! Does each row's outcome count once, whatever the order in which labels come?

use proptest::prelude::*;
use smallvec::smallvec;
use tiltyard_rollout::plan::{Design, Gain, Missing};

use super::*;
use crate::rollouts::feedback::said::Mark;
use crate::rollouts::feedback::said::tests::primary;

/// When all of it begins; requests' names hold it.
const BEGUN_MS: u64 = 1_000_000;

fn half() -> Share {
    Share::of(500_000)
}

fn store(gain: Gain, missing: Missing, is_keyed: bool, rows_max: usize) -> Store {
    Store::new(&Primary { missing, ..primary(gain) }, is_keyed, rows_max, BEGUN_MS)
}

fn id(at_ms: u64, number: u128) -> u128 {
    u128::from(at_ms) << 80 | number
}

fn note(number: u128, at_ms: u64, side: Side, rows: &[f64]) -> Note {
    let rows = rows.iter().map(|&row| Answered::One(Mark::number(row))).collect();
    Note { id: id(BEGUN_MS, number), key: Some(number + 100), at_ms, unit: number as u64, side, rows }
}

/// A store whose rows the challenger answers too.
fn pairs(missing: Missing, is_keyed: bool) -> Store {
    let primary = Primary { missing, design: Design::PairedShadow, ..primary(Gain::Accuracy) };
    Store::new(&primary, is_keyed, 1_000, BEGUN_MS)
}

/// What the champion and the challenger said of each row.
fn pair(number: u128, at_ms: u64, rows: &[[f64; 2]]) -> Note {
    let rows = rows.iter().map(|marks| Answered::Both(marks.map(Mark::number))).collect();
    Note { rows, ..note(number, at_ms, Side::Champion, &[]) }
}

fn said(name: Name, row: usize, what: What, at_ms: u64) -> Said {
    Said { name, row, what, at_ms: Some(at_ms) }
}

fn label(number: u128, value: f64, at_ms: u64) -> Said {
    said(Name::Request(id(BEGUN_MS, number)), 0, What::Label(Mark::number(value)), at_ms)
}

fn expose(store: &mut Store, note: Note) -> Vec<Heard> {
    let mut early = Vec::new();
    store.expose(half(), note, |_, heard| early.push(heard));
    early
}

fn heard(store: &mut Store, said: Said, now_ms: u64) -> Heard {
    store.tell(&said, now_ms).unwrap().1
}

/// n and Σy by arm.
fn sums(outcomes: [Outcomes; 2]) -> [(u64, f64); 2] {
    outcomes.map(|outcomes| (outcomes.n, outcomes.y.value()))
}

#[test]
fn a_label_is_joined_doubled_corrected_withdrawn_and_late() {
    let at = BEGUN_MS;
    let mut store = store(Gain::Accuracy, Missing::Exclude, false, 10);
    expose(&mut store, note(1, at, Side::Challenger, &[1.0]));
    assert_eq!(heard(&mut store, label(1, 1.0, at + 10), at + 10), Heard::Joined);
    assert_eq!(heard(&mut store, label(1, 1.0, at + 11), at + 11), Heard::Doubled);
    assert_eq!(heard(&mut store, label(1, 0.0, at + 5), at + 12), Heard::Outdated);
    assert_eq!(heard(&mut store, label(1, 0.0, at + 20), at + 20), Heard::Corrected);
    let name = Name::Request(id(at, 1));
    assert_eq!(heard(&mut store, said(name, 0, What::Withdrawn, at + 30), at + 30), Heard::Withdrawn);
    assert_eq!(heard(&mut store, said(name, 0, What::Withdrawn, at + 31), at + 31), Heard::Doubled);
    assert_eq!(heard(&mut store, said(Name::Key(101), 0, What::Outcome(0.5), at + 40), at + 40), Heard::Joined);
    assert!(
        store
            .tell(&said(name, 1, What::Withdrawn, at), at + 41)
            .unwrap_err()
            .message()
            .contains("1 rows of the request are known")
    );
    assert_eq!(heard(&mut store, label(1, 1.0, at + 1_001), at + 41), Heard::Late, "observed after its time");
    let [matured] = store.mature(at + 1_000).labels.matured[..] else { panic!("one share") };
    assert_eq!((sums(matured.outcomes), matured.arrived), ([(0, 0.0), (1, 0.5)], [0, 1]));
    assert_eq!(heard(&mut store, said(name, 0, What::Outcome(0.5), at + 50), at + 1_001), Heard::Doubled);
    assert_eq!(heard(&mut store, label(1, 1.0, at + 50), at + 1_001), Heard::Late);
    assert_eq!((store.take().map(|labels| labels.matured), store.take()), (Some(vec![matured]), None));
    assert_eq!(store.counts, Counts { rows: [0, 1], labelled: [0, 2], matured: [0, 1], ..Counts::default() });
}

#[test]
fn what_comes_before_its_prediction_waits_for_a_while() {
    let at = BEGUN_MS;
    let mut store = store(Gain::Accuracy, Missing::Value(0.0), false, 10);
    assert_eq!(heard(&mut store, label(1, 1.0, at), at), Heard::Waiting);
    assert_eq!(heard(&mut store, said(Name::Key(101), 0, What::Withdrawn, at + 1), at + 1), Heard::Waiting);
    assert_eq!(heard(&mut store, said(Name::Key(7), 0, What::Withdrawn, at + 1), at + 1), Heard::Waiting);
    let before = said(Name::Request(id(at - 1, 1)), 0, What::Outcome(1.0), at);
    assert_eq!(heard(&mut store, before, at), Heard::Unknown, "made before there was anything to remember");
    assert_eq!(expose(&mut store, note(1, at, Side::Champion, &[1.0])), [Heard::Joined, Heard::Withdrawn]);
    assert_eq!(store.waiting(), (1, 1));
    store.mature(at + WAITING_MS);
    assert_eq!((store.waiting(), store.counts.expired), ((0, 1), 0));
    let now = at + 1 + WAITING_MS;
    store.mature(now);
    assert_eq!((store.waiting(), store.counts.expired), ((0, 0), 1));
    assert_eq!(heard(&mut store, label(9, 1.0, now), now), Heard::Unknown, "it would have come long since");
}

#[test]
fn a_key_counts_once_and_its_rows_as_one() {
    let at = BEGUN_MS;
    let mut store = store(Gain::AbsoluteError, Missing::Exclude, true, 10);
    let of_key = |number, rows: &[f64]| Note { unit: 5, ..note(number, at, Side::Champion, rows) };
    expose(&mut store, of_key(1, &[1.0, 3.0]));
    expose(&mut store, of_key(2, &[9.0]));
    let of_row = |row, value: f64| said(Name::Key(101), row, What::Label(Mark::number(value)), at);
    assert_eq!(heard(&mut store, of_row(0, 0.0), at), Heard::Joined);
    assert_eq!(heard(&mut store, of_row(1, 3.5), at), Heard::Joined);
    assert_eq!(heard(&mut store, label(2, 0.0, at), at), Heard::Beside);
    let [matured] = store.mature(at + 1_000).labels.matured[..] else { panic!("one share") };
    assert_eq!(sums(matured.outcomes), [(1, -0.75), (0, 0.0)]);
}

#[test]
fn one_name_for_two_requests_means_both() {
    let at = BEGUN_MS;
    let mut store = store(Gain::Accuracy, Missing::Exclude, false, 10);
    let named = |number, side| Note { key: Some(7), ..note(number, at, side, &[f64::from(side as u8)]) };
    expose(&mut store, named(1, Side::Champion));
    expose(&mut store, named(2, Side::Challenger));
    let both = said(Name::Key(7), 0, What::Label(Mark::number(1.0)), at);
    assert_eq!(heard(&mut store, both, at), Heard::Joined);
    let [matured] = store.mature(at + 1_000).labels.matured[..] else { panic!("one share") };
    assert_eq!(sums(matured.outcomes), [(1, 0.0), (1, 1.0)]);
}

#[test]
fn memory_has_a_bound_and_the_oldest_that_is_over_makes_room() {
    let mut store = store(Gain::Accuracy, Missing::Value(0.0), false, 3);
    for number in 0..5 {
        expose(&mut store, note(number, BEGUN_MS + number as u64, Side::Champion, &[0.0]));
    }
    assert_eq!((store.rows(), store.counts.no_room), (3, 2));
    assert_eq!(heard(&mut store, label(4, 0.0, BEGUN_MS), BEGUN_MS), Heard::Waiting);
    store.mature(BEGUN_MS + 1_000);
    expose(&mut store, note(5, BEGUN_MS + 1_000, Side::Champion, &[0.0]));
    assert_eq!((store.rows(), store.counts.no_room, store.by_id.len(), store.by_key.len()), (3, 2, 3, 3));
    store.mature(BEGUN_MS + 2_000 + 2 * 1_000 + WAITING_MS);
    assert_eq!((store.rows(), store.by_id.len(), store.by_key.len()), (0, 0, 0), "nothing is kept for ever");
    assert_eq!(store.counts.matured, [4, 0]);
}

#[test]
fn too_many_labels_that_wait_are_told_to_come_again() {
    let mut store = store(Gain::Value, Missing::Exclude, false, 10);
    let early = |number| said(Name::Key(number), 0, What::Outcome(1.0), BEGUN_MS);
    for number in 0..WAITING_MAX as u128 {
        assert_eq!(heard(&mut store, early(number), BEGUN_MS), Heard::Waiting);
    }
    let error = store.tell(&early(u128::MAX), BEGUN_MS).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Overloaded);
    expose(&mut store, Note { key: Some(7), ..note(0, BEGUN_MS, Side::Champion, &[0.0]) });
    assert_eq!(heard(&mut store, early(u128::MAX), BEGUN_MS), Heard::Waiting);
}

/// Requests: whether they are the challenger's, and their rows.
type Requests = Vec<(bool, usize)>;

/// What is said: of which request and row, and what.
type AllSaid = Vec<(usize, usize, u8)>;

/// What is played: requests, and what is said of their rows at times that all differ.
fn played() -> impl Strategy<Value = (Requests, AllSaid)> {
    let requests = prop::collection::vec((any::<bool>(), 1usize..4), 1..12);
    let said = prop::collection::vec((0usize..12, 0usize..4, 0u8..4), 0..40);
    (requests, said)
}

proptest! {
    /// The order in which labels and the records of predictions come makes no difference before they mature, every unit counts
    /// once, and what is said later of a row holds.
    #[test]
    fn the_order_of_arrival_does_not_matter(
        (requests, all_said) in played(),
        order in prop::collection::vec(any::<u32>(), 64),
        missing in prop_oneof![Just(Missing::Exclude), Just(Missing::Value(0.5))],
        is_paired: bool,
    ) {
        enum Step { Expose(usize), Tell(Said) }
        let what = |value: u8| match value {
            3 => What::Withdrawn,
            value => What::Label(Mark::number(f64::from(value))),
        };
        let side = |is_challengers| if is_challengers { Side::Challenger } else { Side::Champion };
        let play = |order: &[u32]| {
            let mut store = if is_paired { pairs(missing, false) } else { store(Gain::Accuracy, missing, false, 1_000) };
            let exposed = (0..requests.len()).map(Step::Expose);
            let told = all_said.iter().zip(1..).filter(|((of, row, _), _)| requests.get(*of).is_some_and(|(_, rows)| row < rows));
            let told = told.map(|(&(of, row, value), after)| {
                Step::Tell(said(Name::Request(id(BEGUN_MS, of as u128)), row, what(value), BEGUN_MS + after))
            });
            let mut steps: Vec<Step> = exposed.chain(told).collect();
            if !order.is_empty() {
                let mut keyed: Vec<(u32, Step)> = order.iter().copied().cycle().zip(steps).collect();
                keyed.sort_by_key(|(key, _)| *key);
                steps = keyed.into_iter().map(|(_, step)| step).collect();
            }
            for step in steps {
                match step {
                    Step::Expose(at) => {
                        let (is_challengers, rows) = requests[at];
                        let note = match is_paired {
                            true => pair(at as u128, BEGUN_MS, &vec![[1.0, 2.0]; rows]),
                            false => note(at as u128, BEGUN_MS, side(is_challengers), &vec![1.0; rows]),
                        };
                        expose(&mut store, note);
                    }
                    Step::Tell(said) => drop(store.tell(&said, BEGUN_MS + 500).unwrap()),
                }
            }
            store.mature(BEGUN_MS + 1_000);
            let matured = store.counts.matured;
            store.mature(BEGUN_MS + 9_000);
            (store.take().unwrap_or_default(), matured)
        };
        let (labels, matured) = play(&[]);
        prop_assert_eq!(play(&order), (labels.clone(), matured));
        prop_assert_eq!(matured.iter().sum::<u64>(), requests.len() as u64 * (1 + u64::from(is_paired)));
        let counted: u64 = labels.matured.iter().flat_map(|matured| matured.outcomes).map(|outcomes| outcomes.n).sum();
        let counts_all = missing != Missing::Exclude && !is_paired;
        let expected = (0..requests.len()).filter(|of| counts_all || {
            (0..requests[*of].1).any(|row| {
                let last = all_said.iter().rev().find(|(said_of, said_row, _)| (said_of, *said_row) == (of, row));
                last.is_some_and(|(.., value)| *value != 3)
            })
        });
        prop_assert_eq!(counted + labels.paired.n, expected.count() as u64);
    }
}

#[test]
fn rows_are_units_of_the_share_that_they_were_dealt_under() {
    let mut store = store(Gain::Accuracy, Missing::Value(0.0), true, 10);
    let of_key = |number, side| Note {
        unit: 5,
        rows: smallvec![Answered::One(Mark::number(1.0))],
        ..note(number, BEGUN_MS, side, &[])
    };
    store.expose(Share::of(10_000), of_key(1, Side::Champion), |_, _| ());
    store.expose(Share::of(250_000), of_key(2, Side::Challenger), |_, _| ());
    let shares: Vec<Share> =
        store.mature(BEGUN_MS + 1_000).labels.matured.iter().map(|matured| matured.share).collect();
    assert_eq!(shares, [Share { champion: 750_000, challenger: 240_000 }, Share::of(10_000)]);
}

#[test]
fn a_pair_counts_with_its_label_and_without_one_never() {
    let at = BEGUN_MS;
    let mut store = pairs(Missing::Value(1.0), false);
    assert_eq!(heard(&mut store, label(6, 1.0, at), at), Heard::Waiting, "before both have answered");
    for (number, marks) in [(1, [0.0, 1.0]), (2, [1.0, 0.0]), (3, [1.0, 1.0]), (4, [0.0, 1.0]), (5, [0.0, 1.0])] {
        assert_eq!(expose(&mut store, pair(number, at, &[marks])), []);
    }
    assert_eq!(expose(&mut store, pair(6, at, &[[0.0, 1.0]])), [Heard::Joined]);
    for number in [1, 2, 3, 5] {
        assert_eq!(heard(&mut store, label(number, 1.0, at + 1), at + 1), Heard::Joined);
    }
    let withdrawn = said(Name::Key(105), 0, What::Withdrawn, at + 2);
    assert_eq!(heard(&mut store, withdrawn, at + 2), Heard::Withdrawn);
    assert_eq!(heard(&mut store, label(3, 2.0, at + 2), at + 2), Heard::Corrected, "now neither is right");
    let error = store.tell(&said(Name::Key(101), 0, What::Outcome(1.0), at + 2), at + 2).unwrap_err();
    assert!(error.message().contains("expected a label"), "{error}");
    assert_eq!((store.mature(at + 999).labels.paired.n, store.take(), store.waiting()), (0, None, (6, 0)));
    let Ripe { labels, outcomes } = store.mature(at + 1_000);
    let Labels { matured, paired, discordant, is_binary } = &labels;
    assert_eq!((paired.n, paired.x.value(), *discordant, *is_binary), (4, 2.5, [1, 2], true));
    assert_eq!((matured.len(), sums(outcomes)), (0, [(4, 1.0), (4, 2.0)]), "how often each was right, for people");
    assert_eq!((store.take(), store.take()), (Some(labels), None));
    assert_eq!(store.counts, Counts { rows: [6; 2], labelled: [5; 2], matured: [6; 2], ..Counts::default() });
    assert_eq!(heard(&mut store, label(4, 1.0, at + 9), at + 1_001), Heard::Late);
}

#[test]
fn what_matures_at_different_times_is_handed_over_at_once() {
    let mut store = pairs(Missing::Exclude, false);
    for number in [0, 1] {
        let at = BEGUN_MS + number as u64 * 10;
        expose(&mut store, pair(number, at, &[[0.0, 1.0]]));
        heard(&mut store, label(number, 1.0, at), at);
    }
    for after in [1_000, 1_005, 1_010, 1_100] {
        store.mature(BEGUN_MS + after);
    }
    let labels = store.take().unwrap();
    assert_eq!((labels.paired.n, labels.discordant, labels.is_binary), (2, [0, 2], true));
}

#[test]
fn a_key_is_one_pair_whatever_the_shares_and_its_rows_one() {
    let at = BEGUN_MS;
    let mut store = pairs(Missing::Exclude, true);
    let of_key = |number, rows: &[[f64; 2]]| Note { unit: 5, ..pair(number, at, rows) };
    store.expose(Share::of(0), of_key(1, &[[0.0, 1.0], [1.0, 1.0], [0.0, 1.0]]), |_, _| ());
    store.expose(Share::of(250_000), of_key(2, &[[0.0, 1.0]]), |_, _| ());
    assert_eq!(heard(&mut store, label(2, 1.0, at), at), Heard::Beside);
    for row in [0, 1] {
        let of_row = said(Name::Request(id(at, 1)), row, What::Label(Mark::number(1.0)), at);
        assert_eq!(heard(&mut store, of_row, at), Heard::Joined);
    }
    let labels = store.mature(at + 1_000).labels;
    assert_eq!((labels.paired.n, labels.paired.x.value(), labels.discordant), (1, 0.75, [0, 0]));
    assert!(!labels.is_binary, "half a win is no bit");
}

#[test]
fn labels_of_what_is_no_pair_make_room_for_others() {
    let mut store = pairs(Missing::Exclude, false);
    let early = |number| said(Name::Key(number), 0, What::Label(Mark::number(1.0)), BEGUN_MS);
    for number in 0..WAITING_MAX as u128 + 3 {
        assert_eq!(heard(&mut store, early(number), BEGUN_MS), Heard::Waiting);
    }
    assert_eq!((store.waiting(), store.counts.expired), ((0, WAITING_MAX), 3));
    let named = |number| Note { key: Some(number), ..pair(number, BEGUN_MS, &[[0.0, 1.0]]) };
    assert_eq!(expose(&mut store, named(2)), [], "the oldest are gone");
    assert_eq!(expose(&mut store, named(3)), [Heard::Joined]);
}
