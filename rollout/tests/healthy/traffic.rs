//! What is seen of a challenger that is as good as its champion, in a world that is not always well?

use std::collections::BTreeMap;
use std::f64::consts::TAU;

use tiltyard_rollout::evidence::{Arms, Group, Share};

use crate::chance::Chance;
use crate::crowd::{Crowd, Habits, Stretch};
use crate::runs::{Model, Runs};

/// Of requests, so many fail, each for a reason of its own.
pub(crate) const BASE: f64 = 0.005;

/// In one minute of so many, everything fails.
const OUTAGES: f64 = 0.02;

/// How often who has failed comes back, and how likely it fails again.
const RETRIES: usize = 3;
const FAILS_AGAIN: f64 = 0.7;

/// A world.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scene {
    pub(crate) name: &'static str,
    /// Minutes in which traffic goes up and down by 80 %, and the rate of failures by half; 0 where neither does.
    pub(crate) wave: f64,
    /// Whether in some minutes all requests fail.
    pub(crate) outages: bool,
    /// Requests in a run of a champion that has nearly all of the traffic, and of how many runs one fails with all in it.
    pub(crate) batches: Option<(f64, f64)>,
    /// Whether requests that fail come back.
    pub(crate) retries: bool,
    /// By how much longer a run takes that finds cold caches.
    pub(crate) cold: f64,
    /// Who sends requests, where these stick to arms by key.
    pub(crate) crowd: Option<Habits>,
    /// Whether a rollout takes a whole day.
    pub(crate) is_long: bool,
}

const CALM: Scene = Scene {
    name: "steady",
    wave: 0.0,
    outages: false,
    batches: None,
    retries: false,
    cold: 0.1,
    crowd: None,
    is_long: false,
};

/// All of them.
pub(crate) const SCENES: [Scene; 10] = [
    CALM,
    Scene { name: "daily waves", wave: 1_440.0, is_long: true, ..CALM },
    Scene { name: "outages of both arms", outages: true, ..CALM },
    Scene { name: "heavy-tailed sticky users", crowd: Some(Habits::HeavyTailed), ..CALM },
    Scene { name: "whole-batch faults", batches: Some((30.0, 0.003)), ..CALM },
    Scene { name: "retry storms", retries: true, ..CALM },
    Scene { name: "cold caches", cold: 1.0, ..CALM },
    Scene { name: "a bot with 30 %", crowd: Some(Habits::Bot), ..CALM },
    Scene { name: "users who come back", crowd: Some(Habits::Returning), ..CALM },
    Scene {
        name: "all but users at once",
        wave: 180.0,
        outages: true,
        batches: Some((30.0, 0.003)),
        retries: true,
        cold: 1.0,
        ..CALM
    },
];

/// Which part of the evidence is kept from the judge, to show that it is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strip {
    /// All is told.
    Nothing,
    /// Failures by cause.
    Causes,
    /// Failures by request.
    Requests,
    /// That runs are of different kinds.
    Kinds,
    /// That requests stick to arms by key.
    Keys,
}

/// What was seen in some minutes.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) requests: Arms,
    pub(crate) failures: Arms,
    pub(crate) causes: Group,
    /// Runs above the champion's p90 and p99, by kind.
    pub(crate) slow: [Vec<Group>; 2],
    /// Where requests stick to arms: what counts, by share.
    pub(crate) stretches: BTreeMap<Share, Stretch>,
    /// Whether both arms failed one time after the other, often enough for the trip.
    pub(crate) trips: bool,
}

/// The traffic of one rollout.
#[derive(Debug)]
pub(crate) struct Traffic {
    scene: Scene,
    /// Requests in a minute.
    rate: f64,
    /// How often the challenger fails, relative to its champion.
    ratio: f64,
    chance: Chance,
    /// Run times are drawn apart, so that traffic is the same whether anybody looks at them.
    times: Option<Chance>,
    runs: Runs,
    crowd: Option<Crowd>,
    phases: [f64; 2],
}

impl Traffic {
    /// That of a seed: so many requests in a second, and failures of the challenger relative to its champion's.
    pub(crate) fn new(scene: Scene, rps: f64, ratio: f64, seed: u64, times: bool, strip: Strip) -> Traffic {
        let mut chance = Chance::new(seed, 1);
        // Light models take 2 ms. Heavy ones, so long that the champion's runs fill.
        let run = scene.batches.map_or(0.002, |(requests, _)| requests / rps);
        let model = Model { run, cold: scene.cold, cools: 0.03 };
        let crowd = scene.crowd.map(|habits| Crowd::new(&mut chance, habits, rps * 60.0, BASE));
        let phases = [chance.uniform(), chance.uniform()];
        let (runs, times) = (Runs::new(model, strip == Strip::Kinds), times.then(|| Chance::new(seed, 2)));
        Traffic { scene, rate: rps * 60.0, ratio, chance, times, runs, crowd, phases }
    }

    /// What is seen in these minutes, under a share that stays until minute `until` at most.
    pub(crate) fn seen(&mut self, minutes: std::ops::Range<u64>, share: Share, until: u64) -> Seen {
        let count = minutes.end - minutes.start;
        let middle = (minutes.start + minutes.end) as f64 / 2.0;
        let wave = |phase: f64| match self.scene.wave > 0.0 {
            true => libm::sin(TAU * (middle / self.scene.wave + phase)),
            false => 0.0,
        };
        let [load, base] = [1.0 + 0.8 * wave(self.phases[0]), BASE * (1.0 + 0.5 * wave(self.phases[1]))];
        let mut seen = Seen::default();
        let bad = if self.scene.outages { self.chance.binomial(count, OUTAGES) } else { 0 };
        let calm = (count - bad) as f64;
        match &mut self.crowd {
            None => {
                let w = share.challengers();
                let rates = [1.0 - w, w].map(|part| self.rate * load * part);
                self.runs.at(rates.map(|rate| rate / 60.0));
                let requests = rates.map(|rate| self.chance.poisson(rate * calm));
                let chances = [base, base * self.ratio];
                let failures = [0, 1].map(|arm| self.chance.binomial(requests[arm], chances[arm]));
                self.count(&mut seen, requests, failures);
                self.faults(&mut seen, requests);
                self.retry(&mut seen, w);
                (0..bad).for_each(|_| self.outage(&mut seen, rates));
                self.slow(&mut seen, requests);
            }
            Some(crowd) => {
                seen.stretches = crowd.seen(&mut self.chance, minutes, share.challenger, until);
                let flow = crowd.flow(share.challenger);
                self.runs.at(flow.map(|[requests, _]| requests / 60.0));
                let failures = flow.map(|[_, failures]| self.chance.poisson(failures * calm));
                let fine = flow.map(|[requests, failures]| self.chance.poisson((requests - failures) * calm));
                let requests = [0, 1].map(|arm| fine[arm] + failures[arm]);
                self.count(&mut seen, requests, failures);
                // A key's first request only.
                let units = seen
                    .stretches
                    .values()
                    .fold([0; 2], |[a, b], stretch| [a + stretch.units[0], b + stretch.units[1]]);
                self.slow(&mut seen, units);
            }
        }
        seen
    }

    /// Requests of which some fail, each for a reason of its own.
    fn count(&mut self, seen: &mut Seen, requests: Arms, failures: Arms) {
        for arm in 0..2 {
            let runs = self.runs.count(arm, requests[arm]);
            seen.requests[arm] += requests[arm];
            seen.failures[arm] += failures[arm];
            seen.causes.of[arm] += runs;
            // Whether a run failed is seen by the first of it that ends.
            let part = runs as f64 / requests[arm].max(1) as f64;
            seen.causes.events[arm] += self.chance.binomial(failures[arm], part.min(1.0)).min(runs);
        }
    }

    /// Runs that fail with everybody in them.
    fn faults(&mut self, seen: &mut Seen, requests: Arms) {
        let Some((_, often)) = self.scene.batches else { return };
        for arm in 0..2 {
            let faults = self.chance.binomial(self.runs.count(arm, requests[arm]), often);
            let fallen: u64 = (0..faults).map(|_| self.runs.size(&mut self.chance, arm)).sum();
            seen.causes.events[arm] = (seen.causes.events[arm] + faults).min(seen.causes.of[arm]);
            seen.failures[arm] = (seen.failures[arm] + fallen).min(seen.requests[arm]);
        }
    }

    /// Who failed comes back, and is dealt anew.
    fn retry(&mut self, seen: &mut Seen, w: f64) {
        if !self.scene.retries {
            return;
        }
        let mut failed: u64 = seen.failures.iter().sum();
        for _ in 0..RETRIES {
            let challengers = self.chance.binomial(failed, w);
            let requests = [failed - challengers, challengers];
            let failures = requests.map(|requests| self.chance.binomial(requests, FAILS_AGAIN));
            self.count(seen, requests, failures);
            failed = failures.iter().sum();
        }
    }

    /// A minute in which all requests fail: at once and each on its own, after a second and all that wait with it, or
    /// without any answer.
    fn outage(&mut self, seen: &mut Seen, rates: [f64; 2]) {
        let each = if self.scene.retries { 1.0 + RETRIES as f64 } else { 1.0 };
        let kind = self.chance.bits() % 3;
        let mut row = [0; 2];
        for arm in 0..2 {
            let requests = self.chance.poisson(rates[arm] * each);
            let causes = match kind {
                0 => requests,
                1 => requests.min(60),
                _ => requests.min(1),
            };
            row[arm] = if kind == 2 { requests } else { causes };
            seen.requests[arm] += requests;
            seen.failures[arm] += requests;
            seen.causes.of[arm] += causes;
            seen.causes.events[arm] += causes;
        }
        seen.trips |= row.iter().all(|&failures| failures >= 20);
    }

    fn slow(&mut self, seen: &mut Seen, requests: Arms) {
        if let Some(times) = &mut self.times {
            seen.slow = self.runs.slow(times, requests);
        }
    }
}
