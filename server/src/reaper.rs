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

/// How often deployments that are still in use are looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The way to hand deployments over. The thread ends when this is dropped and all are freed.
#[derive(Clone)]
pub struct Reaper {
    retired: Sender<Arc<Deployment>>,
    ledger: Arc<Ledger>,
}

impl Reaper {
    /// Starts the thread. What deployments counted is kept in `ledger`.
    pub fn start(ledger: Arc<Ledger>) -> std::io::Result<Reaper> {
        let (sender, retired) = unbounded();
        let books = Arc::clone(&ledger);
        thread::Builder::new().name("tiltyard-reaper".into()).spawn(move || reap(&retired, &books))?;
        Ok(Reaper { retired: sender, ledger })
    }

    /// Hands a deployment over that the catalog no longer has.
    pub fn retire(&self, deployment: Arc<Deployment>) {
        self.ledger.open(&deployment);
        // The thread outlives every sender, so this cannot fail.
        drop(self.retired.send(deployment));
    }
}

fn reap(retired: &Receiver<Arc<Deployment>>, ledger: &Ledger) {
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
        if waiting.free_unused() > 0 {
            ledger.close(clock::now());
        }
    }
}
