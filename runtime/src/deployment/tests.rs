//! Is every job answered once, rightly, whatever the engine does? Real threads and queues over a scripted engine.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Condvar, OnceLock};
use std::time::Instant;

use tiltyard_types::{DataType, Dim, TensorSpec};

use super::*;

/// Doubles its input. Some values are orders: what the engine shall do instead.
const PANIC: f32 = -1.0;
const REFUSE: f32 = -2.0;
const SHORT: f32 = -3.0;

/// Counts runs, and holds the first until the gate opens, so that what comes meanwhile must wait.
#[derive(Default)]
struct Script {
    runs: AtomicUsize,
    gate: Mutex<bool>,
    opened: Condvar,
}

impl Script {
    fn open(&self) {
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

fn clock() -> Moment {
    static START: OnceLock<Instant> = OnceLock::new();
    Moment::from_nanos(START.get_or_init(Instant::now).elapsed().as_nanos() as u64)
}

struct Bench {
    deployment: Arc<Deployment>,
    pool: Arc<Pool>,
    script: Arc<Script>,
}

fn bench(batch_axis: BatchAxis, threads: usize, jobs_max: usize) -> Bench {
    let spec = |name: &str| TensorSpec {
        name: name.into(),
        dtype: DataType::Fp32,
        dims: Some(vec![Dim::Dynamic(None)]),
        optional: false,
    };
    let signature = Signature { inputs: vec![spec("x")], outputs: vec![spec("y"), spec("z")] };
    let script = Arc::new(Script::default());
    let identity = Identity {
        model: "scripted".into(),
        version: 1,
        artifact: Digest::new([0; 32]),
        digest: Digest::new([0; 32]),
        engine: "scripted",
        build: EngineBuild { version: "1".into(), library: None::<PathBuf>, providers: Vec::new() },
        placement: Vec::new(),
        provider: "cpu".into(),
        size: 0,
        loaded: SystemTime::UNIX_EPOCH,
        load_time: Duration::ZERO,
        goldens: 0,
    };
    let deployment = Arc::new(Deployment::new(Parts {
        identity,
        graph: Graph::default(),
        settings: Settings::default(),
        batch_axis,
        policy: QueuePolicy { rows_max: 16, delay_max: Duration::ZERO, jobs_max, runs_max: threads },
        example: None,
        compiled: Box::new(Scripted { signature, script: Arc::clone(&script) }),
    }));
    Bench { deployment, pool: Pool::start(threads, clock).unwrap(), script }
}

impl Bench {
    fn ask(&self, values: &[f32]) -> Result<Pending> {
        self.ask_until(values, None)
    }

    fn ask_until(&self, values: &[f32], deadline: Option<Moment>) -> Result<Pending> {
        let input = Tensor::from_slice([values.len()], values).unwrap();
        self.deployment.enqueue(vec![Some(input)], vec![1], deadline, Box::new(()), &self.pool)
    }

    /// Asks once and waits until the engine has it: from then on, one worker is busy until the gate opens.
    fn occupy(&self) -> Pending {
        let runs = self.script.runs.load(Relaxed);
        let pending = self.ask(&[7.0]).unwrap();
        while self.script.runs.load(Relaxed) == runs {
            std::thread::yield_now();
        }
        pending
    }
}

fn values(pending: Pending) -> Result<Vec<f32>> {
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
    let snapshot = bench.deployment.stats.snapshot(&crate::stats::Way::ALL);
    assert!(snapshot.executions <= 8_000 && snapshot.executions > 0);
}
