//! What is seen of one rollout while it goes on, and when is the judge told?

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tiltyard_rollout::cohort::is_paired;
use tiltyard_rollout::evidence::{Block, Pairs, Share};
use tiltyard_rollout::judge::{Judge, Stage, State, Trip};
use tiltyard_rollout::plan::Role;
use tiltyard_types::{Digest, Moment};

use super::feedback::notes::{Notes, Taken};
use super::feedback::{Desk, Feedback};
use super::gatherer::{Gatherer, SOURCES_MAX, Source};
use super::observer::{End, Observer};
use crate::route::Route;

/// The judge looks at most so often, and at least so often.
const LOOKS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];

/// Looks in the least time of a stage.
const LOOKS_A_STAGE: u32 = 20;

/// A look comes early where so much more harm is seen than before: one part in so many.
const HARM_PARTS: u64 = 20;

/// What was seen under one plan of an endpoint since the last time.
#[derive(Debug)]
pub struct Seen {
    /// What was in force.
    pub share: Share,
    /// How requests ended.
    pub ends: Vec<End>,
    /// Those that were not seen.
    pub unseen: u64,
    /// What they were answered, where labels decide.
    pub notes: Taken,
}

/// Digests of the champion's and the challenger's files, as text.
pub type Artifacts = [String; 2];

/// Whose files compete under a plan; none where one of both does not answer.
pub fn artifacts(route: &Route) -> Option<Artifacts> {
    let of = |wanted: fn(&Role) -> bool| {
        let mut seats = route.plan.arms.iter().zip(route.seats());
        let (_, seat) = seats.find(|(arm, _)| wanted(&arm.role))?;
        Some(seat.ok()?.deployment.identity.artifact.to_string())
    };
    Some([of(|role| *role == Role::Champion)?, of(|role| matches!(role, Role::Challenger { .. }))?])
}

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
    /// Whose files compete in each process, where several tell.
    files: BTreeMap<Source, Artifacts>,
    /// What replicas said that nobody was told of yet.
    told: Option<Trip>,
    /// What pairs showed on replicas, since the last look.
    gathered: Pairs,
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
        let (told, gathered, files) = (None, Pairs::default(), BTreeMap::new());
        Live {
            gatherer,
            observers,
            looked: now,
            harm: 0,
            unseen: 0,
            has_tripped: false,
            files,
            told,
            gathered,
            compared,
            desk,
        }
    }

    /// What was seen under the endpoint's plan, and the ones before it, since the last time.
    pub fn observe(&mut self, route: Option<&Arc<Route>>) -> Vec<Seen> {
        if let Some(observer) = route.and_then(|route| route.observer.as_ref())
            && !self.observers.last().is_some_and(|last| Arc::ptr_eq(last, observer))
        {
            self.observers.push(Arc::clone(observer));
        }
        let last = self.observers.len().saturating_sub(1);
        let (mut kept, mut all) = (Vec::new(), Vec::new());
        for (at, observer) in std::mem::take(&mut self.observers).into_iter().enumerate() {
            // A request that goes on holds its plan, and so its observer: nobody else will tell this one anything.
            let is_over = at < last && Arc::strong_count(&observer) == 1;
            let (ends, unseen) = observer.take();
            let notes = observer.notes.as_ref().filter(|_| self.desk.is_some()).map(Notes::take).unwrap_or_default();
            all.push(Seen { share: observer.share, ends, unseen, notes });
            if !is_over {
                kept.push(observer);
            }
        }
        self.observers = kept;
        all
    }

    /// Takes in what a process saw: it is evidence from here on.
    pub fn take(&mut self, source: Source, seen: Seen) {
        let Seen { share, ends, unseen, notes } = seen;
        self.gatherer.add(source, share, &ends);
        self.unseen += unseen;
        if let Some(desk) = &self.desk {
            desk.expose(share, notes);
        }
    }

    /// Has rows count whose labels were waited for long enough.
    pub fn mature(&self) {
        if let Some(desk) = &self.desk {
            desk.mature();
        }
    }

    /// Begins to gather anew, as whoever leads from now on: what nobody has put on the log yet will be told again. Rows that were
    /// old enough by the last block have counted.
    pub fn begin_anew(&mut self, judge: &Judge, feedback: &Feedback) {
        (self.gatherer, self.harm) = (Gatherer::of(judge.plan()), 0);
        (self.gathered, self.told) = (Pairs::default(), None);
        self.files.clear();
        if let Some(desk) = &self.desk {
            feedback.begin_anew(desk, judge.plan());
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
    pub fn trip(&mut self, judge: &Judge, route: Option<&Route>) -> Option<Trip> {
        let (count, is_champion_healthy) = self.gatherer.failures();
        if count == 0 {
            self.has_tripped = false;
        }
        if self.has_tripped || judge.state().stage().is_none_or(|stage| stage < Stage::Shadow) {
            return None;
        }
        let trip = match count >= judge.plan().policy.failures_max {
            true => Trip::Failures { count, is_champion_healthy },
            false => self.fault(judge, route?)?,
        };
        self.has_tripped = true;
        Some(trip)
    }

    /// What is wrong with those who compete in this process.
    pub fn fault(&mut self, judge: &Judge, route: &Route) -> Option<Trip> {
        let mut seats = route.plan.arms.iter().zip(route.seats());
        let mut is_gone = || {
            let judged = seats.find(|(arm, _)| matches!(arm.role, Role::Challenger { .. }));
            judged.is_some_and(|(_, seat)| seat.is_err_and(|missing| !missing.is_coming))
        };
        if matches!(judge.state(), State::Running(_)) && self.is_replaced(route) {
            Some(Trip::Replaced)
        } else if is_gone() && route.champion().is_ok() {
            Some(Trip::Crash)
        } else {
            None
        }
    }

    /// A replica says what is wrong there, or what its pairs showed.
    pub fn heard(&mut self, trip: Option<Trip>, pairs: Pairs) {
        self.told = self.told.or(trip);
        self.gathered = std::mem::take(&mut self.gathered).plus(pairs);
    }

    /// A process says whose files compete there: they must be the same everywhere.
    pub fn compete(&mut self, source: Source, files: Artifacts) {
        if self.files.len() >= SOURCES_MAX || self.files.values().any(|held| *held != files) {
            self.told = self.told.or(self.files.values().any(|held| *held != files).then_some(Trip::Replaced));
            // Of those who are gone nothing is kept; the others say it again.
            self.files.clear();
        }
        self.files.insert(source, files);
    }

    /// The same, since the last time.
    pub fn take_heard(&mut self) -> (Option<Trip>, Pairs) {
        (self.told.take(), std::mem::take(&mut self.gathered))
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
