//! What does a fault of the engine cost? An engine that hangs until it is told, over real workers, at moments that the test
//! chooses.

use std::sync::Condvar;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Instant;

use tiltyard_types::{DataType, Dim, ErrorKind, TensorSpec};

use super::*;
use crate::breaker::{FAILS, FAULTS_MAX, HANGS, Probe};
use crate::engine::Session;

/// Orders to the engine: what it shall do instead of giving back what it got.
const HANG: f32 = -1.0;
const PANIC: f32 = -2.0;
/// Panics, and once more when its session is closed.
const PANIC_TWICE: f32 = -3.0;

#[derive(Default)]
struct Script {
    hanging: Mutex<usize>,
    is_told: Mutex<bool>,
    told: Condvar,
    is_broken: AtomicBool,
    closed: AtomicUsize,
}

impl Script {
    fn hang(&self) {
        *lock(&self.hanging) += 1;
        let mut is_told = lock(&self.is_told);
        while !*is_told {
            is_told = self.told.wait(is_told).unwrap();
        }
    }

    fn tell(&self) {
        *lock(&self.is_told) = true;
        self.told.notify_all();
    }
}

struct Echo {
    signature: Signature,
    script: Arc<Script>,
}

impl CompiledModel for Echo {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn provider(&self) -> &str {
        "cpu"
    }

    fn open(&self) -> Result<Box<dyn Session>, EngineError> {
        Ok(Box::new(EchoSession { script: Arc::clone(&self.script), panics: false }))
    }
}

struct EchoSession {
    script: Arc<Script>,
    panics: bool,
}

impl Drop for EchoSession {
    fn drop(&mut self) {
        self.script.closed.fetch_add(1, Relaxed);
        assert!(!self.panics, "while it closes");
    }
}

impl Session for EchoSession {
    fn run(&mut self, inputs: &[Option<Tensor>], _: &[usize]) -> Result<Vec<Tensor>, EngineError> {
        let values = inputs[0].as_ref().unwrap().to_vec::<f32>().unwrap();
        if values.contains(&HANG) {
            self.script.hang();
        }
        self.panics = values.contains(&PANIC_TWICE);
        assert!(!values.contains(&PANIC) && !self.panics, "a secret");
        match self.script.is_broken.load(Relaxed) {
            true => Err(EngineError::Failed("broken".into())),
            false => Ok(inputs.iter().flatten().cloned().collect()),
        }
    }
}

struct Bench {
    deployment: Arc<Deployment>,
    pool: Arc<Pool>,
    script: Arc<Script>,
}

fn bench(clock: crate::pool::Clock) -> Bench {
    let spec = |name: &str| TensorSpec {
        name: name.into(),
        dtype: DataType::Fp32,
        dims: Some(vec![Dim::Dynamic(None)]),
        optional: false,
    };
    let script = Arc::new(Script::default());
    let signature = Signature { inputs: vec![spec("x")], outputs: vec![spec("y")] };
    let compiled = Box::new(Echo { signature, script: Arc::clone(&script) });
    let policy = QueuePolicy { rows_max: 1, ..QueuePolicy::default() };
    let deployment = scripted::deployment(compiled, BatchAxis::Proved, Padding::Undeclared, policy);
    Bench { deployment, pool: Pool::start(1, clock).unwrap(), script }
}

const LIMIT: Duration = Duration::from_secs(60);
const AWAKE: Moment = Moment::from_nanos(0);

impl Bench {
    fn ask(&self, value: f32) -> Result<Pending> {
        let input = Tensor::from_slice([1], &[value]).unwrap();
        self.deployment.enqueue(vec![Some(input)], vec![0], Demand::default(), Box::new(()), &self.pool)
    }

    fn answer(pending: Result<Pending>) -> Result<Vec<f32>> {
        Ok(pending?.blocking_recv().unwrap()?.outputs[0].to_vec().unwrap())
    }

    /// Asks for a run that hangs, and waits until it does.
    fn hang(&self) -> Result<Pending> {
        let before = *lock(&self.script.hanging);
        let pending = self.ask(HANG);
        eventually(|| *lock(&self.script.hanging) > before);
        pending
    }
}

#[track_caller]
fn eventually(mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < Duration::from_secs(20), "it never came to that");
        std::thread::yield_now();
    }
}

fn set(clock: &AtomicU64, seconds: u64) {
    clock.store(seconds * 1_000_000_000, Relaxed);
}

#[test]
fn a_run_that_hangs_costs_its_thread_and_its_session() {
    static NOW: AtomicU64 = AtomicU64::new(0);
    let bench = bench(|| Moment::from_nanos(NOW.load(Relaxed)));
    let (hung, waiting) = (bench.hang(), bench.ask(1.0));
    set(&NOW, 60);
    assert_eq!(bench.deployment.give_up_stuck(LIMIT, AWAKE, &bench.pool), []);
    set(&NOW, 61);
    let stuck = Stuck { requests: 1, rows: 1, time: Duration::from_secs(61), on_loop: false };
    assert_eq!(bench.deployment.give_up_stuck(LIMIT, AWAKE, &bench.pool), [stuck]);
    let error = Bench::answer(hung).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Engine);
    assert!(error.message().ends_with("has not answered for 61s: its run hangs and was given up"), "{error}");
    // Another worker has taken the place of the one that hangs.
    assert_eq!(Bench::answer(waiting).unwrap(), [1.0]);
    assert_eq!((bench.pool.lost(), bench.deployment.lost_runs(), bench.deployment.health.out()), (1, (1, 0), None));
    bench.script.tell();
    eventually(|| bench.pool.lost() == 0 && bench.deployment.lost_runs() == (0, 0));
    assert_eq!(bench.script.closed.load(Relaxed), 1, "the session of the run that hung");
    assert_eq!(Bench::answer(bench.ask(2.0)).unwrap(), [2.0]);
    eventually(|| bench.deployment.is_idle());
}

#[test]
fn a_run_that_was_frozen_with_its_process_does_not_hang() {
    static NOW: AtomicU64 = AtomicU64::new(0);
    let bench = bench(|| Moment::from_nanos(NOW.load(Relaxed)));
    let hung = bench.hang();
    let thawed = Moment::from_nanos(1_000_000_000_000);
    set(&NOW, 1_060);
    assert_eq!(bench.deployment.give_up_stuck(LIMIT, thawed, &bench.pool), []);
    set(&NOW, 1_061);
    assert_eq!(bench.deployment.give_up_stuck(LIMIT, thawed, &bench.pool).len(), 1);
    assert!(Bench::answer(hung).is_err());
    bench.script.tell();
}

#[test]
fn a_run_that_is_known_to_take_long_does_not_hang() {
    static NOW: AtomicU64 = AtomicU64::new(0);
    let bench = bench(|| Moment::from_nanos(NOW.load(Relaxed)));
    (0..20).for_each(|_| bench.deployment.cost.observe(1, Duration::from_secs(10)));
    bench.deployment.cost.settle();
    let hung = bench.hang();
    set(&NOW, 199);
    assert_eq!(bench.deployment.give_up_stuck(LIMIT, AWAKE, &bench.pool), []);
    set(&NOW, 230);
    assert_eq!(bench.deployment.give_up_stuck(LIMIT, AWAKE, &bench.pool).len(), 1);
    assert!(Bench::answer(hung).is_err());
    bench.script.tell();
}

#[test]
fn a_version_whose_runs_hang_again_and_again_is_out_for_good() {
    static NOW: AtomicU64 = AtomicU64::new(0);
    let bench = bench(|| Moment::from_nanos(NOW.load(Relaxed)));
    let mut waiting = None;
    for number in 1..=3 {
        let hung = bench.hang();
        waiting = Some(bench.ask(1.0)).filter(|_| number == 3);
        set(&NOW, number * 61);
        assert_eq!(bench.deployment.health.out(), None);
        assert_eq!(bench.deployment.give_up_stuck(LIMIT, AWAKE, &bench.pool).len(), 1);
        assert_eq!(Bench::answer(hung).unwrap_err().kind(), ErrorKind::Engine);
    }
    assert_eq!((bench.deployment.health.out(), bench.deployment.health.runs_stuck()), (Some(HANGS), 3));
    for refused in [waiting.unwrap(), bench.ask(1.0)] {
        let error = Bench::answer(refused).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotReady);
        assert!(error.message().ends_with(HANGS), "{error}");
    }
    assert!(!bench.deployment.health.begins_probe(bench.pool.now() + Duration::from_secs(9_999)));
    bench.script.tell();
    eventually(|| bench.pool.lost() == 0);
}

#[test]
fn a_version_that_fails_what_it_is_known_to_answer_is_out_until_it_answers() {
    static NOW: AtomicU64 = AtomicU64::new(0);
    let bench = bench(|| Moment::from_nanos(NOW.load(Relaxed)));
    let health = &bench.deployment.health;
    bench.script.is_broken.store(true, Relaxed);
    for _ in 0..FAULTS_MAX {
        assert!(!health.begins_probe(bench.pool.now()));
        assert_eq!(Bench::answer(bench.ask(1.0)).unwrap_err().kind(), ErrorKind::Engine);
    }
    assert!(bench.pool.alarms().try_recv().is_ok());
    assert!(health.begins_probe(bench.pool.now()));
    health.probed(bench.deployment.probe(), bench.pool.now());
    assert_eq!((health.out(), health.reason()), (Some(FAILS), "broken".to_owned()));
    bench.script.is_broken.store(false, Relaxed);
    set(&NOW, 1);
    assert!(health.begins_probe(bench.pool.now()));
    health.probed(bench.deployment.probe(), bench.pool.now());
    assert_eq!((health.out(), health.times_out()), (None, 1));
}

#[test]
fn requests_that_no_version_could_take_take_none_out_and_tell_nobody_why() {
    static NOW: AtomicU64 = AtomicU64::new(0);
    let bench = bench(|| Moment::from_nanos(NOW.load(Relaxed)));
    for _ in 0..FAULTS_MAX {
        let error = Bench::answer(bench.ask(PANIC)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Engine);
        assert!(error.message().contains("the engine panicked") && !error.message().contains("secret"), "{error}");
    }
    assert!(bench.deployment.health.begins_probe(bench.pool.now()));
    let probe = bench.deployment.probe();
    assert_eq!(probe, Probe::Answers);
    bench.deployment.health.probed(probe, bench.pool.now());
    assert_eq!(bench.deployment.health.out(), None);
}

#[test]
fn a_session_that_panics_as_it_runs_and_as_it_closes_costs_one_request() {
    let bench = bench(|| Moment::from_nanos(0));
    for _ in 0..2 {
        assert_eq!(Bench::answer(bench.ask(PANIC_TWICE)).unwrap_err().kind(), ErrorKind::Engine);
        assert_eq!(Bench::answer(bench.ask(1.0)).unwrap(), [1.0]);
    }
    assert_eq!(bench.script.closed.load(Relaxed), 2);
}

/// Panics when its job is let go.
struct Explodes;

impl Drop for Explodes {
    fn drop(&mut self) {
        panic!("as ordered");
    }
}

#[test]
fn a_worker_that_panics_as_it_leaves_has_left_once() {
    static NOW: AtomicU64 = AtomicU64::new(0);
    let bench = bench(|| Moment::from_nanos(NOW.load(Relaxed)));
    let hung = bench.hang();
    let input = Tensor::from_slice([1], &[1.0f32]).unwrap();
    let demand = Demand { deadline: Some(Moment::from_nanos(1)), ..Demand::default() };
    let (inputs, held) = (vec![Some(input)], Box::new(Explodes));
    let late = bench.deployment.enqueue(inputs, vec![0], demand, held, &bench.pool).unwrap();
    set(&NOW, 1);
    // The worker finds nothing but one that is late, and lets it go after it has left.
    bench.script.tell();
    assert_eq!(late.blocking_recv().unwrap().unwrap_err().kind(), ErrorKind::Deadline);
    assert!(Bench::answer(hung).is_ok());
    eventually(|| lock(&bench.deployment.waiting).workers == 0);
    let mut asked = bench.ask(2.0).unwrap();
    eventually(|| asked.try_recv().is_ok_and(|answer| answer.is_ok()));
    eventually(|| lock(&bench.deployment.waiting).workers == 0);
}
