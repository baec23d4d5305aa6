//! Which session does a run get?
//!
//! On the CPU one session serves all threads. On devices all sessions are made at the load and take turns, each leased
//! to one run at a time: a device that is out of memory fails the load and never a request.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use tiltyard_types::Tensor;

use crate::shared_run::{RunError, SharedSession};

/// The sessions of a model.
#[derive(Clone)]
pub(crate) enum Sessions {
    /// One for all threads.
    Shared(Arc<SharedSession>),
    /// One for one run at a time each.
    Leased(Arc<Turns>),
}

/// Sessions that wait for their turn, those that waited longest first, so that devices share the work.
pub(crate) struct Turns {
    idle: Mutex<VecDeque<SharedSession>>,
    returned: Condvar,
    count: usize,
}

impl Sessions {
    /// Sessions for one run at a time each; in the order in which they shall take turns.
    pub(crate) fn leased(sessions: Vec<SharedSession>) -> Sessions {
        let count = sessions.len();
        Sessions::Leased(Arc::new(Turns { idle: Mutex::new(sessions.into()), returned: Condvar::new(), count }))
    }

    /// Runs at a time, where they are limited.
    pub(crate) fn limit(&self) -> Option<usize> {
        match self {
            Sessions::Shared(_) => None,
            Sessions::Leased(turns) => Some(turns.count),
        }
    }

    /// Runs the model; see [`SharedSession::run`]. Waits where all sessions are leased, which a deployment's queue
    /// does not let happen.
    pub(crate) fn run(&self, inputs: &[Option<Tensor>], wanted: &[usize]) -> Result<Vec<Tensor>, RunError> {
        match self {
            Sessions::Shared(session) => session.run(inputs, wanted),
            Sessions::Leased(turns) => {
                let lease = Lease { turns, session: Some(turns.take()) };
                lease.session.as_ref().map_or_else(|| Ok(Vec::new()), |session| session.run(inputs, wanted))
            }
        }
    }
}

impl Turns {
    fn take(&self) -> SharedSession {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(session) = idle.pop_front() {
                return session;
            }
            idle = self.returned.wait(idle).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// A session on loan. It goes back however the run ends.
struct Lease<'a> {
    turns: &'a Turns,
    /// There until the lease is dropped.
    session: Option<SharedSession>,
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        let mut idle = self.turns.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.extend(self.session.take());
        self.turns.returned.notify_one();
    }
}
