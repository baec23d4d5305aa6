//! Who are the users whose requests stick to an arm, and which of them are seen for the first time, or fail?
//!
//! What counts a key as a unit is the server's own file. Of the requests of a key that go well only the first matters, and of
//! those that fail each: users are drawn for these one by one, and the same failures count by key, by request and by cause.

use std::collections::BTreeMap;

use tiltyard_rollout::evidence::{Arms, Share};
use tiltyard_rollout::units::Keys;

use crate::chance::Chance;

/// What users are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Habits {
    /// Pareto(1.3) many requests, and the requests of one in two hundred users always fail.
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
    /// The chance that one fails before the champion.
    fails: f64,
}

/// What counts under one share.
#[derive(Debug, Default)]
pub(crate) struct Stretch {
    pub(crate) units: Arms,
    pub(crate) failed: [Vec<u64>; 2],
}

/// What an arm's users do.
#[derive(Debug, Default)]
struct Flow {
    /// Requests in a minute that go well.
    fine: f64,
    /// Its users, each with the sum of the failures in a minute of all up to it.
    failing: Vec<(f64, u32)>,
}

impl Flow {
    fn failures(&self) -> f64 {
        self.failing.last().map_or(0.0, |(sum, _)| *sum)
    }

    /// The user that a failure is of.
    fn who(&self, chance: &mut Chance) -> u32 {
        let at = chance.uniform() * self.failures();
        self.failing[self.failing.partition_point(|(sum, _)| *sum < at).min(self.failing.len() - 1)].1
    }
}

/// All users of an endpoint.
#[derive(Debug)]
pub(crate) struct Crowd {
    users: Vec<User>,
    /// How often the challenger fails, relative to its champion.
    ratio: f64,
    keys: Keys,
    /// The share in force, and since when.
    share: u32,
    begun: u64,
    flows: [Flow; 2],
    /// Who has the first request that goes well under this share, by minute.
    ahead: Vec<Vec<u32>>,
}

/// What became of the requests of some minutes.
#[derive(Debug, Default)]
pub(crate) struct Met {
    pub(crate) fine: Arms,
    pub(crate) failed: Arms,
    pub(crate) stretches: BTreeMap<Share, Stretch>,
}

/// How many users an endpoint with so many requests in a second has.
pub(crate) fn users(rps: f64) -> u32 {
    match rps {
        ..50.0 => 20_000,
        ..500.0 => 30_000,
        _ => 60_000,
    }
}

impl Crowd {
    /// Users with `rps` requests in a second together, of which `base` fail.
    pub(crate) fn new(chance: &mut Chance, habits: Habits, rps: f64, base: f64, ratio: f64) -> Crowd {
        let mut users: Vec<User> = (0..users(rps))
            .map(|at| {
                let rate = match habits {
                    Habits::HeavyTailed => libm::pow(chance.uniform(), -1.0 / 1.3).min(2_000.0),
                    Habits::Bot | Habits::Returning => 1.0,
                };
                let fails = match habits {
                    Habits::HeavyTailed if chance.happens(0.005) => 1.0,
                    Habits::Bot if at == 0 => 0.05,
                    _ => base,
                };
                User { hash: chance.bits(), bucket: (chance.uniform() * 1e6) as u32, rate, fails }
            })
            .collect();
        let others = if habits == Habits::Bot { 0.7 } else { 1.0 };
        let sum: f64 = users.iter().map(|user| user.rate).sum();
        users.iter_mut().for_each(|user| user.rate *= others * rps * 60.0 / sum);
        if habits == Habits::Bot {
            users[0].rate = 0.3 * rps * 60.0;
        }
        let (keys, flows) = (Keys::new(1 << 20), Default::default());
        Crowd { users, ratio, keys, share: u32::MAX, begun: 0, flows, ahead: Vec::new() }
    }

    /// Requests in a minute of each arm under a share that is in force from minute `now` until `until` at most.
    pub(crate) fn at(&mut self, chance: &mut Chance, now: u64, share: u32, until: u64) -> [f64; 2] {
        if self.share != share {
            self.deal(chance, now, share, until);
        }
        self.flows.each_ref().map(|flow| flow.fine + flow.failures())
    }

    fn deal(&mut self, chance: &mut Chance, now: u64, share: u32, until: u64) {
        (self.share, self.begun, self.flows) = (share, now, Default::default());
        self.ahead = vec![Vec::new(); until.saturating_sub(now) as usize];
        for (at, user) in (0..).zip(&self.users) {
            let is_challengers = user.bucket < share;
            let fails = if is_challengers { (user.fails * self.ratio).min(1.0) } else { user.fails };
            let flow = &mut self.flows[usize::from(is_challengers)];
            flow.failing.push((flow.failures() + user.rate * fails, at));
            let fine = user.rate * (1.0 - fails);
            flow.fine += fine;
            let first = chance.exponential(1.0 / fine.max(1e-12));
            if let Some(minute) = self.ahead.get_mut(first as usize) {
                minute.push(at);
            }
        }
    }

    /// What becomes of some minutes' requests.
    pub(crate) fn meet(&mut self, chance: &mut Chance, minutes: std::ops::Range<u64>) -> Met {
        let (length, begun) = ((minutes.end - minutes.start) as f64, self.begun);
        let mut met = Met {
            fine: self.flows.each_ref().map(|flow| chance.poisson(flow.fine * length)),
            failed: self.flows.each_ref().map(|flow| chance.poisson(flow.failures() * length)),
            stretches: BTreeMap::new(),
        };
        for minute in minutes {
            for at in self.ahead.get_mut((minute - begun) as usize).map(std::mem::take).unwrap_or_default() {
                self.count(&mut met, at, false);
            }
        }
        for (arm, failed) in met.failed.into_iter().enumerate() {
            for _ in 0..failed {
                let at = self.flows[arm].who(chance);
                self.count(&mut met, at, true);
            }
        }
        for keys in met.stretches.values_mut().flat_map(|stretch| &mut stretch.failed) {
            keys.sort_unstable();
            keys.dedup();
        }
        met
    }

    fn count(&mut self, met: &mut Met, at: u32, has_failed: bool) {
        let User { hash, bucket, .. } = self.users[at as usize];
        let is_challengers = bucket < self.share;
        let Some(unit) = self.keys.count(hash, is_challengers, Share::of(self.share)) else { return };
        let stretch = met.stretches.entry(unit.share).or_default();
        stretch.units[usize::from(is_challengers)] += u64::from(unit.is_new);
        if has_failed {
            stretch.failed[usize::from(is_challengers)].push(hash);
        }
    }
}
