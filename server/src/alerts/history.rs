//! What happened within the last hour, or five minutes, by counters that only count up?
//!
//! Of each length that a rule asks for, samples of all counters are kept, [`SLOTS`] and one more: what happened since is the difference to
//! the one that is old enough. So a window is at most one slot longer than it says. No clock: moments are handed in.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tiltyard_runtime::stats::Histogram;
use tiltyard_types::Moment;

/// Samples of a window.
pub const SLOTS: u32 = 24;

/// Ways that are watched, at about a kilobyte for each sample; those beyond are not.
pub const WAYS_MAX: usize = 256;

/// Whose counters.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Whose {
    /// The name that clients call.
    pub endpoint: String,
    /// Its part there.
    pub arm: String,
    /// The model.
    pub model: String,
    /// Its version.
    pub version: String,
}

/// What was counted of one way.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    /// Requests that were answered, well or not, mistakes of clients left out.
    pub requests: u64,
    /// Those that failed by the server's fault.
    pub failed: u64,
    /// Rows that were answered.
    pub rows: u64,
    /// Processors' time.
    pub cpu_nanos: u64,
    /// Devices' time.
    pub device_nanos: u64,
    /// From accepting a request to its answer.
    pub total: Histogram,
    /// Units whose outcome counts.
    pub units: u64,
    /// The sum of their outcomes.
    pub outcomes: f64,
}

impl Figures {
    fn since(&self, before: &Figures) -> Figures {
        Figures {
            requests: self.requests.saturating_sub(before.requests),
            failed: self.failed.saturating_sub(before.failed),
            rows: self.rows.saturating_sub(before.rows),
            cpu_nanos: self.cpu_nanos.saturating_sub(before.cpu_nanos),
            device_nanos: self.device_nanos.saturating_sub(before.device_nanos),
            total: self.total.since(&before.total),
            units: self.units.saturating_sub(before.units),
            outcomes: self.outcomes - before.outcomes,
        }
    }
}

/// All counters at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample {
    /// By way.
    pub ways: BTreeMap<Whose, Figures>,
    /// Requests that reached an arm while they are captured, and those of them that were dropped against everybody's wish.
    pub capture: [u64; 2],
}

/// Samples that are as old as a window is long.
#[derive(Debug)]
struct Ring {
    length: Duration,
    samples: VecDeque<(Moment, Arc<Sample>)>,
}

/// What was counted when.
#[derive(Debug, Default)]
pub struct History {
    rings: Vec<Ring>,
    now: Option<(Moment, Arc<Sample>)>,
}

impl History {
    /// For windows of these lengths.
    pub fn new(lengths: impl IntoIterator<Item = Duration>) -> History {
        let mut lengths: Vec<Duration> = lengths.into_iter().collect();
        lengths.sort_unstable();
        lengths.dedup();
        let rings = lengths.into_iter().map(|length| Ring { length, samples: VecDeque::new() });
        History { rings: rings.collect(), now: None }
    }

    /// Takes in what the counters say now.
    pub fn push(&mut self, now: Moment, sample: Sample) {
        let sample = Arc::new(sample);
        for ring in &mut self.rings {
            let is_due = ring.samples.back().is_none_or(|(at, _)| now - *at >= ring.length / SLOTS);
            if is_due {
                ring.samples.push_back((now, Arc::clone(&sample)));
            }
            while ring.samples.get(1).is_some_and(|(at, _)| now - *at >= ring.length) {
                ring.samples.pop_front();
            }
        }
        self.now = Some((now, sample));
    }

    fn ring(&self, length: Duration) -> Option<&Ring> {
        self.rings.iter().find(|ring| ring.length == length)
    }

    fn base(&self, length: Duration) -> Option<&(Moment, Arc<Sample>)> {
        self.ring(length)?.samples.front()
    }

    /// For how long there are samples, of a window of this length at most.
    pub fn covered(&self, length: Duration) -> Duration {
        match (&self.now, self.base(length)) {
            (Some((now, _)), Some((at, _))) => *now - *at,
            _ => Duration::ZERO,
        }
    }

    /// Everybody who was counted.
    pub fn ways(&self) -> impl Iterator<Item = &Whose> {
        self.now.iter().flat_map(|(_, sample)| sample.ways.keys())
    }

    /// What happened within this time by one way, or since there are samples. Whoever was not there then began with nothing.
    pub fn since(&self, length: Duration, whose: &Whose) -> Option<Figures> {
        let (_, now) = self.now.as_ref()?;
        let (_, base) = self.base(length)?;
        let (now, before) = (now.ways.get(whose)?, base.ways.get(whose));
        Some(before.map_or_else(|| now.clone(), |before| now.since(before)))
    }

    /// Requests that were to be captured within this time, and those that were dropped.
    pub fn capture_since(&self, length: Duration) -> [u64; 2] {
        match (&self.now, self.base(length)) {
            (Some((_, now)), Some((_, base))) => [0, 1].map(|at| now.capture[at].saturating_sub(base.capture[at])),
            _ => [0, 0],
        }
    }

    /// What happened by some ways together in each slot of a window: how long it was, rows, requests, and devices' time.
    pub fn slots(&self, length: Duration, is_its: impl Fn(&Whose) -> bool) -> Vec<Slot> {
        let Some(ring) = self.ring(length) else { return Vec::new() };
        let pairs = ring.samples.iter().zip(ring.samples.iter().skip(1));
        let slots = pairs.map(|((from, before), (to, after))| {
            let mut slot = Slot { time: *to - *from, ..Slot::default() };
            for (whose, figures) in after.ways.iter().filter(|(whose, _)| is_its(whose)) {
                let more = before.ways.get(whose).map_or_else(|| figures.clone(), |before| figures.since(before));
                slot.rows += more.rows;
                slot.device += Duration::from_nanos(more.device_nanos);
            }
            slot
        });
        slots.collect()
    }
}

/// What happened in a part of a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slot {
    /// How long it was.
    pub time: Duration,
    /// Rows that were answered.
    pub rows: u64,
    /// Devices' time.
    pub device: Duration,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn at(seconds: u64) -> Moment {
        Moment::default() + Duration::from_secs(seconds)
    }

    fn sample(requests: u64) -> Sample {
        let figures = Figures { requests, ..Figures::default() };
        Sample { ways: BTreeMap::from([(Whose::default(), figures)]), capture: [requests, 0] }
    }

    proptest! {
        /// A request a second: a window holds as many as it is long, up to one slot more, and never more samples than it may.
        #[test]
        fn a_window_is_as_long_as_it_says(apart in 1..40u64, looks in 1..400u64) {
            let hour = 60 * MINUTE;
            let mut history = History::new([hour, 5 * MINUTE, hour]);
            prop_assert_eq!(history.rings.len(), 2);
            for look in 0..looks {
                history.push(at(look * apart), sample(look * apart));
            }
            let passed = (looks - 1) * apart;
            for length in [hour, 5 * MINUTE] {
                let requests = history.since(length, &Whose::default()).unwrap().requests;
                let most = length.as_secs() + length.as_secs() / u64::from(SLOTS) + 2 * apart;
                prop_assert!(requests >= passed.min(length.as_secs()) && requests <= passed.min(most), "{}", requests);
                prop_assert_eq!(history.covered(length), Duration::from_secs(requests));
                prop_assert_eq!(history.capture_since(length), [requests, 0]);
                prop_assert!(history.ring(length).unwrap().samples.len() <= SLOTS as usize + 2);
            }
        }
    }

    #[test]
    fn whoever_comes_later_began_with_nothing() {
        let mut history = History::new([MINUTE]);
        history.push(at(0), Sample::default());
        history.push(at(30), sample(7));
        assert_eq!(history.since(MINUTE, &Whose::default()).unwrap().requests, 7);
        assert_eq!(history.ways().count(), 1);
        assert_eq!(history.since(2 * MINUTE, &Whose::default()), None, "no rule asked for that");
    }
}
