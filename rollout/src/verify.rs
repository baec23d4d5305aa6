//! Does a rollout's record prove its verdicts?
//!
//! The record is the plan, and each event with the verdict that it got, as text. Who replays it must find the same text,
//! to the last digit of every figure. `verify.py` beside `src` does it once more from `docs/verdicts.md`, for who trusts
//! nothing here.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tiltyard_types::{Error, Result};

use crate::judge::{Event, Judge, Verdict};
use crate::plan::Plan;

/// A rollout's whole record.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// The plan that it began with.
    pub plan: Plan,
    /// Everything that it was told, in order.
    pub entries: Vec<Entry>,
}

/// An event and what was said of it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// What the rollout was told.
    pub event: Event,
    /// The [verdict](Verdict), as it was written down.
    pub verdict: Box<RawValue>,
}

impl Entry {
    /// The entry of an event and its verdict.
    pub fn new(event: Event, verdict: &Verdict) -> Result<Entry> {
        Ok(Entry { event, verdict: written(verdict)? })
    }

    /// Feeds the event to `judge`, which must say what is recorded. The error has both verdicts.
    pub fn prove(&self, judge: &mut Judge) -> Result<Verdict> {
        let found = judge.feed(&self.event)?;
        let text = written(&found)?;
        if text.get() != self.verdict.get() {
            return Err(Error::invalid(format!(
                "the verdict is recorded as {}, but its evidence says {}: record, plan or program is not the one of then",
                self.verdict.get(),
                text.get()
            )));
        }
        Ok(found)
    }
}

fn written(verdict: &Verdict) -> Result<Box<RawValue>> {
    let written = serde_json::value::to_raw_value(verdict);
    written.map_err(|error| Error::invalid(format!("the verdict cannot be written down: {error}")))
}

/// Replays a record. Returns the judge where it ended; the error names the first entry that differs, with both verdicts.
pub fn verify(record: &Record) -> Result<Judge> {
    let mut judge = Judge::new(record.plan.clone())?;
    for (at, entry) in record.entries.iter().enumerate() {
        entry.prove(&mut judge).map_err(|error| Error::invalid(format!("entry {}: {error}", at + 1)))?;
    }
    Ok(judge)
}
