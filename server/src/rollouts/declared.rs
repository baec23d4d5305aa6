//! How does what files declare become rollouts, once each?
//!
//! A file means the rollout that the log has under its digest: as long as that is there, whatever became of it, the file begins
//! nothing. Otherwise its versions are waited for, as those of a plan are, and then it begins.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;
use tiltyard_rollout::plan::Arm;
use tiltyard_types::{Error, ErrorKind, Moment, Result};
use tokio::sync::oneshot;

use super::driver::{Driver, RETRY};
use super::written::Declared;
use super::{aim, begin, number};
use crate::writer::{How, Report};

/// What is declared and has not begun.
#[derive(Debug)]
pub(super) struct Waiting {
    digest: String,
    /// What is asked of the writer, and whether that is if its versions are there.
    pending: Option<(bool, oneshot::Receiver<Result<Report>>)>,
    /// Whether they were there a moment ago.
    is_tried: bool,
    retry: Moment,
    /// Why it does not begin.
    pub(super) trouble: Option<String>,
}

/// What a file comes to whose rollout was begun before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begun {
    /// It has not ended.
    GoesOn,
    /// Its challenger answers.
    Promoted,
    /// It did harm, before its promotion or after.
    RolledBack,
    /// It ended otherwise, or somebody has put another version in its place since.
    Ended,
}

/// How the latest rollout of an endpoint stands that was declared by what has this digest.
pub(super) fn latest<'a>(
    forms: &'a BTreeMap<String, Arc<Value>>,
    endpoint: &str,
    digest: &str,
) -> Option<&'a Arc<Value>> {
    let is_it = |form: &&Arc<Value>| form["endpoint"] == endpoint && form["declared"] == digest;
    forms.values().filter(is_it).max_by_key(|form| number(form["rollout"].as_str().unwrap_or_default()))
}

/// What became of a rollout that is declared again, in a word and in words. `answering` is the champion of the plan that holds.
pub fn begun(form: &Value, answering: Option<&Arm>) -> (Begun, String) {
    let text = |key: &str| form[key].as_str().unwrap_or_default();
    let judged = &form["challenger"];
    let called = format!("{} version {}", judged["model"].as_str().unwrap_or_default(), judged["version"]);
    let is_judged = |arm: &Arm| judged["model"] == arm.model.as_str() && judged["version"] == arm.version;
    let again = "nothing begins until the file changes: another challenger, its digest, or attempt = 2";
    let id = text("rollout");
    match text("state") {
        "promoted" if form["went_back_after_promotion"] == true => (
            Begun::RolledBack,
            format!("rollout {id} promoted {called}, which became worse and was rolled back: {again}"),
        ),
        "promoted" if answering.is_none_or(is_judged) => (Begun::Promoted, format!("rollout {id} promoted {called}")),
        "promoted" => {
            let now = answering.map_or_else(String::new, |arm| format!("{} version {}", arm.model, arm.version));
            (Begun::Ended, format!("rollout {id} promoted {called}, and {now} answers since: {again}"))
        }
        "rolled_back" => (Begun::RolledBack, format!("rollout {id} rolled {called} back: {again}")),
        state @ ("aborted" | "futile") => (Begun::Ended, format!("rollout {id} is {state}: {again}")),
        _ => (Begun::GoesOn, format!("rollout {id} of {called} is {}", text("stands"))),
    }
}

impl Driver {
    /// Begins what files declare, where that has not begun and can.
    pub(super) fn begin_declared(&mut self, now: Moment) {
        let told = self.writer.plans.load_full();
        let is_declared = |name: &String, waiting: &mut Waiting| {
            told.declared.get(name).is_some_and(|declared| declared.digest == waiting.digest)
        };
        self.waiting.retain(|name, waiting| is_declared(name, waiting));
        for (endpoint, declared) in &told.declared {
            let began = self.begin_one(declared, now);
            let trouble = began.err().map(|error| error.message().to_owned());
            let waiting = self.waiting.entry(endpoint.clone()).or_insert_with(|| Waiting::new(declared, now));
            if let Some(trouble) = trouble.as_ref().filter(|_| waiting.trouble != trouble) {
                tracing::warn!(endpoint, trouble, "what the endpoint's file declares does not begin");
            }
            waiting.trouble = trouble;
        }
    }

    /// One step on the way to a rollout. Fails with what is in the way.
    fn begin_one(&mut self, declared: &Arc<Declared>, now: Moment) -> Result<()> {
        let endpoint = &declared.endpoint;
        let held = self.writer.plans.load().endpoints.plan(endpoint).cloned();
        if let Some(form) = latest(&self.forms, endpoint, &declared.digest) {
            return match begun(form, held.as_deref().map(aim::champion)) {
                (Begun::GoesOn | Begun::Promoted, _) => Ok(()),
                (_, why) => Err(Error::invalid(why)),
            };
        }
        if let Some(id) = self.going_on(endpoint) {
            return Err(Error::invalid(format!(
                "rollout {id} of the endpoint goes on: what its file declares comes after that"
            )));
        }
        let waiting = self.waiting.entry(endpoint.clone()).or_insert_with(|| Waiting::new(declared, now));
        waiting.settle(now)?;
        if waiting.pending.is_some() || now < waiting.retry {
            return waiting.trouble.clone().map_or(Ok(()), |trouble| Err(Error::invalid(trouble)));
        }
        let is_tried = std::mem::take(&mut waiting.is_tried);
        waiting.retry = now + RETRY;
        let answering = begin::answering(&self.inference.catalog.load().models, endpoint);
        let plan = begin::plan(endpoint, &declared.written, held.as_deref(), &answering)?;
        let pending = match (held.is_some(), is_tried) {
            (true, true) => return self.start(endpoint, plan, Some(&declared.digest), "file".to_owned()),
            (true, false) => (true, self.writer.propose(begin::salted(&plan), How::DryRun)),
            // What answers now is what a rollback leads to, also where newer versions come.
            (false, _) => (false, self.writer.propose(aim::before(&plan), How::Meanwhile)),
        };
        let waiting = self.waiting.entry(endpoint.clone()).or_insert_with(|| Waiting::new(declared, now));
        waiting.pending = Some(pending);
        Ok(())
    }
}

impl Waiting {
    fn new(declared: &Declared, now: Moment) -> Waiting {
        Waiting { digest: declared.digest.clone(), pending: None, is_tried: false, retry: now, trouble: None }
    }

    /// Takes in the answer to what was asked. Fails where it was no.
    fn settle(&mut self, now: Moment) -> Result<()> {
        let Some((is_trial, pending)) = &mut self.pending else { return Ok(()) };
        let answer = match pending.try_recv() {
            Ok(answer) => answer,
            Err(oneshot::error::TryRecvError::Empty) => return Ok(()),
            Err(oneshot::error::TryRecvError::Closed) => {
                Err(Error::new(ErrorKind::Draining, "the server is shutting down"))
            }
        };
        let is_trial = *is_trial;
        self.pending = None;
        answer?;
        (self.is_tried, self.retry) = (is_trial, now);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tiltyard_rollout::plan::Role;

    use super::*;

    fn form(state: &str) -> Value {
        json!({ "rollout": "m-7", "endpoint": "m", "state": state, "stands": "canary(1)", "declared": "d",
                "challenger": { "model": "m", "version": 2 }, "went_back_after_promotion": false })
    }

    #[test]
    fn whoever_declares_again_is_told_what_became_of_it() {
        let answers =
            |version| Arm { name: "c".into(), model: "m".into(), version, digest: None, role: Role::Champion };
        let check = |form: &Value, version, expected, words: &str| {
            let (found, why) = begun(form, Some(&answers(version)));
            assert!(found == expected && why.contains(words), "{found:?}: {why}");
        };
        check(&form("running"), 1, Begun::GoesOn, "rollout m-7 of m version 2 is canary(1)");
        check(&form("halted"), 1, Begun::GoesOn, "is canary(1)");
        check(&form("promoted"), 2, Begun::Promoted, "rollout m-7 promoted m version 2");
        check(
            &form("promoted"),
            3,
            Begun::Ended,
            "and m version 3 answers since: nothing begins until the file changes",
        );
        check(&form("rolled_back"), 1, Begun::RolledBack, "rolled m version 2 back: nothing begins");
        check(&form("aborted"), 1, Begun::Ended, "rollout m-7 is aborted: nothing begins");
        let worse = json!({ "rollout": "m-7", "state": "promoted", "went_back_after_promotion": true });
        check(&worse, 1, Begun::RolledBack, "became worse");
    }

    #[test]
    fn the_latest_counts_and_not_the_last_by_name() {
        let forms = ["m-9", "m-10", "other-99"].map(|id| {
            let mut form = form("running");
            form["rollout"] = id.into();
            form["endpoint"] = id.split('-').next().into();
            (id.to_owned(), Arc::new(form))
        });
        let forms = BTreeMap::from(forms);
        assert_eq!(latest(&forms, "m", "d").unwrap()["rollout"], "m-10");
        assert!(latest(&forms, "m", "e").is_none());
    }
}
