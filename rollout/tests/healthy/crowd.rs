//! Who are the users whose requests stick to an arm, and which of them are seen for the first time, or fail?
//!
//! What counts a key as a unit is the server's own file. Of each key and step only two moments matter: its first request, and
//! its first that fails; both are drawn at once.

use std::collections::BTreeMap;

use tiltyard_rollout::evidence::{Arms, Share};
use tiltyard_rollout::units::Keys;

use crate::chance::Chance;

/// What users are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Habits {
    /// Pareto(1.3) many requests, and the requests of one in fifty users always fail.
    HeavyTailed,
    /// One of them, of whose requests one in twenty fails, has 30 % of the traffic.
    Bot,
    /// All of them come back again and again.
    Returning,
}

#[derive(Debug)]
struct User {
    hash: u64,
    bucket: u32,
    /// Requests in a minute.
    rate: f64,
    /// The chance that one fails.
    fails: f64,
}

/// What counts under one share.
#[derive(Debug, Default)]
pub(crate) struct Stretch {
    pub(crate) units: Arms,
    pub(crate) failed: [Vec<u64>; 2],
}

/// All users of an endpoint.
#[derive(Debug)]
pub(crate) struct Crowd {
    users: Vec<User>,
    keys: Keys,
    /// The share in force, and what happens under it: by minute, (user, whether it fails).
    share: u32,
    begun: u64,
    ahead: Vec<Vec<(u32, bool)>>,
    /// By share: requests in a minute of each arm, and how many of them fail.
    flows: BTreeMap<u32, [[f64; 2]; 2]>,
}

impl Crowd {
    /// Users with `rate` requests in a minute together, of which `base` fail.
    pub(crate) fn new(chance: &mut Chance, habits: Habits, rate: f64, base: f64) -> Crowd {
        let count = if rate < 2_000.0 {
            1_000
        } else if rate < 20_000.0 {
            3_000
        } else {
            8_000
        };
        let mut users: Vec<User> = (0..count)
            .map(|at| {
                let often = match habits {
                    Habits::HeavyTailed => libm::pow(chance.uniform(), -1.0 / 1.3).min(2_000.0),
                    Habits::Bot | Habits::Returning => 1.0,
                };
                let always = habits == Habits::HeavyTailed && chance.happens(0.02);
                let is_bot = habits == Habits::Bot && at == 0;
                let fails = if always {
                    1.0
                } else if is_bot {
                    0.05
                } else {
                    base
                };
                let bucket = (chance.uniform() * 1e6) as u32;
                User { hash: chance.bits(), bucket, rate: often, fails }
            })
            .collect();
        let sum: f64 = users.iter().map(|user| user.rate).sum();
        users.iter_mut().for_each(|user| user.rate *= rate / sum);
        if habits == Habits::Bot {
            users.iter_mut().for_each(|user| user.rate *= 0.7);
            users[0].rate = 0.3 * rate;
        }
        let (keys, flows) = (Keys::new(1 << 20), BTreeMap::new());
        Crowd { users, keys, share: u32::MAX, begun: 0, ahead: Vec::new(), flows }
    }

    /// Requests in a minute of each arm, and how many of them fail.
    pub(crate) fn flow(&mut self, share: u32) -> [[f64; 2]; 2] {
        *self.flows.entry(share).or_insert_with(|| {
            let mut flow = [[0.0; 2]; 2];
            for user in &self.users {
                let arm = &mut flow[usize::from(user.bucket < share)];
                *arm = [arm[0] + user.rate, arm[1] + user.rate * user.fails];
            }
            flow
        })
    }

    /// What counts in some minutes under a share that stays in force until minute `until` at most.
    pub(crate) fn seen(
        &mut self,
        chance: &mut Chance,
        minutes: std::ops::Range<u64>,
        share: u32,
        until: u64,
    ) -> BTreeMap<Share, Stretch> {
        if self.share != share {
            self.deal(chance, minutes.start, share, until);
        }
        let mut stretches: BTreeMap<Share, Stretch> = BTreeMap::new();
        for minute in minutes {
            let Some(events) = self.ahead.get((minute - self.begun) as usize) else { break };
            for &(at, fails) in events {
                let User { hash, bucket, .. } = self.users[at as usize];
                let is_challengers = bucket < share;
                let Some(unit) = self.keys.count(hash, is_challengers, Share::of(share)) else { continue };
                let stretch = stretches.entry(unit.share).or_default();
                stretch.units[usize::from(is_challengers)] += u64::from(unit.is_new);
                if fails {
                    stretch.failed[usize::from(is_challengers)].push(hash);
                }
            }
        }
        for stretch in stretches.values_mut() {
            stretch.failed.iter_mut().for_each(|keys| keys.sort_unstable());
        }
        stretches
    }

    fn deal(&mut self, chance: &mut Chance, now: u64, share: u32, until: u64) {
        let length = until.saturating_sub(now) as f64;
        (self.share, self.begun) = (share, now);
        self.ahead = (now..until).map(|_| Vec::new()).collect();
        for (at, user) in (0..).zip(&self.users) {
            let first = chance.exponential(user.rate);
            if first >= length {
                continue;
            }
            self.ahead[first as usize].push((at, false));
            let until_failure =
                if chance.happens(user.fails) { 0.0 } else { chance.exponential(user.rate * user.fails) };
            if first + until_failure < length {
                self.ahead[(first + until_failure) as usize].push((at, true));
            }
        }
    }
}
