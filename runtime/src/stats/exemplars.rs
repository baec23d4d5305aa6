//! Which request is an example of those that took about so long?
//!
//! One for each bucket of the classic histogram, renewed now and then. Nobody waits: who finds a place in use leaves it alone.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU64, fence};

use super::CLASSIC_NS;

/// How long an example stays, in milliseconds.
const KEPT_MS: u64 = 1_000;

/// How long one with a trace stays, where others have none.
const TRACED_KEPT_MS: u64 = 60_000;

/// A request that stands for those of its bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exemplar {
    /// The server's name for it, as bits.
    pub id: u128,
    /// Its trace; 0 where it has none.
    pub trace: u128,
    /// How long it took, in nanoseconds.
    pub nanos: u64,
    /// When it was accepted, in milliseconds since 1970.
    pub unix_ms: u64,
}

/// A place for each bucket.
#[derive(Default)]
pub(super) struct Exemplars([Slot; CLASSIC_NS.len() + 1]);

#[derive(Default)]
#[repr(align(128))]
struct Slot {
    /// Odd while somebody writes; 0 while nobody ever did.
    turn: AtomicU64,
    /// When the example was accepted, doubled, and one more where it has a trace.
    seen: AtomicU64,
    id: [AtomicU64; 2],
    trace: [AtomicU64; 2],
    nanos: AtomicU64,
}

fn halves(bits: u128) -> [u64; 2] {
    [(bits >> 64) as u64, bits as u64]
}

fn whole(halves: &[AtomicU64; 2]) -> u128 {
    u128::from(halves[0].load(Relaxed)) << 64 | u128::from(halves[1].load(Relaxed))
}

impl Exemplars {
    /// Shows a request, which becomes the example of its bucket where that has none or an old one.
    pub(super) fn show(&self, shown: &Exemplar) {
        let slot = &self.0[CLASSIC_NS.partition_point(|&bound| bound < shown.nanos)];
        let (seen, is_traced) = (slot.seen.load(Relaxed), shown.trace != 0);
        let kept = match (seen & 1 == 1, is_traced) {
            (true, false) => TRACED_KEPT_MS,
            (false, true) => 0,
            _ => KEPT_MS,
        };
        if (seen >> 1) + kept <= shown.unix_ms {
            slot.write(shown, shown.unix_ms << 1 | u64::from(is_traced));
        }
    }

    /// The examples there are, each with the position of its bucket.
    pub(super) fn read(&self) -> Vec<(usize, Exemplar)> {
        self.0.iter().enumerate().filter_map(|(bucket, slot)| Some((bucket, slot.read()?))).collect()
    }
}

impl Slot {
    fn write(&self, shown: &Exemplar, seen: u64) {
        let turn = self.turn.load(Relaxed);
        if turn % 2 == 1 || self.turn.compare_exchange(turn, turn + 1, Acquire, Relaxed).is_err() {
            return;
        }
        // What is written from here on is seen after the turn.
        fence(Release);
        self.seen.store(seen, Relaxed);
        self.nanos.store(shown.nanos, Relaxed);
        for (place, bits) in [(&self.id, shown.id), (&self.trace, shown.trace)] {
            place.iter().zip(halves(bits)).for_each(|(place, half)| place.store(half, Relaxed));
        }
        self.turn.store(turn + 2, Release);
    }

    /// Nothing where there is none, or it is being written.
    fn read(&self) -> Option<Exemplar> {
        let before = self.turn.load(Acquire);
        let read = Exemplar {
            id: whole(&self.id),
            trace: whole(&self.trace),
            nanos: self.nanos.load(Relaxed),
            unix_ms: self.seen.load(Relaxed) >> 1,
        };
        fence(Acquire);
        (before > 0 && before.is_multiple_of(2) && self.turn.load(Relaxed) == before).then_some(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(id: u128, trace: u128, unix_ms: u64) -> Exemplar {
        Exemplar { id, trace, nanos: 20_000, unix_ms }
    }

    #[test]
    fn an_example_stays_for_a_while_and_one_with_a_trace_longer() {
        let exemplars = Exemplars::default();
        let check = |show: Exemplar, expected: u128| {
            exemplars.show(&show);
            assert_eq!(
                exemplars.read().iter().map(|(bucket, one)| (*bucket, one.id)).collect::<Vec<_>>(),
                [(1, expected)]
            );
        };
        check(shown(1, 0, 5_000), 1);
        check(shown(2, 0, 5_999), 1);
        check(shown(3, 0, 6_000), 3);
        check(shown(4, 9, 6_001), 4);
        check(shown(5, 0, 8_000), 4);
        check(shown(6, 9, 8_000), 6);
        check(shown(7, 0, 68_000), 7);
    }

    #[test]
    fn no_reader_sees_half_of_one_and_half_of_another() {
        let exemplars = Exemplars::default();
        let (writers, rounds) = (2, 20_000u64);
        std::thread::scope(|scope| {
            for writer in 0..writers {
                let exemplars = &exemplars;
                scope.spawn(move || {
                    for round in 1..=rounds {
                        let bits = u128::from(round) << 64 | u128::from(round * writers + writer);
                        exemplars.show(&Exemplar { id: bits, trace: bits, nanos: 7, unix_ms: round * KEPT_MS });
                    }
                });
            }
            for _ in 0..rounds {
                for (_, one) in exemplars.read() {
                    assert_eq!((one.id, one.unix_ms), (one.trace, (one.id >> 64) as u64 * KEPT_MS));
                }
            }
        });
        assert_eq!(exemplars.read().len(), 1);
    }
}
