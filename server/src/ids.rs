//! How does a request get its name?

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};

use tiltyard_types::RequestId;

/// A new UUIDv7: the millisecond since 1970 that it was accepted in, then 74 random bits. Unique, not secret: the random bits come
/// from a generator per thread that the system seeded once.
pub(crate) fn request_id(unix_ms: u64) -> RequestId {
    let mut random = [0; 10];
    random[..8].copy_from_slice(&next().to_le_bytes());
    random[8..].copy_from_slice(&next().to_le_bytes()[..2]);
    RequestId::new(uuid::Builder::from_unix_timestamp_millis(unix_ms, &random).into_uuid())
}

/// SplitMix64, by Steele, Lea and Flood, over a seed from the system.
fn next() -> u64 {
    thread_local! {
        static STATE: Cell<u64> = Cell::new(RandomState::new().hash_one(0));
    }
    STATE.with(|state| {
        state.set(state.get().wrapping_add(0x9e37_79b9_7f4a_7c15));
        let mut mixed = state.get();
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn ids_differ_and_are_version_7() {
        let ids: HashSet<String> = (0..10_000).map(|_| request_id(1).to_string()).collect();
        assert_eq!(ids.len(), 10_000);
        assert!(ids.iter().all(|id| id.as_bytes()[14] == b'7'));
    }
}
