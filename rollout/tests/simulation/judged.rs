//! What becomes of whole rollouts, from the start to an end?

use tiltyard_rollout::evidence::{Block, Events, Share};
use tiltyard_rollout::judge::{Command, Event, Judge, State};
use tiltyard_rollout::plan::Plan;

use super::{lot::Lot, median};

const MINUTE_MS: u64 = 60_000;

/// How many rollouts ended how.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ends {
    pub(crate) promoted: u64,
    pub(crate) rolled_back: u64,
    pub(crate) others: u64,
    /// The median number of the challenger's failures above its base rate.
    pub(crate) excess: f64,
}

fn plan() -> Plan {
    let step = |share, minutes: u64| serde_json::json!({ "share": share, "min_time_ms": minutes * MINUTE_MS });
    let plan = serde_json::json!({
        "endpoint": "risk", "revision": 1, "key": "per_request", "salt": "7f0c1d",
        "arms": [
            { "name": "old", "model": "risk", "version": 1, "role": "champion" },
            { "name": "new", "model": "risk", "version": 2,
              "role": { "challenger": { "weight": 0, "final_weight": 500_000 } } },
        ],
        "steps": [step(10_000, 10), step(50_000, 10), step(250_000, 10), step(500_000, 30)],
        "policy": { "min_time_ms": 120 * MINUTE_MS, "max_time_ms": 240 * MINUTE_MS },
    });
    serde_json::from_value(plan).expect("it is a plan")
}

/// 1/5/25/50 % for 10/10/10/30 minutes and 60 more, a block each minute. Of 0.5 % errors, both arms have ten times as many
/// in one minute of fifty, and the traffic goes up and down by half.
pub(crate) fn rollouts(runs: u64, rps: f64, ratio: f64) -> Ends {
    let mut ends = Ends::default();
    let mut excesses = Vec::new();
    for seed in 0..runs {
        let lot = &mut Lot::new(seed);
        let (mut judge, mut excess) = (Judge::new(plan()).expect("it is a good plan"), 0.0);
        let mut feed = |event| judge.feed(&event).expect("it belongs here");
        feed(Event::Command { time_ms: 0, by: "ada".into(), command: Command::Start });
        feed(Event::Validated { time_ms: 0, fault: None });
        let mut verdict = feed(Event::Tick { time_ms: 0 });
        let mut minute = 0;
        while matches!(verdict.state, State::Running(_)) {
            minute += 1;
            let share = Share::of(verdict.share);
            let wave = 1.0 + 0.5 * libm::sin(minute as f64 / 20.0);
            let units = [1.0 - share.challengers(), share.challengers()].map(|w| lot.poisson(rps * 60.0 * wave * w));
            let base = if lot.happens(0.02) { 0.05 } else { 0.005 };
            let events = [lot.binomial(units[0], base), lot.binomial(units[1], base * ratio)];
            excess += events[1] as f64 - units[1] as f64 * base;
            let mut block = Block::new(minute, minute * MINUTE_MS, share);
            block.units = units;
            block.events.insert("errors".into(), Events::Every { of: units, events });
            verdict = feed(Event::Block(block));
        }
        match verdict.state {
            State::Promoted => ends.promoted += 1,
            State::RolledBack => ends.rolled_back += 1,
            _ => ends.others += 1,
        }
        excesses.push(excess);
    }
    Ends { excess: median(excesses), ..ends }
}
