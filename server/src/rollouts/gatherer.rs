//! What do the ends of requests come to as evidence?
//!
//! A state machine without threads or clock: ends go in, blocks come out. Errors are counted by request, or by key where
//! requests stick to arms, and beside that by cause. How long runs take is counted by run, and only among runs of as many rows
//! after as long a rest: a small arm runs smaller, colder batches, which is not its fault. What is slow is counted twice, since
//! one disturbance slows many: each, and as causes those that lie apart.

mod slow;
mod spaced;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use tiltyard_rollout::evidence::{Block, Events, FIRSTS_MAX, Group, Share};
use tiltyard_rollout::plan::{KeySource, OUTPUT, Plan, SLOW_OVER};
use tiltyard_rollout::streak::Streak;
use tiltyard_rollout::units::{Keys, Unit};
use tiltyard_types::Moment;

use super::observer::{End, Ended, Side};
use super::output::Bins;
use slow::{Run, Slow};
use spaced::Spaced;

/// The name of what fails in evidence.
pub const ERRORS: &str = "errors";

/// Keys that are remembered for one rollout: beyond, a sample of them.
const KEYS_MAX: usize = 1 << 20;

/// Runs of one arm that are remembered, the latest.
const RUNS_MAX: usize = 1 << 12;

/// Processes whose requests are told apart: of more, the one that was heard first is forgotten.
pub(super) const SOURCES_MAX: usize = 64;

/// A process whose requests were seen. Keys are the same in all of them; what rests, fails or is slow in one says nothing of another.
pub type Source = u32;

/// This process, where it is the only one.
pub const OWN: Source = 0;

/// The evidence of one rollout.
#[derive(Debug)]
pub struct Gatherer {
    is_keyed: bool,
    /// Whether somebody declared from when on an answer is slow.
    has_slow: bool,
    /// Where the output falls that is watched, if one is.
    bins: Option<Bins>,
    keys: Keys,
    places: BTreeMap<Source, Place>,
    slow: Slow,
    open: BTreeMap<Share, Stretch>,
}

/// What is known of one process.
#[derive(Debug, Default)]
struct Place {
    sides: [Arm; 2],
    streak: Streak,
    spaced: Spaced,
}

/// What is known of one arm.
#[derive(Debug, Default)]
struct Arm {
    runs: BTreeSet<u64>,
    /// When its latest run ended.
    rested: Option<Moment>,
    /// Whether the last that was heard of it is that a request was not answered.
    is_silent: bool,
}

/// What was counted under one share since the last block.
#[derive(Debug, Default)]
struct Stretch {
    units: [u64; 2],
    failed: Counted,
    over: Counted,
}

/// Events of one kind.
#[derive(Debug, Default)]
struct Counted {
    requests: [u64; 2],
    /// Keys whose first it may be, where requests stick to arms.
    keys: [BTreeSet<u64>; 2],
    /// While the champion's latest went well, and while it failed: in an outage both arms have as many, whatever their shares.
    causes: [Group; 2],
}

impl Counted {
    /// Takes in an event of an arm's request: by its key where those count, unless that one is none of the sample.
    fn add(&mut self, at: usize, is_keyed: bool, key: Option<u64>) {
        let is_full = self.keys.iter().map(BTreeSet::len).sum::<usize>() >= FIRSTS_MAX;
        match key.filter(|_| !is_full) {
            _ if !is_keyed => self.requests[at] += 1,
            Some(key) => drop(self.keys[at].insert(key)),
            None => {}
        }
    }

    fn add_cause(&mut self, at: usize, is_event: bool, is_outage: bool) {
        let causes = &mut self.causes[usize::from(is_outage)];
        causes.of[at] += 1;
        causes.events[at] += u64::from(is_event);
    }

    /// Puts what was counted of so many units into a block.
    fn close(self, metric: &str, is_keyed: bool, block: &mut Block) {
        let of = block.units;
        let events = match is_keyed {
            true => Events::Firsts { of, keys: self.keys.map(|keys| keys.into_iter().collect()) },
            false => Events::Every { of, events: self.requests },
        };
        block.events.insert(metric.into(), events);
        let mut causes: Vec<Group> = self.causes.into_iter().filter(|group| group.of != [0; 2]).collect();
        causes.sort_unstable();
        block.causes.insert(metric.into(), causes);
    }
}

impl Gatherer {
    /// Counts by key where requests stick to arms, or else by request.
    pub fn new(is_keyed: bool) -> Gatherer {
        let (keys, slow, open) = (Keys::new(KEYS_MAX), Slow::default(), BTreeMap::new());
        Gatherer { is_keyed, has_slow: false, bins: None, keys, places: BTreeMap::new(), slow, open }
    }

    /// Counts what a plan's policy asks for.
    pub fn of(plan: &Plan) -> Gatherer {
        let (has_slow, bins) =
            (plan.policy.slow_over_us.is_some(), plan.policy.output.as_ref().map(|_| Bins::default()));
        Gatherer { has_slow, bins, ..Gatherer::new(plan.key != KeySource::PerRequest) }
    }

    /// Takes in what one process saw under one share, in the order of time.
    pub fn add(&mut self, source: Source, share: Share, ends: &[End]) {
        let mut place = self.places.remove(&source).unwrap_or_default();
        for end in ends {
            self.count((source, &mut place), share, end);
        }
        self.places.insert(source, place);
        if self.places.len() > SOURCES_MAX
            && let Some((gone, _)) = self.places.pop_first()
        {
            self.slow.forget(gone);
        }
        self.slow.freeze();
        self.bins.iter_mut().for_each(Bins::freeze);
    }

    fn count(&mut self, (source, place): (Source, &mut Place), share: Share, end: &End) {
        let at = end.side as usize;
        let unit = match self.is_keyed {
            true => self.keys.count(end.key, end.side == Side::Challenger, share),
            false => Some(Unit { share, is_new: true }),
        };
        let Unit { share, is_new } = unit.unwrap_or(Unit { share, is_new: false });
        let stretch = self.open.entry(share).or_default();
        stretch.units[at] += u64::from(is_new);
        let has_failed = matches!(end.ended, Ended::Failed { .. } | Ended::NotANumber { .. } | Ended::Unanswered);
        // Nobody looks at it where no time was declared.
        let is_over = self.has_slow && end.is_over && end.ended != Ended::Blameless;
        let key = unit.map(|_| end.key);
        for (counted, is_event) in [(&mut stretch.failed, has_failed), (&mut stretch.over, is_over)] {
            if is_event {
                counted.add(at, self.is_keyed, key);
            }
        }
        let Place { sides, streak, spaced } = place;
        let arm = &mut sides[at];
        let is_cause = match end.ended {
            Ended::Answered { run, .. } | Ended::NotANumber { run } | Ended::Failed { run } => arm.is_first(run),
            // All of a silence has one cause.
            Ended::Unanswered => !arm.is_silent,
            Ended::Blameless => return,
        };
        if is_cause {
            let is_outage = streak.is_champion_failing();
            stretch.failed.add_cause(at, has_failed, is_outage);
            // Of a run, the first that is heard: among many there is sooner one that waited.
            if self.has_slow && spaced.is_apart(end.side, end.at) {
                stretch.over.add_cause(at, is_over, is_outage);
            }
        }
        arm.is_silent = end.ended == Ended::Unanswered;
        match end.side {
            Side::Challenger if !has_failed || is_cause || arm.is_silent => streak.challenger(has_failed),
            Side::Champion if is_cause || arm.is_silent => streak.champion(has_failed),
            Side::Challenger | Side::Champion => {}
        }
        let Ended::Answered { rows, nanos, .. } = end.ended else { return };
        if let Some(bins) = self.bins.as_mut().filter(|_| is_new) {
            bins.count(share, end.side, end.says);
        }
        if is_cause {
            let begun = Moment::from_nanos(end.at.as_nanos().saturating_sub(nanos));
            let rest = arm.rested.map(|rested| begun - rested);
            arm.rested = arm.rested.max(Some(end.at));
            // A key is one unit, however often it comes.
            if is_new {
                self.slow.count(share, Run { source, side: end.side, at: end.at, rows, rest, nanos });
            }
        }
    }

    /// Failures of the challenger one after the other, each cause once, and whether the champion answers well meanwhile: of the
    /// process that has most of them.
    pub fn failures(&self) -> (u32, bool) {
        let worst = self.places.values().map(|place| place.streak).max_by_key(Streak::failures).unwrap_or_default();
        (worst.failures(), worst.is_champion_healthy())
    }

    /// How many of the challenger's requests failed since the last block, or took too long where that is watched, at least.
    pub fn harm(&self) -> u64 {
        let counted = self.open.values().flat_map(|stretch| [&stretch.failed, &stretch.over]);
        counted.map(|counted| counted.requests[1] + counted.keys[1].len() as u64).sum()
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
        let (mut slow, mut bins) = (self.slow.take(), self.bins.as_mut().map(Bins::take).unwrap_or_default());
        let blocks = open.into_iter().zip(first..).map(|((share, stretch), sequence)| {
            let mut block = Block::new(sequence, time_ms, share);
            block.units = stretch.units;
            stretch.failed.close(ERRORS, self.is_keyed, &mut block);
            if self.has_slow {
                stretch.over.close(SLOW_OVER, self.is_keyed, &mut block);
            }
            for (metric, [runs, causes]) in slow.remove(&share).unwrap_or_default() {
                block.events.insert(metric.clone(), Events::Runs(runs));
                block.causes.insert(metric, causes);
            }
            block.bins.extend(bins.remove(&share).map(|bins| (OUTPUT.to_owned(), bins)));
            block
        });
        blocks.collect()
    }

    /// Where the bins of the watched output are; null where none stand.
    pub fn bins_form(&self) -> Value {
        self.bins.as_ref().map_or(Value::Null, Bins::form)
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
