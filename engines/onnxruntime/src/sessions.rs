//! Which session does a run get?
//!
//! On the CPU one session serves all threads. On devices all sessions are made at the load and take turns, each leased
//! to one run at a time: a device that is out of memory fails the load and never a request. ONNX Runtime gives every run
//! on a GPU a stream of its own for as long as it takes (`SessionState::AcquireDeviceStreamCollection`), and a session with
//! graphs one for ever, so that sessions compute beside each other: one stream per instance.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use tiltyard_types::Tensor;

use crate::gate;
use crate::graphs::GraphSession;
use crate::shared_run::{RunError, SharedSession, Staging};

/// The sessions of a model.
#[derive(Clone)]
pub(crate) enum Sessions {
    /// One for all threads.
    Shared(Arc<SharedSession>),
    /// One for one run at a time each.
    Leased(Arc<Turns<DeviceSession>>),
}

/// A session for one run at a time.
pub(crate) enum DeviceSession {
    /// With memory that its device reads and writes by itself, where it has such; in the order in which they are dropped.
    Plain(Option<Staging>, SharedSession),
    /// Recorded.
    Graphs(GraphSession),
}

impl DeviceSession {
    fn run(&mut self, inputs: &[Option<Tensor>], wanted: &[usize]) -> Result<Vec<Tensor>, RunError> {
        match self {
            DeviceSession::Plain(staging, session) => {
                let _running = gate::running();
                session.run(inputs, wanted, staging.as_mut())
            }
            DeviceSession::Graphs(session) => session.run(inputs, wanted),
        }
    }

    /// Replaces all of it that a run changes, after one that panicked. The library's own session is kept: panics are ours and
    /// do not pass through it, and what it was made from is not kept.
    fn renew(&mut self) {
        match self {
            DeviceSession::Plain(Some(staging), _) => {
                let _making = gate::making();
                staging.renew();
            }
            DeviceSession::Plain(None, _) => {}
            // Its thread does so itself.
            DeviceSession::Graphs(_) => {}
        }
    }
}

impl Sessions {
    /// Sessions for one run at a time each; in the order in which they shall take turns.
    pub(crate) fn leased(sessions: Vec<DeviceSession>) -> Sessions {
        Sessions::Leased(Arc::new(Turns::new(sessions)))
    }

    /// Runs at a time, where they are limited.
    pub(crate) fn limit(&self) -> Option<usize> {
        match self {
            Sessions::Shared(_) => None,
            Sessions::Leased(turns) => Some(turns.count),
        }
    }

    /// Runs the model; see [`SharedSession::run`]. Waits where all sessions are leased: a deployment's queue starts no
    /// more runs than there are sessions, but measurements in idle time come past it and hold one too. So only threads
    /// that may sleep run models on devices.
    pub(crate) fn run(&self, inputs: &[Option<Tensor>], wanted: &[usize]) -> Result<Vec<Tensor>, RunError> {
        match self {
            Sessions::Shared(session) => session.run(inputs, wanted, None),
            Sessions::Leased(turns) => {
                let mut lease = turns.lease();
                catch_unwind(AssertUnwindSafe(|| lease.get().run(inputs, wanted))).unwrap_or_else(|panic| {
                    lease.get().renew();
                    resume_unwind(panic)
                })
            }
        }
    }

    /// Has each session that runs as graphs record one for each of these batches.
    pub(crate) fn settle(&self, batches: &[Vec<Option<Tensor>>]) -> Result<(), RunError> {
        let Sessions::Leased(turns) = self else { return Ok(()) };
        // All at once, so that none is left out and none comes twice.
        let mut leases: Vec<Lease<'_, DeviceSession>> = (0..turns.count).map(|_| turns.lease()).collect();
        leases.iter_mut().try_for_each(|lease| match lease.get() {
            DeviceSession::Plain(..) => Ok(()),
            DeviceSession::Graphs(session) => session.settle(batches),
        })
    }
}

/// Things that are leased to one at a time, those that waited longest first, so that devices share the work.
pub(crate) struct Turns<T> {
    idle: Mutex<VecDeque<T>>,
    returned: Condvar,
    count: usize,
}

impl<T> Turns<T> {
    fn new(things: Vec<T>) -> Turns<T> {
        let count = things.len();
        Turns { idle: Mutex::new(things.into()), returned: Condvar::new(), count }
    }

    /// Takes the next, or waits for one to come back.
    fn lease(&self) -> Lease<'_, T> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(thing) = idle.pop_front() {
                return Lease { turns: self, thing: Some(thing) };
            }
            idle = self.returned.wait(idle).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl<T> Drop for Turns<T> {
    /// Frees what devices hold while nothing is recorded.
    fn drop(&mut self) {
        let _making = gate::making();
        self.idle.get_mut().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// A thing on loan. It goes back however its use ends.
struct Lease<'a, T> {
    turns: &'a Turns<T>,
    /// There until this is dropped.
    thing: Option<T>,
}

impl<T> Lease<'_, T> {
    fn get(&mut self) -> &mut T {
        self.thing.as_mut().expect("a lease holds its thing until it is dropped")
    }
}

impl<T> Drop for Lease<'_, T> {
    fn drop(&mut self) {
        let mut idle = self.turns.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.extend(self.thing.take());
        self.turns.returned.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn the_one_that_waited_longest_is_next() {
        let turns = Turns::new(vec!["first", "second"]);
        let taken: Vec<&str> = (0..4).map(|_| *turns.lease().get()).collect();
        assert_eq!(taken, ["first", "second", "first", "second"]);
        let (first, second) = (turns.lease(), turns.lease());
        drop(second);
        drop(first);
        assert_eq!(*turns.lease().get(), "second");
    }

    #[test]
    fn a_panic_gives_it_back() {
        let turns = Turns::new(vec![()]);
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let _lease = turns.lease();
            panic!("on purpose");
        }));
        assert!(panicked.is_err());
        turns.lease();
    }

    #[test]
    fn nobody_shares_and_nobody_waits_for_ever() {
        let turns = Turns::new((0..3).map(|_| AtomicUsize::new(0)).collect::<Vec<_>>());
        let uses = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        let mut lease = turns.lease();
                        assert_eq!(lease.get().fetch_add(1, Ordering::SeqCst), 0, "two have it");
                        uses.fetch_add(1, Ordering::SeqCst);
                        lease.get().fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(uses.into_inner(), 4000);
    }
}
