//! Which threads run the engines?
//!
//! Thin shells around the queues: workers that visit deployments, and one timer for batches that wait for company.
//! All of them sleep while nothing happens.

#[cfg(not(shuttle))]
mod by_hand;
mod waits;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use tiltyard_types::Moment;

use crate::deployment::{Deployment, Visit};
use crate::sync::{Receiver, RecvTimeoutError, Sender, thread, unbounded};

#[cfg(not(shuttle))]
pub use self::by_hand::{Timer, Workers};

use self::waits::Waits;

/// The process's clock, handed in by the server: only it may read one.
pub type Clock = fn() -> Moment;

/// Worker threads shared by all deployments. They end when the pool is dropped.
///
/// The channels are unbounded, but what is in them is not: a deployment sends at most as many workers as it has
/// sessions.
pub struct Pool {
    clock: Clock,
    visits: Sender<Arc<Deployment>>,
    waits: OnceLock<Sender<(Moment, Weak<Deployment>)>>,
    threads: usize,
}

impl Pool {
    /// Starts `threads` workers.
    pub fn start(threads: usize, clock: Clock) -> std::io::Result<Arc<Pool>> {
        let (visits, incoming) = unbounded();
        let pool = Arc::new(Pool { clock, visits, waits: OnceLock::new(), threads });
        for number in 0..threads {
            let (incoming, pool) = (incoming.clone(), Arc::downgrade(&pool));
            thread::Builder::new().name(format!("tiltyard-run-{number}")).spawn(move || work(&incoming, &pool))?;
        }
        Ok(pool)
    }

    /// The moment it is.
    pub fn now(&self) -> Moment {
        (self.clock)()
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

    /// Sends a worker to `deployment` at `until`. The timer thread starts with the first use: by default no batch
    /// waits for company.
    fn send_at(self: &Arc<Self>, until: Moment, deployment: &Arc<Deployment>) {
        let waits = self.waits.get_or_init(|| {
            let (sender, receiver) = unbounded();
            let pool = Arc::downgrade(self);
            let timer = thread::Builder::new().name("tiltyard-timer".into()).spawn(move || keep_time(&receiver, &pool));
            if let Err(error) = timer {
                tracing::error!(%error, "no timer thread: batches do not wait for company");
            }
            sender
        });
        if waits.send((until, Arc::downgrade(deployment))).is_err() {
            deployment.wake(self);
        }
    }
}

fn work(incoming: &Receiver<Arc<Deployment>>, pool: &Weak<Pool>) {
    while let Ok(deployment) = incoming.recv() {
        let Some(pool) = pool.upgrade() else { return };
        attend(deployment, &pool, incoming);
    }
}

/// What a worker does for one deployment it was sent to: batch after batch, until there is nothing to run or another
/// deployment waits for a worker.
fn attend(deployment: Arc<Deployment>, pool: &Arc<Pool>, incoming: &Receiver<Arc<Deployment>>) {
    loop {
        // Engines are contained where they run. A panic anywhere else is ours: its jobs are answered as they are
        // dropped, and the thread goes on.
        let visit = catch_unwind(AssertUnwindSafe(|| deployment.visit(pool))).unwrap_or(Visit::Ran);
        match visit {
            // After each batch the others have their turn.
            Visit::Ran if incoming.is_empty() => {}
            Visit::Ran => return pool.send(deployment),
            Visit::Left => return,
            Visit::LeftUntil(until) => return pool.send_at(until, &deployment),
        }
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
