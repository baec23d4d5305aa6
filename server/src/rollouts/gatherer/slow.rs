//! Which runs were slow, held against the champion's of their kind?
//!
//! A kind is so many rows after so long a rest. The champion's first runs of a kind say where its cut points are, and from then
//! on they stand: no run is judged by a cut point that it had a part in. A run is slow where it is slower by more than anybody
//! minds: without that slack a model that takes eight microseconds instead of seven would be a harm.

use std::collections::BTreeMap;
use std::time::Duration;

use tiltyard_rollout::evidence::{Group, Share};

use crate::rollouts::observer::Side;

/// Cut points by name: so much of the champion's runs takes no longer.
pub(super) const CUTS: [(&str, f64); 3] = [("slow_p50", 0.5), ("slow_p90", 0.9), ("slow_p99", 0.99)];

/// Runs of the champion that a kind's cut points are made of.
const SAMPLES: usize = 500;

/// A slow run takes longer than the cut point by more than this, and by more than a tenth of it.
const SLACK: Duration = Duration::from_micros(100);

/// Kinds that are told apart; runs of others do not count.
const KINDS_MAX: usize = 512;

/// Rests are told apart by doublings from here on: a small arm rests for longer also among runs that rested about as long.
const REST_MIN: Duration = Duration::from_micros(128);

/// Doublings of it that are told apart, up to some 8 s.
const RESTS: u32 = 16;

/// Rows up to this are told apart one by one.
const ROWS_EXACT: u32 = 16;

/// (rows, rest), both in classes.
type Kind = (u32, u32);

/// All kinds.
#[derive(Debug, Default)]
pub(super) struct Slow {
    kinds: BTreeMap<Kind, Runs>,
}

/// The runs of one kind.
#[derive(Debug, Default)]
struct Runs {
    /// The champion's first ones, until they are enough.
    samples: Vec<u64>,
    /// In nanoseconds, the slack included.
    cuts: Option<[u64; CUTS.len()]>,
    open: BTreeMap<Share, [Group; CUTS.len()]>,
}

impl Slow {
    /// Takes in a run of so many rows, that began after such a rest and took so long.
    pub(super) fn count(&mut self, share: Share, side: Side, rows: u32, rest: Option<Duration>, nanos: u64) {
        let Some(rest) = rest else { return };
        let kind = (rows_class(rows), rest_class(rest));
        if self.kinds.len() >= KINDS_MAX && !self.kinds.contains_key(&kind) {
            return;
        }
        let runs = self.kinds.entry(kind).or_default();
        match &runs.cuts {
            Some(cuts) => {
                for (group, cut) in runs.open.entry(share).or_default().iter_mut().zip(cuts) {
                    group.of[side as usize] += 1;
                    group.events[side as usize] += u64::from(nanos > *cut);
                }
            }
            None if side == Side::Champion => runs.samples.push(nanos),
            None => {}
        }
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

    /// What was counted since the last time, by share and name.
    pub(super) fn take(&mut self) -> BTreeMap<Share, BTreeMap<String, Vec<Group>>> {
        let mut taken: BTreeMap<Share, BTreeMap<String, Vec<Group>>> = BTreeMap::new();
        for runs in self.kinds.values_mut() {
            for (share, groups) in std::mem::take(&mut runs.open) {
                let by_name = taken.entry(share).or_default();
                for ((name, _), group) in CUTS.iter().zip(groups) {
                    by_name.entry((*name).to_owned()).or_default().push(group);
                }
            }
        }
        for groups in taken.values_mut().flat_map(BTreeMap::values_mut) {
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

    #[test]
    fn runs_are_held_against_those_of_their_kind_and_never_against_themselves() {
        const MS: u64 = 1_000_000;
        let mut slow = Slow::default();
        for millis in 1..=SAMPLES as u64 {
            slow.count(HALF, Side::Champion, 1, WARM, millis * MS);
            slow.count(HALF, Side::Challenger, 1, WARM, 10_000 * MS);
        }
        assert!(slow.take().is_empty(), "there were no cut points");
        slow.freeze();
        // The cut points are 251, 451 and 496, and a tenth of each is the slack.
        for millis in [276, 277, 497, 546] {
            slow.count(HALF, Side::Challenger, 1, WARM, millis * MS);
        }
        // Others: more rows, after a rest, the very first.
        slow.count(HALF, Side::Challenger, 2, WARM, 10_000 * MS);
        slow.count(HALF, Side::Challenger, 1, Some(Duration::from_secs(1)), 10_000 * MS);
        slow.count(HALF, Side::Challenger, 1, None, 10_000 * MS);
        slow.count(HALF, Side::Champion, 1, WARM, 1);
        let taken = slow.take().remove(&HALF).unwrap();
        let group = |events| vec![Group { of: [1, 4], events: [0, events] }];
        let expected = [("slow_p50", group(3)), ("slow_p90", group(2)), ("slow_p99", group(1))];
        assert_eq!(taken, expected.map(|(name, groups)| (name.to_owned(), groups)).into());
        assert!(slow.take().is_empty(), "each is told once");
    }

    #[test]
    fn microseconds_are_nobodys_harm() {
        let mut slow = Slow::default();
        (0..SAMPLES).for_each(|_| slow.count(HALF, Side::Champion, 1, WARM, 7_000));
        slow.freeze();
        for micros in [8, 100, 106, 108] {
            slow.count(HALF, Side::Challenger, 1, WARM, micros * 1_000);
        }
        let taken = slow.take().remove(&HALF).unwrap();
        assert!(taken.values().all(|groups| *groups == [Group { of: [0, 4], events: [0, 1] }]), "{taken:?}");
    }

    #[test]
    fn what_is_quiet_is_put_together() {
        let group = |of, events| Group { of, events };
        let groups = [group([5, 1], [0, 1]), group([7, 2], [0, 0]), group([1, 1], [0, 0]), group([2, 2], [1, 0])];
        assert_eq!(packed(&groups), [group([2, 2], [1, 0]), group([5, 1], [0, 1]), group([8, 3], [0, 0])]);
    }
}
