//! Who builds plans while requests are being answered?
//!
//! One thread per engine, started when first needed, fed through a bounded queue. A full queue refuses: the plan is
//! asked for again when its shape next comes by.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError, Weak};
use std::thread;

use tiltyard_runtime::priority::give_way;

use crate::plans::{Key, Plans};

/// Plans that may wait to be built.
const WAITING_MAX: usize = 32;

enum Job {
    Build(Weak<Plans>, Key),
    /// Tells when everything asked for earlier is done.
    Report(SyncSender<()>),
}

/// The way to the thread, which ends when the engine and all its models are gone.
#[derive(Default)]
pub(crate) struct Background {
    jobs: Mutex<Option<SyncSender<Job>>>,
}

impl Background {
    /// Asks for a plan; false when there is no room, or no thread to be had.
    pub(crate) fn ask(&self, plans: Weak<Plans>, key: Key) -> bool {
        self.sender().is_some_and(|jobs| jobs.try_send(Job::Build(plans, key)).is_ok())
    }

    /// Waits until everything asked for so far is done.
    pub(crate) fn wait(&self) {
        let sender = self.jobs.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (done, report) = sync_channel(1);
        if let Some(jobs) = sender
            && jobs.send(Job::Report(done)).is_ok()
        {
            // An error means that the thread is gone, and with it all work.
            let _ = report.recv();
        }
    }

    fn sender(&self) -> Option<SyncSender<Job>> {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        if jobs.is_none() {
            let (sender, receiver) = sync_channel(WAITING_MAX);
            match thread::Builder::new().name("tract-plans".into()).spawn(move || work(&receiver)) {
                Ok(_detached) => *jobs = Some(sender),
                Err(error) => tracing::warn!(%error, "no thread for building plans: the general ones stay in use"),
            }
        }
        jobs.clone()
    }
}

fn work(jobs: &Receiver<Job>) {
    // The general plans serve meanwhile.
    give_way();
    for job in jobs {
        match job {
            Job::Build(plans, key) => {
                if let Some(plans) = plans.upgrade() {
                    plans.build_queued(&key);
                }
            }
            // Nobody waits any more: nothing to tell.
            Job::Report(done) => drop(done.send(())),
        }
    }
}
