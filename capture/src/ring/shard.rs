//! Where in the ring does a record stand, and which of those that are there are whole?
//!
//! A shard is a page of control words and an area of bytes that is written round and round. Places in it are counted
//! from the shard's beginning and never start again; modulo the area's length they say where. Each record has an ordinal,
//! counted without a gap, and a frame:
//!
//! ```text
//! word 0   length of the payload (lower half), CRC-32 of ordinal, length and payload (upper half)
//! word 1   ordinal + 1
//! then     the payload, filled up with zeros to whole words
//! ```
//!
//! Word 0 is written last, and is what commits it. There is no mark for the newest record: whoever opens the ring reads on
//! from the mark of what has been drained for as long as frames are whole and their ordinals follow. What a lap before
//! left there has lower ordinals. Behind bytes that are damaged it looks for the next whole frame, and the ordinals tell
//! how many are lost.

use std::ops::RangeInclusive;
use std::sync::Mutex;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::map::Map;

/// Bytes of a shard's control words.
pub(crate) const CONTROL_BYTES: usize = 4096;

/// Bytes of a frame without its payload.
pub(crate) const FRAME_BYTES: u64 = 16;

/// Words of the control page: how many records were offered, and behind it what was dropped, by reason.
const BEGUN: usize = 0;
const DROPPED: usize = 8;
/// Two slots for the mark, so that one of them is whole whenever the process ends.
const MARKS: [usize; 2] = [64, 80];

/// A place between two records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Place {
    /// Bytes since the beginning.
    pub(crate) position: u64,
    /// The ordinal of the record that begins here.
    pub(crate) ordinal: u64,
}

/// Up to where a shard has been drained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Mark {
    /// Where the first record begins that is not in a segment.
    pub(crate) place: Place,
    /// How many before it were damaged and are in no segment.
    pub(crate) lost: u64,
}

/// A whole record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) ordinal: u64,
    /// Where the next one begins.
    pub(crate) next: Place,
}

#[derive(Debug)]
pub(crate) struct State {
    /// Where the next record goes.
    pub(crate) tail: Place,
    /// What is before this place may be written over.
    pub(crate) mark: Mark,
    generation: u64,
    /// Damaged records, those that are not drained yet among them.
    pub(crate) lost: u64,
    /// Up to where the pages are ready to be written.
    pub(crate) ready: u64,
    /// Whose record ends behind this place wakes the keeper.
    pub(crate) wake_at: u64,
}

impl State {
    fn new(tail: Place, mark: Mark, generation: u64, lost: u64) -> State {
        State { tail, mark, generation, lost, ready: tail.position, wake_at: tail.position }
    }
}

#[derive(Debug)]
pub(crate) struct Shard {
    control: usize,
    area: usize,
    area_bytes: u64,
    pub(crate) state: Mutex<State>,
}

impl Shard {
    /// The shard whose control page and area begin at these bytes of the map, as it is found there.
    pub(crate) fn open(map: &Map, control: usize, area: usize, area_bytes: u64) -> Shard {
        let state = State::new(Place::default(), Mark::default(), 0, 0);
        let mut shard = Shard { control, area, area_bytes, state: Mutex::new(state) };
        let (generation, mark) = shard.read_marks(map);
        let end = mark.place.position.saturating_add(area_bytes);
        let (mut tail, mut lost, mut payload) = (mark.place, mark.lost, Vec::new());
        while let Some(found) = shard.next(map, tail, end, &mut payload) {
            lost += found.ordinal - tail.ordinal;
            tail = found.next;
        }
        shard.state = Mutex::new(State::new(tail, mark, generation, lost));
        shard
    }

    fn at(&self, position: u64) -> usize {
        self.area + (position % self.area_bytes) as usize
    }

    fn word(&self, map: &Map, position: u64) -> u64 {
        map.words()[self.at(position) / 8].load(Acquire)
    }

    /// The map's ranges of bytes for these places, of which there are at most an area's.
    pub(crate) fn ranges(&self, from: u64, to: u64) -> impl Iterator<Item = (usize, usize)> {
        let start = from % self.area_bytes;
        let length = (to - from).min(self.area_bytes);
        let first = length.min(self.area_bytes - start);
        let parts = [(self.area + start as usize, first as usize), (self.area, (length - first) as usize)];
        parts.into_iter().filter(|(_, length)| *length > 0)
    }

    /// Whether a payload of this length can be appended.
    pub(crate) fn has_room(&self, state: &State, payload: usize) -> bool {
        state.tail.position + framed(payload) <= state.mark.place.position + self.area_bytes
    }

    /// Writes and commits a record, for which there must be room; gives the place behind it.
    pub(crate) fn append(&self, map: &Map, state: &mut State, payload: &[u8]) -> Place {
        let Place { position, ordinal } = state.tail;
        let next = position + framed(payload.len());
        let mut rest = payload;
        for (at, length) in self.ranges(position + FRAME_BYTES, next) {
            let (part, others) = rest.split_at(length.min(rest.len()));
            map.write(at, part);
            rest = others;
        }
        map.words()[self.at(position + 8) / 8].store(ordinal + 1, Relaxed);
        let head = payload.len() as u64 | u64::from(checksum(ordinal, payload)) << 32;
        // Whoever sees the head, in this process or after its end, sees what was written before it.
        map.words()[self.at(position) / 8].store(head, Release);
        state.tail = Place { position: next, ordinal: ordinal + 1 };
        state.tail
    }

    /// The first whole record at or behind `place` that ends by `end`; its payload replaces what `payload` held.
    pub(crate) fn next(&self, map: &Map, place: Place, end: u64, payload: &mut Vec<u8>) -> Option<Found> {
        let mut position = place.position;
        while position + FRAME_BYTES <= end {
            // No more records than this can stand before `position`: what says a higher ordinal is none.
            let ordinals = place.ordinal..=place.ordinal + (position - place.position) / FRAME_BYTES;
            if let Some(found) = self.whole(map, position, end, &ordinals, payload) {
                return Some(found);
            }
            position += 8;
        }
        None
    }

    fn whole(
        &self,
        map: &Map,
        position: u64,
        end: u64,
        ordinals: &RangeInclusive<u64>,
        payload: &mut Vec<u8>,
    ) -> Option<Found> {
        let head = self.word(map, position);
        let ordinal = self.word(map, position + 8).checked_sub(1).filter(|ordinal| ordinals.contains(ordinal))?;
        let length = (head & u64::from(u32::MAX)) as usize;
        let next = position + framed(length);
        if next > end {
            return None;
        }
        payload.clear();
        let mut rest = length;
        for (at, bytes) in self.ranges(position + FRAME_BYTES, next) {
            map.read(at, bytes.min(rest), payload);
            rest -= bytes.min(rest);
        }
        let is_whole = u64::from(checksum(ordinal, payload)) == head >> 32;
        is_whole.then_some(Found { ordinal, next: Place { position: next, ordinal: ordinal + 1 } })
    }

    fn read_marks(&self, map: &Map) -> (u64, Mark) {
        let marks = MARKS.into_iter().filter_map(|slot| {
            let words = &map.words()[self.control / 8 + slot..];
            let [generation, position, ordinal, lost, check] = std::array::from_fn(|at| words[at].load(Relaxed));
            let mark = Mark { place: Place { position, ordinal }, lost };
            (check == mark_check(generation, mark)).then_some((generation, mark))
        });
        marks.max_by_key(|(generation, _)| *generation).unwrap_or_default()
    }

    /// Notes that all before the mark is drained. The space stays taken until [`Shard::release`]: the mark must be on the disk
    /// before anything is written over what it stands for.
    pub(crate) fn write_mark(&self, map: &Map, mark: Mark) {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        state.generation += 1;
        let words = &map.words()[self.control / 8 + MARKS[(state.generation % 2) as usize]..];
        let Mark { place, lost } = mark;
        for (word, value) in words.iter().zip([state.generation, place.position, place.ordinal, lost]) {
            word.store(value, Relaxed);
        }
        words[4].store(mark_check(state.generation, mark), Release);
    }

    /// Gives the space before the mark back.
    pub(crate) fn release(&self, mark: Mark) {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        state.mark = mark;
        state.lost = state.lost.max(mark.lost);
        // All behind the tail was damaged: the ordinals go on from where the drain has come to.
        if mark.place.position > state.tail.position {
            state.tail = mark.place;
        }
    }

    /// Counts a record that was offered.
    pub(crate) fn count_begun(&self, map: &Map) {
        map.words()[self.control / 8 + BEGUN].fetch_add(1, Relaxed);
    }

    /// Counts one that was dropped for the reason with this index.
    pub(crate) fn count_dropped(&self, map: &Map, reason: usize, count: u64) {
        map.words()[self.control / 8 + DROPPED + reason].fetch_add(count, Relaxed);
    }

    pub(crate) fn begun(&self, map: &Map) -> u64 {
        map.words()[self.control / 8 + BEGUN].load(Relaxed)
    }

    pub(crate) fn set_begun(&self, map: &Map, begun: u64) {
        map.words()[self.control / 8 + BEGUN].store(begun, Relaxed);
    }

    pub(crate) fn dropped(&self, map: &Map, reason: usize) -> u64 {
        map.words()[self.control / 8 + DROPPED + reason].load(Relaxed)
    }

    /// Where its control page begins.
    pub(crate) fn control(&self) -> usize {
        self.control
    }

    pub(crate) fn area_bytes(&self) -> u64 {
        self.area_bytes
    }
}

/// Bytes that a payload takes with its frame.
pub(crate) fn framed(payload: usize) -> u64 {
    FRAME_BYTES + (payload as u64).next_multiple_of(8)
}

fn checksum(ordinal: u64, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(ordinal as u32 ^ (ordinal >> 32) as u32);
    hasher.update(payload);
    // Zeros before zeros would be the same to the sum.
    hasher.finalize() ^ (payload.len() as u32).rotate_left(16)
}

/// Never zero, so that a page of zeros holds no mark.
fn mark_check(generation: u64, mark: Mark) -> u64 {
    let mut hasher = crc32fast::Hasher::new();
    for value in [generation, mark.place.position, mark.place.ordinal, mark.lost] {
        hasher.update(&value.to_le_bytes());
    }
    u64::from(hasher.finalize()) | 1 << 32
}
