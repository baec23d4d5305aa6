//! Where does a rollout stand, and what follows from the next piece of evidence?
//!
//! One state machine, fed with blocks, times and what people say. Each event gets one verdict; the same plan and events
//! give the same verdicts to the bit.
//!
//! | state | leaves by |
//! |---|---|
//! | draft → validating → shadow → canary(k) → baking | evidence, step by step |
//! | paused(from), halted(from), inconclusive(from) | a person (resume, promote, abort), or harm |
//! | promoted, rolled_back, futile, aborted | – |
//!
//! Guardrails are read in every state, also where a person is waited for. After the promotion they say roll back once
//! more, and the state stays: pointing the endpoint at the previous revision again is a new plan, not this rollout's.

mod scales;
mod verdict;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tiltyard_types::{Error, Result};

use crate::evidence::{Arms, Block};
use crate::paired::Paired;
use crate::plan::{MILLION, Plan};
use scales::Scales;

pub use verdict::{Decision, Harm, Quality, Reading, Reason, Shift, Stage, State, Verdict};

/// Something that a rollout is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Event {
    /// Evidence.
    Block(Block),
    /// Time has passed.
    Tick {
        /// Now, in milliseconds since 1970.
        time_ms: u64,
    },
    /// The challenger is ready, or cannot be made ready.
    Validated {
        /// Now, in milliseconds since 1970.
        time_ms: u64,
        /// Why it cannot.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fault: Option<String>,
    },
    /// Somebody answered for a gate.
    Gate {
        /// Now, in milliseconds since 1970.
        time_ms: u64,
        /// The gate's name.
        gate: String,
        /// Whether it lets through.
        passed: bool,
        /// What that rests on, in the words of whoever answers.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        evidence: Option<String>,
    },
    /// Something broke, and no statistics are needed.
    Trip {
        /// Now, in milliseconds since 1970.
        time_ms: u64,
        /// What it was.
        trip: Trip,
    },
    /// What a person wants.
    Command {
        /// Now, in milliseconds since 1970.
        time_ms: u64,
        /// Who.
        by: String,
        /// What.
        command: Command,
    },
}

/// What ends a rollout without statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Trip {
    /// The challenger's process or session is gone.
    Crash,
    /// So many health checks failed one after the other.
    HealthChecks(u32),
    /// It needs more memory than its budget.
    Memory,
    /// One of both is another than the one that was compared.
    Replaced,
    /// So many of its requests failed one after the other. Where the champion fails too, it is nobody's fault.
    Failures {
        /// How many.
        count: u32,
        /// Whether the champion answered well in the same window.
        is_champion_healthy: bool,
    },
}

/// What a person can want.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Begin.
    Start,
    /// Stay here, at this share.
    Pause,
    /// Go on from where it was stopped.
    Resume,
    /// On to the next stage, whatever is waited for.
    Step,
    /// Make the challenger the champion, whatever is waited for.
    Promote,
    /// End it.
    Abort,
}

impl Event {
    /// When it happened, in milliseconds since 1970.
    pub fn time_ms(&self) -> u64 {
        match self {
            Event::Block(block) => block.time_ms,
            Event::Tick { time_ms }
            | Event::Validated { time_ms, .. }
            | Event::Gate { time_ms, .. }
            | Event::Trip { time_ms, .. }
            | Event::Command { time_ms, .. } => *time_ms,
        }
    }
}

/// A rollout.
#[derive(Clone, Debug)]
pub struct Judge {
    plan: Plan,
    state: State,
    scales: Scales,
    now_ms: u64,
    verdicts: u64,
    blocks: u64,
    /// When it came to this stage.
    stage_ms: u64,
    /// The challenger's units in this stage.
    stage_units: u64,
    /// When the challenger first got a share.
    shared_ms: u64,
    /// When a rollout without a verdict is inconclusive.
    deadline_ms: u64,
    /// What was last said of each gate.
    gates: BTreeMap<String, bool>,
}

impl Judge {
    /// A draft of `plan`, which must be valid and have steps.
    pub fn new(plan: Plan) -> Result<Judge> {
        plan.validate()?;
        if plan.steps.is_empty() {
            return Err(Error::invalid("the plan has no steps: a rollout needs one at least, such as share = 50000"));
        }
        Ok(Judge {
            scales: Scales::new(&plan.policy),
            plan,
            state: State::Running(Stage::Draft),
            now_ms: 0,
            verdicts: 0,
            blocks: 0,
            stage_ms: 0,
            stage_units: 0,
            shared_ms: 0,
            deadline_ms: u64::MAX,
            gates: BTreeMap::new(),
        })
    }

    /// The state.
    pub fn state(&self) -> State {
        self.state
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// How many blocks it was fed: the next one's sequence is one more.
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// The challenger's share that the state asks for, in millionths; all of it once it is promoted.
    pub fn share(&self) -> u32 {
        let step = |at: usize| self.plan.steps.get(at).map_or(0, |step| step.share);
        match (self.state, self.state.stage()) {
            (State::Promoted, _) => MILLION,
            (_, Some(Stage::Canary(at))) => step(at),
            (_, Some(Stage::Baking)) => step(self.plan.steps.len() - 1),
            _ => 0,
        }
    }

    /// What every guardrail reads now.
    pub fn readings(&self) -> Vec<Reading> {
        self.scales.readings()
    }

    /// What every comparison of pairs shows now.
    pub fn comparisons(&self) -> Vec<Reason> {
        self.scales.comparisons().into_iter().map(|(_, reason)| reason).collect()
    }

    /// Units by arm so far: the champion's and the challenger's.
    pub fn units(&self) -> Arms {
        self.scales.units
    }

    /// What the outcomes show now; `None` where the plan declares none.
    pub fn quality(&self) -> Option<Quality> {
        self.scales.quality()
    }

    /// What pairs of losses show now, in either direction; `None` where the plan declares no outcome.
    pub fn paired(&self) -> Option<&Paired> {
        self.scales.paired()
    }

    /// Units by arm whose labels had come when they were old enough.
    pub fn labelled(&self) -> Arms {
        self.scales.labelled()
    }

    /// ln E of each output distribution against "both arms answer alike".
    pub fn shifts(&self) -> BTreeMap<String, f64> {
        self.scales.shifts()
    }

    /// How the watched output shifts; `None` where none is watched.
    pub fn shift(&self) -> Option<Shift> {
        self.scales.shift()
    }

    /// Takes in an event. What does not belong here (a block out of order, a command that makes no sense in this state) is
    /// an error, and changes nothing.
    pub fn feed(&mut self, event: &Event) -> Result<Verdict> {
        match event {
            Event::Block(block) => self.take(block)?,
            Event::Command { command, .. } => {
                self.commanded(*command)?;
            }
            Event::Validated { .. } if self.state != State::Running(Stage::Validating) => {
                return Err(Error::invalid(format!("the rollout is {}: nothing is being validated", self.state)));
            }
            _ => {}
        }
        self.now_ms = self.now_ms.max(event.time_ms());
        let (decision, reasons) = match event {
            Event::Block(_) | Event::Tick { .. } => self.look(),
            Event::Gate { gate, passed, .. } => {
                self.gates.insert(gate.clone(), *passed);
                self.look()
            }
            Event::Validated { fault, .. } => self.validated(fault.as_deref()),
            Event::Trip { trip, .. } => self.tripped(*trip),
            Event::Command { by, command, .. } => {
                let state = self.commanded(*command)?;
                let reasons = vec![Reason::Person { by: by.clone(), command: *command }];
                self.obey(*command, state);
                (Decision::Obey, reasons)
            }
        };
        self.verdicts += 1;
        let (time_ms, sequence, share) = (self.now_ms, self.verdicts, self.share());
        Ok(Verdict { sequence, time_ms, decision, state: self.state, share, reasons })
    }

    fn take(&mut self, block: &Block) -> Result<()> {
        let expected = self.blocks + 1;
        if block.sequence != expected {
            return Err(Error::invalid(format!("block {} is out of order: expected {expected}", block.sequence)));
        }
        block.validate()?;
        self.blocks = expected;
        self.stage_units += block.units[1];
        self.scales.add(block);
        Ok(())
    }

    /// What follows from the evidence.
    fn look(&mut self) -> (Decision, Vec<Reason>) {
        if self.state == State::Promoted {
            let found = self.scales.regressions();
            return if found.is_empty() { (Decision::NotYet, found) } else { (Decision::RollBack, found) };
        }
        let Some(stage) = self.state.stage().filter(|&stage| stage >= Stage::Shadow) else {
            return (Decision::NotYet, Vec::new());
        };
        let alarms = self.scales.alarms();
        if !alarms.is_empty() {
            return self.end(State::RolledBack, Decision::RollBack, alarms);
        }
        if matches!(self.state, State::Running(_) | State::Paused(_)) {
            let halts = self.scales.halts();
            if !halts.is_empty() {
                return self.end(State::Halted(stage), Decision::Halt, halts);
            }
        }
        if self.state != State::Running(stage) {
            return (Decision::NotYet, Vec::new());
        }
        let waits = match stage {
            Stage::Canary(step) => self.step_waits(step),
            Stage::Baking => self.promotion_waits(),
            _ => self.shadow_waits(),
        };
        if (stage > Stage::Shadow || self.scales.is_paired())
            && let Some(quality) = self.scales.quality().filter(|quality| quality.is_futile)
        {
            return self.end(State::Futile, Decision::Futile, vec![Reason::Primary(quality)]);
        }
        if waits.is_empty() {
            return if stage == Stage::Baking { self.promote() } else { self.advance(stage) };
        }
        if self.now_ms >= self.deadline_ms {
            return self.end(State::Inconclusive(stage), Decision::Inconclusive, waits);
        }
        (Decision::NotYet, waits)
    }

    fn end(&mut self, state: State, decision: Decision, reasons: Vec<Reason>) -> (Decision, Vec<Reason>) {
        self.state = state;
        (decision, reasons)
    }

    fn promote(&mut self) -> (Decision, Vec<Reason>) {
        let guardrails = self.scales.readings().into_iter().map(Reason::Guardrail);
        let reasons = guardrails.chain(self.scales.quality().map(Reason::Primary)).collect();
        self.scales.freeze();
        self.end(State::Promoted, Decision::Promote, reasons)
    }

    fn advance(&mut self, stage: Stage) -> (Decision, Vec<Reason>) {
        let reasons = match stage {
            Stage::Shadow => {
                let shown = self.scales.comparisons().into_iter().map(|(_, reason)| reason);
                let decided = self.scales.quality().filter(|_| self.scales.is_paired());
                shown.chain(decided.map(Reason::Primary)).collect()
            }
            _ => vec![self.elapsed(self.stage_ms, 0)],
        };
        self.enter(self.after(stage));
        (Decision::Advance, reasons)
    }

    /// The stage after this one; baking has none.
    fn after(&self, stage: Stage) -> Stage {
        match stage {
            Stage::Draft => Stage::Validating,
            Stage::Validating => Stage::Shadow,
            Stage::Shadow => Stage::Canary(0),
            Stage::Canary(step) if step + 1 < self.plan.steps.len() => Stage::Canary(step + 1),
            Stage::Canary(_) | Stage::Baking => Stage::Baking,
        }
    }

    fn enter(&mut self, stage: Stage) {
        match stage {
            Stage::Shadow => self.deadline_ms = self.now_ms.saturating_add(self.plan.policy.max_time_ms),
            Stage::Canary(0) => self.shared_ms = self.now_ms,
            _ => {}
        }
        (self.state, self.stage_ms, self.stage_units) = (State::Running(stage), self.now_ms, 0);
    }

    fn elapsed(&self, since_ms: u64, limit_ms: u64) -> Reason {
        Reason::Time { elapsed_ms: self.now_ms - since_ms, limit_ms }
    }

    fn time_wait(&self, since_ms: u64, limit_ms: u64) -> Option<Reason> {
        (self.now_ms - since_ms < limit_ms).then(|| self.elapsed(since_ms, limit_ms))
    }

    fn gate_waits<'a>(&'a self, gates: &'a [String]) -> impl Iterator<Item = Reason> + 'a {
        let closed = gates.iter().filter(|gate| self.gates.get(*gate) != Some(&true));
        closed.map(|gate| Reason::Gate { gate: gate.clone(), refused: self.gates.contains_key(gate) })
    }

    fn shadow_waits(&self) -> Vec<Reason> {
        let time = self.time_wait(self.stage_ms, self.plan.policy.shadow_time_ms);
        let open = self.scales.comparisons().into_iter().filter(|(passes, _)| !passes).map(|(_, reason)| reason);
        let waits = time.into_iter().chain(open).chain(self.gate_waits(&self.plan.policy.entry_gates));
        // Pairs need no share: who is better is known before anybody is answered by the challenger.
        let outcome = if self.scales.is_paired() { self.outcome_waits() } else { Vec::new() };
        waits.chain(outcome).collect()
    }

    /// The outcome where it is not shown to be good enough yet, or cannot be.
    fn outcome_waits(&self) -> Vec<Reason> {
        let Some(quality) = self.scales.quality() else { return Vec::new() };
        let refused = self.scales.pairs_refused();
        // Where a split decides instead, pairs are refused and nothing is waited for on their account.
        if quality.passes && (refused.is_none() || !self.scales.is_paired()) {
            return Vec::new();
        }
        std::iter::once(Reason::Primary(quality)).chain(refused).collect()
    }

    fn step_waits(&self, step: usize) -> Vec<Reason> {
        let Some(step) = self.plan.steps.get(step) else { return Vec::new() };
        let units = (self.stage_units < step.min_units)
            .then_some(Reason::Units { units: [0, self.stage_units], needed: step.min_units });
        let waits = self.time_wait(self.stage_ms, step.min_time_ms).into_iter().chain(units);
        waits.chain(self.gate_waits(&step.gates)).collect()
    }

    fn promotion_waits(&self) -> Vec<Reason> {
        let policy = &self.plan.policy;
        let mut waits: Vec<Reason> = self.time_wait(self.shared_ms, policy.min_time_ms).into_iter().collect();
        let units = self.scales.units;
        if units.iter().any(|&units| units < policy.min_units) {
            waits.push(Reason::Units { units, needed: policy.min_units });
        }
        waits.extend(self.scales.unproven().into_iter().map(Reason::Guardrail));
        waits.extend(self.outcome_waits());
        waits.extend(self.gate_waits(&policy.gates));
        waits
    }

    fn validated(&mut self, fault: Option<&str>) -> (Decision, Vec<Reason>) {
        match fault {
            None => {
                self.enter(Stage::Shadow);
                (Decision::Advance, Vec::new())
            }
            Some(fault) => {
                let reasons = vec![Reason::Invalid { fault: fault.into() }];
                self.end(State::Halted(Stage::Validating), Decision::Halt, reasons)
            }
        }
    }

    fn tripped(&mut self, trip: Trip) -> (Decision, Vec<Reason>) {
        let reasons = vec![Reason::Trip { trip }];
        let is_enough = match trip {
            Trip::Failures { count, .. } => count >= self.plan.policy.failures_max,
            Trip::Crash | Trip::HealthChecks(_) | Trip::Memory | Trip::Replaced => true,
        };
        let is_both = matches!(trip, Trip::Replaced | Trip::Failures { is_champion_healthy: false, .. });
        let stage = self.state.stage().filter(|&stage| stage >= Stage::Shadow);
        match (self.state, stage) {
            _ if !is_enough => (Decision::NotYet, reasons),
            (State::Promoted, _) if !is_both => (Decision::RollBack, reasons),
            (State::Running(_) | State::Paused(_), Some(stage)) if is_both => {
                self.end(State::Halted(stage), Decision::Halt, reasons)
            }
            (_, Some(_)) if !is_both => self.end(State::RolledBack, Decision::RollBack, reasons),
            _ => (Decision::NotYet, reasons),
        }
    }

    /// The state that a command leads to; an error where it makes no sense.
    fn commanded(&self, command: Command) -> Result<State> {
        let begun = self.state.stage().is_some_and(|stage| stage >= Stage::Shadow);
        let state = match (command, self.state) {
            (Command::Start, State::Running(Stage::Draft)) => Some(State::Running(Stage::Validating)),
            (Command::Pause, State::Running(stage)) if begun => Some(State::Paused(stage)),
            (Command::Resume, State::Paused(stage) | State::Halted(stage) | State::Inconclusive(stage)) => {
                Some(State::Running(stage))
            }
            (Command::Step, State::Running(stage)) if begun && stage < Stage::Baking => {
                Some(State::Running(self.after(stage)))
            }
            (Command::Promote, _) if begun => Some(State::Promoted),
            (Command::Abort, state) if !state.is_terminal() => Some(State::Aborted),
            _ => None,
        };
        state.ok_or_else(|| {
            let known = "start a draft, pause or step what is running, resume what was stopped, promote what has begun, \
                         abort what has not ended";
            let name = format!("{command:?}").to_lowercase();
            Error::invalid(format!("{name} is not possible while the rollout is {}: expected to {known}", self.state))
        })
    }

    fn obey(&mut self, command: Command, state: State) {
        match (command, self.state, state) {
            (Command::Start | Command::Step, _, State::Running(stage)) => self.enter(stage),
            (Command::Resume, State::Halted(_), _) => self.scales.begin_anew(),
            (Command::Resume, State::Inconclusive(_), _) => {
                self.deadline_ms = self.now_ms.saturating_add(self.plan.policy.max_time_ms);
            }
            (Command::Promote, ..) => self.scales.freeze(),
            _ => {}
        }
        self.state = state;
    }
}

#[cfg(test)]
mod tests;
