//! Is there room for one more request?
//!
//! Two bounds, requests and bytes in flight. Bytes count while they arrive and requests once they are there, until the job
//! is gone: a client that goes away does not free the room of what still waits. What one version may hold depends on what
//! is left: at most so many times as much as is free. So a flood on one model always leaves some room to others, and of
//! several floods each gets the same.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tiltyard_runtime::stats::{Refusal, Stats};
use tiltyard_types::{Error, ErrorKind, Result};

/// A version may hold this many times of what is free: alone four fifths of all there is, two of them four ninths each.
const SHARE: usize = 4;

/// Bytes of a message whose model is not known yet that may arrive whatever others send: floods are of larger ones.
const SMALL_BYTES: usize = 16 << 10;

/// The smallest buffer for what comes in pieces.
const BUFFER_BYTES_MIN: usize = 64 << 10;

/// When to come again: nobody knows when whose requests will end.
const COME_AGAIN: Duration = Duration::from_secs(1);

/// Counts what is in flight.
pub struct Admission {
    requests_max: AtomicUsize,
    bytes_max: AtomicUsize,
    requests: AtomicUsize,
    bytes: AtomicUsize,
    /// Requests whose model is not known yet.
    unknown: Arc<Stats>,
}

/// Room in memory for what has arrived of one request. Given back when this is dropped.
pub struct Room {
    admission: Arc<Admission>,
    of: Arc<Stats>,
    bytes: usize,
}

/// Room for one request.
pub struct Permit {
    room: Room,
}

impl Admission {
    /// Bounds for requests and for bytes of request bodies.
    pub fn new(requests_max: usize, bytes_max: usize) -> Arc<Admission> {
        Arc::new(Admission {
            requests_max: AtomicUsize::new(requests_max),
            bytes_max: AtomicUsize::new(bytes_max),
            requests: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            unknown: Arc::default(),
        })
    }

    /// Other bounds from now on. What is in flight stays, even where it is more.
    pub fn set_bounds(&self, requests_max: usize, bytes_max: usize) {
        self.requests_max.store(requests_max, Relaxed);
        self.bytes_max.store(bytes_max, Relaxed);
    }

    /// Room for a request to the version whose counters these are. It is empty and grows.
    pub fn room(self: &Arc<Self>, of: &Arc<Stats>) -> Room {
        Room { admission: Arc::clone(self), of: Arc::clone(of), bytes: 0 }
    }

    /// Room for a request whose model is not known yet.
    pub fn room_for_unknown(self: &Arc<Self>) -> Room {
        self.room(&self.unknown)
    }

    /// Whether one more request of `of` would be refused now, for how many there are.
    pub fn check(&self, of: &Stats) -> Result<()> {
        self.judge_requests(of, self.requests.load(Relaxed))
    }

    /// Requests in flight.
    pub fn requests(&self) -> usize {
        self.requests.load(Relaxed)
    }

    /// Bytes of request bodies in memory.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Relaxed)
    }

    /// What was refused before its model was known.
    pub fn unknown(&self) -> &Arc<Stats> {
        &self.unknown
    }

    fn judge_requests(&self, of: &Stats, in_flight: usize) -> Result<()> {
        let requests_max = self.requests_max.load(Relaxed);
        let free = requests_max.saturating_sub(in_flight);
        if free == 0 {
            let message = format!("{requests_max} requests are in flight already (requests_max)");
            return Err(refuse(of, Refusal::Requests, message));
        }
        let held = of.in_flight.requests.load(Relaxed);
        if held >= free.saturating_mul(SHARE) {
            let message = format!(
                "the model has {held} of {requests_max} requests in flight (requests_max), and the rest is for others"
            );
            return Err(refuse(of, Refusal::Share, message));
        }
        Ok(())
    }

    /// Whether `of` may have more, where its other requests hold `held` bytes of the `taken` that all others do.
    fn judge_share(&self, of: &Stats, held: usize, taken: usize) -> Result<()> {
        let bytes_max = self.bytes_max.load(Relaxed);
        if held <= bytes_max.saturating_sub(taken).saturating_mul(SHARE) {
            return Ok(());
        }
        let message = format!(
            "the model's requests hold {held} of {bytes_max} bytes (bytes_in_flight_max), and the rest is for others"
        );
        Err(refuse(of, Refusal::Share, message))
    }
}

impl Room {
    /// Takes room for `bytes` in all, or refuses at once. Never less than before.
    pub fn grow(&mut self, bytes: usize) -> Result<()> {
        let more = bytes.saturating_sub(self.bytes);
        if more == 0 {
            return Ok(());
        }
        let before = self.admission.bytes.fetch_add(more, Relaxed);
        if let Err(error) = self.judge(bytes, more, before) {
            self.admission.bytes.fetch_sub(more, Relaxed);
            return Err(error);
        }
        self.of.in_flight.bytes.fetch_add(more, Relaxed);
        self.bytes = bytes;
        Ok(())
    }

    /// Makes a buffer hold `needed` bytes of a body that has `total` in all: twice as large each time, and no larger than what
    /// arrived makes likely. What is allocated takes room, since the system may give whole pages for a few bytes.
    pub fn make(room: Option<&mut Room>, buffer: &mut Vec<u8>, needed: usize, total: usize) -> Result<()> {
        if needed > buffer.capacity() {
            let capacity = needed.saturating_mul(2).max(BUFFER_BYTES_MIN).min(total).max(needed);
            if let Some(room) = room {
                room.grow(capacity)?;
            }
            buffer.reserve_exact(capacity - buffer.len());
        }
        Ok(())
    }

    /// Refuses what would not fit if all of it came now. Takes nothing: clients may declare what they never send.
    pub fn expect(&self, bytes: usize) -> Result<()> {
        self.judge(bytes, bytes.saturating_sub(self.bytes), self.admission.bytes.load(Relaxed))
    }

    /// Bytes that it holds.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Room beside this, for what is made of it.
    pub fn beside(&self) -> Room {
        self.admission.room(&self.of)
    }

    /// Counts it under the version that the request turned out to be for, where that one may have it.
    pub fn belongs_to(&mut self, of: &Arc<Stats>) -> Result<()> {
        if Arc::ptr_eq(&self.of, of) {
            return Ok(());
        }
        let before = self.admission.bytes.load(Relaxed);
        self.admission.judge_share(of, of.in_flight.bytes.load(Relaxed), before.saturating_sub(self.bytes))?;
        of.in_flight.bytes.fetch_add(self.bytes, Relaxed);
        mem::replace(&mut self.of, Arc::clone(of)).in_flight.bytes.fetch_sub(self.bytes, Relaxed);
        Ok(())
    }

    /// Lets the request in, or refuses it at once. The room is given back with the permit.
    pub fn admit(self) -> Result<Permit> {
        let in_flight = self.admission.requests.fetch_add(1, Relaxed);
        if let Err(error) = self.admission.judge_requests(&self.of, in_flight) {
            self.admission.requests.fetch_sub(1, Relaxed);
            return Err(error);
        }
        self.of.in_flight.requests.fetch_add(1, Relaxed);
        Ok(Permit { room: self })
    }

    /// Whether it may have `more`, which makes `bytes` in all, where `before` are taken.
    fn judge(&self, bytes: usize, more: usize, before: usize) -> Result<()> {
        let bytes_max = self.admission.bytes_max.load(Relaxed);
        let free = bytes_max.saturating_sub(before);
        if more > free {
            let message =
                format!("requests in flight hold {before} of {bytes_max} bytes already (bytes_in_flight_max)");
            return Err(refuse(&self.of, Refusal::Bytes, message));
        }
        if bytes <= SMALL_BYTES && Arc::ptr_eq(&self.of, &self.admission.unknown) {
            return Ok(());
        }
        // What it holds itself is no reason against it: one request may be as large as any.
        let held = self.of.in_flight.bytes.load(Relaxed).saturating_sub(self.bytes);
        self.admission.judge_share(&self.of, held, before.saturating_sub(self.bytes))
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.admission.bytes.fetch_sub(self.bytes, Relaxed);
        self.of.in_flight.bytes.fetch_sub(self.bytes, Relaxed);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.room.admission.requests.fetch_sub(1, Relaxed);
        self.room.of.in_flight.requests.fetch_sub(1, Relaxed);
    }
}

fn refuse(of: &Stats, reason: Refusal, message: String) -> Error {
    of.refused(reason);
    Error::new(ErrorKind::Overloaded, message).retry_after(COME_AGAIN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn refused(stats: &Stats, reason: Refusal) -> u64 {
        stats.snapshot().refused[reason as usize]
    }

    fn room(admission: &Arc<Admission>, of: &Arc<Stats>, bytes: usize) -> Result<Room> {
        let mut room = admission.room(of);
        room.grow(bytes).map(|()| room)
    }

    #[test]
    fn room_is_bounded_and_given_back() {
        let (admission, stats) = (Admission::new(2, 100), Arc::default());
        let first = room(&admission, &stats, 60).unwrap().admit().unwrap();
        let error = room(&admission, &stats, 60).err().unwrap();
        assert_eq!((error.kind(), error.wait()), (ErrorKind::Overloaded, Some(COME_AGAIN)));
        let second = room(&admission, &stats, 40).unwrap().admit().unwrap();
        assert!(admission.check(&stats).is_err() && admission.room(&stats).admit().is_err());
        assert_eq!((refused(&stats, Refusal::Bytes), refused(&stats, Refusal::Requests)), (1, 2));
        drop((first, second));
        assert_eq!((admission.requests(), admission.bytes()), (0, 0));
        assert!(room(&admission, &stats, 100).unwrap().admit().is_ok());
    }

    #[test]
    fn what_arrives_counts_and_what_is_declared_takes_nothing() {
        let (admission, stats) = (Admission::new(9, 100), Arc::default());
        let mut one = admission.room(&stats);
        one.expect(90).unwrap();
        let mut other = room(&admission, &stats, 30).unwrap();
        one.grow(50).unwrap();
        one.grow(20).unwrap();
        assert_eq!(admission.bytes(), 80);
        assert!(one.expect(90).is_err() && one.grow(90).is_err(), "there are 20 left");
        let mut more = other.beside();
        more.grow(20).unwrap();
        assert_eq!(admission.bytes(), 100);
        other = more;
        assert_eq!((admission.bytes(), other.bytes()), (70, 20));
        drop(other);
        assert_eq!(admission.bytes(), 50);
        one.grow(90).unwrap();
        drop(one);
        assert_eq!((admission.bytes(), stats.in_flight.bytes.load(Relaxed)), (0, 0));
    }

    #[test]
    fn buffers_take_room_as_they_grow() {
        let (admission, stats) = (Admission::new(9, 1 << 20), Arc::default());
        let (mut room, mut buffer) = (admission.room(&stats), Vec::new());
        for (arrived, capacity) in
            [(100, 64 << 10), (64 << 10, 64 << 10), (65 << 10, 130 << 10), (200 << 10, 300 << 10)]
        {
            Room::make(Some(&mut room), &mut buffer, arrived, 300 << 10).unwrap();
            buffer.resize(arrived, 0);
            assert_eq!((buffer.capacity(), room.bytes()), (capacity, capacity));
        }
        assert!(Room::make(Some(&mut room), &mut buffer, 2 << 20, usize::MAX).is_err());
        assert_eq!(buffer.capacity(), 300 << 10);
    }

    #[test]
    fn a_flood_leaves_room_for_others() {
        let admission = Admission::new(100, usize::MAX);
        let (flood, other) = (Arc::<Stats>::default(), Arc::<Stats>::default());
        let mut permits: Vec<Permit> = std::iter::from_fn(|| admission.room(&flood).admit().ok()).collect();
        assert_eq!(permits.len(), 80);
        assert_eq!(refused(&flood, Refusal::Share), 1);
        let others: Vec<Permit> = std::iter::from_fn(|| admission.room(&other).admit().ok()).collect();
        assert_eq!(others.len(), 16, "what is left at once; the rest as the flood ebbs");
        // As requests of the flood end, both ask for their places.
        for _ in 0..100 {
            permits.remove(0);
            permits.extend(admission.room(&flood).admit().ok());
            permits.extend(admission.room(&other).admit().ok());
        }
        let held = |of: &Stats| of.in_flight.requests.load(Relaxed);
        assert!(
            (43..=46).contains(&held(&flood)) && (43..=46).contains(&held(&other)),
            "{} {}",
            held(&flood),
            held(&other)
        );
    }

    #[test]
    fn bytes_of_one_model_leave_room_for_those_of_others() {
        let admission = Admission::new(100, 100 << 20);
        let (flood, other) = (Arc::<Stats>::default(), Arc::<Stats>::default());
        let held: Vec<Room> = std::iter::from_fn(|| room(&admission, &flood, 1 << 20).ok()).collect();
        assert_eq!(held.len(), 81);
        assert!(room(&admission, &other, 10 << 20).is_ok());
        // Large messages that still arrive and name no model are such a flood, too; small ones come through.
        let big: Vec<Room> = std::iter::from_fn(|| {
            let mut room = admission.room_for_unknown();
            room.grow(1 << 20).ok().map(|()| room)
        })
        .collect();
        assert_eq!(big.len(), 16);
        let mut small = admission.room_for_unknown();
        small.grow(SMALL_BYTES).unwrap();
        assert!(small.belongs_to(&flood).is_err());
        small.belongs_to(&other).unwrap();
        assert_eq!(other.in_flight.bytes.load(Relaxed), SMALL_BYTES);
        drop((small, big, held));
        assert_eq!(
            admission.bytes() + [&flood, &other].iter().map(|of| of.in_flight.bytes.load(Relaxed)).sum::<usize>(),
            0
        );
    }

    proptest! {
        #[test]
        fn nothing_leaks_and_no_bound_is_passed(steps in prop::collection::vec((0u8..5, 0usize..3, 0usize..60), 0..200)) {
            let admission = Admission::new(8, 100);
            let models: [Arc<Stats>; 3] = Default::default();
            let (mut rooms, mut permits) = (Vec::new(), Vec::new());
            for (step, model, bytes) in steps {
                match step {
                    0 => rooms.push(admission.room(&models[model])),
                    1 => drop(rooms.last_mut().map(|room: &mut Room| room.grow(bytes))),
                    2 => drop(rooms.last_mut().map(|room| room.belongs_to(&models[model]))),
                    3 => permits.extend(rooms.pop().and_then(|room| room.admit().ok())),
                    _ => drop(if bytes % 2 == 0 { rooms.pop() } else { permits.pop().map(|permit: Permit| permit.room.beside()) }),
                }
                prop_assert!(admission.requests() <= 8 && admission.bytes() <= 100);
                let sum = |of: fn(&Stats) -> &AtomicUsize| models.iter().map(|model| of(model).load(Relaxed)).sum::<usize>();
                prop_assert_eq!(sum(|stats| &stats.in_flight.requests), admission.requests());
                prop_assert_eq!(sum(|stats| &stats.in_flight.bytes), admission.bytes());
                prop_assert_eq!(admission.requests(), permits.len());
            }
            drop((rooms, permits));
            prop_assert_eq!((admission.requests(), admission.bytes()), (0, 0));
        }
    }

    #[test]
    fn what_belongs_to_a_model_already_is_not_judged_twice() {
        let (admission, stats) = (Admission::new(9, 100), Arc::default());
        let mut most = admission.room_for_unknown();
        most.grow(90).unwrap();
        most.belongs_to(&stats).unwrap();
        most.belongs_to(&stats).unwrap();
        assert_eq!(stats.in_flight.bytes.load(Relaxed), 90);
    }

    #[test]
    fn bounds_change_for_those_who_come_next() {
        let (admission, stats) = (Admission::new(2, 100), Arc::default());
        let held = [10, 10].map(|bytes| room(&admission, &stats, bytes).unwrap().admit().unwrap());
        admission.set_bounds(1, 100);
        drop(held);
        let held = room(&admission, &stats, 10).unwrap().admit().unwrap();
        assert_eq!(admission.room(&stats).admit().err().unwrap().kind(), ErrorKind::Overloaded);
        admission.set_bounds(2, 15);
        assert_eq!(room(&admission, &stats, 6).err().unwrap().kind(), ErrorKind::Overloaded);
        drop((held, room(&admission, &stats, 5).unwrap().admit().unwrap()));
        assert_eq!(admission.requests(), 0);
    }
}
