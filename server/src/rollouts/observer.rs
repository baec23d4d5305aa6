//! How did the requests end that count in a rollout?
//!
//! A plan with steps has one observer, whom each request that is evidence tells its end. That is a push to one of a few lists,
//! none of which is ever long: the rollouts' thread takes them away, and what comes meanwhile beyond a bound is not seen, of
//! whichever arm it is, and counted.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tiltyard_rollout::evidence::Share;
use tiltyard_rollout::plan::{KeySource, MILLION, Plan, Role};
use tiltyard_runtime::deployment::Deployment;
use tiltyard_runtime::job::Answer;
use tiltyard_types::shard::{SHARDS, shard};
use tiltyard_types::{Error, ErrorKind, Moment, Tensor};

use super::feedback::notes::Notes;
use super::output::Watched;

/// Ends in one list: 2 MiB.
const ENDS_MAX: usize = 1 << 15;

/// Numbers of one answer that are looked at for such as are none.
const NUMBERS_MAX: usize = 1 << 12;

/// Whose request it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The champion's.
    Champion,
    /// The challenger's.
    Challenger,
}

/// How a request ended, as far as its arm is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was answered, in a run of so many rows that took so long.
    Answered {
        /// Which run.
        run: u64,
        /// Rows in the run.
        rows: u32,
        /// Nanoseconds in the engine.
        nanos: u64,
    },
    /// Its answer holds what is no number.
    NotANumber {
        /// Which run.
        run: u64,
    },
    /// A run failed.
    Failed {
        /// Which run.
        run: u64,
    },
    /// It was not answered in time, the arm was out, or its client went away before.
    Unanswered,
    /// Nothing of it is the arm's fault: it was refused, or its client made a mistake.
    Blameless,
}

/// A request that counts, at its end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct End {
    /// When.
    pub at: Moment,
    /// The key's name in evidence, or the request's where each is on its own.
    pub key: u64,
    /// Whose it was.
    pub side: Side,
    /// How.
    pub ended: Ended,
    /// Whether its client waited for longer than what was declared as slow.
    pub is_over: bool,
    /// What the output that is watched says of its first row; NaN where it says nothing.
    pub says: f64,
}

/// A request that was answered.
#[derive(Clone, Copy)]
pub struct Answered<'a> {
    /// What was answered.
    pub answer: &'a Answer,
    /// Who answered.
    pub deployment: &'a Deployment,
    /// Which of its outputs the answer has.
    pub wanted: &'a [usize],
}

/// Sees the requests of one revision of a plan, all of them under one share.
#[derive(Debug)]
pub struct Observer {
    /// What is in force.
    pub share: Share,
    /// Whether requests stick to arms by a key: then the key is what counts.
    pub is_keyed: bool,
    /// What the answers said, or pairs of them, where labels decide.
    pub notes: Option<Notes>,
    /// Which output is watched, if any.
    output: Option<Watched>,
    /// From when on an answer is slow.
    slow_over: Duration,
    champion: usize,
    challenger: usize,
    ends: [Ends; SHARDS],
    unseen: AtomicU64,
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct Ends(Mutex<Vec<End>>);

impl Ends {
    fn lock(&self) -> MutexGuard<'_, Vec<End>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer {
    /// The observer of a plan; none where it judges nobody.
    pub fn of(plan: &Plan) -> Option<Observer> {
        if plan.watched {
            // Nobody but the one that was promoted.
            let (champion, challenger) = (usize::MAX, plan.champion());
            return Some(Observer::new(plan, champion, challenger, MILLION));
        }
        if plan.steps.is_empty() {
            return None;
        }
        let challenger = plan.arms.iter().enumerate().find_map(|(at, arm)| match arm.role {
            Role::Challenger { weight, .. } => Some((at, weight)),
            Role::Champion | Role::Shadow { .. } => None,
        });
        let (challenger, weight) = challenger?;
        Some(Observer::new(plan, plan.champion(), challenger, weight))
    }

    fn new(plan: &Plan, champion: usize, challenger: usize, weight: u32) -> Observer {
        let is_keyed = plan.key != KeySource::PerRequest;
        let (ends, unseen) = (Default::default(), AtomicU64::new(0));
        let share = Share::of(weight);
        let output = plan.policy.output.as_ref().filter(|_| share.is_split()).map(Watched::new);
        let slow_over = plan.policy.slow_over_us.map_or(Duration::MAX, Duration::from_micros);
        let notes = Notes::of(plan, share);
        Observer { share, is_keyed, notes, output, slow_over, champion, challenger, ends, unseen }
    }

    /// Where an answer is noted on its own.
    pub fn notes_of_answers(&self) -> Option<&Notes> {
        self.notes.as_ref().filter(|notes| !notes.is_paired())
    }

    /// Whose an arm's requests are; nobody's where it is a shadow.
    pub fn side(&self, arm: usize) -> Option<Side> {
        match arm {
            arm if arm == self.champion => Some(Side::Champion),
            arm if arm == self.challenger => Some(Side::Challenger),
            _ => None,
        }
    }

    /// Notes a request that was answered, so long after it came.
    pub fn answered(&self, side: Side, key: u64, answered: Answered<'_>, at: Moment, after: Duration) {
        let Answered { answer, deployment, wanted } = answered;
        let says = self.output.as_ref().map_or(f64::NAN, |output| output.read(side, deployment, answer, wanted));
        let run = answer.run;
        let ended = match answer.outputs.iter().all(is_finite) {
            true => {
                let rows = u32::try_from(answer.batch_rows).unwrap_or(u32::MAX);
                let nanos = u64::try_from(answer.times.run.as_nanos()).unwrap_or(u64::MAX);
                Ended::Answered { run, rows, nanos }
            }
            false => Ended::NotANumber { run },
        };
        self.note(End { at, key, side, ended, is_over: after > self.slow_over, says });
    }

    /// Notes a request that failed, so long after it came.
    pub fn failed(&self, side: Side, key: u64, error: &Error, at: Moment, after: Duration) {
        let ended = match (error.run(), error.kind()) {
            (Some(run), _) => Ended::Failed { run },
            // A client that goes away may have waited for too long.
            (None, ErrorKind::Engine | ErrorKind::Deadline | ErrorKind::NotReady | ErrorKind::Cancelled) => {
                Ended::Unanswered
            }
            (None, _) => Ended::Blameless,
        };
        self.note(End { at, key, side, ended, is_over: after > self.slow_over, says: f64::NAN });
    }

    fn note(&self, end: End) {
        let mut ends = self.ends[shard()].lock();
        if ends.len() < ENDS_MAX {
            ends.push(end);
        } else {
            self.unseen.fetch_add(1, Relaxed);
        }
    }

    /// What was seen since the last time, in the order of time, and how many were not.
    pub fn take(&self) -> (Vec<End>, u64) {
        let mut taken: Vec<End> = Vec::new();
        for ends in &self.ends {
            let ends = std::mem::take(&mut *ends.lock());
            taken.extend(ends);
        }
        taken.sort_by_key(|end| end.at);
        (taken, self.unseen.swap(0, Relaxed))
    }
}

/// Whether the first numbers of a tensor are numbers; what is not of floats is.
fn is_finite(tensor: &Tensor) -> bool {
    let single = tensor.as_slice::<f32>().unwrap_or_default();
    let double = tensor.as_slice::<f64>().unwrap_or_default();
    single.iter().take(NUMBERS_MAX).all(|number| number.is_finite())
        && double.iter().take(NUMBERS_MAX).all(|number| number.is_finite())
}

#[cfg(test)]
mod tests {
    use tiltyard_rollout::plan::{Policy, Step};
    use tiltyard_runtime::stats::{RunTimes, Used};
    use tiltyard_types::DataType;

    use super::*;
    use crate::route::tests::deployment;

    fn plan() -> Plan {
        let arm = |name: &str, role| tiltyard_rollout::plan::Arm {
            name: name.into(),
            model: "risk".into(),
            version: 1,
            digest: None,
            role,
        };
        Plan {
            endpoint: "risk".into(),
            revision: 1,
            arms: vec![
                arm("shadow", Role::Shadow { sampling: MILLION }),
                arm("champion", Role::Champion),
                arm("new", Role::Challenger { weight: 10_000, final_weight: MILLION }),
            ],
            key: KeySource::Header("x-customer".into()),
            salt: "s".into(),
            headers: Vec::new(),
            steps: vec![Step { share: 10_000, min_time_ms: 0, min_units: 0, gates: Vec::new() }],
            policy: Policy::default(),
            watched: false,
        }
    }

    fn answer(outputs: Vec<Tensor>) -> Answer {
        let times = RunTimes { run: Duration::from_micros(3), ..RunTimes::default() };
        let (enqueued, used) = (Moment::default(), Used::default());
        Answer { outputs, rows: 1, enqueued, queue: Duration::ZERO, times, used, batch_rows: 4, run: 9, mates: None }
    }

    const SOON: Duration = Duration::from_millis(1);

    fn answered(observer: &Observer, key: u64, outputs: Vec<Tensor>, at: u64, after: Duration) {
        let (answer, deployment) = (answer(outputs), deployment("risk", 1, DataType::Fp32));
        let answered = Answered { answer: &answer, deployment: &deployment, wanted: &[0] };
        observer.answered(Side::Champion, key, answered, Moment::from_nanos(at), after);
    }

    #[test]
    fn who_is_seen_and_as_whose() {
        let observer = Observer::of(&plan()).unwrap();
        assert_eq!([0, 1, 2].map(|arm| observer.side(arm)), [None, Some(Side::Champion), Some(Side::Challenger)]);
        assert_eq!((observer.share, observer.is_keyed), (Share::of(10_000), true));
        assert!(Observer::of(&Plan { steps: Vec::new(), ..plan() }).is_none());
        let watched = Observer::of(&Plan { steps: Vec::new(), watched: true, ..plan() }).unwrap();
        assert_eq!((watched.side(1), watched.share), (Some(Side::Challenger), Share::of(MILLION)));
    }

    #[test]
    fn ends_are_told_once_in_the_order_of_time() {
        let observer = Observer::of(&plan()).unwrap();
        let at = Moment::from_nanos;
        observer.failed(Side::Challenger, 1, &Error::new(ErrorKind::Deadline, ""), at(5), SOON);
        observer.failed(Side::Challenger, 2, &Error::new(ErrorKind::Engine, "").in_run(7), at(3), SOON);
        observer.failed(Side::Champion, 3, &Error::new(ErrorKind::Overloaded, ""), at(4), SOON);
        answered(&observer, 4, vec![], 2, SOON);
        let bad = Tensor::from_slice([2], &[1.0f32, f32::NAN]).unwrap();
        answered(&observer, 5, vec![bad], 1, SOON);
        let (ends, unseen) = observer.take();
        let ended: Vec<(u64, Ended)> = ends.iter().map(|end| (end.key, end.ended)).collect();
        let expected = [
            (5, Ended::NotANumber { run: 9 }),
            (4, Ended::Answered { run: 9, rows: 4, nanos: 3_000 }),
            (2, Ended::Failed { run: 7 }),
            (3, Ended::Blameless),
            (1, Ended::Unanswered),
        ];
        assert_eq!((ended, unseen), (expected.to_vec(), 0));
        assert_eq!(observer.take(), (Vec::new(), 0));
    }

    #[test]
    fn what_was_declared_as_slow_and_what_is_watched_goes_with_the_end() {
        let output = tiltyard_rollout::plan::Output { name: None, tolerance: 0.25, roll_back: false };
        let policy = Policy { slow_over_us: Some(1_000), output: Some(output), ..Policy::default() };
        let observer = Observer::of(&Plan { policy, ..plan() }).unwrap();
        answered(&observer, 1, vec![Tensor::from_slice([1, 1], &[0.25f32]).unwrap()], 1, SOON);
        answered(&observer, 2, vec![], 2, SOON * 2);
        observer.failed(Side::Champion, 3, &Error::new(ErrorKind::Deadline, ""), Moment::from_nanos(3), SOON * 9);
        let (ends, _) = observer.take();
        assert_eq!(ends.iter().map(|end| end.is_over).collect::<Vec<_>>(), [false, true, true]);
        assert!(ends[0].says == 0.25 && ends[1].says.is_nan() && ends[2].says.is_nan());
    }

    #[test]
    fn what_nobody_takes_is_not_kept_for_ever() {
        let observer = Observer::of(&plan()).unwrap();
        for key in 0..ENDS_MAX as u64 + 3 {
            observer.failed(Side::Champion, key, &Error::invalid(""), Moment::from_nanos(key), SOON);
        }
        let (ends, unseen) = observer.take();
        assert_eq!((ends.len(), unseen), (ENDS_MAX, 3));
    }
}
