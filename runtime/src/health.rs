//! Is a deployment fit to answer, and what did it lose on the way?

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, PoisonError};

use tiltyard_types::Moment;

use crate::breaker::{Breaker, Probe};
use crate::stats::Faults;
use crate::sync::{Mutex, MutexGuard};

/// Runs of one deployment, or probes, that may hang at a time before it is out for good: each keeps its thread and its
/// session.
pub const STUCK_MAX: usize = 3;

/// A deployment's breaker, for threads to share.
#[derive(Default)]
pub struct Health {
    breaker: Mutex<Breaker>,
    /// Whether the next run that goes well is news. One load for each run that does.
    is_wary: AtomicBool,
    /// What it counts.
    pub(crate) faults: Arc<Faults>,
}

impl Health {
    /// Why the deployment does not answer, as clients may read it; `None` where it does.
    pub fn out(&self) -> Option<&'static str> {
        self.lock().out()
    }

    /// What the engine said when it failed last: for the operator.
    pub fn reason(&self) -> String {
        self.lock().reason().to_owned()
    }

    /// Runs that were given up so far.
    pub fn runs_stuck(&self) -> u64 {
        self.faults.given_up()
    }

    /// How often it was taken out.
    pub fn times_out(&self) -> u64 {
        self.faults.times_out()
    }

    /// Whether it is to be asked now something that it is known to answer.
    pub fn begins_probe(&self, now: Moment) -> bool {
        self.lock().begins_probe(now)
    }

    /// Whether it is being asked.
    pub fn is_probed(&self) -> bool {
        self.lock().is_probed()
    }

    /// Takes in what came of asking it.
    pub fn probed(&self, probe: Probe, now: Moment) {
        self.change(|breaker| breaker.probed(probe, now));
    }

    /// The probe takes too long: another one is due after a pause. True if so many have not come back that this is for good.
    pub fn probe_is_overdue(&self, now: Moment) -> bool {
        self.change(|breaker| breaker.overdue(now)) >= STUCK_MAX
    }

    /// Takes the deployment out for good.
    pub fn gives_up(&self, reason: String) {
        self.change(|breaker| breaker.gives_up(reason));
    }

    /// A run went well.
    pub(crate) fn ran_well(&self) {
        if self.is_wary.load(Relaxed) {
            self.change(Breaker::ran_well);
        }
    }

    /// A run failed by the engine's fault. True if somebody is to look at it.
    pub(crate) fn failed(&self, reason: &str, now: Moment) -> bool {
        self.change(|breaker| breaker.failed(reason, now))
    }

    /// So many runs were given up.
    pub(crate) fn lost(&self, runs: u64) {
        self.faults.gave_up(runs);
    }

    fn change<T>(&self, change: impl FnOnce(&mut Breaker) -> T) -> T {
        let mut breaker = self.lock();
        let was_out = breaker.out().is_some();
        let outcome = change(&mut breaker);
        if !was_out && breaker.out().is_some() {
            self.faults.went_out();
        }
        self.is_wary.store(breaker.is_wary(), Relaxed);
        outcome
    }

    fn lock(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
