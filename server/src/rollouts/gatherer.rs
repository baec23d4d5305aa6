//! What do the ends of requests come to as evidence?
//!
//! A state machine without threads or clock: ends go in, blocks come out. Errors are counted by request, or by key where
//! requests stick to arms, and beside that by cause. How long runs take is counted by run, and only among runs of as many rows
//! after as long a rest: a small arm runs smaller, colder batches, which is not its fault.

mod slow;

use std::collections::{BTreeMap, BTreeSet};

use tiltyard_rollout::evidence::{Block, Events, FIRSTS_MAX, Group, Share};
use tiltyard_rollout::units::{Keys, Unit};
use tiltyard_types::Moment;

use super::observer::{End, Ended, Side};
use slow::Slow;

/// The name of what fails in evidence.
pub const ERRORS: &str = "errors";

/// Keys that are remembered for one rollout: beyond, a sample of them.
const KEYS_MAX: usize = 1 << 20;

/// Runs of one arm that are remembered, the latest.
const RUNS_MAX: usize = 1 << 12;

/// The evidence of one rollout.
#[derive(Debug)]
pub struct Gatherer {
    is_keyed: bool,
    keys: Keys,
    sides: [Arm; 2],
    slow: Slow,
    open: BTreeMap<Share, Stretch>,
}

/// What is known of one arm.
#[derive(Debug, Default)]
struct Arm {
    runs: BTreeSet<u64>,
    /// When its latest run ended.
    rested: Option<Moment>,
    /// Whether the last that was heard of it is that a request was not answered.
    is_silent: bool,
    /// Causes of failure one after the other.
    failures: u32,
}

/// What was counted under one share since the last block.
#[derive(Debug, Default)]
struct Stretch {
    units: [u64; 2],
    failed: [u64; 2],
    failed_keys: [BTreeSet<u64>; 2],
    causes: Group,
}

impl Gatherer {
    /// Counts by key where requests stick to arms, or else by request.
    pub fn new(is_keyed: bool) -> Gatherer {
        let (keys, slow) = (Keys::new(KEYS_MAX), Slow::default());
        Gatherer { is_keyed, keys, sides: Default::default(), slow, open: BTreeMap::new() }
    }

    /// Takes in what was seen under one share, in the order of time.
    pub fn add(&mut self, share: Share, ends: &[End]) {
        for end in ends {
            self.count(share, end);
        }
        self.slow.freeze();
    }

    fn count(&mut self, share: Share, end: &End) {
        let at = end.side as usize;
        let unit = match self.is_keyed {
            true => self.keys.count(end.key, end.side == Side::Challenger, share),
            false => Some(Unit { share, is_new: true }),
        };
        let Unit { share, is_new } = unit.unwrap_or(Unit { share, is_new: false });
        let stretch = self.open.entry(share).or_default();
        stretch.units[at] += u64::from(is_new);
        let has_failed = matches!(end.ended, Ended::Failed { .. } | Ended::NotANumber { .. } | Ended::Unanswered);
        if has_failed && self.is_keyed {
            let is_full = stretch.failed_keys.iter().map(BTreeSet::len).sum::<usize>() >= FIRSTS_MAX;
            if unit.is_some() && !is_full {
                stretch.failed_keys[at].insert(end.key);
            }
        } else if has_failed {
            stretch.failed[at] += 1;
        }
        let arm = &mut self.sides[at];
        let is_cause = match end.ended {
            Ended::Answered { run, .. } | Ended::NotANumber { run } | Ended::Failed { run } => arm.is_first(run),
            // All of a silence has one cause.
            Ended::Unanswered => !arm.is_silent,
            Ended::Blameless => return,
        };
        if is_cause {
            stretch.causes.of[at] += 1;
            stretch.causes.events[at] += u64::from(has_failed);
        }
        arm.is_silent = end.ended == Ended::Unanswered;
        arm.failures = match has_failed {
            true => arm.failures.saturating_add(u32::from(is_cause || end.ended == Ended::Unanswered)),
            false => 0,
        };
        let Ended::Answered { rows, nanos, .. } = end.ended else { return };
        if is_cause {
            let begun = Moment::from_nanos(end.at.as_nanos().saturating_sub(nanos));
            let rest = arm.rested.map(|rested| begun - rested);
            arm.rested = arm.rested.max(Some(end.at));
            // A key is one unit, however often it comes.
            if is_new {
                self.slow.count(share, end.side, rows, rest, nanos);
            }
        }
    }

    /// Failures of the challenger one after the other, each cause once, and whether the champion answers well meanwhile.
    pub fn failures(&self) -> (u32, bool) {
        let [champion, challenger] = [Side::Champion, Side::Challenger].map(|side| self.sides[side as usize].failures);
        (challenger, champion == 0)
    }

    /// How many of the challenger's requests failed since the last block, at least.
    pub fn harm(&self) -> u64 {
        self.open.values().map(|stretch| stretch.failed[1] + stretch.failed_keys[1].len() as u64).sum()
    }

    /// Units by arm since the last block.
    pub fn units(&self) -> [u64; 2] {
        self.open.values().fold([0; 2], |[a, b], stretch| [a + stretch.units[0], b + stretch.units[1]])
    }

    /// What was gathered since the last time, a block for each share, the first of them with this number. There is one at
    /// least, so that time is told too.
    pub fn close(&mut self, first: u64, time_ms: u64, share_now: Share) -> Vec<Block> {
        let mut open = std::mem::take(&mut self.open);
        open.entry(share_now).or_default();
        let mut slow = self.slow.take();
        let blocks = open.into_iter().zip(first..).map(|((share, stretch), sequence)| {
            let mut block = Block::new(sequence, time_ms, share);
            let Stretch { units, failed, failed_keys, causes } = stretch;
            block.units = units;
            let errors = match self.is_keyed {
                true => Events::Firsts { of: units, keys: failed_keys.map(|keys| keys.into_iter().collect()) },
                false => Events::Every { of: units, events: failed },
            };
            block.events.insert(ERRORS.into(), errors);
            block.causes.insert(ERRORS.into(), vec![causes]);
            block.causes.extend(slow.remove(&share).unwrap_or_default());
            block
        });
        blocks.collect()
    }

    /// The share of the keys that count.
    pub fn sampling(&self) -> f64 {
        self.keys.sampling()
    }
}

impl Arm {
    fn is_first(&mut self, run: u64) -> bool {
        let is_first = self.runs.insert(run);
        if self.runs.len() > RUNS_MAX {
            self.runs.pop_first();
        }
        is_first
    }
}

#[cfg(test)]
mod tests;
