//! Do a version's files lie at rest, so that they may be read?
//!
//! They do when nothing of them has changed for the settle time by a clock that never jumps. Only where nobody has looked
//! before, at a start, do the files' own times tell, and then only those that no tool can set.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tiltyard_types::Moment;

use super::listing::Fingerprint;

/// The settle time is doubled this often at most, each time that files changed while they were read.
const DOUBLED_MAX: u32 = 5;

/// One moment on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// On the clock that never goes back.
    pub steady: Moment,
    /// On the clock that files are marked with, which may jump.
    pub wall: SystemTime,
}

/// How far the wall clock can be believed about how long ago something was.
#[derive(Clone, Debug, Default)]
pub struct WallClock {
    /// By how much the wall clock was ahead of the steady one when it was least ahead.
    least_ahead: Option<Duration>,
}

impl WallClock {
    /// Which time it is at least, on the wall clock as it was when it was slowest: what was marked at any time since by a
    /// clock that has jumped does not look older by this than it is.
    pub fn at_least(&mut self, now: Now) -> SystemTime {
        let steady = Duration::from_nanos(now.steady.as_nanos());
        let ahead = now.wall.duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(steady);
        let least = self.least_ahead.map_or(ahead, |least| least.min(ahead));
        self.least_ahead = Some(least);
        UNIX_EPOCH + least + steady
    }
}

/// What was seen of one version's files so far.
#[derive(Clone, Debug, Default)]
pub struct Rest {
    seen: Option<Fingerprint>,
    /// Since when they have looked as they do.
    since: Moment,
    /// Whether they have looked like that for long enough.
    is_long: bool,
    /// How often they changed while they were read, one time after the other.
    disturbed: u32,
    /// What changed last, in words.
    change: String,
}

impl Rest {
    /// Takes in a look at the files. They may be read where this gives `None`; else they are to be looked at again after
    /// that time.
    ///
    /// `at_least` is the time on the wall clock as far as that is to be believed, given where nobody could have looked
    /// before, so that files which have not been touched for long need not wait.
    pub fn look(
        &mut self,
        found: &Fingerprint,
        steady: Moment,
        at_least: Option<SystemTime>,
        settle_time: Duration,
    ) -> Option<Duration> {
        let settle_time = settle_time * 2u32.pow(self.disturbed.min(DOUBLED_MAX));
        let is_first = self.seen.is_none();
        if self.seen.as_ref() != Some(found) {
            self.change = self.seen.as_ref().and_then(|seen| seen.difference(found)).unwrap_or_default();
            self.seen = Some(found.clone());
            self.since = steady;
            // A time in the future is no time long ago.
            let age = found.newest().zip(at_least).and_then(|(newest, now)| now.duration_since(newest).ok());
            self.is_long = is_first && age.is_some_and(|age| age >= settle_time);
        }
        let waited = steady - self.since;
        self.is_long |= waited >= settle_time;
        (!self.is_long).then(|| settle_time - waited)
    }

    /// What changed last, in words; empty where nothing has.
    pub fn last_change(&self) -> &str {
        &self.change
    }

    /// The files changed while they were read: they must rest anew, each time for twice as long as the time before.
    pub fn disturb(&mut self, steady: Moment) {
        self.disturbed += 1;
        self.since = steady;
        self.is_long = false;
    }

    /// The files were read while they lay still.
    pub fn note_read(&mut self) {
        self.disturbed = 0;
    }
}

#[cfg(test)]
mod tests;
