//! Is a batched answer to the bit what it would be alone, whatever the shapes, sizes and order of arrival? One thread
//! drives everything, at moments that the test chooses.

use std::cell::{Cell, RefCell};

use proptest::prelude::*;
use tiltyard_types::{DataType, Dim, ErrorKind, TensorSpec};

use super::*;
use crate::batch::PadDeclaration;
use crate::engine::Session;
use crate::job::Answer;
use crate::queue::{Level, PadPolicy};

/// A value that no run with it survives.
const REFUSE: f32 = -2.0;

thread_local! {
    static NOW_MS: Cell<u64> = const { Cell::new(0) };
    /// Rows and length of each run.
    static RUNS: RefCell<Vec<(usize, usize)>> = const { RefCell::new(Vec::new()) };
}

fn clock() -> Moment {
    Moment::from_nanos(NOW_MS.get() * 1_000_000)
}

/// y = x · factor for each element, and the sum of each row. The factor has no rows.
struct RowWise(Signature);

fn spec(name: &str, dims: &[&str]) -> TensorSpec {
    let dims = dims.iter().map(|dim| Dim::Dynamic(Some((*dim).into()))).collect();
    TensorSpec { name: name.into(), dtype: DataType::Fp32, dims: Some(dims), optional: false }
}

fn signature() -> Signature {
    Signature {
        inputs: vec![spec("x", &["batch", "length"]), spec("factor", &[])],
        outputs: vec![spec("y", &["batch", "length"]), spec("sum", &["batch"])],
    }
}

impl CompiledModel for RowWise {
    fn signature(&self) -> &Signature {
        &self.0
    }

    fn provider(&self) -> &str {
        "cpu"
    }

    fn open(&self) -> Result<Box<dyn Session>, EngineError> {
        Ok(Box::new(RowWise(self.0.clone())))
    }
}

impl Session for RowWise {
    fn run(&mut self, inputs: &[Option<Tensor>], wanted: &[usize]) -> Result<Vec<Tensor>, EngineError> {
        let (x, factor) = (inputs[0].as_ref().unwrap(), inputs[1].as_ref().unwrap());
        let (rows, length) = (x.shape()[0], x.shape()[1]);
        RUNS.with_borrow_mut(|runs| runs.push((rows, length)));
        let values = x.as_slice::<f32>().expect("gathered into aligned memory");
        if values.contains(&REFUSE) {
            return Err(EngineError::BadInput("as ordered".into()));
        }
        let factor = factor.as_slice::<f32>().unwrap()[0];
        let y: Vec<f32> = values.iter().map(|value| value * factor).collect();
        let sums: Vec<f32> =
            (0..rows).map(|row| y[row * length..][..length].iter().fold(0.0, |sum, value| sum + value)).collect();
        let outputs = [Tensor::from_slice([rows, length], &y).unwrap(), Tensor::from_slice([rows], &sums).unwrap()];
        Ok(wanted.iter().map(|&position| outputs[position].clone()).collect())
    }
}

struct Bench {
    deployment: Arc<Deployment>,
    pool: Arc<Pool>,
}

impl Bench {
    fn new(policy: QueuePolicy) -> Bench {
        NOW_MS.set(0);
        RUNS.take();
        let declared = PadDeclaration { axis: "length".into(), values: [].into(), lengths: vec![], waste_max: None };
        let padding = match policy.pad {
            Some(_) => Padding::Proved(Pad::new(&signature(), &declared).unwrap()),
            None => Padding::Undeclared,
        };
        let deployment = scripted::deployment(Box::new(RowWise(signature())), BatchAxis::Proved, padding, policy);
        // Without workers: the test does their work.
        Bench { deployment, pool: Pool::start(0, clock).unwrap() }
    }

    fn ask(&self, x: Tensor, factor: f32, demand: Demand, held: Held) -> Result<Pending> {
        let inputs = vec![Some(x), Some(Tensor::from_slice([], &[factor]).unwrap())];
        self.deployment.enqueue(inputs, vec![1, 0], demand, held, &self.pool)
    }

    fn ask_rows(&self, rows: usize, start: f32) -> Pending {
        self.ask(numbers(rows, 2, start), 3.0, Demand::default(), Box::new(())).unwrap()
    }

    /// Does all the work there is. Whoever waits for company is woken in time.
    fn work(&self) {
        while lock(&self.deployment.waiting).workers > 0 {
            if let Visit::LeftUntil(until) = self.deployment.visit(&self.pool) {
                NOW_MS.set(until.as_nanos().div_ceil(1_000_000));
                self.deployment.wake(&self.pool);
            }
        }
    }
}

fn numbers(rows: usize, length: usize, start: f32) -> Tensor {
    let values: Vec<f32> = (0..rows * length).map(|at| start + at as f32 * 0.1).collect();
    Tensor::from_slice([rows, length], &values).unwrap()
}

/// What the model alone answers: sum and y.
fn alone(x: &Tensor, factor: f32) -> Vec<Tensor> {
    let factor = Tensor::from_slice([], &[factor]).unwrap();
    RowWise(signature()).run(&[Some(x.clone()), Some(factor)], &[1, 0]).unwrap()
}

fn answer(pending: &mut Pending) -> Result<Answer> {
    pending.try_recv().expect("it is answered")
}

#[test]
fn rows_without_data_are_no_more_than_a_batch_holds() {
    let bench = Bench::new(QueuePolicy { rows_max: 4, ..QueuePolicy::default() });
    let ask = |rows: usize| {
        let x = Tensor::from_slice::<f32>([rows, 0], &[]).unwrap();
        bench.ask(x, 3.0, Demand::default(), Box::new(()))
    };
    let refused = ask(1 << 40).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    let expected = "\"x\" has 1099511627776 rows without a single element, expected at most 4 of such rows";
    assert!(refused.message().starts_with(expected), "{refused}");
    assert!(ask(5).is_err());
    assert!(bench.deployment.is_idle(), "nothing waits");
    let mut pending = ask(4).unwrap();
    bench.work();
    assert_eq!(answer(&mut pending).unwrap().outputs[0].to_vec::<f32>().unwrap(), [0.0; 4]);
}

#[test]
fn a_large_request_runs_in_parts_and_is_answered_as_one() {
    let bench = Bench::new(QueuePolicy { rows_max: 4, ..QueuePolicy::default() });
    let held = Arc::new(());
    let x = numbers(10, 2, 0.0);
    let mut pending = bench.ask(x.clone(), 3.0, Demand::default(), Box::new(Arc::clone(&held))).unwrap();
    assert!(matches!(bench.deployment.visit(&bench.pool), Visit::Ran));
    assert!(pending.try_recv().is_err(), "not before all of it is there");
    assert_eq!(Arc::strong_count(&held), 2);
    bench.work();
    assert_eq!(RUNS.take(), [(4, 2), (4, 2), (2, 2)]);
    let answer = answer(&mut pending).unwrap();
    assert_eq!((answer.outputs, answer.rows, answer.batch_rows), (alone(&x, 3.0), 10, 4));
    assert_eq!(Arc::strong_count(&held), 1);
    assert!(bench.deployment.is_idle());
}

#[test]
fn one_failed_part_fails_the_request_and_the_rest_never_runs() {
    let bench = Bench::new(QueuePolicy { rows_max: 4, ..QueuePolicy::default() });
    let mut values = numbers(10, 2, 0.0).to_vec::<f32>().unwrap();
    values[9] = REFUSE;
    let held = Arc::new(());
    let x = Tensor::from_slice([10, 2], &values).unwrap();
    let mut pending = bench.ask(x, 3.0, Demand::default(), Box::new(Arc::clone(&held))).unwrap();
    bench.work();
    assert_eq!(RUNS.take().len(), 2);
    assert_eq!(answer(&mut pending).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(Arc::strong_count(&held), 1);
}

#[test]
fn a_client_that_goes_takes_all_parts_along() {
    let bench = Bench::new(QueuePolicy { rows_max: 4, ..QueuePolicy::default() });
    let pending = bench.ask_rows(10, 0.0);
    bench.deployment.visit(&bench.pool);
    drop(pending);
    bench.work();
    assert_eq!(RUNS.take().len(), 1);
    assert!(bench.deployment.is_idle());
}

#[test]
fn a_deadline_counts_for_all_parts() {
    let bench = Bench::new(QueuePolicy { rows_max: 4, ..QueuePolicy::default() });
    let demand = Demand { deadline: Some(Moment::from_nanos(2_000_000)), ..Demand::default() };
    let mut pending = bench.ask(numbers(10, 2, 0.0), 3.0, demand, Box::new(())).unwrap();
    bench.deployment.visit(&bench.pool);
    NOW_MS.set(2);
    bench.work();
    assert_eq!(RUNS.take().len(), 1);
    assert_eq!(answer(&mut pending).unwrap_err().kind(), ErrorKind::Deadline);
}

#[test]
fn answers_are_slices_of_the_runs_own_output() {
    let bench = Bench::new(QueuePolicy { sizes: vec![4], ..QueuePolicy::default() });
    let (mut one, mut two) = (bench.ask_rows(1, 0.0), bench.ask_rows(2, 1.0));
    bench.work();
    let (one, two) = (answer(&mut one).unwrap(), answer(&mut two).unwrap());
    let address = |answer: &Answer| answer.outputs[1].bytes().unwrap().as_ptr().addr();
    assert_eq!(address(&two) - address(&one), 8, "one row of two numbers lies between them");
    assert_eq!(RUNS.take(), [(4, 2)]);
    assert_eq!((one.batch_rows, two.rows), (3, 2));
}

#[test]
fn only_those_who_agree_about_what_has_no_rows_share_a_run() {
    let bench = Bench::new(QueuePolicy::default());
    let ask = |factor| bench.ask(numbers(1, 2, 0.0), factor, Demand::default(), Box::new(())).unwrap();
    let mut pending: Vec<Pending> = [3.0, 5.0, 3.0, 5.0, f32::NAN, f32::NAN].map(ask).into();
    bench.work();
    assert_eq!(RUNS.take(), [(2, 2), (2, 2), (2, 2)]);
    let second = answer(&mut pending[1]).unwrap();
    assert_eq!(second.outputs, alone(&numbers(1, 2, 0.0), 5.0));
}

#[test]
fn the_urgent_run_first() {
    let levels = vec![Level::default(); 2];
    let bench = Bench::new(QueuePolicy { rows_max: 1, levels, level_default: 2, ..QueuePolicy::default() });
    let mut pending: Vec<Pending> = [(1, 0), (2, 1), (3, 0), (4, 1)]
        .map(|(length, priority)| {
            let demand = Demand { priority, ..Demand::default() };
            bench.ask(numbers(1, length, 0.0), 3.0, demand, Box::new(())).unwrap()
        })
        .into();
    bench.work();
    assert_eq!(RUNS.take(), [(1, 2), (1, 4), (1, 1), (1, 3)]);
    pending.iter_mut().for_each(|pending| drop(answer(pending).unwrap()));
}

#[test]
fn who_waits_longer_than_the_queue_allows_is_told_so() {
    let levels = vec![Level { wait_max: Some(Duration::from_millis(5)), ..Level::default() }];
    let bench = Bench::new(QueuePolicy { levels, ..QueuePolicy::default() });
    let mut pending = bench.ask_rows(1, 0.0);
    NOW_MS.set(5);
    bench.work();
    let error = answer(&mut pending).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Deadline);
    assert!(error.message().contains("queue allows"), "{error}");
    assert!(RUNS.take().is_empty());
}

/// A request, or a moment at which a worker comes by.
#[derive(Clone, Debug)]
enum Step {
    Ask { rows: usize, length: usize, factor: f32, priority: u32, refused: bool, gone: bool },
    Visit,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let ask = (1usize..9, 0usize..7, 0u8..3, 0u32..4, 0u8..20).prop_map(|(rows, length, factor, priority, kind)| {
        // A padded sum is the same to the bit only where a zero added is: the factors keep zeros.
        Step::Ask { rows, length, factor: f32::from(factor), priority, refused: kind == 0, gone: kind == 1 }
    });
    prop::collection::vec(prop_oneof![3 => ask, 1 => Just(Step::Visit)], 1..40)
}

fn policies() -> impl Strategy<Value = QueuePolicy> {
    let sizes = prop::sample::subsequence(vec![1usize, 2, 3, 4, 6, 8], 0..4);
    let pad = prop::option::of((prop::sample::subsequence(vec![2usize, 4, 8], 0..3), 0f64..2.0));
    (1usize..9, sizes, pad, 1usize..4, 0u64..3, 0usize..6).prop_map(
        |(rows_max, sizes, pad, runs_max, delay, look_max)| QueuePolicy {
            rows_max,
            sizes,
            delay_max: Duration::from_millis(delay),
            runs_max,
            levels: vec![Level::default(); 3],
            look_max,
            pad: pad.map(|(lengths, waste_max)| PadPolicy { lengths, waste_max }),
            ..QueuePolicy::default()
        },
    )
}

proptest! {
    #[test]
    fn batched_answers_are_single_ones_to_the_bit(policy in policies(), steps in steps()) {
        let bench = Bench::new(policy.clone());
        let held = Arc::new(());
        let mut asked = Vec::new();
        for (number, step) in steps.iter().enumerate() {
            match *step {
                Step::Ask { rows, length, factor, priority, refused, gone } => {
                    let mut values = numbers(rows, length, 1.0 + number as f32).to_vec::<f32>().unwrap();
                    if let (true, Some(last)) = (refused, values.last_mut()) {
                        *last = REFUSE;
                    }
                    let x = Tensor::from_slice([rows, length], &values).unwrap();
                    let demand = Demand { priority, bytes: x.size(), ..Demand::default() };
                    let pending = bench.ask(x.clone(), factor, demand, Box::new(Arc::clone(&held)));
                    if length == 0 && rows > policy.rows_max {
                        prop_assert!(pending.is_err());
                        continue;
                    }
                    let pending = pending.unwrap();
                    if !gone {
                        asked.push((pending, x, factor, refused && length > 0));
                    }
                }
                Step::Visit => {
                    if lock(&bench.deployment.waiting).workers > 0
                        && let Visit::LeftUntil(_) = bench.deployment.visit(&bench.pool)
                    {
                        bench.deployment.wake(&bench.pool);
                    }
                }
            }
        }
        bench.work();
        prop_assert!(bench.deployment.is_idle());
        prop_assert_eq!(Arc::strong_count(&held), 1);
        for (rows, length) in RUNS.take() {
            let sizes_hold = rows <= policy.rows_limit() || policy.padded_rows(policy.rows_limit()) == rows;
            prop_assert!(sizes_hold, "{} rows ran", rows);
            prop_assert!(policy.sizes.is_empty() || policy.padded_rows(rows) == rows);
            prop_assert!(length == 0 || policy.padded_length(length) == length);
        }
        for (mut pending, x, factor, refused) in asked {
            match answer(&mut pending) {
                Ok(answer) => {
                    prop_assert!(!refused);
                    prop_assert_eq!(answer.outputs, alone(&x, factor));
                    prop_assert_eq!(answer.rows, x.shape()[0]);
                }
                Err(error) => prop_assert!(refused, "{}", error),
            }
        }
    }
}
