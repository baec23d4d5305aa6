//! What does a replica do with the log that it shares with others?
//!
//! It reads what they have appended, has each endpoint's plan be what the log says of it, and takes in what is told while it
//! leads. Where the registry does not answer, plans stay as they are.

use std::collections::BTreeMap;
use std::time::Duration;

use tiltyard_registry as registry;
use tiltyard_rollout::plan::Plan;
use tiltyard_types::{Error, ErrorKind, Moment, Result};
use tokio::sync::oneshot;

use super::{Beside, Heard};
use crate::clock;
use crate::rollouts::aim;
use crate::rollouts::driver::{Driver, RETRY, pairs};
use crate::rollouts::live::artifacts;
use crate::rollouts::record::{Change, Failure, Record, Wanted};
use crate::writer::{How, Report};

/// How soon a plan that does not hold is tried again, the first time: what it needs may be on its way. Then twice as late each time.
const SOON: Duration = Duration::from_millis(250);

/// How often others may come first until somebody is told to ask again.
const SHARES: usize = 32;

/// A plan that is to hold since the log says so.
#[derive(Debug)]
pub(in crate::rollouts) struct Due {
    /// None is to hold.
    plan: Option<Plan>,
    /// Whether it held before.
    is_back: bool,
    pending: Option<oneshot::Receiver<Result<Report>>>,
    retry: Moment,
    patience: Duration,
    /// Why it did not hold, as it was last said.
    told: Option<String>,
}

impl Due {
    /// Whose plan does not hold, and why.
    pub(in crate::rollouts) fn unheld(&self) -> Option<(String, u64, String)> {
        let plan = self.plan.as_ref()?;
        let champion = &plan.arms[plan.champion()];
        Some((champion.model.clone(), champion.version, self.told.clone()?))
    }
}

impl Driver {
    /// Reads what others have appended.
    pub(in crate::rollouts) fn follow(&mut self, now: Moment) {
        let Some(mut record) = self.record.take() else { return };
        if self.fleet.is_none() {
            self.record = Some(record);
            return;
        }
        match record.follow() {
            Ok(is_news) => {
                self.reached(now);
                if is_news {
                    self.resume(&record);
                }
                self.record = Some(record);
            }
            Err(Failure::Log(error @ (registry::Error::Unreachable { .. } | registry::Error::Refused { .. }))) => {
                self.record = Some(record);
                self.lose(&error);
            }
            Err(failure) => {
                let error = Error::from(failure);
                self.close(&format!("rollouts stand still, since what the registry has cannot be proved: {error}"));
            }
        }
    }

    fn reached(&mut self, now: Moment) {
        if self.fleet.as_mut().is_some_and(|fleet| fleet.found(now)) {
            self.closed = None;
            tracing::info!("the registry can be reached again: rollouts go on");
        }
    }

    /// The registry does not answer: all stays as it is.
    pub(in crate::rollouts) fn lose(&mut self, error: &registry::Error) {
        let why = format!(
            "{error}: each replica goes on with its last plans; rollouts, their commands and changes of plans stand still, and \
             challengers get no traffic from {} s on",
            super::QUIET_AFTER.as_secs()
        );
        if self.fleet.as_mut().is_some_and(|fleet| fleet.lost(why.clone())) {
            tracing::error!(why, "the registry cannot be reached");
        }
        self.closed = Some(why);
    }

    /// Tells the others what was seen here, and hears them where this replica leads.
    pub(in crate::rollouts) fn exchange(&mut self, now: Moment) {
        let Some(record) = &self.record else { return };
        let Some(remote) = record.log().remote().cloned() else { return };
        let sequence = record.head().sequence;
        let mut rollouts = BTreeMap::new();
        for active in self.active.values() {
            let Ok(rollout) = record.rollouts().get(&active.id) else { continue };
            let horizon_ms = rollout.judge.plan().policy.primary.as_ref().map_or(0, |primary| primary.horizon_ms);
            rollouts.insert(active.id.clone(), horizon_ms);
        }
        self.gather(now);
        let Some(fleet) = &mut self.fleet else { return };
        fleet.keep(&rollouts.keys().cloned().collect::<Vec<_>>());
        match fleet.exchange(&remote, now, &rollouts, sequence) {
            Ok((is_new, heard)) => self.hear(is_new, heard),
            Err(error) => self.lose(&error),
        }
    }

    /// What was seen of requests, what is wrong here, and what was said of rows.
    fn gather(&mut self, now: Moment) {
        let endpoints: Vec<String> = self.active.keys().cloned().collect();
        for endpoint in endpoints {
            let route = self.route(&endpoint);
            let (Some(fleet), Some(record), Some(active)) =
                (&mut self.fleet, &self.record, self.active.get_mut(&endpoint))
            else {
                return;
            };
            let Ok(rollout) = record.rollouts().get(&active.id) else { continue };
            let seen = active.live.observe(route.as_ref());
            fleet.gather(&active.id, seen);
            let trip = route.as_ref().and_then(|route| active.live.fault(&rollout.judge, route));
            let desk = active.live.desk.as_ref().filter(|_| fleet.takes_labels(now));
            let said = desk.map(|desk| desk.take_incoming()).unwrap_or_default();
            let shown = match fleet.is_due(now) {
                true => pairs(&self.inference.catalog.load(), rollout.judge.plan()),
                false => Default::default(),
            };
            let files = route.as_deref().and_then(artifacts);
            fleet.gather_rest(&active.id, Beside { pairs: shown, trip, files }, said);
        }
    }

    fn hear(&mut self, is_new: bool, heard: Vec<(String, Heard)>) {
        let Some(record) = &self.record else { return };
        if is_new {
            tracing::info!("this replica leads: it looks at the evidence of all");
        }
        let mut by_id = BTreeMap::new();
        for active in self.active.values_mut() {
            if let (true, Ok(rollout)) = (is_new, record.rollouts().get(&active.id)) {
                active.live.begin_anew(&rollout.judge, &self.feedback);
            }
            by_id.insert(active.id.clone(), active);
        }
        for (id, heard) in heard {
            let Some(active) = by_id.get_mut(&id) else { continue };
            match heard {
                Heard::Ends(source, seen, Beside { pairs, trip, files }) => {
                    active.live.take(source, seen);
                    active.live.heard(trip, pairs);
                    files.into_iter().for_each(|files| active.live.compete(source, files));
                }
                Heard::Notes(share, notes) => {
                    if let Some(desk) = &active.live.desk {
                        desk.expose(share, notes);
                    }
                }
                Heard::Said(said) => active.live.desk.iter().for_each(|desk| drop(desk.join(said.iter()))),
            }
        }
        if !self.fleet.as_ref().is_some_and(super::Fleet::leads) {
            return;
        }
        for active in by_id.into_values() {
            if let (true, Some(desk), Ok(rollout)) = (is_new, &active.live.desk, record.rollouts().get(&active.id)) {
                desk.skip(rollout.counted_ms);
            }
            active.live.mature();
        }
    }

    /// Whether the log's latest word on an endpoint is this rollout's. Where nobody shares the log, nothing else is in it.
    pub(in crate::rollouts) fn is_latest(&self, record: &Record, endpoint: &str, id: &str) -> bool {
        let wanted = record.rollouts().wanted().get(endpoint);
        self.fleet.is_none() || wanted.is_some_and(|(_, wanted)| *wanted == Wanted::Rollout(id.to_owned()))
    }

    /// Notes what the log says of endpoints' plans since it was looked at last.
    pub(in crate::rollouts) fn note_wanted(&mut self, record: &Record) {
        if self.fleet.is_none() {
            return;
        }
        let (now, now_ms) = (clock::now(), clock::unix_ms());
        for (endpoint, (sequence, wanted)) in record.rollouts().wanted() {
            if *sequence <= self.followed {
                continue;
            }
            let is_back = matches!(wanted, Wanted::Back(_));
            let plan = match wanted {
                // As long as it goes on, its own part of the thread sees to it.
                Wanted::Rollout(_) if self.active.contains_key(endpoint) => continue,
                Wanted::Rollout(id) => {
                    let Ok(rollout) = record.rollouts().get(id) else { continue };
                    Some(aim::plan(&rollout.judge, rollout.went_back, rollout.is_watched(now_ms)))
                }
                Wanted::Plan(plan) => {
                    // What somebody applied takes the place of what a rollout had left.
                    self.active.remove(endpoint);
                    plan.as_deref().cloned()
                }
                Wanted::Back(plan) => {
                    self.active.remove(endpoint);
                    Some(Plan::clone(plan))
                }
            };
            // What is said again is no news, and what was in its way may be still.
            let told = self.due.get(endpoint).filter(|due| due.plan == plan).and_then(|due| due.told.clone());
            let due = Due { plan, is_back, pending: None, retry: now, patience: SOON, told };
            self.due.insert(endpoint.clone(), due);
        }
        self.followed = record.head().sequence;
    }

    /// What a rollback leads to by the log, where it knows of anything before, and what holds is from there or is about to be. Where some
    /// versions are `out` of the question, it is the latest plan without them, whatever holds.
    pub(in crate::rollouts) fn before(&mut self, endpoint: &str, out: &[(String, u64)]) -> Result<Option<Plan>> {
        self.read_all(endpoint)?;
        let Some(record) = &self.record else { return Err(self.standstill()) };
        let held = self.writer.plans.load().endpoints.plan(endpoint).cloned();
        let Some(past) = record.rollouts().past(endpoint) else { return Ok(None) };
        if !out.is_empty() {
            return Ok(past.latest(|plan| !plan.has_any(out)).cloned());
        }
        let is_known = self.due.contains_key(endpoint) || past.is_now(held.as_deref());
        Ok(past.before().filter(|_| is_known).cloned())
    }

    /// Reads all that others have said. Fails where that cannot be, or a rollout of the endpoint goes on.
    fn read_all(&mut self, endpoint: &str) -> Result<()> {
        self.follow(clock::now());
        if self.record.is_none() || self.closed.is_some() {
            return Err(self.standstill());
        }
        match self.going_on(endpoint) {
            None => Ok(()),
            Some(id) => Err(Error::new(
                ErrorKind::NotReady,
                format!(
                    "rollout {id} of endpoint {endpoint:?} has just begun on another replica: ask again, or abort it"
                ),
            )),
        }
    }

    /// Tells the other replicas what somebody did to a plan, or is about to.
    pub(in crate::rollouts) fn share(&mut self, endpoint: &str, change: &Change, by: &str) -> Result<()> {
        for _ in 0..SHARES {
            self.read_all(endpoint)?;
            let Some(mut record) = self.record.take() else { return Err(self.standstill()) };
            let shared = record.apply(endpoint, change, by, clock::unix_ms());
            if shared.is_ok() {
                self.resume(&record);
            }
            self.record = Some(record);
            match shared {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) => {
                    let why = format!("the other replicas were not told: {error}; ask again");
                    return Err(Error::new(error.kind(), why));
                }
            }
        }
        Err(Error::new(ErrorKind::NotReady, "others write to the log all the time: ask again in a moment"))
    }

    /// The same of a promotion. Where the log knows of no plan, `before` is the one that is gone back to.
    pub(in crate::rollouts) fn share_promotion(
        &mut self,
        endpoint: &str,
        plan: Box<Plan>,
        before: Option<Box<Plan>>,
        by: &str,
    ) -> Result<()> {
        self.read_all(endpoint)?;
        let past = self.record.as_ref().and_then(|record| record.rollouts().past(endpoint));
        let is_first = past.is_none_or(|past| past.is_empty() || past.is_now(None));
        if let Some(before) = before.filter(|_| is_first) {
            self.share(endpoint, &Change::Applied(before), by)?;
        }
        self.share(endpoint, &Change::Applied(plan), by)
    }

    /// Has plans hold that the log wants.
    pub(in crate::rollouts) fn converge(&mut self, now: Moment) {
        let plans = self.writer.plans.load_full();
        let (active, writer) = (&self.active, &self.writer);
        self.due.retain(|endpoint, due| {
            if active.contains_key(endpoint) {
                return false;
            }
            let holds = match (plans.endpoints.plan(endpoint), &due.plan) {
                (Some(held), Some(wanted)) => aim::is_same(held, wanted),
                (None, None) => true,
                _ => false,
            };
            if holds {
                return false;
            }
            if let Some(pending) = &mut due.pending {
                match pending.try_recv() {
                    Err(oneshot::error::TryRecvError::Empty) => return true,
                    Ok(Err(error)) => {
                        let why = error.to_string();
                        if due.told.as_deref() != Some(&why) {
                            tracing::warn!(endpoint, error = why, "the plan that the registry has does not hold here");
                            due.told = Some(why);
                        }
                    }
                    _ => {}
                }
                due.pending = None;
                due.retry = now + due.patience;
                due.patience = (due.patience * 2).min(RETRY);
            }
            if now >= due.retry {
                due.pending = Some(match &due.plan {
                    Some(plan) => writer.propose(plan.clone(), How::Followed { is_back: due.is_back }),
                    None => writer.follow_none(endpoint),
                });
            }
            true
        });
    }
}
