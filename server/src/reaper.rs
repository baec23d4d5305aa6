//! Who frees a model that nobody uses any more?
//!
//! A thread of its own: freeing a large model takes milliseconds, which no request shall pay. It keeps a reference to
//! every retired deployment and drops it once it is the last.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use tiltyard_runtime::deployment::Deployment;

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
    let mut waiting: Vec<Arc<Deployment>> = Vec::new();
    loop {
        let received = match waiting.is_empty() {
            true => retired.recv().map_err(|_| RecvTimeoutError::Disconnected),
            false => retired.recv_timeout(LOOK_AGAIN),
        };
        match received {
            Ok(deployment) => waiting.push(deployment),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let before = waiting.len();
        waiting.retain(|deployment| {
            let used = Arc::strong_count(deployment) > 1;
            if !used {
                let id = &deployment.identity;
                tracing::info!(model = id.model, version = id.version, digest = id.digest.short(), "freed");
                states.note_retired(&id.model, id.version, &id.digest.to_string());
            }
            used
        });
        if waiting.len() < before {
            ledger.close(clock::now());
        }
    }
}
