//! What is seen of one rollout while it goes on, and when is the judge told?

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tiltyard_rollout::cohort::is_paired;
use tiltyard_rollout::evidence::{Block, Pairs, Share};
use tiltyard_rollout::judge::{Judge, Stage, State, Trip};
use tiltyard_rollout::plan::Role;
use tiltyard_types::{Digest, Moment};

use super::feedback::{Desk, Feedback};
use super::gatherer::Gatherer;
use super::observer::Observer;
use crate::route::Route;

/// The judge looks at most so often, and at least so often.
const LOOKS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];

/// Looks in the least time of a stage.
const LOOKS_A_STAGE: u32 = 20;

/// A look comes early where so much more harm is seen than before: one part in so many.
const HARM_PARTS: u64 = 20;

/// One rollout's evidence on its way.
#[derive(Debug)]
pub struct Live {
    gatherer: Gatherer,
    /// Those of revisions that were there before are kept until nobody tells them anything more. The last is the present one.
    observers: Vec<Arc<Observer>>,
    looked: Moment,
    /// Harm to the challenger's requests that the judge was told.
    harm: u64,
    /// Requests that were not seen, since too many came at once.
    pub unseen: u64,
    has_tripped: bool,
    /// Who competes: the champion and the challenger, as they were first seen.
    compared: Option<[Digest; 2]>,
    /// Where labels are joined to what was answered, as long as they decide.
    pub desk: Option<Arc<Desk>>,
}

impl Live {
    /// Begins to look.
    pub fn new(judge: &Judge, now: Moment, feedback: &Feedback) -> Live {
        let gatherer = Gatherer::of(judge.plan());
        let (observers, compared) = (Vec::new(), None);
        let desk = if judge.state().is_terminal() { None } else { feedback.desk(judge.plan()) };
        Live { gatherer, observers, looked: now, harm: 0, unseen: 0, has_tripped: false, compared, desk }
    }

    /// Takes in what was seen under the endpoint's plan, and the ones before it.
    pub fn observe(&mut self, route: Option<&Arc<Route>>) {
        if let Some(observer) = route.and_then(|route| route.observer.as_ref())
            && !self.observers.last().is_some_and(|last| Arc::ptr_eq(last, observer))
        {
            self.observers.push(Arc::clone(observer));
        }
        let last = self.observers.len().saturating_sub(1);
        for (at, observer) in std::mem::take(&mut self.observers).into_iter().enumerate() {
            // A request that goes on holds its plan, and so its observer: nobody else will tell this one anything.
            let is_over = at < last && Arc::strong_count(&observer) == 1;
            let (ends, unseen) = observer.take();
            self.gatherer.add(observer.share, &ends);
            self.unseen += unseen;
            if let (Some(desk), Some(notes)) = (&self.desk, &observer.notes) {
                desk.expose(observer.share, notes.take());
            }
            if !is_over {
                self.observers.push(observer);
            }
        }
        if let Some(desk) = &self.desk {
            desk.mature();
        }
    }

    /// Whether it is time that the judge looks.
    pub fn is_due(&self, judge: &Judge, now: Moment) -> bool {
        let plan = judge.plan();
        let stage_ms = match judge.state().stage() {
            // Where pairs decide, nothing is old enough before the horizon.
            Some(Stage::Shadow) => {
                let primary = plan.policy.primary.as_ref().filter(|primary| is_paired(primary));
                plan.policy.shadow_time_ms.max(primary.map_or(0, |primary| primary.horizon_ms))
            }
            Some(Stage::Canary(at)) => plan.steps.get(at).map_or(0, |step| step.min_time_ms),
            Some(Stage::Baking) => plan.policy.min_time_ms,
            Some(Stage::Draft | Stage::Validating) => return false,
            None => u64::MAX,
        };
        let [shortest, longest] = LOOKS;
        let usual = (Duration::from_millis(stage_ms) / LOOKS_A_STAGE).clamp(shortest, longest);
        let passed = now - self.looked;
        let harm = self.gatherer.harm();
        passed >= usual || (passed >= shortest && harm > self.harm / HARM_PARTS)
    }

    /// The evidence since the last look, with what pairs of answers showed in that time.
    pub fn close(&mut self, judge: &Judge, now: Moment, now_ms: u64, pairs: Pairs) -> Vec<Block> {
        self.looked = now;
        self.harm += self.gatherer.harm();
        let share = self.observers.last().map_or(Share::of(judge.share()), |observer| observer.share);
        let mut blocks = self.gatherer.close(judge.blocks() + 1, now_ms, share);
        if let Some(first) = blocks.first_mut() {
            first.pairs = pairs;
        }
        if judge.state().is_terminal() {
            // Nothing is decided by labels any more.
            self.desk = None;
        }
        if let (Some(desk), Some(last)) = (&self.desk, blocks.last_mut()) {
            desk.hand_over(last);
        }
        blocks
    }

    /// What ends or stops the rollout without statistics. Each is told once.
    pub fn trip(&mut self, judge: &Judge, route: &Route) -> Option<Trip> {
        let (count, is_champion_healthy) = self.gatherer.failures();
        if count == 0 {
            self.has_tripped = false;
        }
        if self.has_tripped || judge.state().stage().is_none_or(|stage| stage < Stage::Shadow) {
            return None;
        }
        let mut seats = route.plan.arms.iter().zip(route.seats());
        let mut is_gone = || {
            let judged = seats.find(|(arm, _)| matches!(arm.role, Role::Challenger { .. }));
            judged.is_some_and(|(_, seat)| seat.is_err_and(|missing| !missing.is_coming))
        };
        let trip = if count >= judge.plan().policy.failures_max {
            Trip::Failures { count, is_champion_healthy }
        } else if matches!(judge.state(), State::Running(_)) && self.is_replaced(route) {
            Trip::Replaced
        } else if is_gone() && route.champion().is_ok() {
            Trip::Crash
        } else {
            return None;
        };
        self.has_tripped = true;
        Some(trip)
    }

    /// Whether one of both is not what it was any more.
    fn is_replaced(&mut self, route: &Route) -> bool {
        let digest = |wanted: fn(&Role) -> bool| {
            let mut seats = route.plan.arms.iter().zip(route.seats());
            let (_, seat) = seats.find(|(arm, _)| wanted(&arm.role))?;
            Some(seat.ok()?.deployment.identity.digest)
        };
        let champion = digest(|role| *role == Role::Champion);
        let challenger = digest(|role| matches!(role, Role::Challenger { .. }));
        let Some(now) = champion.zip(challenger).map(<[Digest; 2]>::from) else { return false };
        self.compared.replace(now).is_some_and(|before| before != now)
    }

    /// Units that were seen since the last look.
    pub fn units(&self) -> [u64; 2] {
        self.gatherer.units()
    }

    /// Where the bins of the watched output are; null where none stand.
    pub fn bins_form(&self) -> Value {
        self.gatherer.bins_form()
    }

    /// The share of the keys that count.
    pub fn sampling(&self) -> f64 {
        self.gatherer.sampling()
    }
}
