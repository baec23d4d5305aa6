//! How did the requests end that count in a rollout?
//!
//! A plan with steps has one observer, whom each request that is evidence tells its end. That is a push to one of a few lists,
//! none of which is ever long: the rollouts' thread takes them away, and what comes meanwhile beyond a bound is not seen, of
//! whichever arm it is, and counted.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tiltyard_rollout::evidence::Share;
use tiltyard_rollout::plan::{KeySource, MILLION, Plan, Role};
use tiltyard_runtime::job::Answer;
use tiltyard_types::shard::{SHARDS, shard};
use tiltyard_types::{Error, ErrorKind, Moment, Tensor};

use super::feedback::notes::Notes;

/// Ends in one list: 1 MiB.
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// When.
    pub at: Moment,
    /// The key's name in evidence, or the request's where each is on its own.
    pub key: u64,
    /// Whose it was.
    pub side: Side,
    /// How.
    pub ended: Ended,
}

/// Sees the requests of one revision of a plan, all of them under one share.
#[derive(Debug)]
pub struct Observer {
    /// What is in force.
    pub share: Share,
    /// Whether requests stick to arms by a key: then the key is what counts.
    pub is_keyed: bool,
    /// What the answers said, where labels decide.
    pub notes: Option<Notes>,
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
        Observer { share, is_keyed, notes: Notes::of(plan, share), champion, challenger, ends, unseen }
    }

    /// Whose an arm's requests are; nobody's where it is a shadow.
    pub fn side(&self, arm: usize) -> Option<Side> {
        match arm {
            arm if arm == self.champion => Some(Side::Champion),
            arm if arm == self.challenger => Some(Side::Challenger),
            _ => None,
        }
    }

    /// Notes a request that was answered.
    pub fn answered(&self, side: Side, key: u64, answer: &Answer, at: Moment) {
        let run = answer.run;
        let ended = match answer.outputs.iter().all(is_finite) {
            true => {
                let rows = u32::try_from(answer.batch_rows).unwrap_or(u32::MAX);
                let nanos = u64::try_from(answer.times.run.as_nanos()).unwrap_or(u64::MAX);
                Ended::Answered { run, rows, nanos }
            }
            false => Ended::NotANumber { run },
        };
        self.note(End { at, key, side, ended });
    }

    /// Notes a request that failed.
    pub fn failed(&self, side: Side, key: u64, error: &Error, at: Moment) {
        let ended = match (error.run(), error.kind()) {
            (Some(run), _) => Ended::Failed { run },
            // A client that goes away may have waited for too long.
            (None, ErrorKind::Engine | ErrorKind::Deadline | ErrorKind::NotReady | ErrorKind::Cancelled) => {
                Ended::Unanswered
            }
            (None, _) => Ended::Blameless,
        };
        self.note(End { at, key, side, ended });
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
    use std::time::Duration;

    use tiltyard_rollout::plan::{Policy, Step};
    use tiltyard_runtime::stats::{RunTimes, Used};

    use super::*;

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
        observer.failed(Side::Challenger, 1, &Error::new(ErrorKind::Deadline, ""), at(5));
        observer.failed(Side::Challenger, 2, &Error::new(ErrorKind::Engine, "").in_run(7), at(3));
        observer.failed(Side::Champion, 3, &Error::new(ErrorKind::Overloaded, ""), at(4));
        observer.answered(Side::Champion, 4, &answer(vec![]), at(2));
        let bad = Tensor::from_slice([2], &[1.0f32, f32::NAN]).unwrap();
        observer.answered(Side::Champion, 5, &answer(vec![bad]), at(1));
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
    fn what_nobody_takes_is_not_kept_for_ever() {
        let observer = Observer::of(&plan()).unwrap();
        for key in 0..ENDS_MAX as u64 + 3 {
            observer.failed(Side::Champion, key, &Error::invalid(""), Moment::from_nanos(key));
        }
        let (ends, unseen) = observer.take();
        assert_eq!((ends.len(), unseen), (ENDS_MAX, 3));
    }
}
