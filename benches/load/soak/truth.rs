//! Which version may have given an answer?
//!
//! Every change of the model has a stamp of its own, counting up. What one answer has shown, no request that is sent
//! later may fall behind; what was never placed, or was placed to be refused, nobody may ever see.

use std::collections::BTreeMap;
use std::time::Instant;

/// A change as it was placed in the repository.
#[derive(Clone, Copy, Debug)]
struct Placed {
    version: u64,
    /// Whether it may be published: a version that fails its golden example may not.
    good: bool,
    /// When an answer first showed it.
    seen: Option<Instant>,
}

/// A request on its way: what its answer is held against.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    /// The oldest stamp it may show.
    pub(super) floor: u32,
    /// The version it names.
    pub(super) pin: Option<u64>,
}

/// Whose answer it was, as the answer tells.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Shown {
    /// The factor between what was sent and what came.
    pub(super) stamp: u32,
    /// The version that the answer names.
    pub(super) version: u64,
}

/// Everything that was placed, and everything that answers have shown.
#[derive(Debug, Default)]
pub(super) struct Truth {
    /// By stamp; the first has stamp 1.
    placed: Vec<Placed>,
    /// The newest stamp that an answer has shown, of all and by version.
    newest: u32,
    newest_of: BTreeMap<u64, u32>,
    /// The version that pinned requests name now.
    pin: u64,
    /// Requests without an answer, by the version they name.
    pinned: BTreeMap<u64, usize>,
}

impl Truth {
    /// Notes a change before its first byte is written, and gives its stamp.
    pub(super) fn place(&mut self, version: u64, good: bool) -> u32 {
        self.placed.push(Placed { version, good, seen: None });
        self.placed.len() as u32
    }

    /// From now on pinned requests name this version. Those sent before are still on their way: see
    /// [`Truth::pinned_to_others`].
    pub(super) fn pin(&mut self, version: u64) {
        self.pin = version;
    }

    /// Notes that a request is about to be sent: to the endpoint, or pinned to a version.
    pub(super) fn send(&mut self, pinned: bool) -> Sent {
        if !pinned {
            return Sent { floor: self.newest, pin: None };
        }
        *self.pinned.entry(self.pin).or_default() += 1;
        Sent { floor: self.newest_of.get(&self.pin).copied().unwrap_or(0), pin: Some(self.pin) }
    }

    /// Notes that a request has ended, well or not.
    pub(super) fn end(&mut self, sent: &Sent) {
        let Some(version) = sent.pin else { return };
        if let Some(count) = self.pinned.get_mut(&version) {
            *count -= 1;
            if *count == 0 {
                self.pinned.remove(&version);
            }
        }
    }

    /// Requests on their way that name another version than new ones do.
    pub(super) fn pinned_to_others(&self) -> usize {
        self.pinned.iter().filter(|(other, _)| **other != self.pin).map(|(_, count)| count).sum()
    }

    /// Holds an answer against what was placed and what was seen before its request was sent. Fails with what is wrong.
    pub(super) fn judge(&mut self, sent: &Sent, shown: Shown, now: Instant) -> Result<(), String> {
        let Shown { stamp, version } = shown;
        let newest = self.placed.len();
        let placed = (stamp as usize).checked_sub(1).and_then(|position| self.placed.get_mut(position));
        let Some(placed) = placed else { return Err(format!("stamp {stamp} was never placed: there are {newest}")) };
        if !placed.good {
            return Err(format!("stamp {stamp} must never answer: it fails its golden example"));
        }
        if placed.version != version {
            return Err(format!("stamp {stamp} was placed as version {}, the answer says {version}", placed.version));
        }
        if sent.pin.is_some_and(|pin| pin != version) {
            return Err(format!("version {:?} was asked for, {version} answered", sent.pin));
        }
        if stamp < sent.floor {
            let floor = sent.floor;
            return Err(format!("stamp {stamp} answered after {floor} had been seen, before the request was sent"));
        }
        placed.seen.get_or_insert(now);
        self.newest = self.newest.max(stamp);
        let of_version = self.newest_of.entry(version).or_default();
        *of_version = (*of_version).max(stamp);
        Ok(())
    }

    /// The newest stamp that an answer has shown.
    pub(super) fn newest(&self) -> u32 {
        self.newest
    }

    /// When an answer first showed this stamp or a later one.
    pub(super) fn seen(&self, stamp: u32) -> Option<Instant> {
        let from = (stamp as usize).saturating_sub(1);
        self.placed.get(from..)?.iter().filter_map(|placed| placed.seen).min()
    }

    /// Forgets what was seen of versions below this number: they are gone, and nobody asks for them any more.
    pub(super) fn forget_below(&mut self, version: u64) {
        self.newest_of = self.newest_of.split_off(&version);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn truth() -> Truth {
        let mut truth = Truth::default();
        assert_eq!((truth.place(1, true), truth.place(2, true), truth.place(3, false)), (1, 2, 3));
        truth
    }

    #[track_caller]
    fn check(truth: &mut Truth, pin: Option<u64>, stamp: u32, version: u64, wrong: Option<&str>) {
        pin.into_iter().for_each(|version| truth.pin(version));
        let sent = truth.send(pin.is_some());
        let judged = truth.judge(&sent, Shown { stamp, version }, Instant::now());
        truth.end(&sent);
        match wrong {
            None => assert_eq!(judged, Ok(())),
            Some(part) => assert!(judged.as_ref().is_err_and(|what| what.contains(part)), "{judged:?}"),
        }
    }

    #[test]
    fn nothing_falls_behind_what_was_seen() {
        let mut truth = truth();
        let early = truth.send(false);
        check(&mut truth, None, 1, 1, None);
        check(&mut truth, None, 2, 2, None);
        check(&mut truth, None, 1, 1, Some("after 2 had been seen"));
        // It was sent before anybody had seen 2.
        assert_eq!(truth.judge(&early, Shown { stamp: 1, version: 1 }, Instant::now()), Ok(()));
        assert_eq!(truth.newest(), 2);
    }

    #[test]
    fn what_cannot_be_is_told() {
        let mut truth = truth();
        check(&mut truth, None, 4, 4, Some("never placed"));
        check(&mut truth, None, 0, 1, Some("never placed"));
        check(&mut truth, None, 3, 3, Some("must never answer"));
        check(&mut truth, None, 2, 1, Some("placed as version 2"));
        check(&mut truth, Some(1), 2, 2, Some("was asked for"));
    }

    #[test]
    fn pinned_requests_are_held_against_their_version_alone() {
        let mut truth = truth();
        check(&mut truth, None, 2, 2, None);
        check(&mut truth, Some(1), 1, 1, None);
        // The same number with new bytes.
        assert_eq!(truth.place(1, true), 4);
        check(&mut truth, Some(1), 4, 1, None);
        check(&mut truth, Some(1), 1, 1, Some("after 4"));
        assert!(truth.seen(4).is_some() && truth.seen(3).is_some());
        assert!(truth.seen(5).is_none());
    }

    #[test]
    fn pins_are_counted_until_their_answers_came() {
        let mut truth = truth();
        truth.pin(1);
        let sent = truth.send(true);
        assert_eq!((sent.pin, truth.pinned_to_others()), (Some(1), 0));
        truth.pin(2);
        assert_eq!((truth.send(true).pin, truth.pinned_to_others()), (Some(2), 1));
        truth.end(&sent);
        assert_eq!(truth.pinned_to_others(), 0);
    }
}
