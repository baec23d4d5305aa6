//! Do three processes come to what one would have come to, by what they tell each other?

use std::collections::BTreeMap;

use proptest::prelude::*;
use tiltyard_rollout::judge::{Command, Event, Judge, State};
use tiltyard_rollout::plan::{Arm, Guardrail, KeySource, Plan, Policy, Role, Step};

use super::*;
use crate::rollouts::feedback::Feedback;
use crate::rollouts::gatherer::{ERRORS, Gatherer, OWN};
use crate::rollouts::live::Live;

const HALF: Share = Share { champion: 500_000, challenger: 500_000 };

/// Milliseconds between two looks.
const LOOK_MS: u64 = 60_000;

/// Requests between two looks.
const REQUESTS: u64 = 600;

fn plan(key: KeySource) -> Plan {
    let arm = |name: &str, version, role| Arm { name: name.into(), model: "risk".into(), version, digest: None, role };
    let challenger = Role::Challenger { weight: 0, final_weight: 500_000 };
    let errors = Guardrail { floor: Some(0.05), ..Policy::default().guardrails[0].clone() };
    Plan {
        endpoint: "risk".into(),
        revision: 1,
        arms: vec![arm("champion", 1, Role::Champion), arm("challenger", 2, challenger)],
        key,
        salt: "salt".into(),
        headers: Vec::new(),
        steps: vec![Step { share: 500_000, min_time_ms: LOOK_MS, min_units: 0, gates: Vec::new() }],
        policy: Policy { min_time_ms: 5 * LOOK_MS, guardrails: vec![errors], ..Policy::default() },
        watched: false,
    }
}

/// SplitMix64: the same numbers everywhere.
struct Lot(u64);

impl Lot {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn is(&mut self, one_in: u64) -> bool {
        self.next().is_multiple_of(one_in)
    }
}

/// Requests of users who come back, in the order of time. The champion fails one time in 50, the challenger one in `fails`.
fn traffic(seed: u64, looks: u64, fails: u64) -> Vec<Vec<End>> {
    let mut lot = Lot(seed);
    let requests = |look: u64| {
        let end = |at: u64| {
            let run = look * REQUESTS + at;
            let key = Lot(lot.next() % 40_000).next();
            let side = if key & 1 == 0 { Side::Champion } else { Side::Challenger };
            let has_failed = lot.is(if side == Side::Champion { 50 } else { fails });
            let ended = match has_failed {
                true => Ended::Failed { run },
                false => Ended::Answered { run, rows: 1, nanos: 1_000 },
            };
            let at = Moment::from_nanos(run * 100_000_000);
            End { at, key, side, ended, is_over: false, says: f64::NAN }
        };
        (0..REQUESTS).map(end).collect()
    };
    (0..looks).map(requests).collect()
}

/// A judge that has begun to give the challenger its share.
fn begun(key: KeySource) -> Judge {
    let mut judge = Judge::new(plan(key)).expect("a good plan");
    let command = |command| Event::Command { time_ms: 0, by: "ada".into(), command };
    judge.feed(&command(Command::Start)).expect("a draft");
    judge.feed(&Event::Validated { time_ms: 0, fault: None }).expect("it is validated");
    judge.feed(&command(Command::Step)).expect("it is a shadow");
    judge
}

/// What is told by letter arrives as it was.
fn by_letter(source: Source, ends: Vec<End>) -> Seen {
    let letter = ends_letter(HALF, &ends, 0, &Beside::default());
    match read(TOPICS[0], source, &letter) {
        Some(Heard::Ends(_, seen, beside)) if beside == Beside::default() => seen,
        other => panic!("{other:?}"),
    }
}

/// Counts that two blocks must have in common, whoever gathered them.
fn counts(gatherer: &mut Gatherer, judge: &mut Judge, time_ms: u64) -> String {
    let mut all = Vec::new();
    for block in gatherer.close(judge.blocks() + 1, time_ms, HALF) {
        all.push(format!("{:?} {:?} {:?}", block.share, block.units, block.events[ERRORS]));
        judge.feed(&Event::Block(block)).expect("it is next");
    }
    all.join("\n")
}

/// The same requests by one process, and dealt to three: after each look both have the same counts, and at the end both stand in
/// the same state.
fn one_and_three(key: KeySource, seed: u64, fails: u64) -> State {
    let is_keyed = key != KeySource::PerRequest;
    let (mut one, mut three) = (Gatherer::new(is_keyed), Gatherer::new(is_keyed));
    let mut judges = [begun(key.clone()), begun(key)];
    let mut lot = Lot(seed ^ 7);
    for (look, ends) in traffic(seed, 30, fails).into_iter().enumerate() {
        one.add(OWN, HALF, &ends);
        let mut dealt: BTreeMap<Source, Vec<End>> = BTreeMap::new();
        ends.into_iter().for_each(|end| dealt.entry((lot.next() % 3) as Source).or_default().push(end));
        for (source, ends) in dealt {
            three.add(source, HALF, &by_letter(source, ends).ends);
        }
        let time_ms = (look as u64 + 1) * LOOK_MS;
        let [a, b] = &mut judges;
        assert_eq!(counts(&mut one, a, time_ms), counts(&mut three, b, time_ms), "look {look}");
        if judges.iter().all(|judge| judge.state().is_terminal()) {
            break;
        }
    }
    assert_eq!(judges[0].state(), judges[1].state());
    judges[0].state()
}

#[test]
fn three_replicas_come_to_the_verdict_of_one_process() {
    for seed in 0..20 {
        for key in [KeySource::PerRequest, KeySource::Header("x-user".into())] {
            assert_eq!(one_and_three(key.clone(), seed, 50), State::Promoted, "seed {seed}, {key:?}");
            assert_eq!(one_and_three(key.clone(), seed, 4), State::RolledBack, "seed {seed}, {key:?}");
        }
    }
}

/// Whoever leads dies again and again; each time another begins anew with the letters that are in no block. Each request is in one
/// block, whatever comes late.
#[test]
fn whoever_leads_next_goes_on_with_what_is_in_no_block() {
    let mut lot = Lot(11);
    let (mut letters, mut counted, mut lead) = (Vec::<Vec<End>>::new(), 0, Gatherer::new(false));
    let mut read_up_to = 0;
    for (look, ends) in traffic(3, 40, 50).into_iter().enumerate() {
        letters.extend(ends.chunks(50).map(|part| by_letter((lot.next() % 3) as Source, part.to_vec()).ends));
        // Some letters are still on their way.
        let arrived = letters.len().saturating_sub((lot.next() % 5) as usize).max(read_up_to);
        for ends in &letters[read_up_to..arrived] {
            lead.add(OWN, HALF, ends);
        }
        read_up_to = arrived;
        if lot.is(3) {
            (lead, read_up_to) = (Gatherer::new(false), 0);
            continue;
        }
        let blocks = lead.close(look as u64, 0, HALF);
        counted += blocks.iter().map(|block| block.units[0] + block.units[1]).sum::<u64>();
        letters.drain(..std::mem::take(&mut read_up_to));
    }
    let waiting: u64 = letters.iter().map(|ends| ends.len() as u64).sum();
    assert_eq!(counted + waiting, 40 * REQUESTS);
    assert!(counted > 20 * REQUESTS, "{counted}");
}

#[test]
fn a_fault_is_told_once_until_it_is_over() {
    let shared =
        || Shared { address: Address::parse("postgres://u@localhost/r", None).expect("a URL"), name: "a".into() };
    let mut fleet = Fleet::new(shared(), Moment::default());
    let mut tell = |trip| {
        fleet.gather_rest("m-1", Beside { trip, ..Beside::default() }, Vec::new());
        fleet.write(ENDS_MAX);
        let told = |letter: Letter| match read(TOPICS[0], 0, &letter.body) {
            Some(Heard::Ends(.., beside)) => beside.trip,
            other => panic!("{other:?}"),
        };
        fleet.outbox.drain(..).filter_map(told).collect::<Vec<_>>()
    };
    assert_eq!([Some(Trip::Crash), Some(Trip::Crash)].map(&mut tell), [vec![Trip::Crash], vec![]]);
    assert_eq!([None, Some(Trip::Crash)].map(&mut tell), [vec![], vec![Trip::Crash]]);
}

#[test]
fn replicas_that_serve_other_files_are_no_replicas() {
    let feedback = Feedback::new(1, true);
    let mut live = Live::new(&begun(KeySource::PerRequest), Moment::default(), &feedback);
    let files = |challenger: &str| ["champion".to_owned(), challenger.to_owned()];
    for source in [0, 1, 2, 0, 1] {
        live.compete(source, files("a"));
    }
    assert_eq!(live.take_heard().0, None);
    live.compete(2, files("b"));
    assert_eq!((live.take_heard().0, live.take_heard().0), (Some(Trip::Replaced), None));
    // Once all have the new ones, a person may have it go on.
    (0..3).for_each(|source| live.compete(source, files("b")));
    assert_eq!(live.take_heard().0, None);
}

#[test]
fn while_the_registry_is_away_memory_has_a_bound_and_the_rest_is_counted() {
    let address = Address::parse("postgres://u@localhost/r", None).expect("a URL");
    let mut fleet = Fleet::new(Shared { address, name: "a".into() }, Moment::default());
    let ends = traffic(1, 1, 50).remove(0);
    for _ in 0..WAITING_MAX / ends.len() + 50 {
        let seen = Seen { share: HALF, ends: ends.clone(), unseen: 1, notes: notes::Taken::default() };
        fleet.gather("m-1", vec![seen]);
    }
    let (held, lost) = &fleet.gathered["m-1"].ends[&HALF];
    assert!(held.len() <= WAITING_MAX && *lost > 49 * REQUESTS, "{} {lost}", held.len());
    let (held, lost) = (held.len() as u64, *lost);
    // After a minute all that was kept is told, and after a second as much as in a second.
    fleet.write(60 * ENDS_MAX);
    let told = fleet.outbox.drain(..).map(|letter| {
        assert!(letter.body.len() < 512 << 10, "{}", letter.body.len());
        match read(TOPICS[0], 0, &letter.body) {
            Some(Heard::Ends(_, seen, ..)) => (seen.ends.len() as u64, seen.unseen),
            other => panic!("{other:?}"),
        }
    });
    assert_eq!(told.fold((0, 0), |(a, b), (ends, unseen)| (a + ends, b + unseen)), (held, lost));
    for _ in 0..30 {
        fleet.gather("m-1", vec![Seen { share: HALF, ends: ends.clone(), unseen: 0, notes: notes::Taken::default() }]);
    }
    fleet.write(ENDS_MAX);
    assert_eq!(fleet.outbox.len(), 1);
}

proptest! {
    /// Of more than fits, both arms lose the same part.
    #[test]
    fn what_does_not_fit_is_left_out_of_both_arms_alike(seed: u64) {
        let ends = traffic(seed, 40, 50).concat();
        let all = ends.len() as u64;
        let of = |ends: &[End]| ends.iter().filter(|end| end.side == Side::Challenger).count() as f64 / ends.len() as f64;
        let before = of(&ends);
        let (kept, left_out) = thinned(ends, 3_000);
        prop_assert!(kept.len() <= 3_000 && kept.len() > 500 && kept.len() as u64 + left_out == all);
        prop_assert!((of(&kept) - before).abs() < 0.12, "{} {before}", of(&kept));
    }
}

#[test]
fn a_registry_is_named_without_its_password() {
    let named = |registry: Option<&str>, replica: Option<&str>| {
        let [registry, replica] = [registry, replica].map(|text| text.map(str::to_owned));
        Shared::of(&Config { registry, replica, ..Config::default() }, None)
    };
    assert!(named(None, None).expect("nothing is wrong").is_none());
    assert!(named(None, Some("a")).expect_err("a fleet of none").contains("need registry"));
    for url in ["postgres://u:s3cret@db/r", "postgres://u@db/r?password=s3cret"] {
        let error = named(Some(url), None).expect_err(url);
        assert!(error.contains("registry_password_file") && !error.contains("s3cret"), "{error}");
    }
    let shared = named(Some("postgres://u@db/r"), Some("a")).expect("nothing is wrong").expect("a fleet");
    assert_eq!((shared.name.as_str(), shared.address.to_string().as_str()), ("a", "postgres://u@db:5432/r"));
}

#[test]
fn a_replica_without_a_name_keeps_the_one_that_it_gave_itself() {
    let data = tempfile::tempdir().expect("a folder");
    let state = |models: &str| StateFolder::open(data.path(), std::path::Path::new(models)).expect("a folder");
    let first = own_name(Some(&state("a")));
    assert_eq!(own_name(Some(&state("a"))), first);
    assert_ne!(own_name(Some(&state("b"))), first);
}
