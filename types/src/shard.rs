//! Which of several counters is this thread's?

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Counters for each figure that all threads count: as many threads do so without meeting on a cache line.
pub const SHARDS: usize = 4;

/// The shard of this thread, below [`SHARDS`]: threads are dealt out in turn.
pub fn shard() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static MINE: usize = NEXT.fetch_add(1, Relaxed) % SHARDS;
    }
    // A value that a thread's end drops may count when the thread's own are gone already.
    MINE.try_with(|mine| *mine).unwrap_or(0)
}
