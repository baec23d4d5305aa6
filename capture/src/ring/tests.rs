//! Is every committed record found once, wherever the ring begins anew, is opened again, or is damaged?

use std::collections::BTreeSet;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;

use proptest::collection::vec;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

const AREA_BYTES: u64 = 1 << 16;

struct Place {
    _folder: TempDir,
    path: PathBuf,
    shards: usize,
}

impl Place {
    fn new(shards: usize) -> Place {
        let folder = tempfile::tempdir().expect("a folder");
        Place { path: folder.path().join("ring"), _folder: folder, shards }
    }

    fn open(&self) -> Ring {
        Ring::open(&self.path, self.shards, AREA_BYTES, 1 << 20).expect("a ring")
    }
}

/// A payload of this many bytes that begins with its number.
fn payload(number: u64, length: usize) -> Vec<u8> {
    let mut payload = number.to_le_bytes().to_vec();
    payload.resize(8 + length, number as u8);
    payload
}

fn number(payload: &[u8]) -> u64 {
    let number = u64::from_le_bytes(*payload.first_chunk().expect("a number"));
    assert!(payload[8..].iter().all(|byte| *byte == number as u8), "record {number} holds another one's bytes");
    number
}

/// Takes up to `limit` records; the sequences among them, and their numbers.
fn drain(ring: &Ring, limit: usize) -> Vec<(u64, u64)> {
    let (mut found, mut marks, mut bytes) = (Vec::new(), Vec::new(), Vec::new());
    for span in ring.pending() {
        let mut mark = span.from;
        while found.len() < limit {
            let Some((sequence, next)) = ring.read(span, mark, &mut bytes) else {
                mark = Ring::end(span, mark);
                break;
            };
            found.push((sequence, number(&bytes)));
            mark = next;
        }
        marks.push((span.shard, mark));
    }
    ring.advance(&marks, false).expect("the marks are written");
    found
}

#[track_caller]
fn assert_all_counted(counters: &Counters) {
    assert_eq!(counters.served, counters.captured + counters.dropped.iter().sum::<u64>(), "{counters:?}");
}

#[derive(Clone, Debug)]
enum Step {
    Offer(usize),
    Drain(usize),
    Open,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        20 => (0usize..3000).prop_map(Step::Offer),
        3 => (0usize..40).prop_map(Step::Drain),
        1 => Just(Step::Open),
    ];
    vec(step, 0..300)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn each_record_is_drained_once(shards in 1usize..4, steps in steps()) {
        let place = Place::new(shards);
        let mut ring = place.open();
        let (mut captured, mut drained, mut sequences, mut full) = (BTreeSet::new(), Vec::new(), BTreeSet::new(), 0);
        for (at, step) in steps.iter().enumerate() {
            match step {
                Step::Offer(length) => match ring.offer(&payload(at as u64, *length)) {
                    Ok(_) => assert!(captured.insert(at as u64)),
                    Err(reason) => {
                        assert_eq!(reason, Reason::Full);
                        full += 1;
                    }
                },
                Step::Drain(limit) => drained.extend(drain(&ring, *limit)),
                Step::Open => {
                    drop(ring);
                    ring = place.open();
                }
            }
        }
        drop(ring);
        let ring = place.open();
        drained.extend(drain(&ring, usize::MAX));
        for (sequence, _) in &drained {
            prop_assert!(sequences.insert(*sequence), "sequence {} twice", sequence);
        }
        let mut numbers: Vec<u64> = drained.into_iter().map(|(_, number)| number).collect();
        numbers.sort_unstable();
        prop_assert_eq!(numbers, captured.iter().copied().collect::<Vec<_>>());
        let counters = ring.counters();
        prop_assert_eq!((counters.captured, counters.dropped(Reason::Full)), (captured.len() as u64, full));
        assert_all_counted(&counters);
    }

    /// A byte that changes costs the record that it is in, and no other.
    #[test]
    fn damage_costs_what_is_damaged(
        lengths in vec(0usize..2000, 1..30),
        drained in 0usize..10,
        damage in vec((any::<prop::sample::Index>(), 1u8..), 0..3),
        is_open in any::<bool>(),
    ) {
        let place = Place::new(1);
        let mut ring = place.open();
        let mut left = Vec::new();
        // So that the records may stand across the area's end.
        while ring.offer(&payload(0, 3000)).is_ok() {}
        drain(&ring, usize::MAX);
        let before = ring.counters();
        for (at, length) in lengths.iter().enumerate() {
            let begin = ring.pending()[0].to.position;
            ring.offer(&payload(at as u64, *length)).expect("there is room");
            left.push((at as u64, begin..ring.pending()[0].to.position));
        }
        drain(&ring, drained);
        left.drain(..drained.min(left.len()));
        let file = OpenOptions::new().read(true).write(true).open(&place.path).expect("the file");
        let begin = left.first().map_or(0, |(_, places)| places.start);
        let end = left.last().map_or(1, |(_, places)| places.end);
        let mut hit: Vec<u64> = Vec::new();
        for (index, change) in damage.iter().filter(|_| !left.is_empty()) {
            let place = begin + index.index((end - begin) as usize) as u64;
            let (offset, mut byte) = (2 * CONTROL_BYTES as u64 + place % AREA_BYTES, [0]);
            file.read_exact_at(&mut byte, offset).expect("it is there");
            file.write_all_at(&[byte[0] ^ change], offset).expect("it can be written");
            hit.extend(left.iter().find(|(_, places)| places.contains(&place)).map(|(number, _)| *number));
        }
        if !is_open {
            drop(ring);
            ring = place.open();
        }
        let found: Vec<u64> = drain(&ring, usize::MAX).into_iter().map(|(_, number)| number).collect();
        for (number, _) in &left {
            // A byte of the zeros that fill a record up may change without harm.
            prop_assert!(found.contains(number) || hit.contains(number), "{} is gone", number);
        }
        prop_assert!(found.is_sorted_by(|a, b| a < b), "{:?}", found);
        ring.offer(&payload(99, 10)).expect("there is room");
        prop_assert_eq!(drain(&ring, usize::MAX).last().map(|(_, number)| *number), Some(99));
        let counters = ring.counters();
        assert_all_counted(&counters);
        let gone = (left.len() - found.len()) as u64;
        // Of records behind the last whole one nobody knows any more that they were, but that they were offered.
        prop_assert_eq!(counters.captured, before.captured + lengths.len() as u64 + 1 - gone);
        prop_assert_eq!(counters.dropped(Reason::Lost) + counters.dropped(Reason::Interrupted), gone);
    }
}

#[test]
fn who_dies_before_the_commit_is_interrupted() {
    let place = Place::new(2);
    let ring = place.open();
    let other = 1 - ring.offer(&payload(1, 100)).expect("there is room").shard;
    ring.shards[other].count_begun(&ring.map);
    // The frame's words are not there yet.
    ring.map.write(CONTROL_BYTES * 3 + AREA_BYTES as usize * other + 16, &payload(2, 50));
    drop(ring);
    let ring = place.open();
    let counters = ring.counters();
    assert_eq!((counters.captured, counters.dropped(Reason::Interrupted)), (1, 1));
    assert_all_counted(&counters);
    drop(ring);
    assert_eq!(place.open().counters(), counters, "it is counted once");
}

#[test]
fn threads_never_wait_and_lose_nothing() {
    const EACH: u64 = 20_000;
    let place = Place::new(3);
    let ring = place.open();
    let next = AtomicU64::new(0);
    let (mut captured, mut drained) = (Vec::new(), Vec::new());
    std::thread::scope(|scope| {
        let producer = |_| {
            scope.spawn(|| {
                let mut mine = Vec::new();
                for _ in 0..EACH {
                    let number = next.fetch_add(1, Relaxed);
                    if ring.offer(&payload(number, (number % 300) as usize)).is_ok() {
                        mine.push(number);
                    }
                }
                mine
            })
        };
        let producers: Vec<_> = (0..3).map(producer).collect();
        while !producers.iter().all(|producer| producer.is_finished()) {
            drained.extend(drain(&ring, 1000));
        }
        for producer in producers {
            captured.extend(producer.join().expect("it ends"));
        }
    });
    drained.extend(drain(&ring, usize::MAX));
    let mut drained: Vec<u64> = drained.into_iter().map(|(_, number)| number).collect();
    drained.sort_unstable();
    captured.sort_unstable();
    assert_eq!(drained, captured);
    let counters = ring.counters();
    assert_eq!(counters.served, 3 * EACH);
    assert_all_counted(&counters);
}

#[test]
fn a_sync_is_shared_and_ends() {
    let place = Place::new(2);
    let ring = place.open();
    assert!(ring.wake_at_next(), "nothing is there yet");
    std::thread::scope(|scope| {
        for number in 0..4 {
            let ring = &ring;
            scope.spawn(move || {
                for _ in 0..20 {
                    let ticket = ring.offer(&payload(number, 500)).expect("there is room");
                    ring.wait_durable(ticket).expect("the disk takes it");
                }
            });
        }
    });
    assert!(ring.wake_at_next(), "all is on the disk");
    ring.offer(&payload(9, 500)).expect("there is room");
    assert!(!ring.wake_at_next(), "the last one is not");
    ring.make_ready();
    ring.sync().expect("the disk takes it");
    assert!(ring.wake_at_next());
}

#[test]
fn what_is_no_ring_is_refused() {
    let place = Place::new(2);
    drop(place.open());
    let held = place.open();
    let again = Ring::open(&place.path, 1, AREA_BYTES, 1 << 20);
    assert!(matches!(again, Err(Error::Held(_))), "{again:?}");
    drop(held);
    let file = OpenOptions::new().write(true).open(&place.path).expect("the file");
    let length = file.metadata().expect("its length").len();
    #[track_caller]
    fn check(place: &Place) {
        let opened = Ring::open(&place.path, 1, AREA_BYTES, 1 << 20);
        assert!(matches!(opened, Err(Error::NotARing(_) | Error::Io { .. })), "{opened:?}");
    }
    for shorter in [0, 7, 4096, length - 1] {
        file.set_len(shorter).expect("a length");
        check(&place);
    }
    file.set_len(length).expect("a length");
    drop(Ring::open(&place.path, 1, AREA_BYTES, 1 << 20));
    file.write_all_at(b"x", 9).expect("it can be written");
    check(&place);
}

#[test]
fn a_record_that_is_too_large_is_dropped() {
    let place = Place::new(1);
    let ring = place.open();
    assert_eq!(ring.offer(&payload(1, AREA_BYTES as usize / 4)), Err(Reason::TooLarge));
    let counters = ring.counters();
    assert_eq!((counters.served, counters.dropped(Reason::TooLarge)), (1, 1));
}
