//! Which keys count where there may be more than can be remembered?
//!
//! All of them up to a bound, and beyond it a sample, ever smaller. Whether a key is in it depends on the key alone, so that
//! what is held does not depend on the order in which keys came.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Keys, which are hashes, and what is known of each.
#[derive(Clone, Debug)]
pub(crate) struct Sample<T> {
    held: HashMap<u64, T, BuildHasherDefault<Hashed>>,
    keys_max: usize,
    /// Keys count whose lowest 4·`thinned` bits are zero: all of them, one in 16, one in 256 …
    thinned: u32,
}

impl<T> Sample<T> {
    /// Room for `keys_max` keys.
    pub(crate) fn new(keys_max: usize) -> Sample<T> {
        Sample { held: HashMap::default(), keys_max, thinned: 0 }
    }

    /// Whether it would count.
    pub(crate) fn takes(&self, key: u64) -> bool {
        key & self.mask() == 0
    }

    /// What is known of it.
    pub(crate) fn get(&self, key: u64) -> Option<&T> {
        self.held.get(&key)
    }

    /// Remembers a key that it takes. Whether it still takes it then.
    pub(crate) fn insert(&mut self, key: u64, known: T) -> bool {
        self.held.insert(key, known);
        while self.held.len() > self.keys_max && self.thinned < 15 {
            self.thinned += 1;
            let mask = self.mask();
            self.held.retain(|key, _| key & mask == 0);
        }
        self.takes(key)
    }

    /// The share of the keys that count.
    pub(crate) fn sampling(&self) -> f64 {
        1.0 / (self.mask() as f64 + 1.0)
    }

    /// How many are held.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.held.len()
    }

    fn mask(&self) -> u64 {
        (1 << (4 * self.thinned)) - 1
    }
}

#[cfg(test)]
impl<T: PartialEq> PartialEq for Sample<T> {
    fn eq(&self, other: &Sample<T>) -> bool {
        self.held == other.held && self.thinned == other.thinned
    }
}

/// Spreads keys over all bits, since the lowest of a sample's are zero.
#[derive(Clone, Copy, Debug, Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
