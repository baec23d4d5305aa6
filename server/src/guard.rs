//! Who notices a run that hangs, and a version whose runs keep failing?
//!
//! One thread that looks at all deployments now and then, and at once when one of them calls for it. What it finds out
//! reaches the catalog by its one writer. What a version is asked, to find out whether it answers, runs on a thread of its
//! own: it may hang too.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};
use tiltyard_runtime::deployment::{Deployment, Stuck};
use tiltyard_types::Moment;

use crate::infer::Inference;
use crate::writer::Writer;

/// How often all deployments are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A look that comes so late says that the process was frozen, as containers can be: what was asked before is given its
/// time anew.
const FROZEN: Duration = Duration::from_secs(3);

/// Starts the thread. What it gives back says whether a run hangs on a thread that reads requests.
pub(crate) fn start(
    inference: Arc<Inference>,
    writer: Writer,
    run_timeout: Duration,
) -> std::io::Result<Arc<AtomicBool>> {
    let loop_hangs = Arc::new(AtomicBool::new(false));
    let alarms = inference.pool.alarms();
    let mut guard = Guard {
        inference,
        run_timeout,
        revision: 0,
        known: Vec::new(),
        loop_hangs: Arc::clone(&loop_hangs),
        awake_since: Moment::from_nanos(0),
    };
    thread::Builder::new().name("tiltyard-guard".into()).spawn(move || watch(&mut guard, &alarms, &writer))?;
    Ok(loop_hangs)
}

fn watch(guard: &mut Guard, alarms: &Receiver<()>, writer: &Writer) {
    loop {
        let asleep_since = guard.inference.pool.now();
        if let Err(RecvTimeoutError::Disconnected) = alarms.recv_timeout(LOOK_EVERY) {
            return;
        }
        guard.wake(asleep_since);
        if guard.look() {
            writer.judge();
        }
    }
}

struct Guard {
    inference: Arc<Inference>,
    /// How long a run may take; zero for as long as it likes.
    run_timeout: Duration,
    /// The catalog's, when its deployments were last taken in.
    revision: u64,
    known: Vec<Known>,
    loop_hangs: Arc<AtomicBool>,
    /// When the process was frozen last, it was until then.
    awake_since: Moment,
}

/// A deployment, also one that was retired and is still in use.
struct Known {
    deployment: Weak<Deployment>,
    /// Why it was out when it was last told.
    out: Option<&'static str>,
    /// When it was last asked whether it answers.
    asked: Moment,
}

impl Guard {
    /// Notes a sleep that is over, and from it whether the process was frozen.
    fn wake(&mut self, asleep_since: Moment) {
        let now = self.inference.pool.now();
        let asleep = now - asleep_since;
        if asleep > LOOK_EVERY + FROZEN {
            self.awake_since = now;
            tracing::warn!(seconds = asleep.as_secs(), "the process was frozen: no run is given up for that time");
        }
    }

    /// Looks at all deployments. True if one went out of service, or came back.
    fn look(&mut self) -> bool {
        self.take_in();
        let (mut changed, mut loop_hangs) = (false, false);
        self.known.retain_mut(|known| {
            let Some(deployment) = known.deployment.upgrade() else { return false };
            let limit = Limit { run_timeout: self.run_timeout, awake_since: self.awake_since };
            self_check(&self.inference, limit, known, &deployment);
            loop_hangs |= deployment.lost_runs().1 > 0;
            let out = deployment.health.out();
            if out != known.out {
                tell(&deployment, out);
                known.out = out;
                changed = true;
            }
            true
        });
        self.loop_hangs.store(loop_hangs, Relaxed);
        changed
    }

    /// Takes in what the catalog has. Those that it no longer has stay known for as long as they are used.
    fn take_in(&mut self) {
        let catalog = self.inference.catalog.load();
        if catalog.revision == self.revision {
            return;
        }
        self.revision = catalog.revision;
        for deployment in catalog.deployments() {
            if !self.known.iter().any(|known| known.deployment.as_ptr() == Arc::as_ptr(deployment)) {
                let asked = Moment::from_nanos(0);
                self.known.push(Known { deployment: Arc::downgrade(deployment), out: None, asked });
            }
        }
    }
}

/// How long a run may take, counted from when.
#[derive(Clone, Copy)]
struct Limit {
    run_timeout: Duration,
    awake_since: Moment,
}

/// Gives up the runs of a deployment that hang, and asks it whether it answers where that is due.
fn self_check(inference: &Inference, limit: Limit, known: &mut Known, deployment: &Arc<Deployment>) {
    let (now, identity) = (inference.pool.now(), &deployment.identity);
    let Limit { run_timeout, awake_since } = limit;
    if !run_timeout.is_zero() {
        let stuck = deployment.give_up_stuck(run_timeout, awake_since, &inference.pool);
        for Stuck { requests, rows, time, on_loop } in stuck {
            let (model, version, time) = (&identity.model, identity.version, format!("{time:.0?}"));
            tracing::error!(
                model,
                version,
                requests,
                rows,
                time,
                on_loop,
                "a run hangs and is given up, with its thread"
            );
        }
        let is_overdue = deployment.health.is_probed() && now - known.asked.max(awake_since) > run_timeout;
        if is_overdue && deployment.health.probe_is_overdue(now) {
            deployment.abandon("it hangs on what it is known to answer".to_owned());
        }
    }
    if deployment.health.begins_probe(now) {
        known.asked = now;
        probe(inference, deployment);
    }
}

fn probe(inference: &Inference, deployment: &Arc<Deployment>) {
    let (asked, pool) = (Arc::clone(deployment), Arc::clone(&inference.pool));
    let asks = move || {
        let probe = asked.probe();
        asked.health.probed(probe, pool.now());
        // The thread that frees models shall find itself the last.
        drop(asked);
        pool.alarm();
    };
    if let Err(error) = thread::Builder::new().name("tiltyard-probe".into()).spawn(asks) {
        let probe = tiltyard_runtime::breaker::Probe::Fails(format!("no thread to ask it: {error}"));
        deployment.health.probed(probe, inference.pool.now());
    }
}

fn tell(deployment: &Deployment, out: Option<&'static str>) {
    let (model, version) = (&deployment.identity.model, deployment.identity.version);
    match out {
        Some(state) => {
            let reason = deployment.health.reason();
            tracing::error!(model, version, reason, "{state}");
        }
        None => tracing::info!(model, version, "answers again"),
    }
}

#[cfg(test)]
#[path = "guard/tests.rs"]
mod tests;
