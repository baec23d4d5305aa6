//! How many of our things are alive?
//!
//! Whoever makes one puts a [`Live`] into it, and it is counted until it is dropped, on whatever way: nobody has to
//! remember to count down. A leak is then a number that does not come back, and not a matter of opinion about memory.

use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

use crate::shard::{SHARDS, shard};

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Versions made ready to answer, those that are retired and still in use included.
    Deployments,
    /// Sessions of engines that deployments hold.
    Sessions,
    /// Aligned buffers: what is gathered for an engine, or came out of one.
    Buffers,
    /// Rights to answer a request, or a part of one.
    Jobs,
    /// Requests that run in parts.
    Split,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Kind; 5] = [Kind::Deployments, Kind::Sessions, Kind::Buffers, Kind::Jobs, Kind::Split];

    /// The name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Deployments => "deployments",
            Kind::Sessions => "sessions",
            Kind::Buffers => "buffers",
            Kind::Jobs => "jobs",
            Kind::Split => "split_requests",
        }
    }

    /// How many are alive.
    pub fn count(self) -> u64 {
        // What one thread made and another dropped is in two shards: only the sum means anything.
        let sum: i64 = COUNTS[self as usize].iter().map(|shard| shard.0.load(Relaxed)).sum();
        u64::try_from(sum).unwrap_or(0)
    }

    fn add(self, change: i64) {
        COUNTS[self as usize][shard()].0.fetch_add(change, Relaxed);
    }
}

#[repr(align(128))]
struct Shard(AtomicI64);

static COUNTS: [[Shard; SHARDS]; Kind::ALL.len()] =
    [const { [const { Shard(AtomicI64::new(0)) }; SHARDS] }; Kind::ALL.len()];

/// A thing that counts as alive as long as this is.
#[derive(Debug)]
pub struct Live(Kind);

impl Live {
    /// One more.
    pub fn new(kind: Kind) -> Live {
        kind.add(1);
        Live(kind)
    }
}

impl Clone for Live {
    fn clone(&self) -> Live {
        Live::new(self.0)
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.0.add(-1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_elsewhere_counts_no_more() {
        // No other test of this crate makes such things.
        let of = || Kind::Split.count();
        assert_eq!(of(), 0);
        let things: Vec<Live> = (0..6).map(|_| Live::new(Kind::Split)).collect();
        assert_eq!(of(), 6);
        let copy = things[0].clone();
        let threads: Vec<_> = things.into_iter().map(|thing| std::thread::spawn(move || drop(thing))).collect();
        threads.into_iter().for_each(|thread| thread.join().expect("it only drops"));
        assert_eq!(of(), 1);
        drop(copy);
        assert_eq!(of(), 0);
    }
}
