//! Is every job answered once, and no wake-up lost, however the threads interleave? The real queue, pool, sessions and
//! replies, under a scheduler that tries many orders; a wake-up that is lost is a client that asks in vain until the
//! scheduler has had enough.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use shuttle::thread;
use tiltyard_types::{DataType, Dim, ErrorKind, TensorSpec};

use super::*;
use crate::engine::Session;

/// Orders tried of each scene.
const ORDERS: usize = 20_000;

/// A value that no run with it survives.
const REFUSE: f32 = -2.0;

/// Doubles rows, and gives way while it does.
struct Doubles(Signature);

impl CompiledModel for Doubles {
    fn signature(&self) -> &Signature {
        &self.0
    }

    fn provider(&self) -> &str {
        "cpu"
    }

    fn open(&self) -> Result<Box<dyn Session>, EngineError> {
        Ok(Box::new(Doubles(self.0.clone())))
    }
}

impl Session for Doubles {
    fn run(&mut self, inputs: &[Option<Tensor>], _: &[usize]) -> Result<Vec<Tensor>, EngineError> {
        thread::yield_now();
        let values = inputs[0].as_ref().unwrap().to_vec::<f32>().unwrap();
        if values.contains(&REFUSE) {
            return Err(EngineError::BadInput("as ordered".into()));
        }
        let doubled: Vec<f32> = values.iter().map(|value| value * 2.0).collect();
        Ok(vec![Tensor::from_slice([doubled.len()], &doubled).unwrap()])
    }
}

/// Counts how often it is let go.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_add(1, Relaxed);
    }
}

#[derive(Clone)]
struct Scene {
    deployment: Arc<Deployment>,
    pool: Arc<Pool>,
    let_go: Arc<AtomicUsize>,
}

fn scene(threads: usize, runs_max: usize, rows_max: usize) -> Scene {
    let spec = |name: &str| TensorSpec {
        name: name.into(),
        dtype: DataType::Fp32,
        dims: Some(vec![Dim::Dynamic(None)]),
        optional: false,
    };
    let compiled = Doubles(Signature { inputs: vec![spec("x")], outputs: vec![spec("y")] });
    let policy = QueuePolicy { rows_max, runs_max, jobs_max: 3, ..QueuePolicy::default() };
    let deployment = scripted::deployment(Box::new(compiled), BatchAxis::Proved, Padding::Undeclared, policy);
    let pool = Pool::start(threads, || Moment::from_nanos(0)).unwrap();
    Scene { deployment, pool, let_go: Arc::default() }
}

impl Scene {
    fn ask(&self, values: &[f32]) -> Result<Pending> {
        let x = Tensor::from_slice([values.len()], values).unwrap();
        let held = Box::new(Counted(Arc::clone(&self.let_go)));
        self.deployment.enqueue(vec![Some(x)], vec![0], Demand::default(), held, &self.pool)
    }

    /// Asks and waits. A full or draining queue is an answer too.
    fn answered(&self, values: &[f32]) -> Result<Vec<f32>> {
        Self::wait(self.ask(values)?)
    }

    /// Does what an event loop does at the end of a turn that brought these requests, and waits for the answers.
    fn answered_here(&self, requests: &[&[f32]]) -> Vec<Result<Vec<f32>>> {
        let (jobs, answers): (Vec<Job>, Vec<Pending>) = requests.iter().map(|values| self.job(values)).unzip();
        self.deployment.run_here(jobs, Moment::from_nanos(1), &self.pool);
        answers.into_iter().map(Self::wait).collect()
    }

    fn job(&self, values: &[f32]) -> (Job, Pending) {
        let (reply, pending) = Reply::new();
        let job = Job {
            inputs: vec![Some(Tensor::from_slice([values.len()], values).unwrap())],
            wanted: vec![0],
            rows: values.len(),
            rows_gone: 0,
            layout: self.deployment.layout.clone(),
            length: None,
            demand: Demand::default(),
            enqueued: self.pool.now(),
            reply,
            held: Box::new(Counted(Arc::clone(&self.let_go))),
        };
        (job, pending)
    }

    fn wait(mut pending: Pending) -> Result<Vec<f32>> {
        loop {
            match pending.try_recv() {
                Ok(answer) => return Ok(answer?.outputs[0].to_vec().unwrap()),
                Err(tokio::sync::oneshot::error::TryRecvError::Empty) => thread::yield_now(),
                Err(closed) => panic!("a job went without an answer: {closed}"),
            }
        }
    }

    /// Checks that all has ended: nothing waits or runs, and what the jobs held was let go.
    fn end(self, jobs: usize) {
        while !self.deployment.is_idle() || lock(&self.deployment.waiting).workers > 0 {
            thread::yield_now();
        }
        while self.let_go.load(Relaxed) < jobs {
            thread::yield_now();
        }
        assert_eq!(self.let_go.load(Relaxed), jobs);
    }
}

fn doubled(values: &[f32]) -> Vec<f32> {
    values.iter().map(|value| value * 2.0).collect()
}

/// The next request comes just as the worker finds nothing to do: the moment at which a wake-up is lost most easily.
#[test]
fn a_client_that_asks_again_at_once_is_answered() {
    shuttle::check_random(
        || {
            let scene = scene(1, 1, 2);
            for number in 0..3 {
                assert_eq!(scene.answered(&[number as f32]).unwrap(), [number as f32 * 2.0]);
            }
            scene.end(3);
        },
        ORDERS,
    );
}

#[test]
fn each_of_several_clients_gets_its_own_answer() {
    shuttle::check_random(
        || {
            let scene = scene(2, 2, 2);
            let clients: Vec<_> = [vec![1.0], vec![2.0, 3.0], vec![4.0]]
                .into_iter()
                .map(|values| {
                    let scene = scene.clone();
                    thread::spawn(move || {
                        for _ in 0..2 {
                            assert_eq!(scene.answered(&values).unwrap(), doubled(&values));
                        }
                    })
                })
                .collect();
            clients.into_iter().for_each(|client| client.join().unwrap());
            scene.end(6);
        },
        ORDERS,
    );
}

#[test]
fn a_request_in_parts_is_answered_once_beside_others() {
    shuttle::check_random(
        || {
            let scene = scene(2, 2, 2);
            let large = scene.clone();
            let large = thread::spawn(move || {
                let values = [1.0, 2.0, 3.0, 4.0, 5.0];
                assert_eq!(large.answered(&values).unwrap(), doubled(&values));
            });
            assert_eq!(scene.answered(&[9.0]).unwrap(), [18.0]);
            large.join().unwrap();
            scene.end(2);
        },
        ORDERS,
    );
}

#[test]
fn a_part_that_fails_and_a_client_that_goes_leave_nothing_behind() {
    shuttle::check_random(
        || {
            let scene = scene(2, 2, 2);
            let (failing, leaving) = (scene.clone(), scene.clone());
            let failing = thread::spawn(move || {
                let answer = failing.answered(&[1.0, 2.0, REFUSE, 4.0, 5.0]);
                assert_eq!(answer.unwrap_err().kind(), ErrorKind::Invalid);
            });
            let leaving = thread::spawn(move || drop(leaving.ask(&[1.0, 2.0, 3.0]).unwrap()));
            assert_eq!(scene.answered(&[9.0]).unwrap(), [18.0]);
            failing.join().unwrap();
            leaving.join().unwrap();
            scene.end(3);
        },
        ORDERS,
    );
}

#[test]
fn a_draining_queue_answers_all_it_took_in() {
    shuttle::check_random(
        || {
            let scene = scene(1, 1, 2);
            let clients: Vec<_> = (0..2)
                .map(|number| {
                    let scene = scene.clone();
                    thread::spawn(move || match scene.answered(&[number as f32]) {
                        Ok(values) => assert_eq!(values, [number as f32 * 2.0]),
                        Err(error) => assert_eq!(error.kind(), ErrorKind::NotReady),
                    })
                })
                .collect();
            scene.deployment.drain();
            clients.into_iter().for_each(|client| client.join().unwrap());
            scene.end(2);
        },
        ORDERS,
    );
}

#[test]
fn more_clients_than_the_queue_takes_are_answered_or_refused() {
    shuttle::check_random(
        || {
            let scene = scene(1, 1, 1);
            let clients: Vec<_> = (0..5)
                .map(|number| {
                    let scene = scene.clone();
                    thread::spawn(move || match scene.answered(&[number as f32]) {
                        Ok(values) => assert_eq!(values, [number as f32 * 2.0]),
                        Err(error) => assert_eq!(error.kind(), ErrorKind::Overloaded),
                    })
                })
                .collect();
            clients.into_iter().for_each(|client| client.join().unwrap());
            scene.end(5);
        },
        ORDERS,
    );
}

#[test]
fn runs_on_an_event_loop_and_those_of_workers_answer_all() {
    shuttle::check_random(
        || {
            let scene = scene(1, 1, 2);
            let event_loop = scene.clone();
            // The queue takes three jobs, and what the loop leaves to the workers may be one too many.
            let event_loop = thread::spawn(move || {
                for _ in 0..2 {
                    let answers = event_loop.answered_here(&[&[1.0], &[REFUSE], &[3.0, 4.0]]);
                    let expected = [Ok(vec![2.0]), Err(ErrorKind::Invalid), Ok(vec![6.0, 8.0])];
                    for (answer, expected) in answers.into_iter().zip(expected) {
                        let answer = answer.map_err(|error| error.kind());
                        assert!(answer == expected || answer == Err(ErrorKind::Overloaded), "{answer:?}");
                    }
                }
            });
            for _ in 0..2 {
                match scene.answered(&[9.0]) {
                    Ok(values) => assert_eq!(values, [18.0]),
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Overloaded),
                }
            }
            event_loop.join().unwrap();
            scene.end(8);
        },
        ORDERS,
    );
}

#[test]
fn an_event_loop_that_meets_a_drain_answers_all() {
    shuttle::check_random(
        || {
            let scene = scene(1, 1, 2);
            let event_loop = scene.clone();
            let event_loop = thread::spawn(move || event_loop.answered_here(&[&[1.0], &[2.0], &[3.0]]));
            scene.deployment.drain();
            for (answer, expected) in event_loop.join().unwrap().into_iter().zip([2.0, 4.0, 6.0]) {
                match answer {
                    Ok(values) => assert_eq!(values, [expected]),
                    Err(error) => assert_eq!(error.kind(), ErrorKind::NotReady),
                }
            }
            scene.end(3);
        },
        ORDERS,
    );
}

/// A run is given up at the very moment at which it comes back: its worker counts as lost once or not at all, and never as
/// found before it was lost.
#[test]
fn a_run_that_comes_back_while_it_is_given_up_loses_no_worker() {
    shuttle::check_random(
        || {
            let scene = scene(1, 2, 1);
            let (guard, looker) = (scene.clone(), scene.clone());
            let guard = thread::spawn(move || {
                thread::yield_now();
                // Every run takes too long, whatever the clock says.
                guard.deployment.give_up_runs(|_| true, guard.pool.now(), &guard.pool).len()
            });
            let looker = thread::spawn(move || {
                for _ in 0..4 {
                    assert!(looker.pool.lost() <= 1, "{} workers are lost of 1", looker.pool.lost());
                    thread::yield_now();
                }
            });
            let answered = scene.answered(&[1.0]);
            let given_up = guard.join().unwrap();
            assert_eq!(
                answered.map_err(|error| error.kind()),
                if given_up > 0 { Err(ErrorKind::Engine) } else { Ok(vec![2.0]) }
            );
            looker.join().unwrap();
            while scene.pool.lost() > 0 || scene.deployment.lost_runs() != (0, 0) {
                thread::yield_now();
            }
            assert_eq!(scene.answered(&[3.0]).unwrap(), [6.0]);
            scene.end(2);
        },
        ORDERS,
    );
}
