//! What does a fault of the engine cost, and whom? One batch, its session, and with luck nothing more.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use tiltyard_types::{Error, ErrorKind, Moment};

use super::leases::{Opened, Running};
use super::{Deployment, Identity, lock, panic_text};
use crate::breaker::Probe;
use crate::engine::{EngineError, Session};
use crate::health::STUCK_MAX;
use crate::measure::Sample;
use crate::pool::Pool;

/// A run hangs only where it takes so many times longer than it was measured to take.
const FAR: u32 = 20;

/// A run that was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stuck {
    /// Requests that it would have answered, parts of large ones counted each.
    pub requests: usize,
    /// Rows in it.
    pub rows: usize,
    /// How long it had been running.
    pub time: Duration,
    /// Whether an event loop hangs with it.
    pub on_loop: bool,
}

impl Deployment {
    /// Runs with a session, and takes it back. One that panicked is not used again.
    pub(super) fn with_session<T>(
        &self,
        run: impl FnOnce(&mut dyn Session) -> Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        let (result, opened) = self.in_session(self.leases.borrow(), run);
        if let Some(opened) = opened {
            self.leases.put_back(opened);
        }
        result
    }

    /// Runs with an idle session, or one that is opened for it. Gives it back unless it panicked, or none was opened.
    pub(super) fn in_session<T>(
        &self,
        idle: Option<Opened>,
        run: impl FnOnce(&mut dyn Session) -> Result<T, EngineError>,
    ) -> (Result<T, EngineError>, Option<Opened>) {
        let panicked = |panic: Box<dyn Any + Send>| EngineError::Panicked(panic_text(&*panic));
        let open = || catch_unwind(AssertUnwindSafe(|| self.compiled.open())).map_err(panicked).flatten();
        let mut opened = match idle.map_or_else(|| open().map(Opened::new), Ok) {
            Ok(opened) => opened,
            Err(error) => return (Err(error), None),
        };
        // The session is outside: to close it is the engine's code too, and may panic as well.
        match catch_unwind(AssertUnwindSafe(|| run(opened.session.as_mut()))) {
            Ok(result) => (result, Some(opened)),
            Err(panic) => {
                opened.close();
                (Err(panicked(panic)), None)
            }
        }
    }

    /// What a client is told of a run that began at `since` and failed. Counts it against the engine where that is at fault.
    pub(super) fn failure(&self, error: EngineError, since: Moment, pool: &Pool) -> Error {
        let Identity { model, version, engine, .. } = &self.identity;
        let text = error.to_string();
        if let EngineError::Panicked(panic) = &error {
            // The text may tell of anything: it is the operator's.
            tracing::error!(model, version, engine, panic, "the engine panicked");
        }
        if let EngineError::BadInput(message) = &error {
            return Error::invalid(format!("model {model:?} version {version} cannot take these values: {message}"));
        }
        self.blame(&text, since, pool);
        let what = match error {
            EngineError::Panicked(_) => "the engine panicked; the server's log says how".to_owned(),
            EngineError::OutOfMemory(message) => format!("there is not enough memory for these rows: {message}"),
            _ => text,
        };
        Error::new(ErrorKind::Engine, format!("model {model:?} version {version} failed on {engine}: {what}"))
    }

    /// Counts a run that failed by the engine's fault at about this moment.
    pub(super) fn blame(&self, reason: &str, at: Moment, pool: &Pool) {
        if self.health.failed(reason, at) {
            pool.alarm();
        }
    }

    /// Asks it what it is known to answer: a golden example, or else a request that is made up. Takes as long as a run; never
    /// called on a thread that serves requests.
    pub fn probe(&self) -> Probe {
        if let Some(example) = &self.example {
            let check =
                |session: &mut dyn Session| example.check(&self.signature, session).map_err(EngineError::Failed);
            return match self.with_session(check) {
                Ok(()) => Probe::Answers,
                Err(error) => Probe::Fails(error.to_string()),
            };
        }
        match Sample::of(self) {
            Ok(_) => Probe::Answers,
            Err(none) if none.is_refused => Probe::Unknown,
            Err(none) => Probe::Fails(none.reason),
        }
    }

    /// Gives up runs that have taken more than `limit`, and far more than they were measured to take: answers their jobs,
    /// and has another worker take the place of the one that hangs. After a few of them the deployment is out for good,
    /// and what waits is answered too. What was before `awake_since` does not count: nobody ran then.
    pub fn give_up_stuck(self: &Arc<Self>, limit: Duration, awake_since: Moment, pool: &Arc<Pool>) -> Vec<Stuck> {
        let now = pool.now();
        let is_stuck = |running: &Running| {
            let time = now - running.since.max(awake_since);
            time > limit && self.cost.predict(running.rows).is_none_or(|usual| time > usual * FAR)
        };
        self.give_up_runs(is_stuck, now, pool)
    }

    /// The same for these runs, whatever time they took.
    pub(super) fn give_up_runs(
        self: &Arc<Self>,
        is_stuck: impl Fn(&Running) -> bool,
        now: Moment,
        pool: &Arc<Pool>,
    ) -> Vec<Stuck> {
        let given_up = self.leases.give_up(is_stuck, |running| if running.on_loop { None } else { Some(pool.lose()) });
        let Identity { model, version, .. } = &self.identity;
        let stuck: Vec<Stuck> = given_up
            .into_iter()
            .map(|(running, lost)| {
                let Running { number, since, rows, on_loop, jobs, later } = running;
                let stuck = Stuck { requests: jobs.len() + later.len(), rows, time: now - since, on_loop };
                let message = format!(
                    "model {model:?} version {version} has not answered for {:.0?}: its run hangs and was given up",
                    stuck.time
                );
                for job in jobs.into_iter().chain(later) {
                    job.reply.send(Err(Error::new(ErrorKind::Engine, message.clone()).in_run(number)));
                }
                let mut waiting = lock(&self.waiting);
                waiting.queue.finish(None, now);
                waiting.workers -= usize::from(!on_loop);
                drop(waiting);
                if let Some(lost) = lost {
                    pool.replace_worker(lost);
                }
                stuck
            })
            .collect();
        self.health.lost(stuck.len() as u64);
        let hang = self.leases.lost().0;
        if hang >= STUCK_MAX && !stuck.is_empty() {
            self.abandon(format!("{hang} runs hang"));
        }
        self.wake(pool);
        stuck
    }

    /// Takes it out for good, and answers what waits.
    pub fn abandon(&self, reason: String) {
        self.health.gives_up(reason);
        let waiting = {
            let mut waiting = lock(&self.waiting);
            let jobs = waiting.queue.abandon();
            self.outlook.tell(&waiting.queue, Moment::default());
            jobs
        };
        let Identity { model, version, .. } = &self.identity;
        let message = format!("model {model:?} version {version} {}", crate::breaker::HANGS);
        for job in waiting {
            job.reply.send(Err(Error::new(ErrorKind::NotReady, message.clone())));
        }
    }

    /// Runs that were given up and have not come back: all, and those on event loops.
    pub fn lost_runs(&self) -> (usize, usize) {
        self.leases.lost()
    }
}
