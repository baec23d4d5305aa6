//! How does a rollout go, from the start to an end, before the judge as it is?

use tiltyard_rollout::evidence::{Block, Events, Group, Share};
use tiltyard_rollout::judge::{Command, Event, Judge, Reason, State, Trip, Verdict};
use tiltyard_rollout::plan::Plan;

use crate::traffic::{FAILURES, Scene, Seen, Strip, Traffic};

const MINUTE_MS: u64 = 60_000;

/// The challenger's share, in millionths, and for how many minutes; the last until the end.
pub(crate) const RAMP: [(u32, u64); 4] = [(10_000, 10), (50_000, 10), (250_000, 10), (500_000, 30)];

/// How a rollout ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum End {
    Promoted,
    RolledBack,
    /// The test of the split stopped it.
    Halted,
    Inconclusive,
}

/// What became of a rollout.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) end: End,
    pub(crate) minutes: u64,
    /// The challenger's failures above its champion's rate.
    pub(crate) excess: f64,
    /// What rolled it back.
    pub(crate) why: Option<String>,
}

/// Minutes until the promotion, until it is inconclusive, and in a block once the ramp is over.
fn times(scene: &Scene, rps: f64) -> [u64; 3] {
    match (scene.is_long, rps < 50.0) {
        (true, _) => [1_440, 2_880, 15],
        (false, true) => [300, 600, 15],
        (false, false) => [120, 360, 5],
    }
}

fn plan(scene: &Scene, rps: f64) -> Plan {
    let [promotes, ends, _] = times(scene, rps);
    let last = promotes - RAMP[..3].iter().map(|(_, minutes)| minutes).sum::<u64>();
    let minutes = RAMP.map(|(share, minutes)| (share, if share == RAMP[3].0 { last } else { minutes }));
    let steps =
        minutes.map(|(share, minutes)| serde_json::json!({ "share": share, "min_time_ms": minutes * MINUTE_MS }));
    let key = if scene.crowd.is_some() { serde_json::json!({ "header": "x-user" }) } else { "per_request".into() };
    let watch = |metric: &str, floor: f64| serde_json::json!({ "metric": metric, "floor": floor });
    let plan = serde_json::json!({
        "endpoint": "risk", "revision": 1, "key": key, "salt": "7f0c1d",
        "arms": [
            { "name": "old", "model": "risk", "version": 1, "role": "champion" },
            { "name": "new", "model": "risk", "version": 2,
              "role": { "challenger": { "weight": 0, "final_weight": RAMP[3].0 } } },
        ],
        "steps": steps,
        // What is watched where nobody says: server/src/rollouts/begin.rs.
        "policy": {
            "min_time_ms": promotes * MINUTE_MS, "max_time_ms": ends * MINUTE_MS, "failures_max": FAILURES,
            "guardrails": [watch("errors", 0.001), watch("slow_p90", 0.15), watch("slow_p99", 0.02)],
        },
    });
    serde_json::from_value(plan).expect("it is a plan")
}

/// The evidence of some minutes as the server tells it, a block for each share.
fn blocks(seen: Seen, sequence: u64, minute: u64, share: Share, is_keyed: bool, strip: Strip) -> Vec<Block> {
    let mut stretches = seen.stretches;
    stretches.entry(share).or_default();
    if !is_keyed {
        stretches.retain(|of, _| *of == share);
    }
    let mut slow = Some(seen.slow);
    let mut found = Vec::new();
    for ((of, stretch), sequence) in stretches.into_iter().zip(sequence..) {
        let mut block = Block::new(sequence, minute * MINUTE_MS, of);
        let events = match is_keyed {
            true => Events::Firsts { of: stretch.units, keys: stretch.failed },
            false => Events::Every { of: seen.requests, events: seen.failures },
        };
        block.units = if is_keyed { stretch.units } else { seen.requests };
        if !matches!(strip, Strip::Requests | Strip::IllnessAndRequests) {
            block.events.insert("errors".into(), events);
        }
        if of == share {
            // By key and by cause is stricter than by key alone: to see that every request counts wrongly, nothing else may.
            if !matches!(strip, Strip::Causes | Strip::Keys) {
                block.causes.insert("errors".into(), causes(seen.causes, strip));
            }
            // Each run as a cause of its own: that alarms sooner than the server does, to whom a row of slow ones is one.
            for (name, groups) in ["slow_p90", "slow_p99"].into_iter().zip(slow.take().unwrap_or_default()) {
                block.causes.insert(name.into(), groups);
            }
        } else if strip != Strip::Causes {
            block.causes.insert("errors".into(), Vec::new());
        }
        found.push(block);
    }
    found
}

fn causes([well, ill]: [Group; 2], strip: Strip) -> Vec<Group> {
    let sum = |a: [u64; 2], b: [u64; 2]| [a[0] + b[0], a[1] + b[1]];
    let mut groups = vec![well, ill];
    if matches!(strip, Strip::Illness | Strip::IllnessAndRequests) {
        groups = vec![Group { of: sum(well.of, ill.of), events: sum(well.events, ill.events) }];
    }
    groups.sort_unstable();
    groups
}

/// Plays a rollout: of a seed, at so many requests a second, of a challenger that fails `ratio` times as often.
pub(crate) fn play(scene: Scene, rps: f64, ratio: f64, seed: u64, strip: Strip) -> Outcome {
    let mut judge = Judge::new(plan(&scene, rps)).expect("it is a good plan");
    let mut traffic = Traffic::new(scene, rps, ratio, seed, true, strip);
    let mut feed = |event: Event| judge.feed(&event).map(|verdict| (verdict, judge.blocks()));
    let tell = |command| Event::Command { time_ms: 0, by: "ada".into(), command };
    for event in [tell(Command::Start), Event::Validated { time_ms: 0, fault: None }] {
        feed(event).expect("it belongs here");
    }
    let (mut verdict, mut told) = feed(Event::Tick { time_ms: 0 }).expect("it belongs here");
    let [_, ends, later] = times(&scene, rps);
    let is_keyed = scene.crowd.is_some() && strip != Strip::Keys;
    let (mut minute, mut excess) = (0, 0.0);
    while matches!(verdict.state, State::Running(_)) {
        let share = Share::of(verdict.share);
        let end = minute + if minute < 60 { 1 } else { later };
        let until = RAMP[..3].iter().scan(0, |sum, (of, minutes)| {
            *sum += minutes;
            Some((*of, *sum))
        });
        let until = until.into_iter().find(|(of, _)| *of == verdict.share).map_or(ends + later, |(_, until)| until);
        let seen = traffic.seen(minute..end, share, until);
        excess += seen.excess();
        let trips = seen.trips;
        minute = end;
        for block in blocks(seen, told + 1, minute, share, is_keyed, strip) {
            (verdict, told) = feed(Event::Block(block)).expect("it belongs here");
            if !matches!(verdict.state, State::Running(_)) {
                break;
            }
        }
        if let (Some(is_champion_healthy), State::Running(_)) = (trips, verdict.state) {
            let trip = Trip::Failures { count: FAILURES, is_champion_healthy };
            (verdict, told) = feed(Event::Trip { time_ms: minute * MINUTE_MS, trip }).expect("it belongs here");
            if let State::Halted(_) = verdict.state {
                // Both failed: a person sees that it is over.
                (verdict, told) = feed(tell(Command::Resume)).expect("it was halted");
            }
        }
    }
    let end = match verdict.state {
        State::Promoted => End::Promoted,
        State::RolledBack => End::RolledBack,
        State::Halted(_) => End::Halted,
        _ => End::Inconclusive,
    };
    let why = (end == End::RolledBack).then(|| reasons(&verdict));
    Outcome { end, minutes: minute, excess, why }
}

fn reasons(verdict: &Verdict) -> String {
    let each = verdict.reasons.iter().map(|reason| match reason {
        Reason::Guardrail(reading) => {
            format!("{} {:?} of {:?}, ln E {:.1}", reading.metric, reading.events, reading.of, reading.ln_e)
        }
        other => format!("{other:?}"),
    });
    each.collect::<Vec<_>>().join("; ")
}
