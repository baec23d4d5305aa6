//! Which threads run the engines?
//!
//! Thin shells around the queues: workers that visit deployments, and one timer for batches that wait for company.
//! All of them sleep while nothing happens.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use tiltyard_types::Moment;

use crate::deployment::{Deployment, Visit};
use crate::sync::{Receiver, RecvTimeoutError, Sender, thread, unbounded};

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
        loop {
            // Engines are contained where they run. A panic anywhere else is ours: its jobs are answered as they are
            // dropped, and the thread goes on.
            let visit = catch_unwind(AssertUnwindSafe(|| deployment.visit(&pool))).unwrap_or(Visit::Ran);
            match visit {
                // After each batch the others have their turn.
                Visit::Ran if incoming.is_empty() => {}
                Visit::Ran => {
                    pool.send(deployment);
                    break;
                }
                Visit::Left => break,
                Visit::LeftUntil(until) => {
                    pool.send_at(until, &deployment);
                    break;
                }
            }
        }
    }
}

fn keep_time(waits: &Receiver<(Moment, Weak<Deployment>)>, pool: &Weak<Pool>) {
    let mut pending: BinaryHeap<Reverse<(Moment, usize)>> = BinaryHeap::new();
    let mut deployments: Vec<Option<Weak<Deployment>>> = Vec::new();
    loop {
        let timeout = match (pending.peek(), pool.upgrade()) {
            (_, None) => return,
            (Some(Reverse((until, _))), Some(pool)) => until.since(pool.now()),
            (None, _) => Duration::MAX,
        };
        let received = if timeout == Duration::MAX {
            waits.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            waits.recv_timeout(timeout)
        };
        match received {
            Ok((until, deployment)) => {
                let slot = deployments.iter().position(Option::is_none).unwrap_or_else(|| {
                    deployments.push(None);
                    deployments.len() - 1
                });
                deployments[slot] = Some(deployment);
                pending.push(Reverse((until, slot)));
            }
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {}
        }
        let Some(pool) = pool.upgrade() else { return };
        while pending.peek().is_some_and(|Reverse((until, _))| *until <= pool.now()) {
            let slot = pending.pop().map(|Reverse((_, slot))| slot);
            if let Some(deployment) = slot.and_then(|slot| deployments[slot].take()?.upgrade()) {
                deployment.wake(&pool);
            }
        }
    }
}
