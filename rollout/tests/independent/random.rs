//! What may a rollout be, and what may it be told, by lot?
//!
//! Plans with few or many rules, worlds that are kind to the challenger or not, and people who get in the way. Nothing here
//! is likely; it is to reach every rule of the judge.

use std::array;

use serde_json::{Value, json};
use tiltyard_rollout::evidence::{Arms, Block, Events, Group, Labels, Matured, Moments, Outcomes, Pairs, Share};
use tiltyard_rollout::judge::Stage::{Draft, Validating};
use tiltyard_rollout::judge::{Command, Event, Judge, State, Trip};
use tiltyard_rollout::plan::{MILLION, Plan};
use tiltyard_rollout::verify::{Entry, Record};

#[path = "../simulation/lot.rs"]
#[allow(dead_code, reason = "the simulations draw more kinds of numbers")]
mod lot;

pub(crate) use lot::Lot;

const MINUTE_MS: u64 = 60_000;

/// So many slices that few keys are remembered for each.
const MANY_SLICES: u64 = 3_000;

/// Keys with an event in one block of an arm.
const KEYS_MAX: u64 = 60;

fn one_of<T: Copy>(lot: &mut Lot, from: &[T]) -> T {
    from[lot.below(from.len() as u64) as usize]
}

/// A rollout from its start to somewhere.
pub(crate) fn rollout(seed: u64) -> Record {
    let lot = &mut Lot::new(seed);
    let (plan, world) = (plan(lot), World::new(lot));
    // As the log has it: what numbers become on their way through text.
    let plan: Plan = serde_json::from_str(&plan.canonical()).expect("it is a plan");
    let mut judge = Judge::new(plan.clone()).expect("it is a good plan");
    let (mut entries, mut now_ms, mut left) = (Vec::new(), 1_700_000_000_000, 50 + lot.below(50));
    while left > 0 {
        now_ms += lot.below(3 * MINUTE_MS);
        let event = world.event(lot, &judge, now_ms);
        // What makes no sense here is refused, and not on the record.
        if let Ok(verdict) = judge.feed(&event) {
            entries.push(Entry::new(event, &verdict).expect("it is JSON"));
        }
        let more = if judge.state() == State::Promoted { 30 } else { 3 };
        left = if judge.state().is_terminal() { (left - 1).min(more) } else { left - 1 };
    }
    Record { plan, entries }
}

fn guardrail(lot: &mut Lot, metric: &str) -> Value {
    let (tolerance, margin) = (one_of(lot, &[0.0, 0.25, 2.0]), one_of(lot, &[0.3, 1.0, 5.0]));
    let mut rule = json!({ "metric": metric, "tolerance": tolerance, "margin": margin });
    if lot.happens(0.6) {
        rule["floor"] = one_of(lot, &[0.001, 0.05, 0.2]).into();
    }
    rule
}

fn primary(lot: &mut Lot) -> Value {
    let mut rule = json!({
        "metric": "right", "design": one_of(lot, &["split", "paired_shadow"]),
        "label_depends_on_decision": lot.happens(0.3), "horizon_ms": 1_000, "missing": "exclude",
        "planned_units": one_of(lot, &[1_000, 50_000]),
    });
    let (gain, scale, unit) = one_of(
        lot,
        &[
            ("value", None, 1.0),
            ("accuracy", None, 1.0),
            ("absolute_error", Some(40.0), 40.0),
            ("squared_error", Some(0.5), 0.25),
        ],
    );
    rule["gain"] = gain.into();
    if let Some(scale) = scale {
        rule["scale"] = scale.into();
    }
    let margin = one_of(lot, &[None, None, None, Some(0.0), Some(0.05)]);
    if let Some(margin) = margin {
        rule["margin"] = (margin * unit).into();
    }
    if lot.happens(0.4) {
        rule["least_gain"] = (one_of(lot, &[0.01, 0.2]) * unit).into();
    }
    if lot.happens(0.5) {
        rule["harm"] = ((margin.unwrap_or(0.0) + one_of(lot, &[0.0, 0.02])) * unit).into();
    }
    rule
}

fn plan(lot: &mut Lot) -> Plan {
    let count = 1 + lot.below(4);
    let step = |at: u64, lot: &mut Lot| {
        let gates: &[&str] = if lot.happens(0.1) { &["review"] } else { &[] };
        let (time, units) = (lot.below(3) * MINUTE_MS, lot.below(3) * 500);
        json!({ "share": at * 100_000, "min_time_ms": time, "min_units": units, "gates": gates })
    };
    let steps: Vec<Value> = (1..=count).map(|at| step(at, lot)).collect();
    let mut metrics = vec!["errors", "slow_p90", "slow_p99"];
    metrics.truncate(1 + lot.below(3) as usize);
    let slow_over = lot.happens(0.3).then_some(50_000);
    metrics.extend(slow_over.map(|_| "slow_over"));
    let guardrails: Vec<Value> = metrics.iter().map(|metric| guardrail(lot, metric)).collect();
    let count = one_of(lot, &[0, 0, 0, 3, 3, MANY_SLICES]);
    let slices: Vec<Value> = (0..count).map(|at| guardrail(lot, &format!("errors@{at}"))).collect();
    let mut comparisons = vec![
        json!({ "metric": "flips", "rule": { "retrain": 0.1 } }),
        json!({ "metric": "mismatch", "rule": { "refactor": 0.01 } }),
        json!({ "metric": "distance", "rule": "report" }),
    ];
    comparisons.retain(|_| lot.happens(0.2));
    let primary = if lot.happens(0.7) { primary(lot) } else { Value::Null };
    let [gates, entry_gates] =
        [["approval"], ["backtest"]].map(|gate| if lot.happens(0.15) { gate.to_vec() } else { vec![] });
    let (min_time, max_time) = (lot.below(2) * 20 * MINUTE_MS, one_of(lot, &[30, 90, 20_000]) * MINUTE_MS);
    let mut plan = json!({
        "endpoint": "risk", "revision": 1, "key": "per_request", "salt": "7f0c1d",
        "arms": [
            { "name": "old", "model": "risk", "version": 1, "role": "champion" },
            { "name": "new", "model": "risk", "version": 2, "role": { "challenger": { "weight": 0, "final_weight": 500_000 } } },
        ],
        "steps": steps,
        "policy": {
            "alpha_guardrails": one_of(lot, &[0.001, 0.05]), "alpha_primary": one_of(lot, &[0.01, 0.05]),
            "guardrails": guardrails, "slices": slices, "comparisons": comparisons, "primary": primary,
            "shadow_time_ms": lot.below(2) * MINUTE_MS, "min_time_ms": min_time, "max_time_ms": max_time,
            "min_units": lot.below(2) * 3_000, "gates": gates, "entry_gates": entry_gates, "slow_over_us": slow_over,
        },
    });
    if lot.happens(0.6) {
        plan["policy"]["output"] =
            json!({ "name": "score", "tolerance": one_of(lot, &[0.0, 0.25]), "roll_back": lot.happens(0.5) });
    }
    serde_json::from_value(plan).expect("it is a plan")
}

/// What the traffic is like.
struct World {
    /// Whether requests stick to arms by key.
    has_keys: bool,
    /// Units of a block.
    units: f64,
    /// How often a unit has an event, in the champion's arm.
    rate: f64,
    /// How much more often in the challenger's, everywhere, in one slice, and after the promotion.
    ratio: f64,
    ratio_of_slice: f64,
    ratio_of_winner: f64,
    /// The challenger's units, and labels, that are lost.
    units_lost: f64,
    labels_lost: f64,
    /// Pairs that are dropped, and those of the others that differ.
    dropped: f64,
    differ: f64,
    /// By how much the challenger's outcomes are better.
    gain: f64,
    /// Whether outcomes are 0 or 1.
    is_binary: bool,
    /// How many more of the challenger's answers fall into the first bin than into the others, each.
    shift: f64,
}

/// Bins of the output.
const BINS: usize = 4;

impl World {
    fn new(lot: &mut Lot) -> World {
        World {
            has_keys: lot.happens(0.5),
            units: one_of(lot, &[300.0, 3_000.0, 50_000.0]),
            rate: one_of(lot, &[0.0, 0.003, 0.03]),
            ratio: one_of(lot, &[1.0, 1.0, 1.0, 1.0, 0.7, 3.0]),
            ratio_of_slice: one_of(lot, &[1.0, 1.0, 6.0]),
            ratio_of_winner: one_of(lot, &[1.0, 5.0]),
            units_lost: if lot.happens(0.1) { 0.3 } else { 0.0 },
            labels_lost: if lot.happens(0.15) { 0.6 } else { 0.0 },
            dropped: one_of(lot, &[0.0, 0.0, 0.01, 0.08]),
            differ: one_of(lot, &[0.0, 0.02, 0.2]),
            gain: one_of(lot, &[-0.2, -0.1, 0.02, 0.1, 0.2, 0.3]),
            is_binary: lot.happens(0.7),
            shift: one_of(lot, &[0.0, 0.0, 2.0]),
        }
    }

    fn event(&self, lot: &mut Lot, judge: &Judge, now_ms: u64) -> Event {
        // Clocks are set back now and then.
        let time_ms = if lot.happens(0.05) { now_ms - 5 * MINUTE_MS } else { now_ms };
        let command = |command| Event::Command { time_ms, by: "ada".into(), command };
        let any = [Command::Pause, Command::Resume, Command::Step, Command::Promote, Command::Start, Command::Abort];
        match judge.state() {
            State::Running(Draft) if lot.happens(0.8) => return command(Command::Start),
            State::Running(Validating) if lot.happens(0.8) => {
                return Event::Validated {
                    time_ms,
                    fault: lot.happens(0.2).then(|| "a \"golden\" example fails".into()),
                };
            }
            State::Paused(_) | State::Halted(_) | State::Inconclusive(_) if lot.happens(0.3) => {
                return command(Command::Resume);
            }
            _ => {}
        }
        match lot.below(100) {
            0 => Event::Trip { time_ms, trip: trip(lot) },
            1..=6 => Event::Gate {
                time_ms,
                gate: one_of(lot, &["review", "approval", "backtest"]).into(),
                passed: lot.happens(0.7),
                evidence: lot.happens(0.5).then(|| "gain 0.02, \"shown\"".into()),
            },
            7..=12 => Event::Tick { time_ms },
            13 | 14 => command(one_of(lot, &any[..3])),
            15 if lot.happens(0.3) => command(one_of(lot, &any)),
            _ => Event::Block(self.block(lot, judge, time_ms)),
        }
    }

    fn block(&self, lot: &mut Lot, judge: &Judge, time_ms: u64) -> Block {
        let share = match (judge.share(), lot.happens(0.1)) {
            // Keys that were dealt anew, and the challenger already had some.
            (share, true) => Share { champion: MILLION - share, challenger: share / 2 },
            (share, false) => Share::of(share),
        };
        let w = share.challengers();
        let units = [lot.poisson(self.units * (1.0 - w)), lot.poisson(self.units * w * (1.0 - self.units_lost))];
        let mut block = Block::new(judge.blocks() + 1, time_ms, share);
        block.units = units;
        let ratio = if judge.state() == State::Promoted { self.ratio_of_winner } else { self.ratio };
        for metric in ["errors", "slow_p90", "slow_p99", "slow_over", "errors@0", "errors@1", "errors@2", "unheard_of"]
        {
            let is_run = metric.starts_with("slow_p");
            let ratio = if metric == "errors@1" { ratio * self.ratio_of_slice } else { ratio };
            let rates = [self.rate, (self.rate * ratio).min(1.0)];
            if lot.happens(0.9) {
                let events = match is_run {
                    true => Events::Runs(groups(lot, units.map(|units| 8 * units), rates)),
                    false => self.events(lot, units, rates),
                };
                block.events.insert(metric.into(), events);
            }
            if (is_run || metric == "errors" && self.units > 1_000.0) && lot.happens(0.9) {
                block.causes.insert(metric.into(), groups(lot, units, rates));
            }
        }
        block.bins.insert("unheard_of".into(), vec![units, [1, 2]]);
        if lot.happens(0.9) {
            block.bins.insert("output".into(), self.bins(lot, units));
        }
        if lot.happens(0.7) {
            block.pairs = self.pairs(lot);
        }
        if lot.happens(0.7) {
            block.labels.insert("right".into(), self.labels(lot, share));
        }
        block
    }

    fn events(&self, lot: &mut Lot, of: Arms, rates: [f64; 2]) -> Events {
        let events: Arms = array::from_fn(|arm| lot.binomial(of[arm], rates[arm]));
        if !self.has_keys {
            return Events::Every { of, events };
        }
        // Some keys come back.
        let keys = events.map(|count| {
            let mut keys: Vec<u64> = (0..count.min(KEYS_MAX)).map(|_| Lot::new(lot.below(1 << 14)).bits()).collect();
            keys.sort_unstable();
            keys.dedup();
            keys
        });
        Events::Firsts { of, keys }
    }

    /// Where answers fall; now and then another bin is found.
    fn bins(&self, lot: &mut Lot, units: Arms) -> Vec<Arms> {
        let count = BINS as u64 + lot.below(2);
        let each = |bin: u64, arm: usize| if bin == 0 && arm == 1 { 1.0 + self.shift } else { 1.0 };
        let bin = |bin, lot: &mut Lot| array::from_fn(|arm| lot.binomial(units[arm] / 4, each(bin, arm) / 4.0));
        (0..count).map(|at| bin(at, lot)).collect()
    }

    fn pairs(&self, lot: &mut Lot) -> Pairs {
        let sampled = lot.below(1_000);
        let dropped = lot.binomial(sampled, self.dropped);
        let (mut differ, mut distance) = (Moments::default(), Moments::default());
        for _ in dropped..sampled {
            differ.add(f64::from(u8::from(lot.happens(self.differ))));
            distance.add(lot.uniform());
        }
        let values = [("flips", differ), ("mismatch", differ), ("distance", distance)];
        Pairs { sampled, dropped, values: values.map(|(metric, values)| (metric.into(), values)).into() }
    }

    fn labels(&self, lot: &mut Lot, share: Share) -> Labels {
        let mut labels = Labels { is_binary: self.is_binary, ..Labels::default() };
        for share in [share, Share::of(100_000)] {
            let (all, w) = (lot.below(400), share.challengers());
            let count = lot.binomial(all, w);
            let counts = [all - count, count];
            let arrived = [counts[0], lot.binomial(counts[1], 1.0 - self.labels_lost)];
            let outcomes = array::from_fn(|arm| self.outcomes(lot, counts[arm], arm));
            labels.matured.push(Matured { share, outcomes, arrived });
        }
        for _ in 0..lot.below(400) {
            labels.add_pair(self.difference(lot));
        }
        labels
    }

    fn outcomes(&self, lot: &mut Lot, count: u64, arm: usize) -> Outcomes {
        let mut outcomes = Outcomes::default();
        for _ in 0..count {
            let (z, better) = (lot.normal(), self.gain * arm as f64);
            match self.is_binary {
                true => outcomes.add(f64::from(u8::from(lot.happens(0.6 + better))), 0.0),
                false => outcomes.add(3.0 + z + 0.1 * lot.normal() + better, z),
            }
        }
        outcomes
    }

    /// Loss of the champion − loss of the challenger.
    fn difference(&self, lot: &mut Lot) -> f64 {
        if !self.is_binary {
            return (lot.uniform() - 0.5 + self.gain).clamp(-1.0, 1.0);
        }
        match lot.uniform() {
            u if u < 0.15 - self.gain / 2.0 => -1.0,
            u if u > 0.85 - self.gain / 2.0 => 1.0,
            _ => 0.0,
        }
    }
}

fn trip(lot: &mut Lot) -> Trip {
    match lot.below(12) {
        0 => Trip::Crash,
        1 => Trip::HealthChecks(3),
        2 => Trip::Memory,
        3 | 4 => Trip::Replaced,
        _ => Trip::Failures { count: 17 + lot.below(6) as u32, is_champion_healthy: lot.happens(0.5) },
    }
}

/// Runs by like condition, in as many groups as it happens.
fn groups(lot: &mut Lot, units: Arms, rates: [f64; 2]) -> Vec<Group> {
    let group = |lot: &mut Lot| {
        let of = units.map(|units| lot.below(units / 4 + 2));
        Group { of, events: array::from_fn(|arm| lot.binomial(of[arm], rates[arm])) }
    };
    let mut groups: Vec<Group> = (0..lot.below(5)).map(|_| group(lot)).collect();
    groups.sort_unstable();
    groups
}
