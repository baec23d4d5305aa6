//! Is every job answered once, rightly, whatever the engine does? Real threads and queues over a scripted engine.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, OnceLock};
use std::time::Instant;

use tiltyard_types::{DataType, Dim, ErrorKind, TensorSpec};

use super::*;
use crate::engine::Session;
use crate::stats::Refusal;

/// Doubles its input. Some values are orders: what the engine shall do instead.
const PANIC: f32 = -1.0;
const REFUSE: f32 = -2.0;
const SHORT: f32 = -3.0;

/// Counts runs, and holds the first until the gate opens, so that what comes meanwhile must wait.
#[derive(Default)]
pub(crate) struct Script {
    runs: AtomicUsize,
    /// When each of them began.
    began: Mutex<Vec<Moment>>,
    gate: Mutex<bool>,
    opened: Condvar,
}

impl Script {
    pub(crate) fn open(&self) {
        *lock(&self.gate) = true;
        self.opened.notify_all();
    }

    fn pass(&self) {
        let mut open = lock(&self.gate);
        while !*open {
            open = self.opened.wait(open).unwrap();
        }
    }
}

struct Scripted {
    signature: Signature,
    script: Arc<Script>,
}

impl CompiledModel for Scripted {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn provider(&self) -> &str {
        "cpu"
    }

    fn open(&self) -> Result<Box<dyn Session>, EngineError> {
        Ok(Box::new(ScriptedSession(Arc::clone(&self.script))))
    }
}

struct ScriptedSession(Arc<Script>);

impl Session for ScriptedSession {
    fn run(&mut self, inputs: &[Option<Tensor>], wanted: &[usize]) -> Result<Vec<Tensor>, EngineError> {
        self.0.began.lock().unwrap().push(clock());
        self.0.runs.fetch_add(1, Relaxed);
        self.0.pass();
        let values = inputs[0].as_ref().unwrap().to_vec::<f32>().unwrap();
        assert!(!values.contains(&PANIC), "as ordered");
        if values.contains(&REFUSE) {
            return Err(EngineError::BadInput("as ordered".into()));
        }
        let mut doubled: Vec<f32> = values.iter().map(|value| value * 2.0).collect();
        if values.contains(&SHORT) {
            doubled.pop();
        }
        let output = Tensor::from_slice([doubled.len()], &doubled).unwrap();
        Ok(wanted.iter().map(|_| output.clone()).collect())
    }
}

pub(crate) fn clock() -> Moment {
    static START: OnceLock<Instant> = OnceLock::new();
    Moment::from_nanos(START.get_or_init(Instant::now).elapsed().as_nanos() as u64)
}

pub(crate) struct Bench {
    pub(crate) deployment: Arc<Deployment>,
    pool: Arc<Pool>,
    pub(crate) script: Arc<Script>,
}

pub(crate) fn bench(batch_axis: BatchAxis, threads: usize, jobs_max: usize) -> Bench {
    let spec = |name: &str| TensorSpec {
        name: name.into(),
        dtype: DataType::Fp32,
        dims: Some(vec![Dim::Dynamic(None)]),
        optional: false,
    };
    let signature = Signature { inputs: vec![spec("x")], outputs: vec![spec("y"), spec("z")] };
    let script = Arc::new(Script::default());
    let policy = QueuePolicy { rows_max: 16, jobs_max, runs_max: threads, ..QueuePolicy::default() };
    let compiled = Scripted { signature, script: Arc::clone(&script) };
    let deployment = scripted::deployment(Box::new(compiled), batch_axis, Padding::Undeclared, policy);
    Bench { deployment, pool: Pool::start(threads, clock).unwrap(), script }
}

impl Bench {
    pub(crate) fn ask(&self, values: &[f32]) -> Result<Pending> {
        self.ask_until(values, None)
    }

    fn ask_until(&self, values: &[f32], deadline: Option<Moment>) -> Result<Pending> {
        let input = Tensor::from_slice([values.len()], values).unwrap();
        let demand = Demand { deadline, ..Demand::default() };
        self.deployment.enqueue(vec![Some(input)], vec![1], demand, Box::new(()), &self.pool)
    }

    /// Asks once and waits until the engine has it: from then on, one worker is busy until the gate opens.
    pub(crate) fn occupy(&self) -> Pending {
        let runs = self.script.runs.load(Relaxed);
        let pending = self.ask(&[7.0]).unwrap();
        while self.script.runs.load(Relaxed) == runs {
            std::thread::yield_now();
        }
        pending
    }
}

pub(crate) fn values(pending: Pending) -> Result<Vec<f32>> {
    Ok(pending.blocking_recv().unwrap()?.outputs[0].to_vec().unwrap())
}

#[test]
fn what_waits_shares_a_run_and_each_gets_its_own() {
    let bench = bench(BatchAxis::Proved, 1, 100);
    let first = bench.occupy();
    let waiting: Vec<Pending> = (0..5).map(|i| bench.ask(&[i as f32, 10.0 + i as f32]).unwrap()).collect();
    bench.script.open();
    assert_eq!(values(first).unwrap(), [14.0]);
    for (i, pending) in waiting.into_iter().enumerate() {
        let answer = pending.blocking_recv().unwrap().unwrap();
        assert_eq!(answer.outputs[0].to_vec::<f32>().unwrap(), [2.0 * i as f32, 20.0 + 2.0 * i as f32]);
        assert_eq!((answer.outputs.len(), answer.batch_rows), (1, 10));
    }
    assert_eq!(bench.script.runs.load(Relaxed), 2);
}

#[test]
fn without_a_proof_nothing_is_shared() {
    let bench = bench(BatchAxis::Unproved("by the test".into()), 1, 100);
    let first = bench.occupy();
    let waiting: Vec<Pending> = (0..5).map(|i| bench.ask(&[i as f32]).unwrap()).collect();
    bench.script.open();
    values(first).unwrap();
    for (i, pending) in waiting.into_iter().enumerate() {
        assert_eq!(values(pending).unwrap(), [2.0 * i as f32]);
    }
    assert_eq!(bench.script.runs.load(Relaxed), 6);
}

#[test]
fn vast_shapes_without_data_are_refused_where_nothing_bounds_rows() {
    for batch_axis in [BatchAxis::None, BatchAxis::Unproved("by the test".into())] {
        let bench = bench(batch_axis, 1, 100);
        let rows = |shape: &[usize]| bench.deployment.rows(&[Some(Tensor::from_slice::<f32>(shape, &[]).unwrap())]);
        let refused = rows(&[1 << 40, 0]).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid);
        assert!(refused.message().contains("[1099511627776, 0] without a single element"), "{refused}");
        assert!(rows(&[usize::MAX, usize::MAX, 0]).is_err(), "the product is not to overflow");
        assert!(rows(&[1 << 20, 0]).is_ok() && rows(&[0]).is_ok());
    }
}

#[test]
fn one_jobs_fault_is_not_its_neighbours() {
    for (order, kind) in [(REFUSE, ErrorKind::Invalid), (PANIC, ErrorKind::Engine), (SHORT, ErrorKind::Engine)] {
        let bench = bench(BatchAxis::Proved, 1, 100);
        let first = bench.occupy();
        let (good, bad, also_good) = (bench.ask(&[1.0]), bench.ask(&[order, 5.0]), bench.ask(&[3.0]));
        bench.script.open();
        values(first).unwrap();
        assert_eq!(values(good.unwrap()).unwrap(), [2.0]);
        assert_eq!(values(also_good.unwrap()).unwrap(), [6.0]);
        assert_eq!(values(bad.unwrap()).unwrap_err().kind(), kind, "{order}");
        // The worker is still there.
        assert_eq!(values(bench.ask(&[4.0]).unwrap()).unwrap(), [8.0]);
    }
}

#[test]
fn the_late_and_the_gone_do_not_run() {
    let bench = bench(BatchAxis::Unproved("by the test".into()), 1, 100);
    let first = bench.occupy();
    let late = bench.ask_until(&[1.0], Some(clock())).unwrap();
    drop(bench.ask(&[2.0]).unwrap());
    let last = bench.ask(&[3.0]).unwrap();
    bench.script.open();
    values(first).unwrap();
    assert_eq!(values(late).unwrap_err().kind(), ErrorKind::Deadline);
    assert_eq!(values(last).unwrap(), [6.0]);
    assert_eq!(bench.script.runs.load(Relaxed), 2);
}

#[test]
fn a_full_or_draining_queue_refuses_at_once() {
    let bench = bench(BatchAxis::Proved, 1, 2);
    let first = bench.occupy();
    let waiting = [bench.ask(&[1.0]).unwrap(), bench.ask(&[2.0]).unwrap()];
    let full = bench.ask(&[3.0]).unwrap_err();
    assert_eq!(full.kind(), ErrorKind::Overloaded);
    assert!(full.wait().is_some());
    bench.deployment.drain();
    assert_eq!(bench.ask(&[3.0]).unwrap_err().kind(), ErrorKind::NotReady);
    bench.script.open();
    values(first).unwrap();
    for pending in waiting {
        values(pending).unwrap();
    }
}

#[test]
fn a_full_queue_is_known_before_there_is_a_job_and_has_room_where_clients_left() {
    let bench = bench(BatchAxis::Proved, 1, 2);
    let first = bench.occupy();
    let (gone, waiting) = (bench.ask(&[1.0]).unwrap(), bench.ask(&[2.0]).unwrap());
    let left = Duration::from_secs(30);
    let refused = |reason: Refusal| bench.deployment.stats.snapshot().refused[reason as usize];
    assert!(bench.ask(&[3.0]).is_err());
    let foreseen = bench.deployment.foresee(left, clock());
    // Known for a millisecond, since then it may be worth a look who has left.
    assert!(foreseen.is_err() || foreseen.is_ok() && bench.ask(&[3.0]).is_err());
    assert_eq!(refused(Refusal::QueueFull), 2);
    drop(gone);
    let until = clock() + Duration::from_secs(10);
    let third = loop {
        assert!(clock() < until, "nobody found that a client has left");
        if let Ok(pending) = bench.ask(&[3.0]) {
            break pending;
        }
    };
    bench.script.open();
    for (pending, expected) in [(first, 14.0), (waiting, 4.0), (third, 6.0)] {
        assert_eq!(values(pending).unwrap(), [expected]);
    }
    bench.deployment.foresee(left, clock()).unwrap();
}

/// Two deployments on one worker: whoever floods one of them does not keep the worker from the other.
#[test]
fn a_flood_on_one_model_leaves_the_workers_to_others_in_turn() {
    let flooded = bench(BatchAxis::None, 1, 10_000);
    let other = Bench { pool: Arc::clone(&flooded.pool), ..bench(BatchAxis::None, 1, 100) };
    let first = flooded.occupy();
    let flood: Vec<Pending> = (0..500).map(|_| flooded.ask(&[1.0]).unwrap()).collect();
    other.script.open();
    let asked: Vec<Pending> = (0..20).map(|_| other.ask(&[2.0]).unwrap()).collect();
    flooded.script.open();
    values(first).unwrap();
    for pending in asked {
        assert_eq!(values(pending).unwrap(), [4.0]);
    }
    for pending in flood {
        assert_eq!(values(pending).unwrap(), [2.0]);
    }
    // In turns: one run of the flood, one of the other.
    let last = other.script.began.lock().unwrap()[19];
    let before = flooded.script.began.lock().unwrap().iter().filter(|&&began| began < last).count();
    assert!((20..=22).contains(&before), "{before}");
}

#[test]
fn many_threads_ask_and_each_is_answered_rightly() {
    let bench = bench(BatchAxis::Proved, 3, 10_000);
    bench.script.open();
    std::thread::scope(|scope| {
        for asker in 0..4 {
            let bench = &bench;
            scope.spawn(move || {
                let rows = |i: usize| vec![(asker * 10_000 + i) as f32; 1 + i % 3];
                let pending: Vec<Pending> = (0..2_000).map(|i| bench.ask(&rows(i)).unwrap()).collect();
                for (i, pending) in pending.into_iter().enumerate() {
                    let expected: Vec<f32> = rows(i).iter().map(|value| value * 2.0).collect();
                    assert_eq!(values(pending).unwrap(), expected);
                }
            });
        }
    });
    let snapshot = bench.deployment.stats.snapshot();
    assert!(snapshot.executions <= 8_000 && snapshot.executions > 0);
}

#[test]
fn what_cannot_be_answered_in_time_is_refused_at_once() {
    let bench = bench(BatchAxis::Proved, 1, 100);
    let first = bench.occupy();
    let soon = || Some(clock() + Duration::from_secs(5));
    // While nobody knows what a run costs, everything is admitted.
    let late = || Some(clock() + Duration::from_secs(60));
    let mut waiting: Vec<Pending> = (0..40).map(|_| bench.ask_until(&[1.0], late()).unwrap()).collect();
    (0..20).for_each(|_| bench.deployment.cost.observe(16, Duration::from_secs(4)));
    bench.deployment.cost.settle();
    // A run of one row goes on, which takes a quarter of a second, and two full batches of 16 rows are ahead.
    let later = Moment::from_nanos(clock().as_nanos() + 1_000_000_000);
    assert_eq!(bench.deployment.predicted_wait(later), Some(Duration::from_secs(8)));
    assert!(bench.deployment.predicted_wait(clock()) <= Some(Duration::from_millis(8_250)));
    let refused = bench.ask_until(&[1.0], soon()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Overloaded);
    assert!(refused.wait() >= Some(Duration::from_secs(8)), "{refused}");
    assert!(refused.message().starts_with("the predicted wait for model \"scripted\" is 8s"), "{refused}");
    // The same can be told before there is a job: these, and a row of its own, as far
    // as that is sure.
    let foreseen = bench.deployment.foresee(Duration::from_secs(5), later).unwrap_err();
    assert_eq!((foreseen.kind(), foreseen.wait()), (ErrorKind::Overloaded, Some(Duration::from_millis(6_600))));
    bench.deployment.foresee(Duration::from_secs(60), clock()).unwrap();
    waiting.push(bench.ask_until(&[1.0], late()).unwrap());
    waiting.push(bench.ask(&[1.0]).unwrap());
    bench.script.open();
    values(first).unwrap();
    for pending in waiting {
        assert_eq!(values(pending).unwrap(), [2.0]);
    }
    // An idle deployment takes what comes, however dear it was before.
    bench.deployment.foresee(Duration::from_secs(1), clock()).unwrap();
    assert_eq!(values(bench.ask_until(&[1.0], soon()).unwrap()).unwrap(), [2.0]);
}

#[test]
fn batches_take_the_rows_that_were_learned() {
    let bench = bench(BatchAxis::Proved, 1, 100);
    let first = bench.occupy();
    let waiting: Vec<Pending> = (0..8).map(|i| bench.ask(&[i as f32]).unwrap()).collect();
    bench.deployment.learn_rows(2);
    assert_eq!((bench.deployment.rows_taken_max(), bench.deployment.rows_max()), (2, 16));
    bench.script.open();
    values(first).unwrap();
    for pending in waiting {
        assert_eq!(pending.blocking_recv().unwrap().unwrap().batch_rows, 2);
    }
    bench.deployment.learn_rows(1_000);
    assert_eq!(bench.deployment.rows_taken_max(), 16, "what the settings allow stays the bound");
}

#[test]
fn a_first_look_learns_what_runs_cost() {
    let bench = bench(BatchAxis::Proved, 1, 100);
    bench.script.open();
    let curve = crate::measure::first_look(&bench.deployment, clock);
    assert!(curve.measured().next().is_some());
    assert!(bench.deployment.cost.fit().is_some());
    assert_eq!(bench.deployment.stats.executions(), 0, "only runs for clients are counted");
}
