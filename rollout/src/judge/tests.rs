//! Does a rollout go the way that its evidence and its people say?

use proptest::prelude::*;

use super::*;
use crate::evidence::{Arms, Events, Group, Labels, Matured, Moments, Outcomes, Share};
use crate::plan::tests::ramp;
use crate::plan::{Agreement, Comparison, Design, Gain, Guardrail, Missing, OUTPUT, Output, Primary};
use crate::verify::{Entry, Record, verify};

const MINUTE_MS: u64 = 60_000;

/// A judge, its time, and its record.
struct Rollout {
    judge: Judge,
    record: Record,
    now_ms: u64,
    blocks: u64,
}

fn policy(change: impl FnOnce(&mut Plan)) -> Plan {
    let mut plan = ramp(&[10_000, 100_000, 500_000]);
    (plan.policy.min_time_ms, plan.policy.max_time_ms) = (60 * MINUTE_MS, 600 * MINUTE_MS);
    change(&mut plan);
    plan
}

impl Rollout {
    fn new(plan: Plan) -> Rollout {
        let judge = Judge::new(plan.clone()).expect("it is a good plan");
        Rollout { judge, record: Record { plan, entries: Vec::new() }, now_ms: 1_700_000_000_000, blocks: 0 }
    }

    /// In its first step.
    fn shared(plan: Plan) -> Rollout {
        let mut rollout = Rollout::new(plan);
        rollout.command(Command::Start);
        rollout.feed(Event::Validated { time_ms: rollout.now_ms, fault: None });
        assert_eq!(rollout.tick().state, State::Running(Stage::Canary(0)));
        rollout
    }

    fn feed(&mut self, event: Event) -> Verdict {
        let verdict = self.judge.feed(&event).expect("it is taken in");
        self.record.entries.push(Entry::new(event, &verdict).expect("it is JSON"));
        verdict
    }

    fn command(&mut self, command: Command) -> Verdict {
        self.feed(Event::Command { time_ms: self.now_ms, by: "ada".into(), command })
    }

    fn tick(&mut self) -> Verdict {
        self.feed(Event::Tick { time_ms: self.now_ms })
    }

    fn gate(&mut self, gate: &str, passed: bool) -> Verdict {
        self.feed(Event::Gate { time_ms: self.now_ms, gate: gate.into(), passed, evidence: None })
    }

    fn trip(&mut self, trip: Trip) -> Verdict {
        self.feed(Event::Trip { time_ms: self.now_ms, trip })
    }

    /// Five minutes of 100,000 requests, with this many errors per million, and what else there is.
    fn block(&mut self, rates: [u64; 2], change: impl FnOnce(&mut Block)) -> Verdict {
        self.now_ms += 5 * MINUTE_MS;
        self.blocks += 1;
        let share = Share::of(self.judge.share());
        let challengers = u64::from(share.challenger) / 10;
        let units = [100_000 - challengers, challengers];
        let events: Arms = std::array::from_fn(|arm| units[arm] * rates[arm] / 1_000_000);
        let mut block = Block::new(self.blocks, self.now_ms, share);
        block.units = units;
        block.events.insert("errors".into(), Events::Every { of: units, events });
        change(&mut block);
        self.feed(Event::Block(block))
    }

    /// Blocks until something else than `not yet` or `advance` is said.
    fn runs(&mut self, rates: [u64; 2], change: impl Fn(&mut Block)) -> Verdict {
        for _ in 0..1_000 {
            let verdict = self.block(rates, &change);
            if !matches!(verdict.decision, Decision::NotYet | Decision::Advance) {
                return verdict;
            }
        }
        panic!("1,000 blocks without a verdict");
    }
}

fn stages(record: &Record) -> Vec<String> {
    let mut judge = Judge::new(record.plan.clone()).expect("it is a good plan");
    let mut stages = vec![judge.state().to_string()];
    for Entry { event, .. } in &record.entries {
        stages.push(judge.feed(event).expect("it was taken in before").state.to_string());
    }
    stages.dedup();
    stages
}

#[test]
fn a_good_challenger_is_promoted_step_by_step() {
    let mut rollout = Rollout::shared(policy(|_| ()));
    let verdict = rollout.runs([5_000, 5_000], |_| ());
    assert_eq!((verdict.decision, verdict.state, verdict.share), (Decision::Promote, State::Promoted, 1_000_000));
    let expected = ["draft", "validating", "shadow", "canary(1)", "canary(2)", "canary(3)", "baking", "promoted"];
    assert_eq!(stages(&rollout.record), expected);
    let [Reason::Guardrail(reading)] = &verdict.reasons[..] else { panic!("{verdict:?}") };
    assert!(reading.passes && reading.ratio.upper.is_some_and(|upper| upper < 1.5), "{reading:?}");
    assert_eq!(rollout.now_ms - 1_700_000_000_000, 60 * MINUTE_MS, "not before the least time");
}

#[test]
fn a_bad_one_is_rolled_back_with_the_figures() {
    let mut rollout = Rollout::shared(policy(|_| ()));
    let verdict = rollout.runs([5_000, 15_000], |_| ());
    assert_eq!((verdict.decision, verdict.state, verdict.share), (Decision::RollBack, State::RolledBack, 0));
    let [Reason::Guardrail(reading)] = &verdict.reasons[..] else { panic!("{verdict:?}") };
    assert!(reading.ln_e >= reading.threshold && reading.ratio.lower > 1.25 && !reading.passes, "{reading:?}");
    assert!(rollout.now_ms - 1_700_000_000_000 <= 20 * MINUTE_MS, "in the second step");
    // Nothing leads back.
    assert_eq!(rollout.block([5_000, 5_000], |_| ()).state, State::RolledBack);
    let event = Event::Command { time_ms: 0, by: "ada".into(), command: Command::Promote };
    let error = rollout.judge.feed(&event).expect_err("it has ended");
    assert!(error.message().contains("promote is not possible while the rollout is rolled_back"), "{error}");
}

#[test]
fn a_service_that_never_fails_promotes_by_the_floor() {
    let verdict = Rollout::shared(policy(|_| ())).runs([0, 0], |_| ());
    assert_eq!(verdict.decision, Decision::Promote);
    let without = policy(|plan| plan.policy.guardrails[0].floor = None);
    let verdict = Rollout::shared(without).runs([0, 0], |_| ());
    assert_eq!((verdict.decision, verdict.state), (Decision::Inconclusive, State::Inconclusive(Stage::Baking)));
}

#[test]
fn guardrails_are_read_while_somebody_thinks() {
    for stop in [Command::Pause, Command::Abort] {
        let mut rollout = Rollout::shared(policy(|_| ()));
        rollout.block([5_000, 5_000], |_| ());
        rollout.block([5_000, 5_000], |_| ());
        let verdict = rollout.command(stop);
        if stop == Command::Abort {
            assert_eq!((verdict.state, verdict.share), (State::Aborted, 0));
            continue;
        }
        assert_eq!((verdict.state, verdict.share), (State::Paused(Stage::Canary(1)), 100_000));
        assert_eq!(rollout.block([5_000, 5_000], |_| ()).decision, Decision::NotYet);
        assert_eq!(rollout.runs([5_000, 30_000], |_| ()).state, State::RolledBack);
    }
}

#[test]
fn after_the_promotion_a_regression_still_calls_for_a_rollback() {
    let mut rollout = Rollout::shared(policy(|_| ()));
    rollout.runs([5_000, 5_000], |_| ());
    (0..50).for_each(|_| assert_eq!(rollout.block([5_000, 5_000], |_| ()).decision, Decision::NotYet));
    let verdict = rollout.runs([5_000, 10_000], |_| ());
    assert_eq!((verdict.decision, verdict.state), (Decision::RollBack, State::Promoted));
    assert!(matches!(&verdict.reasons[..], [Reason::Regression { metric, .. }] if metric == "errors"));
    let trip = Trip::Failures { count: 20, is_champion_healthy: true };
    assert_eq!(rollout.trip(trip).decision, Decision::RollBack);
}

#[test]
fn a_broken_split_halts_and_a_person_decides() {
    let mut rollout = Rollout::shared(policy(|_| ()));
    let verdict = rollout.runs([5_000, 5_000], |block| block.units = [block.units[0] + 5_000, block.units[1] / 2]);
    assert_eq!((verdict.decision, verdict.state), (Decision::Halt, State::Halted(Stage::Canary(0))));
    assert!(matches!(verdict.reasons[..], [Reason::SampleRatio { .. }]), "{verdict:?}");
    assert_eq!(rollout.block([5_000, 5_000], |_| ()).decision, Decision::NotYet, "a person decides");
    assert_eq!(rollout.command(Command::Resume).state, State::Running(Stage::Canary(0)));
    assert_eq!(rollout.runs([5_000, 5_000], |_| ()).state, State::Promoted);
}

#[test]
fn failures_in_a_row_count_only_where_the_champion_is_well() {
    let trip = |count, is_champion_healthy| {
        Rollout::shared(policy(|_| ())).trip(Trip::Failures { count, is_champion_healthy }).state
    };
    assert_eq!(trip(19, true), State::Running(Stage::Canary(0)));
    assert_eq!(trip(20, true), State::RolledBack);
    assert_eq!(trip(20, false), State::Halted(Stage::Canary(0)));
    assert_eq!(Rollout::shared(policy(|_| ())).trip(Trip::Crash).state, State::RolledBack);
    assert_eq!(
        Rollout::new(policy(|_| ())).trip(Trip::Crash).state,
        State::Running(Stage::Draft),
        "nothing to go back from"
    );
}

#[test]
fn gates_and_units_hold_a_step_and_a_person_may_pass_them() {
    let plan = policy(|plan| {
        plan.steps[0].gates = vec!["review".into()];
        plan.steps[0].min_units = 5_000;
        plan.policy.gates = vec!["approval".into()];
    });
    let mut rollout = Rollout::shared(plan.clone());
    rollout.gate("review", false);
    (0..3).for_each(|_| assert_eq!(rollout.block([5_000, 5_000], |_| ()).decision, Decision::NotYet));
    let verdict = rollout.block([5_000, 5_000], |_| ());
    let refused = Reason::Gate { gate: "review".into(), refused: true };
    assert_eq!(verdict.reasons, [Reason::Units { units: [0, 4_000], needed: 5_000 }, refused.clone()]);
    rollout.block([5_000, 5_000], |_| ());
    assert_eq!(rollout.tick().reasons, [refused]);
    assert_eq!(rollout.gate("review", true).state, State::Running(Stage::Canary(1)));
    let verdict = rollout.runs([5_000, 5_000], |_| ());
    let unanswered = Reason::Gate { gate: "approval".into(), refused: false };
    assert_eq!((verdict.decision, verdict.reasons), (Decision::Inconclusive, vec![unanswered]));
    assert_eq!(rollout.command(Command::Resume).state, State::Running(Stage::Baking));
    assert_eq!(rollout.gate("approval", true).decision, Decision::Promote);
    // By hand, step by step.
    let mut rollout = Rollout::shared(plan);
    for expected in ["canary(2)", "canary(3)", "baking"] {
        assert_eq!(rollout.command(Command::Step).state.to_string(), expected);
    }
    assert_eq!(rollout.command(Command::Promote).state, State::Promoted);
}

#[test]
fn a_challenger_that_cannot_be_made_ready_waits_for_a_person() {
    let mut rollout = Rollout::new(policy(|_| ()));
    rollout.command(Command::Start);
    let fault = Some("golden example 3 fails".to_owned());
    let verdict = rollout.feed(Event::Validated { time_ms: rollout.now_ms, fault });
    assert_eq!((verdict.decision, verdict.state), (Decision::Halt, State::Halted(Stage::Validating)));
    assert_eq!(rollout.command(Command::Resume).state, State::Running(Stage::Validating));
    let ready = Event::Validated { time_ms: rollout.now_ms, fault: None };
    assert_eq!(rollout.feed(ready.clone()).state, State::Running(Stage::Shadow));
    assert!(rollout.judge.feed(&ready).is_err());
}

#[test]
fn a_shadow_must_agree_before_it_gets_a_share() {
    let plan = |rule| policy(|plan| plan.policy.comparisons.push(Comparison { metric: "flips".into(), rule }));
    let shadowed = |rule, flips: f64, dropped| {
        let mut rollout = Rollout::new(plan(rule));
        rollout.command(Command::Start);
        rollout.feed(Event::Validated { time_ms: rollout.now_ms, fault: None });
        let change = |block: &mut Block| {
            let mut values = Moments::default();
            (0..10_000).for_each(|row| values.add(f64::from(f64::from(row) < 10_000.0 * flips)));
            (block.pairs.sampled, block.pairs.dropped) = (10_000, dropped);
            block.pairs.values.insert("flips".into(), values);
        };
        let mut last = rollout.block([0, 0], change);
        for _ in 0..9 {
            if last.state == State::Running(Stage::Shadow) {
                last = rollout.block([0, 0], change);
            }
        }
        (last.state, last.reasons)
    };
    let (canary, shadow) = (State::Running(Stage::Canary(0)), State::Running(Stage::Shadow));
    assert_eq!(shadowed(Agreement::Refactor(1e-4), 0.0, 0).0, canary);
    assert_eq!(shadowed(Agreement::Refactor(1e-4), 0.001, 0).0, shadow);
    assert_eq!(shadowed(Agreement::Retrain(0.1), 0.08, 0).0, canary);
    assert_eq!(shadowed(Agreement::Retrain(0.1), 0.12, 0).0, shadow);
    assert_eq!(shadowed(Agreement::Report, 0.9, 0).0, canary);
    let (state, reasons) = shadowed(Agreement::Retrain(0.1), 0.0, 501);
    let [Reason::Comparison { n: 0, paused_blocks: 10, .. }] = reasons[..] else { panic!("{reasons:?}") };
    assert_eq!(state, shadow, "a comparison pauses above 5 % drops");
}

#[test]
fn a_slice_that_is_harmed_stops_the_rollout_for_a_person() {
    let slices = ["errors@de", "errors@fr", "errors@nz"].map(Guardrail::new);
    let mut rollout = Rollout::shared(policy(|plan| plan.policy.slices = slices.into()));
    let verdict = rollout.runs([5_000, 5_000], |block| {
        let harmed = [block.units[0] / 1_000, block.units[1] / 50];
        block.events.insert("errors@nz".into(), Events::Every { of: block.units, events: harmed });
    });
    assert_eq!(verdict.decision, Decision::Halt);
    let [Reason::Slices { found }] = &verdict.reasons[..] else { panic!("{verdict:?}") };
    assert_eq!(found.iter().map(|reading| reading.metric.as_str()).collect::<Vec<_>>(), ["errors@nz"]);
}

fn primary(design: Design, label_depends_on_decision: bool) -> Primary {
    Primary {
        metric: "right".into(),
        design,
        gain: Gain::Value,
        output: None,
        threshold: None,
        scale: None,
        label_depends_on_decision,
        horizon_ms: 1_000,
        missing: Missing::Exclude,
        margin: None,
        least_gain: Some(0.002),
        harm: None,
        planned_units: 50_000,
    }
}

/// Labels of 10,000 rows for each arm, of which so many thousandths are right.
fn matured(share: Share, right: [u64; 2]) -> Labels {
    let outcomes = right.map(|right| {
        let mut outcomes = Outcomes::default();
        (0..10_000).for_each(|row| outcomes.add(f64::from(u8::from(row < right * 10)), 0.0));
        outcomes
    });
    Labels { matured: vec![Matured { share, outcomes, arrived: [0, 0] }], ..Labels::default() }
}

#[test]
fn outcomes_decide_where_labels_come() {
    let decided = |right| {
        let mut rollout = Rollout::shared(policy(|plan| plan.policy.primary = Some(primary(Design::Split, true))));
        rollout.runs([5_000, 5_000], |block| {
            block.labels.insert("right".into(), matured(Share::of(500_000), right));
        })
    };
    let better = decided([900, 920]);
    assert_eq!(better.decision, Decision::Promote);
    let Some(Reason::Primary(quality)) = better.reasons.last() else { panic!("{better:?}") };
    assert!(
        (quality.gain - 0.02).abs() < 1e-9 && quality.interval.is_some_and(|found| found.lower > 0.0),
        "{quality:?}"
    );
    let worse = decided([900, 880]);
    assert_eq!((worse.decision, worse.state), (Decision::Futile, State::Futile));
}

/// So many rows of which one of both alone was right in these.
fn pairs(count: u64, discordant: Arms) -> Labels {
    let mut labels = Labels { is_binary: true, ..Labels::default() };
    for (count, d) in [(count - discordant[0] - discordant[1], 0.0), (discordant[0], -1.0), (discordant[1], 1.0)] {
        (0..count).for_each(|_| labels.add_pair(d));
    }
    labels
}

#[test]
fn pairs_decide_before_anybody_is_touched() {
    let shadow = State::Running(Stage::Shadow);
    let begun = |change: &dyn Fn(&mut Primary)| {
        let mut outcome = primary(Design::PairedShadow, false);
        outcome.least_gain = None;
        change(&mut outcome);
        let mut rollout = Rollout::new(policy(|plan| plan.policy.primary = Some(outcome)));
        rollout.command(Command::Start);
        rollout.feed(Event::Validated { time_ms: rollout.now_ms, fault: None });
        rollout
    };
    let fed = |rollout: &mut Rollout, discordant| {
        rollout.block([0, 0], |block| drop(block.labels.insert("right".into(), pairs(500, discordant))))
    };
    let mut rollout = begun(&|_| ());
    let verdict = fed(&mut rollout, [2, 4]);
    assert!(verdict.state == shadow && matches!(verdict.reasons[..], [Reason::Primary(_)]), "{verdict:?}");
    let verdict = fed(&mut rollout, [0, 20]);
    assert_eq!((verdict.decision, verdict.state), (Decision::Advance, State::Running(Stage::Canary(0))));
    assert!(matches!(&verdict.reasons[..], [Reason::Primary(quality)] if quality.passes), "{verdict:?}");
    // What is shown later counts too: it is promoted by what is known then.
    assert_eq!(fed(&mut rollout, [200, 0]).decision, Decision::Futile);
    // A person may have the guardrails proved meanwhile, and the promotion waits.
    let mut rollout = begun(&|_| ());
    rollout.command(Command::Step);
    let verdict = rollout.runs([0, 0], |_| ());
    assert!(matches!(verdict.reasons[..], [Reason::Primary(_)]), "{verdict:?}");
    assert_eq!(verdict.state, State::Inconclusive(Stage::Baking));
    // One that is worse ends there, whether or not somebody said what is worth it.
    let mut rollout = begun(&|_| ());
    let verdict = rollout.runs([0, 0], |block| drop(block.labels.insert("right".into(), pairs(500, [60, 20]))));
    assert_eq!((verdict.decision, verdict.state, verdict.share), (Decision::Futile, State::Futile, 0));
    assert!(!stages(&rollout.record).iter().any(|stage| stage.starts_with("canary")));
    assert!(verify(&rollout.record).is_ok());
    // With a margin it may be a little worse.
    let mut rollout = begun(&|outcome| outcome.margin = Some(0.5));
    let verdict = rollout.runs([0, 0], |block| drop(block.labels.insert("right".into(), pairs(500, [60, 20]))));
    assert_eq!(verdict.decision, Decision::Promote);
}

#[test]
fn pairs_of_errors_are_told_in_the_unit_of_the_label() {
    let found = |gain, scale: f64| {
        let outcome =
            Primary { gain, scale: Some(scale), least_gain: Some(0.5), ..primary(Design::PairedShadow, false) };
        let mut rollout = Rollout::new(policy(|plan| plan.policy.primary = Some(outcome)));
        rollout.command(Command::Start);
        rollout.feed(Event::Validated { time_ms: rollout.now_ms, fault: None });
        rollout.block([0, 0], |block| {
            let mut labels = Labels::default();
            (0..10_000).for_each(|_| labels.add_pair(0.25));
            block.labels.insert("right".into(), labels);
        });
        rollout.judge.quality().expect("it is declared")
    };
    let quality = found(Gain::AbsoluteError, 60.0);
    let interval = quality.interval.expect("of many");
    assert!((quality.gain - 15.0).abs() < 1e-6 && quality.ln_e.is_none() && quality.passes, "{quality:?}");
    assert!(interval.lower > 10.0 && interval.upper < 20.0 && !quality.is_futile, "{quality:?}");
    assert!((found(Gain::SquaredError, 2.0).gain - 1.0).abs() < 1e-6);
}

#[test]
fn harm_that_pairs_show_is_in_the_unit_of_the_label() {
    let decided = |harm| {
        let (gain, scale, margin) = (Gain::AbsoluteError, Some(60.0), Some(0.5));
        let outcome = Primary { gain, scale, margin, harm: Some(harm), ..primary(Design::PairedShadow, false) };
        let mut rollout =
            Rollout::new(policy(|plan| plan.policy.primary = Some(Primary { least_gain: None, ..outcome })));
        rollout.command(Command::Start);
        rollout.feed(Event::Validated { time_ms: rollout.now_ms, fault: None });
        // Each of them is 3 worse.
        rollout.block([0, 0], |block| {
            let mut labels = Labels::default();
            (0..10_000).for_each(|_| labels.add_pair(-0.05));
            block.labels.insert("right".into(), labels);
        })
    };
    let worse = decided(0.5);
    assert_eq!((worse.decision, worse.state), (Decision::RollBack, State::RolledBack), "{worse:?}");
    assert_eq!(decided(4.0).decision, Decision::Futile, "it is not shown to be so much worse");
}

#[test]
fn who_is_shown_to_be_worse_is_rolled_back_where_that_is_harm() {
    let decided = |harm: Option<f64>, right| {
        let mut rollout = Rollout::shared(policy(|plan| {
            plan.policy.primary =
                Some(Primary { least_gain: None, margin: Some(0.01), harm, ..primary(Design::Split, true) });
        }));
        let verdict = rollout.runs([5_000, 5_000], |block| {
            block.labels.insert("right".into(), matured(Share::of(500_000), right));
        });
        verify(&rollout.record).expect("it is proved");
        verdict
    };
    let worse = decided(Some(0.01), [900, 880]);
    assert_eq!((worse.decision, worse.state, worse.share), (Decision::RollBack, State::RolledBack, 0));
    let [Reason::Primary(quality)] = &worse.reasons[..] else { panic!("{worse:?}") };
    let Some(Harm { below, upper: Some(upper), is_shown: true }) = quality.harm else { panic!("{quality:?}") };
    assert!(
        below == -0.01 && upper < below && quality.interval.is_some_and(|found| found.upper < upper),
        "{quality:?}"
    );
    // Not so much worse, or nothing is harm.
    assert_eq!(decided(Some(0.01), [900, 897]).decision, Decision::Promote);
    let unsaid = decided(None, [900, 880]);
    assert_eq!(unsaid.decision, Decision::Inconclusive);
    assert!(matches!(&unsaid.reasons[..], [Reason::Primary(quality)] if quality.harm.is_none()), "{unsaid:?}");
    let text = serde_json::to_string(&unsaid.reasons).expect("it is JSON");
    assert!(!text.contains("harm"), "records of before say the same to the letter: {text}");
}

#[test]
fn outcomes_that_roll_back_share_the_chance_of_error_with_guardrails() {
    let threshold = |harm| {
        let plan = policy(|plan| plan.policy.primary = Some(Primary { harm, ..primary(Design::Split, true) }));
        Judge::new(plan).expect("it is a good plan").readings()[0].threshold
    };
    assert_eq!([threshold(None), threshold(Some(0.0))].map(crate::numbers::exp).map(f64::round), [1_000.0, 2_000.0]);
}

#[test]
fn pairs_decide_sooner_but_not_where_the_decision_makes_the_label() {
    let decided_by = |primary: Primary, discordant: Arms| {
        let plan = policy(|plan| plan.policy.primary = Some(primary));
        let mut rollout = Rollout::new(plan);
        rollout.command(Command::Start);
        rollout.feed(Event::Validated { time_ms: rollout.now_ms, fault: None });
        rollout.runs([5_000, 5_000], |block| drop(block.labels.insert("right".into(), pairs(1_000, discordant))))
    };
    let decided = |depends, discordant| decided_by(primary(Design::PairedShadow, depends), discordant);
    let better = decided(false, [15, 25]);
    let Some(Reason::Primary(quality)) = better.reasons.last() else { panic!("{better:?}") };
    assert!(better.decision == Decision::Promote && quality.ln_e.is_some_and(|ln_e| ln_e >= quality.threshold));
    assert_eq!(decided(false, [25, 15]).decision, Decision::Futile);
    let mut harm = primary(Design::PairedShadow, false);
    (harm.least_gain, harm.harm) = (None, Some(0.0));
    // Harm takes more evidence than that it is not worth it, which is known while nobody is answered by it.
    assert_eq!(decided_by(harm, [25, 15]).decision, Decision::Futile);
    let refused = decided(true, [15, 25]);
    assert_eq!(refused.decision, Decision::Inconclusive);
    assert!(
        matches!(&refused.reasons[..], [Reason::Primary(_), Reason::PairsRefused { why, .. }]
        if why.contains("only a split of live traffic decides")),
        "{refused:?}"
    );
}

#[test]
fn labels_that_one_arm_loses_halt_the_comparison() {
    let mut rollout = Rollout::shared(policy(|plan| plan.policy.primary = Some(primary(Design::Split, true))));
    let verdict = rollout.runs([5_000, 5_000], |block| {
        let mut labels = matured(Share::of(500_000), [900, 900]);
        labels.matured[0].arrived = [1_000, 800];
        block.labels.insert("right".into(), labels);
    });
    assert!(matches!(verdict.reasons[..], [Reason::LabelArrival { .. }]), "{verdict:?}");
    assert_eq!(verdict.decision, Decision::Halt);
}

#[test]
fn blocks_come_in_order_and_plans_have_steps() {
    let mut rollout = Rollout::shared(policy(|_| ()));
    let state = format!("{:?}", rollout.judge);
    let block = Event::Block(Block::new(2, 0, Share::of(10_000)));
    let error = rollout.judge.feed(&block).expect_err("the first is missing");
    assert_eq!(error.message(), "block 2 is out of order: expected 1");
    assert_eq!(format!("{:?}", rollout.judge), state, "and nothing has changed");
    let error = Judge::new(Plan { steps: Vec::new(), ..policy(|_| ()) }).expect_err("no steps");
    assert!(error.message().contains("the plan has no steps"));
}

#[test]
fn a_record_proves_its_verdicts_and_a_changed_one_does_not() {
    let mut rollout = Rollout::shared(policy(|_| ()));
    rollout.runs([5_000, 4_900], |_| ());
    rollout.block([5_000, 5_000], |_| ());
    let text = serde_json::to_string(&rollout.record).expect("it is JSON");
    let read = |text: &str| serde_json::from_str::<Record>(text).expect("it is a record");
    assert_eq!(verify(&read(&text)).expect("it is proved").state(), State::Promoted);
    let mut forged = read(&text);
    let Some(Entry { event: Event::Block(block), .. }) = forged.entries.get_mut(7) else { panic!("a block") };
    block.events.insert("errors".into(), Events::Every { of: [1, 1], events: [0, 1] });
    let error = verify(&forged).expect_err("it is forged");
    assert!(error.message().starts_with("entry ") && error.message().contains("but its evidence says"), "{error}");
    let mut other = read(&text);
    other.plan.policy.guardrails[0].margin = 0.4;
    assert!(verify(&other).is_err(), "another plan");
}

proptest! {
    /// Whatever it is told, and however badly: it ends once, what has ended stays, and its record proves it.
    #[test]
    fn the_table_of_states_holds(steps in prop::collection::vec((0u8..12, 0u64..20_000), 1..60)) {
        let mut rollout = Rollout::new(policy(|plan| plan.policy.min_time_ms = 10 * MINUTE_MS));
        for (step, rate) in steps {
            let before = rollout.judge.state();
            let commands = [
                Command::Start, Command::Pause, Command::Resume, Command::Step, Command::Promote, Command::Abort,
            ];
            let event = match step {
                0..=5 => Event::Command { time_ms: rollout.now_ms, by: "ada".into(), command: commands[usize::from(step)] },
                6 => Event::Validated { time_ms: rollout.now_ms, fault: None },
                7 => Event::Trip {
                    time_ms: rollout.now_ms,
                    trip: Trip::Failures { count: 20, is_champion_healthy: rate % 2 == 0 },
                },
                8 => Event::Tick { time_ms: rollout.now_ms + rate * 10_000 },
                _ => {
                    rollout.block([5_000, rate], |_| ());
                    prop_assert!(!before.is_terminal() || rollout.judge.state() == before);
                    continue;
                }
            };
            if let Ok(verdict) = rollout.judge.feed(&event) {
                rollout.record.entries.push(Entry::new(event, &verdict).expect("it is JSON"));
            }
            prop_assert!(!before.is_terminal() || rollout.judge.state() == before);
            if rollout.judge.state() == State::Running(Stage::Draft) {
                prop_assert_eq!(rollout.judge.share(), 0);
            }
        }
        prop_assert_eq!(verify(&rollout.record).expect("it is proved").state(), rollout.judge.state());
    }
}

/// In the first step, with errors by request and by cause in each of so many blocks, and ten without.
fn after_causes(blocks: usize, requests: impl Fn([u64; 2]) -> [u64; 2], events: [u64; 2]) -> State {
    let mut rollout = Rollout::shared(policy(|plan| plan.policy.failures_max = 1_000));
    for at in 0..blocks + 10 {
        rollout.block([0, 0], |block| {
            let failed = if at < blocks { requests(block.units) } else { [0, 0] };
            block.events.insert("errors".into(), Events::Every { of: block.units, events: failed });
            let events = if at < blocks { events } else { [0, 0] };
            block.causes.insert("errors".into(), vec![Group { of: [10_000, 1_000], events }]);
        });
        if rollout.judge.state().is_terminal() {
            break;
        }
    }
    rollout.judge.state()
}

#[test]
fn a_fault_that_fells_many_is_one_event() {
    let state = after_causes(1, |_| [0, 32], [0, 1]);
    assert!(matches!(state, State::Running(_)), "{state}");
    assert_eq!(after_causes(1, |_| [0, 32], [0, 32]), State::RolledBack, "as many faults are another thing");
}

#[test]
fn an_outage_of_everything_is_no_arms_fault_though_each_has_one() {
    let state = after_causes(10, |units| units.map(|units| units / 100), [1, 1]);
    assert!(matches!(state, State::Running(_)), "{state}");
    let alone = after_causes(10, |units| [units[0] / 100, units[1] / 10], [1, 1]);
    assert_eq!(alone, State::RolledBack, "by request and by cause it is harm");
}

/// Nor does the one alarm that began to be counted first.
#[test]
fn what_is_counted_both_ways_is_held_against_both_from_the_first_block() {
    let mut rollout = Rollout::shared(policy(|_| ()));
    rollout.block([0, 0], |block| {
        block.events.clear();
        block.causes.insert("errors".into(), vec![Group { of: [500, 500], events: [0, 5] }]);
    });
    assert!(rollout.judge.readings()[0].ln_e > 0.0);
    rollout.block([0, 0], |_| ());
    assert_eq!(rollout.judge.readings()[0].ln_e, 0.0, "by request there was none");
}

#[test]
fn slow_runs_are_counted_by_cause_alone() {
    let watched = |plan: &mut Plan| plan.policy.guardrails = vec![Guardrail::new("slow_p90")];
    let slow = |events| {
        let mut rollout = Rollout::shared(policy(watched));
        for _ in 0..10 {
            rollout.block([0, 0], |block| {
                // Kinds that one arm alone has tell nothing.
                let kinds = vec![Group { of: [0, 500], events: [0, 500] }, Group { of: [900, 100], events }];
                block.causes.insert("slow_p90".into(), kinds);
            });
        }
        rollout.judge
    };
    assert!(matches!(slow([90, 10]).state(), State::Running(_)));
    assert_eq!(slow([90, 20]).state(), State::RolledBack);
    let reading = &slow([90, 10]).readings()[0];
    assert_eq!((reading.events, reading.of), ([900, 5_100], [9_000, 6_000]));
    assert!(reading.ratio.lower < 1.0 && reading.ratio.upper.is_some_and(|upper| upper > 1.0), "{:?}", reading.ratio);
}

#[test]
fn a_disturbance_that_slows_a_row_of_runs_is_no_proof_by_their_number() {
    let watched = |plan: &mut Plan| plan.policy.guardrails = vec![Guardrail::new("slow_p90").with_floor(0.15)];
    let after = |runs: Arms, causes: Arms| {
        let mut rollout = Rollout::shared(policy(watched));
        for _ in 0..10 {
            rollout.block([0, 0], |block| {
                let runs = vec![Group { of: [900, 900], events: runs }];
                block.events.insert("slow_p90".into(), Events::Runs(runs));
                block.causes.insert("slow_p90".into(), vec![Group { of: [50, 50], events: causes }]);
            });
        }
        rollout.judge
    };
    assert!(matches!(after([0, 90], [0, 1]).state(), State::Running(_)), "one burst in each stretch");
    assert_eq!(after([0, 90], [0, 10]).state(), State::RolledBack);
    assert!(matches!(after([10, 10], [0, 10]).state(), State::Running(_)), "chance chose among the runs");
    let reading = &after([90, 90], [9, 1]).readings()[0];
    assert_eq!((reading.events, reading.of, reading.passes), ([900, 900], [9_000, 9_000], true));
}

#[test]
fn a_gate_may_stand_before_the_first_share() {
    let mut rollout = Rollout::new(policy(|plan| plan.policy.entry_gates = vec!["backtest".into()]));
    rollout.command(Command::Start);
    rollout.feed(Event::Validated { time_ms: rollout.now_ms, fault: None });
    let waits = |refused| [Reason::Gate { gate: "backtest".into(), refused }];
    let verdict = rollout.tick();
    assert_eq!(
        (verdict.state, verdict.share, verdict.reasons),
        (State::Running(Stage::Shadow), 0, waits(false).into())
    );
    assert_eq!(rollout.gate("backtest", false).reasons, waits(true));
    let evidence = Some("{\"verdict\":\"promote\"}".to_owned());
    let passed = Event::Gate { time_ms: rollout.now_ms, gate: "backtest".into(), passed: true, evidence };
    assert_eq!(rollout.feed(passed).state, State::Running(Stage::Canary(0)));
    let text = serde_json::to_string(&rollout.record).expect("it is JSON");
    assert!(text.contains("verdict"), "what it rests on is on the record");
    assert!(verify(&rollout.record).is_ok());
}

/// A rollout that watches its output, with so many thousandths of each arm's units in the first of two bins.
fn shifted(output: Output, thousandths: [u64; 2]) -> (Rollout, Verdict) {
    let mut rollout = Rollout::shared(policy(|plan| plan.policy.output = Some(output)));
    let verdict = rollout.runs([5_000, 5_000], |block| {
        let first: Arms = std::array::from_fn(|arm| block.units[arm] * thousandths[arm] / 1_000);
        let rest = std::array::from_fn(|arm| block.units[arm] - first[arm]);
        block.bins.insert(OUTPUT.into(), vec![first, rest]);
    });
    (rollout, verdict)
}

#[test]
fn answers_that_fall_elsewhere_stop_the_rollout_for_a_person() {
    let watched = Output { name: None, tolerance: 0.25, roll_back: false };
    assert_eq!(shifted(watched.clone(), [500, 500]).1.decision, Decision::Promote);
    assert_eq!(shifted(watched.clone(), [500, 550]).1.decision, Decision::Promote, "within the tolerance");
    let (mut rollout, verdict) = shifted(watched.clone(), [500, 700]);
    assert_eq!(verdict.decision, Decision::Halt);
    let [Reason::Output(shift)] = &verdict.reasons[..] else { panic!("{verdict:?}") };
    assert!(shift.ln_e >= shift.threshold && (shift.distance - 0.2).abs() < 1e-3 && shift.bins.len() == 2, "{shift:?}");
    assert!(matches!(rollout.command(Command::Resume).state, State::Running(_)), "a person has looked");
    assert_eq!(rollout.tick().decision, Decision::NotYet, "and it is looked at anew");
    let strict = Output { tolerance: 0.0, ..watched.clone() };
    assert_eq!(shifted(strict, [500, 550]).1.decision, Decision::Halt);
    let rolls_back = Output { roll_back: true, ..watched };
    assert_eq!(shifted(rolls_back, [500, 700]).1.state, State::RolledBack);
}

/// Which of two bins is called the first makes no difference.
#[test]
fn more_in_one_bin_is_less_in_the_other() {
    let shift = |thousandths| {
        let (rollout, _) = shifted(Output { name: None, tolerance: 0.25, roll_back: false }, thousandths);
        rollout.judge.shift().expect("it is watched")
    };
    let (more, less) = (shift([400, 700]), shift([600, 300]));
    assert_eq!(more.bins.iter().rev().collect::<Vec<_>>(), less.bins.iter().collect::<Vec<_>>());
    assert!((more.ln_e - less.ln_e).abs() < 1e-6 * more.ln_e.abs(), "{more:?} {less:?}");
}
