//! Who runs a request, and is it answered once and rightly wherever it runs? One event loop and some workers over a
//! scripted engine, at moments that the test chooses.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Condvar, Mutex};
use std::thread::{self, ThreadId};

use proptest::prelude::*;
use tiltyard_types::{DataType, Dim, ErrorKind, TensorSpec};
use tokio::task::yield_now;

use super::*;
use crate::engine::Session;
use crate::queue::Level;
/// Doubles its input. Some values are orders: what the engine shall do instead.
const PANIC: f32 = -1.0;
const REFUSE: f32 = -2.0;

/// Doubles too, and takes this long.
const LONG: f32 = -3.0;
const LONG_TIME: Duration = Duration::from_micros(150);

thread_local! {
    /// Stands still unless the test moves it. Workers are always at the start.
    static NOW: Cell<Moment> = const { Cell::new(Moment::from_nanos(0)) };
}

/// One run of the engine: where, and with which values.
#[derive(Clone, Debug, PartialEq)]
struct Run {
    thread: ThreadId,
    values: Vec<f32>,
}

/// Notes the runs, and holds them while it is closed.
#[derive(Default)]
struct Script {
    runs: Mutex<Vec<Run>>,
    closed: Mutex<bool>,
    opened: Condvar,
}

impl Script {
    fn close(&self) {
        *lock(&self.closed) = true;
    }

    fn open(&self) {
        *lock(&self.closed) = false;
        self.opened.notify_all();
    }

    fn runs(&self) -> Vec<Run> {
        lock(&self.runs).clone()
    }

    /// Comes back when the engine has begun so many runs.
    fn wait_for_runs(&self, count: usize) {
        while lock(&self.runs).len() < count {
            thread::yield_now();
        }
    }
}

struct Doubles {
    signature: Signature,
    script: Arc<Script>,
}

impl CompiledModel for Doubles {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn provider(&self) -> &str {
        "cpu"
    }

    fn open(&self) -> Result<Box<dyn Session>, EngineError> {
        Ok(Box::new(DoublesSession(Arc::clone(&self.script))))
    }
}

struct DoublesSession(Arc<Script>);

impl Session for DoublesSession {
    fn run(&mut self, inputs: &[Option<Tensor>], wanted: &[usize]) -> Result<Vec<Tensor>, EngineError> {
        let values = inputs[0].as_ref().unwrap().to_vec::<f32>().unwrap();
        lock(&self.0.runs).push(Run { thread: thread::current().id(), values: values.clone() });
        let mut closed = lock(&self.0.closed);
        while *closed {
            closed = self.0.opened.wait(closed).unwrap();
        }
        drop(closed);
        assert!(!values.contains(&PANIC), "as ordered");
        if values.contains(&REFUSE) {
            return Err(EngineError::BadInput("as ordered".into()));
        }
        if values.contains(&LONG) {
            NOW.set(NOW.get() + LONG_TIME);
        }
        let output = Tensor::from_slice([values.len()], &doubled(&values)).unwrap();
        Ok(wanted.iter().map(|_| output.clone()).collect())
    }
}

fn doubled(values: &[f32]) -> Vec<f32> {
    values.iter().map(|value| value * 2.0).collect()
}

/// Counts how often it is let go.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_add(1, Relaxed);
    }
}

/// A fault of the server itself.
struct Explosive;

impl Drop for Explosive {
    fn drop(&mut self) {
        assert!(thread::panicking(), "as ordered");
    }
}

struct Bench {
    deployment: Arc<Deployment>,
    pool: Arc<Pool>,
    script: Arc<Script>,
    let_go: Arc<AtomicUsize>,
    /// The event loop's thread.
    home: ThreadId,
}

impl Bench {
    /// A model of which nobody knows what it costs.
    fn new(batch_axis: BatchAxis, threads: usize, policy: QueuePolicy) -> Bench {
        NOW.set(Moment::from_nanos(0));
        let spec = |name: &str| TensorSpec {
            name: name.into(),
            dtype: DataType::Fp32,
            dims: Some(vec![Dim::Dynamic(None)]),
            optional: false,
        };
        let signature = Signature { inputs: vec![spec("x")], outputs: vec![spec("y")] };
        let script = Arc::new(Script::default());
        let compiled = Doubles { signature, script: Arc::clone(&script) };
        Bench {
            deployment: scripted::deployment(Box::new(compiled), batch_axis, Padding::Undeclared, policy),
            pool: Pool::start(threads, || NOW.get()).unwrap(),
            script,
            let_go: Arc::default(),
            home: thread::current().id(),
        }
    }

    /// A model whose runs are known to be quick up to 4 rows, and no further.
    fn quick(batch_axis: BatchAxis, threads: usize, policy: QueuePolicy) -> Bench {
        let bench = Bench::new(batch_axis, threads, policy);
        bench.learn(4, Duration::from_micros(30));
        bench
    }

    fn learn(&self, rows: usize, run: Duration) {
        // Rows larger than any that the tests ask for.
        let inputs = [Some(Tensor::from_slice([rows, 16], &vec![0f32; rows * 16]).unwrap())];
        (0..1_000).for_each(|_| self.deployment.observe(rows, &inputs, run));
        self.deployment.cost.settle();
    }

    fn ask(&self, values: &[f32]) -> Result<Pending> {
        self.ask_for(values, Demand::default(), Box::new(Counted(Arc::clone(&self.let_go))))
    }

    fn ask_for(&self, values: &[f32], demand: Demand, held: Held) -> Result<Pending> {
        let input = Tensor::from_slice([values.len()], values).unwrap();
        self.deployment.enqueue(vec![Some(input)], vec![0], demand, held, &self.pool)
    }

    /// Does `work` on an event loop that may run jobs.
    fn on_a_loop<T>(&self, work: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            turn::install(Arc::clone(&self.pool));
            work.await
        })
    }

    /// Lets the event loop end its turn; so many jobs then wait for workers.
    async fn ends_turn_with(&self, jobs: usize) {
        end_turn().await;
        assert_eq!(self.deployment.queue_len(), jobs);
    }

    /// Does what workers would, in a pool that has none.
    fn work(&self) {
        while lock(&self.deployment.waiting).workers > 0 {
            self.deployment.visit(&self.pool);
        }
    }

    /// Asserts which values ran together, and that all of them did on the event loop's own thread.
    #[track_caller]
    fn assert_ran_here(&self, expected: &[&[f32]]) {
        let expected: Vec<Run> =
            expected.iter().map(|values| Run { thread: self.home, values: values.to_vec() }).collect();
        assert_eq!(self.script.runs(), expected);
    }

    /// Asserts which values ran together, and that a worker ran all of them.
    #[track_caller]
    fn assert_workers_ran(&self, expected: &[&[f32]]) {
        let runs = self.script.runs();
        assert!(runs.iter().all(|run| run.thread != self.home), "{runs:?}");
        assert_eq!(runs.into_iter().map(|run| run.values).collect::<Vec<_>>(), expected);
    }
}

fn policy(runs_max: usize) -> QueuePolicy {
    QueuePolicy { rows_max: 16, runs_max, ..QueuePolicy::default() }
}

fn unproved() -> BatchAxis {
    BatchAxis::Unproved("by the test".into())
}

/// Comes back when the event loop has seen to everything that was ready, twice over.
async fn end_turn() {
    yield_now().await;
    yield_now().await;
}

async fn values(pending: Result<Pending>) -> Result<Vec<f32>> {
    Ok(pending?.await.unwrap()?.outputs[0].to_vec().unwrap())
}

#[test]
fn what_one_turn_brings_is_one_run_on_the_loops_own_thread() {
    let bench = Bench::new(BatchAxis::Proved, 1, policy(1));
    bench.learn(16, Duration::from_micros(10));
    bench.on_a_loop(async {
        let asked: Vec<Pending> = (0..10).map(|i| bench.ask(&[i as f32]).unwrap()).collect();
        assert_eq!(bench.script.runs(), [], "the turn is not over");
        for (i, pending) in asked.into_iter().enumerate() {
            let answer = pending.await.unwrap().unwrap();
            assert_eq!(answer.outputs[0].to_vec::<f32>().unwrap(), [2.0 * i as f32]);
            assert_eq!((answer.rows, answer.batch_rows), (1, 10));
        }
        let alone = bench.ask(&[10.0]).unwrap().await.unwrap().unwrap();
        assert_eq!(alone.outputs[0].to_vec::<f32>().unwrap(), [20.0]);
        assert_eq!(alone.batch_rows, 1);
    });
    bench.assert_ran_here(&[&[0., 1., 2., 3., 4., 5., 6., 7., 8., 9.], &[10.]]);
    assert_eq!(bench.let_go.load(Relaxed), 11);
    assert!(bench.deployment.is_idle());
}

#[test]
fn tasks_that_were_ready_together_share_a_run() {
    let bench = Arc::new(Bench::quick(BatchAxis::Proved, 1, policy(1)));
    bench.on_a_loop(async {
        let ask = |value: f32| {
            let bench = Arc::clone(&bench);
            tokio::spawn(async move { values(bench.ask(&[value])).await.unwrap() })
        };
        let tasks: Vec<_> = [1.0, 2.0, 3.0].map(ask).into();
        for (task, expected) in tasks.into_iter().zip([2.0, 4.0, 6.0]) {
            assert_eq!(task.await.unwrap(), [expected]);
        }
    });
    bench.assert_ran_here(&[&[1., 2., 3.]]);
}

#[test]
fn two_models_of_one_turn_do_not_mix() {
    let one = Bench::quick(BatchAxis::Proved, 0, policy(1));
    let other = Bench { pool: Arc::clone(&one.pool), ..Bench::quick(BatchAxis::Proved, 0, policy(1)) };
    one.on_a_loop(async {
        let asked = [one.ask(&[1.0]), other.ask(&[2.0]), one.ask(&[3.0]), other.ask(&[4.0])];
        for (pending, expected) in asked.into_iter().zip([2.0, 4.0, 6.0, 8.0]) {
            assert_eq!(values(pending).await.unwrap(), [expected]);
        }
    });
    one.assert_ran_here(&[&[1., 3.]]);
    other.assert_ran_here(&[&[2., 4.]]);
}

#[test]
fn workers_run_what_is_slow_or_not_known_to_be_quick() {
    let unknown = Bench::new(unproved(), 1, policy(1));
    let slow = Bench::new(unproved(), 1, policy(1));
    slow.learn(1, QUICK + Duration::from_micros(10));
    for bench in [unknown, slow] {
        bench.on_a_loop(async {
            let asked = [bench.ask(&[1.0]), bench.ask(&[2.0])];
            for (pending, expected) in asked.into_iter().zip([2.0, 4.0]) {
                assert_eq!(values(pending).await.unwrap(), [expected]);
            }
        });
        bench.assert_workers_ran(&[&[1.], &[2.]]);
    }
}

#[test]
fn workers_run_what_shall_wait_for_company() {
    let delay_max = Duration::from_secs(3_600);
    let bench = Bench::quick(BatchAxis::Proved, 1, QueuePolicy { rows_max: 3, delay_max, ..policy(1) });
    bench.on_a_loop(async {
        let asked = [bench.ask(&[1.0]), bench.ask(&[2.0]), bench.ask(&[3.0])];
        for (pending, expected) in asked.into_iter().zip([2.0, 4.0, 6.0]) {
            assert_eq!(values(pending).await.unwrap(), [expected]);
        }
    });
    bench.assert_workers_ran(&[&[1., 2., 3.]]);
}

#[test]
fn threads_without_an_event_loop_leave_quick_runs_to_workers() {
    let bench = Bench::quick(BatchAxis::Proved, 1, policy(1));
    let answer = bench.ask(&[1.0]).unwrap().blocking_recv().unwrap().unwrap();
    assert_eq!(answer.outputs[0].to_vec::<f32>().unwrap(), [2.0]);
    bench.assert_workers_ran(&[&[1.]]);
}

#[test]
fn while_all_sessions_are_leased_requests_wait_for_workers() {
    let bench = Bench::quick(BatchAxis::Proved, 1, policy(1));
    bench.script.close();
    bench.on_a_loop(async {
        // More rows than are known to be quick.
        let first = bench.ask(&[9.0; 5]);
        bench.script.wait_for_runs(1);
        let asked = [bench.ask(&[1.0]), bench.ask(&[2.0]), bench.ask(&[3.0])];
        bench.ends_turn_with(3).await;
        bench.script.open();
        assert_eq!(values(first).await.unwrap(), [18.0; 5]);
        for (pending, expected) in asked.into_iter().zip([2.0, 4.0, 6.0]) {
            assert_eq!(values(pending).await.unwrap(), [expected]);
        }
    });
    bench.assert_workers_ran(&[&[9.; 5], &[1., 2., 3.]]);
}

#[test]
fn who_waits_already_is_not_overtaken() {
    let bench = Bench::quick(unproved(), 0, policy(2));
    bench.on_a_loop(async {
        let first = bench.ask(&[9.0; 5]);
        let asked = [bench.ask(&[1.0]), bench.ask(&[2.0])];
        bench.ends_turn_with(3).await;
        assert_eq!(bench.script.runs(), [], "a session is free, but somebody was there before");
        bench.work();
        assert_eq!(values(first).await.unwrap(), [18.0; 5]);
        for (pending, expected) in asked.into_iter().zip([2.0, 4.0]) {
            assert_eq!(values(pending).await.unwrap(), [expected]);
        }
    });
    // Here the test is the worker.
    bench.assert_ran_here(&[&[9.; 5], &[1.], &[2.]]);
}

#[test]
fn one_requests_fault_is_not_its_neighbours() {
    for (order, kind) in [(REFUSE, ErrorKind::Invalid), (PANIC, ErrorKind::Engine)] {
        let bench = Bench::quick(BatchAxis::Proved, 0, policy(1));
        bench.on_a_loop(async {
            let (good, bad, also_good) = (bench.ask(&[1.0]), bench.ask(&[order, 5.0]), bench.ask(&[3.0]));
            assert_eq!(values(good).await.unwrap(), [2.0]);
            assert_eq!(values(also_good).await.unwrap(), [6.0]);
            assert_eq!(values(bad).await.unwrap_err().kind(), kind, "{order}");
            // The loop goes on.
            assert_eq!(values(bench.ask(&[4.0])).await.unwrap(), [8.0]);
        });
        bench.assert_ran_here(&[&[1., order, 5., 3.], &[1.], &[order, 5.], &[3.], &[4.]]);
        assert!(bench.deployment.is_idle());
    }
}

#[test]
fn a_fault_of_the_server_ends_neither_the_loop_nor_those_who_wait() {
    let bench = Bench::quick(BatchAxis::Proved, 0, policy(1));
    bench.script.close();
    thread::scope(|scope| {
        let beside = scope.spawn(|| {
            bench.script.wait_for_runs(1);
            // Needs no worker yet, for the one session is leased on the loop.
            let pending = bench.ask(&[2.0]);
            bench.script.open();
            pending
        });
        bench.on_a_loop(async {
            let answered = bench.ask_for(&[1.0], Demand::default(), Box::new(Explosive));
            assert_eq!(values(answered).await.unwrap(), [2.0]);
            assert_eq!(lock(&bench.deployment.waiting).workers, 1, "a worker is sent to who waits");
            bench.work();
            assert_eq!(values(beside.join().unwrap()).await.unwrap(), [4.0]);
            assert_eq!(values(bench.ask(&[3.0])).await.unwrap(), [6.0]);
        });
    });
    bench.assert_ran_here(&[&[1.], &[2.], &[3.]]);
}

#[test]
fn the_late_and_the_gone_do_not_run() {
    let bench = Bench::quick(BatchAxis::Proved, 0, policy(1));
    bench.on_a_loop(async {
        let until = |deadline: Moment| Demand { deadline: Some(deadline), ..Demand::default() };
        let now = bench.pool.now();
        let late = bench.ask_for(&[1.0], until(now), Box::new(()));
        drop(bench.ask(&[2.0]).unwrap());
        let in_time = bench.ask_for(&[3.0], until(now + Duration::from_secs(1)), Box::new(()));
        assert_eq!(values(late).await.unwrap_err().kind(), ErrorKind::Deadline);
        assert_eq!(values(in_time).await.unwrap(), [6.0]);
        assert_eq!(bench.let_go.load(Relaxed), 1);
        // A turn of nobody but the gone.
        (4..8).for_each(|i| drop(bench.ask(&[i as f32]).unwrap()));
        end_turn().await;
        assert_eq!(bench.let_go.load(Relaxed), 5);
        assert_eq!(values(bench.ask(&[8.0])).await.unwrap(), [16.0]);
    });
    bench.assert_ran_here(&[&[3.], &[8.]]);
}

#[test]
fn who_becomes_late_while_a_batch_is_put_together_does_not_run() {
    let bench = Bench::new(BatchAxis::Proved, 0, policy(1));
    let until = |nanos| Demand { deadline: Some(Moment::from_nanos(nanos)), ..Demand::default() };
    let asked = [50, 200, 50].map(|nanos| bench.ask_for(&[nanos as f32], until(nanos), Box::new(())));
    let only = bench.ask_for(&[1.0], until(50), Box::new(()));
    let taken = lock(&bench.deployment.waiting).queue.take(Moment::from_nanos(0), &mut Vec::new());
    let Take::Batch(mut first) = taken else { panic!("{taken:?}") };
    let last = first.split_off(3);
    NOW.set(Moment::from_nanos(100));
    for jobs in [first, last] {
        bench.deployment.run_batch(jobs, Moment::from_nanos(0), false, &bench.pool).unwrap();
    }
    let answers = asked.map(|pending| pending.unwrap().blocking_recv().unwrap());
    let kinds = answers.each_ref().map(|answer| answer.as_ref().err().map(Error::kind));
    assert_eq!(kinds, [Some(ErrorKind::Deadline), None, Some(ErrorKind::Deadline)]);
    assert_eq!(only.unwrap().blocking_recv().unwrap().unwrap_err().kind(), ErrorKind::Deadline);
    bench.assert_ran_here(&[&[200.]]);
    assert_eq!(bench.deployment.stats.snapshot().late, 0);
}

#[test]
fn runs_on_the_loop_keep_to_the_rows_that_are_quick() {
    let bench = Bench::quick(BatchAxis::Proved, 0, policy(1));
    bench.on_a_loop(async {
        let asked: Vec<Pending> = (0..10).map(|i| bench.ask(&[i as f32]).unwrap()).collect();
        for (i, pending) in asked.into_iter().enumerate() {
            assert_eq!(values(Ok(pending)).await.unwrap(), [2.0 * i as f32]);
        }
    });
    bench.assert_ran_here(&[&[0., 1., 2., 3.], &[4., 5., 6., 7.], &[8., 9.]]);
}

#[test]
fn a_quick_request_above_the_learned_rows_runs_in_parts() {
    let bench = Bench::quick(BatchAxis::Proved, 0, policy(1));
    bench.deployment.learn_rows(2);
    bench.on_a_loop(async {
        let asked = [bench.ask(&[1.0, 2.0, 3.0]), bench.ask(&[4.0])];
        for (pending, expected) in asked.into_iter().zip([vec![2.0, 4.0, 6.0], vec![8.0]]) {
            assert_eq!(values(pending).await.unwrap(), expected);
        }
    });
    // The rest of a request that was cut goes behind those who came meanwhile.
    bench.assert_ran_here(&[&[1., 2.], &[4., 3.]]);
    assert_eq!(bench.let_go.load(Relaxed), 2);
}

#[test]
fn without_a_batch_axis_each_runs_alone() {
    for axis in [BatchAxis::None, unproved()] {
        let bench = Bench::new(axis, 0, policy(1));
        bench.learn(1, Duration::from_micros(10));
        bench.on_a_loop(async {
            let asked: Vec<Pending> = (0..3).map(|i| bench.ask(&[i as f32]).unwrap()).collect();
            for (i, pending) in asked.into_iter().enumerate() {
                assert_eq!(values(Ok(pending)).await.unwrap(), [2.0 * i as f32]);
            }
        });
        bench.assert_ran_here(&[&[0.], &[1.], &[2.]]);
    }
}

#[test]
fn workers_take_over_where_a_turn_has_had_its_time() {
    assert!(LONG_TIME < turn::TURN_MAX && turn::TURN_MAX < 2 * LONG_TIME);
    let bench = Bench::quick(BatchAxis::None, 0, policy(1));
    bench.on_a_loop(async {
        let asked: Vec<Pending> = (0..5).map(|i| bench.ask(&[LONG, i as f32]).unwrap()).collect();
        bench.ends_turn_with(3).await;
        bench.assert_ran_here(&[&[LONG, 0.], &[LONG, 1.]]);
        bench.work();
        for (i, pending) in asked.into_iter().enumerate() {
            assert_eq!(values(Ok(pending)).await.unwrap(), [2.0 * LONG, 2.0 * i as f32]);
        }
    });
    bench.assert_ran_here(&[&[LONG, 0.], &[LONG, 1.], &[LONG, 2.], &[LONG, 3.], &[LONG, 4.]]);
    assert_eq!(bench.let_go.load(Relaxed), 5);
}

#[test]
fn what_the_queue_has_no_room_for_is_answered() {
    let bench = Bench::quick(unproved(), 0, QueuePolicy { jobs_max: 3, ..policy(1) });
    bench.on_a_loop(async {
        let first = bench.ask(&[9.0; 5]);
        let asked: Vec<Pending> = (0..5).map(|i| bench.ask(&[i as f32]).unwrap()).collect();
        bench.ends_turn_with(3).await;
        assert_eq!(bench.let_go.load(Relaxed), 3, "the refused hold nothing any more");
        bench.work();
        assert_eq!(values(first).await.unwrap(), [18.0; 5]);
        for (i, pending) in asked.into_iter().enumerate() {
            let answer = values(Ok(pending)).await;
            if i < 2 {
                assert_eq!(answer.unwrap(), [2.0 * i as f32]);
                continue;
            }
            let refused = answer.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Overloaded);
            assert!(refused.wait().is_some());
        }
    });
}

#[test]
fn a_draining_deployment_refuses_quick_requests_too() {
    let bench = Bench::quick(BatchAxis::Proved, 0, policy(1));
    bench.on_a_loop(async {
        assert_eq!(values(bench.ask(&[1.0])).await.unwrap(), [2.0]);
        bench.deployment.drain();
        assert_eq!(values(bench.ask(&[2.0])).await.unwrap_err().kind(), ErrorKind::NotReady);
    });
    bench.assert_ran_here(&[&[1.]]);
}

#[derive(Clone, Debug)]
struct Ask {
    rows: usize,
    start: u16,
    priority: u32,
    fate: Fate,
    /// The loop turns after it.
    ends_turn: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Answered,
    Refused,
    Gone,
}

impl Ask {
    fn values(&self) -> Vec<f32> {
        let mut values: Vec<f32> = (0..self.rows).map(|row| f32::from(self.start) + row as f32).collect();
        if self.fate == Fate::Refused {
            values[self.rows / 2] = REFUSE;
        }
        values
    }
}

fn ask() -> impl Strategy<Value = Ask> {
    let fate = prop_oneof![6 => Just(Fate::Answered), 1 => Just(Fate::Refused), 1 => Just(Fate::Gone)];
    (1..7usize, any::<u16>(), 0..3u32, fate, any::<bool>()).prop_map(|(rows, start, priority, fate, ends_turn)| Ask {
        rows,
        start,
        priority,
        fate,
        ends_turn,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// The loop may run up to 4 rows; larger requests, and those that find them waiting, are the two workers'.
    #[test]
    fn each_is_answered_once_and_rightly_wherever_it_runs(asks in prop::collection::vec(ask(), 1..40)) {
        let levels = vec![Level::default(); 2];
        let bench = Bench::quick(BatchAxis::Proved, 2, QueuePolicy { rows_max: 4, levels, ..policy(2) });
        bench.on_a_loop(async {
            let mut asked = Vec::new();
            for ask in &asks {
                let demand = Demand { priority: ask.priority, ..Demand::default() };
                let held = Box::new(Counted(Arc::clone(&bench.let_go)));
                let pending = bench.ask_for(&ask.values(), demand, held).unwrap();
                match ask.fate {
                    Fate::Gone => drop(pending),
                    Fate::Answered | Fate::Refused => asked.push((ask, pending)),
                }
                if ask.ends_turn {
                    yield_now().await;
                }
            }
            for (ask, pending) in asked {
                match values(Ok(pending)).await {
                    Ok(answer) => assert_eq!(answer, doubled(&ask.values())),
                    Err(error) => assert_eq!((error.kind(), ask.fate), (ErrorKind::Invalid, Fate::Refused)),
                }
            }
            // Those who have gone leave when the queue comes to them.
            while bench.let_go.load(Relaxed) < asks.len() || !bench.deployment.is_idle() {
                yield_now().await;
            }
        });
        prop_assert_eq!(bench.let_go.load(Relaxed), asks.len());
    }
}

#[test]
fn rows_larger_than_those_known_to_be_quick_are_left_to_workers() {
    let bench = Bench::quick(BatchAxis::None, 0, policy(1));
    bench.on_a_loop(async {
        // Without a batch axis each request is one row, however long it is: of 64 bytes at most, as far as is known.
        let small = bench.ask(&[1.0; 16]).unwrap();
        bench.ends_turn_with(0).await;
        assert_eq!(values(Ok(small)).await.unwrap(), [2.0; 16]);
        let large = bench.ask(&[2.0; 17]).unwrap();
        bench.ends_turn_with(1).await;
        bench.work();
        assert_eq!(values(Ok(large)).await.unwrap(), [4.0; 17]);
    });
}
