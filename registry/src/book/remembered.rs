//! Which orders were decided already, so that the same one twice is done once?

use std::collections::{BTreeMap, VecDeque};

use tiltyard_types::Digest;

use super::facts::{OrderKey, Principal};
use super::limits::KEYS_MAX;
use super::orders::{Outcome, Wants};
use super::refusal::Refusal;
use super::{forms, limits};

/// The last orders that had a key. A key is its caller's: two people may choose the same.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Remembered {
    by_key: BTreeMap<(String, String), (Digest, Outcome)>,
    oldest: VecDeque<(String, String)>,
}

/// The digest of what is ordered, without the ids that are made anew each time.
pub(crate) fn digest(wants: &Wants) -> Digest {
    forms::digest_of(wants)
}

impl Remembered {
    /// What the same order came to; nothing where it is new. Fails where the key was another order's.
    pub(crate) fn find(&self, key: &str, by: &Principal, order: Digest) -> Result<Option<&Outcome>, Refusal> {
        limits::name("key", key)?;
        let Some((before, outcome)) = self.by_key.get(&(by.name.clone(), key.to_owned())) else { return Ok(None) };
        if *before == order {
            return Ok(Some(outcome));
        }
        let message = format!("the key {key:?} was that of another order: expected the same order again, or a new key");
        Err(Refusal::invalid("key", message))
    }

    /// Takes in what an order came to.
    pub(crate) fn note(&mut self, by: &Principal, order: &OrderKey, outcome: Outcome) {
        let key = (by.name.clone(), order.key.clone());
        if self.by_key.insert(key.clone(), (order.order, outcome)).is_none() {
            self.oldest.push_back(key);
        }
        if self.oldest.len() > KEYS_MAX {
            self.oldest.pop_front().map(|oldest| self.by_key.remove(&oldest));
        }
    }
}
