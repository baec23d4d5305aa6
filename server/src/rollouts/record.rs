//! What does the log say of rollouts, and where does each stand by that alone?
//!
//! A rollout is on the record as its plan, and each event that it was told with the verdict that this got. A verdict is
//! heard only when the log has it: whoever dies in between finds, when it reads the log again, the same judge to the bit.
//!
//! | kind | data |
//! |---|---|
//! | `rollout.plan` | `{"rollout": id, "plan": the plan's canonical form, "declared": the digest of the file that wants it, if any}` |
//! | `rollout.event` | `{"rollout": id, "event": …, "verdict": …}` |
//! | `fleet.plan` | `{"endpoint": name, "plan": canonical form, or null where none is to hold, "by": who, "is_back": true}`: what people applied, or went back to, where replicas share the log |
//!
//! Where replicas share the log, each follows it ([`Record::follow`]), and whoever adds to it has read all of it: where others were
//! first, what they said is read, and the judge asked again.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tiltyard_registry::{self as registry, Address, Draft, Entry, Head, Limits, Log, Taken};
use tiltyard_rollout::judge::{Decision, Event, Judge, State, Verdict};
use tiltyard_rollout::plan::Plan;
use tiltyard_rollout::verify;
use tiltyard_types::{Error, Result};

use super::aim;
use super::past::Past;

/// What kinds of rollouts begin with. Those that this program does not know are errors: it could prove nothing.
const KINDS: &str = "rollout.";
const PLAN: &str = "rollout.plan";
const EVENT: &str = "rollout.event";
const APPLIED: &str = "fleet.plan";

/// So often is it decided anew because others were first.
const TRIES: usize = 32;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Begun {
    rollout: String,
    plan: Box<RawValue>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    declared: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Told {
    rollout: String,
    event: Event,
    verdict: Box<RawValue>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Applied {
    endpoint: String,
    plan: Option<Box<RawValue>>,
    by: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    is_back: bool,
}

/// What an endpoint's plan shall be, by the latest that the log says of it.
#[derive(Clone, Debug, PartialEq)]
pub enum Wanted {
    /// What becomes of this rollout.
    Rollout(String),
    /// What somebody applied; none where it was removed.
    Plan(Option<Box<Plan>>),
    /// What somebody went back to.
    Back(Box<Plan>),
}

/// What somebody did to an endpoint's plan.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// This one holds.
    Applied(Box<Plan>),
    /// This one holds again.
    WentBack(Box<Plan>),
    /// None does any more.
    Removed,
}

/// A rollout as the log proves it.
#[derive(Clone, Debug)]
pub struct Rollout {
    /// Where it stands.
    pub judge: Judge,
    /// The digest of what declared it; none where somebody began it by hand.
    pub declared: Option<String>,
    /// How many events it was told; each got a verdict.
    pub events: u64,
    /// The last verdict; of one that was stopped or has ended, the one that did that.
    pub last: Option<Verdict>,
    /// Whether its challenger became worse after the promotion.
    pub went_back: bool,
    /// When its last block was closed, in milliseconds since 1970; 0 before the first.
    pub counted_ms: u64,
    promoted_ms: Option<u64>,
    /// What was last said of each gate, and on what that rests.
    said: BTreeMap<String, Answer>,
}

impl Rollout {
    fn begun(judge: Judge, declared: Option<String>) -> Rollout {
        let said = BTreeMap::new();
        Rollout { judge, declared, events: 0, last: None, went_back: false, counted_ms: 0, promoted_ms: None, said }
    }

    /// Whether one that was promoted is still held against what the champion was: for as long as a rollout may take.
    pub fn is_watched(&self, now_ms: u64) -> bool {
        let time_max = self.judge.plan().policy.max_time_ms;
        self.promoted_ms.is_some_and(|promoted| now_ms.saturating_sub(promoted) <= time_max)
    }

    /// What was last said of a gate, and on what that rests.
    pub fn said(&self, gate: &str) -> Option<&Answer> {
        self.said.get(gate)
    }

    fn heard(&mut self, answer: Option<(String, Answer)>, verdict: &Verdict, past: Option<&mut Past>) {
        self.events += 1;
        self.said.extend(answer);
        let mut nobody = Past::default();
        let past = past.unwrap_or(&mut nobody);
        if verdict.state == State::Promoted {
            if self.promoted_ms.replace(self.promoted_ms.unwrap_or(verdict.time_ms)).is_none() {
                past.holds(&aim::after(self.judge.plan()));
            }
            if verdict.decision == Decision::RollBack && !std::mem::replace(&mut self.went_back, true) {
                past.went_back(&aim::before(self.judge.plan()));
            }
        } else if verdict.state.is_terminal() {
            past.holds(&aim::before(self.judge.plan()));
        }
        // What is seen after it was stopped, or has ended, does not say why.
        let goes_on = matches!(verdict.state, State::Running(_) | State::Paused(_));
        if verdict.decision != Decision::NotYet || goes_on {
            self.last = Some(verdict.clone());
        }
    }
}

/// What is said of a gate: whether it lets through, and on what that rests.
pub type Answer = (bool, Option<String>);

/// The gate that an event answers for, if it does.
fn answer(event: &Event) -> Option<(String, Answer)> {
    match event {
        Event::Gate { gate, passed, evidence, .. } => Some((gate.clone(), (*passed, evidence.clone()))),
        _ => None,
    }
}

/// All rollouts of a log. Those that have ended stay: they are some kilobytes each, and people start them.
#[derive(Clone, Debug, Default)]
pub struct Rollouts {
    by_id: BTreeMap<String, Rollout>,
    /// By endpoint, with the entry that says so.
    wanted: BTreeMap<String, (u64, Wanted)>,
    /// By endpoint.
    past: BTreeMap<String, Past>,
}

impl Rollouts {
    /// Takes in the next entry of the log; those of other kinds say nothing of rollouts. The error names an entry whose
    /// verdict is not what its evidence says, or that makes no sense after those before it.
    pub fn take(&mut self, entry: &Entry) -> Result<()> {
        let taken = match entry.kind.as_str() {
            PLAN => self.begin(entry),
            EVENT => self.tell(entry),
            APPLIED => self.applied(entry),
            kind if kind.starts_with(KINDS) => {
                Err(Error::unsupported(format!("{kind} is not known: expected a program as new as its writer")))
            }
            _ => Ok(()),
        };
        taken.map_err(|error| Error::new(error.kind(), format!("entry {}: {error}", entry.sequence)))
    }

    /// By id, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Rollout)> {
        self.by_id.iter().map(|(id, rollout)| (id.as_str(), rollout))
    }

    /// The rollout of this id.
    pub fn get(&self, id: &str) -> Result<&Rollout> {
        self.by_id.get(id).ok_or_else(|| unknown(id))
    }

    fn begin(&mut self, entry: &Entry) -> Result<()> {
        let Begun { rollout: id, plan, declared } = read(entry)?;
        self.check_new(&id)?;
        self.insert(id, Rollout::begun(judge(&plan)?, declared), entry.sequence);
        Ok(())
    }

    fn insert(&mut self, id: String, rollout: Rollout, sequence: u64) {
        let plan = rollout.judge.plan();
        let past = self.past.entry(plan.endpoint.clone()).or_default();
        if past.is_empty() {
            past.holds(&aim::before(plan));
        }
        self.wanted.insert(plan.endpoint.clone(), (sequence, Wanted::Rollout(id.clone())));
        self.by_id.insert(id, rollout);
    }

    fn applied(&mut self, entry: &Entry) -> Result<()> {
        let Applied { endpoint, plan, is_back, .. } = read(entry)?;
        let plan: Option<Box<Plan>> = plan
            .map(|plan| serde_json::from_str(plan.get()).map_err(|error| Error::invalid(format!("plan: {error}"))))
            .transpose()?;
        let past = self.past.entry(endpoint.clone()).or_default();
        match &plan {
            None => past.removed(),
            Some(plan) if is_back => past.went_back(plan),
            Some(plan) => past.holds(plan),
        }
        let wanted = match plan {
            Some(plan) if is_back => Wanted::Back(plan),
            plan => Wanted::Plan(plan),
        };
        self.wanted.insert(endpoint, (entry.sequence, wanted));
        Ok(())
    }

    /// What the log wants of each endpoint's plan, and which entry says so.
    pub fn wanted(&self) -> &BTreeMap<String, (u64, Wanted)> {
        &self.wanted
    }

    /// What held for an endpoint, as far as one may go back.
    pub fn past(&self, endpoint: &str) -> Option<&Past> {
        self.past.get(endpoint)
    }

    /// A rollout, and what held for its endpoint, on which it has a say until somebody applied something else.
    fn get_mut(&mut self, id: &str) -> Result<(&mut Rollout, Option<&mut Past>)> {
        let rollout = self.by_id.get_mut(id).ok_or_else(|| unknown(id))?;
        let endpoint = &rollout.judge.plan().endpoint;
        let is_its = matches!(self.wanted.get(endpoint), Some((_, Wanted::Rollout(latest))) if latest == id);
        let past = self.past.entry(endpoint.clone()).or_default();
        Ok((rollout, is_its.then_some(past)))
    }

    fn tell(&mut self, entry: &Entry) -> Result<()> {
        let Told { rollout: id, event, verdict } = read(entry)?;
        let (rollout, past) = self.get_mut(&id)?;
        let answer = answer(&event);
        let counted_ms = block_time(&event);
        let proved = verify::Entry { event, verdict }.prove(&mut rollout.judge);
        let verdict = proved.map_err(|error| Error::new(error.kind(), format!("rollout {id}: {error}")))?;
        rollout.heard(answer, &verdict, past);
        rollout.counted_ms = counted_ms.unwrap_or(rollout.counted_ms);
        Ok(())
    }

    fn check_new(&self, id: &str) -> Result<()> {
        match self.by_id.contains_key(id) {
            false => Ok(()),
            true => Err(Error::invalid(format!("rollout {id} has begun already: expected a new id"))),
        }
    }
}

fn block_time(event: &Event) -> Option<u64> {
    match event {
        Event::Block(block) => Some(block.time_ms),
        _ => None,
    }
}

fn unknown(id: &str) -> Error {
    Error::not_found(format!("no rollout {id} has begun in what was read of the log: its plan comes before its events"))
}

fn read<'a, T: Deserialize<'a>>(entry: &'a Entry) -> Result<T> {
    let read = serde_json::from_str(entry.data.get());
    read.map_err(|error| Error::invalid(format!("its data is not that of {}: {error}", entry.kind)))
}

/// The judge of a plan as it is written: what numbers become on their way through text, they are for everybody.
fn judge(plan: &RawValue) -> Result<Judge> {
    let plan: Plan = serde_json::from_str(plan.get()).map_err(|error| Error::invalid(format!("plan: {error}")))?;
    Judge::new(plan)
}

/// Why nothing was put on the record.
#[derive(Debug)]
pub enum Failure {
    /// The log cannot take or give it now.
    Log(registry::Error),
    /// It makes no sense where the rollout stands, or what was read is not proved.
    Unfit(Error),
}

impl From<registry::Error> for Failure {
    fn from(error: registry::Error) -> Failure {
        Failure::Log(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Unfit(error)
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        match failure {
            Failure::Log(error) => error.into(),
            Failure::Unfit(error) => error,
        }
    }
}

/// A writer of rollouts. Whatever it answers is on the log.
#[derive(Debug)]
pub struct Record {
    log: Arc<Log>,
    rollouts: Rollouts,
    /// Up to there the log was read.
    head: Head,
}

impl Record {
    /// Opens the log in `folder`, or begins one, and proves every verdict in it.
    pub fn open(folder: &Path, limits: Limits) -> Result<Record> {
        Record::over(Arc::new(Log::open(folder, limits)?))
    }

    /// The same of the log that replicas share.
    pub fn connect(address: &Address) -> Result<Record> {
        Record::over(Arc::new(Log::connect(address)?))
    }

    /// Takes a log that is open, and proves every verdict in it.
    pub fn over(log: Arc<Log>) -> Result<Record> {
        let mut record = Record { log, rollouts: Rollouts::default(), head: Head::START };
        for entry in record.log.entries(1)? {
            record.take(&entry?)?;
        }
        Ok(record)
    }

    fn take(&mut self, entry: &Entry) -> Result<()> {
        self.rollouts.take(entry)?;
        self.head = entry.head();
        Ok(())
    }

    /// The log.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Up to which entry it was read.
    pub fn head(&self) -> Head {
        self.head
    }

    /// Where all rollouts stand.
    pub fn rollouts(&self) -> &Rollouts {
        &self.rollouts
    }

    /// Reads what others have appended, and proves it. Whether there was anything.
    pub fn follow(&mut self) -> Result<bool, Failure> {
        let before = self.head;
        loop {
            let entries = match self.log.remote() {
                Some(remote) => remote.entries_after(self.head)?,
                None => self.log.entries(self.head.sequence + 1)?.collect::<registry::Result<Vec<_>>>()?,
            };
            if entries.is_empty() {
                return Ok(self.head != before);
            }
            entries.iter().try_for_each(|entry| self.take(entry))?;
        }
    }

    /// Puts a draft of `plan` on the record, under a new id, and what declared it. False where others have appended meanwhile: that
    /// was read, and it may be another id now, or nothing to do.
    pub fn start(&mut self, id: &str, plan: &Plan, declared: Option<&str>, time_ms: u64) -> Result<bool> {
        self.rollouts.check_new(id)?;
        let plan = written(plan)?;
        let declared = declared.map(str::to_owned);
        let rollout = Rollout::begun(judge(&plan)?, declared.clone());
        let draft = Draft::new(time_ms, PLAN, &Begun { rollout: id.to_owned(), plan, declared })?;
        match self.log.record_after(self.head, &[draft]) {
            Ok(head) => self.head = head,
            Err(registry::Error::Moved { .. }) => {
                self.follow()?;
                return Ok(false);
            }
            Err(error) => return Err(error.into()),
        }
        self.rollouts.insert(id.to_owned(), rollout, self.head.sequence);
        Ok(true)
    }

    /// Puts on the record that somebody applied a plan, went back to one, or lets none hold any more. False where others have appended
    /// meanwhile: that was read, and it may make no sense any more.
    pub fn apply(&mut self, endpoint: &str, change: &Change, by: &str, time_ms: u64) -> Result<bool> {
        let (plan, is_back) = match change {
            Change::Removed => (None, false),
            Change::Applied(plan) => (Some(written(plan)?), false),
            Change::WentBack(plan) => (Some(written(plan)?), true),
        };
        let (endpoint, by) = (endpoint.to_owned(), by.to_owned());
        let draft = Draft::new(time_ms, APPLIED, &Applied { endpoint, plan, by, is_back })?;
        match self.log.record_after(self.head, &[draft]) {
            Ok(_) => self.follow().map(|_| true).map_err(Error::from),
            Err(registry::Error::Moved { .. }) => self.follow().map(|_| false).map_err(Error::from),
            Err(error) => Err(error.into()),
        }
    }

    /// Tells a rollout of an event. Where the judge refuses it, or the log cannot take it, the rollout is as it was; after
    /// an error of the log, what that has is found by reading it.
    pub fn feed(&mut self, id: &str, event: Event) -> Result<Verdict, Failure> {
        let mut verdicts = self.feed_all(id, vec![event], None)?;
        verdicts.pop().ok_or_else(|| Error::invalid("no event, and so no verdict").into())
    }

    /// Tells a rollout of events, all or none. Blocks get the numbers that are next. With `taken`, replicas share the log, and
    /// these letters are in the blocks: they are gone in the same moment.
    pub fn feed_all(&mut self, id: &str, events: Vec<Event>, taken: Option<&Taken>) -> Result<Vec<Verdict>, Failure> {
        for _ in 0..TRIES {
            let (judge, verdicts, drafts) = self.judged(id, &events)?;
            let appended = match (self.log.remote(), taken) {
                (Some(remote), Some(_)) => remote.record_after(self.head, &drafts, taken),
                _ => self.log.record_after(self.head, &drafts),
            };
            match appended {
                Ok(head) => {
                    self.head = head;
                    let (rollout, mut past) = self.rollouts.get_mut(id)?;
                    rollout.judge = judge;
                    for (event, verdict) in events.iter().zip(&verdicts) {
                        rollout.heard(answer(event), verdict, past.as_deref_mut());
                    }
                    rollout.counted_ms = events.iter().filter_map(block_time).next_back().unwrap_or(rollout.counted_ms);
                    return Ok(verdicts);
                }
                Err(registry::Error::Moved { .. }) => drop(self.follow()?),
                Err(error) => return Err(error.into()),
            }
        }
        Err(registry::Error::Moved { after: self.head.sequence }.into())
    }

    /// What the judge says of events where it stands, as it would be written.
    fn judged(&self, id: &str, events: &[Event]) -> Result<(Judge, Vec<Verdict>, Vec<Draft>)> {
        let mut judge = self.rollouts.get(id)?.judge.clone();
        let (mut verdicts, mut drafts) = (Vec::new(), Vec::new());
        for event in events {
            let mut event = event.clone();
            if let Event::Block(block) = &mut event {
                block.sequence = judge.blocks() + 1;
            }
            let verdict = judge.feed(&event)?;
            let time_ms = event.time_ms();
            let verify::Entry { event, verdict: written } = verify::Entry::new(event, &verdict)?;
            drafts.push(Draft::new(time_ms, EVENT, &Told { rollout: id.to_owned(), event, verdict: written })?);
            verdicts.push(verdict);
        }
        Ok((judge, verdicts, drafts))
    }
}

fn written(plan: &Plan) -> Result<Box<RawValue>> {
    RawValue::from_string(plan.canonical())
        .map_err(|error| Error::invalid(format!("the plan cannot be written down: {error}")))
}

#[cfg(test)]
mod tests;
