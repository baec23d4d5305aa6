//! Who frees a model that nobody uses any more?
//!
//! A thread of its own: freeing a large model takes milliseconds, which no request shall pay. It keeps a reference to
//! every retired deployment and drops it once it is the last.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use tiltyard_runtime::deployment::Deployment;
use tiltyard_runtime::retired::Retired;

use crate::clock;
use crate::ledger::Ledger;
use crate::states::States;

/// How often deployments that are still in use are looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The way to hand deployments over. The thread ends when this is dropped and all are freed.
#[derive(Clone)]
pub struct Reaper {
    retired: Sender<Arc<Deployment>>,
    ledger: Arc<Ledger>,
    states: Arc<States>,
}

impl Reaper {
    /// Starts the thread. What deployments counted is kept in `ledger`, how far they are is told in `states`.
    pub fn start(ledger: Arc<Ledger>, states: Arc<States>) -> std::io::Result<Reaper> {
        let (sender, retired) = unbounded();
        let (books, told) = (Arc::clone(&ledger), Arc::clone(&states));
        thread::Builder::new().name("tiltyard-reaper".into()).spawn(move || reap(&retired, &books, &told))?;
        Ok(Reaper { retired: sender, ledger, states })
    }

    /// Hands a deployment over that the catalog no longer has.
    pub fn retire(&self, deployment: Arc<Deployment>) {
        self.ledger.open(&deployment);
        self.states.note_draining(&deployment);
        // The thread outlives every sender, so this cannot fail.
        drop(self.retired.send(deployment));
    }
}

fn reap(retired: &Receiver<Arc<Deployment>>, ledger: &Ledger, states: &States) {
    let mut waiting = Retired::default();
    loop {
        let received = match waiting.is_empty() {
            true => retired.recv().map_err(|_| RecvTimeoutError::Disconnected),
            false => retired.recv_timeout(LOOK_AGAIN),
        };
        match received {
            Ok(deployment) => waiting.add(deployment),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let freed = waiting.free_unused();
        for id in &freed {
            states.note_retired(&id.model, id.version, &id.digest.to_string());
        }
        if !freed.is_empty() {
            ledger.close(clock::now());
        }
    }
}
