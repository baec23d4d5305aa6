//! Which records survive the process, and what became of every one that was offered?
//!
//! One preallocated file of one page that says what it is, a page of control words for each shard, and the shards' areas.
//! A producer takes the lock of a shard that nobody holds, copies its record and commits it with one word: there is no call
//! into the system, no page to be fetched (the keeper has them ready) and no wait. With as many shards as there are
//! threads that answer, there is always a free one. What is committed survives a kill at any instant, since it stands in the page
//! cache; a loss of power takes at most what came after the last sync.
//!
//! The counters stand in the same file: `served = captured + dropped`, whatever happens. Who is killed between offering a
//! record and committing it had not answered yet: the next to open the ring counts it as [`Reason::Interrupted`].

mod map;
mod shard;

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError as Busy};
use std::thread::Thread;

use map::Map;
use shard::{CONTROL_BYTES, Shard};
pub(crate) use shard::{Mark, Place};
use uuid::Uuid;

use crate::{Error, Result};

const MAGIC: &[u8; 8] = b"tiltring";
const FORM: u32 = 1;

/// Bytes ahead of a shard's newest record whose pages are kept ready: a tenth of a second or more at 50,000 small requests in
/// one, for a keeper that gives way to those who answer.
const READY_BYTES: u64 = 8 << 20;

/// Why an answer is not in any segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The ring had no room: segments are not written fast enough, or not at all, such as with a full disk.
    Full,
    /// Its record is larger than one may be.
    TooLarge,
    /// The endpoint's rules did not draw it.
    NotSampled,
    /// Every shard was being written to by somebody else.
    Busy,
    /// The process ended before it was answered.
    Interrupted,
    /// It was captured, and its bytes were damaged before they came into a segment, by a loss of power or the disk; or Parquet
    /// cannot hold it.
    Lost,
    /// The version that answered cannot follow the endpoint's rules.
    Unfit,
}

impl Reason {
    /// All of them, in the order of their counters in the file.
    pub const ALL: [Reason; 7] = [
        Reason::Full,
        Reason::TooLarge,
        Reason::NotSampled,
        Reason::Busy,
        Reason::Interrupted,
        Reason::Lost,
        Reason::Unfit,
    ];

    /// The name in metrics, such as `too_large`.
    pub const fn name(self) -> &'static str {
        match self {
            Reason::Full => "full",
            Reason::TooLarge => "too_large",
            Reason::NotSampled => "not_sampled",
            Reason::Busy => "busy",
            Reason::Interrupted => "interrupted",
            Reason::Lost => "lost",
            Reason::Unfit => "unfit",
        }
    }
}

/// What became of all that was offered since the ring was made. `served` is counted by itself: it is the sum of the others
/// wherever nobody is just offering something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Counters {
    /// Answers that were offered.
    pub served: u64,
    /// Those of them that are in a segment or will be.
    pub captured: u64,
    /// The others, in the order of [`Reason::ALL`].
    pub dropped: [u64; Reason::ALL.len()],
}

impl Counters {
    /// How many were dropped for `reason`.
    pub fn dropped(&self, reason: Reason) -> u64 {
        self.dropped[reason as usize]
    }
}

/// Where a captured record stands, for who wants to wait until it is on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    shard: usize,
    end: u64,
}

/// What a shard holds that is not drained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) shard: usize,
    pub(crate) from: Mark,
    pub(crate) to: Place,
}

#[derive(Debug)]
pub(crate) struct Ring {
    map: Map,
    _file: File,
    shards: Vec<Shard>,
    record_bytes_max: usize,
    sync: Mutex<Synced>,
    synced: Condvar,
    can_populate: AtomicBool,
    /// Tells this ring from others that stood at the same place.
    id: u64,
    /// Who has pages ready and syncs, to be woken by the producer that comes to a shard's `wake_at`.
    keeper: OnceLock<Thread>,
}

#[derive(Debug)]
struct Synced {
    /// The place in each shard up to which all is on the disk.
    ends: Vec<u64>,
    /// The place up to which a sync failed. The system may forget what it could not write, and a later sync of the same pages then
    /// succeeds: nobody who waits for these is told that they are safe.
    failed: Vec<u64>,
    is_running: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ring {
    /// Opens the ring at `path`, or makes one of `shards` areas with `area_bytes` each. One that is there keeps its own sizes.
    pub(crate) fn open(path: &Path, shards: usize, area_bytes: u64, record_bytes_max: usize) -> Result<Ring> {
        if !path.exists() {
            make(path, shards, area_bytes).map_err(|error| Error::io("make", path, error))?;
        }
        let fail = |error| Error::io("open", path, error);
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(fail)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::Held(path.to_owned())),
            Err(TryLockError::Error(error)) => return Err(fail(error)),
        }
        let map = Map::of(&file).map_err(fail)?;
        let Head { shards, area_bytes, id } = read_head(&map).ok_or_else(|| Error::NotARing(path.to_owned()))?;
        let area = |shard: usize| CONTROL_BYTES * (1 + shards) + area_bytes as usize * shard;
        let open = |shard| Shard::open(&map, CONTROL_BYTES * (1 + shard), area(shard), area_bytes);
        let shards: Vec<Shard> = (0..shards).map(open).collect();
        let ring = Ring {
            map,
            _file: file,
            record_bytes_max: record_bytes_max.min(area_bytes as usize / 4),
            // What is there may be in the page cache only: the first sync sees to it.
            sync: Mutex::new(Synced { ends: vec![0; shards.len()], failed: vec![0; shards.len()], is_running: false }),
            synced: Condvar::new(),
            can_populate: AtomicBool::new(true),
            id,
            keeper: OnceLock::new(),
            shards,
        };
        ring.settle();
        Ok(ring)
    }

    /// Counts those that nobody was answered as interrupted.
    fn settle(&self) {
        for shard in &self.shards {
            let ended = lock(&shard.state).tail.ordinal + self.dropped_of(shard).iter().sum::<u64>();
            let begun = shard.begun(&self.map);
            match begun.checked_sub(ended) {
                Some(interrupted) => shard.count_dropped(&self.map, Reason::Interrupted as usize, interrupted),
                // The page of counters is older than that of records, which a loss of power can bring about.
                None => shard.set_begun(&self.map, ended),
            }
        }
    }

    /// Counts by reason, without the lost.
    fn dropped_of(&self, shard: &Shard) -> [u64; Reason::ALL.len()] {
        std::array::from_fn(|reason| if reason == Reason::Lost as usize { 0 } else { shard.dropped(&self.map, reason) })
    }

    /// The shard that this thread tries first.
    fn mine(&self) -> usize {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static MINE: usize = NEXT.fetch_add(1, Relaxed);
        }
        MINE.try_with(|mine| *mine).unwrap_or(0) % self.shards.len()
    }

    /// Commits a record, or counts why not.
    pub(crate) fn offer(&self, payload: &[u8]) -> Result<Ticket, Reason> {
        let mine = self.mine();
        if payload.len() > self.record_bytes_max {
            return Err(self.drop_counted(Reason::TooLarge));
        }
        let mut reason = Reason::Busy;
        for index in (mine..self.shards.len()).chain(0..mine) {
            let shard = &self.shards[index];
            let mut state = match shard.state.try_lock() {
                Ok(state) => state,
                Err(Busy::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(Busy::WouldBlock) => continue,
            };
            if !shard.has_room(&state, payload.len()) {
                reason = Reason::Full;
                continue;
            }
            // Before the record: whoever is killed in between had begun, and no more.
            shard.count_begun(&self.map);
            let end = shard.append(&self.map, &mut state, payload);
            let is_awaited = end.position > state.wake_at;
            if is_awaited {
                state.wake_at = u64::MAX;
            }
            drop(state);
            if let Some(keeper) = self.keeper.get().filter(|_| is_awaited) {
                keeper.unpark();
            }
            return Ok(Ticket { shard: index, end: end.position });
        }
        Err(self.drop_counted(reason))
    }

    /// Counts an answer of which no record is made.
    pub(crate) fn drop_counted(&self, reason: Reason) -> Reason {
        let shard = &self.shards[self.mine()];
        shard.count_begun(&self.map);
        shard.count_dropped(&self.map, reason as usize, 1);
        reason
    }

    pub(crate) fn counters(&self) -> Counters {
        let mut all = Counters::default();
        for shard in &self.shards {
            let (ordinal, lost) = {
                let state = lock(&shard.state);
                (state.tail.ordinal, state.lost)
            };
            let mut dropped = self.dropped_of(shard);
            dropped[Reason::Lost as usize] = lost;
            all.served += shard.begun(&self.map);
            all.captured += ordinal - lost;
            all.dropped.iter_mut().zip(dropped).for_each(|(sum, count)| *sum += count);
        }
        all
    }

    /// What is committed and not drained, shard by shard.
    pub(crate) fn pending(&self) -> Vec<Span> {
        let span = |(index, shard): (usize, &Shard)| {
            let state = lock(&shard.state);
            Span { shard: index, from: state.mark, to: state.tail }
        };
        self.shards.iter().enumerate().map(span).collect()
    }

    /// Bytes of records that have room.
    pub(crate) fn bytes(&self) -> u64 {
        self.shards.iter().map(Shard::area_bytes).sum()
    }

    /// Bytes that are committed and not drained.
    pub(crate) fn pending_bytes(&self) -> u64 {
        self.pending().iter().map(|span| span.to.position - span.from.place.position).sum()
    }

    /// Reads the next whole record of a span behind `mark` into `payload`: its sequence, which is its ordinal times the number of
    /// shards plus its shard, and the mark behind it. `None` when
    /// there is no more; then [`Ring::end`] is where the span ends.
    pub(crate) fn read(&self, span: Span, mark: Mark, payload: &mut Vec<u8>) -> Option<(u64, Mark)> {
        let found = self.shards[span.shard].next(&self.map, mark.place, span.to.position, payload)?;
        let lost = mark.lost + (found.ordinal - mark.place.ordinal);
        let sequence = found.ordinal * self.shards.len() as u64 + span.shard as u64;
        Some((sequence, Mark { place: found.next, lost }))
    }

    /// The mark at a span's end, where no whole record is behind `mark`: what is left of it is lost.
    pub(crate) fn end(span: Span, mark: Mark) -> Mark {
        Mark { place: span.to, lost: mark.lost + span.to.ordinal.saturating_sub(mark.place.ordinal) }
    }

    /// Notes on the disk that all before these marks is in segments, and gives the space back. Marks are absolute: noting them
    /// twice is noting them once. Where `wipes`, zeros are on the disk in its place before that.
    pub(crate) fn advance(&self, marks: &[(usize, Mark)], wipes: bool) -> io::Result<()> {
        let marked = || marks.iter().filter_map(|(shard, mark)| Some((self.shards.get(*shard)?, *mark)));
        marked().for_each(|(shard, mark)| shard.write_mark(&self.map, mark));
        self.map.sync(0, CONTROL_BYTES * (1 + self.shards.len()))?;
        if wipes {
            for (shard, mark) in marked() {
                let from = lock(&shard.state).mark.place.position;
                self.wipe(shard, from, mark.place.position)?;
            }
        }
        marked().for_each(|(shard, mark)| shard.release(mark));
        Ok(())
    }

    /// Writes zeros over all that is drained, for a process that ended before it did so.
    pub(crate) fn wipe_drained(&self) -> io::Result<()> {
        for shard in &self.shards {
            let (mark, tail) = {
                let state = lock(&shard.state);
                (state.mark.place.position, state.tail.position)
            };
            self.wipe(shard, tail, mark + shard.area_bytes())?;
        }
        Ok(())
    }

    /// Nobody writes between these places meanwhile.
    fn wipe(&self, shard: &Shard, from: u64, to: u64) -> io::Result<()> {
        if to <= from {
            return Ok(());
        }
        for (at, length) in shard.ranges(from, to) {
            self.map.words()[at / 8..][..length / 8].iter().for_each(|word| word.store(0, Relaxed));
            self.map.sync(at, length)?;
        }
        Ok(())
    }

    /// Has all that is committed on the disk.
    pub(crate) fn sync(&self) -> io::Result<()> {
        let until: Vec<Ticket> = self
            .shards
            .iter()
            .enumerate()
            .map(|(shard, one)| Ticket { shard, end: lock(&one.state).tail.position })
            .collect();
        until.into_iter().map(|ticket| self.wait_durable(ticket)).fold(Ok(()), Result::and)
    }

    /// Returns when the record is on the disk. All that wait at the same time share one sync.
    pub(crate) fn wait_durable(&self, ticket: Ticket) -> io::Result<()> {
        let mut state = lock(&self.sync);
        loop {
            if ticket.end > 0 && state.failed[ticket.shard] >= ticket.end {
                return Err(io::Error::other("the disk did not take the record"));
            }
            if state.ends[ticket.shard] >= ticket.end {
                return Ok(());
            }
            if state.is_running {
                state = self.synced.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            state.is_running = true;
            let from = state.ends.clone();
            drop(state);
            let ends: Vec<u64> = self.shards.iter().map(|shard| lock(&shard.state).tail.position).collect();
            let written = self.write_out(&from, &ends);
            state = lock(&self.sync);
            state.is_running = false;
            self.synced.notify_all();
            match written {
                Ok(()) => state.ends = ends,
                Err(error) => {
                    state.failed = ends;
                    return Err(error);
                }
            }
        }
    }

    /// Syncs what is committed between these places.
    fn write_out(&self, from: &[u64], ends: &[u64]) -> io::Result<()> {
        for ((shard, &from), &end) in self.shards.iter().zip(from).zip(ends) {
            let from = from.max(end.saturating_sub(shard.area_bytes()));
            for (at, length) in shard.ranges(from, end) {
                self.map.sync(at, length)?;
            }
            if end > from {
                self.map.sync(shard.control(), CONTROL_BYTES)?;
                // A page that was written out meets a fault at the next write, which is not to be a producer's.
                self.populate(shard.control(), CONTROL_BYTES);
                shard.ranges(end, end + 8).for_each(|(at, length)| self.populate_pages(at, length));
            }
        }
        Ok(())
    }

    /// Has the pages ready to which the next records go. The keeper is woken when half of them are used up.
    pub(crate) fn make_ready(&self) {
        for shard in &self.shards {
            let (tail, ready) = {
                let state = lock(&shard.state);
                (state.tail.position, state.ready)
            };
            let ahead = READY_BYTES.min(shard.area_bytes() / 2);
            let end = if ready < tail + ahead / 2 { tail + ahead } else { ready };
            if end > ready {
                shard.ranges(ready.max(tail), end).for_each(|(at, length)| self.populate_pages(at, length));
            }
            let mut state = lock(&shard.state);
            state.ready = end;
            state.wake_at = end - ahead / 2;
        }
    }

    /// Where all is on the disk, has the keeper woken by the next record, wherever it goes; else says false.
    pub(crate) fn wake_at_next(&self) -> bool {
        let ends = lock(&self.sync).ends.clone();
        let is_synced = |shard: &Shard, end: u64| lock(&shard.state).tail.position <= end;
        if !self.shards.iter().zip(&ends).all(|(shard, end)| is_synced(shard, *end)) {
            return false;
        }
        self.shards.iter().zip(ends).all(|(shard, end)| {
            let mut state = lock(&shard.state);
            state.wake_at = state.tail.position;
            state.tail.position <= end
        })
    }

    /// Says who keeps the ring: that thread, once.
    pub(crate) fn kept_by(&self, keeper: Thread) {
        drop(self.keeper.set(keeper));
    }

    /// What tells it from other rings.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    fn populate_pages(&self, at: usize, length: usize) {
        let from = at / CONTROL_BYTES * CONTROL_BYTES;
        self.populate(from, at + length - from);
    }

    fn populate(&self, at: usize, length: usize) {
        // Kernels before 5.14 cannot; producers then meet a fault for each page.
        if self.can_populate.load(Relaxed) && self.map.populate(at, length).is_err() {
            self.can_populate.store(false, Relaxed);
        }
    }
}

/// Makes the file under another name first, so that no half of one is ever found.
fn make(path: &Path, shards: usize, area_bytes: u64) -> io::Result<()> {
    let shards = shards.clamp(1, 1024);
    let area_bytes = area_bytes.max(1 << 16).next_multiple_of(CONTROL_BYTES as u64);
    let length = CONTROL_BYTES as u64 * (1 + shards as u64) + area_bytes * shards as u64;
    let making = path.with_extension("making");
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&making)?;
    // Blocks of its own, so that the disk cannot be full when a producer writes.
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, length)?;
    let map = Map::of(&file)?;
    let mut head = MAGIC.to_vec();
    head.extend_from_slice(&FORM.to_le_bytes());
    head.extend_from_slice(&(shards as u32).to_le_bytes());
    head.extend_from_slice(&area_bytes.to_le_bytes());
    head.extend_from_slice(&(Uuid::now_v7().as_u128() as u64).to_le_bytes());
    head.extend_from_slice(&crc32fast::hash(&head).to_le_bytes());
    map.write(0, &head);
    file.sync_all()?;
    std::fs::rename(&making, path)?;
    crate::disk::sync_folder_of(path)
}

/// What a ring says of itself.
struct Head {
    shards: usize,
    area_bytes: u64,
    id: u64,
}

/// What the file says, if it is a ring and as long as it says.
fn read_head(map: &Map) -> Option<Head> {
    let mut head = Vec::new();
    map.read(0, 36, &mut head);
    let (said, check) = head.split_at(32);
    if !said.starts_with(MAGIC) || check != crc32fast::hash(said).to_le_bytes() {
        return None;
    }
    let number = |at: usize| u32::from_le_bytes([said[at], said[at + 1], said[at + 2], said[at + 3]]);
    let long = |at: usize| u64::from(number(at)) | u64::from(number(at + 4)) << 32;
    let (form, shards) = (number(8), number(12) as usize);
    let (area_bytes, id) = (long(16), long(24));
    let length = (area_bytes as usize).checked_mul(shards)?.checked_add(CONTROL_BYTES * (1 + shards))?;
    let is_right = form == FORM && shards > 0 && area_bytes > 0 && area_bytes.is_multiple_of(CONTROL_BYTES as u64);
    (is_right && map.words().len() >= length / 8).then_some(Head { shards, area_bytes, id })
}

#[cfg(test)]
mod tests;
