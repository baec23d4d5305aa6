//! Which threads run the engines?
//!
//! Thin shells around the queues: workers that visit deployments, and one timer for batches that wait for company.
//! All of them sleep while nothing happens.

#[cfg(not(shuttle))]
mod by_hand;
mod waits;

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use tiltyard_types::Moment;

use crate::deployment::{Deployment, Visit};
use crate::priority::give_way;
use crate::sync::{Receiver, RecvTimeoutError, Sender, thread, unbounded};

#[cfg(not(shuttle))]
pub use self::by_hand::{Timer, Workers};

use self::waits::Waits;

/// The process's clock, handed in by the server: only it may read one.
pub type Clock = fn() -> Moment;

/// For how long the calling thread was kept from running so far: what a run took is told without it.
pub type Kept = fn() -> Duration;

/// The processor's time that the calling thread has taken so far.
pub type Taken = fn() -> Duration;

/// Worker threads shared by all deployments. They end when the pool is dropped.
///
/// The channels are unbounded, but what is in them is not: a deployment sends at most as many workers as it has
/// sessions.
pub struct Pool {
    clock: Clock,
    visits: Sender<Arc<Deployment>>,
    waits: OnceLock<Sender<(Moment, Weak<Deployment>)>>,
    threads: usize,
    /// Where workers take only what others leave of the processors: for how long each was kept waiting for them.
    kept_waiting: Option<Kept>,
    /// Where it is known, the processor's time that each has taken.
    taken: Option<Taken>,
    /// For workers that take the place of others.
    incoming: Receiver<Arc<Deployment>>,
    /// Workers that are lost to runs that hang.
    lost: AtomicUsize,
    /// Says that a deployment is to be looked at.
    alarms: (crossbeam_channel::Sender<()>, crossbeam_channel::Receiver<()>),
}

/// Workers that may be lost at a time and are replaced: each keeps a thread with its stack.
const REPLACED_MAX: usize = 64;

impl Pool {
    /// Starts `threads` workers.
    pub fn start(threads: usize, clock: Clock) -> std::io::Result<Arc<Pool>> {
        Pool::start_with_timer(threads, clock, None)
    }

    /// The same, and what runs take of the processors is measured.
    pub fn start_metered(threads: usize, clock: Clock, taken: Taken) -> std::io::Result<Arc<Pool>> {
        Pool::start_with_timer(threads, clock, Some(taken))
    }

    fn start_with_timer(threads: usize, clock: Clock, taken: Option<Taken>) -> std::io::Result<Arc<Pool>> {
        let pool = Pool::start_workers(threads, clock, None, taken)?;
        // Now, so that who has served for long has no thread more than who has just begun.
        pool.timer();
        Ok(pool)
    }

    /// The same with workers that take only what others leave of the processors.
    pub fn start_giving_way(threads: usize, clock: Clock, kept_waiting: Kept) -> std::io::Result<Arc<Pool>> {
        Pool::start_workers(threads, clock, Some(kept_waiting), None)
    }

    fn start_workers(
        threads: usize,
        clock: Clock,
        kept_waiting: Option<Kept>,
        taken: Option<Taken>,
    ) -> std::io::Result<Arc<Pool>> {
        let (visits, incoming) = unbounded();
        let pool = Arc::new(Pool { kept_waiting, taken, ..Pool::of(clock, visits, incoming, threads) });
        for number in 0..threads {
            pool.start_worker(number)?;
        }
        Ok(pool)
    }

    fn of(clock: Clock, visits: Sender<Arc<Deployment>>, incoming: Receiver<Arc<Deployment>>, threads: usize) -> Pool {
        let (lost, alarms) = (AtomicUsize::new(0), crossbeam_channel::bounded(1));
        let (waits, kept_waiting, taken) = (OnceLock::new(), None, None);
        Pool { clock, visits, waits, threads, kept_waiting, taken, incoming, lost, alarms }
    }

    fn start_worker(self: &Arc<Self>, number: usize) -> std::io::Result<()> {
        let (incoming, pool, gives_way) = (self.incoming.clone(), Arc::downgrade(self), self.kept_waiting.is_some());
        let name = if gives_way { "tiltyard-low" } else { "tiltyard-run" };
        let work = move || {
            if gives_way {
                give_way();
            }
            work(&incoming, &pool);
        };
        thread::Builder::new().name(format!("{name}-{number}")).spawn(work).map(drop)
    }

    /// Counts a worker whose run hangs, and says how many there are with it. Before the worker may hear that its run was given
    /// up, so that it is never found before it was lost.
    pub(crate) fn lose(&self) -> usize {
        self.lost.fetch_add(1, Relaxed) + 1
    }

    /// Starts a worker in place of the one that was `lost` as so many-th. That one ends when its run ends after all.
    pub(crate) fn replace_worker(self: &Arc<Self>, lost: usize) {
        if self.threads == 0 || lost > REPLACED_MAX {
            return;
        }
        if let Err(error) = self.start_worker(self.threads + lost - 1) {
            tracing::error!(%error, "no thread in place of one that hangs");
        }
    }

    /// A worker has come back whose run hung. It goes on where nobody took its place.
    fn found(&self) -> Attended {
        let lost = self.lost.fetch_sub(1, Relaxed);
        if self.threads == 0 || lost > REPLACED_MAX { Attended::GoesOn } else { Attended::GivenUp }
    }

    /// Workers that are lost to runs that hang.
    pub fn lost(&self) -> usize {
        self.lost.load(Relaxed)
    }

    /// Whether no worker is left, since more of them hang than are replaced.
    pub fn is_lost(&self) -> bool {
        self.lost() >= REPLACED_MAX + self.threads
    }

    /// Says that a deployment is to be looked at now.
    pub fn alarm(&self) {
        // One that waits to be heard is enough.
        let _ = self.alarms.0.try_send(());
    }

    /// Where [alarms](Pool::alarm) are heard.
    pub fn alarms(&self) -> crossbeam_channel::Receiver<()> {
        self.alarms.1.clone()
    }

    /// The moment it is.
    pub fn now(&self) -> Moment {
        (self.clock)()
    }

    /// For how long the calling worker was kept from running so far; nothing where workers do not give way.
    pub(crate) fn kept_waiting(&self) -> Duration {
        self.kept_waiting.map_or(Duration::ZERO, |kept_waiting| kept_waiting())
    }

    /// The processor's time that the calling thread has taken so far, where that is known.
    pub(crate) fn taken(&self) -> Option<Duration> {
        self.taken.map(|taken| taken())
    }

    /// Workers there are.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Sends a worker to `deployment`.
    pub(crate) fn send(&self, deployment: Arc<Deployment>) {
        // Fails only when all workers have ended, which they do after the pool.
        drop(self.visits.send(deployment));
    }

    /// Sends a worker to `deployment` at `until`.
    fn send_at(self: &Arc<Self>, until: Moment, deployment: &Arc<Deployment>) {
        if self.timer().send((until, Arc::downgrade(deployment))).is_err() {
            deployment.wake(self);
        }
    }

    /// The way to the timer's thread, which starts with the first use.
    fn timer(self: &Arc<Self>) -> &Sender<(Moment, Weak<Deployment>)> {
        self.waits.get_or_init(|| {
            let (sender, receiver) = unbounded();
            let pool = Arc::downgrade(self);
            let timer = thread::Builder::new().name("tiltyard-timer".into()).spawn(move || keep_time(&receiver, &pool));
            if let Err(error) = timer {
                tracing::error!(%error, "no timer thread: batches do not wait for company");
            }
            sender
        })
    }
}

fn work(incoming: &Receiver<Arc<Deployment>>, pool: &Weak<Pool>) {
    while let Ok(deployment) = incoming.recv() {
        let Some(pool) = pool.upgrade() else { return };
        if attend(deployment, &pool, incoming) == Attended::GivenUp {
            return;
        }
    }
}

/// Whether a worker goes on.
#[derive(PartialEq)]
enum Attended {
    GoesOn,
    /// Another one has taken its place.
    GivenUp,
}

/// What a worker does for one deployment it was sent to: batch after batch, until there is nothing to run or another
/// deployment waits for a worker.
fn attend(deployment: Arc<Deployment>, pool: &Arc<Pool>, incoming: &Receiver<Arc<Deployment>>) -> Attended {
    loop {
        match deployment.visit(pool) {
            // After each batch the others have their turn.
            Visit::Ran if incoming.is_empty() => continue,
            Visit::Ran => pool.send(deployment),
            Visit::Left => {}
            Visit::LeftUntil(until) => pool.send_at(until, &deployment),
            Visit::GivenUp => return pool.found(),
        }
        return Attended::GoesOn;
    }
}

fn keep_time(incoming: &Receiver<(Moment, Weak<Deployment>)>, pool: &Weak<Pool>) {
    let mut waits = Waits::default();
    loop {
        let timeout = match (waits.next(), pool.upgrade()) {
            (_, None) => return,
            (Some(until), Some(pool)) => until.since(pool.now()),
            (None, _) => Duration::MAX,
        };
        let received = if timeout == Duration::MAX {
            incoming.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            incoming.recv_timeout(timeout)
        };
        match received {
            Ok((until, deployment)) => waits.add(until, deployment),
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {}
        }
        let Some(pool) = pool.upgrade() else { return };
        waits.wake_due(&pool);
    }
}
