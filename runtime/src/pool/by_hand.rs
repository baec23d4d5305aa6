//! How does a pool without threads run, where somebody else decides who goes next?
//!
//! For simulations. Nothing here is another way to run: workers and timer do what their threads do, one step for each
//! call.

use std::sync::{Arc, OnceLock, Weak};

use tiltyard_types::Moment;

use super::waits::Waits;
use super::{Clock, Pool, attend};
use crate::deployment::Deployment;
use crate::sync::{Receiver, unbounded};

/// All workers of a pool. Several threads may each be one of them.
pub struct Workers {
    pool: Arc<Pool>,
    incoming: Receiver<Arc<Deployment>>,
}

/// The timer of a pool.
pub struct Timer {
    pool: Arc<Pool>,
    incoming: Receiver<(Moment, Weak<Deployment>)>,
    waits: Waits,
}

impl Pool {
    /// A pool whose workers and timer go when they are told to.
    pub fn by_hand(clock: Clock) -> (Arc<Pool>, Workers, Timer) {
        let ((visits, visitors), (waits, waiting)) = (unbounded(), unbounded());
        let pool = Pool { waits: OnceLock::from(waits), ..Pool::of(clock, visits, visitors.clone(), 0) };
        let pool = Arc::new(pool);
        let workers = Workers { pool: Arc::clone(&pool), incoming: visitors };
        let timer = Timer { pool: Arc::clone(&pool), incoming: waiting, waits: Waits::default() };
        (pool, workers, timer)
    }
}

impl Workers {
    /// Deployments that a worker was sent to and that none has come to yet.
    pub fn calls(&self) -> usize {
        self.incoming.len()
    }

    /// Is one worker: goes to the deployment that called first, and stays until a worker would go to the next one. False
    /// where none has called.
    pub fn attend(&self) -> bool {
        let called = self.incoming.try_recv();
        let Ok(deployment) = called else { return false };
        attend(deployment, &self.pool, &self.incoming);
        true
    }
}

impl Timer {
    /// The moment at which it has something to do next; `None` where nothing waits for one.
    pub fn due(&mut self) -> Option<Moment> {
        self.listen();
        self.waits.next()
    }

    /// Sends workers to those whose moment has come.
    pub fn tick(&mut self) {
        self.listen();
        self.waits.wake_due(&self.pool);
    }

    fn listen(&mut self) {
        while let Ok((until, deployment)) = self.incoming.try_recv() {
            self.waits.add(until, deployment);
        }
    }
}
