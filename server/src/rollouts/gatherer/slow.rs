//! Which runs were slow, held against the champion's of their kind?
//!
//! A kind is so many rows after so long a rest. The champion's first runs of a kind say where its cut points are, and from then
//! on they stand: no run is judged by a cut point that it had a part in. A run is slow where it is slower by more than anybody
//! minds: without that slack a model that takes eight microseconds instead of seven would be a harm.
//!
//! Something else that takes the processors for a moment slows a row of runs, which may all be one arm's. So runs are counted
//! twice: each, and as causes only those that lie so far apart that no such moment reaches from one to the next.

use std::collections::BTreeMap;
use std::time::Duration;

use tiltyard_rollout::evidence::{Group, Share};
use tiltyard_types::Moment;

use super::Source;
use super::spaced::Spaced;
use crate::rollouts::observer::Side;

/// Cut points by name: so much of the champion's runs takes no longer.
pub(super) const CUTS: [(&str, f64); 3] = [("slow_p50", 0.5), ("slow_p90", 0.9), ("slow_p99", 0.99)];

/// Runs of the champion that a kind's cut points are made of.
const SAMPLES: usize = 500;

/// A slow run takes longer than the cut point by more than this, and by more than a tenth of it.
const SLACK: Duration = Duration::from_micros(100);

/// Kinds that are told apart, of all processes together; runs of others do not count. Each may be a group of a block.
const KINDS_MAX: usize = 2048;

/// Rests are told apart by doublings from here on: a small arm rests for longer also among runs that rested about as long.
const REST_MIN: Duration = Duration::from_micros(128);

/// Doublings of it that are told apart, up to some 8 s.
const RESTS: u32 = 16;

/// Rows up to this are told apart one by one.
const ROWS_EXACT: u32 = 16;

/// (process, rows, rest), the latter in classes: one machine is slower than another, which is nobody's fault.
type Kind = (Source, u32, u32);

/// What was counted by share and name: of all runs, and of those that lie apart.
pub(super) type Counted = BTreeMap<Share, BTreeMap<String, [Vec<Group>; 2]>>;

/// All kinds.
#[derive(Debug, Default)]
pub(super) struct Slow {
    kinds: BTreeMap<Kind, Runs>,
    spaced: BTreeMap<Source, Spaced>,
}

/// The runs of one kind.
#[derive(Debug, Default)]
struct Runs {
    /// The champion's first ones, until they are enough.
    samples: Vec<u64>,
    /// In nanoseconds, the slack included.
    cuts: Option<[u64; CUTS.len()]>,
    open: BTreeMap<Share, [Groups; CUTS.len()]>,
}

/// Of all runs, and of those that lie apart.
type Groups = [Group; 2];

/// A run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    /// Where.
    pub(super) source: Source,
    /// Whose.
    pub(super) side: Side,
    /// When it ended.
    pub(super) at: Moment,
    /// Of how many rows.
    pub(super) rows: u32,
    /// How long nothing of its arm had run before it; not known of the first.
    pub(super) rest: Option<Duration>,
    /// How long it took.
    pub(super) nanos: u64,
}

impl Slow {
    /// Takes in a run.
    pub(super) fn count(&mut self, share: Share, run: Run) {
        let Run { source, side, at, rows, rest: Some(rest), nanos } = run else { return };
        let kind = (source, rows_class(rows), rest_class(rest));
        if self.kinds.len() >= KINDS_MAX && !self.kinds.contains_key(&kind) {
            return;
        }
        let runs = self.kinds.entry(kind).or_default();
        match &runs.cuts {
            Some(cuts) => {
                let counts = if self.spaced.entry(source).or_default().is_apart(side, at) { 2 } else { 1 };
                for (groups, cut) in runs.open.entry(share).or_default().iter_mut().zip(cuts) {
                    for group in &mut groups[..counts] {
                        group.of[side as usize] += 1;
                        group.events[side as usize] += u64::from(nanos > *cut);
                    }
                }
            }
            None if side == Side::Champion => runs.samples.push(nanos),
            None => {}
        }
    }

    /// Nothing is heard any more of a process.
    pub(super) fn forget(&mut self, source: Source) {
        self.kinds.retain(|(held, ..), _| *held != source);
        self.spaced.remove(&source);
    }

    /// From here on, cut points stand where there are runs enough for them.
    pub(super) fn freeze(&mut self) {
        for runs in self.kinds.values_mut().filter(|runs| runs.samples.len() >= SAMPLES) {
            let mut samples = std::mem::take(&mut runs.samples);
            samples.sort_unstable();
            let last = samples.len() - 1;
            runs.cuts = Some(CUTS.map(|(_, part)| {
                let cut = Duration::from_nanos(samples[((part * samples.len() as f64) as usize).min(last)]);
                let slow = cut + SLACK.max(cut / 10);
                u64::try_from(slow.as_nanos()).unwrap_or(u64::MAX)
            }));
        }
    }

    /// What was counted since the last time.
    pub(super) fn take(&mut self) -> Counted {
        let mut taken = Counted::new();
        for runs in self.kinds.values_mut() {
            for (share, by_cut) in std::mem::take(&mut runs.open) {
                let by_name = taken.entry(share).or_default();
                for ((name, _), groups) in CUTS.iter().zip(by_cut) {
                    let held = by_name.entry((*name).to_owned()).or_default();
                    held.iter_mut().zip(groups).for_each(|(held, group)| held.push(group));
                }
            }
        }
        for groups in taken.values_mut().flat_map(BTreeMap::values_mut).flatten() {
            *groups = packed(groups);
        }
        taken
    }
}

/// Groups without an event tell only how many runs there were: together as much as apart.
fn packed(groups: &[Group]) -> Vec<Group> {
    let (mut packed, quiet): (Vec<Group>, Vec<Group>) = groups.iter().partition(|group| group.events != [0; 2]);
    let of = |arm: usize| quiet.iter().map(|group| group.of[arm]).sum::<u64>();
    if !quiet.is_empty() {
        packed.push(Group { of: [of(0), of(1)], events: [0; 2] });
    }
    packed.sort_unstable();
    packed
}

/// None for hardly any, then one to each doubling.
fn rest_class(rest: Duration) -> u32 {
    let times = rest.as_nanos() / REST_MIN.as_nanos();
    times.checked_ilog2().map_or(0, |doublings| doublings + 1).min(RESTS)
}

/// One by one at first, then four classes to each doubling.
fn rows_class(rows: u32) -> u32 {
    if rows <= ROWS_EXACT {
        return rows;
    }
    let doublings = rows.ilog2();
    let quarter = (rows >> (doublings - 2)) & 3;
    ROWS_EXACT + 4 * (doublings - 4) + quarter + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALF: Share = Share { champion: 500_000, challenger: 500_000 };
    const WARM: Option<Duration> = Some(Duration::from_micros(5));

    #[test]
    fn more_rows_are_never_a_lower_class() {
        let classes: Vec<u32> = (1..5_000).map(rows_class).collect();
        assert!(classes.is_sorted());
        assert_eq!([1, 16, 17, 19, 20, 32, 40, 64].map(rows_class), [1, 16, 17, 17, 18, 21, 22, 25]);
        assert!(rows_class(u32::MAX) < 200);
    }

    #[test]
    fn rests_are_told_apart_by_doublings() {
        let class = |micros| rest_class(Duration::from_micros(micros));
        assert_eq!([0, 127, 128, 255, 256, 1_000, 4_200_000, 60_000_000].map(class), [0, 0, 1, 1, 2, 3, 16, 16]);
    }

    /// So many milliseconds after the start.
    fn at(millis: u64) -> Moment {
        Moment::from_nanos(millis * MS)
    }

    const MS: u64 = 1_000_000;

    fn run(side: Side, millis: u64, nanos: u64) -> Run {
        Run { source: 0, side, at: at(millis), rows: 1, rest: WARM, nanos }
    }

    #[test]
    fn runs_are_held_against_those_of_their_kind_and_never_against_themselves() {
        let mut slow = Slow::default();
        for millis in 1..=SAMPLES as u64 {
            slow.count(HALF, run(Side::Champion, millis, millis * MS));
            slow.count(HALF, run(Side::Challenger, millis, 10_000 * MS));
        }
        assert!(slow.take().is_empty(), "there were no cut points");
        slow.freeze();
        // The cut points are 251, 451 and 496, and a tenth of each is the slack.
        for (place, millis) in [276, 277, 497, 546].into_iter().enumerate() {
            slow.count(HALF, run(Side::Challenger, 1_000 + place as u64 * 100, millis * MS));
        }
        // Others: more rows, after a rest, the very first.
        let late = run(Side::Challenger, 2_000, 10_000 * MS);
        slow.count(HALF, Run { rows: 2, ..late });
        slow.count(HALF, Run { rest: Some(Duration::from_secs(1)), ..late });
        slow.count(HALF, Run { rest: None, ..late });
        slow.count(HALF, run(Side::Champion, 2_000, 1));
        let taken = slow.take().remove(&HALF).unwrap();
        let groups = |events| [(); 2].map(|()| vec![Group { of: [1, 4], events: [0, events] }]);
        let expected = [("slow_p50", groups(3)), ("slow_p90", groups(2)), ("slow_p99", groups(1))];
        assert_eq!(taken, expected.map(|(name, groups)| (name.to_owned(), groups)).into());
        assert!(slow.take().is_empty(), "each is told once");
    }

    #[test]
    fn a_row_of_slow_runs_has_one_cause() {
        let mut slow = Slow::default();
        (0..SAMPLES as u64).for_each(|at| slow.count(HALF, run(Side::Champion, at, MS)));
        slow.freeze();
        // Something takes the processors for 90 ms, and all that runs meanwhile is the challenger's.
        (0..90).for_each(|at| slow.count(HALF, run(Side::Challenger, 1_000 + at, 9 * MS)));
        (90..190).for_each(|at| slow.count(HALF, run(Side::Challenger, 1_000 + at, MS)));
        let [runs, causes] = slow.take().remove(&HALF).unwrap().remove("slow_p90").unwrap();
        assert_eq!(runs, [Group { of: [0, 190], events: [0, 90] }]);
        assert_eq!(causes, [Group { of: [0, 2], events: [0, 1] }]);
    }

    #[test]
    fn microseconds_are_nobodys_harm() {
        let mut slow = Slow::default();
        (0..SAMPLES).for_each(|_| slow.count(HALF, run(Side::Champion, 0, 7_000)));
        slow.freeze();
        for micros in [8, 100, 106, 108] {
            slow.count(HALF, run(Side::Challenger, micros * 1_000, micros * 1_000));
        }
        let taken = slow.take().remove(&HALF).unwrap();
        let group = Group { of: [0, 4], events: [0, 1] };
        assert!(taken.values().all(|groups| *groups == [[group], [group]]), "{taken:?}");
    }

    #[test]
    fn what_is_quiet_is_put_together() {
        let group = |of, events| Group { of, events };
        let groups = [group([5, 1], [0, 1]), group([7, 2], [0, 0]), group([1, 1], [0, 0]), group([2, 2], [1, 0])];
        assert_eq!(packed(&groups), [group([2, 2], [1, 0]), group([5, 1], [0, 1]), group([8, 3], [0, 0])]);
    }
}
