//! Do counts come out as the requests went in?

use proptest::prelude::*;

use super::*;

const SHARE: Share = Share { champion: 900_000, challenger: 100_000 };

fn end(at: u64, side: Side, key: u64, ended: Ended) -> End {
    End { at: Moment::from_nanos(at * 1_000_000), key, side, ended, is_over: false, says: f64::NAN }
}

fn answered(run: u64) -> Ended {
    Ended::Answered { run, rows: 1, nanos: 1_000 }
}

fn block(gatherer: &mut Gatherer) -> Block {
    let mut blocks = gatherer.close(1, 0, SHARE);
    assert_eq!(blocks.len(), 1);
    let block = blocks.remove(0);
    assert_eq!(block.validate(), Ok(()));
    block
}

#[test]
fn one_fault_is_one_cause_whoever_was_in_it() {
    let mut gatherer = Gatherer::new(false);
    let batch = (0..32).map(|key| end(1, Side::Challenger, key, Ended::Failed { run: 5 }));
    let fine = [end(2, Side::Challenger, 40, answered(6)), end(3, Side::Champion, 41, answered(7))];
    gatherer.add(OWN, SHARE, &batch.chain(fine).collect::<Vec<_>>());
    let block = block(&mut gatherer);
    assert_eq!(block.events[ERRORS], Events::Every { of: [1, 33], events: [0, 32] });
    assert_eq!(block.causes[ERRORS], [Group { of: [1, 2], events: [0, 1] }]);
    assert_eq!(block.units, [1, 33]);
}

#[test]
fn all_of_a_silence_has_one_cause() {
    let mut gatherer = Gatherer::new(false);
    let silence = |from: u64| (from..from + 5).map(|at| end(at, Side::Challenger, at, Ended::Unanswered));
    let ends: Vec<End> = silence(0).chain([end(9, Side::Challenger, 9, answered(1))]).chain(silence(10)).collect();
    gatherer.add(OWN, SHARE, &ends);
    assert_eq!(gatherer.failures(), (5, true));
    let block = block(&mut gatherer);
    assert_eq!(block.events[ERRORS], Events::Every { of: [0, 11], events: [0, 10] });
    assert_eq!(block.causes[ERRORS], [Group { of: [0, 3], events: [0, 2] }]);
}

#[test]
fn an_outage_is_held_apart_from_what_was_before() {
    let mut gatherer = Gatherer::new(false);
    let ends = |side, from: u64, count, has_failed| {
        (from..from + count)
            .map(move |run| end(run, side, run, if has_failed { Ended::Failed { run } } else { answered(run) }))
    };
    let before = ends(Side::Champion, 0, 99, false).chain(ends(Side::Challenger, 100, 1, false));
    let outage = ends(Side::Champion, 200, 10, true).chain(ends(Side::Challenger, 300, 10, true));
    gatherer.add(OWN, SHARE, &before.chain(outage).collect::<Vec<_>>());
    let groups = [Group { of: [9, 10], events: [9, 10] }, Group { of: [100, 1], events: [1, 0] }];
    assert_eq!(block(&mut gatherer).causes[ERRORS], groups);
}

#[test]
fn failures_in_a_row_are_counted_by_cause_until_one_is_answered() {
    let mut gatherer = Gatherer::new(false);
    let failed = |run| end(run, Side::Challenger, run, Ended::Failed { run });
    gatherer.add(OWN, SHARE, &[failed(1), failed(1), failed(2), end(3, Side::Champion, 3, Ended::Unanswered)]);
    assert_eq!(gatherer.failures(), (2, false));
    gatherer.add(
        OWN,
        SHARE,
        &[end(4, Side::Challenger, 4, Ended::Blameless), failed(5), end(6, Side::Champion, 6, answered(6))],
    );
    assert_eq!(gatherer.failures(), (3, false), "the champion failed meanwhile");
    gatherer.add(OWN, SHARE, &[failed(8)]);
    assert_eq!(gatherer.failures(), (4, true), "less often");
    gatherer.add(OWN, SHARE, &[end(7, Side::Challenger, 7, answered(7))]);
    assert_eq!(gatherer.failures(), (0, true));
}

#[test]
fn a_key_counts_once_however_often_it_comes() {
    let mut gatherer = Gatherer::new(true);
    let bot = |run| end(run, Side::Challenger, 7, Ended::Failed { run });
    gatherer.add(OWN, SHARE, &[bot(1), bot(2), end(3, Side::Challenger, 8, answered(3))]);
    let first = block(&mut gatherer);
    assert_eq!(first.events[ERRORS], Events::Firsts { of: [0, 2], keys: [vec![], vec![7]] });
    assert_eq!((first.units, gatherer.harm()), ([0, 2], 0));
    gatherer.add(OWN, SHARE, &[bot(4)]);
    let second = block(&mut gatherer);
    assert_eq!((second.units, gatherer.sampling()), ([0, 0], 1.0));
    assert_eq!(second.events[ERRORS], Events::Firsts { of: [0, 0], keys: [vec![], vec![7]] });
}

#[test]
fn each_share_has_a_block_of_its_own() {
    let mut gatherer = Gatherer::new(false);
    let before = Share::of(10_000);
    gatherer.add(OWN, before, &[end(1, Side::Champion, 1, answered(1))]);
    gatherer.add(OWN, SHARE, &[end(2, Side::Champion, 2, answered(2)), end(3, Side::Challenger, 3, answered(3))]);
    let blocks = gatherer.close(4, 77, SHARE);
    let told: Vec<_> = blocks.iter().map(|block| (block.sequence, block.time_ms, block.share, block.units)).collect();
    assert_eq!(told, [(4, 77, SHARE, [1, 1]), (5, 77, before, [1, 0])]);
    let quiet = gatherer.close(6, 78, SHARE);
    assert_eq!((quiet.len(), quiet[0].units), (1, [0, 0]), "time is told where nothing happens");
}

fn watching(key: KeySource) -> Gatherer {
    let output = tiltyard_rollout::plan::Output { name: None, tolerance: 0.25, roll_back: false };
    let policy = tiltyard_rollout::plan::Policy { slow_over_us: Some(1), output: Some(output), ..Default::default() };
    Gatherer::of(&Plan { key, policy, ..crate::endpoints::tests::draft(0) })
}

#[test]
fn an_answer_that_took_too_long_is_one_event_by_request_and_by_run() {
    let late = |run, key| End { is_over: true, ..end(run, Side::Challenger, key, answered(run)) };
    let mut gatherer = watching(KeySource::PerRequest);
    gatherer.add(
        OWN,
        SHARE,
        &[late(1, 1), late(1, 2), end(2, Side::Champion, 4, answered(2)), end(300, Side::Challenger, 3, answered(3))],
    );
    let refused = End { is_over: true, ..end(400, Side::Challenger, 5, Ended::Blameless) };
    gatherer.add(OWN, SHARE, &[refused]);
    let told = block(&mut gatherer);
    assert_eq!(told.events[SLOW_OVER], Events::Every { of: [1, 4], events: [0, 2] });
    assert_eq!(told.causes[SLOW_OVER], [Group { of: [1, 2], events: [0, 1] }]);
    assert_eq!(told.events[ERRORS], Events::Every { of: [1, 4], events: [0, 0] });
    let row: Vec<End> = (401..450).map(|at| late(at, at)).collect();
    gatherer.add(OWN, SHARE, &row);
    let told = block(&mut gatherer);
    assert_eq!(told.events[SLOW_OVER], Events::Every { of: [0, 49], events: [0, 49] });
    assert_eq!(told.causes[SLOW_OVER], [Group { of: [0, 1], events: [0, 1] }], "one disturbance");
    let mut keyed = watching(KeySource::Header("x-user".into()));
    keyed.add(OWN, SHARE, &[late(1, 7), late(2, 7)]);
    assert_eq!(block(&mut keyed).events[SLOW_OVER], Events::Firsts { of: [0, 1], keys: [vec![], vec![7]] });
    assert!(!block(&mut Gatherer::new(false)).events.contains_key(SLOW_OVER), "nobody asked");
}

#[test]
fn a_units_first_answer_falls_into_a_bin_and_no_other() {
    let says = |at, side, key, says| End { says, ..end(at, side, key, answered(at)) };
    let mut gatherer = watching(KeySource::Header("x-user".into()));
    let first: Vec<End> = (0..500).map(|key| says(key, Side::Champion, 2 * key, (key % 2) as f64)).collect();
    gatherer.add(OWN, SHARE, &first);
    assert!(block(&mut gatherer).bins.is_empty(), "those say where the bins are");
    let bot = (0..9).map(|at| says(600 + at, Side::Challenger, 7, 1.0));
    gatherer.add(
        OWN,
        SHARE,
        &bot.chain([says(700, Side::Champion, 9_000, 0.0), says(701, Side::Challenger, 9_001, 5.0)])
            .collect::<Vec<_>>(),
    );
    assert_eq!(block(&mut gatherer).bins[OUTPUT], [[1, 0], [0, 1], [0, 1]]);
    assert_eq!(gatherer.bins_form(), serde_json::json!({ "classes": [0.0, 1.0] }));
}

proptest! {
    /// Whatever happens, every request is one unit, blocks are valid, and no cause is counted more often than its requests.
    #[test]
    fn nothing_is_counted_twice(
        is_keyed in any::<bool>(),
        ends in prop::collection::vec((0u64..9, 0u64..20, 0u8..5, any::<bool>()), 0..200),
    ) {
        let ends: Vec<End> = ends.into_iter().zip(0..).map(|((key, run, ended, is_champion), at)| {
            let side = if is_champion { Side::Champion } else { Side::Challenger };
            // A key has one side, as it has in traffic.
            let key = key * 2 + u64::from(is_champion);
            let ended = match ended {
                0 => answered(run),
                1 => Ended::NotANumber { run },
                2 => Ended::Failed { run },
                3 => Ended::Unanswered,
                _ => Ended::Blameless,
            };
            end(at, side, key, ended)
        }).collect();
        let mut gatherer = Gatherer::new(is_keyed);
        gatherer.add(OWN, SHARE, &ends);
        let block = block(&mut gatherer);
        for (at, side) in [Side::Champion, Side::Challenger].into_iter().enumerate() {
            let mine = || ends.iter().filter(|end| end.side == side);
            let keys: BTreeSet<u64> = mine().map(|end| end.key).collect();
            let expected = if is_keyed { keys.len() } else { mine().count() };
            prop_assert_eq!(block.units[at], expected as u64);
            let causes: u64 = block.causes[ERRORS].iter().map(|group| group.of[at]).sum();
            prop_assert!(causes <= mine().count() as u64);
        }
    }
}
