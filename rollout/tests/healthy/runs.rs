//! Which runs do an arm's requests come to, of which kind is each, and how many are slow?
//!
//! A request that finds the model idle runs alone, after a rest; whoever comes while it runs shares the next run. A kind is so
//! many rows after so long a rest, in the server's classes (`server/src/rollouts/gatherer/slow.rs`), and as there the champion's
//! first runs of a kind fix its cut points. How long a run takes depends on its rows and on how cold its caches have become.

use std::collections::BTreeMap;

use tiltyard_rollout::evidence::{Arms, Group};

use crate::chance::Chance;

/// Runs of the champion that a kind's cut points are made of, and which parts of them take no longer.
const SAMPLES: u64 = 500;
const CUTS: [f64; 2] = [0.9, 0.99];

/// Rests that are told apart, in seconds.
const RESTS: [f64; 18] = {
    let mut bounds = [f64::INFINITY; 18];
    bounds[0] = 0.0;
    let mut at = 1;
    while at < 17 {
        // Doublings of 128 µs.
        bounds[at] = 128e-6 * (1u64 << (at - 1)) as f64;
        at += 1;
    }
    bounds
};

/// How far run times of one kind and coldness are spread: the standard deviation of their logarithm.
const SPREAD: f64 = 0.3;

/// A run is slow where it takes longer than the cut point by a tenth, as a logarithm.
const SLACK: f64 = 0.095_310_179_804_324_87;

/// Usual times that differ by less are one, their mean: the spread hides it.
const ALIKE: f64 = 0.05;

/// How a model runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Model {
    /// Seconds of a run.
    pub(crate) run: f64,
    /// By how much longer a cold run takes, relative to a warm one.
    pub(crate) cold: f64,
    /// Seconds of rest after which it is cold by 63 %.
    pub(crate) cools: f64,
}

/// Runs of one kind, as one arm has them.
#[derive(Clone, Debug)]
struct Kind {
    name: (u32, usize),
    /// The share of the arm's requests that are in such runs.
    requests: f64,
    /// Requests in a run.
    size: f64,
    /// Logarithms of how long they usually take, with their weights.
    times: Vec<(f64, f64)>,
    /// The share above the cut points, once they stand.
    above: Option<[f64; 2]>,
}

/// The runs of both arms.
#[derive(Debug)]
pub(crate) struct Runs {
    model: Model,
    /// Whether kinds are not told apart: wrong.
    is_pooled: bool,
    /// Requests of each arm in a second, as bits.
    rates: [u64; 2],
    /// By rate, what an arm's runs are like.
    arms: BTreeMap<u64, Vec<Kind>>,
    samples: BTreeMap<(u32, usize), u64>,
    cuts: BTreeMap<(u32, usize), [f64; 2]>,
}

impl Runs {
    pub(crate) fn new(model: Model, is_pooled: bool) -> Runs {
        Runs { model, is_pooled, rates: [0; 2], arms: BTreeMap::new(), samples: BTreeMap::new(), cuts: BTreeMap::new() }
    }

    /// From here on, arms have so many requests in a second.
    pub(crate) fn at(&mut self, rates: [f64; 2]) {
        self.rates = rates.map(f64::to_bits);
        for (bits, rate) in self.rates.into_iter().zip(rates) {
            self.arms.entry(bits).or_insert_with(|| {
                let kinds = kinds(self.model, rate.max(1e-6));
                if self.is_pooled { vec![pooled(kinds)] } else { kinds }
            });
        }
    }

    /// How many runs so many requests of an arm come to.
    pub(crate) fn count(&self, arm: usize, requests: u64) -> u64 {
        let each = self.arm(arm).iter().map(|kind| kind.requests / kind.size).sum::<f64>();
        (requests as f64 * each).ceil() as u64
    }

    /// The size of one run of an arm.
    pub(crate) fn size(&self, chance: &mut Chance, arm: usize) -> u64 {
        let kinds = self.arm(arm);
        let mut left = chance.uniform() * kinds.iter().map(|kind| kind.requests / kind.size).sum::<f64>();
        let found = kinds.iter().find(|kind| {
            left -= kind.requests / kind.size;
            left <= 0.0
        });
        found.map_or(1, |kind| kind.size.round() as u64)
    }

    fn arm(&self, arm: usize) -> &[Kind] {
        self.arms.get(&self.rates[arm]).map_or(&[], Vec::as_slice)
    }

    /// How many runs were slow among those of these requests, at each cut point and by kind.
    pub(crate) fn slow(&mut self, chance: &mut Chance, requests: Arms) -> [Vec<Group>; 2] {
        let mut groups: BTreeMap<(u32, usize), [Group; 2]> = BTreeMap::new();
        for (at, bits) in self.rates.into_iter().enumerate() {
            let (mut left, mut share) = (requests[at], 1.0);
            for kind in self.arms.get_mut(&bits).into_iter().flatten() {
                let mine = chance.binomial(left, (kind.requests / share).min(1.0));
                (left, share) = (left - mine, (share - kind.requests).max(1e-12));
                let runs = (mine as f64 / kind.size + chance.uniform()) as u64;
                let Some(cuts) = self.cuts.get(&kind.name) else {
                    if at == 0 && runs > 0 {
                        *self.samples.entry(kind.name).or_default() += runs;
                    }
                    continue;
                };
                let above = *kind.above.get_or_insert_with(|| cuts.map(|cut| share_above(&kind.times, cut)));
                let over = chance.binomial(runs, above[0]);
                let far = chance.binomial(over, above[1] / above[0]);
                for (group, events) in groups.entry(kind.name).or_default().iter_mut().zip([over, far]) {
                    group.of[at] += runs;
                    group.events[at] += events;
                }
            }
        }
        self.freeze(chance);
        [0, 1].map(|cut| packed(groups.values().map(|groups| groups[cut])))
    }

    fn freeze(&mut self, chance: &mut Chance) {
        for kind in self.arms.get(&self.rates[0]).into_iter().flatten() {
            let count = self.samples.get(&kind.name).copied().unwrap_or_default();
            if count >= SAMPLES && !self.cuts.contains_key(&kind.name) {
                // The share above the k-th of n is Beta(n − k, k + 1).
                let cuts = CUTS.map(|part| {
                    let k = (part * count as f64).floor();
                    let above = chance.beta(count as f64 - k, k + 1.0);
                    cut(&kind.times, above) + SLACK
                });
                self.cuts.insert(kind.name, cuts);
            }
        }
    }
}

/// Groups without an event are put together, as in the server.
fn packed(groups: impl Iterator<Item = Group>) -> Vec<Group> {
    let (mut packed, quiet): (Vec<Group>, Vec<Group>) = groups.partition(|group| group.events != [0; 2]);
    let of = [0, 1].map(|arm| quiet.iter().map(|group| group.of[arm]).sum());
    if of != [0; 2] {
        packed.push(Group { of, events: [0; 2] });
    }
    packed.sort_unstable();
    packed
}

/// The kinds of an arm with so many requests in a second, of which those that find it idle run alone.
fn kinds(model: Model, rate: f64) -> Vec<Kind> {
    let waiting = rate * model.run;
    let busy = waiting / (1.0 + waiting);
    let mut found: BTreeMap<(u32, usize), Kind> = BTreeMap::new();
    // Weights are requests, until all are there.
    let mut add = |name, requests: f64, size: f64, times: &[f64]| {
        let kind = found.entry(name).or_insert(Kind { name, requests: 0.0, size: 0.0, times: Vec::new(), above: None });
        kind.size = (kind.size * kind.requests + size * requests) / (kind.requests + requests);
        kind.requests += requests;
        for &time in times {
            let weight = requests / times.len() as f64;
            match kind.times.iter_mut().find(|(_, other)| (other - time).abs() < ALIKE) {
                Some((sum, mean)) => {
                    *mean = (*mean * *sum + time * weight) / (*sum + weight);
                    *sum += weight;
                }
                None => kind.times.push((weight, time)),
            }
        }
    };
    let usual = |size: f64, rest: f64| {
        libm::log(0.7 + 0.3 * size) + libm::log1p(model.cold * -libm::expm1(-rest / model.cools))
    };
    for (class, bounds) in RESTS.windows(2).enumerate() {
        let [from, to] = [bounds[0], bounds[1]].map(|rest| libm::exp(-rate * rest));
        if from - to > 1e-6 {
            const PARTS: usize = 6;
            let rest = |part: usize| -libm::log(from - (part as f64 + 0.5) / PARTS as f64 * (from - to)) / rate;
            let times: [f64; PARTS] = std::array::from_fn(|part| usual(1.0, rest(part)));
            add((1, class), (1.0 - busy) * (from - to), 1.0, &times);
        }
    }
    // Runs of 1 + Poisson(waiting); of a run's requests, those of large ones weigh more.
    let most = (waiting + 6.0 * waiting.sqrt() + 3.0) as u32;
    let mut chance = libm::exp(-waiting);
    for others in 0..=most {
        let size = f64::from(others + 1);
        let requests = busy * chance * size / (1.0 + waiting);
        if requests > 1e-6 {
            add((rows_class(others + 1), 0), requests, size, &[usual(size, 0.0)]);
        }
        chance *= waiting / f64::from(others + 1);
    }
    let whole = |kind: Kind| Kind {
        times: kind.times.iter().map(|(weight, time)| (weight / kind.requests, *time)).collect(),
        ..kind
    };
    found.into_values().map(whole).collect()
}

/// All kinds as one.
fn pooled(kinds: Vec<Kind>) -> Kind {
    let runs = kinds.iter().map(|kind| kind.requests / kind.size).sum::<f64>();
    let times = kinds.iter().flat_map(|kind| {
        let weight = kind.requests / kind.size / runs;
        kind.times.iter().map(move |(each, time)| (each * weight, *time))
    });
    let requests = kinds.iter().map(|kind| kind.requests).sum::<f64>();
    Kind { name: (0, 0), requests, size: requests / runs, times: times.collect(), above: None }
}

fn rows_class(rows: u32) -> u32 {
    if rows <= 16 {
        return rows;
    }
    let doublings = rows.ilog2();
    16 + 4 * (doublings - 4) + ((rows >> (doublings - 2)) & 3) + 1
}

/// How much of a mixture of log-normal times is above `cut`.
fn share_above(times: &[(f64, f64)], cut: f64) -> f64 {
    let tail = |time: f64| libm::erfc((cut - time) / SPREAD / std::f64::consts::SQRT_2) / 2.0;
    times.iter().map(|(weight, time)| weight * tail(*time)).sum()
}

/// The cut point that so much of it is above.
fn cut(times: &[(f64, f64)], above: f64) -> f64 {
    let ends = times
        .iter()
        .fold([f64::INFINITY, f64::NEG_INFINITY], |[low, high], (_, time)| [low.min(*time), high.max(*time)]);
    let [mut low, mut high] = [ends[0] - 3.0 * SPREAD, ends[1] + 5.0 * SPREAD];
    for _ in 0..30 {
        let middle = (low + high) / 2.0;
        if share_above(times, middle) > above { low = middle } else { high = middle }
    }
    high
}
