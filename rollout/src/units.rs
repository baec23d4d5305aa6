//! Which keys are units, and under which share were they dealt?
//!
//! A key is one unit, however often it comes. When the challenger's share grows from w1 to w2, the champion's keys are dealt
//! anew: each of them moves with a chance of (w2 − w1)/(1 − w1), whatever was seen of it before. So each is a unit once more,
//! under that share; those that the challenger has already are not. Without this an endpoint whose customers come back every day
//! would have no units after the first day.

use crate::evidence::Share;
use crate::sample::Sample;

/// The keys of one rollout: all of them up to a bound, and beyond it a sample, ever smaller.
#[derive(Debug)]
pub struct Keys(Sample<Dealt>);

/// How a key was dealt last.
#[derive(Clone, Copy, Debug)]
struct Dealt {
    /// What was in force.
    share: u32,
    /// Under what it counts.
    counts: Share,
    is_challengers: bool,
}

/// What a request of a key counts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Under what it was dealt.
    pub share: Share,
    /// Whether it is a unit itself, or belongs to one that was counted.
    pub is_new: bool,
}

impl Keys {
    /// Room for `keys_max` keys of some 30 bytes.
    pub fn new(keys_max: usize) -> Keys {
        Keys(Sample::new(keys_max))
    }

    /// What a request of `key` counts as, which was dealt under `share`, to the challenger or else the champion; `None` where the key
    /// is not in the sample, or was dealt under another share.
    pub fn count(&mut self, key: u64, is_challengers: bool, share: Share) -> Option<Unit> {
        if !self.0.takes(key) {
            return None;
        }
        let counts = match self.0.get(key) {
            None => share,
            Some(dealt) if !dealt.is_challengers && dealt.share < share.challenger => {
                Share { champion: share.champion, challenger: share.challenger - dealt.share }
            }
            // Its arm keeps it over a step, while champion's keys like it are dealt anew: to go on counting it would be to
            // watch the challenger's for longer.
            Some(dealt) if dealt.share != share.challenger => return None,
            Some(dealt) => return Some(Unit { share: dealt.counts, is_new: false }),
        };
        let dealt = Dealt { share: share.challenger, counts, is_challengers };
        self.0.insert(key, dealt).then_some(Unit { share: counts, is_new: true })
    }

    /// The share of the keys that count.
    pub fn sampling(&self) -> f64 {
        self.0.sampling()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn the_champions_keys_are_dealt_anew_when_the_share_grows() {
        let mut keys = Keys::new(100);
        let mut check = |key, is_challengers, share, expected: (u32, u32, bool)| {
            let Unit { share: Share { champion, challenger }, is_new } =
                keys.count(key, is_challengers, Share::of(share)).unwrap();
            assert_eq!((champion, challenger, is_new), expected);
        };
        check(1, false, 10_000, (990_000, 10_000, true));
        check(1, false, 10_000, (990_000, 10_000, false));
        check(2, true, 10_000, (990_000, 10_000, true));
        // One of the champion's 99 % moves with a chance of 24 in 99.
        check(1, true, 250_000, (750_000, 240_000, true));
        check(1, true, 250_000, (750_000, 240_000, false));
        check(3, false, 250_000, (750_000, 250_000, true));
        check(3, false, 500_000, (500_000, 250_000, true));
        // A request from before the step, that ended after it, and a key that the challenger keeps over a step.
        assert_eq!(keys.count(3, false, Share::of(250_000)), None);
        assert_eq!(keys.count(2, true, Share::of(250_000)), None);
    }

    /// Every arm has the units that its share says, at each step, though the same keys come back again and again.
    #[test]
    fn whoever_comes_back_is_dealt_as_configured() {
        const KEYS: u64 = 100_000;
        let mut keys = Keys::new(1 << 20);
        let mut units: BTreeMap<Share, [f64; 2]> = BTreeMap::new();
        for step in [10_000, 50_000, 250_000, 500_000] {
            for key in 0..KEYS {
                let bucket = ((key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) * 1_000_000) >> 32;
                let is_challengers = bucket < u64::from(step);
                let Some(unit) = keys.count(key, is_challengers, Share::of(step)) else { continue };
                units.entry(unit.share).or_default()[usize::from(is_challengers)] += f64::from(u8::from(unit.is_new));
            }
        }
        assert_eq!(units.len(), 4);
        for (share, [champion, challenger]) in units {
            let (n, w) = (champion + challenger, share.challengers());
            assert!((challenger - n * w).abs() < 5.0 * (n * w * (1.0 - w)).sqrt(), "{share:?}: {challenger} of {n}");
        }
    }

    #[test]
    fn beyond_the_bound_a_sample_counts() {
        let mut keys = Keys::new(100);
        let counted = (0..10_000u64).filter_map(|key| keys.count(key, false, Share::of(1))).count();
        assert!(keys.0.len() <= 100 && (100..=1_000).contains(&counted), "{counted}");
        assert_eq!((keys.sampling(), keys.count(1, false, Share::of(1))), (1.0 / 256.0, None));
    }
}
