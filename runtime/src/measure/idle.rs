//! When is there time to measure what runs cost?
//!
//! When nobody asks for anything. One thread, of the lowest priority, measures one deployment after the other: up to
//! [`BUDGET`](super::BUDGET) each, a quarter of one processor at most while it lasts, and none while any deployment has
//! something to run for a client: that is looked at before each slice. With nothing left to measure it sleeps.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use tiltyard_types::Moment;

use super::{Curve, Sample, measure};
use crate::deployment::Deployment;
use crate::pool::Clock;
use crate::priority::give_way;
use crate::profile::Place;

/// How long nothing must have run for a client before measuring begins or goes on.
const QUIET: Duration = Duration::from_millis(200);

/// How long is measured in one go, but for the last run.
const SLICE: Duration = Duration::from_millis(5);

/// Rest after each slice, in slices: what is left to others of one processor.
const REST: u32 = 3;

/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// Hands deployments to the thread that measures them. That thread begins when it is told to: tools that load a model do
/// not want it.
pub struct Measurer {
    clock: Clock,
    sender: Sender<Task>,
    incoming: Mutex<Option<Receiver<Task>>>,
}

/// A deployment that was loaded, and what is left to measure of it.
pub(crate) struct Task {
    pub(crate) deployment: Weak<Deployment>,
    pub(crate) curve: Curve,
    /// Where the outcome is kept.
    pub(crate) place: Option<Place>,
}

impl Measurer {
    /// A measurer that does not measure yet.
    pub fn new(clock: Clock) -> Arc<Measurer> {
        let (sender, incoming) = unbounded();
        Arc::new(Measurer { clock, sender, incoming: Mutex::new(Some(incoming)) })
    }

    /// Starts the thread. A second call does nothing.
    pub fn begin(&self) -> std::io::Result<()> {
        let incoming = self.incoming.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (Some(incoming), clock) = (incoming, self.clock) else { return Ok(()) };
        thread::Builder::new().name("tiltyard-measure".into()).spawn(move || run(&incoming, clock)).map(drop)
    }

    /// Takes a loaded deployment in. Also those with nothing left to measure are told: they may be the ones that are busy.
    pub(crate) fn add(&self, task: Task) {
        // Fails only where the thread has ended, which it does when nobody can add anything.
        drop(self.sender.send(task));
    }
}

fn run(incoming: &Receiver<Task>, clock: Clock) {
    give_way();
    let mut round = Round::new(clock);
    let mut pause = QUIET;
    loop {
        let received = match round.tasks.is_empty() {
            true => incoming.recv().map_err(|_| RecvTimeoutError::Disconnected),
            false => incoming.recv_timeout(pause),
        };
        match received {
            Ok(task) => round.add(task),
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => pause = round.turn(),
        }
    }
}

/// What the measuring thread knows.
struct Round {
    clock: Clock,
    loaded: Vec<Weak<Deployment>>,
    tasks: VecDeque<Task>,
    /// For the task in front.
    sample: Option<Sample>,
    /// Runs for clients at the last look.
    executions: u64,
    /// Deployments measured since the last one was told about.
    measured: usize,
    /// When progress was last told.
    told: Moment,
}

impl Round {
    fn new(clock: Clock) -> Round {
        Round {
            clock,
            loaded: Vec::new(),
            tasks: VecDeque::new(),
            sample: None,
            executions: u64::MAX,
            measured: 0,
            told: clock(),
        }
    }

    fn add(&mut self, task: Task) {
        // While there is nothing to measure nobody looks: those that left are forgotten when others come.
        self.loaded.retain(|deployment| deployment.strong_count() > 0);
        self.loaded.push(Weak::clone(&task.deployment));
        if task.curve.next().is_some() {
            self.tasks.push_back(task);
        }
    }

    /// Measures for a slice if all is quiet. Says how long to rest.
    fn turn(&mut self) -> Duration {
        let (executions, all_idle) = self.look();
        if executions != self.executions || !all_idle {
            self.executions = executions;
            return QUIET;
        }
        let Some(mut task) = self.tasks.pop_front() else { return QUIET };
        // A version may leave while it waits for its turn.
        let Some(deployment) = task.deployment.upgrade() else { return Duration::ZERO };
        let started = (self.clock)();
        match self.slice(&deployment, &mut task) {
            Ok(()) if task.curve.next().is_some() => self.tasks.push_front(task),
            Ok(()) => {
                self.sample = None;
                settle(&deployment, &task.curve, task.place.as_ref());
                self.tell();
            }
            Err(reason) => {
                self.sample = None;
                let (model, version) = (&deployment.identity.model, deployment.identity.version);
                tracing::debug!(model, version, reason, "what its runs cost is not measured");
            }
        }
        ((self.clock)() - started) * REST
    }

    /// One line of progress now and then, however many models there are.
    fn tell(&mut self) {
        self.measured += 1;
        let now = (self.clock)();
        if self.tasks.is_empty() || now - self.told >= TELL_EVERY {
            tracing::info!(measured = self.measured, left = self.tasks.len(), "measuring what runs cost in idle time");
            (self.measured, self.told) = (0, now);
        }
    }

    /// The runs for clients of all deployments so far, and whether nothing waits or runs for any: a run is counted when it
    /// has ended well. Those that are gone are forgotten.
    fn look(&mut self) -> (u64, bool) {
        let (mut executions, mut all_idle) = (0u64, true);
        self.loaded.retain(|deployment| {
            let Some(deployment) = deployment.upgrade() else { return false };
            executions += deployment.stats.executions();
            all_idle &= deployment.is_idle();
            true
        });
        (executions, all_idle)
    }

    fn slice(&mut self, deployment: &Deployment, task: &mut Task) -> Result<(), String> {
        let sample = match &mut self.sample {
            Some(sample) => sample,
            none => none.insert(Sample::of(deployment)?),
        };
        let started = (self.clock)();
        measure(deployment, sample, &mut task.curve, self.clock, &mut |now, _| {
            now - started < SLICE && deployment.is_idle()
        })
        .map_err(|error| error.to_string())
    }
}

/// Acts on a curve that is measured: the deployment learns its best batch, and the profile is kept.
pub(crate) fn settle(deployment: &Deployment, curve: &Curve, place: Option<&Place>) {
    let Some(best) = curve.best_rows() else { return };
    deployment.learn_rows(best);
    if let Some(place) = place {
        place.keep(&deployment.cost.points(), best);
    }
    let identity = &deployment.identity;
    let fit = deployment.cost.fit();
    tracing::debug!(
        model = identity.model,
        version = identity.version,
        row_us = fit.map(|fit| (fit.row_ns / 1e3 * 100.0).round() / 100.0),
        run_us = fit.map(|fit| (fit.run_ns / 1e3 * 100.0).round() / 100.0),
        batch_rows = best,
        spent = format!("{:.0?}", curve.spent()),
        "measured what its runs cost"
    );
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;
    use crate::deployment::BatchAxis;
    use crate::deployment::tests::{Bench, bench, clock, values};
    use crate::measure::{BUDGET, rows_limit};

    fn task(bench: &Bench) -> Task {
        let curve = Curve::new(rows_limit(&bench.deployment), BUDGET);
        Task { deployment: Arc::downgrade(&bench.deployment), curve, place: None }
    }

    #[test]
    fn nothing_is_measured_while_clients_are_served() {
        let (busy, idle) = (bench(BatchAxis::Proved, 1, 100), bench(BatchAxis::Proved, 1, 100));
        busy.script.open();
        idle.script.open();
        let mut round = Round::new(clock);
        round.add(task(&idle));
        round.add(Task { curve: Curve::nothing(), ..task(&busy) });
        for _ in 0..3 {
            values(busy.ask(&[1.0]).unwrap()).unwrap();
            assert_eq!(round.turn(), QUIET);
        }
        assert_eq!(idle.deployment.cost.fit(), None);
        // A client is answered before its run is over.
        while !busy.deployment.is_idle() {
            thread::yield_now();
        }
        // The first quiet look begins.
        round.turn();
        assert!(round.tasks.front().is_none_or(|task| task.curve.measured().next().is_some()));
    }

    #[test]
    fn a_deployment_is_measured_to_the_end_and_learns() {
        let bench = bench(BatchAxis::Proved, 1, 100);
        bench.script.open();
        let mut round = Round::new(clock);
        round.add(task(&bench));
        let mut turns = 0;
        while !round.tasks.is_empty() {
            round.turn();
            turns += 1;
            assert!(turns < 10_000, "it does not end");
        }
        let known: Vec<f64> = bench.deployment.cost.points().iter().map(|point| point.rows).collect();
        assert_eq!(known, [1.0, 2.0, 4.0, 8.0, 16.0]);
        assert!((1..=16).contains(&bench.deployment.rows_taken_max()));
        assert_eq!(bench.deployment.stats.executions(), 0, "these runs were for nobody");
    }

    #[test]
    fn nothing_is_measured_while_a_run_for_a_client_goes_on() {
        let (busy, idle) = (bench(BatchAxis::Proved, 1, 100), bench(BatchAxis::Proved, 1, 100));
        idle.script.open();
        let mut round = Round::new(clock);
        round.add(task(&idle));
        round.add(Task { curve: Curve::nothing(), ..task(&busy) });
        let pending = busy.occupy();
        for _ in 0..3 {
            assert_eq!(round.turn(), QUIET);
        }
        assert!(round.tasks[0].curve.measured().next().is_none());
        busy.script.open();
        values(pending).unwrap();
    }

    #[test]
    fn versions_that_left_are_forgotten_though_nothing_is_measured() {
        let mut round = Round::new(clock);
        for _ in 0..3 {
            let bench = bench(BatchAxis::Proved, 1, 100);
            round.add(Task { curve: Curve::nothing(), ..task(&bench) });
        }
        assert_eq!(round.loaded.len(), 1);
    }

    #[test]
    fn a_version_that_left_is_not_measured() {
        let mut round = Round::new(clock);
        let gone = bench(BatchAxis::Proved, 1, 100);
        round.add(task(&gone));
        drop(gone);
        round.turn();
        round.turn();
        assert!(round.tasks.is_empty() && round.loaded.is_empty());
    }
}
