//! What does the log say of rollouts, and where does each stand by that alone?
//!
//! A rollout is on the record as its plan, and each event that it was told with the verdict that this got. A verdict is
//! heard only when the log has it: whoever dies in between finds, when it reads the log again, the same judge to the bit.
//!
//! | kind | data |
//! |---|---|
//! | `rollout.plan` | `{"rollout": id, "plan": the plan's canonical form, "declared": the digest of the file that wants it, if any}` |
//! | `rollout.event` | `{"rollout": id, "event": …, "verdict": …}` |

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tiltyard_registry::{Entry, Limits, Log};
use tiltyard_rollout::judge::{Decision, Event, Judge, State, Verdict};
use tiltyard_rollout::plan::Plan;
use tiltyard_rollout::verify;
use tiltyard_types::{Error, Result};

/// What kinds of rollouts begin with. Those that this program does not know are errors: it could prove nothing.
const KINDS: &str = "rollout.";
const PLAN: &str = "rollout.plan";
const EVENT: &str = "rollout.event";

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
    promoted_ms: Option<u64>,
}

impl Rollout {
    fn begun(judge: Judge, declared: Option<String>) -> Rollout {
        Rollout { judge, declared, events: 0, last: None, went_back: false, promoted_ms: None }
    }

    /// Whether one that was promoted is still held against what the champion was: for as long as a rollout may take.
    pub fn is_watched(&self, now_ms: u64) -> bool {
        let time_max = self.judge.plan().policy.max_time_ms;
        self.promoted_ms.is_some_and(|promoted| now_ms.saturating_sub(promoted) <= time_max)
    }

    fn heard(&mut self, verdict: &Verdict) {
        self.events += 1;
        if verdict.state == State::Promoted {
            self.promoted_ms.get_or_insert(verdict.time_ms);
        }
        self.went_back |= verdict.state == State::Promoted && verdict.decision == Decision::RollBack;
        // What is seen after it was stopped, or has ended, does not say why.
        let goes_on = matches!(verdict.state, State::Running(_) | State::Paused(_));
        if verdict.decision != Decision::NotYet || goes_on {
            self.last = Some(verdict.clone());
        }
    }
}

/// All rollouts of a log. Those that have ended stay: they are some kilobytes each, and people start them.
#[derive(Clone, Debug, Default)]
pub struct Rollouts {
    by_id: BTreeMap<String, Rollout>,
}

impl Rollouts {
    /// Takes in the next entry of the log; those of other kinds say nothing of rollouts. The error names an entry whose
    /// verdict is not what its evidence says, or that makes no sense after those before it.
    pub fn take(&mut self, entry: &Entry) -> Result<()> {
        let taken = match entry.kind.as_str() {
            PLAN => self.begin(entry),
            EVENT => self.tell(entry),
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
        let rollout = Rollout::begun(judge(&plan)?, declared);
        self.by_id.insert(id, rollout);
        Ok(())
    }

    fn tell(&mut self, entry: &Entry) -> Result<()> {
        let Told { rollout: id, event, verdict } = read(entry)?;
        let rollout = self.by_id.get_mut(&id).ok_or_else(|| unknown(&id))?;
        let proved = verify::Entry { event, verdict }.prove(&mut rollout.judge);
        let verdict = proved.map_err(|error| Error::new(error.kind(), format!("rollout {id}: {error}")))?;
        rollout.heard(&verdict);
        Ok(())
    }

    fn check_new(&self, id: &str) -> Result<()> {
        match self.by_id.contains_key(id) {
            false => Ok(()),
            true => Err(Error::invalid(format!("rollout {id} has begun already: expected a new id"))),
        }
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

/// The one writer of rollouts. Whatever it answers is on the disk.
#[derive(Debug)]
pub struct Record {
    log: Log,
    rollouts: Rollouts,
}

impl Record {
    /// Opens the log in `folder`, or begins one, and proves every verdict in it.
    pub fn open(folder: &Path, limits: Limits) -> Result<Record> {
        let log = Log::open(folder, limits)?;
        let mut rollouts = Rollouts::default();
        for entry in log.entries(1)? {
            rollouts.take(&entry?)?;
        }
        Ok(Record { log, rollouts })
    }

    /// The log.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Where all rollouts stand.
    pub fn rollouts(&self) -> &Rollouts {
        &self.rollouts
    }

    /// Puts a draft of `plan` on the record, under a new id, and what declared it.
    pub fn start(&mut self, id: &str, plan: &Plan, declared: Option<&str>, time_ms: u64) -> Result<()> {
        self.rollouts.check_new(id)?;
        let plan = RawValue::from_string(plan.canonical())
            .map_err(|error| Error::invalid(format!("the plan cannot be written down: {error}")))?;
        let declared = declared.map(str::to_owned);
        let rollout = Rollout::begun(judge(&plan)?, declared.clone());
        self.log.record(time_ms, PLAN, &Begun { rollout: id.to_owned(), plan, declared })?;
        self.rollouts.by_id.insert(id.to_owned(), rollout);
        Ok(())
    }

    /// Tells a rollout of an event. Where the judge refuses it, or the log cannot take it, the rollout is as it was; after
    /// an error of the log, what the disk has is found by opening it anew.
    pub fn feed(&mut self, id: &str, event: Event) -> Result<Verdict> {
        let rollout = self.rollouts.by_id.get_mut(id).ok_or_else(|| unknown(id))?;
        let mut judge = rollout.judge.clone();
        let verdict = judge.feed(&event)?;
        let time_ms = event.time_ms();
        let verify::Entry { event, verdict: written } = verify::Entry::new(event, &verdict)?;
        self.log.record(time_ms, EVENT, &Told { rollout: id.to_owned(), event, verdict: written })?;
        rollout.judge = judge;
        rollout.heard(&verdict);
        Ok(verdict)
    }
}

#[cfg(test)]
mod tests;
