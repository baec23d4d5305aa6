//! What is seen of a challenger that is as good as its champion, in a world that is not always well?

use std::collections::BTreeMap;
use std::f64::consts::TAU;

use tiltyard_rollout::evidence::{Arms, Group, Share};
use tiltyard_rollout::streak::Streak;

use crate::chance::Chance;
use crate::crowd::{Crowd, Habits, Met, Stretch};
use crate::runs::{Model, Runs};

/// Of requests, so many fail, each for a reason of its own.
const BASE: f64 = 0.005;

/// In one minute of so many, everything fails for a part of it: so many seconds at least and at most.
const OUTAGES: f64 = 0.02;
const LASTS: [f64; 2] = [10.0, 60.0];

/// Failures of the challenger one after the other that are told at once, and how often is looked, in seconds.
pub(crate) const FAILURES: u32 = 20;
const TICK: f64 = 0.25;

/// Seconds after which a request without an answer has failed.
const PATIENCE: f64 = 5.0;

/// Of runs that fill, one in so many fails with all in it.
const FAULTS: f64 = 0.005;

/// Load is told apart in steps of this.
const LOADS: f64 = 10.0;

/// How often who has failed comes back, and how likely it fails again.
const RETRIES: usize = 3;
const FAILS_AGAIN: f64 = 0.7;

/// A world.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scene {
    pub(crate) name: &'static str,
    /// Minutes in which traffic goes up and down by 80 %, and the rate of failures by half; 0 where neither does.
    pub(crate) wave: f64,
    /// Whether now and then all requests fail.
    pub(crate) outages: bool,
    /// Whether runs fill, up to 300 requests where the champion has nearly all of the traffic, and some fail with all in them.
    pub(crate) batches: bool,
    /// Whether requests that fail come back.
    pub(crate) retries: bool,
    /// By how much longer a run takes that finds cold caches.
    pub(crate) cold: f64,
    /// Who sends requests, where these stick to arms by key.
    pub(crate) crowd: Option<Habits>,
    /// Whether a rollout takes a whole day.
    pub(crate) is_long: bool,
    /// How many of the rollouts are promoted at least, from 100 requests a second on.
    pub(crate) promoted: f64,
}

const CALM: Scene = Scene {
    name: "steady",
    wave: 0.0,
    outages: false,
    batches: false,
    retries: false,
    cold: 0.1,
    crowd: None,
    is_long: false,
    promoted: 0.95,
};

/// All of them.
pub(crate) const SCENES: [Scene; 10] = [
    CALM,
    Scene { name: "daily waves", wave: 1_440.0, is_long: true, ..CALM },
    Scene { name: "outages of both arms", outages: true, ..CALM },
    Scene { name: "heavy-tailed sticky users", crowd: Some(Habits::HeavyTailed), promoted: 0.6, ..CALM },
    Scene { name: "whole-batch faults", batches: true, is_long: true, ..CALM },
    Scene { name: "retry storms", retries: true, ..CALM },
    Scene { name: "cold caches", cold: 1.0, ..CALM },
    Scene { name: "a bot with 30 %", crowd: Some(Habits::Bot), promoted: 0.2, ..CALM },
    Scene { name: "users who come back", crowd: Some(Habits::Returning), ..CALM },
    Scene {
        name: "all but users at once",
        wave: 180.0,
        outages: true,
        batches: true,
        retries: true,
        cold: 1.0,
        is_long: true,
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
    /// What the champion did while the challenger failed, but for its latest answer.
    Window,
    /// Whether the champion failed when a run ended.
    Illness,
    /// Both that, and failures by request.
    IllnessAndRequests,
}

/// What was seen in some minutes.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) requests: Arms,
    pub(crate) failures: Arms,
    /// Runs while the champion's latest went well, and while it failed.
    pub(crate) causes: [Group; 2],
    /// Runs above the champion's p90 and p99, by kind.
    pub(crate) slow: [Vec<Group>; 2],
    /// Where requests stick to arms: what counts, by share.
    pub(crate) stretches: BTreeMap<Share, Stretch>,
    /// Where the challenger failed one time after the other, often enough for the trip: whether the champion seemed healthy.
    pub(crate) trips: Option<bool>,
}

impl Seen {
    /// The challenger's failures above its champion's rate.
    pub(crate) fn excess(&self) -> f64 {
        let rate = self.failures[0] as f64 / self.requests[0].max(1) as f64;
        self.failures[1] as f64 - rate * self.requests[1] as f64
    }
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
    strip: Strip,
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
        // Light models take 2 ms. Heavy ones, so long that runs fill.
        let run = if scene.batches { (3.0 * rps).clamp(30.0, 300.0) / rps } else { 0.002 };
        let model = Model { run, cold: scene.cold, cools: 0.03 };
        let crowd = scene.crowd.map(|habits| Crowd::new(&mut chance, habits, rps, BASE, ratio));
        let phases = [chance.uniform(), chance.uniform()];
        let (runs, times) = (Runs::new(model, strip == Strip::Kinds), times.then(|| Chance::new(seed, 2)));
        Traffic { scene, rate: rps * 60.0, ratio, chance, strip, times, runs, crowd, phases }
    }

    /// What is seen in these minutes, under a share that stays until minute `until` at most.
    pub(crate) fn seen(&mut self, minutes: std::ops::Range<u64>, share: Share, until: u64) -> Seen {
        let count = minutes.end - minutes.start;
        let middle = (minutes.start + minutes.end) as f64 / 2.0;
        let wave = |phase: f64| match self.scene.wave > 0.0 {
            true => libm::sin(TAU * (middle / self.scene.wave + phase)),
            false => 0.0,
        };
        let load = ((1.0 + 0.8 * wave(self.phases[0])) * LOADS).round() / LOADS;
        let base = BASE * (1.0 + 0.5 * wave(self.phases[1]));
        let mut seen = Seen::default();
        if let Some(crowd) = &mut self.crowd {
            let rates = crowd.at(&mut self.chance, minutes.start, share.challenger, until);
            let Met { fine, failed, stretches } = crowd.meet(&mut self.chance, minutes);
            self.runs.at(rates.map(|rate| rate / 60.0));
            self.count(&mut seen, [0, 1].map(|arm| fine[arm] + failed[arm]), failed);
            // A key's first request only.
            let units = stretches.values().fold([0; 2], |[a, b], stretch| [a + stretch.units[0], b + stretch.units[1]]);
            self.slow(&mut seen, units);
            seen.stretches = stretches;
            return seen;
        }
        let w = share.challengers();
        let rates = [1.0 - w, w].map(|part| self.rate * load * part);
        self.runs.at(rates.map(|rate| rate / 60.0));
        let bad = if self.scene.outages { self.chance.binomial(count, OUTAGES) } else { 0 };
        let outages: Vec<f64> = (0..bad).map(|_| LASTS[0] + (LASTS[1] - LASTS[0]) * self.chance.uniform()).collect();
        let calm = count as f64 - outages.iter().sum::<f64>() / 60.0;
        let requests = rates.map(|rate| self.chance.poisson(rate * calm));
        let chances = [base, base * self.ratio];
        let failures = [0, 1].map(|arm| self.chance.binomial(requests[arm], chances[arm]));
        self.count(&mut seen, requests, failures);
        self.faults(&mut seen, requests);
        self.retry(&mut seen, w);
        self.part(&mut seen);
        for seconds in outages {
            self.outage(&mut seen, rates.map(|rate| rate / 60.0), seconds);
        }
        self.slow(&mut seen, requests);
        seen
    }

    /// Requests of which some fail, each for a reason of its own.
    fn count(&mut self, seen: &mut Seen, requests: Arms, failures: Arms) {
        for arm in 0..2 {
            let runs = self.runs.count(arm, requests[arm]);
            seen.requests[arm] += requests[arm];
            seen.failures[arm] += failures[arm];
            seen.causes[0].of[arm] += runs;
            // Whether a run failed is seen by the first of it that ends.
            let part = runs as f64 / requests[arm].max(1) as f64;
            seen.causes[0].events[arm] += self.chance.binomial(failures[arm], part.min(1.0)).min(runs);
        }
    }

    /// Runs that fail with everybody in them.
    fn faults(&mut self, seen: &mut Seen, requests: Arms) {
        if !self.scene.batches {
            return;
        }
        for arm in 0..2 {
            let faults = self.chance.binomial(self.runs.count(arm, requests[arm]), FAULTS);
            let fallen: u64 = (0..faults).map(|_| self.runs.size(&mut self.chance, arm)).sum();
            let causes = &mut seen.causes[0];
            causes.events[arm] = (causes.events[arm] + faults).min(causes.of[arm]);
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

    /// Some seconds in which all requests fail: at once and each on its own, one run after the other for a second and all that
    /// wait with it, or without any answer. In most minutes it begins or ends, so that they hold good runs too.
    fn outage(&mut self, seen: &mut Seen, rates: [f64; 2], seconds: f64) {
        let each = if self.scene.retries { 1.0 + RETRIES as f64 } else { 1.0 };
        let (kind, mut failed) = (self.chance.bits() % 3, [0; 2]);
        for arm in 0..2 {
            let requests = self.chance.poisson(rates[arm] * each * seconds);
            let causes = match kind {
                0 => requests,
                1 => requests.min(seconds as u64),
                _ => requests.min(1),
            };
            seen.requests[arm] += requests;
            seen.failures[arm] += requests;
            failed[arm] = causes;
        }
        let (told, delay) = match kind {
            1 => (rates.map(|rate| rate.min(1.0)), 0.0),
            2 => (rates, PATIENCE),
            _ => (rates, 0.0),
        };
        // The champion's first failure, and those of the challenger that come before it.
        let (mut early, first) = ([failed[0].min(1), 0], told[1] / (told[0] + told[1]));
        while early[1] < failed[1] && self.chance.happens(first) {
            early[1] += 1;
        }
        for arm in 0..2 {
            for (group, causes) in seen.causes.iter_mut().zip([early[arm], failed[arm] - early[arm]]) {
                group.of[arm] += causes;
                group.events[arm] += causes;
            }
        }
        seen.trips = seen.trips.max(self.streak(rates, told, seconds, delay));
    }

    /// After each failure of the champion's, its next run and what the challenger ran until then.
    fn part(&mut self, seen: &mut Seen) {
        let [Group { of, events }, ill] = &mut seen.causes;
        let after = events[0].min(of[0] - events[0]);
        let moved = [after, (after * of[1]).div_ceil(of[0].max(1)).min(of[1] - events[1])];
        for arm in 0..2 {
            of[arm] -= moved[arm];
            ill.of[arm] += moved[arm];
        }
    }

    /// Whether an outage trips, and whether the champion seems healthy then. So many failures a second are told, each after a
    /// delay, and good answers at once.
    fn streak(&mut self, rates: [f64; 2], told: [f64; 2], seconds: f64, delay: f64) -> Option<bool> {
        let chance = &mut self.chance;
        let first = chance.exponential(1.0 / told[1]);
        let last = first + (1..FAILURES).map(|_| chance.exponential(1.0 / told[1])).sum::<f64>();
        let looked = last + delay + TICK * chance.uniform();
        let after = (looked - seconds).max(0.0);
        // A good answer of the challenger's ends it.
        if last > seconds || chance.happens(1.0 - libm::exp(-rates[1] * after)) {
            return None;
        }
        // Failures from before it was over, those told after it, and the good answers between these.
        let lengths = [seconds.min(looked), looked.min(seconds + delay)].map(|end| (end - delay - first).max(0.0));
        let before = chance.poisson(told[0] * lengths[0]);
        let [late, good] = [told[0] * (lengths[1] - lengths[0]), rates[0] * after];
        let count = chance.poisson(late + good);
        let mut streak = Streak::default();
        (0..FAILURES).for_each(|_| streak.challenger(true));
        (0..before).for_each(|_| streak.champion(true));
        let mut is_answered = before == 0;
        for _ in 0..count {
            is_answered = chance.happens(good / (late + good));
            streak.champion(!is_answered);
        }
        Some(if self.strip == Strip::Window { is_answered } else { streak.is_champion_healthy() })
    }

    fn slow(&mut self, seen: &mut Seen, requests: Arms) {
        if let Some(times) = &mut self.times {
            seen.slow = self.runs.slow(times, requests);
        }
    }
}
